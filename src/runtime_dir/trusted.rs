//! Checks that no other user can have changed a runtime directory that a server or a client of this user reads, or can make a
//! path lead elsewhere.
//!
//! Level 1. The tokens, the socket, the address of the server and the runs' records all come from this directory, so anyone who
//! can change it can act as the user who serves from it.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::groups;
use crate::absent::if_there;
use crate::real_path::{self, Step, real_path};
use crate::shell_word::quoted_path;
use crate::user;

const WRITABLE_BY_OTHERS: u32 = 0o002;
const WRITABLE_BY_GROUP: u32 = 0o020;
const STICKY: u32 = 0o1000;

/// Why a runtime directory is not used. Completes an error message after the directory's path and a colon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// This process cannot distinguish its own files from those of users outside its user namespace.
    #[error(
        "this process runs as uid {own}, which also stands for every user without an id in its user namespace, so it cannot \
            tell its own \
         files from theirs; run it as a user that has a number of its own (/proc/self/uid_map)"
    )]
    NoNumber {
        /// The user of this process.
        own: u32,
    },
    /// The directory's owner is another user, who can replace every file in it.
    #[error("it belongs to {}, who could put anything into it", user::another(*owner))]
    Owner {
        /// The owner.
        owner: u32,
    },
    /// The owner of a parent directory is another user, who can replace the directory.
    #[error("{} above it belongs to {}, who could put another directory in its place", path.display(), user::another(*owner))]
    OwnerAbove {
        /// The parent directory.
        path: PathBuf,
        /// The owner of the parent directory.
        owner: u32,
    },
    /// A link on the way to the directory belongs to another user, who can make it lead elsewhere at any time.
    #[error("the link {} belongs to {}, who could make it lead elsewhere", path.display(), user::another(*owner))]
    LinkOwner {
        /// The link.
        path: PathBuf,
        /// The owner of the link.
        owner: u32,
    },
    /// Other users can create files in the directory, or replace it.
    #[error("{by} can write to {} (mode {mode:03o}); `chmod {change} {}` prevents that", path.display(), quoted_path(path))]
    Writable {
        /// The directory or one of its parents.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// The users who can write to it.
        by: &'static str,
        /// The mode change for `chmod`.
        change: &'static str,
    },
    /// The directory of the database is sticky: other users can create files in it.
    #[error("other users can create files in {}, where SQLite keeps files beside the database; use a folder that only this user can write to", path.display())]
    Shared {
        /// The directory.
        path: PathBuf,
    },
    /// A group with members other than this user can replace entries of a parent directory.
    #[error(
        "{} can write to {} (mode {mode:03o}), so its members could put another directory in its place; `chmod g-w {}` prevents that{}",
        groups::shown(*group), path.display(), quoted_path(path), groups::advice(*group)
    )]
    GroupAbove {
        /// The parent directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
        /// Its group.
        group: u32,
    },
    /// Neither the environment nor the command line names this place, and it is outside the folder.
    ///
    /// Links and the `.env` of a cloned project could lead to another project, and the limits of this folder would then apply
    /// to that project's history.
    #[error(
        "it leads to {}, and a project's .env and links are followed only inside its folder; if you trust this one, set {setting}{} in the \
         environment", target.display(), quoted_path(path)
    )]
    Outside {
        /// The path. For a link, the advice names this path instead of its target, because client commands find a server by the
        /// path that it was started with.
        path: PathBuf,
        /// The path without links.
        target: PathBuf,
        /// The variable, up to the path in its value.
        setting: &'static str,
    },
    /// A file belongs to another user, who can change it, or keep it locked.
    #[error("{} belongs to {}; remove it, or give it to this user with `chown`", path.display(), user::another(*owner))]
    FileOwner {
        /// The file.
        path: PathBuf,
        /// The owner of the file.
        owner: u32,
    },
    /// The path contains a link, and the server was not started with this path. Projects can contain links to other users'
    /// directories.
    #[error(
        "it is a link to {}, and the server there was not started with this path; if you trust the link, set AUTOAPPDEV_RUNTIME_DIR to {}",
        target.display(),
        quoted_path(target)
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

/// The process that uses a path. It determines which users may own the directories and links in that path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A program of this user that writes there. Root has no exception: the owner of a directory or link would decide where
    /// root writes.
    Server,
    /// A program of this user that reads there. Root may read every user's directory, but sends its own tokens to no other
    /// user's server.
    Client,
}

impl By {
    fn is_right_owner(self, owner: u32) -> bool {
        match self {
            Self::Server => user::is_own(owner),
            Self::Client => user::is_readable_owner(owner),
        }
    }

