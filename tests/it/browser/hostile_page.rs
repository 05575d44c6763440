//! A hostile page in a real browser: it changes nothing, reads nothing, and blocks no other client.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::thread;

use crate::support::Place;
use crate::webdriver::{Browser, PATIENCE, wait_until};
use serde_json::{Value, json};

const TOKEN: &str = "test-token-of-a-page-7Qx";

/// Starts a site that answers every request with the same page, except that `/to?URL` redirects to that URL. Returns its origin.
pub(super) fn hostile_site() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let origin = format!("http://127.0.0.1:{}", listener.local_addr().expect("bound").port());
    // Ends with the test process.
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(&stream);
            let (mut first, mut line) = (String::new(), String::new());
            let _left_already = reader.read_line(&mut first);
            while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
                line.clear();
            }
            let to = first.strip_prefix("GET /to?").and_then(|rest| rest.split(' ').next());
            let status = to.map_or_else(|| "200 OK".to_owned(), |to| format!("302 Found\r\nLocation: {to}"));
            let body = "<!doctype html><title>evil</title><body>";
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _left_already = (&stream).write_all((head + body).as_bytes());
        }
    });
    origin
}

/// No token is needed here, so the server can reject the page only by what the browser reports about it.
#[test]
fn hostile_page_changes_and_reads_nothing_without_a_token() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::serving("sleep.sh");
    place.start();
    be_hostile(&browser, &place, "127.0.0.1");
}

/// The worst case: the browser is logged in, and the hostile page is on the same host, so the browser sends the cookie with every
/// request that it can be made to send (cookies ignore ports: RFC 6265, section 8.5).
#[test]
fn hostile_page_changes_and_reads_nothing_in_logged_in_browser() {
    let Some(browser) = Browser::fresh() else { return };
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.use_token(TOKEN);
    place.start_server();
    place.start();
    let target = format!("http://127.0.0.1:{}", place.port());
    browser.open(&place.login_link());
    wait_until("the page is logged in", PATIENCE, || browser.state() == "running");
    be_hostile(&browser, &place, "127.0.0.1");
    assert_eq!(browser.cookies().as_array().map(Vec::len), Some(1), "it was logged in all the time");
    browser.open(&target);
    wait_until("the page is logged in still", PATIENCE, || browser.state() == "running");
}

/// A cross-site page that cannot read responses could still occupy slots: each of these requests would wait for a minute or
/// stream forever.
#[test]
fn cross_site_page_cannot_occupy_a_stream_download_or_long_poll_slot() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::serving("sleep.sh");
    let (_, run_id) = place.start();
    let version = place.pipeline()["version"].as_u64().expect("a number");
    let end = place.get("/api/logs/tail?limit=1").ok()["next"].as_u64().expect("a position");
    // Another port of the same host, which is the same site, and another name of the host, which is not.
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
                 const image = new Image(); image.onload = done; image.onerror = done; image.src = '{target}' + path + '#' + n;
               }}
             }}"
        ));
        wait_until("no request waits", PATIENCE, || browser.script("return settled === sent && sent === 200") == true);
        // A link from another site opens the page, but not the API.
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

/// Without a valid one-time code, a link shows nothing: neither with a wrong code, nor with the token.
#[test]
fn link_without_valid_code_shows_only_the_login_form() {
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
        &format!("{target}/#code="),
        &format!("{target}/#code=not-the-right-code"),
        &format!("{target}/#token={TOKEN}"),
        &format!("{target}/?token={TOKEN}"),
    ] {
        browser.open("about:blank");
        browser.open(link);
        wait_until("the form is shown", PATIENCE, || {
            browser.script("return !!document.getElementById('login')") == true && browser.shows("login")
        });
        assert_eq!(browser.text("state"), "…", "{link}");
        assert!(!browser.shows("pill") && !browser.shows("log"), "{link}");
        assert_eq!((browser.text("log").as_str(), browser.text("run-name").as_str()), ("", ""), "{link}");
        for action in ["start", "pause", "resume", "stop"] {
            assert_eq!(browser.script(&format!("return document.getElementById('{action}').disabled")), true, "{link}");
        }
        assert_eq!(browser.cookies(), json!([]), "{link}");
    }
    assert_eq!(place.footprint(), before);
}

