//! The event stream: the words of its events, and their data.

use serde::{Deserialize, Serialize};

use super::query::{Kind, query};
use super::runs::Event;
use crate::pipeline::{Progress, Usage, words};

query! {
    /// The query of `GET /api/events`.
    EventsQuery {
        /// Begins with the lines of the log behind this id.
        since: u64 = Kind::Number(0, u64::MAX),
    }
}

words! {
    /// What an event of the stream is about.
    EventKind {
        /// The state: a [`super::pipeline::Pipeline`].
        State = "state",
        /// Something happened in a run: a [`RunEvent`].
        Run = "run",
        /// A line of the log: a [`super::logs::Line`].
        Log = "log",
        /// How far a run is: a [`ProgressEvent`].
        Progress = "progress",
        /// What a run uses: a [`UsageEvent`].
        Usage = "usage",
        /// Lines that were removed: a [`Gap`].
        Gap = "gap",
    }
}

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEvent {
    /// The run.
    pub run_id: i64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// How far the latest run is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressEvent<P = Option<Progress>> {
    /// The run.
    pub run_id: Option<i64>,
    /// What it says; none if it says nothing.
    pub progress: P,
}

/// What the latest run uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageEvent {
    /// The run.
    pub run_id: Option<i64>,
    /// What its processes use; none while it is paused or stopped, and before the first look.
    pub usage: Option<Usage>,
}

/// A part of the log that is missing and was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The position in front of it.
    pub from: u64,
    /// The position behind it.
    pub to: u64,
}
