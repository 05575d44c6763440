//! Identifies the user of this machine at the other end of a TCP connection.
//!
//! Both ends of a connection within one machine are sockets of the same kernel, which records the user of each. The kernel is
//! asked for the one socket (`sock_diag(7)`). If it was built without that interface, its table of all sockets is read
//! (`proc_net(5)`), which takes longer. This works at every address of the machine, not only on loopback.
//!
//! The kernel reports user 0 for a socket that its process has closed, so a client could pass for root by closing its socket
//! after sending a request. For this reason only a socket with an inode counts; a closed socket has no inode.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

use crate::user;

/// `SOCK_DIAG_BY_FAMILY` (`include/uapi/linux/sock_diag.h`).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST` (`netlink(7)`).
const NLM_F_REQUEST: u16 = 1;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// The size of `struct nlmsghdr`, which precedes the content of a message.
const HEADER_BYTES: usize = 16;
/// The size of a whole request: the header and `struct inet_diag_req_v2` (`include/uapi/linux/inet_diag.h`).
const REQUEST_BYTES: usize = HEADER_BYTES + 56;
/// The size of both ports and both addresses, with which `struct inet_diag_sockid` begins.
const ENDS_BYTES: usize = 36;
/// The offsets of the ends, the user and the inode in an answer with `struct inet_diag_msg`.
const ENDS_AT: usize = HEADER_BYTES + 4;
const UID_AT: usize = HEADER_BYTES + 64;
const INODE_AT: usize = HEADER_BYTES + 68;
const ANSWER_BYTES: usize = HEADER_BYTES + 72;
/// The offset of the state in an answer, and the state of a socket whose connection is not made yet (`TCP_SYN_SENT` in
/// `include/net/tcp_states.h`).
const STATE_AT: usize = HEADER_BYTES + 1;
const SYN_SENT: u8 = 2;
/// The time limit for an answer. The kernel answers within the call that asks; this only keeps a kernel fault from blocking a
/// thread.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// The holder of the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// A process of this user of this machine.
    User(u32),
    /// A socket of this machine whose process has closed it, or whose user has no id in this server's user namespace.
    Unknown,
    /// No socket was found here: the client is on another machine, or in its own network namespace.
    Elsewhere,
}

/// Returns the holder of the other end of an established TCP connection.
///
/// # Errors
/// The kernel could not be asked, for example because no descriptor is free. A later attempt may succeed.
pub(super) fn holder_of_peer(stream: &impl AsFd) -> io::Result<Holder> {
    let ours = SocketAddr::try_from(rustix::net::getsockname(stream)?)?;
    let theirs = match rustix::net::getpeername(stream) {
        Ok(Some(theirs)) => SocketAddr::try_from(theirs)?,
        // The other end has reset the connection.
        Ok(None) | Err(Errno::NOTCONN) => return Ok(Holder::Unknown),
        Err(error) => return Err(error.into()),
    };
    let [ours, theirs] = [ours, theirs].map(|end| SocketAddr::new(end.ip().to_canonical(), end.port()));
    let found = ask_kernel(theirs, ours).or_else(|_| find_in_table(theirs, ours))?;
    Ok(match found {
        // While this end is connected, any other socket with the same pair of addresses cannot complete its connection.
        Holder::User(uid) if is_connected(stream, PollFlags::empty()) && user::has_number(uid) => Holder::User(uid),
        // A closed socket vanishes after a while, or at once after a reset. A peer that has not shut down its direction has not
        // closed its socket.
        Holder::Elsewhere if is_connected(stream, PollFlags::RDHUP) => Holder::Elsewhere,
        Holder::User(_) | Holder::Unknown | Holder::Elsewhere => Holder::Unknown,
    })
}

