//! Exclusive ownership of the runtime directory and the database, each with its lock. Files created for that are removed if the
//! start fails.
//!
//! Part of `serve`. If killed here: the kernel releases the locks.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};

use super::lock_holder::{Holder, holder_of_lock, is_server};
use crate::config::Config;
use crate::file_id::FileId;
use crate::held_dir::{HeldDir, is_link};
use crate::kill_point::KillPoint;
use crate::log::BACKEND_LOG;
use crate::made::Made;
use crate::private::{self, beside, private_file};
use crate::process::{self, ProcState};
use crate::run_dir::{LockState, PAUSE_FILE, Runs, read_header};
use crate::runtime_dir::{
    By, DATABASE_SUFFIXES, Distrust, LOCK_FILE, ServerInfo, check_dir, create_dir, resolve, resolve_database, resolve_runtime_dir,
};
use crate::shell_word::quoted_path;
use crate::user;

/// The suffix of the lock file beside the database. The server that uses the database holds the lock, and the file names that
/// server's runtime directory.
pub(super) const DATABASE_LOCK_SUFFIX: &str = "-server.lock";

/// How long to wait for a killed server's lock and port, and how often to try.
const RELEASE_LIMIT: Duration = Duration::from_millis(500);
/// The same if the previous server is known to be dead. A child that it had just forked releases its descriptors at its exec,
/// which a busy machine can delay.
const LET_GO_LIMIT_OF_DEAD: Duration = Duration::from_secs(10);
const RELEASE_POLL: Duration = Duration::from_millis(2);

/// The longest path (`PATH_MAX`, `path_resolution(7)`).
const PATH_BYTES_MAX: u64 = 4095;

/// How often to create a runtime directory that another process removes meanwhile.
const OWN_TRIES: usize = 10;

/// Creates and locks the runtime directory, and returns its path without links. If another server owns it, the error names that
/// server.
///
/// Locks the directory itself, because its lock file can be mistaken for a leftover and removed, and the lock file, because not
/// every file system can lock directories.
pub(super) fn own(config: &mut Config, made: &mut Made) -> anyhow::Result<(PathBuf, HeldDir, File)> {
    let folder = Some(&*config.folder).filter(|_| !config.is_runtime_dir_named);
    let path = &config.runtime_dir;
    let distrusted = |path: &Path, error: io::Error| {
        let advice = match Distrust::of(&error) {
            Some(Distrust::Outside { .. } | Distrust::NoNumber { .. } | Distrust::GroupAbove { .. }) => "",
            _ => {
                "; serve as the user that owns it, or set AUTOAPPDEV_RUNTIME_DIR (or --runtime-dir) to a folder that belongs to this user and \
                 that no other user can write to"
            }
        };
        anyhow!("cannot use {} as the runtime directory: {error}{advice}", path.display())
    };
    for _ in 0..OWN_TRIES {
        // Resolved before anything is created at a link's target. From here on, only the path without links is used.
        let runtime_dir = resolve_runtime_dir(path, By::Server, folder).map_err(|error| distrusted(path, error))?;
        made.folder(&runtime_dir);
        match create_dir(&runtime_dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            created => created.with_context(|| {
                let advice = "set AUTOAPPDEV_RUNTIME_DIR (or --runtime-dir) to a folder that this user can write";
                format!("cannot use {} as the runtime directory; {advice}", path.display())
            })?,
        }
        // Checked before any file in it is opened.
        match check_dir(&runtime_dir, By::Server) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            checked => checked.map_err(|error| distrusted(&runtime_dir, error))?,
        }
        let runs = Runs::new(runtime_dir.clone()).path();
        // Old runs are removed from that directory.
        if is_link(&runs) {
            bail!(
                "cannot use {}: it is a symbolic link, and the server removes old runs from that directory; remove the link, or, to keep \
                 everything elsewhere, set AUTOAPPDEV_RUNTIME_DIR (or --runtime-dir)",
                runs.display()
            );
        }
        // Done before the locks are taken, because a user who can open a file can lock it and keep the server out.
        let files = [LOCK_FILE, BACKEND_LOG, PAUSE_FILE].map(|name| runtime_dir.join(name));
        for path in [runtime_dir.clone(), runs].into_iter().chain(files) {
            take_for_this_user(&path, &mut config.notes)?;
        }
        if let Some((dir, lock)) = own_existing(&runtime_dir, made)? {
            return Ok((runtime_dir, dir, lock));
        }
    }
    bail!("cannot lock {}: it is removed repeatedly; stop whatever removes it", path.display())
}

/// Removes other users' access to one of the server's files or directories, and notes that for the log.
fn take_for_this_user(path: &Path, notes: &mut Vec<String>) -> anyhow::Result<()> {
    let shown = path.display();
    let had = private::make_private(path).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied if error.raw_os_error().is_some() => let_use(path),
            io::ErrorKind::PermissionDenied => {
                format!("move it away, or give it to this user: `chown -R {} {}`", user::own(), quoted_path(path))
            }
            _ => format!("other users can open it, and `chmod -R go= {}` prevents that", quoted_path(path)),
        };
        anyhow!("cannot use {shown}: {error}; {advice}")
    })?;
    if let Some(mode) = had {
        notes.push(format!("{shown} had mode {mode:03o}; other users can no longer open it (mode {:03o})", mode & 0o700));
    }
    Ok(())
}

