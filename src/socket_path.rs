//! Unix sockets by paths of any length.
//!
//! Level 0. An address holds at most 107 bytes (`unix(7)`). A longer path goes by way of its open directory in `/proc`, which a chroot may
//! not have, so a path that fits is used as it is.

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

/// A socket's place, whether there is one or not.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    dir: File,
    name: OsString,
}

impl SocketPath {
    /// Opens the directory that it lies in.
    pub fn open(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self {
            path: path.to_owned(),
            dir: File::from(rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?),
            name,
        })
    }

    /// A path for `bind(2)` and `connect(2)`, good for as long as this lives.
    pub fn address(&self) -> PathBuf {
        if SocketAddrUnix::new(&self.path).is_ok() {
            return self.path.clone();
        }
        Path::new("/proc/self/fd").join(self.dir.as_raw_fd().to_string()).join(&self.name)
    }

    /// Binds a socket that only this user can open, and listens. Accepting there never waits.
    pub fn bind(&self, backlog: i32) -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // The file gets the mode that the socket has (`unix(7)`): there is no moment in which it is open to others, and no later change
        // of the mode by a path that a link can have taken.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(self.address())?)?;
        rustix::net::listen(&socket, backlog)?;
        Ok(socket)
    }

    /// Connects to the process that listens there, which has `limit` for accepting: otherwise [`io::ErrorKind::TimedOut`].
    pub fn connect(&self, limit: Duration) -> io::Result<UnixStream> {
        connect_within(&SocketAddrUnix::new(self.address())?, limit)
    }
}
