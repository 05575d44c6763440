//! A reader's place in a log: goes forward line by line, from segment to segment and from run to run, and says what is gone.
//!
//! At the end of what is there it says so, and goes on from there when it is asked again: a record counts once its newline is there. What
//! is removed while it is read is told as gone, in bytes, exactly between the two lines between which it was.

use std::io;
use std::ops::{Deref, Range};

use super::listing::Listing;
use super::record::{RECORD_MAX, Stream, parse_record};
use super::segment::{Place, Segment, SegmentFile};
use super::writer::LOSS_MARK_BYTES_MAX;
use crate::clock::Timestamp;

/// What is read at once while lines are looked for, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// How often what is listed and not there is listed again. Each time somebody has removed another file in the moment between.
pub(super) const ATTEMPTS_MAX: usize = 1000;

/// What comes next in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A line, or the part of one that a record holds.
    Line(RawLine<'a>),
    /// The bytes from one position to another are not there any more.
    Gone {
        /// Where they began.
        from: u64,
        /// Where what follows begins.
        to: u64,
    },
}

/// A record, or what stands in the place of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawLine<'a> {
    /// The position after its last byte; the cursor that goes on behind it.
    pub id: u64,
    /// The run that said it; `None` for the server's own.
    pub run_id: Option<i64>,
    /// When it came, and on which stream; `None` of a line that is damaged.
    pub head: Option<(Timestamp, Stream)>,
    /// Whether the text goes on in the stream's next record.
    pub goes_on: bool,
    /// The bytes as they came; of a damaged line all that is there.
    pub text: &'a [u8],
}

impl RawLine<'_> {
    /// Whether it may be of this stream. A damaged line may be of either.
    pub(super) fn is_of(&self, wanted: Option<Stream>) -> bool {
        self.head.is_none_or(|(_, stream)| wanted.is_none_or(|wanted| wanted == stream))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Cursor<L> {
    log: L,
    /// Everything up to here was handed out or told to be gone.
    position: u64,
    open: Option<Open>,
    /// The segment that was read to its end last, until the next is open.
    done: Option<Place>,
    /// Where the log ends, if nothing is added to it any more.
    end: Option<u64>,
}

#[derive(Debug)]
struct Open {
    segment: Segment,
    file: SegmentFile,
    /// What was read and not taken: `buffer[used..]`, which begins at position `at`.
    buffer: Vec<u8>,
    used: usize,
    at: u64,
    /// Up to where no newline is in `buffer`.
    searched: usize,
    /// Where in `buffer` the line is that was taken last.
    line: Range<usize>,
    /// Whether nothing is added to it any more: another one follows.
    is_finished: bool,
}

impl<L: Deref<Target: Listing>> Cursor<L> {
    /// Begins behind position `since`: with the first line whose id is larger. Any number is a good one.
    pub fn new(log: L, since: u64) -> Self {
        Self::until(log, since, None)
    }

    /// The same over a log that may be known to end at `end`: nothing is added to it any more. Then what was torn off at its end is a line, too, and what
    /// is missing there is told.
    pub fn until(log: L, since: u64, end: Option<u64>) -> Self {
        Self { log, position: since, open: None, done: None, end }
    }

    /// The position behind all that was handed out or told to be gone: the `since` that goes on from here.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Where the kept log begins; for an empty log, where it ends, or 0 if that is not known.
    pub fn first(&self) -> io::Result<u64> {
        Ok(self.log.oldest()?.map_or(self.end.unwrap_or(0), |segment| segment.start))
    }

    /// What comes next; `None` at the end of what is there now. Can be asked again for ever.
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
                    // In a segment that has a successor nothing is written any more: what has no newline is a record that its writer was
                    // killed in.
                    if !open.take_rest() {
                        self.done = Some(open.segment.place());
                        self.open = None;
                        continue;
                    }
                }
                Ok(false) => {
                    // Whether another one follows is looked at before the last look at this one: what was added between is found by it.
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
            // What a cursor in the middle of a line begins with may have been handed out.
            if open.at > self.position {
                self.position = open.at;
                break;
            }
        }
        Ok(self.open.as_ref().map(|open| Item::Line(open.taken())))
    }

    /// What is not there any more between the last segment and the log's end, where that is known.
    fn missing_end(&mut self) -> io::Result<Option<Item<'static>>> {
        let from = self.position;
        let Some(to) = self.end.filter(|&end| end > from) else { return Ok(None) };
        // Behind a run's last line there may be room that was left for the mark of a loss; where no line is, it is no such room.
        let is_hole = to - from > LOSS_MARK_BYTES_MAX || self.log.oldest()?.is_none();
        self.position = to;
        Ok(is_hole.then_some(Item::Gone { from, to }))
    }

    /// Opens the segment in which it goes on, if there is one. Returns what is missing in front of it.
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
            // Listed, and not there: it was packed or removed a moment ago. Only what is not listed any more is gone.
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

/// Whether `bytes` in front of a segment are missing. Behind a run's last line there may be room that was left for the mark of a loss.
fn is_hole(done: Option<Place>, segment: &Segment, bytes: u64) -> bool {
    let follows_a_run = done.is_some_and(|(run_id, _)| run_id != segment.run_id);
    !follows_a_run || bytes > LOSS_MARK_BYTES_MAX
}

impl Open {
    fn new(segment: Segment, file: SegmentFile, at: u64) -> Self {
        Self { segment, file, buffer: Vec::new(), used: 0, at, searched: 0, line: 0..0, is_finished: false }
    }

    /// Takes the next line; whether there is a whole one.
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
                // No record is that long: something else was written here. It is shown in pieces.
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

    /// Takes what has no newline; whether there is anything.
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

    /// Leaves out what is damaged, and the line that it breaks off.
    fn skip_damage(&mut self) {
        let offset = self.at - self.segment.start + (self.buffer.len() - self.used) as u64;
        self.at = self.segment.start + self.file.damage_at(offset).end;
        self.buffer.clear();
        (self.used, self.searched, self.line) = (0, 0, 0..0);
    }
}

/// The beginning of the line that holds the byte at `offset`, so that any number a client makes up is a good cursor.
fn line_start_before(file: &mut SegmentFile, offset: u64) -> io::Result<u64> {
    let offset = offset.min(file.len()?);
    let start = offset.saturating_sub(RECORD_MAX as u64);
    let mut before = vec![0; usize::try_from(offset - start).expect("at most a record")];
    match file.read_exact_at(&mut before, start) {
        Ok(()) => Ok(memchr::memrchr(b'\n', &before).map_or(start, |newline| start + newline as u64 + 1)),
        // Found again, and told, by who reads on from here.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(offset),
        Err(error) => Err(error),
    }
}
