//! The parts that the tests of the whole binary share: a server for each test, scripts, views of the kernel and the database, and
//! waiting for a condition.
//!
//! Everything that a test starts is killed on drop, or when the test itself is killed (`reaper.rs`). If a test fails, the
//! server's log is printed.

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
pub use witness::{can_make_cgroups, members, own_cgroup, serve_with_made_up_kills};

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

/// A folder with scripts and a runtime directory, and the server that runs there, if any.
pub struct Place {
    dir: tempfile::TempDir,
    server: Option<RunningServer>,
    envs: Vec<(String, String)>,
    runtime: PathBuf,
    /// Sent with each request that has no other token.
    bearer: Option<String>,
    /// Everything that the servers of this place printed.
    log: PathBuf,
}

struct RunningServer {
    child: Child,
    stdout: BufReader<ChildStdout>,
    port: u16,
}

impl Place {
    /// Creates a place with scripts and without a server.
    pub fn new() -> Self {
        Self::with_runtime("runtime")
    }

    /// Like [`Self::new`], with a runtime directory of this name, which may contain slashes.
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

    /// Creates a place with a server whose default script is `script`.
    pub fn serving(script: &str) -> Self {
        let mut place = Self::new();
        place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", script);
        place.start_server();
        place
    }

    /// Sets a variable for servers that are started from now on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.envs.retain(|(key, _)| key != name);
        self.envs.push((name.to_owned(), value.to_owned()));
    }

    /// Makes servers that are started from now on require this token, and requests from here send it.
    pub fn use_token(&mut self, token: &str) {
        self.set_env("AUTOAPPDEV_TOKEN", token);
        self.bring_token(token);
    }

    /// Makes requests send the token that the server created, because a server of another user cannot identify the test
    /// otherwise.
    pub fn bring_own_token(&mut self) {
        let token = fs::read_to_string(self.runtime().join("token")).expect("made at the first boot");
        self.bring_token(token.trim());
    }

    /// Makes requests from here send this token.
    pub fn bring_token(&mut self, token: &str) {
        self.bearer = Some(format!("Bearer {token}"));
    }

    /// Removes a variable for servers that are started from now on.
    pub fn unset_env(&mut self, name: &str) {
        self.envs.retain(|(key, _)| key != name);
    }

    /// Writes an executable script to the root.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        write_programs(&self.root(), &[(name, text)]);
        self.root().join(name)
    }

    /// Returns the folder that contains everything, where a test can put its own files.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn runtime(&self) -> PathBuf {
        self.runtime.clone()
    }

    /// Replaces the runtime directory by a copy: every file is a new one, and no socket has a listener.
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

    /// Returns the binary with this place's configuration and without any from the environment. The kernel picks the port.
    pub fn command(&self) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_autoappdev")))
    }

    pub fn command_of(&self, binary: &Path) -> Command {
        let mut command = Command::new(binary);
        for (name, _) in std::env::vars_os() {
            // The variables that a service manager set for this test are not for the server.
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
            // The free space of the machine's disk must not decide which logs are kept. A test of that limit sets its own value.
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

    /// Starts the server as a service manager does: again and again until it stays up.
    pub fn start_server_until_it_serves(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        while let Err(said) = self.try_start_server_with(self.command()) {
            let log = || fs::read_to_string(&self.log).unwrap_or_default();
            assert!(Instant::now() < deadline, "the server does not come up: {said:?}\n{}", log());
        }
    }

    /// Starts a server. The error is what it printed instead of its address.
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

    /// Kills the server with SIGKILL.
    pub fn kill_server(&mut self) {
        self.crash_server("KILL");
    }

    /// Ends the server with any signal.
    pub fn crash_server(&mut self, name: &str) -> ExitStatus {
        let mut server = self.server.take().expect("a server runs");
        signal(server.child.id(), name);
        server.child.wait().expect("ours")
    }

    /// Ends the server with SIGTERM. Returns its exit code.
    pub fn stop_server(&mut self) -> i32 {
        self.stop_server_and_listen().0
    }

    /// Ends the server with SIGTERM. Returns its exit code, and what it printed to standard output after its address.
    pub fn stop_server_and_listen(&mut self) -> (i32, String) {
        signal(self.server_pid(), "TERM");
        self.until_server_ended()
    }

    /// Like [`Self::stop_server_and_listen`], for a server that was already asked to exit.
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
        // Every server here is configured through the environment, and reports it.
        let is_setup = |line: &&str| line.starts_with("settings from the environment: ");
        (code, said.split_inclusive('\n').filter(|line| !is_setup(line)).collect())
    }

    /// Runs `serve`, which must refuse to start, with one more variable. Returns what it wrote to standard error.
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

    /// Kills the server with SIGKILL and calls `start` to start the next one.
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

    /// Runs a client command against this place's server. Returns the exit code, stdout and stderr.
    pub fn client(&self, args: &[&str]) -> (i32, String, String) {
        let output = self.command().args(args).stdin(Stdio::null()).output().expect("the binary runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
    }

    /// Returns the number of the server's threads, as the kernel counts them.
    pub fn server_threads(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server_pid())).expect("the server is alive");
        let count = status.lines().find_map(|line| line.strip_prefix("Threads:")).expect("it tells its threads");
        count.trim().parse().expect("a number")
    }

    /// Returns what no refused request may change: the state, the version, and the number of runs. Checks that the database and
    /// the API agree.
    pub fn footprint(&self) -> (String, i64, i64) {
        let row = "SELECT state, version, (SELECT count(*) FROM pipeline_runs) FROM pipeline_state";
        until("the database says what the API says", || {
            let stored: (String, i64, i64) =
                self.sql().query_row(row, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).expect("the row");
            let told = self.pipeline();
            Some(stored).filter(|stored| told["state"] == stored.0.as_str() && told["version"] == stored.1)
        })
    }

    /// Returns everything that the servers of this place have printed.
    pub fn server_log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Checks, after an end, that no process of any run of this place is left and that `PAUSE` does not exist, and waits until
    /// the shim has exited.
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

    /// Compiles `tests/programs/actor.c`, which does what no script can, as `actor` into the root.
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

    /// Opens the database read-only, as another process.
    pub fn sql(&self) -> Connection {
        Connection::open_with_flags(self.database(), OpenFlags::SQLITE_OPEN_READ_ONLY).expect("opens")
    }

    /// Returns the stored state.
    pub fn stored_state(&self) -> String {
        self.sql().query_row("SELECT state FROM pipeline_state", [], |row| row.get(0)).expect("the row")
    }

    /// Returns the pid in the header of the run's journal.
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
        // Shims first, so that none of them records the end of the others.
        for pid in self.shims() {
            signal(pid, "KILL");
        }
        // Two scans must find nothing, because a process that is just being created has no environment for a moment.
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

