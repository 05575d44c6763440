//! The shim is killed or stopped. The run is lost or does not respond, nothing of it stays behind, and no second run is started.

use std::fs;
use std::io::Read;

use crate::support::{Place, is_alive, letter, signal, until_true};
use autoappdev::pipeline::Origin;
use autoappdev::run_dir::Command;
use serde_json::{Value, json};

/// Creates a server with a run of a whole tree, with double-forked processes, processes in their own sessions, and one that
/// ignores TERM.
fn with_a_tree() -> (Place, u32, i64) {
    let place = Place::serving("tree.sh");
    let (pid, run_id) = place.start();
    place.until_line("stubborn");
    place.until_tree();
    (place, pid, run_id)
}

/// Checks that the run is lost, that its error says so, that no process of it is left, and that another run can be started.
fn assert_lost(place: &Place, run_id: i64, before: &std::collections::BTreeSet<u32>) {
    let pipeline = place.until_state("stopped");
    assert_eq!((&pipeline["status"], &pipeline["run_id"]), (&json!("lost"), &json!(run_id)));
    let run = place.run(run_id);
    let why = run["error"].as_str().expect("a sentence");
    let sure =
        if run["containment"] == "cgroup" { "none of its processes is alive" } else { "no process that carries its id is alive" };
    assert!(why.contains("shim") && why.contains("killed") && why.contains(sure), "{why}");
    assert_eq!(pipeline["error"], run["error"]);
    assert_eq!((&run["exit_code"], &run["signal"]), (&Value::Null, &Value::Null), "nobody can know");
    let lost = place.event(run_id, "lost");
    assert_eq!((&lost["to_state"], &lost["cause"]), (&json!("stopped"), &json!("recovery")));
    assert_eq!((&lost["at"], &lost["detail"]), (&run["stopped_at"], &run["error"]));
    let alive: Vec<_> = before.iter().filter(|&&pid| is_alive(pid)).collect();
    assert!(alive.is_empty(), "{alive:?} are alive");
    assert!(!place.runtime().join("PAUSE").exists(), "the PAUSE file is gone");
    assert_eq!(place.until_all_agree(), "stopped");
    assert_eq!(place.degraded(), None);

    let (_, next) = place.start_with(json!({"script": "sleep.sh"}));
    assert_eq!(next, run_id + 1);
    assert_eq!(place.until_all_agree(), "running");
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
}

#[test]
fn shim_killed_while_running_loses_the_run() {
    let (place, _, run_id) = with_a_tree();
    let before = place.processes();
    signal(place.shim_pid(run_id), "KILL");
    assert_lost(&place, run_id, &before);
}

/// A killed process first releases its memory and then its files. With a lot of memory that takes a while.
#[test]
fn locks_of_lost_run_are_free_when_its_end_is_reported() {
    for containment in ["auto", "tree"] {
        let place = Place::serving_with("holds.sh", containment);
        place.actor();
        place.script("holds.sh", "#!/bin/bash\nexec 9>held\nflock 9\nexec ./actor keep 400\n");
        let (_, run_id) = place.start();
        place.until_line("ready");
        let held = fs::File::open(place.root().join("held")).expect("it is there");
        assert!(held.try_lock().is_err(), "the run holds it");
        signal(place.shim_pid(run_id), "KILL");
        place.until_state("stopped");
        assert!(held.try_lock().is_ok(), "{containment}: the run is said to have ended, and something of it holds the lock");
    }
}

#[test]
fn shim_kill_with_unremovable_pause_file_loses_the_run_and_degrades_health() {
    let (place, _, run_id) = with_a_tree();
    let before = place.processes();
    place.act("pause").ok();
    fs::remove_file(place.pause_file()).expect("it is there");
    fs::create_dir(place.pause_file()).expect("ours");
    signal(place.shim_pid(run_id), "KILL");
    place.until_state("stopped");
    let why = place.run(run_id)["error"].as_str().expect("a sentence").to_owned();
    assert!(why.contains("alive") && !why.contains("looked for"), "they were looked for: {why}");
    assert!(place.degraded().expect("health says so").contains("the PAUSE file cannot be removed"));
    fs::remove_dir(place.pause_file()).expect("empty");
    until_true("all is well again by itself", || place.degraded().is_none());
    assert_lost(&place, run_id, &before);
}

