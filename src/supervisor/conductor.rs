//! The life cycle: takes actions and facts, asks the rules, commits, publishes, answers. Knows no thread, no process and no clock of its
//! own, so that a test can be the whole world around it.
//!
//! If killed here: what was committed is what the next boot finds, what the shim wrote down is what it adds. Nothing is kept in
//! memory only, but who waits for an answer.

mod recovery;
mod unrecorded;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use super::kill_points;
use super::records::Records;
use super::shims::{ConnectionNumber, Finding, Shims};
use super::snapshot::{Concern, Published, Snapshot, Watch};
use super::{ActionError, Ask, BootError, Settings, StartRequest};
use crate::clock::{Clock, whole_ms};
use crate::kill_point::KillPoint;
use crate::pipeline::{
    Action, Entry, Fact, Found, Pending, Refusal, RunStatus, State, Step, Transition, allowed, decide, observe,
};
use crate::run_dir::{Command, FORMAT, LaunchSpec, Message, Note, Reply, ReplyError, Trouble};
use crate::script;
use crate::store::{NewRun, PipelineRow, RunRow, StoreError};

/// How long a start, a pause or a resume is waited for before its client is told that it is still under way. The shim gives up a
/// pause earlier than that.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How long beyond the grace a stop is waited for.
const STOP_ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// The most that wait for one stop. Each of them holds a connection; one more, and the first is told that it is still under way.
const WAITERS_MAX: usize = 64;

/// How long a shim may be silent, its lock held, before health says so.
const SILENCE_LIMIT: Duration = Duration::from_secs(5);

/// What health says then.
const SILENT_SHIM: &str = "the live run's own process (the shim) does not answer; the state is what it last said, and no other run is started; look at shim.log in its run directory";

/// How often a shim that does not answer is tried again: often while it may just be leaving or beginning, seldom later.
const RETRY_SOON: Duration = Duration::from_millis(5);
const RETRY_LATER: Duration = Duration::from_secs(1);

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
    link: Link,
    /// The latest run's last recorded fact.
    last_seq: u64,
    /// Facts after that one which the database has not taken yet. What is published does not know of them; what is allowed does.
    unrecorded: Vec<Entry>,
    /// The latest run's last fact from which whoever waited for it has learned what came of it.
    settled_seq: u64,
    /// While the database does not take what it is given: when it is tried again.
    store_retry_at: Option<Duration>,
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
    /// Whether the latest run has ended, and its shim has still to leave, or its PAUSE file to go.
    is_awaited: bool,
}

