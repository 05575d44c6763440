//! Problems that stopped or misled people who had never seen the page.

use serde_json::{Value, json};

use super::page::{agree, enabled, run_nothing};
use crate::support::Place;
use crate::webdriver::{Browser, PATIENCE, wait_until};

/// Prints its arguments and two lines that look like errors, and exits with code 3 when the file `end` exists.
const ENDS: &str = "#!/bin/bash\necho \"arguments: $*\"\nseq -f 'line %.0f' 300\necho 'x.c:1: error: the cause'\necho plain\n\
                    while [ ! -e end ]; do sleep 0.05; done\necho 'ERROR: the last'\nexit 3\n";
/// Ignores TERM.
const STUBBORN: &str = "#!/bin/bash\ntrap '' TERM\nwhile :; do sleep 0.1; done\n";

const ROWS: &str = "return [...document.querySelectorAll('#runs .name')].map((it) => it.textContent.trim())";

fn set_up(scripts: &[(&str, &str)]) -> Option<(Browser, Place)> {
    let browser = Browser::start()?;
    let mut place = Place::new();
    for (name, text) in scripts {
        place.script(name, text);
    }
    place.start_server();
    Some((browser, place))
}

fn open(browser: &Browser, place: &Place, hash: &str) {
    browser.open("about:blank");
    browser.open(&format!("http://127.0.0.1:{}/{hash}", place.port()));
}

fn end(place: &Place) {
    std::fs::write(place.root().join("end"), "").expect("ours");
    wait_until("the run is over", PATIENCE, || place.pipeline()["state"] == "stopped");
    std::fs::remove_file(place.root().join("end")).expect("ours");
}

fn is_true(browser: &Browser, expression: &str) -> bool {
    browser.script(&format!("return {expression}")) == true
}

/// Returns the distance between the view of the log and its end, in pixels.
fn px_to_end(browser: &Browser) -> f64 {
    let px = browser.script("const it = document.getElementById('log'); return it.scrollHeight - it.scrollTop - it.clientHeight");
    px.as_f64().expect("a number")
}

#[test]
fn page_of_an_older_run_never_acts_on_the_live_run() {
    let Some((browser, place)) = set_up(&[("ends.sh", ENDS), ("stubborn.sh", STUBBORN)]) else { return };
    browser.be_a_screen(1280, 800, false);
    place.start_with(json!({"script": "ends.sh", "args": ["first", "run"]}));
    end(&place);
    place.start_with(json!({"script": "stubborn.sh"}));
    open(&browser, &place, "#/runs/1");

    wait_until("the page shows run 1", PATIENCE, || browser.text("state") == "Failed");
    assert_eq!(browser.text("script"), "ends.sh first run");
    assert!(browser.text("elsewhere").contains("The latest, run 2: running."), "{}", browser.text("elsewhere"));
    // The window is one of many, and its title describes the live run.
    wait_until("the title is of the live run", PATIENCE, || {
        browser.script("return document.title").as_str().is_some_and(|title| title.starts_with("▶ Running · stubborn.sh"))
    });
    // The buttons for the live run are on that run's page.
    wait_until("the page knows what it may do", PATIENCE, || browser.shows("starter"));
    assert_eq!(enabled(&browser), Vec::<String>::new());

    browser.script("location.hash = '#/'");
    wait_until("the live run has its buttons", PATIENCE, || enabled(&browser) == ["pause", "stop"]);
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    browser.script("location.hash = '#/runs/1'");
    wait_until("the page shows run 1", PATIENCE, || browser.text("state") == "Failed" && enabled(&browser) == ["start"]);
    assert_eq!(browser.text("start"), "Run 1 again: first run");
    wait_until("the list tells runs apart", PATIENCE, || browser.script(ROWS) == json!(["stubborn.sh 2", "ends.sh 1 exit 3"]));
    let bar = "getComputedStyle(document.getElementById('bar')).visibility";
    assert!(is_true(&browser, &format!("{bar} === 'hidden'")), "a run that reported no percent has no bar");
    browser.click("start");
    wait_until("the page shows what was started", PATIENCE, || {
        browser.text("run-name") == "Run 3" && browser.text("log").contains("the cause")
    });
    wait_until("at its own address", PATIENCE, || browser.script("return location.hash") == "#/");
    assert_eq!((browser.text("run-name").as_str(), browser.text("script").as_str()), ("Run 3", "ends.sh first run"));
    assert_eq!(place.run(3)["args"], json!(["first", "run"]));
}

