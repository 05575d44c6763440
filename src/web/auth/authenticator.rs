//! Authenticates requests by token or session at listeners that require it, and limits wrong tokens.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rouille::Request;

use super::keys::{Keys, Of};
use super::pairing::{Code, Codes};
use super::sessions::{BeginError, Begun, Moment, Newcomer, Proofs, Session, Sessions};
use super::throttle::{Source, Throttle, Wait};
use crate::api::session::{ListedCode, ListedSession, Role};
use crate::clock::Clock;
use crate::lock::lock;
use crate::pipeline::Action;
use crate::runtime_dir::Secrets;
use crate::store::{WorkError, Writer};
use crate::transport::Client;
use crate::web::error::ApiError;
use crate::web::guard::is_of_own_page;

/// The request header that carries the proof belonging to the cookie.
const PROOF: &str = "X-AutoAppDev-Proof";

/// A client whose request has been authenticated.
#[derive(Clone, Debug)]
pub(in crate::web) struct Caller {
    pub(in crate::web) role: Role,
    /// The session that the request presented, if any.
    pub(in crate::web) session: Option<Arc<Session>>,
}

impl Caller {
    /// A client that the listener trusts without a token.
    pub(in crate::web) const OWNER: Self = Self { role: Role::Operator, session: None };

    /// Returns what the client may know about itself.
    pub(in crate::web) fn shown(&self, token_needed: bool) -> crate::api::session::Session {
        crate::api::session::Session {
            may: self.role,
            token_needed,
            expires_at: self.session.as_deref().map(Session::expires_at),
            id: self.session.as_deref().map(|session| session.id().to_owned()),
        }
    }
}

