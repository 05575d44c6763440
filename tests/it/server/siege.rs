//! A server with few descriptors, and a viewer with several times as many connections as there are slots, each of which is
//! replaced as soon as the server closes it. An operator over TCP keeps an open connection, and is also served on new ones if
//! refused requests are repeated.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::few_descriptors::{READ_TOKEN, TOKEN, place_with};
use crate::support::wire::Wire;
use crate::support::{Answer, DEADLINE, Place, until, until_true};

/// The number of the attacker's threads.
const BESIEGERS: usize = 4;
/// How long each of them pauses between two rounds. On a machine with two processors, they must not keep the server itself from
/// running.
const REST: Duration = Duration::from_millis(2);
/// How long an attacker waits for the server to close a connection before it replaces the oldest.
///
/// A connection that is replaced before the server has accepted it stays in the kernel's queue. With more of those than a slow
/// machine accepts, the queue would overflow, and the kernel would make an operator wait for up to a minute.
const CLOSED_WITHIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// The descriptors of the server, and the slots that clients of this machine can get.
const SERVERS: [(u32, usize); 3] = [(64, 8), (128, 18), (400, 163)];

/// The requests that the viewer sends on its connections. No response is read.
#[derive(Clone, Copy)]
enum Means {
    /// One of each kind of request that occupies a connection.
    Everything,
    /// Searches for a text that does not exist, which wait for their turn.
    Searches,
}

/// The viewer's side of the attack.
struct Siege {
    port: u16,
    /// The number of connections that are open at the same time.
    connections: usize,
    /// Whether they come from 250 addresses instead of the operator's own.
    is_of_many: bool,
    openings: Vec<String>,
    opened: AtomicUsize,
    is_over: AtomicBool,
}

/// Ends the attack on drop, even if the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Siege {
    fn new(place: &Place, connections: usize, is_of_many: bool, means: Means) -> Self {
        let ask = |path: &str| request("GET", path, READ_TOKEN);
        let openings = match means {
            Means::Searches => vec![ask("/api/logs/tail?limit=5000&grep=nothing")],
            Means::Everything => {
                let end = place.get("/api/logs/tail?limit=1").ok()["next"].as_u64().expect("a position");
                let version = place.pipeline()["version"].as_u64().expect("a number");
                vec![
                    ask("/api/events?since=0"),
                    ask("/api/events"),
                    ask("/api/runs/1/log"),
                    ask("/api/runs/1/log?stream=stdout"),
                    ask(&format!("/api/pipeline?after={version}&wait=60")),
                    ask(&format!("/api/logs?since={end}&grep=nothing&wait=60&run=1")),
                    // With the first byte of a second request.
                    ask(&format!("/api/pipeline?after={version}&wait=60")) + "G",
                    ask("/api/logs?since=0&limit=5000"),
                    ask("/api/logs/tail?limit=5000&grep=nothing"),
                    ask("/api/pipeline"),
                    // A head that never ends, and a client that never sends anything.
                    ask("/api/pipeline")[..40].to_owned(),
                    String::new(),
                ]
            }
        };
        let (opened, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { port: place.port(), connections, is_of_many, openings, opened, is_over }
    }

    /// Calls `act` during the attack.
    fn during(&self, act: impl FnOnce()) {
        thread::scope(|scope| {
            let _over = Over(&self.is_over);
            for _ in 0..BESIEGERS {
                scope.spawn(|| self.besiege());
            }
            until_true("the siege is complete", || self.opened.load(Ordering::SeqCst) > self.connections * 2);
            act();
        });
    }

    /// Runs one of the attacker's threads. It keeps as many connections as the server allows, and replaces those that the server
    /// has closed, or else the oldest, because the end of a connection does not arrive while a response before it is unread.
    fn besiege(&self) {
        let mut held: Vec<TcpStream> = Vec::new();
        while !self.is_over.load(Ordering::SeqCst) {
            for _ in held.len()..self.connections.div_ceil(BESIEGERS) {
                // If the server or the kernel refuses a connection, the next round tries again.
                held.extend(self.open(self.opened.fetch_add(1, Ordering::SeqCst)));
            }
            thread::sleep(REST);
            let mut fds: Vec<PollFd<'_>> = held.iter().map(|stream| PollFd::new(stream, PollFlags::RDHUP)).collect();
            let ended = poll(&mut fds, Some(&CLOSED_WITHIN)).expect("it only waits");
            let mut is_open = fds.iter().map(|fd| fd.revents().is_empty()).collect::<Vec<_>>().into_iter();
            held.retain(|_| is_open.next() == Some(true));
            if ended == 0 && !held.is_empty() {
                held.remove(0);
            }
        }
    }

    fn open(&self, n: usize) -> io::Result<TcpStream> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
        let host = u8::try_from(1 + n % 250).expect("a byte");
        let source = if self.is_of_many { [127, 0, 0, host] } else { [127, 0, 0, 1] };
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddr::from((source, 0)))?;
        connect(&socket, &SocketAddr::from(([127, 0, 0, 1], self.port)))?;
        let mut stream = TcpStream::from(socket);
        stream.write_all(self.openings[n % self.openings.len()].as_bytes())?;
        Ok(stream)
    }
}

fn request(method: &str, path: &str, token: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n")
}

/// Sends a request as an operator, on a new connection each time, until the response is not about the number of connections.
fn ask_anew(port: u16, method: &str, path: &str) -> Answer {
    until(&format!("{method} {path} is answered"), || {
        let mut wire = Wire::try_open(port).ok()?;
        wire.send(request(method, path, TOKEN));
        wire.try_answer(false).ok().filter(|answer| answer.error() != "too_many_connections")
    })
}

