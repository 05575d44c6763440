//! `GET /api/events`: all events, in order, exactly once, with servers that restart and clients that are disconnected or slow.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::sse::{Event, EventStream};
use crate::support::{DEADLINE, Place, until, until_true};
use serde_json::{Value, json};

/// Returns whether an event has a position in the stream. State, progress and usage are sent again to each new client; lines and
/// history never are.
fn happens(event: &Event) -> bool {
    !matches!(event.kind.as_str(), "state" | "progress" | "usage")
}

fn happenings(events: &[Event]) -> Vec<&Event> {
    events.iter().filter(|event| happens(event)).collect()
}

fn says_state(event: &Event, state: &str) -> bool {
    event.kind == "state" && event.data["state"] == state && event.data["pending"].is_null()
}

fn lines(events: &[Event]) -> Vec<&str> {
    events.iter().filter(|event| event.kind == "log").map(|event| event.data["line"].as_str().expect("text")).collect()
}

/// Conditions do not change the version, so neither the version nor a change of the state reveals them.
#[test]
fn stream_sends_conditions_as_they_begin_and_end() {
    let place = Place::serving("sleep.sh");
    let codes = |event: &Event| {
        event.data["conditions"].as_array().map(|list| list.iter().map(|it| it["code"].clone()).collect::<Vec<_>>())
    };
    let next_state = |stream: &mut EventStream| loop {
        let event = stream.next().expect("the stream goes on");
        if event.kind == "state" {
            return event;
        }
    };
    let mut stream = EventStream::open(place.port(), "", None);
    let first = next_state(&mut stream);
    assert_eq!(codes(&first), Some(vec![]));
    let tag = |place: &Place| place.get("/api/pipeline").header("ETag").expect("a tag").to_owned();
    let well = tag(&place);
    let away = place.runtime().join("away.db");
    std::fs::rename(place.database(), &away).expect("renames");
    // Without an action and without a request.
    let ill = next_state(&mut stream);
    assert_eq!(codes(&ill), Some(vec![json!("database_replaced")]), "{ill:?}");
    assert_eq!(ill.data["version"], first.data["version"]);
    assert_eq!(place.pipeline()["conditions"], ill.data["conditions"]);
    assert_ne!(tag(&place), well);
    std::fs::rename(&away, place.database()).expect("renames back");
    let healed = next_state(&mut stream);
    assert_eq!(codes(&healed), Some(vec![]), "{healed:?}");
    assert_eq!(tag(&place), well);
    // A client that saw a condition and was disconnected when it ended receives the change when it reconnects.
    let mut again = EventStream::open(place.port(), "", Some(&ill.id));
    assert_eq!(codes(&next_state(&mut again)), Some(vec![]));
    // A client that is up to date does not receive it again.
    let mut idle = EventStream::open(place.port(), "", Some(&healed.id));
    place.start();
    let next = next_state(&mut idle);
    assert_ne!(next.data["version"], healed.data["version"], "{next:?}");
}

#[test]
fn stream_is_ordered_and_resumable_from_every_id() {
    let place = Place::serving("three.sh");
    place.script("three.sh", "#!/bin/bash\necho one\necho two >&2\nsleep 0.2\nprintf 'three'\nexit 3\n");
    let mut stream = EventStream::open(place.port(), "", None);
    let first = stream.next().expect("the state as it is");
    assert!(says_state(&first, "stopped"), "{first:?}");
    let (_, run_id) = place.start();
    let told = stream.until("the end", |event| says_state(event, "stopped") && event.data["status"] == "failed");
    assert_eq!(lines(&told).iter().collect::<BTreeSet<_>>(), ["one", "two", "three"].iter().collect());
    let history: Vec<&Event> = told.iter().filter(|event| event.kind == "run").collect();
    let kept = place.until_ended(run_id)["events"].clone();
    assert_eq!(history.len(), kept.as_array().expect("a list").len(), "the whole history");
    for (event, kept) in history.iter().zip(kept.as_array().expect("a list")) {
        let mut wanted = kept.clone();
        wanted["run_id"] = run_id.into();
        assert_eq!(event.data, wanted);
    }
    let states: Vec<&str> =
        told.iter().filter(|event| event.kind == "state").map(|event| event.data["state"].as_str().expect("text")).collect();
    assert!(states.contains(&"running") && states.last() == Some(&"stopped"), "{states:?}");
    // A line has the same form as in `/api/logs`, and the state as in `/api/pipeline`.
    let log = place.get("/api/logs").ok();
    for event in told.iter().filter(|event| event.kind == "log") {
        assert!(log["lines"].as_array().expect("a list").contains(&event.data), "{event:?}");
    }
    assert_eq!(told.last().expect("some").data, place.pipeline());
    let placed = || told.iter().filter(|event| !matches!(event.kind.as_str(), "progress" | "usage"));
    let ids: BTreeSet<&str> = placed().map(|event| event.id.as_str()).collect();
    assert_eq!(ids.len(), placed().count(), "each has an id of its own");

    // A client that continues from any event gets the whole rest, and nothing twice.
    for (n, event) in told.iter().enumerate() {
        let mut again = EventStream::open(place.port(), "", Some(&event.id));
        let rest = happenings(&told[n + 1..]);
        let mut got = Vec::new();
        while got.len() < rest.len() {
            got.extend(again.next().filter(happens));
        }
        // Lines and history are compared separately. The order between the two is only as exact as their time stamps.
        for kind in ["log", "run"] {
            let of_kind = |events: &[&Event]| -> Vec<Value> {
                events.iter().filter(|event| event.kind == kind).map(|event| event.data.clone()).collect()
            };
            assert_eq!(of_kind(&got.iter().collect::<Vec<_>>()), of_kind(&rest), "after {}", event.id);
        }
    }
    // After the last event, nothing is sent again.
    let mut idle = EventStream::open(place.port(), "", told.last().map(|event| event.id.as_str()));
    place.act("start").ok();
    let next = idle.until("what comes", happens).pop().expect("it");
    assert_eq!((next.kind.as_str(), &next.data["run_id"]), ("run", &json!(run_id + 1)));
    // A cursor of `/api/logs` is also a valid position.
    let mut by_cursor = EventStream::open(place.port(), "?since=0", None);
    assert_eq!(
        by_cursor.next().expect("the oldest").data["line"],
        told.iter().find(|event| event.kind == "log").expect("one").data["line"]
    );
}

