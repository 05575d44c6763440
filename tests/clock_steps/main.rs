//! The wall clock of the real binary is set back and forth by an hour, and its machine is suspended for an hour. Time stamps
//! within a run never go back, durations are right, and no wait hangs or ends early.
//!
//! With the feature `faults`, the binary reads from a file how far its clocks differ from the machine's. Awake time is not
//! changed, because it does not advance while a machine is suspended.

#[path = "../support/mod.rs"]
mod support;

mod sessions;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Place, is_alive, is_stopped, until, until_true};

const HOUR_MS: i64 = 3_600_000;

/// Longer than any test here takes, in milliseconds, and far below an hour.
const MEANWHILE_MS: i64 = 300_000;

/// A place whose clocks the test sets.
struct Timed {
    place: Place,
    clocks: PathBuf,
}

impl Timed {
    fn serving(script: &str) -> Self {
        let mut place = Place::new();
        let clocks = place.folder().join("clocks");
        place.set_env("AUTOAPPDEV_FAULT_CLOCK", clocks.to_str().expect("plain"));
        place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", script);
        place.script("ticks.sh", "#!/bin/bash\nwhile :; do echo tick; sleep 0.01; done\n");
        let mut timed = Self { place, clocks };
        timed.set(0, 0);
        timed.place.start_server();
        timed
    }

    /// From now on, the wall clock differs from the machine's by `wall_ms`, and the machine has been suspended for `suspended_ms`
    /// in all.
    fn set(&self, wall_ms: i64, suspended_ms: i64) {
        let new = self.clocks.with_extension("new");
        fs::write(&new, format!("{wall_ms} {suspended_ms}\n")).expect("writes");
        fs::rename(new, &self.clocks).expect("renames");
    }

    /// A suspend also moves the wall clock.
    fn suspend_for_an_hour(&self) {
        self.set(HOUR_MS, HOUR_MS);
    }

    /// Waits until the log has another line that was written completely after this call.
    fn until_ticked(&self) {
        let before = self.place.lines().len();
        until_true("two lines more", || self.place.lines().len() >= before + 2);
    }

    /// Waits until the shim of this run has woken up a few times.
    fn until_looked(&self, run_id: i64) {
        let shim = self.place.shim_pid(run_id);
        let wakes = || {
            let status = fs::read_to_string(format!("/proc/{shim}/status")).expect("it lives");
            let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).expect("it is told");
            count.trim().parse::<u64>().expect("a number")
        };
        let before = wakes();
        until_true("the shim has looked again", || wakes() >= before + 3);
    }

    /// Checks that no time stamp of the run is earlier than what happened before it.
    fn assert_in_order(&self, run_id: i64) {
        let sorted = |what: &str, stamps: Vec<Value>| {
            let stamps: Vec<String> = stamps.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            assert!(!stamps.is_empty() && stamps.is_sorted(), "{what}: {stamps:#?}");
        };
        let run = self.place.run(run_id);
        sorted("the run", ["created_at", "started_at", "stopped_at"].map(|key| run[key].clone()).to_vec());
        sorted("its events", self.place.events(run_id).iter().map(|event| event["at"].clone()).collect());
        sorted("its journal", self.place.journal(run_id)[1..].iter().map(|line| line["at"].clone()).collect());
        let records = self.place.records().into_iter().filter(|record| record["run_id"] == run_id);
        sorted("its log", records.map(|record| record["ts"].clone()).collect());
        let pipeline = self.place.pipeline();
        sorted("the pipeline", ["started_at", "paused_at", "resumed_at", "stopped_at"].map(|key| pipeline[key].clone()).to_vec());
        sorted("its latest change", vec![pipeline["stopped_at"].clone(), pipeline["updated_at"].clone()]);
    }
}

