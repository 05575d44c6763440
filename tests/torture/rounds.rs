//! The rounds: a single act, whose effect is known exactly; many clients at once; or acts that race, for which only the possible
//! results are known. After each round all sources are compared.

mod hands;
mod judge;
mod races;

use std::collections::{BTreeSet, VecDeque};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::acts::Act;
use super::agreement::same;
use super::dice::Dice;
use super::kernel;
use super::ledger::Ledger;
use super::model::{End, Live, SIGKILL, Script, Stands};
use super::support::wire::Wire;
use super::support::{DEADLINE, Place};
use super::tally::Tally;

/// How long the sources may take to agree.
const LIMIT: Duration = Duration::from_secs(2);

/// How many comparisons fit into [`LIMIT`] on a machine that has time for the processes under test. On a slower machine, the
/// limit lasts as long as this many comparisons take: each of them sends requests to the server and reads all other sources once.
const LOOKS: u32 = 150;

/// How much longer the comparison continues, to distinguish late agreement from none.
const WATCH: Duration = Duration::from_mins(1);

/// The longest time that a stop may take if its response is not awaited.
const GRACE_MAX: Duration = Duration::from_millis(300);

/// How long a condition is polled that is only timed here, and checked elsewhere.
const TIMED: Duration = Duration::from_secs(5);

/// A grace that an obedient run does not need, because it ends at the TERM.
const PATIENT_GRACE_S: f64 = 60.0;

/// Counted with the acts, although it is not one.
const BARE_OUTLIVED: &str = "(a child without environment outlived a killed shim)";

/// How many acts are reported with a violation.
const RECENT: usize = 25;

/// The possible results of a race for a run that begins during it.
#[derive(Default)]
struct Newborn {
    script: Option<Script>,
    may: BTreeSet<End>,
    /// Whether the run existed when something happened that must end it.
    must_end: bool,
}

/// The place under test, and what is known of it.
pub(crate) struct Torture {
    place: Place,
    is_up: bool,
    live: Option<Live>,
    newborn: Newborn,
    last_run: i64,
    version: i64,
    ledger: Ledger,
    recent: VecDeque<String>,
    /// The shim, if it is held with SIGSTOP.
    held_shim: Option<u32>,
    /// Kinds of events that must be in the history, because their actions were answered with 200 in this round.
    owed: Vec<&'static str>,
    /// The events that the latest run's history must have gained in this round: `kind cause`, with `*` for any cause.
    gained: Option<Vec<&'static str>>,
}

impl Torture {
    pub(crate) fn new() -> Self {
        let mut place = Place::new();
        // All runs are kept, so that all of them can be compared at the end.
        place.set_env("AUTOAPPDEV_RUNS_KEEP", "1000000");
        place.compile("victim");
        place.actor();
        place.start_server();
        Self {
            place,
            is_up: true,
            live: None,
            newborn: Newborn::default(),
            last_run: 0,
            version: -1,
            ledger: Ledger::default(),
            recent: VecDeque::new(),
            held_shim: None,
            owed: Vec::new(),
            gained: None,
        }
    }

    pub(crate) fn round(&mut self, round: u32, mut dice: Dice, tally: &mut Tally) -> Result<(), String> {
        tally.round();
        self.newborn = Newborn::default();
        self.gained = None;
        self.owed.clear();
        let is_calm = !self.live.as_ref().is_some_and(Live::is_fated);
        let kind = dice.roll(100);
        self.note(&format!("--- round {round}, {}", self.stands_text()));
        let slack = match kind {
            0..=54 if is_calm => self.exact(&mut dice, tally)?,
            55..=61 => self.crowd(&mut dice, tally)?,
            _ => self.race(&mut dice, tally)?,
        };
        self.settle(slack, tally)?;
        self.reap(tally);
        Ok(())
    }

    /// Ends the run that is still live, and checks that every run that ever existed is unchanged.
    pub(crate) fn finish(&mut self, tally: &mut Tally) -> Result<(), String> {
        self.note("--- the end");
        self.newborn = Newborn::default();
        self.gained = None;
        self.owed.clear();
        if let Some(live) = &mut self.live {
            live.may.insert(End::Asked);
            live.must_end = true;
            self.request(&Act::Stop { grace_s: 0.0 })?;
            self.settle(Duration::ZERO, tally)?;
        }
        self.ledger.compare_with_history(&self.place)
    }

