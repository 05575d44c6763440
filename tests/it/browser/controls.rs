//! The status page in a real browser, on the real binary with real pipelines: what a person sees and clicks is what the API, the
//! kernel and the database say and do.
//!
//! Where chromium or chromedriver is missing, each test says that it did not run; `AUTOAPPDEV_REQUIRE_BROWSER=1` makes that a failure.

use std::fs;

use crate::support::{Place, letter, signal};
use crate::webdriver::{Browser, ENTER, PATIENCE, TAB, wait_until};
use serde_json::{Value, json};

const SCRIPT: &str = "tree.sh";

/// A leader with children of each kind that is easily missed: in a session of its own, and orphaned by a double fork.
const TREE: &str = r#"#!/bin/bash
echo "the tree begins"
echo '<b id="injected">no markup</b>'
setsid sleep 1000 &
( sleep 1000 & )
step=0
while :; do
  step=$((step + 1))
  echo "step $step"
  echo "warning $step" >&2
  # The page draws what is near the end: on a slow machine, too, the first lines are to be seen for a while.
  [ "$step" -lt 3 ] || sleep 1
done
"#;

/// Does not end by TERM, and neither do its children.
const STUBBORN: &str = "#!/bin/bash\ntrap '' TERM\necho \"not going\"\nwhile :; do sleep 0.2; done\n";

const ACTIONS: [&str; 4] = ["start", "pause", "resume", "stop"];

#[test]
fn the_page_the_api_ps_and_the_database_agree_at_each_step() {
    let Some((browser, place)) = set_up(TREE) else { return };

    agree(&browser, &place, "stopped");
    assert_eq!(browser.text("pid"), "–", "nothing has run yet");

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
    assert_eq!(browser.script("return document.title"), "▶ Running · tree.sh · AutoAppDev");
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
    assert!(browser.text("status").contains("on request, ended by SIG"), "{}", browser.text("status"));
}

#[test]
fn a_stop_and_a_continue_from_outside_show_by_themselves() {
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
    assert!(browser.text("status").contains("SIGKILL, not by a stop"), "{}", browser.text("status"));
}

