//! Actions with an `Idempotency-Key`. The server is killed on the way. The repetition gets the result of the first request, which
//! is not performed twice.

use std::net::TcpStream;
use std::process::Command;

use autoappdev::kill_point::KillPoint;
use serde_json::{Value, json};

use super::play_points;
use crate::support::http::Answer;
use crate::support::wire::Wire;
use crate::support::{Place, until, until_true};

/// The kill points, each with the action and the status of its repetition.
const CASES: &[(KillPoint, &str, u16)] = &[
    (KillPoint::ServerStartingCommitted, "start", 422),
    (KillPoint::ServerLaunchSent, "start", 200),
    (KillPoint::ServerSpawnedHeard, "start", 200),
    (KillPoint::ServerSpawnedCommitted, "start", 200),
    (KillPoint::ServerAnswerHeard, "start", 200),
    (KillPoint::ServerAnswerCommitted, "start", 200),
    (KillPoint::ServerKeyCommitted, "pause", 200),
    (KillPoint::ServerPauseSent, "pause", 200),
    (KillPoint::ServerPausedHeard, "pause", 200),
    (KillPoint::ServerPausedCommitted, "pause", 200),
    (KillPoint::ServerAnswerHeard, "pause", 200),
    (KillPoint::ServerAnswerCommitted, "pause", 200),
    (KillPoint::ServerKeyCommitted, "stop", 200),
    (KillPoint::ServerStopSent, "stop", 200),
    (KillPoint::ServerExitedHeard, "stop", 200),
    (KillPoint::ServerExitedCommitted, "stop", 200),
    (KillPoint::ServerAnswerHeard, "stop", 200),
];

fn repeat(place: &Place, action: &str, body: &Value) -> Answer {
    let fields = [("Content-Type", "application/json"), ("Idempotency-Key", "a")];
    place.request("POST", &format!("/api/pipeline/{action}"), &fields, Some(&body.to_string()))
}

/// Sends an action with the key, without waiting for the response.
pub(crate) fn shoot(place: &Place, action: &str, body: &Value) -> TcpStream {
    let mut wire = place.wire();
    let text = body.to_string();
    let head = format!("Content-Type: application/json\r\nIdempotency-Key: a\r\nContent-Length: {}\r\n", text.len());
    wire.send(format!("POST /api/pipeline/{action} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n{text}"));
    wire.writer()
}

#[test]
fn repetition_after_kill_returns_first_result() {
    play_points(CASES, |&(point, ..)| point.name(), |&(point, action, status)| play(point, action, status));
}

fn play(point: KillPoint, action: &str, status: u16) {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    let mark = place.folder().join("mark");
    let mut command: Command = place.command();
    command.env("AUTOAPPDEV_KILL_AT", point.name()).env("AUTOAPPDEV_KILL_MARK", &mark);
    if action == "start" {
        place.start_server_with(command);
    } else {
        place.start_server();
        place.start();
        place.kill_server();
        place.start_server_with(command);
    }
    let body = if action == "stop" { json!({"grace_s": 0}) } else { json!({}) };
    let asked = shoot(&place, action, &body);
    until(&format!("{} was reached", point.name()), || std::fs::read_to_string(&mark).ok().filter(|pid| pid.ends_with('\n')));
    assert!(Wire::of(asked).ends_silently(), "nobody is answered before the answer is kept");
    place.kill_server();
    place.start_server();
    let answer = repeat(&place, action, &body);
    assert_eq!(answer.status, status, "{action} at {}: {}", point.name(), answer.body);
    assert_eq!(answer.body["run_id"], 1);
    let was_kept = answer.header("Idempotent-Replay").is_some();
    assert_eq!(was_kept, point == KillPoint::ServerAnswerCommitted, "{action} at {}", point.name());
    if action != "start" || status != 200 {
        let state = if action == "pause" { "paused" } else { "stopped" };
        until_true("it is so", || place.pipeline()["state"] == state);
    }
    let again = repeat(&place, action, &body);
    assert_eq!((again.status, &again.body, again.header("Idempotent-Replay")), (status, &answer.body, Some("true")));
    assert_eq!(place.get("/api/runs").ok()["runs"].as_array().expect("runs").len(), 1);
    let facts = place.facts(1, if action == "pause" { "paused" } else { "stopping" });
    assert!(facts.len() <= 1, "it was done once: {facts:?}");
}
