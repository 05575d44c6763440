//! Connections to a server, as a transport of the HTTP client. They use a Unix socket, or TCP with a proof that the server owns
//! the runtime directory. Nothing of a request is sent before the server is verified.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{SendFlags, sockopt};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::time::Duration as Limit;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Agent, Error};

use crate::abstract_socket;
use crate::api::routes::Route;
use crate::api::version::{ProofResponse, VersionQuery};
use crate::random;
use crate::runtime_dir::Prover;
use crate::socket_path::SocketPath;
use crate::user;

/// The base URL for a server behind a Unix socket. It contains an IP address, so that no name is resolved.
pub(super) const BASE: &str = "http://127.0.0.1";
/// The time limit for connecting to a Unix socket if the request has no limit.
const SOCKET_CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The longest answer to a challenge, in bytes, with its header fields and body.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// The maximum number of header fields in that answer.
const FIELDS_MAX: usize = 64;

/// The proof that a server must give before anything is sent to it.
#[derive(Clone, Debug)]
pub(super) enum Proof {
    /// No proof.
    None,
    /// The server's process belongs to one of these users. The kernel reports who listens on a Unix socket (`SO_PEERCRED`,
    /// `unix(7)`).
    User(Vec<u32>),
    /// The server has the session key.
    Key(Prover),
}

/// Why a server could not be verified. Completes an error message after the server's address.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unverified {
    #[error("belongs to {}", user::another(*.0))]
    User(u32),
    #[error("does not prove that it is the server of this folder and in the same network namespace as this command")]
    Key,
    #[error(
        "cannot be verified, because /proc does not show the boot and the network namespace of this command; mount /proc, without subset=pid"
    )]
    NoNetwork,
    /// The server has proved its identity, but will not answer another request on this connection.
    #[error("closes the connection")]
    Closing,
}

impl From<Unverified> for Error {
    fn from(unproven: Unverified) -> Self {
        Self::Other(Box::new(unproven))
    }
}

/// Creates an agent that sends requests to any server that answers at an address.
pub(super) fn to_any(settings: Config) -> Agent {
    Agent::with_parts(settings, DefaultConnector::default(), Addresses)
}

/// Creates an agent that sends every request to the socket at `path`. Pass `may_be_link` only if the user named the path.
pub(super) fn to_socket(settings: Config, path: &Path, proof: Proof, may_be_link: bool) -> Agent {
    Agent::with_parts(settings, ToServer { socket: Some((path.to_owned(), may_be_link)), proof }, Addresses)
}

/// Creates an agent that sends requests to an address only after the server there has given its proof.
pub(super) fn to_address(settings: Config, proof: Proof) -> Agent {
    Agent::with_parts(settings, ToServer { socket: None, proof }, Addresses)
}

/// A resolver that uses no thread for IP addresses, and a thread for names, so that the time limit of the request includes
/// them.
///
/// At the limit of processes, which a pipeline can reach by itself, the library's resolver would panic. A name is then resolved
/// without a thread and without the time limit.
#[derive(Debug)]
struct Addresses;

impl Resolver for Addresses {
    fn resolve(&self, uri: &Uri, config: &Config, mut timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let named = uri.scheme().zip(uri.authority()).and_then(|(scheme, host)| DefaultResolver::host_and_port(scheme, host));
        if let Some(address) = named.and_then(|named| named.parse().ok()) {
            let mut found = self.empty();
            found.push(address);
            return Ok(found);
        }
        if thread::Builder::new().spawn(|| ()).is_err() {
            timeout.after = Limit::NotHappening;
        }
        // A name without an address is an input/output error for the library, like a connection that breaks. Nothing was sent.
        DefaultResolver::default().resolve(uri, config, timeout).map_err(|error| match error {
            Error::Io(_) => Error::HostNotFound,
            other => other,
        })
    }
}

#[derive(Debug)]
struct ToServer {
    socket: Option<(PathBuf, bool)>,
    proof: Proof,
}

impl Connector for ToServer {
    type Out = Connection;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Connection>, Error> {
        let (socket, reached): (OwnedFd, _) = if let Some((path, may_be_link)) = &self.socket {
            if !may_be_link && path.symlink_metadata()?.is_symlink() {
                return Err(io::Error::from(io::ErrorKind::NotFound).into());
            }
            let limit = limit(details.timeout).unwrap_or(SOCKET_CONNECT_LIMIT);
            let connected = SocketPath::open(path)?.connect(limit);
            (connected.map_err(|error| late(error, details.timeout))?.into(), None)
        } else {
            let stream = connect_tcp(details)?;
            let reached = stream.peer_addr()?;
            (stream.into(), Some(reached))
        };
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        let mut connection = Connection { socket, buffers };
        match (&self.proof, reached) {
            (Proof::None, _) => {}
            (Proof::User(users), _) => {
                let (uid, _) = abstract_socket::credentials(&connection.socket)?;
                if !users.contains(&uid) || !user::has_number(uid) {
                    return Err(Unverified::User(uid).into());
                }
            }
            (Proof::Key(prover), Some(_)) if !prover.knows_network() => return Err(Unverified::NoNetwork.into()),
            (Proof::Key(prover), Some(reached)) => challenge(&mut connection, prover, reached, details.timeout)?,
            (Proof::Key(_), None) => return Err(Unverified::Key.into()),
        }
        Ok(Some(connection))
    }
}

