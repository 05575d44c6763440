//! Seeking from a time to a position, by binary search, so that it takes no longer in a log of gigabytes.
//!
//! Time stamps within a run never decrease, so a run can be searched by halves. They can decrease from one run to the next, if
//! the clock was set. So runs are searched in their order, except runs that are known to have ended before.

use std::io;

use super::cursor::{ATTEMPTS_MAX, Cursor, Item, files_change_too_fast};
use super::listing::Listing;
use super::record::{RECORD_MAX, parse_record};
use super::segment::{Segment, SegmentFile};
use crate::clock::Timestamp;

/// The number of bytes that are read to find a stamp. Wherever they begin, they contain a whole record.
const PROBE_BYTES: usize = 2 * RECORD_MAX;

/// A stretch that is too short for halving, in bytes. It is read through.
const STRETCH_BYTES: u64 = 4 * RECORD_MAX as u64;

/// Returns the position from which to read for the first line that came at or after `at`: used as `since`, it gives this line
/// first.
///
/// If bytes before that line are missing, the position is before these bytes, so that they are reported. If there is no such
/// line, it is the current end. `begin` is the position at which the log began, `end` is as for [`Cursor::until`], and
/// `is_before` returns whether all lines of a run are earlier.
pub fn position_at(
    log: &dyn Listing,
    at: Timestamp,
    begin: u64,
    end: Option<u64>,
    is_before: impl Fn(i64) -> bool,
) -> io::Result<u64> {
    for attempt in 0..ATTEMPTS_MAX {
        if attempt > 0 {
            log.look_again();
        }
        if let Some(position) = try_position_at(log, at, begin, end, &is_before)? {
            return Ok(position);
        }
    }
    Err(files_change_too_fast())
}

/// Returns `None` if a listed segment no longer exists.
fn try_position_at(
    log: &dyn Listing,
    at: Timestamp,
    begin: u64,
    end: Option<u64>,
    is_before: &impl Fn(i64) -> bool,
) -> io::Result<Option<u64>> {
    // The end of the part that was left out.
    let mut floor = begin;
    let mut next = log.oldest()?;
    while let Some(first) = next.take() {
        if let Some(mut run_id) = first.run_id.filter(|&run_id| is_before(run_id)) {
            // The files of these runs are not read, however many there are.
            while is_before(run_id + 1) {
                run_id += 1;
            }
            next = log.after((Some(run_id), u64::MAX))?;
            floor = match &next {
                Some(next) => log.before(next.place())?.map_or(Ok(floor), |before| before.end())?,
                None => log.end()?,
            };
            continue;
        }
        let mut run = vec![first];
        loop {
            next = log.after(run[run.len() - 1].place())?;
            match next.take_if(|next| next.run_id == run[0].run_id) {
                Some(segment) => run.push(segment),
                None => break,
            }
        }
        // The stamps of the server's own log may decrease anywhere. It has at most two files, so they are read through.
        let from = if run[0].run_id.is_none() { Some(run[0].start) } else { before_stamp(&run, at)? };
        let Some(from) = from else { return Ok(None) };
        let since = if from == run[0].start { floor } else { from };
        if let Some(position) = first_in_run(log, since, run[0].run_id, at, end)? {
            return Ok(Some(position));
        }
        floor = run[run.len() - 1].end()?;
    }
    Ok(Some(floor))
}

/// Reads through a run from `since` on. Returns `None` if no line of it came at or after `at`.
fn first_in_run(log: &dyn Listing, since: u64, run_id: Option<i64>, at: Timestamp, end: Option<u64>) -> io::Result<Option<u64>> {
    let mut cursor = Cursor::until(log, since, end);
    // The position before the item, and the position before the hole that precedes it.
    let mut position = since;
    let mut hole = None;
    while let Some(item) = cursor.next()? {
        match item {
            Item::Line(line) if line.run_id > run_id => return Ok(None),
            Item::Line(line) if line.run_id == run_id && line.head.is_some_and(|(stamp, _)| stamp >= at) => {
                return Ok(Some(hole.unwrap_or(position)));
            }
            Item::Line(_) => hole = None,
            Item::Gone { from, .. } => hole = Some(hole.unwrap_or(from)),
        }
        position = cursor.position();
    }
    Ok(None)
}

