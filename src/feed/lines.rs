//! Waits for lines of the log on behalf of a request that is no stream.

use std::time::{Duration, Instant};

use super::streams::Streams;
use crate::transport::Client;

/// What a scan for what a request waits for has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It.
    Yes,
    /// Nothing yet: there will be news.
    NotYet,
    /// Nothing yet, and no news may come of it: to be scanned again after this.
    AgainAfter(Duration),
}

impl Streams {
    /// Waits until the log has what a request asks for, as `scan` tells, at most for `limit`, and not beyond [`Streams::check`] or
    /// [`Streams::hurry`] where `ends` says so then. Where too many wait already it does not wait, and requests whose clients are gone end
    /// their wait.
    pub fn wait_for_lines<E>(
        &self,
        limit: Duration,
        client: &Client<'_>,
        ends: &dyn Fn() -> bool,
        mut scan: impl FnMut() -> Result<Found, E>,
    ) -> Result<(), E> {
        let deadline = Instant::now() + limit;
        let follower = self.log_watch.follow();
        let (_slot, is_crowded) = self.slots.begin_to_wait(client);
        let mut checked = self.slots.checked();
        loop {
            // Taken before the scan: what comes after it ends the wait.
            let seen = self.waker.seen();
            let is_left = self.slots.is_check_due(&mut checked) && client.is_left();
            if is_left || ends() {
                return Ok(());
            }
            let scan_again = follower.watch_run(self.supervisor.watch().get().snapshot.run_id);
            let left = deadline.saturating_duration_since(Instant::now());
            if is_crowded || left.is_zero() {
                return Ok(());
            }
            let wait = match scan()? {
                Found::Yes => return Ok(()),
                Found::NotYet => left,
                Found::AgainAfter(limit) => limit.min(left),
            };
            if !self.waker.wait(seen, scan_again.map_or(wait, |scan_again| scan_again.min(wait))) {
                return Ok(());
            }
        }
    }
}
