//! The watch that wakes the followers of the log when it grows.
//!
//! The kernel reports each write into the live run's log folder (`inotify(7)`). It also reports the removal of that folder, after
//! which the log continues in a new folder of the same name.
//!
//! Without followers nothing is watched, so the output of the pipeline costs the server nothing.

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

/// How often a follower scans if the kernel reports nothing, because its table of watches is full or it has no `inotify`.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The watch on the live run's log, for any number of followers.
#[derive(Debug)]
pub(super) struct LogWatch {
    waker: Arc<Waker>,
    runs: Runs,
    watched: Arc<Mutex<Watched>>,
}

#[derive(Debug, Default)]
struct Watched {
    followers: usize,
    /// Created with the first follower and then kept, because its thread never stops reading it.
    queue: Option<Arc<OwnedFd>>,
    /// The run whose folders are watched, and the numbers of the watches.
    run: Option<(i64, [i32; 2])>,
}

/// A follower of the log. The log is watched while at least one exists.
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
        // A follower that does not know the latest run yet must not take the watch from followers that do.
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
        // The outer folder first, so that from here on every change of the log folder is reported.
        let outer = inotify::add_watch(&*queue, run.path(), WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE)?;
        let inner = inotify::add_watch(&*queue, run.log_dir(), WatchFlags::MODIFY | WatchFlags::CREATE).inspect_err(|_| {
            let _is_gone = inotify::remove_watch(&*queue, outer);
        })?;
        watched.run = Some((run_id, [outer, inner]));
        Ok(())
    }
}

impl Follower {
    /// Makes the kernel report growth of the run's log from now on. Returns the longest time to wait for a report, `None` for no
    /// limit. Growth before this call is not reported.
    pub(super) fn watch_run(&self, run_id: Option<i64>) -> Option<Duration> {
        let watched = &mut lock(&self.watch.watched);
        match run_id.map(|run_id| self.watch.watch_run(watched, run_id)) {
            None | Some(Ok(())) => None,
            // The folder may have been removed, or the kernel has no room for a watch. Scanning works in both cases.
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
                // If the folder was removed, the kernel has already removed its watch.
                let _is_gone = inotify::remove_watch(&**queue, number);
            }
        }
    }
}

/// Reads the events of the kernel and wakes the followers, which find out for themselves what has changed.
fn tell(queue: &OwnedFd, waker: &Waker, watched: &Mutex<Watched>) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut told = inotify::Reader::new(queue, &mut buffer);
    loop {
        match told.next().map(|event| event.events().contains(ReadFlags::ISDIR)) {
            Ok(is_of_a_folder) => {
                // The event is about the log folder, because a run has no other. The followers that are woken watch the new
                // folder. The kernel reports the end of the old one only when no reader has a file of it open.
                if is_of_a_folder {
                    lock(watched).forget();
                }
                if told.is_buffer_empty() {
                    waker.wake();
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                // Event streams scan every ten seconds anyway.
                ::log::error!("the kernel no longer reports growth of the log: {error}");
                return;
            }
        }
    }
}
