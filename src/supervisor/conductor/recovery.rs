//! Recovery of a run: what is found of it, and what follows, according to the boot table. At boot, and whenever a shim's
//! connection has broken.
//!
//! If killed here: recovery begins anew at the next boot, and records nothing twice.

use std::io;
use std::time::Duration;

use super::parts::Conductor;
use crate::clock::{Clock, Timestamp, whole_ms};
use crate::kill_point::KillPoint;
use crate::pipeline::{Containment, Entry, Fact, Found, Killed, Origin, Pending, Plan, Refusal, RunStatus, State, recover};
use crate::process::{UNKNOWN_BOOT, is_shortage};
use crate::run_dir::Command;
use crate::store::{RunRow, StopRow, StoreError, UnseenEnd};
use crate::supervisor::error::ActionError;
use crate::supervisor::records::Records;
use crate::supervisor::shims::{Finding, Shims};

/// The interval between attempts to remove the PAUSE file of a run that has ended.
const PAUSE_FILE_RETRY: Duration = Duration::from_secs(1);

impl<R: Records, S: Shims, C: Clock> Conductor<R, S, C> {
    /// Applies the boot table to the latest run: at boot, and whenever its shim's connection has broken.
    pub(super) fn look_at_run(&mut self) -> Result<(), StoreError> {
        self.settle("the server or the run's own process (the shim) was killed while the run was starting; start it again")
    }

