//! The kernel's counts for a process.

use std::fs;

/// Returns how often its threads went to sleep, which is how often they woke up.
pub(crate) fn wake_ups(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let statuses = threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    let count = |status: String| {
        let mut lines = status.lines().filter_map(|line| line.split_once("voluntary_ctxt_switches:"));
        lines.find_map(|(before, count)| before.is_empty().then(|| count.trim().parse::<u64>().ok())?)
    };
    statuses.filter_map(count).sum()
}
