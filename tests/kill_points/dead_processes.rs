//! Processes that have ended or are about to end.

use std::fs;

use autoappdev::process;

use crate::support::letter;

/// Reaps the processes of ended cases, except those that a test waits for.
pub(crate) fn reap_orphans() {
    for pid in process::children_of(std::process::id()).unwrap_or_default() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let name = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).map(|(name, _)| name);
        let is_orphan =
            name.is_some_and(|name| ["bash", "sleep", "setsid", "exe", "autoappdev-shim", "family.sh"].contains(&name));
        if is_orphan && letter(pid) == Some('Z') {
            let _taken_by_the_other_player = process::reap(pid);
        }
    }
}

/// Returns whether a process has a pending KILL or is in its exit. It then executes no more of its own code
/// (`proc_pid_status(5)`; the flag is the kernel's `PF_EXITING`).
pub(crate) fn is_dying(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = |name| {
        let mask =
            status.lines().find_map(|line| line.strip_prefix(name)).and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask >> 8 & 1 == 1)
    };
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let flags = stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(6)?.parse::<u64>().ok());
    pending("SigPnd:") || pending("ShdPnd:") || flags.is_some_and(|flags| flags & 4 == 4)
}
