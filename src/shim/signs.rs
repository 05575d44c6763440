//! The latest signs of the run, and when the servers are notified of a change: of frequent changes a few times a second, of
//! others at once. Each message contains all signs. They are filled by `progress.rs`, `trouble.rs`, `usage.rs`, and by the run
//! with its note.

use std::time::Duration;

use super::chore::Chore;
use crate::run_dir::{NumberedSigns, Signs};

/// The shortest time between two messages about frequent changes.
const TOLD_EVERY: Duration = Duration::from_millis(200);

#[derive(Default)]
pub(super) struct SignBoard {
    latest: NumberedSigns,
    telling: Chore,
    is_urgent: bool,
}

impl SignBoard {
    pub(super) fn signs(&self) -> &Signs {
        &self.latest.signs
    }

    /// Returns the signs for a server that connects now.
    pub(super) fn latest(&self) -> &NumberedSigns {
        &self.latest
    }

    /// Changes a sign. The servers are notified a few times a second at most.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Signs)) {
        change(&mut self.latest.signs);
        self.latest.number += 1;
        self.telling.is_due = true;
    }

    /// Changes a sign, and notifies the servers at once.
    pub(super) fn change_at_once(&mut self, change: impl FnOnce(&mut Signs)) {
        self.change(change);
        self.is_urgent = true;
    }

    pub(super) fn turn(&mut self, now: Duration) -> Option<&NumberedSigns> {
        let every = self.every();
        self.is_urgent = false;
        self.telling.take(every, now).then_some(&self.latest)
    }

    /// Returns the signs if the servers do not have the latest ones, whenever the last message was: the run ends.
    pub(super) fn take_last(&mut self, now: Duration) -> Option<&NumberedSigns> {
        self.is_urgent = true;
        self.turn(now)
    }

    pub(super) fn due_at(&self) -> Option<Duration> {
        self.telling.due_at(self.every())
    }

    fn every(&self) -> Duration {
        if self.is_urgent { Duration::ZERO } else { TOLD_EVERY }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn count(board: &mut SignBoard) {
        board.change(|signs| signs.note = Some(signs.note.as_ref().map_or(0, String::len).to_string()));
    }

    #[test]
    fn flood_of_changes_is_sent_at_a_limited_rate() {
        let mut board = SignBoard::default();
        assert!(board.turn(MS(0)).is_none() && board.due_at().is_none());
        let mut told = 0;
        for now in 1_000..11_000 {
            count(&mut board);
            told += usize::from(board.turn(MS(now)).is_some());
            assert!(now > 1_000 || told == 1, "the first one at once");
        }
        assert_eq!(told, 50, "in ten seconds");
        let due = board.due_at().expect("the last one is not told yet");
        assert!(due > MS(10_999) && board.turn(MS(10_999)).is_none());
        assert_eq!(board.turn(due).map(|told| told.number), Some(10_000));
        assert_eq!(board.due_at(), None, "nothing to do is nothing to wake up for");
    }

    #[test]
    fn urgent_change_is_sent_at_once_and_restarts_the_interval() {
        let mut board = SignBoard::default();
        count(&mut board);
        assert!(board.turn(MS(1_000)).is_some());
        count(&mut board);
        assert!(board.turn(MS(1_010)).is_none());
        board.change_at_once(|signs| signs.note = Some("now".to_owned()));
        assert_eq!(board.due_at(), Some(MS(1_000)));
        assert_eq!(board.turn(MS(1_010)).map(|told| (told.number, told.signs.note.as_deref())), Some((3, Some("now"))));
        count(&mut board);
        assert_eq!(board.due_at(), Some(MS(1_210)), "the next 200 ms after it");
        assert_eq!(board.take_last(MS(1_020)).map(|told| told.number), Some(4));
        assert_eq!(board.take_last(MS(1_030)), None, "it is told once");
    }
}
