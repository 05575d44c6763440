//! The protocol between server and shim: JSON, one object per line. Commands go down; facts (journal entries), replies and signs
//! come up.
//!
//! The first line on the stream that the shim is started with is a [`LaunchSpec`]. From then on, that stream works like every
//! other connection to the control socket. Unknown keys are ignored, and unknown words are read as [`Command::Unknown`] or
//! skipped, so that an old shim and a new server understand each other.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::signs::NumberedSigns;
use crate::clock::Timestamp;
use crate::path_json;
use crate::pipeline::{Entry, Origin};

/// The launch specification: everything that a shim needs to run a pipeline. It is sent over the socket and not written to disk,
/// because `env` can contain secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchSpec {
    /// [`super::FORMAT`] of the server.
    pub format: u32,
    /// The id of the run.
    pub run_id: i64,
    /// The runtime directory, absolute.
    #[serde(with = "path_json")]
    pub runtime_dir: PathBuf,
    /// When the start was requested.
    pub created_at: Timestamp,
    /// The origin of the start.
    #[serde(default, deserialize_with = "Origin::read")]
    pub origin: Origin,
    /// The script as it was named, for messages.
    pub script: String,
    /// The program to execute: an absolute path, or a name that is looked up in `PATH`.
    #[serde(with = "path_json")]
    pub program: PathBuf,
    /// The arguments before the client's: the script itself if `program` is its interpreter.
    #[serde(with = "path_json::list")]
    pub program_args: Vec<PathBuf>,
    /// The client's arguments.
    pub args: Vec<String>,
    /// The working directory, absolute.
    #[serde(with = "path_json")]
    pub cwd: PathBuf,
    /// Variables that are added to the environment that the shim has from the server.
    pub env: BTreeMap<String, String>,
    /// The grace of a stop that names none, in milliseconds.
    pub grace_ms: u64,
    /// The log position at which this run begins.
    pub log_start: u64,
    /// The size at which a log segment is closed, in bytes.
    pub log_segment_bytes: u64,
    /// The maximum size of all segments of this run, in bytes. Above it the oldest one is removed.
    pub log_run_bytes: u64,
    /// Whether to create a control group for the run if this user may do so.
    pub uses_cgroups: bool,
    /// The pipeline's core dump limit, in bytes; null means unlimited. The server's own limit is lower, and the shim inherits
    /// that.
    pub core_bytes_max: Option<u64>,
    /// The interval of the usage samples, in milliseconds; 0 means no samples.
    #[serde(default)]
    pub usage_ms: u64,
}

/// A command of a server to a shim. The [`Reply`] repeats its `tag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Sends every entry after number `after`, replies, and then sends new entries as they come.
    Attach {
        /// Identifies the reply.
        tag: u64,
        /// The number of the last entry that the server has.
        after: u64,
    },
    /// Stops the tree where it is.
    Pause {
        /// Identifies the reply.
        tag: u64,
        /// Its origin.
        #[serde(default, deserialize_with = "Origin::read")]
        origin: Origin,
    },
    /// Continues the tree.
    Resume {
        /// Identifies the reply.
        tag: u64,
        /// Its origin.
        #[serde(default, deserialize_with = "Origin::read")]
        origin: Origin,
    },
    /// Ends the run. If there are several stops, the latest grace counts if it is shorter, or if its origin may prolong the
    /// stop. The reply is sent at once; the end is a fact.
    Stop {
        /// Identifies the reply.
        tag: u64,
        /// The time from TERM to KILL in milliseconds. If absent, the run's own grace counts.
        grace_ms: Option<u64>,
        /// Its origin.
        #[serde(default, deserialize_with = "Origin::read")]
        origin: Origin,
    },
    /// Takes usage samples every second for a while, because a client follows the usage. The server repeats this command while
    /// that is so.
    Watch {
        /// Identifies the reply.
        tag: u64,
    },
    /// A command of a newer server, answered with [`ReplyError::UnknownCommand`].
    #[serde(other)]
    Unknown,
}

/// The reasons why a shim did not carry out a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplyError {
    /// A process did not stop in time. The stopped processes were continued.
    PauseTimeout,
    /// The leader did not continue.
    ResumeFailed,
    /// The pipeline was not in the right state, or a stop intervened.
    NotNow,
    /// The shim is older than the command.
    UnknownCommand,
    /// Any other reason, from a newer shim.
    #[serde(other)]
    Other,
}

/// A shim's answer to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The command's tag.
    pub reply: u64,
    /// `None` if the command was carried out; the facts about it were sent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ReplyError>,
    /// A sentence for users, with an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The log continues in a new segment; the previous one is finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// The position of the log's end at that time.
    pub rotated: u64,
}

/// A line from the shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Message {
    /// A fact, with its number and time.
    Fact(Entry),
    /// A command was accepted or refused.
    Reply(Reply),
    /// The latest values of everything that changes often.
    Signs(NumberedSigns),
    /// A segment of the log is finished.
    Rotated(Rotated),
}

#[cfg(test)]
mod tests {
    use super::super::lines::from_line;
    use super::*;

    #[test]
    fn protocol_words_of_newer_version_read_as_unknown() {
        let command: Command = serde_json::from_str(r#"{"command":"rewind","tag":3}"#).expect("reads");
        assert_eq!(command, Command::Unknown);
        let reply: Reply = serde_json::from_str(r#"{"reply":3,"error":"tired","new":1}"#).expect("reads");
        assert_eq!(reply.error, Some(ReplyError::Other));
    }

    #[test]
    fn json_list_is_not_a_protocol_message() {
        assert!(serde_json::from_slice::<Message>(b"[5]").is_ok(), "else all of this is not needed any more");
        assert!(from_line::<Message>(b"[5]").is_err() && from_line::<Message>(b" \t[5]").is_err());
        assert!(from_line::<Command>(br#"["pause",1]"#).is_err());
        assert!(matches!(from_line(br#" {"reply":5}"#), Ok(Message::Reply(_))));
    }

    #[test]
    fn protocol_messages_are_distinguished_by_their_keys() {
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
