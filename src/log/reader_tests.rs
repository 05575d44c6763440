//! Pages and tails, compared with all lines read one by one: from any position, of damaged and of packed logs, and while files
//! appear and disappear.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::reader::PAGE_BYTES_MAX;
use super::record::{RECORD_MAX, push_record};
use super::*;
use crate::api::logs::Line;

const AT: &[u8] = b"2023-11-14T22:13:20.007Z";

impl Part<'_> {
    /// Returns the part with everything after a position.
    pub(super) const fn since(since: u64) -> Self {
        Self { since, up_to: u64::MAX, end: None, needle: None, stream: None }
    }
}

/// Reads up to `limit` lines with an id above `since`.
pub(super) fn read_since(log: &dyn Listing, since: u64, limit: usize) -> io::Result<Page> {
    read_page(log, Part::since(since), limit)
}

/// Reads the last `lines` lines of a log.
pub(super) fn read_tail(log: &dyn Listing, lines: usize) -> io::Result<Page> {
    read_last(log, Part::since(0), 0, lines)
}

/// Creates two runs with small segments, in which the text of each line is its number.
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
fn every_number_is_a_valid_cursor() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let (segments, all) = a_log(dir.path());
    assert_eq!(all.len(), 60);
    assert!(segments.len() > 10);
    let end = segments.end().expect("a look");
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
fn tail_returns_last_lines_of_log() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let (segments, all) = a_log(dir.path());
    for lines in 1..=65 {
        let page = read_tail(&segments, lines).expect("reads");
        assert_eq!(page.lines, all[all.len().saturating_sub(lines)..], "{lines} lines");
        assert_eq!(page.next, all.last().expect("lines").id);
    }
}

#[test]
fn incomplete_record_or_empty_segment_does_not_shorten_tail() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let (segments, all) = a_log(dir.path());
    let last = segments.last().expect("some");
    let mut file = File::options().append(true).open(&last.path).expect("there");
    file.write_all(b"2023-11-14T22:13:20.007Z o. half").expect("writes");
    for lines in [1, 2, 59, 60] {
        assert_eq!(read_tail(&segments, lines).expect("reads").lines, all[60 - lines..], "{lines} lines");
    }
    file.set_len(file.metadata().expect("there").len() - 32).expect("cuts");
    // A run that has printed nothing yet, and a run that is in the middle of its first line.
    let next =
        Segment { start: segments.end().expect("a look"), path: dir.path().join("next.log"), run_id: Some(3), packed_end: None };
    let with_next: SegmentList = segments.iter().cloned().chain([next.clone()]).collect();
    for said in ["", "2023"] {
        fs::write(&next.path, said).expect("writes");
        for lines in [1, 2, 59, 60] {
            assert_eq!(read_tail(&with_next, lines).expect("reads").lines, all[60 - lines..], "{lines} lines, {said:?}");
        }
    }
}

#[test]
fn incomplete_record_is_shown_only_after_another_run_begins() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let (segments, all) = a_log(dir.path());
    let last = segments.last().expect("some");
    File::options().append(true).open(&last.path).expect("there").write_all(b"2023-11-14T22:13:20.007Z o. half").expect("writes");
    assert_eq!(read_since(&segments, 0, 1_000).expect("reads").lines, all);
    // Once the segment of another run follows, the record will not be completed.
    let start = segments.end().expect("a look");
    let next = Segment { start, packed_end: None, path: dir.path().join("next.log"), run_id: Some(3) };
    File::create(&next.path).expect("creates");
    let segments: SegmentList = [&segments[..], &[next]].concat().into();
    let lines = read_since(&segments, 0, 1_000).expect("reads").lines;
    assert_eq!(lines.len(), all.len() + 1);
    assert_eq!(lines.last().expect("lines").line, "half");
}

