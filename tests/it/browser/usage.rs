//! The usage of a run on the page: two charts, their words and the values under the pointer, and the effect of a pause.

use serde_json::{Value, json};

use crate::support::{Place, serve_with_made_up_kills};
use crate::webdriver::{Browser, PATIENCE, wait_until};

use super::hand::{open_at, point_at, texts, until_page};

/// With `burn` it keeps a processor busy, with `hold` it holds 60 MiB, both until the file `go` exists.
const USE: &str = "#!/bin/bash\ncase $1 in\n  burn) while [ ! -e go ]; do :; done ;;\n  \
    hold) x=$(head -c 62914560 /dev/zero | tr '\\0' x); while [ ! -e go ]; do sleep 0.1; done ;;\nesac\n";

const LEFT: &str = "\u{e012}";
const RIGHT: &str = "\u{e014}";

fn set_up(what: &str) -> Option<(Browser, Place)> {
    let browser = Browser::start()?;
    let mut place = Place::new();
    place.script("use.sh", USE);
    place.set_env("AUTOAPPDEV_USAGE_S", "1");
    place.start_server();
    place.start_with(json!({"script": "use.sh", "args": [what]}));
    open_at(&browser, &place, "#/?tab=usage");
    Some((browser, place))
}

/// Returns the run's usage from the server.
fn usage(place: &Place) -> Value {
    place.get("/api/runs/1/usage").ok()["usage"].take()
}

fn samples(place: &Place) -> Vec<Value> {
    usage(place)["samples"].as_array().expect("a list").clone()
}

/// Returns the text equivalents of the two charts.
fn words(browser: &Browser) -> [String; 2] {
    let labels = browser.script("return [...document.querySelectorAll('#pane-usage .chart')].map((it) => it.ariaLabel)");
    serde_json::from_value(labels).expect("two charts")
}

/// Returns the number of samples, and of parts without a gap, of each chart's line.
fn points(browser: &Browser) -> Vec<[usize; 2]> {
    let counts = browser.script(
        "return [...document.querySelectorAll('#pane-usage .line')].map((it) => it.getAttribute('d') ?? '')
           .map((d) => [d.match(/[ML]/g)?.length ?? 0, d.match(/M/g)?.length ?? 0])",
    );
    serde_json::from_value(counts).expect("counts")
}

fn wait_for_points(browser: &Browser, count: usize) {
    wait_until("both charts show samples", PATIENCE, || {
        let points = points(browser);
        points.len() == 2 && points.iter().all(|[all, _]| *all >= count)
    });
}

/// Returns the number after `name` in a text such as "peak 64 MB".
fn number(text: &str, name: &str) -> f64 {
    let (_, rest) = text.split_once(name).unwrap_or_else(|| panic!("no {name} in {text:?}"));
    rest.trim_start().split(|c: char| c != '.' && !c.is_ascii_digit()).next().and_then(|it| it.parse().ok()).expect("a number")
}

fn told(browser: &Browser) -> String {
    texts(browser, "#pane-usage .told").concat()
}

fn finish(browser: &Browser, place: &Place) {
    place.script("go", "");
    place.until_ended(1);
    wait_until("the page tells the end", PATIENCE, || browser.text("state") == "Succeeded");
}

/// Returns a sample in the page's words, without its time.
fn in_words(sample: &Value) -> String {
    let [cpu, memory, count] = [1, 2, 3].map(|n| sample[n].as_f64().expect("a number"));
    let mega = memory / 1e6;
    let memory = if mega >= 10.0 { format!("{mega:.0}") } else { format!("{mega:.1}") };
    let s = if count > 1.0 { "es" } else { "" };
    format!("CPU {}\u{a0}%, memory {memory}\u{a0}MB, {count}\u{a0}process{s}", (cpu + 0.5).floor())
}

