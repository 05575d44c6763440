//! One run, from its spawn to its end: the loop, the commands, the facts.
//!
//! The order is law: `spawned` is in the journal before anybody is told; the end is waited for without reaping, the tree
//! killed, the output drained, `exited` written and synced, and only then is the leader reaped and the lock let go.

mod beginning;
mod steps;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::Signals;
use super::connections::{ConnectionId, Connections};
use super::kill_points;
use super::output::Output;
use super::pause_file::PauseFile;
use super::place;
use super::tree::{Freeze, Kill, Thaw, Tree};
use super::trouble::Said;
use crate::clock::{Clock, SystemClock, whole_ms};
use crate::held_dir::HeldDir;
use crate::kill_point::KillPoint;
use crate::pipeline::{Cause, ConditionCode, Exit, Fact, Killed};
use crate::process::{self, Identity};
use crate::run_dir::{self, Journal, LaunchSpec, Message, Note, Reply, ReplyError, Rotated, RunDir};

/// How long a pause may take before it is refused and undone.
const PAUSE_LIMIT: Duration = Duration::from_secs(4);

/// How long the leader may take to go on.
const RESUME_LIMIT: Duration = Duration::from_secs(4);

/// How often a paused tree is looked at where only signals hold it: often at first, seldom later. Whoever undoes a stop by itself does so at once.
const PAUSE_LOOK_MIN: Duration = Duration::from_millis(20);
const PAUSE_LOOK_MAX: Duration = Duration::from_secs(1);

/// How often a pause that somebody breaks is made good again before it is given up.
const RESTOPS_MAX: u32 = 10;

/// How long what the leader left behind after a natural end may be silent and asleep before it is killed: the `tee` of a `> >(tee log)` still
/// has something to write. Until then the state says running, so it is below the 50 ms within which an end must be known.
const LINGER_SILENCE: Duration = Duration::from_millis(30);

/// How long it may go on writing, or being busy: on a loaded machine it may not have had its turn yet.
const LINGER_LIMIT: Duration = Duration::from_millis(250);

/// How long what is in the pipes at the end is read, against a writer outside of the tree.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// How often lines that the disk did not take are tried again.
const JOURNAL_RETRY: Duration = Duration::from_secs(1);

/// Who waits for an answer.
type Asker = (ConnectionId, u64);

/// What is being done to the tree.
enum Phase {
    /// Nothing: it runs.
    Running,
    /// It is being stopped.
    Freezing { freeze: Freeze, since: Duration, then: Frozen, asker: Option<Asker> },
    /// All of it is stopped.
    Paused,
    /// It is being continued.
    Thawing { thaw: Thaw, since: Duration, then: Thawed, asker: Option<Asker> },
    /// It was asked to end.
    Stopping { kill_at: Duration },
    /// It is being killed.
    Killing { kill: Kill },
}

/// What follows when all is stopped.
enum Frozen {
    /// The fact that it is paused.
    Tell(Cause),
    /// Nothing to tell: it was paused before and a resume has failed.
    Keep,
}

/// What follows when all goes on.
#[derive(Clone, Copy)]
enum Thawed {
    /// The fact that it is resumed.
    Tell(Cause),
    /// Nothing to tell: it was never wholly paused.
    Keep { spares_leader: bool },
    /// The fact that it is resumed, because the pause would not hold.
    GiveUp,
}

impl Thawed {
    /// Whether the leader was continued by somebody else, who may stop it again.
    fn spares_leader(self) -> bool {
        match self {
            Self::Tell(cause) => cause == Cause::Outside,
            Self::Keep { spares_leader } => spares_leader,
            Self::GiveUp => false,
        }
    }
}

/// How often a pause was made good again that somebody broke: since it was made, and when it is looked at next.
#[derive(Default)]
struct Restops {
    count: u32,
    pause: Duration,
}

/// The leader's end, before the run's.
struct LeaderEnd {
    exit: Exit,
    /// What it left behind is killed then, if it neither writes nor is busy.
    linger_until: Duration,
    /// It is killed then whatever it does.
    linger_limit: Duration,
}

impl LeaderEnd {
    /// What was left behind shows a sign of life.
    fn linger(&mut self, now: Duration) {
        self.linger_until = self.linger_until.max(now + LINGER_SILENCE).min(self.linger_limit);
    }
}

