//! Whether a process is alive, and its name.

use std::fs;
use std::io;

use super::shortage::is_shortage;
use super::signal::raw_pid;
use super::stat::{Identity, ProcState, is_leaving, read_stat};

/// Returns whether the process is alive and not a zombie. If there is no descriptor to check with, it counts as alive.
pub fn is_alive(who: &Identity) -> bool {
    match read_stat(who.pid) {
        Ok(stat) => stat.identity == *who && stat.state != ProcState::Dead,
        Err(error) => is_shortage(&error),
    }
}

/// Returns whether a process or a zombie has this pid, even one that `/proc` hides. Only for messages: it does not show which
/// process it is.
pub fn is_there(pid: u32) -> bool {
    let exists = |pid| !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH));
    raw_pid(pid).is_ok_and(exists)
}

/// Returns whether this process is alive and not exiting; `None` if it does not exist, or not in this namespace
/// (`pid_namespaces(7)`). An error only for a shortage ([`is_shortage`]), which leaves the answer open.
pub fn lives(target: Identity) -> io::Result<Option<bool>> {
    let look = || {
        let stat = read_stat(target.pid)?;
        if stat.identity != target {
            return Ok(None);
        }
        Ok(Some(stat.state != ProcState::Dead && !is_leaving(target.pid)?))
    };
    match look() {
        Err(error) if !is_shortage(&error) => Ok(None),
        other => other,
    }
}

/// Returns the name that `ps` shows for a process, if the process exists (`proc_pid_comm(5)`).
pub fn name_of(pid: u32) -> Option<String> {
    fs::read(format!("/proc/{pid}/comm")).ok().map(|name| String::from_utf8_lossy(&name).trim_end().to_owned())
}
