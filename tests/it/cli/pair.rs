//! `autoappdev pair`: the link that logs a browser in, and access from beyond loopback, in a network for this test.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use crate::support::network::{OWN_ADDRESS, OWN_ADDRESS_OF_SIX, is_within_own_network};
use crate::support::{Answer, DEADLINE, Place};
use serde_json::{Value, json};

const TOKEN: &str = "test-token-of-a-pair-7Q/+&";

fn links(place: &Place, args: &[&str]) -> Vec<String> {
    let (code, out, said) = place.client(&[&["pair", "--json"], args].concat());
    assert_eq!(code, 0, "{said}");
    let document: Value = serde_json::from_str(&out).expect("JSON");
    document["links"].as_array().expect("a list").iter().map(|link| link.as_str().expect("text").to_owned()).collect()
}

#[test]
fn loopback_link_works_once_and_says_how_to_listen_beyond_loopback() {
    let mut place = Place::new();
    let (code, _, said) = place.client(&["pair"]);
    assert!(code == 4 && said.contains("no server is running for") && said.contains("`autoappdev serve`"), "{said}");
    // With a token, this user has to log in as another user of the machine has to.
    place.use_token(TOKEN);
    place.start_server();
    let (code, out, said) = place.client(&["pair"]);
    assert!(code == 0 && said.is_empty(), "{said}");
    for part in ["Only this machine reaches it", "AUTOAPPDEV_HOST=0.0.0.0", "--address", "works once"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(out.is_ascii() && !out.contains("##"), "there is no QR code: {out}");
    let base = format!("http://127.0.0.1:{}/#code=", place.port());
    let link = out.lines().find(|line| line.trim().starts_with(&base)).expect("a link").trim();
    assert_eq!(log_in(&place, link).ok()["may"], "act");
    assert_eq!(log_in(&place, link).error(), "invalid_code", "it was used");
    let made = links(&place, &["--read-only"]);
    assert!(made.len() == 1 && made[0].starts_with(&base), "{made:?}");
    assert_eq!(log_in(&place, &made[0]).ok()["may"], "look");
}

/// Logs in with a link's code.
fn log_in(place: &Place, link: &str) -> Answer {
    let code = link.split_once("/#code=").expect("a code").1;
    place.request("POST", "/api/login", &[("Content-Type", "application/json")], Some(&json!({ "code": code }).to_string()))
}

#[test]
fn link_contains_one_time_code_and_no_token() {
    let mut place = Place::new();
    place.use_token(TOKEN);
    place.start_server();
    let port = place.port();
    let tokens = ["token", "read-token"].map(|name| fs::read_to_string(place.runtime().join(name)).unwrap_or_default());
    let made = links(&place, &["--address", "board.local"]);
    let (base, code) = made[0].split_once("/#code=").expect("a code");
    assert_eq!((made.len(), base), (1, &*format!("http://board.local:{port}")));
    assert!(code.len() >= 24 && code != TOKEN && !tokens.iter().any(|token| token.trim() == code), "{code}");
    let answer = log_in(&place, &made[0]).ok();
    assert_eq!(answer["may"], "act");
    assert_eq!(log_in(&place, &made[0]).error(), "invalid_code", "it was used");
    let reader = links(&place, &["--read-only", "--address", "10.0.0.5:80"]);
    assert!(reader[0].starts_with("http://10.0.0.5:80/#code="));
    assert_eq!(log_in(&place, &reader[0]).ok()["may"], "look");
    assert_ne!(links(&place, &["--address", "x"]), links(&place, &["--address", "x"]), "each link has a code of its own");

    let mut command = place.command();
    let output =
        command.args(["pair", "--address", "board.local"]).env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).output().expect("runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains(&format!("http://board.local:{port}/#code=")) && text.contains("▀"), "{text}");
    assert!(!text.contains(TOKEN) && text.contains("works once"), "{text}");
    let output = command.env("LC_ALL", "C").output().expect("runs");
    assert!(output.stdout.is_ascii() && output.stdout.windows(4).any(|part| part == b"####"));

    // A client with an operator's token can also pair with a remote server by its address.
    place.set_env("AUTOAPPDEV_SOCKET", "off");
    place.restart_server();
    let url = format!("http://127.0.0.1:{}", place.port());
    assert!(links(&place, &["--url", &url])[0].starts_with(&format!("{url}/#code=")));
    place.set_env("AUTOAPPDEV_TOKEN", "another-token-of-a-pair");
    let (code, out, said) = place.client(&["pair", "--url", &url]);
    assert!(code == 1 && out.is_empty() && said.contains("wrong token"), "{said}");
    // A viewer cannot make a link, not even a read-only one: its session could outlast the viewer's own access.
    place.unset_env("AUTOAPPDEV_TOKEN");
    place.set_env("AUTOAPPDEV_READ_TOKEN", tokens[1].trim());
    let (code, out, said) = place.client(&["pair", "--url", &url, "--read-only"]);
    assert!(code == 1 && out.is_empty() && said.contains("allows reading only"), "{said}");
    place.kill_server();
    assert_eq!(place.client(&["pair", "--url", &url]).0, 4);
}

/// Sends one request to an address by hand. Returns the status line and the rest.
fn ask(to: &str, port: u16, head: &str) -> String {
    let mut stream = TcpStream::connect((to, port)).expect("the server accepts");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("text");
    text
}

#[test]
fn network_listener_requires_generated_token() {
    if !is_within_own_network("network_listener_requires_generated_token") {
        return;
    }
    for (host, to) in [
        ("0.0.0.0", OWN_ADDRESS),
        ("0.0.0.0", "127.0.0.1"),
        (OWN_ADDRESS, OWN_ADDRESS),
        ("::", OWN_ADDRESS),
        ("::", OWN_ADDRESS_OF_SIX),
    ] {
        let mut place = Place::new();
        place.set_env("AUTOAPPDEV_HOST", host);
        place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
        place.start_server();
        let port = place.port();
        let token = fs::read_to_string(place.runtime().join("token")).expect("it was made").trim().to_owned();
        let number = if to.contains(':') { format!("[{to}]") } else { to.to_owned() };
        let status = |line: &str, host: &str, more: &str| {
            ask(to, port, &format!("{line} HTTP/1.1\r\nHost: {host}{more}")).split(' ').nth(1).expect("a status").to_owned()
        };
        let own = format!("{number}:{port}");
        let with = format!("\r\nAuthorization: Bearer {token}");
        assert_eq!(status("GET /", &own, ""), "200");
        for line in ["GET /api/pipeline", "POST /api/pipeline/start", "GET /api/logs"] {
            assert_eq!(status(line, &own, ""), "401", "{line} at {host} by {to}");
            assert_eq!(status(line, "evil.example", &with), "421", "{line} at {host} by {to}");
        }
        assert_eq!(status("GET /api/pipeline", &own, &with), "200");
        assert_eq!(status("POST /api/pipeline/start", &own, &format!("{with}\r\nOrigin: http://{own}")), "200");
        assert_eq!(status("POST /api/pipeline/stop", &own, &format!("{with}\r\nOrigin: http://evil.example")), "403");

        let links = links(&place, &[]);
        let own_link = |address: &str| format!("http://{address}:{port}/");
        let expected: Vec<String> = match host {
            "::" => vec![own_link(OWN_ADDRESS), own_link(&format!("[{OWN_ADDRESS_OF_SIX}]"))],
            _ => vec![own_link(OWN_ADDRESS)],
        };
        let (bases, codes): (Vec<&str>, BTreeSet<&str>) =
            links.iter().map(|link| link.split_once("#code=").expect("a code")).unzip();
        assert_eq!((bases, codes.len()), (expected.iter().map(String::as_str).collect(), 1), "at {host}");
        // The server's owner needs nothing more than before.
        let (code, out, said) = place.client(&["status", "--json"]);
        assert_eq!(code, 0, "{said}");
        assert_eq!(serde_json::from_str::<Value>(&out).expect("JSON")["pipeline"]["state"], "running");
        place.client(&["stop", "--now"]);
        let session = r#"{"session":{"may":"act","token_needed":true,"expires_at":null,"id":null}}"#;
        assert!(ask(to, port, &format!("GET /api/session HTTP/1.1\r\nHost: {own}{with}")).ends_with(session));
    }
}
