//! The log on the page, in a real browser on the real binary: live and once each, back to its beginning, searched, coloured, rewritten in
//! place, bounded; and progress.

use std::fs;

use crate::support::Place;
use crate::support::sse::EventStream;
use crate::webdriver::{Browser, ENTER, PAGE_UP, PATIENCE, wait_until};
use serde_json::{Value, json};

const SCRIPT: &str = "log.sh";

/// Says `line <n>` as far as the file `upto` tells it to, and ends with the file `end`.
const TOLD: &str = r#"#!/bin/bash
n=0
while [ ! -e end ]; do
  read -r upto 2>/dev/null < upto || upto=0
  if [ "$n" -lt "$upto" ]; then
    seq -f 'line %.0f' $((n + 1)) "$upto"
    n=$upto
  fi
  sleep 0.02
done
"#;

/// A server whose script has this text, and a browser that shows nothing yet. `None` where there is no browser.
fn set_up(script: &str) -> Option<(Browser, Place)> {
    let browser = Browser::start()?;
    let mut place = Place::new();
    place.script(SCRIPT, script);
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", SCRIPT);
    place.start_server();
    Some((browser, place))
}

fn open(browser: &Browser, place: &Place) {
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
}

/// Lets the script say its lines up to this one.
fn say_up_to(place: &Place, n: u32) {
    // Put in place at once: a half-written number would be another.
    fs::write(place.root().join("upto.new"), format!("{n}\n")).expect("ours");
    fs::rename(place.root().join("upto.new"), place.root().join("upto")).expect("ours");
}

/// The text of every line that is loaded, in the document or not, without the marks between them.
fn rows(browser: &Browser) -> Vec<String> {
    let texts = browser.script(
        "return import('/static/log.js').then(({ bounds, rowAt }) => { const [from, to] = bounds(); const texts = [];
           for (let n = from; n < to; n++) if (!rowAt(n).isMark) texts.push(rowAt(n).text); return texts; })",
    );
    serde_json::from_value(texts).expect("texts")
}

fn lines(from: u32, to: u32) -> Vec<String> {
    (from..=to).map(|n| format!("line {n}")).collect()
}

fn wait_for_row(browser: &Browser, wanted: &str) {
    wait_until(&format!("{wanted:?} is the last line"), PATIENCE, || rows(browser).last().is_some_and(|last| last == wanted));
}

/// The last line that the API has.
fn last_line(place: &Place) -> String {
    let tail = place.get("/api/logs/tail?lines=1").body;
    tail["lines"][0]["line"].as_str().unwrap_or_default().to_owned()
}

/// How far the log is from its end, in pixels.
fn distance_from_end(browser: &Browser) -> f64 {
    let distance =
        browser.script("const it = document.getElementById('log'); return it.scrollHeight - it.scrollTop - it.clientHeight");
    distance.as_f64().expect("a number")
}

/// The page believes that it is hidden, or shown again: as a browser tells it.
fn set_hidden(browser: &Browser, is_hidden: bool) {
    browser.script(&format!(
        "Object.defineProperty(document, 'hidden', {{ value: {is_hidden}, configurable: true }});
         document.dispatchEvent(new Event('visibilitychange'))"
    ));
}

