//! Tests by kind of damage and by the program that made the file: what is opened, and what is refused and left unchanged.

mod checking;
mod layouts;
mod limits;
mod schemas;
mod trees;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use rusqlite::types::Value;
use rustix::thread::CapabilitySet;
use tempfile::TempDir;

use super::super::history::APPLICATION_ID;
use super::super::schema::HISTORY_TABLE;
use super::super::{
    CheckStep, DatabaseFile, NewRun, PipelineRow, Reader, RunFilter, Store, StoreError, UnseenEnd, check, migrate,
};
use super::*;
use crate::clock::Timestamp;
use crate::pipeline::Killed;

const NAME: &str = "test.db";

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temp folder")
}

/// Makes a closed database with a few runs.
fn filled() -> TempDir {
    let folder = folder();
    let mut store = Store::open(&folder.path().join(NAME)).expect("a new database").store;
    let new = NewRun {
        script: "demo.sh".to_owned(),
        cwd: "/srv".to_owned(),
        args: vec!["x".repeat(3000)],
        log_start: 0,
        origin: None,
        ..NewRun::default()
    };
    for ms in 0..20 {
        let run_id = store.begin_run(&new, None, Timestamp::from_unix_ms(ms)).expect("stopped");
        store.end_run(run_id, UnseenEnd::Lost, Timestamp::from_unix_ms(ms), "lost", &Killed::default()).expect("alive");
    }
    folder
}

/// Makes a closed database, and then changes it by this SQL.
fn changed(sql: &str) -> TempDir {
    let folder = filled();
    Connection::open(folder.path().join(NAME)).and_then(|conn| conn.execute_batch(sql)).expect("valid SQL");
    folder
}

/// Makes another program's database.
fn made_by(sql: &str) -> TempDir {
    let folder = folder();
    Connection::open(folder.path().join(NAME)).and_then(|conn| conn.execute_batch(sql)).expect("valid SQL");
    folder
}

/// Makes the files that a kill leaves of a database that was changed by this SQL: the change is only in the write-ahead log.
fn changed_and_killed(sql: &str) -> TempDir {
    let living = filled();
    let conn = Connection::open(living.path().join(NAME)).expect("our own file");
    conn.execute_batch(sql).expect("valid SQL");
    let killed = folder();
    for suffix in ["", "-wal", "-shm"] {
        let name = format!("{NAME}{suffix}");
        fs::copy(living.path().join(&name), killed.path().join(&name)).expect("it is there while the connection lives");
    }
    killed
}

/// Makes a database and then changes its bytes.
fn bent(bend: impl FnOnce(&mut Vec<u8>)) -> TempDir {
    let folder = filled();
    let path = folder.path().join(NAME);
    let mut bytes = fs::read(&path).expect("our own file");
    bend(&mut bytes);
    fs::write(&path, bytes).expect("our own file");
    folder
}

fn holding(bytes: &[u8]) -> TempDir {
    let folder = folder();
    fs::write(folder.path().join(NAME), bytes).expect("our own folder");
    folder
}

/// Returns every file's name and bytes.
fn contents(folder: &TempDir) -> BTreeMap<OsString, Vec<u8>> {
    fs::read_dir(folder.path())
        .expect("our own folder")
        .map(|entry| entry.expect("our own folder"))
        .map(|entry| (entry.file_name(), fs::read(entry.path()).expect("our own file")))
        .collect()
}

/// Checks whether every step of a check is good.
fn is_good(path: &Path) -> bool {
    check(path).expect("it can be read").iter().all(|step| step.result.is_ok())
}

/// Opens a file that must be refused, in every way, and asserts that no byte changed and no file was added.
fn refused(folder: &TempDir) -> StoreError {
    let path = folder.path().join(NAME);
    let before = contents(folder);
    let error = Store::open(&path).expect_err("it must be refused");
    assert!(contents(folder) == before, "opening touched it: {error}");
    assert!(migrate(&path).is_err());
    assert!(check(&path).is_err());
    assert!(contents(folder) == before, "looking at it touched it: {error}");
    let text = error.to_string();
    assert!(text.contains(path.to_str().expect("plain letters")), "names the file: {text}");
    assert!(text.contains("it has not been touched: "), "says what to do: {text}");
    error
}

fn is_damaged(folder: &TempDir) {
    let error = refused(folder);
    assert!(matches!(error.kind, StoreErrorKind::Damaged(_)), "{error}");
    assert!(error.to_string().contains("move it aside with its -wal and -shm files and start again, or restore a backup"));
}

