//! `journal.jsonl`: a header line, then facts, one JSON object per line, numbered from 1. Written only by the shim, and only
//! appended to.
//!
//! If killed while writing: the last line is torn. Readers ignore a line without its newline. The fact in it is then unknown,
//! unless the disk was full: such a fact is sent up all the same, and a server that was connected has recorded it.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::format::{FORMAT, format_of};
use super::lines::to_line;
use crate::absent::if_there;
use crate::clock::Timestamp;
use crate::held_dir::is_foreign;
use crate::path_json;
use crate::pipeline::{Entry, Fact};
use crate::private::{self, private_file, sync_dir};

/// The journal's first line, which describes the run. It is written before the pipeline is spawned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The format's version; first, so that any version can read it.
    pub format: u32,
    /// The id of the run.
    pub run_id: i64,
    /// The id of the boot that the run belongs to.
    pub boot_id: String,
    /// The shim's pid.
    pub shim_pid: u32,
    /// The shim's start time in clock ticks since boot, which makes its pid an identity.
    pub shim_start_ticks: u64,
    /// The directory of the control group that was created for the run, if any.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "path_json::option")]
    pub cgroup: Option<PathBuf>,
    /// The name of the shim's second control socket, which needs no directory. It is random, so it also distinguishes a copy of
    /// this journal from the journal of another run with the same number. Absent if the socket could not be created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// The random part of the cookie that the run's processes carry. No other file contains it, and no other user can read it,
    /// so a journal that names it is this run's or a copy of it. Absent in journals of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
    /// The runtime directory's path at that time: part of the cookie that the run's processes carry.
    #[serde(with = "path_json")]
    pub runtime_dir: PathBuf,
    /// When the start was requested.
    pub created_at: Timestamp,
    /// The script as it was named.
    pub script: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its working directory.
    pub cwd: String,
    /// The names of the variables that the start added to the environment, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_names: Vec<String>,
    /// The grace of a stop that names none, in milliseconds.
    pub grace_ms: u64,
    /// The log position at which this run begins.
    pub log_start: u64,
}

/// The reasons why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// There is no journal, or its header was never written completely.
    #[error("no journal was begun")]
    Absent,
    /// Its header cannot be parsed.
    #[error("the journal's first line is damaged: {0}")]
    Damaged(serde_json::Error),
    /// It was written by a newer version.
    #[error("the journal has format {found}, but this version supports formats up to {FORMAT}; use a newer version")]
    Newer {
        /// The version that it names.
        found: u32,
    },
    /// It could not be read.
    #[error("the journal could not be read: {0}")]
    Io(#[from] io::Error),
}

/// A journal as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadJournal {
    /// Its first line.
    pub header: Header,
    /// Its complete lines, in order.
    pub entries: Vec<Entry>,
    /// The number of damaged lines: complete lines that cannot be read or are out of order. After many the rest is not read.
    pub damaged_lines: usize,
}

/// The largest journal that is read, in bytes. It has room for more than a million pauses.
const JOURNAL_BYTES_MAX: u64 = 256 << 20;
/// After this many damaged lines the rest of a journal is not read: a journal that consists only of such lines would take
/// minutes.
const DAMAGED_LINES_MAX: usize = 10_000;
/// All entry numbers are below this one: the history continues the numbering after the last entry, and JSON numbers are exact
/// only below 2^53.
const SEQ_END: u64 = 1 << 53;
/// The longest first line, in bytes: several times what the kernel accepts as arguments.
const HEADER_BYTES_MAX: u64 = 32 << 20;

/// Reads a journal that may still grow, and whose last line may be torn.
pub fn read_journal(path: &Path) -> Result<ReadJournal, JournalError> {
    // A link can lead to the journal of a run of another runtime directory, which says nothing about this run.
    if path.parent().is_some_and(is_foreign) {
        return Err(JournalError::Absent);
    }
    parse_journal(&if_there(private::read(path, JOURNAL_BYTES_MAX))?.ok_or(JournalError::Absent)?)
}

fn parse_journal(bytes: &[u8]) -> Result<ReadJournal, JournalError> {
    // The text after the last newline is torn.
    let end = memchr::memrchr(b'\n', bytes).ok_or(JournalError::Absent)?;
    let mut lines = bytes[..end].split(|&byte| byte == b'\n');
    let first = lines.next().expect("split gives at least one part");
    let mut journal = ReadJournal { header: parse_header(first)?, entries: Vec::new(), damaged_lines: 0 };
    for line in lines {
        match serde_json::from_slice::<Entry>(line) {
            Ok(entry) if entry.seq < SEQ_END && journal.entries.last().is_none_or(|last| last.seq < entry.seq) => {
                journal.entries.push(entry);
            }
            Ok(_) | Err(_) => journal.damaged_lines += 1,
        }
        if journal.damaged_lines == DAMAGED_LINES_MAX {
            break;
        }
    }
    Ok(journal)
}

