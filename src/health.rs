//! What is wrong that nobody says by itself: little space on the disk, files that somebody removed or replaced, a stopped shim.
//!
//! Level 2. An [`Inspector`] looks when somebody asks for the state, at most once a second, and while a stream of events is open. Its thread
//! sleeps otherwise. What the supervisor learns by messages is not looked for here. Nothing waits for the disk but this thread: an answer
//! waits for a look only for [`LOOK_WAIT`], so a disk that hangs delays nobody for longer than that.

mod look;
mod upkeep;
mod watch;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::clock::whole_ms;
use crate::pipeline::ConditionCode;

pub use look::Places;
pub use upkeep::{Kept, Upkeep};

/// The least time between two looks for those who ask for the state, and the time between two looks while a stream is open.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long an answer waits for a look. Usually one takes a fraction of a millisecond.
const LOOK_WAIT: Duration = Duration::from_millis(200);

/// The stack of the thread that looks, in bytes: a few paths, a sentence, and the making of a file.
const STACK_BYTES: usize = 128 * 1024;

/// What a look has found wrong.
pub type Findings = Vec<(ConditionCode, String)>;

/// Looks for what is wrong when somebody wants to know.
#[derive(Clone)]
pub struct Inspector {
    shared: Arc<Shared>,
    /// The thread ends with the last of them.
    _end: Arc<Over>,
}

struct Shared {
    /// When the latest look began that has ended: milliseconds after `began`, plus one; 0 before the first.
    looked_at_ms: AtomicU64,
    began: Instant,
    turns: Mutex<Turns>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Turns {
    /// How many looks were asked for, and how many are done.
    asked: u64,
    done: u64,
    /// The look under way takes longer than anybody waits.
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
    /// Begins. `look` is called on a thread of its own and tells what it has found to whoever publishes it. It returns after what time to look
    /// again although nobody asks; `None` where there is no need.
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

    /// Sees to it that what is known is not older than a second. Costs a look at the clock where it is not.
    pub fn refresh(&self) {
        let looked_at_ms = self.shared.looked_at_ms.load(Ordering::Acquire);
        if looked_at_ms == 0 || self.shared.now_ms().saturating_sub(looked_at_ms) >= whole_ms(LOOK_EVERY) {
            self.look();
        }
    }

    /// Sees to it that what is known is of now: waits for a look that begins after this call.
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

    /// Looks go on, one a second, until what this returns is dropped.
    pub fn attend(&self) -> Attendance {
        self.shared.lock().attended += 1;
        self.shared.changed.notify_all();
        Attendance(self.shared.clone())
    }
}

/// Somebody follows what happens.
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

/// Nobody needs the thread any more, or it has ended in whatever way and nobody waits for it.
struct Over(Arc<Shared>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    /// Asks for a look that begins after this call. Returns which one it is.
    fn ask_for_a_look(&self) -> (MutexGuard<'_, Turns>, u64) {
        let mut turns = self.lock();
        // One that is under way may have looked already at what has changed since.
        turns.asked = (turns.asked + 1).min(turns.done + 2);
        self.changed.notify_all();
        let turn = turns.asked;
        (turns, turn)
    }

    /// Waits until a look is due; `None` once there is nobody left to look for. Returns which one it is.
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
    fn inspector_looks_only_when_somebody_asks_and_seldom_for_those_who_ask_often() {
        let (inspector, count) = counting();
        let began = Instant::now();
        inspector.refresh();
        assert_eq!(count.load(Ordering::SeqCst), 1, "the first who asks gets what is true now");
        for _ in 0..1_000 {
            inspector.refresh();
        }
        let looks = count.load(Ordering::SeqCst);
        assert!(looks as u128 <= 2 + began.elapsed().as_millis() / LOOK_EVERY.as_millis(), "{looks} looks");
        inspector.look();
        assert_eq!(count.load(Ordering::SeqCst), looks + 1, "and one that must know looks in any case");
    }

    #[test]
    fn inspector_looks_by_itself_while_somebody_follows() {
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
    fn answer_does_not_wait_for_a_look_that_hangs() {
        let (go, hangs) = mpsc::channel::<()>();
        let inspector = Inspector::start(move || {
            let _go_or_gone = hangs.recv();
            None
        })
        .expect("starts");
        inspector.refresh();
        assert!(inspector.shared.lock().is_slow, "nobody waits for it any more");
        // While it hangs nobody begins to wait. That this returns at all is the proof for a thousand times 200 ms.
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
