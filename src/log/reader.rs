//! Lines by position.
//!
//! The files grow while they are read: a line counts once its newline is there. A segment can be removed while it is read: what
//! follows it is then the beginning.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{RECORD_MAX, Stream, parse_record};
use crate::clock::Timestamp;

/// The most text that one page carries, in bytes: limits a reply, however long the lines are.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// One file of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The position of its first byte.
    pub start: u64,
    /// Where it is.
    pub path: PathBuf,
    /// The run that it belongs to; `None` for the server's own.
    pub run_id: Option<i64>,
}

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

/// Lines in order, and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Page {
    /// The `since` to ask on with.
    pub next: u64,
    /// Where the kept log begins.
    pub first: u64,
    /// Oldest first.
    pub lines: Vec<Line>,
}

/// The segments in one folder, in order. None where there is no folder.
pub fn segments_in(dir: &Path, run_id: Option<i64>) -> io::Result<Vec<Segment>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut segments: Vec<Segment> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let start = path.file_name()?.to_str()?.strip_suffix(".log")?.parse().ok()?;
            Some(Segment { start, path, run_id })
        })
        .collect();
    segments.sort_unstable_by_key(|segment| segment.start);
    Ok(segments)
}

/// The segments of runs, in order, from the one that holds position `since` on: of a long history only what is needed is looked at.
/// `log_dirs` are the log folders of all runs, oldest first.
pub fn run_segments(log_dirs: &[(i64, PathBuf)], since: u64) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for (run_id, dir) in log_dirs.iter().rev() {
        let of_run = segments_in(dir, Some(*run_id))?;
        let reaches_back = of_run.first().is_some_and(|first| first.start <= since);
        segments.extend(of_run);
        if reaches_back {
            break;
        }
    }
    // Runs follow each other, so this only matters where somebody moved directories about.
    segments.sort_by_key(|segment| segment.start);
    Ok(segments)
}

/// Where the kept log of all runs begins.
pub fn start_of_runs(log_dirs: &[(i64, PathBuf)]) -> io::Result<u64> {
    for (run_id, dir) in log_dirs {
        if let Some(first) = segments_in(dir, Some(*run_id))?.first() {
            return Ok(first.start);
        }
    }
    Ok(0)
}

/// The last `lines` lines of all runs. Takes in older runs only as far as the newer ones have fewer lines.
pub fn read_tail_of_runs(log_dirs: &[(i64, PathBuf)], lines: usize) -> io::Result<Page> {
    let mut runs = 1;
    loop {
        let newest = &log_dirs[log_dirs.len().saturating_sub(runs)..];
        let page = read_tail(&run_segments(newest, 0)?, lines)?;
        if page.lines.len() >= lines || newest.len() == log_dirs.len() {
            return Ok(Page { first: start_of_runs(log_dirs)?, ..page });
        }
        runs *= 4;
    }
}

/// The position after the last byte of the last segment.
pub fn end_of_log(segments: &[Segment]) -> io::Result<u64> {
    let mut end = 0;
    for segment in segments {
        end = end.max(segment.start + len_of(segment)?);
    }
    Ok(end)
}

/// Up to `limit` lines with an id above `since`.
pub fn read_since(segments: &[Segment], since: u64, limit: usize) -> io::Result<Page> {
    let first = segments.first().map_or(0, |segment| segment.start);
    let mut page = Page { next: since, first, lines: Vec::new() };
    let mut bytes = 0;
    for (n, segment) in segments.iter().enumerate() {
        if page.lines.len() >= limit || bytes >= PAGE_BYTES_MAX {
            break;
        }
        let next_start = segments.get(n + 1).map(|next| next.start);
        if next_start.is_some_and(|next| next <= since) {
            continue;
        }
        let Some(mut file) = open_unless_gone(segment)? else { continue };
        let mut at = segment.start + line_start_before(&file, since.saturating_sub(segment.start))?;
        file.seek(SeekFrom::Start(at - segment.start))?;
        let mut buffer = Vec::new();
        let mut at_end = false;
        'segment: while !at_end {
            let mut used = 0;
            while let Some(len) = memchr::memchr(b'\n', &buffer[used..]) {
                at += len as u64 + 1;
                if at > since {
                    if page.lines.len() >= limit || bytes >= PAGE_BYTES_MAX {
                        break 'segment;
                    }
                    bytes += len;
                    page.lines.push(line_of(&buffer[used..used + len], at, segment));
                    page.next = at;
                }
                used += len + 1;
            }
            buffer.drain(..used);
            at_end = (&mut file).take(RECORD_MAX as u64).read_to_end(&mut buffer)? == 0;
            // In a segment that has a successor nothing is written any more: what has no newline is a record that its writer was
            // killed in.
            if at_end && !buffer.is_empty() && next_start.is_some() && page.lines.len() < limit {
                at += buffer.len() as u64;
                if at > since {
                    page.lines.push(line_of(&buffer, at, segment));
                    page.next = at;
                }
            }
        }
    }
    Ok(page)
}

