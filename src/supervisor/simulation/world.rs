//! The world around the server. It continues with or without a server, and also while the server is in the middle of a call. This
//! file checks its invariants.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::env::{Due, Env, MS, SECOND};
use super::pipeline::Leader;
use super::run::Run;
use crate::pipeline::Exit;

/// Everything except the server, its database and its clients.
pub(super) struct World {
    pub(super) env: Env,
    pub(super) runs: BTreeMap<i64, Run>,
}

pub(super) type Shared = Rc<RefCell<World>>;

/// The kinds of faults from outside, one bit of [`super::env::Temper::strikes`] each, in this order.
const STRIKES: [Strike; 17] = [
    Strike::KillShim,
    Strike::SuspendShim,
    Strike::TermShim,
    Strike::StopLeader,
    Strike::ContinueLeader,
    Strike::KillLeader,
    Strike::EndLeader,
    Strike::Helper,
    Strike::FillDatabase,
    Strike::IllDatabase,
    Strike::FillJournal,
    Strike::StepClock,
    Strike::Suspend,
    Strike::Stick,
    Strike::CutWire,
    Strike::Novelty,
    Strike::BreakPause,
];

#[derive(Clone, Copy, Debug)]
enum Strike {
    KillShim,
    SuspendShim,
    TermShim,
    StopLeader,
    ContinueLeader,
    KillLeader,
    EndLeader,
    Helper,
    FillDatabase,
    IllDatabase,
    FillJournal,
    StepClock,
    Suspend,
    Stick,
    CutWire,
    Novelty,
    BreakPause,
}

impl World {
    /// Runs everything that is due up to a time, and makes that the current time.
    pub(super) fn pass_until(&mut self, until: u64) {
        while self.step(until) {}
        self.env.now = self.env.now.max(until);
    }

    /// Runs the next event, if one is due. Returns whether it did.
    pub(super) fn step(&mut self, until: u64) -> bool {
        let Some(due) = self.env.take_due(until) else { return false };
        let env = &mut self.env;
        match due {
            Due::Arrives(number) => env.arrive(number),
            Due::Cuts(number) => env.break_wire(number),
            Due::Strikes => self.strike(),
            Due::DatabaseHasRoom => env.disk.database_is_full = false,
            Due::DatabaseIsWell => env.disk.database_is_ill = false,
            Due::JournalHasRoom => env.disk.journal_is_full = false,
            Due::Turn(id)
            | Due::Timer(id, _)
            | Due::Ends(id, _)
            | Due::KillLands(id)
            | Due::HelperEnds(id)
            | Due::PauseBreaks(id)
            | Due::ShimGoesOn(id)
            | Due::Breaks(id)
            | Due::LockFalls(id)
            | Due::Unsticks(id) => {
                if let Some(run) = self.runs.get_mut(&id) {
                    step_run(run, due, env);
                }
            }
        }
        self.check();
        true
    }

    /// Checks the invariants.
    pub(super) fn check(&mut self) {
        let living = self.runs.values().filter(|run| run.pipeline.is_alive() && !run.pipeline.is_given_up);
        let ids: Vec<i64> = living.map(|run| run.id).collect();
        if ids.len() > 1 {
            self.env.violate(|| format!("two pipelines are alive: {ids:?}"));
        }
        if let Some(ended) = ids.iter().find(|id| !self.runs[id].status.is_live()) {
            self.env.violate(|| format!("run {ended} is alive, and recorded as {}", self.runs[ended].status));
        }
    }

    /// Returns the run to which something can happen: the latest.
    fn latest(&mut self) -> Option<&mut Run> {
        self.runs.values_mut().next_back()
    }

