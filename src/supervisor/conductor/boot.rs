//! What a new server does first: it reads what is stored, looks what there is, and makes the two agree.
//!
//! If killed here: the next boot begins anew, and records nothing twice.

use std::sync::Arc;

use super::in_flight::InFlight;
use super::ledger::Ledger;
use super::parts::Conductor;
use super::shim_link::ShimLink;
use super::signs::Signs;
use crate::clock::Clock;
use crate::pipeline::Found;
use crate::run_dir::ReadJournal;
use crate::store::NewRun;
use crate::supervisor::error::BootError;
use crate::supervisor::records::Records;
use crate::supervisor::settings::Settings;
use crate::supervisor::shims::{Finding, Shims};
use crate::supervisor::snapshot::{Snapshot, Watch};

/// The highest id that the directory of a run that does not live can claim. It can come from another machine with any name, and ids must be
/// left for new runs. One above it is not given either while its directory exists, see [`Conductor::skip_taken_ids`].
const CLAIMED_ID_MAX: i64 = i64::MAX / 2;

impl<R: Records, S: Shims, C: Clock> Conductor<R, S, C> {
    /// When this returns, what is published is true.
    pub(in crate::supervisor) fn boot(store: R, shims: S, clock: C, settings: Settings) -> Result<Self, BootError> {
        let ledger = Ledger::open(store)?;
        let snapshot = Snapshot::new(&ledger.row, ledger.run(), settings.default_script.as_deref());
        let mut conductor = Self {
            watch: Arc::new(Watch::new(snapshot)),
            lookers: Arc::default(),
            told_of_lookers: None,
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
            // On a full disk the pipeline is served as it is on record, and controlled; the rest is recorded once it can be.
            Err(error) if error.may_pass() => conductor.forget_and_retry(&error),
            other => other?,
        }
        conductor.take_in_unknown_runs()?;
        if conductor.live_run().is_some() {
            // The server before may have said, under this version, that something is under way.
            conductor.tell_that_something_changed();
        } else {
            // A server before may have been killed while it could not.
            conductor.take_pause_file_away();
            conductor.publish();
        }
        Ok(conductor)
    }

    /// Run directories that the database knows nothing of: it was removed or replaced. No id up to the highest of them is given again, and
    /// the latest, if it lives or may have left something alive, is taken in.
    fn take_in_unknown_runs(&mut self) -> Result<(), BootError> {
        let known = self.ledger.run().map_or(0, |run| run.id);
        // The usual case, without reading each of them. A database without any run may be new.
        if known > 0 && self.link.shims.latest_run_id().map_err(BootError::Runs)?.is_some_and(|latest| latest <= known) {
            return Ok(());
        }
        let mut ids = self.link.shims.run_ids().map_err(BootError::Runs)?;
        let believed = known.max(CLAIMED_ID_MAX);
        if let Some(id) = ids.last().copied().filter(|&id| id > believed)
            && self.link.shims.find(id).map_err(BootError::Runs)?.found != Found::ShimAlive
        {
            ::log::warn!("a directory claims to be of run {id}, which no server has reached; the claim is ignored");
            ids.retain(|&id| id <= believed);
        }
        // Only the latest can live: none begins before the one before it is recorded as ended. To clean up after an older one would take
        // the PAUSE file of one that lives.
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
            // Damaged, or of a newer version. Whatever it is, beside it no other may be started.
            (NewRun { script: "(unknown)".to_owned(), ..NewRun::default() }, self.clock.now())
        };
        self.ledger.adopt_unknown_run(id, &new, created_at)?;
        self.in_flight.begin_run();
        self.ledger.enter()?;
        Ok(self.look_at_run()?)
    }
}
