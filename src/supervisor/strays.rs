//! Live shims whose run directory was removed, replaced by a copy, or copied. The live process decides, not the files.
//!
//! The working directory of a process shows its run directory, and its second control socket shows its runtime directory.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::abstract_socket;
use crate::file_id::FileId;
use crate::process::{self, Identity};
use crate::run_dir::{Header, Runs};

/// The location of the shim that a journal names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// It is dead or exiting.
    Dead,
    /// There is no such process, as far as can be seen.
    Unseen,
    /// It belongs to the directory of the journal, to a removed directory, or to one that cannot be seen.
    Here,
    /// It belongs to another existing directory.
    Elsewhere(PathBuf),
}

/// Where the shim of this journal, which is in the run directory `dir`, is. An error only for a shortage, which leaves the answer open.
pub(super) fn whereabouts_of_shim(header: &Header, dir: &Path) -> io::Result<Whereabouts> {
    let shim = Identity { pid: header.shim_pid, start_ticks: header.shim_start_ticks };
    match process::lives(shim)? {
        Some(true) => {}
        Some(false) => return Ok(Whereabouts::Dead),
        None => return Ok(Whereabouts::Unseen),
    }
    Ok(match directory_of(shim.pid) {
        Some((_, directory)) if FileId::of(dir).is_ok_and(|ours| ours == FileId::from(&directory)) => Whereabouts::Here,
        Some((place, _)) => Whereabouts::Elsewhere(place),
        None => Whereabouts::Here,
    })
}

/// The socket of the shim of run `run_id`, if that lives and its directory was removed.
/// An error only for a shortage.
pub(super) fn socket_of(runs: &Runs, run_id: i64) -> io::Result<Option<String>> {
    for socket in sockets_of(runs, run_id)? {
        if is_stray(&socket)? {
            return Ok(Some(socket));
        }
    }
    Ok(None)
}

fn sockets_of(runs: &Runs, run_id: i64) -> io::Result<Vec<String>> {
    let all = abstract_socket::listening(&format!("{}{run_id}-", runs.socket_prefix()));
    Ok(unless_short(all)?.unwrap_or_default())
}

/// Whether another run lives whose processes carry the cookie of run `run_id` of `runs`: the numbers began anew there since the journal
/// that names `socket` was copied. An error only for a shortage.
pub(super) fn has_namesake(runs: &Runs, run_id: i64, socket: Option<&str>) -> io::Result<bool> {
    for other in sockets_of(runs, run_id)?.into_iter().filter(|other| socket != Some(other.as_str())) {
        let Some((_, Some(pid))) = unless_short(abstract_socket::connect(&other))? else { continue };
        // One that dies closes its sockets last.
        let Some(stat) = unless_short(process::read_stat(pid))? else { continue };
        if process::lives(stat.identity)? == Some(true) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The runs that live and carry this runtime directory's path, wherever their directories are: no other run may carry the same cookie.
pub(super) fn all(runs: &Runs) -> Vec<i64> {
    let sockets = abstract_socket::listening(&runs.socket_prefix()).unwrap_or_default();
    let ours = sockets.iter().filter(|socket| abstract_socket::connect(socket).is_ok());
    ours.filter_map(|socket| runs.run_of_socket(socket)).collect()
}

/// Whether a shim of this user whose directory was removed listens there. A shim whose directory is elsewhere belongs to the server there.
fn is_stray(socket: &str) -> io::Result<bool> {
    let connected = unless_short(abstract_socket::connect(socket))?;
    Ok(connected.and_then(|(_, pid)| pid).is_some_and(|pid| directory_of(pid).is_none()))
}

/// The result, if there is one.
fn unless_short<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if process::is_shortage(&error) => Err(error),
        other => Ok(other.ok()),
    }
}

/// The working directory of a process, if it is there and can be seen.
fn directory_of(pid: u32) -> Option<(PathBuf, Metadata)> {
    let link = format!("/proc/{pid}/cwd");
    let place = fs::read_link(&link).ok()?;
    // The kernel resolves it to the directory itself, whatever now has its path.
    let directory = fs::metadata(&link).ok()?;
    // Not every file system counts the names of a directory, so the kernel's "(deleted)" mark counts too (`proc_pid_cwd(5)`).
    let is_removed = directory.nlink() == 0 || place.to_string_lossy().ends_with(" (deleted)");
    (!is_removed).then_some((place, directory))
}
