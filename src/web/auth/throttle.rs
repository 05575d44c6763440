//! Wrong tokens and codes: how many came from where, and how long the next one has to wait.
//!
//! Nobody sleeps here: who has to wait is told so at once, so that guessing holds no thread. There are two limits. Each source has its own
//! wait, so that a neighbour's guesses cost only the neighbour. All sources together have a budget, because a network has more addresses than
//! can be remembered; where it is spent, sources from which an operator's right token came before do not wait for it, nor does the server's own
//! user. Requests with a session are not asked here.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use rouille::Request;

use crate::transport::{Client, network_of};
use crate::user;

/// So many wrong ones cost nothing: a typing error is no attack.
const FREE_TRIES: u32 = 5;
/// The wait after the first one that is too many; it doubles with each further one.
const WAIT_FIRST: Duration = Duration::from_secs(1);
/// The longest wait: 288 tries a day.
const WAIT_MAX: Duration = Duration::from_mins(5);
/// A source from which no wrong one has come for so long begins anew. Longer than any wait.
const FORGET_AFTER: Duration = Duration::from_hours(1);
/// The most sources that are remembered; for another one the one that was quiet longest is forgotten.
const SOURCES_MAX: usize = 1024;
/// How often the log may be told: guessing from many addresses must not push everything else out of it.
const TELL_EVERY: Duration = Duration::from_mins(1);

/// How many wrong ones all sources have together at first, and how long it takes until there is one more: 14,400 a day.
const BUDGET: u32 = 100;
const BUDGET_EVERY: Duration = Duration::from_secs(6);
/// The most sources of right tokens that are remembered.
const KNOWN_MAX: usize = 64;

/// How many viewers may log in from one source at first, and how long it takes until there may be one more. Each log-in is a write, before
/// which the owner's actions wait; fewer than there may be sessions, so that one source does not take all of them.
const LOG_INS: u32 = 30;
const LOG_IN_EVERY: Duration = Duration::from_mins(2);

/// Who guesses, as far as that can be told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// An address; for IPv6 its /64. On loopback, processes of the server's own user, which need not guess.
    Network(IpAddr),
    /// Another user of this machine, from whatever address: one may take any of loopback's sixteen million.
    User(u32),
    /// Somebody on this machine whose user the kernel does not tell.
    Unidentified,
}

impl Source {
    /// Who sent the request. This can cost a question to the kernel.
    pub(super) fn of(request: &Request, client: &Client<'_>) -> Self {
        let address = request.remote_addr().ip().to_canonical();
        if !address.is_loopback() {
            return Self::Network(network_of(address));
        }
        match client.uid() {
            Some(uid) if uid == user::own() => Self::Network(address),
            Some(uid) => Self::User(uid),
            None => Self::Unidentified,
        }
    }
}

impl Source {
    /// Whether it is the server's own user on this machine.
    fn is_own_user(&self) -> bool {
        matches!(self, Self::Network(address) if address.is_loopback())
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Network(IpAddr::V6(network)) if !network.is_loopback() => write!(f, "{network}/64"),
            Self::Network(address) => write!(f, "{address}"),
            Self::User(uid) => write!(f, "user {uid} of this machine"),
            Self::Unidentified => f.write_str("an unknown user of this machine"),
        }
    }
}

/// What is remembered of a source.
#[derive(Clone, Copy, Debug)]
struct Tries {
    wrong: u32,
    /// When the last wrong one came.
    last: Duration,
    /// Before this nothing is looked at.
    closed_until: Duration,
}

/// How long to wait, and because of whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) length: Duration,
    /// Whether the budget of all is spent, and not the source's own.
    pub(super) is_for_all: bool,
}

/// The sources from which wrong ones came. Times are since some moment, the same for all calls.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    sources: BTreeMap<Source, Tries>,
    /// Until when the budget of all is spent, if all of it was unspent at first.
    spent_until: Duration,
    /// From where operators' right ones came, the latest last.
    known: VecDeque<Source>,
    /// Until when a source's log-ins of viewers are spent, if all of them were unspent at first.
    log_ins: BTreeMap<Source, Duration>,
    /// When the log was last told of one that has to wait.
    told: Option<Duration>,
}

impl Throttle {
    /// How long this source still has to wait; zero where what it sends may be looked at.
    pub(super) fn wait(&self, from: &Source, now: Duration) -> Wait {
        let own = self.sources.get(from).map_or(Duration::ZERO, |tries| tries.closed_until.saturating_sub(now));
        if !own.is_zero() || from.is_own_user() || self.known.contains(from) {
            return Wait { length: own, is_for_all: false };
        }
        // There is one left as long as less than all but one is spent.
        let length = self.spent_until.saturating_sub(now + BUDGET_EVERY * (BUDGET - 1));
        Wait { length, is_for_all: !length.is_zero() }
    }