    /// Checks whether a user may own a directory or link in the path.
    ///
    /// In a user namespace, the machine's root, who owns the directories above a container's, and all other users outside it
    /// have the same number. In that case the place decides: in a directory that only its owner can write to, every entry comes
    /// from that owner, who was checked before.
    fn may_pass(self, path: &Path, owner: u32) -> io::Result<bool> {
        if user::is_own_or_root(owner) || self.is_right_owner(owner) {
            return Ok(true);
        }
        if !user::may_be_root_outside(owner) {
            return Ok(false);
        }
        let Some(parent) = path.parent() else { return Ok(true) };
        Ok(fs::symlink_metadata(parent)?.mode() & (WRITABLE_BY_GROUP | WRITABLE_BY_OTHERS) == 0)
    }
}

/// Returns `path` without links. The path does not have to exist.
///
/// Use only the result: each directory and link in the path is checked, from the root down, so no other user can make the
/// result lead elsewhere. A path that a file or a server names must go through this function before it is used in any other
/// way.
pub fn resolve(path: &Path, by: By) -> io::Result<PathBuf> {
    resolve_links(path, by).map(|(real, _)| real)
}

/// Like [`resolve`], but also returns whether the path contains a link. A second call could find another path.
pub(super) fn resolve_links(path: &Path, by: By) -> io::Result<(PathBuf, bool)> {
    if !user::has_number(user::own()) {
        return Err(Distrust::NoNumber { own: user::own() }.into());
    }
    let mut has_link = false;
    let real = real_path::follow(path, |step| match step {
        Step::Dir(dir) => check_above(dir, by),
        Step::Link(path, found) if !by.may_pass(path, found.uid())? => {
            Err(Distrust::LinkOwner { path: path.to_owned(), owner: found.uid() }.into())
        }
        Step::Link(..) => {
            has_link = true;
            Ok(())
        }
    })?;
    Ok((real, has_link))
}

/// Resolves the directory of a file. The file's own name is not checked, and is not followed.
pub fn resolve_parent(path: &Path, by: By) -> io::Result<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Err(io::ErrorKind::IsADirectory.into()) };
    Ok(resolve(dir, by)?.join(name))
}

/// Like [`resolve_new`], for a database. `SQLite` chooses names for files beside it, so no other user may create files there,
/// which a sticky directory permits.
pub(super) fn resolve_new_database(path: &Path, by: By) -> io::Result<PathBuf> {
    let real = resolve_new(path, by)?;
    let Some(dir) = real.parent() else { return Ok(real) };
    let found = fs::symlink_metadata(dir)?;
    let is_harmless = |gid| groups::is_harmless(gid, user::is_own_or_root);
    let is_groups = found.mode() & WRITABLE_BY_GROUP != 0 && !is_harmless(found.gid());
    if found.mode() & STICKY != 0 && (found.mode() & WRITABLE_BY_OTHERS != 0 || is_groups) {
        return Err(Distrust::Shared { path: dir.to_owned() }.into());
    }
    Ok(real)
}

/// Like [`resolve_parent`], for a file that is created there.
pub(super) fn resolve_new(path: &Path, by: By) -> io::Result<PathBuf> {
    let real = resolve_parent(path, by)?;
    real.parent().map_or(Ok(()), |dir| check_above(dir, by))?;
    Ok(real)
}

/// Checks that only its owner and trusted users can rename the entries of a directory in the path.
fn check_above(dir: &Path, by: By) -> io::Result<()> {
    let found = fs::symlink_metadata(dir)?;
    if !by.may_pass(dir, found.uid())? {
        return Err(Distrust::OwnerAbove { path: dir.to_owned(), owner: found.uid() }.into());
    }
    let (path, mode) = (dir.to_owned(), found.mode() & 0o7777);
    // In a sticky directory, only the owner of a file can rename it.
    if mode & STICKY != 0 {
        return Ok(());
    }
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(Distrust::Writable { path, mode, by: "every user", change: "o-w" }.into());
    }
    if mode & WRITABLE_BY_GROUP == 0 {
        return Ok(());
    }
    if groups::has_access_list(dir)? {
        return Err(Distrust::Writable { path, mode, by: "a user or group of its access control list", change: "g-w" }.into());
    }
    let is_trusted_user = |uid| user::is_own_or_root(uid) || uid == found.uid() && by.is_right_owner(uid);
    if groups::is_harmless(found.gid(), is_trusted_user) {
        return Ok(());
    }
    Err(Distrust::GroupAbove { path, mode, group: found.gid() }.into())
}

