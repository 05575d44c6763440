//! A mutex with a time limit on waiting.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::lock::lock;

#[derive(Debug, Default)]
pub(super) struct Turnstile {
    is_taken: Mutex<bool>,
    freed: Condvar,
}

impl Turnstile {
    /// Waits for its turn, for `limit` at most. Returns `None` if the time runs out. Dropping the result frees the turnstile.
    pub(super) fn enter(&self, limit: Duration) -> Option<Passage<'_>> {
        let waited = self.freed.wait_timeout_while(lock(&self.is_taken), limit, |is_taken| *is_taken);
        let (mut is_taken, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (!std::mem::replace(&mut *is_taken, true)).then(|| Passage(self))
    }
}

/// While it exists, no other thread can pass.
#[derive(Debug)]
pub(super) struct Passage<'a>(&'a Turnstile);

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        *lock(&self.0.is_taken) = false;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_passes_at_a_time_and_the_next_one_once_it_has_left() {
        let turnstile = Turnstile::default();
        let first = turnstile.enter(Duration::ZERO).expect("it is free");
        assert!(turnstile.enter(Duration::ZERO).is_none());
        assert!(turnstile.enter(Duration::from_millis(1)).is_none(), "whoever was refused has not taken it");
        std::thread::scope(|scope| {
            let next = scope.spawn(|| turnstile.enter(Duration::from_secs(60)).is_some());
            drop(first);
            assert!(next.join().expect("it only waits"));
        });
        assert!(turnstile.enter(Duration::ZERO).is_some());
    }
}