fn connect_tcp(details: &ConnectionDetails<'_>) -> Result<TcpStream, Error> {
    let mut failed = Error::HostNotFound;
    for address in &details.addrs {
        let connected = match limit(details.timeout) {
            Some(limit) => TcpStream::connect_timeout(address, limit),
            None => TcpStream::connect(address),
        };
        match connected {
            Ok(stream) => {
                // A request is one or two writes. The second must not be delayed until the first is acknowledged.
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => failed = late(error, details.timeout),
        }
    }
    Err(failed)
}

/// Verifies that the server owns the runtime directory, on the connection that the request will use. Between two connections,
/// another process could take over the address.
fn challenge(connection: &mut Connection, prover: &Prover, reached: SocketAddr, timeout: NextTimeout) -> Result<(), Error> {
    let challenge = random::id()?;
    let url = Route::Version.url("", &VersionQuery { challenge: Some(challenge.clone()) });
    // Every server accepts this host name, whatever its configuration.
    let request = format!("GET {url} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    connection.send(request.as_bytes(), timeout)?;
    let deadline = limit(timeout).map(|limit| Instant::now() + limit);
    let mut answer = Vec::new();
    let proof = loop {
        if let Some(proof) = proof_in(&answer)? {
            break proof;
        }
        let mut part = [0; 4096];
        // The deadline covers the whole answer, because an untrusted server may send it byte by byte.
        let after = match deadline {
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(Error::Timeout(timeout.reason));
                }
                left.into()
            }
            None => timeout.after,
        };
        let count = connection.receive(&mut part, NextTimeout { after, ..timeout })?;
        if count == 0 {
            return Err(Unverified::Key.into());
        }
        answer.extend_from_slice(&part[..count]);
    };
    if !prover.is_proof(&proof.text, &challenge, reached) {
        return Err(Unverified::Key.into());
    }
    if proof.is_last { Err(Unverified::Closing.into()) } else { Ok(()) }
}

/// A server's answer to a challenge.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    text: String,
    /// True if the server closes the connection after this answer.
    is_last: bool,
}

/// Parses the proof in an answer. Returns `None` if the answer is incomplete, and an error if it is another answer or more
/// bytes follow it.
fn proof_in(answer: &[u8]) -> Result<Option<Answer>, Unverified> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut fields);
    let head_bytes = match head.parse(answer) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) if answer.len() <= ANSWER_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) | Err(_) => return Err(Unverified::Key),
    };
    let is_length = |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case("content-length");
    let length =
        head.headers.iter().find(is_length).and_then(|field| std::str::from_utf8(field.value).ok()?.parse::<usize>().ok());
    let length = length.filter(|length| head.code == Some(200) && *length <= ANSWER_BYTES_MAX).ok_or(Unverified::Key)?;
    let body = &answer[head_bytes..];
    if body.len() < length {
        return Ok(None);
    }
    // Bytes after the body would be taken for the answer to the request.
    let ProofResponse { proof, .. } =
        serde_json::from_slice(body).ok().filter(|_| body.len() == length).ok_or(Unverified::Key)?;
    let is_last = head
        .headers
        .iter()
        .any(|field| field.name.eq_ignore_ascii_case("connection") && field.value.eq_ignore_ascii_case(b"close"));
    Ok(Some(Answer { text: proof, is_last }))
}

struct Connection {
    socket: OwnedFd,
    buffers: LazyBuffers,
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Connection").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Connection {
    fn send(&self, mut bytes: &[u8], timeout: NextTimeout) -> Result<(), Error> {
        set_limit(&self.socket, sockopt::Timeout::Send, timeout)?;
        while !bytes.is_empty() {
            match rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(count) => bytes = &bytes[count..],
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(late(error.into(), timeout)),
            }
        }
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8], timeout: NextTimeout) -> Result<usize, Error> {
        receive(&self.socket, buffer, timeout)
    }
}

