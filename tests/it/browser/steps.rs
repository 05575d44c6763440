//! The steps of a run over time, and what the page says of the time that is left.

use std::fs;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::Place;
use crate::webdriver::{Browser, PATIENCE, wait_until};

use super::hand::{open_at, texts, until_page};

/// Three steps; each ends when its file is there.
const STEPS: &str =
    "#!/bin/bash\nfor step in fetch build ship; do\n  echo \"::step $step\"\n  until [ -e $step ]; do sleep 0.02; done\ndone\n";

fn let_end(place: &Place, step: &str) {
    fs::write(place.root().join(step), "").expect("ours");
}

/// The bars of each lane: of the whole run, then of each step. A bar is its class, its left edge and its width in percent.
fn lanes(browser: &Browser) -> Vec<Vec<(String, f64, f64)>> {
    let bars = browser.script(
        "return [...document.querySelectorAll('#pane-steps .band, #pane-steps .bars')].map((lane) => [...lane.children]
           .map(({ className, style }) => [className, parseFloat(style.left), parseFloat(style.width)]))",
    );
    serde_json::from_value(bars).expect("bars")
}

/// The text of each step's row: its number, its name, how long it took, and the comparison.
fn rows(browser: &Browser) -> Vec<[String; 4]> {
    let rows = browser.script(
        "return [...document.querySelectorAll('#pane-steps .step-row')]
           .map((row) => ['.number', 'b', '.took', 'em'].map((it) => row.querySelector(it).textContent))",
    );
    serde_json::from_value(rows).expect("rows")
}

#[test]
fn timeline_adds_up_to_the_run_and_is_compared_with_the_last_good_one() {
    let Some(browser) = Browser::start() else { return };
    let mut place = Place::new();
    place.script("steps.sh", STEPS);
    place.start_server();
    for step in ["fetch", "build", "ship"] {
        let_end(&place, step);
    }
    place.start_with(json!({"script": "steps.sh"}));
    place.until_ended(1);
    for step in ["fetch", "build", "ship"] {
        fs::remove_file(place.root().join(step)).expect("ours");
    }
    place.start_with(json!({"script": "steps.sh"}));
    open_at(&browser, &place, "#/?tab=steps");
    wait_until("the first step is there", PATIENCE, || rows(&browser).len() == 1);
    let_end(&place, "fetch");
    wait_until("the second step is there", PATIENCE, || rows(&browser).len() == 2);
    browser.click("pause");
    wait_until("the pause has lasted", PATIENCE, || {
        let words = texts(&browser, "#pane-steps > .time > .label:first-child > span").concat();
        ["3 s paused", "4 s paused", "5 s paused"].iter().any(|it| words.ends_with(it))
    });
    let paused = &lanes(&browser)[2];
    assert!(paused.iter().any(|(class, _, width)| class == "hold hatch" && *width > 0.0), "{paused:?}");
    assert_eq!(texts(&browser, "#pane-steps .legend").concat(), "runningpaused");
    browser.click("resume");
    wait_until("it goes on", PATIENCE, || browser.text("state") == "Running");
    let_end(&place, "build");
    wait_until("the third step is there", PATIENCE, || rows(&browser).len() == 3);
    let_end(&place, "ship");
    place.until_ended(2);
    wait_until("the page tells the end", PATIENCE, || browser.text("state") == "Succeeded");
    let run = || place.run(2);
    until_page(&browser, "[...document.querySelectorAll('#pane-steps em')].every((it) => it.textContent)");

    // The run is the whole width; its pause, and the steps one after the other, are parts of it.
    let lanes = lanes(&browser);
    let [band, steps @ ..] = lanes.as_slice() else { panic!("{lanes:?}") };
    assert_eq!((band[0].0.as_str(), band[0].1, band[0].2.round()), ("run", 0.0, 100.0));
    let took = run()["outcome"]["took_ms"].as_f64().expect("a number");
    let share = 100.0 * run()["paused_ms"].as_f64().expect("a number") / took;
    assert!(band.len() == 2 && (band[1].2 - share).abs() < 2.0, "{band:?}, paused for {share} %");
    assert_eq!(steps.len(), 3);
    let mut end = steps[0][0].1;
    for bars in steps {
        assert!((bars[0].1 - end).abs() < 0.1, "{steps:?}");
        end = bars[0].1 + bars[0].2;
    }
    assert!((end - 100.0).abs() < 0.1 && steps[0][0].1 < 50.0, "{steps:?}");
    assert_eq!(steps.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2, 1], "the pause was in the second: {steps:?}");

    // The same in words, and without the pause.
    let rows = rows(&browser);
    let names: Vec<_> = rows.iter().map(|[number, name, ..]| format!("{number} {name}")).collect();
    assert_eq!(names, ["1 fetch", "2 build", "3 ship"]);
    let told = run()["progress"]["steps"].take();
    let active: f64 = told.as_array().expect("a list").iter().map(|step| step["ms"].as_f64().expect("a number")).sum();
    assert!(
        (active + steps[0][0].1 / 100.0 * took + share / 100.0 * took - took).abs() < 0.05 * took,
        "{active} of {took}: {told}"
    );
    for (n, [_, _, took, note]) in rows.iter().enumerate() {
        let ms = told[n]["ms"].as_f64().expect("a number");
        let shown: f64 = took.strip_suffix(" s").and_then(|it| it.parse().ok()).unwrap_or_else(|| panic!("{took}"));
        assert!((1000.0 * shown - ms).abs() <= 500.0, "{took} for {ms}");
        let last = place.run(1)["progress"]["steps"][n]["ms"].as_f64().expect("a number");
        let is_same = (ms - last).abs() < 1000.0_f64.max(0.03 * last);
        let longer = " longer than last time";
        assert!(
            if is_same {
                note == "same as last time"
            } else {
                note.ends_with(longer) || note.ends_with("shorter than last time")
            },
            "{note}"
        );
    }
    assert_eq!(browser.text("step-count"), "3");
}

