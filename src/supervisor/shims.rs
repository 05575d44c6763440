//! The conductor's interface to processes and files: starting, connecting to, finding and cleaning up runs. [`super::real_shims`]
//! is the real implementation; the tests and the simulation use others.

use std::io;

use crate::pipeline::{Found, Killed};
use crate::run_dir::{Command, LaunchSpec, NumberedProgress, ProgressError, ReadJournal};

/// The number of a connection to a shim, which identifies late messages of an earlier connection.
pub(super) type ConnectionNumber = u64;

/// The result of examining a run's directory.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) found: Found,
    /// The journal, if it exists and is readable.
    pub(super) journal: Option<ReadJournal>,
    /// The damage of the journal, or the place of the run, for users.
    pub(super) damage: Option<String>,
}

/// The result of killing the processes that a run left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Leftovers {
    /// The processes that were found and killed.
    pub(super) killed: Killed,
    /// The number of processes that could not be killed.
    pub(super) alive: usize,
    /// The number of processes that delayed the search and were not examined.
    pub(super) unread: usize,
    /// The number of processes that have the run's cookie and were left alone, because they see another directory at its path.
    pub(super) spared: usize,
}

/// The interface to processes and files.
pub(super) trait Shims {
    /// Creates the run's directory, starts its shim, sends it `spec` and listens to it from now on.
    fn launch(&mut self, spec: &LaunchSpec) -> io::Result<ConnectionNumber>;
    /// Connects to the shim of a live run.
    fn connect(&mut self, run_id: i64) -> io::Result<ConnectionNumber>;
    /// Sends a command to the connected shim.
    fn send(&mut self, command: &Command) -> io::Result<()>;
    /// Closes the connection, if any.
    fn disconnect(&mut self);
    /// Examines the remains of a run.
    fn find(&self, run_id: i64) -> io::Result<Finding>;
    /// Returns what a user can do about a run whose shim does not answer, for health.
    fn advice_on_silence(&self, run_id: i64) -> String;
    /// Returns the progress of a run that its shim stored last.
    fn progress(&self, run_id: i64) -> Result<Option<NumberedProgress>, ProgressError>;
    /// Returns the runs that have a directory, ascending.
    fn run_ids(&self) -> io::Result<Vec<i64>>;
    /// Checks whether a directory entry with this run's name exists, or a process that claims to be its shim.
    fn has_run(&self, run_id: i64) -> bool;
    /// Returns the latest run that has or had a directory.
    fn latest_run_id(&self) -> io::Result<Option<i64>>;
    /// Returns the position after the last byte of all logs.
    fn log_end(&self) -> io::Result<u64>;
    /// Kills all processes that have the run's cookie or are in its control group, and removes that group.
    fn kill_leftovers(&self, run_id: i64) -> io::Result<Leftovers>;
    /// Removes the PAUSE file if it exists.
    fn remove_pause_file(&self) -> io::Result<()>;
}
