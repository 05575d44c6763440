//! Errors as a client sees them: the stable codes, and what follows from each.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::pipeline::{Action, State, words};

words! {
    /// Why a request was not served. Programs read it, so a code never changes its meaning.
    ErrorCode {
        /// The body is not JSON.
        InvalidJson = "invalid_json",
        /// The body is not the one that the route takes.
        InvalidBody = "invalid_body",
        /// `args` is not a list of strings.
        ArgsMustBeList = "args_must_be_list",
        /// The script or the working directory is outside the root.
        ScriptOutsideRoot = "script_outside_root",
        /// The script cannot be run.
        InvalidScript = "invalid_script",
        /// The query is not one that the route takes.
        InvalidQuery = "invalid_query",
        /// There is no log of that name.
        UnknownLog = "unknown_log",
        /// The request is not HTTP.
        InvalidRequest = "invalid_request",
        /// The request has no token, or a wrong one.
        Unauthorized = "unauthorized",
        /// The token may not act.
        ReadOnly = "read_only",
        /// The request comes from a page of another origin.
        OriginNotAllowed = "origin_not_allowed",
        /// There is no such route or run.
        NotFound = "not_found",
        /// There is no such script.
        ScriptNotFound = "script_not_found",
        /// The route takes other methods.
        MethodNotAllowed = "method_not_allowed",
        /// The request did not arrive in time.
        RequestTimeout = "request_timeout",
        /// The state does not allow the action.
        InvalidTransition = "invalid_transition",
        /// The body is too long.
        BodyTooLarge = "body_too_large",
        /// The request's first line is too long.
        UriTooLong = "uri_too_long",
        /// The body is not sent as JSON.
        UnsupportedMediaType = "unsupported_media_type",
        /// The host is not a name of this server.
        HostNotAllowed = "host_not_allowed",
        /// The request is meant for another server.
        OtherServer = "other_server",
        /// The script could not be executed.
        SpawnFailed = "spawn_failed",
        /// Too many wrong tokens came from this address.
        TooManyTries = "too_many_tries",
        /// The request's head is too long.
        HeadTooLarge = "head_too_large",
        /// A fault of the server's.
        Internal = "internal",
        /// The server does not implement what the request needs.
        NotImplemented = "not_implemented",
        /// Every connection slot is taken.
        TooManyConnections = "too_many_connections",
        /// Other requests with long bodies take all the memory for them.
        TooManyBodies = "too_many_bodies",
        /// Many requests wait for long answers, and this one has waited longest.
        TooManyReads = "too_many_reads",
        /// As many logs are being sent as can be.
        TooManyDownloads = "too_many_downloads",
        /// As many event streams are open as can be.
        TooManyStreams = "too_many_streams",
        /// Many clients wait for the same stop, and this one has waited longest.
        TooManyWaiting = "too_many_waiting",
        /// The action is still under way after its wait.
        StillUnderWay = "still_under_way",
        /// The process that controls the run does not answer.
        ShimSilent = "shim_silent",
        /// The process that controls the run refused the action.
        ShimRefused = "shim_refused",
        /// The server stops.
        ServerStopping = "server_stopping",
        /// A process could not be stopped in time.
        PauseTimeout = "pause_timeout",
        /// A process could not be continued.
        ResumeFailed = "resume_failed",
        /// No further process or thread can be made.
        OutOfProcesses = "out_of_processes",
        /// No further file can be opened.
        OutOfDescriptors = "out_of_descriptors",
        /// There is not enough memory.
        OutOfMemory = "out_of_memory",
        /// Another resource that only a newer version knows is exhausted.
        OutOfResources = "out_of_resources",
        /// Another process holds a lock on the database.
        DatabaseLocked = "database_locked",
        /// The database or a log could not be read or written.
        StorageFailed = "storage_failed",
        /// The disk is full.
        DiskFull = "disk_full",
    }
}

