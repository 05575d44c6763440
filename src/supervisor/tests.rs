//! Tests of the conductor with a real database, a fake shim that does what the test says, and a clock set by hand.

mod actions;
mod database;
mod recovery;
mod repeats;
mod shims;
mod work;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use super::conductor::Conductor;
use super::records::Records;
use super::shims::{ConnectionNumber, Finding, Leftovers, Shims};
use super::*;
use crate::api::pipeline::ExpectedRun;
use crate::clock::Timestamp;
use crate::pipeline::{Action, Cause, ConditionCode, Containment, Entry, Exit, Fact, Found, Killed, Origin, Peer, State};
use crate::run_dir::{
    Command, FORMAT, Header, LaunchSpec, NumberedProgress, NumberedSigns, ProgressError, ReadJournal, Reply, ReplyError, Signs,
    Trouble,
};
use crate::store::{DatabaseFile, Reader, RequestKey, RunFilter, StoreError};

impl Watch {
    /// Returns the sentence about all conditions, if any.
    fn degraded(&self) -> Option<String> {
        self.get().snapshot.conditions.sentence()
    }

    /// Counts the notices to a follower from here on.
    fn count_notices(&self) -> Arc<AtomicUsize> {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        self.notify(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        count
    }
}

impl Records for Store {
    fn read<T>(&self, _: &'static str, read: impl FnOnce(&Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        read(self)
    }

    fn change<T>(&mut self, _: &'static str, change: impl FnOnce(&mut Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        change(self)
    }
}

/// The behaviour of the fake shim, and the commands that it received.
#[expect(clippy::struct_excessive_bools, reason = "each call fails or not")]
#[derive(Default)]
struct World {
    launched: Vec<LaunchSpec>,
    sent: Vec<Command>,
    killed_leftovers_of: Vec<i64>,
    launch_fails: bool,
    connect_fails: bool,
    looks_fail: bool,
    /// The number of times that a run's directory was examined.
    looks: usize,
    lists_fail: bool,
    /// The latest run, if a link names it.
    link: Option<i64>,
    /// The disk fails to read a stored progress.
    progress_fails: bool,
    pause_file_stays: bool,
    connections: ConnectionNumber,
    found: BTreeMap<i64, (Found, Option<ReadJournal>)>,
    /// The stored progress of each run; `None` if it cannot be read.
    progress: BTreeMap<i64, Option<NumberedProgress>>,
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
        self.0.borrow_mut().looks += 1;
        if self.0.borrow().looks_fail {
            return Err(io::Error::other("too many open files"));
        }
        let (found, journal) = self.0.borrow().found.get(&run_id).cloned().unwrap_or((Found::NeverBegan, None));
        Ok(Finding { found, journal, damage: None })
    }

    fn advice_on_silence(&self, _run_id: i64) -> String {
        "advice".to_owned()
    }

    fn progress(&self, run_id: i64) -> Result<Option<NumberedProgress>, ProgressError> {
        if self.0.borrow().progress_fails {
            return Err(io::Error::other("input/output error").into());
        }
        match self.0.borrow().progress.get(&run_id) {
            Some(None) => Err(ProgressError::Strange),
            stored => Ok(stored.cloned().flatten()),
        }
    }

    fn run_ids(&self) -> io::Result<Vec<i64>> {
        if self.0.borrow().lists_fail {
            return Err(io::Error::other("too many open files"));
        }
        Ok(self.0.borrow().found.keys().copied().collect())
    }

    fn has_run(&self, run_id: i64) -> bool {
        self.0.borrow().found.contains_key(&run_id)
    }

    fn latest_run_id(&self) -> io::Result<Option<i64>> {
        match self.0.borrow().link {
            Some(id) => Ok(Some(id)),
            None => Ok(self.run_ids()?.last().copied()),
        }
    }

