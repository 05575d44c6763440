//! The processes that carry a run's cookie in their environment.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::lack::is_shortage;
use super::stat::{Identity, ProcState, is_in_execve, is_leaving, read_stat};
use super::tree::all_pids;

/// How long [`carriers`] may take on a machine where processes are born all the time, or stay in the middle of execve(2); how often one of
/// these is looked at; and how many more looks must agree.
const CARRIERS_LIMIT: Duration = Duration::from_secs(1);
const EXECVE_LOOK: Duration = Duration::from_micros(100);
const AGREEING_LOOKS: u32 = 3;
/// What is read of an environment at a time.
const ENVIRONMENT_BYTES: usize = 32 * 1024;

/// Every live process, this one excepted, whose environment holds each of `cookie`'s `NAME=value` texts. Processes whose
/// environment may not be read are not ours. One that is executing another program has none for a moment: that is waited for. So is one
/// that has been killed, until it is dead: its memory goes first, and its locks and ports after that.
/// A shortage ([`is_shortage`]) is an error: who could not be looked at may be one.
pub fn carriers(cookie: &[Vec<u8>]) -> io::Result<Vec<Identity>> {
    let deadline = Instant::now() + CARRIERS_LIMIT;
    let mut seen = BTreeSet::from([std::process::id()]);
    let mut found = Vec::new();
    loop {
        // A child is born before its parent is seen dead: who was missed because it has fled to a child is in a list that is made later.
        let newcomers: Vec<u32> = all_pids()?.filter(|&pid| seen.insert(pid)).collect();
        if newcomers.is_empty() || Instant::now() > deadline {
            return Ok(found);
        }
        for pid in newcomers {
            // A process can end at any point of this look: then it carries nothing.
            let look = || carries(pid, cookie, deadline)?.then(|| read_stat(pid)).transpose();
            match look() {
                Ok(Some(stat)) if stat.state != ProcState::Dead => found.push(stat.identity),
                Err(error) if is_shortage(&error) => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
    }
}

/// Whether the process has each entry of `cookie` in its environment, as the kernel shows that. In the middle of execve(2) the old one is
/// gone and the new one not shown yet, and what is read around that can break off anywhere: so it is only believed that an entry is
/// not there when several looks in a row show the same.
fn carries(pid: u32, cookie: &[Vec<u8>], deadline: Instant) -> io::Result<bool> {
    let mut before = None;
    let mut agreeing_looks = 0;
    loop {
        let mut environment = Vec::with_capacity(ENVIRONMENT_BYTES);
        match File::open(format!("/proc/{pid}/environ")).and_then(|mut file| file.read_to_end(&mut environment)) {
            // By the kernel's version one that has no memory any more cannot be read, or is empty.
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

/// The `NAME=value` text of an environment entry, as bytes.
pub fn environment_entry(name: &str, value: &Path) -> Vec<u8> {
    [name.as_bytes(), b"=", value.as_os_str().as_bytes()].concat()
}
