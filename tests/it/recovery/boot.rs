//! What a boot does with each past that it can find: each row of the boot table, as a kill leaves it.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use crate::support::past::{BEGAN, carrier, cookie_of};
use crate::support::{Place, until_true};
use autoappdev::clock::Timestamp;
use autoappdev::pipeline::{Cause, Containment, Exit, Fact, Killed, Origin};
use autoappdev::process::boot_id;
use autoappdev::run_dir::{FORMAT, LaunchSpec, to_line};
use serde_json::{Value, json};

/// The id of another boot.
const OTHER_BOOT: &str = "00000000-0000-4000-8000-000000000000";

fn this_boot() -> String {
    boot_id().expect("/proc is mounted")
}

fn spawned(pid: u32) -> Fact {
    Fact::Spawned { pid, start_ticks: 1, containment: Containment::Tree }
}

fn exited(code: i32) -> Fact {
    Fact::Exited { exit: Exit::Code(code), asked: false, paused_ms: 12, log_end: 0, killed: Killed::default(), oom_kills: None }
}

const USAGE: Fact = Fact::Usage { cpu_user_ms: 11, cpu_system_ms: 22, max_rss_kb: 33, memory_peak_bytes: Some(44) };

/// Returns the time of the nth fact of a fabricated journal.
fn at(n: i64) -> Value {
    Timestamp::from_unix_ms(BEGAN + 1000 * n).to_string().into()
}

fn error_of(run: &Value) -> &str {
    run["error"].as_str().expect("a sentence")
}

#[test]
fn killed_after_starting_was_committed_fails_the_run() {
    let mut place = Place::new();
    let run_id = place.past_starting();
    let run = place.boot_on_it(run_id, "failed");
    assert!(error_of(&run).contains("killed while the run was starting"), "{run}");
    assert_eq!((&run["started_at"], &run["pid"]), (&Value::Null, &Value::Null));
    assert_eq!(place.event(run_id, "spawn_failed")["cause"], "recovery");
    place.assert_startable(run_id);
}

#[test]
fn killed_with_an_empty_run_directory_fails_the_run() {
    // Without a header and with a torn one: a kill in the middle of writing the header comes before the spawn.
    for torn in ["", "{\"format\":1,\"run_id\":1,\"boot"] {
        let mut place = Place::new();
        let run_id = place.past_starting();
        let (dir, lock) = place.past_dir(run_id);
        if !torn.is_empty() {
            fs::write(dir.journal_path(), torn).expect("writes");
        }
        drop(lock);
        let run = place.boot_on_it(run_id, "failed");
        assert!(error_of(&run).contains("killed while the run was starting"), "{run}");
        assert_eq!(place.event(run_id, "spawn_failed")["to_state"], "stopped");
        place.assert_startable(run_id);
    }
}

/// Starts a shim as a server does, and sends it only `line`. For the shim, the server is dead once the stream is dropped.
fn shim_of_a_dead_server(place: &Place, run_id: i64, line: &[u8]) -> (std::process::Child, UnixStream) {
    let (dir, lock) = place.past_dir(run_id);
    shim_at(place, dir.path(), lock, line)
}

fn shim_at(place: &Place, dir: &Path, lock: fs::File, line: &[u8]) -> (std::process::Child, UnixStream) {
    let (mut ours, its) = UnixStream::pair().expect("a pair");
    let mut command = place.command();
    command.env_remove("AUTOAPPDEV_PIPELINE_SCRIPT").arg("shim").arg(dir);
    let shim = command.stdin(OwnedFd::from(its)).stdout(lock).stderr(Stdio::null()).spawn().expect("spawns");
    drop(command);
    // The shim may have ended already.
    let _is_read_or_not = ours.write_all(line);
    (shim, ours)
}

