//! Files and directories that another user could have written. A server takes neither its listeners nor its data from them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FileType, FlockOperation, flock, mknodat};
use serde_json::json;

use crate::fake_server::FakeServer;
use crate::support::{Place, not_run, until};

/// Any two users who are not root.
pub(super) const ANOTHER: u32 = 65_534;
pub(super) const THIRD: u32 = 65_533;
const TOKEN: &str = "a-token-that-opens-the-door";

pub(super) fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        not_run("files of another user can only be made by root", "AUTOAPPDEV_REQUIRE_ROOT");
    }
    is_root
}

/// A file in place of the directory with the runs makes every read of the latest run fail.
#[test]
fn unreadable_runs_are_reported_once_and_block_no_request() {
    let mut place = Place::serving("sleep.sh");
    let (_, run_id) = place.start();
    place.act("stop").ok();
    place.until_settled(run_id);
    assert_eq!(place.stop_server(), 0);
    let runs = place.runtime().join("runs");
    fs::rename(&runs, place.folder().join("runs-of-before")).expect("moves");
    mknodat(CWD, &runs, FileType::Fifo, rustix::fs::Mode::RWXU, 0).expect("makes a pipe");
    place.start_server();
    for _ in 0..100 {
        place.get("/api/health").ok();
        assert_eq!(place.state(), "stopped");
    }
    let reports = place.server_log().matches("failed to read its directory").count();
    assert_eq!(reports, 1, "{}", place.server_log());
}

/// Returns a copy of the binary that other users can run, if they can reach the place's folder.
pub(super) fn copied_binary(place: &Place) -> PathBuf {
    let binary = place.folder().join("autoappdev");
    // Copied by another process, because a file that is open for writing here cannot be executed.
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_autoappdev")).arg(&binary).status().expect("cp is there").success());
    binary
}

pub(super) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("ours");
}

/// Returns a command in the folder of the place, without the test's environment variables.
pub(super) fn bare(place: &Place, args: &[&str]) -> Command {
    let mut command = place.command();
    for name in ["HOST", "PORT", "RUNTIME_DIR", "PIPELINE_CWD", "DISK_FREE_MB"] {
        command.env_remove(format!("AUTOAPPDEV_{name}"));
    }
    command.args(args);
    command
}

/// Returns the exit code and standard error of a command that ends by itself.
pub(super) fn ended(mut command: Command) -> (i32, String) {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("spawns");
    let mut stderr = child.stderr.take().expect("piped");
    let said = std::thread::spawn(move || std::io::read_to_string(&mut stderr).expect("text"));
    let deadline = std::time::Instant::now() + crate::support::DEADLINE;
    let status = loop {
        match child.try_wait().expect("ours") {
            Some(status) => break status,
            None if std::time::Instant::now() > deadline => {
                let _ended = child.kill();
                panic!("{command:?} does not end: {}", said.join().expect("text"));
            }
            None => std::thread::sleep(std::time::Duration::from_millis(2)),
        }
    };
    (status.code().expect("an exit code"), said.join().expect("text"))
}

pub(super) fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(dir).expect("there").flatten().map(|entry| entry.path()).collect();
    entries.sort();
    entries
}

