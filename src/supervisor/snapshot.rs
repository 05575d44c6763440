//! What readers see: the state as of the last commit, and what is under way. Immutable, swapped whole; nobody waits for the writer.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::api::pipeline::{Pipeline, PipelineResponse};
use crate::clock::Timestamp;
use crate::gzip;
use crate::lock::lock;
use crate::pipeline::{ConditionCode, Conditions, RunStatus, State, Usage, allowed};
use crate::run_dir::NumberedProgress;
use crate::store::{PipelineRow, RunRow};

/// The state of the pipeline at one version: what clients see of it, and what the server alone knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What clients see.
    pub pipeline: Pipeline,
    /// What tells that progress from others of the run.
    pub progress_number: u64,
    /// The same for usage.
    pub usage_number: u64,
    /// When the latest run was seen to have ended.
    pub run_ended_at: Option<Timestamp>,
    /// The latest run's leader, also after its end: for the answer to a start whose run was over before it could be given.
    pub run_pid: Option<u32>,
}

impl Deref for Snapshot {
    type Target = Pipeline;

    fn deref(&self) -> &Pipeline {
        &self.pipeline
    }
}

impl Snapshot {
    /// What is stored, with nothing under way.
    pub(super) fn new(row: &PipelineRow, run: Option<&RunRow>, default_script: Option<&str>) -> Self {
        let run_ended_at = run.filter(|run| !run.status.is_live()).and_then(|run| run.stopped_at);
        let pipeline = Pipeline {
            state: row.state,
            pending: None,
            pending_origin: None,
            kill_at: None,
            allowed: allowed(row.state, None),
            pid: row.pid,
            run_id: row.run_id,
            started_at: row.started_at,
            paused_at: row.paused_at,
            resumed_at: row.resumed_at,
            stopped_at: row.stopped_at,
            updated_at: row.updated_at,
            version: row.version,
            status: run.map(|run| run.status),
            outcome: run.and_then(|run| run.outcome.clone()),
            waiting: None,
            next: None,
            script: run.map(|run| run.script.as_str()).or(default_script).map(str::to_owned),
            default_script: default_script.map(str::to_owned),
            exit_code: run.and_then(|run| run.exit_code),
            signal: run.and_then(|run| run.signal),
            oom_kills: run.and_then(|run| run.oom_kills),
            error: run.and_then(|run| run.error.clone()),
            containment: run.and_then(|run| run.containment),
            detail: run.and_then(told_at_end),
            progress: None,
            usage: None,
            conditions: Conditions::default(),
        };
        Self { pipeline, progress_number: 0, usage_number: 0, run_ended_at, run_pid: run.and_then(|run| run.pid) }
    }

    /// Takes in how far the run is.
    pub(super) fn show_progress(&mut self, told: Option<&NumberedProgress>) {
        self.pipeline.progress = told.map(|told| told.progress.shown(self.run_ended_at));
        self.progress_number = told.map_or(0, |told| told.number);
    }

    /// Takes in what the run uses. A paused one uses nothing.
    pub(super) fn show_usage(&mut self, told: Option<(Usage, u64)>) {
        let told = told.filter(|_| self.pipeline.state == State::Running);
        self.pipeline.usage = told.map(|(usage, _)| usage);
        self.usage_number = told.map_or(0, |(_, number)| number);
    }

    /// The run that lives; `None` when none does.
    pub fn live_run(&self) -> Option<i64> {
        self.run_id.filter(|_| self.pid.is_some())
    }
}

/// The note about a run that has ended. For a lost run, its error is enough.
fn told_at_end(run: &RunRow) -> Option<String> {
    match run.status {
        RunStatus::Completed | RunStatus::Failed => run.killed.at_end(false),
        RunStatus::Stopped => run.killed.at_end(true),
        RunStatus::Starting | RunStatus::Running | RunStatus::Paused | RunStatus::Lost => None,
    }
}

