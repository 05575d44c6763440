//! The process whose lock makes a start fail, for the error message.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use crate::console::printable;
use crate::process::{self, ProcState};
use crate::user;

/// The holder of a lock that a start needs.
pub(super) enum Holder {
    /// A server of this user.
    Server,
    /// Another process, with its description.
    Stranger(String),
    /// A process that cannot be named: it took the lock and has ended, is in another PID namespace, or is not shown by
    /// `/proc`.
    Unknown,
}

/// Returns the process that has locked the file.
///
/// Any user who could open the file before the server made it private can lock it, because `flock(2)` needs only an open file.
pub(super) fn holder_of_lock(file: &File) -> Holder {
    // If the table cannot be read, no process is known.
    let holders = process::lock_holders(file).unwrap_or_default();
    let mut live =
        holders.into_iter().filter(|&pid| process::read_stat(pid).is_ok_and(|stat| stat.state != ProcState::Dead)).peekable();
    if live.peek().is_none() {
        return Holder::Unknown;
    }
    live.find(|&pid| !is_server(pid)).map_or(Holder::Server, |pid| Holder::Stranger(description_of(pid)))
}

/// Checks whether this is a live process of this user with the name of this program.
pub(super) fn is_server(pid: u32) -> bool {
    let name = process::name_of(pid);
    owner_of(pid).is_some_and(user::is_own) && name.is_some() && name == process::name_of(std::process::id())
}

fn description_of(pid: u32) -> String {
    let name = process::name_of(pid).map_or_else(String::new, |name| format!(" ({})", printable(&name)));
    let of = match owner_of(pid) {
        Some(owner) if user::is_own(owner) => String::new(),
        Some(owner) => format!(" of {}", user::another(owner)),
        None => " of another user".to_owned(),
    };
    format!("process {pid}{name}{of}")
}

/// Returns the user of a process, if `/proc` shows it.
fn owner_of(pid: u32) -> Option<u32> {
    fs::metadata(format!("/proc/{pid}")).ok().map(|found| found.uid())
}
