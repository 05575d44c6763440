//! A million lines, each of which is either returned or counted as missing.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use crate::support::disk::SmallDisk;
use crate::support::{Place, signal, until, until_true};
use serde_json::Value;

const LINES: u64 = 1_000_000;

/// A reader that follows a log by its cursor.
#[derive(Default)]
struct Reader {
    since: u64,
    /// The number of the last line that was kept or counted as lost.
    last: u64,
    /// The number of lines that each mark counts as lost.
    lost: Vec<u64>,
}

impl Reader {
    /// Reads what has arrived. Returns false if nothing has.
    fn read(&mut self, place: &Place) -> bool {
        let page = place.get(&format!("/api/logs?since={}&limit=5000", self.since)).ok();
        assert_eq!(page["gone"], 0, "it is within its limits");
        self.since = page["next"].as_u64().expect("a position");
        let lines = page["lines"].as_array().expect("a list");
        for line in lines {
            let text = line["line"].as_str().expect("text");
            if let Some(number) = text.strip_prefix("line ") {
                let number: u64 = number[..8].parse().expect("a number");
                assert_eq!(number, self.last + 1, "what is missing is marked where it is missing");
                assert_eq!(text.len(), 99);
                self.last = number;
            } else {
                let count = text.strip_prefix("[autoappdev: ").and_then(|rest| rest.split_once(" lines are missing here"));
                let count: u64 = count.unwrap_or_else(|| panic!("{text:?} was never printed")).0.parse().expect("a number");
                self.lost.push(count);
                self.last += count;
            }
        }
        !lines.is_empty()
    }
}

/// Waits for the run's end for as long as its log grows: on a slow machine a million lines take longer than the usual deadline.
fn until_over(place: &Place, run_id: i64, mut grows: impl FnMut() -> bool) -> Value {
    loop {
        let is_over = until("more is printed, or it is over", || {
            let is_over = !place.run(run_id)["stopped_at"].is_null();
            (is_over || grows()).then_some(is_over)
        });
        if is_over {
            return place.until_ended(run_id);
        }
    }
}

#[test]
fn million_lines_are_kept_or_counted_across_full_disks_and_kills() {
    let test = "million_lines_are_kept_or_counted_across_full_disks_and_kills";
    let Some(mut small) = SmallDisk::of_kib(256 << 10, test) else { return };
    small.place.compile("generator");
    small.place.script("million.sh", &format!("#!/bin/sh\nexec ./generator numbered {LINES} go\n"));
    small.place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "million.sh");
    small.place.set_env("AUTOAPPDEV_LOG_SEGMENT_MB", "4");
    small.place.set_env("AUTOAPPDEV_LOG_RUN_MB", "256");
    small.place.start_server();
    let (_, run_id) = small.place.start();
    let mut reader = Reader::default();
    for _ in 0..3 {
        let (before, marks) = (reader.last, reader.lost.len());
        until_true("more is printed", || reader.read(&small.place) && reader.last > before + 1000);
        small.disk.fill();
        until_true("lines are lost", || small.place.degraded().is_some_and(|why| why.contains("log")));
        signal(small.place.server_pid(), "KILL");
        // The output takes all free space at once. A server that finds no space for its database reports that and exits, see
        // `disk`.
        small.disk.free();
        small.place.restart_server();
        until_true("the loss is marked", || {
            reader.read(&small.place);
            reader.lost.len() > marks
        });
        until_true("all is well", || small.place.degraded().is_none());
    }
    fs::write(small.place.root().join("go"), "").expect("writes");
    let run = until_over(&small.place, run_id, || reader.read(&small.place));
    assert_eq!(run["status"], "completed");
    small.place.until_no_shim();
    while reader.read(&small.place) {}
    assert_eq!(reader.last, LINES, "{:?}", reader.lost);
    assert!(reader.lost.len() >= 3 && reader.lost.iter().sum::<u64>() < LINES / 2, "{:?}", reader.lost);
}

/// Returns the bytes that a run wrote to a stream, as a download. The request is that of an old client, so the bytes come without
/// chunks, up to the end of the connection.
fn downloaded(place: &Place, run_id: i64, stream: &str) -> Vec<u8> {
    let mut socket = TcpStream::connect(("127.0.0.1", place.port())).expect("it listens");
    let path = format!("/api/runs/{run_id}/log?timestamps=0&stream={stream}");
    write!(socket, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("it is taken");
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).expect("an answer");
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head") + 4;
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    answer.split_off(head)
}

#[test]
fn million_lines_survive_rotation_and_server_restarts_byte_for_byte() {
    let mut place = Place::new();
    place.compile("generator");
    let arguments = ["any".to_owned(), "7".to_owned(), LINES.to_string(), "go".to_owned()];
    place.script("million.sh", &format!("#!/bin/sh\nexec ./generator {}\n", arguments.join(" ")));
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "million.sh");
    place.set_env("AUTOAPPDEV_LOG_SEGMENT_MB", "1");
    place.set_env("AUTOAPPDEV_LOG_RUN_MB", "512");
    place.start_server();
    let (_, run_id) = place.start();
    let end = |place: &Place| place.get("/api/logs/tail?limit=1").ok()["next"].as_u64().expect("a position");
    for quarter in 0..3 {
        let before = end(&place);
        // However long the restart took, more output follows it.
        fs::write(place.root().join(format!("go.{quarter}")), "").expect("writes");
        until_true("more is printed", || end(&place) > before + (1 << 20));
        place.restart_server();
        assert_eq!(place.state(), "running");
    }
    fs::write(place.root().join("go"), "").expect("writes");
    let mut printed = end(&place);
    let run = until_over(&place, run_id, || std::mem::replace(&mut printed, end(&place)) < printed);
    assert_eq!(run["status"], "completed");
    place.until_no_shim();
    let mut generator = Command::new(place.root().join("generator"));
    let file = |name: &str| File::create(place.root().join(name)).expect("creates");
    generator.args(&arguments).current_dir(place.root()).stdout(file("stdout")).stderr(file("stderr"));
    assert!(generator.status().expect("runs").success());
    let mut lines = 0;
    for stream in ["stdout", "stderr"] {
        let mut printed = fs::read(place.root().join(stream)).expect("there");
        printed.push(b'\n');
        lines += printed.split(|&byte| byte == b'\n').count() as u64 - 1;
        let kept = downloaded(&place, run_id, stream);
        let same = printed.iter().zip(&kept).take_while(|(printed, kept)| printed == kept).count();
        assert!(kept == printed, "{stream}: {} bytes of {}, another from byte {same} on", kept.len(), printed.len());
    }
    assert_eq!(lines, LINES);
    let segments = fs::read_dir(place.run_dir(run_id).join("log")).expect("there").count();
    assert!(segments > 50, "{segments} segments");
}
