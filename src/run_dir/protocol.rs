//! What server and shim say to each other: JSON, one object a line. Commands go down; facts (journal entries), replies
//! and signs come up.
//!
//! The first line on the stream that the shim was born with is a [`LaunchSpec`]; from then on it is like every other
//! connection to the control socket. Unknown keys are ignored and unknown words are [`Command::Unknown`] or skipped, so
//! that an old shim and a new server understand each other.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::signs::NumberedSigns;
use crate::clock::Timestamp;
use crate::path_json;
use crate::pipeline::{Entry, Origin};

/// All that a shim needs to run a pipeline. It goes over the socket and not to the disk: `env` can hold secrets.
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
    /// Who asked for it.
    #[serde(default, deserialize_with = "Origin::read")]
    pub origin: Origin,
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
    /// The pipeline's core dump limit, in bytes; null means unlimited. The server's own limit is lower, and the shim inherits
    /// that.
    pub core_bytes_max: Option<u64>,
    /// How often to look at what the run uses, in milliseconds; 0 for never.
    #[serde(default)]
    pub usage_ms: u64,
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
        /// Its origin.
        #[serde(default, deserialize_with = "Origin::read")]
        origin: Origin,
    },
    /// Let the tree go on.
    Resume {
        /// Names the reply.
        tag: u64,
        /// Its origin.
        #[serde(default, deserialize_with = "Origin::read")]
        origin: Origin,
    },
    /// End the run. Of several, the latest grace counts, if its origin may prolong it or it is shorter. The reply comes at once; the end is a fact.
    Stop {
        /// Names the reply.
        tag: u64,
        /// From TERM to KILL in milliseconds; the run's own where it is absent.
        grace_ms: Option<u64>,
        /// Its origin.
        #[serde(default, deserialize_with = "Origin::read")]
        origin: Origin,
    },
    /// Somebody watches what the run uses: look at it each second for a while. Said again and again as long as that is so.
    Watch {
        /// Names the reply.
        tag: u64,
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
    /// The latest of what changes often.
    Signs(NumberedSigns),
    /// A segment of the log is finished.
    Rotated(Rotated),
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
        let signs = r#"{"signs":{"progress":null,"note":"so","trouble":[{"code":"x","detail":"y","new":1}],"new":1},"number":7}"#;
        let Ok(Message::Signs(NumberedSigns { signs, number: 7 })) = serde_json::from_str(signs) else { panic!("signs") };
        assert_eq!((signs.note.as_deref(), signs.trouble[0].is_disk_full), (Some("so"), false));
        let none = serde_json::from_str(r#"{"signs":{},"number":0}"#);
        assert!(matches!(none, Ok(Message::Signs(signs)) if signs == NumberedSigns::default()));
        assert!(matches!(serde_json::from_str(r#"{"rotated":5}"#), Ok(Message::Rotated(Rotated { rotated: 5 }))));
        let unknown: Result<Message, _> = serde_json::from_str(r#"{"weather":"fine"}"#);
        assert!(unknown.is_err(), "what no version of this knows is no sign");
    }
}
