//! The life cycle: takes actions and facts, asks the rules, commits, publishes, answers. Knows no thread, no process and no clock of its
//! own, so that a test can be the whole world around it.
//!
//! If killed here: what was committed is what the next boot finds, what the shim wrote down is what it adds. Nothing is kept in
//! memory only, but who waits for an answer: what the database does not take is in the journal or kept by the shim.

mod actions;
mod deadlines;
mod messages;
mod recovery;
mod unrecorded;

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use super::records::Records;
use super::shims::{ConnectionNumber, Shims};
use super::snapshot::{Published, Snapshot, Watch};
use super::{ActionError, BootError, Settings};
use crate::clock::Clock;
use crate::kill_point::KillPoint;
use crate::pipeline::{Action, ConditionCode, Entry, Pending, Refusal, allowed};
use crate::run_dir::{NumberedProgress, Trouble};
use crate::store::{PipelineRow, RunRow};

/// How long a shim may be silent, its lock held, before health says so.
const SILENCE_LIMIT: Duration = Duration::from_secs(5);

/// What health says then.
const SILENT_SHIM: &str = "the live run's own process (the shim) does not answer; the state is what it last said, and no other run is started; look at shim.log in its run directory; a TERM to the `shim_pid` in its journal.jsonl ends the run as a stop does";

/// The shim's own problems.
const SHIM_TROUBLES: [ConditionCode; 4] =
    [ConditionCode::JournalUnwritable, ConditionCode::LogDropped, ConditionCode::PauseFileFailed, ConditionCode::ShimTrouble];

/// The beginning of a shim's note about a pause that does not hold.
const NOT_HOLDING: &str = "pause not holding";

/// How often a shim that does not answer is tried again: often while it may just be leaving or beginning, seldom later.
const RETRY_SOON: Duration = Duration::from_millis(5);
const RETRY_LATER: Duration = Duration::from_secs(1);

/// The longest wait between two looks at a stored progress that cannot be read: each waits twice as long as the one before.
const UNREAD_RETRY_MAX: Duration = Duration::from_mins(1);

/// Where an answer goes. Whoever asked may have gone; then nobody takes it.
pub(super) type ReplyTo = SyncSender<Result<Arc<Published>, ActionError>>;

/// Somebody who waits for the end of an action.
struct Waiter {
    reply_to: ReplyTo,
    /// When it is told that the action is still under way.
    until: Duration,
}

/// An action under way.
struct UnderWay {
    pending: Pending,
    /// The command's tag.
    tag: u64,
    /// When it was asked for, on the boot-time clock in milliseconds: what the shim had seen before that is no answer to it.
    asked_ms: u64,
    waiters: Vec<Waiter>,
}

/// How the live run's shim is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// There is no live run.
    Idle,
    /// It is connected.
    Connected { number: ConnectionNumber },
    /// It lives and does not answer: since when, and when it is tried again.
    Silent { since: Duration, retry_at: Duration },
}

/// How far a run is, and who says so.
struct KnownProgress {
    run_id: i64,
    told: NumberedProgress,
    /// Its shim, and not its directory, where anybody could have put anything.
    is_the_shims: bool,
}

/// A stored progress that could not be read, which is said once.
struct UnreadProgress {
    run_id: i64,
    /// When it is tried again, where that may help, and after what wait.
    retry_at: Option<Duration>,
    waited: Duration,
}

/// See the module.
pub(super) struct Conductor<R, S, C> {
    store: R,
    shims: S,
    clock: C,
    settings: Settings,
    watch: Arc<Watch>,
    row: PipelineRow,
    run: Option<RunRow>,
    under_way: Option<UnderWay>,
    /// What the live run's shim has to say about the state.
    note: Option<String>,
    /// How far a run is, usually the latest.
    progress: Option<KnownProgress>,
    /// A stored progress that could not be read.
    unread_progress: Option<UnreadProgress>,
    link: Link,
    /// The latest run's last recorded fact.
    last_seq: u64,
    /// Facts after that one which the database has not taken yet. What is published does not know of them; what is allowed does.
    unrecorded: Vec<Entry>,
    /// The latest run's last fact from which whoever waited for it has learned what came of it.
    settled_seq: u64,
    /// While the database does not take what it is given: when it is tried again.
    store_retry_at: Option<Duration>,
    /// Why it does not.
    store_failure: Option<ConditionCode>,
    /// What the shim of a run that has not come to life yet could not do.
    last_words: Option<Trouble>,
    /// The grace of a stop that names none: the live run's.
    grace: Duration,
    next_tag: u64,
    /// Since when the shim owes a sign of life: it was told something and has said nothing yet.
    unheard_since: Option<Duration>,
    /// Whether health says that already.
    is_known_silent: bool,
    /// Whether the database may hold more than is remembered here: something failed, before, in the middle of, or after a change.
    is_behind: bool,
    /// Whether the latest run has ended, and its shim has still to leave.
    is_awaited: bool,
    /// When the PAUSE file of a run that has ended is tried again to be removed.
    pause_file_retry_at: Option<Duration>,
}

