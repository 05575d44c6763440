//! The steps of the simulated shim's actions on its processes.

use super::{Frozen, Phase, RETRY, Shim, Thawed, answer};
use crate::pipeline::{Cause, Exit, Fact, Origin};
use crate::run_dir::ReplyError;
use crate::supervisor::simulation::env::{Due, Env, MS, SECOND};
use crate::supervisor::simulation::pipeline::Leader;
use crate::supervisor::simulation::run::Run;

const PAUSE_LIMIT: u64 = 4 * SECOND;
const RESUME_LIMIT: u64 = 4 * SECOND;
const LINGER: u64 = 30 * MS;
/// Like the real limit, but lower: otherwise the simulation would do nothing else.
const RESTOPS_MAX: u32 = 2;

impl Shim {
    pub(super) fn advance(&mut self, run: &mut Run, env: &mut Env) {
        let now = env.awake_us();
        if std::mem::take(&mut self.looks_at_leader) {
            self.watch_leader(now, run, env);
        }
        if std::mem::take(&mut self.looks_at_helpers) && matches!(self.phase, Phase::Paused) {
            self.look_at = Some(now);
        }
        if self.look_at.is_some_and(|at| at <= now) {
            self.look_at = None;
            self.look(now, run, env);
        }
        if let (Some((_, linger_until)), Phase::Running) = (self.leader_end, self.phase)
            && now >= linger_until
            && run.pipeline.is_alive()
        {
            self.kill(run, env);
        }
        let linger = self.leader_end.map(|(_, until)| until).filter(|&at| at > now);
        let retry = run.journal.is_behind().then(|| {
            run.journal.flush(env);
            now + RETRY
        });
        let signs = self.tell_signs(run, env);
        if let Some(at) = [self.look_at, linger, retry, signs].into_iter().flatten().min() {
            self.set_timer(at, run.id, env);
        }
    }

    pub(super) fn watch_leader(&mut self, now: u64, run: &mut Run, env: &mut Env) {
        if self.leader_end.is_some() {
            return;
        }
        match (run.pipeline.leader, self.phase) {
            (Leader::Dead(exit), phase) => {
                let silence = if matches!(exit, Exit::Code(_)) { LINGER } else { 0 };
                self.leader_end = Some((exit, now + silence));
                if matches!(phase, Phase::Freezing { .. } | Phase::Thawing { .. } | Phase::Paused) {
                    self.kill(run, env);
                }
            }
            (Leader::Stopped, Phase::Running) => self.freeze(Frozen::Tell(None), None, now, run, env),
            (Leader::Awake, Phase::Paused) => self.thaw(Thawed::Tell(None), None, now, run, env),
            (Leader::Awake, Phase::Stopping { .. }) if self.paused_since.is_some() => {
                self.count_pause(env);
                let paused_ms = self.paused_in_all / MS;
                self.record(Fact::Resumed { cause: Cause::Request, paused_ms, detail: None }, self.stopped_by, false, run, env);
            }
            _ => {}
        }
    }

    /// Handles changes of the leader by other processes. Returns whether the present action has changed.
    fn follow_the_leader(&mut self, now: u64, run: &mut Run, env: &mut Env) -> bool {
        match (self.phase, run.pipeline.leader) {
            (Phase::Freezing { then: Frozen::Tell(None), asker: None, .. }, Leader::Awake) => {
                self.thaw(Thawed::Keep { spares_leader: true }, None, now, run, env);
            }
            (Phase::Freezing { then: Frozen::Keep, .. }, Leader::Awake) => {
                self.thaw(Thawed::Tell(None), None, now, run, env);
            }
            (Phase::Thawing { then: Thawed::Tell(None), .. }, Leader::Stopped) => {
                self.freeze(Frozen::Keep, None, now, run, env);
            }
            (Phase::Thawing { then: Thawed::Keep { spares_leader: true }, .. }, Leader::Stopped) => {
                self.freeze(Frozen::Tell(None), None, now, run, env);
            }
            _ => return false,
        }
        true
    }

