//! Where streams read, and what they share: one for all listeners of a server.

use std::sync::Arc;

use super::log_watch::LogWatch;
use super::slots::Slots;
use super::waker::Waker;
use crate::health::Inspector;
use crate::log::RunLogs;
use crate::store::DatabaseFile;
use crate::supervisor::Handle;

/// The sources.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) supervisor: Handle,
    pub(super) inspector: Inspector,
    pub(super) logs: RunLogs,
    /// Read for the history.
    pub(super) database: DatabaseFile,
    pub(super) log_watch: Arc<LogWatch>,
    pub(super) slots: Arc<Slots>,
    pub(super) waker: Arc<Waker>,
}
