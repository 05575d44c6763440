//! Logging in on the page, in a real browser: with the form, with the link of `autoappdev pair`, again after the session is lost;
//! and logging out.

use std::fs;

use crate::support::Place;
use crate::webdriver::{Browser, ENTER, PATIENCE, wait_until};
use serde_json::{Value, json};

const TOKEN: &str = "test-token-of-a-phone-7Q/+&%";

fn set_up() -> Option<(Browser, Place)> {
    let browser = Browser::fresh()?;
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "count.sh");
    place.use_token(TOKEN);
    place.start_server();
    Some((browser, place))
}

fn address(place: &Place) -> String {
    format!("http://127.0.0.1:{}/", place.port())
}

/// Returns the link of `autoappdev pair`, with the address of this machine.
fn link(place: &Place, more: &[&str]) -> String {
    let (code, out, said) = place.client(&[&["pair", "--json", "--address", "127.0.0.1"], more].concat());
    assert_eq!(code, 0, "{said}");
    let document: Value = serde_json::from_str(&out).expect("JSON");
    document["links"][0].as_str().expect("a link").to_owned()
}

fn wait_for_form(browser: &Browser) {
    wait_until("the form is shown", PATIENCE, || browser.shows("login"));
}

fn wait_for_state(browser: &Browser, state: &str) {
    wait_until(&format!("the page shows {state}"), PATIENCE, || browser.state() == state && !browser.shows("login"));
}

/// Asserts that nothing that a script of the page could read contains the token.
fn assert_token_is_nowhere(browser: &Browser) {
    let seen = browser.script(
        "return [location.href, document.cookie, document.referrer, JSON.stringify({ ...localStorage }), JSON.stringify({ ...sessionStorage }),
                 document.documentElement.outerHTML, document.getElementById('token').value].join('\\n')",
    );
    let seen = seen.as_str().expect("text");
    for form in [TOKEN, "test-token-of-a-phone", "#token", "#code", "code="] {
        assert!(!seen.contains(form), "{form} is in {seen}");
    }
    let cookies = browser.cookies();
    let cookie = &cookies[0];
    assert_eq!(
        (&cookie["httpOnly"], &cookie["sameSite"], cookies.as_array().map(Vec::len)),
        (&true.into(), &"Strict".into(), Some(1))
    );
    assert!(!cookie["value"].as_str().expect("text").contains(TOKEN));
    assert!(!seen.contains(cookie["value"].as_str().expect("text")), "{seen}");
}

#[test]
fn login_form_accepts_only_the_right_token() {
    let Some((browser, place)) = set_up() else { return };
    browser.be_a_phone(360, 640);
    browser.open(&address(&place));
    wait_for_form(&browser);
    assert_eq!(browser.script("return document.documentElement.scrollWidth <= innerWidth"), true, "it fits");
    browser.type_into("token", "not-the-right-token");
    browser.click("log-in");
    wait_until("it says that this was not it", PATIENCE, || browser.text("login-error").starts_with("Wrong token."));
    let commands = "[...document.querySelectorAll('#login-error code')].map((it) => it.textContent).join()";
    assert_eq!(browser.script(&format!("return {commands}")), "token,autoappdev pair");
    browser.type_into("token", &format!(" {TOKEN} "));
    browser.press(ENTER);
    wait_for_state(&browser, "stopped");
    assert_token_is_nowhere(&browser);
    browser.click("start");
    wait_for_state(&browser, "running");
    wait_until("the log shows", PATIENCE, || browser.text("log").contains("line "));
    // After the logout nothing of the display remains, and the browser does not restore it.
    browser.click_in_menu("log-out");
    wait_form_after_log_out(&browser);
    assert_eq!((browser.text("log").as_str(), browser.cookies()), ("", Value::Array(vec![])));
    assert_eq!(place.state(), "running");
}

fn wait_form_after_log_out(browser: &Browser) {
    wait_until("the page is empty and asks", PATIENCE, || browser.text("state") == "…" && browser.shows("login"));
}

