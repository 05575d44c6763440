//! The runs that the history keeps, by number and age.
//!
//! Runs are checked from the oldest to the first that stays. They are counted once, by the first pass; later passes count only
//! new runs.

use std::collections::BTreeSet;

use super::error::RetentionError;
use super::removal;
use crate::held_dir::is_foreign;
use crate::kill_point::KillPoint;
use crate::run_dir::{self, LockState, Runs};
use crate::store::{Reader, Writer};

/// How many rows one transaction deletes. This limits how long the thread that writes is busy.
const FORGOTTEN_AT_ONCE: usize = 100;

/// Whether a run has ended, as far as that is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndState {
    /// The row of the run has no end.
    Live,
    /// The run has ended, according to its row or, if the database does not know the run, to its journal.
    Ended,
    /// Nothing records that the run has ended.
    Unknown,
}

/// The known contents of the history.
#[derive(Debug, Default)]
pub(super) struct History {
    is_counted: bool,
    /// The id up to which rows were deleted, or could not be deleted yet. The remaining rows up to it are few, and are counted
    /// again each time.
    low: i64,
    /// The number of rows above that id.
    above_low: u64,
    /// The highest id of a row.
    pub(super) latest_row: i64,
    /// The run that has not ended.
    live: Option<i64>,
    /// The ids of directories that the database does not know, ascending, and whether their runs have ended.
    unknown: Vec<(i64, bool)>,
    /// Runs whose directories could not be removed. Each of them was reported once.
    reported: BTreeSet<i64>,
}

impl History {
    /// Adds new runs; at the first call, all runs. Once the server stops, it reads no further journals.
    pub(super) fn refresh(&mut self, runs: &Runs, reader: &Reader, goes_on: impl Fn() -> bool) -> Result<(), RetentionError> {
        if !self.is_counted {
            let rows = reader.run_ids()?;
            let dirs = runs.ids()?;
            // A run that begins between the two reads is not unknown.
            let newest = rows.last().copied().unwrap_or(0);
            let is_new = |id: i64| id > newest && reader.run_log(id).is_ok_and(|row| row.is_some());
            self.unknown = dirs
                .into_iter()
                .filter(|&id| rows.binary_search(&id).is_err() && !is_new(id))
                .map(|id| (id, goes_on() && journal_has_end(runs, id)))
                .collect();
            (self.low, self.above_low, self.latest_row) = (0, rows.len() as u64, newest);
            self.is_counted = true;
        }
        let (new, highest) = reader.count_runs(self.latest_row, i64::MAX)?;
        self.above_low += new;
        self.latest_row = highest.unwrap_or(self.latest_row);
        self.live = reader.live_run()?;
        Ok(())
    }

    /// Returns the latest run that has a row, or, if no run has one, the latest that has a directory; 0 without any run. Directories with
    /// higher ids than every row did not come from this server, because a server reserves the ids of all directories that it finds.
    pub(super) fn latest(&self) -> i64 {
        if self.latest_row > 0 { self.latest_row } else { self.unknown.last().map_or(0, |&(id, _)| id) }
    }

    /// Returns the run up to which all runs have ended, as far as the database knows.
    pub(super) fn all_ended_up_to(&self) -> i64 {
        self.live.map_or(self.latest_row, |live| live - 1)
    }

    /// Returns whether a run has ended, as far as that is recorded.
    pub(super) fn standing(&self, reader: &Reader, id: i64) -> Result<EndState, RetentionError> {
        if self.live == Some(id) {
            return Ok(EndState::Live);
        }
        Ok(match reader.run_log(id)?.map(|row| row.is_over) {
            Some(true) => EndState::Ended,
            Some(false) => EndState::Live,
            None => match self.unknown.binary_search_by_key(&id, |&(unknown, _)| unknown) {
                Ok(n) if self.unknown[n].1 => EndState::Ended,
                // Its row may not have been committed yet.
                Ok(_) | Err(_) => EndState::Unknown,
            },
        })
    }

