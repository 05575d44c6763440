//! A session that expires while its client waits for a response, because the wall clock passes its end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use serde_json::json;

use crate::support::login::LogIn;
use crate::support::{DEADLINE, until_true};
use crate::{HOUR_MS, Timed};

const TOKEN: &str = "a-token-of-this-test";
/// Longer than a session lasts.
const LONG_MS: i64 = 31 * 24 * HOUR_MS;

fn closed(script: &str) -> Timed {
    let mut timed = Timed::serving(script);
    assert_eq!(timed.place.stop_server(), 0);
    timed.place.use_token(TOKEN);
    timed.place.start_server();
    timed
}

fn log_in(timed: &Timed) -> LogIn {
    LogIn::of(&timed.place.post("/api/login", json!({"token": TOKEN})))
}

/// Sends a request with exactly these header fields.
fn ask(timed: &Timed, target: &str, fields: &[(&str, &str)]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", timed.place.port())).expect("it accepts");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    let fields = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<Vec<_>>().concat();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").expect("it reads");
    stream
}

/// Reads up to one of these marks, or to the end. Returns what was read.
fn read_until(stream: &mut TcpStream, marks: &[&str]) -> String {
    let (mut seen, begun) = (Vec::new(), Instant::now());
    loop {
        assert!(begun.elapsed() < DEADLINE, "none of {marks:?} came");
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).expect("it goes on");
        seen.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&seen);
        if count == 0 || marks.iter().any(|mark| text.contains(mark)) {
            return text.into_owned();
        }
    }
}

#[test]
fn stream_ends_without_later_events_when_session_expires() {
    let timed = closed("sleep.sh");
    let log_in = log_in(&timed);
    let mut expiring = ask(&timed, "/api/events", &log_in.fields());
    let bearer = format!("Bearer {TOKEN}");
    let mut staying = ask(&timed, "/api/events", &[("Authorization", &bearer)]);
    for stream in [&mut expiring, &mut staying] {
        assert!(read_until(stream, &["}\n\n"]).contains("event: state"));
    }
    timed.set(LONG_MS, 0);
    timed.place.start();
    assert!(read_until(&mut staying, &["\"running\""]).contains("\"running\""));
    // The stream ends as after a logout, with a chunk of length zero.
    let rest = read_until(&mut expiring, &["0\r\n\r\n", "event: "]);
    assert!(rest.ends_with("0\r\n\r\n") && !rest.contains("event: "), "{rest}");
}

#[test]
fn download_is_cut_off_when_session_expires() {
    let timed = closed("much.sh");
    // More than the socket buffers can hold.
    timed.place.script("much.sh", "#!/bin/bash\nhead -c 48000000 /dev/zero | tr '\\0' 'x' | fold -w 1000\n");
    let (_, run_id) = timed.place.start();
    timed.place.until_settled(run_id);
    let log_in = log_in(&timed);
    let target = format!("/api/runs/{run_id}/log?proof={}", log_in.download_proof);
    let mut stream = ask(&timed, &target, &log_in.fields()[..1]);
    assert!(read_until(&mut stream, &["xxx"]).contains("200 OK"));
    timed.set(LONG_MS, 0);
    let mut rest = Vec::new();
    // A broken connection is an error or an early end. Either way, the download is incomplete.
    let _may_break = stream.read_to_end(&mut rest);
    assert!(rest.len() < 40_000_000, "{} bytes came", rest.len());
}

#[test]
fn long_poll_gets_401_without_later_state_when_session_expires() {
    let timed = closed("sleep.sh");
    let log_in = log_in(&timed);
    let version = timed.place.pipeline()["version"].clone();
    let used_at = || timed.place.get("/api/sessions").ok()["sessions"][0]["used_at"].as_str().expect("a time").to_owned();
    let mut minute = 0;
    let targets = [format!("/api/pipeline?after={version}&wait=60"), "/api/logs?wait=60".to_owned()];
    let mut polls = targets.map(|target| {
        minute += 1;
        timed.set(minute * 60_000, 0);
        let before = used_at();
        let poll = ask(&timed, &target, &log_in.fields());
        until_true("the session was let in", || used_at() > before);
        poll
    });
    timed.set(LONG_MS, 0);
    timed.place.start();
    for poll in &mut polls {
        let answer = read_until(poll, &["}"]);
        assert!(answer.starts_with("HTTP/1.1 401 ") && !answer.contains("running"), "{answer}");
    }
}
