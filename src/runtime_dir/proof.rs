//! The server's proof to a client that it owns the runtime directory, so that no other process at its address gets a token.
//!
//! Level 1. The client generates a challenge. The answer is an HMAC over the challenge, the address of the server's end of this
//! connection, and the server's network. The key is derived from the directory's session key, which only the directory's owner
//! can read. Each side uses its own network. A process at another address that relays the challenge to the server gets an
//! answer for the server's address. A process at the same address in another network, on this machine or on another one that
//! shares the directory, gets an answer for the server's network.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::config::Token;
use crate::hex::hex;

/// The number of hexadecimal digits in a challenge.
pub const CHALLENGE_DIGITS: usize = 32;

/// The network of a process. Addresses mean the same to all processes in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Network {
    /// The boot of the kernel (`random(4)`, `/proc/sys/kernel/random/boot_id`). Two machines never have the same one.
    boot: String,
    /// The network namespace on that kernel, as its inode number (`namespaces(7)`).
    namespace: u64,
}

impl Network {
    fn of_this_process() -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { boot, namespace: fs::metadata("/proc/self/ns/net")?.ino() })
    }
}

/// Makes and checks proofs with a key derived from the session key.
#[derive(Clone)]
pub struct Prover {
    signer: Hmac<Sha256>,
    /// The network of this process, or `None` if `/proc` does not show it. The proofs of such a server are valid for no client,
    /// and no proof is valid for such a client.
    network: Option<Network>,
}

impl std::fmt::Debug for Prover {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Prover(…)")
    }
}

impl Prover {
    /// Creates the prover of the directory with this session key, for the network of this process.
    pub fn new(session_key: &Token) -> Self {
        Self::within(session_key, Network::of_this_process().ok())
    }

    fn within(session_key: &Token, network: Option<Network>) -> Self {
        // A separate key, so that other digests made with the session key are not proofs, and a proof is not a session.
        let mut key = mac(session_key.expose().as_bytes());
        key.update(b"a server owns this runtime directory");
        Self { signer: mac(&key.finalize().into_bytes()), network }
    }

    /// Checks whether this process knows its network, and so can check proofs.
    pub fn knows_network(&self) -> bool {
        self.network.is_some()
    }

    /// Returns the answer to a challenge on a connection whose server end has this address.
    pub fn proof(&self, challenge: &str, server: SocketAddr) -> String {
        hex(&self.signed(challenge, server).finalize().into_bytes())
    }

    /// Checks whether `text` is that answer.
    pub fn is_proof(&self, text: &str, challenge: &str, server: SocketAddr) -> bool {
        // A comparison in constant time is not needed: once sent, both are public, and each challenge is used only once.
        self.network.is_some() && self.proof(challenge, server) == text
    }

    fn signed(&self, challenge: &str, server: SocketAddr) -> Hmac<Sha256> {
        let mut signer = self.signer.clone();
        // An IPv4 connection of an IPv6 socket has a different address form on each side.
        let server = SocketAddr::new(server.ip().to_canonical(), server.port());
        signer.update(format!("{challenge} {server}").as_bytes());
        if let Some(Network { boot, namespace }) = &self.network {
            signer.update(format!(" {boot} {namespace}").as_bytes());
        }
        signer
    }
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key of any length will do (RFC 2104)")
}

/// Checks whether a text has the form of a challenge: [`CHALLENGE_DIGITS`] lowercase hexadecimal digits.
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
    fn proof_is_bound_to_key_challenge_and_address() {
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
    fn proof_is_bound_to_the_network_namespace() {
        let network = |boot: &str, namespace| Some(Network { boot: boot.to_owned(), namespace });
        let within = |network| Prover::within(&Token::new("the-key-of-sessions").expect("good"), network);
        let (challenge, server) = ("0123456789abcdef0123456789abcdef", at("127.0.0.1:8788"));
        let proof_in = |network| within(network).proof(challenge, server);
        let here = within(network("b1", 7));
        assert!(here.is_proof(&proof_in(network("b1", 7)), challenge, server));
        for other in [network("b1", 8), network("b2", 7), None] {
            assert!(!here.is_proof(&proof_in(other.clone()), challenge, server), "{other:?}");
        }
        assert!(!within(None).is_proof(&proof_in(None), challenge, server), "unknown networks are not the same one");
        let found = Network::of_this_process().expect("/proc is mounted");
        assert!(found.boot.len() == 36 && found.namespace > 0, "{found:?}");
        assert_eq!(Prover::new(&Token::new("the-key-of-sessions").expect("good")).network, Some(found));
    }

    #[test]
    fn challenge_is_32_lowercase_hex_digits() {
        assert!(is_challenge("0123456789abcdef0123456789abcdef"));
        for bad in
            ["", "0123456789abcdef", "0123456789ABCDEF0123456789ABCDEF", "0123456789abcdef0123456789abcde ", &"0".repeat(33)]
        {
            assert!(!is_challenge(bad), "{bad}");
        }
    }
}
