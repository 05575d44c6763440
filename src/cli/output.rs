//! The API's answers as texts for people.
//!
//! Pure: an answer and the moment in, a text out. No rule of the life cycle stands here; what a field means is the API's to say.
//! Every field that somebody else could have written is made printable, so that a script's name cannot drive a terminal.

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::duration::{between, since, took};
use super::printable::printable;
use super::progress::{self, Progress};
use crate::clock::Timestamp;
use crate::pipeline::{Action, Origin, RunStatus, State, signal_name};

/// The answer of `GET /api/pipeline`.
#[derive(Deserialize)]
pub(super) struct PipelineDocument {
    pub(super) pipeline: Pipeline,
}

/// What the pipeline is.
#[derive(Deserialize)]
pub(super) struct Pipeline {
    state: State,
    pending: Option<Action>,
    /// Who wants that, if it is known.
    #[serde(default, deserialize_with = "Origin::read_if_any")]
    pending_origin: Option<Origin>,
    /// An older server omits it.
    kill_at: Option<Timestamp>,
    pid: Option<u32>,
    run_id: Option<u64>,
    started_at: Option<Timestamp>,
    paused_at: Option<Timestamp>,
    stopped_at: Option<Timestamp>,
    #[serde(deserialize_with = "none_when_idle")]
    status: Option<RunStatus>,
    script: Option<String>,
    exit_code: Option<i32>,
    signal: Option<i32>,
    error: Option<String>,
    /// An older server omits it.
    detail: Option<String>,
    /// Nor this.
    progress: Option<Progress>,
    /// The script that a start without a name takes. An older server omits the key; null means that none is configured.
    #[serde(default)]
    default_script: Told,
    /// The current conditions. An older server omits them.
    #[serde(default)]
    conditions: Vec<Condition>,
}

/// The configured script, as the server reports it.
#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Told {
    /// It is this one.
    Script(String),
    /// There is none.
    None,
    /// Nothing.
    #[default]
    #[serde(skip)]
    Nothing,
}

/// Something that is wrong.
#[derive(Deserialize)]
struct Condition {
    code: String,
    since: Timestamp,
    detail: String,
}

/// The answer to an action that was done.
#[derive(Deserialize)]
pub(super) struct Done {
    state: State,
    run_id: Option<u64>,
    pid: Option<u32>,
    /// After a start, the script that runs. An older server omits it.
    script: Option<String>,
    #[serde(default)]
    conditions: Vec<Condition>,
}

/// The answer of `GET /api/runs`.
#[derive(Deserialize)]
pub(super) struct RunsDocument {
    pub(super) runs: Vec<Run>,
}

/// The answer of `GET /api/runs/<id>`.
#[derive(Deserialize)]
pub(super) struct RunDocument {
    pub(super) run: Run,
}

/// One run of the history.
#[derive(Deserialize)]
pub(super) struct Run {
    id: u64,
    status: RunStatus,
    pid: Option<u32>,
    script: String,
    cwd: String,
    args: Vec<String>,
    created_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    stopped_at: Option<Timestamp>,
    #[serde(default, deserialize_with = "Origin::read_if_any")]
    started_by: Option<Origin>,
    #[serde(default, deserialize_with = "Origin::read_if_any")]
    stopped_by: Option<Origin>,
    exit_code: Option<i32>,
    signal: Option<i32>,
    paused_ms: Option<u64>,
    cpu_user_ms: Option<u64>,
    cpu_system_ms: Option<u64>,
    max_rss_kb: Option<u64>,
    error: Option<String>,
    progress: Option<Progress>,
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    seq: u64,
    at: Timestamp,
    kind: String,
    from_state: Option<String>,
    to_state: Option<String>,
    cause: Option<String>,
    detail: Option<serde_json::Value>,
}

fn none_when_idle<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<RunStatus>, D::Error> {
    let word = String::deserialize(deserializer)?;
    if word == "idle" { Ok(None) } else { word.parse().map(Some).map_err(serde::de::Error::custom) }
}

/// `status`: the state in one line, then the conditions, the script of the next start if it differs, and the progress of the run.
pub(super) fn status(pipeline: &Pipeline, now: Timestamp) -> String {
    let is_behind = pipeline.conditions.iter().any(|condition| condition.code == Condition::NOT_RECORDED);
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
            parts.push(outcome(ended, pipeline.exit_code, pipeline.signal, pipeline.error.as_deref(), None));
            let ago = |at| format!("{} ago ({})", self::since(between(at, now)), moment(at));
            parts.extend(pipeline.stopped_at.map(ago));
        }
    }
    let left = pipeline.kill_at.filter(|at| *at > now).map(|at| format!(", {} left until KILL", self::since(between(now, at))));
    let who = pipeline.pending_origin.map_or_else(String::new, |origin| format!(", asked for {origin}"));
    parts.extend(pipeline.pending.map(|action| format!("({action} under way{who}{})", left.unwrap_or_default())));
    parts.extend(pipeline.detail.as_deref().map(printable));
    let mut text = parts.join("  ") + "\n";
    text.extend(pipeline.conditions.iter().map(Condition::describe));
    text.push_str(&next_start(pipeline));
    text.push_str(&pipeline.progress.as_ref().map_or_else(String::new, |progress| progress::describe(progress, now)));
    text
}

/// The script that a start without a name would run, if it is not the script in the line above.
fn next_start(pipeline: &Pipeline) -> String {
    match &pipeline.default_script {
        Told::None if pipeline.state == State::Stopped => {
            "start     no script is configured: `autoappdev start NAME`, or set AUTOAPPDEV_PIPELINE_SCRIPT for the server\n"
                .to_owned()
        }
        Told::Script(script) if pipeline.script.as_ref() != Some(script) => {
            format!("start     `autoappdev start` starts {}\n", printable(script))
        }
        Told::None | Told::Script(_) | Told::Nothing => String::new(),
    }
}

