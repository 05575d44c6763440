//! The connections between server and shim: what is on its way, late, in parts, together, or lost when one side is gone.

use std::collections::VecDeque;
use std::io;

use super::env::{Due, Env, SECOND};
use crate::run_dir::{Command, Message};

/// What goes down.
#[derive(Clone, Copy, Debug)]
pub(super) enum Down {
    /// The launch specification; the run has it already.
    Spec,
    Command(Command),
}

/// What the server's thread takes in.
#[derive(Clone, Debug)]
pub(super) enum Input {
    Heard { number: u64, messages: Vec<Message> },
    Gone { number: u64 },
}

/// One connection.
pub(super) struct Wire {
    pub(super) run_id: i64,
    pub(super) server_is_there: bool,
    pub(super) shim_is_there: bool,
    /// Gets every fact.
    pub(super) is_attached: bool,
    /// With the moment of arrival.
    down: VecDeque<(u64, Down)>,
    up: VecDeque<(u64, Message)>,
    has_told_its_end: bool,
}

impl Env {
    pub(super) fn open_wire(&mut self, run_id: i64, is_attached: bool) -> u64 {
        let number = self.next_wire;
        self.next_wire += 1;
        let (down, up) = (VecDeque::new(), VecDeque::new());
        let wire = Wire { run_id, server_is_there: true, shim_is_there: true, is_attached, down, up, has_told_its_end: false };
        self.wires.insert(number, wire);
        self.soon(Due::Turn(run_id));
        number
    }

    // ---- the server's end

    pub(super) fn send_down(&mut self, number: u64, what: Down) -> io::Result<()> {
        let delay = self.rng.delay();
        let Some(wire) = self.wires.get_mut(&number).filter(|wire| wire.shim_is_there && wire.server_is_there) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let at = wire.down.back().map_or(0, |(at, _)| *at).max(self.now + delay);
        wire.down.push_back((at, what));
        let run_id = wire.run_id;
        self.after(at - self.now, Due::Turn(run_id));
        if matches!(what, Down::Command(_)) && self.mishap(self.temper.cuts) {
            self.soon(Due::Cuts(number));
        }
        Ok(())
    }

    /// The server hangs up: what was on its way to it is lost, what it sent arrives.
    pub(super) fn let_go(&mut self, number: u64) {
        let Some(wire) = self.wires.get_mut(&number).filter(|wire| wire.server_is_there) else { return };
        wire.server_is_there = false;
        self.wires_lost += 1;
        let is_loss = !wire.up.is_empty();
        wire.up.clear();
        let run_id = wire.run_id;
        if is_loss {
            self.cover("messages on their way up were lost");
        }
        self.soon(Due::Turn(run_id));
        // The thread that reads notices, and says so to whoever may not care any more.
        self.hand_in(Input::Gone { number });
    }

    pub(super) fn server_dies(&mut self) {
        let open: Vec<u64> = self.wires.iter().filter(|(_, wire)| wire.server_is_there).map(|(number, _)| *number).collect();
        for number in open {
            self.let_go(number);
        }
        self.inbox.clear();
        self.is_quit();
    }

    /// What came up on a connection so far reaches the server, together or in parts.
    pub(super) fn arrive(&mut self, number: u64) {
        let now = self.now;
        let cut = self.rng.draw();
        let Some(wire) = self.wires.get_mut(&number).filter(|wire| wire.server_is_there) else { return };
        let here = wire.up.iter().take_while(|(at, _)| *at <= now).count();
        // What was sent together arrives together; of the rest, some.
        let first = wire.up.front().map_or(0, |(at, _)| *at);
        let together = wire.up.iter().take_while(|(at, _)| *at == first).count();
        let count = if cut.is_multiple_of(3) { together.min(here) } else { here };
        let messages: Vec<Message> = wire.up.drain(..count).map(|(_, message)| message).collect();
        let next_at = wire.up.front().map(|(at, _)| *at);
        let ends = wire.up.is_empty() && !wire.shim_is_there && !wire.has_told_its_end;
        wire.has_told_its_end |= ends;
        if messages.len() > 1 {
            self.cover("several messages arrived together");
        }
        if !messages.is_empty() {
            self.hand_in(Input::Heard { number, messages });
        }
        if let Some(at) = next_at {
            self.after(at.saturating_sub(now), Due::Arrives(number));
        }
        if ends {
            self.hand_in(Input::Gone { number });
        }
    }

    fn hand_in(&mut self, input: Input) {
        let longest = self.rng.pick(&[50, 50, 200, 2_000, 20_000]);
        let delay = self.rng.below(longest);
        let ready = self.inbox.back().map_or(0, |(ready, _)| *ready).max(self.now + delay);
        self.inbox.push_back((ready, input));
    }

    // ---- the shim's end

