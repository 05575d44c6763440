//! The cost of the page and the space that it leaves for the log: requests and bytes of the first display, and pixels.

use serde_json::json;

use crate::support::Place;
use crate::webdriver::{Browser, PATIENCE, wait_until};

/// Limits of the first display: the page, its files, and the responses of the API.
const REQUESTS_MAX: usize = 12;
const WIRE_BYTES_MAX: u64 = 100_000;

/// Starts a server with a live run, and a browser that shows nothing yet.
fn set_up() -> Option<(Browser, Place)> {
    let browser = Browser::fresh()?;
    let mut place = Place::new();
    place.script(
        "talk.sh",
        "#!/bin/bash\nseq -f 'line %.0f of a run that says more than fits' 1000\necho '::progress 40 Building'\nsleep 1000\n",
    );
    place.start_server();
    place.start_with(json!({"script": "talk.sh"}));
    wait_until("the run has told its progress", PATIENCE, || place.pipeline()["progress"]["percent"] == 40);
    Some((browser, place))
}

#[test]
fn first_display_stays_within_request_and_byte_limits() {
    let Some((browser, place)) = set_up() else { return };
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
    wait_until("the log, the history and the run are there", PATIENCE, || {
        browser.text("log").contains("line 1000")
            && browser.text("runs").contains("talk.sh")
            && browser.text("time-left").is_empty()
    });
    let loaded = browser.script(
        "return performance.getEntries().filter((it) => ['resource', 'navigation'].includes(it.entryType)).map((it) => [it.name.replace(/^.*?:\\/\\/[^/]*/, ''), it.transferSize])",
    );
    let loaded: Vec<(String, u64)> = serde_json::from_value(loaded).expect("names and sizes");
    let bytes: u64 = loaded.iter().map(|(_, size)| size).sum();
    // The browser lists the event stream only after its end.
    let count = loaded.len() + 1;
    assert!(count <= REQUESTS_MAX, "{count} requests: {loaded:?}");
    assert!(bytes > 20_000 && bytes <= WIRE_BYTES_MAX, "{bytes} bytes: {loaded:?}");
}

#[test]
fn log_fills_most_of_the_window() {
    let Some((browser, place)) = set_up() else { return };
    for (width, height, is_phone, least) in [(1280, 800, false, 620.0), (390, 844, true, 500.0)] {
        browser.be_a_screen(width, height, is_phone);
        browser.open(&format!("http://127.0.0.1:{}/", place.port()));
        wait_until("the log is there", PATIENCE, || browser.text("log").contains("line 1000"));
        let seen = browser.script(
            "const box = document.getElementById('log').getBoundingClientRect(), bar = document.getElementById('controls').getBoundingClientRect();
             return Math.min(box.bottom, bar.top > box.top ? bar.top : Infinity) - box.top",
        );
        assert!(seen.as_f64() >= Some(least), "{seen} px of {height} at {width}");
    }
}
