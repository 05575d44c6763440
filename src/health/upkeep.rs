//! Files that the server makes again when somebody removes them: a cleaner of temporary files, or a person who takes them for left over.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Findings;
use super::look::{FileId, id_at};
use crate::pipeline::ConditionCode;

/// All of them, for the thread that looks and for whoever has one to add.
#[derive(Clone, Debug, Default)]
pub struct Upkeep(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: Vec<Kept>,
    is_over: bool,
}

/// One of them.
pub struct Kept {
    path: PathBuf,
    id: Option<FileId>,
    code: ConditionCode,
    make: Box<dyn FnMut() -> Made + Send>,
    /// What keeps the lock on the file that was made.
    held: Option<File>,
}

/// What came of making a file again: with it, where it is a lock, the open file that holds that; or what stands in the way and what to do.
type Made = Result<Option<File>, String>;

impl fmt::Debug for Kept {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Kept").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Kept {
    /// The file that is at `path` now. `make` makes it again; `code` is the condition where it cannot.
    pub fn new(path: PathBuf, code: ConditionCode, make: impl FnMut() -> Made + Send + 'static) -> Self {
        Self { id: id_at(&path), path, code, make: Box::new(make), held: None }
    }
}

impl Upkeep {
    /// Adds one.
    pub fn keep(&self, kept: Kept) {
        self.lock().files.push(kept);
    }

    /// From here on nothing is made again: the server stops, and removes some of them itself. What was made is held on to.
    pub fn end(&self) {
        self.lock().is_over = true;
    }

    /// A file that could not be made by a call that panicked is tried again.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes again what is not there any more, but nothing below `lost`: a folder that was replaced is somebody else's. What cannot be made
    /// is found wrong.
    pub fn look(&self, lost: Option<&Path>) -> Findings {
        let mut findings = Findings::new();
        let mut state = self.lock();
        if state.is_over {
            return findings;
        }
        for kept in &mut state.files {
            if id_at(&kept.path) == kept.id || lost.is_some_and(|lost| kept.path.starts_with(lost)) {
                continue;
            }
            let path = kept.path.display();
            match (kept.make)() {
                Ok(held) => {
                    ::log::warn!("{path} was removed or replaced by another program; the server has made it again");
                    (kept.id, kept.held) = (id_at(&kept.path), held);
                }
                Err(why) => findings.push((kept.code, format!("{path} was removed or replaced by another program: {why}"))),
            }
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn upkeep_makes_a_removed_file_again_until_the_server_stops() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (path, folder) = (dir.path().join("folder/file"), dir.path().join("folder"));
        fs::create_dir(&folder).expect("creates");
        fs::write(&path, "one").expect("writes");
        let upkeep = Upkeep::default();
        let make = {
            let path = path.clone();
            move || fs::write(&path, "made again").map(|()| None).map_err(|error| error.to_string())
        };
        upkeep.keep(Kept::new(path.clone(), ConditionCode::SocketMissing, make));
        assert_eq!(upkeep.look(None), []);
        assert_eq!(fs::read_to_string(&path).expect("there"), "one", "what is there is left alone");
        fs::remove_file(&path).expect("removes");
        assert_eq!(upkeep.look(Some(&folder)), [], "not in a folder that is another one now");
        assert!(!path.exists());
        assert_eq!(upkeep.look(None), []);
        assert_eq!(fs::read_to_string(&path).expect("there again"), "made again");
        upkeep.end();
        fs::remove_file(&path).expect("removes");
        assert_eq!(upkeep.look(None), []);
        assert!(!path.exists(), "the server itself removed it");
    }

    #[test]
    fn upkeep_tells_what_it_cannot_make_again() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (path, folder) = (dir.path().join("folder/file"), dir.path().join("folder"));
        fs::create_dir(&folder).expect("creates");
        fs::write(&path, "one").expect("writes");
        let upkeep = Upkeep::default();
        let make = {
            let path = path.clone();
            move || fs::write(&path, "made again").map(|()| None).map_err(|error| error.to_string())
        };
        upkeep.keep(Kept::new(path, ConditionCode::SocketMissing, make));
        fs::remove_dir_all(&folder).expect("removes");
        let found = upkeep.look(None);
        assert!(matches!(found.as_slice(), [(ConditionCode::SocketMissing, why)] if why.contains("folder/file")), "{found:?}");
    }
}
