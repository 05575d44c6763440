//! Pages of lines for clients: the lines after a position, and the last lines.

use std::collections::VecDeque;
use std::io;

use super::cursor::{Cursor, Item, RawLine};
use super::listing::Listing;
use super::needle::Needle;
use super::record::{RECORD_MAX, Stream};
use crate::api::logs::{Line, Source};

/// The most text of one page, in bytes. It limits a response, however long the lines are.
pub(super) const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// How much of a log one request searches, in bytes. This takes only a moment, however rare the text is.
pub const SEARCH_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The largest block in which a tail is read, in bytes. The last block is read first.
pub(super) const SEARCH_BLOCK_BYTES: u64 = 512 * 1024;

/// The usual length of a record, in bytes.
const LINE_BYTES_USUAL: u64 = 128;

impl From<RawLine<'_>> for Line {
    fn from(raw: RawLine<'_>) -> Self {
        Self {
            id: raw.id,
            at: raw.head.map(|(at, _)| at),
            source: if raw.run_id.is_some() { Source::Pipeline } else { Source::Backend },
            stream: raw.head.and_then(|(_, stream)| stream.name()),
            run_id: raw.run_id,
            line: String::from_utf8_lossy(raw.text).into_owned(),
            partial: raw.goes_on,
        }
    }
}

/// Lines in order, and the position from which to continue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The `since` of the next page.
    pub next: u64,
    /// The position at which the kept log begins. In a tail with a search, the position to which the search went back.
    pub first: u64,
    /// The number of bytes that are missing right before the first of these lines. A page ends where other bytes are missing.
    pub gone: u64,
    /// The lines, oldest first.
    pub lines: Vec<Line>,
    /// Whether the page has as many lines as were requested, or all lines.
    pub is_whole: bool,
    /// Whether everything after `since` was read, up to the current end. Always true for a tail.
    pub is_at_end: bool,
}

/// The part of a log to read.
#[derive(Clone, Copy, Debug)]
pub struct Part<'n> {
    /// Only lines with an id above this one.
    pub since: u64,
    /// Only lines with an id up to this one.
    pub up_to: u64,
    /// The end of the log, if nothing will be added to it.
    pub end: Option<u64>,
    /// Only lines that contain this text.
    pub needle: Option<&'n Needle>,
    /// Only lines of this stream.
    pub stream: Option<Stream>,
}

impl Part<'_> {
    /// Returns whether lines can be left out, so that a page may have to read more than it contains.
    pub fn is_searched(&self) -> bool {
        self.needle.is_some() || self.stream.is_some()
    }

    /// Returns whether the part includes a line.
    pub fn wants(&self, line: &RawLine<'_>) -> bool {
        line.is_of(self.stream) && self.needle.is_none_or(|needle| needle.is_in(line.text))
    }
}

/// Reads the first lines of a part, up to `limit`. With a search, reads at most [`SEARCH_BYTES_MAX`].
pub fn read_page(log: &dyn Listing, part: Part<'_>, limit: usize) -> io::Result<Page> {
    let mut cursor = Cursor::until(log, part.since, part.end);
    let mut page = Page { next: part.since, ..Page::default() };
    let mut bytes = 0;
    // A hole counts for the page only before the first line that was read.
    let mut has_looked = false;
    while page.lines.len() < limit && bytes < PAGE_BYTES_MAX {
        if part.is_searched() && has_looked && page.next.saturating_sub(part.since + page.gone) >= SEARCH_BYTES_MAX {
            break;
        }
        match cursor.next()? {
            Some(Item::Line(line)) if line.id > part.up_to => {
                page.is_at_end = true;
                break;
            }
            Some(Item::Line(line)) => {
                has_looked = true;
                page.next = line.id;
                if part.wants(&line) {
                    bytes += line.text.len();
                    page.lines.push(line.into());
                }
            }
            Some(Item::Gone { from, to }) if !has_looked => {
                page.gone += to - from;
                page.next = to;
            }
            Some(Item::Gone { .. }) => break,
            None => {
                page.is_at_end = true;
                page.next = cursor.position();
                break;
            }
        }
    }
    page.is_whole = page.is_at_end || page.lines.len() >= limit;
    page.first = cursor.first()?;
    Ok(page)
}

