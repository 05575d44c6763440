//! What the whole-binary tests share: a server of their own, scripts, looks at the kernel and the database, and waiting for a condition.
//!
//! Everything that a test starts is killed when it goes out of scope, or when the test itself is killed (`reaper.rs`). The server's log is
//! printed where a test fails.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_imports,
    reason = "shared by test binaries, each of which uses its own part of this"
)]

pub mod disk;
pub mod follower;
pub mod footprint;
pub mod http;
pub mod login;
mod missing;
pub mod network;
pub mod past;
mod processes;
mod reaper;
pub mod slow_line;
pub mod sse;
mod tree;
mod waiting;
pub mod wire;
mod witness;
pub use http::{Answer, acts, example, reads};
pub use missing::{full_name, not_run};
pub use processes::{describe, is_alive, is_stopped, letter, letters, pids, processes_with, signal, stat_field};
pub use waiting::{DEADLINE, until, until_true};
pub use witness::{can_make_cgroups, members, own_cgroup};

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

/// A folder with scripts and a runtime directory, and the server on it, if one runs.
pub struct Place {
    dir: tempfile::TempDir,
    server: Option<RunningServer>,
    envs: Vec<(String, String)>,
    runtime: PathBuf,
    /// Sent with each request that brings no other.
    bearer: Option<String>,
    /// Everything that servers here said.
    log: PathBuf,
}

struct RunningServer {
    child: Child,
    stdout: BufReader<ChildStdout>,
    port: u16,
}

impl Place {
    /// A place with scripts, without a server.
    pub fn new() -> Self {
        Self::with_runtime("runtime")
    }

    /// The same, with a runtime directory of this name, which may hold slashes.
    pub fn with_runtime(name: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("autoappdev-").tempdir().expect("a temp folder");
        reaper::watch(dir.path());
        fs::create_dir(dir.path().join("root")).expect("creates");
        let log = dir.path().join("server.log");
        let runtime = dir.path().join(name);
        let place = Self { dir, server: None, envs: Vec::new(), runtime, bearer: None, log };
        write_programs(&place.root(), SCRIPTS);
        place
    }

    /// A place with a server whose default script is `script`.
    pub fn serving(script: &str) -> Self {
        let mut place = Self::new();
        place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", script);
        place.start_server();
        place
    }

