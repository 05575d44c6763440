//! The search in one run's log, on the whole binary: what matches, what is counted in each part, and what is refused.

use std::fs;
use std::thread;

use crate::support::{Place, assert_keys, assert_time, until, until_true, values};
use serde_json::{Value, json};

/// Returns one part of a search, after checking its shape.
fn search(place: &Place, run_id: i64, query: &str) -> Value {
    let part = place.get(&format!("/api/runs/{run_id}/log/search?{query}")).ok();
    assert_keys(&part, &["matches", "count", "searched_all", "next", "lines"]);
    for line in matches(&part) {
        assert_keys(line, &["id", "at", "stream", "line", "partial"]);
        assert_time(&line["at"]);
    }
    part
}

/// Returns the whole of a search: all its parts, joined.
fn whole(place: &Place, run_id: i64, query: &str) -> (Vec<Value>, u64, u64) {
    let (mut found, mut count, mut lines, mut since) = (Vec::new(), 0, 0, 0);
    loop {
        let part = search(place, run_id, &format!("{query}&since={since}"));
        found.extend(matches(&part).clone());
        count += number(&part["count"]);
        lines += number(&part["lines"]);
        if part["searched_all"] == true {
            return (found, count, lines);
        }
        assert!(number(&part["next"]) > since, "it goes on: {part}");
        since = number(&part["next"]);
    }
}

fn matches(part: &Value) -> &Vec<Value> {
    part["matches"].as_array().expect("a list")
}

fn texts(part: &Value) -> Vec<&str> {
    matches(part).iter().map(|line| line["line"].as_str().expect("text")).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[test]
fn search_matches_displayed_text_and_ids_are_valid_cursors() {
    let place = Place::serving("colours.sh");
    place.script(
        "colours.sh",
        "#!/bin/bash\nprintf '%s: \\e[1;31mEr\\e[0mror 1\\r\\n' \"$1\"\nprintf 'a \\xff error 2\\n' >&2\necho fine\necho 'no e.ror'\necho 'an ERROR'\n",
    );
    for run in ["a", "b"] {
        let (_, run_id) = place.start_with(json!({"args": [run]}));
        place.until_settled(run_id);
        until_true("the shim has left", || place.get(&format!("/api/logs?run={run_id}")).ok()["end"].is_u64());
    }
    let log = place.get("/api/logs?run=2").ok();
    let all = search(&place, 2, "text=error");
    let mut found = texts(&all);
    found.sort_unstable();
    assert_eq!(found, ["a \u{fffd} error 2", "an ERROR", "b: Error 1"]);
    assert_eq!(values(&all, &["count", "searched_all", "next", "lines"]), json!([3, true, log["end"], 5]));
    for line in matches(&all) {
        let id = number(&line["id"]);
        let around = place.get(&format!("/api/logs/tail?run=2&before={id}&limit=1")).ok()["lines"][0].clone();
        assert_eq!(values(line, &["id", "at", "stream", "partial"]), values(&around, &["id", "at", "stream", "partial"]));
    }
    let count = |query: &str| number(&search(&place, 2, query)["count"]);
    for (query, lines) in [
        ("text=error&case=1", 1),
        ("text=Error&case=1", 1),
        ("text=error&case=0", 3),
        ("text=e.ror", 1),
        ("regex=e.ror", 4),
        ("regex=^b:%20error%20%5Cd$", 1),
        ("regex=error%5Cb.*%5Cd&stream=stderr", 1),
        ("text=error&stream=stdout", 2),
        ("text=%EF%BF%BD", 1),
        ("text=%1B", 0),
        ("text=a:", 0),
        ("regex=.*", 5),
    ] {
        assert_eq!(count(query), lines, "{query}");
    }
    // The list is shorter than the count, and the next part continues after it.
    let one = search(&place, 2, "text=error&limit=1");
    assert_eq!((matches(&one).len(), &one["count"]), (1, &json!(3)));
    let first = number(&matches(&one)[0]["id"]);
    assert_eq!(count(&format!("text=error&since={first}")), 2);
    assert_eq!(search(&place, 2, &format!("text=error&since={}", u64::MAX))["matches"], json!([]));
    // If the run's directory was removed from the disk, nothing is left to search.
    fs::remove_dir_all(place.run_dir(1)).expect("there");
    assert_eq!(values(&search(&place, 1, "text=error"), &["count", "lines", "searched_all"]), json!([0, 0, true]));
}

#[test]
fn invalid_search_is_refused_with_reason() {
    let place = Place::serving("exit.sh");
    let (_, run_id) = place.start();
    place.until_settled(run_id);
    let long = format!("text={}", "x".repeat(201));
    for (query, says) in [
        ("", "either text or regex"),
        ("case=1", "either text or regex"),
        ("text=a&regex=a", "either text or regex"),
        ("text=", "1 to 200 bytes"),
        ("regex=", "1 to 200 bytes"),
        (&*long, "1 to 200 bytes"),
        ("text=a%0Ab", "line break"),
        ("regex=(a", "regex: unclosed group (at byte 0 of the expression)"),
        ("regex=a%0A(%3F%3C", "regex: "),
        ("regex=(x%7B1,50%7D)%7B1,50%7D", "more than 250 characters once its counted repetitions are written out"),
        ("regex=%5Cw%7B1,100%7D", "too much memory"),
        ("text=a&stream=both", "stdout or stderr"),
        ("text=a&limit=0", "1 to 1000"),
        ("text=a&limit=1001", "1 to 1000"),
        ("text=a&case=yes", "0 or 1"),
        ("text=a&grep=b", "\"grep\" is unknown"),
    ] {
        let answer = place.get(&format!("/api/runs/{run_id}/log/search?{query}"));
        assert_eq!((answer.status, answer.error()), (400, "invalid_query"), "{query}");
        let detail = answer.body["detail"].as_str().expect("a sentence");
        assert!(detail.contains(says) && !detail.contains('\n'), "{query}: {detail}");
    }
    for id in ["4711", "x", ""] {
        let answer = place.get(&format!("/api/runs/{id}/log/search?text=a"));
        assert_eq!((answer.status, answer.error()), (404, "not_found"), "{id}");
    }
}

#[test]
fn search_of_packed_segments_is_complete_after_several_parts() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_LOG_SEGMENT_MB", "1");
    place.script(
        "much.sh",
        "#!/bin/bash\necho needle first\nhead -c 40000000 /dev/zero | tr '\\0' x | fold -w 1000 | sed '0~4000s/^/needle /'\necho\necho needle last\n",
    );
    place.start_server();
    let (_, run_id) = place.start_with(json!({"script": "much.sh"}));
    place.until_settled(run_id);
    until_true("most of it is packed", || {
        let files = fs::read_dir(place.run_dir(run_id).join("log")).expect("there").flatten();
        files.filter(|file| file.file_name().to_string_lossy().ends_with(".log.gz")).count() >= 30
    });
    let part = search(&place, run_id, "text=needle");
    assert!(part["searched_all"] == false && number(&part["next"]) < 17_000_000, "{part}");
    let (found, count, lines) = whole(&place, run_id, "text=NEEDLE");
    assert_eq!((found.len(), count, lines), (12, 12, 40_002));
    let ids: Vec<u64> = found.iter().map(|line| number(&line["id"])).collect();
    assert!(ids.is_sorted() && found[11]["line"] == "needle last");
    let long = found[5]["line"].as_str().expect("text");
    assert!(long.starts_with("needle xxx") && long.len() == 500, "{long}");
    assert_eq!(whole(&place, run_id, "regex=x$&limit=1").1, 40_000);
}

