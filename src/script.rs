//! From the name of a script to what is executed: resolved, inside the root, a regular file that can be run.
//!
//! Level 1. Reads only, and changes nothing. Called by the supervisor before a run is committed, so a refused name leaves no trace; and by the
//! shim, for the sentence about a program that the kernel did not execute.

mod elf;
mod first_line;
mod program;
mod shell_word;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::io::Errno;

use self::shell_word::quoted;

pub use program::{Attempt, Program, Unrunnable};

/// The longest path, in bytes (`PATH_MAX`, `path_resolution(7)`), and the longest of its parts.
const PATH_BYTES_MAX: usize = 4095;
const PART_BYTES_MAX: usize = 255;

/// Among so many words of a name and its arguments the script is looked for that was probably meant.
const MEANT_WORDS_MAX: usize = 8;

/// Arguments that are shorter than this together are repeated in the advice.
const SHOWN_ARGS_BYTES_MAX: usize = 200;

/// Why a script or a working directory cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ScriptError {
    /// No script was named, and none is configured.
    #[error(
        "no script was named, and none is configured; name one (`autoappdev start NAME`, or {{\"script\": \"NAME\"}} in a request), or set AUTOAPPDEV_PIPELINE_SCRIPT for the server"
    )]
    Unnamed,
    /// The root existed when the server started and does not exist now.
    #[error("the pipeline's root {root:?} cannot be used now: {reason}; AUTOAPPDEV_PIPELINE_CWD (or --root) names it")]
    NoRoot {
        /// As it is configured.
        root: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A NUL, an empty name, or one too long for the kernel.
    #[error("{what} {reason}")]
    BadName {
        /// `script` or `cwd`.
        what: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is nothing of that name.
    #[error("there is no script {name:?} in the pipeline's root; {}", hint.as_deref().unwrap_or("names are relative to it (AUTOAPPDEV_PIPELINE_CWD)"))]
    NotFound {
        /// As it was named.
        name: String,
        /// What was probably meant.
        hint: Option<String>,
    },
    /// Every link resolved, it lies outside of the root.
    #[error("{what} {name:?} is outside the pipeline's root; {}", hint.as_deref().unwrap_or("put it in there, or set AUTOAPPDEV_PIPELINE_CWD"))]
    OutsideRoot {
        /// `script` or `cwd`.
        what: &'static str,
        /// As it was named.
        name: String,
        /// What was probably meant.
        hint: Option<String>,
    },
    /// A folder, a device, a socket, a pipe.
    #[error("script {name:?} is {what}, not a regular file; name a script")]
    NotAFile {
        /// As it was named.
        name: String,
        /// What it is.
        what: &'static str,
    },
    /// It exists and cannot be run.
    #[error(transparent)]
    Unrunnable(#[from] Unrunnable),
    /// The working directory is missing or no folder.
    #[error("cwd {0:?} is no folder in the pipeline's root; create it, or name another")]
    NotAFolder(String),
    /// This user cannot enter the working directory.
    #[error("the server's user cannot enter cwd {0:?}; allow it with `chmod`, or name another folder")]
    ClosedFolder(String),
    /// It could not be read.
    #[error("{what} {name:?} could not be looked at: {reason}; let this user read it")]
    Unreadable {
        /// `script` or `cwd`.
        what: &'static str,
        /// As it was named.
        name: String,
        /// The kernel's error.
        reason: String,
    },
}

/// Resolves the configured root, which may be a link whose target has changed.
pub fn find_root(configured: &Path) -> Result<PathBuf, ScriptError> {
    let unusable = |reason| ScriptError::NoRoot { root: configured.display().to_string(), reason };
    let root = configured.canonicalize().map_err(|error| unusable(error.to_string()))?;
    if root.is_dir() { Ok(root) } else { Err(unusable("it is not a folder".to_owned())) }
}

/// Resolves `name` in `root`, which is absolute and without links, to a regular file. `args` are the client's: they help to suggest the intended
/// command if there is no such file.
pub fn find_script(root: &Path, name: &str, args: &[String]) -> Result<PathBuf, ScriptError> {
    const WHAT: &str = "script";
    let path = match resolve(root, WHAT, name) {
        Ok(Some(path)) => path,
        Ok(None) => return Err(ScriptError::NotFound { name: name.to_owned(), hint: what_was_meant(root, name, args) }),
        Err(ScriptError::OutsideRoot { what, name: outside, .. }) => {
            return Err(ScriptError::OutsideRoot { what, name: outside, hint: what_was_meant(root, name, args) });
        }
        Err(error) => return Err(error),
    };
    let metadata = fs::metadata(&path).map_err(|error| unreadable(WHAT, name, &error))?;
    if metadata.is_file() {
        return Ok(path);
    }
    let what = if metadata.is_dir() { "a folder" } else { "a device, a socket or a pipe" };
    Err(ScriptError::NotAFile { name: name.to_owned(), what })
}

/// Resolves a working directory in `root`.
pub fn find_cwd(root: &Path, name: &str) -> Result<PathBuf, ScriptError> {
    const WHAT: &str = "cwd";
    match resolve(root, WHAT, name) {
        Ok(Some(path)) if path.is_dir() => match rustix::fs::access(&path, Access::EXEC_OK) {
            Err(Errno::ACCESS) => Err(ScriptError::ClosedFolder(name.to_owned())),
            Ok(()) | Err(_) => Ok(path),
        },
        Ok(_) | Err(ScriptError::Unreadable { .. }) => Err(ScriptError::NotAFolder(name.to_owned())),
        Err(error) => Err(error),
    }
}

/// The command that was probably meant: a script together with its arguments in one name, or the script's interpreter in its place.
fn what_was_meant(root: &Path, name: &str, args: &[String]) -> Option<String> {
    let is_script = |word: &str| matches!(resolve(root, "script", word), Ok(Some(path)) if path.is_file());
    let mut words: Vec<&str> = name.split_ascii_whitespace().collect();
    let has_arguments = words.len() > 1;
    words.extend(args.iter().map(String::as_str));
    // The first word that is a script; a word that looks like an option of an interpreter is skipped.
    let at = words.iter().take(MEANT_WORDS_MAX).position(|word| !word.starts_with('-') && is_script(word))?;
    let (script, rest) = (words[at], &words[at + 1..]);
    let rest = rest.strip_prefix(&["--"]).unwrap_or(rest);
    let mut command = format!("autoappdev start {}", quoted(script));
    // Long argument lists are left out of the suggestion.
    if !rest.is_empty() && rest.iter().map(|word| word.len()).sum::<usize>() < SHOWN_ARGS_BYTES_MAX {
        let rest: Vec<String> = rest.iter().map(|word| quoted(word)).collect();
        command = format!("{command} -- {}", rest.join(" "));
    }
    match at {
        0 if has_arguments => Some(format!("pass the arguments separately: `{command}` (\"args\" in a request)")),
        0 => None,
        _ => Some(format!("name the script itself, {}, whose first line names its interpreter: `{command}`", quoted(script))),
    }
}

/// The path without links, `None` where there is nothing, an error where it leaves the root.
fn resolve(root: &Path, what: &'static str, name: &str) -> Result<Option<PathBuf>, ScriptError> {
    if name.is_empty() {
        return Err(ScriptError::BadName { what, reason: "is empty" });
    }
    if name.contains('\0') {
        return Err(ScriptError::BadName { what, reason: "contains a NUL" });
    }
    if name.len() > PATH_BYTES_MAX || name.split('/').any(|part| part.len() > PART_BYTES_MAX) {
        return Err(ScriptError::BadName { what, reason: "is longer than a path can be" });
    }
    let outside = || ScriptError::OutsideRoot { what, name: name.to_owned(), hint: None };
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
mod tests;
