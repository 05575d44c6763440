//! `GET /api/events`: one stream of what happens, as Server-Sent Events (HTML, section 9.2): `state`, `run`, `log`,
//! `progress`, `gap`.
//!
//! Everything is read from where it is kept, the log from its files and the history from the database, at the pace of the one who
//! reads: a slow client delays nobody, and a stream that goes on from an id has neither a gap nor a repeat, whatever was restarted
//! in between. A position in the stream is three numbers, written `<log>-<version>-<run>.<seq>`, and a fourth where
//! something is wrong. How far the run is has no place in it: that is
//! said anew to whoever comes.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::log_watch::{Follower, LogWatch};
use crate::health::{Attendance, Inspector};
use crate::log::{Cursor, Item, Line, Listing, RunLogs};
use crate::pipeline::Progress;
use crate::run_dir::Runs;
use crate::store::{EventRow, Reader};
use crate::supervisor::{Handle, Snapshot};
use crate::transport::Client;

/// The most streams at once.
const STREAMS_MAX: usize = 64;
/// The most that wait for lines at once without a stream.
const WAITING_MAX: usize = 64;
/// A stream without news says something at least this often, so that both sides notice when the other is gone.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// When a client is to come back, in milliseconds: after a broken connection, and after this server's end.
const RETRY_MS: u32 = 1000;
const RETRY_AT_END_MS: u32 = 300;
/// How long somebody waits for a place when all are taken: until those whose clients are gone have been looked for.
const PLACE_LIMIT: Duration = Duration::from_millis(500);
/// How many log lines go out before the state is looked at again.
const LINES_AT_ONCE: usize = 500;
/// And how many bytes, about.
const BYTES_AT_ONCE: usize = 128 * 1024;

/// How far a client has everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The log's cursor.
    log: u64,
    /// The version of the state; `None` when it has seen none.
    version: Option<u64>,
    /// The last event of the history: run and number.
    event: (i64, u64),
    /// The digest of the conditions, which no version counts; 0 if there were none.
    wrong: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { log, version, event: (run_id, seq), wrong } = self;
        match version {
            Some(version) => write!(formatter, "{log}-{version}-{run_id}.{seq}"),
            None => write!(formatter, "{log}--{run_id}.{seq}"),
        }?;
        if *wrong == 0 { Ok(()) } else { write!(formatter, "-{wrong}") }
    }
}

impl FromStr for Position {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        fn number<N: FromStr>(text: &str) -> Result<N, ()> {
            if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().map_err(|_| ()) } else { Err(()) }
        }
        let mut parts = text.splitn(4, '-');
        let mut part = || parts.next().ok_or(());
        let (log, version, event) = (part()?, part()?, part()?);
        let wrong = parts.next();
        let (run_id, seq) = event.split_once('.').ok_or(())?;
        Ok(Self {
            log: number(log)?,
            version: if version.is_empty() { None } else { Some(number(version)?) },
            event: (number(run_id)?, number(seq)?),
            wrong: wrong.map_or(Ok(0), number)?,
        })
    }
}

/// Where a new stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Behind what a client has.
    Behind(Position),
    /// With the log from a cursor on, the state as it is, and what happens from now on.
    Log(u64),
    /// With the state as it is, and what happens from now on.
    Now,
}

/// What somebody who waits for lines has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// What is waited for.
    There,
    /// Nothing yet: there will be news.
    NotYet,
    /// Nothing yet, and no news may come of it: to be looked at again after this.
    Soon(Duration),
}

/// Who streams: one for all listeners of a server.
#[derive(Debug)]
pub struct Streams {
    supervisor: Handle,
    inspector: Inspector,
    logs: RunLogs,
    database: PathBuf,
    log_watch: Arc<LogWatch>,
    open: Mutex<usize>,
    /// A place is free again.
    closed: Condvar,
    /// How often somebody found no place, and each who has one was to look after its client.
    looks: AtomicU64,
    waiting: AtomicUsize,
}

