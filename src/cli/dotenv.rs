//! The `.env` file of the working directory. It is read without blocking and without following a link, and is checked for
//! whether another user can have written it.

use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::config::{ConfigError, parse_dotenv};
use crate::real_path::real_path;
use crate::{private, user};

const BYTES_MAX: u64 = 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Dotenv {
    /// The settings, in the order of the file.
    pub(super) pairs: Vec<(String, OsString)>,
    /// Why another user can have written it, as a clause that follows "because".
    pub(super) problem: Option<String>,
}

impl Dotenv {
    /// Reads the file. A missing file has no settings.
    pub(super) fn read(cwd: &Path) -> io::Result<Result<Self, ConfigError>> {
        let path = cwd.join(".env");
        let file = match private::open_of_any_user(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(Self::default())),
            // A directory named `.env`, or a link to one, is usually a Python virtual environment.
            Err(_) if real_path(&path).is_ok_and(|real| real.is_dir()) => return Ok(Ok(Self::default())),
            Err(error) => return Err(error),
        };
        let problem = problem(&file.metadata()?);
        Ok(parse_dotenv(&private::read_open(file, BYTES_MAX)?).map(|pairs| Self { pairs, problem }))
    }
}

fn problem(found: &Metadata) -> Option<String> {
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    match () {
        () if !user::is_own_or_root(owner) => Some(format!("it belongs to {}", user::another(owner))),
        () if mode & 0o002 != 0 => Some(format!("every user can write to it (mode {mode:03o})")),
        () if mode & 0o020 != 0 => Some(format!("its group can write to it (mode {mode:03o})")),
        () => None,
    }
}
