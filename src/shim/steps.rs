//! The operations on the tree, step by step. Each one begins here, is checked again and again by the loop, and ends in a fact.

use std::time::Duration;

use super::failure::complain;
use super::phase::{Asker, Frozen, LINGER_LIMIT, LINGER_SILENCE, LeaderEnd, Phase, Restops, Thawed};
use super::run::{JOURNAL_RETRY, Run};
use super::tree::{Freeze, Kill, Look, Thaw};
use crate::clock::{Clock, SystemClock, whole_ms};
use crate::kill_point::KillPoint;
use crate::pipeline::{Cause, Exit, Fact, Origin};
use crate::process::{self, ProcState};
use crate::run_dir::ReplyError;

/// A pause is refused and undone after this time, but not before this many scans: on a busy machine, one scan of a large tree
/// takes a second.
const PAUSE_LIMIT: Duration = Duration::from_secs(4);
const PAUSE_LOOKS_MIN: u32 = 6;

/// How long the leader may take to continue.
const RESUME_LIMIT: Duration = Duration::from_secs(4);

/// How often a paused tree is scanned if only signals hold it: often at first, seldom later. A program that undoes a stop by
/// itself does so at once.
const PAUSE_LOOK_MIN: Duration = Duration::from_millis(20);
const PAUSE_LOOK_MAX: Duration = Duration::from_secs(1);

/// How often a broken pause is restored before it is abandoned.
const RESTOPS_MAX: u32 = 10;

impl Run {
    pub(super) fn freeze(&mut self, then: Frozen, asker: Option<Asker>, now: Duration) {
        self.phase = Phase::Freezing { freeze: Freeze::default(), since: now, then, asker };
        self.look_at = Some(now);
    }

    pub(super) fn thaw(&mut self, then: Thawed, asker: Option<Asker>, now: Duration) {
        self.pause_file.set(false);
        KillPoint::ShimPauseFileRemoved.reach();
        self.phase = Phase::Thawing { thaw: Thaw::new(self.leader), since: now, then, asker };
        self.look_at = Some(now);
    }

    /// Sends TERM to all processes, and KILL after the grace. For a repeated stop, the latest grace counts, unless it is longer
    /// and the origin is not a client.
    pub(super) fn stop(&mut self, grace: Duration, origin: Origin, now: Duration) {
        // The leader may have ended by itself a moment ago.
        self.watch_leader(now);
        let mut kill_at = now + grace;
        let is_first = !matches!(self.phase, Phase::Stopping { .. });
        match self.phase {
            Phase::Killing { .. } => return,
            Phase::Stopping { kill_at: before } if before <= kill_at && !origin.can_prolong() => return,
            // The requester of an operation that is abandoned here learns this from the facts that follow.
            Phase::Stopping { .. } | Phase::Running | Phase::Paused | Phase::Freezing { .. } | Phase::Thawing { .. } => {}
        }
        if self.leader_end.is_some() && self.stopped_by.is_none() {
            // The leader ended by itself. The processes that it left behind get no more time than they would have had.
            kill_at = now;
        }
        if self.leader_end.is_none() {
            self.stopped_by.get_or_insert(origin);
        }
        self.pause_file.set(false);
        KillPoint::ShimStopPauseFileRemoved.reach();
        if kill_at > now {
            self.record(Fact::Stopping { grace_ms: whole_ms(grace) }, Some(origin), false);
            // Many programs take a second TERM as an order to drop everything.
            if is_first {
                self.tree.terminate();
                KillPoint::ShimTermsSent.reach();
            }
        }
        self.phase = Phase::Stopping { kill_at };
        self.look_at = Some(kill_at);
    }

