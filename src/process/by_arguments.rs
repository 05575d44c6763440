//! Finds processes by the arguments that they were started with.
//!
//! Any process can be started with any arguments, and can change them later. So only processes that no other user can have
//! started count.

use std::fs::File;
use std::io::{self, Read};

use super::owner::is_of_own_user;
use super::shortage::is_shortage;
use super::tree::all_pids;

/// The maximum size of the arguments that are read, in bytes: more than a path (`PATH_MAX`) and a few words need.
const ARGUMENTS_BYTES_MAX: u64 = 8192;

/// Returns what `pick` makes of the arguments of live processes of this user, with their pids. The arguments include the
/// program's name. Processes for which `pick` returns `None` are left out.
///
/// A shortage ([`is_shortage`]) is an error: a process that could not be read may be one of them.
pub fn with_arguments<T>(pick: impl Fn(&[&[u8]]) -> Option<T>) -> io::Result<Vec<(T, u32)>> {
    let mut found = Vec::new();
    for pid in all_pids()? {
        found.extend(look_at(pid, &pick)?.map(|picked| (picked, pid)));
    }
    Ok(found)
}

/// Returns whether this user started the process as the shim of a run, in any directory. A shim keeps its arguments when the
/// server is replaced and when its directory is moved. An error only for a shortage.
pub fn is_shim(pid: u32) -> io::Result<bool> {
    Ok(look_at(pid, |arguments| matches!(arguments, [_, b"shim", _]).then_some(()))?.is_some())
}

fn look_at<T>(pid: u32, pick: impl Fn(&[&[u8]]) -> Option<T>) -> io::Result<Option<T>> {
    let look = || -> io::Result<Option<T>> {
        // The user is checked before the arguments are opened, because a process can delay a read of its arguments for as long
        // as it likes. Processes of root do not count either: another user can start a set-user-ID program that makes all of its
        // users root.
        if !is_of_own_user(pid)? {
            return Ok(None);
        }
        let mut text = Vec::new();
        File::open(format!("/proc/{pid}/cmdline"))?.take(ARGUMENTS_BYTES_MAX).read_to_end(&mut text)?;
        // Each argument ends with a zero byte. A dead process has no arguments (`proc_pid_cmdline(5)`).
        let Some(text) = text.strip_suffix(&[0]) else { return Ok(None) };
        let arguments: Vec<&[u8]> = text.split(|&byte| byte == 0).collect();
        Ok(pick(&arguments))
    };
    match look() {
        Err(error) if is_shortage(&error) => Err(error),
        // The process can end at any point of this check.
        looked => Ok(looked.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn process_is_found_by_its_arguments_only_if_no_other_user_started_it() {
        let mark = format!("autoappdev-test-{}", std::process::id());
        let start = |user: Option<u32>| {
            let mut command = Command::new("cat");
            // It reads its standard input, which does not end before the test does.
            command.args(["-u", "-", &mark]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            if let Some(user) = user {
                command.uid(user);
            }
            command.spawn().expect("there is a cat")
        };
        let pick = |arguments: &[&[u8]]| match arguments {
            [_, b"-u", b"-", last] if *last == mark.as_bytes() => Some(()),
            _ => None,
        };
        let mut children = vec![start(None)];
        let own = children[0].id();
        if rustix::process::geteuid().is_root() {
            children.push(start(Some(65_534)));
        }
        assert_eq!(with_arguments(pick).expect("a list"), [((), own)]);
        assert!(with_arguments(|arguments| (arguments.len() == 999).then_some(())).expect("a list").is_empty());
        for mut child in children {
            child.kill().expect("ours");
            child.wait().expect("ours");
        }
        assert!(with_arguments(pick).expect("a list").is_empty());
    }
}
