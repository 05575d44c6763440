//! Control on a full disk: starts, pauses, stops, ends and a killed server, and that all of it is recorded once there is room.

use std::fs;

use crate::support::disk::SmallDisk;
use crate::support::{is_alive, signal, until, until_true};
use serde_json::json;

use super::full_disk::{serving, until_degraded, until_well};

#[test]
fn start_on_full_disk_is_refused_until_space_is_freed() {
    let Some(small) = serving(2048, "start_on_full_disk_is_refused_until_space_is_freed") else { return };
    let place = &small.place;
    let before = place.footprint();
    small.disk.fill();
    for _ in 0..3 {
        let answer = place.act("start");
        assert_eq!((answer.status, answer.error()), (507, "disk_full"), "{}", answer.body);
    }
    assert_eq!(place.footprint(), before, "a refused request changes nothing");
    assert_eq!((place.processes().len(), place.shims().len()), (0, 0));
    until_degraded(place, "full");
    small.disk.free();
    until_well(place);
    place.start();
    assert_eq!(place.until_all_agree(), "running");
}

/// With any small amount of room, the start works or is refused with 507, and what is recorded of it is true.
#[test]
fn start_with_little_space_is_recorded_correctly_or_refused() {
    let Some(mut small) = serving(4096, "start_with_little_space_is_recorded_correctly_or_refused") else { return };
    let (mut started, mut unrecorded, mut failed, mut refused) = (0, 0, 0, 0);
    for pages in 0..40 {
        // The database's log is as short as possible, so that the room ends at another point each time.
        small.place.stop_server();
        small.place.start_server();
        let place = &small.place;
        small.disk.fill_but(pages * 4096);
        let answer = place.act("start");
        if answer.status == 200 {
            started += 1;
            assert_eq!(place.state(), "running");
            let pid = answer.body["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
            assert!(is_alive(pid));
        } else {
            assert_eq!((answer.status, answer.error()), (507, "disk_full"), "{pages} pages: {}", answer.body);
        }
        let detail = answer.body["detail"].as_str().unwrap_or_default();
        if detail.contains("was completed") {
            unrecorded += 1;
            // The run is live and under control.
            // A process in the middle of an execve(2) shows no environment.
            until_true("its process is there", || place.processes().len() == 1);
            assert_eq!(place.pipeline()["allowed"], json!(["pause", "stop"]));
            assert_eq!(place.act("pause").status, 507);
            place.assert_all_stopped();
            assert_eq!(place.act("resume").status, 507);
        }
        small.disk.free();
        until_well(place);
        let state = place.until_all_agree();
        assert_eq!(state == "running", answer.status == 200 || detail.contains("was completed"), "{pages} pages");
        if state == "running" {
            place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
        } else if let Some(run) = place.get("/api/runs").ok()["runs"].get(0).filter(|run| run["status"] != "stopped") {
            failed += 1;
            assert_eq!(run["status"], "failed", "{pages} pages: {run}");
            let why = run["error"].as_str().expect("a sentence");
            assert!(why.contains("No space") || why.contains("disk"), "{pages} pages: {why}");
        } else {
            refused += 1;
        }
        place.until_no_shim();
        assert_eq!(place.processes().len(), 0, "no orphan");
    }
    let all = [started, unrecorded, failed, refused];
    assert!(all.iter().all(|&count| count > 0), "started, unrecorded, failed, refused: {all:?}; the room never ended in between");
}

#[test]
fn actions_on_full_disk_work_and_are_recorded_later() {
    let Some(small) = serving(2048, "actions_on_full_disk_work_and_are_recorded_later") else { return };
    let place = &small.place;
    let (pid, run_id) = place.start_with(json!({"script": "tree.sh"}));
    place.until_line("stubborn");
    let recorded = place.pipeline();
    small.disk.fill();

    let answer = place.act("pause");
    assert_eq!((answer.status, answer.error()), (507, "disk_full"), "{}", answer.body);
    assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains("was completed")), "{}", answer.body);
    place.assert_all_stopped();
    let told = place.pipeline();
    assert_eq!((&told["state"], &told["version"]), (&json!("running"), &recorded["version"]), "only what is on record");
    assert_eq!(told["allowed"], json!(["resume", "stop"]), "what would not be refused");
    until_degraded(place, "full");
    assert_eq!(place.act("pause").status, 409);

    let answer = place.act("resume");
    assert_eq!((answer.status, answer.error()), (507, "disk_full"), "{}", answer.body);
    assert!(place.processes().iter().all(|&pid| !crate::support::is_stopped(pid)));
    let answer = place.act("pause");
    assert_eq!((answer.status, answer.error()), (507, "disk_full"), "{}", answer.body);
    place.assert_all_stopped();

    small.disk.free();
    let paused = place.until_state("paused");
    assert_eq!((&paused["run_id"], &paused["pid"]), (&json!(run_id), &json!(pid)));
    until_well(place);
    assert_eq!(place.until_all_agree(), "paused");
    let kinds = ["starting", "spawned", "paused", "resumed", "paused"];
    assert_eq!(place.events(run_id).iter().map(|event| event["kind"].clone()).collect::<Vec<_>>(), kinds);

    small.disk.fill();
    let answer = place.post("/api/pipeline/stop", json!({"grace_s": 0.3}));
    assert_eq!((answer.status, answer.error()), (507, "disk_full"), "{}", answer.body);
    assert!(!is_alive(pid));
    assert_eq!(place.processes().len(), 0, "it is stopped all the same");
    let answer = place.act("start");
    assert_eq!((answer.status, answer.error()), (507, "disk_full"), "{}", answer.body);
    small.disk.free();
    let run = place.until_ended(run_id);
    assert_eq!(run["status"], "stopped");
    until_well(place);
    assert_eq!(place.until_all_agree(), "stopped");
    place.start();
    assert_eq!(place.until_all_agree(), "running");
}

