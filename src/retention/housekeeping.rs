//! Passes over runs, logs and request keys, which delete old runs and keys, remove old log segments, and pack finished ones.
//!
//! A pass follows each wake-up: at boot, when a run begins or has ended, when a log continues in a new segment, and after some
//! hours without any of these. It decides from the current files and rows, so it can be killed anywhere and start again. Its
//! memory saves repeated scans, and records how old runs and keys are. If a run is not recorded as ended, a pass packs its
//! finished segments and, if the disk is nearly full, removes the oldest of them. The shim of the run limits the size of the log.
//!
//! If killed between a run's directory and its row: the next pass finds the row and deletes it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::error::RetentionError;
use super::history::{self, EndState, History};
use super::limits::Limits;
use super::logs::{Logs, Sizes};
use super::memory::Memory;
use crate::clock::{Clock, SystemClock};
use crate::held_dir::{HeldDir, has_entry, is_foreign};
use crate::log::{self, Packing, RunLogs, Segment};
use crate::process;
use crate::run_dir::Runs;
use crate::store::{DatabaseFile, Reader, Writer};

/// The interval of passes without a wake-up, because runs and request keys also age on an idle server.
const PASS_EVERY: Duration = Duration::from_hours(6);

/// The pause before another try at work that cannot be done yet, because a shim still has something to write or a disk fails. It
/// doubles each time up to the maximum, because a pass reads the database and directories.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(1);

/// Packing begins after this long without a wake-up. A pipeline that pours out output causes one with each segment, and needs the
/// processor more.
const QUIET: Duration = Duration::from_secs(1);

/// Packing sleeps for this many times as long as it works, but at most `LEISURE_MAX` at a time. If each session has its own share
/// of the processors (`sched(7)`, autogroup), the lowest priority has no effect between sessions, and packing would slow the
/// pipeline down.
const LEISURE: u32 = 2;
const LEISURE_MAX: Duration = Duration::from_millis(20);

/// A smaller segment is not packed, because a file takes a block of the disk in any case.
const PACKED_BYTES_MIN: u64 = 64 * 1024;

/// How many runs one turn scans for segments to pack.
const SCANNED_AT_ONCE: usize = 500;

/// The shortest time for which request keys are kept.
const KEYS_KEPT: Duration = Duration::from_hours(24);

/// The notes are stored after this many more runs are settled, or after this much more time was observed.
const STORED_RUNS: i64 = 32;
const STORED_EVERY: Duration = Duration::from_mins(10);

/// The result of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// Nothing is left to do.
    Done,
    /// Some work was left for later.
    Again,
    /// More work can be done at once.
    More,
    /// The pass ended early, because of a wake-up or the end of the server.
    Interrupted,
}

/// How far the scan for segments to pack went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// To the last run.
    All,
    /// As far as one turn goes. The next turn continues from there.
    Some,
    /// As far as one turn goes, but the next turn gets no further unless a segment is packed.
    IfPacked,
}

pub(super) struct Housekeeping {
    /// The runs in `dir`.
    runs: Runs,
    /// The runtime directory, held open, so that nothing is removed from, or written into, another directory that now has its
    /// path.
    dir: HeldDir,
    /// The path at which it was opened.
    path: PathBuf,
    logs: RunLogs,
    database: DatabaseFile,
    limits: Limits,
    writer: Writer,
    is_stopping: Arc<AtomicBool>,
    memory: Memory,
    /// The memory as it was last stored.
    stored: Memory,
    history: History,
    sizes: Sizes,
    /// The run up to which half-packed segments of killed servers were removed.
    cleaned_up_to: i64,
    /// [`PASS_EVERY`], except in tests.
    passes_every: Duration,
}

