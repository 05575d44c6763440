//! The words and the rules: what a pipeline can be, what may be asked of it, what can be seen of it, and what follows.
//!
//! Level 0, pure: no I/O, no clock. Every rule of the life cycle stands here once; the server, the page and the command line
//! ask this file. The matches are exhaustive on purpose: a new word does not compile until every rule has said what it means.

mod condition;
mod exit;
mod killed;
mod lack;
mod origin;
mod outcome;
mod progress;
mod status;
mod usage;
pub(crate) mod words;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

pub use condition::{Condition, ConditionCode, Conditions};
pub use exit::{Exit, signal_name};
pub use killed::{Killed, KilledProcess};
pub use lack::Lack;
pub use origin::{Origin, Peer, Role};
pub use outcome::{Ending, Outcome, OutcomeKind, took_ms, usual_ms};
pub use progress::{Label, MARK_BYTES_MAX, Mark, Percent, Progress, WorkStep};
pub use status::RunStatus;
pub use usage::{CpuPercent, Usage, UsageSample};
pub use words::UnknownWord;
pub(crate) use words::words;

words! {
    /// What the pipeline is.
    State {
        /// No process of it is alive.
        Stopped = "stopped",
        /// At least its leader is alive and not stopped by a signal.
        Running = "running",
        /// Every process of its tree is stopped by a signal.
        Paused = "paused",
    }
}

words! {
    /// What a client asks.
    Action {
        /// Begin a run.
        Start = "start",
        /// Stop every process of the tree where it stands.
        Pause = "pause",
        /// Let every process of the tree go on.
        Resume = "resume",
        /// End the run: TERM, grace, KILL.
        Stop = "stop",
    }
}

words! {
    /// What made a transition happen.
    Cause {
        /// A client's action.
        Request = "request",
        /// Somebody else's signal.
        Outside = "outside",
        /// The pipeline ended by itself.
        Exit = "exit",
        /// A server that looked again after the shim or the machine had died.
        Recovery = "recovery",
    }
}

words! {
    /// What holds a run's processes together.
    Containment {
        /// A control group of its own: stopped and killed as one, and nothing that it starts can leave unnoticed.
        Cgroup = "cgroup",
        /// The descendants of its shim, found by looking.
        Tree = "tree",
    }
}

/// What the shim saw happen. The journal holds them numbered; only facts change state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// The pipeline's leader runs.
    Spawned {
        /// Its process id, also its process group.
        pid: u32,
        /// Its start time in clock ticks since boot (`proc_pid_stat(5)`, field 22), which makes the pid an identity.
        start_ticks: u64,
        /// What holds it and all that it starts together.
        containment: Containment,
    },
    /// Every process of the tree was looked at and is stopped.
    Paused {
        /// A client, or somebody's SIGSTOP.
        cause: Cause,
    },
    /// The tree runs again.
    Resumed {
        /// A client; or somebody's SIGCONT, also where that made the shim give a pause up.
        cause: Cause,
        /// Milliseconds that this run has been paused in all.
        paused_ms: u64,
        /// Why a pause was given up, for people.
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
        /// Whether a stop had been asked for before the leader ended.
        asked: bool,
        /// Milliseconds that this run has been paused in all.
        paused_ms: u64,
        /// The position in the log after its last byte.
        log_end: u64,
        /// The processes killed at the end: those that the leader left behind, or that had not ended within the grace.
        #[serde(flatten)]
        killed: Killed,
        /// How many processes the kernel killed during the run for want of memory, if it counts that for this run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        oom_kills: Option<u64>,
    },
    /// What the tree used, known only after everything was reaped; follows `exited`.
    Usage {
        /// CPU time in user mode, in milliseconds, of every process of the tree.
        cpu_user_ms: u64,
        /// CPU time in the kernel, in milliseconds, of every process of the tree.
        cpu_system_ms: u64,
        /// The largest resident set of any process of the tree, in KiB.
        max_rss_kb: u64,
        /// The most memory that the whole tree had, in bytes, if anybody looked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        memory_peak_bytes: Option<u64>,
    },
    /// The pipeline never came to life.
    SpawnFailed {
        /// Why, for people.
        error: String,
        /// The resource whose lack is the cause, if any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lack: Option<Lack>,
    },
    /// Written by a newer shim; kept in the history, changes nothing here.
    #[serde(other)]
    Unknown,
}