#[test]
fn a_pause_that_does_not_hold_shows_its_reason() {
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
fn a_killed_server_shows_and_the_page_recovers_by_itself() {
    let Some((browser, mut place)) = set_up(TREE) else { return };
    place.start();
    let pid = agree(&browser, &place, "running");

    let port = place.port();
    place.kill_server();
    wait_until("the page says that the server is away", PATIENCE, || {
        browser.shows("connection") && browser.text("connection").starts_with("No connection to the server since ")
    });
    assert_eq!((browser.state().as_str(), browser.text("state").as_str()), ("unknown", "Disconnected"));
    assert!(browser.text("status").starts_with("last seen running "), "{}", browser.text("status"));
    assert!(
        browser.text("connection").ends_with("Until then this page can’t tell what the pipeline is doing."),
        "{}",
        browser.text("connection")
    );
    assert_eq!(browser.script("return document.title"), "⌁ Disconnected · tree.sh · AutoAppDev");
    assert_eq!(icon(&browser), "disconnected");
    let is_there = browser.script(
        "const it = document.getElementById('symbol'); return fetch('static/icon-disconnected.svg', { cache: 'force-cache' })
           .then((answer) => answer.ok && it.complete && it.naturalWidth > 0)",
    );
    assert_eq!(is_there, true, "the icon for a server that is away does not come from it");
    assert_eq!(enabled(&browser), Vec::<String>::new());

    // The page knows this server by its port.
    place.set_env("AUTOAPPDEV_PORT", &port.to_string());
    place.start_server();
    wait_until("the page is connected again", PATIENCE, || !browser.shows("connection"));
    assert_eq!(agree(&browser, &place, "running"), pid, "the pipeline went on, and the page shows it again");
}

#[test]
fn page_does_not_act_on_the_server_of_another_project_at_its_address() {
    let Some((browser, mut place)) = set_up(TREE) else { return };
    let (_, run_id) = place.start();
    agree(&browser, &place, "running");
    let port = place.port();
    place.kill_server();

    let mut other = Place::new();
    other.script(SCRIPT, TREE);
    other.set_env("AUTOAPPDEV_PORT", &port.to_string());
    other.start_server();
    other.post("/api/pipeline/start", json!({"script": SCRIPT})).ok();
    let told = || if browser.shows("trouble") { browser.text("error") } else { String::new() };
    wait_until("the page says that another server answers", PATIENCE, || told().starts_with("Another server answers"));
    let dirs = [&place, &other].map(|place| place.runtime().display().to_string());
    assert!(dirs.iter().all(|dir| told().contains(dir)), "{}", told());
    agree(&browser, &other, "running");
    // It is told once.
    browser.click("dismiss");
    browser.script("location.reload()");
    agree(&browser, &other, "running");
    assert!(!browser.shows("trouble"), "{}", told());

    // What the page sends with a click is refused by the first server, which is back at the address.
    let field = browser.script("return import('./static/server.js').then(({ toThisServer }) => toThisServer())");
    assert!(field["AutoAppDev-Server"].is_string(), "{field}");
    other.kill_server();
    place.set_env("AUTOAPPDEV_PORT", &port.to_string());
    place.start_server();
    let sent = browser.script(&format!(
        "return fetch('api/pipeline/stop', {{ method: 'POST', body: '{{}}', headers: {{ 'Content-Type': 'application/json', ...{field} }} }})
           .then((answer) => answer.status, () => 421)"
    ));
    assert_eq!(sent, 421);
    wait_until("the page says so again", PATIENCE, || told().contains(&format!("It now shows {}", dirs[0])));
    agree(&browser, &place, "running");
    assert_eq!(place.pipeline()["run_id"], run_id, "it was left alone");
}

/// A click can come between the refusal of the old server's name and the answer that tells the new one.
#[test]
fn until_a_new_server_is_known_requests_stay_meant_for_the_old_one() {
    let Some((browser, mut place)) = set_up(TREE) else { return };
    agree(&browser, &place, "stopped");
    let fields = || browser.script("return import('./static/server.js').then(({ toThisServer }) => toThisServer())");
    let before = fields();
    assert!(before["AutoAppDev-Server"].is_string(), "{before}");
    browser.script(
        "const real = window.fetch;
         window.fetch = async (path, init) => {
           if (path !== 'api/version') return real(path, init);
           window.isAsked = true;
           await new Promise((resolve) => { window.letGo = resolve; });
           return real(path, init);
         }",
    );
    let port = place.port();
    place.kill_server();
    place.set_env("AUTOAPPDEV_PORT", &port.to_string());
    place.start_server();
    wait_until("the page asks which server it is", PATIENCE, || browser.script("return window.isAsked ?? false") == true);
    assert_eq!(fields(), before);
    browser.script("window.letGo()");
    agree(&browser, &place, "stopped");
    assert_ne!(fields(), before);
}

/// A browser that may store nothing refuses the mere look at its stores.
#[test]
fn page_works_and_tells_of_another_server_where_nothing_may_be_stored() {
    let Some((browser, mut place)) = set_up(TREE) else { return };
    browser.before_each_page(
        "for (const name of ['sessionStorage', 'localStorage']) {
           Object.defineProperty(window, name, { get() { throw new DOMException('denied', 'SecurityError'); } });
         }",
    );
    browser.script("location.reload()");
    agree(&browser, &place, "stopped");
    let port = place.port();
    place.kill_server();
    let mut other = Place::new();
    other.script(SCRIPT, TREE);
    other.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", SCRIPT);
    other.set_env("AUTOAPPDEV_PORT", &port.to_string());
    other.start_server();
    wait_until("the page says that another server answers", PATIENCE, || {
        browser.shows("trouble") && browser.text("error").starts_with("Another server answers")
    });
    agree(&browser, &other, "stopped");
}

/// Pages of one address hear each other, whichever project they are of.
#[test]
fn hidden_page_shows_no_state_of_another_project() {
    let Some((browser, place)) = set_up(TREE) else { return };
    place.start();
    agree(&browser, &place, "running");
    hide(&browser);
    let say = |project: &str| {
        let pipeline =
            json!({"state": "stopped", "status": "completed", "run_id": 77, "allowed": ["start"], "script": "other.sh"});
        browser.script(&format!(
            "const channel = new BroadcastChannel('autoappdev');
             channel.postMessage({{ pipeline: {{ ...{pipeline} }}, heard: Date.now(), skew: 0, connected: true, project: {project}, number: 0 }})"
        ));
    };
    say("'/another/runtime'");
    wait_until("the page says that nobody tells its state", PATIENCE, || browser.state() == "unknown");
    assert_eq!((browser.text("run-id").as_str(), browser.text("script").as_str()), ("1", SCRIPT));
    say(&json!(place.runtime()).to_string());
    wait_until("it takes the state of its own project", PATIENCE, || browser.text("run-id") == "77");
}

