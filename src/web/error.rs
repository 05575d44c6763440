//! Every error as a client sees it: one exhaustive match from causes to stable codes, each of which has a status code. No
//! endpoint chooses a status code.

use rouille::Response;

use super::json::json;
use crate::api::error::{ErrorCode, ErrorResponse};
use crate::api::pipeline::IDEMPOTENCY_KEY_CHARS_MAX;
use crate::pipeline::{ConditionCode, Shortage};
use crate::process::shortage_of;
use crate::script::ScriptError;
use crate::store::{StoreError, StoreErrorKind, WorkError};
use crate::supervisor::ActionError;
use crate::transport::Broken;

/// Returns the error code for the lack of a limited resource.
const fn of_lack(lack: Shortage) -> ErrorCode {
    match lack {
        Shortage::Processes => ErrorCode::OutOfProcesses,
        Shortage::Descriptors => ErrorCode::OutOfDescriptors,
        Shortage::Memory => ErrorCode::OutOfMemory,
        Shortage::Unknown => ErrorCode::OutOfResources,
    }
}

/// Returns the error code for a failure of the database.
const fn of_store(error: &StoreError) -> ErrorCode {
    match error.kind {
        StoreErrorKind::Full => ErrorCode::DiskFull,
        StoreErrorKind::Busy => ErrorCode::DatabaseLocked,
        _ => ErrorCode::StorageFailed,
    }
}

/// Returns the reason why the database cannot store something, without a path.
const fn obstacle(error: &WorkError) -> &'static str {
    match error {
        WorkError::Stopping => "the server is stopping",
        WorkError::Store(StoreError { kind: StoreErrorKind::Full, .. }) => "the disk is full; make room and try again",
        WorkError::Store(StoreError { kind: StoreErrorKind::Busy, .. }) => {
            "another process has locked the database; try again in a moment"
        }
        WorkError::Store(_) => "see the server's log (backend.log)",
    }
}

/// The maximum number of variable names in a sentence. The response contains all of them.
const NAMES_MAX: usize = 10;

fn not_repeatable(run_id: i64, missing: &[String]) -> String {
    let names = missing[..missing.len().min(NAMES_MAX)].join(", ");
    let more = missing.len().saturating_sub(NAMES_MAX);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!(
        "the values of {names}{more} were not kept with run {run_id}; give them in env, or set AUTOAPPDEV_KEEP_ENV=values for the server, which \
         keeps those of later runs"
    )
}