#[test]
fn each_line_shows_once_through_restarts_and_while_nobody_looks() {
    let Some((browser, mut place)) = set_up(TOLD) else { return };
    let port = place.port();
    place.set_env("AUTOAPPDEV_PORT", &port.to_string());
    open(&browser, &place);
    place.start();
    say_up_to(&place, 10);
    wait_for_row(&browser, "line 10");
    let mut last = 10;
    for _ in 0..3 {
        // Said while there is no server, and after it is back.
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
fn a_hidden_page_gives_its_stream_back_and_without_one_lines_are_polled() {
    let Some((browser, place)) = set_up(TOLD) else { return };
    open(&browser, &place);
    place.start();
    say_up_to(&place, 5);
    wait_for_row(&browser, "line 5");
    let mut streams: Vec<EventStream> = (0..63).map(|_| EventStream::open(place.port(), "", None)).collect();
    let one_more = || EventStream::try_open(place.port(), "", None).expect("an answer");
    // Where its stream began too slowly it polls for a minute, and then tries again.
    wait_until("the 64th is the page's", 3 * PATIENCE, || one_more().is_err());
    set_hidden(&browser, true);
    wait_until("the page has closed its stream", PATIENCE, || {
        let opened = one_more().ok();
        let is_open = opened.is_some();
        streams.extend(opened);
        is_open
    });
    // It is asleep, and does not only come back another way: who asks for a stream now is kept waiting, and it would have been told before us.
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
fn a_stream_that_has_nothing_to_tell_is_kept() {
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
    // A stream that begins too slowly is left for a minute of polling: then another one is the one to see.
    wait_until("a comment has come and the page's stream is the one from before it", 3 * PATIENCE, || {
        set_hidden(&browser, true);
        browser.script("window.asked = []");
        set_hidden(&browser, false);
        wait_until("the page asks", PATIENCE, || !asked().is_empty());
        let mut beside = EventStream::open(place.port(), "", None);
        beside.until("all that there is", |event| event.kind == "progress");
        beside.until_comment();
        asked().len() == 1 && asked()[0].contains("events")
    });
}

#[test]
fn who_reads_further_up_is_not_moved_and_comes_back_by_a_button() {
    let Some((browser, place)) = set_up(TOLD) else { return };
    place.start();
    say_up_to(&place, 400);
    open(&browser, &place);
    wait_for_row(&browser, "line 400");
    wait_until("the end is in view", PATIENCE, || distance_from_end(&browser) < 2.0 && !browser.shows("latest"));

    browser.script("document.getElementById('log').focus()");
    browser.press(PAGE_UP);
    wait_until("the page has let go of the end", PATIENCE, || browser.shows("latest") && distance_from_end(&browser) > 100.0);
    // Where the scrolling has come to rest: the row that was the first in view then, and where it is.
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
    // A pixel is rounding; a line is twenty.
    let assert_unmoved = || {
        let now = first_in_view();
        assert!(now.0 == before.0 && (now.1 - before.1).abs() < 3.0, "what is read stays where it is: {before:?}, {now:?}");
    };
    say_up_to(&place, 460);
    wait_until("the button counts", PATIENCE, || browser.text("latest") == "60 new lines");
    assert_unmoved();

    // Older lines come in above it, too.
    browser.script("return import('/static/log.js').then(({ prepend }) => prepend([{ id: 1, ts: null, stream: 'stdout', run_id: 1, line: 'older', partial: false }]))");
    assert_unmoved();

    browser.click("latest");
    wait_until("the end is in view", PATIENCE, || distance_from_end(&browser) < 2.0 && !browser.shows("latest"));
    say_up_to(&place, 470);
    wait_for_row(&browser, "line 470");
    wait_until("and stays so", PATIENCE, || distance_from_end(&browser) < 2.0 && browser.text("log").contains("line 470"));
}

#[test]
fn the_way_back_leads_to_the_first_line_and_misses_none() {
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
fn what_is_gone_is_told() {
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
    let tail = || place.get("/api/logs/tail?lines=1").body;
    wait_until("the log has it", PATIENCE, || {
        tail()["lines"][0]["line"].as_str().is_some_and(|line| line.starts_with("line 40000 ")) && tail()["first"] != 0
    });
    open(&browser, &place);
    wait_until("the beginning is reached", PATIENCE, || {
        browser.script("document.getElementById('log').scrollTop = 0");
        browser.text("log").contains("The log begins here; ") && browser.text("log").contains("MB before are not kept any more.")
    });
    let rows = rows(&browser);
    let kept: Vec<u32> = rows.iter().map(|row| row.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("a number")).collect();
    assert_eq!(kept, (kept[0]..=40_000).collect::<Vec<_>>());
    assert!(kept[0] > 1);
}

#[test]
fn a_flood_is_bounded_and_searched_without_hurry() {
    let Some((browser, place)) = set_up(TOLD) else { return };
    open(&browser, &place);
    place.start();
    say_up_to(&place, 1);
    wait_for_row(&browser, "line 1");
    say_up_to(&place, 103_000);
    wait_until("the end is drawn", PATIENCE, || browser.text("log").contains("line 103000"));
    let count = browser.script("return import('/static/log.js').then(({ bounds: b }) => b()[1] - b()[0])");
    assert!(count.as_u64() <= Some(100_000), "{count} are kept");
    assert!(count.as_u64() > Some(90_000), "{count} are kept: a flood that fits is taken in whole");
    assert!(browser.text("log").len() < 50_000, "few are in the document");

    browser.type_into("find", "LINE 1029");
    // 102900 to 102999, and 10290 to 10299.
    wait_until("it is counted", PATIENCE, || browser.text("found") == "110 lines · earlier ones not loaded");
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
    // A line that comes in now is found as well, and moves nobody.
    say_up_to(&place, 103_001);
    browser.type_into("find", "103001");
    wait_until("the new one is found", PATIENCE, || browser.text("found").starts_with("1 line ·"));
    browser.type_into("find", ".*");
    wait_until("nothing is a pattern", PATIENCE, || browser.text("found").starts_with("0 lines ·"));
}

#[test]
fn colours_are_classes_and_rewritten_lines_are_one() {
    let script = "#!/bin/bash\nprintf '\\e[1;31mred\\e[0m <i>plain</i>\\n'\n\
                  for n in 1 2 3 4 5 6 7 8 9; do printf '\\rat %d0%%' $n; sleep 0.1; done\n\
                  while [ ! -e end ]; do sleep 0.02; done; printf '\\rdone   \\nafter\\n'\n";
    let Some((browser, place)) = set_up(script) else { return };
    open(&browser, &place);
    place.start();
    wait_until("the bar is there, unfinished", PATIENCE, || rows(&browser).last().is_some_and(|last| last == "at 90%"));
    assert_eq!(rows(&browser), ["red <i>plain</i>", "at 90%"]);
    browser.type_into("find", "at 90");
    wait_until("it is found", PATIENCE, || browser.text("found") == "1 line");
    fs::write(place.root().join("end"), "").expect("ours");
    wait_for_row(&browser, "after");
    assert_eq!(rows(&browser), ["red <i>plain</i>", "done   ", "after"]);
    wait_until("it is found no more", PATIENCE, || browser.text("found") == "0 lines");
    let red =
        browser.script("return [document.querySelector('#log .fg1.bold')?.textContent, !!document.querySelector('#log i')]");
    assert_eq!(red, json!(["red", false]));

    // Loaded anew it is the same, from the records as they are kept.
    open(&browser, &place);
    wait_for_row(&browser, "after");
    assert_eq!(rows(&browser), ["red <i>plain</i>", "done   ", "after"]);
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn a_line_is_what_a_terminal_would_show() {
    let Some((browser, place)) = set_up("#!/bin/bash\n") else { return };
    open(&browser, &place);
    // Records of one line, its text, and the classes of its characters in runs.
    let cases: &[(&[&str], &str, &str)] = &[
        (&["plain"], "plain", "5:"),
        (&["10%\r100%\r"], "100%", "4:"),
        (&["abcdef\rxy"], "xycdef", "6:"),
        (&["abc\u{1b}[2K\rz"], "z", "1:"),
        (&["abc\rz\u{1b}[K"], "z", "1:"),
        (&["ab\u{8}c"], "ac", "2:"),
        (&["a\u{1b}[5Gb"], "a   b", "5:"),
        (&["\u{1b}[31mr\u{1b}[44mb\u{1b}[39mn\u{1b}[0mx"], "rbnx", "1:fg1 1:fg1 bg4 1:bg4 1:"),
        (&["\u{1b}[1;2;3;4;7ma\u{1b}[22;23;24;27mb"], "ab", "1:bold dim italic underline reverse 1:"),
        (&["\u{1b}[38;5;196ma\u{1b}[38;2;0;0;250mb\u{1b}[48:2::0:255:0mc"], "abc", "1:fg9 1:fg4 1:fg4 bg10"),
        (&["\u{1b}[91mx\u{1b}[107my"], "xy", "1:fg9 1:fg9 bg15"),
        (&["\u{1b}[3", "1mred", " still"], "red still", "9:fg1"),
        (&["\u{1b}]0;title\u{7}a\u{1b}]8;;http://x\u{1b}\\b\u{1b}(Bc\u{1b}[?25ld\u{0}e\u{9b}f"], "abcdef", "6:"),
        // What has no end hides nothing.
        (&["\u{1b}]0;all of it"], "0;all of it", "11:"),
        (&["\u{1b}[38;5ma\u{1b}[38;5;999mb\u{1b}[999mc\u{1b}[38;2;1md\u{1b}[;;;me"], "abcde", "5:"),
        (&["<b class=\"x\">&amp;\u{202e}"], "<b class=\"x\">&amp;\u{202e}", "19:"),
    ];
    for (records, text, looks) in cases {
        let found = browser.script(&format!(
            "return import('/static/ansi.js').then(({{ blank, write, classes }}) => {{
               const records = {}, line = blank(); records.forEach((it, n) => write(line, it, n < records.length - 1));
               const runs = []; for (let n = 0; n < line.text.length; n++) {{ const it = classes(line.tones.charCodeAt(n) || 0);
                 if (runs.length && runs.at(-1)[1] === it) runs.at(-1)[0]++; else runs.push([1, it]); }}
               return [line.text, runs.map(([count, it]) => `${{count}}:${{it}}`).join(' ')]; }})",
            json!(records)
        ));
        assert_eq!(found, json!([text, looks]), "{records:?}");
    }
    // Made to be slow for whoever copies a line for each of its parts or looks for an end again and again: it would not be done in time.
    let long = browser.script(
        "return import('/static/ansi.js').then(({ blank, write }) => ['\\rx', '\\x1b[', '\\x1b]', '\\x1b[1;', '\\x1b[31mx', '\\b', '\\x1b[K', '\\x1b[9999Gx'].map((part) => {
           const line = blank(); write(line, 'y'.repeat(8000), true); write(line, part.repeat(60000), false); return line.text.length; }))",
    );
    assert!(long.as_array().is_some_and(|lengths| lengths.iter().all(|it| it.as_u64() <= Some(8000))), "{long}");
}