/// Text printed by a pipeline stays text in the page, and a response shown as a document has no scripts and an opaque origin.
#[test]
fn csp_blocks_markup_from_text_and_responses_have_opaque_origin() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::serving("sleep.sh");
    place.start();
    let target = format!("http://127.0.0.1:{}", place.port());
    browser.open(&target);
    wait_until("the page works", PATIENCE, || browser.state() == "running");
    let tried = browser.script(
        "const tries = {
           innerHTML: () => { document.getElementById('script').innerHTML = '<img src=x onerror=alert(1)>'; },
           insertAdjacentHTML: () => document.body.insertAdjacentHTML('beforeend', '<b>x</b>'),
           srcdoc: () => { document.createElement('iframe').srcdoc = '<b>x</b>'; },
           script: () => { document.createElement('script').textContent = 'alert(1)'; },
           src: () => { document.createElement('script').src = 'static/app.js'; },
           write: () => document.write('x'),
           parse: () => new DOMParser().parseFromString('<b>x</b>', 'text/html'),
           timer: () => setTimeout('alert(1)'),
           policy: () => trustedTypes.createPolicy('default', { createHTML: (text) => text }),
         };
         return Object.entries(tries).filter(([, attempt]) => { try { attempt(); return true; } catch { return false; } }).map(([name]) => name)",
    );
    assert_eq!(tried, json!([]), "these were let through");
    assert_eq!(browser.state(), "running");
    for path in ["/api/runs/1/log", "/api/pipeline", "/api/nothing", "/nothing"] {
        browser.open(&format!("{target}{path}"));
        let origin = browser.script("return [self.origin, document.body.innerText.length > 0]");
        assert_eq!(origin, json!(["null", true]), "{path}");
    }
}

/// Sends everything that a page of another origin can make a browser send.
pub(super) fn be_hostile(browser: &Browser, place: &Place, host: &str) {
    let before = place.footprint();
    let site = hostile_site().replace("127.0.0.1", host);
    let target = format!("http://{host}:{}", place.port());
    browser.open(&site);
    // The requests that a script of that page can send, and what it can see of the responses. Each promise is counted when it is
    // settled.
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
         // Resources that a page of any origin may load unless the server forbids it.
         const load = (tag, name, path) => {{ sent += 1; const it = document.createElement(tag);
           it.onload = () => {{ seen.push(tag + ' ' + path); settled += 1; }}; it.onerror = () => {{ settled += 1; }};
           if (tag === 'link') it.rel = 'stylesheet'; it[name] = '{target}' + path; document.body.append(it); }};
         load('img', 'src', '/static/icon-idle.svg'); load('img', 'src', '/api/pipeline'); load('script', 'src', '/static/app.js');
         load('script', 'src', '/api/pipeline'); load('script', 'src', '/api/logs'); load('link', 'href', '/static/style.css');
         // And connections that the browser's rules for reading do not cover.
         const socket = new WebSocket('{target}/api/pipeline'.replace('http', 'ws')); sent += 1;
         socket.onopen = () => {{ seen.push('a socket'); settled += 1; }}; socket.onerror = () => {{ settled += 1; }};
         for (const withCredentials of [false, true]) {{
           const events = new EventSource('{target}/api/logs', {{ withCredentials }}); sent += 1;
           events.onopen = () => {{ seen.push('events'); settled += 1; }}; events.onerror = () => {{ events.close(); settled += 1; }};
         }}"
    ));
    wait_until("every request is settled", PATIENCE, || browser.script("return settled === sent && sent > 140") == true);
    assert_eq!(browser.script("return seen"), json!([]), "nothing could be read");

    // Forms, which need no permission to be sent, into a frame, which the browser refuses to show.
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
    // And a form that navigates the whole window: it shows the server's refusal.
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
