//! The limits on the logs: a maximum for all of them, and a share of the disk that stays free.
//!
//! The oldest segments are removed first, and those of the live run last. A pass reads only logs that may have changed since the
//! last pass, and those that it removes. It adds up the size of all logs only once they could be too large.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use super::disk::Disk;
use super::error::RetentionError;
use super::history::{EndState, History, is_left};
use crate::log::{self, Listing, Place, RunLogs, Segment};
use crate::run_dir::Runs;
use crate::store::Reader;

/// The input of a pass.
pub(super) struct Logs<'a> {
    pub(super) runs: &'a Runs,
    pub(super) all: &'a RunLogs,
    pub(super) reader: &'a Reader,
    pub(super) history: &'a History,
    /// The size at which a segment is closed, in bytes.
    pub(super) segment_bytes: u64,
    /// Whether the server keeps running.
    pub(super) goes_on: &'a dyn Fn() -> bool,
}

/// The size of each run's log, in bytes; `None` until it was needed.
pub(super) type Sizes = Option<BTreeMap<i64, u64>>;

impl Logs<'_> {
    /// Removes the oldest segments until a share of the disk is free, or only the newest segments are left. Returns false if
    /// another try is needed.
    pub(super) fn free_disk(&self, disk: Disk, share: u64) -> Result<bool, RetentionError> {
        let lacking = share.saturating_sub(disk.free_bytes);
        if lacking == 0 {
            return Ok(true);
        }
        let Some(first_kept) = self.newest_of(disk.kept_bytes(self.segment_bytes))? else { return Ok(true) };
        // The segments of a live run are the newest, so they are removed last.
        let mut freed = 0;
        let is_done = self.remove_oldest(lacking, Some(first_kept.place()), true, &mut |_, bytes| freed += bytes)?;
        if freed > 0 {
            ::log::info!("removed the oldest {} KiB of the logs to keep {} MiB of the disk free", freed / 1024, share >> 20);
        }
        Ok(is_done)
    }

    /// Returns the first of the newest segments that have at most this many bytes together. They always include the newest
    /// segment.
    fn newest_of(&self, bytes: u64) -> Result<Option<Segment>, RetentionError> {
        let Some(mut kept) = self.all.newest()? else { return Ok(None) };
        let mut sum = kept.bytes_on_disk()?;
        while let Some(before) = self.all.before(kept.place())? {
            sum += before.bytes_on_disk()?;
            if sum > bytes {
                break;
            }
            kept = before;
        }
        Ok(Some(kept))
    }

    /// Removes the oldest segments of ended runs until all logs together are within their limit. Up to the run `settled`, no log
    /// can have changed since the last call. Returns false if another try is needed.
    pub(super) fn limit_total(&self, sizes: &mut Sizes, limit: u64, settled: i64) -> Result<bool, RetentionError> {
        let Some(newest) = self.all.newest()? else { return Ok(true) };
        let first = self.all.oldest()?.map_or(newest.start, |first| first.start);
        let newest_bytes = newest.bytes_on_disk()?;
        // A live run's newest segment may grow up to its limit before the next pass.
        let is_live = newest.run_id.is_some_and(|id| self.history.standing(self.reader, id).is_ok_and(|it| it == EndState::Live));
        let growth = if is_live { self.segment_bytes.saturating_sub(newest_bytes) } else { 0 };
        // The whole log lies between these positions. A segment that packing does not make smaller becomes a little larger.
        let span = self.all.end()?.saturating_sub(first);
        if sizes.is_none() && (span + span / 256).saturating_add(growth) <= limit {
            return Ok(true);
        }
        // On an error the known sizes are kept, because measuring all runs again at each try would take long.
        let first = if sizes.is_some() { settled.saturating_add(1) } else { 0 };
        let Some(mut measured) = self.measure(first)? else { return Ok(true) };
        let by_run = sizes.get_or_insert_default();
        by_run.split_off(&first);
        by_run.append(&mut measured);
        let total = growth + by_run.values().sum::<u64>();
        if total <= limit {
            return Ok(true);
        }
        self.remove_oldest(total - limit, None, false, &mut |id, bytes| {
            if let Some(size) = by_run.get_mut(&id) {
                *size = size.saturating_sub(bytes);
            }
        })
    }

    /// Returns the size of each run's log from run `from` on; `None` if the server stops meanwhile.
    fn measure(&self, mut from: i64) -> Result<Sizes, RetentionError> {
        let mut by_run = BTreeMap::new();
        while let Some((id, _)) = self.all.run_from(from)? {
            if !(self.goes_on)() {
                return Ok(None);
            }
            let segments = log::all_segments_in(&self.runs.run(id).log_dir(), Some(id))?;
            by_run.insert(id, segments.iter().map(Segment::bytes_on_disk).sum::<io::Result<u64>>()?);
            from = id.saturating_add(1);
        }
        Ok(Some(by_run))
    }

    /// Removes the oldest segments until this many bytes are freed, but no segment from `kept_from` on and none that is still
    /// written to. Returns whether all of them were removed.
    fn remove_oldest(
        &self,
        excess: u64,
        kept_from: Option<Place>,
        live_too: bool,
        removed: &mut dyn FnMut(i64, u64),
    ) -> Result<bool, RetentionError> {
        let (mut is_done, mut sum, mut from) = (true, 0, 0);
        while let Some((id, _)) = self.all.run_from(from)? {
            from = id.saturating_add(1);
            let mut segments = log::all_segments_in(&self.runs.run(id).log_dir(), Some(id))?;
            if sum >= excess
                || !(self.goes_on)()
                || segments.first().is_some_and(|oldest| kept_from.is_some_and(|kept| oldest.place() >= kept))
            {
                return Ok(is_done);
            }
            match self.history.standing(self.reader, id)? {
                // Its shim may still add a note about lost lines.
                EndState::Ended if !is_left(self.runs, id) => {
                    is_done = false;
                    continue;
                }
                EndState::Ended => {}
                // The newest segment is still being written.
                EndState::Live if live_too => drop(segments.pop()),
                EndState::Live | EndState::Unknown => continue,
            }
            for segment in segments {
                if sum >= excess || kept_from.is_some_and(|kept| segment.place() >= kept) {
                    return Ok(is_done);
                }
                let bytes = segment.bytes_on_disk()?;
                match fs::remove_file(&segment.path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        let name = segment.path.file_name().unwrap_or_default().display();
                        ::log::warn!("run {id}: failed to remove {name} of its log: {error}");
                        is_done = false;
                    }
                    Ok(()) | Err(_) => {
                        sum += bytes;
                        removed(id, bytes);
                    }
                }
            }
        }
        Ok(is_done)
    }
}
