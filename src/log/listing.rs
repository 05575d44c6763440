//! Which segments there are now: of all runs, of one, or of the server itself.
//!
//! A reader who comes ten times a second must not look through a thousand folders each time: what was listed is kept for as long as the
//! two folders say that they are the same in which anything ever appears, `runs/` and the newest run's log. What somebody else removes
//! elsewhere is noticed when it is wanted and not there, and within [`KEPT_FOR`] in any case.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::segment::{Segment, segments_in};

/// How long a listing is good for, whatever its folders say.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// A folder that changed this short a time ago may change again without another stamp: file systems count in ticks of up to ten
/// milliseconds.
const STAMP_TICK: Duration = Duration::from_millis(50);

/// Segments in the order of their positions.
pub type SegmentList = Arc<[Segment]>;

/// What a reader reads from.
pub trait Listing {
    /// The segments that are there, in order. `is_stale` says that the last answer did not hold.
    fn segments(&self, is_stale: bool) -> io::Result<SegmentList>;
}

impl<L: Listing + ?Sized> Listing for &L {
    fn segments(&self, is_stale: bool) -> io::Result<SegmentList> {
        (**self).segments(is_stale)
    }
}

/// A listing that is what it is.
impl Listing for SegmentList {
    fn segments(&self, _is_stale: bool) -> io::Result<SegmentList> {
        Ok(self.clone())
    }
}

/// The log of one run.
#[derive(Clone, Debug)]
pub struct RunLog {
    run_id: i64,
    dir: PathBuf,
}

impl Listing for RunLog {
    fn segments(&self, _is_stale: bool) -> io::Result<SegmentList> {
        Ok(segments_in(&self.dir, Some(self.run_id))?.into())
    }
}

/// The logs of all runs as one. Copies share what they know.
#[derive(Clone, Debug)]
pub struct RunLogs {
    runs: PathBuf,
    known: Arc<Mutex<Option<Arc<Known>>>>,
}

/// What was listed, and what the folders looked like before that.
#[derive(Debug)]
struct Known {
    at: Instant,
    runs: Stamp,
    newest: Option<Newest>,
    /// Of all runs but the newest.
    older: Vec<Segment>,
    all: SegmentList,
}

#[derive(Debug)]
struct Newest {
    run_id: i64,
    dir: PathBuf,
    stamp: Stamp,
}

/// When a folder changed last. Two that are alike say that nothing was added or removed between them, if they could be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamp {
    Absent,
    At(SystemTime),
    /// Changed a moment ago.
    Hot,
}

impl Stamp {
    fn of(dir: &Path) -> io::Result<Self> {
        match fs::metadata(dir).and_then(|metadata| metadata.modified()) {
            Ok(at) => {
                let is_old = SystemTime::now().duration_since(at).is_ok_and(|age| age > STAMP_TICK);
                Ok(if is_old { Self::At(at) } else { Self::Hot })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Absent),
            Err(error) => Err(error),
        }
    }

    /// Whether nothing was added or removed since `self` was taken.
    fn still_holds(self, dir: &Path) -> io::Result<bool> {
        Ok(self != Self::Hot && self == Self::of(dir)?)
    }
}

impl RunLogs {
    /// `runs` is the folder of all run directories; the log of run 7 lies in `7/log` in it.
    pub fn new(runs: PathBuf) -> Self {
        Self { runs, known: Arc::default() }
    }

    /// The log of one run, there or not.
    pub fn of_run(&self, run_id: i64) -> RunLog {
        RunLog { run_id, dir: self.log_dir(run_id) }
    }

    fn log_dir(&self, run_id: i64) -> PathBuf {
        self.runs.join(run_id.to_string()).join("log")
    }

