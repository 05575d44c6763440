//! Why a shim could not do its work, and where it says so.

use std::io::{self, Write};

use crate::console::printable;

/// Why a shim could not do its work. Goes to `shim.log`.
#[derive(Debug, thiserror::Error)]
#[error("failed to {step}: {cause}")]
pub(super) struct ShimError {
    step: &'static str,
    pub(super) cause: io::Error,
}

/// Names the step that failed.
pub(super) trait InStep<T> {
    fn in_step(self, step: &'static str) -> Result<T, ShimError>;
}

impl<T, E: Into<io::Error>> InStep<T> for Result<T, E> {
    fn in_step(self, step: &'static str) -> Result<T, ShimError> {
        self.map_err(|error| ShimError { step, cause: error.into() })
    }
}

/// To `shim.log`. It may lie on a disk that is full, where `eprintln!` would panic and take the run with it.
pub(super) fn complain(text: std::fmt::Arguments<'_>) {
    // One line, whatever path is in it.
    let _no_one_to_tell = writeln!(io::stderr(), "autoappdev shim: {}", printable(&text.to_string()));
}
