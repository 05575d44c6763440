//! The log: reading whatever is on the disk, torn anywhere, and reading what the writer wrote.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use autoappdev::api::logs::StreamName;
use autoappdev::log::{
    Limits, LineSplitter, Listing, Needle, Page, Part, RunLogs, RunText, Segment, SegmentList, SegmentWriter, Stream,
    position_at, read_last, read_page, segments_in,
};

use super::cut::{choices, pieces};
use super::scratch::in_empty_folder;

/// More lines than any log here has.
const ALL: usize = 100_000;
/// A page ends after 1 MiB. The input here stays well below that.
const INPUT_BYTES_MAX: usize = 64 * 1024;
const AT: &[u8] = b"2023-11-14T22:13:20.007Z";

/// Returns everything after a position.
fn part_since(since: u64) -> Part<'static> {
    Part { since, up_to: u64::MAX, end: None, needle: None, stream: None }
}

fn read_since(segments: &SegmentList, since: u64, limit: usize) -> io::Result<Page> {
    read_page(segments, part_since(since), limit)
}

fn read_tail(segments: &SegmentList, lines: usize) -> io::Result<Page> {
    read_last(segments, part_since(0), 0, lines)
}

pub fn run(bytes: &[u8]) {
    let (choices, content) = choices::<6>(bytes);
    if content.len() > INPUT_BYTES_MAX {
        return;
    }
    in_empty_folder(|folder| {
        if choices[0] & 1 == 0 {
            read_what_lies_there(folder, choices, content);
        } else {
            read_what_was_written(folder, choices, content);
        }
    });
}

/// Checks the reader with `content` as up to four segments, cut wherever the choices say.
fn read_what_lies_there(folder: &Path, [mode, first, second, third, how, lines]: [u8; 6], content: &[u8]) {
    // A line that is longer than any of our records, as another program may have left it.
    let mut content = content.to_vec();
    let is_stretched = mode & 2 != 0;
    if is_stretched {
        let at = content.len() * usize::from(how) / 256;
        content.splice(at..at, std::iter::repeat_n(b'x', 70_000));
    }
    let begin = if mode & 4 == 0 { 0 } else { 5_000 };
    let mut cuts: Vec<usize> = [first, second, third].iter().map(|cut| content.len() * usize::from(*cut) / 255).collect();
    cuts.sort_unstable();
    let mut segments = Vec::new();
    let mut from = 0;
    for (n, to) in cuts.into_iter().chain([content.len()]).enumerate() {
        // Two empty segments would have the same position. A log has at most one empty segment, at its end.
        if n < 3 && to == from {
            continue;
        }
        let start = begin + from as u64;
        let path = folder.join(format!("{start:020}.log"));
        fs::write(&path, &content[from..to]).expect("writes");
        segments.push((Segment { start, path, run_id: Some(7), packed_end: None }, from..to));
        from = to;
    }
    let expected = expected(&segments, &content);
    let segments: SegmentList = segments.into_iter().map(|(segment, _)| segment).collect();
    assert_eq!(segments_in(folder, Some(7)).expect("a look"), *segments);
    assert_eq!(segments.end().expect("a look"), begin + content.len() as u64);

    let whole = read_since(&segments, 0, ALL).expect("reads");
    assert_eq!((whole.first, whole.gone), (segments[0].start, begin));
    if is_stretched {
        // No line of ours is that long. It is shown in pieces, and the result for a cursor within it is not defined.
        assert!(whole.lines.len() >= expected.len(), "{} lines, at least {} expected", whole.lines.len(), expected.len());
        for since in whole.lines.iter().rev().take(8).map(|line| line.id) {
            read_since(&segments, since, usize::from(lines) + 1).expect("reads");
            read_tail(&segments, usize::from(lines)).expect("reads");
        }
        return;
    }
    assert_eq!(whole.lines.len(), expected.len());
    for (line, (id, record)) in whole.lines.iter().zip(&expected) {
        assert_eq!(line.id, *id);
        assert!(String::from_utf8_lossy(record).ends_with(&line.line), "{:?} is not in the log", line.line);
    }

    // From any cursor, in pages of any size, each line appears once.
    let end = begin + content.len() as u64;
    let any = (0..16).map(|n| begin + (content.len() as u64 * n / 15) + u64::from(how) % 7);
    for since in any.chain(whole.lines.iter().rev().take(8).map(|line| line.id)).chain([end, end + 9]) {
        let page = read_since(&segments, since, ALL).expect("reads");
        let wanted: Vec<_> = whole.lines.iter().filter(|line| line.id > since).cloned().collect();
        let next = wanted.last().map_or(since, |line| line.id);
        assert_eq!(page, Page { next, first: whole.first, gone: 0, lines: wanted, is_whole: true, is_at_end: true });
    }
    let (mut since, mut got, limit) = (0, Vec::new(), usize::from(lines) % 9 + 1);
    while got.len() < whole.lines.len() {
        let page = read_since(&segments, since, limit).expect("reads");
        assert!(!page.lines.is_empty() && page.lines.len() <= limit, "a page of {limit} has {} lines", page.lines.len());
        since = page.next;
        got.extend(page.lines);
        assert!(whole.lines.starts_with(&got));
    }
    // The lines that contain a text, from both ends, and up to any position.
    let wanted = whole.lines.get(usize::from(how) % whole.lines.len().max(1)).map_or("x", |line| &line.line);
    let needle = Needle::new(wanted.to_owned());
    let cut = begin + content.len() as u64 * u64::from(how) / 255;
    for up_to in [u64::MAX, cut] {
        let matching: Vec<_> =
            whole.lines.iter().filter(|line| line.id <= up_to && line.line.contains(wanted)).cloned().collect();
        let part = Part { up_to, needle: Some(&needle), ..part_since(begin) };
        assert_eq!(read_page(&segments, part, ALL).expect("reads").lines, matching, "up to {up_to}");
        let last = usize::from(lines) % 7 + 1;
        let tail = read_last(&segments, part, begin, last).expect("reads");
        assert_eq!(tail.lines, matching[matching.len().saturating_sub(last)..], "the last {last} up to {up_to}");
    }
    // A time leads to the first line from then on, if the times do not go back.
    let times: Vec<_> = whole.lines.iter().filter_map(|line| line.at).collect();
    if times.is_sorted() {
        for at in times.iter().step_by(times.len() / 4 + 1) {
            let position = position_at(&segments, *at, begin, None, |_| false).expect("seeks");
            let found = read_since(&segments, position, 1).expect("reads").lines;
            assert_eq!(found.first(), whole.lines.iter().find(|line| line.at >= Some(*at)));
        }
    }
    // As text, the log is what the disk contains, up to the last complete line.
    let log = RunLogs::new(folder.to_owned());
    let log_dir = folder.join("runs/7/log");
    std::fs::create_dir_all(&log_dir).expect("creates");
    for file in std::fs::read_dir(folder).expect("there").flatten().filter(|entry| entry.path().is_file()) {
        std::fs::hard_link(file.path(), log_dir.join(file.file_name())).expect("links");
    }
    let mut text = Vec::new();
    let looked = RunText::look(&log.of_run(7), begin, None).expect("a look");
    let len = looked.byte_count();
    looked.into_reader().read_to_end(&mut text).expect("reads");
    assert!(text.len() as u64 == len && content.starts_with(&text) && !content[text.len()..].contains(&b'\n'));
    // The tail is the end of the log.
    for lines in [1, usize::from(lines), ALL] {
        let tail = read_tail(&segments, lines).expect("reads");
        assert_eq!(tail.lines, whole.lines[whole.lines.len().saturating_sub(lines)..], "{lines} lines");
    }
}

