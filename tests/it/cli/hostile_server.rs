//! A server whose responses are arbitrary. It uses no more of the client's memory than one response may, and its text is not
//! mistaken for the API's.

use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::command::{command, finished, folder, run_against};
use crate::fake_server::{FakeServer, Reply, Request};
use crate::support::until_true;

/// More requests than the client sends without a pause.
const MANY: usize = 1010;
/// More padded responses than a client may request.
const ENOUGH: usize = 20;
/// The pause between two requests after that.
const PAUSE: Duration = Duration::from_millis(300);

#[test]
fn non_api_response_exits_with_1_in_every_command() {
    for body in ["<html><p>welcome</p></html>", "", "\"ok\""] {
        let server = FakeServer::canned(200, body);
        for args in [
            &["status"][..],
            &["start", "x"],
            &["pause"],
            &["resume"],
            &["stop"],
            &["runs"],
            &["runs", "1"],
            &["sessions"],
            &["sessions", "end", "--all"],
            &["logs"],
            &["pair"],
        ] {
            for args in [args, &[args, &["--json"]].concat()] {
                let (code, out, err) = run_against(&server, args);
                assert_eq!((code, out.as_str()), (1, ""), "{args:?} of {body:?}: {err}");
                assert!(err.contains(&format!("the response from {} cannot be understood", server.url())), "{args:?}: {err}");
            }
        }
    }
}

#[test]
fn malformed_one_time_code_is_refused() {
    let answer = |code: &str| {
        let code = serde_json::to_string(code).expect("text");
        FakeServer::canned(200, &format!(r#"{{"ok":true,"may":"act","code":{code},"expires_at":"2026-01-31T10:00:00.000Z"}}"#))
    };
    let (code, out, err) = run_against(&answer("Ab-9_"), &["pair"]);
    assert!(code == 0 && out.contains("/#code=Ab-9_\n"), "{out}{err}");
    let long = "a".repeat(300);
    for forged in ["x\n\n  http://192.0.2.1/#code=y", "x\u{1b}[2J", "x\u{202e}", "x@192.0.2.1/", "x y", "", &long] {
        for args in [&["pair"][..], &["pair", "--json"]] {
            let (code, out, err) = run_against(&answer(forged), args);
            assert_eq!((code, out.as_str()), (1, ""), "{forged:?}: {err}");
            assert!(err.lines().count() == 1 && err.contains("cannot be understood (its code"), "{forged:?}: {err}");
        }
    }
}

/// Returns response number `count`, without lines and with more to search: forwards, or backwards from the end of a huge log.
fn empty_page(request: &Request, count: usize, more: &str) -> Reply {
    let end = 1_u64 << 50;
    let count = count as u64;
    let (next, first) = if request.line.contains("/tail?") { (end, end - count) } else { (count, 0) };
    let page =
        format!(r#"{{"source":"pipeline","since":0,"next":{next},"first":{first},"lines":[],"searched_all":false{more}}}"#);
    Reply::Json(200, page)
}

#[test]
fn endless_padded_pages_do_not_fill_client_memory() {
    let count = Arc::new(Mutex::new(0));
    let padding = "x".repeat(8 << 20);
    let server = FakeServer::start(move |request| {
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        if *count >= ENOUGH {
            // A client that keeps everything must not fill this machine's memory.
            return Reply::Nothing;
        }
        empty_page(request, *count, &format!(r#","gone":1,"padding":"{padding}""#))
    });
    let (folder, url) = (folder(), server.url());
    for json in [&[][..], &["--json"]] {
        let before = server.requests().len();
        let args = [&["--url", &url, "logs", "--grep", "x", "-n", "100"], json].concat();
        let output = command(folder.path(), &args).output().expect("the binary runs");
        let (code, _, err) = finished(output);
        assert!(code == 0 && err.contains("1 bytes of the log before this line are missing"), "{err}");
        let asked = server.requests().len() - before;
        assert!(asked <= 3, "what is kept of {asked} answers is more than one answer may have");
    }
}

/// A client that reads from its own server, which records the time of each request.
struct Endless {
    client: Child,
    times: Arc<Mutex<Vec<Instant>>>,
    _server: FakeServer,
    _folder: tempfile::TempDir,
}

impl Endless {
    fn start(args: &[&str], more: &'static str) -> Self {
        let times = Arc::new(Mutex::new(Vec::new()));
        let server = FakeServer::start({
            let times = times.clone();
            move |request: &Request| {
                let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
                // Recorded before the client has the response, so that no interval is shorter than the client's pause.
                times.push(Instant::now());
                empty_page(request, times.len(), more)
            }
        });
        let folder = folder();
        let client = command(folder.path(), &[&["--url", &*server.url(), "logs"], args].concat())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        Self { client, times, _server: server, _folder: folder }
    }

    fn times(&self) -> Vec<Instant> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        let _may_have_ended = self.client.kill();
        let _reaped = self.client.wait();
    }
}

#[test]
fn endless_search_is_continued_with_pauses() {
    let cases = [
        // A search forwards, a search backwards, and a follower.
        (&["--grep", "x"][..], ""),
        (&["--grep", "x", "-n", "5"], ""),
        (&["-f", "--grep", "x", "-n", "all"], r#","gone":1"#),
    ];
    let readings = cases.map(|(args, more)| (args, Endless::start(args, more)));
    for (args, mut reading) in readings {
        // On a slow machine that many requests take long, but every ten of them do not.
        for count in (10..=MANY).step_by(10) {
            until_true(&format!("{args:?} has asked {count} times"), || {
                assert!(reading.client.try_wait().expect("ours").is_none(), "{args:?} has ended");
                reading.times().len() >= count
            });
        }
        let times = reading.times();
        for pair in times[MANY - 4..MANY].windows(2) {
            assert!(pair[1] - pair[0] >= PAUSE, "{args:?}: {:?}", pair[1] - pair[0]);
        }
    }
}
