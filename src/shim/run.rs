//! One run: the loop, the commands and the facts. Its spawn, the operations on its tree, and its end are in the files beside
//! this one.
//!
//! The order is fixed. `spawned` is in the journal before any server is notified. At the end the leader is waited for without
//! reaping it, the tree is killed, the output is drained, and `exited` is written and synced. Only then is the leader reaped and
//! the lock released.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::connections::{ConnectionId, Connections};
use super::failure::complain;
use super::kill_points;
use super::output::Output;
use super::pause_file::PauseFile;
use super::phase::{Asker, Frozen, LeaderEnd, Phase, Restops, Thawed};
use super::place;
use super::signals::{Signals, drain};
use super::signs::SignBoard;
use super::tree::Tree;
use super::trouble::Troubles;
use super::usage::{Moment, UsageKeeper};
use crate::clock::{Clock, SystemClock, whole_ms};
use crate::held_dir::HeldDir;
use crate::kill_point::KillPoint;
use crate::pipeline::{ConditionCode, Fact, Origin};
use crate::process::{self, Identity};
use crate::run_dir::{self, Journal, LaunchSpec, Message, Reply, ReplyError, Rotated, RunDir};

/// How often lines that the disk did not take are written again.
pub(super) const JOURNAL_RETRY: Duration = Duration::from_secs(1);

pub(super) struct Run {
    pub(super) spec: LaunchSpec,
    pub(super) dir: RunDir,
    pub(super) signals: Signals,
    pub(super) connections: Connections,
    pub(super) journal: Journal,
    /// Why the journal did not take the latest fact.
    pub(super) journal_failure: Option<io::Error>,
    pub(super) output: Output,
    pub(super) pause_file: PauseFile,
    pub(super) place: HeldDir,
    /// The name of the second control socket.
    pub(super) socket: Option<String>,
    pub(super) signs: SignBoard,
    pub(super) troubles: Troubles,
    pub(super) usage: UsageKeeper,
    /// When the leader was spawned, in boot time.
    pub(super) began: Duration,
    pub(super) leader: Identity,
    pub(super) phase: Phase,
    /// When `phase` is to be checked again.
    pub(super) look_at: Option<Duration>,
    /// Set by events after which the leader may be in another state.
    pub(super) look_at_leader: bool,
    pub(super) tree: Tree,
    pub(super) restops: Restops,
    /// The origin of the first stop that was requested before the leader ended.
    pub(super) stopped_by: Option<Origin>,
    pub(super) leader_end: Option<LeaderEnd>,
    /// In boot time: a suspended machine adds to the pause.
    pub(super) paused_since: Option<Duration>,
    pub(super) paused_in_all: Duration,
    /// When to free the memory that only the start needed, in awake time.
    pub(super) trim_at: Option<Duration>,
}

impl Run {
    /// Runs the loop. Returns once nothing of the run is alive and everything about it is written.
    pub(super) fn go_on_until_the_end(mut self) {
        while self.leader.pid != 0 {
            let now = SystemClock.awake();
            let deadline = self.advance(now);
            let usage_due = self.look_at_usage(now);
            self.tell_signs();
            self.trim(now);
            let due = [self.signs.due_at(), self.troubles.due_at(), self.output.progress().due_at(), self.trim_at, usage_due];
            let deadline = deadline.into_iter().chain(due.into_iter().flatten()).min();
            if self.is_over() {
                // Anything that the sockets do not take any more is in the journal.
                return self.finish();
            }
            self.wait(deadline);
            if let Phase::Stopping { .. } = self.phase {
                KillPoint::ShimInGrace.reach();
            }
            self.take_events();
        }
        // Nothing was spawned. This is an end like any other: without a record of it, a server must take the run for lost.
        self.wait_while(|run| run.journal.is_behind() && run.catch_up().is_err());
    }

    /// Releases pages that are no longer needed: loading the program and starting a run need far more of its code than watching
    /// over the run.
    fn trim(&mut self, now: Duration) {
        if self.trim_at.take_if(|at| *at <= now).is_some() {
            // A kernel that does not report which pages are unchanged keeps them all.
            let _saves_memory_only = process::release_clean_pages();
        }
    }

    /// Takes a usage sample if one is due, and returns when the next one is due. Takes none while the run is paused, because
    /// nothing is used then.
    fn look_at_usage(&mut self, now: Duration) -> Option<Duration> {
        if matches!(self.phase, Phase::Paused) {
            UsageKeeper::rest(&mut self.signs);
        }
        if self.leader_end.is_some() || !matches!(self.phase, Phase::Running | Phase::Stopping { .. }) {
            return None;
        }
        let since_start = SystemClock.since_boot().saturating_sub(self.began);
        let at = Moment { now, since_start, ran: self.ran().saturating_sub(self.began) };
        if self.usage.due_at(at).is_some_and(|due| due <= now) {
            match self.tree.usage() {
                Ok(used) => {
                    let cost = SystemClock.awake().saturating_sub(now);
                    self.usage.take(used, SystemClock.now(), at, cost, &mut self.signs);
                }
                Err(_) => self.usage.miss(at),
            }
        }
        self.usage.due_at(at)
    }

