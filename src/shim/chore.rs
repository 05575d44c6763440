//! An action on frequently changing data, with a shortest time between two executions.

use std::time::Duration;

/// When the action was last done, and whether it is due. In awake time.
#[derive(Debug, Default)]
pub(super) struct Chore {
    done_at: Option<Duration>,
    pub(super) is_due: bool,
}

impl Chore {
    /// Returns when the action is to be done, at least `every` after the last time.
    pub(super) fn due_at(&self, every: Duration) -> Option<Duration> {
        self.is_due.then(|| self.done_at.map_or(Duration::ZERO, |at| at + every))
    }

    /// Returns whether the action is to be done now. If so, it counts as done.
    pub(super) fn take(&mut self, every: Duration, now: Duration) -> bool {
        let is_due = self.due_at(every).is_some_and(|at| at <= now);
        if is_due {
            (self.done_at, self.is_due) = (Some(now), false);
        }
        is_due
    }
}
