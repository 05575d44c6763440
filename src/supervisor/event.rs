//! What wakes the supervisor's thread.

use std::sync::mpsc::SyncSender;

use super::ask::Ask;
use super::reply::ReplyTo;
use super::shims::ConnectionNumber;
use crate::run_dir::Message;

/// What the thread takes in.
#[derive(Debug)]
pub(super) enum Event {
    Act {
        ask: Ask,
        reply_to: ReplyTo,
    },
    FromShim {
        number: ConnectionNumber,
        messages: Vec<Message>,
    },
    ShimGone {
        number: ConnectionNumber,
    },
    /// The directories of these runs are gone, because they are kept no longer: their rows go, too.
    Forget {
        ids: Vec<i64>,
    },
    /// Somebody asks whether the thread runs.
    Ping {
        reply_to: SyncSender<()>,
    },
    Stop,
}
