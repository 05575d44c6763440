//! The table of settings. It defines each name, flag, type, default, range and help text once.
//!
//! Level 0, pure. It generates the flags and help of the command line, the names that are read from the environment and `.env`,
//! the variables that a pipeline does not inherit, and the table in the README, which a test compares. To add a setting, add a
//! row, and a field to `Config`.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::setting::Default::{InRuntimeDir, Value, Words};
use super::setting::{ConfigError, Given, Setting, Source, Typed, is_shared};
use super::token::Token;
use super::values::{self, OnTerm};

/// The name of the database in the runtime directory when none is set.
pub const DATABASE_DEFAULT: &str = "autoappdev.db";
/// The name of the Unix socket in the runtime directory when none is set.
pub const SOCKET_DEFAULT: &str = "server.sock";
/// The runtime directory when none is set.
pub(super) const RUNTIME_DIR_DEFAULT: &str = "runtime";

/// The commands that have a flag: those that read all settings, or those that open the database. `--url` is defined with the
/// client commands.
const SERVE: &[&str] = &["serve"];
const STORAGE: &[&str] = &["serve", "migrate", "check"];
const CLIENT: &[&str] = &[];

macro_rules! settings {
    ($($id:ident: $type:ty = $parse:expr, $names:expr, $default:expr, $help:expr $(, $column:ident: $value:expr)*;)*) => {
        $(pub(super) static $id: Typed<$type> = Typed {
            setting: Setting { names: &$names, default: $default, help: $help, $($column: $value,)* ..Setting::USUAL },
            parse: $parse,
        };)*

        /// All settings.
        pub(crate) static SETTINGS: &[&Setting] = &[$(&$id.setting),*];

        /// The first name of each setting.
        #[cfg(test)]
        pub(super) mod names {
            $(pub(in crate::config) const $id: &str = $names[0];)*
        }
    };
}