#[test]
fn a_line_that_began_further_up_is_one_line() {
    let Some((browser, place)) = set_up("#!/bin/bash\n") else { return };
    open(&browser, &place);
    // Before that the page would begin with what there is, and take away what was added here.
    wait_until("the log was read", PATIENCE, || {
        browser.script("return 'read' in document.getElementById('log').dataset") == true
    });
    let add = |function: &str, records: &[(&str, &str, bool)]| {
        let lines: Vec<Value> = records
            .iter()
            .map(|(stream, line, partial)| json!({"id": 1, "ts": null, "stream": stream, "run_id": 1, "line": line, "partial": partial}))
            .collect();
        browser.script(&format!("return import('/static/log.js').then((it) => it.{function}({}))", json!(lines)));
        rows(&browser)
    };
    assert_eq!(add("append", &[("stdout", "30%\r", true), ("stderr", "oops", false)]), ["30%", "oops"]);
    assert_eq!(add("prepend", &[("stdout", "20% done\r", true)]), ["30% done", "oops"]);
    // More of it, and the line before.
    assert_eq!(
        add("prepend", &[("stdout", "first", false), ("stderr", "o", false), ("stdout", "10% done!\r", true)]),
        ["first", "o", "30% done!", "oops"]
    );
    // Its end is still to come.
    assert_eq!(
        add("append", &[("stdout", "99%", false), ("stdout", "last", false)]),
        ["first", "o", "99% done!", "oops", "last"]
    );
    wait_until("all of it is drawn", PATIENCE, || browser.text("log").contains("last"));
    assert_eq!(browser.text("log").matches("run 1").count(), 1, "the run begins once");
    assert_eq!(browser.console(), Vec::<String>::new());
}

