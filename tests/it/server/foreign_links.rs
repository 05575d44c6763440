//! Links in a runtime directory that comes with a cloned project. The server neither removes, packs, shows nor controls their
//! targets.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::foreign_namespaces::can_mount;
use crate::support::{Place, is_alive, signal, until, until_true};

/// Creates a place whose server has ended after `runs` runs, and in which only the latest run is kept from now on.
pub(super) fn used(runs: usize) -> Place {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "quick.sh");
    place.script("quick.sh", "#!/bin/sh\nseq 100000\n");
    place.start_server();
    for _ in 0..runs {
        place.start();
        place.until_state("stopped");
    }
    place.stop_server();
    place
}

/// Creates a folder of the user with files in two subfolders that are named like runs.
fn precious(at: &Path) -> Vec<std::path::PathBuf> {
    let files = ["1", "2"].map(|name| at.join(name).join("photo.jpg"));
    for file in &files {
        fs::create_dir_all(file.parent().expect("it has one")).expect("creates");
        fs::write(file, "a photo").expect("writes");
    }
    files.to_vec()
}

#[test]
fn link_in_place_of_runs_is_refused_and_its_target_is_kept() {
    let place = used(3);
    let elsewhere = place.folder().join("pictures");
    let files = precious(&elsewhere);
    let runs = place.runtime().join("runs");
    fs::rename(&runs, place.folder().join("aside")).expect("moves");
    symlink(&elsewhere, &runs).expect("links");
    let said = place.refused_server(("AUTOAPPDEV_RUNS_KEEP", "1"));
    assert!(said.contains("is a symbolic link") && said.contains("AUTOAPPDEV_RUNTIME_DIR"), "{said}");
    assert!(files.iter().all(|file| file.exists()));
}

#[test]
fn link_in_place_of_a_run_or_its_log_is_not_followed() {
    let mut place = used(3);
    let elsewhere = place.folder().join("logs");
    fs::create_dir_all(elsewhere.join("log")).expect("creates");
    let files = [elsewhere.join("20261130.log"), elsewhere.join("log/20261130.log")];
    for file in &files {
        fs::write(file, "2026-11-30T10:00:00.000Z o. a secret of another program\n".repeat(40_000)).expect("writes");
    }
    let texts = files.clone().map(|file| fs::read(file).expect("there"));
    // The log of one run, and the directory of another.
    let (log, run) = (place.run_dir(1).join("log"), place.run_dir(2));
    fs::remove_dir_all(&log).and_then(|()| symlink(&elsewhere, &log)).expect("links");
    fs::remove_dir_all(&run).and_then(|()| symlink(&elsewhere, &run)).expect("links");
    place.start_server();
    for run_id in [1, 2] {
        let lines = place.get(&format!("/api/logs?since=0&run={run_id}")).ok();
        assert!(!lines.to_string().contains("secret"), "run {run_id}: {lines}");
    }
    // Logs are packed from the oldest run on, so the logs of the earlier runs have had their turn by then.
    until_true("the log of a later run is packed", || {
        let mut files = fs::read_dir(place.run_dir(3).join("log")).expect("there").flatten();
        files.any(|file| file.file_name().to_string_lossy().ends_with(".log.gz"))
    });
    assert!(files.iter().zip(texts).all(|(file, text)| fs::read(file).is_ok_and(|found| found == text)));
}

/// A project whose author knows where the user keeps another one, with a live run.
#[test]
fn links_to_live_run_of_another_project_give_no_control() {
    let other = Place::serving("sleep.sh");
    let (leader, run_id) = other.start();
    for linked in ["the run", "its socket"] {
        let mut place = Place::serving("sleep.sh");
        place.start();
        place.kill_server();
        let shim = place.shim_pid(1);
        signal(shim, "KILL");
        until_true("the shim is dead", || !is_alive(shim));
        let run = place.run_dir(1);
        if linked == "the run" {
            fs::remove_dir_all(&run).and_then(|()| symlink(other.run_dir(run_id), &run)).expect("links");
        } else {
            fs::remove_file(run.join("lock")).expect("there");
            let _there_or_not = fs::remove_file(run.join("ctl.sock"));
            symlink(other.run_dir(run_id).join("ctl.sock"), run.join("ctl.sock")).expect("links");
        }
        place.start_server();
        let pipeline = until(&format!("{linked} is over"), || Some(place.pipeline()).filter(|it| it["state"] == "stopped"));
        assert_eq!(pipeline["status"], "lost", "{linked}: {pipeline}");
        assert_eq!(place.act("stop").status, 409, "{linked}");
        assert!(is_alive(leader) && other.pipeline()["state"] == "running", "{linked}");
    }
}

#[test]
fn link_to_itself_in_place_of_run_does_not_prevent_a_start() {
    for name in ["runs/1", "runs/1/log", "runs/2"] {
        let mut place = Place::new();
        drop(place.store());
        let link = place.runtime().join(name);
        fs::create_dir_all(link.parent().expect("it has one")).expect("creates");
        symlink(link.file_name().expect("it has one"), &link).expect("links");
        symlink("runs/1", place.runtime().join("latest-run")).expect("links");
        place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
        place.start_server();
        let answer = place.act("start");
        assert_eq!(answer.status, 200, "{name}: {}", answer.body);
        assert_eq!(place.get("/api/logs").status, 200, "{name}");
    }
}

/// The user has mounted other files at the path of a run. Retention removes the older runs and leaves those files unchanged.
#[test]
fn mount_in_place_of_a_run_is_not_removed() {
    if !can_mount() {
        return;
    }
    let mut place = used(4);
    let elsewhere = place.folder().join("pictures");
    let files = precious(&elsewhere);
    let mut command = place.command_of(Path::new("unshare"));
    command.args(["-m", "sh", "-c", "mount --bind \"$1\" \"$2\" && mount --bind \"$1\" \"$3\" && shift 3 && exec \"$@\"", "sh"]);
    // One mount at the directory itself, and one in it.
    let within = place.run_dir(3).join("within");
    fs::create_dir(&within).expect("creates");
    command.args([&elsewhere, &place.run_dir(1), &within]).arg(env!("CARGO_BIN_EXE_autoappdev"));
    command.env("AUTOAPPDEV_RUNS_KEEP", "1");
    place.start_server_with(command);
    let log = || place.server_log();
    for run_id in [1, 3] {
        let sentence =
            format!("cannot remove the directory of run {run_id}, which was removed from the history: a file system is mounted");
        until_true("the mount is reported", || log().contains(&sentence));
    }
    until_true("the run beside it is removed", || !place.run_dir(2).exists());
    assert!(files.iter().all(|file| file.exists()), "{}", log());
}
