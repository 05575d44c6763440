//! The cost of a response: the thread that serves `GET /api/pipeline` on a kept-alive connection makes two system calls for it,
//! and no request costs more because the history is long. The calls are counted through `ptrace(2)`, as `strace` does.

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

/// Returns the thread of the server's newest connection.
fn thread_of_the_connection(server: u32) -> Option<Pid> {
    let threads = fs::read_dir(format!("/proc/{server}/task")).ok()?.flatten();
    let numbered = threads.filter_map(|thread| {
        let name = fs::read_to_string(thread.path().join("comm")).ok()?;
        let number: u64 = name.trim().strip_prefix("http-")?.parse().ok()?;
        Some((number, thread.file_name().to_str()?.parse().ok()?))
    });
    numbered.max().map(|(_, tid)| Pid::from_raw(tid))
}

/// Returns the number of the system call that a stopped thread is in (`proc_pid_syscall(5)`).
fn system_call_of(server: u32, tid: Pid) -> c_long {
    let text = fs::read_to_string(format!("/proc/{server}/task/{tid}/syscall")).expect("its tracer may look");
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("it is in no call: {text:?}"))
}

/// Reading the clock is a system call only on a machine whose clock cannot be read without one (`vdso(7)`).
const CLOCK: c_long = SYS_clock_gettime;

/// Follows a traced, stopped thread to its end. Returns how often it began each system call, by number.
fn calls_until_its_end(server: u32, tid: Pid) -> BTreeMap<c_long, usize> {
    let mut counts = BTreeMap::new();
    let mut is_inside = false;
    // A signal for the traced thread must be passed on.
    let mut signal = None;
    loop {
        ptrace::syscall(tid, signal.take()).expect("it is stopped");
        match waitpid(tid, Some(WaitPidFlag::__WALL)).expect("it is traced") {
            // Each call stops the thread twice: before and after it.
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
fn get_on_kept_alive_connection_takes_one_read_and_one_write() {
    const REQUESTS: usize = 1_000;
    /// Closing the connection and ending the thread. Sometimes the allocator also requests or returns memory.
    const ALL_ELSE: usize = 40;

    let place = Place::serving("sleep.sh");
    place.start();
    let server = place.server_pid();
    let mut wire = Wire::open(place.port());
    // The work that is done once for each connection is done.
    wire.get("/api/pipeline").ok();
    let tid = until("the connection has its thread", || thread_of_the_connection(server));
    if let Err(error) = ptrace::seize(tid, Options::PTRACE_O_TRACESYSGOOD) {
        not_run(&format!("this machine lets nobody trace: {error}"), "AUTOAPPDEV_REQUIRE_PTRACE");
        return;
    }
    ptrace::interrupt(tid).expect("it is traced");
    waitpid(tid, Some(WaitPidFlag::__WALL)).expect("it is traced");
    // The client sends its requests from another thread, because only the tracing thread can resume the server's thread. Then it
    // closes the connection.
    let client = thread::spawn(move || {
        for _ in 0..REQUESTS {
            wire.get("/api/pipeline").ok();
        }
    });
    let counts = calls_until_its_end(server, tid);
    client.join().expect("every request was answered");
    let (often, seldom): (Vec<usize>, Vec<usize>) = counts.values().partition(|&&count| count >= REQUESTS);
    // The write of each response, the read of each request and of the end, and one call that the tracer interrupted and that is
    // repeated.
    assert!(
        often.len() == 2 && often.iter().all(|&count| count <= REQUESTS + 2) && seldom.iter().sum::<usize>() <= ALL_ELSE,
        "{REQUESTS} requests, and system calls by their numbers: {counts:?}"
    );
}

/// Counts the system calls that a thread begins from now until it ends. Joining the returned handle yields the count.
fn calls_of(server: u32, tid: Pid) -> thread::JoinHandle<usize> {
    let (tell, told) = std::sync::mpsc::channel();
    // Only the thread that traces another can resume it.
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

/// Returns the server's thread of this name.
fn thread_named(server: u32, name: &str) -> Pid {
    until(name, || {
        let mut threads = fs::read_dir(format!("/proc/{server}/task")).ok()?.flatten();
        let has_name =
            |thread: &fs::DirEntry| fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim() == name);
        threads.find(has_name).and_then(|thread| Some(Pid::from_raw(thread.file_name().to_str()?.parse().ok()?)))
    })
}

/// Adds this many ended runs, each with a line in its log.
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

/// Returns the number of system calls that are needed to serve requests about a history of this many runs, and to begin and end
/// one more run: by the connection's thread, the supervisor's, and the retention's. Returns `None` if nothing can be traced.
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
fn long_history_needs_no_more_system_calls() {
    let (Some(short), Some(long)) = (calls_with_history(10), calls_with_history(1_500)) else { return };
    for (name, (short, long)) in ["reading", "acting", "keeping"].into_iter().zip(short.into_iter().zip(long)) {
        // A binary search for a position needs some more reads.
        assert!(2 * long <= 3 * short + 300, "{name}: {short} system calls with 10 runs, {long} with 1,500");
        println!("{name}: {short} system calls with 10 runs, {long} with 1,500");
    }
}
