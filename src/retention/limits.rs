//! What is kept of runs that have ended, and how large a segment of the log may become for that.

use std::path::Path;
use std::time::Duration;

use super::disk::Disk;

/// The smallest segment on a small disk.
const SEGMENT_BYTES_MIN: u64 = 1024 * 1024;

/// What is kept of runs that have ended, and of their logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The room for the logs of all runs, in bytes; beyond it the oldest segments go.
    pub log_bytes: u64,
    /// How many runs are kept, the latest one in any case.
    pub runs: usize,
    /// For how long after their end they are kept; none: for ever.
    pub ended_for: Option<Duration>,
    /// How much of the disk is kept free by removing the oldest segments, in bytes; none: a share of it; 0: no limit.
    pub disk_free_bytes: Option<u64>,
    /// The size at which a segment is closed.
    pub segment_bytes: u64,
}

/// The size at which a segment is closed: the configured size, or less on a small disk. Retention learns of a flood when a segment is full, and
/// must act before the disk is full.
pub fn segment_bytes_on(dir: &Path, configured: u64, disk_free_bytes: Option<u64>) -> u64 {
    match Disk::of(dir) {
        Ok(disk) if disk_free_bytes != Some(0) => configured.min((disk.free_share(disk_free_bytes) / 4).max(SEGMENT_BYTES_MIN)),
        Ok(_) | Err(_) => configured,
    }
}
