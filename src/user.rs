//! Users and groups by their ids, as this process sees them, and which users it trusts.
//!
//! Level 0. In a user namespace, all users outside it have the same id (`user_namespaces(7)`), which can also be the id of a
//! user in it. Such an id identifies no user, so files, directories and peers with this id are never trusted because of it. The
//! same holds for groups.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::LazyLock;

/// The kernel's default id for users outside a user namespace, and for groups outside it.
const OVERFLOW_ID: u32 = 65_534;

static USERS: LazyLock<Outside> = LazyLock::new(|| Outside::shown("/proc/self/uid_map", "/proc/sys/kernel/overflowuid"));
static GROUPS: LazyLock<Outside> = LazyLock::new(|| Outside::shown("/proc/self/gid_map", "/proc/sys/kernel/overflowgid"));

/// Returns the user of this process. It is read once, because it never changes and no request should cost a system call for it.
pub fn own() -> u32 {
    static OWN: LazyLock<u32> = LazyLock::new(|| rustix::process::geteuid().as_raw());
    *OWN
}

/// Returns whether this id is the user of this process, and only that user.
pub fn is_own(uid: u32) -> bool {
    uid == own() && has_number(uid)
}

/// Returns whether files of this owner can be trusted: the owner is this user or root, which could act as this user anyway.
pub fn is_own_or_root(uid: u32) -> bool {
    (uid == 0 || uid == own()) && has_number(uid)
}

/// Returns whether this user can read the directories of every user with this id. Root of a user namespace can do so only for
/// users that have an id in it.
pub fn is_readable_owner(uid: u32) -> bool {
    is_own_or_root(uid) || own() == 0 && has_number(uid)
}

/// Returns whether this user can trust a file or directory at `path` that has this owner. Root may also read a directory of
/// another user, in which everything else must belong to that user too.
pub fn is_trusted_owner(uid: u32, path: &Path) -> bool {
    let is_owner_of_directory = || path.parent().and_then(|dir| fs::metadata(dir).ok()).is_some_and(|dir| dir.uid() == uid);
    is_own_or_root(uid) || is_readable_owner(uid) && is_owner_of_directory()
}

/// Returns how an error message names another user, or root, after "belongs to".
pub fn another(uid: u32) -> String {
    if uid == 0 && has_number(uid) {
        "root (uid 0)".to_owned()
    } else if has_number(uid) {
        format!("another user (uid {uid})")
    } else {
        format!("an unknown user (uid {uid}, which stands for every user without an id in this user namespace)")
    }
}

/// The meaning of one id in this process's user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outside {
    /// There are no users outside: this is the initial namespace, and every user has an id.
    NoUsers,
    /// Users outside the namespace have this id.
    Have(u32),
    /// Users outside the namespace, if there are any, have this id. `/proc` does not show whether there are any.
    MayHave(u32),
}

impl Outside {
    /// Evaluates what `/proc` shows: the namespace's map, and the id that the kernel is configured to use.
    fn of(map: Option<&str>, configured: Option<&str>) -> Self {
        let number = configured.and_then(|text| text.trim().parse().ok()).unwrap_or(OVERFLOW_ID);
        match map {
            // The map of the initial namespace is this single line.
            Some(map) if map.split_ascii_whitespace().eq(["0", "0", "4294967295"]) => Self::NoUsers,
            Some(_) => Self::Have(number),
            None => Self::MayHave(number),
        }
    }

    fn shown(map: &str, configured: &str) -> Self {
        let read = |path| fs::read_to_string(path).ok();
        Self::of(read(map).as_deref(), read(configured).as_deref())
    }

    fn has_number(self, id: u32) -> bool {
        match self {
            Self::NoUsers => true,
            Self::Have(number) | Self::MayHave(number) => id != number,
        }
    }
}

/// Returns whether this id stands for one user.
pub fn has_number(uid: u32) -> bool {
    USERS.has_number(uid)
}

/// Returns whether this id stands for one group.
pub fn group_has_number(gid: u32) -> bool {
    GROUPS.has_number(gid)
}

/// Returns whether a directory with this owner can belong to the machine's root, whose directories are above those of every user
/// namespace. It can also belong to any other user outside the namespace.
pub fn may_be_root_outside(uid: u32) -> bool {
    *USERS == Outside::Have(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overflow_uid_is_not_taken_for_a_user() {
        let initial = "         0          0 4294967295\n";
        assert_eq!(Outside::of(Some(initial), Some("65534\n")), Outside::NoUsers);
        for map in ["", "0 1000 1\n", "65534 1000 1\n", "0 100000 65536\n", "0 0 65536\n"] {
            assert_eq!(Outside::of(Some(map), Some("65534\n")), Outside::Have(65_534), "{map}");
        }
        assert_eq!(Outside::of(Some(""), Some("99\n")), Outside::Have(99));
        assert_eq!(Outside::of(Some(""), None), Outside::Have(OVERFLOW_ID));
        // The id is neither trusted nor taken for root's.
        assert_eq!(Outside::of(None, None), Outside::MayHave(OVERFLOW_ID));
        for outside in [Outside::Have(65_534), Outside::MayHave(65_534)] {
            assert!(!outside.has_number(65_534) && outside.has_number(0) && outside.has_number(1000));
        }
        assert!(Outside::NoUsers.has_number(65_534));
    }
}
