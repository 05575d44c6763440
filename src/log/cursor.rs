//! A reader's position in a log. It goes forward line by line, from segment to segment and from run to run, and reports missing
//! bytes.
//!
//! At the end of the log the cursor returns nothing, and the next call continues from there: a record counts once it has its
//! newline. Bytes that are removed during reading are reported as missing, exactly between the lines before and after them.

use std::io;
use std::ops::{Deref, Range};

use super::listing::Listing;
use super::record::{RECORD_MAX, Stream, parse_record};
use super::segment::{Place, Segment, SegmentFile};
use super::writer::LOSS_MARK_BYTES_MAX;
use crate::clock::Timestamp;

/// The number of bytes that are read at once to find lines.
const READ_BYTES: usize = 64 * 1024;

/// How often the log is listed again because a listed segment is missing. Each time, another file was removed between the listing
/// and the opening.
pub(super) const ATTEMPTS_MAX: usize = 1000;

/// The next item of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A line, or the part of a line that one record holds.
    Line(RawLine<'a>),
    /// The bytes between two positions are missing.
    Gone {
        /// The position at which they began.
        from: u64,
        /// The position at which the log continues.
        to: u64,
    },
}

/// A record, or damaged bytes in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawLine<'a> {
    /// The position after the last byte. Used as `since`, it continues after this line.
    pub id: u64,
    /// The run that printed the line; `None` for the server's own log.
    pub run_id: Option<i64>,
    /// The time and the stream; `None` if the line is damaged.
    pub head: Option<(Timestamp, Stream)>,
    /// Whether the text continues in the stream's next record.
    pub goes_on: bool,
    /// The bytes as they were printed. Of a damaged line, everything that is left.
    pub text: &'a [u8],
}

impl RawLine<'_> {
    /// Returns whether the line may belong to this stream. A damaged line may belong to either.
    pub(super) fn is_of(&self, wanted: Option<Stream>) -> bool {
        self.head.is_none_or(|(_, stream)| wanted.is_none_or(|wanted| wanted == stream))
    }
}

/// A reader's position in a log.
#[derive(Debug)]
pub struct Cursor<L> {
    log: L,
    /// The position up to which everything was returned or reported as missing.
    position: u64,
    open: Option<Open>,
    /// The segment that was last read to its end, until the next one is open.
    done: Option<Place>,
    /// The end of the log, if nothing will be added to it.
    end: Option<u64>,
}

#[derive(Debug)]
struct Open {
    segment: Segment,
    file: SegmentFile,
    /// `buffer[used..]` was read but not taken yet, and begins at position `at`.
    buffer: Vec<u8>,
    used: usize,
    at: u64,
    /// The index up to which `buffer` has no newline.
    searched: usize,
    /// The range in `buffer` of the line that was taken last.
    line: Range<usize>,
    /// Whether nothing will be added to the segment, because another one follows or the log has ended.
    is_finished: bool,
}

impl<L: Deref<Target: Listing>> Cursor<L> {
    /// Creates a cursor at position `since`: it begins with the first line whose id is larger. Any number is valid.
    pub fn new(log: L, since: u64) -> Self {
        Self::until(log, since, None)
    }

    /// Creates the same cursor for a log whose end may be known. With `end`, nothing will be added to the log. Then a record that
    /// was torn off at the end is also a line, and bytes that are missing there are reported.
    pub fn until(log: L, since: u64, end: Option<u64>) -> Self {
        Self { log, position: since, open: None, done: None, end }
    }

    /// Returns the position up to which everything was returned or reported as missing. Used as `since`, it continues from here.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Returns the position at which the kept log begins. For an empty log this is its end, or 0 if the end is not known.
    pub fn first(&self) -> io::Result<u64> {
        Ok(self.log.oldest()?.map_or(self.end.unwrap_or(0), |segment| segment.start))
    }

