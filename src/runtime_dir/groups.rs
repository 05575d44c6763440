//! Groups by their numbers: which of them have no other user as a member, and which of them the user trusts.
//!
//! Level 1. Many systems give each user a group of the same name, and let that group write to every file that the user creates
//! (umask 002). So a directory that a group can write to is not refused if this user is the group's only member. The members
//! come from `/etc/group` and `/etc/passwd`. If these files do not determine the members, the group counts as one with other
//! members.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::OnceLock;

use rustix::io::Errno;

use crate::user;

/// The maximum size of a file, in bytes. Larger files are not read.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The size of an access control list that only repeats the mode, in bytes: a header of 4 bytes, and 8 each for owner, group
/// and others (`linux/posix_acl_xattr.h`).
const PLAIN_ACL_BYTES: usize = 4 + 3 * 8;

static TRUSTED: OnceLock<Vec<u32>> = OnceLock::new();

/// Sets the groups that the user trusts. Called once, before the first directory is checked.
pub fn trust_groups(gids: Vec<u32>) {
    // A second call is possible only in tests.
    let _first_one_counts = TRUSTED.set(gids);
}

fn trusted() -> &'static [u32] {
    TRUSTED.get().map_or(&[], Vec::as_slice)
}

/// Returns the number of a group in `/etc/group`.
pub fn group_number(name: &str) -> Option<u32> {
    let text = read("/etc/group")?;
    let found = entries(&text)?.into_iter().find(|[entry, ..]: &[&str; 4]| *entry == name);
    found.and_then(|[_, _, gid, _]| gid.parse().ok())
}

/// Returns the group as an error message names it before "can write to".
pub(super) fn shown(gid: u32) -> String {
    if !user::group_has_number(gid) {
        return format!("every group without a number in this user namespace (gid {gid})");
    }
    let text = read("/etc/group");
    let entries: Option<Vec<[&str; 4]>> = text.as_deref().and_then(entries);
    let found = entries.into_iter().flatten().find(|[_, _, number, _]| number.parse() == Ok(gid));
    found.map_or_else(|| format!("group {gid}"), |[name, ..]| format!("group {name} (gid {gid})"))
}

/// Returns the advice to trust the group, as an error message appends it. A number that stands for several groups gets no
/// advice, because their members cannot be known.
pub(super) fn advice(gid: u32) -> String {
    if !user::group_has_number(gid) {
        return String::new();
    }
    let gids: Vec<_> = trusted().iter().chain([&gid]).map(u32::to_string).collect();
    format!(
        "; if you trust every member of the group, set AUTOAPPDEV_TRUSTED_GROUPS={} in the environment of the server and of client commands",
        gids.join(",")
    )
}

/// Checks whether the user trusts the group, or each of its members is one of these users.
pub(super) fn is_harmless(gid: u32, is_trusted_user: impl Fn(u32) -> bool) -> bool {
    if !user::group_has_number(gid) {
        return false;
    }
    let has_only_these = || {
        let [map, groups, users] = ["/proc/self/gid_map", "/etc/group", "/etc/passwd"].map(read);
        is_delegated(gid, &map?).then(|| has_only(gid, is_trusted_user, &groups?, &users?))?
    };
    trusted().contains(&gid) || has_only_these() == Some(true)
}

/// Checks that the user namespace does not map the group alone.
///
/// A group that is mapped alone is one of the users outside, whose members the `/etc/group` of a container does not show. A
/// longer range was set aside for the namespace. The initial namespace has one range with all groups.
fn is_delegated(gid: u32, map: &str) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect();
        matches!(numbers[..], [first, _, count] if count > 1 && (first..first + count).contains(&u64::from(gid)))
    })
}

/// Checks whether the group is known and each member of it is one of these users. Returns `None` if the files do not determine
/// that.
fn has_only(gid: u32, is_trusted_user: impl Fn(u32) -> bool, groups: &str, users: &str) -> Option<bool> {
    let users = entries::<7>(users)?.into_iter().map(|[name, _, uid, primary, ..]| {
        let (uid, primary): (u32, u32) = (uid.parse().ok()?, primary.parse().ok()?);
        Some((name, uid, primary))
    });
    let users: Vec<_> = users.collect::<Option<_>>()?;
    let groups = entries::<4>(groups)?.into_iter().map(|[_, _, number, members]| Some((number.parse().ok()?, members)));
    let groups: Vec<(u32, &str)> = groups.collect::<Option<_>>()?;
    let listed: Vec<&str> = groups.into_iter().filter(|&(number, _)| number == gid).map(|(_, members)| members).collect();
    let mut primary = users.iter().filter(|&&(_, _, primary)| primary == gid).map(|&(_, uid, _)| uid).peekable();
    let is_known = !listed.is_empty() || primary.peek().is_some();
    let mut members = listed.iter().flat_map(|members| members.split(',')).map(str::trim).filter(|name| !name.is_empty());
    let is_trusted_name = |name: &str| {
        let mut uids = users.iter().filter(|(user, ..)| *user == name).map(|&(_, uid, _)| uid).peekable();
        uids.peek().is_some() && uids.all(&is_trusted_user)
    };
    Some(is_known && primary.all(&is_trusted_user) && members.all(is_trusted_name))
}

