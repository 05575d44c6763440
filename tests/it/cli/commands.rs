//! The client commands against the real server: what they print, how they exit, and that a follower survives the kill of its
//! server.

use std::fs;
use std::io::Write;

use crate::support::follower::Follower;
use crate::support::{Place, signal, until_true};
use serde_json::{Value, json};

fn json_of(text: &str) -> Value {
    assert_eq!(text.matches('\n').count(), 1, "one document, one line: {text:?}");
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
}

#[test]
fn commands_control_a_run_from_start_to_stop() {
    let place = Place::serving("sleep.sh");
    let ok = |args: &[&str]| {
        let (code, out, err) = place.client(args);
        assert_eq!((code, err.as_str()), (0, ""), "{args:?}: {out}");
        out
    };
    let refused = |action: &str, state: &str| {
        let sentence = format!("autoappdev: cannot {action} when {state}\n");
        assert_eq!(place.client(&[action]), (3, String::new(), sentence.clone()));
        let (code, out, err) = place.client(&[action, "--json"]);
        assert_eq!((code, json_of(&out)["error"].as_str(), err), (3, Some("invalid_transition"), sentence));
    };
    assert_eq!(ok(&["status"]), "stopped  no run yet  sleep.sh\n");
    assert_eq!(ok(&["runs"]), "no run yet\n");
    assert_eq!(ok(&["logs"]), "");
    for action in ["pause", "resume", "stop"] {
        refused(action, "stopped");
    }
    let started = ok(&["start"]);
    let pid = place.pipeline()["pid"].to_string();
    assert_eq!(started, format!("running  run 1  pid {pid}  sleep.sh\n"));
    assert!(ok(&["status"]).starts_with(&format!("running  run 1  pid {pid}  sleep.sh  since ")));
    refused("start", "running");
    refused("resume", "running");
    assert_eq!(ok(&["pause"]), "paused  run 1\n");
    refused("pause", "paused");
    assert_eq!(json_of(&ok(&["status", "--json"])), place.get("/api/pipeline").ok());
    assert_eq!(json_of(&ok(&["resume", "--json"]))["state"], "running");
    place.until_line("ready");
    assert_eq!(ok(&["logs", "--no-timestamps"]), "ready\n");
    assert!(ok(&["logs", "-n", "1"]).ends_with("Z stdout ready\n"));
    assert_eq!(json_of(&ok(&["logs", "--json"])), place.get("/api/logs/tail?limit=200").ok());
    assert_eq!(ok(&["stop", "--now"]), "stopped  run 1\n");
    assert!(ok(&["status"]).starts_with("stopped  run 1  sleep.sh  stopped on request (SIG"));
    let runs = ok(&["runs"]);
    assert!(runs.lines().count() == 2 && runs.contains("sleep.sh  stopped by a client with user id "), "{runs}");
    assert!(ok(&["runs", "1"]).contains("spawned  stopped -> running  (request)"));
    assert_eq!(json_of(&ok(&["runs", "--json"])), place.get("/api/runs?limit=20").ok());
    assert!(ok(&["logs", "--source", "backend"]).contains("listening on"));
}