impl<R: Records, S: Shims, C: Clock> Conductor<R, S, C> {
    /// Reads what is stored, looks what there is, and makes the two agree. When this returns, what is published is true.
    pub(super) fn boot(store: R, shims: S, clock: C, settings: Settings) -> Result<Self, BootError> {
        let row = store.row()?;
        let run = store.latest_run()?;
        let last_seq = run.as_ref().map_or(Ok(0), |run| store.last_seq(run.id))?;
        let snapshot = Snapshot::new(&row, run.as_ref(), None, None, settings.default_script.as_deref(), None);
        let mut conductor = Self {
            watch: Arc::new(Watch::new(snapshot)),
            grace: settings.grace,
            store,
            shims,
            clock,
            settings,
            row,
            run,
            under_way: None,
            note: None,
            progress: None,
            unread_progress: None,
            link: Link::Idle,
            last_seq,
            unrecorded: Vec::new(),
            settled_seq: last_seq,
            store_retry_at: None,
            store_failure: None,
            last_words: None,
            next_tag: 1,
            unheard_since: None,
            is_known_silent: false,
            is_behind: false,
            is_awaited: false,
            pause_file_retry_at: None,
        };
        match conductor.look_at_run() {
            // On a full disk the pipeline is served as it is on record, and controlled; the rest is recorded once it can be.
            Err(error) if error.may_pass() => conductor.forget_and_retry(&error),
            other => other?,
        }
        conductor.take_in_unknown_runs()?;
        if conductor.live_run().is_some() {
            // The server before may have said, under this version, that something is under way.
            conductor.tell_that_something_changed();
        } else {
            // A server before may have been killed while it could not.
            conductor.take_pause_file_away();
            conductor.publish();
        }
        Ok(conductor)
    }

    /// What readers hold on to.
    pub(super) fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }

    /// The run that goes on when this server stops.
    pub(super) fn live_run(&self) -> Option<i64> {
        self.run.as_ref().filter(|run| run.status.is_live()).map(|run| run.id)
    }

    /// Publishes under a new version what the version counts and the run's row does not show: what is under way, and what is said of it.
    fn tell_that_something_changed(&mut self) {
        match self.store.touch(self.clock.now()) {
            // The row alone, beside a run that could not be read, would be of no moment at all.
            Ok(_) if self.is_behind => {}
            Ok(row) => self.row = row,
            // It is published all the same; only who waits for a newer version hears of it later.
            Err(error) => self.note_store_failure(&error),
        }
        KillPoint::ServerPendingCounted.reach();
        self.publish();
    }

    /// Sets a condition, or with `None` clears it.
    fn set_condition(&self, code: ConditionCode, detail: Option<String>) {
        self.watch.set_condition(code, detail, self.clock.now());
    }

    /// The problems that the live run's shim reported. Dropped with the connection, because the shim reports them again to the next one.
    fn forget_troubles(&self) {
        for code in SHIM_TROUBLES {
            self.set_condition(code, None);
        }
    }

    fn pending(&self) -> Option<Pending> {
        self.under_way.as_ref().map(|under_way| under_way.pending)
    }

    /// The shim was told something: from now on it owes a sign of life.
    fn expect_to_hear(&mut self) {
        self.unheard_since.get_or_insert(self.clock.awake());
    }

    /// Makes what is on record what readers see.
    fn publish(&self) {
        let pending = self.pending();
        let note = self.note.as_deref().filter(|_| self.live_run().is_some());
        self.set_condition(ConditionCode::PauseNotHolding, note.filter(|note| note.starts_with(NOT_HOLDING)).map(str::to_owned));
        self.set_condition(ConditionCode::NotRecorded, self.say_what_is_not_recorded());
        let default_script = self.settings.default_script.as_deref();
        let progress = self.progress.as_ref().filter(|known| Some(known.run_id) == self.row.run_id).map(|known| &known.told);
        let mut snapshot = Snapshot::new(&self.row, self.run.as_ref(), pending, note, default_script, progress);
        // If another server or a TERM requested the stop, only the latest possible moment is known.
        if let Some(UnderWay { pending: Pending::Stop { kill_at }, tag: 1.., .. }) = self.under_way {
            snapshot.kill_at = Some(self.clock.now().after(kill_at.saturating_sub(self.clock.awake())));
        }
        if !self.unrecorded.is_empty() {
            // Decided by what is known. A start has to wait until the end of the run before is on record.
            snapshot.allowed = allowed(self.known_state(), pending);
            snapshot.allowed.retain(|&action| action != Action::Start);
        }
        self.watch.publish(snapshot);
    }

    /// Takes runs out of the history that are kept no longer. Nothing of the pipeline changes by it.
    pub(super) fn forget(&mut self, ids: &[i64]) {
        match self.store.forget_runs(ids) {
            Ok(()) => KillPoint::ServerRunForgotten.reach(),
            // Found again with the next look.
            Err(error) => ::log::warn!("failed to forget runs that are kept no longer: {error}"),
        }
    }
}

/// How an action that was under way came out.
enum Outcome {
    /// The fact it waited for came.
    Done,
    /// The run ended, or is being ended, before it could be done.
    Refused(Refusal),
}

impl UnderWay {
    fn answer_all(self, result: impl Fn() -> Result<Arc<Published>, ActionError>) {
        for waiter in self.waiters {
            answer(&waiter.reply_to, result());
        }
    }
}

fn answer(reply_to: &ReplyTo, result: Result<Arc<Published>, ActionError>) {
    // A client that has hung up does not take its answer; what happened is recorded all the same.
    let _client_may_be_gone = reply_to.try_send(result);
}
