//! `::progress` and `::step`: the progress that a pipeline reports is shown, kept and limited, even if a process is killed.

use std::fs;
use std::time::Duration;

use crate::support::sse::EventStream;
use crate::support::{Place, signal, until, until_true};
use autoappdev::clock::Timestamp;
use serde_json::{Value, json};

/// A script that reports its progress, and continues to the next word once a file of that name exists in its folder.
const WALK: &str = r#"#!/bin/bash
await() { while [ ! -e "$1" ]; do sleep 0.01; done; }
echo "::step fetch"
echo "::progress 10 Fetching" >&2
await build
echo "::step build"
echo "::progress 40.5 Building"
await test
printf '::step '; sleep 0.4; printf 'te'; sleep 0.4; printf 'st\r\n'
await end
"#;

fn walking() -> (Place, i64) {
    let place = Place::serving("walk.sh");
    place.script("walk.sh", WALK);
    let (_, run_id) = place.start();
    (place, run_id)
}

fn go(place: &Place, word: &str) {
    fs::write(place.root().join(word), "").expect("writes");
}

fn names(progress: &Value) -> Vec<&str> {
    let steps = progress["steps"].as_array().map_or(&[][..], Vec::as_slice);
    steps.iter().map(|step| step["name"].as_str().expect("text")).collect()
}

/// Waits until the latest step has this name. Returns the progress.
fn until_step(place: &Place, name: &str) -> Value {
    let is_there = |progress: &Value| names(progress).last() == Some(&name);
    until(&format!("step {name}"), || Some(place.pipeline()["progress"].take()).filter(is_there))
}

/// Converts a time stamp of the API to milliseconds.
fn ms(stamp: &Value) -> i64 {
    stamp.as_str().and_then(|text| text.parse::<Timestamp>().ok()).expect("a time").unix_ms()
}

#[test]
fn progress_is_published_and_reset_by_next_run() {
    let (place, run_id) = walking();
    let mut stream = EventStream::open(place.port(), "?since=0", None);
    // The two lines come from two streams, which are read one after the other.
    let said = until("both lines", || {
        let now = place.pipeline();
        Some(now).filter(|now| now["progress"]["percent"] == 10 && names(&now["progress"]) == ["fetch"])
    });
    // Reports in quick succession are combined. The client must have received this one before the next is made.
    stream.until("both lines", |event| event.kind == "progress" && event.data["progress"] == said["progress"]);
    assert_eq!((&said["progress"]["text"], &said["progress"]["steps_before"]), (&json!("Fetching"), &json!(0)));
    let first = said["progress"]["steps"][0].clone();
    assert_eq!((&first["name"], &first["ended_at"], &first["ms"]), (&json!("fetch"), &Value::Null, &Value::Null));
    assert_eq!(place.run(run_id)["progress"], said["progress"]);

    // The tag changes with the progress and the version does not, so clients that wait for a change of the state are not woken.
    let tag = |place: &Place| place.get("/api/pipeline").header("ETag").expect("a tag").to_owned();
    let before = tag(&place);
    go(&place, "build");
    let said = until("the next words", || Some(place.pipeline()).filter(|now| now["progress"]["percent"] == 40.5));
    assert_eq!(names(&said["progress"]), ["fetch", "build"]);
    assert!(tag(&place) != before && tag(&place).starts_with(&format!("\"{}.", said["version"])));
    let again = place.request("GET", "/api/pipeline", &[("If-None-Match", &before)], None);
    assert_eq!(again.status, 200, "it is another answer");
    let waited = place.get(&format!("/api/pipeline?after={}&wait=0", said["version"])).ok();
    assert_eq!(waited["pipeline"]["version"], said["version"]);
    let (_, shown, _) = place.client(&["status"]);
    assert!(shown.contains("\nprogress  [########------------]  40.5 %  Building\nstep      fetch  took "), "{shown}");

    // A line that arrives in parts, each of which is shown separately, counts as one line.
    go(&place, "test");
    let said = until_step(&place, "test");
    assert!(said["steps"][1]["ms"].is_u64() && said["steps"][1]["ended_at"] == said["steps"][2]["started_at"], "{said}");
    go(&place, "end");
    let run = place.until_ended(run_id);
    let ended = run["progress"].clone();
    assert_eq!((names(&ended), &ended["percent"]), (vec!["fetch", "build", "test"], &json!(40.5)));
    assert_eq!(ended["steps"][2]["ended_at"], run["stopped_at"], "the last step ends with the run");
    assert!(ended["steps"][2]["ms"].is_u64(), "{ended}");
    assert_eq!(place.pipeline()["progress"], ended);
    // The reports are lines of the log like all others.
    let log = place.lines();
    assert!(log.contains(&"::step fetch".to_owned()) && log.contains(&"::progress 10 Fetching".to_owned()), "{log:?}");

    let told = stream.until("the end", |event| event.kind == "progress" && event.data["progress"] == ended);
    let end = told.iter().find(|event| event.kind == "state" && event.data["status"] == "completed").expect("the end");
    assert_eq!(end.data["progress"], ended, "with its end all is known that the run has said");
    place.start_with(json!({"script": "sleep.sh"}));
    let next = stream.until("the next run", |event| event.kind == "progress").pop().expect("it");
    assert_eq!(next.data, json!({"run_id": run_id + 1, "progress": null}));
    assert_eq!(place.pipeline()["progress"], Value::Null);
    assert_eq!(place.run(run_id)["progress"], ended, "what an earlier run said stays");
    let mut late = EventStream::open(place.port(), "", None);
    let first = late.until("a stream begins with it", |event| event.kind == "progress").pop().expect("it");
    assert_eq!(first.data, next.data);
}

