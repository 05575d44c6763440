//! Pages of lines for clients: those after a position, and the last ones.

use std::collections::VecDeque;
use std::io;

use super::cursor::{Cursor, Item, RawLine};
use super::listing::Listing;
use super::needle::Needle;
use super::record::{RECORD_MAX, Stream};
use crate::api::logs::{Line, Source};

/// The most text that one page carries, in bytes: limits a reply, however long the lines are.
pub(super) const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// How much of a log one request searches, in bytes: a moment's work, however rare what it looks for is.
pub const SEARCH_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A tail is read in blocks of up to so many bytes, the last one first.
pub(super) const SEARCH_BLOCK_BYTES: u64 = 512 * 1024;

/// A record of the usual length, in bytes.
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

/// Lines in order, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The `since` to ask on with.
    pub next: u64,
    /// Where the kept log begins. Of a tail that was searched, how far back it was.
    pub first: u64,
    /// How many bytes of the log right before the first of these lines are not there any more. A page ends where others are missing.
    pub gone: u64,
    /// Oldest first.
    pub lines: Vec<Line>,
    /// Whether it has as many lines as were asked for, or all there are.
    pub is_whole: bool,
    /// Whether all was looked at that is there now behind `since`; of a tail always.
    pub is_at_end: bool,
}

/// What is read of a log.
#[derive(Clone, Copy, Debug)]
pub struct Part<'n> {
    /// Lines with an id above this.
    pub since: u64,
    /// And up to this one.
    pub up_to: u64,
    /// Where the log ends, if nothing is added to it any more.
    pub end: Option<u64>,
    /// Only lines that hold this.
    pub needle: Option<&'n Needle>,
    /// Only lines of this stream.
    pub stream: Option<Stream>,
}

impl Part<'_> {
    /// Whether lines can be left out, so that a page may have to look through more than it carries.
    pub fn is_searched(&self) -> bool {
        self.needle.is_some() || self.stream.is_some()
    }

    /// Whether a line is one of those that are wanted.
    pub fn wants(&self, line: &RawLine<'_>) -> bool {
        line.is_of(self.stream) && self.needle.is_none_or(|needle| needle.is_in(line.text))
    }
}

/// The first lines of a part, up to `limit`. Where it is searched, no more than [`SEARCH_BYTES_MAX`] of it.
pub fn read_page(log: &dyn Listing, part: Part<'_>, limit: usize) -> io::Result<Page> {
    let mut cursor = Cursor::until(log, part.since, part.end);
    let mut page = Page { next: part.since, ..Page::default() };
    let mut bytes = 0;
    // A hole counts for the page only in front of the first line that was looked at.
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

/// The last lines of a part, up to `limit`, but none from before a place where some are missing. Looks through blocks, from the end on back,
/// so that the work grows with the lines, not with the log; where it is searched, through [`SEARCH_BYTES_MAX`] at most. `begin` is where the log
/// began, for what is gone of it.
pub fn read_last(log: &dyn Listing, part: Part<'_>, begin: u64, limit: usize) -> io::Result<Page> {
    let first = log.oldest()?.map(|segment| segment.start);
    let end = log.end()?.max(begin);
    let floor = first.unwrap_or(begin).max(part.since);
    let mut page = Page { next: end.min(part.up_to), is_at_end: true, ..Page::default() };
    if page.next <= floor {
        // No line of it is there: what is missing is told as in any page.
        return read_page(log, part, limit);
    }
    let mut found: VecDeque<Line> = VecDeque::new();
    let mut upper = page.next;
    // Without a search, about the size of that many lines: nearly everything that is read is returned.
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
                // A run may have reserved room for a loss mark after its last line: its end is behind that.
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
                    // More than can be wanted: the oldest.
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

/// The start of the last `segments` segments before `upper`, or `lower` if that is later. Each has at least a line, so more need not be read.
fn begin_of_last(log: &dyn Listing, segments: usize, lower: u64, upper: u64) -> io::Result<u64> {
    let mut begin = log.holding(upper - 1)?;
    for _ in 1..segments {
        let Some(segment) = begin.as_ref().filter(|segment| segment.start > lower) else { break };
        begin = log.before(segment.place())?;
    }
    Ok(begin.filter(|segment| segment.start < upper).map_or(lower, |segment| segment.start.max(lower)))
}

/// The start of a hole that was seen from `from` to `to`: the end of the segment before it, or the damaged frame.
fn begin_of_hole(log: &dyn Listing, from: u64, to: u64, begin: u64) -> io::Result<u64> {
    let Some(segment) = log.holding(from)?.filter(|segment| segment.start <= from) else { return Ok(begin.min(from)) };
    let end = segment.end()?;
    if end <= from {
        return Ok(end);
    }
    Ok(segment.open()?.map_or(from, |file| from.min(segment.start + file.damage_at(to - 1 - segment.start).start)))
}
