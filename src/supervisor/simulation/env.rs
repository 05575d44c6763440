//! The environment that the simulated world shares: random numbers, both clocks, pending events, the disk, and the history.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::rng::Rng;
use super::wires::{Input, Wire};
use crate::clock::Timestamp;
use crate::pipeline::Exit;

pub(super) const MS: u64 = 1_000;
pub(super) const SECOND: u64 = 1_000 * MS;

/// A pending event of the world without the server. A number is a run's id, unless noted otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) enum Due {
    /// The shim's loop runs once.
    Turn(i64),
    /// The shim's loop runs because its timer has expired; an outdated timer is ignored.
    Timer(i64, u64),
    /// The leader ends by itself.
    Ends(i64, Exit),
    /// A KILL takes effect.
    KillLands(i64),
    /// A helper has done its work.
    HelperEnds(i64),
    /// Another process continues the helpers again.
    PauseBreaks(i64),
    /// A shim that was stopped continues.
    ShimGoesOn(i64),
    /// A dead shim's connections break.
    Breaks(i64),
    /// A dead shim's lock is released.
    LockFalls(i64),
    /// Messages on a connection reach the server; the number is the connection's.
    Arrives(u64),
    /// A connection breaks although both sides are alive; the number is the connection's.
    Cuts(u64),
    /// The pipeline's processes can be reached by signals again.
    Unsticks(i64),
    /// A fault from outside.
    Strikes,
    /// The database has room again, can be read again, or the journal has room again.
    DatabaseHasRoom,
    DatabaseIsWell,
    JournalHasRoom,
}

/// The present faults of the disk.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) database_is_full: bool,
    pub(super) database_is_ill: bool,
    pub(super) journal_is_full: bool,
}

/// The frequency of each fault in this seed, in a thousand.
#[derive(Default)]
pub(super) struct Temper {
    /// A call to the database fails.
    pub(super) database: u64,
    /// A change is stored although an error is reported, which came after the change had reached the log.
    pub(super) kept_errors: u64,
    /// A call to the shims' side fails.
    pub(super) shims: u64,
    /// Time passes within a call of the server.
    pub(super) slowness: u64,
    /// A connection breaks soon after a command was sent on it.
    pub(super) cuts: u64,
    /// A shim dies before a turn of its loop.
    pub(super) frailty: u64,
    /// A shim dies between writing a fact and sending it.
    pub(super) torn_telling: u64,
    /// The interval of faults from outside, in microseconds; `None` means never.
    pub(super) strike_every: Option<u64>,
    /// The kinds of these faults, one bit each.
    pub(super) strikes: u64,
}

/// The environment, see the module.
pub(super) struct Env {
    pub(super) rng: Rng,
    /// The time for which the machine was awake, in microseconds; continues across reboots.
    pub(super) now: u64,
    /// Time asleep, in microseconds.
    slept: u64,
    /// `now` when the machine last booted.
    booted_now: u64,
    /// `now` and `slept` together when the machine last booted.
    booted_at: u64,
    /// The number of the boot.
    pub(super) boot: u32,
    /// The amount by which the wall clock was set, in milliseconds.
    pub(super) wall_step_ms: i64,
    due: BTreeMap<(u64, u64), Due>,
    due_count: u64,
    pub(super) disk: Disk,
    pub(super) temper: Temper,
    /// Whether all faults have stopped.
    pub(super) is_calm: bool,
    pub(super) wires: BTreeMap<u64, Wire>,
    pub(super) next_wire: u64,
    /// The inputs that wait for the server's thread, with the time from which on they can be taken.
    pub(super) inbox: VecDeque<(u64, Input)>,
    /// The boot time in microseconds since when a message of the shim is due.
    pub(super) owed_since: Option<u64>,
    pub(super) is_owed: bool,
    pub(super) pause_file: bool,
    /// The facts that were written and the errors that were replied, in order, for judging responses.
    history: Vec<(i64, &'static str)>,
    /// The length of the history before the present millisecond, and that millisecond: facts have no finer time.
    before_now: (u64, usize),
    /// The number of injected database errors.
    pub(super) database_faults: u64,
    /// The number of connections that broke or were closed.
    pub(super) wires_lost: u64,
    /// The number of injected errors of examining folders.
    pub(super) folder_faults: u64,
    /// The number of calls until the server is killed.
    pub(super) calls_to_live: Option<u64>,
    pub(super) violation: Option<String>,
    pub(super) coverage: BTreeMap<String, u64>,
    trace: Option<Vec<String>>,
}

impl Env {
    pub(super) fn new(seed: u64, is_traced: bool) -> Self {
        Self {
            rng: Rng::new(seed),
            now: 0,
            slept: 0,
            booted_now: 0,
            booted_at: 0,
            boot: 1,
            wall_step_ms: 0,
            due: BTreeMap::new(),
            due_count: 0,
            disk: Disk::default(),
            temper: Temper::default(),
            is_calm: false,
            wires: BTreeMap::new(),
            next_wire: 1,
            inbox: VecDeque::new(),
            owed_since: None,
            is_owed: false,
            pause_file: false,
            history: Vec::new(),
            before_now: (0, 0),
            database_faults: 0,
            folder_faults: 0,
            wires_lost: 0,
            calls_to_live: None,
            violation: None,
            coverage: BTreeMap::new(),
            trace: is_traced.then(Vec::new),
        }
    }

