//! Files that the server recreates if they are removed by a cleaner of temporary files, or by a user who mistakes them for
//! leftovers.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::scan::Findings;
use crate::file_id::FileId;
use crate::lock::lock;
use crate::pipeline::ConditionCode;

/// How long a file must be missing before it is recreated, so that removing the whole folder does not leave it filled again.
const SETTLE: Duration = Duration::from_secs(1);

/// All files to recreate, shared by the thread that scans and by callers that add files.
#[derive(Clone)]
pub struct Upkeep(Arc<Mutex<State>>);

struct State {
    files: Vec<Kept>,
    settle: Duration,
    is_over: bool,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self::with_settle(SETTLE)
    }
}

/// A file to recreate.
pub struct Kept {
    path: PathBuf,
    /// `None` if the file could not be written yet.
    id: Option<FileId>,
    code: ConditionCode,
    make: Box<dyn FnMut() -> Made + Send>,
    /// The open file that holds the lock of a lock file that was recreated.
    held: Option<File>,
    missing_since: Option<Instant>,
}

/// The result of recreating a file: for a lock, the open file that holds it; on failure, the cause and what to do.
type Made = Result<Option<File>, String>;

impl Kept {
    /// Takes the file that is at `path` now. `make` recreates it; `code` is the condition if that fails.
    pub fn new(path: PathBuf, code: ConditionCode, make: impl FnMut() -> Made + Send + 'static) -> Self {
        Self { id: FileId::of(&path).ok(), path, code, make: Box::new(make), held: None, missing_since: None }
    }

    /// Marks the file as one that could not be written yet, so that a file at `path` counts as another one.
    #[must_use]
    pub fn unwritten(self) -> Self {
        Self { id: None, ..self }
    }
}

impl Upkeep {
    fn with_settle(settle: Duration) -> Self {
        Self(Arc::new(Mutex::new(State { files: Vec::new(), settle, is_over: false })))
    }

    /// Adds a file.
    pub fn keep(&self, kept: Kept) {
        lock(&self.0).files.push(kept);
    }

    /// Stops recreating files, because the server stops and removes some of them itself. Recreated locks stay held.
    pub fn end(&self) {
        lock(&self.0).is_over = true;
    }

    /// Recreates files that have been missing for a while, but none below `lost`, because a folder that was replaced belongs to
    /// another program. Returns the files that cannot be recreated, and the time until the next scan if a file is missing.
    pub fn look(&self, lost: Option<&Path>) -> (Findings, Option<Duration>) {
        let mut findings = Findings::new();
        let mut again = None;
        let mut state = lock(&self.0);
        if state.is_over {
            return (findings, again);
        }
        let State { files, settle, .. } = &mut *state;
        for kept in files {
            let is_there = kept.id.is_some() && FileId::of(&kept.path).ok() == kept.id;
            if is_there || lost.is_some_and(|lost| kept.path.starts_with(lost)) {
                kept.missing_since = None;
                continue;
            }
            let left = settle.saturating_sub(kept.missing_since.get_or_insert_with(Instant::now).elapsed());
            if !left.is_zero() {
                again = again.into_iter().chain([left]).min();
                continue;
            }
            let what = if kept.id.is_some() { "was removed or replaced by another program" } else { "is missing" };
            let what = format!("{} {what}", kept.path.display());
            match (kept.make)() {
                Ok(held) => {
                    ::log::warn!("{what}; the server has recreated it");
                    (kept.id, kept.held, kept.missing_since) = (FileId::of(&kept.path).ok(), held, None);
                }
                Err(why) => {
                    findings.push((kept.code, format!("{what}: {why}")));
                    // Only this file is tried again soon, because client commands need it. Retrying a lock would block this
                    // thread for half a second each time.
                    if kept.code == ConditionCode::ServerInfoMissing {
                        again = again.into_iter().chain([SETTLE]).min();
                    }
                }
            }
        }
        (findings, again)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn upkeep_recreates_a_removed_file_until_the_server_stops() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (path, folder) = (dir.path().join("folder/file"), dir.path().join("folder"));
        fs::create_dir(&folder).expect("creates");
        fs::write(&path, "one").expect("writes");
        let upkeep = Upkeep::with_settle(Duration::ZERO);
        let make = {
            let path = path.clone();
            move || fs::write(&path, "made again").map(|()| None).map_err(|error| error.to_string())
        };
        upkeep.keep(Kept::new(path.clone(), ConditionCode::SocketMissing, make));
        assert_eq!(upkeep.look(None), (vec![], None));
        assert_eq!(fs::read_to_string(&path).expect("there"), "one", "what is there is left alone");
        fs::remove_file(&path).expect("removes");
        assert_eq!(upkeep.look(Some(&folder)), (vec![], None), "not in a folder that is another one now");
        assert!(!path.exists());
        assert_eq!(upkeep.look(None), (vec![], None));
        assert_eq!(fs::read_to_string(&path).expect("there again"), "made again");
        upkeep.end();
        fs::remove_file(&path).expect("removes");
        assert_eq!(upkeep.look(None), (vec![], None));
        assert!(!path.exists(), "the server itself removed it");
    }

    #[test]
    fn upkeep_replaces_file_left_by_previous_server() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("file");
        fs::write(&path, "of the server before").expect("writes");
        let upkeep = Upkeep::with_settle(Duration::ZERO);
        let its_path = path.clone();
        let make = move || fs::write(&its_path, "ours").map(|()| None).map_err(|error| error.to_string());
        upkeep.keep(Kept::new(path.clone(), ConditionCode::ServerInfoMissing, make).unwritten());
        assert_eq!(upkeep.look(None), (vec![], None));
        assert_eq!(fs::read_to_string(&path).expect("there"), "ours");
    }

    #[test]
    fn upkeep_reports_a_file_that_it_cannot_recreate() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (path, folder) = (dir.path().join("folder/file"), dir.path().join("folder"));
        fs::create_dir(&folder).expect("creates");
        fs::write(&path, "one").expect("writes");
        let upkeep = Upkeep::with_settle(Duration::ZERO);
        let make = {
            let path = path.clone();
            move || fs::write(&path, "made again").map(|()| None).map_err(|error| error.to_string())
        };
        upkeep.keep(Kept::new(path, ConditionCode::SocketMissing, make));
        fs::remove_dir_all(&folder).expect("removes");
        let (found, _) = upkeep.look(None);
        assert!(matches!(found.as_slice(), [(ConditionCode::SocketMissing, why)] if why.contains("folder/file")), "{found:?}");
    }

    #[test]
    fn upkeep_waits_before_it_recreates_a_file() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("file");
        fs::write(&path, "one").expect("writes");
        let upkeep = Upkeep::with_settle(Duration::from_hours(1));
        upkeep.keep(Kept::new(path.clone(), ConditionCode::SocketMissing, || panic!("it is too early")));
        fs::remove_file(&path).expect("removes");
        let (found, again) = upkeep.look(None);
        assert!(found.is_empty() && again.is_some_and(|again| again > Duration::from_mins(30)), "{again:?}");
    }
}
