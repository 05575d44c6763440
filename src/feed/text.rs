//! The text of a stream: Server-Sent Events (HTML Standard, section 9.2).

use std::io::{self, Write};

use serde::Serialize;

use super::position::Position;
use crate::api::events::EventKind;

/// The approximate number of bytes of lines that are written before the state is read again.
const BYTES_AT_ONCE: usize = 128 * 1024;

/// The text that was not sent to a client yet.
#[derive(Debug, Default)]
pub struct EventText(pub Vec<u8>);

impl EventText {
    /// Adds an event. `position` is the position after it. An event without a position has no place in the stream: a client that
    /// reconnects sends the position of an earlier event.
    pub(super) fn add(&mut self, position: Option<&Position>, kind: EventKind, data: &impl Serialize) -> io::Result<()> {
        if let Some(position) = position {
            writeln!(self.0, "id: {position}")?;
        }
        write!(self.0, "event: {kind}\ndata: ")?;
        // On one line, because a line break in the JSON would end the data.
        serde_json::to_writer(&mut self.0, data)?;
        self.0.extend_from_slice(b"\n\n");
        Ok(())
    }

    /// Returns whether the text is too long for more lines.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= BYTES_AT_ONCE
    }
}