#[test]
fn server_killed_before_the_launch_line_starts_nothing() {
    for line in [&b""[..], b"{\"format\":1,\"run_id\":1,\"runtime_dir\":\"/ru"] {
        let mut place = Place::new();
        let run_id = place.past_starting();
        let (mut shim, stream) = shim_of_a_dead_server(&place, run_id, line);
        place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
        place.start_server();
        // The lock is held, so the run may begin at any moment.
        let pipeline = place.pipeline();
        assert_eq!((&pipeline["state"], &pipeline["pending"]), (&json!("stopped"), &json!("start")));
        assert_eq!(place.act("start").status, 409);
        drop(stream);
        until_true("it never began", || place.pipeline()["status"] == "failed");
        let run = place.run(run_id);
        assert!(error_of(&run).contains("killed while the run was starting"), "{run}");
        assert!(place.journal(run_id).is_empty() && place.processes().is_empty());
        shim.wait().expect("ours");
        place.assert_startable(run_id);
    }
}

fn spec_of(place: &Place, run_id: i64) -> LaunchSpec {
    LaunchSpec {
        format: FORMAT,
        run_id,
        runtime_dir: place.runtime().canonicalize().expect("there"),
        created_at: Timestamp::from_unix_ms(BEGAN),
        origin: Origin::Autostart,
        script: "sleep.sh".to_owned(),
        program: place.root().join("sleep.sh"),
        program_args: Vec::new(),
        args: Vec::new(),
        cwd: place.root(),
        env: std::collections::BTreeMap::new(),
        grace_ms: 10_000,
        log_start: 0,
        log_segment_bytes: 1 << 20,
        log_run_bytes: 1 << 24,
        uses_cgroups: true,
        core_bytes_max: None,
        usage_ms: 10_000,
    }
}

/// The server creates and locks the run directory before it starts the shim, which enters the directory by its path.
#[test]
fn shim_starts_nothing_in_replaced_run_directory() {
    let place = Place::new();
    let run_id = place.past_starting();
    let (dir, lock) = place.past_dir(run_id);
    let moved = dir.path().with_file_name("moved");
    fs::rename(dir.path(), &moved).expect("moves");
    for has_lock in [false, true] {
        fs::create_dir_all(dir.path()).expect("creates");
        if has_lock {
            fs::write(dir.lock_path(), "").expect("writes");
        }
        let lock = lock.try_clone().expect("a descriptor");
        let (mut shim, _stream) = shim_at(&place, dir.path(), lock, &to_line(&spec_of(&place, run_id)));
        let status = shim.wait().expect("ours");
        assert!(!status.success() && place.processes().is_empty(), "{status:?}");
        for dir in [dir.path(), &moved] {
            assert!(!dir.join("journal.jsonl").exists() && !dir.join("ctl.sock").exists(), "{} is used", dir.display());
        }
    }
}

#[test]
fn server_killed_while_the_shim_begins_is_adopted() {
    let mut place = Place::new();
    let run_id = place.past_starting();
    let spec = spec_of(&place, run_id);
    let (mut shim, stream) = shim_of_a_dead_server(&place, run_id, &to_line(&spec));
    drop(stream);
    place.start_server();
    let pipeline = place.until_state("running");
    assert_eq!(pipeline["run_id"], run_id);
    assert_eq!(place.until_all_agree(), "running");
    place.until_line("ready");
    assert_eq!(place.act("start").status, 409);
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    shim.wait().expect("ours");
    assert_eq!(place.until_all_agree(), "stopped");
}

#[test]
fn server_killed_before_running_is_committed_adopts_the_run() {
    let mut place = Place::serving("sleep.sh");
    let (pid, run_id) = place.start();
    let started_at = place.pipeline()["started_at"].clone();
    place.kill_server();
    // As if the server had been killed between the journal's fact and its own commit.
    place.edit_database(
        "DELETE FROM pipeline_events WHERE seq > 0;
         UPDATE pipeline_runs SET status = 'starting', pid = NULL, started_at = NULL;
         UPDATE pipeline_state SET state = 'stopped', pid = NULL, started_at = NULL;",
    );
    place.start_server();
    let pipeline = place.pipeline();
    assert_eq!((&pipeline["state"], &pipeline["pid"]), (&json!("running"), &json!(pid)), "known before the first answer");
    assert_eq!((&pipeline["run_id"], &pipeline["started_at"]), (&json!(run_id), &started_at), "from the journal");
    assert_eq!(place.until_all_agree(), "running");
}

