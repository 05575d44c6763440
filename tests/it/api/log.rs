//! The log's endpoints as `docs/api-contracts.md` describes them, on the whole binary: shape, cursors, tail, and where the log
//! begins.

use crate::support::{Place, assert_keys, assert_time, until, values};
use serde_json::{Value, json};

const LINE_KEYS: [&str; 8] = ["id", "at", "ts", "source", "stream", "run_id", "line", "partial"];

/// Returns one page of the log, after checking its shape.
fn log_page(place: &Place, query: &str, keys: &[&str]) -> Value {
    let page = place.get(query).ok();
    assert_keys(&page, keys);
    assert!(page["next"].is_u64() && page["first"].is_u64() && page["gone"].is_u64());
    let mut last = None;
    for line in page["lines"].as_array().expect("a list") {
        assert_keys(line, &LINE_KEYS);
        assert!(
            line["at"].is_string() && line["at"] == line["ts"] && line["line"].is_string() && line["partial"].is_boolean(),
            "{line}"
        );
        assert_time(&line["at"]);
        assert!(line["id"].as_u64() > last, "ids grow");
        last = line["id"].as_u64();
    }
    page
}

fn texts(page: &Value) -> Vec<&str> {
    page["lines"].as_array().expect("a list").iter().map(|line| line["line"].as_str().expect("text")).collect()
}

const SINCE_KEYS: [&str; 6] = ["source", "since", "next", "first", "gone", "lines"];
const TAIL_KEYS: [&str; 5] = ["source", "next", "first", "gone", "lines"];

#[test]
fn log_is_read_by_cursor_and_tail_across_runs() {
    let mut place = Place::serving("lines.sh");
    place.script(
        "lines.sh",
        "#!/bin/bash\nfor n in 1 2 3; do echo \"$1 $n\"; done\necho \"$1 bad\" >&2\nprintf '\\xff%s' \"$1\"\n",
    );
    let empty = log_page(&place, "/api/logs", &SINCE_KEYS);
    assert_eq!(empty, json!({"source": "pipeline", "since": 0, "next": 0, "first": 0, "gone": 0, "lines": []}));
    for run in ["a", "b"] {
        let (_, run_id) = place.start_with(json!({"args": [run]}));
        place.until_settled(run_id);
    }
    let all = log_page(&place, "/api/logs?source=pipeline&since=0&limit=500", &SINCE_KEYS);
    let lines = all["lines"].as_array().expect("a list");
    let of = |run: u64, stream: &str| {
        let those = lines.iter().filter(|line| line["run_id"] == run && line["stream"] == stream);
        those.map(|line| line["line"].as_str().expect("text")).collect::<Vec<_>>()
    };
    assert_eq!(of(1, "stdout"), ["a 1", "a 2", "a 3", "\u{fffd}a"]);
    assert_eq!((of(2, "stdout"), of(1, "stderr")), (vec!["b 1", "b 2", "b 3", "\u{fffd}b"], vec!["a bad"]));
    assert!(lines.len() == 10 && lines.iter().all(|line| line["source"] == "pipeline"));
    assert_eq!(all["next"], lines[9]["id"]);

    // In pages of one, two and three lines: the same lines, each once.
    for limit in 1..=3 {
        let (mut since, mut got) = (0, Vec::new());
        loop {
            let page = log_page(&place, &format!("/api/logs?since={since}&limit={limit}"), &SINCE_KEYS);
            assert_eq!(page["since"], since);
            let new = page["lines"].as_array().expect("a list");
            if new.is_empty() {
                assert_eq!(page["next"], since, "a cursor at the end stays");
                break;
            }
            assert!(new.len() <= limit);
            got.extend(new.clone());
            since = page["next"].as_u64().expect("a number");
        }
        assert_eq!(&got, lines, "by {limit}");
    }
    let tail = log_page(&place, "/api/logs/tail?source=pipeline&limit=4", &TAIL_KEYS);
    assert_eq!(
        (&tail["source"], &tail["next"], tail["lines"].as_array()),
        (&json!("pipeline"), &all["next"], Some(&lines[6..].to_vec()))
    );
    assert_eq!(texts(&log_page(&place, "/api/logs/tail", &TAIL_KEYS)), texts(&all));
    // A cursor that is not reached yet is kept, and the next server uses the same ids.
    assert_eq!(log_page(&place, "/api/logs?since=18446744073709551615", &SINCE_KEYS)["next"], u64::MAX);
    place.restart_server();
    assert_eq!(log_page(&place, "/api/logs", &SINCE_KEYS), all);
}

#[test]
fn log_page_reports_missing_beginning() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_LOG_SEGMENT_MB", "1");
    place.set_env("AUTOAPPDEV_LOG_RUN_MB", "2");
    place.script("much.sh", "#!/bin/bash\nfor n in {1..60000}; do printf 'line %090d\\n' $n; done\n");
    place.start_server();
    place.start_with(json!({"script": "much.sh"}));
    place.until_state("stopped");
    let page = log_page(&place, "/api/logs?since=0&limit=2", &SINCE_KEYS);
    let (first, id) = (page["first"].as_u64().expect("a number"), page["lines"][0]["id"].as_u64().expect("a number"));
    assert!(first > 0 && id > first, "{page}");
    assert_eq!(page["gone"], page["first"], "it says how much is gone");
    let after = log_page(&place, &format!("/api/logs?since={id}&limit=2"), &SINCE_KEYS);
    assert_eq!(after["gone"], 0, "nothing between two lines that follow each other");
    let last = log_page(&place, "/api/logs/tail?limit=1", &TAIL_KEYS);
    assert_eq!(texts(&last), [format!("line {:090}", 60_000)]);
}

#[test]
fn server_log_has_same_keys_as_pipeline_log() {
    let place = Place::serving("sleep.sh");
    // Between the two requests, the server may log another line.
    let (page, tail) = until("both end with the same line", || {
        let page = log_page(&place, "/api/logs?source=backend&limit=5000", &SINCE_KEYS);
        let tail = log_page(&place, "/api/logs/tail?source=backend&limit=1", &TAIL_KEYS);
        (texts(&tail).last() == texts(&page).last()).then_some((page, tail))
    });
    assert_eq!((&page["source"], &tail["source"]), (&json!("backend"), &json!("backend")));
    assert!(texts(&page).iter().any(|line| line.contains("listening on")), "{page}");
    for line in page["lines"].as_array().expect("a list") {
        assert_eq!(values(line, &["source", "stream", "run_id", "partial"]), json!(["backend", null, null, false]));
    }
    assert_eq!(texts(&tail).len(), 1);
}
