//! The recorded state, and the facts and keys that the database has not taken yet. The database may refuse changes, because the
//! disk is full or it fails. Then the facts are kept, and writing is tried again. Only the recorded state is published, but
//! decisions use the known state.
//!
//! If killed here: the next boot finds what was committed; what was not is in the journal, and the next boot records it.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::kill_point::KillPoint;
use crate::pipeline::{ConditionCode, Entry, Exit, Fact, Killed, State, Transition, observe};
use crate::store::{Begun, KeyedRequest, NewRun, PipelineRow, RequestKey, RunRow, Store, StoreError, UnseenEnd};
use crate::supervisor::error::{condition_of, unrecorded_because};
use crate::supervisor::kill_points;
use crate::supervisor::records::Records;

/// The interval between attempts to write after the database has refused a change.
pub(super) const STORE_RETRY: Duration = Duration::from_millis(500);

/// The maximum number of facts that are kept while the database refuses them. Beyond it all are dropped, because the journal has
/// them too.
const UNRECORDED_MAX: usize = 10_000;

/// The maximum number of keys that are kept while the database refuses them. Beyond it the oldest are dropped: their repeats can
/// act again.
const UNRECORDED_KEYS_MAX: usize = 100;

/// Facts that were committed.
pub(super) struct Committed {
    pub(super) facts: Vec<(Entry, Option<Transition>)>,
    /// Whether the resulting row of the run could be read back. If not, nothing is published.
    pub(super) read_back: Result<(), StoreError>,
}

/// The ledger, see the module. Other parts can read some of its fields, but only this module changes them.
pub(super) struct Ledger<R> {
    /// The database. Other parts read values that are not cached here, and write to it.
    pub(super) store: R,
    /// The state as of the last commit.
    pub(super) row: PipelineRow,
    run: Option<RunRow>,
    /// The number of the latest run's last recorded fact.
    pub(super) last_seq: u64,
    /// Later facts, which the database has not taken yet. The published state ignores them, but the allowed actions take them
    /// into account.
    pub(super) unrecorded: Vec<Entry>,
    /// Keys of actions that were begun but which the database has not taken yet, the oldest first.
    unrecorded_keys: Vec<(RequestKey, Begun)>,
    /// The time of the next attempt, while the database refuses changes.
    pub(super) retry_at: Option<Duration>,
    /// Why the database refuses changes: a condition and its sentence.
    failure: Option<(ConditionCode, String)>,
    /// Whether the database may be ahead of the cached state, because something failed before, during or after a change.
    pub(super) is_behind: bool,
}

impl<R: Records> Ledger<R> {
    /// Reads the stored state.
    pub(super) fn open(store: R) -> Result<Self, StoreError> {
        let row = store.read("row", Store::row)?;
        let run = store.read("latest_run", Store::latest_run)?;
        let last_seq = run.as_ref().map_or(Ok(0), |run| store.read("last_seq", |store| store.last_seq(run.id)))?;
        let (unrecorded, unrecorded_keys) = (Vec::new(), Vec::new());
        Ok(Self { store, row, run, last_seq, unrecorded, unrecorded_keys, retry_at: None, failure: None, is_behind: false })
    }

    /// Returns the latest run as of the last commit.
    pub(super) fn run(&self) -> Option<&RunRow> {
        self.run.as_ref()
    }

    /// Returns the latest run, if it is live.
    pub(super) fn live_run(&self) -> Option<i64> {
        self.run.as_ref().filter(|run| run.status.is_live()).map(|run| run.id)
    }

    /// Returns the state as far as this server knows it: the published state, and the facts that the database has not taken yet.
    pub(super) fn known_state(&self) -> State {
        self.unrecorded
            .iter()
            .fold(self.row.state, |state, entry| observe(state, &entry.fact).map_or(state, |transition| transition.to))
    }

    /// Reads the stored state again, because it differs from the cached one if a read failed after a commit.
    pub(super) fn read_again(&mut self) -> Result<(), StoreError> {
        let row = self.store.read("row", Store::row)?;
        self.run = self.store.read("latest_run", Store::latest_run)?;
        self.row = row;
        self.is_behind = false;
        Ok(())
    }

    /// Reads the number of a run's last recorded fact. Facts that were kept for the next attempt may be recorded by now.
    pub(super) fn read_last_seq(&mut self, run_id: i64) -> Result<(), StoreError> {
        self.last_seq = self.store.read("last_seq", |store| store.last_seq(run_id))?;
        self.drop_recorded();
        Ok(())
    }

