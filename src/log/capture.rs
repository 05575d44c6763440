//! Line splitting: from a stream of bytes to records.

use std::time::Duration;

use super::record::{Stream, TEXT_MAX, push_record, record_head};
use crate::pipeline::{MARK_BYTES_MAX, Mark};

/// How long an unfinished line, such as a prompt or a progress bar, can wait before it is written without its end.
const UNFINISHED_SHOWN_AFTER: Duration = Duration::from_millis(250);

/// The number of bytes of records that is enough for one write.
pub const RECORDS_ENOUGH: usize = 128 * 1024;

/// A splitter of one stream into lines. All times are in awake time.
#[derive(Debug)]
pub struct LineSplitter {
    stream: Stream,
    /// The part of the current line that was not written yet, at most [`TEXT_MAX`] bytes.
    unfinished: Vec<u8>,
    /// When `unfinished` began to wait.
    since: Duration,
    /// Whether a part of the current line was already written, with the mark that it continues.
    is_continued: bool,
    /// The beginning of the current line, as far as it can be a mark, even if it was already written.
    beginning: Vec<u8>,
    /// Lines by which the pipeline reports its progress, until they are taken.
    marks: Vec<Mark>,
}

impl LineSplitter {
    /// Creates a splitter for one stream, from its beginning.
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            unfinished: Vec::new(),
            since: Duration::ZERO,
            is_continued: false,
            beginning: Vec::new(),
            marks: Vec::new(),
        }
    }

    /// Takes bytes that arrived at `at`, and appends the records that they complete to `out`.
    ///
    /// `at` is a timestamp as text, and `now` is in awake time. Stops at [`RECORDS_ENOUGH`] bytes of records, because empty lines
    /// become thirty times as long. Returns how many bytes it took. Hand in the rest once `out` is written.
    pub fn push(&mut self, bytes: &[u8], at: &[u8], now: Duration, out: &mut Vec<u8>) -> usize {
        let head = record_head(at, self.stream, false);
        let mut used = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            let line = &bytes[used..end];
            self.read_mark(line);
            if self.unfinished.is_empty() && line.len() <= TEXT_MAX {
                // The usual case, up to a million times a second: two copies, the newline with the text.
                out.extend_from_slice(&head);
                out.extend_from_slice(&bytes[used..=end]);
                self.is_continued = false;
            } else {
                self.keep(line, at, now, out);
                self.finish(at, out);
            }
            used = end + 1;
            if out.len() >= RECORDS_ENOUGH {
                return used;
            }
        }
        self.begin(&bytes[used..]);
        self.keep(&bytes[used..], at, now, out);
        bytes.len()
    }

    /// Returns the marks among the lines that were handed in, in order. If they are taken after each push, there are no more than
    /// one push can bring.
    pub fn take_marks(&mut self) -> Vec<Mark> {
        std::mem::take(&mut self.marks)
    }

    /// Reads the mark, if the current line is one. `bytes` is the rest of the line, up to its end.
    fn read_mark(&mut self, bytes: &[u8]) {
        // Nearly every line is not a mark, which its first bytes show.
        if self.beginning.is_empty() {
            if bytes.starts_with(b"::") {
                self.marks.extend(Mark::parse(bytes));
            }
        } else {
            self.begin(bytes);
            self.marks.extend(Mark::parse(&self.beginning));
            self.beginning.clear();
        }
    }

    /// Keeps as much of an unfinished line as decides whether it is a mark.
    fn begin(&mut self, bytes: &[u8]) {
        let room = MARK_BYTES_MAX - self.beginning.len();
        self.beginning.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Writes the unfinished line without its end, if it has waited long enough. Half a character at its end waits longer.
    pub fn flush_if_due(&mut self, at: &[u8], now: Duration, out: &mut Vec<u8>) {
        if self.due_at().is_some_and(|due| due <= now) {
            let whole = whole_characters(&self.unfinished);
            if whole > 0 {
                push_record(out, at, self.stream, true, &self.unfinished[..whole]);
                self.unfinished.drain(..whole);
                self.is_continued = true;
            }
            self.since = now;
        }
    }

    /// Returns when the unfinished line must be written, or `None` without an unfinished line.
    pub fn due_at(&self) -> Option<Duration> {
        // Half a character alone is no reason to wake up.
        (whole_characters(&self.unfinished) > 0).then(|| self.since + UNFINISHED_SHOWN_AFTER)
    }

    /// Ends the stream. The rest is the last line, with or without a newline.
    pub fn end(&mut self, at: &[u8], out: &mut Vec<u8>) {
        // A line without an end could have continued, so it is not a mark.
        self.beginning.clear();
        if !self.unfinished.is_empty() || self.is_continued {
            self.finish(at, out);
        }
    }

    fn keep(&mut self, mut bytes: &[u8], at: &[u8], now: Duration, out: &mut Vec<u8>) {
        if self.unfinished.is_empty() {
            self.since = now;
        }
        while self.unfinished.len() + bytes.len() > TEXT_MAX {
            let (now_full, rest) = bytes.split_at(TEXT_MAX - self.unfinished.len());
            self.unfinished.extend_from_slice(now_full);
            let whole = whole_characters(&self.unfinished);
            push_record(out, at, self.stream, true, &self.unfinished[..whole]);
            self.unfinished.drain(..whole);
            self.is_continued = true;
            bytes = rest;
        }
        self.unfinished.extend_from_slice(bytes);
    }

    fn finish(&mut self, at: &[u8], out: &mut Vec<u8>) {
        push_record(out, at, self.stream, false, &self.unfinished);
        self.unfinished.clear();
        self.is_continued = false;
    }
}

