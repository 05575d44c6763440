//! Another program removes files that the server and the shim have open, or they are in an unusual place. The pipeline continues,
//! and every report stays true.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::support::disk::SmallDisk;
use crate::support::sse::EventStream;
use crate::support::{DEADLINE, Place, is_alive, is_stopped, signal, until, until_true};
use rustix::fs::FlockOperation;
use serde_json::{Value, json};

/// A script that prints a number once a file of that number exists, and then waits for `go`.
const NUMBERS: &str = "#!/bin/bash\necho ready\nfor n in 1 2; do\n  while [ ! -e $n ]; do sleep 0.01; done\n  echo \"number $n\"; touch said$n\ndone\n\
                       while [ ! -e go ]; do sleep 0.01; done\nexit 7\n";

fn say(place: &Place, n: u32) {
    fs::write(place.root().join(n.to_string()), "").expect("writes");
    until_true("it is said", || place.root().join(format!("said{n}")).exists());
}

fn with_numbers() -> (Place, u32, i64) {
    let place = Place::serving("sleep.sh");
    place.script("numbers.sh", NUMBERS);
    let (pid, run_id) = place.start_with(json!({"script": "numbers.sh"}));
    place.until_line("ready");
    (place, pid, run_id)
}

#[test]
fn removed_run_directory_leaves_live_run_under_control() {
    let (place, pid, run_id) = with_numbers();
    fs::remove_dir_all(place.run_dir(run_id)).expect("removes");
    place.act("pause").ok();
    assert!(is_stopped(pid));
    assert_eq!(place.stored_state(), "paused");
    place.act("resume").ok();
    say(&place, 1);
    until_true("health says that lines are lost", || {
        place.degraded().is_some_and(|why| why.contains("lines of the log are lost"))
    });
    fs::write(place.root().join("2"), "").expect("writes");
    fs::write(place.root().join("go"), "").expect("writes");
    let run = place.until_ended(run_id);
    assert_eq!((&run["status"], &run["exit_code"]), (&json!("failed"), &json!(7)));
    place.until_no_shim();
    until_true("all is well again", || place.degraded().is_none());
    let (_, next) = place.start();
    assert_eq!(next, run_id + 1);
    assert_eq!(place.until_all_agree(), "running");
}

#[test]
fn removed_log_folder_is_recreated_and_logging_continues() {
    let (place, _, run_id) = with_numbers();
    fs::remove_dir_all(place.run_dir(run_id).join("log")).expect("removes");
    say(&place, 1);
    place.until_line("number 1");
    // Once more, only the file.
    let segment = fs::read_dir(place.run_dir(run_id).join("log")).expect("there again").next().expect("a file").expect("there");
    fs::remove_file(segment.path()).expect("removes");
    say(&place, 2);
    place.until_line("number 2");
    assert_eq!(place.lines(), ["number 2"]);
    assert_eq!(place.degraded(), None);
    assert_eq!(place.until_all_agree(), "running");
}

/// The kernel's notifications about growth were for a folder that no longer exists.
#[test]
fn followers_of_recreated_log_folder_get_lines_at_once() {
    let place = Place::serving("sleep.sh");
    place.script("ticks.sh", "#!/bin/bash\nwhile :; do echo tick; sleep 0.05; done\n");
    let (_, run_id) = place.start_with(json!({"script": "ticks.sh"}));
    let mut stream = EventStream::open(place.port(), "", None);
    stream.until("a line", |event| event.kind == "log");
    // A stream sends a comment if nothing woke it for ten seconds. That is valid only if the machine was suspended for that long.
    for _ in 0..4 {
        let comments = stream.comments;
        fs::remove_dir_all(place.run_dir(run_id).join("log")).expect("removes");
        let begun = Instant::now();
        let mut next = place.get("/api/logs/tail?limit=1").body["next"].clone();
        for _ in 0..20 {
            let page = place.get(&format!("/api/logs?since={next}&limit=1&wait=60")).body;
            // The new folder's file may exist before its first line. Then the missing bytes are what is reported.
            if page["gone"] == 0 {
                assert_eq!(page["lines"][0]["line"], "tick", "{page}");
            }
            next = page["next"].clone();
            // Each wait would take a minute if the server were not notified.
            assert!(begun.elapsed() < Duration::from_secs(45), "a line came only when the wait for it was over");
        }
        stream.until("the new folder's", |event| event.kind == "log" && event.data["id"].as_u64() >= next.as_u64());
        if stream.comments == comments {
            return;
        }
    }
    panic!("lines came only with the comments");
}

