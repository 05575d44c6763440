//! The decisions: small, and good enough to pick with.

use std::time::Duration;

/// `SplitMix64`: any seed will do, also two that differ in one bit.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// From 0 to `sides` - 1.
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        usize::try_from(self.next() >> 11).expect("64 bits") % sides
    }

    /// True in `percent` of a hundred.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }

    /// One of them, each as often as its weight says.
    pub(crate) fn weighed<T: Clone>(&mut self, from: &[(usize, T)]) -> T {
        let mut at = self.roll(from.iter().map(|(weight, _)| weight).sum());
        for (weight, what) in from {
            if at < *weight {
                return what.clone();
            }
            at -= weight;
        }
        unreachable!("the roll is below the sum of the weights")
    }

    /// A moment: from nothing to `max`, the short ones as likely as the long ones, because every step of a program has its own length.
    pub(crate) fn moment(&mut self, max: Duration) -> Duration {
        let us = u64::try_from(max.as_micros()).expect("short");
        let magnitude = self.roll(usize::try_from(us.ilog2()).expect("small") + 1);
        Duration::from_micros(self.next() % (1 << magnitude).min(us) + (1 << magnitude).min(us) / 2)
    }
}
