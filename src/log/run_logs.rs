//! The logs of all runs as one.
//!
//! No cost here grows with the history. Run ids ascend, and each run's log begins where the previous one ended, so the run that
//! contains a position is found by binary search over the log folders of some runs. A link names the latest run. `runs/` is
//! listed only if many ids in a row have no log, and that list is cached until the folder changes.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::listing::{Listing, RunLog, SegmentList, holding};
use super::segment::{Place, Segment, in_folder, segments_in};
use crate::held_dir::is_foreign;
use crate::latest_run::{RUNS_DIR, latest_run, run_ids};
use crate::lock::lock;

/// A folder that changed this recently may change again without a new time stamp: file systems count in ticks of up to ten
/// milliseconds.
const STAMP_TICK: Duration = Duration::from_millis(50);
/// The same if times have no fraction of a second: ext4 with small inodes stores whole seconds, and FAT stores even ones.
const STAMP_TICK_OF_SECONDS: Duration = Duration::from_millis(2_100);

/// How many ids in a row are tried before all ids are listed.
const MISSES_MAX: i64 = 64;

/// For how many runs the segments are cached: as many as the lines of one tail may come from.
const KNOWN_RUNS_MAX: usize = 256;

/// The logs of all runs. Copies share their cache.
#[derive(Clone, Debug)]
pub struct RunLogs {
    runtime_dir: PathBuf,
    runs: PathBuf,
    /// No run with a lower id has a log.
    floor: Arc<AtomicI64>,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// The segments of some runs, the most recently used first.
    logs: Vec<KnownLog>,
    ids: Option<(Stamp, Arc<[i64]>)>,
    /// The oldest run that had a log when `runs/` had this state.
    first: Option<(Stamp, i64)>,
}

#[derive(Debug)]
struct KnownLog {
    run_id: i64,
    stamp: Stamp,
    segments: SegmentList,
}

/// When a folder last changed. Equal stamps mean that nothing was added or removed between them, if both can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamp {
    Absent,
    At(SystemTime),
    /// Changed a moment ago, so the stamp cannot be trusted.
    Hot,
}

impl Stamp {
    fn of(dir: &Path) -> io::Result<Self> {
        let Some(metadata) = in_folder(dir, fs::symlink_metadata(dir))? else { return Ok(Self::Absent) };
        let at = metadata.modified()?;
        // A file system that stores whole seconds, or every other one, has no fraction in any time.
        let is_whole = at.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|at| at.subsec_nanos() == 0);
        let tick = if is_whole { STAMP_TICK_OF_SECONDS } else { STAMP_TICK };
        let is_old = SystemTime::now().duration_since(at).is_ok_and(|age| age > tick);
        Ok(if is_old { Self::At(at) } else { Self::Hot })
    }

    /// Returns whether nothing was added or removed between the two stamps.
    fn is_same(self, later: Self) -> bool {
        later != Self::Hot && self == later
    }
}

impl RunLogs {
    /// Creates the logs of all runs in this runtime directory. The log of run 7 is in its `runs/7/log`.
    pub fn new(runtime_dir: PathBuf) -> Self {
        let runs = runtime_dir.join(RUNS_DIR);
        Self { runtime_dir, runs, floor: Arc::new(AtomicI64::new(1)), known: Arc::default() }
    }

    /// Returns the log of one run, whether or not it exists.
    pub fn of_run(&self, run_id: i64) -> RunLog {
        RunLog { run_id, dir: self.log_dir(run_id) }
    }

    /// Notes that no run with a lower id has a log, because they were removed as the oldest.
    pub fn set_floor(&self, run_id: i64) {
        self.floor.fetch_max(run_id, Ordering::Relaxed);
    }

    /// Returns the oldest run that has a log.
    pub fn first_run(&self) -> io::Result<Option<i64>> {
        Ok(self.first_log()?.and_then(|log| log.first()?.run_id))
    }

    /// Returns the first run from this id on that has a log, and its segments.
    pub fn run_from(&self, from: i64) -> io::Result<Option<(i64, SegmentList)>> {
        let Some(newest) = self.newest_id()? else { return Ok(None) };
        let from = from.max(self.floor.load(Ordering::Relaxed));
        let found = self.first_in(from..newest.saturating_add(1))?;
        Ok(found.and_then(|log| Some((log.first()?.run_id?, log))))
    }

