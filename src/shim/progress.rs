//! How far the pipeline says it is: what is kept of it, when the servers hear of it, and when it is stored.
//!
//! A sign and no record: no fact waits for it, and a disk that does not take it stops nothing. However much of it is printed, a server is
//! told a few times a second and the disk every ten. What a run came to is all that a later server has of it: on a full disk the shim stays,
//! behind the run's end, until there is room.

use std::path::PathBuf;
use std::time::Duration;

use super::failure::complain;
use crate::clock::{Timestamp, whole_ms};
use crate::pipeline::{Mark, Progress};
use crate::process::is_disk_full;
use crate::run_dir::{Message, NumberedProgress, write_progress};

/// The least time between two that are said.
const SAID_EVERY: Duration = Duration::from_millis(200);

/// The least time between two that are stored: each is a write, and the flash of a board is to outlive years of them. A server reads it
/// only where the shim is gone: what was said in between is lost with one that was killed, and with no other.
const STORED_EVERY: Duration = Duration::from_secs(10);

/// The same where the last one could not be stored.
const RETRIED_EVERY: Duration = Duration::from_secs(1);

/// Something that is done for the newest progress, and not too often.
#[derive(Debug, Default)]
struct Chore {
    /// When it was done last, in awake time.
    done_at: Option<Duration>,
    is_due: bool,
}

impl Chore {
    fn due_at(&self, every: Duration) -> Option<Duration> {
        self.is_due.then(|| self.done_at.map_or(Duration::ZERO, |at| at + every))
    }

    /// Whether it is to be done now; then it counts as done.
    fn take(&mut self, every: Duration, now: Duration) -> bool {
        let is_due = self.due_at(every).is_some_and(|at| at <= now);
        if is_due {
            (self.done_at, self.is_due) = (Some(now), false);
        }
        is_due
    }
}

/// See the module.
pub(super) struct ProgressKeeper {
    path: PathBuf,
    current: Option<NumberedProgress>,
    /// When the latest step began, in the run's own time: pauses are no part of it.
    step_began: Duration,
    saying: Chore,
    storing: Chore,
    has_ended: bool,
    /// Whether the disk was full when it was stored last.
    lacks_room: bool,
    complaint: Option<String>,
}

impl ProgressKeeper {
    /// Nothing was said yet. What will be is stored at `path`.
    pub(super) fn new(path: PathBuf) -> Self {
        let (saying, storing) = Default::default();
        let (has_ended, lacks_room) = (false, false);
        Self { path, current: None, step_began: Duration::ZERO, saying, storing, has_ended, lacks_room, complaint: None }
    }

    /// Takes what was read at `at`, when the run had gone on for `ran` without its pauses.
    pub(super) fn take(&mut self, marks: Vec<Mark>, at: Timestamp, ran: Duration) {
        for mark in marks {
            let current = self.current.get_or_insert_with(|| NumberedProgress { progress: Progress::new(at), number: 0 });
            let is_step = matches!(mark, Mark::Step { .. });
            current.progress.take(mark, at, whole_ms(ran.saturating_sub(self.step_began)));
            current.number += 1;
            if is_step {
                self.step_began = ran;
            }
            (self.saying.is_due, self.storing.is_due) = (true, true);
        }
    }

    /// Stores what is due, and returns what is to be said to the servers.
    pub(super) fn turn(&mut self, now: Duration) -> Option<Message> {
        if self.storing.take(self.store_every(), now) {
            self.store();
        }
        if self.saying.take(SAID_EVERY, now) { self.current() } else { None }
    }

    /// The run has ended, having gone on for `ran`: what it came to is stored, and to be said.
    pub(super) fn end(&mut self, ran: Duration) -> Option<Message> {
        let current = self.current.as_mut()?;
        current.progress.end(whole_ms(ran.saturating_sub(self.step_began)));
        current.number += 1;
        (self.saying.is_due, self.storing.is_due) = (false, false);
        self.has_ended = true;
        self.store();
        self.current()
    }

    /// Whether the run has ended and what it came to found no room yet. For what else may be in the way nobody waits: it can be there for ever.
    pub(super) fn is_owed(&self) -> bool {
        self.has_ended && self.lacks_room
    }

    /// What a server that comes now has to know.
    pub(super) fn current(&self) -> Option<Message> {
        self.current.clone().map(Message::Progress)
    }

