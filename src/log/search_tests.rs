//! Pages of one run's log, with and without a search, compared with all lines read one by one.

use std::fs;
use std::path::Path;

use super::reader::SEARCH_BLOCK_BYTES;
use super::reader_tests::read_since;
use super::record::{HEAD_LEN, RECORD_MAX, push_record};
use super::*;
use crate::api::logs::{Line, StreamName};

const AT: &[u8] = b"2023-11-14T22:13:20.007Z";

/// Writes a run from position 1,000 on, in segments of `segment_bytes` bytes. Every seventh line contains "needle", and every
/// fifth is on stderr.
fn a_run(dir: &Path, lines: usize, segment_bytes: u64) -> SegmentList {
    let limits = Limits { segment_bytes, run_bytes: 1 << 40 };
    let mut writer = SegmentWriter::create(dir, 1_000, limits).expect("creates");
    for n in 0..lines {
        let mut out = Vec::new();
        let text = if n % 7 == 0 { format!("a needle {n}") } else { format!("hay {n} {}", "x".repeat(n % 300)) };
        let stream = if n % 5 == 0 { Stream::Stderr } else { Stream::Stdout };
        push_record(&mut out, AT, stream, false, text.as_bytes());
        writer.write(&out, AT).expect("writes");
    }
    look(dir)
}

fn look(dir: &Path) -> SegmentList {
    segments_in(dir, Some(7)).expect("a look").into()
}

fn needle() -> Needle {
    Needle::new("needle".to_owned())
}

fn all(list: &SegmentList) -> Vec<Line> {
    read_since(list, 1_000, usize::MAX).expect("reads").lines
}

/// Reads pages forward to the end, each from where the previous one ended. Returns the lines and the number of pages.
fn forward(list: &SegmentList, part: Part<'_>, limit: usize) -> (Vec<Line>, usize) {
    let (mut since, mut lines, mut count) = (part.since, Vec::new(), 0);
    loop {
        let page = read_page(list, Part { since, ..part }, limit).expect("reads");
        count += 1;
        assert!(page.lines.len() <= limit && page.next >= since);
        let is_end = page.lines.is_empty() && page.is_whole;
        assert!(is_end || page.next > since, "it goes on");
        lines.extend(page.lines);
        since = page.next;
        if is_end {
            return (lines, count);
        }
    }
}

/// Does the same backward, with `first`.
fn backward(list: &SegmentList, part: Part<'_>, limit: usize) -> (Vec<Line>, usize) {
    let (mut up_to, mut lines, mut count) = (part.up_to, Vec::new(), 0);
    loop {
        let page = read_last(list, Part { up_to, ..part }, 1_000, limit).expect("reads");
        count += 1;
        let is_end = page.lines.len() < limit && page.is_whole;
        assert!(is_end || page.first < up_to, "it goes on");
        if let (true, Some(oldest)) = (page.lines.len() == limit, page.lines.first()) {
            let next = read_since(list, page.first, 1).expect("reads").lines;
            assert!(next.first() == Some(oldest) && page.first + (HEAD_LEN + oldest.line.len() + 1) as u64 == oldest.id);
        }
        lines.splice(0..0, page.lines);
        up_to = page.first;
        if is_end {
            return (lines, count);
        }
    }
}

#[test]
fn search_finds_each_match_once_in_both_directions() {
    for segment_bytes in [700, 1 << 30] {
        let dir = tempfile::tempdir().expect("a temp folder");
        let list = a_run(dir.path(), 500, segment_bytes);
        let needle = needle();
        let wanted: Vec<Line> = all(&list).into_iter().filter(|line| line.line.contains("needle")).collect();
        assert_eq!(wanted.len(), 72);
        let part = Part { needle: Some(&needle), ..Part::since(1_000) };
        for limit in [1, 2, 7, 71, 72, 73] {
            assert_eq!(forward(&list, part, limit).0, wanted, "forward by {limit}");
            assert_eq!(backward(&list, part, limit).0, wanted, "backward by {limit}");
        }
        let absent = Needle::new("Needle".to_owned());
        let page = read_page(&list, Part { needle: Some(&absent), ..part }, 10).expect("reads");
        assert_eq!((page.lines.len(), page.next, page.is_whole), (0, list.end().expect("a look"), true));
        let page = read_last(&list, Part { needle: Some(&absent), ..part }, 1_000, 10).expect("reads");
        assert_eq!((page.lines.len(), page.first, page.gone, page.is_whole), (0, 1_000, 0, true));
    }
}

