//! `--since`: how long ago, or a moment.

use std::str::FromStr;
use std::time::Duration;

use crate::clock::Timestamp;

/// From when on lines are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Since {
    /// So long before now, by the server's clock: it is the server that stamps the lines.
    Ago(Duration),
    /// A moment.
    At(Timestamp),
}

/// The text is neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("say how long ago (90s, 10m, 2h, 1d), or when, with Z or an offset (2026-01-31T23:59:59Z, 2026-01-31T23:59:59+01:00)")]
pub(in crate::cli) struct BadSince;

impl FromStr for Since {
    type Err = BadSince;

    fn from_str(text: &str) -> Result<Self, BadSince> {
        let seconds_each = match text.as_bytes().last() {
            Some(b's') => 1,
            Some(b'm') => 60,
            Some(b'h') => 60 * 60,
            Some(b'd') => 24 * 60 * 60,
            Some(_) => return Timestamp::from_rfc3339(text).map(Self::At).map_err(|_| BadSince),
            None => return Err(BadSince),
        };
        let number = &text[..text.len() - 1];
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(BadSince);
        }
        let number: u32 = number.parse().map_err(|_| BadSince)?;
        Ok(Self::Ago(Duration::from_secs(u64::from(number) * seconds_each)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_ago_or_when() {
        for (text, seconds) in [("0s", 0), ("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86_400), ("007m", 420)] {
            assert_eq!(text.parse(), Ok(Since::Ago(Duration::from_secs(seconds))), "{text}");
        }
        for (text, utc) in [
            ("2026-01-31T23:59:59Z", "2026-01-31T23:59:59.000Z"),
            ("2026-01-31T23:59:59.123999Z", "2026-01-31T23:59:59.123Z"),
            ("2026-01-31T23:59:59+01:00", "2026-01-31T22:59:59.000Z"),
            ("2026-01-31T23:59:59.5-09:30", "2026-02-01T09:29:59.500Z"),
        ] {
            assert_eq!(text.parse(), Ok(Since::At(utc.parse().expect("a time stamp"))), "{text}");
        }
    }

    #[test]
    fn nothing_else_is_taken() {
        for text in [
            "",
            "s",
            "m",
            "10",
            "-10m",
            "+10m",
            "1.5h",
            "10 m",
            "10M",
            "1h30m",
            "99999999999d",
            "yesterday",
            "today",
            "2026-01-31",
            "23:59:59",
            "2026-01-31T23:59:59",
            "2026-02-30T00:00:00Z",
            "\u{663}m",
            "ä",
        ] {
            assert_eq!(text.parse::<Since>(), Err(BadSince), "{text}");
        }
    }
}
