//! The end of a seed: everything that was broken is repaired, all messages have arrived, and time has passed. Now the state must
//! be correct, and every action must work.

use std::time::Duration;

use super::env::SECOND;
use super::play::{Play, what_is_wrong};
use super::run::Run;
use super::shim::Shim;
use super::shim::signs::how_far;
use crate::pipeline::{Exit, Fact, RunStatus, State, outcome};
use crate::store::RunRow;
use crate::supervisor::{Ask, Snapshot, StartRequest};

/// Longer than any grace and any wait.
const LONG: u64 = 200 * SECOND;

impl Play {
    pub(super) fn end_in_peace(&mut self) -> Result<(), String> {
        self.stop_looking();
        {
            let world = &mut *self.world.borrow_mut();
            world.env.note(|| "peace".to_owned());
            world.calm();
        }
        let until = self.with_env(|env| env.now) + LONG;
        while self.with_env(|env| env.now) < until {
            self.step()?;
        }
        if !self.is_answered() {
            return Err("somebody waits still".to_owned());
        }
        self.is_true()?;
        self.database.borrow_mut().audit(&self.origins)?;
        if self.snapshot()?.state != State::Stopped {
            self.is_done(Ask::Stop { grace: Some(Duration::ZERO) }, State::Stopped)?;
        }
        for (ask, state) in [
            (Ask::Start(StartRequest::default()), State::Running),
            (Ask::Pause, State::Paused),
            (Ask::Resume, State::Running),
            (Ask::Stop { grace: Some(Duration::from_secs(1)) }, State::Stopped),
        ] {
            self.is_done(ask, state)?;
        }
        self.is_true()?;
        self.database.borrow_mut().audit(&self.origins)
    }

    fn snapshot(&self) -> Result<Snapshot, String> {
        let watch = self.watch().ok_or("no server is there")?;
        Ok(watch.get().snapshot.clone())
    }

    /// Requests an action, and waits until it is done.
    fn is_done(&mut self, ask: Ask, state: State) -> Result<(), String> {
        let action = ask.action();
        let before = self.snapshot()?;
        if !before.allowed.contains(&action) {
            return Err(format!("{action} is not allowed in peace: {before:?}"));
        }
        self.ask(ask)?;
        let until = self.with_env(|env| env.now) + 30 * SECOND;
        while !self.is_answered() && self.with_env(|env| env.now) < until {
            self.step()?;
        }
        let settled = self.with_env(|env| env.now) + SECOND;
        while self.with_env(|env| env.now) < settled {
            self.step()?;
        }
        let after = self.snapshot()?;
        if after.state != state || !self.is_answered() {
            return Err(format!("{action} in peace leads to {after:?}"));
        }
        Ok(())
    }

