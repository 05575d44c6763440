//! The runs of a killed test are ended, although shims outlive their server. Otherwise they would slow the machine down for all
//! later tests.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::support::{Place, describe, full_name, is_alive, pids, signal, until, until_true};

/// If this is set, the test below becomes the test that is killed. Its value is the file in which that test reports that its runs
/// exist.
const READY_VAR: &str = "AUTOAPPDEV_TEST_READY";

/// A test process whose temp folder is `temp`, and everything that it started.
struct Doomed {
    test: Child,
    temp: PathBuf,
}

impl Doomed {
    /// Returns the live processes that have the folder, or a path below it, in their environment: the test, its server, its shim,
    /// and its run.
    fn processes(&self) -> Vec<u32> {
        let is_here = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let mark = self.temp.to_str().expect("text").as_bytes();
            let is_below = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&self.temp));
            is_alive(*pid) && (is_below || environment.windows(mark.len()).any(|part| part == mark))
        };
        pids().into_iter().filter(is_here).collect()
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        until_true("its processes have ended", || {
            let left = self.processes();
            for &pid in &left {
                signal(pid, "KILL");
            }
            left.is_empty()
        });
        let _ended = self.test.wait();
    }
}

/// The part of the test that is killed: starts a run that forks all the time, and another that has cleared its environment.
fn start_a_storm(ready: &Path) -> ! {
    let (storms, clears) = (Place::serving("storm.sh"), Place::serving("clear.sh"));
    storms.actor();
    storms.script("storm.sh", "#!/bin/bash\nexec ./actor fork-storm 4\n");
    clears.script("clear.sh", "#!/bin/bash\necho ready\nsetsid env -i sleep 600 &\nexec env -i sleep 600\n");
    for place in [&storms, &clears] {
        place.start();
        place.until_line("ready");
    }
    fs::write(ready.with_extension("new"), "").and_then(|()| fs::rename(ready.with_extension("new"), ready)).expect("writes");
    loop {
        thread::park();
    }
}

#[test]
fn killed_test_ends_only_its_own_runs() {
    if let Some(ready) = std::env::var_os(READY_VAR) {
        start_a_storm(Path::new(&ready));
    }
    let bystander = Place::serving("sleep.sh");
    bystander.start();
    bystander.until_line("ready");
    let others = bystander.processes();
    let (temp, ready) = (bystander.folder().join("temp"), bystander.folder().join("ready"));
    fs::create_dir(&temp).expect("creates");
    let mut doomed = Doomed {
        test: Command::new(std::env::current_exe().expect("it runs"))
            .args(["--exact", &full_name("killed_test_ends_only_its_own_runs"), "--nocapture"])
            .env(READY_VAR, &ready)
            .env("TMPDIR", &temp)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("it runs"),
        temp,
    };
    until("its runs are there", || {
        assert_eq!(doomed.test.try_wait().expect("ours"), None, "it waits to be killed");
        ready.exists().then_some(())
    });
    let names = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
    for (words, at_least) in [(" serve ", 2), (" shim ", 2), ("./actor fork-storm ", 5), ("sleep 600 ", 2)] {
        let count = || doomed.processes().iter().map(names).filter(|started| started.contains(words)).count();
        until_true(&format!("there are {at_least} of {words:?}"), || count() >= at_least);
    }

    // Kills the process group, as a test runner does.
    let group = Pid::from_raw(i32::try_from(doomed.test.id()).expect("a process id"));
    killpg(group, Signal::SIGKILL).expect("ours");
    until_true("all that it started has ended", || doomed.processes().is_empty());
    assert_eq!(bystander.processes(), others, "{:#?}", others.iter().map(|&pid| describe(pid)).collect::<Vec<_>>());
    assert_eq!(bystander.pipeline()["state"], "running");
    assert!(bystander.shims().len() == 1 && bystander.is_serving());
}
