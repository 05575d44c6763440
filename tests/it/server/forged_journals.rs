//! Journals that come with an archive: the server believes no path in them that does not lie where the kernel keeps control groups, and
//! no socket of another project's run.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use autoappdev::pipeline::{Containment, Fact};
use autoappdev::process::boot_id;
use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::{Value, json};

use crate::support::{Place, can_make_cgroups, is_alive, is_stopped, not_run, own_cgroup, until_true};

/// The clone has a copy of the journal, and its author keeps the copy of the lock locked, so that the run seems to live there.
#[test]
fn journal_of_a_clone_that_names_the_socket_of_another_projects_run_does_not_control_it() {
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

/// A run that looks as if its shim was killed, with a journal that names `group` as its control group.
fn lost_run_in(place: &Place, group: &Path) -> i64 {
    let run_id = place.past_run(&[Fact::Spawned { pid: 1, start_ticks: u64::MAX, containment: Containment::Cgroup }]);
    let path = place.run_dir(run_id).join("journal.jsonl");
    let text = fs::read_to_string(&path).expect("text");
    let (first, rest) = text.split_once('\n').expect("a header");
    let mut header: Value = serde_json::from_str(first).expect("JSON");
    header["cgroup"] = json!(group);
    assert_eq!(header["boot_id"], boot_id().expect("/proc is mounted"), "an author on the same machine knows it");
    fs::write(&path, format!("{header}\n{rest}")).expect("writes");
    run_id
}

/// The name that the control group of the first run has here, and one that it had in another directory.
fn names(place: &Place) -> [String; 2] {
    drop(place.store());
    let folder = fs::metadata(place.runtime()).expect("there");
    [format!("autoappdev-{:x}-{:x}-1", folder.dev(), folder.ino()), "autoappdev-1-2-1".to_owned()]
}

/// All that is below a folder, with the texts of regular files.
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
fn directory_that_a_journal_calls_a_control_group_is_left_alone() {
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
            assert!(why.ends_with("; nothing of it is alive"), "{why}");
        }
    }
}

/// A control group of the test's own, removed at the end.
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

/// It lies where control groups are, but is not one of a run of this number; or its path leaves that place again.
#[test]
fn control_group_of_another_program_and_a_path_that_leaves_the_groups_are_left_alone() {
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
    // The last one is a real group under the right name, but reached by a link.
    for (index, group) in [foreign.0.clone(), detour, link.join(&name)].into_iter().enumerate() {
        let run_id = lost_run_in(&place, &group);
        place.boot_on_it(run_id, "lost");
        assert!([&foreign.0, &elsewhere, &ours.0].into_iter().all(|dir| dir.is_dir()), "case {index}");
        place.stop_server();
        fs::remove_dir_all(place.runtime()).expect("ours");
        drop(place.store());
    }
}
