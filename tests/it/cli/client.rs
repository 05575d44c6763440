//! The client commands as a user runs them: the real binary against a small real server.

use std::fs;

use crate::fake_server::{FakeServer, Reply, Request};

use super::command::{announce, command, finished, folder, hold, run_against, run_in, write_server_json};
use super::follow::Log;

const RUNNING: &str = r#"{"pipeline":{"state":"running","pending":null,"allowed":["pause","stop"],"pid":4711,"run_id":7,
"started_at":"2026-01-31T10:00:00.123Z","paused_at":null,"resumed_at":null,"stopped_at":null,
"updated_at":"2026-01-31T10:00:00.123Z","version":15,"status":"running","script":"demo.sh","exit_code":null,"signal":null,"error":null}}"#;

const REFUSAL: &str = r#"{"ok":false,"error":"invalid_transition","detail":"cannot pause when stopped","from":"stopped","action":"pause","pending":null}"#;

#[test]
fn missing_command_prints_help_and_exits_with_0() {
    let folder = folder();
    let (code, out, err) = run_in(folder.path(), &[]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("Usage: autoappdev") && out.contains("4  no server answers"), "{out}");
    assert_eq!(run_in(folder.path(), &["--help"]).1, out);
    assert_eq!(run_in(folder.path(), &["--version"]).0, 0);
}

#[test]
fn invalid_usage_and_settings_exit_with_2() {
    let folder = folder();
    for args in [
        &["nonsense"][..],
        &["stop", "--grace", "1", "--now"],
        &["serve", "--port", "abc"],
        &["check", "--database", "mysql://x"],
    ] {
        let (code, out, err) = run_in(folder.path(), args);
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
    }
    let output = command(folder.path(), &["status"]).env("AUTOAPPDEV_PORT", "abc").output().expect("the binary runs");
    let sentence = "autoappdev: AUTOAPPDEV_PORT=abc is not a port: a number from 0 to 65535\n";
    assert_eq!(finished(output), (2, String::new(), sentence.to_owned()));
    fs::write(folder.path().join(".env"), "nonsense\nAUTOAPPDEV_PORT 1\n").expect("written");
    assert_eq!(
        run_in(folder.path(), &["status"]),
        (2, String::new(), "autoappdev: line 2 of .env is not KEY=value\n".to_owned())
    );
}