#[test]
fn writable_dotenv_cannot_set_access_settings() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let dotenv = place.folder().join(".env");
    let before = |place: &Place| entries(place.folder());
    for (owner, mode, why) in [
        (0, 0o666, "every user can write to it (mode 666)"),
        (0, 0o664, "its group can write to it (mode 664)"),
        (ANOTHER, 0o600, "it belongs to another user (uid 65534)"),
    ] {
        for (setting, value) in [
            ("AUTOAPPDEV_HOST", "0.0.0.0"),
            ("AUTOAPPDEV_PORT", "0"),
            ("AUTOAPPDEV_TOKEN", TOKEN),
            ("AUTOAPPDEV_PIPELINE_CWD", "/tmp"),
            ("AUTOAPPDEV_RUNTIME_DIR", "elsewhere"),
            ("AUTOAPPDEV_ALLOW_ORIGIN", "http://evil.example"),
            ("AUTOAPPDEV_SOCKET", "/tmp/open.sock"),
            ("DATABASE_URL", "sqlite:elsewhere.db"),
        ] {
            fs::write(&dotenv, format!("AUTOAPPDEV_PIPELINE_SCRIPT=sleep.sh\n{setting}={value}\n")).expect("writes");
            set_mode(&dotenv, mode);
            chown(&dotenv, Some(owner), None).expect("we are root");
            let there = before(&place);
            for command in ["serve", "status", "check"] {
                let (code, err) = ended(bare(&place, &[command]));
                let path = dotenv.canonicalize().expect("there");
                let sentence = format!("autoappdev: {setting} in {} is not used, because {why}; make the file", path.display());
                assert!(code == 2 && err.starts_with(&sentence) && err.contains("`chmod go-w .env`"), "{command}: {err}");
                assert!(!err.contains(TOKEN), "{err}");
            }
            assert_eq!(before(&place), there, "nothing was made");
        }
    }
}

/// Many distributions give users umask 002. The tests themselves run with another umask (`.cargo/config.toml`), whatever their
/// user has.
#[test]
fn group_writable_files_of_umask_002_are_refused_with_remedy() {
    let status = fs::read_to_string("/proc/self/status").expect("ours");
    assert!(status.contains("\nUmask:\t0022\n"), "tests run by cargo, whose runner sets the umask: {status}");
    let mut place = Place::new();
    let typed = |line: &str| {
        let status = Command::new("sh").args(["-c", line]).current_dir(place.folder()).status();
        assert!(status.expect("sh is everywhere").success(), "{line}");
    };
    let command = || {
        let server = bare(&place, &[]);
        let mut command = Command::new("sh");
        command.args(["-c", "umask 002; exec \"$@\"", "sh"]).arg(server.get_program());
        for (name, value) in server.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.current_dir(place.folder());
        command
    };
    let refused = || {
        let mut command = command();
        command.arg("serve");
        ended(command)
    };
    let folder = place.folder().canonicalize().expect("there");
    typed("umask 002; echo AUTOAPPDEV_PORT=0 >.env; mkdir runtime");
    let (code, said) = refused();
    let sentence = format!(
        "autoappdev: AUTOAPPDEV_PORT in {}/.env is not used, because its group can write to it (mode 664); make the file writable \
         for this user only (`chmod go-w .env` or `chown`)",
        folder.display()
    );
    assert!(code == 2 && said.starts_with(&sentence), "{said}");
    typed("chmod go-w .env");
    let (code, said) = refused();
    let remedy = format!("chmod go-w {}/runtime", folder.display());
    let sentence = format!("its group can write to {}/runtime (mode 775); `{remedy}` prevents that", folder.display());
    assert!(code == 1 && said.contains(&sentence), "{said}");
    typed(&remedy);
    let command = command();
    place.start_server_with(command);
    assert_eq!(place.stop_server(), 0);
}

#[test]
fn writable_dotenv_can_set_pipeline_settings() {
    let mut place = Place::new();
    let dotenv = place.folder().join(".env");
    fs::write(
        &dotenv,
        format!("AUTOAPPDEV_PIPELINE_SCRIPT=sleep.sh\nAUTOAPPDEV_GRACE_S=1\nAUTOAPPDEV_HOST=0.0.0.0\nAUTOAPPDEV_TOKEN={TOKEN}\n"),
    )
    .expect("writes");
    set_mode(&dotenv, 0o666);
    // A setting from the environment takes precedence over the file.
    place.use_token("a-token-of-the-environment");
    place.start_server();
    assert_eq!(place.pipeline()["default_script"], "sleep.sh");
    let (code, said) = place.stop_server_and_listen();
    let path = dotenv.canonicalize().expect("there");
    assert!(
        code == 0
            && said.contains(&format!("settings from {}: AUTOAPPDEV_PIPELINE_SCRIPT, AUTOAPPDEV_GRACE_S\n", path.display())),
        "{said}"
    );
    let log = fs::read_to_string(place.runtime().join("backend.log")).expect("text");
    let line = log.lines().find(|line| line.contains("INFO settings from the environment: ")).expect("a line");
    assert!(["HOST", "PORT", "RUNTIME_DIR", "PIPELINE_CWD", "TOKEN"].iter().all(|name| line.contains(name)), "{line}");
    assert!([said, log].iter().all(|text| !text.contains("a-token-of-the-environment") && !text.contains(TOKEN)));
}

