//! The listeners, on TCP, on a Unix socket or on a socket of the service manager, and the streams that they accept.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use listenfd::ListenFd;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::ioctl_fionread;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, sockopt};

use super::own_socket::{BACKLOG, OwnSocket};
use super::peer_user::{Holder, holder_of_peer, is_own_address};
use super::reach::{Reach, connect_address};
use crate::abstract_socket;
use crate::socket_path::SocketPath;
use crate::unix_connect::connect_within;
use crate::user;

/// The address that stands for a client of a Unix socket, which has no address and is on this machine.
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    pub(super) connect_address_of: ConnectAddress,
    reach: Reach,
}

#[derive(Debug)]
enum Socket {
    /// A socket that stays the same as long as the server runs.
    Lasting(Arc<OwnedFd>),
    /// A Unix socket that this server has created.
    Own(Arc<OwnSocket>),
}

impl Listener {
    /// Listens on an address. For port 0, the kernel picks a port.
    pub fn tcp(address: SocketAddr) -> io::Result<Self> {
        Self::from_tcp(TcpListener::bind(address)?)
    }

    fn from_tcp(listener: TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        // A second call, for a longer queue than the standard library's.
        rustix::net::listen(&listener, BACKLOG)?;
        let socket = Socket::Lasting(Arc::new(listener.into()));
        Ok(Self { socket, connect_address_of: ConnectAddress::Tcp(address), reach: Reach::at(address) })
    }

    /// Listens on a Unix socket at `path` that only this user can use. A socket that a killed server left is removed.
    ///
    /// # Errors
    /// `AddrInUse` if a server answers there, or if something else has that name.
    pub fn unix(path: &Path) -> io::Result<Self> {
        let socket = Socket::Own(Arc::new(OwnSocket::bind(path)?));
        Ok(Self { socket, connect_address_of: ConnectAddress::Unix(path.to_owned()), reach: Reach::Socket })
    }

    /// Returns listeners for the sockets that the service manager has passed to this process (`LISTEN_FDS`, `sd_listen_fds(3)`).
    /// The list is empty if there are none.
    pub fn inherited() -> io::Result<Vec<Self>> {
        let mut held = ListenFd::from_env();
        let mut listeners = Vec::new();
        for index in 0..held.len() {
            // A socket that is not TCP is taken as a Unix socket. If it is neither, that call returns an error that says so.
            let listener = match held.take_tcp_listener(index) {
                Ok(listener) => listener.map(|listener| check_listens(&listener, index).and_then(|()| Self::from_tcp(listener))),
                Err(_) => held
                    .take_unix_listener(index)?
                    .map(|listener| check_listens(&listener, index).and_then(|()| Self::from_unix(listener))),
            };
            listeners.extend(listener.transpose()?);
        }
        Ok(listeners)
    }

    fn from_unix(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        // The mode of its file is set by the unit, and is 0666 by default (`systemd.socket(5)`, `SocketMode=`). A socket without
        // a file, or whose file cannot be found, may be open to every user.
        let found = address.as_pathname().and_then(|path| fs::metadata(path).ok());
        let is_private = found.is_some_and(|found| found.mode() & 0o022 == 0 && user::is_own_or_root(found.uid()));
        let reach = if is_private { Reach::Socket } else { Reach::Network };
        let connect_address_of = ConnectAddress::Inherited(rustix::net::getsockname(&listener)?.try_into()?);
        Ok(Self { socket: Socket::Lasting(Arc::new(listener.into())), connect_address_of, reach })
    }

