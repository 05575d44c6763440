//! How long ago runs ended and request keys were used, in observed time.
//!
//! The wall clock may be wrong: a board without a battery starts in 1970, and a user can set a clock to any year. So ages are not
//! taken from time stamps. Observed time is the time for which the machine was on, by the clock that runs from boot. The
//! wall-clock time between two boots also counts, if it is at most [`OFF_MAX`]: a longer gap may come from a wrong clock. Runs
//! end, and keys are used, in the order of their ids, so it is enough to note at intervals up to which id all had.
//!
//! Pure: clocks are passed in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{Timestamp, whole_ms};

/// The longest time between two boots that counts.
const OFF_MAX: Duration = Duration::from_hours(24);

/// The interval between notes. A run or a key may be kept for this much longer.
const NOTED_EVERY: Duration = Duration::from_hours(6);

/// The most notes. Beyond that, every other one of the older notes is dropped.
const NOTES_MAX: usize = 256;

/// The observed time, and by when runs had ended and request keys had been used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ObservedTime {
    /// The boot id of the machine at the last reading of the clocks.
    boot_id: String,
    /// The boot-time clock at that reading, in milliseconds.
    boot_ms: u64,
    /// The wall clock at that reading; `None` before the first reading.
    wall: Option<Timestamp>,
    /// The time observed up to that reading, in milliseconds.
    witnessed_ms: u64,
    /// The notes about runs that had ended.
    ended: Notes,
    /// The notes about request keys that had been used.
    #[serde(default)]
    keys: Notes,
}

/// Notes, in order: an observed time, and the id up to which all runs had ended, or all keys had been used, by then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Notes(Vec<(u64, i64)>);

impl ObservedTime {
    /// Reads the clocks, and adds the time since the last reading to the observed time.
    pub(super) fn read_clocks(&mut self, boot_id: &str, since_boot: Duration, now: Timestamp) {
        let boot_ms = whole_ms(since_boot);
        let new_ms = match self.wall {
            None => 0,
            Some(_) if self.boot_id == boot_id => boot_ms.saturating_sub(self.boot_ms),
            Some(wall) => {
                let booted_at = now.unix_ms().saturating_sub_unsigned(boot_ms);
                // A clock that was set back does not count either.
                let off_ms = u64::try_from(booted_at.saturating_sub(wall.unix_ms())).unwrap_or(0);
                boot_ms.saturating_add(if off_ms <= whole_ms(OFF_MAX) { off_ms } else { 0 })
            }
        };
        // Saturating, because the number on disk can have any value.
        self.witnessed_ms = self.witnessed_ms.saturating_add(new_ms);
        boot_id.clone_into(&mut self.boot_id);
        (self.boot_ms, self.wall) = (boot_ms, Some(now));
    }

    /// Returns whether the clocks were read in another boot of the machine than `before`, or at least `time` was observed since.
    pub(super) fn is_ahead_of(&self, before: &Self, time: Duration) -> bool {
        self.boot_id != before.boot_id || self.witnessed_ms.saturating_sub(before.witnessed_ms) >= whole_ms(time)
    }

    /// Notes that all runs up to this one have ended by now.
    pub(super) fn note_ended(&mut self, run_id: i64) {
        self.ended.note(self.witnessed_ms, run_id);
    }

    /// Returns the last run that certainly ended at least `age` ago. All runs before it did so, too.
    pub(super) fn ended_for(&self, age: Duration) -> Option<i64> {
        self.ended.up_to(self.witnessed_ms.checked_sub(whole_ms(age))?)
    }

    /// Notes that all request keys up to this one have been used by now.
    pub(super) fn note_keys(&mut self, newest: i64) {
        self.keys.note(self.witnessed_ms, newest);
    }

    /// Returns the last request key that was certainly used at least `age` ago. All keys before it were, too.
    pub(super) fn keys_used_for(&self, age: Duration) -> Option<i64> {
        self.keys.up_to(self.witnessed_ms.checked_sub(whole_ms(age))?)
    }
}