/// Returns the length of `bytes` without an incomplete UTF-8 character at the end. Bytes that cannot become a character are kept.
fn whole_characters(bytes: &[u8]) -> usize {
    // A character has at most four bytes. Its first byte says how many.
    let tail = bytes.len().saturating_sub(3);
    let Some(lead) = bytes[tail..].iter().rposition(|&byte| byte & 0b1100_0000 != 0b1000_0000) else { return bytes.len() };
    let lead = tail + lead;
    let wanted = match bytes[lead] {
        0b1100_0000..=0b1101_1111 => 2,
        0b1110_0000..=0b1110_1111 => 3,
        0b1111_0000..=0b1111_0111 => 4,
        _ => 1,
    };
    if bytes.len() - lead < wanted { lead } else { bytes.len() }
}

#[cfg(test)]
mod tests {
    use super::super::record::parse_record;
    use super::*;

    const AT: &[u8] = b"2023-11-14T22:13:20.007Z";

    fn records(out: &[u8]) -> Vec<(bool, Vec<u8>)> {
        out.split_inclusive(|&byte| byte == b'\n')
            .map(|line| {
                let record = parse_record(line.strip_suffix(b"\n").expect("whole")).expect("a record");
                (record.goes_on, record.text.to_vec())
            })
            .collect()
    }

    /// Hands in all bytes, as the shim does.
    fn push(splitter: &mut LineSplitter, bytes: &[u8], now: Duration, out: &mut Vec<u8>) {
        let (mut used, mut written) = (0, Vec::new());
        while used < bytes.len() {
            used += splitter.push(&bytes[used..], AT, now, &mut written);
            assert!(written.len() <= RECORDS_ENOUGH + bytes.len() + 2 * TEXT_MAX, "bounded: {} bytes", written.len());
            out.append(&mut written);
        }
    }

    /// Returns the bytes that the records stand for.
    fn joined(out: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (goes_on, text) in records(out) {
            bytes.extend(text);
            if !goes_on {
                bytes.push(b'\n');
            }
        }
        bytes
    }

