//! One stream: the state, the history and the log, merged.
//!
//! Everything is read from where it is stored, the log from its files and the history from the database, at the client's pace. So
//! a slow client delays no other client, and a stream that continues from a position has neither gaps nor repeats, whatever was
//! restarted in between.

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
use crate::health::ScanGuard;
use crate::log::{Cursor, Item, Listing, RunLogs};
use crate::store::Reader;
use crate::supervisor::{Looking, Snapshot};
use crate::transport::Client;

/// The most log lines that are sent before the state is read again.
const LINES_AT_ONCE: usize = 500;

/// The point at which a new stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// After the position up to which the client has received everything.
    Behind(Position),
    /// With the log from this position on, the current state, and everything that happens from now on.
    Log(u64),
    /// With the current state, and everything that happens from now on.
    Now,
}

impl Streams {
    /// Opens a stream; `None` if the maximum number of streams for a client of this rank is open.
    pub fn open(self: &Arc<Self>, begin: Begin, client: &Client<'_>) -> io::Result<Option<EventStream>> {
        let Some(slot) = self.slots.take(client) else { return Ok(None) };
        let attendance = self.inspector.attend();
        // So that the first state that is sent is current.
        self.inspector.refresh();
        // The end of the log and of the history. No version yet, so that the state is sent.
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
    /// The number of the published state up to which the history was read.
    history_read_at: Option<u64>,
    /// The progress that this client was sent last: its run, its number, and whether the run had ended. `None` before the first.
    progress_sent: Option<(Option<i64>, u64, bool)>,
    /// The usage that this client was sent last: its run and its number. `None` before the first.
    usage_sent: Option<(Option<i64>, u64)>,
    /// Makes the server check for problems while the client is connected.
    _attendance: ScanGuard,
    /// Makes the shim scan the run's usage more often.
    _looking: Looking,
    /// Taken before the last read.
    seen: Seen,
    /// The longest time to wait, if the kernel does not report growth of the log.
    read_again: Option<Duration>,
}

impl EventStream {
    /// Returns whether the connection must check that its client is still connected: true once for each requested check.
    pub fn is_check_due(&mut self) -> bool {
        self.streams.slots.is_check_due(&mut self.checked)
    }

    /// Adds everything new to `text`.
    pub fn gather(&mut self, text: &mut EventText) -> io::Result<()> {
        // Taken before all reads below, so that a later change ends the wait.
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
        // The state is never more than one page of lines late, so that a client with a slow connection sees a pause even after a
        // flood of output.
        let shown = (Some(published.snapshot.version), published.snapshot.conditions.digest());
        if (self.at.version, self.at.wrong) != shown {
            (self.at.version, self.at.wrong) = shown;
            text.add(Some(&self.at), EventKind::State, &published.snapshot.pipeline)?;
        }
        self.hand_out_progress(&published.snapshot, text)?;
        self.hand_out_usage(&published.snapshot, text)
    }

    /// Waits until there may be something that the last [`EventStream::gather`] did not have, for at most `limit`. Returns false
    /// once the server stops, because nothing can follow.
    pub fn wait(&self, limit: Duration) -> bool {
        self.streams.waker.wait(self.seen, self.read_again.map_or(limit, |read_again| read_again.min(limit)))
    }

    /// Adds the progress of the run, unless the client already has it.
    fn hand_out_progress(&mut self, snapshot: &Snapshot, text: &mut EventText) -> io::Result<()> {
        let Snapshot { pipeline: Pipeline { run_id, progress, .. }, progress_number, run_ended_at, .. } = snapshot;
        // The end of a run closes its current step. A run without progress has no step.
        let is_closed = progress.is_some() && run_ended_at.is_some();
        let sent = Some((*run_id, *progress_number, is_closed));
        if self.progress_sent == sent {
            return Ok(());
        }
        self.progress_sent = sent;
        text.add(None, EventKind::Progress, &ProgressEvent { run_id: *run_id, progress })
    }

    /// Adds the usage of the run, unless the client already has it.
    fn hand_out_usage(&mut self, snapshot: &Snapshot, text: &mut EventText) -> io::Result<()> {
        let Pipeline { run_id, usage, .. } = snapshot.pipeline;
        let sent = Some((run_id, snapshot.usage_number));
        if self.usage_sent == sent {
            return Ok(());
        }
        self.usage_sent = sent;
        text.add(None, EventKind::Usage, &UsageEvent { run_id, usage })
    }

    /// Adds the next lines, and between them the events that came before each. Returns whether the end of the log was reached.
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

    /// Adds events for as long as the next one is `due`.
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
    fn stream_wait_ends_on_publication_and_on_server_stop() {
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