/// Reads the last lines of a part, up to `limit`, but none from before a place where bytes are missing.
///
/// Reads blocks backward from the end, so that the cost grows with the lines, not with the log. With a search, reads at most
/// [`SEARCH_BYTES_MAX`]. `begin` is the position at which the log began, which tells how much is missing at its beginning.
pub fn read_last(log: &dyn Listing, part: Part<'_>, begin: u64, limit: usize) -> io::Result<Page> {
    let first = log.oldest()?.map(|segment| segment.start);
    let end = log.end()?.max(begin);
    let floor = first.unwrap_or(begin).max(part.since);
    let mut page = Page { next: end.min(part.up_to), is_at_end: true, ..Page::default() };
    if page.next <= floor {
        // No line of the part exists. Missing bytes are reported as in any page.
        return read_page(log, part, limit);
    }
    let mut found: VecDeque<Line> = VecDeque::new();
    let mut upper = page.next;
    // Without a search, a block has about the size of the requested lines, because nearly everything that is read is returned.
    let few = (limit as u64).saturating_mul(LINE_BYTES_USUAL).clamp(RECORD_MAX as u64, SEARCH_BLOCK_BYTES);
    let mut block_bytes = if part.is_searched() { SEARCH_BLOCK_BYTES } else { few };
    let (mut bytes, mut searched) = (0, 0);
    'blocks: while upper > floor && searched < SEARCH_BYTES_MAX {
        let mut lower = upper.saturating_sub(block_bytes).max(floor);
        if !part.is_searched() {
            lower = begin_of_last(log, limit - found.len(), lower, upper)?;
        }
        block_bytes = (block_bytes * 2).min(SEARCH_BLOCK_BYTES);
        searched += if part.is_searched() { upper - lower } else { 0 };
        let mut cursor = Cursor::until(log, lower, part.end);
        let mut block: VecDeque<(u64, Line)> = VecDeque::new();
        let (mut hole, mut last) = (None, lower);
        loop {
            match cursor.next()? {
                // A run may have reserved room for a loss mark after its last line. The end is after that room.
                None => {
                    last = cursor.position();
                    break;
                }
                // The later block has returned these, or they are beyond the requested part.
                Some(Item::Line(line)) if line.id > upper => break,
                Some(Item::Gone { to, .. }) if to > upper || to == part.up_to => break,
                Some(Item::Line(line)) => {
                    let line_begin = std::mem::replace(&mut last, line.id);
                    if part.wants(&line) {
                        block.push_back((line_begin, line.into()));
                    }
                    // More lines than requested, so the oldest is dropped.
                    if block.len() + found.len() > limit {
                        block.pop_front();
                    }
                }
                Some(Item::Gone { from, to }) => {
                    block.clear();
                    (hole, last) = (Some((from, to)), to);
                }
            }
        }
        if upper == page.next {
            // An unfinished record is not included: it may never be completed.
            page.next = last;
        }
        while let Some((line_begin, line)) = block.pop_back() {
            bytes += line.line.len();
            found.push_front(line);
            if found.len() >= limit || bytes >= PAGE_BYTES_MAX {
                page.first = line_begin;
                page.is_whole = found.len() >= limit;
                break 'blocks;
            }
        }
        if let Some((from, to)) = hole {
            (page.first, page.is_whole) = (to, true);
            page.gone = to - begin_of_hole(log, from, to, begin)?;
            break;
        }
        upper = lower;
        page.first = lower;
        if lower == floor {
            page.is_whole = true;
            page.gone = first.filter(|first| *first == floor).map_or(0, |first| first - begin);
        }
    }
    page.is_whole |= upper <= floor;
    page.first = match part.is_searched() {
        false => first.unwrap_or(0),
        true if upper <= floor => floor,
        true => page.first,
    };
    page.lines = found.into();
    Ok(page)
}

/// Returns the start of the last `segments` segments before `upper`, or `lower` if that is later. Each segment has at least one
/// line, so more need not be read.
fn begin_of_last(log: &dyn Listing, segments: usize, lower: u64, upper: u64) -> io::Result<u64> {
    let mut begin = log.holding(upper - 1)?;
    for _ in 1..segments {
        let Some(segment) = begin.as_ref().filter(|segment| segment.start > lower) else { break };
        begin = log.before(segment.place())?;
    }
    Ok(begin.filter(|segment| segment.start < upper).map_or(lower, |segment| segment.start.max(lower)))
}

/// Returns the start of a hole that was seen from `from` to `to`: the end of the segment before it, or the start of the damaged
/// frame.
fn begin_of_hole(log: &dyn Listing, from: u64, to: u64, begin: u64) -> io::Result<u64> {
    let Some(segment) = log.holding(from)?.filter(|segment| segment.start <= from) else { return Ok(begin.min(from)) };
    let end = segment.end()?;
    if end <= from {
        return Ok(end);
    }
    Ok(segment.open()?.map_or(from, |file| from.min(segment.start + file.damage_at(to - 1 - segment.start).start)))
}
