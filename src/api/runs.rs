//! The history: runs and their events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::query::{Kind, RUN_ID_MAX, query};
use crate::clock::Timestamp;
use crate::pipeline::{Containment, CpuPercent, Killed, Origin, Outcome, OutcomeKind, Progress, RunStatus, State, words};

/// The most runs of one answer.
pub const RUNS_MAX: u64 = 500;

/// The longest text to search for, in bytes.
pub const FIND_BYTES_MAX: usize = 200;

/// The most runs that a search examines for one answer.
pub const RUNS_SEARCHED_MAX: usize = 10_000;

/// The most runs that [`RunCounts`] counts: as many as the history can be set to keep.
pub const RUNS_COUNTED_MAX: u32 = 1_000_000;

words! {
    /// How runs can be selected: by the kinds of their outcomes, and whether they are alive.
    OutcomeFilter {
        /// Alive.
        Live = "live",
        /// Ended by itself, with exit code 0.
        Completed = "completed",
        /// Ended by itself, with another exit code or a signal of its own.
        Failed = "failed",
        /// Ended on request.
        Stopped = "stopped",
        /// Ended by a signal from outside.
        Killed = "killed",
        /// Never came to life.
        NotStarted = "not_started",
        /// How it ended cannot be known.
        Lost = "lost",
    }
}

impl OutcomeFilter {
    /// The one word that selects a run with this kind of outcome; none is a live run's.
    pub const fn that_selects(kind: Option<OutcomeKind>) -> Self {
        match kind {
            None => Self::Live,
            Some(OutcomeKind::Completed) => Self::Completed,
            Some(OutcomeKind::Failed) => Self::Failed,
            Some(OutcomeKind::Stopped) => Self::Stopped,
            Some(OutcomeKind::Killed) => Self::Killed,
            Some(OutcomeKind::NotStarted) => Self::NotStarted,
            Some(OutcomeKind::Lost) => Self::Lost,
        }
    }
}

const OUTCOMES: Kind = Kind::Words(&[
    OutcomeFilter::Live.as_str(),
    OutcomeFilter::Completed.as_str(),
    OutcomeFilter::Failed.as_str(),
    OutcomeFilter::Stopped.as_str(),
    OutcomeFilter::Killed.as_str(),
    OutcomeFilter::NotStarted.as_str(),
    OutcomeFilter::Lost.as_str(),
]);

query! {
    /// The query of `GET /api/runs`.
    RunsQuery {
        /// The most runs.
        limit: u64 = Kind::Number(1, RUNS_MAX),
        /// Only runs with an id below this one.
        before: u64 = Kind::Number(1, RUN_ID_MAX),
        /// Only runs that one of these words selects.
        outcome: Vec<OutcomeFilter> = OUTCOMES,
        /// Only runs with this text in their script, arguments, error or id. ASCII letters match in both cases.
        find: String = Kind::Text(FIND_BYTES_MAX),
    }
}

/// The answer of `GET /api/runs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunsResponse {
    /// Newest first.
    pub runs: Vec<Run>,
    /// The `before` of the next page; none if this is the last one.
    pub next_before: Option<i64>,
    /// False if the search ended at its limits; it goes on with `next_before`.
    pub searched_all: bool,
    /// How many runs there are, in an answer without `before`.
    pub counts: Option<RunCounts>,
}

/// How many runs are kept, whatever the query selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunCounts {
    /// All of them.
    pub all: u32,
    /// Those with the outcomes `failed`, `killed`, `not_started` and `lost`.
    pub failed: u32,
}

/// The answer of `GET /api/runs/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunResponse {
    /// The run.
    pub run: WholeRun,
}

words! {
    /// What is kept of the variables that a start added to the environment.
    Kept {
        /// Their names.
        Names = "names",
        /// Their values, too.
        Values = "values",
    }
}

/// The answer of `GET /api/runs/<id>/start`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunStartResponse {
    /// What the start took.
    pub start: RunStart,
    /// What is kept of its variables.
    pub kept: Kept,
}

/// What a run's start took, as a body of a start has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunStart {
    /// The script as it was named; the default one if none was.
    pub script: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// The folder as it was named; none means the root.
    pub cwd: Option<String>,
    /// What was added to the environment: a value that was not kept is null.
    pub env: BTreeMap<String, Option<String>>,
    /// The grace that was named, in seconds; none means the server's.
    pub grace_s: Option<f64>,
}

/// A run with everything that is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeRun {
    /// What the list of runs says of it.
    #[serde(flatten)]
    pub run: Run,
    /// How far it is or came, as it says.
    pub progress: Option<Progress>,
    /// The latest completed run of the same script before this one.
    pub previous: Option<CompletedRun>,
    /// The median of `active_ms` of the latest completed runs of the same script before this one, five at most.
    pub usual_ms: Option<u64>,
    /// What happened in it, oldest first.
    #[serde(default)]
    pub events: Vec<Event>,
}

