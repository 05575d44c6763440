//! A page on a slow connection, of 400 kbit/s with a round trip of 400 ms: changes of state are pushed, and the page shows them
//! without a request.
//!
//! The tests check no times, but what determines them: that no data from the page has to reach the server, and how many bytes the
//! server sends.

use std::time::Instant;

use serde_json::{Value, json};

use crate::support::Place;
use crate::support::slow_line::SlowLine;
use crate::webdriver::{Browser, PATIENCE, wait_until};

/// The most bytes that the server may send until the page shows a change: at 50 kB/s this takes less than half a second.
const PUSHED_BYTES_MAX: u64 = 20_000;

/// Counts the pending responses in `window.asking`, and records whether there is an event stream.
const COUNT_REQUESTS: &str = "window.asking = 0; window.hasStream = false; const real = fetch;
  window.fetch = (path, init) => {
    if (path.startsWith('api/events')) {
      window.hasStream = false;
      return real(path, init).then((answer) => { window.hasStream = true; return answer; });
    }
    window.asking += 1;
    return real(path, init).finally(() => { window.asking -= 1; });
  };";

/// Starts a server with a live run, and a page that shows it over a slow connection.
fn set_up() -> Option<(Browser, Place, SlowLine)> {
    let browser = Browser::start()?;
    let mut place = Place::new();
    place.script("quiet.sh", "#!/bin/bash\necho begun\nsleep 1000\n");
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "quiet.sh");
    place.start_server();
    place.start();
    let line = SlowLine::to(place.port());
    browser.before_each_page(COUNT_REQUESTS);
    let begun = Instant::now();
    browser.open(&format!("http://127.0.0.1:{}/", line.port()));
    wait_until("the state is there", PATIENCE, || browser.text("state") == "Running");
    eprintln!("the first state after {:?}", begun.elapsed());
    wait_until("the log is there", PATIENCE, || browser.text("log").contains("begun"));
    eprintln!("the log after {:?}", begun.elapsed());
    Some((browser, place, line))
}

/// Acts through the API while no data from the page reaches the server, and waits until the page shows the result.
fn shows_without_asking(browser: &Browser, place: &Place, line: &SlowLine, action: &str, body: Value, words: &[&str]) {
    wait_until("nothing is asked", PATIENCE, || browser.script("return window.hasStream && window.asking === 0") == true);
    line.cut_up();
    let (received, begun) = (line.received(), Instant::now());
    place.post(&format!("/api/pipeline/{action}"), body).ok();
    let says_so = || words.contains(&browser.text("state").as_str());
    wait_until(&format!("the page shows one of {words:?} after {action}"), PATIENCE, says_so);
    let pushed = line.received() - received;
    eprintln!("{action}: {words:?} after {:?} and {pushed} bytes", begun.elapsed());
    line.mend_up();
    assert!(pushed <= PUSHED_BYTES_MAX, "{pushed} bytes for {action}");
}

#[test]
fn pushed_state_changes_show_without_a_request() {
    let Some((browser, place, line)) = set_up() else { return };
    let shows = |action: &str, body: Value, words: &[&str]| shows_without_asking(&browser, &place, &line, action, body, words);
    shows("pause", json!({}), &["Paused"]);
    shows("resume", json!({}), &["Running"]);
    shows("stop", json!({}), &["Stopped"]);
    // The stream of the previous run ends with the first state of the new one, whose lines must be requested.
    shows("start", json!({}), &["Starting", "Running"]);
    let begun = Instant::now();
    wait_until("it runs", PATIENCE, || browser.text("state") == "Running");
    wait_until("its log is there", PATIENCE, || browser.text("log").contains("begun"));
    eprintln!("the new run's log after {:?}", begun.elapsed());
    shows("pause", json!({}), &["Paused"]);
    shows("stop", json!({"grace_s": 0}), &["Stopped"]);
}
