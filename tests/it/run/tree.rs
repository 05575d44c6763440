//! The whole process tree, whatever its shape and however it changes: all of it is paused, all of it is resumed, and nothing of
//! it is left.

use std::fs;

use crate::support::{Place, can_make_cgroups, is_alive, is_stopped, letter, letters, members, until, until_true};
use serde_json::{Value, json};

/// The number of lasting processes of `tree.sh`. The `sleep` of the one that ignores TERM comes and goes.
const TREE: usize = 8;

/// Performs an action, and checks the resulting state.
fn done(place: &Place, action: &str, state: &str) {
    assert_eq!(place.act(action).ok()["state"], state);
}

fn stop_at_once(place: &Place) {
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
}

/// Creates a place with the C program, and a script that executes it.
fn acting(mode: &str, containment: &str) -> Place {
    let place = Place::serving_with("act.sh", containment);
    place.actor();
    place.script("act.sh", &format!("#!/bin/bash\nexec ./actor {mode}\n"));
    place
}

/// Starts the run, waits for `ready`, and pauses and resumes it `rounds` times. Checks each time that everything is stopped.
/// Returns the leader and the run.
fn pause_and_resume(place: &Place, rounds: usize, at_least: usize) -> (u32, i64) {
    let (pid, run_id) = place.start();
    place.until_line("ready");
    if at_least == TREE {
        place.until_tree();
    }
    until_true("the tree is there", || place.processes().len() >= at_least);
    for _ in 0..rounds {
        done(place, "pause", "paused");
        let stopped = place.assert_all_stopped();
        assert!(stopped.len() >= at_least, "{stopped:?}");
        done(place, "resume", "running");
        assert_ne!(letter(pid), Some('T'));
    }
    (pid, run_id)
}

fn pause_stops_every_generation_and_session(containment: &str) {
    let place = Place::serving_with("tree.sh", containment);
    let (_, run_id) = pause_and_resume(&place, 20, TREE);
    place.act("pause").ok();
    let stopped = place.assert_all_stopped();
    place.act("resume").ok();
    assert!(stopped.iter().all(|pid| letter(*pid) != Some('T')), "all of it goes on");
    stop_at_once(&place);
    assert!(!stopped.iter().any(|pid| is_alive(*pid)));
    place.assert_nothing_left(run_id);
}

fn pause_holds_during_fork_storm(containment: &str) {
    let place = acting("fork-storm 4", containment);
    let (_, run_id) = pause_and_resume(&place, 30, 5);
    stop_at_once(&place);
    place.assert_nothing_left(run_id);
}

fn pause_holds_during_vfork_storm(containment: &str) {
    let place = acting("vfork-storm 4", containment);
    let (_, run_id) = pause_and_resume(&place, 30, 5);
    stop_at_once(&place);
    place.assert_nothing_left(run_id);
}

fn pause_holds_while_shells_fork(containment: &str) {
    let place = Place::serving_with("shells.sh", containment);
    place.script(
        "shells.sh",
        "#!/bin/sh\nwork() { while :; do /bin/true; (: ) & wait; echo x | cat >/dev/null; done; }\n\
         work & work & work & work &\necho ready\nwait\n",
    );
    let (_, run_id) = pause_and_resume(&place, 30, 5);
    stop_at_once(&place);
    place.assert_nothing_left(run_id);
}

fn pause_stops_process_that_keeps_forking_and_exiting(containment: &str) {
    let place = Place::serving_with("flee.sh", containment);
    place.actor();
    place.script("flee.sh", "#!/bin/bash\n./actor hop &\nexec sleep 600\n");
    let (pid, run_id) = place.start();
    place.until_line("ready");
    for _ in 0..30 {
        place.act("pause").ok();
        // Between its fork and its exit the process is stopped twice. A process that escaped can be missed by one scan, but not
        // by many.
        for _ in 0..5 {
            let stopped = place.assert_all_stopped();
            assert!(stopped.contains(&pid) && stopped.len() >= 2, "the leader and the one that flees: {stopped:?}");
        }
        place.act("resume").ok();
    }
    stop_at_once(&place);
    place.assert_nothing_left(run_id);
}

fn process_that_keeps_forking_and_exiting_does_not_outlive_the_leader(containment: &str) {
    let place = Place::serving_with("flee.sh", containment);
    place.actor();
    place.script("flee.sh", "#!/bin/bash\n./actor hop &\n[ \"$1\" = stay ] && exec sleep 600\nexit 0\n");
    for _ in 0..3 {
        let (_, run_id) = place.start();
        assert_eq!(place.until_ended(run_id)["status"], "completed");
        place.assert_nothing_left(run_id);
    }
    for _ in 0..5 {
        let (_, run_id) = place.start_with(json!({"args": ["stay"]}));
        until_true("it flees", || place.said(run_id, "stdout") == ["ready"]);
        stop_at_once(&place);
        assert_eq!(place.run(run_id)["status"], "stopped");
        place.assert_nothing_left(run_id);
    }
}

