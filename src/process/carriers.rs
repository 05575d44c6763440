//! Finds the processes that carry a run's cookie in their environment.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::owner::other_user_of;
use super::paths::has_our_paths;
use super::shortage::is_shortage;
use super::stat::{Identity, ProcState, is_in_execve, is_leaving, read_stat};
use super::strangers::Strangers;
use super::tree::all_pids;
use crate::user;

/// How long a scan may take on a machine where processes are created all the time, or stay in the middle of execve(2); how often
/// such a process is read; and how many further reads must agree.
const CARRIERS_LIMIT: Duration = Duration::from_secs(1);
const EXECVE_LOOK: Duration = Duration::from_micros(100);
const AGREEING_LOOKS: u32 = 3;
/// The initial size of the buffer for an environment, in bytes.
const ENVIRONMENT_BYTES: usize = 32 * 1024;
/// The most that is read of an environment, in bytes. execve(2) accepts no more for arguments and environment together, whatever
/// the limit of the stack. Later a process can claim gigabytes of its memory as its environment (`PR_SET_MM_MAP(2const)`).
const ENVIRONMENT_BYTES_MAX: u64 = 6 * 1024 * 1024;

/// The search for all live processes, except this one, whose environment contains every `NAME=value` entry of a cookie.
pub struct CarrierSearch {
    cookie: Arc<[Vec<u8>]>,
    asks_always: bool,
    strangers: Strangers<io::Result<Look>>,
    unread: usize,
    spared: usize,
}

/// The result of a check of one process.
enum Look {
    /// It does not carry the cookie.
    NoCarrier,
    /// It carries the cookie and belongs to the run.
    Ours,
    /// It carries the cookie, and seems to belong to another run.
    Spared,
}

impl CarrierSearch {
    /// Prepares a search, without reading any process yet.
    ///
    /// A path in a cookie means another directory to a process that has other paths than this one, such as a process in a
    /// container. `is_ours` decides whether such a carrier belongs to the run; with `asks_always` it is called for every
    /// carrier. Its argument is the carrier's root directory, or `None` if another user started or runs the carrier: a file
    /// system of that user could prevent this process from ever ending. It is called in a thread that can be abandoned.
    pub fn new(
        cookie: impl IntoIterator<Item = Vec<u8>>,
        asks_always: bool,
        is_ours: impl Fn(Option<&Path>) -> bool + Send + Sync + 'static,
    ) -> Self {
        let cookie: Arc<[Vec<u8>]> = cookie.into_iter().collect();
        let strangers = Strangers::new({
            let cookie = cookie.clone();
            move |pid, deadline| {
                if !carries(pid, &cookie, deadline)? {
                    return Ok(Look::NoCarrier);
                }
                let root = match other_user_of(pid)? {
                    None => Some(PathBuf::from(format!("/proc/{pid}/root"))),
                    Some(_) => None,
                };
                let is_ours = (!asks_always && has_our_paths(pid)) || is_ours(root.as_deref());
                Ok(if is_ours { Look::Ours } else { Look::Spared })
            }
        });
        Self { cookie, asks_always, strangers, unread: 0, spared: 0 }
    }

    /// Checks all processes once.
    ///
    /// Waits for a process that is executing another program, because it has no environment for a moment. Also waits until a
    /// killed process is dead: the kernel releases its memory first, and its locks and ports later.
    ///
    /// Processes of other users are checked only by root, which alone may read their environments, and after all others: a run
    /// of root can have changed its user. The time that they may take is limited (`strangers.rs`).
    ///
    /// # Errors
    /// Only a shortage ([`is_shortage`]): a process that could not be read may be a carrier.
    pub fn scan(&mut self) -> io::Result<Vec<Identity>> {
        (self.unread, self.spared) = (0, 0);
        if self.cookie.is_empty() {
            return Ok(Vec::new());
        }
        let begin = Instant::now();
        let mut seen = BTreeSet::from([std::process::id()]);
        let mut found = Vec::new();
        self.strangers.begin_scan();
        loop {
            // The time that strangers take does not count against the search for the others.
            let deadline = begin + CARRIERS_LIMIT + self.strangers.taken();
            // A child is created before its parent is seen dead. So a list that is made later contains a process that was missed
            // because it escaped into a child.
            let newcomers: Vec<u32> = all_pids()?.filter(|&pid| seen.insert(pid)).collect();
            if newcomers.is_empty() || Instant::now() > deadline {
                return Ok(found);
            }
            let mut strangers = Vec::new();
            for pid in newcomers {
                match other_user_of(pid) {
                    Ok(None) => match unless_ended(carries(pid, &self.cookie, deadline))? {
                        Some(true) if self.asks_always || !has_our_paths(pid) => strangers.push((pid, user::own())),
                        Some(true) => found.extend(living(pid)?),
                        Some(false) | None => {}
                    },
                    Ok(Some(user)) if user::own() == 0 => strangers.push((pid, user)),
                    Err(error) if is_shortage(&error) => return Err(error),
                    // A process can end at any point of a check; then it carries nothing.
                    Ok(Some(_)) | Err(_) => {}
                }
            }
            for (pid, user) in strangers {
                match self.strangers.look_at(pid, user) {
                    Some(look) => match unless_ended(look)? {
                        Some(Look::Ours) => found.extend(living(pid)?),
                        Some(Look::Spared) => self.spared += usize::from(living(pid)?.is_some()),
                        Some(Look::NoCarrier) | None => {}
                    },
                    None => self.unread += 1,
                }
            }
        }
    }

