//! Everything that the machine has of one run: its directory, its shim, its processes, and the events that affect them from
//! outside.

use super::env::{Due, Env, MS, SECOND};
use super::journal::Journal;
use super::pipeline::{Leader, Pipeline};
use super::shim::Shim;
use crate::pipeline::{Exit, Origin, RunStatus};
use crate::run_dir::LaunchSpec;

/// A run: its directory, its shim and its processes.
pub(super) struct Run {
    pub(super) id: i64,
    pub(super) spec: LaunchSpec,
    pub(super) boot: u32,
    pub(super) is_locked: bool,
    /// Whether the server, which has not started the shim yet, still holds the lock.
    pub(super) lock_is_the_servers: bool,
    pub(super) is_listening: bool,
    pub(super) journal: Journal,
    pub(super) pipeline: Pipeline,
    pub(super) shim: Option<Shim>,
    /// The real origin of the end: the first client's stop, or TERM, that reached the shim before the leader ended.
    pub(super) stopped_by: Option<Origin>,
    pub(super) shim_was_killed: bool,
    /// The progress that the pipeline has reported, and the one that its shim has stored, with the number of the signs then.
    pub(super) progress: u64,
    pub(super) stored_progress: (u64, u64),
    /// The status in the database.
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

    /// Starts the shim, which gets the lock.
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

    /// Closes the files and connections of a dead shim one after the other, as the kernel does.
    pub(super) fn bury(&mut self, env: &mut Env) {
        self.shim = None;
        env.soon(Due::Breaks(self.id));
        env.soon(Due::LockFalls(self.id));
    }

    /// Kills the shim.
    pub(super) fn kill_shim(&mut self, env: &mut Env) {
        let Some(shim) = self.shim.take() else { return };
        env.cover(&format!("shim killed while {}", shim.occupation()));
        env.note(|| format!("run {}: its shim is killed ({})", self.id, shim.occupation()));
        self.shim_was_killed = true;
        if shim.is_spawning() && env.rng.chance(500) {
            // The leader was forked, and has the lock until it executes the script.
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

    /// May make it unreachable for signals for a while.
    pub(super) fn may_stick(&mut self, env: &mut Env) {
        if env.mishap(15) {
            self.pipeline.is_stuck = true;
            let delay = env.rng.between(SECOND, 12 * SECOND);
            env.after(delay, Due::Unsticks(self.id));
        }
    }

    /// Notifies the shim of a change of the leader, as the kernel notifies a parent.
    pub(super) fn wake_shim(&mut self, env: &mut Env) {
        if let Some(shim) = &mut self.shim {
            shim.looks_at_leader = true;
            env.soon(Due::Turn(self.id));
        }
    }

    /// Continues a paused leader's helpers, as another process may do, and will do again.
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

    /// Continues the leader, which does what it had put off.
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

    /// Ends the leader, or notes its end if it is stopped.
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
