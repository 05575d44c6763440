//! A client command that runs in its own folder, and its result.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::fake_server::FakeServer;
use tempfile::TempDir;

/// The time limit for everything that must happen.
pub(super) const DEADLINE: Duration = Duration::from_mins(1);

/// Returns the binary in its own folder, without this environment, but with a proxy that must not be used.
pub(super) fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_autoappdev"));
    command.current_dir(folder).env_clear().args(args).stdin(Stdio::null());
    command.env("http_proxy", "http://127.0.0.1:1").env("ALL_PROXY", "http://127.0.0.1:1");
    command
}

/// Returns the exit code, stdout and stderr.
pub(super) fn finished(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

pub(super) fn run_in(folder: &Path, args: &[&str]) -> (i32, String, String) {
    finished(command(folder, args).output().expect("the binary runs"))
}

pub(super) fn run_against(server: &FakeServer, args: &[&str]) -> (i32, String, String) {
    let folder = folder();
    let url = server.url();
    run_in(folder.path(), &[&["--url", url.as_str()], args].concat())
}

pub(super) fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

pub(super) fn exit_code(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("it did not end");
}

/// A runtime directory that is locked, as by a server, until this value is dropped.
#[must_use]
pub(super) struct Held(fs::File);

impl Drop for Held {
    /// Unlocks explicitly. Until it executes its program, a process that another test forked in the meantime also has the open file, and
    /// would keep the lock after a close.
    fn drop(&mut self) {
        rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock).expect("it is open");
    }
}

/// Locks a runtime directory. If it is already locked, it stays so.
pub(super) fn hold(runtime: &Path) -> Held {
    let lock = fs::File::open(runtime).expect("there");
    let _is_held = rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    Held(lock)
}

/// Writes the `server.json` of a server with this id.
pub(super) fn write_server_json(runtime: &Path, id: &str, server: &FakeServer) {
    let dir = fs::metadata(runtime).expect("there");
    let dir = format!(r#"{{"dev":{},"ino":{}}}"#, dir.dev(), dir.ino());
    let text = format!(r#"{{"pid":1,"id":"{id}","dir":{dir},"address":"{}"}}"#, server.address);
    fs::write(runtime.join("server.json"), text).expect("written");
}

/// Announces this as the server of the folder until the returned value is dropped.
pub(super) fn announce(folder: &Path, server: &FakeServer) -> Held {
    let runtime = folder.join("runtime");
    fs::create_dir_all(&runtime).expect("made");
    write_server_json(&runtime, "x", server);
    hold(&runtime)
}
