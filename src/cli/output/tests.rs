use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2026-01-31T10:03:20.000Z".parse().expect("a time")
}

/// Returns the `status` text of a running pipeline with `changes`.
fn line(changes: &Value) -> String {
    let mut pipeline = json!({
        "state": "running", "pending": null, "allowed": ["pause", "stop"], "pid": 4711, "run_id": 7,
        "started_at": "2026-01-31T10:00:00.123Z", "paused_at": null, "resumed_at": null, "stopped_at": null,
        "updated_at": "2026-01-31T10:00:00.123Z", "version": 15,
        "status": "running", "script": "demo.sh", "default_script": "demo.sh", "exit_code": null, "signal": null,
        "error": null, "conditions": [],
    });
    for (key, value) in changes.as_object().expect("an object") {
        pipeline[key] = value.clone();
    }
    status(&serde_json::from_value(pipeline).expect("the contract's shape"), now())
}

fn ended(changes: &Value) -> String {
    let mut all = json!({"state": "stopped", "pid": null, "stopped_at": "2026-01-31T10:03:15.000Z"});
    for (key, value) in changes.as_object().expect("an object") {
        all[key] = value.clone();
    }
    line(&all)
}

#[test]
fn live_run_status_is_one_line() {
    assert_eq!(line(&json!({})), "running  run 7  pid 4711  demo.sh  since 3 min 20 s (2026-01-31 10:00:00 UTC)\n");
    let paused = json!({"state": "paused", "status": "paused", "paused_at": "2026-01-31T10:03:10.000Z"});
    assert_eq!(line(&paused), "paused  run 7  pid 4711  demo.sh  since 10 s (2026-01-31 10:03:10 UTC)\n");
    let progress = json!({"percent": 5, "text": null, "at": "2026-01-31T10:03:10.000Z", "steps": [], "steps_before": 0});
    let told = line(&json!({"progress": progress}));
    assert_eq!(told, line(&json!({})) + "progress  [#-------------------]  5 %\n");
    assert_eq!(
        line(&json!({"pending": "stop"})),
        "running  run 7  pid 4711  demo.sh  since 3 min 20 s (2026-01-31 10:00:00 UTC)  (stop under way)\n"
    );
    let whose =
        line(&json!({"pending": "stop", "pending_origin": {"by": "client", "role": "operator", "address": "192.168.1.7"}}));
    assert!(whose.contains("(stop under way, asked for by a client at 192.168.1.7)"), "{whose}");
    let stopping = line(&json!({"pending": "stop", "kill_at": "2026-01-31T10:03:27.400Z"}));
    assert!(stopping.ends_with("  (stop under way, 7 s left until KILL)\n"), "{stopping}");
    let late = line(&json!({"pending": "stop", "kill_at": "2026-01-31T10:03:20.000Z"}));
    assert!(late.ends_with("  (stop under way)\n"), "{late}");
}

#[test]
fn status_before_first_run_names_configured_script() {
    let idle = json!({"state": "stopped", "status": "idle", "pid": null, "run_id": null, "started_at": null});
    assert_eq!(line(&idle), "stopped  no run yet  demo.sh\n");
}

#[test]
fn pending_start_is_shown() {
    let starting = json!({"state": "stopped", "status": "starting", "pid": null, "pending": "start", "started_at": null});
    assert_eq!(line(&starting), "stopped  run 7  demo.sh  (start under way)\n");
}

#[test]
fn each_outcome_is_described_in_words() {
    for (changes, words) in [
        (json!({"status": "completed", "exit_code": 0}), "completed"),
        (json!({"status": "failed", "exit_code": 3}), "failed with exit code 3"),
        (json!({"status": "failed", "signal": 9}), "ended by SIGKILL"),
        (json!({"status": "failed", "signal": 9, "oom_kills": 0}), "ended by SIGKILL"),
        (
            json!({"status": "failed", "signal": 9, "oom_kills": 1}),
            "ended by SIGKILL; 1 process was killed because memory ran out",
        ),
        (
            json!({"status": "completed", "exit_code": 0, "oom_kills": 2}),
            "completed; 2 processes were killed because memory ran out",
        ),
        (json!({"status": "failed", "signal": 40}), "ended by signal 40"),
        (json!({"status": "failed", "error": "exec format error"}), "did not start: exec format error"),
        (json!({"status": "failed"}), "failed"),
        (json!({"status": "stopped", "signal": 15}), "stopped on request (SIGTERM)"),
        (json!({"status": "stopped", "exit_code": 0}), "stopped on request (exit code 0)"),
        (json!({"status": "stopped"}), "stopped on request"),
        (json!({"status": "lost", "error": "the machine went down"}), "lost: the machine went down"),
        (json!({"status": "lost"}), "lost: how it ended is unknown"),
    ] {
        assert_eq!(ended(&changes), format!("stopped  run 7  demo.sh  {words}  5 s ago (2026-01-31 10:03:15 UTC)\n"));
    }
}

