//! The actions of a person on elements without an id: finding a field by its label or a button by its text, clicking there, and
//! typing.
//!
//! `find` is always an expression in the page's script that returns an element or null.

use serde_json::{Value, json};

use crate::support::Place;
use crate::webdriver::{Browser, PATIENCE, wait_until};

/// Runs before the page's own scripts: records the bodies of its posts, and the addresses of its other requests.
pub(super) const RECORD: &str = "
  window.posted = []; window.asked = [];
  const realFetch = window.fetch;
  window.fetch = (path, init) => {
    if (init?.method === 'POST') window.posted.push(JSON.parse(init.body));
    else window.asked.push(path);
    return realFetch(path, init);
  };";

/// Returns an expression for the button with these words within the elements of a selector.
pub(super) fn button(within: &str, words: &str) -> String {
    format!("[...document.querySelectorAll('{within} button')].find((it) => it.textContent.trim() === '{words}')")
}

/// Returns an expression for the field of the start form with this label.
pub(super) fn field(label: &str) -> String {
    format!(
        "[...document.querySelectorAll('#form label')].find((it) => it.firstChild.textContent === '{label}')?.querySelector('input, textarea')"
    )
}

/// Returns an expression for the name (0) or the value (1) of a variable in the start form.
pub(super) fn variable(row: usize, column: usize) -> String {
    format!("document.querySelectorAll('#form .envs > div')[{row}]?.querySelectorAll('input')[{column}]")
}

/// Opens the page at `address` in a desktop window.
pub(super) fn open_at(browser: &Browser, place: &Place, address: &str) {
    browser.be_a_screen(1280, 800, false);
    browser.open("about:blank");
    browser.open(&format!("http://127.0.0.1:{}/{address}", place.port()));
}

/// Waits until the element can be pressed: it is visible, enabled and not covered. Returns its centre.
fn middle(browser: &Browser, find: &str) -> Value {
    let script = format!(
        "const it = {find};
         if (!it?.checkVisibility() || it.disabled || document.body.hasAttribute('data-settling')) return null;
         it.scrollIntoView({{ block: 'nearest' }});
         const {{ left, top, width, height }} = it.getBoundingClientRect(), at = [left + width / 2, top + height / 2];
         return it.contains(document.elementFromPoint(...at)) ? at : null"
    );
    let mut at = Value::Null;
    wait_until(&format!("{find} takes a press"), PATIENCE, || {
        at = browser.script(&script);
        !at.is_null()
    });
    at
}

pub(super) fn click_on(browser: &Browser, find: &str) {
    browser.click_at(&middle(browser, find));
}

pub(super) fn double_click_on(browser: &Browser, find: &str) {
    let at = middle(browser, find);
    for count in [1, 2] {
        for kind in ["mousePressed", "mouseReleased"] {
            let params = json!({"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": count});
            browser.devtools("Input.dispatchMouseEvent", &params);
        }
    }
}

pub(super) fn point_at(browser: &Browser, find: &str) {
    let at = middle(browser, find);
    browser.devtools("Input.dispatchMouseEvent", &json!({"type": "mouseMoved", "x": at[0], "y": at[1]}));
}

/// Replaces the text of a field by typing.
pub(super) fn write_into(browser: &Browser, find: &str, text: &str) {
    click_on(browser, find);
    browser.script("document.activeElement.select()");
    browser.devtools("Input.insertText", &json!({ "text": text }));
}

/// Returns the texts of the elements of a selector.
pub(super) fn texts(browser: &Browser, selector: &str) -> Vec<String> {
    let texts = browser.script(&format!("return [...document.querySelectorAll('{selector}')].map((it) => it.textContent)"));
    serde_json::from_value(texts).expect("texts")
}

/// Waits until an expression in the page's script holds.
pub(super) fn until_page(browser: &Browser, holds: &str) {
    wait_until(holds, PATIENCE, || browser.script(&format!("return !!({holds})")) == true);
}
