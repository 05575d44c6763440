//! Faults of the earlier server, which used rouille, and of rouille itself, each of which a tester found. This server does not
//! have them. The list below is complete, and `every_fault_has_its_test` checks that each of its tests exists.
//!
//! | fault | test |
//! |---|---|
//! | six kept-alive connections of one browser hang a request | `six_connections_of_one_browser_never_hang` |
//! | `Content-Length: 100000000000` ends the process | `huge_content_length_gets_413` |
//! | without free descriptors, accepting ends for good | `server_recovers_from_descriptor_exhaustion`, `server_serves_and_stops_with_more_connections_than_descriptors` |
//! | each `PRI * HTTP/2.0` leaks a thread and two descriptors | `http_2_preface_gets_400_and_leaks_nothing` |
//! | a client that resets its connection panics a thread | `connection_resets_leak_no_threads`, `server_serves_and_stops_with_10000_connects_and_resets` |
//! | a body over 1.5 kB waits 44 ms for an acknowledgement | `long_response_does_not_wait_for_tcp_ack` |
//! | 60,000 pipelined requests on one connection block all other clients | `server_serves_and_stops_with_60000_pipelined_requests` |
//! | as many stalled bodies as workers block all other clients | `server_serves_and_stops_with_500_stalled_bodies`, `server_serves_and_stops_with_300_large_bodies` |
//! | a head has no limit | `endless_head_is_refused_and_not_buffered` |
//! | nothing has a time-out | `slow_sender_gets_408_and_is_closed`, `idle_and_unreading_connections_are_closed` |
//! | a stop under load never ends | `server_stop_completes_under_load`, and the second half of each of the crowds |
//! | a panic in a handler makes every later answer a 500 in HTML, or ends the server | `handler_panic_returns_500_and_keeps_connection_open` |
//! | a header's value may hold CR and LF | `field_value_cannot_inject_fields` |
//! | a chunked answer is sent only once it has 8 KiB | `response_without_length_is_sent_in_chunks_without_delay` |
//! | a JSON body has no limit | `oversized_request_parts_get_413_414_or_431`, `body_over_limit_is_not_buffered` |
//! | a value of the query is cut at a second `=` | `query_value_includes_further_equals_signs` |

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::footprint::Footprint;
use crate::support::wire::Wire;
use crate::support::{DEADLINE, Place, until, until_true};

const HOST: &str = "Host: localhost\r\n";
const JSON: &str = "Content-Type: application/json\r\n";

fn place() -> Place {
    Place::serving("sleep.sh")
}

/// Checks that a new client is served.
fn assert_serves(place: &Place, when: &str) {
    let answer = place.wire().get("/api/pipeline");
    assert_eq!(answer.status, 200, "{when}");
}

fn footprint(place: &Place) -> Footprint {
    Footprint::of(place.server_pid())
}

fn assert_no_panic(place: &Place) {
    assert!(!place.server_log().contains("panicked"), "{}", place.server_log());
}

#[test]
fn every_fault_has_its_test() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let read = |name: &str| fs::read_to_string(tests.join(name)).expect("there");
    let code: String =
        ["it/http/rouille_faults.rs", "it/api/answers.rs", "it/http/transport.rs", "crowds/main.rs"].map(read).concat();
    let rows: Vec<String> =
        read("it/http/rouille_faults.rs").lines().filter_map(|line| line.strip_prefix("//! | ")).map(str::to_owned).collect();
    assert!(rows.len() > 15, "{} rows", rows.len());
    for row in &rows[1..] {
        let names: Vec<&str> = row.split(" | ").nth(1).expect("two cells").split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{row}");
        for name in names {
            assert!(code.contains(&format!("#[test]\nfn {name}()")), "there is no test {name}");
        }
    }
}

