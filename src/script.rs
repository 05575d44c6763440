//! From the name of a script to what is executed: resolved, inside the root, a regular file.
//!
//! Level 1. Looks, and changes nothing. Called by the supervisor before a run is committed, so a refused name leaves no trace.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The longest path, in bytes (`PATH_MAX`, `path_resolution(7)`), and the longest of its parts.
const PATH_BYTES_MAX: usize = 4095;
const PART_BYTES_MAX: usize = 255;

/// Why a script or a working directory cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ScriptError {
    /// No script was named, and none is configured.
    #[error("no script was named; send {{\"script\": \"<name>\"}} or set AUTOAPPDEV_PIPELINE_SCRIPT")]
    Unnamed,
    /// A NUL, an empty name, or one too long for the kernel.
    #[error("{what} {reason}")]
    BadName {
        /// `script` or `cwd`.
        what: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is nothing of that name.
    #[error("there is no script {0:?} in the pipeline's root; names are relative to it (AUTOAPPDEV_PIPELINE_CWD)")]
    NotFound(String),
    /// Every link resolved, it lies outside of the root.
    #[error("{what} {name:?} lies outside of the pipeline's root; put it in there, or set AUTOAPPDEV_PIPELINE_CWD")]
    OutsideRoot {
        /// `script` or `cwd`.
        what: &'static str,
        /// As it was named.
        name: String,
    },
    /// A folder, a device, a socket, a pipe.
    #[error("script {0:?} is no regular file; name a script")]
    NotAFile(String),
    /// The working directory is missing or no folder.
    #[error("cwd {0:?} is no folder in the pipeline's root; create it, or name another")]
    NotAFolder(String),
    /// It could not be looked at.
    #[error("{what} {name:?} could not be looked at: {reason}; let this user read it")]
    Unreadable {
        /// `script` or `cwd`.
        what: &'static str,
        /// As it was named.
        name: String,
        /// What the kernel said.
        reason: String,
    },
}

/// What to execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The file, absolute and without links; or `bash`, wherever `PATH` has it.
    pub program: PathBuf,
    /// What comes in front of the client's arguments: the script, where the program is its interpreter.
    pub args: Vec<PathBuf>,
}

/// Resolves `name` in `root`, which is absolute and without links. With its execute bit a script is run as it is; without, by `bash`.
pub fn find_script(root: &Path, name: &str) -> Result<Program, ScriptError> {
    const WHAT: &str = "script";
    let path = resolve(root, WHAT, name)?.ok_or_else(|| ScriptError::NotFound(name.to_owned()))?;
    let metadata = fs::metadata(&path).map_err(|error| unreadable(WHAT, name, &error))?;
    if !metadata.is_file() {
        return Err(ScriptError::NotAFile(name.to_owned()));
    }
    if metadata.permissions().mode() & 0o111 != 0 {
        Ok(Program { program: path, args: Vec::new() })
    } else {
        Ok(Program { program: PathBuf::from("bash"), args: vec![path] })
    }
}

/// Resolves a working directory in `root`.
pub fn find_cwd(root: &Path, name: &str) -> Result<PathBuf, ScriptError> {
    const WHAT: &str = "cwd";
    match resolve(root, WHAT, name) {
        Ok(Some(path)) if path.is_dir() => Ok(path),
        Ok(_) | Err(ScriptError::Unreadable { .. }) => Err(ScriptError::NotAFolder(name.to_owned())),
        Err(error) => Err(error),
    }
}

