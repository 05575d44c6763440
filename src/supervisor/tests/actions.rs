//! Tests of the clients' actions and their results.

use super::*;

#[test]
fn a_start_is_answered_once_it_runs_and_that_is_stored() {
    let mut stage = Stage::new();
    let waiting = stage.ask(Ask::Start(StartRequest::default()));
    assert!(waits(&waiting));
    assert_eq!(stage.stored(), (State::Stopped, "starting".into()), "committed before anything is started");
    assert_eq!(stage.snapshot().pending, Some(Action::Start));
    let before = stage.snapshot().version;
    stage.hear(&[(1, spawned())]);
    let published = got(&waiting).expect("started");
    assert_eq!((published.snapshot.state, published.snapshot.pid), (State::Running, Some(42)));
    assert_eq!(stage.stored(), (State::Running, "running".into()));
    assert!(published.snapshot.version > before && published.snapshot.pending.is_none());
}

#[test]
fn transition_notifies_followers() {
    let mut stage = Stage::running();
    let notices = stage.conductor.watch.count_notices();
    stage.hear(&[(2, Fact::Paused { cause: Cause::Outside })]);
    assert_eq!(stage.snapshot().state, State::Paused);
    assert!(notices.load(Ordering::SeqCst) > 0, "an event stream would sleep on");
}

#[test]
fn a_run_that_is_over_before_the_answer_still_answers_with_its_pid() {
    let mut stage = Stage::new();
    let waiting = stage.ask(Ask::Start(StartRequest::default()));
    stage.hear(&[(1, spawned()), (2, exited(0, false))]);
    let published = got(&waiting).expect("it did start");
    assert_eq!((published.snapshot.state, published.snapshot.run_pid), (State::Stopped, Some(42)));
    assert_eq!(stage.stored().1, "completed");
}

#[test]
fn a_shim_that_cannot_be_started_fails_the_run_and_the_next_may_begin() {
    let mut stage = Stage::new();
    stage.world.0.borrow_mut().launch_fails = true;
    let waiting = stage.ask(Ask::Start(StartRequest::default()));
    assert!(matches!(got(&waiting), Err(ActionError::SpawnFailed { run_id: 1, .. })));
    assert_eq!(stage.stored(), (State::Stopped, "failed".into()));
    stage.world.0.borrow_mut().launch_fails = false;
    let waiting = stage.ask(Ask::Start(StartRequest::default()));
    stage.hear(&[(1, spawned())]);
    assert_eq!(got(&waiting).expect("started").snapshot.run_id, Some(2));
}

#[test]
fn a_script_that_cannot_be_executed_is_a_failed_run_with_its_reason() {
    let mut stage = Stage::new();
    let waiting = stage.ask(Ask::Start(StartRequest::default()));
    stage.hear(&[(1, Fact::SpawnFailed { error: "no such interpreter".into(), lack: None })]);
    match got(&waiting) {
        Err(ActionError::SpawnFailed { run_id: 1, detail, lack: None }) => assert_eq!(detail, "no such interpreter"),
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.stored(), (State::Stopped, "failed".into()));
}

#[test]
fn a_refused_request_changes_nothing() {
    let mut stage = Stage::new();
    let before = stage.snapshot();
    for request in [
        StartRequest { script: Some("nowhere.sh".into()), ..StartRequest::default() },
        StartRequest { script: Some("../a.sh".into()), ..StartRequest::default() },
        StartRequest { cwd: Some("nowhere".into()), ..StartRequest::default() },
    ] {
        let waiting = stage.ask(Ask::Start(request));
        assert!(matches!(got(&waiting), Err(ActionError::Script(_))));
    }
    for ask in [Ask::Pause, Ask::Resume, stop(Duration::ZERO)] {
        let waiting = stage.ask(ask);
        assert!(matches!(got(&waiting), Err(ActionError::Refused(_))));
    }
    assert_eq!(stage.snapshot(), before);
    assert_eq!(stage.stored().1, "none");
    assert!(stage.world.0.borrow().launched.is_empty() && stage.world.0.borrow().sent.is_empty());
}

