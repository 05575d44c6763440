//! The front of the room: opens streams, and waits for lines.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::lines::Found;
use super::log_watch::LogWatch;
use super::position::Position;
use super::slots::Slots;
use super::sources::Sources;
use super::stream::EventStream;
use super::waker::Waker;
use crate::health::Inspector;
use crate::log::{Listing, RunLogs};
use crate::run_dir::Runs;
use crate::store::Reader;
use crate::supervisor::{Handle, Notice};
use crate::transport::Client;

/// Where a new stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Behind what a client has.
    Behind(Position),
    /// With the log from a cursor on, the state as it is, and what happens from now on.
    Log(u64),
    /// With the state as it is, and what happens from now on.
    Now,
}

/// Who streams: one for all listeners of a server.
#[derive(Debug)]
pub struct Streams(Arc<Sources>);

impl Streams {
    /// None yet. `database` is read for the history.
    pub fn new(supervisor: Handle, inspector: Inspector, runs: Runs, logs: RunLogs, database: PathBuf) -> Self {
        let waker = Arc::new(Waker::default());
        let woken = waker.clone();
        supervisor.watch().notify(move |notice| match notice {
            Notice::Published => woken.wake(),
            Notice::Closing => woken.close(),
        });
        let log_watch = Arc::new(LogWatch::new(waker.clone(), runs));
        let slots = Arc::new(Slots::new(waker.clone()));
        Self(Arc::new(Sources { supervisor, inspector, logs, database, log_watch, slots, waker }))
    }

    /// Wakes all followers, to check whether to go on.
    pub fn hurry(&self) {
        self.0.waker.wake();
    }

    /// Waits until the log has what a request asks for, as `scan` tells, at most for `limit`. Where too many wait already it does not wait,
    /// and requests whose clients are gone end their wait.
    pub fn wait_for_lines<E>(
        &self,
        limit: Duration,
        client: &Client<'_>,
        scan: impl FnMut() -> Result<Found, E>,
    ) -> Result<(), E> {
        self.0.wait_for_lines(limit, client, scan)
    }

    /// Opens a stream; `None` when there are as many as there may be.
    pub fn open(&self, begin: Begin) -> io::Result<Option<EventStream>> {
        let Some(slot) = self.0.slots.take() else { return Ok(None) };
        let attendance = self.0.inspector.attend();
        // The first state that is sent is current.
        self.0.inspector.refresh();
        let now = self.now()?;
        let at = match begin {
            // What is not there yet is of another database: that client has nothing of this one.
            Begin::Behind(position) if position.log <= now.log && position.event <= now.event => position,
            Begin::Log(log) if log <= now.log => Position { log, ..now },
            Begin::Behind(_) | Begin::Log(_) | Begin::Now => now,
        };
        Ok(Some(EventStream::new(self.0.clone(), slot, attendance, at)))
    }

    /// The end of the log and of the history. The state is not taken for seen.
    fn now(&self) -> io::Result<Position> {
        let event = Reader::open(&self.0.database).and_then(|reader| reader.last_event()).map_err(io::Error::other)?;
        let log = self.0.logs.end()?;
        Ok(Position { log, version: None, event: event.unwrap_or((0, 0)), wrong: 0 })
    }
}
