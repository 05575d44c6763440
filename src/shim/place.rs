//! The places of the run's files: the directories that the shim was given and holds open, even if others now have their paths.
//!
//! The run directory is the working directory, so every path of the run is relative to it. The runtime directory is reached
//! through its descriptor. A shim whose directory was removed enters a copy that was put in its place (`git stash -u` and `git
//! stash pop`, or a restored backup), and no other directory.
//!
//! If killed here: the copy has a journal of this run, completed or as it was copied, and a lock that no process holds.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::FlockOperation;

use crate::held_dir::HeldDir;
use crate::private;
use crate::run_dir::{RunDir, Runs, read_header};

/// Returns whether the run directory, which is the working directory, was removed.
pub(super) fn is_removed() -> bool {
    let is_unlinked = fs::metadata(".").is_ok_and(|dir| dir.nlink() == 0);
    // Not every file system counts the links of a directory.
    is_unlinked || std::env::current_dir().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Enters the run directory at its path, if it is a copy of the removed one: its journal names this run's `socket`, which is
/// random. Takes its lock, which replaces the previous one as standard output.
pub(super) fn enter_copy(runtime_dir: &Path, run_id: i64, socket: &str) -> io::Result<HeldDir> {
    let run = Runs::new(runtime_dir.to_owned()).run(run_id);
    let dir = HeldDir::open(run.path())?;
    // From here on the descriptor is used, so that the directory that is checked is the one that is entered.
    let there = RunDir::at(dir.path().to_owned());
    let header = read_header(&there.journal_path()).map_err(io::Error::other)?;
    if header.run_id != run_id || header.socket.as_deref() != Some(socket) {
        return Err(io::Error::other("the directory at the run's path belongs to another run"));
    }
    let place = HeldDir::open(runtime_dir)?;
    let lock: File = private::writable(&there.lock_path())?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    rustix::process::fchdir(dir.as_fd())?;
    rustix::stdio::dup2_stdout(&lock)?;
    Ok(place)
}
