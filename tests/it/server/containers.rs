//! Servers in containers with their own file systems. A server outside that cleans up after its own run leaves their runs alone,
//! whatever its journals contain.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use autoappdev::pipeline::{Containment, Fact};
use autoappdev::process::boot_id;
use serde_json::{Value, json};

use crate::support::past::{Carrier, carrier, cookie_of};
use crate::support::{DEADLINE, Place, is_alive, not_run, pids, processes_with, signal, until, until_true};

/// How a test enters its own namespaces: as root, or as root of a user namespace. The second way also has a PID namespace.
const NAMESPACES: [&[&str]; 2] = [&["-n", "-m"], &["-n", "-m", "--pid", "--fork", "--mount-proc"]];

/// Sets up an empty file system at the folder `$1`, and a server in it whose run 1 lives until it is killed. One of the run's
/// processes has its own mount namespace, in which the directory of the run is not visible.
const SET_UP: &str = r#"mount -t tmpfs -o mode=755 none "$1" && mkdir "$1/root" && cd "$1" && ip link set lo up || exit
printf '#!/bin/sh\nunshare -m --propagation private sh -c "mount -t tmpfs none %s; exec sleep 600" &\nexec sleep 600\n' "$1" >root/hold.sh
chmod 755 root/hold.sh
"$2" serve >/dev/null 2>&1 &
until "$2" start hold.sh >/dev/null 2>&1; do sleep 0.1; done
wait"#;

/// A server in its own network and mount namespaces, with a live run.
struct Container {
    child: Child,
    mark: String,
    leader: u32,
    processes: BTreeSet<u32>,
}

impl Container {
    /// Creates the server at the path of this place's folder. Returns `None` if no namespaces can be created here.
    fn at(place: &Place, namespaces: &[&str]) -> Option<Self> {
        let enter = |user: &[&str]| {
            let mut command = Command::new("unshare");
            command.args(user).args(namespaces).args(["--propagation", "private", "bash", "-c"]);
            command
        };
        let users: [&[&str]; 2] = [&[], &["-U", "-r"]];
        let is_possible =
            |user: &&[&str]| enter(user).arg("mount -t tmpfs none /mnt").output().is_ok_and(|tried| tried.status.success());
        let Some(user) = users.into_iter().find(is_possible) else {
            not_run(
                "no mount namespace can be made here; it takes unshare(1), and root or a user namespace",
                "AUTOAPPDEV_REQUIRE_NETNS",
            );
            return None;
        };
        let mark = format!("AUTOAPPDEV_TEST_CONTAINER={}", place.folder().display());
        let server = place.command();
        let mut command = enter(user);
        command.args([SET_UP, "bash"]).arg(place.folder()).arg(server.get_program());
        for (name, value) in server.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let (name, value) = mark.split_once('=').expect("as written above");
        command.env(name, value).env("AUTOAPPDEV_CONTAINMENT", "tree").env("AUTOAPPDEV_SOCKET", "off");
        let child = command.stdin(Stdio::null()).spawn().expect("it ran a moment ago");
        let mut container = Self { child, mark, leader: 0, processes: BTreeSet::new() };
        let is_sleep = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
        container.processes = until("both processes of its run are there", || {
            let processes = container.pipeline();
            (processes.len() == 2 && processes.iter().all(is_sleep)).then_some(processes)
        });
        let sees_runs = |pid: &&u32| Path::new(&format!("/proc/{pid}/root{}", place.run_dir(1).display())).exists();
        container.leader = *container.processes.iter().find(sees_runs).expect("one of them");
        assert_eq!(container.processes.iter().filter(sees_runs).count(), 1);
        until_true("its journal is there", || container.journal(place).lines().count() > 1);
        Some(container)
    }

    /// Returns the processes of its run.
    fn pipeline(&self) -> BTreeSet<u32> {
        processes_with(&self.mark)
    }

    fn journal(&self, place: &Place) -> String {
        let path = format!("/proc/{}/root{}/journal.jsonl", self.leader, place.run_dir(1).display());
        fs::read_to_string(path).unwrap_or_default()
    }

    fn header(&self, place: &Place) -> Value {
        serde_json::from_str(self.journal(place).lines().next().expect("a header")).expect("JSON")
    }

    fn assert_untouched(&self, place: &Place, case: &str) {
        assert_eq!(self.pipeline(), self.processes, "{case}");
        let journal = self.journal(place);
        assert!(journal.contains("\"spawned\"") && !journal.contains("\"exited\""), "{case}: {journal}");
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let is_inside = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|entry| entry == self.mark.as_bytes())
        };
        // Everything that its processes start meanwhile is killed too. A dead process has no environment.
        let deadline = Instant::now() + DEADLINE;
        loop {
            let inside: Vec<u32> = pids().into_iter().filter(is_inside).collect();
            if inside.is_empty() || Instant::now() > deadline {
                break;
            }
            for pid in inside {
                signal(pid, "KILL");
            }
        }
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Replaces the first line of a journal.
pub(super) fn change_header(journal: &Path, change: impl FnOnce(&mut Value)) {
    let text = fs::read_to_string(journal).expect("a journal");
    let (first, rest) = text.split_once('\n').expect("a header");
    let mut header: Value = serde_json::from_str(first).expect("JSON");
    change(&mut header);
    fs::write(journal, format!("{header}\n{rest}")).expect("writes");
}

