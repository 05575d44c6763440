//! The value of `--since`: a duration before now, or a time.

use std::str::FromStr;
use std::time::Duration;

use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, PrimitiveDateTime, Time, UtcOffset};

use super::zone::Zone;
use crate::clock::Timestamp;

const DATE: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");
/// `8:15`, `08:15:09`, `08:15:09.123`.
const TIME: &[BorrowedFormatItem<'_>] =
    format_description!(version = 2, "[hour padding:none]:[minute][optional [:[second][optional [.[subsecond]]]]]");
const OFFSET: &[BorrowedFormatItem<'_>] = format_description!("[offset_hour sign:mandatory]:[offset_minute]");

/// The time from which lines are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// This long before now, by the server's clock, because the server stamps the lines.
    Ago(Duration),
    At(Timestamp),
    /// A time of day in the local time zone.
    Local(Day, Time),
}

/// A day, absolute or relative to today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Day {
    Today,
    Yesterday,
    Date(Date),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "give a duration (90s, 1h30m, 3 days), a time of today (14:00, 08:15:09), today, yesterday, \"yesterday 14:00\", a date (2026-01-31), \
     or a date and time, in local time unless it has a zone (\"2026-01-31 08:00\", 2026-01-31T23:59:59Z, 2026-01-31T23:59:59+01:00)"
)]
pub(super) struct BadSince;

impl Since {
    /// Returns the moment that `self` means if the server's time is `now`, or `None` outside the years that the zone's data
    /// covers.
    pub(super) fn moment(self, now: Timestamp, zone: &Zone) -> Option<Timestamp> {
        match self {
            Self::Ago(ago) => Some(now.before(ago)),
            Self::At(at) => Some(at),
            Self::Local(day, time) => {
                let date = match day {
                    Day::Date(date) => date,
                    Day::Today => zone.day_of(now)?,
                    Day::Yesterday => zone.day_of(now)?.previous_day()?,
                };
                zone.moment(PrimitiveDateTime::new(date, time))
            }
        }
    }

    pub(super) fn is_local(self) -> bool {
        matches!(self, Self::Local(..))
    }
}

impl FromStr for Since {
    type Err = BadSince;

    fn from_str(text: &str) -> Result<Self, BadSince> {
        let text = text.trim();
        let found = Timestamp::from_rfc3339(text).ok().map(Self::At);
        found.or_else(|| ago(text).map(Self::Ago)).or_else(|| day_and_time(text)).ok_or(BadSince)
    }
}

/// Parses `90s`, `1h30m`, `3 days` or `2 h ago`: numbers with units, the larger first.
fn ago(text: &str) -> Option<Duration> {
    let mut rest = text.strip_suffix("ago").map_or(text, str::trim_end);
    let mut seconds: u64 = 0;
    let mut unit_before = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u32 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_lowercase()).len();
        let unit = match &rest[..letters] {
            "s" | "sec" | "secs" | "second" | "seconds" => 1,
            "m" | "min" | "mins" | "minute" | "minutes" => 60,
            "h" | "hour" | "hours" => 60 * 60,
            "d" | "day" | "days" => 24 * 60 * 60,
            "w" | "week" | "weeks" => 7 * 24 * 60 * 60,
            _ => return None,
        };
        if unit >= unit_before {
            return None;
        }
        unit_before = unit;
        seconds += u64::from(number) * unit;
        rest = rest[letters..].trim_start();
    }
    (unit_before < u64::MAX).then(|| Duration::from_secs(seconds))
}

