//! The kernel's view of a run: which of its processes are alive, and which are stopped.

use crate::pipeline::{Exit, Killed};

/// The script's own process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leader {
    Unborn,
    Awake,
    Stopped,
    Dead(Exit),
}

/// The leader and the processes that it has started.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) leader: Leader,
    pub(super) pid: u32,
    pub(super) helpers: u64,
    pub(super) helpers_are_stopped: bool,
    /// How the leader ends as soon as it is continued, because its time came while it was stopped.
    pub(super) due: Option<Exit>,
    pub(super) ignores_term: bool,
    /// Neither a STOP nor a KILL reaches it now, because it sleeps uninterruptibly.
    pub(super) is_stuck: bool,
    /// Killing the leftovers has failed, and was reported.
    pub(super) is_given_up: bool,
}

impl Pipeline {
    pub(super) fn unborn(pid: u32) -> Self {
        Self {
            leader: Leader::Unborn,
            pid,
            helpers: 0,
            helpers_are_stopped: false,
            due: None,
            ignores_term: false,
            is_stuck: false,
            is_given_up: false,
        }
    }

    pub(super) fn leader_is_alive(&self) -> bool {
        matches!(self.leader, Leader::Awake | Leader::Stopped)
    }

    /// Checks whether any process is alive.
    pub(super) fn is_alive(&self) -> bool {
        self.leader_is_alive() || self.helpers > 0
    }

    /// Checks whether every process is stopped by a signal.
    pub(super) fn is_paused(&self) -> bool {
        self.leader == Leader::Stopped && (self.helpers == 0 || self.helpers_are_stopped)
    }

    pub(super) fn freeze(&mut self) {
        if self.leader == Leader::Awake {
            self.leader = Leader::Stopped;
        }
        self.helpers_are_stopped = true;
    }

    pub(super) fn thaw(&mut self) {
        if self.leader == Leader::Stopped {
            self.leader = Leader::Awake;
        }
        self.helpers_are_stopped = false;
    }

    /// Returns the processes that a KILL would end, by name.
    pub(super) fn living(&self) -> Killed {
        let mut living = Killed::default();
        if self.leader_is_alive() {
            living.add(self.pid, || Some("leader".to_owned()));
        }
        for number in 1..=self.helpers {
            living.add(self.pid + u32::try_from(number).unwrap_or(u32::MAX), || Some("helper".to_owned()));
        }
        living
    }

    /// Kills all processes.
    pub(super) fn kill(&mut self) {
        if self.leader_is_alive() {
            self.leader = Leader::Dead(Exit::Signal(9));
        }
        self.helpers = 0;
    }
}