    /// For servers that are started from now on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.envs.retain(|(key, _)| key != name);
        self.envs.push((name.to_owned(), value.to_owned()));
    }

    /// Servers that are started from now on ask for this token, and the requests made here bring it.
    pub fn use_token(&mut self, token: &str) {
        self.set_env("AUTOAPPDEV_TOKEN", token);
        self.bring_token(token);
    }

    /// Makes requests carry the token that the server created: a server of another user cannot identify the test otherwise.
    pub fn bring_own_token(&mut self) {
        let token = fs::read_to_string(self.runtime().join("token")).expect("made at the first boot");
        self.bring_token(token.trim());
    }

    /// The requests made here bring this token.
    pub fn bring_token(&mut self, token: &str) {
        self.bearer = Some(format!("Bearer {token}"));
    }

    /// Takes it back, for servers that are started from now on.
    pub fn unset_env(&mut self, name: &str) {
        self.envs.retain(|(key, _)| key != name);
    }

    /// Writes an executable script into the root.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        write_programs(&self.root(), &[(name, text)]);
        self.root().join(name)
    }

    /// The folder of everything, where a test may put files of its own.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn runtime(&self) -> PathBuf {
        self.runtime.clone()
    }

    /// Removes the runtime directory and puts a copy in its place: every file is a new one, and no socket has a listener.
    pub fn replace_runtime_by_copy(&self) {
        let copy = self.folder().join("copy-of-runtime");
        copy_all(&self.runtime(), &copy);
        fs::remove_dir_all(self.runtime()).expect("removes");
        fs::rename(copy, self.runtime()).expect("renames");
    }

    pub fn database(&self) -> PathBuf {
        self.runtime().join("autoappdev.db")
    }

    pub fn run_dir(&self, run_id: i64) -> PathBuf {
        self.runtime().join("runs").join(run_id.to_string())
    }

    /// The binary with this place's configuration and nothing of the environment's; the port is the kernel's to pick.
    pub fn command(&self) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_autoappdev")))
    }

    pub fn command_of(&self, binary: &Path) -> Command {
        let mut command = Command::new(binary);
        for (name, _) in std::env::vars_os() {
            // What a service manager says to this test is not for the server.
            let means_something = name.to_str().is_some_and(|name| {
                ["AUTOAPPDEV_", "LISTEN_", "WATCHDOG_"].iter().any(|prefix| name.starts_with(prefix))
                    || ["DATABASE_URL", "PORT", "NOTIFY_SOCKET"].contains(&name)
            });
            if means_something {
                command.env_remove(name);
            }
        }
        command
            .current_dir(self.dir.path())
            .env("AUTOAPPDEV_HOST", "127.0.0.1")
            .env("AUTOAPPDEV_PORT", "0")
            // How full the machine's disk is must not decide which logs are there. A test of that limit sets its own.
            .env("AUTOAPPDEV_DISK_FREE_MB", "0")
            .env("AUTOAPPDEV_RUNTIME_DIR", self.runtime())
            .env("AUTOAPPDEV_PIPELINE_CWD", self.root())
            .envs(self.envs.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts the server and waits for its address.
    pub fn start_server(&mut self) {
        let command = self.command();
        self.start_server_with(command);
    }

    pub fn start_server_with(&mut self, command: Command) {
        if let Err(said) = self.try_start_server_with(command) {
            panic!("the server did not come up: {said:?}\n{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }

    /// Starts the server as a service manager does: again until it stays up.
    pub fn start_server_until_it_serves(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        while let Err(said) = self.try_start_server_with(self.command()) {
            let log = || fs::read_to_string(&self.log).unwrap_or_default();
            assert!(Instant::now() < deadline, "the server does not come up: {said:?}\n{}", log());
        }
    }

    /// An error is what it printed instead of its address.
    fn try_start_server_with(&mut self, mut command: Command) -> Result<(), String> {
        assert!(self.server.is_none(), "one at a time");
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log).expect("opens");
        let mut child = command.arg("serve").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().expect("spawns");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("text");
        let port = line.trim().trim_end_matches('/').rsplit(':').next().and_then(|port| port.parse().ok());
        let Some(port) = port else {
            let _ended = child.kill();
            let _ended = child.wait();
            return Err(line);
        };
        self.server = Some(RunningServer { child, stdout, port });
        Ok(())
    }

    /// `kill -9`.
    pub fn kill_server(&mut self) {
        self.crash_server("KILL");
    }

    /// Ends the server with any signal.
    pub fn crash_server(&mut self, name: &str) -> ExitStatus {
        let mut server = self.server.take().expect("a server runs");
        signal(server.child.id(), name);
        server.child.wait().expect("ours")
    }

    /// SIGTERM; the exit code.
    pub fn stop_server(&mut self) -> i32 {
        self.stop_server_and_listen().0
    }

    /// SIGTERM; the exit code, and what it said on standard output after its address.
    pub fn stop_server_and_listen(&mut self) -> (i32, String) {
        signal(self.server_pid(), "TERM");
        self.until_server_ended()
    }

    /// The same for a server that was asked to exit.
    pub fn until_server_ended(&mut self) -> (i32, String) {
        let mut server = self.server.take().expect("a server runs");
        let deadline = Instant::now() + DEADLINE;
        while server.child.try_wait().expect("ours").is_none() {
            if Instant::now() > deadline {
                let _ended = server.child.kill();
                panic!("the server does not end");
            }
            thread::sleep(Duration::from_millis(2));
        }
        let code = server.child.wait().expect("ours").code().expect("it ends by itself");
        let mut said = String::new();
        server.stdout.read_to_string(&mut said).expect("text");
        // Every server here is configured through the environment, and reports that.
        let is_setup = |line: &&str| line.starts_with("settings from the environment: ");
        (code, said.split_inclusive('\n').filter(|line| !is_setup(line)).collect())
    }

    /// Runs `serve` with one more variable, which must refuse; what it said on standard error.
    pub fn refused_server(&self, variable: (&str, &str)) -> String {
        let mut command = self.command();
        command.env(variable.0, variable.1);
        let spawned = command.arg("serve").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.expect("spawns");
        let deadline = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = child.try_wait().expect("ours") {
                break status;
            }
            if Instant::now() > deadline {
                let _ended = child.kill();
                let mut said = String::new();
                let _whatever_it_said = child.stderr.take().expect("piped").read_to_string(&mut said);
                panic!("it serves, but should have refused: {said}");
            }
            thread::sleep(Duration::from_millis(2));
        };
        let mut said = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        assert_eq!(status.code(), Some(1), "{said}");
        said
    }

    pub fn restart_server(&mut self) {
        self.kill_server();
        self.start_server();
    }

    /// `kill -9`, and a server that is started in its own way.
    pub fn restart_server_as(&mut self, start: impl FnOnce(&mut Self)) {
        self.kill_server();
        start(self);
    }

    pub fn is_serving(&self) -> bool {
        self.server.is_some()
    }

    pub fn server_pid(&self) -> u32 {
        self.server.as_ref().expect("a server runs").child.id()
    }

    pub fn port(&self) -> u16 {
        self.server.as_ref().expect("a server runs").port
    }

    /// A client command against this place's server: exit code, stdout, stderr.
    pub fn client(&self, args: &[&str]) -> (i32, String, String) {
        let output = self.command().args(args).stdin(Stdio::null()).output().expect("the binary runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
    }

    /// The server's threads, as the kernel counts them.
    pub fn server_threads(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server_pid())).expect("the server is alive");
        let count = status.lines().find_map(|line| line.strip_prefix("Threads:")).expect("it tells its threads");
        count.trim().parse().expect("a number")
    }

    /// What no refused request may change: state, version, and how many runs there are. The database and the API say the same.
    pub fn footprint(&self) -> (String, i64, i64) {
        let row = "SELECT state, version, (SELECT count(*) FROM pipeline_runs) FROM pipeline_state";
        until("the database says what the API says", || {
            let stored: (String, i64, i64) =
                self.sql().query_row(row, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).expect("the row");
            let told = self.pipeline();
            Some(stored).filter(|stored| told["state"] == stored.0.as_str() && told["version"] == stored.1)
        })
    }

    /// Everything that the servers here have said.
    pub fn server_log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// After an end: no process of any run here, no PAUSE file, and the shim leaves.
    pub fn assert_nothing_left(&self, run_id: i64) {
        let left: Vec<String> = self.processes().into_iter().map(describe).collect();
        assert!(left.is_empty(), "left of run {run_id}: {left:#?}");
        assert!(!self.pause_file().exists(), "the PAUSE file is still there");
        let shim = self.shim_pid(run_id);
        until_true(&format!("the shim {shim} has left"), || !is_alive(shim));
        assert!(self.cgroup(run_id).is_none_or(|dir| !dir.exists()), "the control group is still there");
    }

    pub fn pause_file(&self) -> PathBuf {
        self.runtime().join("PAUSE")
    }

    /// Compiles the program that can do what no script can (`tests/programs/actor.c`), as `actor` into the root.
    pub fn actor(&self) {
        self.compile("actor");
    }

    /// Compiles `tests/programs/<name>.c`, as `name` into the root.
    pub fn compile(&self, name: &str) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/programs/{name}.c"));
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let status = Command::new(compiler).args(["-O1", "-pthread", "-o"]).arg(self.root().join(name)).arg(source).status();
        assert!(status.expect("a C compiler is needed, as for the program itself").success(), "it compiles");
    }

    /// Reads the database from outside.
    pub fn sql(&self) -> Connection {
        Connection::open_with_flags(self.database(), OpenFlags::SQLITE_OPEN_READ_ONLY).expect("opens")
    }

    /// The stored state.
    pub fn stored_state(&self) -> String {
        self.sql().query_row("SELECT state FROM pipeline_state", [], |row| row.get(0)).expect("the row")
    }

    /// The pid in the run's journal header.
    pub fn shim_pid(&self, run_id: i64) -> u32 {
        let text = fs::read_to_string(self.run_dir(run_id).join("journal.jsonl")).expect("a journal");
        let header: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
        header["shim_pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ended = server.child.kill();
            let _ended = server.child.wait();
        }
        // Shims first, so that none of them sees the others' end as something to write down.
        for pid in self.shims() {
            signal(pid, "KILL");
        }
        // Twice nobody: one that is being born when it is looked at shows no environment.
        let mut looks_without_any = 0;
        for _ in 0..100 {
            let left = self.processes();
            looks_without_any = if left.is_empty() { looks_without_any + 1 } else { 0 };
            if looks_without_any == 2 {
                break;
            }
            for pid in left {
                signal(pid, "KILL");
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.remove_cgroups();
        reaper::release();
        if thread::panicking() {
            eprintln!("--- the servers' log:\n{}", fs::read_to_string(&self.log).unwrap_or_default());
            for run in fs::read_dir(self.runtime().join("runs")).into_iter().flatten().flatten() {
                for file in ["journal.jsonl", "shim.log"] {
                    let text = fs::read_to_string(run.path().join(file)).unwrap_or_default();
                    eprintln!("--- {}/{file}:\n{text}", run.path().display());
                }
            }
        }
    }
}

/// Writes executable files, in a process of its own. What is open for writing here is open as well in whatever another test's thread
/// forks meanwhile, up to its exec, which can take its time; and the kernel executes nothing that somebody has open for writing (`ETXTBSY`).
fn write_programs(dir: &Path, programs: &[(&str, &str)]) {
    let each = "while [ $# -gt 0 ]; do printf %s \"$2\" >\"$1\" && chmod 755 \"$1\" || exit 1; shift 2; done";
    let words = programs.iter().flat_map(|(name, text)| [name, text]);
    let status = Command::new("/bin/sh").args(["-c", each, "sh"]).args(words).current_dir(dir).status();
    assert!(status.expect("/bin/sh is there").success(), "writes");
}

/// `cp -a`.
pub fn copy_all(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.expect("cp is everywhere").success(), "copies");
}

/// An object's keys are these and no others.
pub fn assert_keys(object: &Value, keys: &[&str]) {
    let found: BTreeSet<&str> = object.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(found, keys.iter().copied().collect(), "in {object}");
}

/// Null, or a time as the contract writes it.
pub fn assert_time(value: &Value) {
    let Some(text) = value.as_str() else { return assert!(value.is_null(), "{value} is no time") };
    let form: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "0000-00-00T00:00:00.000Z", "{text}");
}

