//! Errors as a client sees them: the stable codes and their HTTP status.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::pipeline::{Refusal, words};

/// Declares the codes. Each code has its HTTP status (RFC 9110, section 15). The number after `retry` is the time in seconds
/// after which the same request can succeed; it is missing if the request cannot succeed by itself, or if that time is unknown.
macro_rules! error_codes {
    (@retry) => { None };
    (@retry $seconds:literal) => { Some($seconds) };
    ($($code:ident = $text:literal $status:literal $(retry $seconds:literal)?, $meaning:literal;)+) => {
        words! {
            /// Why a request was not served. Programs read this code, so its meaning never changes.
            ErrorCode { $(#[doc = $meaning] $code = $text),+ }
        }

        impl ErrorCode {
            /// Returns the HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Self::$code => $status),+ }
            }

            /// Returns the value of `Retry-After`, in seconds. For `too_many_tries` the server calculates the actual value.
            pub const fn retry_after_s(self) -> Option<u64> {
                match self { $(Self::$code => error_codes!(@retry $($seconds)?)),+ }
            }
        }
    };
}

error_codes! {
    InvalidJson = "invalid_json" 400, "The body is not JSON";
    InvalidBody = "invalid_body" 400, "The body does not have the form that the route takes";
    ArgsMustBeList = "args_must_be_list" 400, "`args` is not a list of strings";
    ScriptOutsideRoot = "script_outside_root" 400, "The script or the working directory is outside the root";
    InvalidScript = "invalid_script" 400, "The script cannot be run";
    InvalidQuery = "invalid_query" 400, "The query does not have the form that the route takes";
    UnknownLog = "unknown_log" 400, "There is no log of that name";
    InvalidRequest = "invalid_request" 400, "The request is not HTTP";
    InvalidIdempotencyKey = "invalid_idempotency_key" 400, "The `Idempotency-Key` is invalid, or was sent more than once";
    Unauthorized = "unauthorized" 401, "The request has no token, or a wrong one";
    InvalidCode = "invalid_code" 401, "The one-time code is wrong, was used or has expired";
    ReadOnly = "read_only" 403, "The token allows reading only";
    OriginNotAllowed = "origin_not_allowed" 403, "The request comes from a page of another origin";
    NotFound = "not_found" 404, "There is no such route, run or session";
    ScriptNotFound = "script_not_found" 404, "There is no such script";
    MethodNotAllowed = "method_not_allowed" 405, "The route does not take this method";
    RequestTimeout = "request_timeout" 408, "The request did not arrive in time";
    InvalidTransition = "invalid_transition" 409, "The state does not allow the action";
    RunChanged = "run_changed" 409, "The action is meant for a run that is not the latest";
    IdempotencyKeyReused = "idempotency_key_reused" 409, "The `Idempotency-Key` was used for another request before";
    IdempotencyKeyInUse = "idempotency_key_in_use" 409, "Too many repeats are waiting for the response to the first request \
        with the same `Idempotency-Key`";
    NotRepeatable = "not_repeatable" 409, "The run cannot be repeated without values that were not kept";
    BodyTooLarge = "body_too_large" 413, "The body is too long";
    UriTooLong = "uri_too_long" 414, "The request's first line is too long";
    UnsupportedMediaType = "unsupported_media_type" 415, "The body is not sent as JSON";
    // RFC 9110, section 15.5.20: the request reached the wrong server, and may be sent to another one.
    HostNotAllowed = "host_not_allowed" 421, "The host is not a name of this server";
    OtherServer = "other_server" 421, "The request is meant for another server";
    SpawnFailed = "spawn_failed" 422, "The script could not be executed";
    TooManyTries = "too_many_tries" 429 retry 60, "Too many wrong tokens came from this source, or from all sources together, or too many logins of viewers from this source";
    HeadTooLarge = "head_too_large" 431, "The request's head is too long";
    Internal = "internal" 500, "An internal error";
    NotImplemented = "not_implemented" 501, "The server does not implement what the request needs";
    TooManyConnections = "too_many_connections" 503 retry 1, "Every connection slot is taken";
    TooManyBodies = "too_many_bodies" 503 retry 1, "Other requests with long bodies take all the memory for them";
    TooManyReads = "too_many_reads" 503 retry 1, "Too many requests are waiting for long responses, and this one had waited \
        longest";
    TooManyDownloads = "too_many_downloads" 503 retry 5, "The maximum number of log downloads is running";
    TooManyStreams = "too_many_streams" 503 retry 5, "The maximum number of event streams is open";
    TooManyWaiting = "too_many_waiting" 503 retry 1, "Too many clients are waiting for the same stop, and this one had waited \
        longest";
    TooManyLogins = "too_many_logins" 503 retry 1, "Other logins are being stored";
    // No `retry`: the action continues, and a repeated request would be another action.
    StillUnderWay = "still_under_way" 503, "The action is still under way after its wait";
    ShimSilent = "shim_silent" 503 retry 5, "The process that controls the run does not answer";
    ShimRefused = "shim_refused" 503, "The process that controls the run refused the action";
    ServerStopping = "server_stopping" 503 retry 5, "The server is stopping";
    PauseTimeout = "pause_timeout" 503 retry 5, "A process could not be stopped in time";
    ResumeFailed = "resume_failed" 503 retry 5, "A process could not be continued";
    OutOfProcesses = "out_of_processes" 503 retry 5, "The limit on processes is reached";
    OutOfDescriptors = "out_of_descriptors" 503 retry 5, "The limit on open files is reached";
    OutOfMemory = "out_of_memory" 503 retry 5, "There is not enough memory";
    OutOfResources = "out_of_resources" 503 retry 5, "Another resource that only a newer version knows is exhausted";
    DatabaseLocked = "database_locked" 503 retry 1, "Another process holds a lock on the database";
    StorageFailed = "storage_failed" 503, "The database or a log could not be read or written";
    DiskFull = "disk_full" 507, "The disk is full";
}

/// The body of every error response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorResponse {
    /// Always false.
    #[serde(default)]
    pub ok: bool,
    /// The text of an [`ErrorCode`]. A newer server can send codes that are not in the enum.
    pub error: Cow<'static, str>,
    /// A sentence for people: the problem and what to do about it.
    #[serde(default)]
    pub detail: String,
    /// For `invalid_transition`: the refused action.
    #[serde(flatten)]
    pub refused: Option<Refusal>,
    /// The failed run, if a run was begun. For `run_changed`: the latest run, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<i64>,
    /// For `not_repeatable`: the names of the variables whose values are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

impl ErrorResponse {
    /// Creates a response with this code and this sentence, and no further fields.
    pub fn new(code: ErrorCode, detail: String) -> Self {
        Self { ok: false, error: Cow::Borrowed(code.as_str()), detail, refused: None, run_id: None, missing: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Action, State};

    #[test]
    fn error_response_round_trips_with_and_without_extra_fields() {
        let plain = ErrorResponse::new(ErrorCode::NotFound, "no".into());
        let refused = Some(Refusal { from: State::Stopped, action: Action::Pause, pending: None });
        let all = ErrorResponse { refused, run_id: Some(7), ..plain.clone() };
        for (error, text) in [
            (plain.clone(), r#"{"ok":false,"error":"not_found","detail":"no"}"#),
            (
                ErrorResponse { missing: vec!["KEY".into()], ..plain.clone() },
                r#"{"ok":false,"error":"not_found","detail":"no","missing":["KEY"]}"#,
            ),
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
    fn only_429_and_503_error_codes_have_retry_after() {
        for code in ErrorCode::ALL {
            assert!((400..=507).contains(&code.status()), "{code}");
            assert!(code.retry_after_s().is_none() || matches!(code.status(), 429 | 503), "{code}");
        }
    }
}
