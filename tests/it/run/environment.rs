//! What a script starts with: arguments, folder, environment, signals, descriptors and session, as `/proc` shows them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Place, stat_field, until_true};
use serde_json::json;

/// Returns the environment that a process was executed with.
fn environment(pid: u32) -> BTreeMap<String, String> {
    let text = String::from_utf8(fs::read(format!("/proc/{pid}/environ")).expect("it is there")).expect("text");
    let entries = text.split_terminator('\0').filter_map(|entry| entry.split_once('='));
    entries.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn descriptors(pid: u32) -> BTreeMap<u32, PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("it is there").flatten();
    let number = |path: &Path| path.file_name()?.to_str()?.parse().ok();
    entries.filter_map(|entry| Some((number(&entry.path())?, fs::read_link(entry.path()).ok()?))).collect()
}

/// Returns a set of signals from a line of `/proc/<pid>/status`.
fn signal_set(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("a line");
    u64::from_str_radix(line.trim(), 16).expect("hexadecimal")
}

fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// Returns the signals that can be ignored and that are not raised by a fault of the process itself (`signal(7)`): all but ILL,
/// BUS, FPE, KILL, SEGV and STOP.
fn ignorable() -> u64 {
    (1..=31).filter(|signal| ![4, 7, 8, 9, 11, 19].contains(signal)).map(bit).sum()
}

/// Every signal but the two that glibc reserves: in each child of its `posix_spawn(3)`, these are ignored.
const FOR_EVERYBODY: u64 = !(0b11 << 31);

/// Starts `sleep.sh`, and waits until its bash has become the `sleep`, which catches no signals.
fn start_sleep(place: &Place) -> (u32, i64) {
    let (pid, run_id) = place.start();
    until_asleep(pid);
    (pid, run_id)
}

/// Waits until bash has become `sleep`. In the middle of an execve(2), a process shows neither the old program's environment nor
/// the new one's.
fn until_asleep(pid: u32) {
    until_true("bash has become a sleep", || {
        fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().starts_with(b"sleep\0")
    });
}

#[test]
fn script_receives_arguments_folder_and_environment() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "tell.sh");
    place.use_token("not-for-scripts-at-all");
    place.set_env("INHERITED", "from the server");
    place.set_env("REPLACED", "from the server");
    place.start_server();
    place.script("tell.sh", "#!/bin/bash\nprintf '<%s>\\n' \"$#\" \"$@\"\ncat && echo \"end of input\"\nexec sleep 600\n");
    let folder = place.root().join("two words, größer");
    fs::create_dir(&folder).expect("creates");

    let args = ["", "two  words", "größer ☃", "*", "$HOME `id`", "a\"b'c\\", "-n", "tab\tin it"];
    let env = json!({"GREETING": "grüß dich ☃", "EMPTY": "", "EQUATION": "a=b=c", "REPLACED": "from the request"});
    let (pid, run_id) = place.start_with(json!({"args": args, "cwd": "two words, größer", "env": env}));
    place.until_line("end of input");
    until_asleep(pid);
    let mut said: Vec<String> = args.iter().map(|arg| format!("<{arg}>")).collect();
    said.insert(0, format!("<{}>", args.len()));
    said.push("end of input".to_owned());
    assert_eq!(place.said(run_id, "stdout"), said);

    let canonical = folder.canonicalize().expect("there");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).expect("it is there"), canonical);
    let environment = environment(pid);
    let value = |name: &str| environment.get(name).map(String::as_str);
    assert_eq!(value("GREETING"), Some("grüß dich ☃"));
    assert_eq!(value("EMPTY"), Some(""));
    assert_eq!(value("EQUATION"), Some("a=b=c"));
    assert_eq!(value("INHERITED"), Some("from the server"));
    assert_eq!(value("REPLACED"), Some("from the request"));
    assert_eq!(value("AUTOAPPDEV_RUN_ID"), Some(run_id.to_string().as_str()));
    assert_eq!(value("AUTOAPPDEV_RUNTIME_DIR").map(Path::new), Some(&*place.runtime().canonicalize().expect("there")));
    assert_eq!(value("AUTOAPPDEV_TOKEN"), None);
    assert!(!environment.values().any(|value| value.contains("not-for-scripts")));
    let shim = place.shim_pid(run_id);
    assert!(!self::environment(shim).values().any(|value| value.contains("not-for-scripts")), "the shim needs no secret");
    let run = place.run(run_id);
    assert_eq!((&run["args"], &run["cwd"]), (&json!(args), &json!(canonical)));
}

