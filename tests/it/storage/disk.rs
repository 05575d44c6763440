//! The disk is full, and later has room again. The pipeline continues and stays under control, nothing is reported that is not
//! recorded, health reports the problem, and everything recovers by itself. The tests use their own small file system.

use std::fs;

use crate::support::disk::SmallDisk;
use crate::support::{Place, is_alive, until_true};
use serde_json::json;

use super::full_disk::{lost, serving, until_degraded, until_well};

fn until_printed(place: &Place) {
    until_true("all is printed: the pipeline does not stand still", || place.root().join("printed").exists());
}

fn talk_until_printed(place: &Place) {
    fs::write(place.root().join("talk"), "").expect("writes");
    until_printed(place);
}

fn kept(lines: &[String]) -> usize {
    lines.iter().filter(|line| line.starts_with("line ") || *line == "last").count()
}

#[test]
fn pipeline_that_fills_the_disk_continues_and_lost_lines_are_counted() {
    let Some(small) = serving(4096, "pipeline_that_fills_the_disk_continues_and_lost_lines_are_counted") else { return };
    let place = &small.place;
    let printed = 60_000;
    let (pid, run_id) = place.start_with(json!({"script": "talk.sh", "args": [printed.to_string()]}));
    // The start is recorded first, because the run could fill the disk before that.
    small.disk.fill_but(1 << 20);
    talk_until_printed(place);
    until_degraded(place, "log");
    assert!(is_alive(pid));
    assert_eq!(place.state(), "running");
    for path in crate::support::reads() {
        assert_eq!(place.get(&path).status, 200, "{path} on a full disk");
    }
    small.disk.free();
    until_well(place);
    fs::write(place.root().join("go"), "").expect("writes");
    let run = place.until_ended(run_id);
    assert_eq!((&run["status"], &run["exit_code"]), (&json!("failed"), &json!(7)));
    let lines = place.lines();
    assert!(lost(&lines) > 0, "the disk was full");
    assert_eq!(kept(&lines) + lost(&lines), printed + 1, "each line is there, or counted where it is not");
    assert_eq!(lines.last().map(String::as_str), Some("last"));
    let (_, next) = place.start();
    assert_eq!(next, run_id + 1);
    assert_eq!(place.until_all_agree(), "running");
}

#[test]
fn burst_on_filling_disk_leaves_no_partial_lines() {
    let Some(small) = serving(4096, "burst_on_filling_disk_leaves_no_partial_lines") else { return };
    let place = &small.place;
    place.script(
        "burst.sh",
        "#!/bin/bash\necho ready\nwhile [ ! -e burst ]; do sleep 0.01; done\ncat burst\ntouch printed\nexec sleep 600\n",
    );
    place.start_with(json!({"script": "burst.sh"}));
    place.until_line("ready");
    small.disk.fill_but(20 << 10);
    let burst: Vec<String> = (0..1000).map(|n| format!("line {n:04} and some words to fill the disk")).collect();
    fs::write(place.root().join("new"), burst.join("\n") + "\n").expect("writes");
    fs::rename(place.root().join("new"), place.root().join("burst")).expect("renames");
    until_printed(place);
    until_degraded(place, "log");
    small.disk.free();
    until_well(place);
    let lines = place.lines();
    assert_eq!(kept(&lines) + lost(&lines), burst.len());
    for line in &lines {
        assert!(line == "ready" || burst.contains(line) || line.starts_with("[autoappdev: "), "half a line: {line:?}");
    }
    assert_eq!(place.until_all_agree(), "running");
}

