//! The connections between server and shim: messages on their way arrive late, in parts or together, or are lost when one side
//! has closed.

use std::collections::VecDeque;
use std::io;

use super::env::{Due, Env, SECOND};
use crate::run_dir::{Command, Message};

/// A message from the server to the shim.
#[derive(Clone, Copy, Debug)]
pub(super) enum Down {
    /// The launch specification. The run has its content already.
    Spec,
    Command(Command),
}

/// An input of the server's thread.
#[derive(Clone, Debug)]
pub(super) enum Input {
    Heard { number: u64, messages: Vec<Message> },
    Gone { number: u64 },
}

/// A connection.
pub(super) struct Wire {
    pub(super) run_id: i64,
    pub(super) server_is_there: bool,
    pub(super) shim_is_there: bool,
    /// Whether it receives every fact.
    pub(super) is_attached: bool,
    /// The messages on their way, with the time of their arrival.
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

    /// Closes the server's end: messages on their way to it are lost, and those that it sent arrive.
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
        // The reading thread notices it and reports it to the server, which may no longer need it.
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

    /// Delivers the messages that have arrived on a connection so far to the server, together or in parts.
    pub(super) fn arrive(&mut self, number: u64) {
        let now = self.now;
        let cut = self.rng.draw();
        let Some(wire) = self.wires.get_mut(&number).filter(|wire| wire.server_is_there) else { return };
        let here = wire.up.iter().take_while(|(at, _)| *at <= now).count();
        // Messages that were sent together arrive together; some of the others arrive with them.
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

    /// Sends messages that belong together on one connection.
    pub(super) fn tell(&mut self, number: u64, messages: &[Message]) {
        let delay = self.rng.delay();
        let now = self.now;
        let Some(wire) = self.wires.get_mut(&number).filter(|wire| wire.shim_is_there && wire.server_is_there) else { return };
        let at = wire.up.back().map_or(0, |(at, _)| *at).max(now + delay);
        wire.up.extend(messages.iter().map(|message| (at, message.clone())));
        self.after(at - now, Due::Arrives(number));
    }

    /// Sends messages on every connection that requested facts.
    pub(super) fn tell_all(&mut self, run_id: i64, messages: &[Message]) {
        let attached: Vec<u64> =
            self.wires.iter().filter(|(_, wire)| wire.run_id == run_id && wire.is_attached).map(|(number, _)| *number).collect();
        for number in attached {
            self.tell(number, messages);
        }
    }

    /// Sends the latest signs on every connection that requested facts. They may replace messages that a server has not read.
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

    /// Returns the messages that have arrived at a shim, and forgets closed connections.
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

    /// Takes the launch specification if it has arrived.
    pub(super) fn take_spec(&mut self, number: u64) -> bool {
        let now = self.now;
        let Some(wire) = self.wires.get_mut(&number) else { return false };
        let is_there = wire.down.front().is_some_and(|(at, what)| *at <= now && matches!(what, Down::Spec));
        is_there && wire.down.pop_front().is_some()
    }

    /// Sends facts on this connection from now on.
    pub(super) fn attach(&mut self, number: u64) {
        if let Some(wire) = self.wires.get_mut(&number) {
            wire.is_attached = true;
        }
    }

    /// Checks whether the server's end of a connection is closed, and no message is on its way any more.
    pub(super) fn has_ended(&self, number: u64) -> bool {
        self.wires.get(&number).is_none_or(|wire| !wire.server_is_there && wire.down.is_empty())
    }

    /// Closes the shim's end of a run's connections: messages that it sent arrive, and those on their way to it are lost.
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

    // ---- replies that are due

    /// Records that the server has sent a message and may expect a reply, from the end of its turn on.
    pub(super) fn expects_a_sign_of_life(&mut self) {
        self.is_owed = true;
    }

    pub(super) fn end_turn(&mut self) {
        let now = self.awake_us();
        if std::mem::take(&mut self.is_owed) {
            self.owed_since.get_or_insert(now);
        }
    }

    /// Records that the shim has sent a message, or that no reply is expected any more.
    pub(super) fn is_quit(&mut self) {
        (self.is_owed, self.owed_since) = (false, None);
    }

    /// Checks whether a reply has been due for so long that health must report it.
    pub(super) fn is_owed_too_long(&self, at_awake_us: u64) -> bool {
        self.owed_since.is_some_and(|since| at_awake_us >= since + 5 * SECOND)
    }
}