/// The last `lines` lines. The work grows with the lines, not with the log.
pub fn read_tail(segments: &[Segment], lines: usize) -> io::Result<Page> {
    let mut begin = end_of_log(segments)?;
    let mut wanted = lines;
    let mut bytes = 0;
    for (n, segment) in segments.iter().enumerate().rev() {
        if wanted == 0 || bytes >= PAGE_BYTES_MAX {
            break;
        }
        let Some(file) = open_unless_gone(segment)? else { continue };
        let len = file.metadata()?.len();
        let mut end = len;
        begin = begin.min(segment.start + end);
        let mut chunk = vec![0; RECORD_MAX];
        // Newlines are counted from the end; the one that ends the last line wanted is that of the line before it. What stands behind the
        // last newline of all is a record in the making and no line yet, and a segment without a byte has none.
        let is_last = n + 1 == segments.len();
        let mut has_line = len > 0 && !is_last;
        let mut is_first_newline = true;
        'file: while end > 0 {
            let start = end.saturating_sub(chunk.len() as u64);
            let part = &mut chunk[..usize::try_from(end - start).expect("at most a chunk")];
            file.read_exact_at(part, start)?;
            for newline in memchr::memrchr_iter(b'\n', part) {
                let after = start + newline as u64 + 1;
                has_line = true;
                if std::mem::take(&mut is_first_newline) && (after == len || is_last) {
                    continue;
                }
                wanted -= 1;
                if wanted == 0 || bytes + usize::try_from(end - after).expect("a chunk") >= PAGE_BYTES_MAX {
                    begin = segment.start + after;
                    wanted = 0;
                    break 'file;
                }
            }
            bytes += part.len();
            end = start;
            begin = segment.start + start;
        }
        // The first line of a segment has no newline in front of it.
        wanted = wanted.saturating_sub(usize::from(has_line));
    }
    read_since(segments, begin, lines)
}

fn line_of(record: &[u8], id: u64, segment: &Segment) -> Line {
    let source = if segment.run_id.is_some() { "pipeline" } else { "backend" };
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    match parse_record(record) {
        Some(record) => Line {
            id,
            ts: Some(record.at),
            source,
            stream: match record.stream {
                Stream::Stdout => Some("stdout"),
                Stream::Stderr => Some("stderr"),
                Stream::Backend => None,
            },
            run_id: segment.run_id,
            line: text(record.text),
            partial: record.goes_on,
        },
        // Damage is shown, not hidden.
        None => Line { id, ts: None, source, stream: None, run_id: segment.run_id, line: text(record), partial: false },
    }
}

/// The beginning of the line that holds the byte at `offset`, so that any number a client makes up is a good cursor.
fn line_start_before(file: &File, offset: u64) -> io::Result<u64> {
    let offset = offset.min(file.metadata()?.len());
    let start = offset.saturating_sub(RECORD_MAX as u64);
    let mut before = vec![0; usize::try_from(offset - start).expect("at most a record")];
    file.read_exact_at(&mut before, start)?;
    Ok(memchr::memrchr(b'\n', &before).map_or(start, |newline| start + newline as u64 + 1))
}

