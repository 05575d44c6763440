//! The scenes that need special conditions: no memory, no space on the disk, no server, and a browser with another role.

use std::fs;

use serde_json::json;

use super::{Stage, fail, fill, furnish, pause, run, run_to_end, train};
use crate::support::disk::SmallDisk;
use crate::support::{Place, not_run, serve_with_made_up_kills};
use crate::webdriver::{Browser, PATIENCE, wait_until};

/// Prepares the pipeline.
type Before = fn(&Place);

/// Runs before the page's own scripts: plays a state that no server of this version sends, if the page's storage names one. It
/// replaces parts of the server's state, and the page has no stream, so that it requests each state.
const PLAYED: &str = "
  const name = location.protocol === 'http:' && localStorage.getItem('played');
  const at = (minutes) => new Date(Date.now() + 60000 * minutes).toISOString();
  const played = {
    'waiting-played': { waiting: { for: 'time', until: at(95), reason: 'usage limit' } },
    'needs-you-played': { waiting: { for: 'person', ask_id: 1, until: at(20), reason: 'Overwrite the checkpoint?' } },
    'restarting-played': { next: { action: 'start', because: 'restart', at: at(0.7), attempt: 2 } },
  }[name];
  const realFetch = window.fetch;
  if (played) window.fetch = async (path, init) => {
    if (path.startsWith('api/events')) return new Response('{}', { status: 503 });
    const response = await realFetch(path, init);
    if (!path.startsWith('api/pipeline') || init?.method === 'POST') return response;
    const body = await response.json();
    if (body.pipeline) Object.assign(body.pipeline, played);
    return new Response(JSON.stringify(body), response);
  };";

/// Ends a run because memory runs out: the script itself simulates the kernel's counter.
pub(super) fn without_memory(stage: &mut Stage<'_>) {
    if !stage.wants("no-memory") {
        return;
    }
    let mut place = Place::new();
    furnish(&mut place);
    let Some(events) = serve_with_made_up_kills(&mut place) else { return };
    fill(&place);
    run_to_end(&place, json!({"script": "train.py", "args": ["oom"], "env": {"MEMORY_EVENTS": events}}));
    stage.show(&place, "no-memory", "", &|| {}, "document.querySelector('.card')?.textContent.includes('Out of memory')");
    stage.close_page();
}

/// Fills the disk while a run is live, and ends the run on the full disk.
pub(super) fn on_a_full_disk(stage: &mut Stage<'_>) {
    if !stage.wants("full-disk") && !stage.wants("not-recorded") {
        return;
    }
    let Some(SmallDisk { disk, mut place }) = SmallDisk::if_it_mounts(8 << 10) else {
        return not_run("full-disk: this user can't mount anything", "AUTOAPPDEV_REQUIRE_ROOT");
    };
    furnish(&mut place);
    place.start_server();
    fill(&place);
    run(&place, json!({"script": "train.py", "args": ["talk"]}));
    wait_until("the run has told its progress", PATIENCE, || place.pipeline()["progress"]["percent"] == 42);
    disk.fill();
    wait_until("lines are lost", PATIENCE, || place.degraded().is_some_and(|why| why.contains("log")));
    stage.show(&place, "full-disk", "", &|| {}, "document.getElementById('conditions').checkVisibility()");
    fs::write(place.root().join("over"), "").expect("another disk");
    wait_until("the end is seen, and can't be recorded", PATIENCE, || {
        place.pipeline()["conditions"].as_array().is_some_and(|list| list.iter().any(|it| it["code"] == "not_recorded"))
    });
    stage.show(&place, "not-recorded", "", &|| {}, "document.getElementById('state').textContent === 'Not recorded'");
    stage.close_page();
    disk.free();
}

/// Plays states of a later version in the browser. The run itself is real.
pub(super) fn of_a_later_version(stage: &mut Stage<'_>, place: &Place) {
    stage.browser.before_each_page(PLAYED);
    let scenes: [(&str, Before, &str); 3] = [
        ("waiting-played", train, "Waiting until "),
        ("needs-you-played", train, "Needs you"),
        ("restarting-played", fail, "Failed"),
    ];
    for (name, before, word) in scenes {
        if !stage.wants(name) {
            continue;
        }
        before(place);
        stage.open(&stage.looks[0], place, "");
        stage.browser.script(&format!("localStorage.setItem('played', '{name}')"));
        let until = format!(
            "document.getElementById('state').textContent.startsWith('{word}') && document.querySelector('#log .row, #log .card')"
        );
        stage.show(place, name, "", &|| {}, &until);
        stage.browser.script("localStorage.clear()");
    }
}

