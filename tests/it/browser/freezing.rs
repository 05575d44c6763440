//! Output of a pipeline, or an address, that is meant to freeze the page.
//!
//! Drawing takes time, and time depends on the machine. So the tests check how much is drawn or how often something is done, or
//! that the page answers at all although it would have needed minutes.

use std::fs;

use serde_json::json;

use crate::support::Place;
use crate::webdriver::{Browser, PATIENCE, wait_until};

use super::hand::{RECORD, until_page};
use super::log_page::{TOLD, lines, open, rows, say_up_to, set_up, wait_for_row};
use super::page::run_nothing;

/// The most characters of a line that are shown.
const CHARS_MAX: u64 = 8000;
/// The most characters of the rows that one frame draws. The last row of a frame may exceed it.
const FRAME_CHARS: u64 = 30_000;

/// Opens a page that has read the log of a run without output, and follows its end.
fn open_empty(browser: &Browser, place: &Place) {
    run_nothing(place);
    open(browser, place);
    until_page(browser, "'read' in document.getElementById('log').dataset");
    browser.script("document.getElementById('log').focus()");
    browser.press("G");
}

/// Adds the lines that an expression in the page's script returns, in the form of the API. Each may be a list: the records of one
/// line.
fn append(browser: &Browser, texts: &str) {
    browser.script(&format!(
        "const record = (line, partial) => ({{ id: 1, ts: null, stream: 'stdout', run_id: 1, line, partial }});
         return import('/static/app.js').then((it) => it.append(({texts}).flatMap((text) =>
           [text].flat().map((line, n, all) => record(line, n < all.length - 1)))))"
    ));
}

fn number(browser: &Browser, script: &str) -> u64 {
    let found = browser.script(script);
    found.as_u64().unwrap_or_else(|| panic!("{found} is no number"))
}

/// JavaScript treats these two characters as line ends, the event stream does not, and JSON may contain them.
#[test]
fn line_separators_in_names_and_lines_do_not_break_the_stream() {
    let Some(browser) = Browser::start() else { return };
    let mut place = Place::new();
    let name = "a\u{2028}b\u{2029}.sh";
    place.script(
        name,
        "#!/bin/bash\nuntil [ -e go ]; do sleep 0.02; done\n\
         printf '%s\\n' 'a\u{2028}b' '::progress 5 c\u{2028}d' '::step e\u{2029}f' 'g\u{2028}data: 5\u{2028}'\n\
         until [ -e on ]; do sleep 0.02; done\necho end\nexec sleep 600\n",
    );
    place.start_server();
    browser.before_each_page(RECORD);
    place.start_with(json!({"script": name}));
    open(&browser, &place);
    let streams = || number(&browser, "return asked.filter((it) => it.startsWith('api/events')).length");
    until_page(&browser, "'read' in document.getElementById('log').dataset");
    fs::write(place.root().join("go"), "").expect("ours");
    let said = ["a\u{2028}b", "::progress 5 c\u{2028}d", "::step e\u{2029}f", "g\u{2028}data: 5\u{2028}"];
    wait_until("the lines are there", PATIENCE, || rows(&browser) == said);
    until_page(&browser, r"document.getElementById('doing').textContent === 'c\\u{2028}d · step 1, e\\u{2029}f'");
    let before = streams();
    fs::write(place.root().join("on"), "").expect("ours");
    wait_for_row(&browser, "end");
    assert_eq!(streams(), before, "the stream goes on");
    assert_eq!(browser.text("live"), "live");
}

/// If the page read the selection between changes, each changed chunk would cause a layout of the whole log when the log is shown
/// again.
#[test]
fn showing_a_log_of_a_thousand_steps_causes_few_layouts() {
    let Some((browser, place)) = set_up(TOLD_AS_STEPS) else { return };
    browser.be_a_screen(1280, 800, false);
    place.start();
    open(&browser, &place);
    until_page(&browser, "document.getElementById('live').textContent === 'live'");
    say_up_to(&place, 1000);
    wait_for_row(&browser, "::step 1000");
    until_page(&browser, "document.getElementById('log').innerText.includes('1000')");
    browser.devtools("Performance.enable", &json!({}));
    let layouts = || {
        let metrics = browser.devtools("Performance.getMetrics", &json!({}));
        let found = metrics["metrics"].as_array().and_then(|all| all.iter().find(|it| it["name"] == "LayoutCount"));
        found.and_then(|it| it["value"].as_f64()).expect("a number")
    };
    browser.click("tab-steps");
    until_page(&browser, "document.getElementById('pane-log').hidden");
    let before = layouts();
    browser.click("tab-log");
    until_page(&browser, "!document.getElementById('pane-log').hidden");
    browser.settle();
    let count = layouts() - before;
    assert!(count < 200.0, "{count} layouts");
}