fn open_unless_gone(segment: &Segment) -> io::Result<Option<File>> {
    match File::open(&segment.path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn len_of(segment: &Segment) -> io::Result<u64> {
    match fs::metadata(&segment.path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, SegmentWriter, push_record};
    use super::*;
    use std::io::Write;

    const AT: &[u8] = b"2023-11-14T22:13:20.007Z";

    /// Two runs of small segments, each line its number.
    fn a_log(dir: &Path) -> (Vec<Segment>, Vec<Line>) {
        let (log_dirs, all) = some_runs(dir);
        (run_segments(&log_dirs, 0).expect("a look"), all)
    }

    fn some_runs(dir: &Path) -> (Vec<(i64, PathBuf)>, Vec<Line>) {
        let mut position = 0;
        let mut n = 0;
        let log_dirs = [1, 2].map(|run_id| (run_id, dir.join(run_id.to_string())));
        for (_, log_dir) in &log_dirs {
            fs::create_dir(log_dir).expect("creates");
            let limits = Limits { segment_bytes: 120, run_bytes: 1 << 20 };
            let mut writer = SegmentWriter::create(log_dir, position, limits).expect("creates");
            for _ in 0..30 {
                let mut out = Vec::new();
                push_record(&mut out, AT, Stream::Stdout, n % 7 == 0, n.to_string().repeat(n % 5).as_bytes());
                writer.write(&out, AT).expect("writes");
                n += 1;
            }
            position = writer.position();
        }
        let segments = run_segments(&log_dirs, 0).expect("a look");
        let all = read_since(&segments, 0, 1_000).expect("reads").lines;
        (log_dirs.to_vec(), all)
    }

    #[test]
    fn only_the_runs_that_are_needed_are_looked_at_and_the_lines_are_the_same() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (log_dirs, all) = some_runs(dir.path());
        let whole = run_segments(&log_dirs, 0).expect("a look");
        let second_begins = all[30].id;
        assert!(run_segments(&log_dirs, second_begins).expect("a look").len() < whole.len());
        for since in 0..=end_of_log(&whole).expect("a look") {
            let some = run_segments(&log_dirs, since).expect("a look");
            let (from_some, from_all) = (read_since(&some, since, 100), read_since(&whole, since, 100));
            assert_eq!(from_some.expect("reads").lines, from_all.expect("reads").lines, "since {since}");
        }
        for lines in [1, 29, 30, 31, 60, 61] {
            let page = read_tail_of_runs(&log_dirs, lines).expect("reads");
            assert_eq!(page, read_tail(&whole, lines).expect("reads"), "{lines} lines");
        }
        assert_eq!(read_tail_of_runs(&[], 5).expect("reads"), Page::default());
        assert_eq!(start_of_runs(&log_dirs).expect("a look"), whole[0].start);
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
        let next = Segment { start: end_of_log(&segments).expect("a look"), path: dir.path().join("next.log"), run_id: Some(3) };
        let with_next = [segments, vec![next.clone()]].concat();
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
        let next = Segment { start: end_of_log(&segments).expect("a look"), path: dir.path().join("next.log"), run_id: Some(3) };
        File::create(&next.path).expect("creates");
        let lines = read_since(&[segments, vec![next]].concat(), 0, 1_000).expect("reads").lines;
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
        let segments = segments_in(dir.path(), None).expect("a look");
        for page in [read_since(&segments, 0, 5_000), read_tail(&segments, 5_000)] {
            let page = page.expect("reads");
            let bytes: usize = page.lines.iter().map(|line| line.line.len()).sum();
            assert!(bytes <= PAGE_BYTES_MAX + RECORD_MAX && !page.lines.is_empty(), "{bytes} bytes");
        }
        assert_eq!(read_tail(&segments, 5_000).expect("reads").next, writer.position(), "the tail reaches the end");
    }

    #[test]
    fn an_empty_log_has_no_lines() {
        assert_eq!(read_since(&[], 0, 10).expect("reads"), Page::default());
        assert_eq!(read_tail(&[], 10).expect("reads"), Page::default());
        assert_eq!(read_since(&[], 77, 10).expect("reads").next, 77, "a cursor from before is kept");
    }
}
