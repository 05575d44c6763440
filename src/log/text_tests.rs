//! The text of a run in all its forms, compared with the output: random streams, small segments, plain and packed.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use super::record::{HEAD_LEN, parse_record, push_record};
use super::*;
use crate::clock::TIMESTAMP_LEN;

const AT: &[u8] = b"2023-11-14T22:13:20.007Z";
const BEGIN: u64 = 5_000;

/// Random numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn size(&mut self, limit: u64) -> usize {
        usize::try_from(self.below(limit)).expect("small")
    }
}

/// Returns a piece of what programs print.
fn a_piece(dice: &mut Dice) -> Vec<u8> {
    match dice.below(9) {
        0 => vec![b'\n'; dice.size(200)],
        1 => vec![b'x'; TEXT_MAX - 2 + dice.size(2_000)],
        2 => "größer ☃ 💡".repeat(dice.size(100)).into_bytes(),
        3 => b"10 %\r20 %\r\0\x1b[1m".to_vec(),
        4 => b"\xff\xc3\xe2\x98\xf0\x9f\x92".to_vec(),
        5 => b"2023-11-14T22:13:20.007Z o. no record\n".to_vec(),
        _ => format!("line {}\n", dice.below(1_000_000)).into_bytes(),
    }
}

/// The output: everything in the order of the records, and each stream.
struct Told {
    all: Vec<u8>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Writes output to both streams as the shim does, in segments of about `segment_bytes` bytes.
fn say(dice: &mut Dice, dir: &Path, segment_bytes: u64, pieces: u64) -> Told {
    let limits = Limits { segment_bytes, run_bytes: 1 << 40 };
    let mut writer = SegmentWriter::create(dir, BEGIN, limits).expect("creates");
    let mut splitters = [LineSplitter::new(Stream::Stdout), LineSplitter::new(Stream::Stderr)];
    let mut said = [Vec::new(), Vec::new()];
    let (mut records, mut now) = (Vec::new(), Duration::ZERO);
    for n in 0..=pieces {
        let mut out = Vec::new();
        if n == pieces {
            splitters[0].end(AT, &mut out);
            splitters[1].end(AT, &mut out);
        } else {
            let stream = dice.size(2);
            let piece = a_piece(dice);
            let mut used = 0;
            while used < piece.len() {
                used += splitters[stream].push(&piece[used..], AT, now, &mut out);
            }
            said[stream].extend(piece);
            now += Duration::from_millis(dice.below(400));
            for splitter in &mut splitters {
                splitter.flush_if_due(AT, now, &mut out);
            }
        }
        writer.write(&out, AT).expect("writes");
        records.extend(out);
    }
    for stream in said.iter_mut().filter(|stream| !stream.is_empty() && !stream.ends_with(b"\n")) {
        stream.push(b'\n');
    }
    let mut all = Vec::new();
    for line in records.split_inclusive(|&byte| byte == b'\n') {
        let record = parse_record(line.strip_suffix(b"\n").expect("whole")).expect("a record");
        all.extend_from_slice(record.text);
        all.extend((!record.goes_on).then_some(b'\n'));
    }
    let [stdout, stderr] = said;
    Told { all, stdout, stderr }
}

fn run_log(dir: &Path) -> (RunLog, std::path::PathBuf) {
    let log_dir = dir.join("runs/7/log");
    fs::create_dir_all(&log_dir).expect("creates");
    (RunLogs::new(dir.to_owned()).of_run(7), log_dir)
}

fn look(log: &RunLog, end: Option<u64>) -> RunText {
    RunText::look(log, BEGIN, end).expect("a look")
}

fn read(mut reader: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).expect("reads");
    bytes
}

fn look_at_said(log: &RunLog, end: Option<u64>, form: Form, wanted: &[u8]) {
    assert!(read(RunOutput::new(&look(log, end), form)) == wanted, "{form:?}");
}

