//! The JSON bodies of a start, of a stop, and of the actions without parameters.

use autoappdev::pipeline::Action;
use autoappdev::supervisor::{Ask, StartRequest};
use autoappdev::web::fuzzing::ask;
use rouille::Response;
use serde_json::{Map, Value, json};

/// The maximum length of an argument, and the maximum number of arguments.
const TEXT_BYTES_MAX: usize = 128 * 1024 - 1;
const ENTRIES_MAX: usize = 10_000;

pub fn run(bytes: &[u8]) {
    let read: Option<Value> = serde_json::from_slice(bytes).ok();
    let is_nothing = bytes.trim_ascii().is_empty();
    let start = start_request(bytes).map_err(is_refusal);
    let stop = ask(Action::Stop, bytes).map_err(is_refusal).map(|stop| match stop {
        Ask::Stop { grace } => grace,
        other => panic!("{other:?}"),
    });
    let empty = ask(Action::Pause, bytes).map_err(is_refusal);
    assert_eq!(empty.is_ok(), ask(Action::Resume, bytes).is_ok());
    // All three parsers refuse a body that is not an object.
    let object = match &read {
        Some(Value::Object(object)) => Some(object.clone()),
        _ if is_nothing => Some(Map::new()),
        _ => None,
    };
    assert!(object.is_some() || (start.is_err() && stop.is_err() && empty.is_err()));
    // Each parser accepts everything that the one before accepts, with the same meaning.
    let is_for_any = |object: &Map<String, Value>| object.keys().all(|key| key == "if_run_id");
    assert!(empty.is_err() || object.as_ref().is_some_and(is_for_any));
    assert!(empty.is_ok() || !object.as_ref().is_some_and(Map::is_empty));
    if empty.is_ok() {
        assert_eq!(stop, Ok(None));
    }
    if let Ok(grace) = stop {
        assert_eq!(start.as_ref().expect("a start takes what a stop takes").grace, grace);
    }
    if let Ok(start) = start {
        let object = object.expect("looked at above");
        assert!(start.args.len() <= ENTRIES_MAX && start.env.len() <= ENTRIES_MAX);
        for text in start.args.iter().chain(start.env.values()) {
            assert!(text.len() <= TEXT_BYTES_MAX && !text.contains('\0'));
        }
        for name in start.env.keys() {
            assert!(!name.is_empty() && !name.contains(['=', '\0']) && !name.starts_with("AUTOAPPDEV_"), "{name:?}");
        }
        // The request contains what the object contains.
        assert_eq!(object.get("script").and_then(Value::as_str), start.script.as_deref());
        assert_eq!(object.get("cwd").and_then(Value::as_str), start.cwd.as_deref());
        assert_eq!(object.get("args").cloned().unwrap_or_else(|| json!([])), json!(start.args));
        assert_eq!(object.get("env").cloned().unwrap_or_else(|| json!({})), json!(start.env));
        assert_eq!(object.get("grace_s").and_then(Value::as_f64).is_some(), start.grace.is_some());
        assert!(start.grace.is_none_or(|grace| grace.as_secs_f64() <= 3600.0));
        let again = serde_json::to_vec(&object).expect("it was JSON");
        assert_eq!(format!("{:?}", start_request(&again).ok()), format!("{:?}", Some(start)));
    }
}

fn start_request(bytes: &[u8]) -> Result<StartRequest, Response> {
    ask(Action::Start, bytes).map(|start| match start {
        Ask::Start(start) => start,
        other => panic!("{other:?}"),
    })
}

/// Checks that a refusal is a 4xx with a code and a sentence on one line.
fn is_refusal(response: Response) {
    assert!((400..500).contains(&response.status_code), "{}", response.status_code);
    let (mut reader, _) = response.data.into_reader_and_size();
    let body: Value = serde_json::from_reader(&mut reader).expect("JSON");
    assert!(body["ok"] == false && body["error"].is_string() && body["detail"].is_string(), "{body}");
}
