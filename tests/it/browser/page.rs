//! A server with a script, a browser on its page, and the queries of the tests about that page.

use serde_json::json;

use crate::support::{Place, letter};
use crate::webdriver::{Browser, PATIENCE, wait_until};

pub(super) const SCRIPT: &str = "tree.sh";

/// A leader with both kinds of children that are easily missed: one in its own session, and one orphaned by a double fork.
pub(super) const TREE: &str = r#"#!/bin/bash
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

/// Starts a server whose script has this text, and a browser that shows its page. Returns `None` if there is no browser.
pub(super) fn set_up(script: &str) -> Option<(Browser, Place)> {
    let browser = Browser::start()?;
    let mut place = Place::new();
    place.script(SCRIPT, script);
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", SCRIPT);
    place.start_server();
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
    Some((browser, place))
}

/// Waits until the page shows `state`, then asserts that the API, /proc and the database agree. Returns the leader's pid.
pub(super) fn agree(browser: &Browser, place: &Place, state: &str) -> Option<i64> {
    wait_until(&format!("the page says {state}"), PATIENCE, || browser.state() == state);
    let pipeline = place.pipeline();
    assert_eq!(pipeline["state"], state, "the API says what the page says");

    let (pid, run_id) = (pipeline["pid"].as_i64(), pipeline["run_id"].as_i64());
    assert_eq!(browser.text("run-name"), run_id.map_or_else(String::new, |id| format!("Run {id}")));
    assert_eq!(stored(place), (state.to_owned(), pid, run_id), "the database says what the API says");

    match pid {
        None => assert_eq!(state, "stopped"),
        Some(pid) => {
            let kernel = u32::try_from(pid).ok().and_then(letter).expect("the leader is alive");
            assert_eq!(kernel == 'T', state == "paused", "the kernel says {kernel} of the leader, the API {state}");
            assert_ne!(state, "stopped");
        }
    }
    // After a click the page disables every button for a moment; then the buttons match the API.
    wait_until("the buttons are what the API allows", PATIENCE, || {
        let mut allowed: Vec<String> =
            serde_json::from_value(place.pipeline()["allowed"].clone()).expect("allowed is a list of words");
        allowed.sort_unstable();
        enabled(browser) == allowed
    });
    pid
}

/// Runs a script that does nothing, so that the page shows a run and its log instead of the list of scripts.
pub(super) fn run_nothing(place: &Place) {
    place.script("nothing.sh", "#!/bin/bash\n");
    place.start_with(json!({"script": "nothing.sh"}));
    wait_until("the run is over", PATIENCE, || place.pipeline()["state"] == "stopped");
}

/// Makes the page believe that it is hidden, as the browser would report it.
pub(super) fn hide(browser: &Browser) {
    browser.script(
        "Object.defineProperty(document, 'hidden', { value: true, configurable: true });
         document.dispatchEvent(new Event('visibilitychange'))",
    );
}

/// Returns the icon that both the window and the page show.
pub(super) fn icon(browser: &Browser) -> String {
    let names = browser.script(
        "return [/icon-(.*)\\.svg$/.exec(document.getElementById('icon').href)[1],
           document.querySelector('#symbol use').getAttribute('href').replace('#i-', '')]",
    );
    let [window, page]: [String; 2] = serde_json::from_value(names).expect("two names");
    assert_eq!(window, page);
    page
}

/// Returns the title of the page: these words before the name of the server's machine.
pub(super) fn titled(place: &Place, words: &str) -> String {
    let version = place.get("/api/version").ok();
    format!("{words} · {}", version["host"].as_str().expect("a name"))
}

/// Returns the action buttons that are visible and enabled, sorted.
pub(super) fn enabled(browser: &Browser) -> Vec<String> {
    let mut enabled: Vec<String> =
        serde_json::from_value(browser.script(
            "return [...document.querySelectorAll('#controls button:enabled, #kill:enabled')].filter((it) => it.checkVisibility()).map((it) => it.id)",
        ))
            .expect("ids are a list of texts");
    enabled.sort_unstable();
    enabled
}

/// Returns the state letters of the pipeline's live processes.
pub(super) fn letters(place: &Place) -> Vec<char> {
    place.processes().into_iter().filter_map(letter).collect()
}

/// Returns state, pid and run id from the database.
fn stored(place: &Place) -> (String, Option<i64>, Option<i64>) {
    let row = "SELECT state, pid, run_id FROM pipeline_state WHERE id = 1";
    place.sql().query_row(row, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).expect("the state is stored")
}
