//! How files are opened that nobody but their owner may read.
//!
//! Level 0: says how, opens nothing.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

/// Opens or creates a file for writing, mode 0600 from its first moment.
pub fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}
