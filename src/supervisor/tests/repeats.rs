//! Tests of repeats of actions that were begun under a key: they get the first result, and nothing is done twice.

use super::database::without_database;
use super::*;

fn start() -> Ask {
    Ask::Start(StartRequest::default())
}

fn paused() -> Fact {
    Fact::Paused { cause: Cause::Request }
}

fn runs(stage: &Stage) -> usize {
    let reader = Reader::open(&DatabaseFile::at(&stage.dir.path().join("db"))).expect("opens");
    reader.runs(None, 100, &RunFilter::default()).expect("reads").runs.len()
}

#[test]
fn repeated_start_after_server_kill_returns_the_same_run() {
    let mut stage = Stage::new();
    let _lost = stage.ask_keyed("a", start());
    stage.finds(1, Found::ShimAlive, &[]);
    let mut stage = stage.reboot();
    let waiting = stage.ask_keyed("a", start());
    assert!(waits(&waiting), "it is under way, and is joined");
    stage.hear(&[(1, spawned())]);
    let first = got(&waiting).expect("started");
    assert_eq!((first.snapshot.run_id, first.snapshot.run_pid, runs(&stage)), (Some(1), Some(42), 1));
    // The run ends, and another one begins.
    stage.hear(&[(2, exited(0, false))]);
    let _other = stage.ask_keyed("b", start());
    stage.hear(&[(1, spawned())]);
    let again = got(&stage.ask_keyed("a", start())).expect("it was started");
    assert_eq!((again.snapshot.run_id, again.snapshot.run_pid, runs(&stage)), (Some(1), Some(42), 2));
}

#[test]
fn repeated_start_of_a_failed_run_returns_its_error() {
    let mut stage = Stage::new();
    let _lost = stage.ask_keyed("a", start());
    stage.finds(1, Found::NeverBegan, &[]);
    let mut stage = stage.reboot();
    for _ in 0..2 {
        assert!(matches!(got(&stage.ask_keyed("a", start())), Err(ActionError::SpawnFailed { run_id: 1, .. })));
    }
    assert_eq!(runs(&stage), 1);
}

#[test]
fn completed_pause_is_not_repeated_after_a_resume() {
    let mut stage = Stage::running();
    let _lost = stage.ask_keyed("a", Ask::Pause);
    stage.finds(1, Found::ShimAlive, &[(1, spawned()), (2, paused())]);
    let mut stage = stage.reboot();
    let resume = stage.ask(Ask::Resume);
    stage.hear(&[(3, Fact::Resumed { cause: Cause::Request, paused_ms: 1, detail: None })]);
    got(&resume).expect("resumed");
    let sent = stage.world.0.borrow().sent.len();
    let told = got(&stage.ask_keyed("a", Ask::Pause)).expect("it was done");
    assert_eq!((told.snapshot.state, stage.world.0.borrow().sent.len()), (State::Running, sent));
}

#[test]
fn unsent_pause_is_repeated_only_for_its_own_run() {
    let mut stage = Stage::running();
    let _lost = stage.ask_keyed("a", Ask::Pause);
    stage.finds(1, Found::ShimAlive, &[(1, spawned())]);
    let mut stage = stage.reboot();
    let waiting = stage.ask_keyed("a", Ask::Pause);
    assert!(matches!(stage.last_sent(), Command::Pause { .. }));
    stage.hear(&[(2, paused())]);
    got(&waiting).expect("paused");

    let mut stage = Stage::running();
    let _lost = stage.ask_keyed("a", Ask::Pause);
    stage.hear(&[(2, exited(0, false))]);
    let _next = stage.ask(start());
    stage.hear(&[(1, spawned())]);
    let sent = stage.world.0.borrow().sent.len();
    match got(&stage.ask_keyed("a", Ask::Pause)) {
        Err(ActionError::Refused(refusal)) => assert_eq!(refusal.from, State::Stopped),
        other => panic!("{other:?}"),
    }
    assert_eq!((stage.snapshot().state, stage.world.0.borrow().sent.len()), (State::Running, sent), "the next run goes on");
}

