//! The disk on which the logs are, and the share of it that is kept free.

use std::io;
use std::path::Path;

/// The default share of the disk that is kept free: a percentage, and its maximum in bytes.
const FREE_PERCENT: u64 = 15;
const FREE_BYTES_MAX: u64 = 4 << 30;

/// The newest segments are always kept up to this percentage of the disk, but no more than this many full segments. So other
/// files that fill the disk do not displace the whole log.
const KEPT_PERCENT: u64 = 5;
const KEPT_SEGMENTS: u64 = 4;

/// The space of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    /// The size of the disk, and the space that is free for this user, in bytes.
    pub(super) bytes: u64,
    pub(super) free_bytes: u64,
}

impl Disk {
    /// Returns the disk that a folder is on.
    pub(super) fn of(dir: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(dir)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Self { bytes: bytes(stat.f_blocks), free_bytes: bytes(stat.f_bavail) })
    }

    /// Returns the number of bytes to keep free. `wanted` is the setting.
    pub(super) fn free_share(self, wanted: Option<u64>) -> u64 {
        wanted.unwrap_or_else(|| (self.bytes / 100 * FREE_PERCENT).min(FREE_BYTES_MAX))
    }

    /// Returns how many bytes of the newest log are always kept.
    pub(super) fn kept_bytes(self, segment_bytes: u64) -> u64 {
        (self.bytes / 100 * KEPT_PERCENT).min(segment_bytes.saturating_mul(KEPT_SEGMENTS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn free_share_is_capped_and_can_be_set() {
        let share = |bytes, wanted| Disk { bytes, free_bytes: 0 }.free_share(wanted);
        assert_eq!(share(2000 * MIB, None), 300 * MIB);
        assert_eq!(share(1 << 40, None), 4 << 30);
        assert_eq!(share(1 << 40, Some(7)), 7);
    }
}
