//! What the shim says, and that it says nothing any more: facts are recorded, published and answered, in this order.
//!
//! If killed here: what was heard and not committed is in the journal, and the next boot records it.

use std::time::Duration;

use super::{Conductor, KnownProgress, Link, Outcome, RETRY_LATER, SHIM_TROUBLES, UNREAD_RETRY_MAX, UnderWay, UnreadProgress};
use crate::clock::Clock;
use crate::pipeline::{Action, ConditionCode, Entry, Fact, Found, Pending, Refusal, RunStatus, State, Transition, observe};
use crate::run_dir::{Message, Note, NumberedProgress, ProgressError, Reply, ReplyError, Trouble, TroublePart};
use crate::store::StoreError;
use crate::supervisor::records::Records;
use crate::supervisor::shims::{ConnectionNumber, Finding, Shims};
use crate::supervisor::{ActionError, kill_points};

impl<R: Records, S: Shims, C: Clock> Conductor<R, S, C> {
    /// Takes what came up together.
    pub(in crate::supervisor) fn hear(&mut self, number: ConnectionNumber, messages: Vec<Message>) {
        if self.link != (Link::Connected { number }) {
            return;
        }
        self.unheard_since = None;
        if std::mem::take(&mut self.is_known_silent) {
            self.set_condition(ConditionCode::ShimSilent, None);
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
                // For the keeper.
                Message::Rotated(_) => {}
                Message::Progress(told) => self.hear_progress(told),
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
        // Where a fact came with it that is published with the fact.
        self.tell_progress();
        for reply in replies {
            self.hear_reply(reply);
        }
    }

    fn hear_trouble(&mut self, trouble: Trouble) {
        if let Some(text) = &trouble.trouble {
            ::log::warn!("told by the live run: {text}");
        }
        for code in SHIM_TROUBLES {
            self.set_condition(code, sentence_of(&trouble, code));
        }
        self.last_words = Some(trouble).filter(|trouble| trouble.trouble.is_some());
    }

    fn hear_progress(&mut self, told: NumberedProgress) {
        let Some(run_id) = self.run.as_ref().map(|run| run.id) else { return };
        let is_known = |known: &KnownProgress| known.run_id == run_id && known.is_the_shims && known.told.number >= told.number;
        if !self.progress.as_ref().is_some_and(is_known) {
            self.progress = Some(KnownProgress { run_id, told, is_the_shims: true });
        }
    }

    /// What its shim stored counts where that is later than what it has said: it may have been killed, or gone, before it could say it.
    pub(super) fn look_at_progress(&mut self, run_id: i64) {
        match self.shims.progress(run_id) {
            Ok(Some(told)) => {
                self.unread_progress = None;
                let is_known = |known: &KnownProgress| known.run_id == run_id && known.told.number >= told.number;
                if !self.progress.as_ref().is_some_and(is_known) {
                    self.progress = Some(KnownProgress { run_id, told, is_the_shims: false });
                }
            }
            Ok(None) => self.unread_progress = None,
            Err(error) => self.note_unread_progress(run_id, &error),
        }
        self.tell_progress();
    }

    /// What is in the file does not change by itself; a disk that fails to read may do better the next time.
    fn note_unread_progress(&mut self, run_id: i64, error: &ProgressError) {
        let before = self.unread_progress.take().filter(|before| before.run_id == run_id);
        if before.is_none() {
            ::log::warn!("run {run_id}: how far it is is not known: failed to {error}");
        }
        let waited = before.map_or(RETRY_LATER, |before| (before.waited * 2).min(UNREAD_RETRY_MAX));
        let retry_at = matches!(error, ProgressError::Io(_)).then(|| self.clock.awake() + waited);
        self.unread_progress = Some(UnreadProgress { run_id, retry_at, waited });
    }

    /// Tries again where it is time. The shim of a run that goes on tells by itself, and of an earlier run nobody asks any more.
    pub(super) fn look_at_unread_progress(&mut self, now: Duration) {
        let Some(unread) = &mut self.unread_progress else { return };
        if unread.retry_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        let run_id = unread.run_id;
        if self.row.run_id == Some(run_id) && self.live_run().is_none() {
            self.look_at_progress(run_id);
        }
    }

    /// Publishes how far the run is, where that is news.
    fn tell_progress(&self) {
        if let Some(known) = &self.progress {
            self.watch.publish_progress(known.run_id, &known.told);
        }
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
    pub(in crate::supervisor) fn lose_shim(&mut self, number: ConnectionNumber) {
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
        self.forget_troubles();
        if std::mem::take(&mut self.is_known_silent) {
            self.set_condition(ConditionCode::ShimSilent, None);
        }
    }

    pub(super) fn let_go_and_look(&mut self) {
        self.let_go();
        if let Err(error) = self.look_at_run() {
            self.forget_and_retry(&error);
        }
        self.publish();
    }

    /// Commits facts that are not recorded yet, publishes what they make of the pipeline, and answers who waited for it.
    pub(super) fn record(&mut self, entries: Vec<Entry>) -> Result<(), StoreError> {
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
        // Who waited for what a fact brings was told when it was heard, also where it could not be recorded then.
        let is_over = match self.pending() {
            Some(Pending::Start) => self.live_run().is_none() || self.row.state != State::Stopped,
            Some(Pending::Pause | Pending::Resume | Pending::Stop { .. }) => self.live_run().is_none(),
            None => false,
        };
        if is_over && let Some(under_way) = self.under_way.take_if(|under_way| under_way.waiters.is_empty()) {
            ::log::info!("{} is not under way any more", under_way.pending.action());
        }
        self.publish();
        let published = self.watch.get();
        for under_way in answers {
            let run = self.run.as_ref();
            let failed = run.filter(|run| run.status == RunStatus::Failed && run.started_at.is_none());
            let lack = facts.iter().find_map(|(entry, _)| match &entry.fact {
                Fact::SpawnFailed { lack, .. } => *lack,
                _ => None,
            });
            under_way.0.answer_all(|| match (&under_way.1, failed) {
                (Outcome::Refused(refusal), _) => Err(ActionError::Refused(*refusal)),
                (Outcome::Done, Some(run)) => {
                    let detail = run.error.clone().unwrap_or_default();
                    Err(ActionError::SpawnFailed { run_id, detail, lack })
                }
                (Outcome::Done, None) => Ok(published.clone()),
            });
        }
        Ok(())
    }

    /// What a fact means for the action under way: who is to be answered, and how it went. Once for each fact.
    pub(super) fn settle_pending(&mut self, entry: &Entry) -> Option<(UnderWay, Outcome)> {
        let Entry { seq, fact, boot_ms, .. } = entry;
        if *seq <= self.settled_seq {
            return None;
        }
        self.settled_seq = *seq;
        if let (Fact::Stopping { grace_ms, .. }, None | Some(Pending::Pause | Pending::Resume)) = (fact, self.pending()) {
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
}

/// A problem that a shim reported, with the remedy.
fn sentence_of(trouble: &Trouble, code: ConditionCode) -> Option<String> {
    let text = trouble.trouble.as_ref()?;
    let is_of_code = |part: &&TroublePart| match part.code.parse() {
        Ok(known) if SHIM_TROUBLES.contains(&known) => known == code,
        // From a newer shim.
        Ok(_) | Err(_) => code == ConditionCode::ShimTrouble,
    };
    let parts: Vec<&str> = trouble.parts.iter().filter(is_of_code).map(|part| part.detail.as_str()).collect();
    let text = match parts.is_empty() {
        false => parts.join(", "),
        // An older shim sends only the whole sentence.
        true if trouble.parts.is_empty() && code == ConditionCode::ShimTrouble => text.clone(),
        true => return None,
    };
    let remedy = if trouble.is_disk_full { "make room on the disk" } else { "repair the runtime directory or its disk" };
    let advice = match code {
        ConditionCode::JournalUnwritable => {
            format!("{remedy}, and keep the server running until then: only the server knows what happens in the meantime")
        }
        ConditionCode::LogDropped => format!("{remedy}: the log says how many lines are missing and where"),
        _ => remedy.to_owned(),
    };
    Some(format!("the live run's own process (the shim) has trouble: {text}; {advice}"))
}