#[test]
fn log_text_returns_any_output_byte_for_byte() {
    let mut dice = Dice(20_260_131);
    for round in 0..12 {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (log, log_dir) = run_log(dir.path());
        let (segment_bytes, pieces) = (1 + dice.below(if round % 2 == 0 { 2_000 } else { 300_000 }), dice.below(60));
        let told = say(&mut dice, &log_dir, segment_bytes, pieces);
        let segments = segments_in(&log_dir, Some(7)).expect("a look");
        let records: Vec<u8> = segments.iter().flat_map(|segment| fs::read(&segment.path).expect("reads")).collect();
        let end = segments.last().expect("it said something").end().expect("a look");
        for segment in segments.iter().filter(|_| round % 3 != 0) {
            if dice.below(3) > 0 {
                pack(segment, || true).expect("packs");
            }
        }
        for end in [None, Some(end), Some(end + LOSS_MARK_BYTES_MAX)] {
            let text = look(&log, end);
            assert_eq!(
                (text.byte_count(), text.gone(), text.version()),
                (records.len() as u64, 0, (BEGIN + text.byte_count(), 0))
            );
            assert!(read(text.into_reader()) == records);
        }
        for (stream, wanted) in [(None, &told.all), (Some(Stream::Stdout), &told.stdout), (Some(Stream::Stderr), &told.stderr)] {
            look_at_said(&log, Some(end), Form { has_heads: false, stream }, wanted);
            let of_stream = |line: &&[u8]| stream.is_none_or(|stream| line[TIMESTAMP_LEN + 1] == stream as u8);
            let wanted = records.split_inclusive(|&byte| byte == b'\n').filter(of_stream).collect::<Vec<_>>().concat();
            look_at_said(&log, None, Form { has_heads: true, stream }, &wanted);
        }
    }
}

/// Writes a run of a hundred lines in small segments, and removes the first segment and one in the middle. Returns the text that
/// is left, with marks.
fn with_holes(dir: &Path) -> (RunLog, String, u64) {
    let (log, log_dir) = run_log(dir);
    let mut writer = SegmentWriter::create(&log_dir, BEGIN, Limits { segment_bytes: 400, run_bytes: 1 << 40 }).expect("creates");
    for n in 0..100 {
        let mut out = Vec::new();
        push_record(&mut out, AT, Stream::Stdout, n % 3 == 1, format!("line {n}").as_bytes());
        writer.write(&out, AT).expect("writes");
    }
    let segments = segments_in(&log_dir, Some(7)).expect("a look");
    let removed = [0, 1, segments.len() / 2];
    let front = segments[2].start - BEGIN;
    let mut wanted = format!("[autoappdev: the first {front} bytes of this log were removed]\n");
    for (n, segment) in segments.iter().enumerate().skip(2) {
        let text = fs::read_to_string(&segment.path).expect("text");
        let mark = format!("[autoappdev: {} bytes of this log are missing here]\n", text.len());
        wanted += if removed.contains(&n) { &mark } else { &text };
    }
    for n in removed {
        fs::remove_file(&segments[n].path).expect("there");
    }
    (log, wanted, front)
}

