//! Errors of the database. Each text contains the file, the reason and what to do next.
//!
//! Only this file decides which kind an error of `SQLite` has.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::pipeline::UnknownText;

/// The reason why an operation of the database failed. A failed change stores nothing.
#[derive(Debug)]
pub struct StoreError {
    /// The database file.
    pub path: PathBuf,
    /// The kind of error.
    pub kind: StoreErrorKind,
}

/// The kinds of database errors. The texts are reasons, where the kind alone does not say enough.
#[derive(Debug, thiserror::Error)]
pub enum StoreErrorKind {
    /// The file does not exist, and the caller needs an existing one.
    #[error("there is no such file; `autoappdev migrate` creates it, or DATABASE_URL names another")]
    Missing,
    /// The file is not a database, or is inconsistent. It has not been touched.
    #[error(
        "it is damaged: {0}; it has not been touched: move it aside with its -wal and -shm files and start again, or restore a backup"
    )]
    Damaged(String),
    /// A newer version of this program wrote the file. It has not been touched.
    #[error(
        "a newer version wrote it: it has schema {found} and this program knows {known}; it has not been touched: run the newer version, or move it aside and start again"
    )]
    Newer {
        /// The highest schema version in the file's history.
        found: i64,
        /// The highest schema version of this program.
        known: i64,
    },
    /// The file's history names migrations that this program knows differently: a development version wrote it. It has not been
    /// touched.
    #[error(
        "a development version wrote it, and no release can use its schema: {0}; it has not been touched: move it aside with its -wal and -shm files and start again, or run the version that wrote it"
    )]
    Divergent(String),
    /// The file is a `SQLite` database of another program. It has not been touched.
    #[error(
        "it belongs to another program: {0}; it has not been touched: name another file with DATABASE_URL, or move it aside and start again"
    )]
    Foreign(String),
    /// The file was refused for one of the reasons above, after an unfinished transaction in it had been rolled back.
    #[error("a transaction that was cut off was undone from the rollback journal beside it; now {0}")]
    RolledBack(String),
    /// The file or its folder cannot be read or written.
    #[error("{0}; let this user write the file and its folder, or name another file with DATABASE_URL")]
    NotWritable(String),
    /// `SQLite` rejected a setting that durability or safety depends on, as `name=value`.
    #[error("SQLite rejected {0}; put the file on a local file system that has shared memory and locks")]
    Setting(String),
    /// The disk has no room for the change. Trying again works once there is room.
    #[error("the disk is full; make room and try again")]
    Full,
    /// The file was removed or replaced while it was open.
    #[error("it was removed or replaced; put it back, or stop the pipeline and restart the server")]
    Gone,
    /// Another process has held a lock for longer than the timeout. Trying again works once the lock is released.
    #[error(
        "another process has locked it, such as a backup or a sqlite3 shell with an open transaction; end that process or wait, then try again"
    )]
    Busy,
    /// The change does not fit the stored data: a fault of the caller, or another process wrote in between.
    #[error("{0}; check the state again")]
    Conflict(String),
    /// A stored value is not one of the words that its column allows.
    #[error("{0}; run the version that wrote it, or restore a backup")]
    UnknownText(UnknownText),
    /// A migration failed; the file is unchanged.
    #[error("{0}; it is unchanged; check it with `autoappdev check`")]
    Migration(String),
    /// Anything else that `SQLite` reports.
    #[error("{0}; check it with `autoappdev check`")]
    Sqlite(rusqlite::Error),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.kind {
            StoreErrorKind::NotWritable(_) => write!(f, "open {path} for writing"),
            StoreErrorKind::Full => write!(f, "write {path}"),
            StoreErrorKind::Conflict(_) => write!(f, "change {path}"),
            StoreErrorKind::UnknownText(_) => write!(f, "read {path}"),
            StoreErrorKind::Migration(_) => write!(f, "migrate {path}"),
            _ => write!(f, "use {path}"),
        }?;
        write!(f, ": {}", self.kind)
    }
}

impl std::error::Error for StoreError {}

impl StoreError {
    /// An error about the file at `path`.
    pub(super) fn new(path: &Path, kind: impl Into<StoreErrorKind>) -> Self {
        Self { path: path.to_owned(), kind: kind.into() }
    }

    /// Checks whether the same change can succeed later: the cause is the file, the disk or another process, and not the stored
    /// data.
    pub const fn may_pass(&self) -> bool {
        use StoreErrorKind as Kind;
        match self.kind {
            Kind::Full | Kind::Busy | Kind::NotWritable(_) | Kind::Gone | Kind::Missing | Kind::Sqlite(_) => true,
            Kind::Damaged(_) | Kind::Newer { .. } | Kind::Divergent(_) | Kind::Foreign(_) | Kind::Setting(_) => false,
            Kind::Conflict(_) | Kind::UnknownText(_) | Kind::Migration(_) | Kind::RolledBack(_) => false,
        }
    }
}

impl StoreErrorKind {
    /// Converts the error for a file that is being opened or checked: corruption is `Damaged`, and a file that cannot be opened
    /// is `NotWritable`.
    pub(super) fn found(self) -> Self {
        let Self::Sqlite(error) = self else { return self };
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::Damaged("it is not a SQLite database".to_owned()),
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged(error.to_string()),
            Some(ErrorCode::CannotOpen) => Self::NotWritable(error.to_string()),
            _ => Self::Sqlite(error),
        }
    }

    /// Converts the error for a file that was changed by a rollback before it was refused.
    pub(super) fn after_rollback(self) -> Self {
        match self {
            Self::Damaged(_) | Self::Newer { .. } | Self::Divergent(_) | Self::Foreign(_) => {
                Self::RolledBack(self.to_string().replace("it has not been touched", "nothing else in it was changed"))
            }
            other => other,
        }
    }
}

impl From<rusqlite::Error> for StoreErrorKind {
    fn from(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::FromSqlConversionFailure(column, kind, cause) => match cause.downcast::<UnknownText>() {
                Ok(word) => Self::UnknownText(*word),
                Err(cause) => Self::Sqlite(rusqlite::Error::FromSqlConversionFailure(column, kind, cause)),
            },
            rusqlite::Error::SqliteFailure(failure, ref said) => {
                let reason = || said.clone().unwrap_or_else(|| failure.to_string());
                match failure.code {
                    ErrorCode::DiskFull => Self::Full,
                    // Growing the shared memory file also fails if there is no room
                    // (https://www.sqlite.org/rescode.html#ioerr_shmsize).
                    _ if failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE => Self::Full,
                    ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Busy,
                    ErrorCode::ReadOnly | ErrorCode::PermissionDenied => Self::NotWritable(reason()),
                    // A violated CHECK, key or unique index: the change does not fit the stored data.
                    ErrorCode::ConstraintViolation => Self::Conflict(reason()),
                    _ => Self::Sqlite(error),
                }
            }
            other => Self::Sqlite(other),
        }
    }
}

/// Converts an error of the file itself or its folder.
impl From<io::Error> for StoreErrorKind {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull => Self::Full,
            _ => Self::NotWritable(error.to_string()),
        }
    }
}
