//! A hostile page makes the owner press a button of the status page with a click or key press that was meant for the hostile
//! page.

use serde_json::Value;

use super::hostile_page::hostile_site;
use crate::support::Place;
use crate::webdriver::{Browser, ENTER, PATIENCE, TAB, wait_until};

/// Stops the page's clock while `stopped` is set to a time, so that the test does not race against it. At an address with
/// `#stopped`, the clock is stopped from the beginning.
const STOPPABLE_CLOCK: &str = "
  const real = performance.now.bind(performance);
  window.stopped = location.hash === '#stopped' ? real() : null;
  performance.now = () => window.stopped ?? real();
  Object.defineProperty(Event.prototype, 'timeStamp', { get: performance.now });";

fn is_disabled(browser: &Browser) -> bool {
    browser.script("return document.getElementById('start').disabled") == true
}

fn wait_for(browser: &Browser, state: &str) {
    wait_until(&format!("the page shows {state}"), PATIENCE, || {
        browser.script("return document.readyState === 'complete' && !!document.getElementById('state')") == true
            && browser.state() == state
    });
}

/// "Press Tab, then Enter": on the first key the hostile page navigates to the status page, where the next keys would reach a
/// button.
#[test]
fn keys_that_a_hostile_page_asks_for_press_no_button() {
    let Some(browser) = Browser::fresh() else { return };
    let place = Place::serving("sleep.sh");
    let before = place.footprint();
    browser.before_each_page(STOPPABLE_CLOCK);
    browser.open(&hostile_site());
    let target = format!("http://127.0.0.1:{}/#stopped", place.port());
    browser.script(&format!("addEventListener('keydown', () => {{ location.href = '{target}'; }}, {{ once: true }})"));
    browser.press(TAB);
    wait_for(&browser, "stopped");
    // The page knows its role, so only its age keeps the button disabled.
    wait_until("the role is known", PATIENCE, || !browser.text("may").is_empty());
    for _ in 0..4 {
        for key in [TAB, ENTER, " "] {
            browser.press(key);
            assert!(is_disabled(&browser), "it could be pressed");
        }
    }
    assert_eq!(place.footprint(), before);
    // A page from the back/forward cache counts as new again.
    browser.script("window.stopped = null; dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))");
    browser.click("start");
    wait_for(&browser, "running");
}

/// A window over the status page closes on the first half of a double click, so that the status page gets the focus or is shown
/// right before the second half.
#[test]
fn second_half_of_a_double_click_on_a_hostile_window_presses_no_button() {
    let Some(browser) = Browser::fresh() else { return };
    let place = Place::serving("sleep.sh");
    let before = place.footprint();
    browser.before_each_page(STOPPABLE_CLOCK);
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
    wait_for(&browser, "stopped");
    wait_until("the page is no longer new", PATIENCE, || !is_disabled(&browser));
    let at = browser.script(
        "window.stopped = performance.now() + 1000;
         const it = document.getElementById('start').getBoundingClientRect();
         return [it.x + 9, it.y + 9]",
    );
    let passes = |ms: u32| browser.script(&format!("window.stopped += {ms}"));
    for appears in ["dispatchEvent(new Event('focus'))", "document.dispatchEvent(new Event('visibilitychange'))"] {
        browser.script(appears);
        passes(100);
        browser.click_at(&at);
        browser.script("document.getElementById('start').focus()");
        browser.press(ENTER);
        assert!(!is_disabled(&browser), "{appears}: a press that counts disables the button at once");
        assert_eq!(place.footprint(), before, "{appears}");
        passes(1000);
    }
    browser.click_at(&at);
    wait_for(&browser, "running");
}

/// A press on a button of a window without the focus gives it the focus, and counts.
#[test]
fn press_that_focuses_the_window_counts() {
    let Some(browser) = Browser::fresh() else { return };
    let place = Place::serving("sleep.sh");
    browser.before_each_page(STOPPABLE_CLOCK);
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
    wait_for(&browser, "stopped");
    wait_until("the page is no longer new", PATIENCE, || !is_disabled(&browser));
    let at: Value = browser.script(
        "const it = document.getElementById('start').getBoundingClientRect();
         window.stopped = performance.now();
         dispatchEvent(new Event('focus'));
         return [it.x + 9, it.y + 9]",
    );
    browser.click_at(&at);
    wait_for(&browser, "running");
}