#[test]
fn removed_runtime_directory_keeps_reports_correct() {
    let (place, pid, run_id) = with_numbers();
    let aside = place.folder().join("aside");
    fs::rename(place.runtime(), &aside).expect("moves");
    let health = place.get("/api/health");
    assert_eq!((health.status, &health.body["db"]["ok"]), (503, &json!(false)), "{}", health.body);
    assert_eq!(place.state(), "running");
    let answer = place.act("pause");
    assert_eq!((answer.status, answer.error()), (503, "storage_failed"), "what is committed there nobody finds again");
    assert!(is_stopped(pid));
    assert_eq!(place.state(), "running", "as it is on record");
    let health = place.get("/api/health").body;
    assert!(health["degraded"].as_str().is_some_and(|why| why.contains("removed or replaced")), "{health}");
    assert_eq!(place.act("resume").status, 503);
    assert!(!is_stopped(pid));
    assert!(is_alive(pid));

    fs::rename(&aside, place.runtime()).expect("moves back");
    until_true("all is well again", || place.get("/api/health").body["degraded"] == Value::Null);
    assert_eq!(place.until_all_agree(), "running");
    let kinds: Vec<Value> = place.events(run_id).iter().map(|event| event["kind"].clone()).collect();
    assert_eq!(kinds, ["starting", "spawned", "paused", "resumed"]);

    fs::remove_dir_all(place.runtime()).expect("removes");
    let answer = place.post("/api/pipeline/stop", json!({"grace_s": 0}));
    assert_eq!((answer.status, answer.error()), (503, "storage_failed"));
    assert!(!is_alive(pid), "it is stopped all the same");
    assert_eq!(place.act("start").status, 503, "nothing is begun that cannot be kept");
}

/// Nothing is renamed or linked from one file system to another, and a link works like its target.
#[test]
fn linked_runtime_directory_on_another_disk_works() {
    let test = "linked_runtime_directory_on_another_disk_works";
    let Some(SmallDisk { place: there, disk }) = SmallDisk::of_kib(8192, test) else { return };
    let mut place = Place::new();
    fs::create_dir(there.runtime()).expect("creates");
    symlink(there.runtime(), place.runtime()).expect("links");
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "tree.sh");
    place.start_server();
    let (pid, run_id) = place.start();
    place.until_line("stubborn");
    place.act("pause").ok();
    assert_eq!(place.until_all_agree(), "paused");
    assert!(there.pause_file().exists());
    place.kill_server();
    // The next server is given the other name of the same directory.
    place.set_env("AUTOAPPDEV_RUNTIME_DIR", there.runtime().to_str().expect("plain"));
    place.start_server();
    assert_eq!((place.state().as_str(), &place.pipeline()["pid"]), ("paused", &json!(pid)));
    place.act("resume").ok();
    assert_eq!(place.until_all_agree(), "running");
    place.post("/api/pipeline/stop", json!({"grace_s": 0.2})).ok();
    place.assert_nothing_left(run_id);
    assert_eq!(place.degraded(), None);
    drop(place);
    drop(there);
    drop(disk);
}

fn codes(place: &Place) -> Vec<String> {
    let conditions = place.get("/api/health").body["conditions"].clone();
    conditions.as_array().expect("a list").iter().map(|it| it["code"].as_str().expect("a word").to_owned()).collect()
}

/// No request is sent meanwhile: a client that searches for the server must find it.
#[test]
fn server_recreates_its_info_and_lock_files() {
    let mut place = Place::serving("sleep.sh");
    let file = |name: &str| place.runtime().join(name);
    let (info, locks) = (file("server.json"), [file("server.lock"), file("autoappdev.db-server.lock")]);
    let before = fs::read(&info).expect("there");
    for path in locks.iter().chain([&info]) {
        fs::remove_file(path).expect("removes");
        until_true("it is made again", || path.exists());
    }
    until_true("it says the same", || fs::read(&info).is_ok_and(|now| now == before));
    for path in &locks {
        let lock = fs::File::open(path).expect("opens");
        let is_held = || rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK);
        until_true("it is held", is_held);
    }
    assert_eq!(
        fs::read(&locks[1]).expect("there"),
        place.runtime().canonicalize().expect("there").as_os_str().as_encoded_bytes()
    );
    assert_eq!(place.client(&["status"]).0, 0, "the client finds the server");
    assert_eq!(codes(&place), <[&str; 0]>::default());
    assert!(place.refused_server(("AUTOAPPDEV_GRACE_S", "10")).contains("already"));
    assert_eq!(place.stop_server(), 0);
    assert!(!info.exists(), "a server that stops takes it away for good");
}

/// A program that cleans up temporary files takes the socket for a leftover. The accepting thread waits for clients of the socket
/// that it has open.
#[test]
fn server_recreates_its_unix_socket() {
    let mut place = Place::serving("sleep.sh");
    let path = place.runtime().join("server.sock");
    let ask = || {
        let mut stream = UnixStream::connect(&path).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).expect("ours");
        stream.write_all(b"GET /api/pipeline HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sends");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer, then the end");
        Some(answer)
    };
    for _ in 0..2 {
        fs::remove_file(&path).expect("removes");
        let answer = until("somebody listens there again", ask);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(codes(&place), <[&str; 0]>::default());
    // A file that another program has put there is left alone.
    fs::remove_file(&path).expect("removes");
    fs::write(&path, "precious").expect("writes");
    until_true("health says so", || codes(&place) == ["socket_missing"]);
    assert_eq!(fs::read_to_string(&path).expect("there"), "precious");
    fs::remove_file(&path).expect("removes");
    until("somebody listens there again", ask);
    assert_eq!(place.stop_server(), 0);
    assert!(!path.exists(), "a server that stops takes it away for good");
}

