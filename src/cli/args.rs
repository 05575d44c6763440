//! Commands, flags and help of the command line.
//!
//! A flag of `serve` is kept as it was typed. `config` checks its value in the same way as that of the variable.

use std::env::VarError;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::exit_code::EXIT_CODES;
use super::since::Since;
use crate::api::logs::{GREP_BYTES_MAX, LINES_MAX, Source, StreamName};
use crate::api::pipeline::IDEMPOTENCY_KEY_CHARS_MAX;
use crate::config::{Flag, SETTINGS, URL_SETTING, grace_from_text, server_url};

const FINDING: &str = "\
A client command acts on the server of this folder: the one that owns the runtime directory (AUTOAPPDEV_RUNTIME_DIR) and has recorded \
its address in server.json there. To use another server, name it with --url, or in the environment with AUTOAPPDEV_URL or, if no server \
of this folder runs, with AUTOAPPDEV_SOCKET, AUTOAPPDEV_PORT or AUTOAPPDEV_HOST. A .env file and the default port do not name a server. \
A token from the environment (AUTOAPPDEV_TOKEN or AUTOAPPDEV_READ_TOKEN) is sent to a server that you named; the server of this folder is \
also sent one from .env or the runtime directory, once it has proved that it owns that directory. Before that, no command sends \
it a request that changes anything.";

const SETTINGS_FROM: &str = "\
Settings come from flags, then the environment, then a .env file in this folder, in which other programs' lines are ignored. \
These have no flag:";

const LOGS_HELP: &str = "\
Examples:
  autoappdev logs -f                       the latest lines, then new ones as they arrive
  autoappdev logs --since 10m --grep error what went wrong in the last ten minutes
  autoappdev logs --since 'yesterday 14:00'   lines since that local time
  autoappdev logs --run 7 --lines all      all stored lines of run 7
  autoappdev logs -f --run 7               until run 7 has ended; then it exits with 0, however the run ended

On a terminal, only text and colours are printed: other control characters and sequences are shown as escapes (\\u{1b}), and of a line that was \
overwritten with carriage returns only the last version is shown. Files and pipes get the lines exactly as the pipeline wrote them, and so does \
a terminal with --raw. Notes go to stderr: that the connection to the server was lost or is back, and how many bytes of the log are missing \
(the oldest are removed when a limit is reached).

--since counts back from the server's clock. A time without a zone is in the local time zone (TZ, else /etc/localtime). A time that occurs twice \
because clocks are set back means the first of the two; a time that is skipped means the moment at which clocks are set forward.";

/// Returns the exit codes, and how a command finds its server.
fn after_help() -> String {
    let codes = EXIT_CODES.map(|(code, meaning)| format!("  {code}  {meaning}\n")).concat();
    format!("Exit codes:\n{codes}\n{FINDING}")
}

/// Returns the definition of the command line: the derived one, and flags from the table of settings.
pub(super) fn definition() -> clap::Command {
    let commands = ["serve", "migrate", "check"].into_iter();
    commands.fold(Cli::command(), |definition, name| definition.mut_subcommand(name, |command| command.defer(with_flags)))
}

fn with_flags(command: clap::Command) -> clap::Command {
    let name = command.get_name().to_owned();
    let command = if name == "serve" { command.after_help(variables_help()) } else { command };
    command.args(SETTINGS.iter().filter_map(|setting| {
        let (flag, word, _) = setting.flag.filter(|(.., commands)| commands.contains(&&*name))?;
        let arg = Arg::new(flag).long(flag.trim_start_matches('-')).value_name(word).help(setting.help());
        Some(arg.value_parser(clap::value_parser!(OsString)))
    }))
}

/// Returns the help for the settings that have no flag.
fn variables_help() -> String {
    let variables = SETTINGS.iter().filter(|setting| setting.flag.is_none());
    let variables = variables.map(|setting| format!("\n  {}\n          {}", setting.names.join(", "), setting.help()));
    format!("{SETTINGS_FROM}{}", variables.collect::<String>())
}

/// Parses the arguments, and returns the values of the flags that set a setting.
pub(super) fn parse(args: &[OsString]) -> Result<(Cli, Vec<Flag>), clap::Error> {
    let matches = definition().try_get_matches_from(args)?;
    let typed = |(flag, ..): (&'static str, _, _)| {
        let value = matches.subcommand()?.1.try_get_one::<OsString>(flag).ok()??;
        Some((flag, value.clone()))
    };
    let settings = SETTINGS.iter().filter_map(|setting| setting.flag.and_then(typed)).collect();
    Ok((Cli::from_arg_matches(&matches)?, settings))
}

