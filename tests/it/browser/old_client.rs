//! The old web client with this server, in a real browser: its badges, its four buttons and its log, in each state. The page in
//! `tests/fixtures/old_client` stands in for it. It has another origin, so each request must pass the browser's CORS checks.

use crate::fake_server::{FakeServer, Reply};
use crate::support::{Place, letter};
use crate::webdriver::{Browser, PATIENCE, wait_until};

const PAGE: &str = include_str!("../../fixtures/old_client/index.html");

const BUTTONS: [&str; 4] = ["start", "pause", "resume", "stop"];

/// Starts the server of the client's page, our server, and the browser that shows the page. Returns `None` if there is no
/// browser.
fn set_up(is_allowed: bool) -> Option<(Browser, Place, FakeServer)> {
    let browser = Browser::start()?;
    let pages =
        FakeServer::start(
            |request| {
                if request.line.starts_with("GET /?") { Reply::Page(PAGE) } else { Reply::Json(404, "{}".to_owned()) }
            },
        );
    let mut place = Place::new();
    place.script("count.sh", "#!/bin/bash\nfor ((n = 1; ; n++)); do echo \"line $n\"; sleep 0.05; done\n");
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "count.sh");
    if is_allowed {
        place.set_env("AUTOAPPDEV_ALLOW_ORIGIN", &pages.url());
    }
    place.start_server();
    browser.open(&format!("{}/?api=http://127.0.0.1:{}", pages.url(), place.port()));
    Some((browser, place, pages))
}

/// Waits until the client shows this state, and checks whether it shows a live run, and which buttons are enabled.
fn wait_for(browser: &Browser, state: &str, is_running: bool, buttons: &[&str]) {
    wait_until(&format!("the client shows {state}"), PATIENCE, || browser.text("state") == state);
    assert_eq!(browser.text("running"), is_running.to_string(), "{state}");
    for button in BUTTONS {
        let is_disabled = browser.script(&format!("return document.getElementById('{button}').disabled"));
        assert_eq!(is_disabled, !buttons.contains(&button), "{button} when {state}");
    }
    assert_eq!(browser.text("error"), "", "{state}");
}

fn pid(browser: &Browser) -> Option<u32> {
    browser.text("pid").parse().ok()
}

fn log(browser: &Browser) -> Vec<String> {
    browser.text("log").lines().map(str::to_owned).collect()
}

#[test]
fn old_client_shows_state_and_log_and_its_buttons_work() {
    let Some((browser, place, _pages)) = set_up(true) else { return };

    wait_for(&browser, "idle", false, &["start"]);
    assert_eq!((pid(&browser), log(&browser)), (None, vec![]));
    wait_until("the badges are there", PATIENCE, || browser.text("db") == "up" && browser.text("backend") == "up");
    assert!(browser.text("db-time").ends_with('Z'), "{}", browser.text("db-time"));
    let version = place.get("/api/version").ok();
    let shown: serde_json::Value = serde_json::from_str(&browser.text("version")).expect("JSON");
    let keys = ["ok", "app", "service", "version", "build", "started_at"];
    assert_eq!(shown, crate::support::values(&version, &keys));

    browser.click("start");
    wait_for(&browser, "running", true, &["pause", "stop"]);
    let leader = pid(&browser).expect("a process id");
    assert_eq!(place.pipeline()["pid"], leader);
    wait_until("lines come one after the other", PATIENCE, || log(&browser).len() > 20);

    browser.click("pause");
    wait_for(&browser, "paused", false, &["resume", "stop"]);
    assert_eq!((pid(&browser), letter(leader)), (Some(leader), Some('T')));
    let said = place.get("/api/logs/tail?limit=1").ok()["lines"][0]["line"].clone();
    wait_until("the log is there to its end", PATIENCE, || log(&browser).last().is_some_and(|last| *last == said));
    browser.click("tail");
    let all = log(&browser);
    let tail = format!("pipeline:\n{}", all[all.len() - 10..].join("\n"));
    wait_until("the tail is the log's last ten lines", PATIENCE, || browser.text("last") == tail);

    browser.click("resume");
    wait_for(&browser, "running", true, &["pause", "stop"]);
    assert_eq!(pid(&browser), Some(leader));
    wait_until("the log goes on", PATIENCE, || log(&browser).len() > all.len());

    browser.click("stop");
    wait_for(&browser, "stopped", false, &["start"]);
    assert_eq!((pid(&browser), letter(leader)), (None, None));
    let count = log(&browser).len();
    assert_eq!(log(&browser), (1..=count).map(|n| format!("line {n}")).collect::<Vec<_>>(), "each line once, in order");

    // With the old server, stopping a paused run failed, and so did the next start.
    browser.click("start");
    wait_for(&browser, "running", true, &["pause", "stop"]);
    browser.click("pause");
    wait_for(&browser, "paused", false, &["resume", "stop"]);
    browser.click("stop");
    wait_for(&browser, "stopped", false, &["start"]);
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn old_client_shows_why_an_action_was_refused() {
    let Some((browser, place, _pages)) = set_up(true) else { return };
    wait_for(&browser, "idle", false, &["start"]);
    std::fs::remove_file(place.root().join("count.sh")).expect("ours");
    browser.click("start");
    wait_until("it says so", PATIENCE, || !browser.text("error").is_empty());
    let refused = place.act("start");
    assert_eq!((refused.status, &refused.body["detail"]), (404, &browser.text("error").into()), "it can read a refusal");
}

#[test]
fn old_client_from_disallowed_origin_is_blocked() {
    let Some((browser, place, pages)) = set_up(false) else { return };
    wait_until("its requests have failed", PATIENCE, || browser.text("error").contains("Failed to fetch"));
    assert_eq!((browser.text("state"), browser.text("log")), ("…".to_owned(), String::new()));
    browser.script("document.getElementById('start').disabled = false");
    browser.click("start");
    wait_until("the browser has refused it", PATIENCE, || {
        browser.console().iter().any(|line| line.contains("/api/pipeline/start") && line.contains("CORS"))
    });
    assert_eq!(place.pipeline()["run_id"], serde_json::Value::Null, "{}", pages.url());
}
