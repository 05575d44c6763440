//! The command line. Turns the arguments into a mode of this binary or a request to a running server, and the result into an
//! exit code.
//!
//! This is the edge where the environment, the `.env` file and the working directory are read, once, for `config`. `main`
//! passes the modes in, so that this file does not depend on the modules that implement them.

mod action;
mod args;
mod client;
mod columns;
mod connection;
mod credentials;
mod dotenv;
mod duration;
mod exit_code;
mod logs;
mod output;
mod pair;
mod places;
mod progress;
mod qr;
mod sessions;
mod since;
mod zone;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use serde::Serialize;

use self::args::{Ask, Command, KeyArgs, PairArgs, RestartArgs, StartArgs, StopArgs};
use self::client::{ACTION_TIMEOUT, Client, ClientError, STOP_MARGIN};
use self::dotenv::Dotenv;
pub use self::exit_code::EXIT_CODES;
use self::exit_code::{FAILURE, REFUSED, UNREACHABLE, WRONG_USAGE};
use self::logs::LogsError;
use self::pair::PairError;
use crate::api::pipeline::{ActionRequest, ActionResponse, ExpectedRun, Pipeline, PipelineResponse, StartRequest, StopRequest};
use crate::api::query::NoQuery;
use crate::api::routes::Route;
use crate::api::runs::{RunResponse, RunsQuery, RunsResponse};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, ConfigError, Endpoint, Flag, FoundTokens, GRACE_S_MAX, refuse_guarded, trusted_groups};
use crate::console::{TerminalLine, printable, printable_lines};
use crate::runtime_dir::{group_number, trust_groups};

/// The modes of this binary that send no requests to a server.
#[derive(Clone, Copy, Debug)]
pub struct Modes {
    /// `serve`: runs the server until a signal ends it.
    pub serve: fn(Config) -> ExitCode,
    /// `shim`: runs between the server and the run whose directory is given.
    pub shim: fn(&Path) -> ExitCode,
    /// `migrate`: updates the database's schema and prints the result, on request as JSON.
    pub migrate: fn(Config, bool) -> ExitCode,
    /// `check`: checks the database and prints the result, on request as JSON.
    pub check: fn(Config, bool) -> ExitCode,
}

/// Why a command did not complete. The texts follow `autoappdev: `.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot determine the working directory: {0}")]
    WorkingDirectory(io::Error),
    #[error("cannot read .env: {0}")]
    Dotenv(io::Error),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Logs(#[from] LogsError),
    #[error(transparent)]
    Pair(#[from] PairError),
    #[error("there is no run to start again; `autoappdev start` starts one")]
    NoRun,
}

/// Runs the command line `args`, which begins with the program's name.
///
/// Prints help to stdout and returns 0; prints wrong usage to stderr and returns 2. If the reader of stdout goes away, a client
/// command ends without an error message.
pub fn run(args: impl IntoIterator<Item = OsString>, modes: &Modes) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if let [_, mode, dir] = args.as_slice()
        && mode == "shim"
        && !dir.as_encoded_bytes().starts_with(b"-")
    {
        // A shim keeps every page that it touches for its whole run, and the parser of a command line is as large as the rest
        // of it.
        return (modes.shim)(Path::new(dir));
    }
    let (cli, flags) = match args::parse(&args) {
        Ok(parsed) => parsed,
        Err(error) => return wrong_usage(&error),
    };
    if let Some((flag, command)) = cli.unused_flag() {
        let mut definition = args::definition();
        // Gives the subcommands their names in the usage.
        definition.build();
        let (definition, sentence) = match definition.find_subcommand_mut(command) {
            Some(definition) => (definition, format!("{command} does not use {flag}; remove it")),
            None => (&mut definition, format!("{flag} needs a command")),
        };
        return wrong_usage(&definition.error(ErrorKind::ArgumentConflict, sentence));
    }
    let done = match cli.command {
        None => written(args::definition().print_help()).map(|()| ExitCode::SUCCESS),
        Some(Command::Shim { dir }) => Ok((modes.shim)(&dir)),
        Some(Command::Serve) => resolve(&flags).map(modes.serve),
        Some(Command::Migrate) => resolve(&flags).map(|config| (modes.migrate)(config, cli.json)),
        Some(Command::Check) => resolve(&flags).map(|config| (modes.check)(config, cli.json)),
        Some(Command::Ask(question)) => ask(&question, cli.url, cli.json).map(|()| ExitCode::SUCCESS),
        Some(Command::Pair(args)) => pair_phone(&args, cli.url, cli.json).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|failure| report(&failure, cli.json))
}

