//! Clients without a token that send endless bodies on more connections than there are slots. They cannot use up the memory for
//! bodies.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::few_descriptors::{READ_TOKEN, TOKEN, place_with};
use crate::support::wire::Wire;
use crate::support::{Place, until_true};

/// More than the slots of a server with 400 descriptors.
const STRANGERS: usize = 300;

/// How many requests of an operator and of the owner must get a response at the first attempt.
const REQUESTS: usize = 10;

/// One connection, and how much of its request was sent.
struct Stranger {
    stream: TcpStream,
    sent: usize,
}

impl Stranger {
    fn open(port: u16) -> Option<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_nonblocking(true).expect("an option");
        Some(Self { stream, sent: 0 })
    }

    /// Sends as much of the request as the connection accepts. Returns false once the server has responded or closed the
    /// connection.
    fn goes_on(&mut self, request: &[u8]) -> bool {
        if self.sent < request.len() {
            let part = &request[self.sent..request.len().min(self.sent + 64 * 1024)];
            match self.stream.write(part) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        self.stream.read(&mut [0; 64]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

/// Ends the attack on drop, even if the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Returns the request of a client with these fields: 62 chunks of 16 KiB without an end.
fn endless(path: &str, fields: &str) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{fields}Transfer-Encoding: chunked\r\n\r\n"
    );
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    [head.as_bytes(), chunk.repeat(62).as_bytes()].concat()
}

/// Calls `act` while many clients keep sending `request`, and replace each connection that the server closes.
fn besieged(place: &Place, request: &[u8], act: impl FnOnce()) {
    let (is_over, opened) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _over = Over(&is_over);
        scope.spawn(|| {
            let mut held: Vec<Stranger> = Vec::new();
            while !is_over.load(Ordering::SeqCst) {
                held.retain_mut(|stranger| stranger.goes_on(request));
                for _ in 0..(STRANGERS - held.len()).min(20) {
                    held.extend(Stranger::open(place.port()));
                    opened.fetch_add(1, Ordering::SeqCst);
                }
                thread::sleep(Duration::from_millis(2));
            }
        });
        until_true("the siege is complete", || opened.load(Ordering::SeqCst) > STRANGERS);
        act();
    });
}

/// Returns the body of a start with an environment of 20 kB: more than the body of a client without a token can have.
fn long_start() -> String {
    format!(r#"{{"env":{{"BIG":"{}"}}}}"#, "x".repeat(20_000))
}

fn operator_acts_beside(path: &str, fields: &str) {
    let place = place_with(400);
    besieged(&place, &endless(path, fields), || {
        let mut refused = Vec::new();
        for _ in 0..REQUESTS {
            let mut wire = Wire::open(place.port());
            let body = long_start();
            let head =
                format!("Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
            wire.send(format!("POST /api/pipeline/start HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n{body}"));
            let answer = wire.answer();
            // Only the first one begins a run.
            if ![200, 409].contains(&answer.status) {
                refused.push(answer);
            }
        }
        assert!(refused.is_empty(), "{} of {REQUESTS} were refused: {:?}", refused.len(), refused[0]);
        assert_eq!(place.state(), "running");
        for _ in 0..REQUESTS {
            let (code, _, err) = place.client(&["status"]);
            assert_eq!(code, 0, "{err}");
        }
    });
    // No thread of these clients remains.
    until_true("their connections end", || place.server_threads() < 40);
}

#[test]
fn endless_login_bodies_do_not_block_operator() {
    operator_acts_beside("/api/login", "");
}

#[test]
fn endless_action_bodies_of_viewer_do_not_block_operator() {
    operator_acts_beside("/api/pipeline/start", &format!("Authorization: Bearer {READ_TOKEN}\r\n"));
}

#[test]
fn long_body_is_read_only_for_operator_actions() {
    let place = place_with(400);
    let long = " ".repeat(16 * 1024 + 1);
    let token = |token: &str| format!("Authorization: Bearer {token}\r\n");
    for (path, fields, status, error) in [
        ("/api/login", String::new(), 413, "body_too_large"),
        ("/api/login", token(TOKEN), 413, "body_too_large"),
        ("/api/nothing", token(TOKEN), 413, "body_too_large"),
        ("/api/pipeline/stop", String::new(), 401, "unauthorized"),
        ("/api/pipeline/stop", token("wrong"), 401, "unauthorized"),
        ("/api/pipeline/stop", token(READ_TOKEN), 403, "read_only"),
        ("/api/pipeline/stop", token(TOKEN) + "Origin: http://evil.example\r\n", 403, "origin_not_allowed"),
        ("/api/pipeline/stop", token(TOKEN), 409, "invalid_transition"),
    ] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{fields}");
        // If the body is refused, the response follows the head. A client that waits for a 100 gets none.
        for framing in ["Content-Length: 16385\r\n\r\n", "Content-Length: 16385\r\nExpect: 100-continue\r\n\r\n"] {
            if status == 409 {
                continue;
            }
            let mut wire = Wire::open(place.port());
            wire.send(format!("{head}{framing}"));
            let answer = wire.answer();
            assert_eq!((answer.status, answer.error()), (status, error), "{path} {fields}");
            assert_eq!(answer.header("Connection"), Some("close"), "{path} {fields}");
        }
        for sent in [
            format!("Content-Length: 16385\r\n\r\n{long}"),
            format!("Transfer-Encoding: chunked\r\n\r\n4001\r\n{long}\r\n0\r\n\r\n"),
        ] {
            let mut wire = Wire::open(place.port());
            wire.send(format!("{head}{sent}"));
            let answer = wire.answer();
            assert_eq!((answer.status, answer.error()), (status, error), "{path} {fields}");
        }
    }
    // Every client can send a body of 16 KiB.
    let mut wire = Wire::open(place.port());
    let body = " ".repeat(16 * 1024);
    wire.send(format!(
        "POST /api/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 16384\r\n\r\n{body}"
    ));
    assert_eq!(wire.answer().status, 400);
}
