//! Files and directories of other users inside a runtime directory, and other users who can open what is in it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;

use rustix::fs::{FlockOperation, flock};
use rustix::thread::{Gid, Uid, set_thread_gid, set_thread_res_uid};
use serde_json::json;

use super::foreign_files::{ANOTHER, bare, copied_binary, ended, is_root, set_mode};
use super::foreign_links::used;
use crate::support::{Place, until_true};

/// Calls `act` as the other user.
pub(super) fn as_another<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let done = thread::spawn(move || {
        // Affects only this thread.
        let another = Uid::from_raw(ANOTHER);
        set_thread_gid(Gid::from_raw(ANOTHER)).expect("we are root");
        set_thread_res_uid(another, another, another).expect("we are root");
        act()
    });
    done.join().expect("no panic")
}

/// Creates a place whose runtime directory, still empty, belongs to the other user.
fn place_of_another() -> Place {
    let place = Place::new();
    set_mode(place.folder(), 0o755);
    fs::create_dir(place.runtime()).expect("creates");
    chown(place.runtime(), Some(ANOTHER), Some(ANOTHER)).expect("we are root");
    copied_binary(&place);
    place
}

/// Returns a command of the other user in that place.
fn by_another(place: &Place, args: &[&str]) -> Command {
    let mut command = place.command_of(&place.folder().join("autoappdev"));
    command.uid(ANOTHER).gid(ANOTHER).args(args);
    command
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o7777
}

#[test]
fn files_of_another_user_in_the_runtime_directory_are_refused() {
    if !is_root() {
        return;
    }
    let mut place = used(1);
    let runtime = place.runtime().canonicalize().expect("there");
    let database = runtime.join("autoappdev.db");
    // The file remains if another connection is open at the end, and then contains the history.
    fs::OpenOptions::new().append(true).create(true).open(runtime.join("autoappdev.db-wal")).expect("opens");
    for name in ["runs", "server.lock", "backend.log", "autoappdev.db", "autoappdev.db-wal", "autoappdev.db-server.lock"] {
        let path = runtime.join(name);
        chown(&path, Some(ANOTHER), None).expect("we are root");
        let said = place.refused_server(("AUTOAPPDEV_RUNS_KEEP", "1"));
        assert!(said.contains(path.to_str().expect("text")) && said.contains("another user (uid 65534)"), "{name}: {said}");
        assert!(said.contains("chown"), "{name}: {said}");
        if ["autoappdev.db", "autoappdev.db-wal"].contains(&name) {
            for args in [&["check"][..], &["migrate"]] {
                let mut command = place.command();
                command.args(args);
                let (code, said) = ended(command);
                assert!(code == 1 && said.contains("another user (uid 65534)"), "{name}, {args:?}: {said}");
            }
        }
        chown(&path, Some(0), None).expect("we are root");
    }
    // A secret has its own sentence, which says that its owner knows the secret.
    chown(runtime.join("token"), Some(ANOTHER), None).expect("we are root");
    let said = place.refused_server(("AUTOAPPDEV_RUNS_KEEP", "1"));
    assert!(said.contains("token: it belongs to another user (uid 65534), who knows what is in it"), "{said}");
    chown(runtime.join("token"), Some(0), None).expect("we are root");
    assert!(database.exists() && place.run_dir(1).exists());
    place.start_server();
    assert_eq!(place.get("/api/runs").ok()["runs"].as_array().map(Vec::len), Some(1));
}

/// Files that a command run with `sudo` has left there.
#[test]
fn files_of_root_in_the_runtime_directory_of_another_user_are_refused() {
    if !is_root() {
        return;
    }
    let mut place = place_of_another();
    let runtime = place.runtime().canonicalize().expect("there");
    let database = runtime.join("autoappdev.db");
    fs::write(&database, "").expect("writes");
    set_mode(&database, 0o600);
    let (code, said) = ended(by_another(&place, &["serve"]));
    let path = database.display();
    let sentence = format!(
        "cannot use {path}: it belongs to root (uid 0); move it away, or give it to this user: `chown -R {ANOTHER} {path}`"
    );
    assert!(code == 1 && said.contains(&sentence), "{said}");
    chown(&database, Some(ANOTHER), None).expect("as the sentence says");
    let command = by_another(&place, &[]);
    place.start_server_with(command);
    // Root can read this user's database, and leaves no files there.
    let mut command = place.command();
    command.arg("check");
    let (code, said) = ended(command);
    assert_eq!(code, 0, "{said}");
    let owners = fs::read_dir(&runtime).expect("there").flatten().map(|entry| entry.metadata().expect("there").uid());
    assert!(owners.into_iter().all(|owner| owner == ANOTHER));
}

