//! Whether a path leads another process to the same file as this one.

use std::fs;
use std::path::PathBuf;

/// Returns whether process `pid` has the mount namespace and the root directory of this process. False also if it cannot be
/// read.
///
/// A file system that the other process uses cannot delay this check: it only compares the texts of two of the kernel's own
/// links (`proc_pid_ns(5)`, `proc_pid_root(5)`).
pub fn has_our_paths(pid: u32) -> bool {
    ["ns/mnt", "root"].iter().all(|link| {
        let text = |process: String| -> Option<PathBuf> { fs::read_link(format!("/proc/{process}/{link}")).ok() };
        text("self".to_owned()).is_some_and(|ours| text(pid.to_string()) == Some(ours))
    })
}
