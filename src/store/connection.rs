//! The only connection that writes: opening it, its timeout for locks of other processes, and each change as one transaction.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::change::{self, KIND_LOST, KIND_SPAWN_FAILED, KIND_STARTING, NewRun, UnseenEnd};
use super::error::{StoreError, StoreErrorKind};
use super::file::DatabaseFile;
use super::history;
use super::index::Index;
use super::open::{self, BUSY_TIMEOUT};
use super::rows::{self, PipelineRow, RunRow, StopRow};
use crate::clock::Timestamp;
use crate::pipeline::{Cause, Entry, Killed, Transition};

/// How long the writer waits for a lock that another process holds. This blocks the supervisor's thread.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);

/// The timeout while the lock is known to be held: no wait, except in [`Store::try_writing`], which finds out when the lock is
/// released. If another process takes the lock again and again, a few attempts in quick succession can find a gap that a single
/// attempt would miss.
pub(super) const PATIENCE_WHILE_LOCKED: Duration = Duration::ZERO;
const PATIENCE_OF_A_TRIAL: Duration = Duration::from_millis(20);

/// The only connection that writes.
#[derive(Debug)]
pub struct Store {
    pub(super) conn: Connection,
    pub(super) file: DatabaseFile,
    /// Declared after the connection, which is closed first.
    pub(super) index: Index,
    /// True if the last commit was not synced, so that the next synced change must restore the setting.
    pub(super) is_relaxed: bool,
    /// How long to wait now for a lock of another process.
    pub(super) patience: Cell<Duration>,
}

/// An opened database.
#[derive(Debug)]
pub struct Opened {
    /// The connection.
    pub store: Store,
    /// The migrations that were applied just now, such as `V1__first_release`.
    pub applied: Vec<String>,
}

/// Applies the missing migrations to the database at `path`, and creates it if it does not exist. Returns the names of the
/// migrations that were applied. Idempotent.
pub fn migrate(path: &Path) -> Result<Vec<String>, StoreError> {
    Store::open(path).map(|opened| opened.applied)
}

impl Store {
    /// Opens the database at `path` and brings its schema up to date. Creates a missing file with mode 0600, but not its folder.
    /// Refuses a file that is damaged, newer, of another program or not writable, and leaves it unchanged.
    pub fn open(path: &Path) -> Result<Opened, StoreError> {
        let (conn, applied) = open::open(path).map_err(|kind| StoreError::new(path, kind.found()))?;
        let patience = Cell::new(BUSY_TIMEOUT);
        let store = Self { conn, file: DatabaseFile::at(path), index: Index::of(path), is_relaxed: false, patience };
        store.be_patient_for(PATIENCE);
        Ok(Opened { store, applied })
    }

    /// Returns the pipeline's row.
    pub fn row(&self) -> Result<PipelineRow, StoreError> {
        self.read(PipelineRow::read)
    }

    /// Returns the run with the highest id; `None` before the first run.
    pub fn latest_run(&self) -> Result<Option<RunRow>, StoreError> {
        self.read(RunRow::latest)
    }

    /// Returns the run with this id.
    pub fn run(&self, id: i64) -> Result<Option<RunRow>, StoreError> {
        self.read(|conn| RunRow::read(conn, id))
    }

