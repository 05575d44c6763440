//! The life cycle of the pipeline, in one thread that receives commands and facts, commits transitions, and recovers runs.
//!
//! Level 2. [`Supervisor::start`] recovers and starts the thread, and the HTTP threads reach it through a [`Handle`]. Readers
//! never wait for this thread: they read the snapshot. The thread ends with the server, but the pipeline continues.

mod ask;
mod conductor;
mod error;
mod event;
mod inherited;
mod kill_points;
mod pulse;
mod real_shims;
mod records;
mod settings;
mod shims;
#[cfg(test)]
mod simulation;
mod snapshot;
mod strays;
#[cfg(test)]
mod tests;
mod usage_followers;

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::api::pipeline::ExpectedRun;
use crate::clock::{Clock, SystemClock};
use crate::log::RunLogs;
use crate::pipeline::Origin;
use crate::run_dir::{Message, Runs};
use crate::store::{RequestKey, Store, Writer};

pub use ask::{Ask, StartRequest};
use conductor::Conductor;
pub use error::{ActionError, BootError};
use event::Event;
use pulse::Pulse;
use real_shims::RealShims;
use records::NotedStore;
pub use settings::Settings;
pub use snapshot::{Notice, Published, Snapshot, Watch};
pub use usage_followers::Looking;
use usage_followers::UsageFollowers;

/// The running supervisor thread.
pub struct Supervisor {
    handle: Handle,
    logs: RunLogs,
    thread: JoinHandle<Option<i64>>,
}

impl Supervisor {
    /// Recovers the run that the last server left, and starts the thread. When this returns, the snapshot is correct.
    /// `wake_retention` is called when a run has begun or ended, and when its log continues in a new segment, because there may
    /// be something to remove or to pack. `at_end` is called when the thread ends, by [`Supervisor::stop`] or by a panic, because
    /// a server must not silently continue without it.
    pub fn start(
        store: Store,
        settings: Settings,
        wake_retention: impl Fn() + Send + 'static,
        at_end: impl FnOnce() + Send + 'static,
    ) -> Result<Self, BootError> {
        let (events, queue) = mpsc::channel();
        let pulse = Arc::new(Pulse::default());
        let runs = Runs::new(settings.runtime_dir.clone());
        let logs = RunLogs::new(settings.runtime_dir.clone());
        let shims =
            RealShims::start(runs.clone(), logs.clone(), &settings, events.clone(), pulse.clone()).map_err(BootError::Thread)?;
        let store = NotedStore { store, pulse: pulse.clone() };
        let conductor = Conductor::boot(store, shims, SystemClock, settings)?;
        let (watch, usage_followers) = (conductor.watch.clone(), conductor.usage_followers.clone());
        // A power cut can have removed the link.
        if let Some(run_id) = watch.get().snapshot.run_id.max(runs.latest_id().ok().flatten()) {
            runs.note_latest(run_id);
        }
        let thread = thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn(move || {
                let _called_even_by_a_panic = AtEnd(Some(at_end));
                conduct(conductor, &queue, &wake_retention)
            })
            .map_err(BootError::Thread)?;
        let for_work = events.clone();
        let writer = Writer::new(move |work| for_work.send(Event::Work(work)).is_ok());
        Ok(Self { handle: Handle { events, writer, watch, usage_followers, pulse }, logs, thread })
    }

    /// Returns the logs of all runs. Copies share their cache.
    pub fn logs(&self) -> RunLogs {
        self.logs.clone()
    }

    /// Returns a handle through which other threads reach the supervisor.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends the thread after its current event. Returns the live run, which continues without it.
    ///
    /// # Errors
    /// The thread had panicked.
    pub fn stop(self) -> Result<Option<i64>, SupervisorDied> {
        self.handle.watch.close();
        // Fails if the thread has panicked; then there is nothing to wait for either.
        let _has_died = self.handle.events.send(Event::Stop);
        self.thread.join().map_err(|_| SupervisorDied)
    }
}

/// The supervisor thread ended with a panic. The pipeline continues, and the next server takes it over.
#[derive(Debug, thiserror::Error)]
#[error("the supervisor panicked; the pipeline keeps running, and the next start of the server takes it over")]
pub struct SupervisorDied;

