//! What the supervisor needs to know of the configuration.

use std::path::PathBuf;
use std::time::Duration;

/// What the life cycle needs to know of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Holds `runs/` and the PAUSE file; absolute and without links, for it is half of the cookie.
    pub runtime_dir: PathBuf,
    /// Scripts lie in here; absolute. It may be a link, which each start resolves again.
    pub root: PathBuf,
    /// The script of a start that names none.
    pub default_script: Option<String>,
    /// From TERM to KILL where nobody says otherwise.
    pub grace: Duration,
    /// Whether a run gets a control group where one can be had.
    pub uses_cgroups: bool,
    /// The size at which a log segment is closed, in bytes.
    pub log_segment_bytes: u64,
    /// The size of a run's segments above which the oldest goes, in bytes.
    pub log_run_bytes: u64,
    /// What is kept of runs that have ended.
    pub retention: Retention,
    /// Environment variables with shared names from which the server took a setting. No pipeline gets them.
    pub taken_vars: Vec<&'static str>,
}

/// What is kept of runs that have ended, and of their logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The room for the logs of all runs, in bytes; beyond it the oldest segments go.
    pub log_bytes: u64,
    /// How many runs are kept, the latest one in any case.
    pub runs: usize,
    /// For how long after their end they are kept; none: for ever.
    pub ended_for: Option<Duration>,
    /// How much of the disk is kept free by removing the oldest segments, in bytes; none: a share of it; 0: no limit.
    pub disk_free_bytes: Option<u64>,
}
