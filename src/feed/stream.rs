//! One stream: the state, the history and the log, merged.
//!
//! Everything is read from where it is kept, the log from its files and the history from the database, at the pace of the one who
//! reads: a slow client delays nobody, and a stream that goes on from a position has neither a gap nor a repeat, whatever was restarted
//! in between.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::log_watch::Follower;
use super::position::Position;
use super::slots::{Checked, StreamSlot};
use super::streams::Streams;
use super::text::EventText;
use super::waker::Seen;
use crate::api::events::{EventKind, Gap, ProgressEvent, RunEvent, UsageEvent};
use crate::api::logs::Line;
use crate::api::pipeline::Pipeline;
use crate::health::Attendance;
use crate::log::{Cursor, Item, Listing, RunLogs};
use crate::store::Reader;
use crate::supervisor::{Looking, Snapshot};
use crate::transport::Client;

/// How many log lines are handed out before the state is read again.
const LINES_AT_ONCE: usize = 500;

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

impl Streams {
    /// Opens a stream; `None` if the maximum number of streams, for operators or for all other clients, is reached.
    pub fn open(self: &Arc<Self>, begin: Begin, client: &Client<'_>) -> io::Result<Option<EventStream>> {
        let Some(slot) = self.slots.take(client) else { return Ok(None) };
        let attendance = self.inspector.attend();
        // The first state that is sent is current.
        self.inspector.refresh();
        // The end of the log and of the history. The state is not taken for seen.
        let event = Reader::open(&self.database).and_then(|reader| reader.last_event()).map_err(io::Error::other)?;
        let now = Position { log: self.logs.end()?, version: None, event: event.unwrap_or((0, 0)), wrong: 0 };
        let at = match begin {
            // A position beyond the end comes from another database: the client has nothing from this one.
            Begin::Behind(position) if position.log <= now.log && position.event <= now.event => position,
            Begin::Log(log) if log <= now.log => Position { log, ..now },
            Begin::Behind(_) | Begin::Log(_) | Begin::Now => now,
        };
        Ok(Some(EventStream {
            follower: self.log_watch.follow(),
            checked: self.slots.checked(),
            _slot: slot,
            log: Cursor::new(Box::new(self.logs.clone()), at.log),
            at,
            history_read_at: None,
            progress_sent: None,
            usage_sent: None,
            _attendance: attendance,
            _looking: self.supervisor.look(),
            seen: self.waker.seen(),
            read_again: None,
            streams: self.clone(),
        }))
    }
}

/// A stream that never ends by itself.
pub struct EventStream {
    streams: Arc<Streams>,
    follower: Follower,
    checked: Checked,
    _slot: StreamSlot,
    log: Cursor<Box<RunLogs>>,
    at: Position,
    /// Up to which published state the history was read.
    history_read_at: Option<u64>,
    /// Which progress this client was sent, by its number and whether its run had ended; `None` when it was sent none.
    progress_sent: Option<(Option<i64>, u64, bool)>,
    /// The same of the usage, by its number.
    usage_sent: Option<(Option<i64>, u64)>,
    /// Problems are checked for while a client follows.
    _attendance: Attendance,
    /// And what the run uses is looked at more often.
    _looking: Looking,
    /// Taken before what was read last, and for how long a wait may last where the kernel does not tell of the log's growth.
    seen: Seen,
    read_again: Option<Duration>,
}

impl EventStream {
    /// Whether the connection is to check that its client is still there; once for each time that a check is asked for.
    pub fn is_check_due(&mut self) -> bool {
        self.streams.slots.is_check_due(&mut self.checked)
    }

    /// Adds what is new to `text`, if anything is.
    pub fn gather(&mut self, text: &mut EventText) -> io::Result<()> {
        // Taken before all reads below: what comes after them ends the wait.
        self.seen = self.streams.waker.seen();
        let published = self.streams.supervisor.watch().get();
        self.read_again = self.follower.watch_run(published.snapshot.run_id);
        let mut history = VecDeque::new();
        if self.history_read_at != Some(published.number) {
            let (run_id, seq) = self.at.event;
            let events = Reader::open(&self.streams.database).and_then(|reader| reader.events_after(run_id, seq));
            history.extend(events.map_err(io::Error::other)?);
            if history.is_empty() {
                self.history_read_at = Some(published.number);
            }
        }
        if self.hand_out_log(&mut history, text)? {
            self.hand_out_history(&mut history, text, |_| true)?;
        }
        // Never behind more than a page of lines: whoever watches a flood on a slow line has to see that it was paused.
        let shown = (Some(published.snapshot.version), published.snapshot.conditions.digest());
        if (self.at.version, self.at.wrong) != shown {
            (self.at.version, self.at.wrong) = shown;
            text.add(Some(&self.at), EventKind::State, &published.snapshot.pipeline)?;
        }
        self.hand_out_progress(&published.snapshot, text)?;
        self.hand_out_usage(&published.snapshot, text)
    }

