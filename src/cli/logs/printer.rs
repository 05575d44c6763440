//! Prints lines on standard output, either exactly as written or made safe for a terminal, and notes on standard error.

use std::io::{self, Write};

use crate::api::logs::{Line, StreamName};
use crate::console::{TerminalLine, printable};

/// Writes lines, and joins lines that arrived in parts.
pub(super) struct Printer<W> {
    out: W,
    timestamps: bool,
    /// Whether the parts of a line are joined.
    joins: bool,
    /// The run and the stream of the unfinished line.
    open: Option<(Option<i64>, Option<StreamName>)>,
    /// The state of the current line for a terminal; `None` if output is not for a terminal.
    screen: Option<TerminalLine>,
}

impl<W: Write> Printer<W> {
    /// Creates a printer. Pass `joins` as false for a search: it does not return every part of a line, so a part need not
    /// continue the one before.
    pub(super) fn new(out: W, timestamps: bool, joins: bool) -> Self {
        Self { out, timestamps, joins, open: None, screen: None }
    }

    /// Removes everything but text and colours, because a terminal obeys any other control sequence.
    pub(super) fn for_terminal(self) -> Self {
        Self { screen: Some(TerminalLine::default()), ..self }
    }

    pub(super) fn document(&mut self, json: &str) -> io::Result<()> {
        writeln!(self.out, "{json}")?;
        self.out.flush()
    }

    /// Prints lines. A part is shown at once, because it can be a prompt. If a line of another stream arrives between two
    /// parts, the first part becomes a line.
    pub(super) fn lines(&mut self, lines: &[Line]) -> io::Result<()> {
        for line in lines {
            let whose = (line.run_id, line.stream);
            let goes_on = self.open.as_ref() == Some(&whose);
            if !goes_on {
                self.end_open_line()?;
                self.head(line)?;
            }
            let goes_on = line.partial && self.joins;
            if let Some(screen) = &mut self.screen {
                let shown = screen.part(&line.line, goes_on);
                if shown.replaces {
                    // The earlier text stays, because the cursor may be on another row by now.
                    self.out.write_all(b"\n")?;
                    self.head(line)?;
                }
                self.out.write_all(shown.text.as_bytes())?;
            } else {
                self.out.write_all(line.line.as_bytes())?;
            }
            self.open = Some(whose);
            if !goes_on {
                self.end_open_line()?;
            }
        }
        self.out.flush()
    }

    fn head(&mut self, line: &Line) -> io::Result<()> {
        if !self.timestamps {
            return Ok(());
        }
        match line.at {
            Some(at) => write!(self.out, "{at} ")?,
            None => write!(self.out, "{:24} ", "-")?,
        }
        line.stream.map_or(Ok(()), |stream| write!(self.out, "{stream} "))
    }

    fn end_open_line(&mut self) -> io::Result<()> {
        if self.open.take().is_none() {
            return Ok(());
        }
        if let Some(screen) = &mut self.screen {
            self.out.write_all(std::mem::take(screen).end().as_bytes())?;
        }
        self.out.write_all(b"\n")
    }

    /// Ends the unfinished line, so that a message can follow.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.end_open_line()?;
        self.out.flush()
    }
}

pub(super) fn warn(sentence: &str) {
    // If stderr cannot be written, the warning is lost, but the lines are still printed.
    let _ = writeln!(io::stderr(), "autoappdev: {}", printable(sentence));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::logs::Source;
    use crate::clock::Timestamp;

    fn line(stream: &str, text: &str, partial: bool) -> Line {
        Line {
            id: 0,
            at: Some(Timestamp::from_unix_ms(0)),
            source: Source::Pipeline,
            stream: stream.parse().ok(),
            run_id: (!stream.is_empty()).then_some(7),
            line: text.to_owned(),
            partial,
        }
    }

    fn printed(timestamps: bool, pages: &[&[Line]]) -> String {
        printed_by(timestamps, true, pages)
    }

    fn printed_by(timestamps: bool, joins: bool, pages: &[&[Line]]) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, timestamps, joins);
        for page in pages {
            printer.lines(page).expect("memory takes everything");
        }
        printer.finish().expect("memory takes everything");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn parts_found_by_a_search_are_not_joined() {
        let page = [line("stdout", "50% x", true), line("stdout", "70% x", true), line("stdout", "x", false)];
        assert_eq!(printed_by(false, false, &[&page]), "50% x\n70% x\nx\n");
    }

    #[test]
    fn line_parts_are_joined_across_responses() {
        let pages: [&[Line]; 2] = [
            &[line("stdout", "one", false), line("stdout", "t", true), line("stdout", "w", true)],
            &[line("stdout", "o", false), line("stdout", "", false), line("stdout", "three", false)],
        ];
        assert_eq!(printed(false, &pages), "one\ntwo\n\nthree\n");
    }

    #[test]
    fn line_of_another_stream_starts_a_new_line() {
        let page = [line("stdout", "50%", true), line("stderr", "oops", false), line("stdout", " 60%", true)];
        assert_eq!(printed(false, &[&page]), "50%\noops\n 60%\n");
    }

    #[test]
    fn stream_name_and_time_are_printed_once_a_line() {
        let page = [line("stdout", "a", true), line("stdout", "b", false), line("stderr", "c", false), line("", "d", false)];
        let expected = "1970-01-01T00:00:00.000Z stdout ab\n1970-01-01T00:00:00.000Z stderr c\n1970-01-01T00:00:00.000Z d\n";
        assert_eq!(printed(true, &[&page]), expected);
    }

    #[test]
    fn terminal_output_joins_parts_and_prints_each_state() {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, true, true).for_terminal();
        let part = |text| line("stdout", text, true);
        let page = [
            part("\u{1b}[3"),
            part("1mred"),
            line("stderr", "\u{1b}[2Jx", false),
            part("10%\r"),
            part("20%"),
            line("stdout", "\r", false),
        ];
        printer.lines(&page).and_then(|()| printer.lines(&[part("end\u{1b}[")])).expect("memory takes everything");
        printer.finish().expect("memory takes everything");
        let at = "1970-01-01T00:00:00.000Z";
        let lines = ["stdout \u{1b}[0;31mred\u{1b}[0m", r"stderr \u{1b}[2Jx", "stdout 10%", "stdout 20%", r"stdout end\u{1b}["];
        assert_eq!(String::from_utf8(out).expect("text"), lines.map(|line| format!("{at} {line}\n")).concat());
    }

    #[test]
    fn output_is_printed_unchanged() {
        assert_eq!(
            printed(false, &[&[line("stdout", "\u{1b}[31mred\u{1b}[0m\r\u{fffd}", false)]]),
            "\u{1b}[31mred\u{1b}[0m\r\u{fffd}\n"
        );
    }
}