/// The values of the keys, in order.
pub fn values(object: &Value, keys: &[&str]) -> Value {
    keys.iter().map(|key| object[key].clone()).collect()
}

/// Scripts that every place has.
const SCRIPTS: &[(&str, &str)] = &[
    // One process that says that it is there and then sleeps for ever.
    ("sleep.sh", "#!/bin/bash\necho ready\nexec sleep 600\n"),
    // A child, a grandchild, one in a session of its own, one that was double-forked, and one that ignores TERM. Its own `sleep` each.
    (
        "tree.sh",
        "#!/bin/bash\n\
         sleep 601 &\n\
         (sleep 602 & wait) &\n\
         setsid sleep 603 &\n\
         (setsid bash -c 'sleep 604 & exec sleep 605' &)\n\
         bash -c 'trap \"\" TERM; echo stubborn; while :; do sleep 0.1; done' &\n\
         echo ready\n\
         wait\n",
    ),
    // Counts, one number a line, for ever.
    ("count.sh", "#!/bin/bash\nn=0\nwhile :; do echo \"line $n\"; n=$((n + 1)); sleep 0.005; done\n"),
    // Ends with the code it is given.
    ("exit.sh", "#!/bin/bash\necho ready\nexit \"${1:-0}\"\n"),
    // Ends with code 7 as soon as a file called `go` is in its folder.
    ("until-go.sh", "#!/bin/bash\necho ready\nwhile [ ! -e go ]; do sleep 0.01; done\necho going\nexit 7\n"),
    // Ignores TERM.
    ("stubborn.sh", "#!/bin/bash\ntrap '' TERM\necho ready\nwhile :; do sleep 0.1; done\n"),
];
