//! Keeps what is on the disk within its limits: old runs are forgotten, old log segments removed, finished ones packed.
//!
//! A thread of its own with the lowest priority, asleep until the supervisor wakes it: at boot, when a run begins or has ended, and when a
//! log has gone on to another segment. It looks at what is there and remembers nothing, so it can be killed anywhere and begins anew. It
//! never touches a run that is not recorded as ended, but to pack what is finished of its log; how much that one may take, its shim sees to.
//!
//! If killed between a run's directory and its row: the row is found again, and goes then.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Event, Retention};
use crate::clock::{Clock, SystemClock, Timestamp};
use crate::kill_point::KillPoint;
use crate::log::{self, Packing, Segment};
use crate::run_dir::{self, LockState, Runs};
use crate::store::{Reader, StoreError};

/// How often what cannot be done yet is tried again: a shim that still has something to write, a disk that fails.
const RETRY: Duration = Duration::from_secs(1);

/// The lowest priority (`setpriority(2)`): whoever has anything to do goes first.
const PRIORITY: i32 = 19;

/// It packs once no log has gone on to another segment for this long: a pipeline that pours out output has better use for the processor.
const QUIET: Duration = Duration::from_secs(1);

/// While it packs it sleeps so many times as long as it works, but no longer than that at a time. Where each session has its share of the
/// processors (`sched(7)`, autogroup) the lowest priority is none among sessions, and the pipeline would feel it.
const LEISURE: u32 = 2;
const LEISURE_MAX: Duration = Duration::from_millis(20);

/// A smaller segment is not packed: a file takes a block of the disk in any case.
const PACKED_BYTES_MIN: u64 = 64 * 1024;

/// So many rows are forgotten in one transaction: who waits for the supervisor waits no longer than for that.
const FORGOTTEN_AT_ONCE: usize = 100;

/// The thread, and how it is told.
#[derive(Debug)]
pub(super) struct Keeper {
    waker: Waker,
    is_stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Tells the keeper that there may be something to do. Costs nothing, and is never waited for.
#[derive(Clone, Debug)]
pub(super) struct Waker(SyncSender<()>);

impl Waker {
    pub(super) fn wake(&self) {
        // Full: it is about to look anyway. Closed: the server ends.
        let _looks_anyway = self.0.try_send(());
    }
}

impl Keeper {
    /// Begins, and looks at once. What is to be forgotten of the database goes to `events`.
    pub(super) fn start(
        runs: Runs,
        database: PathBuf,
        retention: Retention,
        segment_bytes: u64,
        events: Sender<Event>,
    ) -> io::Result<Self> {
        let (sender, wakes) = mpsc::sync_channel(1);
        let is_stopping = Arc::new(AtomicBool::new(false));
        let mut housekeeping =
            Housekeeping { runs, database, retention, segment_bytes, events, is_stopping: is_stopping.clone(), is_first: true };
        let thread = thread::Builder::new().name("keeper".to_owned()).spawn(move || {
            // Where that is not allowed it does its work all the same.
            let _only_politeness = rustix::process::setpriority_process(None, PRIORITY);
            housekeeping.go_on(&wakes);
        })?;
        Ok(Self { waker: Waker(sender), is_stopping, thread })
    }

    pub(super) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Ends it after the step that it is at.
    pub(super) fn stop(self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.waker.wake();
        if self.thread.join().is_err() {
            ::log::error!("the keeper of runs and logs had ended by a fault of ours");
        }
    }
}

/// Why nothing, or not all, was kept within its limits.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("look at the run directories: {0}")]
    Runs(io::Error),
}

/// How a run stands, as far as is on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Its row has no end.
    Live,
    /// It ended then: its row says so or, where the database does not know the run, its journal.
    Ended(Timestamp),
    /// Nobody says that it has ended.
    Unknown,
}

/// One look at everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// All is as it should be.
    Done,
    /// Something was left for later.
    Again,
    /// It was woken or told to stop meanwhile.
    Interrupted,
}

