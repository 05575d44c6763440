//! Tests of the clients' actions and their results.

use super::*;

#[test]
fn start_responds_once_running_state_is_stored() {
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
fn start_of_a_run_that_already_ended_returns_its_pid() {
    let mut stage = Stage::new();
    let waiting = stage.ask(Ask::Start(StartRequest::default()));
    stage.hear(&[(1, spawned()), (2, exited(0, false))]);
    let published = got(&waiting).expect("it did start");
    assert_eq!((published.snapshot.state, published.snapshot.run_pid), (State::Stopped, Some(42)));
    assert_eq!(stage.stored().1, "completed");
}

#[test]
fn failed_shim_launch_fails_the_run_and_allows_the_next() {
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
fn unexecutable_script_is_a_failed_run_with_its_reason() {
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
fn refused_action_changes_nothing() {
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
fn start_with_stalled_shim_times_out_and_stays_pending() {
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
fn machine_suspend_does_not_shorten_any_wait() {
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
fn stop_of_previous_server_is_timed_by_the_shim() {
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
fn stop_overrides_a_pending_pause() {
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
fn second_stop_restarts_grace_and_all_stops_get_responses() {
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
fn stop_exceeding_its_wait_times_out_and_continues() {
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
fn pause_refused_by_shim_leaves_pipeline_running() {
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
fn run_end_refuses_its_pending_pause() {
    let mut stage = Stage::running();
    let waiting = stage.ask(Ask::Pause);
    stage.hear(&[(2, exited(0, false))]);
    assert!(matches!(got(&waiting), Err(ActionError::Refused(refusal)) if refusal.from == State::Stopped));
    assert_eq!(stage.stored(), (State::Stopped, "completed".into()));
    assert_eq!(stage.snapshot().pending, None);
}

#[test]
fn client_disconnect_does_not_cancel_its_action() {
    let mut stage = Stage::running();
    drop(stage.ask(Ask::Pause));
    stage.hear(&[(2, Fact::Paused { cause: Cause::Request })]);
    assert_eq!(stage.stored(), (State::Paused, "paused".into()));
}

#[test]
fn failed_start_is_no_longer_pending() {
    let mut stage = Stage::new();
    stage.world.0.borrow_mut().launch_fails = true;
    assert!(got(&stage.ask(Ask::Start(StartRequest::default()))).is_err());
    assert_eq!((stage.snapshot().pending, stage.snapshot().pipeline.allowed), (None, vec![Action::Start]));
}

#[test]
fn late_earlier_pause_does_not_complete_a_new_pause() {
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
fn first_stop_at_the_shim_is_the_pending_origin() {
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
fn action_with_if_run_id_not_latest_is_not_done() {
    let mut stage = Stage::new();
    let changed = |waiting: &Waiting, latest: Option<i64>| match got(waiting) {
        Err(ActionError::RunChanged { latest: told }) => assert_eq!(told, latest),
        other => panic!("{other:?}"),
    };
    let start = || Ask::Start(StartRequest::default());
    changed(&stage.ask_if(ExpectedRun::Is(Some(1)), CLIENT, start()), None);
    assert!(stage.world.0.borrow().launched.is_empty(), "nothing was done");
    let waiting = stage.ask_if(ExpectedRun::Is(None), CLIENT, start());
    stage.hear(&[(1, spawned())]);
    got(&waiting).expect("there was no run");
    for meant in [None, Some(2)] {
        for ask in [start(), Ask::Pause, Ask::Resume, stop(Duration::ZERO)] {
            changed(&stage.ask_if(ExpectedRun::Is(meant), CLIENT, ask), Some(1));
        }
    }
    assert!(stage.world.0.borrow().sent.is_empty(), "nothing was done");
    let waiting = stage.ask_if(ExpectedRun::Is(Some(1)), CLIENT, Ask::Pause);
    stage.hear(&[(2, Fact::Paused { cause: Cause::Request })]);
    got(&waiting).expect("it is the latest");
}
