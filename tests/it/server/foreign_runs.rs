//! Run directories that do not come from this server: in a runtime directory that another user has exchanged, with any number as
//! a name, of any depth, or replaced by other kinds of files.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, mknodat, openat};
use serde_json::json;

use super::foreign_files::{ANOTHER, THIRD, copied_binary, ended, entries, is_root, set_mode};
use super::foreign_links::used;
use crate::support::{Place, until_true};

/// A group that contains the server's user and another user.
const GROUP: u32 = 61_009;

/// As a member of the folder's group, moves the runtime directory of a live server away and puts one with links in its place.
fn exchange_runtime(place: &Place, runs: &Path) {
    let script = "mkdir evil && touch evil/server.json && ln -s ../runtime.moved/autoappdev.db evil/autoappdev.db && ln -s \"$1\" evil/runs && \
                  mv runtime runtime.moved && mv evil runtime";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, "sh"]).arg(runs).current_dir(place.folder()).uid(ANOTHER).gid(GROUP);
    assert!(command.status().expect("/bin/sh is there").success(), "a member of the group can do that");
}

/// Starts a run that cannot begin. Returns the error that the client gets.
fn failed_start(place: &Place) -> String {
    let answer = place.post("/api/pipeline/start", json!({}));
    assert_ne!(answer.status, 200, "{}", answer.body);
    answer.body.to_string()
}

#[test]
fn exchanged_runtime_directory_does_not_expose_runs_of_another_project() {
    if !is_root() {
        return;
    }
    let other = used(3);
    let before = entries(&other.runtime().join("runs"));
    // With the database in the runtime directory, and elsewhere.
    for is_database_elsewhere in [false, true] {
        let mut place = Place::new();
        chown(place.folder(), None, Some(GROUP)).expect("we are root");
        set_mode(place.folder(), 0o2775);
        place.set_env("AUTOAPPDEV_TRUSTED_GROUPS", &GROUP.to_string());
        let elsewhere = place.folder().join("own");
        fs::create_dir(&elsewhere).expect("creates");
        set_mode(&elsewhere, 0o700);
        if is_database_elsewhere {
            place.set_env("DATABASE_URL", &format!("sqlite:{}", elsewhere.join("x.db").display()));
        }
        place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "exit.sh");
        place.start_server();
        for _ in 0..4 {
            place.start();
            place.until_state("stopped");
        }
        assert_eq!(place.stop_server(), 0);
        place.set_env("AUTOAPPDEV_RUNS_KEEP", "1");
        // The server's first pass removes the earlier runs.
        place.start_server();
        let moved = place.folder().join("runtime.moved");
        until_true("old runs are removed", || entries(&place.runtime().join("runs")).len() == 1);
        exchange_runtime(&place, &other.runtime().canonicalize().expect("there").join("runs"));
        for _ in 0..3 {
            let said = failed_start(&place);
            assert!(said.contains("removed or replaced") || said.contains("see the server"), "{said}");
        }
        assert!(place.server_log().contains("removed or replaced"), "{}", place.server_log());
        assert_eq!(place.stop_server(), 0);
        assert_eq!(entries(&other.runtime().join("runs")), before, "nothing was removed or made there");
        assert_eq!(entries(&place.folder().join("runtime")).len(), 3, "nothing was made or removed in the other directory");
        assert!(!moved.join("server.json").exists(), "it is removed where the server put it");
        assert!(moved.join("runs").exists());
    }
}

/// `runs/50000000/log`, for example.
#[test]
fn directory_with_huge_run_id_does_not_delay_server_end() {
    let mut place = used(2);
    for segment in [1, 2].iter().flat_map(|&id| entries(&place.run_dir(id).join("log"))) {
        fs::remove_file(segment).expect("ours");
    }
    fs::create_dir_all(place.run_dir(i64::MAX - 1).join("log")).expect("creates");
    place.set_env("AUTOAPPDEV_RUNS_KEEP", "1");
    place.start_server();
    // The search for the first log follows in the same pass.
    until_true("the oldest run is removed", || !place.run_dir(1).exists());
    assert_eq!(place.stop_server(), 0);
}

