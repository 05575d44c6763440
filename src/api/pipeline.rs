//! The pipeline: its state, and the actions.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::query::{Kind, query};
use crate::clock::Timestamp;
use crate::pipeline::{Action, Conditions, Containment, Origin, Outcome, Progress, RunStatus, State, Usage, words};

/// The request field that makes an action happen once: a repeat with the same key gets the same response.
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// The longest key, in characters. All characters must be visible ASCII.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 64;
/// The response field that marks a repeated response: the request was answered before, and nothing was done now.
pub const IDEMPOTENT_REPLAY: &str = "Idempotent-Replay";

/// The longest time that a response waits, in seconds.
pub const WAIT_S_MAX: u64 = 60;

query! {
    /// The query of `GET /api/pipeline`.
    PipelineQuery {
        /// The version that the client has. The response waits until the version is another one.
        after: u64 = Kind::Number(0, u64::MAX),
        /// How long the response waits, in seconds.
        wait: u64 = Kind::Number(0, WAIT_S_MAX),
    }
}

/// The response to `GET /api/pipeline`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelineResponse<P = Pipeline> {
    /// The state.
    pub pipeline: P,
}

/// The state of the pipeline at one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipeline {
    /// The state itself.
    pub state: State,
    /// The action in progress.
    pub pending: Option<Action>,
    /// The origin of that action, if it is known.
    #[serde(default, deserialize_with = "Origin::read_if_any")]
    pub pending_origin: Option<Origin>,
    /// When the grace of the stop in progress ends and KILL follows, by the wall clock.
    pub kill_at: Option<Timestamp>,
    /// The actions that the state allows.
    pub allowed: Vec<Action>,
    /// The process id of the leader; `None` when stopped.
    pub pid: Option<u32>,
    /// The latest run.
    pub run_id: Option<i64>,
    /// When the latest run was seen to run.
    pub started_at: Option<Timestamp>,
    /// The time of its latest pause.
    pub paused_at: Option<Timestamp>,
    /// The time of its latest resume.
    pub resumed_at: Option<Timestamp>,
    /// When it was seen to have ended.
    pub stopped_at: Option<Timestamp>,
    /// When any of this last changed.
    pub updated_at: Timestamp,
    /// The number of changes.
    pub version: u64,
    /// The status of the latest run; `None` before the first run.
    #[serde(with = "or_idle")]
    pub status: Option<RunStatus>,
    /// How the latest run ended; `None` before the first run and while a run is alive.
    pub outcome: Option<Outcome>,
    /// The event that a live run waits for. This version never sets it.
    pub waiting: Option<Waiting>,
    /// The action that will be performed without a request. This version never sets it.
    pub next: Option<Next>,
    /// The script of the latest run. Before the first run, the script that a start without `script` runs.
    pub script: Option<String>,
    /// The script that a start without `script` runs.
    pub default_script: Option<String>,
    /// The exit code of the latest run.
    pub exit_code: Option<i32>,
    /// The signal that ended the latest run.
    pub signal: Option<i32>,
    /// How many processes the kernel killed during the latest run because memory ran out; `None` if it did not count them. Known after
    /// the end.
    #[serde(default)]
    pub oom_kills: Option<u64>,
    /// Why the latest run never came to life or was lost.
    pub error: Option<String>,
    /// How the latest run's processes are kept together; `None` until the run was seen to run.
    pub containment: Option<Containment>,
    /// A note about the state, such as a pause that does not hold, or the processes that were killed at the end.
    pub detail: Option<String>,
    /// The progress that the latest run reports; `None` if it reports nothing. It does not change `version`.
    pub progress: Option<Progress>,
    /// The resources that the run's processes use; `None` while the run is paused or stopped, and before the first scan. Does not
    /// change `version`.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// The current conditions. They do not change `version`.
    #[serde(default)]
    pub conditions: Conditions,
}

/// The event that a live run waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "snake_case")]
pub enum Waiting {
    /// A time.
    Time {
        /// The time.
        until: Timestamp,
        /// The reason, in the pipeline's words.
        reason: Option<String>,
    },
    /// A person's answer.
    Person {
        /// The question.
        ask_id: i64,
        /// When the question expires without an answer.
        until: Option<Timestamp>,
        /// The reason, in the pipeline's words.
        reason: Option<String>,
    },
}

