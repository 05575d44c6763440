//! The listeners: IPv4 and IPv6 addresses, the Unix socket, sockets of the service manager, and the notifications to it.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::network::{OWN_ADDRESS, is_within_own_network};
use crate::support::wire::Wire;
use crate::support::{DEADLINE, Place, not_run, signal, until, until_true};
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, waitpid};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// Sends one request on its own stream. Returns the status and the body.
fn ask<S: Read + Write>(mut stream: S, request_line: &str, host: &str) -> (u16, String) {
    write!(stream, "{request_line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer, then the end");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head[9..12].parse().expect("a status"), body.to_owned())
}

fn ask_socket(path: &Path, request_line: &str) -> (u16, String) {
    let stream = UnixStream::connect(path).expect("connects");
    stream.set_read_timeout(Some(DEADLINE)).expect("ours");
    ask(stream, request_line, "localhost")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

#[test]
fn ipv4_and_ipv6_listen_on_one_port() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("NOT RUN: this machine has no IPv6 on loopback");
        return;
    }
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_HOST", "127.0.0.1,::1");
    place.start_server();
    let port = place.port();
    for (address, host) in [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")] {
        let stream = TcpStream::connect((address, port)).expect("connects");
        let (status, body) = ask(stream, "GET /api/pipeline", &format!("{host}:{port}"));
        assert!(status == 200 && body.contains("\"state\":\"stopped\""), "{address}: {body}");
    }
    let (code, said) = place.stop_server_and_listen();
    assert_eq!(code, 0);
    assert!(said.starts_with(&format!("autoappdev also listens on http://[::1]:{port}/\n")), "{said}");
}

#[test]
fn unix_socket_is_private_and_used_by_client_commands() {
    let mut place = Place::serving("sleep.sh");
    let path = place.runtime().join("server.sock");
    assert_eq!(mode(&path), 0o600);
    assert_eq!(ask_socket(&path, "GET /api/pipeline").0, 200);
    let (status, body) = ask_socket(&path, "POST /api/pipeline/start");
    assert!(status == 200 && body.contains("\"ok\":true"), "{body}");
    // No address leads to the server: neither the recorded one nor the configured one.
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("has one").port().to_string();
    place.set_env("AUTOAPPDEV_PORT", &elsewhere);
    fs::remove_file(place.runtime().join("server.json")).expect("there");
    let (code, out, err) = place.client(&["status"]);
    assert!(code == 0 && out.contains("running"), "{out}{err}");
    let (code, out, err) = place.client(&["stop"]);
    assert_eq!(code, 0, "{out}{err}");
    place.unset_env("AUTOAPPDEV_PORT");

    place.kill_server();
    assert!(path.exists(), "a killed server leaves it");
    place.start_server();
    assert_eq!((mode(&path), ask_socket(&path, "GET /api/pipeline").0), (0o600, 200));
    assert_eq!(place.stop_server(), 0);
    assert!(!path.exists(), "nothing is left behind");
}

#[test]
fn socket_setting_sets_path_or_disables_socket() {
    let mut place = Place::new();
    let path = place.folder().join("d".repeat(150)).join("door.sock");
    fs::create_dir(path.parent().expect("has one")).expect("creates");
    place.set_env("AUTOAPPDEV_SOCKET", path.to_str().expect("text"));
    place.start_server();
    assert_eq!(mode(&path), 0o600);
    assert!(!place.runtime().join("server.sock").exists());
    assert_eq!(place.client(&["status"]).0, 0);
    // A client that only knows the folder reads the path of the socket from `server.json`.
    place.unset_env("AUTOAPPDEV_SOCKET");
    let announced = fs::read_to_string(place.runtime().join("server.json")).expect("there");
    assert!(announced.contains("door.sock"), "{announced}");
    assert_eq!(place.stop_server(), 0);

    place.set_env("AUTOAPPDEV_SOCKET", "off");
    place.start_server();
    assert!(!place.runtime().join("server.sock").exists());
    assert_eq!(place.client(&["status"]).0, 0, "by the address");
    assert_eq!(place.stop_server(), 0);

    place.unset_env("AUTOAPPDEV_SOCKET");
    let _somebody = UnixListener::bind(place.folder().join("taken.sock")).expect("binds");
    fs::write(place.folder().join("file"), "precious").expect("writes");
    for name in ["taken.sock", "file", "missing/s.sock"] {
        let said = place.refused_server(("AUTOAPPDEV_SOCKET", name));
        assert!(said.contains(name) && said.contains("set AUTOAPPDEV_SOCKET to"), "{said}");
    }
    assert_eq!(fs::read(place.folder().join("file")).expect("there"), b"precious");
}