/// Checks whether `theirs`, the address that a connection came from, is an address of this machine. The socket itself is not
/// asked, because after a reset it no longer knows its other end.
///
/// # Errors
/// The kernel could not be asked, for example because no descriptor is free. A later attempt may succeed.
pub(super) fn is_own_address(theirs: SocketAddr, stream: &impl AsFd) -> io::Result<bool> {
    let ours = SocketAddr::try_from(rustix::net::getsockname(stream)?)?;
    // The usual case. The kernel accepts no packet from another machine whose source is an address of this one.
    if theirs.ip().to_canonical() == ours.ip().to_canonical() {
        return Ok(true);
    }
    // The machine may have several addresses. The kernel binds a socket only to an address of this machine, unless it is
    // configured otherwise.
    let (at, lets_any) = match theirs {
        SocketAddr::V6(six) if six.ip().to_canonical().is_ipv6() => {
            (SocketAddrV6::new(*six.ip(), 0, 0, six.scope_id()).into(), "/proc/sys/net/ipv6/ip_nonlocal_bind")
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => {
            (SocketAddr::new(theirs.ip().to_canonical(), 0), "/proc/sys/net/ipv4/ip_nonlocal_bind")
        }
    };
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    match rustix::net::bind(&socket, &at) {
        Ok(()) => Ok(fs::read_to_string(lets_any)?.trim() == "0"),
        Err(Errno::ADDRNOTAVAIL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Checks that neither direction has failed and that none of these events has occurred.
fn is_connected(stream: &impl AsFd, events: PollFlags) -> bool {
    let mut fds = [PollFd::new(stream, events)];
    // `poll` reports errors and the end of both directions without being asked for them.
    rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|count| count == 0)
}

/// Asks the kernel for the socket with these ends. Fails if the kernel does not support such queries or returns another socket;
/// the caller then reads the kernel's table.
///
/// A client that bound its socket to a device is not found this way, and does not stop the kernel from giving its port to a
/// connection of another user. That connection cannot be established while this end is connected, so it is not the peer.
fn ask_kernel(local: SocketAddr, remote: SocketAddr) -> io::Result<Holder> {
    let socket = netlink_socket()?;
    let mut request = [0; REQUEST_BYTES];
    request[..4].copy_from_slice(&u32::try_from(REQUEST_BYTES).map_err(io::Error::other)?.to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    request[HEADER_BYTES] = u8::try_from(family.as_raw()).map_err(io::Error::other)?;
    request[HEADER_BYTES + 1] = TCP;
    // Sockets in any state (`idiag_states`).
    request[HEADER_BYTES + 4..HEADER_BYTES + 8].fill(0xff);
    let wanted = ends(local, remote);
    request[HEADER_BYTES + 8..][..ENDS_BYTES].copy_from_slice(&wanted);
    // No cookie (INET_DIAG_NOCOOKIE), because a cookie would select one particular socket.
    request[REQUEST_BYTES - 8..].fill(0xff);
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0; 512];
    let (_, length) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    if kind != SOCK_DIAG_BY_FAMILY || length < ANSWER_BYTES {
        return Err(ErrorKind::NotFound.into());
    }
    // Without such a connection, the kernel answers with the port's listening socket. An IPv6 socket may have an IPv4 connection.
    let mapped = [local, remote].map(|end| match end.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), end.port()),
        IpAddr::V6(_) => end,
    });
    if ![wanted, ends(mapped[0], mapped[1])].iter().any(|ends| answer[ENDS_AT..].starts_with(ends)) {
        return Err(ErrorKind::NotFound.into());
    }
    if answer[STATE_AT] == SYN_SENT {
        return Err(ErrorKind::NotFound.into());
    }
    let number = |at: usize| u32::from_ne_bytes(answer[at..at + 4].try_into().expect("four bytes"));
    Ok(if number(INODE_AT) == 0 { Holder::Unknown } else { Holder::User(number(UID_AT)) })
}

fn netlink_socket() -> io::Result<OwnedFd> {
    let protocol = Some(netlink::SOCK_DIAG);
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, protocol)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_LIMIT))?;
    // Connected to the kernel, so that only its messages arrive.
    rustix::net::connect(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
    Ok(socket)
}

