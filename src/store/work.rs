//! Work for the one connection that writes, handed over by threads that do not own it, and answered with its result.
//!
//! The supervisor's thread owns the [`Store`] and does this work between its own. Whoever hands it over needs to know nothing of that thread.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};

use super::connection::Store;
use super::error::StoreError;

/// A piece of work whose result's type only its owner knows.
pub trait Work: Send {
    /// Does it. Called once.
    fn run(&mut self, store: &mut Store) -> Result<(), StoreError>;

    /// Tells the owner how that went.
    fn answer(self: Box<Self>, done: Result<(), StoreError>);
}

/// Why handed work has no result.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The database did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The thread that writes has ended, or ends before its turn comes. Nothing was done.
    #[error("write to the database: the server is stopping")]
    Stopping,
}

/// Hands work to the thread that writes.
#[derive(Clone)]
pub struct Writer(Arc<dyn Fn(Box<dyn Work>) -> bool + Send + Sync>);

impl Writer {
    /// `send` passes work on, and returns whether somebody is there to do it.
    pub fn new(send: impl Fn(Box<dyn Work>) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(send))
    }

    /// Hands over a change and waits for its result. It waits behind what the thread is doing; a lock that another process holds
    /// fails it after the store's own short wait, or at once while that lock is known.
    pub fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, WorkError> {
        Ok(self.begin(change)?.recv().map_err(|_| WorkError::Stopping)??)
    }

    /// Hands over a change. Its result comes where this returns; a caller that does not need it drops that.
    pub fn begin<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<Receiver<Result<T, StoreError>>, WorkError> {
        let (reply_to, reply) = mpsc::sync_channel(1);
        let is_sent = self.0(Box::new(Change { make: Some(change), value: None, reply_to }));
        if is_sent { Ok(reply) } else { Err(WorkError::Stopping) }
    }
}

/// A change, its value once it is made, and where the answer goes.
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
        // The owner may not wait for it.
        let _nobody_waits = reply_to.try_send(done.map(|()| value.expect("`run` made it")));
    }
}
