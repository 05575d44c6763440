//! The limits on wrong tokens. Counts wrong tokens for each source, and decides how long a source has to wait before its next
//! try. Wrong codes are not counted (`pairing.rs`).
//!
//! No thread sleeps here: a client that has to wait gets that response at once, so guessing does not occupy threads. There are
//! two limits. Each source has its own wait, so that one client's guesses do not delay its neighbours. All sources together share
//! a budget, because a network has more addresses than can be remembered. When the budget is spent, it does not delay the
//! server's own user or sources that have sent an operator's right token or code before. Requests with a session are not
//! throttled.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use rouille::Request;

use crate::transport::{Client, network_of};
use crate::user;

/// The number of wrong tries after which a source has to wait. Fewer cost nothing, because a typing error is not an attack.
const FREE_TRIES: u32 = 5;
/// The first wait. It doubles with each further wrong try.
const WAIT_FIRST: Duration = Duration::from_secs(1);
/// The longest wait, which allows 288 tries a day.
const WAIT_MAX: Duration = Duration::from_mins(5);
/// A source is forgotten if its last wrong try is this long ago. Longer than any wait.
const FORGET_AFTER: Duration = Duration::from_hours(1);
/// The maximum number of remembered sources. A further one replaces the source whose last try is oldest.
const SOURCES_MAX: usize = 1024;
/// The shortest time between two log lines about guesses. Guesses from many addresses must not push everything else out of the
/// log.
const TELL_EVERY: Duration = Duration::from_mins(1);

/// The budget of wrong tries shared by all sources, and the time until one more is added: 14,400 a day.
const BUDGET: u32 = 100;
const BUDGET_EVERY: Duration = Duration::from_secs(6);
/// The maximum number of remembered sources of right tokens.
const KNOWN_MAX: usize = 64;

/// How many viewers may log in from one source at first, and the time until one more may. Each login is a database write that
/// delays the owner's actions. Less than the maximum number of sessions, so that one source cannot take all of them.
const LOG_INS: u32 = 30;
const LOG_IN_EVERY: Duration = Duration::from_mins(2);

/// The source of a try, as far as it can be identified.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// An address of another machine; for IPv6 its /64.
    Network(IpAddr),
    /// Processes of the server's own user at an address of this machine, which have no need to guess.
    OwnUser(IpAddr),
    /// Another user of this machine, whatever the address: a user can use each address of the machine, and loopback has sixteen
    /// million.
    User(u32),
    /// A client on this machine whose user the kernel does not report.
    Unidentified,
}

impl Source {
    /// Returns the source of a request. Asks the kernel for the user, at most once for each connection, if the client is on this
    /// machine.
    pub(super) fn of(request: &Request, client: &Client<'_>) -> Self {
        let address = request.remote_addr().ip().to_canonical();
        if !address.is_loopback() && !client.is_on_this_machine() {
            return Self::Network(network_of(address));
        }
        match client.uid() {
            Some(uid) if user::is_own(uid) => Self::OwnUser(address),
            Some(uid) => Self::User(uid),
            None => Self::Unidentified,
        }
    }
}

impl Source {
    /// Checks whether it is the server's own user on this machine.
    fn is_own_user(&self) -> bool {
        matches!(self, Self::OwnUser(_))
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Network(IpAddr::V6(network)) => write!(f, "{network}/64"),
            Self::Network(address) | Self::OwnUser(address) => write!(f, "{address}"),
            Self::User(uid) => write!(f, "user {uid} of this machine"),
            Self::Unidentified => f.write_str("an unknown user of this machine"),
        }
    }
}

/// The wrong tries of a source.
#[derive(Clone, Copy, Debug)]
struct Tries {
    wrong: u32,
    /// The time of the last wrong try.
    last: Duration,
    /// The time before which no token from the source is checked.
    closed_until: Duration,
}

/// How long a source has to wait, and for which limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) length: Duration,
    /// True if the shared budget is spent, rather than the source's own limit.
    pub(super) is_for_all: bool,
}

/// The sources of wrong tries. All times are measured from one common, arbitrary moment.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    sources: BTreeMap<Source, Tries>,
    /// The time at which the shared budget will be full again.
    spent_until: Duration,
    /// The sources that sent an operator's right token or code, the latest last.
    known: VecDeque<Source>,
    /// The times at which each source's allowance of viewer logins will be full again.
    log_ins: BTreeMap<Source, Duration>,
    /// The time of the last log line about a source that has to wait.
    told: Option<Duration>,
}

