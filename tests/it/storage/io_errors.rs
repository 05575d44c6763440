//! The disk fails: the database, the journal, the log, the PAUSE file or everything cannot be written. The pipeline continues and
//! stays under control, nothing is reported that is not recorded, health reports the problem, and everything recovers by itself.
//!
//! A small library in front of the C library makes the calls fail (`tests/programs/faults.c`).

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Place, is_alive, is_stopped, until_true};
use serde_json::{Value, json};

const EIO: i32 = 5;
const EROFS: i32 = 30;

/// A place whose servers and shims run on a disk that can be made to fail.
struct Failing {
    place: Place,
    switch: PathBuf,
}

/// Repairs the disk on drop, so that it works again at the end of a test, whether the test fails or not.
struct Repaired<'a>(&'a Failing);

impl Drop for Repaired<'_> {
    fn drop(&mut self) {
        self.0.repair();
    }
}

impl Failing {
    fn new() -> Self {
        let mut place = Place::new();
        let library = place.folder().join("faults.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/faults.c");
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let status =
            Command::new(compiler).args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").status();
        assert!(status.expect("a C compiler is needed, as for the program itself").success(), "it compiles");
        let switch = place.folder().join("faults");
        place.set_env("LD_PRELOAD", library.to_str().expect("plain"));
        place.set_env("AUTOAPPDEV_TEST_FAULTS", switch.to_str().expect("plain"));
        place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
        Self { place, switch }
    }

    fn serving() -> Self {
        let mut failing = Self::new();
        failing.place.start_server();
        failing
    }

    /// From now on, makes these calls fail on files whose path contains `part`.
    fn fail(&self, calls: &str, error: i32, part: &str) {
        // Replaced atomically, because the library can read it at any moment.
        let new = self.switch.with_extension("new");
        fs::write(&new, format!("{calls} {error} {part}\n")).expect("writes");
        fs::rename(new, &self.switch).expect("renames");
    }

    fn repair(&self) {
        fs::remove_file(&self.switch).expect("it was broken");
    }

    fn until_degraded(&self, word: &str) {
        until_true(&format!("health says {word:?}"), || self.degraded().is_some_and(|why| why.contains(word)));
    }

    /// Returns the reported problem, even if the status of health is not 200.
    fn degraded(&self) -> Option<String> {
        self.place.get("/api/health").body["degraded"].as_str().map(str::to_owned)
    }

    fn until_well(&self) {
        until_true("all is well again by itself", || self.place.get("/api/health").status == 200 && self.degraded().is_none());
    }
}

#[test]
fn unwritable_database_leaves_the_pipeline_under_control() {
    for (calls, error) in [("ws", EIO), ("s", EIO), ("w", EROFS)] {
        let failing = Failing::serving();
        let place = &failing.place;
        let before = place.footprint();
        failing.fail(calls, error, "autoappdev.db");
        let answer = place.act("start");
        assert_eq!((answer.status, answer.error()), (503, "storage_failed"), "{}", answer.body);
        failing.until_degraded("nothing can be recorded");
        // The write is retried meanwhile, and health reports the problem until it succeeds.
        let began = Instant::now();
        until_true("some attempts have failed", || {
            let why = failing.degraded().unwrap_or_default();
            assert!(why.contains("nothing can be recorded"), "{calls} {error} fails still: {why:?}");
            began.elapsed() > Duration::from_millis(1200)
        });
        failing.repair();
        failing.until_well();
        assert_eq!(place.footprint(), before, "a refused request changes nothing");

        let (pid, run_id) = place.start_with(json!({"script": "until-go.sh"}));
        place.until_line("ready");
        failing.fail(calls, error, "autoappdev.db");
        let answer = place.act("pause");
        assert_eq!((answer.status, answer.error()), (503, "storage_failed"), "{}", answer.body);
        assert!(is_stopped(pid), "it is done, and not on record");
        assert_eq!(place.state(), "running", "as it is on record");
        failing.until_degraded("recorded");
        let answer = place.act("resume");
        assert_eq!((answer.status, answer.error()), (503, "storage_failed"), "{}", answer.body);
        assert!(!is_stopped(pid));
        fs::write(place.root().join("go"), "").expect("writes");
        until_true("it has ended", || !is_alive(pid));
        failing.repair();
        let run = place.until_ended(run_id);
        assert_eq!((&run["status"], &run["exit_code"]), (&json!("failed"), &json!(7)));
        failing.until_well();
        assert_eq!(place.until_all_agree(), "stopped");
        fs::remove_file(place.root().join("go")).expect("there");
    }
}