    fn drop_recorded(&mut self) {
        let last_seq = self.last_seq;
        self.unrecorded.retain(|entry| entry.seq > last_seq);
    }

    // ---- changes

    /// Commits the beginning of a run, together with the key of the request. Even after an error both may be stored, because the
    /// error can come after the change has reached the write-ahead log.
    pub(super) fn begin_run(&mut self, new: &NewRun, key: Option<&RequestKey>, at: Timestamp) -> Result<i64, StoreError> {
        let run_id = self.store.change("begin_run", |store| store.begin_run(new, key, at))?;
        KillPoint::ServerStartingCommitted.reach();
        Ok(run_id)
    }

    /// Commits the key of an action on the latest run, or keeps it for later: the action does not wait for the database, and does
    /// not fail because of it.
    pub(super) fn begin_keyed(&mut self, key: &RequestKey) {
        let Some(run_id) = self.row.run_id else { return };
        let begun = Begun { run_id, seq: self.unrecorded.last().map_or(self.last_seq, |entry| entry.seq) };
        if self.store.change("begin_keyed", |store| store.begin_keyed(key, begun)).is_ok() {
            return KillPoint::ServerKeyCommitted.reach();
        }
        // `record_keys` reports the error if it lasts.
        if self.unrecorded_keys.len() >= UNRECORDED_KEYS_MAX {
            self.unrecorded_keys.remove(0);
        }
        self.unrecorded_keys.push((key.clone(), begun));
    }

    /// Commits the keys that the database did not take when their actions began.
    pub(super) fn record_keys(&mut self) -> Result<(), StoreError> {
        if !self.unrecorded_keys.is_empty() {
            let Self { store, unrecorded_keys, .. } = self;
            store.change("begin_keyed_late", |store| store.begin_keyed_late(unrecorded_keys))?;
            unrecorded_keys.clear();
        }
        Ok(())
    }

    /// Returns the state of a key that the database has not taken yet.
    pub(super) fn unrecorded_request(&self, wanted: &RequestKey) -> Option<KeyedRequest> {
        let (key, begun) = self.unrecorded_keys.iter().find(|(key, _)| key.key == wanted.key)?;
        Some(if key == wanted { KeyedRequest::Begun(*begun) } else { KeyedRequest::Other })
    }

    /// Commits a run that is known only from its directory.
    pub(super) fn adopt_unknown_run(&mut self, id: i64, new: &NewRun, at: Timestamp) -> Result<(), StoreError> {
        self.store.change("adopt_unknown_run", |store| store.adopt_unknown_run(id, new, at))?;
        ::log::warn!("run {id} was not in the database; it is restored from its journal");
        KillPoint::ServerUnknownRunCommitted.reach();
        Ok(())
    }

    /// Makes a committed run the current one. After an error it is recorded but not known here, and the next check of the run
    /// ends it.
    pub(super) fn enter(&mut self) -> Result<(), StoreError> {
        self.last_seq = 0;
        self.read_again()
    }

    /// Returns the id that the next run gets, if it is free.
    pub(super) fn next_run_id(&self) -> Result<i64, StoreError> {
        self.store.read("next_run_id", Store::next_run_id)
    }

    /// Prevents new runs from getting an id up to `highest`.
    pub(super) fn reserve_run_ids(&mut self, highest: i64) -> Result<(), StoreError> {
        self.store.change("reserve_run_ids", |store| store.reserve_run_ids(highest))?;
        KillPoint::ServerRunIdsReserved.reach();
        Ok(())
    }

    /// Commits those of `entries` that are not recorded yet; `None` if there are none.
    pub(super) fn commit(&mut self, entries: Vec<Entry>) -> Result<Option<Committed>, StoreError> {
        let Some(run_id) = self.run.as_ref().map(|run| run.id) else { return Ok(None) };
        let mut state = self.row.state;
        let mut facts: Vec<(Entry, Option<Transition>)> = Vec::new();
        for entry in entries.into_iter().filter(|entry| entry.seq > self.last_seq) {
            let transition = observe(state, &entry.fact);
            state = transition.map_or(state, |transition| transition.to);
            facts.push((entry, transition));
        }
        let Some(last_seq) = facts.last().map(|(last, _)| last.seq) else { return Ok(None) };
        kill_points::heard(&facts);
        // Set until the call has succeeded, because an error can come after the change has reached the write-ahead log.
        self.is_behind = true;
        let row = self.store.change("record_all", |store| store.record_all(run_id, &facts))?;
        self.is_behind = false;
        kill_points::committed(&facts);
        self.last_seq = last_seq;
        self.drop_recorded();
        let read_back = self.store.read("run", |store| store.run(run_id));
        // Row and run must be from the same moment; otherwise they must not be published.
        self.is_behind = read_back.is_err();
        let read_back = read_back.map(|run| (self.row, self.run) = (row, run));
        Ok(Some(Committed { facts, read_back }))
    }

