//! The pipeline: its state, and the actions.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::query::{Kind, query};
use crate::clock::Timestamp;
use crate::pipeline::{Action, Conditions, Containment, Origin, Outcome, Progress, RunStatus, State, Usage, words};

/// The request field with which an action is done once: a repeat with the same key gets the same answer.
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// The longest key, in characters. All of them are visible ASCII.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 64;
/// The answer's field that says that the request was answered before, and that nothing was done now.
pub const IDEMPOTENT_REPLAY: &str = "Idempotent-Replay";

/// The longest wait of an answer, in seconds.
pub const WAIT_S_MAX: u64 = 60;

query! {
    /// The query of `GET /api/pipeline`.
    PipelineQuery {
        /// The version that the client has: the answer waits for another one.
        after: u64 = Kind::Number(0, u64::MAX),
        /// For how long it waits, in seconds.
        wait: u64 = Kind::Number(0, WAIT_S_MAX),
    }
}

/// The answer of `GET /api/pipeline`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelineResponse<P = Pipeline> {
    /// The state.
    pub pipeline: P,
}

/// The state of the pipeline at one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipeline {
    /// What it is.
    pub state: State,
    /// The action under way.
    pub pending: Option<Action>,
    /// The origin of that action, if it is known.
    #[serde(default, deserialize_with = "Origin::read_if_any")]
    pub pending_origin: Option<Origin>,
    /// When the grace of the stop under way is over and KILL follows, by the wall clock.
    pub kill_at: Option<Timestamp>,
    /// The actions that would not be refused.
    pub allowed: Vec<Action>,
    /// The leader; none when stopped.
    pub pid: Option<u32>,
    /// The latest run.
    pub run_id: Option<i64>,
    /// When the latest run was seen to run.
    pub started_at: Option<Timestamp>,
    /// Its latest pause.
    pub paused_at: Option<Timestamp>,
    /// Its latest resume.
    pub resumed_at: Option<Timestamp>,
    /// When it was seen to have ended.
    pub stopped_at: Option<Timestamp>,
    /// When anything of this changed.
    pub updated_at: Timestamp,
    /// Counts changes.
    pub version: u64,
    /// The latest run's status; none before the first run.
    #[serde(with = "or_idle")]
    pub status: Option<RunStatus>,
    /// How the latest run ended; none before the first run and while a run is alive.
    pub outcome: Option<Outcome>,
    /// What a live run waits for. This version never sets it.
    pub waiting: Option<Waiting>,
    /// What will be done without a request. This version never sets it.
    pub next: Option<Next>,
    /// The latest run's script, or the one that a start without a name takes.
    pub script: Option<String>,
    /// The script that a start without a name takes.
    pub default_script: Option<String>,
    /// The latest run's exit code.
    pub exit_code: Option<i32>,
    /// The signal that ended the latest run.
    pub signal: Option<i32>,
    /// Why the latest run never came to life, or was lost.
    pub error: Option<String>,
    /// What holds the latest run's processes together; none before it was seen to run.
    pub containment: Option<Containment>,
    /// A note about the state, such as a pause that does not hold, or the processes killed at the end.
    pub detail: Option<String>,
    /// How far the latest run is, as its pipeline says; none if it says nothing. The version does not count it.
    pub progress: Option<Progress>,
    /// What its processes use; none while it is paused or stopped, and before the first look. The version does not count it.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// The current conditions. The version does not count them.
    #[serde(default)]
    pub conditions: Conditions,
}

/// What a live run waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "snake_case")]
pub enum Waiting {
    /// A time.
    Time {
        /// The time.
        until: Timestamp,
        /// Why, in the pipeline's words.
        reason: Option<String>,
    },
    /// A person's answer.
    Person {
        /// The question.
        ask_id: i64,
        /// When the question ends without an answer.
        until: Option<Timestamp>,
        /// Why, in the pipeline's words.
        reason: Option<String>,
    },
}

/// What will be done without a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// What.
    pub action: NextAction,
    /// When.
    pub at: Timestamp,
    /// The rule that wants it.
    pub because: String,
    /// Which attempt it is, of a rule that counts them.
    pub attempt: Option<u32>,
}

words! {
    /// What can be done without a request.
    NextAction {
        /// Begin a run.
        Start = "start",
        /// Let the paused run go on.
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

/// The answer of `GET /api/pipeline/status`, which older clients read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusResponse {
    /// The state in short.
    pub status: Status,
}

/// The state in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether it runs; false while it is paused.
    pub running: bool,
    /// The leader; none when stopped.
    pub pid: Option<u32>,
    /// The latest run.
    pub run_id: Option<i64>,
    /// The latest run's status; none before the first run.
    #[serde(with = "or_idle")]
    pub state: Option<RunStatus>,
}

/// The latest run that an action is meant for, as its client saw it: the action is done only if that is still so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfRun {
    /// Whatever the latest run is: the key is absent.
    #[default]
    Any,
    /// This run; none is null, and means that there is no run yet.
    Is(Option<i64>),
}

impl IfRun {
    /// Whether the action is meant for whatever the latest run is.
    fn is_any(&self) -> bool {
        *self == Self::Any
    }
}

impl Serialize for IfRun {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => serializer.serialize_none(),
            Self::Is(run_id) => run_id.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for IfRun {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(Self::Is)
    }
}

/// Reads a value that can be absent, and is not null where it is there.
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
    /// Its arguments. If the key is absent: those of the run that `again` names, or none.
    #[serde(deserialize_with = "not_null", skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// The folder it runs in, in the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// What is added to its environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Seconds from TERM to KILL when a stop does not give them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_s: Option<f64>,
    /// The run whose start is repeated, with what else is in this body in place of that start's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub again: Option<i64>,
    /// The run that it is meant to follow.
    #[serde(skip_serializing_if = "IfRun::is_any")]
    pub if_run_id: IfRun,
}

/// The body of a stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StopRequest {
    /// Seconds from TERM to KILL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_s: Option<f64>,
    /// The run that is meant.
    #[serde(skip_serializing_if = "IfRun::is_any")]
    pub if_run_id: IfRun,
}

/// The body of a pause or a resume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ActionRequest {
    /// The run that is meant.
    #[serde(skip_serializing_if = "IfRun::is_any")]
    pub if_run_id: IfRun,
}

/// The body of a request that takes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmptyRequest {}

/// The answer to an action that was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionResponse {
    /// True.
    pub ok: bool,
    /// What the pipeline is now.
    pub state: State,
    /// After a start: the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The run.
    pub run_id: Option<i64>,
    /// After a start: the script that was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// The version of the state.
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
    fn what_a_later_version_says_of_waiting_and_next_can_be_read() {
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
