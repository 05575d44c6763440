//! Tests of the shim's messages and of its silence: signals from outside, and a shim that dies, exits, is silent or has problems.

use super::*;
use crate::pipeline::{CpuPercent, Mark, Progress, Usage};

#[test]
fn external_signals_change_state_without_an_action() {
    let mut stage = Stage::running();
    stage.hear(&[(2, Fact::Paused { cause: Cause::Outside })]);
    assert_eq!(stage.snapshot().state, State::Paused);
    stage.hear(&[(3, Fact::Resumed { cause: Cause::Outside, paused_ms: 5, detail: None })]);
    assert_eq!(stage.snapshot().state, State::Running);
    let pause = stage.ask(Ask::Pause);
    stage.hear(&[(4, Fact::Stopping { grace_ms: 10_000 })]);
    assert!(matches!(got(&pause), Err(ActionError::Refused(refusal)) if refusal.pending == Some(Action::Stop)));
    assert_eq!(stage.snapshot().pending, Some(Action::Stop), "the shim was told to end by somebody else");
    let hasten = stage.ask(stop(Duration::from_secs(1)));
    stage.hear(&[(5, exited(0, true))]);
    assert!(got(&hasten).is_ok());
}

#[test]
fn shim_death_loses_run_and_kills_leftovers() {
    let mut stage = Stage::running();
    let waiting = stage.ask(Ask::Pause);
    stage.finds(1, Found::Vanished { same_boot: true }, &[(1, spawned())]);
    stage.lose_shim();
    assert!(matches!(got(&waiting), Err(ActionError::Refused(_))));
    assert_eq!(stage.stored(), (State::Stopped, "lost".into()));
    assert_eq!(stage.world.0.borrow().killed_leftovers_of, [1]);
    assert!(stage.snapshot().pipeline.error.expect("a reason").contains("was killed"));
    let again = stage.ask(Ask::Start(StartRequest::default()));
    stage.hear(&[(1, spawned())]);
    assert!(got(&again).is_ok());
}

#[test]
fn end_is_read_from_journal_after_shim_exits() {
    let mut stage = Stage::running();
    let waiting = stage.ask(stop(Duration::from_secs(1)));
    stage.finds(1, Found::Ended, &[(1, spawned()), (2, Fact::Stopping { grace_ms: 1_000 }), (3, exited(3, true))]);
    stage.lose_shim();
    assert!(got(&waiting).is_ok());
    assert_eq!(stage.stored(), (State::Stopped, "stopped".into()));
    assert!(stage.world.0.borrow().killed_leftovers_of.is_empty());
}

#[test]
fn broken_shim_connection_resumes_after_the_last_fact() {
    let mut stage = Stage::running();
    stage.hear(&[(2, Fact::Paused { cause: Cause::Request })]);
    stage.finds(1, Found::ShimAlive, &[]);
    stage.lose_shim();
    assert_eq!(stage.last_sent(), Command::Attach { tag: 0, after: 2 });
    stage.conductor.hear(1, vec![Message::Fact(stage.entry(3, exited(9, false)))]);
    assert_eq!(stage.snapshot().state, State::Paused, "what the old connection still says is not heard");
    stage.hear(&[
        (2, Fact::Paused { cause: Cause::Request }),
        (3, Fact::Resumed { cause: Cause::Request, paused_ms: 1, detail: None }),
    ]);
    assert_eq!(stage.snapshot().state, State::Running, "what is known already changes nothing");
}

#[test]
fn silent_shim_is_retried_and_never_duplicated() {
    let mut stage = Stage::running();
    stage.finds(1, Found::ShimAlive, &[]);
    stage.world.0.borrow_mut().connect_fails = true;
    stage.lose_shim();
    assert!(stage.conductor.watch.degraded().is_none(), "it may just be leaving");
    for _ in 0..20 {
        stage.pass(Duration::from_secs(1));
    }
    assert!(stage.conductor.watch.degraded().is_some());
    assert_eq!(stage.stored(), (State::Running, "running".into()), "the state is what it last said");
    let start = stage.ask(Ask::Start(StartRequest::default()));
    assert!(matches!(got(&start), Err(ActionError::Refused(_))));
    let pause = stage.ask(Ask::Pause);
    assert!(matches!(got(&pause), Err(ActionError::ShimSilent)));
    stage.world.0.borrow_mut().connect_fails = false;
    stage.pass(Duration::from_secs(2));
    assert!(stage.conductor.watch.degraded().is_none());
    assert_eq!(stage.last_sent(), Command::Attach { tag: 0, after: 1 });
}