/// A run that has begun.
pub(super) struct Run {
    spec: LaunchSpec,
    dir: RunDir,
    signals: Signals,
    connections: Connections,
    journal: Journal,
    /// Why the journal did not take what happened.
    journal_failure: Option<io::Error>,
    output: Output,
    pause_file: PauseFile,
    place: HeldDir,
    /// The name of the second control socket.
    socket: Option<String>,
    said_trouble: Said,
    leader: Identity,
    phase: Phase,
    /// When `phase` is to be looked at again.
    look_at: Option<Duration>,
    /// Set by events after which the leader may be in another state.
    look_at_leader: bool,
    tree: Tree,
    restops: Restops,
    /// What there is to say about the state.
    note: Option<String>,
    /// Whether somebody asked for the end before the leader ended.
    asked: bool,
    leader_end: Option<LeaderEnd>,
    /// In boot time: a suspended machine adds to the pause.
    paused_since: Option<Duration>,
    paused_in_all: Duration,
    /// When to free the memory that only the start needed, in awake time.
    trim_at: Option<Duration>,
}

impl Run {
    /// The loop. Returns when nothing of the run is alive and everything about it is written down.
    pub(super) fn go_on_until_the_end(mut self) {
        while self.leader.pid != 0 {
            let now = SystemClock.awake();
            let deadline = self.advance(now);
            self.tell_trouble();
            self.tell_progress();
            self.trim(now);
            let deadline = deadline.into_iter().chain(self.said_trouble.due_at()).chain(self.output.progress().due_at());
            let deadline = deadline.chain(self.trim_at).min();
            if self.is_over() {
                // What the sockets do not take any more is in the journal.
                return self.finish();
            }
            self.wait(deadline);
            if let Phase::Stopping { .. } = self.phase {
                KillPoint::ShimInGrace.reach();
            }
            self.take_events();
        }
        // Nothing came to life. That is as much an end as any: whoever finds no word of it must take the run for lost.
        self.wait_while(|run| run.journal.is_behind() && run.catch_up().is_err());
    }

    /// Loading the program and starting a run need far more of its code than watching over the run does.
    fn trim(&mut self, now: Duration) {
        if self.trim_at.take_if(|at| *at <= now).is_some() {
            // A kernel that does not report which pages are unchanged keeps them all.
            let _saves_memory_only = process::let_go_of_unchanged_pages();
        }
    }

    /// Sleeps until something happens, or until `deadline` in awake time.
    fn wait(&self, deadline: Option<Duration>) {
        let now = SystemClock.awake();
        let timeout = deadline.map(|at| {
            let left = at.saturating_sub(now);
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(left.subsec_nanos()) }
        });
        let mut fds =
            vec![PollFd::new(&self.signals.children, PollFlags::IN), PollFd::new(&self.signals.terminate, PollFlags::IN)];
        fds.extend(self.connections.listeners().map(|listener| PollFd::new(listener, PollFlags::IN)));
        // Whatever else is due: only a look at the tree that is due anyway is as good.
        if matches!(self.phase, Phase::Paused) && self.look_at.is_none() {
            fds.extend(self.tree.events().map(|events| PollFd::new(events, PollFlags::PRI)));
        }
        fds.extend(self.output.pipes(now).map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        fds.extend(self.connections.streams().map(|(stream, has_unsent)| {
            PollFd::from_borrowed_fd(stream.as_fd(), if has_unsent { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN })
        }));
        // EINTR: a signal came, and its byte is in the pipe.
        let _interrupted = rustix::event::poll(&mut fds, timeout.as_ref());
    }

