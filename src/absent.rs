//! The one error that is often an answer: what a call was to find is not there.
//!
//! Level 0.

use std::io;

/// `None` where a call has found nothing (`ENOENT`).
pub fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}
