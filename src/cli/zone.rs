//! The local time zone, to which a time without a zone refers.
//!
//! It is read from `TZ` or `/etc/localtime`, as the C library does (`tzset(3)`), but in Rust: `localtime_r(3)` reads an
//! environment that another thread can change.

use std::env::{self, VarError};

use time::{Date, Month, PrimitiveDateTime};
use tz::{DateTime, TimeZone};

use crate::clock::Timestamp;

/// Why the local time zone is unknown.
#[derive(Debug, thiserror::Error)]
pub(super) enum ZoneError {
    #[error(
        "TZ={0:?} is not a time zone that this machine knows; correct TZ, or write the time with its zone (2026-01-31T23:59:59+01:00)"
    )]
    Tz(String),
    #[error("cannot read the time zone in /etc/localtime: {0}; write the time with its zone (2026-01-31T23:59:59+01:00)")]
    Localtime(tz::Error),
}

pub(super) struct Zone(TimeZone);

impl Zone {
    /// Returns this machine's zone: `TZ`, else `/etc/localtime`, else UTC. An empty `TZ` means UTC.
    pub(super) fn local() -> Result<Self, ZoneError> {
        match env::var("TZ") {
            Ok(name) if name.is_empty() => Ok(Self::utc()),
            Ok(name) => Self::named(&name),
            Err(VarError::NotUnicode(name)) => Err(ZoneError::Tz(name.to_string_lossy().into_owned())),
            Err(VarError::NotPresent) => match TimeZone::local() {
                Ok(zone) => Ok(Self(zone)),
                // A machine without that file uses UTC.
                Err(tz::Error::Io(_)) => Ok(Self::utc()),
                Err(error) => Err(ZoneError::Localtime(error)),
            },
        }
    }

    pub(super) fn utc() -> Self {
        Self(TimeZone::utc())
    }

    /// Returns the zone with this name, or with this rule (`CET-1CEST,M3.5.0,M10.5.0/3`).
    pub(super) fn named(name: &str) -> Result<Self, ZoneError> {
        TimeZone::from_posix_tz(name).map(Self).map_err(|_| ZoneError::Tz(name.to_owned()))
    }

    /// Returns the local date at this moment, or `None` outside the years that the zone's data covers.
    pub(super) fn day_of(&self, at: Timestamp) -> Option<Date> {
        let local = DateTime::from_timespec(at.unix_ms().div_euclid(1000), 0, self.0.as_ref()).ok()?;
        Date::from_calendar_date(local.year(), Month::try_from(local.month()).ok()?, local.month_day()).ok()
    }

    /// Returns the moment at which local clocks show this time, or `None` outside the years that the zone's data covers.
    ///
    /// A time that occurs twice because clocks are set back means the first of the two. A time that is skipped means the moment
    /// at which clocks are set forward. So no line since that time is left out.
    pub(super) fn moment(&self, local: PrimitiveDateTime) -> Option<Timestamp> {
        let (date, time) = (local.date(), local.time());
        let found = DateTime::find(
            date.year(),
            u8::from(date.month()),
            date.day(),
            time.hour(),
            time.minute(),
            time.second(),
            0,
            self.0.as_ref(),
        );
        let found = found.ok()?.into_inner();
        let (seconds, ms) = match *found.first()? {
            tz::datetime::FoundDateTimeKind::Normal(at) => (at.unix_time(), i64::from(time.millisecond())),
            tz::datetime::FoundDateTimeKind::Skipped { before_transition, .. } => (before_transition.unix_time(), 0),
        };
        Some(Timestamp::from_unix_ms(seconds.checked_mul(1000)?.checked_add(ms)?))
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
    /// A zone in which clocks are set forward at midnight, so that this day has no midnight.
    const FORWARD_AT_MIDNIGHT: &str = "XXT4XXST,M10.3.0/0,M2.3.0/0";

    fn moment(zone: &str, local: PrimitiveDateTime) -> String {
        Zone::named(zone).expect("a rule").moment(local).expect("a year that there is").to_string()
    }

    #[test]
    fn local_time_parses_to_a_moment() {
        assert_eq!(moment(BERLIN, datetime!(2026-01-31 10:00:00.25)), "2026-01-31T09:00:00.250Z");
        assert_eq!(moment(BERLIN, datetime!(2026-07-31 10:00)), "2026-07-31T08:00:00.000Z");
        assert_eq!(moment("UTC0", datetime!(2026-07-31 10:00)), "2026-07-31T10:00:00.000Z");
    }

    #[test]
    fn skipped_time_means_the_clock_change_and_repeated_time_the_first() {
        for skipped in [datetime!(2026-03-29 02:00), datetime!(2026-03-29 02:30:00.5), datetime!(2026-03-29 02:59:59)] {
            assert_eq!(moment(BERLIN, skipped), "2026-03-29T01:00:00.000Z");
        }
        assert_eq!(moment(BERLIN, datetime!(2026-03-29 01:59:59)), "2026-03-29T00:59:59.000Z");
        assert_eq!(moment(BERLIN, datetime!(2026-03-29 03:00)), "2026-03-29T01:00:00.000Z");
        assert_eq!(moment(BERLIN, datetime!(2026-10-25 02:30)), "2026-10-25T00:30:00.000Z");
        assert_eq!(moment(BERLIN, datetime!(2026-10-25 03:00)), "2026-10-25T02:00:00.000Z");
        assert_eq!(moment(FORWARD_AT_MIDNIGHT, datetime!(2026-10-18 00:00)), "2026-10-18T04:00:00.000Z");
    }

    #[test]
    fn day_begins_and_ends_at_midnight_of_the_zone() {
        let day = |at: &str| {
            let at = at.parse().expect("a time stamp");
            Zone::named(BERLIN).expect("a rule").day_of(at).expect("a year that there is").to_string()
        };
        assert_eq!(day("2026-01-31T22:59:59.999Z"), "2026-01-31");
        assert_eq!(day("2026-01-31T23:00:00.000Z"), "2026-02-01");
        assert_eq!(day("2026-07-31T22:00:00.000Z"), "2026-08-01");
    }

    #[test]
    fn unknown_zone_is_an_error_and_not_utc() {
        assert!(matches!(Zone::named("Nowhere/Here"), Err(ZoneError::Tz(name)) if name == "Nowhere/Here"));
    }
}
