//! Reads the history: pages of runs, which can be filtered, the number of runs, and the durations of completed runs.
//!
//! Every result is bounded in rows and bytes, however many runs a file has or claims to have.

use memchr::memmem::Finder;
use rusqlite::{Connection, Row};

use super::rows::{self, RunRow};
use crate::api::runs::{CompletedRun, OutcomeFilter, RUNS_COUNTED_MAX, RUNS_SEARCHED_MAX, RunCounts};
use crate::clock::Timestamp;
use crate::pipeline::{OutcomeKind, took_ms};

/// The maximum size of the arguments and names of variables in one page of runs, in bytes of JSON. The run that reaches it is the
/// last of the page.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// The maximum amount of text that one search examines, in bytes. The run that reaches it is the last one examined.
const SEARCHED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The number of completed runs from which a script's usual duration is estimated.
const COMPLETED_MAX: u32 = 5;

/// The query for the runs of a page, newest first, each with the length of its texts, which `SQLite` knows without reading them
/// (<https://www.sqlite.org/lang_corefunc.html#octet_length>). The columns that a search reads come first, because `SQLite` looks
/// a column up from the first one on. That saves a third of a search's time.
const PAGE: &str = "SELECT id, octet_length(script) + octet_length(args) + coalesce(octet_length(error), 0) AS text_bytes,
            status, exit_code, signal, script, error, args, *
     FROM pipeline_runs WHERE id < ?1 ORDER BY id DESC";

pub(super) const COUNT_ALL: &str = "SELECT count(*) FROM (SELECT 1 FROM pipeline_runs LIMIT ?1)";
pub(super) const COUNT_FAILED: &str =
    "SELECT count(*) FROM (SELECT 1 FROM pipeline_runs WHERE status IN ('failed', 'lost') LIMIT ?1)";

pub(super) const COMPLETED_BEFORE: &str = "SELECT id, started_at, stopped_at, paused_ms FROM pipeline_runs
     WHERE status = 'completed' AND script = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3";

/// The filter for the runs of a page: all runs by default.
#[derive(Debug, Default)]
pub struct RunFilter {
    outcomes: Option<Vec<OutcomeFilter>>,
    text: Option<Finder<'static>>,
}

impl RunFilter {
    /// Selects runs that match one of these outcomes and contain this text in their script, arguments, error or id.
    pub fn new(outcomes: Option<Vec<OutcomeFilter>>, text: Option<&str>) -> Self {
        Self { outcomes, text: text.map(|text| Finder::new(&text.to_ascii_lowercase()).into_owned()) }
    }

    fn is_empty(&self) -> bool {
        self.outcomes.is_none() && self.text.is_none()
    }

    fn selects(&self, row: &Row<'_>) -> rusqlite::Result<bool> {
        if let Some(outcomes) = &self.outcomes {
            let kind = OutcomeKind::of(row.get("status")?, rows::code(row, "exit_code")?, rows::code(row, "signal")?);
            if !outcomes.contains(&OutcomeFilter::that_selects(kind)) {
                return Ok(false);
            }
        }
        self.text.as_ref().map_or(Ok(true), |text| has_text(row, text))
    }
}

/// Checks whether a run contains this text, which is in lower case. The arguments count as one text, joined by spaces.
fn has_text(row: &Row<'_>, text: &Finder<'_>) -> rusqlite::Result<bool> {
    let is_in = |field: &str| text.find(field.to_ascii_lowercase().as_bytes()).is_some();
    if is_in(row.get_ref("script")?.as_str()?) || is_in(&row.get::<_, i64>("id")?.to_string()) {
        return Ok(true);
    }
    if row.get_ref("error")?.as_str_or_null()?.is_some_and(is_in) {
        return Ok(true);
    }
    let args = rows::args(row)?;
    Ok(!args.is_empty() && is_in(&args.join(" ")))
}

/// A page of runs.
#[derive(Debug, Default)]
pub struct RunsPage {
    /// Newest first.
    pub runs: Vec<RunRow>,
    /// The `before` of the next page; `None` if no further run is selected.
    pub next_before: Option<i64>,
    /// True if the search ended before it reached its limits.
    pub searched_all: bool,
    /// The number of runs, if it was requested.
    pub counts: Option<RunCounts>,
}

impl RunsPage {
    /// Reads at most `limit` selected runs with ids below `before`, newest first; fewer if their arguments are long, or if the
    /// search reaches its limits.
    pub(super) fn read(conn: &Connection, before: i64, limit: u32, filter: &RunFilter) -> rusqlite::Result<Self> {
        let mut page = Self { searched_all: true, ..Self::default() };
        let (mut examined, mut examined_bytes, mut page_bytes, mut last) = (0, 0, 0, before);
        let mut statement = conn.prepare_cached(PAGE)?;
        let mut rows = statement.query([before])?;
        while let Some(row) = rows.next()? {
            if !filter.is_empty() && (examined >= RUNS_SEARCHED_MAX || examined_bytes >= SEARCHED_BYTES_MAX) {
                page.next_before = Some(last);
                page.searched_all = false;
                break;
            }
            examined += 1;
            examined_bytes += rows::bytes(row, "text_bytes")?;
            last = row.get("id")?;
            if !filter.selects(row)? {
                continue;
            }
            // This run belongs to the next page, which therefore is never empty.
            if page.runs.len() >= limit as usize || page_bytes >= PAGE_BYTES_MAX {
                page.next_before = page.runs.last().map(|run| run.id);
                break;
            }
            page_bytes += row.get_ref("args")?.as_str()?.len() + row.get_ref("env_names")?.as_str()?.len();
            page.runs.push(RunRow::from_row(row)?);
        }
        Ok(page)
    }
}

/// Counts the runs. An index has both numbers, and each count stops at its limit.
pub(super) fn count(conn: &Connection) -> rusqlite::Result<RunCounts> {
    let count = |sql| conn.prepare_cached(sql)?.query_row([RUNS_COUNTED_MAX], |row| row.get(0));
    Ok(RunCounts { all: count(COUNT_ALL)?, failed: count(COUNT_FAILED)? })
}

/// Returns the durations of the latest completed runs of this script before run `before`, the latest first.
pub(super) fn completed_before(conn: &Connection, script: &str, before: i64) -> rusqlite::Result<Vec<CompletedRun>> {
    let of_row = |row: &Row<'_>| {
        let (started_at, stopped_at): (Timestamp, Timestamp) = (row.get("started_at")?, row.get("stopped_at")?);
        let took_ms = took_ms(started_at, stopped_at);
        Ok(CompletedRun { id: row.get("id")?, took_ms, active_ms: took_ms.saturating_sub(rows::count(row, "paused_ms")?) })
    };
    conn.prepare_cached(COMPLETED_BEFORE)?.query_map((script, before, COMPLETED_MAX), of_row)?.collect()
}
