//! `autoappdev pair`: prints a link and its QR code, with which a phone logs in.
//!
//! The link contains a one-time code from the server instead of a token, because browsers keep links in their history and may
//! sync it. The code is in the link's fragment, which browsers never send to a server. The page reads the code there and logs
//! in with it.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::args::PairArgs;
use super::client::{Client, ClientError, READ_TIMEOUT};
use super::places::places_of;
use super::qr::{self, Screen};
use crate::api::routes::Route;
use crate::api::session::{PairRequest, PairResponse, Role};
use crate::clock::Timestamp;
use crate::config::{Endpoint, FoundTokens};
use crate::console::json_line;
use crate::runtime_dir::ServerInfo;
use crate::transport::{Reach, connect_address, reachable_addresses};

/// The longest code, in bytes. A longer link would not fit into a QR code on a screen.
const CODE_BYTES_MAX: usize = 256;

/// Why there is no link. The texts follow `autoappdev: `.
#[derive(Debug, thiserror::Error)]
pub(super) enum PairError {
    #[error("the server listens only on a Unix socket, which a phone cannot reach; name an address that leads to it with --url")]
    SocketOnly,
    #[error("this machine has no address that other machines can reach; is it connected to a network? Name one with --address")]
    NoAddress,
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// The JSON that `--json` prints.
#[derive(Serialize)]
struct Pairing {
    may: Role,
    links: Vec<String>,
    expires_at: Timestamp,
}

pub(super) fn pair(args: &PairArgs, endpoint: Endpoint, tokens: FoundTokens, json: bool) -> Result<String, PairError> {
    let at_url = |url: &str| match &args.address {
        Some(address) => with_host(address, port_of(url)),
        None => url.to_owned(),
    };
    // Checked first, so that no code is created for a link that leads nowhere.
    let mut closed = None;
    let bases = match &endpoint {
        Endpoint::Url(url) => vec![at_url(url)],
        Endpoint::Folder(folder) => match (ServerInfo::read_live(&folder.runtime_dir), folder.named_address) {
            (Some(info), _) => {
                let address = info.address.ok_or(PairError::SocketOnly)?;
                let listening: Vec<SocketAddr> = [address].into_iter().chain(info.more_addresses).collect();
                closed = Some(address).filter(|_| args.address.is_none() && !is_open(&listening));
                bases(args.address.as_deref(), &listening)?
            }
            (None, Some(address)) => vec![at_url(&format!("http://{}", connect_address(address)))],
            (None, None) => {
                // The message is the same as for every other command.
                let absent = ClientError::NoServer(Box::new(places_of(folder).absence));
                return Err(Client::new(endpoint, FoundTokens::default()).explain(absent).into());
            }
        },
    };
    let may = if args.read_only { Role::Viewer } else { Role::Operator };
    let client = Client::new(endpoint, tokens);
    let made = client.post(&Route::Pair.path(), &PairRequest { may: Some(may) }, None, READ_TIMEOUT);
    let answer = made.map_err(|error| client.explain(error))?;
    let PairResponse { may, code, expires_at, .. } = answer.read()?;
    if !is_code(&code) {
        return Err(answer.not_understood("its code is not made of letters, digits, - and _").into());
    }
    let links: Vec<String> = bases.iter().map(|base| format!("{base}/#code={code}")).collect();
    if json {
        return Ok(json_line(&serde_json::to_string(&Pairing { may, links, expires_at }).expect("plain data")) + "\n");
    }
    let env = |name: &str| std::env::var(name).ok();
    let screen = Screen { is_utf8: qr::is_utf8(env), is_terminal: std::io::stdout().is_terminal() };
    Ok(match (closed, &*links) {
        (Some(address), [link, ..]) => describe_here(link, may, address),
        _ => describe(&links, may, screen),
    })
}

/// Checks whether a code has the form that every server uses. Such a code cannot contain a second line or link, or lead to
/// another address.
fn is_code(text: &str) -> bool {
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=CODE_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_usual)
}

/// Returns what a login with this role allows, as a phrase that follows "can then".
fn allows(may: Role) -> &'static str {
    match may {
        Role::Viewer => "see everything, and change nothing",
        Role::Operator => "see everything, and start, pause, resume and stop",
    }
}

/// Describes the link of a server that other machines cannot reach. There is no QR code, because a phone could not open the
/// link.
fn describe_here(link: &str, may: Role, address: SocketAddr) -> String {
    format!(
        "Open this link in a browser on this machine. It logs in one browser, which can then {may}:\n\n  {link}\n\n\
         Only this machine reaches it, because the server listens on {address}. For a phone, start the server with AUTOAPPDEV_HOST=0.0.0.0 \
         (every address of this machine) or one address of it: it then asks for the token. If something else leads to the server, name that \
         with --address.\n\nIt works once, within 10 minutes. `autoappdev sessions` lists the browsers that are logged in.\n",
        may = allows(may),
    )
}

