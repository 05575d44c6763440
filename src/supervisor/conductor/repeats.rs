//! Repeats of an action that was begun under a key and whose response is unknown, because its server was killed or gave up
//! waiting. The result is read from the run that the key names. The action is done only if it had no effect before.
//!
//! If killed here: nothing is changed here, so the next repeat finds the same.

use std::sync::Arc;

use super::parts::Conductor;
use crate::clock::Clock;
use crate::pipeline::{Action, Fact, Pending, Refusal, State};
use crate::store::{Begun, KeyedRequest, RequestKey, RunRow, StoreError};
use crate::supervisor::error::{ActionError, condition_of};
use crate::supervisor::records::Records;
use crate::supervisor::shims::Shims;
use crate::supervisor::snapshot::{Published, Snapshot, publish};

/// The result of an action that was begun before.
pub(super) enum Earlier {
    /// The action has ended, with this result.
    Over(Result<Arc<Published>, ActionError>),
    /// The action is under way.
    UnderWay,
    /// The action had no effect, and its run is live.
    ToDo,
}

impl<R: Records, S: Shims, C: Clock> Conductor<R, S, C> {
    /// Returns the action that was begun under a key and not answered. Also `None` if that cannot be read: then a start fails,
    /// because its key cannot be committed twice, and any other action can be done without the database.
    ///
    /// # Errors
    /// [`ActionError::KeyReused`]
    pub(super) fn begun_under(&mut self, key: &RequestKey) -> Result<Option<Begun>, ActionError> {
        let stored = || self.ledger.store.read("keyed_request", |store| store.keyed_request(key));
        match self.ledger.unrecorded_request(key).map_or_else(stored, |known| Ok(Some(known))) {
            Ok(Some(KeyedRequest::Begun(begun))) => Ok(Some(begun)),
            Ok(Some(KeyedRequest::Other)) => Err(ActionError::KeyReused),
            Ok(Some(KeyedRequest::Answered { .. }) | None) => Ok(None),
            Err(error) => {
                self.note_store_failure(&error);
                Ok(None)
            }
        }
    }

    /// Determines the result of an action that was begun before. `unrecorded` says why received facts are not recorded.
    pub(super) fn look_back(
        &self,
        action: Action,
        begun: Begun,
        unrecorded: &Result<(), StoreError>,
    ) -> Result<Earlier, StoreError> {
        let Begun { run_id, .. } = begun;
        let is_live = self.live_run() == Some(run_id);
        if is_live && self.in_flight.pending().map(Pending::action) == Some(action) {
            return Ok(Earlier::UnderWay);
        }
        if let Err(error) = unrecorded
            && is_live
            && self.ledger.unrecorded.iter().any(|entry| completes(action, &entry.fact))
        {
            return Ok(Earlier::Over(Err(ActionError::Unrecorded { obstacle: condition_of(error) })));
        }
        let happened = |kind| self.ledger.store.read("has_happened", |store| store.has_happened_since(begun, kind));
        let is_done = match action {
            Action::Start => return self.begun_run(run_id).map(Earlier::Over),
            Action::Pause => happened("paused")?,
            Action::Resume => happened("resumed")?,
            Action::Stop => !is_live,
        };
        Ok(match (is_done, is_live) {
            (true, _) => Earlier::Over(Ok(self.published_of(run_id, None))),
            (false, true) => Earlier::ToDo,
            (false, false) => Earlier::Over(Err(ActionError::Refused(Refusal { from: State::Stopped, action, pending: None }))),
        })
    }

    /// Returns the result of a start that began this run.
    fn begun_run(&self, run_id: i64) -> Result<Result<Arc<Published>, ActionError>, StoreError> {
        Ok(match self.ledger.store.read("run", |store| store.run(run_id))? {
            Some(run) if run.started_at.is_some() => Ok(self.published_of(run_id, Some(&run))),
            Some(run) if run.status.is_live() => Err(ActionError::StillUnderWay(Action::Start)),
            Some(run) => {
                let detail = run.error.clone().unwrap_or_default();
                Err(ActionError::SpawnFailed { run_id, detail, lack: None })
            }
            // The run was removed from the history since.
            None => Ok(self.published_of(run_id, None)),
        })
    }

    /// Returns the published state as a response about this run.
    fn published_of(&self, run_id: i64, run: Option<&RunRow>) -> Arc<Published> {
        let published = self.watch.get();
        if published.snapshot.run_id == Some(run_id) {
            return published;
        }
        // Another run has begun since.
        let mut snapshot = Snapshot::new(&self.ledger.row, run, None);
        snapshot.pipeline.run_id = Some(run_id);
        snapshot.pipeline.conditions = published.snapshot.conditions.clone();
        publish(snapshot, published.number)
    }
}

/// Checks whether this fact completes an action.
fn completes(action: Action, fact: &Fact) -> bool {
    match action {
        Action::Start => matches!(fact, Fact::Spawned { .. } | Fact::SpawnFailed { .. }),
        Action::Pause => matches!(fact, Fact::Paused { .. }),
        Action::Resume => matches!(fact, Fact::Resumed { .. }),
        Action::Stop => fact.is_end(),
    }
}