#[test]
fn stopping_server_keeps_socket_of_another_server() {
    let (mut first, mut second) = (Place::new(), Place::new());
    let path = first.folder().join("shared.sock");
    first.set_env("AUTOAPPDEV_SOCKET", path.to_str().expect("text"));
    second.set_env("AUTOAPPDEV_SOCKET", path.to_str().expect("text"));
    first.start_server();
    // Another program removes the socket.
    fs::remove_file(&path).expect("there");
    second.start_server();
    assert_eq!(first.stop_server(), 0);
    assert_eq!(ask_socket(&path, "GET /api/pipeline").0, 200, "it is the second one's");
    assert_eq!(second.stop_server(), 0);
    assert!(!path.exists());
}

#[test]
fn directory_at_socket_path_does_not_prevent_serving() {
    let mut place = Place::new();
    fs::create_dir_all(place.runtime().join("server.sock")).expect("creates");
    place.start_server();
    assert_eq!(place.get("/api/pipeline").status, 200);
    assert!(place.server_log().contains("no Unix socket at"), "{}", place.server_log());
    assert_eq!(place.client(&["status"]).0, 0, "by the address");
    assert_eq!(place.stop_server(), 0);
    assert!(place.runtime().join("server.sock").is_dir());
}

#[test]
fn inherited_sockets_replace_configured_address() {
    let mut place = Place::new();
    place.compile("activate");
    place.script("environment.sh", "#!/bin/sh\nenv\n");
    let own = place.folder().join("private.sock");
    let server = place.command();
    let mut command = Command::new(place.root().join("activate"));
    command.args(["tcp", &format!("unix={}:600", own.display()), "--"]).arg(server.get_program());
    for (name, value) in server.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.current_dir(place.folder()).env("AUTOAPPDEV_PIPELINE_SCRIPT", "environment.sh");
    // The server does not try to listen at this address, which an ordinary user could not do.
    command.env("AUTOAPPDEV_PORT", "1").env("AUTOAPPDEV_HOST", "127.0.0.1");
    place.start_server_with(command);
    assert_eq!(place.get("/api/pipeline").status, 200);
    assert_eq!(ask_socket(&own, "GET /api/pipeline").0, 200);
    assert_eq!(ask_socket(&place.runtime().join("server.sock"), "GET /api/pipeline").0, 200);
    let (_, run_id) = place.start();
    place.until_ended(run_id);
    let handed_on: Vec<String> = place.lines().into_iter().filter(|line| line.starts_with("LISTEN_")).collect();
    assert!(handed_on.is_empty(), "the sockets are not the pipeline's: {handed_on:?}");
    assert_eq!(place.stop_server(), 0);
    assert!(own.exists(), "the service manager's file is not ours to remove");
}

#[test]
fn inherited_socket_that_does_not_listen_is_refused() {
    let place = Place::new();
    place.compile("activate");
    for idle in ["fresh", "bound", "fresh-unix"] {
        let mut command = place.command_of(Path::new("timeout"));
        // If the server used this socket, the time-out would end it.
        command.arg("60").arg(place.root().join("activate")).args(["tcp", idle, "--", env!("CARGO_BIN_EXE_autoappdev"), "serve"]);
        let output = command.output().expect("timeout runs");
        let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("text"));
        assert_eq!((output.status.code(), out.as_str()), (Some(1), ""), "{idle}: {err}");
        assert!(err.contains("(LISTEN_FDS): descriptor 4 is a socket that does not listen"), "{idle}: {err}");
        assert!(!place.runtime().exists(), "nothing was created");
    }
}

