//! The database, or a file beside it, is not what the last server left. The next server still never starts a second live run, and
//! never assigns an id twice.

use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use crate::support::{Place, is_alive, is_stopped, signal, until_true};
use autoappdev::run_dir::RunDir;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rusqlite::Connection;
use serde_json::json;

#[test]
fn server_boots_on_write_ahead_log_without_frames() {
    let mut place = Place::serving("sleep.sh");
    let (_, run_id) = place.start_with(json!({"script": "exit.sh"}));
    place.until_state("stopped");
    place.until_no_shim();
    place.kill_server();
    let beside = |suffix: &str| place.runtime().join(format!("autoappdev.db{suffix}"));
    let log = fs::read(beside("-wal")).expect("a log");
    // An orderly end removes the log. The next writer begins a new one with a header of 32 bytes, and syncs it.
    place.edit_database("PRAGMA wal_checkpoint(TRUNCATE)");
    assert!(!beside("-wal").exists());
    fs::write(beside("-wal"), &log[..32]).expect("writes");
    fs::write(beside("-shm"), "").expect("writes");
    place.start_server();
    assert_eq!(place.run(run_id)["status"], "completed");
    place.assert_startable(run_id);
}

#[test]
fn live_run_is_recovered_from_journal_after_database_removal() {
    for action in ["resume", "pause"] {
        let mut place = Place::serving("sleep.sh");
        let (_, first) = place.start_with(json!({"script": "exit.sh"}));
        place.until_state("stopped");
        let (pid, run_id) = place.start_with(json!({"args": ["one", "two"]}));
        if action == "pause" {
            place.act("pause").ok();
        }
        let before = place.pipeline();
        place.kill_server();
        place.move_database(&place.folder().join("aside"));
        place.start_server();
        let pipeline = place.pipeline();
        for key in ["state", "pid", "run_id", "started_at", "paused_at", "status", "script"] {
            assert_eq!(pipeline[key], before[key], "{key}");
        }
        assert_eq!(pipeline["pid"], pid);
        assert_eq!(place.run(run_id)["args"], json!(["one", "two"]));
        assert_eq!(place.until_all_agree(), if action == "pause" { "paused" } else { "running" });
        assert_eq!(place.get(&format!("/api/runs/{first}")).status, 404, "of an ended one nothing is made up");
        place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
        place.assert_startable(run_id);
    }
}

#[test]
fn run_ids_are_not_reused_after_database_removal() {
    let mut place = Place::serving("exit.sh");
    let mut last = 0;
    for _ in 0..3 {
        last = place.start().1;
        place.until_state("stopped");
        place.until_no_shim();
    }
    let lines = place.lines();
    place.kill_server();
    place.move_database(&place.folder().join("aside"));
    fs::create_dir(place.runtime().join("runs/notes")).expect("creates");
    place.start_server();
    assert_eq!((place.pipeline()["state"].clone(), place.pipeline()["status"].clone()), (json!("stopped"), json!("idle")));
    assert_eq!(place.start().1, last + 1);
    place.until_state("stopped");
    assert_eq!(place.lines(), [lines, vec!["ready".to_owned()]].concat(), "the log goes on where it was");
}

#[test]
fn database_removed_after_shim_kill_loses_the_run() {
    let mut place = Place::serving("tree.sh");
    let (_, run_id) = place.start();
    place.until_line("stubborn");
    place.kill_server();
    signal(place.shim_pid(run_id), "KILL");
    place.until_no_shim();
    place.move_database(&place.folder().join("aside"));
    let run = place.boot_on_it(run_id, "lost");
    assert!(run["started_at"].is_string());
    assert!(place.processes().is_empty());
    place.assert_startable(run_id);
}

#[test]
fn newer_journal_without_database_prevents_second_run() {
    let mut place = Place::serving("sleep.sh");
    let (pid, run_id) = place.start();
    place.kill_server();
    place.move_database(&place.folder().join("aside"));
    let path = place.run_dir(run_id).join("journal.jsonl");
    let text = fs::read_to_string(&path).expect("a journal");
    fs::write(&path, text.replacen("\"format\":1", "\"format\":9", 1)).expect("writes");
    place.start_server();
    let answer = place.act("start");
    assert_eq!((answer.status, answer.error()), (409, "invalid_transition"), "{}", answer.body);
    assert_eq!(place.shims().len(), 1);
    // A process in the middle of an execve(2) shows no environment.
    until_true("its process is there, and no other", || place.processes().into_iter().eq([pid]));
    assert_eq!(place.pipeline()["run_id"], run_id);
    // The run has ended, whether or not the journal can be read.
    signal(pid, "KILL");
    until_true("it has ended", || !["starting", "running"].iter().any(|&live| place.pipeline()["status"] == live));
    place.assert_startable(run_id);
}