    fn strike(&mut self) {
        let Some(every) = self.env.temper.strike_every.filter(|_| !self.env.is_calm) else { return };
        let next = self.env.rng.below(2 * every);
        self.env.after(next, Due::Strikes);
        let strike = self.env.rng.pick(&STRIKES);
        if self.env.temper.strikes & (1 << (strike as u64)) == 0 {
            return;
        }
        let name = format!("{strike:?}");
        self.env.note(|| format!("mischief: {name}"));
        self.env.cover(&format!("mischief: {name}"));
        let lasts = self.env.rng.pick(&[5 * MS, 500 * MS, 3 * SECOND, 12 * SECOND]);
        let lasts = self.env.rng.below(lasts);
        let Self { env, runs } = self;
        let run = runs.values_mut().next_back();
        match (strike, run) {
            (Strike::FillDatabase, _) => {
                env.disk.database_is_full = true;
                env.after(lasts, Due::DatabaseHasRoom);
            }
            (Strike::IllDatabase, _) => {
                env.disk.database_is_ill = true;
                env.after(lasts, Due::DatabaseIsWell);
            }
            (Strike::FillJournal, _) => {
                env.disk.journal_is_full = true;
                env.after(lasts, Due::JournalHasRoom);
            }
            (Strike::StepClock, _) => {
                let step = i64::try_from(env.rng.below(10_800_000)).expect("three hours");
                env.wall_step_ms += if env.rng.chance(500) { step } else { -step };
            }
            (Strike::Suspend, _) => {
                let asleep = env.rng.between(SECOND, 3 * 3600 * SECOND);
                env.sleep(asleep);
            }
            (Strike::KillShim, Some(run)) => run.kill_shim(env),
            (Strike::SuspendShim, Some(run)) => {
                if let Some(shim) = &mut run.shim {
                    shim.is_suspended = true;
                    // Sometimes for longer than any client waits.
                    let lasts = if env.rng.chance(100) { 60 * SECOND } else { lasts };
                    env.after(lasts, Due::ShimGoesOn(run.id));
                }
            }
            (Strike::TermShim, Some(run)) => {
                if let Some(shim) = &mut run.shim {
                    shim.got_term = true;
                    env.soon(Due::Turn(run.id));
                }
            }
            (Strike::Novelty, Some(run)) => {
                if let Some(shim) = &mut run.shim {
                    shim.sees_what_is_unknown = true;
                    env.soon(Due::Turn(run.id));
                }
            }
            (Strike::BreakPause, Some(run)) => {
                run.pipeline.helpers += u64::from(run.pipeline.leader == Leader::Stopped);
                run.break_pause(env);
            }
            (Strike::StopLeader, Some(run)) => {
                if run.pipeline.leader == Leader::Awake {
                    run.pipeline.leader = Leader::Stopped;
                    run.wake_shim(env);
                }
            }
            (Strike::ContinueLeader, Some(run)) => run.leader_goes_on(env),
            (Strike::KillLeader, Some(run)) => {
                if run.pipeline.leader_is_alive() {
                    run.pipeline.leader = Leader::Dead(Exit::Signal(9));
                    run.wake_shim(env);
                }
            }
            (Strike::EndLeader, Some(run)) => {
                let exit = env.rng.pick(&[Exit::Code(0), Exit::Code(1)]);
                run.leader_ends(exit, env);
            }
            (Strike::Helper, Some(run)) => {
                if run.pipeline.leader == Leader::Awake {
                    run.pipeline.helpers += 1;
                    env.after(lasts, Due::HelperEnds(run.id));
                }
            }
            (Strike::Stick, Some(run)) => {
                if run.pipeline.is_alive() {
                    run.pipeline.is_stuck = true;
                    env.after(lasts, Due::Unsticks(run.id));
                }
            }
            (Strike::CutWire, Some(run)) => {
                let id = run.id;
                let number = env.wires.iter().rev().find(|(_, wire)| wire.run_id == id && wire.shim_is_there);
                if let Some(number) = number.map(|(number, _)| *number) {
                    env.break_wire(number);
                }
            }
            (
                Strike::KillShim
                | Strike::SuspendShim
                | Strike::TermShim
                | Strike::StopLeader
                | Strike::ContinueLeader
                | Strike::KillLeader
                | Strike::EndLeader
                | Strike::Helper
                | Strike::Stick
                | Strike::CutWire
                | Strike::Novelty
                | Strike::BreakPause,
                None,
            ) => {}
        }
    }

