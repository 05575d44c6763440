//! What the conductor needs of the database. [`Store`] is the real one; the simulation puts one in its place that can fail.
//!
//! Each method does what the method of the same name of [`Store`] says.

use crate::clock::Timestamp;
use crate::pipeline::{Entry, Killed, Transition};
use crate::store::{Begun, NewRun, PipelineRow, Recorded, RunRow, StopRow, Store, StoreError, UnseenEnd, Work};

/// What is stored, and its changes: each is wholly there when the call returns, or an error and not there at all.
pub(super) trait Records {
    /// See [`Store::row`].
    fn row(&self) -> Result<PipelineRow, StoreError>;
    /// See [`Store::latest_run`].
    fn latest_run(&self) -> Result<Option<RunRow>, StoreError>;
    /// See [`Store::run`].
    fn run(&self, id: i64) -> Result<Option<RunRow>, StoreError>;
    /// See [`Store::last_seq`].
    fn last_seq(&self, run_id: i64) -> Result<u64, StoreError>;
    /// See [`Store::stop_of`].
    fn stop_of(&self, run_id: i64) -> Result<Option<StopRow>, StoreError>;
    /// See [`Store::log_position_max`].
    fn log_position_max(&self) -> Result<u64, StoreError>;
    /// See [`Store::reserve_run_ids`].
    fn reserve_run_ids(&mut self, highest: i64) -> Result<(), StoreError>;
    /// See [`Store::begin_run`].
    fn begin_run(&mut self, new: &NewRun, at: Timestamp) -> Result<Begun, StoreError>;
    /// See [`Store::adopt_unknown_run`].
    fn adopt_unknown_run(&mut self, id: i64, new: &NewRun, at: Timestamp) -> Result<Begun, StoreError>;
    /// See [`Store::record_all`]; each transition has its own cause.
    fn record_all(&mut self, run_id: i64, facts: &[(Entry, Option<Transition>)]) -> Result<Recorded, StoreError>;
    /// See [`Store::end_run`].
    fn end_run(
        &mut self,
        run_id: i64,
        end: UnseenEnd,
        at: Timestamp,
        error: &str,
        killed: &Killed,
    ) -> Result<PipelineRow, StoreError>;
    /// See [`Store::touch`].
    fn touch(&mut self, at: Timestamp) -> Result<PipelineRow, StoreError>;
    /// See [`Store::try_writing`].
    fn try_writing(&mut self) -> Result<(), StoreError>;
    /// Does work that was handed in; see [`Work::run`].
    fn carry_out(&mut self, work: &mut dyn Work) -> Result<(), StoreError>;
}

impl Records for Store {
    fn row(&self) -> Result<PipelineRow, StoreError> {
        Self::row(self)
    }

    fn latest_run(&self) -> Result<Option<RunRow>, StoreError> {
        Self::latest_run(self)
    }

    fn run(&self, id: i64) -> Result<Option<RunRow>, StoreError> {
        Self::run(self, id)
    }

    fn last_seq(&self, run_id: i64) -> Result<u64, StoreError> {
        Self::last_seq(self, run_id)
    }

    fn stop_of(&self, run_id: i64) -> Result<Option<StopRow>, StoreError> {
        Self::stop_of(self, run_id)
    }

    fn log_position_max(&self) -> Result<u64, StoreError> {
        Self::log_position_max(self)
    }

    fn reserve_run_ids(&mut self, highest: i64) -> Result<(), StoreError> {
        Self::reserve_run_ids(self, highest)
    }

    fn begin_run(&mut self, new: &NewRun, at: Timestamp) -> Result<Begun, StoreError> {
        Self::begin_run(self, new, at)
    }

    fn adopt_unknown_run(&mut self, id: i64, new: &NewRun, at: Timestamp) -> Result<Begun, StoreError> {
        Self::adopt_unknown_run(self, id, new, at)
    }

    fn record_all(&mut self, run_id: i64, facts: &[(Entry, Option<Transition>)]) -> Result<Recorded, StoreError> {
        Self::record_all(self, run_id, facts, None)
    }

    fn end_run(
        &mut self,
        run_id: i64,
        end: UnseenEnd,
        at: Timestamp,
        error: &str,
        killed: &Killed,
    ) -> Result<PipelineRow, StoreError> {
        Self::end_run(self, run_id, end, at, error, killed)
    }

    fn touch(&mut self, at: Timestamp) -> Result<PipelineRow, StoreError> {
        Self::touch(self, at)
    }

    fn try_writing(&mut self) -> Result<(), StoreError> {
        Self::try_writing(self)
    }

    fn carry_out(&mut self, work: &mut dyn Work) -> Result<(), StoreError> {
        work.run(self)
    }
}
