//! The files of a server: which server owns them, that two servers never share them, and that a server that fails to start leaves
//! none.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::{Place, signal, until_true};
use serde_json::json;

#[test]
fn second_server_on_a_runtime_directory_is_refused() {
    let place = Place::serving("sleep.sh");
    let (pid, _) = place.start();
    let said = place.refused_server(("AUTOAPPDEV_PORT", "0"));
    assert!(said.contains(&place.server_pid().to_string()), "{said}");
    assert!(said.contains(&format!("http://127.0.0.1:{}/", place.port())), "{said}");
    assert!(said.contains(&*place.runtime().to_string_lossy()) && said.contains("AUTOAPPDEV_RUNTIME_DIR"), "{said}");
    // People, and programs that clean folders of old files, may remove these as leftovers.
    for left_over in ["server.lock", "autoappdev.db-server.lock"] {
        fs::remove_file(place.runtime().join(left_over)).expect("there");
    }
    assert_eq!(place.client(&["status"]).0, 0, "clients find it");
    assert!(place.refused_server(("AUTOAPPDEV_PORT", "0")).contains(&place.server_pid().to_string()));
    assert_eq!(place.pipeline()["pid"], pid);
    assert_eq!(place.until_all_agree(), "running");
}

#[test]
fn external_database_belongs_to_one_server_and_runtime_directory() {
    let mut place = Place::new();
    let url = format!("sqlite:{}", place.root().join("elsewhere.db").display());
    place.set_env("DATABASE_URL", &url);
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.start_server();
    let (pid, run_id) = place.start();
    let other = place.root().join("other-runtime");
    let other = other.to_str().expect("text");

    let said = place.refused_server(("AUTOAPPDEV_RUNTIME_DIR", other));
    assert!(said.contains("another server uses it") && said.contains("DATABASE_URL"), "{said}");
    place.kill_server();
    // If this server started alone, it would report the run as lost, because it cannot see the run's shim.
    let said = place.refused_server(("AUTOAPPDEV_RUNTIME_DIR", other));
    let runtime = place.runtime().canonicalize().expect("there");
    assert!(said.contains(&format!("run {run_id} is still running in {}", runtime.display())), "{said}");
    assert!(said.contains("AUTOAPPDEV_RUNTIME_DIR"), "{said}");

    place.start_server();
    assert_eq!((place.state().as_str(), &place.pipeline()["pid"]), ("running", &json!(pid)), "adopted as ever");
    place.act("stop").ok();
    assert_eq!(place.stop_server(), 0);
    // No run is live there any longer, so the owner can move.
    place.set_env("AUTOAPPDEV_RUNTIME_DIR", other);
    place.start_server();
    assert_eq!(place.pipeline()["run_id"], run_id);
}

#[test]
fn database_in_runtime_directory_of_another_server_is_refused() {
    let mut place = Place::serving("sleep.sh");
    let (pid, run_id) = place.start();
    // The database belongs to the server whose runtime directory contains it. Another server that names it, by whatever path, is
    // refused.
    let link = place.folder().join("link.db");
    std::os::unix::fs::symlink(place.database(), &link).expect("links");
    let url = format!("sqlite:{}", link.display());
    let mut other = Place::new();
    other.set_env("DATABASE_URL", &url);
    let said = other.refused_server(("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh"));
    assert!(said.contains("another server uses it"), "{said}");
    place.kill_server();
    let said = other.refused_server(("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh"));
    assert!(said.contains(&format!("run {run_id} is still running in")), "{said}");
    place.start_server();
    assert_eq!(place.pipeline()["pid"], json!(pid));
    // The other way round.
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    assert_eq!(place.stop_server(), 0);
    other.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    other.start_server();
    let (_, run_id) = other.start();
    let said = place.refused_server(("AUTOAPPDEV_PORT", "0"));
    assert!(said.contains("another server uses it"), "{said}");
    other.kill_server();
    let said = place.refused_server(("AUTOAPPDEV_PORT", "0"));
    assert!(said.contains(&format!("run {run_id} is still running in")), "{said}");
}

/// Returns every path below `dir` with its content, or without content if a live server removes the file meanwhile.
fn everything(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("there").flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("there");
        found.push((path.display().to_string(), if kind.is_file() { fs::read(&path).unwrap_or_default() } else { Vec::new() }));
        if kind.is_dir() {
            found.extend(everything(&path));
        }
    }
    found.sort();
    found
}

/// Returns the paths whose content differs.
fn changes(before: &[(String, Vec<u8>)], after: &[(String, Vec<u8>)]) -> Vec<String> {
    let differ = before.iter().filter(|found| !after.contains(found)).chain(after.iter().filter(|found| !before.contains(found)));
    differ.map(|(path, content)| format!("{path} ({} bytes)", content.len())).collect()
}

