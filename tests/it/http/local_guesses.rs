//! Wrong tokens that come from this machine through an address beyond loopback count against the user who sent them. The
//! machine's users do not share a count for such an address.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustix::process::geteuid;

use crate::support::network::{OWN_ADDRESS, OWN_ADDRESS_OF_SIX, is_within_own_network};
use crate::support::wire::Wire;
use crate::support::{Place, is_stopped, not_run, signal, until_true};

const TOKEN: &str = "test-token-that-acts-7Qx";
const WRONG: &str = "a-wrong-token-of-many";
/// Two users who are not root.
const ANOTHER: u32 = 65_534;
const THIRD: u32 = 65_533;
/// A second address of the same network, and a machine at the other end of the veth pair.
const SECONDARY: &str = "10.77.0.2";
const REMOTE: &str = "10.77.0.9";

fn serve(host: &str) -> Place {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_HOST", host);
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.use_token(TOKEN);
    place.start_server();
    place
}

/// Opens a connection of this user, from one address of the machine to another.
fn open(place: &Place, uid: u32, (from, to): (&str, &str)) -> Wire {
    let at = |ip: &str, port| SocketAddr::new(ip.parse().expect("a number"), port);
    let (from, to) = (at(from, 0), at(to, place.port()));
    let open = move || {
        // Affects only this thread, which ends afterwards. The kernel records who created the socket.
        nix::unistd::setfsuid(uid.into());
        let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket(family, SocketType::STREAM, None).expect("a socket");
        bind(&socket, &from).expect("it is this machine's");
        connect(&socket, &to).expect("the server accepts");
        TcpStream::from(socket)
    };
    Wire::of(std::thread::spawn(open).join().expect("connects"))
}

/// Sends one request with this token on such a connection. Returns the status.
fn ask(place: &Place, uid: u32, way: (&str, &str), token: &str) -> u16 {
    let mut wire = open(place, uid, way);
    wire.send(request(token));
    wire.answer().status
}

fn request(token: &str) -> String {
    format!("GET /api/pipeline HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n")
}

fn ip(args: &[&str]) {
    assert!(Command::new("ip").args(args).status().expect("ip(8) is there").success(), "{args:?}");
}

fn has_network(test: &str) -> bool {
    if !geteuid().is_root() {
        not_run("another user's process can only be made by root", "AUTOAPPDEV_REQUIRE_ROOT");
        return false;
    }
    is_within_own_network(test)
}

#[test]
fn local_guesses_at_any_address_count_against_their_user() {
    if !has_network("local_guesses_at_any_address_count_against_their_user") {
        return;
    }
    ip(&["addr", "add", &format!("{SECONDARY}/24"), "dev", "v0"]);
    // On a listener at `::`, the address of an IPv4 client is in IPv6 form.
    for host in ["0.0.0.0", "::"] {
        let mut ways = vec![
            (OWN_ADDRESS, OWN_ADDRESS),
            (SECONDARY, OWN_ADDRESS),
            (SECONDARY, SECONDARY),
            (OWN_ADDRESS, "127.0.0.1"),
            ("127.0.0.5", "127.0.0.1"),
        ];
        if host == "::" {
            ways.extend([(OWN_ADDRESS_OF_SIX, OWN_ADDRESS_OF_SIX), (OWN_ADDRESS_OF_SIX, "::1"), ("::1", "::1")]);
        }
        for way in &ways {
            let place = serve(host);
            // On a slow machine, a wait of one second may have ended before the next guess. The waits grow, so eventually one is
            // observed.
            assert!((0..100).any(|_| ask(&place, ANOTHER, *way, WRONG) == 429), "{way:?} at {host}");
            for other in &ways {
                let of_root = ask(&place, 0, *other, TOKEN);
                assert_eq!(
                    [ask(&place, THIRD, *other, TOKEN), of_root],
                    [200, 200],
                    "{way:?} closes {other:?} at {host} for others"
                );
            }
            // The guesser cannot avoid the wait with another of the machine's addresses.
            for other in &ways {
                let closed = (0..100).any(|_| ask(&place, ANOTHER, *other, WRONG) == 429);
                assert!(closed, "{other:?} is open after {way:?} at {host}");
            }
        }
    }
}

/// The kernel cannot report the user of a closed socket. Such guesses count against an unknown user, and against no address.
#[test]
fn guesses_on_closed_connections_block_no_local_address() {
    if !has_network("guesses_on_closed_connections_block_no_local_address") {
        return;
    }
    for is_reset in [false, true] {
        let place = serve("0.0.0.0");
        let way = (OWN_ADDRESS, OWN_ADDRESS);
        let server = place.server_pid();
        until_true("the guesser has to wait", || {
            signal(server, "STOP");
            until_true("the server is stopped", || is_stopped(server));
            let mut wire = open(&place, ANOTHER, way);
            wire.send(request(WRONG));
            if is_reset {
                wire.reset();
            } else {
                drop(wire);
            }
            signal(server, "CONT");
            place.server_log().contains("several wrong tokens")
        });
        let log = place.server_log();
        assert!(log.contains("tokens came from an unknown user of this machine;"), "{log}");
        assert_eq!(ask(&place, THIRD, way, TOKEN), 200, "{log}");
    }
}

/// A client in its own network namespace has no socket in the server's namespace, like a client on another machine.
#[test]
fn remote_guesses_count_against_client_address() {
    if !has_network("remote_guesses_count_against_client_address") {
        return;
    }
    let place = serve("0.0.0.0");
    let there = format!(
        "read -r _; ip link set lo up; ip link set v1 up; ip addr add {REMOTE}/24 dev v1\n\
         for n in {{1..100}}; do\n\
           until exec 3<>/dev/tcp/{OWN_ADDRESS}/{port}; do sleep 0.05; done\n\
           printf '{request}' >&3; read -r _ status _ <&3; exec 3>&-\n\
           if [ \"$status\" = 429 ]; then echo closed; read -r _; exit; fi\n\
         done",
        port = place.port(),
        request = request(WRONG).replace('\r', "\\r").replace('\n', "\\n"),
    );
    let mut child = Command::new("unshare")
        .args(["-n", "bash", "-c", &there])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it ran a moment ago");
    let own = std::fs::read_link("/proc/self/ns/net").expect("Linux");
    until_true("the other machine is there", || {
        std::fs::read_link(format!("/proc/{}/ns/net", child.id())).is_ok_and(|other| other != own)
    });
    ip(&["link", "set", "v1", "netns", &child.id().to_string()]);
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"\n").expect("it reads");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("text");
    assert_eq!(line, "closed\n");
    let log = place.server_log();
    assert!(log.contains(&format!("came from {REMOTE}; ")), "{log}");
    assert_eq!(ask(&place, THIRD, (OWN_ADDRESS, OWN_ADDRESS), TOKEN), 200);
    // The network exists as long as that process.
    drop(stdin);
    child.wait().expect("ours");
}
