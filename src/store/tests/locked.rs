//! A database that another process has locked: how long the writer waits for it.

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
