//! Streams of requests from a seed: valid ones, and valid ones with one error that another parser may read differently.

use super::draft::{Draft, MUTATIONS};

/// Another seed changes the requests, and makes the recorded verdicts stale.
const SEED: u64 = 9112;
/// How many streams of requests are generated.
pub(crate) const CASES: usize = 6_000;

/// The bytes that a client sent on one connection.
pub(crate) struct Case {
    /// The name of the change.
    pub(crate) mutation: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// Numbers from a seed (`SplitMix64`).
pub(crate) struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.roll() % limit as u64).expect("below a limit that is one")
    }

    pub(crate) fn one_of<'t, T: ?Sized>(&mut self, of: &[&'t T]) -> &'t T {
        of[self.below(of.len())]
    }
}

/// Bytes that have a meaning somewhere, or should not have one.
const BYTES: &[u8] = b"\r\n\t :;,0159afA/\0\x01\x7f\x80\xff-+x?#%*.";

/// Every case, in order.
pub(crate) fn cases() -> Vec<Case> {
    let mut dice = Dice(SEED);
    (0..CASES).map(|n| case(n, &mut dice)).collect()
}

fn case(n: usize, dice: &mut Dice) -> Case {
    let count = 1 + dice.below(3);
    let wrong = dice.below(count);
    // In every third case a byte is changed anywhere instead.
    let is_random = n % 3 == 2;
    let (mutation, mutate) = MUTATIONS[(n / 3 * 2 + n % 3) % MUTATIONS.len()];
    let mut bytes = Vec::new();
    for at in 0..count {
        let mut draft = Draft::good(dice);
        if at == wrong && !is_random {
            mutate(&mut draft, dice);
        }
        draft.write(&mut bytes);
    }
    if !is_random {
        return Case { mutation, bytes };
    }
    let at = dice.below(bytes.len());
    let byte = BYTES[dice.below(BYTES.len())];
    let mutation = match dice.below(4) {
        0 => {
            bytes[at] = byte;
            "a byte: another"
        }
        1 => {
            bytes.insert(at, byte);
            "a byte: one more"
        }
        2 => {
            bytes.remove(at);
            "a byte: gone"
        }
        _ => {
            bytes.truncate(at);
            "cut short"
        }
    };
    Case { mutation, bytes }
}
