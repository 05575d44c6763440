//! What a run said, taken out of its records: the bytes as the pipeline wrote them, of both streams in the order in which they came, or of one.
//!
//! Only the last line of a stream can differ: it has a newline at its end, whether it came with one or not. What is missing is a line that
//! says so.

use std::io::{self, Read};

use super::cursor::{Cursor, Item};
use super::listing::RunLog;
use super::record::{Stream, push_record};
use super::text::{RunText, missing_mark, removed};

/// How much is put together at a time, in bytes.
const PIECE_BYTES: usize = 16 * 1024;

/// How much of the log is passed over at most in one call, in bytes: whoever reads checks in between whether anybody still wants it.
const PASSED_BYTES_MAX: u64 = 1024 * 1024;

/// How it is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Whole records, with their times and marks.
    pub has_heads: bool,
    /// Of this stream only.
    pub stream: Option<Stream>,
}

/// Reads what was said, from the beginning on. Reading is interrupted ([`io::ErrorKind::Interrupted`]) where nothing of a long part is wanted,
/// and can go on.
#[derive(Debug)]
pub struct Said {
    cursor: Cursor<Box<RunLog>>,
    begin: u64,
    up_to: u64,
    form: Form,
    out: Vec<u8>,
    out_at: usize,
    /// Whether the last line handed out goes on.
    is_line_open: bool,
}

impl Said {
    /// Of a run's log as it was looked at.
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

    /// Puts the next piece together, which is empty at the end.
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
                        // Damage belongs to nobody: everybody gets it.
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
                    // What comes behind the end is not of this moment.
                    let to = to.min(self.up_to);
                    if std::mem::take(&mut self.is_line_open) {
                        self.out.push(b'\n');
                    }
                    self.out.extend_from_slice(missing_mark(from, to, self.begin).as_bytes());
                }
                // It was there.
                None => return Err(removed(&"the end of a log")),
            }
        }
        // Of one that was killed, or is live, the last line may have been cut off where it was to go on.
        if self.cursor.position() >= self.up_to && std::mem::take(&mut self.is_line_open) {
            self.out.push(b'\n');
        }
        Ok(())
    }
}

impl Read for Said {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.out_at == self.out.len() {
            self.fill()?;
        }
        let count = (&self.out[self.out_at..]).read(buffer)?;
        self.out_at += count;
        Ok(count)
    }
}
