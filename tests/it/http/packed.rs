//! JSON responses that are compressed with gzip: which ones, for which clients, with which tag; and that no response with a
//! secret is compressed.

use std::io::{Read, Write};
use std::net::TcpStream;

use autoappdev::api::routes::{Method, Route};
use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::support::{DEADLINE, Place, example, until_true};

/// A response as it was sent.
struct Sent {
    head: String,
    body: Vec<u8>,
}

impl Sent {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn is_packed(&self) -> bool {
        self.header("Content-Encoding") == Some("gzip")
    }

    fn status(&self) -> &str {
        &self.head[9..12]
    }

    fn unpacked(&self) -> Value {
        let mut text = Vec::new();
        if self.is_packed() {
            GzDecoder::new(self.body.as_slice()).read_to_end(&mut text).expect("gzip");
        } else {
            text.clone_from(&self.body);
        }
        serde_json::from_slice(&text).expect("JSON")
    }
}

const GZIP: &str = "Accept-Encoding: gzip, deflate, br, zstd\r\n";

/// Sends a request on its own connection. Of a response without a length, returns only what arrived with its head.
fn ask(place: &Place, method: &str, path: &str, fields: &str, body: &str) -> Sent {
    let mut stream = TcpStream::connect(("127.0.0.1", place.port())).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{fields}\r\n");
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).expect("sent");
    let (mut read, mut buffer) = (Vec::new(), [0; 8192]);
    let end = loop {
        if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        let count = stream.read(&mut buffer).expect("an answer");
        assert!(count > 0, "no answer to {method} {path}");
        read.extend_from_slice(&buffer[..count]);
    };
    let head = String::from_utf8(read[..end].to_vec()).expect("a head is text");
    if head.to_lowercase().contains("content-length: ") {
        stream.read_to_end(&mut read).expect("the rest");
    }
    Sent { head, body: read[end + 4..].to_vec() }
}

/// Creates a server with a run whose log, history and progress are long.
fn place() -> Place {
    let mut place = Place::new();
    place.script(
        "talk.sh",
        "#!/bin/bash\nfor n in {1..40}; do echo \"::step part $n\"; done\nfor n in {1..300}; do echo \"a line like others, $n\"; done\necho ready\nexec sleep 600\n",
    );
    for n in 0..10 {
        place.script(&format!("script-{n}.sh"), "#!/bin/bash\n");
    }
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "talk.sh");
    place.start_server();
    place.start();
    place.until_line("ready");
    for action in ["pause", "resume"] {
        place.act(action).ok();
    }
    // The last of the progress has been reported by then.
    until_true("all steps are told", || place.pipeline()["progress"]["steps"].as_array().is_some_and(|steps| steps.len() == 40));
    place
}

#[test]
fn long_json_responses_are_gzipped_on_request() {
    let place = place();
    for path in ["/api/pipeline", "/api/logs?limit=500", "/api/logs/tail?lines=400", "/api/runs/1", "/api/pipeline/scripts"] {
        let (plain, packed) = (ask(&place, "GET", path, "", ""), ask(&place, "GET", path, GZIP, ""));
        assert!(!plain.is_packed() && plain.body.len() > 1024, "{path}: {}", plain.head);
        assert!(packed.is_packed() && packed.body.len() < plain.body.len() / 2, "{path}: {}", packed.head);
        assert_eq!([plain.header("Vary"), packed.header("Vary")], [Some("Accept-Encoding"); 2], "{path}");
        assert_eq!(packed.header("Content-Type"), Some("application/json"), "{path}");
        assert_eq!(plain.unpacked(), packed.unpacked(), "{path}");
        let head = ask(&place, "HEAD", path, GZIP, "");
        let length = packed.body.len().to_string();
        assert_eq!((head.header("Content-Length"), head.body.len(), head.is_packed()), (Some(&*length), 0, true), "{path}");
        let refused = ask(&place, "GET", path, "Accept-Encoding: gzip;q=0, br\r\n", "");
        assert!(!refused.is_packed() && refused.body == plain.body, "{path}");
    }
    // Short responses are sent uncompressed to every client.
    for path in ["/api/pipeline/status", "/api/runs?limit=1", "/api/logs?limit=1", "/api/no/such/path"] {
        let (plain, packed) = (ask(&place, "GET", path, "", ""), ask(&place, "GET", path, GZIP, ""));
        assert!(packed.body == plain.body && packed.body.len() <= 1024, "{path}");
        assert_eq!((packed.header("Content-Encoding"), packed.header("Vary")), (None, None), "{path}");
    }
}