#[test]
fn file_that_is_not_a_database_is_refused() {
    is_damaged(&holding(b"hello"));
    is_damaged(&holding(b"SQLite format 3\0"));
    is_damaged(&holding(&[0; 4096]));
    is_damaged(&holding("a diary, kept in the wrong place\n".repeat(400).as_bytes()));
}

#[test]
fn truncated_database_is_refused() {
    let pages = contents(&filled())[&OsString::from(NAME)].len() / 4096;
    assert!(pages > 10, "there is something to cut");
    for page in 1..pages {
        is_damaged(&bent(|bytes| bytes.truncate(page * 4096)));
    }
    is_damaged(&bent(|bytes| bytes.truncate(pages * 4096 - 1)));
    is_damaged(&bent(|bytes| bytes.truncate(50)));
}

#[test]
fn overwritten_page_is_refused() {
    let pages = contents(&filled())[&OsString::from(NAME)].len() / 4096;
    for page in 0..pages {
        for smash in [0x00, 0xFF] {
            is_damaged(&bent(|bytes| bytes[page * 4096..][..4096].fill(smash)));
        }
    }
}

#[test]
fn flipped_bit_is_refused_or_harmless_without_a_panic() {
    let size = contents(&filled())[&OsString::from(NAME)].len();
    let original = filled();
    let bytes = fs::read(original.path().join(NAME)).expect("our own file");
    // A prime step, so that the changes reach every part of a page; each byte of the first 200 is changed.
    for at in (0..200).chain((200..size).step_by(397)) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        let folder = holding(&bytes);
        let before = contents(&folder);
        match Store::open(&folder.path().join(NAME)) {
            Ok(opened) => drop(opened.store.row()),
            Err(StoreError { kind: StoreErrorKind::NotWritable(_) | StoreErrorKind::Setting(_), .. }) => {}
            Err(error) => assert!(contents(&folder) == before, "byte {at}: {error}"),
        }
    }
}

#[test]
fn wal_without_its_database_is_refused() {
    for empty in [false, true] {
        let folder = changed_and_killed("UPDATE pipeline_state SET version = 99");
        fs::remove_file(folder.path().join(NAME)).expect("it is there");
        if empty {
            fs::write(folder.path().join(NAME), "").expect("our own folder");
        }
        is_damaged(&folder);
    }
}

#[test]
fn newer_database_is_refused() {
    let newer = format!("INSERT INTO {HISTORY_TABLE} VALUES (99, 'later', '2030-01-01T00:00:00Z', '1'); CREATE TABLE later (x)");
    for folder in [changed(&newer), changed_and_killed(&newer)] {
        let error = refused(&folder);
        assert!(matches!(&error.kind, StoreErrorKind::Newer { found: 99, known } if *known == schema_version()), "{error}");
        assert!(error.to_string().contains("run the newer version"), "{error}");
    }
}

#[test]
fn database_with_divergent_migrations_is_refused() {
    for sql in [
        format!("UPDATE {HISTORY_TABLE} SET checksum = '12345' WHERE version = 1"),
        format!("UPDATE {HISTORY_TABLE} SET name = 'plumbing' WHERE version = 1"),
        format!("UPDATE {HISTORY_TABLE} SET version = 0, name = 'before' WHERE version = 1"),
    ] {
        for folder in [changed(&sql), changed_and_killed(&sql)] {
            let error = refused(&folder);
            assert!(matches!(error.kind, StoreErrorKind::Divergent(_)), "{error}");
        }
    }
}

#[test]
fn malformed_migration_history_is_reported_as_damage() {
    for column in ["checksum = 'many'", "applied_on = 'once'", "name = NULL", "version = 'one'"] {
        is_damaged(&changed(&format!("UPDATE {HISTORY_TABLE} SET {column} WHERE version = 1")));
    }
}

#[test]
fn database_of_another_program_is_refused() {
    for sql in [
        "CREATE TABLE recipes (name TEXT)",
        "CREATE TABLE recipes (name TEXT); PRAGMA journal_mode = WAL",
        "CREATE VIEW one AS SELECT 1",
        "PRAGMA application_id = 7; CREATE TABLE recipes (name TEXT)",
        "PRAGMA application_id = 7",
        "CREATE TABLE refinery_schema_history( version int4 PRIMARY KEY, name VARCHAR(255), applied_on VARCHAR(255), checksum VARCHAR(255)); CREATE TABLE recipes (name TEXT)",
        // A kill leaves nothing but an empty history of refinery.
        "CREATE TABLE refinery_schema_history( version int4 PRIMARY KEY, name VARCHAR(255), applied_on VARCHAR(255), checksum VARCHAR(255)); CREATE INDEX recipes ON refinery_schema_history (name)",
        "CREATE TABLE REFINERY_SCHEMA_HISTORY( version int4 PRIMARY KEY, name VARCHAR(255), applied_on VARCHAR(255), checksum VARCHAR(255))",
        "CREATE TABLE Refinery_schema_history (version, name AS (hex(zeroblob(7000000))))",
        "CREATE VIEW refinery_schema_history AS SELECT 1",
        "CREATE TABLE recipes (id INTEGER PRIMARY KEY AUTOINCREMENT); DROP TABLE recipes",
    ] {
        let error = refused(&made_by(sql));
        assert!(matches!(error.kind, StoreErrorKind::Foreign(_)), "{sql}: {error}");
    }
}

