//! How fast output is captured, and what that costs other parts, compared with lower bounds that are measured at the same time:
//! `make bench-log`.
//!
//! Ratios are portable, times are not: each figure is measured in turns with its floor, and the medians are compared. This is not
//! a test, and nothing here fails because it is slow.

mod beside;
mod counted;
mod floor;
mod latency;
mod numbers;
mod report;
mod streams;
#[path = "../support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use support::{DEADLINE, Place};

/// The output: one million lines of 100 bytes, including the newline.
const LINES: u64 = 1_000_000;
const LINE_BYTES: u64 = 100;
/// The bytes that a record adds to a line.
const HEAD_BYTES: u64 = 28;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // The arguments of processes that have another role than the bench itself.
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["produce", block, times, began] => {
            return produce(block.parse().expect("bytes"), times.parse().expect("a number"), Path::new(began));
        }
        ["floor"] => return beside::be_the_floor().expect("it is killed"),
        ["lines", lines, go] => return latency::produce(lines.parse().expect("a number"), Path::new(go)),
        // It ends with its clients.
        ["relay", clients] => return drop(latency::relay(clients.parse().expect("a number"))),
        _ => {}
    }
    let wanted = |name: &str| args.iter().all(|arg| arg.starts_with('-') || arg == name);
    let rounds: usize = std::env::var("BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
    if wanted("capture") {
        for (name, block) in [("64 KiB writes", 65_500), ("one write a line", LINE_BYTES)] {
            capture(name, block, rounds);
        }
    }
    if wanted("beside") {
        beside::bench(rounds);
    }
    if wanted("latency") {
        latency::bench(rounds);
    }
    if wanted("streams") {
        streams::bench();
    }
    if wanted("seek") {
        seek();
    }
}

/// The role of the pipeline: prints the lines, `block` bytes a write, and then waits to be ended.
fn produce(block: u64, times: u64, began: &Path) {
    let line = "a line of a build, long enough to be one of a hundred bytes. ".repeat(2);
    let lines: Vec<String> = (0..block / LINE_BYTES).map(|n| format!("{n:09} {}\n", &line[..89])).collect();
    let text = lines.concat();
    let block = text.as_bytes();
    let mut left = LINES * LINE_BYTES * times;
    // Bypasses the buffer, which would write line by line.
    let mut out = File::from(std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned().expect("a descriptor"));
    // The start is synced by then. The time that a busy disk needs for it is not part of the measurement.
    while !began.with_extension("go").exists() {
        thread::sleep(Duration::from_micros(200));
    }
    fs::write(began.with_extension("new"), monotonic().as_nanos().to_string()).expect("writes");
    fs::rename(began.with_extension("new"), began).expect("renames");
    while left > 0 {
        let count = left.min(block.len() as u64);
        out.write_all(&block[..usize::try_from(count).expect("a block")]).expect("somebody reads");
        left -= count;
    }
    drop(out);
    if std::env::var_os("AUTOAPPDEV_RUN_ID").is_some() {
        thread::sleep(DEADLINE * 5);
    }
}

fn place(block: u64, times: u64) -> Place {
    let mut place = Place::new();
    let this = std::env::current_exe().expect("it runs");
    place.script("produce.sh", &format!("#!/bin/sh\nexec {} produce {block} {times} began\n", this.display()));
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "produce.sh");
    place.start_server();
    place
}

/// Creates a place with a pipeline that prints as fast as it is read, for longer than any measurement here.
fn flood(block: u64) -> Place {
    let place = place(block, 10_000);
    place.start();
    fs::write(place.root().join("began.go"), "").expect("writes");
    place
}

/// Returns the number of bytes in the files of a folder.
fn bytes_in(dir: &Path) -> u64 {
    let sizes = fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| Some(entry.metadata().ok()?.len()));
    sizes.sum()
}

/// Waits until `bytes` bytes exist. Returns how long that took after the first of them was printed, whose time is in the file
/// `began`.
fn until_bytes(there: impl Fn() -> u64, bytes: u64, began: &Path) -> Duration {
    let deadline = Instant::now() + DEADLINE;
    while there() < bytes {
        assert!(Instant::now() < deadline, "{} of {bytes} bytes", there());
        thread::sleep(Duration::from_micros(500));
    }
    let ended = monotonic();
    let began = fs::read_to_string(began).expect("it has begun").parse().expect("a number");
    ended.saturating_sub(Duration::from_nanos(began))
}

fn monotonic() -> Duration {
    let at = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(at).expect("never negative")
}

fn capture(name: &str, block: u64, rounds: usize) {
    let (mut floors, mut ours, mut peaks, mut cpu) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        floors.push(cat(block));
        let place = place(block, 1);
        let (_, run_id) = place.start();
        let log = place.run_dir(run_id).join("log");
        fs::write(place.root().join("began.go"), "").expect("writes");
        ours.push(until_bytes(|| newest_end(&log), LINES * (LINE_BYTES + HEAD_BYTES), &place.root().join("began")));
        let shim = place.shim_pid(run_id);
        peaks.push(status_kb(shim, "VmHWM:"));
        cpu.push(cpu_ms(shim));
        place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    }
    let (floor, own) = (median(&mut floors), median(&mut ours));
    let peak = peaks.iter().max().expect("rounds");
    cpu.sort_unstable();
    println!(
        "capture, {name}: cat {:.0} ms, autoappdev {:.0} ms, ratio {:.2}; shim's peak {peak} KiB, its CPU {} ms",
        ms(floor),
        ms(own),
        own.as_secs_f64() / floor.as_secs_f64(),
        cpu[cpu.len() / 2],
    );
}

