//! Packing: a finished segment is replaced by a packed one.
//!
//! If killed while packing: the unfinished file has a different name and is removed by the next attempt. The plain segment exists
//! until the packed one is on disk under its name.

use std::fs;
use std::io;
use std::path::Path;

use super::packed::{TEXT_BYTES_MAX, write_packed};
use super::segment::{Segment, packed_name};
use crate::absent::if_there;
use crate::held_dir::has_entry;
use crate::kill_point::KillPoint;
use crate::private::sync_dir;

const UNFINISHED: &str = "packing.tmp";

/// The result of packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// The segment is packed.
    Done,
    /// The segment is left alone, because it was removed meanwhile, is packed already, is not a file, is empty, or is too long.
    Left,
    /// `goes_on` returned false.
    GivenUp,
}

/// Packs a plain segment that no longer grows, and removes the plain file. `goes_on` is called before each frame.
pub fn pack(segment: &Segment, mut goes_on: impl FnMut() -> bool) -> io::Result<Packing> {
    let Some(dir) = segment.path.parent().filter(|_| segment.packed_end.is_none()) else { return Ok(Packing::Left) };
    let Some(file) = if_there(fs::symlink_metadata(&segment.path))? else { return Ok(Packing::Left) };
    let len = file.len();
    if !file.is_file() || !(1..=TEXT_BYTES_MAX).contains(&len) {
        return Ok(Packing::Left);
    }
    let unfinished = dir.join(UNFINISHED);
    let packed = dir.join(packed_name(segment.start, segment.start + len));
    // An existing packed file got its name only after it was on disk, so only the removal is left to do.
    if !has_entry(&packed) {
        let written = write_packed(&segment.path, len, &unfinished, &mut goes_on);
        if !matches!(written, Ok(true)) {
            // A full disk must not keep a file that is of no use.
            let _removed_by_the_next = fs::remove_file(&unfinished);
            return written.map(|_| Packing::GivenUp);
        }
        KillPoint::ServerSegmentPacked.reach();
        fs::rename(&unfinished, &packed)?;
        sync_dir(dir)?;
        KillPoint::ServerSegmentNamed.reach();
    }
    if if_there(fs::remove_file(&segment.path))?.is_none() {
        // The shim removed the segment while it was packed, because the log was too long and this segment was the oldest. So the
        // packed one must not stay either.
        fs::remove_file(&packed)?;
        return Ok(Packing::Left);
    }
    Ok(Packing::Done)
}

