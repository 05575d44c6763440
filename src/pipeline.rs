//! The words and rules of the life cycle: the states of the pipeline, the actions of clients, the facts that the shim
//! reports, and what follows from them.
//!
//! Level 0, pure: no I/O, no clock. Every rule of the life cycle is here and nowhere else; the server, the page and the
//! command line use this file. The matches are exhaustive on purpose: a new word does not compile until all rules handle it.

mod condition;
mod exit;
mod killed;
mod origin;
mod outcome;
mod progress;
mod shortage;
mod status;
mod usage;
pub(crate) mod words;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

pub use condition::{Condition, ConditionCode, Conditions};
pub use exit::{Exit, signal_name};
pub use killed::{Killed, KilledProcess, describe_oom_kills};
pub use origin::{Origin, Peer, Role};
pub use outcome::{Ending, Outcome, OutcomeKind, took_ms, usual_ms};
pub use progress::{Label, MARK_BYTES_MAX, Mark, Percent, Progress, WorkStep};
pub use shortage::Shortage;
pub use status::RunStatus;
pub use usage::{CpuPercent, Usage, UsageSample};
pub use words::UnknownText;
pub(crate) use words::words;

words! {
    /// The state of the pipeline.
    State {
        /// None of its processes is alive.
        Stopped = "stopped",
        /// At least the leader is alive and not stopped by a signal.
        Running = "running",
        /// Every process of the tree is stopped by a signal.
        Paused = "paused",
    }
}

words! {
    /// An action that a client requests.
    Action {
        /// Starts a run.
        Start = "start",
        /// Stops every process of the tree where it is.
        Pause = "pause",
        /// Continues every process of the tree.
        Resume = "resume",
        /// Ends the run: TERM, grace, KILL.
        Stop = "stop",
    }
}

words! {
    /// The cause of a transition.
    Cause {
        /// An action of a client.
        Request = "request",
        /// A signal from another program.
        Outside = "outside",
        /// The pipeline ended by itself.
        Exit = "exit",
        /// The recovery by a server, after the shim or the machine had died.
        Recovery = "recovery",
    }
}

words! {
    /// The means by which a run's processes are held together.
    Containment {
        /// A separate control group. All of its processes are stopped and killed together, and none can leave it unnoticed.
        Cgroup = "cgroup",
        /// The descendants of the shim, found by scans.
        Tree = "tree",
    }
}

/// A fact: something that the shim saw happen. Facts are numbered in the journal, and only facts change the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// The pipeline's leader runs.
    Spawned {
        /// Its process id, which is also the id of its process group.
        pid: u32,
        /// Its start time in clock ticks since boot (`proc_pid_stat(5)`, field 22), which makes the pid an identity.
        start_ticks: u64,
        /// The means by which it and its descendants are held together.
        containment: Containment,
    },
    /// A scan has found every process of the tree stopped.
    Paused {
        /// A client, or a SIGSTOP from another program.
        cause: Cause,
    },
    /// The tree runs again.
    Resumed {
        /// A client, or a SIGCONT from another program, which can also have made the shim abandon a pause.
        cause: Cause,
        /// The total time that this run has been paused, in milliseconds.
        paused_ms: u64,
        /// Why a pause was abandoned, in a sentence for users.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// TERM was sent; KILL follows after the grace.
    Stopping {
        /// The grace in milliseconds.
        grace_ms: u64,
    },
    /// No process of the tree is alive any more.
    Exited {
        /// How the leader ended.
        exit: Exit,
        /// Whether a stop had been requested before the leader ended.
        asked: bool,
        /// The total time that this run has been paused, in milliseconds.
        paused_ms: u64,
        /// The position in the log after its last byte.
        log_end: u64,
        /// The processes killed at the end: those that the leader left behind, or that had not ended within the grace.
        #[serde(flatten)]
        killed: Killed,
        /// How many processes the kernel killed during the run because memory ran out; `None` if it does not count that for
        /// this run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        oom_kills: Option<u64>,
    },
    /// The resources that the tree used. Known only after all processes are reaped, so it follows `exited`.
    Usage {
        /// CPU time in user mode of all processes of the tree, in milliseconds.
        cpu_user_ms: u64,
        /// CPU time in the kernel of all processes of the tree, in milliseconds.
        cpu_system_ms: u64,
        /// The largest resident set of any process of the tree, in KiB.
        max_rss_kb: u64,
        /// The peak memory of the whole tree, in bytes; `None` if it was not measured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        memory_peak_bytes: Option<u64>,
    },
    /// The pipeline could not be started.
    SpawnFailed {
        /// The reason, in a sentence for users.
        error: String,
        /// The resource whose shortage is the cause, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lack: Option<Shortage>,
    },
    /// A fact written by a newer shim. It is kept in the history and changes nothing here.
    #[serde(other)]
    Unknown,
}