#[test]
fn each_kind_of_failure_has_its_exit_code() {
    let mut place = Place::new();
    place.start_server();
    place.script("broken.sh", "echo a text with an execute bit and nothing that runs it\n");
    // 1: the server refuses for a reason other than the state.
    for (args, word) in [
        (&["start", "nowhere.sh"][..], "script_not_found"),
        (&["start", "../x"], "script_outside_root"),
        (&["start"], "invalid_script"),
        (&["start", "sleep.sh", "--cwd", "nowhere"], "invalid_body"),
        (&["start", "sleep.sh", "--env", "AUTOAPPDEV_X=1"], "invalid_body"),
        (&["start", "broken.sh"], "spawn_failed"),
        (&["runs", "4711"], "not_found"),
    ] {
        let (code, out, err) = place.client(args);
        assert_eq!((code, out.as_str()), (1, ""), "{args:?}: {err}");
        assert!(err.starts_with("autoappdev: ") && err.lines().count() == 1, "{err}");
        let (code, out, _) = place.client(&[args, &["--json"]].concat());
        assert_eq!((code, json_of(&out)["error"].as_str()), (1, Some(word)), "{args:?}");
    }
    // 2: wrong usage sends nothing to the server.
    let before = place.footprint();
    for args in [
        &["start", "a", "b"][..],
        &["stop", "--grace", "x"],
        &["logs", "-n", "5001"],
        &["--url", "ftp://x", "status"],
        &["nonsense"],
    ] {
        let (code, out, err) = place.client(args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
    }
    assert_eq!(place.footprint(), before);
    // 4: no server is running, or the server has ended.
    place.start_with(json!({"script": "sleep.sh"}));
    for how in ["killed", "stopped"] {
        if how == "killed" {
            place.kill_server();
        } else {
            place.start_server();
            assert_eq!(place.stop_server(), 0);
        }
        for args in [&["status"][..], &["stop"], &["logs", "-f"], &["runs", "--json"]] {
            let (code, out, err) = place.client(args);
            assert_eq!((code, out.as_str()), (4, ""), "{args:?} with a {how} server: {err}");
            assert!(err.contains("no server is running for ") && err.contains("`autoappdev serve`"), "{err}");
        }
    }
    // Once a server runs again, everything is as before.
    place.start_server();
    assert!(place.client(&["status"]).1.starts_with("running  run "), "the pipeline went on");
}

#[test]
fn start_and_status_name_the_running_and_the_next_script() {
    let mut place = Place::serving("sleep.sh");
    let ok = |place: &Place, args: &[&str]| {
        let (code, out, err) = place.client(args);
        assert_eq!((code, err.as_str()), (0, ""), "{args:?}: {out}");
        out
    };
    assert!(ok(&place, &["start", "exit.sh"]).ends_with("  exit.sh\n"));
    place.until_state("stopped");
    assert_eq!(place.pipeline()["default_script"], "sleep.sh");
    let status = ok(&place, &["status"]);
    assert!(status.contains("  exit.sh  ") && status.ends_with("\nstart     `autoappdev start` starts sleep.sh\n"), "{status}");
    assert!(ok(&place, &["start"]).ends_with("  sleep.sh\n"));
    assert_eq!(ok(&place, &["status"]).lines().count(), 1, "what runs is what a start would start");
    ok(&place, &["stop", "--now"]);
    place.stop_server();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "");
    place.start_server();
    assert_eq!(place.pipeline()["default_script"], Value::Null);
    assert!(ok(&place, &["status"]).contains("\nstart     no script is configured: `autoappdev start NAME`"));
}

#[test]
fn pending_stop_shows_the_remaining_grace() {
    let place = Place::serving("stubborn.sh");
    place.script("stubborn.sh", "#!/bin/bash\ntrap '' TERM\necho ready\nwhile :; do sleep 0.2; done\n");
    place.start();
    place.until_line("ready");
    std::thread::scope(|scope| {
        scope.spawn(|| place.post("/api/pipeline/stop", json!({"grace_s": 3600})));
        until_true("the stop is under way", || place.pipeline()["pending"] == "stop");
        let seconds = |place: &Place| {
            let kill_at: autoappdev::clock::Timestamp =
                serde_json::from_value(place.pipeline()["kill_at"].clone()).expect("a time");
            let updated_at: autoappdev::clock::Timestamp =
                serde_json::from_value(place.pipeline()["updated_at"].clone()).expect("a time");
            (kill_at.unix_ms() - updated_at.unix_ms()) / 1000
        };
        assert!((3500..=3601).contains(&seconds(&place)), "{}", seconds(&place));
        let (_, out, _) = place.client(&["status"]);
        assert!(out.contains("(stop under way, ") && out.ends_with(" left until KILL)\n"), "{out}");
        // A second stop with a shorter grace moves `kill_at` to an earlier time.
        scope.spawn(|| place.post("/api/pipeline/stop", json!({"grace_s": 1800})));
        until_true("it is sooner", || seconds(&place) < 1900);
        place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    });
    assert_eq!(place.pipeline()["kill_at"], Value::Null);
}

#[test]
fn script_receives_arguments_unchanged() {
    let place = Place::serving("show.sh");
    place.script("show.sh", "#!/bin/bash\nprintf '<%s>' \"$@\" \"$COLOUR\" \"$PWD\"\necho\n");
    fs::create_dir(place.root().join("a folder")).expect("creates");
    let (code, _, err) = place.client(&[
        "start",
        "--cwd",
        "a folder",
        "--env",
        "COLOUR=a=b c",
        "--",
        "-v",
        "",
        "a b",
        "*",
        "$HOME",
        "ä\n\\",
        "--json",
    ]);
    assert_eq!(code, 0, "{err}");
    place.until_state("stopped");
    let folder = place.root().canonicalize().expect("there").join("a folder");
    let expected = format!("<-v><><a b><*><$HOME><ä\n\\><--json><a=b c><{}>\n", folder.display());
    until_true("all of it is told", || place.client(&["logs", "--no-timestamps"]).1 == expected);
}

