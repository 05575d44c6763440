//! The conductor's interface to the database. [`NotedStore`] is the real implementation; the simulation uses one that can fail.

use std::sync::Arc;

use super::pulse::Pulse;
use crate::store::{Store, StoreError};

/// The stored data and its changes. `what` names the call for the simulation, which uses it to choose the calls that fail.
pub(super) trait Records {
    /// Reads data.
    fn read<T>(&self, what: &'static str, read: impl FnOnce(&Store) -> Result<T, StoreError>) -> Result<T, StoreError>;

    /// Makes a change. When the call returns, the change is stored completely, or not at all and the result is an error.
    fn change<T>(
        &mut self,
        what: &'static str,
        change: impl FnOnce(&mut Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError>;
}

/// The real database. The pulse records each call to it.
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
