//! The identity of a file or folder, whatever its path: its device and inode.
//!
//! Level 0. The inode number of a removed file can be reused. So an id distinguishes two files only as long as one of them is
//! held open, or is known to exist for another reason.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The identity of a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileId {
    /// The device.
    pub dev: u64,
    /// The inode on it.
    pub ino: u64,
}

impl FileId {
    /// Returns the id of what `path` leads to. Follows links.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|found| Self::from(&found))
    }

    /// Returns the id of what has this name. Does not follow a link.
    pub fn of_name(path: &Path) -> io::Result<Self> {
        fs::symlink_metadata(path).map(|found| Self::from(&found))
    }
}

impl From<&Metadata> for FileId {
    fn from(found: &Metadata) -> Self {
        Self { dev: found.dev(), ino: found.ino() }
    }
}
