//! The appearance of the page, in a real browser: text is readable in both schemes, forced colours keep the meaning of colours,
//! nothing pushes the log out of view on a phone, and the page says which part of the log its statements cover.

use crate::support::Place;
use crate::webdriver::{Browser, PATIENCE, wait_until};
use serde_json::{Value, json};

use super::page::run_nothing;

/// The lowest contrast by WCAG 2.2, 1.4.3.
const CONTRAST_MIN: f64 = 4.5;

/// Puts a line of each tone into the log and returns the contrast of each, as `[classes, contrast]`. Each colour is drawn, so
/// that it is measured as the browser mixes it.
const CONTRASTS: &str = r"
  const log = document.getElementById('log');
  const row = document.createElement('div');
  row.className = 'row';
  log.replaceChildren(row);
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const luminance = (colour, under) => {
    canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((it) => it / 255)
      .map((it) => it <= .04045 ? it / 12.92 : ((it + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const numbers = [...Array(16).keys()], tones = [''];
  for (const style of ['', 'dim', 'reverse']) {
    for (const fg of ['', ...numbers.map((n) => `fg${n}`)]) {
      for (const bg of ['', ...numbers.map((n) => `bg${n}`)]) tones.push([style, fg, bg].filter(Boolean).join(' '));
    }
  }
  const card = getComputedStyle(document.querySelector('main')).backgroundColor;
  return tones.map((tone) => {
    const span = document.createElement('span');
    span.className = tone;
    row.replaceChildren(span);
    const { color, backgroundColor } = getComputedStyle(span);
    const [a, b] = [luminance(color, card), luminance(backgroundColor, card)];
    return [tone, (Math.max(a, b) + .05) / (Math.min(a, b) + .05)];
  });";

/// Starts a server whose script has this text, and a browser that shows its page, connected. Returns `None` if there is no
/// browser.
fn set_up(script: &str) -> Option<(Browser, Place)> {
    let browser = Browser::start()?;
    let mut place = Place::new();
    place.script("look.sh", script);
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "look.sh");
    place.start_server();
    run_nothing(&place);
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
    wait_until("it is connected", PATIENCE, || browser.state() == "stopped");
    // Before that, loading the log would remove what a test adds.
    wait_until("the log was read", PATIENCE, || {
        browser.script("return 'read' in document.getElementById('log').dataset") == true
    });
    Some((browser, place))
}

#[test]
fn every_log_tone_meets_contrast_in_both_schemes() {
    let Some((browser, _place)) = set_up("#!/bin/bash\n") else { return };
    for scheme in ["light", "dark"] {
        browser.prefer("prefers-color-scheme", scheme);
        let found: Vec<(String, f64)> = serde_json::from_value(browser.script(CONTRASTS)).expect("tones and numbers");
        assert_eq!(found.len(), 1 + 3 * 17 * 17);
        let faint: Vec<&(String, f64)> = found.iter().filter(|(_, contrast)| *contrast < CONTRAST_MIN).collect();
        assert!(faint.is_empty(), "{scheme}: {} of {}: {:?}", faint.len(), found.len(), &faint[..faint.len().min(20)]);
    }
}

#[test]
fn forced_colours_keep_log_marks_and_bar_distinct() {
    let Some((browser, place)) =
        set_up("#!/bin/bash\necho '::progress 50'; printf 'found and \\e[7mreversed\\e[0m\\n'; sleep 1000\n")
    else {
        return;
    };
    place.start();
    wait_until("the line is there", PATIENCE, || browser.text("log").contains("reversed") && browser.shows("bar"));
    browser.type_into("find", "found");
    wait_until("it is marked", PATIENCE, || browser.script("return !!document.querySelector('#log mark')") == true);
    browser.prefer("forced-colors", "active");
    let grounds = browser.script(
        "return ['main', '#log mark', '#log .reverse', '#bar', '#bar i'].map((it) => getComputedStyle(document.querySelector(it)).backgroundColor)",
    );
    let [log, mark, reverse, bar, done] = serde_json::from_value::<[String; 5]>(grounds).expect("colours");
    assert!(mark != log && reverse != log, "{mark} and {reverse} on {log}");
    assert_ne!(done, bar);
}

#[test]
fn hundred_steps_fit_a_phone_and_keep_the_log_visible() {
    let name = "a name that needs more than one line on a phone, as names of steps often do";
    let script = format!(
        "#!/bin/bash\nfor n in {{1..101}}; do echo \"::step $n {name}\"; done\nprintf '::step \\u202eturned\\u2067 round\\n'\nsleep 1000\n"
    );
    let Some((browser, place)) = set_up(&script) else { return };
    browser.be_a_phone(320, 640);
    place.start();
    wait_until("all of them are counted", PATIENCE, || browser.text("step-count") == "102");
    let seen = browser
        .script("const box = document.getElementById('log').getBoundingClientRect(); return [box.height, document.documentElement.scrollWidth]");
    let (height, width): (f64, u32) = serde_json::from_value(seen).expect("sizes");
    assert!(height > 320.0, "the log has {height} px of 640");
    assert_eq!(width, 320, "no scrolling sideways");
    browser.click("tab-steps");
    wait_until("the last is there", PATIENCE, || browser.text("pane-steps").contains(r"\u{202e}turned\u{2067} round"));
    let seen = browser.script(
        "return [document.querySelectorAll('#pane-steps .step-row').length, document.querySelector('#pane-steps').scrollWidth, document.documentElement.scrollWidth]",
    );
    let (count, pane, width): (u32, u32, u32) = serde_json::from_value(seen).expect("numbers");
    assert!(count > 90, "{count}");
    assert_eq!((pane, width), (320, 320), "no scrolling sideways");
    assert_eq!(browser.console(), Vec::<String>::new());
}

/// Returns whether the log offers more lines.
fn offers_more(browser: &Browser) -> Value {
    browser.script("return document.querySelector('#log .mark button')?.checkVisibility() ?? null")
}

#[test]
fn whole_log_offers_no_earlier_lines_and_search_covers_the_rest() {
    let Some((browser, place)) = set_up("#!/bin/bash\nseq -f 'line %.0f' \"$1\"\nprintf '\\e[31mlast\\n'\n") else { return };
    place.start_with(json!({"args": ["100"]}));
    wait_until("the run is over", PATIENCE, || place.pipeline()["state"] == "stopped");
    let address = format!("http://127.0.0.1:{}/", place.port());
    browser.open(&address);
    wait_until("the beginning is known", PATIENCE, || offers_more(&browser) == false);
    assert!(browser.text("log").starts_with("The log begins here."), "{}", browser.text("log"));
    browser.type_into("find", "line 1");
    wait_until("all is searched", PATIENCE, || browser.text("found") == "12 lines");

    place.start_with(json!({"args": ["600"]}));
    wait_until("the run is over", PATIENCE, || place.pipeline()["state"] == "stopped");
    browser.open(&address);
    wait_until("the end is there", PATIENCE, || browser.text("log").contains("last"));
    assert_eq!(offers_more(&browser), true);
    browser.type_into("find", "line 1");
    // 1, 10 to 19 and 100 to 199; the server searches what the page has not loaded.
    wait_until("the whole log is searched", PATIENCE, || browser.text("found") == "111 lines");
}

#[test]
fn search_marks_matches_and_continues_after_an_overwritten_match() {
    let Some((browser, _place)) = set_up("#!/bin/bash\n") else { return };
    let add = |records: &[(String, bool)]| {
        let lines: Vec<Value> = records
            .iter()
            .map(
                |(line, partial)| json!({"id": 1, "ts": null, "stream": "stdout", "run_id": 1, "line": line, "partial": partial}),
            )
            .collect();
        browser.script(&format!("return import('/static/app.js').then((it) => it.append({}))", json!(lines)));
    };
    // More matches than a line can have marks, and then text without a match.
    add(&[("-x".repeat(400) + "the end", false)]);
    browser.type_into("find", "x");
    wait_until("it is marked", PATIENCE, || browser.script("return document.querySelectorAll('#log mark').length > 100") == true);
    let longest =
        browser.script("return Math.max(...[...document.querySelectorAll('#log mark')].map((it) => it.textContent.length))");
    assert_eq!(longest, 1);

    // The current match is overwritten: the next match is the line after it, not the one after that.
    browser.type_into("find", "hit");
    add(&[("hit 1".into(), false), ("hit 2".into(), true)]);
    wait_until("both are found", PATIENCE, || browser.text("found").starts_with("2 lines"));
    let current = || browser.script("return document.querySelector('#log .current > span')?.textContent ?? null");
    let go = |to: &str| {
        for _ in 0..2 {
            let before = current();
            if before != to {
                browser.click("find-next");
                // The row is repainted in the next frame.
                wait_until("another one is the current one", PATIENCE, || current() != before);
            }
        }
        assert_eq!(current(), to);
    };
    go("hit 2");
    add(&[("\rover ".into(), false), ("hit 3".into(), false), ("hit 4".into(), false)]);
    wait_until("it is found no more", PATIENCE, || browser.text("found").contains(" of 3"));
    browser.click("find-next");
    wait_until("the one behind it is the current one", PATIENCE, || current() == "hit 3");
    let marked = browser.script("return [...document.querySelectorAll('#log mark')].map((it) => it.parentElement.textContent)");
    assert_eq!(marked, json!(["hit 1", "hit 3", "hit 4"]), "also at the beginning of a line");
}

#[test]
fn page_and_cli_format_durations_alike() {
    let Some((browser, _place)) = set_up("#!/bin/bash\n") else { return };
    let table = include_str!("../../fixtures/durations.txt");
    let rows: Vec<Vec<&str>> =
        table.lines().filter(|row| !row.starts_with('#')).map(|row| row.split(" | ").map(str::trim).collect()).collect();
    let ms: Vec<u64> = rows.iter().map(|row| row[0].parse().expect("a number")).collect();
    let told = browser.script(&format!(
        "return import('/static/app.js').then(({{ took, since }}) => {}.map((ms) => [`${{ms}}`, took(ms), since(ms)]))",
        json!(ms)
    ));
    assert_eq!(told, json!(rows));
}

#[test]
fn each_state_has_its_word_icon_and_title() {
    let Some((browser, _place)) = set_up("#!/bin/bash\n") else { return };
    let outcome = |kind: &str, code: Value, sign: Value| json!({"outcome": {"kind": kind, "exit_code": code, "signal": null, "signal_name": sign, "by": {"by": "client"}, "forced": false, "took_ms": 724_000}});
    let ended = json!({"state": "stopped", "pending": null, "run_id": 7, "script": "a/train.py", "started_at": "2026-01-31T10:00:00.000Z",
        "stopped_at": "2026-01-31T10:12:04.000Z", "exit_code": null, "signal": null, "error": null, "conditions": []});
    for (changes, word, tone, title) in [
        (
            json!({"status": "idle", "run_id": null, "script": null, "default_script": null}),
            "No runs yet",
            "idle",
            "○ No runs yet · board",
        ),
        (outcome("completed", 0.into(), Value::Null), "Succeeded", "succeeded", "✓ Succeeded · train.py · board"),
        (outcome("failed", 3.into(), Value::Null), "Failed", "failed", "✕ Failed (3) · train.py · board"),
        (outcome("failed", Value::Null, "SIGSEGV".into()), "Failed", "failed", "✕ Failed (SIGSEGV) · train.py · board"),
        (outcome("killed", Value::Null, "SIGKILL".into()), "Killed", "killed", "⚡ Killed (SIGKILL) · train.py · board"),
        (outcome("not_started", Value::Null, Value::Null), "Couldn’t start", "unstarted", "! Couldn’t start · train.py · board"),
        (outcome("stopped", Value::Null, "SIGTERM".into()), "Stopped", "stopped", "◼ Stopped · train.py · board"),
        (outcome("lost", Value::Null, Value::Null), "Lost", "lost", "? Lost · train.py · board"),
        (
            json!({"status": "running", "state": "running", "waiting": {"for": "time", "until": "2026-01-31T10:30:00.000Z", "reason": "usage limit"}}),
            "Waiting until",
            "waiting",
            "◷ Waiting until",
        ),
        (
            json!({"status": "running", "state": "running", "waiting": {"for": "person", "ask_id": 1, "until": null, "reason": null}}),
            "Needs you",
            "asking",
            "? Needs you · train.py · board",
        ),
        (json!({"status": "starting", "pending": "start"}), "Starting", "running", "▶ Starting · train.py · board"),
        (json!({"status": "running", "state": "running"}), "Running", "running", "▶ Running · train.py · board"),
        (
            json!({"status": "running", "state": "running", "progress": {"percent": 42.5}}),
            "Running",
            "running",
            "42% train.py · board",
        ),
        (json!({"status": "paused", "state": "paused"}), "Paused", "paused", "⏸ Paused · train.py · board"),
        (
            json!({"status": "running", "state": "running", "pending": "stop", "kill_at": "2026-01-31T10:20:07.000Z"}),
            "Stopping",
            "stopping",
            "◼ Stopping · 7 s left · train.py · board",
        ),
    ] {
        let mut pipeline = ended.clone();
        pipeline.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
        let told = browser.script(&format!(
            "const p = {pipeline}, now = Date.parse('2026-01-31T10:20:00.000Z');
             return Promise.all([import('/static/app.js'), fetch('/static/icon-{tone}.svg')]).then(([{{ look, title }}, icon]) => {{
               const at = look(p, now), word = at.word.replace(/ \\d.*/, ''), name = title(at, p, 'board').replace(/( until) .*/, '$1');
               return [word, at.tone, name, icon.status]; }})"
        ));
        assert_eq!(told, json!([word, tone, title, 200]), "{changes}");
    }
}

#[test]
fn copied_log_lines_have_no_blank_lines_between_them() {
    let Some((browser, place)) = set_up("#!/bin/bash\nprintf 'one\\n  two\\n'\necho three >&2\n") else { return };
    place.start();
    wait_until("the lines are there", PATIENCE, || browser.text("log").contains("three"));
    let copied =
        browser.script("getSelection().selectAllChildren(document.getElementById('log')); return getSelection().toString()");
    let copied = copied.as_str().expect("text");
    assert!(copied.trim_end().ends_with("\none\n  two\nthree"), "{copied:?}");
}

#[test]
fn empty_log_is_reported_only_after_it_was_read() {
    let Some((browser, place)) = set_up("#!/bin/bash\nsleep 1000\n") else { return };
    let said = |browser: &Browser| browser.script("return getComputedStyle(document.getElementById('log'), '::before').content");
    wait_until("nothing more will come", PATIENCE, || said(&browser) == json!("\"No output.\""));
    place.start();
    wait_until("it was read", PATIENCE, || said(&browser) == json!("\"No output yet.\""));
    // Without a response, nothing is known about the log.
    browser.before_each_page(
        "const real = fetch; window.fetch = (path, init) => (path.startsWith('api/logs') ? new Promise(() => {}) : real(path, init));",
    );
    browser.script("location.reload()");
    wait_until("the state is there", PATIENCE, || browser.text("state") == "Running");
    assert_eq!(said(&browser), json!("\"…\""));
}

/// Python writes to a pipe only when its buffer of some kilobytes is full.
#[test]
fn page_explains_python_output_buffering() {
    let Some(browser) = Browser::start() else { return };
    let mut place = Place::new();
    place.script("train.py", "#!/bin/bash\nsleep 1000\n");
    place.start_server();
    let said = |browser: &Browser| browser.script("return getComputedStyle(document.getElementById('log'), '::before').content");
    let is_named = |browser: &Browser| said(browser).as_str().is_some_and(|text| text.contains("PYTHONUNBUFFERED=1"));
    place.start_with(json!({"script": "train.py"}));
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
    wait_until("it is said after some seconds", PATIENCE, || is_named(&browser));
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    place.start_with(json!({"script": "train.py", "env": {"PYTHONUNBUFFERED": "1"}}));
    wait_until("the page shows run 2", PATIENCE, || browser.text("run-name") == "Run 2");
    // The page updates the run's age and the text of the empty log together.
    let seconds = |text: String| text.strip_suffix('s').and_then(|number| number.trim().parse::<u32>().ok());
    wait_until("it would be said by now", PATIENCE, || seconds(browser.text("status")) > Some(6));
    assert_eq!(said(&browser), json!("\"No output yet.\""));
}

#[test]
fn wrapped_lines_are_indented_behind_the_time() {
    let Some((browser, place)) = set_up("#!/bin/bash\nprintf 'word %.0s' {1..200}\necho\n") else { return };
    place.start();
    wait_until("the line is there", PATIENCE, || browser.text("log").contains("word word"));
    let lefts = browser.script(
        // Spaces at the end of a line may have their own boxes.
        "const lines = {};
         for (const { top, left } of document.querySelector('#log .row > span').getClientRects()) lines[top] = Math.min(left, lines[top] ?? left);
         const lefts = Object.values(lines);
         return [lefts.length, Math.max(...lefts) - Math.min(...lefts)]",
    );
    let (count, off): (u32, f64) = serde_json::from_value(lefts).expect("numbers");
    assert!(count > 2 && off < 3.0, "{count} lines, {off} px off");
}

#[test]
fn progress_bar_keeps_its_position_with_long_text() {
    let Some((browser, place)) = set_up("#!/bin/bash\necho '::progress 40 a'\nsleep 1000\n") else { return };
    place.start();
    wait_until("the bar is there", PATIENCE, || browser.text("percent") == "40 %");
    let bars = browser.script(
        "return ['a', 'a word '.repeat(99)].map((text) => {
           document.getElementById('doing').textContent = text;
           const { left, right } = document.getElementById('bar').getBoundingClientRect();
           return [left, right, document.getElementById('progress').offsetHeight]; })",
    );
    assert_eq!(bars[0], bars[1]);
}

#[test]
fn start_is_disabled_until_the_role_is_known() {
    let Some((browser, place)) = set_up("#!/bin/bash\n") else { return };
    browser.before_each_page(
        "const real = fetch;
         window.fetch = async (path, init) => {
           if (path === 'api/session') await new Promise((resolve) => { window.goOn = resolve; });
           const response = await real(path, init);
           if (path !== 'api/version') return response;
           const { session, ...rest } = await response.json();
           return new Response(JSON.stringify(rest), response);
         };",
    );
    browser.open(&format!("http://127.0.0.1:{}/", place.port()));
    let is_disabled = || browser.script("return document.getElementById('start').disabled") == true;
    wait_until("the state is there", PATIENCE, || browser.text("state") == "Succeeded");
    wait_until("it has asked", PATIENCE, || browser.script("return 'goOn' in window") == true);
    assert!(is_disabled());
    browser.script("goOn()");
    wait_until("it is offered", PATIENCE, || !is_disabled());
}

#[test]
fn response_without_state_shows_disconnected_and_page_recovers() {
    let Some((browser, _place)) = set_up("#!/bin/bash\n") else { return };
    browser.script(
        "window.real = fetch;
         window.fetch = (path, init) => /^api\\/pipeline(\\?|$)/.test(path) ? Promise.resolve(new Response('{}')) : window.real(path, init)",
    );
    wait_until("it shows", PATIENCE, || {
        // A page that is already waiting for a response does not send another request for this event.
        browser.script("dispatchEvent(new Event('online'))");
        browser.text("state") == "Disconnected"
    });
    browser.script("window.fetch = window.real");
    wait_until("it goes on by itself", PATIENCE, || browser.text("state") == "Succeeded");
}
