//! A database that comes with a folder. Neither its side files nor the expressions in it can delay a command or reach other
//! files.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, makedev, mkfifoat, mknodat};
use serde_json::json;

use super::foreign_files::{is_root, set_mode};
use crate::support::{DEADLINE, Place, until, until_true};

/// Returns the exit code and output of a command that ends by itself.
fn ended(place: &Place, mode: &str) -> (i32, String) {
    // A command that reads an endless file would otherwise use up the machine's memory before the test notices.
    let mut command = place.command_of(Path::new("bash"));
    command.args(["-c", "ulimit -v 12000000; exec \"$0\" \"$1\" 2>&1", env!("CARGO_BIN_EXE_autoappdev"), mode]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("spawns");
    let mut stdout = child.stdout.take().expect("piped");
    let said = thread::spawn(move || {
        let mut said = String::new();
        stdout.read_to_string(&mut said).map(|_| said).expect("text")
    });
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        match child.try_wait().expect("ours") {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child.kill().and_then(|()| child.wait()).expect("ours");
                panic!("{mode} does not end: {}", said.join().expect("text"));
            }
            None => thread::sleep(Duration::from_millis(2)),
        }
    };
    (status.code().expect("an exit code"), said.join().expect("text"))
}

/// `SQLite` gives an empty file beside a database the mode of the database.
#[test]
fn link_or_device_beside_the_database_keeps_its_mode() {
    let place = used();
    let [victim, device] = ["victim", "device"].map(|name| place.folder().join(name));
    fs::write(&victim, "").expect("writes");
    let mut targets = vec![victim];
    if is_root() {
        // As `/dev/null`.
        mknodat(CWD, &device, FileType::CharacterDevice, Mode::empty(), makedev(1, 3)).expect("root may");
        targets.push(device);
    }
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    for target in &targets {
        set_mode(target, 0o666);
        for suffix in ["-wal", "-shm", "-journal"] {
            let path = place.runtime().join(format!("autoappdev.db{suffix}"));
            let _was_none = fs::remove_file(&path);
            symlink(target, &path).expect("links");
            for args in ["serve", "check", "migrate"] {
                let (code, said) = ended(&place, args);
                assert!(code != 0 && said.contains("is not a regular file; move it away"), "{args} {suffix}: {said}");
            }
            assert_eq!(mode(target), 0o666, "{suffix}");
            fs::remove_file(&path).expect("there");
        }
    }
}

/// Creates a place whose server has ended and has left a database.
fn used() -> Place {
    let mut place = Place::serving("sleep.sh");
    assert_eq!(place.stop_server(), 0);
    place
}

/// Returns a rollback journal, ready to be rolled back, that names another file as the super-journal of a transaction over
/// several databases.
fn journal_naming(name: &Path) -> Vec<u8> {
    const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    let name = name.to_str().expect("a temp folder has a plain name").as_bytes();
    let sum: u32 = name.iter().map(|&byte| u32::from(byte)).sum();
    let mut journal = MAGIC.to_vec();
    // 0 pages to restore, 1 page in the database, sectors of 512 bytes and pages of 4096.
    for number in [0_u32, 0, 1, 512, 4096] {
        journal.extend(number.to_be_bytes());
    }
    journal.resize(512, 0);
    journal.extend(0_u32.to_be_bytes());
    journal.extend(name);
    journal.extend(u32::try_from(name.len()).expect("short").to_be_bytes());
    journal.extend(sum.to_be_bytes());
    journal.extend(MAGIC);
    journal
}