#[test]
fn pair_link_logs_in_and_leaves_no_secret_on_the_page() {
    let Some((browser, place)) = set_up() else { return };
    browser.open(&link(&place, &[]));
    wait_for_state(&browser, "stopped");
    assert_token_is_nowhere(&browser);
    assert_eq!(browser.script("return location.href"), address(&place));
    // The form shows no error of the link when it appears again.
    assert_eq!(browser.script("return document.getElementById('login-error').textContent"), "");
    browser.click("start");
    wait_for_state(&browser, "running");
    // The page is opened again later without the code: the session is enough.
    browser.open("about:blank");
    browser.open(&address(&place));
    wait_for_state(&browser, "running");
    let history = browser.script("return history.length");
    // A link that is opened in a tab with the page changes only the fragment, which does not reload the page.
    browser.forget_cookies();
    browser.script(&format!("location.hash = {:?}", link(&place, &[]).split_once('#').expect("a fragment").1));
    wait_until("the link is taken", PATIENCE, || browser.cookies().as_array().is_some_and(|cookies| cookies.len() == 1));
    assert_token_is_nowhere(&browser);
    assert!(browser.script("return history.length").as_u64() <= history.as_u64().map(|length| length + 1));
}

#[test]
fn viewer_is_offered_no_action_and_refused_by_the_server() {
    let Some((browser, place)) = set_up() else { return };
    place.start();
    browser.open(&link(&place, &["--read-only"]));
    wait_for_state(&browser, "running");
    wait_until("the page says so", PATIENCE, || browser.text("may").contains("Read-only access"));
    wait_until("the log shows", PATIENCE, || browser.text("log").contains("line "));
    for action in ["start", "pause", "resume", "stop"] {
        wait_until("it cannot be clicked", PATIENCE, || {
            browser.script(&format!("return document.getElementById('{action}').disabled")) == true
        });
    }
    assert!(browser.shows("look"));
    // The server refuses the action even if the page would send it.
    let headers =
        "{ 'AutoAppDev-Client': 'page', 'X-AutoAppDev-Proof': JSON.parse(localStorage.getItem('autoappdev-proof')).proof }";
    let stop =
        format!("return fetch('api/pipeline/stop', {{ method: 'POST', headers: {headers} }}).then((answer) => answer.status)");
    let status = browser.script(&stop);
    assert_eq!((status, place.state().as_str()), (403.into(), "running"));
    // The other link gives full control.
    browser.open("about:blank");
    browser.open(&link(&place, &[]));
    wait_for_state(&browser, "running");
    wait_until("it can be clicked", PATIENCE, || browser.script("return !document.getElementById('stop').disabled") == true);
}

#[test]
fn lost_login_shows_the_form_and_login_resumes() {
    let Some((browser, mut place)) = set_up() else { return };
    // A run without output: while lines come in, the page checks the state every second, and might notice the lost session before
    // the click.
    place.start_with(json!({"script": "sleep.sh"}));
    browser.open(&link(&place, &[]));
    wait_for_state(&browser, "running");
    wait_until("it can be clicked", PATIENCE, || browser.script("return !document.getElementById('pause').disabled") == true);
    browser.forget_cookies();
    browser.click("pause");
    wait_for_form(&browser);
    wait_until("nothing old is shown as the present", PATIENCE, || browser.state() == "unknown");
    assert!(browser.text("error").contains("Log in above"), "{}", browser.text("error"));
    assert_eq!(place.state(), "running");
    browser.type_into("token", TOKEN);
    browser.press(ENTER);
    wait_for_state(&browser, "running");
    wait_until("it can be clicked", PATIENCE, || browser.script("return !document.getElementById('pause').disabled") == true);
    browser.click("pause");
    wait_for_state(&browser, "paused");
    // The owner changes the token: the page shows the form by itself, and its requests do not lock the owner out.
    let port = place.port();
    place.kill_server();
    place.set_env("AUTOAPPDEV_PORT", &port.to_string());
    place.use_token("another-token-of-a-phone");
    place.start_server();
    wait_for_form(&browser);
    browser.type_into("token", "another-token-of-a-phone");
    browser.press(ENTER);
    wait_for_state(&browser, "paused");
}