#[test]
fn old_run_with_thousands_of_nested_directories_is_removed() {
    let mut place = used(2);
    let deep = place.run_dir(1);
    let mut dir = fs::File::open(&deep).expect("opens").into();
    for _ in 0..3000 {
        mkdirat(&dir, "a", Mode::RWXU).expect("creates");
        dir = openat(&dir, "a", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("opens");
    }
    drop(dir);
    place.set_env("AUTOAPPDEV_RUNS_KEEP", "1");
    let mut command = place.command_of(Path::new("bash"));
    // Not enough descriptors for one at each level.
    command.args(["-c", "ulimit -n 1024; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_autoappdev")]);
    place.start_server_with(command);
    until_true("it is removed", || !deep.exists());
    until_true("it has left the history", || place.get("/api/runs").ok()["runs"].as_array().map(Vec::len) == Some(1));
    assert_eq!(place.stop_server(), 0);
}

/// Creates something in place of a run.
type Make = fn(&Path);

fn with_lock(run: &Path, make: impl FnOnce(&Path)) {
    fs::create_dir(run).expect("creates");
    make(&run.join("lock"));
}

#[test]
fn odd_file_in_place_of_latest_run_does_not_prevent_a_start() {
    let cases: [(&str, Make); 5] = [
        ("a file", |run| fs::write(run, "").expect("writes")),
        ("a pipe", |run| mknodat(CWD, run, FileType::Fifo, Mode::RWXU, 0).expect("makes a pipe")),
        ("a pipe as the lock", |run| {
            with_lock(run, |lock| mknodat(CWD, lock, FileType::Fifo, Mode::RWXU, 0).expect("makes a pipe"));
        }),
        ("a folder as the lock", |run| with_lock(run, |lock| fs::create_dir(lock).expect("creates"))),
        ("a link as the lock", |run| with_lock(run, |lock| symlink("/dev/zero", lock).expect("links"))),
    ];
    for (what, make) in cases {
        let mut place = used(1);
        make(&place.run_dir(2));
        place.start_server();
        let (_, run_id) = place.start();
        assert_eq!(run_id, 3, "{what}");
        place.until_state("stopped");
        assert_eq!(place.stop_server(), 0, "{what}");
    }
}

#[test]
fn latest_run_of_another_user_does_not_prevent_a_start() {
    if !is_root() {
        return;
    }
    for name in ["2", "2/lock"] {
        let mut place = used(1);
        let run = place.run_dir(2);
        fs::create_dir(&run).and_then(|()| fs::write(run.join("lock"), "")).expect("creates");
        chown(place.runtime().join("runs").join(name), Some(ANOTHER), None).expect("we are root");
        place.start_server();
        let (_, run_id) = place.start();
        assert_eq!(run_id, 3, "{name}");
        assert_eq!(place.stop_server(), 0, "{name}");
    }
}

/// As a command run with `sudo` leaves it.
#[test]
fn unreadable_latest_run_is_an_error_with_remedy() {
    if !is_root() {
        return;
    }
    let mut place = Place::new();
    set_mode(place.folder(), 0o755);
    for dir in [place.runtime(), place.runtime().join("runs")] {
        fs::create_dir(&dir).expect("creates");
        set_mode(&dir, 0o700);
        chown(&dir, Some(THIRD), Some(THIRD)).expect("we are root");
    }
    let run = place.runtime().canonicalize().expect("there").join("runs/12");
    fs::create_dir(&run).and_then(|()| fs::write(run.join("lock"), "")).expect("creates");
    fs::set_permissions(&run, fs::Permissions::from_mode(0o700)).expect("ours");
    let binary = copied_binary(&place);
    let serve = |place: &Place| {
        let mut command = place.command_of(&binary);
        command.uid(THIRD).gid(THIRD);
        command
    };
    let mut command = serve(&place);
    command.arg("serve");
    let (code, said) = ended(command);
    let path = run.display();
    let sentence = format!(
        "cannot open {path}/lock: Permission denied (os error 13); give it to the user of the server (`chown -R {THIRD} {path}`)"
    );
    assert!(code == 1 && said.contains(&sentence), "{said}");
    for path in [PathBuf::new(), "lock".into()] {
        chown(run.join(path), Some(THIRD), Some(THIRD)).expect("as the sentence says");
    }
    let command = serve(&place);
    place.start_server_with(command);
    assert_eq!(place.stop_server(), 0);
}

