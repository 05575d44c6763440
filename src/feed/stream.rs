//! One stream: the state, the history and the log, merged.
//!
//! Everything is read from where it is kept, the log from its files and the history from the database, at the pace of the one who
//! reads: a slow client delays nobody, and a stream that goes on from a position has neither a gap nor a repeat, whatever was restarted
//! in between.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::event::{Event, Sink};
use super::log_watch::Follower;
use super::position::Position;
use super::slots::{Checked, StreamSlot};
use super::sources::Sources;
use super::waker::Seen;
use crate::api::events::{Gap, ProgressEvent, RunEvent};
use crate::api::logs::Line;
use crate::api::pipeline::Pipeline;
use crate::health::Attendance;
use crate::log::{Cursor, Item, RunLogs};
use crate::store::{EventRow, Reader};
use crate::supervisor::Snapshot;

/// How many log lines are handed out before the state is read again.
const LINES_AT_ONCE: usize = 500;

/// A stream that never ends by itself.
#[derive(Debug)]
pub struct EventStream {
    sources: Arc<Sources>,
    follower: Follower,
    checked: Checked,
    _slot: StreamSlot,
    log: Cursor<RunLogs>,
    at: Position,
    /// Up to which published state the history was read.
    history_read_at: Option<u64>,
    /// Which progress this client was sent, by its number and whether its run had ended; `None` when it was sent none.
    progress_sent: Option<(Option<i64>, u64, bool)>,
    /// Problems are checked for while a client follows.
    _attendance: Attendance,
    /// Taken before what was read last, and for how long a wait may last where the kernel does not tell of the log's growth.
    seen: Seen,
    read_again: Option<Duration>,
}

impl EventStream {
    pub(super) fn new(sources: Arc<Sources>, slot: StreamSlot, attendance: Attendance, at: Position) -> Self {
        Self {
            follower: sources.log_watch.follow(),
            checked: sources.slots.checked(),
            _slot: slot,
            log: Cursor::new(sources.logs.clone(), at.log),
            at,
            history_read_at: None,
            progress_sent: None,
            _attendance: attendance,
            seen: sources.waker.seen(),
            read_again: None,
            sources,
        }
    }

    /// Whether the connection is to check that its client is still there; once for each time that a check is asked for.
    pub fn is_check_due(&mut self) -> bool {
        self.sources.slots.is_check_due(&mut self.checked)
    }

    /// Hands what is new to `sink`, if anything is.
    pub fn gather(&mut self, sink: &mut impl Sink) -> io::Result<()> {
        // Taken before all reads below: what comes after them ends the wait.
        self.seen = self.sources.waker.seen();
        let published = self.sources.supervisor.watch().get();
        self.read_again = self.follower.watch_run(published.snapshot.run_id);
        let mut history = VecDeque::new();
        if self.history_read_at != Some(published.number) {
            let (run_id, seq) = self.at.event;
            let events = Reader::open(&self.sources.database).and_then(|reader| reader.events_after(run_id, seq));
            history.extend(events.map_err(io::Error::other)?);
            if history.is_empty() {
                self.history_read_at = Some(published.number);
            }
        }
        if self.hand_out_log(&mut history, sink)? {
            self.hand_out_history(&mut history, sink, |_| true)?;
        }
        // Never behind more than a page of lines: whoever watches a flood on a slow line has to see that it was paused.
        let shown = (Some(published.snapshot.version), published.snapshot.conditions.digest());
        if (self.at.version, self.at.wrong) != shown {
            (self.at.version, self.at.wrong) = shown;
            sink.take(Some(&self.at), &Event::State(&published.snapshot.pipeline))?;
        }
        self.hand_out_progress(&published.snapshot, sink)
    }

    /// Waits until there may be something that the last [`EventStream::gather`] did not have, at most for `limit`. Returns whether there can
    /// be more: false once the server stops.
    pub fn wait(&self, limit: Duration) -> bool {
        self.sources.waker.wait(self.seen, self.read_again.map_or(limit, |read_again| read_again.min(limit)))
    }

    /// How far the run is, where this client does not have that yet.
    fn hand_out_progress(&mut self, snapshot: &Snapshot, sink: &mut impl Sink) -> io::Result<()> {
        let Snapshot { pipeline: Pipeline { run_id, progress, .. }, progress_number, run_ended_at, .. } = snapshot;
        // Its end closes the step that a run was at, and nothing where it was at none.
        let is_closed = progress.is_some() && run_ended_at.is_some();
        let sent = Some((*run_id, *progress_number, is_closed));
        if self.progress_sent == sent {
            return Ok(());
        }
        self.progress_sent = sent;
        sink.take(None, &Event::Progress(ProgressEvent { run_id: *run_id, progress }))
    }

    /// The next lines, and between them what happened before each. Returns whether that was all there is.
    fn hand_out_log(&mut self, history: &mut VecDeque<(i64, EventRow)>, sink: &mut impl Sink) -> io::Result<bool> {
        for _ in 0..LINES_AT_ONCE {
            if sink.is_full() {
                return Ok(false);
            }
            match self.log.next()? {
                None => return Ok(true),
                Some(Item::Gone { from, to }) => {
                    self.at.log = to;
                    sink.take(Some(&self.at), &Event::Gap(Gap { from, to }))?;
                }
                Some(Item::Line(line)) => {
                    let line = Line::from(line);
                    if let Some(at) = line.at {
                        self.hand_out_history(history, sink, |event| event.at <= at)?;
                    }
                    self.at.log = line.id;
                    sink.take(Some(&self.at), &Event::Log(&line))?;
                }
            }
        }
        Ok(false)
    }

    /// What happened, as long as it is `due`.
    fn hand_out_history(
        &mut self,
        history: &mut VecDeque<(i64, EventRow)>,
        sink: &mut impl Sink,
        due: impl Fn(&EventRow) -> bool,
    ) -> io::Result<()> {
        while history.front().is_some_and(|(_, event)| due(event)) {
            let Some((run_id, event)) = history.pop_front() else { break };
            self.at.event = (run_id, event.seq);
            let happened = RunEvent { run_id, event: event.into() };
            sink.take(Some(&self.at), &Event::Run(&happened))?;
        }
        Ok(())
    }
}