impl Streams {
    /// None yet. `database` is read for the history.
    pub fn new(supervisor: Handle, inspector: Inspector, runs: Runs, logs: RunLogs, database: PathBuf) -> Self {
        let log_watch = Arc::new(LogWatch::new(supervisor.clone(), runs));
        Self {
            supervisor,
            inspector,
            logs,
            database,
            log_watch,
            open: Mutex::new(0),
            closed: Condvar::new(),
            looks: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Waits until the log has what somebody asks for, as `look` tells, at most for `limit`. Where too many wait already it does not, and those
    /// end their wait whose clients are gone.
    pub fn wait_for_lines<E>(
        &self,
        limit: Duration,
        client: &Client<'_>,
        mut look: impl FnMut() -> Result<Look, E>,
    ) -> Result<(), E> {
        let deadline = Instant::now() + limit;
        let watch = self.supervisor.watch();
        let follower = self.log_watch.follow();
        let is_crowded = self.waiting.fetch_add(1, Ordering::SeqCst) >= WAITING_MAX;
        let _place = WaitingPlace(&self.waiting);
        if is_crowded {
            self.looks.fetch_add(1, Ordering::SeqCst);
            watch.wake_followers();
        }
        let mut looks_seen = self.looks.load(Ordering::SeqCst);
        loop {
            // Taken before the looks: what comes after them wakes the wait.
            let seen = watch.seen();
            let looks = self.looks.load(Ordering::SeqCst);
            let is_left = std::mem::replace(&mut looks_seen, looks) != looks && client.is_left();
            if is_left || client.gives_way() {
                return Ok(());
            }
            let look_again = follower.watch_run(watch.get().snapshot.run_id);
            let left = deadline.saturating_duration_since(Instant::now());
            if is_crowded || left.is_zero() {
                return Ok(());
            }
            let soon = match look()? {
                Look::There => return Ok(()),
                Look::NotYet => left,
                Look::Soon(limit) => limit.min(left),
            };
            if !watch.wait_news(seen, look_again.map_or(soon, |look_again| look_again.min(soon))) {
                return Ok(());
            }
        }
    }

    /// Opens a stream; `None` when there are as many as there may be.
    pub fn open(self: &Arc<Self>, begin: Begin) -> io::Result<Option<EventStream>> {
        let Some(place) = self.take_place() else { return Ok(None) };
        let attendance = self.inspector.attend();
        // The first state that is sent is current.
        self.inspector.refresh();
        let now = self.now()?;
        let at = match begin {
            // What is not there yet is of another database: that client has nothing of this one.
            Begin::Behind(position) if position.log <= now.log && position.event <= now.event => position,
            Begin::Log(log) if log <= now.log => Position { log, ..now },
            Begin::Behind(_) | Begin::Log(_) | Begin::Now => now,
        };
        let stream = EventStream {
            follower: self.log_watch.follow(),
            looks_seen: self.looks.load(Ordering::SeqCst),
            place,
            log: Cursor::new(self.logs.clone(), at.log),
            at,
            history_read_at: None,
            progress_sent: None,
            _attendance: attendance,
            out: format!("retry: {RETRY_MS}\n\n").into_bytes(),
            out_at: 0,
            spoke_at: Instant::now(),
            is_over: false,
        };
        Ok(Some(stream))
    }

    /// A place, where need be that of a client that is gone: a closed page leaves one behind until something is written to it.
    fn take_place(self: &Arc<Self>) -> Option<StreamPlace> {
        let mut open = self.lock_open();
        if *open >= STREAMS_MAX {
            self.looks.fetch_add(1, Ordering::SeqCst);
            self.supervisor.watch().wake_followers();
            open = self
                .closed
                .wait_timeout_while(open, PLACE_LIMIT, |open| *open >= STREAMS_MAX)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        if *open >= STREAMS_MAX {
            return None;
        }
        *open += 1;
        Some(StreamPlace(self.clone()))
    }

    /// A number is counted under this lock.
    fn lock_open(&self) -> MutexGuard<'_, usize> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of the log and of the history. The state is not taken for seen.
    fn now(&self) -> io::Result<Position> {
        let event = Reader::open(&self.database).and_then(|reader| reader.last_event()).map_err(io::Error::other)?;
        let log = self.logs.end()?;
        Ok(Position { log, version: None, event: event.unwrap_or((0, 0)), wrong: 0 })
    }
}

/// One of the places that [`WAITING_MAX`] counts.
#[derive(Debug)]
struct WaitingPlace<'a>(&'a AtomicUsize);

impl Drop for WaitingPlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One of the places that [`STREAMS_MAX`] counts.
#[derive(Debug)]
struct StreamPlace(Arc<Streams>);

impl Drop for StreamPlace {
    fn drop(&mut self) {
        *self.0.lock_open() -= 1;
        self.0.closed.notify_one();
    }
}

/// The body of an answer that never ends by itself: reading waits for news. It is interrupted where the connection is to look whether its
/// client is still there.
#[derive(Debug)]
pub struct EventStream {
    follower: Follower,
    /// Of [`Streams::looks`].
    looks_seen: u64,
    place: StreamPlace,
    log: Cursor<RunLogs>,
    at: Position,
    /// Up to which published state the history was read.
    history_read_at: Option<u64>,
    /// Which progress this client was sent, by its number and whether its run had ended; `None` when it was sent none.
    progress_sent: Option<(Option<i64>, u64, bool)>,
    /// Problems are checked for while a client follows.
    _attendance: Attendance,
    /// What is to be sent, from `out_at` on.
    out: Vec<u8>,
    out_at: usize,
    spoke_at: Instant,
    is_over: bool,
}

impl Read for EventStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.out_at == self.out.len() {
            if self.is_over {
                return Ok(0);
            }
            let looks = self.place.0.looks.load(Ordering::SeqCst);
            if std::mem::replace(&mut self.looks_seen, looks) != looks {
                return Err(io::ErrorKind::Interrupted.into());
            }
            self.out.clear();
            self.out_at = 0;
            self.gather()?;
        }
        let count = (&self.out[self.out_at..]).read(buffer)?;
        self.out_at += count;
        self.spoke_at = Instant::now();
        Ok(count)
    }
}