#[test]
fn damage_is_found_behind_a_leftover_wal() {
    let folder = changed_and_killed("UPDATE pipeline_state SET version = 99");
    let path = folder.path().join(NAME);
    let mut bytes = fs::read(&path).expect("our own file");
    let last = bytes.len() - 4096;
    bytes[last..].fill(0xFF);
    fs::write(&path, bytes).expect("our own file");
    is_damaged(&folder);
    // Without the index, SQLite creates a new one; the data stays unchanged.
    fs::remove_file(folder.path().join("test.db-shm")).expect("it is there");
    let before = contents(&folder);
    assert!(matches!(Store::open(&path), Err(StoreError { kind: StoreErrorKind::Damaged(_), .. })));
    let mut after = contents(&folder);
    after.remove(&OsString::from("test.db-shm"));
    assert!(after == before);
}

#[test]
fn database_path_that_cannot_be_created_is_refused() {
    let folder = folder();
    let file = folder.path().join("file");
    fs::write(&file, "x").expect("our own folder");
    for path in [folder.path().to_owned(), file.join("below.db"), folder.path().join("nowhere/test.db"), "/dev/null".into()] {
        let error = Store::open(&path).expect_err("it must be refused");
        assert!(matches!(error.kind, StoreErrorKind::NotWritable(_)), "{error}");
        assert!(error.to_string().contains("or name another file with DATABASE_URL"), "{error}");
    }
    assert_eq!(contents(&folder).len(), 1, "nothing was made");
}

#[test]
fn unwritable_database_is_refused() {
    // The header's write version means: only for reading (https://www.sqlite.org/fileformat2.html, 1.3.3).
    let folder = bent(|bytes| bytes[18] = 3);
    let before = contents(&folder);
    let error = Store::open(&folder.path().join(NAME)).expect_err("it must be refused");
    assert!(matches!(error.kind, StoreErrorKind::NotWritable(_)), "{error}");
    assert!(contents(&folder) == before);

    // For root, permissions do not matter, so the rest runs in a thread that has dropped that privilege (capabilities(7)).
    std::thread::spawn(|| {
        let mut capabilities = rustix::thread::capabilities(None).expect("the kernel knows them");
        capabilities.effective.remove(CapabilitySet::DAC_OVERRIDE);
        rustix::thread::set_capabilities(None, capabilities).expect("less is always allowed");
        let folder = filled();
        let path = folder.path().join(NAME);
        let allow = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own");
        for (file_mode, folder_mode) in [(0o400, 0o700), (0o600, 0o500), (0o000, 0o700), (0o600, 0o000)] {
            allow(&path, file_mode);
            allow(folder.path(), folder_mode);
            let results = [Store::open(&path).map(drop), migrate(&path).map(drop), check(&path).map(drop)];
            allow(folder.path(), 0o700);
            for result in results {
                let error = result.expect_err("it must be refused");
                assert!(matches!(error.kind, StoreErrorKind::NotWritable(_)), "{file_mode:o} {folder_mode:o}: {error}");
            }
            assert_eq!(only_file(&folder), NAME);
            allow(&path, 0o600);
        }
        Store::open(&path).expect("allowed again");
        let locked = folder.path().join("locked");
        fs::create_dir(&locked).expect("our own folder");
        allow(&locked, 0o500);
        assert!(matches!(Store::open(&locked.join(NAME)), Err(StoreError { kind: StoreErrorKind::NotWritable(_), .. })));
    })
    .join()
    .expect("no panic");
}

/// Returns the name of the only file.
fn only_file(folder: &TempDir) -> OsString {
    let mut files = fs::read_dir(folder.path()).expect("our own folder");
    let name = files.next().expect("one file").expect("our own folder").file_name();
    assert!(files.next().is_none(), "something was left behind");
    name
}

