//! How long a request may wait for a change.

use std::time::Duration;

use crate::transport::Client;

/// The wait of a long poll that names none, in seconds.
pub(super) const WAIT_S_DEFAULT: u64 = 30;
/// The longest wait if no thread can be created for the client. Not zero: a client that asks again at once would keep the thread from others.
const WAIT_LENT_MAX: Duration = Duration::from_secs(1);

/// How long a request may wait that asks for this many seconds: less if other connections wait for the thread that serves it.
pub(super) fn wait_for(wait_s: u64, client: &Client<'_>) -> Duration {
    let limit = if client.has_thread() { Duration::MAX } else { WAIT_LENT_MAX };
    Duration::from_secs(wait_s).min(limit)
}
