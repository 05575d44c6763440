//! `runs/<run_id>/`: the files that server and shim share. This file has their names, the lock and the control socket; the files
//! below it have the journal, the progress and the messages on the socket.
//!
//! Level 1. `supervisor` and `shim` know each other only through this module. It never interprets a fact.
//!
//! If killed here: a directory without a lock holder and without a journal is a run that never began; recovery records that.

mod format;
mod journal;
mod kept_env;
mod lines;
mod progress;
mod protocol;
mod signs;
mod usage;

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use crate::abstract_socket;
use crate::file_id::FileId;
use crate::held_dir::{has_entry, is_foreign, is_link};
use crate::kill_point::KillPoint;
use crate::latest_run::{RUNS_DIR, latest_run, run_ids, set_latest_run};
use crate::private::{self, private_file};
use crate::random;
use crate::shell_word::quoted_path;
use crate::socket_path::SocketPath;
use crate::user;

pub use format::FORMAT;
pub use journal::{Header, Journal, JournalError, ReadJournal, read_header, read_journal};
pub use kept_env::{KeptEnvError, read_kept_env, write_kept_env};
pub use lines::{LineReader, from_line, to_line};
pub use progress::{NumberedProgress, ProgressError, parse_progress, read_progress, write_progress};
pub use protocol::{Command, LaunchSpec, Message, Reply, ReplyError, Rotated};
pub use signs::{NumberedSigns, Signs, Trouble};
pub use usage::{StoredUsage, append_usage, parse_usage, read_usage};

/// The environment variable that carries the run's id into the pipeline: part of the cookie.
pub const RUN_ID_VAR: &str = "AUTOAPPDEV_RUN_ID";
/// The environment variable that carries the runtime directory into the pipeline: part of the cookie.
pub const RUNTIME_DIR_VAR: &str = "AUTOAPPDEV_RUNTIME_DIR";
/// The environment variable that carries the run's mark into the pipeline: the random part of the cookie.
pub const RUN_MARK_VAR: &str = "AUTOAPPDEV_RUN_MARK";
/// The file that exists in the runtime directory while the pipeline is paused, for programs that check it.
pub const PAUSE_FILE: &str = "PAUSE";

/// The beginning of the names of all runs' control groups.
const CGROUP_PREFIX: &str = "autoappdev-";

/// Creates a private directory (mode 0700) and its parents. An existing directory stays unchanged.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// All run directories of one runtime directory.
#[derive(Clone, Debug)]
pub struct Runs {
    runtime_dir: PathBuf,
}

impl Runs {
    /// Creates a value for this runtime directory, which must be absolute, because it is part of the cookie.
    pub fn new(runtime_dir: PathBuf) -> Self {
        Self { runtime_dir }
    }

    /// Returns the runtime directory.
    pub fn runtime_dir(&self) -> &Path {
        &self.runtime_dir
    }

    /// Returns the directory of the run directories.
    pub fn path(&self) -> PathBuf {
        self.runtime_dir.join(RUNS_DIR)
    }

    /// Returns the directory of run `run_id`, which need not exist.
    pub fn run(&self, run_id: i64) -> RunDir {
        RunDir { path: self.path().join(run_id.to_string()) }
    }

    /// Returns the ids that have a directory, ascending; empty if `runs/` does not exist.
    pub fn ids(&self) -> io::Result<Vec<i64>> {
        run_ids(&self.runtime_dir)
    }

    /// Returns the highest id that has or had a directory: that of the latest run. Reads the link that names it. Lists the
    /// directory only if there is no link, or if a server was killed after it had created a directory and before it had updated
    /// the link.
    pub fn latest_id(&self) -> io::Result<Option<i64>> {
        match latest_run(&self.runtime_dir) {
            Some(id) if !has_entry(&self.run(id.saturating_add(1)).path) => Ok(Some(id)),
            Some(_) | None => Ok(self.ids()?.last().copied()),
        }
    }