#[test]
fn new_database_is_private_and_migrated_once() {
    let folder = folder();
    // Characters with a meaning in a URI.
    let path = folder.path().join("a b%41?mode=memory#ü.db");
    let opened = Store::open(&path).expect("a new database");
    assert_eq!(opened.applied, all_migrations());
    let files: Vec<_> = fs::read_dir(folder.path()).expect("our own folder").map(|file| file.expect("a file")).collect();
    assert_eq!(files.len(), 3, "the file, its log and its index");
    for file in files {
        assert_eq!(file.metadata().expect("a file").permissions().mode() & 0o777, 0o600, "{}", file.path().display());
    }
    drop(opened);
    assert!(path.exists());
    assert_eq!(Store::open(&path).expect("our own").applied, Vec::<String>::new());
    assert_eq!(migrate(&path).expect("our own"), Vec::<String>::new());
    assert_eq!(migrate(&folder.path().join("other.db")).expect("a new database"), all_migrations());
}

#[test]
fn names_special_to_sqlite_are_used_as_file_paths() {
    for name in [":memory:", "file:x.db?mode=memory"] {
        let whole = absolute(Path::new(name)).expect("there is a working directory");
        assert!(whole.is_absolute() && whole.ends_with(name), "{}", whole.display());
    }
}

#[test]
fn required_pragmas_are_set_on_open() {
    let folder = folder();
    let store = Store::open(&folder.path().join(NAME)).expect("a new database").store;
    let setting = |name| store.conn.pragma_query_value(None, name, |row| row.get::<_, Value>(0)).expect("a setting");
    assert_eq!(setting("journal_mode"), Value::Text("wal".to_owned()));
    assert_eq!(setting("synchronous"), Value::Integer(2));
    assert_eq!(setting("foreign_keys"), Value::Integer(1));
    assert_eq!(setting("trusted_schema"), Value::Integer(0));
    assert_eq!(setting("busy_timeout"), Value::Integer(i64::try_from(store.patience.get().as_millis()).expect("short")));
    assert!(store.patience.get() < BUSY_TIMEOUT, "the supervisor does nothing else meanwhile");
    assert_eq!(setting("application_id"), Value::Integer(i64::from(APPLICATION_ID)));
}

#[test]
fn database_interrupted_during_creation_opens_as_new() {
    // An empty file; a header; a header and an empty history.
    let history = "CREATE TABLE refinery_schema_history( version int4 PRIMARY KEY, name VARCHAR(255), applied_on VARCHAR(255), checksum VARCHAR(255))";
    let mut images = vec![holding(b""), made_by("PRAGMA journal_mode = WAL"), made_by(history)];
    // The very first transaction cut off, with its rollback journal.
    let living = folder();
    let conn = Connection::open(living.path().join(NAME)).expect("a new file");
    conn.execute_batch("BEGIN; CREATE TABLE half (x)").expect("valid SQL");
    conn.cache_flush().expect("room");
    let cut_off = folder();
    for name in [NAME, "test.db-journal"] {
        fs::copy(living.path().join(name), cut_off.path().join(name)).expect("it is there within the transaction");
        assert!(!fs::read(cut_off.path().join(name)).expect("our own file").is_empty());
    }
    images.push(cut_off);
    for folder in images {
        let opened = Store::open(&folder.path().join(NAME)).expect("it is as good as new");
        assert_eq!(opened.applied, all_migrations());
        assert_eq!(opened.store.row().expect("the row").version, 0);
    }
}

#[test]
fn concurrent_opens_create_the_database_once() {
    for _ in 0..15 {
        let folder = folder();
        let path = folder.path().join(NAME);
        let starting_line = std::sync::Barrier::new(8);
        let open_at_once = || {
            starting_line.wait();
            Store::open(&path).map(|opened| opened.applied)
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let openers: Vec<_> = (0..8).map(|_| scope.spawn(open_at_once)).collect();
            openers.into_iter().map(|opener| opener.join().expect("no panic")).collect()
        });
        for result in &results {
            assert!(matches!(result, Ok(_) | Err(StoreError { kind: StoreErrorKind::Busy, .. })), "{result:?}");
        }
        assert!(results.iter().filter(|result| result.as_ref().is_ok_and(|made| !made.is_empty())).count() <= 1, "{results:?}");
        assert!(Store::open(&path).expect("a good file").store.row().is_ok());
        assert!(is_good(&path));
    }
}

fn all_migrations() -> Vec<String> {
    known::all().iter().map(ToString::to_string).collect()
}

#[test]
fn missing_state_row_is_an_error() {
    let folder = changed("DELETE FROM pipeline_state");
    let store = Store::open(&folder.path().join(NAME)).expect("it can be read").store;
    assert!(store.row().is_err());
    assert!(PipelineRow::read(&store.conn).is_err());
}