/// How long a completed run took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletedRun {
    /// Its id.
    pub id: i64,
    /// Milliseconds from its start to its end.
    pub took_ms: u64,
    /// The same without its pauses.
    pub active_ms: u64,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its id, never used twice.
    pub id: i64,
    /// How it stands or how it ended.
    pub status: RunStatus,
    /// How it ended; none while it is alive.
    pub outcome: Option<Outcome>,
    /// The leader's process id, kept after the end.
    pub pid: Option<u32>,
    /// The script that a client named.
    pub script: String,
    /// The folder it runs in.
    pub cwd: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// When it was committed.
    pub created_at: Timestamp,
    /// When it was seen to run.
    pub started_at: Option<Timestamp>,
    /// When it was seen to have ended, or was given up.
    pub stopped_at: Option<Timestamp>,
    /// The origin of its start, if it is known.
    #[serde(default, deserialize_with = "Origin::read_if_any")]
    pub started_by: Option<Origin>,
    /// The origin of its stop: of the first one, if there were several. None if nobody stopped it.
    #[serde(default, deserialize_with = "Origin::read_if_any")]
    pub stopped_by: Option<Origin>,
    /// The leader's exit code.
    pub exit_code: Option<i32>,
    /// The signal that ended the leader.
    pub signal: Option<i32>,
    /// Milliseconds it has been paused, as of the latest resume or the end.
    pub paused_ms: u64,
    /// CPU time of the tree in user mode, in milliseconds; known after the end.
    pub cpu_user_ms: Option<u64>,
    /// CPU time of the tree in the kernel, in milliseconds; known after the end.
    pub cpu_system_ms: Option<u64>,
    /// The largest resident set of any of its processes, in KiB; known after the end.
    pub max_rss_kb: Option<u64>,
    /// Why it never came to life, or was lost; for people.
    pub error: Option<String>,
    /// What holds or held its processes together; known since it was seen to run.
    pub containment: Option<Containment>,
    /// The names of the variables that its start added to the environment, sorted.
    #[serde(default)]
    pub env_names: Vec<String>,
    /// From TERM to KILL for a stop that names none, as its start named it; none means the server's. In seconds on the wire.
    #[serde(default, rename = "grace_s", with = "in_seconds")]
    pub grace_ms: Option<u64>,
    /// How many processes the kernel killed during it for want of memory; none if it did not count that. Known after the end.
    #[serde(default)]
    pub oom_kills: Option<u64>,
    /// The most memory that the whole tree had, in bytes; none if no sample was taken. Known after the end.
    #[serde(default)]
    pub memory_peak_bytes: Option<u64>,
}

/// Milliseconds, as a number of seconds.
mod in_seconds {
    use std::time::Duration;

    use serde::de::{Deserialize, Deserializer, Error as _};
    use serde::ser::{Serialize, Serializer};

    use crate::clock::whole_ms;

    #[expect(clippy::ref_option, reason = "serde passes it so")]
    pub(super) fn serialize<S: Serializer>(ms: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        ms.map(|ms| Duration::from_millis(ms).as_secs_f64()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        let seconds = Option::<f64>::deserialize(deserializer)?;
        seconds.map(|seconds| Duration::try_from_secs_f64(seconds).map(whole_ms)).transpose().map_err(D::Error::custom)
    }
}

/// The answer of `GET /api/runs/<id>/usage`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageResponse {
    /// What the run used.
    pub usage: RunUsage,
}

/// What a run used over time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunUsage {
    /// About so far apart are the samples, in milliseconds, where the run was not paused; 0 where there are none.
    pub interval_ms: u32,
    /// Oldest first.
    pub samples: Vec<Sample>,
    /// The most of each.
    pub peak: UsagePeak,
    /// The processors that this server may use.
    pub cores: usize,
    /// The machine's memory, in bytes.
    pub memory_total: u64,
    /// How many processes the kernel killed during the run for want of memory; 0 also where it did not count that.
    pub oom_kills: u64,
}

/// Milliseconds since the run began to run, the share of a processor since the sample before, bytes of memory, number of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample(pub u64, pub CpuPercent, pub u64, pub u32);

/// The most that a run used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsagePeak {
    /// Of all samples; none where there are none.
    pub cpu_percent: Option<CpuPercent>,
    /// Also of what was seen between them, once the run has ended.
    pub memory_bytes: Option<u64>,
}

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number in the run; 0 for the commit before the start.
    pub seq: u64,
    /// When it was seen; does not go back within a run.
    pub at: Timestamp,
    /// `starting`, `lost`, or the word of a fact. More words can follow.
    pub kind: String,
    /// What the pipeline was, if it changed.
    pub from_state: Option<State>,
    /// What it became, if it changed.
    pub to_state: Option<State>,
    /// What made it happen, if that is known. More words can follow.
    pub cause: Option<String>,
    /// The origin of the action that led to it, if there was one and it is known.
    #[serde(default, deserialize_with = "Origin::read_if_any")]
    pub origin: Option<Origin>,
    /// The leader that was spawned.
    pub pid: Option<u32>,
    /// The exit code of a leader that ended.
    pub exit_code: Option<i32>,
    /// The signal that ended the leader.
    pub signal: Option<i32>,
    /// That signal's name, such as `SIGTERM`, if it has one.
    pub signal_name: Option<String>,
    /// From TERM to KILL, of a stop that begins.
    pub grace_ms: Option<u64>,
    /// Milliseconds that the run has been paused in all, as of a resume or the end.
    pub paused_ms: Option<u64>,
    /// How many processes the kernel killed for want of memory, as of the end.
    #[serde(default)]
    pub oom_kills: Option<u64>,
    /// A sentence for people.
    pub detail: Option<String>,
    /// What was killed at the end.
    #[serde(flatten)]
    pub killed: Killed,
}
