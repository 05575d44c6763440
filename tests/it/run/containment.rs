//! How a run is kept together against interference from outside: a pause that another program breaks, with a control group and
//! without one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Place, can_make_cgroups, is_alive, is_stopped, letter, not_run, own_cgroup, signal, until, until_true};
use rustix::process::{Pid, Signal, getuid, kill_process};
use serde_json::{Value, json};

/// Set on machines where control groups must be available.
const REQUIRE_CGROUPS: &str = "AUTOAPPDEV_REQUIRE_CGROUPS";

/// The user `nobody`.
const NOBODY: u32 = 65534;

fn detail(place: &Place) -> String {
    place.pipeline()["detail"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn continued_child_is_stopped_again_and_reported_in_detail() {
    let mut place = Place::serving_with("sleep.sh", "tree");
    let (_, child, run_id) = place.start_counting_child();
    place.act("pause").ok();
    assert_eq!(place.pipeline()["detail"], Value::Null);
    let version = place.pipeline()["version"].as_u64().expect("a number");
    for _ in 0..3 {
        let before = detail(&place);
        until_true("it is counted", || {
            // A signal that arrives while the child is being stopped again is not counted separately.
            signal(child, "CONT");
            detail(&place) != before
        });
        let told = detail(&place);
        let is_told = told.starts_with("pause not holding") && told.contains(&format!("process {child} (bash)"));
        assert!(is_told && told.contains("was stopped again"), "{told}");
        until_true("it is stopped again", || is_stopped(child));
        place.until_all_agree();
    }
    // The count depends on how fast they were.
    assert!(detail(&place).ends_with(" times by now"), "{}", detail(&place));
    assert_eq!(place.state(), "paused");
    assert!(place.pipeline()["version"].as_u64().expect("a number") > version, "who waits for news gets to know");
    assert_eq!(place.history(run_id)[2..], ["paused request paused"], "it has been paused all the time");
    let (code, said, _) = place.client(&["status"]);
    assert_eq!(code, 0);
    assert!(said.contains("pause not holding"), "{said}");

    place.restart_server();
    until_true("the next server is told too", || detail(&place).starts_with("pause not holding"));
    place.act("resume").ok();
    until_true("it is over", || detail(&place).is_empty());
    // A resume is valid even while the child is being stopped again.
    for _ in 0..30 {
        place.act("pause").ok();
        signal(child, "CONT");
        place.act("resume").ok();
    }
    place.act("pause").ok();
    assert_eq!(detail(&place), "");
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    place.assert_nothing_left(run_id);
}

#[test]
fn repeatedly_continued_child_ends_the_pause() {
    let place = Place::serving_with("sleep.sh", "tree");
    let (pid, child, run_id) = place.start_counting_child();
    place.act("pause").ok();
    until_true("the pause is given up", || {
        signal(child, "CONT");
        place.state() == "running"
    });
    until_true("all of it goes on", || ![pid, child].into_iter().any(is_stopped));
    assert!(!place.pause_file().exists());
    let told = detail(&place);
    assert!(
        told.starts_with("pause not holding") && told.contains("10 times") && told.contains("the pipeline keeps running"),
        "{told}"
    );
    assert_eq!(place.history(run_id)[2..], ["paused request paused", "resumed outside running"]);
    assert_eq!(place.event(run_id, "resumed")["detail"], told, "the history keeps the reason");
    place.until_all_agree();

    place.act("pause").ok();
    assert_eq!(detail(&place), "", "a new pause is a new beginning");
    place.assert_all_stopped();
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    place.assert_nothing_left(run_id);
    assert!(!detail(&place).contains("pause"), "nothing is to be said of it any more: {}", detail(&place));
}

#[test]
fn continuously_continued_leader_is_not_reported_paused() {
    for containment in ["auto", "tree"] {
        let place = Place::serving_with("count.sh", containment);
        let (pid, run_id) = place.start();
        until_true("it counts", || place.lines().len() > 3);
        let leader = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
        std::thread::scope(|scope| {
            let (enough, is_enough) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || {
                while is_enough.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                    kill_process(leader, Signal::CONT).expect("it lives");
                }
            });
            for _ in 0..3 {
                let answer = place.act("pause");
                match answer.status {
                    // The run was paused for a moment, and then another process continued it.
                    200 => place.until_state("running"),
                    503 => {
                        assert_eq!(answer.error(), "pause_timeout");
                        assert!(
                            answer.body["detail"].as_str().expect("text").starts_with("pause not holding"),
                            "{}",
                            answer.body
                        );
                        place.until_state("running")
                    }
                    // The server knows that the run was stopped, and not yet that it continues.
                    409 => place.until_state("running"),
                    other => panic!("{other}: {}", answer.body),
                };
            }
            drop(enough);
        });
        assert_eq!(place.until_all_agree(), "running");
        place.act("pause").ok();
        place.assert_all_stopped();
        place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
        place.assert_nothing_left(run_id);
    }
}

