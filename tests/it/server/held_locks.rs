//! Locks that another process took before the server made its files private: the error names the process.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use autoappdev::pipeline::{Containment, Fact};
use autoappdev::process::lock_holders;

use super::foreign_files::{ANOTHER, ended, is_root, set_mode};
use crate::support::{Place, letter, until_true};

/// A process that has locked a file, which ends with the test.
struct Holder(Child);

impl Holder {
    fn of(path: &Path, user: u32) -> Self {
        // Both a shared and an exclusive lock prevent a server from starting.
        Self::start(path, user, &["flock", "--shared", "--no-fork"], &["sleep", "600"])
    }

    fn exclusive(path: &Path, user: u32) -> Self {
        Self::start(path, user, &["flock", "--no-fork"], &["sleep", "600"])
    }

    /// Starts a process with an open file whose lock was taken by a process that has ended.
    fn heir(path: &Path, user: u32) -> Self {
        Self::start(path, user, &["sh", "-c", "exec 9<\"$0\"; flock 9; exec sleep 600"], &[])
    }

    fn start(path: &Path, user: u32, before: &[&str], after: &[&str]) -> Self {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"]);
        let holder = Self(command.args(before).arg(path).args(after).stdin(Stdio::null()).spawn().expect("spawns"));
        let file = File::open(path).expect("there");
        until_true("it is locked", || match file.try_lock() {
            Ok(()) => file.unlock().is_err(),
            Err(_) => true,
        });
        holder
    }

    /// Returns the sentence that names the process. It is named after the program that was started with the lock.
    fn sentence(&self, user: &str) -> String {
        format!("process {} (sleep){user} has locked ", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// Makes the runtime directory or a file in it belong to root and open to all users, as earlier versions left it.
fn left_open(place: &Place, name: &str) -> PathBuf {
    let path = if name.is_empty() { place.runtime() } else { place.runtime().join(name) };
    if !name.is_empty() {
        fs::write(&path, "").expect("writes");
        set_mode(&path, 0o644);
    }
    set_mode(&place.runtime(), 0o755);
    chown(&path, Some(0), Some(0)).expect("we are root");
    path
}

#[test]
fn lock_error_names_holding_process() {
    if !is_root() {
        return;
    }
    let mut place = Place::new();
    set_mode(place.folder(), 0o755);
    fs::create_dir(place.runtime()).expect("creates");
    for (user, named) in [(ANOTHER, " of another user (uid 65534)"), (0, "")] {
        for (name, advice) in [
            ("", "set AUTOAPPDEV_RUNTIME_DIR to another folder"),
            ("server.lock", "set AUTOAPPDEV_RUNTIME_DIR to another folder"),
            ("autoappdev.db-server.lock", "name another database with DATABASE_URL"),
        ] {
            let path = left_open(&place, name);
            let holder = Holder::of(&path, user);
            until_true("its program runs", || {
                fs::read_to_string(format!("/proc/{}/comm", holder.0.id())).is_ok_and(|name| name == "sleep\n")
            });
            let said = place.refused_server(("AUTOAPPDEV_PORT", "0"));
            let real = path.canonicalize().expect("there");
            let sentence = if name.starts_with("autoappdev") {
                format!("{}{}; end that process, or {advice}", holder.sentence(named), real.display())
            } else {
                format!("cannot lock {}: {}it; end that process, or {advice}", real.display(), holder.sentence(named))
            };
            assert!(said.contains(&sentence), "{name:?}: {said}");
        }
    }
    // A server is still reported as such.
    place.start_server();
    let said = place.refused_server(("AUTOAPPDEV_PORT", "0"));
    assert!(said.contains(&format!("the server with pid {} at ", place.server_pid())), "{said}");
    let url = format!("sqlite:{}", place.database().display());
    let mut command = place.command();
    command.arg("serve").env("AUTOAPPDEV_RUNTIME_DIR", place.folder().join("other")).env("DATABASE_URL", url);
    let (code, said) = ended(command);
    assert!(code == 1 && said.contains("another server uses it; name another database with DATABASE_URL"), "{said}");
}

#[test]
fn lock_with_unknown_holder_is_not_attributed_to_a_server() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    set_mode(place.folder(), 0o755);
    fs::create_dir(place.runtime()).expect("creates");
    for name in ["", "server.lock", "autoappdev.db-server.lock"] {
        let path = left_open(&place, name);
        let _holder = Holder::heir(&path, ANOTHER);
        let said = place.refused_server(("AUTOAPPDEV_PORT", "0"));
        let real = path.canonicalize().expect("there");
        let sentence = format!("a process that cannot be named has locked {}; ", real.display());
        assert!(said.contains(&sentence) && said.contains("fuser") && !said.contains("another server"), "{name:?}: {said}");
    }
}

/// The process that took the lock has ended, but its parent has not waited for it. `kill` would not help.
#[test]
fn zombie_that_took_a_lock_is_not_named_as_its_holder() {
    let place = Place::new();
    fs::create_dir(place.runtime()).expect("creates");
    for name in ["server.lock", "autoappdev.db-server.lock"] {
        let path = place.runtime().join(name);
        fs::write(&path, "").expect("writes");
        set_mode(&path, 0o600);
        set_mode(&place.runtime(), 0o700);
        // The child has the open file, and ends with the pipe that it reads from.
        let mut command = Command::new("flock");
        command.args(["--exclusive", "--no-fork"]).arg(&path).args(["sh", "-c", "exec 9<&0; cat <&9 >/dev/null & exit 0"]);
        let mut zombie = command.stdin(Stdio::piped()).spawn().expect("spawns");
        let heir_reads = zombie.stdin.take().expect("piped");
        until_true("it is a zombie", || letter(zombie.id()) == Some('Z'));
        let holders = lock_holders(&File::open(&path).expect("there")).expect("/proc is mounted");
        assert_eq!(holders, [zombie.id()], "the kernel still names it");
        let said = place.refused_server(("AUTOAPPDEV_PORT", "0"));
        let sentence = format!("a process that cannot be named has locked {}; ", path.canonicalize().expect("there").display());
        assert!(said.contains(&sentence) && said.contains("fuser"), "{name}: {said}");
        assert!(!said.contains(&format!("process {} ", zombie.id())) && !said.contains("another server"), "{name}: {said}");
        drop(heir_reads);
        zombie.wait().expect("ours");
        fs::remove_file(&path).expect("ours");
    }
}

/// A clone's database contains a live run, and another user locked that run's lock before the server closed the directory to
/// other users.
#[test]
fn run_with_lock_held_by_another_user_is_lost() {
    if !is_root() {
        return;
    }
    let mut place = Place::new();
    set_mode(place.folder(), 0o755);
    let run_id = place.past_run(&[Fact::Spawned { pid: 1, start_ticks: u64::MAX, containment: Containment::Tree }]);
    let run = place.run_dir(run_id);
    for dir in [&place.runtime(), run.parent().expect("runs"), &run] {
        set_mode(dir, 0o755);
    }
    set_mode(&run.join("lock"), 0o644);
    let _holder = Holder::exclusive(&run.join("lock"), ANOTHER);
    place.boot_on_it(run_id, "lost");
    place.assert_startable(run_id);
}