#[test]
fn gzipped_state_has_own_etag_and_either_etag_gets_304() {
    let place = place();
    let state = |fields: &str| ask(&place, "GET", "/api/pipeline", fields, "");
    let (plain, packed) = (state(""), state(GZIP));
    let [tag, tag_of_packed] = [&plain, &packed].map(|sent| sent.header("ETag").expect("a tag").to_owned());
    assert_eq!(tag_of_packed, format!("{}-gzip\"", tag.trim_end_matches('"')));
    for sent in [&tag, &tag_of_packed] {
        for (coding, own) in [("", &tag), (GZIP, &tag_of_packed)] {
            let spared = state(&format!("{coding}If-None-Match: \"x\", W/{sent}\r\n"));
            assert_eq!((spared.status(), spared.body.len(), spared.header("ETag")), ("304", 0, Some(&**own)), "{sent}");
            assert_eq!((spared.header("Content-Encoding"), spared.header("Vary")), (None, Some("Accept-Encoding")));
        }
    }
    place.act("pause").ok();
    assert_eq!(state(&format!("{GZIP}If-None-Match: {tag}, {tag_of_packed}\r\n")).status(), "200", "another state");
}

/// The length of a compressed response reveals something about its contents. A response that contains a secret, or text that an
/// attacker can repeat in it, is therefore not compressed.
#[test]
fn responses_with_secrets_are_not_gzipped() {
    let mut place = place();
    place.use_token("the-token-of-the-operator");
    place.restart_server();
    let fields = format!("{GZIP}Authorization: Bearer the-token-of-the-operator\r\nContent-Type: application/json\r\n");
    for &route in Route::ALL.iter().filter(|route| route.spec().path.starts_with("/api/")) {
        // Without a body; routes that need one refuse the request.
        let sent = ask(&place, &route.spec().method.to_string(), &example(route), &fields, "");
        let may_be = matches!(
            route,
            Route::Pipeline
                | Route::Logs
                | Route::LogTail
                | Route::RunLogSearch
                | Route::Runs
                | Route::Run
                | Route::RunUsage
                | Route::Scripts
        );
        assert!(may_be || !sent.is_packed(), "{route:?}: {}", sent.head);
        assert!(route.spec().method == Method::Get || !sent.is_packed(), "{route:?}");
    }
    for _ in 0..8 {
        place.post("/api/login", json!({"token": "the-token-of-the-operator"})).ok();
    }
    let sessions = ask(&place, "GET", "/api/sessions", &fields, "");
    assert!(sessions.body.len() > 1024 && !sessions.is_packed(), "{}", sessions.head);
    let challenge = "0".repeat(32);
    for (method, path, body) in [
        ("POST", "/api/login", r#"{"token":"the-token-of-the-operator"}"#),
        ("POST", "/api/pair", "{}"),
        ("GET", "/api/session", ""),
        ("GET", &*format!("/api/version?challenge={challenge}"), ""),
        ("GET", "/api/runs/1/log", ""),
        ("GET", "/api/events", ""),
    ] {
        let sent = ask(&place, method, path, &fields, body);
        assert_eq!((sent.status(), sent.header("Content-Encoding")), ("200", None), "{path}: {}", sent.head);
    }
    // An error can repeat a text of its request.
    let long = json!({ "x".repeat(2000): 1 }).to_string();
    let error = ask(&place, "POST", "/api/pipeline/start", &fields, &long);
    assert!(error.status() == "400" && error.body.len() > 1024 && !error.is_packed(), "{}: {}", error.body.len(), error.head);
}
