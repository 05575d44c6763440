//! Where the supervisor's thread is: at work on an event, or waiting for the disk.
//!
//! A thread that does not answer is hung, unless it waits for the kernel: a disk that takes a minute for a sync is no fault of the server,
//! and a new server would wait for the same disk. So the thread records when it begins a call that reads or writes files, and the check
//! whether it is alive allows more time for such a call. The time is limited: a call that never returns justifies a new server.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::records::Records;
use super::shims::{ConnectionNumber, Finding, Leftovers, Shims};
use crate::clock::{Clock, SystemClock, Timestamp, whole_ms};
use crate::pipeline::{Entry, Killed, Transition};
use crate::run_dir::{Command, LaunchSpec, NumberedProgress, ProgressError};
use crate::store::{Begun, NewRun, PipelineRow, Recorded, RunRow, StopRow, StoreError, UnseenEnd, Work};

/// Since when the thread waits for the disk.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// In awake time, in milliseconds plus one; 0 while it does not.
    since_ms: AtomicU64,
}

impl Pulse {
    /// How long the thread's current call has lasted; `None` outside of a call.
    pub(super) fn in_storage_for(&self) -> Option<Duration> {
        let since_ms = self.since_ms.load(Ordering::Acquire).checked_sub(1)?;
        Some(SystemClock.awake().saturating_sub(Duration::from_millis(since_ms)))
    }

    fn during<T>(&self, call: impl FnOnce() -> T) -> T {
        /// Clears it even if the call panics.
        struct Done<'a>(&'a AtomicU64);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(0, Ordering::Release);
            }
        }
        self.since_ms.store(whole_ms(SystemClock.awake()) + 1, Ordering::Release);
        let _done = Done(&self.since_ms);
        call()
    }
}

/// The database or the run directories, with each call to them noted.
pub(super) struct Noted<T> {
    inner: T,
    pulse: Arc<Pulse>,
}

impl<T> Noted<T> {
    pub(super) fn new(inner: T, pulse: &Arc<Pulse>) -> Self {
        Self { inner, pulse: pulse.clone() }
    }
}

impl<R: Records> Records for Noted<R> {
    fn row(&self) -> Result<PipelineRow, StoreError> {
        self.pulse.during(|| self.inner.row())
    }

    fn latest_run(&self) -> Result<Option<RunRow>, StoreError> {
        self.pulse.during(|| self.inner.latest_run())
    }

    fn run(&self, id: i64) -> Result<Option<RunRow>, StoreError> {
        self.pulse.during(|| self.inner.run(id))
    }

    fn last_seq(&self, run_id: i64) -> Result<u64, StoreError> {
        self.pulse.during(|| self.inner.last_seq(run_id))
    }

    fn stop_of(&self, run_id: i64) -> Result<Option<StopRow>, StoreError> {
        self.pulse.during(|| self.inner.stop_of(run_id))
    }

    fn log_position_max(&self) -> Result<u64, StoreError> {
        self.pulse.during(|| self.inner.log_position_max())
    }

    fn reserve_run_ids(&mut self, highest: i64) -> Result<(), StoreError> {
        self.pulse.during(|| self.inner.reserve_run_ids(highest))
    }

    fn begin_run(&mut self, new: &NewRun, at: Timestamp) -> Result<Begun, StoreError> {
        self.pulse.during(|| self.inner.begin_run(new, at))
    }

    fn adopt_unknown_run(&mut self, id: i64, new: &NewRun, at: Timestamp) -> Result<Begun, StoreError> {
        self.pulse.during(|| self.inner.adopt_unknown_run(id, new, at))
    }

    fn record_all(&mut self, run_id: i64, facts: &[(Entry, Option<Transition>)]) -> Result<Recorded, StoreError> {
        self.pulse.during(|| self.inner.record_all(run_id, facts))
    }

    fn end_run(
        &mut self,
        run_id: i64,
        end: UnseenEnd,
        at: Timestamp,
        error: &str,
        killed: &Killed,
    ) -> Result<PipelineRow, StoreError> {
        self.pulse.during(|| self.inner.end_run(run_id, end, at, error, killed))
    }

    fn touch(&mut self, at: Timestamp) -> Result<PipelineRow, StoreError> {
        self.pulse.during(|| self.inner.touch(at))
    }

    fn try_writing(&mut self) -> Result<(), StoreError> {
        self.pulse.during(|| self.inner.try_writing())
    }

    fn carry_out(&mut self, work: &mut dyn Work) -> Result<(), StoreError> {
        self.pulse.during(|| self.inner.carry_out(work))
    }
}

/// Calls to sockets and processes have their own limits and are not noted.
impl<S: Shims> Shims for Noted<S> {
    fn launch(&mut self, spec: &LaunchSpec) -> io::Result<ConnectionNumber> {
        self.pulse.during(|| self.inner.launch(spec))
    }

    fn connect(&mut self, run_id: i64) -> io::Result<ConnectionNumber> {
        self.inner.connect(run_id)
    }

    fn send(&mut self, command: &Command) -> io::Result<()> {
        self.inner.send(command)
    }

    fn disconnect(&mut self) {
        self.inner.disconnect();
    }

    fn find(&self, run_id: i64) -> io::Result<Finding> {
        self.pulse.during(|| self.inner.find(run_id))
    }

    fn progress(&self, run_id: i64) -> Result<Option<NumberedProgress>, ProgressError> {
        self.pulse.during(|| self.inner.progress(run_id))
    }

    fn run_ids(&self) -> io::Result<Vec<i64>> {
        self.pulse.during(|| self.inner.run_ids())
    }

    fn latest_run_id(&self) -> io::Result<Option<i64>> {
        self.pulse.during(|| self.inner.latest_run_id())
    }

    fn log_end(&self) -> io::Result<u64> {
        self.pulse.during(|| self.inner.log_end())
    }

    fn kill_leftovers(&self, run_id: i64) -> io::Result<Leftovers> {
        self.inner.kill_leftovers(run_id)
    }

    fn remove_pause_file(&self) -> io::Result<()> {
        self.pulse.during(|| self.inner.remove_pause_file())
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc;

    use super::*;
    use crate::store::{Store, Writer};
    use crate::supervisor::{Handle, Snapshot, Watch};

    #[test]
    fn thread_waiting_for_the_disk_gets_a_longer_limit() {
        let row = Store::in_memory().row().expect("a row");
        let watch = Arc::new(Watch::new(Snapshot::new(&row, None, None, None, None, None)));
        // The thread handles no event.
        let (events, _queue) = mpsc::channel();
        let handle = Handle { events, writer: Writer::new(|_| false), watch, pulse: Arc::default() };
        let hour = Duration::from_hours(1);
        assert!(!handle.is_alive(Duration::ZERO, hour), "it does not answer, and no disk is at fault");
        handle.pulse.during(|| {
            assert!(handle.is_alive(Duration::ZERO, hour));
            assert!(!handle.is_alive(Duration::ZERO, Duration::ZERO), "not for ever");
        });
        assert!(!handle.is_alive(Duration::ZERO, hour));
    }

    #[test]
    fn pulse_reports_a_call_while_it_lasts_and_not_after_a_panic() {
        let pulse = Pulse::default();
        assert_eq!(pulse.in_storage_for(), None);
        assert!(pulse.during(|| pulse.in_storage_for().is_some()));
        assert_eq!(pulse.in_storage_for(), None);
        let panicked = catch_unwind(AssertUnwindSafe(|| pulse.during(|| panic!("as a test wants it"))));
        assert!(panicked.is_err() && pulse.in_storage_for().is_none());
    }
}
