//! `autoappdev logs`: the latest lines, and with `-f` each new one, also across a restart of the server.
//!
//! The cursor is the API's: an id is taken over only from an answer that was read whole, so that no line comes twice or is left
//! out, whenever the connection breaks. Lines are printed as they are, as `cat` would.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::Deserialize;

use super::args::LogsArgs;
use super::client::{Client, ClientError};
use super::output::printable;
use crate::clock::Timestamp;

/// How many lines one request of a follower asks for.
const FOLLOW_LINES: usize = 500;
/// The wait after an answer with lines.
const POLL_MIN: Duration = Duration::from_millis(300);
/// The longest wait after answers without lines, or without an answer.
const POLL_MAX: Duration = Duration::from_secs(1);

/// An answer of `/api/logs` or `/api/logs/tail`.
#[derive(Deserialize)]
struct Page {
    next: u64,
    #[serde(default)]
    first: u64,
    lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    /// None for a line that was damaged on disk.
    ts: Option<Timestamp>,
    stream: Option<String>,
    run_id: Option<u64>,
    #[serde(rename = "line")]
    text: String,
    #[serde(default)]
    partial: bool,
}

/// Prints the latest lines and, where asked, follows until Ctrl-C, which ends the process with 0.
pub(super) fn print_logs(client: &Client, wanted: &LogsArgs, json: bool) -> Result<(), ClientError> {
    if wanted.follow {
        // The handler ends the process at once, wherever it is: waiting for an answer as well as between two.
        signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGINT, 0, Arc::new(AtomicBool::new(true)))?;
    }
    let mut printer = Printer::new(io::BufWriter::new(io::stdout().lock()), wanted.timestamps);
    let source = wanted.source.as_str();
    // The API gives at least one line; its `next` is needed for none, too.
    let answer = client.get(&format!("/api/logs/tail?name={source}&lines={}", wanted.lines.max(1)))?;
    let Page { mut next, lines, .. } = answer.read()?;
    if wanted.lines > 0 {
        if json {
            printer.document(&answer.as_line())?;
        } else {
            printer.lines(&lines)?;
        }
    }
    if !wanted.follow {
        return Ok(printer.finish()?);
    }

    let mut wait = POLL_MIN;
    let mut connected = true;
    loop {
        pause_for(wait)?;
        let answer = match client.get(&format!("/api/logs?source={source}&since={next}&limit={FOLLOW_LINES}")) {
            Ok(answer) => answer,
            Err(error) if error.may_pass() => {
                if connected {
                    warn("connection lost; trying again");
                }
                connected = false;
                wait = longer(wait);
                continue;
            }
            Err(error) => return Err(error),
        };
        connected = true;
        let page: Page = answer.read()?;
        if page.first > next {
            warn("some lines are missing here: the log no longer kept them");
        }
        next = page.next;
        if page.lines.is_empty() {
            wait = longer(wait);
            continue;
        }
        if json {
            printer.document(&answer.as_line())?;
        } else {
            printer.lines(&page.lines)?;
        }
        wait = if page.lines.len() >= FOLLOW_LINES { Duration::ZERO } else { POLL_MIN };
    }
}

fn longer(wait: Duration) -> Duration {
    (wait * 3 / 2).clamp(POLL_MIN, POLL_MAX)
}

