//! The PAUSE file: there while the pipeline is paused, for programs outside of it.
//!
//! A sign and no record, so nothing waits for it: where the disk does not let it be made or taken away, that is tried again until
//! it goes, and said in the meantime.

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
        // If the folder is gone, no program can look for the file in it either.
        self.failure = if_there(done).err();
    }

    /// It is somebody else's by now.
    pub(super) fn leave(&mut self) {
        self.failure = None;
    }

    pub(super) fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref()
    }
}
