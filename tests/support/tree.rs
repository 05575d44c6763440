//! A run with many processes, `tree.sh`, and what the kernel reports about them.

use std::collections::BTreeSet;
use std::fs;

use super::processes::processes_with;
use super::{Place, describe, is_stopped, until_true};

impl Place {
    /// Creates a place with a server that uses control groups if it can (`auto`), or never (`tree`).
    pub fn serving_with(script: &str, containment: &str) -> Self {
        let mut place = Self::new();
        place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", script);
        place.set_env("AUTOAPPDEV_CONTAINMENT", containment);
        place.start_server();
        place
    }

    /// Waits until the live run's `tree.sh` has started all its processes. Their number alone is not enough, because short-lived
    /// processes may be counted in place of missing ones.
    pub fn until_tree(&self) {
        let words = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
        until_true("the whole tree is there", || {
            let tree: Vec<String> = self.processes().iter().map(words).collect();
            let is_there = |wanted: &str| tree.iter().any(|words| words.starts_with(wanted));
            (601..=605).all(|n| is_there(&format!("sleep {n} "))) && is_there("bash -c trap")
        });
    }

    /// Checks that every thread of every process is stopped, while the run is paused. Returns the processes.
    pub fn assert_all_stopped(&self) -> BTreeSet<u32> {
        let processes = self.processes();
        let awake: Vec<String> = processes.iter().filter(|pid| !is_stopped(**pid)).map(|pid| describe(*pid)).collect();
        assert!(awake.is_empty(), "awake although paused: {awake:#?}");
        processes
    }

    /// Returns every live process that has a run of this place in its environment.
    pub fn processes(&self) -> BTreeSet<u32> {
        let mark = format!("AUTOAPPDEV_RUNTIME_DIR={}", self.runtime().canonicalize().unwrap_or_default().display());
        processes_with(&mark)
    }
}
