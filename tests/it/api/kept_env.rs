//! The values of the variables that a start set, if they are kept: which files and responses contain them, and what happens if
//! another program has changed the file.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use crate::support::sse::EventStream;
use crate::support::{Place, reads, signal, until_true};

const SECRET: &str = "s3cret-of-this-test";

/// The id of another user, for tests that run as root.
const ANOTHER: u32 = 65534;

fn keeping(script: &str) -> Place {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", script);
    place.set_env("AUTOAPPDEV_KEEP_ENV", "values");
    place.start_server();
    place
}

fn env() -> Value {
    json!({"KEY": SECRET, "LEVEL": "1"})
}

fn holds_secret(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, SECRET.as_bytes()).is_some()
}

/// Returns every file below a folder that contains the secret.
fn files_with_secret(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("there").flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("a kind"));
        if kind.is_dir() {
            found.extend(files_with_secret(&path));
        } else if kind.is_file() && holds_secret(&fs::read(&path).expect("ours")) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn kept_values_are_stored_in_start_json_only() {
    let mut place = keeping("sleep.sh");
    place.script("no-first-line.sh", "echo this must not run\n");
    let mut stream = EventStream::open(place.port(), "", None);
    let start = |script: &str, env: Value| place.post("/api/pipeline/start", json!({"script": script, "env": env}));
    let completed = start("exit.sh", env()).ok()["run_id"].as_i64().expect("an id");
    place.until_settled(completed);
    let failed = start("no-first-line.sh", env());
    assert_eq!((failed.status, failed.error(), &failed.body["run_id"]), (422, "spawn_failed", &json!(2)));
    // These requests are refused. Their responses do not contain the secret, even where it is in the wrong field.
    for (script, env) in [
        ("missing.sh", env()),
        ("../outside.sh", env()),
        ("exit.sh", json!({"KEY": [SECRET]})),
        ("exit.sh", json!({"KEY": format!("{SECRET}\0")})),
        ("exit.sh", json!({"AUTOAPPDEV_TOKEN": SECRET})),
        ("exit.sh", json!({"KEY": format!("{SECRET}{}", "x".repeat(200_000))})),
        ("exit.sh", json!(SECRET)),
    ] {
        let refused = start(script, env.clone());
        assert!((400..500).contains(&refused.status), "{script} with {env}: {}", refused.body);
        assert!(!holds_secret(refused.body.to_string().as_bytes()), "{}", refused.body);
    }
    place.request("POST", "/api/pipeline/start", &[("Content-Type", "application/json")], Some(&format!("{{\"env\":{SECRET}")));
    let (_, live) = place.start_with(json!({"env": env()}));
    place.act("pause").ok();
    place.act("resume").ok();
    for event in stream.until("the resume", |event| {
        event.kind == "state" && event.data["run_id"] == live && event.data["resumed_at"].is_string()
    }) {
        assert!(!holds_secret(event.data.to_string().as_bytes()), "{event:?}");
    }
    place.restart_server();
    signal(place.shim_pid(live), "KILL");
    until_true("the run is lost", || place.run(live)["status"] == "lost");

    let runs = [completed, 2, live];
    let mut files: Vec<PathBuf> = runs.iter().map(|run| place.run_dir(*run).join("start.json")).collect();
    files.sort();
    assert_eq!(files_with_secret(&place.runtime()), files);
    for file in &files {
        assert_eq!(fs::metadata(file).expect("there").permissions().mode() & 0o7777, 0o600);
    }
    assert!(!holds_secret(place.server_log().as_bytes()), "{}", place.server_log());
    let mut told = 0;
    for path in reads() {
        for run in runs {
            let path = path.replace("/runs/1", &format!("/runs/{run}"));
            let answer = place.get(&path);
            let is_start = path.ends_with("/start");
            assert_eq!(holds_secret(answer.body.to_string().as_bytes()), is_start, "{path}: {}", answer.body);
            told += usize::from(is_start);
        }
    }
    assert_eq!(told, runs.len());
}

/// Replaces `start.json`; its previous bytes are the second argument.
type Damage = fn(&Path, &[u8]);