#[test]
fn sqlite_journal_naming_another_file_is_refused() {
    let place = used();
    let journal = place.runtime().join("autoappdev.db-journal");
    // SQLite accepts only names of this form.
    let named = place.folder().join("a-file-mj0123459AB");
    for what in ["a pipe", "a hole", "a file"] {
        match what {
            "a pipe" => mkfifoat(CWD, &named, Mode::RUSR | Mode::WUSR).expect("makes"),
            "a hole" => File::create(&named).and_then(|file| file.set_len(400 << 30)).expect("a hole"),
            _ => fs::write(&named, "precious").expect("writes"),
        }
        fs::write(&journal, journal_naming(&named)).expect("writes");
        let before = fs::read(place.database()).expect("there");
        for mode in ["check", "serve", "migrate"] {
            let (code, said) = ended(&place, mode);
            assert!(
                code != 0 && said.contains("is part of a transaction over several databases"),
                "{mode}, {what}: {code} {said}"
            );
            assert!(said.contains(journal.canonicalize().expect("there").to_str().expect("text")), "{mode}, {what}: {said}");
            assert!(named.exists() && fs::read(place.database()).expect("there") == before, "{mode}, {what}");
        }
        fs::remove_file(&named).expect("ours");
    }
    fs::remove_file(&journal).expect("it was not touched");
    assert_eq!(ended(&place, "check").0, 0);
}

/// Comparing these two texts takes many minutes.
#[test]
fn check_is_not_blocked_by_slow_constraint() {
    let place = used();
    place.edit_database(
        "PRAGMA ignore_check_constraints = 1;
         CREATE TABLE extra (a TEXT, b TEXT, CHECK (instr(a, b) = 0));
         INSERT INTO extra VALUES (hex(zeroblob(4000000)), hex(zeroblob(2000000)) || 'x')",
    );
    let (code, said) = ended(&place, "check");
    assert!(code != 0 && said.contains("table extra is not ours"), "{code} {said}");
}

#[test]
fn database_with_disguised_index_or_table_is_refused() {
    for (create, name, row_type) in [
        ("CREATE UNIQUE INDEX extra ON pipeline_runs (script)", "refinery_schema_history", "index"),
        // Comparing these two texts takes many minutes.
        (
            "CREATE INDEX extra ON pipeline_state (instr(hex(zeroblob(4000000)), hex(zeroblob(2000000)) || state))",
            "sqlite_stat1",
            "index",
        ),
        ("CREATE TABLE extra (run_id REFERENCES pipeline_runs (id))", "extra", "Table"),
    ] {
        let place = used();
        // An empty table, because filling the index would evaluate its expression.
        place.edit_database(&format!(
            "DELETE FROM pipeline_state; {create};
             PRAGMA writable_schema = 1;
             UPDATE sqlite_schema SET type = '{row_type}', name = '{name}', sql = replace(sql, 'extra', '{name}') WHERE name = 'extra';
             PRAGMA writable_schema = 0"
        ));
        let before = fs::read(place.database()).expect("there");
        for mode in ["check", "serve", "migrate"] {
            let (code, said) = ended(&place, mode);
            assert!(code != 0 && said.contains(&format!("{name} is not ours")), "{mode}, {name}: {code} {said}");
            assert!(fs::read(place.database()).expect("there") == before, "{mode}, {name}");
        }
    }
}

/// Returns a checksum of the write-ahead log (<https://www.sqlite.org/fileformat2.html#walformat>), for numbers in big-endian
/// order.
fn wal_sum(bytes: &[u8]) -> [u32; 2] {
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("four bytes"));
    bytes.chunks(8).fold([0_u32, 0], |[one, two], words| {
        let one = one.wrapping_add(number(&words[..4])).wrapping_add(two);
        [one, two.wrapping_add(number(&words[4..])).wrapping_add(one)]
    })
}

/// Returns a write-ahead log with this page size, a valid checksum of the header, and no valid frame.
fn log_without_frames(page_bytes: u32) -> Vec<u8> {
    let mut log = Vec::new();
    for number in [0x377f_0683_u32, 3_007_000, page_bytes, 0, 1, 2] {
        log.extend(number.to_be_bytes());
    }
    for sum in wal_sum(&log) {
        log.extend(sum.to_be_bytes());
    }
    log.resize(5000, 0);
    log
}

/// Creates a place with these files beside the database, where a kill would leave the log and its index.
fn with_side_files(log: &[u8], index: Option<&[u8]>) -> Place {
    let place = used();
    place.edit_database("PRAGMA wal_checkpoint(TRUNCATE)");
    let beside = |suffix| place.runtime().join(format!("autoappdev.db{suffix}"));
    fs::write(beside("-wal"), log).expect("writes");
    if let Some(index) = index {
        fs::write(beside("-shm"), index).expect("writes");
    }
    place
}

