//! Creates a past for a server to find at boot: run directories, journals and database rows as a kill leaves them.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command};

use autoappdev::clock::Timestamp;
use autoappdev::pipeline::{Fact, observe};
use autoappdev::process::boot_id;
use autoappdev::run_dir::{FORMAT, Header, Journal, RunDir, Runs, create_private_dir};
use autoappdev::store::{NewRun, Store};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{Place, until_true};

/// When the fabricated runs began: long ago, so that none of their times can be mistaken for now.
pub const BEGAN: i64 = 1_700_000_000_000;

impl Place {
    /// Opens the database, and creates it if it does not exist, for a test that writes what an earlier server wrote.
    pub fn store(&self) -> Store {
        create_private_dir(&self.runtime()).expect("creates");
        Store::open(&self.database()).expect("opens").store
    }

    /// Commits a run as `starting`.
    pub fn past_starting(&self) -> i64 {
        let new = NewRun {
            script: "sleep.sh".to_owned(),
            cwd: self.root().display().to_string(),
            args: Vec::new(),
            log_start: 0,
            ..NewRun::default()
        };
        self.store().begin_run(&new, None, Timestamp::from_unix_ms(BEGAN)).expect("begins")
    }

    /// Creates a run's directory. The lock is held for as long as the file is kept.
    pub fn past_dir(&self, run_id: i64) -> (RunDir, File) {
        let runtime = self.runtime();
        create_private_dir(&runtime).expect("creates");
        let runs = Runs::new(runtime.canonicalize().expect("there"));
        let made = runs.create(run_id).expect("creates");
        runs.note_latest(run_id);
        made
    }

    /// Holds a run's lock, as its shim does, for as long as the file is kept.
    pub fn hold_lock(&self, run_id: i64) -> File {
        let lock = File::open(self.run_dir(run_id).join("lock")).expect("there");
        // The previous owner has released the lock, but a child that another test forked meanwhile also holds it, until its exec.
        until_true("the lock is free", || rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok());
        lock
    }

    /// Creates a run's directory, whose lock is not held, with a journal of these facts, one second apart.
    pub fn past_journal(&self, run_id: i64, boot_id: &str, facts: &[Fact]) {
        let (dir, _lock) = self.past_dir(run_id);
        let created_at = Timestamp::from_unix_ms(BEGAN);
        let header = Header {
            format: FORMAT,
            run_id,
            boot_id: boot_id.to_owned(),
            // Process 1 never began at that moment, so the shim counts as dead.
            shim_pid: 1,
            shim_start_ticks: u64::MAX,
            socket: None,
            // As in journals of earlier versions.
            mark: None,
            runtime_dir: self.runtime(),
            cgroup: None,
            created_at,
            script: "sleep.sh".to_owned(),
            args: Vec::new(),
            cwd: self.root().display().to_string(),
            env_names: Vec::new(),
            grace_ms: 10_000,
            log_start: 0,
        };
        let mut journal = Journal::create(&dir.journal_path(), &header).expect("creates");
        for (n, fact) in (1..).zip(facts) {
            let at = Timestamp::from_unix_ms(BEGAN + 1000 * n);
            let entry = journal.number(at, created_at, 1000, fact.clone());
            journal.append(&entry, false).expect("writes");
        }
    }

    /// Records the first `count` facts of the run's journal, as a server does that is then killed.
    pub fn past_recorded(&self, run_id: i64, count: usize) {
        let mut store = self.store();
        let journal = autoappdev::run_dir::read_journal(&RunDir::at(self.run_dir(run_id)).journal_path()).expect("reads");
        for entry in &journal.entries[..count] {
            let transition = observe(store.row().expect("reads").state, &entry.fact);
            store.record_all(run_id, &[(entry.clone(), transition)]).expect("records");
        }
    }

    /// Creates a run of this boot whose facts were all recorded before the server and the shim ended.
    pub fn past_run(&self, facts: &[Fact]) -> i64 {
        let run_id = self.past_starting();
        self.past_journal(run_id, &boot_id().expect("/proc is mounted"), facts);
        self.past_recorded(run_id, facts.len());
        run_id
    }

    /// Starts a server on the fabricated past, and waits until the run, which must be the latest, has ended with this status.
    /// Returns the run.
    pub fn boot_on_it(&mut self, run_id: i64, status: &str) -> Value {
        self.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
        self.start_server();
        until_true(&format!("run {run_id} is {status}"), || self.pipeline()["status"] == status);
        let run = self.run(run_id);
        let pipeline = self.pipeline();
        assert_eq!((&pipeline["state"], &pipeline["pid"], &pipeline["pending"]), (&json!("stopped"), &Value::Null, &Value::Null));
        assert_eq!((&pipeline["run_id"], &pipeline["stopped_at"]), (&json!(run_id), &run["stopped_at"]));
        assert_eq!(self.degraded(), None);
        run
    }

    /// Checks that another run can be started after this one, with the next id.
    pub fn assert_startable(&self, run_id: i64) {
        let (_, next) = self.start();
        assert_eq!(next, run_id + 1);
        assert_eq!(self.until_all_agree(), "running");
    }

    /// Changes the database from outside.
    pub fn edit_database(&self, sql: &str) {
        Connection::open(self.database()).and_then(|conn| conn.execute_batch(sql)).expect("changes");
    }

    /// Moves the database and the files that belong to it to `into`.
    pub fn move_database(&self, into: &Path) {
        fs::create_dir_all(into).expect("creates");
        for file in fs::read_dir(self.runtime()).expect("there").map(|entry| entry.expect("there").path()) {
            let name = file.file_name().expect("a name").to_owned();
            if name.to_string_lossy().starts_with("autoappdev.db") {
                fs::rename(&file, into.join(name)).expect("moves");
            }
        }
    }
}

/// Returns the entries that every process of this run has in its environment, without the mark, because the fabricated journals
/// contain none.
pub fn cookie_of(runtime: &Path, run_id: i64) -> [(&'static str, String); 2] {
    let runtime = runtime.canonicalize().unwrap_or_else(|_| runtime.to_owned());
    [("AUTOAPPDEV_RUN_ID", run_id.to_string()), ("AUTOAPPDEV_RUNTIME_DIR", runtime.display().to_string())]
}

/// Starts a process with these entries in its environment. It is killed on drop.
pub fn carrier(entries: &[(&str, String)]) -> Carrier {
    let mut command = Command::new("sleep");
    command.arg("600").env_remove("AUTOAPPDEV_RUN_ID").env_remove("AUTOAPPDEV_RUNTIME_DIR");
    Carrier(command.envs(entries.iter().map(|(name, value)| (name, value))).spawn().expect("spawns"))
}

/// A process started by [`carrier`].
pub struct Carrier(Child);

impl Carrier {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Returns whether the process is alive. It is our child, so it stays in `/proc` after its end.
    pub fn is_alive(&self) -> bool {
        super::is_alive(self.0.id())
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}
