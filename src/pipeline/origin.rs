//! The origin of an action. It travels with the command to the shim, returns with the facts, and is kept in the history.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize};

/// The origin of an action: the client or the rule that requested it. In JSON, an object whose key `by` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Origin {
    /// A client of the HTTP API.
    Client {
        /// The client's role.
        role: Role,
        /// The address or the user that the client connected from.
        #[serde(flatten)]
        peer: Peer,
    },
    /// The schedule.
    Schedule,
    /// The rule that starts a run again after it has ended.
    Restart,
    /// The rule that starts a run when the server starts.
    Autostart,
    /// A limit of the run, such as a time limit.
    Limit,
    /// A command from the broker.
    Fleet,
    /// The run itself.
    Pipeline,
    /// The server, which was asked to exit and stops the run first.
    Shutdown,
    /// A SIGTERM to the run's shim: the machine is shutting down, or another process sent it.
    Signal,
    /// Any other origin: one that a newer version added, or one that was not sent.
    #[default]
    #[serde(other)]
    Unknown,
}

/// A role that may request actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The role without restrictions.
    Operator,
}

/// The address or the user that a client connected from. In JSON, one key of the origin's object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// An IP address; for a client behind a proxy, that of the proxy.
    Address(IpAddr),
    /// The Unix socket: the user id of the process that connected.
    Uid(u32),
}

impl Origin {
    /// Returns whether a stop with this origin can extend the grace of a stop under way. Other origins, such as a shutdown
    /// of the machine, can only shorten it.
    pub const fn can_prolong(self) -> bool {
        matches!(self, Self::Client { .. })
    }

    /// Returns the origin of an action of a client with the role operator.
    pub const fn operator(peer: Peer) -> Self {
        Self::Client { role: Role::Operator, peer }
    }

    /// Reads an origin from a line of the other side. Parts that this version does not know must not make the whole line
    /// unreadable.
    pub fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read_if_any(deserializer).map(Option::unwrap_or_default)
    }

    /// Reads an origin that can be absent, in the same way.
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

    /// Returns every origin with its JSON and its sentence.
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