#[test]
fn ended_run_with_live_shim_leaves_nothing_pending() {
    for facts in [
        vec![(1, spawned()), (2, exited(0, false))],
        vec![(1, spawned()), (2, Fact::Stopping { grace_ms: 60_000 }), (3, exited(0, true))],
    ] {
        let stage = Stage::running();
        stage.finds(1, Found::ShimAlive, &facts);
        let mut stage = stage.reboot();
        assert_eq!((stage.snapshot().state, stage.snapshot().pending), (State::Stopped, None));
        let waiting = stage.ask(Ask::Start(StartRequest::default()));
        stage.hear(&[(1, spawned())]);
        assert!(got(&waiting).is_ok(), "the next run may begin");
    }
}

#[test]
fn lost_pause_command_fails_and_lost_stop_is_resent() {
    let mut stage = Stage::running();
    stage.finds(1, Found::ShimAlive, &[(1, spawned())]);
    let pause = stage.ask(Ask::Pause);
    stage.lose_shim();
    assert!(matches!(got(&pause), Err(ActionError::ShimSilent)));
    assert_eq!((stage.snapshot().state, stage.snapshot().pending), (State::Running, None));

    let stopping = stage.ask(stop(Duration::from_secs(8)));
    stage.clock.advance(Duration::from_secs(3));
    stage.lose_shim();
    let is_again = matches!(stage.last_sent(), Command::Stop { grace_ms: Some(4_980..=5_010), origin: CLIENT, .. });
    assert!(is_again, "{:?}", stage.last_sent());
    assert!(waits(&stopping));
    let hastening = stage.ask_as(Origin::Schedule, stop(Duration::from_secs(1)));
    stage.lose_shim();
    assert!(matches!(stage.last_sent(), Command::Stop { grace_ms: Some(980..=1_010), origin: Origin::Schedule, .. }));
    assert_eq!(stage.snapshot().pending_origin, Some(CLIENT), "the first who wanted it");
    stage.hear(&[(2, exited(0, true))]);
    assert!(got(&stopping).is_ok() && got(&hastening).is_ok());
}

#[test]
fn shim_trouble_is_reported_until_resolved_or_shim_ends() {
    let mut stage = Stage::running();
    let says = |stage: &mut Stage, text: Option<&str>| {
        let trouble = text.map(|text| Trouble::last_words(text.to_owned(), false, None));
        stage.hear_signs(|signs| signs.trouble = trouble.into_iter().collect());
    };
    says(&mut stage, Some("no pen"));
    assert!(stage.conductor.watch.degraded().is_some_and(|why| why.contains("no pen")));
    says(&mut stage, None);
    assert!(stage.conductor.watch.degraded().is_none());
    says(&mut stage, Some("no ink"));
    stage.finds(1, Found::Ended, &[(1, spawned()), (2, exited(0, false))]);
    stage.lose_shim();
    assert!(stage.conductor.watch.degraded().is_none(), "nobody is there to take it back");
}