impl Fact {
    /// Returns the fact's word in the journal and the history.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Spawned { .. } => "spawned",
            Self::Paused { .. } => "paused",
            Self::Resumed { .. } => "resumed",
            Self::Stopping { .. } => "stopping",
            Self::Exited { .. } => "exited",
            Self::Usage { .. } => "usage",
            Self::SpawnFailed { .. } => "spawn_failed",
            Self::Unknown => "unknown",
        }
    }

    /// Returns whether this fact ends the run.
    pub const fn is_end(&self) -> bool {
        match self {
            Self::Exited { .. } | Self::SpawnFailed { .. } => true,
            Self::Spawned { .. }
            | Self::Paused { .. }
            | Self::Resumed { .. }
            | Self::Stopping { .. }
            | Self::Usage { .. }
            | Self::Unknown => false,
        }
    }
}

/// One line of a journal: a fact, its number in the run, and its time on both clocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The number: 1 for the run's first fact, and one more for each fact after it.
    pub seq: u64,
    /// The wall-clock time, never earlier than that of the previous entry.
    pub at: Timestamp,
    /// The time on the boot-time clock, in milliseconds.
    pub boot_ms: u64,
    /// The origin of the action behind the fact. `None` if there was no action, or if an older server did not send the
    /// origin. For an end, this is the first request for it.
    #[serde(default, deserialize_with = "Origin::read_if_any", skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// The fact itself.
    #[serde(flatten)]
    pub fact: Fact,
}

/// An action under way. Times are in awake time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// The run is committed, and its shim has not reported yet.
    Start,
    /// The shim is stopping the tree.
    Pause,
    /// The shim is continuing the tree.
    Resume,
    /// TERM has been sent.
    Stop {
        /// The time at which KILL follows.
        kill_at: Duration,
    },
}

impl Pending {
    /// Returns the action's word.
    pub const fn action(self) -> Action {
        match self {
            Self::Start => Action::Start,
            Self::Pause => Action::Pause,
            Self::Resume => Action::Resume,
            Self::Stop { .. } => Action::Stop,
        }
    }
}

/// A refusal: the state does not allow the action. It is an answer, not a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The state of the pipeline.
    pub from: State,
    /// The requested action.
    pub action: Action,
    /// The action under way that prevented it.
    pub pending: Option<Action>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pending {
            None => write!(f, "cannot {} when {}", self.action, self.from),
            Some(pending) => write!(f, "cannot {} while {pending} is under way", self.action),
        }
    }
}

/// Checks whether `action` is allowed.
///
/// `kill_at` is the time at which a stop requested now would send KILL. It is zero for a stop that may also kill later than
/// the one under way ([`Origin::can_prolong`]). Other actions ignore it. A stop cancels a pending pause or resume.
pub fn decide(state: State, pending: Option<Pending>, action: Action, kill_at: Duration) -> Result<(), Refusal> {
    let is_allowed = match pending {
        None => match (state, action) {
            (State::Stopped, Action::Start)
            | (State::Running, Action::Pause | Action::Stop)
            | (State::Paused, Action::Resume | Action::Stop) => true,
            (State::Stopped, Action::Pause | Action::Resume | Action::Stop)
            | (State::Running, Action::Start | Action::Resume)
            | (State::Paused, Action::Start | Action::Pause) => false,
        },
        Some(Pending::Start) => match action {
            Action::Start | Action::Pause | Action::Resume | Action::Stop => false,
        },
        Some(Pending::Pause | Pending::Resume) => match action {
            Action::Stop => true,
            Action::Start | Action::Pause | Action::Resume => false,
        },
        Some(Pending::Stop { kill_at: before }) => match action {
            Action::Stop => kill_at < before,
            Action::Start | Action::Pause | Action::Resume => false,
        },
    };
    if is_allowed { Ok(()) } else { Err(Refusal { from: state, action, pending: pending.map(Pending::action) }) }
}

/// Returns the actions that would not be refused now. A stop is included if one with the shortest grace would not be
/// refused.
pub fn allowed(state: State, pending: Option<Pending>) -> Vec<Action> {
    Action::ALL.iter().copied().filter(|&action| decide(state, pending, action, Duration::ZERO).is_ok()).collect()
}