    /// Makes the link point to this run, which is the latest.
    pub fn note_latest(&self, run_id: i64) {
        if latest_run(&self.runtime_dir) != Some(run_id)
            && let Err(error) = set_latest_run(&self.runtime_dir, run_id)
        {
            ::log::warn!("cannot make the link to the latest run: {error}; the run directories are listed instead");
        }
    }

    /// Creates the directory of a new run and takes its lock. The shim gets the lock as an open file, so it is held without a gap
    /// from before the shim exists until it has exited, and no server can mistake the run for a dead one. The link to the latest
    /// run must follow before a process can run in the directory: [`Runs::note_latest`].
    pub fn create(&self, run_id: i64) -> io::Result<(RunDir, File)> {
        create_private_dir(&self.path())?;
        let run = self.run(run_id);
        if is_foreign(&run.path) {
            let path = self.path();
            let error = format!("{} is a symbolic link or belongs to another user; remove it, or move it away", path.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, error));
        }
        DirBuilder::new().mode(0o700).create(&run.path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                let path = run.path.display();
                io::Error::new(
                    error.kind(),
                    format!("{path} already exists and was not created for this run; move it away, and start again"),
                )
            }
            _ => error,
        })?;
        KillPoint::ServerRunDirUnlocked.reach();
        let lock = private_file().create_new(true).open(run.lock_path())?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        create_private_dir(&run.log_dir())?;
        Ok((run, lock))
    }

    /// Returns the name of the control group of run `run_id`. It depends on the runtime directory, wherever that is mounted, and
    /// no other existing directory has the same name.
    pub fn cgroup_name(&self, run_id: i64) -> io::Result<String> {
        let FileId { dev, ino } = FileId::of(&self.runtime_dir)?;
        Ok(format!("{CGROUP_PREFIX}{dev:x}-{ino:x}-{run_id}"))
    }

    /// Checks whether the last component of a path can be the name of a control group of run `run_id`, for any runtime directory.
    pub fn is_cgroup_name(dir: &Path, run_id: i64) -> bool {
        let name = dir.file_name().map(OsStr::as_bytes).unwrap_or_default();
        name.starts_with(CGROUP_PREFIX.as_bytes()) && name.ends_with(format!("-{run_id}").as_bytes())
    }

    /// Returns a new name for the second control socket of run `run_id`, which needs no directory. The name contains a digest of
    /// the runtime directory's path, and is used once.
    pub fn new_socket_name(&self, run_id: i64) -> io::Result<String> {
        Ok(format!("{}{run_id}-{:016x}", self.socket_prefix(), u64::from_ne_bytes(random::bytes()?)))
    }

    /// Returns the beginning of the names of all these sockets.
    pub fn socket_prefix(&self) -> String {
        let digest: [u8; 32] = Sha256::digest(self.runtime_dir.as_os_str().as_bytes()).into();
        let first = digest.first_chunk().expect("a digest has 32 bytes");
        format!("autoappdev-{:016x}-", u64::from_be_bytes(*first))
    }

    /// Returns the run whose socket has this name.
    pub fn run_of_socket(&self, name: &str) -> Option<i64> {
        let (run_id, _) = name.strip_prefix(&self.socket_prefix())?.split_once('-')?;
        run_id.parse().ok().filter(|&run_id| run_id > 0)
    }

    /// Returns the cookie that every process of run `run_id` has in its environment, unless the process removed it. Without the
    /// `mark`, every run with this number and this path has the same cookie, for example one in a container.
    pub fn cookie(&self, run_id: i64, mark: Option<&str>) -> Vec<(&'static str, PathBuf)> {
        let mut cookie = vec![(RUN_ID_VAR, PathBuf::from(run_id.to_string())), (RUNTIME_DIR_VAR, self.runtime_dir.clone())];
        cookie.extend(mark.map(|mark| (RUN_MARK_VAR, PathBuf::from(mark))));
        cookie
    }
}

/// The state of a run's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockState {
    /// A live shim holds it, or a server that is about to start one.
    Held,
    /// No process holds it, or there is no lock file.
    Free,
}

