//! Waiting for lines of the log on behalf of a request that is not a stream.

use std::time::{Duration, Instant};

use super::streams::Streams;
use crate::transport::Client;

/// The result of a scan for the lines that a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The scan found them.
    Yes,
    /// Not found yet. A wake-up follows.
    NotYet,
    /// Not found yet, and a wake-up may not follow: scan again after this time.
    AgainAfter(Duration),
}

impl Streams {
    /// Waits until `scan` finds what a request asks for.
    ///
    /// The wait lasts at most `limit`. It also ends at [`Streams::check`] or [`Streams::hurry`] if `ends` then returns true. If
    /// too many requests already wait, this one does not wait, and the requests whose clients have left end their waits.
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
            // Taken before the scan, so that a later change ends the wait.
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