/// The action that will be performed without a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// The action.
    pub action: NextAction,
    /// The time of the action.
    pub at: Timestamp,
    /// The rule that causes the action.
    pub because: String,
    /// The number of the attempt, for a rule that counts attempts.
    pub attempt: Option<u32>,
}

words! {
    /// An action that can be performed without a request.
    NextAction {
        /// Begin a run.
        Start = "start",
        /// Continue the paused run.
        Resume = "resume",
    }
}

/// A status that is `idle` before the first run.
mod or_idle {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use crate::pipeline::RunStatus;

    const IDLE: &str = "idle";

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
    #[expect(clippy::ref_option, reason = "serde passes it so")]
    pub(super) fn serialize<S: Serializer>(status: &Option<RunStatus>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(status.map_or(IDLE, RunStatus::as_str))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RunStatus>, D::Error> {
        let word = String::deserialize(deserializer)?;
        if word == IDLE { Ok(None) } else { word.parse().map(Some).map_err(D::Error::custom) }
    }
}

/// The response to `GET /api/pipeline/status`, which older clients read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusResponse {
    /// The state in short.
    pub status: Status,
}

/// The state in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether the pipeline runs; false while it is paused.
    pub running: bool,
    /// The process id of the leader; `None` when stopped.
    pub pid: Option<u32>,
    /// The latest run.
    pub run_id: Option<i64>,
    /// The status of the latest run; `None` before the first run.
    #[serde(with = "or_idle")]
    pub state: Option<RunStatus>,
}

/// The latest run as the client of an action saw it. The action is performed only if that run is still the latest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExpectedRun {
    /// Any run: the key is absent.
    #[default]
    Any,
    /// This run. `None` is sent as null, and means that there is no run yet.
    Is(Option<i64>),
}

impl ExpectedRun {
    /// Returns whether the action is meant for any run.
    fn is_any(&self) -> bool {
        *self == Self::Any
    }
}

impl Serialize for ExpectedRun {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => serializer.serialize_none(),
            Self::Is(run_id) => run_id.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ExpectedRun {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(Self::Is)
    }
}

/// Reads a value that can be absent but must not be null.
fn not_null<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The body of a start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StartRequest {
    /// The script, relative to the root or absolute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// The script's arguments. If the key is absent, the arguments of the run that `again` names, otherwise none.
    #[serde(deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// The folder in which the script runs, inside the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The variables that are added to the environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The seconds from TERM to KILL for a stop that names no grace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_s: Option<f64>,
    /// The run whose start is repeated. The other keys of this body replace the values of that start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub again: Option<i64>,
    /// The run that the start is meant to follow.
    #[serde(skip_serializing_if = "ExpectedRun::is_any")]
    pub if_run_id: ExpectedRun,
}

/// The body of a stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StopRequest {
    /// The seconds from TERM to KILL. If absent, the run's own grace is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_s: Option<f64>,
    /// The run that the client means to stop.
    #[serde(skip_serializing_if = "ExpectedRun::is_any")]
    pub if_run_id: ExpectedRun,
}

/// The body of a pause or a resume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ActionRequest {
    /// The run that the client means.
    #[serde(skip_serializing_if = "ExpectedRun::is_any")]
    pub if_run_id: ExpectedRun,
}

/// The body of a request that takes no keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmptyRequest {}

/// The response to an action that was performed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionResponse {
    /// Always true.
    pub ok: bool,
    /// The state of the pipeline after the action.
    pub state: State,
    /// After a start: the process id of the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The run.
    pub run_id: Option<i64>,
    /// After a start: the script that was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// The version of the state after the action.
    pub version: u64,
    /// The current conditions.
    #[serde(default)]
    pub conditions: Conditions,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn waiting_and_next_forms_round_trip() {
        let at = "2026-01-31T10:00:00.000Z";
        for form in [
            json!({"for": "time", "until": at, "reason": "usage limit"}),
            json!({"for": "person", "ask_id": 3, "until": null, "reason": null}),
        ] {
            let waiting: Waiting = serde_json::from_value(form.clone()).expect("it reads");
            assert_eq!(serde_json::to_value(waiting).expect("plain data"), form);
        }
        for form in [
            json!({"action": "start", "at": at, "because": "restart", "attempt": 2}),
            json!({"action": "resume", "at": at, "because": "schedule", "attempt": null}),
        ] {
            let next: Next = serde_json::from_value(form.clone()).expect("it reads");
            assert_eq!(serde_json::to_value(next).expect("plain data"), form);
        }
    }
}
