//! What is being done to a run's tree, and its leader's end.

use std::time::Duration;

use super::connections::ConnectionId;
use super::tree::{Freeze, Kill, Thaw};
use crate::pipeline::{Exit, Origin};

/// How long what the leader left behind after a natural end may be silent and asleep before it is killed: the `tee` of a `> >(tee log)` still
/// has something to write. Until then the state says running, so it is below the 50 ms within which an end must be known.
pub(super) const LINGER_SILENCE: Duration = Duration::from_millis(30);

/// How long it may go on writing, or being busy: on a loaded machine it may not have had its turn yet.
pub(super) const LINGER_LIMIT: Duration = Duration::from_millis(250);

/// Who waits for an answer.
pub(super) type Asker = (ConnectionId, u64);

/// What is being done to the tree.
pub(super) enum Phase {
    Running,
    Freezing { freeze: Freeze, since: Duration, then: Frozen, asker: Option<Asker> },
    Paused,
    Thawing { thaw: Thaw, since: Duration, then: Thawed, asker: Option<Asker> },
    Stopping { kill_at: Duration },
    Killing { kill: Kill },
}

/// What follows when all is stopped.
pub(super) enum Frozen {
    /// The fact that it is paused, and who wants that; none: a signal from outside.
    Tell(Option<Origin>),
    /// Nothing to tell: it was paused before and a resume has failed.
    Keep,
}

/// What follows when all goes on.
#[derive(Clone, Copy)]
pub(super) enum Thawed {
    /// The fact that it is resumed, and who wants that; none: a signal from outside.
    Tell(Option<Origin>),
    /// Nothing to tell: it was never wholly paused.
    Keep { spares_leader: bool },
    /// The fact that it is resumed, because the pause would not hold.
    GiveUp,
}

impl Thawed {
    /// Whether the leader was continued by somebody else, who may stop it again.
    pub(super) fn spares_leader(self) -> bool {
        match self {
            Self::Tell(origin) => origin.is_none(),
            Self::Keep { spares_leader } => spares_leader,
            Self::GiveUp => false,
        }
    }
}

/// How often a pause was made good again that somebody broke: since it was made, and when it is looked at next.
#[derive(Default)]
pub(super) struct Restops {
    pub(super) count: u32,
    pub(super) pause: Duration,
}

/// The leader's end, before the run's.
pub(super) struct LeaderEnd {
    pub(super) exit: Exit,
    /// What it left behind is killed then, if it neither writes nor is busy.
    pub(super) linger_until: Duration,
    /// It is killed then whatever it does.
    pub(super) linger_limit: Duration,
}

impl LeaderEnd {
    /// What was left behind shows a sign of life.
    pub(super) fn linger(&mut self, now: Duration) {
        self.linger_until = self.linger_until.max(now + LINGER_SILENCE).min(self.linger_limit);
    }
}