    fn log_dir(&self, run_id: i64) -> PathBuf {
        self.runs.join(run_id.to_string()).join("log")
    }

    fn newest_id(&self) -> io::Result<Option<i64>> {
        match latest_run(&self.runtime_dir) {
            Some(id) => Ok(Some(id)),
            None => Ok(self.ids()?.last().copied()),
        }
    }

    /// Returns the segments of a run. They are empty if it has no log.
    fn log(&self, run_id: i64) -> io::Result<SegmentList> {
        let dir = self.log_dir(run_id);
        // Links are not followed, because they can lead in a circle or to a file system that never answers.
        if is_foreign(&dir) {
            return Ok([].into());
        }
        // The stamp is read first: a change during the listing changes the stamp afterwards.
        let stamp = Stamp::of(&dir)?;
        if stamp == Stamp::Absent {
            return Ok([].into());
        }
        {
            let logs = &mut lock(&self.known).logs;
            if let Some(n) = logs.iter().position(|known| known.run_id == run_id && known.stamp.is_same(stamp)) {
                logs[..=n].rotate_right(1);
                return Ok(logs[0].segments.clone());
            }
        }
        let segments: SegmentList = segments_in(&dir, Some(run_id))?.into();
        let logs = &mut lock(&self.known).logs;
        logs.retain(|known| known.run_id != run_id);
        logs.truncate(KNOWN_RUNS_MAX - 1);
        logs.insert(0, KnownLog { run_id, stamp, segments: segments.clone() });
        Ok(segments)
    }

    fn ids(&self) -> io::Result<Arc<[i64]>> {
        let stamp = Stamp::of(&self.runs)?;
        if let Some((before, ids)) = &lock(&self.known).ids
            && before.is_same(stamp)
        {
            return Ok(ids.clone());
        }
        let ids: Arc<[i64]> = run_ids(&self.runtime_dir)?.into();
        lock(&self.known).ids = Some((stamp, ids.clone()));
        Ok(ids)
    }

    /// Returns the log of the first run in this range that has one.
    fn first_in(&self, Range { start, end }: Range<i64>) -> io::Result<Option<SegmentList>> {
        let far = end.min(start.saturating_add(MISSES_MAX));
        match self.first_of(start..far)? {
            None if far < end => self.first_of(within(&self.ids()?, far..end)),
            found => Ok(found),
        }
    }

    /// Returns the log of the last run in this range that has one.
    fn last_in(&self, Range { start, end }: Range<i64>) -> io::Result<Option<SegmentList>> {
        let far = start.max(end.saturating_sub(MISSES_MAX));
        match self.first_of((far..end).rev())? {
            None if start < far => self.first_of(within(&self.ids()?, start..far).rev()),
            found => Ok(found),
        }
    }

    fn first_of(&self, ids: impl Iterator<Item = i64>) -> io::Result<Option<SegmentList>> {
        for id in ids {
            let log = self.log(id)?;
            if !log.is_empty() {
                return Ok(Some(log));
            }
        }
        Ok(None)
    }

    fn first_log(&self) -> io::Result<Option<SegmentList>> {
        let Some(newest) = self.newest_id()? else { return Ok(None) };
        let floor = self.floor.load(Ordering::Relaxed);
        let stamp = Stamp::of(&self.runs)?;
        let remembered = lock(&self.known).first.filter(|(before, _)| before.is_same(stamp)).map_or(floor, |(_, id)| id);
        let found = self.first_in(remembered.max(floor)..newest.saturating_add(1))?;
        if let Some(run_id) = found.as_ref().and_then(|log| log.first()?.run_id) {
            lock(&self.known).first = Some((stamp, run_id));
        }
        Ok(found)
    }

    fn last_log(&self) -> io::Result<Option<SegmentList>> {
        let Some(newest) = self.newest_id()? else { return Ok(None) };
        self.last_in(self.floor.load(Ordering::Relaxed)..newest.saturating_add(1))
    }