    /// Returns the number of the last recorded fact of the run's journal, or 0. Events that the store itself added do not count.
    pub fn last_seq(&self, run_id: i64) -> Result<u64, StoreError> {
        let seq: Option<i64> = self.read(|conn| {
            rows::events_in_order(conn, run_id)?;
            conn.prepare_cached(
                "SELECT max(seq) FROM pipeline_events WHERE run_id = ?1 AND kind NOT IN (?2, ?3) AND NOT (kind = ?4 AND cause IS ?5)",
            )?
            .query_row((run_id, KIND_STARTING, KIND_LOST, KIND_SPAWN_FAILED, Cause::Recovery), |row| row.get(0))
        })?;
        Ok(seq.and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0))
    }

    /// Returns the recorded stops of the run as one; `None` if no stop was requested.
    pub fn stop_of(&self, run_id: i64) -> Result<Option<StopRow>, StoreError> {
        self.read(|conn| StopRow::read(conn, run_id))
    }

    /// Returns the highest position in the log, up to this one, that any run is known to have reached, in bytes; 0 before the first
    /// run.
    pub fn log_position_max(&self, up_to: u64) -> Result<u64, StoreError> {
        // Each run begins at the position where the runs before it ended, so the latest runs are enough. More than one is read,
        // because a run that was recorded without a readable journal has an unknown position, stored as 0.
        let sql = "SELECT coalesce(max(position), 0) AS position FROM
             (SELECT coalesce(log_end, log_start) AS position FROM pipeline_runs ORDER BY id DESC LIMIT 64)
             WHERE position <= ?1";
        self.read(|conn| conn.prepare_cached(sql)?.query_row([rows::stored(up_to)], |row| rows::count(row, "position")))
    }

    /// Returns the id that the next run gets.
    pub fn next_run_id(&self) -> Result<i64, StoreError> {
        self.read(|conn| Ok(change::highest_id(conn, "pipeline_runs")?.saturating_add(1)))
    }

    /// Prevents new runs from getting an id up to `highest`: directories of these ids exist, or existed before the database was
    /// removed. The pipeline does not change, so `version` stays.
    pub fn reserve_run_ids(&mut self, highest: i64) -> Result<(), StoreError> {
        self.write(|tx| {
            if change::highest_id(tx, "pipeline_runs")? < highest {
                // AUTOINCREMENT uses the successor of this value: https://www.sqlite.org/autoinc.html
                tx.execute("DELETE FROM sqlite_sequence WHERE name = 'pipeline_runs'", [])?;
                tx.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('pipeline_runs', ?1)", [highest])?;
            }
            Ok(())
        })
    }

    /// Commits a run that is missing in the database but whose shim is alive, because the database was lost meanwhile. Its
    /// journal, recorded from the beginning, supplies the rest.
    pub fn adopt_unknown_run(&mut self, id: i64, new: &NewRun, at: Timestamp) -> Result<i64, StoreError> {
        self.write(|tx| change::begin(tx, Some(id), new, at, Cause::Recovery))
    }

    /// Records facts of a run in the order of its journal, all in one transaction. Facts that are already recorded change
    /// nothing. A transition must start from the stored state and belong to the latest run, which must be live. Otherwise the
    /// call fails with [`StoreErrorKind::Conflict`] and records nothing. Returns the pipeline's new row.
    pub fn record_all(&mut self, run_id: i64, facts: &[(Entry, Option<Transition>)]) -> Result<PipelineRow, StoreError> {
        self.write(|tx| {
            facts
                .iter()
                .try_fold(PipelineRow::read(tx)?, |row, (entry, transition)| change::record(tx, run_id, entry, *transition, row))
        })
    }

    /// Ends the latest run, which is recorded as live, without an observed end. `error` is the reason, for users; `killed` are
    /// the processes that recovery killed.
    pub fn end_run(
        &mut self,
        run_id: i64,
        end: UnseenEnd,
        at: Timestamp,
        error: &str,
        killed: &Killed,
    ) -> Result<PipelineRow, StoreError> {
        self.write(|tx| change::end(tx, run_id, end, at, error, killed))
    }

    /// Returns the database's file.
    pub fn file(&self) -> &DatabaseFile {
        &self.file
    }

    /// Removes runs that have ended from the history, with their events; never the latest.
    pub fn forget_runs(&mut self, ids: &[i64]) -> Result<(), StoreError> {
        self.write(|tx| {
            for id in ids {
                rows::events_in_order(tx, *id)?;
                tx.prepare_cached(
                    "DELETE FROM pipeline_runs
                     WHERE id = ?1 AND stopped_at IS NOT NULL AND id <> (SELECT max(id) FROM pipeline_runs)",
                )?
                .execute([id])?;
            }
            Ok(())
        })
    }

    /// Increments `version` for a change that is not stored here but that clients wait for, such as an action that is now
    /// pending.
    pub fn touch(&mut self, at: Timestamp) -> Result<PipelineRow, StoreError> {
        // No sync: after a power cut, no client waits for this version any more.
        self.write_unsynced(|tx| {
            let mut row = PipelineRow::read(tx)?;
            row.version += 1;
            row.updated_at = row.updated_at.max(at);
            tx.prepare_cached("UPDATE pipeline_state SET version = ?1, updated_at = ?2 WHERE id = 1")?
                .execute((rows::stored(row.version), row.updated_at))?;
            Ok(row)
        })
    }

    /// Writes a value that is already stored, to find out whether the database accepts writes. `Ok` means that it does again.
    pub fn try_writing(&mut self) -> Result<(), StoreError> {
        self.be_patient_for(self.patience.get().max(PATIENCE_OF_A_TRIAL));
        self.write(|tx| {
            // An UPDATE to the same values writes nothing, but the header's page is written whatever the value is.
            Ok(tx.pragma_update(None, "application_id", history::APPLICATION_ID)?)
        })
    }

    fn synchronous(&self, mode: &str) -> Result<(), StoreError> {
        self.conn.pragma_update(None, "synchronous", mode).map_err(|e| StoreError::new(self.file.path(), e))
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let done = self.let_in().and_then(|()| Ok(read(&self.conn)?));
        done.map_err(|kind| StoreError::new(self.file.path(), kind)).inspect_err(|error| self.learn_of_failure(error))
    }

    /// Fails if another process locks readers out, and with them the writer.
    fn let_in(&self) -> Result<(), StoreErrorKind> {
        if self.index.keeps_readers_out() { Err(StoreErrorKind::Busy) } else { Ok(()) }
    }

    /// Notes a failed wait for a lock, so that no caller waits for the same lock again. The next successful change shows that the
    /// lock was released. A successful read proves nothing, because a writer does not lock readers out.
    fn learn_of_failure(&self, error: &StoreError) {
        if matches!(error.kind, StoreErrorKind::Busy) {
            self.be_patient_for(PATIENCE_WHILE_LOCKED);
        }
    }

    pub(super) fn be_patient_for(&self, patience: Duration) {
        if self.patience.replace(patience) != patience {
            self.conn.busy_timeout(patience).expect("SQLite takes every number");
        }
    }

    /// Runs `change` as one transaction without a sync, which is the only slow part: a kill keeps the change, but a power cut can
    /// lose it.
    pub(super) fn write_unsynced<T>(
        &mut self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, StoreErrorKind>,
    ) -> Result<T, StoreError> {
        self.is_relaxed = true;
        self.synchronous("NORMAL")?;
        self.change(change)
    }

    /// Runs `change` as one transaction that is on the disk when this returns.
    pub(super) fn write<T>(
        &mut self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, StoreErrorKind>,
    ) -> Result<T, StoreError> {
        if self.is_relaxed {
            self.synchronous("FULL")?;
            self.is_relaxed = false;
        }
        self.change(change)
    }

    /// Runs `change` as one transaction. IMMEDIATE takes the write lock at once, so no other process writes between the reads and
    /// the writes, and a busy file is known before anything is done. Dropping the transaction rolls it back.
    fn change<T>(&mut self, change: impl FnOnce(&Transaction<'_>) -> Result<T, StoreErrorKind>) -> Result<T, StoreError> {
        let let_in = self.let_in();
        let Self { conn, file, .. } = &mut *self;
        let done = let_in.and_then(|()| file.check()).and_then(|()| {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = change(&tx)?;
            tx.commit()?;
            Ok(value)
        });
        let done = done.map_err(|kind| StoreError::new(file.path(), kind));
        match &done {
            Ok(_) => self.be_patient_for(PATIENCE),
            Err(error) => self.learn_of_failure(error),
        }
        done
    }
}
