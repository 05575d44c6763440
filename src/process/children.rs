//! The children of this process, as reported by `wait(2)`.
//!
//! `/proc` can hide another user's process (`hidepid` in `proc(5)`), and a kernel without `CONFIG_PROC_CHILDREN` lists no
//! children. A parent can wait for each of its children, whatever `/proc` shows.

use std::io;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions};

use super::signal::raw_pid;
use super::stat::{ProcState, read_stat};
use super::tree::{children_of, has_children_files};
use crate::pipeline::{Exit, Fact};

/// Returns whether a child of this process is alive. When a process dies, its children become this process's children before its
/// death is visible, so without a living child there is no living descendant.
pub fn has_living_child() -> io::Result<bool> {
    // Only a living process can stop or be continued. The kernel checks all children in one step. If none of them can do that
    // any more, even if there are dead ones, there is nothing to wait for.
    let options = WaitIdOptions::STOPPED | WaitIdOptions::CONTINUED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match rustix::process::waitid(WaitId::All, options) {
        Err(Errno::CHILD) => Ok(false),
        Err(error) => Err(error.into()),
        // A dead child that is traced counts until its tracer has waited for it.
        Ok(_) => Ok(!are_all_seen_dead()?),
    }
}

/// Returns whether `/proc` shows each child, and shows it as dead.
fn are_all_seen_dead() -> io::Result<bool> {
    if !has_children_files() {
        return Ok(false);
    }
    let me = std::process::id();
    let children = children_of(me)?;
    let is_dead = |&pid: &u32| read_stat(pid).is_ok_and(|stat| stat.state == ProcState::Dead);
    // The list is older than the checks: a child that died in between passed its children on after the list was made. A second
    // list without a new child shows that no child did.
    Ok(children.iter().all(is_dead) && children_of(me)? == children)
}

/// Reaps every child of this process that has ended, except `keep`.
pub fn reap_all_but(keep: Option<u32>) {
    let Some(keep) = keep else {
        while matches!(rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG), Ok(Some(_))) {}
        return;
    };
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    if !matches!(rustix::process::waitid(WaitId::All, look), Ok(Some(_))) {
        return;
    }
    // A child that is not in the list stays a zombie until `keep` is `None`.
    for pid in children_of(std::process::id()).unwrap_or_default().into_iter().filter(|&pid| pid != keep) {
        let _not_ended_yet = reap(pid);
    }
}

/// Returns how our child `pid` ended, without reaping it, so its pid stays valid. `None` if it has not ended.
pub fn peek_exit(pid: u32) -> io::Result<Option<Exit>> {
    wait(pid, WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
}

/// Returns whether a SIGCONT has continued our child `pid` since it was last stopped. A child that a SIGKILL is ending is awake
/// too, but was not continued (`waitid(2)`, `WCONTINUED`). Other code must not wait for that status. An error if the child has
/// ended.
pub fn was_continued(pid: u32) -> io::Result<bool> {
    let options = WaitIdOptions::CONTINUED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(rustix::process::waitid(WaitId::Pid(raw_pid(pid)?), options)?.is_some_and(|status| status.continued()))
}

/// Reaps our child `pid`. `None` if it has not ended yet.
pub fn reap(pid: u32) -> io::Result<Option<Exit>> {
    wait(pid, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
}

fn wait(pid: u32, options: WaitIdOptions) -> io::Result<Option<Exit>> {
    let Some(status) = rustix::process::waitid(WaitId::Pid(raw_pid(pid)?), options)? else {
        return Ok(None);
    };
    Ok(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(Exit::Code(code)),
        (None, Some(signal)) => Some(Exit::Signal(signal)),
        (None, None) => None,
    })
}

/// Waits until our child `pid` has ended, and reaps it.
pub fn wait_for_end(pid: u32) -> io::Result<()> {
    let pid = raw_pid(pid)?;
    rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED))?;
    Ok(())
}

/// Returns the fact `usage`: what all reaped children of this process used, and the children that those had reaped
/// (`getrusage(2)`, `RUSAGE_CHILDREN`). The peak memory of all of them together is passed in: as counted by the kernel, or else the
/// highest measurement, which can have missed a short peak of the largest process.
pub fn usage_of_children(counted_peak_bytes: Option<u64>, seen_peak_bytes: Option<u64>) -> io::Result<Fact> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let max_rss_kb = u64::try_from(usage.max_rss()).unwrap_or(0);
    Ok(Fact::Usage {
        cpu_user_ms: ms(usage.user_time()),
        cpu_system_ms: ms(usage.system_time()),
        max_rss_kb,
        memory_peak_bytes: counted_peak_bytes.or_else(|| Some(seen_peak_bytes?.max(max_rss_kb * 1024))),
    })
}

/// Returns the CPU time of all reaped children of this process, and of the children that those had reaped, in milliseconds.
pub(super) fn reaped_cpu_ms() -> io::Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok(ms(usage.user_time()) + ms(usage.system_time()))
}

fn ms(time: TimeVal) -> u64 {
    u64::try_from(time.tv_sec()).unwrap_or(0) * 1000 + u64::try_from(time.tv_usec()).unwrap_or(0) / 1000
}
