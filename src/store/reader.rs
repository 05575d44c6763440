//! Reads the database next to the writer. HTTP threads open a reader for each use and never keep it.
//!
//! With WAL it reads while the writer writes, and sees only whole transactions (<https://www.sqlite.org/wal.html>).

use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Params, Row};

use super::error::{StoreError, StoreErrorKind};
use super::file::DatabaseFile;
use super::hardening::harden;
use super::rows::{self, LatestRun, RunLogRow, RunRow};
use super::runs::{self, RunFilter, RunsPage};
use super::{open, request_keys};
use crate::api::events::RunEvent;
use crate::api::runs::{CompletedRun, Event};
use crate::clock::Timestamp;
use crate::lock::lock;

/// How long a reader waits for a lock that another process holds. A process that writes does not lock readers out, but one with
/// exclusive access (`locking_mode=EXCLUSIVE`) does.
const PATIENCE: Duration = Duration::from_millis(500);

/// The maximum number of events that are read at once.
const EVENTS_MAX: u32 = 500;

/// The maximum number of readers in this process. Others wait until a reader is dropped. Each reader uses two descriptors, and
/// clients with hundreds of connections must not leave the writer and new runs without any.
const READERS_MAX: usize = 4;

static READERS: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// A permit to read. A thread that holds one must not request another.
#[derive(Debug)]
struct Turn;

impl Turn {
    fn wait() -> Self {
        let (readers, ended) = &READERS;
        let is_full = |readers: &mut usize| *readers >= READERS_MAX;
        *ended.wait_while(lock(readers), is_full).unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (readers, ended) = &READERS;
        *lock(readers) -= 1;
        ended.notify_one();
    }
}

/// A connection that cannot write.
#[derive(Debug)]
pub struct Reader {
    pub(super) conn: Connection,
    path: PathBuf,
    /// Declared after `conn`, because fields are dropped in declaration order.
    _turn: Turn,
}

impl Reader {
    /// Opens the database, which must exist and be the file that the store opened. Reads nothing yet.
    pub fn open(file: &DatabaseFile) -> Result<Self, StoreError> {
        let path = file.path();
        let turn = Turn::wait();
        let open = || {
            if !path.exists() {
                return Err(StoreErrorKind::Missing);
            }
            file.check()?;
            open::files_beside(path)?;
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let conn = Connection::open_with_flags(open::absolute(path)?, flags)?;
            harden(&conn)?;
            conn.busy_timeout(PATIENCE)?;
            conn.execute_batch("PRAGMA query_only = 1")?;
            Ok(conn)
        };
        let conn = open().map_err(|kind| StoreError::new(path, kind))?;
        Ok(Self { conn, path: path.to_owned(), _turn: turn })
    }

    /// Returns the time of the database's clock. It is queried together with a row, so a result proves that the file can be read.
    pub fn time(&self) -> Result<String, StoreError> {
        self.read(|conn| {
            conn.query_row("SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now') FROM pipeline_state WHERE id = 1", [], |row| row.get(0))
        })
    }

    /// Returns at most `limit` of the selected runs, newest first, and fewer if they are large. With `before`, these are runs
    /// with lower ids. Without it, the result also contains the number of runs, from the same snapshot.
    pub fn runs(&self, before: Option<i64>, limit: u32, filter: &RunFilter) -> Result<RunsPage, StoreError> {
        self.read(|conn| {
            let tx = conn.unchecked_transaction()?;
            let mut page = RunsPage::read(&tx, before.unwrap_or(i64::MAX), limit, filter)?;
            page.counts = if before.is_none() { Some(runs::count(&tx)?) } else { None };
            Ok(page)
        })
    }

    /// Returns the ids of the oldest and the newest request key, each 0 if no key is stored.
    pub fn request_key_ids(&self) -> Result<(i64, i64), StoreError> {
        self.read(request_keys::oldest_and_newest)
    }

    /// Returns the durations of the latest completed runs of this script before run `before`, the latest first; at most five.
    pub fn completed_before(&self, script: &str, before: i64) -> Result<Vec<CompletedRun>, StoreError> {
        self.read(|conn| runs::completed_before(conn, script, before))
    }

    /// Passes the latest runs to `look`, at most `limit` of them, newest first.
    pub fn latest_runs(
        &self,
        limit: u32,
        mut look: impl FnMut(LatestRun<'_, '_>) -> rusqlite::Result<()>,
    ) -> Result<(), StoreError> {
        let sql = format!("SELECT {} FROM pipeline_runs ORDER BY id DESC LIMIT ?1", LatestRun::COLUMNS);
        self.read(|conn| {
            let mut statement = conn.prepare_cached(&sql)?;
            let mut rows = statement.query([limit])?;
            while let Some(row) = rows.next()? {
                look(LatestRun::from_row(row)?)?;
            }
            Ok(())
        })
    }

