//! Tracks whether the supervisor's thread is working on an event or waiting for the disk.
//!
//! A thread that does not answer is hung, unless it waits for the kernel: a disk that takes a minute for a sync is not the
//! server's fault, and a new server would wait for the same disk. So the thread records when it begins a call that reads or
//! writes files, and the liveness check allows more time for such a call. (Calls to sockets and processes have their own limits.)
//! The time is limited: a call that never returns justifies a new server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Clock, SystemClock, whole_ms};

/// The time at which the thread's current call to the disk began.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// In awake time, in milliseconds plus one; 0 outside of a call.
    since_ms: AtomicU64,
}

impl Pulse {
    /// Returns how long the thread's current call has lasted; `None` outside of a call.
    pub(super) fn in_storage_for(&self) -> Option<Duration> {
        let since_ms = self.since_ms.load(Ordering::Acquire).checked_sub(1)?;
        Some(SystemClock.awake().saturating_sub(Duration::from_millis(since_ms)))
    }

    /// Records that a call to the disk begins. It lasts until the result is dropped, even by a panic.
    pub(super) fn begin_storage(&self) -> InStorage<'_> {
        self.since_ms.store(whole_ms(SystemClock.awake()) + 1, Ordering::Release);
        InStorage(&self.since_ms)
    }
}

/// A guard of a call to the disk.
pub(super) struct InStorage<'a>(&'a AtomicU64);

impl Drop for InStorage<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::{Arc, mpsc};

    use super::*;
    use crate::store::{Store, Writer};
    use crate::supervisor::{Handle, Snapshot, Watch};

    #[test]
    fn thread_waiting_for_the_disk_gets_a_longer_limit() {
        let row = Store::in_memory().row().expect("a row");
        let watch = Arc::new(Watch::new(Snapshot::new(&row, None, None)));
        // The thread handles no event.
        let (events, _queue) = mpsc::channel();
        let handle =
            Handle { events, writer: Writer::new(|_| false), watch, usage_followers: Arc::default(), pulse: Arc::default() };
        let hour = Duration::from_hours(1);
        assert!(!handle.is_alive(Duration::ZERO, hour), "it does not answer, and no disk is at fault");
        let call = handle.pulse.begin_storage();
        assert!(handle.is_alive(Duration::ZERO, hour));
        assert!(!handle.is_alive(Duration::ZERO, Duration::ZERO), "not for ever");
        drop(call);
        assert!(!handle.is_alive(Duration::ZERO, hour));
    }

    #[test]
    fn pulse_reports_a_call_while_it_lasts_and_not_after_a_panic() {
        let pulse = Pulse::default();
        assert_eq!(pulse.in_storage_for(), None);
        let call = pulse.begin_storage();
        assert!(pulse.in_storage_for().is_some());
        drop(call);
        assert_eq!(pulse.in_storage_for(), None);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _call = pulse.begin_storage();
            panic!("as a test wants it")
        }));
        assert!(panicked.is_err() && pulse.in_storage_for().is_none());
    }
}
