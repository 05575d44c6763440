//! Handles the messages of the shim, and the loss of its connection.
//!
//! If killed here: facts that were received and not committed are in the journal, and the next boot records them.

use super::parts::Conductor;
use crate::clock::Clock;
use crate::pipeline::{Found, Refusal, RunStatus};
use crate::run_dir::{Message, Reply, ReplyError};
use crate::supervisor::error::ActionError;
use crate::supervisor::records::Records;
use crate::supervisor::shims::{ConnectionNumber, Finding, Shims};

impl<R: Records, S: Shims, C: Clock> Conductor<R, S, C> {
    /// Handles messages that arrived together.
    pub(in crate::supervisor) fn hear(&mut self, number: ConnectionNumber, messages: Vec<Message>) {
        if !self.link.is_connection(number) {
            return;
        }
        self.link.hear();
        let run_id = self.ledger.run().map(|run| run.id);
        let mut entries = self.ledger.unrecorded.clone();
        let mut replies = Vec::new();
        let mut is_noted = false;
        for message in messages {
            match message {
                Message::Fact(entry) if entries.last().is_none_or(|last| last.seq < entry.seq) => entries.push(entry),
                // Kept already: it was sent again on a new connection.
                Message::Fact(_) => {}
                Message::Reply(reply) => replies.push(reply),
                Message::Signs(told) => is_noted |= run_id.is_some_and(|run_id| self.signs.hear(run_id, told)),
                // Only the retention thread needs it.
                Message::Rotated(_) => {}
            }
        }
        self.show_conditions();
        // Signs are taken before the facts that came with them, so that a client that waits for a fact sees both.
        let version = self.ledger.row.version;
        if let Err(error) = self.record_or_keep(entries) {
            return self.forget_and_retry(&error);
        }
        if is_noted && self.ledger.row.version == version {
            self.tell_that_something_changed();
        }
        // If a fact came with the signs, they were published with it.
        self.show_signs();
        for reply in replies {
            self.hear_reply(reply);
        }
    }

    fn hear_reply(&mut self, reply: Reply) {
        let Some(error) = reply.error else { return };
        let Some(under_way) = self.in_flight.take_refused(reply.reply) else { return };
        let detail = reply.detail.unwrap_or_else(|| "the run's own process refused".to_owned());
        let action = under_way.pending.action();
        ::log::warn!("{action} was not done: {detail}");
        // Before the answer, so that the client then sees this state.
        self.tell_that_something_changed();
        let from = self.ledger.known_state();
        under_way.answer_all(|| {
            Err(match error {
                ReplyError::PauseTimeout => ActionError::PauseTimeout(detail.clone()),
                ReplyError::ResumeFailed => ActionError::ResumeFailed(detail.clone()),
                ReplyError::NotNow => ActionError::Refused(Refusal { from, action, pending: None }),
                ReplyError::UnknownCommand | ReplyError::Other => ActionError::Shim(detail.clone()),
            })
        });
    }

    /// Handles a broken connection: the shim exited, died, or was cut off.
    pub(in crate::supervisor) fn lose_shim(&mut self, number: ConnectionNumber) {
        if !self.link.is_connection(number) {
            return;
        }
        let may_add = self.ledger.run().filter(|run| run.status != RunStatus::Lost);
        let finding = may_add.map(|run| self.link.shims.find(run.id));
        if let Some(Ok(Finding { found: Found::ShimAlive, .. })) = finding {
            // A process that dies closes its connections a little before its lock is released. If it is alive, a later attempt
            // can reach it as well.
            self.let_go();
            self.fall_silent();
        } else {
            self.let_go_and_look();
        }
    }
}