/// A change to the header of a journal in a clone, given the header of the container's run.
type Forgery = fn(&mut Value, &Value);

#[test]
fn journal_of_clone_naming_container_run_kills_nothing() {
    let nothing_else: Forgery = |_, _| ();
    let forgeries: &[(&str, Forgery)] = &[
        ("the path and another boot", |ours, _| ours["boot_id"] = json!("00000000-0000-0000-0000-000000000000")),
        ("the path", nothing_else),
        ("the path and the socket, which every user of the machine can see", |ours, theirs| {
            ours["socket"] = theirs["socket"].clone();
        }),
        ("the path and a mark", |ours, _| ours["mark"] = json!("0".repeat(32))),
        ("the path and an empty mark", |ours, _| ours["mark"] = json!("")),
        ("a path behind the container's", |ours, theirs| {
            ours["runtime_dir"] = json!(format!("{}/", theirs["runtime_dir"].as_str().expect("text")));
        }),
        ("all of it, in a copy", |ours, theirs| *ours = theirs.clone()),
    ];
    for namespaces in NAMESPACES {
        let theirs = Place::new();
        let Some(container) = Container::at(&theirs, namespaces) else { return };
        let header = container.header(&theirs);
        for (case, forge) in forgeries {
            for is_oversize in [false, true] {
                let case = format!("{case}, {namespaces:?}, oversize: {is_oversize}");
                let mut clone = Place::new();
                let run_id = clone.past_run(&[Fact::Spawned { pid: 1, start_ticks: u64::MAX, containment: Containment::Tree }]);
                assert_eq!((run_id, &header["boot_id"]), (1, &json!(boot_id().expect("/proc is mounted"))));
                let journal = clone.run_dir(run_id).join("journal.jsonl");
                change_header(&journal, |ours| {
                    ours["runtime_dir"] = header["runtime_dir"].clone();
                    forge(ours, &header);
                });
                if is_oversize {
                    // The journal is too long to be read as a whole, but its first line is read.
                    fs::OpenOptions::new().write(true).open(&journal).and_then(|file| file.set_len(257 << 20)).expect("grows");
                }
                clone.boot_on_it(run_id, "lost");
                container.assert_untouched(&theirs, &case);
            }
        }
    }
}

#[test]
fn container_run_with_same_path_and_id_is_left_alone() {
    type Past = fn(&Path);
    let alone = "2 that carry its id were left alone";
    let pasts: &[(&str, &str, Past)] = &[
        ("a whole journal", "no process that carries its id is alive", |_| ()),
        ("a journal of an earlier version", alone, |run_dir| {
            change_header(&run_dir.join("journal.jsonl"), |header| {
                let mark = header.as_object_mut().expect("an object").remove("mark");
                assert_eq!(mark.expect("it has one").as_str().map(str::len), Some(32));
            });
        }),
        ("a damaged journal", alone, |run_dir| fs::write(run_dir.join("journal.jsonl"), "{}\n").expect("writes")),
        ("no run directory", alone, |run_dir| fs::remove_dir_all(run_dir).expect("removes")),
    ];
    for namespaces in NAMESPACES {
        let mut place = Place::new();
        let Some(container) = Container::at(&place, namespaces) else { return };
        place.set_env("AUTOAPPDEV_CONTAINMENT", "tree");
        place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
        for (case, why, past) in pasts {
            place.start_server();
            let (leader, run_id) = place.start();
            assert_eq!(run_id, 1, "as the container's");
            place.kill_server();
            let shim = place.shim_pid(run_id);
            signal(shim, "KILL");
            // The container has a shim with the same arguments.
            until_true("the shim has ended", || !is_alive(shim));
            past(&place.run_dir(run_id));
            place.start_server();
            place.until_state("stopped");
            let run = place.run(run_id);
            assert!(run["status"] == "lost" && run["error"].as_str().is_some_and(|error| error.contains(why)), "{case}: {run}");
            assert!(!is_alive(leader), "{case}: its own run is cleaned up");
            container.assert_untouched(&place, &format!("{case}, {namespaces:?}"));
            place.kill_server();
            fs::remove_dir_all(place.runtime()).expect("removes");
        }
    }
}

