//! The paths, without links, of the runtime directory, the database and the Unix socket that the settings name.
//!
//! Level 1. The default and a `.env` file can name places inside the folder only, with every link resolved. Both come with a
//! cloned project, which could otherwise lead `serve` to another project of the user. The limits of this folder would then
//! remove that project's history. The environment and the command line belong to the user and can name any place.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::trusted::{By, Distrust, resolve, resolve_links, resolve_new, resolve_new_database};
use crate::absent::if_there;
use crate::config::Config;
use crate::held_dir::has_entry;
use crate::private::beside;
use crate::user;

/// The suffixes of the database's files.
pub const DATABASE_SUFFIXES: [&str; 4] = ["", "-journal", "-wal", "-shm"];

/// Checks where a path leads. If `inside` names folders, the path must be in one of them. `setting` names the place in the
/// environment, up to the path in its value.
fn check_inside(path: &Path, real: PathBuf, inside: &[&Path], setting: &'static str) -> io::Result<PathBuf> {
    if inside.is_empty() || inside.iter().any(|folder| real.starts_with(folder)) {
        return Ok(real);
    }
    Err(Distrust::Outside { path: path.to_owned(), target: real, setting }.into())
}

/// Resolves a runtime directory. If only a `.env` file or the default names it, it must be inside the folder.
pub fn resolve_runtime_dir(runtime_dir: &Path, by: By, folder: Option<&Path>) -> io::Result<PathBuf> {
    check_inside(runtime_dir, resolve(runtime_dir, by)?, folder.as_slice(), "AUTOAPPDEV_RUNTIME_DIR=")
}

/// Like [`resolve_runtime_dir`], for a client. Also returns whether the path contains a link.
pub(super) fn resolve_for_client(runtime_dir: &Path, folder: Option<&Path>) -> io::Result<(PathBuf, bool)> {
    let (real, has_link) = resolve_links(runtime_dir, By::Client)?;
    Ok((check_inside(runtime_dir, real, folder.as_slice(), "AUTOAPPDEV_RUNTIME_DIR=")?, has_link))
}

/// Resolves the directory of the Unix socket at `path`. A server removes the socket of a killed server there, and then listens.
pub fn resolve_socket(path: &Path, config: &Config) -> io::Result<PathBuf> {
    let inside: &[&Path] = if config.is_socket_named { &[] } else { &[&config.folder, &config.runtime_dir] };
    check_inside(path, resolve_new(path, By::Server)?, inside, "AUTOAPPDEV_SOCKET=")
}

/// Resolves the database of a configuration whose runtime directory is resolved. Checks that no other user owns one of the
/// database's files.
pub fn resolve_database(config: &Config, by: By) -> io::Result<PathBuf> {
    let inside: &[&Path] = if config.is_database_named { &[] } else { &[&config.folder, &config.runtime_dir] };
    let mut real = check_inside(&config.database, resolve(&config.database, by)?, inside, "DATABASE_URL=sqlite:")?;
    // Another user could create a missing folder before the database is created in it. A client creates none.
    if by == By::Server || real.parent().is_some_and(has_entry) {
        real = resolve_new_database(&real, by).map_err(|error| match (error.kind(), real.parent()) {
            (io::ErrorKind::NotFound, Some(dir)) => {
                io::Error::new(error.kind(), format!("its folder {} does not exist; create it", dir.display()))
            }
            _ => error,
        })?;
    }
    for path in DATABASE_SUFFIXES.map(|suffix| beside(&real, suffix)) {
        if let Some(found) = if_there(fs::symlink_metadata(&path))?
            && !user::is_trusted_owner(found.uid(), &path)
        {
            return Err(Distrust::FileOwner { path, owner: found.uid() }.into());
        }
    }
    Ok(real)
}
