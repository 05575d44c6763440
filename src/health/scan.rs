//! One scan: of the disks, of the files that the server has open or that lead clients to it, and of the live run's shim.

use std::path::{Path, PathBuf};

use crate::file_id::FileId;
use crate::held_dir::has_entry;
use crate::pipeline::ConditionCode;
use crate::process::{self, Identity};
use crate::run_dir::{self, Runs};

/// The least free room on a disk, in bytes and in files. Less is a condition.
const FREE_BYTES_MIN: u64 = 1024 * 1024;
const FREE_FILES_MIN: u64 = 16;

/// The problems that a scan has found, each with its sentence.
pub type Findings = Vec<(ConditionCode, String)>;

/// The places to scan, and the files that the server found there at its start.
#[derive(Debug)]
pub struct Places {
    runs: Runs,
    database: PathBuf,
    /// Files with secrets that the server has read. It does not recreate them, because their removal may be intended.
    secrets: Vec<PathBuf>,
    runtime_dir_id: Option<FileId>,
    database_id: Option<FileId>,
}

impl Places {
    /// Records the current files, which are the files that the server uses.
    pub fn new(runs: Runs, database: PathBuf, mut secrets: Vec<PathBuf>) -> Self {
        secrets.retain(|path| has_entry(path));
        let (runtime_dir_id, database_id) = (FileId::of(runs.runtime_dir()).ok(), FileId::of(&database).ok());
        Self { runs, database, secrets, runtime_dir_id, database_id }
    }

    /// Returns the current problems. `live_run` is the run whose shim must be running.
    pub fn look(&self, live_run: Option<i64>) -> Findings {
        let mut found = Findings::new();
        let mut add = |code, detail: Option<String>| found.extend(detail.map(|detail| (code, detail)));
        if let Some(lost) = self.lost_dir() {
            add(
                ConditionCode::RuntimeDirReplaced,
                Some(format!(
                    "the runtime directory {} was removed or replaced while the server was using it; put it back, or stop the \
                        pipeline and restart the server",
                    lost.display()
                )),
            );
        } else {
            add(ConditionCode::TokenMissing, self.missing_secret());
        }
        add(ConditionCode::DatabaseReplaced, self.replaced_database());
        add(ConditionCode::ShimStopped, live_run.and_then(|run_id| self.stopped_shim(run_id)));
        add(ConditionCode::DiskLow, self.little_space());
        found
    }

    /// Returns the runtime directory if its path now leads to another directory or to nothing.
    pub fn lost_dir(&self) -> Option<&Path> {
        let dir = self.runs.runtime_dir();
        (FileId::of(dir).ok() != self.runtime_dir_id).then_some(dir)
    }

    /// Reports a secret that was removed. It is not recreated, because the user may have removed it so that the next start makes
    /// a new one.
    fn missing_secret(&self) -> Option<String> {
        let missing = self.secrets.iter().find(|path| !has_entry(path))?;
        Some(format!(
            "{} was removed; the server keeps using its contents until it is restarted, and then creates another",
            missing.display()
        ))
    }

    /// Reports a database that was removed or replaced. `SQLite` keeps using a file that no longer has a name, so everything that
    /// is committed there is lost.
    fn replaced_database(&self) -> Option<String> {
        let now = FileId::of(&self.database).ok();
        if now == self.database_id {
            return None;
        }
        let what = if now.is_none() { "removed" } else { "replaced by another file" };
        Some(format!(
            "the database {} was {what} while the server uses it, so nothing can be recorded; put it back, or stop the pipeline and restart the server",
            self.database.display()
        ))
    }

    /// Reports a shim that a signal has stopped, because it cannot report that itself.
    fn stopped_shim(&self, run_id: i64) -> Option<String> {
        let header = run_dir::read_header(&self.runs.run(run_id).journal_path()).ok()?;
        let shim = header.shim_pid;
        let identity = Identity { pid: shim, start_ticks: header.shim_start_ticks };
        let is_stopped = process::read_stat(shim).is_ok_and(|stat| stat.state.is_stopped() && stat.identity == identity);
        // A journal can name any process, so the process is checked before the advice to resume it.
        (is_stopped && process::is_shim(shim).unwrap_or_default()).then(|| {
            format!("the live run's own process (the shim) does not answer: a signal has stopped it; resume it with `kill -CONT {shim}`")
        })
    }

    /// Reports low space where files are written, before a write fails.
    fn little_space(&self) -> Option<String> {
        let database_dir = self.database.parent().unwrap_or(Path::new("."));
        [self.runs.runtime_dir(), database_dir].into_iter().find_map(|dir| {
            let stat = rustix::fs::statvfs(dir).ok()?;
            let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
            let path = dir.display();
            if free_bytes < FREE_BYTES_MIN {
                Some(format!("the disk is almost full: {} KiB are free at {path}; free some space", free_bytes / 1024))
            } else if stat.f_files > 0 && stat.f_favail < FREE_FILES_MIN {
                // A file system that does not count files reports 0 of 0.
                Some(format!("the disk has room for only {} more files at {path}; remove some files", stat.f_favail))
            } else {
                None
            }
        })
    }
}
