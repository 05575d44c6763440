//! Reading is protected like acting: requests that a page of another origin can cause are refused before any work is done, at
//! every listener, with every method, and from browsers that do not send the origin of a request.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use autoappdev::api::routes::Route;
use serde_json::Value;

use crate::support::sse::EventStream;
use crate::support::{DEADLINE, Place, example};

/// A browser that sends no Fetch Metadata.
const OLD_BROWSER: &str = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:60.0) Gecko/20100101 Firefox/60.0\r\n";

/// The maximum numbers of downloads and streams.
const DOWNLOADS: usize = 16;
const STREAMS: usize = 64;

/// Sends one request on a new connection. Returns the status and the error code.
fn ask(place: &Place, listener: &str, request: &str) -> (u16, String) {
    let request = format!("{request}Host: localhost\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    if listener == "unix" {
        let mut stream = UnixStream::connect(place.runtime().join("server.sock")).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
        stream.write_all(request.as_bytes()).expect("sent");
        stream.read_to_end(&mut answer).expect("an answer");
    } else {
        let mut stream = TcpStream::connect((listener, place.port())).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
        stream.write_all(request.as_bytes()).expect("sent");
        stream.read_to_end(&mut answer).expect("an answer");
    }
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{answer:?}"));
    let body: Value = answer.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok()).unwrap_or_default();
    (status, body["error"].as_str().unwrap_or_default().to_owned())
}

fn place() -> Place {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_HOST", "127.0.0.1,::1");
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.start_server();
    place.start();
    place
}

/// Returns every path below `/api`, and other spellings of such paths; each would wait or stream if it were served.
fn targets(place: &Place) -> Vec<String> {
    let version = place.pipeline()["version"].as_u64().expect("a number");
    let end = place.get("/api/logs/tail?limit=1").ok()["next"].as_u64().expect("a position");
    let waits = [format!("/api/pipeline?after={version}&wait=60"), format!("/api/logs?since={end}&grep=x&wait=60")];
    let written_otherwise =
        ["/api", "/api/", "/api/nothing", "http://localhost/api/pipeline", "/api/runs/1/log?download=1"].map(str::to_owned);
    let routes = Route::ALL.iter().map(|&route| example(route)).filter(|path| path.starts_with("/api/"));
    routes.chain(waits).chain(written_otherwise).collect()
}

#[test]
fn cross_origin_read_is_refused_by_every_listener_and_method() {
    let place = place();
    let before = place.footprint();
    let foreign = [
        "Sec-Fetch-Site: cross-site\r\n".to_owned(),
        "Sec-Fetch-Site: same-site\r\n".to_owned(),
        "Origin: http://localhost:3000\r\n".to_owned(),
        "Origin: null\r\n".to_owned(),
        // Old browsers send nothing, or the page that they show.
        OLD_BROWSER.to_owned(),
        format!("{OLD_BROWSER}Referer: http://localhost:3000/\r\n"),
        "Accept-Language: en\r\n".to_owned(),
        format!("{OLD_BROWSER}Cookie: autoappdev=x\r\nAccept: image/*\r\n"),
        // A browser adds this for any page once its user has entered a password.
        format!("{OLD_BROWSER}Authorization: Basic Og==\r\n"),
    ];
    for listener in ["127.0.0.1", "::1", "unix"] {
        for target in targets(&place) {
            for method in ["GET", "HEAD", "POST", "DELETE"] {
                for fields in &foreign {
                    let (status, error) = ask(&place, listener, &format!("{method} {target} HTTP/1.1\r\n{fields}"));
                    let wanted = if method == "HEAD" { "" } else { "origin_not_allowed" };
                    assert_eq!((status, &*error), (403, wanted), "{listener} {method} {target} {fields:?}");
                }
            }
        }
        for (field, target) in
            [("Sec-Fetch-Site: cross-site", "/"), (OLD_BROWSER.trim_end(), "/"), ("Sec-Fetch-Site: cross-site", "/static/app.js")]
        {
            assert_eq!(
                ask(&place, listener, &format!("GET {target} HTTP/1.1\r\n{field}\r\n")).0,
                200,
                "{listener} {field} {target}"
            );
        }
    }
    assert_eq!(place.footprint(), before);
}

