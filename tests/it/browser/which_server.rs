//! The server that a page belongs to: one that is down, one that is back, and the server of another project at the same address.
//!
//! If chromium or chromedriver is missing, each test says that it did not run; `AUTOAPPDEV_REQUIRE_BROWSER=1` makes that a
//! failure.

use crate::support::Place;
use crate::webdriver::{PATIENCE, wait_until};
use serde_json::json;

use super::page::{SCRIPT, TREE, agree, enabled, hide, icon, set_up, titled};

#[test]
fn page_shows_lost_server_and_reconnects() {
    let Some((browser, mut place)) = set_up(TREE) else { return };
    place.start();
    let pid = agree(&browser, &place, "running");
    let title = titled(&place, "⌁ Disconnected · tree.sh");
    wait_until("the icon of a lost connection was fetched", PATIENCE, || {
        browser.script("return performance.getEntriesByType('resource').some((it) => it.name.endsWith('icon-disconnected.svg'))")
            == true
    });

    let port = place.port();
    place.kill_server();
    wait_until("the page says that the server is away", PATIENCE, || {
        browser.shows("connection") && browser.text("connection").starts_with("No answer since ")
    });
    assert_eq!((browser.state().as_str(), browser.text("state").as_str()), ("unknown", "Disconnected"));
    assert!(browser.text("status").starts_with("last known: running, "), "{}", browser.text("status"));
    assert!(
        browser.text("connection").contains("If only the server is down, the run goes on. This page shows the state of "),
        "{}",
        browser.text("connection")
    );
    assert_eq!(browser.script("return document.title"), title);
    assert_eq!(icon(&browser), "disconnected");
    let is_there =
        browser.script("return fetch('static/icon-disconnected.svg', { cache: 'force-cache' }).then((answer) => answer.ok)");
    assert_eq!(is_there, true, "the icon for a server that is away does not come from it");
    assert_eq!(enabled(&browser), Vec::<String>::new());

    // The page identifies this server by its address, so the port must be the same.
    place.set_env("AUTOAPPDEV_PORT", &port.to_string());
    place.start_server();
    wait_until("the page is connected again", PATIENCE, || !browser.shows("connection"));
    assert_eq!(agree(&browser, &place, "running"), pid, "the pipeline went on, and the page shows it again");
}

#[test]
fn page_never_acts_on_a_server_of_another_project() {
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
    // The notice is shown once.
    browser.click("dismiss");
    browser.script("location.reload()");
    agree(&browser, &other, "running");
    assert!(!browser.shows("trouble"), "{}", told());

    // The first server, which is back at the address, refuses the requests that the page sends on a click.
    let field = browser.script("return import('./static/app.js').then(({ toThisServer }) => toThisServer())");
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

/// A click can come between the refusal of the old server's id and the response that contains the new one.
#[test]
fn requests_name_the_old_server_until_the_new_one_is_known() {
    let Some((browser, mut place)) = set_up(TREE) else { return };
    agree(&browser, &place, "stopped");
    let fields = || browser.script("return import('./static/app.js').then(({ toThisServer }) => toThisServer())");
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

/// A browser that forbids storage throws at any access to it.
#[test]
fn page_without_storage_works_and_reports_another_server() {
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

/// Pages at one address receive each other's messages, whichever project they belong to.
#[test]
fn hidden_page_ignores_state_of_another_project() {
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
    assert_eq!((browser.text("run-name").as_str(), browser.text("script").as_str()), ("Run 1", SCRIPT));
    say(&json!(place.runtime()).to_string());
    wait_until("it takes the state of its own project", PATIENCE, || browser.text("run-name") == "Run 77");
}

/// The page was opened in the background, and had the state only from another page.
#[test]
fn page_opened_hidden_identifies_its_server_when_shown() {
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
    let fields = browser.script("return import('./static/app.js').then(({ toThisServer }) => toThisServer())");
    assert!(fields["AutoAppDev-Server"].is_string(), "{fields}");
}
