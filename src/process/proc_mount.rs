//! Whether `/proc` shows the processes of this process's own PID namespace.

use std::fs;
use std::io;

const ADVICE: &str = "the server needs the process ids of its own namespace; mount it with `mount -t proc proc /proc` (with \
                      unshare(1), --mount-proc)";

/// Checks that the process ids in `/proc` are those that this process uses. In the `/proc` of another PID namespace, the ids of
/// this run's processes belong to other processes (`pid_namespaces(7)`).
pub fn check_proc() -> io::Result<()> {
    let problem = match fs::read_to_string("/proc/self/status") {
        Ok(status) if is_of_own_namespace(&status, std::process::id()) => return Ok(()),
        Ok(_) => "/proc belongs to another PID namespace".to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            "/proc is not mounted, or belongs to another PID namespace".to_owned()
        }
        Err(error) => format!("/proc/self/status cannot be read: {error}"),
    };
    Err(io::Error::other(format!("{problem}; {ADVICE}")))
}

/// Returns whether `status` shows this process under the number `own` alone. `NSpid` lists the process's ids from the namespace
/// of `/proc` down to its own (`proc_pid_status(5)`). A kernel without namespaces has no such line.
fn is_of_own_namespace(status: &str, own: u32) -> bool {
    let numbers = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::split_ascii_whitespace);
    numbers("NSpid:").or_else(|| numbers("Pid:")).is_some_and(|numbers| numbers.eq([&*own.to_string()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_of_outer_pid_namespace_is_detected() {
        check_proc().expect("tests run with their own");
        for (status, is_own) in [
            ("Name:\tx\nPid:\t7\nNSpid:\t7\n", true),
            ("Name:\tx\nPid:\t7\n", true),
            ("Name:\tx\nPid:\t8\n", false),
            // The process has the same id in both namespaces.
            ("Name:\tx\nPid:\t7\nNSpid:\t7\t7\n", false),
            ("Name:\tx\nPid:\t4711\nNSpid:\t4711\t7\n", false),
            ("", false),
        ] {
            assert_eq!(is_of_own_namespace(status, 7), is_own, "{status:?}");
        }
    }
}
