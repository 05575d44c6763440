//! The server is killed, the pipeline continues, and the next server knows everything.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::support::{Place, is_alive, letter, signal, until, until_true};
use autoappdev::pipeline::Origin;
use autoappdev::run_dir::Command;
use serde_json::{Value, json};

/// Returns the part of a pipeline that a restart must not change.
fn what_stays(pipeline: &Value) -> Value {
    let keys = ["state", "pid", "run_id", "started_at", "paused_at", "resumed_at", "stopped_at", "status", "script"];
    keys.iter().map(|&key| (key.to_owned(), pipeline[key].clone())).collect::<serde_json::Map<_, _>>().into()
}

#[test]
fn server_killed_while_running_adopts_the_same_pid() {
    let mut place = Place::serving("tree.sh");
    let (pid, run_id) = place.start();
    place.until_line("stubborn");
    place.until_tree();
    let before = place.pipeline();
    let events = place.events(run_id);
    for _ in 0..3 {
        place.restart_server();
        assert_eq!(what_stays(&place.pipeline()), what_stays(&before));
        assert_eq!(place.pipeline()["pid"], pid);
        assert_eq!(place.until_all_agree(), "running");
    }
    assert_eq!(place.events(run_id), events, "nothing happened to the run");
    assert!(place.pipeline()["version"].as_u64() >= before["version"].as_u64(), "the version never goes back");
    assert_eq!(place.degraded(), None);
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    assert_eq!(place.until_all_agree(), "stopped");
}

#[test]
fn run_with_removed_lock_file_continues_and_ends_normally() {
    let mut place = Place::serving("sleep.sh");
    let (pid, run_id) = place.start();
    fs::remove_file(place.run_dir(run_id).join("lock")).expect("there");
    for is_shim_stopped in [false, true] {
        if is_shim_stopped {
            signal(place.shim_pid(run_id), "STOP");
        }
        place.restart_server();
        assert_eq!((&place.pipeline()["state"], &place.pipeline()["pid"]), (&json!("running"), &json!(pid)));
        assert_eq!(place.post("/api/pipeline/start", json!({})).status, 409, "never a second one");
        signal(place.shim_pid(run_id), "CONT");
        assert_eq!(place.until_all_agree(), "running");
    }
    place.act("stop").ok();
    place.until_no_shim();
    place.restart_server();
    assert_eq!(place.run(run_id)["status"], "stopped");
    place.start();
}

#[test]
fn server_kills_lose_and_repeat_no_log_line() {
    let mut place = Place::serving("count.sh");
    place.start();
    // One cursor across four servers, as a client would use it.
    let (mut since, mut lines) = (0, Vec::new());
    for round in 0..4 {
        let wanted = lines.len() + 60;
        until_true("it goes on counting", || {
            lines.extend(place.lines_since(&mut since));
            lines.len() >= wanted
        });
        if round < 3 {
            place.kill_server();
            // The script continues to count without a server.
            let at_the_kill = log_bytes(&place);
            until_true("the log grows without a server", || log_bytes(&place) > at_the_kill + 400);
            place.start_server();
        }
    }
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    lines.extend(place.lines_since(&mut since));
    for (n, line) in lines.iter().enumerate() {
        assert_eq!(line, &format!("line {n}"), "the {n}th line");
    }
    assert_eq!(place.lines(), lines, "read in one go it is the same");
}

/// Returns the size of the first run's log.
fn log_bytes(place: &Place) -> u64 {
    let files = fs::read_dir(place.run_dir(1).join("log")).expect("there");
    files.map(|file| file.expect("there").metadata().expect("there").len()).sum()
}

#[test]
fn server_killed_while_paused_stays_paused() {
    let mut place = Place::serving("tree.sh");
    place.start();
    place.until_line("stubborn");
    place.until_tree();
    place.act("pause").ok();
    let before = place.pipeline();
    let processes = place.processes();
    for _ in 0..2 {
        place.kill_server();
        assert!(processes.iter().all(|&pid| letter(pid) == Some('T')), "nothing continues them");
        place.start_server();
        assert_eq!(what_stays(&place.pipeline()), what_stays(&before));
        assert_eq!(place.until_all_agree(), "paused");
        assert_eq!(place.processes(), processes);
        assert!(place.runtime().join("PAUSE").exists());
    }
    place.act("resume").ok();
    assert_eq!(place.until_all_agree(), "running");
    assert!(!place.runtime().join("PAUSE").exists());
    assert!(processes.iter().all(|&pid| letter(pid) != Some('T')), "all of them go on");
}

