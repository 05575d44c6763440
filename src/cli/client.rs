//! The client side of the API: one request, its answer, and what can go wrong with it.
//!
//! It never follows a redirect, uses no proxy and keeps no connection open. A request takes effect only at the intended server
//! (`places`): it carries that server's id, and any other server refuses it. A token is sent only to a server that may receive
//! it (`credentials`). This file does not interpret answers beyond success, refusal and failure.

use std::io;
use std::path::Path;
use std::sync::Once;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::Agent;
use ureq::http::Request;

use super::connection::{self, Proof, Unverified};
use super::credentials::{Credentials, NAME_IT};
use super::places::{Absence, Meant, Neighbour, Place, Places, Way, places_of};
use crate::api::error::{ErrorCode, ErrorResponse};
use crate::api::pipeline::IDEMPOTENCY_KEY;
use crate::api::routes::Route;
use crate::api::version::ServerIdentity;
use crate::clock::Timestamp;
use crate::config::{Endpoint, Folder, FoundTokens};
use crate::console::{complain, json_line, printable};
use crate::file_id::FileId;
use crate::runtime_dir::{By, ClientDir, resolve};

pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// For a start, a pause or a resume. The server limits these itself, and this limit only has to be longer.
pub(super) const ACTION_TIMEOUT: Duration = Duration::from_secs(90);
/// For a stop, in addition to its grace.
pub(super) const STOP_MARGIN: Duration = Duration::from_secs(30);
/// For a TCP handshake on loopback.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to ask which server answers at the usual address; the answer only improves an error message.
const NEIGHBOUR_TIMEOUT: Duration = Duration::from_secs(2);
const SERVER_ID_FIELD: &str = "autoappdev-server";
/// The longest answer, in bytes. A page has 1 MiB of text and one more line, each byte can take six (`\u0000`), and the rest is
/// a margin.
const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Why a request has no successful answer. The texts are for people and follow `autoappdev: `. `detail` is the server's
/// sentence, made printable, and `document` is the server's JSON.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// No server listens there, and nothing was sent.
    #[error("no server answers at {url}; start one with `autoappdev serve`")]
    Unreachable { url: String },
    /// This runtime directory has no server, or the server cannot be found. No request was sent.
    #[error("{0}")]
    NoServer(Box<Absence>),
    /// The server there has not proved that it belongs to this folder. No request was sent.
    #[error("the server at {url} {cause}, so nothing was sent to it; {NAME_IT}")]
    Unverified { url: String, cause: String },
    /// The server there has proved that it belongs to this folder, but accepts no request now. None was sent.
    #[error("the server at {url} is stopping, or has too many connections, so nothing was sent to it; try again")]
    Closing { url: String },
    /// The connection broke or, if `is_late`, the time limit was reached. The action may or may not have been done.
    #[error("the answer of the server at {url} was cut off ({cause}); `autoappdev status` shows the current state")]
    NoAnswer { url: String, cause: String, is_late: bool },
    /// 409: the state does not allow the action.
    #[error("{detail}")]
    Refused { detail: String, document: Answer },
    /// Any other answer that is not a success.
    #[error("{detail}")]
    Failed { status: u16, detail: String, document: Answer },
    /// An answer that is not this API's.
    #[error("the response from {url} cannot be understood ({cause}); is it an autoappdev server of this version?")]
    Stranger { url: String, cause: String, status: u16 },
    /// The answer could not be printed, usually because the reader of stdout has gone away.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl ClientError {
    /// Checks whether no server received the request.
    pub(super) fn is_unreached(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NoServer(_) | Self::Unverified { .. } | Self::Closing { .. })
    }

    /// Checks whether the server that answered is not the intended one.
    fn is_from_other_server(&self) -> bool {
        let Self::Failed { status: 421, document, .. } = self else { return false };
        document.read().is_ok_and(|ErrorResponse { error, .. }| error == ErrorCode::OtherServer.as_str())
    }

    /// Adds the reason why no token was sent, if the server requires one.
    fn with_reason(self, withheld: Option<&str>) -> Self {
        match (self, withheld) {
            (Self::Failed { status: 401, detail, document }, Some(reason)) => {
                Self::Failed { status: 401, detail: format!("{detail} ({reason})"), document }
            }
            (error, _) => error,
        }
    }

    /// Checks whether the same request may succeed later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::NoServer(_)
            | Self::Unverified { .. }
            | Self::Closing { .. }
            | Self::NoAnswer { .. } => true,
            Self::Failed { status, .. } => *status >= 500,
            // The answers of a proxy that cannot reach its server (RFC 9110, section 15.6).
            Self::Stranger { status, .. } => matches!(status, 502..=504),
            Self::Refused { .. } | Self::Output(_) => false,
        }
    }
}

