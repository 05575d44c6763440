//! `POST /api/pair` with the real binary: who can create a link, which addresses are in it, and what is reported about its code
//! afterwards.

use std::process::Command;

use qrcodegen::{QrCode, QrCodeEcc};
use serde_json::{Value, json};

use crate::support::network::{OWN_ADDRESS, is_within_own_network};
use crate::support::{Place, assert_keys, assert_time};

const TOKEN: &str = "test-token-of-a-link-7Q/+&";
const READ_TOKEN: &str = "test-token-of-a-viewer-9Zk";

fn place(host: &str) -> Place {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_HOST", host);
    place.set_env("AUTOAPPDEV_READ_TOKEN", READ_TOKEN);
    place.use_token(TOKEN);
    place.start_server();
    place
}

fn urls(made: &Value) -> Vec<String> {
    let links = made["links"].as_array().expect("a list");
    links.iter().map(|link| link["url"].as_str().expect("text").to_owned()).collect()
}

#[test]
fn pairing_makes_link_for_each_network_address() {
    if !is_within_own_network("pairing_makes_link_for_each_network_address") {
        return;
    }
    let second =
        "ip link add w0 type veth peer name w1 && ip link set w1 up && ip link set w0 up && ip addr add 10.78.0.1/24 dev w0";
    assert!(Command::new("bash").args(["-c", second]).status().expect("it runs").success());
    let all = place("0.0.0.0");
    let made = all.post("/api/pair", json!({"may": "look"})).ok();
    assert_keys(&made, &["ok", "may", "code", "id", "expires_at", "links"]);
    assert_time(&made["expires_at"]);
    let code = made["code"].as_str().expect("text");
    let expected = [OWN_ADDRESS, "10.78.0.1"].map(|address| format!("http://{address}:{}/#code={code}", all.port()));
    assert_eq!(urls(&made), expected);
    for link in made["links"].as_array().expect("a list") {
        assert_keys(link, &["url", "qr"]);
        assert_keys(&link["qr"], &["size", "path"]);
        let code = QrCode::encode_text(link["url"].as_str().expect("text"), QrCodeEcc::Low).expect("it fits");
        assert_eq!(link["qr"]["size"], code.size());
        assert!(link["qr"]["path"].as_str().is_some_and(|path| path.starts_with("M0 0h7v1H0z")), "{link}");
    }
    assert!(!made.to_string().contains(TOKEN) && !made.to_string().contains(READ_TOKEN));
    // The command chooses the same addresses.
    let (exit, out, said) = all.client(&["pair", "--json"]);
    assert_eq!(exit, 0, "{said}");
    let by_command: Value = serde_json::from_str(&out).expect("JSON");
    let origin = |link: &str| link.split_once("/#").expect("a fragment").0.to_owned();
    let of_command: Vec<_> =
        by_command["links"].as_array().expect("a list").iter().filter_map(Value::as_str).map(origin).collect();
    assert_eq!(of_command, expected.each_ref().map(|link| origin(link)));
    drop(all);
    let one = place("10.78.0.1");
    let made = one.client(&["pair", "--json"]).1;
    assert!(made.contains("http://10.78.0.1:") && !made.contains(OWN_ADDRESS), "{made}");
}

#[test]
fn pairing_makes_no_link_for_loopback_server() {
    let mut place = place("127.0.0.1");
    assert_eq!(place.post("/api/pair", json!({})).ok()["links"], json!([]));
    // With a name in the settings, a link can lead to the server.
    place.set_env("AUTOAPPDEV_ALLOW_HOST", "board.local");
    place.set_env("AUTOAPPDEV_ALLOW_ORIGIN", "https://board.example");
    place.restart_server();
    let made = |fields: &str| {
        let mut wire = place.wire();
        let framing = "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
        wire.send(format!("POST /api/pair HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n{fields}{framing}"));
        let made = wire.answer().ok();
        urls(&made).into_iter().map(|url| url.replace(made["code"].as_str().expect("text"), "CODE")).collect::<Vec<_>>()
    };
    assert_eq!(made("Host: Board.local:81\r\n"), ["http://board.local:81/#code=CODE"]);
    let by_proxy =
        "Host: 127.0.0.1:8788\r\nOrigin: https://board.example\r\nSec-Fetch-Site: same-origin\r\nX-Forwarded-For: 10.0.0.9\r\n";
    assert_eq!(made(by_proxy), ["https://board.example/#code=CODE"]);
    // Header fields of the client cannot lead the link elsewhere.
    let forged = "Host: 127.0.0.1:8788\r\nX-Forwarded-Host: evil.example\r\nForwarded: host=evil.example;proto=https\r\n";
    assert_eq!(made(forged), Vec::<String>::new());
}

#[test]
fn only_operator_creates_links_and_sees_their_use() {
    let place = place("127.0.0.1");
    let ask = |method: &str, path: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        let fields = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        place.request(method, path, &fields, (method == "POST").then_some("{}"))
    };
    for (method, path) in [("POST", "/api/pair"), ("GET", "/api/sessions")] {
        assert_eq!(ask(method, path, READ_TOKEN).error(), "read_only", "{path}");
        assert_eq!(ask(method, path, "wrong").status, 401, "{path}");
    }
    let codes = || {
        let listed = place.get("/api/sessions").ok();
        let listed = listed["codes"].as_array().expect("a list").clone();
        for code in &listed {
            assert_keys(code, &["id", "may", "expires_at", "is_used"]);
        }
        listed.into_iter().map(|code| (code["id"].clone(), code["is_used"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(codes(), []);
    let [first, second] = [json!({}), json!({"may": "look"})].map(|body| place.post("/api/pair", body).ok());
    let listed = place.get("/api/sessions").ok()["codes"].to_string();
    assert!(![&first, &second].iter().any(|made| listed.contains(made["code"].as_str().expect("text"))), "{listed}");
    place.post("/api/login", json!({ "code": second["code"] })).ok();
    let of = |made: &Value, is_used: bool| (made["id"].clone(), Value::Bool(is_used));
    assert_eq!(codes(), [of(&first, false), of(&second, true)]);
    assert_eq!(place.post("/api/login", json!({ "code": second["code"] })).error(), "invalid_code");
    place.post("/api/sessions/end", json!({"all": true})).ok();
    assert_eq!(codes(), []);
}
