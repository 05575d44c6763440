//! Settings of this process, and the id of the boot.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::absent::if_there;

/// The core dump limit that prevents any dump, in bytes. With 0 the kernel would still start the program of a `core_pattern` that
/// is a pipe, such as systemd-coredump. With 1 it does not (`do_coredump` in the kernel's `fs/coredump.c`), and a file of one
/// byte is too small to be written.
const NO_CORE_BYTES: u64 = 1;

/// The value of [`boot_id`] if the id is unknown. It equals itself, so processes left behind by a run of an unknown boot are
/// searched for.
pub const UNKNOWN_BOOT: &str = "unknown";

/// Returns the random id of this boot (`random(4)`, `/proc/sys/kernel/random/boot_id`). A `/proc` that contains only processes
/// (`subset=pid` in `proc(5)`, `ProcSubset=pid` in a systemd unit) has no such file.
pub fn boot_id() -> io::Result<String> {
    let id = if_there(fs::read_to_string("/proc/sys/kernel/random/boot_id"))?;
    Ok(id.as_deref().map_or(UNKNOWN_BOOT, str::trim).to_owned())
}

/// Prevents core dumps of this process, whose memory holds tokens or a pipeline's environment. Returns the previous soft limit in
/// bytes, which pipelines get back; `None` means unlimited.
///
/// Does not use `PR_SET_DUMPABLE(2const)`, which also restricts `/proc/<pid>`: a server of the same user reads the working
/// directory of a shim that it lost there, and the user may want to see a process's open files. Only the soft limit changes, so
/// that it can be restored.
pub fn disable_core_dumps() -> io::Result<Option<u64>> {
    let before = getrlimit(Resource::Core);
    let current = Some(before.maximum.map_or(NO_CORE_BYTES, |most| most.min(NO_CORE_BYTES)));
    setrlimit(Resource::Core, Rlimit { current, ..before })?;
    Ok(before.current)
}

/// Makes this process inherit every orphan of its tree (`PR_SET_CHILD_SUBREAPER(2const)`).
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Leaves the caller's session and terminal. Fails in a process-group leader (`setsid(2)`).
pub fn begin_session() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Unblocks every signal for this thread and for everything that it starts: a mask survives execve(2).
pub fn unblock_signals() -> io::Result<()> {
    Ok(nix::sys::signal::SigSet::empty().thread_set_mask()?)
}

/// Turns a write beyond the limit of a file's size (`ulimit -f`, `LimitFSIZE=`) into an error. Otherwise `SIGXFSZ` would end
/// this process (`setrlimit(2)`).
///
/// The signal is caught, not ignored, so that it has its default action in programs that this process executes (`execve(2)`).
pub fn survive_file_size_limit() -> io::Result<()> {
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    Ok(())
}

/// Returns whether this process ignores a signal, as set by the program that started it (`proc_pid_status(5)`, `SigIgn`).
pub fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set & (1 << (signal - 1)) != 0)
}
