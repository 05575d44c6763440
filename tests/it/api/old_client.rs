//! The responses that the old web client reads, each in its exact form. It knows no other keys, and sends a preflight before
//! every request.

use crate::support::{Answer, Place, assert_keys, assert_time, until_true, values};
use serde_json::{Value, json};

/// The origin of the old client's page.
const PAGE: &str = "http://localhost:5173";

fn place() -> Place {
    let mut place = Place::new();
    place.script("talk.sh", "#!/bin/bash\necho one; echo two >&2; printf 'a\\tb\\n'; while :; do sleep 0.1; done\n");
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "talk.sh");
    place.set_env("AUTOAPPDEV_ALLOW_ORIGIN", PAGE);
    place.start_server();
    place
}

/// Sends a request as that client's page does: with the content type, even without a body.
fn ask(place: &Place, method: &str, path: &str) -> Answer {
    let fields = [("Origin", PAGE), ("Content-Type", "application/json"), ("Sec-Fetch-Site", "cross-site")];
    let answer = place.request(method, path, &fields, (method == "POST").then_some("{}"));
    assert_eq!(answer.header("Access-Control-Allow-Origin"), Some(PAGE), "{method} {path}");
    answer
}

#[test]
fn status_is_running_only_while_running() {
    let place = place();
    let status = || {
        let status = ask(&place, "GET", "/api/pipeline/status").ok();
        assert_keys(&status, &["status"]);
        assert_keys(&status["status"], &["running", "pid", "run_id", "state"]);
        status["status"].clone()
    };
    let seen = |status: &Value| values(status, &["running", "state", "run_id"]);
    assert_eq!(status(), json!({"running": false, "pid": null, "run_id": null, "state": "idle"}));
    for (action, expected) in [
        ("start", json!([true, "running", 1])),
        ("pause", json!([false, "paused", 1])),
        ("resume", json!([true, "running", 1])),
        ("pause", json!([false, "paused", 1])),
    ] {
        assert_eq!(ask(&place, "POST", &format!("/api/pipeline/{action}")).ok()["ok"], true);
        let status = status();
        assert_eq!((seen(&status), status["pid"].is_u64()), (expected, true), "after {action}: {status}");
    }
    ask(&place, "POST", "/api/pipeline/stop").ok();
    assert_eq!(status(), json!({"running": false, "pid": null, "run_id": 1, "state": "stopped"}));
}

#[test]
fn version_names_program_service_build_and_start() {
    let mut place = place();
    let version = || ask(&place, "GET", "/api/version").ok();
    let first = version();
    let name = env!("CARGO_PKG_VERSION");
    assert_eq!(
        values(&first, &["ok", "app", "service", "version"]),
        json!([true, "autoappdev", "autoappdev-backend", name]),
        "{first}"
    );
    let build = first["build"].as_str().expect("text");
    assert!(build.starts_with(&format!("{name} ")) && build.contains(std::env::consts::ARCH), "{build}");
    assert_time(&first["started_at"]);
    assert!(first["started_at"].is_string());
    assert_eq!(version(), first, "it is the time of the start, not of the answer");
    place.restart_server();
    let second = ask(&place, "GET", "/api/version").ok();
    assert!(second["started_at"].as_str() > first["started_at"].as_str(), "{second}");
    assert_eq!(second["build"], first["build"]);
}

