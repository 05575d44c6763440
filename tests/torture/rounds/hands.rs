//! How acts are performed: starting and ending servers, requests, and signals to whatever processes exist.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::{BARE_OUTLIVED, Torture, until_told};
use crate::acts::Act;
use crate::agreement::same;
use crate::dice::Dice;
use crate::tally::Tally;
use crate::{kernel, ledger};

impl Torture {
    // ---- servers

    pub(super) fn boot(&mut self, dice: &mut Dice, tally: &mut Tally) {
        // Both ways to keep the tree together must work, and each server must find a run that began under the other.
        if dice.chance(50) {
            self.place.set_env("AUTOAPPDEV_CONTAINMENT", "tree");
        } else {
            self.place.unset_env("AUTOAPPDEV_CONTAINMENT");
        }
        let begun = Instant::now();
        self.place.start_server();
        self.is_up = true;
        // The time is that of an adoption only if nothing else is going on.
        let adopted = self.live.as_ref().filter(|live| !live.is_fated() && self.held_shim.is_none()).map(|live| live.pid);
        if let Some(pid) = adopted {
            let wire = &mut self.place.wire();
            if until_told(wire, |pipeline| pipeline["state"] != "stopped" && pipeline["pid"] == pid) {
                tally.took("boot to adopted", begun.elapsed());
            }
        }
    }

    pub(super) fn kill_booting(&mut self, after: Duration) -> Result<(), String> {
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

    pub(super) fn take_server_down(&mut self, by_term: bool) -> Result<(), String> {
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

    /// Reaps the orphans that have ended, and kills those that are alive, except the live run's shim. After the kill of a shim,
    /// neither a cookie nor a parent shows to which run such a process belonged.
    pub(super) fn reap(&mut self, tally: &mut Tally) {
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

    pub(super) fn request(&mut self, act: &Act) -> Result<(u16, Value), String> {
        let (path, body) = act.request().ok_or("no request")?;
        let headers = [("Content-Type", "application/json")];
        let answer = self.place.try_request("POST", path, &headers, Some(&body)).ok_or("no answer")?;
        Ok((answer.status, answer.body))
    }

    /// Returns the shim of the live run, or of the run that is being started.
    pub(super) fn shim(&self) -> Option<u32> {
        self.place.shims().first().copied()
    }

    /// Returns the leader of the live run, or of the run that is being started.
    pub(super) fn leader(&self) -> Option<u32> {
        let run_id = self.live.as_ref().map_or(self.last_run + 1, |live| live.run_id);
        let pid = self.place.facts(run_id, "spawned").pop()?["pid"].as_u64()?;
        let pid = u32::try_from(pid).ok()?;
        // The pid can belong to another process by now.
        kernel::all(&self.place.runtime()).get(&pid).filter(|process| process.run_id == Some(run_id) && process.is_alive())?;
        Some(pid)
    }

    /// Returns whether the live run's leader is ready, so that it reacts to TERM and USR1 as its script says.
    pub(super) fn is_ready(&self) -> bool {
        self.live.as_ref().is_some_and(|live| {
            !live.script.has_tally || ledger::read_tally(&self.place, live.run_id).is_some_and(|tally| tally[0] == 1)
        })
    }

    /// Sends what a user with a `kill` command could send. Returns whether there was a process to receive it.
    pub(super) fn do_fault(&mut self, act: &Act, dice: &mut Dice) -> Result<bool, String> {
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

    /// Returns a process of the live run other than its leader, if there is one that the run does not need.
    pub(super) fn some_kin(&self, dice: &mut Dice) -> Option<u32> {
        let live = self.live.as_ref()?;
        let kin: Vec<u32> = live
            .kin
            .iter()
            .copied()
            .filter(|&identity| identity.0 != live.pid && kernel::lives(identity))
            .map(|(pid, _)| pid)
            .collect();
        // The shell scripts end when the last of their children has ended.
        let can_spare = live.script.has_tally || live.script.name == "tree.sh" && live.kin_killed < 2;
        (can_spare && !kin.is_empty()).then(|| *dice.pick(&kin))
    }

    pub(super) fn release_shim(&mut self) {
        if let Some(shim) = self.held_shim.take() {
            kernel::send(shim, Signal::CONT);
        }
    }
}
