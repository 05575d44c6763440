//! A page's log-in: a cookie that says what its bearer may do and until when, signed so that nobody else can have written it.
//!
//! Nothing is stored for it: it outlives a restart of the server, and ends with its time, or for all at once with the token or the
//! session key. The signature's key is made of both. The token alone would not do: whoever guesses at it could try his guesses as cookies,
//! which nobody slows down.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit, Mac};
use rouille::Request;
use sha2::Sha256;

use crate::api::session::Role;
use crate::clock::Timestamp;
use crate::config::Token;

/// How long a log-in lasts, in seconds: 30 days. One that is used is renewed at half of it.
const LIFETIME_S: i64 = 30 * 24 * 60 * 60;

/// How many cookies of the right name are looked at. A browser sends one.
const TRIED_MAX: usize = 4;

/// A log-in that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) role: Role,
    pub(super) expires_at: Timestamp,
}

/// Writes and reads cookies.
pub(super) struct Sessions {
    /// Cookies are a host's, whatever the port: each server's has a name of its own, or two on one machine would log each other out.
    name: String,
    act: Hmac<Sha256>,
    look: Hmac<Sha256>,
}

impl Sessions {
    pub(super) fn new(session_key: &Token, token: &Token, read_token: &Token) -> Self {
        let signer =
            |token: &Token| mac(&bytes(sign(&mac(session_key.expose().as_bytes()), &format!("session of {}", token.expose()))));
        let name = hex(&bytes(sign(&mac(session_key.expose().as_bytes()), "name"))[..4]);
        Self { name: format!("autoappdev-{name}"), act: signer(token), look: signer(read_token) }
    }

    /// The `Set-Cookie` of a log-in that begins now.
    pub(super) fn begin(&self, role: Role, now: Timestamp) -> String {
        let expires_s = now.unix_ms() / 1000 + LIFETIME_S;
        let said = format!("{}.{expires_s}", role.as_str());
        let signature = hex(&bytes(sign(self.signer(role), &said)));
        self.cookie(&format!("{said}.{signature}"), LIFETIME_S)
    }

    /// The `Set-Cookie` that takes the log-in's place once that is half over.
    pub(super) fn renewed(&self, session: Session, now: Timestamp) -> Option<String> {
        let is_half_over = session.expires_at.unix_ms() - now.unix_ms() < LIFETIME_S * 1000 / 2;
        is_half_over.then(|| self.begin(session.role, now))
    }

    /// The `Set-Cookie` of a log-out.
    pub(super) fn end(&self) -> String {
        self.cookie("", 0)
    }

    /// The log-in that a request shows, if it holds.
    pub(super) fn of(&self, request: &Request, now: Timestamp) -> Option<Session> {
        let cookies = request.headers().filter(|(name, _)| name.eq_ignore_ascii_case("Cookie"));
        let values = cookies.flat_map(|(_, cookies)| cookies.split(';')).filter_map(|cookie| {
            let (name, value) = cookie.trim().split_once('=')?;
            (name == self.name).then_some(value)
        });
        values.take(TRIED_MAX).find_map(|value| self.read(value, now))
    }

    fn read(&self, value: &str, now: Timestamp) -> Option<Session> {
        let (said, signature) = value.rsplit_once('.')?;
        let (role, expires_s) = said.split_once('.')?;
        let role = role.parse().ok()?;
        sign(self.signer(role), said).verify_slice(&unhex(signature)?).ok()?;
        let expires_s: i64 = expires_s.parse().ok()?;
        let expires_at = Timestamp::from_unix_ms(expires_s.saturating_mul(1000));
        (now < expires_at).then_some(Session { role, expires_at })
    }

    fn signer(&self, role: Role) -> &Hmac<Sha256> {
        match role {
            Role::Operator => &self.act,
            Role::Viewer => &self.look,
        }
    }

    /// No script reads it, no other site's page sends it, and a browser forgets it in time. Not `Secure`: this server speaks no TLS.
    fn cookie(&self, value: &str, lifetime_s: i64) -> String {
        format!("{}={value}; Path=/; Max-Age={lifetime_s}; HttpOnly; SameSite=Strict", self.name)
    }
}