/// The service manager's end of the notifications.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn of(place: &mut Place) -> Self {
        let path = place.folder().join("notify.sock");
        let socket = UnixDatagram::bind(&path).expect("binds");
        socket.set_nonblocking(true).expect("ours");
        place.set_env("NOTIFY_SOCKET", path.to_str().expect("text"));
        Self { socket }
    }

    fn hears(&self) -> Option<String> {
        let mut message = [0; 4096];
        let count = self.socket.recv(&mut message).ok()?;
        Some(String::from_utf8_lossy(&message[..count]).into_owned())
    }

    fn until_hears(&self, what: &str) -> String {
        until(&format!("the manager hears {what}"), || self.hears().filter(|said| said.contains(what)))
    }
}

#[test]
fn service_manager_is_notified_of_ready_and_stopping() {
    let mut place = Place::new();
    let manager = Manager::of(&mut place);
    place.start_server();
    let said = manager.until_hears("READY=1");
    assert!(said.contains(&format!("STATUS=listening on http://127.0.0.1:{}/", place.port())), "{said}");
    assert_eq!(place.get("/api/pipeline").status, 200);
    assert_eq!(manager.hears(), None, "no watchdog was asked for");
    assert_eq!(place.stop_server(), 0);
    manager.until_hears("STOPPING=1");
}

#[test]
fn abstract_notify_socket_works_and_zero_watchdog_is_off() {
    let mut place = Place::new();
    let name = format!("{}/notify", place.folder().display());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).expect("a name")).expect("binds");
    socket.set_nonblocking(true).expect("ours");
    let manager = Manager { socket };
    place.set_env("NOTIFY_SOCKET", &format!("@{name}"));
    place.set_env("WATCHDOG_USEC", "0");
    place.start_server();
    let said = manager.until_hears("READY=1");
    assert!(said.contains("\nSTATUS=listening on http://"), "{said}");
    assert_eq!(place.stop_server(), 0);
    let said = manager.hears();
    assert!(said.as_ref().is_some_and(|said| said.contains("STOPPING=1")), "and no watchdog was fed: {said:?}");
    assert!(!place.server_log().contains("watchdog"), "{}", place.server_log());
}

#[test]
fn watchdog_is_notified_only_while_server_responds() {
    /// The watchdog is notified every 200 ms.
    const SOME_TURNS: Duration = Duration::from_secs(1);
    let mut place = Place::new();
    let manager = Manager::of(&mut place);
    place.set_env("WATCHDOG_USEC", "400000");
    place.start_server();
    for _ in 0..3 {
        manager.until_hears("WATCHDOG=1");
    }
    // Without a free descriptor the server can neither accept a connection nor open one.
    let pid = i32::try_from(place.server_pid()).ok().and_then(Pid::from_raw).expect("a pid");
    let before = rustix::process::getrlimit(Resource::Nofile);
    let said = || place.server_log().matches("the watchdog is not notified").count();
    let said_before = said();
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(0), ..before }).expect("ours");
    let since = Instant::now();
    let mut fed = 0;
    until_true("it says that the watchdog is not notified, and some of its turns pass", || {
        fed += std::iter::from_fn(|| manager.hears()).count();
        said() > 0 && since.elapsed() > SOME_TURNS
    });
    // On a slow machine a check may have been late before and then succeeded again. After each notification, the warning can be
    // logged once more.
    let said = said() - said_before;
    assert!(said <= 1 + fed, "said once, however long it lasts: {said} times, and {fed} feedings between");
    prlimit(Some(pid), Resource::Nofile, before).expect("ours");
    manager.until_hears("WATCHDOG=1");
    // The thread that notifies the watchdog does not delay the end of the server.
    signal(place.server_pid(), "TERM");
    manager.until_hears("STOPPING=1");
    assert_eq!(place.stop_server(), 0);
}

