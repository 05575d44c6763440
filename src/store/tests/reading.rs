//! Tests of reading beside the writer, and of what the database or its disk refuses.

use rusqlite::TransactionBehavior;

use super::*;

#[test]
fn stored_history_is_paged_newest_first() {
    let mut bench = Bench::new();
    for ms in 0..5 {
        let id = bench.begin(ms);
        bench.store.end_run(id, UnseenEnd::Lost, at(ms), "gone", &Killed::default()).expect("alive");
    }
    let reader = bench.reader();
    let ids = |before, limit| -> Vec<i64> {
        let page = reader.runs(before, limit, &RunFilter::default()).expect("readable");
        page.runs.iter().map(|run| run.id).collect()
    };
    assert_eq!(ids(None, 2), [5, 4]);
    assert_eq!(ids(Some(4), 2), [3, 2]);
    assert_eq!(ids(Some(2), 2), [1]);
    assert_eq!(ids(Some(1), 2), Vec::<i64>::new());
    assert_eq!(bench.store.latest_run().expect("readable").map(|run| run.id), Some(5));
}

#[test]
fn reader_cannot_write_and_sees_only_whole_transactions() {
    let mut bench = Bench::new();
    let id = bench.begin(0);
    let reader = bench.reader();
    assert!(reader.conn.execute("DELETE FROM pipeline_events", []).is_err());
    let tx = bench.store.conn.transaction().expect("no other");
    tx.execute("UPDATE pipeline_runs SET script = 'half'", []).expect("a change");
    assert_eq!(reader.run(id).expect("not blocked").expect("the run").0.script, "demo.sh");
    tx.commit().expect("room");
    assert_eq!(reader.run(id).expect("readable").expect("the run").0.script, "half");
}

#[test]
fn full_disk_is_reported_and_changes_nothing() {
    let mut bench = Bench::new();
    let pages: i64 = bench.store.conn.pragma_query_value(None, "page_count", |row| row.get(0)).expect("a number");
    bench.store.conn.pragma_update(None, "max_page_count", pages).expect("a limit");
    let before = bench.row();
    let mut large = new_run();
    large.args = vec!["x".repeat(100_000)];
    let error = bench.store.begin_run(&large, None, at(0)).expect_err("no room");
    assert!(matches!(error.kind, StoreErrorKind::Full), "{error}");
    assert!(error.to_string().contains("disk is full; make room"), "{error}");
    assert_eq!(bench.row(), before);
    bench.store.conn.pragma_update(None, "max_page_count", pages + 100).expect("room again");
    bench.store.begin_run(&large, None, at(0)).expect("room again");
}

#[test]
fn second_writer_waits_and_reports_busy() {
    let mut bench = Bench::new();
    let mut other = Store::open(&bench.path()).expect("two can open it").store;
    other.conn.busy_timeout(Duration::from_millis(20)).expect("a setting");
    let tx = bench.store.conn.transaction_with_behavior(TransactionBehavior::Immediate).expect("no other");
    let error = other.touch(at(0)).expect_err("the other writes");
    assert!(matches!(error.kind, StoreErrorKind::Busy), "{error}");
    assert!(!matches!(error.kind, StoreErrorKind::Full));
    drop(tx);
    assert_eq!(other.touch(at(0)).expect("free again").version, 1);
    assert_eq!(bench.store.touch(at(0)).expect("free again").version, 2);
}

#[test]
fn word_of_newer_version_is_an_error_with_a_hint() {
    let bench = Bench::new();
    bench
        .store
        .conn
        .execute_batch("PRAGMA ignore_check_constraints = 1; UPDATE pipeline_state SET state = 'frozen'")
        .expect("forced");
    let error = bench.store.row().expect_err("no such state");
    assert!(matches!(&error.kind, StoreErrorKind::UnknownText(word) if word.text == "frozen"), "{error}");
    assert!(error.to_string().contains("restore a backup"), "{error}");
}

#[test]
fn reader_refuses_a_file_that_replaced_the_database() {
    let bench = Bench::new();
    let (path, file) = (bench.path(), bench.store.file().clone());
    Reader::open(&file).and_then(|reader| reader.time()).expect("it is the store's file");
    let (aside, copy) = (path.with_file_name("aside"), path.with_file_name("copy"));
    std::fs::copy(&path, &copy).expect("copies");
    std::fs::rename(&path, &aside).expect("renames");
    std::fs::rename(&copy, &path).expect("renames");
    assert!(matches!(Reader::open(&file), Err(StoreError { kind: StoreErrorKind::Gone, .. })));
    std::fs::rename(&aside, &path).expect("renames");
    Reader::open(&file).and_then(|reader| reader.time()).expect("it is back");
}
