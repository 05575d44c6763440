//! The rows of the pipeline's three tables as values, and the text forms of their columns.
//!
//! Reading only; the parent module writes them.

use std::ops::{Deref, DerefMut};

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Params, Row, ffi};
use serde::de::DeserializeOwned;

use crate::api::runs::{Event, Run};
use crate::api::session::Role;
use crate::clock::Timestamp;
use crate::pipeline::{Cause, Containment, Ending, Killed, Origin, Outcome, RunStatus, State, signal_name};

/// Stores words and times as text. An unknown text is an error when it is read, never a default.
macro_rules! stored_as_text {
    ($($name:ty),+) => {$(
        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(ToSqlOutput::from(self.to_string()))
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                value.as_str()?.parse().map_err(FromSqlError::other)
            }
        }
    )+};
}

stored_as_text!(State, RunStatus, Cause, Containment, Timestamp, Role);

/// The only row of `pipeline_state`: the current state of the pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineRow {
    /// The state.
    pub state: State,
    /// The leader's process id; `None` when stopped.
    pub pid: Option<u32>,
    /// The latest run, also after its end; `None` before the first run.
    pub run_id: Option<i64>,
    /// The time at which the latest run was first seen running. While a new run is `starting`, this time and the next three still
    /// belong to the previous run.
    pub started_at: Option<Timestamp>,
    /// The latest pause of the run.
    pub paused_at: Option<Timestamp>,
    /// The latest resume of the run.
    pub resumed_at: Option<Timestamp>,
    /// The time at which the run was seen to have ended.
    pub stopped_at: Option<Timestamp>,
    /// The time of this row's last change. It never decreases within a run.
    pub updated_at: Timestamp,
    /// The number of changes. It never decreases.
    pub version: u64,
}

/// A row of `pipeline_runs`: one run of the pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRow {
    /// The part that clients see.
    pub run: Run,
    /// The processes that were killed at its end. Clients see them in the event.
    pub killed: Killed,
    /// The working directory as the start named it; `None` means the root.
    pub start_cwd: Option<String>,
    /// The position in the log at which the run's output begins.
    pub log_start: u64,
    /// The position in the log at which the run's output ends; known only after an observed end.
    pub log_end: Option<u64>,
}

impl Deref for RunRow {
    type Target = Run;

    fn deref(&self) -> &Run {
        &self.run
    }
}

impl DerefMut for RunRow {
    fn deref_mut(&mut self) -> &mut Run {
        &mut self.run
    }
}

/// The columns of `pipeline_runs` about the run's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunLogRow {
    /// The position at which the run's output begins.
    pub start: u64,
    /// The position at which the run's output ends; known only after an observed end.
    pub end: Option<u64>,
    /// Whether the run has ended.
    pub is_over: bool,
    /// Whether the run was seen running.
    pub was_seen: bool,
    /// The time of the run's commit.
    pub created_at: Timestamp,
}

/// A run as the list of scripts needs it. Columns that most of its runs do not need are read on demand.
#[derive(Debug)]
pub struct LatestRun<'r, 's> {
    /// The run's id.
    pub id: i64,
    /// The script, as the client named it.
    pub script: &'r str,
    row: &'r Row<'s>,
}

impl<'r, 's> LatestRun<'r, 's> {
    /// The columns that a query must select.
    pub(super) const COLUMNS: &'static str = "id, script, status, started_at, stopped_at, paused_ms";

    pub(super) fn from_row(row: &'r Row<'s>) -> rusqlite::Result<Self> {
        let script = row.get_ref("script")?.as_str().map_err(|_| rusqlite::Error::InvalidQuery)?;
        Ok(Self { id: row.get("id")?, script, row })
    }