#[test]
fn six_connections_of_one_browser_never_hang() {
    let place = place();
    for round in 0..20 {
        let mut wires: Vec<Wire> = (0..6).map(|_| place.wire()).collect();
        for _ in 0..5 {
            for wire in &mut wires {
                wire.ask("GET", "/static/app.js");
            }
            for wire in &mut wires {
                assert_eq!(wire.answer().status, 200, "round {round}");
            }
        }
    }
}

#[test]
fn connection_resets_leak_no_threads() {
    let place = place();
    let quiet = place.server_threads();
    for n in 0..1_000 {
        let mut wire = place.wire();
        match n % 5 {
            0 => {}
            1 => wire.send("GET /api/pi"),
            2 => wire.ask("GET", "/api/pipeline"),
            3 => wire.send(format!("POST /api/pipeline/pause HTTP/1.1\r\n{HOST}{JSON}Content-Length: 100\r\n\r\n{{")),
            _ => wire.send(format!("GET /static/app.js HTTP/1.1\r\n{HOST}\r\n").repeat(20)),
        }
        wire.reset();
    }
    assert_serves(&place, "after a thousand resets");
    until_true("no thread is left", || place.server_threads() <= quiet);
    assert!(!place.server_log().contains("panicked"), "{}", place.server_log());
}

#[test]
fn server_recovers_from_descriptor_exhaustion() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    let mut command: Command = place.command_of(Path::new("sh"));
    command.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_autoappdev")]);
    place.start_server_with(command);
    let wires: Vec<Wire> = (0..100).map(|_| place.wire()).collect();
    // New clients get the slots of waiting ones.
    for _ in 0..10 {
        assert_serves(&place, "out of descriptors");
    }
    drop(wires);
    until("the database can be opened again", || (place.get("/api/health").status == 200).then_some(()));
    place.start();
    place.act("stop").ok();
    assert!(!place.server_log().contains("panicked"), "{}", place.server_log());
}

#[test]
fn slow_sender_gets_408_and_is_closed() {
    let place = place();
    // One byte now and then, without end. A deadline that restarted with each byte would never expire.
    let mut head = place.wire();
    let mut drip = head.writer();
    let dripping = thread::spawn(move || {
        use std::io::Write;
        let bytes = b"GET /api/version HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat_n(&b'y', 2_000));
        for byte in bytes {
            if drip.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(std::time::Duration::from_millis(25));
        }
    });
    let mut body = place.wire();
    body.send(format!("POST /api/pipeline/start HTTP/1.1\r\n{HOST}{JSON}Content-Length: 3\r\n\r\n{{"));
    let mut chunk = place.wire();
    chunk.send(format!("POST /api/pipeline/start HTTP/1.1\r\n{HOST}{JSON}Transfer-Encoding: chunked\r\n\r\n2\r\n{{"));
    for wire in [&mut head, &mut body, &mut chunk] {
        let answer = wire.answer();
        assert_eq!((answer.status, answer.error(), answer.header("Connection")), (408, "request_timeout", Some("close")));
    }
    dripping.join().expect("it does not panic");
    assert_eq!(place.footprint().2, 0, "half a request is none");
    until_true("their threads end", || place.server_threads() < 20);
}

#[test]
fn idle_connections_are_evicted_for_new_clients() {
    let place = place();
    let quiet = place.server_threads();
    let mut idle: Vec<Wire> = (0..600).map(|_| place.wire()).collect();
    assert_serves(&place, "beside 600 idle ones");
    until_true("those beyond 512 have left", || place.server_threads() <= 512 + 8);
    // The connections that waited longest were closed. The latest still exist and can be used.
    assert!(idle.remove(0).ends_silently());
    assert_eq!(idle.last_mut().expect("599").get("/api/version").status, 200);
    // Connections with slow heads and stalled bodies count as waiting too.
    for wire in &mut idle {
        wire.send(format!("POST /api/pipeline/start HTTP/1.1\r\n{HOST}{JSON}Content-Length: 10\r\n\r\n{{"));
    }
    for _ in 0..100 {
        assert_serves(&place, "beside stalled bodies");
    }
    drop(idle);
    until_true("their threads end", || place.server_threads() <= quiet);
    assert_eq!(place.footprint().2, 0);
}

