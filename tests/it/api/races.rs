//! Many clients at once: one of them succeeds, the others are refused, and the final report is correct.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Answer, Place, is_stopped, letter, until_true};
use serde_json::{Value, json};

/// Sends the same action from `clients` clients at the same moment.
fn at_once(place: &Place, clients: usize, action: &str) -> Vec<Answer> {
    let gate = Barrier::new(clients);
    thread::scope(|scope| {
        let ask = || {
            gate.wait();
            place.act(action)
        };
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

fn count_by_status(answers: &[Answer]) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.status).or_default() += 1;
        if answer.status == 409 {
            assert_eq!(answer.error(), "invalid_transition");
        }
    }
    counts
}

#[test]
fn twenty_concurrent_starts_start_one_process() {
    let place = Place::serving("sleep.sh");
    for run_id in 1..=5 {
        let answers = at_once(&place, 20, "start");
        assert_eq!(count_by_status(&answers), BTreeMap::from([(200, 1), (409, 19)]));
        let winner = answers.iter().find(|answer| answer.status == 200).expect("one");
        assert_eq!(winner.body["run_id"], run_id);
        let pid = winner.body["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
        // A process that is just executing another program has no environment to identify it by.
        until_true("that process is there, and no other", || place.processes().into_iter().eq([pid]));
        place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
        place.assert_nothing_left(run_id);
    }
    let runs = place.get("/api/runs").ok();
    assert_eq!(runs["runs"].as_array().map(Vec::len), Some(5), "the losers left nothing behind");
}

#[test]
fn ten_concurrent_pauses_or_resumes_act_once() {
    let place = Place::serving("sleep.sh");
    let (_, run_id) = place.start();
    for _ in 0..10 {
        for action in ["pause", "resume"] {
            let answers = at_once(&place, 10, action);
            assert_eq!(count_by_status(&answers), BTreeMap::from([(200, 1), (409, 9)]), "{action}");
        }
    }
    place.act("stop").ok();
    let run = place.until_ended(run_id);
    let count = |kind| run["events"].as_array().expect("a list").iter().filter(|event| event["kind"] == kind).count();
    assert_eq!((count("paused"), count("resumed")), (10, 10));
}

#[test]
fn ten_concurrent_stops_end_the_run() {
    let place = Place::serving("sleep.sh");
    for run_id in 1..=5 {
        place.start();
        let answers = at_once(&place, 10, "stop");
        let counts = count_by_status(&answers);
        // A stop that comes after the end is refused.
        assert!(counts.contains_key(&200) && counts.keys().all(|status| [200, 409].contains(status)), "{counts:?}");
        place.assert_nothing_left(run_id);
    }
}

/// A small random generator, good enough to pick actions. With the seed, a failure's order of requests can be reproduced.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }
}

#[test]
fn concurrent_random_actions_end_in_consistent_state() {
    let place = Place::serving("family.sh");
    place.script("family.sh", "#!/bin/bash\nsleep 601 &\n(setsid sleep 602 &)\nexec sleep 603\n");
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for seed in 1..=8_u64 {
            let (place, is_over) = (&place, &is_over);
            scope.spawn(move || {
                let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                while !is_over.load(Ordering::Relaxed) {
                    let answer = match dice.roll(5) {
                        0 => place.act("start"),
                        1 => place.act("pause"),
                        2 => place.act("resume"),
                        3 => place.post("/api/pipeline/stop", json!({"grace_s": 0})),
                        _ => place.post("/api/pipeline/stop", json!({"grace_s": 0.02})),
                    };
                    assert!(matches!(answer.status, 200 | 409), "seed {seed}: {} {}", answer.status, answer.body);
                }
            });
        }
        // The duration proves nothing; the state afterwards does.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            thread::sleep(Duration::from_millis(20));
        }
        is_over.store(true, Ordering::Relaxed);
    });

    let pipeline = place.pipeline();
    assert_eq!(pipeline["pending"], Value::Null, "every action was waited for");
    let processes = place.processes();
    let pid = pipeline["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    match pipeline["state"].as_str() {
        Some("stopped") => {
            assert_eq!(pid, None);
            assert!(processes.is_empty(), "{processes:?}");
        }
        Some("running") => {
            let pid = pid.expect("a pid");
            until_true("the leader is there", || place.processes().contains(&pid));
            assert!(processes.iter().all(|pid| letter(*pid) != Some('T')));
        }
        Some("paused") => {
            assert!(is_stopped(pid.expect("a pid")));
            place.assert_all_stopped();
        }
        other => panic!("{other:?} is no state"),
    }
    assert_eq!(place.stored_state(), pipeline["state"]);
    assert_eq!(place.pause_file().exists(), pipeline["state"] == "paused");

    // Each run's events lead from state to state without a gap, and no two runs overlapped.
    let latest = pipeline["run_id"].as_i64().expect("at least one start");
    for id in 1..=latest {
        let run = place.run(id);
        let mut state = Value::from("stopped");
        for event in run["events"].as_array().expect("a list").iter().filter(|event| !event["to_state"].is_null()) {
            assert_eq!(event["from_state"], state, "run {id}: {event}");
            state = event["to_state"].clone();
        }
        assert!(id == latest || state == "stopped", "run {id} did not end: {run}");
        assert!(id == latest || run["status"] == "stopped", "nobody but us ended run {id}: {run}");
    }
    if pipeline["state"] != "stopped" {
        place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    }
    place.assert_nothing_left(latest);
}
