//! Text that tries to freeze the page, or to change the reading direction of the surrounding text.

use serde_json::{Value, json};

use super::log_page::{open, rows, set_up};
use super::page::run_nothing;
use crate::webdriver::{Browser, PATIENCE, wait_until};

/// The length of the longest record. The page's work for a record is counted in steps, because time depends on the machine.
const RECORD_CHARS: u64 = 65_536;
const STEPS_MAX: u64 = 4 * RECORD_CHARS + 8 * 8000;

fn append(browser: &Browser, lines: &[(String, bool)]) {
    let record = |(line, partial): &(String, bool)| json!({"id": 1, "ts": null, "stream": "stdout", "run_id": 1, "line": line, "partial": partial});
    let lines: Vec<Value> = lines.iter().map(record).collect();
    browser.script(&format!("return import('/static/app.js').then((it) => it.append({}))", json!(lines)));
}

fn until_read(browser: &Browser) {
    wait_until("the log was read", PATIENCE, || {
        browser.script("return 'read' in document.getElementById('log').dataset") == true
    });
}

#[test]
fn cost_of_a_record_with_thousands_of_sequences_is_limited() {
    let Some((browser, place)) = set_up("#!/bin/bash\n") else { return };
    open(&browser, &place);
    for piece in [
        "\u{1b}[1K",
        "\r\u{1b}[9999C\u{1b}[1K",
        "\u{1b}[9999Gx\u{1b}[1Kx",
        "\u{1b}[1J\u{8}",
        "\r\u{1b}[K\u{1b}[8000Gx",
        "\r\u{1b}[2K\u{1b}[9999C\u{1b}[Dx",
        "\u{1b}[38;2;1;2;3mx",
        "\u{1b}[38;5;99;48;5;98;38;5;97m",
        "\u{1b}[1;2;3;4;7mx",
        "\rx",
        "\u{1b}]",
    ] {
        let steps = browser.script(&format!(
            "return import('/static/app.js').then(({{ blank, write, steps }}) => {{ const line = blank(), piece = {};
               write(line, 'y'.repeat(8000), true); const before = steps();
               write(line, piece.repeat({RECORD_CHARS} / piece.length), true); return steps() - before; }})",
            json!(piece)
        ));
        let steps = steps.as_u64().expect("a number");
        assert!(steps > RECORD_CHARS / 2 && steps < STEPS_MAX, "{piece:?} takes {steps} steps");
    }
    // A sequence that consists only of codes.
    let codes = browser.script(
        "return import('/static/app.js').then(({ blank, write, steps }) => { const before = steps();
           write(blank(), `\\x1b[${'38;2;1;2;3;'.repeat(6000)}mx`, false); return steps() - before; })",
    );
    assert!(codes.as_u64().is_some_and(|steps| steps < STEPS_MAX), "{codes}");
    // Normal lines stay within the limit: a progress bar with a thousand states, each of which erases the previous one.
    let shown = browser.script(
        "return import('/static/app.js').then(({ blank, write }) => { const line = blank();
           for (let n = 0; n <= 1000; n++) write(line, `\\r\\x1b[2K\\x1b[32m${'#'.repeat(n / 10)}\\x1b[0m ${n}`, n < 1000); return line.text; })",
    );
    assert_eq!(shown, json!(format!("{} 1000", "#".repeat(100))));
}

