//! Sessions and pairing: logging in, listing and ending sessions, and one-time codes.

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

/// The body of a login: a token, or the one-time code of a link.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoginRequest {
    /// The token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The code made by `POST /api/pair`.
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
    /// The proof that the page sends with its cookie, as `X-AutoAppDev-Proof`; absent for a client that needs no session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// The proof for the query of a link to a run's log. Valid for nothing else, because browsers keep links in their history.
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
    /// When the session ends unless it is renewed; `None` for a client without a session.
    pub expires_at: Option<Timestamp>,
    /// The session's id in `GET /api/sessions`; `None` for a client without a session.
    #[serde(default)]
    pub id: Option<String>,
}

/// The answer of `GET /api/sessions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionsResponse {
    /// Every session, most recently used first.
    pub sessions: Vec<ListedSession>,
    /// The one-time codes that have not expired, oldest first. Empty from a server that does not list them.
    #[serde(default)]
    pub codes: Vec<ListedCode>,
}

/// A one-time code as listed for an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedCode {
    /// The id from the answer of `POST /api/pair`. Not secret.
    pub id: String,
    /// What a session begun with the code may do.
    pub may: Role,
    /// When the code expires.
    pub expires_at: Timestamp,
    /// True once it has logged a browser in.
    pub is_used: bool,
}

/// A session as listed for an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedSession {
    /// The id used to end it. Not secret.
    pub id: String,
    /// What the session may do.
    pub may: Role,
    /// When it began.
    pub created_at: Timestamp,
    /// When it was last used; after a restart of the server up to an hour too early.
    pub used_at: Timestamp,
    /// When it ends unless it is renewed.
    pub expires_at: Timestamp,
    /// When it ends in any case.
    pub ends_at: Timestamp,
    /// The IP address of the client that began it, or of the proxy in front of that client.
    pub address: String,
    /// The client's `User-Agent`.
    pub user_agent: String,
    /// True for the session that made this request.
    pub is_own: bool,
}

/// The body of `POST /api/sessions/end`. Exactly one field must be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EndSessionsRequest {
    /// The session to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// True to end all sessions, including the caller's own.
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
    /// What a session begun with the code may do; everything if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may: Option<Role>,
}

/// The answer of `POST /api/pair`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairResponse {
    /// True.
    pub ok: bool,
    /// What a session begun with the code may do.
    pub may: Role,
    /// The code, which logs in once.
    pub code: String,
    /// The code's id in `GET /api/sessions`. Empty from a server that does not list codes.
    #[serde(default)]
    pub id: String,
    /// When the code expires.
    pub expires_at: Timestamp,
    /// A link for each address by which another device may reach the server, the likeliest first; empty if none does. They contain the code.
    #[serde(default)]
    pub links: Vec<PairLink>,
}

/// A link that logs a browser in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairLink {
    /// The link.
    pub url: String,
    /// Its QR code.
    pub qr: QrPicture,
}

/// A QR code as a picture, without the light border that a reader needs around it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QrPicture {
    /// How many modules it is wide and high.
    pub size: u32,
    /// The dark modules as the `d` of an SVG path, each one unit wide and high.
    pub path: String,
}
