//! The runtime directory of a live run is moved, copied, removed, put back or committed to a repository. The run continues, stays
//! under control, and writes only to its own directory.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Place, copy_all, is_alive, is_stopped, until_true};
use autoappdev::run_dir::read_header;
use serde_json::json;

/// A script that prints a word for each file of that name, and exits with code 7 once `go` exists.
const WORDS: &str = "#!/bin/bash\necho ready; echo ::step words\nfor n in one two three; do\n  while [ ! -e $n ]; do sleep 0.01; done\n  echo \"word $n\"\ndone\n\
                     while [ ! -e go ]; do sleep 0.01; done\nexit 7\n";

fn say(place: &Place, name: &str) {
    fs::write(place.root().join(name), "").expect("writes");
}

fn with_words() -> (Place, u32, i64) {
    let place = Place::serving("words.sh");
    place.script("words.sh", WORDS);
    let (pid, run_id) = place.start();
    place.until_line("ready");
    (place, pid, run_id)
}

fn git(place: &Place, args: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=a", "-c", "user.email=a@example.org"]).args(args).current_dir(place.folder());
    let output = command.output().expect("git runs");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn git_ignores_the_runtime_directory() {
    if Command::new("git").arg("--version").output().is_err() {
        return crate::support::not_run("there is no git", "AUTOAPPDEV_REQUIRE_GIT");
    }
    let mut place = Place::new();
    place.use_token("a-token-of-this-test");
    git(&place, &["init", "--quiet"]);
    place.start_server();
    let (pid, run_id) = place.start_with(json!({"script": "sleep.sh"}));
    git(&place, &["add", "--all"]);
    let staged = git(&place, &["diff", "--cached", "--name-only"]);
    assert!(staged.contains("root/sleep.sh") && !staged.contains("runtime"), "{staged}");
    git(&place, &["commit", "--quiet", "--message", "all"]);
    say(&place, "something");
    git(&place, &["stash", "--include-untracked", "--quiet"]);
    git(&place, &["stash", "pop", "--quiet"]);
    place.restart_server();
    assert_eq!((place.state(), is_alive(pid)), ("running".to_owned(), true));
    assert_eq!(place.pipeline()["run_id"], run_id);
}

/// As `git stash -u` and `git stash pop` do without the `.gitignore`, or as a restored backup does.
#[test]
fn directory_replaced_by_a_copy_keeps_the_run_and_its_log() {
    let (mut place, pid, run_id) = with_words();
    place.kill_server();
    say(&place, "one");
    until_true("it is in the log", || log_of(&place.run_dir(run_id)).contains("word one"));
    place.replace_runtime_by_copy();
    place.start_server();
    assert_eq!((place.state(), is_alive(pid)), ("running".to_owned(), true));
    assert_eq!(place.until_all_agree(), "running");
    say(&place, "two");
    place.until_line("word two");
    assert_eq!(place.lines(), ["ready", "::step words", "word one", "word two"]);
    place.act("pause").ok();
    assert!(is_stopped(pid) && place.pause_file().exists());
    place.act("resume").ok();
    assert!(!place.pause_file().exists());
    assert_eq!(place.degraded(), None);
    // From here on the copy is the run's own directory: its end is recorded without a server.
    place.kill_server();
    say(&place, "three");
    say(&place, "go");
    place.until_no_shim();
    place.start_server();
    let run = place.run(run_id);
    assert_eq!((&run["status"], &run["exit_code"]), (&json!("failed"), &json!(7)), "{run}");
    assert_eq!(place.lines(), ["ready", "::step words", "word one", "word two", "word three"]);
}

#[test]
fn directory_replaced_by_a_copy_keeps_paused_run_paused() {
    let (mut place, pid, run_id) = with_words();
    place.act("pause").ok();
    place.kill_server();
    place.replace_runtime_by_copy();
    place.start_server();
    assert_eq!(place.until_all_agree(), "paused");
    assert!(is_stopped(pid) && place.pause_file().exists());
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    place.assert_nothing_left(run_id);
}

#[test]
fn directory_moved_away_and_back_keeps_the_run() {
    let (mut place, pid, run_id) = with_words();
    place.kill_server();
    let aside = place.folder().join("aside");
    fs::rename(place.runtime(), &aside).expect("moves");
    say(&place, "one");
    until_true("it is in the log", || log_of(&aside.join("runs/1")).contains("word one"));
    fs::rename(&aside, place.runtime()).expect("moves back");
    place.start_server();
    assert_eq!(place.until_all_agree(), "running");
    assert!(is_alive(pid));
    assert_eq!(place.lines(), ["ready", "::step words", "word one"]);
    assert_eq!(place.pipeline()["run_id"], run_id);
}

#[test]
fn live_run_survives_replaced_lock_and_removed_socket() {
    let (mut place, pid, run_id) = with_words();
    place.kill_server();
    let lock = place.run_dir(run_id).join("lock");
    fs::remove_file(&lock).expect("removes");
    fs::write(&lock, "").expect("writes");
    place.start_server();
    assert_eq!((place.state(), is_alive(pid)), ("running".to_owned(), true), "its socket answers");
    place.kill_server();
    fs::remove_file(place.run_dir(run_id).join("ctl.sock")).expect("removes");
    place.start_server();
    assert_eq!((place.state(), is_alive(pid)), ("running".to_owned(), true), "its process lives");
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    place.assert_nothing_left(run_id);
}

#[test]
fn server_on_copied_runtime_directory_leaves_the_run_alone() {
    let (place, pid, run_id) = with_words();
    let mut other = Place::new();
    copy_all(&place.runtime(), &other.runtime());
    other.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "sleep.sh");
    other.start_server();
    let run = other.run(run_id);
    assert_eq!(run["status"], "lost");
    let why = run["error"].as_str().expect("a sentence");
    let its_own = place.run_dir(run_id).canonicalize().expect("there");
    assert!(why.contains("is a copy") && why.contains(its_own.to_str().expect("text")), "{why}");
    assert_eq!((place.state(), is_alive(pid)), ("running".to_owned(), true), "it is not touched");
    // The copy works like any other runtime directory.
    let (_, next) = other.start();
    assert_eq!(next, run_id + 1);
    assert_eq!(other.until_all_agree(), "running");
    say(&place, "one");
    place.until_line("word one");
    assert_eq!(place.until_all_agree(), "running");
}

