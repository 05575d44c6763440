//! The output of a run, taken out of its records: the bytes as the pipeline wrote them, of both streams in their order, or of one
//! stream.
//!
//! Only the last line of a stream can differ: it ends with a newline, even if the pipeline wrote none. A line in the text says
//! where bytes are missing.

use std::io::{self, Read};

use super::cursor::{Cursor, Item};
use super::listing::RunLog;
use super::record::{Stream, push_record};
use super::text::{RunText, missing_mark, removed};

/// The size of a piece that is put together at a time, in bytes.
const PIECE_BYTES: usize = 16 * 1024;

/// How much of the log one call skips at most, in bytes. Between calls, the caller checks whether the client still wants the
/// text.
const PASSED_BYTES_MAX: u64 = 1024 * 1024;

/// The form of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Whether the text consists of whole records, with their times and marks.
    pub has_heads: bool,
    /// Only this stream.
    pub stream: Option<Stream>,
}

/// A reader of the output, from its beginning. If nothing of a long part is wanted, the read is interrupted
/// ([`io::ErrorKind::Interrupted`]) and can be continued.
#[derive(Debug)]
pub struct RunOutput {
    cursor: Cursor<Box<RunLog>>,
    begin: u64,
    up_to: u64,
    form: Form,
    out: Vec<u8>,
    out_at: usize,
    /// Whether the last line that was returned continues.
    is_line_open: bool,
}

impl RunOutput {
    /// Creates a reader of the output in `text`, which is a run's log at one moment.
    pub fn new(text: &RunText, form: Form) -> Self {
        Self {
            cursor: Cursor::until(Box::new(text.log.clone()), text.begin, text.end),
            begin: text.begin,
            up_to: text.up_to,
            form,
            out: Vec::new(),
            out_at: 0,
            is_line_open: false,
        }
    }

    /// Puts the next piece together. The piece is empty at the end.
    fn fill(&mut self) -> io::Result<()> {
        self.out.clear();
        self.out_at = 0;
        let passed_to = self.cursor.position() + PASSED_BYTES_MAX;
        while self.out.len() < PIECE_BYTES && self.cursor.position() < self.up_to {
            if self.cursor.position() >= passed_to {
                if self.out.is_empty() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                return Ok(());
            }
            match self.cursor.next()? {
                Some(Item::Line(line)) => {
                    let Some((at, stream)) = line.head else {
                        // Damaged bytes belong to neither stream, so they are part of both.
                        self.out.extend_from_slice(line.text);
                        self.out.push(b'\n');
                        self.is_line_open = false;
                        continue;
                    };
                    if self.form.stream.is_some_and(|wanted| wanted != stream) {
                        continue;
                    }
                    if self.form.has_heads {
                        push_record(&mut self.out, at.to_string().as_bytes(), stream, line.goes_on, line.text);
                        continue;
                    }
                    self.out.extend_from_slice(line.text);
                    if !line.goes_on {
                        self.out.push(b'\n');
                    }
                    self.is_line_open = line.goes_on;
                }
                Some(Item::Gone { from, to }) => {
                    // Bytes after the end of the text belong to a later moment.
                    let to = to.min(self.up_to);
                    if std::mem::take(&mut self.is_line_open) {
                        self.out.push(b'\n');
                    }
                    self.out.extend_from_slice(missing_mark(from, to, self.begin).as_bytes());
                }
                // These bytes existed when the log was listed.
                None => return Err(removed(&"the end of a log")),
            }
        }
        // If the run was killed or is live, its last line may have been cut off before its continuation.
        if self.cursor.position() >= self.up_to && std::mem::take(&mut self.is_line_open) {
            self.out.push(b'\n');
        }
        Ok(())
    }
}

impl Read for RunOutput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.out_at == self.out.len() {
            self.fill()?;
        }
        let count = (&self.out[self.out_at..]).read(buffer)?;
        self.out_at += count;
        Ok(count)
    }
}
