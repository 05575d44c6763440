//! How the program's own files are opened, and how their names are made durable.
//!
//! Somebody may have put a link, a pipe or a folder where a file belongs, in a project that was cloned for example. None of these functions
//! follows a link at the end of a path or waits for the other end of a pipe.
//!
//! Level 0.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Opens or creates a file for writing, mode 0600 from its first moment.
pub fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600).custom_flags(open_flags());
    options
}

/// Opens a regular file for reading; anything else is [`io::ErrorKind::InvalidInput`].
pub fn open(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().read(true).custom_flags(open_flags()).open(path);
    regular(opened.map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP) => io::Error::new(io::ErrorKind::InvalidInput, "it is a symbolic link"),
        // A socket.
        Some(Errno::NXIO) => io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"),
        _ => error,
    })?)
}

/// The file, if it is a regular one; anything else is [`io::ErrorKind::InvalidInput`].
pub fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

/// Reads a regular file of at most this many bytes; a longer one is [`io::ErrorKind::FileTooLarge`].
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let count = open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if count as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

fn open_flags() -> i32 {
    (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed()
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
    fn only_a_regular_file_of_a_bounded_size_is_read() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "text").expect("writes");
        std::os::unix::fs::symlink(path("file"), path("link")).expect("links");
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("makes");
        fs::create_dir(path("folder")).expect("creates");
        assert_eq!(read(&path("file"), 4).expect("fits"), b"text");
        assert_eq!(read(&path("file"), 3).expect_err("too long").kind(), io::ErrorKind::FileTooLarge);
        for name in ["link", "pipe", "folder"] {
            open(&path(name)).expect_err(name);
            // Opened to be written too, a pipe waits for nobody; whether it is a file is then a question of its own.
            private_file().read(true).open(path(name)).and_then(regular).expect_err(name);
        }
        assert_eq!(open(&path("missing")).expect_err("missing").kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::read(path("file")).expect("there"), b"text");
    }

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
