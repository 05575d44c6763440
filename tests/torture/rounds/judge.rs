//! The checks: whether all sources agree in time and on what the driver expects, and whether every known run is still live or has
//! ended correctly.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{LIMIT, LOOKS, Torture, WATCH};
use crate::agreement::{self, Sight, ask, same};
use crate::model::{End, Live, Stands};
use crate::support::describe;
use crate::tally::Tally;
use crate::{kernel, ledger};

impl Torture {
    // ---- judging

    /// Waits until all sources agree, and on what the driver expects. The time limit is [`LIMIT`] plus `slack`.
    pub(super) fn settle(&mut self, slack: Duration, tally: &mut Tally) -> Result<(), String> {
        let begun = Instant::now();
        let mut looks = 0;
        let sight = loop {
            let outcome = agreement::look(&self.place).and_then(|sight| self.is_as_expected(&sight).map(|()| sight));
            let taken = begun.elapsed();
            looks += 1;
            match outcome {
                Ok(sight) if taken <= LIMIT + slack || looks <= LOOKS => break sight,
                Ok(_) => return Err(format!("they agreed only after {taken:?}, at the {looks}th look")),
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

    /// Checks what may take a while: an end that must come, or a state that a signal causes.
    pub(super) fn is_as_expected(&self, sight: &Sight) -> Result<(), String> {
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

    pub(super) fn check_gained(&self, sight: &Sight) -> Result<(), String> {
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

    /// Checks each run that existed in this round: it is still live, or ended correctly.
    pub(super) fn take_over(&mut self, sight: &Sight, tally: &mut Tally) -> Result<(), String> {
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
            // A signal can be pending in a process that is stopped or slow. Everything else has happened by now or never will.
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

    /// Creates the record of a run whose start was not confirmed to the driver.
    pub(super) fn born(&self, run_id: i64, run: &Value) -> Result<Live, String> {
        let script = self.newborn.script.clone().ok_or_else(|| format!("nobody started run {run_id}: {run}"))?;
        let mut live = Live::new(run_id, run["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0), script);
        live.may.extend(&self.newborn.may);
        Ok(live)
    }

    pub(super) fn judge_the_dead(&self, live: &Live, end: End) -> Result<(), String> {
        // All processes with the cookie of a lost run have ended: all sources have agreed on that. Processes that removed the
        // cookie were known only by descent, which the end of the shim erased. They have become our children, and are killed with
        // the orphans.
        let known = if end == End::Lost { BTreeSet::new() } else { live.kin.clone() };
        if let Some(alive) = known.into_iter().find(|&identity| kernel::lives(identity)) {
            return Err(format!("run {} has ended, and this is alive: {}", live.run_id, describe(alive.0)));
        }
        match end {
            End::Lost | End::NeverBegan => Ok(()),
            End::Code(_) | End::Signal(_) | End::Asked => self.ledger.compare_with_tally(&self.place, live.run_id),
        }
    }

    /// Returns everything that helps to understand a violation.
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