fn describe(links: &[String], may: Role, screen: Screen) -> String {
    let Some((first, others)) = links.split_first() else { return String::new() };
    let mut text = qr::code(first, screen).unwrap_or_default();
    let _never_fails = writeln!(
        text,
        "Scan this with your phone, or open the link there. It logs in one browser, which can then {}:\n\n  {first}",
        allows(may)
    );
    if !others.is_empty() {
        text.push_str("\nThe same link with other addresses of this machine:\n");
        text.extend(others.iter().map(|other| format!("  {other}\n")));
    }
    text.push_str(
        "\nIt works once, within 10 minutes. `autoappdev sessions` lists the browsers that are logged in.\n\
         The connection is not encrypted: use it only on a network that you trust.\n",
    );
    text
}

/// Checks whether other machines can reach one of these addresses.
fn is_open(listening: &[SocketAddr]) -> bool {
    listening.iter().any(|address| Reach::at(*address).is_open())
}

/// Returns `http://HOST:PORT` for each address at which a server that listens there can be reached, the likeliest first. If
/// only this machine can reach the server, these are the listening addresses.
fn bases(named: Option<&str>, listening: &[SocketAddr]) -> Result<Vec<String>, PairError> {
    if let Some(host) = named {
        return Ok(vec![with_host(host, listening.first().map(SocketAddr::port))]);
    }
    let found = if is_open(listening) { reachable_addresses(listening) } else { listening.to_vec() };
    if found.is_empty() {
        Err(PairError::NoAddress)
    } else {
        Ok(found.iter().map(|address| format!("http://{address}")).collect())
    }
}

/// Returns the base URL for an address that the user named. It has its own port, or the server's.
fn with_host(host: &str, port: Option<u16>) -> String {
    let is_number_of_six = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6());
    let has_port = !is_number_of_six && host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match port {
        Some(port) if is_number_of_six => format!("http://[{host}]:{port}"),
        Some(port) if !has_port => format!("http://{host}:{port}"),
        Some(_) | None => format!("http://{host}"),
    }
}

/// Returns the port of `http://HOST[:PORT]`.
fn port_of(url: &str) -> Option<u16> {
    url.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_address_gets_the_servers_port() {
        for (named, base) in [
            ("10.0.0.5", "http://10.0.0.5:8788"),
            ("10.0.0.5:80", "http://10.0.0.5:80"),
            ("board.local", "http://board.local:8788"),
            ("fd00::1", "http://[fd00::1]:8788"),
            ("[fd00::1]:80", "http://[fd00::1]:80"),
        ] {
            let address = "127.0.0.1:8788".parse().expect("an address");
            assert_eq!(bases(Some(named), &[address]).expect("named"), [base]);
        }
        assert_eq!(port_of("http://box"), None);
        assert_eq!(port_of("http://[::1]:80"), Some(80));
    }

    #[test]
    fn loopback_is_linked_only_if_nothing_else_is_open() {
        let at = |address: &str| bases(None, &[address.parse().expect("an address")]);
        for address in ["127.0.0.1:8788", "[::1]:8788"] {
            assert_eq!(at(address).expect("for this machine"), [format!("http://{address}")]);
        }
        assert_eq!(at("192.168.1.5:8788").expect("open"), ["http://192.168.1.5:8788"]);
        assert_eq!(at("[fd00::5]:8788").expect("open"), ["http://[fd00::5]:8788"]);
        let [closed, open] = ["127.0.0.1:8788", "192.168.1.5:8788"].map(|address| address.parse().expect("an address"));
        assert_eq!(bases(None, &[closed, open, open]).expect("one is open"), ["http://192.168.1.5:8788"]);
    }

    #[test]
    fn pair_text_names_every_link_and_its_rights() {
        let links = ["http://10.0.0.5:1/#code=x".to_owned(), "http://10.0.0.6:1/#code=x".to_owned()];
        let screen = Screen { is_utf8: false, is_terminal: false };
        let text = describe(&links, Role::Operator, screen);
        assert!(
            links.iter().all(|link| text.contains(link))
                && text.contains("can then see everything, and start, pause")
                && text.contains("####")
        );
        assert!(text.contains("works once, within 10 minutes"), "{text}");
        assert!(describe(&links[..1], Role::Viewer, screen).contains("change nothing"));
    }
}
