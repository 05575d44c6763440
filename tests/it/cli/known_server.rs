//! A client sends a secret only to a server that it has verified. Other processes listen at every other address that it might
//! use.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::fs::{CWD, FileType, mknodat};
use serde_json::{Value, json};

use super::command::{hold, write_server_json};
use super::relay::Relay;
use crate::fake_server::{FakeServer, Reply};
use crate::support::{DEADLINE, Place, not_run, until};

pub(super) const OF_ENVIRONMENT: &str = "token-of-the-environment-1";
const OF_DOTENV: &str = "token-of-the-dotenv-file-2";
const IN_BODY: &str = "secret-of-the-request-body-3";
/// Any user who is not root.
const ANOTHER: u32 = 65_534;

/// Every client command that could reveal something.
pub(super) const COMMANDS: &[&[&str]] = &[
    &["status"],
    &["start", "x.sh", "--env", "KEY=secret-of-the-request-body-3"],
    &["stop"],
    &["logs"],
    &["logs", "-f"],
    &["runs", "1"],
    &["pair", "--address", "10.0.0.1"],
];

/// A project in its own folder. A server has run in its runtime directory.
pub(super) struct Project {
    pub(super) place: Place,
    /// The token stored in its runtime directory.
    kept: String,
}

impl Project {
    pub(super) fn new() -> Self {
        let mut place = Place::new();
        place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
        place.start_server();
        assert_eq!(place.stop_server(), 0);
        let kept = fs::read_to_string(place.runtime().join("token")).expect("made at the first boot").trim().to_owned();
        Self { place, kept }
    }

    /// Returns a command as a user would type it in the folder, with these environment variables and none of the test's own.
    pub(super) fn command(&self, args: &[&str], envs: &[(&str, &str)]) -> Command {
        let mut command = self.place.command();
        for name in ["HOST", "PORT", "RUNTIME_DIR", "PIPELINE_CWD", "PIPELINE_SCRIPT"] {
            command.env_remove(format!("AUTOAPPDEV_{name}"));
        }
        command.args(args).envs(envs.iter().copied());
        command
    }

    pub(super) fn run(&self, args: &[&str], envs: &[(&str, &str)]) -> (i32, String, String) {
        finished(self.command(args, envs))
    }

    pub(super) fn write_dotenv(&self, text: &str) {
        fs::write(self.place.folder().join(".env"), text).expect("writes");
    }

    /// The secrets that no other process may receive.
    fn secrets(&self) -> [&str; 4] {
        [OF_ENVIRONMENT, OF_DOTENV, IN_BODY, &self.kept]
    }

    pub(super) fn assert_tells_nothing(&self, heard: &str, what: &str) {
        for secret in self.secrets() {
            assert!(!heard.contains(secret), "{what}: {heard}");
        }
    }
}

