//! The server that a client command acts on is the server of its runtime directory or one that the user named, and no other,
//! whichever server uses the default port, and whatever was copied, linked, moved or left behind.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{DEADLINE, Place, is_alive, not_run, until};
use autoappdev::file_id::FileId;
use serde_json::{Value, json};

/// Two projects. Each is a folder with its runtime directory in the default place.
struct Projects {
    place: Place,
    a: PathBuf,
    b: PathBuf,
}

impl Projects {
    /// Creates both projects. A's server has a live run, and the `.env` files of both name its port. B's server is down.
    fn new() -> Self {
        let mut place = Place::with_runtime("A/runtime");
        let folder = place.folder().canonicalize().expect("there");
        let [a, b] = ["A", "B"].map(|name| folder.join(name));
        for project in [&a, &b] {
            fs::create_dir(project).expect("creates");
        }
        place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
        place.start_server();
        place.start();
        let projects = Self { place, a, b };
        projects.write_env();
        projects
    }

    fn write_env(&self) {
        for project in [&self.a, &self.b] {
            fs::write(project.join(".env"), format!("AUTOAPPDEV_PORT={}\n", self.place.port())).expect("writes");
        }
    }

    /// Returns a command in a folder, without any of our settings in its environment.
    fn command_in(&self, folder: &Path, args: &[&str]) -> Command {
        let mut command = self.place.command();
        for name in ["HOST", "PORT", "RUNTIME_DIR", "PIPELINE_CWD", "PIPELINE_SCRIPT"] {
            command.env_remove(format!("AUTOAPPDEV_{name}"));
        }
        command.current_dir(folder).args(args);
        command
    }

    fn run_in(&self, folder: &Path, args: &[&str]) -> (i32, String, String) {
        finished(&mut self.command_in(folder, args))
    }

    /// Checks that B's commands find no server, and that A's run is unchanged.
    fn assert_b_has_none(&self, says: &str) {
        self.assert_none_of(COMMANDS, says);
    }

    fn assert_none_of(&self, commands: &[&[&str]], says: &str) {
        let before = self.place.footprint();
        for args in commands {
            let (code, out, err) = self.run_in(&self.b, args);
            assert_eq!((code, out.as_str()), (4, ""), "{args:?}: {err}");
            assert!(err.starts_with("autoappdev: ") && err.contains(says) && err.lines().count() == 1, "{args:?}: {err}");
        }
        assert_eq!(self.place.footprint(), before);
    }
}

/// Every client command. `pair` is the last: it sends no request if there is no address for a phone.
const COMMANDS: &[&[&str]] = &[
    &["stop"],
    &["pause"],
    &["resume"],
    &["start", "sleep.sh"],
    &["status"],
    &["status", "--json"],
    &["logs"],
    &["logs", "-f"],
    &["runs"],
    &["runs", "1"],
    &["sessions"],
    &["sessions", "end", "--all"],
    &["pair"],
];

