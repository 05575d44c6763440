//! What the owner can set, and what is right: flags, then the environment, then a `.env` file, then defaults.
//!
//! Level 0, pure: the environment, the `.env` file's text and the working directory are handed in by `cli`. Whether a folder
//! exists or a port is free is not asked here. An empty value counts as unset; a wrong one is an error that names its variable.

use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod dotenv;
mod endpoint;
mod token;
mod values;

pub use dotenv::parse_dotenv;
pub use endpoint::{Endpoint, Folder};
pub use token::Token;
pub use values::{grace_from_text, server_url};

/// The database's name in the runtime directory where nobody names another.
pub const DATABASE_DEFAULT: &str = "autoappdev.db";

/// The port when none is set.
pub const PORT_DEFAULT: u16 = 8788;
/// The name of the Unix socket in the runtime directory when none is set.
pub const SOCKET_DEFAULT: &str = "server.sock";
/// The time from TERM to KILL when none is set.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(10);
/// The longest time from TERM to KILL, in seconds.
pub const GRACE_S_MAX: f64 = 3600.0;
/// The largest size of one log segment, in MiB.
pub const LOG_SEGMENT_MB_MAX: u64 = 1024;
/// The largest room that can be given to one run's log, in MiB.
pub const LOG_RUN_MB_MAX: u64 = 1024 * 1024;
/// The largest room that can be given to all logs, in MiB.
pub const LOG_TOTAL_MB_MAX: u64 = 16 * 1024 * 1024;
/// The most of the disk that can be kept free, in MiB.
pub const DISK_FREE_MB_MAX: u64 = 16 * 1024 * 1024;
/// How many runs are kept when nothing is set.
pub const RUNS_KEEP_DEFAULT: u64 = 1000;
/// The most runs that can be kept.
pub const RUNS_KEEP_MAX: u64 = 1_000_000;
/// The longest time for which runs can be kept, in days.
pub const RUNS_KEEP_DAYS_MAX: u64 = 36_500;
/// One MiB in bytes.
const MIB: u64 = 1024 * 1024;

const HOST: &str = "AUTOAPPDEV_HOST";
const PORT: &str = "AUTOAPPDEV_PORT";
const PORT_ALIAS: &str = "PORT";
const SOCKET: &str = "AUTOAPPDEV_SOCKET";
const RUNTIME_DIR: &str = "AUTOAPPDEV_RUNTIME_DIR";
const DATABASE_URL: &str = "DATABASE_URL";
const ROOT: &str = "AUTOAPPDEV_PIPELINE_CWD";
const SCRIPT: &str = "AUTOAPPDEV_PIPELINE_SCRIPT";
const ALLOW_ORIGIN: &str = "AUTOAPPDEV_ALLOW_ORIGIN";
const ALLOW_HOST: &str = "AUTOAPPDEV_ALLOW_HOST";
const TOKEN: &str = "AUTOAPPDEV_TOKEN";
const READ_TOKEN: &str = "AUTOAPPDEV_READ_TOKEN";
const CONTAINMENT: &str = "AUTOAPPDEV_CONTAINMENT";
const ON_TERM: &str = "AUTOAPPDEV_ON_TERM";
const GRACE: &str = "AUTOAPPDEV_GRACE_S";
const LOG_SEGMENT: &str = "AUTOAPPDEV_LOG_SEGMENT_MB";
const LOG_RUN: &str = "AUTOAPPDEV_LOG_RUN_MB";
const LOG_TOTAL: &str = "AUTOAPPDEV_LOG_TOTAL_MB";
const DISK_FREE: &str = "AUTOAPPDEV_DISK_FREE_MB";
const RUNS_KEEP: &str = "AUTOAPPDEV_RUNS_KEEP";
const RUNS_KEEP_DAYS: &str = "AUTOAPPDEV_RUNS_KEEP_DAYS";
const URL: &str = "AUTOAPPDEV_URL";

/// What an error shows in place of a token.
const HIDDEN: &str = "…";

/// Settings that a process of a pipeline can use: where its run's files are, and which server a client command uses.
pub const NAMES_FOR_PIPELINES: &[&str] = &[RUNTIME_DIR, URL];