#[test]
fn invalid_write_ahead_log_blocks_no_command_or_server() {
    let mut damaged = log_without_frames(4096);
    damaged[20] ^= 1;
    let odd_pages = [0, 256, 5000, 131_072].map(log_without_frames);
    for log in [vec![0; 90_000], vec![0xa5; 90_000], log_without_frames(4096), damaged].into_iter().chain(odd_pages) {
        for index in [None, Some(vec![0_u8; 32_768]), Some(vec![0xa5; 65_536])] {
            let mut place = with_side_files(&log, index.as_deref());
            let (code, said) = ended(&place, "check");
            assert_eq!(code, 0, "{said}");
            place.start_server();
            assert_eq!(place.stop_server(), 0);
            assert_eq!(ended(&place, "check").0, 0);
        }
    }
}

#[test]
fn run_with_the_highest_id_is_refused_and_leaves_no_row() {
    let mut place = used();
    place.edit_database(&format!("INSERT INTO sqlite_sequence VALUES ('pipeline_runs', {})", i64::MAX - 1));
    place.start_server();
    let (code, _, error) = place.client(&["start"]);
    assert!(code != 0 && error.contains("the database could not store it"), "{code} {error}");
    assert!(place.server_log().contains("the highest possible run id"), "{}", place.server_log());
    assert_eq!(place.sql().query_row("SELECT count(*) FROM pipeline_runs", [], |row| row.get::<_, i64>(0)), Ok(0));
    assert!(place.is_serving());
    assert_eq!(place.stop_server(), 0);
}

/// The page and the commands send a key with each start.
#[test]
fn database_that_has_used_all_ids_of_request_keys_keeps_no_start_with_a_key_from_succeeding() {
    let highest = i64::MAX;
    let row = format!(
        "INSERT INTO request_keys (id, key, request, status, body) VALUES ({highest}, 'a', '{}', 200, '{{}}')",
        "0".repeat(64)
    );
    let noted = format!("INSERT INTO sqlite_sequence VALUES ('request_keys', '{highest}')");
    for claim in [noted, row, "INSERT INTO sqlite_sequence VALUES ('request_keys', 1e300)".to_owned()] {
        let mut place = used();
        place.edit_database(&claim);
        assert_eq!(ended(&place, "check").0, 0, "{claim}");
        place.start_server();
        let (code, _, error) = place.client(&["start", "sleep.sh"]);
        assert_eq!((code, &*error), (0, ""), "{claim}");
        place.act("stop").ok();
    }
}

#[test]
fn database_with_the_highest_version_keeps_no_run_from_being_recorded() {
    for version in [i64::MAX, i64::MAX - 1, (1 << 53) + 1] {
        let mut place = used();
        place.edit_database(&format!("UPDATE pipeline_state SET version = {version}"));
        place.start_server();
        let log = place.server_log();
        assert!(log.contains("the version of the pipeline in the database is one that no server gives"), "{log}");
        let (code, _, error) = place.client(&["start", "sleep.sh"]);
        assert_eq!((code, &*error), (0, ""), "{version}");
        let before = place.pipeline()["version"].as_u64().expect("a number");
        assert!(before < 100, "{before}");
        place.act("pause").ok();
        assert!(place.pipeline()["version"].as_u64().expect("a number") > before);
        assert_eq!(place.until_all_agree(), "paused");
        place.act("stop").ok();
    }
}

#[test]
fn highest_log_position_in_a_database_leaves_logs_of_new_runs_readable() {
    for position in [i64::MAX, (1 << 53) + 1, (1 << 52) + 1, 1 << 52] {
        let mut place = used();
        place.script("says.sh", "#!/bin/sh\necho \"precious\"\n");
        place.start_server();
        assert_log_is_readable(&place);
        assert_eq!(place.stop_server(), 0);
        place.edit_database(&format!("UPDATE pipeline_runs SET log_end = {position}"));
        place.start_server();
        assert_log_is_readable(&place);
    }
}

