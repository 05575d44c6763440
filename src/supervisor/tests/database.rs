//! Tests of a database that refuses facts, or does not return what it has stored.

use super::*;
use crate::pipeline::RunStatus;

/// Moves the database away, so that every change fails, and puts it back.
pub(super) fn without_database(stage: &mut Stage, meanwhile: impl FnOnce(&mut Stage)) {
    let (there, away) = (stage.dir.path().join("db"), stage.dir.path().join("away"));
    std::fs::rename(&there, &away).expect("moves");
    meanwhile(stage);
    std::fs::rename(&away, &there).expect("moves back");
}

#[test]
fn fact_refused_by_database_is_recorded_later() {
    let mut stage = Stage::running();
    stage.sql("CREATE TRIGGER no_room BEFORE INSERT ON pipeline_events BEGIN SELECT RAISE(FAIL, 'no'); END");
    let waiting = stage.ask(Ask::Pause);
    stage.finds(1, Found::ShimAlive, &[(1, spawned()), (2, Fact::Paused { cause: Cause::Request })]);
    stage.hear(&[(2, Fact::Paused { cause: Cause::Request })]);
    assert!(matches!(got(&waiting), Err(ActionError::Store(_))), "not acknowledged: it is not on the disk");
    assert!(stage.conductor.watch.degraded().is_some());
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.stored(), (State::Running, "running".into()));
    stage.sql("DROP TRIGGER no_room");
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.stored(), (State::Paused, "paused".into()), "well again by itself");
    assert!(stage.conductor.watch.degraded().is_none());
    assert_eq!(stage.snapshot().pending, None);
}

#[test]
fn unrecorded_failed_start_is_recorded_later() {
    let mut stage = Stage::new();
    stage.world.0.borrow_mut().launch_fails = true;
    // The commit of `starting` succeeds, but later changes fail.
    stage.sql("CREATE TRIGGER no_room BEFORE UPDATE ON pipeline_runs BEGIN SELECT RAISE(FAIL, 'no'); END");
    assert!(matches!(got(&stage.ask(Ask::Start(StartRequest::default()))), Err(ActionError::Store(_))));
    stage.sql("DROP TRIGGER no_room");
    stage.world.0.borrow_mut().launch_fails = false;
    stage.pass(Duration::from_secs(1));
    assert_eq!((stage.stored(), stage.snapshot().pending), ((State::Stopped, "failed".into()), None));
    let waiting = stage.ask(Ask::Start(StartRequest::default()));
    stage.hear(&[(1, spawned())]);
    assert!(got(&waiting).is_ok());
}

#[test]
fn unrecorded_facts_decide_actions_and_are_recorded_in_order() {
    let mut stage = Stage::running();
    let mut again = None;
    without_database(&mut stage, |stage| {
        let pause = stage.ask(Ask::Pause);
        stage.hear(&[(2, Fact::Paused { cause: Cause::Request })]);
        assert!(matches!(got(&pause), Err(ActionError::Unrecorded { obstacle: ConditionCode::DatabaseReplaced })));
        assert_eq!((stage.snapshot().state, stage.snapshot().pending), (State::Running, None), "what is on record");
        assert_eq!(stage.snapshot().allowed, [Action::Resume, Action::Stop], "what would be taken");
        let resume = stage.ask(Ask::Resume);
        stage.hear(&[(3, Fact::Resumed { cause: Cause::Request, paused_ms: 1, detail: None })]);
        assert!(matches!(got(&resume), Err(ActionError::Unrecorded { .. })));
        again = Some(stage.ask(Ask::Pause));
    });
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.stored(), (State::Running, "running".into()), "both are recorded");
    assert!(stage.conductor.watch.degraded().is_none());
    let again = again.expect("asked");
    assert!(waits(&again), "the pause before is not this one");
    stage.hear(&[(4, Fact::Paused { cause: Cause::Request })]);
    assert!(got(&again).is_ok());
    assert_eq!(stage.stored(), (State::Paused, "paused".into()));
}

