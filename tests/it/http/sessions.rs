//! Sessions with the real binary: how long they last, what ends them, and how a full disk and other users' guesses affect them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use rusqlite::Connection;
use rustix::process::geteuid;
use serde_json::{Value, json};

use crate::support::disk::SmallDisk;
use crate::support::login::LogIn;
use crate::support::wire::Wire;
use crate::support::{Answer, DEADLINE, Place, not_run, until, until_true};

const TOKEN: &str = "test-token-that-acts-7Qx";
const READ_TOKEN: &str = "test-token-that-looks-9Zk";
/// Any user who is not root.
const ANOTHER: u32 = 65_534;

fn serve(place: &mut Place) {
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.set_env("AUTOAPPDEV_READ_TOKEN", READ_TOKEN);
    place.use_token(TOKEN);
    place.start_server();
}

fn closed_place() -> Place {
    let mut place = Place::new();
    serve(&mut place);
    place
}

/// Sends a request with these header fields, as the page does, and without a token.
fn ask_by(mut wire: Wire, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Answer {
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let fields = fields.concat();
    let framing = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    let framing = if method == "POST" { framing } else { String::new() };
    wire.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}{framing}\r\n{body}"));
    wire.answer()
}

fn ask(place: &Place, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Answer {
    ask_by(place.wire(), method, path, fields, body)
}

fn log_in(place: &Place, token: &str) -> LogIn {
    let fields = [("User-Agent", "Test browser")];
    LogIn::of(&ask(place, "POST", "/api/login", &fields, &json!({ "token": token }).to_string()))
}

fn status(place: &Place, log_in: &LogIn) -> u16 {
    ask(place, "GET", "/api/pipeline", &log_in.fields(), "").status
}

fn code(place: &Place) -> String {
    place.post("/api/pair", json!({})).ok()["code"].as_str().expect("a code").to_owned()
}

fn listed(place: &Place) -> Vec<Value> {
    place.get("/api/sessions").ok()["sessions"].as_array().expect("a list").clone()
}

#[test]
fn session_and_its_end_survive_server_kill() {
    let mut place = closed_place();
    let (stays, ends, leaves) = (log_in(&place, TOKEN), log_in(&place, TOKEN), log_in(&place, READ_TOKEN));
    let of_restart = code(&place);
    place.kill_server();
    place.start_server();
    assert_eq!([&stays, &ends, &leaves].map(|it| status(&place, it)), [200, 200, 200]);
    let by_code = json!({ "code": of_restart }).to_string();
    assert_eq!(ask(&place, "POST", "/api/login", &[], &by_code).error(), "invalid_code", "codes are in memory only");
    place.post("/api/sessions/end", json!({ "id": ends.id() })).ok();
    ask(&place, "POST", "/api/logout", &leaves.fields(), "{}").ok();
    // The ended sessions are recorded and stay ended after a restart.
    place.kill_server();
    place.start_server();
    assert_eq!([&stays, &ends, &leaves].map(|it| status(&place, it)), [200, 401, 401]);
    assert_eq!(listed(&place).len(), 1);
}

#[test]
fn changed_token_ends_its_sessions() {
    let mut place = closed_place();
    let (acts, looks) = (log_in(&place, TOKEN), log_in(&place, READ_TOKEN));
    let link = json!({ "code": code(&place) }).to_string();
    let by_code = LogIn::of(&ask(&place, "POST", "/api/login", &[], &link));
    let all = |place: &Place| [&acts, &by_code, &looks].map(|it| status(place, it));
    place.kill_server();
    place.use_token("another-token-that-acts");
    place.start_server();
    assert_eq!(all(&place), [401, 401, 200]);
    place.kill_server();
    place.use_token(TOKEN);
    place.set_env("AUTOAPPDEV_READ_TOKEN", "another-token-that-looks");
    place.start_server();
    assert_eq!(all(&place), [401, 401, 401]);
}

/// Opens an event stream with these credentials and reads up to its first state.
fn stream(place: &Place, log_in: &LogIn) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", place.port())).expect("it accepts");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    let fields = log_in.fields().map(|(name, value)| format!("{name}: {value}\r\n")).concat();
    write!(stream, "GET /api/events HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").expect("it reads");
    read_until(&mut stream, "event: state");
    stream
}

fn read_until(stream: &mut TcpStream, mark: &str) {
    let mut seen = Vec::new();
    let begun = Instant::now();
    while !String::from_utf8_lossy(&seen).contains(mark) {
        assert!(begun.elapsed() < DEADLINE, "no {mark:?} came");
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).expect("it goes on");
        assert!(count > 0, "it ended before {mark:?}: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&piece[..count]);
    }
}

