//! Wakes who follows the log when it grows: the kernel tells of each write into the live run's log folder (`inotify(7)`).
//!
//! Nothing is watched while nobody follows, so that a pipeline which prints a lot costs a server without followers nothing.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::run_dir::Runs;
use crate::supervisor::Handle;

/// How often a follower looks by itself where the kernel does not tell: its table of watches is full, or it has none.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is watched, for any number of followers.
#[derive(Debug)]
pub(super) struct LogWatch {
    supervisor: Handle,
    runs: Runs,
    watched: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    followers: usize,
    /// Made with the first follower, and kept: its thread reads it for ever.
    queue: Option<Arc<OwnedFd>>,
    /// The run whose folder is watched, and the watch's number.
    run: Option<(i64, i32)>,
}

/// Somebody follows while this lives.
#[derive(Debug)]
pub(super) struct Follower {
    watch: Arc<LogWatch>,
}

impl LogWatch {
    pub(super) fn new(supervisor: Handle, runs: Runs) -> Self {
        Self { supervisor, runs, watched: Mutex::default() }
    }

    pub(super) fn follow(self: &Arc<Self>) -> Follower {
        self.lock().followers += 1;
        Follower { watch: self.clone() }
    }

    /// A number and a descriptor are swapped under this lock; nothing in between can panic.
    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
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
            let (read, supervisor) = (queue.clone(), self.supervisor.clone());
            thread::Builder::new().name("log-watch".to_owned()).stack_size(64 * 1024).spawn(move || tell(&read, &supervisor))?;
            watched.queue = Some(queue.clone());
            queue
        };
        let number = inotify::add_watch(&*queue, self.runs.run(run_id).log_dir(), WatchFlags::MODIFY | WatchFlags::CREATE)?;
        watched.run = Some((run_id, number));
        Ok(())
    }
}

impl Follower {
    /// Sees to it that growth of the run's log is told from now on. Returns for how long to wait for that at most, `None` for as long as
    /// one likes: what was written before this call is told to nobody.
    pub(super) fn watch_run(&self, run_id: Option<i64>) -> Option<Duration> {
        let watched = &mut self.watch.lock();
        match run_id.map(|run_id| self.watch.watch_run(watched, run_id)) {
            None | Some(Ok(())) => None,
            // Its folder may be gone, and with it the growth; or the kernel has no room for a watch. Looking is right for both.
            Some(Err(_)) => Some(LOOK_EVERY),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut watched = self.watch.lock();
        watched.followers -= 1;
        if watched.followers == 0 {
            watched.forget();
        }
    }
}

impl Watched {
    fn forget(&mut self) {
        if let (Some(queue), Some((_, number))) = (&self.queue, self.run.take()) {
            // The kernel has forgotten it already where the folder is gone.
            let _is_gone = inotify::remove_watch(&**queue, number);
        }
    }
}

/// Reads what the kernel tells, and passes on that there is something. What it is the readers see for themselves.
fn tell(queue: &OwnedFd, supervisor: &Handle) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    loop {
        match rustix::io::read(queue, &mut buffer) {
            Ok(_) => supervisor.watch().wake_followers(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                // Followers look every ten seconds even so.
                ::log::error!("the kernel does not tell of log growth any more: {error}");
                return;
            }
        }
    }
}