#[test]
fn unwritable_journal_degrades_health_and_is_completed_later() {
    for calls in ["w", "s"] {
        let mut failing = Failing::serving();
        let (pid, run_id) = failing.place.start_with(json!({"script": "until-go.sh"}));
        failing.place.until_line("ready");
        failing.fail(calls, EIO, "journal.jsonl");
        failing.place.act("pause").ok();
        failing.place.act("resume").ok();
        if calls == "w" {
            failing.until_degraded("journal");
        }
        failing.place.restart_server();
        assert_eq!(failing.place.state(), "running");
        if calls == "w" {
            // The next server reports it too.
            failing.until_degraded("journal");
        }
        failing.place.kill_server();
        fs::write(failing.place.root().join("go"), "").expect("writes");
        until_true("it has ended", || !is_alive(pid));
        failing.place.start_server();
        failing.place.until_state("stopped");
        let run = failing.place.run(run_id);
        assert_eq!((&run["status"], &run["exit_code"]), (&json!("failed"), &json!(7)), "known although it is on no disk yet");
        assert_eq!(failing.place.shims().len(), 1, "it stays until the end is on the disk");
        failing.repair();
        failing.place.until_no_shim();
        failing.until_well();
        assert_eq!(failing.place.until_all_agree(), "stopped");
        assert_eq!(failing.place.facts(run_id, "exited").len(), 1);
    }
}

/// The kernel reports a failed sync only once, so the data that may be lost is written again.
#[test]
fn journal_is_rewritten_after_failed_sync() {
    let failing = Failing::serving();
    let place = &failing.place;
    failing.fail("s", EIO, "journal.jsonl");
    let (_, run_id) = place.start();
    failing.until_degraded("journal");
    // A sync alone would succeed now.
    failing.fail("w", EROFS, "journal.jsonl");
    until_true("it is written again", || failing.degraded().is_some_and(|why| why.contains("Read-only")));
    failing.repair();
    failing.until_well();
    assert_eq!(place.until_all_agree(), "running");
    assert_eq!(place.facts(run_id, "spawned").len(), 1);
}

#[test]
fn unwritable_log_counts_lost_lines() {
    let failing = Failing::serving();
    let place = &failing.place;
    place.script("pairs.sh", "#!/bin/bash\nfor n in 1 2 3; do\n  while [ ! -e go$n ]; do sleep 0.01; done\n  printf \"first $n\\nsecond $n\\n\"\n  touch done$n\ndone\nexec sleep 600\n");
    place.start_with(json!({"script": "pairs.sh"}));
    // Both lines are one write, so they are kept or lost together.
    let step = |n: u32| {
        fs::write(place.root().join(format!("go{n}")), "").expect("writes");
        until_true("it is printed", || place.root().join(format!("done{n}")).exists());
    };
    step(1);
    place.until_line("second 1");
    failing.fail("w", EIO, "/log/");
    step(2);
    failing.until_degraded("log");
    failing.repair();
    failing.until_well();
    step(3);
    place.until_line("second 3");
    let mark = "[autoappdev: 2 lines are missing here: they could not be written to the disk]";
    assert_eq!(place.lines(), ["first 1", "second 1", mark, "first 3", "second 3"]);
}

/// The next run's log begins after the position that is reserved for the mark.
#[test]
fn log_that_fails_beyond_the_end_counts_lost_lines() {
    let failing = Failing::serving();
    let place = &failing.place;
    let (_, run_id) = place.start_with(json!({"script": "until-go.sh"}));
    place.until_line("ready");
    failing.fail("w", EIO, "/runs/1/log/");
    fs::write(place.root().join("go"), "").expect("writes");
    let run = place.until_ended(run_id);
    assert_eq!((&run["status"], &run["exit_code"]), (&json!("failed"), &json!(7)));
    let (_, next) = place.start();
    until_true("the next run says something", || place.said(next, "stdout") == ["ready"]);
    until_true("both runs have a shim", || place.shims().len() == 2);
    failing.repair();
    until_true("the first one's leaves", || place.shims().len() == 1);
    let mark = "[autoappdev: 1 lines are missing here: they could not be written to the disk]";
    assert_eq!(place.lines(), ["ready", mark, "ready"]);
    let ids: Vec<u64> = place.records().iter().map(|record| record["id"].as_u64().expect("a number")).collect();
    assert!(ids.is_sorted_by(|one, two| one < two), "{ids:?}");
    let runs: Vec<Value> = place.records().iter().map(|record| record["run_id"].clone()).collect();
    assert_eq!(runs, [json!(run_id), json!(run_id), json!(next)]);
}

