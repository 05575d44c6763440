//! All that the machine has of one run: its directory, its shim, its processes, and what happens to them from outside.

use super::env::{Due, Env, MS, SECOND};
use super::journal::Journal;
use super::pipeline::{Leader, Pipeline};
use super::shim::Shim;
use crate::pipeline::{Exit, Origin, RunStatus};
use crate::run_dir::LaunchSpec;

/// All that there is of one run: its directory, its shim, its processes.
pub(super) struct Run {
    pub(super) id: i64,
    pub(super) spec: LaunchSpec,
    pub(super) boot: u32,
    pub(super) is_locked: bool,
    /// Whether the lock is still the server's, which has not started the shim yet.
    pub(super) lock_is_the_servers: bool,
    pub(super) is_listening: bool,
    pub(super) journal: Journal,
    pub(super) pipeline: Pipeline,
    pub(super) shim: Option<Shim>,
    /// The truth about who wanted an end: the first client's stop, or TERM, that has reached the shim before the leader ended.
    pub(super) stopped_by: Option<Origin>,
    pub(super) shim_was_killed: bool,
    /// How far the pipeline has said that it is, and how far its shim has stored that, with the number of the signs then.
    pub(super) progress: u64,
    pub(super) stored_progress: (u64, u64),
    /// What the database says of it.
    pub(super) status: RunStatus,
}

impl Run {
    pub(super) fn new(spec: LaunchSpec, boot: u32) -> Self {
        let id = spec.run_id;
        let pid = 1000 + u32::try_from(id).expect("few runs");
        Self {
            id,
            spec,
            boot,
            is_locked: true,
            lock_is_the_servers: true,
            is_listening: false,
            journal: Journal::default(),
            pipeline: Pipeline::unborn(pid),
            shim: None,
            stopped_by: None,
            shim_was_killed: false,
            progress: 0,
            stored_progress: (0, 0),
            status: RunStatus::Starting,
        }
    }

    /// The shim is born, with the lock.
    pub(super) fn start_shim(&mut self, first_wire: u64) {
        self.lock_is_the_servers = false;
        self.shim = Some(Shim::new(first_wire));
    }

    pub(super) fn turn(&mut self, env: &mut Env) {
        if self.shim.is_some() && env.mishap(env.temper.frailty) {
            return self.kill_shim(env);
        }
        let Some(mut shim) = self.shim.take_if(|shim| !shim.is_suspended) else { return };
        let stays = shim.turn(self, env);
        self.shim_was_killed |= shim.is_struck;
        if stays && !shim.is_struck {
            self.shim = Some(shim);
        } else {
            env.note(|| format!("run {}: its shim {}", self.id, if shim.is_struck { "is killed" } else { "leaves" }));
            self.bury(env);
        }
    }

    /// The kernel closes what a dead shim had open, one after the other.
    pub(super) fn bury(&mut self, env: &mut Env) {
        self.shim = None;
        env.soon(Due::Breaks(self.id));
        env.soon(Due::LockFalls(self.id));
    }

    /// SIGKILL to the shim.
    pub(super) fn kill_shim(&mut self, env: &mut Env) {
        let Some(shim) = self.shim.take() else { return };
        env.cover(&format!("shim killed while {}", shim.occupation()));
        env.note(|| format!("run {}: its shim is killed ({})", self.id, shim.occupation()));
        self.shim_was_killed = true;
        if shim.is_spawning() && env.rng.chance(500) {
            // Forked, with the lock until it executes the script.
            self.bear_leader(env);
        }
        self.bury(env);
    }

    pub(super) fn bear_leader(&mut self, env: &mut Env) {
        self.pipeline.leader = Leader::Awake;
        self.pipeline.ignores_term = env.rng.chance(300);
        if env.is_calm {
            return;
        }
        self.pipeline.helpers = env.rng.pick(&[0, 0, 0, 1, 2]);
        self.pipeline.is_stuck = env.mishap(30);
        if self.pipeline.is_stuck {
            let delay = env.rng.between(SECOND, 20 * SECOND);
            env.after(delay, Due::Unsticks(self.id));
        }
        if env.rng.chance(600) {
            let longest = env.rng.pick(&[2 * MS, 100 * MS, 5 * SECOND, 60 * SECOND]);
            let delay = env.rng.below(longest);
            let exit = env.rng.pick(&[Exit::Code(0), Exit::Code(0), Exit::Code(3), Exit::Signal(11)]);
            env.after(delay, Due::Ends(self.id, exit));
        }
    }

    /// Signals do not reach it for a while.
    pub(super) fn may_stick(&mut self, env: &mut Env) {
        if env.mishap(15) {
            self.pipeline.is_stuck = true;
            let delay = env.rng.between(SECOND, 12 * SECOND);
            env.after(delay, Due::Unsticks(self.id));
        }
    }

    /// Something happened to the leader that its parent is told of.
    pub(super) fn wake_shim(&mut self, env: &mut Env) {
        if let Some(shim) = &mut self.shim {
            shim.looks_at_leader = true;
            env.soon(Due::Turn(self.id));
        }
    }

    /// Somebody continues a paused leader's helpers; who does such a thing does it again.
    pub(super) fn break_pause(&mut self, env: &mut Env) {
        let (Some(shim), Leader::Stopped, 1..) = (&mut self.shim, self.pipeline.leader, self.pipeline.helpers) else { return };
        self.pipeline.helpers_are_stopped = false;
        shim.looks_at_helpers = true;
        env.soon(Due::Turn(self.id));
        if env.mishap(800) {
            let delay = env.rng.below(20 * MS);
            env.after(delay, Due::PauseBreaks(self.id));
        }
    }

    /// The leader goes on, and does what it had put off.
    pub(super) fn leader_goes_on(&mut self, env: &mut Env) {
        if self.pipeline.leader == Leader::Stopped {
            self.pipeline.leader = Leader::Awake;
        }
        self.do_what_is_due(env);
        self.wake_shim(env);
    }

    pub(super) fn do_what_is_due(&mut self, env: &mut Env) {
        if let (Leader::Awake, Some(exit)) = (self.pipeline.leader, self.pipeline.due.take()) {
            env.soon(Due::Ends(self.id, exit));
        }
    }

    /// The leader's time has come.
    pub(super) fn leader_ends(&mut self, exit: Exit, env: &mut Env) {
        match self.pipeline.leader {
            Leader::Awake => self.pipeline.leader = Leader::Dead(exit),
            Leader::Stopped => return self.pipeline.due = Some(exit),
            Leader::Unborn | Leader::Dead(_) => return,
        }
        env.note(|| format!("run {}: its leader ends with {exit:?}", self.id));
        self.wake_shim(env);
    }
}