/// Replaces the database's path with the path without links, and removes other users' access to its files.
pub(super) fn own_database(config: &mut Config) -> anyhow::Result<()> {
    let path = config.database.display();
    config.database =
        resolve_database(config, By::Server).map_err(|error| anyhow!("cannot use {path} as the database: {error}"))?;
    for suffix in DATABASE_SUFFIXES.into_iter().chain([DATABASE_LOCK_SUFFIX]) {
        take_for_this_user(&beside(&config.database, suffix), &mut config.notes)?;
    }
    Ok(())
}

/// Locks a directory that exists. Returns `None` if it was removed meanwhile, for example by a server that had created it and
/// could not start.
fn own_existing(runtime_dir: &Path, made: &mut Made) -> anyhow::Result<Option<(HeldDir, File)>> {
    let take = |what: &File| retry_while_taken(runtime_dir, || Ok(what.try_lock()?), io::ErrorKind::WouldBlock);
    let refused = |path: &Path, file: &File, error: io::Error| {
        let shown = path.display();
        if error.kind() != io::ErrorKind::WouldBlock {
            return anyhow!("cannot lock {shown}: {error}");
        }
        let recorded = ServerInfo::read(runtime_dir);
        match holder_of_lock(file) {
            Holder::Stranger(stranger) => anyhow!(
                "cannot lock {shown}: {stranger} has locked it; end that process, or set AUTOAPPDEV_RUNTIME_DIR to another folder"
            ),
            Holder::Unknown if !recorded.as_ref().is_some_and(|info| is_server(info.pid)) => {
                anyhow!("cannot lock {shown}: {}, or set AUTOAPPDEV_RUNTIME_DIR to another folder", unknown_has_locked(path))
            }
            Holder::Server | Holder::Unknown => owned_already(runtime_dir, recorded.as_ref()),
        }
    };
    let dir = match private::open_dir(runtime_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| cannot_open(runtime_dir, &error))?,
    };
    match take(&dir) {
        // Not every file system can lock directories. There, the lock of the file must suffice.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => {}
        taken => taken.map_err(|error| refused(runtime_dir, &dir, error))?,
    }
    if FileId::of(runtime_dir).ok() != dir.metadata().ok().as_ref().map(FileId::from) {
        return Ok(None);
    }
    let path = runtime_dir.join(LOCK_FILE);
    let (lock, is_new) = open_lock(&path).map_err(|error| cannot_open(&path, &error))?;
    take(&lock).map_err(|error| refused(&path, &lock, error))?;
    if is_new {
        made.made_file(&path);
    }
    Ok(Some((HeldDir::of(dir.into()), lock)))
}

/// Describes a lock whose holder cannot be named, and how to find the holder.
fn unknown_has_locked(path: &Path) -> String {
    format!(
        "a process that cannot be named has locked {}; it may belong to another user or a container; `fuser {}` as root names it: end it",
        path.display(),
        quoted_path(path)
    )
}

fn cannot_open(path: &Path, error: &io::Error) -> anyhow::Error {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied if error.raw_os_error().is_some() => format!("; {}", let_use(path)),
        io::ErrorKind::PermissionDenied => {
            "; serve as the user who owns it, or set AUTOAPPDEV_RUNTIME_DIR to another folder".to_owned()
        }
        _ => String::new(),
    };
    anyhow!("cannot open {}: {error}{advice}", path.display())
}

/// Returns what to do if the kernel refuses this user a file or directory in this user's runtime directory.
fn let_use(path: &Path) -> String {
    let dir = if path.is_dir() { None } else { path.parent() };
    // A file that this user cannot see may not exist.
    let file = Some(path).filter(|path| path.symlink_metadata().is_ok());
    let paths: Vec<_> = dir.into_iter().chain(file).map(quoted_path).collect();
    format!("let this user read and write it: `chmod u+rwX {}`", paths.join(" "))
}

pub(super) fn owned_already(runtime_dir: &Path, info: Option<&ServerInfo>) -> anyhow::Error {
    let who = info.map_or_else(
        || "another server, which is starting,".to_owned(),
        |info| match info.address {
            Some(address) => format!("the server with pid {} at http://{address}/", info.pid),
            None => format!("the server with pid {}", info.pid),
        },
    );
    anyhow!("{who} already uses {}; use that server, or set AUTOAPPDEV_RUNTIME_DIR to another folder", runtime_dir.display())
}

/// Opens a lock file, and reports whether this call created it.
fn open_lock(path: &Path) -> io::Result<(File, bool)> {
    match private_file().read(true).create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok((private::writable(path)?, false)),
        made => Ok((made?, true)),
    }
}

/// The database's lock and its file.
pub(super) struct OwnDatabase {
    lock: File,
    path: PathBuf,
    /// The runtime directory that has owned it so far.
    owner: PathBuf,
}