/// Measures the floor: `cat > file`.
fn cat(block: u64) -> Duration {
    let (dir, other) = (tempfile::tempdir().expect("a temp folder"), tempfile::tempdir().expect("a temp folder"));
    let file = File::create(dir.path().join("out")).expect("creates");
    let this = std::env::current_exe().expect("it runs");
    let began = other.path().join("began");
    fs::write(began.with_extension("go"), "").expect("writes");
    let mut producer = Command::new(this);
    producer.args(["produce", &block.to_string(), "1"]).arg(&began);
    let mut producer = producer.stdout(Stdio::piped()).spawn().expect("spawns");
    let mut cat = Command::new("cat").stdin(producer.stdout.take().expect("piped")).stdout(file).spawn().expect("spawns");
    let took = until_bytes(|| bytes_in(dir.path()), LINES * LINE_BYTES, &began);
    producer.wait().expect("ours");
    cat.wait().expect("ours");
    took
}

/// Measures the tail and a page near the end, of a small log and of one of 5 GB: plain, and with all but the newest segment
/// packed.
fn seek() {
    for is_packed in [false, true] {
        let small = with_log(1 << 20, 1, 1, is_packed);
        let large = with_log(16 << 20, 16, 20, is_packed);
        let form = if is_packed { "packed" } else { "plain" };
        for (name, path) in [
            ("tail of 200 lines", None),
            ("since near the end", Some(10_000)),
            ("since in the segment before", Some((1 << 20) + 99_000)),
        ] {
            let mut times: [Vec<Duration>; 2] = Default::default();
            let mut wires = [small.0.wire(), large.0.wire()];
            for round in 0..1_050 {
                for (n, end) in [small.1, large.1].into_iter().enumerate() {
                    let path = match path {
                        None => "/api/logs/tail?limit=200".to_owned(),
                        Some(before) => format!("/api/logs?limit=200&since={}", end - before),
                    };
                    let began = Instant::now();
                    let answer = wires[n].get(&path);
                    if round >= 50 {
                        times[n].push(began.elapsed());
                    }
                    assert!(answer.body["lines"].as_array().is_some_and(|lines| lines.len() >= 70), "{}", answer.body);
                }
            }
            let [small, large] = &mut times;
            let (small, large) = (median(small), median(large));
            println!(
                "{name}, {form}: 1 MB {:.3} ms, 5 GB {:.3} ms, ratio {:.2}",
                ms(small),
                ms(large),
                large.as_secs_f64() / small.as_secs_f64()
            );
        }
    }
}

/// Creates a server on a log of `runs` runs with `segments` segments each. Returns the end of the log too. The files are one file
/// with many names, followed by another one of 1 MiB.
fn with_log(segment_bytes: u64, segments: u64, runs: u64, is_packed: bool) -> (Place, u64) {
    let mut place = Place::new();
    let record =
        b"2026-01-31T10:00:00.123Z o. a line of a build, long enough to be one of a hundred bytes. a line of a build, lo\n";
    let text = |bytes: u64| record.repeat(usize::try_from(bytes).expect("small") / record.len());
    let mut position = 0;
    let mut first: Option<PathBuf> = None;
    for run_id in 1..=runs {
        let log = place.run_dir(i64::try_from(run_id).expect("few")).join("log");
        fs::create_dir_all(&log).expect("creates");
        for _ in 0..segments {
            let bytes = segment_bytes - segment_bytes % record.len() as u64;
            let end = position + bytes;
            let name = if is_packed { format!("{position:020}-{end:020}.log.gz") } else { format!("{position:020}.log") };
            if let Some(first) = &first {
                fs::hard_link(first, log.join(&name)).expect("links");
            } else {
                fs::write(log.join(format!("{position:020}.log")), text(segment_bytes)).expect("writes");
                if is_packed {
                    let segment = autoappdev::log::segments_in(&log, None).expect("a look").remove(0);
                    autoappdev::log::pack(&segment, || true).expect("packs");
                }
                first = Some(log.join(&name));
            }
            position = end;
        }
    }
    let last = place.run_dir(i64::try_from(runs).expect("few")).join(format!("log/{position:020}.log"));
    let newest = text(1 << 20);
    position += newest.len() as u64;
    fs::write(last, newest).expect("writes");
    place.start_server();
    (place, position)
}

fn newest_end(log: &Path) -> u64 {
    let paths = fs::read_dir(log).into_iter().flatten().flatten().map(|entry| entry.path());
    let newest: Option<PathBuf> = paths.max();
    let start = |path: &PathBuf| path.file_name()?.to_str()?.get(..20)?.parse::<u64>().ok();
    newest.and_then(|path| Some(start(&path)? + path.metadata().ok()?.len())).unwrap_or(0)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn status_kb(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it is alive");
    let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Returns user and system time in ms, from clock ticks of 10 ms.
fn cpu_ms(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is alive");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
    let ticks = |n: usize| fields[n].parse::<u64>().expect("a number");
    (ticks(11) + ticks(12)) * 10
}
