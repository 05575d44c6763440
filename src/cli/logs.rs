//! `autoappdev logs`: prints the latest lines or those since a moment, and with `-f` each new line, also across a restart of
//! the server.
//!
//! The cursor is the API's. It advances only after a whole answer was read, so that no line is repeated or left out, whenever
//! the connection breaks. A follower asks for the lines behind the last one, and the answer arrives with the next line. If the
//! server does not wait, the follower polls.

mod link;
mod page;
mod printer;
mod reader_gone;

use std::io::{self, IsTerminal, StdoutLock};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use self::link::{Link, longer};
use self::page::{Begin, PAGE_LINES, Wanted, is_at_end, is_last};
use self::printer::{Printer, warn};
use super::args::{Amount, LogsArgs};
use super::client::{Answer, Client, ClientError};
use super::since::{Day, Since};
use super::zone::{Zone, ZoneError};
use crate::api::logs::{LogsResponse, RunEnd, Source};
use crate::clock::{Clock, SystemClock, Timestamp};

/// The number of lines that are printed by default.
const LINES_DEFAULT: u32 = 200;
/// How long an answer waits for a line.
const WAIT: Duration = Duration::from_secs(30);
/// The shortest time between two requests while lines trickle in. A single line is shown at once, but a hundred lines in a row
/// do not need a request each.
const PACE: Duration = Duration::from_millis(20);
/// The waits between polls after an empty answer that came at once. The server's own log can only be polled.
const IDLE_MIN: Duration = Duration::from_millis(300);
const IDLE_MAX: Duration = Duration::from_secs(1);
/// How long to wait for a server that disappears while existing lines are printed.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most text that is collected from earlier in the log, in bytes, and the most that one answer contains.
const LATEST_BYTES_MAX: usize = 1024 * 1024;
/// The most JSON that is kept of the answers from earlier in the log, in bytes. It exceeds what that much text takes with its
/// escapes and fields, so only a server that adds something else reaches it.
const ANSWERS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The maximum number of empty answers in a row, with more to search, after which requests slow down. A server of this version
/// searches 8 MiB for each answer, so this is about 8 GiB of log.
const EMPTY_MAX: u32 = 1000;
/// How far ahead of the server's clock a moment may be, because its `Date` has whole seconds.
const DATE_STEP: Duration = Duration::from_secs(1);

/// Why lines could not be printed. The texts follow `autoappdev: `.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogsError {
    #[error("{0} is for the pipeline's lines; the server's own (--source backend) belong to no run and no stream")]
    PartOfBackend(&'static str),
    #[error("--since {at} is in the future: the server's clock shows {now}{}", if *is_today { "; for the previous day use `yesterday` and the time" } else { "" })]
    Ahead { at: Timestamp, now: Timestamp, is_today: bool },
    #[error("--since is outside the years that the time zone's data covers")]
    NoMoment,
    #[error("--since: {0}")]
    Zone(#[from] ZoneError),
    #[error(
        "the server does not know {0} yet: it is older than this program; leave that out, or restart the server with this program"
    )]
    OlderServer(&'static str),
    #[error("the server's log was replaced, so run {0} can no longer be followed")]
    OtherLog(u64),
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl From<io::Error> for LogsError {
    fn from(error: io::Error) -> Self {
        Self::Client(error.into())
    }
}

/// Prints the lines that are kept and, with `--follow`, new ones: until Ctrl-C, which ends the process with 0, or until the run
/// ends.
pub(super) fn print_logs(client: &Client, args: &LogsArgs, json: bool) -> Result<(), LogsError> {
    let wanted = Wanted { source: args.source, run: args.run, grep: args.grep.as_deref(), stream: args.stream };
    if args.source == Source::Backend && (args.run.is_some() || args.stream.is_some()) {
        return Err(LogsError::PartOfBackend(if args.run.is_some() { "--run" } else { "--stream" }));
    }
    if args.follow {
        // The handler ends the process at any point: while it waits for an answer, and between two answers.
        signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGINT, 0, Arc::new(AtomicBool::new(true)))?;
    }
    reader_gone::end_without_a_reader();
    let printer = Printer::new(io::BufWriter::new(io::stdout().lock()), !args.no_timestamps, args.grep.is_none());
    let printer = if io::stdout().is_terminal() && !args.raw { printer.for_terminal() } else { printer };
    let link = Link::new(client, (!args.follow).then_some(PATIENCE));
    let mut reading = Reading { wanted, link, printer, json, follow: args.follow, empty: 0 };
    reading.read(args)?;
    Ok(reading.printer.finish()?)
}

