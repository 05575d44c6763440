//! Time in this program: wall-clock time stamps and boot-time durations for users, awake time for deadlines.
//!
//! Level 0. A deadline for anything that takes processor time, such as a grace or an answer, is in awake time. No process can
//! work while the machine is suspended, and a deadline must not be over as soon as the machine wakes up. Everything that makes
//! decisions takes a [`Clock`], so that a test can set it by hand. The wall clock may step, and nothing here hides that. A
//! caller that needs stamps that never go back keeps the latest one, and takes the later of the two ([`Timestamp::max`]).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime, UtcOffset};

/// RFC 3339 in UTC with exactly three digits of milliseconds. The width is fixed, so texts sort like times.
const FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// The length of a [`Timestamp`] as text, in bytes.
pub const TIMESTAMP_LEN: usize = 24;

/// A time on the wall clock, in UTC, truncated to milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// Returns the time `ms` milliseconds after the Unix epoch; the epoch itself if that is outside the years 0–9999.
    pub fn from_unix_ms(ms: i64) -> Self {
        let nanos = i128::from(ms) * 1_000_000;
        let at = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        // A four-digit year keeps the text at its fixed width.
        if (0..=9999).contains(&at.year()) { Self(at) } else { Self(OffsetDateTime::UNIX_EPOCH) }
    }

    /// Parses any RFC 3339 time, with its offset, and truncates it to milliseconds.
    pub fn from_rfc3339(text: &str) -> Result<Self, BadTimestamp> {
        let bad = || BadTimestamp(text.to_owned());
        let at = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| bad())?;
        let ms = i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).map_err(|_| bad())?;
        // An offset can lead beyond the supported years.
        let cut = Self::from_unix_ms(ms);
        if cut.unix_ms() == ms { Ok(cut) } else { Err(bad()) }
    }

    /// Returns the time `age` earlier; the epoch if that is before the year 0.
    #[must_use]
    pub fn before(self, age: Duration) -> Self {
        Self::from_unix_ms(self.unix_ms().saturating_sub(i64::try_from(whole_ms(age)).unwrap_or(i64::MAX)))
    }

    /// Returns the time `wait` later; the epoch if that is after the year 9999.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self::from_unix_ms(self.unix_ms().saturating_add(i64::try_from(whole_ms(wait)).unwrap_or(i64::MAX)))
    }

    /// Returns the milliseconds since the Unix epoch.
    pub fn unix_ms(self) -> i64 {
        i64::try_from(self.0.unix_timestamp_nanos() / 1_000_000).expect("a year of four digits fits")
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(FORMAT).map_err(|_| fmt::Error)?)
    }
}

/// An error for a text that is not an RFC 3339 UTC time with milliseconds.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a UTC time such as 2026-01-31T23:59:59.999Z")]
pub struct BadTimestamp(String);

