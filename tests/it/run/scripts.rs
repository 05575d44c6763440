//! Which file a start runs and how, with the whole binary: names that are not UTF-8, a root that is moved, first lines, and the
//! refusal of scripts that cannot be run.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::disk::SmallDisk;
use crate::support::{Answer, Place, signal, until, until_true};
use serde_json::{Value, json};

use super::odd_names::{file, odd};

fn start(place: &Place, body: Value) -> Answer {
    place.post("/api/pipeline/start", body)
}

/// Starts a script that exits by itself. Returns its output and its run.
fn said_by(place: &Place, body: Value) -> (Vec<String>, Value) {
    let (_, run_id) = place.start_with(body);
    let run = place.until_ended(run_id);
    (place.said(run_id, "stdout"), run)
}

/// Creates an executable file through another process, because a file that a test has open for writing cannot be executed
/// (`ETXTBSY`).
fn program(path: &Path, text: &str) {
    let words = ["-c", "printf %s \"$2\" >\"$1\" && chmod 755 \"$1\"", "sh"];
    assert!(Command::new("/bin/sh").args(words).arg(path).arg(text).status().expect("sh is everywhere").success());
}

#[test]
fn start_follows_link_to_non_utf_8_name() {
    let place = Place::serving("sleep.sh");
    let root = place.root();
    program(&root.join(odd("with.sh")), "#!/bin/bash\necho with\n");
    file(&place, odd("without.sh"), b"echo without; pwd >&2\n", 0o644);
    file(&place, odd("first-line.sh"), b"#!/bin/bash -e\necho first line\n", 0o644);
    fs::create_dir(root.join(odd("folder"))).expect("creates");
    for (name, to) in [("a", "with.sh"), ("b", "without.sh"), ("c", "first-line.sh"), ("folder", "folder")] {
        symlink(odd(to), root.join(name)).expect("links");
    }
    for (script, line) in [("a", "with"), ("b", "without"), ("c", "first line")] {
        let (said, run) = said_by(&place, json!({"script": script, "cwd": "folder"}));
        assert_eq!((said, &run["exit_code"]), (vec![line.to_owned()], &json!(0)), "{run}");
        // In texts for users, bytes that are not text are shown as replacement characters.
        assert!(run["cwd"].as_str().is_some_and(|cwd| cwd.ends_with("\u{fffd}\u{fffd} folder")), "{run}");
    }
}

#[test]
fn non_utf_8_root_and_runtime_directory_are_supported() {
    let mut place = Place::new();
    let (root, runtime) = (place.folder().join(odd("root")), place.folder().join(odd("runtime")));
    fs::create_dir(&root).expect("creates");
    program(&root.join("sleep.sh"), "#!/bin/bash\necho ready\nexec sleep 600\n");
    let command = |place: &Place| {
        let mut command = place.command();
        command.env("AUTOAPPDEV_PIPELINE_CWD", &root).env("AUTOAPPDEV_RUNTIME_DIR", &runtime);
        command
    };
    let server = command(&place);
    place.start_server_with(server);
    let (pid, run_id) = place.start_with(json!({"script": "sleep.sh"}));
    place.act("pause").ok();
    place.kill_server();
    let server = command(&place);
    place.start_server_with(server);
    assert_eq!((place.pipeline()["state"].as_str(), place.pipeline()["pid"].as_u64()), (Some("paused"), Some(pid.into())));
    let cookie = fs::read(format!("/proc/{pid}/environ")).expect("it lives");
    let entry = [b"AUTOAPPDEV_RUNTIME_DIR=", runtime.canonicalize().expect("there").as_os_str().as_bytes()].concat();
    assert!(cookie.split(|&byte| byte == 0).any(|found| found == entry));
    // Through the socket that server.json names.
    let status = command(&place).args(["status", "--json"]).stdin(Stdio::null()).output().expect("runs");
    assert!(status.status.success(), "{status:?}");
    // A killed shim leaves the processes that have the cookie.
    let shim = place_shim(&runtime, run_id);
    signal(shim, "KILL");
    let run = until("the run is lost", || Some(place.run(run_id)).filter(|run| run["status"] == "lost"));
    assert!(run["error"].as_str().is_some_and(|error| error.contains("alive")), "{run}");
    until_true("nothing is left", || !Path::new(&format!("/proc/{pid}")).exists());
    let (_, run_id) = place.start_with(json!({"script": "sleep.sh"}));
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    assert_eq!(place.until_ended(run_id)["status"], "stopped");
}

/// Returns the pid in the header of a run's journal.
fn place_shim(runtime: &Path, run_id: i64) -> u32 {
    let text = fs::read_to_string(runtime.join(format!("runs/{run_id}/journal.jsonl"))).expect("a journal");
    let header: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    header["shim_pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a pid")
}

