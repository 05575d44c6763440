//! Pages of lines for clients: those after a position, and the last ones.

use std::collections::VecDeque;
use std::io;

use serde::Serialize;

use super::cursor::{ATTEMPTS_MAX, Cursor, Item, RawLine};
use super::listing::{Listing, SegmentList};
use super::needle::Needle;
use super::segment::{Segment, end_of_log};
use super::{LOSS_MARK_BYTES_MAX, RECORD_MAX, Stream};
use crate::clock::Timestamp;

/// The most text that one page carries, in bytes: limits a reply, however long the lines are.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// How much of a log one request searches, in bytes: a moment's work, however rare what it looks for is.
pub const SEARCH_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// A tail is searched in blocks of so many bytes, the last one first.
pub(super) const SEARCH_BLOCK_BYTES: u64 = 512 * 1024;

/// One line for a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The position after its last byte; the `since` that goes on behind it.
    pub id: u64,
    /// When it came.
    pub ts: Option<Timestamp>,
    /// `pipeline` or `backend`.
    pub source: &'static str,
    /// `stdout` or `stderr`; none for the server's own.
    pub stream: Option<&'static str>,
    /// The run that said it.
    pub run_id: Option<i64>,
    /// The text, bad UTF-8 replaced.
    pub line: String,
    /// Whether the text goes on in the next line of this stream.
    pub partial: bool,
}

impl From<RawLine<'_>> for Line {
    fn from(raw: RawLine<'_>) -> Self {
        let stream = raw.head.and_then(|(_, stream)| match stream {
            Stream::Stdout => Some("stdout"),
            Stream::Stderr => Some("stderr"),
            Stream::Backend => None,
        });
        Self {
            id: raw.id,
            ts: raw.head.map(|(at, _)| at),
            source: if raw.run_id.is_some() { "pipeline" } else { "backend" },
            stream,
            run_id: raw.run_id,
            line: String::from_utf8_lossy(raw.text).into_owned(),
            partial: raw.goes_on,
        }
    }
}

/// Lines in order, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
    #[serde(skip)]
    pub is_whole: bool,
    /// Whether all was looked at that is there now behind `since`.
    #[serde(skip)]
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

impl Part<'_> {
    /// Everything behind a position.
    pub const fn since(since: u64) -> Self {
        Self { since, up_to: u64::MAX, end: None, needle: None }
    }
}

/// Up to `limit` lines with an id above `since`.
pub fn read_since(log: impl Listing, since: u64, limit: usize) -> io::Result<Page> {
    read_page(log, Part::since(since), limit)
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
    page.first = cursor.first();
    Ok(page)
}

/// The last `lines` lines of a log.
pub fn read_tail(log: impl Listing, lines: usize) -> io::Result<Page> {
    read_last(log, Part::since(0), 0, lines)
}

/// The last `lines` lines of a part, but none from before a place where some are missing. The work grows with the lines, not with the log; where
/// it is searched, with [`SEARCH_BYTES_MAX`] at most. `begin` is where the log began, for what is gone of it.
pub fn read_last(log: impl Listing, part: Part<'_>, begin: u64, lines: usize) -> io::Result<Page> {
    if part.needle.is_some() {
        return search_tail(&log, part, begin, lines);
    }
    for attempt in 0..ATTEMPTS_MAX {
        let list = log.segments(attempt > 0)?;
        // One of those that are listed can have been packed or removed a moment ago.
        let Some(tail) = find_tail(&list, &part, begin, lines)? else { continue };
        let tail = if tail.begin < part.since { Tail { begin: part.since, gone: 0 } } else { tail };
        let page = read_page(&log, Part { since: tail.begin, ..part }, lines)?;
        // What is gone since then counts from where it was.
        return Ok(Page { gone: tail.gone + page.gone, ..page });
    }
    Err(files_change_too_fast())
}

