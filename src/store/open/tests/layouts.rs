//! Files whose format is unusual, or whose header or schema leads `SQLite` to the wrong pages.

use super::trees::{PAGE, ended};
use super::*;

/// Makes a file without tables, with this page size and encoding, whose pages reserve this number of bytes for programs other
/// than `SQLite`.
fn without_tables(pragmas: &str, reserved: u8) -> TempDir {
    let folder = made_by(&format!("{pragmas}; CREATE TABLE t (a); DROP TABLE t; VACUUM"));
    let path = folder.path().join(NAME);
    let mut bytes = fs::read(&path).expect("our own file");
    // <https://www.sqlite.org/fileformat2.html#the_database_header>; an empty leaf has its content at the end of the usable part.
    bytes[20] = reserved;
    let end = u16::try_from(bytes.len() - usize::from(reserved)).unwrap_or(0);
    bytes[105..107].copy_from_slice(&end.to_be_bytes());
    fs::write(&path, bytes).expect("our own file");
    folder
}

/// Asserts that this number of runs can be recorded in the file and read again.
fn records(folder: &TempDir, runs: i64, what: &str) {
    let path = folder.path().join(NAME);
    let new = NewRun {
        script: "é.sh".to_owned(),
        cwd: "/".to_owned(),
        args: vec!["x".repeat(3000)],
        log_start: 0,
        origin: None,
        ..NewRun::default()
    };
    for ms in 0..runs {
        let mut store = Store::open(&path).unwrap_or_else(|error| panic!("{what}: {error}")).store;
        let run_id = store.begin_run(&new, None, Timestamp::from_unix_ms(ms)).expect("stopped");
        store.end_run(run_id, UnseenEnd::Lost, Timestamp::from_unix_ms(ms), "lost", &Killed::default()).expect("alive");
        assert_eq!(store.run(run_id).expect("it can be read").map(|run| run.script.clone()), Some("é.sh".to_owned()), "{what}");
    }
}

#[test]
fn database_with_any_page_size_encoding_and_layout_is_used() {
    for pragmas in [
        "PRAGMA encoding = 'UTF-16le'",
        "PRAGMA encoding = 'UTF-16be'; PRAGMA page_size = 65536",
        "PRAGMA page_size = 512",
        "PRAGMA page_size = 65536",
        "PRAGMA auto_vacuum = FULL",
        "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA page_size = 512",
        "PRAGMA journal_mode = WAL",
    ] {
        for reserved in [0, 1, 32] {
            let what = format!("{pragmas}, {reserved} reserved");
            let folder = without_tables(pragmas, reserved);
            ended(&what.clone(), move || {
                records(&folder, 20, &what);
                assert!(is_good(&folder.path().join(NAME)), "{what}");
            });
        }
    }
    let folder = changed("PRAGMA journal_mode = DELETE; PRAGMA page_size = 512; PRAGMA auto_vacuum = FULL; VACUUM");
    records(&folder, 20, "rewritten");
    assert!(is_good(&folder.path().join(NAME)));
}

/// A table of another program, which makes the file too large for a check of all tables.
const LARGE: &str = "CREATE TABLE large (a); INSERT INTO large VALUES (zeroblob(2000000))";

#[test]
fn database_in_which_two_tables_have_the_same_page_is_refused() {
    let page_of = |name: &str| format!("(SELECT rootpage FROM sqlite_schema WHERE name = '{name}')");
    for (name, page) in [
        ("pipeline_events", page_of("pipeline_runs")),
        ("pipeline_runs", page_of("sessions")),
        ("pipeline_runs_one_live", page_of("pipeline_events")),
        ("pipeline_runs_one_live", "1".to_owned()),
        ("pipeline_events", "0".to_owned()),
        ("pipeline_events", "1".to_owned()),
        ("pipeline_events", "-1".to_owned()),
        ("pipeline_events", "'x'".to_owned()),
        ("pipeline_events", "NULL".to_owned()),
        ("pipeline_events", "1000000".to_owned()),
    ] {
        for other in ["", LARGE] {
            let folder = changed(&format!(
                "{other}; PRAGMA writable_schema = 1; UPDATE sqlite_schema SET rootpage = {page} WHERE name = '{name}'"
            ));
            ended(name, move || is_damaged(&folder));
        }
    }
}

#[test]
fn database_whose_header_has_more_pages_than_the_file_is_refused() {
    for more in [1, 1000, u32::MAX / 2] {
        let folder = bent(|bytes| {
            let pages = u32::try_from(bytes.len() / PAGE).expect("few") + more;
            bytes[28..32].copy_from_slice(&pages.to_be_bytes());
        });
        is_damaged(&folder);
    }
}

#[test]
fn database_of_ten_gigabytes_without_content_is_used() {
    const BYTES: u64 = 10 << 30;
    for auto_vacuum in ["NONE", "FULL"] {
        for has_all_pages in [false, true] {
            let folder = changed(&format!("PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = {auto_vacuum}; VACUUM"));
            let path = folder.path().join(NAME);
            let file = OpenOptions::new().write(true).open(&path).expect("our own file");
            file.set_len(BYTES).expect("a hole");
            if has_all_pages {
                let pages = u32::try_from(BYTES / PAGE as u64).expect("it fits");
                file.write_all_at(&pages.to_be_bytes(), 28).expect("our own file");
            }
            let what = format!("auto_vacuum = {auto_vacuum}, all pages: {has_all_pages}");
            ended(&what.clone(), move || {
                records(&folder, 1, &what);
                // The check names the pages that nothing uses.
                assert_eq!(is_good(&path), !has_all_pages, "{what}");
            });
        }
    }
}
