//! The demo pipeline of `make run`, which is the first thing that a new user sees.

use serde_json::{Value, json};

use crate::support::Place;

/// Runs the demo as fast as it can. Returns its run and everything that it printed.
fn play(place: &Place, args: &[&str]) -> (Value, String) {
    let (_, run_id) = place.start_with(json!({"script": "demo.sh", "args": args, "env": {"DEMO_SPEED": "100"}}));
    place.until_ended(run_id);
    let run = place.get(&format!("/api/runs/{run_id}")).ok()["run"].clone();
    let (_, printed, _) = place.client(&["logs", "--no-timestamps", "--lines", "all", "--run", &run_id.to_string()]);
    (run, printed)
}

fn steps(run: &Value) -> Vec<&str> {
    let steps = run["progress"]["steps"].as_array().expect("a list");
    steps.iter().map(|step| step["name"].as_str().expect("a name")).collect()
}

#[test]
fn demo_succeeds_after_four_steps_or_fails_in_its_third() {
    let place = Place::serving("demo.sh");
    place.script("demo.sh", include_str!("../../../examples/demo.sh"));
    let all = ["Fetch dependencies", "Compile", "Run tests", "Package"];
    let (run, printed) = play(&place, &[]);
    assert_eq!((&run["exit_code"], &run["progress"]["percent"]), (&json!(0), &json!(100)), "{run} {printed}");
    assert_eq!(steps(&run), all);
    for part in ["\u{1b}[33mwarning:", "https://", "the package is ready"] {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    let (_, errors, _) = place.client(&["logs", "--no-timestamps", "--lines", "all", "--stream", "stderr"]);
    assert!(errors.contains("mirror") && errors.contains("warning:") && errors.lines().count() == 4, "{errors}");

    let (run, printed) = play(&place, &["--fail"]);
    assert_eq!((&run["exit_code"], steps(&run)), (&json!(1), all[..3].to_vec()), "{run}");
    assert!(printed.contains("Traceback (most recent call last)") && printed.contains("HandshakeError"), "{printed}");
}

#[test]
fn demo_ends_at_once_on_stop() {
    let place = Place::serving("demo.sh");
    place.script("demo.sh", include_str!("../../../examples/demo.sh"));
    let (_, run_id) = place.start_with(json!({"args": ["--fast"]}));
    crate::support::until_true("the helper of the second step runs", || {
        place.get(&format!("/api/runs/{run_id}")).ok()["run"]["progress"]["steps"]
            .as_array()
            .is_some_and(|steps| steps.len() == 2)
    });
    place.act("stop").ok();
    place.until_settled(run_id);
    let run = place.get(&format!("/api/runs/{run_id}")).ok()["run"].clone();
    assert_eq!((&run["status"], &run["exit_code"]), (&json!("stopped"), &json!(143)), "{run}");
    place.assert_nothing_left(run_id);
}
