//! The limit of processes (`ulimit -u`, `TasksMax=`), which a pipeline can reach by itself. The server still responds and acts,
//! and operations that need a process or a thread report the lack.
//!
//! Root has no such limit, so a test that runs as root runs the server as an unused user.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::few_descriptors::{READ_TOKEN, TOKEN};
use crate::support::wire::Wire;
use crate::support::{DEADLINE, Place, not_run, until, until_true};
use rustix::process::{Resource, geteuid, getrlimit};

/// A place whose servers have an effective limit of processes.
struct Limited {
    place: Place,
    binary: PathBuf,
    /// A user that no machine and no other test uses, because the kernel counts all processes of a user together.
    uid: u32,
}

impl Limited {
    fn new() -> Self {
        let mut place = Place::new();
        place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
        // Creating a control group would need rights that this user does not have.
        place.set_env("AUTOAPPDEV_CONTAINMENT", "tree");
        if !geteuid().is_root() {
            return Self { binary: PathBuf::from(env!("CARGO_BIN_EXE_autoappdev")), place, uid: geteuid().as_raw() };
        }
        // The build may be in a folder that only root can read. Copied by another process, because a file that is open for
        // writing here cannot be executed.
        let binary = place.folder().join("autoappdev");
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_autoappdev")).arg(&binary).status();
        assert!(copied.expect("cp(1) is there").success());
        let uid = 1_000_000_000 + u32::try_from(RandomState::new().hash_one(()) % 1_000_000_000).expect("small");
        let owned = Command::new("chown").args(["-R", &uid.to_string()]).arg(place.folder()).status();
        assert!(owned.expect("chown(1) is there").success());
        Self { place, binary, uid }
    }

    fn serving() -> Self {
        let mut limited = Self::new();
        limited.start_server();
        limited
    }

    fn start_server(&mut self) {
        let command = self.command();
        self.place.start_server_with(command);
        self.place.bring_own_token();
    }

    /// Opens a connection as the server's user.
    fn wire(&self) -> Wire {
        if geteuid().is_root() { Wire::open_as(self.uid, self.place.port()) } else { self.place.wire() }
    }

    fn command(&self) -> Command {
        let mut command = self.place.command_of(&self.binary);
        if geteuid().is_root() {
            command.uid(self.uid).gid(self.uid);
        }
        command
    }

    /// Sets the limit so that, until the returned value is dropped, neither the server nor its children can create a process or a
    /// thread.
    fn at_its_limit(&self) -> AtLimit {
        self.limited_to(0)
    }

    /// Like [`Self::at_its_limit`], with this number of processes in all.
    fn limited_to(&self, processes: usize) -> AtLimit {
        let limit = AtLimit { pid: self.place.server_pid(), uid: self.uid };
        assert!(limit.set(&format!("{processes}:")), "prlimit(1) sets the limit of a process of its own user");
        limit
    }

    /// Runs a server, which must refuse to start, with a limit of `limit` processes and threads for all of its user. Returns its
    /// exit code and its output.
    fn refused_server(&self, limit: usize) -> (Option<i32>, String) {
        self.run_with_limit(limit, &["serve"])
    }

