//! Another server on another port of the same host, in a real browser: it receives the owner's cookie and can set its own.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::Place;
use crate::support::http::{acts, reads};
use crate::webdriver::{Browser, ENTER, PATIENCE, wait_until};
use serde_json::{Value, json};

const TOKEN: &str = "test-token-of-an-owner-7Q";

/// A server that answers every request with an empty page and these `Set-Cookie` fields, and records request heads.
struct Neighbour {
    url: String,
    heads: Arc<Mutex<Vec<String>>>,
    set_cookies: Arc<Mutex<Vec<String>>>,
}

impl Neighbour {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://127.0.0.1:{}/", listener.local_addr().expect("bound").port());
        let (heads, set_cookies) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (kept, set) = (heads.clone(), set_cookies.clone());
        // Ends with the test process.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut reader = BufReader::new(&stream);
                let mut head = String::new();
                while reader.read_line(&mut head).is_ok_and(|count| count > 2) {}
                kept.lock().expect("never poisoned").push(head);
                let set = set.lock().expect("never poisoned").clone();
                let fields: Vec<String> = set.iter().map(|cookie| format!("Set-Cookie: {cookie}\r\n")).collect();
                let fields = fields.concat();
                let body = "<!doctype html><title>neighbour</title><body>";
                let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n", body.len());
                let _left_already = (&stream).write_all(format!("{head}{fields}Connection: close\r\n\r\n{body}").as_bytes());
            }
        });
        Self { url, heads, set_cookies }
    }

    /// Sets these cookies in several answers, because a browser accepts 256 KB of header fields at once.
    fn toss(&self, browser: &Browser, cookies: &[String]) {
        for cookies in cookies.chunks(40) {
            *self.set_cookies.lock().expect("never poisoned") = cookies.to_vec();
            browser.open(&self.url);
        }
    }

    /// Returns the cookies that the browser sends to it.
    fn receives(&self) -> Option<String> {
        let heads = self.heads.lock().expect("never poisoned");
        heads.iter().flat_map(|head| head.lines()).find_map(|line| Some(line.strip_prefix("Cookie: ")?.to_owned()))
    }
}

fn set_up() -> Option<(Browser, Place, Neighbour)> {
    let browser = Browser::fresh()?;
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.use_token(TOKEN);
    place.start_server();
    Some((browser, place, Neighbour::start()))
}

fn address(place: &Place) -> String {
    format!("http://127.0.0.1:{}/", place.port())
}

fn wait_for_state(browser: &Browser, state: &str) {
    wait_until(&format!("the page shows {state}"), PATIENCE, || browser.state() == state && !browser.shows("login"));
}

#[test]
fn server_on_another_port_cannot_use_the_session_cookie() {
    let Some((browser, place, neighbour)) = set_up() else { return };
    browser.open(&place.login_link());
    wait_for_state(&browser, "stopped");
    browser.open(&neighbour.url);
    let stolen = neighbour.receives().expect("a browser sends a host's cookies to each of its ports");
    assert!(stolen.starts_with("autoappdev-"), "{stolen}");
    // The neighbour's page cannot read the proof.
    assert_eq!(browser.script("return [JSON.stringify({ ...localStorage }), document.cookie]"), json!(["{}", ""]));
    let before = place.footprint();
    let ask = |method: &str, path: &str, more: &str| {
        let mut wire = place.wire();
        let framing = if method == "POST" { "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}" } else { "\r\n" };
        wire.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nCookie: {stolen}\r\n{more}{framing}"));
        wire.answer()
    };
    let half = stolen.split_once('.').expect("two parts").1;
    for more in [
        "",
        "X-AutoAppDev-Proof: \r\n",
        &format!("X-AutoAppDev-Proof: {half}\r\n"),
        &format!("X-AutoAppDev-Proof: {}\r\n", "0".repeat(64)),
    ] {
        for path in &acts() {
            let answer = ask("POST", path, more);
            assert_eq!((answer.status, answer.error()), (401, "unauthorized"), "{path}");
        }
        for path in reads().iter().filter(|path| path.starts_with("/api/") && *path != "/api/health") {
            let answer = ask("GET", path, more);
            assert_eq!((answer.status, answer.header("Set-Cookie")), (401, None), "{path}");
        }
        assert_eq!(ask("GET", "/api/health", more).body, json!({"ok": true, "service": "autoappdev-backend"}));
        assert_eq!(ask("POST", "/api/logout", more).status, 200);
    }
    assert_eq!(place.footprint(), before);
    // The owner is still logged in.
    browser.open(&address(&place));
    wait_for_state(&browser, "stopped");
}

