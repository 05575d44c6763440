//! The PAUSE file, which exists while the pipeline is paused, for programs outside it.
//!
//! It is a sign, not a record, so nothing waits for it. If the disk does not allow its creation or removal, that is retried
//! until it succeeds, and reported in the meantime.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::absent::if_there;
use crate::private;
use crate::run_dir::PAUSE_FILE;

pub(super) struct PauseFile {
    path: PathBuf,
    is_wanted: bool,
    failure: Option<io::Error>,
}

impl PauseFile {
    pub(super) fn new(runtime_dir: &Path) -> Self {
        Self { path: runtime_dir.join(PAUSE_FILE), is_wanted: false, failure: None }
    }

    /// Switches to the file in another runtime directory, a copy of the previous one.
    pub(super) fn move_to(&mut self, runtime_dir: &Path) {
        self.path = runtime_dir.join(PAUSE_FILE);
        self.retry();
    }

    pub(super) fn set(&mut self, is_wanted: bool) {
        self.is_wanted = is_wanted;
        self.retry();
    }

    pub(super) fn retry(&mut self) {
        let done = if self.is_wanted { private::writable(&self.path).map(drop) } else { fs::remove_file(&self.path) };
        // If the folder was removed, no program can check for the file in it either.
        self.failure = if_there(done).err();
    }

    /// Leaves the file alone, because it belongs to another run by now.
    pub(super) fn leave(&mut self) {
        self.failure = None;
    }

    pub(super) fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref()
    }
}
