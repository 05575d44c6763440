//! The action under way: its command, the clients that wait for it, and the effect of each fact on it.
//!
//! If killed here: waiting clients get no response. The shim still does what was sent, and its facts are in the journal.

use std::sync::Arc;
use std::time::Duration;

use crate::pipeline::{Action, Entry, Fact, Origin, Pending, Refusal, State};
use crate::run_dir::Command;
use crate::supervisor::ask::{ReplyTo, answer};
use crate::supervisor::error::ActionError;
use crate::supervisor::snapshot::Published;

/// The maximum number of clients that wait for one action, because each holds a connection. Above it, the client that has waited
/// longest is answered that the action is still under way.
const WAITERS_MAX: usize = 64;

/// A client that waits for the end of an action.
pub(super) struct Waiter {
    pub(super) reply_to: ReplyTo,
    /// The time at which the client is answered that the action is still under way, in awake time.
    pub(super) until: Duration,
}

/// An action under way.
pub(super) struct UnderWay {
    pub(super) pending: Pending,
    /// The origin, if it is known; of several stops, that of the first.
    origin: Option<Origin>,
    /// Whether the origin comes from a fact.
    is_origin_told: bool,
    /// The latest command that this server sent, if any.
    command: Option<Command>,
    /// The tag of the first command; 0 if this server did not send it.
    tag: u64,
    /// The time of the request, in milliseconds of boot time. Earlier facts are not its result.
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

/// The result of an action that was under way.
pub(super) enum Outcome {
    /// The awaited fact arrived.
    Done,
    /// The run ended, or is being ended, before the action could be done.
    Refused(Refusal),
}

/// The action under way, if any, and the last fact that was applied to it.
pub(super) struct InFlight {
    under_way: Option<UnderWay>,
    /// The number of the latest run's last fact that was applied, and whose waiting clients were answered.
    settled_seq: u64,
    next_tag: u64,
}

impl InFlight {
    /// Creates a value with nothing under way, for which no client waits for facts up to `settled_seq`.
    pub(super) fn new(settled_seq: u64) -> Self {
        Self { under_way: None, settled_seq, next_tag: 1 }
    }

    pub(super) fn pending(&self) -> Option<Pending> {
        self.under_way.as_ref().map(|under_way| under_way.pending)
    }

    /// Returns the origin of the action under way.
    pub(super) fn origin(&self) -> Option<Origin> {
        self.under_way.as_ref().and_then(|under_way| under_way.origin)
    }

    /// Returns when the KILL of a stop follows, in awake time, if this server sent a stop, even if an earlier server had sent one
    /// before. If only others have, just the latest possible moment is known.
    pub(super) fn own_kill_at(&self) -> Option<Duration> {
        match self.under_way {
            Some(UnderWay { pending: Pending::Stop { kill_at }, command: Some(_), .. }) => Some(kill_at),
            _ => None,
        }
    }

    /// Returns the latest stop that this server sent, if its fact is not among `entries`: the time of its KILL in awake time, and
    /// its origin.
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

    /// Returns a new tag for a command, which its reply contains.
    pub(super) fn new_tag(&mut self) -> u64 {
        self.next_tag += 1;
        self.next_tag - 1
    }

    /// Resets the fact number, because a run begins and its facts are numbered from the start.
    pub(super) fn begin_run(&mut self) {
        self.settled_seq = 0;
    }

    /// Skips the facts up to `seq`: they are recorded, and no client waits for them.
    pub(super) fn skip_to(&mut self, seq: u64) {
        self.settled_seq = self.settled_seq.max(seq);
    }

    /// Sets the action under way without a command of this server: a start, or an action of an earlier server. Returns the action
    /// that it replaces.
    pub(super) fn take_over(&mut self, pending: Pending, origin: Option<Origin>, waiters: Vec<Waiter>) -> Option<UnderWay> {
        let under_way = UnderWay { pending, origin, is_origin_told: true, command: None, tag: 0, asked_ms: 0, waiters };
        self.under_way.replace(under_way)
    }

    /// Sets a stop that was under way before this check of the run, first requested by `origin`. A fact may just have reported
    /// it, and this server may have sent another command meanwhile.
    pub(super) fn adopt_stop(&mut self, kill_at: Duration, origin: Option<Origin>) {
        match &mut self.under_way {
            None => drop(self.take_over(Pending::Stop { kill_at }, origin, Vec::new())),
            Some(stop) if matches!(stop.pending, Pending::Stop { .. }) => (stop.origin, stop.is_origin_told) = (origin, true),
            Some(_) => {}
        }
    }

    /// Adds a client that waits for the action under way.
    pub(super) fn join(&mut self, waiter: Waiter) {
        if let Some(under_way) = &mut self.under_way {
            under_way.take_in(waiter);
        }
    }

    /// Sets the action of a command that was sent in state `from`. Clients that wait for a stop wait for the same end as those of
    /// the next stop; any other action is given up.
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

    /// Applies a fact to the action under way, received in state `from` at `now` in awake time. Returns the action to be
    /// answered, and its result. Each fact counts once.
    pub(super) fn settle(&mut self, entry: &Entry, from: State, now: Duration) -> Option<(UnderWay, Outcome)> {
        let Entry { seq, fact, boot_ms, .. } = entry;
        if *seq <= self.settled_seq {
            return None;
        }
        self.settled_seq = *seq;
        if let (Fact::Stopping { grace_ms, .. }, None | Some(Pending::Pause | Pending::Resume)) = (fact, self.pending()) {
            // A stop that this server did not send: from an earlier server, or the shim got a TERM.
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

    /// Drops an action for which no client waits once the state shows that it is over. Clients that waited for a fact were
    /// answered when it was received, even if it could not be recorded.
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

    /// Returns the action whose command with this tag the shim refused.
    pub(super) fn take_refused(&mut self, tag: u64) -> Option<UnderWay> {
        self.under_way.take_if(|under_way| under_way.tag == tag)
    }

    /// Returns a pause or resume that was sent on a connection that is lost. The shim may have refused it or never read it, so no
    /// reply will come. If it was done, its fact shows that.
    pub(super) fn take_unanswerable(&mut self) -> Option<UnderWay> {
        self.under_way.take_if(|under_way| matches!(under_way.pending, Pending::Pause | Pending::Resume))
    }

    /// Returns the action because the run has ended without a fact.
    pub(super) fn take(&mut self) -> Option<UnderWay> {
        self.under_way.take()
    }

    /// Answers all waiting clients with an error, because nothing is known about the action any more. It may still be done.
    pub(super) fn fail_waiters(&mut self, why: impl Fn() -> ActionError) {
        for waiter in self.under_way.iter_mut().flat_map(|under_way| under_way.waiters.drain(..)) {
            answer(&waiter.reply_to, Err(why()));
        }
    }

    /// Returns when the first waiting client is answered that the action is still under way.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.under_way.iter().flat_map(|under_way| under_way.waiters.iter().map(|waiter| waiter.until)).min()
    }

    /// Answers the clients that have waited too long that the action is still under way.
    pub(super) fn expire(&mut self, now: Duration) {
        let Some(under_way) = &mut self.under_way else { return };
        let action = under_way.pending.action();
        for waiter in under_way.waiters.extract_if(.., |waiter| waiter.until <= now) {
            answer(&waiter.reply_to, Err(ActionError::StillUnderWay(action)));
        }
    }
}
