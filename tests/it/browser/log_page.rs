//! A server whose script prints lines, a browser, and the queries of the tests about the log on its page.

use std::fs;

use crate::support::Place;
use crate::webdriver::{Browser, PATIENCE, wait_until};

const SCRIPT: &str = "log.sh";

/// Prints `line <n>` up to the number in the file `upto`, and ends when the file `end` exists.
pub(super) const TOLD: &str = r#"#!/bin/bash
n=0
while [ ! -e end ]; do
  read -r upto 2>/dev/null < upto || upto=0
  if [ "$n" -lt "$upto" ]; then
    seq -f 'line %.0f' $((n + 1)) "$upto"
    n=$upto
  fi
  sleep 0.02
done
"#;

/// Starts a server whose script has this text, and a browser that shows nothing yet. Returns `None` if there is no browser.
pub(super) fn set_up(script: &str) -> Option<(Browser, Place)> {
    let browser = Browser::start()?;
    let mut place = Place::new();
    place.script(SCRIPT, script);
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", SCRIPT);
    place.start_server();
    Some((browser, place))
}

pub(super) fn open(browser: &Browser, place: &Place) {
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
}

/// Makes the script print its lines up to this one.
pub(super) fn say_up_to(place: &Place, n: u32) {
    // A rename is atomic: a half-written number would be a different one.
    fs::write(place.root().join("upto.new"), format!("{n}\n")).expect("ours");
    fs::rename(place.root().join("upto.new"), place.root().join("upto")).expect("ours");
}

/// Returns the text of every loaded line, in the document or not, without the marks between them.
pub(super) fn rows(browser: &Browser) -> Vec<String> {
    let texts = browser.script(
        "return import('/static/app.js').then(({ rowBounds, rowAt }) => { const [from, to] = rowBounds(); const texts = [];
           for (let n = from; n < to; n++) if (!rowAt(n).isMark) texts.push(rowAt(n).text); return texts; })",
    );
    serde_json::from_value(texts).expect("texts")
}

pub(super) fn lines(from: u32, to: u32) -> Vec<String> {
    (from..=to).map(|n| format!("line {n}")).collect()
}

pub(super) fn wait_for_row(browser: &Browser, wanted: &str) {
    wait_until(&format!("{wanted:?} is the last line"), PATIENCE, || rows(browser).last().is_some_and(|last| last == wanted));
}

/// Returns whether the document shows this line. In its text content the time of the next line follows without a space: shortly
/// after midnight "line 1030" and "00:05:09" would read as "line 103000".
pub(super) fn shows_line(browser: &Browser, wanted: &str) -> bool {
    let text = browser.script("return document.getElementById('log').innerText");
    text.as_str().is_some_and(|text| text.lines().any(|line| line.trim_end().ends_with(wanted)))
}

/// Returns the last line that the API has.
pub(super) fn last_line(place: &Place) -> String {
    let tail = place.get("/api/logs/tail?limit=1").body;
    tail["lines"][0]["line"].as_str().unwrap_or_default().to_owned()
}