/// Every name that is read from the environment or a `.env` file.
pub const NAMES: &[&str] = &[
    HOST,
    PORT,
    PORT_ALIAS,
    SOCKET,
    RUNTIME_DIR,
    DATABASE_URL,
    ROOT,
    SCRIPT,
    ALLOW_ORIGIN,
    ALLOW_HOST,
    TOKEN,
    READ_TOKEN,
    CONTAINMENT,
    ON_TERM,
    GRACE,
    LOG_SEGMENT,
    LOG_RUN,
    LOG_TOTAL,
    DISK_FREE,
    RUNS_KEEP,
    RUNS_KEEP_DAYS,
    URL,
];

/// A setting that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A flag's or variable's value is wrong.
    #[error("{name}={value} {problem}")]
    Value {
        /// The flag or variable as the owner wrote it, `AUTOAPPDEV_PORT` or `--port`.
        name: &'static str,
        /// The value, made printable, with what may be a password left out; ends in `(in .env)` where it came from there.
        value: String,
        /// What is wrong with it and what is expected, to be read after the value.
        problem: String,
    },
    /// The `.env` file has a line that is no assignment.
    #[error("line {line} of .env {problem}")]
    Dotenv {
        /// The line's number, from 1.
        line: usize,
        /// What is wrong with it, to be read after the line.
        problem: &'static str,
    },
}

/// What the command line of `serve` sets, as it was typed; `None` where a flag was not given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--host`
    pub host: Option<OsString>,
    /// `--port`
    pub port: Option<OsString>,
    /// `--runtime-dir`
    pub runtime_dir: Option<OsString>,
    /// `--database`: a path, or what `DATABASE_URL` takes.
    pub database: Option<OsString>,
    /// `--root`
    pub root: Option<OsString>,
    /// `--script`
    pub script: Option<OsString>,
}

/// Everything that can be set, checked. Relative paths were taken from the working directory: all are absolute where that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The addresses to listen on, at least one.
    pub hosts: Vec<IpAddr>,
    /// The port to listen on; 0 lets the kernel pick one.
    pub port: u16,
    /// The Unix socket to listen on; `None` where it is switched off.
    pub socket: Option<PathBuf>,
    /// The folder of everything that is written at run time.
    pub runtime_dir: PathBuf,
    /// The database file.
    pub database: PathBuf,
    /// The folder in which scripts and their working directories lie.
    pub pipeline_root: PathBuf,
    /// The script of a start that names none, relative to [`Self::pipeline_root`] or absolute.
    pub pipeline_script: Option<String>,
    /// Origins of other pages that may use the API, each as a browser sends it: lower case, without a default port.
    pub allow_origins: Vec<String>,
    /// Names beside loopback's by which a client may call this server, in lower case, without a port.
    pub allow_hosts: Vec<String>,
    /// The tokens that were set. Where one is, every TCP door asks for a token.
    pub tokens: Tokens,
    /// Whether a run gets a control group of its own where this user may make one.
    pub uses_cgroups: bool,
    /// What happens to the run when the server is asked to exit.
    pub on_term: OnTerm,
    /// From TERM to KILL for a start that names no other.
    pub grace: Duration,
    /// The size at which a log segment ends.
    pub log_segment_bytes: u64,
    /// The room for one run's log, never less than one segment; beyond it the oldest segments go.
    pub log_run_bytes: u64,
    /// The room for the logs of all runs, never less than that for one; beyond it the oldest segments go.
    pub log_total_bytes: u64,
    /// How much of the disk is kept free by removing the oldest segments; 0: nothing is removed for that; `None`: a share of the disk.
    pub disk_free_bytes: Option<u64>,
    /// How many runs the history keeps, at least one.
    pub runs_keep: u64,
    /// For how long it keeps those that have ended; `None`: for ever.
    pub runs_keep_for: Option<Duration>,
    /// Environment variables with names that other programs share and from which a setting was taken: `PORT`, `DATABASE_URL`. They were
    /// meant for the server, so they are not for its pipelines.
    pub taken: Vec<&'static str>,
    /// Settings that were found and ignored, one sentence each, for the server's log.
    pub notes: Vec<String>,
}

