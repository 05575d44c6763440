//! `runs/<run_id>/`: the files that server and shim share. Their names, the lock, the control socket; the journal, the progress
//! and the words on the socket stand in the files below this one.
//!
//! Level 1. `supervisor` and `shim` know each other only through this module. It never interprets a fact.
//!
//! If killed here: a directory without a lock holder and without a journal is a run that never began; recovery says so.

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
/// What stands in the runtime directory while the pipeline is paused, for programs that look.
pub const PAUSE_FILE: &str = "PAUSE";

/// How the names of the control groups of all runs begin.
const CGROUP_PREFIX: &str = "autoappdev-";

/// Creates a private directory (mode 0700) and its parents; one that is there is left as it is.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// All run directories of one runtime directory.
#[derive(Clone, Debug)]
pub struct Runs {
    runtime_dir: PathBuf,
}

impl Runs {
    /// `runtime_dir` must be absolute: it is part of the cookie.
    pub fn new(runtime_dir: PathBuf) -> Self {
        Self { runtime_dir }
    }

    /// The runtime directory.
    pub fn runtime_dir(&self) -> &Path {
        &self.runtime_dir
    }

    /// Where the run directories are.
    pub fn path(&self) -> PathBuf {
        self.runtime_dir.join(RUNS_DIR)
    }

    /// The directory of run `run_id`, there or not.
    pub fn run(&self, run_id: i64) -> RunDir {
        RunDir { path: self.path().join(run_id.to_string()) }
    }

    /// The ids that have a directory, ascending. None where there is no `runs/` yet.
    pub fn ids(&self) -> io::Result<Vec<i64>> {
        run_ids(&self.runtime_dir)
    }

    /// The highest id that has or had a directory: that of the latest run. Reads the link that names it, and lists the directory only
    /// if there is no link, or if a server was killed before it could make the link name a directory that it had created.
    pub fn latest_id(&self) -> io::Result<Option<i64>> {
        match latest_run(&self.runtime_dir) {
            Some(id) if !has_entry(&self.run(id.saturating_add(1)).path) => Ok(Some(id)),
            Some(_) | None => Ok(self.ids()?.last().copied()),
        }
    }

    /// Makes the link name this run, which is the latest.
    pub fn note_latest(&self, run_id: i64) {
        if latest_run(&self.runtime_dir) != Some(run_id)
            && let Err(error) = set_latest_run(&self.runtime_dir, run_id)
        {
            ::log::warn!("cannot make the link to the latest run: {error}; the run directories are listed instead");
        }
    }

    /// Creates the directory of a new run and takes its lock. The lock is handed to the shim as an open file, so it is held without a
    /// gap from before the shim exists until it leaves: nobody can find this run unlocked and call it dead. The link to the latest run has to
    /// follow before anything can live in the directory: [`Runs::note_latest`].
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
                io::Error::new(error.kind(), format!("{path} exists already, and no server made it for this run; move it away"))
            }
            _ => error,
        })?;
        KillPoint::ServerRunDirUnlocked.reach();
        let lock = private_file().create_new(true).open(run.lock_path())?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        create_private_dir(&run.log_dir())?;
        Ok((run, lock))
    }

    /// The name of the control group of run `run_id`: of this folder, wherever it is mounted, and no other that is there.
    pub fn cgroup_name(&self, run_id: i64) -> io::Result<String> {
        let FileId { dev, ino } = FileId::of(&self.runtime_dir)?;
        Ok(format!("{CGROUP_PREFIX}{dev:x}-{ino:x}-{run_id}"))
    }

    /// Whether the last component of a path can be the name of a control group of run `run_id`, of this folder or of another one.
    pub fn is_cgroup_name(dir: &Path, run_id: i64) -> bool {
        let name = dir.file_name().map(OsStr::as_bytes).unwrap_or_default();
        name.starts_with(CGROUP_PREFIX.as_bytes()) && name.ends_with(format!("-{run_id}").as_bytes())
    }

    /// A name for the second control socket of run `run_id`, which needs no directory: of this folder, and used once.
    pub fn new_socket_name(&self, run_id: i64) -> io::Result<String> {
        Ok(format!("{}{run_id}-{:016x}", self.socket_prefix(), u64::from_ne_bytes(random::bytes()?)))
    }

    /// How the names of all those sockets begin.
    pub fn socket_prefix(&self) -> String {
        let digest: [u8; 32] = Sha256::digest(self.runtime_dir.as_os_str().as_bytes()).into();
        let first = digest.first_chunk().expect("a digest has 32 bytes");
        format!("autoappdev-{:016x}-", u64::from_be_bytes(*first))
    }

    /// The run whose socket has this name.
    pub fn run_of_socket(&self, name: &str) -> Option<i64> {
        let (run_id, _) = name.strip_prefix(&self.socket_prefix())?.split_once('-')?;
        run_id.parse().ok().filter(|&run_id| run_id > 0)
    }

    /// The cookie that every process of run `run_id` carries in its environment, unless it threw it away. Without the `mark` it is the cookie
    /// of every run with this number and this path, which a container can have as well.
    pub fn cookie(&self, run_id: i64, mark: Option<&str>) -> Vec<(&'static str, PathBuf)> {
        let mut cookie = vec![(RUN_ID_VAR, PathBuf::from(run_id.to_string())), (RUNTIME_DIR_VAR, self.runtime_dir.clone())];
        cookie.extend(mark.map(|mark| (RUN_MARK_VAR, PathBuf::from(mark))));
        cookie
    }
}

