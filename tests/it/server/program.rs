//! The server as a program: its end, its neighbours, its files, its binary, its database.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Place, is_alive, signal, until_true};
use rustix::fs::FlockOperation;
use serde_json::json;

/// Far longer than the second that a stop may take, and shorter than the minute of a long poll.
const STOP_DEADLINE: Duration = Duration::from_secs(45);

const BINARY: &str = env!("CARGO_BIN_EXE_autoappdev");

#[test]
fn sigterm_ends_the_server_and_the_pipeline_continues() {
    let mut place = Place::serving("sleep.sh");
    let (code, said) = place.stop_server_and_listen();
    assert_eq!((code, said.as_str()), (0, "autoappdev has stopped; no pipeline was running\n"));
    place.start_server();
    let (pid, run_id) = place.start();
    for state in ["running", "paused"] {
        let (code, said) = place.stop_server_and_listen();
        assert_eq!(code, 0);
        assert_eq!(said, format!("pipeline run {run_id} keeps running; `autoappdev serve` takes it over again\n"));
        assert!(is_alive(pid));
        assert!(!place.runtime().join("server.json").exists(), "nobody is told to go where nobody is");
        place.start_server();
        assert_eq!(place.until_all_agree(), state);
        assert_eq!(place.pipeline()["pid"], pid);
        if state == "running" {
            place.act("pause").ok();
        }
    }
}

