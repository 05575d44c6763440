//! Searches in turns, compared with all lines read one by one: of plain, packed and damaged logs, with turns of any length.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::reader_tests::read_since;
use super::record::{HEAD_LEN, RECORD_MAX, TEXT_MAX, push_record};
use super::*;
use crate::api::logs::{Line, Match, StreamName};

const AT: &[u8] = b"2023-11-14T22:13:20.007Z";
/// A turn that ends after each line.
const SHORTEST: Turn = Turn { bytes: 1, time: Duration::ZERO };
const ENDLESS: Turn = Turn { bytes: u64::MAX, time: Duration::MAX };

/// Writes a run of these lines from position 1,000 on, in segments of `segment_bytes` bytes. Every third line is on stderr.
fn a_run<'t>(dir: &Path, segment_bytes: u64, lines: impl Iterator<Item = &'t [u8]>) -> SegmentList {
    let mut writer = SegmentWriter::create(dir, 1_000, Limits { segment_bytes, run_bytes: 1 << 40 }).expect("creates");
    for (n, line) in lines.enumerate() {
        let mut out = Vec::new();
        push_record(&mut out, AT, if n % 3 == 0 { Stream::Stderr } else { Stream::Stdout }, n % 4 == 0, line);
        writer.write(&out, AT).expect("writes");
    }
    look(dir)
}

fn look(dir: &Path) -> SegmentList {
    segments_in(dir, Some(7)).expect("a look").into()
}

fn search(pattern: &Pattern) -> Search<'_> {
    Search { since: 1_000, end: None, stream: None, pattern, limit: 1_000 }
}

/// Searches everything in turns. Returns the result and the number of turns.
fn whole(log: &SegmentList, search: Search<'_>, turn: Turn) -> (Found, u64) {
    let (mut all, mut turns) = (Found { next: search.since, ..Found::default() }, 0);
    while !all.is_at_end {
        let found = Search { since: all.next, limit: search.limit - all.matches.len(), ..search }.run(log, turn).expect("reads");
        assert!(found.is_at_end || found.next > all.next, "it goes on");
        all.matches.extend(found.matches);
        all.count += found.count;
        all.lines += found.lines;
        (all.next, all.is_at_end) = (found.next, found.is_at_end);
        turns += 1;
    }
    (all, turns)
}

#[test]
fn search_turns_of_any_length_find_and_count_same_lines() {
    let texts: Vec<Vec<u8>> = (0..400)
        .map(|n| match n % 7 {
            0 => format!("\x1b[31mEr\x1b[0mror {n}\r").into_bytes(),
            1 => [b"\xfferror ".as_slice(), &vec![b'x'; n * 50]].concat(),
            _ => format!("line {n}").into_bytes(),
        })
        .collect();
    for (segment_bytes, is_packed) in [(2_000, false), (100_000, true), (1 << 30, false)] {
        let dir = tempfile::tempdir().expect("a temp folder");
        let mut log = a_run(dir.path(), segment_bytes, texts.iter().map(Vec::as_slice));
        if is_packed {
            assert!(log.len() > 3);
            for segment in &log[..log.len() - 1] {
                assert_eq!(pack(segment, &mut || true).expect("packs"), Packing::Done);
            }
            log = look(dir.path());
        }
        let lines = read_since(&log, 1_000, usize::MAX).expect("reads").lines;
        assert_eq!(lines.len(), 400);
        for pattern in [Pattern::text("error", false), Pattern::expression(r"^\W?err?or\b", false)] {
            let pattern = pattern.expect("good");
            for stream in [None, Some(StreamName::Stderr)] {
                let is_of = |line: &&Line| stream.is_none_or(|stream| line.stream == Some(stream));
                let of_stream: Vec<&Line> = lines.iter().filter(is_of).collect();
                let wanted: Vec<u64> = of_stream.iter().filter(|line| line.line.contains("ror")).map(|line| line.id).collect();
                for (turn, turns) in [(SHORTEST, 300..=401), (ENDLESS, 1..=1), (Turn { bytes: 50_000, ..ENDLESS }, 3..=40)] {
                    let search = Search { stream: stream.map(Into::into), ..search(&pattern) };
                    let (found, count) = whole(&log, search, turn);
                    assert!(turns.contains(&count), "{count} turns");
                    assert_eq!(found.matches.iter().map(|line| line.id).collect::<Vec<_>>(), wanted);
                    assert_eq!((found.count, found.lines), (wanted.len() as u64, of_stream.len() as u64));
                    assert_eq!(found.next, lines[399].id);
                    // Matches that are not listed are counted.
                    let (few, _) = whole(&log, Search { limit: 3, ..search }, turn);
                    assert_eq!((&*few.matches, few.count), (&found.matches[..3], found.count));
                }
            }
        }
    }
}

