//! What clients send: JSON bodies and queries, read as the contract's types and checked before anything is done with them.

use std::io::Read;
use std::time::Duration;

use rouille::Request;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::api::body::{self, BadBody};
use crate::api::pipeline::{EmptyRequest, StartRequest, StopRequest};
use crate::api::query::{self, Query};
use crate::api::session::LoginRequest;
use crate::config::GRACE_S_MAX;
use crate::pipeline::Action;
use crate::supervisor::{self, Ask};

/// The longest single argument or environment entry, in bytes (`MAX_ARG_STRLEN`, `execve(2)`).
const ARG_BYTES_MAX: usize = 128 * 1024 - 1;
/// The most arguments or environment entries of a request.
const ARGS_MAX: usize = 10_000;
/// Environment names that begin so are ours.
const OUR_VARS: &str = "AUTOAPPDEV_";

/// The query of a request.
pub(super) fn query<Q: Query>(request: &Request) -> Result<Q, ApiError> {
    query::read(request.raw_query_string()).map_err(|bad| match bad.key.as_str() {
        // An older client's word, which has an error of its own.
        "name" if Q::KEYS.iter().any(|key| key.name == "name") => ApiError::UnknownLog(bad.detail),
        _ => ApiError::BadQuery(bad.detail),
    })
}

/// The body of a request.
pub(super) fn body<T: DeserializeOwned>(request: &Request) -> Result<T, ApiError> {
    let mut bytes = Vec::new();
    if let Some(mut data) = request.data() {
        data.read_to_end(&mut bytes).map_err(|error| ApiError::NotJson(error.to_string()))?;
    }
    body::read(&bytes).map_err(|bad| match bad {
        BadBody::NotJson(cause) => ApiError::NotJson(cause),
        BadBody::Wrong { key, .. } if key.as_deref() == Some("args") => ApiError::BadArgs,
        BadBody::Wrong { detail, .. } => ApiError::BadBody(detail),
    })
}

/// Reads the body of a login, which has exactly one of token and code.
pub(super) fn log_in(request: &Request) -> Result<LoginRequest, ApiError> {
    let request: LoginRequest = body(request)?;
    if request.token.is_some() == request.code.is_some() {
        return Err(bad("the body needs one of token and code, and not both"));
    }
    Ok(request)
}

fn bad(why: impl Into<String>) -> ApiError {
    ApiError::BadBody(why.into())
}

/// What a client asks for by this action and the body of its request.
pub(super) fn ask(action: Action, request: &Request) -> Result<Ask, ApiError> {
    Ok(match action {
        Action::Start => Ask::Start(start_request(request)?),
        Action::Pause => body(request).map(|EmptyRequest {}| Ask::Pause)?,
        Action::Resume => body(request).map(|EmptyRequest {}| Ask::Resume)?,
        Action::Stop => {
            let StopRequest { grace_s } = body(request)?;
            Ask::Stop { grace: grace(grace_s)? }
        }
    })
}

fn start_request(request: &Request) -> Result<supervisor::StartRequest, ApiError> {
    let StartRequest { script, args, cwd, env, grace_s } = body(request)?;
    for (key, entries) in [("args", args.len()), ("env", env.len())] {
        if entries > ARGS_MAX {
            return Err(bad(format!("{key} has more than {ARGS_MAX} entries")));
        }
    }
    for arg in &args {
        check_executable("args", arg)?;
    }
    for (name, value) in &env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(bad(format!("env has a bad name: {name:?}")));
        }
        if name.starts_with(OUR_VARS) {
            return Err(bad(format!("env may not set {name}: names that begin with {OUR_VARS} are the server's own")));
        }
        // The kernel is given `NAME=VALUE` as one string.
        if name.len() + 1 + value.len() > ARG_BYTES_MAX {
            return Err(bad("env has an entry longer than 128 KiB"));
        }
        check_executable("env", value)?;
    }
    Ok(supervisor::StartRequest { script, args, cwd, env, grace: grace(grace_s)? })
}

