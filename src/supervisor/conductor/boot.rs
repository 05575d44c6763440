//! The boot of a new server: it reads the stored state, checks the run, and makes the two agree.
//!
//! If killed here: the next boot begins anew, and records nothing twice.

use std::sync::Arc;

use super::in_flight::InFlight;
use super::ledger::Ledger;
use super::parts::Conductor;
use super::shim_link::ShimLink;
use super::signs::Signs;
use crate::clock::Clock;
use crate::latest_run::RUN_ID_MAX;
use crate::pipeline::Found;
use crate::run_dir::ReadJournal;
use crate::store::NewRun;
use crate::supervisor::error::BootError;
use crate::supervisor::records::Records;
use crate::supervisor::settings::Settings;
use crate::supervisor::shims::{Finding, Shims};
use crate::supervisor::snapshot::{Snapshot, Watch};

/// The highest id that the directory of a dead run can claim. The directory may come from another machine with any name, and some
/// ids must be left for new runs. A higher id is not given to a new run while its directory exists, see
/// [`Conductor::skip_taken_ids`].
const CLAIMED_ID_MAX: i64 = RUN_ID_MAX / 2;

impl<R: Records, S: Shims, C: Clock> Conductor<R, S, C> {
    /// Creates a conductor and recovers the latest run. When this returns, the published state is correct.
    pub(in crate::supervisor) fn boot(store: R, shims: S, clock: C, settings: Settings) -> Result<Self, BootError> {
        let ledger = Ledger::open(store)?;
        let snapshot = Snapshot::new(&ledger.row, ledger.run(), settings.default_script.as_deref());
        let mut conductor = Self {
            watch: Arc::new(Watch::new(snapshot)),
            usage_followers: Arc::default(),
            followers_notified_at: None,
            grace: settings.grace,
            in_flight: InFlight::new(ledger.last_seq),
            link: ShimLink::new(shims),
            signs: Signs::default(),
            pause_file: None,
            settings,
            clock,
            ledger,
        };
        match conductor.look_at_run() {
            // If the disk is full, the server shows the recorded state and controls the pipeline. The rest is recorded as soon as
            // possible.
            Err(error) if error.may_pass() => conductor.forget_and_retry(&error),
            other => other?,
        }
        conductor.adopt_unknown_runs()?;
        if conductor.live_run().is_some() {
            // The previous server may have published an action as under way with this version.
            conductor.tell_that_something_changed();
        } else {
            // The previous server may have been killed while it could not remove the file.
            conductor.take_pause_file_away();
            conductor.publish();
        }
        Ok(conductor)
    }

    /// Handles run directories that are missing in the database, because the database was removed or replaced. Reserves all ids
    /// up to the highest of them. Takes over the latest run if it is alive or may have left processes.
    fn adopt_unknown_runs(&mut self) -> Result<(), BootError> {
        let known = self.ledger.run().map_or(0, |run| run.id);
        // The usual case, without reading each directory. A database without any run may be new.
        if known > 0 && self.link.shims.latest_run_id().map_err(BootError::Runs)?.is_some_and(|latest| latest <= known) {
            return Ok(());
        }
        let mut ids = self.link.shims.run_ids().map_err(BootError::Runs)?;
        let believed = known.max(CLAIMED_ID_MAX);
        if let Some(id) = ids.last().copied().filter(|&id| id > believed)
            && self.link.shims.find(id).map_err(BootError::Runs)?.found != Found::ShimAlive
        {
            ::log::warn!("a directory has the name of run {id}, an id that no server has reached, so it is ignored");
            ids.retain(|&id| id <= believed);
        }
        // Only the latest run can be alive, because none begins before the end of the previous one is recorded. Cleaning up after
        // an older run would remove the PAUSE file of a live one.
        let Some(id) = ids.last().copied().filter(|&id| id > known) else { return Ok(()) };
        self.ledger.reserve_run_ids(id)?;
        let may_live = match self.link.shims.find(id).map_err(BootError::Runs)? {
            Finding { found: Found::ShimAlive | Found::Vanished { .. }, journal, .. } if self.live_run().is_none() => journal,
            Finding { .. } => return Ok(()),
        };
        let (new, created_at) = if let Some(ReadJournal { header, .. }) = may_live {
            // The origin of its start comes with its first fact.
            let new = NewRun {
                script: header.script,
                start_cwd: Some(header.cwd.clone()),
                cwd: header.cwd,
                args: header.args,
                log_start: header.log_start,
                origin: None,
                env_names: header.env_names,
                grace_ms: Some(header.grace_ms),
            };
            (new, header.created_at)
        } else {
            // The journal is damaged or of a newer version. In any case no other run may be started beside this one.
            (NewRun { script: "(unknown)".to_owned(), ..NewRun::default() }, self.clock.now())
        };
        self.ledger.adopt_unknown_run(id, &new, created_at)?;
        self.in_flight.begin_run();
        self.ledger.enter()?;
        Ok(self.look_at_run()?)
    }
}