#[test]
fn page_of_long_lines_is_limited_in_bytes() {
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
fn empty_log_has_no_lines_and_keeps_cursor() {
    let none: SegmentList = [].into();
    let nothing = Page { is_whole: true, is_at_end: true, ..Page::default() };
    assert_eq!(read_since(&none, 0, 10).expect("reads"), nothing);
    assert_eq!(read_tail(&none, 10).expect("reads"), nothing);
    assert_eq!(read_since(&none, 77, 10).expect("reads").next, 77, "a cursor from before is kept");
}

/// Lists the segments of both runs again.
fn look_again(dir: &Path) -> SegmentList {
    let of = |run_id: i64| segments_in(&dir.join(run_id.to_string()), Some(run_id)).expect("a look");
    [of(1), of(2)].concat().into()
}

#[test]
fn packed_and_plain_segments_read_the_same_from_every_cursor() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let (segments, all) = a_log(dir.path());
    let end = segments.end().expect("a look");
    for (n, segment) in segments.iter().enumerate() {
        if n % 3 != 1 {
            assert_eq!(pack(segment, || true).expect("packs"), Packing::Done);
        }
    }
    let packed = look_again(dir.path());
    assert!(packed.iter().any(|segment| segment.packed_end.is_some()) && packed.len() == segments.len());
    assert_eq!(packed.end().expect("a look"), end);
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
fn missing_bytes_are_reported_at_their_exact_position() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let (segments, all) = a_log(dir.path());
    // The first segment, and two in the middle of the second run.
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
    // In the middle of the missing bytes.
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
    let page = read_tail(&look_again(one.path()), 1_000).expect("reads");
    assert_eq!(page.gone, segments[1].start, "a tail that reaches the beginning says what lay before");
}

#[test]
fn room_for_a_loss_mark_is_not_missing_bytes() {
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
fn run_after_empty_segment_at_same_start_is_read() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let (segments, all) = a_log(dir.path());
    let end = segments.end().expect("a look");
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

/// Lists an existing segment, and packs it before it can be opened.
struct PackedMeanwhile {
    dir: PathBuf,
}

impl ShortLog for PackedMeanwhile {
    fn segments(&self) -> io::Result<SegmentList> {
        let list = look_again(&self.dir);
        if let Some(plain) = list.iter().find(|segment| segment.packed_end.is_none()) {
            pack(plain, || true)?;
        }
        Ok(list)
    }
}

#[test]
fn segment_packed_between_scan_and_open_is_not_missing() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let (_, all) = a_log(dir.path());
    let page = read_since(&PackedMeanwhile { dir: dir.path().to_owned() }, 0, 1_000).expect("reads");
    assert_eq!((page.lines, page.gone), (all, 0));
    let dir = tempfile::tempdir().expect("a temp folder");
    let (_, all) = a_log(dir.path());
    let page = read_tail(&PackedMeanwhile { dir: dir.path().to_owned() }, 50).expect("reads");
    assert_eq!((&page.lines[..], page.gone), (&all[10..], 0));
}

#[test]
fn damaged_frame_loses_only_its_lines_and_reports_missing_bytes() {
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
    let good: Vec<&Line> = got.iter().filter(|line| line.at.is_some()).collect();
    assert!(got.len() - good.len() <= 2, "at most what the damage breaks off");
    assert!(good.iter().all(|line| whole.contains(line)) && good.len() > whole.len() / 2);
    assert_eq!(got.last(), whole.last());

    // A tail goes back to the damage. It has every line after the damage, and says how much is missing there.
    let behind = (1..got.len()).find(|&n| got[n].id - got[n - 1].id > 60_000).expect("the damage");
    for count in [1, 2, 50, 1_500, 3_000] {
        let part = Part { up_to: got[behind + count - 1].id, ..Part::since(0) };
        let tail = read_last(&packed, part, 0, 5_000).expect("damage is no error");
        assert_eq!(tail.lines, got[behind..behind + count]);
        assert!(tail.gone > 60_000 && tail.gone <= gone, "{count} lines: {} of {gone} bytes gone", tail.gone);
        let exact = read_last(&packed, part, 0, count).expect("damage is no error");
        assert_eq!(exact.lines, tail.lines);
    }
}