/// Runs a command, which must end before the deadline.
pub(super) fn finished(mut command: Command) -> (i32, String, String) {
    struct Killed(Child);
    impl Drop for Killed {
        fn drop(&mut self) {
            let _ended = self.0.kill();
            let _ended = self.0.wait();
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Killed(command.spawn().expect("the binary runs"));
    let [out, err] = [read_all(child.0.stdout.take()), read_all(child.0.stderr.take())];
    let status = until(&format!("{command:?} ends"), || child.0.try_wait().expect("ours"));
    (status.code().expect("an exit code"), out.join().expect("text"), err.join().expect("text"))
}

fn read_all(from: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    let mut from = from.expect("piped");
    thread::spawn(move || {
        let mut text = String::new();
        from.read_to_string(&mut text).expect("text");
        text
    })
}

pub(super) fn heard(server: &FakeServer) -> String {
    let requests = server.requests();
    let lines =
        requests.iter().flat_map(|asked| [asked.line.clone(), asked.headers.join("\n"), asked.body.clone(), String::new()]);
    lines.collect::<Vec<_>>().join("\n")
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        not_run("another user's process can only be made by root", "AUTOAPPDEV_REQUIRE_ROOT");
    }
    is_root
}

#[test]
fn token_is_not_sent_to_default_address() {
    let (project, stranger) = (Project::new(), FakeServer::canned(200, r#"{"ok":true}"#));
    let port = stranger.address.port();
    for dotenv in [format!("AUTOAPPDEV_PORT={port}\n"), format!("PORT={port}\nAUTOAPPDEV_TOKEN={OF_DOTENV}\n")] {
        project.write_dotenv(&dotenv);
        for envs in [&[][..], &[("AUTOAPPDEV_TOKEN", OF_ENVIRONMENT)], &[("AUTOAPPDEV_READ_TOKEN", OF_ENVIRONMENT)]] {
            for args in COMMANDS {
                let (code, _, err) = project.run(args, envs);
                assert!(code == 4 && err.contains("no server is running for"), "{args:?}: {err}");
            }
        }
    }
    assert!(heard(&stranger).contains("GET /api/version\n"), "it is asked for its name");
    project.assert_tells_nothing(&heard(&stranger), "the usual address");
}

/// The directory is valid, but the process at its address is another one: it took the address over, or another user wrote the
/// file.
#[test]
fn server_without_valid_proof_gets_no_request() {
    let project = Project::new();
    let id = "0123456789abcdef0123456789abcdef";
    let proofs = [
        r#"{"ok":true,"proof":""}"#.to_owned(),
        format!(r#"{{"ok":true,"proof":"{}"}}"#, "0".repeat(64)),
        format!(r#"{{"server":{{"id":"{id}","runtime_dir":"{}"}}}}"#, project.place.runtime().display()),
    ];
    for proof in proofs {
        let stranger = FakeServer::start(move |_| Reply::Json(200, proof.clone()));
        write_server_json(&project.place.runtime(), id, &stranger);
        let _lock = hold(&project.place.runtime());
        for (dotenv, envs) in [
            (String::new(), &[][..]),
            (String::new(), &[("AUTOAPPDEV_TOKEN", OF_ENVIRONMENT)]),
            (format!("AUTOAPPDEV_TOKEN={OF_DOTENV}\nAUTOAPPDEV_PORT={}\n", stranger.address.port()), &[]),
        ] {
            project.write_dotenv(&dotenv);
            // `-f` would keep following and not end.
            for args in COMMANDS.iter().filter(|args| !args.contains(&"-f")) {
                let (code, _, err) = project.run(args, envs);
                assert!(code == 4 && err.contains("does not prove that it is the server of this folder"), "{args:?}: {err}");
                assert!(err.contains("name it with --url"), "{err}");
            }
        }
        let heard = heard(&stranger);
        project.assert_tells_nothing(&heard, "a recorded address");
        assert!(stranger.requests().iter().all(|asked| asked.line.starts_with("GET /api/version?challenge=")), "{heard}");
    }
}

#[test]
fn relay_to_the_right_server_gets_no_token() {
    let mut project = Project::new();
    project.place.set_env("AUTOAPPDEV_SOCKET", "off");
    let server_envs = [("AUTOAPPDEV_TOKEN", OF_ENVIRONMENT), ("AUTOAPPDEV_SOCKET", "off")];
    project.place.use_token(OF_ENVIRONMENT);
    project.place.start_server();
    let file = project.place.runtime().join("server.json");
    let written = fs::read_to_string(&file).expect("text");
    let own = SocketAddr::from(([127, 0, 0, 1], project.place.port()));
    for ip in ["127.0.0.1", "127.0.0.2"] {
        let relay = Relay::to(own, ip);
        let mut info: Value = serde_json::from_str(&written).expect("JSON");
        info["address"] = json!(relay.address);
        fs::write(&file, info.to_string()).expect("writes");
        for args in COMMANDS.iter().filter(|args| !args.contains(&"-f")) {
            let (code, _, err) = project.run(args, &server_envs);
            assert!(code == 4 && err.contains("does not prove that it is the server of this folder"), "{args:?}: {err}");
        }
        let heard = relay.heard();
        assert!(heard.contains("GET /api/version?challenge="), "it had the challenge to pass on: {heard}");
        project.assert_tells_nothing(&heard, "a relay");
        // If the user names the address, the token is sent there, whatever process is behind it.
        let url = format!("http://{}", relay.address);
        assert_eq!(project.run(&["--url", &url, "status"], &server_envs).0, 0);
        assert!(relay.heard().contains(OF_ENVIRONMENT));
    }
    // Without the relay, the same server proves that it owns the directory.
    fs::write(&file, written).expect("writes");
    for args in [&["status"][..], &["start"], &["stop", "--now"]] {
        let (code, _, err) = project.run(args, &server_envs);
        assert_eq!(code, 0, "{args:?}: {err}");
    }
}

#[test]
fn token_from_dotenv_is_sent_only_to_server_of_its_folder() {
    let mut project = Project::new();
    project.place.use_token(OF_DOTENV);
    project.place.set_env("AUTOAPPDEV_SOCKET", "off");
    project.place.start_server();
    project.place.unset_env("AUTOAPPDEV_TOKEN");
    project.place.unset_env("AUTOAPPDEV_SOCKET");
    let own = format!("http://127.0.0.1:{}", project.place.port());
    project.write_dotenv(&format!("AUTOAPPDEV_TOKEN={OF_DOTENV}\nAUTOAPPDEV_SOCKET=off\n"));
    assert_eq!(project.run(&["status"], &[]).0, 0, "the server is found, and proves itself");
    assert_eq!(project.run(&["--url", &own, "status"], &[]).0, 0, "the one that is named is the folder's own, and proves that");
    assert_eq!(project.run(&["status"], &[("AUTOAPPDEV_URL", &own)]).0, 0);
    let demand = r#"{"ok":false,"error":"unauthorized","detail":"a token is needed"}"#;
    let stranger = FakeServer::canned(401, demand);
    let (url, port) = (stranger.url(), stranger.address.port().to_string());
    let named = |project: &Project, args: &[&str], envs: &[(&str, &str)]| {
        let (code, _, err) = project.run(args, envs);
        assert_eq!(code, 1, "{err}");
        assert!(err.contains("a token is needed (the token in .env was not sent, because the server at http://"), "{err}");
        assert!(err.contains("set it in the environment") && !err.contains(OF_DOTENV), "{err}");
    };
    named(&project, &["--url", &url, "status"], &[]);
    named(&project, &["status"], &[("AUTOAPPDEV_URL", &url)]);
    assert_eq!(project.place.stop_server(), 0);
    named(&project, &["status"], &[("AUTOAPPDEV_PORT", &port)]);
    project.assert_tells_nothing(&heard(&stranger), "a named address");
    // A token from the environment is sent to an address from the environment.
    let (code, _, err) = project.run(&["status"], &[("AUTOAPPDEV_URL", &url), ("AUTOAPPDEV_TOKEN", OF_ENVIRONMENT)]);
    assert_eq!((code, err.as_str()), (1, "autoappdev: a token is needed\n"));
    assert!(heard(&stranger).contains(OF_ENVIRONMENT) && !heard(&stranger).contains(OF_DOTENV));
}

#[test]
fn token_is_not_sent_without_valid_session_key() {
    let mut project = Project::new();
    project.place.use_token(OF_ENVIRONMENT);
    project.place.set_env("AUTOAPPDEV_SOCKET", "off");
    project.place.start_server();
    let key = project.place.runtime().join("session-key");
    let envs = [("AUTOAPPDEV_TOKEN", OF_ENVIRONMENT), ("AUTOAPPDEV_SOCKET", "off")];
    assert_eq!(project.run(&["status"], &envs).0, 0);
    let elsewhere = project.place.folder().join("key");
    fs::rename(&key, &elsewhere).expect("moves");
    let is_refused = |what: &str| {
        let (code, _, err) = project.run(&["status"], &envs);
        assert!(code == 1 && err.contains("session-key cannot be read") && err.contains("--url"), "{what}: {err}");
        assert!(!err.contains(OF_ENVIRONMENT), "{err}");
    };
    is_refused("it is missing");
    symlink(&elsewhere, &key).expect("links");
    is_refused("it is a link");
    fs::remove_file(&key).expect("ours");
    fs::copy(&elsewhere, &key).expect("copies");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("ours");
    is_refused("others can read it");
    fs::write(&key, "session-key-of-an-archive").expect("writes");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("ours");
    let (code, _, err) = project.run(&["status"], &envs);
    assert!(code == 1 && err.contains("session-key was not made for this directory"), "{err}");
    fs::copy(&elsewhere, &key).expect("copies");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("ours");
    assert_eq!(project.run(&["status"], &envs).0, 0);
}

/// Creates a Unix socket on which a process of another user listens, and records what it receives.
fn socket_of_another(path: &Path) -> Arc<Mutex<Vec<u8>>> {
    let at = path.to_owned();
    let bind = move || {
        let another = Some(rustix::thread::Uid::from_raw(ANOTHER));
        // Affects only this thread, which ends afterwards. The kernel remembers which user called `listen(2)`.
        rustix::thread::set_thread_res_uid(another, another, another).expect("we are root");
        UnixListener::bind(at).expect("the folder is open to all")
    };
    let listener = thread::spawn(bind).join().expect("binds");
    let heard = Arc::new(Mutex::new(Vec::new()));
    thread::spawn({
        let heard = Arc::clone(&heard);
        move || {
            for mut client in listener.incoming().flatten() {
                client.set_read_timeout(Some(DEADLINE)).expect("ours");
                let mut part = [0; 4096];
                if let Ok(count @ 1..) = client.read(&mut part) {
                    heard.lock().expect("never poisoned").extend(&part[..count]);
                    let body = r#"{"ok":false,"error":"unauthorized","detail":"a token is needed"}"#;
                    let _left =
                        write!(client, "HTTP/1.1 401 No\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
                }
            }
        }
    });
    heard
}

#[test]
fn socket_of_another_user_gets_no_request() {
    if !is_root() {
        return;
    }
    let project = Project::new();
    let open = project.place.folder().join("open");
    fs::create_dir(&open).expect("creates");
    fs::set_permissions(project.place.folder(), fs::Permissions::from_mode(0o755)).expect("ours");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("ours");
    let socket = open.join("server.sock");
    let heard = socket_of_another(&socket);
    let heard = || String::from_utf8_lossy(&heard.lock().expect("never poisoned")).into_owned();
    let runtime = project.place.runtime();
    let lock = hold(&runtime);
    let told = "belongs to another user (uid 65534), so nothing was sent to it";
    let dotenv = format!("AUTOAPPDEV_SOCKET={}\nAUTOAPPDEV_TOKEN={OF_DOTENV}\n", socket.display());
    // The socket is named by the project's `.env` before the server has recorded its address, and then by `server.json`.
    for is_recorded in [false, true] {
        project.write_dotenv(&dotenv);
        if is_recorded {
            let dir = autoappdev::file_id::FileId::of(&runtime).expect("there");
            let info = json!({"pid": 1, "id": "x", "dir": dir, "socket": socket});
            fs::write(runtime.join("server.json"), info.to_string()).expect("writes");
        }
        for envs in [&[][..], &[("AUTOAPPDEV_TOKEN", OF_ENVIRONMENT)]] {
            for args in COMMANDS.iter().filter(|args| !args.contains(&"-f") && args[0] != "pair") {
                let (code, _, err) = project.run(args, envs);
                assert!(code == 4 && err.contains(told), "{args:?}: {err}");
            }
        }
        assert_eq!(heard(), "", "not a byte");
    }
    // If the user names the socket, the request is sent, but without the project's token.
    drop(lock);
    let (code, _, err) = project.run(&["status"], &[("AUTOAPPDEV_SOCKET", socket.to_str().expect("text"))]);
    assert!(code == 1 && err.contains("the token in .env was not sent"), "{err}");
    project.assert_tells_nothing(&heard(), "a named socket");
    assert!(heard().contains("GET /api/pipeline"));
}

#[test]
fn links_in_a_cloned_project_do_not_lead_to_the_files_of_a_live_server() {
    let mut victim = Project::new();
    victim.place.use_token(OF_ENVIRONMENT);
    victim.place.start_server();
    victim.place.unset_env("AUTOAPPDEV_TOKEN");
    let from = victim.place.runtime();
    let clone = victim.place.folder().join("clone");
    let runtime = clone.join("runtime");
    fs::create_dir_all(&runtime).expect("creates");
    let run = |args: &[&str], envs: &[(&str, &str)]| {
        let mut command = victim.command(args, envs);
        command.current_dir(&clone);
        finished(command)
    };
    let before = victim.place.footprint();
    let assert_none = |says: &str, what: &str| {
        for args in COMMANDS {
            let (code, out, err) = run(args, &[]);
            assert!(code == 4 && out.is_empty() && err.contains(says), "{what}, {args:?}: {err}");
        }
    };
    // Each link alone, and all of them, beside a `server.json` for this directory.
    let stranger = FakeServer::canned(200, r#"{"ok":true}"#);
    let names = ["server.lock", "token", "read-token", "session-key", "server.sock"];
    for which in names.iter().map(std::slice::from_ref).chain([&names[..]]) {
        for name in which {
            symlink(from.join(name), runtime.join(name)).expect("links");
        }
        write_server_json(&runtime, "x", &stranger);
        assert_none("no server is running for", &format!("{which:?}"));
        fs::remove_file(runtime.join("server.json")).expect("ours");
        // As if a server were starting in the clone.
        let lock = hold(&runtime);
        assert_none("has not recorded its address", &format!("{which:?}"));
        drop(lock);
        symlink(from.join("server.json"), runtime.join("server.json")).expect("links");
        assert_none("no server is running for", &format!("{which:?}"));
        fs::remove_dir_all(&runtime).expect("ours");
        fs::create_dir(&runtime).expect("creates");
    }
    // The victim's token is not sent to an address from the environment.
    symlink(from.join("token"), runtime.join("token")).expect("links");
    assert_eq!(run(&["--url", &stranger.url(), "stop"], &[]).0, 1);
    victim.assert_tells_nothing(&heard(&stranger), "a linked token");
    // A link in place of the whole directory.
    fs::remove_dir_all(&runtime).expect("ours");
    symlink(&from, &runtime).expect("links");
    let real = from.canonicalize().expect("there");
    let says = format!("it is a link to {}, and the server there was not started with this path", real.display());
    assert_none(&says, "a linked directory");
    fs::rename(from.join("server.json"), from.join("aside")).expect("ours");
    assert_none(&says, "and the server has not recorded by which path it was started");
    fs::rename(from.join("aside"), from.join("server.json")).expect("ours");
    assert_eq!(victim.place.footprint(), before);
    let real = real.to_str().expect("text");
    assert_eq!(run(&["status"], &[("AUTOAPPDEV_RUNTIME_DIR", real)]).0, 0, "as the error says");
}

#[test]
fn client_follows_own_runtime_link_to_its_server() {
    let mut place = Place::with_runtime("link");
    let disk = place.folder().join("disk");
    fs::create_dir(&disk).expect("creates");
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o700)).expect("ours");
    symlink(&disk, place.runtime()).expect("links");
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.start_server();
    for args in [&["start"][..], &["pause"], &["stop", "--now"]] {
        assert_eq!(place.client(args).0, 0, "{args:?}");
    }
    let (code, said) = place.stop_server_and_listen();
    let sentence = format!(
        "the runtime directory {} is a link to {}\n",
        place.runtime().display(),
        disk.canonicalize().expect("there").display()
    );
    assert!(code == 0 && said.contains(&sentence), "{said}");
}

/// Creates a pipe that has no writer.
fn make_pipe(path: &PathBuf) {
    let _was_none = fs::remove_file(path);
    mknodat(CWD, path, FileType::Fifo, 0o600.into(), 0).expect("makes");
}

#[test]
fn pipe_in_place_of_a_file_blocks_no_command() {
    let mut project = Project::new();
    let runtime = project.place.runtime();
    let dotenv = project.place.folder().join(".env");
    make_pipe(&dotenv);
    for args in COMMANDS.iter().chain(&[&["serve"][..], &["migrate"], &["check"]]) {
        let (code, _, err) = project.run(args, &[]);
        assert!(code == 1 && err.contains("cannot read .env: it is not a regular file"), "{args:?}: {err}");
    }
    fs::remove_file(&dotenv).expect("ours");
    // One at a time, while a server runs that has its own files open.
    project.place.set_env("AUTOAPPDEV_SOCKET", "off");
    project.place.start_server();
    for name in ["token", "read-token", "session-key", "server.json"] {
        let (path, aside) = (runtime.join(name), runtime.join("aside"));
        fs::rename(&path, &aside).expect("ours");
        make_pipe(&path);
        for args in COMMANDS.iter().filter(|args| !args.contains(&"-f")) {
            let (code, _, err) = project.run(args, &[]);
            assert!((0..=4).contains(&code), "{name}, {args:?}: {err}");
        }
        fs::remove_file(&path).expect("ours");
        fs::rename(&aside, &path).expect("ours");
    }
}
