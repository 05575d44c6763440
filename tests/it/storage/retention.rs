//! Retention: runs, their rows and their logs stay within their limits, and what was removed is reported.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::disk::SmallDisk;
use crate::support::{Place, not_run, signal, until, until_true};
use serde_json::{Value, json};

/// A script that prints numbered lines of 100 bytes.
const SAY: &str = "#!/bin/bash\nseq -f 'line %08.0f of a build that says a lot of things, all of them a hundred bytes long, and no more..' $1 $2\n";

/// Returns the part of a line that the tests compare.
fn said(line: &Value) -> String {
    line["line"].as_str().expect("text")[..13].to_owned()
}

fn wanted(n: u64) -> String {
    format!("line {n:08}")
}

/// Creates a place with these variables, whose script prints a lot.
fn place(envs: &[(&str, &str)]) -> Place {
    let mut place = Place::new();
    place.script("say.sh", SAY);
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "say.sh");
    for (name, value) in envs {
        place.set_env(name, value);
    }
    place
}

/// Runs the script to its end.
fn say(place: &Place, from: u64, to: u64) -> i64 {
    let answer = until("the run before has ended", || {
        let answer = place.post("/api/pipeline/start", json!({"args": [from.to_string(), to.to_string()]}));
        Some(answer).filter(|answer| answer.status == 200)
    });
    let run_id = answer.body["run_id"].as_i64().expect("an id");
    assert_eq!(place.until_ended(run_id)["status"], "completed");
    run_id
}

fn log_files(place: &Place, run_id: i64) -> Vec<PathBuf> {
    let entries = fs::read_dir(place.run_dir(run_id).join("log")).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn is_packed(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.ends_with(".log.gz"))
}

/// Waits until everything that is worth it is packed. The size of a segment depends on how much the shim reads at a time, so the
/// newest can have any size; a segment under 64 KiB is not packed.
fn until_packed(place: &Place, run_id: i64) {
    let is_small = |path: &PathBuf| path.metadata().is_ok_and(|metadata| metadata.len() < 64 * 1024);
    // Packing gives way to all other work, so on a busy machine each file takes a while.
    let mut packed = 0;
    let mut files = log_files(place, run_id);
    let mut deadline = Instant::now() + crate::support::DEADLINE;
    while files.is_empty() || !files.iter().all(|path| is_packed(path) || (is_small(path) && Some(path) == files.last())) {
        assert!(Instant::now() < deadline, "not packed: {files:?}");
        thread::sleep(Duration::from_millis(2));
        files = log_files(place, run_id);
        let now = files.iter().filter(|path| is_packed(path)).count();
        if now > packed {
            (packed, deadline) = (now, Instant::now() + crate::support::DEADLINE);
        }
    }
}

/// Returns the size of all logs on the disk, in bytes.
fn log_bytes(place: &Place) -> u64 {
    let runs = fs::read_dir(place.runtime().join("runs")).expect("there").flatten();
    let logs = runs.filter_map(|run| fs::read_dir(run.path().join("log")).ok());
    logs.flat_map(|log| log.flatten().filter_map(|file| Some(file.metadata().ok()?.len()))).sum()
}

/// Returns all lines, and the number of missing bytes before each page.
fn read_all(place: &Place) -> (Vec<Value>, Vec<u64>) {
    let (mut since, mut lines, mut gone) = (0, Vec::new(), Vec::new());
    loop {
        let page = place.get(&format!("/api/logs?since={since}&limit=5000")).ok();
        let missing = page["gone"].as_u64().expect("a number");
        gone.extend(Some(missing).filter(|&missing| missing > 0));
        let new = page["lines"].as_array().expect("a list");
        if new.is_empty() {
            return (lines, gone);
        }
        lines.extend(new.clone());
        since = page["next"].as_u64().expect("a number");
    }
}

fn run_ids(place: &Place) -> Vec<i64> {
    let runs = place.get("/api/runs?limit=500").ok();
    runs["runs"].as_array().expect("a list").iter().map(|run| run["id"].as_i64().expect("a number")).collect()
}

