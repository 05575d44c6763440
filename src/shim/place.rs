//! Where the run's files are: the directories that the shim was given and holds open, even if others now have their paths.
//!
//! The run directory is the working directory, so that every path of the run is relative to it; the runtime directory is reached through
//! its descriptor. A shim whose directory was removed enters a copy that was put in its place (`git stash -u` and `git stash pop`,
//! a backup that was copied back), and no other directory.
//!
//! If killed here: the copy has a journal of this run, completed or as it was copied, and a lock that no process holds.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::private::private_file;
use crate::run_dir::{RunDir, Runs, read_header};

/// The runtime directory, held open.
pub(super) struct Place {
    path: PathBuf,
    /// Keeps `path` good.
    _dir: OwnedFd,
}

impl Place {
    pub(super) fn open(runtime_dir: &Path) -> io::Result<Self> {
        let dir = open_dir(runtime_dir)?;
        Ok(Self { path: format!("/proc/self/fd/{}", dir.as_raw_fd()).into(), _dir: dir })
    }

    /// A path that leads to the open directory, even if it was moved. Nothing can be created in a removed directory.
    pub(super) fn runtime_dir(&self) -> &Path {
        &self.path
    }
}

/// Whether the working directory, the run's, was removed.
pub(super) fn is_removed() -> bool {
    let is_unlinked = fs::metadata(".").is_ok_and(|dir| dir.nlink() == 0);
    // Not every file system counts the links of a directory.
    is_unlinked || std::env::current_dir().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Enters the run directory at its path, if it is a copy of the removed one: its journal names this run's `socket`, which is
/// random. Its lock is taken, and replaces the previous one as standard output.
pub(super) fn enter_copy(runtime_dir: &Path, run_id: i64, socket: &str) -> io::Result<Place> {
    let run = Runs::new(runtime_dir.to_owned()).run(run_id);
    let dir = open_dir(run.path())?;
    // From here on through the descriptor: what is checked is what is entered.
    let there = RunDir::at(format!("/proc/self/fd/{}", dir.as_raw_fd()).into());
    let header = read_header(&there.journal_path()).map_err(io::Error::other)?;
    if header.run_id != run_id || header.socket.as_deref() != Some(socket) {
        return Err(io::Error::other("the directory at its path belongs to another run"));
    }
    let place = Place::open(runtime_dir)?;
    let lock: File = private_file().open(there.lock_path())?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    rustix::process::fchdir(dir.as_fd())?;
    rustix::stdio::dup2_stdout(&lock)?;
    Ok(place)
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}
