//! The shim's problems with the disk: how they become signs, and what is written to `shim.log`.
//!
//! A disk that is full at one moment and not at the next must not cause a flood of messages, least of all in a file. So changes
//! are reported once in a while, and `shim.log` gets no sentence twice in a row.

use std::io;
use std::time::Duration;

use super::chore::Chore;
use super::failure::complain;
use crate::pipeline::ConditionCode;
use crate::process::is_disk_full;
use crate::run_dir::Trouble;

/// The shortest time between two reports.
const SAID_EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Troubles {
    saying: Chore,
    complaint: Option<String>,
}

impl Troubles {
    /// Takes the current failures, each with its cause, and the reported troubles. Returns the troubles to report instead, if a
    /// report is due.
    pub(super) fn turn(
        &mut self,
        failures: &[(ConditionCode, &str, Option<&io::Error>)],
        said: &[Trouble],
        now: Duration,
    ) -> Option<Vec<Trouble>> {
        let failures = failures.iter().filter_map(|(code, what, why)| Some((code, what, (*why)?)));
        let trouble = |(code, what, why): (&ConditionCode, &&str, &io::Error)| Trouble {
            code: code.to_string(),
            detail: format!("{what}: {why}"),
            is_disk_full: is_disk_full(why),
            lack: None,
        };
        let troubles: Vec<Trouble> = failures.map(trouble).collect();
        self.saying.is_due = troubles != said;
        if !self.saying.take(SAID_EVERY, now) {
            return None;
        }
        let text = troubles.iter().map(|trouble| trouble.detail.as_str()).collect::<Vec<_>>().join(", ");
        if !troubles.is_empty() && self.complaint.as_ref() != Some(&text) {
            complain(format_args!("{text}"));
            self.complaint = Some(text);
        }
        Some(troubles)
    }

    pub(super) fn due_at(&self) -> Option<Duration> {
        self.saying.due_at(SAID_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intermittent_full_disk_is_reported_at_a_limited_rate() {
        let (mut troubles, mut said, mut count) = (Troubles::default(), Vec::new(), 0);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        for ms in 0..10_000 {
            let now = Duration::from_millis(ms);
            let failure = (ms % 2 == 0).then_some(&full);
            if let Some(news) = troubles.turn(&[(ConditionCode::LogDropped, "the log", failure)], &said, now) {
                said = news;
                count += 1;
            }
        }
        assert!((2..=10).contains(&count), "{count} times");
    }

    #[test]
    fn first_trouble_is_reported_at_once_and_recovery_when_due() {
        let mut troubles = Troubles::default();
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let at = Duration::from_millis;
        let failures = |first| [(ConditionCode::JournalUnwritable, "one", first), (ConditionCode::LogDropped, "two", None)];
        let first = troubles.turn(&failures(Some(&full)), &[], at(0)).expect("at once");
        assert_eq!(first.iter().map(|trouble| trouble.code.as_str()).collect::<Vec<_>>(), ["journal_unwritable"]);
        assert!(first[0].is_disk_full && first[0].detail.starts_with("one: "), "{first:?}");
        assert_eq!(troubles.due_at(), None);
        assert_eq!(troubles.turn(&failures(None), &first, at(10)), None, "a moment later");
        assert_eq!(troubles.due_at(), Some(at(1_000)));
        assert_eq!(troubles.turn(&failures(None), &first, at(1_000)), Some(vec![]), "when it is due");
        assert_eq!(troubles.due_at(), None);
    }
}
