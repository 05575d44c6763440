//! Repeating a start whose parameters are kept with the run, and actions that name the run that the client saw.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Barrier;
use std::thread;

use crate::support::{Place, assert_keys, until_true};
use serde_json::{Value, json};

/// A script that prints its arguments, its folder and two variables, and exits.
const TELL: &str = "#!/bin/bash\necho \"$* in ${PWD##*/} with ${KEY-none} and ${LEVEL-none}\"\n";

fn place_keeping(what: &str) -> Place {
    let mut place = Place::new();
    place.script("tell.sh", TELL);
    fs::create_dir(place.root().join("sub")).expect("creates");
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.set_env("AUTOAPPDEV_KEEP_ENV", what);
    place.start_server();
    place
}

/// Starts a run and waits for its end. Returns the run's id and what it printed.
fn told(place: &Place, body: Value) -> (i64, String) {
    let run_id = place.post("/api/pipeline/start", body).ok()["run_id"].as_i64().expect("an id");
    place.until_ended(run_id);
    (run_id, place.lines().last().expect("a line").clone())
}

fn whole_start() -> Value {
    json!({"script": "tell.sh", "args": ["a", "b c"], "cwd": "sub", "env": {"KEY": "s3cret-of-this-test", "LEVEL": "1"}, "grace_s": 2.5})
}