    fn stands_text(&self) -> String {
        self.live.as_ref().map_or_else(|| "stopped".to_owned(), |live| format!("run {} {:?}", live.run_id, live.stands))
    }

    fn note(&mut self, what: &str) {
        self.recent.push_back(what.to_owned());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }

    fn stands(&self) -> Option<Stands> {
        self.live.as_ref().map(|live| live.stands)
    }

    // ---- one act alone

    /// Returns how much longer than [`LIMIT`] the end may rightly take.
    fn exact(&mut self, dice: &mut Dice, tally: &mut Tally) -> Result<Duration, String> {
        let mut act = dice.act(self.stands());
        // Only a ready victim reacts to these signals as expected.
        if matches!(act, Act::TermLeader | Act::Usr1Leader) && !self.is_ready() {
            act = Act::Pause;
        }
        if let (Act::Stop { grace_s }, Some(live)) = (&mut act, &self.live)
            && live.script.obeys
            && self.is_ready()
            && dice.chance(40)
        {
            *grace_s = PATIENT_GRACE_S;
        }
        tally.did(act.name());
        self.note(&act.to_string());
        if act.request().is_some() {
            return self.exact_request(&act).map(|()| Duration::ZERO);
        }
        if matches!(act, Act::KillBooting(_)) || act.can_do_without_server() && dice.chance(30) {
            // Events without a server must be in the history too.
            let by_term = dice.chance(30);
            self.note(if by_term { "TERM server before that" } else { "KILL server before that" });
            tally.did(if by_term { "TERM server" } else { "KILL server" });
            self.take_server_down(by_term)?;
        }
        let mut wire = (self.is_up && act.can_do_without_server()).then(|| self.place.wire());
        let at = Instant::now();
        let is_there = self.do_fault(&act, dice)?;
        let is_live = self.live.is_some();
        if is_live {
            same("somebody got it", &(is_there || matches!(act, Act::KillKin | Act::StopKin(_))), &true)?;
        }
        self.gained = Some(Vec::new());
        self.expect(&act);
        if let (Act::FreezeShim(time), true) = (&act, is_there) {
            thread::sleep(*time);
        }
        self.release_shim();
        if !self.is_up {
            thread::sleep(dice.pause_between());
            self.boot(dice, tally);
        } else if let Some(wire) = &mut wire {
            self.time_reaction(&act, wire, at, tally);
        }
        Ok(if matches!(act, Act::TermShim) { GRACE_MAX } else { Duration::ZERO })
    }

    fn time_reaction(&self, act: &Act, wire: &mut Wire, at: Instant, tally: &mut Tally) {
        let Some(live) = &self.live else { return };
        let wanted = match act {
            Act::StopLeader | Act::ContLeader if live.stands == Stands::Paused => "paused",
            Act::StopLeader | Act::ContLeader => "running",
            Act::KillLeader | Act::Usr1Leader if live.must_end => "stopped",
            _ => return,
        };
        if self.gained.as_ref().is_some_and(Vec::is_empty) || !until_told(wire, |pipeline| pipeline["state"] == wanted) {
            return;
        }
        tally.took(if wanted == "stopped" { "end to `stopped`" } else { "outside signal to state" }, at.elapsed());
    }

