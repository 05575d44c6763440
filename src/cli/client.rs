//! The API from the outside: one request, its answer, and what can go wrong with it.
//!
//! It never follows a redirect, asks no proxy and keeps no connection: a request reaches the named server or none. It knows
//! nothing of the answers' meaning beside success, refusal and failure.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use ureq::Agent;

use super::local;
use crate::clock::Timestamp;
use crate::config::{Endpoint, Tokens};
use crate::secrets::Secret;
use crate::server_info::ServerInfo;

/// For an answer that needs no waiting.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// For a start, a pause or a resume: the server itself bounds them, and this only has to be longer.
pub(super) const ACTION_TIMEOUT: Duration = Duration::from_secs(90);
/// For a stop, beside its grace.
pub(super) const STOP_MARGIN: Duration = Duration::from_secs(30);
/// For a TCP handshake on loopback.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer: a page of 1 MiB of text and one more line, each byte as six (`\u0000`), with room.
const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Why there is no good answer. The texts are for people and end up after `autoappdev: `.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody listens there: nothing was sent.
    #[error("no server answers at {url}; start one with `autoappdev serve`")]
    Unreachable {
        /// The server that was tried last.
        url: String,
    },
    /// The connection broke or the time ran out: what was asked may have been done or not.
    #[error("the server at {url} gave no whole answer ({cause}); `autoappdev status` tells what is now")]
    NoAnswer {
        /// The server.
        url: String,
        /// What broke.
        cause: String,
    },
    /// 409: the state does not allow it.
    #[error("{detail}")]
    Refused {
        /// The server's sentence, made printable.
        detail: String,
        /// Its JSON.
        document: Answer,
    },
    /// Any other answer that is no success.
    #[error("{detail}")]
    Failed {
        /// The HTTP status.
        status: u16,
        /// The server's sentence, made printable.
        detail: String,
        /// Its JSON.
        document: Answer,
    },
    /// An answer that is not this API's.
    #[error("what answers at {url} is not understood ({cause}); is it an autoappdev server of this version?")]
    Stranger {
        /// The server.
        url: String,
        /// What was not understood.
        cause: String,
        /// The HTTP status.
        status: u16,
    },
    /// The answer could not be printed; a reader that went away is the usual cause.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl ClientError {
    /// Whether asking again later may help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::NoAnswer { .. } => true,
            Self::Failed { status, .. } => *status >= 500,
            // What a proxy says whose server is away (RFC 9110, section 15.6).
            Self::Stranger { status, .. } => matches!(status, 502..=504),
            Self::Refused { .. } | Self::Output(_) => false,
        }
    }
}

/// An answer of the API, still text.
#[derive(Debug)]
pub(super) struct Answer {
    url: String,
    status: u16,
    text: String,
    /// The server's clock, to the second.
    date: Option<Timestamp>,
}

impl Answer {
    /// The JSON as the server wrote it, on one line. A line break in JSON is always between tokens, so that it can go.
    pub(super) fn as_line(&self) -> String {
        self.text.replace(['\n', '\r'], "")
    }

    /// What time it was at the server.
    pub(super) fn date(&self) -> Option<Timestamp> {
        self.date
    }

    /// What the JSON says.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_str(&self.text).map_err(|error| ClientError::Stranger {
            url: self.url.clone(),
            cause: super::output::printable(&error.to_string()),
            status: self.status,
        })
    }
}

/// The API's error, as far as it is shown.
#[derive(Deserialize)]
struct ErrorDocument {
    error: String,
    detail: Option<String>,
}

/// Asks one server.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    endpoint: Endpoint,
    /// Those that were set.
    tokens: Tokens,
}

/// Where a server may be.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// At the other end of a Unix socket.
    Socket(PathBuf),
    /// At an address, as a URL without a path.
    Address(String),
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(formatter),
            Self::Address(url) => url.fmt(formatter),
        }
    }
}

