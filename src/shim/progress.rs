//! The progress that the pipeline reports: how it becomes a sign, and when it is stored.
//!
//! No fact waits for it, and a disk that does not take it stops nothing. However much progress is printed, it is stored every
//! ten seconds. A later server has only the final progress of a run: on a full disk the shim stays after the run's end until
//! there is room.

use std::path::PathBuf;
use std::time::Duration;

use super::chore::Chore;
use super::failure::complain;
use super::signs::SignBoard;
use crate::clock::{Timestamp, whole_ms};
use crate::pipeline::{Mark, Progress};
use crate::process::is_disk_full;
use crate::run_dir::write_progress;

/// The shortest time between two writes, because the flash of a board must outlive years of them. A server reads the file only
/// if the shim is gone, so only a killed shim loses the progress in between.
const STORED_EVERY: Duration = Duration::from_secs(10);

/// The same after a write that failed.
const RETRIED_EVERY: Duration = Duration::from_secs(1);

pub(super) struct ProgressKeeper {
    path: PathBuf,
    /// When the latest step began, in the run's own time, which excludes pauses.
    step_began: Duration,
    storing: Chore,
    has_ended: bool,
    /// Whether the disk was full at the latest write.
    lacks_room: bool,
    complaint: Option<String>,
}

impl ProgressKeeper {
    /// Starts without any progress. Later progress is stored at `path`.
    pub(super) fn new(path: PathBuf) -> Self {
        let storing = Chore::default();
        Self { path, step_began: Duration::ZERO, storing, has_ended: false, lacks_room: false, complaint: None }
    }

    /// Applies marks that were read at `at`, when the run had run for `ran` without its pauses.
    pub(super) fn take(&mut self, marks: Vec<Mark>, at: Timestamp, ran: Duration, board: &mut SignBoard) {
        for mark in marks {
            let is_step = matches!(mark, Mark::Step { .. });
            let step_ms = whole_ms(ran.saturating_sub(self.step_began));
            board.change(|signs| signs.progress.get_or_insert_with(|| Progress::new(at)).take(mark, at, step_ms));
            if is_step {
                self.step_began = ran;
            }
            self.storing.is_due = true;
        }
    }

    pub(super) fn turn(&mut self, now: Duration, board: &SignBoard) {
        if self.storing.take(self.store_every(), now) {
            self.store(board);
        }
    }

    /// Stores the final progress of a run that has ended after `ran`.
    pub(super) fn end(&mut self, ran: Duration, board: &mut SignBoard) {
        if board.signs().progress.is_none() {
            return;
        }
        let step_ms = whole_ms(ran.saturating_sub(self.step_began));
        board.change(|signs| signs.progress.iter_mut().for_each(|progress| progress.end(step_ms)));
        (self.storing.is_due, self.has_ended) = (false, true);
        self.store(board);
    }

    /// Returns whether the run has ended and the disk had no room for its final progress. Other errors are not waited for,
    /// because they can last for ever.
    pub(super) fn is_owed(&self) -> bool {
        self.has_ended && self.lacks_room
    }

    /// Returns when there is something to do even if nothing happens.
    pub(super) fn due_at(&self) -> Option<Duration> {
        self.storing.due_at(self.store_every())
    }

    fn store_every(&self) -> Duration {
        if self.complaint.is_some() { RETRIED_EVERY } else { STORED_EVERY }
    }

    /// Stores the progress. The final one must survive a power cut, as the run's end does.
    fn store(&mut self, board: &SignBoard) {
        let Some(progress) = &board.signs().progress else { return };
        let stored = write_progress(&self.path, progress, board.latest().number, self.has_ended);
        self.lacks_room = stored.as_ref().is_err_and(is_disk_full);
        match stored {
            Ok(()) => self.complaint = None,
            // The run's directory was removed, and no reader will look for it there.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                self.storing.is_due = true;
                let complaint = format!("failed to store the progress: {error}");
                if self.complaint.as_ref() != Some(&complaint) {
                    complain(format_args!("{complaint}"));
                    self.complaint = Some(complaint);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_dir::{NumberedProgress, NumberedSigns, read_progress};

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn marks(lines: &[&str]) -> Vec<Mark> {
        lines.iter().map(|line| Mark::parse(line.as_bytes()).expect("a mark")).collect()
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(1_700_000_000_000 + ms)
    }

    #[test]
    fn flood_of_progress_is_stored_at_a_limited_rate() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("progress.json");
        let (mut keeper, mut board) = (ProgressKeeper::new(path.clone()), SignBoard::default());
        keeper.turn(MS(0), &board);
        assert_eq!(keeper.due_at(), None);
        let mut stored = 0;
        let mut now = 0;
        for n in 0..20_000_u64 {
            now = 1_000 + n;
            keeper.take(marks(&[&format!("::progress {}", n % 101), "::step x"]), at(0), MS(n), &mut board);
            let before = std::fs::read(&path).ok();
            keeper.turn(MS(now), &board);
            stored += u64::from(std::fs::read(&path).ok() != before);
            assert!(n > 0 || stored == 1, "the first one at once");
        }
        assert_eq!(stored, 2, "in twenty seconds");
        let due = keeper.due_at().expect("the last one is not stored yet");
        assert!(due > MS(now));
        keeper.turn(due, &board);
        assert_eq!(read_progress(&path).expect("whole").expect("there").number, 40_000);
        assert_eq!((board.latest().number, keeper.due_at()), (40_000, None), "nothing to do is nothing to wake up for");
    }

    #[test]
    fn step_durations_count_running_time() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("progress.json");
        let (mut keeper, mut board) = (ProgressKeeper::new(path.clone()), SignBoard::default());
        keeper.end(MS(1), &mut board);
        assert_eq!(board.latest(), &NumberedSigns::default(), "who never said anything has none");
        keeper.take(marks(&["::step a"]), at(1), MS(100), &mut board);
        keeper.take(marks(&["::progress 5", "::step b", "::step c"]), at(2), MS(150), &mut board);
        keeper.turn(MS(0), &board);
        keeper.end(MS(190), &mut board);
        let progress = board.signs().progress.clone().expect("there");
        let lasted: Vec<_> = progress.steps.iter().map(|step| step.ms).collect();
        assert_eq!(lasted, [Some(50), Some(0), Some(40)]);
        assert_eq!(board.take_last(MS(0)).map(|told| told.number), Some(5), "it is told");
        assert_eq!(read_progress(&path).expect("whole"), Some(NumberedProgress { progress, number: 5 }));
        assert_eq!(keeper.due_at(), None);
    }

    #[test]
    fn failed_progress_write_is_retried_unless_folder_is_missing() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("progress.json");
        let (mut keeper, mut board) = (ProgressKeeper::new(path.clone()), SignBoard::default());
        std::fs::create_dir(&path).expect("something is in the way");
        keeper.take(marks(&["::step a"]), at(1), MS(0), &mut board);
        keeper.turn(MS(5_000), &board);
        assert!(board.turn(MS(5_000)).is_some(), "it is said all the same");
        assert_eq!(keeper.due_at(), Some(MS(6_000)));
        std::fs::remove_dir(&path).expect("removes");
        keeper.turn(MS(6_000), &board);
        assert_eq!(read_progress(&path).expect("whole").expect("there").number, 1);
        drop(dir);
        keeper.take(marks(&["::step b"]), at(2), MS(0), &mut board);
        keeper.turn(MS(16_000), &board);
        assert_eq!(keeper.due_at(), None);
    }
}