impl Throttle {
    /// Returns how long this source still has to wait; zero if its next try may be checked.
    pub(super) fn wait(&self, from: &Source, now: Duration) -> Wait {
        let own = self.sources.get(from).map_or(Duration::ZERO, |tries| tries.closed_until.saturating_sub(now));
        if !own.is_zero() || from.is_own_user() || self.known.contains(from) {
            return Wait { length: own, is_for_all: false };
        }
        // At least one try is left while at most `BUDGET - 1` are spent.
        let length = self.spent_until.saturating_sub(now + BUDGET_EVERY * (BUDGET - 1));
        Wait { length, is_for_all: !length.is_zero() }
    }

    /// Records that an operator's right token or code came from this source. Not called for viewers: they could displace the
    /// operators, and could guess the operators' token from a source that is exempt from the shared budget.
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

    /// Returns how long a viewer with the right token still has to wait. If that is zero, counts the login.
    pub(super) fn admit_viewer(&mut self, from: &Source, now: Duration) -> Duration {
        let spent_until = self.log_ins.get(from).map_or(now, |&spent_until| spent_until.max(now));
        let wait = spent_until.saturating_sub(now + LOG_IN_EVERY * (LOG_INS - 1));
        if wait.is_zero() {
            make_room(&mut self.log_ins, from, |spent_until| *spent_until, now);
            self.log_ins.insert(from.clone(), spent_until + LOG_IN_EVERY);
        }
        wait
    }

    /// Counts a wrong try.
    pub(super) fn note_wrong(&mut self, from: &Source, now: Duration) {
        // Known sources spend the shared budget too, and cannot overdraw it.
        self.spent_until = (self.spent_until.max(now) + BUDGET_EVERY).min(now + BUDGET_EVERY * BUDGET);
        make_room(&mut self.sources, from, |tries| tries.last + FORGET_AFTER, now);
        let tries = self.sources.entry(from.clone()).or_insert(Tries { wrong: 0, last: now, closed_until: Duration::ZERO });
        if now.saturating_sub(tries.last) >= FORGET_AFTER {
            tries.wrong = 0;
        }
        tries.wrong = tries.wrong.saturating_add(1);
        tries.last = now;
        if let Some(too_many) = tries.wrong.checked_sub(FREE_TRIES) {
            // Beyond 2^16 the longest wait applies anyway.
            tries.closed_until = now + (WAIT_FIRST * (1 << too_many.min(16))).min(WAIT_MAX);
        }
    }

    /// Checks whether a wait is to be logged now, which is the case at most once in [`TELL_EVERY`].
    pub(super) fn is_worth_a_line(&mut self, now: Duration) -> bool {
        let is_worth_it = self.told.is_none_or(|told| now.saturating_sub(told) >= TELL_EVERY);
        if is_worth_it {
            self.told = Some(now);
        }
        is_worth_it
    }
}

/// Makes room for `new` if the map is full: removes outdated entries, or if there are none, the entry that becomes outdated
/// first.
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
    fn waits_begin_after_free_tries_double_and_are_capped() {
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
    fn all_sources_share_a_budget_that_known_ones_bypass() {
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
        assert_eq!(throttle.wait(&Source::OwnUser([127, 0, 0, 1].into()), now), Wait::default(), "the server's own user");
        assert!(throttle.wait(&Source::User(1000), now).is_for_all && throttle.wait(&Source::Unidentified, now).is_for_all);
        assert_eq!(throttle.wait(&stranger, now + BUDGET_EVERY), Wait::default(), "one at a time");
        throttle.note_wrong(&stranger, now + BUDGET_EVERY);
        assert!(throttle.wait(&net("198.51.100.3"), now + BUDGET_EVERY).is_for_all);
        // A known source is still throttled for its own wrong tries.
        (0..FREE_TRIES).for_each(|_| throttle.note_wrong(&owner, now));
        assert_eq!(throttle.wait(&owner, now), Wait { length: WAIT_FIRST, is_for_all: false });
        let rested = now + BUDGET_EVERY * (BUDGET + 10);
        assert_eq!(
            (0..BUDGET).map(|n| throttle.wait(&guesser(5000 + n), rested)).max_by_key(|wait| wait.length),
            Some(Wait::default())
        );
    }

    #[test]
    fn viewer_logins_of_one_source_are_rate_limited() {
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
    fn throttle_memory_is_bounded_and_keeps_latest_sources() {
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