#[test]
fn removed_runtime_directory_does_not_allow_a_second_run() {
    // With the history in the directory, and with a history that stays.
    for database in [None, Some("elsewhere.db")] {
        let mut place = Place::new();
        if let Some(name) = database {
            place.set_env("DATABASE_URL", &format!("sqlite:{}", place.folder().join(name).display()));
        }
        removes_the_directory_beside_a_live_run(place);
    }
}

fn removes_the_directory_beside_a_live_run(mut place: Place) {
    place.set_env("AUTOAPPDEV_PIPELINE_SCRIPT", "words.sh");
    place.script("words.sh", WORDS);
    place.start_server();
    let (pid, run_id) = place.start();
    place.until_line("ready");
    place.kill_server();
    fs::remove_dir_all(place.runtime()).expect("removes");
    place.start_server();
    let pipeline = place.until_state("running");
    assert_eq!((&pipeline["run_id"], &pipeline["pid"]), (&json!(run_id), &json!(pid)));
    assert_eq!(place.act("start").status, 409);
    say(&place, "one");
    until_true("health says that its lines are lost", || place.degraded().is_some_and(|why| why.contains("lost")));
    assert!(!place.run_dir(run_id).exists(), "it makes no directory that it was not given");
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    assert_eq!(place.run(run_id)["status"], "stopped");
    until_true("its process is dead", || !is_alive(pid));
    let (_, next) = place.start_with(json!({"script": "sleep.sh"}));
    assert_eq!(next, run_id + 1);
    assert_eq!(place.state(), "running");
}

#[test]
fn run_writes_only_to_its_own_directory() {
    let (mut place, pid, run_id) = with_words();
    place.kill_server();
    let (aside, own) = (place.folder().join("aside"), place.folder().join("aside/runs").join(run_id.to_string()));
    fs::rename(place.runtime(), &aside).expect("moves");
    let other = place.run_dir(run_id);
    fs::create_dir_all(other.join("log")).expect("creates");
    crate::support::signal(pid, "STOP");
    until_true("the PAUSE file is in its own directory", || aside.join("PAUSE").exists());
    assert!(!place.pause_file().exists());
    crate::support::signal(pid, "CONT");
    until_true("it is gone", || !aside.join("PAUSE").exists());
    for word in ["one", "two", "three", "go"] {
        say(&place, word);
    }
    let journal = || fs::read_to_string(own.join("journal.jsonl")).expect("there");
    until_true("its end is in its own journal", || journal().contains("\"usage\""));
    assert!(log_of(&own).contains("word three"));
    assert!(own.join("progress.json").exists());
    let names = |dir: &Path| fs::read_dir(dir).expect("there").count();
    assert_eq!((names(&place.runtime()), names(&other), names(&other.join("log"))), (1, 1, 0), "nothing in another's");
}

