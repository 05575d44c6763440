//! In a real browser, pages of other origins try to read: from another host name, from another port of the same host with the
//! owner's cookie, and from a page whose browser does not send the origin of a request.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

use super::hostile_page::{be_hostile, hostile_site};
use crate::http::reading::assert_slots_are_free;
use crate::support::Place;
use crate::webdriver::{Browser, PATIENCE, wait_until};

const TOKEN: &str = "test-token-of-a-board-7Qx";

/// A host name for this server, such as a router gives to a board: browsers send no Fetch Metadata to a non-loopback address
/// without TLS.
const BOARD: &str = "board.test";

/// Prints a line on each stream, and then enough output that no download of it ends unless it is read.
const LONG: &str = "#!/bin/bash\necho 'the secret is x'\necho 'a warning' >&2\nhead -c 12000000 /dev/zero | tr '\\0' y | fold -w 1000\necho\necho ready\nexec sleep 600\n";

fn place_with(token: Option<&str>) -> (Place, u64) {
    let mut place = Place::new();
    place.script("long.sh", LONG);
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "long.sh");
    place.set_env("AUTOAPPDEV_HOST", "127.0.0.1,127.0.0.2,127.0.0.3");
    place.set_env("AUTOAPPDEV_ALLOW_HOST", BOARD);
    if let Some(token) = token {
        place.use_token(token);
    }
    place.start_server();
    place.start();
    wait_until("all is said", PATIENCE, || place.get("/api/logs/tail?limit=1").ok()["lines"][0]["line"] == "ready");
    let end = place.get("/api/logs/tail?limit=1").ok()["next"].as_u64().expect("a position");
    (place, end)
}

/// Makes a page send requests to each of `hosts`, all of another origin, in every possible way, for answers that would occupy a
/// slot for a minute or without end. Waits until each request is refused. There are sixty times more requests than a browser
/// sends at once, so this would take an hour if one in six waited for its answer.
fn read_in_every_way(browser: &Browser, place: &Place, hosts: &[&str], end: u64) {
    let version = place.pipeline()["version"].as_u64().expect("a number");
    let targets: Vec<String> = hosts.iter().map(|host| format!("http://{host}:{}", place.port())).collect();
    browser.script(&format!(
        "window.settled = 0; window.sent = 0; window.seen = [];
         const done = () => {{ settled += 1; }};
         const load = (tag, set, policy) => {{ sent += 1; const it = document.createElement(tag); it.onload = done; it.onerror = done;
           if (policy) it.referrerPolicy = policy; set(it); document.body.append(it); }};
         const paths = ['/api/pipeline?after={version}&wait=60', '/api/logs?since={end}&grep=s&wait=60', '/api/logs?since={end}&wait=60',
                        '/api/events', '/api/runs/1/log', '/api/runs/1/log?download=1', '/api/logs/tail?grep=the%20secret'];
         for (const target of {targets}) for (const path of paths) for (const policy of ['no-referrer', 'unsafe-url']) {{
           const url = () => target + path + '#' + sent;
           for (const init of [{{ mode: 'no-cors', credentials: 'include' }}, {{ credentials: 'include' }}, {{ mode: 'no-cors', method: 'HEAD' }}]) {{
             sent += 1;
             fetch(url(), {{ ...init, referrerPolicy: policy }}).then(async (it) => {{ const text = await it.text(); if (text) seen.push(text); }}).then(done, done);
           }}
           load('img', (it) => {{ it.src = url(); }}, policy);
           load('script', (it) => {{ it.src = url(); }}, policy);
           load('link', (it) => {{ it.rel = 'stylesheet'; it.href = url(); }}, policy);
           load('iframe', (it) => {{ it.src = url(); }}, policy);
           load('object', (it) => {{ it.data = url(); }});
           load('video', (it) => {{ it.onloadeddata = done; it.src = url(); }});
           load('iframe', (it) => {{ it.name = 'of' + sent; }});
           sent += 1;
           const events = new EventSource(url(), {{ withCredentials: true }});
           events.onopen = () => {{ seen.push('events'); done(); }}; events.onerror = () => {{ events.close(); done(); }};
         }}",
        targets = json!(targets),
    ));
    wait_until("every request is refused at once", PATIENCE, || browser.script("return settled >= sent") == true);
    assert_eq!(browser.script("return [seen, sent >= 100]"), json!([[], true]), "nothing was read");
    // Forms and links that load into a frame: either the refusal loads or a download begins.
    browser.script(&format!(
        "window.settled = 0; window.sent = 0;
         for (const target of {targets}) for (const path of ['/api/events', '/api/runs/1/log', '/api/runs/1/log?download=1']) {{
           for (const rel of ['noreferrer', '']) {{
             const frame = document.createElement('iframe'); frame.name = 'into' + sent; sent += 1;
             document.body.append(frame); frame.onload = () => {{ settled += 1; }};
             const link = Object.assign(document.createElement('a'), {{ href: target + path, target: frame.name, rel, download: rel }});
             document.body.append(link); link.click();
             const form = Object.assign(document.createElement('form'), {{ action: target + path, target: frame.name }});
             document.body.append(form); form.submit();
           }}
         }}",
        targets = json!(targets),
    ));
    wait_until("every frame is loaded", PATIENCE, || browser.script("return settled >= sent && sent > 0") == true);
}

