//! What earlier versions wrote must keep working: their runtime directories, and their shims that are still alive.
//!
//! A real server and its shims wrote `fixtures/runtime/format-<n>`. They were killed with `kill -9` while run 5 was paused. From
//! the first release on it is never edited; a new format gets a new directory. Its database is `autoappdev.sql`, a dump with the
//! schema of the first release.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::support::sse::EventStream;
use crate::support::{Place, until, until_true};
use autoappdev::clock::{Clock, SystemClock, whole_ms};
use autoappdev::process::{boot_id, read_stat};
use autoappdev::run_dir::{FORMAT, RunDir};
use serde_json::{Value, json};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("creates");
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).expect("ours");
    for entry in fs::read_dir(from).expect("there") {
        let entry = entry.expect("there");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).map(drop).expect("copies");
        }
    }
}

#[test]
fn runtime_directory_of_each_earlier_format_is_served_completely() {
    for format in 1..=FORMAT {
        let mut place = Place::new();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/runtime/format-{format}"));
        copy(&fixture, &place.runtime());
        let dump = place.runtime().join("autoappdev.sql");
        place.edit_database(&fs::read_to_string(&dump).expect("there"));
        fs::remove_file(dump).expect("there");
        assert!(place.pause_file().exists());
        place.start_server();
        let runs = place.get("/api/runs").ok()["runs"].take();
        let told: Vec<String> = runs
            .as_array()
            .expect("a list")
            .iter()
            .map(|run| format!("{} {} {} {} {}", run["id"], run["status"], run["exit_code"], run["signal"], run["containment"]))
            .collect();
        assert_eq!(
            told,
            [
                "5 \"lost\" null null \"tree\"",
                "4 \"failed\" null null null",
                "3 \"stopped\" null 15 \"tree\"",
                "2 \"failed\" 3 null \"tree\"",
                "1 \"completed\" 0 null \"tree\"",
            ]
        );
        assert!(!place.pause_file().exists(), "nothing is paused any more");
        assert_eq!(
            place.history(3),
            [
                "starting request -",
                "spawned request running",
                "paused request paused",
                "resumed request running",
                "stopping - -",
                "exited request stopped",
                "usage - -"
            ]
        );
        assert_eq!(place.history(5)[2..], ["paused request paused", "lost recovery stopped"]);
        assert_eq!(
            place.get("/api/runs/1/start").ok(),
            json!({"start": {"script": "build.sh", "args": ["all"], "cwd": null, "env": {"LEVEL": "3"}, "grace_s": null}, "kept": "values"})
        );
        assert!(place.run(4)["error"].as_str().expect("a sentence").contains("could not be run"));
        assert_eq!(place.lines(), ["building all", "a warning", "building release", "a warning", "watching", "watching"]);

        // The log, the ids and the versions continue from there.
        let (_, run_id) = place.start_with(json!({"script": "exit.sh", "args": ["4"]}));
        assert_eq!(run_id, 6);
        assert_eq!(place.until_ended(run_id)["exit_code"], 4);
        assert_eq!(place.lines().last().map(String::as_str), Some("ready"));
        let (code, said, _) = place.client(&["check"]);
        assert_eq!(code, 0, "{said}");
    }
}

/// A simulated live shim of format 1, with exactly that format's lock, journal and socket.
struct OldShim {
    dir: RunDir,
    _lock: File,
    listener: UnixListener,
    journal: File,
}

impl OldShim {
    fn of(place: &Place, run_id: i64, leader: u32) -> Self {
        let (dir, lock) = place.past_dir(run_id);
        let boot_id = boot_id().expect("/proc is mounted");
        let mut journal = File::create(dir.journal_path()).expect("creates");
        let header = format!(
            r#"{{"format":1,"run_id":{run_id},"boot_id":"{boot_id}","shim_pid":{},"shim_start_ticks":{},"runtime_dir":{},"created_at":"2023-11-14T22:13:20.000Z","script":"sleep.sh","args":[],"cwd":"/srv","grace_ms":10000,"log_start":0}}"#,
            std::process::id(),
            read_stat(std::process::id()).expect("it lives").identity.start_ticks,
            json!(place.runtime())
        );
        let spawned = format!(
            r#"{{"seq":1,"at":"2026-01-31T10:00:00.010Z","boot_ms":1000,"fact":"spawned","pid":{leader},"start_ticks":100,"containment":"tree"}}"#
        );
        writeln!(journal, "{header}\n{spawned}").expect("writes");
        let listener = dir.listen().expect("binds");
        listener.set_nonblocking(false).expect("a socket");
        Self { dir, _lock: lock, listener, journal }
    }