#[test]
fn cookies_set_from_another_port_do_not_lock_the_owner_out() {
    let Some((browser, place, neighbour)) = set_up() else { return };
    browser.open(&place.login_link());
    wait_for_state(&browser, "stopped");
    browser.open(&neighbour.url);
    let stolen = neighbour.receives().expect("the cookie");
    let (name, value) = stolen.split_once('=').expect("a pair");
    // The browser sends cookies with longer paths first, and 400 KB are more than any request head may have.
    let same_name = ["/api", "/api/", "/api/pipeline", "/api/session", "/api/events", "/static"];
    let mut tossed: Vec<String> = same_name.iter().map(|path| format!("{name}={}; Path={path}", "0".repeat(4000))).collect();
    tossed.extend(same_name.iter().map(|path| format!("{name}={value}0; Path={path}/")));
    tossed.extend((0..100).map(|number| format!("big-{number}={}; Path=/", "x".repeat(4000))));
    neighbour.toss(&browser, &tossed);
    assert!(browser.cookies().as_array().map_or(0, Vec::len) > 90, "the browser keeps them");
    browser.open(&address(&place));
    wait_for_state(&browser, "stopped");
    browser.click("start");
    wait_for_state(&browser, "running");
    // Two hundred more cookies make the browser drop the owner's, and one has its name: the session is lost, but the owner can
    // log in again.
    let mut tossed: Vec<String> = (0..200).map(|number| format!("more-{number}={}; Path=/", "x".repeat(3500))).collect();
    tossed.push(format!("{name}=abcd-efgh.tossed; Path=/"));
    neighbour.toss(&browser, &tossed);
    browser.open(&address(&place));
    wait_until("the form is shown", PATIENCE, || browser.shows("login"));
    browser.type_into("token", TOKEN);
    browser.press(ENTER);
    wait_for_state(&browser, "running");
    browser.open("about:blank");
    browser.open(&address(&place));
    wait_for_state(&browser, "running");
}

/// A browser keeps about 180 cookies for all ports of a host.
#[test]
fn many_foreign_cookies_do_not_evict_the_session_cookie() {
    let Some((browser, place, neighbour)) = set_up() else { return };
    browser.open(&place.login_link());
    wait_for_state(&browser, "stopped");
    browser.open("about:blank");
    let cookies: Vec<String> = (0..400).map(|number| format!("c{number}=1; Path=/")).collect();
    neighbour.toss(&browser, &cookies);
    let kept = browser.cookies();
    assert!(!kept.to_string().contains("\"c0\"") && kept.to_string().contains("\"c399\""), "the browser evicts cookies: {kept}");
    browser.open(&address(&place));
    wait_for_state(&browser, "stopped");
    assert!(!browser.shows("login"));
}

#[test]
fn used_link_from_history_keeps_the_owner_and_admits_no_other() {
    let Some((browser, place, _)) = set_up() else { return };
    let link = place.login_link();
    browser.open(&link);
    wait_for_state(&browser, "stopped");
    assert_eq!(browser.script("return location.href"), address(&place));
    // The owner opens the link again from the history, more often than there are free tries.
    for _ in 0..8 {
        browser.open("about:blank");
        browser.open(&link);
        wait_until("the page says that the link was not needed", PATIENCE, || {
            browser.text("error").contains("full control already")
        });
        wait_for_state(&browser, "stopped");
    }
    // Anyone who finds the link there later is not logged in, and the page says why.
    browser.script("localStorage.clear()");
    browser.forget_cookies();
    browser.open("about:blank");
    browser.open(&link);
    wait_until("the form says why", PATIENCE, || {
        browser.shows("login") && browser.text("login-error").contains("used, has expired")
    });
    assert_eq!(browser.script("return [location.href, localStorage.length]"), json!([address(&place), 0]));
    assert_eq!(browser.cookies(), Value::Array(vec![]));
    browser.type_into("token", TOKEN);
    browser.press(ENTER);
    wait_for_state(&browser, "stopped");
}

#[test]
fn page_of_an_ended_session_shows_the_login_form() {
    let Some((browser, place, _)) = set_up() else { return };
    place.start();
    browser.open(&place.login_link());
    wait_for_state(&browser, "running");
    wait_until("its log is there", PATIENCE, || {
        browser.script("return document.getElementById('log').dataset.read === ''") == true
    });
    let (code, _, said) = place.client(&["sessions", "end", "--all"]);
    assert_eq!(code, 0, "{said}");
    wait_until("the form is shown", PATIENCE, || browser.shows("login"));
    wait_until("no button works", PATIENCE, || {
        browser.script("return [...document.querySelectorAll('#controls button')].every((it) => it.disabled || it.hidden)")
            == true
    });
    assert_eq!(place.state(), "running");
}

#[test]
fn windows_of_one_browser_show_the_active_login() {
    let Some((browser, place, _)) = set_up() else { return };
    let viewer = place.post("/api/pair", json!({"may": "look"})).ok()["code"].as_str().expect("a code").to_owned();
    browser.open(&format!("{}#code={viewer}", address(&place)));
    wait_for_state(&browser, "stopped");
    wait_until("it may only look", PATIENCE, || browser.text("may").contains("Read-only access") && browser.shows("look"));
    let first = browser.window();
    browser.open_window();
    browser.open(&place.login_link());
    wait_until("it may act", PATIENCE, || browser.text("may").contains("full control") && !browser.shows("look"));
    browser.go_to_window(&first);
    wait_until("and so may the other window", PATIENCE, || {
        browser.text("may").contains("full control") && !browser.shows("look")
    });
    assert_eq!(place.get("/api/sessions").ok()["sessions"].as_array().map(Vec::len), Some(1), "the second replaced the first");
    browser.click_in_menu("log-out");
    wait_until("it is logged out", PATIENCE, || browser.text("state") == "…" && browser.shows("login"));
    browser.open_window();
    browser.open(&address(&place));
    wait_until("in each window", PATIENCE, || browser.shows("login"));
}
