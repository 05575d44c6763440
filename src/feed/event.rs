//! What a stream hands out.

use std::io;

use super::position::Position;
use crate::api::events::{Gap, ProgressEvent};
use crate::log::Line;
use crate::pipeline::Progress;
use crate::store::EventRow;
use crate::supervisor::Snapshot;

/// An event.
#[derive(Debug)]
pub enum Event<'a> {
    /// The state, or the conditions, changed.
    State(&'a Snapshot),
    /// Something happened in a run.
    Run {
        /// The run.
        run_id: i64,
        /// What happened.
        event: EventRow,
    },
    /// A line of the log.
    Log(&'a Line),
    /// How far a run is.
    Progress(ProgressEvent<&'a Option<Progress>>),
    /// Lines that were removed.
    Gap(Gap),
}

/// Takes events.
pub trait Sink {
    /// Takes one. `position` is behind it; an event without one has no place in the stream, and a client that comes back does so with the
    /// position before.
    fn take(&mut self, position: Option<&Position>, event: &Event<'_>) -> io::Result<()>;

    /// Whether it wants no more lines for now.
    fn is_full(&self) -> bool;
}
