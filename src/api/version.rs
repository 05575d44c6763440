//! Which server this is.

use serde::{Deserialize, Serialize};

use super::query::{Kind, query};
use super::session::Session;
use crate::clock::Timestamp;

query! {
    /// The query of `GET /api/version`.
    VersionQuery {
        /// The challenge that the server signs to prove that it owns its runtime directory: 32 lowercase hexadecimal digits.
        challenge: String = Kind::Text(CHALLENGE_BYTES_MAX),
    }
}

/// The longest challenge, in bytes.
const CHALLENGE_BYTES_MAX: usize = 32;

/// The answer of `GET /api/version` to a challenge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofResponse {
    /// True.
    pub ok: bool,
    /// HMAC-SHA256 over the challenge and the address of the server's end of the connection, in hexadecimal digits.
    pub proof: String,
}

/// The version of the HTTP contract.
pub const API_VERSION: u32 = 1;

/// The answer of `GET /api/version`. Older clients read `ok`, `app`, `service`, `build` and `started_at`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VersionResponse {
    /// True.
    pub ok: bool,
    /// The program.
    pub name: String,
    /// The program.
    pub app: String,
    /// Which service answers.
    pub service: String,
    /// The program's version.
    pub version: String,
    /// Which build of it this is.
    pub build: String,
    /// The version of the HTTP contract.
    pub api: u32,
    /// The version of the database's schema.
    pub schema: i64,
    /// When the server started.
    pub started_at: Timestamp,
    /// The name of its machine. Empty from a server that does not say it.
    #[serde(default)]
    pub host: String,
    /// From TERM to KILL for a run whose start named no other, in seconds.
    #[serde(default)]
    pub grace_s: f64,
    /// Whether actions take an `Idempotency-Key`. False from a server that does not say it.
    #[serde(default)]
    pub takes_keys: bool,
    /// What the client may do, as in `GET /api/session`, which also renews a session. None from a server that does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// Which server this is.
    pub server: Server,
}

/// The part of the answer by which a client of any version knows a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// Which server it is.
    pub server: Server,
}

/// What tells a server from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Random, and new at each start.
    pub id: String,
    /// Absolute and without links. Bytes that are not UTF-8 show as U+FFFD.
    pub runtime_dir: String,
}
