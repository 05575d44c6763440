//! Input from clients: JSON bodies and queries, parsed as the contract's types and checked before anything is done with them.

use std::io::Read;
use std::time::Duration;

use rouille::Request;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::api::body::{self, BadBody};
use crate::api::pipeline::{ActionRequest, ExpectedRun, StartRequest, StopRequest};
use crate::api::query::{self, Query};
use crate::api::runs::RunStart;
use crate::api::session::LoginRequest;
use crate::config::GRACE_S_MAX;
use crate::pipeline::Action;
use crate::supervisor::{self, Ask};
use crate::transport::BODY_BYTES_MAX;

/// The maximum length of a single argument or environment entry, in bytes (`MAX_ARG_STRLEN`, `execve(2)`).
const ARG_BYTES_MAX: usize = 128 * 1024 - 1;
/// The maximum number of arguments or environment entries of a request.
const ARGS_MAX: usize = 10_000;
/// The prefix of environment names that are reserved for this program.
const RESERVED_PREFIX: &str = "AUTOAPPDEV_";

/// Parses the query of a request.
pub(super) fn query<Q: Query>(request: &Request) -> Result<Q, ApiError> {
    query::read(request.raw_query_string()).map_err(|bad| match bad.key.as_str() {
        // A key of older clients, which has its own error.
        "name" if Q::KEYS.iter().any(|key| key.name == "name") => ApiError::UnknownLog(bad.detail),
        _ => ApiError::BadQuery(bad.detail),
    })
}

/// Parses the body of a request.
pub(super) fn body<T: DeserializeOwned>(request: &Request) -> Result<T, ApiError> {
    read(&bytes(request)?)
}

/// Returns the body of a request, unparsed.
pub(super) fn bytes(request: &Request) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    if let Some(mut data) = request.data() {
        data.read_to_end(&mut bytes).map_err(|error| ApiError::NotJson(error.to_string()))?;
    }
    Ok(bytes)
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    body::read(bytes).map_err(|bad| match bad {
        BadBody::NotJson(cause) => ApiError::NotJson(cause),
        BadBody::Wrong { key, .. } if key.as_deref() == Some("args") => ApiError::BadArgs,
        BadBody::Wrong { detail, .. } => ApiError::BadBody(detail),
    })
}

/// Parses the body of a login, which has exactly one of token and code.
pub(super) fn log_in(request: &Request) -> Result<LoginRequest, ApiError> {
    let request: LoginRequest = body(request)?;
    if request.token.is_some() == request.code.is_some() {
        return Err(bad("the body must have either token or code"));
    }
    Ok(request)
}

fn bad(why: impl Into<String>) -> ApiError {
    ApiError::BadBody(why.into())
}

/// Returns what a client requests with this action and body, and the run that the request is meant for. `start_of` returns the
/// parameters with which a run was started.
pub(super) fn ask(
    action: Action,
    body: &[u8],
    start_of: impl FnOnce(i64) -> Result<RunStart, ApiError>,
) -> Result<(Ask, ExpectedRun), ApiError> {
    Ok(match action {
        Action::Start => {
            let start: StartRequest = read(body)?;
            let if_run = start.if_run_id;
            (Ask::Start(start_request(start, start_of)?), if_run)
        }
        Action::Pause => read(body).map(|ActionRequest { if_run_id }| (Ask::Pause, if_run_id))?,
        Action::Resume => read(body).map(|ActionRequest { if_run_id }| (Ask::Resume, if_run_id))?,
        Action::Stop => {
            let StopRequest { grace_s, if_run_id } = read(body)?;
            (Ask::Stop { grace: grace(grace_s)? }, if_run_id)
        }
    })
}

fn start_request(
    start: StartRequest,
    start_of: impl FnOnce(i64) -> Result<RunStart, ApiError>,
) -> Result<supervisor::StartRequest, ApiError> {
    // Errors in the body are reported first. The result is checked again, because each of its parts can have the maximum number
    // of entries.
    check_start(&start)?;
    let start = match start.again {
        Some(run_id) => repeated(run_id, start_of(run_id)?, start)?,
        None => start,
    };
    check_start(&start)?;
    let StartRequest { script, args, cwd, env, grace_s, .. } = start;
    Ok(supervisor::StartRequest { script, args: args.unwrap_or_default(), cwd, env, grace: grace(grace_s)? })
}

/// Returns the parameters with which a run was started, with those that the body sets in place of the old ones. The result must
/// not be longer than a body, so that repeats of repeats do not become longer and longer.
fn repeated(run_id: i64, kept: RunStart, body: StartRequest) -> Result<StartRequest, ApiError> {
    let mut env = body.env;
    let mut missing = Vec::new();
    for (name, value) in kept.env {
        match (env.contains_key(&name), value) {
            (true, _) => {}
            (false, Some(value)) => drop(env.insert(name, value)),
            (false, None) => missing.push(name),
        }
    }
    if !missing.is_empty() {
        return Err(ApiError::NotRepeatable { run_id, missing });
    }
    let start = StartRequest {
        script: body.script.or(Some(kept.script)),
        args: body.args.or(Some(kept.args)),
        cwd: body.cwd.or(kept.cwd),
        env,
        grace_s: body.grace_s.or(kept.grace_s),
        ..StartRequest::default()
    };
    if serde_json::to_vec(&start).expect("requests are plain data").len() > BODY_BYTES_MAX {
        return Err(bad("the start that is repeated and the keys of the body are longer than 1 MiB together"));
    }
    Ok(start)
}

