//! Sessions and pairing: logging in, listing and ending sessions, and one-time codes.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::pipeline::words;

words! {
    /// The role of a client.
    Role {
        /// Everything.
        Operator = "act",
        /// Only requests that change nothing.
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

/// The response to a login.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginResponse {
    /// Always true.
    pub ok: bool,
    /// The role of the client from now on.
    pub may: Role,
    /// The proof that the page sends with its cookie, as `X-AutoAppDev-Proof`. Absent for a client that needs no session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// The proof for the query of a link to a run's log. Valid for nothing else, because browsers keep links in their history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download_proof: Option<String>,
}

/// The response to a logout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OkResponse {
    /// Always true.
    pub ok: bool,
}

/// The response to `GET /api/session`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionResponse {
    /// The client's session and role.
    pub session: Session,
}

/// The session and role of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The role of the client.
    pub may: Role,
    /// Whether this client must send a token.
    pub token_needed: bool,
    /// When the session ends unless it is renewed; `None` for a client that uses no session.
    pub expires_at: Option<Timestamp>,
    /// The session's id in `GET /api/sessions`; `None` for a client that uses no session.
    #[serde(default)]
    pub id: Option<String>,
}

/// The response to `GET /api/sessions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionsResponse {
    /// Every session, most recently used first.
    pub sessions: Vec<ListedSession>,
    /// The one-time codes that have not expired, oldest first. Empty if the server does not list them.
    #[serde(default)]
    pub codes: Vec<ListedCode>,
}

/// A one-time code in the list for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedCode {
    /// The id from the response to `POST /api/pair`. Not secret.
    pub id: String,
    /// The role of a session that is begun with the code.
    pub may: Role,
    /// When the code expires.
    pub expires_at: Timestamp,
    /// Whether the code has logged a browser in.
    pub is_used: bool,
}

/// A session in the list for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedSession {
    /// The id that ends the session. Not secret.
    pub id: String,
    /// The role of the session.
    pub may: Role,
    /// When it began.
    pub created_at: Timestamp,
    /// When it was last used. After a restart of the server this can be up to an hour too early.
    pub used_at: Timestamp,
    /// When it ends unless it is renewed.
    pub expires_at: Timestamp,
    /// When it ends in any case.
    pub ends_at: Timestamp,
    /// The IP address from which the session was begun: the client's, or that of a proxy in front of the client.
    pub address: String,
    /// The client's `User-Agent`.
    pub user_agent: String,
    /// Whether this request belongs to the session.
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

/// The response to `POST /api/sessions/end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndSessionsResponse {
    /// Always true.
    pub ok: bool,
    /// How many sessions were ended.
    pub ended: u64,
}

/// The body of `POST /api/pair`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairRequest {
    /// The role of a session that is begun with the code; the operator if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may: Option<Role>,
}

/// The response to `POST /api/pair`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairResponse {
    /// Always true.
    pub ok: bool,
    /// The role of a session that is begun with the code.
    pub may: Role,
    /// The code, which logs in one browser, once.
    pub code: String,
    /// The code's id in `GET /api/sessions`. Empty if the server does not list codes.
    #[serde(default)]
    pub id: String,
    /// When the code expires.
    pub expires_at: Timestamp,
    /// The links, which contain the code: one for each address by which another device may reach the server, at most 8, the
    /// likeliest first. Empty if the server listens on loopback only.
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

/// A QR code as a picture, without the light border that a QR reader needs around it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QrPicture {
    /// The width and height in modules.
    pub size: u32,
    /// The dark modules as the `d` of an SVG path. Each module is one unit wide and high.
    pub path: String,
}