#[test]
fn server_and_shim_killed_together_loses_the_run() {
    let (mut place, pid, run_id) = with_a_tree();
    let before = place.processes();
    place.kill_server();
    signal(place.shim_pid(run_id), "KILL");
    place.until_no_shim();
    assert!(is_alive(pid), "it goes on without anybody");
    place.start_server();
    assert_eq!(place.state(), "stopped", "known before the first answer");
    assert_lost(&place, run_id, &before);
}

#[test]
fn shim_killed_while_paused_loses_the_run_and_removes_the_pause_file() {
    let (place, _, run_id) = with_a_tree();
    place.act("pause").ok();
    let before = place.processes();
    assert!(place.runtime().join("PAUSE").exists());
    signal(place.shim_pid(run_id), "KILL");
    assert_lost(&place, run_id, &before);
}

#[test]
fn server_and_shim_killed_while_paused_loses_the_run() {
    let (mut place, _, run_id) = with_a_tree();
    place.act("pause").ok();
    let before = place.processes();
    place.kill_server();
    signal(place.shim_pid(run_id), "KILL");
    place.until_no_shim();
    assert!(before.iter().all(|&pid| letter(pid) == Some('T')));
    assert!(place.runtime().join("PAUSE").exists());
    place.start_server();
    assert_lost(&place, run_id, &before);
}

#[test]
fn shim_killed_while_pausing_loses_the_run() {
    let (mut place, pid, run_id) = with_a_tree();
    let before = place.processes();
    place.kill_server();
    // As in the middle of a pause: some processes are stopped, some are not, and no fact was recorded.
    signal(place.shim_pid(run_id), "STOP");
    for &some in before.iter().step_by(2).chain([&pid]) {
        signal(some, "STOP");
    }
    until_true("the leader is stopped", || letter(pid) == Some('T'));
    signal(place.shim_pid(run_id), "KILL");
    place.until_no_shim();
    assert!(place.facts(run_id, "paused").is_empty());
    place.start_server();
    assert_lost(&place, run_id, &before);
}

