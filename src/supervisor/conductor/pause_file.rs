//! The PAUSE file of a run that has ended: it is a sign, so the run's end does not wait for it. Where it cannot be removed that is tried
//! again each second, and health says so.

use std::io;
use std::time::Duration;

/// How often it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Whether such a file is left.
#[derive(Default)]
pub(super) struct PauseFile {
    retry_at: Option<Duration>,
    /// Why it cannot be removed.
    obstacle: Option<String>,
}

impl PauseFile {
    /// Somebody tried to remove it at `now`.
    pub(super) fn note_removal(&mut self, removed: io::Result<()>, now: Duration) {
        match removed {
            Ok(()) => self.disown(),
            Err(error) => {
                if self.retry_at.is_none() {
                    ::log::error!("failed to remove the PAUSE file of a run that has ended: {error}");
                }
                self.retry_at = Some(now + RETRY);
                self.obstacle = Some(format!(
                    "nothing is paused, and the PAUSE file cannot be removed: {error}; it is tried again each second, or remove it by hand"
                ));
            }
        }
    }

    /// What there is of it from now on is another run's, or nothing.
    pub(super) fn disown(&mut self) {
        *self = Self::default();
    }

    /// What health says of it.
    pub(super) fn obstacle(&self) -> Option<String> {
        self.obstacle.clone()
    }

    /// When it is to be tried again.
    pub(super) fn retry_at(&self) -> Option<Duration> {
        self.retry_at
    }
}