#[test]
fn watchdog_is_not_notified_while_supervisor_hangs() {
    let mut place = Place::new();
    let manager = Manager::of(&mut place);
    place.set_env("WATCHDOG_USEC", "400000");
    place.start_server();
    manager.until_hears("WATCHDOG=1");
    // Only this thread is stopped. Requests for the state are still served.
    let tid = thread_of(place.server_pid(), "supervisor").expect("it has one");
    if let Err(error) = ptrace::seize(tid, Options::empty()) {
        not_run(&format!("this machine lets nobody trace: {error}"), "AUTOAPPDEV_REQUIRE_PTRACE");
        return;
    }
    let warnings = || place.server_log().matches("the watchdog is not notified").count();
    // A killed server does not disappear while one of its threads is traced, so a failure before the detach would wait forever.
    let traced = Traced(tid);
    ptrace::interrupt(tid).expect("it is traced");
    waitpid(tid, Some(WaitPidFlag::__WALL)).expect("it is traced");
    // On a busy machine a notification may have been late before.
    let before = warnings();
    until_true("it says that the watchdog is not notified", || warnings() > before);
    assert_eq!(place.get("/api/pipeline").status, 200);
    drop(traced);
    while manager.hears().is_some() {}
    manager.until_hears("WATCHDOG=1");
}

/// A stopped thread of the server, which is resumed on drop.
struct Traced(nix::unistd::Pid);

impl Drop for Traced {
    fn drop(&mut self) {
        // If the thread has ended, there is nothing to detach from.
        let _has_ended = ptrace::detach(self.0, None);
    }
}

/// Returns the server's thread of this name.
fn thread_of(server: u32, name: &str) -> Option<nix::unistd::Pid> {
    let mut threads = fs::read_dir(format!("/proc/{server}/task")).ok()?.flatten();
    let thread = threads.find(|thread| fs::read_to_string(thread.path().join("comm")).is_ok_and(|found| found.trim() == name))?;
    Some(nix::unistd::Pid::from_raw(thread.file_name().to_str()?.parse().ok()?))
}

#[test]
fn listen_failure_error_names_remedy() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = taken.local_addr().expect("has one").port().to_string();
    let said = place.refused_server(("AUTOAPPDEV_PORT", &port));
    assert!(said.contains("AUTOAPPDEV_PORT (or --port)"), "{said}");
    let (code, _, err) = place.client(&["status"]);
    assert_eq!(code, 4, "{err}");
}

