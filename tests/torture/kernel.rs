//! The kernel's view, read without code of the program under test, and signals to known processes.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// The pid and start time of a process, which together are unique.
pub(crate) type Identity = (u32, u64);

/// One process, as one scan shows it.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) start_ticks: u64,
    pub(crate) letter: char,
    /// The run of this place that its environment names.
    pub(crate) run_id: Option<i64>,
}

impl Process {
    pub(crate) fn identity(&self) -> Identity {
        (self.pid, self.start_ticks)
    }

    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.letter, 'Z' | 'X')
    }
}

fn read(pid: u32, mark: &[u8]) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name can contain anything. The text after the last bracket cannot.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_whitespace().collect();
    let letter = fields.first()?.chars().next()?;
    let mut run_id = None;
    if !matches!(letter, 'Z' | 'X') {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let entries = || environment.split(|&byte| byte == 0);
        if entries().any(|entry| entry == mark) {
            let id = entries().find_map(|entry| entry.strip_prefix(b"AUTOAPPDEV_RUN_ID="));
            run_id = id.and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
        }
    }
    Some(Process { pid, parent: fields.get(1)?.parse().ok()?, start_ticks: fields.get(19)?.parse().ok()?, letter, run_id })
}

/// Returns every process, including zombies.
pub(crate) fn all(runtime: &Path) -> BTreeMap<u32, Process> {
    let mark = format!("AUTOAPPDEV_RUNTIME_DIR={}", runtime.canonicalize().unwrap_or_default().display());
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, read(pid, mark.as_bytes())?))).collect()
}

/// Returns the processes in a frozen control group.
pub(crate) fn held(group: Option<&Path>) -> BTreeSet<u32> {
    let is_frozen = |group: &&Path| {
        let events = fs::read_to_string(group.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|line| line == "frozen 1")
    };
    group.filter(is_frozen).map(super::support::members).unwrap_or_default()
}

/// Returns the live descendants of `ancestor`, without itself.
pub(crate) fn descendants(all: &BTreeMap<u32, Process>, ancestor: u32) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut parents = vec![ancestor];
    while let Some(parent) = parents.pop() {
        for child in all.values().filter(|process| process.parent == parent && found.insert(process.pid)) {
            parents.push(child.pid);
        }
    }
    found.retain(|pid| all[pid].is_alive());
    found
}

/// Returns whether exactly this process exists and is not a zombie.
pub(crate) fn lives((pid, start_ticks): Identity) -> bool {
    read(pid, b"").is_some_and(|process| process.start_ticks == start_ticks && process.is_alive())
}

/// Returns whether a process with this pid exists and is not a zombie.
pub(crate) fn is_there(pid: u32) -> bool {
    read(pid, b"").is_some_and(|process| process.is_alive())
}

/// Sends a signal. Returns whether there was a process to receive it.
pub(crate) fn send(pid: u32, signal: Signal) -> bool {
    i32::try_from(pid).ok().and_then(Pid::from_raw).is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// Reaps orphans that have ended, and returns this process's children that are alive. Processes in `spared` are skipped, because
/// something else waits for them.
pub(crate) fn reap_orphans(spared: &[u32]) -> Vec<u32> {
    let mut living = Vec::new();
    for pid in autoappdev::process::children_of(std::process::id()).unwrap_or_default() {
        match read(pid, b"") {
            Some(process) if !spared.contains(&pid) && process.is_alive() => living.push(pid),
            Some(process) if !spared.contains(&pid) && process.letter == 'Z' => {
                let _gone_already = autoappdev::process::reap(pid);
            }
            Some(_) | None => {}
        }
    }
    living
}

/// Kills and reaps all orphans.
pub(crate) fn end_orphans() {
    super::support::until_true("nobody is left", || {
        let living = reap_orphans(&[]);
        for &pid in &living {
            send(pid, Signal::KILL);
        }
        living.is_empty()
    });
}

/// Returns the message of a panic.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "a panic".to_owned())
}
