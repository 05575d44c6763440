//! The changes that the writer makes, each within a transaction that its caller begins and commits.
//!
//! A change reads what is stored, works out the new values, and writes them only if the stored state is still the one that it
//! read. Times never decrease within a run, whatever the clock says.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::error::StoreErrorKind;
use super::rows::{self, PipelineRow, RunRow};
use crate::api::runs::Event;
use crate::clock::Timestamp;
use crate::latest_run::RUN_ID_MAX;
use crate::pipeline::{Cause, Entry, Exit, Fact, Killed, Origin, RunStatus, State, Transition, describe_oom_kills};

/// The values with which a run begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRun {
    /// The script, as the request named it.
    pub script: String,
    /// The working directory.
    pub cwd: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// The position in the log at which the run's output begins.
    pub log_start: u64,
    /// The origin of the start; `None` if it is unknown.
    pub origin: Option<Origin>,
    /// The working directory as the start named it; `None` means the root.
    pub start_cwd: Option<String>,
    /// The names of the variables that the start added to the environment, sorted.
    pub env_names: Vec<String>,
    /// The grace that the start named, in milliseconds; `None` means the server's.
    pub grace_ms: Option<u64>,
}

/// How a run without an observed end is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnseenEnd {
    /// It may have run; how it ended is unknown.
    Lost,
    /// It never ran. Only for a run that is still `starting`.
    NeverBegan,
}

/// The event before a run's first fact: the commit of the run.
pub(super) const KIND_STARTING: &str = "starting";
/// The event after the last fact of a run without an observed end.
pub(super) const KIND_LOST: &str = "lost";
/// The event of a run that never ran, reported by its shim or found at boot.
pub(super) const KIND_SPAWN_FAILED: &str = "spawn_failed";

/// Inserts a run that is `starting`, with a new id or the given one. Returns the id.
pub(super) fn begin(
    tx: &Transaction<'_>,
    id: Option<i64>,
    new: &NewRun,
    at: Timestamp,
    cause: Cause,
) -> Result<i64, StoreErrorKind> {
    let row = PipelineRow::read(tx)?;
    let list = |texts: &[String]| serde_json::to_string(texts).expect("a list of strings is JSON");
    // The unique index over live runs refuses a second one.
    let inserted = tx
        .prepare_cached(
            "INSERT INTO pipeline_runs (id, status, script, cwd, args, created_at, log_start, started_by, start_cwd, env_names, grace_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute((
            id,
            RunStatus::Starting,
            &new.script,
            &new.cwd,
            list(&new.args),
            at,
            rows::stored(new.log_start),
            rows::stored_origin(new.origin),
            &new.start_cwd,
            list(&new.env_names),
            new.grace_ms.map(rows::stored),
        ));
    if let Err(error) = inserted {
        return Err(why_no_run(tx, error)?);
    }
    let run_id = tx.last_insert_rowid();
    refuse_highest_id(run_id)?;
    let detail = new.origin.map(|origin| format!("started {origin}"));
    let event = Event { cause: Some(cause.to_string()), origin: new.origin, detail, ..rows::event(0, at, KIND_STARTING) };
    insert_event(tx, run_id, &event)?;
    // A new run starts its own timeline, so the clock is accepted even if it was set back.
    let changed = tx
        .prepare_cached(
            "UPDATE pipeline_state SET run_id = ?1, version = version + 1, updated_at = ?2 WHERE id = 1 AND state = ?3",
        )?
        .execute((run_id, at, State::Stopped))?;
    if changed == 0 {
        return Err(StoreErrorKind::Conflict(format!("no run can begin while the pipeline is {}", row.state)));
    }
    Ok(run_id)
}

/// Returns why a run could not be inserted. `SQLite` reports a full disk when there is no next id:
/// <https://www.sqlite.org/autoinc.html>. No machine starts that many runs, but a database or a run directory from another
/// machine can contain any number.
pub(super) fn why_no_run(conn: &Connection, error: rusqlite::Error) -> rusqlite::Result<StoreErrorKind> {
    Ok(if highest_id(conn, "pipeline_runs")? == i64::MAX { no_next_id() } else { error.into() })
}

/// Returns the highest id that a table has assigned, or 0 before the first row; the next row gets its successor. Like `SQLite`,
/// it uses the first line for the table in `sqlite_sequence` and the rows themselves, because a database from another machine can
/// have any value in both.
pub(super) fn highest_id(conn: &Connection, table: &str) -> rusqlite::Result<i64> {
    let given = "SELECT coalesce((SELECT CAST(seq AS INTEGER) FROM sqlite_sequence WHERE name = ?1 ORDER BY rowid LIMIT 1), 0)";
    let given: i64 = conn.prepare_cached(given)?.query_row([table], |row| row.get(0))?;
    let used: i64 = conn.prepare_cached(&format!("SELECT coalesce(max(id), 0) FROM {table}"))?.query_row([], |row| row.get(0))?;
    Ok(given.max(used))
}

