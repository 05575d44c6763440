//! Rounds for which only the possible results are known: many clients at once, and actions that race with faults.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{GRACE_MAX, Newborn, Torture};
use crate::acts::Act;
use crate::agreement::same;
use crate::dice::Dice;
use crate::model::{End, SIGKILL, Script, Stands};
use crate::support::wire::Wire;
use crate::tally::Tally;

impl Torture {
    // ---- many clients

    pub(super) fn crowd(&mut self, dice: &mut Dice, tally: &mut Tally) -> Result<Duration, String> {
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

    pub(super) fn race(&mut self, dice: &mut Dice, tally: &mut Tally) -> Result<Duration, String> {
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
                // A response that was received stays true, whatever is killed later.
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

    /// Checks the response to a request that raced, and records what must follow from it.
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

    /// Records the possible results of an act, for the live run and for one that is being started.
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
                // Before the shim has its handler, the signal kills it.
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
}

/// Returns a request as bytes.
fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
