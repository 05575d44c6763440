//! Wrong tokens: how many came from an address, and how long it has to wait before the next one is looked at.
//!
//! Nobody sleeps here: who has to wait is told so at once, so that guessing holds no thread. Other addresses never wait for it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::transport::network_of;

/// So many wrong ones cost nothing: a typing error is no attack.
const FREE_TRIES: u32 = 5;
/// The wait after the first one that is too many; it doubles with each further one.
const WAIT_FIRST: Duration = Duration::from_secs(1);
/// The longest wait: 288 tries a day.
const WAIT_MAX: Duration = Duration::from_mins(5);
/// An address from which no wrong one has come for so long begins anew. Longer than any wait.
const FORGET_AFTER: Duration = Duration::from_hours(1);
/// The most addresses that are remembered; for another one the one that was quiet longest is forgotten.
const ADDRESSES_MAX: usize = 1024;
/// How often the log may be told: guessing from many addresses must not push everything else out of it.
const TELL_EVERY: Duration = Duration::from_mins(1);

/// What is remembered of an address.
#[derive(Clone, Copy, Debug)]
struct Tries {
    wrong: u32,
    /// When the last wrong one came.
    last: Duration,
    /// Before this nothing is looked at.
    closed_until: Duration,
}

/// The addresses from which wrong tokens came. Times are since some moment, the same for all calls.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    addresses: BTreeMap<IpAddr, Tries>,
    /// When the log was last told of one that has to wait.
    told: Option<Duration>,
}

impl Throttle {
    /// How long this address still has to wait; zero where what it sends may be looked at.
    pub(super) fn wait(&self, from: IpAddr, now: Duration) -> Duration {
        self.addresses.get(&network_of(from)).map_or(Duration::ZERO, |tries| tries.closed_until.saturating_sub(now))
    }

    /// A wrong one came. A right one is not told here: whoever has the read-only token could open the way for guessing the other.
    pub(super) fn note_wrong(&mut self, from: IpAddr, now: Duration) {
        let from = network_of(from);
        if !self.addresses.contains_key(&from) && self.addresses.len() >= ADDRESSES_MAX {
            self.addresses.retain(|_, tries| now.saturating_sub(tries.last) < FORGET_AFTER);
            let quietest = self.addresses.iter().min_by_key(|(_, tries)| tries.last).map(|(address, _)| *address);
            if let Some(address) = quietest.filter(|_| self.addresses.len() >= ADDRESSES_MAX) {
                self.addresses.remove(&address);
            }
        }
        let tries = self.addresses.entry(from).or_insert(Tries { wrong: 0, last: now, closed_until: Duration::ZERO });
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn waits_begin_after_a_few_double_and_end_at_a_bound() {
        let (mut throttle, from, mut now) = (Throttle::default(), ip("192.0.2.1"), s(1000));
        let mut waits = Vec::new();
        for _ in 0..16 {
            throttle.note_wrong(from, now);
            let wait = throttle.wait(from, now);
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(throttle.wait(from, now), Duration::ZERO, "the wait has an end");
        }
        assert_eq!(waits, [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        throttle.note_wrong(from, now + FORGET_AFTER);
        assert_eq!(throttle.wait(from, now + FORGET_AFTER), Duration::ZERO, "forgotten after an hour");
        for _ in 0..100 {
            throttle.note_wrong(from, now);
        }
        assert_eq!(throttle.wait(from, now), WAIT_MAX, "no overflow");
    }

    #[test]
    fn addresses_do_not_wait_for_each_other() {
        let mut throttle = Throttle::default();
        let close = |throttle: &mut Throttle, from: &str| (0..FREE_TRIES).for_each(|_| throttle.note_wrong(ip(from), s(1)));
        close(&mut throttle, "192.0.2.1");
        close(&mut throttle, "2001:db8:0:1::1");
        let waits = |from: &str| throttle.wait(ip(from), s(1)) > Duration::ZERO;
        for same in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8:0:1::1", "2001:db8:0:1:ffff::2"] {
            assert!(waits(same), "{same}");
        }
        for other in ["192.0.2.2", "::ffff:192.0.2.2", "2001:db8:0:2::1", "::", "127.0.0.1"] {
            assert!(!waits(other), "{other}");
        }
    }

    #[test]
    fn memory_has_a_bound_and_the_latest_are_remembered() {
        let mut throttle = Throttle::default();
        let of = |number: u32| IpAddr::from(number.to_be_bytes());
        for number in 0..5000 {
            for _ in 0..FREE_TRIES {
                throttle.note_wrong(of(number), s(u64::from(number)));
            }
        }
        assert_eq!(throttle.addresses.len(), ADDRESSES_MAX);
        assert!(throttle.wait(of(4999), s(4999)) > Duration::ZERO);
        assert_eq!(throttle.wait(of(0), s(0)), Duration::ZERO);
    }
}