    /// Commits an end that was not observed.
    pub(super) fn end_run(
        &mut self,
        run_id: i64,
        end: UnseenEnd,
        at: Timestamp,
        why: &str,
        killed: &Killed,
    ) -> Result<(), StoreError> {
        let row = self.store.change("end_run", |store| store.end_run(run_id, end, at, why, killed))?;
        ::log::warn!("run {run_id}: {why}");
        match end {
            UnseenEnd::Lost => KillPoint::ServerLostCommitted.reach(),
            UnseenEnd::NeverBegan => KillPoint::ServerNeverBeganCommitted.reach(),
        }
        self.unrecorded.clear();
        self.run = self.store.read("run", |store| store.run(run_id))?;
        self.row = row;
        Ok(())
    }

    /// Increments the version for a change that no row shows.
    pub(super) fn touch(&mut self, at: Timestamp) -> Result<(), StoreError> {
        let row = self.store.change("touch", |store| store.touch(at))?;
        // The row must not be newer than the run, which could not be read.
        if !self.is_behind {
            self.row = row;
        }
        Ok(())
    }

    // ---- facts that are not recorded

    /// Keeps those of `entries` that are not recorded, instead of those kept before. Returns whether there are any, and not too
    /// many.
    pub(super) fn keep(&mut self, entries: Vec<Entry>) -> bool {
        self.unrecorded = entries;
        self.drop_recorded();
        (1..=UNRECORDED_MAX).contains(&self.unrecorded.len())
    }

    /// Returns the kept facts and forgets them.
    pub(super) fn take_unrecorded(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.unrecorded)
    }

    /// Notes that the database has refused a change. Writing is tried again regularly.
    pub(super) fn note_failure(&mut self, error: &StoreError, now: Duration) {
        // Not logged again at each attempt.
        if self.retry_at.is_none() {
            ::log::error!("failed to {error}");
        }
        self.is_behind = true;
        self.retry_at = Some(now + STORE_RETRY);
        self.failure = Some((condition_of(error), format!("nothing can be recorded: failed to {error}")));
    }

    /// Notes that the database has accepted a change.
    pub(super) fn note_success(&mut self) {
        if self.unrecorded.is_empty() && !self.is_behind && self.retry_at.take().is_some() {
            ::log::info!("events can be recorded again");
            self.failure = None;
        }
    }

    /// Returns the conditions of the database, for health.
    pub(super) fn conditions(&self) -> impl Iterator<Item = (ConditionCode, String)> {
        let not_recorded = self.say_what_is_not_recorded().map(|told| (ConditionCode::NotRecorded, told));
        self.failure.clone().into_iter().chain(not_recorded)
    }

    /// Returns a sentence about the changes that could not be recorded yet; `None` if all are recorded.
    fn say_what_is_not_recorded(&self) -> Option<String> {
        let latest = self.unrecorded.iter().find(|entry| entry.fact.is_end()).or(self.unrecorded.last())?;
        let run_id = self.run.as_ref().map_or(0, |run| run.id);
        let at = latest.at;
        let what = match &latest.fact {
            Fact::Exited { exit: Exit::Code(code), .. } => format!("ended at {at} with exit code {code}"),
            Fact::Exited { exit: Exit::Signal(signal), .. } => format!("was terminated at {at} by signal {signal}"),
            Fact::SpawnFailed { error, .. } => format!("failed to start at {at} ({error})"),
            Fact::Spawned { .. } => format!("started at {at}"),
            Fact::Paused { .. } => format!("was paused at {at}"),
            Fact::Resumed { .. } => format!("was resumed at {at}"),
            Fact::Stopping { .. } => format!("was asked to stop at {at}"),
            Fact::Usage { .. } | Fact::Unknown => format!("had another event at {at}"),
        };
        let why = unrecorded_because(self.failure.as_ref().map_or(ConditionCode::DatabaseFailing, |(code, _)| *code));
        Some(format!("run {run_id} {what}, but that could not be recorded yet: {why}"))
    }
}
