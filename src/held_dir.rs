//! Directories that are held open. They are reached through their descriptors, even if they were moved and other directories now
//! have their paths. Also checks whether a path is a real directory that belongs to no other user.
//!
//! Level 0.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::user;

/// The directory in which the kernel shows this process's descriptors, each as a link.
const DESCRIPTORS: &str = "/proc/self/fd";

/// An open directory.
#[derive(Debug)]
pub struct HeldDir {
    path: PathBuf,
    dir: OwnedFd,
}

impl HeldDir {
    /// Opens the directory that `path` leads to now.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::of(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Opens the directory at `real`, an absolute path without links. If a link has replaced a part of the path since, it is not
    /// followed, and the error is [`io::ErrorKind::NotADirectory`].
    pub fn open_real(real: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut dir = rustix::fs::open("/", flags, Mode::empty())?;
        for part in real.components().filter(|part| *part != Component::RootDir) {
            dir = rustix::fs::openat(&dir, part.as_os_str(), flags, Mode::empty())?;
        }
        Ok(Self::of(dir))
    }

    /// Holds a directory that is already open.
    pub fn of(dir: OwnedFd) -> Self {
        Self { path: Path::new(DESCRIPTORS).join(dir.as_raw_fd().to_string()), dir }
    }

    /// Returns a path that leads to it in this process. Nothing can be created in a removed directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns an error if `path` is no longer this directory: it was moved, and a link or another directory may have its path.
    pub fn check_is_at(&self, path: &Path) -> io::Result<()> {
        let id = |found: fs::Metadata| (found.dev(), found.ino());
        if id(fs::metadata(&self.path)?) == fs::symlink_metadata(path).map(id).unwrap_or_default() {
            return Ok(());
        }
        let path = path.display();
        Err(io::Error::other(format!(
            "the directory {path} was removed or replaced while the server was using it; put it back, or stop the pipeline and \
                restart the server"
        )))
    }
}

impl AsFd for HeldDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Returns whether a directory, or its parent, is a symbolic link or belongs to another user. The link of a descriptor does not
/// count. False on an error, because opening the directory reports it.
pub fn is_foreign(dir: &Path) -> bool {
    let descriptors = Path::new(DESCRIPTORS);
    let is_descriptor = |dir: &Path| dir == descriptors || dir.parent() == Some(descriptors);
    let is_foreign =
        |dir: &Path| dir.symlink_metadata().is_ok_and(|found| found.is_symlink() || !user::is_trusted_owner(found.uid(), dir));
    // The parent first: if it is a link, the check of `dir` would follow it.
    [dir.parent(), Some(dir)].into_iter().flatten().any(|dir| !is_descriptor(dir) && is_foreign(dir))
}

/// Returns whether there is an entry with this name. Unlike `Path::exists`, it does not follow a link: a clone can contain one
/// that leads to a file system that never answers.
pub fn has_entry(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Returns whether there is a symbolic link with this name.
pub fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_symlink())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn held_directory_is_written_to_wherever_it_was_moved() {
        let folder = tempfile::tempdir().expect("a temp folder");
        let [dir, aside] = ["dir", "aside"].map(|name| folder.path().join(name));
        fs::create_dir(&dir).expect("creates");
        let held = HeldDir::open(&dir).expect("opens");
        fs::rename(&dir, &aside).expect("moves");
        fs::create_dir(&dir).expect("creates");
        fs::write(held.path().join("note"), "text").expect("writes");
        assert!(aside.join("note").exists() && !dir.join("note").exists());
        held.check_is_at(&aside).expect("it is there");
        assert!(held.check_is_at(&dir).expect_err("another one").to_string().contains("was removed or replaced"));
        fs::remove_dir(&dir).and_then(|()| symlink(&aside, &dir)).expect("links");
        held.check_is_at(&dir).expect_err("a link");
        fs::remove_dir_all(&aside).expect("removes");
        fs::write(held.path().join("note"), "text").expect_err("it was removed");
        held.check_is_at(&dir).expect_err("it was removed");
    }

    #[test]
    fn link_that_has_replaced_a_part_of_a_path_is_not_followed() {
        let folder = tempfile::tempdir().expect("a temp folder");
        let real = folder.path().canonicalize().expect("there");
        fs::create_dir_all(real.join("a/b")).expect("creates");
        HeldDir::open_real(&real.join("a/b")).expect("no link").check_is_at(&real.join("a/b")).expect("it is there");
        for (from, to, link) in [("a/b", "a/c", "c"), ("a", "d", "d")] {
            fs::rename(real.join(from), real.join(to)).and_then(|()| symlink(link, real.join(from))).expect("exchanges");
            let error = HeldDir::open_real(&real.join("a/b")).expect_err("a link");
            assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        }
    }

    #[test]
    fn link_in_a_held_directory_is_foreign_and_the_held_directory_is_not() {
        let folder = tempfile::tempdir().expect("a temp folder");
        fs::create_dir_all(folder.path().join("runs/1")).expect("creates");
        symlink("runs", folder.path().join("link")).expect("links");
        let held = HeldDir::open(folder.path()).expect("opens");
        for (path, foreign) in [("runs", false), ("runs/1", false), ("link", true), ("link/1", true)] {
            assert_eq!(is_foreign(&held.path().join(path)), foreign, "{path}");
        }
        assert!(!is_foreign(held.path()));
    }
}
