//! Crowds of hostile or harmless clients. New clients are still served, memory stays limited, the pipeline is not affected, and a
//! stop completes.
//!
//! `make crowds` runs the same on a release build with more requests, and prints how long the new clients waited. No test here
//! checks a time.

#[path = "../support/mod.rs"]
mod support;

mod crowd;

mod newcomers;

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use serde_json::json;
use support::footprint::Footprint;
use support::wire::Wire;
use support::{Place, is_alive, signal, until, until_true};

use crowd::Crowd;

use newcomers::{ask, ask_until};

/// The maximum memory of a server at any time in any of these crowds. The stack frames of an unoptimised build need more, for
/// each of its threads.
const MEMORY_KB_MAX: u64 = if cfg!(debug_assertions) { 48 * 1024 } else { 40 * 1024 };
/// The maximum increase that may remain afterwards, because the allocator keeps memory for later use.
const MEMORY_LEFT_KB_MAX: u64 = 16 * 1024;
/// Descriptors of this test, because both ends of its crowds are on one machine, and one end is in this process.
const OWN_DESCRIPTORS: u64 = 4096;
/// The descriptors that a login gives a server if the limit was not raised.
const SERVER_DESCRIPTORS: u64 = 1024;

/// How long a stopping server waits for a client to read its responses.
const LINGER_LIMIT: Duration = Duration::from_millis(500);

/// Allows one crowd at a time, because they share a machine and each is measured.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // A crowd that failed reports that itself.
    let guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < OWN_DESCRIPTORS) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(OWN_DESCRIPTORS), ..limit })
            .expect("2,000 connections need 4096 descriptors; raise the hard limit (ulimit -Hn)");
    }
    guard
}

/// A server with a live run that prints a lot and then counts, so that disturbances are visible and there is something to read
/// slowly.
struct Scene {
    place: Place,
    leader: u32,
    shim: u32,
    run_id: i64,
}

impl Scene {
    fn new() -> Self {
        let place = Place::serving("talks.sh");
        place.script(
            "talks.sh",
            "#!/bin/bash\nhead -c 3000000 /dev/zero | tr '\\0' x | fold -w 1000\necho\necho ready\n\
             n=0\nwhile :; do echo \"line $n\"; n=$((n + 1)); sleep 0.005; done\n",
        );
        let (leader, run_id) = place.start();
        until_true("it counts", || {
            let tail = place.get("/api/logs/tail?limit=1").ok();
            tail["lines"][0]["line"].as_str().is_some_and(|line| line.starts_with("line "))
        });
        let scene = Self { shim: place.shim_pid(run_id), place, leader, run_id };
        scene.give_descriptors(SERVER_DESCRIPTORS);
        scene
    }

    fn give_descriptors(&self, current: u64) {
        let pid = i32::try_from(self.place.server_pid()).ok().and_then(Pid::from_raw).expect("a pid");
        let limit = Rlimit { current: Some(current), ..getrlimit(Resource::Nofile) };
        prlimit(Some(pid), Resource::Nofile, limit).expect("ours");
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.place.port()))
    }

    fn footprint(&self) -> Footprint {
        Footprint::of(self.place.server_pid())
    }

    /// Returns how far the pipeline has counted, read by a new client each time. While hundreds of clients request long
    /// responses, the server may tell the client to retry, which it does.
    fn counted(&self) -> u64 {
        let tail = until("the log can be read", || {
            let answer = self.place.get("/api/logs/tail?limit=1");
            if answer.error() == "too_many_reads" { None } else { Some(answer.ok()) }
        });
        let line = tail["lines"][0]["line"].as_str().expect("text");
        line.strip_prefix("line ").and_then(|number| number.parse().ok()).expect("it counts")
    }

    /// Checks that the run continues under the same shim and can be controlled.
    fn assert_unnoticed(&self) {
        let before = self.counted();
        until_true("the pipeline goes on counting", || self.counted() > before);
        self.place.act("pause").ok();
        self.place.assert_all_stopped();
        self.place.act("resume").ok();
        assert!(is_alive(self.leader) && is_alive(self.shim), "the leader and its shim live");
        let pipeline = self.place.pipeline();
        assert_eq!((&pipeline["run_id"], &pipeline["pid"]), (&json!(self.run_id), &json!(self.leader)));
    }
}

