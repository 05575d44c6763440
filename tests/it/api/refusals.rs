//! Every refusal of `docs/api-contracts.md`, on the whole binary: its status, its code, and that it changed nothing.

use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;

use crate::support::{Answer, Place, example, until_true};
use autoappdev::api::routes::{Method, Route};
use serde_json::{Value, json};

/// Checks that a refusal has this status and code, a sentence for people, and the keys of every refusal.
fn assert_refused(what: &str, answer: &Answer, status: u16, word: &str) {
    assert_eq!((answer.status, answer.error()), (status, word), "{what}: {}", answer.body);
    assert_eq!(answer.body["ok"], false, "{what}");
    assert!(answer.body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{what}: {}", answer.body);
    assert_eq!(answer.header("Content-Type"), Some("application/json"), "{what}");
}

/// Posts a body unchanged.
fn post(place: &Place, action: &str, body: &str) -> Answer {
    place.request("POST", &format!("/api/pipeline/{action}"), &[("Content-Type", "application/json")], Some(body))
}

#[test]
fn unknown_path_gets_404_in_json() {
    let place = Place::serving("sleep.sh");
    let before = place.footprint();
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
        for path in "/api /api/ /api/nothing /api/pipeline/ /api/pipeline/starts /api/pipeline/start/ //api/pipeline \
            /API/pipeline /api/logs/tail/x /api/runs/1/2 /index.html /static /static/a/b /favicon.ico /../etc/passwd \
            /static/../../etc/passwd /%00 /%ff /% /."
            .split_whitespace()
        {
            let mut wire = place.wire();
            wire.ask(method, path);
            assert_refused(&format!("{method} {path}"), &wire.answer(), 404, "not_found");
        }
    }
    for path in "/static/ /static/nothing.js /static/..%2f..%2fetc%2fpasswd /static/.. /static/%2e%2e /static/. /api/runs/1 /api/runs/0 /api/runs/x \
        /api/runs/-1"
        .split_whitespace()
    {
        assert_refused(path, &place.wire().get(path), 404, "not_found");
    }
    for path in
        ["/api/runs/", "/api/runs/+1", "/api/runs/1x", "/api/runs/99999999999999999999999", "/api/runs/%00", "/api/runs/%20"]
    {
        assert_refused(path, &place.wire().get(path), 404, "not_found");
    }
    assert_eq!(place.footprint(), before);
}

#[test]
fn wrong_method_gets_405_with_allow() {
    let place = Place::serving("sleep.sh");
    let before = place.footprint();
    for &route in Route::ALL {
        let path = &example(route);
        let takes =
            |method| Route::ALL.iter().any(|other| other.spec().path == route.spec().path && other.spec().method == method);
        let (allow, wrong) = match (takes(Method::Get), takes(Method::Post)) {
            (true, false) => ("GET, HEAD, OPTIONS", &["POST", "PUT", "PATCH", "DELETE", "TRACE", "get", "BREW"][..]),
            (false, true) => ("POST, OPTIONS", &["GET", "HEAD", "PUT", "PATCH", "DELETE", "post"][..]),
            _ => ("GET, HEAD, POST, OPTIONS", &["PUT", "PATCH", "DELETE", "TRACE", "get", "post"][..]),
        };
        let mut wire = place.wire();
        for method in wrong {
            wire.ask(method, path);
            let answer = if *method == "HEAD" { wire.answer_to_head() } else { wire.answer() };
            assert_eq!((answer.status, answer.header("Allow")), (405, Some(allow)), "{method} {path}");
            if *method != "HEAD" {
                assert_refused(path, &answer, 405, "method_not_allowed");
            }
        }
        wire.ask("OPTIONS", path);
        let answer = wire.answer();
        assert_eq!((answer.status, answer.header("Allow")), (204, Some(allow)), "OPTIONS {path}");
        assert_eq!(answer.header("Access-Control-Allow-Methods"), None, "nobody was allowed anything");
    }
    let mut wire = place.wire();
    wire.ask("OPTIONS", "*");
    assert_eq!(wire.answer().status, 204);
    assert_eq!(place.footprint(), before);
}