#[test]
fn a_start_whose_shim_stalls_is_told_so_and_not_forgotten() {
    let mut stage = Stage::new();
    let waiting = stage.ask(Ask::Start(StartRequest::default()));
    stage.pass(Duration::from_secs(6));
    assert!(stage.conductor.watch.degraded().is_some(), "a silent shim shows in health");
    stage.pass(Duration::from_secs(6));
    assert!(matches!(got(&waiting), Err(ActionError::StillUnderWay(Action::Start))));
    let second = stage.ask(Ask::Start(StartRequest::default()));
    assert!(matches!(got(&second), Err(ActionError::Refused(_))), "never a second one");
    stage.hear(&[(1, spawned())]);
    assert_eq!(stage.stored(), (State::Running, "running".into()));
    assert!(stage.conductor.watch.degraded().is_none());
}

#[test]
fn a_suspended_machine_takes_nothing_from_any_wait() {
    let mut stage = Stage::running();
    let pause = stage.ask(Ask::Pause);
    stage.clock.suspend(Duration::from_secs(3_600));
    stage.pass(Duration::from_secs(4));
    assert!(waits(&pause) && stage.conductor.watch.degraded().is_none(), "nobody had the time to answer");
    stage.pass(Duration::from_secs(1));
    assert!(stage.conductor.watch.degraded().is_some(), "five seconds of silence");
    stage.pass(Duration::from_secs(5));
    assert!(matches!(got(&pause), Err(ActionError::StillUnderWay(Action::Pause))));

    let stopping = stage.ask(stop(Duration::from_secs(8)));
    stage.finds(1, Found::ShimAlive, &[(1, spawned())]);
    stage.clock.suspend(Duration::from_secs(3_600));
    stage.lose_shim();
    assert!(matches!(stage.last_sent(), Command::Stop { grace_ms: Some(7_900..=8_010), .. }), "{:?}", stage.last_sent());
    stage.hear(&[(2, exited(0, true))]);
    assert!(got(&stopping).is_ok());
}

#[test]
fn a_stop_of_an_earlier_server_is_the_shims_to_time() {
    let stage = Stage::running();
    stage.finds(1, Found::ShimAlive, &[(1, spawned()), (2, Fact::Stopping { grace_ms: 60_000 })]);
    stage.clock.suspend(Duration::from_secs(3_600));
    let mut stage = stage.reboot();
    assert_eq!(stage.snapshot().pending, Some(Action::Stop));
    assert_eq!(stage.snapshot().kill_at, None, "how much of the grace is left only the shim knows");
    assert_eq!(stage.last_sent(), Command::Attach { tag: 0, after: 2 }, "no second stop with less of a grace");
    let hasten = stage.ask(stop(Duration::from_secs(1)));
    assert!(matches!(stage.last_sent(), Command::Stop { grace_ms: Some(1_000), .. }));
    assert_eq!(
        stage.snapshot().kill_at,
        Some(stage.clock.now().after(Duration::from_secs(1))),
        "this one is the server's to time"
    );
    let later = stage.ask(stop(Duration::from_secs(90)));
    assert_eq!(stage.snapshot().kill_at, Some(stage.clock.now().after(Duration::from_secs(90))));
    // The stop may have been lost with the connection.
    stage.finds(1, Found::ShimAlive, &[(1, spawned()), (2, Fact::Stopping { grace_ms: 60_000 })]);
    stage.lose_shim();
    assert!(matches!(stage.last_sent(), Command::Stop { grace_ms: Some(89_000..=90_010), .. }), "{:?}", stage.last_sent());
    stage.hear(&[(3, exited(137, true))]);
    assert!(got(&hasten).is_ok() && got(&later).is_ok());
}