/// Prints help, the version (both arrive here too) or a usage error, and returns the exit code.
fn wrong_usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        // If stderr cannot be written, the exit code still reports the result.
        let text = error.render().to_string();
        let _ = write!(io::stderr(), "autoappdev: {}", printable_lines(text.strip_prefix("error: ").unwrap_or(&text)));
    } else if let Err(failure) = written(error.print()) {
        return report(&failure, false);
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(WRONG_USAGE))
}

/// Prints what went wrong and returns its exit code. With `--json`, also prints the server's response to stdout.
fn report(failure: &Failure, json: bool) -> ExitCode {
    let (code, document) = match failure {
        Failure::Client(error) | Failure::Logs(LogsError::Client(error)) | Failure::Pair(PairError::Client(error)) => match error
        {
            ClientError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
            ClientError::Refused { document, .. } => (REFUSED, Some(document)),
            ClientError::Failed { document, .. } => (FAILURE, Some(document)),
            ClientError::Unreachable { .. }
            | ClientError::NoServer(_)
            | ClientError::Unverified { .. }
            | ClientError::Closing { .. }
            | ClientError::NoAnswer { .. } => (UNREACHABLE, None),
            ClientError::Stranger { .. } | ClientError::Output(_) => (FAILURE, None),
        },
        Failure::Logs(LogsError::OlderServer(_) | LogsError::OtherLog(_)) => (FAILURE, None),
        Failure::Config(_) | Failure::Logs(_) => (WRONG_USAGE, None),
        Failure::NoRun => (REFUSED, None),
        Failure::WorkingDirectory(_) | Failure::Dotenv(_) | Failure::Pair(_) => (FAILURE, None),
    };
    if let Some(document) = document.filter(|_| json) {
        // If stdout cannot be written, the sentence and the exit code below still report the failure.
        let _ = say(&(document.as_line() + "\n"));
    }
    // If stderr cannot be written, the exit code still reports the failure.
    let _ = writeln!(io::stderr(), "autoappdev: {}", printable(&failure.to_string()));
    ExitCode::from(code)
}

/// Flushes stdout after a write.
fn written(result: io::Result<()>) -> Result<(), Failure> {
    Ok(result.and_then(|()| io::stdout().flush()).map_err(ClientError::Output)?)
}

fn resolve(flags: &[Flag]) -> Result<Config, Failure> {
    let (dotenv, cwd) = surroundings(flags)?;
    Ok(Config::resolve(flags, |name| std::env::var_os(name), &dotenv, &cwd)?)
}

fn find_server(url: Option<String>) -> Result<(Endpoint, FoundTokens), Failure> {
    let (dotenv, cwd) = surroundings(&[])?;
    let env = |name: &str| std::env::var_os(name);
    let tokens = FoundTokens::resolve(env, &dotenv, &cwd)?;
    let endpoint = match url {
        Some(url) => Endpoint::Url(url),
        None => Endpoint::resolve(env, &dotenv, &cwd)?,
    };
    Ok((endpoint, tokens))
}