fn stop_ends_fork_bomb(containment: &str) {
    let place = acting("bomb 8", containment);
    for _ in 0..3 {
        let (_, run_id) = place.start();
        until_true("it begins to grow", || place.said(run_id, "stdout").iter().any(|line| line == "ready"));
        stop_at_once(&place);
        place.assert_nothing_left(run_id);
    }
}

fn stop_with_grace_ends_fork_storm(containment: &str) {
    let place = acting("fork-storm 4", containment);
    let (_, run_id) = place.start();
    place.until_line("ready");
    place.post("/api/pipeline/stop", json!({"grace_s": 2})).ok();
    place.assert_nothing_left(run_id);
    assert_eq!(place.until_ended(run_id)["status"], "stopped");
}

fn leader_exit_leaves_no_process(containment: &str) {
    let place = Place::serving_with("leave.sh", containment);
    place.script(
        "leave.sh",
        "#!/bin/bash\n\
         sleep 601 &\n\
         sleep 602 >/dev/null 2>&1 &\n\
         setsid sleep 603 &\n\
         (setsid bash -c 'sleep 604 & exec sleep 605' >/dev/null 2>&1 &)\n\
         (setsid bash -c 'trap \"\" TERM HUP; while :; do sleep 0.1; done' &)\n\
         echo \"$1\" >go.new && mv go.new go\n\
         while [ ! -e leave ]; do sleep 0.01; done\n\
         exit \"$1\"\n",
    );
    for (code, status) in [(0, "completed"), (3, "failed")] {
        let (_, run_id) = place.start_with(json!({"args": [code.to_string()]}));
        until_true("the whole tree is there", || place.processes().len() >= 7);
        let before = place.processes();
        fs::write(place.root().join("leave"), "").expect("writes");
        place.until_state("stopped");
        assert!(!before.iter().any(|pid| is_alive(*pid)), "stopped means that nothing is left");
        place.assert_nothing_left(run_id);
        let run = place.until_ended(run_id);
        assert_eq!((&run["status"], &run["exit_code"]), (&json!(status), &json!(code)));
        fs::remove_file(place.root().join("leave")).expect("ours");
    }
}

fn stop_leaves_no_process_that_ignores_term(containment: &str) {
    let place = Place::serving_with("tree.sh", containment);
    for paused in [false, true] {
        let (_, run_id) = place.start();
        place.until_tree();
        if paused {
            place.act("pause").ok();
        }
        let before = place.processes();
        place.post("/api/pipeline/stop", json!({"grace_s": 0.2})).ok();
        assert!(!before.iter().any(|pid| is_alive(*pid)));
        place.assert_nothing_left(run_id);
        assert_eq!(place.until_ended(run_id)["status"], "stopped");
    }
}

fn two_thousand_processes_pause_resume_and_stop(containment: &str) {
    let place = acting("crowd 2000", containment);
    let (_, run_id) = pause_and_resume(&place, 3, 2001);
    place.act("stop").ok();
    place.assert_nothing_left(run_id);
    let run = place.until_ended(run_id);
    assert_eq!((&run["status"], &run["signal"]), (&json!("stopped"), &json!(15)));
}

fn stop_ends_fork_storm_during_pending_pause(containment: &str) {
    let place = acting("fork-storm 4", containment);
    for grace in [0.0, 0.2] {
        let (_, run_id) = place.start();
        until_true("it storms", || place.said(run_id, "stdout") == ["ready"]);
        // The stop arrives while the pause is pending, or right after it.
        let pause = place.shoot("/api/pipeline/pause", "{}");
        let stopped = until("the stop is taken", || {
            Some(place.post("/api/pipeline/stop", json!({"grace_s": grace}))).filter(|answer| answer.status == 200)
        });
        assert_eq!(stopped.ok()["state"], "stopped");
        drop(pause);
        place.assert_nothing_left(run_id);
    }
}

fn run_reports_its_containment(containment: &str) {
    let place = Place::serving_with("sleep.sh", containment);
    assert_eq!(place.pipeline()["containment"], Value::Null);
    let expected = if containment == "auto" && can_make_cgroups() { "cgroup" } else { "tree" };
    let (pid, run_id) = place.start();
    assert_eq!((&place.pipeline()["containment"], &place.run(run_id)["containment"]), (&json!(expected), &json!(expected)));
    let group = place.cgroup(run_id).unwrap_or_default();
    assert_eq!(members(&group).contains(&pid), expected == "cgroup", "{}", group.display());
    assert_eq!(group.exists(), expected == "cgroup");
    place.act("stop").ok();
    place.assert_nothing_left(run_id);
    assert_eq!(place.pipeline()["containment"], expected, "as long as it is the latest run");
    // If control groups are not available, the log does not mention them.
    assert!(!place.server_log().contains("cgroup"), "{}", place.server_log());
}

