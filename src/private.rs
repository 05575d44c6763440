//! Opens the program's own files, and makes their names durable.
//!
//! A cloned project, for example, can contain a link, a pipe or a directory in place of a file. These functions do not follow a
//! link in the last component of a path, do not wait for the other end of a pipe, and return only regular files. Every file of a
//! runtime directory, except for the database, is opened by one of them. A file of another user is refused: its owner could
//! change it at any time, and could lock it.
//!
//! Level 0.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::user;

/// Returns the options to open or create a file for writing, with mode 0600 from the start. Meant for `create_new`, which opens
/// no existing file; use [`writable`] or [`append`] for a file that may exist.
pub fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600).custom_flags(open_flags());
    options
}

/// Opens a regular file for reading. Anything else is [`io::ErrorKind::InvalidInput`], and a file of another user
/// [`io::ErrorKind::PermissionDenied`].
pub fn open(path: &Path) -> io::Result<File> {
    trusted(path, open_of_any_user(path)?)
}

/// Like [`open`], for a caller that checks the owner by its own rule.
pub fn open_of_any_user(path: &Path) -> io::Result<File> {
    regular(OpenOptions::new().read(true).custom_flags(open_flags()).open(path))
}

/// Opens or creates a regular file for reading and writing.
pub fn writable(path: &Path) -> io::Result<File> {
    trusted(path, regular(private_file().read(true).open(path))?)
}

/// Opens or creates a regular file for appending.
pub fn append(path: &Path) -> io::Result<File> {
    trusted(path, regular(private_file().append(true).open(path))?)
}

/// Returns the opened file if no other user owns it.
fn trusted(path: &Path, file: File) -> io::Result<File> {
    let owner = file.metadata()?.uid();
    if user::is_trusted_owner(owner, path) { Ok(file) } else { Err(belongs_to(owner)) }
}

fn belongs_to(owner: u32) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("it belongs to {}", user::another(owner)))
}

/// The lower bits of a mode, which are the permissions of the group and of other users.
const OWNER_BITS: u32 = 6;

/// Removes other users' permissions from a file or directory of this user. Otherwise they could read it, or lock it for ever:
/// `flock(2)` needs only an open file.
///
/// Returns the previous mode if other users had permissions, and `None` if nothing had to change. Does nothing if the path does
/// not exist, or is neither a file nor a directory; the function that opens it reports that.
///
/// # Errors
/// A file of another user is [`io::ErrorKind::PermissionDenied`]. For a server that is not root this includes files of root,
/// which it could not write.
pub fn make_private(path: &Path) -> io::Result<Option<u32>> {
    // Neither opens a device or a pipe, nor follows a link.
    let flags = (OFlags::PATH | OFlags::NOFOLLOW).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let found = file.metadata()?;
    if !user::is_own(found.uid()) {
        return Err(belongs_to(found.uid()));
    }
    let mode = found.mode() & 0o7777;
    if !(found.is_file() || found.is_dir()) || mode.trailing_zeros() >= OWNER_BITS {
        return Ok(None);
    }
    // By the descriptor: meanwhile a link can have the name.
    fs::set_permissions(format!("/proc/self/fd/{}", file.as_raw_fd()), fs::Permissions::from_mode(mode & 0o700))?;
    Ok(Some(mode))
}

/// Creates a file in place of any existing one with that name. The existing file is removed, not written to: it may be a link or
/// have other names.
pub fn create_anew(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    private_file().read(true).create_new(true).open(path)
}

/// Opens a directory. Follows a link to it: a user may keep large directories elsewhere.
pub fn open_dir(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlags::DIRECTORY.bits().cast_signed()).open(path)
}

/// Returns the opened file if it is a regular file.
fn regular(opened: io::Result<File>) -> io::Result<File> {
    let wrong = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    match opened {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        Ok(_) => wrong("it is not a regular file"),
        Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::LOOP) => wrong("it is a symbolic link"),
            // A socket, a pipe without a reader, or a directory.
            Some(Errno::NXIO | Errno::ISDIR) => wrong("it is not a regular file"),
            _ => Err(error),
        },
    }
}

/// Reads a regular file of at most `bytes_max` bytes; a longer one is [`io::ErrorKind::FileTooLarge`].
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    read_open(open(path)?, bytes_max)
}

