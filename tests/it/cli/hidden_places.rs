//! A runtime directory that the client sees at another path than the server does, and a client without `/proc`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::command::finished;
use crate::support::{Place, not_run};

/// Runs the client in its own mount namespace, after the shell commands `prepare`. Returns `None` if this user cannot create one.
fn client_after(place: &Place, flags: &str, prepare: &str, args: &[&str]) -> Option<(i32, String, String)> {
    let mut command = Command::new("unshare");
    if !command.args([flags, "mount", "-t", "tmpfs", "none", "/mnt"]).status().is_ok_and(|status| status.success()) {
        not_run("no mount namespace can be made here; it takes root and unshare(1)", "AUTOAPPDEV_REQUIRE_ROOT");
        return None;
    }
    let mut command = place.command_of(Path::new("unshare"));
    command.args([flags, "bash", "-c", &format!("{prepare} && exec \"$@\""), "bash"]).arg(env!("CARGO_BIN_EXE_autoappdev"));
    Some(finished(command.args(args).stdin(Stdio::null()).output().expect("unshare is there")))
}

#[test]
fn client_finds_server_through_another_mount_and_network_namespace() {
    let mut place = Place::serving("sleep.sh");
    let seen = place.folder().join("elsewhere/runtime");
    fs::create_dir_all(&seen).expect("creates");
    // As in a container: the recorded path does not exist, and the recorded address belongs to another network.
    let (seen, recorded) = (seen.display().to_string(), place.runtime().display().to_string());
    let prepare = format!("mount --bind '{recorded}' '{seen}' && mount -t tmpfs none '{recorded}'");
    place.set_env("AUTOAPPDEV_RUNTIME_DIR", &seen);
    for (args, said) in [(&["status"][..], "stopped"), (&["start"], "running"), (&["stop", "--now"], "stopped")] {
        let Some((code, out, err)) = client_after(&place, "-mn", &prepare, args) else { return };
        assert!(code == 0 && out.contains(said) && err.is_empty(), "{args:?}: {out}{err}");
    }
}

#[test]
fn client_without_proc_uses_unix_socket() {
    let place = Place::serving("sleep.sh");
    let prepare = "mount -t tmpfs none /proc";
    for (args, said) in [(&["status"][..], "stopped"), (&["start"], "running"), (&["stop", "--now"], "stopped")] {
        let Some((code, out, err)) = client_after(&place, "-m", prepare, args) else { return };
        assert!(code == 0 && out.contains(said) && err.is_empty(), "{args:?}: {out}{err}");
    }
}