    /// Returns how long the run took without its pauses, in milliseconds; `None` unless it completed.
    pub fn completed_in_ms(&self) -> rusqlite::Result<Option<u64>> {
        let status: RunStatus = self.row.get("status")?;
        let (started_at, stopped_at): (Option<Timestamp>, Option<Timestamp>) =
            (self.row.get("started_at")?, self.row.get("stopped_at")?);
        let (Some(started_at), Some(stopped_at)) = (started_at, stopped_at) else { return Ok(None) };
        // The clock may have been set back meanwhile.
        let took_ms = u64::try_from(stopped_at.unix_ms() - started_at.unix_ms()).unwrap_or(0);
        let paused_ms = count(self.row, "paused_ms")?;
        Ok((status == RunStatus::Completed).then(|| took_ms.saturating_sub(paused_ms)))
    }
}

/// All stops of a run as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopRow {
    /// The grace of the latest stop, in milliseconds.
    pub grace_ms: u64,
    /// The origin of the first stop.
    pub origin: Option<Origin>,
}

/// Converts a count to the signed number that `SQLite` stores. A count that is too large becomes the maximum.
pub(super) fn stored(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

// A database from another machine can have any number in a column. A number that does not fit is read as the nearest one that
// does: nothing depends on it, so it must not make the row unreadable.

/// Reads a count; 0 if it is null.
pub(super) fn count(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    Ok(optional_count(row, column)?.unwrap_or(0))
}

/// Reads a count as a length in memory.
pub(super) fn bytes(row: &Row<'_>, column: &str) -> rusqlite::Result<usize> {
    Ok(usize::try_from(count(row, column)?).unwrap_or(usize::MAX))
}

fn optional_count(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(|number| u64::try_from(number).unwrap_or(0)))
}

/// Reads the process id of a leader.
fn pid(row: &Row<'_>) -> rusqlite::Result<Option<u32>> {
    Ok(optional_count(row, "pid")?.map(|pid| u32::try_from(pid).unwrap_or(u32::MAX)))
}

/// Reads an exit code, or the number of a signal.
pub(super) fn code(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<i32>> {
    let nearest = |number: i64| i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX });
    Ok(row.get::<_, Option<i64>>(column)?.map(nearest))
}

/// Reads the JSON value of a column; `None` if it is null.
fn json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<T>> {
    let index = row.as_ref().column_index(column)?;
    let parse = |text: &str| {
        serde_json::from_str(text)
            .map_err(|e| rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, Box::new(e)))
    };
    row.get_ref(index)?.as_str_or_null()?.map(parse).transpose()
}

