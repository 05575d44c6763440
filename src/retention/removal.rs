//! Removes a directory and everything in it, however deep it is.
//!
//! `std::fs::remove_dir_all` holds each level open and calls itself for the next one, so a few thousand levels use up the descriptors or
//! the thread's stack. Here a directory that is not empty is first moved up, into the directory that is being removed. That takes four
//! descriptors at most, and no path becomes too long. Links are removed, never followed.
//!
//! If killed here: the directory is still there, with the rest of its contents, and is removed by the next call.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Removes what is at `path`. Returns whether that was finished before `goes_on` became false.
pub(super) fn remove(path: &Path, goes_on: impl Fn() -> bool) -> io::Result<bool> {
    let top = match open(CWD, path) {
        Err(Errno::NOENT) => return Ok(true),
        // A file or a link.
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(unlinkat(CWD, path, AtFlags::empty()).map(|()| true)?),
        opened => opened?,
    };
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
                if !is_removed(dir.as_fd(), entry.file_name())? {
                    move_up(dir.as_fd(), entry.file_name(), top.as_fd(), &mut moved)?;
                }
            }
            unlinkat(&top, name, AtFlags::REMOVEDIR)?;
            // What was moved can be behind the point that this scan has reached.
            has_left = true;
        }
        if !has_left {
            break;
        }
    }
    unlinkat(CWD, path, AtFlags::REMOVEDIR)?;
    Ok(true)
}

fn open<P: rustix::path::Arg>(dir: BorrowedFd<'_>, name: P) -> Result<OwnedFd, Errno> {
    openat(dir, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Removes an entry, unless it is a directory that is not empty.
fn is_removed(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    if [c".", c".."].contains(&name) {
        return Ok(true);
    }
    let removed = match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => unlinkat(dir, name, AtFlags::REMOVEDIR),
        removed => removed,
    };
    match removed {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Moves a directory into `top`, to the first name that is free; `moved` is the number in the last one.
fn move_up(dir: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        match renameat(dir, name, top, format!("removed-{moved}")) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            renamed => return Ok(renamed?),
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
            // The names are those that `move_up` uses, too.
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
    fn directory_of_any_depth_is_removed_with_little_stack_and_no_link_is_followed() {
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

    #[test]
    fn link_file_or_nothing_in_place_of_the_directory_is_removed() {
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
