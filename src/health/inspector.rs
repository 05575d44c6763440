//! When to scan: when a client requests the state, at most once a second, and while a stream of events is open.
//!
//! The thread of the [`Inspector`] sleeps otherwise. It does not check what the supervisor learns by messages. Only this thread waits for the disk: an answer
//! waits for a scan for `LOOK_WAIT` at most, so a disk that hangs delays no client for longer than that.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::watch;
use crate::clock::whole_ms;

/// The least time between two scans that requests for the state cause, and the time between two scans while a stream is open.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long an answer waits for a scan. A scan usually takes a fraction of a millisecond.
const LOOK_WAIT: Duration = Duration::from_millis(200);

/// The stack of the thread that scans, in bytes: a few paths, a sentence, and the making of a file.
const STACK_BYTES: usize = 128 * 1024;

/// Scans for problems on request.
#[derive(Clone)]
pub struct Inspector {
    shared: Arc<Shared>,
    /// The thread ends with the last of them.
    _end: Arc<Over>,
}

struct Shared {
    /// When the latest finished scan began: milliseconds after `began`, plus one; 0 before the first.
    looked_at_ms: AtomicU64,
    began: Instant,
    turns: Mutex<Turns>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Turns {
    /// How many scans were requested, and how many are done.
    asked: u64,
    done: u64,
    /// The scan under way has taken longer than an answer waits.
    is_slow: bool,
    /// How many streams are open.
    attended: usize,
    is_over: bool,
}

impl fmt::Debug for Inspector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Inspector").finish_non_exhaustive()
    }
}

impl Inspector {
    /// Starts the thread that calls `look`, which passes its findings to the publisher. It returns the time until the next scan that is due
    /// without a request; `None` if there is no need.
    pub fn start(mut look: impl FnMut() -> Option<Duration> + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            looked_at_ms: AtomicU64::new(0),
            began: Instant::now(),
            turns: Mutex::default(),
            changed: Condvar::new(),
        });
        let looking = shared.clone();
        thread::Builder::new().name("health".to_owned()).stack_size(STACK_BYTES).spawn(move || {
            let _said_even_by_a_panic = Over(looking.clone());
            let mut again_at = None;
            while let Some(turn) = looking.wait_for_turn(again_at) {
                let began_ms = looking.now_ms();
                again_at = look().map(|again| Instant::now() + again);
                looking.looked_at_ms.store(began_ms, Ordering::Release);
                let mut turns = looking.lock();
                (turns.done, turns.is_slow) = (turn, false);
                looking.changed.notify_all();
            }
        })?;
        Ok(Self { _end: Arc::new(Over(shared.clone())), shared })
    }

    /// Makes sure that the findings are at most a second old. If they are, this costs one reading of the clock.
    pub fn refresh(&self) {
        let looked_at_ms = self.shared.looked_at_ms.load(Ordering::Acquire);
        if looked_at_ms == 0 || self.shared.now_ms().saturating_sub(looked_at_ms) >= whole_ms(LOOK_EVERY) {
            self.look();
        }
    }

    /// Requests a scan, and does not wait for it.
    pub fn begin_look(&self) {
        drop(self.shared.ask_for_a_look());
    }

    /// Makes sure that the findings are current: waits for a scan that begins after this call.
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

    /// Looks also when one of these names is removed from `dir` or replaced there, whether anybody asks or not.
    pub fn watch(&self, dir: &Path, names: Vec<String>) -> std::io::Result<()> {
        let shared = Arc::downgrade(&self.shared);
        let matters = move |name: &[u8]| names.iter().any(|known| known.as_bytes() == name);
        watch::watch(dir, matters, move || {
            if let Some(shared) = shared.upgrade() {
                drop(shared.ask_for_a_look());
            }
        })
    }

    /// Scans once a second until the returned value is dropped.
    pub fn attend(&self) -> Attendance {
        self.shared.lock().attended += 1;
        self.shared.changed.notify_all();
        Attendance(self.shared.clone())
    }
}

/// A client follows the state.
pub struct Attendance(Arc<Shared>);

impl fmt::Debug for Attendance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Attendance").finish_non_exhaustive()
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.0.lock().attended -= 1;
    }
}

/// The thread is no longer needed, or it has ended for whatever reason, and no request waits for it.
struct Over(Arc<Shared>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    /// Requests a scan that begins after this call. Returns its number.
    fn ask_for_a_look(&self) -> (MutexGuard<'_, Turns>, u64) {
        let mut turns = self.lock();
        // A scan under way may already have passed the file that has changed.
        turns.asked = (turns.asked + 1).min(turns.done + 2);
        self.changed.notify_all();
        let turn = turns.asked;
        (turns, turn)
    }

    /// Waits until a scan is due and returns its number; `None` once no inspector is left.
    fn wait_for_turn(&self, again_at: Option<Instant>) -> Option<u64> {
        let mut turns = self.lock();
        loop {
            if turns.is_over {
                return None;
            }
            if turns.asked > turns.done {
                return Some(turns.done + 1);
            }
            let for_streams = (turns.attended > 0).then(|| {
                let since = Duration::from_millis(self.now_ms().saturating_sub(self.looked_at_ms.load(Ordering::Acquire)));
                LOOK_EVERY.saturating_sub(since)
            });
            let again = again_at.map(|at| at.saturating_duration_since(Instant::now()));
            turns = match for_streams.into_iter().chain(again).min() {
                None => self.changed.wait(turns).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => {
                    turns.asked += 1;
                    return Some(turns.done + 1);
                }
                Some(left) => self.changed.wait_timeout(turns, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }

    fn now_ms(&self) -> u64 {
        whole_ms(self.began.elapsed()) + 1
    }

    /// Numbers are counted under this lock.
    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
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
        assert_eq!(inspector.shared.lock().attended, 0);
    }

    #[test]
    fn answer_does_not_wait_for_a_hanging_scan() {
        let (go, hangs) = mpsc::channel::<()>();
        let inspector = Inspector::start(move || {
            let _go_or_gone = hangs.recv();
            None
        })
        .expect("starts");
        inspector.refresh();
        assert!(inspector.shared.lock().is_slow, "no request waits for it any more");
        // While it hangs no request begins to wait. A thousand waits of 200 ms would not return in time.
        let began = Instant::now();
        for _ in 0..1_000 {
            inspector.refresh();
            inspector.look();
        }
        assert!(began.elapsed() < LOOK_WAIT * 500);
        go.send(()).expect("it waits for it");
        let deadline = Instant::now() + Duration::from_mins(1);
        while inspector.shared.lock().is_slow {
            assert!(Instant::now() < deadline, "it does not go on");
            thread::yield_now();
        }
    }
}
