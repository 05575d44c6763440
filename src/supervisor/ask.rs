//! What clients ask of the supervisor, and where the answer goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use super::error::ActionError;
use super::snapshot::Published;
use crate::pipeline::Action;

/// What a client asks for.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Begin a run.
    Start(StartRequest),
    /// Pause it.
    Pause,
    /// Let it go on.
    Resume,
    /// End it.
    Stop {
        /// From TERM to KILL; the run's own where none is named.
        grace: Option<Duration>,
    },
}

impl Ask {
    /// The action's word.
    pub const fn action(&self) -> Action {
        match self {
            Self::Start(_) => Action::Start,
            Self::Pause => Action::Pause,
            Self::Resume => Action::Resume,
            Self::Stop { .. } => Action::Stop,
        }
    }
}

/// What a start can say; each thing has a default.
#[derive(Clone, Debug, Default)]
pub struct StartRequest {
    /// The script, by its name in the root.
    pub script: Option<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Where it runs, in the root.
    pub cwd: Option<String>,
    /// Added to its environment.
    pub env: BTreeMap<String, String>,
    /// The grace of a stop that names none.
    pub grace: Option<Duration>,
}

/// Takes one answer.
pub(super) type ReplyTo = SyncSender<Result<Arc<Published>, ActionError>>;

/// Answers. A client that has hung up does not take its answer; what happened is recorded all the same.
pub(super) fn answer(reply_to: &ReplyTo, result: Result<Arc<Published>, ActionError>) {
    let _client_may_be_gone = reply_to.try_send(result);
}
