//! Checks that no other user can have changed a runtime directory that a server or a client of this user reads.
//!
//! Level 1. The tokens, the socket, the address of the server and the runs' records all come from this directory, so anyone who
//! can change it can act as the user who serves from it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::absent::if_there;
use crate::user;

const WRITABLE_BY_OTHERS: u32 = 0o002;
const WRITABLE_BY_GROUP: u32 = 0o020;
const STICKY: u32 = 0o1000;
/// The number of links that the kernel follows on the way to a file (`path_resolution(7)`).
const LINKS_MAX: usize = 40;

/// Why a runtime directory is not used. Completes an error message after the directory's path and a colon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// The directory's owner is another user, who can replace every file in it.
    #[error("it belongs to another user (uid {owner}), who could put anything into it")]
    Owner {
        /// The owner.
        owner: u32,
    },
    /// The owner of a parent directory is another user, who can replace the directory.
    #[error("{} above it belongs to another user (uid {owner}), who could put another directory in its place", path.display())]
    OwnerAbove {
        /// The parent directory.
        path: PathBuf,
        /// The owner of the parent directory.
        owner: u32,
    },
    /// A link on the way to the directory belongs to another user, who can make it lead elsewhere at any time.
    #[error("the link {} belongs to another user (uid {owner}), who could make it lead elsewhere", path.display())]
    LinkOwner {
        /// The link.
        path: PathBuf,
        /// The owner of the link.
        owner: u32,
    },
    /// Other users can create files in the directory, or replace it.
    #[error("{by} can write to {} (mode {mode:03o}); `chmod {change} {}` prevents that", path.display(), path.display())]
    Writable {
        /// The directory or one of its parents.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Who can write to it.
        by: &'static str,
        /// The mode change for `chmod`.
        change: &'static str,
    },
    /// The path contains a link, and the server was not started with this path. Projects can contain links to other users'
    /// directories.
    #[error(
        "it is a link to {}, and the server there was not started with this path; if you trust the link, set AUTOAPPDEV_RUNTIME_DIR to {}",
        target.display(),
        target.display()
    )]
    Link {
        /// The target of the link.
        target: PathBuf,
    },
}

impl Distrust {
    /// Returns the reason in an error of [`super::ServerInfo::find`].
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<Distrust> for io::Error {
    fn from(distrust: Distrust) -> Self {
        Self::other(distrust)
    }
}

/// Checks that a server of this user can use the directory. Root has no exception: the directory's owner would decide what root
/// runs.
pub fn check_for_server(runtime_dir: &Path) -> io::Result<()> {
    check(runtime_dir, |owner| owner == user::own())
}

/// Checks that no link on the way to `path`, which need not exist, belongs to another user. Links of this user and of root count as
/// their decision.
pub fn check_links(path: &Path) -> io::Result<()> {
    let mut real = PathBuf::new();
    let mut left: VecDeque<OsString> = path.components().map(|part| part.as_os_str().to_owned()).collect();
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        // An absolute target replaces the path, and `..` leaves the directory that the links have led to.
        if part == ".." {
            real.pop();
            continue;
        }
        real.push(part);
        let Some(found) = if_there(fs::symlink_metadata(&real))? else { return Ok(()) };
        if !found.is_symlink() {
            continue;
        }
        let owner = found.uid();
        if !user::is_own_or_root(owner) && user::has_number(owner) {
            return Err(Distrust::LinkOwner { path: real, owner }.into());
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(rustix::io::Errno::LOOP.into());
        }
        let target = fs::read_link(&real)?;
        real.pop();
        for part in target.components().rev() {
            left.push_front(part.as_os_str().to_owned());
        }
    }
    Ok(())
}

/// Checks that a client of this user can trust what it reads there. Root may contact every user's server, but sends its own
/// tokens to none of them.
pub(super) fn check_for_client(runtime_dir: &Path) -> io::Result<()> {
    check(runtime_dir, |owner| user::own() == 0 || user::is_own_or_root(owner))
}