struct Housekeeping {
    runs: Runs,
    database: PathBuf,
    retention: Retention,
    segment_bytes: u64,
    events: Sender<Event>,
    is_stopping: Arc<AtomicBool>,
    is_first: bool,
}

impl Housekeeping {
    fn go_on(&mut self, wakes: &Receiver<()>) {
        let mut complaint = None;
        while !self.is_stopping() {
            let look = self.look(wakes).unwrap_or_else(|error| {
                let error = error.to_string();
                if complaint.as_ref() != Some(&error) {
                    ::log::error!("failed to {error}; old runs and logs stay for now");
                    complaint = Some(error);
                }
                Look::Again
            });
            let woken = match look {
                Look::Interrupted => Ok(()),
                Look::Again => wakes.recv_timeout(RETRY),
                Look::Done => {
                    complaint = None;
                    wakes.recv().map_err(|_| RecvTimeoutError::Disconnected)
                }
            };
            if woken == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    fn look(&mut self, wakes: &Receiver<()>) -> Result<Look, KeepError> {
        let mut standings = self.standings()?;
        let mut is_done = self.forget(&mut standings);
        is_done &= self.trim(&standings)?;
        self.is_first = false;
        let mut finished = Vec::new();
        for (&id, &standing) in &standings {
            finished.extend(self.finished(id, standing, &mut is_done)?);
        }
        if !finished.is_empty() && wakes.recv_timeout(QUIET) != Err(RecvTimeoutError::Timeout) {
            return Ok(Look::Interrupted);
        }
        for segment in finished {
            if wakes.try_recv().is_ok() {
                return Ok(Look::Interrupted);
            }
            match log::pack(&segment, self.at_leisure()) {
                Ok(Packing::Done | Packing::Left) => {}
                Ok(Packing::GivenUp) => return Ok(Look::Interrupted),
                // The plain one is as good, it takes more room; it is tried again with the next look.
                Err(error) => ::log::warn!("failed to pack {}: {error}", segment.path.display()),
            }
        }
        Ok(if is_done { Look::Done } else { Look::Again })
    }

    /// Asked before each frame: sleeps for longer than the last one took, and says whether to go on.
    fn at_leisure(&self) -> impl FnMut() -> bool {
        let mut last = Instant::now();
        move || {
            thread::sleep((last.elapsed() * LEISURE).min(LEISURE_MAX));
            last = Instant::now();
            !self.is_stopping()
        }
    }

    /// All runs of which there is a row or a directory.
    fn standings(&self) -> Result<BTreeMap<i64, Standing>, KeepError> {
        let rows = Reader::open(&self.database)?.ends()?;
        let mut standings: BTreeMap<i64, Standing> =
            rows.into_iter().map(|(id, end)| (id, end.map_or(Standing::Live, Standing::Ended))).collect();
        for id in self.runs.ids().map_err(KeepError::Runs)? {
            standings.entry(id).or_insert_with(|| {
                let journal = run_dir::read_journal(&self.runs.run(id).journal_path()).ok();
                let end = journal.and_then(|journal| journal.entries.into_iter().find(|entry| entry.fact.is_end()));
                end.map_or(Standing::Unknown, |entry| Standing::Ended(entry.at))
            });
        }
        Ok(standings)
    }

    /// Whether nobody writes into a run's directory any more.
    fn is_left(&self, id: i64) -> bool {
        self.runs.run(id).lock_state().is_ok_and(|lock| lock == LockState::Free)
    }

    /// Removes runs that are too many or too old, never the latest, and takes them out of `standings`. Whether all of them went.
    fn forget(&self, standings: &mut BTreeMap<i64, Standing>) -> bool {
        let oldest_kept = self.retention.ended_for.map(|age| SystemClock.now().before(age));
        let surplus = standings.len().saturating_sub(self.retention.runs.max(1));
        let latest = standings.keys().next_back().copied();
        let due: Vec<i64> = standings
            .iter()
            .enumerate()
            .filter(|(n, (id, standing))| {
                let is_old = match standing {
                    Standing::Ended(at) => oldest_kept.is_some_and(|oldest| *at < oldest),
                    Standing::Live | Standing::Unknown => return false,
                };
                (is_old || *n < surplus) && Some(**id) != latest
            })
            .map(|(_, (id, _))| *id)
            .collect();
        let mut is_done = true;
        let mut gone = Vec::new();
        for id in due {
            if self.is_stopping() {
                return false;
            }
            // A shim that still has something to add has its lock.
            let removed = if self.is_left(id) { remove_dir(self.runs.run(id).path()) } else { Ok(false) };
            match removed {
                Ok(true) => {
                    KillPoint::ServerRunDirRemoved.reach();
                    standings.remove(&id);
                    gone.push(id);
                }
                Ok(false) => is_done = false,
                Err(error) => {
                    ::log::warn!("run {id} is kept no longer, and its directory cannot be removed: {error}");
                    is_done = false;
                }
            }
        }
        if let (Some(first), Some(last)) = (gone.first(), gone.last()) {
            ::log::info!("{} runs are kept no longer: {first} to {last}", gone.len());
        }
        for ids in gone.chunks(FORGOTTEN_AT_ONCE) {
            // Nobody takes it when the server ends; the next one finds the rows again.
            let _found_again = self.events.send(Event::Forget { ids: ids.to_vec() });
        }
        is_done
    }

    /// Removes the oldest segments of runs that have ended until all logs together are within their limit. Whether they are.
    fn trim(&self, standings: &BTreeMap<i64, Standing>) -> Result<bool, KeepError> {
        let mut total = 0;
        let mut removable = Vec::new();
        let mut is_done = true;
        for (&id, standing) in standings {
            let dir = self.runs.run(id).log_dir();
            if self.is_first
                && let Err(error) = log::remove_unfinished(&dir)
            {
                ::log::warn!("failed to clean up {}: {error}", dir.display());
            }
            let segments = log::all_segments_in(&dir, Some(id)).map_err(KeepError::Runs)?;
            let newest = segments.last().map(|segment| segment.start);
            for segment in segments {
                let bytes = segment.bytes_on_disk().map_err(KeepError::Runs)?;
                match standing {
                    Standing::Ended(_) => removable.push((id, segment, bytes)),
                    // It may grow up to its limit before the next look.
                    Standing::Live if Some(segment.start) == newest => total += bytes.max(self.segment_bytes),
                    Standing::Live | Standing::Unknown => total += bytes,
                }
            }
        }
        total += removable.iter().map(|(.., bytes)| bytes).sum::<u64>();
        for (id, segment, bytes) in removable {
            if total <= self.retention.log_bytes || self.is_stopping() {
                break;
            }
            if !self.is_left(id) {
                // It says what it lost, at the end of its log.
                is_done = false;
                continue;
            }
            match fs::remove_file(&segment.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    ::log::warn!("failed to remove {}: {error}", segment.path.display());
                    is_done = false;
                }
                Ok(()) | Err(_) => total -= bytes,
            }
        }
        Ok(is_done)
    }

    /// The segments of a run to which nothing is added any more, and that are worth packing.
    fn finished(&self, id: i64, standing: Standing, is_done: &mut bool) -> Result<Vec<Segment>, KeepError> {
        if standing == Standing::Unknown {
            return Ok(Vec::new());
        }
        let dir = self.runs.run(id).log_dir();
        let mut segments = log::all_segments_in(&dir, Some(id)).map_err(KeepError::Runs)?;
        let newest = segments.last().map(|segment| segment.start);
        // The last room on a disk is for what is said now, not for what makes what was said before smaller.
        let room = free_bytes(&dir).saturating_sub(2 * self.segment_bytes);
        segments.retain(|segment| {
            let fits = |bytes| (PACKED_BYTES_MIN..=room).contains(&bytes);
            segment.packed_end.is_none() && segment.bytes_on_disk().is_ok_and(fits)
        });
        if segments.last().is_some_and(|last| Some(last.start) == newest) {
            let may_grow = match standing {
                Standing::Live | Standing::Unknown => true,
                Standing::Ended(_) => !self.is_left(id),
            };
            if may_grow {
                segments.pop();
                *is_done &= standing == Standing::Live;
            }
        }
        Ok(segments)
    }
}

/// The room on the disk; none where nobody knows.
fn free_bytes(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Removes a run's directory; links in it are removed, never followed. Whether it is gone.
fn remove_dir(dir: &Path) -> io::Result<bool> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        // The names below it may have gone first; then it is found again.
        Ok(()) | Err(_) => Ok(!dir.exists()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_that_is_packed_to_which_nothing_is_added_any_more() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let runs = Runs::new(dir.path().to_owned());
        let (run, lock) = runs.create(1).expect("creates");
        for (n, bytes) in [PACKED_BYTES_MIN, PACKED_BYTES_MIN - 1, PACKED_BYTES_MIN].into_iter().enumerate() {
            let text = vec![b'x'; usize::try_from(bytes).expect("small")];
            fs::write(run.log_dir().join(format!("{n:020}.log")), text).expect("writes");
        }
        let (events, _queue) = mpsc::channel();
        let housekeeping = Housekeeping {
            runs,
            database: dir.path().join("none"),
            retention: Retention { log_bytes: u64::MAX, runs: 1, ended_for: None },
            segment_bytes: 1 << 20,
            events,
            is_stopping: Arc::default(),
            is_first: true,
        };
        let finished = |standing| {
            let mut is_done = true;
            let segments = housekeeping.finished(1, standing, &mut is_done).expect("a look");
            (segments.iter().map(|segment| segment.start).collect::<Vec<_>>(), is_done)
        };
        let ended = Standing::Ended(SystemClock.now());
        assert_eq!(finished(Standing::Unknown), (vec![], true));
        assert_eq!(finished(Standing::Live), (vec![0], true), "not the newest, and none that is small");
        assert_eq!(finished(ended), (vec![0], false), "its shim has something to add: looked at again");
        drop(lock);
        // Another test's child that was born meanwhile holds it as well, until it executes its program.
        let deadline = Instant::now() + Duration::from_mins(1);
        while finished(ended) != (vec![0, 2], true) {
            assert!(Instant::now() < deadline, "its shim has left: {:?}", finished(ended));
            thread::yield_now();
        }
    }

    /// A live run's newest segment grows until the next look, which may be a segment away.
    #[test]
    fn room_is_made_for_what_a_live_run_adds_before_the_next_look() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let runs = Runs::new(dir.path().to_owned());
        let segments = |run: i64, count: u32, bytes: usize| {
            let (run, lock) = runs.create(run).expect("creates");
            for n in 0..count {
                fs::write(run.log_dir().join(format!("{n:020}.log")), vec![b'x'; bytes]).expect("writes");
            }
            lock
        };
        drop(segments(1, 3, 1_000));
        let _live = segments(2, 1, 10);
        let kept = |log_bytes| {
            let housekeeping = Housekeeping {
                runs: Runs::new(dir.path().to_owned()),
                database: dir.path().join("none"),
                retention: Retention { log_bytes, runs: 10, ended_for: None },
                segment_bytes: 5_000,
                events: mpsc::channel().0,
                is_stopping: Arc::default(),
                is_first: false,
            };
            let standings = BTreeMap::from([(1, Standing::Ended(SystemClock.now())), (2, Standing::Live)]);
            assert!(housekeeping.trim(&standings).expect("a look"));
            [1, 2].map(|run| fs::read_dir(runs.run(run).log_dir()).expect("there").count())
        };
        assert_eq!(kept(8_000), [3, 1]);
        assert_eq!(kept(7_999), [2, 1], "room for a whole segment");
        assert_eq!(kept(100), [0, 1], "and the live run's stays");
    }
}
