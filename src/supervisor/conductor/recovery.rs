//! What is found of a run, and what is made of it: the boot table, at boot and whenever a shim's connection broke.
//!
//! If killed here: recovery begins anew at the next boot, and records nothing twice.

use std::time::Duration;

use super::{ActionError, Conductor, Link, RETRY_LATER, RETRY_SOON, SILENCE_LIMIT, SILENT_SHIM, UnderWay};
use crate::clock::{Clock, Timestamp, whole_ms};
use crate::kill_point::KillPoint;
use crate::pipeline::{
    ConditionCode, Containment, Entry, Fact, Found, Killed, Pending, Plan, Refusal, RunStatus, State, recover,
};
use crate::process::{UNKNOWN_BOOT, is_shortage};
use crate::run_dir::{Command, ReadJournal};
use crate::store::{NewRun, StoreError, UnseenEnd};
use crate::supervisor::BootError;
use crate::supervisor::records::Records;
use crate::supervisor::shims::{Finding, Shims};

impl<R: Records, S: Shims, C: Clock> Conductor<R, S, C> {
    /// The boot table, for the latest run: at boot, and whenever its shim's connection broke.
    pub(super) fn look_at_run(&mut self) -> Result<(), StoreError> {
        self.settle("the server or the run's own process (the shim) was killed while it began; start it again")
    }

    /// From what is stored, not from what is remembered: a read that failed after a commit leaves the two apart. Who waited was told so.
    pub(super) fn read_again(&mut self) -> Result<(), StoreError> {
        let row = self.store.row()?;
        self.run = self.store.latest_run()?;
        self.row = row;
        self.is_behind = false;
        if self.live_run().is_none() {
            self.under_way = None;
        } else if self.row.state == State::Stopped && self.unrecorded.is_empty() && self.under_way.is_none() {
            // Committed as `starting`, and not as `running`: its first fact is on the way, or it never began.
            self.under_way = Some(UnderWay { pending: Pending::Start, tag: 0, asked_ms: 0, waiters: Vec::new() });
        }
        Ok(())
    }

    /// After a read that failed behind a commit: what is published is what is stored again.
    pub(super) fn catch_up(&mut self) -> Result<(), StoreError> {
        if self.is_behind {
            self.read_again()?;
            self.publish();
        }
        Ok(())
    }

