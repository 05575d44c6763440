//! `autoappdev logs`: which lines of which run it prints, how it follows across the end of a server, and how it ends.

use std::fs;
use std::io::BufRead;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fake_server::{FakeServer, Reply};
use crate::support::follower::{Follower, piped};
use crate::support::{Place, signal, until, until_true};
use serde_json::{Value, json};

/// A script that prints `$1` numbered lines, in bursts, and exits with 7.
const NUMBERS: &str = "#!/bin/bash\nn=0\nwhile ((n < $1)); do echo \"line $n\"; ((++n % 50)) || sleep 0.01; done\nexit 7\n";
const LOST: &str = "autoappdev: connection lost; trying again";
const BACK: &str = "autoappdev: the server answers again";

fn numbers(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|n| format!("line {n}")).collect()
}

fn text(lines: &[String]) -> String {
    if lines.is_empty() { String::new() } else { lines.join("\n") + "\n" }
}

/// Starts a run that prints `lines` lines, and waits for its end.
fn ended_run(place: &Place, lines: usize) -> i64 {
    let (_, run_id) = place.start_with(json!({"script": "numbers.sh", "args": [lines.to_string()]}));
    place.until_settled(run_id);
    until_true("its log is closed", || !place.get(&format!("/api/logs?run={run_id}&limit=1")).ok()["end"].is_null());
    run_id
}

fn place() -> Place {
    let mut place = Place::new();
    place.script("numbers.sh", NUMBERS);
    place.start_server();
    place
}

/// Returns a page of a log, with default values for everything else.
fn page(next: u64, lines: &[&str]) -> Value {
    let lines: Vec<Value> = lines
        .iter()
        .zip(1..)
        .map(|(line, id)| {
            json!({"id": id, "at": "2026-01-31T10:00:00.123Z", "source": "pipeline", "stream": "stdout", "run_id": 7, "line": line,
                "partial": false})
        })
        .collect();
    json!({"source": "pipeline", "since": 0, "next": next, "first": 0, "gone": 0, "lines": lines})
}

/// Runs the command in this place against this server.
fn against(place: &Place, server: &FakeServer, args: &[&str]) -> (i32, String, String) {
    place.client(&[&["--url", server.url().as_str()], args].concat())
}

#[test]
fn logs_follow_of_run_survives_three_kills_and_ends_with_run() {
    let mut place = place();
    // A script that prints until a file `go` exists.
    place.script("on.sh", "#!/bin/bash\nn=0\nuntil [ -e go ]; do echo \"line $n\"; ((++n % 50)) || sleep 0.005; done\nexit 7\n");
    let (_, run_id) = place.start_with(json!({"script": "on.sh"}));
    let run = run_id.to_string();
    let mut follower = Follower::start(place.command(), &["logs", "-f", "--run", &run, "-n", "all", "--no-timestamps"]);
    assert_eq!(follower.next(), "line 0");
    for _ in 0..3 {
        place.kill_server();
        assert_eq!(follower.warning(), LOST);
        place.start_server();
        assert_eq!(follower.warning(), BACK);
    }
    fs::write(place.root().join("go"), "").expect("writes");
    let (code, rest, warnings) = follower.end();
    assert_eq!((code, warnings), (Some(0), vec![]), "the run failed, the following did not");
    let printed = place.lines().len();
    assert_eq!(rest.len(), printed - 1);
    assert!(rest == numbers(1, printed), "each line once and in order");
    assert_eq!(place.run(run_id)["status"], "failed");
}

