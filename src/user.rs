//! Users by their numbers, as this process sees them.
//!
//! Level 0.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::LazyLock;

/// The user of this process. It is looked up once, because it never changes and no request should cost a system call for it.
pub fn own() -> u32 {
    static OWN: LazyLock<u32> = LazyLock::new(|| rustix::process::geteuid().as_raw());
    *OWN
}

/// True if a file of this owner can be trusted: the owner is this user or root, who could act as this user anyway.
pub fn is_own_or_root(uid: u32) -> bool {
    uid == 0 || uid == own()
}

/// True if this user can trust a file or directory at `path` that has this owner. Root may also read a directory of another user,
/// in which everything else must belong to that user too.
pub fn is_trusted_owner(uid: u32, path: &Path) -> bool {
    let is_owner_of_directory = || path.parent().and_then(|dir| fs::metadata(dir).ok()).is_some_and(|dir| dir.uid() == uid);
    is_own_or_root(uid) || own() == 0 && is_owner_of_directory()
}

/// True if this number stands for one user. In a user namespace, all users outside of it have the same number (`user_namespaces(7)`).
pub fn has_number(uid: u32) -> bool {
    static OVERFLOW: LazyLock<Option<u32>> = LazyLock::new(|| {
        // In the initial namespace, whose map is this single line, every user has a number.
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        if map.split_ascii_whitespace().eq(["0", "0", "4294967295"]) {
            return None;
        }
        let configured = fs::read_to_string("/proc/sys/kernel/overflowuid").ok().and_then(|text| text.trim().parse().ok());
        Some(configured.unwrap_or(65_534))
    });
    *OVERFLOW != Some(uid)
}