#[test]
fn history_rows_and_run_again_show_the_arguments() {
    let Some((browser, place)) = set_up(&[("args.sh", "#!/bin/bash\n")]) else { return };
    let long = "long ".repeat(500);
    for args in [vec![], vec!["-v", "a b"], vec!["עברית"], vec![long.as_str()]] {
        place.start_with(json!({"script": "args.sh", "args": args}));
        wait_until("the run is over", PATIENCE, || place.pipeline()["state"] == "stopped");
    }
    for (width, height, is_phone) in [(1280, 800, false), (900, 700, false), (390, 844, true), (320, 640, true)] {
        browser.be_a_screen(width, height, is_phone);
        for (run, words) in [(1, "Run 1 again"), (2, "Run 2 again: -v 'a b'"), (4, "Run again: 'long long")] {
            open(&browser, &place, &format!("#/runs/{run}?tab=runs"));
            wait_until("the button says what it will do", PATIENCE, || browser.text("start").starts_with(words));
            // The button is completely on the screen, and covers nothing beside it.
            let fits = "(() => { const { left, right } = document.getElementById('start').getBoundingClientRect();
                const before = innerWidth > 760 ? document.getElementById('live').getBoundingClientRect().right : 0;
                return left > before && right <= innerWidth; })()";
            assert!(is_true(&browser, fits), "{words} at {width} px");
        }
        wait_until("the runs are listed", PATIENCE, || is_true(&browser, "document.querySelectorAll('#runs .r').length === 4"));
        if width == 900 {
            browser.script("document.getElementById('fold').click()");
        }
        for direction in ["ltr", "rtl"] {
            browser.script(&format!("document.documentElement.dir = '{direction}'"));
            let shown = "return [...document.querySelectorAll('#runs .args')].map((it) => it.textContent.slice(0, 8)).reverse()";
            assert_eq!(browser.script(shown), json!(["", "-v 'a b'", "'עברית'", "'long lo"]));
            // The arguments are one line below the name, and rows without arguments have no such line.
            let is_second = "[...document.querySelectorAll('#runs .r')].every((row) => {
                const [name, args] = ['.name', '.args'].map((it) => row.querySelector(it).getBoundingClientRect());
                return row.scrollWidth <= row.clientWidth && (row.querySelector('.args').textContent ? args.height > 10 && args.height < 25
                  && args.top >= name.bottom - 1 : args.height === 0); })";
            assert!(is_true(&browser, is_second), "{width} {direction}");
        }
    }
}

#[test]
fn jump_to_end_button_never_covers_card_buttons() {
    // The card of this script is as tall as the log on a small phone.
    let fails = "#!/bin/bash\nseq -f 'line %.0f' 300\n\
                 for n in 1 2 3 4 5 6; do echo \"ERROR: cause $n of this failure, in more words than fit\"; done\nexit 3\n";
    let Some((browser, place)) = set_up(&[("fails.sh", fails)]) else { return };
    place.start_with(json!({"script": "fails.sh"}));
    wait_until("the run is over", PATIENCE, || place.pipeline()["state"] == "stopped");
    for (width, height) in [(320, 640), (390, 844), (390, 560)] {
        browser.be_a_phone(width, height);
        open(&browser, &place, "");
        wait_until("the card is there", PATIENCE, || is_true(&browser, "!!document.querySelector('.card .b:not([hidden])')"));
        browser.settle();
        for top in (0..400).step_by(25) {
            browser.script(&format!(
                "document.getElementById('log').scrollTop = {top};
                 return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
            ));
            let covers = "(() => { const it = document.getElementById('latest').getBoundingClientRect();
                return [...document.querySelectorAll('.card .b')].map((b) => b.getBoundingClientRect()).some((b) =>
                  it.width && b.width && b.top < it.bottom && b.bottom > it.top && b.left < it.right && b.right > it.left); })()";
            assert!(!is_true(&browser, covers), "{width} × {height}, at {top}");
        }
        browser.script("document.getElementById('log').scrollTop = 800");
        wait_until("behind the card it is there", PATIENCE, || browser.shows("latest"));
    }
}

#[test]
fn scrolling_up_a_few_pixels_stops_following() {
    let Some((browser, place)) = set_up(&[("ends.sh", ENDS)]) else { return };
    browser.be_a_screen(1280, 800, false);
    place.start_with(json!({"script": "ends.sh"}));
    open(&browser, &place, "");
    wait_until("the log follows its end", PATIENCE, || browser.text("log").contains("the cause") && px_to_end(&browser) < 1.0);

    for step in 1..=4 {
        browser.wheel(&json!([700, 500]), -8);
        wait_until("the view has moved", PATIENCE, || px_to_end(&browser) >= f64::from(8 * step));
    }
    // New lines do not move the view back either.
    end(&place);
    wait_until("the last line is there", PATIENCE, || browser.text("log").contains("the last"));
    assert!(px_to_end(&browser) >= 32.0, "{}", px_to_end(&browser));
}