#[test]
fn run_ending_on_full_disk_keeps_exit_code_and_lost_line_count() {
    let Some(small) = serving(2048, "run_ending_on_full_disk_keeps_exit_code_and_lost_line_count") else {
        return;
    };
    let place = &small.place;
    let printed = 5_000;
    let (pid, run_id) = place.start_with(json!({"script": "talk.sh", "args": [printed.to_string()]}));
    talk_until_printed(place);
    small.disk.fill();
    fs::write(place.root().join("go"), "").expect("writes");
    until_true("the pipeline has ended", || !is_alive(pid));
    until_degraded(place, "full");
    small.disk.free();
    let run = place.until_ended(run_id);
    assert_eq!((&run["status"], &run["exit_code"]), (&json!("failed"), &json!(7)));
    until_well(place);
    place.until_no_shim();
    let lines = place.lines();
    assert_eq!(kept(&lines) + lost(&lines), printed + 1, "{:?}", lines.last());
    let (_, next) = place.start();
    assert_eq!(next, run_id + 1);
    assert_eq!(place.until_all_agree(), "running");
}

/// A script that reports its progress, and continues to the next word once a file of that name exists in its folder.
const STEPS: &str = "#!/bin/bash\nawait() { while [ ! -e $1 ]; do sleep 0.01; done; }\n\
                     echo ::step one\nawait two\necho ::step two\nawait three\necho ::step three\nawait end\n\
                     echo ::progress 90 nearly\nexit 7\n";

#[test]
fn progress_on_full_disk_is_stored_after_space_is_freed() {
    let test = "progress_on_full_disk_is_stored_after_space_is_freed";
    let Some(mut small) = serving(2048, test) else { return };
    small.place.script("steps.sh", STEPS);
    let (pid, run_id) = small.place.start_with(json!({"script": "steps.sh"}));
    let file = small.place.run_dir(run_id).join("progress.json");
    let stored = || fs::read_to_string(&file).unwrap_or_default();
    let go = |place: &Place, word: &str| fs::write(place.root().join(word), "").expect("writes");
    let until_told = |place: &Place, step: usize, name: &str| {
        until_true(name, || place.pipeline()["progress"]["steps"][step]["name"] == name);
    };
    until_true("it is stored", || stored().contains("one"));
    small.disk.fill();
    go(&small.place, "two");
    until_told(&small.place, 1, "two");
    assert!(is_alive(pid) && stored().ends_with("}\n") && !stored().contains("two"), "the one before stays whole: {}", stored());
    small.disk.free();
    until_true("while it runs it is tried again", || stored().contains("two"));

    small.disk.fill();
    go(&small.place, "three");
    until_told(&small.place, 2, "three");
    go(&small.place, "end");
    until_true("the pipeline has ended", || !is_alive(pid));
    // The end itself may or may not fit into the pages that its files already have.
    until_true("what it came to is told", || small.place.pipeline()["progress"]["percent"] == 90);
    assert!(!stored().contains("nearly"), "{}", stored());
    small.disk.free();
    let run = small.place.until_ended(run_id);
    assert_eq!((&run["status"], &run["exit_code"]), (&json!("failed"), &json!(7)));
    until_well(&small.place);
    small.place.until_no_shim();
    small.place.restart_server();
    let told = small.place.run(run_id)["progress"].clone();
    assert_eq!((&told, &told["percent"], &told["text"]), (&run["progress"], &json!(90), &json!("nearly")));
    assert!(told["steps"][2]["ms"].is_u64(), "{told}");
}

