//! What a stream hands out.

use std::io;

use super::position::Position;
use crate::api::events::{Gap, ProgressEvent, RunEvent};
use crate::api::logs::Line;
use crate::api::pipeline::Pipeline;
use crate::pipeline::Progress;

/// An event.
#[derive(Debug)]
pub enum Event<'a> {
    /// The state, or the conditions, changed.
    State(&'a Pipeline),
    /// Something happened in a run.
    Run(&'a RunEvent),
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