#[test]
fn clock_steps_keep_timestamps_ordered_and_durations_correct() {
    // The wall clock at the pause, the resume, the restart of the server and the stop.
    for [paused, resumed, restarted, stopped] in
        [[HOUR_MS, 0, -HOUR_MS, HOUR_MS], [-HOUR_MS, HOUR_MS, 0, -HOUR_MS], [-HOUR_MS, -2 * HOUR_MS, -HOUR_MS, 0]]
    {
        let mut timed = Timed::serving("ticks.sh");
        let (pid, run_id) = timed.place.start();
        timed.until_ticked();
        timed.set(paused, 0);
        timed.until_ticked();
        timed.place.act("pause").ok();
        timed.set(resumed, 0);
        timed.place.act("resume").ok();
        timed.until_ticked();
        timed.place.kill_server();
        timed.set(restarted, 0);
        timed.place.start_server();
        assert_eq!((timed.place.state().as_str(), &timed.place.pipeline()["pid"]), ("running", &json!(pid)));
        timed.until_ticked();
        timed.set(stopped, 0);
        timed.place.post("/api/pipeline/stop", json!({"grace_s": 5})).ok();
        let run = timed.place.until_ended(run_id);
        timed.assert_in_order(run_id);
        let paused_ms = run["paused_ms"].as_i64().expect("a number");
        assert!((0..MEANWHILE_MS).contains(&paused_ms), "{paused_ms} ms paused");
        assert_eq!(timed.place.degraded(), None);
    }
}

#[test]
fn clock_step_does_not_shorten_the_grace() {
    for step in [HOUR_MS, -HOUR_MS] {
        let timed = Timed::serving("stubborn.sh");
        let (_, run_id) = timed.place.start();
        timed.place.until_line("ready");
        let asked = Instant::now();
        let answer = timed.place.shoot("/api/pipeline/stop", "{\"grace_s\": 1.5}");
        timed.place.until_fact(run_id, "stopping");
        timed.set(step, 0);
        timed.place.until_state("stopped");
        assert!(asked.elapsed() >= Duration::from_millis(1500), "KILL after {:?}", asked.elapsed());
        timed.place.until_ended(run_id);
        timed.assert_in_order(run_id);
        drop(answer);
    }
}

#[test]
fn suspend_does_not_use_up_the_grace() {
    for restarts in [false, true] {
        let mut timed = Timed::serving("stubborn.sh");
        let (_, run_id) = timed.place.start();
        timed.place.until_line("ready");
        let asked = Instant::now();
        let answer = timed.place.shoot("/api/pipeline/stop", "{\"grace_s\": 3}");
        timed.place.until_fact(run_id, "stopping");
        timed.suspend_for_an_hour();
        if restarts {
            timed.place.restart_server();
            let is_pending = timed.place.pipeline()["pending"] == "stop";
            assert!(is_pending || asked.elapsed() >= Duration::from_secs(3), "it has its grace still");
        }
        timed.place.until_state("stopped");
        assert!(asked.elapsed() >= Duration::from_secs(3), "KILL after {:?}", asked.elapsed());
        assert_eq!(timed.place.until_ended(run_id)["signal"], 9);
        timed.assert_in_order(run_id);
        drop(answer);
    }
}

#[test]
fn paused_time_includes_suspend() {
    let timed = Timed::serving("sleep.sh");
    let (pid, run_id) = timed.place.start();
    timed.place.act("pause").ok();
    timed.suspend_for_an_hour();
    assert!(is_stopped(pid));
    timed.place.act("resume").ok();
    timed.set(2 * HOUR_MS, 2 * HOUR_MS);
    timed.place.post("/api/pipeline/stop", json!({"grace_s": 5})).ok();
    let paused_ms = timed.place.until_ended(run_id)["paused_ms"].as_i64().expect("a number");
    assert!((HOUR_MS..HOUR_MS + MEANWHILE_MS).contains(&paused_ms), "{paused_ms} ms: the second hour was none of a pause");
    timed.assert_in_order(run_id);
}

#[test]
fn pending_pause_completes_after_suspend() {
    let timed = Timed::serving("sleep.sh");
    timed.place.actor();
    let (_, run_id) = timed.place.start_with(json!({"script": "actor", "args": ["vfork-hang"]}));
    timed.place.until_line("ready");
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| timed.place.act("pause"));
        until_true("the pause is under way", || timed.place.pipeline()["pending"] == "pause");
        timed.suspend_for_an_hour();
        timed.until_looked(run_id);
        fs::write(timed.place.root().join("go"), "").expect("writes");
        answer.join().expect("no panic").ok();
    });
    assert_eq!(timed.place.state(), "paused");
    assert_eq!(timed.place.degraded(), None);
}

