//! A run's journal: the facts that the shim knows, the part that is in the file, and the part that survives a power cut.

use super::env::Env;
use crate::clock::{Timestamp, whole_ms};
use crate::pipeline::{Entry, Fact, Origin};
use crate::run_dir::{Header, ReadJournal};

/// The journal, see the module. `synced` ≤ `written` ≤ all entries.
#[derive(Default)]
pub(super) struct Journal {
    pub(super) header: Option<Header>,
    /// All facts that the shim has numbered, written or not.
    pub(super) entries: Vec<Entry>,
    pub(super) written: usize,
    synced: usize,
    owes_sync: bool,
    header_is_synced: bool,
}

impl Journal {
    /// Numbers a fact and writes it if the disk has room.
    pub(super) fn append(
        &mut self,
        env: &Env,
        not_before: Timestamp,
        fact: Fact,
        origin: Option<Origin>,
        durable: bool,
    ) -> Entry {
        let (seq, floor) = self.entries.last().map_or((1, not_before), |last| (last.seq + 1, last.at));
        let entry = Entry { seq, at: env.wall().max(floor), boot_ms: whole_ms(env.since_boot()), origin, fact };
        self.entries.push(entry.clone());
        self.owes_sync |= durable;
        self.flush(env);
        entry
    }

    /// Writes the waiting facts if the disk has room. Returns whether none is waiting any more.
    pub(super) fn flush(&mut self, env: &Env) -> bool {
        if !env.disk.journal_is_full {
            self.written = self.entries.len();
            if std::mem::take(&mut self.owes_sync) {
                (self.synced, self.header_is_synced) = (self.written, true);
            }
        }
        !self.is_behind()
    }

    pub(super) fn is_behind(&self) -> bool {
        self.written < self.entries.len()
    }

    /// Returns the entries in the file.
    pub(super) fn in_file(&self) -> &[Entry] {
        &self.entries[..self.written]
    }

    /// Checks whether the file contains the end of the run.
    pub(super) fn holds_end(&self) -> bool {
        self.header.is_some() && self.in_file().iter().any(|entry| entry.fact.is_end())
    }

    pub(super) fn read(&self) -> Option<ReadJournal> {
        let header = self.header.clone()?;
        Some(ReadJournal { header, entries: self.in_file().to_vec(), damaged_lines: 0 })
    }

    /// Removes some of the entries that were not synced, from the end.
    pub(super) fn lose_power(&mut self, env: &mut Env) {
        let kept = env.rng.between(self.synced as u64, self.written as u64 + 1);
        let kept = usize::try_from(kept).expect("below a length");
        if kept < self.written {
            env.cover("a power cut took facts that were not synced");
        }
        self.written = kept;
        if kept == 0 && !self.header_is_synced && self.header.is_some() && env.rng.chance(500) {
            self.header = None;
            env.cover("a power cut took a journal");
        }
    }
}
