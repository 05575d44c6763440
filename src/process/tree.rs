//! All that descends from a process.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::OnceLock;

use super::lack::is_shortage;
use super::stat::{Stat, read_stat};

/// What one pass over a tree found.
#[derive(Clone, Debug, Default)]
pub struct Descendants {
    /// Every process that was seen, zombies included.
    pub found: Vec<Stat>,
    /// The processes that could not be read: `/proc` hides them, or they have ended. A child of this process exists until it is reaped.
    pub unseen: Vec<u32>,
    /// Whether a process had ended before it could be read, or cannot be read: its children may have been missed.
    pub is_torn: bool,
}

/// Every process below `root`, `root` itself not. One pass: the children of a process that ends during it can be missed. Who needs all of
/// them asks until two answers agree, the zombies in them too: one that was no zombie before has handed its children over.
/// A shortage ([`is_shortage`]) is an error: half of a tree is none.
pub fn descendants(root: u32) -> io::Result<Descendants> {
    if has_children_files() { by_children_files(root) } else { by_parents(root) }
}

/// The pids of the children of all threads of `pid`.
pub fn children_of(pid: u32) -> io::Result<Vec<u32>> {
    if !has_children_files() {
        return Ok(by_parents(pid)?.found.iter().filter(|stat| stat.ppid == pid).map(|stat| stat.identity.pid).collect());
    }
    let mut children = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(thread) = thread else { continue };
        // A thread that ended has handed its children to another one, which is read too or read in the next pass.
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

/// Kernels without `CONFIG_PROC_CHILDREN`, some embedded ones, have no such files.
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
            // It ended: its children are the reaper's now.
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
    // Most of what goes while all of /proc is read is somebody else's.
    Ok(Descendants { found, unseen: Vec::new(), is_torn: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::process::{Command, Stdio};

    #[test]
    fn both_ways_of_looking_find_children_and_grandchildren() {
        // The grandchild says when it is there, so the test waits for the fact and not for time.
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
