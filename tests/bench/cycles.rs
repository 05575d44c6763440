//! The life cycle: how long each action takes to complete, compared in turns with the same steps by bare system calls.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, mkfifoat};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, waitid};

use crate::numbers::Spread;
use crate::report;
use crate::support::wire::Wire;
use crate::support::{Place, until};

/// A time limit that is reached only if something is broken.
const PATIENCE: Duration = Duration::from_mins(1);

/// A script that reports that it runs, and then sleeps as the same process. The bare system calls run it too.
const SCRIPT: &str = "#!/bin/bash\necho > first-action\nexec sleep 1000\n";

/// The times of one step, in milliseconds.
#[derive(Default)]
struct Column {
    name: &'static str,
    ours: Vec<f64>,
    floor: Vec<f64>,
    /// The floor and one synced write, which is the minimum for a response about something recorded.
    durable: Vec<f64>,
    floor_is: &'static str,
}

/// Measures and prints.
pub(crate) fn bench(rounds: usize) {
    println!("## The life cycle\n");
    let mut place = Place::new();
    place.script("bench.sh", SCRIPT);
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "bench.sh");
    let fifo = first_action(&place.root()).expect("a FIFO");
    let disk = File::create(place.folder().join("synced")).expect("a file");

    let names = [
        ("start → the script's first action", "fork+exec"),
        ("start → answer", "fork+exec"),
        ("pause → answer", "SIGSTOP, seen"),
        ("resume → answer", "SIGCONT, seen"),
        ("stop → gone", "SIGTERM, seen"),
        ("stop → answer", "SIGTERM, seen"),
        ("first start ever → first 200", "fork+exec of `true`, its end"),
        ("start of the server → first 200", "fork+exec of `true`, its end"),
        ("kill -9, start of the server → run adopted, 200", "fork+exec of `true`, its end"),
    ];
    let mut columns: Vec<Column> = names.iter().map(|&(name, floor_is)| Column { name, floor_is, ..Column::default() }).collect();
    let mut syncs = Vec::new();
    let mut containment = None;
    for round in 0..rounds {
        // The bare calls come first in one round and last in the next.
        let before = (round % 2 == 0).then(|| bare(&place.root(), &fifo).expect("system calls"));
        let synced = sync(&disk).expect("a disk");
        let mut note = |at: usize, ours: Duration, floor: Duration| {
            columns[at].ours.push(ours.as_secs_f64() * 1e3);
            columns[at].floor.push(floor.as_secs_f64() * 1e3);
            columns[at].durable.push((floor + synced).as_secs_f64() * 1e3);
        };
        syncs.push(synced.as_secs_f64() * 1e3);
        let nothing = bare_start().expect("`true` is there");
        // A new folder for the very first start, and otherwise the same one for all.
        if round % 10 == 0 {
            let mut fresh = Place::new();
            note(6, first_answer(&mut fresh), nothing);
        }
        note(7, first_answer(&mut place), nothing);
        let run = controlled(&place, &fifo);
        place.kill_server();
        // No process of the killed server may delay the next one.
        note(8, adopted(&mut place, run.pid), nothing);
        let (gone, stopped) = stopped(&place, run.pid);
        containment = place.pipeline()["containment"].as_str().map(str::to_owned);
        place.stop_server();
        let floor = before.unwrap_or_else(|| bare(&place.root(), &fifo).expect("system calls"));
        note(0, run.first_action, floor.started);
        note(1, run.started, floor.started);
        note(2, run.paused, floor.paused);
        note(3, run.resumed, floor.resumed);
        note(4, gone, floor.gone);
        note(5, stopped, floor.gone);
    }
    let containment = containment.unwrap_or_default();
    println!("Containment: {containment}. Each value over {rounds} rounds; the very first start over {}.", rounds.div_ceil(10));
    let sync = Spread::of(&syncs);
    println!("One sync, 4 KiB appended and on the disk: {:.2} ms ({:.2}–{:.2}).\n", sync.median, sync.low, sync.high);
    let rows: Vec<Vec<String>> = columns
        .iter()
        .map(|column| {
            let (ours, floor) = (Spread::of(&column.ours), Spread::of(&column.floor));
            vec![
                column.name.to_owned(),
                format!("{:.2} ({:.2}–{:.2})", ours.median, ours.low, ours.high),
                format!("{:.3}", floor.median),
                Spread::of_ratios(&column.ours, &column.floor).text(),
                Spread::of_ratios(&column.ours, &column.durable).text(),
                column.floor_is.to_owned(),
            ]
        })
        .collect();
    report::table(&["", "ms (middle half)", "floor ms", "ratio", "ratio to floor + one sync", "the floor is"], &rows);
}