#[test]
fn stream_resumes_without_loss_after_disconnects_and_server_kills() {
    let mut place = Place::serving("count.sh");
    place.script(
        "count.sh",
        "#!/bin/bash\nfor ((n = 0; n < 3000; n++)); do echo \"line $n\"; ((n % 20)) || sleep 0.02; done\nexec sleep 600\n",
    );
    let mut last_id: Option<String> = None;
    let mut seen = Vec::new();
    place.start();
    let mut connections = 0;
    // The stream is cut at pseudo-random positions, from a fixed seed.
    let mut dice = 0x2545_f491_4f6c_dd1d_u64;
    while seen.len() < 3000 {
        assert!(connections < 2000, "it goes on");
        let opened = match &last_id {
            None => EventStream::try_open(place.port(), "?since=0", None),
            Some(id) => EventStream::try_open(place.port(), "", Some(id)),
        };
        let mut stream = opened.expect("the server accepts").expect("a stream");
        connections += 1;
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let stay = 1 + dice % 60;
        for _ in 0..stay {
            let Some(event) = stream.next() else { break };
            if event.kind == "log" && seen.len() < 3000 {
                seen.push(event.data["line"].as_str().expect("text").to_owned());
            }
            assert_ne!(event.kind, "gap");
            last_id = Some(event.id);
            if seen.len() >= 3000 {
                break;
            }
        }
        stream.cut();
        if connections % 25 == 0 && connections <= 75 {
            place.kill_server();
            place.start_server();
        }
    }
    assert!(connections > 75, "{connections} connections, with three servers killed in between");
    assert_eq!(seen, (0..3000).map(|n| format!("line {n}")).collect::<Vec<_>>());
}

#[test]
fn server_stop_ends_streams_with_retry_hint() {
    let mut place = Place::serving("sleep.sh");
    place.start();
    place.until_line("ready");
    let mut streams: Vec<EventStream> = (0..8).map(|_| EventStream::open(place.port(), "?since=0", None)).collect();
    let ids: Vec<String> = streams
        .iter_mut()
        .map(|stream| stream.until("the state", |event| says_state(event, "running")).pop().expect("it").id)
        .collect();
    assert_eq!(place.stop_server(), 0);
    for stream in &mut streams {
        while let Some(event) = stream.next() {
            assert!(matches!(event.kind.as_str(), "progress" | "usage"), "{event:?}");
        }
        assert!(stream.is_ended, "in order, not cut off");
        assert_eq!(stream.retry_ms, Some(300));
    }
    place.start_server();
    let mut again = EventStream::open(place.port(), "", Some(&ids[0]));
    place.act("pause").ok();
    let told = again.until("the pause", |event| says_state(event, "paused"));
    assert_eq!(lines(&told), [""; 0], "what it has is not said again");
}

