//! Work that is due without an event: clients that have waited too long, a silent shim, and a database that must be tried again.

use std::time::Duration;

use super::parts::Conductor;
use crate::clock::Clock;
use crate::supervisor::records::Records;
use crate::supervisor::shims::Shims;

impl<R: Records, S: Shims, C: Clock> Conductor<R, S, C> {
    /// Returns when [`Conductor::tick`] has something to do.
    pub(in crate::supervisor) fn deadline(&self) -> Option<Duration> {
        let retries = [self.ledger.retry_at, self.pause_file.as_ref().map(|(at, _)| *at), self.signs.retry_at()];
        retries.into_iter().chain([self.link.deadline(), self.in_flight.deadline(), self.watch_due_at()]).flatten().min()
    }

    /// Does the work that is due.
    pub(in crate::supervisor) fn tick(&mut self) {
        let now = self.clock.awake();
        let is_due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        if is_due(self.link.retry_at()) {
            if let Err(error) = self.look_at_run() {
                self.forget_and_retry(&error);
            } else {
                if self.live_run().is_none() {
                    self.link.rest();
                }
                // Even without a change: what was committed before a read failed has not been published.
                self.publish();
            }
        }
        if is_due(self.pause_file.as_ref().map(|(at, _)| *at)) {
            self.take_pause_file_away();
        }
        // The shim of a live run sends its progress itself, and the progress of an earlier run is no longer needed.
        if let Some(run_id) = self.signs.take_due_look(now)
            && self.ledger.row.run_id == Some(run_id)
            && self.live_run().is_none()
        {
            self.look_at_progress(run_id);
        }
        if is_due(self.ledger.retry_at) {
            self.try_store_again();
        }
        self.notify_shim_of_followers(now);
        self.link.note_silence(now);
        self.show_conditions();
        self.in_flight.expire(now);
    }
}