    /// Returns the run with this id and its events, oldest first, from the same snapshot.
    pub fn run(&self, id: i64) -> Result<Option<(RunRow, Vec<Event>)>, StoreError> {
        self.read(|conn| {
            let tx = conn.unchecked_transaction()?;
            let Some(run) = RunRow::read(&tx, id)? else { return Ok(None) };
            let events = rows::events_of(&tx, id)?;
            Ok(Some((run, events)))
        })
    }

    /// Returns the run with this id, without its events.
    pub fn run_alone(&self, id: i64) -> Result<Option<RunRow>, StoreError> {
        self.read(|conn| RunRow::read(conn, id))
    }

    /// Returns the events after event `seq` of run `run_id`, in order; at most `EVENTS_MAX`.
    pub fn events_after(&self, run_id: i64, seq: u64) -> Result<Vec<RunEvent>, StoreError> {
        let sql = "SELECT * FROM pipeline_events WHERE (run_id, seq) > (?1, ?2) ORDER BY run_id, seq LIMIT ?3";
        self.list(sql, (run_id, rows::stored(seq), EVENTS_MAX), |row| {
            Ok(RunEvent { run_id: row.get("run_id")?, event: rows::event_of_row(row)? })
        })
    }

    /// Returns the last event: the run, and the event's number in it.
    pub fn last_event(&self) -> Result<Option<(i64, u64)>, StoreError> {
        let sql = "SELECT run_id, seq FROM pipeline_events ORDER BY run_id DESC, seq DESC LIMIT 1";
        Ok(self.list(sql, (), |row| Ok((row.get(0)?, rows::count(row, "seq")?)))?.pop())
    }

    /// Returns the oldest runs with ids above `after`, at most `limit` of them, and whether each has ended.
    pub fn oldest_runs(&self, after: i64, limit: usize) -> Result<Vec<(i64, bool)>, StoreError> {
        let sql = "SELECT id, stopped_at IS NOT NULL FROM pipeline_runs WHERE id > ?1 ORDER BY id LIMIT ?2";
        self.list(sql, (after, i64::try_from(limit).unwrap_or(i64::MAX)), |row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// Returns the number of runs with ids above `above` and up to `up_to`, and the highest of these ids.
    pub fn count_runs(&self, above: i64, up_to: i64) -> Result<(u64, Option<i64>), StoreError> {
        self.read(|conn| {
            conn.prepare_cached("SELECT count(*), max(id) FROM pipeline_runs WHERE id > ?1 AND id <= ?2")?
                .query_row((above, up_to), |row| Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get(1)?)))
        })
    }

    /// Returns the ids of all runs, ascending.
    pub fn run_ids(&self) -> Result<Vec<i64>, StoreError> {
        self.read(|conn| rows::ascending(conn, "SELECT id FROM pipeline_runs ORDER BY id", ()))
    }

    /// Returns the run that has not ended.
    pub fn live_run(&self) -> Result<Option<i64>, StoreError> {
        Ok(self.list("SELECT id FROM pipeline_runs WHERE stopped_at IS NULL LIMIT 1", (), |row| row.get(0))?.pop())
    }

    /// Returns a run's row; `None` if the run does not exist.
    pub fn run_row(&self, id: i64) -> Result<Option<RunRow>, StoreError> {
        self.read(|conn| RunRow::read(conn, id))
    }

    /// Returns the position of a run's log; `None` if the run does not exist.
    pub fn run_log(&self, id: i64) -> Result<Option<RunLogRow>, StoreError> {
        self.read(|conn| RunLogRow::read(conn, id))
    }

    /// Returns the runs whose observed end was before `at`, in the order of their ids. Runs without an observed end are left out,
    /// because the log may still contain output of them.
    pub fn runs_over_before(&self, at: Timestamp) -> Result<Vec<i64>, StoreError> {
        let sql = "SELECT id FROM pipeline_runs WHERE stopped_at < ?1 AND log_end IS NOT NULL ORDER BY id";
        self.list(sql, [at], |row| row.get(0))
    }

    fn list<T>(
        &self,
        sql: &str,
        params: impl Params,
        of_row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        self.read(|conn| conn.prepare_cached(sql)?.query_map(params, of_row)?.collect())
    }

    fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        read(&self.conn).map_err(|e| StoreError::new(&self.path, e))
    }
}