impl FromStr for Timestamp {
    type Err = BadTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        PrimitiveDateTime::parse(text, FORMAT)
            .map(|at| Self(at.assume_offset(UtcOffset::UTC)))
            .map_err(|_| BadTimestamp(text.to_owned()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A source of time.
pub trait Clock {
    /// Returns the time on the wall clock, which may step in either direction.
    fn now(&self) -> Timestamp;
    /// Returns the time since boot, including suspend (`CLOCK_BOOTTIME`, `clock_gettime(2)`). It never goes back within one
    /// boot.
    fn since_boot(&self) -> Duration;
    /// Returns the time since a fixed moment, excluding suspend (`CLOCK_MONOTONIC`). poll(2) and condition variables wait by
    /// this clock, so every deadline uses it. It never goes back within one boot, and has no meaning in another process.
    fn awake(&self) -> Duration {
        self.since_boot()
    }
}

/// The kernel's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
        let since_epoch = i64::try_from(since_epoch).unwrap_or(0);
        #[cfg(feature = "faults")]
        let since_epoch = since_epoch + faults::steps_ms().unwrap_or_default().0;
        Timestamp::from_unix_ms(since_epoch)
    }

    fn since_boot(&self) -> Duration {
        let since_boot = kernel_clock(ClockId::Boottime);
        #[cfg(feature = "faults")]
        let since_boot = since_boot + Duration::from_millis(faults::steps_ms().unwrap_or_default().1);
        since_boot
    }

    fn awake(&self) -> Duration {
        kernel_clock(ClockId::Monotonic)
    }
}

fn kernel_clock(id: ClockId) -> Duration {
    let at = clock_gettime(id);
    Duration::new(
        u64::try_from(at.tv_sec).expect("neither clock is ever negative"),
        u32::try_from(at.tv_nsec).expect("nanoseconds are below a second"),
    )
}

/// Simulates a clock that is set and a machine that is suspended, while the real binary runs. Only for tests, not in a release.
#[cfg(feature = "faults")]
mod faults {
    /// Returns by how many milliseconds the wall clock was set, and how long the machine was suspended. Reads both each time
    /// from the file that `AUTOAPPDEV_FAULT_CLOCK` names.
    pub(super) fn steps_ms() -> Option<(i64, u64)> {
        let text = std::fs::read_to_string(std::env::var_os("AUTOAPPDEV_FAULT_CLOCK")?).ok()?;
        let (wall, suspended) = text.trim().split_once(' ')?;
        Some((wall.parse().ok()?, suspended.parse().ok()?))
    }
}

/// Returns a duration in whole milliseconds, for columns and messages.
pub fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamp_text_has_fixed_width_and_round_trips() {
        for (ms, text) in
            [(0, "1970-01-01T00:00:00.000Z"), (1_700_000_000_007, "2023-11-14T22:13:20.007Z"), (-1, "1969-12-31T23:59:59.999Z")]
        {
            let at = Timestamp::from_unix_ms(ms);
            assert_eq!(at.to_string(), text);
            assert_eq!(text.len(), TIMESTAMP_LEN);
            assert_eq!(text.parse::<Timestamp>().expect("its own text"), at);
            assert_eq!(at.unix_ms(), ms);
        }
    }

    #[test]
    fn time_beyond_four_digit_years_becomes_the_epoch() {
        assert_eq!(Timestamp::from_unix_ms(i64::MAX).unix_ms(), 0);
        assert_eq!(Timestamp::from_unix_ms(i64::MIN).unix_ms(), 0);
    }

    #[test]
    fn other_timestamp_texts_are_refused() {
        for text in ["", "2023-11-14", "2023-11-14T22:13:20Z", "2023-11-14T22:13:20.007+00:00", "2023-13-14T22:13:20.007Z"] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn rfc_3339_times_parse_with_any_offset_and_digits() {
        for (text, cut) in [
            ("2023-11-14T22:13:20Z", "2023-11-14T22:13:20.000Z"),
            ("2023-11-14T22:13:20.0079Z", "2023-11-14T22:13:20.007Z"),
            ("2023-11-15T03:43:20.007+05:30", "2023-11-14T22:13:20.007Z"),
            ("2023-11-14T22:13:20.007-00:00", "2023-11-14T22:13:20.007Z"),
            ("1969-12-31T23:59:59.9999Z", "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Timestamp::from_rfc3339(text).expect("a time").to_string(), cut, "{text}");
        }
        for text in [
            "",
            "now",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-11-14T25:13:20Z",
            "9999-12-31T23:59:59-23:59",
            "0000-01-01T00:00:00+01:00",
        ] {
            assert!(Timestamp::from_rfc3339(text).is_err(), "{text}");
        }
    }

    #[test]
    fn boot_and_awake_clocks_do_not_go_back() {
        let first = SystemClock.since_boot();
        assert!(SystemClock.since_boot() >= first);
        let awake = SystemClock.awake();
        assert!(SystemClock.awake() >= awake && awake <= SystemClock.since_boot());
    }
}
