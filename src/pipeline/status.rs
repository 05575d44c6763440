//! The status of a run: whether it is alive, or how it ended, in one word.

use super::words::words;

words! {
    /// The status of a run: whether it is alive, or how it ended.
    RunStatus {
        /// Committed, and not yet seen running.
        Starting = "starting",
        /// Seen running.
        Running = "running",
        /// Seen paused.
        Paused = "paused",
        /// The leader exited with code 0.
        Completed = "completed",
        /// The leader exited with another code or was ended by a signal, or the run could not be started.
        Failed = "failed",
        /// Ended after a stop was requested, whatever the exit.
        Stopped = "stopped",
        /// How it ended cannot be known.
        Lost = "lost",
    }
}

impl RunStatus {
    /// Returns whether the run has not ended, according to this status.
    pub const fn is_live(self) -> bool {
        match self {
            Self::Starting | Self::Running | Self::Paused => true,
            Self::Completed | Self::Failed | Self::Stopped | Self::Lost => false,
        }
    }
}
