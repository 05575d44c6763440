//! The count of lines for which the disk had no room.

use super::record::{Stream, parse_record, push_record};

/// A count of lines, not of records: a line that was written in parts is lost once, whichever of its parts were lost.
#[derive(Debug, Default)]
pub(super) struct Loss {
    lines: u64,
    /// Whether the current line of standard output, and that of standard error, was already counted.
    is_counted: [bool; 2],
}

impl Loss {
    /// Returns how many lines were lost since [`Loss::reported`].
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// Resets the count, because it was written to the log.
    pub(super) fn reported(&mut self) {
        self.lines = 0;
    }

    /// Counts the lines of these whole records, which were not written.
    pub(super) fn lost(&mut self, records: &[u8]) {
        for (stream, goes_on) in marks(records) {
            let is_counted = &mut self.is_counted[stream];
            self.lines += u64::from(!*is_counted);
            *is_counted = goes_on;
        }
    }

    /// Notes that these whole records were written.
    pub(super) fn kept(&mut self, records: &[u8]) {
        // The usual case, because losses are rare.
        if self.is_counted == [false; 2] {
            return;
        }
        for (stream, goes_on) in marks(records) {
            self.is_counted[stream] &= goes_on;
        }
    }
}

/// Returns the record that says how many lines were lost.
pub(super) fn loss_mark(at: &[u8], stream: Stream, lines: u64) -> Vec<u8> {
    let mut mark = Vec::new();
    let text = format!("[autoappdev: {lines} lines are missing here: they could not be written to the disk]");
    push_record(&mut mark, at, stream, false, text.as_bytes());
    mark
}

/// Returns the stream of each record, and whether its line continues.
fn marks(records: &[u8]) -> impl Iterator<Item = (usize, bool)> {
    records.split_inclusive(|&byte| byte == b'\n').filter_map(|line| {
        let record = parse_record(line.strip_suffix(b"\n")?)?;
        Some((usize::from(record.stream == Stream::Stderr), record.goes_on))
    })
}

#[cfg(test)]
mod tests {
    use super::super::record::push_record;
    use super::*;

    const AT: &[u8] = b"2023-11-14T22:13:20.007Z";

    fn record(stream: Stream, goes_on: bool) -> Vec<u8> {
        let mut out = Vec::new();
        push_record(&mut out, AT, stream, goes_on, b"text");
        out
    }

    #[test]
    fn line_in_several_records_counts_as_lost_once() {
        use Stream::{Stderr, Stdout};
        // The number of lines that are not whole; then each record: its stream, whether its line continues, and whether it is
        // kept.
        for (lines, parts) in [
            (0, &[(Stdout, false, true), (Stderr, true, true)][..]),
            (1, &[(Stdout, false, false)]),
            (2, &[(Stdout, false, false), (Stdout, false, false)]),
            (1, &[(Stdout, true, false), (Stdout, true, false), (Stdout, false, false)]),
            (1, &[(Stdout, true, true), (Stdout, false, false)]),
            (1, &[(Stdout, true, false), (Stdout, false, true)]),
            (1, &[(Stdout, true, false), (Stdout, true, true), (Stdout, false, false)]),
            (2, &[(Stdout, true, false), (Stdout, false, true), (Stdout, false, false)]),
            (2, &[(Stdout, true, false), (Stderr, false, false), (Stdout, false, false)]),
            (1, &[(Stdout, true, false), (Stderr, false, true), (Stdout, false, false)]),
        ] {
            let mut loss = Loss::default();
            for &(stream, goes_on, is_kept) in parts {
                let record = record(stream, goes_on);
                if is_kept { loss.kept(&record) } else { loss.lost(&record) }
            }
            assert_eq!(loss.lines(), lines, "{parts:?}");
        }
    }

    #[test]
    fn reported_loss_is_not_counted_again() {
        let mut loss = Loss::default();
        loss.lost(&record(Stream::Stdout, true));
        assert_eq!(loss.lines(), 1);
        loss.reported();
        loss.lost(&record(Stream::Stdout, false));
        assert_eq!(loss.lines(), 0, "the rest of the same line");
    }
}
