//! Every endpoint as `docs/api-contracts.md` describes it, on the whole binary: exact keys, types, and the values in each state.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Answer, Place, assert_keys, assert_time, signal, until_true, values};
use serde_json::{Value, json};

fn assert_number_or_null(object: &Value, keys: &[&str]) {
    for key in keys {
        assert!(object[key].is_null() || object[key].is_i64() || object[key].is_u64(), "{key} in {object}");
    }
}

fn assert_text_or_null(object: &Value, keys: &[&str]) {
    for key in keys {
        assert!(object[key].is_null() || object[key].is_string(), "{key} in {object}");
    }
}

/// Returns the pipeline, after checking its shape and comparing its status with the status endpoint.
fn look(place: &Place) -> Value {
    let answer = place.get("/api/pipeline");
    assert_eq!(answer.header("Content-Type"), Some("application/json"));
    let body = answer.clone().ok();
    assert_keys(&body, &["pipeline"]);
    let pipeline = body["pipeline"].clone();
    assert_keys(
        &pipeline,
        &[
            "state",
            "pending",
            "pending_origin",
            "kill_at",
            "allowed",
            "containment",
            "conditions",
            "detail",
            "progress",
            "usage",
            "pid",
            "run_id",
            "started_at",
            "paused_at",
            "resumed_at",
            "stopped_at",
            "updated_at",
            "version",
            "status",
            "outcome",
            "waiting",
            "next",
            "script",
            "default_script",
            "exit_code",
            "signal",
            "oom_kills",
            "error",
            "progress",
        ],
    );
    for key in ["started_at", "paused_at", "resumed_at", "stopped_at", "updated_at", "kill_at"] {
        assert_time(&pipeline[key]);
    }
    assert!(pipeline["updated_at"].is_string() && pipeline["version"].is_u64() && pipeline["allowed"].is_array());
    assert_number_or_null(&pipeline, &["pid", "run_id", "exit_code", "signal", "oom_kills"]);
    assert_text_or_null(&pipeline, &["pending", "script", "default_script", "error", "containment", "detail"]);
    assert!(["stopped", "running", "paused"].contains(&pipeline["state"].as_str().expect("a word")));
    let status = place.get("/api/pipeline/status").ok();
    let running = pipeline["state"] == "running";
    let expected = json!({"running": running, "pid": pipeline["pid"], "run_id": pipeline["run_id"], "state": pipeline["status"]});
    assert_eq!(status, json!({ "status": expected }));
    pipeline
}

/// Returns which of the four times are set: started, paused, resumed, stopped.
fn times(pipeline: &Value) -> [bool; 4] {
    ["started_at", "paused_at", "resumed_at", "stopped_at"].map(|key| pipeline[key].is_string())
}

const ENDING: [&str; 6] = ["state", "status", "pid", "exit_code", "signal", "allowed"];

#[test]
fn pipeline_has_every_key_in_every_state() {
    let place = Place::serving("sleep.sh");
    let idle = look(&place);
    assert_eq!(values(&idle, &["state", "status", "run_id", "script"]), json!(["stopped", "idle", null, "sleep.sh"]));
    assert_eq!((times(&idle), &idle["allowed"], &idle["error"]), ([false; 4], &json!(["start"]), &Value::Null));

    let started = place.post("/api/pipeline/start", json!({})).ok();
    assert_keys(&started, &["ok", "state", "pid", "run_id", "script", "version", "conditions"]);
    let running = look(&place);
    assert_eq!(values(&started, &["ok", "state", "pid", "run_id"]), json!([true, "running", running["pid"], 1]));
    assert_eq!(
        values(&running, &["state", "status", "pending", "allowed"]),
        json!(["running", "running", null, ["pause", "stop"]])
    );
    assert_eq!(times(&running), [true, false, false, false]);

    for (action, state, set, allowed) in [
        ("pause", "paused", [true, true, false, false], json!(["resume", "stop"])),
        ("resume", "running", [true, true, true, false], json!(["pause", "stop"])),
        ("stop", "stopped", [true, true, true, true], json!(["start"])),
    ] {
        let done = place.act(action).ok();
        assert_keys(&done, &["ok", "state", "run_id", "version", "conditions"]);
        let now = look(&place);
        assert_eq!(values(&done, &["ok", "state", "run_id"]), json!([true, state, 1]), "{action}");
        assert_eq!((&now["state"], times(&now), &now["allowed"]), (&json!(state), set, &allowed), "{action}");
        assert!(now["version"].as_u64() >= done["version"].as_u64());
    }
    assert_eq!(values(&look(&place), &ENDING), json!(["stopped", "stopped", null, null, 15, ["start"]]));
    // A start clears the times of the previous run.
    place.start();
    assert_eq!(times(&look(&place)), [true, false, false, false]);
}

