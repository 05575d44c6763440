//! The scripts in a folder and in the folders below it, as far as a bounded scan finds them.
//!
//! Reads only. Files that a start would refuse are left out, by the same code that a start uses. So is this program, which is
//! often copied beside the scripts. Links to folders are not followed, so there are no cycles, and every loop here ends at a
//! limit.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::first_line::{Beginning, beginning};
use super::program::{Attempt, is_env, open, read_head};
use crate::clock::Timestamp;

/// The time limit of a scan. It is checked at each entry, so one call to a slow file system can exceed it.
pub const LIST_LIMIT: Duration = Duration::from_millis(500);

/// The maximum number of directory entries that are scanned.
const ENTRIES_MAX: usize = 5000;

/// The maximum number of folders above a script, within the root.
const DEPTH_MAX: usize = 4;

/// Folders with files of other programs. These can be many, and are rarely scripts that a user wants to start.
const LEFT_OUT: [&str; 5] = ["node_modules", "target", "__pycache__", "venv", "site-packages"];

/// The interpreter that is shown for a script that needs none.
const ITSELF: &str = "itself";

/// The filter and the limits of a scan.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The text that the paths must contain, in upper or lower case.
    pub find: Option<&'a str>,
    /// The folder that is left out: the runtime directory.
    pub left_out: &'a Path,
    /// The server's `PATH`, as for a start.
    pub search_path: Option<&'a OsStr>,
    /// The time limit of the scan.
    pub limit: Duration,
}

/// The scripts that were found, in no particular order.
#[derive(Debug, PartialEq, Eq)]
pub struct Listing {
    /// The scripts.
    pub scripts: Vec<Listed>,
    /// Whether a limit ended the scan, or a folder was too deep.
    pub is_cut: bool,
}

/// A script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The path relative to the root, which a start accepts as the name of the script.
    pub path: String,
    /// The size of the file, in bytes.
    pub size: u64,
    /// When its contents last changed.
    pub modified_at: Timestamp,
    /// The name of its interpreter, or `itself`.
    pub run_by: String,
}

/// This program. Its size and its first bytes, which locate its sections, distinguish it from other programs and from other versions of
/// itself. A copy has the same.
struct Program {
    bytes: u64,
    head: Vec<u8>,
}

impl Program {
    fn own() -> io::Result<Self> {
        let file = open(Path::new("/proc/self/exe"))?;
        Ok(Self { bytes: file.metadata()?.len(), head: read_head(&file)? })
    }
}

/// Scans `root`, the nearest folders first. `find_file` resolves a name to a file, as for a start.
pub(super) fn list(root: &Path, wanted: &Wanted<'_>, find_file: impl Fn(&str) -> Option<PathBuf>) -> io::Result<Listing> {
    let own = Program::own().ok();
    let (begun, find) = (Instant::now(), wanted.find.map(str::to_lowercase));
    let is_found = |path: &str| find.as_ref().is_none_or(|find| path.to_lowercase().contains(find));
    let mut listing = Listing { scripts: Vec::new(), is_cut: false };
    let mut folders = VecDeque::from([(String::new(), 0)]);
    let mut seen = 0;
    while let Some((folder, depth)) = folders.pop_front() {
        let entries = match fs::read_dir(root.join(&folder)) {
            Ok(entries) => entries,
            Err(error) if depth == 0 => return Err(error),
            // A script in a folder that cannot be listed can still be started by its name.
            Err(_) => continue,
        };
        for entry in entries {
            if seen == ENTRIES_MAX || begun.elapsed() >= wanted.limit {
                listing.is_cut = true;
                return Ok(listing);
            }
            seen += 1;
            let Ok((name, kind)) = entry.and_then(|entry| Ok((entry.file_name(), entry.file_type()?))) else { continue };
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.') && !name.contains(char::is_control)) else {
                continue;
            };
            let path = format!("{folder}{name}");
            if kind.is_dir() {
                if LEFT_OUT.contains(&name) || root.join(&path) == wanted.left_out {
                } else if depth == DEPTH_MAX {
                    listing.is_cut = true;
                } else {
                    folders.push_back((path + "/", depth + 1));
                }
            } else if (kind.is_file() || kind.is_symlink())
                && is_found(&path)
                && let Some(file) = find_file(&path)
            {
                listing.scripts.extend(script(root, &file, path, wanted.search_path, own.as_ref()));
            }
        }
    }
    Ok(listing)
}