#[test]
fn stream_limit_refuses_and_frees_slots() {
    let place = Place::serving("sleep.sh");
    let mut streams: Vec<EventStream> = (0..64).map(|_| EventStream::open(place.port(), "", None)).collect();
    let refusal = EventStream::try_open(place.port(), "", None).expect("an answer").err().expect("there is no room");
    assert!(refusal.starts_with("HTTP/1.1 503 ") && refusal.contains("Retry-After: 5\r\n"), "{refusal}");
    assert!(refusal.contains("too_many_streams"), "{refusal}");
    // Other requests and the open streams are not affected.
    assert_eq!(place.get("/api/pipeline").status, 200);
    assert!(says_state(&streams[63].next().expect("its state"), "stopped"));
    streams.pop().expect("one").cut();
    // The server notices the closed connection at its next write.
    until_true("a place is free again", || EventStream::try_open(place.port(), "", None).is_ok_and(|opened| opened.is_ok()));
}

#[test]
fn closed_streams_free_their_slots_on_demand() {
    let place = Place::serving("sleep.sh");
    let reload = || {
        // If the server did not detect that the page was closed, the slot would become free only after the next write to it, ten
        // seconds later or more.
        let mut stream = (0..8)
            .find_map(|_| EventStream::try_open(place.port(), "", None).expect("an answer").ok())
            .expect("a place that somebody left is found");
        // Everything was read, so the connection ends in an orderly way and the kernel accepts what the server sends afterwards.
        assert!(says_state(&stream.next().expect("the state"), "stopped"));
        stream
    };
    for _ in 0..70 {
        drop(reload());
    }
    // Streams that are still open stay open: the check for closed ones does not affect them.
    let mut streams: Vec<EventStream> = (0..64).map(|_| reload()).collect();
    assert!(EventStream::try_open(place.port(), "", None).expect("an answer").is_err(), "all are there");
    place.act("start").ok();
    for stream in &mut streams {
        stream.until("the start", |event| says_state(event, "running"));
    }
}

#[test]
fn cross_site_request_takes_no_stream_slot() {
    let place = Place::serving("sleep.sh");
    for field in ["Origin: http://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"] {
        let mut wire = place.wire();
        wire.send(format!("GET /api/events HTTP/1.1\r\nHost: localhost\r\n{field}\r\n\r\n"));
        let answer = wire.answer();
        assert_eq!((answer.status, answer.error()), (403, "origin_not_allowed"), "{field}");
    }
}

#[test]
fn stream_request_with_long_body_gets_413() {
    let place = Place::serving("sleep.sh");
    for (length, status) in [(16 * 1024, b"HTTP/1.1 200"), (16 * 1024 + 1, b"HTTP/1.1 413")] {
        let mut stream = TcpStream::connect(("127.0.0.1", place.port())).expect("connects");
        stream.set_read_timeout(Some(DEADLINE)).expect("ours");
        let body = " ".repeat(length);
        write!(
            stream,
            "GET /api/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .expect("sends");
        let mut begun = [0; 12];
        stream.read_exact(&mut begun).expect("an answer");
        assert_eq!(&begun, status, "{length}");
    }
}

#[test]
fn idle_stream_sends_comments() {
    let place = Place::serving("sleep.sh");
    let mut stream = EventStream::open(place.port(), "", None);
    stream.until("all that there is", |event| event.kind == "usage");
    assert_eq!((stream.retry_ms, stream.comments), (Some(1000), 0));
    let began = Instant::now();
    // Nothing else shows that the stream is alive.
    stream.until_comment();
    place.act("start").ok();
    assert_eq!(stream.next().expect("the start").kind, "run");
    // Comments are rare, because each of them wakes a phone.
    let most = usize::try_from(began.elapsed().as_secs() / 10).expect("small") + 1;
    assert!((1..=most).contains(&stream.comments), "{} comments in {:?}", stream.comments, began.elapsed());
}

#[test]
fn stream_rejects_invalid_position_and_starts_at_now_for_unknown_one() {
    let place = Place::serving("exit.sh");
    let (_, run_id) = place.start();
    place.until_ended(run_id);
    for (query, id) in [("", Some("nonsense")), ("", Some("1-2-3")), ("", Some("")), ("?since=x", None), ("?since=-1", None)] {
        let refusal = EventStream::try_open(place.port(), query, id).expect("an answer").err().expect("no stream");
        assert!(refusal.starts_with("HTTP/1.1 400 ") && refusal.contains("invalid_query"), "{query} {id:?}: {refusal}");
    }
    // The position is from another database, which shares nothing with this one, so the client gets only new events.
    for (query, id) in [("", Some("99999999-5-1.0")), ("", Some("0-0-9.9")), ("?since=99999999", None)] {
        let mut stream = EventStream::open(place.port(), query, id);
        assert!(says_state(&stream.next().expect("the state"), "stopped"));
        let (_, run_id) = place.start();
        let told = stream.until("its end", |event| event.kind == "log");
        assert!(told.iter().all(|event| !happens(event) || event.data["run_id"] == run_id), "{told:?}");
        place.until_ended(run_id);
    }
    let answer = place.request("HEAD", "/api/events", &[], None);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(place.request("POST", "/api/events", &[], None).status, 405);
}

#[test]
fn stream_reports_missing_bytes_to_late_client() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_LOG_SEGMENT_MB", "1");
    place.set_env("AUTOAPPDEV_LOG_RUN_MB", "1");
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "much.sh");
    place.script("much.sh", "#!/bin/bash\necho first\nwhile [ ! -e go ]; do sleep 0.01; done\nhead -c 4000000 /dev/zero | tr '\\0' x | fold -w 99\necho\necho last\nexec sleep 600\n");
    place.start_server();
    place.start();
    let mut stream = EventStream::open(place.port(), "?since=0", None);
    let first = stream.until("the first line", |event| event.kind == "log").pop().expect("it");
    stream.cut();
    std::fs::write(place.root().join("go"), "").expect("writes");
    let kept_from = until("the beginning is gone", || {
        let tail = place.get("/api/logs/tail?limit=1").ok();
        (tail["lines"][0]["line"] == "last").then(|| tail["first"].as_u64().expect("a number")).filter(|first| *first > 0)
    });
    let mut again = EventStream::open(place.port(), "", Some(&first.id));
    let told = again.until("the first line that is kept", |event| event.kind == "log");
    let gap = told.iter().find(|event| event.kind == "gap").expect("it says so");
    assert_eq!(gap.data, json!({"from": first.data["id"], "to": kept_from}));
}

