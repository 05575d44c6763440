//! The sockets of the real binary, used by hand: what HTTP/1.1 allows and clients send, what it forbids and attackers send, and
//! too much of both.

use crate::support::footprint::Footprint;
use crate::support::wire::Wire;
use crate::support::{Answer, Place, reads, until};
use serde_json::json;

const HOST: &str = "Host: localhost\r\n";
const JSON: &str = "Content-Type: application/json\r\n";

fn place() -> Place {
    Place::serving("sleep.sh")
}

/// Returns the status and the first key of a response, to tell the responses of different endpoints apart.
fn kind(answer: &Answer) -> String {
    // The response to an action is recognized by its `ok`, any other by its first key.
    let keys = answer.body.as_object().map(|body| body.keys().find(|key| *key == "ok").or(body.keys().next()));
    format!("{} {}", answer.status, keys.flatten().map_or("", String::as_str))
}

/// Checks that a new client is served.
fn assert_serves(place: &Place, when: &str) {
    let answer = place.wire().get("/api/pipeline");
    assert_eq!(answer.status, 200, "{when}");
}

/// Checks that the request is refused with this status and the connection ends.
fn assert_refused_and_closed(place: &Place, what: &str, bytes: &str, status: u16) {
    let mut wire = place.wire();
    wire.send(bytes);
    let answer = wire.answer();
    assert_eq!((answer.status, answer.header("Connection")), (status, Some("close")), "{what}: {}", answer.body);
    assert_eq!(answer.body["ok"], false, "{what}");
    assert!(wire.ends_silently(), "{what}: what followed was taken for a request");
}

#[test]
fn pipelined_requests_are_answered_once_and_in_order() {
    let place = place();
    let mut wire = place.wire();
    let body = r#"{"grace_s":0}"#;
    let requests = [
        format!("GET /api/pipeline HTTP/1.1\r\n{HOST}\r\n"),
        format!("POST /api/pipeline/start HTTP/1.1\r\n{HOST}{JSON}Content-Length: 2\r\n\r\n{{}}"),
        format!("HEAD /api/pipeline HTTP/1.1\r\n{HOST}\r\n"),
        format!("POST /api/pipeline/pause HTTP/1.1\r\n{HOST}\r\n"),
        // Empty lines between requests are skipped (RFC 9112, section 2.2).
        format!("\r\n\r\nGET /nowhere HTTP/1.1\r\n{HOST}\r\n"),
        format!(
            "POST /api/pipeline/stop HTTP/1.1\r\n{HOST}{JSON}Transfer-Encoding: chunked\r\n\r\n3\r\n{}\r\nA;x=y\r\n{}\r\n0\r\nX: y\r\n\r\n",
            &body[..3],
            &body[3..]
        ),
        format!("GET /api/pipeline/status HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n"),
        format!("POST /api/pipeline/start HTTP/1.1\r\n{HOST}\r\n"),
    ];
    // Cut at odd places, so that heads and bodies arrive in pieces.
    for piece in requests.concat().as_bytes().chunks(17) {
        wire.send(piece);
    }
    let mut kinds = vec![kind(&wire.answer()), kind(&wire.answer())];
    kinds.push(kind(&wire.answer_to_head()));
    kinds.extend((0..4).map(|_| kind(&wire.answer())));
    assert_eq!(kinds, ["200 pipeline", "200 ok", "200 ", "200 ok", "404 ok", "200 ok", "200 status"]);
    assert!(wire.ends_silently(), "nothing is answered after a close");
    assert_eq!((place.state().as_str(), place.footprint().2), ("stopped", 1), "what follows a close is not done");
}

