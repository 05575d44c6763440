//! What is made with the session key: the cookie's name, and the digests by which cookies, proofs, tokens and codes are known again.
//!
//! A session's secret leaves the server once, in the cookie. What is stored is its digest, so that neither the database nor a backup of it
//! logs anybody in. The key lies beside the database and not in it: guesses at a token cannot be tried on a fingerprint.

use hmac::{Hmac, KeyInit, Mac};
use rouille::Request;
use sha2::Sha256;

use crate::config::Token;
use crate::hex::{hex, unhex};

/// Longer than any value of a cookie of ours, in bytes: an id, a dot and a secret.
const VALUE_BYTES_MAX: usize = 64;

/// What a digest is of. Each has a word of its own, so that none can stand for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// A cookie's secret.
    Secret,
    /// What a page sends with its cookie.
    Proof,
    /// The same in a link to a log.
    DownloadProof,
    /// A token that somebody may have.
    Token,
    /// A one-time code.
    Code,
}

impl Of {
    const fn word(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Proof => "proof",
            Self::DownloadProof => "download-proof",
            Self::Token => "token",
            Self::Code => "code",
        }
    }
}

/// Signs with the session key.
pub(super) struct Keys {
    /// Cookies are a host's, whatever the port: each server's has a name of its own, or two on one machine would log each other out.
    name: String,
    signer: Hmac<Sha256>,
}

impl Keys {
    pub(super) fn new(session_key: &Token) -> Self {
        let signer = Hmac::new_from_slice(session_key.expose().as_bytes()).expect("a key of any length will do (RFC 2104)");
        let mut this = Self { name: String::new(), signer };
        this.name = format!("autoappdev-{}", &hex(&this.signed("name", "").finalize().into_bytes()[..4]));
        this
    }

    /// The digest of a text, 64 hexadecimal digits.
    pub(super) fn digest(&self, of: Of, text: &str) -> String {
        hex(&self.signed(of.word(), text).finalize().into_bytes())
    }

    /// Whether this is the digest of that text. The comparison takes the same time whatever differs.
    pub(super) fn is(&self, of: Of, text: &str, digest: &str) -> bool {
        // What is malformed is compared as well.
        let bytes = unhex(digest).unwrap_or_default();
        self.signed(of.word(), text).verify_slice(&bytes).is_ok()
    }

    fn signed(&self, word: &str, text: &str) -> Hmac<Sha256> {
        let mut signer = self.signer.clone();
        for part in [word, " of ", text] {
            signer.update(part.as_bytes());
        }
        signer
    }

    /// Whether a cookie, `name=value`, has our name and is no longer than one of ours.
    pub(super) fn takes_cookie(&self, cookie: &[u8]) -> bool {
        cookie.strip_prefix(self.name.as_bytes()).is_some_and(|rest| rest.starts_with(b"=") && rest.len() <= VALUE_BYTES_MAX)
    }

    /// The values of the cookies with our name, in the order in which they came. All of them are tried: any port of this host can set
    /// cookies of that name, with a longer path too, which come first. The longest head bounds how many there are.
    pub(super) fn cookies<'r>(&'r self, request: &'r Request) -> impl Iterator<Item = &'r str> {
        let fields = request.headers().filter(|(name, _)| name.eq_ignore_ascii_case("Cookie"));
        fields.flat_map(|(_, cookies)| cookies.split(';')).filter_map(|cookie| {
            let (name, value) = cookie.trim().split_once('=')?;
            (name == self.name).then_some(value)
        })
    }

    /// The `Set-Cookie` of a session; an empty value and no time remove it. No script reads it, no other site's page sends it, and a
    /// browser forgets it in time. Not `Secure`: this server speaks no TLS.
    pub(super) fn set_cookie(&self, value: &str, lifetime_s: u64) -> String {
        format!("{}={value}; Path=/; Max-Age={lifetime_s}; HttpOnly; SameSite=Strict", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(key: &str) -> Keys {
        Keys::new(&Token::new(key).expect("good"))
    }

    #[test]
    fn digest_is_of_one_text_one_purpose_and_one_key() {
        let ours = keys("the-key-of-sessions");
        let digest = ours.digest(Of::Proof, "a text");
        assert!(digest.len() == 64 && ours.is(Of::Proof, "a text", &digest));
        assert!(!ours.is(Of::Proof, "a text!", &digest) && !keys("another-key-of-sessions").is(Of::Proof, "a text", &digest));
        for of in [Of::Secret, Of::DownloadProof, Of::Token, Of::Code] {
            assert!(!ours.is(of, "a text", &digest), "{of:?}");
        }
        for wrong in ["", "00", &digest[1..], &digest[..62], &format!("{digest}00"), &digest.replace(&digest[..2], "é"), "zz"] {
            assert!(!ours.is(Of::Proof, "a text", wrong), "{wrong}");
        }
        for at in 0..digest.len() {
            let other = if &digest[at..=at] == "0" { "1" } else { "0" };
            let mut changed = digest.clone();
            changed.replace_range(at..=at, other);
            assert!(!ours.is(Of::Proof, "a text", &changed), "{changed}");
        }
    }

    #[test]
    fn every_cookie_of_our_name_is_found_and_no_other() {
        let (ours, other) = (keys("the-key-of-sessions"), keys("another-key-of-sessions"));
        assert_ne!(ours.name, other.name, "two servers on one machine do not take each other's");
        let tossed: Vec<String> = (0..500).map(|number| format!("{}={number}", ours.name)).collect();
        let fields = [
            format!("a=b; {}=one; c; {}=no; x{}=no", ours.name, other.name, ours.name),
            tossed.join("; "),
            format!("{}=last", ours.name),
        ];
        let fields = fields.map(|cookies| ("cookie".to_owned(), cookies));
        let request = Request::fake_http("GET", "/", fields.into(), vec![]);
        let found: Vec<&str> = ours.cookies(&request).collect();
        assert!(found.len() == 502 && found[0] == "one" && found[501] == "last", "{found:?}");
    }
}