#[test]
fn run_without_steps_says_so() {
    let Some(browser) = Browser::start() else { return };
    let mut place = Place::new();
    place.start_server();
    place.start_with(json!({"script": "exit.sh"}));
    place.until_ended(1);
    open_at(&browser, &place, "#/?tab=steps");
    wait_until("it says so", PATIENCE, || browser.text("pane-steps").contains("This run told no steps."));
    assert_eq!((rows(&browser).len(), browser.text("step-count")), (0, String::new()));
}

/// A run that has ended, of this duration.
fn add_run(place: &Place, id: i64, script: &str, took_s: i64) {
    Connection::open(place.database())
        .and_then(|it| {
            it.execute(
                "INSERT INTO pipeline_runs (id, status, pid, script, cwd, args, created_at, started_at, stopped_at, exit_code, log_start, log_end)
                 VALUES (?1, 'completed', 1, ?2, '/', '[]', ?3, ?3, strftime('%Y-%m-%dT%H:%M:%S.000Z', ?3, ?4), 0, 0, 0)",
                (id, script, "2023-11-14T22:13:20.000Z", format!("+{took_s} seconds")),
            )
        })
        .expect("inserts");
}

#[test]
fn time_left_comes_from_percent_else_from_earlier_runs() {
    let Some(browser) = Browser::start() else { return };
    let mut place = Place::new();
    drop(place.store());
    // Three of each, as many as are needed to say what is usual.
    for n in 0..3 {
        add_run(&place, 1 + 2 * n, "sleep.sh", 3600);
        add_run(&place, 2 + 2 * n, "count.sh", 1);
    }
    place.edit_database("UPDATE pipeline_state SET run_id = 6");
    place.script("half.sh", "#!/bin/bash\nsleep 4\necho '::progress 50 half'\nsleep 600\n");
    place.start_server();
    let left = || browser.text("time-left");
    let seconds = |text: &str| -> Option<u64> { text.strip_prefix("about ")?.strip_suffix(" s left")?.parse().ok() };

    place.start_with(json!({"script": "sleep.sh"}));
    open_at(&browser, &place, "");
    wait_until("an hour is left", PATIENCE, || left().starts_with("about 59 min ") && left().ends_with(" s left"));
    place.act("stop").ok();
    wait_until("it has ended", PATIENCE, || left().starts_with("ended today "));

    place.start_with(json!({"script": "count.sh"}));
    wait_until("it takes longer", PATIENCE, || left() == "longer than the usual 1 s");
    place.act("pause").ok();
    wait_until("a pause is told", PATIENCE, || left().starts_with("since "));
    place.act("stop").ok();

    place.start_with(json!({"script": "half.sh"}));
    wait_until("the other half is left", PATIENCE, || browser.text("percent") == "50 %" && seconds(&left()).is_some());
    let progress = place.pipeline()["progress"].take();
    assert_eq!((&progress["percent"], &progress["text"]), (&json!(50), &json!("half")), "{progress}");
    let before = seconds(&left()).expect("seconds");
    assert!(before <= 60, "{before}");
    wait_until("it becomes less", PATIENCE, || before == 0 || seconds(&left()).is_some_and(|now| now < before));
    wait_until("it ends at none", PATIENCE, || left() == "about 0 s left");
    assert_eq!(place.pipeline()["state"], Value::from("running"));
}
