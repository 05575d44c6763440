//! Tokens on the real binary: who can act with and without one, through a login and from a command, and where a token must not
//! appear.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::thread;

use crate::support::login::LogIn;
use crate::support::wire::Wire;
use crate::support::{Answer, DEADLINE, Place, acts, example, reads, until_true};
use autoappdev::api::routes::{Method, Route};
use serde_json::{Value, json};

const TOKEN: &str = "test-token-that-acts-7Qx";
const READ_TOKEN: &str = "test-token-that-looks-9Zk";
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Creates a server with both tokens. Requests send the operator's token unless they say otherwise.
fn closed_place() -> Place {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.set_env("AUTOAPPDEV_READ_TOKEN", READ_TOKEN);
    place.use_token(TOKEN);
    place.start_server();
    place
}

/// Sends a request with exactly these header lines, from a loopback address.
fn ask_from(source: &str, place: &Place, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Answer {
    let mut wire = Wire::open_from(source, place.port());
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let fields = fields.concat();
    let framing =
        if body.is_empty() { String::new() } else { format!("{}: {}\r\nContent-Length: {}\r\n", JSON.0, JSON.1, body.len()) };
    wire.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}{framing}\r\n{body}"));
    wire.answer()
}

fn ask(place: &Place, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Answer {
    ask_from("127.0.0.1", place, method, path, fields, body)
}

/// Logs in from a loopback address.
fn log_in_from(source: &str, place: &Place, token: &str) -> LogIn {
    LogIn::of(&ask_from(source, place, "POST", "/api/login", &[], &json!({ "token": token }).to_string()))
}

fn log_in(place: &Place, token: &str) -> LogIn {
    log_in_from("127.0.0.1", place, token)
}

#[test]
fn acting_needs_operator_token_and_reading_any_token_in_every_state() {
    let place = closed_place();
    let (read_log_in, read_bearer) = (log_in(&place, READ_TOKEN), format!("Bearer {READ_TOKEN}"));
    let readers = [read_log_in.fields().to_vec(), vec![("Authorization", read_bearer.as_str())]];
    let look = |what: &str| {
        let before = place.footprint();
        for path in acts().iter().map(String::as_str).chain(["/api/nothing"]) {
            for body in ["", "{}", "{", r#"{"grace_s":0}"#] {
                let nobody: &[&[(&str, &str)]] = &[
                    &[],
                    &[("Cookie", "autoappdev=act.9999999999.00")],
                    &[("Cookie", &read_log_in.cookie)],
                    &[("X-AutoAppDev-Proof", &read_log_in.proof)],
                    &[("Authorization", "Basic Og==")],
                    &[("Authorization", TOKEN)],
                    &[("X-Token", TOKEN)],
                    &[JSON, ("Referer", &format!("http://localhost/#token={TOKEN}"))],
                ];
                for fields in nobody {
                    let answer = ask(&place, "POST", path, fields, body);
                    assert_eq!((answer.status, answer.error()), (401, "unauthorized"), "{what}: {path} {fields:?} {body}");
                    assert_eq!(answer.header("WWW-Authenticate"), Some("Bearer realm=\"autoappdev\""));
                    assert!(
                        answer.body["detail"].as_str().is_some_and(|text| text.contains("autoappdev pair")),
                        "{}",
                        answer.body
                    );
                }
                let query = format!("{path}?token={TOKEN}&access_token={TOKEN}");
                assert_eq!(ask(&place, "POST", &query, &[], body).status, 401, "{what}: a token in an address is none");
                for fields in &readers {
                    let answer = ask(&place, "POST", path, fields, body);
                    assert_eq!((answer.status, answer.error()), (403, "read_only"), "{what}: {path} {body}");
                }
            }
        }
        for &route in
            Route::ALL.iter().filter(|route| route.spec().method == Method::Get && route.spec().path.starts_with("/api/"))
        {
            let path = &example(route);
            let answer = ask(&place, "GET", path, &[], "");
            if route == Route::Health {
                assert_eq!(answer.body, json!({"ok": true, "service": "autoappdev-backend"}), "{what}");
            } else {
                assert_eq!((answer.status, answer.error()), (401, "unauthorized"), "{what}: {path}");
            }
            if route == Route::Events {
                // A stream that is accepted does not end.
                continue;
            }
            let told =
                if matches!(route, Route::Sessions | Route::Scripts | Route::RunStart) { 403 } else { place.get(path).status };
            for fields in &readers {
                let answer = ask(&place, "GET", path, fields, "");
                assert_eq!(answer.status, told, "{what}: {path}");
            }
        }
        assert_eq!(place.footprint(), before, "{what}: nothing has changed");
    };
    look("stopped");
    place.start();
    look("running");
    place.act("pause").ok();
    look("paused");
    // A client with the right token can act, in each of the ways to send it.
    let log_in = log_in(&place, TOKEN);
    assert_eq!(ask(&place, "POST", "/api/pipeline/resume", &log_in.fields(), "{}").status, 200);
    let bearer = format!("bearer  {TOKEN}");
    assert_eq!(ask(&place, "POST", "/api/pipeline/stop", &[("Authorization", &bearer)], "").status, 200);
}

#[test]
fn session_does_not_authorize_cross_origin_request() {
    let place = closed_place();
    let log_in = log_in(&place, TOKEN);
    let with = |fields: &[(&'static str, &'static str)]| [&log_in.fields()[..], fields].concat();
    let lines = format!("Cookie: {}\r\nX-AutoAppDev-Proof: {}\r\n", log_in.cookie, log_in.proof);
    place.start();
    let before = place.footprint();
    for fields in [
        ("Origin", "http://evil.example"),
        ("Origin", "null"),
        ("Origin", "http://localhost:1"),
        ("Sec-Fetch-Site", "cross-site"),
    ] {
        for &route in Route::ALL.iter().filter(|route| route.spec().method == Method::Post) {
            let path = &example(route);
            let answer = ask(&place, "POST", path, &with(&[fields]), "{}");
            assert_eq!((answer.status, answer.error()), (403, "origin_not_allowed"), "{path} {fields:?}");
            assert_eq!(answer.header("Set-Cookie"), None);
        }
    }
    let mut wire = place.wire();
    let form = "token=x";
    wire.send(format!(
        "POST /api/pipeline/stop HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    ));
    assert_eq!(wire.answer().error(), "unsupported_media_type");
    let mut wire = place.wire();
    wire.send(format!("POST /api/pipeline/stop HTTP/1.1\r\nHost: evil.example\r\n{lines}\r\n"));
    assert_eq!(wire.answer().error(), "host_not_allowed", "a bent name, with the cookie");
    let answer = ask(
        &place,
        "GET",
        "/api/pipeline",
        &with(&[("Origin", "http://evil.example"), ("Upgrade", "websocket"), ("Connection", "Upgrade")]),
        "",
    );
    assert_eq!((answer.status, answer.error()), (403, "origin_not_allowed"));
    assert_eq!(place.footprint(), before);
}

/// Another port is the same site: a browser sends it the cookie, `SameSite=Strict` or not.
#[test]
fn same_site_page_needs_its_own_token() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.set_env("AUTOAPPDEV_ALLOW_ORIGIN", "http://localhost:3000,https://board.example");
    place.set_env("AUTOAPPDEV_ALLOW_HOST", "board.example");
    place.use_token(TOKEN);
    place.start_server();
    let log_in = log_in(&place, TOKEN);
    let (own, neighbour) = (log_in.fields(), ("Origin", "http://localhost:3000"));
    let before = place.footprint();
    // Refused even with the right proof, because the proof is in the storage of another origin.
    for fields in [[&own[..], &[neighbour]].concat(), [&own[..], &[neighbour, ("Sec-Fetch-Site", "same-site")]].concat()] {
        for (method, path, body) in
            [("POST", "/api/pipeline/start", "{}"), ("GET", "/api/pipeline", ""), ("GET", "/api/events", "")]
        {
            let answer = ask(&place, method, path, &fields, body);
            assert_eq!((answer.status, answer.error()), (401, "unauthorized"), "{method} {path} {fields:?}");
        }
    }
    assert_eq!(place.footprint(), before);
    let bearer = format!("Bearer {TOKEN}");
    assert_eq!(ask(&place, "POST", "/api/pipeline/start", &[neighbour, ("Authorization", &bearer)], "").status, 200);
    // The page itself, through a proxy that handles TLS. Either the Host is passed on, or the browser states the site.
    let mut wire = place.wire();
    let lines = format!("Cookie: {}\r\nX-AutoAppDev-Proof: {}\r\n", log_in.cookie, log_in.proof);
    let fields = format!("{lines}Origin: https://board.example\r\nContent-Type: application/json\r\n");
    wire.send(format!("POST /api/pipeline/pause HTTP/1.1\r\nHost: board.example\r\n{fields}\r\n"));
    assert_eq!(wire.answer().status, 200);
    let by_tls = [own[0], own[1], ("Origin", "https://board.example"), ("Sec-Fetch-Site", "same-origin")];
    assert_eq!(ask(&place, "POST", "/api/pipeline/stop", &by_tls, "{}").status, 200);
}

#[test]
fn guessing_slows_down_only_the_guesser() {
    let place = closed_place();
    let (guesser, other) = ("127.0.0.2", "127.0.0.3");
    let log_in = log_in_from(guesser, &place, TOKEN);
    let bearer = format!("Bearer {TOKEN}");
    let look = |from: &str, bearer: &str| ask_from(from, &place, "GET", "/api/pipeline", &[("Authorization", bearer)], "");
    let wrong = |guess: u32| {
        let body = json!({"token": format!("guess-number-{guess}-of-many")}).to_string();
        ask_from(guesser, &place, "POST", "/api/login", &[], &body)
    };
    // On a slow machine, a wait of one second may have ended before the next guess. The waits grow until one is observed.
    let refused = (0..100).map(wrong).find(|answer| answer.status != 401).expect("it does not go on like that");
    assert_eq!((refused.status, refused.error()), (429, "too_many_tries"));
    assert!(refused.header("Retry-After").is_some_and(|wait| (1..=300).contains(&wait.parse::<u64>().expect("seconds"))));
    assert_eq!(look(other, &bearer).status, 200, "another address does not wait");
    let with_session = ask_from(guesser, &place, "GET", "/api/pipeline", &log_in.fields(), "");
    assert_eq!(with_session.status, 200, "who is logged in does not wait either");
    until_true("the wait has an end", || look(guesser, &bearer).status == 200);
}

#[test]
fn invalid_token_setting_is_reported_without_its_value() {
    let place = Place::new();
    let settings = |variables: &[(&str, &str)]| {
        let mut command = place.command();
        command.envs(variables.iter().copied()).arg("serve").stdin(Stdio::null());
        let output = command.output().expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    };
    for (variables, advice) in [
        (&[("AUTOAPPDEV_TOKEN", "SECRET-short")][..], "AUTOAPPDEV_TOKEN=… is too short"),
        (&[("AUTOAPPDEV_READ_TOKEN", "SECRET with blanks in it")], "AUTOAPPDEV_READ_TOKEN=… has a blank"),
        (
            &[("AUTOAPPDEV_TOKEN", "SECRET-and-the-same"), ("AUTOAPPDEV_READ_TOKEN", "SECRET-and-the-same")],
            "is the same as AUTOAPPDEV_TOKEN",
        ),
    ] {
        let (code, said) = settings(variables);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(advice) && !said.contains("SECRET"), "{said}");
    }
    fs::create_dir(place.runtime()).expect("creates");
    let file = place.runtime().join("read-token");
    fs::write(&file, "SECRET-that-others-can-read").expect("writes");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("ours");
    let said = place.refused_server(("AUTOAPPDEV_TOKEN", TOKEN));
    assert!(said.contains("chmod 600") && said.contains("read-token") && !said.contains("SECRET"), "{said}");
    // Every server needs usable token files, because other users of the machine log in with a token at any of them.
    fs::remove_file(&file).expect("there");
    let mut place = place;
    place.start_server();
    assert_eq!(place.get("/api/pipeline").status, 200);
}

#[test]
fn client_commands_send_token_from_runtime_directory_or_setting() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    // Over its Unix socket the server would not require a token.
    place.set_env("AUTOAPPDEV_SOCKET", "off");
    // One token is set, so the server creates the other. It is in the runtime directory, where the owner's commands find it and
    // prefer it to the other one.
    place.set_env("AUTOAPPDEV_READ_TOKEN", READ_TOKEN);
    place.start_server();
    let file = place.runtime().join("token");
    let token = fs::read_to_string(&file).expect("it was made").trim().to_owned();
    place.bring_token(&token);
    assert_eq!(place.client(&["start"]).0, 0);
    assert_eq!(place.state(), "running");
    // Without that file, a client with the other token can only read.
    fs::rename(&file, place.folder().join("elsewhere")).expect("moves");
    assert_eq!(place.client(&["status"]).0, 0);
    let (code, _, said) = place.client(&["stop"]);
    assert!(code == 1 && said.contains("allows reading only"), "{said}");
    place.unset_env("AUTOAPPDEV_READ_TOKEN");
    let (code, _, said) = place.client(&["status"]);
    assert!(code == 1 && said.contains("a token is needed") && said.contains("AUTOAPPDEV_TOKEN"), "{said}");
    // A server that the user names gets the configured token, and none from this folder.
    fs::rename(place.folder().join("elsewhere"), &file).expect("moves");
    let url = format!("http://127.0.0.1:{}", place.port());
    assert_eq!(place.client(&["status", "--url", &url]).0, 1);
    place.set_env("AUTOAPPDEV_TOKEN", &token);
    assert_eq!(place.client(&["stop", "--now", "--url", &url]).0, 0);
    assert_eq!(place.state(), "stopped");

    place.unset_env("AUTOAPPDEV_SOCKET");
    place.restart_server();
    fs::remove_file(&file).expect("there");
    place.unset_env("AUTOAPPDEV_TOKEN");
    assert_eq!(place.client(&["start"]).0, 0, "the socket's mode is the proof");
}

