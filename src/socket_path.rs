//! Unix sockets at paths of any length.
//!
//! Level 0. An address has at most 107 bytes (`unix(7)`). A longer path goes through its open directory in `/proc`, which a
//! chroot may not have, so a path that fits is used directly.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::unix_connect::connect_within;

/// The path of a socket, which may or may not exist.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    dir: File,
    name: OsString,
}

impl SocketPath {
    /// Opens the directory of the socket.
    pub fn open(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self {
            path: path.to_owned(),
            dir: File::from(rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?),
            name,
        })
    }

    /// Returns a path for `bind(2)` and `connect(2)`, which is valid for as long as `self` lives.
    pub fn address(&self) -> PathBuf {
        if SocketAddrUnix::new(&self.path).is_ok() {
            return self.path.clone();
        }
        Path::new("/proc/self/fd").join(self.dir.as_raw_fd().to_string()).join(&self.name)
    }

    /// Binds a socket that only this user can open, and listens. Accepting at it never blocks.
    pub fn bind(&self, backlog: i32) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // The file gets the mode of the socket (`unix(7)`), so it is never open to other users, and the mode is not changed later by a path
        // that a link may have replaced.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(self.address())?)?;
        rustix::net::listen(&socket, backlog)?;
        Ok(socket)
    }

    /// Connects to the process that listens there. If it does not accept within `limit`, the error is
    /// [`io::ErrorKind::TimedOut`].
    pub fn connect(&self, limit: Duration) -> io::Result<UnixStream> {
        connect_within(&SocketAddrUnix::new(self.address())?, limit)
    }
}