#[test]
fn dotenv_entries_other_than_own_settings_are_ignored() {
    let mut place = Place::new();
    let dotenv = place.folder().join(".env");
    let text =
        b"# Jos\xe9's project\nDATABASE_URL=postgres://me:secret@localhost/project\nPORT=/dev/ttyUSB0\nset -a\nNAME=Jos\xe9\n\
        KEY=\"-----BEGIN KEY-----\nAUTOAPPDEV_GRACE_S=wrong\n-----END KEY-----\"\nexport NAME\n\
        export AUTOAPPDEV_PIPELINE_SCRIPT='sleep.sh' # ours\n";
    fs::write(&dotenv, text).expect("writes");
    place.start_server();
    assert_eq!(place.pipeline()["script"], "sleep.sh");
    for command in ["status", "start", "pause", "resume", "stop", "logs", "runs", "migrate", "check"] {
        let (code, _, err) = place.client(&[command]);
        assert_eq!((code, err.as_str()), (0, ""), "{command}");
    }
    let log = place.server_log();
    assert!(log.contains("DATABASE_URL in .env is not used") && !log.contains("secret"), "{log}");
    assert!(place.database().exists());
    // Python's virtual environments may have that name.
    fs::remove_file(&dotenv).expect("there");
    fs::create_dir(&dotenv).expect("creates");
    assert_eq!(place.client(&["status"]).0, 0);
    fs::remove_dir(&dotenv).expect("there");
    // A malformed line for one of the server's settings is an error for every command.
    for line in ["AUTOAPPDEV_PORT", "AUTOAPPDEV_RUNTIME_DIR='runtime"] {
        fs::write(&dotenv, format!("KEY='a\nb'\n{line}\n")).expect("writes");
        for command in ["status", "serve", "check"] {
            let (code, _, err) = place.client(&[command]);
            assert!(code == 2 && err.starts_with("autoappdev: line 3 of .env "), "{command}: {err}");
        }
    }
}

#[test]
fn logs_follow_prints_each_line_once_across_server_kills() {
    let mut place = Place::serving("count.sh");
    place.start();
    place.until_line("line 0");
    let mut follower = Follower::start(place.command(), &["logs", "-f", "-n", "5000", "--no-timestamps"]);
    let mut read = 0;
    let mut follow = |until: usize| {
        while read < until {
            assert_eq!(follower.next(), format!("line {read}"));
            read += 1;
        }
    };
    follow(20);
    for _ in 0..4 {
        // The script continues to count while no server runs. The port changes each time.
        place.kill_server();
        assert_eq!(follower.warning(), "autoappdev: connection lost; trying again");
        place.start_server();
        // More lines than the previous server can have sent, so that the new one must send some of them.
        follow(place.lines().len() + 20);
        assert_eq!(follower.warning(), "autoappdev: the server answers again");
    }
    place.act("stop").ok();
    let all = place.lines();
    follow(all.len());
    assert_eq!(all.last(), Some(&format!("line {}", all.len() - 1)));
    signal(follower.child.id(), "INT");
    assert_eq!(follower.end(), (Some(0), vec![], vec![]), "Ctrl-C ends it well, and nothing more was said");
}

#[test]
fn damaged_log_line_is_shown_and_does_not_end_logs() {
    let place = Place::serving("exit.sh");
    let (_, run_id) = place.start();
    place.until_settled(run_id);
    let segments = fs::read_dir(place.run_dir(run_id).join("log")).expect("there").map(|entry| entry.expect("there").path());
    let last = segments.max().expect("a segment");
    // A torn line, as after a kill in the middle of a write or on a failing disk.
    fs::OpenOptions::new().append(true).open(&last).expect("ours").write_all(b"torn \xff\n2026-01").expect("writes");
    place.start();
    let run_2 =
        |place: &Place| place.get("/api/logs").ok()["lines"].as_array().expect("a list").iter().any(|it| it["run_id"] == 2);
    until_true("the next run has spoken", || run_2(&place));
    let lines = place.get("/api/logs").ok()["lines"].take();
    let damaged = lines.as_array().expect("a list").iter().filter(|line| line["ts"].is_null()).count();
    assert_eq!(damaged, 2, "{lines}");
    let shown = (0, "ready\ntorn \u{fffd}\n2026-01\nready\n".to_owned(), String::new());
    assert_eq!(place.client(&["logs", "--no-timestamps"]), shown);
    let (code, out, err) = place.client(&["logs"]);
    assert_eq!((code, out.lines().count(), err.as_str()), (0, 4, ""), "{out}");
    let follower = Follower::start(place.command(), &["logs", "-f", "--no-timestamps"]);
    assert_eq!([follower.next(), follower.next(), follower.next(), follower.next()].join("\n") + "\n", shown.1);
}