#[test]
fn exit_during_server_outage_is_recorded_at_boot() {
    type End = fn(&Place, u32, u32);
    let go: End = |place, _, _| fs::write(place.root().join("go"), "").expect("writes");
    let kill: End = |_, pid, _| signal(pid, "KILL");
    let terminate_shim: End = |_, _, shim| signal(shim, "TERM");
    let ends: [(&str, End, &str, Value, Value); 4] = [
        ("until-go.sh", go, "failed", json!(7), Value::Null),
        ("count-to-go.sh", go, "completed", json!(0), Value::Null),
        ("sleep.sh", kill, "failed", Value::Null, json!(9)),
        ("sleep.sh", terminate_shim, "stopped", Value::Null, json!(15)),
    ];
    let mut place = Place::serving("sleep.sh");
    place.script("count-to-go.sh", "#!/bin/bash\necho ready\nwhile [ ! -e go ]; do sleep 0.01; done\necho going\n");
    for (script, end, status, exit_code, signal) in ends {
        let (pid, run_id) = place.start_with(json!({"script": script}));
        until_true("it is ready", || {
            place.run(run_id)["status"] == "running" && place.lines().last().is_some_and(|l| l == "ready")
        });
        let started_at = place.pipeline()["started_at"].clone();
        place.kill_server();
        end(&place, pid, place.shim_pid(run_id));
        let exited = place.until_fact(run_id, "exited");
        place.until_no_shim();
        let _not_there = fs::remove_file(place.root().join("go"));

        place.start_server();
        let pipeline = place.pipeline();
        let run = place.run(run_id);
        assert_eq!(run["status"], status, "{script}: {run}");
        assert_eq!((&run["exit_code"], &run["signal"]), (&exit_code, &signal), "{script}");
        assert_eq!((&pipeline["exit_code"], &pipeline["signal"]), (&exit_code, &signal), "{script}");
        assert_eq!(run["stopped_at"], exited["at"], "{script}: the time of the end, not of the boot");
        assert_eq!(pipeline["stopped_at"], exited["at"], "{script}");
        assert_eq!(place.event(run_id, "exited")["at"], exited["at"], "{script}");
        assert_eq!((&run["started_at"], &run["pid"]), (&started_at, &json!(pid)), "{script}");
        assert!(run["max_rss_kb"].as_u64() > Some(0) && run["cpu_user_ms"].is_u64() && run["cpu_system_ms"].is_u64(), "{run}");
        assert_eq!(place.until_all_agree(), "stopped");
        let text = if exit_code.is_null() { "ready" } else { "going" };
        assert_eq!(place.lines().last().map(String::as_str), Some(text), "the last words are there");
    }
}

