//! The life of a run, on the whole binary: how it begins, how it ends, and which of several actions takes effect. Real scripts
//! and real signals, checked against the kernel.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Place, describe, is_alive, letter, not_run, signal, until, until_true};
use autoappdev::process::children_of;
use serde_json::{Value, json};

/// A script that reports a TERM and does not exit.
const UNMOVED: &str = "#!/bin/bash\ntrap 'echo asked' TERM\necho ready\nwhile :; do sleep 0.02; done\n";

/// A script that reports a TERM and exits with its own code.
const POLITE: &str = "#!/bin/bash\ntrap 'echo asked; exit 4' TERM\necho ready\nwhile :; do sleep 0.02; done\n";

fn stop_within(place: &Place, grace_s: f64) -> crate::support::Answer {
    place.post("/api/pipeline/stop", json!({"grace_s": grace_s}))
}

#[test]
fn all_sources_agree_on_start_pause_resume_and_stop() {
    let place = Place::serving("tree.sh");
    assert_eq!(place.pipeline()["status"], "idle");
    let (pid, run_id) = place.start();
    place.until_line("ready");
    place.until_line("stubborn");
    place.until_tree();
    assert_eq!(place.pipeline()["state"], "running");
    assert_eq!(place.pipeline()["pid"], pid);
    assert_eq!(place.stored_state(), "running");

    let before = place.processes();
    place.act("pause").ok();
    assert_eq!((place.state().as_str(), place.stored_state().as_str()), ("paused", "paused"));
    for pid in &before {
        assert!(matches!(letter(*pid), Some('T' | 'Z') | None), "{}", describe(*pid));
    }
    assert!(place.pause_file().exists());

    place.act("resume").ok();
    assert_eq!(place.state(), "running");
    assert!(!place.pause_file().exists());
    assert!(before.iter().all(|pid| letter(*pid) != Some('T')));

    stop_within(&place, 0.3).ok();
    assert_eq!((place.state().as_str(), place.stored_state().as_str()), ("stopped", "stopped"));
    place.assert_nothing_left(run_id);
    assert!(!is_alive(pid));
    assert_eq!(place.run(run_id)["status"], "stopped");
}

#[test]
fn exit_code_decides_completed_or_failed() {
    let place = Place::serving("exit.sh");
    for (code, status) in [(0, "completed"), (3, "failed"), (255, "failed")] {
        let (pid, run_id) = place.start_with(json!({"args": [code.to_string()]}));
        let run = place.until_ended(run_id);
        assert_eq!((&run["status"], &run["exit_code"], &run["signal"]), (&json!(status), &json!(code), &Value::Null));
        assert_eq!(run["pid"], pid, "the history keeps it");
        let pipeline = place.pipeline();
        assert_eq!(
            (&pipeline["state"], &pipeline["pid"], &pipeline["run_id"]),
            (&json!("stopped"), &Value::Null, &json!(run_id))
        );
        assert_eq!((&pipeline["status"], &pipeline["exit_code"]), (&json!(status), &json!(code)));
        assert_eq!(place.history(run_id), ["starting request -", "spawned request running", "exited exit stopped", "usage - -"]);
        place.assert_nothing_left(run_id);
    }
}

#[test]
fn leader_killed_from_outside_is_failed_by_signal() {
    let place = Place::serving("sleep.sh");
    // The last one ends a process as its own fault does, and the kernel does not report the sender of either.
    for (name, number, cause) in [("KILL", 9, "outside"), ("TERM", 15, "outside"), ("SEGV", 11, "exit")] {
        let (pid, run_id) = place.start();
        place.until_line("ready");
        signal(pid, name);
        let run = place.until_ended(run_id);
        assert_eq!((&run["status"], &run["exit_code"], &run["signal"]), (&json!("failed"), &Value::Null, &json!(number)));
        assert_eq!(place.history(run_id)[2], format!("exited {cause} stopped"));
        place.assert_nothing_left(run_id);
    }
}

