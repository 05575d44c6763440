//! Settings that people make for all pages: a language that is read from right to left, forced colours, and reduced motion.

use serde_json::{Value, json};

use crate::support::Place;
use crate::webdriver::{Browser, PATIENCE, wait_until};

/// Keeps running, ignores TERM, and leaves its last line incomplete, where the page shows a caret.
const SCRIPT: &str = "#!/bin/bash\ntrap '' TERM\necho '::step prepare'\necho 'a line' >&2\necho 'an ERROR: it is bad'\n\
                      echo '::progress 42 Epoch'\nprintf 'not ended'\nwhile :; do sleep 0.2; done\n";

/// Starts a server, and a browser that shows nothing yet.
fn set_up() -> Option<(Browser, Place)> {
    let browser = Browser::start()?;
    let mut place = Place::new();
    place.script("go.sh", SCRIPT);
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "go.sh");
    place.start_server();
    Some((browser, place))
}

/// Opens a tab of the page and waits until `shown` is visible.
fn open(browser: &Browser, place: &Place, tab: &str, shown: &str) {
    browser.open("about:blank");
    browser.open(&format!("http://127.0.0.1:{}/#/?tab={tab}", place.port()));
    let is_shown =
        format!("return document.body.dataset.state === 'running' && !!document.querySelector('{shown}')?.checkVisibility()");
    wait_until(&format!("{shown} is there"), PATIENCE, || browser.script(&is_shown) == true);
}

#[test]
fn rtl_mirrors_the_page_but_not_log_or_commands() {
    let Some((browser, place)) = set_up() else { return };
    place.start_with(json!({"args": ["--name", "a (b)"]}));
    for (width, height, is_phone) in [(1280, 800, false), (390, 844, true), (320, 640, true)] {
        browser.be_a_screen(width, height, is_phone);
        for (tab, shown) in [("log", "#log .row"), ("steps", ".step-row"), ("usage", ".chart svg"), ("details", ".copyline")] {
            open(&browser, &place, tab, shown);
            browser.script("document.documentElement.dir = 'rtl'");
            browser.settle();
            let seen = browser.script(
                "const out = [...document.querySelectorAll('body *')].filter((it) => it.checkVisibility() && !it.closest('#log'))
                   .filter((it) => { const { left, right, width } = it.getBoundingClientRect(); return width > 1 && (left < -1 || right > innerWidth + 1); });
                 const log = document.getElementById('log');
                 return [document.documentElement.scrollWidth, log.scrollWidth - log.clientWidth, out.map((it) => it.id || it.outerHTML.slice(0, 80))]",
            );
            assert_eq!(seen, json!([width, 0, []]), "{tab} at {width}");
            let directions = browser.script(
                "return [...document.querySelectorAll('#log, #script, .copyline code')].map((it) => getComputedStyle(it).direction)",
            );
            assert!(directions.as_array().expect("a list").iter().all(|it| it == "ltr"), "{tab} at {width}: {directions}");
        }
    }
    browser.be_a_screen(1280, 800, false);
    open(&browser, &place, "log", "#log .row");
    let is_right_of_log = browser.script(
        "const left = (id) => document.getElementById(id).getBoundingClientRect().left, is = () => left('rail') > left('log');
         const before = is(); document.documentElement.dir = 'rtl'; return [before, is()]",
    );
    assert_eq!(is_right_of_log, json!([false, true]), "the rail changes its side");
}

/// Returns those of `selectors` whose `property` has the colour behind them, or that are missing.
fn lost(browser: &Browser, property: &str, selectors: &[&str]) -> Value {
    browser.script(&format!(
        "const canvas = new OffscreenCanvas(1, 1).getContext('2d', {{ willReadFrequently: true }});
         const drawn = (colour, under) => {{
           for (const it of [under, colour]) {{ canvas.fillStyle = it; canvas.fillRect(0, 0, 1, 1); }}
           return [...canvas.getImageData(0, 0, 1, 1).data];
         }};
         const ground = (it) => {{
           for (let at = it; at; at = at.parentElement) {{
             const colour = getComputedStyle(at).backgroundColor;
             if (drawn(colour, '#000').join() === drawn(colour, '#fff').join()) return colour;
           }}
           return 'Canvas';
         }};
         return {selectors}.filter((selector) => {{
           const [plain, pseudo] = selector.split('::'), it = document.querySelector(plain);
           if (!it?.checkVisibility()) return true;
           const colour = getComputedStyle(it, pseudo ? `::${{pseudo}}` : null)['{property}'], under = ground(pseudo ? it : it.parentElement);
           // The colours must differ clearly in at least one channel.
           const [a, b] = [drawn(colour, under), drawn(under, under)];
           return Math.max(...a.map((part, n) => Math.abs(part - b[n]))) < 64;
         }})",
        selectors = json!(selectors),
    ))
}