    pub(super) fn settle(&mut self, why_it_never_began: &str) -> Result<(), StoreError> {
        self.read_again()?;
        self.link.await_nothing();
        let Some(run) = self.ledger.run().cloned() else { return Ok(()) };
        let (run_id, status) = (run.id, run.status);
        self.ledger.read_last_seq(run_id)?;
        self.in_flight.skip_to(self.ledger.last_seq);
        if !status.is_live() {
            self.look_at_progress(run_id);
            // A server can be killed, or its connection can break, between the end and the shim's later facts.
            match self.record_what_followed_the_end(&run)? {
                Some(Found::ShimAlive) => self.hear_out(run_id)?,
                Some(_) => self.tidy_up(run_id),
                None => {}
            }
            return Ok(());
        }
        let finding = match self.find(&run) {
            Ok(finding) => finding,
            Err(error) => {
                if self.link.look_again_later(self.clock.awake(), true) {
                    ::log::error!("run {run_id}: failed to read its directory: {error}; the server tries again");
                }
                self.show_conditions();
                return Ok(());
            }
        };
        // After the search: a shim that was found dead adds nothing more.
        self.look_at_progress(run_id);
        let plan = recover(status, finding.found);
        let Finding { journal, damage, .. } = finding;
        // An earlier server may have recorded a stop for which the journal had no room.
        let recorded_stop =
            if plan == Plan::Adopt { self.ledger.store.read("stop_of", |store| store.stop_of(run_id))? } else { None };
        let last_at = journal.as_ref().and_then(|journal| journal.entries.last()).map(|entry| entry.at);
        // Received facts that are not recorded count too, because the journal may have been removed since.
        let mut entries = journal.as_ref().map_or_else(Vec::new, |journal| journal.entries.clone());
        let written_seq = entries.last().map_or(0, |entry| entry.seq);
        entries.extend(self.ledger.take_unrecorded().into_iter().filter(|entry| entry.seq > written_seq));
        if let Some(journal) = &journal {
            self.grace = Duration::from_millis(journal.header.grace_ms);
            if journal.damaged_lines > 0 {
                ::log::error!("run {run_id}: {} lines of its journal are damaged and were skipped", journal.damaged_lines);
            }
        }
        let stop = stop_under_way(&entries).or(recorded_stop);
        let untold_stop = self.in_flight.untold_stop(&entries);
        if plan == Plan::Adopt {
            // A live shim is controlled although nothing can be recorded.
            self.record_or_keep(entries)?;
        } else if let Err(error) = self.record(entries.clone()) {
            self.ledger.keep(entries);
            return Err(error);
        }
        if journal.is_some() {
            KillPoint::ServerJournalRecorded.reach();
        }
        if self.live_run().is_none() {
            ::log::info!("run {run_id} has ended");
            self.link.be_idle();
            if plan == Plan::Adopt {
                return self.hear_out(run_id);
            }
            self.tidy_up(run_id);
            return Ok(());
        }
        let is_over = self.ledger.unrecorded.iter().any(|entry| entry.fact.is_end());
        if let (Plan::Adopt, Some(stop), false) = (plan, stop, is_over) {
            // The latest possible time of the KILL, because how long the machine was awake since the stop is unknown.
            self.in_flight.adopt_stop(self.clock.awake() + Duration::from_millis(stop.grace_ms), stop.origin);
        }
        // No process of it can be alive, but its control group can exist. A directory that is not its own describes other
        // processes.
        let is_of_another = plan == Plan::FailSpawn && damage.is_some();
        if matches!(plan, Plan::FailSpawn | Plan::Lose)
            && !is_of_another
            && let Err(error) = self.link.shims.kill_leftovers(run_id)
        {
            ::log::warn!("run {run_id}: failed to clean up after it: {error}");
        }
        let (mut end, mut killed, mut at) = (UnseenEnd::Lost, Killed::default(), None);
        let why = match plan {
            Plan::Nothing => return Ok(()),
            Plan::Adopt => {
                self.adopt(run_id, untold_stop);
                return Ok(());
            }
            // An end without a beginning: the line between them is damaged.
            Plan::RecordEnd => "its journal is damaged, so how it ended is unknown".to_owned(),
            Plan::FailSpawn => {
                end = UnseenEnd::NeverBegan;
                self.signs.last_words().or(damage).unwrap_or_else(|| why_it_never_began.to_owned())
            }
            Plan::KillAndLose => {
                let mut why = match (&journal, &damage) {
                    (None, None) => "its run directory was removed, so how it ended is unknown",
                    (Some(journal), _) if journal.header.boot_id == UNKNOWN_BOOT => {
                        "its own process (the shim) was killed or the machine went down, so how it ended is unknown"
                    }
                    _ => "its own process (the shim) was killed, so how it ended is unknown",
                }
                .to_owned();
                if let Some(damage) = damage {
                    why = format!("{why}; {damage}");
                }
                match self.link.shims.kill_leftovers(run_id) {
                    Ok(leftovers) => {
                        killed = leftovers.killed;
                        why.extend(killed.in_recovery().into_iter().flat_map(|told| ["; ".to_owned(), told]));
                        let containment = self.ledger.run().and_then(|run| run.containment);
                        match (leftovers.alive, containment, leftovers.unread) {
                            (0, Some(Containment::Cgroup), _) => why.push_str("; none of its processes is alive"),
                            // A process that cleared its environment cannot be recognised.
                            (0, Some(Containment::Tree) | None, 0) if leftovers.spared > 0 => {}
                            (0, Some(Containment::Tree) | None, 0) => why.push_str("; no process that carries its id is alive"),
                            (0, Some(Containment::Tree) | None, unread) => {
                                why = format!(
                                    "{why}; {unread} processes of other users or in containers could not be examined in \
                                     time: if one of them belongs to this run, end it by hand"
                                );
                            }
                            (left, ..) => why = format!("{why}; {left} of its processes could not be killed: end them by hand"),
                        }
                        if leftovers.spared > 0 {
                            why = format!(
                                "{why}; {} that carry its id were left alone, because they have a mount namespace or a root directory of \
                                 their own and may belong to the run of another server: if they belong to this run, end them by hand",
                                leftovers.spared
                            );
                        }
                    }
                    Err(error) if is_shortage(&error) => {
                        // The lack is temporary. Until then the run must not be recorded as ended, because processes of it may be
                        // alive.
                        ::log::error!("run {run_id}: failed to search for its processes: {error}");
                        self.fall_silent();
                        return Ok(());
                    }
                    Err(error) => why = format!("{why}; its processes could not be searched for: {error}"),
                }
                why
            }
            Plan::Disown => {
                damage.unwrap_or_else(|| "this runtime directory is a copy, and the run continues in another one".to_owned())
            }
            Plan::Lose => {
                at = last_at.or(self.ledger.run().map(|run| run.created_at));
                "the machine went down while it ran, so how it ended is unknown".to_owned()
            }
        };
        // Its shim may have been killed before it removed the file that an earlier run left.
        self.take_pause_file_away();
        if plan == Plan::KillAndLose {
            KillPoint::ServerLeftoversRemoved.reach();
        }
        let at = at.unwrap_or_else(|| self.clock.now());
        self.end_unseen(run_id, end, at, &why, &killed)
    }

