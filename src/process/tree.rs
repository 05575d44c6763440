//! The descendants of a process.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::OnceLock;

use super::shortage::is_shortage;
use super::stat::{Stat, read_stat};

/// The result of one scan of a tree.
#[derive(Clone, Debug, Default)]
pub struct Descendants {
    /// Every process that was seen, including zombies.
    pub found: Vec<Stat>,
    /// The processes that could not be read: `/proc` hides them, or they have ended. A child of this process exists until it is
    /// reaped.
    pub unseen: Vec<u32>,
    /// Whether a process ended before it could be read, or cannot be read. Its children may have been missed.
    pub is_torn: bool,
}

/// Returns every process below `root`, without `root` itself.
///
/// This is a single scan, which can miss the children of a process that ends during it. To find all processes, repeat it until
/// two results agree, including their zombies: a process that has become a zombie in between has passed its children on. A
/// shortage ([`is_shortage`]) is an error, because part of a tree is of no use.
pub fn descendants(root: u32) -> io::Result<Descendants> {
    if has_children_files() { by_children_files(root) } else { by_parents(root) }
}

/// Returns the pids of the children of all threads of `pid`.
pub fn children_of(pid: u32) -> io::Result<Vec<u32>> {
    if !has_children_files() {
        return Ok(by_parents(pid)?.found.iter().filter(|stat| stat.ppid == pid).map(|stat| stat.identity.pid).collect());
    }
    let mut children = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(thread) = thread else { continue };
        // A thread that has ended has passed its children to another one, which is read in this scan or in the next one.
        let list = match fs::read_to_string(thread.path().join("children")) {
            Err(error) if is_shortage(&error) => return Err(error),
            Err(_) => continue,
            Ok(list) => list,
        };
        children.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(children)
}

pub(super) fn all_pids() -> io::Result<impl Iterator<Item = u32>> {
    Ok(fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

/// Returns whether the kernel has these files. Kernels without `CONFIG_PROC_CHILDREN`, such as some embedded ones, do not.
pub(super) fn has_children_files() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| fs::metadata("/proc/thread-self/children").is_ok())
}

fn by_children_files(root: u32) -> io::Result<Descendants> {
    let mut all = Descendants::default();
    let mut seen = std::collections::BTreeSet::from([root]);
    let mut to_read = vec![root];
    while let Some(parent) = to_read.pop() {
        let children = match children_of(parent) {
            Ok(children) => children,
            // It has ended, and its children now belong to the reaper.
            Err(error) if parent != root && !is_shortage(&error) => {
                all.is_torn = true;
                continue;
            }
            Err(error) => return Err(error),
        };
        for pid in children {
            if !seen.insert(pid) {
                continue;
            }
            match read_stat(pid) {
                Ok(stat) => {
                    all.found.push(stat);
                    to_read.push(pid);
                }
                Err(error) if is_shortage(&error) => return Err(error),
                Err(_) => {
                    all.is_torn = true;
                    all.unseen.push(pid);
                }
            }
        }
    }
    Ok(all)
}

fn by_parents(root: u32) -> io::Result<Descendants> {
    let mut children: BTreeMap<u32, Vec<Stat>> = BTreeMap::new();
    for pid in all_pids()? {
        match read_stat(pid) {
            Ok(stat) => children.entry(stat.ppid).or_default().push(stat),
            Err(error) if is_shortage(&error) => return Err(error),
            Err(_) => {}
        }
    }
    let mut found = Vec::new();
    let mut to_read = vec![root];
    while let Some(parent) = to_read.pop() {
        for stat in children.remove(&parent).unwrap_or_default() {
            to_read.push(stat.identity.pid);
            found.push(stat);
        }
    }
    // Most processes that end during a scan of all of `/proc` do not belong to the tree.
    Ok(Descendants { found, unseen: Vec::new(), is_torn: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::process::{Command, Stdio};

    #[test]
    fn both_scan_methods_find_children_and_grandchildren() {
        // The grandchild reports that it exists, so the test needs no sleep.
        let mut shell = Command::new("sh")
            .args(["-c", "sh -c 'echo there; exec sleep 600' & wait"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh is everywhere");
        let mut said = [0; 6];
        shell.stdout.as_mut().expect("piped").read_exact(&mut said).expect("it says so");

        let pids = |all: Descendants| {
            let mut pids: Vec<u32> = all.found.iter().map(|stat| stat.identity.pid).collect();
            pids.sort_unstable();
            pids
        };
        let below_shell = pids(by_children_files(shell.id()).expect("a look"));
        assert_eq!(below_shell.len(), 1);
        assert_eq!(below_shell, pids(by_parents(shell.id()).expect("a look")));
        let below_me = pids(descendants(std::process::id()).expect("a look"));
        assert!(below_me.contains(&shell.id()) && below_me.contains(&below_shell[0]));

        for pid in below_shell {
            let identity = read_stat(pid).expect("alive").identity;
            super::super::signal(identity, rustix::process::Signal::KILL).expect("our own");
        }
        shell.wait().expect("our child");
    }
}