/// Writes executable files in another process.
///
/// While a file is open for writing here, a child that another test's thread forks has it open too, until its exec, which can
/// take a while. The kernel does not execute a file that a process has open for writing (`ETXTBSY`).
fn write_programs(dir: &Path, programs: &[(&str, &str)]) {
    let each = "while [ $# -gt 0 ]; do printf %s \"$2\" >\"$1\" && chmod 755 \"$1\" || exit 1; shift 2; done";
    let words = programs.iter().flat_map(|(name, text)| [name, text]);
    let status = Command::new("/bin/sh").args(["-c", each, "sh"]).args(words).current_dir(dir).status();
    assert!(status.expect("/bin/sh is there").success(), "writes");
}

/// Copies with `cp -a`.
pub fn copy_all(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.expect("cp is everywhere").success(), "copies");
}

/// Checks that an object has exactly these keys.
pub fn assert_keys(object: &Value, keys: &[&str]) {
    let found: BTreeSet<&str> = object.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(found, keys.iter().copied().collect(), "in {object}");
}

/// Checks that a value is null, or a time as the contract defines it.
pub fn assert_time(value: &Value) {
    let Some(text) = value.as_str() else { return assert!(value.is_null(), "{value} is no time") };
    let form: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "0000-00-00T00:00:00.000Z", "{text}");
}

/// Returns the values of the keys, in order.
pub fn values(object: &Value, keys: &[&str]) -> Value {
    keys.iter().map(|key| object[key].clone()).collect()
}

/// The scripts that every place has.
const SCRIPTS: &[(&str, &str)] = &[
    // One process that prints `ready` and then sleeps.
    ("sleep.sh", "#!/bin/bash\necho ready\nexec sleep 600\n"),
    // A child, a grandchild, a process in its own session, a double-forked one, and one that ignores TERM. Each has its own
    // `sleep`.
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
    // Counts without end, one number a line.
    ("count.sh", "#!/bin/bash\nn=0\nwhile :; do echo \"line $n\"; n=$((n + 1)); sleep 0.005; done\n"),
    // Exits with the given code.
    ("exit.sh", "#!/bin/bash\necho ready\nexit \"${1:-0}\"\n"),
    // Exits with code 7 as soon as a file called `go` exists in its folder.
    ("until-go.sh", "#!/bin/bash\necho ready\nwhile [ ! -e go ]; do sleep 0.01; done\necho going\nexit 7\n"),
    // Ignores TERM.
    ("stubborn.sh", "#!/bin/bash\ntrap '' TERM\necho ready\nwhile :; do sleep 0.1; done\n"),
];
