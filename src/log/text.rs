//! The log of one run as text: its records as they are in the segments.
//!
//! The text is fixed once, when the log is listed. Reading it takes one descriptor and the current frame. A line in the text says
//! where bytes are missing. Listing does not find damage, so damaged bytes are replaced by a line of the same length, and
//! everything else stays where it was.

use std::io::{self, Read};
use std::ops::Range;

use super::cursor::{ATTEMPTS_MAX, files_change_too_fast};
use super::listing::{RunLog, SegmentList, ShortLog};
use super::record::RECORD_MAX;
use super::segment::{Segment, SegmentFile};
use super::writer::LOSS_MARK_BYTES_MAX;

/// A run's log at one moment.
#[derive(Debug)]
pub struct RunText {
    pub(super) log: RunLog,
    /// The position at which the run begins, and the position at which it ends, if nothing will be added.
    pub(super) begin: u64,
    pub(super) end: Option<u64>,
    /// The position at which the text ends.
    pub(super) up_to: u64,
    pieces: Vec<Piece>,
    len: u64,
    gone: u64,
    missing: u64,
}

#[derive(Debug)]
struct Piece {
    /// The offset of the piece in the text.
    at: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    /// A line in the place of missing bytes, or the end of a line.
    Mark(String),
    /// The beginning of a segment, of this length.
    Records(Segment, u64),
}

impl RunText {
    /// Lists the log of a run, and so fixes its text.
    ///
    /// The log begins at `begin` and, if nothing will be added, ends at `end`. Without an end, the text has all records that are
    /// complete now.
    pub fn look(log: &RunLog, begin: u64, end: Option<u64>) -> io::Result<Self> {
        for _ in 0..ATTEMPTS_MAX {
            let listed = log.segments()?;
            let mut text = Self { log: log.clone(), begin, end, up_to: begin, pieces: Vec::new(), len: 0, gone: 0, missing: 0 };
            // A listed segment can have been packed or removed a moment ago.
            if text.put_together(&listed)? {
                return Ok(text);
            }
        }
        Err(files_change_too_fast())
    }

    fn put_together(&mut self, segments: &SegmentList) -> io::Result<bool> {
        for (n, segment) in segments.iter().enumerate() {
            let Some(mut file) = segment.open()? else { return Ok(false) };
            let (all, is_last) = (file.len()?, n + 1 == segments.len());
            let whole = if is_last { whole_records(&mut file, all)? } else { all };
            let len = if self.end.is_none() { whole } else { all };
            self.put_missing(segment.start);
            if len > 0 {
                self.put(What::Records(segment.clone(), len), len);
            }
            if len > whole {
                // A record during which the writer was killed. Its line ends here anyway.
                self.put(What::Mark("\n".to_owned()), 1);
            }
            self.up_to = self.up_to.max(segment.start + len);
        }
        // After the last line there may be room that was reserved for a loss mark.
        if let Some(end) = self.end
            && (segments.is_empty() || end.saturating_sub(self.up_to) > LOSS_MARK_BYTES_MAX)
        {
            self.put_missing(end);
        }
        Ok(true)
    }

    fn put_missing(&mut self, to: u64) {
        if to > self.up_to {
            let mark = missing_mark(self.up_to, to, self.begin);
            let bytes = to - self.up_to;
            if self.up_to == self.begin {
                self.gone = bytes;
            }
            self.missing += bytes;
            let len = mark.len() as u64;
            self.put(What::Mark(mark), len);
            self.up_to = to;
        }
    }

    fn put(&mut self, what: What, len: u64) {
        self.pieces.push(Piece { at: self.len, what });
        self.len += len;
    }

    /// Returns whether there is nothing, not even a file. Then the log was removed, because a run that has lived leaves a file.
    pub fn has_nothing(&self) -> bool {
        self.pieces.is_empty() && self.log.segments().is_ok_and(|segments| segments.is_empty())
    }

    /// Returns the length of the text, in bytes.
    pub fn byte_count(&self) -> u64 {
        self.len
    }

    /// Returns how many bytes of the log are missing before the kept part.
    pub fn gone(&self) -> u64 {
        self.gone
    }

    /// Returns the version, which differs from that of the same run's text at other times: the end of the text, and the number of
    /// missing bytes, which only grows.
    pub fn version(&self) -> (u64, u64) {
        (self.up_to, self.missing)
    }

