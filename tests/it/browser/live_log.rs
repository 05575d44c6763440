//! The log on the page, in a real browser with the real binary: it shows each line once while lines come in, and is complete,
//! searchable and limited.

use crate::support::sse::EventStream;
use crate::webdriver::{Browser, ENTER, PAGE_UP, PATIENCE, wait_until};

use super::log_page::{TOLD, last_line, lines, open, rows, say_up_to, set_up, shows_line, wait_for_row};

/// Returns the distance between the view of the log and its end, in pixels.
fn distance_from_end(browser: &Browser) -> f64 {
    let distance =
        browser.script("const it = document.getElementById('log'); return it.scrollHeight - it.scrollTop - it.clientHeight");
    distance.as_f64().expect("a number")
}

/// Makes the page believe that it is hidden, or visible again, as a browser would report it.
fn set_hidden(browser: &Browser, is_hidden: bool) {
    browser.script(&format!(
        "Object.defineProperty(document, 'hidden', {{ value: {is_hidden}, configurable: true }});
         document.dispatchEvent(new Event('visibilitychange'))"
    ));
}

#[test]
fn each_line_is_shown_once_across_restarts_and_while_hidden() {
    let Some((browser, mut place)) = set_up(TOLD) else { return };
    let port = place.port();
    place.set_env("AUTOAPPDEV_PORT", &port.to_string());
    open(&browser, &place);
    place.start();
    say_up_to(&place, 10);
    wait_for_row(&browser, "line 10");
    let mut last = 10;
    for _ in 0..3 {
        // The script prints while there is no server, and after the restart.
        place.kill_server();
        say_up_to(&place, last + 50);
        place.start_server();
        wait_for_row(&browser, &format!("line {}", last + 50));
        last += 60;
        say_up_to(&place, last);
        wait_for_row(&browser, &format!("line {last}"));
    }
    set_hidden(&browser, true);
    last += 100;
    say_up_to(&place, last);
    wait_until("the log has it", PATIENCE, || last_line(&place) == format!("line {last}"));
    set_hidden(&browser, false);
    wait_for_row(&browser, &format!("line {last}"));
    assert_eq!(rows(&browser), lines(1, last));
}

#[test]
fn hidden_page_closes_its_stream_and_polls_when_none_is_free() {
    let Some((browser, place)) = set_up(TOLD) else { return };
    open(&browser, &place);
    place.start();
    say_up_to(&place, 5);
    wait_for_row(&browser, "line 5");
    let mut streams: Vec<EventStream> = (0..63).map(|_| EventStream::open(place.port(), "", None)).collect();
    let one_more = || EventStream::try_open(place.port(), "", None).expect("an answer");
    // If its stream began too slowly, the page polls for a minute before it tries again.
    wait_until("the 64th is the page's", 3 * PATIENCE, || one_more().is_err());
    set_hidden(&browser, true);
    wait_until("the page has closed its stream", PATIENCE, || {
        let opened = one_more().ok();
        let is_open = opened.is_some();
        streams.extend(opened);
        is_open
    });
    // The hidden page has not switched to polling: a refusal takes a while, and in that time a polling page would have received
    // the line.
    for n in 6..=8 {
        say_up_to(&place, n);
        wait_until("the log has it", PATIENCE, || last_line(&place) == format!("line {n}"));
        assert!(one_more().is_err(), "all are ours");
    }
    assert_eq!(rows(&browser), lines(1, 5));
    say_up_to(&place, 10);
    set_hidden(&browser, false);
    wait_for_row(&browser, "line 10");
    assert!(one_more().is_err(), "the page has none");
    say_up_to(&place, 15);
    wait_for_row(&browser, "line 15");
    assert_eq!(rows(&browser), lines(1, 15));
    drop(streams);
}

#[test]
fn idle_stream_is_kept_open() {
    let Some((browser, place)) = set_up(TOLD) else { return };
    open(&browser, &place);
    browser.script(
        "window.asked = []; const real = window.fetch;
         window.fetch = (...asked) => { window.asked.push(String(asked[0])); return real(...asked); };",
    );
    let asked = || -> Vec<String> {
        let of_log = browser.script("return window.asked.filter((asked) => /api\\/(events|logs\\?)/.test(asked))");
        serde_json::from_value(of_log).expect("texts")
    };
    // A page whose stream began too slowly polls for a minute, so its next stream is the one to watch.
    wait_until("a comment has come and the page's stream is the one from before it", 3 * PATIENCE, || {
        set_hidden(&browser, true);
        browser.script("window.asked = []");
        set_hidden(&browser, false);
        wait_until("the page asks", PATIENCE, || !asked().is_empty());
        let mut beside = EventStream::open(place.port(), "", None);
        beside.until("all that there is", |event| event.kind == "usage");
        beside.until_comment();
        asked().len() == 1 && asked()[0].contains("events")
    });
}

