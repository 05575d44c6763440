//! What can go wrong with the database, in sentences that say the file, the reason and what to do next.
//!
//! Which kind an error of `SQLite` is of is decided here once.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::pipeline::UnknownWord;

/// Why the database did not do what was asked. Nothing of a failed change was kept.
#[derive(Debug)]
pub struct StoreError {
    /// The database file.
    pub path: PathBuf,
    /// What went wrong.
    pub kind: StoreErrorKind,
}

/// What went wrong with a database. Texts are the reasons, as far as there is more to say than the kind.
#[derive(Debug, thiserror::Error)]
pub enum StoreErrorKind {
    /// There is no file, and the caller asked for one that is there.
    #[error("there is no such file; `autoappdev migrate` creates it, or DATABASE_URL names another")]
    Missing,
    /// The file is no database, or an inconsistent one. It has not been touched.
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
    /// The file's history names migrations that this program knows differently: a development version wrote it. It has not been touched.
    #[error(
        "a development version wrote it, and no release can use its schema: {0}; it has not been touched: move it aside with its -wal and -shm files and start again, or run the version that wrote it"
    )]
    Divergent(String),
    /// The file is a `SQLite` database of another program. It has not been touched.
    #[error(
        "it belongs to another program: {0}; it has not been touched: name another file with DATABASE_URL, or move it aside and start again"
    )]
    Foreign(String),
    /// The file was refused for one of the reasons above, after a transaction that was cut off in it had been undone.
    #[error("a transaction that was cut off was undone from the rollback journal beside it; now {0}")]
    RolledBack(String),
    /// The file or its folder can't be read or written.
    #[error("{0}; let this user write the file and its folder, or name another file with DATABASE_URL")]
    NotWritable(String),
    /// A setting that durability or safety stands on, as `name=value`, was not taken.
    #[error("SQLite rejected {0}; put the file on a local file system that has shared memory and locks")]
    Setting(String),
    /// There is no room for the change. It passes by itself once there is.
    #[error("the disk is full; make room and try again")]
    Full,
    /// The file was removed or replaced while it is open.
    #[error("it was removed or replaced; put it back, or stop the pipeline and restart the server")]
    Gone,
    /// Another process has held a lock for longer than the wait. It passes with that lock.
    #[error(
        "another process has locked it, such as a backup or a sqlite3 shell with an open transaction; end that process or wait, then try again"
    )]
    Busy,
    /// The change does not fit to what is stored: a fault of the caller, or somebody else wrote in between.
    #[error("{0}; check the state again")]
    Conflict(String),
    /// A stored value is none of the set that its column holds.
    #[error("{0}; run the version that wrote it, or restore a backup")]
    UnknownWord(UnknownWord),
    /// A migration did not go through; the file is as it was.
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
            StoreErrorKind::UnknownWord(_) => write!(f, "read {path}"),
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

    /// Whether the same change can go through later: the file, the disk or another process stood in the way, and not what is stored.
    pub const fn may_pass(&self) -> bool {
        use StoreErrorKind as Kind;
        match self.kind {
            Kind::Full | Kind::Busy | Kind::NotWritable(_) | Kind::Gone | Kind::Missing | Kind::Sqlite(_) => true,
            Kind::Damaged(_) | Kind::Newer { .. } | Kind::Divergent(_) | Kind::Foreign(_) | Kind::Setting(_) => false,
            Kind::Conflict(_) | Kind::UnknownWord(_) | Kind::Migration(_) | Kind::RolledBack(_) => false,
        }
    }
}

impl StoreErrorKind {
    /// The same for a file that is only being looked at: there, damage is damage and not an accident.
    pub(super) fn found(self) -> Self {
        let Self::Sqlite(error) = self else { return self };
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::Damaged("it is not a SQLite database".to_owned()),
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged(error.to_string()),
            Some(ErrorCode::CannotOpen) => Self::NotWritable(error.to_string()),
            _ => Self::Sqlite(error),
        }
    }

    /// The same for a file that was changed by the rollback of a transaction before it was refused.
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
            rusqlite::Error::FromSqlConversionFailure(column, kind, cause) => match cause.downcast::<UnknownWord>() {
                Ok(word) => Self::UnknownWord(*word),
                Err(cause) => Self::Sqlite(rusqlite::Error::FromSqlConversionFailure(column, kind, cause)),
            },
            rusqlite::Error::SqliteFailure(failure, ref said) => {
                let reason = || said.clone().unwrap_or_else(|| failure.to_string());
                match failure.code {
                    ErrorCode::DiskFull => Self::Full,
                    // Growing the shared memory file fails for want of room too (https://www.sqlite.org/rescode.html#ioerr_shmsize).
                    _ if failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE => Self::Full,
                    ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Busy,
                    ErrorCode::ReadOnly | ErrorCode::PermissionDenied => Self::NotWritable(reason()),
                    // A broken CHECK, key or unique index: what was asked for does not fit to what is there.
                    ErrorCode::ConstraintViolation => Self::Conflict(reason()),
                    _ => Self::Sqlite(error),
                }
            }
            other => Self::Sqlite(other),
        }
    }
}

/// Of the file itself or its folder.
impl From<io::Error> for StoreErrorKind {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull => Self::Full,
            _ => Self::NotWritable(error.to_string()),
        }
    }
}
