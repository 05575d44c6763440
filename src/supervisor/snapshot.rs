//! The published state: the state as of the last commit, and the action under way. It is immutable and replaced as a whole, so
//! readers never wait for the writer.

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

/// The state of the pipeline at one version: the part that clients see, and the part that only the server knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The part that clients see.
    pub pipeline: Pipeline,
    /// The number of the progress within the run, which distinguishes it from others.
    pub progress_number: u64,
    /// The number of the usage within the run.
    pub usage_number: u64,
    /// The time at which the latest run was seen to have ended.
    pub run_ended_at: Option<Timestamp>,
    /// The latest run's leader, also after its end: for the response to a start whose run ended before the response was sent.
    pub run_pid: Option<u32>,
}

impl Deref for Snapshot {
    type Target = Pipeline;

    fn deref(&self) -> &Pipeline {
        &self.pipeline
    }
}

impl Snapshot {
    /// Creates a snapshot of the stored state, with nothing under way.
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

    /// Sets the progress of the run.
    pub(super) fn show_progress(&mut self, told: Option<&NumberedProgress>) {
        self.pipeline.progress = told.map(|told| told.progress.shown(self.run_ended_at));
        self.progress_number = told.map_or(0, |told| told.number);
    }

    /// Sets the resource usage of the run. A paused run uses nothing.
    pub(super) fn show_usage(&mut self, told: Option<(Usage, u64)>) {
        let told = told.filter(|_| self.pipeline.state == State::Running);
        self.pipeline.usage = told.map(|(usage, _)| usage);
        self.usage_number = told.map_or(0, |(_, number)| number);
    }

    /// Returns the live run; `None` if no run is live.
    pub fn live_run(&self) -> Option<i64> {
        self.run_id.filter(|_| self.pid.is_some())
    }
}

/// Returns the note about a run that has ended. For a lost run, its error is enough.
fn told_at_end(run: &RunRow) -> Option<String> {
    match run.status {
        RunStatus::Completed | RunStatus::Failed => run.killed.at_end(false),
        RunStatus::Stopped => run.killed.at_end(true),
        RunStatus::Starting | RunStatus::Running | RunStatus::Paused | RunStatus::Lost => None,
    }
}

/// The maximum number of requests that wait for a new version at the same time. Above it, the request that has waited longest is
/// answered early, so that clients that disconnect without waiting for the response cannot fill the server with waiting threads.
const WAITERS_MAX: usize = 256;

/// The number of characters of the server's id in an `ETag`: enough that two servers never have the same by accident.
const SHOWN_ID_CHARS: usize = 8;

/// A snapshot and its response body.
#[derive(Debug)]
pub struct Published {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The body of `GET /api/pipeline`, created once for all readers.
    pub body: String,
    /// The tag that distinguishes this body from the others of this server: the version, with the numbers of the progress and the
    /// usage and a digest of the conditions, if there are any.
    pub tag: String,
    /// The `ETag`, created for the first request that gets this body.
    etag: OnceLock<String>,
    /// The body packed with gzip, created for the first client that accepts it.
    packed: OnceLock<Vec<u8>>,
    /// The number of states that were published before. Changes of progress, usage or conditions do not count.
    pub number: u64,
}

impl Published {
    /// Returns the body's `ETag` with its quotes. It contains the server's id, because another server can have another database
    /// with the same version.
    pub fn etag(&self, server_id: &str) -> &str {
        self.etag.get_or_init(|| format!("\"{}@{}\"", self.tag, server_id.get(..SHOWN_ID_CHARS).unwrap_or(server_id)))
    }

    /// Returns the body packed with gzip.
    pub fn packed(&self) -> &[u8] {
        self.packed.get_or_init(|| gzip::pack_fast(self.body.as_bytes()))
    }
}

type Follower = Box<dyn Fn(Notice) + Send + Sync>;

/// The holder of the current snapshot, for any number of readers.
pub struct Watch {
    current: Mutex<Current>,
    /// The conditions. A publisher holds this lock while it builds the body, so that no state is published with conditions that
    /// have been replaced meanwhile. Taken before the lock of `current`; readers never take it.
    wrong: Mutex<Wrong>,
    changed: Condvar,
    /// The functions that are called at each change.
    notified: Mutex<Vec<Follower>>,
}

/// An event that followers are notified of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A snapshot was published.
    Published,
    /// The server is stopping.
    Closing,
}

/// The conditions, by source. A code can be in both lists: each source clears only its own.
#[derive(Default)]
struct Wrong {
    /// The conditions that the supervisor reports.
    told: Conditions,
    /// The conditions that a scan has found.
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
    /// The waiting requests, by an increasing number.
    waiting: BTreeSet<u64>,
    next_waiter: u64,
}

impl Watch {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        let published = publish(snapshot, 0);
        let current = Current { published, is_closing: false, waiting: BTreeSet::new(), next_waiter: 0 };
        Self { current: Mutex::new(current), wrong: Mutex::default(), changed: Condvar::new(), notified: Mutex::default() }
    }

    /// Returns the state as of the last commit.
    pub fn get(&self) -> Arc<Published> {
        lock(&self.current).published.clone()
    }

    /// Waits until the version is newer than `after`, for at most `limit`. Also ends at [`Watch::close`], and at [`Watch::hurry`]
    /// if `gives_way` then returns true.
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

    /// Registers `follower`, which is called after each publication and when the server stops. It must not block.
    pub fn notify(&self, follower: impl Fn(Notice) + Send + Sync + 'static) {
        lock(&self.notified).push(Box::new(follower));
    }

    /// Wakes all waiting requests, which check whether to continue.
    pub fn hurry(&self) {
        // A waiting request holds the lock from its check until it waits.
        drop(lock(&self.current));
        self.changed.notify_all();
    }

    /// Ends all waits, because the server is stopping.
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

    /// Publishes the progress and the usage of a run, if it is the published one. Requests that wait for a newer version continue
    /// to wait, because the state does not change.
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

    /// Publishes a change without a new version.
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

    /// Sets the conditions that the supervisor reports, and clears those that it no longer reports.
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

/// Creates the body and the tag of a snapshot.
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