#[test]
fn forced_colours_leave_every_sign_visible() {
    let Some((browser, place)) = set_up() else { return };
    place.start();
    browser.be_a_screen(1280, 800, false);
    for scheme in ["light", "dark"] {
        browser.prefer_all(&[("forced-colors", "active"), ("prefers-color-scheme", scheme)]);
        open(&browser, &place, "log", "#log .error");
        wait_until("the bar and the history are there", PATIENCE, || {
            browser.text("percent") == "42 %" && browser.script("return !!document.querySelector('#runs .r')") == true
        });
        let all_seen = |property: &str, selectors: &[&str]| {
            assert_eq!(lost(&browser, property, selectors), json!([]), "{property} in {scheme}");
        };
        // Pills and buttons are recognized by their borders.
        all_seen("borderTopColor", &["#pill", "#pause", "#stop", "#bar", "#find-box"]);
        all_seen("color", &["#state", "#symbol", "#pause", "#stop", "#live"]);
        all_seen("backgroundColor", &["#bar i", "#log .error::before", "#log .stderr::before", "#tabs [aria-current]::after"]);
        browser.wait_for_presses("stop");
        // Earlier tests may have left windows, and a button that is disabled for a moment loses the focus.
        browser.devtools("Emulation.setFocusEmulationEnabled", &json!({"enabled": true}));
        wait_until("the focus has a frame", PATIENCE, || {
            browser.script(
                "const it = document.getElementById('stop'); it.focus({ focusVisible: true }); return getComputedStyle(it).outlineStyle",
            ) == "solid"
        });
        all_seen("outlineColor", &["#stop"]);
        open(&browser, &place, "steps", ".step-row");
        all_seen("backgroundColor", &[".band i", ".step-row .lane i"]);
        all_seen("color", &[".step-row .i"]);
        open(&browser, &place, "usage", ".chart .line");
        all_seen("stroke", &[".chart .line"]);
    }
}

#[test]
fn reduced_motion_stops_all_animations() {
    let Some((browser, place)) = set_up() else { return };
    // Collects everything that moves in any frame, from the load of the page on.
    browser.before_each_page(
        "window.moving = []; const look = () => {
           for (const it of document.getAnimations()) moving.push(it.animationName ?? it.transitionProperty);
           requestAnimationFrame(look); };
         look();",
    );
    let moving = || browser.script("return [...new Set(window.moving)]");
    let play = || {
        place.start_with(json!({"grace_s": 600}));
        open(&browser, &place, "log", ".caret");
        place.act("pause").ok();
        wait_until("it is paused", PATIENCE, || browser.text("state") == "Paused");
        place.act("resume").ok();
        wait_until("it runs", PATIENCE, || browser.text("state") == "Running");
        browser.click_and_confirm("stop");
        wait_until("it is stopping", PATIENCE, || browser.shows("stopping"));
        browser.settle();
        let seen = moving();
        place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
        wait_until("it is stopped", PATIENCE, || browser.text("state") == "Stopped");
        // A page that is already open shows the next start.
        place.start_with(json!({"grace_s": 600}));
        wait_until("it runs again", PATIENCE, || browser.text("state") == "Running");
        browser.settle();
        let all = [seen, moving()];
        place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
        all
    };
    assert!(play()[0].to_string().contains("blink"), "the caret blinks for others");
    wait_until("it is over", PATIENCE, || place.pipeline()["state"] == "stopped");
    browser.prefer("prefers-reduced-motion", "reduce");
    assert_eq!(play(), [json!([]), json!([])]);
}
