//! The writer of a run's log, which appends records to segments, within limits.
//!
//! If killed while writing: the last record is torn, and readers see where it breaks off. If the disk is full: whole records are
//! dropped and counted, and a record says how many lines were lost as soon as there is room.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::loss::{Loss, loss_mark};
use super::record::Stream;
use super::segment::{all_segments_in, plain_name};
use crate::absent::if_there;
use crate::kill_point::KillPoint;
use crate::private::private_file;

/// The longest record of a loss, in bytes.
pub const LOSS_MARK_BYTES_MAX: u64 = 128;

/// The limits on a run's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The size at which a segment is closed, in bytes.
    pub segment_bytes: u64,
    /// The total size above which the oldest segment is removed, in bytes. The newest segment always stays.
    pub run_bytes: u64,
}

/// The one writer of a run's log.
#[derive(Debug)]
pub struct SegmentWriter {
    dir: PathBuf,
    limits: Limits,
    start: u64,
    len: u64,
    file: File,
    /// Whether part of a record may follow after `len`.
    is_torn: bool,
    loss: Loss,
    /// Whether a segment was finished since the last [`SegmentWriter::take_rotated`].
    has_rotated: bool,
}

impl SegmentWriter {
    /// Creates the log in `dir`, from position `start` on.
    pub fn create(dir: &Path, start: u64, limits: Limits) -> io::Result<Self> {
        let file = private_file().read(true).create_new(true).open(dir.join(plain_name(start)))?;
        Ok(Self { dir: dir.to_owned(), limits, start, len: 0, file, is_torn: false, loss: Loss::default(), has_rotated: false })
    }

    /// Returns the position after the last byte.
    pub fn position(&self) -> u64 {
        self.start + self.len
    }

    /// Writes whole records, as [`super::LineSplitter`] makes them. `at` is the current time as text. On an error, none of these
    /// records is in the log, and their lines are counted as lost. The caller need not handle the error.
    pub fn write(&mut self, records: &[u8], at: &[u8]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let written = self.report_loss(at).and_then(|()| self.append(records));
        match written {
            Ok(()) => self.loss.kept(records),
            Err(_) => self.loss.lost(records),
        }
        written
    }

    /// Continues in `dir`, a copy of the previous folder, and completes the current segment there. After an error, the next
    /// record begins a new segment.
    pub fn move_to(&mut self, dir: &Path) -> io::Result<()> {
        dir.clone_into(&mut self.dir);
        // An existing folder is not changed.
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let path = dir.join(plain_name(self.start));
        if_there(fs::remove_file(&path))?;
        let mut file = private_file().read(true).create_new(true).open(path)?;
        let mut before = &self.file;
        before.rewind()?;
        io::copy(&mut before.take(self.len), &mut file)?;
        self.file = file;
        self.is_torn = false;
        Ok(())
    }

    /// Returns whether a segment was finished since the last call.
    pub fn take_rotated(&mut self) -> bool {
        std::mem::take(&mut self.has_rotated)
    }

    /// Returns whether lines were lost that are not mentioned in the log yet.
    pub fn has_unreported_loss(&self) -> bool {
        self.loss.lines() > 0
    }