#[test]
fn connection_persistence_follows_http_version_and_header() {
    let place = place();
    for (head, keeps) in [
        ("GET /api/version HTTP/1.0\r\n", false),
        ("GET /api/version HTTP/1.0\r\nConnection: keep-alive\r\n", true),
        ("GET /api/version HTTP/1.0\r\nHost: localhost\r\nConnection: Keep-Alive, x\r\n", true),
        ("GET /api/version HTTP/1.1\r\nHost: localhost\r\n", true),
        ("GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n", false),
        ("GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Close\r\n", false),
        ("GET http://localhost:80/api/version HTTP/1.1\r\nHost: localhost:80\r\n", true),
    ] {
        let mut wire = place.wire();
        wire.send(format!("{head}\r\n"));
        let answer = wire.answer();
        assert_eq!(answer.status, 200, "{head}");
        assert_eq!(answer.header("Connection") == Some("close"), !keeps, "{head}");
        if keeps {
            assert_eq!(wire.get("/api/version").status, 200, "{head}");
        } else {
            assert!(wire.ends_silently(), "{head}");
        }
    }
    // A client that has shut down its sending side still gets a response.
    let mut wire = place.wire();
    wire.ask("GET", "/api/version");
    wire.finish();
    assert_eq!(wire.answer().status, 200);
}

#[test]
fn expect_100_continue_gets_100_if_body_is_accepted() {
    let place = place();
    for framing in ["Content-Length: 2\r\n", "Transfer-Encoding: chunked\r\n"] {
        let mut wire = place.wire();
        wire.send(format!("POST /api/pipeline/pause HTTP/1.1\r\n{HOST}{JSON}{framing}Expect: 100-Continue\r\n\r\n"));
        assert_eq!(wire.answer().status, 100, "{framing}");
        wire.send(if framing.starts_with('C') { "{}" } else { "2\r\n{}\r\n0\r\n\r\n" });
        assert_eq!(wire.answer().error(), "invalid_transition", "{framing}");
    }
    // Without a body, with a body that is too long, or with another expectation, no 100 is sent.
    for (fields, status) in [("", 409), ("Content-Length: 9999999\r\n", 413)] {
        let mut wire = place.wire();
        wire.send(format!("POST /api/pipeline/pause HTTP/1.1\r\n{HOST}{JSON}{fields}Expect: 100-continue\r\n\r\n"));
        assert_eq!(wire.answer().status, status, "{fields}");
    }
    assert_refused_and_closed(&place, "tea", &format!("GET / HTTP/1.1\r\n{HOST}Expect: tea\r\n\r\n"), 501);
}

