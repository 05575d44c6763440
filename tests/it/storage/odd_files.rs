//! Unexpected kinds of files in a runtime directory: a pipe, a link, a directory, a socket, an endless file. Each kind replaces
//! each file, before the server starts and during a run. No process blocks on it, follows it or reads it endlessly.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::support::{DEADLINE, Place, signal, until};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pipe,
    /// A link to `/dev/zero`, which never ends.
    Endless,
    /// A link to a file elsewhere.
    Foreign,
    Folder,
    Socket,
    /// A sparse file of 400 GiB that takes no space.
    Hole,
}

/// The content of the file elsewhere, which must not change.
const FOREIGN: &str = "{\"pid\":1,\"address\":\"127.0.0.1:1\"}\n";

/// The maximum memory that a server may use, in kB. A server that reads such a file uses more, if it survives.
const MEMORY_KB_MAX: u64 = 400_000;

/// The maximum part of a response that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 8 << 20;

/// Replaces the file at `path` with one of this kind.
fn put(kind: Kind, path: &Path, foreign: &Path) {
    let _there_or_not = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
    match kind {
        Kind::Pipe => mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).expect("makes"),
        Kind::Endless => symlink("/dev/zero", path).expect("links"),
        Kind::Foreign => symlink(foreign, path).expect("links"),
        Kind::Folder => fs::create_dir(path).expect("creates"),
        // The listener is closed, but its file remains.
        Kind::Socket => drop(UnixListener::bind(path).expect("binds")),
        Kind::Hole => File::create(path).and_then(|file| file.set_len(400 << 30)).expect("a hole"),
    }
}

/// A server whose standard output is a file, because waiting for a line of a server that hangs would hang as well.
struct Serving {
    child: Child,
    out: PathBuf,
}

impl Serving {
    fn start(place: &Place) -> Self {
        let out = place.folder().join("serve.out");
        let file = File::create(&out).expect("creates");
        let error = file.try_clone().expect("a copy");
        // A server that reads an endless file would otherwise use up the machine's memory before the test notices.
        let mut command = place.command_of(Path::new("bash"));
        command.args(["-c", "ulimit -v 12000000; exec \"$0\" serve", env!("CARGO_BIN_EXE_autoappdev")]);
        let child = command.stdin(Stdio::null()).stdout(file).stderr(error).spawn().expect("spawns");
        Self { child, out }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).expect("there")).into_owned()
    }

    /// Returns the server's port once it serves, or `None` if it refuses to start.
    fn port(&mut self, what: &str) -> Option<u16> {
        until(what, || {
            let said = self.said();
            let port = said.lines().find_map(|line| {
                line.strip_prefix("autoappdev listens on http://")?.trim_end_matches('/').rsplit(':').next()?.parse().ok()
            });
            let has_ended = self.child.try_wait().expect("ours").is_some();
            port.map(Some).or(has_ended.then_some(None))
        })
    }

    fn memory_kb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
    }

    /// Stops the server in an orderly way.
    fn end(&mut self, what: &str) {
        if self.child.try_wait().expect("ours").is_none() {
            signal(self.child.id(), "TERM");
            until_ended(&self.child, what);
            self.child.wait().expect("ours");
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Returns the status and the text of a response once it has arrived completely, or up to the maximum that is read.
fn ask(port: u16, method: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connects");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    // Stops are sent without any time between TERM and KILL.
    let body = match path.rsplit('/').next() {
        Some("stop") => "Content-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"grace_s\":0}",
        _ if method == "POST" => "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        _ => "\r\n",
    };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    stream.write_all((head + body).as_bytes()).expect("writes");
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).expect("it comes in time");
    let text = String::from_utf8_lossy(&answer).into_owned();
    (text.split(' ').nth(1).unwrap_or_default().to_owned(), text)
}

fn get(port: u16, path: &str) -> String {
    ask(port, "GET", path).0
}

/// Acts as a client command does, without a separate process. Returns whether the action was performed.
fn act(port: u16, action: &str, what: &str) -> bool {
    let (status, said) = ask(port, "POST", &format!("/api/pipeline/{action}"));
    assert!(!status.is_empty(), "{action}: {what}");
    if said.contains("\"still_under_way\"") {
        until(&format!("{action} is done: {what}"), || {
            ask(port, "GET", "/api/pipeline").1.contains("\"pending\":null").then_some(())
        });
        return true;
    }
    status == "200"
}

/// Waits in the kernel: hundreds of processes end here, and checking each of them every few milliseconds would cost more than
/// they do.
fn until_ended(child: &Child, what: &str) {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("it is not reaped yet");
    let limit = Timespec::try_from(DEADLINE).expect("short");
    let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)).expect("polls");
    assert_eq!(ended, 1, "never came true: {what}");
}

/// Runs a command to its end. Returns its exit code and standard error.
fn run(place: &Place, args: &[&str], what: &str) -> (i32, String) {
    let mut child = spawn(place.command(), args);
    until_ended(&child, &format!("{args:?} ends: {what}"));
    let code = child.wait().expect("ours").code().expect("it ends by itself");
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    (code, said)
}