#[test]
fn sigterm_under_load_ends_the_server_and_answers_long_polls() {
    let mut place = Place::serving("count.sh");
    let (pid, _) = place.start();
    let version = place.pipeline()["version"].as_u64().expect("a number");
    // Clients whose long polls last a minute.
    let port = place.port();
    let mut waiting: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connects");
            stream.set_read_timeout(Some(crate::support::DEADLINE)).expect("ours");
            let request = format!("GET /api/pipeline?after={version}&wait=60 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
            stream.write_all(request.as_bytes()).expect("sends");
            stream
        })
        .collect();
    until_true("all of their requests were read", || unread_bytes(port) == 0);
    let answered = AtomicU32::new(0);
    let server = place.server_pid();
    let took = thread::scope(|scope| {
        for n in 0..8 {
            let (place, answered) = (&place, &answered);
            let path = ["/api/pipeline", "/api/logs?limit=50", "/api/runs", "/api/health"][n % 4];
            scope.spawn(move || {
                while place.try_request("GET", path, &[], None).is_some_and(|answer| answer.status == 200) {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        until_true("the load is there", || answered.load(Ordering::Relaxed) > 200);
        let began = Instant::now();
        signal(server, "TERM");
        until_true("the server has ended", || !is_alive(server));
        began.elapsed()
    });
    assert!(took < STOP_DEADLINE, "it took {took:?}");
    let (code, said) = place.stop_server_and_listen();
    assert_eq!(code, 0);
    assert!(said.starts_with("pipeline run 1 keeps running"), "{said}");
    for stream in &mut waiting {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer, then the end");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"state\":\"running\""), "{answer:?}");
    }
    assert!(is_alive(pid));
    place.start_server();
    assert_eq!(place.until_all_agree(), "running");
}

/// Returns the number of bytes that were sent to this port's connections and not read yet (`proc_net(5)`: the two addresses, then
/// `tx_queue:rx_queue`). On a busy machine, bytes can be on their way for a moment, when only the sender's queue has them.
fn unread_bytes(port: u16) -> u64 {
    let port = format!(":{port:04X}");
    let table = fs::read_to_string("/proc/net/tcp").expect("/proc is mounted");
    let rows = table.lines().skip(1).map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    rows.map(|row| {
        let (sent, arrived) = row[4].split_once(':').expect("two queues");
        let counts = [(row[1], arrived), (row[2], sent)].into_iter().filter(|(address, _)| address.ends_with(&port));
        counts.map(|(_, count)| u64::from_str_radix(count, 16).expect("hex")).sum::<u64>()
    })
    .sum()
}

#[test]
fn sigterm_during_a_stop_lets_the_shim_finish_it() {
    let mut place = Place::serving("stubborn.sh");
    let (pid, run_id) = place.start();
    place.until_line("ready");
    let shim = place.shim_pid(run_id);
    let mut asked = place.shoot("/api/pipeline/stop", r#"{"grace_s": 2}"#);
    place.until_fact(run_id, "stopping");
    // However long the server takes to end here, the grace ends later.
    signal(shim, "STOP");
    assert_eq!(place.stop_server(), 0);
    signal(shim, "CONT");
    let mut answer = String::new();
    asked.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 503"), "who asked is told that it is not so yet: {answer:?}");
    place.until_fact(run_id, "exited");
    place.until_no_shim();
    assert!(!is_alive(pid));
    place.start_server();
    assert_eq!(place.run(run_id)["status"], "stopped");
}

/// A process that is killed on drop, whatever happened to it.
struct Mute(std::process::Child);

impl Drop for Mute {
    fn drop(&mut self) {
        let _has_ended = self.0.kill();
        let _has_ended = self.0.wait();
    }
}

#[test]
fn blocked_output_does_not_block_server() {
    let terminal = nix::pty::openpty(None, None).expect("a terminal");
    // As Ctrl-S does.
    nix::sys::termios::tcflow(&terminal.slave, nix::sys::termios::FlowArg::TCOOFF).expect("ours");
    let (read, mut write) = std::io::pipe().expect("a pipe");
    let size = rustix::pipe::fcntl_getpipe_size(&write).expect("a pipe");
    write.write_all(&vec![b'x'; size]).expect("it takes so much, and no more");
    for (what, end) in [("a terminal that was halted", terminal.slave), ("a pipe that is full", write.into())] {
        let place = Place::new();
        let other = end.try_clone().expect("the same");
        let mut command = place.command();
        let server = command.arg("serve").stdin(std::process::Stdio::null()).stdout(end).stderr(other).spawn().expect("spawns");
        // The command holds copies of the pipe's ends, which no other process may have.
        drop(command);
        let mut server = Mute(server);
        until_true(what, || place.runtime().join("server.json").exists());
        assert_eq!(place.client(&["start", "sleep.sh"]).0, 0, "{what}");
        assert_eq!(place.client(&["stop", "--grace", "0"]).0, 0, "{what}");
        signal(server.0.id(), "TERM");
        until_true(&format!("it stops: {what}"), || server.0.try_wait().expect("our child").is_some());
        let kept = fs::read_to_string(place.runtime().join("backend.log")).expect("there");
        assert!(kept.contains("listening on"), "what nobody took is on the disk: {kept}");
    }
    drop((read, terminal.master));
}

#[test]
fn port_in_use_is_a_clear_error() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = taken.local_addr().expect("bound").port().to_string();
    let said = place.refused_server(("AUTOAPPDEV_PORT", &port));
    assert!(said.contains(&format!("127.0.0.1:{port}")) && said.contains("AUTOAPPDEV_PORT"), "{said}");
}

#[test]
fn server_restarts_at_once_on_same_port_and_directory() {
    let mut place = Place::serving("sleep.sh");
    let (pid, _) = place.start();
    let port = place.port();
    place.set_env("AUTOAPPDEV_PORT", &port.to_string());
    for _ in 0..10 {
        // A connection that is open at the moment of the kill keeps the address in use for a while.
        let mut client = TcpStream::connect(("127.0.0.1", port)).expect("connects");
        client.write_all(format!("GET /api/pipeline HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n").as_bytes()).expect("sends");
        client.read_exact(&mut [0; 12]).expect("an answer");
        place.restart_server();
        assert_eq!(place.port(), port);
        assert_eq!(place.pipeline()["pid"], pid);
    }
    assert_eq!(place.until_all_agree(), "running");
}

#[test]
fn server_waits_for_lock_of_killed_server() {
    let mut place = Place::serving("sleep.sh");
    place.kill_server();
    // As in a child that the server had just forked, on a machine that is too busy to reach the child's exec.
    let lock = fs::File::open(place.runtime().join("server.lock")).expect("there");
    until_true("the killed one has let go", || rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok());
    let held = thread::spawn(move || {
        // Longer than the wait for a live server. If it is shorter than the new server's wait, the test only proves less.
        thread::sleep(Duration::from_millis(1_500));
        drop(lock);
    });
    place.start_server();
    held.join().expect("no panic");
    assert_eq!(place.pipeline()["state"], "stopped");
}

/// Copies the binary to `path` through another process: a descriptor that is open for writing in this one would prevent its
/// execution.
fn install(path: &Path) {
    let new = path.with_extension("new");
    assert!(Command::new("cp").arg(BINARY).arg(&new).status().expect("runs").success());
    fs::rename(new, path).expect("replaces");
}

#[test]
fn server_restarted_from_a_replaced_binary_adopts_the_run() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    let binary = place.folder().join("autoappdev");
    install(&binary);
    place.start_server_with(place.command_of(&binary));
    let (pid, run_id) = place.start();
    install(&binary);
    let exe = |pid: u32| fs::read_link(format!("/proc/{pid}/exe")).expect("alive").display().to_string();
    assert!(exe(place.server_pid()).ends_with("(deleted)") && exe(place.shim_pid(run_id)).ends_with("(deleted)"));
    place.kill_server();
    place.start_server_with(place.command_of(&binary));
    assert!(!exe(place.server_pid()).ends_with("(deleted)"));
    assert_eq!(place.pipeline()["pid"], pid);
    assert_eq!(place.until_all_agree(), "running");
    place.act("pause").ok();
    place.act("resume").ok();
    place.post("/api/pipeline/stop", json!({"grace_s": 0.1})).ok();
    assert_eq!(place.until_all_agree(), "stopped");
}

