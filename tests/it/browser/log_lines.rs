//! The lines of the log on the page: colours, lines that are rewritten or written in parts, days, wrapping, downloads.

use std::fs;

use crate::webdriver::{PATIENCE, wait_until};
use serde_json::{Value, json};

use super::log_page::{open, rows, set_up, wait_for_row};
use super::page::run_nothing;

#[test]
fn colours_become_classes_and_rewritten_lines_stay_one_line() {
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

    // After a reload the lines are the same, from the stored records.
    open(&browser, &place);
    wait_for_row(&browser, "after");
    assert_eq!(rows(&browser), ["red <i>plain</i>", "done   ", "after"]);
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn line_shows_what_a_terminal_would_show() {
    let Some((browser, place)) = set_up("#!/bin/bash\n") else { return };
    open(&browser, &place);
    // The records of a line, its text, and the classes of its characters in runs.
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
        // An escape without an end hides nothing.
        (&["\u{1b}]0;all of it"], "0;all of it", "11:"),
        (&["\u{1b}[38;5ma\u{1b}[38;5;999mb\u{1b}[999mc\u{1b}[38;2;1md\u{1b}[;;;me"], "abcde", "5:"),
        (&["<b class=\"x\">&amp;\u{202e}"], "<b class=\"x\">&amp;\u{202e}", "19:"),
    ];
    for (records, text, looks) in cases {
        let found = browser.script(&format!(
            "return import('/static/app.js').then(({{ blank, write, classes }}) => {{
               const records = {}, line = blank(); records.forEach((it, n) => write(line, it, n < records.length - 1));
               const runs = []; for (let n = 0; n < line.text.length; n++) {{ const it = classes(line.tones.charCodeAt(n) || 0);
                 if (runs.length && runs.at(-1)[1] === it) runs.at(-1)[0]++; else runs.push([1, it]); }}
               return [line.text, runs.map(([count, it]) => `${{count}}:${{it}}`).join(' ')]; }})",
            json!(records)
        ));
        assert_eq!(found, json!([text, looks]), "{records:?}");
    }
    // These would time out if each part copied the line, or each escape searched for its end again.
    let long = browser.script(
        "return import('/static/app.js').then(({ blank, write }) => ['\\rx', '\\x1b[', '\\x1b]', '\\x1b[1;', '\\x1b[31mx', '\\b', '\\x1b[K', '\\x1b[9999Gx'].map((part) => {
           const line = blank(); write(line, 'y'.repeat(8000), true); write(line, part.repeat(60000), false); return line.text.length; }))",
    );
    assert!(long.as_array().is_some_and(|lengths| lengths.iter().all(|it| it.as_u64() <= Some(8000))), "{long}");
}

#[test]
fn line_split_across_pages_is_joined() {
    let Some((browser, place)) = set_up("#!/bin/bash\n") else { return };
    run_nothing(&place);
    open(&browser, &place);
    // Before that, loading the log would remove the lines that this test adds.
    wait_until("the log was read", PATIENCE, || {
        browser.script("return 'read' in document.getElementById('log').dataset") == true
    });
    let add = |function: &str, records: &[(&str, &str, bool)]| {
        let lines: Vec<Value> = records
            .iter()
            .map(|(stream, line, partial)| json!({"id": 1, "ts": null, "stream": stream, "run_id": 1, "line": line, "partial": partial}))
            .collect();
        browser.script(&format!("return import('/static/app.js').then((it) => it.{function}({}))", json!(lines)));
        rows(&browser)
    };
    assert_eq!(add("append", &[("stdout", "30%\r", true), ("stderr", "oops", false)]), ["30%", "oops"]);
    assert_eq!(add("prepend", &[("stdout", "20% done\r", true)]), ["30% done", "oops"]);
    // More of that line, and the line before it.
    assert_eq!(
        add("prepend", &[("stdout", "first", false), ("stderr", "o", false), ("stdout", "10% done!\r", true)]),
        ["first", "o", "30% done!", "oops"]
    );
    // Then its end.
    assert_eq!(
        add("append", &[("stdout", "99%", false), ("stdout", "last", false)]),
        ["first", "o", "99% done!", "oops", "last"]
    );
    wait_until("all of it is drawn", PATIENCE, || browser.text("log").contains("last"));
    assert_eq!(browser.text("log").matches("run 1").count(), 1, "the run begins once");
    assert_eq!(browser.console(), Vec::<String>::new());
}

/// Rows show only the time of day.
#[test]
fn log_marks_runs_and_days_once() {
    let Some((browser, place)) = set_up("#!/bin/bash\n") else { return };
    run_nothing(&place);
    open(&browser, &place);
    wait_until("the log was read", PATIENCE, || {
        browser.script("return 'read' in document.getElementById('log').dataset") == true
    });
    let add = |function: &str, records: &[(i64, &str, &str, bool)]| {
        let lines: Vec<Value> = records
            .iter()
            .map(|(run, day, line, partial)| {
                let ts = (!day.is_empty()).then(|| format!("2026-11-{day}.000Z"));
                json!({"id": 1, "ts": ts, "stream": "stdout", "run_id": run, "line": line, "partial": partial})
            })
            .collect();
        let rows = browser.script(&format!(
            "return import('/static/app.js').then((it) => {{ it.{function}({}); const [from, to] = it.rowBounds(); const texts = [];
               for (let n = from; n < to; n++) texts.push(it.rowAt(n).text); return texts; }})",
            json!(lines)
        ));
        serde_json::from_value::<Vec<String>>(rows).expect("texts")
    };
    // In every time zone these are three different days.
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
    // A line that is not complete at midnight belongs to the day before, the next one does not.
    assert_eq!(add("append", &[(7, "17T12:30:02", "c", true), (7, "18T12:30:00", " c", false)])[4..], ["c c"]);
    assert_eq!(add("append", &[(7, "18T12:30:01", "d", false)])[4..], ["c c", &wed, "d"]);
    // For lines of the same day, the mark moves up. For lines of the day before, the mark of the day stays where that day began.
    assert_eq!(add("prepend", &[(7, "17T12:29:00", "z", false)])[..3], [&run(7, &tue), "z", "a"]);
    assert_eq!(add("prepend", &[(7, "16T12:30:00", "y", false)])[..4], [&run(7, &mon), "y", &tue, "z"]);
    let all = add("prepend", &[(6, "16T12:00:00", "x", false)]);
    assert_eq!(all[..5], [&run(6, &mon), "x", &run(7, &mon), "y", &tue]);
    wait_until("all of it is drawn", PATIENCE, || {
        browser.script("return [...document.querySelectorAll('#log .row > span')].some((it) => it.textContent === 'd')") == true
    });
    let text = browser.text("log");
    assert_eq!((text.matches(&tue).count(), text.matches("run 7").count()), (1, 1), "{text}");
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn line_wrapping_choice_survives_reload() {
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
fn download_links_name_the_latest_run() {
    let Some((browser, place)) = set_up("#!/bin/bash\necho one\n") else { return };
    open(&browser, &place);
    wait_until("it is connected", PATIENCE, || browser.state() == "stopped");
    let (_, run_id) = place.start();
    wait_until("there is something", PATIENCE, || browser.script("return !!document.getElementById('download')?.href") == true);
    let links =
        browser.script("return ['download', 'download-plain'].map((id) => document.getElementById(id).getAttribute('href'))");
    let address = format!("api/runs/{run_id}/log?download=1");
    assert_eq!(links, json!([address, format!("{address}&timestamps=0")]));
}
