//! `server.json` in the runtime directory: which server owns the directory, for client commands and for a second server.
//!
//! Level 1. It is written whole and renamed, so a reader finds all of it or nothing. A killed server leaves it behind, and a
//! copied folder contains a copy of it. So it counts only while a server holds the lock of the directory that the file was
//! written for.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::client_dir::ClientDir;
use super::settled::resolve_for_client;
use super::trusted::Distrust;
use crate::api::version::Server;
use crate::file_id::FileId;
use crate::kill_point::KillPoint;
use crate::path_json;
use crate::private::{self, replace_file};
use crate::random;

/// The name of the file in the runtime directory.
pub const NAME: &str = "server.json";

/// The name of the lock file, which the server that owns the runtime directory holds for as long as it lives. It also holds the
/// directory itself, because the file can be removed.
pub const LOCK_FILE: &str = "server.lock";

/// The maximum number of bytes that are read from the file.
const BYTES_MAX: u64 = 64 * 1024;

/// Creates the identity of a starting server. `GET /api/version` shows it, and the field `AutoAppDev-Server` of a request is
/// compared with it.
pub fn new_identity(runtime_dir: &Path) -> io::Result<Server> {
    let id = random::id()?;
    Ok(Server { id, runtime_dir: runtime_dir.to_string_lossy().into_owned() })
}

/// The server that was found in a runtime directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No live server.
    Nobody,
    /// A live server that has not recorded its address: it is just starting, or could not write its `server.json`.
    Silent,
    /// A live server, with its addresses.
    Live(ServerInfo),
}

/// A server's identity and addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// The server's process id.
    pub pid: u32,
    /// [`Server::id`].
    pub id: String,
    /// The runtime directory that the file was written into. A copy of the folder is another directory. A live server keeps the
    /// directory open, so no other directory has this id meanwhile.
    pub dir: FileId,
    /// The path that the server was started with, which may be a link. A client that arrives through another link does not
    /// follow one that the owner chose.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "path_json::option")]
    pub path: Option<PathBuf>,
    /// The first address at which it listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// The further addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_addresses: Vec<SocketAddr>,
    /// Its Unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "path_json::option")]
    pub socket: Option<PathBuf>,
}

impl ServerInfo {
    /// Reads the file, whether or not its server is alive. A missing, torn or foreign file, or a copy from another directory,
    /// is ignored.
    pub fn read(runtime_dir: &Path) -> Option<Self> {
        Self::try_to_read(runtime_dir).ok().flatten()
    }

    /// Reads the file if its server is alive. Another program may now use a killed server's address, so no secret must be sent
    /// there.
    pub fn read_live(runtime_dir: &Path) -> Option<Self> {
        match Self::find(runtime_dir, None) {
            Ok(Found::Live(info)) => Some(info),
            Ok(Found::Nobody | Found::Silent) | Err(_) => None,
        }
    }

    /// Finds the live server of a runtime directory, which must be inside `folder` if there is one.
    ///
    /// # Errors
    /// The directory or a required file in it cannot be read, so it is unknown whether there is a server; or the directory
    /// cannot be trusted, for the reason given by [`Distrust`] in the error.
    pub fn find(runtime_dir: &Path, folder: Option<&Path>) -> io::Result<Found> {
        Self::find_in_dir(runtime_dir, folder).map(|(found, _)| found)
    }

    /// Like [`ServerInfo::find`], but also returns the directory in which a server was found. Read other files of the directory
    /// only through this, because the path can lead to another directory meanwhile.
    ///
    /// # Errors
    /// The same as for [`ServerInfo::find`].
    pub fn find_in_dir(runtime_dir: &Path, folder: Option<&Path>) -> io::Result<(Found, Option<ClientDir>)> {
        let opened =
            resolve_for_client(runtime_dir, folder).and_then(|(real, has_link)| ClientDir::open(real).map(|dir| (dir, has_link)));
        let (dir, has_link) = match opened {
            Err(error) if is_absence(&error) => return Ok((Found::Nobody, None)),
            opened => opened?,
        };
        if !is_owned(dir.path())? {
            return Ok((Found::Nobody, None));
        }
        let info = Self::try_to_read(dir.path())?;
        let path_of_server = info.as_ref().and_then(|info| info.path.as_deref());
        if has_link && path_of_server != Some(runtime_dir) {
            return Err(Distrust::Link { target: dir.real().to_owned() }.into());
        }
        Ok((info.map_or(Found::Silent, Found::Live), Some(dir)))
    }

    fn try_to_read(runtime_dir: &Path) -> io::Result<Option<Self>> {
        let mut text = Vec::new();
        match private::open(&runtime_dir.join(NAME)) {
            Ok(file) => file.take(BYTES_MAX).read_to_end(&mut text)?,
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let info = serde_json::from_slice(&text).ok();
        let dir = FileId::of(runtime_dir)?;
        // Requests carry the id as a header field.
        let is_field = |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic());
        Ok(info.filter(|info: &Self| info.dir == dir && is_field(&info.id)))
    }

