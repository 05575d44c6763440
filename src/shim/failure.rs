//! Why a shim could not do its work, and where it says so.

use std::io::{self, Write};

/// Why a shim could not do its work. Goes to `shim.log`.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShimError {
    #[error("failed to {0}: {1}")]
    Step(&'static str, io::Error),
    #[error("the launch specification is no good: {0}")]
    Spec(serde_json::Error),
    #[error("no launch specification came")]
    NoSpec,
}

/// Names the step that failed.
pub(super) trait InStep<T> {
    fn in_step(self, step: &'static str) -> Result<T, ShimError>;
}

impl<T, E: Into<io::Error>> InStep<T> for Result<T, E> {
    fn in_step(self, step: &'static str) -> Result<T, ShimError> {
        self.map_err(|error| ShimError::Step(step, error.into()))
    }
}

/// To `shim.log`. It may lie on a disk that is full, where `eprintln!` would panic and take the run with it.
pub(super) fn complain(text: std::fmt::Arguments<'_>) {
    let _no_one_to_tell = writeln!(io::stderr(), "autoappdev shim: {text}");
}
