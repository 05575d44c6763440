//! The settings of the supervisor.

use std::path::PathBuf;
use std::time::Duration;

/// The part of the configuration that the life cycle needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory of `runs/` and the PAUSE file; absolute and without links, because it is part of the cookie.
    pub runtime_dir: PathBuf,
    /// The directory of the scripts; absolute. It may be a link, which each start resolves again.
    pub root: PathBuf,
    /// The script of a start that names none.
    pub default_script: Option<String>,
    /// The default time from TERM to KILL.
    pub grace: Duration,
    /// Whether a run gets a control group if possible.
    pub uses_cgroups: bool,
    /// Whether the values of a start's own variables are kept with the run, in addition to their names.
    pub keeps_env_values: bool,
    /// The interval at which a run's shim measures the resource usage; zero for never.
    pub usage_every: Duration,
    /// The core dump limit for pipelines, in bytes; `None` means unlimited. The server's and the shims' own limit is lower.
    pub core_bytes_max: Option<u64>,
    /// The size at which a log segment is closed, in bytes.
    pub log_segment_bytes: u64,
    /// The size of a run's segments above which the oldest is removed, in bytes.
    pub log_run_bytes: u64,
    /// Environment variables with shared names from which the server took a setting. No pipeline gets them.
    pub taken_vars: Vec<&'static str>,
}