#[test]
fn shim_killed_after_the_journal_header_loses_the_run() {
    let mut place = Place::new();
    let run_id = place.past_starting();
    place.past_journal(run_id, &this_boot(), &[]);
    // The leader may have been created before the kill.
    let leader = carrier(&cookie_of(&place.runtime(), run_id));
    let run = place.boot_on_it(run_id, "lost");
    assert!(error_of(&run).contains("killed"), "{run}");
    assert!(!leader.is_alive(), "what carries the cookie is killed");
    place.assert_startable(run_id);
}

#[test]
fn shim_killed_after_spawned_loses_the_run() {
    let mut place = Place::new();
    let run_id = place.past_starting();
    let leader = carrier(&cookie_of(&place.runtime(), run_id));
    place.past_journal(run_id, &this_boot(), &[spawned(leader.pid())]);
    let run = place.boot_on_it(run_id, "lost");
    assert!(!leader.is_alive());
    assert_eq!((&run["started_at"], &run["pid"]), (&at(1), &json!(leader.pid())), "what the journal knows is recorded");
    assert_eq!(place.event(run_id, "spawned")["at"], at(1));
}

#[test]
fn server_killed_before_spawn_failed_is_committed_records_it() {
    let mut place = Place::new();
    let run_id = place.past_starting();
    place.past_journal(run_id, &this_boot(), &[Fact::SpawnFailed { error: "no such interpreter".to_owned(), lack: None }]);
    let run = place.boot_on_it(run_id, "failed");
    assert_eq!((&run["error"], &run["stopped_at"]), (&json!("no such interpreter"), &at(1)));
    place.assert_startable(run_id);
}

#[test]
fn server_killed_before_the_end_is_committed_records_it() {
    // However many of the facts are already in the database.
    for recorded in 0..=2 {
        let mut place = Place::new();
        let run_id = place.past_starting();
        let facts = [spawned(4711), Fact::Paused { cause: Cause::Outside }, exited(3), USAGE];
        place.past_journal(run_id, OTHER_BOOT, &facts);
        place.past_recorded(run_id, recorded);
        let run = place.boot_on_it(run_id, "failed");
        assert_eq!((&run["exit_code"], &run["stopped_at"]), (&json!(3), &at(3)), "{recorded} recorded: {run}");
        assert_eq!((&run["cpu_user_ms"], &run["cpu_system_ms"], &run["max_rss_kb"]), (&json!(11), &json!(22), &json!(33)));
        assert_eq!(run["memory_peak_bytes"], 44);
        assert_eq!(run["paused_ms"], 12);
        place.assert_startable(run_id);
    }
}

#[test]
fn boot_during_exit_of_shim_of_ended_run_reports_stopped() {
    let mut place = Place::serving("sleep.sh");
    place.kill_server();
    let run_id = place.past_starting();
    place.past_journal(run_id, &this_boot(), &[spawned(4_000_000), exited(0)]);
    place.past_recorded(run_id, 1);
    // The shim has recorded the end, and still holds the lock for a moment.
    let lock = place.hold_lock(run_id);
    place.start_server();
    let pipeline = place.until_state("stopped");
    assert_eq!((&pipeline["status"], &pipeline["pending"]), (&json!("completed"), &Value::Null), "{pipeline}");
    assert_eq!(pipeline["allowed"], json!(["start"]));
    drop(lock);
    place.assert_startable(run_id);
}