#[test]
fn progress_survives_repeated_server_kills() {
    let (mut place, run_id) = walking();
    until_step(&place, "fetch");
    place.kill_server();
    go(&place, "build");
    place.start_server();
    until_true("the next words", || place.pipeline()["progress"]["percent"] == 40.5);
    place.kill_server();
    place.start_server();
    assert_eq!(until_step(&place, "build")["percent"], 40.5);
    go(&place, "test");
    until_step(&place, "test");
    place.kill_server();
    go(&place, "end");
    let lock = place.run_dir(run_id).join("lock");
    until_true("the shim has left", || {
        let lock = fs::File::open(&lock).expect("there");
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockShared).is_ok()
    });
    place.start_server();
    let run = place.until_ended(run_id);
    assert_eq!(names(&run["progress"]), ["fetch", "build", "test"]);
    assert!(run["progress"]["steps"][2]["ms"].is_u64(), "what came when no server was there is kept: {run}");
    assert_eq!(run["progress"]["steps"][2]["ended_at"], run["stopped_at"]);
    assert_eq!(place.pipeline()["progress"], run["progress"]);
}

#[test]
fn progress_survives_shim_kill() {
    for is_server_killed in [false, true] {
        let (mut place, run_id) = walking();
        until_step(&place, "fetch");
        let file = place.run_dir(run_id).join("progress.json");
        go(&place, "build");
        let said = until("the second words", || Some(place.pipeline()).filter(|now| now["progress"]["percent"] == 40.5));
        until_true("they are stored", || fs::read_to_string(&file).is_ok_and(|text| text.contains("40.5")));
        if is_server_killed {
            place.kill_server();
        }
        signal(place.shim_pid(run_id), "KILL");
        if is_server_killed {
            place.start_server();
        }
        until_true("it is lost", || place.pipeline()["status"] == "lost");
        let run = place.run(run_id);
        assert_eq!(place.pipeline()["progress"], run["progress"]);
        let mut wanted = said["progress"].clone();
        wanted["steps"][1]["ended_at"] = run["stopped_at"].clone();
        assert_eq!(run["progress"], wanted, "nobody saw how long its last step ran");
        let (_, shown, _) = place.client(&["status"]);
        assert!(shown.contains("its end is unknown"), "{shown}");
    }
}

#[test]
fn step_duration_excludes_pauses() {
    let (place, run_id) = walking();
    until_step(&place, "fetch");
    place.act("pause").ok();
    // A longer pause makes the result clearer: the test asserts a ratio.
    std::thread::sleep(Duration::from_millis(1500));
    place.act("resume").ok();
    go(&place, "build");
    let step = until_step(&place, "build")["steps"][0].take();
    let paused = place.run(run_id)["paused_ms"].as_i64().expect("a number");
    let (lasted, ran) = (ms(&step["ended_at"]) - ms(&step["started_at"]), step["ms"].as_i64().expect("a number"));
    assert!(paused >= 1500 && ran + paused / 2 < lasted, "paused {paused} ms, from begin to end {lasted} ms, ran {ran} ms");
    // The part of the last step that was paused when a stop ended it is not counted either.
    place.act("pause").ok();
    place.act("stop").ok();
    let run = place.until_ended(run_id);
    assert!(run["progress"]["steps"][1]["ms"].is_u64(), "{run}");
}