    /// Sleeps until something happens, or until `deadline` in awake time.
    pub(super) fn wait(&self, deadline: Option<Duration>) {
        let now = SystemClock.awake();
        let timeout = deadline.map(|at| {
            let left = at.saturating_sub(now);
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(left.subsec_nanos()) }
        });
        let mut fds =
            vec![PollFd::new(&self.signals.children, PollFlags::IN), PollFd::new(&self.signals.terminate, PollFlags::IN)];
        fds.extend(self.connections.listeners().map(|listener| PollFd::new(listener, PollFlags::IN)));
        // Only if no scan is due: a scan of the tree does the same.
        if matches!(self.phase, Phase::Paused) && self.look_at.is_none() {
            fds.extend(self.tree.events().map(|events| PollFd::new(events, PollFlags::PRI)));
        }
        fds.extend(self.output.pipes(now).map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        fds.extend(self.connections.streams().map(|(stream, has_unsent)| {
            PollFd::from_borrowed_fd(stream.as_fd(), if has_unsent { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN })
        }));
        // EINTR: a signal arrived, and its byte is in the pipe.
        let _interrupted = rustix::event::poll(&mut fds, timeout.as_ref());
    }

    pub(super) fn take_events(&mut self) {
        let now = SystemClock.awake();
        if drain(&self.signals.children) {
            self.look_at_leader = true;
        }
        if drain(&self.signals.terminate) {
            // The machine is shutting down, or another process wants to end this run.
            self.stop(self.grace(None), Origin::Signal, now);
        }
        let ran = self.ran();
        let has_written = self.output.turn(now, ran, &mut self.signs);
        if let Some(rotated) = self.output.take_rotated() {
            self.connections.tell_all(&[Rotated { rotated }]);
        }
        if let (true, Some(end)) = (has_written, &mut self.leader_end) {
            end.linger(now);
        }
        for (connection, command) in self.connections.turn() {
            self.obey(connection, command);
        }
    }

    // ---- commands

    fn obey(&mut self, connection: ConnectionId, command: run_dir::Command) {
        let now = SystemClock.awake();
        match command {
            run_dir::Command::Attach { tag, after } => {
                self.follow_directory();
                self.replay(connection, after);
                self.connections.attach(connection);
                self.connections.tell(connection, self.signs.latest());
                self.answer((connection, tag), None);
            }
            run_dir::Command::Pause { tag, origin } => match &mut self.phase {
                // A run that was never wholly paused counts as running, although it is still being continued.
                Phase::Running | Phase::Thawing { then: Thawed::Keep { .. }, .. } if self.leader_end.is_none() => {
                    self.freeze(Frozen::Tell(Some(origin)), Some((connection, tag)), now);
                }
                // A SIGSTOP from outside came first; the client gets the pause that it wanted.
                Phase::Freezing { asker: asker @ None, then: Frozen::Tell(_), .. } => *asker = Some((connection, tag)),
                _ => self.not_now((connection, tag)),
            },
            run_dir::Command::Resume { tag, origin } => match self.phase {
                // The run was already paused when another program continued one of its processes.
                Phase::Paused | Phase::Freezing { then: Frozen::Keep, asker: None, .. } if self.leader_end.is_none() => {
                    self.thaw(Thawed::Tell(Some(origin)), Some((connection, tag)), now);
                }
                _ => self.not_now((connection, tag)),
            },
            run_dir::Command::Stop { tag, grace_ms, origin } => {
                self.stop(self.grace(grace_ms), origin, now);
                self.answer((connection, tag), None);
            }
            run_dir::Command::Watch { tag } => {
                self.usage.watch(now);
                self.answer((connection, tag), None);
            }
            // It was answered when it was read: its tag is lost by now.
            run_dir::Command::Unknown => {}
        }
    }

    pub(super) fn grace(&self, asked_ms: Option<u64>) -> Duration {
        Duration::from_millis(asked_ms.unwrap_or(self.spec.grace_ms))
    }

    /// Enters a copy of the run's directory that was put in the place of the removed one. A server that connects may have found
    /// it.
    fn follow_directory(&mut self) {
        let Some(socket) = self.socket.as_deref().filter(|_| place::is_removed()) else { return };
        match place::enter_copy(&self.spec.runtime_dir, self.spec.run_id, socket) {
            Ok(place) => self.place = place,
            Err(error) => {
                return complain(format_args!("the run's directory was removed, and no copy can be used: {error}"));
            }
        }
        let moved = self.journal.move_to(&self.dir.journal_path());
        self.or_log("move the journal into the copy of its directory", moved);
        KillPoint::ShimJournalMoved.reach();
        let moved = self.output.move_to(&self.dir.log_dir());
        self.or_log("move the log into the copy of its directory", moved);
        self.pause_file.move_to(self.place.path());
        // The socket of a copy leads nowhere.
        let _was_none = self.dir.remove_socket();
        match self.dir.listen() {
            Ok(listener) => self.connections.listen_at(listener),
            Err(error) => complain(format_args!("failed to open the control socket again: {error}")),
        }
    }

