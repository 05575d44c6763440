//! Unix sockets at which another user listens without accepting connections, some of them with a full queue. Every wait for them
//! is limited, and no run is lost because of them.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};

use autoappdev::run_dir::{Runs, read_header};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::thread::{Gid, Uid, set_thread_gid, set_thread_res_uid};

use crate::support::network::is_within_own_network;
use crate::support::{DEADLINE, Place, is_alive, is_stopped, letter, not_run, signal, until_true};

/// Any user who is not root.
const ANOTHER: u32 = 65_534;

/// Sockets of another user. They are closed after the deadline, so that a program that waits for them ends and its test fails.
pub(super) struct Sockets {
    leave: Sender<()>,
    holder: JoinHandle<bool>,
}

impl Sockets {
    /// Opens sockets with `open` as the other user. Returns `None` if this test cannot become that user.
    fn make(open: impl FnOnce() -> Vec<OwnedFd> + Send + 'static) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            not_run("sockets of another user can only be made by root", "AUTOAPPDEV_REQUIRE_ROOT");
            return None;
        }
        let ((made, is_made), (leave, left)) = (mpsc::channel(), mpsc::channel());
        let holder = thread::spawn(move || {
            // Affects only this thread.
            let another = Uid::from_raw(ANOTHER);
            set_thread_gid(Gid::from_raw(ANOTHER)).expect("we are root");
            set_thread_res_uid(another, another, another).expect("we are root");
            let _sockets = open();
            made.send(()).expect("it is waited for");
            left.recv_timeout(DEADLINE) != Err(RecvTimeoutError::Timeout)
        });
        is_made.recv().expect("they are made");
        Some(Self { leave, holder })
    }

    /// Opens listeners with a full queue.
    fn full(addresses: Vec<SocketAddrUnix>) -> Option<Self> {
        Self::make(move || {
            addresses.iter().flat_map(|address| [listen(address), connect(address).expect("room for one")]).collect()
        })
    }

    pub(super) fn leave(self) {
        let _gave_up = self.leave.send(());
        assert!(self.holder.join().expect("no panic"), "something waited for the other user's sockets until they were closed");
    }
}

fn socket() -> OwnedFd {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("a socket")
}

/// Opens a listener that accepts nothing and has room for one connection.
fn listen(address: &SocketAddrUnix) -> OwnedFd {
    let socket = socket();
    rustix::net::bind(&socket, address).expect("the name is free");
    rustix::net::listen(&socket, 0).expect("listens");
    socket
}

fn connect(address: &SocketAddrUnix) -> io::Result<OwnedFd> {
    let socket = socket();
    rustix::net::connect(&socket, address)?;
    Ok(socket)
}

fn named(name: &str) -> SocketAddrUnix {
    SocketAddrUnix::new_abstract_name(name.as_bytes()).expect("short")
}

fn runs_of(place: &Place) -> Runs {
    Runs::new(place.runtime().canonicalize().expect("there"))
}

/// Opens sockets at the names that the sockets of these runs could have: for each run one with a full queue, and one with room
/// that sends nothing.
pub(super) fn squat(place: &Place, run_ids: &[i64]) -> Option<Sockets> {
    let prefix = runs_of(place).socket_prefix();
    let names: Vec<[SocketAddrUnix; 2]> =
        run_ids.iter().map(|id| ["x", "y"].map(|last| named(&format!("{prefix}{id}-{last}")))).collect();
    Sockets::make(move || {
        names.iter().flat_map(|[full, silent]| [listen(full), connect(full).expect("room for one"), listen(silent)]).collect()
    })
}

#[test]
fn squatted_socket_names_do_not_delay_boot_or_count_as_runs() {
    let mut place = Place::serving("sleep.sh");
    let (pid, run_id) = place.start();
    assert_eq!(place.stop_server(), 0);
    // The live run, the next one, and one with a very high number.
    let Some(sockets) = squat(&place, &[run_id, run_id + 1, i64::MAX]) else { return };
    place.start_server();
    assert_eq!(place.until_all_agree(), "running", "the run goes on under this server");
    place.act("pause").ok();
    assert!(is_stopped(pid));
    place.act("resume").ok();
    let (code, _, err) = place.client(&["stop", "--grace", "0"]);
    assert_eq!(code, 0, "{err}");
    // With a run that has ended, and then without a database that knows a run.
    place.restart_server();
    assert_eq!(place.until_all_agree(), "stopped");
    assert_eq!(place.start().1, run_id + 1);
    place.act("stop").ok();
    assert_eq!(place.stop_server(), 0);
    for name in ["autoappdev.db", "autoappdev.db-wal", "autoappdev.db-shm"] {
        let _not_there = fs::remove_file(place.runtime().join(name));
    }
    place.start_server();
    assert_eq!(place.start().1, run_id + 2, "as if nobody had those names");
    sockets.leave();
}