/// Like [`read`], for an open file.
pub fn read_open(file: File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {bytes_max} bytes"));
    // A sparse file can claim any size. Its size is checked first, so that it is not read only to find that out.
    if file.metadata()?.len() > bytes_max {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // The file may grow while it is read.
    let count = file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if count as u64 > bytes_max { Err(too_large()) } else { Ok(bytes) }
}

fn open_flags() -> i32 {
    (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed()
}

/// Makes entries of a directory durable (`fsync(2)`: syncing a file does not sync the entry that names it).
pub fn sync_dir(path: &Path) -> io::Result<()> {
    open_dir(path)?.sync_all()
}

/// Returns `path` with a suffix.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Replaces the file at `path` with `text`, completely or not at all: writes a temporary file beside it and renames that. Does
/// not sync. Calls `before_rename` in between. After an error the temporary file is removed, so that it takes no space on a full
/// disk.
pub fn replace_file(path: &Path, text: &[u8], before_rename: impl FnOnce()) -> io::Result<()> {
    let beside = beside(path, ".new");
    let written = create_anew(&beside).and_then(|mut file| file.write_all(text));
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
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::fs::{CWD, RenameFlags};

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
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).expect("binds");
        std::os::unix::fs::symlink("nowhere", path("dangling")).expect("links");
        for name in ["link", "pipe", "folder", "socket", "dangling"] {
            for opened in [open(&path(name)), writable(&path(name)), append(&path(name))] {
                assert_eq!(opened.expect_err(name).kind(), io::ErrorKind::InvalidInput, "{name}");
            }
        }
        assert!(!path("nowhere").exists());
        open_dir(&path("pipe")).expect_err("a pipe");
        open_dir(&path("folder")).expect("a folder");
        File::create(path("hole")).and_then(|file| file.set_len(400 << 30)).expect("a hole");
        assert_eq!(read(&path("hole"), 1 << 38).expect_err("not read at all").kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(open(&path("missing")).expect_err("missing").kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::read(path("file")).expect("there"), b"text");
    }

    /// Another thread exchanges the file for a link to another one and back meanwhile.
    #[test]
    fn mode_is_changed_of_no_file_that_a_link_leads_to() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let [path, victim, link] = ["a", "victim", "link"].map(|name| dir.path().join(name));
        let mode = |path: &Path| fs::symlink_metadata(path).expect("there").mode() & 0o777;
        for path in [&path, &victim] {
            fs::write(path, "").expect("writes");
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("ours");
        }
        std::os::unix::fs::symlink(&victim, &link).expect("links");
        assert_eq!(make_private(&link).expect("a link"), None);
        assert_eq!(make_private(&dir.path().join("missing")).expect("nothing"), None);
        let file = File::open(&path).expect("there");
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    file.set_permissions(fs::Permissions::from_mode(0o644)).expect("ours");
                    rustix::fs::renameat_with(CWD, &path, CWD, &link, RenameFlags::EXCHANGE).expect("exchanges");
                }
            });
            for _ in 0..50_000 {
                make_private(&path).expect("ours");
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!(mode(&victim), 0o644);
        for mode in [0o644, 0o602, 0o600] {
            file.set_permissions(fs::Permissions::from_mode(mode)).expect("ours");
            let path = if fs::symlink_metadata(&path).expect("there").is_symlink() { &link } else { &path };
            assert_eq!(make_private(path).expect("ours"), (mode != 0o600).then_some(mode));
            assert_eq!(file.metadata().expect("open").mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn link_or_pipe_at_temporary_name_is_not_written_to() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (path, beside, victim) = (dir.path().join("a"), dir.path().join("a.new"), dir.path().join("victim"));
        fs::write(&victim, "precious").expect("writes");
        std::os::unix::fs::symlink(&victim, &beside).expect("links");
        replace_file(&path, b"text", || ()).expect("writes");
        fs::hard_link(&victim, &beside).expect("links");
        replace_file(&path, b"text", || ()).expect("writes");
        rustix::fs::mknodat(rustix::fs::CWD, &beside, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("makes");
        replace_file(&path, b"text", || ()).expect("writes");
        assert_eq!(
            (fs::read(&path).expect("there"), fs::read(&victim).expect("there")),
            (b"text".to_vec(), b"precious".to_vec())
        );
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
        // A pipe or link at the path of the temporary file is neither waited for nor followed.
        let beside = dir.path().join("a.json.new");
        rustix::fs::mkfifoat(rustix::fs::CWD, &beside, 0o600.into()).expect("makes");
        replace_file(&path, b"again", || ()).expect("writes");
        let other = dir.path().join("other");
        fs::write(&other, "kept").expect("writes");
        std::os::unix::fs::symlink(&other, &beside).expect("links");
        replace_file(&path, b"short", || ()).expect("writes");
        assert_eq!((fs::read(&path).expect("there"), fs::read(&other).expect("there")), (b"short".to_vec(), b"kept".to_vec()));
        let folder = dir.path().join("b.json");
        fs::create_dir(&folder).expect("creates");
        replace_file(&folder, b"text", || ()).expect_err("a folder is in the way");
        assert!(!dir.path().join("b.json.new").exists());
    }
}