/// Reads the origin in a column. An origin of a newer version counts as unknown, as in messages: nothing depends on it, so it
/// must not make the row unreadable.
fn origin(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<Origin>> {
    let value: Option<serde_json::Value> = json(row, column)?;
    Ok(value.map(|value| Origin::read(value).unwrap_or_default()))
}

/// Reads the arguments of a run.
pub(super) fn args(row: &Row<'_>) -> rusqlite::Result<Vec<String>> {
    Ok(json(row, "args")?.unwrap_or_default())
}

fn killed(row: &Row<'_>) -> rusqlite::Result<Killed> {
    // If one of its numbers does not fit, the list counts as empty.
    let named = json(row, "killed").unwrap_or_default().unwrap_or_default();
    Ok(Killed { named, count: count(row, "killed_count")? })
}

/// Converts an origin to the text of its column.
pub(super) fn stored_origin(origin: Option<Origin>) -> Option<String> {
    origin.map(|origin| serde_json::to_string(&origin).expect("words and numbers are JSON"))
}

/// Converts the killed processes to the values of their two columns.
pub(super) fn stored_killed(killed: &Killed) -> Option<(String, i64)> {
    (!killed.is_empty())
        .then(|| (serde_json::to_string(&killed.named).expect("numbers and texts are JSON"), stored(killed.count)))
}

impl PipelineRow {
    /// Reads the row. A missing row is an error: the schema creates one, and this program never deletes it.
    pub(super) fn read(conn: &Connection) -> rusqlite::Result<Self> {
        conn.prepare_cached("SELECT * FROM pipeline_state WHERE id = 1")?.query_row([], |row| {
            Ok(Self {
                state: row.get("state")?,
                pid: pid(row)?,
                run_id: row.get("run_id")?,
                started_at: row.get("started_at")?,
                paused_at: row.get("paused_at")?,
                resumed_at: row.get("resumed_at")?,
                stopped_at: row.get("stopped_at")?,
                updated_at: row.get("updated_at")?,
                version: count(row, "version")?,
            })
        })
    }
}

impl RunRow {
    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let ending = Ending {
            status: row.get("status")?,
            exit_code: code(row, "exit_code")?,
            signal: code(row, "signal")?,
            stopped_by: origin(row, "stopped_by")?,
            started_at: row.get("started_at")?,
            stopped_at: row.get("stopped_at")?,
        };
        let Ending { status, exit_code, signal, stopped_by, started_at, stopped_at } = ending;
        let run = Run {
            id: row.get("id")?,
            status,
            outcome: Outcome::of(ending),
            pid: pid(row)?,
            script: row.get("script")?,
            cwd: row.get("cwd")?,
            args: args(row)?,
            created_at: row.get("created_at")?,
            started_at,
            stopped_at,
            started_by: origin(row, "started_by")?,
            stopped_by,
            exit_code,
            signal,
            paused_ms: count(row, "paused_ms")?,
            cpu_user_ms: optional_count(row, "cpu_user_ms")?,
            cpu_system_ms: optional_count(row, "cpu_system_ms")?,
            max_rss_kb: optional_count(row, "max_rss_kb")?,
            error: row.get("error")?,
            containment: row.get("containment")?,
            env_names: json(row, "env_names")?.unwrap_or_default(),
            grace_ms: optional_count(row, "grace_ms")?,
            oom_kills: optional_count(row, "oom_kills")?,
            memory_peak_bytes: optional_count(row, "memory_peak_bytes")?,
        };
        Ok(Self {
            run,
            killed: killed(row)?,
            start_cwd: row.get("start_cwd")?,
            log_start: count(row, "log_start")?,
            log_end: optional_count(row, "log_end")?,
        })
    }

    /// Reads the run with this id.
    pub(super) fn read(conn: &Connection, id: i64) -> rusqlite::Result<Option<Self>> {
        conn.prepare_cached("SELECT * FROM pipeline_runs WHERE id = ?1")?.query_row([id], Self::from_row).optional()
    }

    /// Reads the run with the highest id.
    pub(super) fn latest(conn: &Connection) -> rusqlite::Result<Option<Self>> {
        conn.prepare_cached("SELECT * FROM pipeline_runs ORDER BY id DESC LIMIT 1")?.query_row([], Self::from_row).optional()
    }
}

impl RunLogRow {
    /// Reads the row of the run with this id.
    pub(super) fn read(conn: &Connection, id: i64) -> rusqlite::Result<Option<Self>> {
        let sql = "SELECT log_start, log_end, stopped_at IS NOT NULL AS is_over, started_at IS NOT NULL AS was_seen, created_at
             FROM pipeline_runs WHERE id = ?1";
        conn.prepare_cached(sql)?
            .query_row([id], |row| {
                Ok(Self {
                    start: count(row, "log_start")?,
                    end: optional_count(row, "log_end")?,
                    is_over: row.get("is_over")?,
                    was_seen: row.get("was_seen")?,
                    created_at: row.get("created_at")?,
                })
            })
            .optional()
    }
}

impl StopRow {
    /// Reads the stops of a run.
    pub(super) fn read(conn: &Connection, run_id: i64) -> rusqlite::Result<Option<Self>> {
        events_in_order(conn, run_id)?;
        let sql = "SELECT grace_ms, origin FROM pipeline_events WHERE run_id = ?1 AND kind = 'stopping' ORDER BY seq";
        let mut statement = conn.prepare_cached(sql)?;
        let mut stops = statement
            .query_map([run_id], |row| Ok(Self { grace_ms: count(row, "grace_ms")?, origin: origin(row, "origin")? }))?;
        stops.try_fold(None, |first: Option<Self>, next| {
            let next = next?;
            Ok(Some(Self { grace_ms: next.grace_ms, ..first.unwrap_or(next) }))
        })
    }
}