#[test]
fn each_kind_of_end_has_its_own_status() {
    let place = Place::serving("sleep.sh");
    place.script("broken.sh", "echo a text with an execute bit and nothing that runs it\n");
    let ended = || {
        until_true("the run is over", || place.pipeline()["allowed"] == json!(["start"]));
        let pipeline = look(&place);
        assert!(pipeline["pid"].is_null() && pipeline["run_id"].is_u64() && pipeline["stopped_at"].is_string());
        pipeline
    };
    for (code, status) in [(0, "completed"), (3, "failed")] {
        place.start_with(json!({"script": "exit.sh", "args": [code.to_string()]}));
        let end = ended();
        assert_eq!(values(&end, &ENDING), json!(["stopped", status, null, code, null, ["start"]]));
        assert_eq!((&end["script"], &end["error"]), (&json!("exit.sh"), &Value::Null));
    }
    let (pid, _) = place.start();
    signal(pid, "KILL");
    assert_eq!(values(&ended(), &ENDING), json!(["stopped", "failed", null, null, 9, ["start"]]));

    let refused = place.post("/api/pipeline/start", json!({"script": "broken.sh"}));
    assert_eq!((refused.status, refused.error()), (422, "spawn_failed"), "{}", refused.body);
    assert_keys(&refused.body, &["ok", "error", "detail", "run_id"]);
    let never = ended();
    assert_eq!(values(&never, &ENDING), json!(["stopped", "failed", null, null, null, ["start"]]));
    assert!(never["started_at"].is_null() && never["error"].is_string(), "{never}");
    assert_eq!(never["run_id"], refused.body["run_id"]);

    let (_, run_id) = place.start();
    signal(place.shim_pid(run_id), "KILL");
    let lost = ended();
    assert_eq!(values(&lost, &ENDING), json!(["stopped", "lost", null, null, null, ["start"]]));
    assert!(lost["error"].is_string());
    // The history has each of them with the same word.
    let runs = place.get("/api/runs").ok();
    let words: Vec<_> = runs["runs"].as_array().expect("a list").iter().map(|run| run["status"].clone()).collect();
    assert_eq!(words, ["lost", "failed", "failed", "failed", "completed"]);
}

#[test]
fn known_version_gets_304() {
    let place = Place::serving("sleep.sh");
    let etag = |answer: &Answer| answer.header("ETag").expect("an ETag").to_owned();
    let with = |method: &str, tag: &str| place.request(method, "/api/pipeline", &[("If-None-Match", tag)], None);
    let first = place.get("/api/pipeline");
    let tag = etag(&first);
    // RFC 9110, section 8.8.3: a tag is quoted. Proxies and client libraries drop an unquoted one.
    let id = place.get("/api/version").ok()["server"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(tag, format!("\"{}@{}\"", first.body["pipeline"]["version"], &id[..8]));
    let unchanged = with("GET", &tag);
    assert_eq!((unchanged.status, &unchanged.body, etag(&unchanged)), (304, &json!(""), tag.clone()));
    assert_eq!(with("HEAD", &tag).status, 304);
    assert_eq!(with("GET", "\"4711\"").status, 200);
    place.start();
    let changed = with("GET", &tag);
    assert_eq!((changed.status, &changed.body["pipeline"]["state"]), (200, &json!("running")));
    assert_ne!(etag(&changed), tag);
}

/// Two databases can have the same version with different contents.
#[test]
fn tag_of_a_server_with_another_database_does_not_match() {
    let mut place = Place::serving("sleep.sh");
    let before = place.get("/api/pipeline");
    let tag = before.header("ETag").expect("an ETag").to_owned();
    assert_eq!(place.stop_server(), 0);
    place.set_env("DATABASE_URL", &format!("sqlite:{}", place.folder().join("other.db").display()));
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "exit.sh");
    place.start_server();
    let now = place.request("GET", "/api/pipeline", &[("If-None-Match", &tag)], None);
    assert_eq!((now.status, &now.body["pipeline"]["script"]), (200, &json!("exit.sh")));
    assert_eq!(now.body["pipeline"]["version"], before.body["pipeline"]["version"], "otherwise this shows nothing");
}

