//! What clients send: JSON bodies and query values, checked before anything is done with them.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use rouille::Request;
use rouille::percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::error::ApiError;
use crate::clock::Timestamp;
use crate::config::GRACE_S_MAX;
use crate::supervisor::StartRequest;

/// The longest single argument or environment entry, in bytes (`MAX_ARG_STRLEN`, `execve(2)`).
const ARG_BYTES_MAX: usize = 128 * 1024 - 1;
/// The most arguments or environment entries of a request.
const ARGS_MAX: usize = 10_000;
/// Environment names that begin so are ours.
const OUR_VARS: &str = "AUTOAPPDEV_";

/// The body as an object. None at all is an empty one.
fn object(request: &Request) -> Result<Map<String, Value>, ApiError> {
    let mut bytes = Vec::new();
    if let Some(mut data) = request.data() {
        data.read_to_end(&mut bytes).map_err(|error| ApiError::NotJson(error.to_string()))?;
    }
    if bytes.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(bad("the body must be a JSON object such as {}")),
        Err(error) => Err(ApiError::NotJson(error.to_string())),
    }
}

fn bad(why: impl Into<String>) -> ApiError {
    ApiError::BadBody(why.into())
}

/// The body of a start.
pub(super) fn start_request(request: &Request) -> Result<StartRequest, ApiError> {
    let mut start = StartRequest::default();
    for (key, value) in object(request)? {
        match key.as_str() {
            "script" => start.script = optional_text("script", value)?,
            "cwd" => start.cwd = optional_text("cwd", value)?,
            "args" => start.args = args(value)?,
            "env" => start.env = env(value)?,
            "grace_s" => start.grace = grace(&value)?,
            other => return Err(unknown_key(other, "script, args, cwd, env, grace_s")),
        }
    }
    Ok(start)
}

/// The body of a stop: its grace.
pub(super) fn stop_request(request: &Request) -> Result<Option<Duration>, ApiError> {
    let mut asked = None;
    for (key, value) in object(request)? {
        match key.as_str() {
            "grace_s" => asked = grace(&value)?,
            other => return Err(unknown_key(other, "grace_s")),
        }
    }
    Ok(asked)
}

/// The body of a log-in: the token.
pub(super) fn login_request(request: &Request) -> Result<String, ApiError> {
    let mut token = None;
    for (key, value) in object(request)? {
        match key.as_str() {
            "token" => token = optional_text("token", value)?,
            other => return Err(unknown_key(other, "token")),
        }
    }
    token.ok_or_else(|| bad("token is missing"))
}

/// The body of an action that says nothing.
pub(super) fn empty_request(request: &Request) -> Result<(), ApiError> {
    match object(request)?.keys().next() {
        Some(key) => Err(unknown_key(key, "nothing")),
        None => Ok(()),
    }
}

fn unknown_key(key: &str, known: &str) -> ApiError {
    bad(format!("{key:?} is not known here; this takes {known}"))
}

/// A string, or null for the default.
fn optional_text(key: &str, value: Value) -> Result<Option<String>, ApiError> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Err(bad(format!("{key} must be a string"))),
    }
}

fn args(value: Value) -> Result<Vec<String>, ApiError> {
    let Value::Array(values) = value else { return Err(ApiError::BadArgs) };
    if values.len() > ARGS_MAX {
        return Err(bad(format!("args has more than {ARGS_MAX} entries")));
    }
    values
        .into_iter()
        .map(|value| match value {
            Value::String(text) => executable("args", text),
            _ => Err(ApiError::BadArgs),
        })
        .collect()
}