/// A line's own time is the clock's alone.
#[test]
fn the_log_tells_of_which_day_its_lines_are() {
    let Some((browser, place)) = set_up("#!/bin/bash\n") else { return };
    open(&browser, &place);
    wait_until("it is connected", PATIENCE, || browser.state() == "stopped");
    let add = |function: &str, records: &[(i64, &str, &str, bool)]| {
        let lines: Vec<Value> = records
            .iter()
            .map(|(run, day, line, partial)| {
                let ts = (!day.is_empty()).then(|| format!("2026-11-{day}.000Z"));
                json!({"id": 1, "ts": ts, "stream": "stdout", "run_id": run, "line": line, "partial": partial})
            })
            .collect();
        let rows = browser.script(&format!(
            "return import('/static/log.js').then((it) => {{ it.{function}({}); const [from, to] = it.bounds(); const texts = [];
               for (let n = from; n < to; n++) texts.push(it.rowAt(n).text); return texts; }})",
            json!(lines)
        ));
        serde_json::from_value::<Vec<String>>(rows).expect("texts")
    };
    // No two of these are on one day, wherever the browser is.
    let day = |day: u32| {
        let at = format!("2026-11-{day}T12:30:00Z");
        let words = browser.script(&format!("return new Date('{at}').toDateString()"));
        words.as_str().expect("a text").to_owned()
    };
    let (mon, tue, wed) = (day(16), day(17), day(18));
    assert!(mon.contains("16") && mon.contains("2026"), "{mon}");
    let begun = add("append", &[(7, "17T12:30:00", "a", false), (7, "17T12:30:01", "b", false), (7, "", "damaged", false)]);
    let run = |n: u32, day: &str| format!("run {n} · {day}");
    assert_eq!(begun, [&run(7, &tue), "a", "b", "damaged"]);
    // A line that is not finished at midnight has begun before; the next one has not.
    assert_eq!(add("append", &[(7, "17T12:30:02", "c", true), (7, "18T12:30:00", " c", false)])[4..], ["c c"]);
    assert_eq!(add("append", &[(7, "18T12:30:01", "d", false)])[4..], ["c c", &wed, "d"]);
    // Of the same day, the mark goes further up; of the day before, the day stays where it began.
    assert_eq!(add("prepend", &[(7, "17T12:29:00", "z", false)])[..3], [&run(7, &tue), "z", "a"]);
    assert_eq!(add("prepend", &[(7, "16T12:30:00", "y", false)])[..4], [&run(7, &mon), "y", &tue, "z"]);
    let all = add("prepend", &[(6, "16T12:00:00", "x", false)]);
    assert_eq!(all[..5], [&run(6, &mon), "x", &run(7, &mon), "y", &tue]);
    wait_until("all of it is drawn", PATIENCE, || browser.text("log").contains("d\n") || browser.text("log").ends_with('d'));
    let text = browser.text("log");
    assert_eq!((text.matches(&tue).count(), text.matches("run 7").count()), (1, 1), "{text}");
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn lines_wrap_or_not_as_it_was_chosen() {
    let Some((browser, place)) = set_up("#!/bin/bash\nprintf 'wide %.0s' {1..300}; echo; sleep 1000\n") else { return };
    open(&browser, &place);
    place.start();
    let is_wide = || browser.script("const it = document.getElementById('log'); return it.scrollWidth > it.clientWidth") == true;
    wait_until("the line is there", PATIENCE, || browser.text("log").contains("wide wide"));
    assert!(!is_wide());
    browser.click("wrap");
    wait_until("it goes on to the right", PATIENCE, is_wide);
    open(&browser, &place);
    wait_until("it still does", PATIENCE, is_wide);
    assert_eq!(browser.script("return document.getElementById('wrap').getAttribute('aria-pressed')"), "false");
    browser.be_a_phone(320, 600);
    assert_eq!(browser.script("return document.documentElement.scrollWidth"), 320, "the page itself does not");
}

