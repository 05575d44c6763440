//! The action under way: the command that it went down as, who waits for it, and what a fact means for it.
//!
//! If killed here: who waited gets no answer. What was sent is done by the shim all the same, and its facts are in the journal.

use std::sync::Arc;
use std::time::Duration;

use crate::pipeline::{Action, Entry, Fact, Origin, Pending, Refusal, State};
use crate::run_dir::Command;
use crate::supervisor::ask::{ReplyTo, answer};
use crate::supervisor::error::ActionError;
use crate::supervisor::snapshot::Published;

/// The most that wait for one action. Each of them holds a connection; one more, and the first is told that it is still under way.
const WAITERS_MAX: usize = 64;

/// A client that waits for the end of an action.
pub(super) struct Waiter {
    pub(super) reply_to: ReplyTo,
    /// When it is told that the action is still under way, in awake time.
    pub(super) until: Duration,
}

/// An action under way.
pub(super) struct UnderWay {
    pub(super) pending: Pending,
    /// The origin, if it is known; of several stops, that of the first.
    origin: Option<Origin>,
    /// Whether a fact has told that.
    is_origin_told: bool,
    /// The latest command of this server, if there was one.
    command: Option<Command>,
    /// The first command's tag; 0 if this server did not send it.
    tag: u64,
    /// When it was asked for, on the boot-time clock in milliseconds: what the shim had seen before that is no answer to it.
    asked_ms: u64,
    waiters: Vec<Waiter>,
}

impl UnderWay {
    fn take_in(&mut self, waiter: Waiter) {
        self.waiters.push(waiter);
        if self.waiters.len() > WAITERS_MAX {
            let longest = self.waiters.remove(0);
            answer(&longest.reply_to, Err(ActionError::TooManyWaiting(self.pending.action())));
        }
    }

    pub(super) fn answer_all(self, result: impl Fn() -> Result<Arc<Published>, ActionError>) {
        for waiter in self.waiters {
            answer(&waiter.reply_to, result());
        }
    }
}

/// How an action that was under way came out.
pub(super) enum Outcome {
    /// The fact it waited for came.
    Done,
    /// The run ended, or is being ended, before it could be done.
    Refused(Refusal),
}

/// At most one action, and the facts that were held against it.
pub(super) struct InFlight {
    under_way: Option<UnderWay>,
    /// The latest run's last fact from which whoever waited for it has learned what came of it.
    settled_seq: u64,
    next_tag: u64,
}

impl InFlight {
    /// Nothing is under way, and nobody waits for facts up to `settled_seq`.
    pub(super) fn new(settled_seq: u64) -> Self {
        Self { under_way: None, settled_seq, next_tag: 1 }
    }

    pub(super) fn pending(&self) -> Option<Pending> {
        self.under_way.as_ref().map(|under_way| under_way.pending)
    }

    /// The origin of the action under way.
    pub(super) fn origin(&self) -> Option<Origin> {
        self.under_way.as_ref().and_then(|under_way| under_way.origin)
    }

    /// When the KILL of a stop follows that this server asked for, in awake time, also where an earlier server had asked for one before. If
    /// only others have asked, no more than the latest possible moment is known.
    pub(super) fn own_kill_at(&self) -> Option<Duration> {
        match self.under_way {
            Some(UnderWay { pending: Pending::Stop { kill_at }, command: Some(_), .. }) => Some(kill_at),
            _ => None,
        }
    }

    /// The latest stop that this server asked for, if its fact is not among `entries`: its KILL in awake time, and its origin.
    pub(super) fn untold_stop(&self, entries: &[Entry]) -> Option<(Duration, Origin)> {
        let kill_at = self.own_kill_at()?;
        let UnderWay { command: Some(Command::Stop { grace_ms, origin, .. }), asked_ms, .. } = self.under_way.as_ref()? else {
            return None;
        };
        let is_its_fact = |entry: &Entry| {
            matches!(entry.fact, Fact::Stopping { grace_ms: told } if Some(told) == *grace_ms)
                && entry.origin == Some(*origin)
                && entry.boot_ms >= *asked_ms
        };
        (!entries.iter().any(is_its_fact)).then_some((kill_at, *origin))
    }

    /// Names a command, so that its reply is known.
    pub(super) fn new_tag(&mut self) -> u64 {
        self.next_tag += 1;
        self.next_tag - 1
    }

    /// A run begins: its facts are numbered anew.
    pub(super) fn begin_run(&mut self) {
        self.settled_seq = 0;
    }

    /// Nobody waits for the facts up to `seq`: they are on record.
    pub(super) fn skip_to(&mut self, seq: u64) {
        self.settled_seq = self.settled_seq.max(seq);
    }

    /// An action is under way that no command of this server began: a start, or one from before. Returns the one that it ends.
    pub(super) fn take_over(&mut self, pending: Pending, origin: Option<Origin>, waiters: Vec<Waiter>) -> Option<UnderWay> {
        let under_way = UnderWay { pending, origin, is_origin_told: true, command: None, tag: 0, asked_ms: 0, waiters };
        self.under_way.replace(under_way)
    }