/// Returns whether the run is in a control group, as it must be on a machine where control groups can be created. Elsewhere,
/// reports that the test did not run.
fn in_a_cgroup(place: &Place) -> bool {
    let expected = can_make_cgroups();
    assert_eq!(place.pipeline()["containment"] == "cgroup", expected);
    if !expected {
        not_run("this user may make no control group here", REQUIRE_CGROUPS);
    }
    expected
}

#[test]
fn continued_process_in_frozen_cgroup_does_not_run() {
    let place = Place::serving("sleep.sh");
    let (pid, child, run_id) = place.start_counting_child();
    if !in_a_cgroup(&place) {
        return;
    }
    place.act("pause").ok();
    place.assert_all_stopped();
    let before = place.count();
    for _ in 0..20 {
        signal(child, "CONT");
        until_true("the signal has come", || letter(child) != Some('T'));
        // Other processes run repeatedly meanwhile; this one does not.
        for _ in 0..20 {
            assert_eq!((place.state().as_str(), place.count()), ("paused", before));
        }
    }
    assert_eq!(detail(&place), "", "it holds");
    place.act("resume").ok();
    until_true("it counts on", || place.count() > before);

    // For the leader it is different: its parent is notified, and the run follows.
    place.act("pause").ok();
    signal(pid, "CONT");
    place.until_state("running");
    let before = place.count();
    until_true("all of it goes on", || place.count() > before);
    assert_eq!(place.history(run_id).last().map(String::as_str), Some("resumed outside running"));
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    place.assert_nothing_left(run_id);
}

#[test]
fn process_without_cookie_is_killed_with_cgroup() {
    for is_server_there in [true, false] {
        let mut place = Place::serving("hide.sh");
        place.script(
            "hide.sh",
            "#!/bin/bash\n(setsid env -i /bin/bash -c 'echo $$ >hidden.new && mv hidden.new hidden; exec sleep 600' &)\necho ready\nexec sleep 600\n",
        );
        let (_, run_id) = place.start();
        let hidden = until("it tells its pid", || fs::read_to_string(place.root().join("hidden")).ok()?.trim().parse().ok());
        if !in_a_cgroup(&place) {
            // Without a control group no process can find it.
            place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
            return;
        }
        if !is_server_there {
            place.kill_server();
        }
        signal(place.shim_pid(run_id), "KILL");
        place.until_no_shim();
        if !is_server_there {
            assert!(is_alive(hidden));
            place.start_server();
        }
        place.until_state("stopped");
        assert!(!is_alive(hidden), "stopped means that none of its processes is alive");
        assert_eq!(place.run(run_id)["status"], "lost");
        assert!(!place.cgroup(run_id).expect("it had one").exists());
    }
}

#[test]
fn run_with_nested_cgroups_is_paused_and_stopped() {
    let place = Place::serving("groups.sh");
    place.script(
        "groups.sh",
        "#!/bin/bash\n\
         if [ -n \"$1\" ]; then mkdir -p \"$1/a/b\"; sleep 601 & echo $! >\"$1/a/b/cgroup.procs\"; echo $BASHPID >\"$1/a/cgroup.procs\"; fi\n\
         echo ready\n\
         wait\n",
    );
    let (_, run_id) = place.start();
    let contained = in_a_cgroup(&place);
    let name = place.cgroup(run_id).unwrap_or_default();
    place.until_state("stopped");
    place.assert_nothing_left(run_id);
    if !contained {
        return;
    }
    // The next run's group has the next name.
    let name = name.display().to_string();
    let next = format!("{}-{}", name.rsplit_once('-').expect("ends in the run").0, run_id + 1);
    let (_, run_id) = place.start_with(json!({"args": [next]}));
    until_true("both have moved", || crate::support::members(&Path::new(&next).join("a/b")).len() == 1);
    until_true("it is ready", || place.said(run_id, "stdout") == ["ready"]);
    for _ in 0..3 {
        place.act("pause").ok();
        assert_eq!(place.assert_all_stopped().len(), 2);
        place.act("resume").ok();
    }
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    place.assert_nothing_left(run_id);
}