impl Client {
    pub(super) fn new(endpoint: Endpoint, tokens: Tokens) -> Self {
        let settings = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .user_agent(concat!("autoappdev/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: settings.into(), endpoint, tokens }
    }

    /// Reads `path`.
    pub(super) fn get(&self, path: &str) -> Result<Answer, ClientError> {
        self.get_within(path, READ_TIMEOUT)
    }

    /// Reads `path`, and waits up to `timeout` for the whole of it.
    pub(super) fn get_within(&self, path: &str, timeout: Duration) -> Result<Answer, ClientError> {
        self.ask(|agent, base| {
            let url = format!("{base}{path}");
            let request = self.with_token(base, agent.get(url).header("connection", "close"));
            request.config().timeout_global(Some(timeout)).build().call()
        })
    }

    /// Asks `path` to do something, and waits up to `timeout` for it to be so.
    pub(super) fn post(&self, path: &str, body: &serde_json::Value, timeout: Duration) -> Result<Answer, ClientError> {
        let body = body.to_string();
        self.ask(|agent, base| {
            let url = format!("{base}{path}");
            let request = agent.post(url).header("connection", "close").content_type("application/json");
            let request = self.with_token(base, request);
            request.config().timeout_global(Some(timeout)).build().send(&body)
        })
    }

    /// Adds the token that opens most of the server at `base`. Those that were set go to whatever server was named; those in the runtime
    /// directory to the server that owns that and lives, and to no other that happens to have the usual port, or the one of a server that
    /// was killed.
    fn with_token<B>(&self, base: &str, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        let its_dir = match &self.endpoint {
            Endpoint::Url(_) => None,
            Endpoint::Folder { runtime_dir, .. } => Some(runtime_dir).filter(|dir| {
                ServerInfo::read_live(dir).and_then(|info| info.address).is_some_and(|address| base == url_of(address))
            }),
        };
        // A file that cannot be used is the server's concern: it says so, or asks for none.
        let kept = |secret: Secret| its_dir.and_then(|dir| secret.find(dir).ok().flatten());
        let Tokens { token, read_token } = self.tokens.clone();
        let token = token.or_else(|| kept(Secret::Token)).or(read_token).or_else(|| kept(Secret::ReadToken));
        match token {
            Some(token) => request.header("authorization", format!("Bearer {}", token.expose())),
            None => request,
        }
    }

    /// Sends to the first server that can be connected to. Where a connection was made no other is tried: an action may be
    /// asked once only.
    fn ask(
        &self,
        send: impl Fn(&Agent, &str) -> Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Answer, ClientError> {
        let mut url = String::new();
        for place in self.places() {
            let answer = match &place {
                Place::Socket(path) => send(&local::agent(self.agent.config().clone(), path), local::BASE),
                Place::Address(base) => send(&self.agent, base),
            };
            url = place.to_string();
            match answer {
                Ok(response) => return read_answer(url, response),
                Err(error) if is_unreached(&error) => {}
                Err(error) => return Err(ClientError::NoAnswer { url, cause: error.to_string() }),
            }
        }
        Err(ClientError::Unreachable { url })
    }

    /// Where the server may be, the likeliest first. Asked anew for each request: a restarted server may have another port.
    fn places(&self) -> Vec<Place> {
        match &self.endpoint {
            Endpoint::Url(url) => vec![Place::Address(url.clone())],
            Endpoint::Folder { socket, address, runtime_dir } => {
                let written = ServerInfo::read(runtime_dir);
                let written_socket = written.as_ref().and_then(|info| info.socket.clone());
                let written_address = written.and_then(|info| info.address).filter(|written| written != address);
                let sockets = written_socket.into_iter().chain(socket.clone());
                let addresses = written_address.into_iter().chain([*address]);
                let mut places: Vec<Place> = sockets.map(Place::Socket).collect();
                places.dedup();
                places.extend(addresses.map(|address| Place::Address(url_of(address))));
                places
            }
        }
    }
}

fn url_of(address: SocketAddr) -> String {
    format!("http://{}", dialable(address))
}

/// Where a server on this machine that listens at this address can be reached: every address of a machine is no address to call.
pub(super) fn dialable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(four) if four.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, four.port()).into(),
        SocketAddr::V6(six) if six.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, six.port()).into(),
        other => other,
    }
}

/// Whether no connection came about, so that nothing was sent.
fn is_unreached(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => true,
        ureq::Error::Timeout(phase) => matches!(phase, ureq::Timeout::Connect | ureq::Timeout::Resolve),
        // `connect(2)`: these mean that no connection was made. A reset or an end of the stream comes later.
        ureq::Error::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::NetworkDown
                | io::ErrorKind::AddrNotAvailable
                | io::ErrorKind::PermissionDenied
                // There is no Unix socket there, or the folder is no folder.
                | io::ErrorKind::NotFound
                | io::ErrorKind::NotADirectory
        ),
        _ => false,
    }
}

