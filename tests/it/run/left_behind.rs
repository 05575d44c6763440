//! Processes that a run leaves behind at its end. Killed ones are named, and the end waits for those that cannot be killed or
//! seen.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use crate::support::{Place, is_alive, not_run, signal, until, until_true};
use rustix::process::getuid;
use serde_json::{Value, json};

/// The user `nobody`.
const NOBODY: u32 = 65534;

fn detail(place: &Place) -> String {
    place.pipeline()["detail"].as_str().unwrap_or_default().to_owned()
}

/// Returns the pid that a script wrote to a file.
fn pid_in(place: &Place, file: &str) -> u32 {
    until("the script tells the pid", || fs::read_to_string(place.root().join(file)).ok()?.strip_suffix('\n')?.parse().ok())
}

/// Checks that the event, the detail and the client commands name the killed process, before and after a restart of the server.
fn assert_names(place: &mut Place, run_id: i64, sentence: &str, pid: u32) {
    for _ in 0..2 {
        let exited = place.event(run_id, "exited");
        assert_eq!(
            (&exited["killed"], &exited["killed_count"]),
            (&json!([{"pid": pid, "name": "sleep"}]), &json!(1)),
            "{exited}"
        );
        assert!(exited["detail"].as_str().is_some_and(|detail| detail.ends_with(sentence)), "{exited}");
        assert_eq!(detail(place), sentence);
        for command in [&["status"][..], &["runs", &run_id.to_string()]] {
            let (code, out, err) = place.client(command);
            assert!(code == 0 && out.contains(sentence), "{command:?}: {out}{err}");
        }
        place.restart_server();
    }
}

#[test]
fn end_names_the_process_that_the_leader_left_behind() {
    for containment in ["auto", "tree"] {
        let mut place = Place::serving_with("leave.sh", containment);
        // The child has the name of the script until it executes its program.
        let until_it_executes = "until [ \"$(</proc/$!/comm)\" = sleep ]; do :; done";
        place.script(
            "leave.sh",
            &format!("#!/bin/bash\nsleep 600 >/dev/null 2>&1 &\necho $! >child\n{until_it_executes}\nexit 3\n"),
        );
        let (_, run_id) = place.start();
        place.until_ended(run_id);
        let pid = pid_in(&place, "child");
        let sentence = format!("1 process was still running when the script ended, and was killed: sleep ({pid})");
        assert_names(&mut place, run_id, &sentence, pid);
        assert_eq!(place.event(run_id, "exited")["detail"], format!("exit code 3; {sentence}"));
    }
}

#[test]
fn stop_names_the_process_that_outlived_the_grace() {
    for containment in ["auto", "tree"] {
        let mut place = Place::serving_with("deaf.sh", containment);
        place.script("deaf.sh", "#!/bin/bash\n(trap '' TERM; exec sleep 600) &\necho $! >child\nwait\n");
        let (_, run_id) = place.start();
        let pid = pid_in(&place, "child");
        until_true("it executes its program", || crate::support::describe(pid).contains("sleep"));
        place.post("/api/pipeline/stop", json!({"grace_s": 0.1})).ok();
        place.until_ended(run_id);
        let sentence = format!("1 process had not ended by itself, and was killed: sleep ({pid})");
        assert_names(&mut place, run_id, &sentence, pid);
    }
}

#[test]
fn end_without_kills_names_no_process() {
    let place = Place::serving("exit.sh");
    place.script("exit.sh", "#!/bin/bash\nsleep 0 &\nwait\n");
    let (_, run_id) = place.start();
    place.until_ended(run_id);
    let exited = place.event(run_id, "exited");
    assert_eq!(
        (&exited["detail"], &exited["killed"], &exited["killed_count"]),
        (&json!("exit code 0"), &Value::Null, &Value::Null)
    );
    assert_eq!(place.pipeline()["detail"], Value::Null);
    assert!(!fs::read_to_string(place.run_dir(run_id).join("journal.jsonl")).expect("a journal").contains("killed"));
}