    /// When there is something to do although nothing happens.
    pub(super) fn due_at(&self) -> Option<Duration> {
        [self.saying.due_at(SAID_EVERY), self.storing.due_at(self.store_every())].into_iter().flatten().min()
    }

    fn store_every(&self) -> Duration {
        if self.complaint.is_some() { RETRIED_EVERY } else { STORED_EVERY }
    }

    /// The last one has to outlive a power cut as the run's end does.
    fn store(&mut self) {
        let Some(current) = &self.current else { return };
        let stored = write_progress(&self.path, current, self.has_ended);
        self.lacks_room = stored.as_ref().is_err_and(is_disk_full);
        match stored {
            Ok(()) => self.complaint = None,
            // The run's directory is gone, and nobody will look for it there.
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
    use crate::run_dir::read_progress;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn marks(lines: &[&str]) -> Vec<Mark> {
        lines.iter().map(|line| Mark::parse(line.as_bytes()).expect("a mark")).collect()
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(1_700_000_000_000 + ms)
    }

    fn said(message: Option<Message>) -> NumberedProgress {
        match message {
            Some(Message::Progress(progress)) => progress,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_flood_is_said_and_stored_now_and_then_and_its_last_word_in_the_end() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("progress.json");
        let mut keeper = ProgressKeeper::new(path.clone());
        assert_eq!((keeper.turn(MS(0)), keeper.due_at()), (None, None));
        let (mut heard, mut stored) = (0, 0);
        let mut now = 0;
        for n in 0..20_000_u64 {
            now = 1_000 + n;
            keeper.take(marks(&[&format!("::progress {}", n % 101), "::step x"]), at(0), MS(n));
            let before = std::fs::read(&path).ok();
            heard += u64::from(keeper.turn(MS(now)).is_some());
            stored += u64::from(std::fs::read(&path).ok() != before);
            assert!(n > 0 || (heard, stored) == (1, 1), "the first one at once");
        }
        assert_eq!((heard, stored), (100, 2), "in twenty seconds");
        let due = keeper.due_at().expect("the last one is not said yet");
        assert!(due > MS(now) && keeper.turn(MS(now)).is_none());
        assert_eq!(said(keeper.turn(due)).number, 40_000);
        keeper.turn(due + STORED_EVERY);
        assert_eq!(read_progress(&path).expect("whole").expect("there").number, 40_000);
        assert_eq!(keeper.due_at(), None, "nothing to do is nothing to wake up for");
    }

    #[test]
    fn steps_last_as_long_as_the_run_went_on_in_them() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("progress.json");
        let mut keeper = ProgressKeeper::new(path.clone());
        assert_eq!(keeper.end(MS(1)), None, "who never said anything has none");
        keeper.take(marks(&["::step a"]), at(1), MS(100));
        keeper.take(marks(&["::progress 5", "::step b", "::step c"]), at(2), MS(150));
        keeper.turn(MS(0));
        let last = said(keeper.end(MS(190)));
        let lasted: Vec<_> = last.progress.steps.iter().map(|step| step.ms).collect();
        assert_eq!(lasted, [Some(50), Some(0), Some(40)]);
        assert_eq!(read_progress(&path).expect("whole"), Some(last));
        assert_eq!((keeper.due_at(), keeper.turn(MS(10_000))), (None, None));
    }

    #[test]
    fn a_disk_that_does_not_take_it_is_tried_again_and_a_folder_that_is_gone_is_not() {
        let dir = tempfile::tempdir().expect("a temp folder");
        let path = dir.path().join("progress.json");
        let mut keeper = ProgressKeeper::new(path.clone());
        std::fs::create_dir(&path).expect("something is in the way");
        keeper.take(marks(&["::step a"]), at(1), MS(0));
        assert!(keeper.turn(MS(5_000)).is_some(), "it is said all the same");
        assert_eq!(keeper.due_at(), Some(MS(6_000)));
        std::fs::remove_dir(&path).expect("removes");
        keeper.turn(MS(6_000));
        assert_eq!(read_progress(&path).expect("whole").expect("there").number, 1);
        drop(dir);
        keeper.take(marks(&["::step b"]), at(2), MS(0));
        assert!(keeper.turn(MS(16_000)).is_some());
        assert_eq!(keeper.due_at(), None);
    }
}
