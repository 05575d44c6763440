//! Unix sockets with a name instead of a path (`unix(7)`, "abstract"). Moving, copying or removing a directory does not affect
//! them.
//!
//! Level 0. Such a name has no owner and no mode. Every user of the machine can bind it or connect to it, so both sides check
//! that the peer is this user or root.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use rustix::net::SocketAddrUnix;

use crate::unix_connect::connect_within;
use crate::user;

/// The flag of a socket that listens, in `/proc/net/unix` (`__SO_ACCEPTCON` of the kernel's `include/uapi/linux/net.h`).
const LISTENS: u32 = 1 << 16;

/// Binds a name and listens, without blocking.
pub fn bind(name: &str) -> io::Result<UnixListener> {
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Connects to the socket with this name, if it belongs to this user or root. Also returns the pid of the listening process, if
/// it has one in this PID namespace.
///
/// # Errors
/// [`io::ErrorKind::PermissionDenied`] if the socket belongs to another user, and [`io::ErrorKind::TimedOut`] if the listening
/// process does not accept a connection within `limit`. Its user is then unknown.
pub fn connect(name: &str, limit: Duration) -> io::Result<(UnixStream, Option<u32>)> {
    let stream = connect_within(&SocketAddrUnix::new_abstract_name(name.as_bytes())?, limit)?;
    let peer = peer(&stream)?;
    Ok((stream, peer))
}

/// Returns the pid, if it has one in this PID namespace, of a peer that belongs to this user or root. The error for any other
/// peer is [`io::ErrorKind::PermissionDenied`].
pub fn peer(stream: &impl AsFd) -> io::Result<Option<u32>> {
    let (uid, pid) = credentials(stream)?;
    if user::is_own_or_root(uid) { Ok(pid) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

/// Returns the user and the pid at the other end of a Unix socket (`SO_PEERCRED`, `unix(7)`).
///
/// A process that cannot be seen from this PID namespace has no pid here: the kernel reports 0, which rustix's type for a pid
/// cannot hold.
pub fn credentials(stream: &impl AsFd) -> io::Result<(u32, Option<u32>)> {
    let peer = getsockopt(&stream.as_fd(), PeerCredentials)?;
    Ok((peer.uid(), u32::try_from(peer.pid()).ok().filter(|&pid| pid != 0)))
}

/// Returns the names that begin with `prefix` and have a listener.
pub fn listening(prefix: &str) -> io::Result<Vec<String>> {
    let table = fs::read("/proc/net/unix")?;
    let table = String::from_utf8_lossy(&table);
    // Num, RefCount, Protocol, Flags, Type, St, Inode, Path. The path of an abstract name begins with an "@".
    let names = table.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
        let name = fields.nth(3)?.strip_prefix('@')?;
        (flags & LISTENS != 0 && name.starts_with(prefix)).then(|| name.to_owned())
    });
    Ok(names.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abstract_socket_is_listed_with_its_process_while_it_listens() {
        let prefix = format!("autoappdev-test-{}-", std::process::id());
        let name = format!("{prefix}7");
        assert!(listening(&prefix).expect("a list").is_empty());
        let listener = bind(&name).expect("binds");
        assert_eq!(listening(&prefix).expect("a list"), [name.as_str()]);
        let (_stream, pid) = connect(&name, Duration::ZERO).expect("connects");
        assert_eq!(pid, Some(std::process::id()));
        let (accepted, _) = listener.accept().expect("it is there");
        assert_eq!(peer(&accepted).expect("this user"), Some(std::process::id()));
        drop(listener);
        assert_eq!(connect(&name, Duration::ZERO).expect_err("nobody listens").kind(), io::ErrorKind::ConnectionRefused);
        assert!(listening(&prefix).expect("a list").is_empty());
    }
}
