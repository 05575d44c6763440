//! The steps of a run over time, and the time that it still takes according to the page.

use std::fs;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::Place;
use crate::webdriver::{Browser, DOWN, END, ENTER, HOME, PATIENCE, TAB, UP, wait_until};

use super::hand::{open_at, texts, until_page};

/// Three steps. Each ends when its file exists.
const STEPS: &str =
    "#!/bin/bash\nfor step in fetch build ship; do\n  echo \"::step $step\"\n  until [ -e $step ]; do sleep 0.02; done\ndone\n";

fn let_end(place: &Place, step: &str) {
    fs::write(place.root().join(step), "").expect("ours");
}

/// Returns the bars of each lane: of the whole run, then of each step. A bar is its class, its left edge and its width in
/// percent.
fn lanes(browser: &Browser) -> Vec<Vec<(String, f64, f64)>> {
    let bars = browser.script(
        "return [...document.querySelectorAll('#pane-steps .band, #pane-steps .bars')].map((lane) => [...lane.children]
           .map(({ className, style }) => [className, parseFloat(style.left), parseFloat(style.width)]))",
    );
    serde_json::from_value(bars).expect("bars")
}

/// Returns the text of each step's row: its number, its name, how long it took, and the comparison.
fn rows(browser: &Browser) -> Vec<[String; 4]> {
    let rows = browser.script(
        "return [...document.querySelectorAll('#pane-steps .step-row')]
           .map((row) => ['.number', 'b', '.took', 'em'].map((it) => row.querySelector(it).textContent))",
    );
    serde_json::from_value(rows).expect("rows")
}