#[test]
fn log_files_with_the_highest_positions_leave_logs_of_new_runs_readable() {
    let highest = i64::MAX;
    let names = [
        format!("{highest:020}.log"),
        format!("{:020}.log", highest - 100),
        format!("{:020}-{highest:020}.log.gz", 0),
        format!("{:020}-{:020}.log.gz", 0, 1_u64 << 53),
        format!("{:020}.log", (1_u64 << 53) + 1),
        format!("{:020}.log", 1_u64 << 53),
        format!("{:020}.log", (1_u64 << 52) + 1),
        format!("{:020}.log", 1_u64 << 52),
    ];
    for name in names {
        let mut place = Place::new();
        place.script("says.sh", "#!/bin/sh\necho \"precious\"\n");
        let log = place.runtime().join("runs/1/log");
        fs::create_dir_all(&log).expect("creates");
        for dir in [place.runtime(), place.runtime().join("runs"), place.runtime().join("runs/1"), log.clone()] {
            set_mode(&dir, 0o700);
        }
        fs::write(log.join(&name), if name.ends_with("gz") { "" } else { "1 o x\n" }).expect("writes");
        set_mode(&log.join(&name), 0o600);
        place.start_server();
        assert_log_is_readable(&place);
    }
}

/// Starts runs, and checks that each can be read, alone and at the end of the whole log.
fn assert_log_is_readable(place: &Place) {
    for _ in 0..3 {
        place.post("/api/pipeline/start", json!({"script": "says.sh"})).ok();
        let run_id = place.pipeline()["run_id"].as_i64().expect("a run");
        until_true("the run ends", || place.state() == "stopped");
        let (code, said, error) = place.client(&["logs", "--run", &run_id.to_string()]);
        assert!(code == 0 && said.contains("precious"), "{run_id}: {said}{error}");
        let path = format!("/api/logs?run={run_id}");
        let end = until("the log has ended", || place.get(&path).ok()["end"].as_u64());
        assert!(end < 1 << 53, "{end}");
        let (code, said, error) = place.client(&["logs", "-n", "1"]);
        assert!(code == 0 && said.contains("precious"), "{run_id}: {said}{error}");
    }
    let (_, said, error) = place.client(&["logs", "-n", "all"]);
    assert!(said.matches("precious").count() >= 3, "{said}{error}");
}

#[test]
fn numbers_in_a_database_that_do_not_fit_keep_no_server_from_serving_and_no_run_from_being_read() {
    let mut place = Place::serving("sleep.sh");
    let (_, run_id) = place.start();
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    assert_eq!(place.stop_server(), 0);
    let (high, low) = (i64::MAX, i64::MIN);
    place.edit_database(&format!(
        "UPDATE pipeline_events SET pid = {high}; UPDATE pipeline_events SET signal = {high} WHERE exit_code IS NULL;
         UPDATE pipeline_events SET killed = '[{{\"pid\": {high}, \"name\": \"a\"}}]', killed_count = {high}, grace_ms = {high};
         UPDATE pipeline_events SET paused_ms = {high}, oom_kills = {high};
         UPDATE pipeline_runs SET pid = {high}, signal = NULL, exit_code = {low}, paused_ms = {high}, cpu_user_ms = {high},
                max_rss_kb = {high}, oom_kills = {high}, memory_peak_bytes = {high}, grace_ms = {high}"
    ));
    place.start_server();
    for path in [format!("/api/runs/{run_id}"), "/api/runs".to_owned(), "/api/pipeline".to_owned()] {
        place.get(&path).ok();
    }
    let run = place.run(run_id);
    assert_eq!((&run["pid"], &run["exit_code"]), (&json!(u32::MAX), &json!(i32::MIN)), "{run}");
    let (code, _, error) = place.client(&["runs", &run_id.to_string()]);
    assert_eq!((code, &*error), (0, ""));
    place.assert_startable(run_id);
}
