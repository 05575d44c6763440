//! The limits on ended runs and their logs, and the size of a log segment that follows from them.

use std::path::Path;
use std::time::Duration;

use super::disk::Disk;

/// The smallest segment size on a small disk, in bytes.
const SEGMENT_BYTES_MIN: u64 = 1024 * 1024;

/// The limits on ended runs and their logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The room for the logs of all runs, in bytes. Beyond it the oldest segments are removed.
    pub log_bytes: u64,
    /// The number of runs that are kept. The latest run is always kept.
    pub runs: usize,
    /// How long runs are kept after their end; `None` means for ever.
    pub ended_for: Option<Duration>,
    /// The space on the disk that is kept free by removing the oldest segments, in bytes. `None` means a share of the disk, and 0
    /// means no limit.
    pub disk_free_bytes: Option<u64>,
    /// The size at which a segment is closed, in bytes.
    pub segment_bytes: u64,
}

/// Returns the size at which a segment is closed: the configured size, or less on a small disk. Retention learns of a flood of
/// output only when a segment is full, and must act before the disk is full.
pub fn segment_bytes_on(dir: &Path, configured: u64, disk_free_bytes: Option<u64>) -> u64 {
    match Disk::of(dir) {
        Ok(disk) if disk_free_bytes != Some(0) => configured.min((disk.free_share(disk_free_bytes) / 4).max(SEGMENT_BYTES_MIN)),
        Ok(_) | Err(_) => configured,
    }
}