/// Prints `::step <n>` up to the number in the file `upto`.
const TOLD_AS_STEPS: &str = "#!/bin/bash\nn=0\nwhile :; do\n  read -r upto 2>/dev/null < upto || upto=0\n  \
  [ $n -ge $upto ] || seq -f '::step %.0f' $((n + 1)) $upto\n  [ $n -ge $upto ] || n=$upto\n  sleep 0.02\ndone\n";

/// A search for the text after the blanks that backtracks would take the square of their number.
#[test]
fn long_blanks_in_step_lines_do_not_freeze_the_page() {
    let Some((browser, place)) = set_up("#!/bin/bash\n") else { return };
    open_empty(&browser, &place);
    for word in ["::step a", "::progress 5 a"] {
        append(&browser, &format!("Array(5000).fill('{word}' + ' '.repeat(7900) + 'b \\t')"));
        wait_until("the page answers", PATIENCE, || browser.script("return 1") == 1);
    }
    append(&browser, "['::progress 7 a b \\t']");
    until_page(&browser, "[...document.querySelectorAll('#log .dim')].at(-1)?.textContent === '7 % a b'");
    append(&browser, "['::step\\tc  d \\t']");
    until_page(&browser, "[...document.querySelectorAll('#log .step b')].at(-1)?.textContent === 'c  d'");
}

#[test]
fn combining_marks_per_character_are_limited() {
    let Some((browser, place)) = set_up("#!/bin/bash\n") else { return };
    open_empty(&browser, &place);
    let texts = [
        r"'a' + '\u0301\u0302\u0323'.repeat(2600)",
        // With other characters of zero width in between.
        r"'a' + '\u0301\u200d\ufe0f\u{e0100}\u{e0061}\u202e\u00ad'.repeat(880)",
        // In several records.
        r"Array(90).fill('\u0301'.repeat(8))",
        r"'a' + '\x1b[m\u0301\x1b[31m\u0301'.repeat(2000)",
        r"Array(500).fill().map((_, n) => `\x1b[${7000 - 8 * n}G` + '\u0301'.repeat(8)).join('')",
    ];
    append(&browser, &format!("[{}, 'end']", texts.join(", ")));
    wait_for_row(&browser, "end");
    let all = rows(&browser);
    assert_eq!(all.len(), texts.len() + 1);
    for (text, what) in all.iter().zip(texts) {
        let mark = |c: char| {
            matches!(c, '\u{301}'..='\u{323}' | '\u{200d}' | '\u{fe0f}' | '\u{e0100}' | '\u{e0061}' | '\u{202e}' | '\u{ad}')
        };
        let longest = text.split(|c| !mark(c)).map(|run| run.chars().count()).max();
        assert_eq!(longest, Some(8), "{what}");
        assert!(text.matches('\u{fffd}').count() > 300, "the others are told of: {what}");
    }
    // Text that people write is unchanged.
    let written = "👨‍👩‍👧‍👦 🏴󠁧󠁢󠁥󠁮󠁧󠁿 Việt नमस्ते ཧྐྵྨླྺྼྻྂ שָׁלוֹם Z̷͎͐a̴͙͝l̵̙͠g̶̨͌o̴";
    append(&browser, &json!([written]).to_string());
    wait_for_row(&browser, written);
}

#[test]
fn length_of_escaped_direction_characters_is_limited() {
    let Some((browser, place)) = set_up("#!/bin/bash\n") else { return };
    open_empty(&browser, &place);
    append(&browser, r"['\u05d0\u202e\u2067a'.repeat(2000)]");
    until_page(&browser, "document.querySelector('#log .row.stdout')");
    let shown = number(&browser, "return document.querySelector('#log .row.stdout').textContent.length");
    assert!((CHARS_MAX / 2..2 * CHARS_MAX).contains(&shown), "{shown} characters");
}

