//! The uses of the session key: the cookie's name, and the digests that identify cookies, proofs, tokens and codes.
//!
//! A session's secret leaves the server once, in the cookie. Only its digest is stored, so neither the database nor a backup of
//! it can be used to log in. The key is stored beside the database, not in it, so a token cannot be guessed offline from its
//! fingerprint.

use hmac::{Hmac, KeyInit, Mac};
use rouille::Request;
use sha2::Sha256;

use crate::config::Token;
use crate::hex::{hex, unhex};

/// The longest accepted value of a session cookie, in bytes. A real value, an id, a dot and a secret, is shorter.
const VALUE_BYTES_MAX: usize = 64;

/// The kind of text that a digest is made of. Each kind adds its own word, so that one kind's digest is never valid as another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// A cookie's secret.
    Secret,
    /// The proof that a page sends with its cookie.
    Proof,
    /// The proof in a link to a log.
    DownloadProof,
    /// A token that a client may present.
    Token,
    /// A one-time code.
    Code,
    /// An action with its body.
    Action,
}

impl Of {
    const fn word(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Proof => "proof",
            Self::DownloadProof => "download-proof",
            Self::Token => "token",
            Self::Code => "code",
            Self::Action => "action",
        }
    }
}

/// The session key, ready to compute digests.
pub(super) struct Keys {
    /// The cookie's name. Cookies are shared by all ports of a host, so each server uses its own name. Otherwise two servers on
    /// one machine would log out each other's users.
    name: String,
    signer: Hmac<Sha256>,
}

impl Keys {
    pub(super) fn new(session_key: &Token) -> Self {
        let signer = Hmac::new_from_slice(session_key.expose().as_bytes()).expect("a key of any length will do (RFC 2104)");
        let mut this = Self { name: String::new(), signer };
        this.name = format!("autoappdev-{}", &hex(&this.signed("name", b"").finalize().into_bytes()[..4]));
        this
    }

    /// Returns the digest of a text, 64 hexadecimal digits.
    pub(super) fn digest(&self, of: Of, text: impl AsRef<[u8]>) -> String {
        hex(&self.signed(of.word(), text.as_ref()).finalize().into_bytes())
    }

    /// Checks whether `digest` is the digest of `text`, in constant time.
    pub(super) fn is(&self, of: Of, text: &str, digest: &str) -> bool {
        // A malformed digest is compared as well.
        let bytes = unhex(digest).unwrap_or_default();
        self.signed(of.word(), text.as_bytes()).verify_slice(&bytes).is_ok()
    }

    fn signed(&self, word: &str, text: &[u8]) -> Hmac<Sha256> {
        let mut signer = self.signer.clone();
        for part in [word.as_bytes(), b" of ", text] {
            signer.update(part);
        }
        signer
    }

    /// Checks whether a cookie, `name=value`, has this server's cookie name and a value of acceptable length.
    pub(super) fn takes_cookie(&self, cookie: &[u8]) -> bool {
        cookie.strip_prefix(self.name.as_bytes()).is_some_and(|rest| rest.starts_with(b"=") && rest.len() <= VALUE_BYTES_MAX)
    }

    /// Returns the values of the cookies with this server's cookie name, in the order received. Callers try all of them: a server
    /// on any port of this host can set cookies of that name, and those with a longer path come first. The limit on the head's
    /// length bounds their number.
    pub(super) fn cookies<'r>(&'r self, request: &'r Request) -> impl Iterator<Item = &'r str> {
        let fields = request.headers().filter(|(name, _)| name.eq_ignore_ascii_case("Cookie"));
        fields.flat_map(|(_, cookies)| cookies.split(';')).filter_map(|cookie| {
            let (name, value) = cookie.trim().split_once('=')?;
            (name == self.name).then_some(value)
        })
    }

    /// Returns the `Set-Cookie` value of a session; an empty value with a lifetime of zero removes the cookie. Scripts cannot
    /// read it, pages of other sites do not send it, and the browser drops it when it expires. It is not `Secure`, because this
    /// server does not use TLS. A browser keeps about 180 cookies for all ports of a host; Chromium evicts those of a higher
    /// priority last, and other browsers ignore the attribute.
    pub(super) fn set_cookie(&self, value: &str, lifetime_s: u64) -> String {
        format!("{}={value}; Path=/; Max-Age={lifetime_s}; HttpOnly; SameSite=Strict; Priority=High", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(key: &str) -> Keys {
        Keys::new(&Token::new(key).expect("good"))
    }

    #[test]
    fn digest_is_bound_to_text_purpose_and_key() {
        let ours = keys("the-key-of-sessions");
        let digest = ours.digest(Of::Proof, "a text");
        assert!(digest.len() == 64 && ours.is(Of::Proof, "a text", &digest));
        assert!(!ours.is(Of::Proof, "a text!", &digest) && !keys("another-key-of-sessions").is(Of::Proof, "a text", &digest));
        for of in [Of::Secret, Of::DownloadProof, Of::Token, Of::Code, Of::Action] {
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
    fn only_cookies_with_our_name_are_found() {
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
