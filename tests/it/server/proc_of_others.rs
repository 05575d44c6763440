//! A `/proc` that shows the processes of another PID namespace than the server's, hides processes, or is missing.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::foreign_files::{ANOTHER, copied_binary, ended, is_root, set_mode};
use crate::support::{Place, is_alive, is_stopped, not_run};

/// Returns the server in its own namespaces, after the shell commands `prepare`, or `None` if this user cannot create them.
fn server_within(place: &Place, flags: &[&str], prepare: &str) -> Option<Command> {
    let shell = |script: &str| {
        let mut command = place.command_of(Path::new("unshare"));
        command.args(flags).args(["sh", "-c", script, "sh"]);
        command
    };
    if !shell(&format!("{prepare} true")).status().is_ok_and(|status| status.success()) {
        not_run("no such namespaces can be made here; it takes root and unshare(1)", "AUTOAPPDEV_REQUIRE_PIDNS");
        return None;
    }
    Some(shell(&format!("{prepare} exec \"$@\"")))
}

/// In that `/proc`, the pids of the run's processes belong to other processes, which the server would report and treat as its
/// own.
#[test]
fn server_does_not_start_with_foreign_or_missing_proc() {
    let place = Place::new();
    let outer = "/proc belongs to another PID namespace";
    let none = "/proc is not mounted";
    for (flags, prepare, why) in [
        (&["--pid", "--fork", "--kill-child"][..], "", outer),
        (&["--pid", "--fork", "--kill-child", "--mount-proc", "unshare", "--pid", "--fork", "--kill-child"], "", outer),
        (&["-m"], "mount -t tmpfs none /proc;", none),
        (&["-m"], "mount -t tmpfs none /proc && mkdir /proc/self && echo x >/proc/self/status;", outer),
    ] {
        let Some(mut command) = server_within(&place, flags, prepare) else { return };
        command.args([env!("CARGO_BIN_EXE_autoappdev"), "serve"]);
        let (code, said) = ended(command);
        assert!(code == 1 && said.contains(why) && said.contains("mount -t proc proc /proc"), "{flags:?}: {said}");
        assert!(!place.runtime().exists(), "nothing was created");
    }
}

#[test]
fn server_with_hidepid_proc_controls_a_run() {
    if !is_root() {
        return;
    }
    let mut place = Place::new();
    let binary = copied_binary(&place);
    set_mode(place.folder(), 0o755);
    let owned = Command::new("chown").args(["-R", &ANOTHER.to_string()]).arg(place.folder()).status();
    assert!(owned.expect("chown is there").success());
    let Some(mut command) = server_within(&place, &["-m"], "mount -t proc -o hidepid=2 proc /proc;") else { return };
    command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
    place.start_server_with(command);
    place.bring_own_token();
    let (pid, run_id) = place.start_with(json!({"script": "sleep.sh"}));
    place.act("pause").ok();
    assert!(is_stopped(pid));
    place.act("resume").ok();
    place.act("stop").ok();
    assert!(!is_alive(pid));
    place.assert_nothing_left(run_id);
    assert_eq!(place.stop_server(), 0);
}
