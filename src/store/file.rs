//! The database's file: its path, and whether the path still leads to the file that the store opened.

use std::path::{Path, PathBuf};

use super::error::StoreErrorKind;
use crate::file_id::FileId;

/// The file of an open database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseFile {
    path: PathBuf,
    id: Option<FileId>,
}

impl DatabaseFile {
    /// Returns the file that is at `path` now.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), id: FileId::of_name(path).ok() }
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses a file that was removed or replaced, even by a link to itself, because the link can be changed to lead elsewhere.
    pub(super) fn check(&self) -> Result<(), StoreErrorKind> {
        // SQLite continues to write to a removed file, where the changes are lost. Opening a file that replaced it is worse: both
        // have the same -shm file, which SQLite truncates because locks do not exclude one another within a process
        // (https://www.sqlite.org/howtocorrupt.html, section 2.2). A thread that reads the first file at that moment gets SIGBUS.
        if FileId::of_name(&self.path).ok() == self.id { Ok(()) } else { Err(StoreErrorKind::Gone) }
    }
}