#[test]
fn old_runs_beyond_limit_are_removed() {
    let mut place = place(&[("AUTOAPPDEV_RUNS_KEEP", "3")]);
    place.start_server();
    for n in 1..=7 {
        assert_eq!(say(&place, 1, 2), n);
    }
    until_true("three rows are left", || run_ids(&place) == [7, 6, 5]);
    until_true("and three folders", || {
        let runs = fs::read_dir(place.runtime().join("runs")).expect("there");
        runs.count() == 3
    });
    assert_eq!(place.get("/api/runs/4").error(), "not_found");
    let events: i64 =
        place.sql().query_row("SELECT count(*) FROM pipeline_events WHERE run_id < 5", [], |row| row.get(0)).expect("counts");
    assert_eq!(events, 0);
    let (lines, gone) = read_all(&place);
    assert_eq!(lines.len(), 6);
    assert_eq!(gone, [place.get("/api/logs").ok()["first"].as_u64().expect("a number")], "what is gone is said, once");
    // The next server keeps fewer; it checks at its boot. Ids are never reused.
    place.set_env("AUTOAPPDEV_RUNS_KEEP", "1");
    place.restart_server();
    until_true("one row is left", || run_ids(&place) == [7]);
    assert_eq!(say(&place, 1, 2), 8);
    until_true("the latest is left", || run_ids(&place) == [8]);
    assert_eq!(place.until_all_agree(), "stopped");
}

#[test]
fn expired_runs_are_removed_except_latest() {
    let mut place = place(&[]);
    place.start_server();
    for _ in 0..3 {
        say(&place, 1, 2);
    }
    place.stop_server();
    // Their time stamps do not count, because the clock may have been wrong.
    let database = rusqlite::Connection::open(place.database()).expect("opens");
    let stamps = "UPDATE pipeline_runs SET created_at = '1970-01-01T00:00:00.000Z', started_at = '1970-01-01T00:00:00.000Z',
                  stopped_at = '1970-01-01T00:00:00.000Z' WHERE id < 3";
    database.execute_batch(stamps).expect("changes");
    drop(database);
    // The first run ended eight days ago and the others six, in time that the server has observed.
    let file = place.runtime().join("retention.json");
    let mut memory: Value = serde_json::from_slice(&fs::read(&file).expect("there")).expect("JSON");
    let days = |count: u64| count * 86_400_000;
    memory["witness"]["witnessed_ms"] = json!(days(8));
    memory["witness"]["ended"] = json!([[0, 1], [days(2), 3]]);
    fs::write(&file, memory.to_string()).expect("writes");
    place.set_env("AUTOAPPDEV_RUNS_KEEP_DAYS", "7");
    place.start_server();
    until_true("the first is gone", || run_ids(&place) == [3, 2]);
    assert!(!place.run_dir(1).exists() && place.run_dir(2).exists() && place.run_dir(3).exists());
    assert_eq!(say(&place, 1, 2), 4);
    assert_eq!(run_ids(&place), [4, 3, 2]);
}

#[test]
fn unfinished_runs_and_foreign_directories_are_not_removed() {
    let mut place = place(&[("AUTOAPPDEV_RUNS_KEEP", "1")]);
    place.start_server();
    say(&place, 1, 2);
    // Directories that a removed database has left. The journal of run 2 records its end, nothing records the end of run 3, and
    // the directories with other names are not runs.
    place.stop_server();
    let runs = place.runtime().join("runs");
    for (name, journal) in [("-5", true), ("0x2", true), ("notes", true)] {
        fs::create_dir_all(runs.join(name).join("log")).expect("creates");
        if journal {
            fs::copy(place.run_dir(1).join("journal.jsonl"), runs.join(name).join("journal.jsonl")).expect("copies");
        }
    }
    let database = rusqlite::Connection::open(place.database()).expect("opens");
    database.execute_batch("UPDATE sqlite_sequence SET seq = 10").expect("changes");
    drop(database);
    for id in [2, 3] {
        fs::create_dir_all(place.run_dir(id).join("log")).expect("creates");
        fs::write(place.run_dir(id).join("log/00000000000000000000.log"), "x").expect("writes");
    }
    fs::copy(place.run_dir(1).join("journal.jsonl"), place.run_dir(2).join("journal.jsonl")).expect("copies");
    std::os::unix::fs::symlink(place.root(), place.run_dir(1).join("log/link")).expect("links");
    place.start_server();
    let id = say(&place, 1, 2);
    assert!(id > 3);
    until_true("what has ended is gone", || !place.run_dir(1).exists() && !place.run_dir(2).exists());
    assert!(place.run_dir(3).join("log/00000000000000000000.log").exists(), "nobody says that this one has ended");
    for name in ["-5", "0x2", "notes"] {
        assert!(runs.join(name).join("journal.jsonl").exists(), "{name} is none of ours");
    }
    assert!(place.root().join("say.sh").exists(), "a link is not followed");
}