    /// Returns who can reach the listener.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// Returns the TCP address, or `None` for a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.connect_address_of {
            ConnectAddress::Tcp(address) => Some(address),
            ConnectAddress::Unix(_) | ConnectAddress::Inherited(_) => None,
        }
    }

    /// Returns this server's own Unix socket, whose file can be recreated, or `None` for other listeners.
    pub fn own_socket(&self) -> Option<Arc<OwnSocket>> {
        match &self.socket {
            Socket::Own(socket) => Some(socket.clone()),
            Socket::Lasting(_) => None,
        }
    }

    /// Returns the socket at which new clients arrive. It stays open while a caller waits for it.
    pub(super) fn latest(&self) -> Arc<OwnedFd> {
        match &self.socket {
            Socket::Lasting(socket) => socket.clone(),
            Socket::Own(socket) => socket.latest(),
        }
    }

    /// Accepts the next connection. Never waits for one.
    pub(super) fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let (stream, from) = rustix::net::acceptfrom_with(self.latest(), SocketFlags::CLOEXEC)?;
        let Some(from) = from.and_then(|from| SocketAddr::try_from(from).ok()) else { return Ok((stream.into(), NO_ADDRESS)) };
        // A response is one write, and waiting for more to send would only delay it. This fails if the client has already reset
        // the connection; the next read reports that.
        let _already_gone = sockopt::set_tcp_nodelay(&stream, true);
        let stream = Stream { from: Some(from), ..stream.into() };
        Ok((stream, SocketAddr::new(from.ip().to_canonical(), from.port())))
    }
}

/// Checks that an inherited socket is listening. Calling listen(2) on an unbound socket would pick a port that clients do not
/// know.
fn check_listens(socket: impl AsFd, index: usize) -> io::Result<()> {
    if sockopt::socket_acceptconn(socket)? {
        return Ok(());
    }
    let number = 3 + index;
    let advice = "pass a listening socket; in a socket unit of systemd, use ListenStream= without Accept=yes";
    Err(io::Error::other(format!("descriptor {number} is a socket that does not listen; {advice}")))
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Own(socket) = &self.socket {
            socket.remove();
        }
    }
}

/// The address by which clients reach a listener.
#[derive(Clone, Debug)]
pub(super) enum ConnectAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// A Unix socket of the service manager, with or without a file.
    Inherited(SocketAddrUnix),
}

impl ConnectAddress {
    pub(super) fn connect(&self, limit: Duration) -> io::Result<Stream> {
        let socket: OwnedFd = match self {
            Self::Tcp(address) => TcpStream::connect_timeout(&connect_address(*address), limit)?.into(),
            Self::Unix(path) => SocketPath::open(path)?.connect(limit)?.into(),
            Self::Inherited(address) => connect_within(address, limit)?.into(),
        };
        Ok(socket.into())
    }

    /// Checks whether a connection error says nothing about this server. The service manager's socket may be closed to this user,
    /// and another program may have removed a socket's file. That is a problem to report, but no reason to end the server.
    pub(super) fn is_for_others(&self, error: &io::Error) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Unix(_) => error.kind() == io::ErrorKind::NotFound,
            Self::Inherited(_) => matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound),
        }
    }
}

#[derive(Debug)]
pub(super) struct Stream {
    socket: OwnedFd,
    /// The address that an accepted TCP connection came from.
    from: Option<SocketAddr>,
    /// Looked up once, because the lookup makes the kernel search for the socket.
    holder: OnceLock<Holder>,
    has_own_address: OnceLock<bool>,
}

impl From<OwnedFd> for Stream {
    fn from(socket: OwnedFd) -> Self {
        Self { socket, from: None, holder: OnceLock::new(), has_own_address: OnceLock::new() }
    }
}