    pub(super) fn settle(&mut self, why_it_never_began: &str) -> Result<(), StoreError> {
        self.read_again()?;
        self.is_awaited = false;
        let Some(run) = &self.run else { return Ok(()) };
        let (run_id, status) = (run.id, run.status);
        self.last_seq = self.store.last_seq(run_id)?;
        self.settled_seq = self.settled_seq.max(self.last_seq);
        // What was kept for the next try may be recorded by now.
        let recorded = self.last_seq;
        self.unrecorded.retain(|entry| entry.seq > recorded);
        if !status.is_live() {
            self.look_at_progress(run_id);
            return self.look_after_the_end(run_id, status);
        }
        let finding = match self.shims.find(run_id) {
            Ok(finding) => finding,
            Err(error) => {
                ::log::error!("run {run_id}: failed to look at its directory: {error}");
                self.fall_silent();
                return Ok(());
            }
        };
        // Behind that look: of a shim that was seen to be gone nothing more can come.
        self.look_at_progress(run_id);
        let plan = recover(status, finding.found);
        let Finding { journal, damage, .. } = finding;
        // An earlier server may have heard of a stop while the journal had no room for it.
        let recorded_grace = if plan == Plan::Adopt { self.store.shortest_grace_ms(run_id)? } else { None };
        let last_at = journal.as_ref().and_then(|journal| journal.entries.last()).map(|entry| entry.at);
        // What was heard and not recorded counts too: the journal may have been removed since.
        let mut entries = journal.as_ref().map_or_else(Vec::new, |journal| journal.entries.clone());
        let written_seq = entries.last().map_or(0, |entry| entry.seq);
        entries.extend(std::mem::take(&mut self.unrecorded).into_iter().filter(|entry| entry.seq > written_seq));
        if let Some(journal) = &journal {
            self.grace = Duration::from_millis(journal.header.grace_ms);
            if journal.damaged_lines > 0 {
                ::log::error!("run {run_id}: {} lines of its journal are damaged and left out", journal.damaged_lines);
            }
        }
        let stop = stop_under_way(&entries).or(recorded_grace.map(Duration::from_millis));
        if plan == Plan::Adopt {
            // A shim that lives is controlled although nothing can be recorded.
            self.record_or_keep(entries)?;
        } else if let Err(error) = self.record(entries.clone()) {
            self.unrecorded = entries;
            self.unrecorded.retain(|entry| entry.seq > self.last_seq);
            return Err(error);
        }
        if journal.is_some() {
            KillPoint::ServerJournalRecorded.reach();
        }
        if self.live_run().is_none() {
            ::log::info!("run {run_id} has ended");
            self.link = Link::Idle;
            if plan == Plan::Adopt {
                return self.hear_out(run_id);
            }
            self.tidy_up(run_id);
            return Ok(());
        }
        let is_over = self.unrecorded.iter().any(|entry| entry.fact.is_end());
        if let (Plan::Adopt, Some(grace), None, false) = (plan, stop, self.pending(), is_over) {
            // The shim kills by then at the latest: how long the machine was awake since the journal does not tell.
            let pending = Pending::Stop { kill_at: self.clock.awake() + grace };
            self.under_way = Some(UnderWay { pending, tag: 0, asked_ms: 0, waiters: Vec::new() });
        }
        match plan {
            Plan::Nothing => {}
            Plan::Adopt => self.adopt(run_id),
            // An end without the beginning that it ends: the line between is damaged.
            Plan::RecordEnd => self.end_unseen(
                run_id,
                UnseenEnd::Lost,
                self.clock.now(),
                "its journal is damaged, so how it ended is unknown",
                &Killed::default(),
            )?,
            Plan::FailSpawn => {
                // No process can be alive, but the control group can have been made.
                if let Err(error) = self.shims.kill_leftovers(run_id) {
                    ::log::warn!("run {run_id}: failed to clean up after it: {error}");
                }
                let told = self.last_words.as_ref().and_then(|words| words.trouble.clone());
                let why = told.unwrap_or_else(|| why_it_never_began.to_owned());
                self.end_unseen(run_id, UnseenEnd::NeverBegan, self.clock.now(), &why, &Killed::default())?;
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
                let mut killed = Killed::default();
                let leftovers = self.shims.kill_leftovers(run_id).map(|leftovers| {
                    killed = leftovers.killed;
                    why.extend(killed.in_recovery().into_iter().flat_map(|told| ["; ".to_owned(), told]));
                    leftovers.alive
                });
                match leftovers {
                    Ok(0) => why.push_str(match self.run.as_ref().and_then(|run| run.containment) {
                        Some(Containment::Cgroup) => "; nothing of it is alive",
                        // Who has thrown its environment away cannot be told from anybody else.
                        Some(Containment::Tree) | None => "; nothing that carries its id is alive",
                    }),
                    Ok(left) => why = format!("{why}; {left} of its processes could not be killed: end them by hand"),
                    Err(error) if is_shortage(&error) => {
                        // It passes. Until then nobody may be told that it has ended, with something of it alive.
                        ::log::error!("run {run_id}: failed to look for its processes: {error}");
                        self.fall_silent();
                        return Ok(());
                    }
                    Err(error) => why = format!("{why}; its processes could not be looked for: {error}"),
                }
                self.take_pause_file_away();
                KillPoint::ServerLeftoversRemoved.reach();
                self.end_unseen(run_id, UnseenEnd::Lost, self.clock.now(), &why, &killed)?;
            }
            Plan::Disown => {
                let why =
                    damage.unwrap_or_else(|| "this runtime directory is a copy, and the run continues in another one".to_owned());
                self.take_pause_file_away();
                self.end_unseen(run_id, UnseenEnd::Lost, self.clock.now(), &why, &Killed::default())?;
            }
            Plan::Lose => {
                // Nothing of it can be alive, but its control group can be there.
                if let Err(error) = self.shims.kill_leftovers(run_id) {
                    ::log::warn!("run {run_id}: failed to clean up after it: {error}");
                }
                let why = "the machine went down while it ran, so how it ended is unknown";
                let at = last_at.or(self.run.as_ref().map(|run| run.created_at)).unwrap_or_else(|| self.clock.now());
                self.take_pause_file_away();
                self.end_unseen(run_id, UnseenEnd::Lost, at, why, &Killed::default())?;
            }
        }
        Ok(())
    }

    /// Who waits for the file to go must not wait beyond the run. A sign, so the run's end does not wait for it: where it cannot be removed
    /// that is tried again, and health says so.
    pub(super) fn take_pause_file_away(&mut self) {
        match self.shims.remove_pause_file() {
            Ok(()) => self.pause_file_stays(),
            Err(error) => {
                if self.pause_file_retry_at.is_none() {
                    ::log::error!("failed to remove the PAUSE file of a run that has ended: {error}");
                }
                self.pause_file_retry_at = Some(self.clock.awake() + RETRY_LATER);
                let why = format!(
                    "nothing is paused, and the PAUSE file cannot be removed: {error}; it is tried again each second, or remove it by hand"
                );
                self.set_condition(ConditionCode::PauseFileLeft, Some(why));
            }
        }
    }

