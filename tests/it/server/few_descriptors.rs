//! A server with few descriptors (`ulimit -n`), and a client with a read-only token that opens as much as it can. The owner can
//! still read and act.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;

use crate::support::wire::Wire;
use crate::support::{DEADLINE, Place, until_true};

pub(super) const TOKEN: &str = "test-token-that-acts-7Qx";
pub(super) const READ_TOKEN: &str = "test-token-that-looks-9Zk";

/// A script that prints more than any socket buffer holds, and then one line every 50 ms.
const TALKS: &str = "#!/bin/bash\nhead -c 9000000 /dev/zero | tr '\\0' y | fold -w 1000\necho\necho ready\n\
                     n=0\nwhile :; do echo \"line $n\"; n=$((n + 1)); sleep 0.05; done\n";

/// Creates a server with this descriptor limit.
pub(super) fn place_with(descriptors: u32) -> Place {
    let mut place = Place::new();
    place.script("talks.sh", TALKS);
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "talks.sh");
    place.set_env("AUTOAPPDEV_READ_TOKEN", READ_TOKEN);
    place.use_token(TOKEN);
    let mut command = Command::new("bash");
    command.args(["-c", &format!("ulimit -n {descriptors} && exec \"$@\""), "bash"]).arg(env!("CARGO_BIN_EXE_autoappdev"));
    let plain = place.command();
    command.current_dir(place.folder()).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("PATH", "/usr/bin:/bin");
    place.start_server_with(command);
    place
}

/// The viewer's connections. Each has sent a request, and none reads its response.
struct Viewer(Vec<TcpStream>);

impl Viewer {
    fn besiege(place: &Place) -> Self {
        let end = place.get("/api/logs/tail?limit=1").ok()["next"].as_u64().expect("a position");
        let version = place.pipeline()["version"].as_u64().expect("a number");
        let targets = [
            "/api/events?since=0".to_owned(),
            "/api/events".to_owned(),
            "/api/runs/1/log?stream=stdout".to_owned(),
            "/api/runs/1/log".to_owned(),
            format!("/api/logs?since={end}&grep=nothing&wait=60&run=1"),
            "/api/logs?since=0&limit=5000".to_owned(),
            format!("/api/pipeline?after={version}&wait=60"),
            "/api/runs?limit=500".to_owned(),
        ];
        let mut connections = Vec::new();
        for _ in 0..60 {
            for target in &targets {
                // A connection without a slot is closed, and the next one is tried.
                let Ok(mut stream) = TcpStream::connect(("127.0.0.1", place.port())) else { continue };
                let head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {READ_TOKEN}\r\n\r\n");
                let _closed_already = stream.write_all(head.as_bytes());
                connections.push(stream);
            }
        }
        Self(connections)
    }

    /// Returns how many connections the server has not closed.
    fn holds(&self) -> usize {
        let is_open = |stream: &&TcpStream| {
            stream.set_nonblocking(true).expect("an option");
            let mut byte = [0];
            let peeked = stream.peek(&mut byte);
            peeked.map_or_else(|error| error.kind() == std::io::ErrorKind::WouldBlock, |count| count > 0)
        };
        self.0.iter().filter(is_open).count()
    }
}

/// Sends one request to the Unix socket. Returns the first line of the response, and the connection, for requests that stay open.
fn ask_at_socket(place: &Place, request: &str) -> (String, UnixStream) {
    let mut stream = UnixStream::connect(place.runtime().join("server.sock")).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").as_bytes()).expect("sent");
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream
            .read_exact(&mut byte)
            .unwrap_or_else(|error| panic!("{request}: {error} after {:?}", String::from_utf8_lossy(&line)));
        line.extend(byte);
    }
    (String::from_utf8_lossy(&line).trim_end().to_owned(), stream)
}

/// There are fewer connections than requests that can wait for their turn, so a search is refused only to make room for a new
/// connection.
#[test]
fn queued_search_is_refused_to_make_room_for_new_connection() {
    let place = place_with(128);
    place.start();
    until_true("it talks", || {
        let tail = place.get("/api/logs/tail?limit=1").ok();
        tail["lines"][0]["line"].as_str().is_some_and(|line| line.starts_with("line "))
    });
    let search = format!(
        "GET /api/logs/tail?limit=5000&grep=nothing HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {READ_TOKEN}\r\n\r\n"
    );
    until_true("a search gives way", || {
        let mut searches: Vec<Wire> = (0..40).filter_map(|_| Wire::try_open(place.port()).ok()).collect();
        for wire in &mut searches {
            wire.send(&search);
        }
        // Some are closed without a response.
        let answers: Vec<_> = searches.iter_mut().filter_map(|wire| wire.try_answer(false).ok()).collect();
        answers.iter().any(|answer| answer.error() == "too_many_reads")
    });
}

#[test]
fn server_warns_about_too_few_descriptors_at_start() {
    for (descriptors, is_said) in [(127, true), (128, false)] {
        let mut place = place_with(descriptors);
        assert_eq!(place.stop_server(), 0);
        let log = place.server_log();
        let said = log.contains(&format!("the limit of open files is {descriptors}, and the server needs 128"));
        assert_eq!(said, is_said, "{log}");
    }
}

#[test]
fn greedy_viewer_does_not_block_owner() {
    for descriptors in [100, 160, 256, 400] {
        let place = place_with(descriptors);
        place.start();
        until_true("it talks", || {
            let tail = place.get("/api/logs/tail?limit=1").ok();
            tail["lines"][0]["line"].as_str().is_some_and(|line| line.starts_with("line "))
        });
        let viewer = Viewer::besiege(&place);
        assert!(viewer.holds() > 4, "with {descriptors} descriptors the siege holds {} connections", viewer.holds());
        // Everything that the owner may want at the same time, each on its own connection, which stays open.
        let mut kept = Vec::new();
        for request in [
            "GET /api/events",
            "GET /api/runs/1/log",
            "GET /api/pipeline",
            "POST /api/pipeline/pause",
            "POST /api/pipeline/resume",
        ] {
            let (line, stream) = ask_at_socket(&place, request);
            assert_eq!(line, "HTTP/1.1 200 OK", "{request} with {descriptors} descriptors");
            kept.push(stream);
            kept.truncate(2);
        }
        // Client commands, which find the server by themselves.
        for command in [
            &["status"][..],
            &["pause"],
            &["resume"],
            &["logs", "--lines", "5"],
            &["stop", "--grace", "0"],
            &["start"],
            &["runs"],
        ] {
            let (code, out, said) = place.client(command);
            assert_eq!(code, 0, "{command:?} with {descriptors} descriptors: {out}{said}");
        }
        // An operator on another machine, or connected by TCP, gets the slot of a client that only waits.
        until_true("an operator by TCP acts", || {
            place.try_request("POST", "/api/pipeline/pause", &[], None).is_some_and(|answer| answer.status == 200)
        });
        let log = place.server_log() + &std::fs::read_to_string(place.runtime().join("backend.log")).unwrap_or_default();
        assert!(!log.contains("Too many open files") && !log.contains("os error 24"), "with {descriptors} descriptors: {log}");
        drop((viewer, kept));
    }
}