fn wanted(stage: &Stage<'_>, scenes: [(&'static str, Before); 2]) -> Vec<(&'static str, Before)> {
    scenes.into_iter().filter(|(name, _)| stage.wants(name)).collect()
}

/// Without the server, the page shows the last known state. Afterwards the server needs a token: for a new browser, and for a
/// viewer.
pub(super) fn without_a_server(stage: &mut Stage<'_>, mut place: Place) {
    let port = place.port().to_string();
    for (name, before) in wanted(stage, [("disconnected", train), ("disconnected-paused", pause)]) {
        before(&place);
        for way in stage.looks {
            stage.open(way, &place, "");
            stage.until(name, "document.getElementById('log').textContent.includes('Epoch 17')");
            // This is the last part of the page to load.
            stage.until(name, "!document.getElementById('notify').hidden");
            place.kill_server();
            wait_until("the page is disconnected", PATIENCE, || {
                stage.browser.text("state") == "Disconnected" && stage.browser.shows("connection")
            });
            (stage.look)(&format!("{name}-{}", way.name));
            place.set_env("AUTOAPPDEV_PORT", &port);
            place.start_server();
        }
    }
    place.kill_server();
    place.use_token("a-token-of-the-owner-4Kq9");
    place.start_server();
    for (name, before) in wanted(stage, [("read-only", train), ("read-only-failed", fail)]) {
        before(&place);
        for way in stage.looks {
            stage.open(way, &place, "");
            wait_until("the form is shown", PATIENCE, || stage.browser.shows("login"));
            if name == "read-only" {
                (stage.look)(&format!("login-{}", way.name));
            }
            let code = place.post("/api/pair", json!({"may": "look"})).ok()["code"].as_str().expect("a code").to_owned();
            stage.open(way, &place, &format!("#code={code}"));
            wait_until("the role is shown", PATIENCE, || stage.browser.shows("look"));
            stage.until(name, "document.querySelector('#log .row, #log .card')");
            (stage.look)(&format!("{name}-{}", way.name));
            stage.browser.script("localStorage.clear()");
            stage.browser.forget_cookies();
        }
    }
    if !stage.wants("pairing-link") {
        return;
    }
    for way in stage.looks {
        stage.open(way, &place, "");
        let code = place.post("/api/pair", json!({})).ok()["code"].as_str().expect("a code").to_owned();
        // Another host name, which has its own cookies and storage.
        stage.browser.open(&format!("http://board.localhost:{}/#code={code}", place.port()));
        stage.browser.click_in_menu("pair");
        stage.until("pairing-link", "document.querySelector('#pairing .qr')?.checkVisibility()");
        (stage.look)(&format!("pairing-link-{}", way.name));
        stage.browser.script("localStorage.clear()");
        stage.browser.forget_cookies();
    }
}

#[test]
fn waiting_states_have_word_title_icon_and_colour() {
    let Some(browser) = Browser::start() else { return };
    let mut place = Place::new();
    place.start_server();
    place.start_with(json!({"script": "count.sh"}));
    browser.before_each_page(PLAYED);
    for (name, word, status, glyph, icon, hue) in [
        ("waiting-played", "Waiting until ", "usage limit", "◷", "waiting", "run"),
        ("needs-you-played", "Needs you", "Overwrite the checkpoint?", "?", "asking", "hold"),
    ] {
        let url = format!("http://127.0.0.1:{}/", place.port());
        browser.open(&url);
        browser.script(&format!("localStorage.setItem('played', '{name}')"));
        browser.open("about:blank");
        browser.open(&url);
        wait_until(word, PATIENCE, || browser.text("state").starts_with(word));
        assert_eq!(browser.text("status"), status);
        let seen = browser.script(
            "const use = document.querySelector('#symbol use').getAttribute('href');
             return [document.title.split(' · ')[0].replace(/ \\d\\d:\\d\\d$/, ' '), document.getElementById('icon').getAttribute('href'), use,
                     document.getElementById('pill').className, document.querySelectorAll(use).length]",
        );
        let expected = json!([format!("{glyph} {word}"), format!("static/icon-{icon}.svg"), format!("#i-{icon}"), hue, 1]);
        assert_eq!(seen, expected);
        assert!(browser.shows("pause") && browser.shows("stop"), "the run is alive");
    }
}
