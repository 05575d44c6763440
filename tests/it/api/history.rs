//! How runs ended, and the history filtered by outcome, text and script, with a real server and real ends.

use std::fs;

use crate::support::sse::EventStream;
use crate::support::{Place, signal, until_true, values};
use serde_json::{Value, json};

const SCRIPT: &str = "#!/bin/bash\nkill -$1 $$\n";

fn ended(place: &Place) -> Value {
    until_true("the run is over", || place.pipeline()["allowed"] == json!(["start"]));
    place.pipeline()
}

#[test]
fn outcome_reports_how_run_ended_and_who_stopped_it() {
    let place = Place::serving("sleep.sh");
    place.script("signal.sh", SCRIPT);
    place.script("broken.sh", "echo a text with an execute bit and nothing that runs it\n");
    let mut stream = EventStream::open(place.port(), "?since=0", None);
    assert_eq!(values(&place.pipeline(), &["outcome", "waiting", "next"]), json!([null, null, null]));
    let outcome = |kind: &str, exit_code: Value, signal: Value, name: Value| {
        let outcome = ended(&place)["outcome"].take();
        assert_eq!(values(&outcome, &["kind", "exit_code", "signal", "signal_name"]), json!([kind, exit_code, signal, name]));
        outcome
    };
    let none = json!([null, false]);
    for code in [0, 3] {
        place.start_with(json!({"script": "exit.sh", "args": [code.to_string()]}));
        let told = outcome(if code == 0 { "completed" } else { "failed" }, code.into(), Value::Null, Value::Null);
        assert_eq!(values(&told, &["by", "forced"]), none);
        assert!(told["took_ms"].is_u64(), "{told}");
    }
    for (name, number, kind) in [("SEGV", 11, "failed"), ("KILL", 9, "killed"), ("TERM", 15, "killed")] {
        place.start_with(json!({"script": "signal.sh", "args": [name]}));
        let told = outcome(kind, Value::Null, number.into(), format!("SIG{name}").into());
        assert_eq!(values(&told, &["by", "forced"]), none, "{name}");
    }
    for (script, grace_s, number, name) in [("sleep.sh", 10.0, 15, "SIGTERM"), ("stubborn.sh", 0.1, 9, "SIGKILL")] {
        let (_, run_id) = place.start_with(json!({"script": script}));
        assert_eq!(place.pipeline()["outcome"], Value::Null, "it is alive");
        assert_eq!(place.run(run_id)["outcome"], Value::Null);
        until_true("its traps are set", || place.said(run_id, "stdout") == ["ready"]);
        place.post("/api/pipeline/stop", json!({"grace_s": grace_s})).ok();
        let told = outcome("stopped", Value::Null, number.into(), name.into());
        assert_eq!(told["by"], place.run(run_id)["stopped_by"]);
        assert_eq!((&told["by"]["by"], &told["forced"]), (&json!("client"), &json!(number == 9)));
    }
    assert_eq!(place.post("/api/pipeline/start", json!({"script": "broken.sh"})).status, 422);
    assert_eq!(outcome("not_started", Value::Null, Value::Null, Value::Null)["took_ms"], Value::Null);
    let (_, run_id) = place.start();
    signal(place.shim_pid(run_id), "KILL");
    let lost = outcome("lost", Value::Null, Value::Null, Value::Null);
    // The history and the stream have the same outcomes.
    let runs = place.get("/api/runs").ok()["runs"].take();
    let kinds: Vec<&str> =
        runs.as_array().expect("a list").iter().map(|run| run["outcome"]["kind"].as_str().expect("a word")).collect();
    assert_eq!(kinds, ["lost", "not_started", "stopped", "stopped", "killed", "killed", "failed", "failed", "completed"]);
    for run in runs.as_array().expect("a list") {
        assert_eq!(place.run(run["id"].as_i64().expect("an id"))["outcome"], run["outcome"]);
    }
    assert_eq!(runs[0]["outcome"], lost);
    stream.until("the state with that outcome", |event| event.kind == "state" && event.data["outcome"] == lost);
}

/// Returns the ids of a page.
fn ids(page: &Value) -> Vec<i64> {
    page["runs"].as_array().expect("a list").iter().map(|run| run["id"].as_i64().expect("an id")).collect()
}