/// It was opened behind another, and had the state only from that one.
#[test]
fn page_that_was_hidden_from_the_start_learns_its_server_when_it_is_seen() {
    let Some((browser, place)) = set_up(TREE) else { return };
    agree(&browser, &place, "stopped");
    let state = browser.script("return fetch('api/pipeline').then((answer) => answer.json())");
    browser.before_each_page(
        "window.isHidden = true;
         Object.defineProperty(document, 'hidden', { get: () => window.isHidden });
         const real = window.fetch;
         window.fetch = (path, init) => (window.isHidden && path.startsWith('api/')
           ? new Promise((_, reject) => init.signal.addEventListener('abort', reject)) : real(path, init));",
    );
    browser.script("location.reload()");
    let told = json!({"pipeline": state["pipeline"], "skew": 0, "connected": true, "project": place.runtime(), "number": 0});
    wait_until("it has the state from another page", PATIENCE, || {
        browser.script(&format!(
            "window.channel ??= new BroadcastChannel('autoappdev');
             window.channel.postMessage({{ ...{told}, heard: Date.now() }})"
        ));
        browser.state() == "stopped"
    });
    browser.script("window.isHidden = false; document.dispatchEvent(new Event('visibilitychange'))");
    agree(&browser, &place, "stopped");
    let fields = browser.script("return import('./static/server.js').then(({ toThisServer }) => toThisServer())");
    assert!(fields["AutoAppDev-Server"].is_string(), "{fields}");
}

#[test]
fn an_end_is_told_in_words() {
    let Some((browser, place)) = set_up("#!/bin/bash\necho \"about to fail\"\nexit 3\n") else { return };
    browser.click("start");
    wait_until("the page tells the end", PATIENCE, || browser.text("state") == "Failed");
    assert!(browser.text("status").contains("run 1 · exit code 3 · after "), "{}", browser.text("status"));
    assert_eq!(browser.script("return document.title"), "✕ Failed (3) · tree.sh · AutoAppDev");
    assert_eq!(icon(&browser), "failed");
    wait_until("the log has the last line", PATIENCE, || browser.text("log").contains("about to fail"));
    agree(&browser, &place, "stopped");
}

#[test]
fn a_stop_that_takes_long_says_so_and_can_be_made_a_kill() {
    let Some((browser, place)) = set_up(STUBBORN) else { return };
    place.start_with(json!({"grace_s": 3600}));
    agree(&browser, &place, "running");
    wait_until("the script ignores TERM", PATIENCE, || browser.text("log").contains("not going"));

    let place_of =
        |id: &str| browser.script(&format!("return JSON.stringify(document.getElementById('{id}').getBoundingClientRect())"));
    let before = ["start", "pause", "stop"].map(place_of);
    browser.click_and_confirm("stop");
    wait_until("killing is offered", PATIENCE, || enabled(&browser) == ["kill"]);
    assert_eq!(["start", "pause", "stop"].map(place_of), before, "no button has moved or changed");
    assert!(browser.text("stop").starts_with("Stop"), "{}", browser.text("stop"));
    assert_eq!(browser.text("state"), "Stopping");
    assert!(browser.text("left").ends_with(" min left") || browser.text("left").ends_with(" s left"), "{}", browser.text("left"));
    assert_eq!(browser.state(), "running", "it is not stopped before it is");

    browser.click("kill");
    browser.click("no");
    assert_eq!(browser.script("return document.getElementById('sure').open"), false);
    assert_eq!(place.pipeline()["pending"], "stop", "nothing was killed");
    browser.click_and_confirm("kill");
    agree(&browser, &place, "stopped");
    assert!(!browser.shows("kill"));
    assert_eq!(browser.text("left"), "");
}

/// The open confirmation is about one run; it must not end the next one.
#[test]
fn confirmation_closes_when_its_run_ends() {
    let Some((browser, place)) = set_up(TREE) else { return };
    place.start();
    agree(&browser, &place, "running");
    browser.click("stop");
    let is_open = || browser.script("return document.getElementById('sure').open") == true;
    assert!(is_open());
    place.act("stop").ok();
    wait_until("the question is gone", PATIENCE, || !is_open());
    agree(&browser, &place, "stopped");
}

