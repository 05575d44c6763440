//! How facts are put on record: committed, published, and answered to who waited for them, in this order. And what follows where the
//! database does not take them.
//!
//! If killed here: what was heard and not committed is in the journal, and the next boot records it.

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
    /// Commits facts that are not recorded yet, publishes what they make of the pipeline, and answers who waited for it.
    pub(super) fn record(&mut self, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.catch_up()?;
        let Some(Committed { facts, read_back }) = self.ledger.commit(entries)? else { return Ok(()) };
        // Before anything else can fail: what is committed is under way no more.
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

    /// As [`Conductor::record`], but facts that the database can't take at this time are kept, so that the run stays under control: who
    /// waited for them is told so, and the next one is decided by them.
    pub(super) fn record_or_keep(&mut self, entries: Vec<Entry>) -> Result<(), StoreError> {
        let Err(error) = self.record(entries.clone()) else { return Ok(()) };
        // None left means that they were committed and could not be read back.
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

    /// Tries to record what the database did not take before. On an error it is kept on.
    pub(super) fn record_unrecorded(&mut self) -> Result<(), StoreError> {
        if self.ledger.unrecorded.is_empty() {
            return Ok(());
        }
        self.record(self.ledger.unrecorded.clone())?;
        self.ledger.take_unrecorded();
        Ok(())
    }

    /// Publishes under a new version what the version counts and the run's row does not show: what is under way, and what is said of it.
    pub(super) fn tell_that_something_changed(&mut self) {
        if let Err(error) = self.ledger.touch(self.clock.now()) {
            // It is published all the same; only who waits for a newer version hears of it later.
            self.note_store_failure(&error);
        }
        KillPoint::ServerPendingCounted.reach();
        self.publish();
    }

    /// Does what another thread has handed in, which must not change what the pipeline is.
    pub(in crate::supervisor) fn carry_out(&mut self, mut work: Box<dyn Work>) {
        let done = self.ledger.store.change("work", |store| work.run(store));
        if let Err(error) = &done
            && error.may_pass()
        {
            self.note_store_failure(error);
        }
        work.answer(done);
    }

    /// From what is stored, not from what is remembered. Who waited was told so when that failed.
    pub(super) fn read_again(&mut self) -> Result<(), StoreError> {
        self.ledger.read_again()?;
        if self.live_run().is_none() {
            self.in_flight.take();
        } else if self.ledger.row.state == State::Stopped
            && self.ledger.unrecorded.is_empty()
            && self.in_flight.pending().is_none()
        {
            // Its first fact is on the way, or it never began.
            let origin = self.ledger.run().and_then(|run| run.started_by);
            self.in_flight.take_over(Pending::Start, origin, Vec::new());
        }
        Ok(())
    }

    /// After a read that failed behind a commit: what is published is what is stored again.
    pub(super) fn catch_up(&mut self) -> Result<(), StoreError> {
        if self.ledger.is_behind {
            self.read_again()?;
            self.publish();
        }
        Ok(())
    }

    // ---- where the database does not take it

    /// The database did not take something. Health says so until it does, which is tried again and again.
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

    /// What was heard does not fit to what is stored, or cannot be recorded while there is no shim to be controlled. It is in the journal,
    /// so nothing is lost: the connection is let go, and the journal read again in a while. Until then the state published is the last
    /// that was committed, and health says so.
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