#[test]
fn frame_draws_a_bounded_number_of_characters() {
    let Some((browser, place)) = set_up("#!/bin/bash\n") else { return };
    open_empty(&browser, &place);
    browser.script(
        "window.drawn = []; new MutationObserver((changes) => window.drawn.push(changes.flatMap((it) => [...it.addedNodes])
           .filter((it) => it.isConnected && it.matches?.('.row')).reduce((sum, it) => sum + it.textContent.length, 0)))
           .observe(document.getElementById('log'), { subtree: true, childList: true })",
    );
    append(&browser, "Array.from({ length: 250 }, (_, n) => 'x'.repeat(7990) + n)");
    until_page(&browser, "[...document.querySelectorAll('#log .row')].at(-1)?.textContent.endsWith('x249')");
    let most = number(&browser, "return Math.max(...drawn)");
    assert!((CHARS_MAX..FRAME_CHARS + 2 * CHARS_MAX).contains(&most), "{most} characters");
    // Rows far from the view are not drawn; after the jump, the rows at the start are.
    browser.press("g");
    until_page(
        &browser,
        "(() => { const box = document.getElementById('log').getBoundingClientRect();
           return document.elementFromPoint(box.left + 200, box.top + 100)?.closest('.row')?.textContent.endsWith('x0'); })()",
    );
}

#[test]
fn line_in_the_address_that_is_no_whole_number_is_ignored() {
    let Some((browser, place)) = set_up(TOLD) else { return };
    place.start();
    say_up_to(&place, 3);
    for line in ["1.5", "-5", "1e400", "x", "99999999999999999999"] {
        browser.open("about:blank");
        browser.open(&format!("http://127.0.0.1:{}/#/?line={line}", place.port()));
        until_page(&browser, "document.querySelectorAll('#log .row').length === 3");
    }
}

#[test]
fn search_text_in_the_address_is_cut_to_200_characters() {
    let Some((browser, place)) = set_up(TOLD) else { return };
    place.start();
    say_up_to(&place, 3);
    open(&browser, &place);
    browser.open("about:blank");
    browser.open(&format!("http://127.0.0.1:{}/#/?find={}", place.port(), "x".repeat(100_000)));
    until_page(&browser, "document.querySelectorAll('#log .row').length === 3");
    assert_eq!(rows(&browser), lines(1, 3));
    assert_eq!(number(&browser, "return document.getElementById('find').value.length"), 200);
    until_page(&browser, "document.getElementById('found').textContent === '0 lines'");
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn modified_click_on_a_step_is_left_to_the_browser() {
    let Some((browser, place)) = set_up("#!/bin/bash\necho '::step one'\nexec sleep 600\n") else { return };
    place.start();
    open(&browser, &place);
    browser.click("tab-steps");
    until_page(&browser, "document.querySelector('#pane-steps .step-row')");
    let keys = ["ctrlKey", "metaKey", "shiftKey", ""];
    let taken = browser.script(&format!(
        "const link = document.querySelector('#pane-steps .step-row');
         return {}.map((key) => {{ let taken; addEventListener('click', (event) => {{ taken = event.defaultPrevented; event.preventDefault(); }}, {{ once: true }});
           link.dispatchEvent(new MouseEvent('click', {{ bubbles: true, cancelable: true, [key]: true }})); return taken; }})",
        json!(keys)
    ));
    assert_eq!(taken, json!([false, false, false, true]));
}

/// Over plain HTTP, a button copies text that it selects in a field. The browser may keep the selection in the log meanwhile.
#[test]
fn copy_button_works_while_log_lines_are_selected() {
    let Some((browser, place)) = set_up(TOLD) else { return };
    place.start();
    say_up_to(&place, 3);
    open(&browser, &place);
    wait_for_row(&browser, "line 3");
    until_page(&browser, "document.querySelectorAll('#log .row').length === 3");
    let copied = browser.script(
        "getSelection().selectAllChildren(document.getElementById('log'));
         const copied = [document.body.appendChild(document.createElement('textarea')), document.getElementById('log')].map((from) => {
           const clipboardData = new DataTransfer();
           from.dispatchEvent(new ClipboardEvent('copy', { clipboardData, bubbles: true, cancelable: true }));
           return clipboardData.getData('text/plain'); });
         return copied",
    );
    assert_eq!(copied, json!(["", "line 1\nline 2\nline 3"]));
}
