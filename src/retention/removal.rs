//! Removal of a directory and everything in it, however deeply it is nested.
//!
//! `std::fs::remove_dir_all` holds each level open and calls itself for the next one, so a few thousand levels use up the
//! descriptors or the thread's stack. Instead, this module first moves each nested directory that is not empty into the directory
//! that is being removed. That takes six descriptors at most, and no path becomes too long. Links are removed, never followed.
//!
//! On an overlay file system, directories of a lower layer cannot be moved (`EXDEV`). They are removed where they are, to a
//! limited depth.
//!
//! If killed here: the directory still exists with the rest of its contents, and the next call removes it.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, chmod, fstat, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::user;

/// How deeply directories that cannot be moved may be nested. Each level takes a descriptor.
const UNMOVABLE_LEVELS_MAX: u32 = 64;

/// Removes the directory, file or link at `path`. Returns whether that was finished before `goes_on` became false.
pub(super) fn remove(path: &Path, goes_on: impl Fn() -> bool) -> io::Result<bool> {
    // First, because the kernel refuses to remove a mount point, and a file system that is mounted there does not belong to the
    // run.
    if is_unlinked(CWD, path)? {
        return Ok(true);
    }
    let top = open(CWD, path)?;
    let mut moved = 0_u64;
    loop {
        let mut has_left = false;
        for entry in Dir::read_from(&top)? {
            let entry = entry?;
            let name = entry.file_name();
            if !goes_on() {
                return Ok(false);
            }
            if is_removed(top.as_fd(), name)? {
                continue;
            }
            let dir = open(top.as_fd(), name)?;
            for entry in Dir::read_from(&dir)? {
                let entry = entry?;
                if !goes_on() {
                    return Ok(false);
                }
                if is_removed(dir.as_fd(), entry.file_name())? {
                    continue;
                }
                match move_up(dir.as_fd(), entry.file_name(), top.as_fd(), &mut moved) {
                    Err(Errno::XDEV) => {
                        if !remove_in_place(dir.as_fd(), entry.file_name(), UNMOVABLE_LEVELS_MAX, &goes_on)? {
                            return Ok(false);
                        }
                    }
                    moved => moved?,
                }
            }
            unlinkat(&top, name, AtFlags::REMOVEDIR)?;
            // The scan may already have passed the new place of a moved directory, so the directory is scanned again.
            has_left = true;
        }
        if !has_left {
            break;
        }
    }
    unlinkat(CWD, path, AtFlags::REMOVEDIR)?;
    Ok(true)
}

/// Opens a directory. If this user owns it and its mode denies the owner access, the owner gets all permissions first.
fn open<P: rustix::path::Arg + Copy>(dir: BorrowedFd<'_>, name: P) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = openat(dir, name, flags | OFlags::PATH, Mode::empty())?;
    let about = fstat(&found)?;
    let mode = Mode::from_raw_mode(about.st_mode);
    if user::is_own(about.st_uid) && !mode.contains(Mode::RWXU) {
        // By the descriptor, because a link can have taken the name meanwhile. If this fails, the next call fails, too.
        let _shown_by_the_next = chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), mode | Mode::RWXU);
    }
    openat(&found, c".", flags, Mode::empty())
}

/// Removes a directory that cannot be moved and that has at most this many levels. Returns whether that was finished before
/// `goes_on` became false.
fn remove_in_place(dir: BorrowedFd<'_>, name: &CStr, levels: u32, goes_on: &impl Fn() -> bool) -> io::Result<bool> {
    let Some(levels) = levels.checked_sub(1) else {
        return Err(io::Error::other(
            "directories are nested too deeply on a file system that cannot move them; remove them by hand",
        ));
    };
    let inner = open(dir, name)?;
    for entry in Dir::read_from(&inner)? {
        let entry = entry?;
        if !goes_on() {
            return Ok(false);
        }
        if !is_removed(inner.as_fd(), entry.file_name())? && !remove_in_place(inner.as_fd(), entry.file_name(), levels, goes_on)?
        {
            return Ok(false);
        }
    }
    unlinkat(dir, name, AtFlags::REMOVEDIR)?;
    Ok(true)
}

/// Removes an entry. Returns false for a directory that is not empty.
fn is_removed(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    if [c".", c".."].contains(&name) { Ok(true) } else { is_unlinked(dir, name) }
}

/// Removes a file, a link or an empty directory. Returns false for a directory that is not empty.
fn is_unlinked<P: rustix::path::Arg + Copy>(dir: BorrowedFd<'_>, name: P) -> io::Result<bool> {
    let removed = match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => unlinkat(dir, name, AtFlags::REMOVEDIR),
        removed => removed,
    };
    match removed {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(Errno::BUSY) => Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "a file system is mounted at it or below it; unmount that file system",
        )),
        Err(error) => Err(error.into()),
    }
}