#[test]
fn colourful_log_has_limited_nodes_and_mutations() {
    let Some((browser, place)) = set_up("#!/bin/bash\n") else { return };
    run_nothing(&place);
    open(&browser, &place);
    until_read(&browser);
    let colours = |count: u32| (0..count).map(|n| format!("\u{1b}[3{}mx", 1 + n % 6)).collect::<Vec<_>>().concat();
    let colourful = colours(1000);
    append(&browser, &vec![(colourful.clone(), false); 400]);
    wait_until("it is drawn", PATIENCE, || browser.script("return document.querySelectorAll('#log .row').length >= 100") == true);
    let nodes = browser.script("return document.querySelectorAll('#log *').length").as_u64().expect("a number");
    assert!((4_000..30_000).contains(&nodes), "{nodes} nodes");
    // Lines with a normal number of colours keep them all.
    append(&browser, &vec![(colours(60), false); 400]);
    wait_until("the last line is in colour", PATIENCE, || {
        browser.script(
            "const row = [...document.querySelectorAll('#log .row')].at(-1); return row.querySelectorAll('[class^=fg]').length",
        ) == 60
    });

    // A line that arrives in thousands of parts is drawn once a frame.
    browser.script(
        "window.changes = 0; new MutationObserver((list) => { window.changes += list.length; }).observe(document.getElementById('log'), { childList: true, subtree: true });",
    );
    append(&browser, &[("first".to_owned(), true)]);
    wait_until("it begins", PATIENCE, || browser.text("log").contains("first"));
    let parts: Vec<(String, bool)> = (0..3000).map(|n| (format!("\r\u{1b}[3{}mpart {n}", n % 7), n < 2999)).collect();
    append(&browser, &parts);
    wait_until("it ends", PATIENCE, || browser.text("log").contains("part 2999"));
    let changes = browser.script("return window.changes").as_u64().expect("a number");
    assert!(changes < 500, "{changes} changes of the document for one line");
    assert_eq!(rows(&browser).last().map(String::as_str), Some("part 2999"));
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn direction_characters_in_names_are_escaped() {
    let Some((browser, place)) = set_up("#!/bin/bash\n") else { return };
    let name = "a\u{202e}hs.b\u{2066}\u{200f}\u{61c}.sh";
    let shown = r"a\u{202e}hs.b\u{2066}\u{200f}\u{61c}.sh";
    place.script(name, "#!/bin/bash\necho '::step s\u{202e}pets'\necho '::progress 50 t\u{202e}xet'\necho end\nexec sleep 600\n");
    place.start_with(json!({"script": name, "args": ["b\u{2067}c"]}));
    open(&browser, &place);
    wait_until("it is told", PATIENCE, || browser.text("doing") == r"t\u{202e}xet · step 1, s\u{202e}pets");
    wait_until("the arguments are told", PATIENCE, || browser.text("script") == format!(r"{shown} 'b\u{{2067}}c'"));
    browser.click("tab-steps");
    wait_until("the step is there", PATIENCE, || browser.text("pane-steps").contains(r"s\u{202e}pets"));
    let acting = r"/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/";
    let found = browser.script(&format!(
        "return [document.title, ...[...document.querySelectorAll('[title], [aria-valuetext]')].flatMap((it) => [it.title, it.getAttribute('aria-valuetext')]),
           ...[...document.querySelectorAll('body *:not(#log, #log *)')].flatMap((it) => [...it.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data))]
         .filter((text) => {acting}.test(text ?? ''))"
    ));
    assert_eq!(found, json!([]));
    browser.click("stop");
    wait_until("it asks", PATIENCE, || browser.text("sure-title").contains(shown));
    assert!(browser.script("return document.title").as_str().is_some_and(|title| title.contains(shown)));
}

/// Each character of a line's text is to the right of the line's time and in its own row.
#[test]
fn direction_characters_in_a_line_affect_only_that_line() {
    let Some((browser, place)) = set_up("#!/bin/bash\n") else { return };
    run_nothing(&place);
    open(&browser, &place);
    until_read(&browser);
    let texts = [
        "\u{202e}desrever",
        "\u{2069}\u{202e}closed before",
        "\u{202b}\u{2067}open",
        "שלום abc",
        "\u{200f}mark",
        "\u{1b}[31m\u{202e}colour\u{1b}[0m more",
        "plain 123",
    ];
    let lines: Vec<Value> = texts.iter().map(|text| json!({"id": 1, "ts": "2026-11-30T10:00:00.000Z", "stream": "stdout", "run_id": 1, "line": text, "partial": false})).collect();
    browser.script(&format!("return import('/static/app.js').then((it) => it.append({}))", json!(lines)));
    wait_until("all are drawn", PATIENCE, || {
        browser.script("return document.querySelectorAll('#log .row').length") == texts.len()
    });
    let places = browser.script(
        "return [...document.querySelectorAll('#log .row')].map((row) => { const range = document.createRange();
           const box = (node) => { range.selectNodeContents(node); return range.getBoundingClientRect(); };
           const [time, text] = [box(row.firstChild), box(row.lastChild)];
           range.setStart(row.firstChild.firstChild, 0); range.setEnd(row.firstChild.firstChild, 1); const digit = range.getBoundingClientRect();
           return [time.right <= text.left + 1 && getComputedStyle(row.lastChild).unicodeBidi === 'isolate', digit.left <= time.left + 1, Math.round(time.left), row.firstChild.textContent]; })",
    );
    let places = places.as_array().expect("a list");
    for (place, text) in places.iter().zip(texts) {
        assert_eq!(place, &places[texts.len() - 1], "{text:?}");
        assert_eq!((&place[0], &place[1]), (&json!(true), &json!(true)), "{text:?}");
    }
}