    /// Returns how many processes the latest scan left out because they, or others of the same user, did not respond in time.
    pub const fn unread(&self) -> usize {
        self.unread
    }

    /// Returns how many live processes the latest scan left out although they carry the cookie, because they seem to belong to
    /// another run.
    pub const fn spared(&self) -> usize {
        self.spared
    }
}

/// Returns the process if it is alive.
fn living(pid: u32) -> io::Result<Option<Identity>> {
    Ok(unless_ended(read_stat(pid))?.filter(|stat| stat.state != ProcState::Dead).map(|stat| stat.identity))
}

/// Returns the result of a check, or `None` if the process ended during it. A shortage is an error.
fn unless_ended<T>(look: io::Result<T>) -> io::Result<Option<T>> {
    match look {
        Err(error) if is_shortage(&error) => Err(error),
        other => Ok(other.ok()),
    }
}

/// Returns whether the environment of the process contains each entry of `cookie`, as shown by the kernel.
///
/// In the middle of execve(2) the old environment is gone and the new one is not shown yet, and a read at that time can end
/// anywhere. So an entry counts as missing only after several reads in a row have shown the same.
fn carries(pid: u32, cookie: &[Vec<u8>], deadline: Instant) -> io::Result<bool> {
    let mut before = None;
    let mut agreeing_looks = 0;
    loop {
        let mut environment = Vec::with_capacity(ENVIRONMENT_BYTES);
        let file = File::open(format!("/proc/{pid}/environ"));
        match file.and_then(|file| read_environment(file, &mut environment)) {
            // Depending on the kernel's version, the environment of a process that has no memory any more cannot be read or is
            // empty.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => environment.clear(),
            other => drop(other?),
        }
        let is_there = |wanted: &Vec<u8>| environment.split(|&byte| byte == 0).any(|entry| entry == wanted);
        if !cookie.is_empty() && cookie.iter().all(is_there) {
            return Ok(true);
        }
        if environment.is_empty() {
            let is_leaving = is_leaving(pid)?;
            if is_leaving || is_in_execve(pid)? {
                std::thread::sleep(EXECVE_LOOK);
            }
            if is_leaving && Instant::now() <= deadline {
                continue;
            }
        }
        agreeing_looks = if before.as_ref() == Some(&environment) { agreeing_looks + 1 } else { 0 };
        if agreeing_looks == AGREEING_LOOKS || Instant::now() > deadline {
            return Ok(false);
        }
        before = Some(environment);
    }
}

fn read_environment(file: impl Read, environment: &mut Vec<u8>) -> io::Result<usize> {
    file.take(ENVIRONMENT_BYTES_MAX).read_to_end(environment)
}

/// Returns the `NAME=value` text of an environment entry, as bytes.
pub fn environment_entry(name: &str, value: &Path) -> Vec<u8> {
    [name.as_bytes(), b"=", value.as_os_str().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_beyond_what_execve_accepts_is_not_read() {
        let mut environment = Vec::new();
        assert_eq!(read_environment(io::repeat(0), &mut environment).expect("it can be read"), 6 << 20);
        assert_eq!(environment.len(), 6 << 20);
    }
}
