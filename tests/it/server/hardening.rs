//! What a crash, a file or the binary itself reveals.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use serde_json::json;

use crate::support::{Place, is_alive, not_run, signal, until, until_true};

/// Returns a process's soft core dump limit from `/proc` (`proc_pid_limits(5)`).
fn core_limit(pid: u32) -> String {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it lives");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).expect("a limit");
    line.split_whitespace().next().expect("a number").to_owned()
}

/// Returns files that look like core dumps, in the directories where the kernel would write them.
fn core_dumps(place: &Place) -> Vec<std::path::PathBuf> {
    let folders = [place.folder().to_owned(), place.root(), place.run_dir(1)];
    let files = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten().map(|entry| entry.path());
    files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("core"))).collect()
}

/// The server's memory contains tokens, and the shim's the environment of a start.
#[test]
fn crash_of_server_or_shim_leaves_no_memory_behind_and_the_pipelines_does() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "crash.sh");
    place.script("crash.sh", "#!/bin/bash\necho ready\nsleep 600 &\nwait\n");
    let is_dumped = |command: &mut Command| command.status().expect("it runs").core_dumped();
    let control = "ulimit -c unlimited && kill -SEGV $$";
    if !is_dumped(Command::new("bash").args(["-c", control]).current_dir(place.folder())) {
        not_run("no crash is dumped here (ulimit -c, core_pattern)", "AUTOAPPDEV_REQUIRE_CORE_DUMPS");
        return;
    }
    let control_dumps = core_dumps(&place);
    // As on a machine where the limit was raised for the whole session.
    let mut command = Command::new("bash");
    command.args(["-c", "ulimit -c unlimited && exec \"$@\"", "bash"]).arg(env!("CARGO_BIN_EXE_autoappdev"));
    let plain = place.command();
    command.current_dir(place.folder()).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("PATH", "/usr/bin:/bin");
    place.start_server_with(command);
    let (leader, run_id) = place.start_with(json!({"env": {"SECRET": "of-this-run"}}));
    let (server, shim) = (place.server_pid(), place.shim_pid(run_id));
    for (pid, limit) in [(server, "1"), (shim, "1"), (leader, "unlimited")] {
        assert_eq!(core_limit(pid), limit, "{pid} of server {server}, shim {shim}, leader {leader}");
    }
    // Their user can still see their open files and working directories, which a server needs to find a lost shim.
    for pid in [server, shim] {
        fs::read_link(format!("/proc/{pid}/cwd")).expect("it is dumpable");
    }
    signal(shim, "ILL");
    until_true("the shim has crashed", || !is_alive(shim));
    place.until_state("stopped");
    let status = place.crash_server("ILL");
    assert!(status.signal() == Some(4) && !status.core_dumped(), "{status:?}");
    assert_eq!(core_dumps(&place), control_dumps);
    // A pipeline can still write core dumps: it gets the original limit.
    place.script("crash.sh", "#!/bin/bash\nulimit -Sc\nkill -SEGV $$\n");
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "crash.sh");
    place.start_server();
    let (_, run_id) = place.start();
    place.until_ended(run_id);
    let inherited = until("the limit is said", || place.said(run_id, "stdout").pop());
    let own = Command::new("bash").args(["-c", "ulimit -Sc"]).output().expect("it runs");
    assert_eq!(inherited, String::from_utf8_lossy(&own.stdout).trim(), "as this test has it");
}

/// A write beyond an array in `SQLite`'s C code is detected: the compiler was told to guard it (`.cargo/config.toml`).
#[test]
fn bundled_c_code_has_stack_protection() {
    let binary = fs::read(env!("CARGO_BIN_EXE_autoappdev")).expect("it is there");
    assert!(memchr::memmem::find(&binary, b"__stack_chk_fail").is_some(), "SQLite is compiled without -fstack-protector-strong");
}
