//! The progress that a pipeline reports: its lines, however they arrive, what they result in, and a stored progress that any
//! program could have written.

use std::time::Duration;

use autoappdev::clock::Timestamp;
use autoappdev::log::{LineSplitter, Stream};
use autoappdev::pipeline::{Mark, Progress};
use autoappdev::run_dir::{NumberedProgress, parse_progress};
use serde_json::json;

use super::cut::{choices, pieces};

const AT: &[u8] = b"2023-11-14T22:13:20.007Z";
/// More than any progress takes as JSON.
const JSON_BYTES_MAX: usize = 32 * 1024;

pub fn run(bytes: &[u8]) {
    let ([how, waits], stream) = choices::<2>(bytes);
    let lines = stream.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    let wanted: Vec<Mark> = lines.filter_map(Mark::parse).collect();
    assert_eq!(found(&pieces(stream, how), waits), wanted, "other marks when they come in pieces");

    let mut progress = Progress::new(Timestamp::from_unix_ms(0));
    for (n, mark) in (0..).zip(wanted) {
        assert_eq!(said_again(&mark), Some(mark.clone()));
        progress.take(mark, Timestamp::from_unix_ms(n), 7);
    }
    let stored = json!({"format": 1, "number": 9, "progress": progress}).to_string();
    assert!(stored.len() < JSON_BYTES_MAX, "{} bytes", stored.len());
    assert_eq!(parse_progress(stored.as_bytes()).expect("its own"), NumberedProgress { progress, number: 9 });

    if let Ok(read) = parse_progress(stream) {
        let shown = read.progress.shown(Some(Timestamp::from_unix_ms(0)));
        assert!(shown.steps.iter().next_back().is_none_or(|step| step.ended_at.is_some()));
    }
}

/// Returns what the splitter finds. `waits` is the number of milliseconds between two pieces.
fn found(pieces: &[&[u8]], waits: u8) -> Vec<Mark> {
    let (mut splitter, mut marks, mut now) = (LineSplitter::new(Stream::Stdout), Vec::new(), Duration::ZERO);
    for piece in pieces {
        let mut used = 0;
        while used < piece.len() {
            used += splitter.push(&piece[used..], AT, now, &mut Vec::new());
            marks.extend(splitter.take_marks());
        }
        now += Duration::from_millis(u64::from(waits));
        splitter.flush_if_due(AT, now, &mut Vec::new());
    }
    splitter.end(AT, &mut Vec::new());
    marks.extend(splitter.take_marks());
    marks
}

/// Returns what is found in a line that the grammar makes of a mark.
fn said_again(mark: &Mark) -> Option<Mark> {
    let line = match mark {
        Mark::Progress { percent, text: None } => format!("::progress {percent}"),
        Mark::Progress { percent, text: Some(text) } => format!("::progress {percent} {}", text.as_str()),
        Mark::Step { name } => format!("::step {}", name.as_str()),
    };
    Mark::parse(line.as_bytes())
}
