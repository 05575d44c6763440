//! Which part of an answer a client wants: `Range` and `If-Range` (RFC 9110, sections 13.1.5 and 14).

use std::ops::Range;

use rouille::Request;

/// A range as it was asked for, before it is known how long all of it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// From a byte to another one, that one included.
    FromTo(u64, u64),
    /// So many bytes at the end.
    Last(u64),
}

/// The one range that a request asks for of what has this tag. None where it asks for all, for several ranges, for what is no range, or for a
/// part of something that it has another version of: it gets all of it then, which every client understands.
pub(super) fn asked(request: &Request, tag: &str) -> Option<Asked> {
    let mut ranges = request.headers().filter(|(name, _)| name.eq_ignore_ascii_case("Range")).map(|(_, value)| value);
    // Only GET has ranges.
    let range = ranges.next().filter(|_| request.method() == "GET")?;
    let is_same = request.header("If-Range").is_none_or(|known| known.trim() == tag);
    if ranges.next().is_some() || !is_same { None } else { parse(range) }
}

fn parse(range: &str) -> Option<Asked> {
    let (unit, range) = range.split_once('=')?;
    let (first, last) = range.trim().split_once('-')?;
    let number = |text: &str| {
        // What is too large for a number is beyond every end.
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    match (first, last) {
        ("", last) => number(last).map(Asked::Last),
        (first, "") => number(first).map(|first| Asked::FromTo(first, u64::MAX)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Asked::FromTo(first, last))
        }
    }
}

impl Asked {
    /// What that is of `len` bytes; `None` where there is nothing of it.
    pub(super) fn within(self, len: u64) -> Option<Range<u64>> {
        match self {
            Self::FromTo(first, last) => (first < len).then(|| first..last.saturating_add(1).min(len)),
            Self::Last(count) => (count > 0 && len > 0).then(|| len.saturating_sub(count)..len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, headers: &[(&str, &str)]) -> Option<Asked> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        asked(&Request::fake_http(method, "/", headers, vec![]), "\"a\"")
    }

    #[test]
    fn one_range_is_read_and_everything_else_is_all() {
        for (range, wanted) in [
            ("bytes=0-0", Asked::FromTo(0, 0)),
            ("bytes=5-", Asked::FromTo(5, u64::MAX)),
            ("Bytes= 5-7 ", Asked::FromTo(5, 7)),
            ("bytes=-500", Asked::Last(500)),
            ("bytes=-0", Asked::Last(0)),
            ("bytes=0-99999999999999999999", Asked::FromTo(0, u64::MAX)),
            ("bytes=99999999999999999999-", Asked::FromTo(u64::MAX, u64::MAX)),
        ] {
            assert_eq!(ask("GET", &[("range", range)]), Some(wanted), "{range}");
        }
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5",
            "bytes=7-5",
            "bytes=0-1,3-4",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1--2",
            "lines=1-2",
            "bytes=0x1-2",
            "bytes=1 -2",
        ] {
            assert_eq!(ask("GET", &[("Range", range)]), None, "{range:?}");
        }
        assert_eq!(ask("GET", &[]), None);
        assert_eq!(ask("HEAD", &[("Range", "bytes=0-0")]), None);
        assert_eq!(ask("GET", &[("Range", "bytes=0-0"), ("Range", "bytes=1-1")]), None);
    }

    #[test]
    fn a_part_of_another_version_is_not_given() {
        let range = ("Range", "bytes=1-2");
        assert_eq!(ask("GET", &[range, ("If-Range", "\"a\"")]), Some(Asked::FromTo(1, 2)));
        for known in ["\"b\"", "W/\"a\"", "a", "", "Fri, 31 Jan 2026 10:00:00 GMT"] {
            assert_eq!(ask("GET", &[range, ("If-Range", known)]), None, "{known}");
        }
    }

    #[test]
    fn a_range_is_cut_to_what_there_is() {
        assert_eq!(Asked::FromTo(0, 0).within(1), Some(0..1));
        assert_eq!(Asked::FromTo(3, u64::MAX).within(10), Some(3..10));
        assert_eq!(Asked::FromTo(3, 4).within(10), Some(3..5));
        assert_eq!(Asked::FromTo(10, 11).within(10), None);
        assert_eq!(Asked::FromTo(u64::MAX, u64::MAX).within(u64::MAX), None);
        assert_eq!(Asked::Last(3).within(10), Some(7..10));
        assert_eq!(Asked::Last(u64::MAX).within(10), Some(0..10));
        assert_eq!(Asked::Last(0).within(10), None);
        assert_eq!(Asked::Last(1).within(0), None);
    }
}