/// The process that listens at a killed server's port may belong to another user of the machine.
#[test]
fn token_is_not_sent_to_address_of_killed_server() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_HOST", "127.0.0.1");
    place.set_env("AUTOAPPDEV_READ_TOKEN", READ_TOKEN);
    place.start_server();
    let port = place.port();
    let token = fs::read_to_string(place.runtime().join("token")).expect("it was made").trim().to_owned();
    place.unset_env("AUTOAPPDEV_READ_TOKEN");
    place.kill_server();
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    listener.set_nonblocking(true).expect("ours");
    for command in ["status", "stop", "pair"] {
        let (code, _, said) = place.client(&[command]);
        assert!(code == 4 && said.contains("no server is running for") && !said.contains(&token), "{said}");
        assert!(listener.accept().is_err(), "what a killed server has written leads nowhere: {command}");
    }
    // The server at the default port is asked for its identity, and is sent no token.
    let stranger = thread::spawn(move || {
        listener.set_nonblocking(false).expect("ours");
        let (mut stream, _) = listener.accept().expect("somebody calls");
        stream.set_read_timeout(Some(DEADLINE)).expect("ours");
        let mut heard = Vec::new();
        while !heard.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head");
            heard.push(byte[0]);
        }
        heard
    });
    fs::write(place.folder().join(".env"), format!("PORT={port}\nAUTOAPPDEV_TOKEN={token}\n")).expect("written");
    let output = place.command().env_remove("AUTOAPPDEV_PORT").arg("stop").output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    let heard = stranger.join().expect("it was asked");
    assert!(heard.starts_with(b"GET /api/version ") && !holds(&heard, &token), "{}", String::from_utf8_lossy(&heard));
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            found.insert(path.display().to_string(), fs::read(&path).expect("ours"));
        }
    }
    found
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