/// Returns the settings of the `.env` file and the working directory, and trusts the groups that the environment names from
/// here on.
fn surroundings(flags: &[Flag]) -> Result<(Vec<(String, OsString)>, PathBuf), Failure> {
    trust_groups(trusted_groups(|name| std::env::var_os(name), group_number)?);
    let cwd = std::env::current_dir().map_err(Failure::WorkingDirectory)?;
    let Dotenv { pairs, problem } = Dotenv::read(&cwd).map_err(Failure::Dotenv)??;
    if let Some(problem) = problem {
        refuse_guarded(flags, |name| std::env::var_os(name), &pairs, (&cwd.join(".env"), &problem))?;
    }
    Ok((pairs, cwd))
}

fn ask(question: &Ask, url: Option<String>, json: bool) -> Result<(), Failure> {
    let (endpoint, tokens) = find_server(url)?;
    let client = Client::new(endpoint, tokens);
    ask_by(&client, question, json).map_err(|failure| match failure {
        Failure::Client(error) | Failure::Logs(LogsError::Client(error)) => Failure::Client(client.explain(error)),
        other => other,
    })
}

fn ask_by(client: &Client, question: &Ask, json: bool) -> Result<(), Failure> {
    let now = || SystemClock.now();
    let text = match question {
        Ask::Logs(wanted) => return Ok(logs::print_logs(client, wanted, json)?),
        Ask::Status => client
            .get(&Route::Pipeline.path())?
            .text(json, |PipelineResponse::<Pipeline> { pipeline }| output::status(&pipeline, now())),
        Ask::Start(args) => act(client, Route::Start, &start_body(args), &args.key, ACTION_TIMEOUT, json),
        Ask::Restart(args) => {
            let body =
                restart_body(args, || Ok(client.get(&Route::Pipeline.path())?.read::<PipelineResponse>()?.pipeline.run_id))?;
            let key = KeyArgs { idempotency_key: args.idempotency_key.clone() };
            act(client, Route::Start, &body, &key, ACTION_TIMEOUT, json)
        }
        Ask::Pause(key) => act(client, Route::Pause, &ActionRequest::default(), key, ACTION_TIMEOUT, json),
        Ask::Resume(key) => act(client, Route::Resume, &ActionRequest::default(), key, ACTION_TIMEOUT, json),
        Ask::Stop(args) => {
            let (body, timeout) = stop_body(args);
            act(client, Route::Stop, &body, &args.key, timeout, json)
        }
        Ask::Sessions(args) => sessions::sessions(client, args, now(), json),
        Ask::Runs(args) => {
            if let Some(id) = args.id {
                let answer = client.get(&Route::Run.url(&id.to_string(), &NoQuery {}))?;
                answer.text(json, |RunResponse { run }| output::run(&run, now()))
            } else {
                let answer =
                    client.get(&Route::Runs.url("", &RunsQuery { limit: Some(args.limit.into()), ..RunsQuery::default() }))?;
                answer.text(json, |RunsResponse { runs, .. }| output::runs(&runs, now()))
            }
        }
    }?;
    Ok(say(&text).map_err(ClientError::Output)?)
}

fn pair_phone(args: &PairArgs, url: Option<String>, json: bool) -> Result<(), Failure> {
    let (endpoint, tokens) = find_server(url)?;
    let text = pair::pair(args, endpoint, tokens, json)?;
    Ok(say(&text).map_err(ClientError::Output)?)
}

fn act(
    client: &Client,
    route: Route,
    body: &impl Serialize,
    key: &KeyArgs,
    timeout: Duration,
    json: bool,
) -> Result<String, ClientError> {
    let answer = action::post(client, route, body, key.idempotency_key.as_deref(), timeout)?;
    // Conditions are not part of the command's answer. If stderr cannot be written, `status` still shows them.
    let warnings = answer.read().map_or_else(|_| String::new(), |done: ActionResponse| output::warnings_of(&done.conditions));
    let _ = write!(io::stderr(), "{}", printable_lines(&warnings));
    answer.text(json, |done| output::done(&done))
}

/// Prints an answer. Its fields are printable already; this replaces any control characters that were missed.
fn say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    for line in text.split_inclusive('\n') {
        let whole = line.strip_suffix('\n');
        stdout.write_all(TerminalLine::default().part(whole.unwrap_or(line), false).text.as_bytes())?;
        stdout.write_all(if whole.is_some() { b"\n" } else { b"" })?;
    }
    stdout.flush()
}