#[test]
fn pause_file_errors_do_not_prevent_pause_or_resume() {
    let failing = Failing::serving();
    let place = &failing.place;
    let (pid, _) = place.start();
    failing.fail("o", EIO, "/PAUSE");
    place.act("pause").ok();
    assert!(is_stopped(pid) && !place.pause_file().exists());
    failing.until_degraded("PAUSE");
    failing.repair();
    failing.until_well();
    assert!(place.pause_file().exists(), "made once it can be");

    failing.fail("o", EROFS, "/PAUSE");
    place.act("resume").ok();
    assert!(!is_stopped(pid) && place.pause_file().exists());
    failing.until_degraded("PAUSE");
    failing.repair();
    failing.until_well();
    assert!(!place.pause_file().exists(), "removed once it can be");
    assert_eq!(place.until_all_agree(), "running");
}

#[test]
fn leftover_pause_file_is_removed_later_unless_next_run_is_paused() {
    let failing = Failing::serving();
    let place = &failing.place;
    for begins_another in [false, true] {
        place.start();
        place.act("pause").ok();
        failing.fail("o", EIO, "/PAUSE");
        place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
        assert!(place.pause_file().exists());
        assert_eq!(place.shims().len(), 1, "its shim tries again");
        if begins_another {
            let (pid, _) = place.start();
            failing.repair();
            place.act("pause").ok();
            until_true("the first one's shim has left", || place.shims().len() == 1);
            assert!(is_stopped(pid) && place.pause_file().exists());
        } else {
            failing.repair();
            place.until_no_shim();
            assert!(!place.pause_file().exists());
        }
        failing.until_well();
        assert_eq!(place.until_all_agree(), if begins_another { "paused" } else { "stopped" });
    }
}

#[test]
fn spawn_failure_is_journaled_before_shim_exits() {
    let failing = Failing::serving();
    let place = &failing.place;
    place.script("nobody.sh", "echo a text with an execute bit and nothing that runs it\n");
    // The header is written.
    failing.fail("a", EIO, "journal.jsonl");
    let answer = place.post("/api/pipeline/start", json!({"script": "nobody.sh"}));
    assert_eq!((answer.status, answer.error()), (422, "spawn_failed"), "{}", answer.body);
    assert_eq!(place.shims().len(), 1, "a server that did not hear it would take the run for lost");
    failing.repair();
    place.until_no_shim();
    assert_eq!(place.facts(1, "spawn_failed").len(), 1);
    assert_eq!(place.until_all_agree(), "stopped");
}

#[test]
fn read_only_disk_leaves_the_pipeline_under_control() {
    let failing = Failing::serving();
    let place = &failing.place;
    let (pid, run_id) = place.start();
    place.until_line("ready");
    failing.fail("wso", EROFS, "/runtime/");
    for path in ["/", "/api/pipeline", "/api/pipeline/status", "/api/logs", "/api/version"] {
        assert_eq!(place.get(path).status, 200, "{path}");
    }
    let answer = place.act("pause");
    assert_eq!((answer.status, answer.error()), (503, "storage_failed"), "{}", answer.body);
    assert!(is_stopped(pid));
    failing.until_degraded("journal");
    failing.until_degraded("PAUSE");
    failing.until_degraded("recorded");
    let answer = place.act("resume");
    assert_eq!((answer.status, answer.error()), (503, "storage_failed"), "{}", answer.body);
    let answer = place.post("/api/pipeline/stop", json!({"grace_s": 0}));
    assert_eq!((answer.status, answer.error()), (503, "storage_failed"), "{}", answer.body);
    assert!(!is_alive(pid));
    let answer = place.act("start");
    assert_eq!((answer.status, answer.error()), (503, "storage_failed"), "{}", answer.body);
    failing.repair();
    assert_eq!(place.until_ended(run_id)["status"], "stopped");
    failing.until_well();
    assert_eq!(place.until_all_agree(), "stopped");
    place.start();
    assert_eq!(place.until_all_agree(), "running");
}