    /// Removes the oldest runs beyond `kept`, with the directories that are older, and all runs up to `too_old`, but never the
    /// latest run. Hands the deletion of their rows to `writer`. Returns whether all of these runs were removed.
    pub(super) fn forget(
        &mut self,
        runs: &Runs,
        reader: &Reader,
        kept: usize,
        too_old: Option<i64>,
        writer: &Writer,
        goes_on: impl Fn() -> bool,
    ) -> Result<bool, RetentionError> {
        // Directories without a row do not count, so that no number of them removes a run of this server. They are removed once the
        // history is full and they are older than all that it keeps.
        let count = reader.count_runs(0, self.low)?.0 + self.above_low;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let (surplus, is_full) = (count.saturating_sub(kept.max(1)), count >= kept.max(1));
        let latest = self.latest();
        let (mut at, mut looked_at, mut is_done) = (0, 0, true);
        let mut gone = (None, 0);
        loop {
            let due = self.oldest(reader, at)?;
            let mut forgotten = Vec::new();
            let mut is_last = due.is_empty();
            for (id, has_ended, is_row) in due {
                let is_surplus = if is_row { looked_at < surplus } else { is_full };
                let is_due = is_surplus || too_old.is_some_and(|too_old| id <= too_old);
                if !is_due || id >= latest || !goes_on() {
                    is_last = true;
                    is_done &= goes_on();
                    break;
                }
                looked_at += usize::from(is_row);
                at = id;
                if is_row && id > self.low {
                    self.low = id;
                    self.above_low -= 1;
                }
                if !has_ended {
                    continue;
                }
                // A shim that still has facts to add holds the lock of its run.
                let removed = if is_left(runs, id) { removal::remove(runs.run(id).path(), &goes_on) } else { Ok(false) };
                match removed {
                    Ok(true) => {
                        KillPoint::ServerRunDirRemoved.reach();
                        self.reported.remove(&id);
                        gone = (gone.0.or(Some(id)), gone.1 + 1);
                        if is_row {
                            forgotten.push(id);
                        } else {
                            self.unknown.retain(|&(unknown, _)| unknown != id);
                        }
                    }
                    Ok(false) => is_done = false,
                    Err(error) => {
                        if self.reported.insert(id) {
                            ::log::warn!(
                                "cannot remove the directory of run {id}, which was removed from the history: {error}; the \
                                    server tries again later; you can also remove it by hand"
                            );
                        }
                        is_done = false;
                    }
                }
            }
            if !forgotten.is_empty() {
                // If this fails, the next pass or the next server finds the rows again.
                let _found_again = writer.begin(move |store| {
                    let forgot = store.forget_runs(&forgotten);
                    match &forgot {
                        Ok(()) => KillPoint::ServerRunForgotten.reach(),
                        Err(error) => ::log::warn!("failed to remove runs from the history: {error}"),
                    }
                    forgot
                });
            }
            if is_last {
                break;
            }
        }
        if let (Some(first), count) = gone {
            ::log::info!("removed {count} runs from the history: {first} to {at}");
        }
        Ok(is_done)
    }

    /// Returns the oldest runs with ids above `after`: the id, whether the run has ended, and whether it has a row.
    fn oldest(&self, reader: &Reader, after: i64) -> Result<Vec<(i64, bool, bool)>, RetentionError> {
        let mut all: Vec<(i64, bool, bool)> =
            reader.oldest_runs(after, FORGOTTEN_AT_ONCE)?.into_iter().map(|(id, has_ended)| (id, has_ended, true)).collect();
        let from = self.unknown.partition_point(|&(id, _)| id <= after);
        all.extend(self.unknown[from..].iter().take(FORGOTTEN_AT_ONCE).map(|&(id, has_ended)| (id, has_ended, false)));
        all.sort_unstable();
        all.truncate(FORGOTTEN_AT_ONCE);
        Ok(all)
    }
}

/// Returns whether no process writes into a run's directory any longer. Always false for runs behind a link or in a directory of
/// another user, because it cannot be known for them.
pub(super) fn is_left(runs: &Runs, id: i64) -> bool {
    !is_foreign(&runs.path()) && runs.run(id).lock_state().is_ok_and(|lock| lock == LockState::Free)
}

fn journal_has_end(runs: &Runs, id: i64) -> bool {
    let journal = run_dir::read_journal(&runs.run(id).journal_path());
    journal.is_ok_and(|journal| journal.entries.iter().any(|entry| entry.fact.is_end()))
}
