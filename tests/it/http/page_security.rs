//! Who may look and who may act: other origins, other host names, and a hostile page in a real browser. And what the page is served with.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::thread;

use crate::support::{Answer, Place, acts, example};
use crate::webdriver::{Browser, PATIENCE, wait_until};
use autoappdev::api::routes::{Method, Route};
use serde_json::{Value, json};

const FRIEND: &str = "http://localhost:5173";
const STRANGER: &str = "http://evil.example";
const TOKEN: &str = "test-token-of-a-page-7Qx";
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// A server that lets the pages of two origins in.
fn open_place() -> Place {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.set_env("AUTOAPPDEV_ALLOW_ORIGIN", &format!("{FRIEND}, https://board.example:8443"));
    place.start_server();
    place
}

/// The headers that open an answer to another origin.
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
fn an_allowed_origin_gets_its_preflight_on_every_route() {
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

/// One answer of each kind, asked for by `origin`: what it is, and the answer.
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
fn an_allowed_origin_can_read_every_answer_errors_too() {
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
fn another_origin_can_neither_read_nor_act() {
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
        // A header's value cannot become a header, neither from a client nor through one.
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
                // A link is a request of the site that shows it, and a navigation can end in a download without leaving that site's page.
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
fn a_body_that_does_not_call_itself_json_is_not_looked_at() {
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
fn a_name_that_is_not_this_servers_is_turned_away() {
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
fn the_page_and_the_api_are_served_closed() {
    let place = Place::serving("sleep.sh");
    let routes = Route::ALL.iter().filter(|&&route| route != Route::Events).map(|&route| example(route));
    for path in routes.chain(["/nothing".to_owned()]) {
        let path = path.as_str();
        let answer = place.get(path);
        for (name, value) in [
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        assert!(answer.header("Server").is_none() && answer.header("Set-Cookie").is_none(), "{path}");
        let is_page = path == "/" || path.starts_with("/static/");
        assert_eq!(answer.header("Cache-Control"), Some(if is_page { "no-cache" } else { "no-store" }), "{path}");
    }
    let page = place.get("/");
    let policy = page.header("Content-Security-Policy").expect("a policy").to_owned();
    for rule in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"] {
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

/// A page of another site: whatever is asked of it, this is what it answers. Returns its origin.
fn hostile_site() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let origin = format!("http://127.0.0.1:{}", listener.local_addr().expect("bound").port());
    // Ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(&stream);
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
                line.clear();
            }
            let body = "<!doctype html><title>evil</title><body>";
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _left_already = (&stream).write_all((head + body).as_bytes());
        }
    });
    origin
}

/// Where nothing is asked for, the page is kept out by what the browser says of it alone.
#[test]
fn a_hostile_page_in_a_browser_changes_nothing_and_reads_nothing() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::serving("sleep.sh");
    place.start();
    be_hostile(&browser, &place);
}

/// The worst that can be: the browser has the log-in, and the hostile page is on the same host, so that the browser sends the cookie along
/// with all that it can be made to send (ports do not count, RFC 6265, section 8.5).
#[test]
fn a_hostile_page_changes_nothing_in_a_browser_that_is_logged_in() {
    let Some(browser) = Browser::fresh() else { return };
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.use_token(TOKEN);
    place.start_server();
    place.start();
    let target = format!("http://127.0.0.1:{}", place.port());
    browser.open(&format!("{target}/#token={TOKEN}"));
    wait_until("the page is logged in", PATIENCE, || browser.state() == "running");
    be_hostile(&browser, &place);
    assert_eq!(browser.cookies().as_array().map(Vec::len), Some(1), "it was logged in all the time");
    browser.open(&target);
    wait_until("the page is logged in still", PATIENCE, || browser.state() == "running");
}

/// A cross-site page that cannot read answers could still occupy slots: each of these would wait for a minute, or stream for ever.
#[test]
fn cross_site_page_cannot_occupy_a_stream_download_or_long_poll_slot() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::serving("sleep.sh");
    let (_, run_id) = place.start();
    let version = place.pipeline()["version"].as_u64().expect("a number");
    let end = place.get("/api/logs/tail?limit=1").ok()["next"].as_u64().expect("a position");
    // Another port of the same host, which is the same site, and another name of it, which is not.
    for host in ["127.0.0.1", "localhost"] {
        browser.open(&hostile_site());
        let target = format!("http://{host}:{}", place.port());
        browser.script(&format!(
            "window.settled = 0; window.sent = 0;
             const done = () => {{ settled += 1; }};
             for (const path of ['/api/pipeline?after={version}&wait=60', '/api/logs?since={end}&wait=60', '/api/events',
                                 '/api/runs/{run_id}/log', '/api/logs?grep=x']) {{
               for (let n = 0; n < 20; n += 1) {{
                 sent += 2;
                 fetch('{target}' + path, {{ mode: 'no-cors' }}).then((it) => it.text()).then(done, done);
                 const image = new Image(); image.onload = done; image.onerror = done; image.src = '{target}' + path + (path.includes('?') ? '&' : '?') + 'n=' + n;
               }}
             }}"
        ));
        wait_until("no request waits", PATIENCE, || browser.script("return settled === sent && sent === 200") == true);
        // A link is followed to the page, and not into the API.
        let follow = |path: &str| browser.script(&format!("location.href = '{target}{path}'"));
        let shown = "return location.pathname + ' ' + (document.body?.innerText ?? '')";
        follow(&format!("/api/runs/{run_id}/log"));
        wait_until("the refusal is shown", PATIENCE, || {
            browser.script(shown).as_str().is_some_and(|text| text.starts_with("/api/") && text.contains("origin_not_allowed"))
        });
        browser.open(&hostile_site());
        follow("/");
        wait_until("the page is shown and works", PATIENCE, || {
            browser.script("return !!document.getElementById('state')") == true && browser.state() == "running"
        });
        browser.open(&format!("{target}/api/runs/{run_id}/log"));
        assert!(browser.script(shown).as_str().is_some_and(|text| text.contains("ready")), "the user's own doing");
    }
}

