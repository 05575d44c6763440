//! What can go wrong with the database, in sentences that say the file, the reason and what to do next.
//!
//! Which variant an error of `SQLite` becomes is decided here once.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::pipeline::UnknownWord;

/// Why the database did not do what was asked. Nothing of a failed change was kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no file, and the caller asked for one that is there.
    #[error("use {path}: there is no such file; `autoappdev migrate` creates it, or DATABASE_URL names another", path = .path.display())]
    Missing {
        /// The database file.
        path: PathBuf,
    },
    /// The file is no database, or an inconsistent one. It has not been touched.
    #[error(
        "use {path}: it is damaged: {reason}; it has not been touched: move it aside with its -wal and -shm files and start again, or restore a backup",
        path = .path.display()
    )]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What a look at it found.
        reason: String,
    },
    /// A newer version of this program wrote the file. It has not been touched.
    #[error(
        "use {path}: a newer version wrote it: it has schema {found} and this program knows {known}; it has not been touched: run the newer version, or move it aside and start again",
        path = .path.display()
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// The highest schema version in the file's history.
        found: i64,
        /// The highest schema version of this program.
        known: i64,
    },
    /// The file's history names migrations that this program knows differently: a development version wrote it. It has not been touched.
    #[error(
        "use {path}: a development version wrote it, and no release can use its schema: {reason}; it has not been touched: move it aside with its -wal and -shm files and start again, or run the version that wrote it",
        path = .path.display()
    )]
    Divergent {
        /// The database file.
        path: PathBuf,
        /// Which migration, and how it differs.
        reason: String,
    },
    /// The file is a `SQLite` database of another program. It has not been touched.
    #[error(
        "use {path}: it belongs to another program: {reason}; it has not been touched: name another file with DATABASE_URL, or move it aside and start again",
        path = .path.display()
    )]
    Foreign {
        /// The database file.
        path: PathBuf,
        /// What gave it away.
        reason: String,
    },
    /// The file or its folder can't be read or written.
    #[error(
        "open {path} for writing: {reason}; let this user write the file and its folder, or name another file with DATABASE_URL",
        path = .path.display()
    )]
    NotWritable {
        /// The database file.
        path: PathBuf,
        /// What stood in the way.
        reason: String,
    },
    /// A setting that durability or safety stands on was not taken.
    #[error("use {path}: SQLite did not take {setting}; put the file on a local file system that has shared memory and locks", path = .path.display())]
    Setting {
        /// The database file.
        path: PathBuf,
        /// The setting, as `name=value`.
        setting: String,
    },
    /// There is no room for the change.
    #[error("write {path}: the disk is full; make room and try again", path = .path.display())]
    Full {
        /// The database file.
        path: PathBuf,
    },
    /// The file was removed or replaced while it is open.
    #[error(
        "use {path}: it was removed or replaced; put it back, or stop the pipeline and restart the server",
        path = .path.display()
    )]
    Gone {
        /// The database file.
        path: PathBuf,
    },
    /// Another process has held a lock for longer than the wait.
    #[error(
        "use {path}: another process has locked it, such as a backup or a sqlite3 shell with an open transaction; end that process or wait, then try again",
        path = .path.display()
    )]
    Busy {
        /// The database file.
        path: PathBuf,
    },
    /// The change does not fit to what is stored: a fault of the caller, or somebody else wrote in between.
    #[error("change {path}: {reason}; look at the state again", path = .path.display())]
    Conflict {
        /// The database file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A stored value is none of the set that its column holds.
    #[error("read {path}: {word}; run the version that wrote it, or restore a backup", path = .path.display())]
    UnknownWord {
        /// The database file.
        path: PathBuf,
        /// The set and the text.
        word: UnknownWord,
    },
    /// A migration did not go through; the file is as it was.
    #[error("migrate {path}: {reason}; it is as it was: `autoappdev check` looks it over", path = .path.display())]
    Migration {
        /// The database file.
        path: PathBuf,
        /// Which step, and what `SQLite` said.
        reason: String,
    },
    /// Anything else that `SQLite` reports.
    #[error("use {path}: {source}; `autoappdev check` looks it over", path = .path.display())]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// What `SQLite` said.
        source: rusqlite::Error,
    },
}

impl StoreError {
    /// Whether there was no room: the caller answers that apart from all else, for it passes by itself once there is.
    pub const fn is_disk_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// Whether another process holds a lock, a condition that ends with that lock.
    pub const fn is_locked(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }

    /// Whether the same change can go through later: the file, the disk or another process stood in the way, and not what is stored.
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Full { .. }
            | Self::Busy { .. }
            | Self::NotWritable { .. }
            | Self::Gone { .. }
            | Self::Missing { .. }
            | Self::Sqlite { .. } => true,
            Self::Damaged { .. }
            | Self::Newer { .. }
            | Self::Divergent { .. }
            | Self::Foreign { .. }
            | Self::Setting { .. }
            | Self::Conflict { .. }
            | Self::UnknownWord { .. }
            | Self::Migration { .. } => false,
        }
    }

    /// The variant for an error of `SQLite` about the file at `path`.
    pub(super) fn new(path: &Path, error: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match error {
            rusqlite::Error::FromSqlConversionFailure(column, kind, cause) => match cause.downcast::<UnknownWord>() {
                Ok(word) => Self::UnknownWord { path, word: *word },
                Err(cause) => Self::Sqlite { path, source: rusqlite::Error::FromSqlConversionFailure(column, kind, cause) },
            },
            rusqlite::Error::SqliteFailure(failure, _) if is_full(failure) => Self::Full { path },
            rusqlite::Error::SqliteFailure(failure, ref said) => {
                let reason = || said.clone().unwrap_or_else(|| failure.to_string());
                match failure.code {
                    ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Busy { path },
                    ErrorCode::ReadOnly | ErrorCode::PermissionDenied => Self::NotWritable { path, reason: reason() },
                    // A broken CHECK, key or unique index: what was asked for does not fit to what is there.
                    ErrorCode::ConstraintViolation => Self::Conflict { path, reason: reason() },
                    _ => Self::Sqlite { path, source: error },
                }
            }
            source => Self::Sqlite { path, source },
        }
    }

    /// As [`StoreError::new`], for a file that is only being looked at: there, damage is damage and not an accident.
    pub(super) fn found(path: &Path, error: rusqlite::Error) -> Self {
        let told = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => {
                Self::Damaged { path: path.to_owned(), reason: "it is not a SQLite database".to_owned() }
            }
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged { path: path.to_owned(), reason: told },
            Some(ErrorCode::CannotOpen) => Self::NotWritable { path: path.to_owned(), reason: told },
            _ => Self::new(path, error),
        }
    }
}

/// Whether `SQLite` found no room. Growing the shared memory file has a code of its own, and fails for that reason
/// (<https://www.sqlite.org/rescode.html#ioerr_shmsize>).
fn is_full(failure: rusqlite::ffi::Error) -> bool {
    failure.code == ErrorCode::DiskFull || failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
}
