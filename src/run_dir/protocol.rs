//! What server and shim say to each other: JSON, one object a line. Commands go down; facts (journal entries), replies,
//! notes, troubles and progress come up.
//!
//! The first line on the stream that the shim was born with is a [`LaunchSpec`]; from then on it is like every other
//! connection to the control socket. Unknown keys are ignored and unknown words are [`Command::Unknown`] or skipped, so
//! that an old shim and a new server understand each other.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::progress::NumberedProgress;
use crate::clock::Timestamp;
use crate::path_json;
use crate::pipeline::{Entry, Lack, StopOrigin};

/// All that a shim needs to run a pipeline. It goes over the socket and never to the disk: `env` can hold secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// [`super::FORMAT`] of the server.
    pub format: u32,
    /// The run.
    pub run_id: i64,
    /// The runtime directory, absolute.
    #[serde(with = "path_json")]
    pub runtime_dir: PathBuf,
    /// When the start was asked for.
    pub created_at: Timestamp,
    /// The script as it was named, for people.
    pub script: String,
    /// What to execute: an absolute path, or a name that is looked up in `PATH`.
    #[serde(with = "path_json")]
    pub program: PathBuf,
    /// Arguments that come before the client's: the script itself where `program` is its interpreter.
    #[serde(with = "path_json::list")]
    pub program_args: Vec<PathBuf>,
    /// The client's arguments.
    pub args: Vec<String>,
    /// Where, absolute.
    #[serde(with = "path_json")]
    pub cwd: PathBuf,
    /// Added to the environment that the shim has from the server.
    pub env: BTreeMap<String, String>,
    /// The grace of a stop that names none, in milliseconds.
    pub grace_ms: u64,
    /// The log position at which this run begins.
    pub log_start: u64,
    /// The size at which a log segment is closed, in bytes.
    pub log_segment_bytes: u64,
    /// The size of all of this run's segments above which the oldest goes, in bytes.
    pub log_run_bytes: u64,
    /// Whether to make a control group for the run where this user may.
    pub uses_cgroups: bool,
}

/// What a server asks of a shim. `tag` comes back in the [`Reply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Send every entry after number `after`, reply, and go on with new ones as they come.
    Attach {
        /// Names the reply.
        tag: u64,
        /// The last entry the server has.
        after: u64,
    },
    /// Stop the tree where it stands.
    Pause {
        /// Names the reply.
        tag: u64,
    },
    /// Let the tree go on.
    Resume {
        /// Names the reply.
        tag: u64,
    },
    /// End the run. A second one can only shorten the grace. The reply comes at once; the end is a fact.
    Stop {
        /// Names the reply.
        tag: u64,
        /// From TERM to KILL in milliseconds; the run's own where it is absent.
        grace_ms: Option<u64>,
        /// The origin, if no client requested it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin: Option<StopOrigin>,
    },
    /// Said by a newer server; answered with [`ReplyError::UnknownCommand`].
    #[serde(other)]
    Unknown,
}

/// Why a shim did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplyError {
    /// A process would not stop in time; what had been stopped goes on again.
    PauseTimeout,
    /// The leader would not go on.
    ResumeFailed,
    /// The pipeline was not in the state for it, or a stop came between.
    NotNow,
    /// This shim is older than the command.
    UnknownCommand,
    /// Any other, from a newer shim.
    #[serde(other)]
    Other,
}

/// A shim's answer to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The command's tag.
    pub reply: u64,
    /// `None` when it is so; the facts that made it so were sent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ReplyError>,
    /// A sentence for people, with an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What a shim has to say about the state as it is, beside its facts. Said anew to each server, and forgotten with the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// A sentence for people; `None` once it does not hold any more. The key is always there: it tells a note from what this version does
    /// not know.
    #[serde(deserialize_with = "Option::deserialize")]
    pub note: Option<String>,
}

/// What a shim cannot do as it should, said once when it begins and once when it has passed. No fact: nothing is recorded of it. An
/// older server skips the line, an older shim never says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// A sentence for people; `None` when all is well again. Never absent: that tells this line from others.
    #[serde(deserialize_with = "Option::deserialize")]
    pub trouble: Option<String>,
    /// Whether that is for want of room on the disk.
    #[serde(default)]
    pub is_disk_full: bool,
    /// The resource whose lack kept a run from beginning, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lack: Option<Lack>,
    /// The same, each problem separately and with its code. An older shim sends none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<TroublePart>,
}

/// One of the shim's problems.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TroublePart {
    /// A condition's code. One that the server does not know is from a newer shim.
    pub code: String,
    /// A sentence for people.
    pub detail: String,
}

/// The log has gone on to another segment: the one before is finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// The position of the log's end then.
    pub rotated: u64,
}

/// A line that comes up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Message {
    /// Something happened.
    Fact(Entry),
    /// A command was taken or not.
    Reply(Reply),
    /// Something about the state.
    Note(Note),
    /// Something cannot be written, or can be again.
    Trouble(Trouble),
    /// A segment of the log is finished.
    Rotated(Rotated),
    /// How far the pipeline is.
    Progress(NumberedProgress),
}

#[cfg(test)]
mod tests {
    use super::super::lines::from_line;
    use super::*;

    #[test]
    fn words_of_a_newer_version_are_understood_as_unknown() {
        let command: Command = serde_json::from_str(r#"{"command":"rewind","tag":3}"#).expect("reads");
        assert_eq!(command, Command::Unknown);
        let reply: Reply = serde_json::from_str(r#"{"reply":3,"error":"tired","new":1}"#).expect("reads");
        assert_eq!(reply.error, Some(ReplyError::Other));
    }

    #[test]
    fn a_list_is_not_taken_for_a_reply() {
        assert!(serde_json::from_slice::<Message>(b"[5]").is_ok(), "else all of this is not needed any more");
        assert!(from_line::<Message>(b"[5]").is_err() && from_line::<Message>(b" \t[5]").is_err());
        assert!(from_line::<Command>(br#"["pause",1]"#).is_err());
        assert!(matches!(from_line(br#" {"reply":5}"#), Ok(Message::Reply(_))));
    }

    #[test]
    fn a_fact_and_a_reply_are_told_apart() {
        let fact = r#"{"seq":1,"at":"2026-01-31T10:00:00.123Z","boot_ms":5,"fact":"stopping","grace_ms":0}"#;
        assert!(matches!(serde_json::from_str(fact), Ok(Message::Fact(_))));
        assert!(matches!(serde_json::from_str(r#"{"reply":1}"#), Ok(Message::Reply(_))));
        assert!(matches!(serde_json::from_str(r#"{"note":"so"}"#), Ok(Message::Note(_))));
        assert!(matches!(serde_json::from_str(r#"{"note":null}"#), Ok(Message::Note(_))));
        let trouble = r#"{"trouble":"no room","new":1}"#;
        assert!(matches!(
            serde_json::from_str(trouble),
            Ok(Message::Trouble(Trouble { trouble: Some(_), is_disk_full: false, .. }))
        ));
        assert!(matches!(serde_json::from_str(r#"{"rotated":5}"#), Ok(Message::Rotated(Rotated { rotated: 5 }))));
        let progress =
            r#"{"progress":{"percent":40.5,"text":null,"at":"2026-01-31T10:00:00.123Z","steps":[],"steps_before":0},"number":7}"#;
        assert!(matches!(serde_json::from_str(progress), Ok(Message::Progress(NumberedProgress { number: 7, .. }))));
        let unknown: Result<Message, _> = serde_json::from_str(r#"{"weather":"fine"}"#);
        assert!(unknown.is_err(), "what no version of this knows is no trouble that has passed");
    }
}