#[test]
fn start_starts_the_script_that_the_button_names() {
    let Some((browser, place)) = set_up(TREE) else { return };
    place.script("other.sh", "#!/bin/bash\nexit 0\n");
    place.start_with(json!({"script": "other.sh"}));
    wait_until("the other one ran", PATIENCE, || browser.text("script") == "other.sh" && browser.text("state") == "Succeeded");
    agree(&browser, &place, "stopped");
    assert_eq!(browser.text("start"), "Start tree.sh");
    browser.script(RECORD_POSTS);
    browser.click("start");
    agree(&browser, &place, "running");
    assert_eq!((browser.text("script").as_str(), &place.pipeline()["script"]), ("tree.sh", &"tree.sh".into()));
    assert_eq!(browser.script("return window.posted"), json!([{"script": "tree.sh"}]));
}

#[test]
fn page_without_a_configured_script_enables_no_button_that_must_fail() {
    let Some(browser) = Browser::start() else { return };
    let mut place = Place::new();
    place.script("args.sh", "#!/bin/bash\nprintf '<%s>' \"$@\" \"$PWD\"\necho\n");
    place.start_server();
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
    wait_until("what to do is said", PATIENCE, || browser.shows("no-script"));
    assert!(browser.text("no-script").contains("autoappdev start NAME"));
    assert_eq!(enabled(&browser), Vec::<String>::new());
    assert!(!browser.shows("start"));

    // The latest run can be repeated as it was, and the button shows all of it.
    fs::create_dir(place.root().join("sub")).expect("creates");
    place.start_with(json!({"script": "args.sh", "args": ["-v", "a b"], "cwd": "sub"}));
    wait_until("it is offered", PATIENCE, || enabled(&browser) == ["start"]);
    assert_eq!(browser.text("start"), "Start args.sh -v \"a b\"");
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
    assert!(browser.text("status").starts_with("last recorded: running · run 1"), "{}", browser.text("status"));
    assert_eq!(browser.script("return document.title"), "? Not recorded · tree.sh · AutoAppDev");
    assert_eq!(icon(&browser), "doubt");
    assert_eq!(browser.script("return document.querySelectorAll('#conditions li').length"), 2);
    assert_eq!(enabled(&browser), Vec::<String>::new());

    pretend(&browser, &json!({}));
    wait_until("it is over", PATIENCE, || !browser.shows("conditions"));
    agree(&browser, &place, "running");
    // A stopped pipeline also shows the processes killed at the end.
    pretend(
        &browser,
        &json!({"state": "stopped", "status": "stopped", "pid": null, "detail": "killed at the end: sleep (4711)"}),
    );
    wait_until("it is told", PATIENCE, || browser.shows("detail"));
    assert_eq!(browser.text("detail"), "Killed at the end: sleep (4711).");
}

