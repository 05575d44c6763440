//! The random decisions: a small generator, good enough for choices.

use std::time::Duration;

/// `SplitMix64`. Any seed is suitable, even two that differ in one bit.
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

    /// Returns a number from 0 to `sides` - 1.
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        usize::try_from(self.next() >> 11).expect("64 bits") % sides
    }

    /// Returns true in `percent` of 100 cases.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }

    /// Returns one of the values, as often as its weight says.
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

    /// Returns a duration from nothing to `max`. Short ones are as likely as long ones, because the steps of a program differ in
    /// length.
    pub(crate) fn moment(&mut self, max: Duration) -> Duration {
        let us = u64::try_from(max.as_micros()).expect("short");
        let magnitude = self.roll(usize::try_from(us.ilog2()).expect("small") + 1);
        Duration::from_micros(self.next() % (1 << magnitude).min(us) + (1 << magnitude).min(us) / 2)
    }
}
