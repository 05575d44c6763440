//! When to scan for problems: when a client requests the state, at most once a second, and while an event stream is open.
//!
//! Otherwise the thread of the [`Inspector`] sleeps. It does not check for problems that messages report to the supervisor. Only
//! this thread waits for the disk. A response waits for a scan for at most `LOOK_WAIT`, so a disk that hangs delays no client for
//! longer than that.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::watch;
use crate::lock::lock;

/// The shortest time between two scans that requests for the state cause, and the time between two scans while a stream is open.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a response waits for a scan. A scan usually takes a fraction of a millisecond.
const LOOK_WAIT: Duration = Duration::from_millis(200);

/// The stack of the scanning thread, in bytes. It needs room for a few paths, a sentence, and the creation of a file.
const STACK_BYTES: usize = 128 * 1024;

/// A handle to the thread that scans for problems.
#[derive(Clone, Debug)]
pub struct Inspector {
    shared: Arc<Shared>,
    /// Ends the thread when the last clone is dropped.
    _end: Arc<Over>,
}

#[derive(Debug, Default)]
struct Shared {
    turns: Mutex<Turns>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Turns {
    /// How many scans were requested, and how many have finished.
    asked: u64,
    done: u64,
    /// When the latest finished scan began.
    looked_at: Option<Instant>,
    /// Whether the current scan has taken longer than a response waits.
    is_slow: bool,
    /// The number of open streams.
    attended: usize,
    is_over: bool,
}

impl Inspector {
    /// Starts the thread that calls `look`. `look` scans and passes its findings to the publisher. It returns the time until the
    /// next scan that is due without a request; `None` if no scan is due.
    pub fn start(mut look: impl FnMut() -> Option<Duration> + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let looking = shared.clone();
        thread::Builder::new().name("health".to_owned()).stack_size(STACK_BYTES).spawn(move || {
            let _said_even_by_a_panic = Over(looking.clone());
            let mut again_at = None;
            while let Some(turn) = looking.wait_for_turn(again_at) {
                let began = Instant::now();
                again_at = look().map(|again| Instant::now() + again);
                let mut turns = lock(&looking.turns);
                (turns.done, turns.looked_at, turns.is_slow) = (turn, Some(began), false);
                looking.changed.notify_all();
            }
        })?;
        Ok(Self { _end: Arc::new(Over(shared.clone())), shared })
    }

    /// Ensures that the findings are at most a second old. If they are, this costs a lock and one reading of the clock.
    pub fn refresh(&self) {
        let looked_at = lock(&self.shared.turns).looked_at;
        if looked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            self.look();
        }
    }

    /// Requests a scan and does not wait for it.
    pub fn begin_look(&self) {
        drop(self.shared.ask_for_a_look());
    }

    /// Ensures that the findings are current: waits for a scan that begins after this call, for at most `LOOK_WAIT`. Does not
    /// wait if the current scan already took longer than that.
    pub fn look(&self) {
        let (turns, turn) = self.shared.ask_for_a_look();
        if turns.is_slow || turns.is_over {
            return;
        }
        let (mut turns, _) = self
            .shared
            .changed
            .wait_timeout_while(turns, LOOK_WAIT, |turns| turns.done < turn && !turns.is_slow && !turns.is_over)
            .unwrap_or_else(PoisonError::into_inner);
        turns.is_slow |= turns.done < turn;
    }

    /// Also scans when one of these names is removed from `dir` or replaced there, without a request.
    pub fn watch(&self, dir: &Path, names: Vec<String>) -> std::io::Result<()> {
        let shared = Arc::downgrade(&self.shared);
        watch::watch(dir, names, move || {
            if let Some(shared) = shared.upgrade() {
                drop(shared.ask_for_a_look());
            }
        })
    }

    /// Scans once a second until the returned value is dropped.
    pub fn attend(&self) -> ScanGuard {
        lock(&self.shared.turns).attended += 1;
        self.shared.changed.notify_all();
        ScanGuard(self.shared.clone())
    }
}

