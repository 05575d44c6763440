//! The waker of the followers: one count of all changes, and one condition variable to wait on.

use crate::lock::lock;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The count of changes: a publication, growth of the log, or a request to check clients.
#[derive(Debug, Default)]
pub(super) struct Waker {
    news: Mutex<News>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct News {
    count: u64,
    is_closing: bool,
}

/// The changes that a follower has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen(u64);

impl Waker {
    /// Returns the changes so far. Called before reading what has changed.
    pub(super) fn seen(&self) -> Seen {
        Seen(lock(&self.news).count)
    }

    /// Counts a change and wakes the followers.
    pub(super) fn wake(&self) {
        lock(&self.news).count += 1;
        self.changed.notify_all();
    }

    /// Ends all waits, because the server stops and no change follows.
    pub(super) fn close(&self) {
        lock(&self.news).is_closing = true;
        self.changed.notify_all();
    }

    /// Waits for a change after `seen`, for at most `limit`, and not beyond [`Waker::close`]. Returns false once the server
    /// stops.
    pub(super) fn wait(&self, seen: Seen, limit: Duration) -> bool {
        let has_none = |news: &mut News| Seen(news.count) == seen && !news.is_closing;
        let waited = self.changed.wait_timeout_while(lock(&self.news), limit, has_none);
        !waited.unwrap_or_else(PoisonError::into_inner).0.is_closing
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn waker_ends_wait_if_woken_since_last_seen() {
        let waker = Waker::default();
        let seen = waker.seen();
        assert!(waker.wait(seen, Duration::ZERO), "nothing new is no end");
        waker.wake();
        let began = Instant::now();
        assert!(waker.wait(seen, LONG) && began.elapsed() < LONG, "it came between the two");
        let seen = waker.seen();
        thread::scope(|scope| {
            let waits = scope.spawn(|| waker.wait(seen, LONG));
            waker.wake();
            assert!(waits.join().expect("no panic"));
        });
        assert!(began.elapsed() < LONG);
    }

    #[test]
    fn closed_waker_ends_all_waits() {
        let waker = Waker::default();
        let began = Instant::now();
        thread::scope(|scope| {
            let waits = scope.spawn(|| waker.wait(waker.seen(), LONG));
            waker.close();
            assert!(!waits.join().expect("no panic"));
        });
        assert!(!waker.wait(waker.seen(), LONG) && began.elapsed() < LONG, "and who comes later does not begin to wait");
    }
}