/// A signer with this key.
pub(super) fn mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key of any length will do (RFC 2104)")
}

/// The signer after it has signed `text`.
pub(super) fn sign(signer: &Hmac<Sha256>, text: &str) -> Hmac<Sha256> {
    let mut signer = signer.clone();
    signer.update(text.as_bytes());
    signer
}

/// A signature's bytes.
pub(super) fn bytes(signed: Hmac<Sha256>) -> [u8; 32] {
    signed.finalize().into_bytes().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _never_fails = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    fn token(text: &str) -> Token {
        Token::new(text).expect("good")
    }

    fn sessions(key: &str, act: &str, look: &str) -> Sessions {
        Sessions::new(&token(key), &token(act), &token(look))
    }

    fn usual() -> Sessions {
        sessions("the-key-of-sessions", "the-token-to-act", "the-token-to-look")
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    /// `name=value` of a `Set-Cookie`.
    fn pair(set_cookie: &str) -> &str {
        set_cookie.split(';').next().expect("a first part")
    }

    fn of(sessions: &Sessions, cookies: &str, now_ms: i64) -> Option<Role> {
        let request = Request::fake_http("GET", "/", vec![("Cookie".to_owned(), cookies.to_owned())], vec![]);
        sessions.of(&request, at(now_ms)).map(|session| session.role)
    }

    #[test]
    fn a_cookie_holds_until_its_time_is_over_and_across_restarts() {
        for role in [Role::Operator, Role::Viewer] {
            let set_cookie = usual().begin(role, at(NOW));
            let last = NOW + LIFETIME_S * 1000 - 1;
            for now in [NOW, last, 0] {
                assert_eq!(of(&usual(), pair(&set_cookie), now), Some(role));
            }
            assert_eq!(of(&usual(), pair(&set_cookie), last + 1), None);
            assert_eq!(of(&usual(), &format!("a=b; {}; c", pair(&set_cookie)), NOW), Some(role));
            assert!(set_cookie.ends_with("; Path=/; Max-Age=2592000; HttpOnly; SameSite=Strict"), "{set_cookie}");
            assert!(!set_cookie.contains("the-"), "no secret is in it: {set_cookie}");
        }
    }

    #[test]
    fn no_letter_of_a_cookie_can_be_another() {
        let cookie = pair(&usual().begin(Role::Viewer, at(NOW))).to_owned();
        for at in 0..cookie.len() {
            for other in ['0', '1', 'a', 'f', '.', 'A', '-'] {
                let mut changed = cookie.clone();
                changed.replace_range(at..=at, &other.to_string());
                // Hexadecimal digits may be written large.
                if !changed.eq_ignore_ascii_case(&cookie) {
                    assert_eq!(of(&usual(), &changed, NOW), None, "{changed}");
                }
            }
        }
        for value in ["", ".", "..", "act", "act.9999999999.", "act.9999999999.zz", "look.9999999999.é0", "act.-1.00"] {
            assert_eq!(usual().read(value, at(NOW)), None, "{value}");
        }
        let acts = cookie.replace("look.", "act.");
        assert_eq!(of(&usual(), &acts, NOW), None, "who may look may not make it an act");
    }

    #[test]
    fn another_token_or_key_ends_the_sessions_made_with_the_old() {
        let (act, look) = (usual().begin(Role::Operator, at(NOW)), usual().begin(Role::Viewer, at(NOW)));
        let other_token = sessions("the-key-of-sessions", "another-token-to-act", "the-token-to-look");
        assert_eq!(of(&other_token, pair(&act), NOW), None);
        assert_eq!(of(&other_token, pair(&look), NOW), Some(Role::Viewer), "the other token's go on");
        let other_key = sessions("another-key-of-sessions", "the-token-to-act", "the-token-to-look");
        assert_eq!(of(&other_key, pair(&act), NOW), None);
        let renamed = pair(&act).replace(&usual().name, &other_key.name);
        assert_eq!(of(&other_key, &renamed, NOW), None, "a known token is not enough to make a cookie");
        assert_ne!(usual().name, other_key.name, "two servers on one machine do not take each other's");
    }
}
