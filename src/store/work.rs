//! Changes that other threads hand to the only writing connection, which returns their results.
//!
//! The supervisor's thread owns the [`Store`] and makes these changes between its own. The other threads need to know nothing
//! about that thread.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};

use super::connection::Store;
use super::error::StoreError;

/// A change whose result type only the sender knows.
pub trait Work: Send {
    /// Makes the change. Called once.
    fn run(&mut self, store: &mut Store) -> Result<(), StoreError>;

    /// Sends the result to the sender.
    fn answer(self: Box<Self>, done: Result<(), StoreError>);
}

/// The reason why a change has no result.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The database refused the change.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The writing thread has ended, or ends before the change is made. Nothing was changed.
    #[error("write to the database: the server is stopping")]
    Stopping,
}

/// Hands changes to the thread that writes.
#[derive(Clone)]
pub struct Writer(Arc<dyn Fn(Box<dyn Work>) -> bool + Send + Sync>);

impl Writer {
    /// Creates a writer. `send` passes a change on, and returns whether the thread that makes changes still runs.
    pub fn new(send: impl Fn(Box<dyn Work>) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(send))
    }

    /// Hands over a change and waits for its result. It waits until the thread has finished its current work. A lock that another
    /// process holds makes it fail after the store's own short wait, or at once while the lock is known to be held.
    pub fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, WorkError> {
        Ok(self.begin(change)?.recv().map_err(|_| WorkError::Stopping)??)
    }

    /// Hands over a change. The returned receiver gets its result. A caller that does not need the result can drop the receiver.
    pub fn begin<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<Receiver<Result<T, StoreError>>, WorkError> {
        let (reply_to, reply) = mpsc::sync_channel(1);
        let is_sent = self.0(Box::new(Change { make: Some(change), value: None, reply_to }));
        if is_sent { Ok(reply) } else { Err(WorkError::Stopping) }
    }
}

/// A change, its value once it is made, and the channel for the result.
struct Change<F, T> {
    make: Option<F>,
    value: Option<T>,
    reply_to: SyncSender<Result<T, StoreError>>,
}

impl<F: FnOnce(&mut Store) -> Result<T, StoreError> + Send, T: Send> Work for Change<F, T> {
    fn run(&mut self, store: &mut Store) -> Result<(), StoreError> {
        let change = self.make.take().expect("work is done once");
        self.value = Some(change(store)?);
        Ok(())
    }

    fn answer(self: Box<Self>, done: Result<(), StoreError>) {
        let Self { value, reply_to, .. } = *self;
        // The sender may not be waiting for it.
        let _nobody_waits = reply_to.try_send(done.map(|()| value.expect("`run` made it")));
    }
}