/// Moves a directory into `top`, under the first free name. `moved` is the number in the last name.
fn move_up(dir: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>, moved: &mut u64) -> Result<(), Errno> {
    let mut is_accessible = false;
    loop {
        *moved += 1;
        match renameat(dir, name, top, format!("removed-{moved}")) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            // A move changes a directory's entry for its parent, so its owner needs write permission.
            Err(Errno::ACCESS) if !is_accessible => {
                open(dir, name)?;
                is_accessible = true;
            }
            renamed => return renamed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::thread;

    use super::*;

    /// Nests directories, with a file and a link in each; `path` is the outermost one.
    fn nest(path: &Path, depth: usize, linked: &Path) {
        fs::create_dir(path).expect("creates");
        let mut dir = open(CWD, path).expect("opens");
        for level in 0..depth {
            // `move_up` uses these names, too.
            let name = format!("removed-{}", level % 7);
            rustix::fs::mkdirat(&dir, &name, Mode::RWXU).expect("creates");
            rustix::fs::symlinkat(linked, &dir, "link").expect("links");
            openat(&dir, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).expect("creates");
            dir = open(dir.as_fd(), &name).expect("opens");
        }
    }

    fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().expect("a temp folder");
        let kept = folder.path().join("kept");
        fs::create_dir(&kept).and_then(|()| fs::write(kept.join("photo.jpg"), "a photo")).expect("writes");
        let path = folder.path().join("1");
        (folder, path, kept.join("photo.jpg"))
    }

    #[test]
    fn deep_tree_is_removed_with_small_stack_ignoring_links() {
        let (_folder, path, photo) = place();
        let kept = photo.parent().expect("it has one");
        nest(&path, 4000, kept);
        for n in 0..20 {
            nest(&path.join(format!("removed-{}", 10 + n)), n, kept);
        }
        let removed = {
            let path = path.clone();
            thread::Builder::new().stack_size(128 * 1024).spawn(move || remove(&path, || true)).expect("spawns").join()
        };
        assert!(removed.expect("no panic").expect("removes"));
        assert!(!path.exists() && photo.exists());
    }

    /// Without capabilities, as in a server that is not root. A capability belongs to a thread.
    #[test]
    fn directories_without_owner_permissions_are_removed() {
        use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
        use std::os::unix::fs::PermissionsExt;

        let (_folder, path, photo) = place();
        for dir in ["a/b/c", "d/e"] {
            fs::create_dir_all(path.join(dir)).and_then(|()| fs::write(path.join(dir).join("file"), "")).expect("writes");
        }
        symlink(photo.parent().expect("it has one"), path.join("a/b/link")).expect("links");
        let kept = photo.parent().expect("it has one").to_owned();
        fs::set_permissions(&kept, fs::Permissions::from_mode(0o500)).expect("ours");
        for (dir, mode) in [("a/b/c", 0o000), ("a/b", 0o400), ("a", 0o500), ("d/e", 0o500), ("d", 0o000), ("", 0o500)] {
            fs::set_permissions(path.join(dir), fs::Permissions::from_mode(mode)).expect("ours");
        }
        let removed = {
            let path = path.clone();
            let without_privilege = move || {
                let mut sets = capabilities(None).expect("this thread's");
                sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
                set_capabilities(None, sets).expect("fewer");
                remove(&path, || true)
            };
            thread::spawn(without_privilege).join().expect("no panic")
        };
        assert!(removed.expect("removes") && !path.exists() && photo.exists());
        assert_eq!(fs::metadata(&kept).expect("there").permissions().mode() & 0o777, 0o500, "no link was followed");
    }

    #[test]
    fn link_or_file_instead_of_directory_is_removed() {
        let (_folder, path, photo) = place();
        assert!(remove(&path, || true).expect("nothing to remove"));
        symlink(photo.parent().expect("it has one"), &path).expect("links");
        assert!(remove(&path, || true).expect("removes") && !path.is_symlink());
        fs::write(&path, "").expect("writes");
        assert!(remove(&path, || true).expect("removes") && !path.exists());
        assert!(photo.exists());
    }

    #[test]
    fn removal_ends_early_and_is_completed_later() {
        let (_folder, path, photo) = place();
        nest(&path, 100, &photo);
        let left = Cell::new(50);
        let goes_on = || left.replace(left.get() - 1) > 0;
        assert!(!remove(&path, goes_on).expect("removes a part") && path.exists());
        assert!(remove(&path, || true).expect("removes the rest") && !path.exists());
    }
}
