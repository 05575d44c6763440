//! A stop while another stop is pending sets a new time for the KILL: sooner, later, or now. It also works for a run that was
//! paused, and for one whose first stop was sent to a server that has been killed since.

use serde_json::{Value, json};

use crate::support::{Place, is_alive, until, until_true};
use autoappdev::clock::Timestamp;

/// A script that reports a TERM and continues, with a line every tenth of a second.
const UNMOVED: &str = "#!/bin/bash\ntrap 'echo asked' TERM\necho ready\nwhile :; do sleep 0.1; echo on; done\n";

fn serving() -> Place {
    let place = Place::serving("unmoved.sh");
    place.script("unmoved.sh", UNMOVED);
    place
}

/// Sends a stop and waits until the shim has accepted it: then the journal contains `stops` of them.
fn stop(place: &Place, run_id: i64, grace_s: u32, stops: usize) {
    let _unanswered = place.shoot("/api/pipeline/stop", &format!(r#"{{"grace_s":{grace_s}}}"#));
    until_true("the stop is on record", || place.facts(run_id, "stopping").len() == stops);
    until_true("the stop is published", || place.pipeline()["pending"] == "stop");
}

fn unix_ms(time: &Value) -> i64 {
    serde_json::from_value::<Timestamp>(time.clone()).expect("a time").unix_ms()
}

/// Returns the time of the KILL, once it is known and fits.
fn kill_at(place: &Place, fits: impl Fn(i64) -> bool) -> i64 {
    until("the time of the KILL", || {
        let told = place.pipeline()["kill_at"].take();
        Some(told).filter(|told| !told.is_null()).map(|told| unix_ms(&told)).filter(|at| fits(*at))
    })
}

#[test]
fn second_stop_resets_kill_time_across_pause_and_restart() {
    for (is_paused, is_killed) in [(false, true), (true, false), (true, true)] {
        let mut place = serving();
        let (pid, run_id) = place.start();
        place.until_line("ready");
        if is_paused {
            place.act("pause").ok();
        }
        // With a grace that is long enough for any machine.
        stop(&place, run_id, 1200, 1);
        let first = kill_at(&place, |_| true);
        place.until_line("asked");
        if is_killed {
            place.restart_server();
            let told = place.pipeline();
            assert_eq!((&told["pending"], &told["kill_at"], &told["allowed"]), (&json!("stop"), &Value::Null, &json!(["stop"])));
        }
        stop(&place, run_id, 2400, 2);
        // The time is computed for each response, and can differ slightly.
        kill_at(&place, |at| at > first + 1_000_000);
        if is_killed {
            place.restart_server();
        }
        stop(&place, run_id, 600, 3);
        kill_at(&place, |at| at < first + 1_000_000);
        assert_eq!(place.act("pause").error(), "invalid_transition");
        assert!(is_alive(pid));
        if is_killed {
            place.restart_server();
        }
        // At once, without any grace.
        let (code, said, error) = place.client(&["stop", "--now"]);
        assert_eq!((code, error.as_str()), (0, ""), "{said}");
        let run = place.until_ended(run_id);
        assert_eq!((&run["status"], &run["signal"]), (&json!("stopped"), &json!(9)), "{run}");
        let graces: Vec<_> = place.facts(run_id, "stopping").iter().map(|fact| fact["grace_ms"].clone()).collect();
        assert_eq!(graces, [1_200_000, 2_400_000, 600_000], "a KILL at once is no grace");
        assert_eq!(place.said(run_id, "stdout").iter().filter(|line| *line == "asked").count(), 1, "only the first stop asks");
        place.assert_nothing_left(run_id);
    }
}

/// The run itself shows that the first time has passed, because it prints a line after it.
#[test]
fn longer_second_stop_postpones_kill_across_restart() {
    for is_killed in [false, true] {
        let mut place = serving();
        let (pid, run_id) = place.start();
        place.until_line("ready");
        stop(&place, run_id, 15, 1);
        let first = kill_at(&place, |_| true);
        if is_killed {
            place.restart_server();
        }
        stop(&place, run_id, 1200, 2);
        let shim = place.shim_pid(run_id);
        until_true("a line after the first time", || {
            assert!(is_alive(shim), "the run was killed at the first time");
            let last = place.get("/api/logs/tail?limit=1").ok()["lines"][0]["at"].take();
            unix_ms(&last) > first + 1_000
        });
        assert!(is_alive(pid));
        // A stop with a shorter grace takes effect without a further one.
        place.post("/api/pipeline/stop", json!({"grace_s": 0.2})).ok();
        let run = place.until_ended(run_id);
        assert_eq!((&run["status"], &run["signal"]), (&json!("stopped"), &json!(9)), "{run}");
        place.assert_nothing_left(run_id);
    }
}