    /// Writes the file. If that fails, the previous server's file is removed anyway, because its addresses lead to no server.
    pub fn write(&self, runtime_dir: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self).expect("plain data");
        let write = || replace_file(&runtime_dir.join(NAME), &text, || KillPoint::ServerInfoBeside.reach());
        write().or_else(|_| {
            // On a full disk, this frees the space that is needed.
            let _was_none = Self::remove(runtime_dir);
            write()
        })
    }

    /// Removes the file at an orderly end.
    pub fn remove(runtime_dir: &Path) -> io::Result<()> {
        fs::remove_file(runtime_dir.join(NAME))
    }
}

/// Checks whether a server holds the lock of the directory or of the lock file in it.
fn is_owned(runtime_dir: &Path) -> io::Result<bool> {
    let mut unreadable = None;
    let mut has_looked = false;
    for opened in [private::open_dir(runtime_dir), private::open(&runtime_dir.join(LOCK_FILE))] {
        match opened {
            // Holding the lock for this moment delays no server, because a starting server retries.
            Ok(lock) => match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) {
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(true),
                // Not every file system can lock directories. There, the lock of the file counts.
                Ok(()) | Err(_) => has_looked = true,
            },
            Err(error) if is_absence(&error) => {}
            Err(error) => unreadable = Some(error),
        }
    }
    unreadable.filter(|_| !has_looked).map_or(Ok(false), Err)
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn info(dir: &Path) -> ServerInfo {
        ServerInfo {
            pid: 7,
            id: "abc".to_owned(),
            dir: FileId::of(dir).expect("there"),
            path: Some(dir.to_owned()),
            address: Some("127.0.0.1:9".parse().expect("an address")),
            more_addresses: vec!["[::1]:9".parse().expect("an address")],
            socket: Some("/r/server.sock".into()),
        }
    }

    /// Locks a runtime directory as a server does.
    fn own(dir: &Path, name: &str) -> File {
        let path = if name.is_empty() { dir.to_owned() } else { dir.join(name) };
        if !name.is_empty() {
            fs::write(&path, "").expect("writes");
        }
        let lock = File::open(path).expect("there");
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("free");
        lock
    }

    #[test]
    fn server_info_round_trips_and_damaged_file_is_ignored() {
        let dir = tempfile::tempdir().expect("a temp folder");
        assert_eq!(ServerInfo::read(dir.path()), None);
        let info = info(dir.path());
        info.write(dir.path()).expect("writes");
        assert_eq!(ServerInfo::read(dir.path()), Some(info));
        fs::write(dir.path().join(NAME), r#"{"pid":7,"address":"127.0.0.1:9"}"#).expect("writes");
        assert_eq!(ServerInfo::read(dir.path()), None, "it does not say for which directory");
        fs::write(dir.path().join(NAME), "{\"pid\":7").expect("writes");
        assert_eq!(ServerInfo::read(dir.path()), None);
        for id in ["", "a\nb", "a\0b", "a b", "\u{e9}"] {
            ServerInfo { id: id.to_owned(), ..self::info(dir.path()) }.write(dir.path()).expect("writes");
            assert_eq!(ServerInfo::read(dir.path()), None, "{id:?} is no header field");
        }
        ServerInfo::remove(dir.path()).expect("there");
        assert_eq!(ServerInfo::read(dir.path()), None);
    }

    #[test]
    fn server_info_counts_only_while_its_directory_is_locked() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let find = || ServerInfo::find(dir.path(), None).expect("readable");
        for name in ["", LOCK_FILE] {
            assert_eq!(find(), Found::Nobody);
            let lock = own(dir.path(), name);
            assert_eq!(find(), Found::Silent);
            info(dir.path()).write(dir.path()).expect("writes");
            assert_eq!(find(), Found::Live(info(dir.path())));
            drop(lock);
            assert_eq!(find(), Found::Nobody, "it is stale");
            ServerInfo::remove(dir.path()).expect("there");
        }
        assert_eq!(ServerInfo::find(&dir.path().join("missing"), None).expect("nothing to read"), Found::Nobody);
    }

    #[test]
    fn copy_of_server_info_in_another_directory_is_ignored() {
        let (dir, copy) = (tempfile::tempdir().expect("a temp folder"), tempfile::tempdir().expect("a temp folder"));
        let info = info(dir.path());
        info.write(dir.path()).expect("writes");
        fs::copy(dir.path().join(NAME), copy.path().join(NAME)).expect("copies");
        let _locks = [own(dir.path(), ""), own(copy.path(), "")];
        assert_eq!(ServerInfo::read_live(dir.path()), Some(info));
        assert_eq!(ServerInfo::find(copy.path(), None).expect("readable"), Found::Silent);
    }

    #[test]
    fn each_server_identity_is_unique() {
        let new = || new_identity(Path::new("/srv/a")).expect("random bytes");
        let (one, other) = (new(), new());
        assert!(one.id != other.id && one.id.len() == 32 && one.id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{one:?}");
        assert_eq!(one.runtime_dir, "/srv/a");
    }
}
