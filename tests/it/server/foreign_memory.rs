//! Processes of another user that block or slow down the readers of their arguments or environment. Every test here runs alone,
//! because other servers and tests read those too.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::{Value, json};

use super::containers::change_header;
use super::foreign_files::{ANOTHER, THIRD, is_root, set_mode};
use super::foreign_sockets::squat;
use crate::support::past::cookie_of;
use crate::support::{Place, is_alive, letter, not_run, signal, until, until_true};

/// A process of the other user that runs `tests/programs/holder.c`. It is killed on drop.
struct Holder {
    child: Child,
    /// The process that is hard to read.
    pid: u32,
}

impl Holder {
    /// Starts the process, or returns `None` if the kernel does not allow it.
    fn start(place: &Place, args: &[&str]) -> Option<Self> {
        Self::start_with(place, args, &[])
    }

    fn start_with(place: &Place, args: &[&str], environment: &[(&str, String)]) -> Option<Self> {
        if !place.root().join("holder").exists() {
            place.compile("holder");
        }
        set_mode(place.folder(), 0o711);
        let mut command = Command::new(place.root().join("holder"));
        let command = command.args(args).uid(ANOTHER).gid(ANOTHER).env_clear().env("NAME", "value");
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it was compiled");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        let Ok(pid) = line.trim().parse() else {
            let _ended = child.kill();
            child.wait().expect("ours");
            return None;
        };
        Some(Self { child, pid })
    }

    /// Returns a FUSE device and a directory to mount at, both of the other user.
    fn mountable(place: &Place) -> [String; 2] {
        let (device, dir) = (place.folder().join("fuse"), place.folder().join("mounted"));
        if !device.exists() {
            fs::create_dir(&dir).expect("creates");
            chown(&dir, Some(ANOTHER), None).expect("we are root");
            mknodat(CWD, &device, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, makedev(10, 229)).ok();
            let _not_made = chown(&device, Some(ANOTHER), None);
        }
        [text(&device), text(&dir)]
    }

    /// Starts a process with the cookie of the run that has this journal. At the path of the place's folder, it sees a file
    /// system in which no lookup gets a response, or each fails with this error.
    fn apart(place: &Place, run_id: i64, header: &Value, error: i32) -> Option<Self> {
        let [device, dir] = Self::mountable(place);
        let empty = place.folder().join("empty");
        fs::create_dir_all(&empty).expect("creates");
        let mut cookie = cookie_of(&place.runtime(), run_id).to_vec();
        cookie.extend(header["mark"].as_str().map(|mark| ("AUTOAPPDEV_RUN_MARK", mark.to_owned())));
        let args = ["apart", &device, &dir, &text(&empty), &text(place.folder()), &error.to_string()];
        let holder = Self::start_with(place, &args, &cookie);
        if holder.is_none() {
            not_run("an overlay of a file system of FUSE cannot be mounted in a user namespace", "AUTOAPPDEV_REQUIRE_FUSE");
        }
        holder
    }

    /// Starts a process that holds the lock of its memory, so that every read of its arguments or environment waits.
    fn stuck(place: &Place) -> Option<Self> {
        let [device, dir] = Self::mountable(place);
        let holder = Self::start(place, &["stuck", &device, &dir]);
        match &holder {
            Some(holder) => until_true("it waits for the lock of its memory", || letter(holder.pid) == Some('D')),
            None => not_run("a file system cannot be mounted by FUSE in a user namespace", "AUTOAPPDEV_REQUIRE_FUSE"),
        }
        holder
    }

    fn is_stuck(&self) -> bool {
        letter(self.pid) == Some('D')
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("a temp folder has a plain name").to_owned()
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
        let pid = self.pid;
        signal(pid, "KILL");
        until_true("the other user's process has ended", || !is_alive(pid));
    }
}

