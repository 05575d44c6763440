//! Live shims whose run directory was removed, replaced by a copy, or copied. The live process decides, not the files.
//!
//! The working directory of a process shows its run directory, and its second control socket shows its runtime directory.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::abstract_socket;
use crate::file_id::FileId;
use crate::process::{self, CarrierSearch, Identity};
use crate::run_dir::{Header, LockState, RunDir, Runs};

/// The location of the shim that a journal names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// It is dead or exiting.
    Dead,
    /// There is no such process, as far as can be seen, or it is not a shim.
    Unseen,
    /// It belongs to the directory of the journal, to a removed directory, or to one that cannot be seen.
    Here,
    /// It belongs to another existing directory.
    Elsewhere(PathBuf),
}

/// Finds the shim of this journal, which is in the run directory `dir`. Fails only for a lack of resources, when the result is
/// unknown.
pub(super) fn whereabouts_of_shim(header: &Header, dir: &Path) -> io::Result<Whereabouts> {
    let shim = Identity { pid: header.shim_pid, start_ticks: header.shim_start_ticks };
    // A process of another user is not the shim, which has this server's user. Its directory is not accessed: the file system of
    // another user could block this thread.
    if matches!(unless_short(process::other_user_of(shim.pid))?, Some(Some(_))) {
        return Ok(Whereabouts::Unseen);
    }
    match process::lives(shim)? {
        Some(true) => {}
        Some(false) => return Ok(Whereabouts::Dead),
        None => return Ok(Whereabouts::Unseen),
    }
    // The journal of a clone can name any process. The directory of a process of root, of one that is not dumpable, or of one
    // whose directory was removed would not show that it is not a shim.
    if !process::is_shim(shim.pid)? {
        return Ok(Whereabouts::Unseen);
    }
    Ok(match directory_of(shim.pid) {
        Some((_, directory)) if FileId::of(dir).is_ok_and(|ours| ours == FileId::from(&directory)) => Whereabouts::Here,
        Some((place, _)) => Whereabouts::Elsewhere(place),
        None => Whereabouts::Here,
    })
}

/// Checks whether the process `pid`, which listens on the abstract socket `name` from a journal, can be the shim of run `run_id`.
/// The journal of a clone can name the socket of any process of this user, such as the shim of another project.
pub(super) fn can_be_shim(runs: &Runs, run_id: i64, name: &str, pid: Option<u32>) -> bool {
    match pid.and_then(directory_of) {
        Some((_, directory)) => FileId::of(runs.run(run_id).path()).is_ok_and(|ours| ours == FileId::from(&directory)),
        // Its directory was removed, or cannot be seen. Then the socket's name shows the path of its runtime directory.
        None => runs.run_of_socket(name) == Some(run_id),
    }
}

/// A socket on which a process of this user or of root listens, or seems to listen.
struct Own {
    name: String,
    run_id: i64,
    /// The process, if it has a pid in this namespace.
    pid: Option<u32>,
}

/// Returns the socket of the shim of run `run_id` if the shim is alive and its directory was removed. Fails only for a lack of
/// resources.
pub(super) fn socket_of(runs: &Runs, run_id: i64) -> io::Result<Option<String>> {
    // A shim whose directory is elsewhere belongs to the server there.
    let is_stray = |own: &Own| own.pid.is_some_and(|pid| directory_of(pid).is_none());
    Ok(own_sockets(runs, Some(run_id))?.into_iter().find(is_stray).map(|own| own.name))
}

