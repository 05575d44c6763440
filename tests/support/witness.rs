//! The actual state of a place: its journals, its shims, its health, and whether all sources agree.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use autoappdev::process::Cgroup;
use autoappdev::run_dir::{Command, RunDir, to_line};
use serde_json::{Value, json};

use super::{DEADLINE, Place, is_alive, letter, not_run, pids, until};

impl Place {
    /// Returns the complete lines of a run's journal, or an empty list if the journal does not exist.
    pub fn journal(&self, run_id: i64) -> Vec<Value> {
        let text = fs::read_to_string(self.run_dir(run_id).join("journal.jsonl")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Returns the run's facts of one kind, in order.
    pub fn facts(&self, run_id: i64, kind: &str) -> Vec<Value> {
        self.journal(run_id).into_iter().filter(|line| line["fact"] == kind).collect()
    }

    /// Waits until the journal holds such a fact. Returns the last of them.
    pub fn until_fact(&self, run_id: i64, kind: &str) -> Value {
        until(&format!("the journal of run {run_id} says {kind}"), || self.facts(run_id, kind).pop())
    }

    /// Returns every live shim of this place.
    pub fn shims(&self) -> BTreeSet<u32> {
        let runs = self.runtime().canonicalize().unwrap_or_else(|_| self.runtime()).join("runs");
        let is_shim = |pid: u32| {
            let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = cmdline.split(|&byte| byte == 0).skip(1);
            words.next() == Some(b"shim")
                && words.next().is_some_and(|dir| String::from_utf8_lossy(dir).starts_with(&*runs.to_string_lossy()))
        };
        pids().into_iter().filter(|&pid| is_shim(pid) && is_alive(pid)).collect()
    }

    /// Waits until no shim of this place is left.
    pub fn until_no_shim(&self) {
        super::until_true("the shim has left", || self.shims().is_empty());
    }

    /// Returns why health is degraded, if it is.
    pub fn degraded(&self) -> Option<String> {
        self.get("/api/health").ok()["degraded"].as_str().map(str::to_owned)
    }

    /// Returns every event of a run.
    pub fn events(&self, run_id: i64) -> Vec<Value> {
        self.run(run_id)["events"].as_array().expect("a list").clone()
    }

    /// Returns the last event of one kind.
    pub fn event(&self, run_id: i64, kind: &str) -> Value {
        let found = self.events(run_id).into_iter().rfind(|event| event["kind"] == kind);
        found.unwrap_or_else(|| panic!("run {run_id} has no event {kind}: {:?}", self.events(run_id)))
    }

    /// Sends a POST and does not wait for its response, which arrives on the returned stream, if at all.
    pub fn shoot(&self, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port())).expect("connects");
        let bearer = self.bearer.as_ref().map_or_else(String::new, |bearer| format!("Authorization: {bearer}\r\n"));
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n{bearer}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.port(),
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("sends");
        stream
    }

    /// Sends a command to a run's shim, as a server does that is killed right afterwards.
    pub fn tell_shim(&self, run_id: i64, command: &Command) {
        let mut stream = RunDir::at(self.run_dir(run_id)).connect(super::DEADLINE).expect("the shim listens");
        stream.write_all(&to_line(command)).expect("sends");
    }

