//! How files are written that nobody but their owner may read, and how their names are made durable.
//!
//! Level 0.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Opens or creates a file for writing, mode 0600 from its first moment.
pub fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

/// Makes entries of a directory durable (`fsync(2)`: syncing a file does not sync the entry that names it).
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// `path` with a suffix.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Puts `text` in the place of the file at `path`, whole or not at all: it is written beside it and renamed. Not synced. `before_rename` is
/// called in between. On an error nothing is left beside it, where it would keep room on a full disk from others.
pub fn replace_file(path: &Path, text: &[u8], before_rename: impl FnOnce()) -> io::Result<()> {
    let beside = beside(path, ".new");
    let written = private_file().truncate(true).open(&beside).and_then(|mut file| file.write_all(text));
    let renamed = written.and_then(|()| {
        before_rename();
        fs::rename(&beside, path)
    });
    renamed.inspect_err(|_| {
        let _was_not_made = fs::remove_file(&beside);
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replaced_file_is_private_and_a_failure_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("a.json");
        for text in ["longer", "short"] {
            replace_file(&path, text.as_bytes(), || ()).expect("writes");
            assert_eq!(fs::read_to_string(&path).expect("there"), text);
        }
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let folder = dir.path().join("b.json");
        fs::create_dir(&folder).expect("creates");
        replace_file(&folder, b"text", || ()).expect_err("a folder is in the way");
        assert!(!dir.path().join("b.json.new").exists());
    }
}
