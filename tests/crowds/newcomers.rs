//! New clients that come during a crowd: each opens a new connection, sends one request, and measures the time to its response.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::DEADLINE;
use crate::support::wire::Wire;

/// The pause between two requests, so that new clients are not a crowd themselves.
const PAUSE: Duration = Duration::from_millis(2);
/// How often a new client tries that is refused, or whose connection ends without a response. If no connection gave up its slot,
/// all of these tries would fail.
const TRIES: usize = 10;
/// Far more than any crowd here takes to gather.
const QUESTIONS_MAX: usize = 50_000;

/// Returns how many requests new clients send. `AUTOAPPDEV_CROWDS_QUESTIONS` sets it for measurements.
pub(crate) fn questions() -> usize {
    std::env::var("AUTOAPPDEV_CROWDS_QUESTIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(50)
}

/// How long each client waited, from before its connect to the end of its response.
pub(crate) struct Waits(Vec<Duration>);

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut waits = self.0.clone();
        waits.sort_unstable();
        let ms = |part: f64| {
            // Ranks are small numbers.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a rank")]
            let rank = ((waits.len() - 1) as f64 * part).round() as usize;
            waits[rank].as_secs_f64() * 1000.0
        };
        write!(
            f,
            "{} newcomers waited {:.2} ms at the median, {:.2} at p99, {:.2} at worst (goal: 50, 500 at worst)",
            waits.len(),
            ms(0.5),
            ms(0.99),
            ms(1.0)
        )
    }
}

fn wait(address: SocketAddr) -> Duration {
    let began = Instant::now();
    // A connection that was delayed between its connect and its request while the crowd arrived has waited longest, and loses its
    // slot. On a busy machine, the threads that lose their slots may not run for two seconds, after which a new client is told to
    // retry (503). So it retries, as every client would, but not forever.
    let once = |_| {
        let mut wire = Wire::open(address.port());
        wire.ask("GET", "/api/pipeline");
        wire.try_answer(false).ok().filter(|answer| answer.status != 503)
    };
    let answer = (0..TRIES).find_map(once).expect("a newcomer is answered");
    let took = began.elapsed();
    assert_eq!(answer.status, 200, "a newcomer: {}", answer.body);
    assert!(answer.body["pipeline"]["state"].is_string());
    took
}

/// Sends the requests of `count` new clients, one after the other.
pub(crate) fn ask(address: SocketAddr, count: usize) -> Waits {
    let ask = |_| {
        thread::sleep(PAUSE);
        wait(address)
    };
    Waits((0..count).map(ask).collect())
}

/// Sends requests of new clients while `act` runs, and `count` more after it.
pub(crate) fn ask_until<T>(address: SocketAddr, act: impl FnOnce() -> T) -> (T, Waits) {
    let is_done = AtomicBool::new(false);
    let deadline = Instant::now() + 2 * DEADLINE;
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut waits = Vec::new();
            while !is_done.load(Ordering::SeqCst) && waits.len() < QUESTIONS_MAX && Instant::now() < deadline {
                waits.extend(ask(address, 1).0);
            }
            waits.extend(ask(address, questions()).0);
            Waits(waits)
        });
        let done = act();
        is_done.store(true, Ordering::SeqCst);
        (done, asking.join().expect("newcomers are answered"))
    })
}