    /// Returns the log of the last run that begins at or before `position`, or else the log of the first run.
    fn log_holding(&self, position: u64) -> io::Result<Option<SegmentList>> {
        let begins_by = |log: &SegmentList| log.first().is_some_and(|first| first.start <= position);
        let id_of = |log: &SegmentList| log.first().and_then(|first| first.run_id).unwrap_or(0);
        let Some(last) = self.last_log()? else { return Ok(None) };
        if begins_by(&last) {
            return Ok(Some(last));
        }
        let Some(mut low) = self.first_log()? else { return Ok(None) };
        // `low` begins at or before `position`, or is the first run. The runs from `high` on begin later.
        let (mut low_id, mut high) = (id_of(&low), id_of(&last));
        while high - low_id > 1 {
            let middle = i64::midpoint(low_id, high);
            match self.first_in(middle..high)? {
                Some(log) if begins_by(&log) => {
                    low_id = id_of(&log);
                    low = log;
                }
                Some(_) | None => high = middle,
            }
        }
        Ok(Some(low))
    }
}

/// Returns the ids that are in the range. `ids` is ascending.
fn within(ids: &[i64], Range { start, end }: Range<i64>) -> impl DoubleEndedIterator<Item = i64> {
    let from = |id| ids.partition_point(|&listed| listed < id);
    ids[from(start)..from(end)].iter().copied()
}

impl Listing for RunLogs {
    fn oldest(&self) -> io::Result<Option<Segment>> {
        Ok(self.first_log()?.and_then(|log| log.first().cloned()))
    }

    fn holding(&self, position: u64) -> io::Result<Option<Segment>> {
        Ok(self.log_holding(position)?.and_then(|log| holding(&log, position).cloned()))
    }

    fn after(&self, (run_id, start): Place) -> io::Result<Option<Segment>> {
        let run_id = run_id.unwrap_or(0);
        let log = self.log(run_id)?;
        if let Some(segment) = log.iter().find(|segment| segment.start > start) {
            return Ok(Some(segment.clone()));
        }
        Ok(self.run_from(run_id.saturating_add(1))?.and_then(|(_, log)| log.first().cloned()))
    }

    fn before(&self, (run_id, start): Place) -> io::Result<Option<Segment>> {
        let run_id = run_id.unwrap_or(0);
        let log = self.log(run_id)?;
        if let Some(segment) = log.iter().rev().find(|segment| segment.start < start) {
            return Ok(Some(segment.clone()));
        }
        let before = self.last_in(self.floor.load(Ordering::Relaxed)..run_id)?;
        Ok(before.and_then(|log| log.last().cloned()))
    }

