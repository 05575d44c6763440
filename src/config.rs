//! The settings that the owner can change, with their sources and checks. The sources are flags, then the environment, then a
//! `.env` file, then defaults.
//!
//! Level 0, pure: `cli` passes in the environment, the text of the `.env` file and the working directory. This module does not
//! check whether a folder exists or a port is free. An empty value counts as unset; a wrong value is an error that names its
//! variable. The table of settings is in `config/settings.rs`.

mod dotenv;
mod endpoint;
mod setting;
mod settings;
mod sources;
mod token;
mod values;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::dotenv::parse_dotenv;
pub use self::endpoint::{Endpoint, Folder};
pub use self::setting::{ConfigError, Flag};
use self::setting::{Given, Source, is_shared};
pub use self::settings::{DATABASE_DEFAULT, SOCKET_DEFAULT};
pub(crate) use self::settings::{SETTINGS, URL_SETTING, is_for_server_only};
use self::sources::{Sources, in_folder, names_from};
pub use self::sources::{refuse_guarded, trusted_groups};
pub use self::token::{FoundToken, FoundTokens, Origin, Token, Tokens};
pub use self::values::{GRACE_S_MAX, OnTerm, grace_from_text, server_url};

/// One MiB in bytes.
const MIB: u64 = 1024 * 1024;

/// All settings, checked. Relative paths are relative to the working directory, so all paths are absolute if that path is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting, or where one comes from")]
pub struct Config {
    /// The addresses to listen on, at least one.
    pub hosts: Vec<IpAddr>,
    /// The port to listen on; 0 lets the kernel pick one.
    pub port: u16,
    /// The Unix socket to listen on; `None` if it is switched off.
    pub socket: Option<PathBuf>,
    /// True if a flag or the environment names it. Otherwise it must be inside [`Self::folder`] or [`Self::runtime_dir`].
    pub is_socket_named: bool,
    /// The working directory, which contains the `.env` file.
    pub folder: PathBuf,
    /// The directory of everything that is written at run time.
    pub runtime_dir: PathBuf,
    /// True if a flag or the environment names it. Otherwise it must be inside [`Self::folder`].
    pub is_runtime_dir_named: bool,
    /// The database file.
    pub database: PathBuf,
    /// True if a flag or the environment names it. Otherwise it must be inside [`Self::folder`] or [`Self::runtime_dir`].
    pub is_database_named: bool,
    /// The root: the folder that contains scripts and their working directories.
    pub pipeline_root: PathBuf,
    /// The script of a start that names none, relative to [`Self::pipeline_root`] or absolute.
    pub pipeline_script: Option<String>,
    /// Origins of other pages that may use the API, each as a browser sends it: lower case, without a default port.
    pub allow_origins: Vec<String>,
    /// Names, other than those of loopback, by which a client may call this server. They are in lower case and have no port.
    pub allow_hosts: Vec<String>,
    /// The tokens that were set. If there is one, every TCP listener requires a token.
    pub tokens: Tokens,
    /// Whether a run gets its own control group if this user can create one.
    pub uses_cgroups: bool,
    /// Whether the values of the variables that a start sets are kept with the run, in addition to their names.
    pub keeps_env_values: bool,
    /// How often a run's shim samples what the run uses; zero means never.
    pub usage_every: Duration,
    /// What happens to the run when the server is asked to exit.
    pub on_term: OnTerm,
    /// The time from TERM to KILL for a start that names none.
    pub grace: Duration,
    /// The size at which a log segment ends.
    pub log_segment_bytes: u64,
    /// The limit for one run's log, at least one segment. Beyond it, the oldest segments are removed.
    pub log_run_bytes: u64,
    /// The limit for the logs of all runs, at least that of one run. Beyond it, the oldest segments are removed.
    pub log_total_bytes: u64,
    /// How much of the disk is kept free by removing the oldest segments. With 0, no segment is removed for that; `None` means
    /// a share of the disk.
    pub disk_free_bytes: Option<u64>,
    /// The number of runs that the history keeps, at least one.
    pub runs_keep: u64,
    /// How long the history keeps runs that have ended; `None` means for ever.
    pub runs_keep_for: Option<Duration>,
    /// The environment variables with shared names from which a setting was taken: `PORT`, `DATABASE_URL`. They were meant for
    /// the server, so its pipelines do not inherit them.
    pub taken_vars: Vec<&'static str>,
    /// The settings that were taken from each source, one sentence a source. Flags are not included, because they are visible
    /// on the command line.
    pub taken: Vec<String>,
    /// The settings that were found and ignored, one sentence each, for the server's log.
    pub notes: Vec<String>,
}

