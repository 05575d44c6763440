//! Errors of actions, and of the server's start.

use std::io;

use crate::pipeline::{Action, ConditionCode, Refusal, Shortage};
use crate::process;
use crate::script::ScriptError;
use crate::store::{StoreError, StoreErrorKind};

/// The reason why an action was not done.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// The state does not allow it, or another client was faster.
    #[error("{0}")]
    Refused(Refusal),
    /// The action names a run that is not the latest one.
    #[error("{}", run_changed(*.latest))]
    RunChanged {
        /// The latest run, if any.
        latest: Option<i64>,
    },
    /// The key was used for another request before.
    #[error(
        "this Idempotency-Key was used for another request before: the route or the body differs; use a new key. Nothing was done"
    )]
    KeyReused,
    /// The script or the working directory cannot be used.
    #[error(transparent)]
    Script(#[from] ScriptError),
    /// A run was begun, and its script could not be executed.
    #[error("{detail}")]
    SpawnFailed {
        /// The run that failed.
        run_id: i64,
        /// The reason.
        detail: String,
        /// The resource whose lack is the cause, if any.
        lack: Option<Shortage>,
    },
    /// A process did not stop in time, so the pause was undone.
    #[error("{0}")]
    PauseTimeout(String),
    /// The leader did not continue.
    #[error("{0}")]
    ResumeFailed(String),
    /// The shim refused for a reason that this version does not know.
    #[error("{0}")]
    Shim(String),
    /// The shim does not answer.
    #[error("the run's own process (the shim) does not answer, and the pipeline is unchanged; see /api/health")]
    ShimSilent,
    /// The action is not done yet, but may still be done later.
    #[error("{0} is still under way; see GET /api/pipeline (`autoappdev status`)")]
    StillUnderWay(Action),
    /// Too many clients are waiting for the same stop, and this one had waited longest.
    #[error("too many clients are waiting for the same {0}, and this one had waited longest; the {0} is still under way")]
    TooManyWaiting(Action),
    /// The action was completed, but the database could not record it yet.
    #[error("the action was completed but could not be recorded yet: {}", unrecorded_because(*.obstacle))]
    Unrecorded {
        /// The database's condition.
        obstacle: ConditionCode,
    },
    /// The disk is full.
    #[error("the disk is full; free some space, and check /api/pipeline before you try again")]
    DiskFull,
    /// Another process holds a lock on the database.
    #[error(
        "another process has locked the database (a backup, or a sqlite3 shell with an open transaction); end that process or wait, then try again"
    )]
    DatabaseLocked,
    /// The database refused the change.
    #[error("the database could not store it: {0}")]
    Store(String),
    /// The runtime directory could not be read.
    #[error("the runtime directory could not be read: {0}")]
    Io(io::Error),
    /// The server is stopping.
    #[error("the server is stopping; the pipeline is unchanged")]
    Stopping,
}

fn run_changed(latest: Option<i64>) -> String {
    let latest = latest.map_or_else(|| "there is no run yet".to_owned(), |run_id| format!("the latest run is run {run_id} now"));
    format!("the action is meant for another run: {latest}; nothing was done")
}

/// Returns the condition of a database that has refused a change.
pub(super) const fn condition_of(error: &StoreError) -> ConditionCode {
    match error.kind {
        StoreErrorKind::Full => ConditionCode::DiskFull,
        StoreErrorKind::Busy => ConditionCode::DatabaseLocked,
        StoreErrorKind::Gone | StoreErrorKind::Missing => ConditionCode::DatabaseReplaced,
        _ => ConditionCode::DatabaseFailing,
    }
}

/// Returns why an event is not recorded yet, by the database's condition, and when it will be.
pub(super) const fn unrecorded_because(obstacle: ConditionCode) -> &'static str {
    match obstacle {
        ConditionCode::DiskFull => "the disk is full; it will be recorded as soon as there is room",
        ConditionCode::DatabaseLocked => {
            "another process has locked the database; it will be recorded as soon as the lock is released"
        }
        ConditionCode::DatabaseReplaced => {
            "the database file was removed or replaced; it will be recorded as soon as the file is put back"
        }
        _ => "the database cannot be written; it will be recorded as soon as possible; see the server's log (backend.log)",
    }
}

impl ActionError {
    pub(super) fn store(error: &StoreError) -> Self {
        match condition_of(error) {
            ConditionCode::DiskFull => Self::DiskFull,
            ConditionCode::DatabaseLocked => Self::DatabaseLocked,
            _ => Self::Store(error.to_string()),
        }
    }
}

impl From<StoreError> for ActionError {
    fn from(error: StoreError) -> Self {
        Self::store(&error)
    }
}

/// The reason why a server cannot start. Each sentence fits after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The database could not be read, or refused what recovery found.
    #[error("{}", told_at_boot(.0))]
    Store(#[from] StoreError),
    /// A thread that the life cycle needs could not be started.
    #[error("{}", process::explain_shortage("start a thread", .0))]
    Thread(io::Error),
    /// The run directories could not be read, so a live run could exist that is missing in the database and whose id the next run
    /// would get.
    #[error("read the run directories: {0}")]
    Runs(io::Error),
}

/// Returns the text for a boot, when clients cannot check the state.
fn told_at_boot(error: &StoreError) -> String {
    match &error.kind {
        StoreErrorKind::Conflict(what) => format!(
            "record in {} how the latest run ended: {what}; the database and the directory of that run do not match: restore a \
             backup of the database, or move it away and start again",
            error.path.display()
        ),
        _ => error.to_string(),
    }
}
