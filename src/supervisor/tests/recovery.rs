//! Tests of recovery at boot.

use super::database::without_database;
use super::*;

#[test]
fn restarted_server_resumes_from_stored_state() {
    let mut stage = Stage::running();
    stage.hear(&[(2, Fact::Paused { cause: Cause::Request })]);
    stage.finds(1, Found::ShimAlive, &[(1, spawned()), (2, Fact::Paused { cause: Cause::Request })]);
    let mut stage = stage.reboot();
    assert_eq!((stage.snapshot().state, stage.snapshot().pid), (State::Paused, Some(42)));
    assert_eq!(stage.last_sent(), Command::Attach { tag: 0, after: 2 });
    let waiting = stage.ask(Ask::Stop { grace: None });
    assert!(matches!(stage.last_sent(), Command::Stop { grace_ms: Some(7_000), .. }), "the run's own grace, from its journal");
    stage.hear(&[(3, exited(0, true))]);
    assert!(got(&waiting).is_ok());
}

#[test]
fn server_restart_keeps_a_pending_stop() {
    let mut stage = Stage::running();
    stage.finds(1, Found::ShimAlive, &[(1, spawned()), (2, Fact::Stopping { grace_ms: 60_000 })]);
    stage.hear(&[(2, Fact::Stopping { grace_ms: 60_000 })]);
    let stage = stage.reboot();
    assert_eq!(stage.snapshot().pending, Some(Action::Stop), "also when the fact had been recorded before");
}

#[test]
fn restarted_server_records_what_happened_meanwhile() {
    let stage = Stage::running();
    stage.finds(1, Found::Ended, &[(1, spawned()), (2, Fact::Paused { cause: Cause::Outside }), (3, exited(7, false))]);
    let stage = stage.reboot();
    assert_eq!(stage.stored(), (State::Stopped, "failed".into()));
    assert_eq!(stage.snapshot().exit_code, Some(7));
    let version = stage.snapshot().version;
    assert_eq!(stage.reboot().snapshot().version, version, "recovering twice records nothing twice");
}

#[test]
fn interrupted_start_is_recovered_from_what_is_found() {
    for (found, facts, state, status) in [
        (Found::NeverBegan, None, State::Stopped, "failed"),
        (Found::Vanished { same_boot: true }, Some(vec![]), State::Stopped, "lost"),
        (Found::Vanished { same_boot: false }, Some(vec![]), State::Stopped, "lost"),
        (Found::Ended, Some(vec![(1, Fact::SpawnFailed { error: "no".into(), lack: None })]), State::Stopped, "failed"),
        (Found::Ended, Some(vec![(1, spawned()), (2, exited(0, false))]), State::Stopped, "completed"),
        (Found::ShimAlive, Some(vec![(1, spawned())]), State::Running, "running"),
        (Found::ShimAlive, Some(vec![]), State::Stopped, "starting"),
    ] {
        let mut stage = Stage::new();
        drop(stage.ask(Ask::Start(StartRequest::default())));
        if let Some(facts) = &facts {
            stage.finds(1, found, facts);
        }
        let mut stage = stage.reboot();
        assert_eq!(stage.stored(), (state, status.into()), "{found:?} {facts:?}");
        if status == "starting" {
            assert_eq!(stage.snapshot().pending, Some(Action::Start));
            stage.hear(&[(1, spawned())]);
            assert_eq!(stage.stored(), (State::Running, "running".into()));
        }
    }
}

#[test]
fn machine_reboot_loses_run_as_of_its_last_fact() {
    let stage = Stage::running();
    stage.clock.advance(Duration::from_secs(60));
    let last_fact_at = stage.clock.now();
    stage.finds(1, Found::Vanished { same_boot: false }, &[(1, spawned()), (2, Fact::Paused { cause: Cause::Outside })]);
    stage.clock.advance(Duration::from_secs(3_600));
    let stage = stage.reboot();
    assert_eq!(stage.stored(), (State::Stopped, "lost".into()));
    assert_eq!(stage.snapshot().stopped_at, Some(last_fact_at));
}

#[test]
fn latest_run_unknown_to_database_is_adopted() {
    let stage = Stage::new();
    stage.finds(4, Found::Ended, &[(1, spawned()), (2, exited(0, false))]);
    stage.finds(5, Found::ShimAlive, &[(1, spawned())]);
    let mut stage = stage.reboot();
    assert_eq!((stage.snapshot().state, stage.snapshot().run_id), (State::Running, Some(5)));
    stage.hear(&[(2, exited(0, false))]);
    let waiting = stage.ask(Ask::Start(StartRequest::default()));
    stage.hear(&[(1, spawned())]);
    assert_eq!(got(&waiting).expect("started").snapshot.run_id, Some(6), "no id is given twice");
}