    /// Records what a single act from outside does to the live run.
    fn expect(&mut self, act: &Act) {
        const ENDED: [&str; 2] = ["exited *", "usage -"];
        let Some(live) = &mut self.live else { return };
        let was = live.stands;
        let mut gained = Vec::new();
        let mut end = None;
        match act {
            Act::StopLeader if was == Stands::Running => {
                live.stands = Stands::Paused;
                gained.push("paused outside");
            }
            Act::ContLeader if was == Stands::Paused => {
                live.stands = Stands::Running;
                gained.push("resumed outside");
            }
            Act::Waver { times, .. } => {
                live.stands = if Act::last_signal(*times) == Signal::STOP { Stands::Paused } else { Stands::Running };
                self.gained = None;
                return;
            }
            Act::KillShim | Act::KillShimThenServer | Act::KillServerThenShim => {
                end = Some(End::Lost);
                gained.push("lost recovery");
            }
            Act::KillLeader => {
                end = Some(End::Signal(SIGKILL));
                gained.extend(ENDED);
            }
            Act::TermShim => {
                live.may.insert(End::Asked);
                live.must_end = true;
                self.gained = told_by_a_stop(true, was);
                return;
            }
            Act::TermLeader | Act::Usr1Leader => {
                let on_it = if matches!(act, Act::TermLeader) { live.script.on_term } else { Some(live.script.on_usr1) };
                if was == Stands::Paused {
                    // It takes effect when the run is resumed.
                    live.may.extend(on_it);
                } else if on_it.is_some() {
                    end = on_it;
                    gained.extend(ENDED);
                }
            }
            _ => {}
        }
        if let Some(end) = end {
            live.may.insert(end);
            live.must_end = true;
        }
        self.gained = Some(gained);
    }

    fn exact_request(&mut self, act: &Act) -> Result<(), String> {
        let (status, body) = self.request(act)?;
        let stands = self.stands();
        let is_allowed = match act {
            Act::Start { .. } => stands.is_none(),
            Act::Pause => stands == Some(Stands::Running),
            Act::Resume => stands == Some(Stands::Paused),
            _ => stands.is_some(),
        };
        self.gained = Some(Vec::new());
        if !is_allowed {
            same("the status of a refusal", &(status, &body["error"]), &(409, &json!("invalid_transition")))?;
            return Ok(());
        }
        if status != 200 {
            return Err(format!("{act} is answered with {status} {body}"));
        }
        match (act, &mut self.live) {
            (Act::Start { script, .. }, _) => {
                let run_id = body["run_id"].as_i64().ok_or("a start tells the run")?;
                same("the next run's id", &run_id, &(self.last_run + 1))?;
                let pid = body["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).ok_or("a start tells the pid")?;
                self.last_run = run_id;
                let live = Live::new(run_id, pid, script.clone());
                self.gained = (!live.is_fated()).then(|| vec!["starting request", "spawned request"]);
                self.live = Some(live);
                self.until_ready();
            }
            (Act::Pause, Some(live)) => {
                live.stands = Stands::Paused;
                self.gained = Some(vec!["paused request"]);
            }
            (Act::Resume, Some(live)) => {
                live.stands = Stands::Running;
                self.gained = Some(vec!["resumed request"]);
            }
            (Act::Stop { grace_s }, Some(live)) => {
                if *grace_s >= PATIENT_GRACE_S {
                    live.patient_end = live.script.on_term;
                }
                live.must_end = true;
                live.may.insert(End::Asked);
                self.gained = told_by_a_stop(*grace_s > 0.0, live.stands);
            }
            _ => return Err(format!("{act} without a run")),
        }
        Ok(())
    }

    /// Waits until the victim reacts to signals as expected. A victim that ends by itself may already have ended.
    fn until_ready(&self) {
        let begun = Instant::now();
        while !self.is_ready() && begun.elapsed() < TIMED && self.live.as_ref().is_some_and(|live| kernel::is_there(live.pid)) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Returns the events that a stop adds to the history. For a paused run, the end can be recorded before the resume.
fn told_by_a_stop(has_grace: bool, stands: Stands) -> Option<Vec<&'static str>> {
    match (has_grace, stands) {
        (true, Stands::Paused | Stands::Either) => None,
        (true, Stands::Running) => Some(vec!["stopping -", "exited request", "usage -"]),
        (false, _) => Some(vec!["exited request", "usage -"]),
    }
}

/// Sends requests until the condition holds. Returns whether that happened within the limit, which is only for timing.
fn until_told(wire: &mut Wire, holds: impl Fn(&Value) -> bool) -> bool {
    let begun = Instant::now();
    wire.read_within(DEADLINE);
    while begun.elapsed() < TIMED {
        if holds(&wire.get("/api/pipeline").body["pipeline"]) {
            return true;
        }
    }
    false
}
