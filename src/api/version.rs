//! The identity and version of a server.

use serde::{Deserialize, Serialize};

use super::query::{Kind, query};
use super::session::Session;
use crate::clock::Timestamp;

query! {
    /// The query of `GET /api/version`.
    VersionQuery {
        /// The challenge to which the server replies with a proof that it owns its runtime directory: 32 lowercase hexadecimal
        /// digits.
        challenge: String = Kind::Text(CHALLENGE_BYTES_MAX),
    }
}

/// The longest challenge, in bytes.
const CHALLENGE_BYTES_MAX: usize = 32;

/// The response of `GET /api/version` to a challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofResponse {
    /// Always true.
    pub ok: bool,
    /// HMAC-SHA256 over the challenge and the address of the server's end of the connection, in hexadecimal digits.
    pub proof: String,
}

/// The version of the HTTP contract.
pub const API_VERSION: u32 = 1;

/// The response to `GET /api/version`. Older clients read `ok`, `app`, `service`, `build` and `started_at`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionResponse {
    /// Always true.
    pub ok: bool,
    /// The name of the program.
    pub name: String,
    /// The name of the program, for older clients.
    pub app: String,
    /// The name of the service that answers.
    pub service: String,
    /// The program's version.
    pub version: String,
    /// The build of the program.
    pub build: String,
    /// The version of the HTTP contract.
    pub api: u32,
    /// The version of the database's schema.
    pub schema: i64,
    /// When the server started.
    pub started_at: Timestamp,
    /// The name of the server's machine. Empty if the server does not send it.
    #[serde(default)]
    pub host: String,
    /// The time from TERM to KILL for a run whose start set no grace, in seconds.
    #[serde(default)]
    pub grace_s: f64,
    /// Whether actions take an `Idempotency-Key`. False if the server does not send it.
    #[serde(default)]
    pub takes_keys: bool,
    /// The session and role of the client, as in `GET /api/session`, which also renews a session. `None` if the server does not
    /// send it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// The identity of the server.
    pub server: Server,
}

/// The part of the response that identifies a server to a client of any version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerIdentity {
    /// The identity of the server.
    pub server: Server,
}

/// The identity of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// A random id, which is new at each start.
    pub id: String,
    /// The absolute path of the runtime directory, without links. Bytes that are not UTF-8 are shown as U+FFFD.
    pub runtime_dir: String,
}