#[test]
fn shim_killed_during_the_grace_answers_stop_and_loses_the_run() {
    let (place, _, run_id) = with_a_tree();
    let before = place.processes();
    let mut asked = place.shoot("/api/pipeline/stop", r#"{"grace_s": 3000}"#);
    until_true("the stop is recorded", || place.events(run_id).iter().any(|event| event["kind"] == "stopping"));
    signal(place.shim_pid(run_id), "KILL");
    place.until_state("stopped");
    let mut buffer = [0; 12];
    asked.read_exact(&mut buffer).expect("an answer");
    assert_eq!(&buffer, b"HTTP/1.1 200", "who asked for the end gets it");
    assert_lost(&place, run_id, &before);
}

#[test]
fn shim_killed_during_pending_pause_gets_409() {
    let (place, _, run_id) = with_a_tree();
    let before = place.processes();
    // The shim is stopped, so the pause is pending when it is killed.
    signal(place.shim_pid(run_id), "STOP");
    let mut asked = place.shoot("/api/pipeline/pause", "{}");
    until_true("the pause is under way", || place.pipeline()["pending"] == "pause");
    signal(place.shim_pid(run_id), "KILL");
    let mut buffer = [0; 12];
    asked.read_exact(&mut buffer).expect("an answer");
    assert_eq!(&buffer, b"HTTP/1.1 409");
    assert_lost(&place, run_id, &before);
}

#[test]
fn shim_killed_before_exited_was_written_loses_the_run() {
    let (place, pid, run_id) = with_a_tree();
    let before = place.processes();
    signal(place.shim_pid(run_id), "STOP");
    signal(pid, "KILL");
    until_true("the leader has ended, and only the kernel knows how", || letter(pid) == Some('Z'));
    assert_eq!(place.state(), "running");
    signal(place.shim_pid(run_id), "KILL");
    assert_lost(&place, run_id, &before);
}

#[test]
fn shim_stopped_during_action_degrades_health_until_it_continues() {
    let (place, pid, run_id) = with_a_tree();
    assert_eq!(place.degraded(), None);
    let shim = place.shim_pid(run_id);
    signal(shim, "STOP");
    let _answered_later = place.shoot("/api/pipeline/pause", "{}");
    until_true("health says so", || place.degraded().is_some());
    let why = place.degraded().expect("a sentence");
    assert!(why.contains("shim") && why.contains("does not answer"), "{why}");
    assert_eq!(place.get("/api/health").ok()["ok"], true, "the server itself is well");
    let pipeline = place.pipeline();
    assert_eq!((&pipeline["state"], &pipeline["pid"]), (&json!("running"), &json!(pid)), "as it was");
    let refused = place.act("start");
    assert_eq!((refused.status, refused.error()), (409, "invalid_transition"), "{}", refused.body);

    signal(shim, "CONT");
    place.until_state("paused");
    until_true("all is well again", || place.degraded().is_none());
    assert_eq!(place.until_all_agree(), "paused");
    place.act("resume").ok();
    assert_eq!(place.until_all_agree(), "running");
}

#[test]
fn unresponsive_shim_degrades_health_and_prevents_second_run() {
    let (mut place, pid, run_id) = with_a_tree();
    let shim = place.shim_pid(run_id);
    place.kill_server();
    signal(shim, "STOP");
    until_true("the shim is stopped", || letter(shim) == Some('T'));
    place.start_server();
    let pipeline = place.pipeline();
    assert_eq!((&pipeline["state"], &pipeline["pid"]), (&json!("running"), &json!(pid)), "as it is stored");
    until_true("health says so", || place.degraded().is_some_and(|why| why.contains("shim")));
    assert_eq!(place.act("start").status, 409);
    // A second server that takes over from the first finds the same state.
    place.restart_server();
    assert_eq!(place.state(), "running");
    assert_eq!(place.act("start").status, 409);
    until_true("health says so again", || place.degraded().is_some());
    // The leader ends, and no process can report it.
    signal(pid, "KILL");
    until_true("the leader has ended", || letter(pid) == Some('Z'));
    assert_eq!(place.state(), "running");
    assert_eq!(place.shims().len(), 1, "no second run was started");
    assert_eq!(place.get("/api/runs").ok()["runs"].as_array().map(Vec::len), Some(1));

    signal(shim, "CONT");
    place.until_state("stopped");
    until_true("all is well again", || place.degraded().is_none());
    let run = place.run(run_id);
    assert_eq!((&run["status"], &run["signal"]), (&json!("failed"), &json!(9)));
    assert_eq!(place.until_all_agree(), "stopped");
    place.start();
    assert_eq!(place.until_all_agree(), "running");
}

#[test]
fn unreachable_shim_ends_the_run_on_term() {
    let mut place = Place::serving("sleep.sh");
    let (_, run_id) = place.start();
    fs::remove_file(place.run_dir(run_id).join("ctl.sock")).expect("there");
    // As if a second socket could not be created. A lock file that was created anew does not show that the shim is alive either.
    let journal = place.run_dir(run_id).join("journal.jsonl");
    let text = fs::read_to_string(&journal).expect("there");
    fs::write(&journal, text.replacen("\"socket\"", "\"unknwn\"", 1)).expect("writes");
    fs::remove_file(place.run_dir(run_id).join("lock")).expect("there");
    fs::write(place.run_dir(run_id).join("lock"), "").expect("writes");
    place.restart_server();
    let says_how = || place.degraded().is_some_and(|why| why.contains("TERM to the `shim_pid`"));
    until_true("health says what to do", says_how);
    assert_eq!(place.pipeline()["state"], "running");
    signal(place.shim_pid(run_id), "TERM");
    place.until_state("stopped");
    assert_eq!(place.until_all_agree(), "stopped");
    assert_eq!((&place.run(run_id)["status"], place.degraded()), (&json!("stopped"), None));
    place.start();
}

#[test]
fn command_of_dead_server_is_done_when_stopped_shim_continues() {
    let (mut place, _, run_id) = with_a_tree();
    let shim = place.shim_pid(run_id);
    place.kill_server();
    signal(shim, "STOP");
    until_true("the shim is stopped", || letter(shim) == Some('T'));
    place.tell_shim(run_id, &Command::Pause { tag: 1, origin: Origin::Unknown });
    place.start_server();
    assert_eq!(place.state(), "running");
    signal(shim, "CONT");
    place.until_state("paused");
    assert_eq!(place.until_all_agree(), "paused");
}

#[test]
fn shim_killed_after_exited_keeps_the_exit_status() {
    let mut place = Place::serving("until-go.sh");
    let (_, run_id) = place.start();
    place.kill_server();
    fs::write(place.root().join("go"), "").expect("writes");
    let exited = place.until_fact(run_id, "exited");
    place.until_no_shim();
    // As if the shim had been killed between the two facts.
    let path = place.run_dir(run_id).join("journal.jsonl");
    let text = fs::read_to_string(&path).expect("a journal");
    let cut: String = text.lines().filter(|line| !line.contains("\"usage\"")).flat_map(|line| [line, "\n"]).collect();
    assert_ne!(cut, text);
    fs::write(&path, cut).expect("writes");
    place.start_server();
    let run = place.run(run_id);
    assert_eq!((&run["status"], &run["exit_code"], &run["stopped_at"]), (&json!("failed"), &json!(7), &exited["at"]));
    assert_eq!((&run["cpu_user_ms"], &run["max_rss_kb"]), (&Value::Null, &Value::Null), "nobody can know");
}

#[test]
fn idle_stopped_shim_degrades_health() {
    let (place, pid, run_id) = with_a_tree();
    let shim = place.shim_pid(run_id);
    signal(shim, "STOP");
    until_true("health says so", || place.degraded().is_some_and(|why| why.contains("shim")));
    assert_eq!((place.state().as_str(), &place.pipeline()["pid"]), ("running", &json!(pid)));
    signal(shim, "CONT");
    until_true("all is well again", || place.degraded().is_none());
    assert_eq!(place.until_all_agree(), "running");
}

#[test]
fn recycled_pid_in_journal_is_not_mistaken_for_shim() {
    let place = Place::serving("sleep.sh");
    let (_, run_id) = place.start();
    // Another program, and one with the arguments of a shim, each of which waits for its standard input.
    let strangers = [["-", "-"], ["shim", "-"]].map(|arguments| {
        let mut command = std::process::Command::new("cat");
        command.args(arguments).stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
        let stranger = command.spawn().expect("spawns");
        signal(stranger.id(), "STOP");
        until_true("it is stopped", || letter(stranger.id()) == Some('T'));
        stranger
    });
    let journal = place.run_dir(run_id).join("journal.jsonl");
    let with_header = |change: &dyn Fn(&mut Value)| {
        let text = fs::read_to_string(&journal).expect("there");
        let (header, facts) = text.split_once('\n').expect("a header");
        let mut header: Value = serde_json::from_str(header).expect("JSON");
        change(&mut header);
        fs::write(&journal, format!("{header}\n{facts}")).expect("writes");
    };
    for (mut stranger, is_shim) in strangers.into_iter().zip([false, true]) {
        // As if the shim's pid had been reused by another process, which started at another time.
        with_header(&|header| {
            header["shim_pid"] = stranger.id().into();
            header["shim_start_ticks"] = 1.into();
        });
        assert_eq!(place.degraded(), None);
        let ticks = autoappdev::process::read_stat(stranger.id()).expect("it is there").identity.start_ticks;
        with_header(&|header| header["shim_start_ticks"] = ticks.into());
        if is_shim {
            until_true("now it is the shim, and stopped", || place.degraded().is_some_and(|why| why.contains("kill -CONT")));
        } else {
            assert_eq!(place.degraded(), None);
        }
        stranger.kill().expect("ours");
        stranger.wait().expect("ours");
    }
}
