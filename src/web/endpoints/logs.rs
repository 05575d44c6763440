//! `GET /api/logs` and `/api/logs/tail`: pages of lines from the log of all runs, of one run, or of the server itself. A request
//! can search, begin at a time, or wait for lines.

use std::ops::ControlFlow::{Break, Continue};
use std::time::Duration;

use rouille::{Request, Response};

use crate::api::logs::{LogsQuery, LogsResponse, PlainTail, RunEnd, Source, StreamName, TailQuery};
use crate::clock::Timestamp;
use crate::feed::Found;
use crate::log::{self, BackendFiles, Cursor, Item, Listing, Needle, Page, Part, SEARCH_BYTES_MAX};
use crate::run_dir::LockState;
use crate::store::Reader;
use crate::transport::Client;
use crate::web::app::App;
use crate::web::auth::Caller;
use crate::web::error::ApiError;
use crate::web::input;
use crate::web::json::long_bytes;
use crate::web::long_poll::LongPoll;

/// How many lines a page and a tail have if the request sets no number.
const LINES_DEFAULT: u64 = 500;
const TAIL_DEFAULT: u64 = 200;

/// How soon to check again whether the shim of a run that has ended has exited. Before that, it may still have to write the mark
/// of a loss.
const LEFT_LOOK: Duration = Duration::from_millis(50);

/// The part of the log of all runs that belongs to one run.
#[derive(Clone, Copy, Debug)]
pub(in crate::web) struct RunSpan {
    pub(super) run_id: i64,
    /// The position before its first byte.
    pub(super) begin: u64,
    /// The position after its last byte, or `None` while more may be added.
    pub(super) end: Option<u64>,
    /// Whether the run was seen running, but its end was not seen.
    pub(super) is_end_unknown: bool,
    pub(super) created_at: Timestamp,
}

/// The log that is read, and which lines of it.
struct Asked {
    source: Source,
    run: Option<RunSpan>,
    needle: Option<Needle>,
    stream: Option<StreamName>,
    at: Option<Timestamp>,
}

impl Asked {
    /// Returns the position at which that log begins.
    fn begin(&self) -> u64 {
        self.run.map_or(0, |run| run.begin)
    }

    fn part(&self, since: u64, up_to: u64) -> Part<'_> {
        Part {
            since: since.max(self.begin()),
            up_to,
            end: self.run.and_then(|run| run.end),
            needle: self.needle.as_ref(),
            stream: self.stream.map(Into::into),
        }
    }

    /// Returns the response, without `since`.
    fn answer(&self, page: Page) -> LogsResponse {
        LogsResponse {
            source: self.source,
            since: None,
            end: self.run.map_or(RunEnd::Untold, |run| run.end.map_or(RunEnd::Open, RunEnd::At)),
            searched_all: self.part(0, 0).is_searched().then_some(page.is_whole),
            next: page.next,
            // The page's position is lower if nothing of this log exists yet.
            first: page.first.max(self.begin()),
            gone: page.gone,
            lines: page.lines,
        }
    }
}

impl App {
    pub(in crate::web) fn logs(
        &self,
        request: &Request,
        caller: Option<&Caller>,
        client: &Client<'_>,
    ) -> Result<Response, ApiError> {
        let LogsQuery { source, since, at, limit, wait, run, grep, stream } = input::query(request)?;
        let (limit, wait) = (lines(limit.unwrap_or(LINES_DEFAULT)), wait.unwrap_or(0));
        if wait > 0 && source == Some(Source::Backend) {
            return Err(ApiError::BadQuery(
                "wait works with the pipeline's log only; leave it out for the server's \
                log"
                .to_owned(),
            ));
        }
        if since.is_some() && at.is_some() {
            return Err(ApiError::BadQuery("at and since cannot be combined; leave out one of them".to_owned()));
        }
        let mut asked = self.asked(source, run, grep, stream, at)?;
        // A page is serialized in the same turn in which it is read. A page that waited for another turn would be memory that is
        // not counted.
        let answer = |asked: &Asked, since, page| {
            self.budget.json(request, long_bytes(&LogsResponse { since: Some(since), ..asked.answer(page) }))
        };
        let (since, end) = match self.budget.make(client, || {
            let since = self.since(&asked, since.unwrap_or(0))?;
            let page = log::read_page(&*self.log(&asked), asked.part(since, u64::MAX), limit)?;
            let has_something = !page.is_at_end || !page.lines.is_empty() || page.gone > 0 || asked.part(0, 0).end.is_some();
            Ok(if wait == 0 || has_something { Break(answer(&asked, since, page)) } else { Continue((since, page.next)) })
        })? {
            Break(response) => return Ok(response),
            Continue(nothing_yet) => nothing_yet,
        };
        let from = self.await_lines(&asked, end, wait, &LongPoll::new(self, caller, client))?;
        // The run's end is looked up before the page is read. If the run has ended, nothing can then be added after what is read.
        asked.run = asked.run.map(|run| self.run_span(run.run_id)).transpose()?;
        self.budget.make(client, || {
            let page = log::read_page(&*self.log(&asked), asked.part(from, u64::MAX), limit)?;
            Ok(answer(&asked, since, page))
        })
    }