/// One address opens as many connections as it can have, with requests that wait.
#[test]
fn long_polls_of_one_address_delay_no_other_client() {
    const TOKEN: &str = "test-token-of-a-crowd-8Hw";
    const FROM_ONE_ADDRESS: usize = 72;

    if !is_within_own_network("long_polls_of_one_address_delay_no_other_client") {
        return;
    }
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_HOST", "0.0.0.0");
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "stubborn.sh");
    place.use_token(TOKEN);
    place.start_server();
    let version = place.pipeline()["version"].as_u64().expect("a number");
    let socket = place.runtime().join("server.sock");
    let come = || Wire::of(TcpStream::connect((OWN_ADDRESS, place.port())).expect("the server listens there"));
    let ask_for = |request_line: &str| {
        format!(
            "{request_line} HTTP/1.1\r\nHost: {OWN_ADDRESS}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n\
             Content-Length: 0\r\n\r\n"
        )
    };
    let served = || {
        let threads = fs::read_dir(format!("/proc/{}/task", place.server_pid())).expect("the server is alive").flatten();
        let names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
        names.filter(|name| name.strip_prefix("http-").is_some_and(|number| number.trim().parse::<u64>().is_ok())).count()
    };
    // The loopback connections have ended.
    until_true("nobody is served", || served() == 0);
    let gather = |request: &dyn Fn(usize) -> String| {
        let mut crowd = Vec::new();
        until_true("the address has all the connections that it can have", || {
            // A slow client loses its slot to the next one.
            if crowd.len() < 2 * FROM_ONE_ADDRESS {
                let mut wire = come();
                wire.send(request(crowd.len()));
                crowd.push(wire);
            }
            served() >= FROM_ONE_ADDRESS
        });
        crowd
    };
    // A long poll gets an early response with the unchanged state if another client of its address needs its slot.
    let mut polls = gather(&|_| ask_for(&format!("GET /api/pipeline?after={version}&wait=60")));
    let neighbour = until("a neighbour gets the slot of a long poll", || {
        let mut wire = come();
        wire.send(ask_for("GET /api/pipeline"));
        let answer = wire.answer();
        // On a busy machine, the thread of the poll that gives way may not run in time.
        assert!(answer.status == 200 || (answer.status, answer.error()) == (503, "too_many_connections"), "{answer:?}");
        (answer.status == 200).then_some(wire)
    });
    let early = polls.iter_mut().find_map(|wire| {
        wire.read_within(Duration::from_millis(5));
        wire.try_answer(false).ok().filter(|answer| answer.status == 200)
    });
    let early = early.expect("one of them has its answer");
    assert_eq!((&early.body["pipeline"]["version"], early.header("Connection")), (&version.into(), Some("close")));
    drop((polls, neighbour));
    // A change of the state ends all remaining long polls.
    place.start();
    // A TERM before the script has set its trap would end it.
    place.until_line("ready");
    until_true("nobody is served", || served() == 0);

    // Streams and slow stops keep their slots.
    let slow_stop = |n: usize| {
        let body = format!(r#"{{"grace_s":{}}}"#, 3_000 - n);
        ask_for("POST /api/pipeline/stop").replace("Content-Length: 0", &format!("Content-Length: {}", body.len())) + &body
    };
    let mut crowd = gather(&|n| if n % 2 == 0 { ask_for("GET /api/events") } else { slow_stop(n) });
    // The next client waits for a slot among those of its address. If the server waited for it too, no other client would get a
    // response before it. On a machine that pauses for two seconds in between, this round proves nothing.
    let is_unanswered = |wire: &Wire| {
        let stream = wire.writer();
        stream.set_nonblocking(true).expect("ours");
        let is_silent = stream.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        stream.set_nonblocking(false).expect("ours");
        is_silent
    };
    let overtakes = || {
        let mut waits = come();
        waits.send(ask_for("GET /api/pipeline"));
        assert_eq!(place.get("/api/pipeline").status, 200, "loopback");
        assert_eq!(ask_socket(&socket, "GET /api/pipeline").0, 200);
        let is_overtaken = is_unanswered(&waits);
        let answer = waits.answer();
        assert!(answer.status == 200 || (answer.status, answer.error()) == (503, "too_many_connections"), "{answer:?}");
        is_overtaken
    };
    // If stops arrive in another order than they were sent, one is refused and its connection gives its slot up. Another stop
    // then takes that slot. On a busy machine all of them can be refused.
    until_true("a client of another address is answered before one that waits", || {
        let is_overtaken = overtakes();
        if !is_overtaken {
            let mut wire = come();
            wire.send(slow_stop(crowd.len()));
            crowd.push(wire);
        }
        is_overtaken
    });
    // The stop requests get their responses when the run has ended.
    let (exit, out, err) = place.client(&["stop", "--grace", "0"]);
    assert_eq!(exit, 0, "{out}{err}");
    drop(crowd);
    until_true("there is a place again", || {
        let mut wire = come();
        wire.send(ask_for("GET /api/pipeline"));
        wire.try_answer(false).is_ok_and(|answer| answer.status == 200)
    });
}
