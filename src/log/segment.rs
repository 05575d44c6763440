//! The files of a log: their list, their order, and their bytes by position, plain or packed.
//!
//! The name of a segment is the position at which it begins, `<start>.log`. The name of a packed segment also contains its end,
//! `<start>-<end>.log.gz`. If both exist, the server was killed after it had made the packed one and
//! before it removed the plain one: the plain one counts.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::packed::PackedFile;
use crate::absent::if_there;
use crate::held_dir::{has_entry, is_foreign};
use crate::private;
use crate::shell_word::quoted_path;
use crate::user;

/// The place of a segment among all segments: its run, and the position at which it begins. Of two segments that begin at the
/// same position, the first is empty: a shim was killed before it wrote anything there, and the next run began.
pub type Place = (Option<i64>, u64);

/// The highest position at which a run's log begins. A file or a database from another machine can claim a higher end of the log;
/// it counts as unknown. Up to twice this number, a client in JavaScript can distinguish all positions.
pub const RUN_START_MAX: u64 = 1 << 52;

/// One file of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The position of its first byte.
    pub start: u64,
    /// The position after its last byte, which the name of a packed segment contains; `None` if it is plain.
    pub packed_end: Option<u64>,
    /// The path of the file.
    pub path: PathBuf,
    /// The run that it belongs to; `None` for the server's own log.
    pub run_id: Option<i64>,
}

impl Segment {
    /// Returns the segment that a file in a log folder is; `None` if it is something else.
    fn of_file(path: PathBuf, run_id: Option<i64>) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (start, packed_end) = if let Some(range) = name.strip_suffix(".log.gz") {
            let (start, end) = range.split_once('-')?;
            (position(start)?, Some(position(end)?))
        } else {
            (position(name.strip_suffix(".log")?)?, None)
        };
        Some(Self { start, packed_end, path, run_id })
    }

    /// Returns its place among all segments.
    pub fn place(&self) -> Place {
        (self.run_id, self.start)
    }

    /// Returns the current position after its last byte. A plain segment that was removed ends where it begins.
    pub fn end(&self) -> io::Result<u64> {
        match self.packed_end {
            Some(end) => Ok(end),
            None => Ok(self.start + self.bytes_on_disk()?),
        }
    }

    /// Returns the length of its file, in bytes; 0 if it was removed.
    pub fn bytes_on_disk(&self) -> io::Result<u64> {
        Ok(if_there(fs::symlink_metadata(&self.path))?.map_or(0, |metadata| metadata.len()))
    }

    /// Opens its file; `None` if it was removed.
    pub(super) fn open(&self) -> io::Result<Option<SegmentFile>> {
        Ok(if_there(private::open(&self.path))?.map(|file| match self.packed_end {
            None => SegmentFile::Plain(file),
            Some(end) => SegmentFile::Packed(PackedFile::new(file, end.saturating_sub(self.start))),
        }))
    }
}

/// Parses a position in a file's name. A file from another machine can have any name, so a position that no log reaches is
/// rejected. The limit is twice the highest start of a run, so the segments of each run have valid names.
pub(super) fn position(digits: &str) -> Option<u64> {
    digits.parse().ok().filter(|&position| position <= 2 * RUN_START_MAX)
}

/// Returns the name of a plain segment. Twenty digits hold every position, so names sort like positions.
pub(super) fn plain_name(start: u64) -> String {
    format!("{start:020}.log")
}

pub(super) fn packed_name(start: u64, end: u64) -> String {
    format!("{start:020}-{end:020}.log.gz")
}

/// Returns the result of reading a log's folder; `None` if there is no such folder. A file can have its name, or that of its
/// run's directory.
pub(super) fn in_folder<T>(dir: &Path, result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        // If even the directory of all runs cannot be read, nothing is known about this folder.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory && dir.parent().is_some_and(has_entry) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let (user, run, dir) = (user::own(), quoted_path(dir.parent().unwrap_or(dir)), dir.display());
            let advice = format!("give it to the user of the server (`chown -R {user} {run}`), or move it away");
            Err(io::Error::new(error.kind(), format!("cannot read {dir}: {error}; {advice}")))
        }
        other => if_there(other),
    }
}

/// Lists the segments in one folder, in order; none if there is no folder.
pub fn segments_in(dir: &Path, run_id: Option<i64>) -> io::Result<Vec<Segment>> {
    let mut segments = all_segments_in(dir, run_id)?;
    segments.dedup_by_key(|segment| segment.start);
    Ok(segments)
}

/// Lists the same. If a segment exists in both forms, both are listed, the plain one first.
pub fn all_segments_in(dir: &Path, run_id: Option<i64>) -> io::Result<Vec<Segment>> {
    // Files elsewhere must not be shown, packed or removed, even if their names look like segments.
    if is_foreign(dir) {
        return Ok(Vec::new());
    }
    let Some(entries) = in_folder(dir, fs::read_dir(dir))? else { return Ok(Vec::new()) };
    let mut segments = Vec::new();
    for entry in entries {
        let entry = entry?;
        let segment = Segment::of_file(entry.path(), run_id);
        // Only a regular file is a segment, whatever its name.
        segments.extend(segment.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_file())));
    }
    segments.sort_unstable_by_key(|segment| (segment.start, segment.packed_end));
    Ok(segments)
}

/// An open segment. Its bytes can be read even after the file was renamed or removed.
#[derive(Debug)]
pub(super) enum SegmentFile {
    Plain(File),
    Packed(PackedFile),
}

impl SegmentFile {
    pub(super) fn len(&self) -> io::Result<u64> {
        match self {
            Self::Plain(file) => Ok(file.metadata()?.len()),
            Self::Packed(packed) => Ok(packed.len()),
        }
    }

    /// Reads from `offset` on, as much as is available; 0 at the end. Damaged bytes are the error [`io::ErrorKind::InvalidData`].
    /// Then [`SegmentFile::damage_at`] returns their range.
    pub(super) fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read_at(buffer, offset),
            Self::Packed(packed) => packed.read_at(buffer, offset),
        }
    }

    pub(super) fn read_exact_at(&mut self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => {
                    buffer = &mut buffer[count..];
                    offset += count as u64;
                }
            }
        }
        Ok(())
    }

    /// Returns the range that damage at `offset` makes unreadable.
    pub(super) fn damage_at(&self, offset: u64) -> Range<u64> {
        match self {
            Self::Plain(_) => offset..offset + 1,
            Self::Packed(packed) => packed.frame_at(offset),
        }
    }
}