/// Returns the records, parsed by hand: the position after each, and its bytes. A torn record counts if another segment follows.
fn expected<'c>(segments: &[(Segment, std::ops::Range<usize>)], content: &'c [u8]) -> Vec<(u64, &'c [u8])> {
    let mut records = Vec::new();
    for (n, (segment, range)) in segments.iter().enumerate() {
        let mut at = segment.start;
        for record in content[range.clone()].split_inclusive(|byte| *byte == b'\n') {
            at += record.len() as u64;
            if let Some(whole) = record.strip_suffix(b"\n") {
                records.push((at, whole));
            } else if n + 1 < segments.len() {
                records.push((at, record));
            }
        }
    }
    records
}

/// Checks the reader with `content` as a pipeline's output: cut on its way, sometimes written before its line is complete, and
/// distributed over segments.
fn read_what_was_written(folder: &Path, [_, how, segment_bytes, waits, _, lines]: [u8; 6], content: &[u8]) {
    // The reader replaces invalid UTF-8 in each record separately, so the result would depend on the cuts.
    let output = String::from_utf8_lossy(content);
    let limits = Limits { segment_bytes: u64::from(segment_bytes) * 16 + 1, run_bytes: 1 << 40 };
    let mut writer = SegmentWriter::create(folder, 77, limits).expect("creates");
    let mut splitter = LineSplitter::new(Stream::Stdout);
    let mut now = Duration::ZERO;
    for piece in pieces(output.as_bytes(), how) {
        let mut records = Vec::new();
        splitter.push(piece, AT, now, &mut records);
        now += Duration::from_millis(u64::from(waits));
        splitter.flush_if_due(AT, now, &mut records);
        writer.write(&records, AT).expect("writes");
    }
    let mut records = Vec::new();
    splitter.end(AT, &mut records);
    writer.write(&records, AT).expect("writes");

    let segments: SegmentList = segments_in(folder, Some(7)).expect("a look").into();
    let mut read = String::new();
    let (mut since, limit) = (0, usize::from(lines) * 8 + 1);
    loop {
        let page = read_since(&segments, since, limit).expect("reads");
        if page.lines.is_empty() {
            break;
        }
        for line in page.lines {
            assert!(line.stream == Some(StreamName::Stdout) && line.at.is_some());
            read.push_str(&line.line);
            if !line.partial {
                read.push('\n');
            }
        }
        since = page.next;
    }
    let mut wanted = output.into_owned();
    if !wanted.is_empty() && !wanted.ends_with('\n') {
        wanted.push('\n');
    }
    assert!(read == wanted, "written {wanted:?}, read {read:?}");
    assert_eq!(segments.end().expect("a look"), writer.position());
}