#[test]
fn history_is_filtered_by_outcome_and_text() {
    let place = Place::serving("sleep.sh");
    fs::create_dir(place.root().join("Tools")).expect("creates");
    place.script("Tools/backup.sh", "#!/bin/bash\nexit 0\n");
    for (script, args) in [("exit.sh", json!(["0"])), ("exit.sh", json!(["1"])), ("Tools/backup.sh", json!(["--Target", "a b"]))]
    {
        place.start_with(json!({"script": script, "args": args}));
        ended(&place);
    }
    place.start();
    let counts = json!({"all": 4, "failed": 1});
    for (query, expected) in [
        ("", vec![4, 3, 2, 1]),
        ("outcome=live", vec![4]),
        ("outcome=completed", vec![3, 1]),
        ("outcome=failed,killed,not_started,lost", vec![2]),
        ("outcome=failed%2Clive", vec![4, 2]),
        ("outcome=live,live", vec![4]),
        ("outcome=stopped", vec![]),
        ("find=BACKUP", vec![3]),
        ("find=%2D%2Dtarget+A+b", vec![3]),
        ("find=exit&outcome=completed", vec![1]),
        ("find=2", vec![2]),
        ("find=nowhere", vec![]),
    ] {
        let page = place.get(&format!("/api/runs?{query}")).ok();
        assert_eq!((ids(&page), &page["counts"], &page["searched_all"]), (expected, &counts, &json!(true)), "{query}");
    }
    let page = place.get("/api/runs?outcome=completed&limit=1").ok();
    assert_eq!((ids(&page), &page["next_before"]), (vec![3], &json!(3)));
    let page = place.get("/api/runs?outcome=completed&limit=1&before=3").ok();
    assert_eq!((ids(&page), &page["next_before"], &page["counts"]), (vec![1], &Value::Null, &Value::Null));
    let longest = "x".repeat(200);
    assert_eq!(ids(&place.get(&format!("/api/runs?find={longest}")).ok()), Vec::<i64>::new());
    for (query, detail) in [
        ("outcome=faild", "outcome: \"faild\" is unknown; did you mean \"failed\"?"),
        ("outcome=live,Lost", "outcome: \"Lost\" is unknown; did you mean \"lost\"?"),
        (
            "outcome=",
            "outcome must be one or more of live, completed, failed, stopped, killed, not_started, lost, separated by commas",
        ),
        ("outcome=live,", "outcome must be one or more of live, "),
        ("outcome=%ff", "outcome must be one or more of live, "),
        ("find=", "find must be a text of 1 to 200 bytes"),
        (&format!("find=x{longest}"), "find must be a text of 1 to 200 bytes"),
        ("fnd=x", "\"fnd\" is unknown; did you mean \"find\"?"),
    ] {
        let refused = place.get(&format!("/api/runs?{query}"));
        assert_eq!((refused.status, refused.error()), (400, "invalid_query"), "{query}");
        assert!(refused.body["detail"].as_str().expect("a sentence").starts_with(detail), "{}", refused.body);
    }
}

#[test]
fn run_is_compared_with_the_completed_runs_of_its_script() {
    let place = Place::serving("sleep.sh");
    for code in ["0", "3", "0"] {
        place.start_with(json!({"script": "exit.sh", "args": [code]}));
        ended(&place);
    }
    place.start();
    let compared = |id| values(&place.run(id), &["previous", "usual_ms"]);
    assert_eq!(compared(1), json!([null, null]));
    assert_eq!(compared(4), json!([null, null]), "no other script counts");
    let first = place.run(1);
    let took_ms = &first["outcome"]["took_ms"];
    let expected = json!([{"id": 1, "took_ms": took_ms, "active_ms": took_ms}, took_ms]);
    assert_eq!((compared(2), compared(3)), (expected.clone(), expected), "a failed run does not count");
    // Pauses do not count as activity.
    place.edit_database(
        "UPDATE pipeline_runs SET started_at = '2026-01-31T10:00:00.000Z', stopped_at = '2026-01-31T10:00:10.000Z', paused_ms = 4000
         WHERE id = 3; UPDATE pipeline_runs SET script = 'exit.sh' WHERE id = 4",
    );
    let active_ms = took_ms.as_u64().expect("a number");
    assert_eq!(compared(4), json!([{"id": 3, "took_ms": 10_000, "active_ms": 6000}, active_ms.midpoint(6000)]));
}
