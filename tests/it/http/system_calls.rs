//! What an answer costs: the thread that answers `GET /api/pipeline` on a kept connection makes two system calls for it, no more, and
//! nothing costs more because the history is long. Seen as `strace` sees it, through `ptrace(2)`.

use std::collections::BTreeMap;
use std::fs;
use std::thread;

use nix::libc::{SYS_clock_gettime, c_long};
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rusqlite::Connection;
use serde_json::Value;

use crate::support::wire::Wire;
use crate::support::{Place, not_run, until};

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
    // A signal for a traced thread is not lost.
    let mut signal = None;
    loop {
        ptrace::syscall(tid, signal.take()).expect("it is stopped");
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
            WaitStatus::Stopped(_, number) => signal = Some(number),
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

/// The number of system calls that a thread begins until this ends.
fn calls_of(server: u32, tid: Pid) -> thread::JoinHandle<usize> {
    let (tell, told) = std::sync::mpsc::channel();
    // Only the thread that traces another can let it go on.
    let tracer = thread::spawn(move || {
        ptrace::seize(tid, Options::PTRACE_O_TRACESYSGOOD).expect("another was traced before");
        ptrace::interrupt(tid).expect("it is traced");
        waitpid(tid, Some(WaitPidFlag::__WALL)).expect("it is traced");
        tell.send(()).expect("waited for");
        calls_until_its_end(server, tid).values().sum()
    });
    told.recv().expect("it is traced");
    tracer
}

/// The server's thread of this name.
fn thread_named(server: u32, name: &str) -> Pid {
    until(name, || {
        let mut threads = fs::read_dir(format!("/proc/{server}/task")).ok()?.flatten();
        let has_name =
            |thread: &fs::DirEntry| fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim() == name);
        threads.find(has_name).and_then(|thread| Some(Pid::from_raw(thread.file_name().to_str()?.parse().ok()?)))
    })
}

/// This many ended runs, each with a line in its log.
fn make_history(place: &Place, runs: i64) {
    const LINE: &str = "2023-11-14T22:13:20.007Z o. a line\n";
    drop(place.store());
    let bytes = i64::try_from(LINE.len()).expect("short");
    let mut database = Connection::open(place.database()).expect("opens");
    let tx = database.transaction().expect("begins");
    for id in 1..=runs {
        tx.execute(
            "INSERT INTO pipeline_runs (id, status, pid, script, cwd, args, created_at, started_at, stopped_at, exit_code, log_start, log_end)
             VALUES (?1, 'completed', 1, 'exit.sh', '/', '[]', ?2, ?2, ?2, 0, ?3, ?4)",
            (id, "2023-11-14T22:13:20.007Z", (id - 1) * bytes, id * bytes),
        )
        .expect("inserts");
        tx.execute(
            "INSERT INTO pipeline_events (run_id, seq, at, kind) VALUES (?1, 0, ?2, 'starting')",
            (id, "2023-11-14T22:13:20.007Z"),
        )
        .expect("inserts");
        let log = place.run_dir(id).join("log");
        fs::create_dir_all(&log).expect("creates");
        fs::write(log.join(format!("{:020}.log", (id - 1) * bytes)), LINE).expect("writes");
    }
    tx.execute("UPDATE pipeline_state SET run_id = ?1", [runs]).expect("updates");
    tx.commit().expect("commits");
}

/// The system calls needed to answer about a history of this many runs, and to begin and end one more: by the connection's thread, by the
/// supervisor's, and by the one that keeps the limits. `None` where nothing can be traced.
fn calls_with_history(runs: i64) -> Option<[usize; 3]> {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "exit.sh");
    place.set_env("AUTOAPPDEV_RUNS_KEEP", "1000000");
    make_history(&place, runs);
    place.start_server();
    let server = place.server_pid();
    // The first pass over a new history reads all of it once, in the background.
    let settled = || {
        let text = fs::read(place.runtime().join("retention.json")).ok()?;
        serde_json::from_slice::<Value>(&text).ok()?["settled"].as_i64()
    };
    until("all is looked through", || settled().filter(|&settled| settled > runs - 32));
    let mut wire = Wire::open(place.port());
    wire.get("/api/pipeline").ok();
    let tid = until("the connection has its thread", || thread_of_the_connection(server));
    if let Err(error) = ptrace::seize(tid, Options::PTRACE_O_TRACESYSGOOD) {
        not_run(&format!("this machine lets nobody trace: {error}"), "AUTOAPPDEV_REQUIRE_PTRACE");
        return None;
    }
    ptrace::interrupt(tid).expect("it is traced");
    waitpid(tid, Some(WaitPidFlag::__WALL)).expect("it is traced");
    let client = thread::spawn(move || {
        let tail = wire.get("/api/logs/tail?limit=5").ok();
        assert_eq!(tail["lines"].as_array().map(Vec::len), Some(5));
        let end = tail["next"].as_u64().expect("a number");
        for path in [
            "/api/logs?limit=5".to_owned(),
            format!("/api/logs?limit=5&since={}", end / 2),
            format!("/api/logs?limit=5&since={end}"),
            "/api/runs?limit=5".to_owned(),
            format!("/api/runs?limit=5&before={}", runs / 2 + 2),
            format!("/api/runs/{}", runs / 2 + 1),
            format!("/api/logs?run={}", runs / 2 + 1),
        ] {
            wire.get(&path).ok();
        }
    });
    let reading = calls_until_its_end(server, tid).values().sum();
    client.join().expect("every request was answered");
    let threads = ["supervisor", "retention"].map(|name| calls_of(server, thread_named(server, name)));
    let (_, run_id) = place.start();
    assert_eq!(run_id, runs + 1);
    place.until_ended(run_id);
    place.until_no_shim();
    assert_eq!(place.stop_server(), 0);
    let [acting, keeping] = threads.map(|thread| thread.join().expect("it has ended"));
    Some([reading, acting, keeping])
}

#[test]
fn long_history_takes_no_more_system_calls_than_a_short_one() {
    let (Some(short), Some(long)) = (calls_with_history(10), calls_with_history(1_500)) else { return };
    for (name, (short, long)) in ["reading", "acting", "keeping"].into_iter().zip(short.into_iter().zip(long)) {
        // A binary search for a position takes some more reads.
        assert!(2 * long <= 3 * short + 300, "{name}: {short} system calls with 10 runs, {long} with 1,500");
        println!("{name}: {short} system calls with 10 runs, {long} with 1,500");
    }
}