#[test]
fn two_servers_on_one_host_keep_separate_logins() {
    let Some((browser, place)) = set_up() else { return };
    let mut other = Place::new();
    other.use_token(TOKEN);
    other.start_server();
    let open = |path: &str| {
        browser.open("about:blank");
        browser.open(path);
        wait_for_state(&browser, "stopped");
    };
    open(&link(&place, &[]));
    open(&link(&other, &[]));
    assert_eq!(browser.cookies().as_array().map(Vec::len), Some(2), "a browser keeps one for both ports: each has its name");
    open(&address(&place));
    open(&address(&other));
    browser.click_in_menu("log-out");
    wait_form_after_log_out(&browser);
    open(&address(&place));
    assert_ne!(
        fs::read(place.runtime().join("session-key")).expect("made"),
        fs::read(other.runtime().join("session-key")).expect("made")
    );
}

#[test]
fn refused_download_does_not_leave_the_page() {
    let Some((browser, place)) = set_up() else { return };
    browser.open(&link(&place, &[]));
    wait_for_state(&browser, "stopped");
    // While lines come in, the page checks the state every second.
    place.script("talk.sh", "#!/bin/bash\nwhile :; do echo more; sleep 0.1; done\n");
    place.start_with(json!({"script": "talk.sh"}));
    wait_until("the log is there", PATIENCE, || browser.text("log").contains("more"));
    browser.forget_cookies();
    browser.script("document.getElementById('download').click()");
    // The page notices the lost session by itself, if it is still open.
    wait_for_form(&browser);
    assert_eq!(browser.script("return location.pathname"), "/");
}

#[test]
fn idle_page_detects_that_its_login_has_ended() {
    let Some((browser, place)) = set_up() else { return };
    // The page's clock runs 25 times as fast, and nothing is clicked.
    browser.before_each_page("const real = setInterval; window.setInterval = (step, ms) => real(step, ms / 25);");
    place.start_with(json!({"script": "sleep.sh"}));
    browser.open(&link(&place, &[]));
    wait_for_state(&browser, "running");
    browser.forget_cookies();
    wait_for_form(&browser);
    wait_until("nothing old is shown as the present", PATIENCE, || browser.state() == "unknown");
    browser.type_into("token", TOKEN);
    browser.press(ENTER);
    wait_for_state(&browser, "running");
}

/// Any page can open links with wrong codes in the owner's browser before the owner has logged in.
#[test]
fn links_with_wrong_codes_do_not_delay_login_with_the_token() {
    let Some((browser, place)) = set_up() else { return };
    for number in 0..9 {
        let (code, problem, is_sent) = match number % 3 {
            0 => ("junk", "has no valid code", false),
            1 => ("abcd-efgh-ijkm-npqr-stuv-wxyz&token=x", "used, has expired or is wrong", true),
            _ => ("abcd-efgh-ijkm-npqr-stuv-wxyz-abcd", "has no valid code", false),
        };
        browser.open("about:blank");
        browser.open(&format!("{}#code={code}", address(&place)));
        wait_for_form(&browser);
        wait_until("the form says what is wrong", PATIENCE, || browser.text("login-error").contains(problem));
        assert!(!browser.shows("trouble"), "it says so once");
        let sent =
            browser.script("return performance.getEntriesByType('resource').some(({ name }) => name.endsWith('/api/login'))");
        assert_eq!((sent, browser.script("return location.hash")), (is_sent.into(), "".into()), "{code}");
    }
    browser.type_into("token", TOKEN);
    browser.press(ENTER);
    wait_for_state(&browser, "stopped");
}