    fn look(&mut self, now: u64, run: &mut Run, env: &mut Env) {
        if self.follow_the_leader(now, run, env) {
            return;
        }
        match self.phase {
            Phase::Running | Phase::Killing => {}
            Phase::Paused => self.hold_on(now, run, env),
            Phase::Freezing { since, done_at, then, asker } => {
                if now >= done_at && !run.pipeline.is_stuck {
                    run.pipeline.freeze();
                    self.phase = Phase::Paused;
                    env.pause_file = true;
                    if let Frozen::Tell(origin) = then {
                        self.restops = 0;
                        self.say(None, run, env);
                        self.paused_since = Some(now);
                        self.record(Fact::Paused { cause: cause_of(origin) }, origin, false, run, env);
                    }
                    if let Some(asker) = asker {
                        answer(asker, None, env);
                    }
                    self.looks_at_leader = true;
                    env.soon(Due::Turn(run.id));
                } else {
                    self.look_at = Some((now + 500 * MS).max(done_at));
                    match (now - since > PAUSE_LIMIT, asker, then) {
                        (true, Some(asker), _) => {
                            self.thaw(Thawed::Keep { spares_leader: false }, None, now, run, env);
                            env.happens(run.id, "pause_timeout");
                            answer(asker, Some(ReplyError::PauseTimeout), env);
                        }
                        (true, None, Frozen::Keep) => self.give_the_pause_up(now, run, env),
                        _ => {}
                    }
                }
            }
            Phase::Thawing { since, done_at, then, asker } => {
                if now >= done_at && !run.pipeline.is_stuck {
                    run.pipeline.thaw();
                    run.do_what_is_due(env);
                    self.run_on(run, env);
                    self.count_resume(then, run, env);
                    if let Some(asker) = asker {
                        answer(asker, None, env);
                    }
                } else {
                    self.look_at = Some((now + 500 * MS).max(done_at));
                    if now - since > RESUME_LIMIT {
                        match then {
                            Thawed::Tell(_) | Thawed::GiveUp => self.freeze(Frozen::Keep, None, now, run, env),
                            Thawed::Keep { .. } => self.run_on(run, env),
                        }
                        if let Some(asker) = asker {
                            env.happens(run.id, "resume_failed");
                            answer(asker, Some(ReplyError::ResumeFailed), env);
                        }
                    }
                }
            }
            Phase::Stopping { kill_at } => {
                if kill_at <= now {
                    self.kill(run, env);
                } else {
                    self.look_at = Some(kill_at);
                }
            }
        }
    }

    /// Checks whether a paused run is still paused.
    fn hold_on(&mut self, now: u64, run: &mut Run, env: &mut Env) {
        if run.pipeline.is_paused() || self.leader_end.is_some() {
            return;
        }
        self.restops += 1;
        if self.restops > RESTOPS_MAX {
            return self.give_the_pause_up(now, run, env);
        }
        env.cover("a pause was made good again");
        self.say(Some(format!("pause not holding, {} times", self.restops)), run, env);
        self.freeze(Frozen::Keep, None, now, run, env);
    }

    fn give_the_pause_up(&mut self, now: u64, run: &mut Run, env: &mut Env) {
        env.cover("a pause was given up");
        self.say(Some("pause not holding, given up".to_owned()), run, env);
        self.thaw(Thawed::GiveUp, None, now, run, env);
    }

    fn count_resume(&mut self, then: Thawed, run: &mut Run, env: &mut Env) {
        let (origin, detail) = match then {
            Thawed::Tell(origin) => (origin, None),
            Thawed::GiveUp => (None, self.note()),
            Thawed::Keep { .. } => return,
        };
        if detail.is_none() {
            self.say(None, run, env);
        }
        self.count_pause(env);
        let resumed = Fact::Resumed { cause: cause_of(origin), paused_ms: self.paused_in_all / MS, detail };
        self.record(resumed, origin, false, run, env);
    }

    fn run_on(&mut self, run: &Run, env: &mut Env) {
        self.phase = Phase::Running;
        self.look_at = None;
        self.looks_at_leader = true;
        env.soon(Due::Turn(run.id));
    }

    fn kill(&mut self, run: &Run, env: &mut Env) {
        self.phase = Phase::Killing;
        self.killed = run.pipeline.living();
        env.soon(Due::KillLands(run.id));
    }

    pub(super) fn count_pause(&mut self, env: &Env) {
        if let Some(since) = self.paused_since.take() {
            self.paused_in_all += env.boot_us().saturating_sub(since);
        }
    }
}

const fn cause_of(origin: Option<Origin>) -> Cause {
    if origin.is_some() { Cause::Request } else { Cause::Outside }
}
