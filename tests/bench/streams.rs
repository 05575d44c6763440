//! The cost of event streams for the server: while nothing is printed, and while more is printed than any client can read.

use std::thread;
use std::time::{Duration, Instant};

use crate::counted::wake_ups;
use crate::latency::{follow, swallow};
use crate::support::Place;
use crate::{cpu_ms, flood, report, status_kb};

/// How long the idle streams are measured.
const IDLE: Duration = Duration::from_secs(30);
/// How long the flood is measured.
const FLOOD: Duration = Duration::from_secs(10);
/// The maximum number of streams.
const STREAMS: usize = 64;

/// Measures and prints.
pub(crate) fn bench() {
    println!("## Streams\n");
    idle();
    let rows =
        [("nobody", 0), ("all of them", STREAMS), ("half of them", STREAMS / 2)].map(|(who, readers)| in_a_flood(who, readers));
    report::table(&["64 streams in a flood; who reads", "quiet MB (RSS)", "most MB", "CPU ms in 10 s", "MB/s to all"], &rows);
}

fn idle() {
    let place = Place::serving("sleep.sh");
    place.start();
    let streams: Vec<_> = (0..50).map(|_| follow(place.port())).collect();
    let server = place.server_pid();
    // By the first comment, the work after the start is complete.
    let began = Instant::now();
    swallow(&streams, || began.elapsed() > Duration::from_secs(11));
    let before = (wake_ups(server), cpu_ms(server));
    eprintln!("streams: counting wake-ups for {IDLE:?}");
    thread::sleep(IDLE);
    println!(
        "50 streams, idle for {} s: {} wake-ups of the server, {} ms of its CPU, {} KiB resident.\n",
        IDLE.as_secs(),
        wake_ups(server) - before.0,
        cpu_ms(server) - before.1,
        status_kb(server, "VmRSS:"),
    );
}

fn in_a_flood(who: &str, readers: usize) -> Vec<String> {
    eprintln!("streams: {STREAMS} in a flood, {who} read");
    let place = flood(65_500);
    let server = place.server_pid();
    let mb = |key| format!("{:.1}", f64::from(u32::try_from(status_kb(server, key)).unwrap_or(u32::MAX)) / 1024.0);
    let quiet = mb("VmRSS:");
    let streams: Vec<_> = (0..STREAMS).map(|_| follow(place.port())).collect();
    let (cpu, began) = (cpu_ms(server), Instant::now());
    let bytes = swallow(&streams[..readers], || began.elapsed() > FLOOD);
    #[expect(clippy::cast_precision_loss, reason = "some gigabytes")]
    let rate = bytes as f64 / 1e6 / began.elapsed().as_secs_f64();
    vec![who.to_owned(), quiet, mb("VmHWM:"), (cpu_ms(server) - cpu).to_string(), format!("{rate:.0}")]
}