#[test]
fn damaged_start_json_gives_no_values_and_blocks_no_start() {
    let place = keeping("exit.sh");
    let (_, run_id) = place.start_with(json!({"args": ["0"], "env": env()}));
    place.until_ended(run_id);
    let file = place.run_dir(run_id).join("start.json");
    let whole = fs::read(&file).expect("there");
    let damages: [(&str, &str, Damage); 9] = [
        ("torn", "understand", |file, whole| fs::write(file, &whole[..whole.len() / 2]).expect("writes")),
        ("empty", "understand", |file, _| fs::write(file, "").expect("writes")),
        ("zeros", "understand", |file, whole| fs::write(file, vec![0; whole.len()]).expect("writes")),
        ("newer", "it has format 2", |file, _| fs::write(file, r#"{"format":2,"env":{}}"#).expect("writes")),
        ("a hole", "it is larger than", |file, _| {
            fs::write(file, "").and_then(|()| fs::File::options().write(true).open(file)?.set_len(1 << 30)).expect("a hole");
        }),
        ("a link to itself", "it is a symbolic link", |file, _| symlink(file, file).expect("links")),
        ("a link to the same", "it is a symbolic link", |file, whole| {
            let other = file.with_extension("other");
            fs::write(&other, whole).and_then(|()| symlink(&other, file)).expect("links");
        }),
        ("a folder", "it is not a regular file", |file, _| fs::create_dir(file).expect("creates")),
        ("a pipe", "it is not a regular file", |file, _| mkfifo(file, Mode::S_IRWXU).expect("creates")),
    ];
    let again = |env: Value| place.post("/api/pipeline/start", json!({"again": run_id, "env": env}));
    let assert_none = |what: &str, reason: &str| {
        let said = place.server_log().len();
        let started = place.get(&format!("/api/runs/{run_id}/start")).ok();
        assert_eq!(
            (&started["kept"], &started["start"]["env"]),
            (&json!("names"), &json!({"KEY": null, "LEVEL": null})),
            "{what}"
        );
        let refused = again(json!({}));
        assert_eq!((refused.status, refused.error()), (409, "not_repeatable"), "{what}");
        assert_eq!(refused.body["missing"], json!(["KEY", "LEVEL"]), "{what}");
        let log = place.server_log();
        assert!(
            log[said..].contains(&format!("run {run_id}: the values of the variables of its start cannot be read: failed to "))
        );
        assert!(log[said..].contains(reason), "{what}: {}", &log[said..]);
        assert_eq!(place.pipeline()["run_id"], run_id, "{what}: nothing was begun");
    };
    for (what, reason, damage) in damages {
        remove(&file);
        damage(&file, &whole);
        assert_none(what, reason);
    }
    remove(&file);
    if fs::metadata(place.folder()).expect("there").uid() == 0 {
        fs::write(&file, &whole).and_then(|()| chown(&file, Some(ANOTHER), None)).expect("we are root");
        assert_none("another user's", "it belongs to");
        remove(&file);
    }

    // From a valid file, only values that can be the start's are used.
    fs::write(&file, r#"{"format":1,"env":{"KEY":"k","OTHER":"o"}}"#).expect("writes");
    assert_eq!(place.get(&format!("/api/runs/{run_id}/start")).ok()["start"]["env"], json!({"KEY": "k", "LEVEL": null}));
    assert_eq!(again(json!({})).body["missing"], json!(["LEVEL"]));
    for value in ["\\u0000", &"x".repeat(200_000)] {
        fs::write(&file, format!(r#"{{"format":1,"env":{{"KEY":"{value}","LEVEL":"1"}}}}"#)).expect("writes");
        let refused = again(json!({}));
        assert_eq!((refused.status, refused.error()), (400, "invalid_body"), "{}", refused.body);
        assert_eq!(place.pipeline()["run_id"], run_id, "nothing was begun");
    }
    // Without the file, a run is repeated if the body contains all values.
    remove(&file);
    let repeated = again(env()).ok()["run_id"].as_i64().expect("an id");
    place.until_ended(repeated);
    assert_eq!(place.get(&format!("/api/runs/{repeated}/start")).ok()["start"]["env"], env());
}

fn remove(path: &Path) {
    if path.symlink_metadata().expect("there").is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) }.expect("ours");
}

#[test]
fn repeated_start_with_added_variables_obeys_start_limits() {
    let place = keeping("exit.sh");
    let many = |from: usize, count: usize, value: &str| -> Value {
        (from..from + count).map(|n| (format!("V{n}"), Value::from(value))).collect::<serde_json::Map<_, _>>().into()
    };
    let (_, names) = place.start_with(json!({"env": many(0, 6_000, "")}));
    place.until_ended(names);
    let (_, bytes) = place.start_with(json!({"env": many(0, 6, &"x".repeat(100_000))}));
    place.until_ended(bytes);
    for (run_id, more, says) in [
        (names, many(6_000, 4_001, ""), "env has more than 10000 entries"),
        (bytes, many(6, 6, &"x".repeat(100_000)), "longer than 1 MiB together"),
    ] {
        let refused = place.post("/api/pipeline/start", json!({"again": run_id, "env": more}));
        assert_eq!((refused.status, refused.error()), (400, "invalid_body"), "{says}");
        assert!(refused.body["detail"].as_str().expect("a sentence").contains(says), "{}", refused.body);
        assert_eq!(place.pipeline()["run_id"], bytes, "nothing was begun");
    }
    // New values for the same names do not add to the number.
    for (run_id, same) in [(names, many(0, 6_000, "y")), (bytes, many(0, 6, &"y".repeat(100_000)))] {
        let repeated = place.post("/api/pipeline/start", json!({"again": run_id, "env": same})).ok()["run_id"].clone();
        place.until_ended(repeated.as_i64().expect("an id"));
        assert_eq!(place.get(&format!("/api/runs/{repeated}/start")).ok()["start"]["env"], same);
    }
}