#[test]
fn run_starts_after_binary_was_removed() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    let binary = place.folder().join("autoappdev");
    install(&binary);
    place.start_server_with(place.command_of(&binary));
    fs::remove_file(&binary).expect("removes");
    let (pid, _) = place.start();
    place.until_line("ready");
    assert_eq!(place.until_all_agree(), "running");
    install(&binary);
    place.kill_server();
    place.start_server_with(place.command_of(&binary));
    assert_eq!(place.pipeline()["pid"], pid);
    assert_eq!(place.until_all_agree(), "running");
}

/// Turns a good database into one that must be refused.
type Spoil = fn(&Place);

const BAD_DATABASES: [(&str, Spoil, &str); 6] = [
    (
        "no database",
        |place| fs::write(place.database(), "this is no database, but somebody's text\n").expect("writes"),
        "damaged",
    ),
    ("damaged in the middle", |place| spoil_pages(&place.database()), "damaged"),
    (
        "newer",
        |place| {
            place.edit_database(
                "INSERT INTO refinery_schema_history (version, name, applied_on, checksum)
                 VALUES (99, 'the_future', '2030-01-01T00:00:00Z', '1')",
            );
        },
        "newer version",
    ),
    (
        "a development version's",
        |place| {
            fs::remove_file(place.database()).expect("there");
            place.edit_database(include_str!("../../fixtures/schema/development.sql"));
        },
        "a development version wrote it",
    ),
    ("another program's", |place| place.edit_database("PRAGMA application_id = 77"), "another program"),
    ("a folder", |place| fs::create_dir(place.database()).expect("creates"), "folder"),
];

/// Overwrites all pages but the first.
fn spoil_pages(path: &Path) {
    let mut bytes = fs::read(path).expect("there");
    bytes[4096..].fill(0x5a);
    fs::write(path, bytes).expect("writes");
}