/// Removes the file that a killed packing has left.
pub fn remove_unfinished(dir: &Path) -> io::Result<()> {
    if_there(fs::remove_file(dir.join(UNFINISHED))).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::super::packed::FRAME_BYTES;
    use super::super::segment::{SegmentFile, all_segments_in, plain_name, segments_in};
    use super::*;
    use std::io::Read;
    use std::slice;

    /// Creates a segment with a text of this length that is neither uniform nor random. Returns the segment and the text.
    fn a_segment(dir: &Path, start: u64, len: usize) -> (Segment, Vec<u8>) {
        let mut seed = 1_u32;
        let text: Vec<u8> = (0..len)
            .map(|n| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if n % 100 == 99 { b'\n' } else { b'a' + u8::try_from(seed >> 29).expect("three bits") }
            })
            .collect();
        fs::write(dir.join(plain_name(start)), &text).expect("writes");
        let segment = segments_in(dir, None).expect("a look").into_iter().find(|segment| segment.start == start);
        (segment.expect("there"), text)
    }

    fn read_all(file: &mut SegmentFile, from: u64) -> Vec<u8> {
        let (mut text, mut at) = (Vec::new(), from);
        let mut buffer = vec![0; 10_007];
        loop {
            match file.read_at(&mut buffer, at).expect("reads") {
                0 => return text,
                count => {
                    text.extend_from_slice(&buffer[..count]);
                    at += count as u64;
                }
            }
        }
    }

    #[test]
    fn packed_segment_is_smaller_and_reads_identically_from_any_offset() {
        let frame = usize::try_from(FRAME_BYTES).expect("small");
        for len in [1, 99, frame - 1, frame, frame + 1, 3 * frame + 77] {
            let dir = tempfile::tempdir().expect("a temp folder");
            let (segment, text) = a_segment(dir.path(), 5_000, len);
            assert_eq!(pack(&segment, || true).expect("packs"), Packing::Done);
            let packed = segments_in(dir.path(), None).expect("a look").remove(0);
            assert_eq!((packed.start, packed.packed_end), (5_000, Some(5_000 + len as u64)));
            assert!(len < 1000 || packed.bytes_on_disk().expect("there") < len as u64 / 2);
            let mut file = packed.open().expect("opens").expect("there");
            assert_eq!(file.len().expect("known"), len as u64);
            for from in [0, 1, len / 2, len - 1, len, frame.min(len), len + 5] {
                assert!(read_all(&mut file, from as u64) == text[from.min(len)..], "{len} bytes from {from}");
            }
            // Any gzip tool can read it: consecutive members are one text.
            let bytes = fs::read(&packed.path).expect("reads");
            let mut unpacked = Vec::new();
            flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut unpacked).expect("is gzip");
            assert!(unpacked == text);
            assert_eq!(pack(&packed, || true).expect("nothing to do"), Packing::Left);
        }
    }

    #[test]
    fn leftovers_of_interrupted_packing_are_cleaned_up() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (segment, text) = a_segment(dir.path(), 0, 300_000);
        // Killed in the middle: the folder contains a file that is not a segment.
        assert_eq!(pack(&segment, || false).expect("gives up"), Packing::GivenUp);
        fs::write(dir.path().join(UNFINISHED), "half").expect("writes");
        assert_eq!(segments_in(dir.path(), None).expect("a look").as_slice(), slice::from_ref(&segment));
        // Killed before the plain segment was removed: both files exist, and the plain one counts.
        let plain = fs::read(&segment.path).expect("reads");
        assert_eq!(pack(&segment, || true).expect("packs"), Packing::Done);
        fs::write(&segment.path, plain).expect("writes");
        assert_eq!(segments_in(dir.path(), None).expect("a look").as_slice(), slice::from_ref(&segment));
        assert_eq!(all_segments_in(dir.path(), None).expect("a look").len(), 2);
        assert_eq!(pack(&segment, || panic!("it is packed already")).expect("removes"), Packing::Done);
        let left = segments_in(dir.path(), None).expect("a look");
        assert!(left.len() == 1 && left[0].packed_end == Some(300_000), "{left:?}");
        assert!(read_all(&mut left[0].open().expect("opens").expect("there"), 0) == text);
        fs::write(dir.path().join(UNFINISHED), "half").expect("writes");
        remove_unfinished(dir.path()).expect("removes");
        remove_unfinished(dir.path()).expect("nothing to do");
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1);
    }

    #[test]
    fn segment_removed_during_packing_leaves_no_file() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (segment, _) = a_segment(dir.path(), 0, 300_000);
        let path = segment.path.clone();
        let removed_meanwhile = || {
            let _only_the_first_time = fs::remove_file(&path);
            true
        };
        assert_eq!(pack(&segment, removed_meanwhile).expect("packs what it has open"), Packing::Left);
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 0);
        assert_eq!(pack(&segment, || true).expect("is gone"), Packing::Left);
    }

    #[test]
    fn damage_to_packed_segment_is_never_returned_as_text() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let (segment, text) = a_segment(dir.path(), 0, 400_000);
        pack(&segment, || true).expect("packs");
        let packed = segments_in(dir.path(), None).expect("a look").remove(0);
        let good = fs::read(&packed.path).expect("reads");
        let mut seed = 7_u64;
        let mut harmed = 0;
        for round in 0..300 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = usize::try_from(seed >> 20).expect("64 bits") % good.len();
            let mut bad = good.clone();
            match round % 3 {
                0 => bad[at] ^= 1 << (seed & 7),
                1 => bad.truncate(at),
                _ => bad.insert(at, 0),
            }
            fs::write(&packed.path, &bad).expect("writes");
            let mut file = packed.open().expect("opens").expect("there");
            let (mut at, mut buffer) = (0, vec![0; 50_000]);
            while at < text.len() {
                match file.read_at(&mut buffer, at as u64) {
                    Ok(0) => panic!("it ends early"),
                    Ok(count) => {
                        assert!(buffer[..count] == text[at..at + count], "round {round}: other text at {at}");
                        at += count;
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
                        at = usize::try_from(file.damage_at(at as u64).end).expect("small");
                        harmed += 1;
                    }
                }
            }
        }
        assert!(harmed >= 300, "{harmed} frames were damaged");
    }
}