impl Notes {
    fn note(&mut self, now_ms: u64, id: i64) {
        let Self(notes) = self;
        // Notes with higher ids are about a database that no longer exists.
        notes.retain(|&(_, noted)| noted <= id);
        if notes.last().is_some_and(|&(_, noted)| noted == id) {
            return;
        }
        // The last note is always exact, so it moves along until it is far enough from the note before it.
        if let [.., (before_last, _), last] = notes.as_mut_slice()
            && now_ms.saturating_sub(*before_last) < whole_ms(NOTED_EVERY)
        {
            *last = (now_ms, id);
        } else {
            notes.push((now_ms, id));
        }
        if notes.len() > NOTES_MAX {
            let mut n = 0;
            notes.retain(|_| {
                n += 1;
                n > NOTES_MAX / 2 || n % 2 == 0
            });
        }
    }

    /// Returns the last id for which this was certainly true by then.
    fn up_to(&self, by_ms: u64) -> Option<i64> {
        let n = self.0.partition_point(|&(at, _)| at <= by_ms);
        n.checked_sub(1).map(|n| self.0[n].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);
    const SIX_DAYS: Duration = Duration::from_hours(6 * 24);
    const WEEK: Duration = Duration::from_hours(7 * 24);
    const YEAR_MS: i64 = 365 * 86_400_000;

    /// A machine whose clocks are set by the test.
    struct Machine {
        boots: u32,
        since_boot: Duration,
        wall_ms: i64,
        witness: ObservedTime,
    }

    impl Machine {
        fn new() -> Self {
            let mut machine = Self {
                boots: 1,
                since_boot: Duration::from_secs(20),
                wall_ms: 1_700_000_000_000,
                witness: ObservedTime::default(),
            };
            machine.look();
            machine
        }

        fn look(&mut self) {
            self.witness.read_clocks(&format!("boot-{}", self.boots), self.since_boot, Timestamp::from_unix_ms(self.wall_ms));
        }

        fn run_for(&mut self, time: Duration) {
            self.since_boot += time;
            self.wall_ms += i64::try_from(time.as_millis()).expect("short");
            self.look();
        }

        fn set_clock_by(&mut self, ms: i64) {
            self.wall_ms += ms;
            self.look();
        }

        /// Reboots after the machine was off for this long. Afterwards the wall clock is wrong by this much.
        fn reboot_after(&mut self, off: Duration, wrong_ms: i64) {
            self.boots += 1;
            self.since_boot = Duration::from_secs(20);
            self.wall_ms += i64::try_from(off.as_millis()).expect("short") + 20_000 + wrong_ms;
            self.look();
        }

        fn end(&mut self, run_id: i64) {
            self.look();
            self.witness.note_ended(run_id);
        }

        fn due(&self) -> Option<i64> {
            self.witness.ended_for(WEEK)
        }
    }

    #[test]
    fn runs_age_while_the_machine_is_on() {
        let mut machine = Machine::new();
        for day in 1..=10 {
            machine.end(day);
            machine.run_for(DAY);
        }
        assert_eq!(machine.due(), Some(4), "run 4 ended seven days ago");
    }

    #[test]
    fn clock_set_while_the_server_runs_ages_no_run() {
        for step in [YEAR_MS, 30 * YEAR_MS, -YEAR_MS, -53 * YEAR_MS] {
            let mut machine = Machine::new();
            machine.end(1);
            machine.set_clock_by(step);
            machine.run_for(SIX_DAYS);
            assert_eq!(machine.due(), None, "{step}");
            machine.set_clock_by(-step);
            assert_eq!(machine.due(), None, "{step}");
            machine.run_for(DAY);
            assert_eq!(machine.due(), Some(1), "{step}: and in the end it goes");
        }
    }

    #[test]
    fn wrong_clock_after_a_boot_ages_no_run() {
        for wrong in [YEAR_MS, 30 * YEAR_MS, -YEAR_MS, -53 * YEAR_MS] {
            let mut machine = Machine::new();
            machine.end(1);
            // However often the machine boots and its clock is corrected.
            for _ in 0..20 {
                machine.reboot_after(Duration::from_mins(1), wrong);
                machine.run_for(Duration::from_mins(1));
                machine.set_clock_by(-wrong);
            }
            assert_eq!(machine.due(), None, "{wrong}");
            machine.run_for(WEEK);
            assert_eq!(machine.due(), Some(1), "{wrong}");
        }
    }

    #[test]
    fn nights_with_the_machine_off_count_toward_age() {
        let mut machine = Machine::new();
        machine.end(1);
        for day in 1..=7 {
            assert_eq!(machine.due(), None, "day {day}");
            machine.run_for(Duration::from_hours(8));
            machine.reboot_after(Duration::from_hours(16), 0);
        }
        assert_eq!(machine.due(), Some(1));
    }

    #[test]
    fn unverifiable_time_off_does_not_count_toward_age() {
        let mut machine = Machine::new();
        machine.end(1);
        machine.run_for(SIX_DAYS);
        machine.reboot_after(10 * DAY, 0);
        assert_eq!(machine.due(), None);
        machine.run_for(DAY);
        assert_eq!(machine.due(), Some(1), "and in the end it goes");
    }

    #[test]
    fn time_without_a_server_counts_toward_age_while_the_machine_is_on() {
        let mut machine = Machine::new();
        machine.end(1);
        let text = serde_json::to_string(&machine.witness).expect("plain");
        machine.witness = serde_json::from_str(&text).expect("its own text");
        machine.set_clock_by(-YEAR_MS);
        machine.run_for(WEEK);
        assert_eq!(machine.due(), Some(1));
    }

    #[test]
    fn idle_time_after_a_run_ages_it_from_its_end() {
        let mut machine = Machine::new();
        for id in 1..=50 {
            machine.end(id);
            machine.run_for(Duration::from_mins(1));
        }
        machine.run_for(WEEK);
        assert_eq!(machine.due(), Some(50));
    }

    #[test]
    fn age_notes_are_bounded_and_ages_exact_within_six_hours() {
        let mut machine = Machine::new();
        for id in 1..=40_000 {
            machine.end(id);
            machine.run_for(Duration::from_mins(10));
        }
        assert!(machine.witness.ended.0.len() <= NOTES_MAX);
        let due = machine.due().expect("most of them");
        let exact = 40_000 + 1 - 7 * 24 * 6;
        assert!((exact - 6 * 6..=exact).contains(&due), "{due} of {exact}");
    }

    #[test]
    fn witness_with_absurd_numbers_from_disk_does_not_overflow() {
        let text = r#"{"boot_id":"boot-1","boot_ms":0,"wall":"2026-01-31T10:00:00.123Z","witnessed_ms":18446744073709551615,"ended":[[18446744073709551615,1],[0,2]]}"#;
        let mut machine = Machine::new();
        machine.witness = serde_json::from_str(text).expect("its own form");
        machine.end(3);
        machine.witness.witnessed_ms = 0;
        machine.witness.ended = Notes(vec![(u64::MAX, 3), (u64::MAX, 4)]);
        machine.end(5);
        assert!(machine.witness.ended.0.len() <= NOTES_MAX);
    }

    #[test]
    fn request_keys_age_by_observed_time_despite_clock_steps() {
        let mut machine = Machine::new();
        machine.witness.note_keys(1);
        machine.set_clock_by(YEAR_MS);
        machine.run_for(DAY / 2);
        machine.witness.note_keys(2);
        assert_eq!(machine.witness.keys_used_for(DAY), None);
        machine.reboot_after(Duration::from_mins(1), -YEAR_MS);
        machine.run_for(DAY / 2);
        assert_eq!(machine.witness.keys_used_for(DAY), Some(1));
        machine.run_for(DAY / 2);
        assert_eq!((machine.witness.keys_used_for(DAY), machine.due()), (Some(2), None));
    }

    #[test]
    fn age_notes_are_dropped_when_run_ids_restart() {
        let mut machine = Machine::new();
        machine.end(500);
        machine.run_for(WEEK);
        assert_eq!(machine.due(), Some(500));
        // The database was removed, and ids begin again.
        machine.end(3);
        assert_eq!(machine.due(), None);
    }
}
