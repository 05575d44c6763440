//! "Not found" as an answer instead of an error.
//!
//! Level 0.

use std::io;

/// Returns `None` if the call failed because something does not exist (`ENOENT`).
pub fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}