#[test]
fn pwd_is_the_working_directory_of_the_run() {
    let mut place = Place::new();
    place.set_env("PWD", "/where/the/server/was/started");
    place.start_server();
    // In awk, because a shell would set the variable itself.
    place.script("where.awk", "#!/usr/bin/awk -f\nBEGIN { print ENVIRON[\"PWD\"] }\n");
    fs::create_dir(place.root().join("folder")).expect("creates");
    let folder = place.root().join("folder").canonicalize().expect("there");
    for (env, said) in [(json!({}), folder.to_str().expect("text")), (json!({"PWD": "/mine"}), "/mine")] {
        let (_, run_id) = place.start_with(json!({"script": "where.awk", "cwd": "folder", "env": env}));
        place.until_ended(run_id);
        assert_eq!(place.said(run_id, "stdout"), [said]);
    }
}

#[test]
fn script_does_not_get_settings_of_the_server() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.set_env("AUTOAPPDEV_GRACE_S", "3");
    place.set_env("AUTOAPPDEV_OF_MINE", "kept");
    place.set_env("MAKEFLAGS", "-j8");
    fs::write(place.folder().join(".env"), "AUTOAPPDEV_RUNS_KEEP=7\nAUTOAPPDEV_READ_TOKEN=not-for-scripts-either\n")
        .expect("writes");
    // A port and a database under names that the pipeline may use too. The server passes on only those that it does not use.
    let database = format!("sqlite:{}", place.folder().join("its.db").display());
    let serve = |place: &mut Place, envs: &[(&str, &str)]| {
        let mut command = place.command();
        command.env_remove("MAKELEVEL").envs(envs.iter().copied());
        place.start_server_with(command);
    };
    place.bring_token("a-token-long-enough");
    place.set_env("AUTOAPPDEV_TOKEN", "a-token-long-enough");
    serve(&mut place, &[("DATABASE_URL", &database), ("PORT", "4711")]);
    let (pid, run_id) = start_sleep(&place);
    let environment = environment(pid);
    let value = |name: &str| environment.get(name).map(String::as_str);
    let ours: Vec<&str> = environment.keys().map(String::as_str).filter(|name| name.starts_with("AUTOAPPDEV_")).collect();
    assert_eq!(ours, ["AUTOAPPDEV_OF_MINE", "AUTOAPPDEV_RUNTIME_DIR", "AUTOAPPDEV_RUN_ID", "AUTOAPPDEV_RUN_MARK"]);
    assert!(!environment.values().any(|value| value.contains("not-for-scripts")));
    assert_eq!((value("DATABASE_URL"), value("MAKEFLAGS")), (None, Some("-j8")));
    assert_eq!(value("PORT"), Some("4711"), "AUTOAPPDEV_PORT won, so this is somebody else's");
    assert_eq!(place.stop_server(), 0);

    // A server that adopts the run passes nothing on. The next run gets the new server's environment.
    let mut command = place.command_of(Path::new("bash"));
    command
        .args(["-c", "exec \"$1\" serve --database \"$2\"", "bash"])
        .arg(server_binary(&place))
        .arg(place.folder().join("its.db"));
    command.env_remove("AUTOAPPDEV_PORT").env("PORT", "0").env("DATABASE_URL", "postgres://somewhere/else");
    place.start_server_with(command);
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    place.until_settled(run_id);
    let (pid, _) = start_sleep(&place);
    let environment = self::environment(pid);
    let value = |name: &str| environment.get(name).map(String::as_str);
    assert_eq!((value("PORT"), value("DATABASE_URL")), (None, Some("postgres://somewhere/else")));
}

#[test]
fn server_started_by_make_passes_on_no_make_variables() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    // `+` passes the job server to a recipe. `serve` is both the target and the mode.
    let text = format!(".PHONY: serve\nserve:\n\t+@exec {} serve\n", server_binary(&place).display());
    fs::write(place.folder().join("Makefile"), text).expect("writes");
    let mut make = place.command_of(Path::new("make"));
    make.args(["-j4", "PORT=0", "OTHER=mine"]).env_remove("AUTOAPPDEV_PORT").env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    place.start_server_with(make);
    let servers = fs::read_to_string(format!("/proc/{0}/task/{0}/children", place.server_pid())).expect("make lives");
    let server: u32 = servers.split_ascii_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a child");
    let ends_with_a_failure = Killed(server);
    let of_server = environment(server);
    assert!(of_server["MAKEFLAGS"].contains("jobserver"), "{of_server:?}");
    let (pid, run_id) = start_sleep(&place);
    for pid in [pid, place.shim_pid(run_id)] {
        let environment = environment(pid);
        let of_make: Vec<&String> =
            environment.keys().filter(|name| name.starts_with("MAKE") || *name == "MFLAGS" || *name == "PORT").collect();
        assert!(of_make.is_empty(), "{of_make:?}");
        assert_eq!(environment.get("OTHER").map(String::as_str), Some("mine"), "what the user says is the pipeline's, too");
    }
    until_true("it has only the standard three", || descriptors(pid).into_keys().eq([0, 1, 2]));
    let shims = descriptors(place.shim_pid(run_id));
    let its = descriptors(server);
    // A job server is a pair of pipes, or a named pipe.
    let job_server: Vec<&PathBuf> = its.iter().filter(|(number, _)| (3..=4).contains(*number)).map(|(_, path)| path).collect();
    assert!(!shims.values().any(|path| job_server.contains(&path) && path.to_string_lossy().starts_with("pipe:")), "{shims:?}");
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    crate::support::signal(server, "TERM");
    until_true("the server has ended", || !crate::support::is_alive(server));
    std::mem::forget(ends_with_a_failure);
}

