//! `GET /api/pipeline/scripts` on real files: every listed script can be started, and what is left out, the order, and the limits
//! of a scan.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::{Place, assert_keys, assert_time, not_run, signal, until, until_true};

/// The limits of a scan and of a response.
const ENTRIES_MAX: usize = 5000;
const SCRIPTS_MAX: usize = 500;
const RUNS_SEARCHED_MAX: i64 = 2000;

fn list(place: &Place, query: &str) -> Value {
    place.get(&format!("/api/pipeline/scripts{query}")).ok()
}

fn paths(answer: &Value) -> Vec<&str> {
    answer["scripts"].as_array().expect("a list").iter().map(|script| script["path"].as_str().expect("a text")).collect()
}

fn script<'a>(answer: &'a Value, path: &str) -> &'a Value {
    let scripts = answer["scripts"].as_array().expect("a list");
    scripts.iter().find(|script| script["path"] == path).unwrap_or_else(|| panic!("{path} is not in {answer}"))
}

/// Creates a file below the root, with its folders.
fn file(place: &Place, name: impl AsRef<OsStr>, text: impl AsRef<[u8]>, mode: u32) {
    let path = place.root().join(name.as_ref());
    fs::create_dir_all(path.parent().expect("a folder")).expect("creates");
    fs::write(&path, text).expect("writes");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
}

fn pipe(path: &Path) {
    mkfifo(path, Mode::from_bits_truncate(0o755)).expect("makes a pipe");
}

#[test]
fn list_has_exactly_the_scripts_that_can_start() {
    let mut place = Place::new();
    place.start_server();
    place.actor();
    place.script("run.sh", "#!/bin/bash\n");
    file(&place, "plain.sh", "true\n", 0o644);
    file(&place, "first-line", "#!/bin/sh -e\n", 0o644);
    file(&place, "by-env.py", "#!/usr/bin/env bash\n", 0o644);
    file(&place, "by-env-with-options", "#!/usr/bin/env -S bash -e\n", 0o644);
    file(&place, "tools/Größe ☃.sh", "", 0o644);
    symlink("run.sh", place.root().join("link")).expect("links");
    let listed = list(&place, "");
    assert_keys(&listed, &["root", "scripts", "truncated"]);
    assert_eq!((&listed["root"], &listed["truncated"]), (&json!(place.root().canonicalize().expect("there")), &json!(false)));
    for (path, run_by) in [
        ("actor", "itself"),
        ("run.sh", "bash"),
        ("plain.sh", "bash"),
        ("first-line", "sh"),
        ("by-env.py", "bash"),
        ("by-env-with-options", "bash"),
        ("tools/Größe ☃.sh", "bash"),
        ("link", "bash"),
        ("sleep.sh", "bash"),
    ] {
        let script = script(&listed, path);
        assert_keys(script, &["path", "size", "modified_at", "run_by", "runs", "usual_ms", "last_run_id"]);
        assert_eq!((&script["run_by"], &script["runs"], &script["last_run_id"]), (&json!(run_by), &json!(0), &json!(null)));
        assert_time(&script["modified_at"]);
    }
    assert_eq!(script(&listed, "first-line")["size"], 13);
    for path in paths(&listed) {
        place.start_with(json!({ "script": path }));
        // The run may have ended already.
        place.post("/api/pipeline/stop", json!({"grace_s": 0}));
        place.until_state("stopped");
    }

    let elf = fs::read(place.root().join("actor")).expect("reads");
    for (name, text, mode) in [
        ("windows.sh", &b"#!/bin/bash\r\n"[..], 0o755),
        ("mark.sh", b"\xef\xbb\xbf#!/bin/bash\n", 0o755),
        ("wide.sh", b"\xff\xfet\0", 0o644),
        ("nothing.sh", b"#!\n", 0o755),
        ("missing.sh", b"#!/no/such/interpreter\n", 0o755),
        ("missing", b"#!/usr/bin/env no-such-interpreter\n", 0o755),
        ("binary.sh", b"\0\x01", 0o644),
        ("program.sh", &elf, 0o644),
    ] {
        file(&place, name, text, mode);
        let refused = place.post("/api/pipeline/start", json!({ "script": name }));
        assert_eq!((refused.status, refused.error()), (400, "invalid_script"), "{name}: {}", refused.body);
    }
    // A start accepts some of these, but they do not belong in a list of scripts.
    for (name, text, mode) in [
        ("notes.txt", &b"some words\n"[..], 0o644),
        ("module.py", b"import this\n", 0o644),
        ("data", b"\0\x01", 0o644),
        ("program", &elf, 0o644),
        ("libx.so", &elf, 0o755),
        ("lib/libx.so.1.2", &elf, 0o755),
    ] {
        file(&place, name, text, mode);
    }
    let later = list(&place, "");
    let mut sorted = [paths(&listed), paths(&later)];
    for paths in &mut sorted {
        paths.sort_unstable();
    }
    assert_eq!(sorted[0], sorted[1]);
}