impl Housekeeping {
    /// Opens the runtime directory that is at `path` now, and loads its notes.
    pub(super) fn new(
        path: &Path,
        logs: RunLogs,
        database: DatabaseFile,
        limits: Limits,
        writer: Writer,
        is_stopping: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let dir = HeldDir::open(path)?;
        let runs = Runs::new(dir.path().to_owned());
        let memory = Memory::load(runs.runtime_dir(), database.path(), &runs.path());
        Ok(Self {
            stored: memory.clone(),
            cleaned_up_to: memory.settled,
            memory,
            dir,
            path: path.to_owned(),
            runs,
            logs,
            database,
            limits,
            writer,
            is_stopping,
            history: History::default(),
            sizes: None,
            passes_every: PASS_EVERY,
        })
    }

    /// Makes passes until the server stops: one at once, and one after each wake-up.
    pub(super) fn go_on(&mut self, wakes: &Receiver<()>) {
        let mut complaint = None;
        let mut pause = RETRY;
        while !self.is_stopping() {
            let pass = self.pass(wakes).unwrap_or_else(|error| {
                let error = error.to_string();
                if complaint.as_ref() != Some(&error) {
                    ::log::error!("failed to {error}; old runs and logs are kept for now");
                    complaint = Some(error);
                }
                Pass::Again
            });
            let woken = match pass {
                Pass::Interrupted | Pass::More => Ok(()),
                Pass::Again => {
                    let woken = wakes.recv_timeout(pause);
                    pause = if woken.is_ok() { RETRY } else { (pause * 2).min(RETRY_MAX) };
                    woken
                }
                Pass::Done => {
                    (complaint, pause) = (None, RETRY);
                    wakes.recv_timeout(self.passes_every)
                }
            };
            if woken == Err(RecvTimeoutError::Disconnected) {
                break;
            }
        }
        self.witness();
        self.remember(true);
    }