#[test]
fn missing_bytes_are_one_line_in_every_text_form() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let (log, wanted, front) = with_holes(dir.path());
    let text = look(&log, None);
    assert_eq!((text.gone(), text.byte_count()), (front, wanted.len() as u64));
    assert_eq!(String::from_utf8(read(text.into_reader())).expect("text"), wanted);
    let mut said = String::new();
    for line in wanted.lines() {
        if line.starts_with('[') {
            if !said.is_empty() && !said.ends_with('\n') {
                said.push('\n');
            }
            said.push_str(line);
            said.push('\n');
        } else {
            said.push_str(&line[HEAD_LEN..]);
            said.push_str(if line.contains("o+") { "" } else { "\n" });
        }
    }
    look_at_said(&log, None, Form { has_heads: false, stream: None }, said.as_bytes());
    // Bytes are missing at the end of a run that has ended; then all bytes are missing.
    let end = look(&log, None).version().0;
    let text = look(&log, Some(end + 1_000));
    assert_eq!((text.gone(), text.version().0), (front, end + 1_000));
    let whole = wanted.clone() + "[autoappdev: 1000 bytes of this log are missing here]\n";
    assert_eq!(String::from_utf8(read(text.into_reader())).expect("text"), whole);
    fs::remove_dir_all(dir.path().join("runs/7")).expect("there");
    let text = look(&log, Some(end));
    let all = format!("[autoappdev: the first {} bytes of this log were removed]\n", end - BEGIN);
    assert_eq!(text.gone(), end - BEGIN);
    assert_eq!(String::from_utf8(read(RunOutput::new(&text, Form { has_heads: false, stream: None }))).expect("text"), all);
    assert_eq!(String::from_utf8(read(text.into_reader())).expect("text"), all);
    let text = look(&log, None);
    assert!(text.byte_count() == 0 && text.has_nothing());
}

#[test]
fn log_text_reading_survives_packing_and_detects_removal() {
    let form = Form { has_heads: false, stream: None };
    for is_packed in [true, false] {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (log, log_dir) = run_log(dir.path());
        let told = say(&mut Dice(3), &log_dir, 2_000, 40);
        let segments = segments_in(&log_dir, Some(7)).expect("a look");
        let records: Vec<u8> = segments.iter().flat_map(|segment| fs::read(&segment.path).expect("reads")).collect();
        let end = segments.last().expect("it said something").end().expect("a look");
        let text = look(&log, Some(end));
        let mut said = RunOutput::new(&text, form);
        let mut reader = text.into_reader();
        let mut begun = [vec![0; 100], vec![0; 100]];
        reader.read_exact(&mut begun[0]).expect("reads");
        said.read_exact(&mut begun[1]).expect("reads");
        for segment in &segments {
            if is_packed {
                pack(segment, || true).expect("packs");
            }
        }
        if !is_packed {
            fs::remove_file(&segments[segments.len() / 2].path).expect("there");
        }
        let results = [reader.read_to_end(&mut begun[0]).is_ok(), said.read_to_end(&mut begun[1]).is_ok()];
        if is_packed {
            assert_eq!(results, [true; 2]);
            assert!(begun == [records, told.all]);
        } else {
            // A reader that has promised a length gets no other text. The other reader gets a mark for the missing bytes.
            assert_eq!(results, [false, true]);
            assert!(records.starts_with(&begun[0]));
            assert!(String::from_utf8_lossy(&begun[1]).contains("bytes of this log are missing here]\n"));
        }
    }
}

#[test]
fn live_run_text_has_whole_records_and_nothing_later() {
    let form = Form { has_heads: false, stream: None };
    let dir = tempfile::tempdir().expect("a temp folder");
    let (log, log_dir) = run_log(dir.path());
    let told = say(&mut Dice(5), &log_dir, 3_000, 40);
    let newest = segments_in(&log_dir, Some(7)).expect("a look").pop().expect("one");
    let plain = fs::read(&newest.path).expect("reads");
    fs::write(&newest.path, [&plain[..], &AT[..9]].concat()).expect("writes");
    let text = look(&log, None);
    let len = text.byte_count();
    let said = RunOutput::new(&text, form);
    let later = [&plain[..], AT, b" o. later\n"].concat();
    fs::write(&newest.path, later).expect("writes");
    fs::write(log_dir.join("00000000000099999999.log"), [AT, b" o. much later\n"].concat()).expect("writes");
    assert!(read(said) == told.all);
    assert_eq!(read(text.into_reader()).len() as u64, len);
    // The text of a run that has ended has all bytes, even of a torn record.
    fs::remove_file(log_dir.join("00000000000099999999.log")).expect("there");
    fs::write(&newest.path, [&plain[..], AT, b" o. torn"].concat()).expect("writes");
    let end = newest.start + plain.len() as u64 + AT.len() as u64 + 8;
    assert!(read(RunOutput::new(&look(&log, Some(end)), form)) == [&told.all[..], b"torn\n"].concat());
    assert!(read(look(&log, Some(end)).into_reader()).ends_with(b"o. torn\n"));
    // A line that would have continued also ends with the text.
    fs::write(&newest.path, [&plain[..], AT, b" o+ half\n"].concat()).expect("writes");
    for end in [None, Some(newest.start + plain.len() as u64 + AT.len() as u64 + 9)] {
        let text = look(&log, end);
        let wanted = [&told.all[..], b"half\n"].concat();
        assert!(read(RunOutput::new(&text, form)) == wanted);
    }
}

