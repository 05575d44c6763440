//! The database: opening it, its schema, and all SQL.
//!
//! Level 1. The supervisor owns the only [`Store`], which is the only writer. Other threads hand it changes through a [`Writer`],
//! and HTTP threads open a [`Reader`] for each use. A change is one IMMEDIATE transaction that is on the disk when the call
//! returns (WAL, `synchronous=FULL`: <https://www.sqlite.org/pragma.html#pragma_synchronous>), and it increments `version` by one
//! for each new fact. If killed here: all of a change is stored, or nothing.
//!
//! This module contains no rule of the life cycle. [`crate::pipeline`] decides what a fact means. This module stores the result,
//! and refuses a change that does not follow from what is stored.

mod change;
mod check;
mod connection;
mod error;
mod file;
mod hardening;
mod history;
mod index;
mod known;
mod open;
mod reader;
mod request_keys;
mod rows;
mod runs;
mod schema;
mod sessions;
mod work;

#[cfg(test)]
mod tests;

pub use self::change::{NewRun, UnseenEnd};
pub use self::check::{CheckStep, check};
pub use self::connection::{Opened, Store, migrate};
pub use self::error::{StoreError, StoreErrorKind};
pub use self::file::DatabaseFile;
pub use self::history::schema_version;
pub use self::open::BUSY_TIMEOUT;
pub use self::reader::Reader;
pub use self::request_keys::{Begun, KeyedRequest, RequestKey};
pub use self::rows::{LatestRun, PipelineRow, RunLogRow, RunRow, StopRow};
pub use self::runs::{RunFilter, RunsPage};
pub use self::sessions::SessionRow;
pub use self::work::{Work, WorkError, Writer};