#[test]
fn start_cannot_set_reserved_variables() {
    let place = Place::serving("sleep.sh");
    for name in ["AUTOAPPDEV_RUN_ID", "AUTOAPPDEV_RUNTIME_DIR", "AUTOAPPDEV_RUN_MARK", "AUTOAPPDEV_TOKEN", "AUTOAPPDEV_ANYTHING"]
    {
        let answer = place.post("/api/pipeline/start", json!({"env": {name: "1"}}));
        assert_eq!((answer.status, answer.error()), (400, "invalid_body"), "{name}");
    }
    assert_eq!(place.pipeline()["status"], "idle");
}

#[test]
fn leader_has_own_process_group_and_separate_session() {
    let place = Place::serving("sleep.sh");
    let (pid, run_id) = start_sleep(&place);
    let (shim, server) = (place.shim_pid(run_id), place.server_pid());
    let (parent, group, session, terminal) = (4, 5, 6, 7);
    assert_eq!(stat_field(pid, parent), i64::from(shim));
    assert_eq!(stat_field(pid, group), i64::from(pid));
    // No process leads the session, so no terminal can become its controlling terminal.
    assert_ne!(stat_field(pid, session), i64::from(pid));
    assert_ne!(stat_field(pid, session), stat_field(shim, session));
    assert_ne!(stat_field(pid, session), stat_field(server, session));
    assert_eq!(stat_field(pid, terminal), 0);
    assert_eq!(stat_field(shim, session), i64::from(shim));
    assert_ne!(stat_field(shim, session), stat_field(server, session));
}

#[test]
fn server_descriptors_do_not_leak_to_run_or_shim() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    let mut shell = place.command_of(Path::new("bash"));
    shell.args(["-c", "exec 9</etc/passwd 8>open-for-writing 77<>/dev/null; exec \"$@\"", "bash"]).arg(server_binary(&place));
    place.start_server_with(shell);
    assert!(descriptors(place.server_pid()).contains_key(&77), "the server has them");
    let (pid, run_id) = start_sleep(&place);
    // The loader of a program that was just executed has files open for a moment. A leaked descriptor would stay open.
    until_true("it has only the standard three", || descriptors(pid).into_keys().eq([0, 1, 2]));
    let open = descriptors(pid);
    assert_eq!(open[&0], Path::new("/dev/null"));
    assert!(open[&1] != open[&2], "stdout and stderr are told apart");
    for number in [1, 2] {
        assert!(open[&number].to_string_lossy().starts_with("pipe:"), "{open:?}");
        // O_NONBLOCK (0o4000) would make large writes of a script fail.
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).expect("it is there");
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("a line");
        assert_eq!(u32::from_str_radix(flags.trim(), 8).expect("octal") & 0o4000, 0);
    }
    // A process that waits for the other end of what the server was started with must not wait for the run.
    let shims = descriptors(place.shim_pid(run_id));
    let is_inherited = |path: &PathBuf| {
        ["/etc/passwd", "/dev/null"].map(Path::new).contains(&path.as_path()) || path.ends_with("open-for-writing")
    };
    assert!(!shims.values().any(is_inherited), "the shim holds on to one: {shims:?}");
}

#[test]
fn pipeline_does_not_inherit_ignored_signals() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    let mut shell = place.command_of(Path::new("bash"));
    shell.args(["-c", "trap '' INT HUP PIPE QUIT TSTP USR1; exec \"$@\"", "bash"]).arg(server_binary(&place));
    place.start_server_with(shell);
    assert_ne!(signal_set(place.server_pid(), "SigIgn") & bit(1), 0, "the server ignores SIGHUP");
    let (pid, _) = start_sleep(&place);
    assert_eq!(signal_set(pid, "SigIgn") & FOR_EVERYBODY, 0);
    assert_eq!(signal_set(pid, "SigBlk"), 0);
    assert_eq!(signal_set(pid, "SigCgt"), 0);
}

