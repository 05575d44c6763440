//! Tests of a database that another process has locked: how long the writer waits.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rusqlite::Connection;

use super::super::connection::{PATIENCE, PATIENCE_WHILE_LOCKED};
use super::*;

#[test]
fn writer_waits_once_for_a_lock_and_again_after_its_release() {
    let mut bench = Bench::new();
    let other = Connection::open(bench.path()).expect("opens");
    let patience = |bench: &Bench| bench.store.patience.get();
    assert_eq!(patience(&bench), PATIENCE);
    for _ in 0..2 {
        other.execute_batch("BEGIN IMMEDIATE").expect("locks");
        assert!(matches!(bench.store.touch(at(1)), Err(StoreError { kind: StoreErrorKind::Busy, .. })));
        assert_eq!(patience(&bench), PATIENCE_WHILE_LOCKED, "the next one does not wait for the same lock");
        bench.row();
        assert_eq!(patience(&bench), PATIENCE_WHILE_LOCKED, "a lock keeps no reader out");
        other.execute_batch("ROLLBACK").expect("unlocks");
        bench.store.touch(at(2)).expect("writes");
        assert_eq!(patience(&bench), PATIENCE, "the next lock is another one");
    }
}

#[test]
fn request_key_write_does_not_wait_for_a_lock() {
    let mut bench = Bench::new();
    let other = Connection::open(bench.path()).expect("opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("locks");
    let patience = Duration::from_hours(1);
    bench.store.be_patient_for(patience);
    let (done, tried) = mpsc::channel();
    let key = RequestKey { key: "a".to_owned(), request: "0".repeat(64) };
    let begun = Begun { run_id: 1, seq: 0 };
    let keys = [(key, begun)];
    let trial = thread::spawn(move || {
        done.send(bench.store.begin_keyed(&keys[0].0, begun)).expect("the test goes on");
        (bench, keys)
    });
    let tried = tried.recv_timeout(Duration::from_secs(60)).expect("it does not wait");
    assert!(matches!(tried, Err(StoreError { kind: StoreErrorKind::Busy, .. })), "{tried:?}");
    let (mut bench, keys) = trial.join().expect("ends");
    assert_eq!(bench.store.patience.get(), patience, "other changes wait as before");
    other.execute_batch("ROLLBACK").expect("unlocks");
    for _ in 0..2 {
        bench.store.begin_keyed_late(&keys).expect("noted, and once");
    }
    assert_eq!(bench.store.keyed_request(&keys[0].0).expect("read"), Some(KeyedRequest::Begun(begun)));
}
