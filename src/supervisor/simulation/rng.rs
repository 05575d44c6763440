//! Repeatable random numbers: a seed decides every draw. splitmix64, <https://prng.di.unimi.it/splitmix64.c>.

/// A stream of draws.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number from 0 up to `end`, exclusive.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.draw() % end.max(1)
    }

    /// Returns a number from `low` up to `high`, exclusive.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low))
    }

    /// Returns true with this probability, in a thousand.
    pub(super) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).expect("below a length")]
    }

    /// Returns a duration that is mostly short, in microseconds, so that sometimes any event can overtake any other.
    pub(super) fn delay(&mut self) -> u64 {
        let longest = self.pick(&[200, 200, 200, 200, 1_000, 1_000, 5_000, 5_000, 50_000, 400_000]);
        self.below(longest)
    }
}