/// Refuses an id that no run can have.
pub(super) fn refuse_highest_id(run_id: i64) -> Result<(), StoreErrorKind> {
    if run_id > RUN_ID_MAX { Err(no_next_id()) } else { Ok(()) }
}

fn no_next_id() -> StoreErrorKind {
    StoreErrorKind::Conflict(
        "no run can begin, because the database has used the highest possible run id; move it aside and start again".to_owned(),
    )
}

/// Records one fact on top of `before`. Returns `before` if a fact with this number is already recorded.
pub(super) fn record(
    tx: &Transaction<'_>,
    run_id: i64,
    entry: &Entry,
    transition: Option<Transition>,
    before: PipelineRow,
) -> Result<PipelineRow, StoreErrorKind> {
    let known: bool = tx
        .prepare_cached("SELECT count(*) FROM pipeline_events WHERE run_id = ?1 AND seq = ?2")?
        .query_row((run_id, rows::stored(entry.seq)), |row| row.get(0))?;
    if known {
        return Ok(before);
    }
    let (_, last_at) = last_event(tx, run_id)?;
    let at = entry.at.max(last_at);
    let event = Event {
        from_state: transition.map(|transition| transition.from),
        to_state: transition.map(|transition| transition.to),
        cause: transition.map(|transition| transition.cause.to_string()),
        ..describe(entry, at)
    };
    insert_event(tx, run_id, &event)?;
    if let Some(transition) = transition {
        let mut run = live_run(tx, run_id)?;
        let row = follow(&before, &mut run, transition, entry, at)?;
        write_run(tx, &run)?;
        write_row(tx, &row, transition.from, Some(run_id))?;
        return Ok(row);
    }
    if let Fact::Usage { cpu_user_ms, cpu_system_ms, max_rss_kb, memory_peak_bytes } = entry.fact {
        tx.prepare_cached(
            "UPDATE pipeline_runs SET cpu_user_ms = ?2, cpu_system_ms = ?3, max_rss_kb = ?4, memory_peak_bytes = ?5 WHERE id = ?1",
        )?
        .execute((
            run_id,
            rows::stored(cpu_user_ms),
            rows::stored(cpu_system_ms),
            rows::stored(max_rss_kb),
            memory_peak_bytes.map(rows::stored),
        ))?;
    }
    let row = PipelineRow { version: before.version + 1, updated_at: before.updated_at.max(at), ..before };
    // Such a fact may come late, from a run that is no longer the latest.
    write_row(tx, &row, row.state, row.run_id)?;
    Ok(row)
}

/// Ends a run that is recorded as live.
pub(super) fn end(
    tx: &Transaction<'_>,
    run_id: i64,
    end: UnseenEnd,
    at: Timestamp,
    error: &str,
    killed: &Killed,
) -> Result<PipelineRow, StoreErrorKind> {
    let before = PipelineRow::read(tx)?;
    let mut run = live_run(tx, run_id)?;
    let (status, kind) = match end {
        UnseenEnd::Lost => (RunStatus::Lost, KIND_LOST),
        UnseenEnd::NeverBegan if run.status == RunStatus::Starting => (RunStatus::Failed, KIND_SPAWN_FAILED),
        UnseenEnd::NeverBegan => return Err(StoreErrorKind::Conflict(format!("run {run_id} did begin: it is {}", run.status))),
    };
    let (last_seq, last_at) = last_event(tx, run_id)?;
    let at = at.max(last_at);
    run.status = status;
    run.stopped_at = Some(at);
    run.error = Some(error.to_owned());
    run.killed = killed.clone();
    let row = ended(&before, &run, at);
    let event = Event {
        from_state: Some(before.state),
        to_state: Some(State::Stopped),
        cause: Some(Cause::Recovery.to_string()),
        killed: killed.clone(),
        detail: Some(error.to_owned()),
        ..rows::event(last_seq + 1, at, kind)
    };
    insert_event(tx, run_id, &event)?;
    write_run(tx, &run)?;
    write_row(tx, &row, before.state, Some(run_id))?;
    Ok(row)
}

