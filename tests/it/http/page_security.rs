//! Which origins and host names may read and act, and the header fields of the page.

use crate::support::{Answer, Place, acts, example};
use autoappdev::api::routes::{Method, Route};
use serde_json::json;

const FRIEND: &str = "http://localhost:5173";
const STRANGER: &str = "http://evil.example";
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Creates a server that admits the pages of two origins.
fn open_place() -> Place {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.set_env("AUTOAPPDEV_ALLOW_ORIGIN", &format!("{FRIEND}, https://board.example:8443"));
    place.start_server();
    place
}

/// Returns the header fields that make a response readable to another origin.
fn opened(answer: &Answer) -> Vec<&str> {
    let those = answer.headers.iter().filter(|(name, _)| name.to_ascii_lowercase().starts_with("access-control-allow"));
    those.map(|(name, _)| name.as_str()).collect()
}

fn assert_open(answer: &Answer, origin: &str, what: &str) {
    assert_eq!(answer.header("Access-Control-Allow-Origin"), Some(origin), "{what}: {answer:?}");
    assert!(answer.header("Vary").is_some_and(|vary| vary.contains("Origin")), "{what}");
    assert!(answer.header("Access-Control-Allow-Credentials").is_none(), "{what}");
}

#[test]
fn allowed_origin_passes_preflight_on_every_route() {
    let place = open_place();
    for &route in Route::ALL {
        let (path, method) = (&example(route), route.spec().method.as_str());
        let ask = |origin: &str| {
            let headers = [
                ("Origin", origin),
                ("Access-Control-Request-Method", method),
                ("Access-Control-Request-Headers", "content-type"),
            ];
            place.request("OPTIONS", path, &headers, None)
        };
        for origin in [FRIEND, "https://board.example:8443"] {
            let answer = ask(origin);
            assert!((200..300).contains(&answer.status), "{path}: {answer:?}");
            assert_open(&answer, origin, path);
            let list = |name| answer.header(name).unwrap_or_default().to_ascii_lowercase();
            assert!(list("Access-Control-Allow-Methods").split(", ").any(|word| word == method.to_ascii_lowercase()), "{path}");
            for name in ["content-type", "authorization"] {
                assert!(list("Access-Control-Allow-Headers").split(", ").any(|word| word == name), "{path}");
            }
            assert!(list("Access-Control-Max-Age").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{path}");
        }
        for origin in [
            STRANGER,
            "null",
            "http://localhost:5174",
            "http://localhost",
            "https://localhost:5173",
            "http://localhost:5173.evil.example",
            "",
        ] {
            assert_eq!(opened(&ask(origin)), Vec::<&str>::new(), "{path} from {origin:?}");
        }
    }
}

/// Requests one response of each kind for `origin`. Returns what each is, and the response.
fn one_of_each(place: &Place, origin: &str) -> Vec<(u16, Answer)> {
    let from = ("Origin", origin);
    let post =
        |path: &str, body: &str, more: &[(&str, &str)]| place.request("POST", path, &[&[from][..], more].concat(), Some(body));
    let raw = |request: &str| {
        let mut wire = place.wire();
        wire.send(request.replace("ORIGIN", origin));
        wire.answer()
    };
    let head = "POST /api/pipeline/pause HTTP/1.1\r\nHost: localhost\r\nOrigin: ORIGIN\r\nContent-Type: application/json\r\n";
    vec![
        (200, place.request("GET", "/api/pipeline", &[from], None)),
        (
            304,
            place.request(
                "GET",
                "/api/pipeline",
                &[
                    from,
                    (
                        "If-None-Match",
                        &place
                            .get("/api/pipeline")
                            .headers
                            .iter()
                            .find(|(name, _)| name.eq_ignore_ascii_case("etag"))
                            .expect("has one")
                            .1,
                    ),
                ],
                None,
            ),
        ),
        (400, place.request("GET", "/api/runs?limit=x", &[from], None)),
        (400, post("/api/pipeline/start", "{", &[JSON])),
        (404, place.request("GET", "/nothing", &[from], None)),
        (404, post("/api/pipeline/start", r#"{"script":"nothing.sh"}"#, &[JSON])),
        (405, place.request("GET", "/api/pipeline/start", &[from], None)),
        (409, post("/api/pipeline/pause", "{}", &[JSON])),
        (415, post("/api/pipeline/pause", "{}", &[("Content-Type", "text/plain")])),
        (421, raw("GET /api/pipeline HTTP/1.1\r\nHost: evil.example\r\nOrigin: ORIGIN\r\n\r\n")),
        (413, raw(&format!("{head}Content-Length: 1048577\r\n\r\n"))),
        (413, raw(&format!("{head}Transfer-Encoding: chunked\r\n\r\nfffffff\r\n"))),
        (400, raw(&format!("{head}Transfer-Encoding: chunked\r\n\r\nx\r\n"))),
        (501, raw(&format!("{head}Transfer-Encoding: gzip\r\n\r\n"))),
        (501, raw(&format!("{head}Expect: tea\r\n\r\n"))),
    ]
}

#[test]
fn allowed_origin_can_read_responses_and_errors() {
    let place = open_place();
    for (status, answer) in one_of_each(&place, FRIEND) {
        assert_eq!(answer.status, status, "{}", answer.body);
        assert_open(&answer, FRIEND, &answer.body.to_string());
    }
    let started = place.request("POST", "/api/pipeline/start", &[("Origin", FRIEND), JSON], Some("{}"));
    assert_open(&started, FRIEND, "a start");
    assert_eq!(started.status, 200, "and may act: {}", started.body);
}

#[test]
fn other_origin_can_neither_read_nor_act() {
    for place in [open_place(), Place::serving("sleep.sh")] {
        let before = place.footprint();
        for origin in [STRANGER, "null", "http://localhost:51730", "http://127.0.0.1:1"] {
            for (_, answer) in one_of_each(&place, origin) {
                assert_eq!(opened(&answer), Vec::<&str>::new(), "{origin}: {}", answer.body);
            }
            for path in &acts() {
                for headers in [&[JSON][..], &[("Content-Type", "text/plain")], &[]] {
                    let headers = [&[("Origin", origin)][..], headers].concat();
                    let answer = place.request("POST", path, &headers, Some("{}"));
                    assert_eq!((answer.status, answer.error()), (403, "origin_not_allowed"), "{origin} {path}: {}", answer.body);
                }
            }
        }
        let answer = place.request("POST", "/api/pipeline/start", &[("Sec-Fetch-Site", "cross-site"), JSON], Some("{}"));
        assert_eq!(answer.error(), "origin_not_allowed");
        // The value of a header field cannot become another field, neither in a request nor in a response that repeats it.
        let mut wire = place.wire();
        wire.send(format!("GET /api/version HTTP/1.1\r\nHost: localhost\r\nOrigin: {FRIEND}\rSet-Cookie: a=b\r\n\r\n"));
        let answer = wire.answer();
        assert_eq!((answer.status, answer.header("Set-Cookie")), (400, None));
        assert_eq!(place.footprint(), before);
    }
}

#[test]
fn api_refuses_every_cross_site_request() {
    for place in [open_place(), Place::serving("sleep.sh")] {
        place.start();
        let ask = |path: &str, fields: &[(&str, &str)]| place.request("GET", path, fields, None);
        for foreign in
            [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Site", "same-site"), ("Origin", STRANGER), ("Origin", "null")]
        {
            let routes = Route::ALL.iter().filter(|route| route.spec().method == Method::Get).map(|&route| example(route));
            for path in routes.chain(["/api/nothing".to_owned()]).filter(|path| path.starts_with("/api/")) {
                // A link is a request of the site that shows it, and a navigation can end in a download without leaving that
                // site's page.
                for kind in [&[][..], &[("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document"), ("Sec-Fetch-User", "?1")]]
                {
                    let answer = ask(&path, &[&[foreign], kind].concat());
                    assert_eq!((answer.status, answer.error()), (403, "origin_not_allowed"), "{path} {foreign:?} {kind:?}");
                }
            }
            for path in ["/", "/static/app.js"] {
                assert_eq!(ask(path, &[foreign]).status, 200, "{path} {foreign:?}");
            }
        }
        for own in [&[("Sec-Fetch-Site", "none")][..], &[("Sec-Fetch-Site", "same-origin")], &[]] {
            for path in ["/api/runs/1/log", "/api/pipeline", "/api/health"] {
                assert_eq!(ask(path, own).status, 200, "{path} {own:?}");
            }
        }
    }
    let friend = [("Origin", FRIEND), ("Sec-Fetch-Site", "cross-site")];
    assert_open(&open_place().request("GET", "/api/logs", &friend, None), FRIEND, "an allowed origin reads");
}

#[test]
fn body_with_other_content_type_gets_415() {
    let place = Place::serving("sleep.sh");
    let before = place.footprint();
    let post = |fields: &str, body: &str| {
        let mut wire = place.wire();
        wire.send(format!("POST /api/pipeline/start HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n{body}"));
        wire.answer()
    };
    for kind in [
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: multipart/form-data; boundary=x\r\n",
        "Content-Type: text/plain; application/json\r\n",
        "Content-Type: application/json-patch+json\r\n",
        "Content-Type:\r\n",
        "",
    ] {
        for (framing, body) in [("Content-Length: 2\r\n", "{}"), ("Transfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\r\n")] {
            let answer = post(&format!("{kind}{framing}"), body);
            assert_eq!((answer.status, answer.error()), (415, "unsupported_media_type"), "{kind:?} {framing}: {}", answer.body);
        }
    }
    assert_eq!(place.footprint(), before);
    assert_eq!(post("Content-Type: Application/JSON ; charset=utf-8\r\nContent-Length: 2\r\n", "{}").status, 200);
    place.act("stop").ok();
    assert_eq!(post("", "").status, 200, "no body needs no type");
}

#[test]
fn unknown_host_gets_421() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.set_env("AUTOAPPDEV_ALLOW_HOST", "board.local");
    place.start_server();
    let before = place.footprint();
    let ask = |method: &str, path: &str, host: &str| {
        let mut wire = place.wire();
        wire.send(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        wire.answer()
    };
    let port = place.port();
    for host in [
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "0.0.0.0",
        "169.254.169.254",
        "[::2]",
        "localhost:80:80",
        "localhost@evil.example",
        "evil.example/localhost",
        "board.local.evil.example",
        "2130706433",
        "",
    ] {
        let routes = Route::ALL.iter().map(|&route| (route.spec().method.as_str(), example(route)));
        for (method, path) in routes.chain([("OPTIONS", example(Route::Pipeline))]) {
            let answer = ask(method, &path, host);
            assert_eq!(
                (answer.status, answer.error()),
                (421, "host_not_allowed"),
                "{method} {path} at {host:?}: {}",
                answer.body
            );
        }
    }
    for host in ["localhost", &format!("LocalHost:{port}"), "127.0.0.1", "127.1.2.3:9", "[::1]", "board.local:1", "BOARD.local"] {
        assert_eq!(ask("GET", "/api/pipeline", host).status, 200, "{host}");
    }
    assert_eq!(place.footprint(), before);
}

#[test]
fn page_and_api_have_security_headers() {
    let place = Place::serving("sleep.sh");
    let routes = Route::ALL.iter().filter(|&&route| route != Route::Events).map(|&route| example(route));
    for path in routes.chain(["/nothing".to_owned()]) {
        let path = path.as_str();
        let answer = place.get(path);
        for (name, value) in [
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        assert!(answer.header("Server").is_none() && answer.header("Set-Cookie").is_none(), "{path}");
        let is_page = path == "/" || path.starts_with("/static/");
        assert_eq!(answer.header("Referrer-Policy"), Some(if is_page { "same-origin" } else { "no-referrer" }), "{path}");
        let policy: Vec<&str> = answer.header("Content-Security-Policy").expect("a policy").split("; ").collect();
        for rule in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"] {
            assert!(policy.contains(&rule), "{path}: {rule} in {policy:?}");
        }
        assert_eq!(policy.contains(&"sandbox"), !is_page, "{path}: {policy:?}");
        assert_eq!(answer.header("Cache-Control"), Some(if is_page { "no-cache" } else { "no-store" }), "{path}");
    }
    let page = place.get("/");
    let policy = page.header("Content-Security-Policy").expect("a policy").to_owned();
    for rule in [
        "default-src 'none'",
        "script-src 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ] {
        assert!(policy.split("; ").any(|part| part == rule), "{rule} in {policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    let html = page.body.as_str().expect("a page");
    let files: Vec<&str> = html.split('"').filter(|part| part.starts_with("static/")).collect();
    assert!(files.len() >= 3, "{files:?}");
    for (file, kind) in files.iter().map(|file| (format!("/{file}"), "")).chain([("/".to_owned(), "text/html; charset=utf-8")]) {
        let first = place.get(&file);
        let kind = if kind.is_empty() { first.header("Content-Type").expect("a type") } else { kind };
        assert!(
            first.status == 200 && first.header("Content-Type") == Some(kind) && !kind.starts_with("application/oct"),
            "{file}"
        );
        let tag = first.header("ETag").expect("a tag");
        assert!(tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"'), "{tag}");
        let again = place.request("GET", &file, &[("If-None-Match", tag)], None);
        assert_eq!((again.status, &again.body), (304, &json!("")), "{file}");
    }
}