#[test]
fn server_start_lists_settings_from_dotenv() {
    let mut place = Place::new();
    let dotenv = place.folder().join(".env");
    fs::write(
        &dotenv,
        format!("AUTOAPPDEV_HOST=127.0.0.1\nAUTOAPPDEV_PORT=0\nAUTOAPPDEV_TOKEN={TOKEN}\nAUTOAPPDEV_PIPELINE_CWD=root\n"),
    )
    .expect("writes");
    let command = bare(&place, &[]);
    place.start_server_with(command);
    let (code, said) = place.stop_server_and_listen();
    let names = "AUTOAPPDEV_HOST, AUTOAPPDEV_PORT, AUTOAPPDEV_PIPELINE_CWD, AUTOAPPDEV_TOKEN";
    let sentence = format!("settings from {}: {names}\n", dotenv.canonicalize().expect("there").display());
    assert!(code == 0 && said.contains(&sentence) && !said.contains(TOKEN), "{said}");
}

#[test]
fn runtime_directory_writable_by_others_is_refused() {
    let place = Place::new();
    let runtime = place.runtime();
    fs::create_dir(&runtime).expect("creates");
    let real = runtime.canonicalize().expect("there");
    let refused = |why: &str| {
        let (code, err) = ended({
            let mut command = place.command();
            command.arg("serve");
            command
        });
        assert!(code == 1 && err.contains("as the runtime directory") && err.contains(why), "{err}");
        assert_eq!(entries(&runtime), Vec::<PathBuf>::new(), "nothing was made in it");
        let (code, _, err) = place.client(&["stop"]);
        assert!(code == 4 && err.contains("is not used: ") && err.contains(why), "{err}");
    };
    for (mode, who) in [(0o770, "its group"), (0o777, "every user"), (0o1777, "every user")] {
        set_mode(&runtime, mode);
        refused(&format!(
            "{who} can write to {} (mode {mode:03o}); `chmod go-w {}` prevents that",
            real.display(),
            real.display()
        ));
    }
    set_mode(&runtime, 0o700);
    // Any user could replace the directory, unless the sticky bit allows renaming only to owners.
    set_mode(place.folder(), 0o777);
    let above = place.folder().canonicalize().expect("there");
    refused(&format!("every user can write to {} (mode 777); `chmod o-w {}` prevents that", above.display(), above.display()));
    set_mode(place.folder(), 0o1777);
    let mut place = place;
    place.start_server();
    assert_eq!(place.client(&["status"]).0, 0);
}

/// The owner of a directory can rename its entries, with or without the sticky bit.
#[test]
fn runtime_directory_in_a_directory_of_another_user_is_refused() {
    if !is_root() {
        return;
    }
    let mut place = Place::new();
    for mode in [0o755, 0o1777] {
        let theirs = place.folder().join(format!("theirs-{mode:o}"));
        let runtime = theirs.join("runtime");
        fs::create_dir_all(&runtime).expect("creates");
        chown(&theirs, Some(ANOTHER), None).expect("we are root");
        set_mode(&runtime, 0o700);
        set_mode(&theirs, mode);
        place.set_env("AUTOAPPDEV_RUNTIME_DIR", runtime.to_str().expect("text"));
        let err = place.refused_server(("AUTOAPPDEV_PORT", "0"));
        assert!(err.contains("above it belongs to another user (uid 65534)"), "{err}");
        assert_eq!(entries(&runtime), Vec::<PathBuf>::new(), "nothing was made in it");
    }
}