#[test]
fn invalid_database_is_refused_untouched_and_pipeline_continues() {
    let mut place = Place::serving("sleep.sh");
    let (pid, _) = place.start();
    place.until_line("ready");
    place.kill_server();
    // With everything in one file, as a clean end leaves it.
    place.edit_database("PRAGMA wal_checkpoint(TRUNCATE)");
    let good = fs::read(place.database()).expect("there");
    let aside = place.folder().join("aside");
    place.move_database(&aside);
    for (what, spoil, word) in BAD_DATABASES {
        if what != "a folder" {
            fs::write(place.database(), &good).expect("writes");
        }
        spoil(&place);
        let before = fs::read(place.database()).ok();
        let said = place.refused_server(("AUTOAPPDEV_PORT", "0"));
        assert!(said.contains(&*place.database().to_string_lossy()), "{what}: it names the file: {said}");
        assert!(said.contains(word), "{what}: {said}");
        let advice = ["move it aside", "DATABASE_URL", "restore a backup"];
        assert!(advice.iter().any(|advice| said.contains(advice)), "{what}: it says what to do: {said}");
        assert_eq!(fs::read(place.database()).ok(), before, "{what}: untouched");
        assert!(is_alive(pid) && place.shims().len() == 1, "{what}: the pipeline goes on");
        place.move_database(&place.folder().join(what));
    }
    for file in fs::read_dir(&aside).expect("there").map(|entry| entry.expect("there").path()) {
        fs::rename(&file, place.runtime().join(file.file_name().expect("a name"))).expect("moves");
    }
    place.start_server();
    assert_eq!(place.pipeline()["pid"], pid);
    assert_eq!(place.until_all_agree(), "running");
}

/// Runs a mode. Returns its exit code and its output.
fn mode(place: &Place, mode: &str) -> (Option<i32>, String) {
    let output = place.command().arg(mode).output().expect("runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout) + &text(output.stderr))
}

#[test]
fn migrate_and_check_report_their_results() {
    let none = Place::with_runtime("new/runtime");
    let (code, said) = mode(&none, "check");
    assert!(code == Some(1) && !none.folder().join("new").exists(), "{said}");
    let mut place = Place::new();
    fs::create_dir(place.runtime()).expect("creates");
    let (code, said) = mode(&place, "check");
    assert!(code == Some(1) && said.contains("no such file"), "{said}");
    let (code, said) = mode(&place, "migrate");
    assert!(code == Some(0) && said.contains("applied V1__"), "{said}");
    let bytes = fs::read(place.database()).expect("there");
    let (code, said) = mode(&place, "migrate");
    assert!(code == Some(0) && said.contains("nothing to apply"), "{said}");
    assert_eq!(fs::read(place.database()).expect("there"), bytes, "idempotent");
    let (code, said) = mode(&place, "check");
    assert!(code == Some(0) && said.contains("rolled back") && !said.contains("FAILED"), "{said}");

    // Also beside a live server, which is not affected.
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.start_server();
    place.start();
    let before = place.pipeline();
    assert_eq!(mode(&place, "check").0, Some(0));
    assert_eq!(mode(&place, "migrate").0, Some(0));
    assert_eq!(place.pipeline(), before);
    assert_eq!(place.until_all_agree(), "running");

    place.kill_server();
    place.edit_database("CREATE TABLE extra (x)");
    for (args, failed) in [(&["check"][..], "FAILED  schema: table extra is not ours"), (&["check", "--json"], r#"{"ok":false"#)]
    {
        let output = place.command().args(args).output().expect("runs");
        let said = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.code() == Some(1) && said.contains(failed), "{said}");
    }
    place.edit_database("DROP TABLE extra");
    place.edit_database("PRAGMA wal_checkpoint(TRUNCATE)");
    spoil_pages(&place.database());
    let (code, said) = mode(&place, "check");
    assert!(code == Some(1) && said.contains("damaged"), "{said}");
    let (code, said) = mode(&place, "migrate");
    assert!(code == Some(1) && said.contains("damaged"), "{said}");
}

#[cfg(not(feature = "faults"))]
#[test]
fn normal_build_has_no_kill_points() {
    let binary = fs::read(env!("CARGO_BIN_EXE_autoappdev")).expect("it is there");
    let holds = |text: &str| binary.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("AUTOAPPDEV_PORT"), "this is how a variable's name is found");
    assert!(!holds("AUTOAPPDEV_KILL_AT") && !holds("AUTOAPPDEV_KILL_MARK"));
    for point in ["server.starting_committed", "shim.spawned_written"] {
        let mut place = Place::new();
        place.set_env("AUTOAPPDEV_KILL_AT", point);
        place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
        place.start_server();
        place.start();
        assert_eq!(place.until_all_agree(), "running");
    }
}