#[test]
fn repeated_stop_waits_for_the_same_end_and_sets_no_later_kill() {
    let mut stage = Stage::running();
    let first = stage.ask_keyed("a", stop(Duration::from_secs(5)));
    let sent = stage.world.0.borrow().sent.len();
    stage.pass(Duration::from_secs(3));
    let again = stage.ask_keyed("a", stop(Duration::from_secs(5)));
    assert_eq!(stage.world.0.borrow().sent.len(), sent, "nothing is sent");
    stage.hear(&[(2, exited(0, true))]);
    for waiting in [first, again] {
        assert_eq!(got(&waiting).expect("stopped").snapshot.state, State::Stopped);
    }
    let _next = stage.ask(start());
    stage.hear(&[(1, spawned())]);
    let told = got(&stage.ask_keyed("a", stop(Duration::from_secs(5)))).expect("it was done");
    assert_eq!((told.snapshot.run_id, stage.snapshot().state), (Some(1), State::Running), "the next run goes on");
}

#[test]
fn key_that_cannot_be_stored_does_not_block_a_pause() {
    let mut stage = Stage::running();
    without_database(&mut stage, |stage| {
        let pause = stage.ask_keyed("a", Ask::Pause);
        assert!(matches!(stage.last_sent(), Command::Pause { .. }));
        stage.hear(&[(2, paused())]);
        assert!(matches!(got(&pause), Err(ActionError::Unrecorded { .. })));
    });
    let mut stage = Stage::new();
    without_database(&mut stage, |stage| {
        assert!(got(&stage.ask_keyed("a", start())).is_err(), "a run is begun on record or not at all");
    });
}

#[test]
fn repetition_of_unrecorded_action_is_reported_as_unrecorded() {
    let mut stage = Stage::running();
    let first = stage.ask_keyed("a", Ask::Pause);
    without_database(&mut stage, |stage| {
        stage.hear(&[(2, paused())]);
        for waiting in [first, stage.ask_keyed("a", Ask::Pause)] {
            assert!(matches!(got(&waiting), Err(ActionError::Unrecorded { .. })));
        }
    });
    got(&stage.ask_keyed("a", Ask::Pause)).expect("it is recorded by now");
}

#[test]
fn repetition_with_unstored_key_acts_once() {
    let mut stage = Stage::running();
    let other = rusqlite::Connection::open(stage.dir.path().join("db")).expect("opens");
    other.execute_batch("BEGIN IMMEDIATE").expect("locks");
    let first = stage.ask_keyed("a", Ask::Pause);
    let sent = stage.world.0.borrow().sent.len();
    let again = stage.ask_keyed("a", Ask::Pause);
    assert_eq!(stage.world.0.borrow().sent.len(), sent, "it joins the first");
    stage.hear(&[(2, paused())]);
    for waiting in [first, again] {
        assert!(matches!(got(&waiting), Err(ActionError::Unrecorded { .. })));
    }
    other.execute_batch("ROLLBACK").expect("unlocks");
    stage.pass(Duration::from_secs(1));
    stage.finds(1, Found::ShimAlive, &[(1, spawned()), (2, paused())]);
    let mut stage = stage.reboot();
    let resume = stage.ask(Ask::Resume);
    stage.hear(&[(3, Fact::Resumed { cause: Cause::Request, paused_ms: 1, detail: None })]);
    got(&resume).expect("resumed");
    got(&stage.ask_keyed("a", Ask::Pause)).expect("it was done");
    assert_eq!(stage.snapshot().state, State::Running, "it is not done again");
}

#[test]
fn key_that_is_not_stored_yet_refuses_another_request() {
    let mut stage = Stage::running();
    without_database(&mut stage, |stage| {
        let _pause = stage.ask_keyed("a", Ask::Pause);
        stage.hear(&[(2, paused())]);
        let sent = stage.world.0.borrow().sent.len();
        let other = RequestKey { key: "a".to_owned(), request: "1".repeat(64) };
        let (reply_to, waiting) = sync_channel(1);
        stage.conductor.act(Ask::Resume, ExpectedRun::Any, Some(&other), CLIENT, &reply_to);
        assert!(matches!(got(&waiting), Err(ActionError::KeyReused)));
        assert_eq!(stage.world.0.borrow().sent.len(), sent, "nothing is sent");
    });
}