    fn look_again(&self) {
        *lock(&self.known) = Known::default();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::segment::plain_name;
    use super::*;
    use crate::latest_run::set_latest_run;

    fn add(logs: &RunLogs, run_id: i64, start: u64) {
        fs::create_dir_all(logs.log_dir(run_id)).expect("creates");
        fs::write(logs.log_dir(run_id).join(plain_name(start)), "x").expect("writes");
    }

    /// Returns the starts of all segments, and checks that they are the same forward and backward.
    fn starts(logs: &RunLogs) -> Vec<u64> {
        let mut forwards = Vec::new();
        let mut next = logs.oldest().expect("a look");
        while let Some(segment) = next {
            next = logs.after(segment.place()).expect("a look");
            forwards.push(segment.start);
        }
        let mut backwards = Vec::new();
        let mut next = logs.newest().expect("a look");
        while let Some(segment) = next {
            next = logs.before(segment.place()).expect("a look");
            backwards.push(segment.start);
        }
        backwards.reverse();
        assert_eq!(forwards, backwards);
        forwards
    }

    fn holding(logs: &RunLogs, position: u64) -> u64 {
        logs.holding(position).expect("a look").expect("one").start
    }

    #[test]
    fn file_created_in_the_tick_of_the_last_scan_is_found() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let logs = RunLogs::new(dir.path().to_owned());
        // If the folder was changed just before it was read, another change can leave its time stamp as it was, unless the
        // machine paused between the two.
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let began = Instant::now();
            add(&logs, 1, 0);
            let stamp = fs::metadata(logs.log_dir(1)).and_then(|metadata| metadata.modified()).expect("a time");
            assert_eq!(starts(&logs), [0]);
            let was_in_time = began.elapsed() < STAMP_TICK;
            add(&logs, 1, 1);
            let folder = fs::File::open(logs.log_dir(1)).expect("opens");
            folder.set_modified(stamp).expect("ours");
            assert!(!was_in_time || starts(&logs) == [0, 1], "it is not seen");
            fs::remove_dir_all(logs.log_dir(1)).expect("there");
            assert!(starts(&logs).is_empty());
            if was_in_time {
                break;
            }
            assert!(Instant::now() < deadline, "the machine never is in time");
        }
    }

    #[test]
    fn added_and_removed_runs_show_at_once() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let logs = RunLogs::new(dir.path().to_owned());
        assert!(starts(&logs).is_empty());
        let mut expected = Vec::new();
        for run_id in 1..=3 {
            for n in 0..40 {
                let start = u64::try_from(run_id).expect("small") * 1000 + n;
                add(&logs, run_id, start);
                expected.push(start);
                assert_eq!(starts(&logs), expected, "however soon after the last look");
            }
        }
        fs::remove_dir_all(dir.path().join("runs/1")).expect("there");
        assert_eq!(starts(&logs), expected[40..]);
        fs::remove_file(logs.log_dir(2).join(plain_name(2000))).expect("there");
        assert_eq!(starts(&logs), expected[41..]);
        let one = crate::log::ShortLog::segments(&logs.of_run(3)).expect("a look");
        assert_eq!(one.iter().map(|segment| segment.start).collect::<Vec<_>>(), expected[80..]);
    }

    #[test]
    fn each_position_is_found_despite_runs_without_a_log() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let logs = RunLogs::new(dir.path().to_owned());
        // Gaps of all kinds: folders without a file, ids without a folder, and more such ids in a row than are tried one by one.
        let with_log: Vec<i64> = [3, 4, 9, 10, 11, 200, 201, 350, 420, 421].into();
        for id in 1..=430 {
            if with_log.contains(&id) {
                for n in 0..3 {
                    add(&logs, id, u64::try_from(id).expect("positive") * 100 + n * 10);
                }
            } else if id % 2 == 0 {
                fs::create_dir_all(logs.log_dir(id)).expect("creates");
            }
        }
        let all: Vec<u64> = with_log.iter().flat_map(|&id| [0, 10, 20].map(|n| id.unsigned_abs() * 100 + n)).collect();
        for has_link in [false, true] {
            if has_link {
                set_latest_run(dir.path(), 430).expect("sets");
            }
            for floor in [1, 3] {
                logs.set_floor(floor);
                assert_eq!(starts(&logs), all);
                for position in (0..45_000).step_by(1001).chain(all.iter().copied()) {
                    let expected = all.iter().rfind(|&&start| start <= position).unwrap_or(&all[0]);
                    assert_eq!(holding(&logs, position), *expected, "position {position}");
                }
            }
        }
        assert_eq!(logs.after((Some(11), u64::MAX)).expect("a look").map(|segment| segment.start), Some(20_000));
        logs.set_floor(5);
        assert_eq!(logs.first_run().expect("a look"), Some(9), "what is below it is not looked for");
    }

    /// With the link, other entries are never read, so they can be anything.
    #[test]
    fn run_directories_are_not_listed_while_ids_are_consecutive() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let logs = RunLogs::new(dir.path().to_owned());
        for id in 1..=500 {
            add(&logs, id, id.unsigned_abs() * 10);
        }
        set_latest_run(dir.path(), 500).expect("sets");
        assert_eq!(logs.end().expect("a look"), 5001);
        for position in [0, 10, 2567, 4990, 5000] {
            holding(&logs, position);
        }
        assert_eq!(logs.oldest().expect("a look").map(|segment| segment.start), Some(10));
        assert!(lock(&logs.known).ids.is_none(), "they were listed");
    }

    #[test]
    fn whole_second_mtime_is_trusted_only_after_two_seconds() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let opened = fs::File::open(dir.path()).expect("there");
        let set = |at: SystemTime| opened.set_times(fs::FileTimes::new().set_modified(at)).expect("ours");
        let whole = |at: SystemTime| {
            let seconds = at.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
        };
        // A time in the future stays hot, however slow the machine is.
        set(whole(SystemTime::now() + Duration::from_hours(1)));
        assert_eq!(Stamp::of(dir.path()).expect("there"), Stamp::Hot);
        set(whole(SystemTime::now() - Duration::from_secs(4)));
        assert!(matches!(Stamp::of(dir.path()).expect("there"), Stamp::At(_)));
        // If times have no fraction, another change may still get a time of one second ago.
        let is_hot = |at| {
            set(at);
            Stamp::of(dir.path()).expect("there") == Stamp::Hot
        };
        let ago = || SystemTime::now() - Duration::from_secs(1);
        assert!(!is_hot(whole(ago()) + Duration::from_nanos(1)));
        // On a slow machine the check can come too late.
        assert!((0..100).any(|_| is_hot(whole(ago()))));
    }
}