/// A browser has six connections to a server for all its windows, and a hidden page must still learn of the end.
#[test]
fn hidden_pages_show_the_end_in_their_titles_and_share_one_connection() {
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
    // First all of them hidden: none is visible.
    agree(&browser, &place, "running");
    hide(&browser);
    place.act("stop").ok();
    let told = |browser: &Browser| browser.script("return document.title") == "◼ Stopped · tree.sh · AutoAppDev";
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
fn a_refusal_is_told_in_words_and_can_be_dismissed() {
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
fn the_page_fits_a_phone() {
    let Some((browser, place)) = set_up(TREE) else { return };
    browser.be_a_phone(360, 740);
    place.start();
    agree(&browser, &place, "running");
    wait_until("the log has lines", PATIENCE, || browser.text("log").contains("step 1"));
    let widths = browser.script("return [document.documentElement.scrollWidth, innerWidth]");
    assert_eq!(widths, json!([360, 360]), "no scrolling sideways");
    for action in ACTIONS {
        let size = browser.script(&format!(
            "const it = document.getElementById('{action}').getBoundingClientRect(); return [it.width, it.height]"
        ));
        let big = size.as_array().is_some_and(|sides| sides.iter().all(|side| side.as_f64() >= Some(44.0)));
        assert!(big, "{action} is too small for a thumb: {size}");
    }
}

#[test]
fn the_keyboard_alone_is_enough() {
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
fn the_console_stays_empty_and_the_policy_holds() {
    let Some((browser, place)) = set_up(TREE) else { return };
    agree(&browser, &place, "stopped");
    browser.click("start");
    agree(&browser, &place, "running");
    browser.click_and_confirm("stop");
    agree(&browser, &place, "stopped");
    assert_eq!(browser.console(), Vec::<String>::new());

    // The same look sees a violation where there is one.
    browser
        .script("const it = document.createElement('script'); it.textContent = 'window.intruder = 1'; document.body.append(it)");
    assert_eq!(browser.script("return window.intruder ?? null"), Value::Null, "an inline script does not run");
    wait_until("the violation is in the console", PATIENCE, || {
        browser.console().iter().any(|line| line.contains("Content Security Policy"))
    });
}

#[test]
fn a_damaged_line_of_the_log_hides_no_other() {
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

/// A server whose script has this text, and a browser that shows its page. `None` where there is no browser.
fn set_up(script: &str) -> Option<(Browser, Place)> {
    let browser = Browser::start()?;
    let mut place = Place::new();
    place.script(SCRIPT, script);
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", SCRIPT);
    place.start_server();
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
    Some((browser, place))
}

/// Waits until the page shows `state`, then asserts that the API, /proc and the database say the same. Gives the leader's pid.
fn agree(browser: &Browser, place: &Place, state: &str) -> Option<i64> {
    wait_until(&format!("the page says {state}"), PATIENCE, || browser.state() == state);
    let pipeline = place.pipeline();
    assert_eq!(pipeline["state"], state, "the API says what the page says");

    let (pid, run_id) = (pipeline["pid"].as_i64(), pipeline["run_id"].as_i64());
    let or_dash = |number: Option<i64>| number.map_or("–".to_owned(), |number| number.to_string());
    assert_eq!((browser.text("pid"), browser.text("run-id")), (or_dash(pid), or_dash(run_id)));
    for time in ["started", "paused", "resumed", "stopped"] {
        let shown = browser.script(&format!("return document.getElementById('{time}-at').getAttribute('datetime')"));
        assert_eq!(shown, pipeline[format!("{time}_at")], "{time}_at");
    }
    assert_eq!(stored(place), (state.to_owned(), pid, run_id), "the database says what the API says");

    match pid {
        None => assert_eq!(state, "stopped"),
        Some(pid) => {
            let kernel = u32::try_from(pid).ok().and_then(letter).expect("the leader is alive");
            assert_eq!(kernel == 'T', state == "paused", "the kernel says {kernel} of the leader, the API {state}");
            assert_ne!(state, "stopped");
        }
    }
    // A moment after a click the page lets no button work; then it is what the API says.
    wait_until("the buttons are what the API allows", PATIENCE, || {
        let mut allowed: Vec<String> =
            serde_json::from_value(place.pipeline()["allowed"].clone()).expect("allowed is a list of words");
        allowed.sort_unstable();
        enabled(browser) == allowed
    });
    pid
}

/// Records the page's posts.
const RECORD_POSTS: &str = "window.posted = []; const real = window.fetch;
     window.fetch = (path, init) => { if (init?.body) window.posted.push(JSON.parse(init.body)); return real(path, init); };";

/// From now on the page receives the state with `changes`.
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

/// Makes the page believe that it is hidden, as the browser would report it.
fn hide(browser: &Browser) {
    browser.script(
        "Object.defineProperty(document, 'hidden', { value: true, configurable: true });
         document.dispatchEvent(new Event('visibilitychange'))",
    );
}

/// The icon that both the window and the page show.
fn icon(browser: &Browser) -> String {
    let names = browser.script(
        "return [document.getElementById('icon').href, document.getElementById('symbol').src].map((it) => /icon-(.*)\\.svg$/.exec(it)[1])",
    );
    let [window, page]: [String; 2] = serde_json::from_value(names).expect("two names");
    assert_eq!(window, page);
    page
}

/// The enabled ones of the buttons, sorted.
fn enabled(browser: &Browser) -> Vec<String> {
    let mut enabled: Vec<String> =
        serde_json::from_value(browser.script("return [...document.querySelectorAll('#top button:enabled')].map((it) => it.id)"))
            .expect("ids are a list of texts");
    enabled.sort_unstable();
    enabled
}

/// Presses Tab until the element with this id has the focus; no page has a hundred stops.
fn tab_to(browser: &Browser, id: &str) {
    for _ in 0..100 {
        browser.press(TAB);
        if browser.script("return document.activeElement.id") == id {
            return;
        }
    }
    panic!("Tab does not reach {id}");
}

/// State, pid and run id as the database has them.
fn stored(place: &Place) -> (String, Option<i64>, Option<i64>) {
    let row = "SELECT state, pid, run_id FROM pipeline_state WHERE id = 1";
    place.sql().query_row(row, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).expect("the state is stored")
}

/// The state letters of the pipeline's living processes.
fn letters(place: &Place) -> Vec<char> {
    place.processes().into_iter().filter_map(letter).collect()
}