#[test]
fn pipeline_does_not_inherit_blocked_signals() {
    let mut place = Place::new();
    place.actor();
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    let mut deaf = place.command_of(&place.root().join("actor"));
    deaf.arg("deaf").arg(server_binary(&place));
    place.start_server_with(deaf);
    assert_ne!(signal_set(place.server_pid(), "SigIgn") & bit(24), 0, "the server ignores SIGXCPU");
    let (pid, run_id) = start_sleep(&place);
    assert_eq!(signal_set(pid, "SigBlk"), 0);
    assert_eq!(signal_set(pid, "SigIgn") & ignorable(), 0, "ignored: {:x}", signal_set(pid, "SigIgn"));
    place.act("pause").ok();
    place.assert_all_stopped();
    place.act("resume").ok();
    place.act("stop").ok();
    place.assert_nothing_left(run_id);
    assert_eq!(place.until_ended(run_id)["signal"], 15);
    assert_eq!(place.stop_server(), 0, "and the server hears a SIGTERM");
}

/// A process that does not belong to the place, which is killed on drop.
struct Killed(u32);

impl Drop for Killed {
    fn drop(&mut self) {
        crate::support::signal(self.0, "KILL");
    }
}

fn server_binary(place: &Place) -> PathBuf {
    let command: Command = place.command();
    command.get_program().into()
}

/// The interpreter is found in the server's PATH: the variables of a start apply to the run but do not choose its interpreter.
#[test]
fn path_variable_of_start_does_not_choose_interpreter() {
    let mut place = Place::new();
    let folder = |name: &str| place.folder().join(name).display().to_string();
    let (good, evil) = (folder("good"), folder("evil"));
    for (folder, word) in [(&good, "good"), (&evil, "evil")] {
        fs::create_dir(folder).expect("creates");
        for tool in ["tool9", "bash"] {
            let path = Path::new(folder).join(tool);
            fs::write(&path, format!("#!/bin/sh\necho {word} $PATH\n")).expect("writes");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
        }
    }
    let path = format!("{good}:/usr/bin:/bin");
    place.set_env("PATH", &path);
    place.start_server();
    std::os::unix::fs::symlink("/usr/bin/env", place.root().join("finder")).expect("links");
    for (name, text, mode) in [
        ("a.x", "#!/usr/bin/env tool9\n", 0o755),
        ("b.x", "#!/usr/bin/env tool9\n", 0o644),
        ("c.x", "#!/usr/bin/env -S tool9 -v\n", 0o755),
        ("d.x", "no first line\n", 0o644),
        ("f.x", "#!finder tool9\n", 0o755),
    ] {
        let script = place.script(name, text);
        fs::set_permissions(script, fs::Permissions::from_mode(mode)).expect("ours");
        for (env, said) in [(json!({}), format!("good {path}")), (json!({"PATH": evil}), format!("good {evil}"))] {
            let (_, run_id) = place.start_with(json!({"script": name, "env": env}));
            place.until_ended(run_id);
            assert_eq!(place.said(run_id, "stdout"), [said], "{name} {env}");
        }
    }
    // An `env` line that only `env` can interpret is refused, and no run is created. The same applies to an interpreter that is a script
    // of `env`.
    place.script("e.x", "#!/usr/bin/env -i tool9\n");
    place.script("by-env", "#!/usr/bin/env tool9\n");
    place.script("g.x", "#!./by-env\n");
    let before = place.footprint();
    for (script, variable) in [("e.x", "PATH"), ("e.x", "LD_PRELOAD"), ("e.x", "GLIBC_TUNABLES"), ("g.x", "PATH")] {
        let answer = place.post("/api/pipeline/start", json!({"script": script, "env": {variable: evil}}));
        assert_eq!((answer.status, answer.error()), (400, "invalid_script"), "{script}: {}", answer.body);
    }
    assert_eq!(place.footprint(), before);
}

/// A value on a command line appears in the process list, which every user of the machine can read.
#[test]
fn variable_without_value_is_read_from_client_environment() {
    let place = Place::serving("sleep.sh");
    place.script("tell.sh", "#!/bin/sh\necho \"<$SECRET>\"\n");
    let start = |value: Option<&str>| {
        let mut command = place.command();
        command.args(["start", "tell.sh", "--env", "SECRET"]).env_remove("SECRET");
        command.envs(value.map(|value| ("SECRET", value)));
        let output = command.output().expect("the binary runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    let before = place.footprint();
    let (code, said) = start(None);
    assert!(code == Some(2) && said.contains("SECRET is not set in the environment of this command"), "{said}");
    assert_eq!(place.footprint(), before);
    for value in ["a=b ' \"", ""] {
        let (code, said) = start(Some(value));
        assert_eq!((code, said.as_str()), (Some(0), ""));
        let run_id = place.pipeline()["run_id"].as_i64().expect("a run");
        place.until_ended(run_id);
        assert_eq!(place.said(run_id, "stdout"), [format!("<{value}>")]);
    }
}