    /// Sends to one connection what belongs together.
    pub(super) fn tell(&mut self, number: u64, messages: &[Message]) {
        let delay = self.rng.delay();
        let now = self.now;
        let Some(wire) = self.wires.get_mut(&number).filter(|wire| wire.shim_is_there && wire.server_is_there) else { return };
        let at = wire.up.back().map_or(0, |(at, _)| *at).max(now + delay);
        wire.up.extend(messages.iter().map(|message| (at, message.clone())));
        self.after(at - now, Due::Arrives(number));
    }

    /// Sends to every connection that asked for facts.
    pub(super) fn tell_all(&mut self, run_id: i64, messages: &[Message]) {
        let attached: Vec<u64> =
            self.wires.iter().filter(|(_, wire)| wire.run_id == run_id && wire.is_attached).map(|(number, _)| *number).collect();
        for number in attached {
            self.tell(number, messages);
        }
    }

    /// Says how everything is now to every connection that asked for facts. What a server has not read may give way to it.
    pub(super) fn tell_latest(&mut self, run_id: i64, latest: &Message) {
        let (now, gives_way) = (self.now, self.rng.chance(300));
        let mut is_loss = false;
        for wire in self.wires.values_mut().filter(|wire| wire.run_id == run_id && wire.is_attached && gives_way) {
            let before = wire.up.len();
            wire.up.retain(|(at, message)| *at <= now || !matches!(message, Message::Signs(_)));
            is_loss |= wire.up.len() < before;
        }
        if is_loss {
            self.cover("signs gave way to newer ones");
        }
        self.tell_all(run_id, std::slice::from_ref(latest));
    }

    /// What has arrived at a shim; who hung up is forgotten.
    pub(super) fn take_down(&mut self, run_id: i64) -> Vec<(u64, Down)> {
        let now = self.now;
        let mut taken = Vec::new();
        let mut is_posthumous = false;
        for (number, wire) in self.wires.iter_mut().filter(|(_, wire)| wire.run_id == run_id && wire.shim_is_there) {
            let arrived = wire.down.iter().take_while(|(at, _)| *at <= now).count();
            is_posthumous |= arrived > 0 && !wire.server_is_there;
            taken.extend(wire.down.drain(..arrived).map(|(_, what)| (*number, what)));
            wire.shim_is_there = wire.server_is_there || !wire.down.is_empty();
        }
        if is_posthumous {
            self.cover("a command was obeyed after its server had hung up");
        }
        taken
    }

    /// The launch specification, once it is there.
    pub(super) fn take_spec(&mut self, number: u64) -> bool {
        let now = self.now;
        let Some(wire) = self.wires.get_mut(&number) else { return false };
        let is_there = wire.down.front().is_some_and(|(at, what)| *at <= now && matches!(what, Down::Spec));
        is_there && wire.down.pop_front().is_some()
    }

    /// From now on this connection gets facts.
    pub(super) fn attach(&mut self, number: u64) {
        if let Some(wire) = self.wires.get_mut(&number) {
            wire.is_attached = true;
        }
    }

    /// Whether the server's end of a connection is closed, and nothing is on its way any more.
    pub(super) fn has_ended(&self, number: u64) -> bool {
        self.wires.get(&number).is_none_or(|wire| !wire.server_is_there && wire.down.is_empty())
    }

    /// The shim's end of a run's connections closes: what was sent arrives, what had come for it is lost.
    pub(super) fn break_wires(&mut self, run_id: i64) {
        let numbers: Vec<u64> = self
            .wires
            .iter()
            .filter(|(_, wire)| wire.run_id == run_id && wire.shim_is_there)
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            self.break_wire(number);
        }
    }

    pub(super) fn break_wire(&mut self, number: u64) {
        let now = self.now;
        let Some(wire) = self.wires.get_mut(&number) else { return };
        wire.shim_is_there = false;
        self.wires_lost += 1;
        let is_loss = !wire.down.is_empty();
        wire.down.clear();
        let last = wire.up.back().map_or(now, |(at, _)| *at);
        if is_loss {
            self.cover("a command was lost with its connection");
        }
        self.after(last.saturating_sub(now), Due::Arrives(number));
    }

    // ---- what the server owes and is owed

    /// The server has said something and may expect an answer, from the end of its turn on.
    pub(super) fn expects_a_sign_of_life(&mut self) {
        self.is_owed = true;
    }

    pub(super) fn end_turn(&mut self) {
        let now = self.awake_us();
        if std::mem::take(&mut self.is_owed) {
            self.owed_since.get_or_insert(now);
        }
    }

    /// The shim has said something, or is not spoken to any more.
    pub(super) fn is_quit(&mut self) {
        (self.is_owed, self.owed_since) = (false, None);
    }

    /// Whether a sign of life has been owed for as long as health must say so.
    pub(super) fn is_owed_too_long(&self, at_awake_us: u64) -> bool {
        self.owed_since.is_some_and(|since| at_awake_us >= since + 5 * SECOND)
    }
}
