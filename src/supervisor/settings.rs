//! What the supervisor needs to know of the configuration.

use std::path::PathBuf;
use std::time::Duration;

/// What the life cycle needs to know of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Holds `runs/` and the PAUSE file; absolute and without links, for it is part of the cookie.
    pub runtime_dir: PathBuf,
    /// Scripts lie in here; absolute. It may be a link, which each start resolves again.
    pub root: PathBuf,
    /// The script of a start that names none.
    pub default_script: Option<String>,
    /// From TERM to KILL where nobody says otherwise.
    pub grace: Duration,
    /// Whether a run gets a control group where one can be had.
    pub uses_cgroups: bool,
    /// Whether the values of a start's own variables are kept with the run, beside their names.
    pub keeps_env_values: bool,
    /// How often a run's shim looks at what the run uses; zero for never.
    pub usage_every: Duration,
    /// The core dump limit for pipelines, in bytes; `None` means unlimited. The server's and the shims' own limit is lower.
    pub core_bytes_max: Option<u64>,
    /// The size at which a log segment is closed, in bytes.
    pub log_segment_bytes: u64,
    /// The size of a run's segments above which the oldest goes, in bytes.
    pub log_run_bytes: u64,
    /// Environment variables with shared names from which the server took a setting. No pipeline gets them.
    pub taken_vars: Vec<&'static str>,
}