#[test]
fn failure_card_is_in_view_live_and_at_the_top_later() {
    let Some((browser, place)) = set_up(&[("ends.sh", ENDS)]) else { return };
    browser.be_a_screen(1280, 800, false);
    place.start_with(json!({"script": "ends.sh"}));
    open(&browser, &place, "");
    wait_until("the log follows its end", PATIENCE, || browser.text("log").contains("the cause") && px_to_end(&browser) < 1.0);
    // The lines can arrive before the state. A run that the page has never seen alive gets its card at the top.
    wait_until("the page shows the live run", PATIENCE, || browser.text("state") == "Running");
    end(&place);
    // The whole card is in view, below the last line.
    let card = "document.querySelector('section.card')";
    wait_until("the card is there", PATIENCE, || {
        is_true(
            &browser,
            &format!(
                "(() => {{ const box = {card}?.getBoundingClientRect(), view = document.getElementById('log').getBoundingClientRect();
                   return !!box && box.top > view.top + 50 && box.bottom <= view.bottom; }})()"
            ),
        )
    });
    let told = browser.script(&format!("return {card}.querySelector('pre').textContent"));
    assert_eq!(told, "x.c:1: error: the cause\n…\nERROR: the last");

    // On a page that is opened later, the card comes first.
    open(&browser, &place, "");
    wait_until("the card is at the top", PATIENCE, || {
        is_true(&browser, &format!("{card} && {card} === document.getElementById('log').firstElementChild"))
            && is_true(&browser, "document.getElementById('log').scrollTop === 0")
    });
    // The line that the address names stays in the middle when lines are loaded above it.
    let count = "return import('/static/app.js').then(({ rowBounds: bounds }) => bounds()[1] - bounds()[0])";
    wait_until("the log was read", PATIENCE, || browser.script(count).as_u64() > Some(300));
    let line = browser.script("return import('/static/app.js').then(({ rowBounds, rowAt }) => rowAt(rowBounds()[0] + 150).id)");
    open(&browser, &place, &format!("#/runs/1?line={line}"));
    wait_until("the card is there again", PATIENCE, || is_true(&browser, &format!("!!{card}")));
    wait_until("the line is in the middle", PATIENCE, || {
        is_true(
            &browser,
            "(() => { const box = document.querySelector('#log .to')?.getBoundingClientRect(), view = document.getElementById('log').getBoundingClientRect();
               return !!box && Math.abs(box.top + box.height / 2 - view.top - view.height / 2) < 40; })()",
        )
    });
}

#[test]
fn run_again_asks_for_the_value_that_was_not_kept() {
    let Some((browser, place)) = set_up(&[("ends.sh", ENDS)]) else { return };
    place.start_with(json!({"script": "ends.sh", "args": ["a b"], "env": {"BUILD_TYPE": "release"}}));
    end(&place);
    open(&browser, &place, "");
    browser.click("start");
    wait_until("the form asks", PATIENCE, || {
        browser.script("return document.getElementById('form').open && document.activeElement.getAttribute('aria-label')")
            == "Value of BUILD_TYPE"
    });
    assert!(browser.text("wrong").starts_with("The value of BUILD_TYPE was not kept."), "{}", browser.text("wrong"));
    assert!(!browser.shows("trouble"), "{}", browser.text("error"));
    for key in ["d", "e", "v"] {
        browser.press(key);
    }
    browser.script("document.querySelector('#form .prime').id = 'go'");
    browser.click("go");
    wait_until("it runs with that value", PATIENCE, || place.pipeline()["state"] == "running");
    let pid = place.pipeline()["pid"].as_u64().expect("a pid");
    let env = std::fs::read(format!("/proc/{pid}/environ")).expect("ours");
    assert!(env.split(|byte| *byte == 0).any(|it| it == b"BUILD_TYPE=dev"));
    assert_eq!(place.get("/api/runs/2").ok()["run"]["args"], json!(["a b"]));
}