#[test]
fn search_turn_ends_at_its_limits_after_a_whole_line() {
    let dir = tempfile::tempdir().expect("a temp folder");
    // 17 MiB of the letter a, in lines of the greatest length.
    let line = vec![b'a'; TEXT_MAX];
    let log = a_run(dir.path(), 4 << 20, std::iter::repeat_n(line.as_slice(), 272));
    let alternatives = (1..=16).map(|n| "a".repeat(n)).collect::<Vec<_>>().join("|");
    for hostile in ["(a*)*b", "(a?){120}a{120}b", "(a{1,15}){1,15}b", "(.*a){70}.{100}b", &format!("({alternatives})+b")] {
        let pattern = Pattern::expression(hostile, false).expect(hostile);
        let bytes = |found: &Found| found.next - 1_000;
        // The limit of bytes ends a turn after 16 MiB, the limit of time after one line.
        let found = search(&pattern).run(&log, Turn { bytes: SEARCH_TURN.bytes, time: Duration::ZERO }).expect("reads");
        assert_eq!((found.is_at_end, found.lines, bytes(&found)), (false, 1, (HEAD_LEN + TEXT_MAX + 1) as u64), "{hostile}");
        let real = search(&pattern).run(&log, SEARCH_TURN).expect("reads");
        assert!(!real.is_at_end && real.lines > 0 && real.next > 1_000, "{hostile}");
        assert!(bytes(&real) < SEARCH_TURN.bytes + RECORD_MAX as u64, "{hostile}");
    }
    let pattern = Pattern::text("b", false).expect("good");
    let found = search(&pattern).run(&log, Turn { time: Duration::MAX, ..SEARCH_TURN }).expect("reads");
    assert!(!found.is_at_end && (SEARCH_TURN.bytes..SEARCH_TURN.bytes + RECORD_MAX as u64).contains(&(found.next - 1_000)));
}

#[test]
fn long_line_is_truncated_around_first_match() {
    let sample = |before: usize, hit: &str, behind: usize| "\u{e4}".repeat(before) + hit + &"\u{f6}".repeat(behind);
    let cases = [
        (sample(0, "hit", 497), sample(0, "hit", 497)),
        (sample(0, "hit", 498), sample(0, "hit", 497)),
        (sample(1_000, "hit", 1_000), sample(248, "hit", 249)),
        (sample(1_000, "hit", 10), sample(487, "hit", 10)),
        (sample(10, "hit", 1_000), sample(10, "hit", 487)),
        (sample(400, "hit", 1_000) + "hit", sample(248, "hit", 249)),
        (sample(300, &"hit".repeat(400), 5), "hit".repeat(400)[..500].to_owned()),
    ];
    let dir = tempfile::tempdir().expect("a temp folder");
    let log = a_run(dir.path(), 1 << 30, cases.iter().map(|(line, _)| line.as_bytes()));
    let found = search(&Pattern::expression("(hit)+", true).expect("good")).run(&log, ENDLESS).expect("reads");
    let listed: Vec<&str> = found.matches.iter().map(|line| &*line.line).collect();
    assert_eq!(listed, cases.iter().map(|(_, wanted)| &**wanted).collect::<Vec<_>>());
}

#[test]
fn search_continues_after_missing_or_damaged_lines_to_log_end() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let texts: Vec<String> = (0..60).map(|n| format!("hit {n}")).collect();
    let log = a_run(dir.path(), 300, texts.iter().map(String::as_bytes));
    let removed = &log[2];
    let of_removed = read_since(&log, removed.start, 100).expect("reads").lines;
    let gone: Vec<&str> = of_removed.iter().filter(|line| line.id <= log[3].start).map(|line| &*line.line).collect();
    fs::remove_file(&removed.path).expect("there");
    let newest = log.last().expect("some");
    let torn = [&fs::read(&newest.path).expect("reads")[..], b"no record: hit\nhalf a hit"].concat();
    fs::write(&newest.path, torn).expect("writes");
    let kept = look(dir.path());
    let pattern = Pattern::text("hit", true).expect("good");
    for turn in [SHORTEST, ENDLESS] {
        let (found, _) = whole(&kept, search(&pattern), turn);
        let listed: Vec<&str> = found.matches.iter().map(|line| &*line.line).collect();
        let wanted: Vec<&str> = texts.iter().map(|text| &**text).filter(|text| !gone.contains(text)).collect();
        assert_eq!(
            (&listed[..listed.len() - 1], listed.last()),
            (&*wanted, Some(&"no record: hit")),
            "a line that is not complete does not count"
        );
        let damaged = Match { id: found.next, at: None, stream: None, line: "no record: hit".to_owned(), partial: false };
        assert_eq!(found.matches.last(), Some(&damaged));
        // If nothing will be added to the log, the torn line counts.
        let end = kept.end().expect("a look");
        let (over, _) = whole(&kept, Search { end: Some(end), ..search(&pattern) }, turn);
        assert_eq!(
            (over.count, over.next, over.matches.last().map(|line| &*line.line)),
            (found.count + 1, end, Some("half a hit"))
        );
    }
    let beyond = Search { since: 1 << 40, ..search(&pattern) }.run(&kept, ENDLESS).expect("reads");
    assert_eq!(beyond, Found { next: 1 << 40, is_at_end: true, ..Found::default() });
}
