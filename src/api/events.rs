//! The event stream: the names of its events, and their data.

use serde::{Deserialize, Serialize};

use super::query::{Kind, query};
use super::runs::Event;
use crate::pipeline::{Progress, Usage, words};

query! {
    /// The query of `GET /api/events`.
    EventsQuery {
        /// Begins with the log lines after this id.
        since: u64 = Kind::Number(0, u64::MAX),
    }
}

words! {
    /// The kind of an event of the stream.
    EventKind {
        /// The state: a [`super::pipeline::Pipeline`].
        State = "state",
        /// An event in a run: a [`RunEvent`].
        Run = "run",
        /// A line of the log: a [`super::logs::Line`].
        Log = "log",
        /// The progress of a run: a [`ProgressEvent`].
        Progress = "progress",
        /// The resources that a run uses: a [`UsageEvent`].
        Usage = "usage",
        /// Lines that were removed: a [`Gap`].
        Gap = "gap",
    }
}

/// An event in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEvent {
    /// The run.
    pub run_id: i64,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}

/// The progress of the latest run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressEvent<P = Option<Progress>> {
    /// The run.
    pub run_id: Option<i64>,
    /// The progress that the run reports; `None` if it reports nothing.
    pub progress: P,
}

/// The resources that the latest run uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageEvent {
    /// The run.
    pub run_id: Option<i64>,
    /// The resources that its processes use; `None` while the run is paused or stopped, and before the first scan.
    pub usage: Option<Usage>,
}

/// A part of the log that is missing and was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The position before the missing part.
    pub from: u64,
    /// The position after the missing part.
    pub to: u64,
}