#[test]
fn a_stop_wins_over_a_pending_pause() {
    let mut stage = Stage::running();
    let pause = stage.ask(Ask::Pause);
    assert_eq!(stage.snapshot().pending, Some(Action::Pause));
    let second = stage.ask(Ask::Pause);
    assert!(matches!(got(&second), Err(ActionError::Refused(refusal)) if refusal.pending == Some(Action::Pause)));
    let stopping = stage.ask(stop(Duration::from_secs(3)));
    assert!(matches!(stage.last_sent(), Command::Stop { grace_ms: Some(3_000), .. }));
    assert_eq!(stage.snapshot().kill_at, Some(stage.clock.now().after(Duration::from_secs(3))));
    assert!(matches!(got(&pause), Err(ActionError::Refused(refusal)) if refusal.pending == Some(Action::Stop)));
    assert!(waits(&stopping));
    // The pause was done before the stop was requested. The state shows it, and the stop is still under way.
    stage.hear(&[(2, Fact::Paused { cause: Cause::Request }), (3, Fact::Stopping { grace_ms: 3_000 })]);
    assert_eq!((stage.snapshot().state, stage.snapshot().pending), (State::Paused, Some(Action::Stop)));
    stage.hear(&[(4, exited(143, true))]);
    assert_eq!(got(&stopping).expect("stopped").snapshot.state, State::Stopped);
    assert_eq!(stage.stored().1, "stopped");
}

#[test]
fn a_second_stop_counts_anew_and_all_get_their_answer() {
    let mut stage = Stage::running();
    let first = stage.ask(stop(Duration::from_secs(60)));
    let longer = stage.ask(stop(Duration::from_secs(90)));
    assert!(matches!(stage.last_sent(), Command::Stop { grace_ms: Some(90_000), .. }));
    assert_eq!(stage.snapshot().kill_at, Some(stage.clock.now().after(Duration::from_secs(90))));
    let of_the_machine = stage.ask_as(Origin::Shutdown, stop(Duration::from_secs(100)));
    assert!(matches!(got(&of_the_machine), Err(ActionError::Refused(refusal)) if refusal.pending == Some(Action::Stop)));
    let shorter = stage.ask(stop(Duration::ZERO));
    assert!(matches!(stage.last_sent(), Command::Stop { grace_ms: Some(0), .. }));
    stage.hear(&[(2, exited(137, true))]);
    assert!(got(&first).is_ok() && got(&longer).is_ok() && got(&shorter).is_ok());
}

#[test]
fn a_stop_that_takes_longer_than_its_wait_is_told_so_and_goes_on() {
    let mut stage = Stage::running();
    let waiting = stage.ask(stop(Duration::from_secs(5)));
    stage.pass(Duration::from_secs(24));
    assert!(waits(&waiting));
    stage.pass(Duration::from_secs(2));
    assert!(matches!(got(&waiting), Err(ActionError::StillUnderWay(Action::Stop))));
    assert_eq!(stage.snapshot().pending, Some(Action::Stop));
    stage.hear(&[(2, exited(137, true))]);
    assert_eq!(stage.stored(), (State::Stopped, "stopped".into()));
}

#[test]
fn a_pause_that_the_shim_refuses_leaves_the_pipeline_running() {
    let mut stage = Stage::running();
    for (error, is_told) in [
        (ReplyError::PauseTimeout, (|error| matches!(error, ActionError::PauseTimeout(_))) as fn(&ActionError) -> bool),
        (ReplyError::NotNow, |error| matches!(error, ActionError::Refused(_))),
        (ReplyError::Other, |error| matches!(error, ActionError::Shim(_))),
    ] {
        let waiting = stage.ask(Ask::Pause);
        let Command::Pause { tag, .. } = stage.last_sent() else { panic!("{:?}", stage.last_sent()) };
        stage.refuse(tag + 1, ReplyError::PauseTimeout);
        assert!(waits(&waiting), "an answer to something else");
        stage.refuse(tag, error);
        assert!(is_told(&got(&waiting).expect_err("refused")));
        assert_eq!((stage.snapshot().state, stage.snapshot().pending), (State::Running, None));
    }
}

#[test]
fn a_run_that_ends_while_a_pause_is_pending_refuses_the_pause() {
    let mut stage = Stage::running();
    let waiting = stage.ask(Ask::Pause);
    stage.hear(&[(2, exited(0, false))]);
    assert!(matches!(got(&waiting), Err(ActionError::Refused(refusal)) if refusal.from == State::Stopped));
    assert_eq!(stage.stored(), (State::Stopped, "completed".into()));
    assert_eq!(stage.snapshot().pending, None);
}

