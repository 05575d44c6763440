//! The server's interface to the simulated world: starting, examining and connecting to runs, and sending commands. Each call can
//! fail, take time, or be the server's last.

use std::io;
use std::panic::resume_unwind;

use super::env::{Env, SECOND};
use super::run::Run;
use super::shim::signs::stored;
use super::wires::Down;
use super::world::Shared;
use crate::clock::{Clock, Timestamp};
use crate::pipeline::{Found, RunStatus, recover};
use crate::run_dir::{Command, LaunchSpec, NumberedProgress, ProgressError};
use crate::supervisor::shims::{ConnectionNumber, Finding, Leftovers, Shims};

/// The payload that kills the server. It does not count as a panic, so it is not printed.
pub(super) struct Killed;

/// A point within a call at which the server can be killed. Time can pass here.
pub(super) fn moment(world: &Shared, when: &str, place: &str) {
    let mut guard = world.borrow_mut();
    let env = &mut guard.env;
    if let Some(left) = env.calls_to_live.as_mut() {
        *left = left.saturating_sub(1);
        if *left == 0 {
            env.calls_to_live = None;
            env.note(|| format!("the server is killed {when} {place}"));
            env.cover(&format!("server killed {when} {place}"));
            drop(guard);
            resume_unwind(Box::new(Killed));
        }
    }
    if env.mishap(env.temper.slowness) {
        let longest = env.rng.pick(&[1_000, 1_000, 30_000, 3 * SECOND]);
        let until = env.now + env.rng.below(longest);
        guard.pass_until(until);
    }
}

/// The interface, see the module.
pub(super) struct SimShims {
    world: Shared,
    wire: Option<u64>,
}

impl SimShims {
    pub(super) fn new(world: Shared) -> Self {
        Self { world, wire: None }
    }

    /// Returns a random error.
    fn stumble(&self, place: &str) -> io::Result<()> {
        let env = &mut self.world.borrow_mut().env;
        if env.mishap(env.temper.shims) {
            env.folder_faults += 1;
            env.cover(&format!("failed to {place}"));
            env.note(|| format!("failed to {place}"));
            return Err(io::Error::other("a mishap"));
        }
        Ok(())
    }

    fn with_env<T>(&self, look: impl FnOnce(&mut Env) -> T) -> T {
        look(&mut self.world.borrow_mut().env)
    }
}