/// Follows the advice of each error until the server starts.
#[test]
fn permission_errors_at_start_name_working_remedy() {
    if !is_root() {
        return;
    }
    let mut place = place_of_another();
    let runtime = place.runtime().canonicalize().expect("there");
    let command = by_another(&place, &[]);
    place.start_server_with(command);
    assert_eq!(place.stop_server(), 0);
    for (name, owner, mode) in [
        ("", ANOTHER, 0o000),
        ("", ANOTHER, 0o300),
        ("", ANOTHER, 0o600),
        ("server.lock", ANOTHER, 0o000),
        ("token", 0, 0o600),
        ("read-token", 0, 0o600),
        ("session-key", 0, 0o600),
    ] {
        let path = if name.is_empty() { runtime.clone() } else { runtime.join(name) };
        chown(&path, Some(owner), None).expect("we are root");
        set_mode(&path, mode);
        let (code, said) = ended(by_another(&place, &["serve"]));
        assert!(code == 1 && said.contains("Permission denied"), "{name} {mode:o}: {said}");
        assert!(!said.contains("room on the disk"), "{name} {mode:o}: {said}");
        // Only root can give a file to another user.
        let advised = if owner == 0 { "chown " } else { "chmod " };
        let advice = said.split('`').find(|text| text.starts_with(advised)).unwrap_or_else(|| panic!("{name} {mode:o}: {said}"));
        let done = Command::new("sh").args(["-c", advice]).status().expect("sh is everywhere");
        assert!(done.success(), "{name} {mode:o}: {said}");
        let command = by_another(&place, &[]);
        place.start_server_with(command);
        assert_eq!(place.stop_server(), 0, "{name} {mode:o}");
    }
}

#[test]
fn run_or_log_of_another_user_is_neither_shown_nor_compressed() {
    if !is_root() {
        return;
    }
    let mut place = used(3);
    let log = place.run_dir(1).join("log");
    let segment = |run_id: i64| {
        let entry = fs::read_dir(place.run_dir(run_id).join("log")).expect("there").flatten().next();
        entry.expect("a segment").path()
    };
    let (first, second) = (segment(1), segment(2));
    chown(&log, Some(ANOTHER), None).expect("we are root");
    chown(&second, Some(ANOTHER), None).expect("we are root");
    place.start_server();
    for run_id in [1, 2] {
        let answer = place.get(&format!("/api/logs?since=0&run={run_id}"));
        assert!(!answer.body.to_string().contains("\"100\""), "run {run_id}: {}", answer.body);
    }
    until_true("the log of a later run is packed", || {
        let mut files = fs::read_dir(place.run_dir(3).join("log")).expect("there").flatten();
        files.any(|file| file.file_name().to_string_lossy().ends_with(".log.gz"))
    });
    assert!(first.exists() && second.exists(), "they were not replaced by packed ones");
}

/// Another user who can open a file or directory can lock it, and so prevent every server from starting.
#[test]
fn runtime_directory_readable_by_others_is_made_private() {
    let mut place = used(1);
    set_mode(place.folder(), 0o755);
    let runtime = place.runtime();
    let files = ["server.lock", "backend.log", "autoappdev.db", "autoappdev.db-server.lock"].map(|name| runtime.join(name));
    set_mode(&runtime, 0o755);
    set_mode(&runtime.join("runs"), 0o777);
    for path in &files {
        set_mode(path, 0o644);
    }
    place.start_server();
    assert_eq!(place.stop_server(), 0);
    let modes = [&runtime, &runtime.join("runs")].map(|path| mode(path));
    assert_eq!(modes, [0o700; 2]);
    assert!(files.iter().all(|path| mode(path) == 0o600), "{files:?}");
    let log = fs::read_to_string(runtime.join("backend.log")).expect("text");
    let note = "runtime had mode 755; other users can no longer open it (mode 700)";
    assert!(log.contains(note), "{log}");
    if !is_root() {
        return;
    }
    let locked = as_another({
        let paths = [runtime.clone()].into_iter().chain(files).collect::<Vec<_>>();
        move || {
            paths
                .iter()
                .map(|path| {
                    fs::File::open(path).map(|file| flock(file, FlockOperation::LockExclusive)).map_err(|error| error.kind())
                })
                .collect::<Vec<_>>()
        }
    });
    assert!(locked.iter().all(|tried| *tried == Err(ErrorKind::PermissionDenied)), "{locked:?}");
    place.start_server();
    // The same for a database elsewhere.
    assert_eq!(place.stop_server(), 0);
    let shared = place.folder().join("shared");
    fs::create_dir(&shared).expect("creates");
    set_mode(&shared, 0o755);
    let database = shared.join("x.db");
    fs::write(&database, "").expect("writes");
    place.set_env("DATABASE_URL", &format!("sqlite:{}", database.display()));
    place.start_server();
    let shm = shared.join("x.db-shm");
    assert_eq!([&database, &shm].map(|path| mode(path)), [0o600; 2]);
    place.start_with(json!({"script": "exit.sh"}));
}

#[test]
fn client_commands_ignore_a_server_json_of_another_user() {
    if !is_root() {
        return;
    }
    let mut place = Place::serving("sleep.sh");
    place.start();
    let info = place.runtime().join("server.json");
    chown(&info, Some(ANOTHER), None).expect("we are root");
    let mut command = bare(&place, &["status"]);
    command.env("AUTOAPPDEV_RUNTIME_DIR", place.runtime());
    let (code, said) = ended(command);
    assert!(code == 4 && said.contains("it belongs to another user (uid 65534)"), "{said}");
    chown(&info, Some(0), None).expect("we are root");
    assert_eq!(place.client(&["stop", "--now"]).0, 0);
    assert_eq!(place.stop_server(), 0);
}