/// A guard that keeps the scans going while a client follows the state.
#[derive(Debug)]
pub struct ScanGuard(Arc<Shared>);

impl Drop for ScanGuard {
    fn drop(&mut self) {
        lock(&self.0.turns).attended -= 1;
    }
}

/// A guard that ends the thread, or marks it as ended for any reason, so that no request waits for it.
#[derive(Debug)]
struct Over(Arc<Shared>);

impl Drop for Over {
    fn drop(&mut self) {
        lock(&self.0.turns).is_over = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    /// Requests a scan that begins after this call. Returns the locked state and the number of the scan.
    fn ask_for_a_look(&self) -> (MutexGuard<'_, Turns>, u64) {
        let mut turns = lock(&self.turns);
        // The current scan may already have passed the file that has changed, so it does not count.
        turns.asked = (turns.asked + 1).min(turns.done + 2);
        self.changed.notify_all();
        let turn = turns.asked;
        (turns, turn)
    }

    /// Waits until a scan is due and returns its number; `None` once no inspector is left.
    fn wait_for_turn(&self, again_at: Option<Instant>) -> Option<u64> {
        let mut turns = lock(&self.turns);
        loop {
            if turns.is_over {
                return None;
            }
            if turns.asked > turns.done {
                return Some(turns.done + 1);
            }
            let now = Instant::now();
            let for_streams = (turns.attended > 0).then(|| turns.looked_at.map_or(now, |at| at + LOOK_EVERY));
            turns = match for_streams.into_iter().chain(again_at).min() {
                None => self.changed.wait(turns).unwrap_or_else(PoisonError::into_inner),
                Some(due) if due <= now => {
                    turns.asked += 1;
                    return Some(turns.done + 1);
                }
                Some(due) => self.changed.wait_timeout(turns, due - now).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    fn counting() -> (Inspector, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let inspector = Inspector::start(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            None
        });
        (inspector.expect("starts"), count)
    }

    #[test]
    fn inspector_scans_on_request_at_most_once_a_second() {
        let (inspector, count) = counting();
        let began = Instant::now();
        inspector.refresh();
        assert_eq!(count.load(Ordering::SeqCst), 1, "the first request gets current findings");
        for _ in 0..1_000 {
            inspector.refresh();
        }
        let looks = count.load(Ordering::SeqCst);
        assert!(looks as u128 <= 2 + began.elapsed().as_millis() / LOOK_EVERY.as_millis(), "{looks} looks");
        inspector.look();
        assert_eq!(count.load(Ordering::SeqCst), looks + 1, "and one that must know looks in any case");
    }

    #[test]
    fn inspector_scans_every_second_while_a_stream_is_open() {
        let (inspector, count) = counting();
        let attendance = inspector.attend();
        let deadline = Instant::now() + Duration::from_mins(1);
        while count.load(Ordering::SeqCst) < 2 {
            assert!(Instant::now() < deadline, "no look came");
            thread::sleep(Duration::from_millis(5));
        }
        drop(attendance);
        assert_eq!(lock(&inspector.shared.turns).attended, 0);
    }

    #[test]
    fn response_does_not_wait_for_a_hanging_scan() {
        let (go, hangs) = mpsc::channel::<()>();
        let inspector = Inspector::start(move || {
            let _go_or_gone = hangs.recv();
            None
        })
        .expect("starts");
        inspector.refresh();
        assert!(lock(&inspector.shared.turns).is_slow, "no request waits for it any more");
        // While a scan hangs, no request begins to wait. A thousand waits of 200 ms would not return in time.
        let began = Instant::now();
        for _ in 0..1_000 {
            inspector.refresh();
            inspector.look();
        }
        assert!(began.elapsed() < LOOK_WAIT * 500);
        go.send(()).expect("it waits for it");
        let deadline = Instant::now() + Duration::from_mins(1);
        while lock(&inspector.shared.turns).is_slow {
            assert!(Instant::now() < deadline, "it does not go on");
            thread::yield_now();
        }
    }
}
