//! `Idempotency-Key`: an action with a key is performed once, and a repetition gets the same response.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fake_server::{FakeServer, Reply};
use crate::support::http::Answer;
use crate::support::{Place, signal, until_true};
use serde_json::{Value, json};

fn post(place: &Place, action: &str, keys: &[&str], body: &Value) -> Answer {
    let mut fields = vec![("Content-Type", "application/json")];
    fields.extend(keys.iter().map(|key| ("Idempotency-Key", *key)));
    place.request("POST", &format!("/api/pipeline/{action}"), &fields, Some(&body.to_string()))
}

/// Creates a place with run 1, which is running.
fn running() -> Place {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.start_server();
    place.post("/api/pipeline/start", json!({})).ok();
    place
}

fn is_replay(answer: &Answer) -> bool {
    answer.header("Idempotent-Replay") == Some("true")
}

fn run_count(place: &Place) -> usize {
    place.get("/api/runs").ok()["runs"].as_array().expect("runs").len()
}

#[test]
fn repeated_action_gets_same_response_and_acts_once() {
    let place = running();
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    let first = post(&place, "start", &["a"], &json!({"script": "sleep.sh"}));
    assert!(first.status == 200 && !is_replay(&first), "{}", first.body);
    let again = post(&place, "start", &["a"], &json!({"script": "sleep.sh"}));
    assert!(is_replay(&again));
    assert_eq!((again.status, &again.body), (200, &first.body));
    // The response is repeated regardless of what has happened since, even to the run that the start began.
    post(&place, "stop", &["b"], &json!({"grace_s": 0})).ok();
    let again = post(&place, "start", &["a"], &json!({"script": "sleep.sh"}));
    assert_eq!((again.status, &again.body, run_count(&place)), (200, &first.body, 2));
    let stop = post(&place, "stop", &["b"], &json!({"grace_s": 0}));
    assert!(stop.status == 200 && is_replay(&stop), "{}", stop.body);
    assert_eq!(place.pipeline()["state"], "stopped");

    let refused = post(&place, "pause", &["c"], &json!({}));
    assert_eq!((refused.status, refused.error()), (409, "invalid_transition"));
    place.post("/api/pipeline/start", json!({})).ok();
    let again = post(&place, "pause", &["c"], &json!({}));
    assert!(is_replay(&again), "a refusal that the state decided is kept");
    assert_eq!((again.status, &again.body, &place.pipeline()["state"]), (409, &refused.body, &json!("running")));
}

#[test]
fn reused_or_invalid_key_is_refused() {
    let place = running();
    post(&place, "pause", &["a"], &json!({})).ok();
    for (action, body) in [("resume", json!({})), ("pause", json!({"if_run_id": 1})), ("stop", json!({}))] {
        let refused = post(&place, action, &["a"], &body);
        assert_eq!((refused.status, refused.error()), (409, "idempotency_key_reused"), "{action} {body}");
    }
    let long = "x".repeat(65);
    for keys in [&[""][..], &["a b"], &[&long], &["b", "b"], &["b", "c"]] {
        let refused = post(&place, "stop", keys, &json!({}));
        assert_eq!((refused.status, refused.error()), (400, "invalid_idempotency_key"), "{keys:?}");
    }
    assert_eq!(place.pipeline()["state"], "paused");
    // A request that is refused as malformed is not kept.
    let bad = post(&place, "resume", &["d"], &json!({"grace_s": 1}));
    assert_eq!((bad.status, bad.error()), (400, "invalid_body"));
    post(&place, "resume", &["d"], &json!({})).ok();
}

#[test]
fn viewer_gets_no_replay_by_key() {
    let mut place = Place::new();
    place.use_token("a-token-of-this-test");
    place.set_env("AUTOAPPDEV_READ_TOKEN", "a-read-token-of-this-test");
    place.start_server();
    post(&place, "start", &["a"], &json!({"script": "sleep.sh"})).ok();
    for key in ["a", "b", ""] {
        for (bearer, code) in [("Bearer a-read-token-of-this-test", "read_only"), ("Bearer not-a-token-of-this", "unauthorized")]
        {
            let fields = [("Content-Type", "application/json"), ("Idempotency-Key", key), ("Authorization", bearer)];
            let answer = place.request("POST", "/api/pipeline/start", &fields, Some(r#"{"script":"sleep.sh"}"#));
            assert_eq!(answer.error(), code, "{key}");
            assert!(!is_replay(&answer));
        }
    }
}

#[test]
fn concurrent_repetitions_begin_one_run() {
    let place = running();
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let repeats: Vec<_> =
            (0..8).map(|_| scope.spawn(|| post(&place, "start", &["a"], &json!({"script": "sleep.sh"})))).collect();
        repeats.into_iter().map(|repeat| repeat.join().expect("answered")).collect()
    });
    for answer in &answers {
        assert_eq!((answer.status, &answer.body), (200, &answers[0].body));
    }
    assert_eq!(answers.iter().filter(|answer| !is_replay(answer)).count(), 1, "the first");
    assert_eq!(run_count(&place), 2);
}

