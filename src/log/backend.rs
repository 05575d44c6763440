//! The server's own log: to standard error, and to `backend.log` in the runtime directory, with a limit.
//!
//! `backend.log` is the newest segment. When it is full, it is renamed to `backend-<position>.log`, and the previous file with a
//! name of that form is removed, so there are at most two files. The server writes to this log through the `log` crate.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::listing::{SegmentList, ShortLog};
use super::loss::loss_mark;
use super::record::{Stream, TEXT_MAX, push_record};
use super::segment::{Segment, position};
use crate::absent::if_there;
use crate::clock::{Clock, SystemClock};
use crate::console::{self, printable};
use crate::held_dir::{HeldDir, has_entry};
use crate::lock::lock;
use crate::private;

/// The size at which a file is closed, in bytes. At most two files are kept.
const BACKEND_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The target of a record whose text the server also prints on standard output.
pub const SAID: &str = "autoappdev-said";

/// The name of the newest segment's file.
pub const BACKEND_LOG: &str = "backend.log";

/// The logger.
#[derive(Debug)]
pub struct BackendLog {
    /// The runtime directory. If it is moved, the log continues in its new place.
    dir: HeldDir,
    newest: Mutex<Newest>,
}

#[derive(Debug)]
struct Newest {
    file: File,
    start: u64,
    len: u64,
    /// The number of records that were lost since the last successful write.
    lost: u64,
}

impl BackendLog {
    /// Opens the log in the runtime directory, and continues an existing one.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let dir = HeldDir::open(dir)?;
        let start = backend_segments(dir.path())?
            .iter()
            .find(|segment| segment.path.ends_with(BACKEND_LOG))
            .map_or(0, |newest| newest.start);
        let file = private::append(&dir.path().join(BACKEND_LOG))?;
        let len = file.metadata()?.len();
        Ok(Self { dir, newest: Mutex::new(Newest { file, start, len, lost: 0 }) })
    }

    /// Makes this the logger of the process.
    pub fn install(self) -> Result<(), log::SetLoggerError> {
        log::set_boxed_logger(Box::new(self))?;
        log::set_max_level(log::LevelFilter::Info);
        Ok(())
    }

    fn append(&self, at: &str, text: &str) -> io::Result<()> {
        let mut records = Vec::new();
        for line in text.split('\n') {
            let end = line.floor_char_boundary(TEXT_MAX);
            push_record(&mut records, at.as_bytes(), Stream::Backend, false, &line.as_bytes()[..end]);
        }
        // No change under this lock can panic halfway, so a poisoned lock still guards whole values.
        let mut newest = lock(&self.newest);
        if newest.lost > 0 {
            records.splice(..0, loss_mark(at.as_bytes(), Stream::Backend, newest.lost));
        }
        let count = text.split('\n').count() as u64;
        let written = self.write(&mut newest, &records);
        newest.lost = if written.is_ok() { 0 } else { newest.lost + count };
        written
    }

    fn write(&self, newest: &mut Newest, records: &[u8]) -> io::Result<()> {
        if newest.len >= BACKEND_FILE_BYTES_MAX {
            let dir = self.dir.path();
            for old in backend_segments(dir)?.iter().filter(|segment| !segment.path.ends_with(BACKEND_LOG)) {
                fs::remove_file(&old.path)?;
            }
            fs::rename(dir.join(BACKEND_LOG), dir.join(format!("backend-{:020}.log", newest.start)))?;
            newest.file = private::append(&dir.join(BACKEND_LOG))?;
            newest.start += newest.len;
            newest.len = 0;
        }
        if let Err(error) = newest.file.write_all(records) {
            // Half a record would run into the next one.
            let _shown_as_damaged = newest.file.set_len(newest.len);
            return Err(error);
        }
        newest.len += records.len() as u64;
        Ok(())
    }
}

impl log::Log for BackendLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("autoappdev")
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // One line, even if it contains names from a cloned folder or of another process.
        let text = format!("{} {}", record.level(), printable(&record.args().to_string()));
        let at = SystemClock.now().to_string();
        // On a terminal, the same text would appear twice.
        if record.target() != SAID || !console::is_one_terminal() {
            console::complain(&format!("{at} {text}"));
        }
        // The disk can be full. A server that cannot log continues to serve.
        let _no_one_to_tell = self.append(&at, &text);
    }

    fn flush(&self) {}
}

