//! The children of this process, as `wait(2)` knows them. `/proc` can hide another user's process (`hidepid` in `proc(5)`), and a kernel
//! without `CONFIG_PROC_CHILDREN` lists no children; a parent can wait for each of its own whatever `/proc` shows.

use std::io;

use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions};

use super::tree::{children_of, has_children_files};
use super::{ProcState, read_stat, reap};

/// Whether a child of this process is alive. A child of a process that dies becomes this one's before anything can see that death, so
/// without a living child there is no living descendant.
pub fn has_living_child() -> io::Result<bool> {
    // Only a living process can stop or be continued. The kernel checks all children in one step, and if none can do that any more, dead
    // ones or not, there is nothing to wait for.
    let options = WaitIdOptions::STOPPED | WaitIdOptions::CONTINUED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match rustix::process::waitid(WaitId::All, options) {
        Err(Errno::CHILD) => Ok(false),
        Err(error) => Err(error.into()),
        // A dead child that is traced counts, until its tracer has waited for it.
        Ok(_) => Ok(!are_all_seen_dead()?),
    }
}

/// Whether `/proc` shows each child, and shows it dead.
fn are_all_seen_dead() -> io::Result<bool> {
    if !has_children_files() {
        return Ok(false);
    }
    let me = std::process::id();
    let children = children_of(me)?;
    let is_dead = |&pid: &u32| read_stat(pid).is_ok_and(|stat| stat.state == ProcState::Dead);
    // The list is older than the checks: a child that died in between passed its children on after the list was made. A second list without a
    // new child shows that none did.
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
    // A child that is not in the list stays a zombie until no child is kept any more.
    for pid in children_of(std::process::id()).unwrap_or_default().into_iter().filter(|&pid| pid != keep) {
        let _not_ended_yet = reap(pid);
    }
}