/// Only the run's socket is left, and another user has filled its queue.
#[test]
fn run_without_directory_survives_flood_of_its_socket() {
    if !is_within_own_network("run_without_directory_survives_flood_of_its_socket") {
        return;
    }
    fs::write("/proc/sys/net/core/somaxconn", "8").expect("it is this network's");
    let mut place = Place::serving("sleep.sh");
    let (pid, run_id) = place.start();
    let shim = place.shim_pid(run_id);
    let header = read_header(&place.run_dir(run_id).join("journal.jsonl")).expect("there");
    let address = named(&header.socket.expect("it has one"));
    place.kill_server();
    signal(shim, "STOP");
    until_true("the shim is stopped", || letter(shim) == Some('T'));
    fs::remove_dir_all(place.run_dir(run_id)).expect("removes");
    let flood = move || std::iter::from_fn(|| connect(&address).ok()).take(100).collect::<Vec<_>>();
    let Some(flood) = Sockets::make(move || {
        let connections = flood();
        assert!((8..100).contains(&connections.len()), "the queue is full: {}", connections.len());
        connections
    }) else {
        return;
    };
    place.start_server();
    assert_eq!(place.state(), "running");
    until_true("health says that the shim does not answer", || place.degraded().is_some_and(|why| why.contains("shim")));
    assert_eq!(place.act("start").status, 409);
    assert!(is_alive(pid));
    signal(shim, "CONT");
    until_true("all is well again", || place.degraded().is_none_or(|why| !why.contains("shim")));
    place.act("pause").ok();
    assert!(is_stopped(pid));
    flood.leave();
    place.act("resume").ok();
    place.act("stop").ok();
    assert!(!is_alive(pid));
}

/// Creates a directory in which every user can create files, as in `/tmp`.
fn shared_dir(place: &Place) -> std::path::PathBuf {
    fs::set_permissions(place.folder(), Permissions::from_mode(0o711)).expect("ours");
    let shared = place.folder().join("shared");
    fs::create_dir(&shared).expect("creates");
    fs::set_permissions(&shared, Permissions::from_mode(0o1777)).expect("ours");
    shared
}

fn at(path: &Path) -> SocketAddrUnix {
    SocketAddrUnix::new(path).expect("short")
}

#[test]
fn socket_path_taken_by_another_user_is_an_error_without_wait() {
    let mut place = Place::serving("sleep.sh");
    let path = shared_dir(&place).join("s.sock");
    let Some(sockets) = Sockets::full(vec![at(&path)]) else { return };
    place.set_env("AUTOAPPDEV_SOCKET", path.to_str().expect("text"));
    assert_eq!(place.stop_server(), 0);
    for args in [&["status"][..], &["stop"]] {
        let mut command = place.command();
        // No server is recorded there, so the socket is used.
        command.env("AUTOAPPDEV_RUNTIME_DIR", place.folder().join("none")).args(args);
        let output = command.output().expect("runs");
        let err = String::from_utf8(output.stderr).expect("text");
        assert_eq!((output.status.code(), err.lines().count()), (Some(4), 1), "{args:?}: {err}");
        assert!(err.contains(&*path.to_string_lossy()), "{args:?}: {err}");
    }
    let refused = place.refused_server(("AUTOAPPDEV_SOCKET", path.to_str().expect("text")));
    assert!(refused.contains(&*path.to_string_lossy()) && refused.contains("AUTOAPPDEV_SOCKET"), "{refused}");
    assert!(path.exists());
    sockets.leave();
}

#[test]
fn full_notify_socket_does_not_block_server() {
    let mut place = Place::new();
    let path = place.folder().join("notify.sock");
    let _manager = UnixDatagram::bind(&path).expect("binds");
    let sender = UnixDatagram::unbound().expect("a socket");
    sender.set_nonblocking(true).expect("ours");
    let sent = (0..100_000).find(|_| sender.send_to(b"X=1", &path).is_err());
    assert!(sent.is_some(), "its queue is never full");
    place.set_env("NOTIFY_SOCKET", path.to_str().expect("text"));
    place.start_server();
    assert_eq!(place.get("/api/pipeline").status, 200);
    assert_eq!(place.stop_server(), 0);
    assert!(place.server_log().contains("cannot notify the service manager"), "{}", place.server_log());
}
