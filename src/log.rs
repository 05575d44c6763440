//! Output on disk: records in segments, and readers with cursors.
//!
//! Level 1. A position in the log is a byte offset over all runs. A run's log begins where the previous run's log ended, so
//! positions only grow, and each is a cursor to seek to. The id of a line is the position after its last byte. The shim writes
//! the log, and the server reads it without asking the shim.
//!
//! A record is one line: 24 bytes of time, a space, the stream (`o`, `e`, or `b` for the server's own log), `.` or `+`, a space,
//! the bytes, a newline. `+` means that the text continues in the next record of that stream: it was longer than a record can be,
//! or it was written before its line ended, so that readers can see it. Segments are files named by the position at which they
//! begin.

mod backend;
mod capture;
mod cursor;
mod listing;
mod loss;
mod needle;
mod packed;
mod packing;
mod pattern;
mod reader;
mod record;
mod run_logs;
mod run_output;
mod search;
mod seek;
mod segment;
mod text;
mod writer;

pub use backend::{BACKEND_LOG, BackendFiles, BackendLog, SAID};
pub use capture::{LineSplitter, RECORDS_ENOUGH};
pub use cursor::{Cursor, Item, RawLine};
pub use listing::{Listing, RunLog, SegmentList, ShortLog};
pub use needle::Needle;
pub use packing::{Packing, pack, remove_unfinished};
pub use pattern::{BadPattern, Pattern};
pub use reader::{Page, Part, SEARCH_BYTES_MAX, read_last, read_page};
pub use record::{Stream, TEXT_MAX};
pub use run_logs::RunLogs;
pub use run_output::{Form, RunOutput};
pub use search::{Found, SEARCH_TURN, Search, Turn};
pub use seek::position_at;
pub use segment::{Place, RUN_START_MAX, Segment, all_segments_in, segments_in};
pub use text::{RunText, TextReader};
pub use writer::{LOSS_MARK_BYTES_MAX, Limits, SegmentWriter};

#[cfg(test)]
mod reader_tests;
#[cfg(test)]
mod search_tests;
#[cfg(test)]
mod text_tests;
#[cfg(test)]
mod turn_tests;