#[test]
fn run_directory_errors_fail_the_run_with_reason() {
    let failing = Failing::serving();
    let place = &failing.place;
    for part in ["/runs", "/lock", "shim.log", "/log", "journal.jsonl"] {
        failing.fail("o", EIO, part);
        let answer = place.act("start");
        assert_eq!((answer.status, answer.error()), (422, "spawn_failed"), "{part}: {}", answer.body);
        let run_id = answer.body["run_id"].as_i64().expect("an id");
        let why = answer.body["detail"].as_str().expect("a sentence").to_owned();
        assert!(why.contains("Input/output error"), "{part}: {why}");
        let run = place.run(run_id);
        assert_eq!((&run["status"], &run["error"]), (&json!("failed"), &json!(why)));
        failing.repair();
        failing.until_well();
        assert_eq!(place.until_all_agree(), "stopped");
        place.until_no_shim();
    }
    place.start();
    assert_eq!(place.until_all_agree(), "running");
}

#[test]
fn server_serves_without_writable_server_json() {
    let mut failing = Failing::new();
    failing.fail("w", EIO, "server.json");
    failing.place.start_server();
    let place = &failing.place;
    place.start();
    assert!(!place.runtime().join("server.json").exists());
    failing.repair();
    until_true("it says so once it can", || place.runtime().join("server.json").exists());
    let (code, said, _) = place.client(&["status"]);
    assert_eq!(code, 0, "{said}");
}

/// The watchdog is for a server that hangs. A disk that takes longer for a sync than the watchdog waits is not the server's
/// fault.
#[test]
fn watchdog_is_notified_during_long_sync() {
    let mut failing = Failing::new();
    let path = failing.place.folder().join("notify.sock");
    let manager = UnixDatagram::bind(&path).expect("binds");
    manager.set_nonblocking(true).expect("ours");
    failing.place.set_env("NOTIFY_SOCKET", path.to_str().expect("text"));
    failing.place.set_env("WATCHDOG_USEC", "400000");
    failing.place.start_server();
    let place = &failing.place;
    let (pid, _) = place.start();
    failing.fail("h", EIO, "autoappdev.db");
    thread::scope(|scope| {
        let repaired = Repaired(&failing);
        let pause = scope.spawn(|| place.act("pause"));
        until_true("the tree is stopped, and that is to be recorded", || is_stopped(pid));
        let mut message = [0; 512];
        let mut hears = || manager.recv(&mut message).map(|count| message[..count].starts_with(b"WATCHDOG=1"));
        while hears().is_ok() {}
        // Twice the watchdog's time; it is notified every 200 ms.
        for feeding in 1..=5 {
            until_true(&format!("feeding {feeding}"), || hears().is_ok_and(|is_it| is_it));
        }
        assert!(!pause.is_finished(), "nothing is reported that is not on record");
        drop(repaired);
        pause.join().expect("answers").ok();
    });
    assert_eq!(place.stored_state(), "paused");
}

#[test]
fn action_with_key_acts_before_slow_sync_completes() {
    let failing = Failing::serving();
    let place = &failing.place;
    let (pid, _) = place.start();
    let ask = |action: &str, key: &str| {
        let fields = [("Content-Type", "application/json"), ("Idempotency-Key", key)];
        place.request("POST", &format!("/api/pipeline/{action}"), &fields, Some("{}"))
    };
    failing.fail("h", EIO, "autoappdev.db");
    thread::scope(|scope| {
        let repaired = Repaired(&failing);
        let pause = scope.spawn(|| ask("pause", "a"));
        until_true("the tree is stopped", || is_stopped(pid));
        assert!(!pause.is_finished(), "nothing is reported that is not on record");
        drop(repaired);
        pause.join().expect("answers").ok();
    });
    assert_eq!(ask("pause", "a").header("Idempotent-Replay"), Some("true"));
    ask("stop", "b").ok();
}
