//! Every point between two durable steps: the program is killed there and started again, and the API, the kernel, the database
//! and the journal are compared.
//!
//! `KILL_POINT=shim.born cargo test --features faults --test kill_points` runs one point alone.

#[path = "../support/mod.rs"]
mod support;

mod dead_processes;
mod keys;
mod plan;
mod sessions;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use autoappdev::kill_point::KillPoint;
use autoappdev::pipeline::Origin;
use autoappdev::process;
use autoappdev::run_dir::Command;
use serde_json::{Value, json};

use dead_processes::{is_dying, reap_orphans};
use plan::{Outcome, Plan, Scene, plan};
use support::{Place, is_alive, letter, signal, until, until_true};

/// A leader that exits with code 7 once a file `go` exists, a child in its own session, a double-forked process with a child, and
/// one that ignores TERM.
const FAMILY: &str = "#!/bin/bash\n\
    setsid sleep 600 &\n\
    (setsid bash -c 'sleep 600 & echo apart; wait' &)\n\
    bash -c 'trap \"\" TERM; echo stubborn; while :; do sleep 0.1; done' &\n\
    echo '::step family'\n\
    echo ready\n\
    while [ ! -e go ]; do sleep 0.02; done\n\
    exit 7\n";

/// A script that prints more than two log segments hold, and continues to run.
const TALK: &str = "#!/bin/bash\nhead -c 3000000 /dev/urandom | base64 -w 999\nexec sleep 600\n";

/// The same, once a file called `talk` exists.
const TALK_LATER: &str = "#!/bin/bash\necho ready\nwhile [ ! -e talk ]; do sleep 0.01; done\nexec ./talk.sh\n";

/// How many cases of one test run at the same time.
const PLAYERS: usize = 2;

#[test]
fn state_is_consistent_after_kill_at_each_point() {
    play_all(|case| case.play(false));
}

#[test]
fn state_is_consistent_after_kill_of_both_processes_at_each_point() {
    play_all(|case| case.play(true));
}

/// Runs every point.
fn play_all(play: fn(Case)) {
    play_points(KillPoint::ALL, |point| point.name(), |&point| play(Case::of(point)));
}

/// Runs the cases on threads that are named after their points.
fn play_points<T: Sync>(cases: &[T], name: fn(&T) -> &'static str, play: impl Fn(&T) + Sync) {
    // Orphans become children of this process, which reaps them.
    process::become_subreaper().expect("a right of every process");
    let chosen = std::env::var("KILL_POINT").ok();
    let cases: Vec<&T> = cases.iter().filter(|case| chosen.as_deref().is_none_or(|chosen| chosen == name(case))).collect();
    let (next, play) = (AtomicUsize::new(0), &play);
    let failed: Vec<&str> = thread::scope(|scope| {
        let player = || {
            let mut failed = Vec::new();
            while let Some(&case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                let played = thread::Builder::new().name(name(case).to_owned()).spawn_scoped(scope, move || play(case));
                if played.expect("spawns").join().is_err() {
                    failed.push(name(case));
                }
                reap_orphans();
            }
            failed
        };
        let players: Vec<_> = (0..PLAYERS).map(|_| scope.spawn(player)).collect();
        players.into_iter().flat_map(|player| player.join().expect("it only counts")).collect()
    });
    assert!(failed.is_empty(), "{} of {} points failed: {failed:?}", failed.len(), cases.len());
}

/// One run of one point.
struct Case {
    point: KillPoint,
    plan: Plan,
    place: Place,
    mark: PathBuf,
    /// The current run, if any.
    run_id: Option<i64>,
    /// The connection with the request that leads to the point.
    asked: Option<TcpStream>,
    /// The logins, if the point is about them.
    log_ins: Option<sessions::LogIns>,
    /// A server that is armed and may never print its address.
    booting: Option<Child>,
}

