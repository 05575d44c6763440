//! `GET /api/version?challenge=`: what a server proves, and to which clients.

use std::fs;
use std::net::SocketAddr;

use autoappdev::config::Token;
use autoappdev::runtime_dir::Prover;
use serde_json::json;

use crate::support::wire::Wire;
use crate::support::{Place, assert_keys};

const CHALLENGE: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn server_proves_session_key_for_each_address() {
    let mut place = Place::new();
    place.use_token("the-token-of-this-server");
    place.set_env("AUTOAPPDEV_HOST", "127.0.0.1,127.0.0.2");
    place.start_server();
    let key = fs::read_to_string(place.runtime().join("session-key")).expect("made at the first boot");
    let prover = Prover::new(&Token::new(key.trim()).expect("good"));
    for ip in ["127.0.0.1", "127.0.0.2"] {
        let address: SocketAddr = format!("{ip}:{}", place.port()).parse().expect("an address");
        // Sent without a token: clients verify the server before they send theirs on the same connection.
        let mut wire = Wire::of(std::net::TcpStream::connect(address).expect("it listens"));
        for challenge in [CHALLENGE, "ffffffffffffffffffffffffffffffff"] {
            let answer = wire.get(&format!("/api/version?challenge={challenge}")).ok();
            assert_keys(&answer, &["ok", "proof"]);
            assert_eq!(answer["proof"], json!(prover.proof(challenge, address)));
        }
        assert_eq!(wire.get("/api/version").status, 401, "who the server is it tells to viewers alone");
        assert_eq!(wire.get("/api/version?challenges=x").status, 401);
    }
}

#[test]
fn invalid_challenge_gets_no_proof() {
    let place = Place::serving("sleep.sh");
    let mut wire = place.wire();
    for bad in
        ["", "0123", &CHALLENGE.to_uppercase(), &CHALLENGE.replace('f', "g"), &format!("{CHALLENGE}0"), "%00", &"0".repeat(4000)]
    {
        let answer = wire.get(&format!("/api/version?challenge={bad}"));
        assert_eq!((answer.status, answer.error()), (400, "invalid_query"), "{bad}: {answer:?}");
    }
}
