//! How long things may take on a connection: by a thread of its own, and by one that others wait for.

use std::time::Duration;

/// How a connection is served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// How long a head may take: from its first byte on, or from the beginning where the thread is lent.
    pub(super) head: Duration,
    /// How long a body may take.
    pub(super) body: Duration,
    /// How long a client may take to read what is written at once, a piece of an answer at most.
    pub(super) write: Duration,
    /// How long what a client still sends is read after its last answer.
    pub(super) linger: Duration,
    /// The thread is one of few that serve everybody, and serves one request.
    pub(super) is_lent: bool,
}

impl Terms {
    /// By a thread of its own.
    pub(super) const OWN: Self = Self {
        head: Duration::from_secs(10),
        body: Duration::from_secs(30),
        write: Duration::from_secs(15),
        linger: Duration::from_millis(500),
        is_lent: false,
    };
    /// By one of the reserve: others wait for it.
    pub(super) const LENT: Self = Self {
        head: Duration::from_secs(1),
        body: Duration::from_secs(2),
        write: Duration::from_secs(2),
        linger: Duration::from_millis(50),
        is_lent: true,
    };
}