/// Checks whether another live run has processes with the cookie of run `run_id` of `runs`, because the numbers started again
/// after the journal that names `socket` was copied. Without a mark, a shim whose socket is in another network namespace counts
/// as well. Fails only for a lack of resources.
pub(super) fn has_namesake(runs: &Runs, run_id: i64, socket: Option<&str>, has_mark: bool) -> io::Result<bool> {
    if !has_mark && live_shims(runs)?.into_iter().any(|(id, pid)| id == run_id && process::has_our_paths(pid)) {
        return Ok(true);
    }
    for other in own_sockets(runs, Some(run_id))?.into_iter().filter(|other| socket != Some(other.name.as_str())) {
        let Some(pid) = other.pid else { continue };
        // A process that is dying closes its sockets last.
        let Some(stat) = unless_short(process::read_stat(pid))? else { continue };
        if process::lives(stat.identity)? == Some(true) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the live runs of this runtime directory's path, wherever their directories are: no other run may have the same cookie.
pub(super) fn all(runs: &Runs) -> io::Result<Vec<i64>> {
    Ok(own_sockets(runs, None)?.into_iter().map(|own| own.run_id).collect())
}

/// Returns the sockets of run `run_id`, or of all runs, on which this user or root listens. Fails only for a lack of resources.
///
/// Never waits for a listener: every user can read the prefix, listen on such a name, and let connections queue up. The user of a
/// listener with a full queue is unknown. It counts if a shim of that run is alive, because another user may have filled the
/// shim's queue.
fn own_sockets(runs: &Runs, run_id: Option<i64>) -> io::Result<Vec<Own>> {
    let prefix = runs.socket_prefix() + &run_id.map(|run_id| format!("{run_id}-")).unwrap_or_default();
    let (mut own, mut busy) = (Vec::new(), Vec::new());
    for name in unless_short(abstract_socket::listening(&prefix))?.unwrap_or_default() {
        let Some(run_id) = runs.run_of_socket(&name) else { continue };
        match abstract_socket::connect(&name, Duration::ZERO) {
            Ok((_, pid)) => own.push(Own { name, run_id, pid }),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => busy.push((name, run_id)),
            Err(error) if process::is_shortage(&error) => return Err(error),
            Err(_) => {}
        }
    }
    if !busy.is_empty() {
        // One scan of the processes, however many such names there are.
        let shims = live_shims(runs)?;
        own.extend(busy.into_iter().filter_map(|(name, run_id)| {
            let &(_, pid) = shims.iter().find(|&&(id, _)| id == run_id)?;
            Some(Own { name, run_id, pid: Some(pid) })
        }));
    }
    Ok(own)
}

/// Creates a search for the processes of run `run_id`, which is lost, by their cookie. `given` is the runtime directory that the
/// run was given.
///
/// A container can have another directory at the same path, and a run there can have the same number. So a process with its own
/// mount namespace or root directory belongs to the run only if its path leads to this server's directory. A mark is a better
/// proof, but it can come from a copied journal whose run is alive. In that case the lock of the run is held in the file system
/// that the processes see. The same holds if the directory was moved.
pub(super) fn search_for_run(
    cookie: Vec<Vec<u8>>,
    given: &Runs,
    run_id: i64,
    has_mark: bool,
    is_elsewhere: bool,
) -> CarrierSearch {
    let (dir, run) = (given.runtime_dir().to_owned(), given.run(run_id));
    // Another directory is not checked without a mark, because a journal can name any directory.
    let ours = if has_mark || is_elsewhere { None } else { FileId::of(&dir).ok() };
    CarrierSearch::new(cookie, is_elsewhere, move |root| {
        let Some(root) = root else { return has_mark };
        let there = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
        if !has_mark {
            return ours.is_some() && FileId::of(&there(&dir)).ok() == ours;
        }
        match RunDir::at(there(run.path())).lock_state() {
            Ok(state) => state == LockState::Free,
            // The file system could return a shortage again and again to delay the search, so the process is spared, and
            // reported.
            Err(error) => !process::is_shortage(&error),
        }
    })
}

/// Returns the shims of this user or root that were started for runs of this runtime directory's path, by their arguments.
fn live_shims(runs: &Runs) -> io::Result<Vec<(i64, u32)>> {
    let run_of = |dir: &[u8]| {
        let name = Path::new(OsStr::from_bytes(dir)).strip_prefix(runs.path()).ok()?.to_str()?;
        name.parse::<i64>().ok().filter(|&run_id| run_id > 0)
    };
    process::with_arguments(|arguments| match arguments {
        [_, mode, dir] if mode == b"shim" => run_of(dir),
        _ => None,
    })
}

/// Returns the result as an option, but passes on a lack of resources as an error.
fn unless_short<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if process::is_shortage(&error) => Err(error),
        other => Ok(other.ok()),
    }
}

/// Returns the working directory of a process, if it exists and can be seen.
fn directory_of(pid: u32) -> Option<(PathBuf, Metadata)> {
    let link = format!("/proc/{pid}/cwd");
    let place = fs::read_link(&link).ok()?;
    // The kernel resolves the link to the directory itself, whatever has its path now.
    let directory = fs::metadata(&link).ok()?;
    // Not every file system counts the links to a directory, so the kernel's "(deleted)" mark counts too (`proc_pid_cwd(5)`).
    let is_removed = directory.nlink() == 0 || place.to_string_lossy().ends_with(" (deleted)");
    (!is_removed).then_some((place, directory))
}
