//! The `.env` file of the working directory: read without waiting or following a link, and who can have written it.

use std::ffi::OsString;
use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::config::{ConfigError, parse_dotenv};
use crate::private;

const BYTES_MAX: u64 = 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Dotenv {
    /// The settings, in the order of the file.
    pub(super) pairs: Vec<(String, OsString)>,
    /// Who else can have written it, to be read after "because".
    pub(super) problem: Option<String>,
}

impl Dotenv {
    /// Reads the file, if there is one.
    pub(super) fn read(cwd: &Path) -> io::Result<Result<Self, ConfigError>> {
        let path = cwd.join(".env");
        let file = match private::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(Self::default())),
            // A folder named `.env` belongs to Python.
            Err(_) if path.is_dir() => return Ok(Ok(Self::default())),
            Err(error) => return Err(error),
        };
        let problem = problem(&file.metadata()?, rustix::process::geteuid().as_raw());
        let mut bytes = Vec::new();
        let count = file.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if count as u64 > BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
        }
        Ok(parse_dotenv(&bytes).map(|pairs| Self { pairs, problem }))
    }
}

fn problem(found: &Metadata, us: u32) -> Option<String> {
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    match () {
        () if owner != us && owner != 0 => Some(format!("it belongs to another user (uid {owner})")),
        () if mode & 0o002 != 0 => Some(format!("every user can write to it (mode {mode:03o})")),
        () if mode & 0o020 != 0 => Some(format!("its group can write to it (mode {mode:03o})")),
        () => None,
    }
}
