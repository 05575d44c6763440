//! Logs: pages of lines, search results, and the log of a run as text.

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use super::pipeline::WAIT_S_MAX;
use super::query::{Kind, RUN_ID_MAX, query};
use crate::clock::Timestamp;
use crate::pipeline::words;

/// The most lines of one response.
pub const LINES_MAX: u64 = 5000;

/// The most matches that one response to a search lists.
pub const MATCHES_MAX: u64 = 1000;
/// The most matches that a response lists if the query has no `limit`.
pub const MATCHES_DEFAULT: u64 = 200;

/// The longest text or expression to search for, in bytes.
pub const GREP_BYTES_MAX: usize = 200;

words! {
    /// The log to read.
    Source {
        /// The pipeline's output.
        Pipeline = "pipeline",
        /// The server's own log.
        Backend = "backend",
    }
}

words! {
    /// The stream that a line of the pipeline came from.
    StreamName {
        /// Its standard output.
        Stdout = "stdout",
        /// Its standard error.
        Stderr = "stderr",
    }
}

const SOURCES: Kind = Kind::Word(&[Source::Pipeline.as_str(), Source::Backend.as_str()]);
const STREAMS: Kind = Kind::Word(&[StreamName::Stdout.as_str(), StreamName::Stderr.as_str()]);
const POSITION: Kind = Kind::Number(0, u64::MAX);
const LINES: Kind = Kind::Number(1, LINES_MAX);
const RUN: Kind = Kind::Number(1, RUN_ID_MAX);
const GREP: Kind = Kind::Text(GREP_BYTES_MAX);

query! {
    /// The query of `GET /api/logs`.
    LogsQuery {
        /// The source of the log; the pipeline by default.
        source: Source = SOURCES,
        /// Only lines with an id above this one.
        since: u64 = POSITION,
        /// Used instead of `since`: begins with the first line at or after this time.
        at: Timestamp = Kind::Time,
        /// The most lines.
        limit: u64 = LINES,
        /// How long the response waits for a line, in seconds.
        wait: u64 = Kind::Number(0, WAIT_S_MAX),
        /// Only lines of this run.
        run: u64 = RUN,
        /// Only lines that contain this text.
        grep: String = GREP,
        /// Only lines of this stream.
        stream: StreamName = STREAMS,
    }
}

query! {
    /// The query of `GET /api/logs/tail`. `name` and `lines` are keys of older clients; with either, the response is a
    /// [`PlainTail`].
    TailQuery {
        /// The source of the log; the pipeline by default.
        source: Source = SOURCES,
        /// The most lines.
        limit: u64 = LINES,
        /// Only lines at or after this time.
        at: Timestamp = Kind::Time,
        /// Only lines with an id up to this one.
        before: u64 = POSITION,
        /// Only lines of this run.
        run: u64 = RUN,
        /// Only lines that contain this text.
        grep: String = GREP,
        /// Only lines of this stream.
        stream: StreamName = STREAMS,
        /// The older key for `source`.
        name: Source = SOURCES,
        /// The older key for `limit`.
        lines: u64 = LINES,
    }
}

query! {
    /// The query of `GET /api/runs/<id>/log`.
    LogTextQuery {
        /// Whether each record follows its time and stream, as on disk; true by default.
        timestamps: bool = Kind::Switch,
        /// Only this stream.
        stream: StreamName = STREAMS,
        /// Whether the browser should save the response as a file.
        download: bool = Kind::Switch,
        /// The proof that the page puts into the link, because a link cannot have a header field: the `download_proof` of its
        /// login.
        proof: String = Kind::Text(64),
    }
}

query! {
    /// The query of `GET /api/runs/<id>/log/search`. It must have exactly one of `text` and `regex`.
    LogSearchQuery {
        /// Lines that contain this text.
        text: String = GREP,
        /// Lines that match this regular expression.
        regex: String = GREP,
        /// Whether the search is case-sensitive; false by default.
        case: bool = Kind::Switch,
        /// Only lines of this stream.
        stream: StreamName = STREAMS,
        /// Only lines with an id above this one.
        since: u64 = POSITION,
        /// The most matches that are listed.
        limit: u64 = Kind::Number(1, MATCHES_MAX),
    }
}

/// The response for one part of a search.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSearchResponse {
    /// The first matching lines of this part, oldest first.
    pub matches: Vec<Match>,
    /// How many lines of this part match, listed or not.
    pub count: u64,
    /// Whether the log was searched to its current end.
    pub searched_all: bool,
    /// The `since` of the next part.
    pub next: u64,
    /// How many lines were searched.
    pub lines: u64,
}

/// A matching line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// The line's id, as in [`Line`].
    pub id: u64,
    /// When the line was written; `None` if it was damaged on disk.
    pub at: Option<Timestamp>,
    /// The stream of the line; `None` if the line was damaged on disk.
    pub stream: Option<StreamName>,
    /// The searched text, without escape sequences. Of a long text, the 500 characters around the first hit.
    pub line: String,
    /// Whether the text continues in the next line of this stream.
    pub partial: bool,
}

/// A page of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsResponse {
    /// The source of the log.
    pub source: Source,
    /// The id after which the page begins; absent in a tail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// The end of the run's log; absent if the page is not about one run.
    #[serde(default, skip_serializing_if = "RunEnd::is_untold")]
    pub end: RunEnd,
    /// Whether the page is full or contains everything that matches. Present only if the query has `grep` or `stream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub searched_all: Option<bool>,
    /// The `since` of the next page.
    pub next: u64,
    /// The position at which the kept log begins. In a tail with a search, the position to which the search went back.
    pub first: u64,
    /// The number of bytes that are missing right before the first of these lines.
    #[serde(default)]
    pub gone: u64,
    /// The lines, oldest first.
    pub lines: Vec<Line>,
}

/// The last lines in the form that older clients read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainTail {
    /// The source of the log.
    pub name: Source,
    /// The texts, oldest first.
    pub lines: Vec<String>,
}

/// A line of a log. Its time is also sent as `ts`, for older clients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Line {
    /// The position after the line's last byte. Used as `since`, it continues after this line.
    pub id: u64,
    /// When the line was written; `None` if it was damaged on disk.
    pub at: Option<Timestamp>,
    /// The source of the log.
    pub source: Source,
    /// The stream of the line; `None` for a line of the server's log, and if the line was damaged on disk.
    pub stream: Option<StreamName>,
    /// The run that printed the line.
    pub run_id: Option<i64>,
    /// The text, with invalid UTF-8 replaced.
    pub line: String,
    /// Whether the text continues in the next line of this stream.
    pub partial: bool,
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Formatted once for both keys, because a page has thousands of lines.
        let at = self.at.map(|at| at.to_string());
        let mut line = serializer.serialize_struct("Line", 8)?;
        line.serialize_field("id", &self.id)?;
        line.serialize_field("at", &at)?;
        line.serialize_field("ts", &at)?;
        line.serialize_field("source", &self.source)?;
        line.serialize_field("stream", &self.stream)?;
        line.serialize_field("run_id", &self.run_id)?;
        line.serialize_field("line", &self.line)?;
        line.serialize_field("partial", &self.partial)?;
        line.end()
    }
}

/// The end of a run's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RunEnd {
    /// The response is not about one run.
    #[default]
    #[serde(skip)]
    Untold,
    /// More lines can follow. Sent as `null`.
    Open,
    /// No line of the run has or will have an id above this one.
    At(u64),
}

impl RunEnd {
    fn is_untold(&self) -> bool {
        *self == Self::Untold
    }
}
