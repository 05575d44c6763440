//! The parts of the conductor, and publishing their state to readers.

use std::sync::Arc;
use std::time::Duration;

use super::in_flight::InFlight;
use super::ledger::Ledger;
use super::shim_link::ShimLink;
use super::signs::Signs;
use crate::clock::Clock;
use crate::pipeline::{Action, ConditionCode, Pending, allowed};
use crate::supervisor::records::Records;
use crate::supervisor::settings::Settings;
use crate::supervisor::shims::{ConnectionNumber, Shims};
use crate::supervisor::snapshot::{Snapshot, Watch};
use crate::supervisor::usage_followers::UsageFollowers;

/// The conductor, see the parent module. Each part changes only the fields that it owns; the methods in the other files define
/// what is done with them, and in which order.
pub(in crate::supervisor) struct Conductor<R, S, C> {
    pub(super) settings: Settings,
    pub(super) clock: C,
    /// The published state, which readers share.
    pub(in crate::supervisor) watch: Arc<Watch>,
    /// The clients that follow the resource usage.
    pub(in crate::supervisor) usage_followers: Arc<UsageFollowers>,
    /// The connection on which the shim was last notified of them, and when.
    pub(super) followers_notified_at: Option<(ConnectionNumber, Duration)>,
    /// The recorded state, and the facts and keys that the database has not taken yet.
    pub(super) ledger: Ledger<R>,
    /// The connection to the live run's shim.
    pub(super) link: ShimLink<S>,
    /// The action under way, and the clients that wait for it.
    pub(super) in_flight: InFlight,
    /// The reports of the shim besides facts.
    pub(super) signs: Signs,
    /// The PAUSE file of a run that has ended, if it cannot be removed: the time of the next attempt, and the text for health.
    pub(super) pause_file: Option<(Duration, String)>,
    /// The grace of a stop that sets none: the live run's.
    pub(super) grace: Duration,
}

impl<R: Records, S: Shims, C: Clock> Conductor<R, S, C> {
    /// Returns the run that continues when this server stops.
    pub(in crate::supervisor) fn live_run(&self) -> Option<i64> {
        self.ledger.live_run()
    }

    /// Publishes the recorded state and the action under way.
    pub(super) fn publish(&self) {
        self.show_conditions();
        let (row, pending) = (&self.ledger.row, self.in_flight.pending());
        let mut snapshot = Snapshot::new(row, self.ledger.run(), self.settings.default_script.as_deref());
        snapshot.pipeline.pending = pending.map(Pending::action);
        snapshot.pipeline.allowed = allowed(self.ledger.known_state(), pending);
        snapshot.show_progress(self.signs.progress_of(row.run_id));
        snapshot.show_usage(self.signs.usage());
        if let Some(note) = self.signs.note().filter(|_| self.live_run().is_some()) {
            snapshot.pipeline.detail = Some(note.to_owned());
        }
        snapshot.pipeline.pending_origin = self.in_flight.origin();
        if let Some(kill_at) = self.in_flight.own_kill_at() {
            snapshot.pipeline.kill_at = Some(self.clock.now().after(kill_at.saturating_sub(self.clock.awake())));
        }
        if !self.ledger.unrecorded.is_empty() {
            // A start must wait until the end of the previous run is recorded.
            snapshot.pipeline.allowed.retain(|&action| action != Action::Start);
        }
        self.watch.publish(snapshot);
    }

    /// Publishes the conditions that the parts report.
    pub(super) fn show_conditions(&self) {
        let pause_file = self.pause_file.as_ref().map(|(_, obstacle)| obstacle.clone());
        let own = [(ConditionCode::ShimSilent, self.link.silence(self.live_run())), (ConditionCode::PauseFileLeft, pause_file)];
        let own = own.into_iter().filter_map(|(code, detail)| Some((code, detail?)));
        let told: Vec<_> = own.chain(self.signs.conditions(self.live_run().is_some())).chain(self.ledger.conditions()).collect();
        self.watch.set_told(&told, self.clock.now());
    }

    /// Publishes the progress and the resource usage of the latest run, if they have changed.
    pub(super) fn show_signs(&self) {
        let run_id = self.ledger.row.run_id;
        self.watch.publish_signs(run_id, self.signs.progress_of(run_id), self.signs.usage());
    }
}