/// A later change of the link would lead the server elsewhere.
#[test]
fn runtime_directory_behind_link_of_another_user_is_refused() {
    if !is_root() {
        return;
    }
    let mut place = Place::new();
    let (shared, own) = (place.folder().join("shared"), place.folder().join("own"));
    for dir in [&shared, &own] {
        fs::create_dir(dir).expect("creates");
    }
    set_mode(&own, 0o700);
    set_mode(&shared, 0o1777);
    let (theirs, by_own) = (shared.join("theirs"), place.folder().join("by-own"));
    symlink(&own, &theirs).expect("links");
    symlink(&theirs, &by_own).expect("links");
    std::os::unix::fs::lchown(&theirs, Some(ANOTHER), Some(ANOTHER)).expect("we are root");
    for path in [theirs.clone(), by_own.clone(), theirs.join("below"), by_own.join("../own")] {
        let err = place.refused_server(("AUTOAPPDEV_RUNTIME_DIR", path.to_str().expect("text")));
        assert!(err.contains("theirs belongs to another user (uid 65534), who could make it lead elsewhere"), "{path:?}: {err}");
        assert_eq!(entries(&own), Vec::<PathBuf>::new(), "nothing was made in it");
    }
    // A link of the server's own user is that user's decision. The server's files stay there if the link is changed later.
    fs::remove_file(&by_own).expect("ours");
    symlink(&own, &by_own).expect("links");
    place.set_env("AUTOAPPDEV_RUNTIME_DIR", by_own.to_str().expect("text"));
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.start_server();
    let real = own.canonicalize().expect("there");
    let elsewhere = place.folder().join("elsewhere");
    fs::create_dir(&elsewhere).expect("creates");
    fs::remove_file(&by_own).expect("ours");
    symlink(&elsewhere, &by_own).expect("links");
    let info: serde_json::Value = serde_json::from_slice(&fs::read(real.join("server.json")).expect("there")).expect("JSON");
    assert_eq!(info["socket"], json!(real.join("server.sock")), "{info}");
    fs::remove_file(real.join("server.sock")).expect("there");
    place.start();
    until("the socket is recreated where it was", || real.join("server.sock").exists().then_some(()));
    assert_eq!(place.stop_server(), 0);
    assert_eq!(entries(&elsewhere), Vec::<PathBuf>::new(), "nothing followed the link");
}

/// In a user namespace, root's directories belong to a user that has no number there.
#[test]
fn server_in_user_namespace_accepts_parent_directories_of_root() {
    if !is_root() {
        return;
    }
    let mut place = Place::new();
    let binary = copied_binary(&place);
    let owned = Command::new("chown").args(["-R", &ANOTHER.to_string()]).arg(place.folder()).status();
    assert!(owned.expect("chown is there").success());
    let mut command = place.command_of(Path::new("setpriv"));
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "--user", "--map-root-user"]).arg(&binary);
    place.start_server_with(command);
    assert_eq!(place.get("/api/health").status, 200);
}

