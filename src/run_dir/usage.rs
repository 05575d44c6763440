//! `usage`: samples of what the run used over time, in records of a fixed size. Written only by the shim, read by the server.
//!
//! A header of 16 bytes contains eight letters, the version, and the interval of the records in milliseconds. Records of 32
//! bytes follow, see [`record`]. Numbers are little-endian. Before there are [`RECORDS_MAX`] records, every second one is
//! removed and the interval doubles. So the file never has more than 64 KiB, however long the run is.
//!
//! If killed while writing: an incomplete record is overwritten later, and readers ignore it. When half of the records are
//! removed, the file is written to a temporary file and renamed. Nothing is synced: a power cut can remove the latest records,
//! or leave zeros in their place, which do not count as records.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::pipeline::UsageSample;
use crate::private;

/// The first bytes of the file, and the version of its format.
const MAGIC: [u8; 8] = *b"AADusage";
const VERSION: u32 = 1;

const HEADER_BYTES: usize = 16;
const RECORD_BYTES: usize = 32;

/// At this many records, half of them are removed before the file is written, so it never contains more than 64 KiB.
const RECORDS_MAX: usize = 2048;

/// The longest file that is read, in bytes.
const FILE_BYTES_MAX: usize = HEADER_BYTES + RECORDS_MAX * RECORD_BYTES;

/// The stored samples of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredUsage {
    /// The approximate interval between two samples while the run is not paused.
    pub interval_ms: u32,
    /// The samples, oldest first.
    pub samples: Vec<UsageSample>,
}

/// Adds a sample; `interval_ms` applies to a new file. Returns the interval that the file has from now on.
pub fn append_usage(path: &Path, sample: UsageSample, interval_ms: u32) -> io::Result<u32> {
    let file = private::writable(path)?;
    let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if len < HEADER_BYTES {
        file.write_all_at(&bytes_of(&StoredUsage { interval_ms, samples: vec![sample] }), 0)?;
        return Ok(interval_ms);
    }
    let interval_ms = interval_of(&file)?;
    let records = (len - HEADER_BYTES) / RECORD_BYTES;
    if records + 1 < RECORDS_MAX {
        let end = HEADER_BYTES + records * RECORD_BYTES;
        file.write_all_at(&record(&sample), end as u64)?;
        return Ok(interval_ms);
    }
    let StoredUsage { interval_ms, mut samples } = parse_usage(&private::read_open(file, FILE_BYTES_MAX as u64)?)?;
    samples.push(sample);
    let halved = StoredUsage { interval_ms: interval_ms.saturating_mul(2), samples: UsageSample::halved(&samples) };
    private::replace_file(path, &bytes_of(&halved), || ())?;
    Ok(halved.interval_ms)
}

/// Reads the stored samples; `None` if there is no file. The pipeline could have put any other file there.
pub fn read_usage(path: &Path) -> io::Result<Option<StoredUsage>> {
    match private::read(path, FILE_BYTES_MAX as u64) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        bytes => parse_usage(&bytes?).map(Some),
    }
}

/// Parses the contents of such a file, up to the first record that cannot follow the previous one.
pub fn parse_usage(bytes: &[u8]) -> io::Result<StoredUsage> {
    let (header, records) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(strange)?;
    let interval_ms = interval_in(header)?;
    let mut last = UsageSample::START;
    let samples = records.chunks_exact(RECORD_BYTES).map(sample_of).map_while(|sample| {
        let follows = sample.at_ms > last.at_ms && sample.cpu_ms >= last.cpu_ms && sample.paused_ms >= last.paused_ms;
        last = sample;
        follows.then_some(sample)
    });
    Ok(StoredUsage { interval_ms, samples: samples.collect() })
}

fn bytes_of(stored: &StoredUsage) -> Vec<u8> {
    let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes(), &stored.interval_ms.to_le_bytes()].concat();
    stored.samples.iter().for_each(|sample| bytes.extend(record(sample)));
    bytes
}

/// Encodes a sample as a record: its time, CPU time and memory in 8 bytes each, then the number of processes and the paused time
/// in 4 bytes each.
fn record(sample: &UsageSample) -> [u8; RECORD_BYTES] {
    let UsageSample { at_ms, paused_ms, cpu_ms, memory_bytes, processes } = *sample;
    let mut record = [0; RECORD_BYTES];
    for (place, number) in
        record.chunks_exact_mut(8).zip([at_ms, cpu_ms, memory_bytes, u64::from(paused_ms) << 32 | u64::from(processes)])
    {
        place.copy_from_slice(&number.to_le_bytes());
    }
    record
}

fn sample_of(record: &[u8]) -> UsageSample {
    let number = |index: usize| u64::from_le_bytes(*record[8 * index..].first_chunk().expect("a record has four of them"));
    let half = |number: u64| u32::try_from(number & u64::from(u32::MAX)).expect("32 bits");
    let last = number(3);
    let (at_ms, cpu_ms, memory_bytes) = (number(0), number(1), number(2));
    UsageSample { at_ms, cpu_ms, memory_bytes, processes: half(last), paused_ms: half(last >> 32) }
}

