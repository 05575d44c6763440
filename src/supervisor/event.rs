//! What wakes the supervisor's thread.

use std::sync::mpsc::SyncSender;

use super::ask::{Ask, ReplyTo};
use super::shims::ConnectionNumber;
use crate::api::pipeline::IfRun;
use crate::pipeline::Origin;
use crate::run_dir::Message;
use crate::store::{RequestKey, Work};

/// What the thread takes in.
pub(super) enum Event {
    Act {
        ask: Ask,
        if_run: IfRun,
        key: Option<RequestKey>,
        origin: Origin,
        reply_to: ReplyTo,
    },
    FromShim {
        number: ConnectionNumber,
        messages: Vec<Message>,
    },
    ShimGone {
        number: ConnectionNumber,
    },
    /// Another thread wants this done to the database.
    Work(Box<dyn Work>),
    /// Somebody asks whether the thread runs.
    Ping {
        reply_to: SyncSender<()>,
    },
    /// Somebody looks at what the run uses.
    Look,
    Stop,
}
