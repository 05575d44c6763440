//! Tests of changes that other threads hand to the writing thread.

use std::time::Instant;

use super::*;
use crate::store::{StoreError, StoreErrorKind, WorkError, Writer};

#[test]
fn handed_work_is_done_by_the_supervisor_and_refused_once_it_stops() {
    let dir = tempfile::tempdir().expect("a temp folder");
    let store = Store::open(&dir.path().join("db")).expect("opens").store;
    let supervisor = Supervisor::start(store, settings(&dir), || {}, || {}).expect("starts");
    let handle = supervisor.handle();
    let name = handle.writer().write(|store| {
        store.reserve_run_ids(41)?;
        Ok(thread::current().name().map(str::to_owned))
    });
    assert_eq!(name.expect("it is written"), Some("supervisor".to_owned()));
    let refused = handle.writer().write(|store| store.adopt_unknown_run(0, &unknown_run(), Timestamp::from_unix_ms(0)));
    assert!(
        matches!(refused, Err(WorkError::Store(StoreError { kind: StoreErrorKind::Conflict(_), .. }))),
        "the schema takes no id 0: {refused:?}"
    );
    assert_eq!(handle.watch().degraded(), None, "the database is well");
    supervisor.stop().expect("no fault");
    let refused = handle.writer().write(|store| store.reserve_run_ids(42));
    assert!(matches!(refused, Err(WorkError::Stopping)), "{refused:?}");
    let store = Store::open(&dir.path().join("db")).expect("opens").store;
    assert_eq!({ store }.begin_run(&unknown_run(), None, Timestamp::from_unix_ms(0)).expect("stopped"), 42);
}

#[test]
fn work_that_is_dropped_undone_is_refused() {
    let writer = Writer::new(|work| {
        drop(work);
        true
    });
    assert!(matches!(writer.write(|store| store.reserve_run_ids(1)), Err(WorkError::Stopping)));
}

fn unknown_run() -> crate::store::NewRun {
    crate::store::NewRun {
        script: "a.sh".into(),
        cwd: "/".into(),
        args: Vec::new(),
        log_start: 0,
        origin: None,
        ..crate::store::NewRun::default()
    }
}

/// The first change that meets the lock waits for it briefly. The next ones do not wait until it is released.
#[test]
fn handed_work_and_actions_do_not_wait_for_a_lock_held_by_another_process() {
    let dir = tempfile::tempdir().expect("a temp folder");
    std::fs::write(dir.path().join("a.sh"), "echo hi\n").expect("writes");
    let store = Store::open(&dir.path().join("db")).expect("opens").store;
    let supervisor = Supervisor::start(store, settings(&dir), || {}, || {}).expect("starts");
    let handle = supervisor.handle();
    let other = rusqlite::Connection::open(dir.path().join("db")).expect("opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("locks");
    let began = Instant::now();
    for _ in 0..50 {
        let work = handle.writer().write(|store| store.reserve_run_ids(41));
        assert!(matches!(work, Err(WorkError::Store(StoreError { kind: StoreErrorKind::Busy, .. }))), "{work:?}");
        assert!(handle.watch().degraded().is_some(), "also where no action meets the lock");
        let start = handle.act(Ask::Start(StartRequest::default()), ExpectedRun::Any, None, CLIENT);
        assert!(matches!(start, Err(ActionError::DatabaseLocked)), "{start:?}");
        let pause = handle.act(Ask::Pause, ExpectedRun::Any, None, CLIENT);
        assert!(matches!(pause, Err(ActionError::Refused(_))), "{pause:?}");
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "a hundred waits of 200 ms take 20 s, and this took {took:?}");
    let degraded = handle.watch().degraded().expect("it is known");
    assert!(degraded.contains("another process has locked it"), "{degraded}");

    other.execute_batch("ROLLBACK").expect("unlocks");
    let deadline = Instant::now() + Duration::from_mins(1);
    while handle.watch().degraded().is_some() {
        assert!(Instant::now() < deadline, "a trial finds the lock released");
        thread::yield_now();
    }
    handle.writer().write(|store| store.reserve_run_ids(41)).expect("the lock is released");
    supervisor.stop().expect("no fault");
}