#[test]
fn end_without_its_spawned_fact_does_not_block_next_run() {
    let mut stage = Stage::new();
    drop(stage.ask(Ask::Start(StartRequest::default())));
    stage.finds(1, Found::Ended, &[(2, exited(0, false))]);
    let mut stage = stage.reboot();
    assert_eq!(stage.stored(), (State::Stopped, "lost".into()));
    let waiting = stage.ask(Ask::Start(StartRequest::default()));
    stage.hear(&[(1, spawned())]);
    assert!(got(&waiting).is_ok());
}

#[test]
fn boot_fails_if_runs_cannot_be_listed_or_inspected() {
    let Stage { dir, world, clock, conductor, .. } = Stage::new();
    drop(conductor);
    world.0.borrow_mut().found.insert(4, (Found::Ended, None));
    world.0.borrow_mut().lists_fail = true;
    assert!(matches!(try_boot(&dir, &world, &clock), Err(BootError::Runs(_))));
    world.0.borrow_mut().lists_fail = false;
    world.0.borrow_mut().looks_fail = true;
    assert!(matches!(try_boot(&dir, &world, &clock), Err(BootError::Runs(_))), "it may be alive");
    world.0.borrow_mut().looks_fail = false;
    assert!(try_boot(&dir, &world, &clock).is_ok());
}

#[test]
fn run_directories_are_not_listed_if_the_link_names_a_recorded_run() {
    let mut stage = Stage::new();
    let waiting = stage.ask(Ask::Start(StartRequest::default()));
    stage.hear(&[(1, spawned())]);
    assert!(got(&waiting).is_ok());
    let Stage { dir, world, clock, conductor, .. } = stage;
    drop(conductor);
    world.0.borrow_mut().found.insert(1, (Found::ShimAlive, None));
    world.0.borrow_mut().lists_fail = true;
    world.0.borrow_mut().link = Some(1);
    assert!(try_boot(&dir, &world, &clock).is_ok());
    // The database was restored from before that run, or created again.
    world.0.borrow_mut().link = Some(2);
    assert!(matches!(try_boot(&dir, &world, &clock), Err(BootError::Runs(_))));
    world.0.borrow_mut().link = None;
    assert!(matches!(try_boot(&dir, &world, &clock), Err(BootError::Runs(_))));
    let Stage { dir, world, clock, conductor, .. } = Stage::new();
    drop(conductor);
    world.0.borrow_mut().lists_fail = true;
    world.0.borrow_mut().link = Some(1);
    assert!(matches!(try_boot(&dir, &world, &clock), Err(BootError::Runs(_))), "no run is on record");
}

#[test]
fn older_unknown_run_is_left_alone() {
    let stage = Stage::new();
    stage.finds(4, Found::Vanished { same_boot: true }, &[(1, spawned())]);
    stage.finds(5, Found::ShimAlive, &[(1, spawned()), (2, Fact::Paused { cause: Cause::Request })]);
    let stage = stage.reboot();
    assert_eq!((stage.snapshot().state, stage.snapshot().run_id), (State::Paused, Some(5)));
    assert!(stage.world.0.borrow().killed_leftovers_of.is_empty(), "that takes the PAUSE file, which is run 5's");
}

#[test]
fn recorded_stop_missing_from_journal_is_still_pending() {
    let mut stage = Stage::running();
    stage.hear(&[(2, Fact::Stopping { grace_ms: 60_000 }), (3, Fact::Stopping { grace_ms: 50_000 })]);
    // The journal has no room for either.
    stage.finds(1, Found::ShimAlive, &[(1, spawned())]);
    let mut stage = stage.reboot();
    assert_eq!(stage.snapshot().pending, Some(Action::Stop));
    let longer = stage.ask_as(Origin::Shutdown, stop(Duration::from_secs(55)));
    assert!(matches!(got(&longer), Err(ActionError::Refused(_))), "it has less time already");
    let shorter = stage.ask(stop(Duration::from_secs(5)));
    assert!(waits(&shorter));
    assert!(matches!(stage.last_sent(), Command::Stop { grace_ms: Some(5_000), .. }));
}