#[test]
fn process_outside_cgroup_is_kept_stopped_during_pause() {
    let place = Place::serving("sleep.sh");
    let (pid, child, run_id) = place.start_counting_child();
    if !in_a_cgroup(&place) {
        return;
    }
    // As `sudo` or `systemd-run` do. The process stays a child.
    move_to(&own_cgroup().expect("it can be written"), child);
    place.act("pause").ok();
    place.assert_all_stopped();
    signal(child, "CONT");
    until_true("the detail says so", || detail(&place).contains(&format!("process {child} (bash)")));
    until_true("it is stopped again", || is_stopped(child));
    assert_eq!(place.state(), "paused");
    place.act("resume").ok();

    // A process that has not left is still frozen. The scan of the others does not include it.
    move_to(&place.cgroup(run_id).expect("it has one"), child);
    move_to(&own_cgroup().expect("it can be written"), pid);
    place.act("pause").ok();
    let before = place.count();
    for _ in 0..20 {
        signal(child, "CONT");
        until_true("the signal has come", || letter(child) != Some('T'));
        for _ in 0..20 {
            assert_eq!((place.state().as_str(), place.count(), detail(&place).as_str()), ("paused", before, ""));
        }
    }
    place.act("resume").ok();
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    place.assert_nothing_left(run_id);
}

fn move_to(group: &Path, pid: u32) {
    fs::write(group.join("cgroup.procs"), pid.to_string()).expect("root may, or it is delegated");
}

#[test]
fn thawed_cgroup_is_frozen_again_during_pause() {
    let place = Place::serving("sleep.sh");
    let (_, child, run_id) = place.start_counting_child();
    if !in_a_cgroup(&place) {
        return;
    }
    let group = place.cgroup(run_id).expect("it has one");
    for _ in 0..3 {
        place.act("pause").ok();
        let events = || fs::read_to_string(group.join("cgroup.events")).expect("it is there");
        until_true("it is held", || events().contains("frozen 1"));
        fs::write(group.join("cgroup.freeze"), "0").expect("ours");
        signal(child, "CONT");
        until_true("the detail says so", || detail(&place).contains(&format!("process {child} (bash)")));
        until_true("it is held again", || is_stopped(child) && events().contains("frozen 1"));
        assert_eq!(place.state(), "paused");
        place.act("resume").ok();
    }
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    place.assert_nothing_left(run_id);
}

/// The shim retries something else every second meanwhile. If the freeze waited for that retry, a thawed process could run for up
/// to a second.
#[test]
fn thawed_cgroup_is_frozen_again_before_next_retry() {
    let place = Place::serving("sleep.sh");
    place.script(
        "step.sh",
        "#!/bin/bash\nsleep 600 &\necho $! >child.new\nmv child.new child\nwhile [ ! -e go ]; do sleep 0.01; done\necho ::step one\nwait\n",
    );
    let (_, run_id) = place.start_with(json!({"script": "step.sh"}));
    if !in_a_cgroup(&place) {
        return;
    }
    let (group, dir) = (place.cgroup(run_id).expect("it has one"), place.run_dir(run_id));
    let child = until("it tells", || fs::read_to_string(place.root().join("child")).ok()?.trim().parse().ok());
    fs::create_dir(dir.join("progress.json")).expect("it cannot be stored");
    fs::write(place.root().join("go"), "").expect("writes");
    until_true("it is told", || place.pipeline()["progress"].is_object());
    // Each retry creates a file there and removes it.
    let last_try = || fs::metadata(&dir).and_then(|dir| dir.modified()).expect("there");
    let is_held = || fs::read_to_string(group.join("cgroup.events")).expect("it is there").contains("frozen 1");
    // On a busy machine a retry can come first by chance. If the freeze waited for the retry, one would always come first, though
    // it might not always be seen before it.
    let mut held_at_once = 0;
    until_true("five in a row are held again before the next try", || {
        place.act("pause").ok();
        until_true("it is held", is_held);
        let before = last_try();
        fs::write(group.join("cgroup.freeze"), "0").expect("ours");
        signal(child, "CONT");
        until_true("it is held again", || is_stopped(child) && is_held());
        held_at_once = if last_try() == before { held_at_once + 1 } else { 0 };
        place.act("resume").ok();
        held_at_once == 5
    });
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    place.assert_nothing_left(run_id);
}

#[test]
fn run_with_many_cgroups_leaves_none() {
    let place = Place::serving("many.sh");
    place.script(
        "many.sh",
        "#!/bin/bash\n\
         if [ -n \"$1\" ]; then for n in {1..40}; do mkdir \"$1/$n\"; mkdir \"$1/$n\"/{1..30}; done; fi\n\
         echo ready\n\
         exec sleep 600\n",
    );
    let (_, run_id) = place.start();
    let contained = in_a_cgroup(&place);
    let name = place.cgroup(run_id).unwrap_or_default().display().to_string();
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    if !contained {
        return;
    }
    for is_shim_killed in [false, true] {
        let (before, run) = name.rsplit_once('-').expect("ends in the run");
        let run: i64 = run.parse().expect("a number");
        let next = format!("{before}-{}", run + 1 + i64::from(is_shim_killed));
        let (_, run_id) = place.start_with(json!({"args": [next]}));
        until_true("it has made them", || place.said(run_id, "stdout") == ["ready"]);
        place.act("pause").ok();
        if is_shim_killed {
            signal(place.shim_pid(run_id), "KILL");
            place.until_state("stopped");
            let why = place.run(run_id)["error"].as_str().expect("it says why").to_owned();
            assert!(why.ends_with("none of its processes is alive"), "{why}");
            assert!(!place.pause_file().exists());
        } else {
            place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
        }
        assert!(!Path::new(&next).exists(), "its group is gone");
    }
}