    fn take_events(&mut self) {
        let now = SystemClock.awake();
        if drain(&self.signals.children) {
            self.look_at_leader = true;
        }
        if drain(&self.signals.terminate) {
            // The machine shuts down, or somebody wants this run to end.
            self.stop(self.grace(None), None, now);
        }
        let ran = self.ran();
        let has_written = self.output.turn(now, ran);
        if let Some(rotated) = self.output.take_rotated() {
            self.connections.tell_all(&[Message::Rotated(Rotated { rotated })]);
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
                if self.note.is_some() {
                    self.connections.tell(connection, &Message::Note(Note { note: self.note.clone() }));
                }
                if let Some(trouble) = self.said_trouble.current() {
                    self.connections.tell(connection, &Message::Trouble(trouble));
                }
                if let Some(progress) = self.output.progress().current() {
                    self.connections.tell(connection, &progress);
                }
                self.answer((connection, tag), None);
            }
            run_dir::Command::Pause { tag } => match &mut self.phase {
                // One that was never wholly paused is running for everybody else, although it is still being let go.
                Phase::Running | Phase::Thawing { then: Thawed::Keep { .. }, .. } if self.leader_end.is_none() => {
                    self.freeze(Frozen::Tell(Cause::Request), Some((connection, tag)), now);
                }
                // Somebody's SIGSTOP came first; the client gets what it wanted.
                Phase::Freezing { asker: asker @ None, then: Frozen::Tell(_), .. } => *asker = Some((connection, tag)),
                _ => self.not_now((connection, tag)),
            },
            run_dir::Command::Resume { tag } => match self.phase {
                // It was paused already when somebody continued a process of it.
                Phase::Paused | Phase::Freezing { then: Frozen::Keep, asker: None, .. } if self.leader_end.is_none() => {
                    self.thaw(Thawed::Tell(Cause::Request), Some((connection, tag)), now);
                }
                _ => self.not_now((connection, tag)),
            },
            run_dir::Command::Stop { tag, grace_ms, origin } => {
                self.stop(self.grace(grace_ms), origin, now);
                self.answer((connection, tag), None);
            }
            // Answered where it was read: the tag is lost by now.
            run_dir::Command::Unknown => {}
        }
    }

    fn grace(&self, asked_ms: Option<u64>) -> Duration {
        Duration::from_millis(asked_ms.unwrap_or(self.spec.grace_ms))
    }

    /// A server that connects may have found a copy of this run's directory in place of the removed one.
    fn follow_directory(&mut self) {
        let Some(socket) = self.socket.as_deref().filter(|_| place::is_removed()) else { return };
        match place::enter_copy(&self.spec.runtime_dir, self.spec.run_id, socket) {
            Ok(place) => self.place = place,
            Err(error) => {
                return super::complain(format_args!("the run's directory was removed, and no copy can be used: {error}"));
            }
        }
        let moved = self.journal.move_to(&self.dir.journal_path());
        self.or_log("move the journal into the copy of its directory", moved);
        KillPoint::ShimJournalMoved.reach();
        let moved = self.output.move_to(&self.dir.log_dir());
        self.or_log("move the log into the copy of its directory", moved);
        self.pause_file.move_to(self.place.path());
        // A copy has no socket that leads anywhere.
        let _was_none = self.dir.remove_socket();
        match self.dir.listen() {
            Ok(listener) => self.connections.listen_at(listener),
            Err(error) => super::complain(format_args!("failed to open the control socket again: {error}")),
        }
    }

    /// Sends every entry after number `after`: those of the file, and those that the file does not hold yet.
    fn replay(&mut self, connection: ConnectionId, after: u64) {
        let written = match self.journal.read() {
            Ok(journal) => journal.entries,
            Err(error) => {
                super::complain(format_args!("failed to read the journal: {error}"));
                Vec::new()
            }
        };
        for entry in written.into_iter().chain(self.journal.waiting()).filter(|entry| entry.seq > after) {
            self.connections.tell(connection, &Message::Fact(entry));
        }
    }

    fn answer(&mut self, (connection, tag): Asker, error: Option<(ReplyError, &str)>) {
        let reply = Reply { reply: tag, error: error.map(|(code, _)| code), detail: error.map(|(_, text)| text.to_owned()) };
        self.connections.tell(connection, &Message::Reply(reply));
    }

    fn not_now(&mut self, asker: Asker) {
        self.answer(asker, Some((ReplyError::NotNow, "the pipeline is not in the state for it any more")));
    }

    // ---- the end

    /// With an empty tree the pipes hold all that there will be, unless somebody outside of it has the other end.
    fn is_over(&self) -> bool {
        self.leader_end.is_some() && self.tree.is_empty()
    }

    fn finish(&mut self) {
        KillPoint::ShimTreeEnded.reach();
        let began = SystemClock.awake();
        let ran = self.ran();
        self.output.close(|| SystemClock.awake() > began + DRAIN_LIMIT, began, ran);
        KillPoint::ShimDrained.reach();
        if let Some(progress) = self.output.progress().end(ran) {
            self.connections.tell_all(&[progress]);
        }
        KillPoint::ShimProgressStored.reach();
        self.count_pause();
        self.pause_file.set(false);
        KillPoint::ShimEndPauseFileRemoved.reach();
        // Before the end is told: nothing of the run is left then.
        self.or_log("remove the control group", self.tree.remove());
        KillPoint::ShimCgroupRemoved.reach();
        let exit = self.leader_end.as_ref().map_or(Exit::Code(0), |end| end.exit);
        let (asked, paused_ms, log_end) = (self.asked, whole_ms(self.paused_in_all), self.output.end_position());
        let killed = match &mut self.phase {
            Phase::Killing { kill } => std::mem::take(&mut kill.killed),
            Phase::Running | Phase::Freezing { .. } | Phase::Paused | Phase::Thawing { .. } | Phase::Stopping { .. } => {
                Killed::default()
            }
        };
        let mut last = vec![self.write_down(Fact::Exited { exit, asked, paused_ms, log_end, killed }, true)];
        if self.journal.is_behind() {
            // A disk without room must not cost the exit status: this process is the only one that has it. A server that is there gets it
            // at once, one that comes later as well.
            self.connections.tell_all(&std::mem::take(&mut last));
            self.wait_while(|run| run.catch_up().is_err());
        }
        // Only now: until here a kill of this process would have left the exit status with the kernel.
        process::reap_all_but(None);
        KillPoint::ShimReaped.reach();
        let usage = process::usage_of_children().map(|used| Fact::Usage {
            cpu_user_ms: used.cpu_user_ms,
            cpu_system_ms: used.cpu_system_ms,
            max_rss_kb: used.max_rss_kb,
        });
        if let Ok(usage) = usage {
            last.push(self.write_down(usage, false));
        }
        // Together: a server that knows the end may start the next run before it hears any more of this one.
        self.connections.tell_all(&last);
        self.connections.turn();
        KillPoint::ShimEndSent.reach();
        // The end is on record. What the log lost, and how far the pipeline came, is nowhere but here.
        self.wait_while(|run| run.output.owes_a_mark() || run.pause_file.failure().is_some() || run.output.progress().is_owed());
    }

    /// After the end: does nothing but answer, and try again what the disk does not take.
    fn wait_while(&mut self, is_so: impl Fn(&mut Self) -> bool) {
        self.phase = Phase::Killing { kill: Kill::new() };
        while is_so(self) {
            self.tell_trouble();
            self.tell_progress();
            self.wait(Some(SystemClock.awake() + JOURNAL_RETRY));
            self.take_events();
            self.retry_pause_file();
        }
        self.tell_trouble();
    }

    /// How long it has gone on without its pauses, since some moment.
    fn ran(&self) -> Duration {
        let now = SystemClock.since_boot();
        let paused = self.paused_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        now.saturating_sub(paused + self.paused_in_all)
    }

    fn count_pause(&mut self) {
        if let Some(since) = self.paused_since.take() {
            self.paused_in_all += SystemClock.since_boot().saturating_sub(since);
        }
    }

    // ---- what others see

    /// Writes a fact down and sends it up.
    fn record(&mut self, fact: Fact, durable: bool) {
        let message = self.write_down(fact, durable);
        self.connections.tell_all(std::slice::from_ref(&message));
        kill_points::sent(&message);
    }

    /// Says something about the state, or takes it back.
    fn say(&mut self, note: Option<String>) {
        if self.note != note {
            self.note.clone_from(&note);
            self.connections.tell_all(&[Message::Note(Note { note })]);
        }
    }

    fn write_down(&mut self, fact: Fact, durable: bool) -> Message {
        let boot_ms = whole_ms(SystemClock.since_boot());
        let entry = self.journal.number(SystemClock.now(), self.spec.created_at, boot_ms, fact);
        self.journal_failure = self.journal.append(&entry, durable).err();
        kill_points::written(&entry.fact);
        Message::Fact(entry)
    }

    /// Tries again what the journal did not take.
    fn catch_up(&mut self) -> Result<(), ()> {
        self.journal_failure = self.journal.flush().err();
        if self.journal_failure.is_none() { Ok(()) } else { Err(()) }
    }

    fn retry_pause_file(&mut self) {
        if self.pause_file.failure().is_none() {
            return;
        }
        // After the end another run can have begun, and the file can be its own.
        match self.leader_end.as_ref().map_or(Ok(true), |_| self.is_latest()) {
            Ok(true) => self.pause_file.retry(),
            Ok(false) => self.pause_file.leave(),
            // Tried again, as the file.
            Err(_) => {}
        }
    }

    /// Whether no run has begun after this one.
    fn is_latest(&self) -> io::Result<bool> {
        let latest = run_dir::Runs::new(self.place.path().to_owned()).latest_id()?;
        Ok(latest.is_none_or(|id| id <= self.spec.run_id))
    }

    /// Says what cannot be written, and that it can be again.
    fn tell_trouble(&mut self) {
        let failures = [
            (ConditionCode::JournalUnwritable, "its journal cannot be written", self.journal_failure.as_ref()),
            (ConditionCode::LogDropped, "lines of the log are lost", self.output.failure()),
            (ConditionCode::PauseFileFailed, "the PAUSE file cannot be made or removed", self.pause_file.failure()),
        ];
        if let Some(trouble) = self.said_trouble.turn(&failures, SystemClock.awake()) {
            self.connections.tell_all(&[Message::Trouble(trouble)]);
        }
    }

    /// Says how far the pipeline is, and stores it, as often as is due.
    fn tell_progress(&mut self) {
        if let Some(progress) = self.output.progress().turn(SystemClock.awake()) {
            self.connections.tell_latest(&progress);
        }
    }

    /// For what must not end the run: the pipeline is worth more than the file.
    fn or_log(&self, step: &str, result: io::Result<()>) {
        if let Err(error) = result {
            super::complain(format_args!("run {}: failed to {step}: {error}", self.spec.run_id));
        }
    }
}

/// Empties a signal pipe; whether anything was in it.
fn drain(stream: &UnixStream) -> bool {
    let mut buffer = [0; 64];
    let mut any = false;
    while let Ok(count) = io::Read::read(&mut &*stream, &mut buffer) {
        any |= count > 0;
        if count < buffer.len() {
            break;
        }
    }
    any
}
