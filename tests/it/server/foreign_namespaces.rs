//! User namespaces, in which all users outside have the same number. None of these users is mistaken for the user of this process
//! or for root.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use autoappdev::file_id::FileId;
use rustix::fs::{FlockOperation, flock};
use serde_json::json;

use super::foreign_files::{ANOTHER, THIRD, copied_binary, ended, entries, is_root, set_mode};
use super::foreign_owners::as_another;
use crate::support::{Place, not_run};

/// Enters a namespace in which `/proc`, which shows the mapping of the numbers, is hidden.
const HIDE_PROC: &str = "mount -t tmpfs none /proc && exec \"$@\"";
const AS_ROOT: &[&str] = &["unshare", "-U", "--map-root-user"];
const AS_ITSELF: &[&str] = &["unshare", "-U", "--map-current-user"];
/// With the number that the users outside also have.
const AS_NOBODY: &[&str] = &["unshare", "-U", "--map-user=65534", "--map-group=65534"];
const WITHOUT_MAP: &[&str] = &["unshare", "-U"];
const AS_ROOT_WITHOUT_PROC: &[&str] = &["unshare", "-U", "-m", "--map-root-user", "sh", "-c", HIDE_PROC, "sh"];

const UNKNOWN: &str = "an unknown user (uid 65534, which stands for every user without an id in this user namespace)";
const NO_NUMBER: &str = "this process runs as uid 65534, which also stands for every user without an id in its user namespace";

/// Returns a command of the third user that enters namespaces with `words`, without the test's own settings.
fn of_third_user(place: &Place, words: &[&str], args: &[&str]) -> Command {
    let mut command = place.command_of(Path::new("setpriv"));
    command
        .args(["--reuid=65533", "--regid=65533", "--clear-groups"])
        .args(words)
        .arg(place.folder().join("autoappdev"))
        .args(args);
    for name in ["HOST", "PORT", "RUNTIME_DIR", "PIPELINE_CWD", "DISK_FREE_MB"] {
        command.env_remove(format!("AUTOAPPDEV_{name}"));
    }
    command
}

pub(super) fn can_mount() -> bool {
    let mounts = Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "none", "/mnt"]).status();
    let can_mount = mounts.is_ok_and(|status| status.success());
    if !can_mount {
        not_run("nothing can be mounted here", "AUTOAPPDEV_REQUIRE_TMPFS");
    }
    can_mount
}

/// Returns the error of a server of the third user.
fn refused(place: &Place, words: &[&str], runtime: &OsStr, folder: &Path) -> String {
    let mut command = of_third_user(place, words, &["serve"]);
    command.current_dir(folder).env("AUTOAPPDEV_PORT", "0").env("AUTOAPPDEV_RUNTIME_DIR", runtime);
    let (code, said) = ended(command);
    assert!(code == 1 && said.contains("cannot use"), "{words:?}: {said}");
    said
}

fn give(path: &Path, owner: u32, mode: u32) {
    chown(path, Some(owner), Some(owner)).expect("we are root");
    set_mode(path, mode);
}

fn create_for(path: &Path, owner: u32) {
    fs::create_dir(path).expect("creates");
    give(path, owner, 0o755);
}

/// Locks a runtime directory as its server would, as the other user, and listens at its socket. Returns the bytes that arrive
/// there.
fn trap(folder: &Path) -> (Arc<Mutex<Vec<u8>>>, fs::File) {
    let runtime = folder.join("runtime");
    create_for(&runtime, ANOTHER);
    let (path, dir) = (runtime.join("server.sock"), FileId::of(&runtime).expect("there"));
    let info = json!({"pid": 1, "id": "x", "dir": dir, "path": runtime, "socket": path});
    let listener = as_another(move || {
        let listener = UnixListener::bind(&path).expect("a free path");
        set_mode(&path, 0o777);
        fs::write(path.with_file_name("server.json"), info.to_string()).expect("writes");
        set_mode(&path.with_file_name("server.json"), 0o644);
        listener
    });
    let lock = fs::File::open(&runtime).expect("there");
    flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("free");
    let received = Arc::new(Mutex::new(Vec::new()));
    let kept = received.clone();
    // The thread ends with the test process.
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = [0; 8192];
            let count = stream.read(&mut bytes).unwrap_or_default();
            kept.lock().expect("no panic").extend_from_slice(&bytes[..count]);
            let _client_may_be_gone = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"ok\":true}");
        }
    });
    (received, lock)
}

#[test]
fn client_in_user_namespace_sends_nothing_to_server_of_outside_user() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    set_mode(place.folder(), 0o755);
    copied_binary(&place);
    let (folder, own) = (place.folder().join("theirs"), place.folder().join("own"));
    for (dir, owner) in [(&folder, ANOTHER), (&own, THIRD)] {
        create_for(dir, owner);
    }
    give(place.folder(), THIRD, 0o755);
    let (received, _lock) = trap(&folder);
    let cases = [
        (&[][..], "another user (uid 65534)"),
        (AS_ROOT, UNKNOWN),
        (AS_ITSELF, UNKNOWN),
        (AS_NOBODY, NO_NUMBER),
        (WITHOUT_MAP, NO_NUMBER),
        (AS_ROOT_WITHOUT_PROC, UNKNOWN),
    ];
    for (words, why) in cases {
        if words == AS_ROOT_WITHOUT_PROC && !can_mount() {
            continue;
        }
        // In the other user's folder, and with a path that leads there from the user's own folder.
        for (at, runtime) in [(&folder, None), (&own, Some(folder.join("runtime")))] {
            for args in [&["start", "x", "--env", "SECRET"][..], &["status"], &["stop"]] {
                let mut command = of_third_user(&place, words, args);
                command.current_dir(at).envs([("AUTOAPPDEV_TOKEN", "a-token-for-the-own-server"), ("SECRET", "a secret")]);
                command.envs(runtime.iter().map(|runtime| ("AUTOAPPDEV_RUNTIME_DIR", runtime)));
                let (code, said) = ended(command);
                let got = received.lock().expect("no panic").clone();
                assert!(got.is_empty(), "{words:?} {args:?}: {}", String::from_utf8_lossy(&got));
                assert!(code == 4 && said.contains("is not used: ") && said.contains(why), "{words:?} {args:?}: {said}");
            }
        }
    }
}