#[test]
fn list_omits_servers_own_program() {
    let mut place = Place::new();
    let program = place.root().join("autoappdev");
    // Copied by another process, because a file that is open for writing here cannot be executed. The last one is another program.
    let script = "cp \"$0\" autoappdev && cp \"$0\" copy && cp \"$0\" other && echo >>other";
    let copied = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_autoappdev")]).current_dir(place.root()).status();
    assert!(copied.expect("sh is there").success());
    symlink("autoappdev", place.root().join("link")).expect("links");
    place.start_server_with(place.command_of(&program));
    let listed = list(&place, "");
    let paths = paths(&listed);
    assert!(paths.contains(&"other") && !["autoappdev", "copy", "link"].iter().any(|own| paths.contains(own)), "{paths:?}");
}

#[test]
fn list_omits_hidden_and_odd_files_and_waits_for_no_pipe() {
    let mut place = Place::with_runtime("root/runtime");
    place.start_server();
    let before = list(&place, "");
    for hidden in [
        ".hidden.sh",
        ".git/hooks/pre-commit.sh",
        "node_modules/x/x.sh",
        "target/x.sh",
        "tools/target/x.sh",
        "tools/__pycache__/x.sh",
        "venv/bin/x.sh",
        "lib/site-packages/x.sh",
        "runtime/x.sh",
    ] {
        file(&place, hidden, "#!/bin/bash\n", 0o755);
    }
    for odd in [
        &b"bell\x07.sh"[..],
        b"new\nline.sh",
        b"escape\x1b[2J.sh",
        "c1\u{9b}2J.sh".as_bytes(),
        b"not-utf-8-\xff.sh",
        b"\xff/x.sh",
    ] {
        file(&place, OsStr::from_bytes(odd), "#!/bin/bash\n", 0o755);
    }
    let root = place.root();
    fs::create_dir(place.folder().join("elsewhere")).expect("creates");
    fs::write(place.folder().join("elsewhere/x.sh"), "#!/bin/bash\n").expect("writes");
    for (link, to) in [
        ("outside.sh", "../elsewhere/x.sh"),
        ("absolute", "/bin/sh"),
        ("outside-folder", "../elsewhere"),
        ("circle", "."),
        ("tools/up", ".."),
        ("itself.sh", "itself.sh"),
        ("nowhere.sh", "no/such/file"),
        ("to-a-pipe.sh", "pipe.sh"),
        ("to-a-process.sh", "/proc/self/exe"),
        ("to-a-folder.sh", "tools"),
    ] {
        symlink(to, root.join(link)).expect("links");
    }
    pipe(&root.join("pipe.sh"));
    pipe(&root.join("tools/pipe"));
    let after = list(&place, "");
    assert_eq!((paths(&after).len(), &after["truncated"]), (paths(&before).len(), &json!(false)), "{after}");
    // A program of a package that a link in the root names is a script that users want to start.
    symlink("node_modules/x/x.sh", root.join("tool")).expect("links");
    file(&place, "target.sh", "", 0o644);
    let more = list(&place, "");
    assert_eq!(paths(&more).len(), paths(&before).len() + 2);
    place.start_with(json!({"script": script(&more, "tool")["path"]}));
}