    /// Takes one step of the operation under way. Returns when to come back even if nothing happens.
    pub(super) fn advance(&mut self, now: Duration) -> Option<Duration> {
        if self.look_at_leader {
            self.look_at_leader = false;
            process::reap_all_but(Some(self.leader.pid));
            self.watch_leader(now);
        }
        if matches!(self.phase, Phase::Paused) && self.look_at.is_none() && self.tree.was_released() {
            self.restops.pause = Duration::ZERO;
            self.look_at = Some(now);
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
            self.look(now);
        }
        let is_left_alone = matches!(self.phase, Phase::Running);
        if let (Some(end), true) = (&mut self.leader_end, is_left_alone) {
            if (end.linger_until..end.linger_limit).contains(&now) && self.tree.is_busy() {
                end.linger(now);
            }
            if (self.output.is_at_end() || now >= end.linger_until) && !self.tree.is_empty() {
                self.kill(now);
            }
        }
        let linger_until = self.leader_end.as_ref().map(|end| end.linger_until).filter(|&at| at > now);
        // Retried on each turn, and at least once in a while.
        let is_behind = self.journal.is_behind() && self.catch_up().is_err();
        self.retry_pause_file();
        let journal_retry = (is_behind || self.pause_file.failure().is_some()).then(|| now + JOURNAL_RETRY);
        [self.look_at, linger_until, self.output.due_at(now), journal_retry].into_iter().flatten().min()
    }

    /// Compares the leader's state with the expected one. This is where ends, stops and continues from outside are noticed.
    pub(super) fn watch_leader(&mut self, now: Duration) {
        if self.leader_end.is_some() || self.leader.pid == 0 {
            return;
        }
        match process::peek_exit(self.leader.pid) {
            Ok(Some(exit)) => {
                let (silence, limit) = match exit {
                    Exit::Code(_) => (LINGER_SILENCE, LINGER_LIMIT),
                    // An end by a signal is not an orderly one.
                    Exit::Signal(_) => (Duration::ZERO, Duration::ZERO),
                };
                self.leader_end = Some(LeaderEnd { exit, linger_until: now + silence, linger_limit: now + limit });
                KillPoint::ShimLeaderEnded.reach();
                // The rest of a stopped tree cannot write any more, and cannot be resumed. A waiting client learns from the end
                // that its request cannot be carried out.
                if matches!(self.phase, Phase::Freezing { .. } | Phase::Thawing { .. } | Phase::Paused) {
                    self.kill(now);
                }
                return;
            }
            Ok(None) => {}
            Err(error) => complain(format_args!("failed to wait for the leader: {error}")),
        }
        let Ok(stat) = process::read_stat(self.leader.pid) else { return };
        match (&self.phase, stat.state) {
            (Phase::Running, ProcState::Stopped) => self.freeze(Frozen::Tell(None), None, now),
            (Phase::Paused, ProcState::Awake | ProcState::Uninterruptible) if self.is_continued() => {
                self.thaw(Thawed::Tell(None), None, now);
            }
            (Phase::Stopping { .. }, ProcState::Awake | ProcState::Uninterruptible) if self.paused_since.is_some() => {
                // The stop continued the leader, so that it receives the TERM. It runs during the grace.
                self.count_pause();
                let paused_ms = whole_ms(self.paused_in_all);
                self.record(Fact::Resumed { cause: Cause::Request, paused_ms, detail: None }, self.stopped_by, false);
            }
            (
                Phase::Running
                | Phase::Paused
                | Phase::Freezing { .. }
                | Phase::Thawing { .. }
                | Phase::Stopping { .. }
                | Phase::Killing { .. },
                _,
            ) => {}
        }
    }

    /// Returns whether a leader that was stopped and is awake was continued. It can also be dying; then its end comes next.
    fn is_continued(&self) -> bool {
        // On an error, it has ended meanwhile.
        process::was_continued(self.leader.pid).unwrap_or(false)
    }