impl Shims for SimShims {
    fn launch(&mut self, spec: &LaunchSpec) -> io::Result<ConnectionNumber> {
        let id = spec.run_id;
        moment(&self.world, "before", "a launch");
        self.stumble("make a run directory")?;
        {
            let world = &mut *self.world.borrow_mut();
            let is_open = |run: &&Run| run.is_locked && !run.journal.entries.iter().any(|entry| entry.fact.is_end());
            if let Some(open) = world.runs.values().find(is_open) {
                world.env.violate(|| format!("run {id} is launched while run {} has its lock and no end", open.id));
            }
            if world.runs.contains_key(&id) {
                world.env.violate(|| format!("the id {id} is given twice"));
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            world.runs.insert(id, Run::new(spec.clone(), world.env.boot));
        }
        moment(&self.world, "after", "the run directory");
        if let Err(error) = self.stumble("start a shim") {
            let world = &mut *self.world.borrow_mut();
            let run = world.runs.get_mut(&id).expect("made above");
            (run.is_locked, run.lock_is_the_servers) = (false, false);
            return Err(error);
        }
        let number = {
            let world = &mut *self.world.borrow_mut();
            let number = world.env.open_wire(id, true);
            world.runs.get_mut(&id).expect("made above").start_shim(number);
            number
        };
        moment(&self.world, "after", "the shim's start");
        if let Err(error) = self.stumble("say what to run") {
            self.with_env(|env| env.let_go(number));
            return Err(error);
        }
        let said = self.with_env(|env| env.send_down(number, Down::Spec));
        moment(&self.world, "after", "the launch specification");
        if let Err(error) = said.and_then(|()| self.stumble("listen to a shim")) {
            self.with_env(|env| env.let_go(number));
            return Err(error);
        }
        self.wire = Some(number);
        self.with_env(|env| {
            env.note(|| format!("run {id} is launched, connection {number}"));
            // Nothing more is due from the shim of the previous run.
            env.is_quit();
            env.expects_a_sign_of_life();
        });
        moment(&self.world, "after", "a launch");
        Ok(number)
    }

    fn advice_on_silence(&self, _run_id: i64) -> String {
        "advice".to_owned()
    }

    fn connect(&mut self, run_id: i64) -> io::Result<ConnectionNumber> {
        moment(&self.world, "before", "a connect");
        self.stumble("connect")?;
        let number = {
            let world = &mut *self.world.borrow_mut();
            if !world.runs.get(&run_id).is_some_and(|run| run.is_listening) {
                world.env.cover("a connect was refused");
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let number = world.env.open_wire(run_id, false);
            world.env.note(|| format!("run {run_id}: the server connects, connection {number}"));
            number
        };
        self.wire = Some(number);
        moment(&self.world, "after", "a connect");
        Ok(number)
    }

    fn send(&mut self, command: &Command) -> io::Result<()> {
        moment(&self.world, "before", "a command");
        let Some(number) = self.wire else { return Err(io::ErrorKind::NotConnected.into()) };
        self.stumble("send a command")?;
        self.with_env(|env| {
            let sent = env.send_down(number, Down::Command(*command));
            env.note(|| format!("the server sends {command:?}: {}", if sent.is_ok() { "sent" } else { "broken" }));
            if sent.is_ok() {
                env.expects_a_sign_of_life();
            }
            sent
        })?;
        moment(&self.world, "after", "a command");
        Ok(())
    }

    fn disconnect(&mut self) {
        let Some(number) = self.wire.take() else { return };
        self.with_env(|env| {
            env.let_go(number);
            env.is_quit();
        });
    }

    fn find(&self, run_id: i64) -> io::Result<Finding> {
        moment(&self.world, "before", "a look");
        self.stumble("look at a run directory")?;
        // The lock first, as in the real implementation; the world continues in between.
        let is_locked = self.world.borrow().runs.get(&run_id).is_some_and(|run| run.is_locked);
        moment(&self.world, "between", "lock and journal");
        let world = &mut *self.world.borrow_mut();
        let journal = world.runs.get(&run_id).and_then(|run| run.journal.read());
        let found = match (is_locked, &journal) {
            (true, _) => Found::ShimAlive,
            (false, None) => Found::NeverBegan,
            (false, Some(journal)) if journal.entries.iter().any(|entry| entry.fact.is_end()) => Found::Ended,
            (false, Some(journal)) => Found::Vanished { same_boot: journal.header.boot_id == world.env.boot.to_string() },
        };
        world.env.note(|| format!("run {run_id}: found {found:?}"));
        let status = world.runs.get(&run_id).map_or(RunStatus::Lost, |run| run.status);
        let plan = recover(status, found);
        world.env.cover(&format!("plan for {status}: {plan:?}"));
        Ok(Finding { found, journal, damage: None })
    }

    fn progress(&self, run_id: i64) -> Result<Option<NumberedProgress>, ProgressError> {
        moment(&self.world, "before", "a look at the progress");
        self.stumble("look at the progress")?;
        Ok(self.world.borrow().runs.get(&run_id).and_then(stored))
    }

    fn run_ids(&self) -> io::Result<Vec<i64>> {
        moment(&self.world, "before", "a look for runs");
        self.stumble("look for run directories")?;
        Ok(self.world.borrow().runs.keys().copied().collect())
    }

    fn has_run(&self, run_id: i64) -> bool {
        moment(&self.world, "before", "a look for a run");
        self.world.borrow().runs.contains_key(&run_id)
    }

    fn latest_run_id(&self) -> io::Result<Option<i64>> {
        Ok(self.run_ids()?.last().copied())
    }

    fn log_end(&self) -> io::Result<u64> {
        moment(&self.world, "before", "a look at the log");
        self.stumble("look at the log")?;
        Ok(self.world.borrow().runs.values().map(|run| run.spec.log_start).max().unwrap_or(0))
    }

    fn kill_leftovers(&self, run_id: i64) -> io::Result<Leftovers> {
        moment(&self.world, "before", "a kill of leftovers");
        let left = {
            let world = &mut *self.world.borrow_mut();
            let Some(run) = world.runs.get_mut(&run_id) else { return Ok(Leftovers::default()) };
            world.env.note(|| format!("run {run_id}: the server kills what is left of it"));
            if run.pipeline.is_alive() && run.shim.is_some() {
                world.env.violate(|| format!("run {run_id}: its processes are killed under a live shim"));
            }
            if run.pipeline.is_alive() && run.pipeline.is_stuck {
                world.env.cover("leftovers could not be killed");
                run.pipeline.is_given_up = true;
                Leftovers { killed: run.pipeline.living(), alive: 1, unread: 0, spared: 0 }
            } else {
                if run.pipeline.is_alive() {
                    world.env.cover("leftovers were killed");
                }
                let killed = run.pipeline.living();
                run.pipeline.kill();
                Leftovers { killed, alive: 0, unread: 0, spared: 0 }
            }
        };
        moment(&self.world, "after", "a kill of leftovers");
        self.stumble("say how many are left")?;
        Ok(left)
    }

    fn remove_pause_file(&self) -> io::Result<()> {
        moment(&self.world, "before", "the PAUSE file goes");
        self.stumble("remove the PAUSE file")?;
        self.with_env(|env| env.pause_file = false);
        Ok(())
    }
}

/// Both clocks of the simulated machine.
pub(super) struct SimClock(pub(super) Shared);

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.0.borrow().env.wall()
    }

    fn since_boot(&self) -> std::time::Duration {
        self.0.borrow().env.since_boot()
    }

    fn awake(&self) -> std::time::Duration {
        std::time::Duration::from_micros(self.0.borrow().env.awake_us())
    }
}
