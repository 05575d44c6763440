//! What is on record, and what is still owed to the database: it may refuse changes for want of room, or because it fails. Facts are kept
//! then, and the database is tried again. What is published is what is on record; what is decided goes by what is known.
//!
//! If killed here: what was committed is what the next boot finds; what is owed is in the journal, and the next boot records it.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::kill_point::KillPoint;
use crate::pipeline::{ConditionCode, Entry, Exit, Fact, Killed, State, Transition, observe};
use crate::store::{Begun, KeyedRequest, NewRun, PipelineRow, RequestKey, RunRow, Store, StoreError, UnseenEnd};
use crate::supervisor::error::{condition_of, unrecorded_because};
use crate::supervisor::kill_points;
use crate::supervisor::records::Records;

/// How often the database is tried again after it did not take something.
pub(super) const STORE_RETRY: Duration = Duration::from_millis(500);

/// The most facts that are kept for a database that does not take them. With more, all are left to the journal, which has them too.
const UNRECORDED_MAX: usize = 10_000;

/// The most keys that are kept for it. With more, the oldest go: their repeats can act again.
const UNRECORDED_KEYS_MAX: usize = 100;

/// Facts that were committed.
pub(super) struct Committed {
    pub(super) facts: Vec<(Entry, Option<Transition>)>,
    /// Whether what they made of the run could be read back. If not, nothing of it is published.
    pub(super) read_back: Result<(), StoreError>,
}

/// See the module. What others may read is visible to them, and changed here alone.
pub(super) struct Ledger<R> {
    /// Others read from it, and write what is not remembered here.
    pub(super) store: R,
    /// The state as of the last commit.
    pub(super) row: PipelineRow,
    run: Option<RunRow>,
    /// The latest run's last recorded fact.
    pub(super) last_seq: u64,
    /// Facts after that one which the database has not taken yet. What is published does not know of them; what is allowed does.
    pub(super) unrecorded: Vec<Entry>,
    /// Actions that were begun under a key which the database has not taken yet, the oldest first.
    unrecorded_keys: Vec<(RequestKey, Begun)>,
    /// While the database does not take what it is given: when it is tried again.
    pub(super) retry_at: Option<Duration>,
    /// Why it does not, as a condition and its sentence.
    failure: Option<(ConditionCode, String)>,
    /// Whether the database may hold more than is remembered here: something failed, before, in the middle of, or after a change.
    pub(super) is_behind: bool,
}

impl<R: Records> Ledger<R> {
    /// Reads what is stored.
    pub(super) fn open(store: R) -> Result<Self, StoreError> {
        let row = store.read("row", Store::row)?;
        let run = store.read("latest_run", Store::latest_run)?;
        let last_seq = run.as_ref().map_or(Ok(0), |run| store.read("last_seq", |store| store.last_seq(run.id)))?;
        let (unrecorded, unrecorded_keys) = (Vec::new(), Vec::new());
        Ok(Self { store, row, run, last_seq, unrecorded, unrecorded_keys, retry_at: None, failure: None, is_behind: false })
    }

    /// The latest run as of the last commit.
    pub(super) fn run(&self) -> Option<&RunRow> {
        self.run.as_ref()
    }

    /// The latest run, if it lives.
    pub(super) fn live_run(&self) -> Option<i64> {
        self.run.as_ref().filter(|run| run.status.is_live()).map(|run| run.id)
    }

    /// What the pipeline is, as far as this server has heard: what is published, and what the database has not taken yet.
    pub(super) fn known_state(&self) -> State {
        self.unrecorded
            .iter()
            .fold(self.row.state, |state, entry| observe(state, &entry.fact).map_or(state, |transition| transition.to))
    }

    /// From what is stored, not from what is remembered: a read that failed after a commit leaves the two apart.
    pub(super) fn read_again(&mut self) -> Result<(), StoreError> {
        let row = self.store.read("row", Store::row)?;
        self.run = self.store.read("latest_run", Store::latest_run)?;
        self.row = row;
        self.is_behind = false;
        Ok(())
    }

    /// Reads how many of a run's facts are on record. What was kept for the next try may be recorded by now.
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

