//! Progress on the page: a bar, steps, and no way back.

use std::fs;

use crate::webdriver::{PATIENCE, wait_until};
use serde_json::{Value, json};

use super::log_page::{open, set_up, wait_for_row};

#[test]
fn progress_is_a_bar_and_steps() {
    let Some((browser, place)) = set_up("#!/bin/bash\n") else { return };
    open(&browser, &place);
    wait_until("it is connected", PATIENCE, || browser.state() == "stopped");
    assert!(!browser.shows("progress"), "nothing is told");
    // Begun a minute ago and paused for twenty seconds of that, as the history tells. What comes of it is looked at before the page's own
    // clock and the server's answers get their turn: both would draw something else.
    let show = |progress: &Value| {
        browser.script(&format!(
            "const now = Date.parse('2026-01-31T10:01:00.000Z'); const ask = async () => ({{ ok: true, body: {{ run: {{ events: [
               {{ kind: 'spawned', at: '2026-01-31T10:00:00.000Z' }}, {{ kind: 'paused', at: '2026-01-31T10:00:10.000Z' }},
               {{ kind: 'resumed', at: '2026-01-31T10:00:30.000Z' }}] }} }} }});
             const id = (it) => document.getElementById(it), shows = (it) => id(it).checkVisibility();
             return import('/static/progress.js').then(async ({{ showProgress }}) => {{
               showProgress(7, {progress}, {{ run_id: 7, version: 1, state: 'running' }}, now, ask);
               for (let n = 0; n < 100; n++) await null;
               const bar = id('bar');
               return {{ shown: [shows('progress'), shows('bar'), shows('steps')], percent: id('percent').textContent, doing: id('doing').textContent,
                 bar: [bar.getAttribute('role'), bar.getAttribute('aria-valuenow'), bar.getAttribute('aria-valuetext'),
                   Math.round(bar.firstElementChild.getBoundingClientRect().width / bar.clientWidth * 100)],
                 steps: [...document.querySelectorAll('#steps li')].map((it) => [it.textContent, it.getAttribute('aria-current')]),
                 before: [id('steps-before').textContent, id('steps').start] }}; }})"
        ))
    };
    let step = |name: &str, ms: Value| json!({"name": name, "started_at": "2026-01-31T10:00:00.000Z", "ended_at": if ms.is_null() { Value::Null } else { "2026-01-31T10:00:05.000Z".into() }, "ms": ms});
    let all = show(&json!({"percent": 40, "text": "Building <b>", "at": "2026-01-31T10:00:50.000Z",
                "steps": [step("Fetch", 4200.into()), step("Build", Value::Null)], "steps_before": 3}));
    assert_eq!(
        all,
        json!({"shown": [true, true, true], "percent": "40 %", "doing": "Building <b>",
               "bar": ["progressbar", "40", "40 %, Building <b>", 40],
               "steps": [["Fetch 4.2 s", null], ["Build 40 s", "step"]], "before": ["3 earlier steps", 4]})
    );
    let nothing_of_it = json!({"percent": null, "text": null, "at": "2026-01-31T10:00:50.000Z", "steps": [], "steps_before": 0});
    assert_eq!(show(&nothing_of_it)["shown"], json!([true, false, false]), "what is not told is not shown");
    assert_eq!(show(&Value::Null)["shown"][0], false);
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn a_late_word_on_progress_takes_nothing_back() {
    let script = "#!/bin/bash\necho '::progress 60 sixty'\nuntil [ -e go ]; do sleep 0.02; done\necho after\nsleep 1000\n";
    let Some((browser, mut place)) = set_up(script) else { return };
    place.set_env("AUTOAPPDEV_PORT", &place.port().to_string());
    open(&browser, &place);
    place.start();
    wait_until("the bar is there", PATIENCE, || browser.text("percent") == "60 %");
    // From here on the stream's word is an older one, and the answers are from before the first.
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