#[test]
fn only_processes_with_mark_of_lost_run_are_killed() {
    let mut place = Place::serving_with("sleep.sh", "tree");
    let (leader, run_id) = place.start();
    let journal = place.run_dir(run_id).join("journal.jsonl");
    let header: Value =
        serde_json::from_str(fs::read_to_string(journal).expect("a journal").lines().next().expect("a header")).expect("JSON");
    let mark = header["mark"].as_str().expect("a mark").to_owned();
    let [id, dir] = cookie_of(&place.runtime(), run_id);
    let with = |mark: &str| carrier(&[id.clone(), dir.clone(), ("AUTOAPPDEV_RUN_MARK", mark.to_owned())]);
    let strangers = [carrier(&[id.clone(), dir.clone()]), with(""), with(&mark[1..]), with(&"0".repeat(32))];
    let ours = with(&mark);
    place.kill_server();
    signal(place.shim_pid(run_id), "KILL");
    place.until_no_shim();
    place.start_server();
    place.until_state("stopped");
    assert!(!ours.is_alive() && !is_alive(leader));
    assert!(strangers.iter().all(Carrier::is_alive), "another run's, or of no run");
}

/// An earlier version identified its runs only by their number and path.
#[test]
fn run_of_an_earlier_version_is_cleaned_up_in_its_own_directory_only() {
    let moved = |place: &Place| json!(place.folder().join("before"));
    for is_moved in [false, true] {
        let mut place = Place::new();
        let run_id = place.past_run(&[Fact::Spawned { pid: 1, start_ticks: u64::MAX, containment: Containment::Tree }]);
        let given = if is_moved { moved(&place) } else { json!(place.runtime()) };
        change_header(&place.run_dir(run_id).join("journal.jsonl"), |header| {
            header["runtime_dir"] = given.clone();
            assert_eq!(header.get("mark"), None);
        });
        let left = carrier(&cookie_of(Path::new(given.as_str().expect("text")), run_id));
        let run = place.boot_on_it(run_id, "lost");
        assert_eq!(left.is_alive(), is_moved, "{run}");
        let why = run["error"].as_str().expect("a sentence");
        assert_eq!(why.contains("names another runtime directory") && !why.contains("nothing"), is_moved, "{why}");
    }
}

/// A service manager can give a service a new mount namespace at each start. A path in it still leads to the same directory.
#[test]
fn process_in_other_mount_namespace_is_killed_only_if_directory_is_same() {
    let enter = ["unshare", "-m", "--propagation", "private"];
    if !Command::new(enter[0]).args(&enter[1..]).arg("true").output().is_ok_and(|tried| tried.status.success()) {
        return not_run("no mount namespace can be made here; it takes unshare(1) and root", "AUTOAPPDEV_REQUIRE_NETNS");
    }
    let mut place = Place::new();
    let run_id = place.past_run(&[Fact::Spawned { pid: 1, start_ticks: u64::MAX, containment: Containment::Tree }]);
    change_header(&place.run_dir(run_id).join("journal.jsonl"), |header| assert_eq!(header.get("mark"), None));
    let start = |words: &str| {
        let mut command = Command::new(enter[0]);
        command.args(&enter[1..]).args(["sh", "-c", words, "sh"]).arg(place.folder());
        let child = command.envs(cookie_of(&place.runtime(), run_id)).spawn().expect("it ran a moment ago");
        let name = format!("/proc/{}/comm", child.id());
        until_true("it is there", || fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n"));
        child
    };
    let (mut same, mut other) = (start("exec sleep 600"), start("mount -t tmpfs none \"$1\"; exec sleep 600"));
    let run = place.boot_on_it(run_id, "lost");
    let alive = (is_alive(same.id()), is_alive(other.id()));
    for child in [&mut same, &mut other] {
        let _ended = child.kill();
        child.wait().expect("ours");
    }
    assert_eq!(alive, (false, true), "{run}");
    let why = run["error"].as_str().expect("a sentence");
    assert!(why.contains("1 that carry its id were left alone") && !why.contains("nothing"), "{why}");
}

/// The author of the journal knows the boot id. The file system at the path that the journal names can belong to the author and
/// never respond.
#[test]
fn directory_named_by_journal_is_not_opened() {
    let mut place = Place::new();
    let run_id = place.past_run(&[Fact::Spawned { pid: 1, start_ticks: u64::MAX, containment: Containment::Tree }]);
    let elsewhere = place.folder().join("elsewhere");
    let run_dir = elsewhere.join("runs").join(run_id.to_string());
    fs::create_dir_all(&run_dir).and_then(|()| fs::write(run_dir.join("lock"), "")).expect("writes");
    change_header(&place.run_dir(run_id).join("journal.jsonl"), |header| {
        header["runtime_dir"] = json!(elsewhere);
        header["mark"] = json!("0".repeat(32));
    });
    let watch = rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::NONBLOCK).expect("inotify");
    let flags = rustix::fs::inotify::WatchFlags::OPEN | rustix::fs::inotify::WatchFlags::ACCESS;
    for dir in [&elsewhere, &run_dir] {
        rustix::fs::inotify::add_watch(&watch, dir, flags).expect("watches");
    }
    place.boot_on_it(run_id, "lost");
    let mut buffer = [0; 4096];
    assert_eq!(rustix::io::read(&watch, &mut buffer), Err(rustix::io::Errno::AGAIN), "nothing was opened there");
}
