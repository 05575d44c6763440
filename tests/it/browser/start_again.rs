//! Repeating an old run, unchanged or after an edit.

use std::fs;

use serde_json::json;

use crate::webdriver::{PATIENCE, wait_until};

use super::hand::{button, click_on, field, open_at, texts, until_page, write_into};
use super::start_form::{fields, said, set_up, until_closed};

#[test]
fn old_run_fills_the_form_and_is_repeated_unchanged() {
    let Some((browser, place)) = set_up("values") else { return };
    fs::write(place.root().join("sub/go"), "").expect("ours");
    place.start_with(json!({"script": "tools/say.sh", "args": ["a b", "c"], "cwd": "sub", "env": {"WORDS": "w"}, "grace_s": 3}));
    place.until_ended(1);
    place.start_with(json!({"script": "exit.sh"}));
    place.until_ended(2);

    open_at(&browser, &place, "#/runs/1?tab=details");
    click_on(&browser, &button("#pane-details", "Edit and run…"));
    let first = json!(["tools/say.sh", "'a b' c", "sub", "3", [["WORDS", "w"], ["", ""]]]);
    wait_until("it fills the form", PATIENCE, || fields(&browser) == first);
    assert!(texts(&browser, "#form header").concat().starts_with("Edit and runfilled in from run 1"));
    write_into(&browser, &field("Arguments"), "'a b' d");
    click_on(&browser, &button("#form", "Start say.sh"));
    until_closed(&browser);
    assert_eq!(said(&place, 3, 2), ["<a b><d>", "WORDS=w KEY= in sub"]);
    place.until_ended(3);
    until_page(&browser, "location.hash === '#/' && document.getElementById('run-name').textContent === 'Run 3'");

    open_at(&browser, &place, "#/runs/1?tab=details");
    click_on(&browser, &button("#pane-details", "Run again"));
    wait_until("it is repeated", PATIENCE, || place.pipeline()["run_id"] == 4);
    assert_eq!(said(&place, 4, 2), ["<a b><c>", "WORDS=w KEY= in sub"]);
    place.until_ended(4);
    let kept = |id| place.get(&format!("/api/runs/{id}/start")).ok()["start"].take();
    assert_eq!(kept(4), kept(1));
    assert_eq!(browser.script("return window.posted"), json!([{"again": 1, "if_run_id": 3}]));
}

#[test]
fn error_of_repeating_a_deleted_script_stays_visible() {
    let Some((browser, place)) = set_up("values") else { return };
    fs::write(place.root().join("go"), "").expect("ours");
    place.start_with(json!({"script": "tools/say.sh"}));
    place.until_ended(1);
    open_at(&browser, &place, "#/runs/1?tab=details");
    until_page(&browser, "document.querySelector('#pane-details button')");
    fs::remove_file(place.root().join("tools/say.sh")).expect("ours");
    click_on(&browser, &button("#pane-details", "Run again"));
    wait_until("it is told", PATIENCE, || browser.shows("trouble"));
    let told = browser.text("error");
    assert!(told.starts_with("The start did not work.") && told.contains("tools/say.sh"), "{told}");
    assert!(told.ends_with("Put the script back, or start another one."), "{told}");
    // Other changes do not remove the error.
    place.start_with(json!({"script": "exit.sh"}));
    place.until_ended(2);
    wait_until("the page knows the next run", PATIENCE, || browser.text("elsewhere").contains("run 2: succeeded"));
    assert!(browser.shows("trouble") && browser.text("error") == told, "{}", browser.text("error"));

    // The form shows the error at its field.
    click_on(&browser, &button("#pane-details", "Edit and run…"));
    wait_until("the run's choices are there", PATIENCE, || fields(&browser)[0] == "tools/say.sh");
    click_on(&browser, &button("#form", "Start say.sh"));
    wait_until("it is told", PATIENCE, || browser.text("wrong").contains("tools/say.sh"));
    assert_eq!(browser.script("return document.activeElement === document.querySelector('#form input[type=search]')"), true);
    assert_eq!(place.pipeline()["run_id"], 2);
}