    /// An operator's right token or code came. Viewers are not remembered: they could push the operators out, and could guess the operators'
    /// token from a source that does not wait for the budget.
    pub(super) fn note_right(&mut self, from: Source) {
        if self.known.back() == Some(&from) {
            return;
        }
        self.known.retain(|known| *known != from);
        if self.known.len() >= KNOWN_MAX {
            self.known.pop_front();
        }
        self.known.push_back(from);
    }

    /// A viewer logs in with the right token: how long that still has to wait, and where it need not, it is counted.
    pub(super) fn admit_viewer(&mut self, from: &Source, now: Duration) -> Duration {
        let spent_until = self.log_ins.get(from).map_or(now, |&spent_until| spent_until.max(now));
        let wait = spent_until.saturating_sub(now + LOG_IN_EVERY * (LOG_INS - 1));
        if wait.is_zero() {
            make_room(&mut self.log_ins, from, |spent_until| *spent_until, now);
            self.log_ins.insert(from.clone(), spent_until + LOG_IN_EVERY);
        }
        wait
    }

    /// A wrong one came.
    pub(super) fn note_wrong(&mut self, from: &Source, now: Duration) {
        // Known sources guess from it too, and cannot spend more than there is.
        self.spent_until = (self.spent_until.max(now) + BUDGET_EVERY).min(now + BUDGET_EVERY * BUDGET);
        make_room(&mut self.sources, from, |tries| tries.last + FORGET_AFTER, now);
        let tries = self.sources.entry(from.clone()).or_insert(Tries { wrong: 0, last: now, closed_until: Duration::ZERO });
        if now.saturating_sub(tries.last) >= FORGET_AFTER {
            tries.wrong = 0;
        }
        tries.wrong = tries.wrong.saturating_add(1);
        tries.last = now;
        if let Some(too_many) = tries.wrong.checked_sub(FREE_TRIES) {
            // Beyond 2^16 the limit holds anyway.
            tries.closed_until = now + (WAIT_FIRST * (1 << too_many.min(16))).min(WAIT_MAX);
        }
    }

    /// Whether the log should be told now that somebody has to wait.
    pub(super) fn is_worth_a_line(&mut self, now: Duration) -> bool {
        let is_worth_it = self.told.is_none_or(|told| now.saturating_sub(told) >= TELL_EVERY);
        if is_worth_it {
            self.told = Some(now);
        }
        is_worth_it
    }
}

