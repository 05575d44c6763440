//! Examines processes of other users, which can delay a read.
//!
//! To read a process's arguments or environment, the kernel locks that process's memory. A process can hold this lock for as
//! long as it likes: one of its threads maps memory while another waits for a file system that the user mounted and that never
//! answers. The read cannot be interrupted. So each read runs in a thread that can be abandoned. The thread ends with the
//! process that it waits for, or with this process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::lock::lock;

/// How long the processes of one user may take in a scan. A user can only hide processes that it could end or change anyway: its
/// own.
const USER_LIMIT: Duration = Duration::from_secs(1);
/// How long the processes of all other users may take in a scan: one person can have thousands of user ids (`subuid(5)`).
const ALL_LIMIT: Duration = Duration::from_secs(2);
/// The maximum number of threads, including abandoned ones.
const THREADS_MAX: usize = 16;

static THREADS: AtomicUsize = AtomicUsize::new(0);

/// The users that block a thread, each with the thread that it blocks, whichever search abandoned it. Processes of these users
/// are not examined: a process that is stuck for days would cost each search another thread.
static STUCK: Mutex<Vec<(u32, Weak<Counted>)>> = Mutex::new(Vec::new());

/// A thread that examines one process after another, with the channels to and from it. It ends when its answers have no
/// receiver.
struct Worker<T> {
    ask: Sender<(u32, Instant)>,
    answers: Receiver<T>,
    thread: Weak<Counted>,
}

/// Examines processes of other users, within limits. `T` is the result for one process.
pub(super) struct Strangers<T> {
    look: Arc<dyn Fn(u32, Instant) -> T + Send + Sync>,
    looker: Option<Worker<T>>,
    /// Users whose process blocked a thread in this search. Their processes are not examined again, even if that thread has
    /// ended: each would cost another second.
    avoided: BTreeSet<u32>,
    taken: BTreeMap<u32, Duration>,
}