    #[test]
    fn records_do_not_depend_on_read_boundaries() {
        let stream = b"one\n\ntwo\0\r\n\xff\xfe h\xc3\xa9llo\nno newline";
        let mut whole = Vec::new();
        let mut splitter = LineSplitter::new(Stream::Stdout);
        push(&mut splitter, stream, Duration::ZERO, &mut whole);
        splitter.end(AT, &mut whole);
        assert_eq!(records(&whole).len(), 5);
        for first in 0..stream.len() {
            for second in first..stream.len() {
                let mut out = Vec::new();
                let mut splitter = LineSplitter::new(Stream::Stdout);
                for part in [&stream[..first], &stream[first..second], &stream[second..]] {
                    push(&mut splitter, part, Duration::ZERO, &mut out);
                }
                splitter.end(AT, &mut out);
                assert_eq!(out, whole, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn marks_are_found_across_read_boundaries_and_flushes() {
        let stream = b"::step one\n::steps\n::progress 40 Bu\xc3\xa4ding\r\nx ::step no\n:\n::progress 50\n\n::step no end";
        let found = |marks: Vec<Mark>| {
            let words = marks.into_iter().map(|mark| match mark {
                Mark::Progress { percent, text } => {
                    format!("{percent} {}", text.map_or_else(String::new, |text| text.as_str().into()))
                }
                Mark::Step { name } => name.as_str().to_owned(),
            });
            words.collect::<Vec<_>>().join(",")
        };
        for first in 0..stream.len() {
            for second in first..stream.len() {
                // The second time, each part is written before the next one arrives, as with a prompt.
                for wait in [Duration::ZERO, Duration::from_secs(1)] {
                    let (mut out, mut splitter, mut now) = (Vec::new(), LineSplitter::new(Stream::Stdout), Duration::ZERO);
                    for part in [&stream[..first], &stream[first..second], &stream[second..]] {
                        push(&mut splitter, part, now, &mut out);
                        now += wait;
                        splitter.flush_if_due(AT, now, &mut out);
                    }
                    splitter.end(AT, &mut out);
                    assert_eq!(found(splitter.take_marks()), "one,40 Buäding,50 ", "cut at {first} and {second}");
                }
            }
        }
    }

    #[test]
    fn mark_of_any_length_is_found_only_at_line_start() {
        let name = |mark: &Mark| matches!(mark, Mark::Step { name } if name.as_str() == "n".repeat(200));
        for length in [200, MARK_BYTES_MAX, TEXT_MAX - 7, TEXT_MAX, TEXT_MAX + 1, 3 * TEXT_MAX] {
            for chunk in [1_000, TEXT_MAX, TEXT_MAX + 7, usize::MAX] {
                let stream = [&b"::step "[..], &b"n".repeat(length), b"\n"].concat();
                let ordinary = [&b"x".repeat(length)[..], b"::step n\n::step "].concat();
                let (mut out, mut splitter) = (Vec::new(), LineSplitter::new(Stream::Stderr));
                for part in [&stream[..], &ordinary].concat().chunks(chunk.min(stream.len() + ordinary.len())) {
                    push(&mut splitter, part, Duration::ZERO, &mut out);
                }
                let marks = splitter.take_marks();
                assert!(marks.len() == 1 && name(&marks[0]), "length {length} in chunks of {chunk}: {} marks", marks.len());
                assert!(splitter.take_marks().is_empty() && splitter.beginning.len() <= MARK_BYTES_MAX);
            }
        }
    }

    /// Returns a stream of everything that lines can consist of, the same for the same seed.
    fn a_stream(seed: &mut u64) -> Vec<u8> {
        let mut next = |below: u64| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*seed >> 33) % below
        };
        let mut stream = Vec::new();
        for _ in 0..next(12) {
            match next(8) {
                0 => stream.extend(std::iter::repeat_n(b'\n', usize::try_from(next(12_000)).expect("small"))),
                1 => stream.extend(std::iter::repeat_n(b'x', TEXT_MAX - 2 + usize::try_from(next(4)).expect("small"))),
                2 => stream.extend("größer ☃ 💡".repeat(usize::try_from(next(3_000)).expect("small")).bytes()),
                3 => stream.extend(b"10 %\r20 %\r\0\x1b[1m"),
                4 => stream.extend(b"\xff\xc3\xe2\x98\xf0\x9f\x92"),
                5 => stream.extend(b"\xc3\n\x83\n"),
                _ => stream.extend(b"a line\n"),
            }
        }
        stream
    }

    #[test]
    fn random_stream_keeps_records_and_bytes_in_any_chunks() {
        let mut seed = 20_260_131;
        for _ in 0..40 {
            let stream = a_stream(&mut seed);
            let mut whole = Vec::new();
            let mut splitter = LineSplitter::new(Stream::Stdout);
            push(&mut splitter, &stream, Duration::ZERO, &mut whole);
            splitter.end(AT, &mut whole);
            let mut with_end = stream.clone();
            if !stream.is_empty() && !stream.ends_with(b"\n") {
                with_end.push(b'\n');
            }
            assert!(joined(&whole) == with_end, "each byte is there, once");
            assert!(records(&whole).iter().all(|(_, text)| text.len() <= TEXT_MAX));
            // In pieces, and the same with pauses in which unfinished lines are written.
            let (mut cut, mut shown) = (Vec::new(), Vec::new());
            let mut splitters = [LineSplitter::new(Stream::Stdout), LineSplitter::new(Stream::Stdout)];
            let (mut rest, mut now) = (&stream[..], Duration::ZERO);
            while !rest.is_empty() {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let len = usize::try_from((seed >> 33) % if stream.len() < 20_000 { 50 } else { 100_000 }).expect("small") + 1;
                let (piece, others) = rest.split_at(len.min(rest.len()));
                push(&mut splitters[0], piece, Duration::ZERO, &mut cut);
                push(&mut splitters[1], piece, now, &mut shown);
                now += Duration::from_millis(seed % 400);
                splitters[1].flush_if_due(AT, now, &mut shown);
                rest = others;
            }
            splitters[0].end(AT, &mut cut);
            splitters[1].end(AT, &mut shown);
            assert!(cut == whole, "cut otherwise, the records are others");
            assert!(joined(&shown) == with_end, "shown in parts, the lines are others");
        }
    }

    #[test]
    fn line_longer_than_a_record_is_split_and_rejoined() {
        for len in [TEXT_MAX - 1, TEXT_MAX, TEXT_MAX + 1, 3 * TEXT_MAX + 5] {
            for chunk in [1000, 65_536, usize::MAX] {
                let mut line = vec![b'x'; len];
                line.push(b'\n');
                let mut out = Vec::new();
                let mut splitter = LineSplitter::new(Stream::Stderr);
                for part in line.chunks(chunk.min(line.len())) {
                    push(&mut splitter, part, Duration::ZERO, &mut out);
                }
                splitter.end(AT, &mut out);
                assert!(records(&out).iter().all(|(_, text)| text.len() <= TEXT_MAX));
                assert!(joined(&out) == line, "length {len} in chunks of {chunk}");
            }
        }
    }

    #[test]
    fn utf_8_characters_are_not_split_between_records() {
        let mut line = vec![b'x'; TEXT_MAX - 1];
        line.extend("é\n".bytes());
        let mut out = Vec::new();
        push(&mut LineSplitter::new(Stream::Stdout), &line, Duration::ZERO, &mut out);
        for (_, text) in records(&out) {
            std::str::from_utf8(&text).expect("whole characters");
        }
        assert!(joined(&out) == line);
        for (bytes, whole) in [
            (&b"ab\xc3"[..], 2),
            (b"ab\xe2\x82", 2),
            (b"\xf0\x9f\x92", 0),
            (b"ab\xc3\xa9", 4),
            (b"\x80\x80\x80\x80", 4),
            (b"", 0),
        ] {
            assert_eq!(whole_characters(bytes), whole, "{bytes:?}");
        }
    }

    #[test]
    fn prompt_is_flushed_after_its_wait_and_line_stays_whole() {
        let ms = Duration::from_millis;
        let mut out = Vec::new();
        let mut splitter = LineSplitter::new(Stream::Stdout);
        push(&mut splitter, b"Name? \xc3", ms(1_000), &mut out);
        assert_eq!(splitter.due_at(), Some(ms(1_250)));
        splitter.flush_if_due(AT, ms(1_249), &mut out);
        assert!(out.is_empty());
        splitter.flush_if_due(AT, ms(1_250), &mut out);
        assert_eq!(records(&out), [(true, b"Name? ".to_vec())], "half a character waits");
        push(&mut splitter, b"\xa9\n", ms(1_300), &mut out);
        assert_eq!(joined(&out), "Name? é\n".as_bytes());
        assert_eq!(splitter.due_at(), None);

        push(&mut splitter, b"bye", ms(2_000), &mut out);
        splitter.flush_if_due(AT, ms(3_000), &mut out);
        splitter.end(AT, &mut out);
        assert_eq!(joined(&out), "Name? é\nbye\n".as_bytes(), "the end closes a line that was shown in part");
    }
}
