//! Retention: which runs, and how much of their logs, are kept on the disk.
//!
//! Level 2. A thread of the lowest priority removes old runs, removes old segments of the log and packs finished ones. It deletes no rows
//! itself: one thread writes to the database, and rows of removed runs are handed to that.

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