    /// Follows a leader that another program stops and continues. No signal of ours is sent to it, because that would silently
    /// undo the latest one of that program. So that program's latest action is noticed here, and decides. Returns whether it
    /// changed the operation.
    fn follow_the_leader(&mut self, now: Duration) -> bool {
        let Ok(state) = process::read_stat(self.leader.pid).map(|stat| stat.state) else { return false };
        match (&self.phase, state) {
            // Another program has stopped the leader, and has already continued it.
            (Phase::Freezing { then: Frozen::Tell(None), asker: None, .. }, ProcState::Awake) => {
                self.thaw(Thawed::Keep { spares_leader: true }, None, now);
            }
            (Phase::Freezing { then: Frozen::Keep, .. }, ProcState::Awake) if self.is_continued() => {
                self.thaw(Thawed::Tell(None), None, now);
            }
            (Phase::Thawing { then: Thawed::Tell(None), .. }, ProcState::Stopped) => {
                self.freeze(Frozen::Keep, None, now);
            }
            (Phase::Thawing { then: Thawed::Keep { spares_leader: true }, .. }, ProcState::Stopped) => {
                self.freeze(Frozen::Tell(None), None, now);
            }
            (
                Phase::Running
                | Phase::Freezing { .. }
                | Phase::Paused
                | Phase::Thawing { .. }
                | Phase::Stopping { .. }
                | Phase::Killing { .. },
                _,
            ) => return false,
        }
        true
    }

    fn look(&mut self, now: Duration) {
        if self.follow_the_leader(now) {
            return;
        }
        match &mut self.phase {
            Phase::Running => {}
            Phase::Paused => self.hold_on(now),
            Phase::Freezing { freeze, since, then, asker } => {
                let is_asked = asker.is_some() || matches!(then, Frozen::Tell(Some(_)));
                match freeze.look(&self.tree, now, (!is_asked).then_some(self.leader)) {
                    Look::Again(at) => {
                        KillPoint::ShimStopsSent.reach();
                        self.look_at = Some(at);
                        let is_late = now.saturating_sub(*since) > PAUSE_LIMIT && freeze.looks >= PAUSE_LOOKS_MIN;
                        match (is_late, *asker, &then) {
                            (true, Some(asker), _) => {
                                let who = self.tree.straggler(None).map_or_else(String::new, describe);
                                self.thaw(Thawed::Keep { spares_leader: false }, None, now);
                                let text = format!(
                                    "pause not holding: process{who} of the pipeline could not be stopped, or was continued \
                                        repeatedly; the pipeline keeps running"
                                );
                                self.answer(asker, Some((ReplyError::PauseTimeout, &text)));
                            }
                            (true, None, Frozen::Keep) => self.give_the_pause_up(now),
                            (true, None, Frozen::Tell(_)) | (false, _, _) => {}
                        }
                    }
                    Look::Done => {
                        KillPoint::ShimAllStopped.reach();
                        let asker = *asker;
                        let then = std::mem::replace(then, Frozen::Keep);
                        self.phase = Phase::Paused;
                        self.pause_file.set(true);
                        KillPoint::ShimPauseFileMade.reach();
                        if let Frozen::Tell(origin) = then {
                            self.restops = Restops::default();
                            self.say(None);
                            self.paused_since = Some(SystemClock.since_boot());
                            self.record(Fact::Paused { cause: cause_of(origin) }, origin, false);
                        }
                        self.look_again_at_pause(now);
                        if let Some(asker) = asker {
                            self.answer(asker, None);
                        }
                        // Another program may have continued the leader since the latest scan.
                        self.look_at_leader = true;
                    }
                }
            }
            Phase::Thawing { thaw, since, then, asker } => match thaw.look(&self.tree, now, then.spares_leader()) {
                Look::Again(at) => {
                    KillPoint::ShimContinuesSent.reach();
                    self.look_at = Some(at);
                    if now.saturating_sub(*since) > RESUME_LIMIT {
                        let (then, asker) = (*then, *asker);
                        match then {
                            Thawed::Tell(_) | Thawed::GiveUp => self.freeze(Frozen::Keep, None, now),
                            // The leader's state decides: if it is stopped, that is noticed as a pause from outside.
                            Thawed::Keep { .. } => self.run_on(),
                        }
                        if let Some(asker) = asker {
                            let text = "another program keeps stopping the pipeline's leader; the pipeline is still paused";
                            self.answer(asker, Some((ReplyError::ResumeFailed, text)));
                        }
                    }
                }
                Look::Done => {
                    KillPoint::ShimAllContinued.reach();
                    let (then, asker) = (*then, *asker);
                    self.run_on();
                    self.count_resume(then);
                    if let Some(asker) = asker {
                        self.answer(asker, None);
                    }
                }
            },
            Phase::Stopping { kill_at } => {
                let kill_at = *kill_at;
                if kill_at <= now { self.kill(now) } else { self.look_at = Some(kill_at) }
            }
            Phase::Killing { kill } => {
                let look = kill.look(&self.tree, now);
                KillPoint::ShimKillsSent.reach();
                if let Look::Again(at) = look {
                    self.look_at = Some(at);
                    let survivors = kill.survivors(&self.tree, now);
                    if survivors.is_some() {
                        self.say(survivors);
                    }
                }
                // Processes that were killed may have left their children to this process.
                self.look_at_leader = true;
            }
        }
    }