#[test]
fn flood_of_progress_is_rate_limited() {
    let place = Place::serving("flood.sh");
    place.script(
        "flood.sh",
        "#!/bin/bash\nwhile [ ! -e go ]; do sleep 0.01; done\n\
         awk 'BEGIN { for (n = 1; n <= 100000; n++) { printf \"::progress %d line %d\\n::step step %d\\n\", n % 101, n, n; fflush() } }'\n",
    );
    let (_, run_id) = place.start();
    let mut stream = EventStream::open(place.port(), "", None);
    go(&place, "go");
    let mut published = 0;
    let last = loop {
        let event = stream.next().expect("it goes on");
        published += usize::from(event.kind == "progress");
        if event.kind == "progress" && event.data["progress"]["steps_before"] == 99_900 {
            break event.data["progress"].clone();
        }
    };
    assert_eq!((&last["text"], names(&last).len(), names(&last)[99]), (&json!("line 100000"), 100, "step 100000"));
    // Five publications a second, for as long as this machine needs to print 200,000 lines.
    assert!(published < 1000, "{published} publications of 200,000 lines");
    let run = place.until_ended(run_id);
    assert_eq!((&run["progress"]["steps_before"], &run["progress"]["text"]), (&json!(99_900), &json!("line 100000")));
}

#[test]
fn step_names_are_truncated_and_sanitized() {
    let place = Place::serving("names.sh");
    place.script(
        "names.sh",
        "#!/bin/bash\n\
         printf '::step %s\\n' \"$(head -c 1000000 /dev/zero | tr '\\0' x)\"\n\
         printf '::step <script>alert(1)</script>\\n::step a\\033[31mb\\000c\\377\\n::step \"quoted\\\\\"\\n'\n\
         printf '::progress 140\\n ::step no\\n::steps no\\n::progress\\n::step\\nx::step no\\n'\n\
         printf '::progress 7%% 100 %% of ☃\\n::step no end'\n",
    );
    let (_, run_id) = place.start();
    let progress = place.until_ended(run_id)["progress"].clone();
    let long = "x".repeat(200);
    assert_eq!(names(&progress), [&long, "<script>alert(1)</script>", "a\u{fffd}[31mb\u{fffd}c\u{fffd}", "\"quoted\\\""]);
    assert_eq!((&progress["percent"], &progress["text"]), (&json!(7), &json!("100 % of ☃")));
}

#[test]
fn damaged_progress_file_is_ignored() {
    let (mut place, run_id) = walking();
    until_step(&place, "fetch");
    // The step is on the other stream, so lines that were written later may be read before it.
    until_true("it is heard", || place.pipeline()["progress"]["text"] == "Fetching");
    for word in ["build", "test", "end"] {
        go(&place, word);
    }
    let ended = place.until_ended(run_id)["progress"].clone();
    let file = place.run_dir(run_id).join("progress.json");
    let whole = fs::read_to_string(&file).expect("it is stored");
    let hostile = [
        whole[..whole.len() / 2].to_owned(),
        String::new(),
        "[".repeat(100_000),
        whole.replace("fetch", &"x".repeat(201)),
        whole.replace("\"fetch\"", "\"a\\u001b[2J\""),
        whole.replace("\"format\":1", "\"format\":99"),
        whole.replace("40.5", "1e999"),
    ];
    fs::write(&file, &hostile[0]).expect("writes");
    assert_eq!(place.run(run_id)["progress"], ended, "a server that heard it knows better");
    for text in hostile {
        assert_ne!(text, whole);
        fs::write(&file, &text).expect("writes");
        place.kill_server();
        place.start_server();
        assert_eq!((&place.pipeline()["progress"], &place.run(run_id)["progress"]), (&Value::Null, &Value::Null), "{text:.60}");
    }
    assert!(place.server_log().contains("progress.json"), "its log says why");
    // A pipe without a writer. The server must not wait for one.
    fs::remove_file(&file).expect("ours");
    rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RWXU).expect("creates");
    place.kill_server();
    place.start_server();
    assert_eq!(place.pipeline()["progress"], Value::Null);
    fs::remove_file(&file).expect("ours");
    fs::write(&file, whole).expect("writes");
    place.kill_server();
    place.start_server();
    assert_eq!(place.pipeline()["progress"], ended);
}

#[test]
fn unwritable_progress_file_does_not_affect_run() {
    let (mut place, run_id) = walking();
    until_step(&place, "fetch");
    let file = place.run_dir(run_id).join("progress.json");
    // With all of it stored, nothing remains to be written.
    let is_stored = |text: String| text.contains("\"fetch\"") && text.contains("Fetching");
    until_true("it is stored", || fs::read_to_string(&file).is_ok_and(is_stored));
    fs::remove_file(&file).expect("ours");
    fs::create_dir(&file).expect("in the way");
    go(&place, "build");
    until_step(&place, "build");
    assert_eq!(place.degraded(), None);
    place.kill_server();
    place.start_server();
    until_step(&place, "build");
    for word in ["test", "end"] {
        go(&place, word);
    }
    let run = place.until_ended(run_id);
    assert_eq!((&run["status"], names(&run["progress"])), (&json!("completed"), vec!["fetch", "build", "test"]));
    let log = fs::read_to_string(place.run_dir(run_id).join("shim.log")).expect("there");
    assert_eq!(log.matches("failed to store the progress").count(), 1, "{log}");
}
