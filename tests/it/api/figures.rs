//! What remains of a run in the history: its figures, its events, and its place among the other runs.

use std::time::Instant;

use crate::support::{Place, until, until_true};
use serde_json::{Value, json};

/// Waits from `since` until enough time has passed to be measured. The test is about elapsed time, so the wait is for time
/// itself.
fn let_it_be_paused_for_a_while(since: Instant) {
    until_true("some time has passed", || since.elapsed().as_millis() >= 60);
}

#[test]
fn paused_time_is_counted() {
    let place = Place::serving("sleep.sh");
    let (_, run_id) = place.start();
    let (mut at_least, mut at_most) = (0, 0);
    for _ in 0..3 {
        let asked = Instant::now();
        place.act("pause").ok();
        let paused = Instant::now();
        let_it_be_paused_for_a_while(paused);
        at_least += paused.elapsed().as_millis();
        place.act("resume").ok();
        at_most += asked.elapsed().as_millis() + 2;
        let counted = u128::from(place.run(run_id)["paused_ms"].as_u64().expect("a number"));
        // Both ends of a pause are rounded down to a millisecond.
        assert!((at_least.saturating_sub(6)..=at_most).contains(&counted), "{counted} of {at_least}..={at_most} ms");
    }
    // The last pause ends with the run.
    let asked = Instant::now();
    place.act("pause").ok();
    let paused = Instant::now();
    let_it_be_paused_for_a_while(paused);
    at_least += paused.elapsed().as_millis();
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    at_most += asked.elapsed().as_millis() + 2;
    let counted = u128::from(place.until_ended(run_id)["paused_ms"].as_u64().expect("a number"));
    assert!((at_least.saturating_sub(8)..=at_most).contains(&counted), "{counted} of {at_least}..={at_most} ms");
}

#[test]
fn cpu_time_includes_children_and_orphans() {
    let place = Place::serving("burn.sh");
    place.actor();
    place.script(
        "burn.sh",
        "#!/bin/bash\n./actor burn 350\n((./actor burn 250; touch burnt) &)\nwhile [ ! -e burnt ]; do sleep 0.01; done\n",
    );
    let (_, run_id) = place.start();
    let run = place.until_ended(run_id);
    assert_eq!(run["status"], "completed");
    assert!(run["cpu_user_ms"].as_u64().is_some_and(|ms| ms >= 595), "{run}");
    assert!(run["max_rss_kb"].as_u64().is_some_and(|kb| (500..40_000).contains(&kb)), "{run}");
    assert!(run["cpu_system_ms"].is_u64());
}

#[test]
fn max_rss_includes_largest_child() {
    let place = Place::serving("hold.sh");
    place.actor();
    place.script("hold.sh", "#!/bin/bash\n./actor hold 64\n./actor hold 2\n");
    let (_, run_id) = place.start();
    let run = place.until_ended(run_id);
    assert_eq!(run["status"], "completed");
    assert!(run["max_rss_kb"].as_u64().is_some_and(|kb| (64 * 1024..100 * 1024).contains(&kb)), "{run}");
}

