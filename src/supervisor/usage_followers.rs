//! Counts the clients that follow a run's resource usage. While there are any, the server notifies the shim, which then measures
//! more often.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The clients that follow the usage.
#[derive(Debug, Default)]
pub(super) struct UsageFollowers {
    following: AtomicUsize,
    has_asked: AtomicBool,
}

impl UsageFollowers {
    /// Adds a client, until the returned guard is dropped.
    pub(super) fn follow(self: &Arc<Self>) -> Looking {
        self.following.fetch_add(1, Ordering::SeqCst);
        Looking(self.clone())
    }

    /// Records a single request.
    pub(super) fn ask(&self) {
        self.has_asked.store(true, Ordering::SeqCst);
    }

    /// Checks whether a client follows, or has asked since the shim was last notified.
    pub(super) fn is_any(&self) -> bool {
        self.following.load(Ordering::SeqCst) > 0 || self.has_asked.load(Ordering::SeqCst)
    }

    /// Records that the shim was notified.
    pub(super) fn are_told(&self) {
        self.has_asked.store(false, Ordering::SeqCst);
    }
}

/// A guard that counts as one following client.
#[derive(Debug)]
pub struct Looking(Arc<UsageFollowers>);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.following.fetch_sub(1, Ordering::SeqCst);
    }
}
