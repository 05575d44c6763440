//! The database: the real store in memory. Every call can fail, take time, or be the server's last. Its invariants are checked
//! after every commit.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::origins::Origins;
use super::shims::moment;
use super::world::{Shared, World};
use crate::clock::Timestamp;
use crate::pipeline::{Conditions, RunStatus};
use crate::store::{PipelineRow, RunRow, Store, StoreError, StoreErrorKind};
use crate::supervisor::records::Records;
use crate::supervisor::snapshot::Snapshot;

const EVENTS: &str = "SELECT printf('%05d %05d ', run_id, seq) || at || ' ' || kind || ' ' || coalesce(from_state, '-') || ' ' ||
    coalesce(to_state, '-') || ' ' || coalesce(cause, '-') || ' ' ||
    coalesce(json_extract(origin, '$.uid'), json_extract(origin, '$.by'), '-') || ' ' || coalesce(detail, '-') FROM pipeline_events ORDER BY run_id, seq";

const ENDED_RUNS: &str = "SELECT printf('%05d ', id) || status || ' ' || coalesce(started_at, '-') || ' ' || stopped_at || ' ' ||
    coalesce(exit_code, '-') || ' ' || coalesce(signal, '-') || ' ' || paused_ms || ' ' || log_start || ' ' ||
    coalesce(log_end, '-') || ' ' || coalesce(started_by, '-') || coalesce(stopped_by, '-') || ' ' || coalesce(error, '-') FROM pipeline_runs WHERE stopped_at IS NOT NULL ORDER BY id";

/// The database file, which outlives every server.
pub(super) struct Database {
    pub(super) store: Store,
    /// The committed states, by version.
    committed: BTreeMap<u64, Snapshot>,
    pub(super) version: u64,
    /// The latest version that survives a power cut, and its time.
    synced: (u64, Timestamp),
    /// The events and ended runs of the last audit, which must not change.
    events: Vec<String>,
    ended: Vec<String>,
}

pub(super) type SharedDatabase = Rc<RefCell<Database>>;

impl Database {
    pub(super) fn new(store: Store) -> Self {
        store.clear();
        let synced = (0, Timestamp::from_unix_ms(0));
        let mut database = Self { store, committed: BTreeMap::new(), version: 0, synced, events: Vec::new(), ended: Vec::new() };
        database.forget();
        database
    }

    /// Removes the file.
    pub(super) fn remove(&mut self) {
        self.store.clear();
        self.forget();
    }

    fn forget(&mut self) {
        let row = self.store.row().expect("a row");
        self.version = row.version;
        self.synced = (row.version, row.updated_at);
        self.committed = BTreeMap::from([(row.version, plain(&row, None))]);
        (self.events, self.ended) = (Vec::new(), Vec::new());
    }

    /// Records the state that was just committed.
    fn learn(&mut self, is_synced: bool, world: &mut World) {
        let row = self.store.row().expect("reads");
        let run = self.store.latest_run().expect("reads");
        if row.version < self.version {
            world.env.violate(|| format!("the stored version goes back from {} to {}", self.version, row.version));
        }
        self.version = row.version;
        if is_synced {
            self.synced = (row.version, row.updated_at);
        }
        if let Some(run) = &run {
            learn_run(run, world);
        }
        world.env.note(|| {
            let run = run.as_ref().map(|run| format!("run {} is {}", run.id, run.status)).unwrap_or_default();
            format!("committed: version {}, {}, {run}", row.version, row.state)
        });
        self.committed.insert(row.version, plain(&row, run.as_ref()));
        world.check();
    }

    /// Simulates a power cut, which can lose a commit that was not synced.
    pub(super) fn lose_power(&mut self, world: &mut World) {
        let (version, at) = self.synced;
        if version < self.version && world.env.rng.chance(500) {
            world.env.cover("a power cut took a count of the version");
            self.store.execute(&format!("UPDATE pipeline_state SET version = {version}, updated_at = '{at}'"));
            self.committed.retain(|&committed, _| committed <= version);
            self.version = version;
        }
    }

    /// Checks that a published state is the one committed under its version.
    pub(super) fn judge(&self, published: &Snapshot) -> Result<(), String> {
        let mut published = published.clone();
        let told = &mut published.pipeline;
        (told.pending, told.pending_origin) = (None, None);
        (told.kill_at, told.allowed) = (None, Vec::new());
        if published.run_ended_at.is_none() {
            // The note of its shim.
            told.detail = None;
        }
        // The version does not count these.
        (told.progress, told.usage, told.conditions) = (None, None, Conditions::default());
        (published.progress_number, published.usage_number) = (0, 0);
        match self.committed.get(&published.version) {
            None => Err(format!("version {} is published and was never committed", published.version)),
            Some(committed) if *committed != published => Err(format!("published is {published:?}, committed was {committed:?}")),
            Some(_) => Ok(()),
        }
    }

