//! Pages of the log: how to request them, and what they contain.

use std::time::Duration;

use crate::api::logs::{LogsQuery, LogsResponse, RunEnd, Source, StreamName, TailQuery};
use crate::api::routes::Route;
use crate::clock::Timestamp;

pub(super) const PAGE_LINES: usize = 1000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) source: Source,
    pub(super) run: Option<u64>,
    pub(super) grep: Option<&'a str>,
    pub(super) stream: Option<StreamName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// Behind the line with this id.
    Behind(u64),
    /// With the first line of that moment or later.
    At(Timestamp),
}

impl Wanted<'_> {
    /// Returns the path for the last `lines` lines: only those since `at`, and only those before the position `before`.
    pub(super) fn tail(&self, lines: u32, at: Option<Timestamp>, before: Option<u64>) -> String {
        let Self { source, run, grep, stream } = *self;
        let (source, limit, grep) = (Some(source), Some(lines.into()), grep.map(str::to_owned));
        Route::LogTail.url("", &TailQuery { source, limit, before, at, run, grep, stream, name: None, lines: None })
    }

    /// Returns the path for a page, whose answer may wait up to `wait` for a line.
    pub(super) fn page(&self, begin: Begin, wait: Option<Duration>) -> String {
        let Self { source, run, grep, stream } = *self;
        let (since, at) = match begin {
            Begin::Behind(id) => (Some(id), None),
            Begin::At(at) => (None, Some(at)),
        };
        let (source, limit, grep) = (Some(source), Some(PAGE_LINES as u64), grep.map(str::to_owned));
        Route::Logs.url("", &LogsQuery { source, since, at, limit, wait: wait.map(|wait| wait.as_secs()), run, grep, stream })
    }
}

/// Checks whether a page was the last one for now.
pub(super) fn is_at_end(page: &LogsResponse) -> bool {
    page.lines.is_empty() && page.gone == 0 && page.searched_all != Some(false)
}

/// Checks whether a page belongs to a run that has ended, and is its last page.
pub(super) fn is_last(page: &LogsResponse) -> bool {
    matches!(page.end, RunEnd::At(end) if page.next >= end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_request_path_has_all_filters() {
        let all = Wanted { source: Source::Pipeline, run: None, grep: None, stream: None };
        assert_eq!(all.tail(200, None, None), "/api/logs/tail?source=pipeline&limit=200");
        assert_eq!(all.page(Begin::Behind(7), None), "/api/logs?source=pipeline&since=7&limit=1000");
        let at = "2026-01-31T10:00:00.123Z".parse().expect("a time stamp");
        let some =
            Wanted { source: Source::Pipeline, run: Some(7), grep: Some("50% & ä\n#a+b=c"), stream: Some(StreamName::Stderr) };
        let filters = "&run=7&grep=50%25%20%26%20%C3%A4%0A%23a%2Bb%3Dc&stream=stderr";
        assert_eq!(
            some.page(Begin::At(at), None),
            format!("/api/logs?source=pipeline&at=2026-01-31T10:00:00.123Z&limit=1000{filters}")
        );
        assert_eq!(some.tail(1, None, None), format!("/api/logs/tail?source=pipeline&limit=1{filters}"));
        let tail = all.tail(2, Some(at), Some(52));
        assert_eq!(tail, "/api/logs/tail?source=pipeline&limit=2&at=2026-01-31T10:00:00.123Z&before=52");
    }

    #[test]
    fn null_and_absent_end_of_a_log_page_differ() {
        let page = |more: &str| -> LogsResponse {
            serde_json::from_str(&format!(r#"{{"source":"pipeline","next":10,"first":0,"lines":[]{more}}}"#)).expect("a page")
        };
        assert_eq!(
            (page("").end, page(r#","end":null"#).end, page(r#","end":10"#).end),
            (RunEnd::Untold, RunEnd::Open, RunEnd::At(10))
        );
        assert!(is_last(&page(r#","end":10"#)) && is_last(&page(r#","end":9"#)));
        assert!(!is_last(&page(r#","end":11"#)) && !is_last(&page(r#","end":null"#)) && !is_last(&page("")));
        assert!(is_at_end(&page("")) && is_at_end(&page(r#","searched_all":true"#)));
        assert!(!is_at_end(&page(r#","searched_all":false"#)) && !is_at_end(&page(r#","gone":1"#)));
    }
}
