//! The runtime directory of a client command. It is determined once.
//!
//! Level 1. Root can run a command in another user's folder, and that user can replace the directory with a link to one of
//! root's at any time. So the directory is opened once, by a path without links, and its owner and all of its files are looked
//! up through that descriptor.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::trusted::{By, check_found};
use crate::file_id::FileId;
use crate::held_dir::HeldDir;
use crate::user;

/// An open runtime directory.
#[derive(Debug)]
pub struct ClientDir {
    real: PathBuf,
    dir: HeldDir,
    id: FileId,
    owner: u32,
}

impl ClientDir {
    /// Opens the directory at the path that `resolve` has returned, and checks that no other user can change it.
    pub(super) fn open(real: PathBuf) -> io::Result<Self> {
        let dir = HeldDir::open_real(&real)?;
        let found = File::from(dir.as_fd().try_clone_to_owned()?).metadata()?;
        check_found(&found, &real, By::Client)?;
        Ok(Self { id: FileId::from(&found), owner: found.uid(), real, dir })
    }

    /// Returns the directory's path without links, for messages.
    pub fn real(&self) -> &Path {
        &self.real
    }

    /// Returns the path through which its files are opened.
    pub fn path(&self) -> &Path {
        // Without /proc, a descriptor has no path. Only root can hide that from root.
        if FileId::of(self.dir.path()).is_ok_and(|id| id == self.id) { self.dir.path() } else { &self.real }
    }

    /// Returns the directory's identity.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Returns the directory's owner, the user that its server must run as.
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// Checks whether it belongs to this user or root, so that its server may receive this user's tokens.
    pub fn is_own(&self) -> bool {
        user::is_own_or_root(self.owner)
    }
}