/// The same, of the lines that hold something: looks through blocks, from the end on back.
fn search_tail(log: &impl Listing, part: Part<'_>, begin: u64, lines: usize) -> io::Result<Page> {
    let segments = log.segments(false)?;
    let end = end_of_log(&segments)?.max(begin);
    let floor = segments.first().map_or(begin, |segment| segment.start).max(part.since);
    let mut page = Page { next: end.min(part.up_to), ..Page::default() };
    if let (true, Some(end)) = (segments.is_empty(), part.end) {
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
            let at = segments.partition_point(|segment| segment.start < to);
            let is_before_segment = segments.get(at).is_some_and(|segment| segment.start == to);
            let before = at.checked_sub(1).and_then(|before| segments.get(before)).map(Segment::end).transpose()?;
            page.gone = to - if is_before_segment { before.unwrap_or(begin).min(from) } else { from };
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

pub(super) fn files_change_too_fast() -> io::Error {
    io::Error::other("the log's files change faster than they can be opened")
}

/// Where a tail begins.
struct Tail {
    begin: u64,
    gone: u64,
}

/// Counts lines from the end; `None` where a segment is not there any more.
fn find_tail(list: &SegmentList, part: &Part<'_>, log_begin: u64, lines: usize) -> io::Result<Option<Tail>> {
    if lines == 0 {
        return Ok(Some(Tail { begin: end_of_log(list)?.min(part.up_to), gone: 0 }));
    }
    let mut wanted = lines;
    let mut bytes = 0;
    let mut chunk = vec![0; RECORD_MAX];
    let mut later: Option<(u64, Option<i64>)> = None;
    for segment in list.iter().rev().filter(|segment| segment.start < part.up_to) {
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
            let start = end.saturating_sub(chunk.len() as u64);
            let part = &mut chunk[..usize::try_from(end - start).expect("at most a chunk")];
            match file.read_exact_at(part, start) {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    let begin = segment.start + end;
                    return Ok(Some(Tail { begin, gone: 0 }));
                }
                other => other?,
            }
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
        later = Some((segment.start, segment.run_id));
        if wanted == 0 || bytes >= PAGE_BYTES_MAX {
            return Ok(Some(Tail { begin: segment.start, gone: 0 }));
        }
    }
    // All of it; what lay before is gone.
    let begin = later.map_or(log_begin, |(begin, _)| begin);
    Ok(Some(Tail { begin, gone: begin.saturating_sub(log_begin) }))
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, Packing, Segment, SegmentWriter, pack, push_record, segments_in};
    use super::*;
    use std::fs::{self, File};
    use std::io::Write;
    use std::path::{Path, PathBuf};

    const AT: &[u8] = b"2023-11-14T22:13:20.007Z";

    /// Two runs of small segments, each line its number.
    fn a_log(dir: &Path) -> (SegmentList, Vec<Line>) {
        let mut position = 0;
        let mut n = 0;
        let mut segments = Vec::new();
        for run_id in [1, 2] {
            let log_dir = dir.join(run_id.to_string());
            fs::create_dir(&log_dir).expect("creates");
            let limits = Limits { segment_bytes: 120, run_bytes: 1 << 20 };
            let mut writer = SegmentWriter::create(&log_dir, position, limits).expect("creates");
            for _ in 0..30 {
                let mut out = Vec::new();
                push_record(&mut out, AT, Stream::Stdout, n % 7 == 0, n.to_string().repeat(n % 5).as_bytes());
                writer.write(&out, AT).expect("writes");
                n += 1;
            }
            position = writer.position();
            segments.extend(segments_in(&log_dir, Some(run_id)).expect("a look"));
        }
        let segments: SegmentList = segments.into();
        let all = read_since(&segments, 0, 1_000).expect("reads").lines;
        (segments, all)
    }

    #[test]
    fn every_number_is_a_good_cursor() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (segments, all) = a_log(dir.path());
        assert_eq!(all.len(), 60);
        assert!(segments.len() > 10);
        let end = end_of_log(&segments).expect("a look");
        for since in 0..=end + 3 {
            let page = read_since(&segments, since, 1_000).expect("reads");
            let wanted: Vec<Line> = all.iter().filter(|line| line.id > since).cloned().collect();
            assert_eq!(page.lines, wanted, "since {since}");
            assert_eq!(page.next, wanted.last().map_or(since, |line| line.id));
        }
    }

    #[test]
    fn pages_of_any_size_give_each_line_once() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (segments, all) = a_log(dir.path());
        for limit in [1, 2, 7, 60, 61] {
            let (mut since, mut got) = (0, Vec::new());
            loop {
                let page = read_since(&segments, since, limit).expect("reads");
                if page.lines.is_empty() {
                    break;
                }
                assert!(page.lines.len() <= limit);
                got.extend(page.lines);
                since = page.next;
            }
            assert_eq!(got, all, "pages of {limit}");
        }
    }

    #[test]
    fn the_tail_is_the_end_of_the_whole() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (segments, all) = a_log(dir.path());
        for lines in 1..=65 {
            let page = read_tail(&segments, lines).expect("reads");
            assert_eq!(page.lines, all[all.len().saturating_sub(lines)..], "{lines} lines");
            assert_eq!(page.next, all.last().expect("lines").id);
        }
    }

    #[test]
    fn a_tail_is_not_shorter_for_a_record_in_the_making_or_an_empty_segment() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (segments, all) = a_log(dir.path());
        let last = segments.last().expect("some");
        let mut file = File::options().append(true).open(&last.path).expect("there");
        file.write_all(b"2023-11-14T22:13:20.007Z o. half").expect("writes");
        for lines in [1, 2, 59, 60] {
            assert_eq!(read_tail(&segments, lines).expect("reads").lines, all[60 - lines..], "{lines} lines");
        }
        file.set_len(file.metadata().expect("there").len() - 32).expect("cuts");
        // A run that has said nothing yet, and one that is in the middle of its first word.
        let next = Segment {
            start: end_of_log(&segments).expect("a look"),
            path: dir.path().join("next.log"),
            run_id: Some(3),
            packed_end: None,
        };
        let with_next: SegmentList = segments.iter().cloned().chain([next.clone()]).collect();
        for said in ["", "2023"] {
            fs::write(&next.path, said).expect("writes");
            for lines in [1, 2, 59, 60] {
                assert_eq!(read_tail(&with_next, lines).expect("reads").lines, all[60 - lines..], "{lines} lines, {said:?}");
            }
        }
    }

    #[test]
    fn a_record_in_the_making_is_not_shown_and_a_torn_one_is() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (segments, all) = a_log(dir.path());
        let last = segments.last().expect("some");
        File::options()
            .append(true)
            .open(&last.path)
            .expect("there")
            .write_all(b"2023-11-14T22:13:20.007Z o. half")
            .expect("writes");
        assert_eq!(read_since(&segments, 0, 1_000).expect("reads").lines, all);
        // Once another run's segment follows, nobody will finish it.
        let start = end_of_log(&segments).expect("a look");
        let next = Segment { start, packed_end: None, path: dir.path().join("next.log"), run_id: Some(3) };
        File::create(&next.path).expect("creates");
        let segments: SegmentList = [&segments[..], &[next]].concat().into();
        let lines = read_since(&segments, 0, 1_000).expect("reads").lines;
        assert_eq!(lines.len(), all.len() + 1);
        assert_eq!(lines.last().expect("lines").line, "half");
    }

    #[test]
    fn a_page_of_long_lines_is_bounded() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let mut writer =
            SegmentWriter::create(dir.path(), 0, Limits { segment_bytes: 1 << 30, run_bytes: 1 << 30 }).expect("creates");
        for _ in 0..64 {
            let mut out = Vec::new();
            push_record(&mut out, AT, Stream::Stdout, false, &vec![b'x'; 60_000]);
            writer.write(&out, AT).expect("writes");
        }
        let segments: SegmentList = segments_in(dir.path(), None).expect("a look").into();
        for page in [read_since(&segments, 0, 5_000), read_tail(&segments, 5_000)] {
            let page = page.expect("reads");
            let bytes: usize = page.lines.iter().map(|line| line.line.len()).sum();
            assert!(bytes <= PAGE_BYTES_MAX + RECORD_MAX && !page.lines.is_empty(), "{bytes} bytes");
        }
        assert_eq!(read_tail(&segments, 5_000).expect("reads").next, writer.position(), "the tail reaches the end");
    }

    #[test]
    fn an_empty_log_has_no_lines() {
        let none: SegmentList = [].into();
        let nothing = Page { is_whole: true, is_at_end: true, ..Page::default() };
        assert_eq!(read_since(&none, 0, 10).expect("reads"), nothing);
        assert_eq!(read_tail(&none, 10).expect("reads"), nothing);
        assert_eq!(read_since(&none, 77, 10).expect("reads").next, 77, "a cursor from before is kept");
    }

    /// The segments of both runs as they are now.
    fn look_again(dir: &Path) -> SegmentList {
        let of = |run_id: i64| segments_in(&dir.join(run_id.to_string()), Some(run_id)).expect("a look");
        [of(1), of(2)].concat().into()
    }

    #[test]
    fn packed_and_plain_read_the_same_from_every_cursor() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (segments, all) = a_log(dir.path());
        let end = end_of_log(&segments).expect("a look");
        for (n, segment) in segments.iter().enumerate() {
            if n % 3 != 1 {
                assert_eq!(pack(segment, || true).expect("packs"), Packing::Done);
            }
        }
        let packed = look_again(dir.path());
        assert!(packed.iter().any(|segment| segment.packed_end.is_some()) && packed.len() == segments.len());
        assert_eq!(end_of_log(&packed).expect("a look"), end);
        for since in 0..=end {
            let wanted: Vec<Line> = all.iter().filter(|line| line.id > since).cloned().collect();
            assert_eq!(read_since(&packed, since, 1_000).expect("reads").lines, wanted, "since {since}");
        }
        for lines in 1..=61 {
            let page = read_tail(&packed, lines).expect("reads");
            assert_eq!((page.lines, page.gone), (all[all.len().saturating_sub(lines)..].to_vec(), 0), "{lines} lines");
        }
    }

    #[test]
    fn what_is_gone_is_said_exactly_where_it_was() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (segments, all) = a_log(dir.path());
        // The first, and two in the middle of the second run.
        let removed: Vec<&Segment> = [0, segments.len() - 5, segments.len() - 4].map(|n| &segments[n]).to_vec();
        for segment in &removed {
            fs::remove_file(&segment.path).expect("there");
        }
        let kept = look_again(dir.path());
        let hole = (removed[1].start, segments[segments.len() - 3].start);
        let is_kept = |line: &&Line| line.id > segments[1].start && (line.id <= hole.0 || line.id > hole.1);
        let wanted: Vec<Line> = all.iter().filter(is_kept).cloned().collect();
        for limit in [1, 3, 1_000] {
            let (mut since, mut got, mut gone) = (0, Vec::new(), Vec::new());
            loop {
                let page = read_since(&kept, since, limit).expect("reads");
                assert_eq!(page.first, segments[1].start);
                if page.gone > 0 {
                    gone.push((since, page.gone));
                    assert_eq!(page.lines.first().map(|line| line.id > since + page.gone), Some(true));
                }
                if page.lines.is_empty() {
                    break;
                }
                got.extend(page.lines);
                since = page.next;
            }
            assert_eq!(got, wanted, "pages of {limit}");
            assert_eq!(gone, [(0, segments[1].start), (hole.0, hole.1 - hole.0)], "pages of {limit}");
        }
        // In the middle of what is gone.
        assert_eq!(read_since(&kept, hole.0 + 10, 1).expect("reads").gone, hole.1 - hole.0 - 10);
        let behind = wanted.iter().filter(|line| line.id > hole.1).count();
        for lines in 1..=behind {
            let page = read_tail(&kept, lines).expect("reads");
            assert_eq!((page.lines.len(), page.gone), (lines, 0));
        }
        let page = read_tail(&kept, behind + 1).expect("reads");
        assert_eq!((page.lines.len(), page.gone), (behind, hole.1 - hole.0), "none from before a hole");
        let one = tempfile::tempdir().expect("a temp folder");
        let (segments, _) = a_log(one.path());
        fs::remove_file(&segments[0].path).expect("there");
        let page = read_tail(look_again(one.path()), 1_000).expect("reads");
        assert_eq!(page.gone, segments[1].start, "a tail that reaches the beginning says what lay before");
    }

    #[test]
    fn room_for_a_mark_between_two_runs_is_no_hole() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let limits = Limits { segment_bytes: 1 << 20, run_bytes: 1 << 20 };
        let mut begin = 0;
        for (run_id, room) in [(1, LOSS_MARK_BYTES_MAX), (2, LOSS_MARK_BYTES_MAX + 1), (3, 0)] {
            let log_dir = dir.path().join(run_id.to_string());
            fs::create_dir(&log_dir).expect("creates");
            let mut writer = SegmentWriter::create(&log_dir, begin, limits).expect("creates");
            let mut out = Vec::new();
            push_record(&mut out, AT, Stream::Stdout, false, b"a line");
            writer.write(&out, AT).expect("writes");
            begin = writer.position() + room;
        }
        let of = |run_id: i64| segments_in(&dir.path().join(run_id.to_string()), Some(run_id)).expect("a look");
        let list: SegmentList = [of(1), of(2), of(3)].concat().into();
        let page = read_since(&list, 0, 10).expect("reads");
        assert_eq!((page.lines.len(), page.gone), (2, 0), "the page ends at a hole");
        let page = read_since(&list, page.next, 10).expect("reads");
        assert_eq!((page.lines.len(), page.gone), (1, LOSS_MARK_BYTES_MAX + 1));
        assert_eq!(read_tail(&list, 10).expect("reads").gone, LOSS_MARK_BYTES_MAX + 1);
    }

    #[test]
    fn a_run_that_begins_where_an_empty_segment_does_is_read() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (segments, all) = a_log(dir.path());
        let end = end_of_log(&segments).expect("a look");
        let more = |run_id: i64, text: &str| {
            let path = dir.path().join(format!("{run_id}.log"));
            let mut bytes = Vec::new();
            if !text.is_empty() {
                push_record(&mut bytes, AT, Stream::Stdout, false, text.as_bytes());
            }
            fs::write(&path, bytes).expect("writes");
            Segment { start: end, packed_end: None, path, run_id: Some(run_id) }
        };
        let list: SegmentList = [&segments[..], &[more(2, ""), more(3, "the next run")]].concat().into();
        for since in [0, all[40].id, end] {
            let page = read_since(&list, since, 1_000).expect("reads");
            assert_eq!(page.lines.last().map(|line| line.line.as_str()), Some("the next run"), "since {since}");
        }
        assert_eq!(read_tail(&list, 2).expect("reads").lines.len(), 2);
    }

    /// Lists a segment that is there, and packs it before anybody can open it.
    struct PackedMeanwhile {
        dir: PathBuf,
    }

    impl Listing for PackedMeanwhile {
        fn segments(&self, _is_stale: bool) -> io::Result<SegmentList> {
            let list = look_again(&self.dir);
            if let Some(plain) = list.iter().find(|segment| segment.packed_end.is_none()) {
                pack(plain, || true)?;
            }
            Ok(list)
        }
    }

    #[test]
    fn what_is_packed_between_each_look_and_the_opening_is_not_gone() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (_, all) = a_log(dir.path());
        let page = read_since(PackedMeanwhile { dir: dir.path().to_owned() }, 0, 1_000).expect("reads");
        assert_eq!((page.lines, page.gone), (all, 0));
        let dir = tempfile::tempdir().expect("a temp folder");
        let (_, all) = a_log(dir.path());
        let page = read_tail(PackedMeanwhile { dir: dir.path().to_owned() }, 50).expect("reads");
        assert_eq!((&page.lines[..], page.gone), (&all[10..], 0));
    }

    #[test]
    fn a_damaged_frame_costs_that_frame_and_says_so() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let limits = Limits { segment_bytes: 1 << 20, run_bytes: 1 << 30 };
        let mut writer = SegmentWriter::create(dir.path(), 0, limits).expect("creates");
        for n in 0..20_000 {
            let mut out = Vec::new();
            push_record(&mut out, AT, Stream::Stdout, false, format!("line {n}").as_bytes());
            writer.write(&out, AT).expect("writes");
        }
        let list: SegmentList = segments_in(dir.path(), None).expect("a look").into();
        let whole = read_since(&list, 0, 100_000).expect("reads").lines;
        assert_eq!(pack(&list[0], || true).expect("packs"), Packing::Done);
        let packed: SegmentList = segments_in(dir.path(), None).expect("a look").into();
        let mut bytes = fs::read(&packed[0].path).expect("reads");
        let middle = bytes.len() / 2;
        bytes[middle..middle + 40].fill(0x55);
        fs::write(&packed[0].path, bytes).expect("writes");
        let (mut since, mut got, mut gone) = (0, Vec::new(), 0);
        loop {
            let page = read_since(&packed, since, 5_000).expect("damage is no error");
            gone += page.gone;
            if page.lines.is_empty() {
                break;
            }
            since = page.next;
            got.extend(page.lines);
        }
        assert!((1..=2 * 128 * 1024 + 100).contains(&gone), "{gone} bytes gone");
        let good: Vec<&Line> = got.iter().filter(|line| line.ts.is_some()).collect();
        assert!(got.len() - good.len() <= 2, "at most what the damage breaks off");
        assert!(good.iter().all(|line| whole.contains(line)) && good.len() > whole.len() / 2);
        assert_eq!(got.last(), whole.last());
    }
}
