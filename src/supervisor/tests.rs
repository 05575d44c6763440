//! The conductor with a world of its own: a real database, a shim that does what the test says, and a clock set by hand.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use super::conductor::Conductor;
use super::shims::{Finding, Shims};
use super::*;
use crate::clock::Timestamp;
use crate::pipeline::{Cause, Containment, Entry, Exit, Fact, Found, State};
use crate::run_dir::{Command, FORMAT, Header, LaunchSpec, Note, ReadJournal, Reply, ReplyError, Trouble};

/// What the fake shim does, and what it was told.
#[expect(clippy::struct_excessive_bools, reason = "each call fails or not")]
#[derive(Default)]
struct World {
    launched: Vec<LaunchSpec>,
    sent: Vec<Command>,
    killed_leftovers_of: Vec<i64>,
    launch_fails: bool,
    connect_fails: bool,
    looks_fail: bool,
    lists_fail: bool,
    pause_file_stays: bool,
    connections: ConnectionNumber,
    found: BTreeMap<i64, (Found, Option<ReadJournal>)>,
}

#[derive(Clone, Default)]
struct FakeShims(Rc<RefCell<World>>);

impl Shims for FakeShims {
    fn launch(&mut self, spec: &LaunchSpec) -> io::Result<ConnectionNumber> {
        let mut world = self.0.borrow_mut();
        world.launched.push(spec.clone());
        if world.launch_fails {
            return Err(io::Error::other("no more processes"));
        }
        world.connections += 1;
        Ok(world.connections)
    }