#[test]
fn client_that_does_not_read_delays_no_other() {
    let place = Place::serving("flood.sh");
    place.script(
        "flood.sh",
        "#!/bin/bash\nseq -f 'line %.0f and some more text so that it becomes longer' 1 200000\necho done\nexec sleep 600\n",
    );
    // Requests everything and reads none of it.
    let deaf: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", place.port())).expect("connects");
            stream.write_all(b"GET /api/events?since=0 HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sends");
            stream
        })
        .collect();
    let mut reader = EventStream::open(place.port(), "?since=0", None);
    place.start();
    let told = reader.until("the last line", |event| event.kind == "log" && event.data["line"] == "done");
    // On a slow machine, a line that took a while to complete was sent in parts. Each complete line has `partial` set to false.
    let whole = told.iter().filter(|event| event.kind == "log" && event.data["partial"] == false).count();
    assert_eq!(whole, 200_001, "all of it");
    assert_eq!(place.get("/api/pipeline").status, 200);
    let began = Instant::now();
    place.act("stop").ok();
    assert!(began.elapsed() < DEADLINE);
    drop(deaf);
}

#[test]
fn log_long_polls_return_on_first_line_or_server_stop() {
    let mut place = Place::serving("on-go.sh");
    place.script("on-go.sh", "#!/bin/bash\necho ready\nwhile [ ! -e go ]; do sleep 0.01; done\necho gone\nexec sleep 600\n");
    place.start();
    place.until_line("ready");
    let next = place.get("/api/logs").ok()["next"].as_u64().expect("a number");
    let path = format!("/api/logs?since={next}&wait=60");
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..8).map(|_| scope.spawn(|| place.get(&path).ok())).collect();
        std::fs::write(place.root().join("go"), "").expect("writes");
        for answer in waiting {
            assert_eq!(answer.join().expect("an answer")["lines"][0]["line"], "gone");
        }
    });
    let all = place.get("/api/logs").ok()["next"].as_u64().expect("a number");
    let path = format!("/api/logs?since={all}&wait=1");
    assert_eq!(place.get(&path).ok()["lines"], json!([]), "and then there is none");
    for bad in ["wait=61", "wait=x", "wait=", "source=backend&wait=1"] {
        assert_eq!(place.get(&format!("/api/logs?{bad}")).error(), "invalid_query", "{bad}");
    }
    // Requests over the limit are answered at once. The end of the server answers the others.
    let path = format!("/api/logs?since={all}&wait=60");
    let mut waiting: Vec<crate::support::wire::Wire> = (0..64).map(|_| place.wire()).collect();
    for wire in &mut waiting {
        wire.ask("GET", &path);
    }
    until_true("one more is answered at once", || {
        let mut one_more = place.wire();
        one_more.read_within(Duration::from_secs(1));
        one_more.ask("GET", &path);
        one_more.try_answer(false).is_ok()
    });
    assert_eq!(place.stop_server(), 0);
    for wire in &mut waiting {
        assert_eq!(wire.answer().ok()["lines"], json!([]));
    }
}
