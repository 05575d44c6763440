//! Requests that act on the pipeline. Each has an `Idempotency-Key`, so that it can be repeated if its answer is lost.

use std::time::Duration;

use serde::Serialize;

use super::client::{Answer, Client, ClientError};
use crate::api::routes::Route;
use crate::api::version::VersionResponse;
use crate::random;

/// Sends an action under `key`, or under a random key.
///
/// If the connection breaks before the answer arrives, it is sent once more to a server that supports keys. Under one key, the
/// server acts once, and answers the repeat with the result of the first request.
pub(super) fn post(
    client: &Client,
    route: Route,
    body: &impl Serialize,
    key: Option<&str>,
    timeout: Duration,
) -> Result<Answer, ClientError> {
    // Without random bytes, it is sent only once.
    let key = key.map(str::to_owned).or_else(|| random::id().ok());
    let ask = || client.post(&route.path(), body, key.as_deref(), timeout);
    match ask() {
        Err(lost @ ClientError::NoAnswer { is_late: false, .. }) if key.is_some() && takes_keys(client) => match ask() {
            // The server is gone, is ending or did not process the repeat, so the result of the first request stays unknown.
            Err(error) if error.may_pass() => Err(lost),
            answered => answered,
        },
        answered => answered,
    }
}

/// Checks whether the server supports keys. An earlier version ignores them, and would carry out the repeat too.
fn takes_keys(client: &Client) -> bool {
    let version = client.get(&Route::Version.path()).and_then(|answer| answer.read::<VersionResponse>());
    version.is_ok_and(|version| version.takes_keys)
}
