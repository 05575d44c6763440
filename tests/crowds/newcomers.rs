//! Those who come while a crowd is there: each a new connection, one question, and how long its answer took.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::DEADLINE;
use crate::support::wire::Wire;

/// Between two questions: newcomers, not a crowd of their own.
const PAUSE: Duration = Duration::from_millis(2);
/// How often a newcomer comes that is turned away, or whose connection ends without an answer. Where no connection gave way, all of these
/// would fail.
const TRIES: usize = 10;
/// Far more than any crowd here takes to gather.
const QUESTIONS_MAX: usize = 50_000;

/// How often a newcomer asks; `AUTOAPPDEV_CROWDS_QUESTIONS` sets it for figures.
pub(crate) fn questions() -> usize {
    std::env::var("AUTOAPPDEV_CROWDS_QUESTIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(50)
}

/// How long each waited, from before its connect to the end of its answer.
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
    // A connection that was put aside between its connect and its question while the crowd came in has waited longest, and gives way. And on
    // a busy machine those that give way may not run for two seconds, after which a newcomer is told to come again (503). So it does, as
    // every client would, but not for ever.
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

/// So many newcomers, one after another.
pub(crate) fn ask(address: SocketAddr, count: usize) -> Waits {
    let ask = |_| {
        thread::sleep(PAUSE);
        wait(address)
    };
    Waits((0..count).map(ask).collect())
}

/// Newcomers while `act` acts, and so many more after it.
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
