//! What a call that failed lacked: descriptors, memory, processes, room on the disk.

use std::io;

use crate::pipeline::Lack;

/// Whether `error` is for want of a descriptor or of memory: then it tells nothing about who was to be looked at.
pub fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM].iter().any(|shortage| error.raw_os_error() == Some(shortage.raw_os_error()))
}

/// The resource whose lack kept a process, a thread or a descriptor from being created, if any. Only for errors of such calls: for others
/// `EAGAIN` means something else.
pub fn lack_of(error: &io::Error) -> Option<Lack> {
    use rustix::io::Errno;
    match Errno::from_raw_os_error(error.raw_os_error()?) {
        Errno::AGAIN => Some(Lack::Processes),
        Errno::MFILE | Errno::NFILE => Some(Lack::Descriptors),
        Errno::NOMEM => Some(Lack::Memory),
        _ => None,
    }
}

/// What to do about it, to be put behind a sentence; nothing if that is not known.
pub fn advice_for(error: &io::Error) -> String {
    lack_of(error).map_or_else(String::new, |lack| format!("; {}", lack.advice()))
}

/// A sentence: what could not be done, why, and what to do about it.
pub fn explain_lack(what: &str, error: &io::Error) -> String {
    format!("{what}: {error}{}", advice_for(error))
}

/// Whether `error` says that a file could not grow: no room, or none for this user.
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