#[test]
fn non_utf_8_script_name_is_refused() {
    let place = Place::serving("sleep.sh");
    let refused = |output: Output, word: &str| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(word) && !said.contains("panicked"), "{said}");
    };
    let mut server = place.command();
    server.env("AUTOAPPDEV_PIPELINE_SCRIPT", odd("x.sh")).arg("serve").stdin(Stdio::null());
    refused(server.output().expect("runs"), "is not UTF-8");
    let mut client = place.command();
    client.arg("start").arg(odd("x.sh")).stdin(Stdio::null());
    refused(client.output().expect("runs"), "UTF-8");
    assert_eq!(place.state(), "stopped");
}

/// Creates a root `current` that is a link to `releases/1`, with another release beside it.
fn with_releases(place: &Place) -> PathBuf {
    for n in ["1", "2"] {
        let release = place.folder().join("releases").join(n);
        fs::create_dir_all(&release).expect("creates");
        program(&release.join("job.sh"), &format!("#!/bin/bash\necho release {n}\n"));
    }
    let current = place.folder().join("current");
    symlink("releases/1", &current).expect("links");
    current
}

#[test]
fn start_follows_changed_root_link() {
    let mut place = Place::new();
    let current = with_releases(&place);
    place.set_env("AUTOAPPDEV_PIPELINE_CWD", current.to_str().expect("text"));
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "job.sh");
    place.start_server();
    let releases = place.folder().join("releases").canonicalize().expect("there");
    let release = |n: &str| releases.join(n);
    let (said, run) = said_by(&place, json!({}));
    assert_eq!((said, &run["cwd"]), (vec!["release 1".to_owned()], &json!(release("1"))));
    symlink("releases/2", current.with_file_name("next")).expect("links");
    fs::rename(current.with_file_name("next"), &current).expect("renames");
    let (said, run) = said_by(&place, json!({}));
    assert_eq!((said, &run["cwd"]), (vec!["release 2".to_owned()], &json!(release("2"))));
    // An absolute name through the link works too.
    let (said, _) = said_by(&place, json!({"script": current.join("job.sh")}));
    assert_eq!(said, ["release 2"]);
    assert_eq!(start(&place, json!({"script": release("1").join("job.sh")})).error(), "script_outside_root");

    let before = place.footprint();
    fs::remove_file(&current).expect("there");
    for body in [json!({}), json!({"script": "nowhere.sh"}), json!({"cwd": "."})] {
        let answer = start(&place, body);
        assert_eq!((answer.status, answer.error()), (404, "script_not_found"));
        let detail = answer.body["detail"].as_str().expect("a sentence");
        assert!(detail.contains("root") && detail.contains("cannot be used now: No such file") && detail.contains("/current"));
    }
    fs::write(&current, "").expect("writes");
    assert!(start(&place, json!({})).body["detail"].as_str().is_some_and(|detail| detail.contains("it is not a folder")));
    assert_eq!(place.footprint(), before);
    fs::remove_file(&current).expect("there");
    symlink("releases/1", &current).expect("links");
    assert_eq!(said_by(&place, json!({})).0, ["release 1"]);
    let (_, said) = place.stop_server_and_listen();
    assert!(said.contains(&format!("{} (now {})", current.display(), release("1").display())), "{said}");
}

#[test]
fn relative_root_follows_replaced_folder() {
    let mut place = Place::new();
    let app = place.folder().join("app");
    let deploy = |n: u32| {
        let next = app.with_file_name("next");
        fs::create_dir(&next).expect("creates");
        program(&next.join("job.sh"), &format!("#!/bin/bash\necho release {n}\n"));
        fs::rename(&next, &app).expect("renames");
    };
    deploy(1);
    let mut command = place.command();
    command.current_dir(&app).env("AUTOAPPDEV_PIPELINE_CWD", ".");
    place.start_server_with(command);
    assert_eq!(said_by(&place, json!({"script": "job.sh"})).0, ["release 1"]);
    fs::remove_dir_all(&app).expect("removes");
    assert_eq!(start(&place, json!({"script": "job.sh"})).error(), "script_not_found");
    deploy(2);
    assert_eq!(said_by(&place, json!({"script": "job.sh"})).0, ["release 2"]);
}

