//! Text from a script, a name or a server cannot control the terminal on which a client command prints it.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;

use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use serde_json::json;

use crate::fake_server::FakeServer;
use crate::support::{DEADLINE, Place, signal, until};

/// Sequences that set the clipboard and the title, make the terminal reply, overwrite other lines, hide text, and change the
/// reading direction: in 7-bit and 8-bit form, truncated, and too long.
const ATTACKS: [&str; 24] = [
    "\u{1b}]52;c;cm0gLXJmIH4=\u{7}",
    "\u{1b}]52;c;cm0gLXJmIH4=\u{1b}\\",
    "\u{1b}]0;title\u{7}",
    "\u{9d}0;title\u{9c}",
    "\u{1b}[c",
    "\u{1b}[>c\u{1b}[=c\u{1b}[5n\u{1b}[6n",
    "\u{1b}P$qm\u{1b}\\",
    "\u{90}$qm\u{9c}",
    "\u{1b}[21t\u{1b}[18t",
    "\u{9b}6n",
    "\u{1b}[2A\u{1b}[1G",
    "\u{1b}[2J\u{1b}[H\u{1b}[1;1f",
    "\u{1b}[1K\u{1b}[1J\u{1b}[3X\u{1b}[2P",
    "\u{1b}M\u{1b}D\u{1b}E\u{85}\u{8d}",
    "\u{1b}c\u{1b}[!p\u{1b}[?1049h\u{1b}[?25l",
    "abc\u{8}\u{8}\u{8}xyz",
    "\u{b}\u{c}\u{e}\u{f}\u{7f}\u{0}\u{5}",
    "\u{1b}_apc\u{1b}\\\u{1b}^pm\u{1b}\\\u{1b}Xsos\u{1b}\\",
    "\u{1b}[8mconcealed",
    "\u{1b}[31mcolour that goes on\u{1b}[7m",
    "\u{202e}drawkcab\u{2066}\u{200f}\u{61c}",
    "\u{1b}]8;;http://example.invalid\u{1b}\\link\u{1b}]8;;\u{1b}\\",
    "\u{1b}[>4;2m\u{1b}[?4m",
    "at the end of a line \u{1b}",
];

/// Invalid UTF-8: 8-bit controls, an overlong escape, and a truncated character.
const RAW_BYTES: &[u8] = b"raw \x9b2J \x9d0;t\x9c \xc0\x9b[2J \xe0\x80\x9b[2J \xf0\x80\x80\x9b[c \xe2\x80\n";

/// A terminal whose line discipline does not change line breaks.
fn terminal() -> OpenptyResult {
    let pair = openpty(None, None).expect("a terminal");
    let mut settings = tcgetattr(&pair.slave).expect("a terminal");
    cfmakeraw(&mut settings);
    tcsetattr(&pair.slave, SetArg::TCSANOW, &settings).expect("a terminal");
    pair
}

/// Runs a command on a terminal. Returns the output of both streams, and the exit code.
fn on_a_terminal(mut command: Command, args: &[&str]) -> (String, Option<i32>) {
    let pair = terminal();
    let [out, error] = [(); 2].map(|()| Stdio::from(pair.slave.try_clone().expect("a copy")));
    let mut child = command.args(args).stdin(Stdio::null()).stdout(out).stderr(error).spawn().expect("it runs");
    drop((pair.slave, command));
    let mut master = File::from(pair.master);
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // Reading fails once the other end is closed everywhere (`pty(7)`).
        let _hung_up = master.read_to_end(&mut bytes);
        bytes
    });
    let code = until("the command ends", || child.try_wait().expect("ours")).code();
    (String::from_utf8(reader.join().expect("reads")).expect("UTF-8"), code)
}

