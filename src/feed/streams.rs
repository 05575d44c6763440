//! The front of the room: opens streams, and waits for lines.

use std::io;
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
use crate::store::{DatabaseFile, Reader};
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
    pub fn new(supervisor: Handle, inspector: Inspector, runs: Runs, logs: RunLogs, database: DatabaseFile) -> Self {
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::clock::Timestamp;
    use crate::feed::event::{Event, Sink};
    use crate::pipeline::ConditionCode;
    use crate::store::Store;
    use crate::supervisor::{Settings, Supervisor};

    const LONG: Duration = Duration::from_mins(1);

    /// Counts conditions in the states that it takes.
    #[derive(Default)]
    struct Conditions(Vec<bool>);

    impl Sink for Conditions {
        fn take(&mut self, _position: Option<&Position>, event: &Event<'_>) -> io::Result<()> {
            if let Event::State(pipeline) = event {
                self.0.push(!pipeline.conditions.is_empty());
            }
            Ok(())
        }

        fn is_full(&self) -> bool {
            false
        }
    }

    #[test]
    fn publication_between_reading_and_waiting_ends_the_wait_and_so_does_the_servers_end() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let root = dir.path().canonicalize().expect("there");
        let store = Store::open(&root.join("db")).expect("opens").store;
        let settings = Settings {
            runtime_dir: root.clone(),
            root: root.clone(),
            default_script: None,
            grace: Duration::ZERO,
            uses_cgroups: false,
            log_segment_bytes: 1 << 20,
            log_run_bytes: 1 << 20,
            taken_vars: Vec::new(),
        };
        let supervisor = Supervisor::start(store, settings, || {}, || {}).expect("starts");
        let inspector = Inspector::start(|| None).expect("starts");
        let (handle, runs) = (supervisor.handle(), Runs::new(root.clone()));
        let streams = Streams::new(handle.clone(), inspector, runs, supervisor.logs(), DatabaseFile::at(&root.join("db")));
        let mut stream = streams.open(Begin::Now).expect("opens").expect("there is a slot");
        let mut states = Conditions::default();
        stream.gather(&mut states).expect("reads");
        let began = Instant::now();
        handle.watch().set_found(&[(ConditionCode::DiskLow, "1 KiB is free".to_owned())], Timestamp::from_unix_ms(0));
        assert!(stream.wait(LONG), "the server goes on");
        stream.gather(&mut states).expect("reads");
        assert_eq!(states.0, [false, true]);
        supervisor.stop().expect("no fault");
        assert!(!stream.wait(LONG), "nothing more will come");
        assert!(began.elapsed() < LONG, "neither wait lasted to its limit");
    }
}
