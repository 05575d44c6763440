//! Sessions and pairing: what a client may do, and who is logged in.

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

/// The body of a log-in: a token, or the one-time code of a link.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoginRequest {
    /// The token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The code that `POST /api/pair` made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// The answer to a log-in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginResponse {
    /// True.
    pub ok: bool,
    /// What the client may do now.
    pub may: Role,
    /// What the page sends with its cookie, as `X-AutoAppDev-Proof`; none for a client that needs no session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// The same for a link to a run's log, in its query. It is good for nothing else, because a browser keeps links in its history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download_proof: Option<String>,
}

/// The answer to a log-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OkResponse {
    /// True.
    pub ok: bool,
}

/// The answer of `GET /api/session`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionResponse {
    /// Who asks.
    pub session: Session,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// What the client may do.
    pub may: Role,
    /// Whether a token is needed here.
    pub token_needed: bool,
    /// When the session ends unless it is renewed; none for a client without one.
    pub expires_at: Option<Timestamp>,
    /// Its id in `GET /api/sessions`; none for a client without one.
    #[serde(default)]
    pub id: Option<String>,
}

/// The answer of `GET /api/sessions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionsResponse {
    /// Every session, the latest used first.
    pub sessions: Vec<ListedSession>,
}

/// A session as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedSession {
    /// By which it can be ended. No secret.
    pub id: String,
    /// What it may do.
    pub may: Role,
    /// When it began.
    pub created_at: Timestamp,
    /// When it was last used; after a restart of the server up to an hour too early.
    pub used_at: Timestamp,
    /// When it ends unless it is renewed.
    pub expires_at: Timestamp,
    /// When it ends in any case.
    pub ends_at: Timestamp,
    /// The IP address that it came from; that of the proxy for a client behind one.
    pub address: String,
    /// What its browser called itself.
    pub user_agent: String,
    /// Whether it is the one that asks.
    pub is_own: bool,
}

/// The body of `POST /api/sessions/end`: one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EndSessionsRequest {
    /// The session to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// True to end all of them, that of the client too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
}

/// The answer of `POST /api/sessions/end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndSessionsResponse {
    /// True.
    pub ok: bool,
    /// How many sessions were ended.
    pub ended: u64,
}

/// The body of `POST /api/pair`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairRequest {
    /// What the code's session may do; everything if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may: Option<Role>,
}

/// The answer of `POST /api/pair`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairResponse {
    /// True.
    pub ok: bool,
    /// What the code's session may do.
    pub may: Role,
    /// The code. It logs in once.
    pub code: String,
    /// When it is good for nothing any more.
    pub expires_at: Timestamp,
}