#[test]
fn first_line_names_the_interpreter_with_and_without_the_execute_bit() {
    let place = Place::serving("sleep.sh");
    let tell = "printf '%s|' \"$0\" \"$#\" \"$@\" \"$-\"; tr '\\0' '|' </proc/$$/cmdline; echo; readlink /proc/$$/exe";
    // `awk` is not a shell: a shell would fail on this.
    let calls = [
        ("shell", format!("#!/bin/sh\n{tell}\n")),
        ("argument", format!("#!/bin/bash -e -u\n{tell}\n").replace("-e -u", "-eu")),
        ("by-env", format!("#! \t/usr/bin/env bash\t\n{tell}\n")),
        ("awk.py", "#!/usr/bin/awk -f\nBEGIN { print \"awk\", ARGC, ARGV[1], ARGV[2] }\n".to_owned()),
        ("unended", "#!/bin/echo".to_owned()),
    ];
    for (name, text) in calls {
        program(&place.root().join(name), &text);
        let start = || said_by(&place, json!({"script": name, "args": ["one", "two words"]}));
        let (as_the_kernel_does, run) = start();
        assert_eq!((run["exit_code"].as_i64(), as_the_kernel_does.is_empty()), (Some(0), false), "{name}: {run}");
        fs::set_permissions(place.root().join(name), fs::Permissions::from_mode(0o644)).expect("ours");
        let (said, run) = start();
        assert_eq!(run["exit_code"], 0, "{name}: {run}");
        assert_eq!(said, as_the_kernel_does, "{name}");
    }
}

#[test]
fn unrunnable_script_is_refused_with_its_cause_before_a_run_begins() {
    let place = Place::serving("sleep.sh");
    let elf = fs::read("/proc/self/exe").expect("it runs");
    let before = place.footprint();
    for (name, text, modes, cause) in [
        ("crlf.sh", &b"#!/bin/bash\r\necho hi\r\n"[..], &[0o644, 0o755][..], r"convert it with `sed -i 's/\r$//' crlf.sh`"),
        ("crlf", b"echo hi\r\n", &[0o644], "Windows line endings"),
        ("bom.sh", b"\xef\xbb\xbf#!/bin/bash\n", &[0o644, 0o755], "byte order mark"),
        ("x.py", b"#!/usr/bin/python9\n", &[0o644, 0o755], "/usr/bin/python9, named in the first line of x.py, does not exist"),
        (
            "y.py",
            b"#!/usr/bin/env python9\n",
            &[0o644, 0o755],
            "python9, named in the first line of y.py, was not found in the server's PATH",
        ),
        ("z.py", b"import os\n", &[0o644], "#!/usr/bin/env python3"),
        ("tool", &elf[..100_000], &[0o644], "`chmod +x tool`"),
        ("a tool", b"\x7fELF", &[0o600], "`chmod +x 'a tool'`"),
    ] {
        for &mode in modes {
            file(&place, name, text, mode);
            let answer = start(&place, json!({"script": name}));
            assert_eq!((answer.status, answer.error()), (400, "invalid_script"), "{name}: {}", answer.body);
            assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains(cause)), "{}", answer.body);
        }
    }
    // The start's PATH is not used.
    let answer = start(&place, json!({"script": "y.py", "env": {"PATH": "/nowhere"}}));
    assert!(answer.body["detail"].as_str().is_some_and(|detail| !detail.contains("/nowhere")), "{}", answer.body);
    fs::create_dir(place.root().join("folder")).expect("creates");
    let answer = start(&place, json!({"script": "folder"}));
    assert_eq!(answer.error(), "invalid_script");
    assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains("is a folder")), "{}", answer.body);
    for (args, hint) in [
        (&["start", "sleep.sh --arg"][..], "`autoappdev start sleep.sh -- --arg`"),
        (&["start", "python3", "--", "sleep.sh"], "`autoappdev start sleep.sh`"),
    ] {
        let (code, _, said) = place.client(args);
        assert!(code == 1 && said.contains(hint), "{said}");
    }
    assert_eq!(place.footprint(), before, "nothing of this is in the history");
}

/// Starts the server as an unprivileged user: the current one, or `nobody` if that is root, which has all rights.
fn serve_without_rights(place: &mut Place) {
    const NOBODY: u32 = 65_534;
    if !rustix::process::getuid().is_root() {
        return place.start_server();
    }
    let binary = place.folder().join("autoappdev");
    // Copied by another process: see `program`.
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_autoappdev")).arg(&binary).status().expect("cp is there").success());
    fs::create_dir(place.runtime()).expect("creates");
    for path in [place.folder(), &place.runtime()] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
    }
    let mut command = place.command_of(Path::new("setpriv"));
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
    place.start_server_with(command);
    place.bring_own_token();
}