#[test]
fn long_poll_returns_on_change_or_after_its_wait() {
    let place = Place::serving("sleep.sh");
    place.start();
    let version = place.pipeline()["version"].as_u64().expect("a number");
    let poll = |after: u64, wait: u64| place.get(&format!("/api/pipeline?after={after}&wait={wait}")).ok()["pipeline"].take();
    // A wait that nothing interrupts takes its full time, and returns the unchanged state.
    let begun = Instant::now();
    assert_eq!(poll(version, 1), place.pipeline());
    assert!(begun.elapsed() >= Duration::from_secs(1), "answered before its time");
    assert_eq!(poll(version, 0)["version"], version);

    let port = place.port();
    let waiting = thread::spawn(move || {
        crate::support::wire::Wire::open(port).get(&format!("/api/pipeline?after={version}&wait=60")).ok()["pipeline"].take()
    });
    // A wait with an older version, or with a version of another database, returns at once. The wait above would still be
    // waiting.
    assert_eq!(poll(version - 1, 60)["version"], version);
    assert_eq!(poll(version + 1000, 60)["version"], version);
    assert_eq!(poll(u64::MAX, 60)["version"], version);
    assert!(!waiting.is_finished());
    place.act("pause").ok();
    let woken = waiting.join().expect("it does not panic");
    assert!(woken["version"].as_u64() > Some(version), "{woken}");
}

#[test]
fn state_change_wakes_200_long_polls() {
    let place = Place::serving("sleep.sh");
    let version = place.pipeline()["version"].as_u64().expect("a number");
    let mut wires: Vec<_> = (0..200).map(|_| place.wire()).collect();
    for wire in &mut wires {
        wire.ask("GET", &format!("/api/pipeline?after={version}&wait=60"));
        // Less than the wait, so that only a wake-up can cause the response in time.
        wire.read_within(Duration::from_secs(45));
    }
    until_true("each has its thread", || place.server_threads() >= 200);
    place.start();
    for wire in &mut wires {
        let answer = wire.answer().ok();
        assert!(answer["pipeline"]["version"].as_u64() > Some(version), "{answer}");
    }
    drop(wires);
    until_true("their threads end", || place.server_threads() < 20);
}