/// A link from somewhere shows a stranger nothing, and a link with a wrong token neither.
#[test]
fn a_stolen_link_without_its_token_opens_nothing() {
    let Some(browser) = Browser::fresh() else { return };
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.use_token(TOKEN);
    place.start_server();
    place.start();
    let before = place.footprint();
    let target = format!("http://127.0.0.1:{}", place.port());
    for link in [
        &target,
        &format!("{target}/#token="),
        &format!("{target}/#token=not-the-right-token"),
        &format!("{target}/?token={TOKEN}"),
    ] {
        browser.open("about:blank");
        browser.open(link);
        wait_until("the form is shown", PATIENCE, || {
            browser.script("return !!document.getElementById('login')") == true && browser.shows("login")
        });
        assert_eq!(browser.text("state"), "…", "{link}");
        assert!(!browser.shows("hero") && !browser.shows("log"), "{link}");
        assert_eq!((browser.text("log").as_str(), browser.text("pid").as_str()), ("", "–"), "{link}");
        for action in ["start", "pause", "resume", "stop"] {
            assert_eq!(browser.script(&format!("return document.getElementById('{action}').disabled")), true, "{link}");
        }
        assert_eq!(browser.cookies(), json!([]), "{link}");
    }
    assert_eq!(place.footprint(), before);
}