#[test]
fn server_with_overflow_uid_does_not_start() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    set_mode(place.folder(), 0o755);
    copied_binary(&place);
    let own = place.folder().join("own");
    create_for(&own, THIRD);
    for words in [AS_NOBODY, WITHOUT_MAP] {
        let said = refused(&place, words, own.join("runtime").as_os_str(), &own);
        assert!(said.contains(NO_NUMBER) && said.contains("run it as a user that has a number of its own"), "{words:?}: {said}");
        assert_eq!(entries(&own), Vec::<PathBuf>::new(), "{words:?}: nothing was made");
    }
}

#[test]
fn server_in_user_namespace_refuses_paths_of_outside_users() {
    if !is_root() {
        return;
    }
    let mut place = Place::new();
    copied_binary(&place);
    let [shared, own] = ["shared", "own"].map(|name| place.folder().join(name));
    let (above, mine, link) = (shared.join("above"), shared.join("above/mine"), shared.join("link"));
    for (dir, owner) in [(&shared, THIRD), (&own, THIRD), (&above, ANOTHER), (&mine, THIRD)] {
        create_for(dir, owner);
    }
    symlink(&own, &link).expect("links");
    lchown(&link, Some(ANOTHER), Some(ANOTHER)).expect("we are root");
    give(place.folder(), THIRD, 0o755);
    let outside = "another user (uid 65534)";
    let cases = [(&[][..], outside), (AS_ROOT, UNKNOWN), (AS_ITSELF, UNKNOWN)];
    // The groups of the shared directory, as seen from outside and inside.
    place.set_env("AUTOAPPDEV_TRUSTED_GROUPS", "65533,0");
    // Every user, or a group, could have created the directory and the link in the shared one.
    for mode in [0o1777, 0o775] {
        set_mode(&shared, mode);
        for (words, who) in cases {
            let said = refused(&place, words, mine.join("runtime").as_os_str(), &own);
            assert!(said.contains(&format!("above above it belongs to {who}")), "{words:?} {mode:o}: {said}");
            let said = refused(&place, words, link.join("runtime").as_os_str(), &own);
            assert!(
                said.contains(&format!("link belongs to {who}, who could make it lead elsewhere")),
                "{words:?} {mode:o}: {said}"
            );
            assert!(entries(&mine).is_empty() && entries(&own).is_empty(), "{words:?} {mode:o}: nothing was made");
        }
    }
    // Only the owner of the directory can have created them, as the machine's root has created `/bin`.
    set_mode(&shared, 0o755);
    let real = own.canonicalize().expect("there");
    let by_link_of_root = format!("/bin/../..{}", real.display());
    for runtime in [mine.join("runtime"), link.join("runtime"), Path::new(&by_link_of_root).join("other")] {
        for words in [AS_ROOT, AS_ITSELF] {
            let mut command = of_third_user(&place, words, &[]);
            command.env("AUTOAPPDEV_PORT", "0").env("AUTOAPPDEV_RUNTIME_DIR", &runtime).current_dir(&own);
            place.start_server_with(command);
            assert_eq!(place.get("/api/health").status, 200, "{words:?} {runtime:?}");
            assert_eq!(place.stop_server(), 0);
        }
    }
}

/// Without `/proc`, a process cannot tell whether the number of the users outside is that of `nobody`.
#[test]
fn directory_of_nobody_is_not_trusted_as_roots_without_proc() {
    if !is_root() || !can_mount() {
        return;
    }
    let place = Place::new();
    set_mode(place.folder(), 0o755);
    copied_binary(&place);
    let (above, mine) = (place.folder().join("above"), place.folder().join("above/mine"));
    for (dir, owner) in [(&above, ANOTHER), (&mine, THIRD)] {
        create_for(dir, owner);
    }
    // `serve` refuses to run without `/proc` at all.
    for args in [&["status"][..], &["migrate"]] {
        let mut in_namespace = of_third_user(&place, AS_ROOT_WITHOUT_PROC, args);
        in_namespace.current_dir(&mine);
        let itself = of_third_user(&place, &[], args);
        let mut outside = Command::new("unshare");
        outside.args(["-m", "sh", "-c", HIDE_PROC, "sh"]).arg(itself.get_program()).args(itself.get_args()).current_dir(&mine);
        for (name, value) in itself.get_envs() {
            match value {
                Some(value) => outside.env(name, value),
                None => outside.env_remove(name),
            };
        }
        for command in [in_namespace, outside] {
            let (code, said) = ended(command);
            assert!(code != 0 && said.contains(" above it belongs to "), "{args:?}: {said}");
        }
    }
    assert!(entries(&mine).is_empty(), "nothing was made");
}