fn env(value: Value) -> Result<BTreeMap<String, String>, ApiError> {
    let Value::Object(entries) = value else { return Err(bad("env must be an object of strings")) };
    if entries.len() > ARGS_MAX {
        return Err(bad(format!("env has more than {ARGS_MAX} entries")));
    }
    entries
        .into_iter()
        .map(|(name, value)| {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(bad(format!("env has a bad name: {name:?}")));
            }
            if name.starts_with(OUR_VARS) {
                return Err(bad(format!("env may not set {name}: names that begin with {OUR_VARS} are the server's own")));
            }
            let Value::String(text) = value else { return Err(bad(format!("env.{name} must be a string"))) };
            // The kernel is given `NAME=VALUE` as one string.
            if name.len() + 1 + text.len() > ARG_BYTES_MAX {
                return Err(bad("env has an entry longer than 128 KiB"));
            }
            Ok((name, executable("env", text)?))
        })
        .collect()
}

/// A text that can be handed to a program.
fn executable(key: &str, text: String) -> Result<String, ApiError> {
    if text.contains('\0') {
        return Err(bad(format!("{key} holds a NUL, which no program can be given")));
    }
    if text.len() > ARG_BYTES_MAX {
        return Err(bad(format!("{key} has an entry longer than 128 KiB")));
    }
    Ok(text)
}

fn grace(value: &Value) -> Result<Option<Duration>, ApiError> {
    match value {
        Value::Null => Ok(None),
        value => value
            .as_f64()
            .filter(|seconds| (0.0..=GRACE_S_MAX).contains(seconds))
            .map(|seconds| Some(Duration::from_secs_f64(seconds)))
            .ok_or_else(|| bad(format!("grace_s must be a number of seconds from 0 to {GRACE_S_MAX}"))),
    }
}

/// A number from the query; `None` where it is not there.
pub(super) fn query_number(request: &Request, name: &str, at_least: u64, at_most: u64) -> Result<Option<u64>, ApiError> {
    let Some(text) = query(request, name) else { return Ok(None) };
    text.parse()
        .ok()
        .filter(|number| (at_least..=at_most).contains(number) && text.bytes().all(|byte| byte.is_ascii_digit()))
        .map(Some)
        .ok_or_else(|| ApiError::BadQuery(format!("{name} must be a whole number from {at_least} to {at_most}")))
}

/// One of a few words from the query, the first of them where it is not there. An empty one is no word, it stands for none.
pub(super) fn query_word<'w>(request: &Request, name: &str, words: &[&'w str]) -> Result<&'w str, ApiError> {
    let Some(text) = query(request, name) else { return Ok(words.first().copied().unwrap_or_default()) };
    let words: Vec<&str> = words.iter().copied().filter(|word| !word.is_empty()).collect();
    words
        .iter()
        .copied()
        .find(|word| *word == text)
        .ok_or_else(|| ApiError::BadQuery(format!("{name} must be {}", words.join(" or "))))
}

/// A text from the query, of 1 to `bytes_max` bytes, in percent encoding where need be; `+` is a blank, as a form sends it.
pub(super) fn query_text(request: &Request, name: &str, bytes_max: usize) -> Result<Option<String>, ApiError> {
    let Some(text) = query(request, name) else { return Ok(None) };
    let decoded = decoded(&text.replace('+', " "));
    decoded.filter(|text| (1..=bytes_max).contains(&text.len())).map(Some).ok_or_else(|| {
        ApiError::BadQuery(format!(
            "{name} must be a text of 1 to {bytes_max} bytes, UTF-8 in percent encoding (curl -G --data-urlencode)"
        ))
    })
}

/// A time from the query.
pub(super) fn query_time(request: &Request, name: &str) -> Result<Option<Timestamp>, ApiError> {
    let Some(text) = query(request, name) else { return Ok(None) };
    // The sign of an offset is sent as it is or in percent encoding, and no time has a blank.
    let time = decoded(text).and_then(|text| Timestamp::from_rfc3339(&text).ok());
    let bad = || {
        ApiError::BadQuery(format!("{name} must be an RFC 3339 time such as 2026-01-31T10:00:00Z or 2026-01-31T11:00:00.5+01:00"))
    };
    time.map(Some).ok_or_else(bad)
}