/// Waits, and looks meanwhile whether anybody still reads: `logs -f | head` must end though no line comes any more.
fn pause_for(wait: Duration) -> io::Result<()> {
    let stdout = io::stdout();
    let mut reader = [PollFd::new(&stdout, PollFlags::empty())];
    let wait = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
    match rustix::event::poll(&mut reader, Some(&wait)) {
        // Errors and hang-ups are told without being asked for (`poll(2)`).
        Ok(_) if reader[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => Err(io::ErrorKind::BrokenPipe.into()),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn warn(sentence: &str) {
    // Where stderr is gone nobody can be told; the lines still have their reader.
    let _ = writeln!(io::stderr(), "autoappdev: {sentence}");
}

/// Writes lines, and joins those that came in parts.
struct Printer<W> {
    out: W,
    timestamps: bool,
    /// Whose line is still unfinished: its run and stream.
    open: Option<(Option<u64>, Option<String>)>,
}

impl<W: Write> Printer<W> {
    fn new(out: W, timestamps: bool) -> Self {
        Self { out, timestamps, open: None }
    }

    fn document(&mut self, json: &str) -> io::Result<()> {
        writeln!(self.out, "{json}")?;
        self.out.flush()
    }

    /// A part is shown at once, as a prompt must be. Where another stream's line comes between two parts, the first ends there.
    fn lines(&mut self, lines: &[Line]) -> io::Result<()> {
        for line in lines {
            let whose = (line.run_id, line.stream.clone());
            let goes_on = self.open.as_ref() == Some(&whose);
            if !goes_on {
                self.end_open_line()?;
                if self.timestamps {
                    match line.ts {
                        Some(ts) => write!(self.out, "{ts} ")?,
                        None => write!(self.out, "{:24} ", "-")?,
                    }
                    if let Some(stream) = &line.stream {
                        write!(self.out, "{} ", printable(stream))?;
                    }
                }
            }
            self.out.write_all(line.text.as_bytes())?;
            self.open = Some(whose);
            if !line.partial {
                self.end_open_line()?;
            }
        }
        self.out.flush()
    }

    fn end_open_line(&mut self) -> io::Result<()> {
        if self.open.take().is_some() { self.out.write_all(b"\n") } else { Ok(()) }
    }

    fn finish(mut self) -> io::Result<()> {
        self.end_open_line()?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(stream: &str, text: &str, partial: bool) -> Line {
        let stream = (!stream.is_empty()).then(|| stream.to_owned());
        Line {
            ts: Some(Timestamp::from_unix_ms(0)),
            run_id: stream.is_some().then_some(7),
            stream,
            text: text.to_owned(),
            partial,
        }
    }

    fn printed(timestamps: bool, pages: &[&[Line]]) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, timestamps);
        for page in pages {
            printer.lines(page).expect("memory takes everything");
        }
        printer.finish().expect("memory takes everything");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn parts_of_a_line_are_joined_also_across_answers() {
        let pages: [&[Line]; 2] = [
            &[line("stdout", "one", false), line("stdout", "t", true), line("stdout", "w", true)],
            &[line("stdout", "o", false), line("stdout", "", false), line("stdout", "three", false)],
        ];
        assert_eq!(printed(false, &pages), "one\ntwo\n\nthree\n");
    }

    #[test]
    fn another_streams_line_is_not_glued_to_an_unfinished_one() {
        let page = [line("stdout", "50%", true), line("stderr", "oops", false), line("stdout", " 60%", true)];
        assert_eq!(printed(false, &[&page]), "50%\noops\n 60%\n");
    }

    #[test]
    fn the_streams_mark_and_time_stand_once_a_line() {
        let page = [line("stdout", "a", true), line("stdout", "b", false), line("stderr", "c", false), line("", "d", false)];
        let expected = "1970-01-01T00:00:00.000Z stdout ab\n1970-01-01T00:00:00.000Z stderr c\n1970-01-01T00:00:00.000Z d\n";
        assert_eq!(printed(true, &[&page]), expected);
    }

    #[test]
    fn output_goes_out_as_it_is() {
        assert_eq!(
            printed(false, &[&[line("stdout", "\u{1b}[31mred\u{1b}[0m\r\u{fffd}", false)]]),
            "\u{1b}[31mred\u{1b}[0m\r\u{fffd}\n"
        );
    }

    #[test]
    fn waits_grow_to_a_second_and_no_further() {
        let mut wait = Duration::ZERO;
        let mut waits = Vec::new();
        for _ in 0..6 {
            wait = longer(wait);
            waits.push(wait.as_millis());
        }
        assert_eq!(waits, [300, 450, 675, 1000, 1000, 1000]);
    }
}
