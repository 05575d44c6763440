//! The start form: the scripts, the fields, their checks, and the values that reach the run.

use std::fs;

use serde_json::{Value, json};

use crate::support::Place;
use crate::webdriver::{Browser, ENTER, PATIENCE, wait_until};

use super::hand::{RECORD, button, click_on, double_click_on, field, open_at, texts, until_page, variable, write_into};

/// Prints its arguments and its environment, ignores TERM, and ends when the file `go` exists in its folder.
pub(super) const SAY: &str = "#!/bin/bash\ntrap '' TERM\nprintf '<%s>' \"$@\"\necho\n\
    echo \"WORDS=$WORDS KEY=$API_KEY in ${PWD##*/}\"\nuntil [ -e go ]; do sleep 0.05; done\n";

/// Starts a server without a configured script, whose scripts include `tools/say.sh`, and a browser that shows nothing yet.
/// `kept` selects what is kept of a run's environment: `names` or `values`.
pub(super) fn set_up(kept: &str) -> Option<(Browser, Place)> {
    let browser = Browser::start()?;
    let mut place = Place::new();
    for folder in ["sub", "tools"] {
        fs::create_dir(place.root().join(folder)).expect("creates");
    }
    place.script("tools/say.sh", SAY);
    place.set_env("AUTOAPPDEV_KEEP_ENV", kept);
    place.start_server();
    browser.before_each_page(RECORD);
    Some((browser, place))
}

/// Returns the fields of the open form: script, arguments, folder, grace, and the environment.
pub(super) fn fields(browser: &Browser) -> Value {
    browser.script(&format!(
        "return [document.querySelector('#form .list :checked')?.value ?? null, {}.value, {}.value, {}.value,
           [...document.querySelectorAll('#form .envs > div')].map((row) => [...row.querySelectorAll('input')].map((it) => it.value))]",
        field("Arguments"),
        field("Folder"),
        field("Time to stop, in seconds")
    ))
}

/// Chooses a script by a part of its name.
fn choose(browser: &Browser, part: &str) {
    write_into(browser, "document.querySelector('#form input[type=search]')", part);
    until_page(browser, "document.querySelectorAll('#form .list input').length === 1");
    browser.press(ENTER);
}

pub(super) fn until_closed(browser: &Browser) {
    until_page(browser, "!document.getElementById('form').open");
}

/// Waits until a run has printed this many lines, and returns its output.
pub(super) fn said(place: &Place, run_id: i64, lines: usize) -> Vec<String> {
    wait_until("the script has told", PATIENCE, || place.said(run_id, "stdout").len() >= lines);
    place.said(run_id, "stdout")
}

