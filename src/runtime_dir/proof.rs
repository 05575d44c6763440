//! How a server proves to a client that it owns the runtime directory, so that no other process at its address gets a token.
//!
//! Level 1. The client makes up a challenge; the answer is an HMAC over that and over the address of the server's end of this very connection,
//! with a key that only readers of the directory's session key have. A process at another address that passes the challenge on to the server
//! gets an answer for the server's address, and not for its own.

use std::net::SocketAddr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::config::Token;
use crate::hex::hex;

/// How many hexadecimal digits a challenge has.
pub const CHALLENGE_DIGITS: usize = 32;

/// What both sides make of the session key.
#[derive(Clone)]
pub struct Prover(Hmac<Sha256>);

impl std::fmt::Debug for Prover {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Prover(…)")
    }
}

impl Prover {
    /// The one of the directory with this key.
    pub fn new(session_key: &Token) -> Self {
        // A key of its own: what the session key signs elsewhere is no proof, and no proof is a session.
        let mut key = mac(session_key.expose().as_bytes());
        key.update(b"a server owns this runtime directory");
        Self(mac(&key.finalize().into_bytes()))
    }

    /// The answer to a challenge, for a connection whose server's end has this address.
    pub fn proof(&self, challenge: &str, server: SocketAddr) -> String {
        hex(&self.signed(challenge, server).finalize().into_bytes())
    }

    /// Whether a text is that answer.
    pub fn is_proof(&self, text: &str, challenge: &str, server: SocketAddr) -> bool {
        // Both are public once they were sent, and a challenge is used once: the time of a comparison tells nothing.
        self.proof(challenge, server) == text
    }

    fn signed(&self, challenge: &str, server: SocketAddr) -> Hmac<Sha256> {
        let mut signer = self.0.clone();
        // An IPv4 connection of an IPv6 socket has another form on each side.
        let server = SocketAddr::new(server.ip().to_canonical(), server.port());
        signer.update(format!("{challenge} {server}").as_bytes());
        signer
    }
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key of any length will do (RFC 2104)")
}

/// Whether a text can be a challenge: as many digits as a client makes up, in lower case.
pub fn is_challenge(text: &str) -> bool {
    text.len() == CHALLENGE_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> SocketAddr {
        address.parse().expect("an address")
    }

    #[test]
    fn proof_is_for_one_key_challenge_and_address() {
        let prover = |key: &str| Prover::new(&Token::new(key).expect("good"));
        let (ours, challenge) = (prover("the-key-of-sessions"), "0123456789abcdef0123456789abcdef");
        let proof = ours.proof(challenge, at("127.0.0.1:8788"));
        assert!(proof.len() == 64 && ours.is_proof(&proof, challenge, at("127.0.0.1:8788")));
        assert!(ours.is_proof(&proof, challenge, at("[::ffff:127.0.0.1]:8788")), "the same address");
        for other in ["127.0.0.1:8789", "127.0.0.2:8788", "[::1]:8788"] {
            assert!(!ours.is_proof(&proof, challenge, at(other)), "{other}");
        }
        assert!(!ours.is_proof(&proof, &challenge.replace('f', "e"), at("127.0.0.1:8788")));
        assert!(!prover("the-key-of-another").is_proof(&proof, challenge, at("127.0.0.1:8788")));
        for wrong in ["", &proof[..63], &proof.to_uppercase()] {
            assert!(!ours.is_proof(wrong, challenge, at("127.0.0.1:8788")), "{wrong}");
        }
        assert_eq!(format!("{ours:?}"), "Prover(…)");
    }

    #[test]
    fn challenge_has_its_length_and_its_digits() {
        assert!(is_challenge("0123456789abcdef0123456789abcdef"));
        for bad in
            ["", "0123456789abcdef", "0123456789ABCDEF0123456789ABCDEF", "0123456789abcdef0123456789abcde ", &"0".repeat(33)]
        {
            assert!(!is_challenge(bad), "{bad}");
        }
    }
}