#[test]
fn reading_a_stream_without_lines_interrupts_once_per_mib() {
    const RECORDS: usize = 6_000;
    let dir = tempfile::tempdir().expect("a temp folder");
    let (log, log_dir) = run_log(dir.path());
    let mut writer =
        SegmentWriter::create(&log_dir, BEGIN, Limits { segment_bytes: 1 << 30, run_bytes: 1 << 40 }).expect("creates");
    for _ in 0..RECORDS {
        let mut out = Vec::new();
        push_record(&mut out, AT, Stream::Stdout, false, &[b'x'; 1_000]);
        writer.write(&out, AT).expect("writes");
    }
    let end = look(&log, None).version().0;
    let mut said = RunOutput::new(&look(&log, None), Form { has_heads: false, stream: Some(Stream::Stderr) });
    let mut interruptions = 0;
    loop {
        match said.read(&mut [0; 100]) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => interruptions += 1,
            other => break assert_eq!(other.expect("reads"), 0),
        }
    }
    // One interruption for each MiB that was skipped.
    assert!((4..=6).contains(&interruptions), "{interruptions} in {} bytes", end - BEGIN);
    let said = RunOutput::new(&look(&log, None), Form { has_heads: false, stream: Some(Stream::Stdout) });
    assert_eq!(read(said).len(), RECORDS * 1_001);
}

#[test]
fn damaged_frame_in_text_keeps_byte_count_and_other_text() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let (log, log_dir) = run_log(dir.path());
    let mut writer =
        SegmentWriter::create(&log_dir, BEGIN, Limits { segment_bytes: 1 << 30, run_bytes: 1 << 40 }).expect("creates");
    for n in 0..20_000 {
        let mut out = Vec::new();
        push_record(&mut out, AT, Stream::Stdout, false, format!("line {n}").as_bytes());
        writer.write(&out, AT).expect("writes");
    }
    let plain = segments_in(&log_dir, Some(7)).expect("a look").remove(0);
    let whole = fs::read(&plain.path).expect("reads");
    pack(&plain, || true).expect("packs");
    let packed = segments_in(&log_dir, Some(7)).expect("a look").remove(0);
    let mut bytes = fs::read(&packed.path).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 40].fill(0x55);
    fs::write(&packed.path, bytes).expect("writes");
    let text = read(look(&log, None).into_reader());
    assert_eq!(text.len(), whole.len());
    let differs: Vec<usize> = (0..whole.len()).filter(|&at| text[at] != whole[at]).collect();
    let (first, last) = (differs[0], differs[differs.len() - 1]);
    assert!(last - first < 128 * 1024 && first > 0 && last + 1 < whole.len());
    let shown = String::from_utf8_lossy(&text);
    assert_eq!(shown.matches("\n[autoappdev: 131072 bytes of this log are damaged here]").count(), 1);
    // In the other form, the damaged bytes are reported as missing.
    let said = read(RunOutput::new(&look(&log, None), Form { has_heads: false, stream: None }));
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("bytes of this log are missing here]\n") && said.ends_with("line 19999\n"));
}