/// Controls one long-running pipeline script: start, pause, resume, stop
#[derive(Debug, Parser)]
#[command(name = "autoappdev", version, after_help = after_help())]
pub(super) struct Cli {
    /// Print the API's JSON, one document a line, with control characters as \u escapes
    #[arg(long, global = true, display_order = 100)]
    pub(super) json: bool,
    #[arg(long, global = true, value_name = "URL", value_parser = server_url, help = URL_SETTING.help(), display_order = 101)]
    pub(super) url: Option<String>,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

impl Cli {
    /// Returns a given flag that the command does not use, and the command's name.
    pub(super) fn unused_flag(&self) -> Option<(&'static str, &'static str)> {
        let flag = |is_typed: bool, name| is_typed.then_some(name);
        let (json, url) = (flag(self.json, "--json"), flag(self.url.is_some(), "--url"));
        match &self.command {
            None => json.or(url).map(|flag| (flag, "")),
            Some(Command::Serve) => json.or(url).map(|flag| (flag, "serve")),
            Some(Command::Shim { .. }) => json.or(url).map(|flag| (flag, "shim")),
            Some(Command::Migrate) => url.map(|flag| (flag, "migrate")),
            Some(Command::Check) => url.map(|flag| (flag, "check")),
            Some(Command::Ask(_) | Command::Pair(_)) => None,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the server
    Serve,
    #[command(flatten)]
    Ask(Ask),
    /// Print a link and a QR code that log a phone in, once, within ten minutes
    Pair(PairArgs),
    /// Bring the database's schema up to date
    Migrate,
    /// Check that the database is whole and can be written
    Check,
    /// Stand between the server and one run; the server starts this by itself
    #[command(hide = true)]
    Shim {
        /// The run's directory
        dir: PathBuf,
    },
}

/// A request to a running server.
#[derive(Debug, Subcommand)]
pub(super) enum Ask {
    /// Show the pipeline's state and since when it lasts
    Status,
    /// Start the pipeline
    Start(StartArgs),
    /// Start a run again: with its script, arguments, folder, variables and grace
    Restart(RestartArgs),
    /// Pause every process of the pipeline
    Pause(KeyArgs),
    /// Continue a paused pipeline
    Resume(KeyArgs),
    /// Stop the pipeline: TERM, then after the grace period KILL, until no process is left
    Stop(StopArgs),
    /// Print the pipeline's latest output
    Logs(LogsArgs),
    /// List the runs, newest first, or show one with its events
    Runs(RunsArgs),
    /// List the browsers that are logged in, or end their sessions
    Sessions(SessionsArgs),
}

#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    /// Do this once: a repeat with the same key within 24 hours does nothing, and prints the first answer. 1 to 64 visible ASCII characters
    /// [default: a random one]
    #[arg(long, value_name = "KEY", value_parser = idempotency_key)]
    pub(super) idempotency_key: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// The script, relative to the server's root or absolute [default: the server's]
    pub(super) script: Option<String>,
    /// The working directory, relative to the server's root or absolute [default: the root]
    #[arg(long, value_name = "DIR")]
    pub(super) cwd: Option<String>,
    /// Add a variable to the script's environment; repeatable. With NAME alone, the value is taken from the environment of this
    /// command,
    /// so that other users cannot see it in the list of processes
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = variable)]
    pub(super) env: Vec<(String, String)>,
    /// Seconds from TERM to KILL when this run is stopped [default: the server's]
    #[arg(long, value_name = "SECONDS", value_parser = grace_from_text)]
    pub(super) grace: Option<Duration>,
    #[command(flatten)]
    pub(super) key: KeyArgs,
    /// The script's arguments
    #[arg(last = true)]
    pub(super) args: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct RestartArgs {
    /// The run [default: the latest]
    #[arg(value_parser = clap::value_parser!(i64).range(1..))]
    pub(super) run: Option<i64>,
    /// A variable whose value was not kept with the run, or that gets another value; as for start
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = variable)]
    pub(super) env: Vec<(String, String)>,
    /// As for start; it needs the run's id, because the start changes which run is the latest
    #[arg(long, value_name = "KEY", value_parser = idempotency_key, requires = "run")]
    pub(super) idempotency_key: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// Seconds from TERM to KILL [default: the run's]
    #[arg(long, value_name = "SECONDS", value_parser = grace_from_text, conflicts_with = "now")]
    pub(super) grace: Option<Duration>,
    /// Kill at once
    #[arg(long)]
    pub(super) now: bool,
    #[command(flatten)]
    pub(super) key: KeyArgs,
}

