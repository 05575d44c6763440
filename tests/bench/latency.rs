//! The latency of a line: from before `write(2)` in the pipeline until a client of the event stream has read it.
//!
//! The pipeline is this program in another role. Each line contains the time when it is printed, by the clock that all processes
//! of a machine share. The floor is the same lines through the same kinds of pipe and connections, with only a read and a write
//! for each client in between.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::numbers::{Spread, quantile};
use crate::support::{DEADLINE, Place};
use crate::{monotonic, report};

/// How often the pipeline prints.
const EVERY: Duration = Duration::from_millis(20);
/// How many times it prints in a slice.
const TIMES: usize = 60;

/// Measures and prints.
pub(crate) fn bench(rounds: usize) {
    println!("## From write(2) to the event\n");
    let mut rows = Vec::new();
    for (name, lines, beside_a_flood) in
        [("a line every 20 ms", 1, false), ("10 lines every 20 ms", 10, false), ("a line, beside another's flood", 1, true)]
    {
        for clients in [1, 50] {
            eprintln!("latency: {name}, {clients} clients");
            let flood = beside_a_flood.then(|| crate::flood(65_500));
            let (mut floors, mut ours) = (Vec::new(), Vec::new());
            for round in 0..rounds {
                // In turns, so that neither always comes after the other.
                for is_ours in [round % 2 == 0, round % 2 != 0] {
                    if is_ours { ours.push(through_us(lines, clients)) } else { floors.push(through_a_relay(lines, clients)) }
                }
            }
            drop(flood);
            let of = |slices: &[Vec<f64>], share| slices.iter().map(|slice| quantile(slice, share)).collect::<Vec<_>>();
            let all = |slices: &[Vec<f64>], share| format!("{:.2}", quantile(&slices.concat(), share));
            rows.push(vec![
                name.to_owned(),
                clients.to_string(),
                all(&ours, 0.5),
                all(&ours, 0.99),
                all(&floors, 0.5),
                all(&floors, 0.99),
                Spread::of_ratios(&of(&ours, 0.5), &of(&floors, 0.5)).text(),
                Spread::of_ratios(&of(&ours, 0.99), &of(&floors, 0.99)).text(),
            ]);
        }
    }
    let head = ["the pipeline prints", "clients", "p50 ms", "p99 ms", "floor's p50", "floor's p99", "p50 / floor", "p99 / floor"];
    report::table(&head, &rows);
}

/// The role of the pipeline: once the file `go` exists, prints `lines` lines each time, with one write for each.
pub(crate) fn produce(lines: usize, go: &Path) {
    // Bypasses the buffer, which would combine the writes.
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned().expect("a descriptor"));
    while !go.exists() {
        thread::sleep(Duration::from_millis(1));
    }
    let mut at = monotonic();
    for _ in 0..TIMES {
        at += EVERY;
        thread::sleep(at.saturating_sub(monotonic()));
        for _ in 0..lines {
            let line = format!(
                "@{}@ a line of a build, long enough to be one of a hundred bytes, as they are.\n",
                monotonic().as_nanos()
            );
            out.write_all(line.as_bytes()).expect("somebody reads");
        }
    }
    drop(out);
    thread::sleep(DEADLINE);
}

/// The role of the floor: sends everything from standard input to each of `clients` clients.
pub(crate) fn relay(clients: usize) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?.port());
    let mut streams = Vec::new();
    for _ in 0..clients {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = io::stdin().lock().read(&mut buffer)?;
        for mut stream in &streams {
            stream.write_all(&buffer[..count])?;
        }
        if count == 0 {
            return Ok(());
        }
    }
}

fn through_us(lines: usize, clients: usize) -> Vec<f64> {
    let this = std::env::current_exe().expect("it runs");
    let mut place = Place::new();
    place.script("lines.sh", &format!("#!/bin/sh\nexec {} lines {lines} go\n", this.display()));
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "lines.sh");
    place.start_server();
    place.start();
    let streams = (0..clients).map(|_| follow(place.port())).collect();
    until_arrived(streams, lines * TIMES, || place.script("go", ""))
}

