//! The browser that the tests share: no test sees what another one left, a browser that died is replaced, and none outlives its
//! test run.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::chromium::{Driver, Programs};
use crate::support::{Place, is_alive, pids, signal};

use crate::webdriver::{Browser, PATIENCE, wait_until};
use serde_json::json;

/// The data that a page could have from earlier tests.
const LEFT: &str = "return [document.cookie, localStorage.left ?? null, sessionStorage.left ?? null, window.leftBehind ?? null, innerWidth, \
                            matchMedia('(prefers-color-scheme: dark)').matches]";

fn open(browser: &Browser, place: &Place) {
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
}

/// Returns the live processes whose command lines contain this path.
fn processes_of(folder: &Path) -> Vec<u32> {
    let folder = folder.to_str().expect("text");
    let names =
        |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|it| String::from_utf8_lossy(&it).contains(folder));
    pids().into_iter().filter(names).filter(|&pid| is_alive(pid)).collect()
}

#[test]
fn shared_browser_keeps_nothing_from_earlier_tests() {
    let Some(browser) = Browser::start() else { return };
    let mut place = Place::new();
    place.start_server();
    open(&browser, &place);
    let clean = browser.script(LEFT);
    assert_eq!(clean, json!(["", null, null, null, clean[4], false]));

    browser.before_each_page("window.leftBehind = 1");
    browser.prefer("prefers-color-scheme", "dark");
    browser.be_a_phone(360, 740);
    browser.script("document.cookie = 'left=1'; localStorage.left = 1; sessionStorage.left = 1; console.error('left')");
    browser.script("open('about:blank')");
    open(&browser, &place);
    assert_eq!(browser.script(LEFT), json!(["left=1", "1", "1", 1, 360, true]));

    let turn = browser.give_on();
    let browser = Browser::take_over(&Programs::find().expect("it is there"), turn);
    assert_eq!(browser.console(), Vec::<String>::new());
    open(&browser, &place);
    assert_eq!(browser.script(LEFT), clean);
    assert_eq!(browser.script("return document.hidden"), false);
}

#[test]
fn dead_browser_is_replaced() {
    let Some(browser) = Browser::start() else { return };
    let folder = browser.driver().folder.clone();
    let turn = browser.give_on();
    let dying = processes_of(&folder.join("profile"));
    assert!(!dying.is_empty());
    for &pid in &dying {
        signal(pid, "KILL");
    }
    let browser = Browser::take_over(&Programs::find().expect("it is there"), turn);
    assert_ne!(browser.driver().folder, folder);
    assert!(!folder.exists());
    let mut place = Place::new();
    place.start_server();
    open(&browser, &place);
    wait_until("it shows the page", PATIENCE, || browser.state() == "stopped");
}

#[test]
fn browser_ends_with_its_owner_process() {
    // The fresh browser also holds the turn.
    let Some(browser) = Browser::fresh() else { return };
    let mut whom = Command::new("sleep").arg("1000").spawn().expect("sleep starts");
    let driver = Driver::start(&Programs::find().expect("it is there"), whom.id());
    assert_eq!((processes_of(&driver.folder).is_empty(), driver.folder.exists()), (false, true));
    whom.kill().expect("it is ours");
    whom.wait().expect("it is ours");
    wait_until("its folder is gone", PATIENCE, || !driver.folder.exists());
    wait_until("its processes are gone", PATIENCE, || processes_of(&driver.folder).is_empty());

    let folder = browser.driver().folder.clone();
    assert!(!processes_of(&folder).is_empty());
    drop(browser);
    assert!(!folder.exists());
    wait_until("its processes are gone", PATIENCE, || processes_of(&folder).is_empty());
}
