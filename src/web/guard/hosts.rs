//! The hosts by which clients may address this server: names and IP addresses. A page can point its own host name at this address
//! (DNS rebinding), and its browser then sends that name as the `Host`.

use std::net::IpAddr;

use crate::transport::Reach;

/// The hosts of a listener.
#[derive(Clone, Debug)]
pub(super) struct Hosts {
    reach: Reach,
    /// This machine's own names, in lower case, if other machines can reach the listener. Otherwise empty.
    own_names: Vec<String>,
    named: Vec<String>,
}

impl Hosts {
    /// Creates the hosts of a listener. `named` are the host names in the settings: lower case, without port.
    pub(super) fn new(reach: Reach, named: Vec<String>) -> Self {
        Self::of_machine(rustix::system::uname().nodename().to_str().unwrap_or_default(), reach, named)
    }

    fn of_machine(node: &str, reach: Reach, named: Vec<String>) -> Self {
        Self { reach, own_names: if reach.is_open() { own_names(node) } else { Vec::new() }, named }
    }

    /// Checks whether the host in a `Host` field is named in the settings.
    pub(super) fn is_named(&self, host: &str) -> bool {
        self.named.iter().any(|named| named.eq_ignore_ascii_case(without_port(host)))
    }

    /// Checks whether a `Host` field names this server.
    pub(super) fn has(&self, host: &str) -> bool {
        let name = without_port(host);
        let is = |own: &String| own.eq_ignore_ascii_case(name);
        if name.eq_ignore_ascii_case("localhost") || self.named.iter().any(is) || self.own_names.iter().any(is) {
            return true;
        }
        let Some(ip) = number(name) else { return false };
        ip.is_loopback()
            || match self.reach {
                Reach::Socket | Reach::Loopback => false,
                // A page can point a name at another address, but not an IP address: a page from an IP address was served there.
                // This machine cannot know which addresses lead to it, because a router or a container's host may forward them.
                Reach::Network => !ip.is_unspecified(),
            }
    }
}

/// Checks whether the host in a `Host` field leads each machine to itself.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = without_port(host);
    name == "localhost" || number(name).is_some_and(|ip| ip.is_loopback())
}

/// Returns the names of this machine in a network: its own, and that name with multicast DNS (RFC 6762). No public name server
/// answers for a name without a dot, or for a name in `.local`.
fn own_names(node: &str) -> Vec<String> {
    let first = node.split('.').next().unwrap_or_default().to_ascii_lowercase();
    if first.is_empty() || first.parse::<u32>().is_ok() { Vec::new() } else { vec![format!("{first}.local"), first] }
}

/// Returns a `Host` without its port: `name`, `1.2.3.4`, or `[::1]`.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// Returns the IP address that a host consists of: `1.2.3.4`, or `[::1]`.
fn number(name: &str) -> Option<IpAddr> {
    let number = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    number.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Hosts {
        behind(Reach::at(address.parse().expect("an address")))
    }

    fn behind(reach: Reach) -> Hosts {
        Hosts::of_machine("Desk.example.org", reach, vec!["board.local".into()])
    }

    #[test]
    fn network_listener_accepts_ip_addresses_and_own_names_as_hosts() {
        for address in ["0.0.0.0:8788", "[::]:8788", "192.168.1.5:8788"] {
            for host in [
                "192.168.1.5:8788",
                "203.0.113.9:80",
                "[fd00::1]:8788",
                "[::ffff:192.168.1.5]",
                "127.0.0.1:8788",
                "localhost",
                "desk",
                "DESK.local:8788",
                "board.local",
            ] {
                assert!(at(address).has(host), "{host} at {address}");
            }
            for host in [
                "evil.example",
                "desk.example.org",
                "desk.local.evil.example",
                "192.168.1.5.evil.example",
                "3232235781",
                "0xc0a80105",
                "192.168.1.5.",
                "192.168.257",
                "0.0.0.0:8788",
                "[::]:8788",
                "[::ffff:0.0.0.0]",
                "",
            ] {
                assert!(!at(address).has(host), "{host} at {address}");
            }
        }
        assert!(behind(Reach::Socket).has("localhost"));
        for host in ["desk", "desk.local", "192.168.1.5", "[::ffff:192.168.1.5]"] {
            for door in [Reach::Socket, Reach::at("127.0.0.1:1".parse().expect("an address"))] {
                assert!(!behind(door).has(host), "{host} at {door:?}");
            }
        }
        assert_eq!(own_names("localhost.localdomain"), ["localhost.local", "localhost"]);
        for number in ["", "7", ".", "127.0.0.1"] {
            assert_eq!(own_names(number), Vec::<String>::new(), "{number}");
        }
    }
}
