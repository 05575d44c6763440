//! Log-ins, and what a client may do.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::pipeline::words;

words! {
    /// What a client may do.
    Role {
        /// Everything.
        Operator = "act",
        /// Only what changes nothing.
        Viewer = "look",
    }
}

/// The body of a log-in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// The token.
    pub token: String,
}

/// The answer to a log-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginResponse {
    /// True.
    pub ok: bool,
    /// What the client may do now.
    pub may: Role,
}

/// The answer to a log-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OkResponse {
    /// True.
    pub ok: bool,
}

/// The answer of `GET /api/session`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionResponse {
    /// Who asks.
    pub session: Session,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// What the client may do.
    pub may: Role,
    /// Whether a token is needed here.
    pub token_needed: bool,
    /// When the log-in ends; none for a client that did not log in.
    pub expires_at: Option<Timestamp>,
}