/// The directory of one run.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Returns the directory at `path`.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of the lock, which the shim holds for its whole life.
    pub fn lock_path(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Returns the path of the journal, which contains the facts.
    pub fn journal_path(&self) -> PathBuf {
        self.path.join("journal.jsonl")
    }

    /// Returns the path of the progress that the pipeline reported.
    pub fn progress_path(&self) -> PathBuf {
        self.path.join("progress.json")
    }

    /// Returns the path of the values of the variables that the start added to the environment, if they are kept.
    pub fn start_path(&self) -> PathBuf {
        self.path.join("start.json")
    }

    /// Returns the path of the run's resource usage over time.
    pub fn usage_path(&self) -> PathBuf {
        self.path.join("usage")
    }

    /// Returns the directory of the output segments.
    pub fn log_dir(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Returns the path of the shim's stderr, normally empty.
    pub fn shim_log_path(&self) -> PathBuf {
        self.path.join("shim.log")
    }

    /// Returns the state of the lock. It tries a shared lock for a moment, which disturbs no process, because a run's lock is
    /// taken only once, when it is created.
    ///
    /// A run directory that is reached through a link does not belong to this runtime directory: a cloned project can contain a
    /// link to the live run of another project.
    pub fn lock_state(&self) -> io::Result<LockState> {
        if is_foreign(&self.path) {
            return Ok(LockState::Free);
        }
        let path = self.lock_path();
        let file = match private::open(&path) {
            Ok(file) => file,
            // The lock was removed or replaced, or this never was the directory of a run. The socket still shows whether the shim
            // is alive: only a live process listens on it.
            Err(error) if self.is_no_lock(&error) => {
                return Ok(if self.is_listened_to() { LockState::Held } else { LockState::Free });
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let (path, dir) = (path.display(), quoted_path(&self.path));
                let advice = format!("give it to the user of the server (`chown -R {} {dir}`), or move it away", user::own());
                return Err(io::Error::new(error.kind(), format!("cannot open {path}: {error}; {advice}")));
            }
            Err(error) => return Err(error),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(LockState::Free),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(LockState::Held),
            Err(error) => Err(error.into()),
        }
    }

    /// Checks whether the error of opening the lock means that it is not the file that the server created for this run.
    fn is_no_lock(&self, error: &io::Error) -> bool {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::InvalidInput => true,
            // A file has the name of the run. If the directory of all runs cannot be read, nothing is known about this run.
            io::ErrorKind::NotADirectory => self.path.symlink_metadata().is_ok(),
            // A file of another user, which `private::open` refuses. An error of the kernel would have a number.
            io::ErrorKind::PermissionDenied => error.raw_os_error().is_none(),
            _ => false,
        }
    }

    /// Binds the control socket.
    pub fn listen(&self) -> io::Result<UnixListener> {
        Ok(SocketPath::open(&self.path.join(SOCKET))?.bind(BACKLOG)?.into())
    }

    /// Removes the control socket, so that another can be bound.
    pub fn remove_socket(&self) -> io::Result<()> {
        fs::remove_file(self.path.join(SOCKET))
    }

    /// Connects to the shim's control socket.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] if the shim does not accept within `limit`, [`io::ErrorKind::PermissionDenied`] for a socket
    /// of another user, and [`io::ErrorKind::NotFound`] for a link to a socket.
    pub fn connect(&self, limit: Duration) -> io::Result<UnixStream> {
        let path = self.path.join(SOCKET);
        if is_foreign(&self.path) || is_link(&path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let stream = SocketPath::open(&path)?.connect(limit)?;
        abstract_socket::peer(&stream)?;
        Ok(stream)
    }

    /// Checks whether a process listens on the control socket, even if it is too busy to accept. Only a process of this user can,
    /// because the directory is private.
    pub fn is_listened_to(&self) -> bool {
        match self.connect(Duration::ZERO) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::TimedOut,
        }
    }
}

