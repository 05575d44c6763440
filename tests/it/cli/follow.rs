//! `logs -f` as a user runs it: the real binary against a small real server, which goes away and comes back.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::fake_server::{FakeServer, Reply, Request};
use rustix::process::{Pid, Signal, kill_process};

use super::command::{DEADLINE, announce, command, exit_code, folder, run_against};

/// A log that outlives the servers that serve it, as the shim's files do.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<(u64, String, bool)>>>);

impl Log {
    /// Appends one line, in parts if there are several. Ids are not consecutive.
    fn append(&self, parts: &[&str]) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, part) in parts.iter().enumerate() {
            let id = lines.last().map_or(3, |(id, ..)| id + 10);
            lines.push((id, (*part).to_owned(), index + 1 < parts.len()));
        }
    }

    pub(super) fn answer(&self, request: &Request) -> Reply {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = |key: &str| {
            let at = request.line.find(key)? + key.len();
            request.line[at..].split('&').next()?.parse().ok()
        };
        let (since, limit) = (number("since=").unwrap_or(0), number("limit=").unwrap_or(u64::MAX));
        let is_tail = request.line.contains("/tail?");
        let skipped = if is_tail { lines.len().saturating_sub(usize::try_from(limit).expect("small")) } else { 0 };
        let page: Vec<_> = lines
            .iter()
            .skip(skipped)
            .filter(|(id, ..)| *id > since)
            .take(usize::try_from(limit).unwrap_or(usize::MAX))
            .map(|(id, line, partial)| {
                serde_json::json!({"id": id, "at": "2026-01-31T10:00:00.123Z", "source": "pipeline", "stream": "stdout",
                    "run_id": 7, "line": line, "partial": partial})
            })
            .collect();
        let next = page.last().map_or(since, |line| line["id"].as_u64().expect("a number"));
        Reply::Json(
            200,
            serde_json::json!({"source": "pipeline", "since": since, "next": next, "first": 0, "lines": page}).to_string(),
        )
    }

    fn server(&self) -> FakeServer {
        let log = self.clone();
        FakeServer::start(move |request| log.answer(request))
    }
}

/// A running `logs -f`, whose lines can be awaited. It is killed on drop.
struct Follower {
    child: Child,
    lines: Receiver<String>,
    warnings: Receiver<String>,
}