#[test]
fn logs_follow_of_ended_run_ends_at_once() {
    let place = place();
    let first = ended_run(&place, 30);
    place.start_with(json!({"script": "sleep.sh"}));
    place.until_line("ready");
    let run = first.to_string();
    for (args, expected) in [
        (&["-f", "--run", &run][..], numbers(0, 30)),
        (&["-f", "--run", &run, "-n", "5"], numbers(25, 30)),
        (&["-f", "--run", &run, "-n", "0"], vec![]),
        (&["-f", "--run", &run, "--since", "1d"], numbers(0, 30)),
        (&["-f", "--run", &run, "--grep", "line 2"], [numbers(2, 3), numbers(20, 30)].concat()),
    ] {
        let mut follower = Follower::start(place.command(), &[&["logs", "--no-timestamps"], args].concat());
        assert_eq!(follower.end(), (Some(0), expected, vec![]), "{args:?}");
    }
}

#[test]
fn logs_of_run_prints_last_or_all_lines() {
    let place = place();
    let first = ended_run(&place, 2500).to_string();
    let second = ended_run(&place, 3).to_string();
    let shown = |args: &[&str]| {
        let (code, out, err) = place.client(&[&["logs", "--no-timestamps"], args].concat());
        assert_eq!((code, err.as_str()), (0, ""), "{args:?}");
        out
    };
    assert_eq!(shown(&["--run", &first]), text(&numbers(2300, 2500)));
    assert_eq!(shown(&["--run", &first, "--lines", "all"]), text(&numbers(0, 2500)));
    assert_eq!(shown(&["--run", &second]), text(&numbers(0, 3)));
    assert_eq!(shown(&["--run", &second, "-n", "1"]), "line 2\n");
    assert_eq!(shown(&["-n", "4"]), text(&[numbers(2499, 2500), numbers(0, 3)].concat()));
    assert_eq!(shown(&["-n", "all"]), text(&[numbers(0, 2500), numbers(0, 3)].concat()));
    // One JSON document a line, each as the API sends it.
    let documents: Vec<Value> = place
        .client(&["logs", "--run", &first, "-n", "all", "--json"])
        .1
        .lines()
        .map(|document| serde_json::from_str(document).expect("JSON"))
        .collect();
    let count = documents.iter().map(|document| document["lines"].as_array().expect("a list").len()).sum::<usize>();
    assert!(documents.len() > 1 && count == 2500, "{} documents with {count} lines", documents.len());
    let (code, out, err) = place.client(&["logs", "--run", "4711"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("4711") && err.lines().count() == 1, "{err}");
}

#[test]
fn logs_grep_searches_whole_log() {
    let place = Place::serving("long.sh");
    // Too much for one response to search, with one matching line at the beginning and one at the end.
    place.script(
        "long.sh",
        "#!/bin/bash\necho 'needle & 100% ä first'\nhead -c 18000000 /dev/zero | tr '\\0' x | fold -w 999\necho\n\
         echo 'needle & 100% ä last'\n",
    );
    let (_, run_id) = place.start();
    place.until_settled(run_id);
    let both = "needle & 100% ä first\nneedle & 100% ä last\n";
    let shown = |args: &[&str]| {
        let (code, out, err) = place.client(&[&["logs", "--no-timestamps", "--grep", "needle & 100% ä"], args].concat());
        assert_eq!((code, err.as_str()), (0, ""), "{args:?}");
        out
    };
    assert_eq!(shown(&[]), both);
    assert_eq!(shown(&["-n", "5"]), both);
    assert_eq!(shown(&["-n", "2"]), both);
    assert_eq!(shown(&["-n", "1"]), "needle & 100% ä last\n");
    assert_eq!(shown(&["--since", "1h"]), both);
    assert_eq!(shown(&["--run", &run_id.to_string(), "-n", "2"]), both);
    assert_eq!(place.client(&["logs", "--grep", "Needle"]), (0, String::new(), String::new()), "capitals count");
    let follower = Follower::start(place.command(), &["logs", "-f", "--no-timestamps", "--grep", "first"]);
    assert_eq!(follower.next(), "needle & 100% ä first");
    place.start();
    assert_eq!(follower.next(), "needle & 100% ä first");
}

#[test]
fn logs_of_stream_prints_last_or_all_lines() {
    let place = Place::serving("both.sh");
    place.script(
        "both.sh",
        "#!/bin/bash\nfor n in {1..300}; do echo out; done\nprintf 'a part' >&2\nsleep 1\necho ' and the rest' >&2\necho out\n",
    );
    let (_, run_id) = place.start();
    place.until_settled(run_id);
    let shown = |args: &[&str]| place.client(&[&["logs", "--no-timestamps", "--stream"], args].concat());
    assert_eq!(shown(&["stderr"]), (0, "a part and the rest\n".to_owned(), String::new()), "parts are put together");
    assert_eq!(shown(&["stdout"]).1, "out\n".repeat(200));
    assert_eq!(shown(&["stdout", "-n", "all", "--run", "1"]).1, "out\n".repeat(301));
    assert_eq!(shown(&["stderr", "--grep", "out"]).1, "");
}

#[test]
fn partial_lines_found_by_grep_are_not_joined() {
    let place = Place::new();
    let server = FakeServer::start(|_| {
        let mut page = page(500, &["50% x", "70% x"]);
        page["searched_all"] = json!(true);
        for line in page["lines"].as_array_mut().expect("a list") {
            // The response does not contain what came between them.
            line["partial"] = json!(true);
        }
        Reply::Json(200, page.to_string())
    });
    assert_eq!(against(&place, &server, &["logs", "--no-timestamps", "--grep", "x"]).1, "50% x\n70% x\n");
    assert_eq!(against(&place, &server, &["logs", "--no-timestamps"]).1, "50% x70% x\n");
}

#[test]
fn since_starts_at_first_line_of_given_time() {
    let place = Place::serving("slow.sh");
    place.script("slow.sh", "#!/bin/bash\nfor n in {0..39}; do echo \"line $n\"; sleep 0.01; done\n");
    let (_, run_id) = place.start();
    place.until_settled(run_id);
    let lines = place.get("/api/logs").ok()["lines"].take();
    let lines = lines.as_array().expect("a list");
    assert_eq!(lines.len(), 40);
    let moment = lines[25]["ts"].as_str().expect("a time");
    let first = lines.iter().position(|line| line["ts"] == moment).expect("it is there");
    let shown = |args: &[&str]| place.client(&[&["logs", "--no-timestamps"], args].concat());
    let expected = (0, text(&numbers(first, 40)), String::new());
    assert_eq!(shown(&["--since", moment]), expected);
    assert_eq!(shown(&["--since", &moment.replace('Z', "+00:00")]), expected);
    assert_eq!(shown(&["--since", moment, "-n", "3"]), (0, text(&numbers(37, 40)), String::new()));
    assert_eq!(shown(&["--since", "1h"]), (0, text(&numbers(0, 40)), String::new()));
    assert_eq!(shown(&["--since", "0001-01-01T00:00:00Z"]).1, text(&numbers(0, 40)));
    // From a time after the last line on: none of the old lines, and all new ones.
    let last = lines[39]["ts"].as_str().expect("a time");
    until_true("that moment is over", || place.get("/api/health").ok()["db"]["time"].as_str().is_some_and(|now| now > last));
    let now = place.get("/api/health").ok()["db"]["time"].as_str().expect("a time").to_owned();
    assert_eq!(shown(&["--since", &now]), (0, String::new(), String::new()));
    let follower = Follower::start(place.command(), &["logs", "-f", "--no-timestamps", "--since", &now]);
    place.start();
    assert_eq!(follower.next(), "line 0");
}

#[test]
fn since_duration_counts_by_server_clock() {
    let place = Place::new();
    let server = FakeServer::start(|_| Reply::At("Sat, 31 Jan 2026 10:00:00 GMT", page(500, &[]).to_string()));
    let (code, out, err) = against(&place, &server, &["logs", "--since", "10m"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""));
    assert!(server.requests()[1].line.contains("&at=2026-01-31T09:50:00.000Z&"), "{:?}", server.requests());
    let (code, out, err) = against(&place, &server, &["logs", "--since", "2026-01-31T10:00:02Z"]);
    let sentence =
        "autoappdev: --since 2026-01-31T10:00:02.000Z is in the future: the server's clock shows 2026-01-31T10:00:00.000Z\n";
    assert_eq!((code, out.as_str(), err.as_str()), (2, "", sentence));
}

#[test]
fn since_without_zone_is_local_time() {
    const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
    let place = Place::new();
    let server = FakeServer::start(|_| Reply::At("Sat, 31 Jan 2026 10:00:00 GMT", page(500, &[]).to_string()));
    let shown = |zone: &str, since: &str| {
        let url = server.url();
        let mut command = place.command();
        let output = command.args(["--url", &url, "logs", "--since", since]).env("TZ", zone).output().expect("the binary runs");
        let at = server.requests().last().and_then(|asked| Some(asked.line.split("&at=").nth(1)?.split('&').next()?.to_owned()));
        (output.status.code(), String::from_utf8(output.stderr).expect("text"), at)
    };
    for (zone, since, at) in [
        (BERLIN, "08:15", "2026-01-31T07:15:00.000Z"),
        (BERLIN, "today", "2026-01-30T23:00:00.000Z"),
        (BERLIN, "yesterday", "2026-01-29T23:00:00.000Z"),
        (BERLIN, "yesterday 14:00", "2026-01-30T13:00:00.000Z"),
        (BERLIN, "2025-10-26 02:30", "2025-10-26T00:30:00.000Z"),
        (BERLIN, "2025-03-30 02:30", "2025-03-30T01:00:00.000Z"),
        ("", "2025-10-26 02:30", "2025-10-26T02:30:00.000Z"),
        // At that time it is 23:00 in Samoa.
        ("WST-13", "today", "2026-01-30T11:00:00.000Z"),
        (BERLIN, "1h30m", "2026-01-31T08:30:00.000Z"),
        ("Nowhere/Here", "1h30m", "2026-01-31T08:30:00.000Z"),
        ("Nowhere/Here", "2026-01-31 08:00 UTC", "2026-01-31T08:00:00.000Z"),
    ] {
        assert_eq!(shown(zone, since), (Some(0), String::new(), Some(at.to_owned())), "{zone} {since}");
    }
    let (code, err, _) = shown(BERLIN, "14:00");
    let sentence = "autoappdev: --since 2026-01-31T13:00:00.000Z is in the future: the server's clock shows 2026-01-31T10:00:00.000Z; \
        for the previous day use `yesterday` and the time\n";
    assert_eq!((code, err.as_str()), (Some(2), sentence));
    let (code, err, _) = shown("Nowhere/Here", "14:00");
    assert_eq!(code, Some(2));
    assert!(err.starts_with("autoappdev: --since: TZ=\"Nowhere/Here\" is not a time zone that this machine knows"), "{err}");
}

#[test]
fn logs_follow_waits_for_first_run() {
    let place = Place::serving("sleep.sh");
    let mut follower = Follower::start(place.command(), &["logs", "-f"]);
    place.start();
    assert!(follower.next().ends_with("Z stdout ready"));
    signal(follower.child.id(), "INT");
    assert_eq!(follower.end(), (Some(0), vec![], vec![]), "Ctrl-C ends it well");
}

#[test]
fn closed_output_ends_waiting_logs_follow() {
    let place = Place::serving("sleep.sh");
    place.start();
    place.until_line("ready");
    for args in [&["logs", "-f"][..], &["logs", "-f", "--json"], &["logs", "-f", "--source", "backend", "-n", "1"]] {
        let (mut child, mut out) = piped(place.command(), args);
        out.read_line(&mut String::new()).expect("a line");
        drop(out);
        let code = until("it ends", || child.try_wait().expect("ours")).code();
        assert_eq!(code, Some(0), "{args:?}");
    }
    // The command also ends while no server is running.
    let mut place = place;
    let (mut child, mut out) = piped(place.command(), &["logs", "-f"]);
    out.read_line(&mut String::new()).expect("a line");
    place.kill_server();
    drop(out);
    assert_eq!(until("it ends", || child.try_wait().expect("ours")).code(), Some(0));
}

#[test]
fn invalid_logs_arguments_exit_with_2() {
    let place = Place::new();
    let long = "x".repeat(201);
    for (args, sentence) in [
        (&["--lines", "5001"][..], "a number from 0 to 5000 is expected, or all"),
        (&["--lines", "many"], "a number from 0 to 5000 is expected, or all"),
        (&["--since", "tomorrow"], "give a duration (90s, 1h30m, 3 days), a time of today (14:00, 08:15:09), today, yesterday, "),
        (&["--since", "2026-02-30"], "give a duration (90s"),
        (&["--since", "10"], "give a duration (90s"),
        (&["--since", ""], "--since"),
        (&["--grep", ""], "leave --grep out"),
        (&["--grep", &long], "longer than 200 bytes"),
        (&["--grep", "a\nb"], "line break"),
        (&["--run", "0"], "--run"),
        (&["--run", "latest"], "--run"),
        (&["--run", "1", "--source", "backend"], "--run is for the pipeline's lines"),
        (&["--stream", "stderr", "--source", "backend"], "--stream is for the pipeline's lines"),
        (&["--stream", "both"], "[possible values: stdout, stderr]"),
        (&["--timestamps", "--no-timestamps"], "cannot be used with"),
        (&["extra"], "unexpected argument"),
    ] {
        let (code, out, err) = place.client(&[&["logs"], args].concat());
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
        assert!(err.contains(sentence), "{args:?}: {err}");
    }
    // A text that looks like a flag can be searched for.
    let server = FakeServer::start(|_| {
        let mut page = page(500, &["-x"]);
        page["searched_all"] = json!(true);
        Reply::Json(200, page.to_string())
    });
    assert_eq!(against(&place, &server, &["logs", "--no-timestamps", "--grep", "-x"]).1, "-x\n");
    assert!(server.requests()[1].line.ends_with("&grep=-x"));
}

#[test]
fn filter_unknown_to_server_is_an_error() {
    let place = Place::new();
    let server = FakeServer::start(|_| Reply::Json(200, page(500, &["a line of any run, of any time"]).to_string()));
    for (args, word) in [
        (&["--run", "7"][..], "--run"),
        (&["-f", "--run", "7"], "--run"),
        (&["--grep", "x"], "--grep"),
        (&["--stream", "stderr"], "--stream"),
        (&["--since", "2026-01-31T10:00:01Z"], "--since"),
    ] {
        let (code, out, err) = against(&place, &server, &[&["logs"], args].concat());
        assert_eq!((code, out.as_str()), (1, ""), "{args:?}");
        assert!(err.starts_with(&format!("autoappdev: the server does not know {word} yet: ")), "{err}");
    }
}

#[test]
fn missing_bytes_are_reported_on_stderr() {
    let place = Place::new();
    let server = FakeServer::start(|request| {
        let mut page = if request.line.contains("since=0") { page(200, &["behind"]) } else { page(200, &[]) };
        if request.line.contains("since=0") {
            page["gone"] = json!(12_345);
        }
        Reply::Json(200, page.to_string())
    });
    let sentence = "autoappdev: 12345 bytes of the log before this line are missing\n";
    let (code, out, err) = against(&place, &server, &["logs", "-n", "all", "--no-timestamps"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "behind\n", sentence));
    let (code, out, err) = against(&place, &server, &["logs", "-n", "all", "--json"]);
    assert_eq!((code, out.lines().count(), err.as_str()), (0, 1, sentence));
}

#[test]
fn logs_follow_continues_with_new_lines_of_replaced_log() {
    let mut place = Place::serving("exit.sh");
    for _ in 0..3 {
        let (_, run_id) = place.start();
        place.until_settled(run_id);
    }
    let mut follower = Follower::start(place.command(), &["logs", "-f", "--no-timestamps"]);
    for _ in 0..3 {
        assert_eq!(follower.next(), "ready");
    }
    let mut of_run = Follower::start(place.command(), &["logs", "-f", "--run", "3", "--no-timestamps"]);
    assert_eq!(of_run.end(), (Some(0), vec!["ready".to_owned()], vec![]));
    place.kill_server();
    assert_eq!(follower.warning(), LOST);
    fs::remove_dir_all(place.runtime()).expect("ours");
    place.start_server();
    assert_eq!(follower.warning(), BACK);
    assert_eq!(follower.warning(), "autoappdev: the server's log was replaced; continuing with new lines");
    place.start_with(json!({"script": "sleep.sh"}));
    assert_eq!(follower.next(), "ready", "though its id is one that was there before");
    signal(follower.child.id(), "INT");
    assert_eq!(follower.end(), (Some(0), vec![], vec![]));
}

#[test]
fn logs_follow_retries_transient_401_after_reconnect() {
    let place = Place::new();
    let asked = AtomicUsize::new(0);
    let server = FakeServer::start(move |request| {
        let refusal = |code, word: &str| Reply::Json(code, json!({"ok": false, "error": word, "detail": word}).to_string());
        match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Reply::Json(200, page(100, &["one"]).to_string()),
            1 => Reply::Nothing,
            2 | 3 => refusal(401, "unauthorized"),
            4 if request.line.contains("since=100") => Reply::Json(200, page(200, &["two"]).to_string()),
            5 => Reply::Json(200, page(200, &["two"]).to_string()),
            6 => refusal(503, "no room to say it"),
            7 => Reply::Json(200, page(300, &["three"]).to_string()),
            8 => Reply::Json(200, page(300, &["three"]).to_string()),
            // This refusal does not follow a lost connection, so the token is wrong.
            _ => refusal(401, "unauthorized"),
        }
    });
    let mut follower = Follower::start(place.command(), &["--url", &server.url(), "logs", "-f", "--no-timestamps"]);
    let (code, lines, warnings) = follower.end();
    assert_eq!((code, lines), (Some(1), ["one", "two", "three"].map(str::to_owned).to_vec()));
    let expected = [LOST, BACK, "autoappdev: no room to say it; trying again", BACK, "autoappdev: unauthorized"];
    assert_eq!(warnings, expected);
    let waits: Vec<bool> = server.requests().iter().map(|request| request.line.contains("&wait=30")).collect();
    // The first request for each new page waits for a line. A request that is repeated after a failure does not wait.
    assert_eq!(waits, [false, true, false, false, false, false, true, false, false, true]);
}

#[test]
fn client_retries_server_that_accepts_and_does_not_respond() {
    let place = Place::new();
    let asked = AtomicUsize::new(0);
    let server = FakeServer::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Nothing,
        1 => Reply::Json(503, json!({"ok": false, "error": "too_many_reads"}).to_string()),
        _ => Reply::Json(200, page(100, &["one"]).to_string()),
    });
    let answer = against(&place, &server, &["logs", "--no-timestamps"]);
    assert_eq!(answer, (0, "one\n".to_owned(), format!("{LOST}\n{BACK}\n")));
    let server = FakeServer::start(|request| {
        if request.line.contains("tail") {
            return Reply::Json(200, page(500, &[]).to_string());
        }
        if request.line.contains("since=0") { Reply::Json(200, page(100, &["one"]).to_string()) } else { Reply::Nothing }
    });
    let (code, out, err) = against(&place, &server, &["logs", "-n", "all", "--no-timestamps"]);
    assert_eq!((code, out.as_str()), (4, "one\n"), "it does not wait for ever in the middle of what is there");
    assert!(err.starts_with(LOST) && err.contains("was cut off"), "{err}");
}