fn finished(command: &mut Command) -> (i32, String, String) {
    let output = command.output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

/// Copies a folder as `cp` does with these options.
fn cp(options: &str, from: &Path, to: &Path) {
    let status = Command::new("cp").arg(options).arg(from).arg(to).status().expect("there is a cp");
    assert!(status.success());
}

#[test]
fn command_does_not_act_on_server_of_another_project() {
    let projects = Projects::new();
    let port = projects.place.port();
    let (a, b) = (projects.a.display(), projects.b.display());
    let sentence =
        format!("no server is running for {b} (a server for {a} answers on 127.0.0.1:{port}; to use it, name it with --url)\n");
    projects.assert_b_has_none(&sentence);
    // A's commands act in A's folder, and B's on an address that the user names.
    assert_eq!(projects.run_in(&projects.a, &["pause"]).0, 0);
    let url = format!("http://127.0.0.1:{port}");
    assert_eq!(projects.run_in(&projects.b, &["--url", &url, "resume"]).0, 0);
    for (name, value) in [("AUTOAPPDEV_URL", &*url), ("AUTOAPPDEV_PORT", &*port.to_string())] {
        let mut named = projects.command_in(&projects.b, &["status"]);
        assert_eq!(finished(named.env(name, value)).0, 0, "{name}");
    }
    // Once B has its own server, B's commands act on that, whichever port the environment names.
    let mut own = Place::with_runtime("runtime");
    own.set_env("AUTOAPPDEV_RUNTIME_DIR", projects.b.join("runtime").to_str().expect("text"));
    own.start_server();
    let mut named = projects.command_in(&projects.b, &["status", "--json"]);
    let (code, out, err) = finished(named.env("AUTOAPPDEV_PORT", port.to_string()));
    assert_eq!((code, &serde_json::from_str::<Value>(&out).expect("JSON")["pipeline"]["status"]), (0, &json!("idle")), "{err}");
    assert_eq!(own.stop_server(), 0);
    projects.assert_b_has_none(&sentence);
}

#[test]
fn command_without_server_prints_how_to_start_one() {
    let mut projects = Projects::new();
    projects.place.kill_server();
    let none = format!("autoappdev: no server is running for {}; start one with `autoappdev serve`\n", projects.b.display());
    for args in COMMANDS {
        assert_eq!(projects.run_in(&projects.b, args), (4, String::new(), none.clone()), "{args:?}");
    }
    // A killed server's `server.json` and socket still exist, and do not lead to a server.
    assert!(projects.place.runtime().join("server.json").exists() && projects.place.runtime().join("server.sock").exists());
    let (code, _, err) = projects.run_in(&projects.a, &["stop"]);
    assert_eq!((code, err), (4, none.replace(&*projects.b.to_string_lossy(), &projects.a.to_string_lossy())));
}

#[test]
fn copied_or_linked_files_do_not_lead_to_the_server_of_another_project() {
    let projects = Projects::new();
    let (from, to) = (projects.a.join("runtime"), projects.b.join("runtime"));
    for options in ["-a", "-al"] {
        cp(options, &from, &to);
        assert!(to.join("server.json").exists() && to.join("server.sock").exists());
        projects.assert_b_has_none(&format!("for {}", projects.b.display()));
        fs::remove_dir_all(&to).expect("ours");
    }
    // A's socket under other names: a link in B's runtime directory, or the path in B's `.env`.
    fs::create_dir(&to).expect("creates");
    symlink(from.join("server.sock"), to.join("server.sock")).expect("links");
    projects.assert_b_has_none("no server is running for");
    let dotenv = fs::read_to_string(projects.b.join(".env")).expect("text");
    let socket = from.join("server.sock");
    fs::write(projects.b.join(".env"), format!("{dotenv}AUTOAPPDEV_SOCKET={}\n", socket.display())).expect("writes");
    projects.assert_b_has_none("no server is running for");
    let mut named = projects.command_in(&projects.b, &["status"]);
    assert_eq!(finished(named.env("AUTOAPPDEV_SOCKET", &socket)).0, 0, "the user names it");
    // While a server of B has locked the directory and recorded nothing yet, they are not used either.
    let lock = fs::File::open(&to).expect("there");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("free");
    projects.assert_b_has_none("has not recorded its address");
    fs::copy(from.join("server.json"), to.join("server.json")).expect("copies");
    projects.assert_b_has_none("has not recorded its address");
    drop(lock);
    // A link to the whole directory is not followed either.
    fs::remove_dir_all(&to).expect("ours");
    symlink(&from, &to).expect("links");
    projects.assert_b_has_none(&format!("it is a link to {}", from.display()));
}

#[test]
fn request_to_an_address_taken_over_by_another_server_is_refused() {
    let projects = Projects::new();
    let (from, to) = (projects.a.join("runtime/server.json"), projects.b.join("runtime"));
    // The file of B's killed server names A's address. B's next server has locked the directory but not yet written its own file.
    fs::create_dir(&to).expect("creates");
    let mut written: Value = serde_json::from_str(&fs::read_to_string(from).expect("text")).expect("JSON");
    written["id"] = json!("0123456789abcdef0123456789abcdef");
    written["dir"] = json!(FileId::of(&to).expect("there"));
    fs::write(to.join("server.json"), written.to_string()).expect("writes");
    let lock = fs::File::open(&to).expect("there");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).expect("free");
    // Without a session key in B the server cannot be verified, so only reads are sent.
    let (acts, reads) = COMMANDS[..10].split_at(4);
    projects.assert_none_of(acts, "session-key cannot be read, so nothing was sent to it");
    projects.assert_none_of(reads, "does not answer at its recorded address");
    // The comparison and the action are one request.
    let place = &projects.place;
    let before = place.footprint();
    let other = [("AutoAppDev-Server", "0123456789abcdef0123456789abcdef")];
    let refused = place.request("POST", "/api/pipeline/stop", &other, None);
    assert_eq!((refused.status, refused.error()), (421, "other_server"));
    assert_eq!(place.footprint(), before);
    let id = place.get("/api/version").ok()["server"]["id"].as_str().expect("text").to_owned();
    place.request("POST", "/api/pipeline/stop", &[("autoappdev-server", &id)], None).ok();
}

#[test]
fn client_finds_a_server_without_server_info_by_its_socket() {
    let projects = Projects::new();
    fs::remove_file(projects.place.runtime().join("server.json")).expect("there");
    assert_eq!(projects.run_in(&projects.a, &["pause"]).0, 0);
    assert_eq!(projects.place.state(), "paused");
}

