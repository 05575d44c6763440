//! The life cycle of the pipeline: one thread; commands in, facts in, transitions out; recovery.
//!
//! Level 2. [`Supervisor::start`] recovers and begins the thread; a [`Handle`] is how the HTTP threads reach it. Readers never come here:
//! they look at the snapshot. The thread ends with the server; the pipeline does not.

mod conductor;
mod inherited;
mod keeper;
mod kill_points;
mod pulse;
mod records;
mod reply;
mod shims;
#[cfg(test)]
mod simulation;
mod snapshot;
mod strays;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::log::RunLogs;
use crate::pipeline::{Action, Lack, Refusal, StopOrigin};
use crate::process;
use crate::run_dir::{Message, Runs};
use crate::script::ScriptError;
use crate::store::{Store, StoreError};

use conductor::Conductor;
use keeper::{Keeper, Waker};
use pulse::{Noted, Pulse};
use reply::ReplyTo;
use shims::{ConnectionNumber, RealShims};
pub use snapshot::{Published, Seen, Snapshot, Watch};

/// What a client asks for.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Begin a run.
    Start(StartRequest),
    /// Pause it.
    Pause,
    /// Let it go on.
    Resume,
    /// End it.
    Stop {
        /// From TERM to KILL; the run's own where none is named.
        grace: Option<Duration>,
        /// The origin, if no client requested it.
        origin: Option<StopOrigin>,
    },
}

impl Ask {
    /// The action's word.
    pub const fn action(&self) -> Action {
        match self {
            Self::Start(_) => Action::Start,
            Self::Pause => Action::Pause,
            Self::Resume => Action::Resume,
            Self::Stop { .. } => Action::Stop,
        }
    }
}

/// What a start can say; each thing has a default.
#[derive(Clone, Debug, Default)]
pub struct StartRequest {
    /// The script, by its name in the root.
    pub script: Option<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Where it runs, in the root.
    pub cwd: Option<String>,
    /// Added to its environment.
    pub env: BTreeMap<String, String>,
    /// The grace of a stop that names none.
    pub grace: Option<Duration>,
}

/// Why an action was not done.
#[derive(Debug, thiserror::Error)]
pub enum ActionError {
    /// The state does not allow it, or another client was faster.
    #[error("{0}")]
    Refused(Refusal),
    /// The script or the working directory is no good.
    #[error(transparent)]
    Script(#[from] ScriptError),
    /// A run was begun, and its script could not be executed.
    #[error("{detail}")]
    SpawnFailed {
        /// The run that failed.
        run_id: i64,
        /// Why.
        detail: String,
        /// The resource whose lack is the cause, if any.
        lack: Option<Lack>,
    },
    /// A process would not stop in time; the pause is undone.
    #[error("{0}")]
    PauseTimeout(String),
    /// The leader would not go on.
    #[error("{0}")]
    ResumeFailed(String),
    /// The shim refused for a reason that this version does not know.
    #[error("{0}")]
    Shim(String),
    /// The shim does not answer.
    #[error("the run's own process does not answer; the pipeline goes on as it is, look at /api/health")]
    ShimSilent,
    /// It is not done yet; it may be, later.
    #[error("{0} is still under way; look at GET /api/pipeline (`autoappdev status`)")]
    StillUnderWay(Action),
    /// It was done, and the database could not take that yet.
    #[error("it was done but could not be recorded yet: {}", unrecorded_because(*.obstacle))]
    Unrecorded {
        /// The obstacle.
        obstacle: Obstacle,
    },
    /// The disk is full.
    #[error("the disk is full; make room, and look at /api/pipeline before you try again")]
    DiskFull,
    /// Another process holds a lock on the database.
    #[error(
        "another process has locked the database (a backup, or a sqlite3 shell with an open transaction); end that process or wait, then try again"
    )]
    DatabaseLocked,
    /// The database did not take it.
    #[error("the database did not take it: {0}")]
    Store(String),
    /// A folder could not be read.
    #[error("the runtime directory could not be read: {0}")]
    Io(io::Error),
    /// The server stops.
    #[error("the server is stopping; the pipeline goes on as it is")]
    Stopping,
}

/// Why the database refuses a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The disk is full.
    DiskFull,
    /// Another process holds a lock on it.
    Locked,
    /// Anything else.
    Other,
}