/// Returns bodies of a start, each with the error code of its refusal.
fn bad_bodies() -> Vec<(String, &'static str)> {
    let mut bad: Vec<(String, &'static str)> = Vec::new();
    let mut add = |word: &'static str, bodies: &[&str]| bad.extend(bodies.iter().map(|body| ((*body).to_owned(), word)));
    add(
        "invalid_json",
        &[
            "{",
            "}",
            "nonsense",
            "{}{}",
            "{'a':1}",
            "{\"script\":\"a",
            "{\"script\":}",
            "\u{feff}{}",
            "NaN",
            "{\"grace_s\":1e999}",
        ],
    );
    add("invalid_body", &["[]", "1", "null", "true", "\"x\"", "[{}]", r#"{"Script":"sleep.sh"}"#, r#"{"":1}"#, r#"{"pid":1}"#]);
    add(
        "invalid_body",
        &[r#"{"script":1}"#, r#"{"script":["sleep.sh"]}"#, r#"{"script":{}}"#, r#"{"script":true}"#, r#"{"script":""}"#],
    );
    add(
        "invalid_body",
        &[r#"{"script":"sleep.sh\u0000"}"#, r#"{"script":"\u0000"}"#, r#"{"cwd":"\u0000"}"#, r#"{"cwd":7}"#, r#"{"cwd":""}"#],
    );
    add(
        "args_must_be_list",
        &[
            r#"{"args":"-v"}"#,
            r#"{"args":{}}"#,
            r#"{"args":null}"#,
            r#"{"args":[1]}"#,
            r#"{"args":[["a"]]}"#,
            r#"{"args":["a",null]}"#,
        ],
    );
    add(
        "invalid_body",
        &[
            r#"{"script":"sleep.sh","script":"sleep.sh"}"#,
            r#"{"script":5,"script":"sleep.sh"}"#,
            r#"{"script":5,"args":["a"],"args":["b"],"script":"sleep.sh"}"#,
            r#"{"script":"sleep.sh","grace_s":"x","grace_s":5}"#,
            r#"{"script":"sleep.sh","env":5,"env":{}}"#,
            r#"{"script":"sleep.sh","env":{"A":"1","A":"2"}}"#,
            r#"{"if_run_id":"x","if_run_id":1}"#,
        ],
    );
    add("invalid_body", &[r#"{"args":["a\u0000b"]}"#, r#"{"env":{"A":"a\u0000b"}}"#, r#"{"env":{"A\u0000":"b"}}"#]);
    add(
        "invalid_body",
        &[
            r#"{"env":[]}"#,
            r#"{"env":"A=B"}"#,
            r#"{"env":null}"#,
            r#"{"env":{"A":1}}"#,
            r#"{"env":{"A":null}}"#,
            r#"{"env":{"":"x"}}"#,
            r#"{"env":{"A=B":"x"}}"#,
        ],
    );
    add("invalid_body", &[r#"{"env":{"AUTOAPPDEV_RUN_ID":"9"}}"#, r#"{"env":{"AUTOAPPDEV_":"9"}}"#]);
    add(
        "invalid_body",
        &[
            r#"{"grace_s":-1}"#,
            r#"{"grace_s":-0.001}"#,
            r#"{"grace_s":3600.001}"#,
            r#"{"grace_s":"1"}"#,
            r#"{"grace_s":true}"#,
            r#"{"grace_s":[1]}"#,
            r#"{"grace_s":1e300}"#,
        ],
    );
    let long = |bytes: usize| "x".repeat(bytes);
    bad.extend([
        (format!("{}{}", "[".repeat(200_000), "]".repeat(200_000)), "invalid_json"),
        (r#"{"a":"#.repeat(100_000), "invalid_json"),
        (json!({"script": long(5_000)}).to_string(), "invalid_body"),
        (json!({"script": long(256)}).to_string(), "invalid_body"),
        (json!({"script": "a/".repeat(3_000)}).to_string(), "invalid_body"),
        (json!({"cwd": long(300)}).to_string(), "invalid_body"),
        (json!({"args": [long(131_072)]}).to_string(), "invalid_body"),
        (json!({"args": vec!["a"; 10_001]}).to_string(), "invalid_body"),
        (json!({"env": {"A": long(131_072)}}).to_string(), "invalid_body"),
        // The kernel passes name, `=` and value as one string, whose length it limits.
        (json!({"env": {"A": long(131_071)}}).to_string(), "invalid_body"),
        (json!({"env": {long(140_000): "x"}}).to_string(), "invalid_body"),
        (
            json!({"env": (0..10_001).map(|n| (format!("A{n}"), json!(""))).collect::<serde_json::Map<_, _>>()}).to_string(),
            "invalid_body",
        ),
    ]);
    bad
}

#[test]
fn invalid_body_is_refused_and_changes_nothing() {
    let place = Place::serving("sleep.sh");
    let refuse_all = |before: &(String, i64, i64)| {
        for (body, word) in bad_bodies() {
            let answer = post(&place, "start", &body);
            let shown = &body[..body.floor_char_boundary(60)];
            // During a run a valid body would be a conflict, and an invalid one is still invalid.
            assert_refused(shown, &answer, 400, word);
            assert_eq!(&place.footprint(), before, "{shown}");
        }
    };
    refuse_all(&place.footprint());
    for action in ["pause", "resume", "stop"] {
        for (body, word) in
            [("{", "invalid_json"), ("[]", "invalid_body"), (r#"{"script":"a"}"#, "invalid_body"), ("\0", "invalid_json")]
        {
            assert_refused(action, &post(&place, action, body), 400, word);
        }
    }
    for action in ["pause", "resume"] {
        assert_refused(action, &post(&place, action, r#"{"grace_s":1}"#), 400, "invalid_body");
    }
    for grace in ["-1", "3601", "\"1\"", "1e10", "[]"] {
        assert_refused(grace, &post(&place, "stop", &format!(r#"{{"grace_s":{grace}}}"#)), 400, "invalid_body");
    }
    place.start();
    let before = place.footprint();
    assert_refused("a stop", &post(&place, "stop", r#"{"grace_s":-1}"#), 400, "invalid_body");
    assert_refused("a pause", &post(&place, "pause", r#"{"x":1}"#), 400, "invalid_body");
    assert_eq!(place.footprint(), before);
}

#[test]
fn empty_body_and_nulls_mean_defaults() {
    let place = Place::serving("exit.sh");
    for body in [
        "",
        " \r\n\t",
        "{}",
        r#"{"script":null,"cwd":null,"grace_s":null,"args":[],"env":{}}"#,
        r#"{"grace_s":-0.0}"#,
        r#"{"grace_s":3600}"#,
    ] {
        let answer = post(&place, "start", body);
        assert_eq!(answer.status, 200, "{body:?}: {}", answer.body);
        place.until_state("stopped");
    }
}

/// Fills the root and the folders around it with everything that is not a script in the root. Returns the name of the outside
/// folder.
fn set_traps(place: &Place) -> String {
    let root = place.root();
    let outside = root.parent().expect("a parent").join("outside");
    fs::create_dir_all(root.join("sub/empty")).expect("creates");
    fs::create_dir(&outside).expect("creates");
    for file in [outside.join("secret.sh"), root.join("sub/inner.sh"), root.join("plain.txt")] {
        fs::write(file, "echo inside\n").expect("writes");
    }
    for (to, name) in [
        ("../outside/secret.sh", "link-out.sh"),
        ("../outside", "dir-out"),
        ("..", "up"),
        ("/", "slash"),
        ("nowhere", "dangling.sh"),
        ("loop", "loop"),
        ("/dev/zero", "zero.sh"),
        ("/proc/self/fd/0", "stdin.sh"),
    ] {
        symlink(to, root.join(name)).expect("links");
    }
    symlink("around", outside.join("around")).expect("links");
    fs::create_dir(root.with_file_name("root2")).expect("creates");
    fs::write(root.with_file_name("root2").join("x.sh"), "").expect("writes");
    outside.to_str().expect("text").to_owned()
}

#[test]
fn path_outside_root_is_refused_and_not_disclosed() {
    let place = Place::serving("sleep.sh");
    let outside = set_traps(&place);
    let before = place.footprint();
    let (secret, missing) = (format!("{outside}/secret.sh"), format!("{outside}/missing.sh"));
    for name in [
        "../outside/secret.sh",
        "../outside/missing.sh",
        "sub/../../outside/secret.sh",
        "./../root/../outside/secret.sh",
        "link-out.sh",
        "dir-out/secret.sh",
        "dir-out/missing.sh",
        "up/outside/secret.sh",
        "slash/etc/passwd",
        "slash/etc/missing",
        &secret,
        &missing,
        "/etc/passwd",
        "/etc/missing",
        "/etc/passwd/x",
        "..",
        "../..",
        "/",
        "../root2/x.sh",
        "zero.sh",
        "/dev/null",
        "/dev/stdin",
        "/proc/self/exe",
        "/proc/1/root/bin/sh",
        "sub/missing/../../../outside/secret.sh",
        "../outside/around",
        "../outside/around/x",
        "up/outside/around",
    ] {
        for key in ["script", "cwd"] {
            let answer = place.post("/api/pipeline/start", json!({key: name}));
            assert_refused(&format!("{key} {name}"), &answer, 400, "script_outside_root");
            // The text is the same whether or not the file exists, and contains the name as it was sent, not its target.
            let expected =
                format!("{key} {name:?} is outside the pipeline's root; put it in there, or set AUTOAPPDEV_PIPELINE_CWD");
            assert_eq!(answer.body["detail"], expected, "{name}");
        }
    }
    assert_eq!(place.footprint(), before);
    assert_eq!(place.get("/api/logs").ok()["lines"], json!([]), "nothing was run");
}

#[test]
fn unsuitable_script_is_refused_without_hanging() {
    let place = Place::serving("sleep.sh");
    set_traps(&place);
    let root = place.root();
    assert!(Command::new("mkfifo").arg(root.join("pipe.sh")).status().expect("coreutils").success());
    let _socket = UnixListener::bind(root.join("socket.sh")).expect("binds");
    // Creating a device needs a privilege that the test may not have.
    let _is_privileged = Command::new("mknod").arg(root.join("device.sh")).args(["c", "1", "5"]).output();
    let has_device = fs::metadata(root.join("device.sh")).is_ok_and(|it| it.file_type().is_char_device());
    let before = place.footprint();
    let start = |body: Value| place.post("/api/pipeline/start", body);
    let device = has_device.then_some("device.sh");
    for name in ["sub", ".", "sub/empty/", "pipe.sh", "socket.sh", "loop", "loop/x"].into_iter().chain(device) {
        assert_refused(name, &start(json!({"script": name})), 400, "invalid_script");
    }
    for name in [
        "nowhere.sh",
        "dangling.sh",
        "sub/nowhere.sh",
        "nowhere/sleep.sh",
        "plain.txt/x",
        "a\r\nX-Injected: 1",
        "%2e%2e",
        "~",
        "$HOME",
        "-",
    ] {
        let answer = start(json!({"script": name}));
        assert_refused(name, &answer, 404, "script_not_found");
        assert!(answer.header("X-Injected").is_none());
    }
    for name in ["nowhere", "sleep.sh", "sub/inner.sh", "dangling.sh", "pipe.sh", "loop", "loop/x"] {
        assert_refused(name, &start(json!({"cwd": name})), 400, "invalid_body");
    }
    assert_eq!(place.footprint(), before);
    // A start that only the kernel refuses becomes a failed run, and is reported as one.
    place.script("no-first-line.sh", "echo this must not run\n");
    let answer = start(json!({"script": "no-first-line.sh"}));
    assert_refused("no first line", &answer, 422, "spawn_failed");
    assert_eq!((place.state().as_str(), place.footprint().2), ("stopped", before.2 + 1));
}

#[test]
fn start_without_script_is_refused() {
    let mut place = Place::new();
    place.start_server();
    let before = place.footprint();
    assert_eq!(place.pipeline()["script"], Value::Null);
    assert_refused("no script", &place.act("start"), 400, "invalid_script");
    assert_eq!(place.footprint(), before);
}

#[test]
fn invalid_query_is_refused() {
    let place = Place::serving("sleep.sh");
    let before = place.footprint();
    let numbers = ["", "x", "-1", "+1", "1.5", "1e3", "0x10", "%31", "99999999999999999999", "1;2", "1=1", "%D9%A1"];
    let mut wire = place.wire();
    for key in [
        "pipeline?after",
        "pipeline?wait",
        "runs?limit",
        "runs?before",
        "logs?since",
        "logs?limit",
        "logs/tail?limit",
        "logs/tail?lines",
    ] {
        for number in numbers {
            let path = format!("/api/{key}={number}");
            assert_refused(&path, &wire.get(&path), 400, "invalid_query");
        }
        let path = format!("/api/{key}");
        assert_refused(&path, &wire.get(&path), 400, "invalid_query");
    }
    for path in "pipeline?after=0&wait=61 runs?limit=0 runs?limit=501 runs?before=0 runs?before=9223372036854775808 \
        logs?limit=0 logs?limit=5001 logs/tail?lines=0 logs/tail?lines=5001 logs/tail?limit=0 logs/tail?limit=5001 logs?source= logs?source=Pipeline \
        logs?source=../backend logs?source=shim logs/tail?source=backend.log logs/tail?source \
        logs/tail?name=pipeline&limit=1 logs/tail?source=pipeline&lines=1"
        .split_whitespace()
    {
        let path = format!("/api/{path}");
        assert_refused(&path, &wire.get(&path), 400, "invalid_query");
    }
    for path in ["/api/logs/tail?name=backend.log", "/api/logs/tail?name", "/api/logs/tail?name=shim&lines=10"] {
        assert_refused(path, &wire.get(path), 400, "unknown_log");
    }
    // Digits of other scripts are not accepted. Unescaped, they are not even valid in a URI.
    assert_refused("a digit that is not ASCII", &wire.get("/api/runs?limit=\u{661}"), 400, "invalid_request");
    assert_eq!(place.footprint(), before);
}

#[test]
fn body_over_limit_gets_413_unread() {
    let place = Place::serving("sleep.sh");
    let before = place.footprint();
    let head = |length: usize| {
        format!(
            "POST /api/pipeline/pause HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    // No part of the body is sent, so a response shows that the server did not wait for it.
    let mut wire = place.wire();
    wire.send(head((1 << 20) + 1));
    let answer = wire.answer();
    assert_refused("1 MiB and a byte", &answer, 413, "body_too_large");
    assert_eq!(answer.header("Connection"), Some("close"));
    assert!(wire.ends_silently());
    // A client that sends the body anyway can still read the response.
    let mut wire = place.wire();
    wire.send(head((1 << 20) + 1));
    wire.send(vec![b' '; (1 << 20) + 1]);
    assert_refused("sent anyway", &wire.answer(), 413, "body_too_large");
    let mut wire = place.wire();
    wire.send(head(1 << 20));
    wire.send(vec![b' '; 1 << 20]);
    assert_refused("1 MiB of nothing", &wire.answer(), 409, "invalid_transition");
    assert_eq!(place.footprint(), before);
}

#[test]
fn action_not_allowed_by_state_gets_409_naming_both() {
    let place = Place::serving("sleep.sh");
    let refuse = |state: &str, actions: &[&str]| {
        let before = place.footprint();
        assert_eq!(before.0, state);
        for action in actions {
            let answer = place.act(action);
            assert_refused(action, &answer, 409, "invalid_transition");
            assert_eq!(answer.body["detail"], format!("cannot {action} when {state}"));
            assert_eq!(
                (&answer.body["from"], &answer.body["action"], &answer.body["pending"]),
                (&json!(state), &json!(action), &Value::Null)
            );
            assert_eq!(answer.body.as_object().map(serde_json::Map::len), Some(6));
            assert_eq!(place.footprint(), before);
        }
    };
    refuse("stopped", &["pause", "resume", "stop"]);
    place.start();
    refuse("running", &["start", "resume"]);
    place.act("pause").ok();
    refuse("paused", &["start", "pause"]);
    place.act("stop").ok();
    place.until_settled(1);
    refuse("stopped", &["pause", "resume", "stop"]);
}

#[test]
fn pending_stop_refuses_all_other_actions() {
    let place = Place::serving("stubborn.sh");
    place.start();
    place.until_line("ready");
    let mut stop = place.wire();
    stop.send("POST /api/pipeline/stop HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"grace_s\":600}");
    until_true("the stop is under way", || place.pipeline()["pending"] == "stop");
    for action in ["start", "pause", "resume"] {
        let answer = place.act(action);
        assert_refused(action, &answer, 409, "invalid_transition");
        assert_eq!((&answer.body["pending"], &answer.body["from"]), (&json!("stop"), &json!("running")));
    }
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    assert_eq!(stop.answer().status, 200, "whoever asked first is answered too");
}