/// An answer of the API, not parsed yet.
#[derive(Debug)]
pub(super) struct Answer {
    url: String,
    status: u16,
    text: String,
    /// The server's time, in whole seconds.
    pub(super) date: Option<Timestamp>,
}

impl Answer {
    /// Returns the server's JSON on one line, without characters that act on a terminal.
    pub(super) fn as_line(&self) -> String {
        json_line(&self.text)
    }

    /// Returns the length of the server's JSON.
    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }

    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_str(&self.text).map_err(|error| self.not_understood(&error.to_string()))
    }

    /// Returns the text to print: the server's JSON, or the result of `describe`. An answer that is not this API's is an error
    /// in both cases.
    pub(super) fn text<T: DeserializeOwned>(
        &self,
        json: bool,
        describe: impl FnOnce(T) -> String,
    ) -> Result<String, ClientError> {
        let understood = self.read()?;
        Ok(if json { self.as_line() + "\n" } else { describe(understood) })
    }

    /// Returns the error for an answer that is not this API's.
    pub(super) fn not_understood(&self, cause: &str) -> ClientError {
        ClientError::Stranger { url: self.url.clone(), cause: printable(cause), status: self.status }
    }
}

#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    target: Target,
    /// The tokens that the environment or `.env` sets.
    tokens: FoundTokens,
    /// Completed once the user has been warned about a server that cannot be verified.
    warned: Once,
}

/// The server that the requests are for.
#[derive(Debug)]
enum Target {
    Place(Place),
    Folder(Folder),
}

/// A request. It is the same for each place.
struct Question<'a> {
    path: &'a str,
    /// The body of a POST; `None` for a GET.
    body: Option<String>,
    /// The key under which the server acts only once.
    key: Option<&'a str>,
    /// The time limit for the whole answer.
    timeout: Duration,
}

impl<'a> Question<'a> {
    fn get(path: &'a str, timeout: Duration) -> Self {
        Self { path, body: None, key: None, timeout }
    }

    /// Checks whether the request can change something. The body of such a request can contain secrets, such as variables for a
    /// run.
    fn acts(&self) -> bool {
        self.body.is_some()
    }
}

impl Client {
    pub(super) fn new(endpoint: Endpoint, tokens: FoundTokens) -> Self {
        let target = match endpoint {
            Endpoint::Url(url) => Target::Place(Place { way: Way::Address(url), meant: Meant::Any }),
            Endpoint::Folder(folder) => Target::Folder(folder),
        };
        Self::of(target, tokens)
    }

