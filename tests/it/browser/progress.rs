//! Progress on the page: a bar, steps, and no step back to older progress.

use std::fs;

use crate::webdriver::{PATIENCE, wait_until};
use serde_json::json;

use super::log_page::{open, set_up, wait_for_row};

#[test]
fn page_shows_reported_progress_and_steps_only() {
    let script = "#!/bin/bash\ncase $1 in all) echo '::step Fetch'; echo '::step Build'; echo '::progress 40 Building <b>' ;; esac\nsleep 1000\n";
    let Some((browser, place)) = set_up(script) else { return };
    open(&browser, &place);
    wait_until("it is connected", PATIENCE, || browser.state() == "stopped");
    assert!(!browser.shows("progress"), "nothing is told");
    place.start();
    wait_until("the run is shown", PATIENCE, || browser.text("doing").starts_with("Started today"));
    let shown = || {
        browser.script(
            "const bar = document.getElementById('bar'), id = (it) => document.getElementById(it).textContent;
             return [getComputedStyle(bar).visibility, id('percent'), id('doing'), id('step-count'), bar.getAttribute('role'),
               bar.getAttribute('aria-valuenow'), bar.getAttribute('aria-valuetext'), Math.round(bar.firstElementChild.getBoundingClientRect().width / bar.clientWidth * 100)]",
        )
    };
    let nothing = shown();
    assert_eq!((&nothing[0], &nothing[1], &nothing[3], &nothing[7]), (&json!("hidden"), &json!(""), &json!(""), &json!(0)));
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    place.start_with(json!({"args": ["all"]}));
    wait_until("the bar is there", PATIENCE, || browser.text("percent") == "40 %");
    let all = json!(["visible", "40 %", "Building <b> · step 2, Build", "2", "progressbar", "40", "40 %, Building <b>", 40]);
    assert_eq!(shown(), all);
    browser.click("tab-steps");
    wait_until("the steps are there", PATIENCE, || {
        let names =
            browser.script("return [...document.querySelectorAll('#pane-steps .step-row b')].map((it) => it.textContent)");
        names == json!(["Fetch", "Build"])
    });
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn late_progress_does_not_replace_newer_progress() {
    let script = "#!/bin/bash\necho '::progress 60 sixty'\nuntil [ -e go ]; do sleep 0.02; done\necho after\nsleep 1000\n";
    let Some((browser, mut place)) = set_up(script) else { return };
    place.set_env("AUTOAPPDEV_PORT", &place.port().to_string());
    open(&browser, &place);
    place.start();
    wait_until("the bar is there", PATIENCE, || browser.text("percent") == "60 %");
    // From here on, the stream reports older progress, and the responses are from before the first report.
    browser.script(
        r#"const real = window.fetch;
           window.late = {};
           const changes = { events: [/"percent":60(.*?"at":)"20/g, '"percent":1$1"19'], pipeline: [/"progress":\{[^{}]*\}/g, '"progress":null'] };
           window.fetch = async (path, init) => {
             const answer = await real(path, init);
             const [, what] = /^api\/(events|pipeline)\b/.exec(path) ?? [];
             if (!what) return answer;
             const change = new TransformStream({ transform(text, to) {
               const changed = text.replace(...changes[what]);
               if (changed !== text) window.late[what] = true;
               to.enqueue(changed);
             } });
             const body = answer.body.pipeThrough(new TextDecoderStream()).pipeThrough(change).pipeThrough(new TextEncoderStream());
             return new Response(body, { status: answer.status, headers: answer.headers });
           };"#,
    );
    place.restart_server();
    wait_until("both are late", PATIENCE, || browser.script("return late") == json!({"events": true, "pipeline": true}));
    fs::write(place.root().join("go"), "").expect("ours");
    wait_for_row(&browser, "after");
    assert!(browser.shows("progress"));
    assert_eq!(browser.text("percent"), "60 %");
}