fn read_answer(url: String, mut response: ureq::http::Response<ureq::Body>) -> Result<Answer, ClientError> {
    let status = response.status().as_u16();
    let date = response.headers().get("date").and_then(|date| date.to_str().ok()).and_then(date_of);
    let bytes = match response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_vec() {
        Ok(bytes) => bytes,
        Err(error) => return Err(ClientError::NoAnswer { url, cause: error.to_string() }),
    };
    let Ok(text) = String::from_utf8(bytes) else {
        return Err(ClientError::Stranger { url, cause: "no UTF-8".to_owned(), status });
    };
    let document = Answer { url, status, text, date };
    if (200..300).contains(&status) {
        return Ok(document);
    }
    let ErrorDocument { error, detail } = document.read().map_err(|_| ClientError::Stranger {
        url: document.url.clone(),
        cause: format!("HTTP status {status} without a reason"),
        status,
    })?;
    let detail = super::output::printable(&detail.unwrap_or(error));
    if status == 409 {
        Err(ClientError::Refused { detail, document })
    } else {
        Err(ClientError::Failed { status, detail, document })
    }
}

/// A `Date` (RFC 9110, section 5.6.7), whose form a mail's date may have, too.
fn date_of(text: &str) -> Option<Timestamp> {
    let at = OffsetDateTime::parse(text, &Rfc2822).ok()?;
    at.unix_timestamp().checked_mul(1000).map(Timestamp::from_unix_ms)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_server_is_looked_for_where_it_said_it_is_and_then_where_it_should_be() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("server.json");
        let address = SocketAddr::from(([127, 0, 0, 1], 8788));
        let endpoint = |socket: Option<&str>| Endpoint::Folder {
            socket: socket.map(PathBuf::from),
            address,
            runtime_dir: folder.path().to_owned(),
        };
        let places = |socket| -> Vec<String> {
            Client::new(endpoint(socket), Tokens::default()).places().iter().map(ToString::to_string).collect()
        };
        let default = "http://127.0.0.1:8788";
        assert_eq!(places(None), [default]);
        assert_eq!(places(Some("/r/server.sock")), ["/r/server.sock", default]);
        fs::write(&file, r#"{"pid":1,"address":"127.0.0.1:4000"}"#).expect("written");
        assert_eq!(places(None), ["http://127.0.0.1:4000", default]);
        fs::write(&file, r#"{"pid":1,"address":"[::1]:4000","socket":"/elsewhere"}"#).expect("written");
        assert_eq!(places(Some("/r/server.sock")), ["/elsewhere", "/r/server.sock", "http://[::1]:4000", default]);
        fs::write(&file, r#"{"pid":1,"address":"127.0.0.1:8788","socket":"/r/server.sock"}"#).expect("written");
        assert_eq!(places(Some("/r/server.sock")), ["/r/server.sock", default]);
        for (listens, base) in [("0.0.0.0:4000", "http://127.0.0.1:4000"), ("[::]:4000", "http://[::1]:4000")] {
            fs::write(&file, format!(r#"{{"pid":1,"address":"{listens}"}}"#)).expect("written");
            assert_eq!(places(None), [base, default]);
        }
        for torn in [r#"{"pid":1,"addr"#, "", "[]", r#"{"address":"example.org:80"}"#] {
            fs::write(&file, torn).expect("written");
            assert_eq!(places(None), [default], "{torn}");
        }
        let named = Client::new(Endpoint::Url("http://box".to_owned()), Tokens::default());
        assert_eq!(named.places(), [Place::Address("http://box".to_owned())]);
    }

    fn empty_answer() -> Answer {
        Answer { url: String::new(), status: 200, text: String::new(), date: None }
    }

    #[test]
    fn the_servers_clock_is_read() {
        let read = |text| date_of(text).map(|at| at.to_string());
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT").as_deref(), Some("1994-11-06T08:49:37.000Z"));
        for text in ["", "now", "Sun, 06 Nov 1994 25:49:37 GMT", "784111777"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn json_comes_on_one_line_and_otherwise_as_it_is() {
        let answer = |text: &str| Answer { text: text.to_owned(), ..empty_answer() };
        assert_eq!(answer("{\n  \"b\": \"x\\ny\",\r\n  \"a\": 1.50\n}\n").as_line(), "{  \"b\": \"x\\ny\",  \"a\": 1.50}");
    }

    #[test]
    fn what_passes_by_itself_is_worth_another_try() {
        let failed = |status| ClientError::Failed { status, detail: String::new(), document: empty_answer() };
        let stranger = |status| ClientError::Stranger { url: String::new(), cause: String::new(), status };
        assert!(stranger(502).may_pass() && !stranger(200).may_pass() && !stranger(500).may_pass());
        assert!(failed(503).may_pass() && failed(500).may_pass());
        assert!(!failed(404).may_pass());
        assert!(ClientError::Unreachable { url: String::new() }.may_pass());
        assert!(!ClientError::Refused { detail: String::new(), document: empty_answer() }.may_pass());
        assert!(!ClientError::Output(io::ErrorKind::BrokenPipe.into()).may_pass());
    }
}