#[test]
fn tail_by_name_returns_plain_texts() {
    let place = place();
    ask(&place, "POST", "/api/pipeline/start").ok();
    let tail = |query: &str| ask(&place, "GET", &format!("/api/logs/tail?{query}"));
    let lines = |query: &str| tail(query).ok()["lines"].as_array().expect("a list").clone();
    until_true("all three are there", || lines("name=pipeline&lines=10").len() == 3);
    let mut all = lines("name=pipeline&lines=10");
    assert_eq!(tail("name=pipeline&lines=10").ok(), json!({"name": "pipeline", "lines": all}));
    assert_eq!(lines("name=pipeline&lines=2"), all[1..]);
    assert_eq!((lines("name=pipeline"), lines("lines=10")), (all.clone(), all.clone()), "each has a default");
    // The lines are from two streams, so their order is not fixed.
    all.sort_by_key(ToString::to_string);
    assert_eq!(all, [json!("a\tb"), json!("one"), json!("two")]);
    let backend = tail("name=backend&lines=10").ok();
    assert_keys(&backend, &["name", "lines"]);
    assert!(backend["lines"].as_array().expect("a list").iter().any(|line| line.as_str().is_some_and(|line| !line.is_empty())));
    let refused = tail("name=nothing&lines=10");
    assert_eq!((refused.status, refused.error()), (400, "unknown_log"), "{}", refused.body);
}

#[test]
fn log_pages_and_health_have_keys_of_old_client() {
    let place = place();
    let health = ask(&place, "GET", "/api/health").ok();
    assert_eq!(values(&health, &["ok", "service"]), json!([true, "autoappdev-backend"]));
    assert!(health["db"]["ok"] == true && health["db"]["time"].is_string(), "{health}");
    ask(&place, "POST", "/api/pipeline/start").ok();
    let page = |since: u64| ask(&place, "GET", &format!("/api/logs?source=pipeline&since={since}&limit=2")).ok();
    until_true("all three are there", || page(page(0)["next"].as_u64().expect("a number"))["lines"][0].is_object());
    let (mut since, mut texts) = (0, Vec::new());
    for count in [2, 1, 0] {
        let page = page(since);
        let lines = page["lines"].as_array().expect("a list");
        assert_eq!((&page["source"], &page["since"], lines.len()), (&json!("pipeline"), &json!(since), count), "{page}");
        for line in lines {
            assert_eq!(
                (&line["source"], line["id"].as_u64() > Some(since), line["ts"].is_string()),
                (&json!("pipeline"), true, true)
            );
            texts.push(line["line"].as_str().expect("text").to_owned());
        }
        since = page["next"].as_u64().expect("a number");
    }
    texts.sort();
    assert_eq!(texts, ["a\tb", "one", "two"]);
}

#[test]
fn every_route_of_old_client_answers_preflight() {
    let place = place();
    for (method, path) in [
        ("GET", "/api/health"),
        ("GET", "/api/version"),
        ("GET", "/api/pipeline/status"),
        ("GET", "/api/logs?source=pipeline&since=0&limit=500"),
        ("GET", "/api/logs/tail?name=pipeline&lines=10"),
        ("POST", "/api/pipeline/start"),
        ("POST", "/api/pipeline/pause"),
        ("POST", "/api/pipeline/resume"),
        ("POST", "/api/pipeline/stop"),
    ] {
        let asks =
            [("Origin", PAGE), ("Access-Control-Request-Method", method), ("Access-Control-Request-Headers", "content-type")];
        let answer = place.request("OPTIONS", path, &asks, None);
        let says = |name: &str| answer.header(name).unwrap_or_default().to_owned();
        let names = |name: &str, word: &str| says(name).split(", ").any(|one| one == word);
        assert_eq!((answer.status, says("Access-Control-Allow-Origin")), (204, PAGE.to_owned()), "{path}");
        assert!(names("Access-Control-Allow-Methods", method) && names("Access-Control-Allow-Headers", "content-type"), "{path}");
        assert!(says("Access-Control-Max-Age").parse::<u32>().is_ok_and(|seconds| seconds > 0), "{path}");
    }
    // A refused action returns an error that the client can read: the detail, or else the code.
    let refused = ask(&place, "POST", "/api/pipeline/pause");
    assert_eq!((refused.status, refused.error()), (409, "invalid_transition"));
    assert!(
        refused.body["detail"].as_str().is_some_and(|detail| detail.contains("cannot pause when stopped")),
        "{}",
        refused.body
    );
}
