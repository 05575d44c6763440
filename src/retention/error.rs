//! The errors of a pass.

use std::io;

use crate::store::StoreError;

/// Why a pass failed. Each sentence fits after "failed to".
#[derive(Debug, thiserror::Error)]
pub(super) enum RetentionError {
    /// The database could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The runtime directory is no longer at its path.
    #[error("remove old runs: {0}")]
    Replaced(io::Error),
    /// The directories of the runs could not be read.
    #[error("read the run directories: {0}")]
    Runs(#[from] io::Error),
}
