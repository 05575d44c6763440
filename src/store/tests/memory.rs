//! Test-only functions of a store: a database in memory, for tests that need very many of them, and its whole content.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::pipeline::{Entry, Transition};
use crate::store::index::Index;
use crate::store::{DatabaseFile, PipelineRow, Store, StoreError, known};

impl Store {
    /// Creates an empty database with the current schema.
    pub(crate) fn in_memory() -> Self {
        let mut conn = Connection::open_in_memory().expect("memory");
        conn.pragma_update(None, "foreign_keys", 1).expect("SQLite has foreign keys");
        conn.set_prepared_statement_cache_capacity(64);
        known::runner().run(&mut conn).expect("the migrations fit");
        Self {
            conn,
            file: DatabaseFile::at(Path::new("memory")),
            index: Index::none(),
            is_relaxed: false,
            patience: Cell::new(Duration::ZERO),
        }
    }

    /// Deletes everything, as if the file had been removed.
    pub(crate) fn clear(&self) {
        self.execute(
            "DELETE FROM sessions;
             DELETE FROM request_keys;
             DELETE FROM pipeline_events;
             UPDATE pipeline_state SET state = 'stopped', pid = NULL, run_id = NULL, started_at = NULL, paused_at = NULL,
                 resumed_at = NULL, stopped_at = NULL, updated_at = '2020-01-01T00:00:00.000Z', version = 0;
             DELETE FROM pipeline_runs;
             DELETE FROM sqlite_sequence;",
        );
    }

    /// Records one fact; see [`Store::record_all`].
    pub(crate) fn record(
        &mut self,
        run_id: i64,
        entry: &Entry,
        transition: Option<Transition>,
    ) -> Result<PipelineRow, StoreError> {
        self.record_all(run_id, &[(entry.clone(), transition)])
    }

    /// Lets triggers run on this connection. A test uses them to inject faults in the middle of a transaction.
    pub(crate) fn let_triggers_run(&self) {
        self.conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true).expect("SQLite has triggers");
    }

    /// Runs SQL directly, without any rules.
    pub(crate) fn execute(&self, sql: &str) {
        self.conn.execute_batch(sql).expect("good SQL");
    }

    /// Returns the rows of a query as texts, for comparing.
    pub(crate) fn dump(&self, sql: &str) -> Vec<String> {
        let mut statement = self.conn.prepare_cached(sql).expect("good SQL");
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).expect("runs");
        rows.map(|row| row.expect("a text")).collect()
    }
}