#[test]
fn start_parameters_are_kept_with_variable_names_only() {
    let place = place_keeping("names");
    let (first, line) = told(&place, whole_start());
    assert_eq!(line, "a b c in sub with s3cret-of-this-test and 1");
    for run in [place.run(first), place.get("/api/runs").ok()["runs"][0].clone()] {
        assert_eq!((&run["env_names"], &run["grace_s"]), (&json!(["KEY", "LEVEL"]), &json!(2.5)));
    }
    assert_eq!(
        place.get(&format!("/api/runs/{first}/start")).ok(),
        json!({
            "start": {"script": "tell.sh", "args": ["a", "b c"], "cwd": "sub", "env": {"KEY": null, "LEVEL": null}, "grace_s": 2.5},
            "kept": "names"
        })
    );
    assert!(!place.run_dir(first).join("start.json").exists());
    let journal = fs::read_to_string(place.run_dir(first).join("journal.jsonl")).expect("there");
    assert!(journal.contains(r#""env_names":["KEY","LEVEL"]"#) && !journal.contains("s3cret"), "{journal}");
    for database in ["autoappdev.db", "autoappdev.db-wal"] {
        let bytes = fs::read(place.runtime().join(database)).unwrap_or_default();
        assert!(memchr::memmem::find(&bytes, b"s3cret-of-this-test").is_none(), "{database}");
    }

    let refused = place.post("/api/pipeline/start", json!({"again": first, "env": {"LEVEL": "2"}}));
    assert_eq!((refused.status, refused.error()), (409, "not_repeatable"));
    assert_eq!(refused.body["missing"], json!(["KEY"]));
    assert!(refused.body["detail"].as_str().expect("a sentence").contains("the values of KEY were not kept with run 1"));
    assert_eq!(place.pipeline()["run_id"], first, "nothing was begun");
    let (_, line) = told(&place, json!({"again": first, "env": {"LEVEL": "2", "KEY": "k"}}));
    assert_eq!(line, "a b c in sub with k and 2");

    // A start without parameters is repeated without any.
    let (bare, _) = told(&place, json!({"script": "tell.sh"}));
    let start = place.get(&format!("/api/runs/{bare}/start")).ok()["start"].clone();
    assert_eq!(start, json!({"script": "tell.sh", "args": [], "cwd": null, "env": {}, "grace_s": null}));
    let (_, line) = told(&place, json!({"again": bare}));
    assert!(line.starts_with(" in ") && line.ends_with("with none and none"), "{line}");

    for missing in ["/api/runs/99/start", "/api/runs/x/start", "/api/runs/-1/start"] {
        assert_eq!(place.get(missing).status, 404, "{missing}");
    }
    for again in [99, 0, -1, i64::MAX] {
        let refused = place.post("/api/pipeline/start", json!({"again": again}));
        assert_eq!((refused.status, refused.error()), (404, "not_found"), "{again}");
    }
    assert_eq!(place.post("/api/pipeline/start", json!({"again": "1"})).error(), "invalid_body");
}

#[test]
fn kept_values_are_private_and_removed_with_their_run() {
    let mut place = place_keeping("values");
    let (first, _) = told(&place, whole_start());
    let file = place.run_dir(first).join("start.json");
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    let started = place.get(&format!("/api/runs/{first}/start")).ok();
    assert_eq!(started, json!({"start": whole_start(), "kept": "values"}));
    let whole = place.get(&format!("/api/runs/{first}")).ok().to_string();
    assert!(!whole.contains("s3cret"), "viewers see names alone: {whole}");

    let (second, line) = told(&place, json!({"again": first, "if_run_id": first}));
    assert_eq!(line, "a b c in sub with s3cret-of-this-test and 1");
    // The values in the body replace the run's values, and are what the next repetition uses.
    let body = json!({"again": second, "args": [], "cwd": ".", "env": {"LEVEL": "3"}, "grace_s": 1});
    let (third, line) = told(&place, body);
    assert!(line.starts_with(" in ") && line.ends_with("with s3cret-of-this-test and 3"), "{line}");
    let start = place.get(&format!("/api/runs/{third}/start")).ok()["start"].clone();
    let wanted =
        json!({"script": "tell.sh", "args": [], "cwd": ".", "env": {"KEY": "s3cret-of-this-test", "LEVEL": "3"}, "grace_s": 1.0});
    assert_eq!(start, wanted);

    // A link that another program put in place of the file is not followed.
    fs::remove_file(&file).and_then(|()| symlink("/etc/passwd", &file)).expect("links");
    let refused = place.post("/api/pipeline/start", json!({"again": first}));
    assert_eq!((refused.error(), &refused.body["missing"]), ("not_repeatable", &json!(["KEY", "LEVEL"])));
    assert!(place.server_log().contains("failed to read start.json: it is a symbolic link"), "{}", place.server_log());

    let file = place.run_dir(second).join("start.json");
    assert!(file.exists());
    place.set_env("AUTOAPPDEV_RUNS_KEEP", "1");
    place.restart_server();
    until_true("the run is forgotten", || place.get(&format!("/api/runs/{second}/start")).status == 404);
    assert!(!file.exists(), "its values with it");
}

#[test]
fn viewer_cannot_read_start_parameters() {
    let mut place = place_keeping("values");
    let (first, _) = told(&place, whole_start());
    place.set_env("AUTOAPPDEV_READ_TOKEN", "the-token-of-a-viewer");
    place.use_token("the-token-of-an-operator");
    place.restart_server();
    let path = format!("/api/runs/{first}/start");
    let get = |token: &str| place.request("GET", &path, &[("Authorization", &format!("Bearer {token}"))], None);
    let refused = get("the-token-of-a-viewer");
    assert_eq!((refused.status, refused.error()), (403, "read_only"));
    assert_eq!(get("another-token-of-nobody").status, 401);
    assert_eq!(get("the-token-of-an-operator").ok()["start"], whole_start());
}

#[test]
fn restart_command_repeats_a_run() {
    let place = place_keeping("names");
    assert_eq!(place.client(&["restart"]).0, 3, "there is no run yet");
    let (first, _) = told(&place, json!({"script": "tell.sh", "args": ["x"], "cwd": "sub", "env": {"LEVEL": "1"}}));
    let (code, said, error) = place.client(&["restart"]);
    assert_eq!((code, said.as_str()), (3, ""), "{error}");
    assert!(error.contains("the values of LEVEL were not kept with run 1"), "{error}");
    let (code, said, error) = place.client(&["restart", "--env", "LEVEL=2", "--json"]);
    assert_eq!((code, error.as_str()), (0, ""));
    let run_id = serde_json::from_str::<Value>(&said).expect("JSON")["run_id"].as_i64().expect("an id");
    place.until_ended(run_id);
    assert_eq!(place.lines().last().expect("a line"), "x in sub with none and 2");
    place.start_with(json!({"env": {}}));
    let (code, said, error) = place.client(&["restart", "1", "--env", "LEVEL=3", "--json"]);
    assert_eq!((code, error.as_str()), (3, "autoappdev: cannot start when running\n"), "{said}");
    assert_eq!(serde_json::from_str::<Value>(&said).expect("JSON")["error"], "invalid_transition");
    place.act("stop").ok();
    let (code, said, _) = place.client(&["restart"]);
    assert_eq!((code, said.contains("sleep.sh")), (0, true), "the latest: {said}");
    place.act("stop").ok();
    let (code, said, _) = place.client(&["restart", &first.to_string(), "--env", "LEVEL=3"]);
    assert_eq!((code, said.contains("tell.sh")), (0, true), "{said}");
    assert_eq!(place.client(&["restart", "99"]).0, 1);
}

#[test]
fn repeated_start_follows_a_root_whose_link_has_changed() {
    let mut place = Place::new();
    for release in ["one", "two"] {
        let dir = place.folder().join(release);
        fs::create_dir(&dir).expect("creates");
        fs::write(dir.join("tell.sh"), TELL).expect("writes");
    }
    let link = place.folder().join("current");
    symlink("one", &link).expect("links");
    place.set_env("AUTOAPPDEV_PIPELINE_CWD", link.to_str().expect("text"));
    place.start_server();
    let (run_id, said) = told(&place, json!({"script": "tell.sh"}));
    assert_eq!(said, " in one with none and none");
    fs::remove_file(&link).and_then(|()| symlink("two", &link)).expect("links");
    let (_, said) = told(&place, json!({"again": run_id}));
    assert_eq!(said, " in two with none and none");
}

#[test]
fn start_parameters_are_recovered_from_journal_after_database_loss() {
    let mut place = place_keeping("values");
    let env = json!({"KEY": "v"});
    let (_, run_id) = place.start_with(json!({"args": ["x"], "env": env, "grace_s": 1}));
    place.kill_server();
    place.move_database(&place.folder().join("old"));
    place.start_server();
    let started = place.get(&format!("/api/runs/{run_id}/start")).ok();
    let cwd = place.root().canonicalize().expect("there");
    assert_eq!(
        started,
        json!({"start": {"script": "sleep.sh", "args": ["x"], "cwd": cwd, "env": env, "grace_s": 1.0}, "kept": "values"})
    );
    place.act("stop").ok();
}

#[test]
fn action_with_other_if_run_id_is_refused() {
    let place = Place::serving("sleep.sh");
    let act = |action: &str, if_run_id: Value| place.post(&format!("/api/pipeline/{action}"), json!({ "if_run_id": if_run_id }));
    let refused = act("start", json!(1));
    assert_eq!((refused.status, refused.error()), (409, "run_changed"));
    assert_keys(&refused.body, &["ok", "error", "detail"]);
    assert_eq!(act("start", Value::Null).ok()["run_id"], 1);
    let version = &place.pipeline()["version"];
    for action in ["start", "pause", "resume", "stop"] {
        for seen in [Value::Null, json!(2), json!(0)] {
            let refused = act(action, seen);
            assert_eq!((refused.status, refused.error()), (409, "run_changed"), "{action}");
            assert_eq!(refused.body["run_id"], 1);
        }
        assert_eq!(act(action, json!("1")).error(), "invalid_body");
    }
    assert_eq!(&place.pipeline()["version"], version, "nothing was done");
    assert_eq!(act("start", json!(1)).error(), "invalid_transition", "the run is the latest, and lives");
    for (action, state) in [("pause", "paused"), ("resume", "running"), ("stop", "stopped")] {
        assert_eq!(act(action, json!(1)).ok()["state"], state);
    }
    assert_eq!(act("start", json!(1)).ok()["run_id"], 2);
    assert_eq!(act("stop", json!(1)).error(), "run_changed", "a click on what is over");
    place.act("stop").ok();
}

/// The check and the start are one step. In two steps, several clients could pass the check before the first of them starts a
/// run.
#[test]
fn concurrent_starts_with_same_if_run_id_begin_one_run() {
    const CLIENTS: usize = 12;
    const ROUNDS: i64 = 12;
    let place = Place::serving("exit.sh");
    let mut latest = Value::Null;
    for round in 1..=ROUNDS {
        let gate = Barrier::new(CLIENTS);
        let ask = || {
            gate.wait();
            place.post("/api/pipeline/start", json!({"if_run_id": latest}))
        };
        let answers = thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(ask)).collect();
            clients.into_iter().map(|client| client.join().expect("an answer")).collect::<Vec<_>>()
        });
        let (started, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
        assert_eq!(started.len(), 1, "{answers:?}");
        latest = started[0].body["run_id"].clone();
        assert_eq!(latest, round);
        for answer in refused {
            assert_eq!((answer.status, answer.error(), &answer.body["run_id"]), (409, "run_changed", &latest));
        }
        place.until_ended(round);
    }
    assert_eq!(place.footprint().2, ROUNDS);
}

#[test]
fn repeated_start_is_refused_if_script_or_folder_is_missing() {
    let place = place_keeping("values");
    let (first, _) = told(&place, whole_start());
    let before = place.footprint();
    let again = || place.post("/api/pipeline/start", json!({"again": first}));
    let (script, cwd, aside) = (place.root().join("tell.sh"), place.root().join("sub"), place.folder().join("aside"));
    for (what, path, status, error) in [("script", &script, 404, "script_not_found"), ("folder", &cwd, 400, "invalid_body")] {
        fs::rename(path, &aside).expect("ours");
        let refused = again();
        assert_eq!((refused.status, refused.error()), (status, error), "the {what} is gone: {}", refused.body);
        symlink(&aside, path).expect("links");
        let refused = again();
        assert!((400..500).contains(&refused.status), "the {what} is a link out of the root: {}", refused.body);
        assert_eq!(place.footprint(), before, "nothing was begun");
        fs::remove_file(path).and_then(|()| fs::rename(&aside, path)).expect("ours");
    }
    fs::set_permissions(&script, fs::Permissions::from_mode(0o644)).expect("ours");
    assert_eq!(told(&place, json!({"again": first})).1, "a b c in sub with s3cret-of-this-test and 1");
}