#[test]
fn failed_serve_leaves_no_files() {
    let mut place = Place::with_runtime("new/deep/runtime");
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let taken_port = taken.local_addr().expect("bound").port().to_string();
    fs::write(place.folder().join("text.db"), "this is no database, and long enough to be looked at").expect("writes");
    let foreign = format!("sqlite:{}/text.db", place.folder().display());
    let new = format!("sqlite:{}/new.db", place.folder().display());
    place.set_env("DATABASE_URL", &new);
    let reasons = |place: &Place| {
        for (name, value, says) in [
            ("AUTOAPPDEV_PORT", &*taken_port, "cannot listen on 127.0.0.1:"),
            ("AUTOAPPDEV_PIPELINE_CWD", "/no/such/root", "as the root"),
            ("DATABASE_URL", &*foreign, "text.db"),
            ("DATABASE_URL", "sqlite:/no/such/folder/x.db", "/no/such/folder"),
            ("AUTOAPPDEV_SOCKET", "text.db", "cannot listen on"),
            ("AUTOAPPDEV_HOST", "203.0.113.1", "cannot listen on 203.0.113.1:"),
        ] {
            let before = everything(place.folder());
            let said = place.refused_server((name, value));
            assert!(said.contains(says), "{name}={value}: {said}");
            assert_eq!(changes(&before, &everything(place.folder())), Vec::<String>::new(), "{name}={value}");
        }
    };
    // If nothing existed before, not even the folders above the runtime directory remain.
    reasons(&place);
    assert!(!place.folder().join("new").exists());
    // With a runtime directory that already exists and contains a file of the owner.
    fs::create_dir_all(place.runtime()).expect("creates");
    fs::write(place.runtime().join("notes.txt"), "precious").expect("writes");
    reasons(&place);
    // Late, after the database and the log were created: a secret that other users can read is refused.
    place.set_env("AUTOAPPDEV_TOKEN", "a-token-that-is-long-enough");
    let key = place.runtime().join("session-key");
    fs::write(&key, "a-key-that-is-long-enough\n").expect("writes");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("ours");
    let before = everything(place.folder());
    assert!(place.refused_server(("AUTOAPPDEV_PORT", "0")).contains("session-key"));
    assert_eq!(changes(&before, &everything(place.folder())), Vec::<String>::new());
    fs::remove_file(&key).expect("there");
    // The files of an earlier server, and the record of the database's owner, stay.
    place.start_server();
    assert_eq!(place.stop_server(), 0);
    // A server may leave the write-ahead log to the next process that opens the database, if a reader closed last.
    rusqlite::Connection::open(place.folder().join("new.db")).and_then(|sql| sql.execute_batch("VACUUM")).expect("ours");
    let other = place.folder().join("other");
    fs::create_dir(&other).expect("creates");
    let key = other.join("session-key");
    fs::write(&key, "a-key-that-is-long-enough\n").expect("writes");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("ours");
    let before = everything(place.folder());
    assert!(place.refused_server(("AUTOAPPDEV_RUNTIME_DIR", other.to_str().expect("text"))).contains("session-key"));
    assert_eq!(changes(&before, &everything(place.folder())), Vec::<String>::new());
    place.start_server();
}

#[test]
fn second_serve_beside_a_live_server_leaves_no_files() {
    let place = Place::serving("sleep.sh");
    place.start();
    // The live server may replace retention.json while the directory is read, so either of its two names can appear.
    let names = || {
        let found = everything(&place.runtime()).into_iter().map(|(name, _)| name);
        found.filter(|name| !name.contains("/retention.json")).collect::<Vec<_>>()
    };
    let before = names();
    let port = place.port().to_string();
    for (name, value) in
        [("AUTOAPPDEV_PORT", "0"), ("AUTOAPPDEV_PORT", &*port), ("AUTOAPPDEV_TOKEN", "a-token-that-is-long-enough")]
    {
        let said = place.refused_server((name, value));
        assert!(
            said.contains(&format!("the server with pid {} at http://127.0.0.1:{port}/ already uses ", place.server_pid())),
            "{said}"
        );
        assert_eq!(names(), before, "{name}={value}");
    }
    assert_eq!(place.client(&["pause"]).0, 0);
}

#[test]
fn long_runtime_path_with_spaces_and_umlauts_works() {
    let name = format!("a dir/öäü 例/{}", "d".repeat(200));
    let mut place = Place::with_runtime(&name);
    assert!(place.runtime().as_os_str().len() > 200);
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "tree.sh");
    place.start_server();
    let (pid, run_id) = place.start();
    place.until_line("stubborn");
    place.act("pause").ok();
    place.restart_server();
    assert_eq!(place.until_all_agree(), "paused");
    assert_eq!(place.pipeline()["pid"], pid);
    place.act("resume").ok();
    place.post("/api/pipeline/stop", json!({"grace_s": 0.1})).ok();
    assert_eq!(place.until_all_agree(), "stopped");
    // Processes that the run leaves behind are found by its path.
    let (_, run_id) = (place.start(), run_id + 1);
    until_true("the whole tree is there", || place.processes().len() >= 8);
    signal(place.shim_pid(run_id), "KILL");
    place.until_state("stopped");
    assert!(place.processes().is_empty());
}

/// Adds the path and mode of a folder and everything in it. The server and the shim are alive: files that they remove meanwhile
/// are skipped.
fn modes(path: &Path, found: &mut Vec<(String, u32)>) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    // A link has no mode itself: symlink(7).
    if meta.is_symlink() {
        return;
    }
    found.push((path.display().to_string(), meta.permissions().mode() & 0o7777));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        modes(&entry.path(), found);
    }
}

#[test]
fn runtime_directory_is_accessible_only_by_owner() {
    let mut place = Place::serving("sleep.sh");
    place.start_with(json!({"script": "exit.sh"}));
    place.until_state("stopped");
    place.start();
    place.until_line("ready");
    place.act("pause").ok();
    place.restart_server();
    let mut found = Vec::new();
    modes(&place.runtime(), &mut found);
    let names: Vec<&str> = found.iter().filter_map(|(path, _)| path.rsplit('/').next()).collect();
    for name in ["autoappdev.db", "autoappdev.db-wal", "backend.log", "server.json", "PAUSE", "ctl.sock", "journal.jsonl", "lock"]
    {
        assert!(names.contains(&name), "{name} is not there: {names:?}");
    }
    let open: Vec<_> = found
        .iter()
        .filter(|(path, mode)| *mode != if Path::new(path).is_dir() { 0o700 } else { 0o600 })
        .map(|(path, mode)| format!("{path}: {mode:o}"))
        .collect();
    assert!(open.is_empty(), "{open:#?}");
}