/// Who holds a run's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockState {
    /// A live shim, or a server that is about to start one.
    Held,
    /// Nobody, or there is no lock file.
    Free,
}

/// The directory of one run.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// The directory at `path`.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Held by the shim for its whole life.
    pub fn lock_path(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// The facts.
    pub fn journal_path(&self) -> PathBuf {
        self.path.join("journal.jsonl")
    }

    /// How far the pipeline says it is.
    pub fn progress_path(&self) -> PathBuf {
        self.path.join("progress.json")
    }

    /// The values of the variables that its start added to the environment, where they are kept.
    pub fn start_path(&self) -> PathBuf {
        self.path.join("start.json")
    }

    /// What the run used over time.
    pub fn usage_path(&self) -> PathBuf {
        self.path.join("usage")
    }

    /// The output segments.
    pub fn log_dir(&self) -> PathBuf {
        self.path.join("log")
    }

    /// The shim's own last words, normally empty.
    pub fn shim_log_path(&self) -> PathBuf {
        self.path.join("shim.log")
    }

    /// Looks who holds the lock. A shared lock is tried for a moment: it disturbs nobody, since a run's lock is taken once, at its
    /// creation, and never again.
    ///
    /// A run whose directory is reached by a link is not one of this runtime directory: a cloned project can contain a link to the
    /// live run of another one.
    pub fn lock_state(&self) -> io::Result<LockState> {
        if is_foreign(&self.path) {
            return Ok(LockState::Free);
        }
        let path = self.lock_path();
        let file = match private::open(&path) {
            Ok(file) => file,
            // The lock was removed or replaced, or this never was the directory of a run. The socket still tells whether the shim lives: only
            // a live process listens at it.
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

    /// Whether the error of opening the lock means that it is not the file that the server made for this run.
    fn is_no_lock(&self, error: &io::Error) -> bool {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::InvalidInput => true,
            // A file has the name of the run. If the directory of all runs cannot be read, nothing is known of this one.
            io::ErrorKind::NotADirectory => self.path.symlink_metadata().is_ok(),
            // A file of another user, which `private::open` refuses. An error of the kernel has a number.
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

    /// Connects to the shim's control socket. A shim that does not accept within `limit` is [`io::ErrorKind::TimedOut`], one of another
    /// user [`io::ErrorKind::PermissionDenied`], and a link to a socket is [`io::ErrorKind::NotFound`].
    pub fn connect(&self, limit: Duration) -> io::Result<UnixStream> {
        let path = self.path.join(SOCKET);
        if is_foreign(&self.path) || is_link(&path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let stream = SocketPath::open(&path)?.connect(limit)?;
        abstract_socket::peer(&stream)?;
        Ok(stream)
    }

    /// Whether a process listens at the control socket, and be it so busy that it accepts nothing. Only this user can: the directory is
    /// private.
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
    fn a_created_run_is_private_and_locked_until_the_last_holder_leaves() {
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
        // What another test forks at this moment has a copy too, up to its exec.
        let deadline = Instant::now() + Duration::from_mins(1);
        while run.lock_state().expect("a look") == LockState::Held {
            assert!(Instant::now() < deadline, "it is never free");
        }
        assert_eq!(runs.run(8).lock_state().expect("a look"), LockState::Free);
    }

    #[test]
    fn a_run_directory_is_never_used_twice() {
        let (_dir, runs) = runs();
        let _first = runs.create(1).expect("creates");
        assert_eq!(runs.create(1).expect_err("there already").kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(runs.ids().expect("a look"), [1]);
    }

    /// With a database that was put back its id would be given again.
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

    /// Another thread exchanges the socket for a link to another file, as soon as it is there.
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
    fn the_socket_works_below_a_path_longer_than_an_address() {
        let (dir, _) = runs();
        let deep = dir.path().join("d".repeat(120)).join("e".repeat(120));
        let (run, _lock) = Runs::new(deep).create(1).expect("creates");
        let listener = run.listen().expect("binds");
        let _client = run.connect(Duration::ZERO).expect("connects");
        listener.accept().expect("is there");
    }
}