#[test]
fn control_characters_in_fields_are_escaped() {
    let text = line(&json!({"script": "a\u{1b}[2J\n\u{202e}\u{9b}ä.sh"}));
    assert!(text.contains("a\\u{1b}[2J\\n\\u{202e}\\u{9b}ä.sh"), "{text}");
}

#[test]
fn unknown_state_words_are_errors() {
    for changes in [json!({"state": "sleeping"}), json!({"status": "dozing"}), json!({"pending": "nap"})] {
        let mut pipeline = json!({"state": "stopped", "pending": null, "status": "idle"});
        pipeline.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
        assert!(serde_json::from_value::<Pipeline>(pipeline).is_err(), "{changes}");
    }
}

#[test]
fn clock_set_back_gives_zero_duration() {
    let later = Timestamp::from_unix_ms(now().unix_ms() + 5000);
    assert_eq!(between(later, now()), Duration::ZERO);
}

#[test]
fn action_result_has_state_run_and_pid() {
    let text = |document: Value| done(&serde_json::from_value(document).expect("the contract's shape"));
    assert_eq!(
        text(json!({"ok": true, "state": "running", "pid": 4711, "run_id": 7, "version": 15, "conditions": []})),
        "running  run 7  pid 4711\n"
    );
    assert_eq!(text(json!({"ok": true, "state": "stopped", "run_id": 7, "version": 16, "conditions": []})), "stopped  run 7\n");
}

#[test]
fn start_result_names_its_script() {
    let document = json!({"ok": true, "state": "running", "pid": 4711, "run_id": 7, "script": "a\u{1b}.sh", "version": 15, "conditions": []});
    let done: ActionResponse = serde_json::from_value(document).expect("the contract's shape");
    assert_eq!(super::done(&done), "running  run 7  pid 4711  a\\u{1b}.sh\n");
}

#[test]
fn status_names_default_script_if_it_differs() {
    let all = json!({"status": "completed", "exit_code": 0});
    let told = |script: Value| {
        let mut changes = all.clone();
        changes["default_script"] = script;
        ended(&changes).strip_prefix(&ended(&all)).expect("it stands below").to_owned()
    };
    assert_eq!(told("demo.sh".into()), "");
    assert_eq!(told("other\u{9b}.sh".into()), "start     `autoappdev start` starts other\\u{9b}.sh\n");
    assert!(told(Value::Null).starts_with("start     no script is configured: `autoappdev start NAME`"));
    assert_eq!(line(&json!({"default_script": null})), line(&json!({})), "nothing can be started now");
}

#[test]
fn status_shows_conditions_and_marks_unrecorded_state() {
    let condition = |code: &str| json!({"code": code, "since": "2026-01-31T10:03:00.000Z", "detail": "it ended\u{7}"});
    let warning = "warning: it ended\\u{7} (since 2026-01-31 10:03:00 UTC)\n";
    assert_eq!(line(&json!({"conditions": [condition("disk_full")]})), line(&json!({})) + warning);
    assert_eq!(
        line(&json!({"conditions": [condition("not_recorded"), condition("of_a_newer_version")]})),
        format!("last recorded: {}{warning}{warning}", line(&json!({})))
    );
}

