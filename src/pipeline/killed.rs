//! The processes that were killed: at the end of a run, for the history, a few names and the total; by the kernel, their number.

use serde::{Deserialize, Serialize};

/// A process that was killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KilledProcess {
    /// Its process id at that time, which is no longer valid.
    pub pid: u32,
    /// The name that `ps` showed for it; empty if `/proc` showed none.
    pub name: String,
}

/// Describes for users how many processes the kernel killed because memory ran out. Returns `None` if there were none.
pub fn describe_oom_kills(count: u64) -> Option<String> {
    match count {
        0 => None,
        1 => Some("1 process was killed because memory ran out".to_owned()),
        _ => Some(format!("{count} processes were killed because memory ran out")),
    }
}

/// The killed processes, in the order in which they were seen. In JSON, two keys of the enclosing object, which are both
/// absent if nothing was killed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Killed {
    /// The first [`Killed::NAMED_MAX`] of them.
    #[serde(rename = "killed", default, skip_serializing_if = "Vec::is_empty")]
    pub named: Vec<KilledProcess>,
    /// The total. A process that is created and killed between two scans is not counted.
    #[serde(rename = "killed_count", default, skip_serializing_if = "is_zero")]
    pub count: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Killed {
    /// The number of processes that are named: a tree that forks without end must not fill the history.
    pub const NAMED_MAX: usize = 10;

    /// Returns how many more processes can be named.
    pub fn room(&self) -> usize {
        Self::NAMED_MAX.saturating_sub(self.named.len())
    }

    /// Counts a process, and names it if there is room.
    pub fn add(&mut self, pid: u32, name: impl FnOnce() -> Option<String>) {
        self.count += 1;
        if self.room() > 0 {
            self.named.push(KilledProcess { pid, name: printable(&name().unwrap_or_default()) });
        }
    }

    /// Returns whether no process was killed.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns a sentence for users about a run that ended; `asked` if a stop had been requested. `None` if nothing was
    /// killed.
    pub fn at_end(&self, asked: bool) -> Option<String> {
        let were = if self.count == 1 { "was" } else { "were" };
        self.told(&if asked {
            // Also correct for a stop without a grace, and for one that was followed by a kill.
            format!("had not ended by {}, and {were} killed", if self.count == 1 { "itself" } else { "themselves" })
        } else {
            format!("{were} still running when the script ended, and {were} killed")
        })
    }

    /// Returns a sentence for users about a run whose shim had been killed. `None` if nothing was killed.
    pub fn in_recovery(&self) -> Option<String> {
        let were = if self.count == 1 { "was" } else { "were" };
        self.told(&format!("{were} still running, and {were} killed"))
    }

    /// Returns a sentence for users about processes that are still alive after SIGKILL. `None` if there are none.
    pub fn surviving(&self) -> Option<String> {
        let (are, why) = if self.count == 1 {
            ("is", "it belongs to another user or hangs in the kernel; the run ends when it ends")
        } else {
            ("are", "they belong to another user or hang in the kernel; the run ends when they end")
        };
        let told = self.told(&format!("cannot be killed and {are} still running"))?;
        Some(format!("{told}; {why}"))
    }

    fn told(&self, what: &str) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let processes = if self.count == 1 { "process" } else { "processes" };
        let name = |process: &KilledProcess| match process.name.as_str() {
            "" => format!("process {}", process.pid),
            name => format!("{name} ({})", process.pid),
        };
        let names: Vec<_> = self.named.iter().map(name).collect();
        let more = match self.count.saturating_sub(names.len() as u64) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!("{} {processes} {what}: {}{more}", self.count, names.join(", ")))
    }
}

/// Replaces characters that control a terminal or change the reading direction, because a process chooses its own name.
fn printable(name: &str) -> String {
    let turns =
        |c| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}');
    name.chars().map(|c| if c.is_control() || turns(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn killed(names: &[&str]) -> Killed {
        let mut killed = Killed::default();
        for (pid, name) in (4711..).zip(names) {
            killed.add(pid, || Some((*name).to_owned()));
        }
        killed
    }

    #[test]
    fn killed_sentence_names_some_processes_and_counts_the_rest() {
        let all = killed(&["sleep", "node", "python3"]);
        assert_eq!(
            all.at_end(false).as_deref(),
            Some(
                "3 processes were still running when the script ended, and were killed: sleep (4711), node (4712), python3 (4713)"
            )
        );
        assert_eq!(
            killed(&["sleep"]).at_end(true).as_deref(),
            Some("1 process had not ended by itself, and was killed: sleep (4711)")
        );
        let told = killed(&["x"; 17]).in_recovery().expect("some were");
        assert!(told.starts_with("17 processes were still running, and were killed: x (4711), "), "{told}");
        assert!(told.ends_with(", x (4720) and 7 more"), "{told}");
        assert_eq!(Killed::default().at_end(false), None);
    }

    #[test]
    fn killed_process_names_are_printable_and_can_be_missing() {
        let mut all = killed(&["a\x1b[2Jb\n\u{202e}c"]);
        assert_eq!(all.named[0].name, "a\u{fffd}[2Jb\u{fffd}\u{fffd}c");
        all.add(5, || None);
        assert!(all.at_end(false).is_some_and(|told| told.ends_with(", process 5")));
    }
}
