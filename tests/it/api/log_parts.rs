//! Parts of the log, on the whole binary: the lines of one run, the lines that contain a text, the lines from a time on, and
//! waiting for each of them.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::wire::Wire;
use crate::support::{DEADLINE, Place, assert_keys, signal, until, until_true, values};
use serde_json::{Value, json};

/// Longer than any wait here takes: an earlier response has a reason.
const WAIT: &str = "wait=60";

fn page(place: &Place, query: &str) -> Value {
    place.get(query).ok()
}

fn texts(page: &Value) -> Vec<&str> {
    page["lines"].as_array().expect("a list").iter().map(|line| line["line"].as_str().expect("text")).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("no number: {value}"))
}

/// Sends a request whose response is read later.
fn begin(place: &Place, path: &str) -> Wire {
    let mut wire = place.wire();
    wire.ask("GET", path);
    wire
}

/// Returns for how many connections the server has a thread.
fn connections(place: &Place) -> usize {
    let threads = fs::read_dir(format!("/proc/{}/task", place.server_pid())).expect("the server is alive").flatten();
    let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    names.filter(|name| name.starts_with("http-")).count()
}

/// Returns how many connections to this port were closed by the client but not by the server.
fn left_by_their_clients(port: u16) -> usize {
    const CLOSE_WAIT: &str = "08";
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
    // The columns of the table: sl, `local_address`, `rem_address`, st.
    let ends = table.lines().map(|line| line.split_ascii_whitespace().skip(1).collect::<Vec<_>>());
    ends.filter(|fields| fields[0].ends_with(&format!(":{port:04X}")) && fields[2] == CLOSE_WAIT).count()
}

/// Starts a place with three runs that print five lines each.
fn three_runs() -> Place {
    let place = Place::serving("five.sh");
    place.script("five.sh", "#!/bin/bash\nfor n in 1 2 3 4 5; do echo \"$1 $n of five\"; done\n");
    for run in ["a", "b", "c"] {
        let (_, run_id) = place.start_with(json!({"args": [run]}));
        place.until_settled(run_id);
    }
    place
}

#[test]
fn log_of_one_run_is_read_from_first_line_to_end() {
    let place = three_runs();
    let all = page(&place, "/api/logs");
    assert!(all.get("end").is_none() && all.get("searched_all").is_none());
    for (run, name) in [(1, "a"), (2, "b"), (3, "c")] {
        until_true("the shim has left", || page(&place, &format!("/api/logs?run={run}"))["end"].is_u64());
        let whole = page(&place, &format!("/api/logs?run={run}"));
        assert_keys(&whole, &["source", "since", "next", "first", "gone", "lines", "end"]);
        let wanted: Vec<String> = (1..=5).map(|n| format!("{name} {n} of five")).collect();
        assert_eq!(texts(&whole), wanted);
        assert!(whole["lines"].as_array().expect("a list").iter().all(|line| line["run_id"] == run), "{whole}");
        assert_eq!((&whole["next"], &whole["gone"]), (&whole["end"], &json!(0)), "what lies before it is no part of it");
        let of_all = all["lines"].as_array().expect("a list").iter().filter(|line| line["run_id"] == run);
        assert_eq!(of_all.cloned().collect::<Vec<_>>(), *whole["lines"].as_array().expect("a list"), "the same ids");
        // From a cursor to the end. There is no wait, because no further line can come.
        let second = number(&whole["lines"][1]["id"]);
        assert_eq!(texts(&page(&place, &format!("/api/logs?run={run}&since={second}&limit=2"))), wanted[2..4]);
        let end = number(&whole["end"]);
        let rest = page(&place, &format!("/api/logs?run={run}&since={end}&{WAIT}"));
        assert_eq!((texts(&rest).len(), &rest["next"]), (0, &whole["end"]));
        let tail = page(&place, &format!("/api/logs/tail?run={run}&limit=2"));
        assert_keys(&tail, &["source", "next", "first", "gone", "lines", "end"]);
        assert_eq!((texts(&tail), &tail["end"], &tail["next"]), (vec![&*wanted[3], &*wanted[4]], &whole["end"], &whole["end"]));
        let tail = page(&place, &format!("/api/logs/tail?run={run}&limit=2&before={}", number(&whole["lines"][2]["id"])));
        assert_eq!(texts(&tail), wanted[1..3]);
        assert_eq!(texts(&page(&place, &format!("/api/logs/tail?run={run}"))), wanted);
    }
    for path in ["/api/logs?run=4", "/api/logs/tail?run=4", "/api/logs?run=9223372036854775807"] {
        let answer = place.get(path);
        assert_eq!((answer.status, answer.error()), (404, "not_found"), "{path}");
    }
}