#[test]
fn step_timeline_adds_up_and_is_compared_with_last_success() {
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
    // The page requests the run's events at most once a second.
    wait_until("the pause has its end", PATIENCE, || {
        lanes(&browser)[0].get(1).is_some_and(|(_, left, width)| left + width < 99.0)
    });

    // The run takes the whole width. Its pause is a part of it, and so are the steps, one after the other.
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

    // The same in words, without the pause.
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
fn page_reports_a_run_without_steps() {
    let Some(browser) = Browser::start() else { return };
    let mut place = Place::new();
    place.start_server();
    place.start_with(json!({"script": "exit.sh"}));
    place.until_ended(1);
    open_at(&browser, &place, "#/?tab=steps");
    wait_until("it says so", PATIENCE, || browser.text("pane-steps").contains("This run reported no steps."));
    assert_eq!((rows(&browser).len(), browser.text("step-count")), (0, String::new()));
}

/// Adds a run that has ended, of this duration.
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
fn time_left_is_estimated_from_percent_or_earlier_runs() {
    let Some(browser) = Browser::start() else { return };
    let mut place = Place::new();
    drop(place.store());
    // Three runs of each script, the number that a usual duration needs.
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

/// Returns what a screen reader gets of the page: the role and the name of each element that has both.
fn read_out(browser: &Browser) -> Vec<(String, String)> {
    let tree = browser.devtools("Accessibility.getFullAXTree", &json!({}));
    let nodes = tree["nodes"].as_array().expect("nodes").clone();
    let said = |node: &Value, what: &str| node[what]["value"].as_str().unwrap_or_default().to_owned();
    let all = nodes.iter().filter(|node| node["ignored"] == false).map(|node| (said(node, "role"), said(node, "name")));
    all.filter(|(_, name)| !name.is_empty()).collect()
}

/// Waits until an element with this role has a name that begins and ends like this.
fn wait_for_name(browser: &Browser, role: &str, begin: &str, end: &str) {
    let mut all = Vec::new();
    wait_until(&format!("{role} {begin} … {end}"), PATIENCE, || {
        all = read_out(browser);
        let is_it = all.iter().any(|(its, name)| its == role && name.starts_with(begin) && name.ends_with(end));
        if !is_it {
            eprintln!("{:?}", all.iter().filter(|(its, _)| its == role).collect::<Vec<_>>());
        }
        is_it
    });
}

#[test]
fn screen_reader_gets_state_of_steps_and_runs() {
    let Some(browser) = Browser::start() else { return };
    let mut place = Place::new();
    place.script("steps.sh", STEPS);
    place.script("fails.sh", "#!/bin/bash\necho '::step build'; sleep 0.02; echo '::step test'; exit 3\n");
    place.start_server();
    place.start_with(json!({"script": "fails.sh"}));
    place.until_ended(1);
    place.start_with(json!({"script": "steps.sh"}));
    let_end(&place, "fetch");
    open_at(&browser, &place, "#/?tab=steps");
    wait_for_name(&browser, "link", "done 1 fetch ", " s");
    wait_for_name(&browser, "link", "running 2 build ", " s");
    // The rail and its strip.
    wait_for_name(&browser, "link", "Running steps.sh 2 ", " s");
    wait_for_name(&browser, "link", "Failed fails.sh 1 exit 3 ", " s");
    wait_for_name(&browser, "link", "Run 1 · fails.sh · Failed", "");
    open_at(&browser, &place, "#/");
    wait_for_name(&browser, "button", "done 1 fetch ", " s");
    wait_for_name(&browser, "button", "running 2 build ", " so far");
    open_at(&browser, &place, "#/runs/1");
    wait_for_name(&browser, "button", "failed 2 test ", " s");
    open_at(&browser, &place, "#/runs/1?tab=steps");
    wait_for_name(&browser, "link", "done 1 build ", " s");
    wait_for_name(&browser, "link", "failed 2 test ", " s");
}

#[test]
fn arrow_keys_move_between_steps_and_enter_opens_one() {
    let Some(browser) = Browser::start() else { return };
    let mut place = Place::new();
    // The same name twice, many lines in between, and a line that only resembles the step.
    place.script(
        "steps.sh",
        "#!/bin/bash\necho '::step build'; seq 3000; echo 'so ::step test'; echo '::step test'; seq 3000; sleep 0.1\n\
         echo '::step  build '; echo again; seq 3000; echo '::step ship'\n",
    );
    place.start_server();
    place.start_with(json!({"script": "steps.sh"}));
    place.until_ended(1);
    open_at(&browser, &place, "#/?tab=steps");
    wait_until("the steps are there", PATIENCE, || rows(&browser).len() == 4);
    let stops = || browser.script("return [...document.querySelectorAll('.step-row')].filter((it) => it.tabIndex === 0).length");
    let focused = || browser.script("return [...document.querySelectorAll('.step-row')].indexOf(document.activeElement)");
    assert_eq!(stops(), 1);
    // The tab key stops at the steps once.
    let mut visits = Vec::new();
    browser.script("document.getElementById('tab-details').focus()");
    for _ in 0..12 {
        browser.press(TAB);
        if focused() != -1 {
            visits.push(focused());
        }
    }
    assert_eq!(visits, [json!(0)]);
    browser.script("document.querySelector('.step-row').focus()");
    for (key, at) in [(DOWN, 1), (DOWN, 2), (UP, 1), (END, 3), (DOWN, 3), (HOME, 0), (UP, 0), (DOWN, 1), (DOWN, 2)] {
        browser.press(key);
        assert_eq!((focused(), stops()), (json!(at), json!(1)));
    }
    assert_eq!(browser.script("return getComputedStyle(document.activeElement).outlineStyle"), "solid");
    browser.press(ENTER);
    until_page(
        &browser,
        "document.querySelector('#log .to')?.textContent.includes('build') && document.activeElement.id === 'log'",
    );
    let line = browser.script("return Number(/^#\\/runs\\/1\\?line=(\\d+)$/.exec(location.hash)[1])").as_u64();
    let found = place.get("/api/runs/1/log/search?text=::step&case=1").ok();
    assert_eq!(line, found["matches"][3]["id"].as_u64(), "{found}");
    // After going back, the tab stop is the same step.
    browser.script("history.back()");
    until_page(&browser, "document.getElementById('pane-steps').checkVisibility()");
    assert_eq!(browser.script("return document.querySelectorAll('.step-row')[2].tabIndex"), 0);
}
