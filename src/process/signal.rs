//! Signals that are sent to an identity.

use std::io;

use rustix::process::{Pid, PidfdFlags, Signal};

use super::stat::{Identity, gone_as_not_found, read_stat};
use crate::absent::if_there;

/// Sends `signal` to our child `pid`, which has not been reaped, so its pid is valid. Needs no `/proc`.
pub fn signal_child(pid: u32, signal: Signal) -> io::Result<()> {
    Ok(rustix::process::kill_process(raw_pid(pid)?, signal)?)
}

/// Sends `signal` to exactly this process. `Ok(false)` if it no longer exists; a zombie still exists.
///
/// The descriptor pins the process. The start time that is read after that shows whether it is the right one.
pub fn signal(target: Identity, signal: Signal) -> io::Result<bool> {
    let send = || {
        let pidfd = rustix::process::pidfd_open(raw_pid(target.pid)?, PidfdFlags::empty())?;
        if read_stat(target.pid)?.identity != target {
            return Ok(false);
        }
        rustix::process::pidfd_send_signal(pidfd, signal)?;
        Ok(true)
    };
    Ok(if_there(send().map_err(gone_as_not_found))?.unwrap_or(false))
}

/// Converts a pid to the type that system calls take.
pub(super) fn raw_pid(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}