fn receive(socket: &OwnedFd, buffer: &mut [u8], timeout: NextTimeout) -> Result<usize, Error> {
    set_limit(socket, sockopt::Timeout::Recv, timeout)?;
    loop {
        match rustix::io::read(socket, &mut *buffer) {
            Ok(count) => return Ok(count),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(late(error.into(), timeout)),
        }
    }
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let output = self.buffers.output()[..amount].to_vec();
        self.send(&output, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let count = receive(&self.socket, self.buffers.input_append_buf(), timeout)?;
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        // Connections are not reused.
        false
    }
}

/// Converts a timeout for a socket, which does not accept zero. `None` means no limit.
fn limit(timeout: NextTimeout) -> Option<Duration> {
    timeout.not_zero().map(|left| *left)
}

/// Checks whether no connection was made, so that nothing was sent.
pub(super) fn is_unreached(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => true,
        ureq::Error::Timeout(phase) => matches!(phase, ureq::Timeout::Connect | ureq::Timeout::Resolve),
        // `connect(2)`: these errors mean that no connection was made. A reset or an end of the stream comes later.
        ureq::Error::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::NetworkDown
                | io::ErrorKind::AddrNotAvailable
                | io::ErrorKind::PermissionDenied
                // There is no Unix socket at the path, or a part of the path is not a folder.
                | io::ErrorKind::NotFound
                | io::ErrorKind::NotADirectory
                // The path cannot be that of a socket: it is too long, or has a NUL.
                | io::ErrorKind::InvalidInput
                | io::ErrorKind::InvalidFilename
        ),
        _ => false,
    }
}

fn set_limit(socket: &OwnedFd, which: sockopt::Timeout, timeout: NextTimeout) -> io::Result<()> {
    Ok(sockopt::set_socket_timeout(socket, which, limit(timeout))?)
}

fn late(error: io::Error, timeout: NextTimeout) -> Error {
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
        Error::Timeout(timeout.reason)
    } else {
        error.into()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::config::Token;

    #[test]
    fn proof_is_read_only_from_one_complete_response() {
        let body = r#"{"ok":true,"proof":"ab"}"#;
        let answer = format!("HTTP/1.1 200 OK\r\nDate: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        for cut in 0..answer.len() {
            assert!(matches!(proof_in(&answer.as_bytes()[..cut]), Ok(None)), "{cut}");
        }
        let read = |is_last| Some(Answer { text: "ab".to_owned(), is_last });
        assert_eq!(proof_in(answer.as_bytes()).expect("good"), read(false));
        assert_eq!(proof_in(answer.replace("Date: x", "Connection: close").as_bytes()).expect("good"), read(true));
        let bad = |from: &str, to: &str| answer.replace(from, to);
        for other in [
            bad("200 OK", "401 Unauthorized"),
            bad("content-length", "transfer-encoding"),
            bad(&body.len().to_string(), "99999999999"),
            bad("proof", "proofs"),
            bad("HTTP/1.1", "SSH-2.0"),
            answer.clone() + "HTTP/1.1 200 OK\r\n",
        ] {
            proof_in(other.as_bytes()).expect_err(&other);
        }
        proof_in(format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(ANSWER_BYTES_MAX)).as_bytes()).expect_err("it is too long");
    }

    #[test]
    fn path_that_no_socket_can_have_is_one_where_no_server_is() {
        for name in ["x".repeat(120), "x".repeat(300), "a\0b".to_owned()] {
            for may_be_link in [false, true] {
                let agent = to_socket(Agent::config_builder().build(), &Path::new("/tmp").join(&name), Proof::None, may_be_link);
                let error = agent.get(BASE).call().expect_err("there is none");
                assert!(is_unreached(&error), "{name:?}: {error:?}");
            }
        }
    }

    #[test]
    fn slow_response_has_one_total_time_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let (limit, patience) = (Duration::from_millis(200), Duration::from_secs(60));
        thread::spawn(move || {
            let (mut stranger, _) = listener.accept().expect("somebody connects");
            let mut bytes = b"HTTP/1.1 200 OK\r\nx: ".to_vec();
            // Ends when the connection does.
            while stranger.write_all(&bytes).is_ok() {
                bytes = b"x".to_vec();
                thread::sleep(limit / 4);
            }
        });
        let (done, ends) = mpsc::channel();
        thread::spawn(move || {
            let socket = TcpStream::connect(address).expect("it listens").into();
            let mut connection = Connection { socket, buffers: LazyBuffers::new(1024, 1024) };
            let prover = Prover::new(&Token::new("a-session-key-of-a-folder").expect("good"));
            let timeout = NextTimeout { after: limit.into(), reason: ureq::Timeout::Global, ..NextTimeout::default() };
            let _test_has_ended = done.send(challenge(&mut connection, &prover, address, timeout).expect_err("no proof"));
        });
        assert!(matches!(ends.recv_timeout(patience), Ok(Error::Timeout(ureq::Timeout::Global))), "one limit");
    }
}
