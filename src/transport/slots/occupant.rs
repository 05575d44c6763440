//! The open connections: what each of them does and holds, and how one is made to give way.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::io::ioctl_fionread;
use rustix::net::Shutdown;

use crate::lock::lock;
use crate::transport::limits::Peer;
use crate::transport::listener::Stream;

/// An open connection as others see it.
pub(super) struct Occupant {
    pub(super) stream: Arc<Stream>,
    pub(super) peer: Peer,
    pub(super) activity: Arc<Activity>,
}

/// What a connection does, and what it holds.
pub(super) struct Activity {
    pub(super) doing: Mutex<Doing>,
    /// Its latest request came from an operator.
    pub(super) is_operator: AtomicBool,
    /// How long the body is that is read or answered, in bytes.
    pub(super) body_bytes: AtomicUsize,
    /// The next answer that begins is its last, because others wait for a slot.
    pub(super) is_at_last_answer: AtomicBool,
}

/// What a connection does, and since when, where that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// It waits for its client to ask.
    Waits(Instant),
    /// Its request is being answered.
    Works,
    /// It waits for its client to take an answer.
    Writes(Instant),
    /// It gave way while it waited, and its thread has not noticed yet: no more comes in. What had come is answered.
    GivesWay,
    /// It gave way while its client took no answer: nothing goes out any more.
    Leaves,
    /// Its request waits, for news or for its turn, and can be answered at any time with the unchanged state or a refusal.
    Idles(Instant),
    /// It sends an answer without an end since then, and waits for more to send.
    Follows(Instant),
    /// It waits for memory for a body, or discards what follows its last answer. It gives way even if more has come from its client.
    Yields(Instant),
}

impl Doing {
    pub(super) fn gives_way(self) -> bool {
        matches!(self, Self::GivesWay | Self::Leaves)
    }
}

impl Activity {
    pub(super) fn is_operator(&self) -> bool {
        self.is_operator.load(Ordering::Relaxed)
    }

    pub(super) fn doing(&self) -> Doing {
        *lock(&self.doing)
    }

    pub(super) fn is_at_last_answer(&self) -> bool {
        self.is_at_last_answer.load(Ordering::Relaxed)
    }

    /// What it did before. One that has given way stays so, with the exception of one that [`Doing::GivesWay`] and begins to work.
    pub(super) fn set(&self, new: Doing) -> Doing {
        let mut doing = lock(&self.doing);
        let before = *doing;
        let stays = match before {
            Doing::Waits(_) | Doing::Works | Doing::Writes(_) | Doing::Idles(_) | Doing::Follows(_) | Doing::Yields(_) => false,
            Doing::GivesWay => new != Doing::Works,
            Doing::Leaves => true,
        };
        if !stays {
            *doing = new;
        }
        before
    }
}

impl Occupant {
    /// Its client has left, and its thread has nothing else to do than to notice that.
    pub(super) fn ends(&self) -> bool {
        matches!(self.activity.doing(), Doing::Waits(_) | Doing::Yields(_)) && self.stream.is_left()
    }

    /// Bytes from its client wait to be read.
    pub(super) fn has_unread(&self) -> bool {
        ioctl_fionread(&*self.stream).is_ok_and(|bytes| bytes > 0)
    }

    /// Ends the connection, if it still does what was `seen`. Its thread wakes up from reading or writing and ends; one that
    /// waits for something else must be woken ([`Slots::has_hurried`](super::Slots::has_hurried)).
    pub(super) fn give_way(&self, seen: Doing, is_hurried: &AtomicBool) {
        // What came since it was looked at, or was read already, is answered.
        let (new, how) = match seen {
            Doing::Waits(_) | Doing::Idles(_) | Doing::Follows(_) | Doing::Yields(_) => (Doing::GivesWay, Shutdown::Read),
            Doing::Works | Doing::Writes(_) | Doing::GivesWay | Doing::Leaves => (Doing::Leaves, Shutdown::Both),
        };
        let mut doing = lock(&self.activity.doing);
        if *doing != seen {
            return;
        }
        *doing = new;
        drop(doing);
        // If the client has closed the connection meanwhile, nothing is left to do.
        let _closed = rustix::net::shutdown(&self.stream, how);
        if matches!(seen, Doing::Idles(_) | Doing::Follows(_)) {
            is_hurried.store(true, Ordering::SeqCst);
        }
    }
}