#[test]
fn server_restarted_on_full_disk_serves_and_controls() {
    let Some(mut small) = serving(2048, "server_restarted_on_full_disk_serves_and_controls") else { return };
    let (pid, run_id) = small.place.start();
    small.disk.fill();
    small.place.restart_server();
    let place = &small.place;
    assert_eq!((place.state().as_str(), &place.pipeline()["pid"]), ("running", &json!(pid)));
    let (code, said, _) = place.client(&["status"]);
    assert_eq!(code, 0, "a client command finds the server: {said}");
    assert!(is_alive(pid));
    let answer = place.act("pause");
    assert_eq!((answer.status, answer.error()), (507, "disk_full"), "{}", answer.body);
    place.assert_all_stopped();

    small.place.restart_server();
    let place = &small.place;
    assert_eq!(place.state(), "running", "as it is on record");
    until_degraded(place, "full");
    let answer = place.act("resume");
    assert_eq!((answer.status, answer.error()), (507, "disk_full"), "{}", answer.body);
    assert!(!crate::support::is_stopped(pid));
    small.disk.free();
    until_well(place);
    assert_eq!(place.until_all_agree(), "running");
    assert_eq!(place.run(run_id)["status"], "running");
}

#[test]
fn end_on_full_disk_without_server_is_recorded_later() {
    let Some(mut small) = serving(2048, "end_on_full_disk_without_server_is_recorded_later") else {
        return;
    };
    let (pid, run_id) = small.place.start_with(json!({"script": "until-go.sh"}));
    small.place.until_line("ready");
    small.disk.fill();
    small.place.kill_server();
    fs::write(small.place.root().join("go"), "").expect("writes");
    until_true("the pipeline has ended", || !is_alive(pid));
    small.place.start_server();
    let place = &small.place;
    until_degraded(place, "full");
    assert_eq!(place.get("/api/runs").status, 200);
    small.disk.free();
    let run = place.until_ended(run_id);
    assert_eq!((&run["status"], &run["exit_code"]), (&json!("failed"), &json!(7)));
    until_well(place);
    assert_eq!(place.until_all_agree(), "stopped");
}

