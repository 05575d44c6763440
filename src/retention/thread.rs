//! The thread that keeps the files on disk within their limits, and its waker.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

use super::housekeeping::Housekeeping;
use super::limits::Limits;
use crate::log::RunLogs;
use crate::store::{DatabaseFile, Writer};

/// The lowest priority (`setpriority(2)`): all other processes go first.
const PRIORITY: i32 = 19;

/// A waker, which tells the thread that there may be something to do. Waking costs nothing and never waits. The waker exists
/// before the thread, because a run can end while the server boots.
#[derive(Clone, Debug)]
pub struct Waker(SyncSender<()>);

impl Waker {
    /// Creates a waker, and the end of the queue at which the thread waits.
    pub fn new() -> (Self, Receiver<()>) {
        let (sender, queue) = mpsc::sync_channel(1);
        (Self(sender), queue)
    }

    /// Wakes the thread.
    pub fn wake(&self) {
        // If the queue is full, the next pass is still to come. If it is closed, the server ends.
        let _passes_anyway = self.0.try_send(());
    }
}

/// The running thread.
#[derive(Debug)]
pub struct Retention {
    waker: Waker,
    is_stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Retention {
    /// Starts the thread, which makes a pass at once. The deletion of removed runs' rows goes to `writer`.
    pub fn start(
        (waker, queue): (Waker, Receiver<()>),
        runtime_dir: &Path,
        logs: RunLogs,
        database: DatabaseFile,
        limits: Limits,
        writer: Writer,
    ) -> io::Result<Self> {
        let is_stopping = Arc::new(AtomicBool::new(false));
        let mut housekeeping = Housekeeping::new(runtime_dir, logs, database, limits, writer, is_stopping.clone())?;
        let thread = thread::Builder::new().name("retention".to_owned()).spawn(move || {
            // The thread also does its work if this is not allowed.
            let _only_politeness = rustix::process::setpriority_process(None, PRIORITY);
            housekeeping.go_on(&queue);
        })?;
        Ok(Self { waker, is_stopping, thread })
    }

    /// Ends the thread after its current step, and waits for that.
    pub fn stop(self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.waker.wake();
        if self.thread.join().is_err() {
            ::log::error!("the retention thread had stopped because of a bug");
        }
    }
}