#[test]
fn log_has_no_end_before_its_loss_mark_is_written() {
    let Some(mut small) = SmallDisk::of_kib(2048, "log_has_no_end_before_its_loss_mark_is_written") else { return };
    // The database is on another disk, so the end is recorded at once, while the log's disk is still full.
    let database = format!("sqlite:{}", small.place.root().join("autoappdev.db").display());
    small.place.set_env("DATABASE_URL", &database);
    let talk =
        "#!/bin/bash\nwhile [ ! -e go ]; do seq -f 'line %08.0f, and some words' 1 50; sleep 0.01; done\nseq 100000\nexit 7\n";
    small.place.script("talk.sh", talk);
    small.place.start_server();
    let place = &small.place;
    let (_, run_id) = place.start_with(json!({"script": "talk.sh"}));
    place.until_line("line 00000050, and some words");
    small.disk.fill();
    until_degraded(place, "log");
    // A mark takes 98 bytes and its count, which has six digits in the end. If the last page of the file has room for it, it is
    // still written.
    let log = place.run_dir(run_id).join("log").join(format!("{:020}.log", 0));
    until_true("not even a mark fits", || (4096 - fs::metadata(&log).expect("there").len() % 4096) % 4096 < 104);
    fs::write(place.root().join("go"), "").expect("an empty file takes no page");
    assert_eq!(place.until_ended(run_id)["exit_code"], json!(7));
    let end_of = |path: &str| place.get(path).ok()["end"].take();
    for path in [format!("/api/logs?run={run_id}&limit=1"), format!("/api/logs/tail?run={run_id}&limit=1")] {
        assert_eq!(end_of(&path), json!(null), "{path}: its shim has a mark to write yet");
    }
    let mut since = 0;
    place.lines_since(&mut since);
    let mut waiting = place.wire();
    waiting.ask("GET", &format!("/api/logs?run={run_id}&since={since}&wait=60"));
    small.disk.free();
    let page = waiting.answer().ok();
    let lines: Vec<String> = page["lines"].as_array().expect("a list").iter().map(|line| line["line"].to_string()).collect();
    assert!(
        matches!(lines.as_slice(), [mark] if mark.contains(" lines are missing here: ")),
        "the mark ends the wait: {lines:?}"
    );
    until_true("the end is told", || end_of(&format!("/api/logs?run={run_id}&limit=1")).is_u64());
    let last = place.get(&format!("/api/logs?run={run_id}&since={}", page["next"])).ok();
    assert_eq!((&last["next"], &last["lines"]), (&last["end"], &json!([])), "and is behind the mark");
}

/// Checks that each line, from any first line on, follows the one before it, or that a mark gives the exact number of missing
/// lines. Returns the next number, and the number of missing lines.
fn follow_numbers(lines: &[String]) -> (usize, usize) {
    let (mut next, mut missing) = (None, 0);
    for line in lines {
        if let Some(number) = line.strip_prefix("line ") {
            let number: usize = number[..8].parse().expect("a number");
            assert_eq!(number, next.unwrap_or(number), "what is missing is marked where it is missing");
            next = Some(number + 1);
        } else if line != "last" {
            let count = lost(std::slice::from_ref(line));
            assert!(count > 0, "{line:?} is no line of the script's");
            next = next.map(|next| next + count);
            missing += count;
        }
    }
    (next.expect("a line"), missing)
}

#[test]
fn loss_marks_have_exact_position_and_count() {
    let test = "loss_marks_have_exact_position_and_count";
    let Some(mut small) = SmallDisk::of_kib(12 << 10, test) else { return };
    small.place.script(
        "on.sh",
        "#!/bin/bash\nn=1\nwhile [ ! -e enough ]; do\n\
         seq -f 'line %08.0f, and some words so that a disk is full the sooner' $n $((n + 999))\n  n=$((n + 1000)); sleep 0.02\ndone\n\
         echo $n >printed.new\nmv printed.new printed\nwhile [ ! -e go ]; do sleep 0.01; done\necho last\nexit 7\n",
    );
    // Segments and servers are replaced meanwhile.
    small.place.set_env("AUTOAPPDEV_LOG_SEGMENT_MB", "1");
    small.place.set_env("AUTOAPPDEV_LOG_RUN_MB", "4");
    small.place.start_server();
    let (_, run_id) = small.place.start_with(json!({"script": "on.sh"}));
    for round in 0..4 {
        small.disk.fill();
        until_degraded(&small.place, "log");
        if round % 2 == 1 {
            // The first connection truncates and extends SQLite's `-shm` file. Output may fill the disk in between.
            small.place.restart_server_as(Place::start_server_until_it_serves);
        }
        if round == 3 {
            // The last mark stays, because little follows it.
            fs::write(small.place.root().join("enough"), "").expect("writes");
            until_printed(&small.place);
        }
        small.disk.free();
        until_well(&small.place);
    }
    fs::write(small.place.root().join("go"), "").expect("writes");
    assert_eq!(small.place.until_ended(run_id)["exit_code"], json!(7));
    small.place.until_no_shim();
    let printed: usize = fs::read_to_string(small.place.root().join("printed")).expect("there").trim().parse().expect("a number");
    let lines = small.place.lines();
    let (next, missing) = follow_numbers(&lines);
    assert_eq!(next, printed, "{missing} lines were lost");
    assert!(missing > 0, "the disk was full four times, the last time at the end: {} lines", lines.len());
    assert_eq!(lines.last().map(String::as_str), Some("last"));
}