fn spawn(mut command: Command, args: &[&str]) -> Child {
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs")
}

/// Uses everything that reads or writes the runtime directory.
fn use_all(place: &Place, port: u16, what: &str) {
    for path in [
        "/api/health",
        "/api/pipeline",
        "/api/runs",
        "/api/runs/1",
        "/api/logs?since=0",
        "/api/logs/tail",
        "/api/logs?since=0&grep=x",
        "/api/logs?since=0&source=backend",
        "/api/runs/1/log",
    ] {
        assert!(!get(port, path).is_empty(), "{path}: {what}");
    }
    for args in [&["status"][..], &["logs", "--run", "1", "--lines", "all"], &["pair"], &["check"]] {
        let (_, said) = run(place, args, what);
        assert!(!said.contains("panicked"), "{args:?}: {what}: {said}");
    }
}

fn place_to_run() -> Place {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    // The time between TERM and KILL.
    place.set_env("AUTOAPPDEV_GRACE_S", "1");
    place
}

/// Creates a place whose server has ended after a run, with a log segment and the other files.
fn used() -> Place {
    let mut place = place_to_run();
    place.start_server();
    place.start();
    place.until_line("ready");
    place.act("stop").ok();
    place.stop_server();
    place
}

fn log_file(place: &Place, run_id: i64) -> String {
    let mut entries = fs::read_dir(place.run_dir(run_id).join("log")).expect("there");
    let name = entries.next().expect("a segment").expect("there").file_name().into_string().expect("text");
    format!("runs/{run_id}/log/{name}")
}

/// Each of these can make the server refuse to start, which would hide the others, so they are replaced one at a time.
const MAY_REFUSE: [&str; 11] = [
    "server.lock",
    "autoappdev.db",
    "autoappdev.db-wal",
    "autoappdev.db-shm",
    "autoappdev.db-journal",
    "autoappdev.db-server.lock",
    "backend.log",
    "token",
    "read-token",
    "session-key",
    "runs/2",
];

/// The server starts with any of these. Those in one row are read by different parts of the program, and none of them prevents
/// the reading of another, so they share a boot.
const TOGETHER: [&[&str]; 6] = [
    &["runs/1/lock", "server.json", "retention.json"],
    &["runs/1/journal.jsonl", "server.json.new", "retention.json.new"],
    &["runs/1/journal.new", "runs/1/log/packing.tmp", "server.sock", "latest-run"],
    &["runs/1/progress.json", "backend-00000000000000000000.log", ".gitignore"],
    &["runs/1/shim.log", "session-key.new", ".gitignore.new"],
    &["runs/1/ctl.sock", "PAUSE"],
];

/// With these the log cannot be read, and `logs` retries for five seconds.
const NO_LOG: [&str; 3] = ["runs/1/log", "runs/1", "runs"];

/// The file's name says how long the table at its end is: nearly 400 GB, which fits into a sparse file of that size.
const PACKED: &str = "runs/1/log/00000000000000100000-00013000000000000000.log.gz";

fn boots_among(kind: Kind) {
    let origin = used();
    let segment = log_file(&origin, 1);
    let aside = origin.folder().join("aside");
    let copied = Command::new("cp").arg("-a").args([&origin.runtime(), &aside]).status().expect("cp is there");
    assert!(copied.success());
    std::thread::scope(|scope| {
        // They mostly wait, so they run at the same time, each in its own place.
        for name in NO_LOG {
            let aside = &aside;
            scope.spawn(move || boot_among(kind, &place_to_run(), aside, &[name]));
        }
        for names in TOGETHER.into_iter().chain([&[&*segment][..], &[PACKED]]) {
            boot_among(kind, &origin, &aside, names);
        }
        for name in MAY_REFUSE {
            boot_among(kind, &origin, &aside, &[name]);
        }
    });
}

/// Boots on a copy of a runtime directory in which each of these names is one of this kind, and uses everything.
fn boot_among(kind: Kind, place: &Place, aside: &Path, names: &[&str]) {
    let what = format!("{} is {kind:?}", names.join(" and "));
    let foreign = place.folder().join("foreign");
    // The directory itself stays, because secrets are valid only in the directory that they were made for.
    fs::create_dir_all(place.runtime()).expect("creates");
    for entry in fs::read_dir(place.runtime()).expect("there") {
        let path = entry.expect("there").path();
        fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)).expect("ours");
    }
    let copied = Command::new("cp").arg("-a").arg(aside.join(".")).arg(place.runtime()).status().expect("cp is there");
    assert!(copied.success());
    fs::write(&foreign, FOREIGN).expect("writes");
    for name in names {
        put(kind, &place.runtime().join(name), &foreign);
    }
    // Also without a server.
    run(place, &["status"], &what);
    let mut server = Serving::start(place);
    if let Some(port) = server.port(&what) {
        use_all(place, port, &what);
        if act(port, "start", &what) {
            assert!(act(port, "stop", &what), "{what}: it does not stop");
        }
        assert!(server.memory_kb() < MEMORY_KB_MAX, "{what}: {} kB", server.memory_kb());
    } else {
        let said = server.said();
        assert!(said.lines().any(|line| line.starts_with("autoappdev: ")), "{what}: it refuses with a sentence: {said}");
        assert_eq!(names.len(), 1, "{what}: a refusal hides the other names");
    }
    server.end(&what);
    assert!(!server.said().contains("panicked"), "{what}: {}", server.said());
    assert_eq!(fs::read_to_string(&foreign).expect("there"), FOREIGN, "{what}");
}

