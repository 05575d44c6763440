//! The information that a crash, a file or the binary itself reveals.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use serde_json::json;

use crate::support::login::LogIn;
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
fn server_and_shim_write_no_core_dump_and_pipeline_can() {
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

/// Triggers that hide events, report another state, keep sessions from ending, and create more of them.
const TRIGGERS: &str = "
    CREATE TRIGGER hide_events BEFORE INSERT ON pipeline_events BEGIN SELECT RAISE (IGNORE); END;
    CREATE TRIGGER keep_sessions BEFORE DELETE ON sessions BEGIN SELECT RAISE (IGNORE); END;
    CREATE TRIGGER add_sessions AFTER INSERT ON sessions WHEN new.id <> 'planted' BEGIN
        INSERT INTO sessions SELECT 'planted', secret, 'act', made_with, created_at, used_at, expires_at, ends_at, address, user_agent
            FROM sessions WHERE id = new.id;
    END;
    CREATE TRIGGER rewrite_state AFTER UPDATE ON pipeline_state BEGIN
        UPDATE pipeline_state SET version = 4711;
        DELETE FROM pipeline_events;
    END;
    CREATE VIEW planted AS SELECT * FROM sessions;";

#[test]
fn triggers_and_views_in_database_have_no_effect() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "exit.sh");
    place.use_token("a-token-of-this-test");
    place.start_server();
    assert_eq!(place.stop_server(), 0);
    place.edit_database(TRIGGERS);
    place.start_server();
    let log_in = || LogIn::of(&place.post("/api/login", json!({"token": "a-token-of-this-test"})));
    let (stays, ends) = (log_in(), log_in());
    let is_let_in = |place: &Place, log_in: &LogIn| {
        let fields = log_in.fields().map(|(name, value)| format!("{name}: {value}\r\n")).concat();
        let mut wire = place.wire();
        wire.send(format!("GET /api/session HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
        wire.answer().body["session"]["may"] == "act"
    };
    let sessions = |place: &Place| place.get("/api/sessions").ok()["sessions"].as_array().expect("a list").len();
    assert_eq!((is_let_in(&place, &stays), is_let_in(&place, &ends), sessions(&place)), (true, true, 2));
    place.post("/api/sessions/end", json!({"id": ends.id()})).ok();
    let (_, run_id) = place.start();
    let run = place.until_ended(run_id);
    place.until_settled(run_id);
    assert!(place.pipeline()["version"].as_u64().is_some_and(|version| version < 4711), "rewrite_state has not run");
    let kinds = |place: &Place| place.events(run_id).iter().map(|event| event["kind"].clone()).collect::<Vec<_>>();
    assert_eq!(kinds(&place), ["starting", "spawned", "exited", "usage"]);
    place.kill_server();
    place.start_server();
    assert_eq!((is_let_in(&place, &stays), is_let_in(&place, &ends), sessions(&place)), (true, false, 1));
    assert_eq!((kinds(&place).len(), &place.run(run_id)), (4, &run));
    let (code, said, _) = place.client(&["check"]);
    assert_eq!(code, 1, "{said}");
    for name in ["hide_events", "keep_sessions", "add_sessions", "rewrite_state", "view planted"] {
        assert!(said.contains(name), "check names {name}: {said}");
        assert!(place.server_log().contains(name), "so does the server's log: {}", place.server_log());
    }
}

#[test]
fn database_with_foreign_index_is_refused_untouched() {
    let mut place = Place::serving("sleep.sh");
    assert_eq!(place.stop_server(), 0);
    // An address can log in once. Each further login gets a normal response and is silently not stored.
    place.edit_database("CREATE UNIQUE INDEX once ON sessions (address)");
    let before = fs::read(place.database()).expect("there");
    for args in [&["serve"][..], &["check"], &["migrate"]] {
        let (code, _, said) = place.client(args);
        assert_ne!(code, 0);
        assert!(said.contains("index once is not ours") && said.contains("move it aside"), "{said}");
        assert!(fs::read(place.database()).expect("there") == before);
    }
}

/// A write beyond an array in `SQLite`'s C code is detected, because the compiler was told to guard it (`.cargo/config.toml`).
#[test]
fn bundled_c_code_has_stack_protection() {
    let binary = fs::read(env!("CARGO_BIN_EXE_autoappdev")).expect("it is there");
    assert!(memchr::memmem::find(&binary, b"__stack_chk_fail").is_some(), "SQLite is compiled without -fstack-protector-strong");
}