#[test]
fn process_that_blocks_environ_readers_does_not_delay_recovery_or_server_end() {
    if !is_root() {
        return;
    }
    let mut place = Place::serving_with("drops.sh", "tree");
    let drop = format!("setpriv --reuid={THIRD} --regid={THIRD} --clear-groups sleep 600");
    place.script("drops.sh", &format!("#!/bin/sh\n{drop} &\necho $! >dropped.new\nmv dropped.new dropped\nexec sleep 600\n"));
    // With a lower pid than the run's processes, so that it is reached first.
    let Some(holder) = Holder::stuck(&place) else { return };
    let (pid, run_id) = place.start();
    let dropped: u32 = until("the run has a process of a third user", || {
        let pid = fs::read_to_string(place.root().join("dropped")).ok()?.trim().parse().expect("a pid");
        (fs::metadata(format!("/proc/{pid}")).ok()?.uid() == THIRD).then_some(pid)
    });
    signal(place.shim_pid(run_id), "KILL");
    place.until_state("stopped");
    assert!(holder.is_stuck() && !is_alive(pid) && !is_alive(dropped));
    let run = place.run(run_id);
    let why = run["error"].as_str().expect("a sentence");
    assert!(why.contains("could not be examined in time"), "{why}");
    let (pid, next) = place.start_with(json!({"script": "sleep.sh"}));
    assert_eq!(next, run_id + 1);
    // A boot finds a lost run, and completes although a thread waits.
    let shim = place.shim_pid(next);
    place.kill_server();
    signal(shim, "KILL");
    place.start_server();
    // The killed shim may have been alive still when the server started.
    place.until_state("stopped");
    assert!(holder.is_stuck() && !is_alive(pid));
    assert_eq!(place.stop_server(), 0);
    assert!(holder.is_stuck());
}

#[test]
fn file_system_of_another_users_process_does_not_delay_recovery() {
    const TOO_MANY_OPEN_FILES: i32 = 24;
    if !is_root() {
        return;
    }
    for (error, has_mark) in [(0, true), (0, false), (TOO_MANY_OPEN_FILES, true), (TOO_MANY_OPEN_FILES, false)] {
        let mut place = Place::serving_with("sleep.sh", "tree");
        let (pid, run_id) = place.start();
        place.kill_server();
        let journal = place.run_dir(run_id).join("journal.jsonl");
        change_header(&journal, |header| {
            if !has_mark {
                header.as_object_mut().expect("an object").remove("mark");
            }
        });
        let shim = place.shim_pid(run_id);
        signal(shim, "KILL");
        until_true("the shim has ended", || !is_alive(shim));
        let header: Value =
            serde_json::from_str(fs::read_to_string(&journal).expect("text").lines().next().expect("a header")).expect("JSON");
        let Some(holder) = Holder::apart(&place, run_id, &header, error) else { return };
        place.start_server();
        place.until_state("stopped");
        let run = place.run(run_id);
        // Another user's process cannot know the mark, unless it belongs to the run.
        let why = if has_mark { "no process that carries its id is alive" } else { "2 that carry its id were left alone" };
        assert!(run["error"].as_str().expect("a sentence").contains(why), "{error} {has_mark}: {run}");
        assert_eq!((is_alive(pid), is_alive(holder.pid)), (false, !has_mark), "{error} {has_mark}: {run}");
        assert_eq!(place.stop_server(), 0);
    }
}

#[test]
fn process_that_blocks_cmdline_readers_does_not_delay_boot() {
    if !is_root() {
        return;
    }
    let mut place = Place::serving("sleep.sh");
    let (_, run_id) = place.start();
    assert_eq!(place.stop_server(), 0);
    let Some(sockets) = squat(&place, &[run_id, run_id + 1]) else { return };
    let Some(holder) = Holder::stuck(&place) else { return sockets.leave() };
    place.start_server();
    assert_eq!(place.state(), "running", "the run goes on under this server");
    place.act("stop").ok();
    assert!(holder.is_stuck());
    sockets.leave();
}

#[test]
fn huge_environments_of_others_do_not_affect_recovery_or_memory() {
    if !is_root() {
        return;
    }
    let place = Place::serving_with("sleep.sh", "tree");
    let (pid, run_id) = place.start();
    let holders: Vec<Holder> = (0..14).map_while(|_| Holder::start(&place, &["big", "1200"])).collect();
    if holders.is_empty() {
        return not_run("a process cannot say where its environment is (PR_SET_MM_MAP)", "AUTOAPPDEV_REQUIRE_MM_MAP");
    }
    signal(place.shim_pid(run_id), "KILL");
    place.until_state("stopped");
    assert!(!is_alive(pid), "the run is said to have ended");
    let (_, next) = place.start_with(json!({"script": "sleep.sh"}));
    assert_eq!(next, run_id + 1);
    let status = fs::read_to_string(format!("/proc/{}/status", place.server_pid())).expect("it runs");
    let peak_kb = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    assert!(peak_kb.expect("it has memory") < 200 * 1024, "{status}");
    assert!(holders.iter().all(|holder| is_alive(holder.pid)));
}

