//! A limit on the size of files (`ulimit -f`). It is an error like a full disk, and does not end the server.

use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::support::Place;

#[test]
fn server_at_file_size_limit_responds_and_recovers() {
    let place = Place::serving("sleep.sh");
    let pid = Pid::from_raw(place.server_pid().try_into().expect("a pid"));
    let before = getrlimit(Resource::Fsize);
    prlimit(pid, Resource::Fsize, Rlimit { current: Some(0), ..before }).expect("ours");
    let (code, out, err) = place.client(&["start"]);
    assert!(code == 1 && out.is_empty() && err.contains("the database could not store it"), "{out}{err}");
    let (code, out, err) = place.client(&["status"]);
    assert!(code == 0 && out.contains("stopped") && out.contains("nothing can be recorded"), "{out}{err}");
    prlimit(pid, Resource::Fsize, before).expect("ours");
    let (code, out, err) = place.client(&["start"]);
    assert!(code == 0 && out.contains("running"), "{out}{err}");
    let (code, _, err) = place.client(&["stop", "--now"]);
    assert_eq!(code, 0, "{err}");
}

#[test]
fn file_size_limit_makes_serve_and_migrate_fail_with_cause() {
    for mode in ["serve", "migrate"] {
        let place = Place::new();
        let mut command = place.command_of(Path::new("bash"));
        // 8 KiB are enough for the small files, and too little for the database. The time-out would end a server that continued.
        command.args(["-c", "ulimit -f 8; exec timeout 60 \"$@\"", "bash", env!("CARGO_BIN_EXE_autoappdev"), mode]);
        let output = command.stdin(Stdio::null()).output().expect("bash runs");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{mode}: {err}");
        assert!(err.contains("autoappdev: failed to") && err.contains("autoappdev.db"), "{mode}: {err}");
    }
}