/// The credential that a client logs in with.
#[derive(Clone, Copy)]
pub(in crate::web) enum Shown<'a> {
    Token(&'a str),
    Code(&'a str),
}

/// Checks tokens, codes and sessions. All listeners that require authentication share one instance.
pub struct Authenticator {
    keys: Keys,
    /// The tokens' digests. A presented token is compared by its digest, in constant time. All digests have the same length, so
    /// the timing does not even reveal the length of a token.
    acts: String,
    looks: String,
    sessions: Sessions,
    codes: Mutex<Codes>,
    throttle: Mutex<Throttle>,
    clock: Box<dyn Clock + Send + Sync>,
}

impl Authenticator {
    /// Creates an authenticator that uses these secrets and loads the sessions stored by `writer`. `wake` is called when a
    /// session has ended, to wake the streams and long polls of its client.
    ///
    /// # Errors
    /// The stored sessions could not be read.
    pub fn start(
        secrets: &Secrets,
        clock: Box<dyn Clock + Send + Sync>,
        writer: Writer,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, WorkError> {
        let keys = Keys::new(&secrets.session_key);
        let tokens = (&secrets.token, &secrets.read_token);
        let now = Moment { wall: clock.now(), since_boot: clock.since_boot() };
        let sessions = Sessions::load(&keys, tokens, now, writer, Box::new(wake))?;
        Ok(Self {
            acts: keys.digest(Of::Token, secrets.token.expose()),
            looks: keys.digest(Of::Token, secrets.read_token.expose()),
            keys,
            sessions,
            codes: Mutex::default(),
            throttle: Mutex::default(),
            clock,
        })
    }

    /// Identifies the caller by the token in `Authorization`, or else by a session. `link_proof` is the proof in the URL of a
    /// link. An invalid session identifies no caller but does not count as a wrong try: a phone with an expired session must not
    /// lock its owner out.
    pub(in crate::web) fn caller(
        &self,
        request: &Request,
        client: &Client<'_>,
        link_proof: Option<&str>,
    ) -> Result<Caller, ApiError> {
        let session = self.session(request, link_proof);
        if let Some(token) = bearer(request) {
            let role = self.check_token(request, client, session.as_deref(), token)?;
            return Ok(Caller { role, session: None });
        }
        // Not throttled: a session cannot be guessed.
        let session = session.ok_or(ApiError::TokenNeeded)?;
        self.sessions.note_use(&session, self.moment());
        Ok(Caller { role: session.role(), session: Some(session) })
    }

    /// Returns the session that the request presents, if it is valid and the request comes from a page of this server.
    fn session(&self, request: &Request, link_proof: Option<&str>) -> Option<Arc<Session>> {
        let proofs = Proofs { field: request.header(PROOF), link: link_proof };
        self.sessions.of(&self.keys, request, proofs, self.moment()).filter(|_| is_of_own_page(request))
    }

    /// Logs a client in. Returns the session's role, cookie and proofs.
    pub(in crate::web) fn log_in(&self, request: &Request, client: &Client<'_>, shown: Shown<'_>) -> Result<Begun, ApiError> {
        let replaced = self.session(request, None);
        let (role, code) = match shown {
            Shown::Token(token) => {
                let role = self.check_token(request, client, replaced.as_deref(), token)?;
                // Only viewers who present a token are limited: an operator has no reason to flood, and a viewer's code was made
                // by an operator.
                if role == Role::Viewer {
                    self.admit_viewer(&Source::of(request, client))?;
                }
                (role, None)
            }
            Shown::Code(text) => {
                let code = lock(&self.codes).take(&self.keys, text, self.clock.since_boot());
                let Some(code) = code.filter(|code| self.sessions.holds(&code.grant)) else {
                    // Not counted: no number of tries finds a code, and a try costs no more than any other refused request. Any
                    // page can lead the owner's browser to a link with a wrong code, which must not delay the right token.
                    return Err(ApiError::InvalidCode);
                };
                if code.role == Role::Operator {
                    lock(&self.throttle).note_right(Source::of(request, client));
                }
                (code.role, Some(code))
            }
        };
        // While the login waits, its connection is kept like that of a client that is logged in.
        client.set_operator(role == Role::Operator);
        let address = request.remote_addr().ip().to_canonical().to_string();
        let user_agent = request.header("User-Agent").unwrap_or_default();
        let newcomer = Newcomer { role, address, user_agent, replaced, grant: code.as_ref().map(|code| code.grant.clone()) };
        self.sessions.begin(&self.keys, &newcomer, client, self.moment()).map_err(|error| {
            // The code was not used: the same link works once the session can be stored.
            if let Some(code) = code {
                lock(&self.codes).give_back(&code);
            }
            match error {
                BeginError::Store(error) => ApiError::SessionNotStored(error),
                BeginError::Busy => ApiError::TooManyLogins,
                BeginError::TakenBack => ApiError::InvalidCode,
                BeginError::Random(error) => ApiError::NoRandomBytes(error),
            }
        })
    }

    /// Returns the digest by which a repeat of an action is recognised. The body can contain secrets, which a digest without a
    /// key would reveal.
    pub(in crate::web) fn digest_of_action(&self, action: Action, body: &[u8]) -> String {
        self.keys.digest(Of::Action, [action.as_str().as_bytes(), b" ", body].concat())
    }

    /// Wakes the logins that wait, because a connection gives way.
    pub(in crate::web) fn hurry(&self) {
        self.sessions.hurry();
    }

    fn admit_viewer(&self, from: &Source) -> Result<(), ApiError> {
        let wait = lock(&self.throttle).admit_viewer(from, self.clock.since_boot());
        if wait.is_zero() {
            return Ok(());
        }
        Err(ApiError::TooManyLoginsFrom { from: from.to_string(), wait_s: whole_seconds(wait) })
    }

    /// Ends the session that the request presents. Returns a cookie that removes the browser's cookie, even if ending the session
    /// failed.
    pub(in crate::web) fn log_out(&self, request: &Request) -> (String, Result<(), ApiError>) {
        let ended = match self.session(request, None) {
            Some(session) => self.end(Some(session.id())).map(drop),
            None => Ok(()),
        };
        (self.keys.set_cookie("", 0), ended)
    }

    /// Returns a cookie that extends the session in the browser, if it is due for renewal.
    pub(in crate::web) fn renew(&self, request: &Request, session: &Session) -> Option<String> {
        self.sessions.renew(&self.keys, request, session, self.moment())
    }

    /// Lists every session; `own` is the caller's session.
    pub(in crate::web) fn list(&self, own: Option<&Session>) -> Vec<ListedSession> {
        if let Err(error) = self.sessions.record_ends() {
            ::log::warn!("sessions that have ended are still stored: failed to {error}");
        }
        self.sessions.list(own.map(Session::id), self.moment())
    }

    /// Ends the session with this id, or all sessions, and returns how many ended. An unknown id is an error.
    pub(in crate::web) fn end(&self, id: Option<&str>) -> Result<usize, ApiError> {
        let ended = self.sessions.end(id).map_err(ApiError::SessionEndNotStored)?;
        match id {
            Some(id) if ended == 0 => Err(ApiError::NoSuchSession(id.to_owned())),
            Some(_) | None => Ok(ended),
        }
    }

    /// Creates a one-time code and returns it with its text. `by` is the session that requests it.
    pub(in crate::web) fn make_code(&self, role: Role, by: Option<Arc<Session>>) -> Result<(String, ListedCode), ApiError> {
        let grant = self.sessions.grant(by);
        let made = lock(&self.codes).make(&self.keys, role, grant, self.moment());
        let (text, code) = made.map_err(ApiError::NoRandomBytes)?;
        Ok((text, listed(&code)))
    }

    /// Lists the one-time codes that have neither expired nor ended with the session that made them.
    pub(in crate::web) fn list_codes(&self) -> Vec<ListedCode> {
        let mut codes = lock(&self.codes);
        codes.list(self.clock.since_boot()).iter().filter(|code| self.sessions.holds(&code.grant)).map(listed).collect()
    }

    /// Checks whether a cookie, `name=value`, may be a session cookie of this server.
    pub(in crate::web) fn takes_cookie(&self, cookie: &[u8]) -> bool {
        self.keys.takes_cookie(cookie)
    }

    fn moment(&self) -> Moment {
        Moment { wall: self.clock.now(), since_boot: self.clock.since_boot() }
    }

    /// Returns the time until the session expires, unless it is renewed or ended earlier, or the clock is set.
    pub(in crate::web) fn lasts(&self, session: &Session) -> Duration {
        session.left(self.moment())
    }

    /// Checks whether the session has ended or expired.
    pub(in crate::web) fn is_over(&self, session: &Session) -> bool {
        session.is_over(self.moment())
    }

    /// Returns the role that a token grants. While a source has to wait, its tokens are not checked, not even the right one:
    /// otherwise the wait would not slow down guessing.
    fn check_token(
        &self,
        request: &Request,
        client: &Client<'_>,
        session: Option<&Session>,
        token: &str,
    ) -> Result<Role, ApiError> {
        // Both comparisons are always made.
        let (may_act, may_look) = (self.keys.is(Of::Token, token, &self.acts), self.keys.is(Of::Token, token, &self.looks));
        let right = match (may_act, may_look) {
            (true, _) => Some(Role::Operator),
            (false, true) => Some(Role::Viewer),
            (false, false) => None,
        };
        let now = self.clock.since_boot();
        // An operator's session has full control already, so a wrong token is not counted.
        if session.is_some_and(|session| session.role() == Role::Operator) {
            return right.ok_or(ApiError::WrongToken);
        }
        // A viewer's session does not count as a separate source: each new session would bring new tries.
        let from = Source::of(request, client);
        // Held from the check until the try is counted, so that many tries at once count as much as one after another. Nothing
        // under this lock can panic halfway through a change.
        let mut throttle = lock(&self.throttle);
        let wait = throttle.wait(&from, now);
        if !wait.length.is_zero() {
            return Err(too_many_tries(&from, wait));
        }
        if let Some(role) = right {
            if role == Role::Operator {
                throttle.note_right(from);
            }
            return Ok(role);
        }
        let told = note_wrong(&mut throttle, &from, now);
        drop(throttle);
        tell(&from, told);
        Err(ApiError::WrongToken)
    }
}

fn listed(code: &Code) -> ListedCode {
    ListedCode { id: code.id().to_owned(), may: code.role, expires_at: code.expires_at, is_used: code.is_used }
}

fn too_many_tries(from: &Source, wait: Wait) -> ApiError {
    let from = if wait.is_for_all { "many addresses".to_owned() } else { from.to_string() };
    ApiError::TooManyTries { from, wait_s: whole_seconds(wait.length) }
}

/// Counts a wrong try. Returns the wait to be logged, at most once per interval.
fn note_wrong(throttle: &mut Throttle, from: &Source, now: Duration) -> Option<Wait> {
    throttle.note_wrong(from, now);
    let wait = throttle.wait(from, now);
    (!wait.length.is_zero() && throttle.is_worth_a_line(now)).then_some(wait)
}

/// Logs the wait. Called without the throttle's lock: on a slow disk, every client with a token would wait for the log line.
fn tell(from: &Source, wait: Option<Wait>) {
    if let Some(wait) = wait {
        let wait_s = whole_seconds(wait.length);
        ::log::warn!("several wrong tokens came from {from}; for {wait_s} s none from there is looked at");
    }
}

/// Returns a wait in whole seconds, rounded up so that a client that waits that long does not come back too early.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// Returns the token of `Authorization: Bearer` (RFC 6750, section 2.1), or `None` for another scheme.
fn bearer(request: &Request) -> Option<&str> {
    let (scheme, token) = request.header("Authorization")?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}