#[test]
fn secrets_are_absent_from_logs_files_responses_and_processes() {
    for is_made in [false, true] {
        let mut place = Place::new();
        place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
        place.set_env("AUTOAPPDEV_READ_TOKEN", READ_TOKEN);
        // The variables that a service manager would set for the server.
        let notify = place.folder().join("notify.sock").display().to_string();
        let managers = [
            ("NOTIFY_SOCKET", notify.as_str()),
            ("LISTEN_FDS", "0"),
            ("LISTEN_PID", "1"),
            ("LISTEN_FDNAMES", "marked-fdname"),
            ("WATCHDOG_USEC", "987654321987"),
            ("WATCHDOG_PID", "1"),
        ];
        for (name, value) in managers {
            place.set_env(name, value);
        }
        if !is_made {
            place.use_token(TOKEN);
        }
        place.start_server();
        let kept = |name: &str| fs::read_to_string(place.runtime().join(name)).expect("it was made").trim().to_owned();
        let token = if is_made { kept("token") } else { TOKEN.to_owned() };
        let session_key = kept("session-key");
        place.bring_token(&token);
        let (log_in, reader) = (log_in(&place, &token), log_in(&place, READ_TOKEN));
        let secret_of_the_script = "known-to-the-script-only-5512";

        // Sends everything that might be recorded somewhere: wrong tokens, tokens in wrong places, broken requests.
        let (pid, run_id) = place.start_with(json!({"env": {"API_SECRET": secret_of_the_script}}));
        let wrong = "a-wrong-token-that-is-nearly-right";
        for _ in 0..7 {
            ask_from("127.0.0.9", &place, "POST", "/api/login", &[], &json!({ "token": wrong }).to_string());
        }
        ask(&place, "GET", &format!("/api/pipeline?token={token}"), &log_in.fields(), "");
        // A download has its proof in the URL.
        let download = format!("/api/runs/{run_id}/log?download=1&proof={}", log_in.download_proof);
        assert_eq!(ask(&place, "GET", &download, &[("Cookie", &log_in.cookie)], "").status, 200);
        let code = place.post("/api/pair", json!({})).ok()["code"].as_str().expect("a code").to_owned();
        ask(&place, "POST", "/api/login", &[], &format!("{{\"token\":\"{token}"));
        ask(&place, "GET", "/api/runs?limit=x", &[("Authorization", &format!("Bearer {token}"))], "");
        let mut wire = place.wire();
        wire.send(format!("GET /api/pipeline HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nX: a\rb\r\n\r\n"));
        assert_eq!(wire.answer().status, 400);
        until_true("the log has the guesser", || {
            holds(&fs::read(place.runtime().join("backend.log")).expect("there"), "127.0.0.9")
        });
        let shim = place.shim_pid(run_id);

        let of_log_ins = [&log_in, &reader].into_iter().flat_map(|it| [&it.cookie, &it.proof, &it.download_proof]);
        // Only the secret of a cookie: its id appears in the list of sessions.
        let of_log_ins = of_log_ins.map(|text| text.rsplit('.').next().expect("a part"));
        let secrets: Vec<&str> = [token.as_str(), READ_TOKEN, &session_key, &code, wrong].into_iter().chain(of_log_ins).collect();
        let look = |what: &str, bytes: &[u8], own: &[&str]| {
            for secret in secrets.iter().chain(&[secret_of_the_script]).filter(|secret| !own.contains(secret)) {
                assert!(!holds(bytes, secret), "{secret} is in {what}");
            }
        };
        let others = ["/api/logs?source=backend", "/api/logs/tail?source=backend", "/static/login.js"].map(String::from);
        for path in reads().iter().chain(&others) {
            let answer = place.get(path);
            look(path, format!("{} {:?}", answer.body, answer.headers).as_bytes(), &[]);
        }
        for process in [place.server_pid(), shim, pid] {
            let file = |name: &str| fs::read(format!("/proc/{process}/{name}")).expect("ours");
            look("a command line", &file("cmdline"), &[]);
            if process != place.server_pid() {
                // The script's own secret is in its environment, and nowhere else.
                let own: &[&str] = if process == pid { &[secret_of_the_script] } else { &[] };
                let environment = file("environ");
                look("an environment", &environment, own);
                for (name, value) in managers.iter().chain(&[("AUTOAPPDEV_TOKEN", TOKEN), ("AUTOAPPDEV_READ_TOKEN", READ_TOKEN)])
                {
                    assert!(
                        !holds(&environment, &format!("{name}=")) && (value.len() < 5 || !holds(&environment, value)),
                        "{name} is in it"
                    );
                }
            }
        }
        place.act("stop").ok();
        place.until_settled(run_id);
        let (code, said) = place.stop_server_and_listen();
        assert!(code == 0 && said.contains("asks for the token"), "{said}");
        look("what it says", said.as_bytes(), &[]);
        let all = files(place.folder());
        assert!(all.keys().any(|name| name.ends_with("journal.jsonl")) && all.keys().any(|name| name.ends_with("autoappdev.db")));
        for (name, bytes) in &all {
            let own: &[&str] = match name.rsplit('/').next() {
                Some("token") => &[token.as_str()],
                Some("session-key") => &[session_key.as_str()],
                _ => &[],
            };
            look(name, bytes, own);
            if name.ends_with("token") || name.ends_with("session-key") {
                let mode = fs::metadata(name).expect("there").permissions().mode();
                assert_eq!(mode & 0o7777, 0o600, "{name}");
            }
        }
        assert_eq!(all.keys().any(|name| name.ends_with("/token")), is_made, "one that is set is not written down");
        assert!(!all.keys().any(|name| name.ends_with("/read-token")));
    }
}

#[test]
fn if_none_match_accepts_lists_weak_tags_and_star() {
    let place = Place::new();
    let mut place = place;
    place.start_server();
    for path in ["/", "/static/app.js", "/api/pipeline"] {
        let tag = place.get(path).header("ETag").expect("a tag").to_owned();
        for (have, status) in [
            (format!("\"x\", {tag}"), 304),
            (format!("W/{tag}"), 304),
            ("*".to_owned(), 304),
            ("\"x\"".to_owned(), 200),
            (tag.replace('"', ""), 200),
        ] {
            let answer = place.request("GET", path, &[("If-None-Match", &have)], None);
            assert_eq!((answer.status, answer.header("ETag")), (status, Some(tag.as_str())), "{path} {have}");
            assert_eq!(status == 304, answer.body == Value::String(String::new()));
        }
    }
}