#[test]
fn huge_content_length_gets_413() {
    let place = place();
    let before = footprint(&place);
    for length in ["100000000000", "18446744073709551615", "18446744073709551616", "9223372036854775807"] {
        let mut wire = place.wire();
        wire.send(format!("POST /api/pipeline/start HTTP/1.1\r\n{HOST}{JSON}Content-Length: {length}\r\n\r\n{{"));
        let answer = wire.answer();
        assert_eq!((answer.status, answer.error()), (413, "body_too_large"), "{length}");
        assert!(wire.ends_silently());
    }
    // Many clients announce bodies of the maximum size and do not send them. An announcement uses no memory.
    let promised: Vec<Wire> = (0..200)
        .map(|_| {
            let mut wire = place.wire();
            wire.send(format!("POST /api/pipeline/start HTTP/1.1\r\n{HOST}{JSON}Content-Length: 1048576\r\n\r\n{{"));
            wire
        })
        .collect();
    assert_serves(&place, "beside promises");
    assert!(footprint(&place).peak_kb < before.peak_kb + 16 * 1024, "{}", footprint(&place));
    drop(promised);
    assert_eq!(place.footprint().2, 0);
}

#[test]
fn http_2_preface_gets_400_and_leaks_nothing() {
    let place = place();
    assert_serves(&place, "before");
    let quiet = footprint(&place);
    for _ in 0..300 {
        let mut wire = place.wire();
        wire.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0");
        assert_eq!(wire.answer().status, 400);
        assert!(wire.ends_silently());
    }
    until_true("threads and descriptors are what they were", || footprint(&place).is_back_to(&quiet));
}

#[test]
fn long_response_does_not_wait_for_tcp_ack() {
    // On any machine, nearly every response that waits for an acknowledgement takes 40 ms longer. So one of many responses is
    // enough, and a ratio decides.
    let place = place();
    place.script(
        "talk.sh",
        "#!/bin/bash\nhead -c 300000 /dev/zero | tr '\\0' x | fold -w 100\necho\necho ready\nexec sleep 600\n",
    );
    place.start_with(serde_json::json!({"script": "talk.sh"}));
    until_true("it has talked", || place.get("/api/logs/tail?limit=1").ok()["lines"][0]["line"] == "ready");
    let mut wire = place.wire();
    let mut took = |method: &str, path: &str| {
        let began = Instant::now();
        wire.ask(method, path);
        assert_eq!(wire.try_answer(method == "HEAD").expect("an answer").status, 200);
        began.elapsed()
    };
    for path in ["/api/version", "/static/app.js", "/api/logs/tail?limit=50", "/api/logs/tail?limit=400"] {
        // A response without a body is sent in one piece, whatever happens to the others. The two kinds alternate, so that both
        // see the same load.
        let (mut shorts, mut longs): (Vec<Duration>, Vec<Duration>) =
            (0..61).map(|_| (took("HEAD", "/api/version"), took("GET", path))).unzip();
        shorts.sort_unstable();
        longs.sort_unstable();
        // The median of the short responses, and one of the faster longer ones: a busy machine delays some of them, and the wait
        // for an acknowledgement nearly all.
        let (short, longer) = (shorts[30], longs[15]);
        assert!(longer < 20 * short + Duration::from_millis(20), "{path}: {longer:?}, a short one {short:?}");
    }
}