#[test]
fn ambiguous_framing_is_refused_and_connection_closed() {
    let place = place();
    let before = place.footprint();
    // The bytes that an attacker wants the server to treat as a separate request.
    let inner = format!("POST /api/pipeline/start HTTP/1.1\r\n{HOST}\r\n");
    for (what, fields, body) in [
        ("two lengths", "Content-Length: 0\r\nContent-Length: 5\r\n", ""),
        ("the same length twice", "Content-Length: 0\r\nContent-Length: 0\r\n", ""),
        ("a list of lengths", "Content-Length: 0, 0\r\n", ""),
        ("a signed length", "Content-Length: +0\r\n", ""),
        ("a negative length", "Content-Length: -0\r\n", ""),
        ("a hexadecimal length", "Content-Length: 0x0\r\n", ""),
        ("an empty length", "Content-Length:\r\n", ""),
        ("length and chunks", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("chunks and length", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n"),
        ("chunks twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("chunks and identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"),
        ("a folded line", "X: a\r\n b\r\n", ""),
        ("a folded first line", " X: a\r\n", ""),
        ("a space before the colon", "Content-Length : 0\r\n", ""),
        ("a tab before the colon", "Transfer-Encoding\t: chunked\r\n", "0\r\n\r\n"),
        ("no colon", "Content-Length 0\r\n", ""),
        ("no name", ": x\r\n", ""),
        ("a bare CR", "X: a\rContent-Length: 5\r\n", ""),
        ("a NUL", "X: a\0b\r\n", ""),
        ("two hosts", "Host: localhost\r\n", ""),
        ("an empty chunk size", "Transfer-Encoding: chunked\r\n", "\r\n\r\n"),
        ("only an extension", "Transfer-Encoding: chunked\r\n", ";x\r\n\r\n"),
        ("a blank chunk size", "Transfer-Encoding: chunked\r\n", " \r\n\r\n"),
        ("a signed chunk size", "Transfer-Encoding: chunked\r\n", "+0\r\n\r\n"),
        ("a prefixed chunk size", "Transfer-Encoding: chunked\r\n", "0x0\r\n\r\n"),
        ("a chunk size that is none", "Transfer-Encoding: chunked\r\n", "g\r\n\r\n"),
        ("a chunk size beyond 64 bits", "Transfer-Encoding: chunked\r\n", "00000000000000000\r\n\r\n"),
        ("a chunk longer than it says", "Transfer-Encoding: chunked\r\n", "1\r\n{}\r\n0\r\n\r\n"),
        ("a chunk line that ends with LF", "Transfer-Encoding: chunked\r\n", "2\n{}\r\n0\r\n\r\n"),
    ] {
        let request = format!("POST /api/pipeline/start HTTP/1.1\r\n{HOST}{JSON}{fields}\r\n{body}{inner}");
        assert_refused_and_closed(&place, what, &request, 400);
    }
    for (what, first) in [
        ("a bare CR in front", "\rGET / HTTP/1.1"),
        ("no host", "GET / HTTP/1.1\r\nX: y"),
        ("another's target", "GET http://elsewhere.example/ HTTP/1.1\r\nHost: localhost"),
        ("no path", "GET x HTTP/1.1\r\nHost: localhost"),
        ("two targets", "GET / / HTTP/1.1\r\nHost: localhost"),
        ("no version", "GET /\r\nHost: localhost"),
        ("another version", "GET / HTTP/1.2\r\nHost: localhost"),
        ("a tunnel", "CONNECT localhost:80 HTTP/1.1\r\nHost: localhost"),
        ("HTTP/2 by prior knowledge", "PRI * HTTP/2.0\r\n\r\nSM"),
        ("TLS", "\u{16}\u{3}\u{1}"),
    ] {
        assert_refused_and_closed(&place, what, &format!("{first}\r\n\r\n{inner}"), 400);
    }
    for coding in ["gzip, chunked", "chunked, gzip", "identity", "xchunked", "chunked, chunked", "\"chunked\"", ""] {
        let request = format!("POST /api/pipeline/start HTTP/1.1\r\n{HOST}Transfer-Encoding: {coding}\r\n\r\n0\r\n\r\n{inner}");
        assert_refused_and_closed(&place, coding, &request, 501);
    }
    let old = format!("POST /api/pipeline/start HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}");
    assert_refused_and_closed(&place, "chunks in HTTP/1.0", &old, 400);
    assert_eq!(place.footprint(), before);
}

#[test]
fn absolute_target_without_path_is_the_root_page() {
    let place = place();
    let mut wire = place.wire();
    wire.send("GET http://localhost?x=/api/version HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(wire.answer().body.is_string(), "the page: a query is no path");
    wire.send("GET http://localhost HTTP/1.1\r\nHost: LOCALHOST\r\n\r\n");
    assert!(wire.answer().body.is_string());
}

#[test]
fn oversized_request_parts_get_413_414_or_431() {
    let place = place();
    let head = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\n{HOST}{fields}\r\n");
    for (what, request, status) in [
        ("a hundred billion bytes", head("/", "Content-Length: 100000000000\r\n"), 413),
        ("more than can be counted", head("/", &format!("Content-Length: {}\r\n", "9".repeat(60))), 413),
        ("101 fields", head("/", &"X: y\r\n".repeat(100)), 431),
        ("a long field", head("/", &format!("X: {}\r\n", "y".repeat(17_000))), 431),
        ("a long target", head(&format!("/{}", "x".repeat(8_192)), ""), 414),
        ("an endless target", format!("GET /{}", "x".repeat(20_000)), 414),
        ("empty lines", "\r\n".repeat(33), 400),
        ("endless fields", format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(90)) + &"y".repeat(20_000), 431),
        (
            "an endless chunk",
            format!("POST /api/pipeline/pause HTTP/1.1\r\n{HOST}{JSON}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"),
            413,
        ),
        (
            "an endless chunk line",
            format!(
                "POST /api/pipeline/pause HTTP/1.1\r\n{HOST}{JSON}Transfer-Encoding: chunked\r\n\r\n1;{}",
                "x".repeat(20_000)
            ),
            400,
        ),
        (
            "endless trailers",
            format!(
                "POST /api/pipeline/pause HTTP/1.1\r\n{HOST}{JSON}Transfer-Encoding: chunked\r\n\r\n0\r\n{}",
                "X: y\r\n".repeat(4_000)
            ),
            431,
        ),
    ] {
        assert_refused_and_closed(&place, what, &request, status);
    }
    let mut wire = place.wire();
    wire.send(head("/api/version", &"X: y\r\n".repeat(99)));
    assert_eq!(wire.answer().status, 200, "a hundred fields");
    wire.send(head(&format!("/?{}", "x".repeat(8_000)), &format!("X: {}\r\n", "y".repeat(7_000))));
    assert_eq!(wire.answer().status, 200, "15 KiB");
}

#[test]
fn abandoned_long_polls_free_slots() {
    let place = place();
    let version = place.pipeline()["version"].clone();
    let mut most = 0;
    for n in 0..1_500 {
        let mut wire = place.wire();
        wire.ask("GET", &format!("/api/pipeline?after={version}&wait=60"));
        wire.reset();
        if n % 50 == 0 {
            assert_serves(&place, "beside those who left");
            most = most.max(place.server_threads());
        }
    }
    assert!(most < 750, "{most} threads for 1500 clients that are gone");
    // A client that still waits after that gets its response when the state changes.
    let mut waiting = place.wire();
    waiting.ask("GET", &format!("/api/pipeline?after={version}&wait=60"));
    place.start();
    assert!(waiting.answer().body["pipeline"]["version"].as_u64() > version.as_u64());
}

#[test]
fn concurrent_health_requests_use_few_descriptors() {
    const CLIENTS: u64 = 200;
    const REQUESTS: usize = 40;
    let place = place();
    let before = Footprint::of(place.server_pid()).descriptors;
    let mut wires: Vec<Wire> = (0..CLIENTS).map(|_| place.wire()).collect();
    let request = format!("GET /api/health HTTP/1.1\r\n{HOST}\r\n").repeat(REQUESTS);
    for wire in &mut wires {
        wire.send(&request);
    }
    let mut most = 0;
    for wire in &mut wires {
        for _ in 0..REQUESTS {
            let answer = wire.answer();
            assert!(answer.status == 200 || answer.error() == "too_many_reads", "{}", answer.body);
            most = most.max(Footprint::of(place.server_pid()).descriptors);
        }
    }
    // At most two requests read the database at a time, with three descriptors each.
    assert!(most <= before + CLIENTS + 32, "{before} before, {most} with {CLIENTS} clients");
    assert_serves(&place, "after all that");
}

#[test]
fn repeated_stops_free_slots() {
    let place = Place::serving("stubborn.sh");
    place.start();
    place.until_line("ready");
    let version_of =
        |place: &Place, than: u64| until("it is taken", || place.pipeline()["version"].as_u64().filter(|it| *it > than));
    let mut version = version_of(&place, 0);
    let mut stops: Vec<Wire> = (0..300)
        .map(|n| {
            let mut wire = place.wire();
            let body = json!({"grace_s": 3_000 - n}).to_string();
            wire.send(format!("POST /api/pipeline/stop HTTP/1.1\r\n{HOST}{JSON}Content-Length: {}\r\n\r\n{body}", body.len()));
            version = version_of(&place, version);
            wire
        })
        .collect();
    let first = stops[0].answer();
    assert_eq!((first.status, first.error()), (503, "too_many_waiting"), "{}", first.body);
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    let told: Vec<u16> = stops.split_off(1).iter_mut().map(|wire| wire.answer().status).collect();
    let count = |status| told.iter().filter(|&&it| it == status).count();
    assert!((1..=64).contains(&count(200)), "{told:?}");
    // A stop that overtook an earlier one makes that a refusal.
    assert!(count(503) > 150 && count(200) + count(503) + count(409) == told.len(), "{told:?}");
}

#[test]
fn odd_requests_do_not_panic_a_handler() {
    let place = place();
    let odd = [
        "",
        "%",
        "%00",
        "%ff%fe",
        "..",
        "*",
        "?",
        "#",
        "a=b=c",
        "\u{7f}",
        "//",
        ";",
        "[",
        "18446744073709551615",
        "9223372036854775807",
    ];
    let mut wire = place.wire();
    let mut asked = 0;
    for path in
        ["/", "/api/pipeline", "/api/runs", "/api/runs/", "/api/logs", "/api/logs/tail", "/static/", "/api/health", "/api/"]
    {
        for left in odd {
            for right in odd {
                for path in [
                    format!("{path}{left}?after={right}&before={right}&since={right}&name={left}&limit={left}"),
                    format!("{path}{left}{right}"),
                ] {
                    let mut fresh = || {
                        wire.send(format!("GET {path} HTTP/1.1\r\n{HOST}If-None-Match: {right}\r\nOrigin: {left}\r\n\r\n"));
                        wire.try_answer(false)
                    };
                    let answer = fresh().or_else(|_| {
                        wire = place.wire();
                        wire.send(format!("GET {path} HTTP/1.1\r\n{HOST}\r\n"));
                        wire.try_answer(false)
                    });
                    let status = answer.expect("an answer").status;
                    assert!(status < 500 && status != 0, "{path}: {status}");
                    asked += 1;
                }
            }
        }
    }
    assert!(asked > 4_000, "{asked} requests");
    assert!(!place.server_log().contains("panicked"), "{}", place.server_log());
    assert_serves(&place, "after all that");
}

#[test]
fn head_has_status_and_fields_of_get() {
    let place = place();
    place.start();
    // The run has printed all its output, so that both responses are about the same log.
    place.until_line("ready");
    let mut wire = place.wire();
    let others = ["/nowhere", "/api/runs/99", "/api/logs?limit=x"].map(String::from);
    for path in reads().iter().chain(&others).map(String::as_str) {
        let full = wire.get(path);
        wire.ask("HEAD", path);
        let head = wire.answer_to_head();
        // The clock and the counters may have changed, so the test compares the names of the header fields, and the values that
        // do not change.
        let names = |answer: &Answer| answer.headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!((head.status, names(&head)), (full.status, names(&full)), "{path}");
        for name in ["Content-Type", "ETag", "Cache-Control", "Content-Security-Policy"] {
            assert_eq!(head.header(name), full.header(name), "{path}: {name}");
        }
        if !matches!(path, "/api/health" | "/api/logs" | "/api/logs/tail" | "/api/pipeline") {
            assert_eq!(head.header("Content-Length"), full.header("Content-Length"), "{path}");
        }
    }
    // If the tag matches, there is no body either, and the connection stays open.
    let tag = wire.get("/api/pipeline").header("ETag").expect("a tag").to_owned();
    for method in ["GET", "HEAD"] {
        wire.send(format!("{method} /api/pipeline HTTP/1.1\r\n{HOST}If-None-Match: {tag}\r\n\r\n"));
        assert_eq!(wire.answer_to_head().status, 304, "{method}");
    }
    assert_eq!(wire.get("/api/version").status, 200);
}

#[test]
fn unknown_methods_are_refused() {
    let place = place();
    let before = place.footprint();
    let long = "M".repeat(1_000);
    for method in ["TRACE", "PUT", "DELETE", "PATCH", "get", "Post", "PRI", "M-SEARCH", long.as_str()] {
        for (path, status) in [("/api/pipeline", 405), ("/api/pipeline/start", 405), ("/nowhere", 404), ("*", 404)] {
            let mut wire = place.wire();
            wire.send(format!("{method} {path} HTTP/1.1\r\n{HOST}X-Secret: hunter2\r\n\r\n"));
            let answer = wire.answer();
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
            assert!(!answer.body.to_string().contains("hunter2"), "a request is never given back: {method}");
            assert_eq!(wire.get("/api/version").status, 200, "{method} {path}");
        }
    }
    // CONNECT never opens a tunnel, whatever the form of its target.
    for target in ["localhost:22", "127.0.0.1:22", "http://localhost/", "*", "/api/pipeline"] {
        let mut wire = place.wire();
        wire.send(format!("CONNECT {target} HTTP/1.1\r\n{HOST}\r\nSSH-2.0-x\r\n"));
        let answer = wire.answer();
        assert!(matches!(answer.status, 400 | 404 | 405), "{target}: {}", answer.status);
    }
    let mut wire = place.wire();
    wire.ask("OPTIONS", "*");
    let answer = wire.answer();
    assert_eq!((answer.status, answer.header("Allow")), (204, Some("GET, HEAD, POST, OPTIONS")));
    assert_eq!(place.footprint(), before);
}

#[test]
fn foreign_and_malformed_targets_are_refused() {
    let place = place();
    let before = place.footprint();
    for (target, status) in [
        ("http://elsewhere.example/api/pipeline/start", 400),
        ("http://localhost.evil.example/api/pipeline/start", 400),
        ("http://localhost@evil.example/api/pipeline/start", 400),
        ("http://user@localhost/api/pipeline/start", 400),
        ("http://localhost:99/api/pipeline/start", 400),
        ("http:///api/pipeline/start", 400),
        ("ftp://localhost/api/pipeline/start", 400),
        ("file:///etc/passwd", 400),
        ("localhost/api/pipeline/start", 400),
        ("//localhost/api/pipeline/start", 404),
        ("//evil.example/api/pipeline/start", 404),
        ("/api//pipeline/start", 404),
        ("/api/./pipeline/start", 404),
        ("/x/../api/pipeline/start", 404),
        ("/api/pipeline/start/", 404),
        ("/api/pipeline/start%00", 404),
        ("/api/pipeline%2fstart", 404),
        ("/api%2Fpipeline%2Fstart", 404),
        ("/api/pipeline/start%3f", 404),
        ("/api/pipeline/start\\", 404),
    ] {
        let mut wire = place.wire();
        wire.send(format!("POST {target} HTTP/1.1\r\n{HOST}\r\n"));
        let answer = wire.answer();
        assert_eq!(answer.status, status, "{target}: {}", answer.body);
    }
    assert_eq!(place.footprint(), before);
}

#[test]
fn body_of_refused_request_is_not_executed() {
    let place = place();
    let before = place.footprint();
    let inner = format!("POST /api/pipeline/start HTTP/1.1\r\n{HOST}\r\n");
    // The body looks like a request. Its end is known, so the connection stays open and no part of the body is treated as a
    // request.
    for (what, fields, status) in [
        ("a foreign page", "Origin: http://evil.example\r\nContent-Type: application/json\r\n", 403),
        ("another site", "Sec-Fetch-Site: cross-site\r\nContent-Type: application/json\r\n", 403),
        ("a form", "Content-Type: text/plain\r\n", 415),
        ("no type", "", 415),
        ("no JSON", "Content-Type: application/json\r\n", 400),
    ] {
        for framing in ["length", "chunked"] {
            let body = match framing {
                "length" => format!("Content-Length: {}\r\n\r\n{inner}", inner.len()),
                _ => format!("Transfer-Encoding: chunked\r\n\r\n{:X}\r\n{inner}\r\n0\r\n\r\n", inner.len()),
            };
            let mut wire = place.wire();
            wire.send(format!("POST /api/pipeline/start HTTP/1.1\r\n{HOST}{fields}{body}"));
            assert_eq!(wire.answer().status, status, "{what}, {framing}");
            assert_eq!(wire.get("/api/version").status, 200, "{what}, {framing}");
        }
    }
    // A GET can have a body too, which is not another request.
    let mut wire = place.wire();
    wire.send(format!("GET /api/version HTTP/1.1\r\n{HOST}Content-Length: {}\r\n\r\n{inner}", inner.len()));
    assert_eq!(wire.answer().status, 200);
    // A request that is refused before its body is read ends the connection, together with the part of the body that was sent.
    for (what, fields, status) in [
        ("too long", "Content-Length: 1048577\r\n", 413),
        ("an expectation", "Content-Length: 100\r\nExpect: tea\r\n", 501),
        ("a coding", "Transfer-Encoding: gzip\r\n", 501),
    ] {
        let request = format!("POST /api/version HTTP/1.1\r\n{HOST}{fields}\r\n");
        assert_refused_and_closed(&place, what, &(request + &inner.repeat(50)), status);
    }
    assert_eq!(place.footprint(), before);
}
