//! A server with few descriptors, and a viewer with several times as many connections as there are slots, each of which is replaced as soon
//! as the server closes it: an operator over TCP, such as the owner's phone, is still served.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use std::{io, thread};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::few_descriptors::{READ_TOKEN, TOKEN, place_with};
use crate::support::wire::Wire;
use crate::support::{Answer, Place, until_true};

/// The attacker's threads.
const BESIEGERS: usize = 6;
/// How often an operator repeats a request on a new connection after 503, which means that nothing was done, and after which pause.
const RETRIES_MAX: usize = 20;
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The viewer's side of a siege.
struct Siege {
    port: u16,
    /// Connections that are open at the same time.
    connections: usize,
    /// They come from 250 addresses instead of the operator's own.
    is_of_many: bool,
    /// What is sent on a connection. No answer is read.
    openings: Vec<String>,
    opened: AtomicUsize,
    is_over: AtomicBool,
}

/// Ends the siege also where the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Siege {
    fn new(place: &Place, connections: usize, is_of_many: bool) -> Self {
        let end = place.get("/api/logs/tail?limit=1").ok()["next"].as_u64().expect("a position");
        let version = place.pipeline()["version"].as_u64().expect("a number");
        let ask = |path: &str| request("GET", path, READ_TOKEN);
        let openings = vec![
            ask("/api/events?since=0"),
            ask("/api/events"),
            ask("/api/runs/1/log"),
            ask(&format!("/api/pipeline?after={version}&wait=60")),
            ask(&format!("/api/logs?since={end}&grep=nothing&wait=60&run=1")),
            ask("/api/logs?since=0&limit=5000"),
            ask("/api/pipeline"),
            // A head that never ends, and a client that never speaks.
            ask("/api/pipeline")[..40].to_owned(),
            String::new(),
        ];
        let (opened, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { port: place.port(), connections, is_of_many, openings, opened, is_over }
    }

    /// Calls `act` under siege.
    fn during(&self, act: impl FnOnce()) {
        thread::scope(|scope| {
            let _over = Over(&self.is_over);
            for which in 0..BESIEGERS {
                scope.spawn(move || self.besiege(which));
            }
            until_true("the siege is complete", || self.opened.load(Ordering::SeqCst) > self.connections * 2);
            act();
        });
    }

    /// One thread's part: holds what the server lets it hold, and replaces what the server has closed, or else the oldest: behind an answer
    /// that is not read the end does not arrive.
    fn besiege(&self, which: usize) {
        let mut held: Vec<TcpStream> = Vec::new();
        while !self.is_over.load(Ordering::SeqCst) {
            while held.len() < self.connections / BESIEGERS {
                let n = self.opened.fetch_add(1, Ordering::SeqCst);
                held.extend(self.open(n + which));
            }
            let mut fds: Vec<PollFd<'_>> = held.iter().map(|stream| PollFd::new(stream, PollFlags::RDHUP)).collect();
            let limit = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            let ended = poll(&mut fds, Some(&limit)).expect("it only waits");
            let mut is_open = fds.iter().map(|fd| fd.revents().is_empty()).collect::<Vec<_>>().into_iter();
            held.retain(|_| is_open.next() == Some(true));
            if ended == 0 {
                held.remove(0);
            }
        }
    }

    fn open(&self, n: usize) -> io::Result<TcpStream> {
        let host = u8::try_from(1 + n % 250).expect("a byte");
        let source = if self.is_of_many { [127, 0, 1, host] } else { [127, 0, 0, 1] };
        let mut stream = Wire::open_from(&SocketAddr::from((source, 0)).ip().to_string(), self.port).writer();
        io::Write::write_all(&mut stream, self.openings[n % self.openings.len()].as_bytes())?;
        Ok(stream)
    }
}

fn request(method: &str, path: &str, token: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n")
}

/// Asks as an operator on a new connection, and on another one after 503.
fn ask_anew(port: u16, method: &str, path: &str) -> Answer {
    for _ in 0..=RETRIES_MAX {
        let mut wire = Wire::open(port);
        wire.send(request(method, path, TOKEN));
        let answer = wire.try_answer(false).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        if answer.error() != "too_many_connections" {
            return answer;
        }
        thread::sleep(RETRY_PAUSE);
    }
    panic!("{method} {path} is refused {RETRIES_MAX} times and more");
}

/// An operator who has a connection already, and one who opens a new one for each request, besieged from many addresses or from one.
fn operator_acts_under_siege(is_of_many: bool) {
    // The number of slots that clients of this machine can take.
    for (descriptors, slots) in [(64, 8), (128, 18), (400, 163)] {
        let place = place_with(descriptors);
        place.start();
        until_true("it talks", || {
            let tail = place.get("/api/logs/tail?limit=1").ok();
            tail["lines"][0]["line"].as_str().is_some_and(|line| line.starts_with("line "))
        });
        let mut kept = Wire::open(place.port());
        let mut ask_kept = || {
            kept.send(request("GET", "/api/pipeline", TOKEN));
            let answer = kept.try_answer(false).unwrap_or_else(|error| panic!("with {descriptors} descriptors: {error}"));
            assert_eq!(answer.header("Connection"), None, "with {descriptors} descriptors it is to stay open");
            answer.ok()["pipeline"]["state"].as_str().expect("a text").to_owned()
        };
        assert_eq!(ask_kept(), "running");
        let siege = Siege::new(&place, slots * 4, is_of_many);
        siege.during(|| {
            let began = siege.opened.load(Ordering::SeqCst);
            for (action, state) in [("pause", "paused"), ("resume", "running"), ("stop", "stopped")] {
                let answer = ask_anew(siege.port, "POST", &format!("/api/pipeline/{action}"));
                // On a slow machine the action outlasts its answer.
                assert!(answer.status == 200 || answer.error() == "still_under_way", "{descriptors}: {action}: {answer:?}");
                until_true(&format!("{action} is done"), || ask_kept() == state);
                let answer = ask_anew(siege.port, "GET", "/api/pipeline").ok();
                assert_eq!(answer["pipeline"]["state"], state, "with {descriptors} descriptors");
            }
            // It goes on all the time.
            until_true("more connections are replaced", || siege.opened.load(Ordering::SeqCst) > began + siege.connections);
            assert_eq!(ask_kept(), "stopped");
        });
    }
}

#[test]
fn operator_over_tcp_acts_while_a_viewer_replaces_connections_from_many_addresses() {
    operator_acts_under_siege(true);
}

#[test]
fn operator_over_tcp_acts_while_a_viewer_replaces_connections_from_the_same_address() {
    operator_acts_under_siege(false);
}
