//! A directory that is held open, and reached through its descriptor even if it was moved and another directory now has its path; and
//! whether a path is the directory that it seems to be, and no other user's.
//!
//! Level 0.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::user;

/// Where the kernel shows this process's descriptors, each as a link.
const DESCRIPTORS: &str = "/proc/self/fd";

/// The open directory.
#[derive(Debug)]
pub struct HeldDir {
    path: PathBuf,
    dir: OwnedFd,
}

impl HeldDir {
    /// Opens the directory that `path` leads to now.
    pub fn open(path: &Path) -> io::Result<Self> {
        let dir = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { path: Path::new(DESCRIPTORS).join(dir.as_raw_fd().to_string()), dir })
    }

    /// A path of this process that leads to it. Nothing can be created in a removed directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for HeldDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// True if a directory, or the one that it is in, is a symbolic link, unless that is the link of a descriptor, or belongs to another
/// user. An error counts as false: opening the directory reports it.
pub fn is_foreign(dir: &Path) -> bool {
    let is_foreign =
        |dir: &Path| dir.symlink_metadata().is_ok_and(|found| found.is_symlink() || !user::is_trusted_owner(found.uid(), dir));
    [Some(dir), dir.parent()].into_iter().flatten().any(|dir| !dir.starts_with(DESCRIPTORS) && is_foreign(dir))
}

/// True if there is a symbolic link with this name.
pub fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_symlink())
}

#[cfg(test)]
mod tests {
    use std::fs;

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
        fs::remove_dir_all(&aside).expect("removes");
        fs::write(held.path().join("note"), "text").expect_err("it was removed");
    }
}