#[test]
fn shim_killed_on_full_disk_loses_the_run_after_space_is_freed() {
    let Some(small) = serving(2048, "shim_killed_on_full_disk_loses_the_run_after_space_is_freed") else { return };
    let place = &small.place;
    let (_, run_id) = place.start_with(json!({"script": "tree.sh"}));
    place.until_line("stubborn");
    small.disk.fill();
    signal(place.shim_pid(run_id), "KILL");
    until_degraded(place, "full");
    until_true("none of its processes is alive", || place.processes().is_empty());
    assert_eq!(place.state(), "running", "as it is on record");
    small.disk.free();
    assert_eq!(place.until_state("stopped")["status"], "lost");
    until_well(place);
    assert_eq!(place.server_log().matches("how it ended is unknown").count(), 1, "said once, not with each attempt");
    place.start();
    assert_eq!(place.until_all_agree(), "running");
}

#[test]
fn server_without_space_for_database_exits_and_leaves_the_run_alone() {
    let test = "server_without_space_for_database_exits_and_leaves_the_run_alone";
    let Some(mut small) = serving(2048, test) else { return };
    let (pid, _) = small.place.start();
    // An orderly end removes the database's log and its index, so that both must be created again. If a reader is still open when
    // the writer closes, they stay.
    let wal = small.place.runtime().join("autoappdev.db-wal");
    until_true("the database was closed by its writer last", || {
        small.place.stop_server();
        let is_gone = !wal.exists();
        if !is_gone {
            small.place.start_server();
        }
        is_gone
    });
    small.disk.fill();
    let said = small.place.refused_server(("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh"));
    assert!(said.contains("the disk is full; make room"), "{said}");
    assert!(is_alive(pid));
    small.disk.free();
    small.place.start_server();
    assert_eq!(small.place.pipeline()["pid"], json!(pid));
    assert_eq!(small.place.until_all_agree(), "running");
}

#[test]
fn disk_without_free_inodes_is_a_full_disk() {
    let Some(mut small) = SmallDisk::with("size=8192k,nr_inodes=60", "disk_without_free_inodes_is_a_full_disk") else {
        return;
    };
    small.place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    small.place.start_server();
    let place = &small.place;
    let mut files = (0..60).map(|n| small.disk.path().join(n.to_string())).collect::<Vec<_>>();
    files.retain(|path| fs::write(path, "").is_ok());
    until_degraded(place, "more files");
    for (spare, path) in files.iter().enumerate().take(5) {
        let answer = place.act("start");
        assert_eq!((answer.status, answer.error()), (507, "disk_full"), "{spare} files: {}", answer.body);
        assert_eq!(place.until_all_agree(), "stopped");
        assert_eq!(place.processes().len(), 0);
        fs::remove_file(path).expect("there");
    }
    for path in &files[5..] {
        fs::remove_file(path).expect("there");
    }
    until_well(place);
    place.start();
    assert_eq!(place.until_all_agree(), "running");
}

#[test]
fn health_reports_little_free_space() {
    let Some(small) = serving(4096, "health_reports_little_free_space") else { return };
    assert_eq!(small.place.degraded(), None);
    small.disk.fill_but(512 * 1024);
    let why = until("health says so", || small.place.degraded());
    assert!(why.contains("512 KiB") || why.contains("free"), "{why}");
    small.disk.free();
    assert_eq!(small.place.degraded(), None);
}

#[test]
fn read_only_runtime_directory_is_refused_at_start() {
    let Some(small) = SmallDisk::of_kib(2048, "read_only_runtime_directory_is_refused_at_start") else { return };
    small.disk.set_read_only(true);
    let said = small.place.refused_server(("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh"));
    assert!(said.contains("Read-only file system") && said.contains("AUTOAPPDEV_RUNTIME_DIR"), "{said}");
    small.disk.set_read_only(false);
    fs::create_dir(small.place.runtime()).expect("creates");
    small.disk.set_read_only(true);
    let said = small.place.refused_server(("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh"));
    assert!(said.contains("Read-only file system"), "{said}");
}