    /// Sends every entry after number `after`: those in the file, and those that the file does not contain yet.
    pub(super) fn replay(&mut self, connection: ConnectionId, after: u64) {
        let written = match self.journal.read() {
            Ok(journal) => journal.entries,
            Err(error) => {
                complain(format_args!("failed to read the journal: {error}"));
                Vec::new()
            }
        };
        for entry in written.into_iter().chain(self.journal.waiting()).filter(|entry| entry.seq > after) {
            self.connections.tell(connection, &Message::Fact(entry));
        }
    }

    pub(super) fn answer(&mut self, (connection, tag): Asker, error: Option<(ReplyError, &str)>) {
        let reply = Reply { reply: tag, error: error.map(|(code, _)| code), detail: error.map(|(_, text)| text.to_owned()) };
        self.connections.tell(connection, &Message::Reply(reply));
    }

    pub(super) fn not_now(&mut self, asker: Asker) {
        self.answer(asker, Some((ReplyError::NotNow, "the pipeline's state no longer allows it")));
    }

    // ---- times

    /// Returns how long the run has run without its pauses, since a fixed moment.
    pub(super) fn ran(&self) -> Duration {
        let now = SystemClock.since_boot();
        let paused = self.paused_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        now.saturating_sub(paused + self.paused_in_all)
    }

    pub(super) fn count_pause(&mut self) {
        if let Some(since) = self.paused_since.take() {
            self.paused_in_all += SystemClock.since_boot().saturating_sub(since);
        }
    }

    // ---- facts and signs

    /// Writes a fact with its origin, and sends it up.
    pub(super) fn record(&mut self, fact: Fact, origin: Option<Origin>, durable: bool) {
        let message = self.write_down(fact, origin, durable);
        self.connections.tell_all(std::slice::from_ref(&message));
        kill_points::sent(&message);
    }

    /// Sets or removes the note about the state.
    pub(super) fn say(&mut self, note: Option<String>) {
        if self.signs.signs().note != note {
            self.signs.change_at_once(|signs| signs.note = note);
            self.send_signs();
        }
    }

    pub(super) fn write_down(&mut self, fact: Fact, origin: Option<Origin>, durable: bool) -> Message {
        let boot_ms = whole_ms(SystemClock.since_boot());
        let mut entry = self.journal.number(SystemClock.now(), self.spec.created_at, boot_ms, fact);
        entry.origin = origin;
        self.journal_failure = self.journal.append(&entry, durable).err();
        kill_points::written(&entry.fact);
        Message::Fact(entry)
    }

    pub(super) fn catch_up(&mut self) -> Result<(), ()> {
        self.journal_failure = self.journal.flush().err();
        if self.journal_failure.is_none() { Ok(()) } else { Err(()) }
    }

    pub(super) fn retry_pause_file(&mut self) {
        if self.pause_file.failure().is_none() {
            return;
        }
        // After the end another run can have begun, and the file can belong to that run.
        match self.leader_end.as_ref().map_or(Ok(true), |_| self.is_latest()) {
            Ok(true) => self.pause_file.retry(),
            Ok(false) => self.pause_file.leave(),
            // This is tried again, like the file itself.
            Err(_) => {}
        }
    }

    /// Returns whether no run has begun after this one.
    fn is_latest(&self) -> io::Result<bool> {
        let latest = run_dir::Runs::new(self.place.path().to_owned()).latest_id()?;
        Ok(latest.is_none_or(|id| id <= self.spec.run_id))
    }

    /// Sends changed signs when they are due, and stores the progress when it is due.
    pub(super) fn tell_signs(&mut self) {
        let failures = [
            (ConditionCode::JournalUnwritable, "its journal cannot be written", self.journal_failure.as_ref()),
            (ConditionCode::LogDropped, "lines of the log are lost", self.output.failure()),
            (ConditionCode::PauseFileFailed, "the PAUSE file cannot be created or removed", self.pause_file.failure()),
        ];
        let now = SystemClock.awake();
        if let Some(trouble) = self.troubles.turn(&failures, &self.signs.signs().trouble, now) {
            self.signs.change_at_once(|signs| signs.trouble = trouble);
        }
        self.output.progress().turn(now, &self.signs);
        self.send_signs();
    }

    fn send_signs(&mut self) {
        if let Some(signs) = self.signs.turn(SystemClock.awake()) {
            self.connections.tell_latest(signs);
        }
    }

    /// Logs an error that must not end the run: the pipeline is worth more than the file.
    pub(super) fn or_log(&self, step: &str, result: io::Result<()>) {
        if let Err(error) = result {
            complain(format_args!("run {}: failed to {step}: {error}", self.spec.run_id));
        }
    }
}