const SOCKET: &str = "ctl.sock";

/// How many connections can wait until the shim accepts them. There is one server.
const BACKLOG: i32 = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    fn runs() -> (tempfile::TempDir, Runs) {
        let dir = tempfile::tempdir().expect("a temp folder");
        let runs = Runs::new(dir.path().to_path_buf());
        (dir, runs)
    }

    #[test]
    fn created_run_is_private_and_locked_until_last_holder_closes() {
        let (_dir, runs) = runs();
        let (run, lock) = runs.create(7).expect("creates");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(run.path()), 0o700);
        assert_eq!(mode(&run.lock_path()), 0o600);
        assert_eq!(run.lock_state().expect("a look"), LockState::Held);
        let second_holder = lock.try_clone().expect("clones");
        drop(lock);
        assert_eq!(run.lock_state().expect("a look"), LockState::Held, "the shim's copy holds it");
        drop(second_holder);
        // A process that another test forks at this moment also has a copy, until its exec.
        let deadline = Instant::now() + Duration::from_mins(1);
        while run.lock_state().expect("a look") == LockState::Held {
            assert!(Instant::now() < deadline, "it is never free");
        }
        assert_eq!(runs.run(8).lock_state().expect("a look"), LockState::Free);
    }

    #[test]
    fn run_directory_is_not_reused() {
        let (_dir, runs) = runs();
        let _first = runs.create(1).expect("creates");
        assert_eq!(runs.create(1).expect_err("there already").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(runs.ids().expect("a look"), [1]);
    }

    /// Otherwise its id would be given again if an older database was restored.
    #[test]
    fn latest_run_is_known_before_the_link_names_it() {
        let (_dir, runs) = runs();
        for id in [1, 2] {
            let _run = runs.create(id).expect("creates");
            assert_eq!(runs.latest_id().expect("a look"), Some(id));
            runs.note_latest(id);
            assert_eq!(runs.latest_id().expect("a look"), Some(id));
        }
    }

    #[test]
    fn socket_name_identifies_its_run_only_in_its_own_runtime_directory() {
        let (_dir, runs) = runs();
        let name = runs.new_socket_name(42).expect("random");
        assert_eq!(runs.run_of_socket(&name), Some(42));
        assert_ne!(runs.new_socket_name(42).expect("random"), name, "used once");
        assert_eq!(Runs::new("/elsewhere".into()).run_of_socket(&name), None);
        assert_eq!(runs.run_of_socket(&runs.socket_prefix()), None);
    }

    /// Another thread exchanges the socket for a link to another file as soon as the socket exists.
    #[test]
    fn binding_the_socket_changes_no_file_that_a_link_leads_to() {
        let (dir, runs) = runs();
        let (run, _lock) = runs.create(1).expect("creates");
        let (socket, victim, link) = (run.path().join(SOCKET), dir.path().join("victim"), dir.path().join("link"));
        fs::write(&victim, "").expect("writes");
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o644)).expect("ours");
        drop(run.listen().expect("binds"));
        let mode = |path: &Path| fs::symlink_metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&socket), 0o600);
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    if let Ok(()) = std::os::unix::fs::symlink(&victim, &link) {
                        while fs::symlink_metadata(&socket).is_err() && !is_over.load(std::sync::atomic::Ordering::Relaxed) {}
                        fs::rename(&link, &socket).expect("exchanges");
                    }
                }
            });
            for _ in 0..5_000 {
                let _other_name = run.remove_socket();
                let _in_the_way = run.listen();
            }
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(mode(&victim), 0o644);
    }

    #[test]
    fn run_socket_works_below_path_longer_than_socket_address() {
        let (dir, _) = runs();
        let deep = dir.path().join("d".repeat(120)).join("e".repeat(120));
        let (run, _lock) = Runs::new(deep).create(1).expect("creates");
        let listener = run.listen().expect("binds");
        let _client = run.connect(Duration::ZERO).expect("connects");
        listener.accept().expect("is there");
    }
}