impl ErrorCode {
    /// The HTTP status (RFC 9110, section 15).
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidJson
            | Self::InvalidBody
            | Self::ArgsMustBeList
            | Self::ScriptOutsideRoot
            | Self::InvalidScript
            | Self::InvalidQuery
            | Self::UnknownLog
            | Self::InvalidRequest => 400,
            Self::Unauthorized => 401,
            Self::ReadOnly | Self::OriginNotAllowed => 403,
            Self::NotFound | Self::ScriptNotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::InvalidTransition => 409,
            Self::BodyTooLarge => 413,
            Self::UriTooLong => 414,
            Self::UnsupportedMediaType => 415,
            // Section 15.5.20: the request came to the wrong server, and may be sent to another one.
            Self::HostNotAllowed | Self::OtherServer => 421,
            Self::SpawnFailed => 422,
            Self::TooManyTries => 429,
            Self::HeadTooLarge => 431,
            Self::Internal => 500,
            Self::NotImplemented => 501,
            Self::TooManyConnections
            | Self::TooManyBodies
            | Self::TooManyReads
            | Self::TooManyDownloads
            | Self::TooManyStreams
            | Self::TooManyWaiting
            | Self::StillUnderWay
            | Self::ShimSilent
            | Self::ShimRefused
            | Self::ServerStopping
            | Self::PauseTimeout
            | Self::ResumeFailed
            | Self::OutOfProcesses
            | Self::OutOfDescriptors
            | Self::OutOfMemory
            | Self::OutOfResources
            | Self::DatabaseLocked
            | Self::StorageFailed => 503,
            Self::DiskFull => 507,
        }
    }

    /// After how many seconds the same request can succeed; `None` if it cannot by itself, or if nobody knows. For
    /// `too_many_tries` the server knows better.
    pub const fn retry_after_s(self) -> Option<u64> {
        match self {
            Self::TooManyConnections | Self::TooManyBodies | Self::TooManyReads | Self::TooManyWaiting | Self::DatabaseLocked => {
                Some(1)
            }
            Self::TooManyDownloads
            | Self::TooManyStreams
            | Self::ShimSilent
            | Self::ServerStopping
            | Self::PauseTimeout
            | Self::ResumeFailed
            | Self::OutOfProcesses
            | Self::OutOfDescriptors
            | Self::OutOfMemory
            | Self::OutOfResources => Some(5),
            Self::TooManyTries => Some(60),
            Self::InvalidJson
            | Self::InvalidBody
            | Self::ArgsMustBeList
            | Self::ScriptOutsideRoot
            | Self::InvalidScript
            | Self::InvalidQuery
            | Self::UnknownLog
            | Self::InvalidRequest
            | Self::Unauthorized
            | Self::ReadOnly
            | Self::OriginNotAllowed
            | Self::NotFound
            | Self::ScriptNotFound
            | Self::MethodNotAllowed
            | Self::RequestTimeout
            | Self::InvalidTransition
            | Self::BodyTooLarge
            | Self::UriTooLong
            | Self::UnsupportedMediaType
            | Self::HostNotAllowed
            | Self::OtherServer
            | Self::SpawnFailed
            | Self::HeadTooLarge
            | Self::Internal
            | Self::NotImplemented
            // The action goes on: to ask again would be another one.
            | Self::StillUnderWay
            | Self::ShimRefused
            | Self::StorageFailed
            | Self::DiskFull => None,
        }
    }
}

/// The body of every answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorResponse {
    /// False.
    #[serde(default)]
    pub ok: bool,
    /// An [`ErrorCode`]; a newer server can have more.
    pub error: Cow<'static, str>,
    /// What is wrong and what to do, for people.
    #[serde(default)]
    pub detail: String,
    /// Of `invalid_transition`: what was refused.
    #[serde(flatten)]
    pub refused: Option<Refused>,
    /// The failed run, if a run was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<i64>,
}

/// An action that the state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// What the pipeline was.
    pub from: State,
    /// What was asked.
    pub action: Action,
    /// What was under way and stood in the way.
    pub pending: Option<Action>,
}

impl ErrorResponse {
    /// The answer with this code, and nothing more than a sentence.
    pub fn new(code: ErrorCode, detail: String) -> Self {
        Self { ok: false, error: Cow::Borrowed(code.as_str()), detail, refused: None, run_id: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_reads_as_it_was_written_with_and_without_its_more() {
        let plain = ErrorResponse::new(ErrorCode::NotFound, "no".into());
        let refused = Some(Refused { from: State::Stopped, action: Action::Pause, pending: None });
        let all = ErrorResponse { refused, run_id: Some(7), ..plain.clone() };
        for (error, text) in [
            (plain, r#"{"ok":false,"error":"not_found","detail":"no"}"#),
            (
                all,
                r#"{"ok":false,"error":"not_found","detail":"no","from":"stopped","action":"pause","pending":null,"run_id":7}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&error).expect("plain data"), text);
            assert_eq!(serde_json::from_str::<ErrorResponse>(text).expect("the same"), error);
        }
        let of_a_newer_one: ErrorResponse = serde_json::from_str(r#"{"error":"out_of_paper"}"#).expect("an error");
        assert_eq!(of_a_newer_one.error, "out_of_paper");
    }

    #[test]
    fn every_code_is_an_error_and_only_busy_servers_ask_to_come_back() {
        for code in ErrorCode::ALL {
            assert!((400..=507).contains(&code.status()), "{code}");
            assert!(code.retry_after_s().is_none() || matches!(code.status(), 429 | 503), "{code}");
        }
    }
}
