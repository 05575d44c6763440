//! Where clients come in: TCP on either kind of address, a Unix socket, or a socket that the service manager holds. And what comes
//! out of it: a stream that reads, writes and ends the same whatever it is.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::own_socket::{BACKLOG, Bound, OwnSocket};
use super::reach::Reach;
use crate::socket_path::SocketPath;

/// What a client of a Unix socket has for an address: it has none, and comes from this machine.
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    reach: Reach,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener, SocketAddr),
    /// One that this server has made.
    Unix(Arc<OwnSocket>),
    /// One that the service manager holds.
    Held(UnixListener),
}

impl Listener {
    /// Listens on an address; port 0 lets the kernel pick one.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        Self::from_tcp(TcpListener::bind(address)?)
    }

    fn from_tcp(listener: TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        // Once more, for a longer queue than the library's.
        rustix::net::listen(&listener, BACKLOG)?;
        Ok(Self { socket: Socket::Tcp(listener, address), reach: Reach::at(address) })
    }

    /// Listens on a Unix socket at `path`, which only this user may use. One that a killed server left is taken away.
    ///
    /// # Errors
    /// `AddrInUse` if a server answers there, or if something else has that name.
    pub fn unix(path: &Path) -> io::Result<Self> {
        Ok(Self { socket: Socket::Unix(Arc::new(OwnSocket::bind(path)?)), reach: Reach::Socket })
    }

    /// The sockets that the service manager holds for this process (`LISTEN_FDS`, `sd_listen_fds(3)`), none where it holds none.
    pub fn inherited() -> io::Result<Vec<Self>> {
        let mut held = ListenFd::from_env();
        let mut listeners = Vec::new();
        for index in 0..held.len() {
            // A socket that is not TCP is asked for as the other kind, and refused there by name if it is neither.
            let listener = match held.take_tcp_listener(index) {
                Ok(Some(listener)) => Self::from_tcp(listener)?,
                Ok(None) => continue,
                Err(_) => match held.take_unix_listener(index)? {
                    Some(listener) => Self::from_unix(listener)?,
                    None => continue,
                },
            };
            listeners.push(listener);
        }
        Ok(listeners)
    }

    fn from_unix(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        // Its file has the mode that the unit gave it, which is 0666 where that says nothing (`systemd.socket(5)`, `SocketMode=`).
        // One without a file, or whose file is out of sight, may be anybody's to open.
        let found = listener.local_addr()?.as_pathname().and_then(|path| fs::metadata(path).ok());
        let is_private = found
            .is_some_and(|found| found.mode() & 0o022 == 0 && [rustix::process::geteuid().as_raw(), 0].contains(&found.uid()));
        Ok(Self { socket: Socket::Held(listener), reach: if is_private { Reach::Socket } else { Reach::Network } })
    }

    /// Who can reach it.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// The address, where it has one.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(_, address) => Some(*address),
            Socket::Unix(_) | Socket::Held(_) => None,
        }
    }

    /// Recreates the file of this server's own Unix socket; `None` for other listeners.
    pub fn own_socket(&self) -> Option<Arc<OwnSocket>> {
        match &self.socket {
            Socket::Unix(socket) => Some(socket.clone()),
            Socket::Tcp(..) | Socket::Held(_) => None,
        }
    }

    /// By which way this server reaches itself here.
    pub(super) fn way_in(&self) -> io::Result<WayIn> {
        match &self.socket {
            Socket::Tcp(_, address) => {
                let mut address = *address;
                match address.ip() {
                    IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
                    IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
                    IpAddr::V4(_) | IpAddr::V6(_) => {}
                }
                Ok(WayIn::Tcp(address))
            }
            Socket::Unix(socket) => Ok(WayIn::Unix(socket.path().to_owned())),
            Socket::Held(listener) => listener.local_addr().map(WayIn::Inherited),
        }
    }

    /// What to wait for until the next connection comes.
    pub(super) fn awaited(&self) -> Awaited<'_> {
        match &self.socket {
            Socket::Tcp(listener, _) => Awaited::Lasting(listener.as_fd()),
            Socket::Unix(socket) => Awaited::Own(socket.latest()),
            Socket::Held(listener) => Awaited::Lasting(listener.as_fd()),
        }
    }

    /// Takes the next connection. Never waits for one.
    pub(super) fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match &self.socket {
            Socket::Tcp(listener, _) => {
                let (stream, from) = listener.accept()?;
                stream.set_nonblocking(false)?;
                // An answer is one write; waiting for more to send would only delay it.
                // One that has been reset meanwhile may not take it, and is found out when it is read.
                let _already_gone = stream.set_nodelay(true);
                Ok((Stream::Tcp(stream), SocketAddr::new(from.ip().to_canonical(), from.port())))
            }
            Socket::Unix(socket) => Self::from_accepted(socket.latest().accept()),
            Socket::Held(listener) => Self::from_accepted(listener.accept()),
        }
    }

    fn from_accepted(accepted: io::Result<(UnixStream, std::os::unix::net::SocketAddr)>) -> io::Result<(Stream, SocketAddr)> {
        let (stream, _) = accepted?;
        stream.set_nonblocking(false)?;
        Ok((Stream::Unix(stream), NO_ADDRESS))
    }
}

/// What a client of today comes in by, held open while it is waited for.
pub(super) enum Awaited<'a> {
    Lasting(BorrowedFd<'a>),
    Own(Arc<Bound>),
}

impl AsFd for Awaited<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Lasting(socket) => *socket,
            Self::Own(socket) => socket.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix(socket) = &self.socket {
            socket.remove();
        }
    }
}