#[test]
fn status_prints_one_line_or_unchanged_json() {
    let server = FakeServer::canned(200, RUNNING);
    let (code, out, err) = run_against(&server, &["status"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("running  run 7  pid 4711  demo.sh  since "), "{out}");
    assert!(out.ends_with(" (2026-01-31 10:00:00 UTC)\n"), "{out}");
    let (code, out, err) = run_against(&server, &["status", "--json"]);
    assert_eq!((code, out, err), (0, RUNNING.replace('\n', "") + "\n", String::new()));
}

#[test]
fn refusal_by_state_exits_with_3() {
    let server = FakeServer::canned(409, REFUSAL);
    let sentence = "autoappdev: cannot pause when stopped\n".to_owned();
    assert_eq!(run_against(&server, &["pause"]), (3, String::new(), sentence.clone()));
    assert_eq!(run_against(&server, &["pause", "--json"]), (3, format!("{REFUSAL}\n"), sentence));
}

#[test]
fn other_failure_exits_with_1_and_escapes_control_characters() {
    let server = FakeServer::canned(404, r#"{"ok":false,"error":"script_not_found","detail":"no script \u001b[2J"}"#);
    assert_eq!(run_against(&server, &["start", "x"]), (1, String::new(), "autoappdev: no script \\u{1b}[2J\n".to_owned()));
    let server = FakeServer::canned(503, r#"{"ok":false,"error":"server_stopping"}"#);
    assert_eq!(run_against(&server, &["resume"]), (1, String::new(), "autoappdev: server_stopping\n".to_owned()));
}

#[test]
fn response_of_another_program_exits_with_1() {
    for server in
        [FakeServer::canned(200, "<html>"), FakeServer::canned(500, "oops"), FakeServer::canned(200, r#"{"pipeline":{}}"#)]
    {
        let (code, out, err) = run_against(&server, &["status"]);
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert!(err.contains(&format!("the response from {} cannot be understood", server.url())), "{err}");
    }
}

#[test]
fn unreachable_server_exits_with_4() {
    let folder = folder();
    // Port 1 is reserved (tcpmux) and closed.
    let sentence = "autoappdev: no server answers at http://127.0.0.1:1; start one with `autoappdev serve`\n";
    for args in [&["status"][..], &["stop", "--now"], &["logs", "-f"], &["runs", "--json"]] {
        let args = [&["--url", "http://127.0.0.1:1"], args].concat();
        assert_eq!(run_in(folder.path(), &args), (4, String::new(), sentence.to_owned()), "{args:?}");
    }
}

#[test]
fn action_without_key_support_is_not_repeated_after_lost_response() {
    for reply in [Reply::Nothing, Reply::Half(RUNNING.to_owned())] {
        let server = FakeServer::start(move |_| reply.clone());
        let (code, out, err) = run_against(&server, &["stop", "--now"]);
        assert_eq!((code, out.as_str()), (4, ""), "{err}");
        assert!(err.contains("was cut off") && err.contains("`autoappdev status`"), "{err}");
        let asked: Vec<_> = server.requests().into_iter().map(|request| request.line).collect();
        assert_eq!(asked, ["POST /api/pipeline/stop", "GET /api/version"]);
    }
}

#[test]
fn redirect_is_not_followed() {
    let elsewhere = FakeServer::canned(200, RUNNING);
    let to = format!("{}/api/pipeline", elsewhere.url());
    let server = FakeServer::start(move |_| Reply::Redirect(to.clone()));
    assert_eq!(run_against(&server, &["status"]).0, 1);
    assert_eq!(elsewhere.requests().len(), 0);
}

#[test]
fn actions_send_documented_requests() {
    let server = FakeServer::canned(200, r#"{"ok":true,"state":"running","pid":4711,"run_id":7,"version":15}"#);
    let line = ["start", "a.sh", "--cwd", "d", "--env", "A=ä", "--grace", "2.5", "--", "-v", "a b"];
    assert_eq!(run_against(&server, &line), (0, "running  run 7  pid 4711\n".to_owned(), String::new()));
    for args in [&["pause"][..], &["resume"], &["stop"], &["stop", "--grace", "5"], &["stop", "--now"]] {
        assert_eq!(run_against(&server, args).0, 0);
    }
    let requests = server.requests();
    let asked: Vec<_> = requests.iter().map(|request| (request.line.as_str(), request.body.as_str())).collect();
    assert_eq!(
        asked,
        [
            ("POST /api/pipeline/start", r#"{"script":"a.sh","args":["-v","a b"],"cwd":"d","env":{"A":"ä"},"grace_s":2.5}"#),
            ("POST /api/pipeline/pause", "{}"),
            ("POST /api/pipeline/resume", "{}"),
            ("POST /api/pipeline/stop", "{}"),
            ("POST /api/pipeline/stop", r#"{"grace_s":5.0}"#),
            ("POST /api/pipeline/stop", r#"{"grace_s":0.0}"#),
        ]
    );
    let headers = &requests[0].headers;
    assert!(headers.contains(&"content-type: application/json".to_owned()), "{headers:?}");
    assert!(headers.contains(&format!("host: {}", server.address)), "{headers:?}");
}

#[test]
fn action_prints_the_started_script_and_warnings() {
    let answer = r#"{"ok":true,"state":"running","pid":4711,"run_id":7,"script":"demo.sh","version":15,
        "conditions":[{"code":"disk_low","since":"2026-01-31T10:00:00.000Z","detail":"little space is left"}]}"#;
    let server = FakeServer::canned(200, answer);
    let warning = "autoappdev: warning: little space is left (since 2026-01-31 10:00:00 UTC)\n".to_owned();
    assert_eq!(run_against(&server, &["start"]), (0, "running  run 7  pid 4711  demo.sh\n".to_owned(), warning.clone()));
    for action in ["pause", "resume", "stop"] {
        let (code, out, err) = run_against(&server, &[action, "--json"]);
        assert_eq!((code, out, err), (0, answer.replace('\n', "") + "\n", warning.clone()), "{action}");
    }
}

#[test]
fn status_shows_conditions_and_json_passes_them_through() {
    let wrong = r#""conditions":[{"code":"not_recorded","since":"2026-01-31T10:05:00.456Z","detail":"run 7 ended"}],"default_script":"other.sh","#;
    let document = RUNNING.replacen(r#""pending""#, &format!(r#"{wrong}"pending""#), 1);
    let server = FakeServer::canned(200, &document);
    let (code, out, err) = run_against(&server, &["status"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("last recorded: running  run 7  "), "{out}");
    assert_eq!(
        lines[1..],
        ["warning: run 7 ended (since 2026-01-31 10:05:00 UTC)", "start     `autoappdev start` starts other.sh",]
    );
    assert_eq!(run_against(&server, &["status", "--json"]), (0, document.replace('\n', "") + "\n", String::new()));
}

/// Each command with each flag that every command takes: it either has an effect or is refused.
#[test]
fn every_command_uses_or_refuses_each_flag() {
    let server = FakeServer::start(|request| match request.line.as_str() {
        "GET /api/pipeline" => Reply::Json(200, RUNNING.to_owned()),
        line if line.starts_with("GET /api/logs") => Log::default().answer(request),
        line if line.starts_with("GET /api/runs") => {
            Reply::Json(200, r#"{"runs":[],"next_before":null,"searched_all":true}"#.to_owned())
        }
        "GET /api/sessions" => Reply::Json(200, r#"{"sessions":[]}"#.to_owned()),
        "POST /api/pair" => {
            Reply::Json(200, r#"{"ok":true,"may":"act","code":"x","expires_at":"2026-01-31T10:00:00.000Z"}"#.to_owned())
        }
        _ => Reply::Json(200, r#"{"ok":true,"state":"running","run_id":7,"pid":1,"version":15}"#.to_owned()),
    });
    assert!(run_in(folder().path(), &["logs", "--help"]).1.contains(r"(\u{1b})"), "an escape in a text of ours is no character");
    let help = run_in(folder().path(), &["--help"]).1;
    let listed = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("a list of commands");
    let commands: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() > 10 && commands.contains(&"check"), "{commands:?}");
    for command in commands {
        let folder = folder();
        let run = |flags: &[&str], token: bool| {
            let mut command = self::command(folder.path(), &[flags, &[command]].concat());
            if token {
                command.env("AUTOAPPDEV_TOKEN", "a-token-of-a-test");
            }
            finished(command.output().expect("the binary runs"))
        };
        let refused = |(code, out, err): (i32, String, String)| {
            assert_eq!((code, out.as_str()), (2, ""), "{command}: {err}");
            assert!(err.starts_with(&format!("autoappdev: {command} does not use --")), "{err}");
        };
        if command == "help" {
            continue;
        }
        // `serve` would run a server, so the flag must be refused before anything else.
        if command == "serve" {
            refused(run(&["--json"], false));
        } else if matches!(command, "migrate" | "check") {
            // The order matters: `migrate` creates the database that `check` checks.
            assert_eq!(run_in(folder.path(), &["migrate"]).0, 0);
            let (code, out, err) = run(&["--json"], false);
            assert_eq!((code, err.as_str()), (0, ""), "{command}");
            let document: serde_json::Value = serde_json::from_str(&out).expect("one JSON document");
            assert_eq!(document["ok"], true, "{command}: {out}");
        } else {
            let (code, out, err) = run(&["--json", "--url", &server.url()], true);
            assert_eq!((code, err.as_str()), (0, ""), "{command}");
            assert!(serde_json::from_str::<serde_json::Value>(&out).is_ok(), "{command}: {out}");
        }
        if matches!(command, "serve" | "migrate" | "check") {
            refused(run(&["--url", &server.url()], false));
        }
    }
    for flag in [&["--json"][..], &["--url", "http://127.0.0.1:1"]] {
        let (code, out, err) = run_in(folder().path(), flag);
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        assert!(err.starts_with(&format!("autoappdev: {} needs a command\n", flag[0])), "{err}");
    }
}

#[test]
fn check_json_reports_the_problem() {
    let folder = folder();
    assert_eq!(run_in(folder.path(), &["migrate", "--json"]).0, 0);
    let database = folder.path().join("runtime/autoappdev.db");
    let connection = rusqlite::Connection::open(&database).expect("a database");
    connection.execute_batch("CREATE TABLE stray (id INTEGER)").expect("made");
    drop(connection);
    let (code, out, _) = run_in(folder.path(), &["check", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&out).expect("one JSON document");
    assert_eq!((code, &document["ok"]), (1, &false.into()), "{out}");
    let schema =
        document["steps"].as_array().and_then(|steps| steps.iter().find(|step| step["name"] == "schema")).expect("a step");
    assert_eq!(schema["ok"], false);
    assert!(schema["found"].as_str().is_some_and(|found| found.contains("stray")), "{schema}");
}

#[test]
fn every_error_begins_with_the_program_name() {
    let folder = folder();
    for (args, code, sentence) in [
        (&["nonsense"][..], 2, "unrecognized subcommand 'nonsense'"),
        (&["stop", "--grace", "x"], 2, "invalid value 'x' for '--grace <SECONDS>'"),
        (&["stop", "--grace", "1", "--now"], 2, "the argument '--grace <SECONDS>' cannot be used with '--now'"),
        (
            &["logs", "--since", "tomorrow"],
            2,
            "invalid value 'tomorrow' for '--since <WHEN>': give a duration (90s, 1h30m, 3 days), ",
        ),
        (&["logs", "--source", "backend", "--run", "1"], 2, "--run is for the pipeline's lines"),
        (&["serve", "--port", "abc"], 2, "abc is not a port"),
        (&["serve", "--json"], 2, "serve does not use --json; remove it"),
        (&["check"], 1, "there is no such file"),
        (&["--url", "http://127.0.0.1:1", "status"], 4, "no server answers at"),
        // No resolver is asked for a name with an empty part.
        (&["--url", "http://a..b:1", "status"], 4, "no server answers at"),
    ] {
        let (found, out, err) = run_in(folder.path(), args);
        assert_eq!((found, out.as_str()), (code, ""), "{args:?}: {err}");
        let first = err.lines().next().unwrap_or_default();
        assert!(first.starts_with("autoappdev: ") && first.contains(sentence), "{args:?}: {err}");
        assert!(!err.contains("error:"), "{err}");
    }
}

#[test]
fn unprintable_response_exits_with_1() {
    let server = FakeServer::canned(200, RUNNING);
    let folder = folder();
    // Every write to this device fails with ENOSPC (`full(4)`).
    let full = fs::File::options().write(true).open("/dev/full").expect("Linux has it");
    let output = command(folder.path(), &["--url", &server.url(), "status"]).stdout(full).output().expect("the binary runs");
    let (code, _, err) = finished(output);
    assert_eq!(code, 1);
    assert!(err.starts_with("autoappdev: cannot write the output: "), "{err}");
}

#[test]
fn unprintable_help_and_version_exit_with_1() {
    let folder = folder();
    for args in [&[][..], &["--help"], &["-h"], &["help"], &["--version"], &["logs", "--help"]] {
        let full = fs::File::options().write(true).open("/dev/full").expect("Linux has it");
        let (code, _, err) = finished(command(folder.path(), args).stdout(full).output().expect("the binary runs"));
        assert!(code == 1 && err.starts_with("autoappdev: cannot write the output: "), "{args:?}: {code} {err}");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = command(folder.path(), args).stdout(writer).output().expect("the binary runs");
        assert_eq!(finished(output), (0, String::new(), String::new()), "{args:?}: the reader has gone away");
    }
}

#[test]
fn runs_command_lists_and_shows_runs() {
    let run = r#"{"id":7,"status":"failed","pid":4711,"script":"demo.sh","cwd":"/srv","args":[],"created_at":"2026-01-31T10:00:00.000Z",
        "started_at":"2026-01-31T10:00:00.000Z","stopped_at":"2026-01-31T10:00:09.000Z","exit_code":null,"signal":9,"paused_ms":0,
        "cpu_user_ms":1,"cpu_system_ms":1,"max_rss_kb":1,"error":null}"#;
    let server = FakeServer::canned(200, &format!(r#"{{"runs":[{run}],"next_before":null,"searched_all":true,"run":{run}}}"#));
    let (code, out, _) = run_against(&server, &["runs", "--limit", "3"]);
    assert_eq!((code, out.lines().nth(1)), (0, Some("  7  2026-01-31 10:00:00 UTC  9.0 s  demo.sh  ended by SIGKILL")));
    let (code, out, _) = run_against(&server, &["runs", "7"]);
    assert_eq!((code, out.lines().next()), (0, Some("run 7  demo.sh  ended by SIGKILL")));
    for (args, shown) in [
        (r#"["--lr","0.1","a b","\u001b[2J"]"#, r"demo.sh --lr 0.1 'a b' '\u{1b}[2J'".to_owned()),
        (&*format!(r#"["{}"]"#, "x".repeat(300)), format!("demo.sh {}...", "x".repeat(49))),
    ] {
        let run = run.replace(r#""args":[]"#, &format!(r#""args":{args}"#));
        let server = FakeServer::canned(200, &format!(r#"{{"runs":[{run}],"next_before":null,"searched_all":true}}"#));
        let (code, out, _) = run_against(&server, &["runs"]);
        assert!(code == 0 && out.ends_with(&format!("  {shown}  ended by SIGKILL\n")), "{out}");
    }
    let lines: Vec<_> = server.requests().into_iter().map(|request| request.line).collect();
    assert_eq!(lines, ["GET /api/runs?limit=3", "GET /api/runs/7"]);
}

/// Returns a header field that the client sent.
fn header(request: &Request, name: &str) -> Option<String> {
    request.headers.iter().find_map(|header| header.strip_prefix(&format!("{name}: ")).map(str::to_owned))
}

#[test]
fn client_uses_only_server_named_by_live_server_json_or_user() {
    let server = FakeServer::canned(200, r#"{"ok":true,"state":"stopped","run_id":7,"version":16}"#);
    let folder = folder();
    let port = server.address.port();
    let run = |envs: &[(&str, &str)]| {
        let output = command(folder.path(), &["stop"]).envs(envs.iter().copied()).output().expect("the binary runs");
        finished(output)
    };
    let none = format!("autoappdev: no server is running for {}", folder.path().canonicalize().expect("there").display());
    // A default and a `.env` file do not name a server. The server at that address is only asked for its identity, and gets no
    // token.
    let dotenv = |text: &str| fs::write(folder.path().join(".env"), text).expect("written");
    for name in ["PORT", "AUTOAPPDEV_PORT"] {
        dotenv(&format!("{name}={port}\nAUTOAPPDEV_TOKEN=the-token-of-this-folder\n"));
        let (code, out, err) = run(&[]);
        assert_eq!((code, out.as_str()), (4, ""), "{err}");
        let sentence =
            format!("{none}; start one with `autoappdev serve --port PORT` (another program answers on 127.0.0.1:{port})\n");
        assert_eq!(err, sentence);
    }
    dotenv(&format!("AUTOAPPDEV_URL={}\n", server.url()));
    let (code, _, err) = run(&[]);
    assert_eq!(
        (code, err),
        (4, format!("{none} (.env names {}, but only --url or the environment can name a server)\n", server.url()))
    );
    let asked = server.requests();
    assert!(asked.iter().all(|request| request.line == "GET /api/version"), "{asked:?}");
    assert!(asked.iter().all(|request| header(request, "authorization").is_none()), "{asked:?}");

    // A `server.json` is valid while its directory is locked, wherever the directory is.
    dotenv("AUTOAPPDEV_RUNTIME_DIR=data\nPORT=1\n");
    fs::create_dir(folder.path().join("data")).expect("made");
    write_server_json(&folder.path().join("data"), "abc", &server);
    let (code, _, err) = run(&[]);
    assert_eq!((code, err), (4, format!("{none}/data; start one with `autoappdev serve`\n")), "it is stale");
    let lock = hold(&folder.path().join("data"));
    let (code, _, err) = run_in(folder.path(), &["status"]);
    assert!(code == 1 && err.contains("cannot be understood"), "{err}");
    let asked = server.requests().pop().expect("the question");
    assert_eq!((asked.line.as_str(), header(&asked, "autoappdev-server").as_deref()), ("GET /api/pipeline", Some("abc")));
    drop(lock);

    // The environment names an address, and the identity of the server there does not matter.
    let port = port.to_string();
    let url = server.url();
    for named in
        [&[("AUTOAPPDEV_PORT", &*port)][..], &[("AUTOAPPDEV_HOST", "127.0.0.1"), ("PORT", &port)], &[("AUTOAPPDEV_URL", &url)]]
    {
        assert_eq!(run(named).0, 0, "{named:?}");
        let asked = server.requests().pop().expect("the stop");
        assert_eq!((asked.line.as_str(), header(&asked, "autoappdev-server")), ("POST /api/pipeline/stop", None));
    }
    let count = server.requests().len();
    for unnamed in
        [&[("PORT", &*port)][..], &[("AUTOAPPDEV_PORT", "0")], &[("AUTOAPPDEV_HOST", "0.0.0.0"), ("AUTOAPPDEV_PORT", "0")]]
    {
        assert_eq!(run(unnamed).0, 4, "{unnamed:?}");
    }
    let told = server.requests().split_off(count);
    assert!(told.iter().all(|request| request.line == "GET /api/version"), "{told:?}");
}

#[test]
fn refusal_by_another_server_counts_as_no_server() {
    let other = r#"{"ok":false,"error":"other_server","detail":"not this one"}"#;
    let server = FakeServer::canned(421, other);
    let folder = folder();
    fs::write(folder.path().join(".env"), "PORT=1\n").expect("written");
    let _lock = announce(folder.path(), &server);
    let (code, out, err) = run_in(folder.path(), &["status", "--json"]);
    assert!(code == 4 && out.is_empty() && err.contains("does not answer at its recorded address"), "{err}");
    // Only the code `other_server` means that nothing was done.
    let server = FakeServer::canned(421, &other.replace("other_server", "host_not_allowed"));
    let _lock = announce(folder.path(), &server);
    assert_eq!(run_in(folder.path(), &["status"]), (1, String::new(), "autoappdev: not this one\n".to_owned()));
}
