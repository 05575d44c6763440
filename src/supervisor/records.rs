//! What the conductor needs of the database. [`NotedStore`] is the real one; the simulation puts one in its place that can fail.

use std::sync::Arc;

use super::pulse::Pulse;
use crate::store::{Store, StoreError};

/// What is stored, and its changes. `what` names the call for the simulation, which chooses by it what fails.
pub(super) trait Records {
    /// Reads.
    fn read<T>(&self, what: &'static str, read: impl FnOnce(&Store) -> Result<T, StoreError>) -> Result<T, StoreError>;

    /// Makes a change: it is wholly there when the call returns, or an error and not there at all.
    fn change<T>(
        &mut self,
        what: &'static str,
        change: impl FnOnce(&mut Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError>;
}

/// The real database, with each call to it noted.
pub(super) struct NotedStore {
    pub(super) store: Store,
    pub(super) pulse: Arc<Pulse>,
}

impl Records for NotedStore {
    fn read<T>(&self, _: &'static str, read: impl FnOnce(&Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let _noted = self.pulse.begin_storage();
        read(&self.store)
    }

    fn change<T>(&mut self, _: &'static str, change: impl FnOnce(&mut Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let _noted = self.pulse.begin_storage();
        change(&mut self.store)
    }
}
