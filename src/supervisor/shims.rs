//! What the conductor needs of the world: runs are started, reached, looked at and cleaned up. [`super::real_shims`] is the real one; the
//! tests and the simulation put others in its place.

use std::io;

use crate::pipeline::{Found, Killed};
use crate::run_dir::{Command, LaunchSpec, NumberedProgress, ProgressError, ReadJournal};

/// Names one connection to a shim, so that a late message of an earlier one is known as such.
pub(super) type ConnectionNumber = u64;

/// What a look at a run's directory gave.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) found: Found,
    /// Where there is a readable one.
    pub(super) journal: Option<ReadJournal>,
    /// What is wrong with the journal, or where the run is, for people.
    pub(super) damage: Option<String>,
}

/// The outcome for the processes that a run had left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Leftovers {
    /// The processes that were found and killed.
    pub(super) killed: Killed,
    /// How many of them could not be killed.
    pub(super) alive: usize,
    /// How many processes kept the search waiting, and were not examined.
    pub(super) unread: usize,
    /// How many processes carry the run's cookie and were left alone, because they see another directory at its path.
    pub(super) spared: usize,
}

/// The world.
pub(super) trait Shims {
    /// Creates the run's directory, starts its shim, hands it `spec` and listens to it from now on.
    fn launch(&mut self, spec: &LaunchSpec) -> io::Result<ConnectionNumber>;
    /// Connects to the shim of a run that lives.
    fn connect(&mut self, run_id: i64) -> io::Result<ConnectionNumber>;
    /// Says something to the shim that is connected.
    fn send(&mut self, command: &Command) -> io::Result<()>;
    /// Lets go of the connection, if there is one.
    fn disconnect(&mut self);
    /// Looks what there is of a run.
    fn find(&self, run_id: i64) -> io::Result<Finding>;
    /// What a user can do about a run whose shim does not answer, for health to say.
    fn advice_on_silence(&self, run_id: i64) -> String;
    /// How far a run is, as its shim stored it last.
    fn progress(&self, run_id: i64) -> Result<Option<NumberedProgress>, ProgressError>;
    /// The runs that have a directory, ascending.
    fn run_ids(&self) -> io::Result<Vec<i64>>;
    /// Whether there is a directory with this run's name, or anything else, or a process that claims to be its shim.
    fn has_run(&self, run_id: i64) -> bool;
    /// The latest run that has a directory, or had one.
    fn latest_run_id(&self) -> io::Result<Option<i64>>;
    /// The position after the last byte of any log.
    fn log_end(&self) -> io::Result<u64>;
    /// Kills whatever carries the run's cookie or is in its control group, and removes that group.
    fn kill_leftovers(&self, run_id: i64) -> io::Result<Leftovers>;
    /// Takes the PAUSE file away, if it is there.
    fn remove_pause_file(&self) -> io::Result<()>;
}