    /// Returns a path in the held directory in the form for messages.
    fn shown(&self, path: &Path) -> PathBuf {
        path.strip_prefix(self.dir.path()).map_or_else(|_| path.to_owned(), |inner| self.path.join(inner))
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    fn pass(&mut self, wakes: &Receiver<()>) -> Result<Pass, RetentionError> {
        self.dir.check_is_at(&self.path).map_err(RetentionError::Replaced)?;
        let reader = Reader::open(&self.database)?;
        self.history.refresh(&self.runs, &reader, || !self.is_stopping.load(Ordering::Relaxed))?;
        let latest = self.history.latest();
        self.memory.keep_to(latest);
        self.logs.set_floor(self.memory.log_floor);
        self.witness();
        self.memory.witness.note_ended(self.history.all_ended_up_to());
        self.forget_keys(&reader)?;
        let mut is_done = self.forget(&reader)?;
        is_done &= self.trim(&reader)?;
        self.raise_floor(&reader)?;
        let (finished, progress) = self.finished(&reader, &mut is_done)?;
        self.remember(false);
        if !finished.is_empty() && wakes.recv_timeout(QUIET) != Err(RecvTimeoutError::Timeout) {
            return Ok(Pass::Interrupted);
        }
        let mut has_packed = false;
        for segment in finished {
            if wakes.try_recv().is_ok() {
                return Ok(Pass::Interrupted);
            }
            match log::pack(&segment, self.at_leisure()) {
                Ok(Packing::Done | Packing::Left) => has_packed = true,
                Ok(Packing::GivenUp) => return Ok(Pass::Interrupted),
                // The plain segment stays, which only takes more room. The next pass tries again.
                Err(error) => ::log::warn!("failed to pack {}: {error}", self.shown(&segment.path).display()),
            }
        }
        Ok(match (progress, is_done) {
            (Progress::Some, _) => Pass::More,
            (Progress::IfPacked, _) if has_packed => Pass::More,
            (Progress::IfPacked | Progress::All, true) => Pass::Done,
            (Progress::IfPacked | Progress::All, false) => Pass::Again,
        })
    }

    /// Hands the deletion of old request keys to the writer.
    fn forget_keys(&mut self, reader: &Reader) -> Result<(), RetentionError> {
        let (oldest, newest) = reader.request_key_ids()?;
        self.memory.witness.note_keys(newest);
        if let Some(up_to) = self.memory.witness.keys_used_for(KEYS_KEPT).filter(|&up_to| 0 < oldest && oldest <= up_to) {
            // If this fails, the next pass finds the keys again.
            let _tried_again = self.writer.begin(move |store| store.forget_request_keys(up_to));
        }
        Ok(())
    }

    /// Returns a function to call before each frame. It sleeps for longer than the last frame took, and returns whether to
    /// continue.
    fn at_leisure(&self) -> impl FnMut() -> bool {
        let mut last = Instant::now();
        move || {
            thread::sleep((last.elapsed() * LEISURE).min(LEISURE_MAX));
            last = Instant::now();
            !self.is_stopping()
        }
    }

    /// Adds the time since the last pass to the observed time.
    fn witness(&mut self) {
        // Without a boot id no run ages, and none is removed for its age.
        if let Ok(boot_id) = process::boot_id() {
            self.memory.witness.read_clocks(&boot_id, SystemClock.since_boot(), SystemClock.now());
        }
    }

    /// Stores the notes if they have changed enough; with `is_last`, if they have changed at all.
    fn remember(&mut self, is_last: bool) {
        let (new, old) = (&self.memory, &self.stored);
        let has_changed = if is_last {
            new != old
        } else {
            new.settled.abs_diff(old.settled) >= STORED_RUNS.unsigned_abs()
                || new.log_floor.abs_diff(old.log_floor) >= STORED_RUNS.unsigned_abs()
                || new.witness.is_ahead_of(&old.witness, STORED_EVERY)
        };
        if has_changed {
            match self.memory.store(self.dir.path(), self.database.path(), &self.runs.path()) {
                Ok(()) => self.stored = self.memory.clone(),
                // The next pass tries again. Until then the previous file stays.
                Err(error) => ::log::debug!("cannot write retention.json: {error}"),
            }
        }
    }

    /// Removes runs beyond the limits on number and age. Returns whether all of them were removed.
    fn forget(&mut self, reader: &Reader) -> Result<bool, RetentionError> {
        let too_old = self.limits.ended_for.and_then(|age| self.memory.witness.ended_for(age));
        let is_stopping = self.is_stopping.clone();
        let goes_on = || !is_stopping.load(Ordering::Relaxed);
        self.history.forget(&self.runs, reader, self.limits.runs, too_old, &self.writer, goes_on)
    }

    /// Removes the oldest segments until the logs are within their limits. Returns whether they are.
    fn trim(&mut self, reader: &Reader) -> Result<bool, RetentionError> {
        let is_stopping = self.is_stopping.clone();
        let logs = Logs {
            runs: &self.runs,
            all: &self.logs,
            reader,
            history: &self.history,
            segment_bytes: self.limits.segment_bytes,
            goes_on: &|| !is_stopping.load(Ordering::Relaxed),
        };
        let mut is_done = true;
        // Without `runs/` there is nothing to remove.
        if self.limits.disk_free_bytes != Some(0)
            && let Ok(disk) = Disk::of(&self.runs.path())
        {
            is_done &= logs.free_disk(disk, disk.free_share(self.limits.disk_free_bytes))?;
        }
        is_done &= logs.limit_total(&mut self.sizes, self.limits.log_bytes, self.memory.settled)?;
        Ok(is_done)
    }

    /// Raises the floor below which no run has a log, past runs whose logs were removed here. Stops at a run whose log directory
    /// is missing, because a directory that was moved away may come back.
    fn raise_floor(&mut self, reader: &Reader) -> Result<(), RetentionError> {
        let latest = self.history.latest();
        let first = self.logs.first_run()?.unwrap_or(latest).min(latest);
        while self.memory.log_floor < first && !self.is_stopping() {
            // Only runs with a row can have had a log. Their ids are read from the rows, not counted through, because the name of
            // a directory can be any number.
            let rows = reader.oldest_runs(self.memory.log_floor.max(1) - 1, SCANNED_AT_ONCE)?;
            let is_last = rows.last().is_none_or(|&(id, _)| id >= first);
            for (id, _) in rows.into_iter().take_while(|&(id, _)| id < first) {
                let had_any = reader.run_log(id)?.is_some_and(|row| row.was_seen);
                let dir = self.runs.run(id).log_dir();
                if had_any && (is_foreign(&dir) || !has_entry(&dir)) {
                    self.memory.log_floor = id;
                    self.logs.set_floor(id);
                    return Ok(());
                }
                self.memory.log_floor = id + 1;
            }
            if is_last {
                self.memory.log_floor = first;
            }
        }
        self.logs.set_floor(self.memory.log_floor);
        Ok(())
    }

    /// Returns the segments of unsettled runs that no longer grow and are worth packing, and how far the scan went.
    fn finished(&mut self, reader: &Reader, is_done: &mut bool) -> Result<(Vec<Segment>, Progress), RetentionError> {
        let mut finished = Vec::new();
        let mut all_before_are_settled = true;
        let mut from = self.memory.settled.saturating_add(1);
        for _ in 0..SCANNED_AT_ONCE {
            let Some((id, _)) = self.logs.run_from(from)? else {
                return Ok((finished, Progress::All));
            };
            from = id.saturating_add(1);
            if id > self.cleaned_up_to {
                let dir = self.runs.run(id).log_dir();
                if let Err(error) = log::remove_unfinished(&dir) {
                    ::log::warn!("failed to clean up {}: {error}", self.shown(&dir).display());
                }
                self.cleaned_up_to = id;
            }
            let standing = self.history.standing(reader, id)?;
            let (segments, has_plain) = self.finished_of(id, standing, is_done)?;
            let is_over = match standing {
                EndState::Live => false,
                EndState::Ended => history::is_left(&self.runs, id),
                EndState::Unknown => id < self.history.latest(),
            };
            all_before_are_settled &= is_over && !has_plain;
            if all_before_are_settled {
                self.memory.settled = id;
            }
            finished.extend(segments);
        }
        // The scan continues at the first run that is not settled.
        Ok((finished, if all_before_are_settled { Progress::Some } else { Progress::IfPacked }))
    }

    /// Returns the same for one run, and whether it has anything worth packing, now or later.
    fn finished_of(&self, id: i64, standing: EndState, is_done: &mut bool) -> Result<(Vec<Segment>, bool), RetentionError> {
        if standing == EndState::Unknown {
            return Ok((Vec::new(), false));
        }
        let dir = self.runs.run(id).log_dir();
        let mut segments = log::all_segments_in(&dir, Some(id))?;
        let newest = segments.last().map(|segment| segment.start);
        segments.retain(|segment| {
            segment.packed_end.is_none() && segment.bytes_on_disk().is_ok_and(|bytes| bytes >= PACKED_BYTES_MIN)
        });
        if segments.is_empty() {
            return Ok((segments, false));
        }
        // The last free space of a disk is for new output, not for packing old output.
        let room = Disk::of(&dir).map_or(0, |disk| disk.free_bytes).saturating_sub(2 * self.limits.segment_bytes);
        segments.retain(|segment| segment.bytes_on_disk().is_ok_and(|bytes| bytes <= room));
        if segments.last().is_some_and(|last| Some(last.start) == newest) {
            let may_grow = match standing {
                EndState::Live | EndState::Unknown => true,
                EndState::Ended => !history::is_left(&self.runs, id),
            };
            if may_grow {
                segments.pop();
                *is_done &= standing == EndState::Live;
            }
        }
        Ok((segments, true))
    }
}

#[cfg(test)]
mod tests;