/// Returns the numbers that a statement selects, which must be ascending.
///
/// Pages of a damaged file can refer to the same page again and again, so that a megabyte has more rows than could ever be read.
/// But these rows are not in order, so a statement that reads all rows of a table in the order of its key ends here.
pub(super) fn ascending(conn: &Connection, sql: &str, params: impl Params) -> rusqlite::Result<Vec<i64>> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut numbers = Vec::new();
    while let Some(row) = rows.next()? {
        let number = row.get(0)?;
        if numbers.last().is_some_and(|last| *last >= number) {
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_CORRUPT), None));
        }
        numbers.push(number);
    }
    Ok(numbers)
}

/// Refuses a run whose events cannot be read to the end, see [`ascending`].
pub(super) fn events_in_order(conn: &Connection, run_id: i64) -> rusqlite::Result<()> {
    ascending(conn, "SELECT seq FROM pipeline_events WHERE run_id = ?1 ORDER BY seq", [run_id]).map(drop)
}

/// Returns an event with only these fields.
pub(super) fn event(seq: u64, at: Timestamp, kind: &str) -> Event {
    Event {
        seq,
        at,
        kind: kind.to_owned(),
        from_state: None,
        to_state: None,
        cause: None,
        origin: None,
        pid: None,
        exit_code: None,
        signal: None,
        signal_name: None,
        grace_ms: None,
        paused_ms: None,
        oom_kills: None,
        detail: None,
        killed: Killed::default(),
    }
}

/// Returns all events of a run, oldest first.
pub(super) fn events_of(conn: &Connection, run_id: i64) -> rusqlite::Result<Vec<Event>> {
    events_in_order(conn, run_id)?;
    conn.prepare_cached("SELECT * FROM pipeline_events WHERE run_id = ?1 ORDER BY seq")?
        .query_map([run_id], event_of_row)?
        .collect()
}

/// Converts a row to an event.
pub(super) fn event_of_row(row: &Row<'_>) -> rusqlite::Result<Event> {
    let signal = code(row, "signal")?;
    let cause: Option<Cause> = row.get("cause")?;
    Ok(Event {
        seq: count(row, "seq")?,
        at: row.get("at")?,
        kind: row.get("kind")?,
        from_state: row.get("from_state")?,
        to_state: row.get("to_state")?,
        cause: cause.map(|cause| cause.to_string()),
        origin: origin(row, "origin")?,
        pid: pid(row)?,
        exit_code: code(row, "exit_code")?,
        signal,
        signal_name: signal.and_then(signal_name).map(str::to_owned),
        grace_ms: optional_count(row, "grace_ms")?,
        paused_ms: optional_count(row, "paused_ms")?,
        oom_kills: optional_count(row, "oom_kills")?,
        detail: row.get("detail")?,
        killed: killed(row)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{NewRun, Store};

    #[test]
    fn row_with_origin_of_newer_version_is_readable() {
        let mut store = Store::in_memory();
        let new = NewRun {
            script: "a.sh".into(),
            cwd: "/".into(),
            args: Vec::new(),
            log_start: 0,
            origin: Some(Origin::Schedule),
            ..NewRun::default()
        };
        let id = store.begin_run(&new, None, Timestamp::from_unix_ms(0)).expect("begins");
        assert_eq!(store.run(id).expect("readable").expect("there").started_by, Some(Origin::Schedule));
        for newer in
            [r#"{"by":"weather"}"#, r#"{"by":"client","role":"guest","uid":0}"#, r#"{"by":"client","role":"operator","door":1}"#]
        {
            store.conn.execute("UPDATE pipeline_runs SET started_by = ?1", [newer]).expect("writes");
            store.conn.execute("UPDATE pipeline_events SET origin = ?1", [newer]).expect("writes");
            assert_eq!(store.run(id).expect("readable").expect("there").started_by, Some(Origin::Unknown), "{newer}");
            let events = events_of(&store.conn, id).expect("readable");
            assert_eq!(events[0].origin, Some(Origin::Unknown), "{newer}");
        }
    }
}