/// The most that wait for news at once. One more, and the one that has waited longest is answered before its time: whoever asks and
/// leaves without waiting for the answer must not fill the server with threads that do.
const WAITERS_MAX: usize = 256;

/// How many characters of the server's id are in an `ETag`: enough that two servers never have the same by accident.
const SHOWN_ID_CHARS: usize = 8;

/// A snapshot and its text.
#[derive(Debug)]
pub struct Published {
    /// The values.
    pub snapshot: Snapshot,
    /// The body of `GET /api/pipeline`, made once for all readers.
    pub body: String,
    /// What tells this text from the others of this server: the version, with the numbers of the progress and of the usage if there are any, and
    /// with a digest of the conditions if there are any.
    pub tag: String,
    /// The `ETag`, made for the first request that gets this text.
    etag: OnceLock<String>,
    /// The body packed with gzip, made for the first client that takes it so.
    packed: OnceLock<Vec<u8>>,
    /// How many states were published before it, which a change of its progress or conditions does not count.
    pub number: u64,
}

impl Published {
    /// The text's `ETag`, quotes and all. Another server, which can have another database with the same version, has another id.
    pub fn etag(&self, server_id: &str) -> &str {
        self.etag.get_or_init(|| format!("\"{}@{}\"", self.tag, server_id.get(..SHOWN_ID_CHARS).unwrap_or(server_id)))
    }

    /// The text packed with gzip.
    pub fn packed(&self) -> &[u8] {
        self.packed.get_or_init(|| gzip::pack_fast(self.body.as_bytes()))
    }
}

type Follower = Box<dyn Fn(Notice) + Send + Sync>;

/// Where the current snapshot hangs, for any number of readers.
pub struct Watch {
    current: Mutex<Current>,
    /// The conditions. A publisher holds this lock while it builds the text, so that no state is published with conditions
    /// that have been replaced meanwhile. Taken before the lock of `current`; readers never take it.
    wrong: Mutex<Wrong>,
    changed: Condvar,
    /// Called at each change.
    notified: Mutex<Vec<Follower>>,
}

/// What those who follow are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Something was published.
    Published,
    /// The server stops.
    Closing,
}

/// The conditions, by source. A code can be in both lists: each source withdraws only its own.
#[derive(Default)]
struct Wrong {
    /// Those that the supervisor reports.
    told: Conditions,
    /// Those that a scan has found.
    found: Conditions,
}

impl Wrong {
    fn all(&self) -> Conditions {
        self.told.with(&self.found)
    }
}

struct Current {
    published: Arc<Published>,
    is_closing: bool,
    /// Who waits, by a number that grows.
    waiting: BTreeSet<u64>,
    next_waiter: u64,
}

