//! The life cycle of the pipeline: one thread; commands in, facts in, transitions out; recovery.
//!
//! Level 2. [`Supervisor::start`] recovers and begins the thread; a [`Handle`] is how the HTTP threads reach it. Readers never come here:
//! they look at the snapshot. The thread ends with the server; the pipeline does not.

mod ask;
mod conductor;
mod error;
mod event;
mod inherited;
mod kill_points;
mod lookers;
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

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::api::pipeline::IfRun;
use crate::clock::{Clock, SystemClock};
use crate::log::RunLogs;
use crate::pipeline::Origin;
use crate::run_dir::{Message, Runs};
use crate::store::{RequestKey, Store, Writer};

pub use ask::{Ask, StartRequest};
use conductor::Conductor;
pub use error::{ActionError, BootError};
use event::Event;
use lookers::Lookers;
pub use lookers::Looking;
use pulse::Pulse;
use real_shims::RealShims;
use records::NotedStore;
pub use settings::Settings;
pub use snapshot::{Notice, Published, Snapshot, Watch};

/// The running thread.
pub struct Supervisor {
    handle: Handle,
    logs: RunLogs,
    thread: JoinHandle<Option<i64>>,
}

impl Supervisor {
    /// Recovers what the last server left, and begins. When this returns, the snapshot is true. `wake_retention` is called when a run has
    /// begun or ended, and when its log has gone on to another segment: there may be something to remove or to pack. `at_end` is called
    /// when the thread ends, by [`Supervisor::stop`] or by a panic: a server without it must not go on as if all were well.
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
        let (watch, lookers) = (conductor.watch.clone(), conductor.lookers.clone());
        // A power cut can have taken it.
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
        Ok(Self { handle: Handle { events, writer, watch, lookers, pulse }, logs, thread })
    }

    /// The logs of all runs. Copies share their cache.
    pub fn logs(&self) -> RunLogs {
        self.logs.clone()
    }

    /// How others reach it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends the thread after what it is doing. Returns the run that goes on without it; `Err` when the thread had died of a fault.
    pub fn stop(self) -> Result<Option<i64>, SupervisorDied> {
        self.handle.watch.close();
        // It cannot be told if it has died; then there is nothing to wait for either.
        let _has_died = self.handle.events.send(Event::Stop);
        self.thread.join().map_err(|_| SupervisorDied)
    }
}

/// A fault ended the thread. The pipeline goes on, and the next server takes it over.
#[derive(Debug, thiserror::Error)]
#[error("the supervisor ended by a fault of ours; the pipeline goes on, start the server again to take it over")]
pub struct SupervisorDied;

/// Calls what it holds when it goes out of scope.
struct AtEnd<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

/// How HTTP threads reach the supervisor.
#[derive(Clone)]
pub struct Handle {
    events: Sender<Event>,
    writer: Writer,
    watch: Arc<Watch>,
    lookers: Arc<Lookers>,
    pulse: Arc<Pulse>,
}

impl Handle {
    /// Asks for an action that `origin` wants if `if_run` is the latest run, and waits until it is so or refused. The wait is bounded by the
    /// supervisor. Under one `key` the action is done once.
    pub fn act(&self, ask: Ask, if_run: IfRun, key: Option<RequestKey>, origin: Origin) -> Result<Arc<Published>, ActionError> {
        self.begin(ask, if_run, key, origin)?.recv().unwrap_or(Err(ActionError::Stopping))
    }

    /// Asks for an action. The answer comes where this returns; who does not want it drops that.
    pub fn begin(
        &self,
        ask: Ask,
        if_run: IfRun,
        key: Option<RequestKey>,
        origin: Origin,
    ) -> Result<Receiver<Result<Arc<Published>, ActionError>>, ActionError> {
        let (reply_to, reply) = mpsc::sync_channel(1);
        self.events.send(Event::Act { ask, if_run, key, origin, reply_to }).map_err(|_| ActionError::Stopping)?;
        Ok(reply)
    }

    /// Has the one thread that writes make a change of the database. The change must not be one of the pipeline's state, which facts
    /// alone change.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Whether the thread is alive: it answers within `limit`, or it has waited for the disk for less than
    /// `storage_limit`. A slow sync is not the server's fault, and another server would wait for the same disk.
    pub fn is_alive(&self, limit: Duration, storage_limit: Duration) -> bool {
        let (reply_to, reply) = mpsc::sync_channel(1);
        let has_answered = self.events.send(Event::Ping { reply_to }).is_ok() && reply.recv_timeout(limit).is_ok();
        has_answered || self.in_storage_for().is_some_and(|waited| waited < storage_limit)
    }

    /// For how long the thread has been waiting for the disk; `None` when it is not.
    pub fn in_storage_for(&self) -> Option<Duration> {
        self.pulse.in_storage_for()
    }

    /// Somebody follows what the run uses, as long as what is returned is kept.
    pub fn look(&self) -> Looking {
        let looking = self.lookers.follow();
        // If the supervisor has died, nothing is left to do.
        let _has_died = self.events.send(Event::Look);
        looking
    }

    /// Somebody asks what the run uses, once.
    pub fn look_once(&self) {
        self.lookers.ask();
        let _has_died = self.events.send(Event::Look);
    }

    /// The state, for looking at and waiting on.
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
            // Who asked may have given it up.
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