impl Config {
    /// The setting in force. `env` looks a variable up, `dotenv` is [`parse_dotenv`]'s answer, `cwd` is the working directory.
    pub fn resolve(
        flags: &Flags,
        env: impl Fn(&str) -> Option<OsString>,
        dotenv: &[(String, OsString)],
        cwd: &Path,
    ) -> Result<Self, ConfigError> {
        let sources = Sources { env, dotenv };
        let port = sources.port(flags.port.as_ref())?;
        let mut taken: Vec<&str> = sources.named_port(flags.port.as_ref()).iter().filter_map(Given::taken).collect();
        let hosts = sources.hosts(flags.host.as_ref())?;
        let runtime_dir = sources.runtime_dir(flags.runtime_dir.as_ref(), cwd)?;
        let socket = sources.socket(&runtime_dir, cwd)?;
        let mut notes = Vec::new();
        let database = match sources.named_database(flags.database.as_ref(), &mut notes) {
            Some(given) => {
                taken.extend(given.taken());
                in_folder(cwd, &given.database()?)
            }
            None => runtime_dir.join(DATABASE_DEFAULT),
        };
        let pipeline_root = match sources.given(("--root", flags.root.as_ref()), &[ROOT]) {
            Some(given) => in_folder(cwd, &given.path()?),
            None => in_folder(cwd, Path::new("")),
        };
        let pipeline_script = match sources.given(("--script", flags.script.as_ref()), &[SCRIPT]) {
            Some(given) => Some(given.text()?.to_owned()),
            None => None,
        };
        let allow_origins = sources.list(ALLOW_ORIGIN, values::origin)?;
        let allow_hosts = sources.list(ALLOW_HOST, values::host_name)?;
        let tokens = sources.tokens()?;
        let uses_cgroups = sources.variable(CONTAINMENT).map_or(Ok(true), |given| given.parsed(values::uses_cgroups))?;
        let on_term = sources.variable(ON_TERM).map_or(Ok(OnTerm::Auto), |given| given.parsed(values::on_term))?;
        let grace = sources.variable(GRACE).map_or(Ok(GRACE_DEFAULT), |given| given.parsed(grace_from_text))?;
        let segment_mb = sources
            .variable(LOG_SEGMENT)
            .map_or(Ok(16), |given| given.parsed(|text| values::megabytes(text, 1, LOG_SEGMENT_MB_MAX)))?;
        let run_mb = sources
            .variable(LOG_RUN)
            .map_or(Ok(segment_mb.max(256)), |given| given.parsed(|text| values::run_megabytes(text, segment_mb)))?;
        let total_mb = sources
            .variable(LOG_TOTAL)
            .map_or(Ok(run_mb.max(1024)), |given| given.parsed(|text| values::total_megabytes(text, run_mb)))?;
        let disk_free_mb = sources
            .variable(DISK_FREE)
            .map(|given| given.parsed(|text| values::megabytes(text, 0, DISK_FREE_MB_MAX)))
            .transpose()?;
        let runs_keep = sources
            .variable(RUNS_KEEP)
            .map_or(Ok(RUNS_KEEP_DEFAULT), |given| given.parsed(|text| values::count(text, "runs", RUNS_KEEP_MAX)))?;
        let keep_days = sources
            .variable(RUNS_KEEP_DAYS)
            .map(|given| given.parsed(|text| values::count(text, "days", RUNS_KEEP_DAYS_MAX)))
            .transpose()?;
        Ok(Self {
            hosts,
            port,
            socket,
            runtime_dir,
            database,
            pipeline_root,
            pipeline_script,
            allow_origins,
            allow_hosts,
            tokens,
            uses_cgroups,
            on_term,
            grace,
            log_segment_bytes: segment_mb * MIB,
            log_run_bytes: run_mb * MIB,
            log_total_bytes: total_mb * MIB,
            disk_free_bytes: disk_free_mb.map(|mb| mb * MIB),
            runs_keep,
            runs_keep_for: keep_days.map(|days| Duration::from_secs(days * 24 * 60 * 60)),
            taken,
            notes,
        })
    }
}

/// What happens to the run when the server is asked to exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTerm {
    /// It keeps running, unless the end of the server would kill it.
    Auto,
    /// It goes on.
    Leave,
    /// It is stopped first.
    Stop,
}

/// The tokens that somebody set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Who has it may look and act.
    pub token: Option<Token>,
    /// Who has it may look.
    pub read_token: Option<Token>,
}

impl Tokens {
    /// What a client command finds: as [`Config::resolve`] does.
    pub fn resolve(env: impl Fn(&str) -> Option<OsString>, dotenv: &[(String, OsString)]) -> Result<Self, ConfigError> {
        Sources { env, dotenv }.tokens()
    }

    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        self.token.is_some() || self.read_token.is_some()
    }
}