/// Opens a crowd, sends requests of new clients while it exists, and ends it.
fn endures(name: &str, gather: impl FnOnce(&Scene) -> Crowd) {
    let _alone = alone();
    let scene = Scene::new();
    let address = scene.address();
    let before_waits = ask(address, newcomers::questions());
    scene.assert_unnoticed();
    let quiet = scene.footprint();

    let (crowd, waits) = ask_until(address, || {
        let crowd = gather(&scene);
        crowd.until_there(|| scene.footprint());
        scene.assert_unnoticed();
        crowd
    });
    let during = scene.footprint();
    drop(crowd);
    let after_waits = ask(address, newcomers::questions());
    until_true("threads and descriptors are what they were", || scene.footprint().is_back_to(&quiet));
    until_true("memory falls back", || scene.footprint().rss_kb <= quiet.rss_kb + MEMORY_LEFT_KB_MAX);
    let after = scene.footprint();
    println!("{name}\n  before  {before_waits}\n  during  {waits}\n  after   {after_waits}");
    println!("  quiet   {quiet}\n  crowd   {during}\n  after   {after}");
    assert!(after.peak_kb < MEMORY_KB_MAX, "{name}: {} KB at most", after.peak_kb);
    scene.assert_unnoticed();
    let log = scene.place.server_log();
    assert!(!log.contains("panicked"), "{log}");
}