#[test]
fn relative_runtime_directory_is_resolved_in_working_directory() {
    let projects = Projects::new();
    let run = |folder: &Path, dir: &str| finished(projects.command_in(folder, &["status"]).env("AUTOAPPDEV_RUNTIME_DIR", dir));
    assert_eq!(run(&projects.a, "runtime").0, 0);
    assert_eq!(run(&projects.b, "../A/runtime").0, 0);
    let (code, _, err) = run(&projects.b, "runtime");
    assert!(code == 4 && err.contains(&format!("no server is running for {} (", projects.b.display())), "{err}");
    let (code, _, err) = run(&projects.b, "A/runtime");
    assert!(code == 4 && err.contains(&format!("no server is running for {}/A/runtime (", projects.b.display())), "{err}");
}

#[test]
fn moved_runtime_directory_keeps_its_server() {
    let projects = Projects::new();
    let (runtime, moved) = (projects.a.join("runtime"), projects.b.join("runtime"));
    fs::rename(&runtime, &moved).expect("moves");
    cp("-a", &moved, &runtime);
    let (code, _, err) = projects.run_in(&projects.a, &["stop"]);
    assert!(code == 4 && err.contains("has been moved or replaced since"), "{err}");
    assert_eq!(projects.run_in(&projects.b, &["status"]).0, 0);
    fs::remove_dir_all(&runtime).expect("ours");
    fs::rename(&moved, &runtime).expect("moves back");
}

#[test]
fn client_reports_a_runtime_directory_that_it_cannot_read() {
    /// `nobody`, on Debian and elsewhere.
    const NOBODY: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        not_run("only root can run a command as another user", "AUTOAPPDEV_REQUIRE_ROOT");
        return;
    }
    let projects = Projects::new();
    let runtime = projects.a.join("runtime");
    let binary = projects.place.folder().join("autoappdev");
    fs::copy(projects.place.command().get_program(), &binary).expect("copies");
    fs::set_permissions(projects.place.folder(), Permissions::from_mode(0o755)).expect("ours");
    let before = projects.place.footprint();
    let as_nobody = |args: &[&str], envs: &[(&str, &str)]| {
        let ours = projects.command_in(&projects.a, args);
        let mut command = Command::new(&binary);
        for (name, value) in ours.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        finished(command.current_dir(&projects.a).args(args).envs(envs.iter().copied()).uid(NOBODY).gid(NOBODY))
    };
    // The directory is private, or it is readable but its files are private, or it cannot even be entered.
    for (dir, mode) in [(&runtime, 0o700), (&runtime, 0o755), (&runtime, 0o711)] {
        fs::set_permissions(dir, Permissions::from_mode(mode)).expect("ours");
        for args in COMMANDS {
            let (code, out, err) = as_nobody(args, &[]);
            assert_eq!((code, out.as_str()), (4, ""), "{args:?} with {mode:o}: {err}");
            let sentence = format!("{} cannot be read: Permission denied", runtime.display());
            assert!(err.contains(&sentence) && err.contains("(uid 0)") && !err.contains("no server"), "{args:?} {mode:o}: {err}");
        }
        let (code, _, err) = as_nobody(&["serve"], &[("AUTOAPPDEV_PORT", "0")]);
        let says_what_to_do = err.contains("belongs to root (uid 0)") && err.contains("serve as the user that owns it");
        assert!(code == 1 && says_what_to_do, "{mode:o}: {err}");
    }
    let port = projects.place.port().to_string();
    let (code, _, err) = as_nobody(&["status"], &[("AUTOAPPDEV_PORT", &port)]);
    assert!(code == 1 && err.contains("a token is needed"), "the user names an address, and is another user: {err}");
    assert_eq!(projects.place.footprint(), before);
}

#[test]
fn each_server_start_has_a_new_id_checked_per_request() {
    let mut place = Place::serving("sleep.sh");
    let (pid, _) = place.start();
    let id = |place: &Place| place.get("/api/version").ok()["server"]["id"].as_str().expect("text").to_owned();
    let first = id(&place);
    place.restart_server();
    let second = id(&place);
    assert_ne!(first, second);
    let mut kept = TcpStream::connect(("127.0.0.1", place.port())).expect("connects");
    kept.set_read_timeout(Some(DEADLINE)).expect("ours");
    let mut read = Vec::new();
    for (id, status) in [(&second, "200"), (&first, "421"), (&second, "200")] {
        write!(kept, "GET /api/pipeline/status HTTP/1.1\r\nHost: localhost\r\nAutoAppDev-Server: {id}\r\n\r\n").expect("sends");
        read.clear();
        until("an answer", || {
            let mut part = [0; 4096];
            let count = kept.read(&mut part).expect("an answer");
            read.extend(&part[..count]);
            String::from_utf8_lossy(&read).trim_end().ends_with('}').then_some(())
        });
        assert!(read.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{}", String::from_utf8_lossy(&read));
    }
    assert!(is_alive(pid));
}
