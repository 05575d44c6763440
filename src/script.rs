//! From the name of a script to the program that is executed. The name is resolved, and must lead to a regular file inside the
//! root that can be run.
//!
//! Level 1. Reads only, and changes nothing. The supervisor calls it before a run is committed, so a refused name leaves no
//! trace. The shim calls it for the sentence about a program that the kernel did not execute.

mod elf;
mod first_line;
mod list;
mod program;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::io::Errno;

use crate::real_path::real_path;
use crate::shell_word::quoted;

pub use list::{LIST_LIMIT, Listed, Listing, Wanted};
pub use program::{Attempt, Program, Unrunnable, decides_what_env_runs};

/// The maximum length of a path, in bytes (`PATH_MAX`, `path_resolution(7)`), and of one of its parts.
const PATH_BYTES_MAX: usize = 4095;
const PART_BYTES_MAX: usize = 255;

/// The number of words, in a name and its arguments, among which to look for the script that was probably meant.
const SUGGESTION_WORDS_MAX: usize = 8;

/// Arguments are repeated in the advice if they are shorter than this, all together.
const SHOWN_ARGS_BYTES_MAX: usize = 200;

/// Why a script or a working directory cannot be used. Each variant is a reason that clients can distinguish, and each text is
/// a sentence that says what to do.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ScriptError {
    /// No script was named, and none is configured.
    #[error(
        "no script was named, and none is configured; name one (`autoappdev start NAME`, or {{\"script\": \"NAME\"}} in a request), or set AUTOAPPDEV_PIPELINE_SCRIPT for the server"
    )]
    Unnamed,
    /// A name that no file can have, or a working directory that cannot be used.
    #[error("{0}")]
    BadName(String),
    /// No file of that name exists, or the root is missing.
    #[error("{0}")]
    NotFound(String),
    /// The path without links is outside the root.
    #[error("{0}")]
    OutsideRoot(String),
    /// It is not a regular file, or could not be read.
    #[error("{0}")]
    Unusable(String),
    /// It exists, but cannot be run.
    #[error(transparent)]
    Unrunnable(#[from] Unrunnable),
}

/// Resolves the configured root, which may be a link whose target has changed.
pub fn find_root(configured: &Path) -> Result<PathBuf, ScriptError> {
    let unusable = |reason: &str| {
        let root = configured.display().to_string();
        let advice = "AUTOAPPDEV_PIPELINE_CWD (or --root) names it";
        ScriptError::NotFound(format!("the pipeline's root {root:?} cannot be used now: {reason}; {advice}"))
    };
    let root = real_path(configured).map_err(|error| unusable(&error.to_string()))?;
    if root.is_dir() { Ok(root) } else { Err(unusable("it is not a folder")) }
}

/// Resolves `name` in `root`, which is absolute and without links, to a regular file. `args` are the client's, and are used to
/// suggest the intended command if there is no such file.
pub fn find_script(root: &Path, name: &str, args: &[String]) -> Result<PathBuf, ScriptError> {
    const WHAT: &str = "script";
    let path = match resolve(root, WHAT, name)? {
        Place::Inside(path) => path,
        Place::Outside => return Err(outside(WHAT, name, suggest_command(root, name, args).as_deref())),
        Place::Nowhere => {
            let hint = suggest_command(root, name, args);
            let hint = hint.as_deref().unwrap_or("names are relative to it (AUTOAPPDEV_PIPELINE_CWD)");
            return Err(ScriptError::NotFound(format!("there is no script {name:?} in the pipeline's root; {hint}")));
        }
    };
    let metadata = fs::metadata(&path).map_err(|error| unreadable(WHAT, name, &error))?;
    if metadata.is_file() {
        return Ok(path);
    }
    let what = if metadata.is_dir() { "a folder" } else { "a device, a socket or a pipe" };
    Err(ScriptError::Unusable(format!("script {name:?} is {what}, not a regular file; name a script")))
}