#[test]
fn leader_killed_while_paused_ends_the_run_and_its_tree() {
    let place = Place::serving("tree.sh");
    let (pid, run_id) = place.start();
    place.until_tree();
    place.act("pause").ok();
    signal(pid, "KILL");
    let run = place.until_ended(run_id);
    assert_eq!((&run["status"], &run["signal"]), (&json!("failed"), &json!(9)));
    assert_eq!(place.state(), "stopped");
    place.assert_nothing_left(run_id);
}

#[test]
fn script_that_ignores_term_is_killed_after_grace() {
    let place = Place::serving("unmoved.sh");
    place.script("unmoved.sh", UNMOVED);
    let (_, run_id) = place.start();
    place.until_line("ready");
    let grace = Duration::from_millis(700);
    let asked_at = Instant::now();
    stop_within(&place, grace.as_secs_f64()).ok();
    assert!(asked_at.elapsed() >= grace, "it had its grace");
    assert_eq!(place.state(), "stopped");
    place.assert_nothing_left(run_id);
    let run = place.until_ended(run_id);
    assert_eq!((&run["status"], &run["exit_code"], &run["signal"]), (&json!("stopped"), &Value::Null, &json!(9)));
    assert_eq!(place.history(run_id)[2..4], ["stopping - -", "exited request stopped"]);
}

#[test]
fn script_that_ends_on_term_is_stopped_with_any_exit_code() {
    let place = Place::serving("polite.sh");
    place.script("polite.sh", POLITE);
    let (_, run_id) = place.start_with(json!({"grace_s": 600}));
    place.until_line("ready");
    place.act("stop").ok();
    place.assert_nothing_left(run_id);
    assert_eq!(place.said(run_id, "stdout"), ["ready", "asked"]);
    let run = place.until_ended(run_id);
    assert_eq!((&run["status"], &run["exit_code"], &run["signal"]), (&json!("stopped"), &json!(4), &Value::Null));
}

#[test]
fn stop_without_grace_uses_grace_of_start() {
    let place = Place::serving("unmoved.sh");
    place.script("unmoved.sh", UNMOVED);
    let (_, run_id) = place.start_with(json!({"grace_s": 0.25}));
    place.until_line("ready");
    place.act("stop").ok();
    let run = place.until_ended(run_id);
    let events = run["events"].as_array().expect("a list");
    let detail = "stopped by a client at 127.0.0.1; grace 250 ms";
    assert_eq!((&events[2]["grace_ms"], &events[2]["detail"]), (&json!(250), &json!(detail)));
    assert_eq!((&run["signal"], &events[3]["signal"], &events[3]["signal_name"]), (&json!(9), &json!(9), &json!("SIGKILL")));
}

#[test]
fn stop_with_zero_grace_kills_without_term() {
    let place = Place::serving("polite.sh");
    place.script("polite.sh", POLITE);
    for pause_first in [false, true] {
        let (_, run_id) = place.start();
        until_true("it is ready", || place.said(run_id, "stdout") == ["ready"]);
        if pause_first {
            place.act("pause").ok();
        }
        stop_within(&place, 0.0).ok();
        place.assert_nothing_left(run_id);
        assert_eq!(place.said(run_id, "stdout"), ["ready"]);
        let run = place.until_ended(run_id);
        assert_eq!((&run["status"], &run["signal"]), (&json!("stopped"), &json!(9)));
        assert!(!place.history(run_id).contains(&"stopping - -".to_owned()));
    }
}

