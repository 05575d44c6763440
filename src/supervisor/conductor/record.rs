//! Records facts: commits them, publishes the result, and answers the waiting clients, in this order. Also handles a database
//! that refuses them.
//!
//! If killed here: facts that were received and not committed are in the journal, and the next boot records them.

use super::in_flight::Outcome;
use super::ledger::{Committed, STORE_RETRY};
use super::parts::Conductor;
use crate::clock::Clock;
use crate::kill_point::KillPoint;
use crate::pipeline::{Entry, Fact, Pending, RunStatus, State};
use crate::store::{Store, StoreError, Work};
use crate::supervisor::error::{ActionError, condition_of};
use crate::supervisor::records::Records;
use crate::supervisor::shims::Shims;

impl<R: Records, S: Shims, C: Clock> Conductor<R, S, C> {
    /// Commits facts that are not recorded yet, publishes the new state of the pipeline, and answers the clients that waited for
    /// it.
    pub(super) fn record(&mut self, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.catch_up()?;
        let Some(Committed { facts, read_back }) = self.ledger.commit(entries)? else { return Ok(()) };
        // Before anything else can fail, because a committed action is no longer under way.
        let (state, now) = (self.ledger.row.state, self.clock.awake());
        let answers: Vec<_> = facts.iter().filter_map(|(entry, _)| self.in_flight.settle(entry, state, now)).collect();
        if let Err(error) = read_back {
            for (under_way, _) in answers {
                under_way.answer_all(|| Err(ActionError::store(&error)));
            }
            return Err(error);
        }
        self.in_flight.drop_if_over(self.live_run().is_some(), state);
        self.publish();
        let published = self.watch.get();
        let failed = self.ledger.run().filter(|run| run.status == RunStatus::Failed && run.started_at.is_none());
        for (under_way, outcome) in answers {
            let lack = facts.iter().find_map(|(entry, _)| match &entry.fact {
                Fact::SpawnFailed { lack, .. } => *lack,
                _ => None,
            });
            under_way.answer_all(|| match (&outcome, failed) {
                (Outcome::Refused(refusal), _) => Err(ActionError::Refused(*refusal)),
                (Outcome::Done, Some(run)) => {
                    let detail = run.error.clone().unwrap_or_default();
                    Err(ActionError::SpawnFailed { run_id: run.id, detail, lack })
                }
                (Outcome::Done, None) => Ok(published.clone()),
            });
        }
        Ok(())
    }

    /// Like [`Conductor::record`], but keeps facts that the database cannot take now, so that the run stays under control.
    /// Clients that waited for them are notified, and later decisions take them into account.
    pub(super) fn record_or_keep(&mut self, entries: Vec<Entry>) -> Result<(), StoreError> {
        let Err(error) = self.record(entries.clone()) else { return Ok(()) };
        // If none are left, they were committed but could not be read back.
        if !self.ledger.keep(entries) || !error.may_pass() {
            self.ledger.take_unrecorded();
            return Err(error);
        }
        self.note_store_failure(&error);
        let (state, now, obstacle) = (self.ledger.row.state, self.clock.awake(), condition_of(&error));
        for entry in &self.ledger.unrecorded {
            let Some((under_way, outcome)) = self.in_flight.settle(entry, state, now) else { continue };
            under_way.answer_all(|| {
                Err(match (&outcome, &entry.fact) {
                    (Outcome::Refused(refusal), _) => ActionError::Refused(*refusal),
                    (Outcome::Done, Fact::SpawnFailed { .. }) => ActionError::store(&error),
                    (Outcome::Done, _) => ActionError::Unrecorded { obstacle },
                })
            });
        }
        self.publish();
        Ok(())
    }

    /// Tries to record the facts that the database refused before. After an error they are still kept.
    pub(super) fn record_unrecorded(&mut self) -> Result<(), StoreError> {
        if self.ledger.unrecorded.is_empty() {
            return Ok(());
        }
        self.record(self.ledger.unrecorded.clone())?;
        self.ledger.take_unrecorded();
        Ok(())
    }

    /// Publishes a change under a new version that the run's row does not show: the action under way, and the shim's note.
    pub(super) fn tell_that_something_changed(&mut self) {
        if let Err(error) = self.ledger.touch(self.clock.now()) {
            // Published all the same, but clients that wait for a newer version see it only later.
            self.note_store_failure(&error);
        }
        KillPoint::ServerPendingCounted.reach();
        self.publish();
    }

    /// Makes a change that another thread has handed over. It must not change the pipeline's state.
    pub(in crate::supervisor) fn carry_out(&mut self, mut work: Box<dyn Work>) {
        let done = self.ledger.store.change("work", |store| work.run(store));
        if let Err(error) = &done
            && error.may_pass()
        {
            self.note_store_failure(error);
        }
        work.answer(done);
    }

    /// Reads the stored state again. Clients that waited were answered when reading failed.
    pub(super) fn read_again(&mut self) -> Result<(), StoreError> {
        self.ledger.read_again()?;
        if self.live_run().is_none() {
            self.in_flight.take();
        } else if self.ledger.row.state == State::Stopped
            && self.ledger.unrecorded.is_empty()
            && self.in_flight.pending().is_none()
        {
            // Its first fact is still to come, or it never began.
            let origin = self.ledger.run().and_then(|run| run.started_by);
            self.in_flight.take_over(Pending::Start, origin, Vec::new());
        }
        Ok(())
    }

    /// Publishes the stored state again if a read failed after a commit.
    pub(super) fn catch_up(&mut self) -> Result<(), StoreError> {
        if self.ledger.is_behind {
            self.read_again()?;
            self.publish();
        }
        Ok(())
    }

    // ---- refused changes

    /// Notes that the database has refused a change. Health reports this until a later attempt succeeds.
    pub(super) fn note_store_failure(&mut self, error: &StoreError) {
        self.ledger.note_failure(error, self.clock.awake());
        self.show_conditions();
    }

    pub(super) fn try_store_again(&mut self) {
        let recorded = self.record_unrecorded().and_then(|()| self.ledger.record_keys());
        let written = recorded.and_then(|()| self.ledger.store.change("try_writing", Store::try_writing));
        match written.and_then(|()| self.catch_up()) {
            Ok(()) => {
                self.ledger.note_success();
                if self.live_run().is_none() {
                    self.link.forgive_silence();
                }
                self.show_conditions();
            }
            Err(error) if error.may_pass() => self.note_store_failure(&error),
            Err(error) => self.forget_and_retry(&error),
        }
    }

    /// Drops the connection, because what was received does not fit the stored state, or cannot be recorded and there is no shim
    /// to control. Nothing is lost, because the journal has it: it is read again after a wait. Until then the published state is
    /// the last committed one, and health reports the error.
    pub(super) fn forget_and_retry(&mut self, error: &StoreError) {
        let now = self.clock.awake();
        self.link.be_silent(now, now + STORE_RETRY);
        self.signs.lose_shim();
        if !error.may_pass() {
            self.ledger.take_unrecorded();
        }
        self.note_store_failure(error);
        self.in_flight.fail_waiters(|| ActionError::store(error));
    }
}