fn pause_stops_all_threads_of_a_process(containment: &str) {
    let place = acting("threads 3", containment);
    let (pid, run_id) = pause_and_resume(&place, 20, 1);
    assert_eq!(letters(pid).len(), 4);
    place.act("pause").ok();
    assert_eq!(letters(pid), ['T'; 4]);
    stop_at_once(&place);
    place.assert_nothing_left(run_id);
}

fn process_with_exited_main_thread_is_alive(containment: &str) {
    let place = acting("mainless", containment);
    let (pid, run_id) = place.start();
    place.until_line("ready");
    until_true("its leading thread has ended", || letter(pid) == Some('Z'));
    for _ in 0..5 {
        place.act("pause").ok();
        assert!(is_stopped(pid), "{:?}", letters(pid));
        assert_eq!(place.state(), "paused");
        place.act("resume").ok();
        assert_eq!(place.state(), "running");
        assert!(!letters(pid).contains(&'T'));
    }
    fs::write(place.root().join("go"), "").expect("writes");
    let run = place.until_ended(run_id);
    assert_eq!((&run["status"], &run["exit_code"], &run["signal"]), (&json!("failed"), &json!(5), &Value::Null));
    assert_eq!(place.said(run_id, "stdout"), ["ready", "worked on"]);
    assert_eq!(place.history(run_id).last().map(String::as_str), Some("usage - -"));
    fs::remove_file(place.root().join("go")).expect("ours");

    let (pid, run_id) = place.start();
    until_true("its leading thread has ended", || letter(pid) == Some('Z'));
    place.post("/api/pipeline/stop", json!({"grace_s": 600})).ok();
    until_true("it is gone", || letters(pid).is_empty());
    assert_eq!(place.until_ended(run_id)["signal"], 15);
}

fn zombie_children_do_not_affect_pause_or_end(containment: &str) {
    let place = Place::serving_with("zombies.sh", containment);
    place.actor();
    place.script("zombies.sh", "#!/bin/bash\nsleep 600 &\n./actor zombies 20 &\nwhile [ ! -e go ]; do sleep 0.01; done\n");
    let (_, run_id) = place.start();
    place.until_line("ready");
    for _ in 0..5 {
        place.act("pause").ok();
        assert_eq!(place.assert_all_stopped().len(), 3 + usize::from(place.processes().len() > 3));
        place.act("resume").ok();
    }
    fs::write(place.root().join("go"), "").expect("writes");
    assert_eq!(place.until_ended(run_id)["status"], "completed");
    place.assert_nothing_left(run_id);
}

/// Opening a serial port is the same case: neither its input nor a hang-up sends a signal.
fn terminal_opened_by_the_leader_sends_no_signals(containment: &str) {
    let place = acting("terminal", containment);
    let (_, run_id) = place.start();
    let run = place.until_ended(run_id);
    assert_eq!((&run["status"], &run["exit_code"], &run["signal"]), (&json!("completed"), &json!(0), &Value::Null));
    assert_eq!(place.said(run_id, "stdout"), ["no signal came"]);
}

/// Runs each test above without control groups, and with them if they are available.
macro_rules! with_and_without_cgroups {
    ($($name:ident),+ $(,)?) => {
        mod auto {
            $(#[test] fn $name() { super::$name("auto"); })+
        }
        mod tree {
            $(#[test] fn $name() { super::$name("tree"); })+
        }
    };
}

with_and_without_cgroups! {
    pause_stops_every_generation_and_session,
    pause_holds_during_fork_storm,
    pause_holds_during_vfork_storm,
    pause_holds_while_shells_fork,
    pause_stops_process_that_keeps_forking_and_exiting,
    process_that_keeps_forking_and_exiting_does_not_outlive_the_leader,
    stop_ends_fork_bomb,
    stop_with_grace_ends_fork_storm,
    leader_exit_leaves_no_process,
    stop_leaves_no_process_that_ignores_term,
    pause_stops_all_threads_of_a_process,
    process_with_exited_main_thread_is_alive,
    zombie_children_do_not_affect_pause_or_end,
    two_thousand_processes_pause_resume_and_stop,
    stop_ends_fork_storm_during_pending_pause,
    run_reports_its_containment,
    terminal_opened_by_the_leader_sends_no_signals,
}