#[test]
fn second_stop_restarts_the_grace() {
    let place = Place::serving("unmoved.sh");
    place.script("unmoved.sh", UNMOVED);
    let (pid, run_id) = place.start();
    place.until_line("ready");
    thread::scope(|scope| {
        let first = scope.spawn(|| stop_within(&place, 600.0));
        until_true("the stop is under way", || place.pipeline()["pending"] == "stop");
        assert_eq!(place.pipeline()["allowed"], json!(["stop"]));
        // With a grace that is long enough for any machine.
        place.until_line("asked");
        let before = place.pipeline()["kill_at"].clone();
        let longer = scope.spawn(|| stop_within(&place, 1200.0));
        until_true("the longer one counts", || place.pipeline()["kill_at"].as_str() > before.as_str());
        until_true("it is on record", || place.facts(run_id, "stopping").len() == 2);
        assert_eq!(place.act("pause").status, 409);
        assert_eq!(place.act("start").status, 409);
        assert!(is_alive(pid));
        stop_within(&place, 0.1).ok();
        first.join().expect("no panic").ok();
        longer.join().expect("no panic").ok();
    });
    let graces: Vec<_> = place.facts(run_id, "stopping").iter().map(|fact| fact["grace_ms"].clone()).collect();
    assert_eq!(graces, [600_000, 1_200_000, 100]);
    place.assert_nothing_left(run_id);
    assert_eq!(place.said(run_id, "stdout"), ["ready", "asked"], "only the first asks");
    assert_eq!(place.until_ended(run_id)["status"], "stopped");
}

#[test]
fn stop_resumes_paused_run_to_deliver_term() {
    let place = Place::serving("polite.sh");
    place.script("polite.sh", POLITE);
    let (_, run_id) = place.start();
    place.until_line("ready");
    place.act("pause").ok();
    place.assert_all_stopped();
    stop_within(&place, 600.0).ok();
    place.assert_nothing_left(run_id);
    assert_eq!(place.said(run_id, "stdout"), ["ready", "asked"]);
    let run = place.until_ended(run_id);
    assert_eq!((&run["status"], &run["exit_code"]), (&json!("stopped"), &json!(4)));
    assert!(place.pipeline()["paused_at"].is_string(), "the pause stays in the record");
}

#[test]
fn stop_overrides_pending_pause() {
    let place = Place::serving("hang.sh");
    place.actor();
    place.script("hang.sh", "#!/bin/bash\nexec ./actor vfork-hang\n");
    let (_, run_id) = place.start();
    place.until_line("ready");
    thread::scope(|scope| {
        // The parent cannot be stopped before the vforked child has executed a program, which it never does.
        let pause = scope.spawn(|| place.act("pause"));
        until_true("the pause is under way", || place.pipeline()["pending"] == "pause");
        assert_eq!(place.act("pause").status, 409);
        assert_eq!(place.act("resume").status, 409);
        stop_within(&place, 0.0).ok();
        let pause = pause.join().expect("no panic");
        assert_eq!((pause.status, pause.error()), (409, "invalid_transition"), "{}", pause.body);
    });
    place.assert_nothing_left(run_id);
    let run = place.until_ended(run_id);
    assert_eq!((&run["status"], &run["signal"]), (&json!("stopped"), &json!(9)));
    assert!(!place.history(run_id).iter().any(|event| event.starts_with("paused")));
}

#[test]
fn impossible_pause_times_out_and_is_undone() {
    let place = Place::serving("hang.sh");
    place.actor();
    place.script("hang.sh", "#!/bin/bash\nsleep 600 &\n./actor vfork-hang\n");
    let (_, run_id) = place.start();
    place.until_line("ready");
    let pause = place.act("pause");
    assert_eq!((pause.status, pause.error()), (503, "pause_timeout"), "{}", pause.body);
    let pipeline = place.pipeline();
    assert_eq!((&pipeline["state"], &pipeline["pending"]), (&json!("running"), &Value::Null));
    assert!(!place.pause_file().exists());
    until_true("all of it goes on", || place.processes().iter().all(|pid| letter(*pid) != Some('T')));

    fs::write(place.root().join("go"), "").expect("writes");
    place.until_line("released");
    place.act("pause").ok();
    assert_eq!(place.assert_all_stopped().len(), 3);
    stop_within(&place, 0.0).ok();
    place.assert_nothing_left(run_id);
}

