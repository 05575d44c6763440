//! Where the answer to an action goes.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::error::ActionError;
use super::snapshot::Published;

/// Takes one answer.
pub(super) type ReplyTo = SyncSender<Result<Arc<Published>, ActionError>>;

/// Answers. A client that has hung up does not take its answer; what happened is recorded all the same.
pub(super) fn answer(reply_to: &ReplyTo, result: Result<Arc<Published>, ActionError>) {
    let _client_may_be_gone = reply_to.try_send(result);
}