/// Opens a stream that has begun: from here on it receives everything that is printed.
pub(crate) fn follow(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    stream.write_all(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it listens");
    let mut said = Vec::new();
    while !said.windows(12).any(|bytes| bytes == b"event: state") {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).expect("it answers");
        assert!(count > 0, "no stream: {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&piece[..count]);
    }
    stream
}

/// Two children that end with their owner.
struct Floor {
    producer: Child,
    relay: Child,
}

impl Drop for Floor {
    fn drop(&mut self) {
        for child in [&mut self.producer, &mut self.relay] {
            let _ended = child.kill();
            let _ended = child.wait();
        }
    }
}

fn through_a_relay(lines: usize, clients: usize) -> Vec<f64> {
    let this = std::env::current_exe().expect("it runs");
    let dir = tempfile::tempdir().expect("a temp folder");
    let go = dir.path().join("go");
    let mut producer = Command::new(&this);
    let mut producer = producer.args(["lines", &lines.to_string()]).arg(&go).stdout(Stdio::piped()).spawn().expect("spawns");
    let mut relay = Command::new(&this);
    let relay = relay.args(["relay", &clients.to_string()]).stdin(producer.stdout.take().expect("piped"));
    let mut floor = Floor { relay: relay.stdout(Stdio::piped()).spawn().expect("spawns"), producer };
    let mut port = String::new();
    BufReader::new(floor.relay.stdout.take().expect("piped")).read_line(&mut port).expect("a port");
    let port: u16 = port.trim().parse().expect("a port");
    let streams = (0..clients).map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens")).collect();
    until_arrived(streams, lines * TIMES, || File::create(&go).expect("creates"))
}

/// One client, and the digits so far of a time that has not arrived completely.
struct Client {
    stream: TcpStream,
    digits: Option<u64>,
    arrived: usize,
}

/// Calls `go`. Returns how long each line took to reach each client, in milliseconds. One thread serves all clients, because
/// several would compete for the processors.
fn until_arrived<G>(streams: Vec<TcpStream>, lines: usize, go: impl FnOnce() -> G) -> Vec<f64> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("a poll");
    let mut clients = Vec::new();
    for stream in streams {
        stream.set_nonblocking(true).expect("ours");
        let number = epoll::EventData::new_u64(clients.len() as u64);
        epoll::add(&poll, &stream, number, epoll::EventFlags::IN).expect("room");
        clients.push(Client { stream, digits: None, arrived: 0 });
    }
    let mut took = Vec::with_capacity(lines * clients.len());
    let mut events = Vec::with_capacity(clients.len());
    let mut buffer = vec![0; 64 * 1024];
    go();
    let deadline = Instant::now() + DEADLINE;
    while clients.iter().any(|client| client.arrived < lines) {
        assert!(Instant::now() < deadline, "{} of {} lines", took.len(), lines * clients.len());
        events.clear();
        let limit = Timespec { tv_sec: 1, tv_nsec: 0 };
        epoll::wait(&poll, spare_capacity(&mut events), Some(&limit)).expect("a poll");
        for event in &events {
            let client = &mut clients[usize::try_from(event.data.u64()).expect("few")];
            let count = match client.stream.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                count => count.expect("the stream goes on"),
            };
            assert!(count > 0, "the stream ended after {} lines", client.arrived);
            let now = monotonic();
            for &byte in &buffer[..count] {
                // A time is between two of these bytes, which nothing else contains.
                client.digits = match (byte, client.digits) {
                    (b'@', None) => Some(0),
                    (b'@', Some(nanos)) => {
                        took.push(now.saturating_sub(Duration::from_nanos(nanos)).as_secs_f64() * 1e3);
                        client.arrived += 1;
                        None
                    }
                    (digit, Some(nanos)) => Some(nanos * 10 + u64::from(digit - b'0')),
                    (_, None) => None,
                };
            }
        }
    }
    took
}

/// Reads everything that arrives on all of them until `is_over`. Returns the number of bytes.
pub(crate) fn swallow(streams: &[TcpStream], is_over: impl Fn() -> bool) -> usize {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("a poll");
    for (number, stream) in streams.iter().enumerate() {
        stream.set_nonblocking(true).expect("ours");
        epoll::add(&poll, stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN).expect("room");
    }
    // The kernel does not accept an empty buffer.
    let mut events = Vec::with_capacity(streams.len().max(1));
    let mut buffer = vec![0; 64 * 1024];
    let mut bytes = 0;
    while !is_over() {
        events.clear();
        let limit = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        epoll::wait(&poll, spare_capacity(&mut events), Some(&limit)).expect("a poll");
        for event in &events {
            let mut stream = &streams[usize::try_from(event.data.u64()).expect("few")];
            bytes += stream.read(&mut buffer).unwrap_or(0);
        }
    }
    bytes
}
