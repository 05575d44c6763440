//! Detects whether another process locks readers of the database out, by locks on the index of its write-ahead log.
//!
//! `SQLite` tries for ten seconds to get past such a lock, whatever timeout a connection sets, and would block the supervisor's
//! thread meanwhile. The bytes are those of <https://www.sqlite.org/walformat.html#locks>.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::open::beside;
use crate::private;

/// The read locks that are available whatever the log contains. A reader needs the one whose mark is current, and this program does
/// not read the marks, so each lock counts. A process that moves a mark or resets the log takes them for a moment.
const READ_LOCKS: Range<libc::off_t> = 124..128;

/// How often a lock must be seen taken, with a pause after each check, before readers count as locked out.
const LOOKS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(2);

/// The index file, kept open as long as the database: closing any descriptor of it would drop all locks that `SQLite` holds on it
/// for this process (<https://www.sqlite.org/howtocorrupt.html>, 2.2).
#[derive(Debug)]
pub(super) struct Index(Option<File>);

impl Index {
    /// Opens the index of the database at `path`, which is open. Without an index, no process can lock readers out.
    pub(super) fn of(path: &Path) -> Self {
        Self(private::open(&beside(path, "-shm")).ok())
    }

    /// Returns an empty value, for a database in memory.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Checks whether another process locks readers out.
    pub(super) fn keeps_readers_out(&self) -> bool {
        let Some(index) = &self.0 else { return false };
        for _ in 0..LOOKS {
            if !is_any_locked(index, &READ_LOCKS) {
                return false;
            }
            thread::sleep(PAUSE);
        }
        true
    }
}

/// Checks whether one of these bytes has a lock that excludes readers.
fn is_any_locked(index: &File, bytes: &Range<libc::off_t>) -> bool {
    let kind = |kind: libc::c_int| libc::c_short::try_from(kind).expect("small");
    let (l_start, l_len) = (bytes.start, bytes.end - bytes.start);
    let mut lock = libc::flock { l_type: kind(libc::F_RDLCK), l_whence: kind(libc::SEEK_SET), l_start, l_len, l_pid: 0 };
    fcntl(index, FcntlArg::F_OFD_GETLK(&mut lock)).is_ok() && lock.l_type != kind(libc::F_UNLCK)
}
