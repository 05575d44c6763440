//! The resource that a failed call lacked: descriptors, memory, processes, or space on the disk.

use std::io;

use crate::pipeline::Shortage;

/// Returns whether `error` is a shortage of descriptors or memory. Such an error says nothing about the process to be read.
pub fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM].iter().any(|shortage| error.raw_os_error() == Some(shortage.raw_os_error()))
}

/// Returns the resource whose shortage prevented the creation of a process, a thread or a descriptor, if any. Only for errors of
/// such calls: for others `EAGAIN` means something else.
pub fn shortage_of(error: &io::Error) -> Option<Shortage> {
    use rustix::io::Errno;
    match Errno::from_raw_os_error(error.raw_os_error()?) {
        Errno::AGAIN => Some(Shortage::Processes),
        Errno::MFILE | Errno::NFILE => Some(Shortage::Descriptors),
        Errno::NOMEM => Some(Shortage::Memory),
        _ => None,
    }
}

/// Returns advice about the shortage, to be appended to a sentence; empty if the error is not a shortage.
pub fn shortage_advice(error: &io::Error) -> String {
    shortage_of(error).map_or_else(String::new, |lack| format!("; {}", lack.advice()))
}

/// Returns a sentence: what could not be done, why, and what to do about it.
pub fn explain_shortage(what: &str, error: &io::Error) -> String {
    format!("{what}: {error}{}", shortage_advice(error))
}

/// Returns whether `error` says that a file could not grow: the disk is full, or this user's quota is used up.
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