#[test]
fn script_refused_by_exec_is_a_failed_run() {
    let place = Place::new();
    let mut place = place;
    place.start_server();
    place.script("no-first-line.sh", "echo this must not run\n");
    place.script("empty.sh", "");
    // The header of a program for an architecture that does not exist.
    let mut foreign = vec![0; 4096];
    foreign[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xfe\xca");
    let path = place.root().join("foreign");
    fs::write(&path, foreign).expect("writes");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");

    for (n, script) in (1_i64..).zip(["no-first-line.sh", "empty.sh", "foreign"]) {
        let answer = place.post("/api/pipeline/start", json!({"script": script}));
        assert_eq!((answer.status, answer.error()), (422, "spawn_failed"), "{script}: {}", answer.body);
        assert_eq!(answer.body["run_id"], n);
        let run = place.run(n);
        assert_eq!((&run["status"], &run["pid"], &run["started_at"]), (&json!("failed"), &Value::Null, &Value::Null));
        assert!(run["stopped_at"].is_string());
        assert!(run["error"].as_str().is_some_and(|error| error.contains(script)), "{run}");
        assert_eq!(place.history(n), ["starting request -", "spawn_failed request stopped"]);
        let pipeline = place.pipeline();
        assert_eq!(
            (&pipeline["state"], &pipeline["status"], &pipeline["pid"]),
            (&json!("stopped"), &json!("failed"), &Value::Null)
        );
        assert_eq!(pipeline["allowed"], json!(["start"]));
        place.assert_nothing_left(n);
    }
    assert!(place.lines().is_empty(), "nothing ran");

    let (_, run_id) = place.start_with(json!({"script": "exit.sh"}));
    assert_eq!(place.until_ended(run_id)["status"], "completed");
}

#[test]
fn script_without_execute_bit_is_run_by_bash() {
    let place = Place::serving("plain");
    fs::write(place.root().join("plain"), "[[ -n $BASH_VERSION ]] && echo \"bash ran ${0##*/} $1\"\nexit 6\n").expect("writes");
    let (_, run_id) = place.start_with(json!({"args": ["it"]}));
    assert_eq!(place.until_ended(run_id)["exit_code"], 6);
    assert_eq!(place.said(run_id, "stdout"), ["bash ran plain it"]);
}

#[test]
fn start_of_script_that_ends_at_once_succeeds() {
    let place = Place::serving("gone.sh");
    place.script("gone.sh", "#!/bin/sh\n");
    for n in 1..=20 {
        let answer = until("the one before has ended", || Some(place.act("start")).filter(|answer| answer.status != 409)).ok();
        assert!(answer["pid"].as_u64().is_some_and(|pid| pid > 0), "{answer}");
        assert_eq!(answer["run_id"], n);
    }
    let run = place.until_ended(20);
    assert_eq!((&run["status"], &run["exit_code"]), (&json!("completed"), &json!(0)));
    place.assert_nothing_left(20);
}

/// Returns a number from `/proc/<pid>/status`, in KiB.
fn status_kb(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it is alive");
    let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Without optimisation the program is six times as large, and its parts are further apart.
#[test]
fn shim_releases_startup_memory() {
    let place = Place::serving("sleep.sh");
    let (_, run_id) = place.start();
    let (shim, server) = (place.shim_pid(run_id), place.server_pid());
    let (is_debug, [shim_part, server_part]) = if cfg!(debug_assertions) { (true, [9, 5]) } else { (false, [4, 1]) };
    // Both run the same file. Before the release, the shim has two thirds as much of it in memory as the server.
    until_true("the shim is light", || status_kb(shim, "RssFile:") * shim_part < status_kb(server, "RssFile:") * server_part);
    assert!(is_debug || status_kb(shim, "VmHWM:") <= 4096, "as released it never had more than 4 MB");
}

/// Returns a command, to be completed with `serve`, that runs it as process 1 of a PID namespace or below `init`. Returns `None`
/// if this user cannot create one.
pub(super) fn in_namespace(place: &Place, init: Option<&Path>) -> Option<Command> {
    let words = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    if !Command::new("unshare").args(words).arg("true").status().is_ok_and(|status| status.success()) {
        not_run("no PID namespace can be made here; it takes root and unshare(1)", "AUTOAPPDEV_REQUIRE_PIDNS");
        return None;
    }
    let mut command = heeding(place, &["unshare"]);
    command.args(words).args(init).arg(env!("CARGO_BIN_EXE_autoappdev"));
    Some(command)
}

/// Returns a command with the default action for each signal that ends a server in an orderly way. A test run in the background
/// of a script inherits ignored SIGINT and SIGQUIT.
fn heeding(place: &Place, words: &[&str]) -> Command {
    let mut command = place.command_of(Path::new("env"));
    command.arg("--default-signal=HUP,INT,QUIT,TERM").args(words);
    command
}

/// Returns the only child of `unshare`.
fn process_one(place: &Place) -> u32 {
    children_of(place.server_pid()).expect("it is alive").pop().expect("a child")
}

fn assert_stopped_by_shutdown(place: &mut Place, said: &str, why: &str, grace_ms: u32) {
    assert!(said.starts_with("pipeline run 1 was stopped, because") && said.contains(why), "{said}");
    let left: Vec<String> = place.processes().into_iter().map(describe).collect();
    assert!(left.is_empty(), "{left:#?}");
    assert!(!place.runtime().join("server.json").exists());
    place.start_server();
    let run = place.run(1);
    assert_eq!((&run["status"], &run["exit_code"]), (&json!("stopped"), &json!(4)), "{run}");
    assert!(place.lines().contains(&"asked".to_owned()));
    assert_eq!(run["stopped_by"], json!({"by": "shutdown"}));
    let stopping = place.event(1, "stopping");
    let detail = format!("stopped because the server was shut down; grace {grace_ms} ms");
    assert_eq!((&stopping["origin"], &stopping["detail"]), (&run["stopped_by"], &json!(detail)));
    place.kill_server();
}

#[test]
fn server_as_process_one_stops_the_run_before_it_ends() {
    for name in ["TERM", "INT", "QUIT", "HUP"] {
        let mut place = Place::new();
        place.script("polite.sh", POLITE);
        let Some(command) = in_namespace(&place, None) else { return };
        place.start_server_with(command);
        place.start_with(json!({"script": "polite.sh"}));
        place.until_line("ready");
        signal(process_one(&place), name);
        let (code, said) = place.until_server_ended();
        assert_eq!(code, 0, "{name}");
        // The run's own grace is longer than a container engine waits.
        assert_stopped_by_shutdown(&mut place, &said, "the end of process 1 kills every process", 8_000);
    }
}

#[test]
fn server_as_process_one_reaps_orphans_of_others() {
    let mut place = Place::new();
    let Some(command) = in_namespace(&place, None) else { return };
    place.start_server_with(command);
    let init = process_one(&place);
    let mut enter = Command::new("nsenter");
    enter.args(["--target", &init.to_string(), "--pid", "--mount", "sh", "-c", "sleep 607 >/dev/null 2>&1 & exit 0"]);
    assert!(enter.status().expect("beside unshare").success());
    let orphan = until("the orphan is the server's", || {
        let children = children_of(init).expect("it is alive");
        children
            .into_iter()
            .find(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.starts_with(b"sleep\x00607")))
    });
    signal(orphan, "KILL");
    until_true("it is reaped", || letter(orphan).is_none());
    // The children of the server itself are reaped too, without harm.
    for _ in 0..2 {
        let (_, run_id) = place.start_with(json!({"script": "exit.sh", "args": ["5"]}));
        assert_eq!(place.until_ended(run_id)["exit_code"], 5);
        until_true("no zombie is left", || children_of(init).expect("it is alive").is_empty());
    }
    signal(init, "TERM");
    assert_eq!(place.until_server_ended(), (0, "autoappdev has stopped; no pipeline was running\n".to_owned()));
}

#[test]
fn server_below_a_small_init_stops_the_run_before_it_ends() {
    let mut place = Place::new();
    place.script("polite.sh", POLITE);
    let init = place.script("tini", "#!/bin/bash\ntrap 'kill -TERM $child' TERM\n\"$@\" &\nchild=$!\nwait $child\nwait $child\n");
    let Some(command) = in_namespace(&place, Some(&init)) else { return };
    place.start_server_with(command);
    place.start_with(json!({"script": "polite.sh"}));
    place.until_line("ready");
    signal(process_one(&place), "TERM");
    let (code, said) = place.until_server_ended();
    assert_eq!(code, 0);
    assert_stopped_by_shutdown(&mut place, &said, "process 1 ends with this server", 8_000);
}

#[test]
fn on_term_setting_decides_whether_the_run_is_stopped() {
    let mut place = Place::new();
    place.script("polite.sh", POLITE);
    place.set_env("AUTOAPPDEV_GRACE_S", "3000");
    place.set_env("AUTOAPPDEV_ON_TERM", "leave");
    place.start_server();
    place.start_with(json!({"script": "polite.sh"}));
    place.until_line("ready");
    let (code, said) = place.stop_server_and_listen();
    assert!(code == 0 && said.starts_with("pipeline run 1 keeps running"), "{said}");
    place.set_env("AUTOAPPDEV_ON_TERM", "stop");
    place.start_server();
    // A paused run is continued for the stop.
    place.act("pause").ok();
    let (code, said) = place.stop_server_and_listen();
    assert_eq!(code, 0);
    assert_stopped_by_shutdown(&mut place, &said, "AUTOAPPDEV_ON_TERM is stop", 3_000_000);
}

#[test]
fn second_signal_during_the_final_stop_kills_the_run() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_ON_TERM", "stop");
    place.start_server();
    let (pid, run_id) = place.start_with(json!({"script": "stubborn.sh", "grace_s": 3000}));
    place.until_line("ready");
    signal(place.server_pid(), "INT");
    until_true("the stop is under way, and is served", || place.pipeline()["pending"] == "stop");
    assert!(is_alive(pid));
    signal(place.server_pid(), "INT");
    let (code, said) = place.until_server_ended();
    assert!(code == 0 && said.starts_with("pipeline run 1 was stopped"), "{said}");
    assert!(!is_alive(pid));
    place.start_server();
    assert_eq!(place.run(run_id)["status"], "stopped");
}