    /// Removes the PAUSE file of a run that has ended, because programs that wait for its removal must not wait longer than the
    /// run. The file is only a signal, so the run's end does not wait for its removal.
    pub(super) fn take_pause_file_away(&mut self) {
        let before = self.pause_file.take();
        if let Err(error) = self.link.shims.remove_pause_file() {
            if before.is_none() {
                ::log::error!("failed to remove the PAUSE file of a run that has ended: {error}");
            }
            let obstacle = format!(
                "nothing is paused, and the PAUSE file cannot be removed: {error}; the server tries again each second; you can \
                    also remove it by hand"
            );
            self.pause_file = Some((self.clock.awake() + PAUSE_FILE_RETRY, obstacle));
        }
        self.show_conditions();
    }

    /// Connects to the shim of a run that has ended. The shim still holds its lock: it is exiting, and may have facts to add.
    fn hear_out(&mut self, run_id: i64) -> Result<(), StoreError> {
        let attached = self.link.attach(run_id, &[Command::Attach { tag: 0, after: self.ledger.last_seq }]);
        // It may have closed its socket. Then its journal is complete once its lock is released.
        if let (Err(_), Some(run)) = (attached, self.ledger.run().cloned()) {
            match self.record_what_followed_the_end(&run)? {
                Some(Found::ShimAlive) => self.link.await_leave(self.clock.awake()),
                Some(_) => self.tidy_up(run_id),
                None => {}
            }
        }
        Ok(())
    }

    /// Cleans up after a run that has ended and whose shim has exited. The shim can have been killed before it could remove the
    /// PAUSE file.
    fn tidy_up(&mut self, run_id: i64) {
        // A database that was restored may lack a later run, which may own the file.
        let is_latest = self.link.shims.latest_run_id().is_ok_and(|latest| latest.is_none_or(|id| id <= run_id));
        self.link.await_nothing();
        self.look_at_progress(run_id);
        self.signs.lose_shim();
        if is_latest {
            self.take_pause_file_away();
        }
    }

    /// Records the facts that follow the recorded end in the journal. Returns what was found of a run that may add more.
    fn record_what_followed_the_end(&mut self, run: &RunRow) -> Result<Option<Found>, StoreError> {
        let run_id = run.id;
        match run.status {
            RunStatus::Completed | RunStatus::Failed | RunStatus::Stopped => {}
            // A live run has no end yet, and a lost one adds nothing more.
            RunStatus::Starting | RunStatus::Running | RunStatus::Paused | RunStatus::Lost => return Ok(None),
        }
        match self.find(run) {
            Ok(Finding { found, journal, .. }) => {
                self.record(journal.map_or_else(Vec::new, |journal| journal.entries))?;
                Ok(Some(found))
            }
            Err(error) => {
                if self.link.look_again_later(self.clock.awake(), false) {
                    ::log::warn!("run {run_id}: failed to read its directory: {error}; the server tries again");
                }
                Ok(None)
            }
        }
    }

    /// Examines a recorded run. If it was never seen running, the directory with its name may not have been created for it: it
    /// appeared between the run's commit and its start, which then failed. Its journal began at another time and is not the
    /// run's.
    fn find(&self, run: &RunRow) -> io::Result<Finding> {
        let finding = self.link.shims.find(run.id)?;
        // A run that was taken over without its journal has neither a known time nor a known directory.
        let is_known = run.started_at.is_none() && !run.cwd.is_empty();
        match &finding.journal {
            Some(journal) if is_known && journal.header.created_at != run.created_at => {
                let damage = format!("the directory runs/{} is that of another run; move it away, and start again", run.id);
                Ok(Finding { found: Found::NeverBegan, journal: None, damage: Some(damage) })
            }
            Some(_) | None => Ok(finding),
        }
    }