// Each row: type, parser, names, default; help; columns that differ from the usual ones.
settings! {
    HOST: Vec<IpAddr> = addresses, ["AUTOAPPDEV_HOST"], Value("127.0.0.1"),
        "The addresses to listen on, comma-separated (`127.0.0.1,::1`); `0.0.0.0` is every address of this machine. If one is beyond \
         loopback, clients need a token",
        flag: Some(("--host", "ADDRESS", SERVE)), is_guarded: true;
    PORT: u16 = |given| given.parsed(values::port), ["AUTOAPPDEV_PORT", "PORT"], Value("8788"),
        "The port to listen on; `0` lets the kernel pick one",
        flag: Some(("--port", "PORT", SERVE)), is_guarded: true,
        is_foreign: |given| given.source == Source::Dotenv && given.parsed(values::port).is_err();
    SOCKET: Option<PathBuf> = |given| if given.value == "off" { Ok(None) } else { given.path().map(Some) },
        ["AUTOAPPDEV_SOCKET"], InRuntimeDir(SOCKET_DEFAULT),
        "A Unix socket that only this user and root can reach, and that client commands use by default; `off`: no socket. \
         `.env` can name it only inside the folder or the runtime directory",
        is_guarded: true;
    RUNTIME_DIR: PathBuf = Given::path, ["AUTOAPPDEV_RUNTIME_DIR"], Value(RUNTIME_DIR_DEFAULT),
        "The directory of everything that is written at run time: database, logs, runs. Only its owner can read the files. One server at \
         a time owns it",
        flag: Some(("--runtime-dir", "DIR", STORAGE)), is_for_pipelines: true, is_guarded: true;
    DATABASE: PathBuf = Given::database, ["DATABASE_URL"], InRuntimeDir(DATABASE_DEFAULT),
        "The database: `sqlite:<path>`, or, as a flag, a path. One file belongs to one runtime directory. If the variable has the URL of \
         another kind of database (`postgres:…`), it is ignored, with a note in the server's log",
        flag: Some(("--database", "FILE", STORAGE)), is_foreign: is_database_of_another_program, is_guarded: true;
    ROOT: PathBuf = Given::path, ["AUTOAPPDEV_PIPELINE_CWD"], Words("the working directory"),
        "The root: scripts and their working directories must be inside it. A link is resolved again at each start",
        flag: Some(("--root", "DIR", SERVE)), is_guarded: true;
    SCRIPT: String = |given| given.text().map(str::to_owned), ["AUTOAPPDEV_PIPELINE_SCRIPT"], Words("none"),
        "The script that a start runs when it names none, relative to the root",
        flag: Some(("--script", "SCRIPT", SERVE));
    ALLOW_ORIGIN: Vec<String> = |given| given.list(values::origin), ["AUTOAPPDEV_ALLOW_ORIGIN"], Words("none"),
        "The origins (comma-separated, exact) whose web pages may use the API",
        is_guarded: true;
    ALLOW_HOST: Vec<String> = |given| given.list(values::host_name), ["AUTOAPPDEV_ALLOW_HOST"], Words("none"),
        "More host names (comma-separated) that requests may use for this server. Loopback names are always allowed; beyond \
            loopback, IP addresses and the names of this machine are allowed too",
        is_guarded: true;
    TRUSTED_GROUPS: Vec<String> = |given| given.list(|name| Ok(name.to_owned())), ["AUTOAPPDEV_TRUSTED_GROUPS"], Words("none"),
        "Groups (comma-separated, names from `/etc/group` or numbers) that may write to directories above the runtime directory, the \
         database and the socket. Every member can then act as you. Server and client commands need the same value",
        is_in_dotenv: false, is_for_pipelines: true;
    TOKEN: Token = Given::token, ["AUTOAPPDEV_TOKEN"], Words("`token` in the runtime directory, where clients need one"),
        "The token of operators, who can read and act: at least 16 characters without blanks. If it is set, loopback needs it too",
        is_secret: true, is_guarded: true;
    READ_TOKEN: Token = Given::token, ["AUTOAPPDEV_READ_TOKEN"], Words("`read-token`, likewise"),
        "The token of viewers, who can only read",
        is_secret: true, is_guarded: true;
    CONTAINMENT: bool = |given| given.parsed(values::uses_cgroups), ["AUTOAPPDEV_CONTAINMENT"], Value("auto"),
        "`auto`: a run gets its own control group if this user can create one; `tree`: never";
    KEEP_ENV: bool = |given| given.parsed(values::keeps_env_values), ["AUTOAPPDEV_KEEP_ENV"], Value("names"),
        "How the variables that a start sets (`env`) are kept, so that the start can be repeated. `names`: only their names; `values`: the values \
         too, which can be secrets, in a file of the run that only its owner can read",
        is_guarded: true;
    USAGE: u64 = |given| given.number("a number of seconds: a whole number"), ["AUTOAPPDEV_USAGE_S"], Value("10"),
        "How often the CPU time and memory of a run's processes are sampled and stored, in seconds; `0`: never",
        range: (0, 3600);
    ON_TERM: OnTerm = |given| given.parsed(values::on_term),
        ["AUTOAPPDEV_ON_TERM"], Words("`leave`; `stop` if the server is process 1, or runs under tini or a similar init"),
        "What happens to the run when the server is asked to exit. `leave`: it keeps running; `stop`: the server first stops it, with the \
         run's own grace";
    GRACE: Duration = |given| given.parsed(values::grace_from_text), ["AUTOAPPDEV_GRACE_S"], Value("10"),
        "Seconds from TERM to KILL when a stop does not give them",
        range: (0, values::GRACE_MAX as u64);
    LOG_SEGMENT: u64 = |given| given.number(values::MEGABYTES), ["AUTOAPPDEV_LOG_SEGMENT_MB"], Value("16"),
        "The size of one file of a run's log, in MiB",
        range: (1, 1024);
    LOG_RUN: u64 = |given| given.number(values::MEGABYTES), ["AUTOAPPDEV_LOG_RUN_MB"], Value("256"),
        "How much of one run's log is kept, in MiB, at least one file of it; the oldest files are removed first",
        range: (1, 1024 * 1024);
    LOG_TOTAL: u64 = |given| given.number(values::MEGABYTES), ["AUTOAPPDEV_LOG_TOTAL_MB"], Value("1024"),
        "The same for the logs of all runs together, at least one run's",
        range: (1, 16 * 1024 * 1024);
    DISK_FREE: u64 = |given| given.number(values::MEGABYTES), ["AUTOAPPDEV_DISK_FREE_MB"], Words("15% of the disk, at most `4096`"),
        "How much disk space the logs leave free, in MiB: the oldest log files are removed first, and the newest are kept; `0` \
            turns this \
         limit off",
        range: (0, 16 * 1024 * 1024);
    RUNS_KEEP: u64 = |given| given.number("a number of runs: a whole number"), ["AUTOAPPDEV_RUNS_KEEP"], Value("1000"),
        "How many runs the history keeps, each with its log; the oldest are removed first",
        range: (1, 1_000_000);
    RUNS_KEEP_DAYS: u64 = |given| given.number("a number of days: a whole number"), ["AUTOAPPDEV_RUNS_KEEP_DAYS"], Words("for ever"),
        "How many days a run is kept after its end; the latest run is always kept",
        range: (1, 36_500);
    URL: String = |given| given.parsed(values::server_url), ["AUTOAPPDEV_URL"], Words("the server of this folder"),
        "The server that client commands use, as `http://HOST:PORT`",
        flag: Some(("--url", "URL", CLIENT)), is_in_dotenv: false, is_for_pipelines: true;
}

/// The setting of the flag that client commands have in addition to their own.
pub(crate) static URL_SETTING: &Setting = &URL.setting;

/// Returns every name that is read from the environment or a `.env` file.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().flat_map(|setting| setting.names).copied()
}

/// Checks whether a variable is only for the server, so that its pipelines do not inherit it.
pub(crate) fn is_for_server_only(name: &OsStr) -> bool {
    let settings = SETTINGS.iter().filter(|setting| !setting.is_for_pipelines);
    settings.flat_map(|setting| setting.names).any(|&own| !is_shared(own) && name == own)
}

/// Parses the addresses to listen on, at least one.
fn addresses(given: &Given) -> Result<Vec<IpAddr>, ConfigError> {
    let hosts = given.list(values::host)?;
    if hosts.is_empty() { Err(given.wrong("names no address")) } else { Ok(hosts) }
}

/// Checks whether a value is meant for another program.
///
/// In a `.env` file, which belongs to the project, this is every value that is not clearly ours. In the environment, it is the
/// URL of another kind of database. A path without a scheme, or an unusable `SQLite` file, is an error that the user must see.
fn is_database_of_another_program(given: &Given) -> bool {
    if given.source == Source::Dotenv {
        return given.database().is_err();
    }
    let text = given.value.to_string_lossy();
    values::scheme(&text).is_some_and(|scheme| !["sqlite", "sqlite3"].contains(&scheme.to_ascii_lowercase().as_str()))
}