#[test]
fn invalid_log_query_is_refused_with_reason() {
    let place = Place::serving("sleep.sh");
    for (query, says) in [
        ("run=0", "run"),
        ("run=x", "run"),
        ("run=9223372036854775808", "run"),
        ("run=1&source=backend", "leave it out"),
        ("stream=stderr&source=backend", "leave it out"),
        ("stream=both", "stdout or stderr"),
        ("grep=", "grep"),
        ("grep=%ff", "UTF-8"),
        ("grep=a%0Ab", "line"),
        (&*format!("grep={}", "x".repeat(201)), "200"),
        ("at=yesterday", "2026-01-31T10:00:00Z"),
        ("at=", "RFC 3339"),
    ] {
        for path in ["/api/logs", "/api/logs/tail"] {
            let answer = place.get(&format!("{path}?{query}"));
            assert_eq!((answer.status, answer.error()), (400, "invalid_query"), "{path}?{query}");
            let detail = answer.body["detail"].as_str().expect("a sentence");
            assert!(detail.contains(says), "{query}: {detail}");
        }
    }
    assert_eq!(place.get("/api/logs?since=0&at=2026-01-31T10:00:00Z").error(), "invalid_query");
    assert_eq!(place.get("/api/logs/tail?before=x").error(), "invalid_query");
}

#[test]
fn log_is_filtered_by_stream() {
    let place = Place::serving("both.sh");
    place.script(
        "both.sh",
        "#!/bin/bash\nfor n in 1 2 3; do echo \"out $n\"; echo \"err $n\" >&2; done\n\
         while [ ! -e go ]; do echo hay; sleep 0.01; done\necho 'err 4' >&2\nexec sleep 600\n",
    );
    place.start();
    place.until_line("err 3");
    let first = page(&place, "/api/logs?stream=stderr");
    assert_keys(&first, &["source", "since", "searched_all", "next", "first", "gone", "lines"]);
    assert_eq!((texts(&first), &first["searched_all"]), (vec!["err 1", "err 2", "err 3"], &json!(true)));
    assert!(first["lines"].as_array().expect("a list").iter().all(|line| line["stream"] == "stderr"), "{first}");
    assert_eq!(texts(&page(&place, "/api/logs?stream=stdout&grep=out"))[..2], ["out 1", "out 2"]);
    let tail = page(&place, "/api/logs/tail?stream=stderr&limit=2&run=1");
    assert_keys(&tail, &["source", "searched_all", "next", "first", "gone", "lines", "end"]);
    assert_eq!(texts(&tail), ["err 2", "err 3"]);
    let plain = page(&place, "/api/logs/tail?name=pipeline&lines=1&stream=stderr");
    assert_eq!(plain, json!({"name": "pipeline", "lines": ["err 3"]}));
    let mut waiting = begin(&place, &format!("/api/logs?stream=stderr&since={}&{WAIT}", number(&first["next"])));
    fs::write(place.root().join("go"), "").expect("writes");
    assert_eq!(texts(&waiting.answer().ok()), ["err 4"], "the other stream's lines end no wait");
}