impl Fact {
    /// The fact's word in the journal and the history.
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

    /// Whether the run is over once this fact is known.
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

/// One line of a journal: a fact, its number in the run, and its moment on both clocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// 1 for the run's first fact, then one more each.
    pub seq: u64,
    /// The wall clock, never before the entry that precedes it.
    pub at: Timestamp,
    /// The boot-time clock in milliseconds.
    pub boot_ms: u64,
    /// Who wanted what the fact says; none where nobody did, or an older server did not say. Of an end the first who asked for it.
    #[serde(default, deserialize_with = "Origin::read_if_any", skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// What was seen.
    #[serde(flatten)]
    pub fact: Fact,
}

/// An action under way. Moments are in awake time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// The run is committed, its shim not yet heard.
    Start,
    /// The shim is stopping the tree.
    Pause,
    /// The shim is continuing the tree.
    Resume,
    /// TERM is out.
    Stop {
        /// When KILL follows.
        kill_at: Duration,
    },
}

impl Pending {
    /// The action's word.
    pub const fn action(self) -> Action {
        match self {
            Self::Start => Action::Start,
            Self::Pause => Action::Pause,
            Self::Resume => Action::Resume,
            Self::Stop { .. } => Action::Stop,
        }
    }
}

/// An action that the state does not allow: an answer, not a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What the pipeline was.
    pub from: State,
    /// What was asked.
    pub action: Action,
    /// What was under way and stood in the way.
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

/// Whether `action` may be taken. `kill_at` is when a stop asked for now would kill, or zero for one that may also kill later than the one
/// under way ([`Origin::can_prolong`]); no other action reads it. A stop gives up any other action that is pending.
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

/// The actions that would not be refused now; a stop counts when one with the shortest grace would not.
pub fn allowed(state: State, pending: Option<Pending>) -> Vec<Action> {
    Action::ALL.iter().copied().filter(|&action| decide(state, pending, action, Duration::ZERO).is_ok()).collect()
}

/// A change of state that a fact brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// What the pipeline was.
    pub from: State,
    /// What it is.
    pub to: State,
    /// How its run stands now.
    pub status: RunStatus,
    /// What made it happen.
    pub cause: Cause,
}

/// What `fact` means for a pipeline that was `from`; `None` where it changes nothing and is only history.
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

/// How a run ended: `stopped` when it was asked to, whatever the exit; otherwise the exit decides.
pub const fn outcome(exit: Exit, asked: bool) -> RunStatus {
    match (asked, exit) {
        (true, Exit::Code(_) | Exit::Signal(_)) => RunStatus::Stopped,
        (false, Exit::Code(0)) => RunStatus::Completed,
        (false, Exit::Code(_) | Exit::Signal(_)) => RunStatus::Failed,
    }
}

/// What a look at a run's directory found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its shim is alive: it holds the lock, or is the process that the journal names.
    ShimAlive,
    /// Its shim is alive and belongs to another directory, of which this one is a copy.
    Elsewhere,
    /// Nobody holds the lock, and no journal was ever begun.
    NeverBegan,
    /// Nobody holds the lock, and the journal says how it ended.
    Ended,
    /// Nobody holds the lock, and the journal says no end.
    Vanished {
        /// Whether the journal was begun since this machine's last boot.
        same_boot: bool,
    },
}

/// What to do about a run at boot, or after its shim's connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It has ended and that is recorded.
    Nothing,
    /// Connect to the shim, record the facts missed, go on.
    Adopt,
    /// Record what the journal holds; its last fact is the end.
    RecordEnd,
    /// Record what the journal holds; kill what still carries the run's cookie; the run is lost, now.
    KillAndLose,
    /// Record what the journal holds; the run is lost, since its last fact: the machine went down.
    Lose,
    /// Record the journal's facts and kill nothing: the run continues in the directory of which this one is a copy. Here it is lost.
    Disown,
    /// The run never came to life.
    FailSpawn,
}

/// The boot table: the stored run's status against what was found.
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
            // It did run once, so a directory without a journal was emptied by somebody: what it left may still be alive.
            Found::NeverBegan | Found::Vanished { same_boot: true } => Plan::KillAndLose,
            Found::Vanished { same_boot: false } => Plan::Lose,
        },
    }
}

#[cfg(test)]
mod tests;
