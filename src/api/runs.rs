//! The history: runs and their events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::query::{Kind, RUN_ID_MAX, query};
use crate::clock::Timestamp;
use crate::pipeline::{Containment, CpuPercent, Killed, Origin, Outcome, OutcomeKind, Progress, RunStatus, State, words};

/// The most runs of one response.
pub const RUNS_MAX: u64 = 500;

/// The longest text to search for, in bytes.
pub const FIND_BYTES_MAX: usize = 200;

/// The most runs that a search examines for one response.
pub const RUNS_SEARCHED_MAX: usize = 10_000;

/// The most runs that [`RunCounts`] counts, which is the most that the history can be set to keep.
pub const RUNS_COUNTED_MAX: u32 = 1_000_000;

words! {
    /// The runs that a query selects: by the kinds of their outcomes, or because they are alive.
    OutcomeFilter {
        /// Alive.
        Live = "live",
        /// Ended by itself, with exit code 0.
        Completed = "completed",
        /// Ended by itself, with another exit code or a signal that one of its processes caused.
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
    /// Returns the filter that selects a run with this kind of outcome. A live run has `None`.
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
        /// Only runs with this text in their script, arguments, error or id. ASCII letters match regardless of case.
        find: String = Kind::Text(FIND_BYTES_MAX),
    }
}

/// The response to `GET /api/runs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunsResponse {
    /// The runs, newest first.
    pub runs: Vec<Run>,
    /// The `before` of the next page; `None` if this is the last page.
    pub next_before: Option<i64>,
    /// Whether the search is complete. If it stopped at its limits, it continues with `next_before`.
    pub searched_all: bool,
    /// The number of runs. Present if the query has no `before`.
    pub counts: Option<RunCounts>,
}

/// The number of runs that are kept, whatever the query selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunCounts {
    /// All runs.
    pub all: u32,
    /// The runs with the outcomes `failed`, `killed`, `not_started` and `lost`.
    pub failed: u32,
}

/// The response to `GET /api/runs/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunResponse {
    /// The run.
    pub run: RunDetails,
}

words! {
    /// The part that is kept of the variables that a start added to the environment.
    Kept {
        /// The names of the variables.
        Names = "names",
        /// The names and the values.
        Values = "values",
    }
}

/// The response to `GET /api/runs/<id>/start`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunStartResponse {
    /// The parameters of the start.
    pub start: RunStart,
    /// The part that is kept of its variables.
    pub kept: Kept,
}

/// The parameters of a run's start, in the form of the body of a start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunStart {
    /// The script as the client named it; the default script if the client named none.
    pub script: String,
    /// The arguments.
    pub args: Vec<String>,
    /// The folder as the client named it; `None` means the root.
    pub cwd: Option<String>,
    /// The variables that were added to the environment. A value that was not kept is null.
    pub env: BTreeMap<String, Option<String>>,
    /// The grace that the client named, in seconds; `None` means the server's.
    pub grace_s: Option<f64>,
}

/// A run with everything that is known about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDetails {
    /// The run as it appears in the list of runs.
    #[serde(flatten)]
    pub run: Run,
    /// The progress that the run reports or has reported.
    pub progress: Option<Progress>,
    /// The latest run of the same script before this one that completed.
    pub previous: Option<CompletedRun>,
    /// The median of `active_ms` over the latest completed runs of the same script before this one, at most five.
    pub usual_ms: Option<u64>,
    /// The events of the run, oldest first.
    #[serde(default)]
    pub events: Vec<Event>,
}

