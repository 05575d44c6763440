//! The parts that all streams and waiting requests of a server share: their sources, and the waker.

use std::sync::Arc;

use super::log_watch::LogWatch;
use super::slots::Slots;
use super::waker::Waker;
use crate::health::Inspector;
use crate::log::RunLogs;
use crate::run_dir::Runs;
use crate::store::DatabaseFile;
use crate::supervisor::{Handle, Notice};

/// The event streams and waiting requests of a server, shared by all its listeners.
pub struct Streams {
    pub(super) supervisor: Handle,
    pub(super) inspector: Inspector,
    pub(super) logs: RunLogs,
    /// The source of the history.
    pub(super) database: DatabaseFile,
    pub(super) log_watch: Arc<LogWatch>,
    pub(super) slots: Arc<Slots>,
    pub(super) waker: Arc<Waker>,
}

impl Streams {
    /// Creates the shared parts, without any stream. `database` is read for the history.
    pub fn new(supervisor: Handle, inspector: Inspector, runs: Runs, logs: RunLogs, database: DatabaseFile) -> Self {
        let waker = Arc::new(Waker::default());
        let woken = waker.clone();
        supervisor.watch().notify(move |notice| match notice {
            Notice::Published => woken.wake(),
            Notice::Closing => woken.close(),
        });
        let log_watch = Arc::new(LogWatch::new(waker.clone(), runs));
        let slots = Arc::new(Slots::new(waker.clone()));
        Self { supervisor, inspector, logs, database, log_watch, slots, waker }
    }

    /// Makes every stream check whether it may continue.
    pub fn check(&self) {
        self.slots.ask_for_checks();
    }

    /// Wakes all followers, and the streams that wait for a slot, so that they check whether to continue.
    pub fn hurry(&self) {
        self.slots.ask_for_checks();
        self.slots.hurry();
    }
}