#[test]
fn total_log_limit_removes_oldest_and_reports_missing_bytes() {
    let mut place =
        place(&[("AUTOAPPDEV_LOG_SEGMENT_MB", "1"), ("AUTOAPPDEV_LOG_RUN_MB", "3"), ("AUTOAPPDEV_LOG_TOTAL_MB", "3")]);
    // Lines that compress badly: six runs of about 2 MiB, packed to 1.5 MiB.
    place.script(
        "say.sh",
        "#!/bin/bash\nhead -c 1100000 /dev/urandom | base64 -w 99 | awk '{printf \"line %08d %s\\n\", NR + \"'$1'\", $0}'\n",
    );
    place.start_server();
    for n in 0..6 {
        say(&place, n * 100_000, 0);
        until_true("all logs together are within their limit", || log_bytes(&place) <= 3 << 20);
    }
    let (lines, gone) = read_all(&place);
    let (first, next) =
        (place.get("/api/logs").ok()["first"].as_u64().expect("a number"), lines[0]["id"].as_u64().expect("an id"));
    assert!(first > 0 && gone == [first], "gone: {gone:?}, first {first}, then {next}");
    assert_eq!(run_ids(&place), [6, 5, 4, 3, 2, 1], "the history stays");
    let last = lines.iter().filter(|line| line["run_id"] == 6).count();
    let all_of_last = 1_100_000 * 4 / 3 / 99;
    assert!(last >= all_of_last, "the newest stay: {last} lines of the last run");
    // All kept lines are consecutive.
    for pair in lines.windows(2).filter(|pair| pair[0]["run_id"] == pair[1]["run_id"]) {
        let number = |line: &Value| said(line)[5..].parse::<u64>().expect("a number");
        assert_eq!(number(&pair[0]) + 1, number(&pair[1]));
    }
}

#[test]
fn million_lines_are_read_unchanged_across_server_kills() {
    let mut place = place(&[("AUTOAPPDEV_LOG_SEGMENT_MB", "4")]);
    let total = 1_000_000;
    place.start_server();
    let (_, run_id) = place.start_with(json!({"args": ["1", total.to_string()]}));
    let (mut since, mut next) = (0, 1);
    let (mut kills, mut cursors) = (0, Vec::new());
    // If the writer of a line has to wait in the middle of it, the line is recorded in parts. This is common on a busy machine.
    let (mut begun, mut parts) = (String::new(), 0);
    loop {
        if next % 7 == 0 && next + 1 < total && begun.is_empty() {
            cursors.push((since, next));
        }
        let page = place.get(&format!("/api/logs?since={since}&limit=5000")).ok();
        let lines = page["lines"].as_array().expect("a list");
        assert_eq!(page["gone"], 0);
        for line in lines {
            begun.push_str(line["line"].as_str().expect("text"));
            if line["partial"] == true {
                parts += 1;
                continue;
            }
            assert_eq!((begun.len(), &begun[..13]), (99, &*wanted(next)));
            begun.clear();
            next += 1;
        }
        since = page["next"].as_u64().expect("a number");
        if kills < 3 && next > (kills + 1) * 20_000 {
            place.restart_server();
            kills += 1;
        } else if lines.is_empty() && !place.run(run_id)["stopped_at"].is_null() {
            let page = place.get(&format!("/api/logs?since={since}&limit=5000")).ok();
            if page["lines"].as_array().is_some_and(Vec::is_empty) {
                break;
            }
        }
    }
    assert_eq!((kills, next), (3, total + 1));
    // Finished segments are packed, and read the same.
    until_packed(&place, run_id);
    assert!(log_bytes(&place) < 128 * total / 5);
    for (since, next) in cursors {
        let page = place.get(&format!("/api/logs?since={since}&limit=10")).ok();
        let records = page["lines"].as_array().expect("a list");
        let text: String = records.iter().map(|record| record["line"].as_str().expect("text")).collect();
        assert_eq!((&text[..13], &text[99..112]), (&*wanted(next), &*wanted(next + 1)));
    }
    let tail = place.get("/api/logs/tail?limit=3&source=pipeline").ok();
    let tail: Vec<String> = tail["lines"].as_array().expect("a list").iter().map(said).collect();
    assert_eq!(tail, [wanted(total - 2), wanted(total - 1), wanted(total)]);
    // Any gzip tool reads it. The newest segment may not be packed.
    let output =
        std::process::Command::new("gzip").arg("-dcf").args(log_files(&place, run_id)).output().expect("gzip is everywhere");
    assert!(output.status.success());
    assert_eq!(output.stdout.split(|&byte| byte == b'\n').count() as u64, total + parts + 1);
}

