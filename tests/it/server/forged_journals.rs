//! Journals from an archive. The server uses no path in them that is outside the place where the kernel keeps control groups, and
//! no socket of another project's run.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use autoappdev::pipeline::{Containment, Fact};
use autoappdev::process::{boot_id, read_stat};
use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::{Value, json};

use super::foreign_files::{ANOTHER, copied_binary, is_root, set_mode};
use crate::support::{Place, can_make_cgroups, is_alive, is_stopped, not_run, own_cgroup, signal, until_true};

/// The clone has a copy of the journal, and its author keeps the copied lock file locked, so that the run seems to be live there.
#[test]
fn journal_of_clone_cannot_control_run_of_another_project() {
    let other = Place::serving("sleep.sh");
    let (pid, run_id) = other.start();
    let mut clone = Place::new();
    let copied = Command::new("cp").arg("-a").args([other.runtime(), clone.runtime()]).status();
    assert!(copied.expect("cp is there").success());
    let lock = File::open(clone.run_dir(run_id).join("lock")).expect("there");
    lock.try_lock().expect("only the other one is locked");
    clone.start_server();
    assert_eq!(clone.state(), "running", "as the lock says");
    until_true("health says that its shim is not reached", || clone.degraded().is_some_and(|why| why.contains("shim")));
    for action in ["pause", "stop"] {
        clone.post(&format!("/api/pipeline/{action}"), json!({}));
    }
    assert!(is_alive(pid) && !is_stopped(pid));
    assert_eq!((other.state(), other.degraded()), ("running".to_owned(), None));
    other.act("pause").ok();
    assert!(is_stopped(pid), "its own server controls it");
}

/// Creates a run that looks as if its shim was killed, with these values in the header of its journal.
fn lost_run(place: &Place, values: &[(&str, Value)]) -> i64 {
    let run_id = place.past_run(&[Fact::Spawned { pid: 1, start_ticks: u64::MAX, containment: Containment::Cgroup }]);
    set_header(place, run_id, values);
    run_id
}

/// Changes these values in the header of a journal.
fn set_header(place: &Place, run_id: i64, values: &[(&str, Value)]) {
    let path = place.run_dir(run_id).join("journal.jsonl");
    let text = fs::read_to_string(&path).expect("text");
    let (first, rest) = text.split_once('\n').expect("a header");
    let mut header: Value = serde_json::from_str(first).expect("JSON");
    for (name, value) in values {
        header[*name] = value.clone();
    }
    assert_eq!(header["boot_id"], boot_id().expect("/proc is mounted"), "an author on the same machine knows it");
    fs::write(&path, format!("{header}\n{rest}")).expect("writes");
}

/// Like [`lost_run`], with a journal that names `group` as its control group.
fn lost_run_in(place: &Place, group: &Path) -> i64 {
    lost_run(place, &[("cgroup", json!(group))])
}

/// Creates a run that looks as if this process was its shim.
fn lost_run_of(place: &Place, pid: u32) -> i64 {
    lost_run(place, &as_shim(pid))
}

