//! Something that is done for the newest of what changes often, and not too often.

use std::time::Duration;

/// When it was done last, and whether it is to be done again. In awake time.
#[derive(Debug, Default)]
pub(super) struct Chore {
    done_at: Option<Duration>,
    pub(super) is_due: bool,
}

impl Chore {
    /// When it is to be done, at least `every` after the last time.
    pub(super) fn due_at(&self, every: Duration) -> Option<Duration> {
        self.is_due.then(|| self.done_at.map_or(Duration::ZERO, |at| at + every))
    }

    /// Whether it is to be done now; then it counts as done.
    pub(super) fn take(&mut self, every: Duration, now: Duration) -> bool {
        let is_due = self.due_at(every).is_some_and(|at| at <= now);
        if is_due {
            (self.done_at, self.is_due) = (Some(now), false);
        }
        is_due
    }
}
