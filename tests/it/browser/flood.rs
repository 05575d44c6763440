//! A page that follows a run with a lot of output: the work of one turn is limited, so that the page can draw and handle clicks
//! in between.
//!
//! The duration of a turn depends on the machine, so the tests check the amount of work in one turn. The times are printed.

use std::thread;
use std::time::Duration;

use crate::webdriver::{Browser, PATIENCE, wait_until};

use super::log_page::{TOLD, open, say_up_to, set_up, shows_line};

/// The most bytes of the event stream that are processed at once.
const BYTES_MAX: u64 = 65_536;
/// The rows that one turn draws: three views, and the chunks that extend into them.
const ROWS_MAX: u64 = 700;

/// Records the size of each decoded piece of text, the number of rows that each turn adds to the log, and the long tasks.
const WATCH: &str = "window.pieces = []; window.drawn = []; window.tasks = [];
  const real = TextDecoder.prototype.decode;
  TextDecoder.prototype.decode = function (bytes, ...rest) { window.pieces.push(bytes?.length ?? 0); return real.call(this, bytes, ...rest); };
  new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((it) => Math.round(it.duration)))).observe({ type: 'longtask', buffered: true });
  addEventListener('DOMContentLoaded', () => new MutationObserver((changes) => {
    const added = changes.flatMap((it) => [...it.addedNodes]).filter((it) => it.nodeType === 1);
    window.drawn.push(added.reduce((sum, it) => sum + it.matches('.row') + it.querySelectorAll('.row').length, 0));
  }).observe(document.getElementById('log'), { subtree: true, childList: true }));";

/// Returns, since the last call: the most bytes in a decoded piece, the most rows drawn in one turn, the milliseconds of the
/// longest task, and the sum of the bytes.
fn largest(browser: &Browser) -> (u64, u64, u64, u64) {
    let largest = browser.script(
        "const found = [Math.max(0, ...pieces), Math.max(0, ...drawn), Math.max(0, ...tasks), pieces.reduce((a, b) => a + b, 0)];
         pieces.length = drawn.length = tasks.length = 0; return found",
    );
    serde_json::from_value(largest).expect("numbers")
}

#[test]
fn flood_is_processed_and_drawn_in_bounded_pieces() {
    let Some((browser, place)) = set_up(TOLD) else { return };
    browser.be_a_screen(1280, 800, false);
    browser.before_each_page(WATCH);
    place.start();
    say_up_to(&place, 10);
    open(&browser, &place);
    wait_until("the page follows", PATIENCE, || shows_line(&browser, "line 10"));
    say_up_to(&place, 11);
    wait_until("the stream is open", PATIENCE, || shows_line(&browser, "line 11"));
    largest(&browser);

    // This simulates a run that prints a thousand lines a second, or as fast as this machine can.
    for n in 1..=200 {
        say_up_to(&place, 11 + n * 50);
        thread::sleep(Duration::from_millis(50));
    }
    wait_until("the end is drawn", PATIENCE, || shows_line(&browser, "line 10011"));
    let (piece, drawn, ms, _) = largest(&browser);
    eprintln!("1,000 lines a second: {piece} bytes and {drawn} rows in one turn at most, {ms} ms in the longest task");
    assert!(piece <= BYTES_MAX && drawn <= ROWS_MAX, "{piece} bytes, {drawn} rows");

    say_up_to(&place, 110_011);
    wait_until("the end is drawn", PATIENCE, || shows_line(&browser, "line 110011"));
    let (piece, drawn, ms, all) = largest(&browser);
    eprintln!("100,000 lines: {piece} bytes and {drawn} rows in one turn at most, {ms} ms in the longest task, {all} bytes");
    assert!(piece <= BYTES_MAX && drawn <= ROWS_MAX, "{piece} bytes, {drawn} rows");
}
