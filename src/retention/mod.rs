//! Retention: which runs, how much of their logs, and which request keys are kept.
//!
//! Level 2. A thread of the lowest priority removes old runs and old log segments, and packs finished segments. It deletes no
//! rows itself, because only one thread writes to the database: it hands the deletion of rows to that thread.

mod age;
mod disk;
mod error;
mod history;
mod housekeeping;
mod limits;
mod logs;
mod memory;
mod removal;
mod thread;

pub use limits::{Limits, segment_bytes_on};
pub use thread::{Retention, Waker};
