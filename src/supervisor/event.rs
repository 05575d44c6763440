//! The events that wake the supervisor's thread.

use std::sync::mpsc::SyncSender;

use super::ask::{Ask, ReplyTo};
use super::shims::ConnectionNumber;
use crate::api::pipeline::ExpectedRun;
use crate::pipeline::Origin;
use crate::run_dir::Message;
use crate::store::{RequestKey, Work};

/// An event for the supervisor's thread.
pub(super) enum Event {
    Act {
        ask: Ask,
        if_run: ExpectedRun,
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
    /// Another thread hands over a change of the database.
    Work(Box<dyn Work>),
    /// Another thread checks whether this one is alive.
    Ping {
        reply_to: SyncSender<()>,
    },
    /// A client follows the resource usage or asks for it.
    Look,
    Stop,
}
