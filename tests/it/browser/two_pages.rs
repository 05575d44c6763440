//! Two pages act at the same moment, and a page acts only on what it shows: one action happens, and never on another run.

use serde_json::{Value, json};

use crate::support::Place;
use crate::webdriver::{Browser, PATIENCE, wait_until};

use super::hand::{open_at, until_page};
use super::page::agree;

/// Runs before the page's own scripts. Posts wait until a page calls `go`, and everything about the state that comes in waits
/// while the page is `deaf`.
const HOLD: &str = "
  const channel = new BroadcastChannel('test'), realFetch = window.fetch;
  window.sent = 0;
  window.go = () => new BroadcastChannel('test').postMessage('');
  const until = (holds) => new Promise((resolve) => { const look = () => (holds() ? resolve() : setTimeout(look, 20)); look(); });
  window.fetch = async (path, init) => {
    if (init?.method === 'POST' && window.holds) {
      window.sent++;
      await new Promise((resolve) => channel.addEventListener('message', resolve, { once: true }));
    }
    const answer = await realFetch(path, init);
    if (init?.method || !/^api\\/(pipeline|events)/.test(path)) return answer;
    await until(() => !window.deaf);
    if (!path.startsWith('api/events') || !answer.ok) return answer;
    const through = new TransformStream({ async transform(bytes, to) { await until(() => !window.deaf); to.enqueue(bytes); } });
    return new Response(answer.body.pipeThrough(through), { status: answer.status, headers: answer.headers });
  };";

/// Starts a server, and a browser with two windows on its page.
fn set_up() -> Option<(Browser, Place, [Value; 2])> {
    let browser = Browser::start()?;
    let place = Place::serving("sleep.sh");
    browser.before_each_page(HOLD);
    let first = browser.window();
    open_at(&browser, &place, "");
    browser.open_window();
    browser.before_each_page(HOLD);
    open_at(&browser, &place, "");
    let second = browser.window();
    Some((browser, place, [first, second]))
}

/// Makes each page send an action with `press`, and releases both requests at the same moment.
fn at_once(browser: &Browser, place: &Place, windows: &[Value; 2], state: &str, press: impl Fn(&Browser)) {
    for window in windows {
        browser.go_to_window(window);
        agree(browser, place, state);
        browser.script("window.holds = true; window.sent = 0");
        press(browser);
        until_page(browser, "window.sent === 1");
    }
    browser.script("window.go()");
    for window in windows {
        browser.go_to_window(window);
        browser.script("window.holds = false");
    }
}

/// Returns how many events of this kind the run's history has.
fn count(place: &Place, run_id: i64, kind: &str) -> usize {
    place.events(run_id).iter().filter(|it| it["kind"] == kind).count()
}

/// Waits until both pages show the state. Returns the error that each of them shows.
fn both(browser: &Browser, place: &Place, windows: &[Value; 2], state: &str) -> [String; 2] {
    windows.each_ref().map(|window| {
        browser.go_to_window(window);
        agree(browser, place, state);
        browser.text("error")
    })
}

#[test]
fn same_action_of_two_pages_happens_once() {
    let Some((browser, place, windows)) = set_up() else { return };
    place.start();
    for (state, action, next, kind) in [
        ("running", "pause", "paused", "paused"),
        ("paused", "resume", "running", "resumed"),
        ("running", "stop", "stopped", "exited"),
    ] {
        at_once(&browser, &place, &windows, state, |browser| match action {
            "stop" => browser.click_and_confirm(action),
            _ => browser.click(action),
        });
        assert_at_most_one_is_told(&both(&browser, &place, &windows, next));
        assert_eq!(count(&place, 1, kind), 1, "{action}: {:?}", place.history(1));
    }
    at_once(&browser, &place, &windows, "stopped", |browser| browser.click("start"));
    assert_at_most_one_is_told(&both(&browser, &place, &windows, "running"));
    assert_eq!(place.pipeline()["run_id"], 2);
    assert_eq!(place.history(2).len(), 2, "{:?}", place.history(2));
}

/// Asserts that at most one page shows an error, and that it gives the reason. The slower page may be refused; a second stop is
/// not an error.
fn assert_at_most_one_is_told(told: &[String; 2]) {
    let troubles: Vec<_> = told.iter().filter(|words| !words.is_empty()).collect();
    assert!(troubles.len() <= 1, "{told:?}");
    let says_why = |words: &str| words.contains("It had already changed.") || words.contains("Another run has begun since.");
    assert!(troubles.iter().all(|words| says_why(words)), "{told:?}");
}

/// The page has not yet received the state of the next run.
#[test]
fn page_stops_no_run_that_it_does_not_show() {
    let Some((browser, place, [first, _])) = set_up() else { return };
    browser.go_to_window(&first);
    place.start();
    agree(&browser, &place, "running");
    browser.script("window.deaf = true");
    place.act("stop").ok();
    let (pid, run_id) = place.start();
    assert_eq!(browser.text("run-name"), "Run 1");
    browser.click_and_confirm("stop");
    wait_until("it is told", PATIENCE, || browser.shows("trouble"));
    browser.script("window.deaf = false");
    let told = browser.text("error");
    assert!(told.starts_with("The stop did not work.") && told.contains("Another run has begun since."), "{told}");
    agree(&browser, &place, "running");
    let pipeline = place.pipeline();
    assert_eq!((&pipeline["run_id"], &pipeline["pid"], run_id), (&json!(2), &json!(pid), 2));
    assert!(browser.shows("trouble"), "it stays until it is read");
    browser.click_and_confirm("stop");
    agree(&browser, &place, "stopped");
    assert!(!browser.shows("trouble"));
}