/// Root can read everything, so the server runs as another user.
#[test]
fn list_omits_unreadable_files() {
    if !nix::unistd::getuid().is_root() {
        return not_run("a server of another user takes root", "AUTOAPPDEV_REQUIRE_ROOT");
    }
    let mut place = Place::new();
    let binary = place.folder().join("autoappdev");
    // Copied by another process: see `Place::script`.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_autoappdev")).arg(&binary).status();
    assert!(copied.expect("cp is there").success());
    file(&place, "closed/x.sh", "", 0o755);
    file(&place, "blind/x.sh", "", 0o755);
    file(&place, "open/secret.sh", "", 0o600);
    file(&place, "open/y.sh", "", 0o755);
    let owned = Command::new("chown").args(["-R", "65534"]).arg(place.folder()).status();
    assert!(owned.expect("chown is there").success());
    // They belong to root, so that the server's user cannot change even their modes.
    for (name, mode) in [("closed", 0o000), ("blind", 0o711), ("open/secret.sh", 0o600)] {
        let path = place.root().join(name);
        chown(&path, Some(0), Some(0))
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .expect("root may");
    }
    let mut command = place.command_of(Path::new("setpriv"));
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
    place.start_server_with(command);
    place.bring_own_token();
    let listed = list(&place, "");
    let of_this_test: Vec<_> = paths(&listed).into_iter().filter(|path| path.contains('/')).collect();
    assert_eq!((of_this_test, &listed["truncated"]), (vec!["open/y.sh"], &json!(false)), "{listed}");
}

#[test]
fn list_is_truncated_at_its_limits() {
    let mut place = Place::new();
    place.start_server();
    let own = paths(&list(&place, "")).len();
    file(&place, "a/b/c/d/deep.sh", "", 0o644);
    let listed = list(&place, "");
    assert_eq!((script(&listed, "a/b/c/d/deep.sh")["size"].as_u64(), &listed["truncated"]), (Some(0), &json!(false)));
    file(&place, "a/b/c/d/e/deeper.sh", "", 0o644);
    let listed = list(&place, "");
    assert_eq!((paths(&listed).len(), &listed["truncated"]), (own + 1, &json!(true)));
    fs::remove_dir_all(place.root().join("a")).expect("removes");

    for n in own..=SCRIPTS_MAX {
        file(&place, format!("many/{n:04}.sh"), "", 0o644);
    }
    // A scan also ends at its time limit, which a busy machine can reach.
    let until_whole =
        |query: &str, count: usize| until("a scan in time", || Some(list(&place, query)).filter(|it| paths(it).len() == count));
    assert_eq!(until_whole("", SCRIPTS_MAX)["truncated"], true, "500 of 501");
    // The filter is applied before the list is cut.
    until_true("all that match", || until_whole("?find=many/", SCRIPTS_MAX + 1 - own)["truncated"] == false);

    for n in 0..ENTRIES_MAX {
        fs::write(place.root().join(format!("many/{n}.txt")), "").expect("writes");
    }
    file(&place, "many/more/last.sh", "", 0o644);
    let listed = list(&place, "?find=.SH");
    assert!(listed["truncated"] == true && !paths(&listed).contains(&"many/more/last.sh"), "beyond the entries of a look");
    assert!(paths(&listed).contains(&"sleep.sh"), "the nearest folders come first");
}

#[test]
fn list_filter_matches_part_of_path_ignoring_case() {
    let mut place = Place::new();
    place.start_server();
    for name in ["tools/Backup.sh", "tools/ÄPFEL.sh", "other/a+b c.sh"] {
        file(&place, name, "", 0o644);
    }
    for (query, found) in [
        ("bACK", &["tools/Backup.sh"][..]),
        ("tools/back", &["tools/Backup.sh"]),
        ("%C3%A4pfel", &["tools/ÄPFEL.sh"]),
        ("a%2Bb+c", &["other/a+b c.sh"]),
        ("*.sh", &[]),
        ("..", &[]),
    ] {
        assert_eq!(paths(&list(&place, &format!("?find={query}"))), found, "{query}");
    }
    for query in ["?find=", "?find=%FF", &format!("?find={}", "x".repeat(201)), "?search=x"] {
        let refused = place.get(&format!("/api/pipeline/scripts{query}"));
        assert_eq!((refused.status, refused.error()), (400, "invalid_query"), "{query}");
    }
}

