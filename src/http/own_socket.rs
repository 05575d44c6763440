//! The server's own Unix socket: made with a mode for this user alone, and recreated if its file is removed.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::Mode;
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};

use super::listener::BACKLOG;
use crate::socket_path::SocketPath;

/// How often a removed socket is recreated. Each time takes a descriptor until the server ends.
const RENEWALS_MAX: usize = 64;

/// A socket without a file cannot get a new file, so another socket takes its place. The list only grows, because the accepting thread keeps
/// the sockets that it polls. The last one is in use.
#[derive(Debug)]
pub struct OwnSocket {
    path: PathBuf,
    first: Bound,
}

#[derive(Debug)]
struct Bound {
    listener: UnixListener,
    /// The device and inode of its file, because another server may since have made a file of that name.
    file: Option<(u64, u64)>,
    next: OnceLock<Box<Self>>,
}

impl OwnSocket {
    /// Listens at `path`. A socket that a killed server left is removed.
    ///
    /// # Errors
    /// `AddrInUse` if a server answers there, or if something else has that name.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), first: Bound::new(path)? })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket that clients reach now.
    pub(super) fn listener(&self) -> &UnixListener {
        &self.latest().0.listener
    }

    /// Recreates the socket after its file was removed.
    ///
    /// # Errors
    /// As for the first one, and if it has been removed too often.
    pub fn renew(&self) -> io::Result<()> {
        let (latest, renewals) = self.latest();
        if renewals >= RENEWALS_MAX {
            return Err(io::Error::other(format!(
                "it has already been removed {renewals} times; stop whatever removes it, then restart the server"
            )));
        }
        let renewed = Box::new(Bound::new(&self.path)?);
        if latest.next.set(renewed).is_ok() {
            // The thread that polls the previous socket wakes up and polls this one.
            let _nobody_waits = rustix::net::shutdown(&latest.listener, Shutdown::Both);
        }
        Ok(())
    }

    /// Removes the file, if it is this socket's.
    pub(super) fn remove(&self) {
        let latest = self.latest().0;
        if latest.file.is_some() && latest.file == file_at(&self.path) {
            // The next server removes a file that stays.
            let _stays = fs::remove_file(&self.path);
        }
    }

    /// The one in use, and how many were before it.
    fn latest(&self) -> (&Bound, usize) {
        let (mut latest, mut count) = (&self.first, 0);
        while let Some(next) = latest.next.get() {
            (latest, count) = (next, count + 1);
        }
        (latest, count)
    }
}

impl Bound {
    fn new(path: &Path) -> io::Result<Self> {
        let place = SocketPath::open(path)?;
        let bind = || -> io::Result<UnixListener> {
            let socket = rustix::net::socket_with(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
                None,
            )?;
            // The file gets the mode that the socket has: there is no moment in which it is open to others (`unix(7)`).
            rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
            rustix::net::bind(&socket, &SocketAddrUnix::new(place.address())?)?;
            rustix::net::listen(&socket, BACKLOG)?;
            Ok(UnixListener::from(socket))
        };
        let listener = match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
                let is_left_over =
                    is_socket && place.connect().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
                if !is_left_over {
                    return Err(error);
                }
                fs::remove_file(path)?;
                bind()?
            }
            other => other?,
        };
        Ok(Self { listener, file: file_at(path), next: OnceLock::new() })
    }
}

fn file_at(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_socket_is_recreated_and_the_old_one_wakes_its_waiter() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("s.sock");
        let socket = OwnSocket::bind(&path).expect("binds");
        let before = socket.listener().try_clone().expect("a descriptor");
        assert_eq!(socket.renew().expect_err("it answers there").kind(), io::ErrorKind::AddrInUse);
        fs::remove_file(&path).expect("removes");
        socket.renew().expect("binds again");
        // It no longer accepts clients: a thread that polls it is woken for good.
        let mut fds = [rustix::event::PollFd::new(&before, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut fds, None), Ok(1));
        let _client = SocketPath::open(&path).expect("the folder").connect().expect("it listens");
        socket.listener().accept().expect("the client is there");
        socket.remove();
        assert!(!path.exists(), "it leaves with its listener");
    }
}