#[test]
fn script_without_permission_is_refused_before_a_run_begins() {
    let mut place = Place::new();
    serve_without_rights(&mut place);
    let before = place.footprint();
    fs::create_dir(place.root().join("closed")).expect("creates");
    fs::set_permissions(place.root().join("closed"), fs::Permissions::from_mode(0o600)).expect("ours");
    // Neither the owner nor another user can execute them, because their bits are not set.
    file(&place, "others.sh", b"#!/bin/sh\n", 0o654);
    file(&place, "secret.sh", b"#!/bin/sh\n", 0o000);
    file(&place, "by.sh", format!("#!{}\n", place.root().join("others.sh").display()).as_bytes(), 0o644);
    for (script, cause) in [
        ("others.sh", "cannot execute others.sh; allow it with `chmod a+x others.sh`"),
        ("secret.sh", "secret.sh could not be read: Permission denied"),
        ("by.sh", "named in the first line of by.sh, cannot be executed: the server's user cannot execute it"),
        ("closed/x.sh", "could not be inspected: Permission denied"),
    ] {
        let answer = start(&place, json!({"script": script}));
        assert_eq!((answer.status, answer.error()), (400, "invalid_script"), "{script}: {}", answer.body);
        assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains(cause)), "{}", answer.body);
    }
    let answer = start(&place, json!({"script": "sleep.sh", "cwd": "closed"}));
    assert_eq!((answer.status, answer.error()), (400, "invalid_body"), "{}", answer.body);
    assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains("cannot enter cwd")), "{}", answer.body);
    assert_eq!(place.footprint(), before);
    // A user who cannot read a program may still run it.
    let words = ["-c", "cp /bin/sleep \"$1\" && chmod 711 \"$1\"", "sh"];
    assert!(Command::new("/bin/sh").args(words).arg(place.root().join("opaque")).status().expect("sh is everywhere").success());
    let (_, run_id) = place.start_with(json!({"script": "opaque", "args": ["0"]}));
    assert_eq!(place.until_ended(run_id)["exit_code"], 0);
}

#[test]
fn start_refused_by_the_kernel_fails_the_run_with_the_cause() {
    let place = Place::serving("sleep.sh");
    let mut foreign = vec![0; 4096];
    foreign[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xfe\xca");
    file(&place, "foreign.new", &foreign, 0o755);
    // Copied by another process: see `program`.
    assert!(Command::new("cp").args(["-p", "foreign.new", "foreign"]).current_dir(place.root()).status().expect("cp").success());
    program(&place.root().join("text"), "echo hi\n");
    program(&place.root().join("nested"), "#!text.sh\n");
    program(&place.root().join("text.sh"), "#!/nowhere/at/all\n");
    for (script, cause) in [
        ("foreign", "it is a program for processor type 51966, and this machine is"),
        ("text", "`chmod -x text`"),
        ("nested", "nested could not be run: No such file"),
    ] {
        let answer = start(&place, json!({"script": script}));
        assert_eq!((answer.status, answer.error()), (422, "spawn_failed"), "{script}: {}", answer.body);
        let detail = answer.body["detail"].as_str().expect("a sentence").to_owned();
        assert!(detail.contains(cause), "{detail}");
        let run = place.run(answer.body["run_id"].as_i64().expect("an id"));
        assert_eq!((&run["status"], &run["error"]), (&json!("failed"), &json!(detail)));
    }
}

#[test]
fn script_on_a_noexec_mount_is_refused_unless_its_interpreter_runs_it() {
    let test = "script_on_a_noexec_mount_is_refused_unless_its_interpreter_runs_it";
    let Some(mut small) = SmallDisk::with("noexec,size=8m", test) else { return };
    let root = small.disk.path().join("root");
    fs::create_dir(&root).expect("creates");
    let place = &mut small.place;
    place.set_env("AUTOAPPDEV_PIPELINE_CWD", root.to_str().expect("text"));
    place.start_server();
    fs::copy("/bin/true", root.join("tool")).expect("copies");
    program(&root.join("job.sh"), "#!/bin/bash\necho it ran\n");
    program(&root.join("by.sh"), &format!("#!{}\n", root.join("job.sh").display()));
    fs::set_permissions(root.join("by.sh"), fs::Permissions::from_mode(0o644)).expect("ours");
    for (script, said) in [
        (
            "job.sh",
            "job.sh is on a file system that is mounted noexec; copy it to another file system, or remove its execute bit",
        ),
        ("tool", "tool is on a file system that is mounted noexec; copy it to another file system"),
        ("by.sh", "cannot be executed: it is on a file system that is mounted noexec"),
    ] {
        let answer = start(place, json!({"script": script}));
        assert_eq!((answer.status, answer.error()), (400, "invalid_script"), "{script}: {}", answer.body);
        assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains(said)), "{}", answer.body);
    }
    fs::set_permissions(root.join("job.sh"), fs::Permissions::from_mode(0o644)).expect("ours");
    assert_eq!(said_by(place, json!({"script": "job.sh"})).0, ["it ran"]);
}