/// Returns the fields of each line (`group(5)`, `passwd(5)`), or `None` if a line has another form. Lines that begin with `+`
/// or `-` refer to lists elsewhere, so they count as another form.
fn entries<const FIELDS: usize>(text: &str) -> Option<Vec<[&str; FIELDS]>> {
    let lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split(':').collect::<Vec<_>>().try_into().ok().filter(|_| !line.starts_with(['+', '-']))).collect()
}

/// Returns the text of one of the system's files, or `None` if it cannot be read or is too long.
fn read(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= FILE_BYTES_MAX).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// Checks whether the directory has an access control list with more than the mode's entries. The group's bits of the mode are
/// then the upper limit of what the list permits to groups and further users (`acl(5)`).
pub(super) fn has_access_list(dir: &Path) -> io::Result<bool> {
    match rustix::fs::lgetxattr(dir, "system.posix_acl_access", &mut [0; PLAIN_ACL_BYTES]) {
        Ok(_) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        // The list is longer.
        Err(Errno::RANGE) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nme:x:1000:1000::/home/me:/bin/sh\nyou:x:1001:1001:You,,,:/home/you:/bin/sh\n\
                         # a comment\n\nalias:x:1000:7::/:/bin/sh\ntwin:x:1000:1000::/:/bin/sh\ntwin:x:1001:8::/:/bin/sh\n";

    fn is_private(gid: u32, groups: &str, users: &str) -> Option<bool> {
        has_only(gid, |uid| [0, 1000].contains(&uid), groups, users)
    }

    #[test]
    fn group_is_private_if_no_other_user_is_its_member() {
        for (gid, groups, expected) in [
            (1000, "me:x:1000:\n", true),
            (1000, "me:x:1000:me,root , alias,\n", true),
            (1000, "me:x:1000:you\n", false),
            (1000, "me:x:1000:me\nadded:x:1000:you\n", false),
            (1000, "me:x:1000:stranger\n", false),
            (1000, "me:x:1000:twin\n", false),
            // Without a line in `/etc/group`, a group is the primary group of a user.
            (1000, "", true),
            (7, "", true),
            (1001, "", false),
            (1001, "you:x:1001:me\n", false),
            (50, "staff:x:50:\n", true),
            (50, "", false),
            (0, "root:x:0:\n", true),
            (0, "root:x:0:you\n", false),
        ] {
            assert_eq!(is_private(gid, groups, USERS), Some(expected), "{gid} {groups:?}");
        }
    }

    #[test]
    fn incomplete_user_or_group_lists_make_no_group_private() {
        let me = "me:x:1000:\n";
        assert_eq!(is_private(1000, me, USERS), Some(true));
        for more in ["+\n", "+:::\n", "-you:x:1000:\n", "short:x:5\n", "text:x:five:\n", "a:x:5:b:c\n", "empty:x::\n"] {
            assert_eq!(is_private(1000, &format!("{me}{more}"), USERS), None, "{more:?}");
        }
        for more in
            ["+\n", "+::::::\n", "+@team:x:5:5:::\n", "you:x:1001\n", "you:x:1001:::/:/bin/sh\n", "you:x:one:5::/:/bin/sh\n"]
        {
            assert_eq!(is_private(1000, me, &format!("{USERS}{more}")), None, "{more:?}");
        }
    }

    #[test]
    fn group_mapped_alone_into_a_namespace_is_not_delegated() {
        let initial = "         0          0 4294967295\n";
        let rootless = "0 1000 1\n1 100000 65536\n";
        for (map, gid, expected) in [
            (initial, 0, true),
            (initial, 65_534, true),
            (rootless, 0, false),
            (rootless, 1, true),
            (rootless, 65_536, true),
            (rootless, 65_537, false),
            ("", 0, false),
            ("0 0\n", 0, false),
        ] {
            assert_eq!(is_delegated(gid, map), expected, "{map} {gid}");
        }
    }
}
