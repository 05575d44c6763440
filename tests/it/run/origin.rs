//! The origin of an action: a client over TCP, a client over the Unix socket, a signal to the shim, and the server's own shutdown
//! are distinguished everywhere.

use crate::run::lifecycle::in_namespace;
use crate::support::{Place, signal, until_true};
use serde_json::{Value, json};

const POLITE: &str = "#!/bin/bash\ntrap 'exit 4' TERM\necho ready\nwhile :; do sleep 0.02; done\n";

fn by_tcp() -> Value {
    json!({"by": "client", "role": "operator", "address": "127.0.0.1"})
}

fn by_socket() -> Value {
    json!({"by": "client", "role": "operator", "uid": rustix::process::getuid().as_raw()})
}

fn stop_by_socket(place: &Place, grace_s: &str) -> (i32, String, String) {
    place.client(&["stop", "--grace", grace_s])
}

/// Starts a run, ends it with `stop`, and checks that the row, both events of the stop and their sentences name `origin`.
fn assert_names(place: &mut Place, origin: &Value, sentence: &str, stop: impl FnOnce(&mut Place)) {
    let (_, run_id) = place.start_with(json!({"script": "polite.sh"}));
    let ready = usize::try_from(run_id).expect("few runs");
    until_true("it is ready", || place.lines().iter().filter(|line| *line == "ready").count() == ready);
    stop(place);
    let run = place.until_ended(run_id);
    assert_eq!((&run["status"], &run["started_by"], &run["stopped_by"]), (&json!("stopped"), &by_tcp(), origin), "{run}");
    for kind in ["stopping", "exited"] {
        let event = place.event(run_id, kind);
        assert_eq!(&event["origin"], origin, "{event}");
        assert!(event["detail"].as_str().is_some_and(|detail| detail.starts_with(sentence)), "{event}");
    }
    assert_eq!(place.event(run_id, "starting")["origin"], by_tcp());
    assert_eq!(place.event(run_id, "usage")["origin"], Value::Null);
    let (code, told, _) = place.client(&["runs", &run_id.to_string()]);
    assert!(code == 0 && told.lines().next().is_some_and(|line| line.contains(sentence)), "{told}");
    assert!(told.contains("asked for  by a client at 127.0.0.1\n"), "{told}");
}

#[test]
fn history_distinguishes_each_origin_of_a_stop() {
    let mut place = Place::serving("polite.sh");
    place.script("polite.sh", POLITE);
    assert_names(&mut place, &by_tcp(), "stopped by a client at 127.0.0.1", |place| drop(place.act("stop")));
    let uid = rustix::process::getuid().as_raw();
    assert_names(&mut place, &by_socket(), &format!("stopped by a client with user id {uid}"), |place| {
        assert_eq!(stop_by_socket(place, "10").0, 0);
    });
    assert_names(&mut place, &json!({"by": "signal"}), "stopped because its shim got a SIGTERM", |place| {
        signal(place.shims().pop_first().expect("the shim"), "TERM");
    });
    place.set_env("AUTOAPPDEV_ON_TERM", "stop");
    place.restart_server();
    assert_names(&mut place, &json!({"by": "shutdown"}), "stopped because the server was shut down", |place| {
        assert_eq!(place.stop_server(), 0);
        place.start_server();
    });
}

/// A server in a container, and a client outside of it that uses the same runtime directory.
#[test]
fn client_outside_pid_namespace_is_named_by_user() {
    let mut place = Place::new();
    let Some(command) = in_namespace(&place, None) else { return };
    place.start_server_with(command);
    let (code, out, err) = place.client(&["start", "sleep.sh"]);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(place.run(1)["started_by"], by_socket());
}

#[test]
fn pauses_and_resumes_name_their_client_and_signals_none() {
    let place = Place::serving("sleep.sh");
    let (pid, run_id) = place.start();
    place.act("pause").ok();
    assert_eq!(place.client(&["resume"]).0, 0);
    signal(pid, "STOP");
    place.until_state("paused");
    signal(pid, "CONT");
    place.until_state("running");
    let events = place.events(run_id);
    let told: Vec<(&Value, &Value, &Value)> =
        events[2..].iter().map(|event| (&event["kind"], &event["cause"], &event["origin"])).collect();
    let (request, outside) = (json!("request"), json!("outside"));
    let (paused, resumed) = (json!("paused"), json!("resumed"));
    assert_eq!(
        told,
        [
            (&paused, &request, &by_tcp()),
            (&resumed, &request, &by_socket()),
            (&paused, &outside, &Value::Null),
            (&resumed, &outside, &Value::Null),
        ]
    );
}

/// The client that requested the first stop counts as the one that stopped the run, for later servers too. Each stop has its own
/// event.
#[test]
fn run_names_origin_of_first_stop_across_restart() {
    let mut place = Place::serving("stubborn.sh");
    let (_, run_id) = place.start();
    place.until_line("ready");
    assert_eq!(place.pipeline()["pending_origin"], Value::Null);
    let _unanswered = place.shoot("/api/pipeline/stop", r#"{"grace_s": 3000}"#);
    until_true("the stop is pending", || place.pipeline()["pending_origin"] == by_tcp());
    until_true("it is on record", || place.events(run_id).iter().any(|event| event["kind"] == "stopping"));
    place.kill_server();
    place.start_server();
    assert_eq!((&place.pipeline()["pending"], &place.pipeline()["pending_origin"]), (&json!("stop"), &by_tcp()));
    assert_eq!(stop_by_socket(&place, "0.3").0, 0);
    let run = place.until_ended(run_id);
    assert_eq!((&run["stopped_by"], &place.pipeline()["pending_origin"]), (&by_tcp(), &Value::Null));
    let of_stops: Vec<Value> =
        place.events(run_id).iter().filter(|event| event["kind"] == "stopping").map(|event| event["origin"].clone()).collect();
    assert_eq!(of_stops, [by_tcp(), by_socket()]);
    assert_eq!(place.event(run_id, "exited")["origin"], by_tcp());
}