/// Starts the server as an unprivileged user, in the control group `group`.
fn serve_as_nobody(place: &mut Place, group: &Path) {
    let binary = place.folder().join("autoappdev");
    if !binary.exists() {
        // Copied to where that user can execute it, by another process: see `Place::script`.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_autoappdev")).arg(&binary).status();
        assert!(copied.expect("cp is there").success(), "copies");
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("ours");
    }
    give_away(place.folder());
    let mut command = Command::new("/bin/sh");
    let enter = "echo $$ >\"$1/cgroup.procs\" && shift && exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
    command.args(["-c", enter, "sh"]).arg(group).arg(&binary);
    let settings = place.command();
    for (name, value) in settings.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.current_dir(place.folder());
    place.start_server_with(command);
    place.bring_own_token();
}

fn give_away(path: &Path) {
    std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("there") {
            give_away(&entry.expect("there").path());
        }
    }
}

#[test]
fn unprivileged_user_gets_cgroup_only_if_delegated() {
    if !getuid().is_root() || !can_make_cgroups() {
        not_run("to delegate a control group takes root, who may make one", REQUIRE_CGROUPS);
        return;
    }
    let group = own_cgroup().expect("it can be written").join(format!("autoappdev-test-delegated-{}", std::process::id()));
    fs::create_dir(&group).expect("root may");
    // Three cases: nothing; the folder alone, in which a group can be created that no process may join; and what systemd does for
    // `Delegate=yes` (cgroups(7), "Cgroups delegation").
    let delegated = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];
    for (given, is_delegated) in [(&[][..], false), (&[""], false), (&delegated, true)] {
        for file in given {
            std::os::unix::fs::chown(group.join(file), Some(NOBODY), Some(NOBODY)).expect("root may");
        }
        let mut place = Place::new();
        place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "tree.sh");
        serve_as_nobody(&mut place, &group);
        let (pid, run_id) = place.start();
        assert_eq!(
            fs::metadata(format!("/proc/{pid}")).map(|meta| std::os::unix::fs::MetadataExt::uid(&meta)).ok(),
            Some(NOBODY)
        );
        assert_eq!(place.pipeline()["containment"], if is_delegated { "cgroup" } else { "tree" });
        place.until_tree();
        place.act("pause").ok();
        assert!(place.assert_all_stopped().len() >= 8);
        let before = place.processes();
        place.restart_server_as(|place| serve_as_nobody(place, &group));
        assert_eq!(place.state(), "paused");
        signal(place.shim_pid(run_id), "KILL");
        place.until_state("stopped");
        assert!(!before.into_iter().any(is_alive));
        assert!(place.cgroup(run_id).is_none_or(|dir| !dir.exists()));
        assert!(!place.server_log().to_lowercase().contains("cgroup"), "{}", place.server_log());
        assert_eq!(place.stop_server(), 0);
    }
    until_true("it is empty", || fs::remove_dir(&group).is_ok());
}

#[test]
fn leftover_cgroup_is_used_only_if_empty() {
    let place = Place::serving("sleep.sh");
    let (_, run_id) = place.start();
    if !in_a_cgroup(&place) {
        return;
    }
    let name = place.cgroup(run_id).expect("it has one").display().to_string();
    let of_run = |run: i64| PathBuf::from(format!("{}-{run}", name.rsplit_once('-').expect("ends in the run").0));
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();

    fs::create_dir(of_run(run_id + 1)).expect("root may, or it is delegated");
    place.start();
    assert_eq!(place.pipeline()["containment"], "cgroup");
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();

    let taken = of_run(run_id + 2);
    fs::create_dir(&taken).expect("as before");
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "echo $$ >\"$1/cgroup.procs\" && exec sleep 600", "sh"])
        .arg(&taken)
        .stdin(Stdio::null())
        .process_group(0);
    let mut stranger = command.spawn().expect("spawns");
    until_true("it is in there", || crate::support::members(&taken).contains(&stranger.id()));
    let (_, third) = place.start();
    assert_eq!((place.pipeline()["containment"].as_str(), place.cgroup(third)), (Some("tree"), None));
    // The kill of the shim does not end it either.
    signal(place.shim_pid(third), "KILL");
    place.until_state("stopped");
    assert!(is_alive(stranger.id()), "it is not of this run");
    stranger.kill().expect("ours");
    stranger.wait().expect("ours");
    until_true("it is empty", || fs::remove_dir(&taken).is_ok());
}