#[test]
fn session_end_ends_only_its_own_streams() {
    let place = closed_place();
    let end_of = |how: &dyn Fn(&LogIn)| {
        let (ends, stays) = (log_in(&place, TOKEN), log_in(&place, READ_TOKEN));
        let (mut ending, mut staying) = (stream(&place, &ends), stream(&place, &stays));
        how(&ends);
        // The stream ends normally, with a chunk of length zero.
        read_until(&mut ending, "0\r\n\r\n");
        place.start();
        read_until(&mut staying, "\"running\"");
        place.act("stop").ok();
        assert_eq!((status(&place, &ends), status(&place, &stays)), (401, 200));
    };
    end_of(&|log_in| drop(ask(&place, "POST", "/api/logout", &log_in.fields(), "{}").ok()));
    end_of(&|log_in| {
        let (code, out, said) = place.client(&["sessions", "end", log_in.id()]);
        assert_eq!((code, out.as_str()), (0, "1 session has ended\n"), "{said}");
    });
}

/// The maximum number of requests that wait for log lines at the same time.
const LINE_WAITS_MAX: usize = 64;
/// The maximum number for viewers, which leaves some to operators.
const LINE_WAITS_OF_VIEWERS_MAX: usize = 56;

/// Begins a long poll with these credentials and a wait of a minute.
fn poll(place: &Place, log_in: &LogIn, target: &str) -> Wire {
    let mut wire = place.wire();
    let fields = log_in.fields().map(|(name, value)| format!("{name}: {value}\r\n")).concat();
    wire.send(format!("GET {target}&wait=60 HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
    // Longer than the wait: a poll that the end of the session does not end still gets a response, which the assertions below
    // reject.
    wire.read_within(2 * DEADLINE);
    wire
}

/// Returns the targets of both long polls, at the current state and the end of the log.
fn poll_targets(place: &Place) -> [String; 2] {
    let end = place.get("/api/logs/tail?limit=1").ok()["next"].as_u64().expect("a position");
    let version = place.pipeline()["version"].as_u64().expect("a number");
    [format!("/api/pipeline?after={version}"), format!("/api/logs?since={end}")]
}

/// Begins as many polls for lines as there are free slots, and one more. The response to that one shows that the others are
/// waiting.
fn fill(place: &Place, log_in: &LogIn, lines: &str, free: usize) -> Vec<Wire> {
    let mut polls: Vec<Wire> = (0..=free).map(|_| poll(place, log_in, lines)).collect();
    let extra = until("every slot is taken", || polls.iter().position(Wire::has_answer));
    assert_eq!(polls.remove(extra).answer().ok()["lines"], json!([]));
    polls
}

#[test]
fn session_end_answers_only_its_own_long_polls() {
    let place = closed_place();
    let end_of = |how: &dyn Fn(&LogIn)| {
        let (ends, stays) = (log_in(&place, TOKEN), log_in(&place, READ_TOKEN));
        let [state, lines] = poll_targets(&place);
        let mut waiting = fill(&place, &stays, &lines, LINE_WAITS_OF_VIEWERS_MAX);
        let mut ending = fill(&place, &ends, &lines, LINE_WAITS_MAX - LINE_WAITS_OF_VIEWERS_MAX);
        let mut change = poll(&place, &stays, &state);
        ending.push(poll(&place, &ends, &state));
        how(&ends);
        for mut wire in ending {
            let answer = wire.answer();
            assert_eq!((answer.status, answer.error()), (401, "unauthorized"), "{}", answer.body);
        }
        // Their slots are free, and the other session's polls still wait: all of them get a response only when something new
        // happens.
        let another = log_in(&place, TOKEN);
        waiting.extend((LINE_WAITS_OF_VIEWERS_MAX..LINE_WAITS_MAX).map(|_| poll(&place, &another, &lines)));
        let (_, run_id) = place.start();
        let changed = change.answer().ok();
        assert!(!state.ends_with(&format!("={}", changed["pipeline"]["version"])), "{changed}");
        for mut wire in waiting {
            let answer = wire.answer().ok();
            assert_ne!(answer["lines"], json!([]), "{answer}");
        }
        place.act("stop").ok();
        place.until_settled(run_id);
    };
    end_of(&|log_in| drop(ask(&place, "POST", "/api/logout", &log_in.fields(), "{}").ok()));
    end_of(&|log_in| drop(place.post("/api/sessions/end", json!({ "id": log_in.id() })).ok()));
    // A login in the same browser replaces its session.
    end_of(&|log_in| {
        let body = json!({ "token": TOKEN }).to_string();
        assert_eq!(ask(&place, "POST", "/api/login", &log_in.fields(), &body).status, 200);
    });
}

#[test]
fn expired_session_answers_its_long_polls_with_401() {
    let mut place = closed_place();
    let stays = log_in(&place, READ_TOKEN);
    // The session lasts twice as long if this machine took too long to start the polls.
    let mut lasts_s = 2;
    let (ending, staying) = loop {
        let expires = log_in(&place, TOKEN);
        place.stop_server();
        let changed = Connection::open(place.database()).expect("opens").execute(
            "UPDATE sessions SET expires_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?1) WHERE id = ?2",
            [format!("+{lasts_s} seconds"), expires.id().to_owned()],
        );
        assert_eq!(changed, Ok(1), "it is still stored");
        place.start_server();
        let [state, lines] = poll_targets(&place);
        let ending = [&state, &lines].map(|target| poll(&place, &expires, target));
        let staying = [&state, &lines].map(|target| poll(&place, &stays, target));
        if status(&place, &expires) == 200 {
            break (ending, staying);
        }
        lasts_s *= 2;
        assert!(lasts_s < 60, "the server never serves before the session is over");
    };
    for mut wire in ending {
        let answer = wire.answer();
        assert_eq!((answer.status, answer.error()), (401, "unauthorized"), "{}", answer.body);
    }
    // These polls began after those above and wait equally long, so they have no response yet.
    let version = place.pipeline()["version"].clone();
    place.start();
    let [state, lines] = staying.map(|mut wire| wire.answer().ok());
    assert_ne!(state["pipeline"]["version"], version, "{state}");
    assert_ne!(lines["lines"], json!([]), "{lines}");
}

#[test]
fn session_end_cuts_off_its_download() {
    let place = closed_place();
    // More than the socket buffers can hold.
    place.script("much.sh", "#!/bin/bash\nhead -c 48000000 /dev/zero | tr '\\0' 'x' | fold -w 1000\n");
    let (_, run_id) = place.start_with(json!({"script": "much.sh"}));
    place.until_settled(run_id);
    let log_in = log_in(&place, READ_TOKEN);
    let mut stream = TcpStream::connect(("127.0.0.1", place.port())).expect("it accepts");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    let target = format!("/api/runs/{run_id}/log?proof={}", log_in.download_proof);
    write!(stream, "GET {target} HTTP/1.1\r\nHost: localhost\r\nCookie: {}\r\n\r\n", log_in.cookie).expect("it reads");
    read_until(&mut stream, "xxx");
    ask(&place, "POST", "/api/logout", &log_in.fields(), "{}").ok();
    let mut rest = Vec::new();
    // A broken connection is an error or an early end. Either way, the download is incomplete.
    let _may_break = stream.read_to_end(&mut rest);
    assert!(rest.len() < 40_000_000, "{} bytes came", rest.len());
}

#[test]
fn sessions_command_lists_and_ends_sessions() {
    let place = closed_place();
    assert_eq!(place.client(&["sessions"]).1, "no browser is logged in\n");
    let (acts, looks) = (log_in(&place, TOKEN), log_in(&place, READ_TOKEN));
    let (code, out, said) = place.client(&["sessions"]);
    assert_eq!(code, 0, "{said}");
    let rows: Vec<&str> = out.lines().collect();
    assert!(
        rows.len() == 3 && rows[0].starts_with("ID ") && rows.iter().skip(1).all(|row| row.ends_with("Test browser")),
        "{out}"
    );
    assert!(out.contains("operator") && out.contains("viewer") && out.contains("127.0.0.1"), "{out}");
    let (_, document, _) = place.client(&["sessions", "--json"]);
    let document: Value = serde_json::from_str(&document).expect("JSON");
    assert_eq!(document["sessions"].as_array().map(Vec::len), Some(2));
    for secret in [&acts.proof, &looks.proof, &acts.download_proof] {
        assert!(!document.to_string().contains(secret.as_str()));
    }
    let (code, out, said) = place.client(&["sessions", "end", "abcd-efgh"]);
    assert!(code == 1 && out.is_empty() && said.contains("there is no session abcd-efgh"), "{said}");
    assert_eq!(place.client(&["sessions", "end", "--all"]).1, "2 sessions have ended\n");
    assert_eq!([&acts, &looks].map(|it| status(&place, it)), [401, 401]);
    assert_eq!(place.client(&["sessions", "end", "--all", "--json"]).1, "{\"ok\":true,\"ended\":0}\n");
}

#[test]
fn full_disk_refuses_login_and_still_ends_sessions() {
    let test = "full_disk_refuses_login_and_still_ends_sessions";
    let Some(mut small) = SmallDisk::of_kib(2048, test) else { return };
    serve(&mut small.place);
    let place = &small.place;
    let (out, ended) = (log_in(place, TOKEN), log_in(place, READ_TOKEN));
    let link = json!({ "code": code(place) }).to_string();
    small.disk.fill();
    for body in [json!({ "token": TOKEN }).to_string(), link.clone(), link.clone()] {
        let refused = ask(place, "POST", "/api/login", &[], &body);
        assert_eq!((refused.status, refused.error()), (507, "disk_full"), "{}", refused.body);
        assert!(refused.body["detail"].as_str().is_some_and(|text| text.contains("the login failed")), "{}", refused.body);
        assert_eq!(refused.header("Set-Cookie"), None);
    }
    let told = |answer: &Answer| {
        assert_eq!((answer.status, answer.error()), (507, "disk_full"), "{}", answer.body);
        let detail = answer.body["detail"].as_str().expect("a sentence");
        assert!(detail.contains("has ended") && detail.contains("restarts"), "{detail}");
    };
    let answer = ask(place, "POST", "/api/logout", &out.fields(), "{}");
    told(&answer);
    assert!(answer.header("Set-Cookie").is_some_and(|cookie| cookie.contains("Max-Age=0")));
    // Not all sessions, because that would also revoke the code.
    told(&place.post("/api/sessions/end", json!({ "id": ended.id() })));
    assert_eq!([&out, &ended].map(|it| status(place, it)), [401, 401]);
    small.disk.free();
    until_true("the code is good once there is room", || ask(place, "POST", "/api/login", &[], &link).status == 200);
    small.place.kill_server();
    small.place.start_server();
    assert_eq!([&out, &ended].map(|it| status(&small.place, it)), [401, 401], "what had ended was stored with it");
}

#[test]
fn guesses_of_another_user_do_not_slow_down_the_owner() {
    if !geteuid().is_root() {
        not_run("another user's process can only be made by root", "AUTOAPPDEV_REQUIRE_ROOT");
        return;
    }
    let place = closed_place();
    let guess = |wire: Wire, token: &str| {
        ask_by(wire, "GET", "/api/pipeline", &[("Authorization", &format!("Bearer {token}"))], "").status
    };
    let another = || Wire::open_as(ANOTHER, place.port());
    // On a slow machine, a wait of one second may have ended before the next guess. The waits grow, so eventually one is
    // observed.
    assert!((0..100).any(|_| guess(another(), "a-wrong-token-of-many") == 429));
    assert_eq!(guess(place.wire(), TOKEN), 200);
    assert_eq!(guess(Wire::open_from("127.0.0.7", place.port()), TOKEN), 200);
    let link = json!({ "code": code(&place) }).to_string();
    assert!((0..100).any(|_| guess(another(), "a-wrong-token-of-many") == 429));
    assert_eq!(ask_by(another(), "POST", "/api/login", &[], &link).status, 200, "a right link is let in from anywhere");
}

#[test]
fn foreign_cookies_do_not_exceed_head_limit() {
    let place = closed_place();
    let log_in = log_in(&place, TOKEN);
    let name = log_in.cookie.split_once('=').expect("a pair").0;
    let proof = ("X-AutoAppDev-Proof", log_in.proof.as_str());
    let tossed = |count: usize| {
        let cookie = |number: usize| match number % 4 {
            0 => format!("{name}={}", "x".repeat(4000)),
            1 => format!("{name}=abcd-efgh.{number}"),
            _ => format!("other-{number}={}", "y".repeat(4000)),
        };
        (0..count).map(cookie).collect::<Vec<_>>().join("; ")
    };
    for cookies in [
        format!("{}; {}", tossed(180), log_in.cookie),
        format!("{}; {}", log_in.cookie, tossed(180)),
        format!("{}; {}; {}", tossed(90), log_in.cookie, tossed(90)),
    ] {
        let answer = ask(&place, "GET", "/api/session", &[("Cookie", &cookies), proof], "");
        assert_eq!((answer.status, &answer.body["session"]["may"]), (200, &json!("act")), "{}", answer.body);
        assert_eq!(ask(&place, "GET", "/", &[("Cookie", &cookies)], "").status, 200);
    }
    // Other long fields, and cookies that no browser sends, are still refused.
    let long = "z".repeat(20_000);
    for field in [("Cookies", long.as_str()), ("X", &format!("{long}; {}", log_in.cookie)), ("Cookie", &tossed(600))] {
        assert_eq!(ask(&place, "GET", "/api/session", &[field, proof], "").error(), "head_too_large", "{}", field.0);
    }
}