/// Returns the beginning of a line before which all stamps of the run are earlier than `at`, close to the last of these. Returns
/// `None` if a segment no longer exists.
fn before_stamp(run: &[Segment], at: Timestamp) -> io::Result<Option<u64>> {
    // The last segment whose first stamp is earlier.
    let (mut low, mut high) = (0, run.len());
    while high - low > 1 {
        let middle = usize::midpoint(low, high);
        // A segment without any stamp decides nothing, so the next one is read.
        let mut probe = (middle, None);
        while probe.1.is_none() && probe.0 < high {
            let Some(mut file) = run[probe.0].open()? else { return Ok(None) };
            probe.1 = stamp_from(&mut file, 0)?.map(|(stamp, _)| stamp);
            probe.0 += usize::from(probe.1.is_none());
        }
        match probe.1 {
            Some(stamp) if stamp < at => low = probe.0,
            Some(_) | None => high = middle,
        }
    }
    let Some(segment) = run.get(low) else { return Ok(Some(0)) };
    let Some(mut file) = segment.open()? else { return Ok(None) };
    let (mut low, mut high) = (0, file.len()?);
    while high - low > STRETCH_BYTES {
        let middle = u64::midpoint(low, high);
        match stamp_from(&mut file, middle)? {
            Some((stamp, behind)) if stamp < at && behind < high => low = behind,
            Some(_) | None => high = middle,
        }
    }
    Ok(Some(segment.start + low))
}

