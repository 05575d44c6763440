//! Pages of lines for clients: those after a position, and the last ones.

use std::collections::VecDeque;
use std::io;

use super::cursor::{ATTEMPTS_MAX, Cursor, Item, RawLine};
use super::listing::Listing;
use super::needle::Needle;
use super::record::{RECORD_MAX, Stream};
use super::segment::SegmentFile;
use super::writer::LOSS_MARK_BYTES_MAX;
use crate::api::logs::{Line, Source, StreamName};

/// The most text that one page carries, in bytes: limits a reply, however long the lines are.
pub(super) const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// How much of a log one request searches, in bytes: a moment's work, however rare what it looks for is.
pub const SEARCH_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A tail is searched in blocks of so many bytes, the last one first.
pub(super) const SEARCH_BLOCK_BYTES: u64 = 512 * 1024;

impl From<RawLine<'_>> for Line {
    fn from(raw: RawLine<'_>) -> Self {
        let stream = raw.head.and_then(|(_, stream)| match stream {
            Stream::Stdout => Some(StreamName::Stdout),
            Stream::Stderr => Some(StreamName::Stderr),
            Stream::Backend => None,
        });
        Self {
            id: raw.id,
            at: raw.head.map(|(at, _)| at),
            source: if raw.run_id.is_some() { Source::Pipeline } else { Source::Backend },
            stream,
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
    /// Whether all was looked at that is there now behind `since`.
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
}

/// The first lines of a part, up to `limit`. Where it is searched, no more than [`SEARCH_BYTES_MAX`] of it.
pub fn read_page(log: impl Listing, part: Part<'_>, limit: usize) -> io::Result<Page> {
    let mut cursor = Cursor::until(log, part.since, part.end);
    let mut page = Page { next: part.since, ..Page::default() };
    let mut bytes = 0;
    // A hole counts for the page only in front of the first line that was looked at.
    let mut has_looked = false;
    while page.lines.len() < limit && bytes < PAGE_BYTES_MAX {
        if part.needle.is_some() && has_looked && page.next.saturating_sub(part.since + page.gone) >= SEARCH_BYTES_MAX {
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
                if part.needle.is_none_or(|needle| needle.is_in(line.text)) {
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

/// The last `lines` lines of a part, but none from before a place where some are missing. The work grows with the lines, not with the log; where
/// it is searched, with [`SEARCH_BYTES_MAX`] at most. `begin` is where the log began, for what is gone of it.
pub fn read_last(log: impl Listing, part: Part<'_>, begin: u64, lines: usize) -> io::Result<Page> {
    if part.needle.is_some() {
        return search_tail(&log, part, begin, lines);
    }
    for attempt in 0..ATTEMPTS_MAX {
        if attempt > 0 {
            log.look_again();
        }
        // One of those that are listed can have been packed or removed a moment ago.
        let Some(tail) = find_tail(&log, &part, begin, lines)? else { continue };
        let tail = if tail.begin < part.since { Tail { begin: part.since, gone: 0 } } else { tail };
        let page = read_page(&log, Part { since: tail.begin, ..part }, lines)?;
        // What is gone since then counts from where it was.
        return Ok(Page { gone: tail.gone + page.gone, ..page });
    }
    Err(files_change_too_fast())
}

/// The same, of the lines that hold something: looks through blocks, from the end on back.
fn search_tail(log: &impl Listing, part: Part<'_>, begin: u64, lines: usize) -> io::Result<Page> {
    let first = log.oldest()?;
    let end = log.end()?.max(begin);
    let floor = first.as_ref().map_or(begin, |segment| segment.start).max(part.since);
    let mut page = Page { next: end.min(part.up_to), ..Page::default() };
    if let (true, Some(end)) = (first.is_none(), part.end) {
        // Nothing of it is there any more.
        return Ok(Page { next: end, first: end, gone: end - begin, is_whole: true, is_at_end: true, ..page });
    }
    let mut found: VecDeque<Line> = VecDeque::new();
    let mut upper = page.next;
    let (mut bytes, mut searched) = (0, 0);
    'blocks: while upper > floor && searched < SEARCH_BYTES_MAX {
        let lower = upper.saturating_sub(SEARCH_BLOCK_BYTES).max(floor);
        searched += upper - lower;
        let mut cursor = Cursor::until(log, lower, part.end);
        let mut block: VecDeque<(u64, Line)> = VecDeque::new();
        let (mut hole, mut last) = (None, lower);
        while let Some(item) = cursor.next()? {
            match item {
                // Of these the block behind has told.
                Item::Line(line) if line.id > upper => break,
                Item::Gone { to, .. } if to > upper => break,
                Item::Line(line) => {
                    let line_begin = std::mem::replace(&mut last, line.id);
                    if part.needle.is_none_or(|needle| needle.is_in(line.text)) {
                        block.push_back((line_begin, line.into()));
                    }
                    // More than can be wanted: the oldest.
                    if block.len() + found.len() > lines {
                        block.pop_front();
                    }
                }
                Item::Gone { from, to } => {
                    block.clear();
                    (hole, last) = (Some((from, to)), to);
                }
            }
        }
        while let Some((line_begin, line)) = block.pop_back() {
            bytes += line.line.len();
            found.push_front(line);
            if found.len() >= lines || bytes >= PAGE_BYTES_MAX {
                page.first = line_begin;
                page.is_whole = found.len() >= lines;
                break 'blocks;
            }
        }
        if let Some((from, to)) = hole {
            (page.first, page.is_whole) = (to, true);
            // The block may begin in the middle of the hole.
            page.gone = to - end_before(log, to, begin)?.map_or(from, |end| end.min(from));
            break;
        }
        upper = lower;
        page.first = lower;
        if lower == floor {
            page.is_whole = true;
            page.gone = if part.since > begin { 0 } else { floor - begin };
        }
    }
    page.is_whole |= upper <= floor;
    page.first = if upper <= floor { floor } else { page.first };
    page.lines = found.into();
    Ok(page)
}

/// The end of the segment before the one that begins at `start`; `begin` for the first segment.
fn end_before(log: &impl Listing, start: u64, begin: u64) -> io::Result<Option<u64>> {
    let Some(mut segment) = log.holding(start)?.filter(|segment| segment.start == start) else { return Ok(None) };
    while let Some(before) = log.before(segment.place())? {
        if before.start < start {
            return before.end().map(Some);
        }
        segment = before;
    }
    Ok(Some(begin))
}

pub(super) fn files_change_too_fast() -> io::Error {
    io::Error::other("the log's files change faster than they can be opened")
}

/// Reads what lies in front of `end`, as much as fits and no damage is in: from where on that is. `None` where what is right before `end` is
/// damaged.
fn read_before(file: &mut SegmentFile, end: u64, chunk: &mut [u8]) -> io::Result<Option<u64>> {
    let mut start = end.saturating_sub(chunk.len() as u64);
    while start < end {
        let part = &mut chunk[..usize::try_from(end - start).expect("at most a chunk")];
        match file.read_exact_at(part, start) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => start = file.after_damage(start).max(start + 1),
            other => return other.map(|()| Some(start)),
        }
    }
    Ok(None)
}

/// Where a tail begins.
struct Tail {
    begin: u64,
    gone: u64,
}

/// Counts lines from the end; `None` where a segment is not there any more.
fn find_tail(log: &impl Listing, part: &Part<'_>, log_begin: u64, lines: usize) -> io::Result<Option<Tail>> {
    if lines == 0 {
        return Ok(Some(Tail { begin: log.end()?.min(part.up_to), gone: 0 }));
    }
    let mut wanted = lines;
    let mut bytes = 0;
    let mut chunk = vec![0; RECORD_MAX];
    let mut later: Option<(u64, Option<i64>)> = None;
    let mut next = log.holding(part.up_to.saturating_sub(1))?.filter(|segment| segment.start < part.up_to);
    while let Some(segment) = next.take() {
        let Some(mut file) = segment.open()? else { return Ok(None) };
        let whole = file.len()?;
        let mut end = whole.min(part.up_to - segment.start);
        // What stands behind the last newline of all is a record in the making and no line yet, unless nobody makes it any more; and a
        // segment without a byte has none.
        let (len, is_last) = (end, later.is_none() && (part.end.is_none() || end < whole));
        let mut has_line = len > 0 && !is_last;
        if let Some((begin, run_id)) = later {
            let missing = begin.saturating_sub(segment.start + end);
            if missing > 0 && (run_id == segment.run_id || missing > LOSS_MARK_BYTES_MAX) {
                return Ok(Some(Tail { begin, gone: missing }));
            }
        }
        // Newlines are counted from the end; the one that ends the last line wanted is that of the line before it.
        let mut is_first_newline = true;
        while end > 0 {
            let Some(start) = read_before(&mut file, end, &mut chunk)? else {
                // Read from there on, the damage is told.
                let begin = segment.start + file.damage_at(end - 1).start;
                return Ok(Some(Tail { begin, gone: 0 }));
            };
            let part = &chunk[..usize::try_from(end - start).expect("at most a chunk")];
            for newline in memchr::memrchr_iter(b'\n', part) {
                let after = start + newline as u64 + 1;
                has_line = true;
                if std::mem::take(&mut is_first_newline) && (after == len || is_last) {
                    continue;
                }
                wanted -= 1;
                if wanted == 0 || bytes + usize::try_from(end - after).expect("a chunk") >= PAGE_BYTES_MAX {
                    return Ok(Some(Tail { begin: segment.start + after, gone: 0 }));
                }
            }
            bytes += part.len();
            end = start;
        }
        // The first line of a segment has no newline in front of it.
        wanted = wanted.saturating_sub(usize::from(has_line));
        later = Some(segment.place());
        if wanted == 0 || bytes >= PAGE_BYTES_MAX {
            return Ok(Some(Tail { begin: segment.start, gone: 0 }));
        }
        next = log.before(segment.place())?;
    }
    // All of it; what lay before is gone.
    let begin = later.map_or(log_begin, |(begin, _)| begin);
    Ok(Some(Tail { begin, gone: begin.saturating_sub(log_begin) }))
}