/// Requests come from the same host by another name and from another port, with more downloads than there are slots: a browser
/// keeps six connections to each name.
#[test]
fn cross_origin_pages_read_nothing_and_occupy_no_slot() {
    let Some(browser) = Browser::fresh() else { return };
    let (place, end) = place_with(None);
    let hosts = ["127.0.0.1", "localhost", "127.0.0.2", "127.0.0.3"];
    browser.open(&hostile_site());
    read_in_every_way(&browser, &place, &hosts, end);
    // The page reads none of these answers, so each would occupy its slot for as long as the page is open.
    browser.script(&format!(
        "window.settled = 0; window.sent = 0;
         for (const host of {hosts}) for (let n = 0; n < 6; n += 1) {{ sent += 1;
           fetch(`http://${{host}}:{port}/api/runs/1/log?stream=stdout`, {{ mode: 'no-cors' }}).then(() => {{ settled += 1; }}, () => {{ settled += 1; }}); }}",
        hosts = json!(hosts),
        port = place.port(),
    ));
    wait_until("all are answered", PATIENCE, || browser.script("return settled === sent && sent === 24") == true);
    assert_slots_are_free(&place);
}

/// Starts a server on the same host that records the requests it receives. Returns its port and these requests.
fn witness() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let kept = heads.clone();
    // Ends with the test process.
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            kept.lock().expect("whole").push(lines.collect::<Vec<_>>().join("\n"));
            let _left_already = (&stream).write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        }
    });
    (port, heads)
}

/// The owner is logged in at an address without TLS, and the hostile page is on another port of that host: the browser sends the
/// cookie but not the origin of a GET.
#[test]
fn page_on_another_port_reads_nothing_without_fetch_metadata() {
    let Some(browser) = Browser::fresh_with(&["--host-resolver-rules=MAP board.test 127.0.0.1"]) else { return };
    let (place, end) = place_with(Some(TOKEN));
    let target = format!("http://{BOARD}:{}", place.port());
    browser.open(&place.login_link().replace("127.0.0.1", BOARD));
    wait_until("the page works there", PATIENCE, || browser.state() == "running");
    browser.click("pause");
    wait_until("and acts", PATIENCE, || browser.state() == "paused");
    place.act("resume").ok();

    let (port, heads) = witness();
    browser.open(&hostile_site().replace("127.0.0.1", BOARD));
    browser.script(&format!(
        "return fetch('http://{BOARD}:{port}/', {{ mode: 'no-cors', credentials: 'include' }}).then(() => null)"
    ));
    let head = heads.lock().expect("whole").first().cloned().expect("it was asked");
    assert!(
        head.contains("\nCookie: ") && !head.contains("Sec-Fetch") && !head.contains("\nOrigin"),
        "the attack is about another browser: {head}"
    );

    read_in_every_way(&browser, &place, &[BOARD], end);
    assert_eq!(browser.cookies().as_array().map(Vec::len), Some(1), "it was logged in all the time");
    be_hostile(&browser, &place, BOARD);

    // The owner can follow a link to a log from the page. A typed address cannot be told apart from a frame's, so it opens only
    // the page itself.
    let text = || browser.script("return document.body?.innerText ?? ''").as_str().unwrap_or_default().to_owned();
    browser.open(&target);
    wait_until("the page is logged in still", PATIENCE, || browser.state() == "running");
    let log = browser.script(
        "const { download_proof } = JSON.parse(localStorage.getItem('autoappdev-proof'));
         return new URL(`api/runs/1/log?stream=stderr&proof=${download_proof}`, location).href",
    );
    browser.script(&format!(
        "document.body.append(Object.assign(document.createElement('a'), {{ href: {log}, id: 'a-link' }})); document.getElementById('a-link').click()"
    ));
    wait_until("a link of the page is followed", PATIENCE, || text().contains("a warning"));
    browser.open("about:blank");
    browser.open(log.as_str().expect("an address"));
    assert!(text().contains("origin_not_allowed"), "{}", text());
}

