//! Every error as a client sees it: one exhaustive match from causes to status codes and stable words. No endpoint picks a number.

use std::borrow::Cow;
use std::net::IpAddr;

use rouille::Response;
use serde_json::{Map, Value, json};

use super::json::json as json_answer;
use crate::pipeline::{Lack, State};
use crate::process::lack_of;
use crate::script::ScriptError;
use crate::store::StoreError;
use crate::supervisor::{ActionError, Obstacle};
use crate::transport::Broken;

/// The status code and the error code for a lack of a limited resource.
const fn of_lack(lack: Lack) -> (u16, &'static str) {
    match lack {
        Lack::Processes => (503, "out_of_processes"),
        Lack::Descriptors => (503, "out_of_descriptors"),
        Lack::Memory => (503, "out_of_memory"),
        Lack::Unknown => (503, "spawn_failed"),
    }
}

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("too many long requests at once; try again")]
    Crowded,
    #[error("the body is no JSON: {0}")]
    NotJson(String),
    #[error("{0}")]
    BadBody(String),
    #[error("args must be a list of strings")]
    BadArgs,
    #[error("{0}")]
    BadQuery(String),
    #[error("there is no such log: {0}")]
    UnknownLog(String),
    #[error("there is no such thing here; GET /api/pipeline tells the state")]
    NotFound,
    #[error("there is no run {0}; GET /api/runs (`autoappdev runs`) lists those there are")]
    NoSuchRun(String),
    #[error("this is not a method for it; it takes {0}")]
    MethodNotAllowed(&'static str),
    #[error("the body must be sent as Content-Type: application/json (curl --json)")]
    NotSentAsJson,
    #[error(
        "{0:?} is no name of this server; call it by its number, or add the name to AUTOAPPDEV_ALLOW_HOST if it should be one"
    )]
    HostNotAllowed(String),
    #[error(
        "a page of {0:?} role not use the API here; add its origin to AUTOAPPDEV_ALLOW_ORIGIN if it should. If you followed a link, open the \
         address from the address bar instead"
    )]
    OriginNotAllowed(String),
    #[error("the request is meant for another server: the id in AutoAppDev-Server is not this server's; nothing was done")]
    OtherServer,
    #[error(
        "as many streams are open as there role be; come back in a few seconds, or ask GET /api/logs and /api/pipeline with wait"
    )]
    TooManyStreams,
    #[error("as many logs are being sent as there role be; come back in a few seconds, or ask GET /api/logs for pages")]
    TooManyDownloads,
    #[error(
        "the log has {len} bytes in this form, and nothing of that range; ask without Range, or for its end (`Range: bytes=-10000`)"
    )]
    NoSuchRange { len: u64 },
    #[error(
        "this asks for the token: send it as `Authorization: Bearer …`, or log in on the page. It is what AUTOAPPDEV_TOKEN says, else it is \
         in the file `token` in the server's runtime directory; `autoappdev pair` on that machine makes a link of it"
    )]
    TokenNeeded,
    #[error(
        "that token is not this server's. The right one is what AUTOAPPDEV_TOKEN says, else it is in the file `token` in the server's \
         runtime directory; `autoappdev pair` on that machine makes a link of it"
    )]
    WrongToken,
    #[error("too many wrong tokens came from {from}; try again in {wait_s} s. Who has logged in before is not affected")]
    TooManyTries { from: IpAddr, wait_s: u64 },
    #[error("this token role look and not act; log in with the other one (AUTOAPPDEV_TOKEN, `autoappdev pair`)")]
    ReadOnly,
    #[error(transparent)]
    Action(#[from] ActionError),
    #[error("the database could not be read; the server's log (backend.log) has the cause")]
    Store(#[from] StoreError),
    #[error("the log could not be read; the server's log (backend.log) has the cause")]
    Log(#[from] std::io::Error),
}

impl ApiError {
    /// The status code and the stable word.
    fn code(&self) -> (u16, &'static str) {
        match self {
            Self::Broken(broken) => match broken {
                Broken::Malformed(_) => (400, "invalid_request"),
                Broken::HeadTooLarge => (431, "head_too_large"),
                Broken::TargetTooLong => (414, "uri_too_long"),
                Broken::BodyTooLarge => (413, "body_too_large"),
                Broken::TimedOut => (408, "request_timeout"),
                Broken::TooManyBodies | Broken::TooManyConnections => (503, "busy"),
                Broken::NoThread => (503, "out_of_processes"),
                Broken::NotServed(_) => (501, "not_implemented"),
                Broken::Fault => (500, "internal"),
            },
            Self::Crowded => (503, "busy"),
            Self::NotJson(_) => (400, "invalid_json"),
            Self::BadBody(_) => (400, "invalid_body"),
            Self::BadArgs => (400, "args_must_be_list"),
            Self::BadQuery(_) => (400, "invalid_query"),
            Self::UnknownLog(_) => (400, "unknown_log"),
            Self::NotFound | Self::NoSuchRun(_) => (404, "not_found"),
            Self::MethodNotAllowed(_) => (405, "method_not_allowed"),
            Self::NotSentAsJson => (415, "unsupported_media_type"),
            Self::HostNotAllowed(_) => (421, "host_not_allowed"),
            // RFC 9110, section 15.5.20: the request came to the wrong server, and may be sent to another one.
            Self::OtherServer => (421, "other_server"),
            Self::TooManyStreams => (503, "too_many_streams"),
            Self::TooManyDownloads => (503, "too_many_downloads"),
            Self::NoSuchRange { .. } => (416, "no_such_range"),
            Self::OriginNotAllowed(_) => (403, "origin_not_allowed"),
            Self::TokenNeeded | Self::WrongToken => (401, "unauthorized"),
            Self::TooManyTries { .. } => (429, "too_many_tries"),
            Self::ReadOnly => (403, "read_only"),
            Self::Action(error) => match error {
                ActionError::Refused(_) => (409, "invalid_transition"),
                ActionError::Script(error) => match error {
                    ScriptError::Unnamed
                    | ScriptError::NotAFile { .. }
                    | ScriptError::Unrunnable(_)
                    | ScriptError::Unreadable { .. } => (400, "invalid_script"),
                    ScriptError::BadName { .. } | ScriptError::NotAFolder(_) | ScriptError::ClosedFolder(_) => {
                        (400, "invalid_body")
                    }
                    ScriptError::NotFound { .. } | ScriptError::NoRoot { .. } => (404, "script_not_found"),
                    ScriptError::OutsideRoot { .. } => (400, "script_outside_root"),
                },
                ActionError::SpawnFailed { lack, .. } => lack.map_or((422, "spawn_failed"), of_lack),
                ActionError::PauseTimeout(_) => (503, "pause_timeout"),
                ActionError::ResumeFailed(_) => (503, "resume_failed"),
                ActionError::ShimSilent | ActionError::StillUnderWay(_) | ActionError::Stopping | ActionError::Shim(_) => {
                    (503, "busy")
                }
                ActionError::DiskFull | ActionError::Unrecorded { obstacle: Obstacle::DiskFull } => (507, "disk_full"),
                ActionError::DatabaseLocked | ActionError::Unrecorded { obstacle: Obstacle::Locked } => (503, "database_locked"),
                ActionError::Unrecorded { obstacle: Obstacle::Other } | ActionError::Store(_) => (503, "storage_failed"),
                ActionError::Io(error) => lack_of(error).map_or((503, "storage_failed"), of_lack),
            },
            Self::Store(error) if error.is_disk_full() => (507, "disk_full"),
            Self::Store(error) if error.is_locked() => (503, "database_locked"),
            Self::Store(_) => (503, "storage_failed"),
            Self::Log(_) => (503, "storage_failed"),
        }
    }

    /// What a client gets. Causes that name paths go to the log instead.
    pub(super) fn into_response(self) -> Response {
        let (status, word) = self.code();
        match &self {
            Self::Store(cause) => ::log::error!("failed to {cause}"),
            Self::Log(cause) => ::log::error!("failed to read a log: {cause}"),
            Self::Action(cause @ (ActionError::Store(_) | ActionError::Io(_))) => ::log::error!("{cause}"),
            _ => {}
        }
        let detail = match &self {
            Self::Action(ActionError::Store(_)) => "the database did not take it; the server's log has the cause".to_owned(),
            Self::Store(error) if error.is_locked() => {
                "another process has locked the database; try again in a moment".to_owned()
            }
            Self::Action(ActionError::Io(error)) if lack_of(error).is_some() => {
                let advice = lack_of(error).map_or("", Lack::advice);
                format!("the runtime directory could not be read; {advice}")
            }
            Self::Action(ActionError::Io(_)) => {
                "the runtime directory could not be read; the server's log has the cause".to_owned()
            }
            other => other.to_string(),
        };
        let mut body = Map::new();
        body.insert("ok".to_owned(), false.into());
        body.insert("error".to_owned(), word.into());
        body.insert("detail".to_owned(), detail.into());
        let mut response_headers = Vec::new();
        match self {
            Self::Action(ActionError::Refused(refusal)) => {
                let from: State = refusal.from;
                body.insert("from".to_owned(), json!(from));
                body.insert("action".to_owned(), json!(refusal.action));
                body.insert("pending".to_owned(), json!(refusal.pending));
            }
            Self::Action(ActionError::SpawnFailed { run_id, .. }) => {
                body.insert("run_id".to_owned(), run_id.into());
            }
            Self::MethodNotAllowed(allow) => response_headers.push(("Allow", Cow::from(allow))),
            Self::Broken(Broken::TooManyConnections | Broken::NoThread) => response_headers.push(("Retry-After", "1".into())),
            Self::TooManyStreams | Self::TooManyDownloads => response_headers.push(("Retry-After", "5".into())),
            Self::NoSuchRange { len } => response_headers.push(("Content-Range", format!("bytes */{len}").into())),
            Self::TokenNeeded | Self::WrongToken => {
                response_headers.push(("WWW-Authenticate", "Bearer realm=\"autoappdev\"".into()));
            }
            Self::TooManyTries { wait_s, .. } => response_headers.push(("Retry-After", wait_s.to_string().into())),
            _ => {}
        }
        if word == "database_locked" {
            response_headers.push(("Retry-After", "1".into()));
        }
        let mut response = json_answer(&Value::Object(body)).with_status_code(status);
        for (name, value) in response_headers {
            response = response.with_unique_header(name, value);
        }
        response
    }
}