/// Resolves a working directory in `root`.
pub fn find_cwd(root: &Path, name: &str) -> Result<PathBuf, ScriptError> {
    const WHAT: &str = "cwd";
    match resolve(root, WHAT, name) {
        Ok(Place::Inside(path)) if path.is_dir() => match rustix::fs::access(&path, Access::EXEC_OK) {
            Err(Errno::ACCESS) => Err(ScriptError::BadName(format!(
                "the server's user cannot enter cwd {name:?}; allow it with `chmod`, or name another folder"
            ))),
            Ok(()) | Err(_) => Ok(path),
        },
        Ok(Place::Outside) => Err(outside(WHAT, name, None)),
        Ok(Place::Inside(_) | Place::Nowhere) | Err(ScriptError::Unusable(_)) => {
            Err(ScriptError::BadName(format!("cwd {name:?} is not a folder in the pipeline's root; create it, or name another")))
        }
        Err(error) => Err(error),
    }
}

/// Lists the scripts in `root`, which is absolute and without links, that can be started with only their name.
pub fn list_scripts(root: &Path, wanted: &Wanted<'_>) -> Result<Listing, ScriptError> {
    list::list(root, wanted, |name| find_script(root, name, &[]).ok()).map_err(|error| {
        let root = root.display().to_string();
        ScriptError::NotFound(format!("the pipeline's root {root:?} cannot be listed: {error}; let this user read it"))
    })
}

/// Returns the command that was probably meant: the name may contain a script and its arguments, or a script's interpreter.
fn suggest_command(root: &Path, name: &str, args: &[String]) -> Option<String> {
    let is_script = |word: &str| matches!(resolve(root, "script", word), Ok(Place::Inside(path)) if path.is_file());
    let mut words: Vec<&str> = name.split_ascii_whitespace().collect();
    let has_arguments = words.len() > 1;
    words.extend(args.iter().map(String::as_str));
    // Finds the first word that is a script. A word that looks like an option of an interpreter is skipped.
    let at = words.iter().take(SUGGESTION_WORDS_MAX).position(|word| !word.starts_with('-') && is_script(word))?;
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

/// The place to which a name leads.
enum Place {
    /// This path without links, in the root.
    Inside(PathBuf),
    Outside,
    /// Nothing.
    Nowhere,
}

fn resolve(root: &Path, what: &str, name: &str) -> Result<Place, ScriptError> {
    let bad = |reason| Err(ScriptError::BadName(format!("{what} {reason}")));
    if name.is_empty() {
        return bad("is empty");
    }
    if name.contains('\0') {
        return bad("contains a NUL");
    }
    if name.len() > PATH_BYTES_MAX || name.split('/').any(|part| part.len() > PART_BYTES_MAX) {
        return bad("is longer than a path can be");
    }
    let named = root.join(name);
    match real_path(&named) {
        Ok(path) if path.starts_with(root) => Ok(Place::Inside(path)),
        Ok(_) => Ok(Place::Outside),
        // An error must not reveal what exists outside the root.
        Err(_) if leaves(root, &named) => Ok(Place::Outside),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Place::Nowhere),
        Err(error) => Err(unreadable(what, name, &error)),
    }
}

/// Checks whether a path whose end does not exist leaves the root, by the longest part that exists, and any `..` after it.
fn leaves(root: &Path, path: &Path) -> bool {
    let mut existing = path;
    while let Some(parent) = existing.parent() {
        if let Ok(resolved) = real_path(existing) {
            let rest = path.strip_prefix(existing).unwrap_or(Path::new(""));
            let climbs = rest.components().any(|part| part == std::path::Component::ParentDir);
            return climbs || !resolved.starts_with(root);
        }
        existing = parent;
    }
    true
}

fn outside(what: &str, name: &str, hint: Option<&str>) -> ScriptError {
    let hint = hint.unwrap_or("put it in there, or set AUTOAPPDEV_PIPELINE_CWD");
    ScriptError::OutsideRoot(format!("{what} {name:?} is outside the pipeline's root; {hint}"))
}

fn unreadable(what: &str, name: &str, error: &io::Error) -> ScriptError {
    ScriptError::Unusable(format!("{what} {name:?} could not be inspected: {error}; let this user read it"))
}

#[cfg(test)]
mod tests;
