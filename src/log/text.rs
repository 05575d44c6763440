//! The log of one run as text: its records as they stand in the segments.
//!
//! What the text is, is decided once, when it is looked at; to be read it takes a descriptor and the frame that is being read. What is missing
//! is a line that says so. Damage is not found by looking, so it is told in as many bytes as it takes, and all else stays where it was.

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
    /// Where in the log the run begins, and where, if nothing is added any more, it ends.
    pub(super) begin: u64,
    pub(super) end: Option<u64>,
    /// The position up to which there is text.
    pub(super) up_to: u64,
    pieces: Vec<Piece>,
    len: u64,
    gone: u64,
    missing: u64,
}

#[derive(Debug)]
struct Piece {
    /// Where in the text it begins.
    at: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    /// A line in the place of what is missing, or the end of one.
    Mark(String),
    /// A segment up to that length.
    Records(Segment, u64),
}

impl RunText {
    /// Looks at the log of a run that begins at `begin` and, if nothing is added any more, ends at `end`. Of one that goes on it is all that is whole
    /// now.
    pub fn look(log: &RunLog, begin: u64, end: Option<u64>) -> io::Result<Self> {
        for _ in 0..ATTEMPTS_MAX {
            let listed = log.segments()?;
            let mut text = Self { log: log.clone(), begin, end, up_to: begin, pieces: Vec::new(), len: 0, gone: 0, missing: 0 };
            // One that is listed can have been packed or removed a moment ago.
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
                // A record that its writer was killed in: the line ends here even so.
                self.put(What::Mark("\n".to_owned()), 1);
            }
            self.up_to = self.up_to.max(segment.start + len);
        }
        // Behind the last line there may be room that was left for the mark of a loss.
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

    /// Whether there is nothing, not even a file: then it was removed, since a run that has lived leaves one.
    pub fn has_nothing(&self) -> bool {
        self.pieces.is_empty() && self.log.segments().is_ok_and(|segments| segments.is_empty())
    }

    /// The text's length, in bytes.
    pub fn byte_count(&self) -> u64 {
        self.len
    }

    /// How many bytes of the log are not there any more in front of what is kept.
    pub fn gone(&self) -> u64 {
        self.gone
    }

    /// What tells it from the same run's text at other times: where it ends, and how much of it is missing, which only grows.
    pub fn version(&self) -> (u64, u64) {
        (self.up_to, self.missing)
    }

    /// Reads it.
    pub fn into_reader(self) -> TextReader {
        TextReader { text: self, at: 0, open: None }
    }
}

/// The line that stands for what is missing between two positions of a run that begins at `begin`.
pub(super) fn missing_mark(from: u64, to: u64, begin: u64) -> String {
    let bytes = to - from;
    if from == begin {
        format!("[autoappdev: the first {bytes} bytes of this log were removed]\n")
    } else {
        format!("[autoappdev: {bytes} bytes of this log are missing here]\n")
    }
}

/// The length without a record in the making.
fn whole_records(file: &mut SegmentFile, len: u64) -> io::Result<u64> {
    let from = len.saturating_sub(RECORD_MAX as u64);
    let mut last = vec![0; usize::try_from(len - from).expect("at most a record")];
    match file.read_exact_at(&mut last, from) {
        Ok(()) => Ok(memchr::memrchr(b'\n', &last).map_or(from, |newline| from + newline as u64 + 1)),
        // Told in its place.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(len),
        Err(error) => Err(error),
    }
}

/// Reads the text. Fails where what was there has been removed meanwhile: what is handed out is the text or nothing.
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

/// Opens a segment that was there. Packed meanwhile it is the same.
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
    io::Error::new(io::ErrorKind::NotFound, format!("{what} was removed while its text was sent"))
}

/// Writes what stands at `offset` in the place of damage that has this range: a line that says so, as long as the damage. Returns how much.
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