    fn connect(&mut self, _run_id: i64) -> io::Result<ConnectionNumber> {
        let mut world = self.0.borrow_mut();
        if world.connect_fails {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        world.connections += 1;
        Ok(world.connections)
    }

    fn send(&mut self, command: &Command) -> io::Result<()> {
        self.0.borrow_mut().sent.push(*command);
        Ok(())
    }

    fn disconnect(&mut self) {}

    fn find(&self, run_id: i64) -> io::Result<Finding> {
        if self.0.borrow().looks_fail {
            return Err(io::Error::other("too many open files"));
        }
        let (found, journal) = self.0.borrow().found.get(&run_id).cloned().unwrap_or((Found::NeverBegan, None));
        Ok(Finding { found, journal, damage: None })
    }

    fn run_ids(&self) -> io::Result<Vec<i64>> {
        if self.0.borrow().lists_fail {
            return Err(io::Error::other("too many open files"));
        }
        Ok(self.0.borrow().found.keys().copied().collect())
    }

    fn log_end(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn remove_pause_file(&self) -> io::Result<()> {
        if self.0.borrow().pause_file_stays { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    fn kill_leftovers(&self, run_id: i64) -> io::Result<usize> {
        self.0.borrow_mut().killed_leftovers_of.push(run_id);
        Ok(0)
    }
}

/// Awake time, and what the machine was suspended for, in milliseconds.
#[derive(Clone, Default)]
struct HandClock(Rc<Cell<u64>>, Rc<Cell<u64>>);

impl HandClock {
    fn advance(&self, by: Duration) {
        self.0.set(self.0.get() + u64::try_from(by.as_millis()).expect("small"));
    }

    fn suspend(&self, by: Duration) {
        self.1.set(self.1.get() + u64::try_from(by.as_millis()).expect("small"));
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(1_700_000_000_000 + i64::try_from(self.0.get() + self.1.get()).expect("small"))
    }

    fn since_boot(&self) -> Duration {
        Duration::from_millis(1_000_000 + self.0.get() + self.1.get())
    }

    fn awake(&self) -> Duration {
        Duration::from_millis(1_000 + self.0.get())
    }
}

type Waiting = Receiver<Result<Arc<Published>, ActionError>>;

/// A conductor and all that is around it.
struct Stage {
    dir: tempfile::TempDir,
    world: FakeShims,
    clock: HandClock,
    conductor: Conductor<Store, FakeShims, HandClock>,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temp folder");
        std::fs::write(dir.path().join("a.sh"), "echo hi\n").expect("writes");
        let (world, clock) = (FakeShims::default(), HandClock::default());
        let conductor = boot(&dir, &world, &clock);
        Self { dir, world, clock, conductor }
    }

    /// A stage with run 1 running, connected by connection 1.
    fn running() -> Self {
        let mut stage = Self::new();
        let waiting = stage.ask(Ask::Start(StartRequest::default()));
        stage.hear(&[(1, spawned())]);
        got(&waiting).expect("started");
        stage
    }

    /// The server dies and another one boots.
    fn reboot(self) -> Self {
        let Self { dir, world, clock, conductor } = self;
        drop(conductor);
        let conductor = boot(&dir, &world, &clock);
        Self { dir, world, clock, conductor }
    }

    fn ask(&mut self, ask: Ask) -> Waiting {
        let (reply_to, waiting) = sync_channel(1);
        self.conductor.act(ask, &reply_to);
        waiting
    }

    /// Facts come up on the newest connection.
    fn hear(&mut self, facts: &[(u64, Fact)]) {
        let number = self.world.0.borrow().connections;
        let messages = facts.iter().map(|(seq, fact)| Message::Fact(self.entry(*seq, fact.clone()))).collect();
        self.conductor.hear(number, messages);
    }

    fn refuse(&mut self, tag: u64, error: ReplyError) {
        let number = self.world.0.borrow().connections;
        let reply = Reply { reply: tag, error: Some(error), detail: Some("a reason".into()) };
        self.conductor.hear(number, vec![Message::Reply(reply)]);
    }

    fn lose_shim(&mut self) {
        let number = self.world.0.borrow().connections;
        self.conductor.lose_shim(number);
        // A shim that may just be leaving is tried a moment later.
        self.pass(Duration::from_millis(10));
    }

    fn entry(&self, seq: u64, fact: Fact) -> Entry {
        Entry { seq, at: self.clock.now(), boot_ms: whole(self.clock.since_boot()), fact }
    }

    fn finds(&self, run_id: i64, found: Found, facts: &[(u64, Fact)]) {
        let entries = facts.iter().map(|(seq, fact)| self.entry(*seq, fact.clone())).collect();
        let journal = ReadJournal { header: header(run_id), entries, damaged_lines: 0 };
        self.world.0.borrow_mut().found.insert(run_id, (found, Some(journal)));
    }

    fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
        self.conductor.tick();
    }

    fn snapshot(&self) -> Snapshot {
        self.conductor.watch().get().snapshot.clone()
    }

    fn last_sent(&self) -> Command {
        *self.world.0.borrow().sent.last().expect("something was sent")
    }

    /// What a reader of the database sees: the state and the latest run's status.
    fn stored(&self) -> (State, String) {
        let reader = crate::store::Reader::open(&self.dir.path().join("db")).expect("opens");
        let status = reader.runs(None, 1).expect("reads").first().map_or("none".into(), |run| run.status.to_string());
        (self.snapshot().state, status)
    }

    /// From now on what is committed of a run cannot be read.
    fn make_unreadable(&self) {
        for event in ["INSERT", "UPDATE OF status"] {
            self.sql(&format!(
                "CREATE TRIGGER unreadable_{} AFTER {event} ON pipeline_runs BEGIN
                     UPDATE pipeline_runs SET created_at = '9999-99-99T99:99:99.999Z' WHERE id = new.id; END",
                &event[..6]
            ));
        }
    }

    fn make_readable(&self) {
        self.sql(
            "DROP TRIGGER unreadable_INSERT; DROP TRIGGER unreadable_UPDATE;
             UPDATE pipeline_runs SET created_at = '2023-11-14T22:13:20.000Z'",
        );
    }

    fn sql(&self, text: &str) {
        let connection = rusqlite::Connection::open(self.dir.path().join("db")).expect("opens");
        connection.execute_batch(text).expect("good SQL");
    }
}

fn boot(dir: &tempfile::TempDir, world: &FakeShims, clock: &HandClock) -> Conductor<Store, FakeShims, HandClock> {
    try_boot(dir, world, clock).expect("boots")
}

fn try_boot(
    dir: &tempfile::TempDir,
    world: &FakeShims,
    clock: &HandClock,
) -> Result<Conductor<Store, FakeShims, HandClock>, BootError> {
    let store = Store::open(&dir.path().join("db")).expect("opens").store;
    let root = dir.path().canonicalize().expect("there");
    let settings = Settings {
        runtime_dir: root.clone(),
        root,
        default_script: Some("a.sh".into()),
        grace: Duration::from_secs(10),
        uses_cgroups: true,
        log_segment_bytes: 1 << 20,
        log_run_bytes: 1 << 24,
    };
    Conductor::boot(store, world.clone(), clock.clone(), settings)
}

fn header(run_id: i64) -> Header {
    Header {
        format: FORMAT,
        run_id,
        boot_id: "b".into(),
        shim_pid: 1,
        shim_start_ticks: None,
        cgroup: None,
        created_at: Timestamp::from_unix_ms(1_700_000_000_000),
        script: "a.sh".into(),
        args: vec![],
        cwd: "/".into(),
        grace_ms: 7_000,
        log_start: 0,
    }
}

fn whole(duration: Duration) -> u64 {
    crate::clock::whole_ms(duration)
}

fn spawned() -> Fact {
    Fact::Spawned { pid: 42, start_ticks: 7, containment: Containment::Tree }
}

fn exited(code: i32, asked: bool) -> Fact {
    Fact::Exited { exit: Exit::Code(code), asked, paused_ms: 0, log_end: 0 }
}

fn stop(grace: Duration) -> Ask {
    Ask::Stop { grace: Some(grace) }
}

fn got(waiting: &Waiting) -> Result<Arc<Published>, ActionError> {
    waiting.try_recv().expect("an answer is there")
}

fn waits(waiting: &Waiting) -> bool {
    matches!(waiting.try_recv(), Err(TryRecvError::Empty))
}

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
    stage.hear(&[(1, Fact::SpawnFailed { error: "no such interpreter".into() })]);
    match got(&waiting) {
        Err(ActionError::SpawnFailed { run_id: 1, detail }) => assert_eq!(detail, "no such interpreter"),
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
    assert!(stage.conductor.watch().degraded().is_some(), "a silent shim shows in health");
    stage.pass(Duration::from_secs(6));
    assert!(matches!(got(&waiting), Err(ActionError::StillUnderWay(Action::Start))));
    let second = stage.ask(Ask::Start(StartRequest::default()));
    assert!(matches!(got(&second), Err(ActionError::Refused(_))), "never a second one");
    stage.hear(&[(1, spawned())]);
    assert_eq!(stage.stored(), (State::Running, "running".into()));
    assert!(stage.conductor.watch().degraded().is_none());
}

#[test]
fn a_suspended_machine_takes_nothing_from_any_wait() {
    let mut stage = Stage::running();
    let pause = stage.ask(Ask::Pause);
    stage.clock.suspend(Duration::from_secs(3_600));
    stage.pass(Duration::from_secs(4));
    assert!(waits(&pause) && stage.conductor.watch().degraded().is_none(), "nobody had the time to answer");
    stage.pass(Duration::from_secs(1));
    assert!(stage.conductor.watch().degraded().is_some(), "five seconds of silence");
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
    assert_eq!(stage.last_sent(), Command::Attach { tag: 0, after: 2 }, "no second stop with less of a grace");
    let hasten = stage.ask(stop(Duration::from_secs(1)));
    assert!(matches!(stage.last_sent(), Command::Stop { grace_ms: Some(1_000), .. }));
    stage.hear(&[(3, exited(137, true))]);
    assert!(got(&hasten).is_ok());
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
    assert!(matches!(got(&pause), Err(ActionError::Refused(refusal)) if refusal.pending == Some(Action::Stop)));
    assert!(waits(&stopping));
    // The pause had been done before the stop came in: that is history, and the stop is still under way.
    stage.hear(&[(2, Fact::Paused { cause: Cause::Request }), (3, Fact::Stopping { grace_ms: 3_000 })]);
    assert_eq!((stage.snapshot().state, stage.snapshot().pending), (State::Paused, Some(Action::Stop)));
    stage.hear(&[(4, exited(143, true))]);
    assert_eq!(got(&stopping).expect("stopped").snapshot.state, State::Stopped);
    assert_eq!(stage.stored().1, "stopped");
}

#[test]
fn a_second_stop_hastens_and_both_get_their_answer() {
    let mut stage = Stage::running();
    let first = stage.ask(stop(Duration::from_secs(60)));
    let longer = stage.ask(stop(Duration::from_secs(90)));
    assert!(matches!(got(&longer), Err(ActionError::Refused(refusal)) if refusal.pending == Some(Action::Stop)));
    let shorter = stage.ask(stop(Duration::ZERO));
    assert!(matches!(stage.last_sent(), Command::Stop { grace_ms: Some(0), .. }));
    stage.hear(&[(2, exited(137, true))]);
    assert!(got(&first).is_ok() && got(&shorter).is_ok());
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
        let Command::Pause { tag } = stage.last_sent() else { panic!("{:?}", stage.last_sent()) };
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
fn signals_from_outside_change_the_state_without_an_action() {
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
fn a_shim_that_dies_loses_the_run_and_nothing_of_it_is_left() {
    let mut stage = Stage::running();
    let waiting = stage.ask(Ask::Pause);
    stage.finds(1, Found::Vanished { same_boot: true }, &[(1, spawned())]);
    stage.lose_shim();
    assert!(matches!(got(&waiting), Err(ActionError::Refused(_))));
    assert_eq!(stage.stored(), (State::Stopped, "lost".into()));
    assert_eq!(stage.world.0.borrow().killed_leftovers_of, [1]);
    assert!(stage.snapshot().error.expect("a reason").contains("was killed"));
    let again = stage.ask(Ask::Start(StartRequest::default()));
    stage.hear(&[(1, spawned())]);
    assert!(got(&again).is_ok());
}

#[test]
fn a_shim_that_left_after_the_end_leaves_the_end_in_its_journal() {
    let mut stage = Stage::running();
    let waiting = stage.ask(stop(Duration::from_secs(1)));
    stage.finds(1, Found::Ended, &[(1, spawned()), (2, Fact::Stopping { grace_ms: 1_000 }), (3, exited(3, true))]);
    stage.lose_shim();
    assert!(got(&waiting).is_ok());
    assert_eq!(stage.stored(), (State::Stopped, "stopped".into()));
    assert!(stage.world.0.borrow().killed_leftovers_of.is_empty());
}

#[test]
fn a_broken_connection_to_a_live_shim_is_made_again_from_the_last_fact_on() {
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
fn a_shim_that_does_not_answer_is_tried_for_ever_and_never_doubled() {
    let mut stage = Stage::running();
    stage.finds(1, Found::ShimAlive, &[]);
    stage.world.0.borrow_mut().connect_fails = true;
    stage.lose_shim();
    assert!(stage.conductor.watch().degraded().is_none(), "it may just be leaving");
    for _ in 0..20 {
        stage.pass(Duration::from_secs(1));
    }
    assert!(stage.conductor.watch().degraded().is_some());
    assert_eq!(stage.stored(), (State::Running, "running".into()), "the state is what it last said");
    let start = stage.ask(Ask::Start(StartRequest::default()));
    assert!(matches!(got(&start), Err(ActionError::Refused(_))));
    let pause = stage.ask(Ask::Pause);
    assert!(matches!(got(&pause), Err(ActionError::ShimSilent)));
    stage.world.0.borrow_mut().connect_fails = false;
    stage.pass(Duration::from_secs(2));
    assert!(stage.conductor.watch().degraded().is_none());
    assert_eq!(stage.last_sent(), Command::Attach { tag: 0, after: 1 });
}

#[test]
fn a_fact_that_the_database_refuses_is_recorded_later() {
    let mut stage = Stage::running();
    stage.sql("CREATE TRIGGER no_room BEFORE INSERT ON pipeline_events BEGIN SELECT RAISE(FAIL, 'no'); END");
    let waiting = stage.ask(Ask::Pause);
    stage.finds(1, Found::ShimAlive, &[(1, spawned()), (2, Fact::Paused { cause: Cause::Request })]);
    stage.hear(&[(2, Fact::Paused { cause: Cause::Request })]);
    assert!(matches!(got(&waiting), Err(ActionError::Store(_))), "not acknowledged: it is not on the disk");
    assert!(stage.conductor.watch().degraded().is_some());
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.stored(), (State::Running, "running".into()));
    stage.sql("DROP TRIGGER no_room");
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.stored(), (State::Paused, "paused".into()), "well again by itself");
    assert!(stage.conductor.watch().degraded().is_none());
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
fn a_server_that_reboots_goes_on_where_it_was() {
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
fn a_reboot_in_the_middle_of_a_stop_knows_that_it_is_under_way() {
    let mut stage = Stage::running();
    stage.finds(1, Found::ShimAlive, &[(1, spawned()), (2, Fact::Stopping { grace_ms: 60_000 })]);
    stage.hear(&[(2, Fact::Stopping { grace_ms: 60_000 })]);
    let stage = stage.reboot();
    assert_eq!(stage.snapshot().pending, Some(Action::Stop), "also when the fact had been recorded before");
}

#[test]
fn what_happened_while_no_server_was_there_is_true_at_the_first_look() {
    let stage = Stage::running();
    stage.finds(1, Found::Ended, &[(1, spawned()), (2, Fact::Paused { cause: Cause::Outside }), (3, exited(7, false))]);
    let stage = stage.reboot();
    assert_eq!(stage.stored(), (State::Stopped, "failed".into()));
    assert_eq!(stage.snapshot().exit_code, Some(7));
    let version = stage.snapshot().version;
    assert_eq!(stage.reboot().snapshot().version, version, "recovering twice records nothing twice");
}

#[test]
fn a_start_that_was_cut_short_is_judged_by_what_is_there() {
    for (found, facts, state, status) in [
        (Found::NeverBegan, None, State::Stopped, "failed"),
        (Found::Vanished { same_boot: true }, Some(vec![]), State::Stopped, "lost"),
        (Found::Vanished { same_boot: false }, Some(vec![]), State::Stopped, "lost"),
        (Found::Ended, Some(vec![(1, Fact::SpawnFailed { error: "no".into() })]), State::Stopped, "failed"),
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
fn after_another_boot_a_run_is_lost_since_its_last_fact() {
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
fn a_run_that_the_database_does_not_know_is_taken_in() {
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
fn a_shim_that_has_told_its_end_and_still_holds_its_lock_leaves_nothing_pending() {
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
fn a_start_that_failed_is_not_pending_any_more() {
    let mut stage = Stage::new();
    stage.world.0.borrow_mut().launch_fails = true;
    assert!(got(&stage.ask(Ask::Start(StartRequest::default()))).is_err());
    assert_eq!((stage.snapshot().pending, stage.snapshot().allowed), (None, vec![Action::Start]));
}

#[test]
fn a_start_that_failed_and_could_not_be_recorded_is_recorded_later() {
    let mut stage = Stage::new();
    stage.world.0.borrow_mut().launch_fails = true;
    // The commit of `starting` goes through, what follows does not.
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
fn a_command_that_went_down_with_its_connection_is_given_up_or_sent_again() {
    let mut stage = Stage::running();
    stage.finds(1, Found::ShimAlive, &[(1, spawned())]);
    let pause = stage.ask(Ask::Pause);
    stage.lose_shim();
    assert!(matches!(got(&pause), Err(ActionError::ShimSilent)));
    assert_eq!((stage.snapshot().state, stage.snapshot().pending), (State::Running, None));

    let stopping = stage.ask(stop(Duration::from_secs(8)));
    stage.clock.advance(Duration::from_secs(3));
    stage.lose_shim();
    assert!(matches!(stage.last_sent(), Command::Stop { grace_ms: Some(4_980..=5_010), .. }), "{:?}", stage.last_sent());
    assert!(waits(&stopping));
    stage.hear(&[(2, exited(0, true))]);
    assert!(got(&stopping).is_ok());
}

#[test]
fn an_end_whose_beginning_is_damaged_does_not_block_the_next_run() {
    let mut stage = Stage::new();
    drop(stage.ask(Ask::Start(StartRequest::default())));
    stage.finds(1, Found::Ended, &[(2, exited(0, false))]);
    let mut stage = stage.reboot();
    assert_eq!(stage.stored(), (State::Stopped, "lost".into()));
    let waiting = stage.ask(Ask::Start(StartRequest::default()));
    stage.hear(&[(1, spawned())]);
    assert!(got(&waiting).is_ok());
}

/// Takes the database away, so that no change goes through, and puts it back.
fn without_database(stage: &mut Stage, meanwhile: impl FnOnce(&mut Stage)) {
    let (there, away) = (stage.dir.path().join("db"), stage.dir.path().join("away"));
    std::fs::rename(&there, &away).expect("moves");
    meanwhile(stage);
    std::fs::rename(&away, &there).expect("moves back");
}

#[test]
fn facts_that_cannot_be_recorded_decide_what_comes_next_and_are_recorded_in_order() {
    let mut stage = Stage::running();
    let mut again = None;
    without_database(&mut stage, |stage| {
        let pause = stage.ask(Ask::Pause);
        stage.hear(&[(2, Fact::Paused { cause: Cause::Request })]);
        assert!(matches!(got(&pause), Err(ActionError::Unrecorded { is_disk_full: false })));
        assert_eq!((stage.snapshot().state, stage.snapshot().pending), (State::Running, None), "what is on record");
        assert_eq!(stage.snapshot().allowed, [Action::Resume, Action::Stop], "what would be taken");
        let resume = stage.ask(Ask::Resume);
        stage.hear(&[(3, Fact::Resumed { cause: Cause::Request, paused_ms: 1, detail: None })]);
        assert!(matches!(got(&resume), Err(ActionError::Unrecorded { .. })));
        again = Some(stage.ask(Ask::Pause));
    });
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.stored(), (State::Running, "running".into()), "both are recorded");
    assert!(stage.conductor.watch().degraded().is_none());
    let again = again.expect("asked");
    assert!(waits(&again), "the pause before is not this one");
    stage.hear(&[(4, Fact::Paused { cause: Cause::Request })]);
    assert!(got(&again).is_ok());
    assert_eq!(stage.stored(), (State::Paused, "paused".into()));
}

#[test]
fn an_end_that_cannot_be_recorded_comes_before_the_next_start_and_outlives_its_journal() {
    let mut stage = Stage::running();
    without_database(&mut stage, |stage| {
        let stopping = stage.ask(stop(Duration::ZERO));
        stage.hear(&[(2, exited(9, true))]);
        assert!(matches!(got(&stopping), Err(ActionError::Unrecorded { .. })));
        assert_eq!(stage.snapshot().allowed, [], "a start has to be recorded");
        let start = stage.ask(Ask::Start(StartRequest::default()));
        assert!(matches!(got(&start), Err(ActionError::Store(_))));
        assert_eq!(stage.world.0.borrow().launched.len(), 1, "never a second one");
        // The shim leaves, and somebody removes its directory.
        stage.lose_shim();
        stage.pass(Duration::from_secs(1));
        assert_eq!(stage.snapshot().state, State::Running);
    });
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.stored(), (State::Stopped, "stopped".into()), "as it was heard, although nothing else tells of it");
    assert_eq!(stage.snapshot().exit_code, Some(9));
    assert!(stage.conductor.watch().degraded().is_none());
    let start = stage.ask(Ask::Start(StartRequest::default()));
    stage.hear(&[(1, spawned())]);
    assert_eq!(got(&start).expect("started").snapshot.run_id, Some(2));
}

#[test]
fn what_a_shim_cannot_write_is_said_until_it_can_or_is_gone() {
    let mut stage = Stage::running();
    let says = |stage: &mut Stage, text: Option<&str>| {
        let trouble = Trouble { trouble: text.map(str::to_owned), is_disk_full: false };
        let number = stage.world.0.borrow().connections;
        stage.conductor.hear(number, vec![Message::Trouble(trouble)]);
    };
    says(&mut stage, Some("no pen"));
    assert!(stage.conductor.watch().degraded().is_some_and(|why| why.contains("no pen")));
    says(&mut stage, None);
    assert!(stage.conductor.watch().degraded().is_none());
    says(&mut stage, Some("no ink"));
    stage.finds(1, Found::Ended, &[(1, spawned()), (2, exited(0, false))]);
    stage.lose_shim();
    assert!(stage.conductor.watch().degraded().is_none(), "nobody is there to take it back");
}

#[test]
fn an_end_that_is_committed_and_cannot_be_read_leaves_nothing_pending() {
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
fn a_start_that_is_committed_and_cannot_be_read_is_seen_to_run_a_moment_later() {
    let mut stage = Stage::new();
    let starting = stage.ask(Ask::Start(StartRequest::default()));
    stage.finds(1, Found::ShimAlive, &[(1, spawned())]);
    stage.make_unreadable();
    stage.hear(&[(1, spawned())]);
    assert!(matches!(got(&starting), Err(ActionError::Store(_))));
    stage.make_readable();
    stage.pass(Duration::from_secs(1));
    assert_eq!((stage.snapshot().state, stage.snapshot().pending), (State::Running, None));
    assert!(stage.conductor.watch().degraded().is_none());
}

#[test]
fn a_run_that_cannot_be_read_is_not_published_in_halves() {
    let mut stage = Stage::new();
    stage.world.0.borrow_mut().launch_fails = true;
    let before = stage.snapshot();
    stage.sql(
        "CREATE TRIGGER unreadable AFTER UPDATE OF status ON pipeline_runs BEGIN
             UPDATE pipeline_runs SET created_at = '9999-99-99T99:99:99.999Z' WHERE id = new.id; END",
    );
    assert!(matches!(got(&stage.ask(Ask::Start(StartRequest::default()))), Err(ActionError::Store(_))));
    let snapshot = stage.snapshot();
    assert_eq!((snapshot.status, snapshot.stopped_at, snapshot.version), ("starting", None, before.version + 1));
    stage.sql("DROP TRIGGER unreadable; UPDATE pipeline_runs SET created_at = '2023-11-14T22:13:20.000Z'");
    stage.pass(Duration::from_secs(1));
    assert_eq!((stage.snapshot().pending, stage.snapshot().allowed), (None, vec![Action::Start]));

    let mut stage = Stage::running();
    let before = stage.snapshot();
    stage.finds(1, Found::Ended, &[(1, spawned()), (2, exited(0, false))]);
    stage.make_unreadable();
    stage.lose_shim();
    assert_eq!(stage.snapshot(), before);
}

#[test]
fn a_start_beside_one_that_is_committed_and_cannot_be_read_is_refused_by_the_rules() {
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
fn a_start_after_an_end_that_could_not_be_read_leaves_health_well() {
    let mut stage = Stage::running();
    stage.finds(1, Found::Ended, &[(1, spawned()), (2, exited(0, false))]);
    stage.make_unreadable();
    stage.hear(&[(2, exited(0, false))]);
    assert!(stage.conductor.watch().degraded().is_some());
    stage.make_readable();
    let waiting = stage.ask(Ask::Start(StartRequest::default()));
    stage.hear(&[(1, spawned())]);
    assert_eq!(got(&waiting).expect("started").snapshot.run_id, Some(2));
    assert!(stage.conductor.watch().degraded().is_none());
}

#[test]
fn a_start_beside_one_that_cannot_be_looked_at_is_refused_by_the_rules() {
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
fn a_server_that_cannot_say_which_runs_there_are_does_not_boot_and_gives_no_id_twice() {
    let Stage { dir, world, clock, conductor } = Stage::new();
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
fn an_older_run_that_the_database_does_not_know_is_left_alone() {
    let stage = Stage::new();
    stage.finds(4, Found::Vanished { same_boot: true }, &[(1, spawned())]);
    stage.finds(5, Found::ShimAlive, &[(1, spawned()), (2, Fact::Paused { cause: Cause::Request })]);
    let stage = stage.reboot();
    assert_eq!((stage.snapshot().state, stage.snapshot().run_id), (State::Paused, Some(5)));
    assert!(stage.world.0.borrow().killed_leftovers_of.is_empty(), "that takes the PAUSE file, which is run 5's");
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
fn what_a_shim_said_before_its_server_let_it_go_is_not_said_for_ever() {
    let mut stage = Stage::running();
    let number = stage.world.0.borrow().connections;
    let trouble = Trouble { trouble: Some("no ink".into()), is_disk_full: false };
    let note = Note { note: Some("pause not holding".into()) };
    stage.conductor.hear(number, vec![Message::Trouble(trouble), Message::Note(note)]);
    assert_eq!(stage.snapshot().detail.as_deref(), Some("pause not holding"));
    stage.finds(1, Found::ShimAlive, &[(1, spawned()), (2, Fact::Paused { cause: Cause::Outside })]);
    stage.make_unreadable();
    stage.hear(&[(2, Fact::Paused { cause: Cause::Outside })]);
    stage.make_readable();
    // Meanwhile both have passed; the shim has nothing to say to the next connection.
    stage.pass(Duration::from_secs(1));
    assert_eq!((stage.snapshot().state, stage.snapshot().detail), (State::Paused, None));
    assert_eq!(stage.conductor.watch().degraded(), None);
}

#[test]
fn a_stop_that_is_recorded_and_not_yet_in_the_journal_is_known_to_the_next_server() {
    let mut stage = Stage::running();
    stage.hear(&[(2, Fact::Stopping { grace_ms: 60_000 }), (3, Fact::Stopping { grace_ms: 50_000 })]);
    // Both wait for room.
    stage.finds(1, Found::ShimAlive, &[(1, spawned())]);
    let mut stage = stage.reboot();
    assert_eq!(stage.snapshot().pending, Some(Action::Stop));
    let longer = stage.ask(stop(Duration::from_secs(55)));
    assert!(matches!(got(&longer), Err(ActionError::Refused(_))), "it has less time already");
    let shorter = stage.ask(stop(Duration::from_secs(5)));
    assert!(waits(&shorter));
    assert!(matches!(stage.last_sent(), Command::Stop { grace_ms: Some(5_000), .. }));
}

#[test]
fn what_follows_an_end_is_heard_although_the_connection_broke_between() {
    for is_reboot in [false, true] {
        let mut stage = Stage::running();
        stage.hear(&[(2, exited(0, false))]);
        // The journal has no room, so the shim lives and has not said what the run used.
        stage.finds(1, Found::ShimAlive, &[(1, spawned())]);
        if is_reboot {
            stage = stage.reboot();
        } else {
            stage.lose_shim();
        }
        assert!(matches!(stage.last_sent(), Command::Attach { after: 2, .. }), "{:?}", stage.last_sent());
        stage.hear(&[(3, Fact::Usage { cpu_user_ms: 7, cpu_system_ms: 8, max_rss_kb: 9 })]);
        let reader = crate::store::Reader::open(&stage.dir.path().join("db")).expect("opens");
        assert_eq!(reader.runs(None, 1).expect("reads")[0].cpu_user_ms, Some(7));
        assert_eq!((stage.snapshot().state, stage.snapshot().allowed), (State::Stopped, vec![Action::Start]));
    }
}

#[test]
fn a_lost_run_is_not_told_while_its_pause_file_cannot_be_removed() {
    let mut stage = Stage::running();
    stage.hear(&[(2, Fact::Paused { cause: Cause::Outside })]);
    stage.finds(1, Found::Vanished { same_boot: true }, &[(1, spawned()), (2, Fact::Paused { cause: Cause::Outside })]);
    stage.world.0.borrow_mut().pause_file_stays = true;
    stage.lose_shim();
    assert_eq!(stage.world.0.borrow().killed_leftovers_of.last(), Some(&1));
    assert_eq!(stage.snapshot().state, State::Paused, "as long as the file says so");
    assert!(stage.conductor.watch().degraded().is_some_and(|why| why.contains("PAUSE")));
    stage.world.0.borrow_mut().pause_file_stays = false;
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.stored(), (State::Stopped, "lost".into()));
    assert_eq!(stage.conductor.watch().degraded(), None);
}

#[test]
fn a_silence_that_ends_with_the_run_is_not_said_any_more() {
    let mut stage = Stage::running();
    stage.world.0.borrow_mut().connect_fails = true;
    stage.finds(1, Found::ShimAlive, &[(1, spawned()), (2, exited(0, false))]);
    without_database(&mut stage, |stage| {
        stage.lose_shim();
        for _ in 0..100 {
            stage.pass(Duration::from_millis(99));
        }
        assert!(stage.conductor.watch().degraded().is_some_and(|why| why.contains("does not answer")));
    });
    for _ in 0..10 {
        stage.pass(Duration::from_millis(99));
    }
    assert_eq!(stage.stored(), (State::Stopped, "completed".into()));
    assert_eq!(stage.conductor.watch().degraded(), None);
}

/// Its shim was killed between the end that it told and the removal of its PAUSE file, which the disk refused.
#[test]
fn the_pause_file_of_a_run_that_has_ended_goes_once_it_can() {
    let mut stage = Stage::running();
    stage.hear(&[(2, exited(0, true))]);
    stage.finds(1, Found::Vanished { same_boot: true }, &[(1, spawned())]);
    stage.world.0.borrow_mut().pause_file_stays = true;
    stage.lose_shim();
    assert!(stage.conductor.watch().degraded().is_some_and(|why| why.contains("PAUSE")));
    stage.pass(Duration::from_mins(1));
    assert_eq!(stage.snapshot().allowed, [Action::Start], "that holds up nothing");
    stage.world.0.borrow_mut().pause_file_stays = false;
    stage.pass(Duration::from_secs(1));
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.conductor.watch().degraded(), None);
    assert_eq!(stage.stored(), (State::Stopped, "stopped".into()));

    // A run that the database does not know may have it now.
    stage.world.0.borrow_mut().pause_file_stays = true;
    stage.finds(2, Found::ShimAlive, &[(1, spawned())]);
    stage.lose_shim();
    assert_eq!(stage.conductor.watch().degraded(), None, "it is not touched");
}