/// Creates the pipe on which the script reports that it runs, open at both ends.
fn first_action(root: &Path) -> io::Result<File> {
    let path = root.join("first-action");
    mkfifoat(rustix::fs::CWD, &path, Mode::from_raw_mode(0o600))?;
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

/// Returns when each of these became readable, measured from `since`.
fn readable<const N: usize>(fds: [BorrowedFd<'_>; N], since: Instant) -> [Duration; N] {
    let mut at = [None; N];
    while at.contains(&None) {
        let waiting: Vec<usize> = (0..N).filter(|&n| at[n].is_none()).collect();
        let mut polls: Vec<PollFd<'_>> = waiting.iter().map(|&n| PollFd::from_borrowed_fd(fds[n], PollFlags::IN)).collect();
        let limit = Timespec::try_from(PATIENCE).expect("a minute");
        let ready = poll(&mut polls, Some(&limit)).expect("open descriptors");
        assert!(ready > 0, "nothing came for {PATIENCE:?}");
        let now = since.elapsed();
        for (&n, poll) in waiting.iter().zip(&polls) {
            if !poll.revents().is_empty() {
                at[n] = Some(now);
            }
        }
    }
    at.map(Option::unwrap_or_default)
}

fn drain(mut fifo: &File) {
    let mut byte = [0; 16];
    let _empty_again = fifo.read(&mut byte);
}

struct Run {
    pid: u32,
    first_action: Duration,
    started: Duration,
    paused: Duration,
    resumed: Duration,
}

fn post(wire: &mut Wire, action: &str) {
    wire.send(format!("POST /api/pipeline/{action} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
}

/// Starts, pauses and resumes over HTTP on one connection.
fn controlled(place: &Place, fifo: &File) -> Run {
    let mut wire = Wire::open(place.port());
    let socket = wire.writer();
    let asked = Instant::now();
    post(&mut wire, "start");
    let [first_action, started] = readable([fifo.as_fd(), socket.as_fd()], asked);
    drain(fifo);
    let pid = wire.answer().ok()["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
    let mut timed = |action: &str| {
        let asked = Instant::now();
        post(&mut wire, action);
        let [answered] = readable([socket.as_fd()], asked);
        wire.answer().ok();
        answered
    };
    Run { pid, first_action, started, paused: timed("pause"), resumed: timed("resume") }
}

/// Stops the run. Returns when the process had ended, and when the response arrived.
fn stopped(place: &Place, pid: u32) -> (Duration, Duration) {
    let mut wire = Wire::open(place.port());
    let socket = wire.writer();
    let pid = Pid::from_raw(pid.cast_signed()).expect("a pid");
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("it lives");
    let asked = Instant::now();
    post(&mut wire, "stop");
    let [gone, answered] = readable([process.as_fd(), socket.as_fd()], asked);
    wire.answer().ok();
    (gone, answered)
}

/// Returns the time from the start of the server to its first response.
fn first_answer(place: &mut Place) -> Duration {
    let began = Instant::now();
    place.start_server();
    Wire::open(place.port()).get("/api/pipeline").ok();
    began.elapsed()
}

/// Returns the time from the start of a server after a kill until it reports the run.
fn adopted(place: &mut Place, pid: u32) -> Duration {
    let began = Instant::now();
    place.start_server();
    let mut wire = Wire::open(place.port());
    until("the run is adopted", || (wire.get("/api/pipeline").ok()["pipeline"]["pid"] == pid).then_some(()));
    began.elapsed()
}

struct Bare {
    started: Duration,
    paused: Duration,
    resumed: Duration,
    gone: Duration,
}

/// Runs the same script with no supervisor, which is the lower bound for any supervisor.
fn bare(root: &Path, fifo: &File) -> io::Result<Bare> {
    let began = Instant::now();
    let mut child = Command::new(root.join("bench.sh")).current_dir(root).stdin(Stdio::null()).spawn()?;
    let [started] = readable([fifo.as_fd()], began);
    drain(fifo);
    let pid = Pid::from_child(&child);
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let signalled = |signal, seen| -> io::Result<Duration> {
        let asked = Instant::now();
        kill_process(pid, signal)?;
        waitid(WaitId::Pid(pid), seen)?;
        Ok(asked.elapsed())
    };
    let paused = signalled(Signal::STOP, WaitIdOptions::STOPPED)?;
    let resumed = signalled(Signal::CONT, WaitIdOptions::CONTINUED)?;
    let asked = Instant::now();
    kill_process(pid, Signal::TERM)?;
    let [gone] = readable([process.as_fd()], asked);
    child.wait()?;
    Ok(Bare { started, paused, resumed, gone })
}

fn bare_start() -> io::Result<Duration> {
    let began = Instant::now();
    Command::new("true").stdin(Stdio::null()).status()?;
    Ok(began.elapsed())
}

fn sync(mut file: &File) -> io::Result<Duration> {
    let began = Instant::now();
    file.write_all(&[b'x'; 4096])?;
    file.sync_data()?;
    Ok(began.elapsed())
}