    /// Returns the next item; `None` at the current end of the log. It can be called again at any time.
    #[expect(clippy::should_implement_trait, reason = "what it hands out is borrowed from it, which no iterator can do")]
    pub fn next(&mut self) -> io::Result<Option<Item<'_>>> {
        loop {
            let Some(open) = &mut self.open else {
                match self.find()? {
                    None => return self.missing_end(),
                    Some(hole) if hole.is_empty() => continue,
                    Some(hole) => return Ok(Some(Item::Gone { from: hole.start, to: hole.end })),
                }
            };
            match open.read_line() {
                Ok(true) => {}
                Ok(false) if open.is_finished => {
                    // Nothing is added to a segment that has a successor. Bytes without a newline are a record during which the
                    // writer was killed.
                    if !open.take_rest() {
                        self.done = Some(open.segment.place());
                        self.open = None;
                        continue;
                    }
                }
                Ok(false) => {
                    // The check for a successor comes before the last read of this segment, so that this read finds everything
                    // that was added in between.
                    if self.end.is_none() && self.log.after(open.segment.place())?.is_none() {
                        return Ok(None);
                    }
                    open.is_finished = true;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    ::log::warn!("{}: {error}", open.segment.path.display());
                    open.skip_damage();
                    let (from, to) = (self.position, open.at);
                    if to > from {
                        self.position = to;
                        return Ok(Some(Item::Gone { from, to }));
                    }
                    continue;
                }
                Err(error) => return Err(error),
            }
            // A cursor that begins in the middle of a line can start with bytes that were already returned.
            if open.at > self.position {
                self.position = open.at;
                break;
            }
        }
        Ok(self.open.as_ref().map(|open| Item::Line(open.taken())))
    }

    /// Returns the bytes that are missing between the last segment and the log's end, if that end is known.
    fn missing_end(&mut self) -> io::Result<Option<Item<'static>>> {
        let from = self.position;
        let Some(to) = self.end.filter(|&end| end > from) else { return Ok(None) };
        // After a run's last line there may be room that was reserved for a loss mark. A log without any line has no such room.
        let is_hole = to - from > LOSS_MARK_BYTES_MAX || self.log.oldest()?.is_none();
        self.position = to;
        Ok(is_hole.then_some(Item::Gone { from, to }))
    }

    /// Opens the segment in which the log continues, if there is one. Returns the range that is missing before it.
    fn find(&mut self) -> io::Result<Option<Range<u64>>> {
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                self.log.look_again();
            }
            let found = match self.done {
                Some(done) => self.log.after(done)?,
                None => self.log.holding(self.position)?,
            };
            let Some(segment) = found else { return Ok(None) };
            // A segment that was listed but cannot be found was packed or removed a moment ago. Only bytes that are no longer
            // listed are missing.
            let Some(mut file) = segment.open()? else { continue };
            let begin = segment.start + line_start_before(&mut file, self.position.saturating_sub(segment.start))?;
            let from = self.position;
            self.position = from.max(segment.start);
            let done = self.done.take();
            let to = segment.start;
            let is_hole = to > from && is_hole(done, &segment, to - from);
            self.open = Some(Open::new(segment, file, begin));
            return Ok(Some(from..if is_hole { to } else { from }));
        }
        Err(files_change_too_fast())
    }
}

pub(super) fn files_change_too_fast() -> io::Error {
    io::Error::other("the log's files change faster than they can be opened")
}

/// Returns whether `bytes` before a segment are missing. After a run's last line there may be room that was reserved for a loss
/// mark.
fn is_hole(done: Option<Place>, segment: &Segment, bytes: u64) -> bool {
    let follows_a_run = done.is_some_and(|(run_id, _)| run_id != segment.run_id);
    !follows_a_run || bytes > LOSS_MARK_BYTES_MAX
}

impl Open {
    fn new(segment: Segment, file: SegmentFile, at: u64) -> Self {
        Self { segment, file, buffer: Vec::new(), used: 0, at, searched: 0, line: 0..0, is_finished: false }
    }

    /// Takes the next line. Returns whether there was a whole one.
    fn read_line(&mut self) -> io::Result<bool> {
        loop {
            let from = self.searched.max(self.used);
            if let Some(len) = memchr::memchr(b'\n', &self.buffer[from..]) {
                self.take(from + len - self.used, 1);
                return Ok(true);
            }
            self.buffer.drain(..self.used);
            (self.used, self.searched) = (0, self.buffer.len());
            if self.buffer.len() >= RECORD_MAX {
                // No record is this long, so another program wrote here. The bytes are returned in pieces.
                self.take(RECORD_MAX, 0);
                return Ok(true);
            }
            let kept = self.buffer.len();
            self.buffer.resize(kept + READ_BYTES, 0);
            let read = self.file.read_at(&mut self.buffer[kept..], self.at - self.segment.start + kept as u64);
            self.buffer.truncate(kept + read.as_ref().map_or(0, |&count| count));
            if read? == 0 {
                return Ok(false);
            }
        }
    }

    /// Takes the rest, which has no newline. Returns whether there was any.
    fn take_rest(&mut self) -> bool {
        let len = self.buffer.len() - self.used;
        self.take(len, 0);
        len > 0
    }

    fn take(&mut self, len: usize, newline: usize) {
        self.line = self.used..self.used + len;
        self.used += len + newline;
        self.at += (len + newline) as u64;
    }

    fn taken(&self) -> RawLine<'_> {
        let line = &self.buffer[self.line.clone()];
        let (id, run_id) = (self.at, self.segment.run_id);
        match parse_record(line) {
            Some(record) => {
                RawLine { id, run_id, head: Some((record.at, record.stream)), goes_on: record.goes_on, text: record.text }
            }
            // Damage is shown, not hidden.
            None => RawLine { id, run_id, head: None, goes_on: false, text: line },
        }
    }

    /// Skips the damaged bytes, and the line that they interrupt.
    fn skip_damage(&mut self) {
        let offset = self.at - self.segment.start + (self.buffer.len() - self.used) as u64;
        self.at = self.segment.start + self.file.damage_at(offset).end;
        self.buffer.clear();
        (self.used, self.searched, self.line) = (0, 0, 0..0);
    }
}

/// Returns the beginning of the line that contains the byte at `offset`, so that any number from a client is a valid cursor.
fn line_start_before(file: &mut SegmentFile, offset: u64) -> io::Result<u64> {
    let offset = offset.min(file.len()?);
    let start = offset.saturating_sub(RECORD_MAX as u64);
    let mut before = vec![0; usize::try_from(offset - start).expect("at most a record")];
    match file.read_exact_at(&mut before, start) {
        Ok(()) => Ok(memchr::memrchr(b'\n', &before).map_or(start, |newline| start + newline as u64 + 1)),
        // The next read from here finds and reports the damage.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(offset),
        Err(error) => Err(error),
    }
}