/// Adds a run that ended after `took_ms`.
fn add_run(database: &Connection, id: i64, script: &str, status: &str, (took_ms, paused_ms): (i64, i64)) {
    let exit_code = i64::from(status != "completed");
    database
        .execute(
            "INSERT INTO pipeline_runs
                 (id, status, pid, script, cwd, args, created_at, started_at, stopped_at, exit_code, paused_ms, log_start, log_end)
             VALUES (?1, ?2, 1, ?3, '/', '[]', ?4, ?4, strftime('%Y-%m-%dT%H:%M:%fZ', ?4, ?5), ?6, ?7, 0, 0)",
            (id, status, script, "2023-11-14T22:13:20.000Z", format!("+{}.{:03} seconds", took_ms / 1000, took_ms % 1000), exit_code, paused_ms),
        )
        .expect("inserts");
}

#[test]
fn list_has_run_statistics_and_sorts_latest_run_first() {
    let mut place = Place::new();
    place.set_env("AUTOAPPDEV_RUNS_KEEP", "1000000");
    drop(place.store());
    for (name, age_s) in [("once.sh", 9), ("often.sh", 8), ("old.sh", 7), ("new.sh", 1), ("forgotten.sh", 3)] {
        file(&place, name, "", 0o644);
        let at = SystemTime::now() - Duration::from_secs(age_s);
        fs::File::options().write(true).open(place.root().join(name)).and_then(|file| file.set_modified(at)).expect("ours");
    }
    let database = Connection::open(place.database()).expect("opens");
    let tx = database.unchecked_transaction().expect("begins");
    add_run(&tx, 1, "forgotten.sh", "completed", (1, 0));
    for id in 2..=RUNS_SEARCHED_MAX - 8 {
        add_run(&tx, id, "gone.sh", "completed", (1, 0));
    }
    for (id, script, status, took) in [
        (1, "often.sh", "completed", (100_000, 0)),
        (2, "often.sh", "completed", (5_000, 0)),
        (3, "often.sh", "completed", (1_000, 400)),
        (4, "often.sh", "completed", (2_345, 0)),
        (5, "often.sh", "failed", (7_000, 0)),
        (6, "./often.sh", "completed", (7_000, 0)),
        (7, "often.sh", "completed", (4_000, 1)),
        (8, "often.sh", "completed", (3_000, 1_000)),
        (9, "once.sh", "failed", (10, 0)),
    ] {
        add_run(&tx, RUNS_SEARCHED_MAX - 8 + id, script, status, took);
    }
    let last = RUNS_SEARCHED_MAX + 1;
    tx.execute("UPDATE pipeline_state SET run_id = ?1", [last]).expect("updates");
    tx.commit().expect("commits");
    place.start_server();
    let listed = list(&place, "");
    let known = |path: &str| {
        let script = script(&listed, path);
        ["runs", "usual_ms", "last_run_id"].map(|key| script[key].as_i64())
    };
    assert_eq!(known("once.sh"), [Some(1), None, Some(last)]);
    assert_eq!(known("often.sh"), [Some(7), Some(2_345), Some(last - 1)]);
    assert_eq!(known("old.sh"), [Some(0), None, None]);
    assert_eq!(known("forgotten.sh"), [Some(0), None, None], "it ran before the latest 2,000 runs");
    let order = paths(&listed);
    let at = |path: &str| order.iter().position(|listed| *listed == path).expect("listed");
    assert_eq!((at("once.sh"), at("often.sh")), (0, 1));
    assert!(at("new.sh") < at("forgotten.sh") && at("forgotten.sh") < at("old.sh"), "{order:?}");

    place.start_with(json!({"script": "old.sh"}));
    assert_eq!(paths(&list(&place, ""))[0], "old.sh");
}

