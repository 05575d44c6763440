//! The users that a process runs as.

use std::fs;
use std::io;

use crate::user;

/// Returns the real user of a process that was started or is run by a user other than this one and root. `None` if only this
/// user and root did.
///
/// All four user ids count: another user can start a set-user-ID program of root with any arguments, and remains its real user
/// (`proc_pid_status(5)`, `credentials(7)`). The process cannot delay this read, as it can delay a read of its arguments or
/// environment: the kernel does not lock the process's memory for it.
pub fn other_user_of(pid: u32) -> io::Result<Option<u32>> {
    let users = users_of(pid)?;
    Ok(users.iter().any(|&user| !user::is_own_or_root(user)).then_some(users[0]))
}

/// Returns whether all four user ids of a process are this user's.
pub(super) fn is_of_own_user(pid: u32) -> io::Result<bool> {
    Ok(users_of(pid)?.into_iter().all(user::is_own))
}

/// Returns the real, effective, saved and file-system user id of a process.
fn users_of(pid: u32) -> io::Result<[u32; 4]> {
    let status = fs::read(format!("/proc/{pid}/status"))?;
    let status = String::from_utf8_lossy(&status);
    let users: Option<Vec<u32>> = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|users| users.split_ascii_whitespace().map(|user| user.parse().ok()).collect());
    users
        .and_then(|users| users.try_into().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc status"))
}