impl Case {
    fn of(point: KillPoint) -> Self {
        let mut place = Place::new();
        place.script("family.sh", FAMILY);
        place.script("talk.sh", TALK);
        place.script("talk-later.sh", TALK_LATER);
        place.script("unrunnable.sh", "echo a text with an execute bit and nothing that runs it\n");
        place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "family.sh");
        place.set_env("AUTOAPPDEV_KEEP_ENV", "values");
        let mark = place.folder().join("mark");
        Self { point, plan: plan(point), place, mark, run_id: None, asked: None, log_ins: None, booting: None }
    }

    /// Runs the case. With `both`, the other process is killed right after the one that contains the point.
    fn play(mut self, both: bool) {
        self.lead_there();
        let seen = self.place.processes();
        let dead = self.until_dead();
        let is_server = self.point.name().starts_with("server.");
        assert_eq!(is_server, !self.place.is_serving(), "{dead} is the process that the point's name says");
        self.compare_at_once(is_server);
        if both {
            if is_server {
                self.kill_shims();
            } else {
                self.place.kill_server();
            }
        }
        let outcome = match if both { self.plan.both } else { self.plan.alone } {
            Outcome::ByJournal if self.place.journal(1).is_empty() => Outcome::NeverBegan,
            Outcome::ByJournal => Outcome::Lost,
            known => known,
        };
        if !self.place.is_serving() {
            self.place.start_server();
        }
        self.compare(outcome, both, &seen);
    }

    // ---- on the way

    fn lead_there(&mut self) {
        match self.plan.scene {
            Scene::FirstBoot => self.boot_armed(),
            Scene::FirstBootBehindATokenDoor => {
                self.place.use_token("a-token-of-this-test");
                self.boot_armed();
            }
            Scene::MovedDatabase => self.move_the_database(),
            Scene::BootOnRun => {
                self.place.start_server();
                let run_id = self.start_family();
                self.place.kill_server();
                self.place.tell_shim(run_id, &Command::Pause { tag: 1, origin: Origin::Unknown });
                self.place.until_fact(run_id, "paused");
                self.boot_armed();
            }
            Scene::BootOnNothing => {
                self.run_id = Some(self.place.past_starting());
                self.boot_armed();
            }
            Scene::BootOnMuch => {
                self.place.set_env("AUTOAPPDEV_LOG_SEGMENT_MB", "1");
                self.place.start_server();
                for _ in 0..2 {
                    let (_, run_id) = self.place.start_with(json!({"script": "exit.sh"}));
                    self.place.until_settled(run_id);
                }
                let (_, run_id) = self.place.start_with(json!({"script": "talk-later.sh"}));
                self.run_id = Some(run_id);
                self.place.until_line("ready");
                self.place.kill_server();
                fs::write(self.place.root().join("talk"), "").expect("writes");
                let log = self.place.run_dir(run_id).join("log");
                until_true("there are segments to be packed", || fs::read_dir(&log).expect("there").count() > 2);
                self.place.set_env("AUTOAPPDEV_RUNS_KEEP", "1");
                self.boot_armed();
            }
            Scene::BootWithoutDatabase => {
                self.place.start_server();
                self.start_family();
                self.place.kill_server();
                self.place.move_database(&self.place.folder().join("old"));
                self.boot_armed();
            }
            Scene::DirectoryReplaced => {
                self.serve_armed();
                self.start_family();
                self.place.kill_server();
                self.place.replace_runtime_by_copy();
                self.place.start_server();
            }
            Scene::Terminate => {
                self.serve_armed();
                self.start_family();
                signal(self.place.server_pid(), "TERM");
            }
            Scene::ShimKilled => {
                self.serve_armed();
                let run_id = self.start_family();
                self.place.act("pause").ok();
                signal(self.place.shim_pid(run_id), "KILL");
            }
            Scene::Start | Scene::StartUnrunnable => {
                self.serve_armed();
                let script = if self.plan.scene == Scene::Start { "family.sh" } else { "unrunnable.sh" };
                self.ask("start", &json!({"script": script}));
                self.run_id = Some(1);
            }
            Scene::Talk => {
                self.place.set_env("AUTOAPPDEV_LOG_SEGMENT_MB", "1");
                self.place.set_env("AUTOAPPDEV_LOG_RUN_MB", "2");
                self.serve_armed();
                let (_, run_id) = self.place.start_with(json!({"script": "talk.sh"}));
                self.run_id = Some(run_id);
            }
            Scene::Pause => {
                self.serve_armed();
                self.start_family();
                self.ask("pause", &json!({}));
            }
            Scene::Resume => {
                self.serve_armed();
                self.start_family();
                self.place.act("pause").ok();
                self.ask("resume", &json!({}));
            }
            Scene::Stop => {
                self.serve_armed();
                self.start_family();
                self.ask("stop", &json!({"grace_s": 3000}));
            }
            Scene::StopPaused => {
                self.serve_armed();
                self.start_family();
                self.place.act("pause").ok();
                self.ask("stop", &json!({"grace_s": 3000}));
            }
            Scene::StopNow => {
                self.serve_armed();
                self.start_family();
                self.ask("stop", &json!({"grace_s": 0}));
            }
            Scene::End => {
                self.serve_armed();
                self.start_family();
                fs::write(self.place.root().join("go"), "").expect("writes");
            }
            Scene::EndPaused => {
                self.serve_armed();
                let run_id = self.start_family();
                self.place.act("pause").ok();
                let leader = self.place.facts(run_id, "spawned")[0]["pid"].as_u64().expect("a pid");
                signal(u32::try_from(leader).expect("a pid"), "KILL");
            }
            Scene::LogIn | Scene::LogOut | Scene::EndAll | Scene::Renewal => self.lead_to_sessions(),
        }
    }

    /// Returns the binary as `place` configures it. It and its shims die at the point.
    fn armed(&self, place: &Place) -> std::process::Command {
        let mut command = place.command();
        command.env("AUTOAPPDEV_KILL_AT", self.point.name()).env("AUTOAPPDEV_KILL_MARK", &self.mark);
        command
    }

    /// Starts a server that dies at the point later.
    fn serve_armed(&mut self) {
        let command = self.armed(&self.place);
        self.place.start_server_with(command);
    }

    /// Starts a server that dies at the point during its boot.
    fn boot_armed(&mut self) {
        let mut command = self.armed(&self.place);
        command.arg("serve").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.booting = Some(command.spawn().expect("spawns"));
    }

    fn start_family(&mut self) -> i64 {
        let (_, run_id) = self.place.start();
        for line in ["ready", "stubborn", "apart"] {
            self.place.until_line(line);
        }
        // The leader, the stubborn process, the double-forked one, and a `sleep` each for that one and for the other session.
        until_true("the whole family is there", || self.place.processes().len() >= 5);
        self.run_id = Some(run_id);
        run_id
    }

    fn ask(&mut self, action: &str, body: &Value) {
        self.asked = Some(keys::shoot(&self.place, action, body));
    }

    /// Waits until the point was reached and its process is dead. Returns its pid.
    fn until_dead(&mut self) -> u32 {
        let pid: u32 = until(&format!("{} was reached", self.point.name()), || {
            fs::read_to_string(&self.mark).ok()?.strip_suffix('\n')?.parse().ok()
        });
        until_true("it is dead", || !is_alive(pid));
        if let Some(mut booting) = self.booting.take() {
            assert_eq!(booting.id(), pid);
            assert_eq!(booting.wait().expect("ours").signal(), Some(9));
        } else if self.place.is_serving() && self.place.server_pid() == pid {
            self.place.kill_server();
        }
        pid
    }

    fn kill_shims(&self) {
        until_true("the shim is dead", || {
            let shims = self.place.shims();
            for &shim in &shims {
                signal(shim, "KILL");
            }
            shims.is_empty()
        });
    }

    /// Moves the database from one runtime directory to another, which is allowed only once no run in the first is live.
    fn move_the_database(&mut self) {
        fs::create_dir(self.place.runtime()).expect("creates");
        let mut first = Place::new();
        first.set_env("DATABASE_URL", &format!("sqlite:{}", self.place.database().display()));
        first.start_server();
        first.start_with(json!({"script": "sleep.sh"}));
        first.kill_server();
        // While the run is live, the database belongs to a runtime directory at every moment.
        first.start_server_with(self.armed(&first));
        first.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
        first.kill_server();
        self.boot_armed();
    }

    // ---- afterwards

    /// Checks what holds at every moment, and so also now, before any process has reacted to the kill. The parts that may
    /// have changed since the kill are read first, so that a live server or shim cannot make them look wrong.
    fn compare_at_once(&mut self, is_server: bool) {
        if is_server && let Some(stream) = self.asked.take() {
            assert!(support::wire::Wire::of(stream).ends_silently(), "nobody is answered before all is done");
        }
        let Some(run_id) = self.run_id else { return };
        let alive = self.place.processes();
        let is_awake = |&pid: &u32| letter(pid).is_some_and(|letter| !matches!(letter, 'T' | 't' | 'Z' | 'X')) && !is_dying(pid);
        let mut awake: Vec<_> = alive.iter().copied().collect();
        // A process that is being killed may be seen once more.
        for _ in 0..3 {
            awake.retain(is_awake);
        }
        let recorded = self.recorded(run_id);
        let journal = self.place.journal(run_id);
        assert!(alive.is_empty() || !journal.is_empty(), "{alive:?} live without a journal");
        let is_written = |(seq, kind): &(i64, String)| journal.iter().any(|line| line["seq"] == *seq && line["fact"] == *kind);
        let invented: Vec<_> = recorded.iter().filter(|event| !is_written(event)).collect();
        assert!(invented.is_empty(), "{invented:?} are recorded and not in the journal: {journal:?}");
        if !is_server {
            assert!(awake.is_empty() || !self.place.pause_file().exists(), "{awake:?} are awake beside a PAUSE file");
            let has_ended = journal.iter().any(|line| line["fact"] == "exited");
            assert!(alive.is_empty() || !has_ended, "{alive:?} live, and the journal says that all has ended");
            let is_paused = journal.last().is_some_and(|line| line["fact"] == "paused");
            assert!(awake.is_empty() || !is_paused || self.plan.scene != Scene::Pause, "{awake:?} are awake although paused");
        }
    }

    /// Returns the facts of a run that are in the database: number and kind.
    fn recorded(&self, run_id: i64) -> Vec<(i64, String)> {
        if self.plan.scene == Scene::BootWithoutDatabase {
            return Vec::new();
        }
        let sql = self.place.sql();
        let facts = "SELECT seq, kind FROM pipeline_events WHERE run_id = ?1 AND seq > 0 AND cause IS NOT 'recovery'";
        let mut facts = sql.prepare(facts).expect("the table is there");
        let rows = facts.query_map([run_id], |row| Ok((row.get(0)?, row.get(1)?))).expect("reads");
        rows.map(|row| row.expect("a row")).collect()
    }

    fn compare(&mut self, outcome: Outcome, both: bool, seen: &BTreeSet<u32>) {
        let place = &self.place;
        if let (Some(stream), Some(status), false) = (self.asked.take(), self.plan.answer, both) {
            let answer = support::wire::Wire::of(stream).answer();
            assert_eq!(answer.status, status, "{}", answer.body);
            if status != 200 {
                assert!(!answer.error().is_empty(), "{}", answer.body);
                assert!(answer.body["detail"].as_str().is_some_and(|words| words.contains(' ')), "{}", answer.body);
            }
        }
        let Some(run_id) = self.run_id else {
            assert_eq!(outcome, Outcome::Nothing);
            assert_eq!(place.until_all_agree(), "stopped");
            self.compare_sessions();
            let latest = place.pipeline()["run_id"].as_i64().unwrap_or(0);
            return self.begin_anew(latest + 1);
        };
        let status = match outcome {
            Outcome::Nothing | Outcome::ByJournal => panic!("a run is there, and what is to come of it is known"),
            Outcome::NeverBegan | Outcome::SpawnFailed | Outcome::Ended { .. } => "failed",
            Outcome::Running => "running",
            Outcome::Paused => "paused",
            Outcome::Stopping => "stopped",
            Outcome::Lost => "lost",
        };
        if outcome == Outcome::Stopping {
            until_true("the stop goes on", || place.pipeline()["pending"] == "stop");
            place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
        }
        until_true(&format!("the run is {status}"), || place.pipeline()["status"] == status);
        let state = place.until_all_agree();
        assert_eq!(place.degraded(), None);
        assert_eq!(place.pause_file().exists(), state == "paused", "the PAUSE file says the same");
        self.compare_run(outcome, run_id);
        match outcome {
            Outcome::Running => self.assert_in_hand(run_id, &["pause", "resume", "stop"]),
            Outcome::Paused => self.assert_in_hand(run_id, &["resume", "stop"]),
            _ => {}
        }
        let alive: Vec<_> = seen.iter().filter(|&&pid| is_alive(pid)).collect();
        assert!(alive.is_empty(), "{alive:?} are alive, and the run has ended");
        self.begin_anew(run_id + 1);
        until_true("the last shim has left", || self.place.shims().is_empty());
        assert_eq!(self.place.cgroups(), Vec::<std::path::PathBuf>::new(), "control groups are left");
    }

    /// Compares the run, as the API reports it with its history, with the outcome.
    fn compare_run(&self, outcome: Outcome, run_id: i64) {
        let run = self.place.run(run_id);
        let kinds: Vec<String> =
            self.place.events(run_id).iter().map(|event| event["kind"].as_str().expect("a word").to_owned()).collect();
        let ends = kinds.iter().filter(|kind| ["exited", "lost", "spawn_failed"].contains(&kind.as_str())).count();
        let is_live = matches!(outcome, Outcome::Running | Outcome::Paused);
        assert_eq!(ends, usize::from(!is_live), "one end or none: {kinds:?}");
        assert_eq!(run["stopped_at"].is_null(), is_live, "{run}");
        assert_eq!(run["started_at"].is_null(), !kinds.iter().any(|kind| kind == "spawned"), "{run}");
        // Every complete line of the journal is in the history, whether or not a server had received it.
        let written: Vec<Value> = self.place.journal(run_id).into_iter().skip(1).map(|line| line["fact"].clone()).collect();
        let recorded: Vec<&str> =
            kinds.iter().map(String::as_str).filter(|kind| written.iter().any(|fact| fact == kind)).collect();
        assert_eq!(recorded, written.iter().map(|fact| fact.as_str().expect("a word")).collect::<Vec<_>>(), "{kinds:?}");
        let step = &run["progress"]["steps"][0];
        assert!(step.is_null() || step["ended_at"] == run["stopped_at"], "what it was at ended with it: {run}");
        assert!(!step.is_null() || !matches!(self.plan.scene, Scene::End | Scene::EndPaused | Scene::StopNow), "{run}");
        let why = run["error"].as_str().unwrap_or_default();
        let how = (run["exit_code"].as_i64(), run["signal"].as_i64());
        let is_usage_known = run["cpu_user_ms"].is_u64();
        match outcome {
            Outcome::NeverBegan => assert!(why.contains("was starting") || why.contains("could not be started"), "{run}"),
            Outcome::SpawnFailed => assert!(why.contains("unrunnable.sh could not be run"), "{run}"),
            Outcome::Lost => {
                assert!(why.contains("shim") && why.contains("killed"), "{why}");
                let sure = if run["containment"] == "cgroup" {
                    "none of its processes is alive"
                } else {
                    "no process that carries its id is alive"
                };
                assert!(why.contains(sure), "{why}");
                assert_eq!((how, is_usage_known), ((None, None), false), "nobody can know: {run}");
            }
            Outcome::Ended { is_usage_known: expected } => {
                assert_eq!((how, is_usage_known), ((Some(7), None), expected), "{run}");
            }
            Outcome::Stopping => assert_eq!((how, is_usage_known), ((None, Some(15)), true), "{run}"),
            Outcome::Running | Outcome::Paused => assert_eq!(how, (None, None)),
            Outcome::Nothing | Outcome::ByJournal => unreachable!("compared before"),
        }
    }

    /// Checks that a live run obeys the actions, and ends.
    fn assert_in_hand(&self, run_id: i64, actions: &[&str]) {
        for action in actions {
            self.place
                .post(&format!("/api/pipeline/{action}"), if *action == "stop" { json!({"grace_s": 0}) } else { json!({}) })
                .ok();
            self.place.until_all_agree();
        }
        assert_eq!(self.place.run(run_id)["status"], "stopped");
        assert_eq!(self.place.facts(run_id, "spawned").len(), 1, "it was one life");
    }

    /// Checks that the next run has the next id, begins and ends as it should, and that the database is intact.
    fn begin_anew(&self, next: i64) {
        let (_, run_id) = self.place.start_with(json!({"script": "exit.sh"}));
        assert_eq!(run_id, next);
        self.place.until_settled(run_id);
        assert_eq!(self.place.until_all_agree(), "stopped");
        assert_eq!(self.place.run(run_id)["status"], "completed");
        assert_eq!(self.place.said(run_id, "stdout"), ["ready"], "the log goes on");
        assert!(!self.place.pause_file().exists());
        let (code, said, _) = self.place.client(&["check"]);
        assert_eq!(code, 0, "{said}");
    }
}
