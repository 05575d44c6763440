//! The reach of a listener, and which client addresses count as one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The clients that can reach a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The owner of the server and root: a Unix socket that no other user can open.
    Socket,
    /// Every program on this machine, and the web pages in its browsers: a TCP port on the loopback interface.
    Loopback,
    /// Other machines.
    Network,
}

impl Reach {
    /// Returns the reach of a TCP listener at this address. An IPv4 address written as IPv6 counts as IPv4.
    pub fn at(address: SocketAddr) -> Self {
        if address.ip().to_canonical().is_loopback() { Self::Loopback } else { Self::Network }
    }

    /// Checks whether other machines can reach the listener.
    pub fn is_open(self) -> bool {
        self == Self::Network
    }
}

/// Returns the address at which a client on this machine can reach a server that listens at `address`. A wildcard address is
/// replaced by the loopback address.
pub fn connect_address(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    address
}

/// Returns the part of a client's address that counts as one client: all of an IPv4 address, even if it is written as IPv6; the
/// first 64 bits of an IPv6 address, because one household or machine usually has a whole /64.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}