#[test]
fn run_id_of_a_moved_directory_is_not_reused() {
    let (mut place, pid, run_id) = with_words();
    place.kill_server();
    let aside = place.folder().join("aside");
    fs::rename(place.runtime(), &aside).expect("moves");
    // The run belongs to the moved directory, so a server on an empty one has no run.
    place.start_server();
    assert_eq!(place.state(), "stopped");
    let (_, next) = place.start_with(json!({"script": "sleep.sh"}));
    assert!(next > run_id, "{next}");
    crate::support::signal(place.shim_pid(next), "KILL");
    place.until_state("stopped");
    assert_eq!(place.run(next)["status"], "lost");
    assert!(is_alive(pid), "what carries a lost run's number is killed, and this one does not");
    // A server on the moved directory takes the run over.
    place.kill_server();
    place.set_env("AUTOAPPDEV_RUNTIME_DIR", aside.to_str().expect("text"));
    place.start_server();
    assert_eq!(place.pipeline()["pid"], pid);
    crate::support::signal(shim_of(&aside, run_id), "KILL");
    place.until_state("stopped");
    assert_eq!(place.run(run_id)["status"], "lost");
    assert!(!is_alive(pid), "it carries the path that the directory had");
}

#[test]
fn shim_killed_in_a_copy_of_its_directory_leaves_no_process() {
    let (mut place, pid, run_id) = with_words();
    let group = place.cgroup(run_id);
    place.kill_server();
    place.replace_runtime_by_copy();
    place.start_server();
    assert_eq!(place.until_all_agree(), "running");
    crate::support::signal(place.shim_pid(run_id), "KILL");
    place.until_state("stopped");
    assert_eq!(place.run(run_id)["status"], "lost");
    assert!(!is_alive(pid));
    assert!(group.is_none_or(|group| !group.exists()), "its control group was named after the directory before");
}

/// Creates a place where a run was live when its directory was copied. Since then the ids have begun anew, and another run with
/// the same id is live.
fn with_namesake(copy: &Path) -> (Place, u32) {
    let (mut place, _, run_id) = with_words();
    copy_all(&place.runtime(), copy);
    place.post("/api/pipeline/stop", json!({"grace_s": 0})).ok();
    place.until_no_shim();
    place.kill_server();
    fs::remove_dir_all(place.runtime()).expect("removes");
    place.start_server();
    let (pid, namesake) = place.start();
    assert_eq!(namesake, run_id);
    (place, pid)
}

#[test]
fn server_on_old_copy_leaves_later_run_with_same_id_alone() {
    let mut other = Place::new();
    let (place, pid) = with_namesake(&other.runtime());
    // Removed as if it were a leftover.
    fs::remove_file(other.runtime().join("autoappdev.db-server.lock")).expect("removes");
    other.start_server();
    let run = other.run(1);
    let why = run["error"].as_str().expect("a sentence");
    assert!(run["status"] == "lost" && why.contains("a later run 1") && !why.contains("nothing"), "{run}");
    assert_eq!((place.state(), is_alive(pid)), ("running".to_owned(), true), "it is not touched");
}

#[test]
fn restored_old_copy_does_not_allow_second_run() {
    let copies = tempfile::tempdir().expect("a temp folder");
    let copy = copies.path().join("copy");
    let (mut place, pid) = with_namesake(&copy);
    place.kill_server();
    fs::remove_dir_all(place.runtime()).expect("removes");
    copy_all(&copy, &place.runtime());
    place.start_server();
    assert_eq!((place.act("start").status, is_alive(pid)), (409, true));
    crate::support::signal(pid, "KILL");
    place.until_state("stopped");
    assert_eq!(place.run(1)["status"], "lost");
}

fn shim_of(runtime: &Path, run_id: i64) -> u32 {
    let header = read_header(&runtime.join("runs").join(run_id.to_string()).join("journal.jsonl"));
    header.expect("a header").shim_pid
}

/// Returns the text of a run's log.
fn log_of(run_dir: &Path) -> String {
    let files = fs::read_dir(run_dir.join("log")).into_iter().flatten().flatten();
    files.map(|file| fs::read_to_string(file.path()).unwrap_or_default()).collect()
}
