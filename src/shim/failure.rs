//! The errors of a shim, and where it reports them.

use std::io::{self, Write};

use crate::console::printable;

/// The reason why a shim could not do its work. Written to `shim.log`.
#[derive(Debug, thiserror::Error)]
#[error("failed to {step}: {cause}")]
pub(super) struct ShimError {
    step: &'static str,
    pub(super) cause: io::Error,
}

/// Adds the name of the failed step to an error.
pub(super) trait InStep<T> {
    fn in_step(self, step: &'static str) -> Result<T, ShimError>;
}

impl<T, E: Into<io::Error>> InStep<T> for Result<T, E> {
    fn in_step(self, step: &'static str) -> Result<T, ShimError> {
        self.map_err(|error| ShimError { step, cause: error.into() })
    }
}

/// Writes to `shim.log`. The disk can be full, in which case `eprintln!` would panic and end the run.
pub(super) fn complain(text: std::fmt::Arguments<'_>) {
    // One line, whatever a path in it contains.
    let _no_one_to_tell = writeln!(io::stderr(), "autoappdev shim: {}", printable(&text.to_string()));
}
