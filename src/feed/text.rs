//! The text of a stream: Server-Sent Events (HTML, section 9.2).

use std::io::{self, Write};

use serde::Serialize;

use super::position::Position;
use crate::api::events::EventKind;

/// How many bytes of lines, about, are written before the state is read again.
const BYTES_AT_ONCE: usize = 128 * 1024;

/// What a client has not been sent yet.
#[derive(Debug, Default)]
pub struct EventText(pub Vec<u8>);

impl EventText {
    /// Adds an event. `position` is behind it; an event without one has no place in the stream, and a client that comes back does so with
    /// the position before.
    pub(super) fn add(&mut self, position: Option<&Position>, kind: EventKind, data: &impl Serialize) -> io::Result<()> {
        if let Some(position) = position {
            writeln!(self.0, "id: {position}")?;
        }
        write!(self.0, "event: {kind}\ndata: ")?;
        // JSON on one line: a line break within it would end the data.
        serde_json::to_writer(&mut self.0, data)?;
        self.0.extend_from_slice(b"\n\n");
        Ok(())
    }

    /// Whether it takes no more lines for now.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= BYTES_AT_ONCE
    }
}