/// A lookup of such a path never ends, and neither a signal nor a time limit can end it.
#[test]
fn paths_to_hung_file_system_block_no_command() {
    if !is_root() {
        return;
    }
    let mut place = Place::serving_with("sleep.sh", "tree");
    let (_, run_id) = place.start();
    let journal = place.run_dir(run_id).join("journal.jsonl");
    let first_line = fs::read_to_string(&journal).expect("text").lines().next().expect("a header").to_owned();
    let Some(holder) = Holder::apart(&place, run_id, &serde_json::from_str(&first_line).expect("JSON"), 0) else { return };
    let there = format!("/proc/{}/root{}/there", holder.pid, text(place.folder()));
    let mut looks = Command::new("stat").arg(&there).stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("starts");

    // The socket of a live server, as server.json in its folder names it.
    let info = place.runtime().join("server.json");
    let mut named: Value = serde_json::from_slice(&fs::read(&info).expect("there")).expect("JSON");
    named["socket"] = json!(format!("{there}/s"));
    fs::write(&info, named.to_string()).expect("ours");
    let (code, said, error) = place.client(&["status"]);
    assert!(code == 0 && said.contains("running"), "{said} {error}");

    // The script of a start.
    std::os::unix::fs::symlink(&there, place.root().join("linked.sh")).expect("links");
    assert_eq!(place.post("/api/pipeline/stop", json!({"grace_s": 0})).status, 200);
    let (code, _, error) = place.client(&["start", "linked.sh"]);
    assert!(code != 0 && error.contains("linked.sh"), "{error}");

    // The directories of a lost run of an earlier boot, and of the database's latest server.
    let (_, run_id) = place.start();
    place.kill_server();
    let shim = place.shim_pid(run_id);
    signal(shim, "KILL");
    until_true("the shim has ended", || !is_alive(shim));
    change_header(&place.run_dir(run_id).join("journal.jsonl"), |header| {
        header.as_object_mut().expect("an object").remove("mark");
        header["boot_id"] = json!("00000000-1111-2222-3333-444444444444");
        header["runtime_dir"] = json!(there);
    });
    fs::write(place.runtime().join("autoappdev.db-server.lock"), &there).expect("ours");
    place.start_server();
    assert_eq!(place.run(run_id)["status"], "lost");
    assert_eq!(place.stop_server(), 0);

    // The runtime directory of a clone.
    let clone = place.root().join("clone");
    fs::create_dir(&clone).expect("creates");
    std::os::unix::fs::symlink(&there, clone.join("runtime")).expect("links");
    for args in [&["serve"][..], &["status"], &["check"]] {
        let output =
            place.command().args(args).current_dir(&clone).env_remove("AUTOAPPDEV_RUNTIME_DIR").output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("autoappdev: "), "{args:?}: {said}");
    }

    // The same, where the path's end is a file system that root may not look at. `mount` leaves descriptor 9 to the command.
    let closed = format!(
        "exec 9<>{} && mount -i -t fuse -o fd=9,rootmode=40000,user_id={ANOTHER},group_id={ANOTHER} fuse {} && exec \"$@\"",
        text(&place.folder().join("fuse")),
        text(&place.folder().join("closed"))
    );
    fs::create_dir(place.folder().join("closed")).expect("creates");
    fs::remove_file(clone.join("runtime")).expect("there");
    let there = format!("/proc/{}/root{}/closed", holder.pid, text(place.folder()));
    std::os::unix::fs::symlink(&there, clone.join("runtime")).expect("links");
    for args in [&["status"][..], &["logs"], &["start", "x.sh"], &["stop"], &["check"]] {
        let mut command = place.command_of(Path::new("unshare"));
        command.args(["-m", "sh", "-c", &closed, "sh", env!("CARGO_BIN_EXE_autoappdev")]).args(args).current_dir(&clone);
        let mut child =
            command.env_remove("AUTOAPPDEV_RUNTIME_DIR").stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
        let deadline = Instant::now() + Duration::from_secs(30);
        while child.try_wait().expect("ours").is_none() {
            if Instant::now() > deadline {
                drop(holder);
                panic!("{args:?}: it waits for the file system");
            }
            thread::sleep(Duration::from_millis(20));
        }
        let output = child.wait_with_output().expect("ours");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("Permission denied"), "{args:?}: {said}");
    }
    assert!(looks.try_wait().expect("ours").is_none(), "the file system answers");
    drop(holder);
    looks.wait().expect("ours");
}
