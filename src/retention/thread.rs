//! The thread that keeps what is on the disk within its limits, and how it is woken.

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

/// The lowest priority (`setpriority(2)`): whoever has anything to do goes first.
const PRIORITY: i32 = 19;

/// Tells the thread that there may be something to do. Costs nothing, and is never waited for. It exists before the thread, because a run
/// can end while the server boots.
#[derive(Clone, Debug)]
pub struct Waker(SyncSender<()>);

impl Waker {
    /// A waker, and the end that the thread waits at.
    pub fn new() -> (Self, Receiver<()>) {
        let (sender, queue) = mpsc::sync_channel(1);
        (Self(sender), queue)
    }

    /// Wakes it.
    pub fn wake(&self) {
        // Full: its next pass is still to come. Closed: the server ends.
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
    /// Begins, with a pass at once. Rows of removed runs go to `writer`.
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
            // Where that is not allowed it does its work all the same.
            let _only_politeness = rustix::process::setpriority_process(None, PRIORITY);
            housekeeping.go_on(&queue);
        })?;
        Ok(Self { waker, is_stopping, thread })
    }

    /// Ends it after the step that it is at.
    pub fn stop(self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.waker.wake();
        if self.thread.join().is_err() {
            ::log::error!("the retention thread had stopped because of a bug");
        }
    }
}
