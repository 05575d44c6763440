//! Signals from other processes, and the PAUSE file: how other programs affect a run, and what they can see of it.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::support::{Place, is_stopped, letter, signal, until, until_true};
use autoappdev::run_dir::{Command, RunDir, to_line};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

#[test]
fn sigstop_and_sigcont_of_leader_pause_and_resume_the_run() {
    let place = Place::serving("tree.sh");
    let (pid, run_id) = place.start();
    place.until_tree();
    for round in 0..5 {
        signal(pid, "STOP");
        place.until_state("paused");
        assert!(place.assert_all_stopped().len() >= 8);
        assert!(place.pause_file().exists());
        assert_eq!(place.stored_state(), "paused");
        signal(pid, "CONT");
        place.until_state("running");
        assert!(!place.pause_file().exists());
        until_true("all of it goes on", || place.processes().iter().all(|pid| letter(*pid) != Some('T')));
        assert_eq!(place.history(run_id).len(), 4 + 2 * round);
    }
    assert_eq!(place.history(run_id)[2..4], ["paused outside paused", "resumed outside running"]);

    // Either side can undo what the other did.
    signal(pid, "STOP");
    place.until_state("paused");
    place.act("resume").ok();
    place.act("pause").ok();
    signal(pid, "CONT");
    place.until_state("running");
    let history = place.history(run_id);
    assert_eq!(
        history[history.len() - 4..],
        ["paused outside paused", "resumed request running", "paused request paused", "resumed outside running"]
    );
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    place.assert_nothing_left(run_id);
}

/// Sends the signals one after the other, with a gap that each round changes, so that every moment of the shim's work is hit
/// eventually.
fn send_in_a_row(pid: u32, signals: &[Signal], gap: Duration) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    for &signal in signals {
        kill_process(pid, signal).expect("ours");
        let sent = Instant::now();
        while sent.elapsed() < gap {
            std::hint::spin_loop();
        }
    }
}

fn is_all_awake(place: &Place) -> bool {
    place.processes().iter().all(|pid| letter(*pid) != Some('T'))
}

#[test]
fn sigstop_followed_by_sigcont_leaves_run_running() {
    let place = Place::serving("count.sh");
    let (pid, run_id) = place.start();
    until_true("it counts", || place.lines().len() > 3);
    for round in 0..100 {
        send_in_a_row(pid, &[Signal::STOP, Signal::CONT], Duration::from_micros(20 * round));
        let before = place.get("/api/logs/tail?limit=1").ok()["next"].clone();
        until_true("it counts on, and nobody says anything else", || {
            let goes_on = place.get("/api/logs/tail?limit=1").ok()["next"] != before;
            goes_on && place.state() == "running" && !place.pause_file().exists() && is_all_awake(&place)
        });
    }
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    place.assert_nothing_left(run_id);
}

#[test]
fn pause_right_after_sigcont_is_not_refused() {
    let place = Place::serving("many.sh");
    // It takes a while to continue that many processes.
    place.script("many.sh", "#!/bin/bash\nfor n in {1..500}; do sleep 600 & done\necho ready\nwait\n");
    let (pid, run_id) = place.start();
    place.until_line("ready");
    for round in 0..40_u64 {
        send_in_a_row(pid, &[Signal::STOP], Duration::from_millis(1));
        send_in_a_row(pid, &[Signal::CONT], Duration::from_millis(round));
        let answer = place.act("pause");
        if answer.status == 409 {
            assert_eq!(answer.body["from"], "paused", "{}", answer.body);
        } else {
            answer.ok();
        }
        until_true("it runs again", || {
            place.act("resume");
            place.state() == "running" && is_all_awake(&place)
        });
    }
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    place.assert_nothing_left(run_id);
}

