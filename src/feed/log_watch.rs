//! Wakes who follows the log when it grows: the kernel tells of each write into the live run's log folder (`inotify(7)`), and, beside it,
//! of that folder's end: where somebody removes it the log goes on in another one of that name.
//!
//! Nothing is watched while nobody follows, so that a pipeline which prints a lot costs a server without followers nothing.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use super::waker::Waker;
use crate::lock::lock;
use crate::run_dir::Runs;

/// How often a follower looks by itself where the kernel does not tell: its table of watches is full, or it has none.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is watched, for any number of followers.
#[derive(Debug)]
pub(super) struct LogWatch {
    waker: Arc<Waker>,
    runs: Runs,
    watched: Arc<Mutex<Watched>>,
}

#[derive(Debug, Default)]
struct Watched {
    followers: usize,
    /// Made with the first follower, and kept: its thread reads it for ever.
    queue: Option<Arc<OwnedFd>>,
    /// The run whose folders are watched, and the watches' numbers.
    run: Option<(i64, [i32; 2])>,
}

/// Somebody follows while this lives.
#[derive(Debug)]
pub(super) struct Follower {
    watch: Arc<LogWatch>,
}

impl LogWatch {
    pub(super) fn new(waker: Arc<Waker>, runs: Runs) -> Self {
        Self { waker, runs, watched: Arc::default() }
    }

    pub(super) fn follow(self: &Arc<Self>) -> Follower {
        lock(&self.watched).followers += 1;
        Follower { watch: self.clone() }
    }

    fn watch_run(&self, watched: &mut Watched, run_id: i64) -> io::Result<()> {
        // A follower that has not heard of the latest run yet must not take the watch from those that have.
        if watched.run.is_some_and(|(watched, _)| watched >= run_id) {
            return Ok(());
        }
        watched.forget();
        let queue = if let Some(queue) = &watched.queue {
            queue.clone()
        } else {
            let queue = Arc::new(inotify::init(CreateFlags::CLOEXEC)?);
            let (read, waker, shared) = (queue.clone(), self.waker.clone(), self.watched.clone());
            let tell = move || tell(&read, &waker, &shared);
            thread::Builder::new().name("log-watch".to_owned()).stack_size(64 * 1024).spawn(tell)?;
            watched.queue = Some(queue.clone());
            queue
        };
        let run = self.runs.run(run_id);
        // The outer one first: what becomes of the folder from here on is told.
        let outer = inotify::add_watch(&*queue, run.path(), WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE)?;
        let inner = inotify::add_watch(&*queue, run.log_dir(), WatchFlags::MODIFY | WatchFlags::CREATE).inspect_err(|_| {
            let _is_gone = inotify::remove_watch(&*queue, outer);
        })?;
        watched.run = Some((run_id, [outer, inner]));
        Ok(())
    }
}

impl Follower {
    /// Sees to it that growth of the run's log is told from now on. Returns for how long to wait for that at most, `None` for as long as
    /// one likes: what was written before this call is told to nobody.
    pub(super) fn watch_run(&self, run_id: Option<i64>) -> Option<Duration> {
        let watched = &mut lock(&self.watch.watched);
        match run_id.map(|run_id| self.watch.watch_run(watched, run_id)) {
            None | Some(Ok(())) => None,
            // Its folder may be gone, and with it the growth; or the kernel has no room for a watch. Looking is right for both.
            Some(Err(_)) => Some(LOOK_EVERY),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut watched = lock(&self.watch.watched);
        watched.followers -= 1;
        if watched.followers == 0 {
            watched.forget();
        }
    }
}

impl Watched {
    fn forget(&mut self) {
        if let (Some(queue), Some((_, numbers))) = (&self.queue, self.run.take()) {
            for number in numbers {
                // The kernel has forgotten it already where the folder is gone.
                let _is_gone = inotify::remove_watch(&**queue, number);
            }
        }
    }
}

/// Reads what the kernel tells, and passes on that there is something. What it is the readers see for themselves.
fn tell(queue: &OwnedFd, waker: &Waker, watched: &Mutex<Watched>) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut told = inotify::Reader::new(queue, &mut buffer);
    loop {
        match told.next().map(|event| event.events().contains(ReadFlags::ISDIR)) {
            Ok(is_of_a_folder) => {
                // The log's: a run has no other. It is looked for again by those who are woken; its own end the kernel tells only when no
                // reader has a file of it open any more.
                if is_of_a_folder {
                    lock(watched).forget();
                }
                if told.is_buffer_empty() {
                    waker.wake();
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                // Followers look every ten seconds even so.
                ::log::error!("the kernel no longer reports growth of the log: {error}");
                return;
            }
        }
    }
}
