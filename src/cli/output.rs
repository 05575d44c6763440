//! The API's answers as texts for people.
//!
//! Pure: it turns an answer and the current time into a text. It contains no rule of the life cycle; the API says what a field
//! means. Every field that can come from outside is made printable, so that the name of a script cannot control a terminal.

use std::fmt::Write as _;
use std::iter;
use std::time::Duration;

use super::columns;
use super::duration::{between, since, took};
use super::progress;
use crate::api::pipeline::{ActionResponse, Pipeline};
use crate::api::runs::{Event, Run, RunDetails};
use crate::clock::Timestamp;
use crate::console::printable;
use crate::pipeline::{Condition, ConditionCode, Conditions, Origin, RunStatus, State, describe_oom_kills, signal_name};
use crate::shell_word::quoted;

/// The longest command in the list of runs, in characters, if it has arguments. `runs ID` shows all of them.
const COMMAND_CHARS_MAX: usize = 60;

/// Formats `status`: the state on one line, then the conditions, the script of the next start if it differs, and the progress
/// of the run.
pub(super) fn status(pipeline: &Pipeline, now: Timestamp) -> String {
    let is_behind = pipeline.conditions.list().iter().any(|condition| condition.code == ConditionCode::NotRecorded);
    let mut parts = vec![if is_behind { format!("last recorded: {}", pipeline.state) } else { pipeline.state.to_string() }];
    parts.push(pipeline.run_id.map_or_else(|| "no run yet".to_owned(), |id| format!("run {id}")));
    parts.extend(pipeline.pid.map(|pid| format!("pid {pid}")));
    parts.extend(pipeline.script.as_deref().map(printable));
    let since = |at: Option<Timestamp>| at.map(|at| format!("since {} ({})", since(between(at, now)), moment(at)));
    match pipeline.status {
        None | Some(RunStatus::Starting) => {}
        Some(RunStatus::Running) => parts.extend(since(pipeline.started_at)),
        Some(RunStatus::Paused) => parts.extend(since(pipeline.paused_at)),
        Some(ended @ (RunStatus::Completed | RunStatus::Failed | RunStatus::Stopped | RunStatus::Lost)) => {
            parts.push(outcome(ended, pipeline.exit_code, pipeline.signal, pipeline.error.as_deref(), None, pipeline.oom_kills));
            let ago = |at| format!("{} ago ({})", self::since(between(at, now)), moment(at));
            parts.extend(pipeline.stopped_at.map(ago));
        }
    }
    let left = pipeline.kill_at.filter(|at| *at > now).map(|at| format!(", {} left until KILL", self::since(between(now, at))));
    let who = pipeline.pending_origin.map_or_else(String::new, |origin| format!(", asked for {origin}"));
    parts.extend(pipeline.pending.map(|action| format!("({action} under way{who}{})", left.unwrap_or_default())));
    parts.extend(pipeline.detail.as_deref().map(printable));
    let mut text = parts.join("  ") + "\n";
    text.extend(pipeline.conditions.list().iter().map(describe_condition));
    text.push_str(&next_start(pipeline));
    text.push_str(&pipeline.progress.as_ref().map_or_else(String::new, |progress| progress::describe(progress, now)));
    text
}

/// Returns the script that a start without a name would run, if it is not the one on the first line.
fn next_start(pipeline: &Pipeline) -> String {
    match &pipeline.default_script {
        None if pipeline.state == State::Stopped => {
            "start     no script is configured: `autoappdev start NAME`, or set AUTOAPPDEV_PIPELINE_SCRIPT for the server\n"
                .to_owned()
        }
        Some(script) if pipeline.script.as_ref() != Some(script) => {
            format!("start     `autoappdev start` starts {}\n", printable(script))
        }
        None | Some(_) => String::new(),
    }
}

/// Formats the result of an action on one line.
pub(super) fn done(done: &ActionResponse) -> String {
    let run = done.run_id.map(|id| format!("run {id}"));
    let pid = done.pid.map(|pid| format!("pid {pid}"));
    let script = done.script.as_deref().map(printable);
    [Some(done.state.to_string()), run, pid, script].into_iter().flatten().collect::<Vec<_>>().join("  ") + "\n"
}

/// Formats the conditions after an action for stderr, one a line.
pub(super) fn warnings_of(conditions: &Conditions) -> String {
    conditions.list().iter().flat_map(|condition| ["autoappdev: ".to_owned(), describe_condition(condition)]).collect()
}

fn describe_condition(condition: &Condition) -> String {
    format!("warning: {} (since {})\n", printable(&condition.detail), moment(condition.since))
}