#[test]
fn stream_filter_returns_each_line_once_in_both_directions() {
    for segment_bytes in [700, 1 << 30] {
        let dir = tempfile::tempdir().expect("a temp folder");
        let list = a_run(dir.path(), 300, segment_bytes);
        let needle = needle();
        for (stream, name) in [(Stream::Stdout, StreamName::Stdout), (Stream::Stderr, StreamName::Stderr)] {
            for needle in [None, Some(&needle)] {
                let is_wanted = |line: &Line| line.stream == Some(name) && (needle.is_none() || line.line.contains("needle"));
                let wanted: Vec<Line> = all(&list).into_iter().filter(is_wanted).collect();
                assert!(wanted.len() >= 9);
                let part = Part { needle, stream: Some(stream), ..Part::since(1_000) };
                for limit in [1, 2, 7, 500] {
                    assert_eq!(forward(&list, part, limit).0, wanted, "forward by {limit}");
                    assert_eq!(backward(&list, part, limit).0, wanted, "backward by {limit}");
                }
            }
        }
    }
}

#[test]
fn damaged_line_matches_both_stream_filters() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let list = a_run(dir.path(), 5, 1 << 30);
    let mut bytes = fs::read(&list[0].path).expect("reads");
    bytes.extend_from_slice(b"no record\n");
    fs::write(&list[0].path, bytes).expect("writes");
    for (stream, count) in [(Stream::Stdout, 5), (Stream::Stderr, 2)] {
        let part = Part { stream: Some(stream), ..Part::since(1_000) };
        let page = read_page(&look(dir.path()), part, 100).expect("reads");
        assert_eq!((page.lines.len(), &*page.lines[count - 1].line), (count, "no record"));
    }
}

#[test]
fn search_stops_at_byte_limit_and_resumes() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let limits = Limits { segment_bytes: 4 << 20, run_bytes: 1 << 40 };
    let mut writer = SegmentWriter::create(dir.path(), 1_000, limits).expect("creates");
    // Of twenty megabytes, only the first and the last line match.
    for n in 0..400 {
        let mut out = Vec::new();
        let text = if n == 0 || n == 399 { b"needle".to_vec() } else { vec![b'x'; 50_000] };
        push_record(&mut out, AT, Stream::Stdout, false, &text);
        writer.write(&out, AT).expect("writes");
    }
    let list = look(dir.path());
    let needle = needle();
    let part = Part { needle: Some(&needle), ..Part::since(1_000) };
    let page = read_page(&list, part, 10).expect("reads");
    assert_eq!((page.lines.len(), page.is_whole, page.is_at_end), (1, false, false));
    assert!((SEARCH_BYTES_MAX..SEARCH_BYTES_MAX + RECORD_MAX as u64).contains(&(page.next - 1_000)), "{}", page.next);
    let page = read_last(&list, part, 1_000, 10).expect("reads");
    let looked = writer.position() - page.first;
    assert_eq!((page.lines.len(), page.is_whole, page.next), (1, false, writer.position()));
    assert!((SEARCH_BYTES_MAX..SEARCH_BYTES_MAX + SEARCH_BLOCK_BYTES).contains(&looked), "{looked}");
    for limit in [1, 10] {
        for (lines, count) in [forward(&list, part, limit), backward(&list, part, limit)] {
            assert!(lines.len() == 2 && (3..8).contains(&count), "{} lines in {count} answers", lines.len());
        }
    }
}

#[test]
fn tail_respects_upper_and_lower_line_bounds() {
    for segment_bytes in [700, 1 << 30] {
        let dir = tempfile::tempdir().expect("a temp folder");
        let list = a_run(dir.path(), 90, segment_bytes);
        let lines = all(&list);
        let any = needle();
        for upper in 0..=lines.len() {
            let up_to = upper.checked_sub(1).map_or(1_000, |last| lines[last].id);
            for (lower, wanted) in [(0, 1), (0, 5), (0, 91), (upper.saturating_sub(3), 91), (upper, 5)] {
                let since = lower.checked_sub(1).map_or(1_000, |last| lines[last].id);
                for (needle, up_to) in [(None, up_to), (Some(&any), up_to), (None, up_to + 5)] {
                    let part = Part { up_to, needle, ..Part::since(since) };
                    let page = read_last(&list, part, 1_000, wanted).expect("reads");
                    let hits: Vec<&Line> =
                        lines[lower..upper].iter().filter(|line| needle.is_none() || line.line.contains("needle")).collect();
                    let hits = &hits[hits.len().saturating_sub(wanted)..];
                    assert_eq!(page.lines.iter().collect::<Vec<_>>(), hits, "{wanted} of {lower} to {upper}");
                    assert_eq!(page.gone, 0);
                }
            }
        }
    }
}

