//! The operation on a run's tree, and the leader's end.

use std::time::Duration;

use super::connections::ConnectionId;
use super::tree::{Freeze, Kill, Thaw};
use crate::pipeline::{Exit, Origin};

/// How long processes that the leader left behind after a natural end may be silent and asleep before they are killed: the `tee`
/// of a `> >(tee log)` still has something to write. Until then the state is running, so this is below the 50 ms within which an
/// end must be known.
pub(super) const LINGER_SILENCE: Duration = Duration::from_millis(30);

/// How long they may continue to write or be busy. On a loaded machine they may not have had their turn yet.
pub(super) const LINGER_LIMIT: Duration = Duration::from_millis(250);

/// The connection and tag of the command that waits for an answer.
pub(super) type Asker = (ConnectionId, u64);

/// The operation on the tree.
pub(super) enum Phase {
    Running,
    Freezing { freeze: Freeze, since: Duration, then: Frozen, asker: Option<Asker> },
    Paused,
    Thawing { thaw: Thaw, since: Duration, then: Thawed, asker: Option<Asker> },
    Stopping { kill_at: Duration },
    Killing { kill: Kill },
}

/// The step that follows once the whole tree is stopped.
pub(super) enum Frozen {
    /// The fact `paused`, with its origin; `None` is a signal from outside.
    Tell(Option<Origin>),
    /// No fact: the run is still recorded as paused, and a resume has failed or the pause was broken.
    Keep,
}

/// The step that follows once the whole tree runs again.
#[derive(Clone, Copy)]
pub(super) enum Thawed {
    /// The fact `resumed`, with its origin; `None` is a signal from outside.
    Tell(Option<Origin>),
    /// No fact: the tree was never wholly paused.
    Keep { spares_leader: bool },
    /// The fact `resumed`, because the pause did not hold.
    GiveUp,
}

impl Thawed {
    /// Returns whether another program continued the leader, and may stop it again.
    pub(super) fn spares_leader(self) -> bool {
        match self {
            Self::Tell(origin) => origin.is_none(),
            Self::Keep { spares_leader } => spares_leader,
            Self::GiveUp => false,
        }
    }
}

/// How often a broken pause was restored since it was made, and the current interval between its scans.
#[derive(Default)]
pub(super) struct Restops {
    pub(super) count: u32,
    pub(super) pause: Duration,
}

/// The leader's end, which comes before the run's.
pub(super) struct LeaderEnd {
    pub(super) exit: Exit,
    /// The processes left behind are killed then, if they neither write nor are busy.
    pub(super) linger_until: Duration,
    /// They are killed then, whatever they do.
    pub(super) linger_limit: Duration,
}

impl LeaderEnd {
    /// Extends the time, because a process left behind shows a sign of life.
    pub(super) fn linger(&mut self, now: Duration) {
        self.linger_until = self.linger_until.max(now + LINGER_SILENCE).min(self.linger_limit);
    }
}