/// The path without links, `None` where there is nothing, an error where it leaves the root.
fn resolve(root: &Path, what: &'static str, name: &str) -> Result<Option<PathBuf>, ScriptError> {
    if name.is_empty() {
        return Err(ScriptError::BadName { what, reason: "is empty" });
    }
    if name.contains('\0') {
        return Err(ScriptError::BadName { what, reason: "holds a NUL" });
    }
    if name.len() > PATH_BYTES_MAX || name.split('/').any(|part| part.len() > PART_BYTES_MAX) {
        return Err(ScriptError::BadName { what, reason: "is longer than a path can be" });
    }
    let outside = || ScriptError::OutsideRoot { what, name: name.to_owned() };
    let named = root.join(name);
    match named.canonicalize() {
        Ok(path) if path.starts_with(root) => Ok(Some(path)),
        Ok(_) => Err(outside()),
        // What cannot be resolved must not tell what is there outside of the root.
        Err(_) if leaves(root, &named) => Err(outside()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(unreadable(what, name, &error)),
    }
}

/// Whether a path whose end does not exist leaves the root: the longest part that does exist decides, and `..` after it.
fn leaves(root: &Path, path: &Path) -> bool {
    let mut existing = path;
    while let Some(parent) = existing.parent() {
        if let Ok(resolved) = existing.canonicalize() {
            let rest = path.strip_prefix(existing).unwrap_or(Path::new(""));
            let climbs = rest.components().any(|part| part == std::path::Component::ParentDir);
            return climbs || !resolved.starts_with(root);
        }
        existing = parent;
    }
    true
}

fn unreadable(what: &'static str, name: &str, error: &io::Error) -> ScriptError {
    ScriptError::Unreadable { what, name: name.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn a_root() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a temp folder");
        let outside = dir.path().canonicalize().expect("there");
        let root = outside.join("root");
        fs::create_dir_all(root.join("sub")).expect("creates");
        fs::write(outside.join("secret.sh"), "#!/bin/sh\n").expect("writes");
        for name in ["plain.sh", "sub/inner.sh"] {
            fs::write(root.join(name), "echo hi\n").expect("writes");
        }
        fs::write(root.join("exec.sh"), "#!/bin/sh\n").expect("writes");
        fs::set_permissions(root.join("exec.sh"), fs::Permissions::from_mode(0o755)).expect("ours");
        symlink("../secret.sh", root.join("link-out.sh")).expect("links");
        symlink("plain.sh", root.join("link-in.sh")).expect("links");
        symlink("..", root.join("up")).expect("links");
        symlink("nowhere", root.join("dangling.sh")).expect("links");
        symlink("loop", root.join("loop")).expect("links");
        (dir, root)
    }

    #[test]
    fn a_script_in_the_root_is_found_by_any_of_its_names() {
        let (_dir, root) = a_root();
        let by_bash = |name: &str| Program { program: "bash".into(), args: vec![root.join(name)] };
        let absolute = root.join("plain.sh").display().to_string();
        for (name, found) in [
            ("plain.sh", by_bash("plain.sh")),
            ("./sub/../plain.sh", by_bash("plain.sh")),
            ("link-in.sh", by_bash("plain.sh")),
            ("sub/inner.sh", by_bash("sub/inner.sh")),
            (absolute.as_str(), by_bash("plain.sh")),
            ("exec.sh", Program { program: root.join("exec.sh"), args: vec![] }),
        ] {
            assert_eq!(find_script(&root, name), Ok(found), "{name}");
        }
        assert_eq!(find_cwd(&root, "sub"), Ok(root.join("sub")));
        assert_eq!(find_cwd(&root, "."), Ok(root.clone()));
    }

    #[test]
    fn nothing_outside_of_the_root_is_found_by_any_name() {
        let (_dir, root) = a_root();
        let beside = root.with_file_name("secret.sh").display().to_string();
        let names = [
            "../secret.sh",
            "sub/../../secret.sh",
            "link-out.sh",
            "up/secret.sh",
            "/etc/passwd",
            beside.as_str(),
            "..",
            "/",
            "../nowhere.sh",
            "up/nowhere.sh",
            "/nowhere",
            "sub/nowhere/../../../x",
        ];
        for name in names {
            assert!(
                matches!(find_script(&root, name), Err(ScriptError::OutsideRoot { .. })),
                "{name}: {:?}",
                find_script(&root, name)
            );
            assert!(matches!(find_cwd(&root, name), Err(ScriptError::OutsideRoot { .. })), "{name}");
        }
        // A folder beside the root whose name begins like the root's is not in it.
        let twin = root.with_file_name("root2");
        fs::create_dir(&twin).expect("creates");
        fs::write(twin.join("x.sh"), "").expect("writes");
        assert!(matches!(find_script(&root, "../root2/x.sh"), Err(ScriptError::OutsideRoot { .. })));
    }

    #[test]
    fn what_is_no_script_is_refused_by_its_name() {
        let (_dir, root) = a_root();
        let long = "x".repeat(5_000);
        let long_part = format!("sub/{}", "x".repeat(256));
        assert!(matches!(find_script(&root, "nowhere.sh"), Err(ScriptError::NotFound(_))));
        assert!(matches!(find_script(&root, "dangling.sh"), Err(ScriptError::NotFound(_))));
        assert!(matches!(find_script(&root, "plain.sh/x"), Err(ScriptError::NotFound(_))));
        assert!(matches!(find_script(&root, "sub"), Err(ScriptError::NotAFile(_))));
        assert!(matches!(find_script(&root, "loop"), Err(ScriptError::Unreadable { .. })));
        for name in ["", "a\0b", long.as_str(), long_part.as_str()] {
            assert!(matches!(find_script(&root, name), Err(ScriptError::BadName { .. })));
            assert!(matches!(find_cwd(&root, name), Err(ScriptError::BadName { .. })));
        }
        assert!(matches!(find_cwd(&root, "plain.sh"), Err(ScriptError::NotAFolder(_))));
        assert!(matches!(find_cwd(&root, "nowhere"), Err(ScriptError::NotAFolder(_))));
    }
}