#[test]
fn server_killed_during_the_grace_still_ends_the_run_as_stopped() {
    let mut place = Place::serving("stubborn.sh");
    let (pid, run_id) = place.start();
    place.until_line("ready");
    let _unanswered = place.shoot("/api/pipeline/stop", r#"{"grace_s": 1}"#);
    place.until_fact(run_id, "stopping");
    place.kill_server();
    // Only the shim can end the run.
    let exited = place.until_fact(run_id, "exited");
    place.until_no_shim();
    assert!(!is_alive(pid));
    place.start_server();
    let run = place.run(run_id);
    assert_eq!((&run["status"], &run["signal"]), (&json!("stopped"), &json!(9)));
    assert_eq!(run["stopped_at"], exited["at"]);
    assert_eq!(place.event(run_id, "exited")["cause"], "request");
    assert_eq!(place.until_all_agree(), "stopped");
}

#[test]
fn pending_stop_survives_restart_and_accepts_new_grace() {
    let mut place = Place::serving("stubborn.sh");
    let (_, run_id) = place.start();
    place.until_line("ready");
    let _unanswered = place.shoot("/api/pipeline/stop", r#"{"grace_s": 3000}"#);
    until_true("the stop is recorded", || place.events(run_id).iter().any(|event| event["kind"] == "stopping"));
    for stops in 2..4 {
        place.restart_server();
        let pipeline = place.pipeline();
        assert_eq!((&pipeline["state"], &pipeline["pending"]), (&json!("running"), &json!("stop")), "{pipeline}");
        assert_eq!(pipeline["allowed"], json!(["stop"]));
        let refused = place.act("pause");
        assert_eq!((refused.status, refused.error()), (409, "invalid_transition"), "{}", refused.body);
        assert_eq!(refused.body["pending"], "stop");
        let _unanswered = place.shoot("/api/pipeline/stop", r#"{"grace_s": 3500}"#);
        until_true("the longer grace counts", || place.facts(run_id, "stopping").len() == stops);
    }
    place.post("/api/pipeline/stop", json!({"grace_s": 0.2})).ok();
    let run = place.run(run_id);
    assert_eq!((&run["status"], &run["signal"]), (&json!("stopped"), &json!(9)));
    assert_eq!(place.until_all_agree(), "stopped");
}

#[test]
fn stop_requested_without_server_is_pending_after_boot() {
    let mut place = Place::serving("stubborn.sh");
    let (_, run_id) = place.start();
    place.until_line("ready");
    place.kill_server();
    place.tell_shim(run_id, &Command::Stop { tag: 1, grace_ms: Some(3_000_000), origin: Origin::Unknown });
    place.until_fact(run_id, "stopping");
    place.start_server();
    let pipeline = until("the stop is known", || Some(place.pipeline()).filter(|pipeline| pipeline["pending"] == "stop"));
    assert_eq!(pipeline["state"], "running");
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    assert_eq!(place.run(run_id)["status"], "stopped");
}

#[test]
fn server_killed_before_paused_is_committed_is_paused_after_boot() {
    let mut place = Place::serving("tree.sh");
    let (_, run_id) = place.start();
    place.until_line("stubborn");
    place.until_tree();
    place.kill_server();
    place.tell_shim(run_id, &Command::Pause { tag: 1, origin: Origin::Unknown });
    let paused = place.until_fact(run_id, "paused");
    assert_eq!(place.stored_state(), "running", "nobody recorded it");
    place.start_server();
    assert_eq!(place.state(), "paused", "known before the first answer");
    assert_eq!(place.pipeline()["paused_at"], paused["at"]);
    assert_eq!(place.event(run_id, "paused")["cause"], "request");
    assert_eq!(place.until_all_agree(), "paused");
}

#[test]
fn server_killed_before_resumed_is_committed_is_running_after_boot() {
    let mut place = Place::serving("sleep.sh");
    let (_, run_id) = place.start();
    place.act("pause").ok();
    place.kill_server();
    place.tell_shim(run_id, &Command::Resume { tag: 1, origin: Origin::Unknown });
    let resumed = place.until_fact(run_id, "resumed");
    assert_eq!(place.stored_state(), "paused", "nobody recorded it");
    place.start_server();
    assert_eq!(place.state(), "running", "known before the first answer");
    assert_eq!(place.pipeline()["resumed_at"], resumed["at"]);
    assert!(!place.runtime().join("PAUSE").exists());
    assert_eq!(place.until_all_agree(), "running");
}

#[test]
fn external_signals_without_server_are_recorded_after_boot() {
    let mut place = Place::serving("sleep.sh");
    let (pid, run_id) = place.start();
    place.kill_server();
    signal(pid, "STOP");
    place.until_fact(run_id, "paused");
    signal(pid, "CONT");
    place.until_fact(run_id, "resumed");
    signal(pid, "STOP");
    until_true("paused twice", || place.facts(run_id, "paused").len() == 2);
    place.start_server();
    assert_eq!(place.until_all_agree(), "paused");
    let causes: Vec<Value> = place.events(run_id).into_iter().skip(2).map(|event| event["cause"].clone()).collect();
    assert_eq!(causes, ["outside", "outside", "outside"]);
}

/// How often the server is ended around an action.
const ROUNDS: u32 = 20;

/// Ends the server at a moment that differs in each round: from before the request is read to after its response. Most rounds
/// kill the server, some send it SIGTERM.
fn end_server_at_some_moment(place: &mut Place, round: u32, mut asked: TcpStream) {
    if round + 2 < ROUNDS {
        // Does not wait for anything; it chooses the moment.
        thread::sleep(Duration::from_micros(700) * round);
    } else {
        asked.read_exact(&mut [0; 12]).expect("an answer");
    }
    if round % 4 == 3 {
        assert_eq!(place.stop_server(), 0);
    } else {
        place.kill_server();
    }
}

#[test]
fn kill_around_a_start_leaves_at_most_one_run() {
    let mut place = Place::serving("tree.sh");
    let mut begun = 0;
    for round in 0..ROUNDS {
        let asked = place.shoot("/api/pipeline/start", "{}");
        end_server_at_some_moment(&mut place, round, asked);
        place.start_server();
        if place.until_all_agree() == "running" {
            begun += 1;
            assert_eq!(place.act("start").status, 409, "there is one already");
            place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
            assert_eq!(place.until_all_agree(), "stopped");
        } else {
            let status = place.pipeline()["status"].clone();
            assert!(["idle", "failed", "stopped"].iter().any(|&known| status == known), "{status}");
        }
        assert!(place.processes().is_empty());
        if let Some(run_id) = place.pipeline()["run_id"].as_i64() {
            let run = place.run(run_id);
            assert!(run["status"] == "stopped" || run["error"].is_string(), "it ended, or it says why it never began: {run}");
        }
    }
    assert!(begun > 0, "at least the last one was answered before the kill");
}

#[test]
fn kill_around_pause_or_resume_keeps_state_consistent() {
    let mut place = Place::serving("tree.sh");
    let (pid, _) = place.start();
    place.until_line("stubborn");
    place.until_tree();
    let mut states = Vec::new();
    for round in 0..ROUNDS {
        let action = if place.state() == "paused" { "resume" } else { "pause" };
        let asked = place.shoot(&format!("/api/pipeline/{action}"), "{}");
        end_server_at_some_moment(&mut place, round, asked);
        place.start_server();
        let state = place.until_all_agree();
        assert_ne!(state, "stopped");
        assert_eq!(place.pipeline()["pid"], pid);
        states.push(state);
    }
    assert!(states.contains(&"paused".to_owned()), "those that were answered were done: {states:?}");
    assert_eq!(place.pipeline()["run_id"], 1);
}

#[test]
fn kill_around_a_stop_ends_run_as_stopped() {
    let mut place = Place::serving("tree.sh");
    for round in 0..ROUNDS {
        let (pid, run_id) = place.start();
        let asked = place.shoot("/api/pipeline/stop", r#"{"grace_s": 0.01}"#);
        end_server_at_some_moment(&mut place, round, asked);
        place.start_server();
        if place.until_all_agree() == "running" {
            // The stop never arrived, or arrives just now.
            let answer = place.post("/api/pipeline/stop", json!({"grace_s": 0}));
            assert!(matches!(answer.status, 200 | 409), "{}", answer.body);
            place.until_state("stopped");
        }
        assert_eq!(place.until_all_agree(), "stopped");
        assert!(!is_alive(pid));
        assert_eq!(place.run(run_id)["status"], "stopped", "{}", place.run(run_id));
    }
}

#[test]
fn kill_during_boot_changes_nothing() {
    let mut place = Place::serving("sleep.sh");
    let (pid, run_id) = place.start();
    place.act("pause").ok();
    let before = (what_stays(&place.pipeline()), place.events(run_id));
    place.kill_server();
    for round in 0..ROUNDS {
        let spawned = place.command().arg("serve").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut server = spawned.expect("spawns");
        thread::sleep(Duration::from_micros(700) * round);
        server.kill().expect("ours");
        server.wait().expect("ours");
        assert_eq!(letter(pid), Some('T'));
    }
    place.start_server();
    assert_eq!((what_stays(&place.pipeline()), place.events(run_id)), before);
    assert_eq!(place.until_all_agree(), "paused");
}

#[test]
fn adopted_run_keeps_its_own_grace() {
    let mut place = Place::serving("stubborn.sh");
    let (_, run_id) = place.start_with(json!({"grace_s": 0.2}));
    place.until_line("ready");
    place.kill_server();
    place.set_env("AUTOAPPDEV_GRACE_S", "3000");
    place.start_server();
    place.act("stop").ok();
    assert_eq!(place.event(run_id, "stopping")["grace_ms"], 200);
}

#[test]
fn client_of_killed_server_gets_no_response() {
    let mut place = Place::serving("stubborn.sh");
    let (_, run_id) = place.start();
    let mut unanswered = place.shoot("/api/pipeline/stop", r#"{"grace_s": 3000}"#);
    place.until_fact(run_id, "stopping");
    place.kill_server();
    let mut said = String::new();
    let _reset = unanswered.read_to_string(&mut said);
    assert_eq!(said, "", "what was not done is not answered");
}