impl EventStream {
    /// Puts what is new into `out`, or waits until there may be something.
    fn gather(&mut self) -> io::Result<()> {
        let streams = self.place.0.clone();
        let watch = streams.supervisor.watch();
        // Taken before the looks below: what comes after them wakes the wait.
        let seen = watch.seen();
        let published = watch.get();
        let look_again = self.follower.watch_run(published.snapshot.run_id);
        let mut history = VecDeque::new();
        if self.history_read_at != Some(seen.published()) {
            let (run_id, seq) = self.at.event;
            let events = Reader::open(&streams.database).and_then(|reader| reader.events_after(run_id, seq));
            history.extend(events.map_err(io::Error::other)?);
            if history.is_empty() {
                self.history_read_at = Some(seen.published());
            }
        }
        if self.push_log(&mut history)? {
            self.push_history(&mut history, |_| true)?;
        }
        // Never behind more than a page of lines: whoever watches a flood on a slow line has to see that it was paused.
        let shown = (Some(published.snapshot.version), published.snapshot.conditions.digest());
        if (self.at.version, self.at.wrong) != shown {
            (self.at.version, self.at.wrong) = shown;
            self.push("state", &published.snapshot)?;
        }
        self.push_progress(&published.snapshot)?;
        if !self.out.is_empty() {
            return Ok(());
        }
        let silent_for = self.spoke_at.elapsed();
        let until_comment = SILENCE_MAX.saturating_sub(silent_for);
        let limit = look_again.map_or(until_comment, |look_again| look_again.min(until_comment));
        if !watch.wait_news(seen, limit) {
            self.is_over = true;
            write!(self.out, "retry: {RETRY_AT_END_MS}\n\n")?;
        } else if self.spoke_at.elapsed() >= SILENCE_MAX {
            self.out.extend_from_slice(b":\n\n");
        }
        Ok(())
    }

