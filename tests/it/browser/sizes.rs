//! The page in small windows: a desktop at a zoom of 200 %, a phone on its side, and a width of 320 pixels. Nothing is cut off or
//! covered, and some lines of the log remain.

use serde_json::json;

use crate::support::Place;
use crate::webdriver::{Browser, PATIENCE, wait_until};

/// Width, height, and whether it is a phone. 1280 × 800 at a zoom of 200 % is half of that, with a scroll bar that takes space.
const SIZES: [(u32, u32, bool); 3] = [(640, 400, false), (844, 390, true), (320, 640, true)];

/// The height of six lines.
const LOG_PX_MIN: f64 = 108.0;

const SCRIPT: &str = r#"#!/bin/bash
echo "::step prepare"
for n in {1..30}; do echo "shard-$n loaded, 214 MB"; done
echo "::step fine-tune"
for n in {1..17}; do echo "::progress $((n * 100 / 40)) Epoch $n/40"; echo "Epoch $n done, and more words for a line" >&2; done
if [ "$1" = stubborn ]; then trap '' TERM; fi
if [ "$1" = fail ]; then
  printf 'Traceback (most recent call last):\n  File "train.py", line 214, in <module>\n    main(args)\nOutOfMemoryError: CUDA out of memory.\n' >&2
  exit 1
fi
while :; do sleep 0.2; done
"#;

/// Returns the faults of a page of `wide` times `tall` pixels. Before each check it scrolls the element into view, as a browser
/// does on focus.
const FAULTS: &str = r"
  const found = [];
  const name = (it) => it.id || it.textContent.trim().slice(0, 30) || it.className || it.tagName;
  if (innerWidth > wide || document.documentElement.scrollWidth > wide) found.push(`the page is ${document.documentElement.scrollWidth} px wide`);
  for (const it of document.querySelectorAll('#log, #runs, #first, .pane, #form, #form *, .sheet, #top, #run-bar, #controls, #progress')) {
    if (!it.checkVisibility() || it.matches('input, textarea, select, button, button *')) continue;
    const { overflowX, textOverflow } = getComputedStyle(it);
    if (overflowX !== 'visible' && textOverflow !== 'ellipsis' && it.scrollWidth > it.clientWidth) found.push(`${name(it)} scrolls sideways`);
  }
  const root = document.querySelector('dialog[open]') ?? document.body;
  for (const it of root.querySelectorAll('button, a[href], input, select, textarea')) {
    if (!it.checkVisibility({ visibilityProperty: true }) || it.closest('#log .step')) continue;
    it.scrollIntoView({ block: it.closest('#log') ? 'center' : 'nearest' });
    const { left, top, right, bottom } = it.getBoundingClientRect();
    // Elements for screen readers only, and inputs that are represented by their labels.
    if (right - left < 2) continue;
    if (left < -1 || top < -1 || right > wide + 1 || bottom > tall + 1) found.push(`${name(it)} is cut off`);
    const hit = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
    if (!it.contains(hit) && ![...it.labels ?? []].some((label) => label.contains(hit))) found.push(`${name(it)} is covered by ${hit && name(hit)}`);
  }
  document.getElementById('log').scrollTop = 0;
  return found;";

