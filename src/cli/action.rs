//! The requests that act on the pipeline. Each has an `Idempotency-Key`, so that it can be repeated when its answer is lost.

use std::time::Duration;

use serde::Serialize;

use super::client::{Answer, Client, ClientError};
use crate::api::routes::Route;
use crate::random;

/// Sends an action under `key`, or else under a random one. If the connection breaks before the answer, it is sent once more: the server does
/// nothing twice under one key, and tells what came of the first.
pub(super) fn post(
    client: &Client,
    route: Route,
    body: &impl Serialize,
    key: Option<&str>,
    timeout: Duration,
) -> Result<Answer, ClientError> {
    // Without random bytes it is sent once.
    let key = key.map(str::to_owned).or_else(|| random::id().ok());
    let ask = || client.post(&route.path(), body, key.as_deref(), timeout);
    match ask() {
        Err(lost @ ClientError::NoAnswer { is_late: false, .. }) if key.is_some() => match ask() {
            // The server is gone, and what it did before is not known here.
            Err(error) if error.is_unreached() => Err(lost),
            answered => answered,
        },
        answered => answered,
    }
}
