//! The origin of an action. It travels with the command to the shim, returns with the facts, and is kept in the history.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize};

/// The origin of an action: the client or the rule that requested it. In JSON, an object whose `by` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Origin {
    /// A client of the HTTP API.
    Client {
        /// What it may do.
        role: Role,
        /// Where it connected from.
        #[serde(flatten)]
        peer: Peer,
    },
    /// The schedule.
    Schedule,
    /// The rule that starts a run again after its end.
    Restart,
    /// The rule that starts a run when the server starts.
    Autostart,
    /// A limit of the run, such as its time.
    Limit,
    /// A command from the broker.
    Fleet,
    /// The run itself.
    Pipeline,
    /// The server, which was asked to exit and stops the run first.
    Shutdown,
    /// A SIGTERM to the run's shim: the machine shuts down, or somebody sent it.
    Signal,
    /// Any other: from a newer version, or from one that does not say.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A role that may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It may do everything.
    Operator,
}

/// Where a client connected from: one key of the origin's object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// An IP address; that of the proxy for a client behind one.
    Address(IpAddr),
    /// The Unix socket: the user id of the process that connected.
    Uid(u32),
}

impl Origin {
    /// Whether a stop that it wants can give a stop under way a longer grace. Others, such as the end of the machine, only hasten one.
    pub const fn can_prolong(self) -> bool {
        matches!(self, Self::Client { .. })
    }

    /// A client that may act.
    pub const fn operator(peer: Peer) -> Self {
        Self::Client { role: Role::Operator, peer }
    }

    /// Reads an origin from a line of the other side. What this version does not understand of it must not cost the whole line.
    pub fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read_if_any(deserializer).map(Option::unwrap_or_default)
    }

    /// The same where there may be none.
    pub fn read_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Self>, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Ok(Option::deserialize(value).unwrap_or(Some(Self::Unknown)))
    }
}

/// Follows a participle, as in "stopped by the schedule".
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client { peer: Peer::Address(address), .. } => return write!(f, "by a client at {address}"),
            Self::Client { peer: Peer::Uid(uid), .. } => return write!(f, "by a client with user id {uid}"),
            Self::Schedule => "by the schedule",
            Self::Restart => "by the restart rule",
            Self::Autostart => "by autostart",
            Self::Limit => "by a limit",
            Self::Fleet => "by the fleet",
            Self::Pipeline => "by the pipeline itself",
            Self::Shutdown => "because the server was shut down",
            Self::Signal => "because its shim got a SIGTERM, as at a shutdown of the machine",
            Self::Unknown => "by a request of unknown origin",
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Every origin: its JSON, and how it reads.
    fn table() -> [(Origin, Value, &'static str); 12] {
        let at = |address: &str| Origin::operator(Peer::Address(address.parse().expect("an address")));
        let client = |key: &str, value: Value| json!({"by": "client", "role": "operator", key: value});
        [
            (at("192.168.1.7"), client("address", json!("192.168.1.7")), "by a client at 192.168.1.7"),
            (at("fd00::1"), client("address", json!("fd00::1")), "by a client at fd00::1"),
            (Origin::operator(Peer::Uid(1000)), client("uid", json!(1000)), "by a client with user id 1000"),
            (Origin::Schedule, json!({"by": "schedule"}), "by the schedule"),
            (Origin::Restart, json!({"by": "restart"}), "by the restart rule"),
            (Origin::Autostart, json!({"by": "autostart"}), "by autostart"),
            (Origin::Limit, json!({"by": "limit"}), "by a limit"),
            (Origin::Fleet, json!({"by": "fleet"}), "by the fleet"),
            (Origin::Pipeline, json!({"by": "pipeline"}), "by the pipeline itself"),
            (Origin::Shutdown, json!({"by": "shutdown"}), "because the server was shut down"),
            (Origin::Signal, json!({"by": "signal"}), "because its shim got a SIGTERM, as at a shutdown of the machine"),
            (Origin::Unknown, json!({"by": "unknown"}), "by a request of unknown origin"),
        ]
    }

    #[test]
    fn every_origin_has_one_json_form_and_one_sentence() {
        for (origin, form, sentence) in table() {
            assert_eq!(serde_json::to_value(origin).expect("plain data"), form);
            assert_eq!(serde_json::from_value::<Origin>(form).expect("its own form"), origin);
            assert_eq!(origin.to_string(), sentence);
        }
    }

    #[test]
    fn origin_of_another_version_reads_as_unknown() {
        let strange = [
            json!({"by": "weather"}),
            json!({"by": "client", "role": "robot", "uid": 0}),
            json!({"by": "client", "role": "operator", "plane": "7"}),
            json!("shutdown"),
            json!(7),
        ];
        for form in strange {
            assert_eq!(Origin::read_if_any(&form).expect("never an error"), Some(Origin::Unknown), "{form}");
            assert_eq!(Origin::read(&form).expect("never an error"), Origin::Unknown, "{form}");
        }
        assert_eq!(Origin::read_if_any(Value::Null).expect("never an error"), None);
        assert_eq!(Origin::read_if_any(json!({"by": "limit", "new": 1})).expect("never an error"), Some(Origin::Limit));
    }
}