#[derive(Debug, Args)]
pub(super) struct PairArgs {
    /// Allow the phone to read only
    #[arg(long)]
    pub(super) read_only: bool,
    /// The name or IP address at which the phone reaches this server, with or without a port [default: this machine's]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(super) address: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = LOGS_HELP)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct LogsArgs {
    /// Print new lines as they arrive, also across a restart of the server, until Ctrl-C or, with --run, the run's end
    #[arg(short, long)]
    pub(super) follow: bool,
    /// How many of the latest lines to print, 0 to 5000, or all [default: 200; with --since, and with --grep but not -f: all]
    #[arg(short = 'n', long, value_name = "LINES", value_parser = amount)]
    pub(super) lines: Option<Amount>,
    /// Only the lines of this run
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) run: Option<u64>,
    /// Only lines since this time: 10m, 1h30m or 3 days ago; 14:00, today, yesterday or "yesterday 14:00"; 2026-01-31 or
    /// "2026-01-31 08:00", in local time; or with a zone, 2026-01-31T23:59:59Z
    #[arg(long, value_name = "WHEN")]
    pub(super) since: Option<Since>,
    /// Only lines that contain this text, literally and case-sensitively
    #[arg(long, value_name = "TEXT", value_parser = search_text, allow_hyphen_values = true)]
    pub(super) grep: Option<String>,
    /// Only lines of this stream
    #[arg(long, value_name = "STREAM", value_parser = stream())]
    pub(super) stream: Option<StreamName>,
    /// Leave out the time and the stream before each line
    #[arg(long, conflicts_with = "json")]
    pub(super) no_timestamps: bool,
    /// Print lines exactly as the pipeline wrote them, even on a terminal, which then acts on every control sequence in them
    #[arg(long, conflicts_with = "json")]
    pub(super) raw: bool,
    /// Put the time and the stream before each line (the default)
    #[arg(long, hide = true, conflicts_with_all = ["no_timestamps", "json"])]
    timestamps: bool,
    /// Which log: the pipeline's output, or the server's own log (backend)
    #[arg(long, default_value_t = Source::Pipeline, value_parser = source())]
    pub(super) source: Source,
}

/// A number of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Amount {
    /// The latest lines, up to this number.
    Latest(u32),
    /// All lines that are kept.
    All,
}

#[derive(Debug, Args)]
pub(super) struct RunsArgs {
    /// Show this run with its events
    #[arg(conflicts_with = "limit")]
    pub(super) id: Option<u64>,
    /// How many runs to list, 1 to 500
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(super) limit: u32,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct SessionsArgs {
    #[command(subcommand)]
    pub(super) command: Option<SessionsCommand>,
}

#[derive(Debug, Subcommand)]
pub(super) enum SessionsCommand {
    /// End one session, or all of them, together with their open streams and downloads
    End(EndArgs),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct EndArgs {
    /// The session's id in the list
    pub(super) id: Option<String>,
    /// End every session
    #[arg(long)]
    pub(super) all: bool,
}

fn idempotency_key(text: &str) -> Result<String, String> {
    let is_key = (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_key {
        Ok(text.to_owned())
    } else {
        Err(format!("1 to {IDEMPOTENCY_KEY_CHARS_MAX} visible ASCII characters are expected"))
    }
}

fn source() -> impl TypedValueParser<Value = Source> {
    let words = Source::ALL.iter().map(|source| source.as_str());
    PossibleValuesParser::new(words).map(|word| word.parse().expect("one of the words"))
}

fn stream() -> impl TypedValueParser<Value = StreamName> {
    let words = StreamName::ALL.iter().map(|stream| stream.as_str());
    PossibleValuesParser::new(words).map(|word| word.parse().expect("one of the words"))
}

fn address(text: &str) -> Result<String, &'static str> {
    // Any other character would end a link's address, or lead to another address.
    let is_address = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte));
    if is_address { Ok(text.to_owned()) } else { Err("HOST or HOST:PORT is expected, without a scheme and a path") }
}

fn amount(text: &str) -> Result<Amount, &'static str> {
    if text == "all" {
        return Ok(Amount::All);
    }
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    number
        .filter(|number| u64::from(*number) <= LINES_MAX)
        .map(Amount::Latest)
        .ok_or("a number from 0 to 5000 is expected, or all")
}

