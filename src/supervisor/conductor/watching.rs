//! Notifies the shim regularly that clients follow the resource usage. Only while the run is running, because nothing should wake
//! the shim of a paused run.
//!
//! If killed here: the notification lapses.

use std::time::Duration;

use super::parts::Conductor;
use crate::clock::Clock;
use crate::pipeline::State;
use crate::run_dir::Command;
use crate::supervisor::records::Records;
use crate::supervisor::shims::Shims;

/// The interval of the notifications. A notification lapses after three times that.
const TOLD_EVERY: Duration = Duration::from_secs(5);

impl<R: Records, S: Shims, C: Clock> Conductor<R, S, C> {
    /// Returns when the next notification is due.
    pub(super) fn watch_due_at(&self) -> Option<Duration> {
        let connection =
            self.link.connection().filter(|_| self.ledger.row.state == State::Running && self.usage_followers.is_any())?;
        let told_here = self.followers_notified_at.filter(|(told, _)| *told == connection);
        Some(told_here.map_or(Duration::ZERO, |(_, at)| at + TOLD_EVERY))
    }

    /// Notifies the shim, if that is due.
    pub(super) fn notify_shim_of_followers(&mut self, now: Duration) {
        let Some(connection) = self.link.connection().filter(|_| self.watch_due_at().is_some_and(|at| at <= now)) else { return };
        self.followers_notified_at = Some((connection, now));
        self.usage_followers.are_told();
        let tag = self.in_flight.new_tag();
        // A shim that has exited does not need the command, and an older one refuses a command that it does not know.
        let _is_said_again = self.link.send(&Command::Watch { tag }, now);
    }
}
