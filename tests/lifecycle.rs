//! The life of a run, on the whole binary: real scripts, real signals, and the kernel as the witness.

mod support;

use serde_json::json;
use support::{Place, is_alive, letter, until_true};

#[test]
fn start_pause_resume_stop_and_every_witness_agrees() {
    let place = Place::serving("tree.sh");
    assert_eq!(place.pipeline()["status"], "idle");
    let (pid, run_id) = place.start();
    place.until_line("ready");
    place.until_line("stubborn");
    until_true("the whole tree is there", || place.processes().len() >= 9);
    assert_eq!(place.pipeline()["state"], "running");
    assert_eq!(place.pipeline()["pid"], pid);
    assert_eq!(place.stored_state(), "running");

    let before = place.processes();
    place.act("pause").ok();
    assert_eq!((place.state().as_str(), place.stored_state().as_str()), ("paused", "paused"));
    for pid in &before {
        assert!(
            matches!(letter(*pid), Some('T' | 'Z') | None),
            "{pid} is {}",
            std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default()
                + &std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default()
        );
    }
    assert!(place.runtime().join("PAUSE").exists());

    place.act("resume").ok();
    assert_eq!(place.state(), "running");
    assert!(!place.runtime().join("PAUSE").exists());
    assert!(before.iter().all(|pid| letter(*pid) != Some('T')));

    place.post("/api/pipeline/stop", json!({"grace_s": 0.3})).ok();
    assert_eq!((place.state().as_str(), place.stored_state().as_str()), ("stopped", "stopped"));
    assert!(place.processes().is_empty());
    assert!(!is_alive(pid));
    let run = place.run(run_id);
    assert_eq!(run["status"], "stopped");
}