/// Parses `14:00`, `today`, `yesterday 14:00`, `2026-01-31`, `2026-01-31 08:00` or `2026-01-31 08:00:00 UTC`.
fn day_and_time(text: &str) -> Option<Since> {
    let (first, rest) = text.split_once([' ', 'T']).map_or((text, None), |(first, rest)| (first, Some(rest.trim_start())));
    let day = match first {
        "today" => Some(Day::Today),
        "yesterday" => Some(Day::Yesterday),
        // The parser would also accept a sign.
        _ => Date::parse(first, DATE).ok().filter(|_| !first.starts_with(['+', '-'])).map(Day::Date),
    };
    let (day, rest) = match (day, rest) {
        (Some(day), rest) => (day, rest),
        (None, None) => (Day::Today, Some(first)),
        (None, Some(_)) => return None,
    };
    let Some(rest) = rest else { return Some(Since::Local(day, Time::MIDNIGHT)) };
    if let Ok(time) = Time::parse(rest, TIME) {
        return Some(Since::Local(day, time));
    }
    // RFC 3339 allows no blank before the zone and requires seconds; users often write a blank and omit the seconds.
    let Day::Date(date) = day else { return None };
    let (time, zone) = rest.split_at(rest.find(['Z', 'U', '+', '-'])?);
    let offset = match zone {
        "Z" | "UTC" => UtcOffset::UTC,
        other => UtcOffset::parse(other, OFFSET).ok()?,
    };
    let at = PrimitiveDateTime::new(date, Time::parse(time.trim_end(), TIME).ok()?).assume_offset(offset);
    Timestamp::from_rfc3339(&at.format(&Rfc3339).ok()?).ok().map(Since::At)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_parses_as_time_ago() {
        for (text, seconds) in [
            ("0s", 0),
            ("90s", 90),
            ("10m", 600),
            ("2h", 7200),
            ("1d", 86_400),
            ("007m", 420),
            ("1h30m", 5400),
            ("1h 30 min", 5400),
            ("3 days", 259_200),
            ("1 week 1d", 691_200),
            ("2 hours ago", 7200),
            ("10m ago", 600),
            (" 90 s ", 90),
        ] {
            assert_eq!(text.parse(), Ok(Since::Ago(Duration::from_secs(seconds))), "{text}");
        }
    }

    #[test]
    fn time_with_a_zone_parses_to_a_moment() {
        for (text, utc) in [
            ("2026-01-31T23:59:59Z", "2026-01-31T23:59:59.000Z"),
            ("2026-01-31T23:59:59.123999Z", "2026-01-31T23:59:59.123Z"),
            ("2026-01-31T23:59:59+01:00", "2026-01-31T22:59:59.000Z"),
            ("2026-01-31T23:59:59.5-09:30", "2026-02-01T09:29:59.500Z"),
            ("2026-01-31 23:59Z", "2026-01-31T23:59:00.000Z"),
            ("2026-01-31 23:59:59 UTC", "2026-01-31T23:59:59.000Z"),
            ("2026-01-31 8:00 +01:00", "2026-01-31T07:00:00.000Z"),
        ] {
            assert_eq!(text.parse(), Ok(Since::At(utc.parse().expect("a time stamp"))), "{text}");
        }
    }

    /// In Berlin, at noon on a summer day.
    #[test]
    fn time_without_a_zone_is_local() {
        let zone = Zone::named("CET-1CEST,M3.5.0,M10.5.0/3").expect("a rule");
        let now: Timestamp = "2026-07-31T10:00:00.000Z".parse().expect("a time stamp");
        for (text, utc) in [
            ("today", "2026-07-30T22:00:00.000Z"),
            ("yesterday", "2026-07-29T22:00:00.000Z"),
            ("yesterday 14:00", "2026-07-30T12:00:00.000Z"),
            ("today 08:15:09", "2026-07-31T06:15:09.000Z"),
            ("8:15", "2026-07-31T06:15:00.000Z"),
            ("08:15:09.5", "2026-07-31T06:15:09.500Z"),
            ("14:00", "2026-07-31T12:00:00.000Z"),
            ("2026-07-01", "2026-06-30T22:00:00.000Z"),
            ("2026-01-31 08:00", "2026-01-31T07:00:00.000Z"),
            ("2026-01-31T08:00:01.123", "2026-01-31T07:00:01.123Z"),
            ("2026-03-29 02:30", "2026-03-29T01:00:00.000Z"),
            ("2026-10-25 02:30", "2026-10-25T00:30:00.000Z"),
        ] {
            let since: Since = text.parse().expect(text);
            assert!(since.is_local(), "{text}");
            assert_eq!(since.moment(now, &zone).map(|at| at.to_string()).as_deref(), Some(utc), "{text}");
        }
    }

    #[test]
    fn other_since_texts_are_refused() {
        for text in [
            "",
            " ",
            "s",
            "m",
            "ago",
            "10",
            "10 ago",
            "-10m",
            "+10m",
            "1.5h",
            "10M",
            "30m1h",
            "1h1h",
            "99999999999d",
            "tomorrow",
            "yesterday 2pm",
            "today today",
            "14:00 yesterday",
            "24:00",
            "14:60",
            "14:00:60",
            "14:0",
            "14:00.5",
            "14:00Z",
            "2026-1-31",
            "+2026-01-31",
            "-2026-01-31",
            "-2026-01-31 08:00",
            "31.01.2026",
            "01/31/2026",
            "2026-02-30",
            "2026-02-30T00:00:00Z",
            "2026-01-31 08:00 CET",
            "\u{663}m",
            "ä",
        ] {
            assert_eq!(text.parse::<Since>(), Err(BadSince), "{text}");
        }
    }
}
