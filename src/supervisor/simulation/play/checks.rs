//! Checks after each step of a play.

use std::sync::mpsc::TryRecvError;

use super::{Play, what_is_wrong};
use crate::pipeline::{Action, Fact, RunStatus, State};
use crate::supervisor::simulation::clients;
use crate::supervisor::simulation::shim::signs::how_far;

impl Play {
    pub(super) fn take_answers(&mut self, is_at_once: bool) -> Result<(), String> {
        let world = &mut *self.world.borrow_mut();
        let database = self.database.borrow();
        let last = self.asked.len().saturating_sub(1);
        let mut index = 0;
        let mut result = Ok(());
        self.asked.retain(|asked| {
            let is_new = is_at_once && index == last;
            index += 1;
            match asked.waiting.try_recv() {
                Ok(answer) => {
                    world.env.note(|| format!("a client is told: {} is {}", asked.action, clients::brief(&answer)));
                    let told = answer.as_ref().map_or_else(clients::kind, |_| "ok");
                    world.env.cover(&format!("{} answered {told}", asked.action));
                    let is_true = asked.judge(&answer, is_new, world);
                    let is_committed = answer.map_or(Ok(()), |published| database.judge(&published.snapshot));
                    if let Err(violation) = is_true.and(is_committed) {
                        result = Err(violation);
                    }
                    false
                }
                Err(TryRecvError::Empty) => true,
                Err(TryRecvError::Disconnected) => {
                    result = Err(format!("who asked for {} is forgotten without an answer", asked.action));
                    false
                }
            }
        });
        result
    }

    pub(super) fn check(&mut self) -> Result<(), String> {
        if let Some(violation) = self.with_env(|env| env.violation.take()) {
            return Err(violation);
        }
        self.take_answers(false)?;
        let Some((_, watch)) = &self.server else { return Ok(()) };
        let published = watch.get();
        let database = self.database.borrow();
        database.judge(&published.snapshot)?;
        let version = published.snapshot.version;
        if version < self.seen {
            return Err(format!("the published version goes back from {} to {version}", self.seen));
        }
        self.seen = version;
        let progress = (published.snapshot.run_id, how_far(published.snapshot.progress.as_ref()));
        if progress.0 == self.seen_progress.0 && progress.1 < self.seen_progress.1 {
            return Err(format!("the progress of a run goes back from {:?} to {progress:?}", self.seen_progress));
        }
        self.seen_progress = progress;
        if let Some(usage) = published.snapshot.usage
            && (published.snapshot.state != State::Running || published.snapshot.run_id != Some(usage.processes.into()))
        {
            return Err(format!("{usage:?} is published, and {:?}", published.snapshot));
        }
        let made = progress.0.and_then(|id| self.world.borrow().runs.get(&id).map(|run| run.progress));
        if progress.1 > made.unwrap_or(0) {
            return Err(format!("{progress:?} is published, and no pipeline came so far"));
        }
        if version < database.version && what_is_wrong(watch).is_none() {
            return Err(format!("version {} is committed, {version} is published, and all is said to be well", database.version));
        }
        Ok(())
    }

    /// Checks that a recorded stop is under way until the end, whichever server received it, even while the journal has no room
    /// for it.
    pub(super) fn check_stop(&self, number: u64) -> Result<(), String> {
        let world = self.world.borrow();
        let wire = world.env.wires.get(&number).filter(|wire| wire.server_is_there && wire.shim_is_there);
        let (Some(wire), Some((_, watch))) = (wire, &self.server) else { return Ok(()) };
        let run = &world.runs[&wire.run_id];
        let stop = run.journal.entries.iter().find(|entry| matches!(entry.fact, Fact::Stopping { .. }));
        let Some(stop) = stop.filter(|_| run.status.is_live() && what_is_wrong(watch).is_none()) else {
            return Ok(());
        };
        let is_recorded = self.database.borrow().store.last_seq(run.id).is_ok_and(|last| last >= stop.seq);
        let snapshot = &watch.get().snapshot;
        match (snapshot.pending, snapshot.pending_origin) {
            (pending, _) if is_recorded && pending != Some(Action::Stop) => {
                Err(format!("run {} is being stopped, and {pending:?} is said to be pending", run.id))
            }
            (_, origin) if is_recorded && origin != stop.origin => {
                Err(format!("run {} is being stopped by {:?}, and {origin:?} is said to want it", run.id, stop.origin))
            }
            _ => Ok(()),
        }
    }

    /// Checks everything that must have happened in a turn of the server that began at `began`.
    pub(super) fn check_time(&mut self, began: u64, is_event: bool) -> Result<(), String> {
        self.take_answers(false)?;
        if let Some(late) = self.asked.iter().find(|asked| asked.until <= began) {
            return Err(format!("who asked for {} waits longer than promised", late.action));
        }
        let Some((_, watch)) = &self.server else { return Ok(()) };
        let env = &self.world.borrow().env;
        // For the shim of a run that has ended, the time does not matter.
        let is_live = watch.get().snapshot.status.is_some_and(RunStatus::is_live);
        if is_live && env.is_owed_too_long(began) && what_is_wrong(watch).is_none() {
            return Err("the shim is silent, and health says nothing".to_owned());
        }
        let is_idle = !is_event && self.wake_at.is_some_and(|at| at <= env.now) && env.awake_us() == began;
        self.idle_turns = if is_idle { self.idle_turns + 1 } else { 0 };
        if self.idle_turns > 3 {
            return Err("the server turns in a circle".to_owned());
        }
        Ok(())
    }
}