#[test]
fn history_pages_and_runs_have_exact_keys() {
    let place = Place::serving("sleep.sh");
    assert_eq!(
        place.get("/api/runs").ok(),
        json!({"runs": [], "next_before": null, "searched_all": true, "counts": {"all": 0, "failed": 0}})
    );
    for n in 1..=7 {
        let (_, run_id) = place.start_with(json!({"script": "exit.sh", "args": ["0", format!("ä {n}\n")]}));
        assert_eq!(run_id, n);
        place.until_settled(run_id);
    }
    let page = |query: &str| {
        let page = place.get(&format!("/api/runs{query}")).ok();
        assert_keys(&page, &["runs", "next_before", "searched_all", "counts"]);
        let ids = page["runs"].as_array().expect("a list").iter().map(|run| run["id"].as_i64().expect("an id"));
        (ids.collect::<Vec<_>>(), page["next_before"].as_i64())
    };
    assert_eq!(page("?limit=3"), (vec![7, 6, 5], Some(5)));
    assert_eq!(page("?limit=3&before=5"), (vec![4, 3, 2], Some(2)));
    assert_eq!(page("?limit=3&before=2"), (vec![1], None));
    assert_eq!(page("?limit=7"), (vec![7, 6, 5, 4, 3, 2, 1], None));
    assert_eq!(page("?before=1"), (vec![], None));

    let run_keys = [
        "id",
        "status",
        "outcome",
        "pid",
        "script",
        "cwd",
        "args",
        "created_at",
        "started_at",
        "stopped_at",
        "started_by",
        "stopped_by",
        "exit_code",
        "signal",
        "paused_ms",
        "cpu_user_ms",
        "cpu_system_ms",
        "max_rss_kb",
        "containment",
        "oom_kills",
        "memory_peak_bytes",
        "error",
        "env_names",
        "grace_s",
    ];
    let listed = place.get("/api/runs?limit=1").ok()["runs"][0].take();
    assert_keys(&listed, &run_keys);
    let answer = place.get("/api/runs/7").ok();
    assert_keys(&answer, &["run"]);
    let mut run = answer["run"].clone();
    let events = run.as_object_mut().expect("an object").remove("events").expect("a run alone has its events");
    assert_eq!(run.as_object_mut().expect("an object").remove("progress"), Some(Value::Null), "it told of none");
    let mut compared = ["previous", "usual_ms"].map(|key| run.as_object_mut().expect("an object").remove(key).expect(key));
    assert_eq!(compared[0]["id"], 6);
    assert_keys(&compared[0].take(), &["id", "took_ms", "active_ms"]);
    assert!(compared[1].is_u64(), "{compared:?}");
    assert_eq!(run, listed);
    assert_eq!((&run["args"], &run["exit_code"], &run["paused_ms"]), (&json!(["0", "ä 7\n"]), &json!(0), &json!(0)));
    assert_eq!(run["cwd"], place.root().canonicalize().expect("there").to_str().expect("text"));
    assert!(run["pid"].is_u64() && run["max_rss_kb"].is_u64() && run["cpu_system_ms"].is_u64(), "{run}");
    for key in ["created_at", "started_at", "stopped_at"] {
        assert!(run[key].is_string());
        assert_time(&run[key]);
    }
    let events = events.as_array().expect("a list");
    let mut last = None;
    for event in events {
        let words = ["seq", "at", "kind", "from_state", "to_state", "cause", "origin", "detail"];
        let values = ["pid", "exit_code", "signal", "signal_name", "grace_ms", "paused_ms", "oom_kills"];
        assert_keys(event, &[&words[..], &values].concat());
        assert_time(&event["at"]);
        assert!(event["seq"].as_u64() > last, "in order");
        last = event["seq"].as_u64();
        assert_text_or_null(event, &["kind", "from_state", "to_state", "cause", "detail"]);
    }
    let turn = |kind: &str| {
        let event = events.iter().find(|event| event["kind"] == kind).unwrap_or_else(|| panic!("{kind} in {events:?}"));
        values(event, &["from_state", "to_state", "cause"])
    };
    assert_eq!(turn("spawned"), json!(["stopped", "running", "request"]));
    assert_eq!(turn("exited"), json!(["running", "stopped", "exit"]));
}