#[test]
fn scrolled_up_log_stays_in_place_until_jump_to_the_end() {
    let Some((browser, place)) = set_up(TOLD) else { return };
    place.start();
    say_up_to(&place, 400);
    open(&browser, &place);
    wait_for_row(&browser, "line 400");
    wait_until("the end is in view", PATIENCE, || distance_from_end(&browser) < 2.0 && !browser.shows("latest"));

    browser.script("document.getElementById('log').focus()");
    browser.press(PAGE_UP);
    wait_until("the page has let go of the end", PATIENCE, || browser.shows("latest") && distance_from_end(&browser) > 100.0);
    // After the scrolling has ended: the row that was first in view then, and its position.
    let first_in_view = || -> (String, f64) {
        let found = browser.script(
            "return new Promise((done) => { const log = document.getElementById('log'); const edge = log.getBoundingClientRect().top;
               let last, same = 0; const look = () => {
                 const row = window.held ??= [...log.querySelectorAll('.row, .mark')].find((it) => it.getBoundingClientRect().bottom > edge + 2);
                 const top = row.getBoundingClientRect().top; same = top === last ? same + 1 : 0; last = top;
                 if (same > 20) done([row.textContent, top]); else requestAnimationFrame(look); }; look(); })",
        );
        serde_json::from_value(found).expect("a row")
    };
    let before = first_in_view();
    // A difference of a pixel is rounding; a line has about twenty.
    let assert_unmoved = || {
        let now = first_in_view();
        assert!(now.0 == before.0 && (now.1 - before.1).abs() < 3.0, "what is read stays where it is: {before:?}, {now:?}");
    };
    say_up_to(&place, 460);
    wait_until("the button counts", PATIENCE, || browser.text("latest") == "60 new lines");
    assert_unmoved();

    // Older lines are added above it, too.
    browser.script("return import('/static/app.js').then(({ prepend }) => prepend([{ id: 1, ts: null, stream: 'stdout', run_id: 1, line: 'older', partial: false }]))");
    assert_unmoved();

    browser.click("latest");
    wait_until("the end is in view", PATIENCE, || distance_from_end(&browser) < 2.0 && !browser.shows("latest"));
    say_up_to(&place, 470);
    wait_for_row(&browser, "line 470");
    wait_until("and stays so", PATIENCE, || distance_from_end(&browser) < 2.0 && shows_line(&browser, "line 470"));
}

#[test]
fn scrolling_up_loads_every_line_to_the_first() {
    let Some((browser, place)) = set_up("#!/bin/bash\nseq -f 'line %.0f' 6000\n") else { return };
    place.start();
    wait_until("the log has it", PATIENCE, || last_line(&place) == "line 6000");
    open(&browser, &place);
    wait_for_row(&browser, "line 6000");
    assert!(rows(&browser).len() < 6000, "not all at once");
    wait_until("the beginning is reached", PATIENCE, || {
        browser.script("document.getElementById('log').scrollTop = 0");
        browser.text("log").contains("The log begins here.")
    });
    assert_eq!(rows(&browser), lines(1, 6000));
    assert!(
        browser.script("return document.querySelectorAll('#log .row').length").as_u64() < Some(1000),
        "few are in the document"
    );
}

#[test]
fn log_start_reports_bytes_no_longer_kept() {
    let Some((browser, mut place)) =
        set_up("#!/bin/bash\nseq -f 'line %.0f some words to fill a file of one megabyte in a while' 40000\n")
    else {
        return;
    };
    place.kill_server();
    place.set_env("AUTOAPPDEV_LOG_SEGMENT_MB", "1");
    place.set_env("AUTOAPPDEV_LOG_RUN_MB", "2");
    place.start_server();
    place.start();
    let tail = || place.get("/api/logs/tail?limit=1").body;
    wait_until("the log has it", PATIENCE, || {
        tail()["lines"][0]["line"].as_str().is_some_and(|line| line.starts_with("line 40000 ")) && tail()["first"] != 0
    });
    open(&browser, &place);
    wait_until("the beginning is reached", PATIENCE, || {
        browser.script("document.getElementById('log').scrollTop = 0");
        browser.text("log").contains("The log begins here; ") && browser.text("log").contains("MB before are no longer kept.")
    });
    let rows = rows(&browser);
    let kept: Vec<u32> = rows.iter().map(|row| row.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number")).collect();
    assert_eq!(kept, (kept[0]..=40_000).collect::<Vec<_>>());
    assert!(kept[0] > 1);
}

#[test]
fn flood_keeps_at_most_100000_lines_and_stays_searchable() {
    let Some((browser, place)) = set_up(TOLD) else { return };
    open(&browser, &place);
    place.start();
    say_up_to(&place, 1);
    wait_for_row(&browser, "line 1");
    say_up_to(&place, 103_000);
    wait_until("the end is drawn", PATIENCE, || shows_line(&browser, "line 103000"));
    let count = browser.script("return import('/static/app.js').then(({ rowBounds: b }) => b()[1] - b()[0])");
    assert!(count.as_u64() <= Some(100_000), "{count} are kept");
    assert!(count.as_u64() > Some(90_000), "{count} are kept: a flood that fits is taken in whole");
    assert!(browser.text("log").len() < 50_000, "few are in the document");

    browser.type_into("find", "LINE 1029");
    // 1029, 10290 to 10299, and 102900 to 102999, including those that are not loaded.
    wait_until("it is counted", PATIENCE, || browser.text("found") == "111 lines");
    browser.press(ENTER);
    wait_until("one is shown", PATIENCE, || browser.script("return !!document.querySelector('#log .current')") == true);
    let current = || {
        let text = browser.script("return document.querySelector('#log .current > span')?.textContent ?? ''");
        text.as_str().expect("text").to_owned()
    };
    let begun = current();
    browser.click("find-previous");
    wait_until("the one before it is shown", PATIENCE, || current() != begun && !current().is_empty());
    browser.click("find-next");
    wait_until("and it again", PATIENCE, || current() == begun);
    assert!(browser.text("announce").contains(&begun), "a screen reader is told");
    let marked = browser.script("return document.querySelector('#log .current mark').textContent");
    assert_eq!(marked, "line 1029");
    // A line that comes in now is found as well, without moving the view.
    say_up_to(&place, 103_001);
    browser.type_into("find", "103001");
    wait_until("the new one is found", PATIENCE, || browser.text("found") == "1 line");
    browser.type_into("find", ".*");
    wait_until("nothing is a pattern", PATIENCE, || browser.text("found") == "0 lines");
}