    pub(in crate::web) fn tail(&self, request: &Request) -> Result<Response, ApiError> {
        let query: TailQuery = input::query(request)?;
        let is_plain = query.name.is_some() || query.lines.is_some();
        if is_plain && (query.source.is_some() || query.limit.is_some()) {
            return Err(ApiError::BadQuery(
                "name and lines ask for texts, source and limit for whole lines; use one pair".to_owned(),
            ));
        }
        let asked = self.asked(query.source.or(query.name), query.run, query.grep, query.stream, query.at)?;
        let limit = lines(query.limit.or(query.lines).unwrap_or(TAIL_DEFAULT));
        let log = self.log(&asked);
        let part = asked.part(self.since(&asked, 0)?, query.before.unwrap_or(u64::MAX));
        let page = log::read_last(&*log, part, asked.begin(), limit)?;
        let bytes = if is_plain {
            long_bytes(&PlainTail { name: asked.source, lines: page.lines.into_iter().map(|line| line.line).collect() })
        } else {
            long_bytes(&asked.answer(page))
        };
        Ok(self.budget.json(request, bytes))
    }

    /// Checks the parameters that both endpoints have.
    fn asked(
        &self,
        source: Option<Source>,
        run: Option<u64>,
        grep: Option<String>,
        stream: Option<StreamName>,
        at: Option<Timestamp>,
    ) -> Result<Asked, ApiError> {
        let source = source.unwrap_or(Source::Pipeline);
        for (key, is_there) in [("run", run.is_some()), ("stream", stream.is_some())] {
            if is_there && source == Source::Backend {
                return Err(ApiError::BadQuery(format!(
                    "{key} works with the pipeline's log only; leave it out for the server's \
                    log"
                )));
            }
        }
        if grep.as_ref().is_some_and(|text| text.contains('\n')) {
            return Err(ApiError::BadQuery(
                "grep is searched for within single lines; leave out the line break (%0A)".to_owned(),
            ));
        }
        let run = run.map(|id| self.run_span(id.cast_signed())).transpose()?;
        Ok(Asked { source, run, needle: grep.map(Needle::new), stream, at })
    }

    /// Returns the part of the log that belongs to a run. It is an error if the run is unknown, but not if it has no log.
    pub(in crate::web) fn run_span(&self, run_id: i64) -> Result<RunSpan, ApiError> {
        let row = Reader::open(&self.database)?.run_log(run_id)?.ok_or_else(|| ApiError::NoSuchRun(run_id.to_string()))?;
        // After it has reported the end, a shim may still have to write the mark of a loss: on a full disk, for hours.
        let is_open = !row.is_over || matches!(self.runs.run(run_id).lock_state(), Ok(LockState::Held));
        let end = match row.end {
            _ if is_open => None,
            // The end was not seen, so the log ends with what exists.
            None => Some(self.logs.of_run(run_id).end()?.max(row.start)),
            seen => seen,
        };
        let is_end_unknown = row.is_over && row.end.is_none() && row.was_seen;
        Ok(RunSpan { run_id, begin: row.start, end, is_end_unknown, created_at: row.created_at })
    }

    fn log(&self, asked: &Asked) -> Box<dyn Listing> {
        match asked.run {
            _ if asked.source == Source::Backend => Box::new(BackendFiles::new(self.runs.runtime_dir())),
            Some(run) => Box::new(self.logs.of_run(run.run_id)),
            None => Box::new(self.logs.clone()),
        }
    }

    /// Returns the position at which to begin: that of the requested time if there is one, otherwise `since`.
    fn since(&self, asked: &Asked, since: u64) -> Result<u64, ApiError> {
        let Some(at) = asked.at else { return Ok(since) };
        let log = self.log(asked);
        let over = match asked.run {
            None if asked.source != Source::Backend => Reader::open(&self.database)?.runs_over_before(at)?,
            None | Some(_) => Vec::new(),
        };
        let is_before = |run_id: i64| over.binary_search(&run_id).is_ok();
        Ok(log::position_at(&*log, at, asked.begin(), asked.part(0, 0).end, is_before)?)
    }

    /// Waits for a requested line after `from`, the end of the log so far, or for the run's end. Returns the position at which to
    /// continue.
    fn await_lines(&self, asked: &Asked, from: u64, wait_s: u64, poll: &LongPoll<'_>) -> Result<u64, ApiError> {
        let (log, part) = (self.log(asked), asked.part(0, 0));
        let mut cursor = Cursor::new(&*log, from);
        let mut searched = from;
        let scan = || -> Result<Found, ApiError> {
            loop {
                match cursor.next()? {
                    Some(Item::Line(line)) if !part.wants(&line) => {
                        searched = line.id;
                        // This is as much as one request may search.
                        if searched - from >= SEARCH_BYTES_MAX {
                            return Ok(Found::Yes);
                        }
                    }
                    Some(Item::Line(_) | Item::Gone { .. }) => return Ok(Found::Yes),
                    None => return asked.run.map_or(Ok(Found::NotYet), |run| self.look_for_end(run.run_id)),
                }
            }
        };
        poll.idle(|| self.streams.wait_for_lines(poll.limit(wait_s), poll.client(), &|| poll.ends(), scan))?;
        Ok(searched)
    }

    fn look_for_end(&self, run_id: i64) -> Result<Found, ApiError> {
        let published = self.supervisor.watch().get();
        // The usual case each time the log has grown, which needs no query to the database.
        if published.snapshot.run_id == Some(run_id) && published.snapshot.pid.is_some() {
            return Ok(Found::NotYet);
        }
        match self.run_span(run_id)?.end {
            Some(_) => Ok(Found::Yes),
            None => Ok(Found::AgainAfter(LEFT_LOOK)),
        }
    }
}

/// Converts a number of lines, which is at most [`LINES_MAX`](crate::api::logs::LINES_MAX).
fn lines(number: u64) -> usize {
    usize::try_from(number).expect("at most LINES_MAX")
}