#[test]
fn endless_head_is_refused_and_not_buffered() {
    let place = place();
    let before = footprint(&place);
    for begin in ["GET /", "GET / HTTP/1.1\r\nX: ", "GET / HTTP/1.1\r\nHost: localhost\r\nX"] {
        let wire = place.wire();
        let mut pen = wire.writer();
        pen.write_all(begin.as_bytes()).expect("it is taken");
        // 400 MiB, if the server read them.
        let piece = vec![b'y'; 1024 * 1024];
        let taken = (0..400).take_while(|_| pen.write_all(&piece).is_ok()).count();
        assert!(taken < 50, "{taken} MiB were taken of {begin:?}");
        // The response may have been lost with the reset, but the end of the connection cannot be.
        let mut rest = Vec::new();
        let _reset = wire.writer().read_to_end(&mut rest);
        let said = String::from_utf8_lossy(&rest);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 414") || said.starts_with("HTTP/1.1 431"), "{said}");
        wire.finish_quietly();
    }
    assert!(footprint(&place).peak_kb < before.peak_kb + 8 * 1024, "{}", footprint(&place));
    assert_serves(&place, "after endless heads");
}

#[test]
fn body_over_limit_is_not_buffered() {
    let place = place();
    let before = footprint(&place);
    for framing in ["Content-Length: 50000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n2faf080\r\n"] {
        let mut wire = place.wire();
        let mut pen = wire.writer();
        pen.write_all(format!("POST /api/pipeline/start HTTP/1.1\r\n{HOST}{JSON}{framing}").as_bytes()).expect("it is taken");
        // The request is refused before any of the body is sent.
        assert_eq!(wire.answer().status, 413);
    }
    assert!(footprint(&place).peak_kb < before.peak_kb + 8 * 1024, "{}", footprint(&place));
}

#[test]
fn idle_and_unreading_connections_are_closed() {
    // Waits for the limits themselves: 15 s for a write, and one minute for the next request.
    let place = place();
    place.script(
        "talk.sh",
        "#!/bin/bash\nhead -c 3000000 /dev/zero | tr '\\0' x | fold -w 1000\necho\necho ready\nexec sleep 600\n",
    );
    place.start_with(serde_json::json!({"script": "talk.sh"}));
    until_true("it has talked", || place.get("/api/logs/tail?limit=1").ok()["lines"][0]["line"] == "ready");
    let quiet = footprint(&place);
    let mut silent = place.wire();
    let mut used = place.wire();
    assert_eq!(used.get("/api/version").status, 200);
    let mut greedy = place.wire();
    // More than the buffers of both sides hold.
    greedy.send(format!("GET /api/logs?since=0&limit=5000 HTTP/1.1\r\n{HOST}\r\n").repeat(100));
    for wire in [&mut silent, &mut used] {
        wire.read_within(2 * DEADLINE);
        assert!(wire.ends_silently());
    }
    let deadline = Instant::now() + DEADLINE;
    while footprint(&place).threads > quiet.threads {
        assert!(Instant::now() < deadline, "the one that does not read is still there");
        thread::sleep(Duration::from_millis(50));
    }
    drop(greedy);
}

#[test]
fn server_stop_completes_under_load() {
    let mut place = place();
    let port = place.port();
    let is_over = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                let deadline = Instant::now() + DEADLINE;
                while !is_over.load(Ordering::SeqCst) && Instant::now() < deadline {
                    let Ok(mut wire) = Wire::try_open(port) else { return };
                    for _ in 0..100 {
                        wire.ask("GET", "/api/pipeline");
                        match wire.try_answer(false) {
                            Ok(answer) if answer.status == 200 => answered.fetch_add(1, Ordering::SeqCst),
                            Ok(answer) => panic!("{}", answer.body),
                            Err(_) => break,
                        };
                    }
                }
            });
        }
        until_true("they are answered", || answered.load(Ordering::SeqCst) > 500);
        assert_eq!(place.stop_server(), 0);
        is_over.store(true, Ordering::SeqCst);
    });
    assert_no_panic(&place);
}

#[test]
fn query_value_includes_further_equals_signs() {
    let place = place();
    for query in ["limit=5=5", "limit=5=", "since=0=1", "source=pipeline=backend"] {
        let answer = place.wire().get(&format!("/api/logs?{query}"));
        assert_eq!((answer.status, answer.error()), (400, "invalid_query"), "{query}");
    }
}