fn interval_of(file: &File) -> io::Result<u32> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0)?;
    interval_in(&header)
}

fn interval_in(header: &[u8]) -> io::Result<u32> {
    let (magic, rest) = header.split_at(MAGIC.len());
    let number = |at: usize| u32::from_le_bytes(*rest[at..].first_chunk().expect("the header has both"));
    if magic == MAGIC && number(0) == VERSION && number(4) > 0 { Ok(number(4)) } else { Err(strange()) }
}

fn strange() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "it is not a usage file that this version knows")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn sample(n: u64) -> UsageSample {
        UsageSample { at_ms: 10_000 * n, paused_ms: 7, cpu_ms: 100 * n, memory_bytes: 1 << 20, processes: 3 }
    }

    #[test]
    fn usage_file_halves_records_and_doubles_interval_at_2048() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("usage");
        assert_eq!(read_usage(&path).expect("a look"), None);
        for n in 1..=2047 {
            assert_eq!(append_usage(&path, sample(n), 10_000).expect("writes"), 10_000);
        }
        let full = read_usage(&path).expect("reads").expect("there");
        assert_eq!((full.interval_ms, full.samples.len()), (10_000, 2047));
        assert_eq!(full.samples, (1..=2047).map(sample).collect::<Vec<_>>());
        assert_eq!(append_usage(&path, sample(2048), 10_000).expect("writes"), 20_000);
        let halved = read_usage(&path).expect("reads").expect("there");
        assert_eq!((halved.interval_ms, halved.samples), (20_000, (1..=1024).map(|n| sample(2 * n)).collect()));
        // The file never grows beyond its limit.
        let (mut now, mut most) = (2048, 0);
        for _ in 0..6 * 1024 {
            now += 2;
            append_usage(&path, sample(now), 10_000).expect("writes");
            most = most.max(fs::metadata(&path).expect("there").len());
        }
        let last = read_usage(&path).expect("reads").expect("there");
        assert_eq!((last.interval_ms, last.samples.last()), (20_000 << 6, Some(&sample(now))));
        assert!(most <= 64 * 1024, "{most} bytes");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn torn_usage_record_is_ignored_and_overwritten() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("usage");
        for n in 1..=3 {
            append_usage(&path, sample(n), 500).expect("writes");
        }
        let whole = fs::read(&path).expect("reads");
        for len in 0..=whole.len() {
            fs::write(&path, &whole[..len]).expect("writes");
            let kept = u64::try_from(len.saturating_sub(HEADER_BYTES) / RECORD_BYTES).expect("small");
            let read = read_usage(&path);
            if len < HEADER_BYTES {
                assert_eq!(read.expect_err("no header").kind(), ErrorKind::InvalidData, "{len}");
            } else {
                assert_eq!(read.expect("reads").expect("there").samples, (1..=kept).map(sample).collect::<Vec<_>>(), "{len}");
            }
            append_usage(&path, sample(9), 500).expect("writes");
            let samples = read_usage(&path).expect("reads").expect("there").samples;
            assert_eq!(samples, (1..=kept).chain([9]).map(sample).collect::<Vec<_>>(), "{len}");
        }
        // A power cut has left zeros in place of the records.
        fs::write(&path, [&whole[..HEADER_BYTES + RECORD_BYTES], &[0; 100]].concat()).expect("writes");
        assert_eq!(read_usage(&path).expect("reads").expect("there").samples, [sample(1)]);
    }

    #[test]
    fn odd_file_as_usage_file_is_an_error_without_blocking() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("usage");
        let fails = |what: &str| {
            assert!(read_usage(&path).is_err() && append_usage(&path, sample(1), 500).is_err(), "{what}");
        };
        append_usage(&path, sample(1), 500).expect("writes");
        let whole = fs::read(&path).expect("reads");
        for (at, what) in [(0, "another program's"), (8, "a newer version's")] {
            let mut other = whole.clone();
            other[at] ^= 2;
            fs::write(&path, &other).expect("writes");
            fails(what);
            assert_eq!(fs::read(&path).expect("reads"), other, "it is left as it is");
        }
        File::create(&path).and_then(|file| file.write_all_at(&whole, 0).and_then(|()| file.set_len(400 << 30))).expect("a hole");
        fails("a very long one");
        let other = dir.path().join("other");
        fs::write(&other, &whole).expect("writes");
        fs::remove_file(&path).expect("removes");
        std::os::unix::fs::symlink(&other, &path).expect("links");
        fails("a link");
        assert_eq!(fs::read(&other).expect("there"), whole);
        fs::remove_file(&path).expect("removes");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).expect("creates");
        fails("a pipe");
        fs::remove_file(&path).expect("removes");
        fs::create_dir(&path).expect("creates");
        fails("a folder");
        assert_eq!(read_usage(&path.join("x")).expect("a look"), None, "no folder is no error");
    }
}