#[test]
fn hostile_regex_is_searched_in_parts_and_blocks_no_reader() {
    let place = Place::serving("long.sh");
    // 17 MiB without a line break, in records of the maximum length. No two parts are alike, so that no state of the search can
    // be reused.
    place.script("long.sh", "#!/bin/bash\nhead -c 17825792 /dev/urandom | LC_ALL=C tr '\\000-\\377' '[a*128][b*128]'\n");
    let (_, run_id) = place.start();
    place.until_settled(run_id);
    let end = until("the shim has left", || place.get(&format!("/api/logs?run={run_id}&limit=1")).ok()["end"].as_u64());
    let hostile = ["(a*)*c", "(a%7B1,15%7D)%7B1,15%7Dc", "(.*a)%7B62%7D.%7B125%7Dc", "(a.%7B15%7Db.*)%7B13%7Dc"];
    thread::scope(|scope| {
        let searches = hostile.map(|regex| {
            let place = &place;
            scope.spawn(move || {
                let mut since = 0;
                for _ in 0..3 {
                    let part = search(place, run_id, &format!("regex={regex}&since={since}"));
                    assert!(part["searched_all"] == true || number(&part["next"]) > since, "{regex}: {part}");
                    // A complete search for this one takes a minute.
                    assert!(!regex.contains("125") || number(&part["next"]) < since + 10_000_000, "{regex}: {part}");
                    assert!(since > 0 || part["searched_all"] == false, "{regex}: {part}");
                    assert_eq!(part["count"], 0, "{regex}: {part}");
                    since = number(&part["next"]);
                }
            })
        });
        while searches.iter().any(|search| !search.is_finished()) {
            let tail = place.get(&format!("/api/logs/tail?run={run_id}&limit=1")).ok();
            assert_eq!(tail["lines"][0]["id"], end);
        }
    });
}