    /// Commits the beginning of a run, and with it the key of the request. Even after an error it may be kept: the error can come after the
    /// change has reached the log.
    pub(super) fn begin_run(&mut self, new: &NewRun, key: Option<&RequestKey>, at: Timestamp) -> Result<i64, StoreError> {
        let run_id = self.store.change("begin_run", |store| store.begin_run(new, key, at))?;
        KillPoint::ServerStartingCommitted.reach();
        Ok(run_id)
    }

    /// Commits that an action on the latest run is begun under a key, or keeps that for later: the action does not wait for the database,
    /// and is not refused because of it.
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

    /// What is known of a key that the database has not taken yet.
    pub(super) fn unrecorded_request(&self, wanted: &RequestKey) -> Option<KeyedRequest> {
        let (key, begun) = self.unrecorded_keys.iter().find(|(key, _)| key.key == wanted.key)?;
        Some(if key == wanted { KeyedRequest::Begun(*begun) } else { KeyedRequest::Other })
    }

    /// Commits a run that is known from its directory alone.
    pub(super) fn adopt_unknown_run(&mut self, id: i64, new: &NewRun, at: Timestamp) -> Result<(), StoreError> {
        self.store.change("adopt_unknown_run", |store| store.adopt_unknown_run(id, new, at))?;
        ::log::warn!("run {id} was not in the database; it is restored from its journal");
        KillPoint::ServerUnknownRunCommitted.reach();
        Ok(())
    }

    /// Goes on to a run that was committed. After an error it is on record and not known here: the next look ends it.
    pub(super) fn enter(&mut self) -> Result<(), StoreError> {
        self.last_seq = 0;
        self.read_again()
    }

    /// The id that the next run gets, if it is free.
    pub(super) fn next_run_id(&self) -> Result<i64, StoreError> {
        self.store.read("next_run_id", Store::next_run_id)
    }

    /// No run gets an id up to `highest` any more.
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
        // Behind until the call has come back well: an error can come after the change has reached the log.
        self.is_behind = true;
        let row = self.store.change("record_all", |store| store.record_all(run_id, &facts))?;
        self.is_behind = false;
        kill_points::committed(&facts);
        self.last_seq = last_seq;
        self.drop_recorded();
        let read_back = self.store.read("run", |store| store.run(run_id));
        // Row and run are of one moment, or what is published is of none.
        self.is_behind = read_back.is_err();
        let read_back = read_back.map(|run| (self.row, self.run) = (row, run));
        Ok(Some(Committed { facts, read_back }))
    }

    /// Commits an end that nobody saw.
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

    /// Counts a change that no row shows.
    pub(super) fn touch(&mut self, at: Timestamp) -> Result<(), StoreError> {
        let row = self.store.change("touch", |store| store.touch(at))?;
        // The row alone, beside a run that could not be read, would be of no moment at all.
        if !self.is_behind {
            self.row = row;
        }
        Ok(())
    }

    // ---- what is owed

    /// Keeps those of `entries` that are not recorded, instead of what was kept before. Whether there are any, and not too many.
    pub(super) fn keep(&mut self, entries: Vec<Entry>) -> bool {
        self.unrecorded = entries;
        self.drop_recorded();
        (1..=UNRECORDED_MAX).contains(&self.unrecorded.len())
    }

    /// Hands out what is kept.
    pub(super) fn take_unrecorded(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.unrecorded)
    }

    /// The database did not take something. It is tried again and again.
    pub(super) fn note_failure(&mut self, error: &StoreError, now: Duration) {
        // Not anew with each try.
        if self.retry_at.is_none() {
            ::log::error!("failed to {error}");
        }
        self.is_behind = true;
        self.retry_at = Some(now + STORE_RETRY);
        self.failure = Some((condition_of(error), format!("nothing can be recorded: failed to {error}")));
    }

    /// The database has taken something.
    pub(super) fn note_success(&mut self) {
        if self.unrecorded.is_empty() && !self.is_behind && self.retry_at.take().is_some() {
            ::log::info!("events can be recorded again");
            self.failure = None;
        }
    }

    /// What health says of the database.
    pub(super) fn conditions(&self) -> impl Iterator<Item = (ConditionCode, String)> {
        let not_recorded = self.say_what_is_not_recorded().map(|told| (ConditionCode::NotRecorded, told));
        self.failure.clone().into_iter().chain(not_recorded)
    }

    /// A sentence about the changes that could not be recorded yet; `None` if all are recorded.
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