/// Forgets what is out of date where there would be too many with this one, and if that is not enough, what is out of date first.
fn make_room<T>(sources: &mut BTreeMap<Source, T>, new: &Source, until: impl Fn(&T) -> Duration, now: Duration) {
    if sources.contains_key(new) || sources.len() < SOURCES_MAX {
        return;
    }
    sources.retain(|_, it| until(it) > now);
    let first = sources.iter().min_by_key(|(_, it)| until(it)).map(|(source, _)| source.clone());
    if let Some(source) = first.filter(|_| sources.len() >= SOURCES_MAX) {
        sources.remove(&source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Source {
        Source::Network(network_of(text.parse().expect("an address")))
    }

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn waits_begin_after_a_few_double_and_end_at_a_bound() {
        let (mut throttle, from, mut now) = (Throttle::default(), net("192.0.2.1"), s(1000));
        let mut waits = Vec::new();
        for _ in 0..16 {
            throttle.note_wrong(&from, now);
            let wait = throttle.wait(&from, now).length;
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(throttle.wait(&from, now), Wait::default(), "the wait has an end");
        }
        assert_eq!(waits, [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        throttle.note_wrong(&from, now + FORGET_AFTER);
        assert_eq!(throttle.wait(&from, now + FORGET_AFTER), Wait::default(), "forgotten after an hour");
        for _ in 0..100 {
            throttle.note_wrong(&from, now);
        }
        assert_eq!(throttle.wait(&from, now).length, WAIT_MAX, "no overflow");
    }

    #[test]
    fn sources_do_not_wait_for_each_other() {
        let mut throttle = Throttle::default();
        let close = |throttle: &mut Throttle, from: &Source| (0..FREE_TRIES).for_each(|_| throttle.note_wrong(from, s(1)));
        for from in [net("192.0.2.1"), net("2001:db8:0:1::1"), Source::User(1000)] {
            close(&mut throttle, &from);
        }
        let waits = |from: &Source| !throttle.wait(from, s(1)).length.is_zero();
        for same in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8:0:1::1", "2001:db8:0:1:ffff::2"] {
            assert!(waits(&net(same)), "{same}");
        }
        assert!(waits(&Source::User(1000)));
        for other in ["192.0.2.2", "::ffff:192.0.2.2", "2001:db8:0:2::1", "::", "127.0.0.1"] {
            assert!(!waits(&net(other)), "{other}");
        }
        for other in [Source::User(1001), Source::Unidentified] {
            assert!(!waits(&other), "{other}");
        }
    }

    #[test]
    fn all_sources_together_have_a_budget_that_known_ones_do_not_wait_for() {
        let (mut throttle, now) = (Throttle::default(), s(5000));
        let (owner, stranger) = (net("198.51.100.1"), net("198.51.100.2"));
        throttle.note_right(owner.clone());
        let guesser = |number: u32| Source::Network(IpAddr::from((0x0a00_0000 + number).to_be_bytes()));
        let looked_at = (0..1000).filter(|&number| {
            let is_looked_at = throttle.wait(&guesser(number), now).length.is_zero();
            if is_looked_at {
                throttle.note_wrong(&guesser(number), now);
            }
            is_looked_at
        });
        assert_eq!(looked_at.count(), usize::try_from(BUDGET).expect("small"));
        assert_eq!(throttle.wait(&stranger, now), Wait { length: BUDGET_EVERY, is_for_all: true });
        assert_eq!(throttle.wait(&owner, now), Wait::default(), "its right token came before");
        assert_eq!(throttle.wait(&net("127.0.0.1"), now), Wait::default(), "the server's own user");
        assert!(throttle.wait(&Source::User(1000), now).is_for_all && throttle.wait(&Source::Unidentified, now).is_for_all);
        assert_eq!(throttle.wait(&stranger, now + BUDGET_EVERY), Wait::default(), "one at a time");
        throttle.note_wrong(&stranger, now + BUDGET_EVERY);
        assert!(throttle.wait(&net("198.51.100.3"), now + BUDGET_EVERY).is_for_all);
        // What is known does not guess for nothing.
        (0..FREE_TRIES).for_each(|_| throttle.note_wrong(&owner, now));
        assert_eq!(throttle.wait(&owner, now), Wait { length: WAIT_FIRST, is_for_all: false });
        let rested = now + BUDGET_EVERY * (BUDGET + 10);
        assert_eq!(
            (0..BUDGET).map(|n| throttle.wait(&guesser(5000 + n), rested)).max_by_key(|wait| wait.length),
            Some(Wait::default())
        );
    }

    #[test]
    fn viewers_of_one_source_log_in_so_many_times_and_then_now_and_then() {
        let (mut throttle, now) = (Throttle::default(), s(5000));
        let (flood, other) = (net("192.0.2.1"), net("192.0.2.2"));
        let waits: Vec<Duration> = (0..LOG_INS + 2).map(|_| throttle.admit_viewer(&flood, now)).collect();
        assert!(waits[..30].iter().all(Duration::is_zero));
        assert_eq!(waits[30..], [LOG_IN_EVERY; 2], "a refused one costs nothing more");
        assert_eq!(throttle.admit_viewer(&other, now), Duration::ZERO);
        assert_eq!(throttle.admit_viewer(&flood, now + LOG_IN_EVERY), Duration::ZERO);
        assert_eq!(throttle.admit_viewer(&flood, now + LOG_IN_EVERY), LOG_IN_EVERY);
        for number in 0..5000_u32 {
            throttle.admit_viewer(&Source::Network(IpAddr::from(number.to_be_bytes())), now);
        }
        assert_eq!(throttle.log_ins.len(), SOURCES_MAX);
    }

    #[test]
    fn memory_has_a_bound_and_the_latest_are_remembered() {
        let mut throttle = Throttle::default();
        let of = |number: u32| Source::Network(IpAddr::from(number.to_be_bytes()));
        for number in 0..5000 {
            throttle.note_right(of(number));
            for _ in 0..FREE_TRIES {
                throttle.note_wrong(&of(number), s(u64::from(number)));
            }
        }
        assert_eq!((throttle.sources.len(), throttle.known.len()), (SOURCES_MAX, KNOWN_MAX));
        assert!(!throttle.wait(&of(4999), s(4999)).length.is_zero());
        assert_eq!(throttle.wait(&of(0), s(100_000)), Wait::default());
    }
}