/// Opens an event stream as an operator, on a new connection each time, until one has begun.
fn follow_anew(port: u16) -> TcpStream {
    until("an event stream is opened", || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
        stream.write_all(request("GET", "/api/events", TOKEN).as_bytes()).ok()?;
        let mut came = Vec::new();
        while !came.ends_with(b"\n\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            came.extend(byte);
            if came.len() == 12 && came != b"HTTP/1.1 200" {
                return None;
            }
        }
        Some(stream)
    })
}

/// Reads a stream until `text` arrives. The stream must not be cut off.
fn follows_until(stream: &mut TcpStream, text: &str) {
    let mut came: Vec<u8> = Vec::new();
    until_true(&format!("{text} comes in a stream"), || {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).unwrap_or_else(|error| panic!("no {text} in the stream: {error}"));
        assert_ne!(count, 0, "no {text} in the stream: it has ended");
        came.extend(&bytes[..count]);
        came.windows(text.len()).any(|window| window == text.as_bytes())
    });
}

/// An operator acts on a connection that is already open, and also on a new one for each request.
fn operator_acts_under_siege(is_of_many: bool, means: Means) {
    for (descriptors, slots) in SERVERS {
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
        // At least 60 connections, so that searches wait for their turn on a small server too.
        let siege = Siege::new(&place, (slots * 4).max(60), is_of_many, means);
        siege.during(|| {
            let began = siege.opened.load(Ordering::SeqCst);
            let mut stream = follow_anew(siege.port);
            for (action, state) in [("pause", "paused"), ("resume", "running"), ("stop", "stopped")] {
                let answer = ask_anew(siege.port, "POST", &format!("/api/pipeline/{action}"));
                // On a slow machine, the action takes longer than its response waits.
                assert!(answer.status == 200 || answer.error() == "still_under_way", "{descriptors}: {action}: {answer:?}");
                until_true(&format!("{action} is done"), || ask_kept() == state);
                follows_until(&mut stream, &format!(r#""state":"{state}""#));
                let answer = ask_anew(siege.port, "GET", "/api/pipeline").ok();
                assert_eq!(answer["pipeline"]["state"], state, "with {descriptors} descriptors");
            }
            // The attack continues all the time.
            until_true("more connections are replaced", || siege.opened.load(Ordering::SeqCst) > began + siege.connections);
            assert_eq!(ask_kept(), "stopped");
        });
    }
}

#[test]
fn operator_acts_while_viewer_replaces_connections_from_many_addresses() {
    operator_acts_under_siege(true, Means::Everything);
}

#[test]
fn operator_acts_while_viewer_replaces_connections_from_same_address() {
    operator_acts_under_siege(false, Means::Everything);
}

#[test]
fn operator_acts_while_viewer_searches_on_every_connection() {
    operator_acts_under_siege(false, Means::Searches);
}

/// Sends requests without end on one connection after the other and reads the responses, so that the server always has the next
/// request.
fn keep_busy(port: u16, is_over: &AtomicBool, ended: &AtomicUsize) {
    let many = request("GET", "/api/pipeline", READ_TOKEN).repeat(200);
    let mut answers = vec![0; 1 << 16];
    while !is_over.load(Ordering::SeqCst) {
        // A refused connection is tried again.
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { continue };
        stream.set_nonblocking(true).expect("ours");
        let mut sent = 0;
        while !is_over.load(Ordering::SeqCst) {
            let [wrote, read] = [stream.write(&many.as_bytes()[sent..]), stream.read(&mut answers)];
            sent = (sent + wrote.as_ref().map_or(0, |count| *count)) % many.len();
            let has_ended = |result: &io::Result<usize>| match result {
                Ok(count) => *count == 0,
                Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            };
            if has_ended(&wrote) || has_ended(&read) {
                ended.fetch_add(1, Ordering::SeqCst);
                break;
            }
            let mut fds = [PollFd::new(&stream, PollFlags::IN | PollFlags::OUT)];
            poll(&mut fds, Some(&CLOSED_WITHIN)).expect("it only waits");
        }
    }
}

#[test]
fn operator_is_served_while_viewer_keeps_every_connection_busy() {
    let (descriptors, slots) = SERVERS[0];
    let place = place_with(descriptors);
    let (is_over, ended) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _over = Over(&is_over);
        for _ in 0..2 * slots {
            scope.spawn(|| keep_busy(place.port(), &is_over, &ended));
        }
        until_true("connections end", || ended.load(Ordering::SeqCst) > 2 * slots);
        for _ in 0..5 {
            assert_eq!(ask_anew(place.port(), "GET", "/api/pipeline").status, 200);
        }
    });
}

/// As many connections as make a crowd.
const CROWD: usize = 40;

#[test]
fn viewer_who_queues_requests_gets_its_answers_in_turns_in_a_crowd() {
    const QUEUED: u32 = 50;
    let place = place_with(400);
    let _crowd: Vec<TcpStream> = (0..CROWD).map(|_| TcpStream::connect(("127.0.0.1", place.port())).expect("connects")).collect();
    let mut wire = Wire::open(place.port());
    let began = Instant::now();
    wire.send(request("GET", "/api/pipeline", READ_TOKEN).repeat(QUEUED as usize));
    for _ in 0..QUEUED {
        wire.try_answer(false).expect("each is answered").ok();
    }
    // There is no wait after the last response.
    let turns = Duration::from_millis(CROWD as u64) * (QUEUED - 1);
    assert!(began.elapsed() >= turns, "{:?}", began.elapsed());
}
