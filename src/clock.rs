//! Time as the product uses it: wall-clock time stamps for people, the boot-time clock for durations and deadlines.
//!
//! Level 0. Everything that decides takes a [`Clock`], so that a test can set it by hand. The wall clock may step; nothing here
//! hides that. Who needs stamps that never go back keeps the latest one and takes the later of the two ([`Timestamp::max`]).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime, UtcOffset};

/// RFC 3339 in UTC with exactly three digits of milliseconds: fixed width, so texts sort like times.
const FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// The length of a [`Timestamp`] as text, in bytes.
pub const TIMESTAMP_LEN: usize = 24;

/// A moment on the wall clock, in UTC, cut to milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// The moment `ms` milliseconds after the Unix epoch; the epoch itself where the number lies outside of the years 0–9999.
    pub fn from_unix_ms(ms: i64) -> Self {
        let nanos = i128::from(ms) * 1_000_000;
        let at = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        // A four-digit year keeps the text at its fixed width.
        if (0..=9999).contains(&at.year()) { Self(at) } else { Self(OffsetDateTime::UNIX_EPOCH) }
    }

    /// Milliseconds since the Unix epoch.
    pub fn unix_ms(self) -> i64 {
        i64::try_from(self.0.unix_timestamp_nanos() / 1_000_000).expect("a year of four digits fits")
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(FORMAT).map_err(|_| fmt::Error)?)
    }
}

/// The text is not an RFC 3339 UTC time with milliseconds.
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

/// Where time comes from.
pub trait Clock {
    /// The wall clock. May step in either direction.
    fn now(&self) -> Timestamp;
    /// Time since boot, suspend included (`CLOCK_BOOTTIME`, `clock_gettime(2)`). Never goes back within one boot.
    fn since_boot(&self) -> Duration;
}

/// The kernel's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
        Timestamp::from_unix_ms(i64::try_from(since_epoch).unwrap_or(0))
    }

    fn since_boot(&self) -> Duration {
        let at = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(
            u64::try_from(at.tv_sec).expect("time since boot is not negative"),
            u32::try_from(at.tv_nsec).expect("nanoseconds are below a second"),
        )
    }
}

/// A duration in whole milliseconds, for columns and messages.
pub fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_has_one_text_of_fixed_width() {
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
    fn a_time_outside_of_four_digit_years_becomes_the_epoch() {
        assert_eq!(Timestamp::from_unix_ms(i64::MAX).unix_ms(), 0);
        assert_eq!(Timestamp::from_unix_ms(i64::MIN).unix_ms(), 0);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "2023-11-14", "2023-11-14T22:13:20Z", "2023-11-14T22:13:20.007+00:00", "2023-13-14T22:13:20.007Z"] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_boot_clock_does_not_go_back() {
        let first = SystemClock.since_boot();
        assert!(SystemClock.since_boot() >= first);
    }
}