#[test]
fn unrecorded_end_is_recorded_before_next_start_without_journal() {
    let mut stage = Stage::running();
    without_database(&mut stage, |stage| {
        let stopping = stage.ask(stop(Duration::ZERO));
        stage.hear(&[(2, exited(9, true))]);
        assert!(matches!(got(&stopping), Err(ActionError::Unrecorded { .. })));
        assert_eq!(stage.snapshot().allowed, [], "a start has to be recorded");
        let start = stage.ask(Ask::Start(StartRequest::default()));
        assert!(matches!(got(&start), Err(ActionError::Store(_))));
        assert_eq!(stage.world.0.borrow().launched.len(), 1, "never a second one");
        // The shim exits, and its directory is removed.
        stage.lose_shim();
        stage.pass(Duration::from_secs(1));
        assert_eq!(stage.snapshot().state, State::Running);
    });
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.stored(), (State::Stopped, "stopped".into()), "as it was heard, although nothing else tells of it");
    assert_eq!(stage.snapshot().exit_code, Some(9));
    assert!(stage.conductor.watch.degraded().is_none());
    let start = stage.ask(Ask::Start(StartRequest::default()));
    stage.hear(&[(1, spawned())]);
    assert_eq!(got(&start).expect("started").snapshot.run_id, Some(2));
}

#[test]
fn committed_but_unreadable_end_leaves_nothing_pending() {
    let mut stage = Stage::running();
    let stopping = stage.ask(stop(Duration::from_secs(1)));
    stage.finds(1, Found::Ended, &[(1, spawned()), (2, exited(0, true))]);
    stage.make_unreadable();
    stage.hear(&[(2, exited(0, true))]);
    assert!(matches!(got(&stopping), Err(ActionError::Store(_))));
    stage.make_readable();
    stage.pass(Duration::from_secs(1));
    assert_eq!((stage.stored(), stage.snapshot().pending), ((State::Stopped, "stopped".into()), None));
    assert_eq!(stage.snapshot().allowed, vec![Action::Start]);
}

#[test]
fn committed_but_unreadable_start_is_published_later() {
    let mut stage = Stage::new();
    let starting = stage.ask(Ask::Start(StartRequest::default()));
    stage.finds(1, Found::ShimAlive, &[(1, spawned())]);
    stage.make_unreadable();
    stage.hear(&[(1, spawned())]);
    assert!(matches!(got(&starting), Err(ActionError::Store(_))));
    stage.make_readable();
    stage.pass(Duration::from_secs(1));
    assert_eq!((stage.snapshot().state, stage.snapshot().pending), (State::Running, None));
    assert!(stage.conductor.watch.degraded().is_none());
}

#[test]
fn unreadable_run_is_not_published_partially() {
    let mut stage = Stage::new();
    stage.world.0.borrow_mut().launch_fails = true;
    let before = stage.snapshot();
    stage.sql(
        "CREATE TRIGGER unreadable AFTER UPDATE OF status ON pipeline_runs BEGIN
             UPDATE pipeline_runs SET created_at = '9999-99-99T99:99:99.999Z' WHERE id = new.id; END",
    );
    assert!(matches!(got(&stage.ask(Ask::Start(StartRequest::default()))), Err(ActionError::Store(_))));
    let snapshot = stage.snapshot();
    assert_eq!((snapshot.status, snapshot.stopped_at, snapshot.version), (Some(RunStatus::Starting), None, before.version + 1));
    stage.sql("DROP TRIGGER unreadable; UPDATE pipeline_runs SET created_at = '2023-11-14T22:13:20.000Z'");
    stage.pass(Duration::from_secs(1));
    assert_eq!((stage.snapshot().pending, stage.snapshot().pipeline.allowed), (None, vec![Action::Start]));

    let mut stage = Stage::running();
    let before = stage.snapshot();
    stage.finds(1, Found::Ended, &[(1, spawned()), (2, exited(0, false))]);
    stage.make_unreadable();
    stage.lose_shim();
    let mut after = stage.snapshot();
    assert_eq!(codes(&after), [ConditionCode::DatabaseFailing]);
    after.pipeline.conditions = before.conditions.clone();
    assert_eq!(after, before);
}