impl<T: Send + 'static> Strangers<T> {
    /// Wraps `look`, which is called with a pid and the time at which its answer is no longer awaited.
    pub(super) fn new(look: impl Fn(u32, Instant) -> T + Send + Sync + 'static) -> Self {
        Self { look: Arc::new(look), looker: None, avoided: BTreeSet::new(), taken: BTreeMap::new() }
    }

    /// Gives each user the full time limit again.
    pub(super) fn begin_scan(&mut self) {
        self.taken.clear();
    }

    /// Returns how long this scan has waited for other users' processes.
    pub(super) fn taken(&self) -> Duration {
        self.taken.values().sum()
    }

    /// Examines process `pid` of `user`. `None` if that was not possible in time, or if no thread could be created.
    pub(super) fn look_at(&mut self, pid: u32, user: u32) -> Option<T> {
        let of_user = USER_LIMIT.saturating_sub(self.taken.get(&user).copied().unwrap_or_default());
        let left = of_user.min(ALL_LIMIT.saturating_sub(self.taken()));
        if left.is_zero() || self.avoided.contains(&user) || keeps_a_thread(user) {
            return None;
        }
        let looker = match self.looker.take() {
            Some(looker) => looker,
            None => self.start()?,
        };
        let begin = Instant::now();
        looker.ask.send((pid, begin + left)).ok()?;
        let answer = looker.answers.recv_timeout(left);
        *self.taken.entry(user).or_default() += begin.elapsed();
        match answer {
            Ok(answer) => {
                self.looker = Some(looker);
                Some(answer)
            }
            // The thread is abandoned. It ends when its read does.
            Err(RecvTimeoutError::Timeout) => {
                self.avoided.insert(user);
                lock(&STUCK).push((user, looker.thread));
                None
            }
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn start(&self) -> Option<Worker<T>> {
        let counted = Arc::new(Counted::new()?);
        let thread = Arc::downgrade(&counted);
        let (ask, asked) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let look = self.look.clone();
        let work = move || {
            let _counted = counted;
            for (pid, deadline) in asked {
                if answer.send(look(pid, deadline)).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new().name("strangers".to_owned()).spawn(work).ok()?;
        Some(Worker { ask, answers, thread })
    }
}

/// Returns whether a process of this user still blocks a thread.
fn keeps_a_thread(user: u32) -> bool {
    let mut stuck = lock(&STUCK);
    stuck.retain(|(_, thread)| thread.strong_count() > 0);
    stuck.iter().any(|&(stuck, _)| stuck == user)
}

/// A token for one of the [`THREADS_MAX`] threads.
struct Counted;

impl Counted {
    fn new() -> Option<Self> {
        let more = |count| (count < THREADS_MAX).then_some(count + 1);
        THREADS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok().map(|_| Self)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Serialises the tests, because the number of threads is counted for the whole process.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn blocked_scan_skips_other_processes_of_that_user_only() {
        const STUCK: u32 = 1;
        let _alone = ALONE.lock();
        let (leave, left) = mpsc::channel::<()>();
        let (left, looked) = (Mutex::new(left), Arc::new(Mutex::new(Vec::new())));
        let mut strangers = Strangers::new({
            let looked = looked.clone();
            move |pid, _| {
                looked.lock().expect("no panic").push(pid);
                if pid == STUCK {
                    // Blocks for as long as the test runs.
                    let _ends = left.lock().expect("no panic").recv();
                }
                pid
            }
        });
        assert_eq!(strangers.look_at(5, 1001), Some(5));
        assert_eq!(strangers.look_at(STUCK, 1001), None);
        assert_eq!(strangers.look_at(6, 1001), None, "it would cost another thread");
        assert_eq!(strangers.look_at(7, 1002), Some(7), "by a thread that is not waiting");
        strangers.begin_scan();
        assert_eq!(strangers.look_at(STUCK, 1001), None);
        assert_eq!(strangers.look_at(8, 1002), Some(8));
        assert_eq!(*looked.lock().expect("no panic"), [5, STUCK, 7, 8]);
        drop((leave, strangers));
    }

    #[test]
    fn stuck_process_occupies_one_thread_until_it_responds() {
        let _alone = ALONE.lock();
        let (leave, left) = mpsc::channel::<()>();
        let left = Arc::new(Mutex::new(left));
        let search = || {
            let left = left.clone();
            Strangers::new(move |pid, _| {
                if pid == 1 {
                    let _ends = left.lock().expect("no panic").recv();
                }
                pid
            })
        };
        let before = THREADS.load(Ordering::SeqCst);
        for _ in 0..2 * THREADS_MAX {
            let mut strangers = search();
            assert_eq!(strangers.look_at(1, 2001), None);
            assert_eq!(strangers.look_at(2, 2002), Some(2), "there are threads for others");
        }
        let until = |what: &str, holds: &dyn Fn() -> bool| {
            let deadline = Instant::now() + Duration::from_secs(60);
            while !holds() {
                assert!(Instant::now() < deadline, "never came true: {what}");
                thread::yield_now();
            }
        };
        until("one thread waits", &|| THREADS.load(Ordering::SeqCst) == before + 1);
        drop(leave);
        until("it has ended", &|| !keeps_a_thread(2001));
        assert_eq!(search().look_at(3, 2001), Some(3), "the user's processes are examined again");
    }

    #[test]
    fn users_share_limits_of_scan_time_and_threads() {
        let _alone = ALONE.lock();
        let (leave, left) = mpsc::channel::<()>();
        let left = Mutex::new(left);
        let mut strangers = Strangers::new(move |_, _| drop(left.lock().map(|left| left.recv())));
        for user in 0..100 {
            assert_eq!(strangers.look_at(user, user), None);
        }
        assert!(strangers.avoided.len() <= 3, "{:?}", strangers.avoided);
        // Takes all threads that other tests of this process do not use.
        let all: Vec<Counted> = std::iter::from_fn(Counted::new).take(THREADS_MAX).collect();
        strangers.begin_scan();
        assert_eq!(strangers.look_at(1000, 1000), None, "no thread is left");
        assert!(!strangers.avoided.contains(&1000), "and it was not waited for");
        drop((leave, all, strangers));
    }
}
