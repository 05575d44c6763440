//! What the database does not take, for want of room or because the disk fails: facts are kept, the database is tried again and again, and
//! health says so. The run stays under control meanwhile: what is published is what is on record, what is decided goes by what is known.
//!
//! If killed here: the facts are in the journal, and the next boot records them.

use std::time::Duration;

use super::{ActionError, Conductor, Link, Outcome, answer};
use crate::clock::Clock;
use crate::pipeline::{ConditionCode, Entry, Exit, Fact, State, observe};
use crate::store::StoreError;
use crate::supervisor::Obstacle;
use crate::supervisor::records::Records;
use crate::supervisor::shims::Shims;

/// How often the database is tried again after it did not take something.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// The most facts that are kept for a database that does not take them. With more, all are left to the journal, which has them too.
const UNRECORDED_MAX: usize = 10_000;

/// Why the database can refuse a change: at most one of these is set at a time.
const STORE_FAILURES: [ConditionCode; 4] =
    [ConditionCode::DiskFull, ConditionCode::DatabaseLocked, ConditionCode::DatabaseReplaced, ConditionCode::DatabaseFailing];

fn code_of(error: &StoreError) -> ConditionCode {
    match error {
        StoreError::Full { .. } => ConditionCode::DiskFull,
        StoreError::Busy { .. } => ConditionCode::DatabaseLocked,
        StoreError::Gone { .. } | StoreError::Missing { .. } => ConditionCode::DatabaseReplaced,
        StoreError::Damaged { .. }
        | StoreError::Newer { .. }
        | StoreError::Divergent { .. }
        | StoreError::Foreign { .. }
        | StoreError::NotWritable { .. }
        | StoreError::Setting { .. }
        | StoreError::Conflict { .. }
        | StoreError::UnknownWord { .. }
        | StoreError::Migration { .. }
        | StoreError::Sqlite { .. } => ConditionCode::DatabaseFailing,
    }
}

impl<R: Records, S: Shims, C: Clock> Conductor<R, S, C> {
    /// As [`Conductor::record`], but facts that the database can't take at this time are kept, so that the run stays under control: who
    /// waited for them is told so, and the next one is decided by them.
    pub(super) fn record_or_keep(&mut self, entries: Vec<Entry>) -> Result<(), StoreError> {
        let Err(error) = self.record(entries.clone()) else { return Ok(()) };
        let mut unrecorded = entries;
        unrecorded.retain(|entry| entry.seq > self.last_seq);
        // None left means that they were committed and could not be read back.
        if !error.may_pass() || unrecorded.is_empty() || unrecorded.len() > UNRECORDED_MAX {
            self.unrecorded.clear();
            return Err(error);
        }
        self.note_store_failure(&error);
        let obstacle = Obstacle::of(&error);
        for entry in &unrecorded {
            let Some((under_way, outcome)) = self.settle_pending(entry) else { continue };
            under_way.answer_all(|| {
                Err(match (&outcome, &entry.fact) {
                    (Outcome::Refused(refusal), _) => ActionError::Refused(*refusal),
                    (Outcome::Done, Fact::SpawnFailed { .. }) => ActionError::store(&error),
                    (Outcome::Done, _) => ActionError::Unrecorded { obstacle },
                })
            });
        }
        self.unrecorded = unrecorded;
        self.publish();
        Ok(())
    }

    /// Tries to record what the database did not take before. On an error it is kept on.
    pub(super) fn record_unrecorded(&mut self) -> Result<(), StoreError> {
        if self.unrecorded.is_empty() {
            return Ok(());
        }
        let unrecorded = self.unrecorded.clone();
        self.record(unrecorded)?;
        self.unrecorded.clear();
        Ok(())
    }

    /// What the pipeline is, as far as this server has heard: what is published, and what the database has not taken yet.
    pub(super) fn known_state(&self) -> State {
        self.unrecorded
            .iter()
            .fold(self.row.state, |state, entry| observe(state, &entry.fact).map_or(state, |transition| transition.to))
    }

    /// The database did not take something. Health says so until it does, which is tried again and again.
    pub(super) fn note_store_failure(&mut self, error: &StoreError) {
        // Not anew with each try.
        if self.store_retry_at.is_none() {
            ::log::error!("failed to {error}");
        }
        self.is_behind = true;
        self.store_retry_at = Some(self.clock.awake() + STORE_RETRY);
        let code = code_of(error);
        self.store_failure = Some(code);
        for other in STORE_FAILURES {
            self.set_condition(other, (other == code).then(|| format!("nothing can be recorded: failed to {error}")));
        }
        self.set_condition(ConditionCode::NotRecorded, self.say_what_is_not_recorded());
    }

    /// A sentence about the changes that could not be recorded yet; `None` if all are recorded.
    pub(super) fn say_what_is_not_recorded(&self) -> Option<String> {
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
        let why = match self.store_failure {
            Some(ConditionCode::DiskFull) => "the disk is full; it will be recorded as soon as there is room",
            Some(ConditionCode::DatabaseLocked) => {
                "another process has locked the database; it will be recorded as soon as the lock is released"
            }
            Some(ConditionCode::DatabaseReplaced) => {
                "the database file was removed or replaced; it will be recorded as soon as the file is put back"
            }
            _ => "the database cannot be written; it will be recorded as soon as it can",
        };
        Some(format!("run {run_id} {what}, but that could not be recorded yet: {why}"))
    }

    /// The database has taken something.
    pub(super) fn note_store_success(&mut self) {
        if self.unrecorded.is_empty() && !self.is_behind && self.store_retry_at.take().is_some() {
            ::log::info!("the database takes what happens again");
            self.store_failure = None;
            for code in STORE_FAILURES {
                self.set_condition(code, None);
            }
        }
    }

    pub(super) fn try_store_again(&mut self) {
        let written = self.record_unrecorded().and_then(|()| self.store.try_writing());
        match written.and_then(|()| self.catch_up()) {
            Ok(()) => {
                self.note_store_success();
                if self.live_run().is_none() {
                    self.set_condition(ConditionCode::ShimSilent, None);
                }
            }
            Err(error) if error.may_pass() => self.note_store_failure(&error),
            Err(error) => self.forget_and_retry(&error),
        }
    }

    /// What was heard does not fit to what is stored, or cannot be recorded while there is no shim to be controlled. It is in the journal,
    /// so nothing is lost: the connection is let go, and the journal read again in a while. Until then the state published is the last
    /// that was committed, and health says so.
    pub(super) fn forget_and_retry(&mut self, error: &StoreError) {
        let now = self.clock.awake();
        self.shims.disconnect();
        self.unheard_since = None;
        self.is_known_silent = false;
        self.is_behind = true;
        // Its shim says both again to the next connection, if they are so still.
        self.note = None;
        self.forget_troubles();
        self.link = Link::Silent { since: now, retry_at: now + STORE_RETRY };
        if !error.may_pass() {
            self.unrecorded.clear();
        }
        self.note_store_failure(error);
        if let Some(under_way) = &mut self.under_way {
            for waiter in under_way.waiters.drain(..) {
                answer(&waiter.reply_to, Err(ActionError::store(error)));
            }
        }
    }
}
