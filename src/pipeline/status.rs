//! How a run stands, or how it ended, in one word.

use super::words::words;

words! {
    /// How a run stands, or how it ended.
    RunStatus {
        /// Committed, not yet seen to run.
        Starting = "starting",
        /// Seen to run.
        Running = "running",
        /// Seen to be paused.
        Paused = "paused",
        /// Ended by itself with exit code 0.
        Completed = "completed",
        /// Ended by itself with another code or by a signal, or never came to life.
        Failed = "failed",
        /// Ended because it was asked to, whatever the exit.
        Stopped = "stopped",
        /// How it ended cannot be known.
        Lost = "lost",
    }
}

impl RunStatus {
    /// Whether the run has not ended as far as this status tells.
    pub const fn is_live(self) -> bool {
        match self {
            Self::Starting | Self::Running | Self::Paused => true,
            Self::Completed | Self::Failed | Self::Stopped | Self::Lost => false,
        }
    }
}
