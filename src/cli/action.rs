//! The requests that act on the pipeline. Each has an `Idempotency-Key`, so that it can be repeated when its answer is lost.

use std::time::Duration;

use serde::Serialize;

use super::client::{Answer, Client, ClientError};
use crate::api::routes::Route;
use crate::api::version::VersionResponse;
use crate::random;

/// Sends an action under `key`, or else under a random one. If the connection breaks before the answer, it is sent once more to a server that
/// takes keys: that does nothing twice under one key, and tells what came of the first.
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
        Err(lost @ ClientError::NoAnswer { is_late: false, .. }) if key.is_some() && takes_keys(client) => match ask() {
            // The server is gone, is ending or did not look: what it did before is not known here.
            Err(error) if error.may_pass() => Err(lost),
            answered => answered,
        },
        answered => answered,
    }
}

/// Whether the server knows keys: an earlier version ignores them, and would do a repeat as well.
fn takes_keys(client: &Client) -> bool {
    let version = client.get(&Route::Version.path()).and_then(|answer| answer.read::<VersionResponse>());
    version.is_ok_and(|version| version.takes_keys)
}