/// Where values come from beside the flags.
struct Sources<'a, E> {
    env: E,
    dotenv: &'a [(String, OsString)],
}

impl<E: Fn(&str) -> Option<OsString>> Sources<'_, E> {
    /// The first value that is set and not empty. A name goes through both sources before the next name: an alias never wins.
    fn given(&self, (flag, typed): (&'static str, Option<&OsString>), names: &[&'static str]) -> Option<Given> {
        if let Some(value) = typed.filter(|value| !value.is_empty()) {
            return Some(Given { name: flag, value: value.clone(), from_dotenv: false });
        }
        names.iter().find_map(|&name| self.variable(name))
    }

    fn variable(&self, name: &'static str) -> Option<Given> {
        self.in_environment(name).or_else(|| self.in_dotenv(name))
    }

    fn in_environment(&self, name: &'static str) -> Option<Given> {
        let value = (self.env)(name).filter(|value| !value.is_empty())?;
        Some(Given { name, value, from_dotenv: false })
    }

    fn in_dotenv(&self, name: &'static str) -> Option<Given> {
        let (_, value) = self.dotenv.iter().rev().find(|(key, _)| key == name)?;
        (!value.is_empty()).then(|| Given { name, value: value.clone(), from_dotenv: true })
    }

    fn port(&self, flag: Option<&OsString>) -> Result<u16, ConfigError> {
        self.named_port(flag).map_or(Ok(PORT_DEFAULT), |given| given.parsed(values::port))
    }

    fn named_port(&self, flag: Option<&OsString>) -> Option<Given> {
        self.given(("--port", flag), &[PORT]).or_else(|| self.port_alias())
    }

    /// Other programs also use the name `PORT`: in a `.env` file a value that is not a port belongs to them.
    fn port_alias(&self) -> Option<Given> {
        self.in_environment(PORT_ALIAS).or_else(|| self.in_dotenv(PORT_ALIAS).filter(|given| given.parsed(values::port).is_ok()))
    }

    /// The configured database; `None` if no setting of ours names one.
    fn named_database(&self, flag: Option<&OsString>, notes: &mut Vec<String>) -> Option<Given> {
        if let Some(given) = self.given(("--database", flag), &[]) {
            return Some(given);
        }
        for given in [self.in_environment(DATABASE_URL), self.in_dotenv(DATABASE_URL)].into_iter().flatten() {
            if !given.is_of_another_program() {
                return Some(given);
            }
            let place = if given.from_dotenv { ".env" } else { "the environment" };
            notes.push(format!(
                "{DATABASE_URL} in {place} is not used: its value is not sqlite:<path>, so it is meant for another program"
            ));
        }
        None
    }

    /// At least one.
    fn hosts(&self, flag: Option<&OsString>) -> Result<Vec<IpAddr>, ConfigError> {
        let Some(given) = self.given(("--host", flag), &[HOST]) else { return Ok(vec![Ipv4Addr::LOCALHOST.into()]) };
        let hosts = given.list(values::host)?;
        if hosts.is_empty() { Err(given.wrong("names no address")) } else { Ok(hosts) }
    }

    fn socket(&self, runtime_dir: &Path, cwd: &Path) -> Result<Option<PathBuf>, ConfigError> {
        match self.variable(SOCKET) {
            Some(given) if given.value == "off" => Ok(None),
            Some(given) => given.path().map(|path| Some(in_folder(cwd, &path))),
            None => Ok(Some(runtime_dir.join(SOCKET_DEFAULT))),
        }
    }

    fn tokens(&self) -> Result<Tokens, ConfigError> {
        let token = |name| self.variable(name).map(|given| given.token()).transpose();
        let tokens = Tokens { token: token(TOKEN)?, read_token: token(READ_TOKEN)? };
        if tokens.is_set() && tokens.token == tokens.read_token {
            let problem = format!("is the same as {TOKEN}: who may only look could act; set two different ones");
            return Err(ConfigError::Value { name: READ_TOKEN, value: HIDDEN.to_owned(), problem });
        }
        Ok(tokens)
    }

    fn runtime_dir(&self, flag: Option<&OsString>, cwd: &Path) -> Result<PathBuf, ConfigError> {
        match self.given(("--runtime-dir", flag), &[RUNTIME_DIR]) {
            Some(given) => Ok(in_folder(cwd, &given.path()?)),
            None => Ok(in_folder(cwd, Path::new("runtime"))),
        }
    }

    fn list(&self, name: &'static str, item: fn(&str) -> Result<String, String>) -> Result<Vec<String>, ConfigError> {
        self.variable(name).map_or(Ok(Vec::new()), |given| given.list(item))
    }
}