    /// Waits until no action is pending and the API, the database, the journal and the kernel agree. Returns the state.
    pub fn until_all_agree(&self) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.agreement() {
                Ok(state) => return state,
                Err(why) => assert!(Instant::now() < deadline, "they never agreed: {why}\n{}", self.pipeline()),
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn agreement(&self) -> Result<String, String> {
        fn same<T: PartialEq + std::fmt::Debug>(what: &str, left: &T, right: &T) -> Result<(), String> {
            if left == right { Ok(()) } else { Err(format!("{what}: {left:?} and {right:?}")) }
        }
        let pipeline = self.pipeline();
        let state = pipeline["state"].as_str().expect("a word").to_owned();
        if !pipeline["pending"].is_null() {
            return Err(format!("{} is under way", pipeline["pending"]));
        }
        let sql = self.sql();
        let stored: (String, Option<u32>, Option<i64>) = sql
            .query_row("SELECT state, pid, run_id FROM pipeline_state", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .expect("the row");
        let told = (state.clone(), pipeline["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()), pipeline["run_id"].as_i64());
        same("API and database", &told, &stored)?;
        let live_runs: i64 = sql
            .query_row("SELECT count(*) FROM pipeline_runs WHERE status IN ('starting', 'running', 'paused')", [], |row| {
                row.get(0)
            })
            .expect("a number");
        let lives = state != "stopped";
        same("state and live runs", &i64::from(lives), &live_runs)?;

        let processes = self.processes();
        same("state and shims", &usize::from(lives), &self.shims().len())?;
        let (_, pid, run_id) = told;
        let Some(run_id) = run_id else { return same("before the first run", &processes.len(), &0).map(|()| state) };
        same("processes and those of the run", &processes, &self.processes_of_run(run_id))?;
        match pid {
            Some(pid) => same("the leader lives", &processes.contains(&pid), &true)?,
            None => same("nothing lives", &processes.len(), &0)?,
        }
        let letters: Vec<_> = processes.iter().map(|&pid| letter(pid)).collect();
        match state.as_str() {
            "paused" => same("all are stopped", &letters.iter().all(|&letter| letter == Some('T')), &true)?,
            "running" => same("none is stopped", &letters.contains(&Some('T')), &false)?,
            _ => {}
        }

        // The end of a lost run is in no journal, and a run that never began has no journal.
        let journal = self.journal(run_id);
        let status = pipeline["status"].as_str().expect("a word");
        let written = journal.iter().fold("stopped", |state, line| match line["fact"].as_str() {
            Some("spawned" | "resumed") => "running",
            Some("paused") => "paused",
            Some("exited") => "stopped",
            _ => state,
        });
        if status != "lost" {
            same("state and journal", &state.as_str(), &written)?;
        }
        if let (Some(pid), Some(spawned)) = (pid, self.facts(run_id, "spawned").pop()) {
            same("pid and journal", &Some(u64::from(pid)), &spawned["pid"].as_u64())?;
        }
        if status != "lost" && !journal.is_empty() {
            let facts: Vec<Value> = journal[1..].iter().map(|line| line["fact"].clone()).collect();
            let events: Vec<Value> = self.events(run_id)[1..].iter().map(|event| event["kind"].clone()).collect();
            same("journal and events", &facts, &events)?;
        }
        Ok(state)
    }

    /// Starts a leader with a child that appends one byte after the other to a file. Returns the leader, the child and the run.
    pub fn start_counting_child(&self) -> (u32, u32, i64) {
        self.script(
            "count-apart.sh",
            "#!/bin/bash\n\
             bash -c 'echo $$ >child.new && mv child.new child; while :; do printf . >>count; done' &\n\
             wait\n",
        );
        let (pid, run_id) = self.start_with(json!({"script": "count-apart.sh"}));
        let child = until("the child tells its pid", || fs::read_to_string(self.root().join("child")).ok()?.trim().parse().ok());
        super::until_true("it counts", || self.count() > 1);
        (pid, child, run_id)
    }

    /// Returns how far that child has counted.
    pub fn count(&self) -> u64 {
        fs::metadata(self.root().join("count")).map_or(0, |meta| meta.len())
    }

    /// Returns the control group of a run, whether or not it still exists, or `None` if the run never had a control group.
    pub fn cgroup(&self, run_id: i64) -> Option<PathBuf> {
        self.journal(run_id).first()?["cgroup"].as_str().map(PathBuf::from)
    }

    /// Returns the existing control groups of this place's runs.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let Ok(folder) = fs::metadata(self.runtime()) else { return Vec::new() };
        let mark = format!("autoappdev-{:x}-{:x}-", folder.dev(), folder.ino());
        let groups = own_cgroup().and_then(|own| fs::read_dir(own).ok()).into_iter().flatten().flatten();
        groups.filter(|group| group.file_name().to_string_lossy().starts_with(&mark)).map(|group| group.path()).collect()
    }

    /// Removes the control groups that a test left: their shims were killed, and no server will remove them.
    pub(super) fn remove_cgroups(&self) {
        let deadline = Instant::now() + DEADLINE;
        for group in self.cgroups().into_iter().filter_map(|dir| Cgroup::at(dir).expect("/proc is mounted")) {
            while group.path().exists() && Instant::now() < deadline {
                let _gone = group.kill();
                let _not_empty_yet = group.remove();
            }
        }
    }

    /// Returns every live process that has this run of this place in its environment.
    pub fn processes_of_run(&self, run_id: i64) -> BTreeSet<u32> {
        let mark = format!("AUTOAPPDEV_RUN_ID={run_id}");
        let mut processes = self.processes();
        processes.retain(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|entry| entry == mark.as_bytes())
        });
        processes
    }
}

/// Returns this process's own control group: the one whose list contains this process. The program finds it in another way.
pub fn own_cgroup() -> Option<PathBuf> {
    let me = std::process::id();
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    let name =
        fs::read_to_string("/proc/self/cgroup").ok()?.lines().find_map(|line| line.strip_prefix("0::/").map(str::to_owned))?;
    roots.into_iter().map(|root| root.join(&name)).find(|dir| members(dir).contains(&me))
}

/// Tries whether this user can create a control group that can be frozen and killed.
pub fn can_make_cgroups() -> bool {
    static TRIES: AtomicU32 = AtomicU32::new(0);
    let name = format!("autoappdev-test-{}-{}", std::process::id(), TRIES.fetch_add(1, Ordering::Relaxed));
    let Some(dir) = own_cgroup().map(|own| own.join(name)) else { return false };
    let made = fs::create_dir(&dir).is_ok();
    let can_all = made && dir.join("cgroup.freeze").exists() && dir.join("cgroup.kill").exists();
    if made {
        fs::remove_dir(&dir).expect("our own, and empty");
    }
    can_all
}

/// Returns the processes in a control group.
pub fn members(group: &Path) -> BTreeSet<u32> {
    let list = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Starts the server of `place` in a mount namespace in which the test is the kernel that counts what is killed because memory ran out: the
/// returned file is `memory.events` of the server's control group. `None` where that cannot be done; then this says so.
pub fn serve_with_made_up_kills(place: &mut Place) -> Option<String> {
    let lacks = |what: &str| not_run(what, "AUTOAPPDEV_REQUIRE_ROOT");
    let Some(group) = own_cgroup() else {
        lacks("there are no control groups of version 2");
        return None;
    };
    let group = group.to_str().expect("text");
    let enter = "mount -t tmpfs none \"$1\" && echo 'oom_kill 5' >\"$1/memory.events\" && shift && exec \"$@\"";
    let words = ["-m", "sh", "-c", enter, "sh", group];
    if !std::process::Command::new("unshare").args(words).arg("true").status().is_ok_and(|status| status.success()) {
        lacks("no mount namespace can be made here; it takes root and unshare(1)");
        return None;
    }
    let mut command = place.command_of(Path::new("unshare"));
    command.args(words).arg(env!("CARGO_BIN_EXE_autoappdev"));
    place.start_server_with(command);
    Some(format!("{group}/memory.events"))
}