    /// Compares the state, every run, the PAUSE file and health with the world.
    fn is_true(&mut self) -> Result<(), String> {
        let snapshot = self.snapshot()?;
        let degraded = self.watch().and_then(|watch| what_is_wrong(watch));
        if let Some(why) = degraded {
            return Err(format!("health is degraded in peace: {why}"));
        }
        if snapshot.pending.is_some() {
            return Err(format!("something is pending in peace: {snapshot:?}"));
        }
        let world = &mut *self.world.borrow_mut();
        if !world.is_at_rest() {
            return Err("the simulated shim does not come to rest".to_owned());
        }
        let database = self.database.borrow();
        let mut living = None;
        // For an earlier run, the server may have begun the next one before it received the usage.
        if let Some(run) = snapshot.run_id.and_then(|id| world.runs.get(&id)) {
            let row = database.store.run(run.id).map_err(|error| error.to_string())?;
            let has_used = run.journal.in_file().iter().any(|entry| matches!(entry.fact, Fact::Usage { .. }));
            if has_used && row.is_some_and(|row| row.status != RunStatus::Lost && row.cpu_user_ms.is_none()) {
                return Err(format!("run {}: what it used is in its journal, and not recorded", run.id));
            }
        }
        for run in world.runs.values() {
            let row = database.store.run(run.id).map_err(|error| error.to_string())?;
            if let Some(row) = &row {
                is_run_true(run, row).map_err(|why| format!("run {}: {why}; recorded is {row:?}", run.id))?;
                // For a run that a new database has only from its journal, the first fact contains the origin of the start.
                if row.started_by != Some(run.spec.origin) && (row.started_at.is_some() || row.started_by.is_some()) {
                    return Err(format!("run {} was started by {:?}; recorded is {row:?}", run.id, run.spec.origin));
                }
            }
            if run.pipeline.is_alive() {
                living = Some((run.id, row.map(|row| row.status), run.pipeline.is_paused(), run.pipeline.pid));
            }
        }
        let truth = living.map_or((State::Stopped, None), |(id, _, is_paused, pid)| {
            (if is_paused { State::Paused } else { State::Running }, Some((id, pid)))
        });
        let told = (snapshot.state, snapshot.run_id.zip(snapshot.pid).filter(|_| snapshot.state != State::Stopped));
        if told != truth {
            return Err(format!("{told:?} is told, {truth:?} is true"));
        }
        let latest = world.runs.values().next_back();
        let note = latest.and_then(|run| run.shim.as_ref()).and_then(Shim::note);
        // The check above compares the row with the journal.
        let row = snapshot.run_id.and_then(|id| database.store.run(id).ok().flatten());
        let killed = row.filter(|row| row.status != RunStatus::Lost);
        let killed = killed.and_then(|row| row.killed.at_end(row.status == RunStatus::Stopped));
        let detail = if snapshot.run_ended_at.is_none() { note } else { killed };
        if snapshot.detail != detail {
            return Err(format!("{:?} is said of the state, {detail:?} is true", snapshot.detail));
        }
        if let Some(run) = snapshot.run_id.and_then(|id| world.runs.get(&id)) {
            // A shim that is alive, or has exited, has sent its last progress. If it was killed, the progress is at least the one
            // that it stored.
            let least = if run.shim_was_killed { run.stored_progress.0 } else { run.progress };
            let told = how_far(snapshot.progress.as_ref());
            if told < least {
                return Err(format!("progress {told} is told, {least} is known"));
            }
            if told > 0 && run.shim.is_none() {
                world.env.cover("peace found the progress of a run that has ended");
            }
        }
        if world.env.pause_file != (truth.0 == State::Paused) {
            return Err(format!("the PAUSE file is there: {}, and it is {}", world.env.pause_file, truth.0));
        }
        world.env.cover(&format!("peace found it {}", truth.0));
        Ok(())
    }
}

/// Checks whether the record of a run is correct.
fn is_run_true(run: &Run, row: &RunRow) -> Result<(), String> {
    let end = run.journal.entries.iter().find(|entry| entry.fact.is_end());
    let is_in_file = run.journal.holds_end();
    match (row.status, end.map(|end| &end.fact)) {
        (RunStatus::Starting, _) => Err("it is starting for ever".to_owned()),
        // Nothing of the run exists: the power failed while its journal had no room, or before any of it was synced.
        (RunStatus::Failed, _) if run.journal.header.is_none() && row.started_at.is_none() && !run.pipeline.is_alive() => Ok(()),
        (RunStatus::Running | RunStatus::Paused, None) if run.pipeline.is_alive() && run.shim.is_some() => Ok(()),
        (RunStatus::Running | RunStatus::Paused, _) => Err("it does not live".to_owned()),
        (
            RunStatus::Completed | RunStatus::Failed | RunStatus::Stopped,
            Some(Fact::Exited { exit, asked, paused_ms, log_end, killed, .. }),
        ) => {
            let told = (row.exit_code, row.signal, row.paused_ms, row.log_end, &row.killed, row.stopped_by);
            let (code, signal) = match exit {
                Exit::Code(code) => (Some(*code), None),
                Exit::Signal(signal) => (None, Some(*signal)),
            };
            let truth = (code, signal, *paused_ms, Some(*log_end), killed, run.stopped_by.filter(|_| *asked));
            if row.status != outcome(*exit, *asked) || told != truth {
                return Err(format!("{truth:?} is true"));
            }
            Ok(())
        }
        (RunStatus::Failed, Some(Fact::SpawnFailed { error, .. })) if row.error.as_ref() == Some(error) => Ok(()),
        (RunStatus::Completed | RunStatus::Failed | RunStatus::Stopped, _) => Err("nobody can have seen such an end".to_owned()),
        (RunStatus::Lost, _) if is_in_file => Err("its journal tells how it ended".to_owned()),
        (RunStatus::Lost, _) if !run.shim_was_killed => Err("its shim was never killed".to_owned()),
        (RunStatus::Lost, _) => Ok(()),
    }
}