/// A script that prints 1 MiB that compresses badly each time `more` exists.
const FLOOD: &str = "#!/bin/bash\nn=0\nwhile :; do\n  if [ -e more ]; then\n    head -c 786432 /dev/urandom | base64 -w 1023\n\
                     rm more\n  else sleep 0.002; fi\ndone\n";

#[test]
fn log_flood_leaves_reserved_disk_space_free() {
    const MIB: u64 = 1 << 20;
    // By default 15 of 100 bytes are kept free, which is 2.4 MiB here.
    let test = "log_flood_leaves_reserved_disk_space_free";
    let Some(mut small) = SmallDisk::of_kib(16 * 1024, test) else { return };
    small.place.set_env("AUTOAPPDEV_DISK_FREE_MB", "");
    small.place.script("flood.sh", FLOOD);
    small.place.script("say.sh", "#!/bin/bash\nseq 1 9\n");
    small.place.start_server();
    let place = &small.place;
    let (_, first) = place.start_with(json!({"script": "say.sh"}));
    place.until_ended(first);
    place.until_no_shim();
    let (_, run_id) = place.start_with(json!({"script": "flood.sh"}));
    let share = 16 * MIB / 100 * 15;
    for n in 0..24 {
        fs::write(place.root().join("more"), "").expect("writes");
        until_true("a MiB is printed", || !place.root().join("more").exists());
        // The disk is checked when a segment is full, and the next one may have begun since.
        until_true(&format!("room is made after {n} MiB"), || small.disk.free_bytes() + 3 * MIB / 2 >= share);
    }
    assert_eq!(lost(&place.lines()), 0, "no line found the disk full");
    assert_eq!(place.degraded(), None);
    let page = place.get(&format!("/api/logs?run={run_id}&limit=1")).ok();
    assert!(page["gone"].as_u64() > Some(6 * MIB), "what was removed is told: {page}");
    assert_eq!(place.get("/api/runs").ok()["runs"].as_array().map(Vec::len), Some(2), "the history stays");
    assert!(fs::read_dir(place.run_dir(first).join("log")).expect("there").next().is_none(), "of the older run it went first");
    // Other files that fill the disk do not displace the whole log.
    small.disk.fill_but(MIB / 2);
    place.post("/api/pipeline/stop", json!({"grace_s": 0}));
    small.disk.free();
    assert_eq!(place.until_ended(run_id)["status"], "stopped");
    assert!(!place.lines().is_empty());
}

/// An empty file, or one with a header and no tables, is what a full disk leaves of a new database.
#[test]
fn server_completes_database_that_migrate_left_on_full_disk() {
    let test = "server_completes_database_that_migrate_left_on_full_disk";
    let Some(SmallDisk { mut place, disk }) = SmallDisk::of_kib(2048, test) else { return };
    for free_kib in [0, 4, 8, 16, 32, 40, 64, 100] {
        disk.fill_but(free_kib << 10);
        let output = place.command().arg("migrate").output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains("the disk is full"), "{free_kib} KiB: {said}");
        disk.free();
        place.start_server();
        assert_eq!(place.get("/api/runs").ok()["runs"], json!([]), "{free_kib} KiB");
        assert_eq!(place.stop_server(), 0);
        fs::remove_dir_all(place.runtime()).expect("ours");
    }
}