/// The other side of a listener.
#[derive(Clone, Debug)]
pub(super) enum WayIn {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// A socket of the service manager's, with or without a file.
    Inherited(std::os::unix::net::SocketAddr),
}

impl WayIn {
    pub(super) fn connect(&self, limit: Duration) -> io::Result<Stream> {
        match self {
            Self::Tcp(address) => TcpStream::connect_timeout(address, limit).map(Stream::Tcp),
            Self::Unix(path) => SocketPath::open(path)?.connect().map(Stream::Unix),
            Self::Inherited(address) => UnixStream::connect_addr(address).map(Stream::Unix),
        }
    }

    /// Whether this connection error says nothing about whether this server answers: the service manager may hold a socket for others
    /// than this user, and another program may have removed the file of a socket. That is a condition, and no reason to end the server.
    pub(super) fn is_for_others(&self, error: &io::Error) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Unix(_) => error.kind() == io::ErrorKind::NotFound,
            Self::Inherited(_) => matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound),
        }
    }
}

/// A connection's two directions.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub(super) fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(limit),
            Self::Unix(stream) => stream.set_read_timeout(limit),
        }
    }

    pub(super) fn set_write_timeout(&self, limit: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_write_timeout(Some(limit)),
            Self::Unix(stream) => stream.set_write_timeout(Some(limit)),
        }
    }

    /// From here on neither reading nor writing waits.
    pub(super) fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(true),
            Self::Unix(stream) => stream.set_nonblocking(true),
        }
    }

    /// Whether the other side says nothing more, as one that has closed does. One that has only ended its own direction may still read.
    pub(super) fn is_left(&self) -> bool {
        let mut fds = [PollFd::new(self, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
    }

    /// From here on the connection ends where the other side's machine has not even acknowledged something for so long. Without this the
    /// kernel sends it again for a quarter of an hour.
    pub(super) fn end_when_unheard(&self, limit: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                let limit_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
                Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, limit_ms)?)
            }
            Self::Unix(_) => Ok(()),
        }
    }

    /// Whether the other side is told that the connection broke, however it is closed (`SO_LINGER`, `socket(7)`). On a Unix socket nothing can
    /// say that.
    pub(super) fn set_broken_at_end(&self, is_broken: bool) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => Ok(rustix::net::sockopt::set_socket_linger(stream, is_broken.then_some(Duration::ZERO))?),
            Self::Unix(_) => Ok(()),
        }
    }

    /// The user at the other end of a Unix socket.
    pub(super) fn uid(&self) -> Option<u32> {
        match self {
            Self::Tcp(_) => None,
            Self::Unix(stream) => rustix::net::sockopt::socket_peercred(stream).ok().map(|peer| peer.uid.as_raw()),
        }
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&mut &*stream).read(buffer),
            Stream::Unix(stream) => (&mut &*stream).read(buffer),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&mut &*stream).write(bytes),
            Stream::Unix(stream) => (&mut &*stream).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_unix_socket_is_this_users_alone_and_leaves_with_its_listener() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("d".repeat(200)).join("s.sock");
        fs::create_dir(path.parent().expect("has one")).expect("creates");
        let listener = Listener::unix(&path).expect("binds, however long its path is");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!((listener.reach(), listener.address()), (Reach::Socket, None));
        assert_eq!(Listener::unix(&path).expect_err("somebody answers there").kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_server_left_is_taken_and_anything_else_is_not() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("s.sock");
        drop(UnixListener::bind(&path).expect("binds"));
        assert!(path.exists(), "std leaves it, as a killed server does");
        drop(Listener::unix(&path).expect("takes its place"));
        fs::write(&path, "precious").expect("writes");
        assert_eq!(Listener::unix(&path).expect_err("a file").kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read(&path).expect("there"), b"precious");
    }

    #[test]
    fn the_managers_socket_without_a_file_in_sight_is_served_and_anybodys() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("gone.sock");
        let name = std::os::unix::net::SocketAddr::from_abstract_name(path.as_os_str().as_bytes()).expect("a name");
        let of_no_file = UnixListener::bind_addr(&name).expect("binds");
        let gone = UnixListener::bind(&path).expect("binds");
        fs::remove_file(&path).expect("there");
        for (held, is_reached) in [(of_no_file, true), (gone, false)] {
            let listener = Listener::from_unix(held).expect("serves");
            assert_eq!(listener.reach(), Reach::Network);
            let way_in = listener.way_in().expect("has one");
            match way_in.connect(Duration::from_secs(1)) {
                Ok(_) => assert!(is_reached),
                Err(error) => assert!(!is_reached && way_in.is_for_others(&error), "{error}"),
            }
        }
        let way_in = Listener::unix(&path).expect("binds").way_in().expect("has one");
        let error = way_in.connect(Duration::from_secs(1)).expect_err("it left with its listener");
        assert!(way_in.is_for_others(&error), "a removed file does not mean that the server is dead: it is recreated");
        drop(UnixListener::bind(&path).expect("binds"));
        let error = way_in.connect(Duration::from_secs(1)).expect_err("nobody listens");
        assert!(!way_in.is_for_others(&error), "{error}");
    }

    #[test]
    fn an_address_says_who_can_reach_it() {
        for address in ["127.0.0.1:0", "127.9.9.9:0"] {
            let listener = Listener::tcp(address.parse().expect("an address")).expect("binds");
            assert_eq!(listener.reach(), Reach::Loopback);
            assert_ne!(listener.address().expect("has one").port(), 0);
        }
    }
}
