//! What a run said, taken out of its records: the bytes as the pipeline wrote them, of both streams in the order in which they came, or of one.
//!
//! Only the last line of a stream can differ: it has a newline at its end, whether it came with one or not. What is missing is a line that
//! says so. How long it is one knows only after reading all of it.

use std::io::{self, Read};
use std::ops::Range;

use super::cursor::{Cursor, Item};
use super::listing::RunLog;
use super::record::{Stream, push_record};
use super::text::{RunText, missing_mark, removed};

/// How much is put together at a time, in bytes.
const PIECE_BYTES: usize = 16 * 1024;

/// How far one has to read to get to any place after it was counted, in bytes.
const MILESTONE_BYTES: u64 = 4 * 1024 * 1024;

/// How much of the log is read at a time at most, in bytes, however little of it is wanted: a moment's work.
const STEP_BYTES: u64 = 4 * 1024 * 1024;

/// How it is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Whole records, with their times and marks.
    pub has_heads: bool,
    /// Of this stream only.
    pub stream: Option<Stream>,
}

/// A place in it from which to read on.
#[derive(Clone, Copy, Debug)]
struct Milestone {
    /// What is said up to there, in bytes.
    len: u64,
    /// The position in the log.
    position: u64,
    is_line_open: bool,
}

/// How long it is, and what was missing.
#[derive(Debug)]
pub struct Counted {
    len: u64,
    milestones: Vec<Milestone>,
    missing: Vec<(u64, u64)>,
}

impl Counted {
    /// All of it, in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Reads what was said, from the beginning on.
#[derive(Debug)]
pub struct Said {
    cursor: Cursor<RunLog>,
    begin: u64,
    up_to: u64,
    form: Form,
    out: Vec<u8>,
    out_at: usize,
    /// Whether the last line handed out goes on.
    is_line_open: bool,
    /// What is missing, as far as it was read; what else may be is not part of what was promised.
    missing: Vec<(u64, u64)>,
    is_promised: bool,
}

impl Said {
    /// Of a run's log as it was looked at.
    pub fn new(text: &RunText, form: Form) -> Self {
        Self {
            cursor: Cursor::until(text.log.clone(), text.begin, text.end),
            begin: text.begin,
            up_to: text.up_to,
            form,
            out: Vec::new(),
            out_at: 0,
            is_line_open: false,
            missing: Vec::new(),
            is_promised: false,
        }
    }

    /// Reads all of it, to know how long it is. `None` where `is_left` says meanwhile that nobody wants to know it any more.
    pub fn count(text: &RunText, form: Form, is_left: impl Fn() -> bool) -> io::Result<Option<Counted>> {
        let mut said = Self::new(text, form);
        let (mut len, mut milestones) = (0, Vec::new());
        let (mut passed, mut looked_at) = (0, text.begin);
        while said.fill()? {
            if said.cursor.position() - looked_at >= STEP_BYTES {
                looked_at = said.cursor.position();
                if is_left() {
                    return Ok(None);
                }
            }
            len += said.out.len() as u64;
            if len - passed >= MILESTONE_BYTES {
                passed = len;
                milestones.push(Milestone { len, position: said.cursor.position(), is_line_open: said.is_line_open });
            }
        }
        Ok(Some(Counted { len, milestones, missing: said.missing }))
    }

    /// A range of what was counted. Fails where it is not the same any more.
    pub fn range(text: &RunText, form: Form, counted: Counted, range: &Range<u64>) -> SaidRange {
        let mut said = Self::new(text, form);
        let before = counted.milestones.partition_point(|milestone| milestone.len <= range.start);
        let mut skip = range.start;
        if let Some(milestone) = before.checked_sub(1).and_then(|n| counted.milestones.get(n)) {
            said.cursor = Cursor::until(text.log.clone(), milestone.position, text.end);
            said.is_line_open = milestone.is_line_open;
            skip -= milestone.len;
        }
        (said.missing, said.is_promised) = (counted.missing, true);
        SaidRange { said, skip, left: range.end - range.start }
    }

    /// Puts the next piece together, which has nothing in it where a step of the log had nothing of this form; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        self.out.clear();
        self.out_at = 0;
        let step_end = self.up_to.min(self.cursor.position().saturating_add(STEP_BYTES));
        while self.out.len() < PIECE_BYTES && self.cursor.position() < step_end {
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
                    if !self.is_promised {
                        self.missing.push((from, to));
                    } else if !self.missing.contains(&(from, to)) {
                        return Err(removed(&"part of a log"));
                    }
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
        Ok(!self.out.is_empty() || self.cursor.position() < self.up_to)
    }
}

impl Read for Said {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.out_at == self.out.len() {
            if !self.fill()? {
                return Ok(0);
            }
        }
        let count = (&self.out[self.out_at..]).read(buffer)?;
        self.out_at += count;
        Ok(count)
    }
}

/// Reads a range of it.
#[derive(Debug)]
pub struct SaidRange {
    said: Said,
    /// How much is to be left out yet, and how much to be handed out, in bytes.
    skip: u64,
    left: u64,
}

impl Read for SaidRange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let rest = self.said.out.len() - self.said.out_at;
            if rest == 0 {
                if self.left == 0 || !self.said.fill()? {
                    return Ok(0);
                }
            } else if self.skip > 0 {
                let skipped = rest.min(usize::try_from(self.skip).unwrap_or(rest));
                self.said.out_at += skipped;
                self.skip -= skipped as u64;
            } else {
                let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                let count = self.said.read(&mut buffer[..wanted])?;
                self.left -= count as u64;
                return Ok(count);
            }
        }
    }
}
