//! The status page in a real browser, with the real binary and real pipelines: what the page shows agrees with the API, the
//! kernel and the database, and its buttons do what they say.
//!
//! If chromium or chromedriver is missing, each test says that it did not run; `AUTOAPPDEV_REQUIRE_BROWSER=1` makes that a
//! failure.

use std::fs;

use crate::support::{Place, signal};
use crate::webdriver::{Browser, ENTER, PATIENCE, TAB, wait_until};
use serde_json::{Value, json};

use super::page::{SCRIPT, TREE, agree, enabled, hide, icon, letters, set_up, titled};

/// A script that, like its children, ignores TERM.
const STUBBORN: &str = "#!/bin/bash\ntrap '' TERM\necho \"not going\"\nwhile :; do sleep 0.2; done\n";

#[test]
fn page_agrees_with_api_kernel_and_database_at_each_action() {
    let Some((browser, place)) = set_up(TREE) else { return };

    agree(&browser, &place, "stopped");

    browser.click("start");
    let pid = agree(&browser, &place, "running").expect("a running pipeline has a pid");
    wait_until("the whole tree runs", PATIENCE, || letters(&place).len() >= 3);
    wait_until("the log shows both streams", PATIENCE, || {
        let log = browser.text("log");
        log.contains("the tree begins") && log.contains("step 2") && log.contains("warning 2")
    });
    assert!(browser.text("log").contains(r#"<b id="injected">no markup</b>"#), "a line is shown as it was written");
    assert_eq!(browser.script("return document.getElementById('injected')"), Value::Null, "a line is never markup");
    assert_eq!(browser.text("state"), "Running");
    assert_eq!(browser.script("return document.title"), titled(&place, "▶ Running · tree.sh"));
    assert_eq!(icon(&browser), "running");

    browser.click("pause");
    assert_eq!(agree(&browser, &place, "paused"), Some(pid));
    let tree = letters(&place);
    assert!(tree.len() >= 3 && tree.iter().all(|&letter| letter == 'T'), "paused, so every process is stopped: {tree:?}");

    browser.click("resume");
    assert_eq!(agree(&browser, &place, "running"), Some(pid));
    let tree = letters(&place);
    assert!(tree.iter().all(|&letter| letter != 'T'), "running, so no process is stopped: {tree:?}");
    let shown = browser.text("log").len();
    wait_until("the log goes on", PATIENCE, || browser.text("log").len() > shown);

    browser.click_and_confirm("stop");
    assert_eq!(agree(&browser, &place, "stopped"), None);
    let tree = letters(&place);
    assert!(tree.is_empty(), "stopped, so nothing is left: {tree:?}");
    assert_eq!((browser.text("state").as_str(), icon(&browser).as_str()), ("Stopped", "stopped"));
    assert!(browser.text("status").starts_with("by you after"), "{}", browser.text("status"));
}

#[test]
fn page_shows_stop_continue_and_kill_signals_from_outside() {
    let Some((browser, place)) = set_up(TREE) else { return };
    let (pid, _) = place.start();
    agree(&browser, &place, "running");

    signal(pid, "STOP");
    agree(&browser, &place, "paused");

    signal(pid, "CONT");
    agree(&browser, &place, "running");

    signal(pid, "KILL");
    agree(&browser, &place, "stopped");
    assert_eq!((browser.text("state").as_str(), icon(&browser).as_str()), ("Killed", "killed"));
    assert!(browser.text("status").starts_with("SIGKILL, not by you, after"), "{}", browser.text("status"));
}

#[test]
fn page_shows_why_a_pause_does_not_hold() {
    let Some((browser, mut place)) = set_up(TREE) else { return };
    let port = place.port();
    place.kill_server();
    place.set_env("AUTOAPPDEV_PORT", &port.to_string());
    place.set_env("AUTOAPPDEV_CONTAINMENT", "tree");
    place.start_server();
    let (leader, _) = place.start();
    wait_until("the whole tree runs", PATIENCE, || letters(&place).len() >= 3);
    place.act("pause").ok();
    agree(&browser, &place, "paused");
    assert!(!browser.shows("detail"));

    let child = *place.processes().iter().find(|&&pid| pid != leader).expect("it has children");
    signal(child, "CONT");
    wait_until("the page says so", PATIENCE, || browser.shows("detail"));
    let told = browser.text("detail");
    assert!(told.starts_with("Pause not holding: something continued process ") && told.ends_with('.'), "{told}");
    agree(&browser, &place, "paused");

    browser.click("resume");
    agree(&browser, &place, "running");
    wait_until("it is over", PATIENCE, || !browser.shows("detail"));
}

#[test]
fn failed_run_is_shown_with_exit_code() {
    let Some((browser, place)) = set_up("#!/bin/bash\necho \"about to fail\"\nexit 3\n") else { return };
    browser.click("start");
    wait_until("the page tells the end", PATIENCE, || browser.text("state") == "Failed");
    assert!(browser.text("status").starts_with("exit 3 after"), "{}", browser.text("status"));
    assert_eq!(browser.script("return document.title"), titled(&place, "✕ Failed (3) · tree.sh"));
    assert_eq!(icon(&browser), "failed");
    wait_until("the log has the last line", PATIENCE, || browser.text("log").contains("about to fail"));
    agree(&browser, &place, "stopped");
}

#[test]
fn slow_stop_shows_countdown_and_can_be_turned_into_kill() {
    let Some((browser, place)) = set_up(STUBBORN) else { return };
    place.start_with(json!({"grace_s": 3600}));
    agree(&browser, &place, "running");
    wait_until("the script ignores TERM", PATIENCE, || browser.text("log").contains("not going"));

    browser.script("window.stopBox = document.getElementById('stop').getBoundingClientRect()");
    browser.click_and_confirm("stop");
    wait_until("killing is offered", PATIENCE, || enabled(&browser) == ["kill", "longer"]);
    let overlaps = browser.script(
        "const a = window.stopBox, b = document.getElementById('kill').getBoundingClientRect();
         return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom",
    );
    assert_eq!(overlaps, false, "Kill is never where Stop was");
    assert_eq!(browser.text("state"), "Stopping");
    assert!(browser.text("status").ends_with(" left"), "{}", browser.text("status"));
    assert_eq!(browser.state(), "running", "it is not stopped before it is");

    browser.click("kill");
    browser.click("no");
    assert_eq!(browser.script("return document.getElementById('sure').open"), false);
    assert_eq!(place.pipeline()["pending"], "stop", "nothing was killed");
    browser.click_and_confirm("kill");
    agree(&browser, &place, "stopped");
    assert!(!browser.shows("kill") && !browser.shows("stopping"));
    assert!(browser.text("status").starts_with("by you, then killed, after"), "{}", browser.text("status"));
}

/// The open confirmation belongs to one run and must not end the next one.
#[test]
fn stop_confirmation_reports_that_its_run_has_ended() {
    let Some((browser, place)) = set_up(TREE) else { return };
    place.start();
    agree(&browser, &place, "running");
    browser.click("stop");
    wait_until("the question is there", PATIENCE, || browser.shows("yes"));
    place.act("stop").ok();
    wait_until("it says so", PATIENCE, || browser.text("sure-text") == "It has already ended." && !browser.shows("yes"));
    browser.click("no");
    agree(&browser, &place, "stopped");
}

#[test]
fn start_buttons_run_the_script_that_they_name() {
    let Some((browser, place)) = set_up(TREE) else { return };
    browser.be_a_screen(1280, 800, false);
    place.script("other.sh", "#!/bin/bash\nexit 0\n");
    place.start_with(json!({"script": "other.sh"}));
    wait_until("the other one ran", PATIENCE, || browser.text("script") == "other.sh" && browser.text("state") == "Succeeded");
    agree(&browser, &place, "stopped");
    assert_eq!((browser.text("start"), browser.text("new-run")), ("Run again".to_owned(), "Start tree.sh".to_owned()));
    browser.script(RECORD_POSTS);
    browser.click("start");
    wait_until("it ran again", PATIENCE, || place.pipeline()["run_id"] == 2 && browser.text("state") == "Succeeded");
    assert_eq!(place.pipeline()["script"], "other.sh");
    browser.click("new-run");
    agree(&browser, &place, "running");
    assert_eq!((browser.text("script").as_str(), &place.pipeline()["script"]), ("tree.sh", &"tree.sh".into()));
    assert_eq!(browser.text("new-run"), "New run…");
    assert_eq!(
        browser.script("return window.posted"),
        json!([{"again": 1, "if_run_id": 1}, {"script": "tree.sh", "if_run_id": 2}])
    );
}

#[test]
fn page_without_default_script_offers_only_run_again() {
    let Some(browser) = Browser::start() else { return };
    let mut place = Place::new();
    place.script("args.sh", "#!/bin/bash\nprintf '<%s>' \"$@\" \"$PWD\"\necho\n");
    place.start_server();
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
    wait_until("the scripts are listed", PATIENCE, || browser.text("first").contains("args.sh"));
    assert_eq!(enabled(&browser), Vec::<String>::new());
    assert!(!browser.shows("start"));

    // The latest run can be repeated unchanged, and the button shows its whole command.
    fs::create_dir(place.root().join("sub")).expect("creates");
    place.start_with(json!({"script": "args.sh", "args": ["-v", "a b"], "cwd": "sub"}));
    wait_until("it is offered", PATIENCE, || enabled(&browser) == ["start"]);
    assert_eq!(
        (browser.text("start"), browser.text("script")),
        ("Run again: -v 'a b'".to_owned(), "args.sh -v 'a b'".to_owned())
    );
    browser.click("start");
    wait_until("it has run again", PATIENCE, || place.pipeline()["run_id"] == 2 && place.pipeline()["state"] == "stopped");
    let again = place.get("/api/runs/2").ok()["run"].take();
    let first = place.get("/api/runs/1").ok()["run"].take();
    assert_eq!((&again["script"], &again["args"], &again["cwd"]), (&first["script"], &first["args"], &first["cwd"]));
}

#[test]
fn page_shows_conditions_and_marks_an_unrecorded_state() {
    let Some((browser, place)) = set_up(TREE) else { return };
    place.start();
    agree(&browser, &place, "running");
    let condition =
        |code: &str| json!({"code": code, "since": "2026-01-31T10:00:00.000Z", "detail": format!("<b>{code}</b> it is")});
    pretend(&browser, &json!({"conditions": [condition("disk_low")]}));
    wait_until("it is shown", PATIENCE, || browser.shows("conditions"));
    assert!(browser.text("conditions").starts_with("<b>disk_low</b> it is. Since "), "{}", browser.text("conditions"));
    assert_eq!((browser.text("state").as_str(), icon(&browser).as_str()), ("Running", "running"));

    pretend(&browser, &json!({"allowed": [], "conditions": [condition("not_recorded"), condition("disk_full")]}));
    wait_until("it is not called running", PATIENCE, || browser.text("state") == "Not recorded");
    assert_eq!(browser.text("status"), "last recorded: running");
    assert_eq!(browser.script("return document.title"), titled(&place, "? Not recorded · tree.sh"));
    assert_eq!(icon(&browser), "doubt");
    assert_eq!(browser.script("return document.querySelectorAll('#conditions p').length"), 2);
    assert_eq!(enabled(&browser), Vec::<String>::new());

    pretend(&browser, &json!({}));
    wait_until("it is over", PATIENCE, || !browser.shows("conditions"));
    agree(&browser, &place, "running");
    // For a stopped pipeline, the page also shows the processes that were killed at the end.
    pretend(
        &browser,
        &json!({"state": "stopped", "status": "stopped", "pid": null, "detail": "killed at the end: sleep (4711)"}),
    );
    wait_until("it is told", PATIENCE, || browser.shows("detail"));
    assert_eq!(browser.text("detail"), "Killed at the end: sleep (4711).");
}

/// A browser has six connections to a server for all its windows, and a hidden page must still show the end of the run.
#[test]
fn hidden_pages_show_the_end_and_leave_connections_free() {
    const HIDDEN: usize = 7;
    let Some((browser, place)) = set_up(TREE) else { return };
    place.start();
    let mut windows = Vec::new();
    for _ in 0..HIDDEN {
        agree(&browser, &place, "running");
        hide(&browser);
        windows.push(browser.window());
        browser.open_window();
        browser.open(&format!("http://127.0.0.1:{}/", place.port()));
    }
    // At first all pages are hidden.
    agree(&browser, &place, "running");
    hide(&browser);
    place.act("stop").ok();
    let title = titled(&place, "◼ Stopped · tree.sh");
    let told = |browser: &Browser| browser.script("return document.title") == title;
    for window in &windows {
        browser.go_to_window(window);
        wait_until("a hidden page tells the end", PATIENCE, || told(&browser));
        assert_eq!(icon(&browser), "stopped");
    }
    browser.open_window();
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
    agree(&browser, &place, "stopped");
    browser.click("start");
    agree(&browser, &place, "running");
    browser.click_and_confirm("stop");
    agree(&browser, &place, "stopped");
}

#[test]
fn refused_action_shows_dismissible_error() {
    let Some((browser, place)) = set_up(TREE) else { return };
    agree(&browser, &place, "stopped");
    fs::remove_file(place.root().join(SCRIPT)).expect("the script is there");

    browser.click("start");
    wait_until("the page shows the error", PATIENCE, || browser.shows("error"));
    let answer = place.act("start");
    assert_eq!((answer.status, answer.error()), (404, "script_not_found"), "{}", answer.body);
    let detail = answer.body["detail"].as_str().expect("a refusal has a detail").to_lowercase();
    assert!(browser.text("error").to_lowercase().contains(&detail), "{detail:?} is not in {:?}", browser.text("error"));
    agree(&browser, &place, "stopped");

    browser.click("dismiss");
    wait_until("the error is gone", PATIENCE, || !browser.shows("error") && browser.text("error").is_empty());
}

/// A browser has six connections to a server for all its windows.
#[test]
fn buttons_work_in_each_of_four_windows() {
    let Some((browser, place)) = set_up(TREE) else { return };
    place.start();
    for _ in 0..4 {
        wait_until("the log is there", PATIENCE, || browser.text("log").contains("step 1"));
        browser.open_window();
        browser.open(&format!("http://127.0.0.1:{}/", place.port()));
    }
    agree(&browser, &place, "running");
    assert_eq!(browser.script("return document.hidden"), false);
    browser.click("pause");
    agree(&browser, &place, "paused");
    browser.click_and_confirm("stop");
    agree(&browser, &place, "stopped");
}

#[test]
fn page_fits_phone_width_with_large_buttons() {
    let Some((browser, place)) = set_up(TREE) else { return };
    browser.be_a_phone(360, 740);
    place.start();
    agree(&browser, &place, "running");
    wait_until("the log has lines", PATIENCE, || browser.text("log").contains("step 1"));
    let widths = browser.script("return [document.documentElement.scrollWidth, innerWidth]");
    assert_eq!(widths, json!([360, 360]), "no scrolling sideways");
    for action in ["pause", "stop"] {
        let size = browser.script(&format!(
            "const it = document.getElementById('{action}').getBoundingClientRect(); return [it.width, it.height]"
        ));
        let big = size.as_array().is_some_and(|sides| sides.iter().all(|side| side.as_f64() >= Some(44.0)));
        assert!(big, "{action} is too small for a thumb: {size}");
    }
}

#[test]
fn run_can_be_started_and_stopped_by_keyboard_alone() {
    let Some((browser, place)) = set_up(TREE) else { return };
    agree(&browser, &place, "stopped");
    let focus = || browser.script("return document.activeElement.id");

    tab_to(&browser, "start");
    browser.press(ENTER);
    agree(&browser, &place, "running");
    assert_eq!(focus(), "controls", "the focus of a button that was disabled stays with its group");
    tab_to(&browser, "pause");
    tab_to(&browser, "stop");
    let ring = browser.script("return getComputedStyle(document.activeElement).outlineStyle");
    assert_eq!(ring, "solid", "the focus can be seen");
    browser.press(ENTER);
    assert_eq!(focus(), "no", "what ends a run asks first, and what is repeated does nothing");
    wait_until("the question takes a yes", PATIENCE, || {
        browser.script("return !document.getElementById('yes').disabled") == true
    });
    tab_to(&browser, "yes");
    browser.press(ENTER);
    agree(&browser, &place, "stopped");
}

#[test]
fn page_causes_no_console_messages_and_blocks_inline_scripts() {
    let Some((browser, place)) = set_up(TREE) else { return };
    agree(&browser, &place, "stopped");
    browser.click("start");
    agree(&browser, &place, "running");
    browser.click_and_confirm("stop");
    agree(&browser, &place, "stopped");
    assert_eq!(browser.console(), Vec::<String>::new());

    // The same check detects a violation when there is one.
    browser.script("const it = document.createElement('script'); it.append('window.intruder = 1'); document.body.append(it)");
    assert_eq!(browser.script("return window.intruder ?? null"), Value::Null, "an inline script does not run");
    wait_until("the violation is in the console", PATIENCE, || {
        browser.console().iter().any(|line| line.contains("Content Security Policy") || line.contains("TrustedScript"))
    });
}

#[test]
fn damaged_log_line_hides_no_other_line() {
    let Some((browser, place)) = set_up("#!/bin/bash\necho before\nexit 0\n") else { return };
    let (_, run_id) = place.start();
    wait_until("the run is over", PATIENCE, || place.run(run_id)["cpu_user_ms"].is_u64());
    let segments = fs::read_dir(place.run_dir(run_id).join("log")).expect("there").map(|entry| entry.expect("there").path());
    let segment = segments.max().expect("a segment");
    let mut text = fs::read(&segment).expect("ours");
    text.splice(..0, *b"torn\n");
    fs::write(&segment, text).expect("ours");
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
    wait_until("the page shows what follows the damage", PATIENCE, || browser.text("log").contains("before"));
    assert!(browser.text("log").contains("torn"), "{}", browser.text("log"));
    assert_eq!(browser.console(), Vec::<String>::new());
}

/// Records the page's posts.
const RECORD_POSTS: &str = "window.posted = []; const real = window.fetch;
     window.fetch = (path, init) => { if (init?.body) window.posted.push(JSON.parse(init.body)); return real(path, init); };";

/// Makes the page receive the state with `changes` from now on.
fn pretend(browser: &Browser, changes: &Value) {
    browser.script(&format!(
        "window.real ??= window.fetch;
         window.fetch = async (path, init) => {{
           const response = await window.real(path, init);
           if (init?.method || !/^api\\/pipeline(\\?|$)/.test(path)) return response;
           const body = await response.json();
           return new Response(JSON.stringify({{ pipeline: {{ ...body.pipeline, ...{changes} }} }}), response);
         }};
         dispatchEvent(new Event('online'))"
    ));
}

/// Presses Tab until the element with this id has the focus. No page has a hundred tab stops.
fn tab_to(browser: &Browser, id: &str) {
    browser.wait_for_presses(id);
    for _ in 0..100 {
        browser.press(TAB);
        if browser.script("return document.activeElement.id") == id {
            // On its way around, the focus passes through the browser's own buttons, so the page gets the focus again.
            browser.wait_for_presses(id);
            return;
        }
    }
    panic!("Tab does not reach {id}");
}
