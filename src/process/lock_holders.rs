//! The processes that have locked a file (`flock(2)`), according to the kernel's table (`proc_locks(5)`).
//!
//! The table names the process that took a lock. That process can have ended and left its open file to another one, so a pid
//! from this table can belong to no process, or to a later one. The table does not contain locks that processes outside of this
//! PID namespace took.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::owner::other_user_of;
use crate::private;

/// Returns the processes that have locked the file, as far as they are known.
pub fn lock_holders(file: &File) -> io::Result<Vec<u32>> {
    let found = file.metadata()?;
    let device = found.dev();
    let place = format!("{:02x}:{:02x}:{}", rustix::fs::major(device), rustix::fs::minor(device), found.ino());
    Ok(holders(&fs::read_to_string("/proc/locks")?, &place).collect())
}

/// Returns whether the file at `path` is locked only by live processes of users other than this one and root. False if that
/// cannot be determined.
pub fn is_locked_by_other_user(path: &Path) -> bool {
    let holders = private::open(path).and_then(|file| lock_holders(&file)).unwrap_or_default();
    !holders.is_empty() && holders.into_iter().all(|pid| matches!(other_user_of(pid), Ok(Some(_))))
}

fn holders<'t>(table: &'t str, place: &'t str) -> impl Iterator<Item = u32> + 't {
    table.lines().filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        // For a process that waits for the lock, the line has "->" first.
        let is_flock = fields.next()? == "FLOCK";
        let pid = fields.nth(2)?.parse().ok()?;
        (is_flock && fields.next()? == place).then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_of_one_file_are_read_from_the_kernels_table() {
        let table = "1: POSIX  ADVISORY  READ 5 fe:00:7 128 128\n2: FLOCK  ADVISORY  WRITE 6 fe:00:7 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 8 fe:00:7 0 EOF\n3: FLOCK  ADVISORY  READ 9 fe:00:77 0 EOF\n\
                     4: FLOCK  ADVISORY  READ 10 fe:00:7 0 EOF\n5: FLOCK\n";
        assert_eq!(holders(table, "fe:00:7").collect::<Vec<_>>(), [6, 10]);
    }
}