#[test]
fn runtime_directory_of_another_user_is_refused() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    let runtime = place.runtime();
    fs::create_dir(&runtime).expect("creates");
    set_mode(&runtime, 0o700);
    chown(&runtime, Some(ANOTHER), None).expect("we are root");
    // Root is refused too: the directory's owner could add files that root then runs or reveals.
    let err = place.refused_server(("AUTOAPPDEV_PORT", "0"));
    assert!(err.contains("it belongs to another user (uid 65534)") && err.contains("serve as the user that owns it"), "{err}");
    assert_eq!(entries(&runtime), Vec::<PathBuf>::new(), "nothing was made in it");

    // The same is true for a client of a third user, which finds a server's address in that directory.
    let stranger = FakeServer::canned(200, r#"{"ok":true}"#);
    let dir = autoappdev::file_id::FileId::of(&runtime).expect("there");
    let info = json!({"pid": 1, "id": "x", "dir": dir, "address": stranger.address});
    fs::write(runtime.join("server.json"), info.to_string()).expect("writes");
    for (path, mode) in [(&*runtime, 0o755), (&runtime.join("server.json"), 0o644), (place.folder(), 0o755)] {
        set_mode(path, mode);
    }
    let lock = fs::File::open(&runtime).expect("there");
    flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("free");
    let binary = place.folder().join("autoappdev");
    fs::copy(place.command().get_program(), &binary).expect("copies");
    for args in [&["status"][..], &["start", "x.sh", "--env", "KEY=secret"], &["pair", "--address", "x"]] {
        let mut command = place.command_of(&binary);
        command.env_remove("AUTOAPPDEV_PORT").env_remove("AUTOAPPDEV_HOST").env("AUTOAPPDEV_TOKEN", TOKEN);
        let (code, err) = ended({
            command.args(args).uid(THIRD).gid(THIRD);
            command
        });
        assert!(code == 4 && err.contains("is not used: it belongs to another user (uid 65534)"), "{args:?}: {err}");
    }
    // Root sends no request to an address that another user has recorded.
    let mut command = place.command();
    command.env_remove("AUTOAPPDEV_PORT").env_remove("AUTOAPPDEV_HOST").env("AUTOAPPDEV_TOKEN", TOKEN).args(["start", "x.sh"]);
    assert_eq!(ended(command).0, 4);
    assert_eq!(stranger.requests().len(), 0);
}

#[test]
fn root_client_uses_socket_of_another_user_without_token() {
    if !is_root() {
        return;
    }
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    set_mode(place.folder(), 0o755);
    fs::create_dir(place.runtime()).expect("creates");
    set_mode(&place.runtime(), 0o700);
    chown(place.runtime(), Some(ANOTHER), Some(ANOTHER)).expect("we are root");
    let binary = place.folder().join("autoappdev");
    fs::copy(place.command().get_program(), &binary).expect("copies");
    let mut command = place.command_of(&binary);
    command.uid(ANOTHER).gid(ANOTHER);
    place.start_server_with(command);
    let ask = |args: &[&str]| {
        let mut command = place.command();
        command.env_remove("AUTOAPPDEV_PORT").env_remove("AUTOAPPDEV_HOST").env("AUTOAPPDEV_TOKEN", TOKEN).args(args);
        ended(command)
    };
    // If root's token were sent, it would be refused as wrong.
    for args in [&["start"][..], &["status"], &["stop", "--now"]] {
        let (code, err) = ask(args);
        assert_eq!(code, 0, "{args:?}: {err}");
    }
}

#[test]
fn files_at_temporary_names_are_not_written_to() {
    let mut place = Place::new();
    let runtime = place.runtime();
    fs::create_dir(&runtime).expect("creates");
    set_mode(&runtime, 0o700);
    let victim = place.folder().join("victim");
    let names = ["server.json.new", "token.new", "read-token.new", "session-key.new", "latest-run.new", "retention.json.new"];
    for what in ["a link", "another name", "a pipe"] {
        let make = |path: &Path| match what {
            "a link" => symlink(&victim, path).expect("links"),
            "another name" => fs::hard_link(&victim, path).expect("links"),
            _ => mknodat(CWD, path, FileType::Fifo, 0o600.into(), 0).expect("makes"),
        };
        fs::write(&victim, "precious").expect("writes");
        for name in names {
            let path = runtime.join(name);
            let _was_none = fs::remove_file(&path);
            make(&path);
        }
        let _first_start = ["token", "read-token", "session-key"].map(|name| fs::remove_file(runtime.join(name)));
        place.start_server();
        until("the server has written where it is", || fs::read(runtime.join("server.json")).ok());
        place.start_with(json!({"script": "exit.sh"}));
        assert_eq!(place.stop_server(), 0);
        assert_eq!(fs::read_to_string(&victim).expect("there"), "precious", "{what}");
        assert!(runtime.join("token").symlink_metadata().expect("made").is_file(), "{what}");
    }
}