fn check_start(start: &StartRequest) -> Result<(), ApiError> {
    let StartRequest { args, env, grace_s, .. } = start;
    let args = args.as_deref().unwrap_or_default();
    for (key, entries) in [("args", args.len()), ("env", env.len())] {
        if entries > ARGS_MAX {
            return Err(bad(format!("{key} has more than {ARGS_MAX} entries")));
        }
    }
    for arg in args {
        check_executable("args", arg)?;
    }
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(bad(format!("env has an invalid name: {name:?}")));
        }
        if name.starts_with(RESERVED_PREFIX) {
            return Err(bad(format!("env may not set {name}: names that begin with {RESERVED_PREFIX} are the server's own")));
        }
        // The kernel gets `NAME=VALUE` as one string.
        if name.len() + 1 + value.len() > ARG_BYTES_MAX {
            return Err(bad("env has an entry longer than 128 KiB"));
        }
        check_executable("env", value)?;
    }
    grace(*grace_s).map(drop)
}

/// Checks that a text can be passed to a program.
fn check_executable(key: &str, text: &str) -> Result<(), ApiError> {
    if text.contains('\0') {
        return Err(bad(format!("{key} contains a NUL, which cannot be passed to a program")));
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

    fn asked(action: Action, request: &Request) -> Result<(Ask, ExpectedRun), ApiError> {
        ask(action, &bytes(request)?, |run_id| Err(ApiError::NoSuchRun(run_id.to_string())))
    }

    fn start_request(request: &Request) -> Result<supervisor::StartRequest, ApiError> {
        match asked(Action::Start, request)?.0 {
            Ask::Start(start) => Ok(start),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn start_body_accepts_no_keys_or_all_keys() {
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
    fn each_invalid_body_has_its_error_code() {
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
            assert!(asked(action, &post(r#"{"grace_s":1}"#)).is_err());
        }
        assert!(asked(Action::Stop, &post(r#"{"script":"x"}"#)).is_err());
    }

    #[test]
    fn absent_null_and_numeric_if_run_id_differ() {
        for action in [Action::Start, Action::Pause, Action::Resume, Action::Stop] {
            let if_run = |body| asked(action, &post(body)).map(|(_, if_run)| if_run);
            for (body, wanted) in [
                ("", ExpectedRun::Any),
                ("{}", ExpectedRun::Any),
                (r#"{"if_run_id":null}"#, ExpectedRun::Is(None)),
                (r#"{"if_run_id":7}"#, ExpectedRun::Is(Some(7))),
            ] {
                assert_eq!(if_run(body).expect(body), wanted, "{body}");
            }
            for body in [r#"{"if_run_id":"7"}"#, r#"{"if_run_id":1.5}"#, r#"{"if_run_id":[]}"#] {
                assert!(matches!(if_run(body), Err(ApiError::BadBody(_))), "{body}");
            }
        }
    }

    #[test]
    fn repeated_start_merges_body_over_kept_parameters() {
        let kept = || RunStart {
            script: "a.sh".into(),
            args: vec!["x".into()],
            cwd: Some("sub".into()),
            env: [("A".to_owned(), Some("1".to_owned())), ("B".to_owned(), None)].into(),
            grace_s: Some(2.0),
        };
        let again = |body: &str| match ask(Action::Start, body.as_bytes(), |_| Ok(kept()))? {
            (Ask::Start(start), _) => Ok(start),
            other => panic!("{other:?}"),
        };
        let start = again(r#"{"again":7,"env":{"B":"2"}}"#).expect("whole");
        assert_eq!((start.script.as_deref(), start.cwd.as_deref()), (Some("a.sh"), Some("sub")));
        assert_eq!((start.args, start.grace), (vec!["x".to_owned()], Some(Duration::from_secs(2))));
        assert_eq!(start.env, [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())].into());
        let body = r#"{"again":7,"script":"b.sh","args":[],"cwd":"other","env":{"A":"9","B":"","C":"3"},"grace_s":0}"#;
        let start = again(body).expect("whole");
        assert_eq!((start.script.as_deref(), start.cwd.as_deref()), (Some("b.sh"), Some("other")));
        assert_eq!((start.args, start.grace), (Vec::new(), Some(Duration::ZERO)), "an empty list is not an absent one");
        assert_eq!(start.env.into_values().collect::<Vec<_>>(), ["9", "", "3"]);
        match again(r#"{"again":7}"#) {
            Err(ApiError::NotRepeatable { run_id: 7, missing }) => assert_eq!(missing, ["B"]),
            other => panic!("{other:?}"),
        }
        let long = format!(r#"{{"again":7,"env":{{"B":"2"}},"args":{:?}}}"#, vec!["x".repeat(100_000); 10]);
        assert!(again(&long).is_ok());
        let longer = |_| Ok(RunStart { env: (0..10).map(|n| (n.to_string(), Some("x".repeat(100_000)))).collect(), ..kept() });
        match ask(Action::Start, long.as_bytes(), longer) {
            Err(ApiError::BadBody(detail)) => assert!(detail.contains("1 MiB together"), "{detail}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn login_body_has_either_token_or_code() {
        assert_eq!(log_in(&post(r#"{"token":"x"}"#)).expect("good").token.as_deref(), Some("x"));
        assert_eq!(log_in(&post(r#"{"code":"x"}"#)).expect("good").code.as_deref(), Some("x"));
        for body in
            ["", "{}", r#"{"token":null}"#, r#"{"token":1}"#, r#"{"token":"x","remember":true}"#, r#"{"token":"x","code":"y"}"#]
        {
            assert!(matches!(log_in(&post(body)), Err(ApiError::BadBody(_))), "{body}");
        }
    }
}
