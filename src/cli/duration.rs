//! Durations as text: the two largest units, rounded.
//!
//! The page follows the same rule (`static/words.js`), and a table in `tests/fixtures/durations.txt` tests both.

use std::time::Duration;

use crate::clock::{Timestamp, whole_ms};

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Returns the time from `start` to `end`, or zero if `end` is earlier, as after a change of the clock.
pub(super) fn between(start: Timestamp, end: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(end.unix_ms() - start.unix_ms()).unwrap_or(0))
}

/// Formats how long something took, with tenths of a second below ten seconds.
pub(super) fn took(length: Duration) -> String {
    let tenths = rounded(whole_ms(length), 100);
    if tenths < 100 { format!("{}.{} s", tenths / 10, tenths % 10) } else { since(length) }
}

/// Formats how long something has lasted, or how long ago it was. It shows whole seconds, because the value is outdated at
/// once.
pub(super) fn since(length: Duration) -> String {
    let ms = whole_ms(length);
    let (seconds, minutes, hours) = (rounded(ms, 1000), rounded(ms, MINUTE_MS), rounded(ms, HOUR_MS));
    if seconds < 60 {
        format!("{seconds} s")
    } else if seconds < 3600 {
        format!("{} min {} s", seconds / 60, seconds % 60)
    } else if minutes < DAY_MS / MINUTE_MS {
        format!("{} h {} min", minutes / 60, minutes % 60)
    } else {
        format!("{} d {} h", hours / 24, hours % 24)
    }
}

/// Returns the number of units, with a half rounded up.
fn rounded(ms: u64, unit_ms: u64) -> u64 {
    ms.saturating_add(unit_ms / 2) / unit_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded_as_in_the_table() {
        let table = include_str!("../../tests/fixtures/durations.txt");
        let mut count = 0;
        for row in table.lines().filter(|row| !row.starts_with('#')) {
            let [ms, expected_took, expected_since] = row.split(" | ").collect::<Vec<_>>()[..] else { panic!("{row}") };
            let length = Duration::from_millis(ms.trim().parse().expect("a number"));
            assert_eq!((took(length).as_str(), since(length).as_str()), (expected_took.trim(), expected_since.trim()), "{ms} ms");
            count += 1;
        }
        assert!(count > 20, "only {count} rows");
    }
}