/// Returns the pipeline's new row and updates `run`, for a transition caused by the fact of `entry` at `at`.
fn follow(
    before: &PipelineRow,
    run: &mut RunRow,
    transition: Transition,
    entry: &Entry,
    at: Timestamp,
) -> Result<PipelineRow, StoreErrorKind> {
    let fact = &entry.fact;
    run.status = transition.status;
    let mut row = PipelineRow {
        state: transition.to,
        version: before.version + 1,
        updated_at: before.updated_at.max(at),
        ..before.clone()
    };
    match fact {
        Fact::Spawned { pid, containment, .. } => {
            run.pid = Some(*pid);
            run.containment = Some(*containment);
            // The database may have been lost since the start.
            run.started_by = run.started_by.or(entry.origin);
            run.started_at = Some(at);
            row.pid = Some(*pid);
            row.started_at = Some(at);
            (row.paused_at, row.resumed_at, row.stopped_at) = (None, None, None);
        }
        Fact::Paused { .. } => row.paused_at = Some(at),
        Fact::Resumed { paused_ms, .. } => {
            run.paused_ms = *paused_ms;
            row.resumed_at = Some(at);
        }
        Fact::Exited { exit, paused_ms, log_end, killed, oom_kills, .. } => {
            (run.exit_code, run.signal) = exit.code_or_signal();
            run.stopped_at = Some(at);
            run.stopped_by = entry.origin;
            run.paused_ms = *paused_ms;
            run.log_end = Some((*log_end).max(run.log_start));
            run.killed = killed.clone();
            run.oom_kills = *oom_kills;
            row = ended(before, run, at);
        }
        Fact::SpawnFailed { error, .. } => {
            run.stopped_at = Some(at);
            run.error = Some(error.clone());
            row = ended(before, run, at);
        }
        Fact::Stopping { .. } | Fact::Usage { .. } | Fact::Unknown => {
            return Err(StoreErrorKind::Conflict(format!("`{}` brings no transition to {}", fact.kind(), transition.to)));
        }
    }
    Ok(row)
}

/// Returns the pipeline's row once `run` has ended. A run that never ran has no times of its pauses; those in `before` belong to
/// the previous run.
fn ended(before: &PipelineRow, run: &RunRow, at: Timestamp) -> PipelineRow {
    let lived = run.started_at.is_some();
    PipelineRow {
        state: State::Stopped,
        pid: None,
        run_id: Some(run.id),
        started_at: run.started_at,
        paused_at: before.paused_at.filter(|_| lived),
        resumed_at: before.resumed_at.filter(|_| lived),
        stopped_at: Some(at),
        updated_at: before.updated_at.max(at),
        version: before.version + 1,
    }
}

/// Returns a run that has not ended, because an end is final.
fn live_run(tx: &Transaction<'_>, run_id: i64) -> Result<RunRow, StoreErrorKind> {
    match RunRow::read(tx, run_id)? {
        Some(run) if run.status.is_live() => Ok(run),
        Some(run) => Err(StoreErrorKind::Conflict(format!("run {run_id} has ended: it is {}", run.status))),
        None => Err(StoreErrorKind::Conflict(format!("run {run_id} is not recorded"))),
    }
}