#[test]
fn run_events_are_complete_and_ordered() {
    let place = Place::serving("polite.sh");
    place.script("polite.sh", "#!/bin/bash\ntrap 'exit 0' TERM\necho ready\nwhile :; do sleep 0.02; done\n");
    let (pid, run_id) = place.start();
    place.until_line("ready");
    place.act("pause").ok();
    place.act("resume").ok();
    place.act("stop").ok();
    let run = place.until_ended(run_id);
    assert_eq!(
        place.history(run_id),
        [
            "starting request -",
            "spawned request running",
            "paused request paused",
            "resumed request running",
            "stopping - -",
            "exited request stopped",
            "usage - -",
        ]
    );
    let events = run["events"].as_array().expect("a list");
    let seqs: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().expect("a number")).collect();
    assert_eq!(seqs, [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!((&events[1]["pid"], &events[1]["detail"]), (&json!(pid), &json!(format!("pid {pid}"))));
    assert_eq!(["pid", "signal", "grace_ms"].map(|field| &events[0][field]), [&Value::Null; 3]);
    assert_eq!((&events[5]["exit_code"], &events[5]["signal"]), (&run["exit_code"], &run["signal"]));
    assert_eq!((&events[3]["paused_ms"], &events[5]["paused_ms"]), (&run["paused_ms"], &run["paused_ms"]));
    assert_eq!(events[4]["grace_ms"], 10_000);
    assert_eq!(events[1]["from_state"], "stopped");
    assert_eq!(events[5]["from_state"], "running");

    // The format has a fixed width, so that texts sort like times.
    let time = |value: &Value| value.as_str().filter(|text| text.len() == 24).expect("a time").to_owned();
    let at: Vec<String> = events.iter().map(|event| time(&event["at"])).collect();
    assert!(at.is_sorted(), "{at:?}");
    let pipeline = place.pipeline();
    assert_eq!(
        [&at[0], &at[1], &at[5]],
        ["created_at", "started_at", "stopped_at"].map(|key| run[key].as_str().expect("a time"))
    );
    let keys = ["started_at", "paused_at", "resumed_at", "stopped_at"];
    assert_eq!([&at[1], &at[2], &at[3], &at[5]], keys.map(|key| pipeline[key].as_str().expect("a time")));
    assert!(time(&pipeline["updated_at"]) >= at[5]);
}

#[test]
fn start_clears_times_of_previous_run() {
    let place = Place::serving("sleep.sh");
    place.start();
    place.act("pause").ok();
    place.act("resume").ok();
    place.act("stop").ok();
    let before = place.pipeline();
    for key in ["started_at", "paused_at", "resumed_at", "stopped_at"] {
        assert!(before[key].is_string(), "{key}");
    }
    place.start();
    let after = place.pipeline();
    assert!(after["started_at"].as_str() >= before["stopped_at"].as_str());
    assert_eq!([&after["paused_at"], &after["resumed_at"], &after["stopped_at"]], [&Value::Null; 3]);
    assert!(after["version"].as_u64() > before["version"].as_u64());
}

#[test]
fn runs_in_quick_succession_keep_their_usage() {
    let place = Place::serving("sleep.sh");
    for _ in 0..25 {
        place.start();
        place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    }
    until_true("the last one's figures are there", || !place.run(25)["max_rss_kb"].is_null());
    for id in 1..=25 {
        let run = place.run(id);
        assert_eq!(run["status"], "stopped");
        assert!(run["cpu_user_ms"].is_u64() && run["max_rss_kb"].is_u64(), "{run}");
    }
}

#[test]
fn history_is_paged_newest_first_with_increasing_ids() {
    let mut place = Place::serving("exit.sh");
    for n in 1..=7 {
        if n == 4 {
            place.restart_server();
        }
        let (_, run_id) = until("the one before has ended", || Some(place.act("start")).filter(|answer| answer.status == 200))
            .ok()
            .as_object()
            .map(|answer| (answer["pid"].clone(), answer["run_id"].clone()))
            .expect("an object");
        assert_eq!(run_id, n);
        place.until_ended(n);
    }
    let mut seen = Vec::new();
    let mut query = "?limit=3".to_owned();
    let mut pages = Vec::new();
    loop {
        let page = place.get(&format!("/api/runs{query}")).ok();
        let runs = page["runs"].as_array().expect("a list");
        pages.push(runs.len());
        seen.extend(runs.iter().map(|run| run["id"].as_i64().expect("a number")));
        let Some(before) = page["next_before"].as_i64() else { break };
        query = format!("?limit=3&before={before}");
    }
    assert_eq!((seen, pages), (vec![7, 6, 5, 4, 3, 2, 1], vec![3, 3, 1]));
    let all = place.get("/api/runs").ok();
    assert_eq!((all["runs"].as_array().map(Vec::len), &all["next_before"]), (Some(7), &Value::Null));
    let exactly = place.get("/api/runs?limit=7").ok();
    assert_eq!((exactly["runs"].as_array().map(Vec::len), &exactly["next_before"]), (Some(7), &Value::Null));
    assert_eq!(place.get("/api/runs?before=1").ok()["runs"], json!([]));
    assert_eq!(place.get("/api/runs/8").error(), "not_found");
}
