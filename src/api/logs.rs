//! Logs: pages of lines, and the log of a run as text.

use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::pipeline::WAIT_S_MAX;
use super::query::{Key, Kind, Query, RUN_ID_MAX};
use crate::clock::Timestamp;
use crate::pipeline::words;

/// The most lines of one answer.
pub const LINES_MAX: u64 = 5000;

/// The longest text to search for, in bytes.
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

/// The query of `GET /api/logs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogsQuery {
    /// Whose log; the pipeline's if none is named.
    pub source: Option<Source>,
    /// Only lines with an id above this one.
    pub since: Option<u64>,
    /// In place of `since`: begins with the first line of that time or later.
    pub at: Option<Timestamp>,
    /// The most lines.
    pub limit: Option<u64>,
    /// For how long the answer waits for a line, in seconds.
    pub wait: Option<u64>,
    /// Only lines of this run.
    pub run: Option<u64>,
    /// Only lines that hold this text.
    pub grep: Option<String>,
}

const RUN: Key = Key { name: "run", kind: Kind::Number(1, RUN_ID_MAX) };
const GREP: Key = Key { name: "grep", kind: Kind::Text(GREP_BYTES_MAX) };
const LIMIT: Key = Key { name: "limit", kind: Kind::Number(1, LINES_MAX) };
const AT: Key = Key { name: "at", kind: Kind::Time };

impl Query for LogsQuery {
    const KEYS: &'static [Key] = &[
        Key { name: "source", kind: SOURCES },
        Key { name: "since", kind: Kind::Number(0, u64::MAX) },
        AT,
        LIMIT,
        Key { name: "wait", kind: Kind::Number(0, WAIT_S_MAX) },
        RUN,
        GREP,
    ];
}

/// The query of `GET /api/logs/tail`. `name` and `lines` are older clients' words; with either, the answer is a [`PlainTail`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TailQuery {
    /// Whose log; the pipeline's if none is named.
    pub source: Option<Source>,
    /// The most lines.
    pub limit: Option<u64>,
    /// Only lines of that time or later.
    pub at: Option<Timestamp>,
    /// Only lines with an id up to this one.
    pub before: Option<u64>,
    /// Only lines of this run.
    pub run: Option<u64>,
    /// Only lines that hold this text.
    pub grep: Option<String>,
    /// An older word for `source`.
    pub name: Option<Source>,
    /// An older word for `limit`.
    pub lines: Option<u64>,
}

impl TailQuery {
    /// Whether an older client asks.
    pub fn is_old(&self) -> bool {
        self.name.is_some() || self.lines.is_some()
    }
}

impl Query for TailQuery {
    const KEYS: &'static [Key] = &[
        Key { name: "source", kind: SOURCES },
        LIMIT,
        AT,
        Key { name: "before", kind: Kind::Number(0, u64::MAX) },
        RUN,
        GREP,
        Key { name: "name", kind: SOURCES },
        Key { name: "lines", kind: Kind::Number(1, LINES_MAX) },
    ];
}

/// The query of `GET /api/runs/<id>/log`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogTextQuery {
    /// Whether each record stands behind its time and stream, as it does on the disk; it does if not said otherwise.
    pub timestamps: Option<bool>,
    /// Only this stream.
    pub stream: Option<StreamName>,
    /// Whether a browser is to save it as a file.
    pub download: Option<bool>,
}

impl Query for LogTextQuery {
    const KEYS: &'static [Key] = &[
        Key { name: "timestamps", kind: Kind::Switch },
        Key { name: "stream", kind: STREAMS },
        Key { name: "download", kind: Kind::Switch },
    ];
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
    /// Whether the page has as many lines as it may, or all that there are. Present only in answers to a search.
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunEnd {
    /// The answer is not about one run.
    #[default]
    Untold,
    /// More may come.
    Open,
    /// No line of it has an id above this one, and none will.
    At(u64),
}

impl RunEnd {
    /// Of one run's log, which ends there, or goes on.
    pub fn of(end: Option<u64>) -> Self {
        end.map_or(Self::Open, Self::At)
    }

    fn is_untold(&self) -> bool {
        *self == Self::Untold
    }
}

impl Serialize for RunEnd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::At(end) => serializer.serialize_some(end),
            Self::Open | Self::Untold => serializer.serialize_none(),
        }
    }
}

impl<'de> Deserialize<'de> for RunEnd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::of(Option::deserialize(deserializer)?))
    }
}