/// Returns the values in the header of a journal whose shim is this process.
fn as_shim(pid: u32) -> [(&'static str, Value); 2] {
    let ticks = read_stat(pid).expect("it is there").identity.start_ticks;
    [("shim_pid", json!(pid)), ("shim_start_ticks", json!(ticks))]
}

/// The working directory of a process proves nothing if it was removed, or if the process is process 1 or not dumpable.
#[test]
fn process_that_is_no_shim_does_not_keep_run_live() {
    for is_removed in [true, false] {
        let mut place = Place::new();
        let process = Stranger::new(&place, is_removed);
        let run_id = lost_run_of(&place, process.0.id());
        let run = place.boot_on_it(run_id, "lost");
        assert!(run["error"].as_str().expect("a sentence").ends_with("; none of its processes is alive"), "{run}");
        assert!(is_alive(process.0.id()));
        place.assert_startable(run_id);
    }
    let mut place = Place::new();
    let run_id = lost_run_of(&place, 1);
    place.boot_on_it(run_id, "lost");
    place.assert_startable(run_id);
}

/// Any user can start set-user-ID programs of root with the arguments of a shim, and the working directory of such a process is
/// not visible.
#[test]
fn root_process_with_shim_arguments_is_no_shim_for_another_user() {
    if !is_root() {
        return;
    }
    for (user, status) in [(ANOTHER, "lost"), (0, "running")] {
        let mut place = Place::new();
        set_mode(place.folder(), 0o755);
        let binary = copied_binary(&place);
        let run_id = lost_run(&place, &[]);
        // It waits for its standard input, which stays empty.
        let mut command = Command::new("cat");
        command.args(["shim", "-"]).current_dir(place.run_dir(run_id)).stdin(Stdio::piped()).stderr(Stdio::null());
        let process = Stranger(command.spawn().expect("spawns"));
        set_header(&place, run_id, &as_shim(process.0.id()));
        let given = Command::new("chown").arg("-R").arg(user.to_string()).arg(place.runtime()).status();
        assert!(given.expect("chown is there").success());
        let mut server = place.command_of(&binary);
        server.uid(user).gid(user);
        place.start_server_with(server);
        place.bring_own_token();
        // A server of root takes the process for a shim, which shows that nothing else distinguishes it from one.
        until_true(&format!("run {run_id} is {status}"), || place.pipeline()["status"] == status);
        assert!(is_alive(process.0.id()));
    }
}

/// A process that the test started.
struct Stranger(Child);

impl Stranger {
    /// Starts one in its own directory, which is then removed if `is_removed` is set.
    fn new(place: &Place, is_removed: bool) -> Self {
        let dir = place.folder().join("of-the-process");
        fs::create_dir(&dir).expect("creates");
        let process = Self(Command::new("sleep").arg("600").current_dir(&dir).spawn().expect("spawns"));
        if is_removed {
            fs::remove_dir(&dir).expect("empty");
        }
        process
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

#[test]
fn health_names_remedy_for_run_lock_without_shim() {
    let mut place = Place::new();
    let process = Stranger::new(&place, true);
    let run_id = lost_run_of(&place, process.0.id());
    let _lock = place.hold_lock(run_id);
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    place.start_server();
    assert_eq!(place.state(), "running", "as the lock says");
    let dir = place.run_dir(run_id).canonicalize().expect("there");
    let advice = format!("`fuser {}/lock` as root finds it), or move {} away", dir.display(), dir.display());
    until_true("health says what to do", || place.degraded().is_some_and(|why| why.contains(&advice) && !why.contains("TERM")));
    fs::rename(&dir, place.folder().join("moved")).expect("moves");
    place.until_state("stopped");
    until_true("all is well again", || place.degraded().is_none());
    assert!(is_alive(process.0.id()));
    place.assert_startable(run_id);
}

/// Adds lines of entries like those of a shim, numbered from `first`.
fn add_entries(place: &Place, run_id: i64, numbers: impl Iterator<Item = u64>) {
    let path = place.run_dir(run_id).join("journal.jsonl");
    let mut file = io::BufWriter::new(File::options().append(true).open(path).expect("there"));
    let rest = "\"at\":\"2026-01-31T10:00:00.123Z\",\"boot_ms\":5,\"cause\":\"request\",\"paused_ms\":0";
    for (seq, fact) in numbers.zip(["paused", "resumed"].into_iter().cycle()) {
        writeln!(file, "{{\"seq\":{seq},\"fact\":\"{fact}\",{rest}}}").expect("writes");
    }
    file.flush().expect("writes");
}

#[test]
fn journal_with_highest_entry_number_does_not_prevent_boot() {
    for highest in [u64::MAX, i64::MAX.unsigned_abs(), 1 << 53] {
        let mut place = Place::new();
        let run_id = lost_run(&place, &[]);
        add_entries(&place, run_id, [2, highest].into_iter());
        let run = place.boot_on_it(run_id, "lost");
        assert_eq!(run["events"].as_array().expect("a list").last().expect("its end")["seq"], 3, "{run}");
        place.assert_startable(run_id);
    }
}

#[test]
fn database_with_highest_event_number_is_refused_with_remedy() {
    let place = Place::new();
    lost_run(&place, &[]);
    place.edit_database(&format!("UPDATE pipeline_events SET seq = {} WHERE seq = 1", i64::MAX));
    let said = place.refused_server(("AUTOAPPDEV_PORT", "0"));
    assert!(said.contains("restore a backup of the database, or move it away and start again"), "{said}");
    assert!(!said.contains("check the state again"), "{said}");
}

/// Recording that many facts takes longer than a signal may wait.
#[test]
fn signal_ends_server_during_long_recovery() {
    let place = Place::new();
    let run_id = lost_run(&place, &[]);
    add_entries(&place, run_id, 2..600_000);
    let mut command = place.command();
    let server = command.arg("serve").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("spawns");
    let mut server = Stranger(server);
    // The socket is created after the signal handlers.
    until_true("it starts", || place.runtime().join("server.sock").exists());
    signal(server.0.id(), "TERM");
    until_true("it ends", || server.0.try_wait().expect("ours").is_some_and(|status| status.success()));
    let said = io::read_to_string(server.0.stdout.take().expect("piped")).expect("text");
    assert!(said.contains("autoappdev has stopped while it was recovering the latest run"), "{said}");
}

/// Returns the name that the control group of the first run has here, and one that it had in another directory.
fn names(place: &Place) -> [String; 2] {
    drop(place.store());
    let folder = fs::metadata(place.runtime()).expect("there");
    [format!("autoappdev-{:x}-{:x}-1", folder.dev(), folder.ino()), "autoappdev-1-2-1".to_owned()]
}

/// Returns everything below a folder, with the texts of regular files.
fn contents(folder: &Path) -> Vec<(PathBuf, Option<String>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("there").flatten() {
        let kind = entry.file_type().expect("there");
        all.push((entry.path(), kind.is_file().then(|| fs::read_to_string(entry.path()).expect("text"))));
        if kind.is_dir() {
            all.extend(contents(&entry.path()));
        }
    }
    all.sort();
    all
}

#[test]
fn directory_named_as_cgroup_by_journal_is_left_alone() {
    for (index, events) in ["populated 0\n", "populated 1\n", "a pipe", "an endless file"].into_iter().enumerate() {
        for which in 0..2 {
            let mut place = Place::new();
            let elsewhere = place.folder().join("elsewhere");
            let group = elsewhere.join(&names(&place)[which]);
            fs::create_dir_all(group.join("empty/deeper")).expect("creates");
            match events {
                "a pipe" => mkfifoat(CWD, group.join("cgroup.events"), Mode::RUSR | Mode::WUSR).expect("makes"),
                "an endless file" => symlink("/dev/zero", group.join("cgroup.events")).expect("links"),
                text => fs::write(group.join("cgroup.events"), text).expect("writes"),
            }
            fs::write(group.join("cgroup.kill"), "precious").expect("writes");
            fs::write(group.join("cgroup.procs"), format!("{}\n", std::process::id())).expect("writes");
            let before = contents(&elsewhere);
            let run_id = lost_run_in(&place, &group);
            let run = place.boot_on_it(run_id, "lost");
            assert_eq!(contents(&elsewhere), before, "case {index}, name {which}");
            let why = run["error"].as_str().expect("a sentence");
            assert!(why.ends_with("; none of its processes is alive"), "{why}");
        }
    }
}

/// A control group of the test, which is removed at the end.
struct Group(PathBuf);

impl Group {
    fn make(path: PathBuf) -> Self {
        fs::create_dir(&path).expect("it can be made");
        Self(path)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _was_removed = fs::remove_dir(&self.0);
    }
}

/// Control groups at the right place that do not belong to a run of this number, and a path that leaves that place again.
#[test]
fn foreign_cgroup_named_by_journal_is_left_alone() {
    if !can_make_cgroups() {
        not_run("this user may make no control group here", "AUTOAPPDEV_REQUIRE_CGROUPS");
        return;
    }
    let own = own_cgroup().expect("it can be written");
    let mut place = Place::new();
    let [name, _] = names(&place);
    let foreign = Group::make(own.join(format!("program-of-the-user-{}", std::process::id())));
    let ours = Group::make(own.join(&name));
    let elsewhere = place.folder().join(&name);
    fs::create_dir(&elsewhere).expect("creates");
    let mut detour = own.clone();
    detour.extend(own.components().skip(1).map(|_| ".."));
    detour.push(elsewhere.strip_prefix("/").expect("absolute"));
    let link = place.folder().join("link");
    symlink(&own, &link).expect("links");
    assert!(detour.is_dir(), "it leads there");
    // The last one is a real group with the right name, but through a link.
    for (index, group) in [foreign.0.clone(), detour, link.join(&name)].into_iter().enumerate() {
        let run_id = lost_run_in(&place, &group);
        place.boot_on_it(run_id, "lost");
        assert!([&foreign.0, &elsewhere, &ours.0].into_iter().all(|dir| dir.is_dir()), "case {index}");
        place.stop_server();
        fs::remove_dir_all(place.runtime()).expect("ours");
        drop(place.store());
    }
}