    /// Stops all faults, and repairs what they have broken.
    pub(super) fn calm(&mut self) {
        self.env.is_calm = true;
        self.env.disk = super::env::Disk::default();
        self.env.calls_to_live = None;
        for run in self.runs.values_mut() {
            step_run(run, Due::ShimGoesOn(run.id), &mut self.env);
            step_run(run, Due::Unsticks(run.id), &mut self.env);
        }
    }

    /// Removes what only the dead server held.
    pub(super) fn server_dies(&mut self) {
        self.env.server_dies();
        for run in self.runs.values_mut().filter(|run| run.lock_is_the_servers) {
            (run.is_locked, run.lock_is_the_servers) = (false, false);
        }
    }

    /// Simulates a power cut and the next boot.
    pub(super) fn reboot(&mut self) {
        self.env.reboot();
        for run in self.runs.values_mut() {
            if run.shim.take().is_some() {
                run.shim_was_killed = true;
            }
            run.pipeline.kill();
            run.pipeline.is_given_up = false;
            (run.is_locked, run.lock_is_the_servers, run.is_listening) = (false, false, false);
            if run.boot + 1 == self.env.boot {
                run.journal.lose_power(&mut self.env);
                // If it was not synced, the disk has an older progress, or none.
                run.stored_progress = if run.journal.holds_end() { run.stored_progress } else { (0, 0) };
            }
        }
        if self.env.temper.strike_every.is_some() {
            self.env.soon(Due::Strikes);
        }
    }

    /// Checks whether the pipeline's processes and its shim are at rest.
    pub(super) fn is_at_rest(&mut self) -> bool {
        self.latest().is_none_or(|run| match &run.shim {
            Some(shim) => shim.is_at_rest() && run.pipeline.leader_is_alive(),
            None => !run.is_locked,
        })
    }
}

fn step_run(run: &mut Run, due: Due, env: &mut Env) {
    match due {
        Due::Turn(_) => run.turn(env),
        Due::Timer(_, at) => {
            if run.shim.as_mut().is_some_and(|shim| shim.is_timer(at)) {
                run.turn(env);
            }
        }
        Due::Ends(_, exit) => run.leader_ends(exit, env),
        Due::KillLands(id) => {
            if run.pipeline.is_stuck {
                return env.after(100 * MS, Due::KillLands(id));
            }
            run.pipeline.kill();
            run.wake_shim(env);
        }
        Due::HelperEnds(_) => {
            if !run.pipeline.helpers_are_stopped && run.pipeline.helpers > 0 {
                run.pipeline.helpers -= 1;
                run.wake_shim(env);
            }
        }
        Due::PauseBreaks(_) => run.break_pause(env),
        Due::ShimGoesOn(_) => {
            if let Some(shim) = run.shim.as_mut().filter(|shim| shim.is_suspended) {
                shim.is_suspended = false;
                env.note(|| format!("run {}: its shim goes on", run.id));
                run.wake_shim(env);
            }
        }
        Due::Breaks(id) => {
            run.is_listening = false;
            env.break_wires(id);
        }
        Due::LockFalls(id) => {
            env.note(|| format!("run {id}: its lock falls"));
            run.is_locked = false;
        }
        Due::Unsticks(_) => {
            if std::mem::take(&mut run.pipeline.is_stuck) && run.pipeline.is_given_up {
                // The KILL that was sent takes effect.
                run.pipeline.kill();
                run.pipeline.is_given_up = false;
            }
        }
        Due::Arrives(_) | Due::Cuts(_) | Due::Strikes | Due::DatabaseHasRoom | Due::DatabaseIsWell | Due::JournalHasRoom => {}
    }
}