/// Everything that a page of another origin can make a browser send.
fn be_hostile(browser: &Browser, place: &Place) {
    let before = place.footprint();
    let site = hostile_site();
    let target = format!("http://127.0.0.1:{}", place.port());
    browser.open(&site);
    // What a script of that page can send, and what it gets to see of the answers. Each promise is counted when it is settled.
    browser.script(&format!(
        "window.seen = []; window.settled = 0; window.sent = 0;
         const send = (path, init) => {{ sent += 1; fetch('{target}' + path, init)
           .then(async (it) => {{ if (it.type !== 'opaque') seen.push(path + ' ' + await it.text()); }}, () => {{}})
           .finally(() => {{ settled += 1; }}); }};
         for (const mode of ['cors', 'no-cors']) for (const credentials of ['omit', 'include']) {{
           for (const path of ['/', '/api/pipeline', '/api/logs', '/api/runs', '/api/session']) send(path, {{ mode, credentials }});
           for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x', 'application/json', '']) {{
             for (const action of ['stop', 'pause', 'start']) {{
               const body = new Blob(['{{}}'], {{ type }});
               send('/api/pipeline/' + action, {{ method: 'POST', mode, credentials, body }});
               send('/api/pipeline/' + action, {{ method: 'POST', mode, credentials }});
             }}
           }}
           send('/api/logout', {{ method: 'POST', mode, credentials }});
           send('/api/pipeline/stop', {{ method: 'POST', mode, credentials, headers: {{ Authorization: 'Bearer x' }} }});
         }}
         for (const action of ['stop', 'pause']) navigator.sendBeacon('{target}/api/pipeline/' + action, '{{}}');
         const image = new Image(); image.src = '{target}/api/pipeline/stop'; document.body.append(image);
         // What may be loaded from anywhere, unless the server says that it may not.
         const load = (tag, name, path) => {{ sent += 1; const it = document.createElement(tag);
           it.onload = () => {{ seen.push(tag + ' ' + path); settled += 1; }}; it.onerror = () => {{ settled += 1; }};
           if (tag === 'link') it.rel = 'stylesheet'; it[name] = '{target}' + path; document.body.append(it); }};
         load('img', 'src', '/static/icon-idle.svg'); load('img', 'src', '/api/pipeline'); load('script', 'src', '/static/app.js');
         load('script', 'src', '/api/pipeline'); load('script', 'src', '/api/logs'); load('link', 'href', '/static/style.css');
         // And what no rule for reading holds back.
         const socket = new WebSocket('{target}/api/pipeline'.replace('http', 'ws')); sent += 1;
         socket.onopen = () => {{ seen.push('a socket'); settled += 1; }}; socket.onerror = () => {{ settled += 1; }};
         for (const withCredentials of [false, true]) {{
           const events = new EventSource('{target}/api/logs', {{ withCredentials }}); sent += 1;
           events.onopen = () => {{ seen.push('events'); settled += 1; }}; events.onerror = () => {{ events.close(); settled += 1; }};
         }}"
    ));
    wait_until("every request is settled", PATIENCE, || browser.script("return settled === sent && sent > 140") == true);
    assert_eq!(browser.script("return seen"), json!([]), "nothing could be read");

    // Forms, which need no permission to be sent, into a frame, which may not be shown.
    browser.script(&format!(
        "for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data']) {{
           const frame = document.createElement('iframe'); frame.name = 'f' + type; document.body.append(frame);
           const form = document.createElement('form');
           Object.assign(form, {{ method: 'POST', action: '{target}/api/pipeline/stop', enctype: type, target: frame.name }});
           const field = document.createElement('input'); field.name = '{{\"grace_s\":0,\"x\":\"'; field.value = '\"}}';
           form.append(field); document.body.append(form); form.submit();
         }}
         const frame = document.createElement('iframe'); frame.id = 'framed'; window.framed = 0;
         frame.onload = () => {{ framed += 1; }}; frame.src = '{target}/'; document.body.append(frame);"
    ));
    wait_until("the frame is loaded or refused", PATIENCE, || browser.script("return framed > 0") == true);
    wait_until("the browser says that the frame is refused", PATIENCE, || {
        browser
            .console()
            .iter()
            .any(|line| line.contains("frame") && (line.contains("X-Frame-Options") || line.contains("frame-ancestors")))
    });
    assert_eq!(place.footprint(), before, "nothing has changed");
    // And a form that takes the whole window along: the server's refusal is what is shown.
    browser.script(&format!(
        "const form = document.createElement('form'); form.method = 'POST'; form.action = '{target}/api/pipeline/stop'; document.body.append(form); form.submit();"
    ));
    let body = "return document.body?.innerText ?? ''";
    wait_until("the refusal is shown", PATIENCE, || {
        browser.script(body).as_str().is_some_and(|text| text.contains("origin_not_allowed"))
    });
    assert_eq!(place.footprint(), before, "nothing has changed");
    assert_eq!(place.pipeline()["state"], Value::from("running"));
}
