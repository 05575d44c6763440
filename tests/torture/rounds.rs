//! The rounds: one act alone, whose whole effect is known; many clients at once; or things that race, of which only is known what they may
//! come to. After each the witnesses are asked.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::process::{Child, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::acts::Act;
use super::agreement::{self, Sight, ask, same};
use super::dice::Dice;
use super::kernel;
use super::ledger::{self, Ledger};
use super::model::{End, Live, SIGKILL, Script, Stands};
use super::support::wire::Wire;
use super::support::{DEADLINE, Place, describe};
use super::tally::Tally;

/// How long they may take to agree.
const LIMIT: Duration = Duration::from_secs(2);

/// How long they are watched beyond that, to tell late from never.
const WATCH: Duration = Duration::from_secs(20);

/// The longest that a stop may rightly take whose answer nobody waited for.
const GRACE_MAX: Duration = Duration::from_millis(300);

/// How long a condition is polled for that is only timed here, and judged elsewhere.
const TIMED: Duration = Duration::from_secs(5);

/// A grace that nobody who obeys needs: it ends by the TERM, and at once.
const PATIENT_GRACE_S: f64 = 60.0;

/// What is counted with the acts although nobody did it.
const BARE_OUTLIVED: &str = "(a child without environment outlived a killed shim)";

/// How many acts are told with a violation.
const RECENT: usize = 25;

/// What a race may come to for a run that is born in it.
#[derive(Default)]
struct Newborn {
    script: Option<Script>,
    may: BTreeSet<End>,
    /// It was there already when it got something that must end it.
    must_end: bool,
}

/// A place that is tortured, and what is known of it.
pub(crate) struct Torture {
    place: Place,
    is_up: bool,
    live: Option<Live>,
    newborn: Newborn,
    last_run: i64,
    version: i64,
    ledger: Ledger,
    recent: VecDeque<String>,
    /// The shim is held with SIGSTOP.
    held_shim: Option<u32>,
    /// What was answered with 200 in this round, and so must be in the history: kinds of events.
    owed: Vec<&'static str>,
    /// What the latest run's history must have gained in this round: `kind cause`, `*` for any cause.
    gained: Option<Vec<&'static str>>,
}