impl Follower {
    fn spawn(folder: &Path, args: &[&str]) -> Self {
        let mut child = command(folder, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let lines = received(child.stdout.take().expect("piped"));
        let warnings = received(child.stderr.take().expect("piped"));
        Self { child, lines, warnings }
    }

    fn expect_lines(&self, expected: &[&str]) {
        for expected in expected {
            assert_eq!(self.lines.recv_timeout(DEADLINE).as_deref(), Ok(*expected));
        }
    }

    /// Returns the exit code, once the command has ended by itself.
    fn exit_code(&mut self) -> Option<i32> {
        exit_code(&mut self.child)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // If the test succeeded, the command has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn received(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    receiver
}

/// Waits until the server has received `count` requests in all.
fn await_requests(server: &FakeServer, count: usize) {
    let deadline = Instant::now() + DEADLINE;
    while server.requests().len() < count {
        assert!(Instant::now() < deadline, "nobody asks");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn logs_follow_prints_each_line_once_across_server_changes() {
    let folder = folder();
    fs::write(folder.path().join(".env"), "PORT=1\n").expect("written");
    let log = Log::default();
    for line in ["zero", "one", "two"] {
        log.append(&[line]);
    }
    let first = log.server();
    let _held = announce(folder.path(), &first);
    let mut follower = Follower::spawn(folder.path(), &["logs", "-f", "-n", "2", "--no-timestamps"]);
    follower.expect_lines(&["one", "two"]);
    log.append(&["three"]);
    log.append(&["fo", "u", "r"]);
    follower.expect_lines(&["three", "four"]);

    // The next server is killed in the middle of a response that contains a new line.
    let half = log.clone();
    let dying = FakeServer::start(move |request| match half.answer(request) {
        Reply::Json(_, body) => Reply::Half(body),
        other => other,
    });
    let _still_held = announce(folder.path(), &dying);
    drop(first);
    log.append(&["five"]);
    // These servers have no session key, so they cannot prove their identity. The client warns of that once.
    let unverified = follower.warnings.recv_timeout(DEADLINE).expect("a warning");
    assert!(unverified.contains("could not be verified"), "{unverified}");
    assert_eq!(follower.warnings.recv_timeout(DEADLINE).as_deref(), Ok("autoappdev: connection lost; trying again"));
    await_requests(&dying, dying.requests().len() + 2);
    drop(dying);
    log.append(&["six"]);

    let last = log.server();
    let _still_held = announce(folder.path(), &last);
    follower.expect_lines(&["five", "six"]);
    assert_eq!(follower.warnings.recv_timeout(DEADLINE).as_deref(), Ok("autoappdev: the server answers again"));
    log.append(&["seven"]);
    follower.expect_lines(&["seven"]);
    assert!(follower.warnings.try_recv().is_err(), "one warning for one outage, and one for its end");
    drop(last);
    assert_eq!(follower.warnings.recv_timeout(DEADLINE).as_deref(), Ok("autoappdev: connection lost; trying again"));

    kill_process(Pid::from_child(&follower.child), Signal::INT).expect("it is alive");
    assert_eq!(follower.exit_code(), Some(0), "Ctrl-C ends it well");
    assert_eq!(follower.lines.recv_timeout(DEADLINE).ok(), None, "no line more");
    assert_eq!(follower.warnings.recv_timeout(DEADLINE).ok(), None, "no warning more");
}

#[test]
fn logs_follow_catches_up_in_pages() {
    let folder = folder();
    let log = Log::default();
    log.append(&["begin"]);
    let server = log.server();
    let _held = announce(folder.path(), &server);
    let follower = Follower::spawn(folder.path(), &["logs", "-f", "-n", "0", "--no-timestamps"]);
    await_requests(&server, 2);
    let lines: Vec<_> = (0..1700).map(|number| format!("line {number}")).collect();
    for line in &lines {
        log.append(&[line]);
    }
    follower.expect_lines(&lines.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn logs_prints_last_lines_or_json_document() {
    let log = Log::default();
    log.append(&["one"]);
    log.append(&["tw", "o"]);
    let server = log.server();
    assert_eq!(run_against(&server, &["logs", "--no-timestamps"]), (0, "one\ntwo\n".to_owned(), String::new()));
    assert_eq!(run_against(&server, &["logs", "-n", "2"]).1, "2026-01-31T10:00:00.123Z stdout two\n");
    let (code, out, _) = run_against(&server, &["logs", "--json", "--source", "backend"]);
    assert_eq!((code, out.lines().count()), (0, 1));
    let document: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(document["lines"].as_array().map(Vec::len), Some(3));
    assert_eq!(server.requests()[2].line, "GET /api/logs/tail?source=backend&limit=200");
}

#[test]
fn closed_output_ends_logs_without_error() {
    let log = Log::default();
    for _ in 0..5000 {
        log.append(&["a line that is long enough to fill a pipe after some thousand of them"]);
    }
    let server = log.server();
    let folder = folder();
    let _held = announce(folder.path(), &server);
    // Both while the command writes, and while it waits for a line that never comes.
    for (args, taken) in [(&["logs", "-n", "5000"][..], 1), (&["logs", "-f", "-n", "3"], 3)] {
        let mut child =
            command(folder.path(), args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let mut reader = BufReader::new(child.stdout.take().expect("piped"));
        for _ in 0..taken {
            reader.read_line(&mut String::new()).expect("a line");
        }
        drop(reader);
        let code = exit_code(&mut child);
        let mut warnings = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut warnings).expect("text");
        let is_said = |line: &str| line.contains("could not be verified");
        assert!(code == Some(0) && warnings.lines().all(is_said), "{args:?}: {code:?} {warnings}");
    }
}