    /// Returns a reader of the text.
    pub fn into_reader(self) -> TextReader {
        TextReader { text: self, at: 0, open: None }
    }
}

/// Returns the line that stands for the missing bytes between two positions of a run that begins at `begin`.
pub(super) fn missing_mark(from: u64, to: u64, begin: u64) -> String {
    let bytes = to - from;
    if from == begin {
        format!("[autoappdev: the first {bytes} bytes of this log were removed]\n")
    } else {
        format!("[autoappdev: {bytes} bytes of this log are missing here]\n")
    }
}

/// Returns the length without an unfinished record.
fn whole_records(file: &mut SegmentFile, len: u64) -> io::Result<u64> {
    let from = len.saturating_sub(RECORD_MAX as u64);
    let mut last = vec![0; usize::try_from(len - from).expect("at most a record")];
    match file.read_exact_at(&mut last, from) {
        Ok(()) => Ok(memchr::memrchr(b'\n', &last).map_or(from, |newline| from + newline as u64 + 1)),
        // The damage is reported in its place.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(len),
        Err(error) => Err(error),
    }
}

/// A reader of the text. It fails if a part was removed meanwhile, so that it never returns a different text.
#[derive(Debug)]
pub struct TextReader {
    text: RunText,
    at: u64,
    /// The piece that is being read, and its file.
    open: Option<(usize, SegmentFile)>,
}

impl Read for TextReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.text.len - self.at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        if wanted == 0 {
            return Ok(0);
        }
        let n = self.text.pieces.partition_point(|piece| piece.at <= self.at).saturating_sub(1);
        let Some(piece) = self.text.pieces.get(n) else { return Ok(0) };
        let within = self.at - piece.at;
        let count = match &piece.what {
            What::Mark(mark) => {
                let rest = mark.as_bytes().get(usize::try_from(within).expect("a line")..).unwrap_or_default();
                (&rest[..rest.len().min(wanted)]).read(buffer)?
            }
            What::Records(segment, len) => {
                let wanted = wanted.min(usize::try_from(len - within).unwrap_or(usize::MAX));
                if self.open.as_ref().is_none_or(|(open, _)| *open != n) {
                    self.open = Some((n, open_again(&self.text.log, segment)?));
                }
                let Some((_, file)) = &mut self.open else { return Ok(0) };
                match file.read_at(&mut buffer[..wanted], within) {
                    Ok(0) => return Err(removed(&segment.path.display())),
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        ::log::warn!("{}: {error}", segment.path.display());
                        let damage = file.damage_at(within);
                        put_damage_mark(&mut buffer[..wanted], within, &(damage.start..damage.end.min(*len)))
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        self.at += count as u64;
        Ok(count)
    }
}

/// Opens a segment that existed before. If it was packed meanwhile, it still has the same text.
fn open_again(log: &RunLog, segment: &Segment) -> io::Result<SegmentFile> {
    if let Some(file) = segment.open()? {
        return Ok(file);
    }
    for _ in 0..ATTEMPTS_MAX {
        let listed = log.segments()?;
        let Some(now) = listed.iter().find(|now| now.start == segment.start) else { break };
        if let Some(file) = now.open()? {
            return Ok(file);
        }
    }
    Err(removed(&segment.path.display()))
}

pub(super) fn removed(what: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{what} was removed while it was being sent"))
}

/// Writes the mark for damage of this range, from `offset` on: a line that says so, as long as the damage. Returns the number of
/// bytes written.
fn put_damage_mark(buffer: &mut [u8], offset: u64, damage: &Range<u64>) -> usize {
    let len = damage.end.saturating_sub(damage.start);
    let mark = format!("\n[autoappdev: {len} bytes of this log are damaged here]");
    let is_long_enough = len > mark.len() as u64;
    let mut count = 0;
    for (byte, at) in buffer.iter_mut().zip(offset - damage.start..len) {
        let of_mark = usize::try_from(at).ok().and_then(|at| mark.as_bytes().get(at)).filter(|_| is_long_enough);
        *byte = if at + 1 == len { b'\n' } else { *of_mark.unwrap_or(&b' ') };
        count += 1;
    }
    count
}