/// Opens the page in a window of each size, waits until `until` holds there, and returns the faults.
fn faults(browser: &Browser, place: &Place, scene: &str, act: impl Fn(&Browser), until: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (width, height, is_phone) in SIZES {
        browser.be_a_screen(width, height, is_phone);
        browser.open("about:blank");
        browser.open(&format!("http://127.0.0.1:{}/", place.port()));
        let where_it_is = format!("{scene} at {width} × {height}");
        wait_until(&format!("{where_it_is}: the state is there"), PATIENCE, || {
            !["", "unknown"].contains(&browser.state().as_str())
        });
        act(browser);
        wait_until(&format!("{where_it_is}: {until}"), PATIENCE, || browser.script(&format!("return !!({until})")) == true);
        // Late content changes the layout.
        browser.settle();
        let found = browser.script(&format!("const wide = {width}, tall = {height}; {FAULTS}"));
        let found: Vec<String> = serde_json::from_value(found).expect("texts");
        faults.extend(found.into_iter().map(|fault| format!("{where_it_is}: {fault}")));
        let log = browser.script(
            "const log = document.getElementById('log'), bar = document.getElementById('controls').getBoundingClientRect();
             if (!log.checkVisibility()) return null;
             const { top, bottom } = log.getBoundingClientRect();
             return Math.min(bottom, bar.top > top ? bar.top : Infinity) - top",
        );
        if log.as_f64().is_some_and(|px| px < LOG_PX_MIN) {
            faults.push(format!("{where_it_is}: the log has {log} px"));
        }
    }
    faults
}

#[test]
fn small_windows_cover_nothing_and_keep_six_log_lines() {
    let Some(browser) = Browser::start() else { return };
    let mut place = Place::new();
    place.script("train.sh", SCRIPT);
    for n in 0..6 {
        place.script(&format!("script-{n}.sh"), "#!/bin/bash\n");
    }
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "train.sh");
    place.start_server();
    let wait_for_end = || wait_until("it is over", PATIENCE, || place.pipeline()["state"] == "stopped");
    let mut all: Vec<String> = Vec::new();
    let nothing = |_: &Browser| {};

    let is_listed = "document.getElementById('first').textContent.includes('script-5.sh')";
    all.extend(faults(&browser, &place, "the first visit", nothing, is_listed));

    place.start_with(json!({"args": ["stubborn"], "grace_s": 600}));
    wait_until("it has told its progress", PATIENCE, || place.pipeline()["progress"]["percent"] == 42);
    let is_drawn = "document.querySelector('#log .row') && document.getElementById('percent').textContent === '42 %'";
    all.extend(faults(&browser, &place, "a run", nothing, is_drawn));
    let is_asked = "document.getElementById('sure').open && !document.getElementById('yes').disabled";
    all.extend(faults(&browser, &place, "the stop sheet", |browser| browser.click("stop"), is_asked));
    browser.script("document.getElementById('no').click()");
    browser.click_and_confirm("stop");
    let is_counted = "document.getElementById('stopping').checkVisibility() && document.querySelector('#log .row')";
    all.extend(faults(&browser, &place, "the countdown", nothing, is_counted));
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    wait_for_end();

    place.start_with(json!({"args": ["fail"]}));
    wait_for_end();
    let has_card = "document.querySelector('.card .b:not([hidden])')?.checkVisibility()";
    all.extend(faults(&browser, &place, "a failed run", nothing, has_card));
    let open_form = |browser: &Browser| {
        wait_until("the form opens", PATIENCE, || {
            browser.script("document.getElementById('choose').click(); return document.getElementById('form').open") == true
        });
    };
    let is_filled = "document.getElementById('form').textContent.includes('script-5.sh')";
    all.extend(faults(&browser, &place, "the start form", open_form, is_filled));
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn small_phone_shows_the_last_known_state_uncut() {
    let Some(browser) = Browser::start() else { return };
    let mut place = Place::new();
    place.script("train.sh", SCRIPT);
    place.start_server();
    place.start_with(json!({"script": "train.sh"}));
    browser.be_a_phone(320, 640);
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
    wait_until("the page shows the run", PATIENCE, || browser.state() == "running");
    place.kill_server();
    wait_until("it has lost the server", PATIENCE, || browser.text("status").starts_with("last known: running, "));
    let is_whole = browser.script(
        "const it = document.getElementById('status'), { bottom } = it.getBoundingClientRect();
         return it.scrollWidth <= it.clientWidth && it.scrollHeight <= it.clientHeight && bottom <= document.getElementById('script').getBoundingClientRect().top + 1",
    );
    assert_eq!(is_whole, true);
    place.start_server();
}
