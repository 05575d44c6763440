//! `server.json` in the runtime directory: which server owns it, for client commands and for a second server.
//!
//! Level 1. Written whole and renamed, so a reader finds all of it or none. If killed before its removal: it names a server that does
//! not answer, which a reader finds out by asking.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::kill_point::KillPoint;
use crate::path_json;
use crate::private::private_file;

const NAME: &str = "server.json";

/// Held by the server that owns the runtime directory, for as long as it lives, as is the directory itself: somebody may remove the file.
pub const LOCK_FILE: &str = "server.lock";

/// The longest one that is read, in bytes.
const BYTES_MAX: u64 = 64 * 1024;

/// Who serves, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// The server's process id.
    pub pid: u32,
    /// Where it listens: the first of its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// Further addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_addresses: Vec<SocketAddr>,
    /// Its Unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "path_json::option")]
    pub socket: Option<PathBuf>,
}

impl ServerInfo {
    /// Reads it. A file that is missing, torn or not ours counts as none.
    pub fn read(runtime_dir: &Path) -> Option<Self> {
        let mut text = Vec::new();
        File::open(runtime_dir.join(NAME)).ok()?.take(BYTES_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The same, where that server lives. A killed one's address may be somebody else's by now: no secret may go there.
    pub fn read_live(runtime_dir: &Path) -> Option<Self> {
        // Who takes it for this moment holds up nobody: a server that begins tries again.
        let is_held = |path: PathBuf| {
            let lock = File::open(path).ok()?;
            Some(rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK))
        };
        let is_owned = [runtime_dir.to_owned(), runtime_dir.join(LOCK_FILE)].into_iter().any(|path| is_held(path) == Some(true));
        Self::read(runtime_dir).filter(|_| is_owned)
    }

    /// Writes it. On an error the one of the server before is gone all the same: it would send clients to where nobody is.
    pub fn write(&self, runtime_dir: &Path) -> io::Result<()> {
        let written = self.try_to_write(runtime_dir);
        if written.is_err() {
            // On a full disk this makes the room that is needed.
            let _was_none = Self::remove(runtime_dir);
            return self.try_to_write(runtime_dir);
        }
        written
    }

    fn try_to_write(&self, runtime_dir: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self).expect("plain data");
        let temporary = runtime_dir.join(format!("{NAME}.new"));
        private_file().truncate(true).open(&temporary)?.write_all(&text)?;
        KillPoint::ServerInfoBeside.reach();
        fs::rename(&temporary, runtime_dir.join(NAME))
    }

    /// Takes it away at an orderly end.
    pub fn remove(runtime_dir: &Path) -> io::Result<()> {
        fs::remove_file(runtime_dir.join(NAME))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_it_was_written_and_anything_else_is_none() {
        let dir = tempfile::tempdir().expect("a temp folder");
        assert_eq!(ServerInfo::read(dir.path()), None);
        let info = ServerInfo {
            pid: 7,
            address: Some("127.0.0.1:9".parse().expect("an address")),
            more_addresses: vec!["[::1]:9".parse().expect("an address")],
            socket: Some("/r/server.sock".into()),
        };
        info.write(dir.path()).expect("writes");
        assert_eq!(ServerInfo::read(dir.path()), Some(info.clone()));
        fs::write(dir.path().join(NAME), r#"{"pid":7,"address":"127.0.0.1:9"}"#).expect("writes");
        let older = ServerInfo { more_addresses: Vec::new(), socket: None, ..info };
        assert_eq!(ServerInfo::read(dir.path()), Some(older), "an older server's");
        fs::write(dir.path().join(NAME), "{\"pid\":7").expect("writes");
        assert_eq!(ServerInfo::read(dir.path()), None);
        ServerInfo::remove(dir.path()).expect("there");
        assert_eq!(ServerInfo::read(dir.path()), None);
    }
}
