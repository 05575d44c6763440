//! The wait of a request for a change: how long it may be, and what ends it early.

use std::time::Duration;

use super::app::App;
use super::auth::Caller;
use crate::transport::Client;

/// The wait of a long poll that sets none, in seconds.
pub(super) const WAIT_S_DEFAULT: u64 = 30;
/// The longest wait if no thread can be created for the client. It is not zero, because a client that asked again at once would
/// keep the thread from others.
const WAIT_LENT_MAX: Duration = Duration::from_secs(1);

/// The wait of one request. It ends early with the session that the request presents, or when a new connection needs the slot.
pub(super) struct LongPoll<'a> {
    app: &'a App,
    caller: Option<&'a Caller>,
    client: &'a Client<'a>,
}

impl<'a> LongPoll<'a> {
    pub(super) fn new(app: &'a App, caller: Option<&'a Caller>, client: &'a Client<'a>) -> Self {
        Self { app, caller, client }
    }

    /// Returns how long a request for a wait of `wait_s` seconds may wait: less if other connections wait for its thread, or if
    /// its session expires earlier. Nothing else wakes the thread when a session expires.
    pub(super) fn limit(&self, wait_s: u64) -> Duration {
        let limit = if self.client.has_thread() { Duration::MAX } else { WAIT_LENT_MAX };
        let session = self.caller.and_then(|caller| caller.session.as_deref());
        let lasts = session.map_or(Duration::MAX, |session| self.app.authenticator.lasts(session));
        Duration::from_secs(wait_s).min(limit).min(lasts)
    }

    /// Checks whether the request must not wait any longer. The router then answers with 401 if the session has ended.
    pub(super) fn ends(&self) -> bool {
        let session = self.caller.and_then(|caller| caller.session.as_deref());
        self.client.gives_way() || session.is_some_and(|session| self.app.authenticator.is_over(session))
    }

    pub(super) fn client(&self) -> &Client<'a> {
        self.client
    }

    /// Calls `wait`, which must return soon after it was woken and [`Self::ends`] returns true.
    pub(super) fn idle<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.client.idle(wait)
    }
}