/// The documented uses: curl and other programs without any browser fields, the page in an old browser, and addresses that its
/// user types.
#[test]
fn programs_and_own_page_in_old_browser_can_read_and_act() {
    let place = place();
    let own_page = format!("{OLD_BROWSER}Referer: http://localhost/\r\n");
    for listener in ["127.0.0.1", "::1", "unix"] {
        for fields in [
            "User-Agent: curl/8.5.0\r\nAccept: */*\r\n",
            "",
            &*own_page,
            &format!("{OLD_BROWSER}AutoAppDev-Client: page\r\n"),
            &format!("{OLD_BROWSER}Sec-Fetch-Site: none\r\n"),
        ] {
            for target in ["/api/pipeline", "/api/runs/1/log", "/api/logs?grep=ready"] {
                assert_eq!(
                    ask(&place, listener, &format!("GET {target} HTTP/1.1\r\n{fields}")).0,
                    200,
                    "{listener} {target} {fields:?}"
                );
            }
        }
        for (action, fields) in [
            ("pause", "User-Agent: curl/8.5.0\r\nAccept: */*\r\n".to_owned()),
            ("resume", format!("{own_page}AutoAppDev-Client: page\r\n")),
            ("pause", format!("{own_page}Content-Type: application/json\r\n")),
            ("resume", String::new()),
        ] {
            let answer = ask(&place, listener, &format!("POST /api/pipeline/{action} HTTP/1.1\r\n{fields}"));
            assert_eq!(answer.0, 200, "{listener} {action} {fields:?}: {answer:?}");
        }
    }
}

/// A form or a beacon can send a POST without a body, which then has no content type to check.
#[test]
fn browser_post_without_body_needs_preflight() {
    let place = place();
    let before = place.footprint();
    for fields in [
        "Origin: http://localhost\r\n",
        "Sec-Fetch-Site: same-origin\r\n",
        "Referer: http://localhost/\r\n",
        "Sec-Fetch-Site: none\r\n",
    ] {
        for kind in ["", "Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n"] {
            for action in ["start", "pause", "resume", "stop"] {
                let (status, error) =
                    ask(&place, "127.0.0.1", &format!("POST /api/pipeline/{action} HTTP/1.1\r\n{fields}{kind}"));
                assert_eq!((status, &*error), (415, "unsupported_media_type"), "{action} {fields:?} {kind:?}");
            }
        }
    }
    assert_eq!(place.footprint(), before);
}

/// Hundreds of refused requests on open connections occupy none of the owner's stream and download slots.
#[test]
fn refused_reads_take_no_stream_or_download_slots() {
    let place = place();
    let mut kept = Vec::new();
    for target in ["/api/events", "/api/runs/1/log", "/api/logs?since=0&grep=nothing&wait=60"] {
        for fields in ["Sec-Fetch-Site: cross-site\r\n", OLD_BROWSER] {
            for _ in 0..STREAMS {
                let mut wire = place.wire();
                wire.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
                assert_eq!(wire.answer().error(), "origin_not_allowed");
                kept.push(wire);
            }
        }
    }
    assert_slots_are_free(&place);
}

/// Checks that the owner can open the maximum number of streams and downloads.
pub(crate) fn assert_slots_are_free(place: &Place) {
    let streams: Vec<_> = (0..STREAMS).map(|_| EventStream::open(place.port(), "", None)).collect();
    let downloads: Vec<_> = (0..DOWNLOADS)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", place.port())).expect("it listens");
            stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
            stream.write_all(b"GET /api/runs/1/log HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
            let mut status_line = [0; 12];
            stream.read_exact(&mut status_line).expect("an answer");
            assert_eq!(&status_line, b"HTTP/1.1 200");
            stream
        })
        .collect();
    assert_eq!((streams.len(), downloads.len()), (STREAMS, DOWNLOADS));
}