/// Returns the body of a start. It contains only what was typed, because the server knows the defaults.
fn start_body(args: &StartArgs) -> StartRequest {
    StartRequest {
        script: args.script.clone(),
        args: (!args.args.is_empty()).then(|| args.args.clone()),
        cwd: args.cwd.clone(),
        env: args.env.iter().cloned().collect(),
        grace_s: args.grace.map(|grace| grace.as_secs_f64()),
        ..StartRequest::default()
    }
}

/// Returns the body of a restart of the named run, or of the latest one. The server refuses the restart if another run
/// has begun since the latest one was looked up.
fn restart_body(args: &RestartArgs, latest: impl FnOnce() -> Result<Option<i64>, ClientError>) -> Result<StartRequest, Failure> {
    let env = args.env.iter().cloned().collect();
    let (run_id, if_run_id) = if let Some(run_id) = args.run {
        (run_id, ExpectedRun::Any)
    } else {
        let run_id = latest()?.ok_or(Failure::NoRun)?;
        (run_id, ExpectedRun::Is(Some(run_id)))
    };
    Ok(StartRequest { again: Some(run_id), if_run_id, env, ..StartRequest::default() })
}

/// Returns the body of a stop, and how long to wait for its answer: the grace, or the longest grace if this command does not
/// know the run's, and a margin.
fn stop_body(args: &StopArgs) -> (StopRequest, Duration) {
    let grace = if args.now { Some(Duration::ZERO) } else { args.grace };
    let wait = grace.unwrap_or(Duration::from_secs_f64(GRACE_S_MAX)) + STOP_MARGIN;
    (StopRequest { grace_s: grace.map(|grace| grace.as_secs_f64()), ..StopRequest::default() }, wait)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn question(line: &str) -> Ask {
        match args::parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>()).expect("right").0.command {
            Some(Command::Ask(question)) => question,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn start_sends_only_given_parameters() {
        let body = |line| {
            let Ask::Start(args) = question(line) else { panic!("{line}") };
            serde_json::to_value(start_body(&args)).expect("plain data")
        };
        assert_eq!(body("autoappdev start"), json!({}));
        assert_eq!(
            body("autoappdev start a.sh --cwd d --env A=1 --env A=2 --env B= --grace 0.5 -- -v x"),
            json!({"script": "a.sh", "cwd": "d", "env": {"A": "2", "B": ""}, "grace_s": 0.5, "args": ["-v", "x"]})
        );
    }

    #[test]
    fn restart_without_a_run_means_the_latest_and_no_later_one() {
        let body = |line, latest: Option<i64>| {
            let Ask::Restart(args) = question(line) else { panic!("{line}") };
            restart_body(&args, || Ok(latest)).map(|body| serde_json::to_value(body).expect("plain data"))
        };
        assert_eq!(body("autoappdev restart", Some(7)).expect("a run"), json!({"again": 7, "if_run_id": 7}));
        let named = body("autoappdev restart 3 --env A=1", Some(7)).expect("a run");
        assert_eq!(named, json!({"again": 3, "env": {"A": "1"}}));
        assert!(matches!(body("autoappdev restart", None), Err(Failure::NoRun)));
    }

    #[test]
    fn stop_waits_longer_than_its_grace() {
        let body = |line| {
            let Ask::Stop(args) = question(line) else { panic!("{line}") };
            let (body, wait) = stop_body(&args);
            (serde_json::to_value(body).expect("plain data"), wait)
        };
        assert_eq!(body("autoappdev stop"), (json!({}), Duration::from_secs(3630)));
        assert_eq!(body("autoappdev stop --grace 5"), (json!({"grace_s": 5.0}), Duration::from_secs(35)));
        assert_eq!(body("autoappdev stop --now"), (json!({"grace_s": 0.0}), Duration::from_secs(30)));
    }
}