#[test]
fn action_result_prints_conditions_as_warnings() {
    let condition = json!({"code": "disk_full", "since": "2026-01-31T10:03:00.000Z", "detail": "the disk is full"});
    let done: ActionResponse =
        serde_json::from_value(json!({"ok": true, "state": "stopped", "run_id": 7, "version": 1, "conditions": [condition]}))
            .expect("the shape");
    assert_eq!(warnings_of(&done.conditions), "autoappdev: warning: the disk is full (since 2026-01-31 10:03:00 UTC)\n");
    assert_eq!(super::done(&done), "stopped  run 7\n");
}

fn history() -> Vec<RunDetails> {
    let run = |id: u64, status: &str| {
        json!({
            "id": id, "status": status, "pid": 4711, "script": "demo.sh", "cwd": "/srv", "args": ["-v", "a b"],
            "created_at": "2026-01-31T10:00:00.000Z", "started_at": "2026-01-31T10:00:00.100Z", "stopped_at": null,
            "exit_code": null, "signal": null, "paused_ms": 0, "cpu_user_ms": null, "cpu_system_ms": null,
            "max_rss_kb": null, "error": null, "events": [],
        })
    };
    let mut failed = run(9, "failed");
    failed["stopped_at"] = "2026-01-31T10:00:42.100Z".into();
    failed["exit_code"] = 3.into();
    failed["started_by"] = json!({"by": "schedule"});
    failed["paused_ms"] = 2000.into();
    failed["cpu_user_ms"] = 1234.into();
    failed["cpu_system_ms"] = 50.into();
    failed["max_rss_kb"] = 2049.into();
    failed["oom_kills"] = 1.into();
    failed["events"] = json!([
        {"seq": 1, "at": "2026-01-31T10:00:00.100Z", "kind": "spawned", "from_state": "stopped", "to_state": "running",
         "cause": "request", "detail": null},
        {"seq": 2, "at": "2026-01-31T10:00:42.100Z", "kind": "stopping", "from_state": null, "to_state": null, "cause": null,
         "detail": "grace 10 s"},
    ]);
    let mut dead = run(8, "failed");
    dead["started_at"] = Value::Null;
    dead["error"] = "no such\tfile".into();
    serde_json::from_value(json!([run(10, "running"), failed, dead])).expect("the contract's shape")
}

#[test]
fn runs_are_listed_as_a_table() {
    let expected = "\
RUN  STARTED                        TOOK  SCRIPT            OUTCOME
 10  2026-01-31 10:00:00 UTC  3 min 20 s  demo.sh -v 'a b'  running
  9  2026-01-31 10:00:00 UTC        42 s  demo.sh -v 'a b'  failed with exit code 3; 1 process was killed because memory ran out
  8  -                                 -  demo.sh -v 'a b'  did not start: no such\\tfile
";
    let all: Vec<Run> = history().into_iter().map(|whole| whole.run).collect();
    assert_eq!(runs(&all, now()), expected);
    assert_eq!(runs(&[], now()), "no run yet\n");
}

#[test]
fn outcome_of_a_stopped_run_names_who_stopped_it() {
    let stopped = |by: Value| {
        let by = Origin::read_if_any(by).expect("any value will do");
        outcome(RunStatus::Stopped, None, Some(15), None, by, None)
    };
    assert_eq!(stopped(Value::Null), "stopped on request (SIGTERM)");
    assert_eq!(stopped(json!({"by": "limit"})), "stopped by a limit (SIGTERM)");
    assert_eq!(stopped(json!({"by": "shutdown"})), "stopped because the server was shut down (SIGTERM)");
    assert_eq!(stopped(json!({"by": "weather"})), "stopped by a request of unknown origin (SIGTERM)");
}

#[test]
fn run_details_show_all_known_values() {
    let expected = "\
run 9  demo.sh  failed with exit code 3; 1 process was killed because memory ran out
  folder     /srv
  arguments  [\"-v\",\"a b\"]
  pid        4711
  created    2026-01-31 10:00:00 UTC
  started    2026-01-31 10:00:00 UTC
  asked for  by the schedule
  ended      2026-01-31 10:00:42 UTC
  took       42 s
  paused     2.0 s
  CPU time   1.23 s user, 0.05 s system
  memory     3 MiB at most in one process
    1  2026-01-31T10:00:00.100Z  spawned  stopped -> running  (request)
    2  2026-01-31T10:00:42.100Z  stopping  grace 10 s
";
    assert_eq!(run(&history()[1], now()), expected);
}