    /// A stop is under way since before this look at the run, first wanted by `origin`. Facts may have told of it just now, and this server
    /// may have asked for another thing meanwhile.
    pub(super) fn adopt_stop(&mut self, kill_at: Duration, origin: Option<Origin>) {
        match &mut self.under_way {
            None => drop(self.take_over(Pending::Stop { kill_at }, origin, Vec::new())),
            Some(stop) if matches!(stop.pending, Pending::Stop { .. }) => (stop.origin, stop.is_origin_told) = (origin, true),
            Some(_) => {}
        }
    }

    /// Another client waits for the action under way.
    pub(super) fn join(&mut self, waiter: Waiter) {
        if let Some(under_way) = &mut self.under_way {
            under_way.take_in(waiter);
        }
    }

    /// A command went down in state `from`. Whoever waits for a stop waits for the same end as the next one; any other action is given up.
    pub(super) fn sent(
        &mut self,
        pending: Pending,
        origin: Origin,
        (tag, asked_ms, command): (u64, u64, Command),
        waiter: Waiter,
        from: State,
    ) {
        match &mut self.under_way {
            Some(under_way) if pending.action() == under_way.pending.action() => {
                (under_way.pending, under_way.command, under_way.asked_ms) = (pending, Some(command), asked_ms);
                under_way.take_in(waiter);
            }
            Some(_) | None => {
                let (command, origin, waiters) = (Some(command), Some(origin), vec![waiter]);
                let under_way = UnderWay { pending, origin, is_origin_told: false, command, tag, asked_ms, waiters };
                let given_up = self.under_way.replace(under_way);
                if let Some(given_up) = given_up {
                    let refusal = Refusal { from, action: given_up.pending.action(), pending: Some(pending.action()) };
                    given_up.answer_all(|| Err(ActionError::Refused(refusal)));
                }
            }
        }
    }

    /// What a fact means for the action under way, heard in state `from` at `now` in awake time: who is to be answered, and how it went.
    /// Once for each fact.
    pub(super) fn settle(&mut self, entry: &Entry, from: State, now: Duration) -> Option<(UnderWay, Outcome)> {
        let Entry { seq, fact, boot_ms, .. } = entry;
        if *seq <= self.settled_seq {
            return None;
        }
        self.settled_seq = *seq;
        if let (Fact::Stopping { grace_ms, .. }, None | Some(Pending::Pause | Pending::Resume)) = (fact, self.pending()) {
            // A stop that this server did not ask for: from before its time, or the shim got a TERM.
            let stop = Pending::Stop { kill_at: now + Duration::from_millis(*grace_ms) };
            let given_up = self.take_over(stop, entry.origin, Vec::new())?;
            let refusal = Refusal { from, action: given_up.pending.action(), pending: Some(Action::Stop) };
            return Some((given_up, Outcome::Refused(refusal)));
        }
        if let (Fact::Stopping { .. }, Some(stop)) = (fact, &mut self.under_way)
            && !std::mem::replace(&mut stop.is_origin_told, true)
        {
            // Another stop may have reached the shim before.
            stop.origin = entry.origin.or(stop.origin);
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

    /// Drops what nobody waits for once the state says that it is over. Who waited for what a fact brings was told when it was heard, also
    /// where it could not be recorded then.
    pub(super) fn drop_if_over(&mut self, is_live: bool, state: State) {
        let is_over = match self.pending() {
            Some(Pending::Start) => !is_live || state != State::Stopped,
            Some(Pending::Pause | Pending::Resume | Pending::Stop { .. }) => !is_live,
            None => false,
        };
        if is_over && let Some(under_way) = self.under_way.take_if(|under_way| under_way.waiters.is_empty()) {
            ::log::info!("{} is not under way any more", under_way.pending.action());
        }
    }

    /// The shim refused the command with this tag.
    pub(super) fn take_refused(&mut self, tag: u64) -> Option<UnderWay> {
        self.under_way.take_if(|under_way| under_way.tag == tag)
    }

    /// A pause or resume that went down on a connection that is gone may have been refused there, or never read: nobody answers it any
    /// more. If it is done, its fact says so.
    pub(super) fn take_unanswerable(&mut self) -> Option<UnderWay> {
        self.under_way.take_if(|under_way| matches!(under_way.pending, Pending::Pause | Pending::Resume))
    }

    /// The run has ended otherwise than by a fact.
    pub(super) fn take(&mut self) -> Option<UnderWay> {
        self.under_way.take()
    }

    /// Nothing is known any more of what was under way. Everybody who waits is told why; the action itself may still be done.
    pub(super) fn fail_waiters(&mut self, why: impl Fn() -> ActionError) {
        for waiter in self.under_way.iter_mut().flat_map(|under_way| under_way.waiters.drain(..)) {
            answer(&waiter.reply_to, Err(why()));
        }
    }

    /// When the first who waits has waited for long enough.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.under_way.iter().flat_map(|under_way| under_way.waiters.iter().map(|waiter| waiter.until)).min()
    }

    /// Tells who has waited for long enough that the action is still under way.
    pub(super) fn expire(&mut self, now: Duration) {
        let Some(under_way) = &mut self.under_way else { return };
        let action = under_way.pending.action();
        for waiter in under_way.waiters.extract_if(.., |waiter| waiter.until <= now) {
            answer(&waiter.reply_to, Err(ActionError::StillUnderWay(action)));
        }
    }
}