#[test]
fn live_run_log_is_compressed_except_newest_segment_and_limited() {
    let mut place = place(&[("AUTOAPPDEV_LOG_SEGMENT_MB", "1"), ("AUTOAPPDEV_LOG_RUN_MB", "3")]);
    place.script("say.sh", &format!("{SAY}touch said\nexec sleep 600\n"));
    place.start_server();
    let (_, run_id) = place.start_with(json!({"args": ["1", "60000"]}));
    until_true("it is said", || place.root().join("said").exists());
    until_true("all but the newest is packed", || {
        let files = log_files(&place, run_id);
        files.split_last().is_some_and(|(newest, older)| !is_packed(newest) && older.iter().all(|path| is_packed(path)))
    });
    // The shim may still have some of it to read when everything is printed.
    until_true("the last line is kept", || place.lines().last().is_some_and(|line| line.starts_with(&wanted(60_000))));
    // The newest segment may have exceeded the limit slightly before the others were packed.
    until_true("it is within its limit", || log_bytes(&place) <= 3 << 20);
    let (lines, _) = read_all(&place);
    // The server was killed while it packed, or before it could: the next one does it.
    signal(place.server_pid(), "KILL");
    place.restart_server();
    assert_eq!(read_all(&place).0, lines);
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    until_packed(&place, run_id);
    assert_eq!(read_all(&place).0, lines);
}

/// A container image can contain runs in a lower layer, from which no directory can be moved.
#[test]
fn old_runs_in_overlay_lower_layer_are_removed() {
    let test = "old_runs_in_overlay_lower_layer_are_removed";
    let Some(SmallDisk { mut place, disk }) = SmallDisk::with("size=64m", test) else { return };
    place.script("say.sh", SAY);
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "say.sh");
    place.start_server();
    for n in 1..=3 {
        assert_eq!(say(&place, 1, 2), n);
    }
    place.stop_server();
    let run_dirs = |place: &Place| fs::read_dir(place.runtime().join("runs")).expect("there").count();
    fs::create_dir_all(place.run_dir(2).join("x/y/z")).expect("creates");
    fs::write(place.run_dir(2).join("x/y/z/file"), "text").expect("writes");
    let layer = |name: &str| disk.path().join(name).display().to_string();
    for name in ["upper", "work"] {
        fs::create_dir(layer(name)).expect("creates");
    }
    fs::rename(place.runtime(), layer("lower")).and_then(|()| fs::create_dir(place.runtime())).expect("moves");
    let layers = format!("redirect_dir=off,lowerdir={},upperdir={},workdir={}", layer("lower"), layer("upper"), layer("work"));
    let mount = |args: &[&str], at: &Path| Command::new("mount").args(args).arg(at).status().is_ok_and(|status| status.success());
    if !mount(&["-t", "overlay", "-o", &layers, "autoappdev-test"], &place.runtime()) {
        return not_run("no overlay file system can be mounted here", "AUTOAPPDEV_REQUIRE_TMPFS");
    }
    let busy = place.run_dir(1).join("mounted");
    fs::create_dir(&busy).expect("creates");
    assert!(mount(&["-t", "tmpfs", "autoappdev-test"], &busy));
    place.set_env("AUTOAPPDEV_RUNS_KEEP", "1");
    place.start_server();
    until_true("only the one that is busy and the latest are left", || run_dirs(&place) == 2);
    for n in 4..=6 {
        assert_eq!(say(&place, 1, 2), n);
        until_true("another pass", || !place.run_dir(n - 1).exists());
    }
    let log = fs::read_to_string(place.runtime().join("backend.log")).expect("text");
    assert_eq!(log.matches("cannot remove the directory of run 1,").count(), 1, "{log}");
    assert!(Command::new("umount").arg(&busy).status().is_ok_and(|status| status.success()));
    until_true("it is removed as well", || run_dirs(&place) == 1);
}