impl<R: Records, S: Shims, C: Clock> Conductor<R, S, C> {
    /// Reads what is stored, looks what there is, and makes the two agree. When this returns, what is published is true.
    pub(super) fn boot(store: R, shims: S, clock: C, settings: Settings) -> Result<Self, BootError> {
        let row = store.row()?;
        let run = store.latest_run()?;
        let last_seq = run.as_ref().map_or(Ok(0), |run| store.last_seq(run.id))?;
        let snapshot = Snapshot::new(&row, run.as_ref(), None, None, settings.default_script.as_deref());
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
            link: Link::Idle,
            last_seq,
            unrecorded: Vec::new(),
            settled_seq: last_seq,
            store_retry_at: None,
            last_words: None,
            next_tag: 1,
            unheard_since: None,
            is_known_silent: false,
            is_behind: false,
            is_awaited: false,
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

    // ---- what clients ask

    /// Takes an action. The answer comes when it is so, or at once when it cannot be.
    pub(super) fn act(&mut self, ask: Ask, reply_to: &ReplyTo) {
        let now = self.clock.awake();
        let action = ask.action();
        let grace = match &ask {
            Ask::Stop { grace } => grace.unwrap_or(self.grace),
            Ask::Start(_) | Ask::Pause | Ask::Resume => Duration::ZERO,
        };
        // There may be room by now.
        let unrecorded = self.record_unrecorded();
        // The answer must come from what is stored.
        if let Err(error) = self.catch_up() {
            self.note_store_failure(&error);
            return answer(reply_to, Err(error.into()));
        }
        let pending = self.under_way.as_ref().map(|under_way| under_way.pending);
        let step = match decide(self.known_state(), pending, action, now + grace) {
            Ok(step) => step,
            Err(refusal) => return answer(reply_to, Err(ActionError::Refused(refusal))),
        };
        let waiter = |limit| Waiter { reply_to: reply_to.clone(), until: now + limit };
        let tag = self.next_tag;
        self.next_tag += 1;
        match (step, ask) {
            (Step::Launch, Ask::Start(request)) => match unrecorded {
                Ok(()) => self.launch(&request, waiter(ANSWER_LIMIT)),
                // The end of the run before has to be on record first.
                Err(error) => answer(reply_to, Err(error.into())),
            },
            (Step::Pause, _) => self.command(&Command::Pause { tag }, tag, Pending::Pause, waiter(ANSWER_LIMIT)),
            (Step::Resume, _) => self.command(&Command::Resume { tag }, tag, Pending::Resume, waiter(ANSWER_LIMIT)),
            (Step::Stop | Step::Hasten, _) => {
                let command = Command::Stop { tag, grace_ms: Some(whole_ms(grace)) };
                let pending = Pending::Stop { kill_at: now + grace };
                self.command(&command, tag, pending, waiter(grace + STOP_ANSWER_LIMIT));
            }
            (Step::Launch, Ask::Pause | Ask::Resume | Ask::Stop { .. }) => {
                unreachable!("decide() answers Launch to a start only")
            }
        }
    }

    fn launch(&mut self, request: &StartRequest, waiter: Waiter) {
        let spec = match self.prepare(request) {
            Ok(spec) => spec,
            Err(error) => return answer(&waiter.reply_to, Err(error)),
        };
        let run_id = spec.run_id;
        self.grace = Duration::from_millis(spec.grace_ms);
        self.watch.set_concern(Concern::Run, None);
        self.under_way = Some(UnderWay { pending: Pending::Start, tag: 0, asked_ms: 0, waiters: vec![waiter] });
        self.publish();
        match self.shims.launch(&spec) {
            Ok(number) => {
                self.link = Link::Connected { number };
                // Of the run before, if anything was wrong at all.
                self.watch.set_concern(Concern::Shim, None);
                self.expect_to_hear();
            }
            Err(error) => {
                // Whether a shim was born before that went wrong is for a look to say, not for a guess.
                ::log::error!("run {run_id}: its shim could not be started: {error}");
                self.shims.disconnect();
                let detail = format!("the run's own process could not be started: {error}");
                let is_disk_full = is_disk_full(&error);
                self.last_words = Some(Trouble { trouble: Some(detail.clone()), is_disk_full });
                if let Err(error) = self.settle(&detail) {
                    self.forget_and_retry(&error);
                    self.publish();
                }
            }
        }
    }

    /// Checks the request and commits the run. A refused request changes nothing.
    fn prepare(&mut self, request: &StartRequest) -> Result<LaunchSpec, ActionError> {
        let root = self.settings.root.clone();
        let name = request.script.as_deref().or(self.settings.default_script.as_deref());
        let script_name = name.ok_or(script::ScriptError::Unnamed)?.to_owned();
        let program = script::find_script(&root, &script_name)?;
        let cwd = match &request.cwd {
            Some(name) => script::find_cwd(&root, name)?,
            None => root,
        };
        let log_start = self.shims.log_end().map_err(ActionError::Io)?.max(self.store.log_position_max()?);
        let at = self.clock.now();
        let new = NewRun { script: script_name, cwd: cwd.display().to_string(), args: request.args.clone(), log_start };
        let begun = match self.store.begin_run(&new, at) {
            Ok(begun) => begun,
            Err(error) => {
                // It may be kept all the same: an error can come after the change has reached the log. Then the next look ends it.
                self.forget_and_retry(&error);
                return Err(error.into());
            }
        };
        KillPoint::ServerStartingCommitted.reach();
        (self.note, self.is_awaited) = (None, false);
        (self.last_seq, self.settled_seq, self.last_words) = (0, 0, None);
        self.run = match self.store.run(begun.run_id) {
            Ok(run) => run,
            Err(error) => {
                // Committed, and never to be launched: the next look ends it.
                self.forget_and_retry(&error);
                return Err(error.into());
            }
        };
        self.row = begun.row;
        self.note_store_success();
        Ok(LaunchSpec {
            format: FORMAT,
            run_id: begun.run_id,
            runtime_dir: self.settings.runtime_dir.clone(),
            created_at: at,
            script: new.script,
            program: program.program,
            program_args: program.args,
            args: new.args,
            cwd,
            env: request.env.clone(),
            grace_ms: whole_ms(request.grace.unwrap_or(self.settings.grace)),
            log_start,
            log_segment_bytes: self.settings.log_segment_bytes,
            log_run_bytes: self.settings.log_run_bytes,
            uses_cgroups: self.settings.uses_cgroups,
        })
    }

    /// Sends a command down, and notes that its fact is awaited.
    fn command(&mut self, command: &Command, tag: u64, pending: Pending, waiter: Waiter) {
        let asked_ms = whole_ms(self.clock.since_boot());
        let sent = match self.link {
            Link::Connected { .. } => self.shims.send(command).is_ok(),
            Link::Idle | Link::Silent { .. } => false,
        };
        if !sent {
            // It may have left after an end that is still on its way to us, and stands in its journal.
            if let Link::Connected { .. } = self.link {
                self.let_go_and_look();
            }
            let from = self.known_state();
            let refusal = Refusal { from, action: pending.action(), pending: self.pending().map(Pending::action) };
            let has_ended = self.live_run().is_none();
            let error = if has_ended { ActionError::Refused(refusal) } else { ActionError::ShimSilent };
            return answer(&waiter.reply_to, Err(error));
        }
        kill_points::sent(command);
        self.expect_to_hear();
        match &mut self.under_way {
            // A second stop: whoever waits for the first waits for the same end.
            Some(under_way) if pending.action() == under_way.pending.action() => {
                under_way.pending = pending;
                under_way.waiters.push(waiter);
                if under_way.waiters.len() > WAITERS_MAX {
                    let longest = under_way.waiters.remove(0);
                    answer(&longest.reply_to, Err(ActionError::StillUnderWay(pending.action())));
                }
            }
            Some(_) | None => {
                let given_up = self.under_way.replace(UnderWay { pending, tag, asked_ms, waiters: vec![waiter] });
                if let Some(given_up) = given_up {
                    let action = given_up.pending.action();
                    let refusal = Refusal { from: self.known_state(), action, pending: Some(pending.action()) };
                    given_up.answer_all(|| Err(ActionError::Refused(refusal)));
                }
            }
        }
        // The shim is at work already; who waits for news gets to know that something is under way.
        self.tell_that_something_changed();
    }

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

    // ---- what the shim says

    /// Takes what came up together.
    pub(super) fn hear(&mut self, number: ConnectionNumber, messages: Vec<Message>) {
        if self.link != (Link::Connected { number }) {
            return;
        }
        self.unheard_since = None;
        if std::mem::take(&mut self.is_known_silent) {
            self.watch.set_concern(Concern::Shim, None);
        }
        let mut entries = self.unrecorded.clone();
        let mut replies = Vec::new();
        let mut notes = Vec::new();
        for message in messages {
            match message {
                Message::Fact(entry) if entries.last().is_none_or(|last| last.seq < entry.seq) => entries.push(entry),
                // Kept already: it was said again on a new connection.
                Message::Fact(_) => {}
                Message::Reply(reply) => replies.push(reply),
                Message::Note(note) => notes.push(note),
                Message::Trouble(trouble) => self.hear_trouble(trouble),
            }
        }
        // Before the facts that came with it: who waits for one of those finds both.
        let version = self.row.version;
        let is_noted = notes.pop().map(|Note { note }| self.note = note).is_some();
        if let Err(error) = self.record_or_keep(entries) {
            return self.forget_and_retry(&error);
        }
        if is_noted && self.row.version == version {
            self.tell_that_something_changed();
        }
        for reply in replies {
            self.hear_reply(reply);
        }
    }

    fn hear_trouble(&mut self, trouble: Trouble) {
        if let Some(text) = &trouble.trouble {
            ::log::warn!("told by the live run: {text}");
        }
        let sentence = trouble.trouble.as_ref().map(|text| format!("the live run's own process (the shim) has trouble: {text}"));
        self.watch.set_concern(Concern::Run, sentence);
        self.last_words = Some(trouble).filter(|trouble| trouble.trouble.is_some());
    }

    fn hear_reply(&mut self, reply: Reply) {
        let Some(error) = reply.error else { return };
        let Some(under_way) = self.under_way.take_if(|under_way| under_way.tag == reply.reply) else { return };
        let detail = reply.detail.unwrap_or_else(|| "the run's own process refused".to_owned());
        ::log::warn!("{} was not done: {detail}", under_way.pending.action());
        // Before the answer: who asked finds it so.
        self.tell_that_something_changed();
        let action = under_way.pending.action();
        let from = self.known_state();
        under_way.answer_all(|| {
            Err(match error {
                ReplyError::PauseTimeout => ActionError::PauseTimeout(detail.clone()),
                ReplyError::ResumeFailed => ActionError::ResumeFailed(detail.clone()),
                ReplyError::NotNow => ActionError::Refused(Refusal { from, action, pending: None }),
                ReplyError::UnknownCommand | ReplyError::Other => ActionError::Shim(detail.clone()),
            })
        });
    }

    /// The connection broke: the shim left, or died, or was cut off.
    pub(super) fn lose_shim(&mut self, number: ConnectionNumber) {
        if self.link != (Link::Connected { number }) {
            return;
        }
        let may_add = self.run.as_ref().filter(|run| run.status != RunStatus::Lost);
        let finding = may_add.map(|run| self.shims.find(run.id));
        if let Some(Ok(Finding { found: Found::ShimAlive, .. })) = finding {
            // A process that dies closes its connections a little before its lock falls. One that lives can be reached again later as well.
            self.let_go();
            self.fall_silent();
        } else {
            self.let_go_and_look();
        }
    }

    fn let_go(&mut self) {
        self.shims.disconnect();
        // Its shim says it again to the next connection.
        self.note = None;
        self.link = Link::Idle;
        self.unheard_since = None;
        // It says it again to who connects to it.
        self.watch.set_concern(Concern::Run, None);
        if std::mem::take(&mut self.is_known_silent) {
            self.watch.set_concern(Concern::Shim, None);
        }
    }

    fn let_go_and_look(&mut self) {
        self.let_go();
        if let Err(error) = self.look_at_run() {
            self.forget_and_retry(&error);
        }
        self.publish();
    }

    /// Commits facts that are not recorded yet, publishes what they make of the pipeline, and answers who waited for it.
    fn record(&mut self, entries: Vec<Entry>) -> Result<(), StoreError> {
        self.catch_up()?;
        let Some(run) = &self.run else { return Ok(()) };
        let run_id = run.id;
        let mut state = self.row.state;
        let mut facts: Vec<(Entry, Option<Transition>)> = Vec::new();
        for entry in entries.into_iter().filter(|entry| entry.seq > self.last_seq) {
            let transition = observe(state, &entry.fact);
            state = transition.map_or(state, |transition| transition.to);
            facts.push((entry, transition));
        }
        let Some((last, _)) = facts.last() else { return Ok(()) };
        let last_seq = last.seq;
        kill_points::heard(&facts);
        // Behind until the call has come back well: an error can come after the change has reached the log.
        self.is_behind = true;
        let row = self.store.record_all(run_id, &facts)?.row;
        self.is_behind = false;
        kill_points::committed(&facts);
        let before = std::mem::replace(&mut self.row, row);
        self.last_seq = last_seq;
        self.unrecorded.retain(|entry| entry.seq > last_seq);
        // Before anything else can fail: what is committed is under way no more.
        let answers: Vec<_> = facts.iter().filter_map(|(entry, _)| self.settle_pending(entry)).collect();
        self.run = match self.store.run(run_id) {
            Ok(run) => run,
            Err(error) => {
                // Row and run are of one moment, or what is published is of none.
                self.row = before;
                self.is_behind = true;
                for (under_way, _) in answers {
                    under_way.answer_all(|| Err(ActionError::store(&error)));
                }
                return Err(error);
            }
        };
        self.publish();
        let published = self.watch.get();
        for under_way in answers {
            let run = self.run.as_ref();
            let failed = run.filter(|run| run.status == RunStatus::Failed && run.started_at.is_none());
            under_way.0.answer_all(|| match (&under_way.1, failed) {
                (Outcome::Refused(refusal), _) => Err(ActionError::Refused(*refusal)),
                (Outcome::Done, Some(run)) => {
                    let detail = run.error.clone().unwrap_or_default();
                    Err(ActionError::SpawnFailed { run_id, detail })
                }
                (Outcome::Done, None) => Ok(published.clone()),
            });
        }
        Ok(())
    }

    /// What a fact means for the action under way: who is to be answered, and how it went. Once for each fact.
    fn settle_pending(&mut self, entry: &Entry) -> Option<(UnderWay, Outcome)> {
        let Entry { seq, fact, boot_ms, .. } = entry;
        if *seq <= self.settled_seq {
            return None;
        }
        self.settled_seq = *seq;
        if let (Fact::Stopping { grace_ms }, None | Some(Pending::Pause | Pending::Resume)) = (fact, self.pending()) {
            // A stop that this server did not ask for: from before its time, or the shim got a TERM.
            let pending = Pending::Stop { kill_at: self.clock.awake() + Duration::from_millis(*grace_ms) };
            let given_up = self.under_way.replace(UnderWay { pending, tag: 0, asked_ms: 0, waiters: Vec::new() })?;
            let refusal = Refusal { from: self.row.state, action: given_up.pending.action(), pending: Some(Action::Stop) };
            return Some((given_up, Outcome::Refused(refusal)));
        }
        let is_news = self.under_way.as_ref().is_some_and(|under_way| *boot_ms >= under_way.asked_ms);
        let outcome = match (self.pending()?, fact) {
            (Pending::Pause, Fact::Paused { .. }) | (Pending::Resume, Fact::Resumed { .. }) if is_news => Outcome::Done,
            (Pending::Start, Fact::Spawned { .. } | Fact::SpawnFailed { .. })
            | (Pending::Start | Pending::Stop { .. }, Fact::Exited { .. }) => Outcome::Done,
            (pending @ (Pending::Pause | Pending::Resume), Fact::Exited { .. }) => {
                Outcome::Refused(Refusal { from: State::Stopped, action: pending.action(), pending: None })
            }
            (Pending::Start | Pending::Pause | Pending::Resume | Pending::Stop { .. }, _) => return None,
        };
        self.under_way.take().map(|under_way| (under_way, outcome))
    }

    fn pending(&self) -> Option<Pending> {
        self.under_way.as_ref().map(|under_way| under_way.pending)
    }

    fn expect_to_hear(&mut self) {
        self.unheard_since.get_or_insert(self.clock.awake());
    }

    // ---- time

    /// When [`Conductor::tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let retry = match self.link {
            Link::Silent { retry_at, .. } => Some(retry_at),
            Link::Idle | Link::Connected { .. } => None,
        };
        let retry = retry.into_iter().chain(self.store_retry_at);
        let waiters = self.under_way.iter().flat_map(|under_way| under_way.waiters.iter().map(|waiter| waiter.until));
        let silence = self.unheard_since.filter(|_| !self.is_known_silent).map(|since| since + SILENCE_LIMIT);
        waiters.chain(retry).chain(silence).min()
    }

    /// Does what is due.
    pub(super) fn tick(&mut self) {
        let now = self.clock.awake();
        if let Link::Silent { retry_at, .. } = self.link
            && retry_at <= now
        {
            if let Err(error) = self.look_at_run() {
                self.forget_and_retry(&error);
            } else {
                if self.live_run().is_none() {
                    self.let_the_ended_be();
                    self.watch.set_concern(Concern::Shim, None);
                }
                // Also where nothing was new: what was committed before a read failed has not been published.
                self.publish();
            }
        }
        if self.store_retry_at.is_some_and(|at| at <= now) {
            self.try_store_again();
        }
        if !self.is_known_silent && self.unheard_since.is_some_and(|since| now.saturating_sub(since) >= SILENCE_LIMIT) {
            self.is_known_silent = true;
            self.watch.set_concern(Concern::Shim, Some(SILENT_SHIM.to_owned()));
        }
        if let Some(under_way) = &mut self.under_way {
            let action = under_way.pending.action();
            under_way.waiters.retain(|waiter| {
                let is_late = waiter.until <= now;
                if is_late {
                    answer(&waiter.reply_to, Err(ActionError::StillUnderWay(action)));
                }
                !is_late
            });
        }
    }

    /// Where nothing lives nobody is silent, unless what has ended is heard out or awaited.
    fn let_the_ended_be(&mut self) {
        if !self.is_awaited && matches!(self.link, Link::Silent { .. }) {
            self.link = Link::Idle;
        }
    }

    fn publish(&self) {
        let pending = self.pending();
        let note = self.note.as_deref().filter(|_| self.live_run().is_some());
        let default_script = self.settings.default_script.as_deref();
        let mut snapshot = Snapshot::new(&self.row, self.run.as_ref(), pending, note, default_script);
        if !self.unrecorded.is_empty() {
            // Decided by what is known. A start has to wait until the end of the run before is on record.
            snapshot.allowed = allowed(self.known_state(), pending);
            snapshot.allowed.retain(|&action| action != Action::Start);
        }
        self.watch.publish(snapshot);
    }
}

/// Whether a file could not grow: no room, or none for this user.
fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
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
