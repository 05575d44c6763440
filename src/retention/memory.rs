//! `retention.json` in the runtime directory: the notes of retention, kept from one server to the next.
//!
//! The notes can be lost: ages are then counted anew, and logs are read once more. So the file is not synced. An unreadable file
//! and a file about another database are ignored. If the run directories were replaced, only the notes about logs are ignored.
//! The file is written under a temporary name first; if killed in between, the previous file stays.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::age::ObservedTime;
use crate::file_id::FileId;
use crate::private::{self, replace_file};

const FILE: &str = "retention.json";

/// The version of the file. Files of other versions are ignored.
const FORMAT: u32 = 1;

/// The largest file that is read, in bytes. The server writes some kilobytes.
const BYTES_MAX: u64 = 1024 * 1024;

/// The notes of retention.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    format: u32,
    /// The database and the folder of run directories that the notes are about.
    database: Option<FileId>,
    runs: Option<FileId>,
    /// How long ago runs ended and request keys were used.
    pub(super) witness: ObservedTime,
    /// No run with a lower id has a log.
    pub(super) log_floor: i64,
    /// All runs up to this one have ended, their shims have exited, and their logs need no packing.
    pub(super) settled: i64,
}

impl Memory {
    /// Reads the notes. They are empty if the file is missing or about another database. Notes about logs of other run
    /// directories are dropped.
    pub(super) fn load(runtime_dir: &Path, database: &Path, runs: &Path) -> Self {
        let mut memory = Self::read(runtime_dir);
        if memory.database != FileId::of(database).ok() {
            return Self::default();
        }
        if memory.runs != FileId::of(runs).ok() {
            (memory.log_floor, memory.settled) = (0, 0);
        }
        memory
    }

    fn read(runtime_dir: &Path) -> Self {
        let path = runtime_dir.join(FILE);
        let memory = private::read(&path, BYTES_MAX).ok().and_then(|text| serde_json::from_slice(&text).ok());
        memory.filter(|memory: &Self| memory.format == FORMAT).unwrap_or_default()
    }

    /// Writes the notes.
    pub(super) fn store(&mut self, runtime_dir: &Path, database: &Path, runs: &Path) -> io::Result<()> {
        self.format = FORMAT;
        (self.database, self.runs) = (FileId::of(database).ok(), FileId::of(runs).ok());
        let text = serde_json::to_vec(self).expect("numbers and plain text are JSON");
        replace_file(&runtime_dir.join(FILE), &text, || ())
    }

    /// Drops notes about runs after `latest`, which belong to a history that no longer exists.
    pub(super) fn keep_to(&mut self, latest: i64) {
        if self.log_floor > latest.saturating_add(1) || self.settled > latest {
            (self.log_floor, self.settled) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn stored_notes_load_and_damaged_notes_are_rejected() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (database, runs) = (dir.path().join("test.db"), dir.path().join("runs"));
        fs::write(&database, "").expect("writes");
        fs::create_dir(&runs).expect("creates");
        let load = || Memory::load(dir.path(), &database, &runs);
        assert_eq!(load(), Memory::default());
        let mut memory = Memory { log_floor: 7, settled: 9, ..Memory::default() };
        memory.witness.note_ended(9);
        memory.store(dir.path(), &database, &runs).expect("writes");
        assert_eq!(load(), memory);
        let text = fs::read_to_string(dir.path().join(FILE)).expect("text");
        for bad in ["", "{", "[]", &text[..text.len() - 1], &text.replace("\"format\":1", "\"format\":2")] {
            fs::write(dir.path().join(FILE), bad).expect("writes");
            assert_eq!(load(), Memory::default(), "{bad}");
        }
        // With other run directories the ages stay valid, but the notes about logs do not.
        fs::write(dir.path().join(FILE), &text).expect("writes");
        fs::rename(&runs, dir.path().join("old")).expect("moves");
        fs::create_dir(&runs).expect("creates");
        assert_eq!((load().witness, load().log_floor, load().settled), (memory.witness.clone(), 0, 0));
        // With another database nothing stays valid.
        fs::rename(&database, dir.path().join("old.db")).expect("moves");
        fs::write(&database, "").expect("writes");
        assert_eq!(load(), Memory::default());
    }

    #[test]
    fn notes_about_runs_beyond_latest_are_discarded() {
        let of = |log_floor, settled| Memory { log_floor, settled, ..Memory::default() };
        for (memory, kept) in [(of(7, 9), of(7, 9)), (of(10, 9), of(10, 9)), (of(11, 9), of(0, 0)), (of(3, 10), of(0, 0))] {
            let mut memory = memory;
            memory.keep_to(9);
            assert_eq!(memory, kept);
        }
    }
}