#[test]
fn torn_last_log_record_keeps_cursors_increasing() {
    let mut place = Place::serving("sleep.sh");
    let (_, run_id) = place.start();
    place.until_line("ready");
    let mut since = 0;
    let first = place.lines_since(&mut since);
    place.kill_server();
    signal(place.shim_pid(run_id), "KILL");
    place.until_no_shim();
    let segment = RunDir::at(place.run_dir(run_id)).log_dir().join(format!("{:020}.log", 0));
    let mut log = fs::OpenOptions::new().append(true).open(segment).expect("the log");
    log.write_all(b"2026-01-31T10:00:00.123Z o. half a li").expect("writes");
    drop(log);
    place.boot_on_it(run_id, "lost");
    place.assert_startable(run_id);
    until_true("the next run's line is there", || {
        place.lines().last().is_some_and(|line| line == "ready") && place.lines().len() > 1
    });
    let new = place.lines_since(&mut since);
    assert_eq!(new.iter().filter(|line| *line == "ready").count(), 1, "the same cursor goes on: {new:?}");
    assert_eq!(first, ["ready"]);
}

fn codes(place: &Place) -> Vec<String> {
    let conditions = place.pipeline()["conditions"].clone();
    conditions.as_array().expect("a list").iter().map(|it| it["code"].as_str().expect("a word").to_owned()).collect()
}

/// Locks the database as another process, as far as `SQLite` can tell.
fn locked(place: &Place, how: &str) -> Connection {
    let other = Connection::open(place.database()).expect("opens");
    other.execute_batch(how).expect("locks");
    other
}

/// Returns the time for 30 refusals and 30 reads.
fn refused_and_read(place: &Place, refused: &str) -> Duration {
    let began = Instant::now();
    for _ in 0..15 {
        for action in [refused, "start"] {
            let answer = place.act(action);
            assert_eq!((answer.status, answer.error()), (409, "invalid_transition"), "{action}: {}", answer.body);
        }
        for path in ["/api/runs", "/api/health"] {
            assert_eq!(place.get(path).status, 200, "{path}");
        }
    }
    began.elapsed()
}

/// A backup, or a shell with an open transaction. The requests that must not wait are served while the lock is held.
#[test]
fn locked_database_allows_actions_and_does_not_delay_refusals() {
    let place = Place::serving("sleep.sh");
    let (pid, run_id) = place.start();
    let before = refused_and_read(&place, "resume");
    let other = locked(&place, "BEGIN EXCLUSIVE");
    let unrecorded = |action: &str| {
        let answer =
            place.post(&format!("/api/pipeline/{action}"), if action == "stop" { json!({"grace_s": 0}) } else { json!({}) });
        assert_eq!((answer.status, answer.error()), (503, "database_locked"), "{action}: {}", answer.body);
        assert_eq!(answer.header("Retry-After"), None, "it was done: the same request would be refused");
        assert!(answer.body["detail"].as_str().is_some_and(|why| why.contains("the action was completed")), "{}", answer.body);
    };
    unrecorded("pause");
    assert!(is_stopped(pid));
    assert_eq!(
        (place.state().as_str(), codes(&place)),
        ("running", vec!["not_recorded".to_owned(), "database_locked".to_owned()])
    );
    // Once the lock is known, no client's request tries to acquire it.
    let while_locked = refused_and_read(&place, "pause");
    assert!(while_locked < before * 10 + Duration::from_secs(2), "it takes {while_locked:?}, and {before:?} without the lock");
    unrecorded("resume");
    assert!(!is_stopped(pid));
    unrecorded("stop");
    assert!(!is_alive(pid));
    place.until_no_shim();
    let start = place.act("start");
    assert_eq!((start.status, start.error()), (503, "database_locked"), "its beginning has to be recorded: {}", start.body);
    assert_eq!(place.shims().len() + place.processes().len(), 0);
    let detail = place.pipeline()["conditions"][0]["detail"].to_string();
    assert!(detail.contains("was terminated") && detail.contains("signal 9"), "{detail}");

    other.execute_batch("ROLLBACK").expect("unlocks");
    let run = place.until_ended(run_id);
    assert_eq!((&run["status"], &run["signal"]), (&json!("stopped"), &json!(9)));
    until_true("nothing is wrong any more", || codes(&place).is_empty());
    let kinds: Vec<_> = place.events(run_id).iter().map(|event| event["kind"].clone()).filter(|kind| kind != "usage").collect();
    assert_eq!(kinds, ["starting", "spawned", "paused", "resumed", "exited"]);
    place.assert_startable(run_id);
}