impl Obstacle {
    const fn of(error: &StoreError) -> Self {
        if error.is_disk_full() {
            Self::DiskFull
        } else if error.is_locked() {
            Self::Locked
        } else {
            Self::Other
        }
    }
}

const fn unrecorded_because(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::DiskFull => "the disk is full; it will be recorded as soon as there is room",
        Obstacle::Locked => "another process has locked the database; it will be recorded as soon as the lock is released",
        Obstacle::Other => {
            "the database cannot be written; it will be recorded as soon as it can, and the server's log has the cause"
        }
    }
}

impl ActionError {
    fn store(error: &StoreError) -> Self {
        match Obstacle::of(error) {
            Obstacle::DiskFull => Self::DiskFull,
            Obstacle::Locked => Self::DatabaseLocked,
            Obstacle::Other => Self::Store(error.to_string()),
        }
    }
}

impl From<StoreError> for ActionError {
    fn from(error: StoreError) -> Self {
        Self::store(&error)
    }
}

/// What the life cycle needs to know of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Holds `runs/` and the PAUSE file; absolute and without links, for it is half of the cookie.
    pub runtime_dir: PathBuf,
    /// Scripts lie in here; absolute. It may be a link, which each start resolves again.
    pub root: PathBuf,
    /// The script of a start that names none.
    pub default_script: Option<String>,
    /// From TERM to KILL where nobody says otherwise.
    pub grace: Duration,
    /// Whether a run gets a control group where one can be had.
    pub uses_cgroups: bool,
    /// The size at which a log segment is closed, in bytes.
    pub log_segment_bytes: u64,
    /// The size of a run's segments above which the oldest goes, in bytes.
    pub log_run_bytes: u64,
    /// What is kept of runs that have ended.
    pub retention: Retention,
    /// Environment variables with shared names from which the server took a setting. No pipeline gets them.
    pub taken_vars: Vec<&'static str>,
}

/// What is kept of runs that have ended, and of their logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The room for the logs of all runs, in bytes; beyond it the oldest segments go.
    pub log_bytes: u64,
    /// How many runs are kept, the latest one in any case.
    pub runs: usize,
    /// For how long after their end they are kept; none: for ever.
    pub ended_for: Option<Duration>,
    /// How much of the disk is kept free by removing the oldest segments, in bytes; none: a share of it; 0: no limit.
    pub disk_free_bytes: Option<u64>,
}

/// What the thread takes in.
#[derive(Debug)]
enum Event {
    Act {
        ask: Ask,
        reply_to: ReplyTo,
    },
    FromShim {
        number: ConnectionNumber,
        messages: Vec<Message>,
    },
    ShimGone {
        number: ConnectionNumber,
    },
    /// The directories of these runs are gone, because they are kept no longer: their rows go, too.
    Forget {
        ids: Vec<i64>,
    },
    /// Somebody asks whether the thread runs.
    Ping {
        reply_to: SyncSender<()>,
    },
    Stop,
}

/// Why a server cannot begin. Each sentence fits after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The database did not tell what is stored, or did not take what was found.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread that the life cycle needs could not be started.
    #[error("{}", process::explain_lack("start a thread", .0))]
    Thread(io::Error),
    /// It cannot be said whether a run lives that the database knows nothing of, and whose id it would give again.
    #[error("look at the run directories: {0}")]
    Runs(io::Error),
}

/// The running thread.
#[derive(Debug)]
pub struct Supervisor {
    events: Sender<Event>,
    watch: Arc<Watch>,
    pulse: Arc<Pulse>,
    logs: RunLogs,
    thread: JoinHandle<Option<i64>>,
    keeper: Keeper,
}