/// A guard that calls its function when it goes out of scope.
struct AtEnd<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

/// The connection of the HTTP threads to the supervisor.
#[derive(Clone)]
pub struct Handle {
    events: Sender<Event>,
    writer: Writer,
    watch: Arc<Watch>,
    usage_followers: Arc<UsageFollowers>,
    pulse: Arc<Pulse>,
}

impl Handle {
    /// Requests an action for `origin` if `if_run` is the latest run, and waits until it is done or refused. The supervisor
    /// limits the wait. The action is done only once for each `key`.
    pub fn act(
        &self,
        ask: Ask,
        if_run: ExpectedRun,
        key: Option<RequestKey>,
        origin: Origin,
    ) -> Result<Arc<Published>, ActionError> {
        self.begin(ask, if_run, key, origin)?.recv().unwrap_or(Err(ActionError::Stopping))
    }

    /// Requests an action. The returned receiver gets the result. A caller that does not need the result can drop the receiver.
    pub fn begin(
        &self,
        ask: Ask,
        if_run: ExpectedRun,
        key: Option<RequestKey>,
        origin: Origin,
    ) -> Result<Receiver<Result<Arc<Published>, ActionError>>, ActionError> {
        let (reply_to, reply) = mpsc::sync_channel(1);
        self.events.send(Event::Act { ask, if_run, key, origin, reply_to }).map_err(|_| ActionError::Stopping)?;
        Ok(reply)
    }

    /// Returns the writer of the database, for changes by the only thread that writes. They must not change the pipeline's state,
    /// which only facts change.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Checks whether the thread is alive: it answers within `limit`, or it has waited for the disk for less than
    /// `storage_limit`. A slow sync is not the server's fault, and another server would wait for the same disk.
    pub fn is_alive(&self, limit: Duration, storage_limit: Duration) -> bool {
        let (reply_to, reply) = mpsc::sync_channel(1);
        let has_answered = self.events.send(Event::Ping { reply_to }).is_ok() && reply.recv_timeout(limit).is_ok();
        has_answered || self.in_storage_for().is_some_and(|waited| waited < storage_limit)
    }

    /// Returns how long the thread has been waiting for the disk; `None` if it is not.
    pub fn in_storage_for(&self) -> Option<Duration> {
        self.pulse.in_storage_for()
    }

    /// Adds a client that follows the resource usage, until the returned guard is dropped.
    pub fn look(&self) -> Looking {
        let looking = self.usage_followers.follow();
        // If the supervisor has died, there is nothing to do.
        let _has_died = self.events.send(Event::Look);
        looking
    }

    /// Notes a single request for the resource usage.
    pub fn look_once(&self) {
        self.usage_followers.ask();
        let _has_died = self.events.send(Event::Look);
    }

    /// Returns the published state, for reading and waiting.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }
}

fn conduct(
    mut conductor: Conductor<NotedStore, RealShims, SystemClock>,
    queue: &Receiver<Event>,
    wake_retention: &dyn Fn(),
) -> Option<i64> {
    let mut live = conductor.live_run();
    loop {
        let event = match conductor.deadline() {
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => queue.recv_timeout(at.saturating_sub(SystemClock.awake())),
        };
        match event {
            Ok(Event::Act { ask, if_run, key, origin, reply_to }) => conductor.act(ask, if_run, key.as_ref(), origin, &reply_to),
            Ok(Event::FromShim { number, messages }) => {
                if messages.iter().any(|message| matches!(message, Message::Rotated(_))) {
                    wake_retention();
                }
                conductor.hear(number, messages);
            }
            Ok(Event::Work(work)) => conductor.carry_out(work),
            Ok(Event::ShimGone { number }) => conductor.lose_shim(number),
            // The sender may have given up waiting.
            Ok(Event::Ping { reply_to }) => drop(reply_to.try_send(())),
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return conductor.live_run(),
            Ok(Event::Look) | Err(RecvTimeoutError::Timeout) => {}
        }
        conductor.tick();
        let now_live = conductor.live_run();
        if std::mem::replace(&mut live, now_live) != now_live {
            wake_retention();
        }
    }
}
