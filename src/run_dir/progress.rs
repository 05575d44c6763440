//! `progress.json`: the progress of a run, as last reported by its pipeline. Written only by the shim, to a temporary file
//! first. Read if the shim can no longer be asked.
//!
//! If killed while writing: the previous file stays, and the temporary file is replaced later. A power cut during the run can
//! leave an older file, an empty one, or none. The last version is on disk before the run's end is.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::format::{FORMAT, format_of};
use super::lines::{from_line, to_line};
use crate::pipeline::Progress;
use crate::private::{self, private_file, sync_dir};

/// The longest file that is read, in bytes: several times the size of any file that this program writes.
const FILE_BYTES_MAX: u64 = 128 * 1024;

/// The progress as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberedProgress {
    /// The progress.
    pub progress: Progress,
    /// The number of the signs that contained it. Of the stored and the reported progress, the one with the higher number is the
    /// later one.
    pub number: u64,
}

/// The reasons why a stored progress cannot be used. Each sentence fits after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum ProgressError {
    /// The file could not be read.
    #[error("read progress.json: {0}")]
    Io(#[from] io::Error),
    /// It is not a regular file, or is longer than any file that this program writes.
    #[error("read progress.json: it is not a regular file, or it is too large")]
    Strange,
    /// The file is torn, or another program wrote it.
    #[error("understand progress.json: {0}")]
    Damaged(serde_json::Error),
    /// A newer version wrote the file.
    #[error("understand progress.json: it has format {0}, but this version supports formats up to {FORMAT}")]
    Newer(u32),
}

#[derive(Serialize)]
struct Stored<'a> {
    format: u32,
    number: u64,
    progress: &'a Progress,
}

/// Replaces the file completely or not at all. With `durable` it survives a power cut once this returns `Ok`.
pub fn write_progress(path: &Path, progress: &Progress, number: u64, durable: bool) -> io::Result<()> {
    let beside = path.with_extension("new");
    let stored = Stored { format: FORMAT, number, progress };
    // A file that a kill left behind. Its kind does not matter: it is not written to, and the other end of a pipe is not waited
    // for.
    let _was_none = fs::remove_file(&beside);
    let written = private_file().create_new(true).open(&beside).and_then(|mut file| {
        file.write_all(&to_line(&stored))?;
        if durable { file.sync_data() } else { Ok(()) }
    });
    written.and_then(|()| fs::rename(&beside, path)).inspect_err(|_| {
        // On a full disk, an incomplete file takes space from others. It may not exist at all.
        let _in_the_way = fs::remove_file(&beside);
    })?;
    path.parent().filter(|_| durable).map_or(Ok(()), sync_dir)
}

/// Reads the stored progress; `None` if there is no file. The pipeline could have put any other file there.
pub fn read_progress(path: &Path) -> Result<Option<NumberedProgress>, ProgressError> {
    match private::read(path, FILE_BYTES_MAX) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::FileTooLarge) => Err(ProgressError::Strange),
        text => parse_progress(&text?).map(Some),
    }
}

/// Parses the contents of such a file.
pub fn parse_progress(text: &[u8]) -> Result<NumberedProgress, ProgressError> {
    let format = format_of(text).map_err(ProgressError::Damaged)?;
    if format > FORMAT {
        return Err(ProgressError::Newer(format));
    }
    from_line(text).map_err(ProgressError::Damaged)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustix::fs::Mode;

    use super::*;
    use crate::clock::Timestamp;
    use crate::pipeline::Mark;

    fn progress(number: u64) -> NumberedProgress {
        let mut progress = Progress::new(Timestamp::from_unix_ms(1_700_000_000_000));
        for line in ["::step x", "::progress 40.5 y"] {
            progress.take(Mark::parse(line.as_bytes()).expect("a mark"), progress.at, 5);
        }
        NumberedProgress { progress, number }
    }

    #[test]
    fn progress_file_round_trips_and_is_private() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("progress.json");
        assert_eq!(read_progress(&path).expect("a look"), None);
        for (number, durable) in [(1, false), (2, true)] {
            write_progress(&path, &progress(number).progress, number, durable).expect("writes");
            assert_eq!(read_progress(&path).expect("reads"), Some(progress(number)));
        }
        let text = fs::read_to_string(&path).expect("text");
        assert!(text.starts_with(r#"{"format":1,"#) && text.ends_with("}\n"), "{text}");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "nothing is left beside it");
        // Neither an incomplete file that a kill left there nor anything that another program put there has an effect.
        let beside = dir.path().join("progress.new");
        rustix::fs::mkfifoat(rustix::fs::CWD, &beside, Mode::RWXU).expect("creates");
        write_progress(&path, &progress(3).progress, 3, false).expect("writes");
        let other = dir.path().join("other");
        fs::write(&other, "kept").expect("writes");
        std::os::unix::fs::symlink(&other, &beside).expect("links");
        write_progress(&path, &progress(4).progress, 4, false).expect("writes");
        assert_eq!(fs::read_to_string(&other).expect("there"), "kept");
        assert_eq!(read_progress(&path).expect("reads"), Some(progress(4)));
        assert_eq!(read_progress(&path.join("x")).expect("a look"), None, "no folder is no error");
    }

    #[test]
    fn damaged_or_odd_progress_file_is_an_error_without_blocking() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("progress.json");
        write_progress(&path, &progress(1).progress, 1, false).expect("writes");
        let whole = fs::read(&path).expect("reads");
        for len in 0..whole.len() - 1 {
            fs::write(&path, &whole[..len]).expect("writes");
            assert!(matches!(read_progress(&path), Err(ProgressError::Damaged(_))), "the first {len} bytes");
        }
        let newer = String::from_utf8(whole.clone()).expect("text").replace("\"format\":1", "\"format\":1000");
        assert!(matches!(parse_progress(newer.as_bytes()), Err(ProgressError::Newer(1000))));
        fs::write(&path, [&whole[..], &b" ".repeat(200_000)].concat()).expect("writes");
        assert!(matches!(read_progress(&path), Err(ProgressError::Strange)), "a very long one");
        let other = dir.path().join("other");
        fs::rename(&path, &other).expect("renames");
        std::os::unix::fs::symlink(&other, &path).expect("links");
        assert!(read_progress(&path).is_err(), "a link");
        fs::remove_file(&path).expect("removes");
        fs::create_dir(&path).expect("creates");
        assert!(read_progress(&path).is_err(), "a folder");
        fs::remove_dir(&path).expect("removes");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RWXU).expect("creates");
        assert!(matches!(read_progress(&path), Err(ProgressError::Strange)), "a pipe");
    }
}