/// Checks that no other user can change a runtime directory, at the path that `resolve` returned.
pub fn check_dir(real: &Path, by: By) -> io::Result<()> {
    check_found(&fs::symlink_metadata(real)?, real, by)
}

/// Like [`check_dir`], for metadata that was read at that path.
pub(super) fn check_found(found: &Metadata, real: &Path, by: By) -> io::Result<()> {
    if !found.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    if !by.is_right_owner(found.uid()) {
        return Err(Distrust::Owner { owner: found.uid() }.into());
    }
    let mode = found.mode() & 0o7777;
    if mode & (WRITABLE_BY_GROUP | WRITABLE_BY_OTHERS) != 0 {
        let by = if mode & WRITABLE_BY_OTHERS != 0 { "every user" } else { "its group" };
        return Err(Distrust::Writable { path: real.to_owned(), mode, by, change: "go-w" }.into());
    }
    Ok(())
}

/// Creates a runtime directory at the path that `resolve` returned, and its missing parents, with mode 0700.
///
/// If another process creates one of them meanwhile, the error is [`io::ErrorKind::AlreadyExists`]. That entry can be a link,
/// so the caller must resolve the path again.
pub fn create_dir(real: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = real.ancestors().take_while(|dir| matches!(if_there(dir.symlink_metadata()), Ok(None))).collect();
    missing.iter().rev().try_for_each(|dir| DirBuilder::new().mode(0o700).create(dir))
}

/// Returns the resolved path if any component of `path` is a link.
pub fn target_of_link(path: &Path) -> io::Result<Option<PathBuf>> {
    let is_link = path.ancestors().any(|part| fs::symlink_metadata(part).is_ok_and(|found| found.is_symlink()));
    is_link.then(|| real_path(path)).transpose()
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
            for by in [By::Server, By::Client] {
                assert_eq!(distrust(check_dir(&dir, by)), expected, "{mode:o}");
            }
        }
        set_mode(&dir, 0o700);
        for (mode, is_trusted) in [(0o777, false), (0o1777, true), (0o1775, true), (0o755, true), (0o703, false)] {
            set_mode(above.path(), mode);
            for by in [By::Server, By::Client] {
                assert_eq!(distrust(resolve(&dir, by).map(drop)).is_none(), is_trusted, "{mode:o}");
            }
        }
    }

    #[test]
    fn path_is_resolved_as_the_kernel_resolves_it() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let dir = dir.path().canonicalize().expect("there");
        fs::create_dir_all(dir.join("a/b")).expect("creates");
        for (target, link) in [("a/b", "relative"), ("relative", "a/../second"), ("loop", "loop"), ("missing/x", "dangling")] {
            symlink(target, dir.join(link)).expect("links");
        }
        symlink(dir.join("a"), dir.join("absolute")).expect("links");
        let resolved = |path: &str| resolve(&dir.join(path), By::Server).map_err(|error| error.kind());
        for path in ["a/b", "relative", "second", "absolute/b", "second/../b", "absolute/../a/./b", "relative/../../absolute/b"] {
            assert_eq!(resolved(path), Ok(dir.join(path).canonicalize().expect("there")), "{path}");
        }
        // The rest of a path that does not exist is kept, because it cannot contain a link, unless `..` would have to leave it.
        assert_eq!(resolved("absolute/new/dir"), Ok(dir.join("a/new/dir")));
        assert_eq!(resolved("dangling"), Ok(dir.join("missing/x")));
        for path in ["new/../absolute", "dangling/../../relative"] {
            assert_eq!(resolved(path), Err(io::ErrorKind::NotFound), "{path}");
        }
        resolve(&dir.join("loop"), By::Server).expect_err("it never ends");
        create_dir(&dir.join("a/new/dir")).expect("creates");
        assert!(dir.join("a/new/dir").is_dir());
        create_dir(&dir.join("dangling")).expect("nothing is missing");
        assert!(!dir.join("missing").exists(), "no link is followed");
    }

    #[test]
    fn names_in_advised_commands_are_quoted() {
        let path = || PathBuf::from("/x; touch $(y)");
        let errors = [
            Distrust::Writable { path: path(), mode: 0o777, by: "its group", change: "go-w" },
            Distrust::GroupAbove { path: path(), mode: 0o775, group: 7 },
            Distrust::Outside { path: path(), target: "/y".into(), setting: "AUTOAPPDEV_RUNTIME_DIR=" },
            Distrust::Link { target: path() },
        ];
        for error in errors {
            assert!(error.to_string().contains("'/x; touch $(y)'"), "{error}");
        }
    }

    #[test]
    fn link_is_found_anywhere_in_the_path() {
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