#[test]
fn log_long_poll_of_run_returns_on_line_or_end_of_run() {
    let place = Place::serving("until-go.sh");
    let (_, run_id) = place.start();
    place.until_line("ready");
    let first = page(&place, &format!("/api/logs?run={run_id}&{WAIT}"));
    assert_eq!((texts(&first), &first["end"]), (vec!["ready"], &Value::Null), "it goes on");
    let next = number(&first["next"]);
    let mut waiting = begin(&place, &format!("/api/logs?run={run_id}&since={next}&{WAIT}"));
    fs::write(place.root().join("go"), "").expect("writes");
    let second = waiting.answer().ok();
    assert_eq!(texts(&second), ["going"]);
    // Waits for the end of the run, which comes without another line.
    let mut since = number(&second["next"]);
    let last = until("its end is told", || {
        let answer = page(&place, &format!("/api/logs?run={run_id}&since={since}&{WAIT}"));
        since = number(&answer["next"]);
        Some(answer).filter(|answer| answer["end"].is_u64())
    });
    assert_eq!((texts(&last).len(), &last["next"]), (0, &last["end"]));

    // A run that prints nothing more and is killed: the waiting client receives its end.
    let (_, run_id) = place.start_with(json!({"script": "sleep.sh"}));
    // The previous run printed `ready` too.
    let next = until("it says that it is there", || {
        let said = page(&place, &format!("/api/logs?run={run_id}"));
        Some(number(&said["next"])).filter(|_| texts(&said) == ["ready"])
    });
    let mut waiting = begin(&place, &format!("/api/logs?run={run_id}&since={next}&{WAIT}"));
    waiting.read_within(DEADLINE / 2);
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    let answer = waiting.answer().ok();
    assert_eq!((texts(&answer).len(), &answer["next"]), (0, &answer["end"]), "{answer}");
}

#[test]
fn log_of_lost_run_ends_at_its_last_byte() {
    let mut place = Place::serving("count.sh");
    let (leader, run_id) = place.start();
    place.until_line("line 20");
    place.kill_server();
    signal(place.shim_pid(run_id), "KILL");
    place.start_server();
    until_true("it is lost", || place.run(run_id)["status"] == "lost");
    assert!(!crate::support::is_alive(leader));
    until_true("nobody writes there any more", || page(&place, &format!("/api/logs?run={run_id}"))["end"].is_u64());
    // How much the run printed, and how long all of it takes, depends on the machine. Each page contains a part of it.
    let mut since = 0;
    let whole = loop {
        let answer = page(&place, &format!("/api/logs?run={run_id}&since={since}&limit=7"));
        let is_last = answer["end"].as_u64().is_some_and(|end| end <= number(&answer["next"]));
        assert!(is_last || number(&answer["next"]) > since, "it goes on: {answer}");
        since = number(&answer["next"]);
        if is_last {
            break answer;
        }
    };
    assert!(number(&whole["end"]) > 0);
    // Nothing of the log exists any more, not even its directory.
    let end = number(&whole["end"]);
    fs::remove_dir_all(place.run_dir(run_id)).expect("there");
    let none = page(&place, &format!("/api/logs?run={run_id}"));
    assert!(texts(&none).is_empty() && none["end"].is_u64() && number(&none["next"]) <= end, "{none}");
}

#[test]
fn deleted_log_reports_missing_bytes() {
    let place = three_runs();
    let whole = until("the shim has left", || Some(page(&place, "/api/logs?run=2")).filter(|page| page["end"].is_u64()));
    let end = number(&whole["end"]);
    let begin = number(&page(&place, "/api/logs?run=1")["next"]);
    fs::remove_dir_all(place.run_dir(2).join("log")).expect("there");
    for path in ["/api/logs?run=2", "/api/logs/tail?run=2", "/api/logs?run=2&grep=five", "/api/logs/tail?run=2&grep=five"] {
        let none = page(&place, path);
        assert_eq!(values(&none, &["lines", "next", "gone", "end", "first"]), json!([[], end, end - begin, end, end]), "{path}");
    }
}