/// Returns the number and the time of the run's last event. Later events never get an earlier time, whatever the clock says.
fn last_event(tx: &Transaction<'_>, run_id: i64) -> Result<(u64, Timestamp), StoreErrorKind> {
    let last: Option<(i64, Timestamp)> = tx
        .prepare_cached("SELECT seq, at FROM pipeline_events WHERE run_id = ?1 ORDER BY seq DESC LIMIT 1")?
        .query_row([run_id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (seq, at) = last.ok_or_else(|| StoreErrorKind::Conflict(format!("run {run_id} is not recorded")))?;
    Ok((u64::try_from(seq).unwrap_or(0), at))
}

fn insert_event(tx: &Transaction<'_>, run_id: i64, event: &Event) -> Result<(), StoreErrorKind> {
    let (killed, killed_count) = rows::stored_killed(&event.killed).unzip();
    tx.prepare_cached(
        "INSERT INTO pipeline_events (run_id, seq, at, kind, from_state, to_state, cause, origin, pid, exit_code, signal, grace_ms,
             paused_ms, killed, killed_count, detail, oom_kills)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
    )?
    .execute(params![
        run_id,
        rows::stored(event.seq),
        event.at,
        &event.kind,
        event.from_state,
        event.to_state,
        &event.cause,
        rows::stored_origin(event.origin),
        event.pid,
        event.exit_code,
        event.signal,
        event.grace_ms.map(rows::stored),
        event.paused_ms.map(rows::stored),
        killed,
        killed_count,
        &event.detail,
        event.oom_kills.map(rows::stored),
    ])?;
    Ok(())
}

/// Writes the columns of a run that can change.
fn write_run(tx: &Transaction<'_>, run: &RunRow) -> Result<(), StoreErrorKind> {
    let (killed, killed_count) = rows::stored_killed(&run.killed).unzip();
    tx.prepare_cached(
        "UPDATE pipeline_runs SET status = ?2, pid = ?3, started_at = ?4, stopped_at = ?5, exit_code = ?6, signal = ?7,
             paused_ms = ?8, error = ?9, log_end = ?10, containment = ?11, killed = ?12, killed_count = ?13, started_by = ?14,
             stopped_by = ?15, oom_kills = ?16
         WHERE id = ?1",
    )?
    .execute((
        run.id,
        run.status,
        run.pid,
        run.started_at,
        run.stopped_at,
        run.exit_code,
        run.signal,
        rows::stored(run.paused_ms),
        &run.error,
        run.log_end.map(rows::stored),
        run.containment,
        killed,
        killed_count,
        rows::stored_origin(run.started_by),
        rows::stored_origin(run.stopped_by),
        run.oom_kills.map(rows::stored),
    ))?;
    Ok(())
}

/// Writes the pipeline's row, if the stored one still is what the change started from.
fn write_row(tx: &Transaction<'_>, row: &PipelineRow, expected: State, of_run: Option<i64>) -> Result<(), StoreErrorKind> {
    let changed = tx
        .prepare_cached(
            "UPDATE pipeline_state SET state = ?1, pid = ?2, started_at = ?3, paused_at = ?4, resumed_at = ?5, stopped_at = ?6,
                 updated_at = ?7, version = ?8
             WHERE id = 1 AND state = ?9 AND run_id IS ?10",
        )?
        .execute((
            row.state,
            row.pid,
            row.started_at,
            row.paused_at,
            row.resumed_at,
            row.stopped_at,
            row.updated_at,
            rows::stored(row.version),
            expected,
            of_run,
        ))?;
    if changed == 1 {
        Ok(())
    } else {
        let run = of_run.map_or_else(|| "no run".to_owned(), |run| format!("run {run}"));
        Err(StoreErrorKind::Conflict(format!("the pipeline is not {expected} with {run}")))
    }
}

/// Converts a fact to an event of the history: its values, and a sentence for users.
fn describe(entry: &Entry, at: Timestamp) -> Event {
    let origin = entry.origin;
    let mut event = Event { origin, ..rows::event(entry.seq, at, entry.fact.kind()) };
    let by = |what: &str| origin.map(|origin| format!("{what} {origin}"));
    let told: [Option<String>; 4] = match &entry.fact {
        Fact::Spawned { pid, .. } => {
            event.pid = Some(*pid);
            [Some(format!("pid {pid}")), None, None, None]
        }
        Fact::Paused { .. } => [by("paused"), None, None, None],
        Fact::Resumed { paused_ms, detail, .. } => {
            event.paused_ms = Some(*paused_ms);
            [by("resumed"), detail.clone(), None, None]
        }
        Fact::Stopping { grace_ms } => {
            event.grace_ms = Some(*grace_ms);
            [by("stopped"), Some(format!("grace {grace_ms} ms")), None, None]
        }
        Fact::Exited { exit, asked, paused_ms, killed, oom_kills, .. } => {
            (event.exit_code, event.signal) = exit.code_or_signal();
            event.paused_ms = Some(*paused_ms);
            event.killed = killed.clone();
            event.oom_kills = *oom_kills;
            let exit = match exit {
                Exit::Code(code) => format!("exit code {code}"),
                Exit::Signal(signal) => format!("signal {signal}"),
            };
            [by("stopped"), Some(exit), oom_kills.and_then(describe_oom_kills), killed.at_end(*asked)]
        }
        Fact::Usage { cpu_user_ms, cpu_system_ms, max_rss_kb, memory_peak_bytes } => {
            let used = format!("CPU {cpu_user_ms} ms user, {cpu_system_ms} ms system; at most {max_rss_kb} KiB a process");
            let in_all = memory_peak_bytes.map(|bytes| format!("{} KiB in all", bytes / 1024));
            [Some(used), in_all, None, None]
        }
        Fact::SpawnFailed { error, .. } => [Some(error.clone()), None, None, None],
        Fact::Unknown => [None, None, None, None],
    };
    let told: Vec<String> = told.into_iter().flatten().collect();
    event.detail = (!told.is_empty()).then(|| told.join("; "));
    event
}