#[test]
fn boot_does_not_block_on_pipes() {
    boots_among(Kind::Pipe);
}

#[test]
fn boot_does_not_read_linked_endless_files() {
    boots_among(Kind::Endless);
}

#[test]
fn boot_does_not_follow_links() {
    boots_among(Kind::Foreign);
}

#[test]
fn boot_ignores_folders_in_place_of_files() {
    boots_among(Kind::Folder);
}

#[test]
fn boot_does_not_connect_to_sockets_in_place_of_files() {
    boots_among(Kind::Socket);
}

#[test]
fn boot_does_not_read_huge_sparse_files() {
    boots_among(Kind::Hole);
}

/// The file is replaced in the middle of a run, while the server and the shim use it.
#[test]
fn odd_file_does_not_block_live_run() {
    for kind in [Kind::Pipe, Kind::Endless, Kind::Foreign, Kind::Folder, Kind::Socket, Kind::Hole] {
        let place = place_to_run();
        let foreign = place.folder().join("foreign");
        let mut run_id = 0;
        for name in ["lock", "journal.jsonl", "progress.json", "progress.new", "shim.log", "ctl.sock", "log"] {
            let what = format!("{name} of a live run is {kind:?}");
            fs::write(&foreign, FOREIGN).expect("writes");
            let mut server = Serving::start(&place);
            let port = server.port(&what).unwrap_or_else(|| panic!("{what}: {}", server.said()));
            assert!(act(port, "start", &what), "{what}: {}", server.said());
            run_id += 1;
            let name = if name == "log" { log_file(&place, run_id) } else { format!("runs/{run_id}/{name}") };
            put(kind, &place.runtime().join(&name), &foreign);
            // Except SQLite's journal. SQLite opens it a moment after finding it missing, and in that moment only the server's
            // own user could replace it with a pipe. The tests before a start cover it.
            for file in ["PAUSE", "server.json", "server.lock"] {
                put(kind, &place.runtime().join(file), &foreign);
            }
            for path in [
                "/api/health",
                "/api/pipeline",
                "/api/runs",
                &format!("/api/runs/{run_id}"),
                "/api/logs/tail",
                &format!("/api/runs/{run_id}/log"),
            ] {
                assert!(!get(port, path).is_empty(), "{path}: {what}");
            }
            for args in [&["status"][..], &["logs"]] {
                run(&place, args, &what);
            }
            for action in ["pause", "resume", "stop"] {
                act(port, action, &what);
            }
            assert!(server.memory_kb() < MEMORY_KB_MAX, "{what}: {} kB", server.memory_kb());
            server.end(&what);
            assert!(!server.said().contains("panicked"), "{what}: {}", server.said());
            assert_eq!(fs::read_to_string(&foreign).expect("there"), FOREIGN, "{what}");
            for file in ["PAUSE", "server.json", "server.lock", &name] {
                let path = place.runtime().join(file);
                let _there_or_not = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
            }
        }
    }
}

#[test]
fn odd_file_in_place_of_live_database_is_neither_opened_nor_followed() {
    for kind in [Kind::Pipe, Kind::Endless, Kind::Foreign, Kind::Folder, Kind::Socket, Kind::Hole] {
        let place = place_to_run();
        let [foreign, aside] = ["foreign", "aside"].map(|name| place.folder().join(name));
        let what = format!("the database is {kind:?}");
        fs::write(&foreign, FOREIGN).expect("writes");
        let mut server = Serving::start(&place);
        let port = server.port(&what).unwrap_or_else(|| panic!("{what}: {}", server.said()));
        assert!(act(port, "start", &what) && act(port, "stop", &what), "{what}: {}", server.said());
        fs::rename(place.database(), &aside).expect("moves");
        put(kind, &place.database(), &foreign);
        for path in ["/api/health", "/api/pipeline", "/api/runs", "/api/runs/1", "/api/logs/tail"] {
            assert!(!get(port, path).is_empty(), "{path}: {what}");
        }
        assert!(get(port, "/api/runs").starts_with('5'), "{what}");
        assert!(server.memory_kb() < MEMORY_KB_MAX, "{what}: {} kB", server.memory_kb());
        assert_eq!(fs::read_to_string(&foreign).expect("there"), FOREIGN, "{what}");
        let _file_or_folder = fs::remove_file(place.database()).or_else(|_| fs::remove_dir_all(place.database()));
        fs::rename(&aside, place.database()).expect("moves");
        assert_eq!(get(port, "/api/runs"), "200", "{what}");
        server.end(&what);
    }
}