fn codes(snapshot: &Snapshot) -> Vec<ConditionCode> {
    snapshot.conditions.list().iter().map(|condition| condition.code).collect()
}

#[test]
fn conditions_describe_an_unrecorded_end() {
    let mut stage = Stage::running();
    let published = stage.conductor.watch.get();
    let notices = stage.conductor.watch.count_notices();
    let mut began = None;
    without_database(&mut stage, |stage| {
        stage.hear(&[(2, exited(9, false))]);
        let now = stage.conductor.watch.get();
        assert_eq!((now.snapshot.state, now.snapshot.version), (State::Running, published.snapshot.version));
        assert_ne!(now.tag, published.tag, "a request with the previous tag gets the new state");
        assert!(notices.load(Ordering::SeqCst) > 0, "and so does a follower");
        assert_eq!(codes(&now.snapshot), [ConditionCode::NotRecorded, ConditionCode::DatabaseReplaced]);
        let condition = &now.snapshot.conditions.list()[0];
        assert!(
            condition.detail.starts_with("run 1 ended at ") && condition.detail.contains("with exit code 9"),
            "{condition:?}"
        );
        began = Some(condition.since);
        stage.pass(Duration::from_secs(3));
        let later = stage.snapshot();
        assert_eq!(Some(later.conditions.list()[0].since), began, "it began when it began");
    });
    stage.pass(Duration::from_secs(1));
    let snapshot = stage.snapshot();
    assert_eq!((snapshot.state, snapshot.exit_code, codes(&snapshot)), (State::Stopped, Some(9), vec![]));
}

#[test]
fn pause_not_holding_condition_ends_with_its_note() {
    let mut stage = Stage::running();
    let says = |stage: &mut Stage, note: Option<&str>| {
        stage.hear_signs(|signs| signs.note = note.map(str::to_owned));
        codes(&stage.snapshot())
    };
    assert_eq!(says(&mut stage, Some("pause not holding: somebody")), [ConditionCode::PauseNotHolding]);
    assert_eq!(says(&mut stage, None), []);
    assert_eq!(says(&mut stage, Some("the weather is fine")), [], "a newer shim may note other things");
}

#[test]
fn second_start_after_unreadable_start_is_refused_as_pending() {
    let mut stage = Stage::new();
    stage.make_unreadable();
    assert!(matches!(got(&stage.ask(Ask::Start(StartRequest::default()))), Err(ActionError::Store(_))));
    assert!(matches!(got(&stage.ask(Ask::Start(StartRequest::default()))), Err(ActionError::Store(_))), "still not to be read");
    stage.make_readable();
    let second = stage.ask(Ask::Start(StartRequest::default()));
    assert!(matches!(got(&second), Err(ActionError::Refused(refusal)) if refusal.pending == Some(Action::Start)));
    stage.pass(Duration::from_secs(1));
    assert_eq!((stage.stored(), stage.snapshot().pending), ((State::Stopped, "failed".into()), None));
}

#[test]
fn start_after_unreadable_end_clears_degraded_health() {
    let mut stage = Stage::running();
    stage.finds(1, Found::Ended, &[(1, spawned()), (2, exited(0, false))]);
    stage.make_unreadable();
    stage.hear(&[(2, exited(0, false))]);
    assert!(stage.conductor.watch.degraded().is_some());
    stage.make_readable();
    let waiting = stage.ask(Ask::Start(StartRequest::default()));
    stage.hear(&[(1, spawned())]);
    assert_eq!(got(&waiting).expect("started").snapshot.run_id, Some(2));
    assert!(stage.conductor.watch.degraded().is_none());
}