#[test]
fn each_shim_problem_becomes_its_own_condition() {
    let mut stage = Stage::running();
    let trouble =
        |code: &str| Trouble { code: code.to_owned(), detail: format!("{code}: no ink"), is_disk_full: true, lack: None };
    let says = |stage: &mut Stage, codes: &[&str]| {
        stage.hear_signs(|signs| signs.trouble = codes.iter().map(|code| trouble(code)).collect());
        stage.snapshot().conditions.list().iter().map(|condition| condition.code.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(says(&mut stage, &["log_dropped"]), ["log_dropped"]);
    assert_eq!(says(&mut stage, &["journal_unwritable", "log_dropped"]), ["journal_unwritable", "log_dropped"]);
    assert_eq!(says(&mut stage, &["journal_unwritable"]), ["journal_unwritable"]);
    assert_eq!(says(&mut stage, &["disk_low", "of a newer shim"]), ["shim_trouble"], "not a shim's to say, and not known");
    assert_eq!(says(&mut stage, &[]), <[&str; 0]>::default());
}

#[test]
fn start_beside_an_uninspectable_run_is_refused() {
    let mut stage = Stage::new();
    drop(stage.ask(Ask::Start(StartRequest::default())));
    stage.finds(1, Found::ShimAlive, &[(1, spawned())]);
    stage.world.0.borrow_mut().looks_fail = true;
    let mut stage = stage.reboot();
    let second = stage.ask(Ask::Start(StartRequest::default()));
    assert!(matches!(got(&second), Err(ActionError::Refused(refusal)) if refusal.pending == Some(Action::Start)));
    stage.world.0.borrow_mut().looks_fail = false;
    stage.pass(Duration::from_secs(1));
    assert_eq!((stage.snapshot().state, stage.snapshot().pending), (State::Running, None));
}

#[test]
fn stale_shim_signs_are_cleared_on_reconnect() {
    let mut stage = Stage::running();
    stage.hear_signs(|signs| {
        signs.trouble = vec![Trouble::last_words("no ink".into(), false, None)];
        signs.note = Some("pause not holding".into());
    });
    assert_eq!(stage.snapshot().detail.as_deref(), Some("pause not holding"));
    stage.finds(1, Found::ShimAlive, &[(1, spawned()), (2, Fact::Paused { cause: Cause::Outside })]);
    stage.make_unreadable();
    stage.hear(&[(2, Fact::Paused { cause: Cause::Outside })]);
    stage.make_readable();
    // Both have passed meanwhile, so the shim sends nothing on the next connection.
    stage.pass(Duration::from_secs(1));
    assert_eq!((stage.snapshot().state, stage.snapshot().pipeline.detail), (State::Paused, None));
    assert_eq!(stage.conductor.watch.degraded(), None);
}

fn progress(line: &str, number: u64) -> NumberedProgress {
    let mut progress = Progress::new(Timestamp::from_unix_ms(1_700_000_000_000));
    progress.take(Mark::parse(line.as_bytes()).expect("a mark"), progress.at, 0);
    NumberedProgress { progress, number }
}

fn told(line: &str, number: u64) -> Message {
    let NumberedProgress { progress, number } = progress(line, number);
    Message::Signs(NumberedSigns { signs: Signs { progress: Some(progress), ..Signs::default() }, number })
}

impl Stage {
    fn hear_progress(&mut self, line: &str, number: u64) {
        let connection = self.world.0.borrow().connections;
        self.conductor.hear(connection, vec![told(line, number)]);
    }

    /// Returns the text of the published progress, or the name of the step.
    fn told(&self) -> Option<String> {
        let progress = self.snapshot().pipeline.progress?;
        let step = progress.steps.back().map(|step| &step.name);
        Some(progress.text.as_ref().or(step)?.as_str().to_owned())
    }
}

#[test]
fn progress_changes_tag_and_wakes_streams_but_not_version() {
    let mut stage = Stage::running();
    let watch = stage.conductor.watch.clone();
    let (before, notices) = (watch.get(), watch.count_notices());
    assert_eq!((before.snapshot.progress.as_ref(), before.tag.as_str()), (None, &*before.snapshot.version.to_string()));
    stage.hear_progress("::progress 40 one", 7);
    let after = watch.get();
    assert_eq!(after.snapshot.version, before.snapshot.version);
    assert_eq!(after.tag, format!("{}.7", after.snapshot.version));
    assert!(after.body.contains(r#""progress":{"percent":40,"text":"one","#), "{}", after.body);
    assert_eq!(after.number, before.number, "the history is not read again for it");
    assert_eq!(notices.load(Ordering::SeqCst), 1, "streams are woken");
    stage.hear_progress("::progress 40 one", 7);
    stage.hear_progress("::progress 30 late", 6);
    assert_eq!((stage.told().as_deref(), notices.load(Ordering::SeqCst)), (Some("one"), 1), "what is known is no news");

    // Together with a fact it is published once, and the next run begins without it.
    let number = stage.world.0.borrow().connections;
    let exited = Message::Fact(stage.entry(2, exited(0, false)));
    stage.conductor.hear(number, vec![told("::step last", 8), exited]);
    let step = &stage.snapshot().pipeline.progress.expect("it stays").steps[0];
    assert_eq!(step.ended_at, stage.snapshot().stopped_at, "the run's end is its last step's");
    let next = stage.ask(Ask::Start(StartRequest::default()));
    assert_eq!(stage.told(), None);
    stage.hear(&[(1, spawned())]);
    got(&next).expect("started");
    stage.hear_progress("::progress 1 new", 1);
    assert_eq!(stage.told().as_deref(), Some("new"));
}

#[test]
fn outdated_or_unchanged_signs_change_nothing() {
    let mut stage = Stage::running();
    stage.hear_signs(|signs| signs.note = Some("one".to_owned()));
    let outdated = Message::Signs(stage.signs.clone());
    stage.hear_signs(|signs| signs.note = Some("two".to_owned()));
    let before = stage.snapshot();
    assert_eq!(before.detail.as_deref(), Some("two"));
    let number = stage.world.0.borrow().connections;
    stage.conductor.hear(number, vec![outdated]);
    assert_eq!(stage.snapshot(), before);
    // Another sign has changed, but not the note, which the version counts.
    stage.hear_signs(|signs| signs.progress = Some(progress("::step x", 0).progress));
    let after = stage.snapshot();
    assert_eq!((after.version, after.detail.as_deref(), after.progress.is_some()), (before.version, Some("two"), true));
    let notices = stage.conductor.watch.count_notices();
    stage.hear_signs(|_| {});
    assert_eq!(notices.load(Ordering::SeqCst), 0, "no stream is woken for what is known");
    // A shim sends the same signs again on a new connection.
    stage.finds(1, Found::ShimAlive, &[(1, spawned())]);
    stage.lose_shim();
    assert_eq!(stage.snapshot().detail, None);
    let number = stage.world.0.borrow().connections;
    stage.conductor.hear(number, vec![Message::Signs(stage.signs.clone())]);
    assert_eq!(stage.snapshot().detail.as_deref(), Some("two"));
}

#[test]
fn live_shim_without_progress_clears_stored_progress() {
    let mut stage = Stage::running();
    stage.world.0.borrow_mut().progress.insert(1, Some(progress("::step claimed", 1_000)));
    stage.finds(1, Found::ShimAlive, &[(1, spawned())]);
    stage.lose_shim();
    assert_eq!(stage.told().as_deref(), Some("claimed"));
    stage.hear_signs(|_| {});
    assert_eq!(stage.told(), None, "it lives, and knows better than any file");
}

#[test]
fn later_of_reported_and_stored_progress_is_shown() {
    let store = |stage: &Stage, what| drop(stage.world.0.borrow_mut().progress.insert(1, what));
    let mut stage = Stage::running();
    stage.hear_progress("::step said", 5);
    store(&stage, Some(progress("::step stored", 4)));
    stage.finds(1, Found::ShimAlive, &[(1, spawned())]);
    stage.lose_shim();
    assert_eq!(stage.told().as_deref(), Some("said"));
    store(&stage, Some(progress("::step stored", 6)));
    stage.lose_shim();
    assert_eq!(stage.told().as_deref(), Some("stored"));
    // A live shim is more reliable than any file.
    stage.hear_progress("::step again", 5);
    assert_eq!(stage.told().as_deref(), Some("again"));
    store(&stage, Some(progress("::step last", 9)));
    stage.finds(1, Found::Vanished { same_boot: true }, &[(1, spawned())]);
    stage.lose_shim();
    let ended = stage.snapshot();
    let step = &ended.progress.as_ref().expect("it stays").steps[0];
    assert_eq!((step.name.as_str(), step.ended_at, step.ms), ("last", ended.stopped_at, None), "the run is {:?}", ended.status);

    // The next server reads the stored progress, even of a run that has ended.
    let mut stage = stage.reboot();
    assert_eq!(stage.told().as_deref(), Some("last"));
    store(&stage, None);
    stage = stage.reboot();
    assert_eq!((stage.told(), stage.stored().1), (None, "lost".into()), "what cannot be read is none, and no error");
}

#[test]
fn unreadable_stored_progress_is_retried_unless_shim_reports() {
    let mut stage = Stage::running();
    stage.world.0.borrow_mut().progress.insert(1, Some(progress("::step stored", 5)));
    stage.world.0.borrow_mut().progress_fails = true;
    stage.finds(1, Found::Vanished { same_boot: true }, &[(1, spawned())]);
    stage.lose_shim();
    assert_eq!((stage.told(), stage.stored().1), (None, "lost".into()));
    // Each wait is longer.
    for wait in [1, 2, 4] {
        let left = stage.conductor.deadline().expect("it is tried again").saturating_sub(stage.clock.awake());
        assert_eq!((left + Duration::from_millis(500)).as_secs(), wait);
        stage.pass(left);
        assert_eq!(stage.told(), None);
    }
    stage.world.0.borrow_mut().progress_fails = false;
    stage.pass(Duration::from_secs(8));
    assert_eq!((stage.told().as_deref(), stage.conductor.deadline()), (Some("stored"), None));

    let mut stage = Stage::running();
    stage.world.0.borrow_mut().progress.insert(1, Some(progress("::step stored", 5)));
    stage.world.0.borrow_mut().progress_fails = true;
    stage.finds(1, Found::ShimAlive, &[(1, spawned())]);
    stage.lose_shim();
    stage.world.0.borrow_mut().progress_fails = false;
    stage.hear_progress("::step said", 3);
    stage.pass(Duration::from_secs(2));
    assert_eq!(stage.told().as_deref(), Some("said"), "what it says is later than what it stored before");
}

#[test]
fn usage_is_published_and_shim_is_asked_only_while_watched() {
    let mut stage = Stage::running();
    stage.hear_progress("::progress 40 one", 7);
    stage.signs.number = 7;
    let shown = stage.snapshot();
    let at = Timestamp::from_unix_ms(1_700_000_000_000);
    let usage = Usage { at, cpu_percent: CpuPercent::of(1, 2), memory_bytes: 5, processes: 3 };
    let said = progress("::progress 40 one", 0).progress;
    stage.hear_signs(|signs| (signs.progress, signs.usage) = (Some(said), Some(usage)));
    let now = stage.snapshot();
    assert_eq!((now.usage, now.version, now.progress_number), (Some(usage), shown.version, shown.progress_number));
    assert_eq!(stage.conductor.watch.get().tag, format!("{}.7~8", now.version));

    let is_told = |stage: &Stage| matches!(stage.last_sent(), Command::Watch { .. });
    let looking = stage.conductor.usage_followers.follow();
    stage.pass(Duration::ZERO);
    assert!(is_told(&stage));
    let sent = |stage: &Stage| stage.world.0.borrow().sent.len();
    let before = sent(&stage);
    stage.pass(Duration::from_millis(4_900));
    assert_eq!(sent(&stage), before);
    stage.pass(Duration::from_millis(100));
    assert_eq!(sent(&stage), before + 1);
    // Returns a reported condition, except for a pause that is not holding: then the pipeline's processes are at fault, and the
    // server knows everything.
    stage.hear(&[(2, Fact::Paused { cause: Cause::Outside })]);
    assert_eq!(stage.snapshot().usage, None);
    stage.pass(Duration::from_mins(1));
    assert_eq!(sent(&stage), before + 1);
    assert_eq!(stage.conductor.deadline(), None, "nothing wakes for it");
    stage.hear(&[(3, Fact::Resumed { cause: Cause::Outside, paused_ms: 1, detail: None })]);
    stage.pass(Duration::ZERO);
    assert_eq!(sent(&stage), before + 2);
    drop(looking);
    stage.pass(Duration::from_mins(1));
    assert_eq!(sent(&stage), before + 2);
    stage.conductor.usage_followers.ask();
    stage.pass(Duration::ZERO);
    stage.pass(Duration::from_mins(1));
    assert_eq!(sent(&stage), before + 3, "who asks once is told of once");
}