    /// Waits until there may be something that the last [`EventStream::gather`] did not have, at most for `limit`. Returns whether there can
    /// be more: false once the server stops.
    pub fn wait(&self, limit: Duration) -> bool {
        self.streams.waker.wait(self.seen, self.read_again.map_or(limit, |read_again| read_again.min(limit)))
    }

    /// How far the run is, where this client does not have that yet.
    fn hand_out_progress(&mut self, snapshot: &Snapshot, text: &mut EventText) -> io::Result<()> {
        let Snapshot { pipeline: Pipeline { run_id, progress, .. }, progress_number, run_ended_at, .. } = snapshot;
        // Its end closes the step that a run was at, and nothing where it was at none.
        let is_closed = progress.is_some() && run_ended_at.is_some();
        let sent = Some((*run_id, *progress_number, is_closed));
        if self.progress_sent == sent {
            return Ok(());
        }
        self.progress_sent = sent;
        text.add(None, EventKind::Progress, &ProgressEvent { run_id: *run_id, progress })
    }

    /// What the run uses, where this client does not have that yet.
    fn hand_out_usage(&mut self, snapshot: &Snapshot, text: &mut EventText) -> io::Result<()> {
        let Pipeline { run_id, usage, .. } = snapshot.pipeline;
        let sent = Some((run_id, snapshot.usage_number));
        if self.usage_sent == sent {
            return Ok(());
        }
        self.usage_sent = sent;
        text.add(None, EventKind::Usage, &UsageEvent { run_id, usage })
    }

    /// The next lines, and between them what happened before each. Returns whether that was all there is.
    fn hand_out_log(&mut self, history: &mut VecDeque<RunEvent>, text: &mut EventText) -> io::Result<bool> {
        for _ in 0..LINES_AT_ONCE {
            if text.is_full() {
                return Ok(false);
            }
            match self.log.next()? {
                None => return Ok(true),
                Some(Item::Gone { from, to }) => {
                    self.at.log = to;
                    text.add(Some(&self.at), EventKind::Gap, &Gap { from, to })?;
                }
                Some(Item::Line(line)) => {
                    let line = Line::from(line);
                    if let Some(at) = line.at {
                        self.hand_out_history(history, text, |happened| happened.event.at <= at)?;
                    }
                    self.at.log = line.id;
                    text.add(Some(&self.at), EventKind::Log, &line)?;
                }
            }
        }
        Ok(false)
    }

    /// What happened, as long as it is `due`.
    fn hand_out_history(
        &mut self,
        history: &mut VecDeque<RunEvent>,
        text: &mut EventText,
        due: impl Fn(&RunEvent) -> bool,
    ) -> io::Result<()> {
        while history.front().is_some_and(&due) {
            let Some(happened) = history.pop_front() else { break };
            self.at.event = (happened.run_id, happened.event.seq);
            text.add(Some(&self.at), EventKind::Run, &happened)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::clock::Timestamp;
    use crate::health::Inspector;
    use crate::pipeline::ConditionCode;
    use crate::run_dir::Runs;
    use crate::store::{DatabaseFile, Store};
    use crate::supervisor::{Settings, Supervisor};

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn publication_between_reading_and_waiting_ends_the_wait_and_so_does_the_servers_end() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let root = dir.path().canonicalize().expect("there");
        let store = Store::open(&root.join("db")).expect("opens").store;
        let settings = Settings {
            runtime_dir: root.clone(),
            root: root.clone(),
            default_script: None,
            grace: Duration::ZERO,
            uses_cgroups: false,
            keeps_env_values: false,
            usage_every: Duration::ZERO,
            core_bytes_max: None,
            log_segment_bytes: 1 << 20,
            log_run_bytes: 1 << 20,
            taken_vars: Vec::new(),
        };
        let supervisor = Supervisor::start(store, settings, || {}, || {}).expect("starts");
        let inspector = Inspector::start(|| None).expect("starts");
        let (handle, runs) = (supervisor.handle(), Runs::new(root.clone()));
        let database = DatabaseFile::at(&root.join("db"));
        let streams = Arc::new(Streams::new(handle.clone(), inspector, runs, supervisor.logs(), database));
        let mut stream = streams.open(Begin::Now, &Client::patient(None)).expect("opens").expect("there is a slot");
        let mut text = EventText::default();
        stream.gather(&mut text).expect("reads");
        let began = Instant::now();
        handle.watch().set_found(&[(ConditionCode::DiskLow, "1 KiB is free".to_owned())], Timestamp::from_unix_ms(0));
        assert!(stream.wait(LONG), "the server goes on");
        stream.gather(&mut text).expect("reads");
        let text = String::from_utf8(text.0).expect("text");
        let states = text.split("event: state\ndata: ").skip(1).map(|rest| rest.lines().next().expect("data"));
        let has_conditions = |state| !serde_json::from_str::<Pipeline>(state).expect("a state").conditions.is_empty();
        assert_eq!(states.map(has_conditions).collect::<Vec<_>>(), [false, true]);
        supervisor.stop().expect("no fault");
        assert!(!stream.wait(LONG), "nothing more will come");
        assert!(began.elapsed() < LONG, "neither wait lasted to its limit");
    }
}
