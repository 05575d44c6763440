//! Which process keeps a start from a lock, for its error message.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use crate::console::printable;
use crate::process;
use crate::user;

/// Describes the process that has locked the file, unless it is a server of this user, or cannot be found.
///
/// A file that other users could open before the server made it private can be locked by any of them: `flock(2)` needs only an open file.
pub(super) fn stranger_with_lock(file: &File) -> Option<String> {
    let table = fs::read_to_string("/proc/locks").ok()?;
    let own_name = process::name_of(std::process::id());
    let found = file.metadata().ok()?;
    let device = found.dev();
    let place = format!("{:02x}:{:02x}:{}", rustix::fs::major(device), rustix::fs::minor(device), found.ino());
    holders(&table, &place).find_map(|pid| {
        // The process can have ended and left its open file to another one.
        let owner = fs::metadata(format!("/proc/{pid}")).ok().map(|found| found.uid());
        let name = process::name_of(pid);
        if !process::is_there(pid) || owner.is_some_and(user::is_own) && name == own_name {
            return None;
        }
        let name = name.map_or_else(String::new, |name| format!(" ({})", printable(&name)));
        let of = match owner {
            Some(owner) if user::is_own(owner) => String::new(),
            Some(owner) => format!(" of {}", user::another(owner)),
            None => " of another user".to_owned(),
        };
        Some(format!("process {pid}{name}{of}"))
    })
}

/// The processes that have locked the file at `place`, as `/proc/locks` names them (`proc_locks(5)`).
fn holders<'t>(table: &'t str, place: &'t str) -> impl Iterator<Item = u32> + 't {
    table.lines().filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        // A process that waits for the lock has "->" first.
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