/// An archive can contain any number of directories with any names.
#[test]
fn directories_that_came_with_a_folder_neither_hide_nor_remove_own_runs() {
    const HIGHEST: i64 = 1 << 52;
    for has_own in [false, true] {
        let mut place = if has_own { used(3) } else { Place::new() };
        place.script("say.sh", "#!/bin/sh\necho precious\n");
        place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "say.sh");
        let runs = place.runtime().join("runs");
        // Above all ids, so high that no start gives them, and as the ids of the next runs.
        for id in [1 << 62, 1 << 53].into_iter().chain(HIGHEST - 5..=HIGHEST).chain(4..14) {
            fs::create_dir_all(runs.join(id.to_string())).expect("creates");
        }
        // The server refuses a folder that its group can write to.
        for dir in [&runs, &place.runtime()] {
            set_mode(dir, 0o700);
        }
        let mut ids: Vec<i64> = if has_own { (1..=3).collect() } else { Vec::new() };
        for _ in 0..2 {
            place.start_server();
            for _ in 0..2 {
                let (_, id) = place.start();
                place.until_settled(id);
                ids.push(id);
            }
            assert_eq!(place.stop_server(), 0);
        }
        assert!(ids.iter().all(|&id| id < 100), "{ids:?}");
        place.set_env("AUTOAPPDEV_RUNS_KEEP", &(ids.len() - 1).to_string());
        place.start_server();
        until_true("the oldest run is removed", || !place.run_dir(ids[0]).exists());
        for &id in &ids[1..] {
            assert!(place.run_dir(id).join("log").exists(), "{id} of {ids:?}: {}", place.server_log());
            place.run(id);
        }
        let (code, lines, _) = place.client(&["logs", "--no-timestamps"]);
        assert_eq!((code, lines.matches("precious").count()), (0, if has_own { 4 } else { 3 }), "{lines}");
    }
}

/// Directories come with an archive under any names: one that claims an id near the highest, those of the next runs, and a file.
#[test]
fn directories_in_the_way_of_new_runs_are_passed_over_and_take_no_ids_from_them() {
    for has_database in [false, true] {
        let mut place = if has_database { used(3) } else { Place::new() };
        place.script("sleep.sh", "#!/bin/sh\nexec sleep 600\n");
        place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
        place.start_server();
        let (_, first) = place.start();
        place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
        let runs = place.runtime().join("runs");
        for id in (first + 1..first + 20).chain([i64::MAX - 1]) {
            let copied = Command::new("cp").arg("-a").args([place.run_dir(first), runs.join(id.to_string())]).status();
            assert!(copied.expect("cp is there").success());
        }
        fs::write(runs.join((first + 20).to_string()), "a file").expect("writes");
        for next in first + 21..first + 24 {
            assert_eq!(place.start().1, next);
            place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
            assert_eq!(place.run(next)["status"], "stopped");
            assert_eq!(place.stop_server(), 0);
            place.start_server();
        }
        // Without the database what is there is in the way again.
        assert_eq!(place.stop_server(), 0);
        place.move_database(&place.folder().join("aside"));
        place.start_server();
        place.assert_startable(first + 23);
    }
}
