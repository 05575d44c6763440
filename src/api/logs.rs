//! Logs: pages of lines, and the log of a run as text.

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use super::pipeline::WAIT_S_MAX;
use super::query::{Kind, RUN_ID_MAX, query};
use crate::clock::Timestamp;
use crate::pipeline::words;

/// The most lines of one answer.
pub const LINES_MAX: u64 = 5000;

/// The most matches that one answer to a search lists, and how many if no number is named.
pub const MATCHES_MAX: u64 = 1000;
/// See [`MATCHES_MAX`].
pub const MATCHES_DEFAULT: u64 = 200;

/// The longest text or expression to search for, in bytes.
pub const GREP_BYTES_MAX: usize = 200;

words! {
    /// Whose log.
    Source {
        /// The pipeline's output.
        Pipeline = "pipeline",
        /// The server's own log.
        Backend = "backend",
    }
}

words! {
    /// Where a line of the pipeline's came from.
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
        /// In place of `since`: begins with the first line of that time or later.
        at: Timestamp = Kind::Time,
        /// The most lines.
        limit: u64 = LINES,
        /// For how long the answer waits for a line, in seconds.
        wait: u64 = Kind::Number(0, WAIT_S_MAX),
        /// Only lines of this run.
        run: u64 = RUN,
        /// Only lines that hold this text.
        grep: String = GREP,
        /// Only lines of this stream.
        stream: StreamName = STREAMS,
    }
}

query! {
    /// The query of `GET /api/logs/tail`. `name` and `lines` are older clients' words; with either, the answer is a [`PlainTail`].
    TailQuery {
        /// The source of the log; the pipeline by default.
        source: Source = SOURCES,
        /// The most lines.
        limit: u64 = LINES,
        /// Only lines of that time or later.
        at: Timestamp = Kind::Time,
        /// Only lines with an id up to this one.
        before: u64 = POSITION,
        /// Only lines of this run.
        run: u64 = RUN,
        /// Only lines that hold this text.
        grep: String = GREP,
        /// Only lines of this stream.
        stream: StreamName = STREAMS,
        /// An older word for `source`.
        name: Source = SOURCES,
        /// An older word for `limit`.
        lines: u64 = LINES,
    }
}

query! {
    /// The query of `GET /api/runs/<id>/log`.
    LogTextQuery {
        /// Whether each record stands behind its time and stream, as it does on the disk; it does if not said otherwise.
        timestamps: bool = Kind::Switch,
        /// Only this stream.
        stream: StreamName = STREAMS,
        /// Whether a browser is to save it as a file.
        download: bool = Kind::Switch,
        /// The proof that a page puts into the link in place of a header field: the `download_proof` of its login.
        proof: String = Kind::Text(64),
    }
}

query! {
    /// The query of `GET /api/runs/<id>/log/search`, which has one of `text` and `regex`.
    LogSearchQuery {
        /// Lines that hold this text.
        text: String = GREP,
        /// Lines that match this regular expression.
        regex: String = GREP,
        /// Whether upper and lower case differ; they do not if not said otherwise.
        case: bool = Kind::Switch,
        /// Only lines of this stream.
        stream: StreamName = STREAMS,
        /// Only lines with an id above this one.
        since: u64 = POSITION,
        /// The most matches that are listed.
        limit: u64 = Kind::Number(1, MATCHES_MAX),
    }
}

/// The answer to one part of a search.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSearchResponse {
    /// The first lines of this part that match, oldest first.
    pub matches: Vec<Match>,
    /// How many lines of this part match, listed or not.
    pub count: u64,
    /// Whether the log was searched to its present end.
    pub searched_all: bool,
    /// The `since` of the next part.
    pub next: u64,
    /// How many lines were searched.
    pub lines: u64,
}

/// A line that matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// The line's id, as in [`Line`].
    pub id: u64,
    /// When it came; none for a line that was damaged on the disk.
    pub at: Option<Timestamp>,
    /// Where it came from; none for a line that was damaged on the disk.
    pub stream: Option<StreamName>,
    /// The text that was searched, without escape sequences; of a long one, the 500 characters around the first hit.
    pub line: String,
    /// Whether the text goes on in the next line of this stream.
    pub partial: bool,
}

/// A page of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsResponse {
    /// Whose log.
    pub source: Source,
    /// The id that the page begins behind; absent in a tail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Where a run's log ends; absent if the page is not of one run.
    #[serde(default, skip_serializing_if = "RunEnd::is_untold")]
    pub end: RunEnd,
    /// Whether the page has as many lines as it may, or all that there are. Present only where the query has `grep` or `stream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub searched_all: Option<bool>,
    /// The `since` of the next page.
    pub next: u64,
    /// Where the kept log begins. In a tail that was searched: how far back it was.
    pub first: u64,
    /// How many bytes of the log right before the first of these lines are missing.
    #[serde(default)]
    pub gone: u64,
    /// Oldest first.
    pub lines: Vec<Line>,
}

/// The last lines as older clients read them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainTail {
    /// Whose log.
    pub name: Source,
    /// The texts, oldest first.
    pub lines: Vec<String>,
}

/// A line of a log. Its time is also sent as `ts`, for older clients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Line {
    /// The position after its last byte; the `since` that goes on behind it.
    pub id: u64,
    /// When it came; none for a line that was damaged on the disk.
    pub at: Option<Timestamp>,
    /// Whose it is.
    pub source: Source,
    /// Where it came from; none for the server's own, and for a line that was damaged on the disk.
    pub stream: Option<StreamName>,
    /// The run that said it.
    pub run_id: Option<i64>,
    /// The text, bad UTF-8 replaced.
    pub line: String,
    /// Whether the text goes on in the next line of this stream.
    pub partial: bool,
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Written out once for both keys: a page has thousands of lines.
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

/// Where a run's log ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RunEnd {
    /// The answer is not about one run.
    #[default]
    #[serde(skip)]
    Untold,
    /// More may come: `null`.
    Open,
    /// No line of it has an id above this one, and none will.
    At(u64),
}

impl RunEnd {
    fn is_untold(&self) -> bool {
        *self == Self::Untold
    }
}
