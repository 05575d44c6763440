//! The history: runs and their events.

use serde::{Deserialize, Serialize};

use super::query::{Kind, RUN_ID_MAX, query};
use crate::clock::Timestamp;
use crate::pipeline::{Containment, Killed, Origin, Progress, RunStatus, State};

/// The most runs of one answer.
pub const RUNS_MAX: u64 = 500;

query! {
    /// The query of `GET /api/runs`.
    RunsQuery {
        /// The most runs.
        limit: u64 = Kind::Number(1, RUNS_MAX),
        /// Only runs with an id below this one.
        before: u64 = Kind::Number(1, RUN_ID_MAX),
    }
}

/// The answer of `GET /api/runs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunsResponse {
    /// Newest first.
    pub runs: Vec<Run>,
    /// The `before` of the next page; none if this is the last one.
    pub next_before: Option<i64>,
}

/// The answer of `GET /api/runs/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunResponse {
    /// The run.
    pub run: WholeRun,
}

/// A run with everything that is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeRun {
    /// What the list of runs says of it.
    #[serde(flatten)]
    pub run: Run,
    /// How far it is or came, as it says.
    pub progress: Option<Progress>,
    /// What happened in it, oldest first.
    #[serde(default)]
    pub events: Vec<Event>,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its id, never used twice.
    pub id: i64,
    /// How it stands or how it ended.
    pub status: RunStatus,
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
    /// A sentence for people.
    pub detail: Option<String>,
    /// What was killed at the end.
    #[serde(flatten)]
    pub killed: Killed,
}