    fn adopt(&mut self, run_id: i64, untold_stop: Option<(Duration, Origin)>) {
        let mut commands = vec![Command::Attach { tag: 0, after: self.ledger.last_seq }];
        if let Some((kill_at, origin)) = untold_stop {
            // This server sent the stop, and it may have been lost with the previous connection. A stop that is in the journal
            // has certainly reached the shim, and sending it again would cause another event.
            let left = kill_at.saturating_sub(self.clock.awake());
            commands.push(Command::Stop { tag: 0, grace_ms: Some(whole_ms(left).saturating_add(2)), origin });
        }
        match self.link.attach(run_id, &commands) {
            Ok(()) => {
                KillPoint::ServerRunAdopted.reach();
                self.link.adopt(self.clock.awake());
                self.show_conditions();
                if let Some(under_way) = self.in_flight.take_unanswerable() {
                    under_way.answer_all(|| Err(ActionError::ShimSilent));
                    self.tell_that_something_changed();
                }
                ::log::info!("run {run_id} is still running; this server has taken it over");
            }
            // It may be exiting at this moment, or not have its socket yet.
            Err(_) => self.fall_silent(),
        }
    }

    pub(super) fn fall_silent(&mut self) {
        self.link.fall_silent(self.clock.awake(), self.live_run().is_some());
        self.show_conditions();
    }

    /// Drops the connection. The shim sends the signs again on the next one.
    pub(super) fn let_go(&mut self) {
        self.link.let_go();
        self.signs.lose_shim();
        self.show_conditions();
    }

    pub(super) fn let_go_and_look(&mut self) {
        self.let_go();
        if let Err(error) = self.look_at_run() {
            self.forget_and_retry(&error);
        }
        self.publish();
    }

    /// Reads the progress that a run's shim stored, which counts if it is later than the one it sent.
    pub(super) fn look_at_progress(&mut self, run_id: i64) {
        self.signs.take_stored(run_id, self.link.shims.progress(run_id), self.clock.awake());
        self.show_signs();
    }

    fn end_unseen(&mut self, run_id: i64, end: UnseenEnd, at: Timestamp, why: &str, killed: &Killed) -> Result<(), StoreError> {
        // The facts of its journal can have ended it just before.
        if self.live_run().is_some() {
            self.ledger.end_run(run_id, end, at, why, killed)?;
        }
        self.link.be_idle();
        self.link.forgive_silence();
        self.signs.lose_shim();
        let (is_disk_full, lack) = self.signs.take_last_words();
        let under_way = self.in_flight.take();
        self.publish();
        let published = self.watch.get();
        if let Some(under_way) = under_way {
            let pending = under_way.pending;
            under_way.answer_all(|| match pending {
                Pending::Start if is_disk_full => Err(ActionError::DiskFull),
                Pending::Start => Err(ActionError::SpawnFailed { run_id, detail: why.to_owned(), lack }),
                Pending::Stop { .. } => Ok(published.clone()),
                Pending::Pause | Pending::Resume => {
                    Err(ActionError::Refused(Refusal { from: State::Stopped, action: pending.action(), pending: None }))
                }
            });
        }
        Ok(())
    }
}

/// Returns the stop in a live run's journal: an earlier server sent it, and it is not done yet.
fn stop_under_way(entries: &[Entry]) -> Option<StopRow> {
    let stops = || {
        entries.iter().filter_map(|entry| match entry.fact {
            Fact::Stopping { grace_ms } => Some((grace_ms, entry.origin)),
            _ => None,
        })
    };
    let (_, origin) = stops().next()?;
    let (grace_ms, _) = stops().next_back()?;
    Some(StopRow { grace_ms, origin })
}