impl Supervisor {
    /// Recovers what the last server left, and begins. When this returns, the snapshot is true. `at_end` is called when the thread ends, by
    /// [`Supervisor::stop`] or by a panic: a server without it must not go on as if all were well.
    pub fn start(store: Store, settings: Settings, at_end: impl FnOnce() + Send + 'static) -> Result<Self, BootError> {
        let (events, queue) = mpsc::channel();
        let mut settings = settings;
        settings.log_segment_bytes = keeper::segment_bytes_on(&settings);
        let pulse = Arc::new(Pulse::default());
        let runs = Runs::new(settings.runtime_dir.clone());
        let logs = RunLogs::new(settings.runtime_dir.clone());
        let shims = RealShims::start(runs.clone(), logs.clone(), settings.taken_vars.clone(), events.clone())
            .map_err(BootError::Thread)?;
        let (database, retention, segment_bytes) = (store.path().to_owned(), settings.retention, settings.log_segment_bytes);
        let conductor = Conductor::boot(Noted::new(store, &pulse), Noted::new(shims, &pulse), SystemClock, settings)?;
        let watch = conductor.watch();
        // A power cut can have taken it.
        if let Some(run_id) = watch.get().snapshot.run_id.max(runs.latest_id().ok().flatten()) {
            runs.note_latest(run_id);
        }
        // After the boot: what was found to have ended is recorded by then.
        let keeper =
            Keeper::start(runs, logs.clone(), database, retention, segment_bytes, events.clone()).map_err(BootError::Thread)?;
        let waker = keeper.waker();
        let thread = thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn(move || {
                let _called_even_by_a_panic = AtEnd(Some(at_end));
                conduct(conductor, &queue, &waker)
            })
            .map_err(BootError::Thread)?;
        Ok(Self { events, watch, pulse, logs, thread, keeper })
    }

    /// The logs of all runs. Copies share their cache.
    pub fn logs(&self) -> RunLogs {
        self.logs.clone()
    }

    /// How others reach it.
    pub fn handle(&self) -> Handle {
        Handle { events: self.events.clone(), watch: self.watch.clone(), pulse: self.pulse.clone() }
    }

    /// Ends the thread after what it is doing. Returns the run that goes on without it; `Err` when the thread had died of a fault.
    pub fn stop(self) -> Result<Option<i64>, SupervisorDied> {
        self.watch.close();
        // It cannot be told if it has died; then there is nothing to wait for either.
        let _has_died = self.events.send(Event::Stop);
        let ended = self.thread.join().map_err(|_| SupervisorDied);
        self.keeper.stop();
        ended
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
#[derive(Clone, Debug)]
pub struct Handle {
    events: Sender<Event>,
    watch: Arc<Watch>,
    pulse: Arc<Pulse>,
}

impl Handle {
    /// Asks for an action, and waits until it is so or refused. The wait is bounded by the supervisor.
    pub fn act(&self, ask: Ask) -> Result<Arc<Published>, ActionError> {
        self.begin(ask)?.recv().unwrap_or(Err(ActionError::Stopping))
    }

    /// Asks for an action. The answer comes where this returns; who does not want it drops that.
    pub fn begin(&self, ask: Ask) -> Result<Receiver<Result<Arc<Published>, ActionError>>, ActionError> {
        let (reply_to, reply) = mpsc::sync_channel(1);
        self.events.send(Event::Act { ask, reply_to }).map_err(|_| ActionError::Stopping)?;
        Ok(reply)
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

    /// The state, for looking at and waiting on.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }
}

fn conduct(
    mut conductor: Conductor<Noted<Store>, Noted<RealShims>, SystemClock>,
    queue: &Receiver<Event>,
    keeper: &Waker,
) -> Option<i64> {
    let mut live = conductor.live_run();
    loop {
        let event = match conductor.deadline() {
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => queue.recv_timeout(at.saturating_sub(SystemClock.awake())),
        };
        match event {
            Ok(Event::Act { ask, reply_to }) => conductor.act(ask, &reply_to),
            Ok(Event::FromShim { number, messages }) => {
                if messages.iter().any(|message| matches!(message, Message::Rotated(_))) {
                    keeper.wake();
                }
                conductor.hear(number, messages);
            }
            Ok(Event::Forget { ids }) => conductor.forget(&ids),
            Ok(Event::ShimGone { number }) => conductor.lose_shim(number),
            // Who asked may have given it up.
            Ok(Event::Ping { reply_to }) => drop(reply_to.try_send(())),
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return conductor.live_run(),
            Err(RecvTimeoutError::Timeout) => {}
        }
        conductor.tick();
        let now_live = conductor.live_run();
        if std::mem::replace(&mut live, now_live) != now_live {
            keeper.wake();
        }
    }
}