#[test]
fn history_page_with_large_runs_is_limited_in_size() {
    let place = Place::serving("exit.sh");
    let large = "x".repeat(120_000);
    for _ in 0..10 {
        place.start_with(json!({"args": ["0", large, large, large, large, large, large, large]}));
        place.until_state("stopped");
    }
    let (mut ids, mut before) = (Vec::new(), String::new());
    loop {
        let page = place.get(&format!("/api/runs?limit=500{before}")).ok();
        let length = page.to_string().len();
        assert!(length < 4 << 20, "one answer of {length} bytes");
        ids.extend(page["runs"].as_array().expect("a list").iter().map(|run| run["id"].as_i64().expect("an id")));
        let Some(next) = page["next_before"].as_i64() else { break };
        before = format!("&before={next}");
    }
    assert_eq!(ids, [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
}

#[test]
fn health_reports_replaced_database() {
    let place = Place::serving("sleep.sh");
    let shape = |body: &Value| {
        assert_keys(body, &["ok", "service", "db", "degraded", "conditions"]);
        assert_keys(&body["db"], &["ok", "time"]);
        assert_eq!(body["service"], "autoappdev-backend");
    };
    let well = place.get("/api/health");
    shape(&well.body);
    assert_eq!((&well.body["degraded"], &well.body["conditions"]), (&Value::Null, &json!([])));
    assert_eq!((well.status, &well.body["ok"], &well.body["db"]["ok"]), (200, &json!(true), &json!(true)));
    assert!(well.body["db"]["time"].is_string());
    assert_time(&well.body["db"]["time"]);

    // The server still has the moved file open, but no other connection can open it.
    let away = place.runtime().join("away.db");
    fs::rename(place.database(), &away).expect("renames");
    let ill = place.get("/api/health");
    shape(&ill.body);
    assert_eq!((ill.status, &ill.body["ok"], &ill.body["db"]), (503, &json!(false), &json!({"ok": false, "time": null})));
    assert_eq!(ill.body["conditions"][0]["code"], "database_replaced", "{}", ill.body);
    let history = place.get("/api/runs");
    assert_eq!((history.status, history.error()), (503, "storage_failed"));
    assert!(!history.body.to_string().contains(place.runtime().to_str().expect("text")), "{}", history.body);
    assert_eq!(place.pipeline()["state"], "stopped", "the state needs no file");
    fs::rename(&away, place.database()).expect("renames");
    assert_eq!(place.get("/api/health").status, 200);
    place.start();
    assert_eq!(place.stored_state(), "running");
}

#[test]
fn version_has_exact_keys_and_no_secret_is_exposed() {
    let place = Place::serving("sleep.sh");
    let version = place.get("/api/version").ok();
    let server = &version["server"];
    let name = env!("CARGO_PKG_VERSION");
    let (build, started_at, host) = (&version["build"], &version["started_at"], &version["host"]);
    assert_eq!(*host, json!(rustix::system::uname().nodename().to_str().expect("text")));
    assert_eq!(
        version,
        json!({
            "ok": true, "name": "autoappdev", "app": "autoappdev", "service": "autoappdev-backend", "version": name, "build": build,
            "api": 1, "schema": autoappdev::store::schema_version(), "started_at": started_at, "server": server, "host": host, "grace_s": 10.0,
            "takes_keys": true, "session": {"may": "act", "token_needed": false, "expires_at": null, "id": null},
        })
    );
    assert_eq!(server.as_object().map(serde_json::Map::len), Some(2), "{server}");
    assert_eq!(server["runtime_dir"], json!(place.runtime().canonicalize().expect("there")));
    let written = fs::read_to_string(place.runtime().join("server.json")).expect("there");
    assert_eq!(serde_json::from_str::<Value>(&written).expect("JSON")["id"], server["id"], "clients learn the id from there");
    let (pid, run_id) = place.start_with(json!({"env": {"DEPLOY_KEY": "hunter2-in-the-environment"}}));
    // Not in the middle of its execve(2), during which its environment is empty.
    until_true("the script has its environment", || {
        let environment = fs::read(format!("/proc/{pid}/environ")).expect("it lives");
        String::from_utf8_lossy(&environment).contains("DEPLOY_KEY=hunter2-in-the-environment")
    });
    place.act("stop").ok();
    let run = format!("/api/runs/{run_id}");
    for path in
        ["/api/pipeline", "/api/pipeline/status", "/api/runs", &run, "/api/logs", "/api/logs?source=backend", "/api/health"]
    {
        let answer = place.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.body.to_string().contains("hunter2"), "{path} tells a secret: {}", answer.body);
    }
    let mut files = vec![place.runtime()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(&path).expect("there").map(|entry| entry.expect("there").path()));
        } else if path.is_file() {
            let bytes = fs::read(&path).expect("ours");
            assert!(!bytes.windows(7).any(|part| part == b"hunter2"), "{} holds a secret", path.display());
        }
    }
}

#[test]
fn head_has_fields_of_get_and_no_body() {
    let place = Place::serving("sleep.sh");
    let mut wire = place.wire();
    for path in
        "/ /static/app.js /api/pipeline /api/pipeline/status /api/runs /api/logs /api/logs/tail /api/version".split_whitespace()
    {
        wire.ask("GET", path);
        let get = wire.answer();
        wire.ask("HEAD", path);
        let head = wire.answer_to_head();
        let framing = |answer: &Answer| (answer.status, answer.header("Content-Length").map(str::to_owned));
        assert_eq!(framing(&head), framing(&get), "{path}");
        assert_eq!(head.header("Content-Type"), get.header("Content-Type"), "{path}");
    }
    assert_eq!(wire.get("/api/version").status, 200, "no body came that a HEAD does not announce");
}