impl Stream {
    pub(super) fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        Ok(sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Recv, limit)?)
    }

    pub(super) fn set_write_timeout(&self, limit: Duration) -> io::Result<()> {
        Ok(sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Send, Some(limit))?)
    }

    /// Checks whether bytes from the other side are waiting to be read.
    pub(super) fn has_unread(&self) -> bool {
        ioctl_fionread(self).is_ok_and(|bytes| bytes > 0)
    }

    /// Checks whether the other side has finished sending, as a closed one has. If it has only shut down its own direction, it
    /// may still read.
    pub(super) fn is_left(&self) -> bool {
        let mut fds = [PollFd::new(self, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
    }

    /// Ends the connection once the other machine has acknowledged nothing for `limit`. Otherwise the kernel retransmits its
    /// packets for a quarter of an hour. Does nothing on a Unix socket.
    pub(super) fn set_ack_timeout(&self, limit: Duration) -> io::Result<()> {
        if self.is_unix()? {
            return Ok(());
        }
        let limit_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        Ok(sockopt::set_tcp_user_timeout(&self.socket, limit_ms)?)
    }

    /// Sets whether the other side sees the connection as broken, however it is closed (`SO_LINGER`, `socket(7)`). A Unix socket
    /// has no such signal.
    pub(super) fn set_reset_on_close(&self, is_broken: bool) -> io::Result<()> {
        Ok(sockopt::set_socket_linger(&self.socket, is_broken.then_some(Duration::ZERO))?)
    }

    /// Returns the user at the other end, if it is on this machine and can be identified.
    pub(super) fn uid(&self) -> Option<u32> {
        match self.holder() {
            Some(Holder::User(uid)) => Some(uid),
            Some(Holder::Unknown | Holder::Elsewhere) | None => None,
        }
    }

    /// Checks whether the other end has an address and a socket of this machine. A client in its own network namespace can have
    /// such an address too, if it is translated.
    pub(super) fn is_on_this_machine(&self) -> bool {
        let is_own = self.has_own_address.get().copied().or_else(|| {
            let found = is_own_address(self.from?, &self.socket).ok()?;
            Some(*self.has_own_address.get_or_init(|| found))
        });
        is_own == Some(true) && self.holder() != Some(Holder::Elsewhere)
    }

    fn holder(&self) -> Option<Holder> {
        if let Some(known) = self.holder.get() {
            return Some(*known);
        }
        let found = self.is_unix().and_then(|is_unix| {
            if is_unix {
                let peer = abstract_socket::credentials(&self.socket);
                Ok(peer.map_or(Holder::Unknown, |(uid, _)| Holder::User(uid)))
            } else {
                holder_of_peer(&self.socket)
            }
        });
        // A failed lookup, for example for lack of a descriptor, is not cached: the next request may succeed.
        found.ok().map(|found| *self.holder.get_or_init(|| found))
    }

    /// Returns the address of this end, or `None` on a Unix socket.
    pub(super) fn local_address(&self) -> Option<SocketAddr> {
        SocketAddr::try_from(rustix::net::getsockname(&self.socket).ok()?).ok()
    }

    fn is_unix(&self) -> io::Result<bool> {
        Ok(sockopt::socket_domain(&self.socket)? == AddressFamily::UNIX)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.socket, buffer)?)
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL)?)
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
    fn unix_socket_is_private_and_removed_with_its_listener() {
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
    fn stale_socket_is_replaced_and_other_files_are_kept() {
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
    fn inherited_unix_socket_without_file_counts_as_network() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("gone.sock");
        let name = std::os::unix::net::SocketAddr::from_abstract_name(path.as_os_str().as_bytes()).expect("a name");
        let of_no_file = UnixListener::bind_addr(&name).expect("binds");
        let gone = UnixListener::bind(&path).expect("binds");
        fs::remove_file(&path).expect("there");
        for (held, is_reached) in [(of_no_file, true), (gone, false)] {
            let listener = Listener::from_unix(held).expect("serves");
            assert_eq!(listener.reach(), Reach::Network);
            let connect_address_of = listener.connect_address_of.clone();
            match connect_address_of.connect(Duration::from_secs(1)) {
                Ok(_) => assert!(is_reached),
                Err(error) => assert!(!is_reached && connect_address_of.is_for_others(&error), "{error}"),
            }
        }
        let connect_address_of = Listener::unix(&path).expect("binds").connect_address_of.clone();
        let error = connect_address_of.connect(Duration::from_secs(1)).expect_err("it left with its listener");
        assert!(
            connect_address_of.is_for_others(&error),
            "a removed file does not mean that the server is dead: it is recreated"
        );
        drop(UnixListener::bind(&path).expect("binds"));
        let error = connect_address_of.connect(Duration::from_secs(1)).expect_err("nobody listens");
        assert!(!connect_address_of.is_for_others(&error), "{error}");
    }

    #[test]
    fn loopback_address_has_loopback_reach() {
        for address in ["127.0.0.1:0", "127.9.9.9:0"] {
            let listener = Listener::tcp(address.parse().expect("an address")).expect("binds");
            assert_eq!(listener.reach(), Reach::Loopback);
            assert_ne!(listener.address().expect("has one").port(), 0);
        }
    }
}