    /// What there is of it from now on is another run's, or nothing.
    pub(super) fn pause_file_stays(&mut self) {
        self.pause_file_retry_at = None;
        self.set_condition(ConditionCode::PauseFileLeft, None);
    }

    /// The shim of a run that has ended holds its lock still: it is on its way out, and may have something to add.
    fn hear_out(&mut self, run_id: i64) -> Result<(), StoreError> {
        let connected = self.shims.connect(run_id).and_then(|number| {
            self.shims.send(&Command::Attach { tag: 0, after: self.last_seq })?;
            Ok(number)
        });
        match (connected, self.run.as_ref().map(|run| run.status)) {
            (Ok(number), _) => self.link = Link::Connected { number },
            // It may have closed its socket: then its journal is whole once its lock has fallen.
            (Err(_), Some(status)) => {
                self.shims.disconnect();
                match self.record_what_followed_the_end(run_id, status)? {
                    Some(Found::ShimAlive) => self.await_the_rest(),
                    Some(_) => self.tidy_up(run_id),
                    None => {}
                }
            }
            (Err(_), None) => {}
        }
        Ok(())
    }

    /// A server can be killed, or its connection break, between the end and what its shim has to add.
    fn look_after_the_end(&mut self, run_id: i64, status: RunStatus) -> Result<(), StoreError> {
        match self.record_what_followed_the_end(run_id, status)? {
            Some(Found::ShimAlive) => self.hear_out(run_id),
            Some(_) => {
                self.tidy_up(run_id);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// What has ended is looked at again in a moment.
    fn await_the_rest(&mut self) {
        self.fall_silent();
        self.is_awaited = true;
    }

    /// The shim of a run that has ended is gone. It can have been killed before it could remove the PAUSE file.
    fn tidy_up(&mut self, run_id: i64) {
        // A database that was put back does not know of a later run, whose file it may be.
        let is_latest = self.shims.latest_run_id().is_ok_and(|latest| latest.is_none_or(|id| id <= run_id));
        self.is_awaited = false;
        self.look_at_progress(run_id);
        self.forget_troubles();
        if is_latest {
            self.take_pause_file_away();
        }
    }

    /// What its journal holds after the end that is recorded. Returns what was found of a run that may have more to add.
    fn record_what_followed_the_end(&mut self, run_id: i64, status: RunStatus) -> Result<Option<Found>, StoreError> {
        match status {
            RunStatus::Completed | RunStatus::Failed | RunStatus::Stopped => {}
            // A live run has no end yet, and of a lost one nothing more can come.
            RunStatus::Starting | RunStatus::Running | RunStatus::Paused | RunStatus::Lost => return Ok(None),
        }
        match self.shims.find(run_id) {
            Ok(Finding { found, journal, .. }) => {
                self.record(journal.map_or_else(Vec::new, |journal| journal.entries))?;
                Ok(Some(found))
            }
            Err(error) => {
                ::log::warn!("run {run_id}: failed to look at its directory: {error}");
                self.await_the_rest();
                Ok(None)
            }
        }
    }

    fn adopt(&mut self, run_id: i64) {
        let connected = self.shims.connect(run_id).and_then(|number| {
            self.shims.send(&Command::Attach { tag: 0, after: self.last_seq })?;
            if let Some(UnderWay { pending: Pending::Stop { kill_at }, tag: 1.., .. }) = self.under_way {
                // Asked for by this server, and may have gone down with the connection before. A shim that has it takes nothing but a
                // shorter grace. One that the journal tells of the shim has for certain.
                let left = kill_at.saturating_sub(self.clock.awake());
                let stop = Command::Stop { tag: 0, grace_ms: Some(whole_ms(left).saturating_add(2)), origin: None };
                self.shims.send(&stop)?;
            }
            Ok(number)
        });
        match connected {
            Ok(number) => {
                KillPoint::ServerRunAdopted.reach();
                if matches!(self.link, Link::Silent { .. }) {
                    self.set_condition(ConditionCode::ShimSilent, None);
                }
                self.link = Link::Connected { number };
                self.expect_to_hear();
                self.give_up_unanswerable();
                ::log::info!("run {run_id} goes on; this server has taken it over");
            }
            // It may be leaving at this moment, or not have its socket yet.
            Err(_) => self.fall_silent(),
        }
    }

    /// A pause or resume that went down on a connection that is gone may have been refused there, or never read: nobody answers it any
    /// more. If it is done, its fact says so.
    fn give_up_unanswerable(&mut self) {
        let is_lost = |under_way: &mut UnderWay| matches!(under_way.pending, Pending::Pause | Pending::Resume);
        let Some(under_way) = self.under_way.take_if(is_lost) else { return };
        under_way.answer_all(|| Err(ActionError::ShimSilent));
        self.tell_that_something_changed();
    }

    pub(super) fn fall_silent(&mut self) {
        let now = self.clock.awake();
        self.shims.disconnect();
        let since = match self.link {
            Link::Silent { since, .. } => since,
            Link::Idle | Link::Connected { .. } => now,
        };
        let is_long = now.saturating_sub(since) >= SILENCE_LIMIT;
        let retry_at = now + if is_long { RETRY_LATER } else { RETRY_SOON };
        self.link = Link::Silent { since, retry_at };
        self.unheard_since = None;
        if is_long && self.live_run().is_some() {
            self.set_condition(ConditionCode::ShimSilent, Some(SILENT_SHIM.to_owned()));
        }
    }

    fn end_unseen(&mut self, run_id: i64, end: UnseenEnd, at: Timestamp, why: &str, killed: &Killed) -> Result<(), StoreError> {
        // Its journal can have ended it a moment ago.
        if self.run.as_ref().is_some_and(|run| run.status.is_live()) {
            let row = self.store.end_run(run_id, end, at, why, killed)?;
            ::log::warn!("run {run_id}: {why}");
            match end {
                UnseenEnd::Lost => KillPoint::ServerLostCommitted.reach(),
                UnseenEnd::NeverBegan => KillPoint::ServerNeverBeganCommitted.reach(),
            }
            self.unrecorded.clear();
            self.run = self.store.run(run_id)?;
            self.row = row;
        }
        self.link = Link::Idle;
        self.set_condition(ConditionCode::ShimSilent, None);
        self.forget_troubles();
        let last_words = self.last_words.take();
        let is_disk_full = last_words.as_ref().is_some_and(|words| words.is_disk_full);
        let lack = last_words.and_then(|words| words.lack);
        let under_way = self.under_way.take();
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

    /// Run directories that the database knows nothing of: it was removed or replaced. Their ids are not given again, and the latest, if
    /// it lives or may have left something alive, is taken in.
    pub(super) fn take_in_unknown_runs(&mut self) -> Result<(), BootError> {
        let known = self.run.as_ref().map_or(0, |run| run.id);
        // The usual case, without reading each of them. A database without any run may be new.
        if known > 0 && self.shims.latest_run_id().map_err(BootError::Runs)?.is_some_and(|latest| latest <= known) {
            return Ok(());
        }
        let ids = self.shims.run_ids().map_err(BootError::Runs)?;
        // Only the latest can live: none begins before the one before it is recorded as ended. To clean up after an older one would take
        // the PAUSE file of one that lives.
        let Some(id) = ids.last().copied().filter(|&id| id > known) else { return Ok(()) };
        self.store.reserve_run_ids(id)?;
        KillPoint::ServerRunIdsReserved.reach();
        let may_live = match self.shims.find(id).map_err(BootError::Runs)? {
            Finding { found: Found::ShimAlive | Found::Vanished { .. }, journal, .. } if self.live_run().is_none() => journal,
            Finding { .. } => return Ok(()),
        };
        let (new, created_at) = if let Some(ReadJournal { header, .. }) = may_live {
            let new = NewRun { script: header.script, cwd: header.cwd, args: header.args, log_start: header.log_start };
            (new, header.created_at)
        } else {
            // Damaged, or of a newer version. Whatever it is, beside it no other may be started.
            let new = NewRun { script: "(unknown)".to_owned(), cwd: String::new(), args: Vec::new(), log_start: 0 };
            (new, self.clock.now())
        };
        let begun = self.store.adopt_unknown_run(id, &new, created_at)?;
        ::log::warn!("run {id} was not in the database; its journal tells of it");
        KillPoint::ServerUnknownRunCommitted.reach();
        self.row = begun.row;
        self.run = self.store.run(id)?;
        (self.last_seq, self.settled_seq) = (0, 0);
        Ok(self.look_at_run()?)
    }
}

/// The grace of the stop that a live run's journal tells of: asked for by an earlier server, and still to be done.
fn stop_under_way(entries: &[Entry]) -> Option<Duration> {
    let stops = entries.iter().filter_map(|entry| match entry.fact {
        // A damaged line can contain any number.
        Fact::Stopping { grace_ms, .. } => Some((entry.boot_ms.saturating_add(grace_ms), grace_ms)),
        _ => None,
    });
    stops.min().map(|(_, grace_ms)| Duration::from_millis(grace_ms))
}
