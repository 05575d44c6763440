//! A mutex with a time limit on waiting.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::lock::lock;

#[derive(Debug, Default)]
pub(super) struct TimedMutex {
    is_taken: Mutex<bool>,
    freed: Condvar,
}

impl TimedMutex {
    /// Waits for a turn, at most for `limit` and only until `ends` returns true. Returns `None` if it did not get one. Dropping
    /// the result frees the turnstile.
    pub(super) fn enter(&self, limit: Duration, ends: &dyn Fn() -> bool) -> Option<TimedMutexGuard<'_>> {
        let waited = self.freed.wait_timeout_while(lock(&self.is_taken), limit, |is_taken| *is_taken && !ends());
        let (mut is_taken, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (!std::mem::replace(&mut *is_taken, true)).then(|| TimedMutexGuard(self))
    }

    /// Wakes the threads that wait, because one of them ends its wait.
    pub(super) fn hurry(&self) {
        // A waiting thread holds the lock from its check until it waits, so it cannot miss this call.
        drop(lock(&self.is_taken));
        self.freed.notify_all();
    }
}

/// A turn. While it exists, no other thread gets one.
#[derive(Debug)]
pub(super) struct TimedMutexGuard<'a>(&'a TimedMutex);

impl Drop for TimedMutexGuard<'_> {
    fn drop(&mut self) {
        *lock(&self.0.is_taken) = false;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn turnstile_admits_one_at_a_time() {
        let turnstile = TimedMutex::default();
        let first = turnstile.enter(Duration::ZERO, &|| false).expect("it is free");
        assert!(turnstile.enter(Duration::ZERO, &|| false).is_none());
        assert!(turnstile.enter(Duration::from_millis(1), &|| false).is_none(), "whoever was refused has not taken it");
        std::thread::scope(|scope| {
            let next = scope.spawn(|| turnstile.enter(Duration::from_secs(60), &|| false).is_some());
            drop(first);
            assert!(next.join().expect("it only waits"));
        });
        assert!(turnstile.enter(Duration::ZERO, &|| false).is_some());
    }

    #[test]
    fn login_that_yields_while_waiting_is_refused_at_once() {
        let (turnstile, is_asked, gives_way) = (TimedMutex::default(), AtomicBool::new(false), AtomicBool::new(false));
        let first = turnstile.enter(Duration::ZERO, &|| false).expect("it is free");
        // Called with the lock held, which becomes free once the thread waits.
        let ends = || {
            is_asked.store(true, Ordering::SeqCst);
            gives_way.load(Ordering::SeqCst)
        };
        let enter = || turnstile.enter(Duration::from_hours(1), &ends);
        std::thread::scope(|scope| {
            let next = scope.spawn(|| enter().is_none());
            while !is_asked.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            drop(lock(&turnstile.is_taken));
            gives_way.store(true, Ordering::SeqCst);
            turnstile.hurry();
            assert!(next.join().expect("it only waits"));
        });
        drop(first);
        assert!(turnstile.enter(Duration::ZERO, &|| true).is_some(), "a turn that is free is not refused");
    }
}