/// The duration of a completed run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletedRun {
    /// The run's id.
    pub id: i64,
    /// The milliseconds from the start to the end.
    pub took_ms: u64,
    /// The same without the pauses.
    pub active_ms: u64,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The id, which is never used twice.
    pub id: i64,
    /// How the run is doing, or how it ended.
    pub status: RunStatus,
    /// How it ended; `None` while it is alive.
    pub outcome: Option<Outcome>,
    /// The process id of the leader, kept after the end.
    pub pid: Option<u32>,
    /// The script as the client named it.
    pub script: String,
    /// The folder in which the script runs.
    pub cwd: String,
    /// The script's arguments.
    pub args: Vec<String>,
    /// When the start was committed.
    pub created_at: Timestamp,
    /// When the run was seen to run.
    pub started_at: Option<Timestamp>,
    /// When it was seen to have ended, or was given up.
    pub stopped_at: Option<Timestamp>,
    /// The origin of its start, if it is known.
    #[serde(default, deserialize_with = "Origin::read_if_any")]
    pub started_by: Option<Origin>,
    /// The origin of its stop, or of the first stop if there were several. `None` if it was not stopped.
    #[serde(default, deserialize_with = "Origin::read_if_any")]
    pub stopped_by: Option<Origin>,
    /// The exit code of the leader.
    pub exit_code: Option<i32>,
    /// The signal that ended the leader.
    pub signal: Option<i32>,
    /// The milliseconds for which the run has been paused, as of the latest resume or the end.
    pub paused_ms: u64,
    /// CPU time of the tree in user mode, in milliseconds; known after the end.
    pub cpu_user_ms: Option<u64>,
    /// CPU time of the tree in the kernel, in milliseconds; known after the end.
    pub cpu_system_ms: Option<u64>,
    /// The largest resident set of any of its processes, in KiB; known after the end.
    pub max_rss_kb: Option<u64>,
    /// A sentence for people about why the run never came to life or was lost.
    pub error: Option<String>,
    /// How its processes are or were kept together. Known once the run was seen to run.
    pub containment: Option<Containment>,
    /// The names of the variables that the start added to the environment, sorted.
    #[serde(default)]
    pub env_names: Vec<String>,
    /// The time from TERM to KILL for a stop that names no grace, as the start set it. `None` means the server's grace. In
    /// seconds on the wire.
    #[serde(default, rename = "grace_s", with = "in_seconds")]
    pub grace_ms: Option<u64>,
    /// How many processes the kernel killed during the run because memory ran out; `None` if the kernel did not count them. Known
    /// after the end.
    #[serde(default)]
    pub oom_kills: Option<u64>,
    /// The most memory that the whole tree used, in bytes; `None` if no sample was taken. Known after the end.
    #[serde(default)]
    pub memory_peak_bytes: Option<u64>,
}

/// Milliseconds, serialised as a number of seconds.
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

/// The response to `GET /api/runs/<id>/usage`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageResponse {
    /// The resources that the run used.
    pub usage: RunUsage,
}

/// The resources that a run used over time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunUsage {
    /// The approximate time between two samples while the run was not paused, in milliseconds; 0 if there are no samples.
    pub interval_ms: u32,
    /// The samples, oldest first.
    pub samples: Vec<Sample>,
    /// The highest values.
    pub peak: UsagePeak,
    /// The number of processors that the server may use.
    pub cores: usize,
    /// The memory of the machine, in bytes.
    pub memory_total: u64,
    /// How many processes the kernel killed during the run because memory ran out. Also 0 if the kernel did not count them.
    pub oom_kills: u64,
}

/// A sample: milliseconds since the run began to run, the share of a processor since the previous sample, memory in bytes, and
/// the number of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample(pub u64, pub CpuPercent, pub u64, pub u32);

/// The highest values of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsagePeak {
    /// The maximum over all samples; `None` if there are none.
    pub cpu_percent: Option<CpuPercent>,
    /// The maximum over all samples. After the end of the run it also covers the time between them.
    pub memory_bytes: Option<u64>,
}

/// An event in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The number of the event in its run; 0 for the commit before the start.
    pub seq: u64,
    /// When the event was seen. Within a run, this time never decreases.
    pub at: Timestamp,
    /// `starting`, `lost`, or the name of a fact. Later versions can add names.
    pub kind: String,
    /// The previous state of the pipeline, if the event changed it.
    pub from_state: Option<State>,
    /// The new state of the pipeline, if the event changed it.
    pub to_state: Option<State>,
    /// The cause of the event, if it is known. Later versions can add causes.
    pub cause: Option<String>,
    /// The origin of the action that led to the event, if there was an action and its origin is known.
    #[serde(default, deserialize_with = "Origin::read_if_any")]
    pub origin: Option<Origin>,
    /// The process id of the leader that was spawned.
    pub pid: Option<u32>,
    /// The exit code of the leader that ended.
    pub exit_code: Option<i32>,
    /// The signal that ended the leader.
    pub signal: Option<i32>,
    /// The name of that signal, such as `SIGTERM`, if it has one.
    pub signal_name: Option<String>,
    /// The time from TERM to KILL, for a stop that begins.
    pub grace_ms: Option<u64>,
    /// The milliseconds for which the run has been paused in total, as of a resume or the end.
    pub paused_ms: Option<u64>,
    /// How many processes the kernel killed because memory ran out, as of the end.
    #[serde(default)]
    pub oom_kills: Option<u64>,
    /// A sentence for people.
    pub detail: Option<String>,
    /// The processes that were killed at the end.
    #[serde(flatten)]
    pub killed: Killed,
}