#[test]
fn stop_deadline_can_be_moved_twice_and_countdown_hidden() {
    let Some((browser, place)) = set_up(&[("stubborn.sh", STUBBORN)]) else { return };
    place.start_with(json!({"script": "stubborn.sh", "grace_s": 2}));
    open(&browser, &place, "");
    agree(&browser, &place, "running");
    browser.click_and_confirm("stop");
    let deadline = |after: &str| {
        let mut at = String::new();
        wait_until("there is a later deadline", PATIENCE, || {
            at = place.pipeline()["kill_at"].as_str().unwrap_or_default().to_owned();
            at.as_str() > after
        });
        at
    };
    let first = deadline("");
    browser.click("longer");
    let second = deadline(&first);
    browser.click("longer");
    deadline(&second);

    browser.click("hide");
    wait_until("the countdown is hidden", PATIENCE, || !browser.shows("stopping"));
    browser.click("unhide");
    wait_until("it is back", PATIENCE, || browser.shows("kill"));
    browser.click("kill");
    wait_until("the question takes a yes", PATIENCE, || is_true(&browser, "!document.getElementById('yes').disabled"));
    browser.click("yes");
    agree(&browser, &place, "stopped");
    assert!(!browser.shows("trouble"), "{}", browser.text("error"));
    assert!(browser.text("detail").contains("had not ended by"), "{}", browser.text("detail"));
}

#[test]
fn run_that_ends_during_confirmation_leaves_only_close() {
    let Some((browser, place)) = set_up(&[("ends.sh", ENDS)]) else { return };
    place.start_with(json!({"script": "ends.sh"}));
    open(&browser, &place, "");
    agree(&browser, &place, "running");
    browser.click("stop");
    wait_until("the question is there", PATIENCE, || browser.shows("yes"));
    end(&place);
    wait_until("it says so", PATIENCE, || browser.text("sure-text") == "It has already ended.");
    assert_eq!((browser.shows("sure"), browser.shows("yes"), browser.shows("kill-now")), (true, false, false));
    browser.click("no");
    wait_until("the question is gone", PATIENCE, || !browser.shows("sure"));
    assert_eq!(place.pipeline()["run_id"], 1);
    // The sheet is complete again for the next run.
    place.start_with(json!({"script": "ends.sh"}));
    agree(&browser, &place, "running");
    browser.click_and_confirm("stop");
    agree(&browser, &place, "stopped");
}

#[test]
fn two_pages_that_repeat_a_run_start_one_and_report_no_error() {
    let Some((browser, place)) = set_up(&[("stubborn.sh", STUBBORN)]) else { return };
    run_nothing(&place);
    place.script("nothing.sh", STUBBORN);
    open(&browser, &place, "");
    wait_until("the run can be repeated", PATIENCE, || enabled(&browser) == ["start"]);
    browser.wait_for_presses("start");
    // The other page was faster, and this page has not received the new state: its request waits until both have pressed.
    browser.script(
        "const real = window.fetch;
         window.fetch = async (path, ...rest) => { if (`${path}`.endsWith('/start')) await new Promise((go) => { window.go = go; }); return real(path, ...rest); }",
    );
    browser.click("start");
    wait_until("the press is on its way", PATIENCE, || is_true(&browser, "!!window.go"));
    place.start_with(json!({"again": 1}));
    browser.script("window.go()");
    wait_until("the press was refused", PATIENCE, || {
        is_true(
            &browser,
            "performance.getEntriesByType('resource').some((it) => it.name.endsWith('/start') && it.responseStatus === 409)",
        )
    });
    agree(&browser, &place, "running");
    assert_eq!(place.pipeline()["run_id"], 2);
    assert!(!browser.shows("trouble"), "{}", browser.text("error"));
}

#[test]
fn lost_response_is_retried_with_the_same_idempotency_key() {
    let Some((browser, place)) = set_up(&[("ends.sh", ENDS)]) else { return };
    run_nothing(&place);
    place.script("nothing.sh", STUBBORN);
    open(&browser, &place, "");
    wait_until("the run can be repeated", PATIENCE, || enabled(&browser) == ["start"]);
    // The server acts, but its response is lost, as on a broken connection.
    browser.script(
        "const real = window.fetch; window.keys = [];
         window.fetch = async (path, init) => {
           const answer = await real(path, init);
           if (!`${path}`.endsWith('/start')) return answer;
           window.keys.push(new Headers(init.headers).get('Idempotency-Key'));
           if (window.keys.length === 1) throw new TypeError('the answer is lost');
           return answer;
         };",
    );
    browser.click("start");
    wait_until("it was asked twice", PATIENCE, || browser.script("return window.keys.length") == 2);
    assert_eq!(browser.script("return window.keys[0] === window.keys[1] && window.keys[0].length > 10"), true);
    agree(&browser, &place, "running");
    assert!(!browser.shows("trouble"), "{}", browser.text("error"));
    assert_eq!(place.pipeline()["run_id"], 2);
}