/// Returns both ends as in the first bytes of `struct inet_diag_sockid`: in network byte order, with an IPv4 address in the first
/// four bytes of its field.
fn ends(local: SocketAddr, remote: SocketAddr) -> [u8; ENDS_BYTES] {
    let mut ends = [0; ENDS_BYTES];
    ends[..2].copy_from_slice(&local.port().to_be_bytes());
    ends[2..4].copy_from_slice(&remote.port().to_be_bytes());
    for (address, at) in [(local, 4), (remote, 20)] {
        match address.ip() {
            IpAddr::V4(ip) => ends[at..at + 4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => ends[at..at + 16].copy_from_slice(&ip.octets()),
        }
    }
    ends
}

/// Searches the kernel's tables for the socket. An IPv4 connection of an IPv6 socket is in the second table.
fn find_in_table(local: SocketAddr, remote: SocketAddr) -> io::Result<Holder> {
    let mut failed = None;
    let mut found = Vec::new();
    for path in ["/proc/net/tcp", "/proc/net/tcp6"] {
        match fs::read_to_string(path) {
            Ok(table) => {
                found.extend(table.lines().filter_map(|line| owner_in(line, local, remote)));
            }
            Err(error) => failed = Some(error),
        }
    }
    match (found.first(), failed) {
        (None, None) => Ok(Holder::Elsewhere),
        (None, Some(error)) => Err(error),
        // If sockets of two users match, either can be the peer.
        (Some(&(uid, _)), _) if found.iter().all(|&(other, inode)| other == uid && inode != 0) => Ok(Holder::User(uid)),
        (Some(_), _) => Ok(Holder::Unknown),
    }
}

/// Returns the user and the inode of a line's socket, if its ends match and its connection is established.
fn owner_in(line: &str, local: SocketAddr, remote: SocketAddr) -> Option<(u32, u64)> {
    // sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
    let mut fields = line.split_ascii_whitespace();
    let ends = (end_in(fields.nth(1)?)?, end_in(fields.next()?)?);
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    if ends != (local, remote) || state == SYN_SENT {
        return None;
    }
    Some((fields.nth(3)?.parse().ok()?, fields.nth(1)?.parse().ok()?))
}

/// Parses an end such as `0100007F:2254`: the address in 32-bit words in native byte order, and the port as a hexadecimal number.
fn end_in(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..address.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    let ip: IpAddr = match <[u8; 4]>::try_from(&*bytes) {
        Ok(octets) => octets.into(),
        Err(_) => <[u8; 16]>::try_from(&*bytes).ok()?.into(),
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, TcpListener, TcpStream};
    use std::time::Instant;

    use super::*;

    fn connected(listen: &str, call: impl Fn(u16) -> SocketAddr) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(listen).expect("binds");
        let client = TcpStream::connect(call(listener.local_addr().expect("bound").port())).expect("connects");
        (listener.accept().expect("a connection").0, client)
    }

    fn canonical_ends_of(server: &TcpStream) -> (SocketAddr, SocketAddr) {
        let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        (canonical(server.peer_addr().expect("connected")), canonical(server.local_addr().expect("bound")))
    }

    #[test]
    fn local_peer_is_identified_by_netlink_and_by_proc_table() {
        let us = rustix::process::geteuid().as_raw();
        let mapped = std::net::Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        let v4 = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let pairs = [
            ("127.0.0.1:0", Box::new(v4) as Box<dyn Fn(u16) -> SocketAddr>),
            ("127.0.0.1:0", Box::new(move |port| SocketAddr::new(mapped.into(), port))),
            ("[::]:0", Box::new(v4)),
            ("[::1]:0", Box::new(|port| SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port))),
        ];
        for (listen, call) in pairs {
            if listen.starts_with('[') && TcpListener::bind("[::1]:0").is_err() {
                continue;
            }
            let (server, client) = connected(listen, call);
            let (theirs, ours) = canonical_ends_of(&server);
            assert_eq!(holder_of_peer(&server).expect("asked"), Holder::User(us), "{theirs} {ours}");
            assert_eq!(ask_kernel(theirs, ours).expect("this kernel answers"), Holder::User(us), "{theirs} {ours}");
            assert_eq!(find_in_table(theirs, ours).expect("there is a table"), Holder::User(us), "{theirs} {ours}");
            let came_from = server.peer_addr().expect("connected");
            assert!(is_own_address(came_from, &server).expect("asked"), "{theirs} {ours}");
            // The client has sent everything and still holds its socket.
            client.shutdown(std::net::Shutdown::Write).expect("connected");
            assert_eq!(holder_of_peer(&server).expect("asked"), Holder::User(us), "{theirs} {ours}");
        }
    }

    /// Returns a TCP socket at this address, whose port other sockets can have too.
    fn bound(at: SocketAddr) -> OwnedFd {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("a socket");
        sockopt::set_socket_reuseaddr(&socket, true).expect("an option");
        rustix::net::bind(&socket, &at).expect("binds");
        socket
    }

    #[test]
    fn pending_connection_with_same_addresses_is_not_the_peer() {
        let us = rustix::process::geteuid().as_raw();
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let listening = listener.local_addr().expect("bound");
        let is_attempted = |theirs| {
            let table = fs::read_to_string("/proc/net/tcp").expect("a table");
            table.lines().any(|line| {
                let fields: Vec<_> = line.split_ascii_whitespace().take(4).collect();
                let ends = || Some((end_in(fields.get(1)?)?, end_in(fields.get(2)?)?));
                fields.get(3) == Some(&"02") && ends() == Some((theirs, listening))
            })
        };
        let deadline = Instant::now() + Duration::from_mins(1);
        // Keeps the sockets open. A closed socket keeps its ends for a minute, and a new one could get the same port.
        let mut open = Vec::new();
        loop {
            // A socket that is bound to a device does not stop others from using the same pair of addresses.
            let client = bound(([127, 0, 0, 1], 0).into());
            nix::sys::socket::setsockopt(&client, nix::sys::socket::sockopt::BindToDevice, &"lo".into())
                .expect("since Linux 5.7");
            sockopt::set_socket_keepalive(&client, true).expect("an option");
            sockopt::set_tcp_keepidle(&client, Duration::from_secs(1)).expect("an option");
            sockopt::set_tcp_keepintvl(&client, Duration::from_secs(1)).expect("an option");
            let _under_way = rustix::net::connect(&client, &listening);
            let (server, theirs) = listener.accept().expect("a connection");
            assert_eq!(holder_of_peer(&server).expect("asked"), Holder::User(us), "alone");
            // For half a second after it was probed, the kernel does not answer an attempt with the same ends, so the attempt
            // continues.
            std::thread::sleep(Duration::from_millis(1200));
            let other = bound(theirs);
            let _never_made = rustix::net::connect(&other, &listening);
            let is_so = || is_attempted(theirs) && is_connected(&server, PollFlags::empty());
            let was_so = is_so();
            let (asked, holder) = (ask_kernel(theirs, listening), holder_of_peer(&server).expect("asked"));
            if was_so && is_so() {
                assert_eq!(asked.expect_err("not the peer").kind(), ErrorKind::NotFound);
                assert_eq!(holder, Holder::User(us));
                return;
            }
            assert!(Instant::now() < deadline, "the attempt was always answered");
            open.push((client, other, server));
        }
    }

    #[test]
    fn sockets_with_same_addresses_are_distinguished_by_state() {
        let ends = (SocketAddr::from(([127, 0, 0, 1], 40_000)), SocketAddr::from(([127, 0, 0, 1], 8788)));
        let address = format!("{:08X}", u32::from_ne_bytes([127, 0, 0, 1]));
        let line = |state| {
            format!("   1: {address}:9C40 {address}:2254 {state} 00000000:00000000 00:00000000 00000000  1000        0 4711 1")
        };
        assert_eq!(owner_in(&line("01"), ends.0, ends.1), Some((1000, 4711)));
        assert_eq!(owner_in(&line("02"), ends.0, ends.1), None, "its connection is not made");
        assert_eq!(owner_in(&line("01"), ends.1, ends.0), None);
    }

    #[test]
    fn closed_peer_is_not_identified() {
        let (server, client) = connected("127.0.0.1:0", |port| ([127, 0, 0, 1], port).into());
        let (theirs, ours) = canonical_ends_of(&server);
        drop(client);
        assert_eq!(holder_of_peer(&server).expect("asked"), Holder::Unknown);
        let found = [ask_kernel(theirs, ours).unwrap_or(Holder::Elsewhere), find_in_table(theirs, ours).expect("a table")];
        assert!(!found.iter().any(|found| matches!(found, Holder::User(_))), "{found:?}");
    }

    #[test]
    fn reset_peer_is_not_taken_for_a_remote_one() {
        let (server, client) = connected("127.0.0.1:0", |port| ([127, 0, 0, 1], port).into());
        sockopt::set_socket_linger(&client, Some(Duration::ZERO)).expect("an option");
        drop(client);
        assert_eq!(holder_of_peer(&server).expect("asked"), Holder::Unknown);
        assert!(is_own_address(([127, 0, 0, 2], 1).into(), &server).expect("asked"));
        assert!(!is_own_address(([192, 0, 2, 1], 1).into(), &server).expect("asked"), "reserved for documents");
    }

    #[test]
    fn listening_port_without_a_connection_has_no_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let listening = listener.local_addr().expect("bound");
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        assert_eq!(ask_kernel(listening, nobody).expect_err("no such socket").kind(), ErrorKind::NotFound);
        assert_eq!(find_in_table(listening, nobody).expect("a table"), Holder::Elsewhere);
    }
}
