//! One process, as `/proc` shows it.

use std::fs;
use std::io;

use super::shortage::is_shortage;

/// The identity of a process, unique within one boot: a pid is reused, a pid with its start time is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The process id.
    pub pid: u32,
    /// Start time in clock ticks since boot (`proc_pid_stat(5)`, field 22).
    pub start_ticks: u64,
}

/// The state of a process as far as a pause needs it, the most active first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProcState {
    /// It runs, or anything can wake it.
    Awake,
    /// It sleeps uninterruptibly: a signal takes effect only after that.
    Uninterruptible,
    /// Every thread is stopped, at least one of them by a signal.
    Stopped,
    /// Every thread is stopped by a tracer, such as a debugger.
    Traced,
    /// A zombie, or gone. Not alive.
    Dead,
}

impl ProcState {
    /// Returns whether it does nothing until another process continues it.
    pub const fn is_stopped(self) -> bool {
        match self {
            Self::Stopped | Self::Traced => true,
            Self::Awake | Self::Uninterruptible | Self::Dead => false,
        }
    }
}

/// One process at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The identity.
    pub identity: Identity,
    /// Its parent's pid.
    pub ppid: u32,
    /// Its state, taken from all threads.
    pub state: ProcState,
    /// Whether one of its threads runs, or waits for a processor or a disk. Such a process has work to do and is not held up by
    /// another process.
    pub is_busy: bool,
}

/// Reads `/proc/<pid>/stat`, and those of its threads if there are several. `NotFound` if the process does not exist.
pub fn read_stat(pid: u32) -> io::Result<Stat> {
    let Fields { letter, ppid, threads, start_ticks, .. } = fields_of(pid)?;
    let (state, is_busy) = if threads > 1 { state_of_threads(pid)? } else { (state_of(letter), is_busy(letter)) };
    Ok(Stat { identity: Identity { pid, start_ticks }, ppid, state, is_busy })
}

/// Returns whether the process executes no more instructions of its program but is not dead yet. It is releasing what it has:
/// first its memory, which contains the environment.
pub(super) fn is_leaving(pid: u32) -> io::Result<bool> {
    /// `PF_EXITING` and `PF_KTHREAD` of the kernel's `include/linux/sched.h`. A kernel thread never had an environment.
    const EXITING: u32 = 0x4;
    const KERNEL_THREAD: u32 = 0x0020_0000;
    let Fields { letter, flags, .. } = fields_of(pid)?;
    Ok(state_of(letter) != ProcState::Dead && flags & (EXITING | KERNEL_THREAD) == EXITING)
}

/// Returns whether the process has memory but no environment in it, not even an empty one. Then the kernel is about to lay out a
/// new program.
pub(super) fn is_in_execve(pid: u32) -> io::Result<bool> {
    fields_of(pid).map(|fields| fields.memory_bytes > 0 && fields.env_end == Some(0))
}

/// The resources that one process uses, including those of its children that it has waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// The CPU time, in clock ticks.
    pub(super) cpu_ticks: u64,
    /// The memory of the process itself that is not swapped out.
    pub(super) resident_bytes: u64,
    /// Whether it is alive. A zombie is not, but its time counts until it is reaped.
    pub(super) is_alive: bool,
}

/// Reads the resources that a process uses, without a lock of its memory.
pub(super) fn read_share(pid: u32) -> io::Result<Share> {
    let Fields { letter, cpu_ticks, resident_pages, .. } = fields_of(pid)?;
    let resident_bytes = resident_pages.saturating_mul(rustix::param::page_size() as u64);
    Ok(Share { cpu_ticks, resident_bytes, is_alive: state_of(letter) != ProcState::Dead })
}

fn fields_of(pid: u32) -> io::Result<Fields> {
    let raw = fs::read(format!("/proc/{pid}/stat")).map_err(gone_as_not_found)?;
    parse(&raw).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc stat"))
}

/// Turns ESRCH into `NotFound`: a read fails with ESRCH instead of ENOENT if the process ends during it.
pub(super) fn gone_as_not_found(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) { io::ErrorKind::NotFound.into() } else { error }
}