/// The heads of requests, each with the status of its response.
type Noted = Arc<Mutex<Vec<(String, String)>>>;

/// Starts a relay in front of the server at `port` that records the head of each request and the status of its response. Returns
/// its port and these records.
fn noting_relay(port: u16) -> (u16, Noted) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let own_port = listener.local_addr().expect("bound").port();
    let noted = Noted::default();
    let kept = noted.clone();
    // Ends with the test process.
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let kept = kept.clone();
            thread::spawn(move || {
                let lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
                let lines: Vec<String> = lines.filter(|line| !line.starts_with("Connection:")).collect();
                let head = lines.join("\r\n");
                let mut server = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
                server.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).expect("sent");
                let mut answer = Vec::new();
                let _cut_short = server.read_to_end(&mut answer);
                let status = String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap_or_default().to_owned();
                kept.lock().expect("whole").push((head, status));
                let _left_already = (&stream).write_all(&answer);
            });
        }
    });
    (own_port, noted)
}

/// A browser prefetches and prerenders for any page, and marks these requests as the user's own: `Sec-Fetch-Site: none`, no
/// Origin, and no referrer if the page wants none. If the server answered them, such a page could read the log from the time that
/// its own navigation to the same address takes.
#[test]
fn cross_origin_prefetch_and_prerender_are_refused() {
    let Some(browser) = Browser::start() else { return };
    let (place, _) = place_with(None);
    let (port, noted) = noting_relay(place.port());
    let mut urls = Vec::new();
    for host in ["127.0.0.1", "localhost"] {
        let site = hostile_site().replace("127.0.0.1", host);
        browser.open(&site);
        for kind in ["prefetch", "prerender"] {
            for policy in ["no-referrer", "strict-origin-when-cross-origin", "redirected"] {
                // With a match, and without one: such a request would wait for a minute.
                for text in ["the%20secret", "no%20such%20text"] {
                    let path = format!("/api/logs?grep={text}&wait=60&limit={}", 1 + urls.len());
                    let mut url = format!("http://127.0.0.1:{port}{path}");
                    let mut rule = json!({ "source": "list", "eagerness": "immediate" });
                    if policy == "redirected" {
                        // The browser does not follow redirects of a prefetch from one site to another.
                        if host != "127.0.0.1" {
                            continue;
                        }
                        url = format!("{site}/to?{url}");
                    } else {
                        rule["referrer_policy"] = policy.into();
                    }
                    rule["urls"] = json!([url]);
                    browser.script(&format!(
                        "const it = document.createElement('script'); it.type = 'speculationrules';
                         it.textContent = JSON.stringify({{ '{kind}': [{rule}] }}); document.head.append(it);"
                    ));
                    urls.push(path);
                    let is_answered = |(head, _): &(String, String)| head.starts_with(&format!("GET {} ", urls[urls.len() - 1]));
                    wait_until(&format!("{kind} of {policy} from {host} is answered"), PATIENCE, || {
                        noted.lock().expect("whole").iter().any(is_answered)
                    });
                }
            }
        }
    }
    for (head, status) in noted.lock().expect("whole").iter() {
        assert!(
            head.contains("\r\nSec-Purpose: prefetch") && head.contains("\r\nSec-Fetch-Site: none"),
            "another attack: {head}"
        );
        assert_eq!(status, "403", "{head}");
    }
    assert_eq!(urls.len(), 20);
    // Navigation by the user works: to the page with its files, and to an address of the API.
    browser.open(&format!("http://127.0.0.1:{port}/"));
    wait_until("the page works", PATIENCE, || browser.state() == "running");
    browser.open(&format!("http://127.0.0.1:{port}/api/runs/1/log?stream=stderr"));
    assert!(browser.script("return document.body.innerText").as_str().is_some_and(|text| text.contains("a warning")));
    let files = noted
        .lock()
        .expect("whole")
        .iter()
        .filter(|(head, _)| head.starts_with("GET /static/"))
        .map(|it| it.1.clone())
        .collect::<Vec<_>>();
    assert!(files.len() >= 3 && files.iter().all(|status| status == "200"), "{files:?}");
}
