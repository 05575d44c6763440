//! The log's pages: how they are asked for, and what stands in them.

use std::fmt::Write as _;

use serde::{Deserialize, Deserializer};

use super::super::args::Source;
use crate::clock::Timestamp;

/// How many lines one page has at most.
pub(super) const PAGE_LINES: usize = 1000;

/// Which lines are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) source: Source,
    pub(super) run: Option<u64>,
    pub(super) grep: Option<&'a str>,
}

/// Of the last lines: how many, of that moment or later ones, and from before the line behind which this position lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    pub(super) lines: u32,
    pub(super) at: Option<Timestamp>,
    pub(super) before: Option<u64>,
}

/// Where a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// Behind the line with this id.
    Behind(u64),
    /// With the first line of that moment or a later one.
    At(Timestamp),
}

impl Wanted<'_> {
    /// The path of the last lines.
    pub(super) fn tail(&self, tail: Tail) -> String {
        let Tail { lines, at, before } = tail;
        let mut path = format!("/api/logs/tail?source={}&limit={lines}", self.source.as_str());
        if let Some(at) = at {
            write!(path, "&at={at}").expect("a string takes everything");
        }
        if let Some(before) = before {
            write!(path, "&before={before}").expect("a string takes everything");
        }
        self.with_filters(path)
    }

    /// The path of a page.
    pub(super) fn page(&self, begin: Begin) -> String {
        let source = self.source.as_str();
        self.with_filters(match begin {
            Begin::Behind(id) => format!("/api/logs?source={source}&since={id}&limit={PAGE_LINES}"),
            Begin::At(at) => format!("/api/logs?source={source}&at={at}&limit={PAGE_LINES}"),
        })
    }

    fn with_filters(&self, mut path: String) -> String {
        if let Some(run) = self.run {
            write!(path, "&run={run}").expect("a string takes everything");
        }
        if let Some(text) = self.grep {
            path.push_str("&grep=");
            for byte in text.bytes() {
                if byte.is_ascii_alphanumeric() {
                    path.push(char::from(byte));
                } else {
                    write!(path, "%{byte:02X}").expect("a string takes everything");
                }
            }
        }
        path
    }
}

/// An answer of `/api/logs` or `/api/logs/tail`.
#[derive(Deserialize)]
pub(super) struct Page {
    /// Where the next page begins.
    pub(super) next: u64,
    /// How far back a tail was searched.
    #[serde(default)]
    pub(super) first: u64,
    /// Where the page began.
    #[serde(default)]
    pub(super) since: Option<u64>,
    /// How many bytes right before the first line are not there any more.
    #[serde(default)]
    pub(super) gone: u64,
    #[serde(default)]
    pub(super) end: RunEnd,
    /// Whether the page has as many lines as it may, or all that there are. Only in answers of a search.
    #[serde(default)]
    pub(super) searched_all: Option<bool>,
    pub(super) lines: Vec<Line>,
}

impl Page {
    /// Whether there was nothing more behind it.
    pub(super) fn is_at_end(&self) -> bool {
        self.lines.is_empty() && self.gone == 0 && self.searched_all != Some(false)
    }

    /// Whether it is of a run that has ended, and its last.
    pub(super) fn is_last(&self) -> bool {
        matches!(self.end, RunEnd::At(end) if self.next >= end)
    }
}

/// A line of the log.
#[derive(Deserialize)]
pub(super) struct Line {
    /// None for a line that was damaged on disk.
    pub(super) ts: Option<Timestamp>,
    pub(super) stream: Option<String>,
    pub(super) run_id: Option<u64>,
    #[serde(rename = "line")]
    pub(super) text: String,
    #[serde(default)]
    pub(super) partial: bool,
}

/// Where a run's log ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RunEnd {
    /// The answer is not about one run.
    #[default]
    Untold,
    /// It goes on: the run is live.
    Open,
    /// No line of it has an id above this one, and none will.
    At(u64),
}

impl<'de> Deserialize<'de> for RunEnd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Open, Self::At))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stands_in_the_path() {
        let all = Wanted { source: Source::Pipeline, run: None, grep: None };
        let last = |lines| Tail { lines, at: None, before: None };
        assert_eq!(all.tail(last(200)), "/api/logs/tail?source=pipeline&limit=200");
        assert_eq!(all.page(Begin::Behind(7)), "/api/logs?source=pipeline&since=7&limit=1000");
        let at = "2026-01-31T10:00:00.123Z".parse().expect("a time stamp");
        let some = Wanted { source: Source::Pipeline, run: Some(7), grep: Some("50% & ä\n#a+b=c") };
        let filters = "&run=7&grep=50%25%20%26%20%C3%A4%0A%23a%2Bb%3Dc";
        assert_eq!(
            some.page(Begin::At(at)),
            format!("/api/logs?source=pipeline&at=2026-01-31T10:00:00.123Z&limit=1000{filters}")
        );
        assert_eq!(some.tail(last(1)), format!("/api/logs/tail?source=pipeline&limit=1{filters}"));
        let tail = all.tail(Tail { lines: 2, at: Some(at), before: Some(52) });
        assert_eq!(tail, "/api/logs/tail?source=pipeline&limit=2&at=2026-01-31T10:00:00.123Z&before=52");
    }

    #[test]
    fn an_end_that_is_not_known_yet_is_not_one_that_is_not_told() {
        let page = |more: &str| -> Page {
            serde_json::from_str(&format!(r#"{{"next":10,"first":0,"lines":[]{more}}}"#)).expect("a page")
        };
        assert_eq!(
            (page("").end, page(r#","end":null"#).end, page(r#","end":10"#).end),
            (RunEnd::Untold, RunEnd::Open, RunEnd::At(10))
        );
        assert!(page(r#","end":10"#).is_last() && page(r#","end":9"#).is_last());
        assert!(!page(r#","end":11"#).is_last() && !page(r#","end":null"#).is_last() && !page("").is_last());
        assert!(page("").is_at_end() && page(r#","searched_all":true"#).is_at_end());
        assert!(!page(r#","searched_all":false"#).is_at_end() && !page(r#","gone":1"#).is_at_end());
    }
}