    fn of(target: Target, tokens: FoundTokens) -> Self {
        let settings = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(0)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .user_agent(concat!("autoappdev/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: connection::to_any(settings), target, tokens, warned: Once::new() }
    }

    pub(super) fn get(&self, path: &str) -> Result<Answer, ClientError> {
        self.get_within(path, READ_TIMEOUT)
    }

    /// Reads `path`, and waits up to `timeout` for the whole answer.
    pub(super) fn get_within(&self, path: &str, timeout: Duration) -> Result<Answer, ClientError> {
        self.ask(&Question::get(path, timeout))
    }

    /// Requests an action at `path`, at most once under one key, and waits up to `timeout` for its result.
    pub(super) fn post(
        &self,
        path: &str,
        body: &impl Serialize,
        key: Option<&str>,
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        let body = serde_json::to_string(body).expect("requests are plain data");
        self.ask(&Question { path, body: Some(body), key, timeout })
    }

    /// Adds to an error which server answers at the usual address of this folder's server. It only asks that server which
    /// runtime directory it serves, and sends no token.
    pub(super) fn explain(&self, error: ClientError) -> ClientError {
        let ClientError::NoServer(mut absence) = error else { return error };
        absence.neighbour = absence.usual_address().and_then(|address| {
            let way = Way::Address(format!("http://{address}"));
            match self.send(&way, &Credentials::none(), &Question::get(&Route::Version.path(), NEIGHBOUR_TIMEOUT)) {
                Ok(answer) => Some(match answer.read() {
                    Ok(ServerIdentity { server }) => Neighbour::Server(server.runtime_dir.into()),
                    Err(_) => Neighbour::Stranger,
                }),
                Err(ClientError::Unreachable { .. }) => None,
                Err(ClientError::Failed { status: 401, .. }) => Some(Neighbour::AsksForToken),
                Err(_) => Some(Neighbour::Stranger),
            }
        });
        ClientError::NoServer(absence)
    }

    /// Sends a request to the first intended server that accepts a connection.
    ///
    /// Once the request was sent, no other server is tried, because an action must be sent only once. A server that answers
    /// `other_server` has done nothing.
    fn ask(&self, question: &Question<'_>) -> Result<Answer, ClientError> {
        let (list, dir, mut failure) = match &self.target {
            Target::Place(place) => (vec![place.clone()], None, ClientError::Unreachable { url: place.way.to_string() }),
            Target::Folder(folder) => {
                let Places { list, dir, absence } = places_of(folder);
                (list, dir, ClientError::NoServer(Box::new(absence)))
            }
        };
        for place in &list {
            match self.ask_at(place, dir.as_ref(), question) {
                Ok(None) | Err(ClientError::Unreachable { .. }) => {}
                Err(error) if error.is_from_other_server() => {}
                Err(error @ (ClientError::Unverified { .. } | ClientError::Closing { .. })) => failure = error,
                Ok(Some(answer)) => return Ok(answer),
                Err(error) => return Err(error),
            }
        }
        Err(failure)
    }

    /// Sends a request to one place. Returns `None` if the server there is not the intended one.
    fn ask_at(&self, place: &Place, dir: Option<&ClientDir>, question: &Question<'_>) -> Result<Option<Answer>, ClientError> {
        let way = &place.way;
        let Some(credentials) = self.credentials(place, dir)? else { return Ok(None) };
        if let Some(why) = credentials.unverified.as_ref().filter(|_| question.acts()) {
            let cause = format!("cannot be verified, because {why}");
            return Err(ClientError::Unverified { url: way.to_string(), cause });
        }
        let answered = self.send(way, &credentials, question);
        if let Some(why) = credentials.unverified.as_ref().filter(|_| answered.is_ok()) {
            self.warned.call_once(|| {
                let what = "could not be verified as the owner of this runtime directory";
                complain(&format!("autoappdev: warning: the server at {way} {what}, because {why}; its answers may be wrong"));
            });
        }
        match answered {
            // The user named this server, so the request is sent without the token. Nothing of the request has been sent yet.
            Err(ClientError::Unverified { url, cause }) if credentials.is_named => {
                let without = Credentials::for_stranger(&self.tokens, &format!("the server at {url} {cause}"));
                self.send(way, &without, question)
            }
            answered => answered,
        }
        .map(Some)
    }

    /// Returns the credentials for a place, or `None` if the server there is not the intended one.
    fn credentials(&self, place: &Place, dir: Option<&ClientDir>) -> Result<Option<Credentials>, ClientError> {
        let way = &place.way;
        let own = |id| dir.and_then(|dir| Credentials::for_own(&self.tokens, dir, way, id));
        match (&place.meant, dir) {
            (Meant::Any, _) => Ok(Some(Credentials::for_named(&self.tokens, way))),
            // Only a place that the user named gets a token without a proof.
            (_, None) => Ok(None),
            (Meant::Own(id), Some(_)) => Ok(own(Some(id.clone()))),
            (Meant::OwnIfItSaysSo, Some(dir)) => {
                let id = match own(None) {
                    Some(credentials) => self.id_of_own(way, credentials.proof, dir.id())?,
                    None => None,
                };
                Ok(id.and_then(|id| own(Some(id))))
            }
        }
    }

    /// Returns the id of the server there, if it is the server of this runtime directory.
    fn id_of_own(&self, way: &Way, proof: Proof, dir: FileId) -> Result<Option<String>, ClientError> {
        let credentials = Credentials { proof, ..Credentials::none() };
        let document = match self.send(way, &credentials, &Question::get(&Route::Version.path(), READ_TIMEOUT)) {
            Ok(answer) => answer.read::<ServerIdentity>().ok(),
            // The server is overloaded or shutting down: a follower of the log waits for it.
            Err(error @ (ClientError::NoAnswer { .. } | ClientError::Unverified { .. } | ClientError::Closing { .. })) => {
                return Err(error);
            }
            Err(_) => None,
        };
        let server = document.map(|document| document.server);
        let found = |told: &str| resolve(Path::new(told), By::Client).and_then(|real| FileId::of(&real)).ok();
        let is_own = |told: &str| found(told) == Some(dir);
        Ok(server.filter(|server| is_own(&server.runtime_dir)).map(|server| server.id))
    }

    /// Sends one request. The error is `Unreachable` only if no connection was made.
    fn send(&self, way: &Way, credentials: &Credentials, question: &Question<'_>) -> Result<Answer, ClientError> {
        let (settings, proof) = (self.agent.config().clone(), credentials.proof.clone());
        let (agent, base) = match (way, &proof) {
            (Way::Socket(path), _) => (connection::to_socket(settings, path, proof, credentials.is_named), connection::BASE),
            (Way::Address(base), Proof::None) => (self.agent.clone(), &**base),
            (Way::Address(base), _) => (connection::to_address(settings, proof), &**base),
        };
        let mut request = Request::builder().uri(format!("{base}{}", question.path)).header("connection", "close");
        if let Some(id) = &credentials.id {
            request = request.header(SERVER_ID_FIELD, id);
        }
        if let Some(token) = &credentials.token {
            request = request.header("authorization", format!("Bearer {}", token.expose()));
        }
        if let Some(key) = question.key {
            request = request.header(IDEMPOTENCY_KEY, key);
        }
        let run = |timeout| -> Result<_, ureq::Error> {
            match &question.body {
                Some(body) => {
                    let request = request.method("POST").header("content-type", "application/json").body(body)?;
                    agent.run(agent.configure_request(request).timeout_global(timeout).build())
                }
                None => agent.run(agent.configure_request(request.body(())?).timeout_global(timeout).build()),
            }
        };
        let url = way.to_string();
        match run(Some(question.timeout)) {
            Ok(response) => read_answer(url, response).map_err(|error| error.with_reason(credentials.withheld.as_deref())),
            Err(ureq::Error::Other(error)) if error.is::<Unverified>() => Err(match error.downcast_ref() {
                Some(Unverified::Closing) => ClientError::Closing { url },
                _ => ClientError::Unverified { url, cause: error.to_string() },
            }),
            Err(error) if connection::is_unreached(&error) => Err(ClientError::Unreachable { url }),
            Err(error) => Err(no_answer(url, &error)),
        }
    }
}

fn no_answer(url: String, error: &ureq::Error) -> ClientError {
    ClientError::NoAnswer { url, cause: error.to_string(), is_late: matches!(error, ureq::Error::Timeout(_)) }
}

fn read_answer(url: String, mut response: ureq::http::Response<ureq::Body>) -> Result<Answer, ClientError> {
    let status = response.status().as_u16();
    let date = response.headers().get("date").and_then(|date| date.to_str().ok()).and_then(date_of);
    let bytes = match response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_vec() {
        Ok(bytes) => bytes,
        Err(error) => return Err(no_answer(url, &error)),
    };
    let Ok(text) = String::from_utf8(bytes) else {
        return Err(ClientError::Stranger { url, cause: "no UTF-8".to_owned(), status });
    };
    let document = Answer { url, status, text, date };
    if (200..300).contains(&status) {
        return Ok(document);
    }
    let ErrorResponse { error, detail, .. } = document.read().map_err(|_| ClientError::Stranger {
        url: document.url.clone(),
        cause: format!("HTTP status {status} without a reason"),
        status,
    })?;
    let detail = printable(if detail.is_empty() { &error } else { &detail });
    if status == 409 {
        Err(ClientError::Refused { detail, document })
    } else {
        Err(ClientError::Failed { status, detail, document })
    }
}

/// Parses a `Date` field (RFC 9110, section 5.6.7).
fn date_of(text: &str) -> Option<Timestamp> {
    let since = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok().map(Timestamp::from_unix_ms)
}

#[cfg(test)]
mod tests;