    /// Runs a command with a limit of `limit` processes and threads for all of its user. Returns its exit code and its output.
    fn run_with_limit(&self, limit: usize, args: &[&str]) -> (Option<i32>, String) {
        let binary = self.command();
        let mut command = Command::new("bash");
        command.args(["-c", &format!("ulimit -u {limit}; exec \"$@\""), "bash"]).arg(binary.get_program()).args(args);
        command.current_dir(self.place.folder()).env_clear();
        command.envs(binary.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if geteuid().is_root() {
            command.uid(self.uid).gid(self.uid);
        }
        let output = command.stdin(Stdio::null()).output().expect("bash is there");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A process at its limit, until this value is dropped.
struct AtLimit {
    pid: u32,
    uid: u32,
}

impl AtLimit {
    /// Set by a process of the same user, because root may not have the right to do it.
    fn set(&self, limit: &str) -> bool {
        let mut command = Command::new("prlimit");
        command.args(["--pid", &self.pid.to_string(), &format!("--nproc={limit}")]);
        if geteuid().is_root() {
            command.uid(self.uid).gid(self.uid);
        }
        command.status().expect("prlimit(1) is there").success()
    }
}

impl Drop for AtLimit {
    fn drop(&mut self) {
        let before = getrlimit(Resource::Nproc).current.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
        // The process may have ended.
        let _gone = self.set(&format!("{before}:"));
    }
}

#[test]
fn server_at_process_limit_serves_requests_and_actions() {
    let limited = Limited::serving();
    let place = &limited.place;
    let (_, run_id) = place.start();
    until_true("no connection is open", || place.server_threads() < 30);
    let limit = limited.at_its_limit();
    let before = place.server_threads();
    // Each of these uses its own connection.
    for path in ["/", "/static/app.js", "/api/pipeline", "/api/pipeline/status", "/api/health", "/api/logs", "/api/runs/1/log"] {
        assert_eq!(place.get(path).status, 200, "{path}");
    }
    // More silent connections than reserved threads. They block no other client.
    let mut silent: Vec<Wire> = (0..40).map(|_| limited.wire()).collect();
    assert_eq!(place.state(), "running");
    let (code, out, err) = place.client(&["status"]);
    assert!(code == 0 && out.contains("running"), "{out}{err}");
    place.act("pause").ok();
    place.act("resume").ok();
    assert!(place.server_threads() <= before, "no thread was made");

    // A request that would occupy a thread is refused, or its wait ends early.
    let stream = place.get("/api/events");
    assert_eq!((stream.status, stream.error()), (503, "too_many_streams"), "{}", stream.body);
    let version = place.pipeline()["version"].as_u64().expect("a number");
    let mut polls: Vec<Wire> = (0..20)
        .map(|_| {
            let mut wire = limited.wire();
            wire.ask("GET", &format!("/api/pipeline?after={version}&wait=60"));
            wire
        })
        .collect();
    for wire in &mut polls {
        let answer = wire.answer();
        let is_told = answer.status == 200 || (answer.status, answer.error()) == (503, "out_of_processes");
        assert!(is_told && answer.header("Connection") == Some("close"), "{answer:?}");
    }
    // A silent connection is served once it sends its request.
    let answer = silent[0].get("/api/pipeline");
    assert_eq!(answer.status, 200, "{}", answer.body);

    place.act("stop").ok();
    assert_eq!(place.state(), "stopped");
    place.assert_nothing_left(run_id);
    let refused = place.act("start");
    assert_eq!((refused.status, refused.error()), (503, "out_of_processes"), "{}", refused.body);
    let detail = refused.body["detail"].as_str().expect("text");
    assert!(detail.contains("ulimit -u") && detail.contains("TasksMax"), "{detail}");
    let failed = place.run(refused.body["run_id"].as_i64().expect("a run"));
    assert_eq!((&failed["status"], failed["error"].as_str()), (&"failed".into(), Some(detail)), "{failed}");

    drop(limit);
    let (_, run_id) = place.start();
    let mut wire = limited.wire();
    assert_eq!(wire.get("/api/pipeline").header("Connection"), None, "it has a thread of its own again");
    place.act("stop").ok();
    place.assert_nothing_left(run_id);
    let log = place.server_log();
    assert!(log.contains("no thread can be created for a connection") && !log.contains("panicked"), "{log}");
}

/// Over TCP a client command first asks the server for its proof, and then sends its request on the same connection.
#[test]
fn server_at_process_limit_serves_request_after_proof() {
    const CHALLENGE: &str = "/api/version?challenge=0123456789abcdef0123456789abcdef";
    let mut limited = Limited::new();
    limited.place.set_env("AUTOAPPDEV_SOCKET", "off");
    limited.start_server();
    let (_, run_id) = limited.place.start();
    until_true("no connection is open", || limited.place.server_threads() < 30);
    let limit = limited.at_its_limit();
    let before = limited.place.server_threads();
    for args in [&["status"][..], &["pause"], &["resume"], &["stop", "--now"], &["runs", "1"]] {
        let output = limited.command().args(args).stdin(Stdio::null()).output().expect("the binary runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    limited.place.assert_nothing_left(run_id);
    // After a proof, one request can follow. After anything else, including a second proof, none can.
    let persistence = |wire: &mut Wire, path: &str| wire.get(path).header("Connection").map(str::to_owned);
    let close = Some("close".to_owned());
    for after in ["/api/pipeline", CHALLENGE] {
        let mut wire = limited.wire();
        assert_eq!((persistence(&mut wire, CHALLENGE), persistence(&mut wire, after)), (None, close.clone()), "{after}");
    }
    assert_eq!(persistence(&mut limited.wire(), "/api/pipeline"), close);
    // More clients than reserved threads that send nothing after the proof. They do not delay other clients for long.
    let mut silent: Vec<Wire> = (0..20).map(|_| limited.wire()).collect();
    for wire in &mut silent {
        wire.ask("GET", CHALLENGE);
    }
    until_true("another client is served", || limited.place.get("/api/pipeline").status == 200);
    assert!(limited.place.server_threads() <= before, "no thread was made");
    drop(limit);
}

/// A pipeline that forks endlessly leaves its owner no process. The owner stops it from an open shell.
#[test]
fn client_commands_create_no_process_or_thread() {
    let limited = Limited::serving();
    let (_, run_id) = limited.place.start();
    let url = |host: &str| format!("http://{host}:{}", limited.place.port());
    let [address, name] = [url("127.0.0.1"), url("localhost")];
    let commands: [&[&str]; 7] = [
        &["status"],
        &["pause"],
        &["resume"],
        &["logs"],
        &["--url", &address, "status"],
        &["--url", &name, "status"],
        &["stop", "--now"],
    ];
    for args in commands {
        let (code, said) = limited.run_with_limit(1, args);
        assert_eq!(code, Some(0), "{args:?}: {said}");
    }
    limited.place.assert_nothing_left(run_id);
}

/// They replace each connection that the server closes, so that no thread that they can use is ever free.
#[test]
fn half_requests_at_process_limit_do_not_block_owner_at_socket() {
    const STRANGERS: usize = 60;
    let limited = Limited::serving();
    until_true("no connection is open", || limited.place.server_threads() < 30);
    let _limit = limited.at_its_limit();
    let before = limited.place.server_threads();
    let (is_over, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let open = || {
                let wire = Wire::try_open(limited.place.port()).ok()?;
                asked.fetch_add(1, Ordering::SeqCst);
                let mut writer = wire.writer();
                writer.write_all(b"GET /api/pipeline HTTP/1.1\r\nHo").ok().map(|()| wire)
            };
            let mut held: Vec<Wire> = Vec::new();
            while !is_over.load(Ordering::SeqCst) {
                held.retain(|wire| !wire.has_answer());
                held.extend((held.len()..STRANGERS).filter_map(|_| open()));
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let _over = Over(&is_over);
        until_true("every thread in reserve has had a half request", || asked.load(Ordering::SeqCst) > STRANGERS);
        // No request of the owner waits for one of those, each of which lasts a second.
        let mut refused = 0;
        for _ in 0..20 {
            let mut owner = UnixStream::connect(limited.place.runtime().join("server.sock")).expect("it listens");
            owner.set_read_timeout(Some(DEADLINE)).expect("a limit");
            owner.write_all(b"GET /api/pipeline HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
            let mut answer = String::new();
            owner.read_to_string(&mut answer).expect("an answer");
            refused += usize::from(!answer.starts_with("HTTP/1.1 200 "));
        }
        assert_eq!(refused, 0, "a request of the owner waited for longer than it may");
    });
    assert!(limited.place.server_threads() <= before, "no thread was made");
}

/// Downloads and searches on more connections than there are reserved threads. None of the clients reads its response.
#[test]
fn viewers_at_process_limit_cannot_occupy_reserved_threads() {
    const ASKED: [&str; 3] = ["/api/runs/1/log", "/api/runs/1/log?stream=stdout", "/api/logs?since=0&limit=5000"];
    let mut limited = Limited::new();
    limited.place.set_env("AUTOAPPDEV_READ_TOKEN", READ_TOKEN);
    limited.place.use_token(TOKEN);
    // More than the buffers of a socket can hold.
    limited.place.script(
        "talks.sh",
        "#!/bin/bash\nhead -c 40000000 /dev/zero | tr '\\0' y | fold -w 1000\necho\necho ready\nexec sleep 600\n",
    );
    let command = limited.command();
    limited.place.start_server_with(command);
    let place = &limited.place;
    place.start_with(serde_json::json!({"script": "talks.sh"}));
    until_true("it has talked", || place.get("/api/logs/tail?limit=1").ok()["lines"][0]["line"] == "ready");
    until_true("no connection is open", || place.server_threads() < 30);
    let limit = limited.at_its_limit();
    let ask = |path: &str, token: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n")
    };
    // An operator's download is still served, and a viewer's is refused.
    for (token, status) in [(TOKEN, 200), (READ_TOKEN, 503)] {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", place.port())).expect("it accepts");
        stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
        stream.write_all(ask(ASKED[0], token).as_bytes()).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        assert!(answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes()));
        assert_eq!(answer.len() > 40_000_000, status == 200);
        let text = String::from_utf8_lossy(&answer[..answer.len().min(2000)]).into_owned();
        assert!(status == 200 || text.contains("too_many_downloads"), "{text}");
    }
    // Slow readers, which read a byte now and then, so that no single write fails.
    let is_over = AtomicBool::new(false);
    let mut slow: Vec<_> = (0..12)
        .map(|n| {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", place.port())).expect("it accepts");
            stream.write_all(ask(ASKED[n % ASKED.len()], READ_TOKEN).as_bytes()).expect("sent");
            stream.set_nonblocking(true).expect("an option");
            stream
        })
        .collect();
    std::thread::scope(|scope| {
        let _over = Over(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                for stream in &mut slow {
                    let _none_yet = stream.read(&mut [0; 16 * 1024]);
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        until_true("an operator is served beside them", || {
            let mut wire = place.wire();
            wire.send(ask("/api/pipeline", TOKEN));
            wire.try_answer(false).is_ok_and(|answer| answer.status == 200)
        });
    });
    drop(limit);
}

/// Ends the other clients on drop, even if the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn on_term_stop_works_at_process_limit() {
    let mut limited = Limited::new();
    limited.place.set_env("AUTOAPPDEV_ON_TERM", "stop");
    limited.start_server();
    let (_, run_id) = limited.place.start();
    let _limit = limited.at_its_limit();
    let (code, said) = limited.place.stop_server_and_listen();
    assert!(code == 0 && said.starts_with("pipeline run 1 was stopped"), "{code} {said}{}", limited.place.server_log());
    limited.place.assert_nothing_left(run_id);
}

#[test]
fn start_fails_with_the_cause_if_the_leader_cannot_be_forked() {
    if !geteuid().is_root() {
        return not_run("how many processes this user has is not this test's to say", "AUTOAPPDEV_REQUIRE_ROOT");
    }
    let limited = Limited::serving();
    let place = &limited.place;
    // The thread of this connection is included in the count.
    let mut wire = limited.wire();
    wire.get("/api/pipeline").ok();
    // Threads that have just ended are still counted for a moment. After that there is room for the leader.
    let refused = until("the shim is made, and nothing more", || {
        let _limit = limited.limited_to(place.server_threads() + 1);
        wire.send("POST /api/pipeline/start HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        let answer = wire.answer();
        if answer.status == 200 {
            wire.send("POST /api/pipeline/stop HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
            wire.answer().ok();
            return None;
        }
        assert_eq!((answer.status, answer.error()), (503, "out_of_processes"), "{}", answer.body);
        answer.body["detail"].as_str().is_some_and(|detail| detail.contains("sleep.sh could not be run")).then_some(answer)
    });
    let run_id = refused.body["run_id"].as_i64().expect("a run");
    let journal = fs::read_to_string(place.run_dir(run_id).join("journal.jsonl")).expect("there");
    assert!(journal.contains(r#""lack":"processes""#), "{journal}");
    let run = place.run(run_id);
    let error = run["error"].as_str().expect("text");
    assert!(run["status"] == "failed" && error.contains("ulimit -u"), "{run}");
    place.assert_nothing_left(run_id);
}

#[test]
fn server_that_cannot_create_a_thread_exits_with_an_error() {
    if !geteuid().is_root() {
        let (code, said) = Limited::new().refused_server(0);
        return assert_refused(code, &said);
    }
    let mut limited = Limited::serving();
    let wanted = limited.place.server_threads();
    assert_eq!(limited.place.stop_server(), 0);
    // With each step of the limit, the server can create one more thread.
    for limit in 0..wanted {
        let (code, said) = limited.refused_server(limit);
        assert_refused(code, &said);
    }
    limited.start_server();
    assert_eq!(limited.place.state(), "stopped");
}

fn assert_refused(code: Option<i32>, said: &str) {
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("autoappdev: ") && said.contains("ulimit -u") && said.contains("TasksMax"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}