#[test]
fn searched_tail_stops_at_missing_bytes_and_reports_them() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let list = a_run(dir.path(), 400, 2_000);
    let lines = all(&list);
    let (hole, behind) = (list[9].start..list[11].start, list[11].start);
    let first_text = fs::read(&list[0].path).expect("reads");
    for gone in &list[9..11] {
        fs::remove_file(&gone.path).expect("there");
    }
    let kept = look(dir.path());
    let needle = needle();
    let part = Part { needle: Some(&needle), ..Part::since(1_000) };
    let page = read_last(&kept, part, 1_000, 5_000).expect("reads");
    let wanted: Vec<&Line> = lines.iter().filter(|line| line.id > behind && line.line.contains("needle")).collect();
    assert_eq!(page.lines.iter().collect::<Vec<_>>(), wanted);
    assert_eq!((page.gone, page.first, page.is_whole), (hole.end - hole.start, behind, true));
    // Before the hole, in the middle of it, and right after it.
    for up_to in [hole.start, hole.start + 10, hole.end] {
        let page = read_last(&kept, Part { up_to, ..part }, 1_000, 5_000).expect("reads");
        let wanted: Vec<&Line> = lines.iter().filter(|line| line.id <= hole.start && line.line.contains("needle")).collect();
        assert_eq!((page.lines.iter().collect::<Vec<_>>(), page.gone), (wanted, 0), "up to {up_to}");
    }
    // Before everything that is kept.
    fs::remove_file(&list[0].path).expect("there");
    let page = read_last(&look(dir.path()), Part { up_to: 1_010, ..Part::since(1_000) }, 1_000, 5_000).expect("reads");
    assert_eq!((page.lines.len(), page.gone), (0, list[1].start - 1_000));
    fs::write(&list[0].path, first_text).expect("writes");
    // Forward, a page ends before the hole, whatever it has found, and the next page reports the hole.
    let (mut since, mut told) = (1_000, Vec::new());
    loop {
        let page = read_page(&kept, Part { since, ..part }, 5_000).expect("reads");
        told.extend(Some((since, page.gone)).filter(|(_, gone)| *gone > 0));
        since = page.next;
        if page.is_at_end {
            break;
        }
        assert!(!page.is_whole);
    }
    assert_eq!(told, [(hole.start, hole.end - hole.start)]);
}

#[test]
fn ended_log_shows_torn_line_and_missing_bytes_at_end() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let list = a_run(dir.path(), 30, 700);
    let (lines, end) = (all(&list), list.end().expect("a look"));
    let newest = list.last().expect("some");
    let torn = [&fs::read(&newest.path).expect("reads")[..], b"2023-11-14T22:13:20.007Z o. half a needle"].concat();
    fs::write(&newest.path, torn).expect("writes");
    let torn_end = list.end().expect("a look");
    let needle = needle();
    for needle in [None, Some(&needle)] {
        let part = Part { needle, ..Part::since(1_000) };
        for (log_end, room) in [(torn_end, 0), (torn_end + LOSS_MARK_BYTES_MAX, 0), (torn_end + 129, 129)] {
            let ended = Part { end: Some(log_end), ..part };
            for page in [read_page(&list, ended, 100), read_last(&list, ended, 1_000, 100)] {
                let page = page.expect("reads");
                assert_eq!(page.lines.last().map(|line| line.line.as_str()), Some("half a needle"), "{log_end}");
            }
            // Bytes that are missing after the last line are reported. Room for a loss mark is not missing.
            let page = read_page(&list, Part { since: torn_end, ..ended }, 100).expect("reads");
            assert_eq!((page.next, page.gone, page.is_at_end), (log_end, room, true));
            let tail_next = if room == 0 { log_end } else { torn_end };
            assert_eq!(read_last(&list, ended, 1_000, 100).expect("reads").next, tail_next, "{log_end}");
        }
        // While the run is live, half a line is not a line.
        for page in [read_page(&list, part, 100), read_last(&list, part, 1_000, 100)] {
            assert!(page.expect("reads").lines.last().is_some_and(|line| lines.contains(line)));
        }
    }
    // The whole log is missing.
    let none: SegmentList = [].into();
    let ended = Part { end: Some(end), ..Part::since(1_000) };
    let searched = Part { needle: Some(&needle), ..ended };
    for page in [read_page(&none, ended, 10), read_last(&none, ended, 1_000, 10), read_last(&none, searched, 1_000, 10)] {
        let page = page.expect("reads");
        assert_eq!((page.lines.len(), page.next, page.gone, page.is_at_end), (0, end, end - 1_000, true));
    }
}
