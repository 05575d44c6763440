//! The actions that clients request, and the channel for the result.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use super::error::ActionError;
use super::snapshot::Published;
use crate::pipeline::Action;

/// An action that a client requests.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Begin a run.
    Start(StartRequest),
    /// Pause the run.
    Pause,
    /// Resume the run.
    Resume,
    /// End the run.
    Stop {
        /// The time from TERM to KILL; `None` means the run's own.
        grace: Option<Duration>,
    },
}

impl Ask {
    /// Returns the action without its parameters.
    pub const fn action(&self) -> Action {
        match self {
            Self::Start(_) => Action::Start,
            Self::Pause => Action::Pause,
            Self::Resume => Action::Resume,
            Self::Stop { .. } => Action::Stop,
        }
    }
}

/// The parameters of a start. Each has a default.
#[derive(Clone, Debug, Default)]
pub struct StartRequest {
    /// The script, by its name in the root.
    pub script: Option<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// The working directory, in the root.
    pub cwd: Option<String>,
    /// The variables that are added to its environment.
    pub env: BTreeMap<String, String>,
    /// The grace of a stop that sets none.
    pub grace: Option<Duration>,
}

/// The channel for one result.
pub(super) type ReplyTo = SyncSender<Result<Arc<Published>, ActionError>>;

/// Sends a result. A client that has disconnected does not receive it; the action is recorded all the same.
pub(super) fn answer(reply_to: &ReplyTo, result: Result<Arc<Published>, ActionError>) {
    let _client_may_be_gone = reply_to.try_send(result);
}