/// The reason why a request was not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("too many requests wait for a long answer; try again")]
    TooManyReads,
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    #[error("{0}")]
    BadBody(String),
    #[error("args must be a list of strings")]
    BadArgs,
    #[error("{0}")]
    BadQuery(String),
    #[error("there is no such log: {0}")]
    UnknownLog(String),
    #[error("there is no such route; GET /api/pipeline returns the state")]
    NotFound,
    #[error("send one Idempotency-Key of 1 to {IDEMPOTENCY_KEY_CHARS_MAX} visible ASCII characters, such as a UUID")]
    BadIdempotencyKey,
    #[error("too many repeats are waiting for the response to the first request with this Idempotency-Key; try again")]
    IdempotencyKeyInUse,
    #[error("there is no run {0}; GET /api/runs (`autoappdev runs`) lists the runs")]
    NoSuchRun(String),
    #[error("{}", not_repeatable(*.run_id, .missing))]
    NotRepeatable { run_id: i64, missing: Vec<String> },
    #[error("this route does not take that method; it takes {0}")]
    MethodNotAllowed(String),
    #[error("the body must be sent as Content-Type: application/json (curl --json)")]
    NotSentAsJson,
    #[error("host {0:?} is not allowed; use the server's IP address, or add the host to AUTOAPPDEV_ALLOW_HOST")]
    HostNotAllowed(String),
    #[error(
        "pages of {0:?} may not use this API; to allow them, add the origin to AUTOAPPDEV_ALLOW_ORIGIN. If you followed a \
            link, open the \
         address from the address bar instead"
    )]
    OriginNotAllowed(String),
    #[error(
        "the browser does not say which page sent this request, so it is refused; open the server's page instead. A program can send the header \
         field AutoAppDev-Client, with any value, or a token"
    )]
    PageUnknown,
    #[error("the browser is preloading this address, which is refused because any page can cause that; open the address instead")]
    Prefetch,
    #[error(
        "a browser must send this request with Content-Type: application/json or the header field AutoAppDev-Client; a body is not needed"
    )]
    NotMarkedAsJson,
    #[error("the request is meant for another server: the id in AutoAppDev-Server is not this server's; nothing was done")]
    OtherServer,
    #[error(
        "the maximum number of streams is open; try again in a few seconds, or use GET /api/logs and /api/pipeline with wait"
    )]
    TooManyStreams,
    #[error("the maximum number of log downloads is running; try again in a few seconds, or read pages with GET /api/logs")]
    TooManyDownloads,
    #[error(
        "a token is needed: send it as `Authorization: Bearer …`, or log in on the page. It is the value of AUTOAPPDEV_TOKEN or, if that is \
         not set, the content of the file `token` in the server's runtime directory. `autoappdev pair` on the server's machine makes a link \
         that logs a browser in"
    )]
    TokenNeeded,
    #[error(
        "wrong token. The token is the value of AUTOAPPDEV_TOKEN or, if that is not set, the content of the file `token` in the server's \
         runtime directory. To log in with a link instead, run `autoappdev pair` on the server's machine"
    )]
    WrongToken,
    #[error(
        "this link cannot log you in: its code was used, has expired or is wrong. To make a new link, run `autoappdev pair` on the server's machine"
    )]
    InvalidCode,
    #[error(
        "too many wrong tokens came from {from}; try again in {wait_s} s. Sessions and new links made by `autoappdev pair` are \
         not affected"
    )]
    TooManyTries { from: String, wait_s: u64 },
    #[error("too many logins with the read-only token came from {from}; try again in {wait_s} s. Sessions are not affected")]
    TooManyLoginsFrom { from: String, wait_s: u64 },
    #[error("other logins are being stored; try again in a moment")]
    TooManyLogins,
    #[error("there is no session {0}; GET /api/sessions (`autoappdev sessions`) lists the sessions")]
    NoSuchSession(String),
    #[error("the login failed, because the session could not be stored: {}", obstacle(.0))]
    SessionNotStored(WorkError),
    #[error(
        "the session has ended, but its end could not be stored: {}. The server tries again later; if it restarts before that succeeds, the session \
         comes back",
        obstacle(.0)
    )]
    SessionEndNotStored(WorkError),
    #[error("this token allows reading only; log in with the operator token (AUTOAPPDEV_TOKEN, `autoappdev pair`)")]
    ReadOnly,
    #[error(transparent)]
    Action(#[from] ActionError),
    #[error("the database could not be read; see the server's log (backend.log)")]
    Store(#[from] StoreError),
    #[error("the log could not be read; see the server's log (backend.log)")]
    Log(#[from] std::io::Error),
    #[error("the kernel returned no random bytes; try again, and see the server's log (backend.log) if that does not help")]
    NoRandomBytes(std::io::Error),
}

impl ApiError {
    /// Returns the stable code.
    fn code(&self) -> ErrorCode {
        match self {
            Self::Broken(broken) => match broken {
                Broken::Malformed(_) => ErrorCode::InvalidRequest,
                Broken::HeadTooLarge => ErrorCode::HeadTooLarge,
                Broken::TargetTooLong => ErrorCode::UriTooLong,
                Broken::BodyTooLarge | Broken::LongBody => ErrorCode::BodyTooLarge,
                Broken::TimedOut => ErrorCode::RequestTimeout,
                Broken::TooManyBodies => ErrorCode::TooManyBodies,
                Broken::TooManyConnections => ErrorCode::TooManyConnections,
                Broken::NoThread => ErrorCode::OutOfProcesses,
                Broken::Unsupported(_) => ErrorCode::NotImplemented,
                Broken::Fault => ErrorCode::Internal,
            },
            Self::TooManyReads => ErrorCode::TooManyReads,
            Self::NotJson(_) => ErrorCode::InvalidJson,
            Self::BadBody(_) => ErrorCode::InvalidBody,
            Self::BadArgs => ErrorCode::ArgsMustBeList,
            Self::BadQuery(_) => ErrorCode::InvalidQuery,
            Self::UnknownLog(_) => ErrorCode::UnknownLog,
            Self::NotFound | Self::NoSuchRun(_) | Self::NoSuchSession(_) => ErrorCode::NotFound,
            Self::NotRepeatable { .. } => ErrorCode::NotRepeatable,
            Self::BadIdempotencyKey => ErrorCode::InvalidIdempotencyKey,
            Self::IdempotencyKeyInUse => ErrorCode::IdempotencyKeyInUse,
            Self::MethodNotAllowed(_) => ErrorCode::MethodNotAllowed,
            Self::NotSentAsJson | Self::NotMarkedAsJson => ErrorCode::UnsupportedMediaType,
            Self::HostNotAllowed(_) => ErrorCode::HostNotAllowed,
            Self::OtherServer => ErrorCode::OtherServer,
            Self::TooManyStreams => ErrorCode::TooManyStreams,
            Self::TooManyDownloads => ErrorCode::TooManyDownloads,
            Self::OriginNotAllowed(_) | Self::PageUnknown | Self::Prefetch => ErrorCode::OriginNotAllowed,
            Self::TokenNeeded | Self::WrongToken => ErrorCode::Unauthorized,
            Self::InvalidCode => ErrorCode::InvalidCode,
            Self::TooManyTries { .. } | Self::TooManyLoginsFrom { .. } => ErrorCode::TooManyTries,
            Self::TooManyLogins => ErrorCode::TooManyLogins,
            Self::SessionNotStored(WorkError::Stopping) | Self::SessionEndNotStored(WorkError::Stopping) => {
                ErrorCode::ServerStopping
            }
            Self::SessionNotStored(WorkError::Store(error)) | Self::SessionEndNotStored(WorkError::Store(error)) => {
                of_store(error)
            }
            Self::ReadOnly => ErrorCode::ReadOnly,
            Self::Action(error) => match error {
                ActionError::Refused(_) => ErrorCode::InvalidTransition,
                ActionError::RunChanged { .. } => ErrorCode::RunChanged,
                ActionError::KeyReused => ErrorCode::IdempotencyKeyReused,
                ActionError::Script(error) => match error {
                    ScriptError::Unnamed | ScriptError::Unusable(_) | ScriptError::Unrunnable(_) => ErrorCode::InvalidScript,
                    ScriptError::BadName(_) => ErrorCode::InvalidBody,
                    ScriptError::NotFound(_) => ErrorCode::ScriptNotFound,
                    ScriptError::OutsideRoot(_) => ErrorCode::ScriptOutsideRoot,
                },
                ActionError::SpawnFailed { lack, .. } => lack.map_or(ErrorCode::SpawnFailed, of_lack),
                ActionError::PauseTimeout(_) => ErrorCode::PauseTimeout,
                ActionError::ResumeFailed(_) => ErrorCode::ResumeFailed,
                ActionError::ShimSilent => ErrorCode::ShimSilent,
                ActionError::Shim(_) => ErrorCode::ShimRefused,
                ActionError::StillUnderWay(_) => ErrorCode::StillUnderWay,
                ActionError::TooManyWaiting(_) => ErrorCode::TooManyWaiting,
                ActionError::Stopping => ErrorCode::ServerStopping,
                ActionError::DiskFull => ErrorCode::DiskFull,
                ActionError::DatabaseLocked => ErrorCode::DatabaseLocked,
                ActionError::Unrecorded { obstacle } => match obstacle {
                    ConditionCode::DiskFull => ErrorCode::DiskFull,
                    ConditionCode::DatabaseLocked => ErrorCode::DatabaseLocked,
                    _ => ErrorCode::StorageFailed,
                },
                ActionError::Store(_) => ErrorCode::StorageFailed,
                ActionError::Io(error) => shortage_of(error).map_or(ErrorCode::StorageFailed, of_lack),
            },
            Self::Store(error) => of_store(error),
            Self::Log(_) | Self::NoRandomBytes(_) => ErrorCode::StorageFailed,
        }
    }

    /// Checks whether this error is the final result of an action: a repeat with the same key then gets the same response.
    pub(super) fn decides(&self) -> bool {
        matches!(
            self,
            Self::NotRepeatable { .. }
                | Self::Action(ActionError::Refused(_) | ActionError::RunChanged { .. } | ActionError::SpawnFailed { .. })
        )
    }

    /// Returns the sentence for the client. Causes that contain paths go to the log instead.
    fn detail(&self) -> String {
        match self {
            Self::Action(ActionError::Store(_)) => "the database could not store it; see the server's log \
                (backend.log)"
                .to_owned(),
            Self::Store(StoreError { kind: StoreErrorKind::Busy, .. }) => {
                "another process has locked the database; try again in a moment".to_owned()
            }
            Self::Action(ActionError::Io(error)) => {
                let advice = shortage_of(error).map_or("see the server's log (backend.log)", Shortage::advice);
                format!("the runtime directory could not be read; {advice}")
            }
            other => other.to_string(),
        }
    }

    /// Converts the error into a response, and logs the causes that the client does not get.
    pub(super) fn into_response(self) -> Response {
        match &self {
            Self::Store(cause) => ::log::error!("failed to {cause}"),
            Self::SessionNotStored(cause) | Self::SessionEndNotStored(cause) => {
                ::log::error!("the beginning or end of a session was not stored: failed to {cause}");
            }
            Self::Log(cause) => ::log::error!("failed to read a log: {cause}"),
            Self::NoRandomBytes(cause) => ::log::error!("failed to get random bytes: {cause}"),
            Self::Action(cause @ (ActionError::Store(_) | ActionError::Io(_))) => ::log::error!("{cause}"),
            _ => {}
        }
        let code = self.code();
        let mut body = ErrorResponse::new(code, self.detail());
        match &self {
            Self::Action(ActionError::Refused(refusal)) => body.refused = Some(*refusal),
            Self::Action(ActionError::SpawnFailed { run_id, .. }) => body.run_id = Some(*run_id),
            Self::Action(ActionError::RunChanged { latest }) => body.run_id = *latest,
            Self::NotRepeatable { missing, .. } => body.missing.clone_from(missing),
            _ => {}
        }
        let mut response = json(&body).with_status_code(code.status());
        let retry_after_s = match &self {
            Self::TooManyTries { wait_s, .. } | Self::TooManyLoginsFrom { wait_s, .. } => Some(*wait_s),
            // The action was completed, so the same request would be refused.
            Self::Action(ActionError::Unrecorded { .. }) | Self::SessionEndNotStored(_) => None,
            _ => code.retry_after_s(),
        };
        if let Some(seconds) = retry_after_s {
            response = response.with_unique_header("Retry-After", seconds.to_string());
        }
        match self {
            Self::MethodNotAllowed(allow) => response.with_unique_header("Allow", allow),
            Self::TokenNeeded | Self::WrongToken | Self::InvalidCode => {
                response.with_unique_header("WWW-Authenticate", "Bearer realm=\"autoappdev\"")
            }
            _ => response,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(response: &Response, name: &str) -> Option<String> {
        response.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_string())
    }

    #[test]
    fn busy_server_errors_have_their_code_and_retry_after() {
        let from = "10.0.0.1".to_owned();
        let action = crate::pipeline::Action::Stop;
        for (error, code, retry_after) in [
            (ApiError::Broken(Broken::TooManyConnections), "too_many_connections", Some("1")),
            (ApiError::Broken(Broken::TooManyBodies), "too_many_bodies", Some("1")),
            (ApiError::Broken(Broken::NoThread), "out_of_processes", Some("5")),
            (ApiError::TooManyReads, "too_many_reads", Some("1")),
            (ApiError::TooManyTries { from, wait_s: 7 }, "too_many_tries", Some("7")),
            (ApiError::TooManyLoginsFrom { from: "10.0.0.2".to_owned(), wait_s: 120 }, "too_many_tries", Some("120")),
            (ApiError::TooManyLogins, "too_many_logins", Some("1")),
            (ActionError::ShimSilent.into(), "shim_silent", Some("5")),
            (ActionError::Shim("no".into()).into(), "shim_refused", None),
            (ActionError::StillUnderWay(action).into(), "still_under_way", None),
            (ActionError::TooManyWaiting(action).into(), "too_many_waiting", Some("1")),
            (ActionError::Stopping.into(), "server_stopping", Some("5")),
            (ActionError::Unrecorded { obstacle: ConditionCode::DatabaseLocked }.into(), "database_locked", None),
            (ActionError::DatabaseLocked.into(), "database_locked", Some("1")),
        ] {
            let response = error.into_response();
            assert_eq!(field(&response, "Retry-After").as_deref(), retry_after, "{code}");
            let (mut body, _) = response.data.into_reader_and_size();
            let body: ErrorResponse = serde_json::from_reader(&mut body).expect("an error");
            assert!(body.error == code && !body.detail.is_empty(), "{body:?}");
        }
    }
}