fn search_text(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        Err("it is empty, so every line would match; leave --grep out")
    } else if text.len() > GREP_BYTES_MAX {
        Err("it is longer than 200 bytes; search for a part of it")
    } else if text.contains('\n') {
        Err("it contains a line break, which no line does")
    } else {
        Ok(text.to_owned())
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    if name.is_empty() {
        return Err("NAME or NAME=VALUE is expected".to_owned());
    }
    let value = match value {
        Some(value) => value.to_owned(),
        None => std::env::var(name).map_err(|error| match error {
            VarError::NotPresent => {
                format!("{name} is not set in the environment of this command; set it, or write {name}=VALUE")
            }
            VarError::NotUnicode(_) => format!("the value of {name} in the environment of this command is not UTF-8"),
        })?,
    };
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        super::parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>()).map(|(cli, _)| cli)
    }

    #[test]
    fn command_line_definition_is_valid() {
        definition().debug_assert();
    }

    #[test]
    fn help_lists_exit_codes_and_hides_shim() {
        let help = Cli::command().render_help().to_string();
        for (code, meaning) in EXIT_CODES {
            assert!(help.contains(&format!("{code}  {meaning}")), "{code} is missing in {help}");
        }
        assert!(!help.contains("shim"), "{help}");
    }

    #[test]
    fn serve_help_lists_every_setting() {
        let mut definition = definition();
        definition.build();
        let help = definition.find_subcommand_mut("serve").expect("there").render_help().to_string();
        for setting in SETTINGS {
            for word in setting.names.iter().copied().chain(setting.flag.map(|(flag, ..)| flag)) {
                assert!(help.contains(word), "{word} is missing in {help}");
            }
        }
    }

    #[test]
    fn start_accepts_all_parameters_of_the_api() {
        let cli = parse("autoappdev start a.sh --cwd d --env A=1 --env B=x=y --env C= --grace 2.5 --json -- -v --json");
        let cli = cli.expect("right");
        assert!(cli.json);
        let Some(Command::Ask(Ask::Start(start))) = cli.command else { panic!("{cli:?}") };
        assert_eq!((start.script.as_deref(), start.cwd.as_deref()), (Some("a.sh"), Some("d")));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(start.env, [pair("A", "1"), pair("B", "x=y"), pair("C", "")]);
        assert_eq!(start.grace, Some(Duration::from_millis(2500)));
        assert_eq!(start.args, ["-v", "--json"]);
    }

    #[test]
    fn serve_passes_its_flags_on_as_typed() {
        let line = "autoappdev serve --host h --port p --runtime-dir r --database d --root o --script s";
        let typed =
            |line: &str| super::parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>()).map(|(_, settings)| settings);
        let pairs =
            [("--host", "h"), ("--port", "p"), ("--runtime-dir", "r"), ("--database", "d"), ("--root", "o"), ("--script", "s")];
        assert_eq!(typed(line).expect("right"), pairs.map(|(flag, value)| (flag, value.into())));
        assert_eq!(typed("autoappdev check --database d").expect("right"), [("--database", "d".into())]);
        assert_eq!(typed("autoappdev status --url http://x").expect("right"), []);
        assert!(typed("autoappdev check --port 1").is_err());
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "autoappdev nonsense",
            "autoappdev start a b",
            "autoappdev start --env AUTOAPPDEV_NOT_SET",
            "autoappdev start --env ",
            "autoappdev start --env =A",
            "autoappdev start --grace 3601",
            "autoappdev stop --grace 1 --now",
            "autoappdev stop extra",
            "autoappdev restart 0",
            "autoappdev restart x",
            "autoappdev restart 1 2",
            "autoappdev logs -n 5001",
            "autoappdev logs -n -1",
            "autoappdev logs -n +1",
            "autoappdev logs -n ALL",
            "autoappdev logs --source other",
            "autoappdev logs --run 0",
            "autoappdev logs --run x",
            "autoappdev logs --since 10",
            "autoappdev logs --grep ",
            "autoappdev logs --stream both",
            "autoappdev logs --timestamps --no-timestamps",
            "autoappdev logs --no-timestamps --json",
            "autoappdev logs --raw --json",
            "autoappdev runs 1 --limit 2",
            "autoappdev runs x",
            "autoappdev runs --limit 0",
            "autoappdev status --url https://x",
            "autoappdev shim",
            "autoappdev pair --address http://x",
            "autoappdev pair --address x/y",
            "autoappdev pair --token x",
            "autoappdev sessions end",
            "autoappdev sessions end x --all",
            "autoappdev sessions x",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
        }
    }
}
