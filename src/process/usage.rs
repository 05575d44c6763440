//! The resources that a run's processes use: CPU time, memory, and their number. A measurement takes a limited time, however
//! many processes there are.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use super::cgroup::Cgroup;
use super::children::reaped_cpu_ms;
use super::stat::read_share;
use super::tree::{children_of, descendants, has_children_files};

/// The maximum number of processes that one measurement reads. Those beyond it are only counted, as far as they are known.
const PROCESSES_MAX: usize = 4096;

/// How long one measurement reads processes. Processes that it has not read by then do not count.
const LOOK_LIMIT: Duration = Duration::from_millis(100);

/// The resources that all processes of a tree use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeUsage {
    /// The CPU time that they have used so far in milliseconds, including that of processes that have ended.
    pub cpu_ms: u64,
    /// Their memory: the figure of the control group, or else the sum of their resident sets.
    pub memory_bytes: u64,
    /// How many of them are alive.
    pub processes: u32,
}

/// Measures all processes in a control group, or without one, all processes below this one. Processes that end or move during a
/// measurement can be missing, so a later sum can be lower than an earlier one, but no sum is too high.
pub fn usage_of_tree(cgroup: Option<&Cgroup>) -> io::Result<TreeUsage> {
    let Some(cgroup) = cgroup else { return usage_of_descendants(std::process::id(), PROCESSES_MAX) };
    let (cpu_ms, members) = (cgroup.cpu_ms()?, cgroup.members()?);
    let memory_bytes = cgroup.memory_bytes().unwrap_or_else(|| resident_bytes(&members));
    Ok(TreeUsage { cpu_ms, memory_bytes, processes: whole(members.len()) })
}

/// Returns the memory of this machine, in bytes.
pub fn memory_total() -> u64 {
    let info = rustix::system::sysinfo();
    // Its type is as wide as an address.
    let units = usize::try_from(info.totalram).unwrap_or(usize::MAX) as u64;
    units.saturating_mul(info.mem_unit.into())
}

fn whole(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn resident_bytes(members: &[u32]) -> u64 {
    let began = Instant::now();
    let readable = members.iter().take(PROCESSES_MAX).take_while(|_| began.elapsed() < LOOK_LIMIT);
    readable.filter_map(|&pid| read_share(pid).ok()).map(|share| share.resident_bytes).sum()
}

/// Measures all processes below `root`. Each process is read before its children. A process that is reaped in between adds to
/// its parent, which was read without it, so nothing is counted twice.
fn usage_of_descendants(root: u32, most: usize) -> io::Result<TreeUsage> {
    let began = Instant::now();
    let mut used = TreeUsage { cpu_ms: reaped_cpu_ms()?, ..TreeUsage::default() };
    let (mut ticks, mut seen) = (0_u64, BTreeSet::from([root]));
    let mut add = |pid: u32| {
        if let Ok(share) = read_share(pid) {
            ticks = ticks.saturating_add(share.cpu_ticks);
            used.memory_bytes += share.resident_bytes;
            used.processes += u32::from(share.is_alive);
        }
    };
    if has_children_files() {
        let mut to_read = children_of(root)?;
        while let Some(pid) = to_read.pop() {
            if !seen.insert(pid) {
                continue;
            }
            // `seen` includes the root.
            if seen.len() > most + 1 || began.elapsed() >= LOOK_LIMIT {
                used.processes = used.processes.saturating_add(whole(to_read.len() + 1));
                break;
            }
            add(pid);
            to_read.extend(children_of(pid).unwrap_or_default());
        }
    } else {
        let found = descendants(root)?.found;
        found.iter().take(most).for_each(|stat| add(stat.identity.pid));
        used.processes = used.processes.saturating_add(whole(found.len().saturating_sub(most)));
    }
    used.cpu_ms += ticks.saturating_mul(1000) / rustix::param::clock_ticks_per_second().max(1);
    Ok(used)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use super::*;
    use crate::process::read_stat;

    /// Only compares the numbers with what the kernel reports for the process itself, so a slow machine changes nothing.
    #[test]
    fn cpu_time_of_child_is_counted_once_alive_or_reaped() {
        let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo busy; read go; (exit 0); echo over; read go";
        let mut outer = Command::new("sh")
            .args(["-c", "sh -c \"$1\" sh; echo reaped; read go", "sh", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh is everywhere");
        let pid = outer.id();
        let mut said = |word: &str| {
            let mut text = vec![0; word.len() + 1];
            outer.stdout.as_mut().expect("piped").read_exact(&mut text).expect("it says so");
            assert_eq!(String::from_utf8_lossy(&text).trim(), word);
        };
        let below = || {
            let mut used = usage_of_descendants(pid, PROCESSES_MAX).expect("a look");
            // Reaped children of this test process do not belong to that tree.
            used.cpu_ms -= reaped_cpu_ms().expect("it knows");
            used
        };
        let mut input = outer.stdin.take().expect("piped");
        said("busy");
        let child = children_of(pid).expect("a look")[0];
        let share = read_share(child).expect("alive");
        let (used, ms) = (below(), share.cpu_ticks * 1000 / rustix::param::clock_ticks_per_second());
        assert!(ms > 0, "else the loop was too short");
        assert_eq!((used.cpu_ms, used.processes), (ms, 1));
        assert!(used.memory_bytes > 0 && used.memory_bytes.abs_diff(share.resident_bytes) < 1 << 20);
        input.write_all(b"\n\n").expect("it reads");
        said("over");
        said("reaped");
        let left = below();
        assert_eq!((left.processes, left.memory_bytes), (0, 0));
        // The grandchild's time now belongs to its parent, which this measurement does not include, because the parent is the
        // root.
        let whole_share = read_share(pid).expect("alive");
        assert!(whole_share.cpu_ticks * 1000 / rustix::param::clock_ticks_per_second() >= ms, "{whole_share:?}");
        input.write_all(b"\n").expect("it reads");
        outer.wait().expect("our child");
        assert!(read_stat(pid).is_err());
    }

    #[test]
    fn processes_beyond_limit_are_counted_but_not_measured() {
        let mut outer = Command::new("sh")
            .args(["-c", "sleep 600 & sleep 600 & sleep 600 & echo all; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh is everywhere");
        let mut said = [0; 4];
        outer.stdout.as_mut().expect("piped").read_exact(&mut said).expect("it says so");
        let look = |most| usage_of_descendants(outer.id(), most).expect("a look");
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let (all, one) = (look(PROCESSES_MAX), look(1));
            assert_eq!((all.processes, one.processes), (3, 3));
            // A newly created process has no memory of its own yet.
            if one.memory_bytes > 0 && one.memory_bytes < all.memory_bytes {
                break;
            }
            assert!(Instant::now() < deadline, "{one:?}, {all:?}");
        }
        for pid in children_of(outer.id()).expect("a look") {
            let identity = read_stat(pid).expect("alive").identity;
            crate::process::signal(identity, rustix::process::Signal::KILL).expect("our own");
        }
        outer.wait().expect("our child");
    }
}