/// Describes the status of a run, or how it ended.
fn outcome(
    status: RunStatus,
    exit_code: Option<i32>,
    signal: Option<i32>,
    error: Option<&str>,
    stopped_by: Option<Origin>,
    oom_kills: Option<u64>,
) -> String {
    let end = match status {
        RunStatus::Starting | RunStatus::Running | RunStatus::Paused | RunStatus::Completed => status.to_string(),
        RunStatus::Failed => match (exit_code, signal, error) {
            (Some(code), _, _) => format!("failed with exit code {code}"),
            (None, Some(number), _) => format!("ended by {}", name_of_signal(number)),
            (None, None, Some(error)) => format!("did not start: {}", printable(error)),
            (None, None, None) => "failed".to_owned(),
        },
        RunStatus::Stopped => {
            let who = stopped_by.map_or_else(|| "on request".to_owned(), |origin| origin.to_string());
            match (exit_code, signal) {
                (Some(code), _) => format!("stopped {who} (exit code {code})"),
                (None, Some(number)) => format!("stopped {who} ({})", name_of_signal(number)),
                (None, None) => format!("stopped {who}"),
            }
        }
        RunStatus::Lost => format!("lost: {}", error.map_or_else(|| "how it ended is unknown".to_owned(), printable)),
    };
    // A number and no reason: the run can have ended for another one.
    [Some(end), oom_kills.and_then(describe_oom_kills)].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// Formats `runs` as a table. The last column has no fixed width.
pub(super) fn runs(runs: &[Run], now: Timestamp) -> String {
    if runs.is_empty() {
        return "no run yet\n".to_owned();
    }
    let mut table = vec![["RUN", "STARTED", "TOOK", "SCRIPT", "OUTCOME"].map(str::to_owned)];
    table.extend(runs.iter().map(|run| {
        [
            run.id.to_string(),
            run.started_at.map_or_else(|| "-".to_owned(), moment),
            took_by(run, now).unwrap_or_else(|| "-".to_owned()),
            command(run),
            outcome(run.status, run.exit_code, run.signal, run.error.as_deref(), run.stopped_by, run.oom_kills),
        ]
    }));
    columns::table(&table, &[0, 2])
}

/// Returns a run's script with its arguments, which distinguish the runs of one script.
fn command(run: &Run) -> String {
    let words = iter::once(printable(&run.script)).chain(run.args.iter().map(|arg| quoted(&printable(arg))));
    let all = words.collect::<Vec<_>>().join(" ");
    if all.chars().count() <= COMMAND_CHARS_MAX || run.args.is_empty() {
        return all;
    }
    all.chars().take(COMMAND_CHARS_MAX - 3).collect::<String>() + "..."
}

/// Formats `runs ID`: everything about one run, then its events.
pub(super) fn run(whole: &RunDetails, now: Timestamp) -> String {
    let RunDetails { run, progress, events, .. } = whole;
    let script = printable(&run.script);
    let ended = outcome(run.status, run.exit_code, run.signal, run.error.as_deref(), run.stopped_by, run.oom_kills);
    let args = serde_json::to_string(&run.args).expect("texts are JSON");
    let cpu = run.cpu_user_ms.zip(run.cpu_system_ms);
    let rows = [
        ("folder", Some(printable(&run.cwd))),
        ("arguments", (!run.args.is_empty()).then(|| printable(&args))),
        ("variables", (!run.env_names.is_empty()).then(|| printable(&run.env_names.join(", ")))),
        ("grace", run.grace_ms.map(|ms| took(Duration::from_millis(ms)))),
        ("pid", run.pid.map(|pid| pid.to_string())),
        ("created", Some(moment(run.created_at))),
        ("started", run.started_at.map(moment)),
        ("asked for", run.started_by.map(|origin| origin.to_string())),
        ("ended", run.stopped_at.map(moment)),
        ("took", took_by(run, now)),
        ("paused", (run.paused_ms > 0).then(|| took(Duration::from_millis(run.paused_ms)))),
        ("CPU time", cpu.map(|(user, system)| format!("{} user, {} system", seconds(user), seconds(system)))),
        ("memory", run.max_rss_kb.map(|kb| format!("{} MiB at most in one process", kb.div_ceil(1024)))),
    ];
    let mut text = format!("run {}  {script}  {ended}\n", run.id);
    for (name, value) in rows {
        if let Some(value) = value {
            writeln!(text, "  {name:<10} {value}").expect("a String takes everything");
        }
    }
    let progress = progress.as_ref().map_or_else(String::new, |progress| progress::describe(progress, now));
    text.extend(progress.lines().map(|line| format!("  {line}\n")));
    text.extend(events.iter().map(describe_event));
    text
}

/// Returns how long a run took, or how long it has been running.
fn took_by(run: &Run, now: Timestamp) -> Option<String> {
    let is_live = run.status.is_live();
    let length = between(run.started_at?, if is_live { now } else { run.stopped_at? });
    Some(if is_live { since(length) } else { took(length) })
}

fn describe_event(event: &Event) -> String {
    let mut parts = vec![format!("{:>5}", event.seq), event.at.to_string(), printable(&event.kind)];
    if let (Some(from), Some(to)) = (event.from_state, event.to_state) {
        parts.push(format!("{from} -> {to}"));
    }
    parts.extend(event.cause.as_deref().map(|cause| format!("({})", printable(cause))));
    parts.extend(event.detail.as_deref().map(printable));
    parts.join("  ") + "\n"
}

fn seconds(ms: u64) -> String {
    format!("{}.{:02} s", ms / 1000, ms % 1000 / 10)
}

/// Formats a time for people, to the second.
pub(super) fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    format!("{} {} UTC", &text[..10], &text[11..19])
}

/// Returns a signal's name, or its number if it has no name.
fn name_of_signal(number: i32) -> String {
    signal_name(number).map_or_else(|| format!("signal {number}"), str::to_owned)
}

#[cfg(test)]
mod tests;