#[test]
fn the_downloads_are_of_the_latest_run() {
    let Some((browser, place)) = set_up("#!/bin/bash\necho one\n") else { return };
    open(&browser, &place);
    wait_until("it is connected", PATIENCE, || browser.state() == "stopped");
    assert!(!browser.shows("downloads"), "nothing has run");
    let (_, run_id) = place.start();
    wait_until("there is something", PATIENCE, || browser.shows("downloads"));
    let links =
        browser.script("return ['download', 'download-plain'].map((id) => document.getElementById(id).getAttribute('href'))");
    let address = format!("api/runs/{run_id}/log?download=1");
    assert_eq!(links, json!([address, format!("{address}&timestamps=0")]));
}

#[test]
fn progress_is_a_bar_and_steps() {
    let Some((browser, place)) = set_up("#!/bin/bash\n") else { return };
    open(&browser, &place);
    wait_until("it is connected", PATIENCE, || browser.state() == "stopped");
    assert!(!browser.shows("progress"), "nothing is told");
    // Begun a minute ago and paused for twenty seconds of that, as the history tells. What comes of it is looked at before the page's own
    // clock and the server's answers get their turn: both would draw something else.
    let show = |progress: &Value| {
        browser.script(&format!(
            "const now = Date.parse('2026-01-31T10:01:00.000Z'); const ask = async () => ({{ ok: true, body: {{ run: {{ events: [
               {{ kind: 'spawned', at: '2026-01-31T10:00:00.000Z' }}, {{ kind: 'paused', at: '2026-01-31T10:00:10.000Z' }},
               {{ kind: 'resumed', at: '2026-01-31T10:00:30.000Z' }}] }} }} }});
             const id = (it) => document.getElementById(it), shows = (it) => id(it).checkVisibility();
             return import('/static/progress.js').then(async ({{ showProgress }}) => {{
               showProgress(7, {progress}, {{ run_id: 7, version: 1, state: 'running' }}, now, ask);
               for (let n = 0; n < 100; n++) await null;
               const bar = id('bar');
               return {{ shown: [shows('progress'), shows('bar'), shows('steps')], percent: id('percent').textContent, doing: id('doing').textContent,
                 bar: [bar.getAttribute('role'), bar.getAttribute('aria-valuenow'), bar.getAttribute('aria-valuetext'),
                   Math.round(bar.firstElementChild.getBoundingClientRect().width / bar.clientWidth * 100)],
                 steps: [...document.querySelectorAll('#steps li')].map((it) => [it.textContent, it.getAttribute('aria-current')]),
                 before: [id('steps-before').textContent, id('steps').start] }}; }})"
        ))
    };
    let step = |name: &str, ms: Value| json!({"name": name, "started_at": "2026-01-31T10:00:00.000Z", "ended_at": if ms.is_null() { Value::Null } else { "2026-01-31T10:00:05.000Z".into() }, "ms": ms});
    let all = show(&json!({"percent": 40, "text": "Building <b>", "at": "2026-01-31T10:00:50.000Z",
                "steps": [step("Fetch", 4200.into()), step("Build", Value::Null)], "steps_before": 3}));
    assert_eq!(
        all,
        json!({"shown": [true, true, true], "percent": "40 %", "doing": "Building <b>",
               "bar": ["progressbar", "40", "40 %, Building <b>", 40],
               "steps": [["Fetch 4.2 s", null], ["Build 40 s", "step"]], "before": ["3 earlier steps", 4]})
    );
    let nothing_of_it = json!({"percent": null, "text": null, "at": "2026-01-31T10:00:50.000Z", "steps": [], "steps_before": 0});
    assert_eq!(show(&nothing_of_it)["shown"], json!([true, false, false]), "what is not told is not shown");
    assert_eq!(show(&Value::Null)["shown"][0], false);
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn a_late_word_on_progress_takes_nothing_back() {
    let script = "#!/bin/bash\necho '::progress 60 sixty'\nuntil [ -e go ]; do sleep 0.02; done\necho after\nsleep 1000\n";
    let Some((browser, mut place)) = set_up(script) else { return };
    place.set_env("AUTOAPPDEV_PORT", &place.port().to_string());
    open(&browser, &place);
    place.start();
    wait_until("the bar is there", PATIENCE, || browser.text("percent") == "60 %");
    // From here on the stream's word is an older one, and the answers are from before the first.
    browser.script(
        r#"const real = window.fetch;
           window.late = {};
           const changes = { events: [/"percent":60(.*?"at":)"20/g, '"percent":1$1"19'], pipeline: [/"progress":\{[^{}]*\}/g, '"progress":null'] };
           window.fetch = async (path, init) => {
             const answer = await real(path, init);
             const [, what] = /^api\/(events|pipeline)\b/.exec(path) ?? [];
             if (!what) return answer;
             const change = new TransformStream({ transform(text, to) {
               const changed = text.replace(...changes[what]);
               if (changed !== text) window.late[what] = true;
               to.enqueue(changed);
             } });
             const body = answer.body.pipeThrough(new TextDecoderStream()).pipeThrough(change).pipeThrough(new TextEncoderStream());
             return new Response(body, { status: answer.status, headers: answer.headers });
           };"#,
    );
    place.restart_server();
    wait_until("both are late", PATIENCE, || browser.script("return late") == json!({"events": true, "pipeline": true}));
    fs::write(place.root().join("go"), "").expect("ours");
    wait_for_row(&browser, "after");
    assert!(browser.shows("progress"));
    assert_eq!(browser.text("percent"), "60 %");
}