    fn run_ids(&self) -> io::Result<Vec<i64>> {
        let entries = match fs::read_dir(&self.runs) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let id_of = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok().filter(|&id: &i64| id > 0);
        let mut ids: Vec<i64> = entries.filter_map(|entry| id_of(entry.ok()?)).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Looks anew, at no more than it must.
    fn look(&self, known: Option<&Known>) -> io::Result<Known> {
        // The stamps first: what changes while it is looked at changes the stamp after that.
        let at = Instant::now();
        let runs = Stamp::of(&self.runs)?;
        let recent = known.filter(|known| known.at.elapsed() < KEPT_FOR);
        let (newest, older) = match recent {
            Some(known) if known.runs != Stamp::Hot && known.runs == runs => {
                (known.newest.as_ref().map(|newest| newest.run_id), known.older.clone())
            }
            _ => {
                let mut ids = self.run_ids()?;
                let newest = ids.pop();
                let mut older = Vec::new();
                for id in ids {
                    older.extend(segments_in(&self.log_dir(id), Some(id))?);
                }
                // Runs follow each other, so this only matters where somebody moved directories about.
                older.sort_by_key(|segment| segment.start);
                (newest, older)
            }
        };
        // What is taken over from before is no younger for it.
        let at = recent.filter(|known| known.runs == runs && runs != Stamp::Hot).map_or(at, |known| known.at);
        let mut all = older.clone();
        let newest = match newest {
            None => None,
            Some(run_id) => {
                let dir = self.log_dir(run_id);
                let stamp = Stamp::of(&dir)?;
                all.extend(segments_in(&dir, Some(run_id))?);
                all.sort_by_key(|segment| segment.start);
                Some(Newest { run_id, dir, stamp })
            }
        };
        Ok(Known { at, runs, newest, older, all: all.into() })
    }

    fn holds(&self, known: &Known) -> io::Result<bool> {
        Ok(known.at.elapsed() < KEPT_FOR
            && known.runs.still_holds(&self.runs)?
            && known.newest.as_ref().map_or(Ok(true), |newest| newest.stamp.still_holds(&newest.dir))?)
    }
}

impl Listing for RunLogs {
    fn segments(&self, is_stale: bool) -> io::Result<SegmentList> {
        // Whole values are swapped under the lock, and nothing is read from the disk.
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known = known.filter(|_| !is_stale);
        if let Some(known) = &known
            && self.holds(known)?
        {
            return Ok(known.all.clone());
        }
        let known = Arc::new(self.look(known.as_deref())?);
        let all = known.all.clone();
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::super::segment::plain_name;
    use super::*;

    fn add(logs: &RunLogs, run_id: i64, start: u64) {
        fs::create_dir_all(logs.log_dir(run_id)).expect("creates");
        fs::write(logs.log_dir(run_id).join(plain_name(start)), "x").expect("writes");
    }

    fn starts(logs: &RunLogs) -> Vec<u64> {
        logs.segments(false).expect("a look").iter().map(|segment| segment.start).collect()
    }

    fn until(what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_mins(1);
        while !holds() {
            assert!(Instant::now() < deadline, "never came true: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_file_that_comes_in_the_tick_of_the_last_look_is_seen() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let logs = RunLogs::new(dir.path().join("runs"));
        // Where the folder was changed just before the look, another change need not show in its time. Unless the machine stood still
        // between the two: then that look was no such one.
        until("a look right after a change", || {
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
            was_in_time
        });
    }

    #[test]
    fn what_is_added_is_there_at_once_and_what_is_removed_soon_is_not() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let logs = RunLogs::new(dir.path().join("runs"));
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
        until("what is listed is kept", || {
            let first = logs.segments(false).expect("a look");
            Arc::ptr_eq(&first, &logs.segments(false).expect("a look"))
        });
        fs::remove_dir_all(dir.path().join("runs/1")).expect("there");
        assert_eq!(starts(&logs), expected[40..], "a run's folder that goes shows at once");
        fs::remove_file(logs.log_dir(2).join(plain_name(2000))).expect("there");
        until("a file that goes from an older run shows in the end", || starts(&logs) == expected[41..]);
        fs::remove_file(logs.log_dir(2).join(plain_name(2001))).expect("there");
        assert_eq!(logs.segments(true).expect("a look")[0].start, 2002, "at once for who missed it");
        let one: Vec<u64> = logs.of_run(3).segments(false).expect("a look").iter().map(|segment| segment.start).collect();
        assert_eq!(one, expected[80..]);
    }
}