/// A change of state, caused by a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state before it.
    pub from: State,
    /// The state after it.
    pub to: State,
    /// The status of the run after it.
    pub status: RunStatus,
    /// The cause.
    pub cause: Cause,
}

/// Returns the transition that `fact` causes if the state was `from`. `None` if the fact changes nothing and only belongs to
/// the history.
pub fn observe(from: State, fact: &Fact) -> Option<Transition> {
    let change = |to, status, cause| Some(Transition { from, to, status, cause });
    match (from, fact) {
        (State::Stopped, Fact::Spawned { .. }) => change(State::Running, RunStatus::Running, Cause::Request),
        (State::Stopped, Fact::SpawnFailed { .. }) => change(State::Stopped, RunStatus::Failed, Cause::Request),
        (State::Running, Fact::Paused { cause }) => change(State::Paused, RunStatus::Paused, *cause),
        (State::Paused, Fact::Resumed { cause, .. }) => change(State::Running, RunStatus::Running, *cause),
        (State::Running | State::Paused, Fact::Exited { exit, asked, .. }) => {
            let cause = match (asked, exit.is_from_outside()) {
                (true, _) => Cause::Request,
                (false, true) => Cause::Outside,
                (false, false) => Cause::Exit,
            };
            change(State::Stopped, outcome(*exit, *asked), cause)
        }
        (State::Running | State::Paused, Fact::Spawned { .. } | Fact::SpawnFailed { .. })
        | (State::Stopped | State::Paused, Fact::Paused { .. })
        | (State::Stopped | State::Running, Fact::Resumed { .. })
        | (State::Stopped, Fact::Exited { .. })
        | (State::Stopped | State::Running | State::Paused, Fact::Stopping { .. } | Fact::Usage { .. } | Fact::Unknown) => None,
    }
}

/// Returns how a run ended: `stopped` if a stop was requested, whatever the exit; otherwise the exit decides.
pub const fn outcome(exit: Exit, asked: bool) -> RunStatus {
    match (asked, exit) {
        (true, Exit::Code(_) | Exit::Signal(_)) => RunStatus::Stopped,
        (false, Exit::Code(0)) => RunStatus::Completed,
        (false, Exit::Code(_) | Exit::Signal(_)) => RunStatus::Failed,
    }
}

/// The result of a scan of a run's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The shim is alive: it holds the lock, or is the process that the journal names.
    ShimAlive,
    /// The shim is alive, and belongs to another directory of which this one is a copy.
    Elsewhere,
    /// No process holds the lock, and no journal was begun.
    NeverBegan,
    /// No process holds the lock, and the journal contains the end.
    Ended,
    /// No process holds the lock, and the journal contains no end.
    Vanished {
        /// Whether the journal was begun since this machine's last boot.
        same_boot: bool,
    },
}

/// The handling of a run at boot, or after the connection to its shim broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The run has ended, and the end is recorded.
    Nothing,
    /// Connect to the shim, record the missed facts, and continue.
    Adopt,
    /// Record the facts in the journal; the last one is the end.
    RecordEnd,
    /// Record the facts in the journal and kill the processes that still carry the run's cookie. The run is lost as of now.
    KillAndLose,
    /// Record the facts in the journal. The run is lost as of its last fact, because the machine went down.
    Lose,
    /// Record the facts in the journal and kill nothing. The run continues in the directory of which this one is a copy;
    /// here it is lost.
    Disown,
    /// The run was never started.
    FailSpawn,
}

/// The boot table: returns the plan for a run, given its stored status and what was found.
pub const fn recover(stored: RunStatus, found: Found) -> Plan {
    match stored {
        RunStatus::Completed | RunStatus::Failed | RunStatus::Stopped | RunStatus::Lost => Plan::Nothing,
        RunStatus::Starting => match found {
            Found::ShimAlive => Plan::Adopt,
            Found::Elsewhere => Plan::Disown,
            Found::NeverBegan => Plan::FailSpawn,
            Found::Ended => Plan::RecordEnd,
            Found::Vanished { same_boot: true } => Plan::KillAndLose,
            Found::Vanished { same_boot: false } => Plan::Lose,
        },
        RunStatus::Running | RunStatus::Paused => match found {
            Found::ShimAlive => Plan::Adopt,
            Found::Elsewhere => Plan::Disown,
            Found::Ended => Plan::RecordEnd,
            // The run was running, so a directory without a journal was emptied later. Processes of the run may still be alive.
            Found::NeverBegan | Found::Vanished { same_boot: true } => Plan::KillAndLose,
            Found::Vanished { same_boot: false } => Plan::Lose,
        },
    }
}

#[cfg(test)]
mod tests;