/// Checks that a text can be handed to a program.
fn check_executable(key: &str, text: &str) -> Result<(), ApiError> {
    if text.contains('\0') {
        return Err(bad(format!("{key} holds a NUL, which no program can be given")));
    }
    if text.len() > ARG_BYTES_MAX {
        return Err(bad(format!("{key} has an entry longer than 128 KiB")));
    }
    Ok(())
}

fn grace(seconds: Option<f64>) -> Result<Option<Duration>, ApiError> {
    match seconds {
        Some(seconds) if !(0.0..=GRACE_S_MAX).contains(&seconds) => {
            Err(bad(format!("grace_s must be a number of seconds from 0 to {GRACE_S_MAX}")))
        }
        seconds => Ok(seconds.map(Duration::from_secs_f64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(body: &str) -> Request {
        Request::fake_http("POST", "/api/pipeline/start", vec![], body.as_bytes().to_vec())
    }

    #[test]
    fn a_start_may_say_nothing_or_everything() {
        for body in ["", "  \n", "{}", r#"{"script":null,"cwd":null,"grace_s":null}"#] {
            let start = start_request(&post(body)).expect(body);
            assert!(start.script.is_none() && start.args.is_empty() && start.env.is_empty() && start.grace.is_none());
        }
        let body = r#"{"script":"a.sh","args":["-x",""],"cwd":"sub","env":{"A":"b=c"},"grace_s":0.5}"#;
        let start = start_request(&post(body)).expect("good");
        assert_eq!(start.script.as_deref(), Some("a.sh"));
        assert_eq!(start.args, ["-x", ""]);
        assert_eq!(start.env["A"], "b=c");
        assert_eq!(start.grace, Some(Duration::from_millis(500)));
    }

    #[test]
    fn every_bad_body_has_its_code() {
        for body in ["{", "nonsense", "{}x", "\u{feff}{}", "{\"script\":\"a", &"[".repeat(100_000)] {
            assert!(matches!(start_request(&post(body)), Err(ApiError::NotJson(_))), "{}", &body[..body.len().min(40)]);
        }
        for body in [
            "[]",
            "1",
            "null",
            "\"x\"",
            r#"{"script":1}"#,
            r#"{"cwd":[]}"#,
            r#"{"env":[]}"#,
            r#"{"env":{"A":1}}"#,
            r#"{"env":{"":"x"}}"#,
            r#"{"env":{"A=B":"x"}}"#,
            r#"{"env":{"A":"x\u0000"}}"#,
            r#"{"env":{"AUTOAPPDEV_RUN_ID":"9"}}"#,
            r#"{"args":["a\u0000b"]}"#,
            r#"{"grace_s":-1}"#,
            r#"{"grace_s":3601}"#,
            r#"{"grace_s":"1"}"#,
            r#"{"grace_s":1e400}"#,
            r#"{"Script":"a"}"#,
            r#"{"unknown":1}"#,
        ] {
            let result = start_request(&post(body));
            assert!(matches!(result, Err(ApiError::BadBody(_) | ApiError::NotJson(_))), "{body}: {result:?}");
        }
        for body in [r#"{"args":"x"}"#, r#"{"args":[1]}"#, r#"{"args":{}}"#, r#"{"args":null}"#] {
            assert!(matches!(start_request(&post(body)), Err(ApiError::BadArgs)), "{body}");
        }
        for action in [Action::Pause, Action::Resume] {
            assert!(ask(action, &post(r#"{"grace_s":1}"#)).is_err());
        }
        assert!(ask(Action::Stop, &post(r#"{"script":"x"}"#)).is_err());
    }

    #[test]
    fn a_log_in_says_a_token_or_a_code_and_nothing_else() {
        assert_eq!(log_in(&post(r#"{"token":"x"}"#)).expect("good").token.as_deref(), Some("x"));
        assert_eq!(log_in(&post(r#"{"code":"x"}"#)).expect("good").code.as_deref(), Some("x"));
        for body in
            ["", "{}", r#"{"token":null}"#, r#"{"token":1}"#, r#"{"token":"x","remember":true}"#, r#"{"token":"x","code":"y"}"#]
        {
            assert!(matches!(log_in(&post(body)), Err(ApiError::BadBody(_))), "{body}");
        }
    }
}