#[test]
fn health_reports_database_replaced_by_copy() {
    let place = Place::serving("sleep.sh");
    let (away, copy) = (place.runtime().join("away.db"), place.runtime().join("copy.db"));
    fs::copy(place.database(), &copy).expect("copies");
    fs::rename(place.database(), &away).expect("renames");
    fs::rename(&copy, place.database()).expect("renames");
    let health = place.get("/api/health");
    assert_eq!((health.status, &health.body["db"]["ok"]), (503, &json!(false)), "{}", health.body);
    assert_eq!(codes(&place), ["database_replaced"]);
    assert!(health.body["degraded"].as_str().is_some_and(|why| why.contains("replaced by another file")), "{}", health.body);
    until_true("the state says it as well", || place.pipeline()["conditions"][0]["code"] == "database_replaced");
    fs::rename(&away, place.database()).expect("renames");
    assert_eq!((place.get("/api/health").status, codes(&place)), (200, vec![]));
}

/// The user may have removed it so that the next start makes a new one.
#[test]
fn removed_token_file_is_reported_and_not_recreated() {
    let mut place = Place::new();
    place.use_token("a-token-of-this-test");
    place.start_server();
    let file = place.runtime().join("read-token");
    fs::remove_file(&file).expect("it was made at the start");
    assert_eq!(codes(&place), ["token_missing"]);
    assert!(!file.exists());
    place.restart_server();
    assert!(file.exists());
    assert_eq!(codes(&place), <[&str; 0]>::default());
}

#[test]
fn server_writes_nothing_into_replaced_runtime_directory() {
    let place = Place::serving("sleep.sh");
    let aside = place.folder().join("aside");
    fs::rename(place.runtime(), &aside).expect("moves");
    fs::create_dir(place.runtime()).expect("creates");
    assert_eq!(codes(&place), ["database_replaced", "runtime_dir_replaced"]);
    assert_eq!(fs::read_dir(place.runtime()).expect("there").count(), 0);
    fs::remove_dir(place.runtime()).expect("it is empty");
    fs::rename(&aside, place.runtime()).expect("moves back");
    assert_eq!(codes(&place), <[&str; 0]>::default());
}

/// The server's log continues in its own directory, including the file that follows a full one.
#[test]
fn server_log_rotates_in_its_own_directory() {
    const FULL_BYTES: usize = 1024 * 1024;
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "exit.sh");
    place.start_server();
    assert_eq!(place.stop_server(), 0);
    // Nearly full: what a server logs at its start is shorter than the rest.
    let line = "2026-01-31T10:00:00.123Z backend said before\n";
    let before = line.repeat((FULL_BYTES - 16 * 1024) / line.len());
    fs::write(place.runtime().join("backend.log"), &before).expect("ours");
    place.start_server();
    let aside = place.folder().join("aside");
    let older = "backend-00000000000000000000.log";
    fs::rename(place.runtime(), &aside).expect("moves");
    fs::create_dir(place.runtime()).expect("creates");
    for name in ["backend.log", older] {
        fs::write(place.runtime().join(name), "another's\n").expect("writes");
    }
    until_true("the log is full", || {
        // The reason is logged.
        assert_ne!(place.post("/api/pipeline/start", json!({})).status, 200);
        aside.join(older).exists()
    });
    assert!(fs::read_to_string(aside.join(older)).expect("there").starts_with(&before));
    assert!(fs::metadata(aside.join("backend.log")).expect("there").len() < 16 * 1024);
    for name in ["backend.log", older] {
        assert_eq!(fs::read_to_string(place.runtime().join(name)).expect("there"), "another's\n", "{name}");
    }
    assert_eq!(fs::read_dir(place.runtime()).expect("there").count(), 2, "nothing was made in it");
}

/// The shim of a paused run is killed, so the server removes the PAUSE file.
#[test]
fn pause_file_is_removed_from_the_servers_own_directory() {
    let place = Place::serving("sleep.sh");
    let (_, run_id) = place.start();
    place.act("pause").ok();
    let shim = place.shim_pid(run_id);
    let aside = place.folder().join("aside");
    fs::rename(place.runtime(), &aside).expect("moves");
    fs::create_dir(place.runtime()).expect("creates");
    fs::write(place.pause_file(), "another's").expect("writes");
    assert!(aside.join("PAUSE").exists());
    signal(shim, "KILL");
    until_true("the server has removed the file", || !aside.join("PAUSE").exists());
    assert_eq!(fs::read_to_string(place.pause_file()).expect("there"), "another's");
    assert_eq!(fs::read_dir(place.runtime()).expect("there").count(), 1, "nothing was made in it");
}