#[test]
fn grep_filters_log_pages_and_tail() {
    let place = three_runs();
    let found = page(&place, "/api/logs?grep=2+of");
    assert_keys(&found, &["source", "since", "next", "first", "gone", "lines", "searched_all"]);
    assert_eq!(texts(&found), ["a 2 of five", "b 2 of five", "c 2 of five"]);
    assert_eq!((&found["searched_all"], &found["next"]), (&json!(true), &page(&place, "/api/logs")["next"]));
    let one = page(&place, "/api/logs?grep=2%20of&limit=1");
    assert_eq!((texts(&one), &one["next"], &one["searched_all"]), (vec!["a 2 of five"], &one["lines"][0]["id"], &json!(true)));
    assert_eq!(texts(&page(&place, "/api/logs/tail?grep=2%20of&limit=2")), ["b 2 of five", "c 2 of five"]);
    assert_eq!(texts(&page(&place, "/api/logs?grep=3%20of&run=2")), ["b 3 of five"]);
    let nothing = page(&place, "/api/logs/tail?grep=Five");
    assert_eq!((texts(&nothing).len(), &nothing["searched_all"], &nothing["first"]), (0, &json!(true), &json!(0)));
    assert!(!texts(&page(&place, "/api/logs?source=backend&grep=listening%20on")).is_empty());
    assert!(!texts(&page(&place, "/api/logs/tail?source=backend&grep=listening%20on&limit=1")).is_empty());
}

#[test]
fn grep_of_long_log_returns_parts_and_waits_for_matching_line() {
    let place = Place::serving("much.sh");
    // 30 MB, and then more on demand.
    place.script(
        "much.sh",
        "#!/bin/bash\necho needle first\nhead -c 30000000 /dev/zero | tr '\\0' x | fold -w 1000\necho\necho needle last\n\
         while [ ! -e go ]; do echo hay; sleep 0.01; done\necho needle more\nexec sleep 600\n",
    );
    let (_, run_id) = place.start();
    let tail = until("all is said", || {
        let tail = page(&place, "/api/logs/tail?grep=needle%20last&limit=1");
        Some(tail).filter(|tail| !texts(tail).is_empty())
    });
    assert_eq!(tail["searched_all"], true);
    let (mut since, mut count, mut found) = (0, 0, Vec::new());
    loop {
        let answer = page(&place, &format!("/api/logs?run={run_id}&grep=needle&since={since}"));
        found.extend(texts(&answer).iter().map(|text| (*text).to_owned()));
        count += 1;
        since = number(&answer["next"]);
        if answer["searched_all"] == true {
            break;
        }
    }
    assert_eq!(found, ["needle first", "needle last"]);
    assert!((4..=6).contains(&count), "{count} answers");
    let mut waiting = begin(&place, &format!("/api/logs?grep=needle&since={since}&{WAIT}"));
    let hay = |tail: Value| number(&tail["next"]) > since && texts(&tail) == ["hay"];
    until_true("others are said meanwhile", || hay(page(&place, "/api/logs/tail?limit=1")));
    fs::write(place.root().join("go"), "").expect("writes");
    let answer = waiting.answer().ok();
    assert_eq!((texts(&answer), &answer["since"]), (vec!["needle more"], &json!(since)));
    // A wait for a text that never comes takes no longer than requested, and the next request continues after the part that was
    // searched.
    let answer = page(&place, &format!("/api/logs?grep=nowhere&since={since}&wait=1"));
    assert_eq!((texts(&answer).len(), &answer["searched_all"]), (0, &json!(true)));
    assert!(number(&answer["next"]) > since);
}