#[test]
fn sighup_ends_the_server_unless_ignored() {
    let mut place = Place::serving("sleep.sh");
    place.kill_server();
    let server = [env!("CARGO_BIN_EXE_autoappdev")];
    place.start_server_with(heeding(&place, &server));
    let (pid, run_id) = place.start();
    for name in ["HUP", "QUIT"] {
        signal(place.server_pid(), name);
        let (code, said) = place.until_server_ended();
        assert_eq!(
            (code, said),
            (
                0,
                format!(
                    "pipeline run {run_id} keeps running; `autoappdev serve` takes it over \
            again\n"
                )
            ),
            "{name}"
        );
        assert!(is_alive(pid) && !place.runtime().join("server.json").exists(), "{name}");
        place.start_server_with(heeding(&place, &server));
    }
    place.kill_server();
    let mut ignoring = place.command_of(Path::new("sh"));
    ignoring.args(["-c", "trap '' HUP QUIT; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_autoappdev")]);
    place.start_server_with(ignoring);
    for name in ["HUP", "QUIT"] {
        signal(place.server_pid(), name);
    }
    // If the run had ended, it would have happened by now.
    assert_eq!(place.until_all_agree(), "running");
    let (code, said) = place.stop_server_and_listen();
    assert!(code == 0 && said.starts_with("pipeline run 1 keeps running"), "{said}");
}