#[test]
fn locked_database_refuses_a_start() {
    let place = Place::serving("sleep.sh");
    let other = locked(&place, "BEGIN IMMEDIATE");
    for _ in 0..3 {
        let start = place.act("start");
        assert_eq!((start.status, start.error()), (503, "database_locked"), "{}", start.body);
        assert_eq!(start.header("Retry-After"), Some("1"));
        let pause = place.act("pause");
        assert_eq!((pause.status, pause.error()), (409, "invalid_transition"), "{}", pause.body);
    }
    assert_eq!((place.state().as_str(), codes(&place)), ("stopped", vec!["database_locked".to_owned()]));
    assert_eq!(place.shims().len() + place.processes().len(), 0);
    other.execute_batch("ROLLBACK").expect("unlocks");
    until_true("nothing is wrong any more", || codes(&place).is_empty());
    assert_eq!(place.start().1, 1, "no id was used up");
    assert_eq!(place.until_all_agree(), "running");
}

#[test]
fn server_refuses_to_start_on_a_locked_database_and_keeps_the_run() {
    let mut place = Place::serving("sleep.sh");
    let (pid, run_id) = place.start();
    place.kill_server();
    for how in ["BEGIN EXCLUSIVE", "PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE"] {
        let _locked_until_here = locked(&place, how);
        let said = place.refused_server(("AUTOAPPDEV_GRACE_S", "10"));
        assert!(said.contains("another process has locked it"), "{how}: {said}");
    }
    place.start_server();
    assert_eq!((&place.pipeline()["pid"], &place.pipeline()["run_id"]), (&json!(pid), &json!(run_id)));
    assert_eq!(place.until_all_agree(), "running");
}

#[test]
fn action_with_key_is_done_once_despite_locked_database_and_restart() {
    let mut place = Place::serving("sleep.sh");
    let (pid, _) = place.start();
    let pause = |place: &Place| {
        let fields = [("Content-Type", "application/json"), ("Idempotency-Key", "a")];
        place.request("POST", "/api/pipeline/pause", &fields, Some("{}"))
    };
    let other = locked(&place, "BEGIN IMMEDIATE");
    assert_eq!(pause(&place).error(), "database_locked");
    assert!(is_stopped(pid));
    assert_eq!(place.act("resume").error(), "database_locked");
    assert!(!is_stopped(pid));
    let again = pause(&place);
    assert!(!is_stopped(pid), "{}", again.body);
    let fields = [("Content-Type", "application/json"), ("Idempotency-Key", "a")];
    let stop = place.request("POST", "/api/pipeline/stop", &fields, Some("{}"));
    assert_eq!(stop.error(), "idempotency_key_reused");
    assert!(is_alive(pid));
    other.execute_batch("ROLLBACK").expect("unlocks");
    until_true("nothing is wrong any more", || codes(&place).is_empty());
    place.kill_server();
    place.start_server();
    pause(&place).ok();
    assert!(!is_stopped(pid));
    assert_eq!(pause(&place).header("Idempotent-Replay"), Some("true"));
    assert_eq!(place.until_all_agree(), "running");
}

/// `SQLite` tries for ten seconds to read beside such a lock.
#[test]
fn actions_under_keys_do_not_wait_for_a_lock_that_keeps_readers_out() {
    // All of the readers' locks, and only the one that is in use as a rule.
    for (first, count) in [(123, 5), (124, 1)] {
        act_beside_lock(first, count);
    }
}

fn act_beside_lock(first: libc::off_t, count: libc::off_t) {
    let place = Place::serving("sleep.sh");
    let (pid, _) = place.start();
    let act = |action: &str, key: &str| {
        let fields = [("Content-Type", "application/json"), ("Idempotency-Key", key)];
        place.request("POST", &format!("/api/pipeline/{action}"), &fields, Some("{}"))
    };
    let index = File::options().read(true).write(true).open(place.runtime().join("autoappdev.db-shm")).expect("there");
    let kind = |kind: libc::c_int| libc::c_short::try_from(kind).expect("small");
    let mut lock =
        libc::flock { l_type: kind(libc::F_WRLCK), l_whence: kind(libc::SEEK_SET), l_start: first, l_len: count, l_pid: 0 };
    until_true("no reader is at work", || fcntl(&index, FcntlArg::F_OFD_SETLK(&lock)).is_ok());
    for (round, is_resumed) in [(1, false), (2, true), (3, false)] {
        let (action, key) = (if is_resumed { "resume" } else { "pause" }, round.to_string());
        assert_eq!(act(action, &key).error(), "database_locked");
        assert_eq!(is_stopped(pid), !is_resumed);
        let other = if is_resumed { "pause" } else { "resume" };
        assert_eq!(act(other, &key).error(), "idempotency_key_reused");
        assert_eq!(is_stopped(pid), !is_resumed);
    }
    assert_eq!(act("stop", "4").error(), "database_locked");
    assert!(!is_alive(pid));
    lock.l_type = kind(libc::F_UNLCK);
    fcntl(&index, FcntlArg::F_OFD_SETLK(&lock)).expect("unlocks");
    until_true("nothing is wrong any more", || codes(&place).is_empty());
    assert_eq!(place.until_all_agree(), "stopped");
    act("stop", "4").ok();
}
