//! The database: opening it, its schema, and all SQL.
//!
//! Level 1. The supervisor owns the one [`Store`], which writes, and takes in what others hand it through a [`Writer`]; HTTP threads open a
//! [`Reader`] for each use. A change is one IMMEDIATE
//! transaction that is on the disk when the call returns (WAL, `synchronous=FULL`: <https://www.sqlite.org/pragma.html#pragma_synchronous>),
//! and counts `version` up by one for each thing newly known. If killed here: all of a change is there, or nothing.
//!
//! No rule of the life cycle stands here. What a fact means is decided in [`crate::pipeline`]; this file keeps it, and refuses
//! what does not follow from what is stored.

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