impl Config {
    /// Returns the settings in force.
    ///
    /// `flags` are those of the command line, `env` looks up a variable, `dotenv` is the result of [`parse_dotenv`], and `cwd`
    /// is the working directory.
    pub fn resolve(
        flags: &[Flag],
        env: impl Fn(&str) -> Option<OsString>,
        dotenv: &[(String, OsString)],
        cwd: &Path,
    ) -> Result<Self, ConfigError> {
        let sources = Sources { flags, env, dotenv };
        let port = sources.value(&settings::PORT)?;
        let hosts = sources.value(&settings::HOST)?;
        let runtime_dir = sources.runtime_dir(cwd)?;
        let log_segment_mb = sources.value(&settings::LOG_SEGMENT)?;
        let log_run_mb = sources.room(&settings::LOG_RUN, log_segment_mb, "a segment takes")?;
        let foreign = sources.candidates(&settings::DATABASE.setting).take_while(Given::is_foreign);
        let set = || SETTINGS.iter().filter_map(|setting| sources.set(setting));
        let taken_vars = set().filter(|given| given.source == Source::Environment).map(|given| given.name);
        let places =
            [(Source::Dotenv, cwd.join(".env").display().to_string()), (Source::Environment, "the environment".to_owned())];
        let taken = places.into_iter().map(|(source, place)| (names_from(set(), source), place));
        Ok(Self {
            hosts,
            port,
            socket: sources.socket(&runtime_dir, cwd)?,
            is_socket_named: sources.is_named(&settings::SOCKET.setting),
            database: match sources.optional(&settings::DATABASE)? {
                Some(path) => in_folder(cwd, &path),
                None => runtime_dir.join(DATABASE_DEFAULT),
            },
            folder: in_folder(cwd, Path::new("")),
            runtime_dir,
            is_runtime_dir_named: sources.is_named(&settings::RUNTIME_DIR.setting),
            is_database_named: sources.is_named(&settings::DATABASE.setting),
            pipeline_root: in_folder(cwd, &sources.optional(&settings::ROOT)?.unwrap_or_default()),
            pipeline_script: sources.optional(&settings::SCRIPT)?,
            allow_origins: sources.optional(&settings::ALLOW_ORIGIN)?.unwrap_or_default(),
            allow_hosts: sources.optional(&settings::ALLOW_HOST)?.unwrap_or_default(),
            tokens: sources.tokens()?,
            uses_cgroups: sources.value(&settings::CONTAINMENT)?,
            keeps_env_values: sources.value(&settings::KEEP_ENV)?,
            usage_every: Duration::from_secs(sources.value(&settings::USAGE)?),
            on_term: sources.optional(&settings::ON_TERM)?.unwrap_or(OnTerm::Auto),
            grace: sources.value(&settings::GRACE)?,
            log_segment_bytes: log_segment_mb * MIB,
            log_run_bytes: log_run_mb * MIB,
            log_total_bytes: sources.room(&settings::LOG_TOTAL, log_run_mb, "one run's log may take")? * MIB,
            disk_free_bytes: sources.optional(&settings::DISK_FREE)?.map(|mb| mb * MIB),
            runs_keep: sources.value(&settings::RUNS_KEEP)?,
            runs_keep_for: sources.optional(&settings::RUNS_KEEP_DAYS)?.map(|days| Duration::from_secs(days * 24 * 60 * 60)),
            taken_vars: taken_vars.filter(|name| is_shared(name)).collect(),
            taken: taken
                .filter(|(names, _)| !names.is_empty())
                .map(|(names, place)| format!("settings from {place}: {names}"))
                .collect(),
            notes: foreign
                .map(|given| {
                    let (name, place) = (given.name, if given.source == Source::Dotenv { ".env" } else { "the environment" });
                    format!("{name} in {place} is not used: its value is not sqlite:<path>, so it is meant for another program")
                })
                .collect(),
        })
    }

    /// Replaces the runtime directory, and the paths of the files in it, with the path without links. Returns the earlier path.
    pub fn move_to(&mut self, runtime_dir: &Path) -> PathBuf {
        let given = std::mem::replace(&mut self.runtime_dir, runtime_dir.to_owned());
        let moved = |path: &Path| path.strip_prefix(&given).ok().map(|name| runtime_dir.join(name));
        self.database = moved(&self.database).unwrap_or_else(|| self.database.clone());
        self.socket = self.socket.take().map(|path| moved(&path).unwrap_or(path));
        given
    }
}

#[cfg(test)]
mod tests;