/// Reads only the first line of a journal.
pub fn read_header(path: &Path) -> Result<Header, JournalError> {
    if path.parent().is_some_and(is_foreign) {
        return Err(JournalError::Absent);
    }
    let file = if_there(private::open(path))?.ok_or(JournalError::Absent)?.take(HEADER_BYTES_MAX);
    let mut line = Vec::new();
    BufReader::new(file).read_until(b'\n', &mut line)?;
    parse_header(line.strip_suffix(b"\n").ok_or(JournalError::Absent)?)
}

fn parse_header(line: &[u8]) -> Result<Header, JournalError> {
    let found = format_of(line).map_err(JournalError::Damaged)?;
    if found > FORMAT {
        return Err(JournalError::Newer { found });
    }
    serde_json::from_slice(line).map_err(JournalError::Damaged)
}

/// The maximum number of unsynced bytes that are kept in memory; then they are synced.
const UNSYNCED_BYTES_MAX: usize = 64 * 1024;

/// The writing end of a journal.
///
/// A full disk must not prevent the shim from recording facts. Lines that could not be written wait in memory, in order, and are
/// written with the next one or by [`Journal::flush`]. Bytes that a failed sync may have lost are written once more: after that
/// failure the kernel counts them as clean, and the next sync would report success (`fsync(2)`).
#[derive(Debug)]
pub struct Journal {
    file: File,
    /// The length of what was written completely. A torn write is cut back to this length.
    len: u64,
    waiting: VecDeque<Vec<u8>>,
    /// The bytes written since the last sync, up to `len`.
    unsynced: Vec<u8>,
    must_sync: bool,
    /// Whether `unsynced` must be written once more.
    has_sync_failed: bool,
    last: Option<(u64, Timestamp)>,
}

impl Journal {
    /// Creates the journal with its header. It is not synced yet: the first synced fact syncs it too.
    pub fn create(path: &Path, header: &Header) -> io::Result<Self> {
        let file = private_file().read(true).create_new(true).open(path)?;
        let mut journal = Self {
            file,
            len: 0,
            waiting: VecDeque::new(),
            unsynced: Vec::new(),
            must_sync: false,
            has_sync_failed: false,
            last: None,
        };
        journal.write_whole(&to_line(header))?;
        Ok(journal)
    }

    /// Reads what was written, wherever the file's name leads now.
    pub fn read(&self) -> Result<ReadJournal, JournalError> {
        parse_journal(&self.bytes()?)
    }

    /// Continues in a new file at `path`, which gets everything that was written and replaces the older copy there. On an error
    /// nothing changes.
    pub fn move_to(&mut self, path: &Path) -> io::Result<()> {
        let beside = path.with_extension("new");
        // A file that a kill left behind, or that the pipeline wrote. It is not reused.
        let _was_none = fs::remove_file(&beside);
        let file = private_file().read(true).create_new(true).open(&beside)?;
        file.write_all_at(&self.bytes()?, 0)?;
        file.sync_data()?;
        fs::rename(&beside, path)?;
        self.file = file;
        self.has_sync_failed = false;
        self.unsynced.clear();
        path.parent().map_or(Ok(()), sync_dir)
    }

    fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.len).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Numbers and stamps a fact. The stamp is never earlier than the previous one or `not_before`, even if the clock was set
    /// back.
    pub fn number(&mut self, at: Timestamp, not_before: Timestamp, boot_ms: u64, fact: Fact) -> Entry {
        let (seq, at) = match self.last {
            Some((seq, last_at)) => (seq + 1, at.max(last_at)),
            None => (1, at.max(not_before)),
        };
        self.last = Some((seq, at));
        Entry { seq, at, boot_ms, origin: None, fact }
    }

    /// Writes an entry. With `durable` it is on disk when this returns `Ok`. On an error the entry waits and is not lost.
    pub fn append(&mut self, entry: &Entry, durable: bool) -> io::Result<()> {
        self.waiting.push_back(to_line(entry));
        self.must_sync |= durable || self.unsynced.len() > UNSYNCED_BYTES_MAX;
        self.flush()
    }

    /// Writes the waiting entries, and syncs if that was requested. Returns `Ok` once nothing waits any more.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.has_sync_failed {
            self.file.write_all_at(&self.unsynced, self.len - self.unsynced.len() as u64)?;
        }
        while let Some(line) = self.waiting.pop_front() {
            if let Err(error) = self.write_whole(&line) {
                self.waiting.push_front(line);
                return Err(error);
            }
        }
        if self.must_sync {
            self.has_sync_failed = true;
            self.file.sync_data()?;
            (self.must_sync, self.has_sync_failed) = (false, false);
            self.unsynced.clear();
        }
        Ok(())
    }

    /// Returns whether entries wait to be written or synced.
    pub fn is_behind(&self) -> bool {
        !self.waiting.is_empty() || self.must_sync
    }

    /// Returns the waiting entries, for a server that asks for entries that the file does not contain yet.
    pub fn waiting(&self) -> impl Iterator<Item = Entry> {
        self.waiting.iter().filter_map(|line| serde_json::from_slice(line).ok())
    }

    fn write_whole(&mut self, line: &[u8]) -> io::Result<()> {
        // At its own offset, wherever a torn write has left the file's position.
        if let Err(error) = self.file.write_all_at(line, self.len) {
            // A reader ignores half a line, and the next attempt overwrites it.
            let _overwritten_later = self.file.set_len(self.len);
            return Err(error);
        }
        self.len += line.len() as u64;
        self.unsynced.extend_from_slice(line);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Cause, Containment, Exit, Killed};

    fn header() -> Header {
        Header {
            format: FORMAT,
            run_id: 7,
            boot_id: "b".into(),
            shim_pid: 42,
            shim_start_ticks: 77,
            cgroup: Some("/sys/fs/cgroup/x".into()),
            socket: Some("autoappdev-0-7-0".into()),
            mark: Some("0123456789abcdef".into()),
            runtime_dir: "/r".into(),
            created_at: Timestamp::from_unix_ms(1_000),
            script: "demo.sh".into(),
            args: vec!["--fast".into()],
            cwd: "/srv".into(),
            env_names: vec!["LEVEL".into()],
            grace_ms: 10_000,
            log_start: 99,
        }
    }

    fn facts() -> Vec<Fact> {
        let mut killed = Killed::default();
        killed.add(44, || Some("sleep".to_owned()));
        vec![
            Fact::Spawned { pid: 43, start_ticks: 1234, containment: Containment::Tree },
            Fact::Paused { cause: Cause::Outside },
            Fact::Resumed { cause: Cause::Request, paused_ms: 17, detail: None },
            Fact::Stopping { grace_ms: 500 },
            Fact::Exited { exit: Exit::Signal(15), asked: true, paused_ms: 17, log_end: 4096, killed, oom_kills: Some(1) },
            Fact::Usage { cpu_user_ms: 1, cpu_system_ms: 2, max_rss_kb: 3, memory_peak_bytes: Some(4096) },
        ]
    }

    fn write(path: &Path) -> Vec<Entry> {
        let mut journal = Journal::create(path, &header()).expect("creates");
        let mut entries = Vec::new();
        for (n, fact) in (0_u32..).zip(facts()) {
            let at = Timestamp::from_unix_ms(2_000 + i64::from(n));
            let entry = journal.number(at, header().created_at, n.into(), fact);
            journal.append(&entry, n % 2 == 0).expect("writes");
            entries.push(entry);
        }
        entries
    }

    #[test]
    fn journal_round_trips() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("journal.jsonl");
        let entries = write(&path);
        assert_eq!(read_journal(&path).expect("reads"), ReadJournal { header: header(), entries, damaged_lines: 0 });
        assert_eq!(read_header(&path).expect("reads"), header());
    }

    #[test]
    fn journal_keeps_entries_after_its_file_is_replaced() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::create(&path, &header()).expect("creates");
        let copy = fs::read(&path).expect("there");
        let write = |journal: &mut Journal| {
            let entry = journal.number(Timestamp::from_unix_ms(2_000), header().created_at, 0, Fact::Stopping { grace_ms: 0 });
            journal.append(&entry, true).expect("writes");
            entry
        };
        let mut entries = vec![write(&mut journal)];
        fs::remove_file(&path).expect("removes");
        fs::write(&path, copy).expect("writes");
        assert_eq!(journal.read().expect("reads").entries, entries);
        assert!(read_journal(&path).expect("reads").entries.is_empty(), "the copy knows nothing of it");
        journal.move_to(&path).expect("moves");
        entries.push(write(&mut journal));
        assert_eq!(read_journal(&path).expect("reads"), ReadJournal { header: header(), entries, damaged_lines: 0 });
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn truncated_journal_returns_its_complete_entries() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("journal.jsonl");
        let entries = write(&path);
        let whole = fs::read(&path).expect("there");
        let header_len = whole.iter().position(|&byte| byte == b'\n').expect("a line") + 1;
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).expect("writes");
            match read_journal(&path) {
                Ok(read) => {
                    assert_eq!(read.damaged_lines, 0);
                    assert_eq!(read.entries, entries[..read.entries.len()]);
                    assert_eq!(read.entries.len() + 1, memchr::memchr_iter(b'\n', &whole[..cut]).count());
                }
                Err(JournalError::Absent) => assert!(cut < header_len),
                Err(other) => panic!("cut at {cut}: {other}"),
            }
        }
    }

    #[test]
    fn damaged_line_is_counted_and_other_lines_are_read() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("journal.jsonl");
        let entries = write(&path);
        let text = fs::read_to_string(&path).expect("there").replacen("\"fact\":\"paused\"", "\"fact\":\0paused", 1);
        fs::write(&path, text).expect("writes");
        let read = read_journal(&path).expect("reads");
        assert_eq!(read.damaged_lines, 1);
        assert_eq!(read.entries.len(), entries.len() - 1);
    }

    #[test]
    fn journal_rejects_absurd_sequence_numbers_and_limits_damaged_lines() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("journal.jsonl");
        let entries = write(&path);
        let text = fs::read_to_string(&path).expect("there");
        let next = text.lines().last().expect("a line").replacen("\"seq\":6", "\"seq\":SEQ", 1);
        let line = |seq: u64| next.replacen("SEQ", &seq.to_string(), 1) + "\n";
        fs::write(&path, text.clone() + &line(u64::MAX) + &line(SEQ_END) + &line(SEQ_END - 1)).expect("writes");
        let read = read_journal(&path).expect("reads");
        assert_eq!((read.damaged_lines, read.entries.len()), (2, entries.len() + 1));
        assert_eq!(read.entries.last().map(|entry| entry.seq), Some(SEQ_END - 1));
        for (damaged, more) in [(DAMAGED_LINES_MAX - 1, 1), (DAMAGED_LINES_MAX, 0)] {
            fs::write(&path, text.clone() + &"{}\n".repeat(damaged) + &line(7)).expect("writes");
            let read = read_journal(&path).expect("reads");
            assert_eq!((read.damaged_lines, read.entries.len()), (damaged, entries.len() + more));
        }
    }

    #[test]
    fn exited_fact_without_kills_omits_killed_key() {
        let line = br#"{"seq":2,"at":"2026-01-31T10:00:00.123Z","boot_ms":5,"fact":"exited","exit":{"code":0},"asked":false,"paused_ms":0,"log_end":7}"#;
        let entry: Entry = serde_json::from_slice(line).expect("reads");
        assert!(matches!(&entry.fact, Fact::Exited { killed, .. } if killed.is_empty()), "{entry:?}");
        assert_eq!(serde_json::to_vec(&entry).expect("writes"), line, "and is written the same way");
    }

    #[test]
    fn fact_of_newer_shim_reads_as_unknown() {
        let line = br#"{"seq":3,"at":"2026-01-31T10:00:00.123Z","boot_ms":5,"fact":"teleported","where":"moon"}"#;
        let entry: Entry = serde_json::from_slice(line).expect("reads");
        assert_eq!(entry.fact, Fact::Unknown);
    }

    #[test]
    fn newer_and_foreign_journals_are_refused() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("journal.jsonl");
        assert!(matches!(read_journal(&path), Err(JournalError::Absent)));
        fs::write(&path, "{\"format\":2,\"anything\":1}\n").expect("writes");
        assert!(matches!(read_journal(&path), Err(JournalError::Newer { found: 2 })));
        assert!(matches!(read_header(&path), Err(JournalError::Newer { found: 2 })));
        fs::write(&path, "hello\n").expect("writes");
        assert!(matches!(read_journal(&path), Err(JournalError::Damaged(_))));
    }

    #[test]
    fn damaged_first_line_is_not_an_absent_journal() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("journal.jsonl");
        for bytes in [&b"\n"[..], b"\n_tt", b"\xff\n", b"\0\0\0\n{}\n"] {
            fs::write(&path, bytes).expect("writes");
            assert!(matches!(read_journal(&path), Err(JournalError::Damaged(_))), "{}", bytes.escape_ascii());
            assert!(matches!(read_header(&path), Err(JournalError::Damaged(_))), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn journal_timestamps_never_decrease() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let mut journal = Journal::create(&dir.path().join("j"), &header()).expect("creates");
        let at = |ms| Timestamp::from_unix_ms(ms);
        let fact = Fact::Stopping { grace_ms: 0 };
        assert_eq!(journal.number(at(10), at(1_000), 0, fact.clone()).at, at(1_000), "not before the start was asked for");
        assert_eq!(journal.number(at(5_000), at(1_000), 0, fact.clone()).at, at(5_000));
        let after_a_step = journal.number(at(1), at(1_000), 0, fact);
        assert_eq!((after_a_step.seq, after_a_step.at), (3, at(5_000)));
    }
}