    /// Checks whether a paused tree is still paused. The kernel notifies this process of the leader, its child, but not of the
    /// others.
    fn hold_on(&mut self, now: Duration) {
        let Some(straggler) = self.tree.straggler(Some(self.leader)) else { return self.look_again_at_pause(now) };
        self.restops.count += 1;
        if self.restops.count > RESTOPS_MAX {
            return self.give_the_pause_up(now);
        }
        let (who, count) = (describe(straggler), self.restops.count);
        let again = if count == 1 { String::new() } else { format!(", {count} times by now") };
        self.say(Some(format!("pause not holding: something continued process{who}; it was stopped again{again}")));
        self.restops.pause = PAUSE_LOOK_MIN;
        self.freeze(Frozen::Keep, None, now);
    }

    /// If the kernel holds the whole tree, no scan is needed until it reports a change.
    fn look_again_at_pause(&mut self, now: Duration) {
        if !self.tree.is_held() {
            self.look_at = Some(now + self.restops.pause.max(PAUSE_LOOK_MIN));
            self.restops.pause = (self.restops.pause * 2).clamp(PAUSE_LOOK_MIN, PAUSE_LOOK_MAX);
        }
    }

    /// Abandons a pause: the state must not be `paused` while a process runs, so the whole tree may run.
    fn give_the_pause_up(&mut self, now: Duration) {
        let who = self.tree.straggler(Some(self.leader)).map_or_else(String::new, describe);
        let text = format!(
            "pause not holding: something keeps continuing process{who}, although it was stopped again {RESTOPS_MAX} times; \
                the pipeline keeps running; end the process that continues it, and pause again"
        );
        self.say(Some(text));
        self.thaw(Thawed::GiveUp, None, now);
    }

    /// Records that the tree runs again, unless it was never reported as paused.
    fn count_resume(&mut self, then: Thawed) {
        let (origin, detail) = match then {
            Thawed::Tell(origin) => (origin, None),
            Thawed::GiveUp => (None, self.signs.signs().note.clone()),
            Thawed::Keep { .. } => return,
        };
        if detail.is_none() {
            self.say(None);
        }
        self.count_pause();
        let resumed = Fact::Resumed { cause: cause_of(origin), paused_ms: whole_ms(self.paused_in_all), detail };
        self.record(resumed, origin, false);
    }

    /// Ends the operation. Actions of other programs on the leader are noticed again.
    pub(super) fn run_on(&mut self) {
        self.phase = Phase::Running;
        self.look_at = None;
        self.look_at_leader = true;
    }

    pub(super) fn kill(&mut self, now: Duration) {
        self.phase = Phase::Killing { kill: Kill::default() };
        self.look_at = Some(now);
    }
}

/// Returns why a pause begins or ends. A signal from outside has no origin.
const fn cause_of(origin: Option<Origin>) -> Cause {
    if origin.is_some() { Cause::Request } else { Cause::Outside }
}

/// Returns a process for a message: ` 4711 (sleep)`.
fn describe(pid: u32) -> String {
    let name = process::name_of(pid).map_or_else(String::new, |name| format!(" ({name})"));
    format!(" {pid}{name}")
}
