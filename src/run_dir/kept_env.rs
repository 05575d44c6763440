//! `start.json`: the values of the variables that a start added to the environment. They can be secrets, so the file exists only
//! if the user chose to keep them. Written once, by the server, before it starts the run's shim.
//!
//! If killed while writing: the file is incomplete or empty, and its run never began. A power cut can leave the same for a run
//! that did begin. Then no value was kept.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::format::{FORMAT, format_of};
use super::lines::{from_line, to_line};
use crate::private::{self, private_file};

/// The longest file that is read, in bytes. The body of a start has at most 1 MiB, and this is a part of it.
const FILE_BYTES_MAX: u64 = 2 << 20;

/// The reasons why the kept values cannot be used. Each sentence fits after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum KeptEnvError {
    /// The file could not be read, or is not a file of this user.
    #[error("read start.json: {0}")]
    Io(#[from] io::Error),
    /// The file is torn, or another program wrote it.
    #[error("understand start.json: {0}")]
    Damaged(serde_json::Error),
    /// A newer version wrote the file.
    #[error("understand start.json: it has format {0}, but this version supports formats up to {FORMAT}")]
    Newer(u32),
}

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    format: u32,
    env: Cow<'a, BTreeMap<String, String>>,
}

/// Writes the values, unless a file exists already. Only this user can read them.
pub fn write_kept_env(path: &Path, env: &BTreeMap<String, String>) -> io::Result<()> {
    let mut file = private_file().create_new(true).open(path)?;
    file.write_all(&to_line(&Stored { format: FORMAT, env: Cow::Borrowed(env) }))?;
    file.sync_data()
}

/// Reads the kept values; `None` if there is no file.
pub fn read_kept_env(path: &Path) -> Result<Option<BTreeMap<String, String>>, KeptEnvError> {
    let bytes = match private::read(path, FILE_BYTES_MAX) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        bytes => bytes?,
    };
    let line = bytes.trim_ascii_end();
    match format_of(line).map_err(KeptEnvError::Damaged)? {
        FORMAT => {}
        newer => return Err(KeptEnvError::Newer(newer)),
    }
    from_line(line).map(|Stored { env, .. }| Some(env.into_owned())).map_err(KeptEnvError::Damaged)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn kept_values_round_trip_in_a_private_file() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("start.json");
        assert!(matches!(read_kept_env(&path), Ok(None)));
        let env = BTreeMap::from([("A".to_owned(), "x\n\u{e9}\u{1b}\"".to_owned()), ("B".to_owned(), String::new())]);
        write_kept_env(&path, &env).expect("writes");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(read_kept_env(&path).expect("reads"), Some(env.clone()));
        assert_eq!(write_kept_env(&path, &env).expect_err("written once").kind(), ErrorKind::AlreadyExists);
    }

    #[test]
    fn damaged_newer_or_oversized_kept_values_are_rejected() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("start.json");
        for text in ["", "{", r#"{"format":1}"#, r#"{"format":1,"env":{"A":1}}"#, "[1,{}]"] {
            fs::write(&path, text).expect("writes");
            assert!(matches!(read_kept_env(&path), Err(KeptEnvError::Damaged(_))), "{text}");
        }
        fs::write(&path, r#"{"format":2,"env":{}}"#).expect("writes");
        assert!(matches!(read_kept_env(&path), Err(KeptEnvError::Newer(2))));
        fs::File::create(&path).and_then(|file| file.set_len(FILE_BYTES_MAX + 1)).expect("a sparse file");
        assert!(matches!(read_kept_env(&path), Err(KeptEnvError::Io(error)) if error.kind() == ErrorKind::FileTooLarge));
        fs::remove_file(&path).and_then(|()| symlink("/etc/passwd", &path)).expect("links");
        assert!(matches!(read_kept_env(&path), Err(KeptEnvError::Io(error)) if error.kind() == ErrorKind::InvalidInput));
    }
}