#[test]
fn list_of_killed_processes_is_limited_and_printable() {
    let place = Place::serving("crowd.sh");
    place.compile("actor");
    fs::rename(place.root().join("actor"), place.root().join("a\u{1b}[2J")).expect("ours");
    place.script("crowd.sh", "#!/bin/bash\n./a*2J crowd 20 >ready &\nwhile [ ! -s ready ]; do sleep 0.01; done\n");
    let (_, run_id) = place.start();
    place.until_ended(run_id);
    let exited = place.event(run_id, "exited");
    let named = exited["killed"].as_array().expect("some were killed");
    assert_eq!((named.len(), &exited["killed_count"]), (10, &json!(21)));
    assert!(named.iter().all(|process| process["name"] == "a\u{fffd}[2J"), "{exited}");
    let told = detail(&place);
    assert!(told.starts_with("21 processes were still running") && told.ends_with(" and 11 more"), "{told}");
}

#[test]
fn recovery_names_processes_left_by_killed_shim() {
    for containment in ["auto", "tree"] {
        let mut place = Place::serving_with("sleep.sh", containment);
        place.script("leave.sh", "#!/bin/bash\nsleep 600 &\necho $! >child\nexec sleep 600\n");
        let (leader, run_id) = place.start_with(json!({"script": "leave.sh"}));
        let child = pid_in(&place, "child");
        until_true("both execute their program", || {
            [leader, child].iter().all(|&pid| crate::support::describe(pid).contains("sleep"))
        });
        place.kill_server();
        signal(place.shim_pid(run_id), "KILL");
        place.until_no_shim();
        place.start_server();
        let error = place.run(run_id)["error"].as_str().expect("a sentence").to_owned();
        let lost = place.event(run_id, "lost");
        assert!(error.contains("2 processes were still running, and were killed: ") && error.contains("alive"), "{error}");
        let mut pids: Vec<_> = lost["killed"].as_array().expect("a list").iter().map(|process| process["pid"].clone()).collect();
        pids.sort_by_key(Value::as_u64);
        assert_eq!((pids, &lost["killed_count"], &lost["detail"]), (vec![json!(leader), json!(child)], &json!(2), &json!(error)));
    }
}

/// Starts a server of the user `nobody` in a mount namespace with a `/proc` that hides other users' processes. Returns `None` if
/// that takes more rights than the test has. The root contains `other-user`, a copy of the actor that runs as root.
fn with_hidden_processes(script: &str, proc_options: &str) -> Option<Place> {
    let can_mount = || Command::new("unshare").args(["-m", "mount", "-t", "proc", "-o", proc_options, "proc", "/proc"]).status();
    if !getuid().is_root() || !can_mount().is_ok_and(|status| status.success()) {
        not_run("only root can mount a /proc that hides processes", "AUTOAPPDEV_REQUIRE_TMPFS");
        return None;
    }
    let mut place = Place::new();
    place.actor();
    place.script("hidden.sh", script);
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "hidden.sh");
    place.set_env("AUTOAPPDEV_CONTAINMENT", "tree");
    let binary = place.folder().join("autoappdev");
    // Copied by another process: see `Place::script`.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_autoappdev")).arg(&binary).status();
    assert!(copied.expect("cp is there").success(), "copies");
    for (path, mode, owner) in [
        (place.folder().to_owned(), 0o755, NOBODY),
        (place.root(), 0o755, NOBODY),
        (place.root().join("hidden.sh"), 0o755, NOBODY),
        (binary.clone(), 0o755, NOBODY),
        (place.root().join("actor"), 0o4755, 0),
    ] {
        chown(&path, Some(owner), Some(owner)).expect("root may");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("root may");
    }
    let mut command = Command::new("unshare");
    let enter = "mount -t proc -o \"$1\" proc /proc && shift && exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
    command.args(["-m", "/bin/sh", "-c", enter, "sh", proc_options]).arg(binary);
    for (name, value) in place.command().get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.current_dir(place.folder());
    place.start_server_with(command);
    place.bring_own_token();
    Some(place)
}

