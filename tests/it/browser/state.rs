//! The source of the page's state, in a real browser with the real binary: the event stream, and of two states the later one.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::support::Place;
use crate::webdriver::{Browser, PATIENCE, wait_until};
use serde_json::{Value, json};

/// Runs before the page's own scripts: records its requests as `[method, path, server]`, and lets `say` insert text into its
/// event stream.
const BETWEEN: &str = "
  window.asked = [];
  const real = window.fetch;
  window.fetch = async (path, init) => {
    window.asked.push([init?.method ?? 'GET', path, init?.headers?.['AutoAppDev-Server'] ?? null]);
    const answer = await real(path, init);
    if (!path.startsWith('api/events') || !answer.ok) return answer;
    const through = new TransformStream({
      start(to) { window.say = (text) => { try { to.enqueue(new TextEncoder().encode(text)); } catch { /* The page has left this stream. */ } }; },
      transform(bytes, to) {
        if (new TextDecoder().decode(bytes).includes('event: state')) window.hasState = true;
        to.enqueue(bytes);
      },
    });
    return new Response(answer.body.pipeThrough(through), { status: answer.status, headers: answer.headers });
  };";

/// Starts a server, and a browser that shows its page, and waits for the page's stream. Returns `None` if there is no browser.
fn set_up() -> Option<(Browser, Place)> {
    let browser = Browser::start()?;
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.start_server();
    browser.before_each_page(BETWEEN);
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
    wait_for_stream(&browser);
    Some((browser, place))
}

/// Waits for the stream. If it begins too slowly, the page polls for a minute first.
fn wait_for_stream(browser: &Browser) {
    wait_until("the stream has brought the state", 3 * PATIENCE, || browser.script("return window.hasState ?? false") == true);
}

fn wait_for_state(browser: &Browser, state: &str) {
    wait_until(&format!("the page shows {state}"), PATIENCE, || browser.state() == state);
}

fn is_state(path: &str) -> bool {
    path == "api/pipeline" || path.starts_with("api/pipeline?")
}

fn asked(browser: &Browser) -> Vec<(String, String, Option<String>)> {
    serde_json::from_value(browser.script("return window.asked")).expect("requests")
}

/// Inserts a state into the page's stream: the server's state with `changes`, followed by a log line with the text `mark`.
fn say(browser: &Browser, place: &Place, changes: &Value, mark: &str) {
    // The page shows no line twice, so each has its own id.
    static LAST: AtomicU64 = AtomicU64::new(1_000_000);
    let mut state = place.pipeline();
    for (key, value) in changes.as_object().expect("an object") {
        state[key] = value.clone();
    }
    let line = json!({"id": LAST.fetch_add(1, Relaxed), "ts": null, "source": "pipeline", "stream": "stdout", "run_id": 1, "line": mark, "partial": false});
    let events = format!("event: state\ndata: {state}\n\nevent: log\ndata: {line}\n\n");
    // The first events may go to a stream that the page is about to replace by that of the run.
    wait_until("the page has read that", PATIENCE, || {
        browser.script(&format!("window.say({})", json!(events)));
        browser.text("log").contains(mark)
    });
}

#[test]
fn page_gets_state_from_its_stream_without_requests() {
    let Some((browser, place)) = set_up() else { return };
    wait_for_state(&browser, "stopped");
    browser.script("window.asked.length = 0");
    for (action, state) in [("start", "running"), ("pause", "paused"), ("resume", "running"), ("stop", "stopped")] {
        let is_enabled = || browser.script(&format!("return !document.getElementById('{action}').disabled")) == true;
        wait_until("the button works", PATIENCE, is_enabled);
        if action == "stop" {
            browser.click_and_confirm(action);
        } else {
            browser.click(action);
        }
        wait_for_state(&browser, state);
    }
    // Changes by other clients arrive the same way.
    place.start();
    wait_for_state(&browser, "running");
    let asked = asked(&browser);
    let state_requests: Vec<_> = asked.iter().filter(|(method, path, _)| method == "GET" && is_state(path)).collect();
    assert!(state_requests.is_empty(), "{state_requests:?}");
    let streams = asked.iter().filter(|(_, path, _)| path.starts_with("api/events")).count();
    assert!(streams <= 2, "there is one stream for each run: {asked:?}");
    let posts: Vec<_> = asked.iter().filter(|(method, ..)| method == "POST").map(|(_, path, _)| path.as_str()).collect();
    assert_eq!(posts, ["api/pipeline/start", "api/pipeline/pause", "api/pipeline/resume", "api/pipeline/stop"]);
}

#[test]
fn stream_request_names_its_server() {
    let Some((browser, place)) = set_up() else { return };
    let id = place.get("/api/version").ok()["server"]["id"].clone();
    let streams: Vec<_> = asked(&browser).into_iter().filter(|(_, path, _)| path.starts_with("api/events")).collect();
    assert!(!streams.is_empty() && streams.iter().all(|(.., server)| json!(server) == id), "{streams:?}, not {id}");
}

#[test]
fn page_drops_an_older_state_of_the_same_server() {
    let Some((browser, mut place)) = set_up() else { return };
    let (_, run_id) = place.start();
    wait_for_state(&browser, "running");
    let version = place.pipeline()["version"].as_u64().expect("a number");

    // From the stream.
    say(&browser, &place, &json!({"state": "paused", "version": version - 1}), "older");
    assert_eq!(browser.state(), "running");
    say(&browser, &place, &json!({"state": "paused", "version": version}), "as old");
    assert_eq!(browser.state(), "paused", "the same version may have other conditions, and is taken");
    say(&browser, &place, &json!({"version": version + 1000}), "newer");
    assert_eq!(browser.state(), "running");

    // From a response: the server's own version is older now.
    browser.script("window.asked.length = 0");
    place.act("pause").ok();
    wait_until("the page has an answer", PATIENCE, || {
        browser.script("dispatchEvent(new Event('online'))");
        asked(&browser).iter().filter(|(_, path, _)| path == "api/pipeline").count() > 2
    });
    say(&browser, &place, &json!({"version": version + 999}), "older again");
    assert_eq!(browser.state(), "running");

    // Versions of different servers are not compared.
    let port = place.port();
    place.kill_server();
    place.set_env("AUTOAPPDEV_PORT", &port.to_string());
    place.start_server();
    wait_for_state(&browser, "paused");
    assert_eq!(browser.text("run-name"), format!("Run {run_id}"));
    wait_until("its buttons work", PATIENCE, || browser.script("return !document.getElementById('resume').disabled") == true);
    browser.click("resume");
    wait_for_state(&browser, "running");
}
