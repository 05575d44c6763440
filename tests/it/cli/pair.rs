//! `autoappdev pair`: the link that opens the door, and the door beyond loopback itself, in a network of the test's own.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use crate::support::network::{OWN_ADDRESS, OWN_ADDRESS_OF_SIX, is_within_own_network};
use crate::support::{DEADLINE, Place};
use serde_json::Value;

const TOKEN: &str = "test-token-of-a-pair-7Q/+&";

fn links(place: &Place, args: &[&str]) -> Vec<String> {
    let (code, out, said) = place.client(&[&["pair", "--json"], args].concat());
    assert_eq!(code, 0, "{said}");
    let document: Value = serde_json::from_str(&out).expect("JSON");
    document["links"].as_array().expect("a list").iter().map(|link| link.as_str().expect("text").to_owned()).collect()
}

#[test]
fn a_server_on_loopback_says_how_to_open_the_door() {
    let mut place = Place::new();
    let (code, _, said) = place.client(&["pair"]);
    assert!(code == 4 && said.contains("no server is running for") && said.contains("`autoappdev serve`"), "{said}");
    place.start_server();
    let (code, out, said) = place.client(&["pair"]);
    assert!(code == 1 && out.is_empty() && said.contains("AUTOAPPDEV_HOST=0.0.0.0") && said.contains("--address"), "{said}");
}

#[test]
fn a_link_has_the_token_that_the_server_takes() {
    let mut place = Place::new();
    place.use_token(TOKEN);
    place.start_server();
    let port = place.port();
    let named = ["--address", "board.local"];
    assert_eq!(links(&place, &named), [format!("http://board.local:{port}/#token=test-token-of-a-pair-7Q%2F%2B%26")]);
    let read_token = fs::read_to_string(place.runtime().join("read-token")).expect("it was made").trim().to_owned();
    assert_eq!(links(&place, &["--read-only", "--address", "10.0.0.5:80"]), [format!("http://10.0.0.5:80/#token={read_token}")]);

    let mut command = place.command();
    let output =
        command.args(["pair", "--address", "board.local"]).env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).output().expect("runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains(&format!("http://board.local:{port}/#token=")) && text.contains("▀"), "{text}");
    let output = command.env("LC_ALL", "C").output().expect("runs");
    assert!(output.stdout.is_ascii() && output.stdout.windows(4).any(|part| part == b"####"));

    // One that the server does not take is found out before somebody stands before a locked door with a phone.
    place.set_env("AUTOAPPDEV_TOKEN", "another-token-of-a-pair");
    let (code, out, said) = place.client(&["pair", "--address", "board.local"]);
    assert!(code == 1 && out.is_empty() && said.contains("does not take the token"), "{said}");
    // By its address a server elsewhere is paired as well.
    place.set_env("AUTOAPPDEV_TOKEN", TOKEN);
    let url = format!("http://127.0.0.1:{port}");
    assert_eq!(links(&place, &["--url", &url]), [format!("{url}/#token=test-token-of-a-pair-7Q%2F%2B%26")]);
    place.kill_server();
    assert_eq!(place.client(&["pair", "--url", &url]).0, 4);
}

/// One request to an address, by hand; status line and the rest.
fn ask(to: &str, port: u16, head: &str) -> String {
    let mut stream = TcpStream::connect((to, port)).expect("the server accepts");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("text");
    text
}

#[test]
fn a_door_beyond_loopback_asks_for_the_token_that_was_made() {
    if !is_within_own_network("a_door_beyond_loopback_asks_for_the_token_that_was_made") {
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
        let own_link = |address: &str| format!("http://{address}:{port}/#token={token}");
        let expected: Vec<String> = match host {
            "::" => vec![own_link(OWN_ADDRESS), own_link(&format!("[{OWN_ADDRESS_OF_SIX}]"))],
            _ => vec![own_link(OWN_ADDRESS)],
        };
        assert_eq!(links, expected, "at {host}");
        // The server's owner needs no more than before.
        let (code, out, said) = place.client(&["status", "--json"]);
        assert_eq!(code, 0, "{said}");
        assert_eq!(serde_json::from_str::<Value>(&out).expect("JSON")["pipeline"]["state"], "running");
        place.client(&["stop", "--now"]);
        let session = r#"{"session":{"may":"act","token_needed":true,"expires_at":null}}"#;
        assert!(ask(to, port, &format!("GET /api/session HTTP/1.1\r\nHost: {own}{with}")).ends_with(session));
    }
}