/// Describes a file if it is a script. A script has its execute bit, names its interpreter, or has a name that ends in `.sh`,
/// and a start accepts it. `own` is this program's file.
fn script(root: &Path, file: &Path, path: String, search_path: Option<&OsStr>, own: Option<&Program>) -> Option<Listed> {
    let metadata = fs::metadata(file).ok()?;
    // A program need not be readable.
    let head = open(file).and_then(|file| read_head(&file)).unwrap_or_default();
    if own.is_some_and(|own| own.bytes == metadata.len() && own.head == head) {
        return None;
    }
    let is_executable = metadata.permissions().mode() & 0o111 != 0;
    // A program does not have to be readable.
    let head = open(file).and_then(|file| read_head(&file)).unwrap_or_default();
    let beginning = beginning(&head);
    let is_candidate = match beginning {
        Beginning::Interpreter { .. } => true,
        Beginning::Elf if is_library(&path) => false,
        _ => is_executable || has_ending(&path, "sh"),
    };
    if !is_candidate {
        return None;
    }
    let attempt = Attempt { file, name: &path, cwd: root, search_path, has_own_path: false };
    let program = attempt.program().ok()?;
    let run_by = match beginning {
        Beginning::Interpreter { path, argument } => interpreter(root, path, argument),
        _ if program.args.is_empty() => None,
        _ => base_name(program.program.as_os_str()),
    };
    let modified_ms = metadata.mtime().saturating_mul(1000).saturating_add(metadata.mtime_nsec() / 1_000_000);
    Some(Listed {
        size: metadata.len(),
        modified_at: Timestamp::from_unix_ms(modified_ms),
        run_by: run_by.unwrap_or_else(|| ITSELF.to_owned()),
        path,
    })
}

/// Checks for names such as `libx.so` and `libx.so.1`. Build tools give shared objects an execute bit.
fn is_library(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    has_ending(name, "so") || name.contains(".so.")
}

fn has_ending(path: &str, ending: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found.eq_ignore_ascii_case(ending))
}

/// Returns the interpreter's name without its folder. For `env`, this is the name of the program that `env` searches for.
fn interpreter(root: &Path, path: &[u8], argument: Option<&[u8]>) -> Option<String> {
    let named = OsStr::from_bytes(path);
    let words = argument.filter(|_| is_env(&root.join(named))).map(String::from_utf8_lossy).unwrap_or_default();
    let words = words.strip_prefix("-S").unwrap_or(&words);
    let searched = words.split_ascii_whitespace().find(|word| !word.starts_with('-') && !word.contains('='));
    searched.and_then(|searched| base_name(OsStr::new(searched))).or_else(|| base_name(named))
}

fn base_name(program: &OsStr) -> Option<String> {
    let name = Path::new(program).file_name()?.to_str()?;
    (!name.contains(char::is_control)).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_scan_stops_at_its_time_limit() {
        let dir = tempfile::tempdir().expect("a temp folder");
        fs::write(dir.path().join("a.sh"), "").expect("writes");
        let within = |limit| {
            let path = std::env::var_os("PATH");
            let wanted = Wanted { find: None, left_out: Path::new("/"), search_path: path.as_deref(), limit };
            list(dir.path(), &wanted, |name| Some(dir.path().join(name))).expect("readable")
        };
        let whole = within(Duration::MAX);
        assert_eq!((whole.scripts.len(), whole.is_cut), (1, false));
        assert_eq!(within(Duration::ZERO), Listing { scripts: Vec::new(), is_cut: true });
    }

    #[test]
    fn interpreter_is_named_without_its_folder_and_without_env() {
        for (line, name) in [
            ("/bin/bash", Some("bash")),
            ("/usr/local/bin/python3.12 -u", Some("python3.12")),
            ("perl", Some("perl")),
            ("/usr/bin/env python3", Some("python3")),
            ("/usr/bin/env -S python3 -u", Some("python3")),
            ("/usr/bin/env -S -i A=b ./tools/run x", Some("run")),
            ("/usr/bin/env -Sbash", Some("bash")),
            ("/usr/bin/env", Some("env")),
            ("/usr/bin/env -S", Some("env")),
            ("/bin/sh env", Some("sh")),
            ("/bin/\u{1b}[2J", None),
            ("/", None),
        ] {
            let (path, argument) =
                line.split_once(' ').map_or((line, None), |(path, argument)| (path, Some(argument.as_bytes())));
            assert_eq!(interpreter(Path::new("/"), path.as_bytes(), argument).as_deref(), name, "{line:?}");
        }
    }
}