impl Watch {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        let published = publish(snapshot, 0);
        let current = Current { published, is_closing: false, waiting: BTreeSet::new(), next_waiter: 0 };
        Self { current: Mutex::new(current), wrong: Mutex::default(), changed: Condvar::new(), notified: Mutex::default() }
    }

    /// The state as of the last commit.
    pub fn get(&self) -> Arc<Published> {
        lock(&self.current).published.clone()
    }

    /// Waits until the version is newer than `after`, at most for `limit`, and not beyond [`Watch::close`]. Nor beyond [`Watch::hurry`] where
    /// `gives_way` says so then.
    pub fn wait_newer(&self, after: u64, limit: Duration, gives_way: &dyn Fn() -> bool) -> Arc<Published> {
        let deadline = Instant::now() + limit;
        let mut current = lock(&self.current);
        let number = current.next_waiter;
        current.next_waiter += 1;
        current.waiting.insert(number);
        if current.waiting.len() > WAITERS_MAX {
            current.waiting.pop_first();
            self.changed.notify_all();
        }
        while current.published.snapshot.version <= after && !current.is_closing && current.waiting.contains(&number) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || gives_way() {
                break;
            }
            current = self.changed.wait_timeout(current, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        current.waiting.remove(&number);
        current.published.clone()
    }

    /// Has `follower` called after each publication, and when the server stops. It must not wait.
    pub fn notify(&self, follower: impl Fn(Notice) + Send + Sync + 'static) {
        lock(&self.notified).push(Box::new(follower));
    }

    /// Wakes all waiters, to check whether to go on.
    pub fn hurry(&self) {
        // A waiter holds the lock from its check until it waits.
        drop(lock(&self.current));
        self.changed.notify_all();
    }

    /// Lets everybody who waits go: the server stops.
    pub fn close(&self) {
        lock(&self.current).is_closing = true;
        self.changed.notify_all();
        self.tell(Notice::Closing);
    }

    pub(super) fn publish(&self, snapshot: Snapshot) {
        let wrong = lock(&self.wrong);
        let mut snapshot = snapshot;
        snapshot.pipeline.conditions = wrong.all();
        let published = publish(snapshot, self.get().number + 1);
        lock(&self.current).published = published;
        self.changed.notify_all();
        self.tell(Notice::Published);
    }

    /// Says how far a run is and what it uses, if it is the one that is published. Who waits for a newer version is left to wait: it is no change of the state.
    pub(super) fn publish_signs(&self, run_id: Option<i64>, told: Option<&NumberedProgress>, usage: Option<(Usage, u64)>) {
        let _nobody_else_publishes = lock(&self.wrong);
        let Published { snapshot, .. } = &*self.get();
        if snapshot.run_id != run_id {
            return;
        }
        let is_news = snapshot.progress != told.map(|told| told.progress.shown(snapshot.run_ended_at));
        let mut news = snapshot.clone();
        news.show_usage(usage);
        if is_news {
            news.show_progress(told);
        }
        if is_news || news.usage != snapshot.usage {
            self.replace(news);
        }
    }

    /// Publishes a change that no version counts.
    fn replace(&self, snapshot: Snapshot) {
        let published = publish(snapshot, self.get().number);
        lock(&self.current).published = published;
        self.tell(Notice::Published);
    }

    fn tell(&self, notice: Notice) {
        for follower in &*lock(&self.notified) {
            follower(notice);
        }
    }

    /// Sets the conditions that the supervisor reports, and clears those that it no longer does.
    pub(super) fn set_told(&self, told: &[(ConditionCode, String)], now: Timestamp) {
        self.set_conditions(told, now, |wrong| &mut wrong.told);
    }

    /// Sets the conditions that a scan has found, and clears those that it no longer finds.
    pub fn set_found(&self, found: &[(ConditionCode, String)], now: Timestamp) {
        self.set_conditions(found, now, |wrong| &mut wrong.found);
    }

    fn set_conditions(&self, current: &[(ConditionCode, String)], now: Timestamp, of_source: fn(&mut Wrong) -> &mut Conditions) {
        let mut wrong = lock(&self.wrong);
        let has_changed = of_source(&mut wrong).replace(current, now);
        let all = wrong.all();
        if has_changed && self.get().snapshot.conditions != all {
            let mut snapshot = self.get().snapshot.clone();
            snapshot.pipeline.conditions = all;
            self.replace(snapshot);
        }
    }
}

/// Makes the text of a snapshot.
pub(super) fn publish(snapshot: Snapshot, number: u64) -> Arc<Published> {
    let response = PipelineResponse { pipeline: &snapshot.pipeline };
    let body = serde_json::to_string(&response).expect("a snapshot is plain data");
    let progress = snapshot.progress.as_ref().map_or_else(String::new, |_| format!(".{}", snapshot.progress_number));
    let usage = snapshot.usage.map_or_else(String::new, |_| format!("~{}", snapshot.usage_number));
    let conditions = &snapshot.conditions;
    let wrong = if conditions.is_empty() { String::new() } else { format!("-{:x}", conditions.digest()) };
    let tag = format!("{}{progress}{usage}{wrong}", snapshot.version);
    Arc::new(Published { snapshot, body, tag, etag: OnceLock::new(), packed: OnceLock::new(), number })
}
