//! The server's own Unix socket, which only this user can open. It is recreated if its file is removed.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::net::Shutdown;

use crate::file_id::FileId;
use crate::lock::lock;
use crate::socket_path::SocketPath;
use crate::user;

/// How many connections may wait while the accepting thread does not run. Beyond that, the kernel lets a new client try again
/// after a second.
pub(super) const BACKLOG: i32 = 1024;

/// The server's own Unix socket. A socket whose file was removed cannot get a new one, so another socket replaces it. The old
/// socket is closed once the accepting thread, which may be waiting for it, has released it.
#[derive(Debug)]
pub struct OwnSocket {
    path: PathBuf,
    latest: Mutex<Bound>,
}

#[derive(Debug)]
struct Bound {
    socket: Arc<OwnedFd>,
    /// The identity of its file, because another server may have created a file with the same name meanwhile.
    file: Option<FileId>,
}

impl OwnSocket {
    /// Listens at `path`. A socket that a killed server of this user left is removed.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), latest: Mutex::new(bind(path)?) })
    }

    /// Returns the path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn latest(&self) -> Arc<OwnedFd> {
        lock(&self.latest).socket.clone()
    }

    /// Recreates the socket after its file was removed.
    pub fn renew(&self) -> io::Result<()> {
        let renewed = bind(&self.path)?;
        let before = std::mem::replace(&mut *lock(&self.latest), renewed);
        // A thread that waits for clients of the old socket wakes up, and then waits for those of the new one.
        let _nobody_waits = rustix::net::shutdown(&before.socket, Shutdown::Both);
        Ok(())
    }

    /// Removes the file, if it belongs to this socket.
    pub(super) fn remove(&self) {
        let file = lock(&self.latest).file;
        if file.is_some() && file == FileId::of_name(&self.path).ok() {
            // If this fails, the next server removes the file.
            let _stays = fs::remove_file(&self.path);
        }
    }
}

fn bind(path: &Path) -> io::Result<Bound> {
    let place = SocketPath::open(path)?;
    let socket = match place.bind(BACKLOG) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let found = fs::symlink_metadata(path);
            let is_socket = found.is_ok_and(|found| found.file_type().is_socket() && user::is_own(found.uid()));
            // A listener that does not accept connections is still a listener, of this user or of another one. Only a refused
            // connection proves that the socket was left over.
            let is_refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            let is_left_over = is_socket && place.connect(Duration::ZERO).is_err_and(|error| is_refused(&error));
            if !is_left_over {
                return Err(error);
            }
            fs::remove_file(path)?;
            place.bind(BACKLOG)?
        }
        other => other?,
    };
    Ok(Bound { socket: Arc::new(socket), file: FileId::of_name(path).ok() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_socket_is_recreated_and_the_old_one_wakes_its_waiter() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("s.sock");
        let socket = OwnSocket::bind(&path).expect("binds");
        let before = socket.latest();
        assert_eq!(socket.renew().expect_err("it answers there").kind(), io::ErrorKind::AddrInUse);
        fs::remove_file(&path).expect("removes");
        socket.renew().expect("binds again");
        // The old socket no longer listens: every poll of it returns at once.
        let mut fds = [rustix::event::PollFd::new(&before, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut fds, None), Ok(1));
        assert_eq!(Arc::strong_count(&before), 1, "its descriptor is closed once nobody waits for it");
        let _client = SocketPath::open(&path).expect("the folder").connect(Duration::ZERO).expect("it listens");
        rustix::net::accept(socket.latest()).expect("the client is there");
        socket.remove();
        assert!(!path.exists(), "it leaves with its listener");
    }
}
