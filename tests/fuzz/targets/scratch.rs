//! Files for reading and writing, in memory if a file system exists for that.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

static SCRATCH: Mutex<Option<TempDir>> = Mutex::new(None);

/// Runs `work` in a folder that is empty before and after it, one at a time.
pub fn in_empty_folder(work: impl FnOnce(&Path)) {
    let mut scratch = SCRATCH.lock().unwrap_or_else(PoisonError::into_inner);
    let memory = Path::new("/dev/shm");
    // The folder is taken while `work` runs. If `work` panics, the folder is dropped, and the next call creates a new one.
    let folder = scratch.take().unwrap_or_else(|| {
        let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        made.expect("a temp folder")
    });
    work(folder.path());
    for entry in std::fs::read_dir(folder.path()).expect("there") {
        let path = entry.expect("there").path();
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.expect("removes");
    }
    *scratch = Some(folder);
}
