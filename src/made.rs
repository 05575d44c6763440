//! The files that a start has created so far, which are removed if the start fails.
//!
//! Level 1. It removes only registered files, never a folder with contents, and nothing once `keep` was called. If killed here:
//! the files stay, and the next start uses them.

use std::fs;
use std::path::{Path, PathBuf};

/// The files and folders. Dropping it removes them, the newest first.
#[derive(Debug, Default)]
pub struct Made(Vec<PathBuf>);

impl Made {
    /// Registers a folder that is about to be created, with the missing folders above it.
    pub fn folder(&mut self, path: &Path) {
        let missing: Vec<&Path> = path.ancestors().take_while(|folder| is_absent(folder)).collect();
        self.0.extend(missing.into_iter().rev().map(Path::to_owned));
    }

    /// Registers a file that is about to be created, unless it exists. The caller holds the lock that keeps others from
    /// creating it.
    pub fn file(&mut self, path: &Path) {
        if is_absent(path) {
            self.made_file(path);
        }
    }

    /// Registers a file that was created.
    pub fn made_file(&mut self, path: &Path) {
        self.0.push(path.to_owned());
    }

    /// Keeps all files, because the start has succeeded.
    pub fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // A file that was not created after all, or a folder with contents, stays. The start already reports its own error.
        for path in self.0.iter().rev() {
            let _was_not_made_or_is_not_empty = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
        }
    }
}

fn is_absent(path: &Path) -> bool {
    !path.as_os_str().is_empty() && fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_start_removes_only_the_files_that_it_created() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let folder = dir.path().join("a/b");
        fs::write(dir.path().join("old"), "").expect("writes");
        let start = |made: &mut Made| {
            made.folder(&folder);
            fs::create_dir_all(&folder).expect("creates");
            for file in [folder.join("new"), folder.join("never"), dir.path().join("old")] {
                made.file(&file);
            }
            fs::write(folder.join("new"), "").expect("writes");
        };
        let mut made = Made::default();
        start(&mut made);
        drop(made);
        assert!(!dir.path().join("a").exists() && dir.path().join("old").exists());

        let mut made = Made::default();
        start(&mut made);
        fs::write(folder.join("foreign"), "").expect("writes");
        drop(made);
        assert!(folder.join("foreign").exists() && !folder.join("new").exists());

        fs::remove_dir_all(dir.path().join("a")).expect("ours");
        let mut made = Made::default();
        start(&mut made);
        made.keep();
        assert!(folder.join("new").exists());
    }
}