/// One reading of the log, from its beginning to its end.
struct Reading<'a> {
    wanted: Wanted<'a>,
    link: Link<'a>,
    printer: Printer<io::BufWriter<StdoutLock<'static>>>,
    json: bool,
    follow: bool,
    /// The number of answers in a row that had no line, with more to search.
    empty: u32,
}

impl Reading<'_> {
    fn read(&mut self, args: &LogsArgs) -> Result<(), LogsError> {
        let amount = match (args.lines, args.since, &args.grep) {
            (Some(amount), ..) => amount,
            (None, Some(_), _) => Amount::All,
            // A search covers everything that is kept, but a follower is interested in new lines.
            (None, None, Some(_)) if !self.follow => Amount::All,
            (None, None, _) => Amount::Latest(LINES_DEFAULT),
        };
        // The zone is read before any request, so that a wrong zone is always wrong usage. Other times need no zone.
        let zone = if args.since.is_some_and(Since::is_local) { Zone::local()? } else { Zone::utc() };
        let (mut at, mut end) = (None, 0);
        if amount == Amount::All || args.since.is_some() {
            // Gets the server's time and the current end of the log. Without that end, a log that grows as fast as it is read
            // would never be read to its end.
            let now = Wanted { grep: None, stream: None, ..self.wanted };
            let answer = self.link.get(&now.tail(1, None, None))?;
            at = args.since.map(|since| moment(since, &zone, &answer)).transpose()?;
            end = answer.read::<LogsResponse>()?.next;
        }
        match amount {
            Amount::Latest(lines) => {
                let next = self.print_latest(lines, at)?;
                if self.follow { self.print_from(Begin::Behind(next), None) } else { Ok(()) }
            }
            Amount::All => self.print_from(at.map_or(Begin::Behind(0), Begin::At), Some(end)),
        }
    }

    /// Prints the latest lines, and returns the id behind which to continue.
    ///
    /// An answer to a search covers only part of the log, so the next request continues from there.
    fn print_latest(&mut self, lines: u32, at: Option<Timestamp>) -> Result<u64, LogsError> {
        // Newest first.
        let mut pages: Vec<(Answer, LogsResponse)> = Vec::new();
        // The API returns at least one line. If no lines are wanted, only the answer's `next` is needed.
        let (mut left, mut before, mut bytes, mut answers_bytes) = (lines.max(1), None, 0, 0);
        loop {
            let answer = self.link.get(&self.wanted.tail(left, at, before))?;
            let page = self.understand(&answer)?;
            bytes += page.lines.iter().map(|line| line.line.len()).sum::<usize>();
            left = left.saturating_sub(u32::try_from(page.lines.len()).unwrap_or(u32::MAX));
            let went_back = before.is_none_or(|before| page.first < before);
            answers_bytes += answer.bytes();
            let is_enough = left == 0 || bytes >= LATEST_BYTES_MAX || answers_bytes >= ANSWERS_BYTES_MAX;
            let is_done = page.searched_all != Some(false) || !went_back || is_enough || lines == 0;
            before = Some(page.first);
            if !is_done {
                self.rest_after(&page);
            }
            if pages.is_empty() || !page.lines.is_empty() || page.gone > 0 {
                pages.push((answer, page));
            }
            if is_done {
                break;
            }
        }
        if lines > 0 {
            for (answer, page) in pages.iter().rev() {
                self.print(answer, page, pages.len() == 1)?;
            }
        }
        Ok(pages[0].1.next)
    }

    /// Prints page after page: up to `end`, or, when following, until the run ends or for ever.
    fn print_from(&mut self, mut begin: Begin, end: Option<u64>) -> Result<(), LogsError> {
        let mut idle = IDLE_MIN;
        let mut is_first = !self.follow;
        loop {
            let can_wait = self.follow && self.wanted.source == Source::Pipeline && matches!(begin, Begin::Behind(_));
            let asked_at = Instant::now();
            let answer = self.link.get_waiting(&|wait| self.wanted.page(begin, wait), can_wait.then_some(WAIT))?;
            let page = self.understand(&answer)?;
            // The answer for a run or a search itself shows whether the server is older.
            let is_before =
                |at| page.since == Some(0) && page.lines.first().and_then(|line| line.at).is_some_and(|came| came < at);
            if matches!(begin, Begin::At(at) if is_before(at)) && self.wanted.run.is_none() && self.wanted.grep.is_none() {
                return Err(LogsError::OlderServer("--since"));
            }
            self.print(&answer, &page, std::mem::take(&mut is_first))?;
            let next = match begin {
                // If no line is that late, all earlier lines are unwanted.
                Begin::At(_) if is_at_end(&page) => page.next.max(end.unwrap_or(0)),
                Begin::At(_) | Begin::Behind(_) => page.next,
            };
            if is_last(&page) {
                return Ok(());
            }
            let has_moved = begin != Begin::Behind(next);
            if !self.follow && (is_at_end(&page) || !has_moved || end.is_some_and(|end| next >= end)) {
                return Ok(());
            }
            begin = Begin::Behind(next);
            if self.link.was_lost() {
                begin = Begin::Behind(self.after_a_loss(next)?);
            }
            if !has_moved {
                // The server did not wait, because it cannot, or because too many requests wait already.
                if asked_at.elapsed() < WAIT / 2 {
                    thread::sleep(idle);
                    idle = longer(idle, IDLE_MIN, IDLE_MAX);
                }
                continue;
            }
            idle = IDLE_MIN;
            self.rest_after(&page);
            if self.follow && page.lines.len() < PAGE_LINES && page.searched_all != Some(false) {
                thread::sleep(PACE.saturating_sub(asked_at.elapsed()));
            }
        }
    }

    /// Waits before the next request if too many answers in a row were empty. Otherwise a server that always has more to search
    /// would be asked as fast as it answers.
    fn rest_after(&mut self, page: &LogsResponse) {
        self.empty = if page.lines.is_empty() && !is_at_end(page) { self.empty.saturating_add(1) } else { 0 };
        if self.empty > EMPTY_MAX {
            thread::sleep(IDLE_MIN);
        }
    }

    /// Returns where to continue at a server that has come back. Ids only grow: if the log ends before `next`, it is another
    /// log, and the old ids would never appear.
    fn after_a_loss(&mut self, next: u64) -> Result<u64, LogsError> {
        let all = Wanted { run: None, grep: None, stream: None, ..self.wanted };
        let end = self.link.get(&all.tail(1, None, None))?.read::<LogsResponse>()?.next;
        if end >= next {
            return Ok(next);
        }
        if let Some(run) = self.wanted.run {
            return Err(LogsError::OtherLog(run));
        }
        self.printer.finish()?;
        warn("the server's log was replaced; continuing with new lines");
        Ok(end)
    }

    /// Parses an answer, and checks that it answers the whole request. An older server ignores parameters that it does not
    /// know.
    fn understand(&self, answer: &Answer) -> Result<LogsResponse, LogsError> {
        let page: LogsResponse = answer.read()?;
        if self.wanted.run.is_some() && page.end == RunEnd::Untold {
            return Err(LogsError::OlderServer("--run"));
        }
        if self.wanted.grep.is_some() && page.searched_all.is_none() {
            return Err(LogsError::OlderServer("--grep"));
        }
        if self.wanted.stream.is_some() && page.searched_all.is_none() {
            return Err(LogsError::OlderServer("--stream"));
        }
        Ok(page)
    }

    /// Prints a page. As JSON, an empty page is printed only if it `has_to_be`.
    fn print(&mut self, answer: &Answer, page: &LogsResponse, has_to_be: bool) -> io::Result<()> {
        if page.gone > 0 {
            self.printer.finish()?;
            warn(&format!("{} bytes of the log before this line are missing", page.gone));
        }
        if !self.json {
            self.printer.lines(&page.lines)
        } else if has_to_be || page.gone > 0 || !page.lines.is_empty() {
            self.printer.document(&answer.as_line())
        } else {
            Ok(())
        }
    }
}

/// Returns the moment that is meant, by the clock of the server that answered.
fn moment(since: Since, zone: &Zone, answer: &Answer) -> Result<Timestamp, LogsError> {
    let now = answer.date.unwrap_or_else(|| SystemClock.now());
    let at = since.moment(now, zone).ok_or(LogsError::NoMoment)?;
    if at.before(DATE_STEP) > now {
        return Err(LogsError::Ahead { at, now, is_today: matches!(since, Since::Local(Day::Today, _)) });
    }
    Ok(at)
}
