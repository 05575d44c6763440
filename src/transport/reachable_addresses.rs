//! The addresses at which other machines reach a server on this machine. The links of `autoappdev pair` and of the page both
//! follow this rule.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;

use super::reach::Reach;

/// Returns the addresses at which other machines can reach a server that listens at `listening`, the likeliest first. A wildcard
/// address stands for all addresses of this machine.
pub fn reachable_addresses(listening: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for &address in listening.iter().filter(|address| Reach::at(**address).is_open()) {
        if address.ip().to_canonical().is_unspecified() {
            let mut own = own_addresses();
            own.retain(|(_, ip)| address.is_ipv6() || ip.is_ipv4());
            own.sort_by_key(|(is_virtual, ip)| (*is_virtual, ip.is_ipv6()));
            found.extend(own.into_iter().map(|(_, ip)| SocketAddr::new(ip, address.port())));
        } else {
            found.push(address);
        }
    }
    let mut seen = HashSet::new();
    found.retain(|address| seen.insert(*address));
    found
}

/// Returns this machine's addresses that others may reach, and whether each belongs to a bridge of containers or virtual
/// machines.
fn own_addresses() -> Vec<(bool, IpAddr)> {
    let address_of = |interface: InterfaceAddress| {
        let is_used = interface.flags.contains(InterfaceFlags::IFF_UP) && !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let address = interface.address.filter(|_| is_used)?;
        let ip: IpAddr = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(four), _) => four.ip().into(),
            // A link-local address needs a zone, which a URL cannot carry: browsers never adopted RFC 6874.
            (None, Some(six)) if !six.ip().is_unicast_link_local() => six.ip().into(),
            (None, _) => return None,
        };
        let is_virtual = ["docker", "br-", "veth", "virbr", "podman", "cni", "lxc"]
            .iter()
            .any(|name| interface.interface_name.starts_with(name));
        Some((is_virtual, ip))
    };
    getifaddrs().into_iter().flatten().filter_map(address_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_open_addresses_are_listed_and_each_once() {
        let at = |address: &str| address.parse().expect("an address");
        let [closed, six, open] = ["127.0.0.1:8788", "[::1]:8788", "192.168.1.5:8788"].map(at);
        assert_eq!(reachable_addresses(&[]), []);
        assert_eq!(reachable_addresses(&[closed, six]), []);
        assert_eq!(reachable_addresses(&[closed, open, open]), [open]);
        assert_eq!(reachable_addresses(&[at("[fd00::5]:8788"), open]), [at("[fd00::5]:8788"), open]);
        assert!(
            reachable_addresses(&[at("0.0.0.0:8788")]).iter().all(|address| address.is_ipv4() && !address.ip().is_loopback())
        );
    }
}