#[test]
fn facts_after_an_end_are_received_after_reconnect() {
    for is_reboot in [false, true] {
        let mut stage = Stage::running();
        stage.hear(&[(2, exited(0, false))]);
        // The journal has no room, so the shim is alive and has not reported the resource usage yet.
        stage.finds(1, Found::ShimAlive, &[(1, spawned())]);
        if is_reboot {
            stage = stage.reboot();
        } else {
            stage.lose_shim();
        }
        assert!(matches!(stage.last_sent(), Command::Attach { after: 2, .. }), "{:?}", stage.last_sent());
        stage.hear(&[(3, Fact::Usage { cpu_user_ms: 7, cpu_system_ms: 8, max_rss_kb: 9, memory_peak_bytes: None })]);
        let reader = crate::store::Reader::open(&crate::store::DatabaseFile::at(&stage.dir.path().join("db"))).expect("opens");
        assert_eq!(reader.run(1).expect("reads").expect("the run").0.cpu_user_ms, Some(7));
        assert_eq!((stage.snapshot().state, stage.snapshot().pipeline.allowed), (State::Stopped, vec![Action::Start]));
    }
}

#[test]
fn unremovable_pause_file_is_retried_after_the_end() {
    for is_reboot in [false, true] {
        let mut stage = Stage::running();
        stage.hear(&[(2, Fact::Paused { cause: Cause::Outside })]);
        let facts = [(1, spawned()), (2, Fact::Paused { cause: Cause::Outside })];
        stage.finds(1, Found::Vanished { same_boot: true }, &facts);
        stage.world.0.borrow_mut().pause_file_stays = true;
        stage.lose_shim();
        assert_eq!(stage.world.0.borrow().killed_leftovers_of.last(), Some(&1));
        assert_eq!(stage.stored(), (State::Stopped, "lost".into()), "nothing is paused any more");
        assert!(stage.conductor.watch.degraded().is_some_and(|why| why.contains("PAUSE")));
        if is_reboot {
            stage = stage.reboot();
            assert!(stage.conductor.watch.degraded().is_some_and(|why| why.contains("PAUSE")));
        }
        stage.world.0.borrow_mut().pause_file_stays = false;
        stage.pass(Duration::from_secs(1));
        assert_eq!(stage.conductor.watch.degraded(), None);
        assert_eq!(stage.conductor.deadline(), None, "nothing is left to be done");
    }
}

#[test]
fn shim_silent_condition_ends_with_the_run() {
    let mut stage = Stage::running();
    stage.world.0.borrow_mut().connect_fails = true;
    stage.finds(1, Found::ShimAlive, &[(1, spawned()), (2, exited(0, false))]);
    without_database(&mut stage, |stage| {
        stage.lose_shim();
        for _ in 0..100 {
            stage.pass(Duration::from_millis(99));
        }
        assert!(stage.conductor.watch.degraded().is_some_and(|why| why.contains("does not answer")));
    });
    for _ in 0..10 {
        stage.pass(Duration::from_millis(99));
    }
    assert_eq!(stage.stored(), (State::Stopped, "completed".into()));
    assert_eq!(stage.conductor.watch.degraded(), None);
}

/// The shim was killed after it had reported the end and before it removed the PAUSE file, which the disk refused.
#[test]
fn pause_file_of_an_ended_run_is_removed_once_possible() {
    let mut stage = Stage::running();
    stage.hear(&[(2, exited(0, true))]);
    stage.finds(1, Found::Vanished { same_boot: true }, &[(1, spawned())]);
    stage.world.0.borrow_mut().pause_file_stays = true;
    stage.lose_shim();
    assert!(stage.conductor.watch.degraded().is_some_and(|why| why.contains("PAUSE")));
    stage.pass(Duration::from_mins(1));
    assert_eq!(stage.snapshot().allowed, [Action::Start], "that holds up nothing");
    stage.world.0.borrow_mut().pause_file_stays = false;
    stage.pass(Duration::from_secs(1));
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.conductor.watch.degraded(), None);
    assert_eq!(stage.stored(), (State::Stopped, "stopped".into()));

    // The file may now belong to a run that the database does not know.
    stage.world.0.borrow_mut().pause_file_stays = true;
    stage.finds(2, Found::ShimAlive, &[(1, spawned())]);
    stage.lose_shim();
    assert_eq!(stage.conductor.watch.degraded(), None, "it is not touched");
}

