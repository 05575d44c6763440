//! Who looks at what a run uses: as long as anybody does, its shim is told so, and looks more often.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Lookers {
    following: AtomicUsize,
    has_asked: AtomicBool,
}

impl Lookers {
    /// One more follows, until what is returned is dropped.
    pub(super) fn follow(self: &Arc<Self>) -> Looking {
        self.following.fetch_add(1, Ordering::SeqCst);
        Looking(self.clone())
    }

    /// Somebody has asked once.
    pub(super) fn ask(&self) {
        self.has_asked.store(true, Ordering::SeqCst);
    }

    /// Whether anybody follows, or has asked since the shim was told last.
    pub(super) fn is_any(&self) -> bool {
        self.following.load(Ordering::SeqCst) > 0 || self.has_asked.load(Ordering::SeqCst)
    }

    /// The shim is told.
    pub(super) fn are_told(&self) {
        self.has_asked.store(false, Ordering::SeqCst);
    }
}

/// Somebody follows as long as this is kept.
#[derive(Debug)]
pub struct Looking(Arc<Lookers>);

impl Drop for Looking {
    fn drop(&mut self) {
        self.0.following.fetch_sub(1, Ordering::SeqCst);
    }
}
