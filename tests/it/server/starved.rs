//! A shim or a server without a free descriptor to inspect the pipeline. Processes that it cannot see are reported neither as
//! stopped nor as ended.

use std::fs;

use crate::support::{Place, is_alive, signal, until_true};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;

/// Lets `pid` open only this many more descriptors, until this value is dropped.
struct Starved {
    pid: Pid,
    before: Rlimit,
}

impl Starved {
    fn to(pid: u32, left: usize) -> Self {
        Self::below(pid, free_numbers(pid).nth(left).expect("numbers do not end"))
    }

    /// Prevents `pid` from opening descriptors with numbers from `limit` on.
    fn below(pid: u32, limit: u64) -> Self {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
        let before = rustix::process::getrlimit(Resource::Nofile);
        prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(limit), ..before }).expect("ours");
        Self { pid, before }
    }
}

/// Returns the numbers that are not in use as descriptors of `pid`. The kernel assigns the lowest next.
fn free_numbers(pid: u32) -> impl Iterator<Item = u64> {
    let open: Vec<u64> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("ours")
        .map(|entry| entry.expect("there").file_name().to_str().expect("a number").parse().expect("a number"))
        .collect();
    (0..).filter(move |number| !open.contains(number))
}

impl Drop for Starved {
    fn drop(&mut self) {
        // The process may have ended.
        let _gone = prlimit(Some(self.pid), Resource::Nofile, self.before);
    }
}

#[test]
fn shim_without_descriptors_reports_no_false_pause_or_end() {
    for (containment, left) in [("auto", 0), ("tree", 0), ("tree", 1)] {
        let place = Place::serving_with("sleep.sh", containment);
        let (pid, child, run_id) = place.start_counting_child();
        let shim = place.shim_pid(run_id);
        let starved = Starved::to(shim, left);
        let answer = place.act("pause");
        if answer.status == 200 {
            // The shim had one descriptor open when the others were counted.
            place.assert_all_stopped();
        } else {
            assert_eq!((answer.status, answer.error()), (503, "pause_timeout"), "{}", answer.body);
            assert_eq!(place.state(), "running");
            let before = place.count();
            until_true("it runs on", || place.count() > before);
        }

        signal(pid, "KILL");
        // For longer than the leftovers of an ended leader may stay if they were seen.
        for _ in 0..200 {
            let state = place.state();
            assert!(state != "stopped" || !is_alive(child), "stopped, with {child} alive");
        }
        drop(starved);
        place.until_state("stopped");
        place.assert_nothing_left(run_id);
    }
}

#[test]
fn shim_without_descriptors_reports_no_false_resume() {
    for containment in ["auto", "tree"] {
        let place = Place::serving_with("sleep.sh", containment);
        let (_, _, run_id) = place.start_counting_child();
        place.act("pause").ok();
        let starved = Starved::to(place.shim_pid(run_id), 0);
        let answer = place.act("resume");
        assert_eq!((answer.status, place.state().as_str()), (503, "paused"), "{}", answer.body);
        drop(starved);
        until_true("it can be resumed", || place.act("resume").status == 200);
        let before = place.count();
        until_true("all of it goes on", || place.count() > before);
        place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
        place.assert_nothing_left(run_id);
    }
}

#[test]
fn server_without_descriptors_reports_no_false_end() {
    // When the shim is lost, some descriptors become free. At one of these limits exactly one is free: enough to find a process
    // that has threads, and not enough to inspect each of them.
    for below_lowest in 0..4 {
        let place = Place::serving_with("threads.sh", "tree");
        place.actor();
        place.script("threads.sh", "#!/bin/bash\nexec ./actor threads 1\n");
        let (pid, run_id) = place.start();
        until_true("it has threads", || place.said(run_id, "stdout") == ["ready"]);
        let (server, shim) = (place.server_pid(), place.shim_pid(run_id));
        let lowest = free_numbers(server).next().expect("numbers do not end");
        let starved = Starved::below(server, lowest - below_lowest);
        signal(shim, "KILL");
        until_true("the server has looked", || {
            let log = place.server_log();
            log.contains("failed to read") || log.contains("failed to search") || log.contains("how it ended is unknown")
        });
        drop(starved);
        assert!(place.state() != "stopped" || !is_alive(pid), "stopped, with {pid} alive: {}", place.server_log());
        place.until_state("stopped");
        place.assert_nothing_left(run_id);
    }
}

#[test]
fn start_without_descriptors_fails_with_the_cause_and_leaves_no_files() {
    let place = Place::serving("sleep.sh");
    let server = place.server_pid();
    // A connection that was accepted before the descriptors ran out.
    let mut wire = place.wire();
    wire.get("/api/pipeline").ok();
    let start = "POST /api/pipeline/start HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
    // From enough descriptors down to none: a descriptor that the server closes after the count can be used again. After the
    // failed start, enough are free to check that nothing was started.
    let is_told = (0..20).rev().any(|left| {
        let starved = Starved::to(server, left);
        wire.send(start);
        let answer = wire.answer();
        drop(starved);
        if answer.status == 200 {
            place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
            place.assert_nothing_left(answer.body["run_id"].as_i64().expect("a run"));
            return false;
        }
        assert_eq!((answer.status, answer.error()), (503, "out_of_descriptors"), "{left} left: {}", answer.body);
        let detail = answer.body["detail"].as_str().expect("text");
        assert!(detail.contains("ulimit -n"), "{detail}");
        assert!(place.processes().is_empty() && place.state() == "stopped", "{left} left: {}", answer.body);
        true
    });
    assert!(is_told, "no start was told what it lacked");
}