/// Removes the SGR sequences from a line and checks that the last one is a reset.
fn without_colours(line: &str) -> String {
    let (mut text, mut last, mut rest) = (String::new(), "0", line);
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        let (params, after) = after.split_once('m').expect("a sequence has an end");
        assert!(params.bytes().all(|byte| byte.is_ascii_digit() || byte == b';'), "{line:?}");
        assert!(!params.split(';').any(|code| code == "8"), "it conceals: {line:?}");
        text.push_str(before);
        (last, rest) = (params, after);
    }
    assert_eq!(last, "0", "its colour goes on in the next line: {line:?}");
    text + rest
}

fn assert_harmless(printed: &str, what: &str) {
    for line in printed.split('\n') {
        let text = without_colours(line);
        let acts = |c: &char| {
            c.is_control() && *c != '\t'
                || "\u{61c}\u{200e}\u{200f}".contains(*c)
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        assert_eq!(text.chars().find(acts), None, "{what}: {line:?}");
    }
}

/// Creates a place with a finished run that printed all these sequences.
fn attacked() -> (Place, i64) {
    let place = Place::serving("attack.sh");
    let output = place.root().join("output");
    std::fs::write(&output, [ATTACKS.join("\n").as_bytes(), b"\n", RAW_BYTES].concat()).expect("writes");
    let folder = "folder\u{1b}]0;t\u{7}\u{202e}";
    std::fs::create_dir(place.root().join(folder)).expect("creates");
    let name = "attack\u{1b}[2J\u{9b}c\u{202e}.sh";
    // Neither a program's text nor its arguments can contain NUL.
    let words = ATTACKS.map(|attack| attack.replace('\0', ""));
    let steps = words.clone().map(|word| format!("echo '::step {word}'; echo '::progress 50 {word}'\n")).concat();
    let cut = "printf 'half\\x1b]0;t'; sleep 0.6; printf 'le\\a\\n'";
    place.script(name, &format!("#!/bin/bash\n{steps}cat '{}'\n{cut}\n", output.display()));
    let (_, run_id) = place.start_with(json!({"script": name, "cwd": folder, "args": words}));
    place.until_ended(run_id);
    (place, run_id)
}

#[test]
fn output_and_names_of_a_run_cannot_control_terminal() {
    let (place, run_id) = attacked();
    let id = run_id.to_string();
    for args in [
        &["logs", "--lines", "all"][..],
        &["logs", "--no-timestamps", "--run", &id],
        &["logs", "-f", "--run", &id],
        &["logs", "--grep", "x"],
        &["logs", "--source", "backend"],
        &["status"],
        &["runs"],
        &["runs", &id],
        &["start", "no\u{1b}[2J\u{9b}\u{202e}.sh"],
        &["start", "--\u{1b}]0;t\u{7}"],
        &["status", "--url", "http://127.0.0.1:1/\u{1b}[2J"],
        &["check", "--database", "\u{1b}]0;t\u{7}\u{9b}2J"],
    ] {
        let (printed, _) = on_a_terminal(place.command(), args);
        assert!(!printed.is_empty(), "{args:?}");
        assert_harmless(&printed, &format!("{args:?}"));
    }
    let (lines, code) = on_a_terminal(place.command(), &["logs", "--no-timestamps", "--lines", "all"]);
    assert_eq!(code, Some(0));
    for line in [
        r"\u{1b}]52;c;cm0gLXJmIH4=\u{7}",
        r"\u{9b}6n",
        r"abc\u{8}\u{8}\u{8}xyz",
        "\u{1b}[0;31mcolour that goes on\u{1b}[0m",
        r"half\u{1b}]0;tle\u{7}",
    ] {
        assert!(lines.lines().any(|shown| shown == line), "{line} is missing in {lines}");
    }
    // With `--raw`, and when output is not a terminal, lines are printed as the script wrote them.
    let (raw, _) = on_a_terminal(place.command(), &["logs", "--raw", "--no-timestamps", "--lines", "all"]);
    let (_, piped, _) = place.client(&["logs", "--no-timestamps", "--lines", "all"]);
    assert_eq!(raw, piped);
    assert!(ATTACKS.iter().all(|attack| piped.contains(attack)));
}

#[test]
fn json_output_escapes_control_characters() {
    let (place, run_id) = attacked();
    let id = run_id.to_string();
    for (args, path) in [
        (&["logs", "--json"][..], "/api/logs/tail?limit=200".to_owned()),
        (&["status", "--json"], "/api/pipeline".to_owned()),
        (&["runs", "--json"], "/api/runs?limit=20".to_owned()),
        (&["runs", &id, "--json"], format!("/api/runs/{id}")),
    ] {
        let (code, printed, _) = place.client(args);
        let line = printed.strip_suffix('\n').expect("a line");
        assert_harmless(line, &format!("{args:?}"));
        assert_eq!((code, serde_json::from_str(line).ok()), (0, Some(place.get(&path).ok())), "{args:?}");
    }
    let (_, printed, _) = place.client(&["logs", "--json"]);
    assert!(printed.contains(r"\u009b6n") && printed.contains(r"\u202edrawkcab"), "{printed}");
}

#[test]
fn server_response_cannot_control_terminal() {
    let evil = "\u{1b}]0;t\u{7}\u{9b}2J\u{7f}\u{202e}\n\r";
    let detail = json!({"ok": false, "error": format!("e{evil}"), "detail": format!("d{evil}")}).to_string();
    for (status, body) in
        [(409, detail.as_str()), (404, &detail), (503, &detail), (200, evil), (500, evil), (200, "{\"\u{9b}2J\": \"\u{9d}0;t\"}")]
    {
        let server = FakeServer::canned(status, body);
        for args in [&["status"][..], &["stop"], &["runs"], &["logs"], &["status", "--json"], &["pair"], &["pause", "--json"]] {
            let folder = super::command::folder();
            let url = server.url();
            let command = super::command::command(folder.path(), &["--url", &url]);
            let (printed, _) = on_a_terminal(command, args);
            assert_harmless(&printed, &format!("{args:?} {status} {body:?}"));
        }
    }
}

#[test]
fn startup_lines_of_server_cannot_control_terminal() {
    let mut place = Place::with_runtime("runtime\u{1b}]0;t\u{7}\u{9b}2J\u{202e}");
    place.use_token("some-token-of-32-characters-or-so");
    let command = || {
        let mut command = place.command();
        command.env("DATABASE_URL", format!("sqlite:{}/no/folder\u{1b}[2J", place.runtime().display()));
        command
    };
    let (printed, code) = on_a_terminal(command(), &["serve"]);
    assert!(code == Some(1) && printed.contains(r"\u{1b}"), "{printed}");
    assert_harmless(&printed, "serve");
    let link = place.folder().join("link\u{1b}]0;t\u{7}");
    std::os::unix::fs::symlink(place.root(), &link).expect("links");
    place.set_env("AUTOAPPDEV_PIPELINE_CWD", link.to_str().expect("text"));
    place.start_server();
    let log = until("it is in the log", || Some(place.server_log()).filter(|log| log.contains("link")));
    let (_, said) = place.stop_server_and_listen();
    for text in [log, said] {
        assert_harmless(&text, "what a running server said");
        assert!(text.contains(r"link\u{1b}]0;t\u{7}"), "{text}");
    }
}

/// Starts a server with its standard output on a terminal, and its standard error on the same one or on another. Returns what
/// each of them showed, from the start of the server through its SIGTERM to its end.
fn serve_on_a_terminal(mut command: Command, is_one: bool) -> [String; 2] {
    let [out, error] = [terminal(), terminal()];
    let to = |pair: &OpenptyResult| Stdio::from(pair.slave.try_clone().expect("a copy"));
    command.arg("serve").stdin(Stdio::null()).stdout(to(&out)).stderr(to(if is_one { &out } else { &error }));
    let mut child = command.spawn().expect("it runs");
    drop(command);
    let (send, pieces) = std::sync::mpsc::channel();
    let readers = [out, error].into_iter().enumerate().map(|(n, pair)| {
        let (send, mut master) = (send.clone(), File::from(pair.master));
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            // Reading fails once the other end is closed everywhere (`pty(7)`).
            while let Ok(count) = master.read(&mut piece) {
                send.send((n, piece[..count].to_vec())).expect("it is received");
            }
        })
    });
    let _readers: Vec<_> = readers.collect();
    drop(send);
    let (mut shown, mut is_told) = ([const { Vec::new() }; 2], false);
    loop {
        match pieces.recv_timeout(DEADLINE) {
            Ok((n, piece)) => shown[n].extend_from_slice(&piece),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let _ended = child.kill();
                panic!("{:?}", shown.map(|shown| String::from_utf8_lossy(&shown).into_owned()));
            }
        }
        let has_said = String::from_utf8_lossy(&shown[0]).lines().any(|line| line.starts_with("autoappdev listens on http"));
        if has_said && !is_told {
            // The server installs its signal handler before it listens.
            signal(child.id(), "TERM");
            is_told = true;
        }
    }
    assert!(child.wait().expect("ours").success(), "{shown:?}");
    shown.map(|shown| String::from_utf8(shown).expect("UTF-8"))
}