#[test]
fn run_continues_and_ends_normally_after_suspend() {
    let timed = Timed::serving("until-go.sh");
    let (pid, run_id) = timed.place.start();
    timed.place.until_line("ready");
    timed.suspend_for_an_hour();
    assert!(is_alive(pid));
    assert_eq!((timed.place.state().as_str(), timed.place.degraded()), ("running", None));
    fs::write(timed.place.root().join("go"), "").expect("writes");
    let run = timed.place.until_ended(run_id);
    assert_eq!((&run["exit_code"], &run["paused_ms"]), (&json!(7), &json!(0)));
    timed.assert_in_order(run_id);
    let seconds = |key: &str| run[key].as_str().expect("a time")[11..19].to_owned();
    assert_ne!(seconds("started_at")[..2], seconds("stopped_at")[..2], "the hour has passed for people");
}

#[test]
fn long_poll_lasts_its_wait_across_clock_steps() {
    let timed = Timed::serving("sleep.sh");
    let version = timed.place.pipeline()["version"].clone();
    std::thread::scope(|scope| {
        let began = Instant::now();
        let answer = scope.spawn(|| timed.place.get(&format!("/api/pipeline?after={version}&wait=1")));
        let mut suspended_ms = 0;
        until_true("it is answered", || {
            // Repeatedly, so that some of it happens during the wait.
            suspended_ms += HOUR_MS;
            timed.set(if suspended_ms % (2 * HOUR_MS) == 0 { HOUR_MS } else { -HOUR_MS }, suspended_ms);
            answer.is_finished()
        });
        assert_eq!(answer.join().expect("no panic").ok()["pipeline"]["version"], version);
        assert!(began.elapsed() >= Duration::from_secs(1), "answered after {:?}", began.elapsed());
    });
}

/// Returns the ids of the history, newest first.
fn history(place: &Place) -> Vec<i64> {
    let runs = place.get("/api/runs").ok();
    runs["runs"].as_array().expect("a list").iter().map(|run| run["id"].as_i64().expect("a number")).collect()
}

#[test]
fn retention_counts_elapsed_days_and_ignores_clock_jumps() {
    const DAY_MS: i64 = 24 * HOUR_MS;
    const YEAR_MS: i64 = 365 * DAY_MS;
    let mut timed = Timed::serving("exit.sh");
    timed.place.set_env("AUTOAPPDEV_RUNS_KEEP_DAYS", "7");
    timed.place.restart_server();
    let run = |timed: &Timed| {
        let run_id = until("the run before has ended", || {
            let answer = timed.place.act("start");
            (answer.status == 200).then(|| answer.body["run_id"].as_i64().expect("an id"))
        });
        timed.place.until_ended(run_id);
        timed.place.until_no_shim();
        run_id
    };
    let mut ids = vec![run(&timed)];
    let mut suspended_ms = 0;
    // Under a live server, before one starts, and after one was killed: forward, and back to before all runs.
    for wall_ms in [YEAR_MS, -56 * YEAR_MS, 30 * YEAR_MS, 0] {
        timed.set(wall_ms, suspended_ms);
        ids.insert(0, run(&timed));
        timed.place.restart_server();
        ids.insert(0, run(&timed));
        assert_eq!(timed.place.stop_server(), 0);
        timed.set(wall_ms + YEAR_MS, suspended_ms);
        timed.place.start_server();
        ids.insert(0, run(&timed));
        assert_eq!(history(&timed.place), ids, "{wall_ms} ms");
    }
    // Only an end that retention has recorded ages, and it does so when the processor has nothing else to do.
    until_true("retention has noted the end of the latest run", || {
        assert_eq!(timed.place.stop_server(), 0);
        let notes = fs::read_to_string(timed.place.runtime().join("retention.json")).unwrap_or_default();
        timed.place.start_server();
        let notes: Value = serde_json::from_str(&notes).unwrap_or_default();
        notes["witness"]["ended"].as_array().and_then(|ended| ended.last()).is_some_and(|last| last[1] == ids[0])
    });
    // Six days, and two more, during which the machine is on. These count, whatever the wall clock shows.
    for (days, kept) in [(6, ids.len() + 1), (2, 2)] {
        suspended_ms += days * DAY_MS;
        timed.set(-YEAR_MS, suspended_ms);
        ids.insert(0, run(&timed));
        until_true("what is old enough is gone, and nothing else", || history(&timed.place) == ids[..kept]);
    }
}