#[test]
fn a_client_that_hung_up_changes_nothing() {
    let mut stage = Stage::running();
    drop(stage.ask(Ask::Pause));
    stage.hear(&[(2, Fact::Paused { cause: Cause::Request })]);
    assert_eq!(stage.stored(), (State::Paused, "paused".into()));
}

#[test]
fn a_start_that_failed_is_not_pending_any_more() {
    let mut stage = Stage::new();
    stage.world.0.borrow_mut().launch_fails = true;
    assert!(got(&stage.ask(Ask::Start(StartRequest::default()))).is_err());
    assert_eq!((stage.snapshot().pending, stage.snapshot().pipeline.allowed), (None, vec![Action::Start]));
}

#[test]
fn a_pause_is_not_answered_by_one_that_was_over_before_it_was_asked_for() {
    let mut stage = Stage::running();
    let old =
        [(2, Fact::Paused { cause: Cause::Outside }), (3, Fact::Resumed { cause: Cause::Outside, paused_ms: 1, detail: None })];
    let late = old.map(|(seq, fact)| Message::Fact(stage.entry(seq, fact)));
    stage.clock.advance(Duration::from_millis(20));
    let pause = stage.ask(Ask::Pause);
    stage.conductor.hear(1, late.to_vec());
    assert!(waits(&pause), "it is still to be done");
    assert_eq!((stage.snapshot().state, stage.snapshot().pending), (State::Running, Some(Action::Pause)));
    stage.hear(&[(4, Fact::Paused { cause: Cause::Request })]);
    assert_eq!(got(&pause).expect("paused").snapshot.state, State::Paused);
}

#[test]
fn stop_that_reached_the_shim_first_names_who_wants_the_end() {
    let mut stage = Stage::running();
    let stopping = stage.ask(stop(Duration::from_secs(8)));
    assert_eq!(stage.snapshot().pending_origin, Some(CLIENT), "as far as is known");
    let number = stage.world.0.borrow().connections;
    for (seq, origin) in [(2, Origin::Signal), (3, CLIENT)] {
        let stopping = Entry { origin: Some(origin), ..stage.entry(seq, Fact::Stopping { grace_ms: 10_000 - 1_000 * seq }) };
        stage.conductor.hear(number, vec![Message::Fact(stopping)]);
        assert_eq!(stage.snapshot().pending_origin, Some(Origin::Signal), "the shim got a TERM before");
    }
    stage.hear(&[(4, exited(0, true))]);
    assert!(got(&stopping).is_ok());
}

#[test]
fn action_for_another_run_than_the_latest_is_not_done() {
    let mut stage = Stage::new();
    let changed = |waiting: &Waiting, latest: Option<i64>| match got(waiting) {
        Err(ActionError::RunChanged { latest: told }) => assert_eq!(told, latest),
        other => panic!("{other:?}"),
    };
    let start = || Ask::Start(StartRequest::default());
    changed(&stage.ask_if(IfRun::Is(Some(1)), CLIENT, start()), None);
    assert!(stage.world.0.borrow().launched.is_empty(), "nothing was done");
    let waiting = stage.ask_if(IfRun::Is(None), CLIENT, start());
    stage.hear(&[(1, spawned())]);
    got(&waiting).expect("there was no run");
    for meant in [None, Some(2)] {
        for ask in [start(), Ask::Pause, Ask::Resume, stop(Duration::ZERO)] {
            changed(&stage.ask_if(IfRun::Is(meant), CLIENT, ask), Some(1));
        }
    }
    assert!(stage.world.0.borrow().sent.is_empty(), "nothing was done");
    let waiting = stage.ask_if(IfRun::Is(Some(1)), CLIENT, Ask::Pause);
    stage.hear(&[(2, Fact::Paused { cause: Cause::Request })]);
    got(&waiting).expect("it is the latest");
}