#[test]
fn response_survives_server_kill_and_body_is_not_stored() {
    let mut place = Place::new();
    place.start_server();
    let body = json!({"script": "sleep.sh", "env": {"KEY": "s3cret-of-this-test"}});
    let first = post(&place, "start", &["a"], &body);
    first.ok();
    place.kill_server();
    place.start_server();
    let again = post(&place, "start", &["a"], &body);
    assert!(is_replay(&again));
    assert_eq!((again.status, run_count(&place)), (200, 1));
    for database in ["autoappdev.db", "autoappdev.db-wal"] {
        let bytes = fs::read(place.runtime().join(database)).unwrap_or_default();
        assert!(memchr::memmem::find(&bytes, b"s3cret-of-this-test").is_none(), "{database}");
    }
}

/// An upgrade at any moment: the first server has completed the first start, a part of it, or nothing.
#[test]
fn start_repeated_after_server_restart_begins_one_run() {
    let mut place = Place::new();
    place.script("short.sh", "#!/bin/sh\n");
    place.start_server();
    for round in 1..=6 {
        let key = round.to_string();
        let fields = [("Content-Type", "application/json"), ("Idempotency-Key", key.as_str())];
        let start = |place: &Place| place.try_request("POST", "/api/pipeline/start", &fields, Some(r#"{"script":"short.sh"}"#));
        std::thread::scope(|scope| {
            let first = scope.spawn(|| start(&place));
            // The three kinds of round stop the server at different moments: perhaps before anything happened, after the
            // response, and when the run has begun.
            let directory = place.run_dir(round);
            until_true("it began", || round % 3 == 1 || first.is_finished() || round % 3 == 0 && directory.exists());
            signal(place.server_pid(), "TERM");
            let _may_be_cut_off = first.join().expect("no panic");
        });
        place.until_server_ended();
        place.start_server();
        let again = start(&place).expect("the next server answers");
        assert_eq!((again.status, &again.body["run_id"]), (200, &json!(round)), "{}", again.body);
        until_true("it is over", || place.pipeline()["state"] == "stopped");
        let third = start(&place).expect("it answers");
        assert!(is_replay(&third) && third.body == again.body, "{}", third.body);
        assert_eq!(run_count(&place), usize::try_from(round).expect("few"));
    }
}

#[test]
fn repeated_failing_start_creates_one_run() {
    let mut place = Place::new();
    place.script("unrunnable.sh", "echo a text with an execute bit and nothing that runs it\n");
    place.start_server();
    let ask = || post(&place, "start", &["a"], &json!({"script": "unrunnable.sh"}));
    let first = ask();
    assert_eq!((first.status, first.error()), (422, "spawn_failed"));
    let again = ask();
    assert!(is_replay(&again));
    assert_eq!((&again.body, run_count(&place)), (&first.body, 1));
    // Nothing was decided yet, because the script does not exist.
    let ask = || post(&place, "start", &["b"], &json!({"script": "later.sh"}));
    assert_eq!(ask().error(), "script_not_found");
    place.script("later.sh", "#!/bin/sh\n");
    assert_eq!(ask().status, 200);
    until_true("it is over", || place.pipeline()["state"] == "stopped");
}

#[test]
fn client_repeats_action_whose_response_was_lost() {
    const STARTED: &str = r#"{"ok":true,"state":"running","pid":7,"run_id":1,"script":"a.sh","version":2}"#;
    const STOPPING: &str = r#"{"ok":false,"error":"server_stopping","detail":"nothing was done"}"#;
    let mut place = Place::new();
    place.start_server();
    let version = place.get("/api/version").ok();
    let earlier = {
        let mut earlier = version.clone();
        earlier.as_object_mut().expect("an object").remove("takes_keys");
        earlier
    };
    let lost = Reply::Nothing;
    let done = Reply::Json(200, STARTED.to_owned());
    // Each case: the server's version, its response to the first request and to further ones, the number of requests, and the
    // exit code.
    let cases = [
        (&version, lost.clone(), done.clone(), 2, 0),
        (&version, lost.clone(), lost.clone(), 2, 4),
        // This error is the response to the repetition, and says nothing about the first request.
        (&version, lost.clone(), Reply::Json(503, STOPPING.to_owned()), 2, 4),
        // An earlier version ignores the key and would start another run.
        (&earlier, lost, done.clone(), 1, 4),
        (&version, Reply::Json(503, STOPPING.to_owned()), done, 1, 1),
    ];
    for (version, first, second, count, expected) in cases {
        let (asked, version) = (AtomicUsize::new(0), version.to_string());
        let server = FakeServer::start(move |request| match (&*request.line, asked.load(Ordering::SeqCst)) {
            ("GET /api/version", _) => Reply::Json(200, version.clone()),
            (_, before) => {
                asked.fetch_add(1, Ordering::SeqCst);
                if before == 0 { first.clone() } else { second.clone() }
            }
        });
        let (status, _, stderr) = place.client(&["--url", &server.url(), "start"]);
        assert_eq!(status, expected, "{stderr}");
        assert!(expected != 4 || stderr.contains("was cut off"), "{stderr}");
        let requests = server.requests();
        let keys = requests.iter().flat_map(|request| &request.headers).filter(|line| line.starts_with("idempotency-key:"));
        let keys: Vec<_> = keys.collect();
        assert_eq!(keys.len(), count, "{stderr}");
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    }
}

#[test]
fn waiting_repetitions_block_no_action_and_end_with_server() {
    let mut place = Place::new();
    place.script("deaf.sh", "#!/bin/sh\ntrap '' TERM\necho deaf\nwhile :; do sleep 0.1; done\n");
    place.start_server();
    place.post("/api/pipeline/start", json!({"script": "deaf.sh"})).ok();
    until_true("it ignores TERM", || place.get("/api/logs/tail").body.to_string().contains("deaf"));
    std::thread::scope(|scope| {
        let ask = || post(&place, "stop", &["a"], &json!({"grace_s": 3600}));
        let repeats: Vec<_> = (0..20).map(|_| scope.spawn(ask)).collect();
        until_true("the others wait", || repeats.iter().filter(|repeat| repeat.is_finished()).count() == 3);
        // A key that is used with another body is refused at once, and not only after the grace of an hour.
        assert_eq!(post(&place, "stop", &["a"], &json!({"grace_s": 0})).error(), "idempotency_key_reused");
        assert_eq!(post(&place, "pause", &["b"], &json!({})).error(), "invalid_transition");
        assert_eq!(place.pipeline()["pending"], "stop");
        signal(place.server_pid(), "TERM");
        let answers: Vec<_> = repeats.into_iter().map(|repeat| repeat.join().expect("answered")).collect();
        let with = |code: &str| answers.iter().filter(|answer| answer.error() == code).count();
        assert_eq!((with("idempotency_key_in_use"), with("server_stopping")), (3, 17));
    });
    assert_eq!(place.until_server_ended().0, 0);
    place.start_server();
    post(&place, "stop", &["c"], &json!({"grace_s": 0})).ok();
    let told = post(&place, "stop", &["a"], &json!({"grace_s": 3600}));
    assert!(told.status == 200 && !is_replay(&told), "{}", told.body);
}

#[test]
fn start_command_with_key_begins_one_run() {
    let mut place = Place::new();
    place.script("short.sh", "#!/bin/sh\n");
    place.start_server();
    let start = || place.client(&["start", "short.sh", "--idempotency-key", "nightly-2026-01-31"]);
    let (status, first, stderr) = start();
    assert_eq!(status, 0, "{stderr}");
    until_true("it is over", || place.pipeline()["state"] == "stopped");
    assert_eq!(start(), (0, first, String::new()));
    assert_eq!(run_count(&place), 1);
    let (status, _, stderr) = place.client(&["restart", "--idempotency-key", "a"]);
    assert_eq!(status, 2, "the run must be named: {stderr}");
    let (status, _, stderr) = place.client(&["pause", "--idempotency-key", "a b"]);
    assert!(status == 2 && stderr.contains("visible ASCII"), "{stderr}");
}