    /// How far the run is, where this client does not have that yet.
    fn push_progress(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        #[derive(Serialize)]
        struct Event<'a> {
            run_id: Option<i64>,
            progress: &'a Option<Progress>,
        }
        let Snapshot { run_id, progress, progress_number, run_ended_at, .. } = snapshot;
        // Its end closes the step that a run was at, and nothing where it was at none.
        let is_closed = progress.is_some() && run_ended_at.is_some();
        let sent = Some((*run_id, *progress_number, is_closed));
        if self.progress_sent != sent {
            self.progress_sent = sent;
            self.push_data("progress", &Event { run_id: *run_id, progress })?;
        }
        Ok(())
    }

    /// The next lines, and between them what happened before each. Whether that was all there is.
    fn push_log(&mut self, history: &mut VecDeque<(i64, EventRow)>) -> io::Result<bool> {
        #[derive(Serialize)]
        struct Gap {
            from: u64,
            to: u64,
        }
        for _ in 0..LINES_AT_ONCE {
            if self.out.len() >= BYTES_AT_ONCE {
                return Ok(false);
            }
            match self.log.next()? {
                None => return Ok(true),
                Some(Item::Gone { from, to }) => {
                    self.at.log = to;
                    self.push("gap", &Gap { from, to })?;
                }
                Some(Item::Line(line)) => {
                    let line = Line::from(line);
                    if let Some(at) = line.ts {
                        self.push_history(history, |event| event.at <= at)?;
                    }
                    self.at.log = line.id;
                    self.push("log", &line)?;
                }
            }
        }
        Ok(false)
    }

    /// What happened, as long as it is `due`.
    fn push_history(&mut self, history: &mut VecDeque<(i64, EventRow)>, due: impl Fn(&EventRow) -> bool) -> io::Result<()> {
        #[derive(Serialize)]
        struct Event {
            run_id: i64,
            #[serde(flatten)]
            event: EventRow,
        }
        while history.front().is_some_and(|(_, event)| due(event)) {
            let Some((run_id, event)) = history.pop_front() else { break };
            self.at.event = (run_id, event.seq);
            self.push("run", &Event { run_id, event })?;
        }
        Ok(())
    }

    fn push(&mut self, kind: &str, data: &impl Serialize) -> io::Result<()> {
        writeln!(self.out, "id: {}", self.at)?;
        self.push_data(kind, data)
    }

    /// What has no place in the stream has no id: who comes back does so with the one before.
    fn push_data(&mut self, kind: &str, data: &impl Serialize) -> io::Result<()> {
        write!(self.out, "event: {kind}\ndata: ")?;
        // JSON on one line: a line break within it would end the data.
        serde_json::to_writer(&mut self.out, data)?;
        self.out.extend_from_slice(b"\n\n");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_as_it_was_written_and_nothing_else_does() {
        for position in [
            Position { log: 0, version: None, event: (0, 0), wrong: 0 },
            Position { log: u64::MAX, version: Some(u64::MAX), event: (i64::MAX, u64::MAX), wrong: u64::MAX },
            Position { log: 52_017, version: Some(15), event: (3, 4), wrong: 0 },
        ] {
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        for text in [
            "",
            "1",
            "1-2",
            "1-2-3",
            "1-2-3.",
            "-2-3.4",
            "1-2-.4",
            "+1-2-3.4",
            "1--2-3.4",
            "1-2-3.4.5",
            "1-2-3.4-",
            "1-2-3.4-5-6",
            "1-2-3.4\n",
            "1-x-3.4",
            "99999999999999999999-1-1.1",
        ] {
            assert_eq!(text.parse::<Position>(), Err(()), "{text:?}");
        }
    }
}