    /// Checks the whole history: earlier records stay, time never decreases, and each event has the right origin.
    pub(super) fn audit(&mut self, origins: &Origins) -> Result<(), String> {
        let events = self.store.dump(EVENTS);
        // 12 characters of numbers, then the time.
        for pair in events.windows(2) {
            if pair[0][..5] == pair[1][..5] && pair[0][12..36] > pair[1][12..36] {
                return Err(format!("time goes back within a run: {pair:?}"));
            }
        }
        for event in &events {
            let fields: Vec<&str> = event.split(' ').collect();
            origins.judge(fields[3], fields[6], fields[7]).map_err(|why| format!("{why}: {event}"))?;
        }
        keeps(&self.events, &events)?;
        let ended = self.store.dump(ENDED_RUNS);
        keeps(&self.ended, &ended)?;
        (self.events, self.ended) = (events, ended);
        Ok(())
    }
}

/// Checks that every old line is among the new ones; both are sorted.
fn keeps(old: &[String], new: &[String]) -> Result<(), String> {
    match old.iter().find(|line| new.binary_search(line).is_err()) {
        Some(lost) => Err(format!("what was recorded has changed: {lost}")),
        None => Ok(()),
    }
}

fn plain(row: &PipelineRow, run: Option<&RunRow>) -> Snapshot {
    let mut snapshot = Snapshot::new(row, run, Some("a.sh"));
    snapshot.pipeline.allowed.clear();
    snapshot
}

/// Compares the database's row of a run with its real state.
fn learn_run(row: &RunRow, world: &mut World) {
    let World { env, runs } = world;
    let Some(run) = runs.get_mut(&row.id) else { return };
    if run.status == row.status {
        return;
    }
    run.status = row.status;
    env.cover(&format!("a run became {}", row.status));
    let is_unseen = row.exit_code.is_none() && row.signal.is_none();
    match row.status {
        RunStatus::Stopped if run.stopped_by.is_none() => {
            env.violate(|| format!("run {} is recorded as stopped, and nobody asked for that", row.id));
        }
        RunStatus::Lost if run.journal.holds_end() => {
            env.violate(|| format!("run {} is recorded as lost, and its journal tells its end", row.id));
        }
        RunStatus::Lost | RunStatus::Failed
            if is_unseen && run.is_locked && !run.journal.entries.iter().any(|e| e.fact.is_end()) =>
        {
            env.violate(|| format!("run {} is given up while its lock is held", row.id));
        }
        _ => {}
    }
}

/// The records, see the module.
pub(super) struct SimRecords {
    world: Shared,
    database: SharedDatabase,
}

impl SimRecords {
    pub(super) fn new(world: Shared, database: SharedDatabase) -> Self {
        Self { world, database }
    }

    fn fault(&self, place: &str, is_write: bool) -> Result<(), StoreError> {
        let env = &mut self.world.borrow_mut().env;
        let is_full = is_write && env.disk.database_is_full;
        let is_ill = env.disk.database_is_ill && env.rng.chance(500) || env.mishap(env.temper.database);
        if !is_full && !is_ill {
            return Ok(());
        }
        env.database_faults += 1;
        env.cover(&format!("database failed at {place}"));
        env.note(|| format!("the database fails at {place}"));
        Err(if is_full { StoreError { path: "memory".into(), kind: StoreErrorKind::Full } } else { io_error() })
    }
}

impl Records for SimRecords {
    fn read<T>(&self, place: &'static str, read: impl FnOnce(&Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        moment(&self.world, "before reading", place);
        self.fault(place, false)?;
        read(&self.database.borrow().store)
    }

    fn change<T>(
        &mut self,
        place: &'static str,
        write: impl FnOnce(&mut Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        moment(&self.world, "before", place);
        self.fault(place, true)?;
        let written = {
            let (mut database, mut world) = (self.database.borrow_mut(), self.world.borrow_mut());
            let written = write(&mut database.store);
            match &written {
                Ok(_) => database.learn(place != "touch", &mut world),
                Err(error) => world.env.violate(|| format!("the store refuses {place}: {error}")),
            }
            written
        };
        moment(&self.world, "after", place);
        let env = &mut self.world.borrow_mut().env;
        if written.is_ok() && (env.mishap(env.temper.kept_errors) || env.disk.database_is_ill && env.rng.chance(100)) {
            env.database_faults += 1;
            env.cover(&format!("{place} was kept and reported as failed"));
            env.note(|| format!("{place} is kept, and reported as failed"));
            return Err(io_error());
        }
        written
    }
}

fn io_error() -> StoreError {
    let failure = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR);
    StoreError { path: "memory".into(), kind: rusqlite::Error::SqliteFailure(failure, None).into() }
}