#[test]
fn server_killed_between_the_end_and_its_usage_records_the_usage() {
    let mut place = Place::new();
    let run_id = place.past_starting();
    place.past_journal(run_id, &this_boot(), &[spawned(4711), exited(0), USAGE]);
    place.past_recorded(run_id, 2);
    let run = place.boot_on_it(run_id, "completed");
    assert_eq!((&run["cpu_user_ms"], &run["cpu_system_ms"], &run["max_rss_kb"]), (&json!(11), &json!(22), &json!(33)), "{run}");
}

#[test]
fn another_boot_loses_the_run_at_its_last_fact() {
    let mut place = Place::new();
    let stranger = carrier(&[]);
    let facts = [spawned(stranger.pid()), Fact::Paused { cause: Cause::Request }];
    let run_id = place.past_starting();
    place.past_journal(run_id, OTHER_BOOT, &facts);
    place.past_recorded(run_id, 1);
    fs::write(place.runtime().join("PAUSE"), "").expect("writes");
    let run = place.boot_on_it(run_id, "lost");
    assert_eq!(run["stopped_at"], at(2), "nothing is known of it since then");
    assert_eq!(place.event(run_id, "lost")["at"], at(2));
    assert!(error_of(&run).contains("machine"), "{run}");
    assert_eq!(place.event(run_id, "paused")["at"], at(2), "what was missed is recorded");
    assert!(!place.runtime().join("PAUSE").exists());
    assert!(stranger.is_alive(), "the pid is somebody else's now");
    place.assert_startable(run_id);
}

#[test]
fn another_boot_with_journal_header_only_loses_the_run_at_its_start() {
    let mut place = Place::new();
    let run_id = place.past_starting();
    place.past_journal(run_id, OTHER_BOOT, &[]);
    let run = place.boot_on_it(run_id, "lost");
    assert_eq!(run["stopped_at"], at(0), "when it was asked for");
}

#[test]
fn torn_last_journal_line_is_ignored() {
    let mut place = Place::new();
    let run_id = place.past_starting();
    place.past_journal(run_id, &this_boot(), &[spawned(4_000_000), exited(0)]);
    let path = place.run_dir(run_id).join("journal.jsonl");
    let text = fs::read_to_string(&path).expect("a journal");
    // The line lacks only its newline, so it was never known to be complete.
    fs::write(&path, text.strip_suffix('\n').expect("whole")).expect("writes");
    let run = place.boot_on_it(run_id, "lost");
    assert_eq!(run["exit_code"], Value::Null);
    let kinds: Vec<Value> = place.events(run_id).iter().map(|event| event["kind"].clone()).collect();
    assert_eq!(kinds, ["starting", "spawned", "lost"]);
    place.assert_startable(run_id);
}

#[test]
fn damaged_journal_line_does_not_hide_the_end() {
    let mut place = Place::new();
    let run_id = place.past_starting();
    place.past_journal(run_id, &this_boot(), &[spawned(4_000_000), Fact::Stopping { grace_ms: 5 }, exited(0)]);
    let path = place.run_dir(run_id).join("journal.jsonl");
    let text = fs::read_to_string(&path).expect("a journal").replacen("\"fact\":\"stopping\"", "\"fact\":\0\0", 1);
    fs::write(&path, text).expect("writes");
    let run = place.boot_on_it(run_id, "completed");
    assert_eq!(run["stopped_at"], at(3));
}

#[test]
fn damaged_journal_header_loses_the_run_and_kills_its_processes() {
    for (header, word) in [("\0\0\0 nonsense", "damaged"), ("{\"format\":99,\"new\":true}", "newer")] {
        let mut place = Place::new();
        let run_id = place.past_run(&[spawned(4_000_000)]);
        let path = place.run_dir(run_id).join("journal.jsonl");
        let text = fs::read_to_string(&path).expect("a journal");
        let (_, facts) = text.split_once('\n').expect("a header");
        fs::write(&path, format!("{header}\n{facts}")).expect("writes");
        let left = carrier(&cookie_of(&place.runtime(), run_id));
        let run = place.boot_on_it(run_id, "lost");
        assert!(error_of(&run).contains(word), "it says so in words: {run}");
        assert!(!left.is_alive());
        place.assert_startable(run_id);
    }
}