fn let_it_end_later(place: &Place) {
    fs::remove_file(place.root().join("go")).expect("it was let go on");
}

fn let_it_end(place: &Place) {
    fs::write(place.root().join("go"), "").expect("root may");
}

#[test]
fn run_end_waits_for_a_hidden_child_of_another_user() {
    let Some(place) = with_hidden_processes(
        "#!/bin/bash\n./actor other-user >ready &\necho $! >child\nwhile [ ! -s ready ]; do sleep 0.01; done\n",
        "hidepid=2",
    ) else {
        return;
    };
    let (_, run_id) = place.start();
    let child = pid_in(&place, "child");
    // The leader has ended; the process that it left behind belongs to root, and the user `nobody` may not kill it.
    until_true("the detail says what the run waits for", || {
        let told = detail(&place);
        told.starts_with("1 process cannot be killed and is still running: process ") && told.contains(&child.to_string())
    });
    assert!(is_alive(child));
    assert_eq!(place.state(), "running", "a process of it is alive");
    let_it_end(&place);
    let run = place.until_ended(run_id);
    assert_eq!((&run["status"], &run["exit_code"]), (&json!("completed"), &json!(0)));
    assert!(!is_alive(child));
    let exited = place.event(run_id, "exited");
    assert_eq!(
        (&exited["killed_count"], &place.pipeline()["detail"]),
        (&Value::Null, &Value::Null),
        "it ended by itself: {exited}"
    );
    place.until_no_shim();
}

#[test]
fn hidden_child_prevents_a_pause_and_keeps_a_stop_pending() {
    let Some(place) = with_hidden_processes("#!/bin/bash\n./actor other-user >ready &\necho $! >child\nwait\n", "hidepid=2")
    else {
        return;
    };
    let (_, run_id) = place.start();
    let child = pid_in(&place, "child");
    until_true("it is another user's", || fs::read_to_string(place.root().join("ready")).is_ok_and(|text| !text.is_empty()));
    let paused = place.act("pause");
    assert_eq!((paused.status, paused.error()), (503, "pause_timeout"), "{}", paused.body);
    let why = paused.body["detail"].as_str().expect("a sentence");
    assert!(why.contains(&format!("process {child} of the pipeline could not be stopped")), "{why}");
    let _answered_later = place.shoot("/api/pipeline/stop", r#"{"grace_s": 0}"#);
    until_true("the detail says what the stop waits for", || detail(&place).contains("cannot be killed and is still running"));
    assert_eq!((place.state().as_str(), place.pipeline()["pending"].as_str()), ("running", Some("stop")));
    assert!(is_alive(child));
    let_it_end(&place);
    assert_eq!(place.until_ended(run_id)["status"], "stopped");
    place.until_no_shim();
}

#[test]
fn run_with_a_hidden_leader_of_another_user_ends_with_it() {
    let Some(place) = with_hidden_processes("#!/bin/bash\nexec ./actor other-user\n", "hidepid=2,subset=pid") else { return };
    let (pid, run_id) = place.start();
    until_true("it has become another user's", || place.said(run_id, "stdout") == ["ready"]);
    assert_eq!((place.state().as_str(), place.pipeline()["pid"].as_u64()), ("running", Some(pid.into())));
    let_it_end(&place);
    let run = place.until_ended(run_id);
    assert_eq!((&run["status"], &run["exit_code"]), (&json!("completed"), &json!(0)));
    assert_eq!(place.pipeline()["detail"], Value::Null, "nothing was left to be killed");

    // Without a boot id the server cannot tell whether the machine was restarted.
    let_it_end_later(&place);
    let (_, run_id) = place.start();
    signal(place.shim_pid(run_id), "KILL");
    place.until_state("stopped");
    let_it_end(&place);
    let error = place.run(run_id)["error"].as_str().expect("a sentence").to_owned();
    assert!(error.starts_with("its own process (the shim) was killed or the machine went down"), "{error}");
}