#[test]
fn log_is_read_from_a_given_time() {
    let place = Place::serving("slow.sh");
    place.script("slow.sh", "#!/bin/bash\nfor n in 1 2 3 4; do echo \"$1 $n\"; sleep 0.01; done\n");
    for run in ["a", "b"] {
        let (_, run_id) = place.start_with(json!({"args": [run]}));
        place.until_settled(run_id);
    }
    let all = page(&place, "/api/logs");
    let lines = all["lines"].as_array().expect("a list");
    assert_eq!(lines.len(), 8);
    for line in lines {
        let at = line["ts"].as_str().expect("a time");
        // On a busy machine, two lines can have the same time.
        let n = lines.iter().position(|line| line["ts"] == at).expect("this one at the latest");
        let line = &lines[n];
        let before = n.checked_sub(1).map_or(0, |before| number(&lines[before]["id"]));
        let answer = page(&place, &format!("/api/logs?at={at}"));
        assert_eq!(answer["lines"].as_array().map(Vec::as_slice), Some(&lines[n..]), "from {at}");
        assert_eq!(answer["since"], before, "it says where that is");
        // The same time in another zone.
        let there = at.replace('Z', "-00:00");
        assert_eq!(page(&place, &format!("/api/logs?at={there}&limit=1"))["lines"][0], *line);
        let tail = page(&place, &format!("/api/logs/tail?at={at}&limit=3"));
        assert_eq!(tail["lines"].as_array().map(Vec::as_slice), Some(&lines[n.max(5)..]), "the last ones from {at}");
        let run = &line["run_id"];
        let wanted: Vec<&Value> = lines[n..].iter().filter(|line| line["run_id"] == *run).collect();
        let answer = page(&place, &format!("/api/logs?run={run}&at={at}"));
        assert_eq!(answer["lines"].as_array().expect("a list").iter().collect::<Vec<_>>(), wanted);
    }
    let late = page(&place, "/api/logs?at=9999-01-01T00:00:00Z");
    assert_eq!((texts(&late).len(), &late["since"], &late["next"]), (0, &all["next"], &all["next"]));
    assert_eq!(texts(&page(&place, "/api/logs?at=1970-01-01T00:00:00Z")).len(), 8);
    assert!(!texts(&page(&place, "/api/logs?source=backend&at=1970-01-01T00:00:00Z")).is_empty());
    assert!(texts(&page(&place, "/api/logs?source=backend&at=9999-01-01T00:00:00Z")).is_empty());
}

#[test]
fn server_stop_ends_waits_for_text() {
    let mut place = Place::serving("sleep.sh");
    place.start();
    place.until_line("ready");
    let mut waiting: Vec<Wire> = (0..4).map(|_| begin(&place, &format!("/api/logs?grep=nowhere&{WAIT}"))).collect();
    // Connections are accepted in order, so those above have been accepted. Their requests have arrived, and get a response at
    // whatever point the stop finds them.
    place.get("/api/version").ok();
    let stopping = thread::spawn(move || {
        assert_eq!(place.stop_server(), 0);
        place
    });
    for wire in &mut waiting {
        wire.read_within(Duration::from_secs(30));
        assert_eq!(wire.answer().ok()["searched_all"], true);
    }
    stopping.join().expect("it stops");
}

#[test]
fn closed_connections_free_their_wait_slots() {
    let place = Place::serving("sleep.sh");
    place.start();
    let end = number(&page(&place, "/api/logs/tail?limit=1")["next"]);
    let path = format!("/api/logs?since={end}&{WAIT}");
    // The connections of the requests above end a little after their responses.
    until_true("nobody is connected", || connections(&place) == 0);
    let began = Instant::now();
    let gone: Vec<Wire> = (0..64).map(|_| begin(&place, &path)).collect();
    until_true("all of them are served", || connections(&place) == 64);
    drop(gone);
    // Eventually there is one request too many. It is answered at once, and the server then notices the closed connections.
    let mut here = Vec::new();
    until_true("they wait no more", || {
        if here.len() < 128 {
            here.push(begin(&place, &path));
        }
        left_by_their_clients(place.port()) == 0
    });
    assert!(began.elapsed() < Duration::from_mins(1), "they have waited to the end");
}
