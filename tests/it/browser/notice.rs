//! The browser notification for a run that ends while its page is hidden: for users who have turned it on, if the browser allows
//! it.

use std::fs;

use serde_json::{Value, json};

use crate::support::Place;
use crate::webdriver::{Browser, PATIENCE, wait_until};

use super::hand::until_page;
use super::page::{icon, titled};

/// Runs before the page's own scripts: records the arguments of each notification.
const COUNT: &str = "
  window.made = [];
  window.Notification = class extends window.Notification {
    constructor(title, options) {
      super(title, options);
      window.made.push([title, options.body, options.tag]);
    }
  };";

/// Starts a server, and a browser that no other test shares, in which notifications are `granted`, `denied`, or must be requested
/// (`prompt`).
fn set_up(setting: &str) -> Option<(Browser, Place)> {
    let browser = Browser::fresh()?;
    let mut place = Place::new();
    place.script("fail.sh", "#!/bin/bash\nuntil [ -e go ]; do sleep 0.02; done\nexit 3\n");
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "fail.sh");
    place.start_server();
    let origin = format!("http://127.0.0.1:{}", place.port());
    browser.devtools(
        "Browser.setPermission",
        &json!({"permission": {"name": "notifications"}, "setting": setting, "origin": origin}),
    );
    browser.before_each_page(COUNT);
    browser.open(&origin);
    Some((browser, place))
}

fn words(browser: &Browser) -> String {
    browser.text("notify")
}

/// Minimizes the browser's window (`minimized`), or restores it (`normal`).
fn put_window(browser: &Browser, state: &str) {
    let window = browser.devtools("Browser.getWindowForTarget", &json!({}));
    let params = json!({"windowId": window["windowId"], "bounds": {"windowState": state}});
    browser.devtools("Browser.setWindowBounds", &params);
    until_page(browser, &format!("document.hidden === {}", state == "minimized"));
}

fn start(browser: &Browser, place: &Place) -> i64 {
    let _there_may_be_none = fs::remove_file(place.root().join("go"));
    let (_, run_id) = place.start();
    wait_until("the page knows that it runs", PATIENCE, || {
        browser.text("state") == "Running" && browser.text("run-name") == format!("Run {run_id}")
    });
    run_id
}

fn end(browser: &Browser, place: &Place, run_id: i64) {
    place.script("go", "");
    place.until_ended(run_id);
    let title = titled(place, "✕ Failed (3) · fail.sh");
    wait_until("the title follows", PATIENCE, || browser.script("return document.title") == title);
    assert_eq!(icon(browser), "failed");
}

fn made(browser: &Browser) -> Value {
    browser.script("return window.made")
}

#[test]
fn hidden_page_notifies_once_per_run_end_if_enabled() {
    let Some((browser, place)) = set_up("granted") else { return };
    // Off by default, although the browser allows notifications.
    let run_id = start(&browser, &place);
    wait_until("the menu offers it", PATIENCE, || words(&browser) == "Notify me when a run ends");
    put_window(&browser, "minimized");
    end(&browser, &place, run_id);
    assert_eq!(made(&browser), json!([]));

    put_window(&browser, "normal");
    let run_id = start(&browser, &place);
    browser.click_in_menu("notify");
    wait_until("it is on", PATIENCE, || words(&browser) == "Stop notifying me");
    // There is no notification while the page is visible.
    end(&browser, &place, run_id);
    assert_eq!(made(&browser), json!([]));

    let run_id = start(&browser, &place);
    put_window(&browser, "minimized");
    end(&browser, &place, run_id);
    wait_until("there is a notice", PATIENCE, || made(&browser) != json!([]));
    let [title, body, tag]: [String; 3] = serde_json::from_value(made(&browser)[0].clone()).expect("three texts");
    assert_eq!(title, "fail.sh · Failed");
    assert!(body.starts_with("exit 3 after") && tag.ends_with(&format!("-{run_id}")), "{body:?}, {tag:?}");
    // The following states make no second notification.
    let next = start(&browser, &place);
    assert_eq!(made(&browser).as_array().map(Vec::len), Some(1));
    end(&browser, &place, next);
    wait_until("there is one for each end", PATIENCE, || made(&browser).as_array().map(Vec::len) == Some(2));

    // The choice is stored in the browser, so a page that is opened later has it, and it can be revoked.
    put_window(&browser, "normal");
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
    wait_until("it is on", PATIENCE, || words(&browser) == "Stop notifying me");
    browser.click_in_menu("notify");
    wait_until("it is off", PATIENCE, || words(&browser) == "Notify me when a run ends");
    let run_id = start(&browser, &place);
    put_window(&browser, "minimized");
    end(&browser, &place, run_id);
    assert_eq!(made(&browser), json!([]));
}

#[test]
fn menu_reports_blocked_notifications() {
    let Some((browser, place)) = set_up("denied") else { return };
    browser.script("localStorage.setItem('autoappdev-notify', 'true')");
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
    wait_until("the menu says so", PATIENCE, || words(&browser) == "Notices are blocked in this browser");
    until_page(&browser, "document.getElementById('notify').disabled");
    let run_id = start(&browser, &place);
    put_window(&browser, "minimized");
    end(&browser, &place, run_id);
    assert_eq!(made(&browser), json!([]));
}