/// Returns the first stamp in a line that begins at or after `offset`, and the end of that line; `None` if no such line
/// is nearby.
fn stamp_from(file: &mut SegmentFile, offset: u64) -> io::Result<Option<(Timestamp, u64)>> {
    let mut bytes = vec![0; PROBE_BYTES];
    let mut len = 0;
    while len < bytes.len() {
        match file.read_at(&mut bytes[len..], offset + len as u64) {
            Ok(0) => break,
            Ok(count) => len += count,
            // The bytes after the damage do not count. The bytes before it are used.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => break,
            Err(error) => return Err(error),
        }
    }
    let bytes = &bytes[..len];
    // In the middle of a file, the first line may be the rest of a line.
    let mut used = if offset == 0 { 0 } else { memchr::memchr(b'\n', bytes).map_or(len, |newline| newline + 1) };
    while let Some(line_len) = memchr::memchr(b'\n', &bytes[used..]) {
        if let Some(record) = parse_record(&bytes[used..used + line_len]) {
            return Ok(Some((record.at, offset + (used + line_len + 1) as u64)));
        }
        used += line_len + 1;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::reader_tests::read_since;
    use super::super::record::push_record;
    use super::super::{Limits, SegmentList, SegmentWriter, Stream, pack, segments_in};
    use super::*;
    use std::fs;
    use std::path::Path;

    fn stamp(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(1_700_000_000_000 + ms)
    }

    /// Writes a run with these stamps, in segments of `segment_bytes` bytes, from position `begin` on.
    fn a_run(dir: &Path, run_id: i64, begin: u64, segment_bytes: u64, stamps: impl Iterator<Item = i64>) -> u64 {
        let log_dir = dir.join(run_id.to_string());
        fs::create_dir(&log_dir).expect("creates");
        let limits = Limits { segment_bytes, run_bytes: 1 << 40 };
        let mut writer = SegmentWriter::create(&log_dir, begin, limits).expect("creates");
        for (n, ms) in stamps.enumerate() {
            let mut out = Vec::new();
            // Some lines are long.
            let text = "x".repeat(if n % 97 == 3 { 50_000 } else { n % 50 });
            push_record(&mut out, stamp(ms).to_string().as_bytes(), Stream::Stdout, false, text.as_bytes());
            writer.write(&out, b"").expect("writes");
        }
        writer.position()
    }

    fn list(dir: &Path, runs: &[i64]) -> SegmentList {
        runs.iter().flat_map(|run| segments_in(&dir.join(run.to_string()), Some(*run)).expect("a look")).collect()
    }

    /// Checks for each time that the first line from the position on is the line that reading everything finds.
    fn look_at_all(list: &SegmentList, begin: u64, times: impl Iterator<Item = i64>) {
        let mut lines = Vec::new();
        let mut since = begin;
        loop {
            let page = read_since(list, since, 100_000).expect("reads");
            if page.lines.is_empty() {
                break;
            }
            since = page.next;
            lines.extend(page.lines);
        }
        assert!(lines.len() > 10);
        let end = list.end().expect("a look");
        for ms in times {
            let at = stamp(ms);
            let position = position_at(list, at, begin, None, |_| false).expect("seeks");
            let wanted = lines.iter().find(|line| line.at.is_some_and(|came| came >= at));
            let found = read_since(list, position, 1).expect("reads");
            assert_eq!(found.lines.first(), wanted, "{ms} ms");
            assert!(wanted.is_some() || position == end, "{ms} ms: {position} is not the end");
        }
    }

    #[test]
    fn seek_by_time_finds_first_line_in_any_segments() {
        for segment_bytes in [300, 100_000, 1 << 40] {
            let dir = tempfile::tempdir().expect("a temp folder");
            // Several lines at the same time, and pauses.
            let end = a_run(dir.path(), 1, 500, segment_bytes, (0..900).map(|n| n / 7 * 10));
            a_run(dir.path(), 2, end, segment_bytes, (0..300).map(|n| 5_000 + n * n));
            let plain = list(dir.path(), &[1, 2]);
            let times = || {
                [-5, 0, 1, 9, 10, 11, 640, 1_279, 1_280, 1_281, 4_999, 5_000, 5_001, 30_000, 94_401, 94_402, 1 << 30].into_iter()
            };
            look_at_all(&plain, 500, times().chain((0..1_300).step_by(13)));
            for segment in plain.iter().step_by(2) {
                pack(segment, || true).expect("packs");
            }
            let packed = list(dir.path(), &[1, 2]);
            assert!(packed.iter().any(|segment| segment.packed_end.is_some()));
            look_at_all(&packed, 500, times());
        }
    }

    #[test]
    fn seek_by_time_handles_clock_set_back_between_runs() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let mut begin = 0;
        for (run_id, from) in [(1, 10_000), (2, 0), (3, 20_000), (4, 5_000)] {
            begin = a_run(dir.path(), run_id, begin, 400, from..from + 60);
        }
        let all = list(dir.path(), &[1, 2, 3, 4]);
        look_at_all(&all, 0, [0, 59, 60, 5_000, 10_000, 10_059, 10_060, 20_059, 20_060].into_iter());
        // A run that is known to have ended before is not searched.
        let position = position_at(&all, stamp(5), 0, None, |run| run == 1).expect("seeks");
        assert_eq!(read_since(&all, position, 1).expect("reads").lines[0].run_id, Some(2));
    }

    #[test]
    fn seek_by_time_reports_missing_bytes() {
        let dir = tempfile::tempdir().expect("a temp folder");
        a_run(dir.path(), 1, 0, 400, 0..100);
        let whole = list(dir.path(), &[1]);
        for gone in [&whole[0], &whole[4], &whole[5]] {
            fs::remove_file(&gone.path).expect("there");
        }
        let kept = list(dir.path(), &[1]);
        for ms in 0..100 {
            let position = position_at(&kept, stamp(ms), 0, None, |_| false).expect("seeks");
            let page = read_since(&kept, position, 1).expect("reads");
            let line = &page.lines[0];
            assert!(line.at.is_some_and(|came| came >= stamp(ms)));
            let is_exact = line.at == Some(stamp(ms));
            assert!(is_exact || page.gone > 0, "{ms} ms: nothing is said of what is missing");
        }
    }

    #[test]
    fn damaged_lines_do_not_mislead_seek_by_time() {
        let dir = tempfile::tempdir().expect("a temp folder");
        a_run(dir.path(), 1, 0, 1 << 40, 0..30_000);
        let plain = list(dir.path(), &[1]);
        let mut bytes = fs::read(&plain[0].path).expect("reads");
        let (third, half) = (bytes.len() / 3, bytes.len() / 2);
        bytes[third..half].fill(b'#');
        fs::write(&plain[0].path, bytes).expect("writes");
        look_at_all(&plain, 0, (0..30_100).step_by(1_111));
    }
}