#[test]
fn last_of_several_quick_signals_decides() {
    const UP_AND_DOWN: [Signal; 3] = [Signal::STOP, Signal::CONT, Signal::STOP];
    let place = Place::serving("tree.sh");
    let (pid, run_id) = place.start();
    place.until_tree();
    for round in 0..60 {
        let gap = Duration::from_micros(50 * round);
        send_in_a_row(pid, &UP_AND_DOWN, gap);
        until_true("all of it is paused", || {
            let is_said = place.state() == "paused" && place.pause_file().exists();
            is_said && place.processes().iter().all(|pid| is_stopped(*pid))
        });
        send_in_a_row(pid, &UP_AND_DOWN.map(|signal| if signal == Signal::STOP { Signal::CONT } else { Signal::STOP }), gap);
        until_true("all of it runs", || place.state() == "running" && !place.pause_file().exists() && is_all_awake(&place));
    }
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    place.assert_nothing_left(run_id);
}

#[test]
fn killed_paused_leader_is_not_recorded_as_resumed() {
    let mut place = Place::new();
    place.compile("victim");
    place.start_server();
    for _ in 0..5 {
        let (pid, run_id) = place.start_with(json!({"script": "victim", "args": ["hold=256"]}));
        until_true("it is big", || place.said(run_id, "stdout").first().is_some_and(|line| line == "line 0"));
        place.act("pause").ok();
        // The killed leader takes a while to release its memory. During that time it runs and has not ended, and this message
        // gives its shim a reason to look at it.
        let mut line = RunDir::at(place.run_dir(run_id)).connect(crate::support::DEADLINE).expect("the shim listens");
        signal(pid, "KILL");
        // On a slow machine everything may have ended by now.
        let _gone = line.write_all(&to_line(&Command::Attach { tag: 0, after: 0 }));
        assert_eq!(place.until_ended(run_id)["signal"], 9);
        let kinds: Vec<String> = place.history(run_id).into_iter().skip(2).collect();
        assert_eq!(kinds.len(), 3, "{kinds:?}");
        assert!(kinds[0].starts_with("paused request") && kinds[1].starts_with("exited"), "{kinds:?}");
    }
}

#[test]
fn sigstop_of_child_does_not_pause_run() {
    let place = Place::serving("family.sh");
    place.script("family.sh", "#!/bin/bash\nsleep 601 &\necho $!\nexec sleep 602\n");
    let (_, run_id) = place.start();
    let child = until("it names its child", || place.lines().first()?.parse().ok());
    signal(child, "STOP");
    until_true("it is stopped", || is_stopped(child));
    // A pause and a resume go through the shim, which could have mistaken the child's stop for a pause of the run.
    place.act("pause").ok();
    place.assert_all_stopped();
    assert_eq!(place.history(run_id)[2..], ["paused request paused"]);
    place.act("resume").ok();
    until_true("all of it goes on", || place.processes().iter().all(|pid| letter(*pid) != Some('T')));
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
}

#[test]
fn pause_file_exists_only_while_paused() {
    let place = Place::serving("sleep.sh");
    let file = place.pause_file();
    fs::write(&file, "left by a run whose shim was killed").expect("writes");
    let (pid, run_id) = place.start();
    assert!(!file.exists(), "a start takes away what is left of another time");

    let pause = || {
        place.act("pause").ok();
        assert!(file.exists());
    };
    pause();
    place.act("resume").ok();
    assert!(!file.exists(), "after a resume");

    pause();
    place.post("/api/pipeline/stop", json!({"grace_s": 600})).ok();
    assert!(!file.exists(), "after a stop");
    place.assert_nothing_left(run_id);

    place.start();
    pause();
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    assert!(!file.exists(), "after a stop without grace");

    let (killed, _) = place.start();
    pause();
    signal(killed, "KILL");
    place.until_state("stopped");
    assert!(!file.exists(), "after a kill from outside");
    assert_ne!(pid, killed);

    // It is not an error if another program has removed the file.
    place.start();
    pause();
    fs::remove_file(&file).expect("ours");
    place.act("resume").ok();
    pause();
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    assert!(!file.exists());
}
