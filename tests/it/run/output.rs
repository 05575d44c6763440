//! The output of a run: all of it, in order, unchanged, until its end.

use crate::support::{Place, is_alive, until_true};
use serde_json::json;

/// Runs a script to its end. Returns the place and the run.
fn run_to_the_end(text: &str) -> (Place, i64) {
    let place = Place::serving("say.sh");
    place.script("say.sh", text);
    let (_, run_id) = place.start();
    assert_eq!(place.until_ended(run_id)["status"], "completed");
    (place, run_id)
}

#[test]
fn both_streams_are_complete_and_ordered() {
    let (place, run_id) =
        run_to_the_end("#!/bin/bash\nfor ((n = 0; n < 3000; n++)); do echo \"out $n\"; echo \"err $n\" >&2; done\n");
    for (stream, mark) in [("stdout", "out"), ("stderr", "err")] {
        let expected: Vec<String> = (0..3000).map(|n| format!("{mark} {n}")).collect();
        assert!(place.said(run_id, stream) == expected, "{stream} is not what was said");
    }
    let records = place.records();
    let ids: Vec<u64> = records.iter().map(|record| record["id"].as_u64().expect("a number")).collect();
    assert!(ids.is_sorted_by(|a, b| a < b));
    let times: Vec<&str> = records.iter().map(|record| record["ts"].as_str().expect("a time")).collect();
    assert!(times.is_sorted());
    let tail = place.get("/api/logs/tail?limit=5").ok();
    assert_eq!(tail["lines"].as_array().map(Vec::len), Some(5));
}

#[test]
fn last_line_without_newline_is_kept() {
    let (place, run_id) = run_to_the_end("#!/bin/bash\necho first\nprintf 'no end'\nprintf 'nor here' >&2\n");
    assert_eq!(place.said(run_id, "stdout"), ["first", "no end"]);
    assert_eq!(place.said(run_id, "stderr"), ["nor here"]);
    assert!(place.records().iter().all(|record| record["partial"] == false));
}

#[test]
fn very_long_line_is_reassembled() {
    let (place, run_id) = run_to_the_end(
        "#!/bin/bash\nblock=0123456789abcdef; for n in 1 2 3 4 5 6 7 8 9 10 11 12 13; do block+=$block; done\n\
         printf '%s%s\\n' \"$block\" \"$block\" \"${block:0:70000}\" short\n",
    );
    let block = "0123456789abcdef".repeat(1 << 13);
    let said = place.said(run_id, "stdout");
    assert_eq!(said.len(), 2);
    assert!(said[0] == block.repeat(2), "262144 bytes on one line, {} came back", said[0].len());
    assert!(said[1] == format!("{}short", &block[..70_000]));
}

#[test]
fn control_bytes_are_kept_and_invalid_utf_8_is_replaced() {
    let (place, run_id) = run_to_the_end(
        "#!/bin/bash\nprintf 'nul \\0 here\\n'\nprintf 'bad \\xff\\xc3\\x28 bytes\\n'\nprintf 'cr\\r ff\\f tab\\t esc\\e[1m\\n'\nprintf '\\n'\nprintf 'größer ☃\\n'\n",
    );
    assert_eq!(
        place.said(run_id, "stdout"),
        ["nul \0 here", "bad \u{fffd}\u{fffd}( bytes", "cr\r ff\x0c tab\t esc\x1b[1m", "", "größer ☃"]
    );
}

#[test]
fn last_output_is_readable_when_end_is_reported() {
    let place = Place::serving("last.sh");
    place.script("last.sh", "#!/bin/bash\nprintf 'last words of %s' \"$1\"\nprintf 'and to the other side' >&2\n");
    for n in 0..30 {
        let (_, run_id) = place.start_with(json!({"args": [n.to_string()]}));
        place.until_state("stopped");
        // At once: a client that sees the end can read everything that was printed before it.
        assert_eq!(place.said(run_id, "stdout"), [format!("last words of {n}")]);
        assert_eq!(place.said(run_id, "stderr"), ["and to the other side"]);
    }
}

#[test]
fn burst_before_exit_is_not_lost() {
    // More than a pipe can hold, so the last process exits with the pipe full.
    let (place, run_id) = run_to_the_end("#!/bin/bash\nexec seq 1 60000\n");
    let expected: Vec<String> = (1..=60_000).map(|n| n.to_string()).collect();
    assert!(place.said(run_id, "stdout") == expected);
}

#[test]
fn output_of_killed_script_is_kept() {
    let place = Place::serving("count.sh");
    let (_, run_id) = place.start();
    until_true("it has counted a bit", || place.lines().len() > 20);
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    let said = place.said(run_id, "stdout");
    let expected: Vec<String> = (0..said.len()).map(|n| format!("line {n}")).collect();
    assert_eq!(said, expected);
}

#[test]
fn output_of_child_after_leader_exit_is_kept() {
    let place = Place::serving("late.sh");
    // The child prints only once its parent has changed, which shows that the leader has ended.
    place.script(
        "late.sh",
        "#!/bin/bash\nleader=$$\n{\n  while read -r _ _ _ parent _ <\"/proc/$BASHPID/stat\" && [ \"$parent\" = $leader ]; do :; done\n\
         echo 'a late word'\n} &\necho early\n",
    );
    for _ in 0..10 {
        let (_, run_id) = place.start();
        assert_eq!(place.until_ended(run_id)["status"], "completed");
        assert_eq!(place.said(run_id, "stdout"), ["early", "a late word"]);
        place.assert_nothing_left(run_id);
    }
}

#[test]
fn child_that_holds_output_open_does_not_delay_end() {
    let place = Place::serving("holder.sh");
    place.script("holder.sh", "#!/bin/bash\nsleep 600 &\necho $!\nexit 3\n");
    let (_, run_id) = place.start();
    let run = place.until_ended(run_id);
    assert_eq!((&run["status"], &run["exit_code"]), (&json!("failed"), &json!(3)));
    place.assert_nothing_left(run_id);
    let holder = place.said(run_id, "stdout")[0].parse().expect("a pid");
    assert!(!is_alive(holder));
}

#[test]
fn pauses_lose_no_output() {
    let place = Place::serving("count.sh");
    let (_, run_id) = place.start();
    for round in 1..=5 {
        until_true("it counts", || place.lines().len() > 10 * round);
        place.act("pause").ok();
        place.assert_all_stopped();
        place.act("resume").ok();
    }
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    let said = place.said(run_id, "stdout");
    let expected: Vec<String> = (0..said.len()).map(|n| format!("line {n}")).collect();
    assert_eq!(said, expected);
}