/// What an action led to: one line.
pub(super) fn done(done: &Done) -> String {
    let run = done.run_id.map(|id| format!("run {id}"));
    let pid = done.pid.map(|pid| format!("pid {pid}"));
    let script = done.script.as_deref().map(printable);
    [Some(done.state.to_string()), run, pid, script].into_iter().flatten().collect::<Vec<_>>().join("  ") + "\n"
}

/// The conditions after an action, one line each, for stderr.
pub(super) fn warnings_of(done: &Done) -> String {
    done.conditions.iter().flat_map(|condition| ["autoappdev: ".to_owned(), condition.describe()]).collect()
}

impl Condition {
    /// The published state is outdated, because a later change could not be recorded yet.
    const NOT_RECORDED: &str = "not_recorded";

    fn describe(&self) -> String {
        format!("warning: {} (since {})\n", printable(&self.detail), moment(self.since))
    }
}

/// How a run stands, or how it ended, in words.
fn outcome(
    status: RunStatus,
    exit_code: Option<i32>,
    signal: Option<i32>,
    error: Option<&str>,
    stopped_by: Option<Origin>,
) -> String {
    match status {
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
    }
}

/// `runs`: a table, its last column open.
pub(super) fn runs(runs: &[Run], now: Timestamp) -> String {
    if runs.is_empty() {
        return "no run yet\n".to_owned();
    }
    let mut table = vec![["RUN", "STARTED", "TOOK", "SCRIPT", "OUTCOME"].map(str::to_owned)];
    table.extend(runs.iter().map(|run| {
        [
            run.id.to_string(),
            run.started_at.map_or_else(|| "-".to_owned(), moment),
            run.took(now).map_or_else(|| "-".to_owned(), |length| run.length(length)),
            printable(&run.script),
            run.outcome(),
        ]
    }));
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let [id, started, took, script] = [width(0), width(1), width(2), width(3)];
    table.iter().fold(String::new(), |mut text, row| {
        writeln!(text, "{:>id$}  {:started$}  {:>took$}  {:script$}  {}", row[0], row[1], row[2], row[3], row[4])
            .expect("a String takes everything");
        text
    })
}

/// `runs ID`: everything about one run, then its events.
pub(super) fn run(run: &Run, now: Timestamp) -> String {
    let script = printable(&run.script);
    let ended = run.outcome();
    let args = serde_json::to_string(&run.args).expect("texts are JSON");
    let cpu = run.cpu_user_ms.zip(run.cpu_system_ms);
    let rows = [
        ("folder", Some(printable(&run.cwd))),
        ("arguments", (!run.args.is_empty()).then(|| printable(&args))),
        ("pid", run.pid.map(|pid| pid.to_string())),
        ("created", run.created_at.map(moment)),
        ("started", run.started_at.map(moment)),
        ("asked for", run.started_by.map(|origin| origin.to_string())),
        ("ended", run.stopped_at.map(moment)),
        ("took", run.took(now).map(|length| run.length(length))),
        ("paused", run.paused_ms.filter(|&ms| ms > 0).map(|ms| took(Duration::from_millis(ms)))),
        ("CPU time", cpu.map(|(user, system)| format!("{} user, {} system", seconds(user), seconds(system)))),
        ("memory", run.max_rss_kb.map(|kb| format!("{} MiB at most in one process", kb.div_ceil(1024)))),
    ];
    let mut text = format!("run {}  {script}  {ended}\n", run.id);
    for (name, value) in rows {
        if let Some(value) = value {
            writeln!(text, "  {name:<10} {value}").expect("a String takes everything");
        }
    }
    let progress = run.progress.as_ref().map_or_else(String::new, |progress| progress::describe(progress, now));
    text.extend(progress.lines().map(|line| format!("  {line}\n")));
    text.extend(run.events.iter().map(Event::describe));
    text
}

impl Run {
    fn outcome(&self) -> String {
        outcome(self.status, self.exit_code, self.signal, self.error.as_deref(), self.stopped_by)
    }

    /// From its start to its end, or to now where it has none.
    fn took(&self, now: Timestamp) -> Option<Duration> {
        let end = if self.status.is_live() { Some(now) } else { self.stopped_at };
        self.started_at.zip(end).map(|(start, end)| between(start, end))
    }

    /// That time in words.
    fn length(&self, length: Duration) -> String {
        if self.status.is_live() { since(length) } else { took(length) }
    }
}

impl Event {
    fn describe(&self) -> String {
        let mut parts = vec![format!("{:>5}", self.seq), self.at.to_string(), printable(&self.kind)];
        if let (Some(from), Some(to)) = (&self.from_state, &self.to_state) {
            parts.push(format!("{} -> {}", printable(from), printable(to)));
        }
        parts.extend(self.cause.as_deref().map(|cause| format!("({})", printable(cause))));
        parts.extend(self.detail.as_ref().map(|detail| match detail {
            serde_json::Value::String(sentence) => printable(sentence),
            other => printable(&other.to_string()),
        }));
        parts.join("  ") + "\n"
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{:02} s", ms / 1000, ms % 1000 / 10)
}

/// A stamp for people, to the second.
fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    format!("{} {} UTC", &text[..10], &text[11..19])
}

/// A signal's name; its number where it has none.
fn name_of_signal(number: i32) -> String {
    signal_name(number).map_or_else(|| format!("signal {number}"), str::to_owned)
}

#[cfg(test)]
mod tests;