/// Percent encoding taken back (RFC 3986, section 2.1); `None` where that is broken or leads to no UTF-8.
fn decoded(text: &str) -> Option<String> {
    let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = text.as_bytes();
    let is_whole = memchr::memchr_iter(b'%', bytes).all(|at| is_digit(bytes.get(at + 1)) && is_digit(bytes.get(at + 2)));
    is_whole.then(|| percent_decode_str(text).decode_utf8().ok().map(Into::into)).flatten()
}

/// Whether the query has one of these keys.
pub(super) fn has_query(request: &Request, names: &[&str]) -> bool {
    names.iter().any(|name| query(request, name).is_some())
}

/// The first value of that name, as it was sent: most of what is asked for here needs no decoding.
fn query<'r>(request: &'r Request, name: &str) -> Option<&'r str> {
    let query = request.raw_query_string();
    // Nearly every request has none.
    (!query.is_empty()).then_some(query)?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
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
        assert!(empty_request(&post(r#"{"grace_s":1}"#)).is_err());
        assert!(stop_request(&post(r#"{"script":"x"}"#)).is_err());
    }

    #[test]
    fn a_log_in_says_a_token_and_nothing_else() {
        assert_eq!(login_request(&post(r#"{"token":"x"}"#)).expect("good"), "x");
        for body in ["", "{}", r#"{"token":null}"#, r#"{"token":1}"#, r#"{"token":"x","remember":true}"#] {
            assert!(matches!(login_request(&post(body)), Err(ApiError::BadBody(_))), "{body}");
        }
    }

    #[test]
    fn query_values_are_numbers_in_range_or_errors() {
        let get = |query: &str| Request::fake_http("GET", format!("/api/logs?{query}"), vec![], vec![]);
        assert_eq!(query_number(&get("since=5&limit=7"), "limit", 1, 10).expect("good"), Some(7));
        assert_eq!(query_number(&get(""), "limit", 1, 10).expect("good"), None);
        for bad in [
            "limit=",
            "limit",
            "limit=x",
            "limit=0",
            "limit=11",
            "limit=-1",
            "limit=+5",
            "limit=5=5",
            "limit=99999999999999999999",
            "limit=%35",
        ] {
            assert!(query_number(&get(bad), "limit", 1, 10).is_err(), "{bad}");
        }
        let text = |query: &str| query_text(&get(query), "grep", 9);
        for (query, wanted) in [
            ("grep=a", "a"),
            ("grep=a+b%2B%25", "a b+%"),
            ("grep=%C3%A9&grep=x", "\u{e9}"),
            ("since=1&grep==%3d=", "==="),
            ("grep=%00", "\0"),
            ("grep=123456789", "123456789"),
        ] {
            assert_eq!(text(query).expect(query).as_deref(), Some(wanted));
        }
        assert_eq!(text("greps=1").expect("another name"), None);
        for bad in ["grep", "grep=", "grep=%", "grep=%4", "grep=%g1", "grep=%+1", "grep=%ff", "grep=%C3", "grep=1234567890"] {
            assert!(text(bad).is_err(), "{bad}");
        }
        let time = |query: &str| query_time(&get(query), "at");
        for good in ["2026-01-31T10:00:00Z", "2026-01-31T11:00:00+01:00", "2026-01-31T11%3A00:00.000%2B01:00"] {
            let at = time(&format!("at={good}")).expect(good).expect("there");
            assert_eq!(at.to_string(), "2026-01-31T10:00:00.000Z");
        }
        assert!(time("at=").is_err() && time("at=now").is_err() && time("at=2026-01-31").is_err());
        assert_eq!(query_word(&get("source=backend"), "source", &["pipeline", "backend"]).expect("good"), "backend");
        assert!(query_word(&get("source=../etc"), "source", &["pipeline", "backend"]).is_err());
    }
}