impl OwnDatabase {
    /// Locks the database.
    ///
    /// Two servers on one database, or a server that gets another runtime directory while a run is alive, would record each
    /// other's run as lost. A database in the runtime directory is no exception, because another server can be configured to
    /// use it too.
    pub(super) fn take(database: &Path, runtime_dir: &Path, made: &mut Made) -> anyhow::Result<Self> {
        let path = database_lock_path(database);
        let (mut lock, is_new) = open_lock(&path).with_context(|| {
            format!("cannot open {}; let this user write that folder, or name another database with DATABASE_URL", path.display())
        })?;
        retry_while_taken(runtime_dir, || Ok(lock.try_lock()?), io::ErrorKind::WouldBlock).map_err(|error| {
            let why = match holder_of_lock(&lock) {
                _ if error.kind() != io::ErrorKind::WouldBlock => format!("{error};"),
                Holder::Stranger(stranger) => format!("{stranger} has locked {}; end that process, or", path.display()),
                Holder::Server => "another server uses it;".to_owned(),
                Holder::Unknown => format!("{}, or", unknown_has_locked(&path)),
            };
            anyhow!("cannot use {}: {why} name another database with DATABASE_URL", database.display())
        })?;
        if is_new {
            made.made_file(&path);
        }
        let mut owner = Vec::new();
        (&mut lock).take(PATH_BYTES_MAX).read_to_end(&mut owner).with_context(|| format!("cannot read {}", path.display()))?;
        let owner = PathBuf::from(OsString::from_vec(owner));
        // The lock file can come with a cloned folder and name any directory. If other users can change that directory, no
        // server of this user has used it.
        let other = Some(&owner).filter(|owner| *owner != runtime_dir && !owner.as_os_str().is_empty());
        let checked = |dir: &PathBuf| resolve(dir, By::Server).and_then(|real| check_dir(&real, By::Server).map(|()| real));
        if let Some(Ok(other)) = other.map(checked) {
            let runs = Runs::new(other);
            let lives = |id: &i64| runs.run(*id).lock_state().is_ok_and(|state| state == LockState::Held);
            // A copy of the whole directory contains a copy of the database, which has the same runs, and no other server
            // writes to it.
            let here = Runs::new(runtime_dir.to_owned());
            let socket = |runs: &Runs, id| read_header(&runs.run(id).journal_path()).ok().and_then(|header| header.socket);
            let is_copied = |id: &i64| socket(&here, *id).is_some_and(|copied| socket(&runs, *id) == Some(copied));
            if let Some(id) = runs.ids().unwrap_or_default().iter().rev().find(|id| lives(id) && !is_copied(id)) {
                let (database, owner) = (database.display(), owner.display());
                bail!(
                    "cannot use {database}: its run {id} is still running in {owner}; set AUTOAPPDEV_RUNTIME_DIR to that folder until the run has ended"
                );
            }
        }
        Ok(Self { lock, path, owner })
    }

    /// Records the owner. This comes late, because a failed start must change nothing, but before anything of this runtime
    /// directory is recorded.
    pub(super) fn belong_to(&self, runtime_dir: &Path) -> anyhow::Result<()> {
        if self.owner == runtime_dir {
            // Not rewritten, because a kill in between would leave a live run's database without its owner.
            return Ok(());
        }
        let mut lock = &self.lock;
        lock.set_len(0)
            .inspect(|()| KillPoint::ServerDatabaseOwnerCleared.reach())
            .and_then(|()| lock.rewind())
            .and_then(|()| lock.write_all(runtime_dir.as_os_str().as_bytes()))
            .with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Returns the lock alone, which is held until it is closed.
    pub(super) fn into_lock(self) -> File {
        self.lock
    }
}

/// Returns the path of the lock file. It is beside the database's real file, even if a link leads to that.
pub(super) fn database_lock_path(database: &Path) -> PathBuf {
    beside(&database.canonicalize().unwrap_or_else(|_| database.to_owned()), DATABASE_LOCK_SUFFIX)
}

/// Retries for a moment while the result is `taken`. A killed server's lock and port are released a little after the kill, and
/// a restart may come before that.
pub(super) fn retry_while_taken<T>(
    runtime_dir: &Path,
    attempt: impl Fn() -> io::Result<T>,
    taken: io::ErrorKind,
) -> io::Result<T> {
    let began = Instant::now();
    let is_early = |waited| waited < RELEASE_LIMIT || waited < LET_GO_LIMIT_OF_DEAD && was_killed(runtime_dir);
    loop {
        match attempt() {
            Err(error) if error.kind() == taken && is_early(began.elapsed()) => thread::sleep(RELEASE_POLL),
            other => return other,
        }
    }
}

/// Checks whether the previous server ended without removing its `server.json`.
fn was_killed(runtime_dir: &Path) -> bool {
    let is_dead = |info: ServerInfo| match process::read_stat(info.pid) {
        Ok(stat) => stat.state == ProcState::Dead,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    // The path is resolved, because this is also called before the directory was checked.
    resolve(runtime_dir, By::Server).is_ok_and(|real| ServerInfo::read(&real).is_some_and(is_dead))
}
