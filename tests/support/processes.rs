//! Processes as the kernel shows them, without the program's own code for that, and signals.

use std::collections::BTreeSet;
use std::fs;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Sends a signal by its name, such as `TERM`. The process may have ended already.
pub fn signal(pid: u32, name: &str) {
    let signal: Signal = format!("SIG{name}").parse().expect("the name of a signal");
    let sent = kill(Pid::from_raw(i32::try_from(pid).expect("a process id")), signal);
    let sent = sent.or_else(|error| if error == Errno::ESRCH { Ok(()) } else { Err(error) });
    sent.unwrap_or_else(|error| panic!("{signal} cannot be sent to process {pid}: {error}"));
}

/// Returns the state letter of a process, or `None` if it does not exist.
pub fn letter(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Returns whether a process exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    letter(pid).is_some_and(|letter| !matches!(letter, 'Z' | 'X'))
}

/// Returns the state letters of a process's threads, or an empty list if it does not exist.
pub fn letters(pid: u32) -> Vec<char> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
}

/// Returns whether a process exists and all its live threads are stopped.
pub fn is_stopped(pid: u32) -> bool {
    let letters = letters(pid);
    letters.contains(&'T') && letters.iter().all(|letter| matches!(letter, 'T' | 'Z' | 'X'))
}

/// Returns a field of `/proc/<pid>/stat` by its number in `proc_pid_stat(5)`, from 3 on.
pub fn stat_field(pid: u32, number: usize) -> i64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is there");
    let fields = stat.rsplit_once(") ").expect("a name").1;
    fields.split(' ').nth(number - 3).and_then(|field| field.trim().parse().ok()).expect("a number")
}

/// Describes a process for a message.
pub fn describe(pid: u32) -> String {
    let cmdline = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    format!("{pid} {:?} `{}`: {}", letters(pid), cmdline.trim(), stat.trim())
}

/// Returns the pids of all processes.
pub fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Returns every live process of a run whose environment has the entry `mark`. Servers and shims can have that entry too, but not
/// the id of a run.
pub fn processes_with(mark: &str) -> BTreeSet<u32> {
    let is_of_a_run = |environment: &[u8]| {
        let mut entries = environment.split(|&byte| byte == 0);
        entries.clone().any(|entry| entry == mark.as_bytes()) && entries.any(|entry| entry.starts_with(b"AUTOAPPDEV_RUN_ID="))
    };
    let mut pids = pids();
    pids.retain(|pid| is_of_a_run(&fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()) && is_alive(*pid));
    pids.into_iter().collect()
}