/// A value that somebody set, with what an error needs to name it.
struct Given {
    name: &'static str,
    value: OsString,
    from_dotenv: bool,
}

impl Given {
    /// The variable, if it is in the environment under a shared name.
    fn taken(&self) -> Option<&'static str> {
        [PORT_ALIAS, DATABASE_URL].into_iter().find(|&name| name == self.name && !self.from_dotenv)
    }

    fn text(&self) -> Result<&str, ConfigError> {
        self.value.to_str().ok_or_else(|| self.wrong("is not UTF-8"))
    }

    fn parsed<T>(&self, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        parse(self.text()?.trim()).map_err(|problem| self.wrong(problem))
    }

    /// A comma-separated list; blanks around an item and empty items do not count, and an item counts once.
    fn list<T: PartialEq>(&self, item: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, ConfigError> {
        let mut list = Vec::new();
        for text in self.text()?.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            let value = item(text).map_err(|problem| self.wrong_as(text, problem))?;
            if !list.contains(&value) {
                list.push(value);
            }
        }
        Ok(list)
    }

    /// A token. Its text is never repeated, right or wrong.
    fn token(&self) -> Result<Token, ConfigError> {
        let text = self.value.to_str().unwrap_or("\0");
        let place = if self.from_dotenv { " (in .env)" } else { "" };
        Token::new(text.trim()).map_err(|problem| ConfigError::Value {
            name: self.name,
            value: format!("{HIDDEN}{place}"),
            problem: problem.to_owned(),
        })
    }

    fn path(&self) -> Result<PathBuf, ConfigError> {
        // A flag cannot hold a NUL and a `.env` line with one is refused, but a caller's `env` is not known here.
        if self.value.as_bytes().contains(&0) { Err(self.wrong("contains a NUL")) } else { Ok(PathBuf::from(&self.value)) }
    }

    /// `DATABASE_URL`, or the flag, which takes a plain path too.
    fn database(&self) -> Result<PathBuf, ConfigError> {
        let bytes = self.value.as_bytes();
        let has_scheme = values::scheme(&self.value.to_string_lossy()).is_some();
        if let Some(rest) = bytes.strip_prefix(b"sqlite:") {
            values::sqlite_path(OsStr::from_bytes(rest)).map_err(|problem| self.wrong(problem))
        } else if has_scheme || self.name == DATABASE_URL {
            Err(self.wrong("is not a database this program can use: sqlite:<path> is expected"))
        } else {
            self.path()
        }
    }

    /// Whether a `DATABASE_URL` is meant for another program. In a `.env` file, which is the project's, this is every value that is not
    /// clearly ours. In the environment it is the URL of every other kind of database; a path without a scheme, or an unusable `SQLite` file, is
    /// an error that the user must see.
    fn is_of_another_program(&self) -> bool {
        if self.from_dotenv {
            return self.database().is_err();
        }
        let text = self.value.to_string_lossy();
        values::scheme(&text).is_some_and(|scheme| !["sqlite", "sqlite3"].contains(&scheme.to_ascii_lowercase().as_str()))
    }

    fn wrong(&self, problem: impl Into<String>) -> ConfigError {
        self.wrong_as(&self.value.to_string_lossy(), problem)
    }

    fn wrong_as(&self, shown: &str, problem: impl Into<String>) -> ConfigError {
        let place = if self.from_dotenv { " (in .env)" } else { "" };
        // What stands before an @ may be a password, and this text goes to logs.
        let shown = match shown.rsplit_once('@') {
            Some((_, after)) => format!("…@{after}"),
            None => shown.to_owned(),
        };
        let value = format!("{}{place}", shown.escape_debug());
        ConfigError::Value { name: self.name, value, problem: problem.into() }
    }
}

/// `path` as seen from `cwd`, without `.` and doubled slashes; `..` stays, since what it means depends on links.
fn in_folder(cwd: &Path, path: &Path) -> PathBuf {
    cwd.join(path).components().collect()
}

#[cfg(test)]
mod tests;