    fn log_end(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn remove_pause_file(&self) -> io::Result<()> {
        if self.0.borrow().pause_file_stays { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }

    fn kill_leftovers(&self, run_id: i64) -> io::Result<Leftovers> {
        self.0.borrow_mut().killed_leftovers_of.push(run_id);
        Ok(Leftovers::default())
    }
}

/// Awake time, and the time for which the machine was suspended, in milliseconds.
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

/// The origin of requests for which it does not matter.
const CLIENT: Origin = Origin::operator(Peer::Uid(1000));

type Waiting = Receiver<Result<Arc<Published>, ActionError>>;

/// A conductor and everything around it.
struct Stage {
    dir: tempfile::TempDir,
    world: FakeShims,
    clock: HandClock,
    conductor: Conductor<Store, FakeShims, HandClock>,
    /// The latest signs that the shim sent.
    signs: NumberedSigns,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temp folder");
        std::fs::write(dir.path().join("a.sh"), "echo hi\n").expect("writes");
        let (world, clock) = (FakeShims::default(), HandClock::default());
        let conductor = boot(&dir, &world, &clock);
        Self { dir, world, clock, conductor, signs: NumberedSigns::default() }
    }

    /// Creates a stage on which run 1 is running, connected by connection 1.
    fn running() -> Self {
        let mut stage = Self::new();
        let waiting = stage.ask(Ask::Start(StartRequest::default()));
        stage.hear(&[(1, spawned())]);
        got(&waiting).expect("started");
        stage
    }

    /// Kills the server and boots another one.
    fn reboot(self) -> Self {
        let Self { dir, world, clock, conductor, signs } = self;
        drop(conductor);
        let conductor = boot(&dir, &world, &clock);
        Self { dir, world, clock, conductor, signs }
    }

    fn ask(&mut self, ask: Ask) -> Waiting {
        self.ask_as(CLIENT, ask)
    }

    fn ask_as(&mut self, origin: Origin, ask: Ask) -> Waiting {
        self.ask_if(ExpectedRun::Any, origin, ask)
    }

    fn ask_if(&mut self, if_run: ExpectedRun, origin: Origin, ask: Ask) -> Waiting {
        let (reply_to, waiting) = sync_channel(1);
        self.conductor.act(ask, if_run, None, origin, &reply_to);
        waiting
    }

    /// Requests an action under a key.
    fn ask_keyed(&mut self, key: &str, ask: Ask) -> Waiting {
        let (reply_to, waiting) = sync_channel(1);
        let key = RequestKey { key: key.to_owned(), request: "0".repeat(64) };
        self.conductor.act(ask, ExpectedRun::Any, Some(&key), CLIENT, &reply_to);
        waiting
    }

    /// Delivers facts on the newest connection.
    fn hear(&mut self, facts: &[(u64, Fact)]) {
        let number = self.world.0.borrow().connections;
        let messages = facts.iter().map(|(seq, fact)| Message::Fact(self.entry(*seq, fact.clone()))).collect();
        self.conductor.hear(number, messages);
    }

    /// Changes the shim's signs and delivers them.
    fn hear_signs(&mut self, change: impl FnOnce(&mut Signs)) {
        change(&mut self.signs.signs);
        self.signs.number += 1;
        let number = self.world.0.borrow().connections;
        self.conductor.hear(number, vec![Message::Signs(self.signs.clone())]);
    }

    fn refuse(&mut self, tag: u64, error: ReplyError) {
        let number = self.world.0.borrow().connections;
        let reply = Reply { reply: tag, error: Some(error), detail: Some("a reason".into()) };
        self.conductor.hear(number, vec![Message::Reply(reply)]);
    }

    fn lose_shim(&mut self) {
        let number = self.world.0.borrow().connections;
        self.conductor.lose_shim(number);
        // A shim that may just be exiting is tried again shortly.
        self.pass(Duration::from_millis(10));
    }

    fn entry(&self, seq: u64, fact: Fact) -> Entry {
        Entry { seq, at: self.clock.now(), boot_ms: whole(self.clock.since_boot()), origin: None, fact }
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
        self.conductor.watch.get().snapshot.clone()
    }

    fn last_sent(&self) -> Command {
        *self.world.0.borrow().sent.last().expect("something was sent")
    }

    /// Returns what a reader of the database sees: the state and the latest run's status.
    fn stored(&self) -> (State, String) {
        let reader = Reader::open(&DatabaseFile::at(&self.dir.path().join("db"))).expect("opens");
        let page = reader.runs(None, 1, &RunFilter::default()).expect("reads");
        let status = page.runs.first().map_or("none".into(), |run| run.status.to_string());
        (self.snapshot().state, status)
    }

    /// Makes the rows of later commits of a run unreadable.
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
    store.let_triggers_run();
    Conductor::boot(store, world.clone(), clock.clone(), settings(dir))
}

fn settings(dir: &tempfile::TempDir) -> Settings {
    let root = dir.path().canonicalize().expect("there");
    Settings {
        runtime_dir: root.clone(),
        root,
        default_script: Some("a.sh".into()),
        grace: Duration::from_secs(10),
        uses_cgroups: true,
        keeps_env_values: false,
        usage_every: Duration::from_secs(10),
        core_bytes_max: None,
        taken_vars: Vec::new(),
        log_segment_bytes: 1 << 20,
        log_run_bytes: 1 << 24,
    }
}

fn header(run_id: i64) -> Header {
    Header {
        format: FORMAT,
        run_id,
        boot_id: "b".into(),
        shim_pid: 1,
        shim_start_ticks: 1,
        socket: None,
        mark: None,
        runtime_dir: "/r".into(),
        cgroup: None,
        created_at: Timestamp::from_unix_ms(1_700_000_000_000),
        script: "a.sh".into(),
        args: vec![],
        cwd: "/".into(),
        env_names: vec!["A".into()],
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
    Fact::Exited { exit: Exit::Code(code), asked, paused_ms: 0, log_end: 0, killed: Killed::default(), oom_kills: None }
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
