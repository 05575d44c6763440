//! What an answer costs: the thread that answers `GET /api/pipeline` on a kept connection makes two system calls for it, no more. Seen as
//! `strace` sees it, through `ptrace(2)`.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::thread;

use nix::libc::{SYS_clock_gettime, c_long};
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use support::wire::Wire;
use support::{Place, not_run, until};

/// The thread of the server's newest connection.
fn thread_of_the_connection(server: u32) -> Option<Pid> {
    let threads = fs::read_dir(format!("/proc/{server}/task")).ok()?.flatten();
    let numbered = threads.filter_map(|thread| {
        let name = fs::read_to_string(thread.path().join("comm")).ok()?;
        let number: u64 = name.trim().strip_prefix("http-")?.parse().ok()?;
        Some((number, thread.file_name().to_str()?.parse().ok()?))
    });
    numbered.max().map(|(_, tid)| Pid::from_raw(tid))
}

/// Which system call a stopped thread is in, by its number (`proc_pid_syscall(5)`).
fn system_call_of(server: u32, tid: Pid) -> c_long {
    let text = fs::read_to_string(format!("/proc/{server}/task/{tid}/syscall")).expect("its tracer may look");
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("it is in no call: {text:?}"))
}

/// To read the clock is a system call only on a machine whose clock cannot be read without one (`vdso(7)`).
const CLOCK: c_long = SYS_clock_gettime;

/// Follows a traced thread, which is stopped, to its end: how often it began which system call, by its number.
fn calls_until_its_end(server: u32, tid: Pid) -> BTreeMap<c_long, usize> {
    let mut counts = BTreeMap::new();
    let mut is_inside = false;
    loop {
        ptrace::syscall(tid, None).expect("it is stopped");
        match waitpid(tid, Some(WaitPidFlag::__WALL)).expect("it is traced") {
            // A call has two stops, the first one before it is done.
            WaitStatus::PtraceSyscall(_) => {
                is_inside = !is_inside;
                let number = if is_inside { system_call_of(server, tid) } else { CLOCK };
                if number != CLOCK {
                    *counts.entry(number).or_insert(0) += 1;
                }
            }
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return counts,
            _ => {}
        }
    }
}

#[test]
fn a_get_on_a_kept_connection_is_one_read_and_one_write() {
    const REQUESTS: usize = 1_000;
    /// Taking leave of the connection and ending the thread; now and then the allocator takes or gives back memory.
    const ALL_ELSE: usize = 40;

    let place = Place::serving("sleep.sh");
    place.start();
    let server = place.server_pid();
    let mut wire = Wire::open(place.port());
    // What is done once for a connection is done.
    wire.get("/api/pipeline").ok();
    let tid = until("the connection has its thread", || thread_of_the_connection(server));
    if let Err(error) = ptrace::seize(tid, Options::PTRACE_O_TRACESYSGOOD) {
        not_run(&format!("this machine lets nobody trace: {error}"), "AUTOAPPDEV_REQUIRE_PTRACE");
        return;
    }
    ptrace::interrupt(tid).expect("it is traced");
    waitpid(tid, Some(WaitPidFlag::__WALL)).expect("it is traced");
    // The client asks from a thread of its own, for only the one that traces can let the server's go on; then it hangs up.
    let client = thread::spawn(move || {
        for _ in 0..REQUESTS {
            wire.get("/api/pipeline").ok();
        }
    });
    let counts = calls_until_its_end(server, tid);
    client.join().expect("every request was answered");
    let (often, seldom): (Vec<usize>, Vec<usize>) = counts.values().partition(|&&count| count >= REQUESTS);
    // The write of each answer; the read of each request, and of the end; one that the tracer interrupted is begun again.
    assert!(
        often.len() == 2 && often.iter().all(|&count| count <= REQUESTS + 2) && seldom.iter().sum::<usize>() <= ALL_ELSE,
        "{REQUESTS} requests, and system calls by their numbers: {counts:?}"
    );
}