    /// Serves one server until it sends a stop, and then ends the run. Returns how often the server reported that a client
    /// watches, which this shim does not know.
    fn serve(mut self) -> u32 {
        let (stream, _) = self.listener.accept().expect("a server comes");
        let mut lines = BufReader::new(stream.try_clone().expect("clones")).lines();
        let mut stream = stream;
        let mut say = |text: &str| {
            let text = text.replace("NOW", &whole_ms(SystemClock.since_boot()).to_string());
            if text.contains("\"fact\"") {
                writeln!(self.journal, "{text}").expect("writes");
            }
            writeln!(stream, "{text}").expect("the server reads");
        };
        let mut next_of_all = || -> Value { serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON") };
        let attach = next_of_all();
        assert_eq!((&attach["command"], &attach["after"]), (&json!("attach"), &json!(1)));
        let reply = |command: &Value| format!(r#"{{"reply":{}}}"#, command["tag"]);
        // Messages of later versions, any number of them.
        for _ in 0..100 {
            say(r#"{"weather":"fine"}"#);
        }
        say(&reply(&attach));
        let mut refused = 0;
        let mut next = |say: &mut dyn FnMut(&str)| loop {
            let command = next_of_all();
            if command["command"] != "watch" {
                return command;
            }
            refused += 1;
            let tag = &command["tag"];
            say(&format!(r#"{{"reply":{tag},"error":"unknown_command","detail":"the run's own process is older"}}"#));
        };
        let pause = next(&mut say);
        assert_eq!(pause["command"], "pause");
        say(r#"{"seq":2,"at":"2026-01-31T10:00:01.000Z","boot_ms":NOW,"fact":"paused","cause":"request"}"#);
        say(&reply(&pause));
        let resume = next(&mut say);
        assert_eq!(resume["command"], "resume");
        say(r#"{"seq":3,"at":"2026-01-31T10:00:02.000Z","boot_ms":NOW,"fact":"resumed","cause":"request","paused_ms":1000}"#);
        say(&reply(&resume));
        let stop = next(&mut say);
        assert_eq!((&stop["command"], &stop["grace_ms"]), (&json!("stop"), &json!(500)));
        say(&reply(&stop));
        say(r#"{"seq":4,"at":"2026-01-31T10:00:03.000Z","boot_ms":NOW,"fact":"stopping","grace_ms":500}"#);
        say(
            r#"{"seq":5,"at":"2026-01-31T10:00:03.100Z","boot_ms":NOW,"fact":"exited","exit":{"signal":15},"asked":true,"paused_ms":1000,"log_end":0}"#,
        );
        say(
            r#"{"seq":6,"at":"2026-01-31T10:00:03.101Z","boot_ms":NOW,"fact":"usage","cpu_user_ms":1,"cpu_system_ms":2,"max_rss_kb":3}"#,
        );
        drop(self.dir);
        refused
    }
}

#[test]
fn live_shim_of_first_format_is_adopted_and_controlled() {
    let mut place = Place::new();
    let run_id = place.past_starting();
    let mut leader = Command::new("sleep").arg("600").spawn().expect("spawns");
    let shim = OldShim::of(&place, run_id, leader.id());
    let shim = thread::spawn(move || shim.serve());
    place.start_server();
    let pipeline = place.pipeline();
    assert_eq!((&pipeline["state"], &pipeline["pid"]), (&json!("running"), &json!(leader.id())));
    assert_eq!((&pipeline["containment"], &pipeline["detail"]), (&json!("tree"), &Value::Null));
    assert_eq!(pipeline["progress"], Value::Null, "it never says how far it is");
    let mut stream = EventStream::open(place.port(), "", None);
    let told = stream.until("usage", |event| event.kind == "usage").pop().expect("it");
    assert_eq!(told.data, json!({"run_id": run_id, "usage": null}), "it never says what it uses");
    until_true("it is attached", || place.act("pause").status == 200);
    assert_eq!(place.state(), "paused");
    place.act("resume").ok();
    place.post("/api/pipeline/stop", json!({"grace_s": 0.5})).ok();
    let run = until("the figures are there", || Some(place.run(run_id)).filter(|run| run["max_rss_kb"] == 3));
    assert_eq!((&run["status"], &run["signal"], &run["paused_ms"]), (&json!("stopped"), &json!(15), &json!(1000)));
    let refused = shim.join().expect("every word was as it expects it");
    assert!(refused > 0, "it was told of the stream");
    assert_eq!(place.degraded(), None);
    let usage = place.get(&format!("/api/runs/{run_id}/usage")).ok()["usage"].take();
    assert_eq!((&usage["samples"], &usage["oom_kills"], &run["oom_kills"]), (&json!([]), &json!(0), &Value::Null));
    assert_eq!(place.server_log().matches("does not understand").count(), 1, "{}", place.server_log());
    leader.kill().expect("ours");
    leader.wait().expect("ours");
}