#[test]
fn removed_run_directory_loses_the_run_and_kills_its_processes() {
    let mut place = Place::serving("tree.sh");
    let (_, run_id) = place.start();
    place.until_line("stubborn");
    place.kill_server();
    crate::support::signal(place.shim_pid(run_id), "KILL");
    place.until_no_shim();
    fs::remove_dir_all(place.run_dir(run_id)).expect("removes");
    assert!(!place.processes().is_empty());
    let run = place.boot_on_it(run_id, "lost");
    let sure =
        if run["containment"] == "cgroup" { "none of its processes is alive" } else { "no process that carries its id is alive" };
    assert!(error_of(&run).contains(sure) && error_of(&run).contains("directory was removed"), "{run}");
    assert!(place.processes().is_empty());
    place.assert_startable(run_id);
}

#[test]
fn recovery_spares_recycled_pid_and_partial_cookie() {
    let mut place = Place::new();
    let elsewhere = tempfile::tempdir().expect("a temp folder");
    // The store creates the runtime directory, whose path is in the cookie.
    drop(place.store());
    let stranger = carrier(&[]);
    let run_id = place.past_run(&[spawned(stranger.pid())]);
    let [id, dir] = cookie_of(&place.runtime(), run_id);
    let same_id_elsewhere = carrier(&cookie_of(elsewhere.path(), run_id));
    let id_only = carrier(std::slice::from_ref(&id));
    let dir_only = carrier(std::slice::from_ref(&dir));
    let longer_id = carrier(&[("AUTOAPPDEV_RUN_ID", format!("{run_id}0")), dir.clone()]);
    let longer_dir = carrier(&[id.clone(), ("AUTOAPPDEV_RUNTIME_DIR", format!("{}/x", dir.1))]);
    let similar_name = carrier(&[id.clone(), ("MY_AUTOAPPDEV_RUNTIME_DIR", dir.1.clone())]);
    let ours = carrier(&[id, dir]);
    place.boot_on_it(run_id, "lost");
    assert!(!ours.is_alive());
    let strangers = [
        ("the recycled pid", &stranger),
        ("another runtime directory", &same_id_elsewhere),
        ("the id only", &id_only),
        ("the directory only", &dir_only),
        ("another id", &longer_id),
        ("a directory below", &longer_dir),
        ("another variable", &similar_name),
    ];
    for (what, stranger) in strangers {
        assert!(stranger.is_alive(), "{what} was killed");
    }
}

#[test]
fn recovering_twice_records_each_fact_once() {
    let pasts: [&dyn Fn(&Place) -> i64; 4] = [
        &|place| place.past_starting(),
        &|place| place.past_run(&[spawned(4_000_000), Fact::Paused { cause: Cause::Request }]),
        &|place| {
            let run_id = place.past_starting();
            place.past_journal(run_id, OTHER_BOOT, &[spawned(4_000_000)]);
            run_id
        },
        &|place| {
            let run_id = place.past_starting();
            place.past_journal(run_id, &this_boot(), &[spawned(4_000_000), exited(0), USAGE]);
            run_id
        },
    ];
    for past in pasts {
        let mut place = Place::new();
        let run_id = past(&place);
        place.start_server();
        until_true("it has ended", || !["starting", "running", "paused"].iter().any(|&live| place.pipeline()["status"] == live));
        let (pipeline, run) = (place.pipeline(), place.run(run_id));
        for _ in 0..2 {
            place.restart_server();
            let mut now = place.pipeline();
            now["version"] = pipeline["version"].clone();
            assert_eq!(now, pipeline);
            assert_eq!(place.run(run_id), run, "with all its events");
        }
    }
}