#[test]
fn unreadable_run_directory_is_retried_with_growing_pauses() {
    for has_ended in [false, true] {
        let mut stage = Stage::running();
        if has_ended {
            stage.hear(&[(2, exited(0, true))]);
        }
        stage.finds(1, Found::Vanished { same_boot: true }, &[(1, spawned())]);
        stage.world.0.borrow_mut().looks_fail = true;
        stage.lose_shim();
        let before = stage.world.0.borrow().looks;
        for _ in 0..60 * 60 * 10 {
            stage.pass(Duration::from_millis(100));
        }
        let looks = stage.world.0.borrow().looks - before;
        assert!((60..90).contains(&looks), "{looks} looks in an hour");
        stage.world.0.borrow_mut().looks_fail = false;
        stage.pass(Duration::from_mins(1));
        assert_eq!(stage.snapshot().state, State::Stopped);
        assert_eq!(stage.conductor.deadline(), None, "nothing is left to be done");
    }
}

/// A shim removes the PAUSE file that another run left, but only if it stays alive long enough.
#[test]
fn run_that_never_began_removes_previous_pause_file() {
    let mut stage = Stage::running();
    stage.finds(1, Found::Vanished { same_boot: true }, &[(1, spawned()), (2, Fact::Paused { cause: Cause::Outside })]);
    stage.world.0.borrow_mut().pause_file_stays = true;
    stage.lose_shim();
    let waiting = stage.ask(Ask::Start(StartRequest::default()));
    assert_eq!(stage.conductor.watch.degraded(), None, "the new shim is expected to remove it");
    stage.lose_shim();
    assert!(matches!(got(&waiting), Err(ActionError::SpawnFailed { .. })));
    assert!(stage.conductor.watch.degraded().is_some_and(|why| why.contains("PAUSE")));
    stage.world.0.borrow_mut().pause_file_stays = false;
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.conductor.watch.degraded(), None);
}

#[test]
fn first_stop_in_journal_is_the_pending_origin() {
    let stage = Stage::running();
    let stops = [(2, Origin::Signal, 60_000), (3, CLIENT, 5_000), (4, Origin::Limit, 1_000)];
    let stopping = |(seq, origin, grace_ms)| Entry { origin: Some(origin), ..stage.entry(seq, Fact::Stopping { grace_ms }) };
    let entries = [stage.entry(1, spawned())].into_iter().chain(stops.map(stopping)).collect();
    let journal = ReadJournal { header: header(1), entries, damaged_lines: 0 };
    stage.world.0.borrow_mut().found.insert(1, (Found::ShimAlive, Some(journal)));
    // First with the journal, and then with the database alone.
    let stage = stage.reboot();
    assert_eq!(stage.snapshot().pending_origin, Some(Origin::Signal));
    stage.finds(1, Found::ShimAlive, &[(1, spawned())]);
    let stage = stage.reboot();
    assert_eq!(stage.snapshot().pending_origin, Some(Origin::Signal));
}

#[test]
fn run_origin_survives_restart_and_database_loss() {
    let mut stage = Stage::new();
    let _waits = stage.ask(Ask::Start(StartRequest::default()));
    stage.finds(1, Found::ShimAlive, &[]);
    let stage = stage.reboot();
    assert_eq!((stage.snapshot().pending, stage.snapshot().pending_origin), (Some(Action::Start), Some(CLIENT)));

    let stage = Stage::new();
    let spawned = Entry { origin: Some(Origin::Schedule), ..stage.entry(1, spawned()) };
    let journal = ReadJournal { header: header(1), entries: vec![spawned], damaged_lines: 0 };
    stage.world.0.borrow_mut().found.insert(1, (Found::ShimAlive, Some(journal)));
    let stage = stage.reboot();
    let store = Store::open(&stage.dir.path().join("db")).expect("opens").store;
    assert_eq!(store.run(1).expect("readable").expect("taken in").started_by, Some(Origin::Schedule));
}

/// The directory appeared, with the journal of another run, between the commit of this run and the creation of its directory.
#[test]
fn journal_of_another_run_is_not_taken_for_that_of_a_run_that_never_began() {
    for found in [Found::Ended, Found::Vanished { same_boot: true }, Found::ShimAlive] {
        let mut stage = Stage::new();
        drop(stage.ask(Ask::Start(StartRequest::default())));
        stage.finds(1, found, &[(1, spawned()), (2, exited(0, false))]);
        let mut world = stage.world.0.borrow_mut();
        let journal = world.found.get_mut(&1).and_then(|(_, journal)| journal.as_mut()).expect("set above");
        journal.header.created_at = Timestamp::from_unix_ms(1_600_000_000_000);
        drop(world);
        let stage = stage.reboot();
        assert_eq!(stage.stored(), (State::Stopped, "failed".into()), "{found:?}");
        assert!(stage.world.0.borrow().killed_leftovers_of.is_empty(), "nothing of the other run is killed");
        let version = stage.snapshot().version;
        assert_eq!(stage.reboot().snapshot().version, version, "nor is its journal read later");
    }
}