#[test]
fn list_reports_missing_root_and_follows_changed_root_link() {
    let mut place = Place::new();
    let other = place.folder().join("other");
    fs::create_dir(&other).expect("creates");
    fs::write(other.join("other.sh"), "").expect("writes");
    let link = place.folder().join("link");
    symlink(place.root(), &link).expect("links");
    place.set_env("AUTOAPPDEV_PIPELINE_CWD", link.to_str().expect("text"));
    place.start_server();
    assert_eq!(list(&place, "")["root"], json!(place.root().canonicalize().expect("there")));
    fs::remove_file(&link).expect("removes");
    let (listed, started) =
        (place.get("/api/pipeline/scripts"), place.post("/api/pipeline/start", json!({"script": "sleep.sh"})));
    assert_eq!((listed.status, listed.error()), (404, "script_not_found"));
    assert_eq!((listed.status, &listed.body), (started.status, &started.body));
    symlink(&other, &link).expect("links");
    assert_eq!(paths(&list(&place, "")), ["other.sh"]);
}

/// A script that mounts a FUSE file system and then runs a program. While the process whose pid is in the file lives, calls to
/// the file system get no response.
const MOUNT: &str = "mknod \"$1\" c 10 229 && exec 9<>\"$1\" \
    && mount -i -t fuse -o fd=9,rootmode=40000,user_id=0,group_id=0 none \"$2\" || exit 1
sleep 600 >/dev/null 2>&1 & echo $! >\"$3\"; exec 9>&-; shift 3; exec \"$@\"";

/// The process that keeps that file system alive. Without it every call to the file system fails.
struct Silent(PathBuf);

impl Silent {
    fn ends(&self) {
        if let Some(pid) = fs::read_to_string(&self.0).ok().and_then(|text| text.trim().parse().ok()) {
            signal(pid, "KILL");
            fs::remove_file(&self.0).expect("ours");
        }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.ends();
    }
}

fn waiting_threads(pid: u32) -> usize {
    let stats = fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
    let stats = stats.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    stats.filter(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" D"))).count()
}

#[test]
fn list_on_hung_file_system_blocks_no_other_response() {
    let mut place = Place::new();
    let silent = Silent(place.folder().join("keeper"));
    let mounting = |place: &Place, name: &str, program: &Path| {
        let dir = place.root().join(name);
        fs::create_dir(&dir).expect("creates");
        let mut command = place.command_of(Path::new("unshare"));
        command.args(["-m", "--propagation", "private", "sh", "-c", MOUNT, "sh"]);
        command.arg(place.folder().join(format!("device-{name}"))).arg(dir).arg(&silent.0).arg(program);
        command
    };
    if !mounting(&place, "tried", Path::new("true")).output().is_ok_and(|output| output.status.success()) {
        return not_run("a file system of FUSE cannot be mounted in a mount namespace", "AUTOAPPDEV_REQUIRE_FUSE");
    }
    silent.ends();
    let command = mounting(&place, "hangs", Path::new(env!("CARGO_BIN_EXE_autoappdev")));
    place.start_server_with(command);
    let mut lists: Vec<_> = (0..4).map(|_| place.wire()).collect();
    for wire in &mut lists {
        wire.ask("GET", "/api/pipeline/scripts");
    }
    until_true("two lists wait for the file system", || waiting_threads(place.server_pid()) == 2);
    let (_, run_id) = place.start_with(json!({"script": "sleep.sh"}));
    for path in ["/api/logs/tail", "/api/logs", "/api/runs", "/api/health", &format!("/api/runs/{run_id}")] {
        place.get(path).ok();
    }
    place.act("stop").ok();
    assert!(lists.iter_mut().all(|wire| !wire.has_answer()));
    silent.ends();
    for wire in &mut lists {
        assert!(paths(&wire.answer().ok()).contains(&"sleep.sh"));
    }
}