#[test]
fn start_form_finds_a_script_and_passes_its_fields() {
    let Some((browser, place)) = set_up("names") else { return };
    open_at(&browser, &place, "");
    click_on(&browser, &button("#first", "Start with arguments…"));
    let listed = place.get("/api/pipeline/scripts").ok()["scripts"].take();
    let paths: Vec<&str> = listed.as_array().expect("a list").iter().map(|it| it["path"].as_str().expect("a path")).collect();
    assert!(paths.contains(&"tools/say.sh") && paths.len() > 4, "{paths:?}");
    wait_until("the scripts are listed", PATIENCE, || {
        browser.script("return [...document.querySelectorAll('#form .list input')].map((it) => it.value)") == json!(paths)
    });
    choose(&browser, "OLS/SA");
    assert_eq!(fields(&browser), json!(["tools/say.sh", "", "", "", [["", ""]]]));

    write_into(&browser, &field("Arguments"), r#"-v "a  b" 'c $d' e\ f "" $HOME * "x"'y'z"#);
    assert_eq!(texts(&browser, "#form ol li"), ["-v", "a  b", "c $d", "e f", "''", "$HOME", "*", "xyz"]);
    write_into(&browser, &variable(0, 0), "WORDS");
    write_into(&browser, &variable(0, 1), "two 'words'");
    write_into(&browser, &variable(1, 0), "API_KEY");
    write_into(&browser, &variable(1, 1), "hush");
    assert_eq!(browser.script(&format!("return {}.type", variable(1, 1))), "password");
    write_into(&browser, &field("Folder"), "sub");
    write_into(&browser, &field("Time to stop, in seconds"), "0,2");
    let command = texts(&browser, "#form footer code").concat();
    assert!(command.starts_with("autoappdev start tools/say.sh --cwd sub ") && !command.contains("hush"), "{command}");
    click_on(&browser, &button("#form", "Start say.sh"));
    until_closed(&browser);

    let run = place.run(1);
    assert_eq!((&run["script"], &run["grace_s"]), (&json!("tools/say.sh"), &json!(0.2)));
    assert_eq!(run["args"], json!(["-v", "a  b", "c $d", "e f", "", "$HOME", "*", "xyz"]));
    assert_eq!(run["env_names"].as_array().map(Vec::len), Some(2), "{run}");
    assert_eq!(said(&place, 1, 2), ["<-v><a  b><c $d><e f><><$HOME><*><xyz>", "WORDS=two 'words' KEY=hush in sub"]);
    // The run ignores TERM, so only the end of its own grace ends it.
    browser.click_and_confirm("stop");
    wait_until("it is killed", PATIENCE, || browser.text("status").starts_with("by you, then killed"));
}

#[test]
fn start_form_shows_invalid_values_at_their_fields() {
    let Some((browser, place)) = set_up("names") else { return };
    open_at(&browser, &place, "");
    click_on(&browser, &button("#first", "Start with arguments…"));
    choose(&browser, "say");
    let go = button("#form", "Start say.sh");
    for (line, words) in [
        ("\"a b", "The quote \" is not closed."),
        ("a 'b", "The quote ' is not closed."),
        ("a \\", "Nothing follows the backslash at the end."),
    ] {
        write_into(&browser, &field("Arguments"), line);
        assert_eq!(browser.text("args-hint"), words);
        click_on(&browser, &go);
        wait_until("it is told", PATIENCE, || browser.text("wrong") == words);
        assert_eq!(browser.script(&format!("return {}.getAttribute('aria-invalid')", field("Arguments"))), "true");
        assert_eq!(browser.script(&format!("return {} === document.activeElement", field("Arguments"))), true);
    }
    write_into(&browser, &field("Time to stop, in seconds"), "soon");
    write_into(&browser, &field("Arguments"), "a");
    assert_eq!(browser.text("wrong"), "");
    click_on(&browser, &go);
    wait_until("it is told", PATIENCE, || browser.text("wrong") == "Enter a number of seconds, or nothing.");
    write_into(&browser, &field("Time to stop, in seconds"), "1");
    assert_eq!(browser.script("return window.posted"), json!([]));
    // The server's refusal is shown at its field.
    write_into(&browser, &field("Folder"), "nowhere");
    click_on(&browser, &go);
    wait_until("it is told", PATIENCE, || browser.text("wrong").contains("nowhere"));
    assert_eq!(browser.script(&format!("return {} === document.activeElement", field("Folder"))), true);
    assert_eq!((&place.pipeline()["run_id"], browser.shows("trouble")), (&Value::Null, false));
    write_into(&browser, &field("Folder"), "sub");
    click_on(&browser, &go);
    until_closed(&browser);
    assert_eq!(said(&place, 1, 1)[0], "<a>");
}

#[test]
fn start_form_offers_the_last_choices_without_secrets() {
    let Some((browser, place)) = set_up("names") else { return };
    fs::write(place.root().join("sub/go"), "").expect("ours");
    place.start_with(
        json!({"script": "tools/say.sh", "args": ["-v", "it's", ""], "cwd": "sub", "env": {"API_KEY": "hush"}, "grace_s": 2.5}),
    );
    place.until_ended(1);
    open_at(&browser, &place, "");
    wait_until("the page offers a new run", PATIENCE, || browser.text("new-run").trim() == "New run…");
    browser.click("new-run");
    let last = json!(["tools/say.sh", "-v 'it'\\''s' ''", "sub", "2.5", [["API_KEY", ""], ["", ""]]]);
    wait_until("they are offered", PATIENCE, || fields(&browser) == last);
    assert!(texts(&browser, "#form header").concat().contains("filled in from run 1"));

    // The arguments of one script have no meaning for another.
    choose(&browser, "count");
    assert_eq!(fields(&browser), json!(["count.sh", "", "", "", [["", ""]]]));
    choose(&browser, "say");
    assert_eq!(fields(&browser), last);

    click_on(&browser, &button("#form", "Start say.sh"));
    let told = "The value of API_KEY was not kept. Give it again, or remove the variable.";
    wait_until("it is told", PATIENCE, || browser.text("wrong") == told);
    assert_eq!(browser.script("return window.posted"), json!([]));
    write_into(&browser, &variable(0, 1), "again");
    click_on(&browser, &button("#form", "Start say.sh"));
    until_closed(&browser);
    assert_eq!(said(&place, 2, 2), ["<-v><it's><>", "WORDS= KEY=again in sub"]);
}

#[test]
fn double_click_starts_one_run() {
    let Some((browser, place)) = set_up("names") else { return };
    let posted = || browser.script("return window.posted.length");
    let until_ended = |run_id: i64| {
        wait_until("the page tells the end", PATIENCE, || {
            browser.text("run-name") == format!("Run {run_id}") && browser.text("state") == "Succeeded"
        });
        assert_eq!((posted(), &place.pipeline()["run_id"]), (json!(1), &json!(run_id)));
        assert!(!browser.shows("trouble"), "{}", browser.text("error"));
    };
    open_at(&browser, &place, "");
    until_page(&browser, "document.querySelector('#first [data-path=\"exit.sh\"]')");
    double_click_on(&browser, "document.querySelector('#first [data-path=\"exit.sh\"]')");
    until_ended(1);

    open_at(&browser, &place, "");
    double_click_on(&browser, "document.getElementById('start')");
    until_ended(2);

    open_at(&browser, &place, "");
    browser.click("new-run");
    double_click_on(&browser, &button("#form", "Start exit.sh"));
    until_ended(3);

    open_at(&browser, &place, "#/?tab=details");
    double_click_on(&browser, &button("#pane-details", "Run again"));
    until_ended(4);
}