#[test]
fn scripts_in_the_root_come_first_without_a_primary_button() {
    let Some((browser, place)) = set_up(&[("train.sh", ENDS), ("eval.sh", ENDS)]) else { return };
    std::fs::create_dir(place.root().join("a")).expect("ours");
    place.script("a/clean.sh", ENDS);
    open(&browser, &place, "");
    wait_until("the scripts are listed", PATIENCE, || browser.text("first").contains("clean.sh"));
    let paths =
        browser.script("return [...document.querySelectorAll('#first li')].map((it) => it.querySelector('code').textContent)");
    let paths: Vec<Value> = serde_json::from_value(paths).expect("paths");
    assert_eq!(paths.last(), Some(&json!("a/clean.sh")), "{paths:?}");
    assert_eq!(browser.script("return [...document.querySelectorAll('.prime')].filter((it) => it.checkVisibility()).length"), 0);
}

#[test]
fn stop_countdown_covers_no_controls() {
    const COVERED: &str = "
      const box = document.getElementById('stopping').getBoundingClientRect();
      const covered = [...document.querySelectorAll(':is(#top, #run-bar, #stopping) :is(button, a[href], input, select)')].filter((it) => {
        const { left, top, right, bottom } = it.getBoundingClientRect();
        return it.checkVisibility({ visibilityProperty: true }) && right - left > 2
          && !it.contains(document.elementFromPoint((left + right) / 2, (top + bottom) / 2));
      }).map((it) => it.id || it.textContent);
      // A phone has no room beside it: the log ends above it.
      const log = document.getElementById('log-box').getBoundingClientRect();
      return innerWidth <= 760 && log.bottom > box.top + 1 ? [...covered, 'log'] : covered;";
    let Some((browser, place)) = set_up(&[("stubborn.sh", STUBBORN)]) else { return };
    place.start_with(json!({"script": "stubborn.sh", "grace_s": 600}));
    browser.be_a_screen(1280, 800, false);
    open(&browser, &place, "");
    agree(&browser, &place, "running");
    browser.click_and_confirm("stop");
    for (wide, tall, is_phone) in
        [(1280, 800, false), (900, 700, false), (390, 844, true), (320, 640, true), (640, 400, false), (844, 390, true)]
    {
        browser.be_a_screen(wide, tall, is_phone);
        open(&browser, &place, "");
        wait_until("the countdown is there", PATIENCE, || browser.shows("stopping"));
        assert_eq!(browser.script(COVERED), json!([]), "{wide} × {tall}");
    }
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
}

#[test]
fn phone_shows_usage_and_details_at_once_under_more() {
    let Some((browser, place)) = set_up(&[("stubborn.sh", STUBBORN)]) else { return };
    place.start_with(json!({"script": "stubborn.sh", "args": ["a b"]}));
    browser.be_a_screen(390, 844, true);
    open(&browser, &place, "");
    agree(&browser, &place, "running");
    browser.click("tab-more");
    wait_until("both are there", PATIENCE, || {
        browser.text("pane-usage").contains("Memory") && browser.text("pane-details").contains("stubborn.sh 'a b'")
    });
    assert!(browser.shows("pane-usage") && browser.shows("pane-details") && !browser.shows("pane-log"));
    browser.click("tab-log");
    wait_until("the log is back", PATIENCE, || browser.shows("pane-log"));
    assert!(!browser.shows("pane-usage") && !browser.shows("pane-details"));
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
}

#[test]
fn form_says_which_files_it_lists() {
    let Some((browser, place)) = set_up(&[("ends.sh", ENDS)]) else { return };
    std::fs::write(place.root().join("train.py"), "print('no first line')\n").expect("ours");
    let says = |id: &str| browser.text(id).contains("files with a first line such as #!/usr/bin/env python3");
    browser.be_a_screen(1280, 800, false);
    open(&browser, &place, "");
    wait_until("the first visit says it", PATIENCE, || says("first"));
    assert!(!browser.text("first").contains("train.py"), "{}", browser.text("first"));
    place.start_with(json!({"script": "ends.sh"}));
    end(&place);
    wait_until("the button works", PATIENCE, || browser.shows("new-run"));
    browser.click("new-run");
    wait_until("the form says it", PATIENCE, || says("form"));
}