#[test]
fn server_on_terminal_prints_each_line_once_and_address_last() {
    let mut place = Place::new();
    let link = place.folder().join("link");
    std::os::unix::fs::symlink(place.root(), &link).expect("links");
    place.set_env("AUTOAPPDEV_PIPELINE_CWD", link.to_str().expect("text"));
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "missing.sh");
    let facts = [" on http://127.0.0.1:", "settings from the environment: ", "scripts are looked up in "];
    let warning = "WARN the configured script cannot be started now: there is no script \"missing.sh\" in the pipeline's root";
    let count = |text: &str, part: &str| text.matches(part).count();
    let logged = |place: &Place| std::fs::read_to_string(place.runtime().join("backend.log")).expect("there");

    let [shown, _] = serve_on_a_terminal(place.command(), true);
    for part in facts.iter().chain([&warning]) {
        assert_eq!((count(&shown, part), count(&logged(&place), part)), (1, 1), "{part}: {shown}");
    }
    let before = shown.lines().take_while(|line| !line.starts_with("autoappdev has stopped")).last().expect("a line");
    let is_address = before.starts_with("autoappdev listens on http://127.0.0.1:");
    assert!(is_address && before.ends_with("/ (Ctrl-C ends the server; a run goes on)"), "{shown}");

    // On two terminals, each stream has what it would have in a file.
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.set_env("AUTOAPPDEV_ON_TERM", "stop");
    let [out, error] = serve_on_a_terminal(place.command(), false);
    for part in facts {
        assert_eq!((count(&out, part), count(&error, part)), (1, 1), "{part}: {out} {error}");
    }
    assert!(out.starts_with("autoappdev listens on ") && !out.contains("Ctrl-C"), "{out}");
    assert!(!error.contains("the configured script"), "{error}");
    let [shown, _] = serve_on_a_terminal(place.command(), true);
    assert!(shown.contains("/ (Ctrl-C ends the server and its run)\n"), "{shown}");
}

/// The formatter of the standard library panics at a width above 65,535.
#[test]
fn oversized_table_cells_are_truncated_without_panic() {
    let at = "2026-01-31T10:03:20.000Z";
    let session = serde_json::json!({
        "id": "i".repeat(70_000), "may": "look", "created_at": at, "used_at": at, "expires_at": at, "ends_at": at,
        "address": "a".repeat(70_000), "user_agent": "", "is_own": false,
    });
    let answer = serde_json::json!({"ok": true, "sessions": [session]}).to_string();
    let server = crate::fake_server::FakeServer::canned(200, &answer);
    let place = crate::support::Place::new();
    let (code, out, err) = place.client(&["sessions", "--url", &server.url()]);
    assert_eq!(code, 0, "{err}");
    assert!(out.len() < 2_000 && out.contains("iii...  viewer") && out.contains("aaa..."), "{}", out.len());
    let (code, out, err) = place.client(&["sessions", "--json", "--url", &server.url()]);
    assert!(code == 0 && out.contains(&"i".repeat(70_000)), "{err}");
}