/// Sends SIGTERM in the middle of a crowd. Pending requests are answered, new ones are not, and the run continues.
fn stops(name: &str, gather: impl FnOnce(&Scene) -> Crowd) {
    let _alone = alone();
    let mut scene = Scene::new();
    let address = scene.address();
    let mut crowd = gather(&scene);
    // Two pending requests: one that waits for a change, and one with a long response.
    let version = scene.place.pipeline()["version"].as_u64().expect("a number");
    let mut waiting = scene.place.wire();
    waiting.ask("GET", &format!("/api/pipeline?after={version}&wait=60"));
    let (mut reading, status_line) = until("its answer begins", || {
        let mut wire = scene.place.wire();
        wire.ask("GET", "/api/logs?since=0&limit=5000");
        let mut status_line = [0; 12];
        let is_begun = wire.writer().read_exact(&mut status_line).is_ok() && status_line == *b"HTTP/1.1 200";
        assert!(is_begun || crowd.wants_pages(), "{}", String::from_utf8_lossy(&status_line));
        is_begun.then_some((wire, status_line))
    });

    let began = Instant::now();
    let reader = thread::spawn(move || {
        reading.unread(&status_line);
        reading.try_answer(false)
    });
    let code = scene.place.stop_server();
    let took = began.elapsed();
    println!("{name}\n  from SIGTERM to the end of the server: {took:?} (goal: 2 s)");
    assert_eq!(code, 0);
    let news = waiting.answer();
    assert_eq!((news.status, news.header("Connection")), (200, Some("close")), "{}", news.body);
    assert_eq!(news.body["pipeline"]["version"], version, "unchanged, and early");
    assert!(waiting.ends_silently());
    match reader.join().expect("no panic") {
        Ok(page) => assert!(page.body["lines"].as_array().is_some_and(|lines| lines.len() > 500), "{}", page.status),
        Err(error) => assert!(crowd.wants_pages(), "the whole answer: {error}"),
    }
    let refused = TcpStream::connect(address).expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(!scene.place.runtime().join("server.json").exists());
    // The server waits for a client that the machine does not let read, but not forever.
    let torn = crowd.torn();
    assert!(torn.is_none() || took >= LINGER_LIMIT, "half an answer, and a stop that waited for {took:?} only: {torn:?}");
    drop(crowd);

    assert!(is_alive(scene.leader) && is_alive(scene.shim), "the run goes on");
    scene.place.start_server();
    scene.assert_unnoticed();
    let log = scene.place.server_log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn server_serves_and_stops_with_2000_idle_connections() {
    endures("2,000 idle connections", |scene| crowd::idle(scene.address(), 2_000));
    stops("2,000 idle connections", |scene| crowd::idle(scene.address(), 2_000));
}

#[test]
fn server_serves_and_stops_with_500_slow_heads() {
    endures("500 slow heads", |scene| crowd::slow_heads(scene.address(), 500));
    stops("500 slow heads", |scene| crowd::slow_heads(scene.address(), 500));
}

#[test]
fn server_serves_and_stops_with_500_stalled_bodies() {
    endures("500 stalled bodies", |scene| crowd::stalled_bodies(scene.address(), 500));
    stops("500 stalled bodies", |scene| crowd::stalled_bodies(scene.address(), 500));
}

#[test]
fn server_serves_and_stops_with_300_large_bodies() {
    endures("300 bodies of a megabyte", |scene| crowd::heavy_bodies(scene.address(), 300));
    stops("300 bodies of a megabyte", |scene| crowd::heavy_bodies(scene.address(), 300));
}

#[test]
fn server_serves_and_stops_with_200_clients_that_do_not_read() {
    endures("200 slow readers", |scene| crowd::slow_readers(scene.address(), 200));
    stops("200 slow readers", |scene| crowd::slow_readers(scene.address(), 200));
}

#[test]
fn server_serves_and_stops_with_60000_pipelined_requests() {
    endures("60,000 pipelined requests", |scene| crowd::pipelined(scene.address(), 60_000).until_answered());
    stops("60,000 pipelined requests", |scene| crowd::pipelined(scene.address(), 60_000));
}

#[test]
fn server_serves_and_stops_with_10000_connects_and_resets() {
    endures("10,000 connects and resets", |scene| crowd::resets(scene.address(), 10_000).until_answered());
    stops("10,000 connects and resets", |scene| crowd::resets(scene.address(), 10_000));
}

#[test]
fn server_serves_and_stops_with_more_connections_than_descriptors() {
    let scarce = |scene: &Scene| {
        scene.give_descriptors(scene.footprint().descriptors + 50);
        crowd::idle(scene.address(), 400)
    };
    endures("out of descriptors", scarce);
    stops("out of descriptors", scarce);
}

#[test]
fn server_serves_and_stops_with_512_long_polls() {
    let polls = |scene: &Scene| {
        let version = scene.place.pipeline()["version"].as_u64().expect("a number");
        crowd::long_polls(scene.address(), 512, version)
    };
    endures("512 long polls", polls);
    stops("512 long polls", polls);
}

#[test]
fn busy_connections_are_evicted_for_new_clients() {
    // More connections than slots, none of which waits for its next request: half wait for a change, half do not read.
    let busy = |scene: &Scene| {
        let version = scene.place.pipeline()["version"].as_u64().expect("a number");
        crowd::long_polls(scene.address(), 256, version).and(crowd::slow_readers(scene.address(), 400))
    };
    endures("256 long polls and 400 slow readers", busy);
    stops("256 long polls and 400 slow readers", busy);
}

#[test]
fn queued_connections_are_all_answered_after_sigcont() {
    let _alone = alone();
    let scene = Scene::new();
    let server = scene.place.server_pid();
    signal(server, "STOP");
    until_true("it stands still", || support::is_stopped(server));
    // The kernel accepts connections while its queue has room. Beyond that, a connect gets no reply at all. If the kernel does
    // not allow a queue of 1,000 (`net.core.somaxconn`), there are fewer.
    let allowed = fs::read_to_string("/proc/sys/net/core/somaxconn").ok().and_then(|text| text.trim().parse().ok());
    let wires: Vec<_> = (0..allowed.unwrap_or(1_000).min(1_000))
        .map(|_| {
            let stream = TcpStream::connect_timeout(&scene.address(), Duration::from_secs(20)).expect("the queue has room");
            let mut wire = Wire::of(stream);
            wire.ask("GET", "/api/pipeline");
            wire
        })
        .collect();
    signal(server, "CONT");
    for (n, mut wire) in wires.into_iter().enumerate() {
        assert_eq!(wire.answer().status, 200, "number {n}");
    }
    scene.assert_unnoticed();
}