    /// Tries to write a record that says how many lines were lost.
    pub fn report_loss(&mut self, at: &[u8]) -> io::Result<()> {
        if self.has_unreported_loss() {
            self.append(&loss_mark(at, Stream::Stderr, self.loss.lines()))?;
            self.loss.reported();
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        // A file that was removed has no readers.
        if self.len >= self.limits.segment_bytes || self.file.metadata()?.nlink() == 0 {
            self.rotate()?;
        }
        if self.is_torn {
            // Half a record must not stay, because the next one would run into it.
            self.file.set_len(self.len)?;
            self.is_torn = false;
        }
        if let Err(error) = self.file.write_all_at(bytes, self.len) {
            self.is_torn = self.file.set_len(self.len).is_err();
            return Err(error);
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let start = self.position();
        let open = || private_file().read(true).create_new(true).open(self.dir.join(plain_name(start)));
        let next = open().or_else(|error| match error.kind() {
            // The folder was removed. If its run directory was removed, too, this log has no readers.
            io::ErrorKind::NotFound => DirBuilder::new().mode(0o700).create(&self.dir).and_then(|()| open()),
            _ => Err(error),
        });
        match next {
            Ok(file) => self.file = file,
            Err(error) => {
                // On a full disk, removing segments beyond the limit may make room for the next write.
                self.drop_oldest();
                return Err(error);
            }
        }
        self.has_rotated = true;
        (self.start, self.len, self.is_torn) = (start, 0, false);
        KillPoint::ShimSegmentBegun.reach();
        self.drop_oldest();
        Ok(())
    }

    /// Removes the oldest segments beyond the limit. It lists the folder, because a server may have packed some segments
    /// meanwhile.
    fn drop_oldest(&self) {
        let Ok(segments) = all_segments_in(&self.dir, None) else { return };
        let sizes: Vec<u64> = segments.iter().map(|segment| segment.bytes_on_disk().unwrap_or(0)).collect();
        let mut total: u64 = sizes.iter().sum();
        for (segment, bytes) in segments.iter().zip(sizes) {
            // The newest segment may grow up to its limit before the next check.
            if segment.start >= self.start || total + self.limits.segment_bytes <= self.limits.run_bytes {
                break;
            }
            // A segment that cannot be removed is tried again next time. Until then the next oldest one is removed.
            if fs::remove_file(&segment.path).is_ok() {
                KillPoint::ShimSegmentRemoved.reach();
                total -= bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::reader_tests::read_since;
    use super::super::record::push_record;
    use super::super::{SegmentList, segments_in};
    use super::*;

    const AT: &[u8] = b"2023-11-14T22:13:20.007Z";

    fn record(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        push_record(&mut out, AT, Stream::Stdout, false, text.as_bytes());
        out
    }

    #[test]
    fn writer_rotates_segments_and_removes_oldest() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let limits = Limits { segment_bytes: 1_000, run_bytes: 4_000 };
        let mut writer = SegmentWriter::create(dir.path(), 5_000, limits).expect("creates");
        let mut sum = 5_000;
        for n in 0..1_000 {
            let record = record(&format!("line {n}"));
            writer.write(&record, AT).expect("writes");
            sum += record.len() as u64;
            let on_disk: u64 = fs::read_dir(dir.path())
                .expect("there")
                .map(|entry| entry.expect("there").metadata().expect("there").len())
                .sum();
            assert!(on_disk <= limits.run_bytes + 100, "{on_disk} bytes on disk");
        }
        assert_eq!(writer.position(), sum);
        let segments: SegmentList = segments_in(dir.path(), None).expect("a look").into();
        let page = read_since(&segments, 0, 10_000).expect("reads");
        assert!(page.first > 5_000);
        assert_eq!(page.lines.last().expect("lines").line, "line 999");
        assert_eq!(page.next, sum);
        let numbers: Vec<u32> = page.lines.iter().map(|line| line.line[5..].parse().expect("a number")).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "no gap after the first kept line");
    }

    #[test]
    fn writer_reports_lines_lost_to_full_disk() {
        // /dev/full fails every write with ENOSPC. Unlike on a real disk, set_len fails on it, too, so the test swaps the segment
        // under the writer.
        let dir = tempfile::tempdir().expect("a temp folder");
        let mut writer =
            SegmentWriter::create(dir.path(), 0, Limits { segment_bytes: 1_000, run_bytes: 4_000 }).expect("creates");
        writer.write(&record("before"), AT).expect("writes");
        let real = std::mem::replace(&mut writer.file, File::options().write(true).open("/dev/full").expect("there"));
        let mut two = record("lost 1");
        two.extend(record("lost 2"));
        assert!(writer.write(&two, AT).is_err());
        assert!(writer.write(&record("lost 3"), AT).is_err());
        assert!(writer.has_unreported_loss());
        writer.file = real;
        writer.write(&record("after"), AT).expect("writes");
        assert!(!writer.has_unreported_loss());
        let page = read_since(&SegmentList::from(segments_in(dir.path(), None).expect("a look")), 0, 100).expect("reads");
        let lines: Vec<&str> = page.lines.iter().map(|line| line.line.as_str()).collect();
        assert_eq!(lines, ["before", "[autoappdev: 3 lines are missing here: they could not be written to the disk]", "after"]);
    }
}