#[test]
fn charts_show_cpu_of_busy_run_and_each_sample() {
    let Some((browser, place)) = set_up("burn") else { return };
    wait_for_points(&browser, 3);
    let [cpu, memory] = words(&browser);
    assert!(cpu.starts_with("CPU over time: now ") && cpu.contains(", mean ") && cpu.contains(", peak "), "{cpu}");
    assert!(memory.starts_with("Memory over time: now ") && memory.contains("MB"), "{memory}");
    assert!(number(&cpu, "peak") > 5.0, "{cpu}");
    // The charts can move between the measurement of their position and the movement of the pointer.
    wait_until("the values at the pointer are shown", PATIENCE, || {
        point_at(&browser, "document.querySelector('#pane-usage .chart')");
        browser.script("return /: CPU .* memory .*process/.test(document.querySelector('#pane-usage .told').textContent)") == true
    });
    let crosses =
        browser.script("return [...document.querySelectorAll('#pane-usage .cross')].map((it) => !!it.getAttribute('d'))");
    assert_eq!(crosses, json!([true, true]), "the time is marked in both");

    finish(&browser, &place);
    let kept = samples(&place);
    wait_until("the end's figures are there", PATIENCE, || points(&browser) == vec![[kept.len(), 1]; 2]);
    let [cpu, _] = words(&browser);
    let peak = usage(&place)["peak"]["cpu_percent"].as_f64().expect("a number");
    assert!((number(&cpu, "peak") - peak).abs() <= 1.0 && !cpu.contains("now"), "{cpu}, {peak}");
    // The arrow keys move from sample to sample, and stop at both ends.
    point_at(&browser, "document.getElementById('run-name')");
    browser.script("document.querySelector('#pane-usage .chart').focus()");
    for sample in kept.iter().rev().chain(&kept[..1]) {
        browser.press(LEFT);
        assert!(told(&browser).ends_with(&format!(": {}", in_words(sample))), "{} for {sample}", told(&browser));
    }
    for sample in kept.iter().skip(1).chain(kept.last()) {
        browser.press(RIGHT);
        assert!(told(&browser).ends_with(&format!(": {}", in_words(sample))), "{} for {sample}", told(&browser));
    }
    browser.script("document.activeElement.blur()");
    assert_eq!(told(&browser), "");
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn memory_is_shown_during_and_after_a_run() {
    let Some((browser, place)) = set_up("hold") else { return };
    wait_until("the memory is there", PATIENCE, || {
        browser.script("return document.querySelectorAll('#pane-usage .chart').length === 2") == true
            && number(&words(&browser)[1], "peak") >= 62.0
    });
    wait_until("it is above the log, too", PATIENCE, || {
        browser.shows("memory") && browser.text("memory").contains("MB") && number(&browser.text("memory"), "Memory") >= 62.0
    });
    finish(&browser, &place);
    assert!(!browser.shows("memory"));
    // A page that is opened later shows the same.
    open_at(&browser, &place, "#/runs/1?tab=usage");
    let count = samples(&place).len();
    wait_until("the samples are there", PATIENCE, || points(&browser) == vec![[count, 1]; 2]);
    let most = usage(&place)["peak"]["memory_bytes"].as_f64().expect("a number") / 1e6;
    assert!((number(&words(&browser)[1], "peak") - most).abs() <= 1.0, "{:?}, {most}", words(&browser));
}

#[test]
fn charts_show_a_pause_as_a_band_without_samples() {
    let Some((browser, place)) = set_up("burn") else { return };
    wait_for_points(&browser, 2);
    browser.click("pause");
    wait_until("it is paused", PATIENCE, || browser.text("state") == "Paused");
    // Longer than the time between samples after which a line is broken.
    wait_until("that lasts", PATIENCE, || {
        browser.text("status").starts_with("by you") && number(&browser.text("status"), "by you,") >= 5.0
    });
    let kept = samples(&place);
    wait_until("the charts have what is kept", PATIENCE, || points(&browser).iter().all(|[all, _]| *all == kept.len()));
    assert_eq!(samples(&place), kept);
    let bands = browser.script(
        "return [...document.querySelectorAll('#pane-usage .pauses')].map((it) => it.getAttribute('d').match(/M/g)?.length)",
    );
    assert_eq!(bands, json!([1, 1]));
    assert!(!browser.shows("cpu") && !browser.shows("memory"), "nothing is used now");
    browser.click("resume");
    wait_for_points(&browser, kept.len() + 2);
    assert!(points(&browser).iter().all(|[_, parts]| *parts == 2), "no line goes through the pause: {:?}", points(&browser));
}

/// A child was killed because memory ran out in each of these runs, and then they ended in different ways.
#[test]
fn page_says_that_memory_ran_out_only_of_ends_that_it_explains() {
    let Some(browser) = Browser::start() else { return };
    let mut place = Place::new();
    place.script("end.sh", "#!/bin/bash\necho \"oom_kill $2\" >\"$1\"\necho \"ready $2\"\neval \"$3\"\n");
    let Some(events) = serve_with_made_up_kills(&mut place) else { return };
    for (run_id, end) in (1..).zip(["kill -KILL $$", "kill -TERM $$", "kill -SEGV $$", "exit 3", "exit 0", "sleep 600", "exit 0"])
    {
        let count = (5 + run_id).to_string();
        let (_, id) = place.start_with(json!({"script": "end.sh", "args": [events, count, end]}));
        assert_eq!(id, run_id);
        if end.starts_with("sleep") {
            place.until_line(&format!("ready {count}"));
            place.act("stop").ok();
        }
        assert_eq!(place.until_ended(id)["oom_kills"], 1, "{end}");
    }
    for (run_id, heading) in [
        (1, "Out of memory after "),
        (2, "Killed · SIGTERM, not by you, after "),
        (3, "Failed · SIGSEGV after "),
        (4, "Out of memory after "),
        (5, "Succeeded after "),
        (6, "Stopped by you after "),
    ] {
        open_at(&browser, &place, &format!("#/runs/{run_id}"));
        until_page(&browser, &format!("document.querySelector('.card h2')?.textContent.startsWith({})", json!(heading)));
    }
    // The list beside it says the same in short.
    let why = |run_id: i64| {
        texts(&browser, &format!("a.r[href^=\"#/runs/{run_id}?\"] .why, a.r[href=\"#/runs/{run_id}\"] .why")).concat()
    };
    assert_eq!([1, 2, 3, 4].map(|run_id| why(run_id).trim().to_owned()), ["out of memory", "SIGTERM", "SIGSEGV", "exit 3"]);
}
