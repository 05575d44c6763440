//! Who sent a request, at listeners that ask: the two tokens, the log-ins made with them, and what wrong tokens cost.

use std::sync::Mutex;
use std::time::Duration;

use hmac::{Hmac, Mac};
use rouille::Request;
use sha2::Sha256;

use super::session::{Session, Sessions, bytes, mac, sign};
use super::throttle::Throttle;
use crate::api::session::Role;
use crate::clock::{Clock, Timestamp};
use crate::lock::lock;
use crate::runtime_dir::Secrets;
use crate::web::error::ApiError;
use crate::web::guard::is_of_own_page;

/// Who was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::web) struct Caller {
    pub(in crate::web) role: Role,
    /// When the log-in ends by which that was shown, if it was one.
    pub(in crate::web) expires_at: Option<Timestamp>,
}

impl Caller {
    /// A client of a listener that requires no token.
    pub(in crate::web) const OWNER: Self = Self { role: Role::Operator, expires_at: None };
}

/// Checks tokens and log-ins. One for all listeners that ask.
pub struct Authenticator {
    /// Tokens are compared by these, in constant time; what is compared has one length, so that the time tells not even that of a token.
    comparer: Hmac<Sha256>,
    act: [u8; 32],
    look: [u8; 32],
    sessions: Sessions,
    throttle: Mutex<Throttle>,
    clock: Box<dyn Clock + Send + Sync>,
}

impl Authenticator {
    /// Checks by these secrets.
    pub fn new(secrets: &Secrets, clock: Box<dyn Clock + Send + Sync>) -> Self {
        let comparer = mac(secrets.session_key.expose().as_bytes());
        Self {
            act: bytes(sign(&comparer, secrets.token.expose())),
            look: bytes(sign(&comparer, secrets.read_token.expose())),
            sessions: Sessions::new(&secrets.session_key, &secrets.token, &secrets.read_token),
            comparer,
            throttle: Mutex::default(),
            clock,
        }
    }

    /// Who asks: by the token in `Authorization`, else by a log-in. A log-in that does not hold is nobody's, and no wrong try: a phone with
    /// an old one must not lock its owner out.
    pub(in crate::web) fn caller(&self, request: &Request) -> Result<Caller, ApiError> {
        if let Some(token) = bearer(request) {
            return self.check(request, token).map(|role| Caller { role, expires_at: None });
        }
        // Never slowed down: nobody can guess a log-in.
        let session = self.sessions.of(request, self.clock.now()).filter(|_| is_of_own_page(request));
        let Session { role, expires_at } = session.ok_or(ApiError::TokenNeeded)?;
        Ok(Caller { role, expires_at: Some(expires_at) })
    }

    /// A log-in: what it may, and its cookie.
    pub(in crate::web) fn log_in(&self, request: &Request, token: &str) -> Result<(Role, String), ApiError> {
        let role = self.check(request, token)?;
        Ok((role, self.sessions.begin(role, self.clock.now())))
    }

    /// The cookie that takes the place of the request's log-in once that is half over.
    pub(in crate::web) fn renewed(&self, request: &Request) -> Option<String> {
        let now = self.clock.now();
        self.sessions.renewed(self.sessions.of(request, now)?, now)
    }

    /// The cookie that ends a log-in.
    pub(in crate::web) fn log_out(&self) -> String {
        self.sessions.end()
    }

    /// What a token may do. From an address that has to wait none is looked at, the right one neither: otherwise waiting would slow down
    /// nobody who guesses.
    fn check(&self, request: &Request, token: &str) -> Result<Role, ApiError> {
        let (from, now) = (request.remote_addr().ip(), self.clock.since_boot());
        // Held from the look to the note: many tries at once are as many as one after another.
        // Nothing under this lock can panic half-way through a change.
        let mut throttle = lock(&self.throttle);
        let wait = throttle.wait(from, now);
        if !wait.is_zero() {
            return Err(ApiError::TooManyTries { from: from.to_canonical(), wait_s: whole_seconds(wait) });
        }
        // Both are always compared.
        let signed = sign(&self.comparer, token);
        let may_act = signed.clone().verify_slice(&self.act).is_ok();
        let may_look = signed.verify_slice(&self.look).is_ok();
        match (may_act, may_look) {
            (true, _) => Ok(Role::Operator),
            (false, true) => Ok(Role::Viewer),
            (false, false) => {
                throttle.note_wrong(from, now);
                let wait = throttle.wait(from, now);
                let is_worth_a_line = !wait.is_zero() && throttle.is_worth_a_line(now);
                drop(throttle);
                if is_worth_a_line {
                    let wait_s = whole_seconds(wait);
                    ::log::warn!("several wrong tokens came from {from}; for {wait_s} s none from there is looked at");
                }
                Err(ApiError::WrongToken)
            }
        }
    }
}

/// Rounded up: who comes back after so many does not come too early.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// The token of `Authorization: Bearer` (RFC 6750, section 2.1). Another scheme shows nothing that is known here.
fn bearer(request: &Request) -> Option<&str> {
    let (scheme, token) = request.header("Authorization")?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}