/// The files of the server's own log, for reading.
#[derive(Clone, Debug)]
pub struct BackendFiles {
    dir: PathBuf,
}

impl BackendFiles {
    /// Reads the files in the runtime directory.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }
}

impl ShortLog for BackendFiles {
    fn segments(&self) -> io::Result<SegmentList> {
        Ok(backend_segments(&self.dir)?.into())
    }
}

/// Returns the segments of the server's own log, in order.
fn backend_segments(dir: &Path) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    let mut newest_start = 0;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let start = name.strip_prefix("backend-").and_then(|rest| rest.strip_suffix(".log")).and_then(position);
        // Only a regular file is a log file of this server, whatever its name.
        if let Some(start) = start
            && let Some(file) = if_there(fs::symlink_metadata(&path))?.filter(fs::Metadata::is_file)
        {
            newest_start = newest_start.max(start + file.len());
            segments.push(Segment { start, packed_end: None, path, run_id: None });
        }
    }
    segments.sort_unstable_by_key(|segment| segment.start);
    let path = dir.join(BACKEND_LOG);
    if has_entry(&path) {
        segments.push(Segment { start: newest_start, packed_end: None, path, run_id: None });
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::super::reader_tests::read_since;
    use super::*;

    #[test]
    fn backend_log_reports_lines_lost_to_full_disk() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let log = BackendLog::open(dir.path()).expect("opens");
        let at = "2023-11-14T22:13:20.007Z";
        log.append(at, "before").expect("writes");
        let full = File::options().write(true).open("/dev/full").expect("there");
        let real = std::mem::replace(&mut log.newest.lock().expect("whole").file, full);
        assert!(log.append(at, "lost\nin two lines").is_err() && log.append(at, "lost too").is_err());
        log.newest.lock().expect("whole").file = real;
        log.append(at, "after").expect("writes");
        log.append(at, "later").expect("writes");
        let page = read_since(&BackendFiles::new(dir.path()), 0, 100).expect("reads");
        let lines: Vec<&str> = page.lines.iter().map(|line| line.line.as_str()).collect();
        let mark = "[autoappdev: 3 lines are missing here: they could not be written to the disk]";
        assert_eq!(lines, ["before", mark, "after", "later"]);
    }

    #[test]
    fn record_is_one_line_without_control_characters() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let log = BackendLog::open(dir.path()).expect("opens");
        let name = "a\n2026-11-30T00:00:00.000Z INFO forged\u{1b}[2J\u{202e}";
        log::Log::log(
            &log,
            &log::Record::builder().target("autoappdev").level(log::Level::Info).args(format_args!("{name}")).build(),
        );
        let page = read_since(&BackendFiles::new(dir.path()), 0, 10).expect("reads");
        let lines: Vec<_> = page.lines.iter().map(|line| &*line.line).collect();
        assert_eq!(lines, [r"INFO a\n2026-11-30T00:00:00.000Z INFO forged\u{1b}[2J\u{202e}"]);
    }

    #[test]
    fn backend_log_is_bounded_and_ids_grow_across_restarts() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let long = "x".repeat(50_000);
        let mut last = 0;
        for restart in 0..3 {
            let opened = BackendLog::open(dir.path()).expect("opens");
            for n in 0..40 {
                opened.append("2023-11-14T22:13:20.007Z", &format!("{restart} {n} {long}")).expect("writes");
                let page = read_since(&BackendFiles::new(dir.path()), last, 10).expect("reads");
                assert_eq!(page.lines.len(), 1, "one new line");
                assert!(page.lines[0].line.starts_with(&format!("{restart} {n} ")));
                assert!(page.lines[0].id > last);
                last = page.next;
            }
        }
        let bytes: u64 =
            fs::read_dir(dir.path()).expect("there").map(|e| e.expect("there").metadata().expect("there").len()).sum();
        assert!(bytes <= 2 * (BACKEND_FILE_BYTES_MAX + 60_000), "{bytes} bytes");
    }
}