/// Returns the state of the most active thread: the first thread can be a zombie while others continue to work.
fn state_of_threads(pid: u32) -> io::Result<(ProcState, bool)> {
    let (mut all, mut any_busy) = (ProcState::Dead, false);
    for entry in fs::read_dir(format!("/proc/{pid}/task")).map_err(gone_as_not_found)? {
        let Ok(entry) = entry else { continue };
        // A thread that has ended meanwhile is not awake.
        let raw = match fs::read(entry.path().join("stat")) {
            Err(error) if is_shortage(&error) => return Err(error),
            Err(_) => continue,
            Ok(raw) => raw,
        };
        let Some(fields) = parse(&raw) else { continue };
        any_busy |= is_busy(fields.letter);
        all = all.min(state_of(fields.letter));
    }
    Ok((all, any_busy))
}

fn is_busy(letter: u8) -> bool {
    matches!(letter, b'R' | b'D')
}

/// Maps the letters of `proc_pid_stat(5)`, field 3.
fn state_of(letter: u8) -> ProcState {
    match letter {
        b'T' => ProcState::Stopped,
        b't' => ProcState::Traced,
        b'Z' | b'X' | b'x' => ProcState::Dead,
        b'D' => ProcState::Uninterruptible,
        // R, S, I, P, W, K: none of these is stopped.
        _ => ProcState::Awake,
    }
}

struct Fields {
    letter: u8,
    ppid: u32,
    flags: u32,
    /// CPU time in user mode and in the kernel, of the process and of the children that it has waited for.
    cpu_ticks: u64,
    threads: u32,
    start_ticks: u64,
    /// 0 for a process without memory, such as a zombie.
    memory_bytes: u64,
    resident_pages: u64,
    /// The address at which its environment ends.
    env_end: Option<u64>,
}

/// Parses the fields after the command name, which is in parentheses and can itself contain spaces and parentheses.
fn parse(raw: &[u8]) -> Option<Fields> {
    let after_name = raw.iter().rposition(|&byte| byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&raw[after_name..]).ok()?.split_ascii_whitespace();
    // Some fields are signed.
    let amount = |text: &str| text.parse::<i64>().ok().map(|amount| u64::try_from(amount).unwrap_or(0));
    // Counted from field 3: 4 ppid, 9 flags, 14 to 17 utime, stime, cutime and cstime, 20 num_threads, 22 starttime, 23 vsize,
    // 24 rss, 51 env_end.
    Some(Fields {
        letter: *fields.next()?.as_bytes().first()?,
        ppid: fields.next()?.parse().ok()?,
        flags: fields.nth(4)?.parse().ok()?,
        cpu_ticks: amount(fields.nth(4)?)? + amount(fields.next()?)? + amount(fields.next()?)? + amount(fields.next()?)?,
        threads: fields.nth(2)?.parse().ok()?,
        start_ticks: fields.nth(1)?.parse().ok()?,
        memory_bytes: fields.next()?.parse().ok()?,
        resident_pages: amount(fields.next()?)?,
        env_end: fields.nth(26).and_then(|end| end.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_name_does_not_shift_stat_fields() {
        let raw = b"42 (a) R 1 (b) T 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 12345 1 2\n";
        let fields = parse(raw).expect("well formed");
        assert_eq!((fields.letter, fields.ppid, fields.flags, fields.threads), (b'T', 7, 4_194_560, 3));
        assert_eq!((fields.start_ticks, fields.memory_bytes, fields.env_end), (12345, 1, None));
        assert_eq!((fields.cpu_ticks, fields.resident_pages), (5 + 6 + 7 + 8, 2));
    }

    #[test]
    fn truncated_stat_is_rejected() {
        for raw in [&b""[..], b"42", b"42 (x)", b"42 (x) S 1 1", b"42 (x) S a b c d"] {
            assert!(parse(raw).is_none());
        }
    }

    #[test]
    fn stat_reads_own_process_and_rejects_unknown_pid() {
        let me = read_stat(std::process::id()).expect("alive");
        assert_eq!(me.state, ProcState::Awake);
        assert_eq!(read_stat(u32::MAX / 2).expect_err("no such process").kind(), io::ErrorKind::NotFound);
    }
}