    // ---- time

    /// Returns the boot-time clock in microseconds.
    pub(super) fn boot_us(&self) -> u64 {
        self.now + self.slept - self.booted_at + SECOND
    }

    pub(super) fn since_boot(&self) -> Duration {
        Duration::from_micros(self.boot_us())
    }

    /// Returns the clock that stands still while the machine sleeps, in microseconds.
    pub(super) fn awake_us(&self) -> u64 {
        self.now - self.booted_now + SECOND
    }

    pub(super) fn wall(&self) -> Timestamp {
        let elapsed = i64::try_from((self.now + self.slept) / MS).expect("some days");
        Timestamp::from_unix_ms(1_700_000_000_000 + elapsed + self.wall_step_ms)
    }

    pub(super) fn sleep(&mut self, us: u64) {
        self.slept += us;
    }

    /// Ends everything that is pending, and boots the machine again.
    pub(super) fn reboot(&mut self) {
        self.due.clear();
        self.now += self.rng.between(SECOND, 60 * SECOND);
        self.booted_at = self.now + self.slept;
        self.booted_now = self.now;
        self.boot += 1;
        self.wires.clear();
        self.inbox.clear();
        self.is_quit();
        self.disk = Disk::default();
    }

    /// Schedules an event.
    pub(super) fn after(&mut self, delay: u64, due: Due) {
        self.due_count += 1;
        self.due.insert((self.now + delay, self.due_count), due);
    }

    /// Schedules an event soon, in random order with others.
    pub(super) fn soon(&mut self, due: Due) {
        let delay = self.rng.delay();
        self.after(delay, due);
    }

    pub(super) fn next_due_at(&self) -> Option<u64> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the first event that is due up to `until`, and advances the time to it.
    pub(super) fn take_due(&mut self, until: u64) -> Option<Due> {
        let first = self.due.first_entry().filter(|first| first.key().0 <= until)?;
        self.now = self.now.max(first.key().0);
        Some(first.remove())
    }

    // ---- faults

    /// Returns true with this probability, in a thousand, until the faults have stopped.
    pub(super) fn mishap(&mut self, per_mille: u64) -> bool {
        !self.is_calm && self.rng.chance(per_mille)
    }

    // ---- history

    pub(super) fn happens(&mut self, run_id: i64, what: &'static str) {
        self.history_before_now();
        self.history.push((run_id, what));
    }

    /// Returns the length of the history when the present millisecond began.
    pub(super) fn history_before_now(&mut self) -> usize {
        let now = self.boot_us() / MS;
        if self.before_now.0 != now {
            self.before_now = (now, self.history.len());
        }
        self.before_now.1
    }

    pub(super) fn has_happened(&self, since: usize, run_id: i64, what: &'static str) -> bool {
        self.history[since..].contains(&(run_id, what))
    }

    // ---- coverage

    pub(super) fn cover(&mut self, what: &str) {
        if let Some(count) = self.coverage.get_mut(what) {
            *count += 1;
        } else {
            self.coverage.insert(what.to_owned(), 1);
        }
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        let at = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>12.3} ms  {}", Duration::from_micros(at).as_secs_f64() * 1e3, text()));
        }
    }

    pub(super) fn violate(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            let what = what();
            self.note(|| format!("VIOLATED: {what}"));
            self.violation = Some(what);
        }
    }

    pub(super) fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }
}
