//! The `.gitignore` of the runtime directory. It keeps tokens, logs and the database out of a repository, and out of
//! `git stash -u`.
//!
//! Level 1. Written to a temporary name and renamed, so it is never incomplete. If killed here: the next server writes it.

use std::fs;
use std::io;
use std::path::Path;

use crate::config::DATABASE_DEFAULT;
use crate::kill_point::KillPoint;
use crate::private::replace_file;

/// The name of the file.
pub const NAME: &str = ".gitignore";
const BESIDE: &str = ".gitignore.new";

/// The pattern for everything in the directory, including this file.
const TEXT: &str = "*\n";

/// The prefixes of the files that servers of every version put into a runtime directory. The database and the server's log have
/// further files with longer names.
const OURS: [&str; 10] = [
    "server.",
    DATABASE_DEFAULT,
    "backend",
    "runs",
    "PAUSE",
    "token",
    "read-token",
    "session-key",
    "latest-run",
    "retention.json",
];

/// Writes the file unless it exists. A directory that also contains other files may be a user's repository, which must not be
/// hidden from git, so nothing is written there. An existing `.gitignore` is kept.
pub fn write_git_ignore(runtime_dir: &Path) -> io::Result<()> {
    let path = runtime_dir.join(NAME);
    if fs::symlink_metadata(&path).is_ok() || !holds_only_ours(runtime_dir)? {
        return Ok(());
    }
    replace_file(&path, TEXT.as_bytes(), || KillPoint::ServerGitIgnoreBeside.reach())
}

fn holds_only_ours(runtime_dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(runtime_dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name != BESIDE && !OURS.iter().any(|ours| name.starts_with(ours)) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_ignore_is_written_only_into_a_directory_of_our_files() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join(NAME);
        for ours in ["server.lock", "autoappdev.db-wal", "backend-00000000000000000007.log", "session-key", BESIDE] {
            fs::write(dir.path().join(ours), "").expect("writes");
        }
        write_git_ignore(dir.path()).expect("writes");
        assert_eq!(fs::read_to_string(&path).expect("there"), TEXT);
        assert!(!dir.path().join(BESIDE).exists());
        fs::write(&path, "token\n").expect("writes");
        write_git_ignore(dir.path()).expect("a look");
        assert_eq!(fs::read_to_string(&path).expect("there"), "token\n", "a user's file stays");
        fs::remove_file(&path).expect("removes");
        fs::write(dir.path().join("main.py"), "").expect("writes");
        write_git_ignore(dir.path()).expect("a look");
        assert!(!path.exists(), "a user's directory stays visible");
    }
}