impl Torture {
    pub(crate) fn new() -> Self {
        let mut place = Place::new();
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

    /// The last looks: the run that still lives is ended, and all that ever was is as it was.
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

    // ---- servers

    fn boot(&mut self, dice: &mut Dice, tally: &mut Tally) {
        // Either way of keeping the tree together is to hold, and each server to find a run that began under the other.
        if dice.chance(50) {
            self.place.set_env("AUTOAPPDEV_CONTAINMENT", "tree");
        } else {
            self.place.unset_env("AUTOAPPDEV_CONTAINMENT");
        }
        let begun = Instant::now();
        self.place.start_server();
        self.is_up = true;
        // Only where nothing else is going on the time is that of an adoption.
        let adopted = self.live.as_ref().filter(|live| !live.is_fated() && self.held_shim.is_none()).map(|live| live.pid);
        if let Some(pid) = adopted {
            let wire = &mut self.place.wire();
            if until_told(wire, |pipeline| pipeline["state"] != "stopped" && pipeline["pid"] == pid) {
                tally.took("boot to adopted", begun.elapsed());
            }
        }
    }

    fn kill_booting(&mut self, after: Duration) -> Result<(), String> {
        let mut command = self.place.command();
        let spawned = command.arg("serve").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child: Child = spawned.map_err(|error| format!("no server: {error}"))?;
        thread::sleep(after);
        let told = child.kill().and_then(|()| child.wait()).map_err(|error| format!("the booting server: {error}"))?;
        match told.code() {
            Some(code) => Err(format!("a server ended by itself with {code} while it booted")),
            None => Ok(()),
        }
    }

    fn take_server_down(&mut self, by_term: bool) -> Result<(), String> {
        if !std::mem::take(&mut self.is_up) {
            return Ok(());
        }
        if by_term {
            same("the exit code of a server that gets a TERM", &self.place.stop_server(), &0)
        } else {
            self.place.kill_server();
            Ok(())
        }
    }

    /// Takes care of those who have come to us because their parent died: the dead are reaped; the living, but for the live run's shim, are
    /// what nothing tells whose they were once their shim was killed: neither a cookie nor a parent.
    fn reap(&mut self, tally: &mut Tally) {
        let mut ours: Vec<u32> = self.place.shims().into_iter().collect();
        if self.is_up {
            ours.push(self.place.server_pid());
        }
        for bare in kernel::reap_orphans(&ours) {
            kernel::send(bare, Signal::KILL);
            tally.did(BARE_OUTLIVED);
        }
    }

    // ---- doing

    fn request(&mut self, act: &Act) -> Result<(u16, Value), String> {
        let (path, body) = act.request().ok_or("no request")?;
        let headers = [("Content-Type", "application/json")];
        let answer = self.place.try_request("POST", path, &headers, Some(&body)).ok_or("no answer")?;
        Ok((answer.status, answer.body))
    }

    /// The live run's shim, or that of the run that is being born.
    fn shim(&self) -> Option<u32> {
        self.place.shims().first().copied()
    }

    /// The live run's leader, or that of the run that is being born.
    fn leader(&self) -> Option<u32> {
        let run_id = self.live.as_ref().map_or(self.last_run + 1, |live| live.run_id);
        let pid = self.place.facts(run_id, "spawned").pop()?["pid"].as_u64()?;
        let pid = u32::try_from(pid).ok()?;
        // Its number can be another's by now.
        kernel::all(&self.place.runtime()).get(&pid).filter(|process| process.run_id == Some(run_id) && process.is_alive())?;
        Some(pid)
    }

    /// Whether the live run's leader has come so far that it takes TERM and USR1 as its script says.
    fn is_ready(&self) -> bool {
        self.live.as_ref().is_some_and(|live| {
            !live.script.has_tally || ledger::read_tally(&self.place, live.run_id).is_some_and(|tally| tally[0] == 1)
        })
    }

    /// Does what somebody with a `kill` command does. Returns whether anybody was there to get it.
    fn do_fault(&mut self, act: &Act, dice: &mut Dice) -> Result<bool, String> {
        let send = |pid: Option<u32>, signal| pid.is_some_and(|pid| kernel::send(pid, signal));
        Ok(match act {
            Act::Start { .. } | Act::Pause | Act::Resume | Act::Stop { .. } => return Err("a client does that".to_owned()),
            Act::KillServer => self.take_server_down(false).map(|()| true)?,
            Act::TermServer => self.take_server_down(true).map(|()| true)?,
            Act::KillBooting(after) => self.kill_booting(*after).map(|()| true)?,
            Act::FreezeServer(time) => {
                let server = self.is_up.then(|| self.place.server_pid());
                let is_there = send(server, Signal::STOP);
                thread::sleep(*time);
                send(server, Signal::CONT);
                is_there
            }
            Act::KillShim => send(self.shim(), Signal::KILL),
            Act::TermShim => send(self.shim(), Signal::TERM),
            Act::FreezeShim(_) => {
                let shim = self.shim();
                if send(shim, Signal::STOP) {
                    self.held_shim = shim;
                }
                shim.is_some()
            }
            Act::KillShimThenServer => {
                let is_there = send(self.shim(), Signal::KILL);
                self.take_server_down(false)?;
                is_there
            }
            Act::KillServerThenShim => {
                self.take_server_down(false)?;
                send(self.shim(), Signal::KILL)
            }
            Act::KillLeader => send(self.leader(), Signal::KILL),
            Act::TermLeader => send(self.leader(), Signal::TERM),
            Act::Usr1Leader => send(self.leader(), Signal::USR1),
            Act::StopLeader => send(self.leader(), Signal::STOP),
            Act::ContLeader => send(self.leader(), Signal::CONT),
            Act::Waver { times, gap } => {
                let leader = self.leader();
                for n in 1..=*times {
                    send(leader, Act::last_signal(n));
                    thread::sleep(*gap);
                }
                leader.is_some()
            }
            Act::SecondServer => {
                let said = self.place.refused_server(("AUTOAPPDEV_CONTAINMENT", "tree"));
                let pid = self.place.server_pid();
                let names_it = said.contains(&pid.to_string());
                same("a second server is refused, and told of the first", &names_it, &true)
                    .map_err(|why| format!("{why}: {said}"))?;
                true
            }
            Act::KillKin => {
                let kin = self.some_kin(dice);
                if let (Some(live), Some(_)) = (&mut self.live, kin) {
                    live.kin_killed += 1;
                }
                send(kin, Signal::KILL)
            }
            Act::StopKin(time) => {
                let kin = self.some_kin(dice);
                let is_there = send(kin, Signal::STOP);
                thread::sleep(*time);
                send(kin, Signal::CONT);
                is_there
            }
        })
    }

    /// A process of the live run that is not its leader, if there is one that it can do without.
    fn some_kin(&self, dice: &mut Dice) -> Option<u32> {
        let live = self.live.as_ref()?;
        let kin: Vec<u32> = live
            .kin
            .iter()
            .copied()
            .filter(|&identity| identity.0 != live.pid && kernel::lives(identity))
            .map(|(pid, _)| pid)
            .collect();
        // Those of the shell scripts end when the last of their children has.
        let can_spare = live.script.has_tally || live.script.name == "tree.sh" && live.kin_killed < 2;
        (can_spare && !kin.is_empty()).then(|| *dice.pick(&kin))
    }

    fn release_shim(&mut self) {
        if let Some(shim) = self.held_shim.take() {
            kernel::send(shim, Signal::CONT);
        }
    }

    // ---- one act alone

    /// Returns how much longer than [`LIMIT`] the end may rightly take.
    fn exact(&mut self, dice: &mut Dice, tally: &mut Tally) -> Result<Duration, String> {
        let mut act = dice.act(self.stands());
        // Only a victim that has come so far does as it is told.
        if matches!(act, Act::TermLeader | Act::Usr1Leader) && !self.is_ready() {
            act = Act::Pause;
        }
        // Somebody else is stopped already, and whether a paused one may be continued alone is not for here.
        if matches!(act, Act::StopKin(_)) && self.stands() == Some(Stands::Paused) {
            act = Act::KillKin;
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
            // What happens while nobody looks is to be in the history all the same.
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

    /// What an act of somebody else, alone, makes of the live run.
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
                    // It comes into effect when the run goes on.
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

    /// So that signals find a victim that does as it is told. One that ends by itself may have done so.
    fn until_ready(&self) {
        let begun = Instant::now();
        while !self.is_ready() && begun.elapsed() < TIMED && self.live.as_ref().is_some_and(|live| kernel::is_there(live.pid)) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    // ---- many clients

    fn crowd(&mut self, dice: &mut Dice, tally: &mut Tally) -> Result<Duration, String> {
        let script = Script::random(dice);
        let clients: Vec<Vec<Act>> = (0..2 + dice.roll(4))
            .map(|_| {
                (0..=dice.roll(3))
                    .map(|_| match dice.roll(10) {
                        0..=2 => Act::Start { script: script.clone(), grace_s: 0.1 },
                        3..=5 => Act::Pause,
                        6 | 7 => Act::Resume,
                        _ => dice.stop(),
                    })
                    .collect()
            })
            .collect();
        tally.did("crowd");
        self.note(&format!("a crowd with {} {}: {clients:?}", script.name, script.args.join(" ")));
        let gate = Barrier::new(clients.len());
        let (place, gate) = (&self.place, &gate);
        let ask_all = |acts: &[Act]| -> Vec<(Act, u16, Value)> {
            gate.wait();
            let ask = |act: &Act| {
                let (path, body) = act.request().expect("a request");
                let answer = place.request("POST", path, &[("Content-Type", "application/json")], Some(&body));
                (act.clone(), answer.status, answer.body)
            };
            acts.iter().map(ask).collect()
        };
        let answers: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = clients.iter().map(|acts| scope.spawn(|| ask_all(acts))).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        let mut started = BTreeSet::new();
        for (act, status, body) in &answers {
            self.note(&format!("  {act}: {status} {body}"));
            match (act, *status) {
                (Act::Start { .. }, 200) => {
                    if !started.insert(body["run_id"].as_i64().ok_or("a start tells the run")?) {
                        return Err(format!("two starts got the same run: {body}"));
                    }
                }
                (act, 200) => self.owed.extend(act.promise()),
                (_, 409) => same("the error", &body["error"], &json!("invalid_transition"))?,
                _ => return Err(format!("{act} in a crowd is answered with {status} {body}")),
            }
        }
        let count = i64::try_from(started.len()).expect("few");
        let expected: BTreeSet<i64> = (self.last_run + 1..=self.last_run + count).collect();
        same("the runs that were started", &started, &expected)?;
        if let Some(live) = &mut self.live {
            live.stands = Stands::Either;
            live.may.insert(End::Asked);
            live.must_end |= !started.is_empty();
        }
        self.newborn = Newborn { script: Some(script), may: BTreeSet::from([End::Asked]), must_end: false };
        Ok(GRACE_MAX)
    }

    // ---- things that race

    fn race(&mut self, dice: &mut Dice, tally: &mut Tally) -> Result<Duration, String> {
        let mut stream = None;
        if dice.chance(85) {
            let act = dice.shot(self.stands());
            tally.did(&format!("{} in a race", act.name()));
            self.note(&format!("{act}, in a race"));
            let (path, body) = act.request().ok_or("no request")?;
            let mut wire = self.place.wire();
            wire.send(post(path, &body));
            if let Act::Start { script, .. } = &act {
                self.newborn.script = Some(script.clone());
            }
            self.blur(&act);
            if dice.chance(25) {
                // Whatever is killed now: what was answered is so.
                self.hear(&act, &mut wire, false)?;
            } else {
                stream = Some((act, wire));
            }
            self.wait(dice);
        }
        let mut was_down = false;
        let mut holds = Vec::new();
        for _ in 0..1 + usize::from(dice.chance(40)) + usize::from(dice.chance(15)) {
            let act = dice.fault();
            tally.did(&format!("{} in a race", act.name()));
            self.blur(&act);
            let is_there = self.do_fault(&act, dice)?;
            self.newborn.must_end |= is_there && self.live.is_none() && act.ends_a_run();
            self.note(&format!("{act}{}", if is_there { "" } else { ": nobody there" }));
            if let Act::FreezeShim(time) = act {
                holds.push(time);
            }
            was_down |= !self.is_up;
            self.wait(dice);
        }
        if !self.is_up {
            if dice.chance(25) {
                let act = Act::KillBooting(dice.moment(Duration::from_millis(30)));
                tally.did(&format!("{} in a race", act.name()));
                self.note(&act.to_string());
                self.blur(&act);
                self.do_fault(&act, dice)?;
            }
            self.boot(dice, tally);
        }
        holds.into_iter().for_each(thread::sleep);
        self.release_shim();
        if let Some((act, mut wire)) = stream {
            self.hear(&act, &mut wire, was_down)?;
        }
        Ok(GRACE_MAX)
    }

    fn wait(&mut self, dice: &mut Dice) {
        let pause = dice.pause_between();
        self.note(&format!("  {pause:?}"));
        thread::sleep(pause);
    }

    /// What an answer to a request that raced must be, and what it binds the future to.
    fn hear(&mut self, act: &Act, wire: &mut Wire, was_down: bool) -> Result<(), String> {
        let answer = match wire.try_answer(false) {
            Ok(answer) => answer,
            Err(_) if was_down => return Ok(()),
            Err(error) => return Err(format!("{act} gets no answer from a server that lives: {error}")),
        };
        self.note(&format!("  {act}: {} {}", answer.status, answer.body));
        match (act, answer.status) {
            (Act::Start { .. }, 200 | 422) => {
                same("the next run's id", &answer.body["run_id"].as_i64(), &Some(self.last_run + 1))?;
            }
            (Act::Stop { .. }, 200) => {
                if let Some(live) = &mut self.live {
                    live.must_end = true;
                }
            }
            (Act::Pause | Act::Resume, 200) | (_, 409 | 503) => {}
            _ => return Err(format!("{act} is answered with {} {}", answer.status, answer.body)),
        }
        if answer.status == 200 {
            self.owed.extend(act.promise());
        }
        Ok(())
    }

    /// What an act may come to, for the run that lives and for one that is being born.
    fn blur(&mut self, act: &Act) {
        let is_ready = self.is_ready();
        let mut may: BTreeSet<End> = BTreeSet::new();
        let mut may_newborn: BTreeSet<End> = BTreeSet::new();
        let mut must_end = false;
        let mut moves = false;
        match act {
            Act::Start { .. }
            | Act::SecondServer
            | Act::FreezeServer(_)
            | Act::FreezeShim(_)
            | Act::KillKin
            | Act::StopKin(_) => {}
            Act::Pause | Act::Resume | Act::StopLeader | Act::ContLeader | Act::Waver { .. } => moves = true,
            Act::Stop { .. } => {
                moves = true;
                may.insert(End::Asked);
            }
            Act::KillServer | Act::TermServer | Act::KillBooting(_) => {
                may_newborn.insert(End::NeverBegan);
            }
            Act::KillShim | Act::KillShimThenServer | Act::KillServerThenShim => {
                may.insert(End::Lost);
                may_newborn.insert(End::NeverBegan);
                must_end = true;
            }
            Act::TermShim => {
                moves = true;
                may.insert(End::Asked);
                // Before it has a handler for it, it dies of it.
                may_newborn.extend([End::Lost, End::NeverBegan]);
                must_end = true;
            }
            Act::KillLeader => {
                may.insert(End::Signal(SIGKILL));
                must_end = true;
            }
            Act::TermLeader | Act::Usr1Leader => {
                let script = self.live.as_ref().map(|live| &live.script).or(self.newborn.script.as_ref());
                let is_term = matches!(act, Act::TermLeader);
                let plain = Script::of_a_plain_program(is_term);
                may.extend(script.and_then(|script| if is_term { script.on_term } else { Some(script.on_usr1) }));
                if !is_ready {
                    may.insert(plain);
                }
            }
        }
        may_newborn.extend(&may);
        self.newborn.may.extend(may_newborn);
        if let Some(live) = &mut self.live {
            live.may.extend(may);
            live.must_end |= must_end;
            if moves {
                live.stands = Stands::Either;
            }
        }
    }

    // ---- judging

    /// Waits until all agree, and on what the driver expects. The time for that is [`LIMIT`] and `slack`.
    fn settle(&mut self, slack: Duration, tally: &mut Tally) -> Result<(), String> {
        let begun = Instant::now();
        let sight = loop {
            let outcome = agreement::look(&self.place).and_then(|sight| self.is_as_expected(&sight).map(|()| sight));
            let taken = begun.elapsed();
            match outcome {
                Ok(sight) if taken <= LIMIT + slack => break sight,
                Ok(_) => return Err(format!("they agreed only after {taken:?}")),
                Err(why) if taken > WATCH => return Err(format!("they never agreed: {why}")),
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        };
        tally.took("agreement", begun.elapsed());
        if sight.version < self.version {
            return Err(format!("the version went back from {} to {}", self.version, sight.version));
        }
        self.version = sight.version;
        self.ledger.follow_the_log(&self.place, tally)?;
        self.check_gained(&sight)?;
        self.take_over(&sight, tally)
    }

    /// What may take its time: an end that must come, a state that a signal brings.
    fn is_as_expected(&self, sight: &Sight) -> Result<(), String> {
        if self.newborn.must_end && sight.run_id > self.last_run && sight.state != "stopped" {
            return Err(format!("run {} is {} and must have ended", sight.run_id, sight.state));
        }
        let Some(live) = &self.live else { return Ok(()) };
        if sight.run_id != live.run_id || sight.state == "stopped" {
            return Ok(());
        }
        if live.must_end {
            return Err(format!("run {} is {} and must have ended", live.run_id, sight.state));
        }
        match (live.stands, sight.state.as_str()) {
            (Stands::Running, "running") | (Stands::Paused, "paused") | (Stands::Either, _) => Ok(()),
            _ if live.is_fated() => Ok(()),
            (stands, state) => Err(format!("run {} is {state} and should be {stands:?}", live.run_id)),
        }
    }

    fn check_gained(&self, sight: &Sight) -> Result<(), String> {
        let (Some(gained), Some(live)) = (&self.gained, &self.live) else { return Ok(()) };
        let events = sight.run["events"].as_array().ok_or("a run has events")?;
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let new: Vec<String> = events
            .iter()
            .skip(live.events)
            .zip(gained.iter().map(Some).chain(std::iter::repeat(None)))
            .map(|(event, wanted)| {
                let is_any = wanted.is_some_and(|wanted| wanted.ends_with('*'));
                format!("{} {}", text(&event["kind"]), if is_any { "*".to_owned() } else { text(&event["cause"]) })
            })
            .collect();
        same("what the history gained", &new, &gained.iter().map(|&event| event.to_owned()).collect())
    }

    /// Every run that was there in this round: still there, or rightly ended.
    fn take_over(&mut self, sight: &Sight, tally: &mut Tally) -> Result<(), String> {
        let known: Vec<i64> = self.live.iter().map(|live| live.run_id).collect();
        let mut news: Vec<String> = Vec::new();
        for run_id in known.into_iter().chain(self.last_run + 1..=sight.run_id) {
            let run = if run_id == sight.run_id {
                sight.run.clone()
            } else {
                ask(&self.place, &format!("/api/runs/{run_id}"))?["run"].take()
            };
            ledger::check_story(&self.place, &run)?;
            let is_live = run["stopped_at"].is_null();
            let mut live = match self.live.take() {
                Some(live) => live,
                None => self.born(run_id, &run)?,
            };
            let events = run["events"].as_array().ok_or("a run has events")?;
            news.extend(events.iter().skip(live.events).filter_map(|event| event["kind"].as_str().map(str::to_owned)));
            if !is_live {
                let end = End::of(&run)?;
                tally.ended(&format!("{end:?}"));
                if !live.may.contains(&end) {
                    return Err(format!("run {run_id} ended as {end:?}, and may only have ended as {:?}: {run}", live.may));
                }
                if let Some(obedient) = live.patient_end {
                    same("how it obeyed", &End::of_leader(&run), &Some(obedient))?;
                }
                self.judge_the_dead(&live, end)?;
                self.ledger.close(&self.place, &run);
                continue;
            }
            same("who lives", &(run_id, sight.pid), &(sight.run_id, Some(live.pid)))?;
            if live.may.is_empty() && run["status"] == "starting" {
                return Err(format!("run {run_id} is still starting"));
            }
            live.stands = if sight.state == "paused" { Stands::Paused } else { Stands::Running };
            live.events = events.len();
            live.kin.extend(&sight.kin);
            // A signal can wait in a process that is stopped or takes its time. Everything else has come or never will.
            live.may.retain(|end| matches!(end, End::Code(_) | End::Signal(_)));
            self.live = Some(live);
        }
        self.last_run = self.last_run.max(sight.run_id);
        for kind in &self.owed {
            let count = |kinds: &mut dyn Iterator<Item = &str>| kinds.filter(|found| found == kind).count();
            let (found, owed) = (count(&mut news.iter().map(String::as_str)), count(&mut self.owed.iter().copied()));
            if found < owed {
                return Err(format!("{owed} times {kind} was answered with 200, and {found} times it is in the history"));
            }
        }
        Ok(())
    }

    /// A run that nobody told the driver of.
    fn born(&self, run_id: i64, run: &Value) -> Result<Live, String> {
        let script = self.newborn.script.clone().ok_or_else(|| format!("nobody started run {run_id}: {run}"))?;
        let mut live = Live::new(run_id, run["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0), script);
        live.may.extend(&self.newborn.may);
        Ok(live)
    }

    fn judge_the_dead(&self, live: &Live, end: End) -> Result<(), String> {
        // Of a lost run those are gone who carry its cookie: all have agreed on that. Who has shed it is known by descent only, which
        // died with the shim; such ones have come to us, and are killed with the orphans.
        let known = if end == End::Lost { BTreeSet::new() } else { live.kin.clone() };
        if let Some(alive) = known.into_iter().find(|&identity| kernel::lives(identity)) {
            return Err(format!("run {} has ended, and this is alive: {}", live.run_id, describe(alive.0)));
        }
        match end {
            End::Lost | End::NeverBegan => Ok(()),
            End::Code(_) | End::Signal(_) | End::Asked => self.ledger.compare_with_tally(&self.place, live.run_id),
        }
    }

    /// Everything that helps to understand a violation.
    pub(crate) fn context(&self) -> String {
        let mut text = String::from("what was done:\n");
        for line in &self.recent {
            let _string = writeln!(text, "  {line}");
        }
        let _string = writeln!(text, "what is known: {:?}", self.live);
        if self.is_up {
            for path in ["/api/pipeline".to_owned(), "/api/health".to_owned(), format!("/api/runs/{}", self.last_run)] {
                let _string =
                    writeln!(text, "{path}: {}", ask(&self.place, &path).map_or_else(|why| why, |body| body.to_string()));
            }
        }
        for run_id in [self.last_run, self.last_run + 1] {
            for file in ["journal.jsonl", "shim.log"] {
                let path = self.place.run_dir(run_id).join(file);
                let _string = writeln!(text, "run {run_id}, {file}:\n{}", std::fs::read_to_string(path).unwrap_or_default());
            }
        }
        text.push_str("processes:\n");
        for process in kernel::all(&self.place.runtime()).values().filter(|process| process.run_id.is_some()) {
            let _string = writeln!(text, "  {}", describe(process.pid));
        }
        let log = self.place.server_log();
        let lines: Vec<&str> = log.lines().collect();
        let _string = writeln!(text, "the servers' log, its end:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        text
    }
}

/// What a stop adds to the history. Of a paused run the end can be seen before it is seen to go on.
fn told_by_a_stop(has_grace: bool, stands: Stands) -> Option<Vec<&'static str>> {
    match (has_grace, stands) {
        (true, Stands::Paused | Stands::Either) => None,
        (true, Stands::Running) => Some(vec!["stopping -", "exited request", "usage -"]),
        (false, _) => Some(vec!["exited request", "usage -"]),
    }
}

/// A request as bytes.
fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Asks again and again; whether it came in a time that is only a stopwatch's limit.
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