/// True if the directory belongs to this user or root, so that its server may receive this user's tokens.
pub fn is_own(runtime_dir: &Path) -> bool {
    fs::metadata(runtime_dir).is_ok_and(|found| user::is_own_or_root(found.uid()))
}

fn check(runtime_dir: &Path, is_right_owner: impl Fn(u32) -> bool) -> io::Result<()> {
    let real = runtime_dir.canonicalize()?;
    let found = fs::metadata(&real)?;
    if !is_right_owner(found.uid()) {
        return Err(Distrust::Owner { owner: found.uid() }.into());
    }
    let is_bad = |mode: u32, bits: u32| mode & bits != 0;
    if is_bad(found.mode(), WRITABLE_BY_GROUP | WRITABLE_BY_OTHERS) {
        let by = if is_bad(found.mode(), WRITABLE_BY_OTHERS) { "every user" } else { "its group" };
        return Err(Distrust::Writable { path: real, mode: found.mode() & 0o7777, by, change: "go-w" }.into());
    }
    for above in real.ancestors().skip(1) {
        let found = fs::metadata(above)?;
        let (mode, owner) = (found.mode(), found.uid());
        // A user outside of this user namespace has no number here. Above a container's directories that is the machine's root.
        if owner != 0 && user::has_number(owner) && !is_right_owner(owner) {
            return Err(Distrust::OwnerAbove { path: above.to_owned(), owner }.into());
        }
        // In a sticky directory only a file's owner can rename it. Group permissions are not checked: many users' home
        // directories are writable by a group of which they are the only member.
        if is_bad(mode, WRITABLE_BY_OTHERS) && !is_bad(mode, STICKY) {
            let path = above.to_owned();
            return Err(Distrust::Writable { path, mode: mode & 0o7777, by: "every user", change: "o-w" }.into());
        }
    }
    Ok(())
}

/// Returns the resolved path if any component of `path` is a link.
pub fn target_of_link(path: &Path) -> io::Result<Option<PathBuf>> {
    let is_link = path.ancestors().any(|part| fs::symlink_metadata(part).is_ok_and(|found| found.is_symlink()));
    is_link.then(|| path.canonicalize()).transpose()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    }

    fn distrust(checked: io::Result<()>) -> Option<Distrust> {
        checked.err().map(|error| Distrust::of(&error).expect("a reason").clone())
    }

    #[test]
    fn directory_that_others_can_change_is_not_trusted() {
        let above = tempfile::tempdir().expect("a temp folder");
        let dir = above.path().canonicalize().expect("there").join("runtime");
        fs::create_dir(&dir).expect("creates");
        for (mode, by) in
            [(0o700, None), (0o755, None), (0o770, Some("its group")), (0o702, Some("every user")), (0o1777, Some("every user"))]
        {
            set_mode(&dir, mode);
            let change = "go-w";
            let expected = by.map(|by| Distrust::Writable { path: dir.clone(), mode, by, change });
            assert_eq!(distrust(check_for_server(&dir)), expected, "{mode:o}");
            assert_eq!(distrust(check_for_client(&dir)), expected, "{mode:o}");
        }
        set_mode(&dir, 0o700);
        for (mode, is_trusted) in [(0o777, false), (0o1777, true), (0o775, true), (0o703, false)] {
            set_mode(above.path(), mode);
            assert_eq!(distrust(check_for_server(&dir)).is_none(), is_trusted, "{mode:o}");
            assert_eq!(distrust(check_for_client(&dir)).is_none(), is_trusted, "{mode:o}");
        }
    }

    #[test]
    fn link_is_seen_wherever_it_is_in_the_path() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let dir = dir.path().canonicalize().expect("there");
        fs::create_dir_all(dir.join("a/b")).expect("creates");
        symlink(dir.join("a"), dir.join("link")).expect("links");
        assert_eq!(target_of_link(&dir.join("a/b")).expect("there"), None);
        assert_eq!(target_of_link(&dir.join("a/../a/b")).expect("there"), None);
        for path in ["link/b", "link/../link/b"] {
            let target = target_of_link(&dir.join(path)).expect("there").expect("a link");
            assert!(target.ends_with("b"), "{path}");
        }
    }
}
