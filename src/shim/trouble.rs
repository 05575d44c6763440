//! What cannot be written as it should be: said to the servers, and to `shim.log`.
//!
//! A disk that is full one moment and not the next must not make a flood of it, least of all in a file: what changes is said once in a
//! while, and `shim.log` gets no sentence twice in a row.

use std::io;
use std::time::Duration;

use super::failure::complain;
use crate::pipeline::ConditionCode;
use crate::process::is_disk_full;
use crate::run_dir::{Trouble, TroublePart};

/// The least time between two that are said.
const SAID_EVERY: Duration = Duration::from_secs(1);

/// What was said last.
#[derive(Default)]
pub(super) struct Said {
    trouble: Option<Trouble>,
    /// When, in awake time.
    at: Option<Duration>,
    /// Whether there is something else to say by now.
    is_stale: bool,
    complaint: Option<String>,
}

impl Said {
    /// Takes what fails now, each with its cause. Returns what is to be said to the servers.
    pub(super) fn turn(&mut self, failures: &[(ConditionCode, &str, Option<&io::Error>)], now: Duration) -> Option<Trouble> {
        let failures: Vec<_> = failures.iter().filter_map(|(code, what, why)| Some((code, what, (*why)?))).collect();
        let parts: Vec<TroublePart> = failures
            .iter()
            .map(|(code, what, why)| TroublePart { code: code.to_string(), detail: format!("{what}: {why}") })
            .collect();
        let text: Vec<&str> = parts.iter().map(|part| part.detail.as_str()).collect();
        let text = (!text.is_empty()).then(|| text.join(", "));
        self.is_stale = text != self.trouble.as_ref().and_then(|said| said.trouble.clone());
        if !self.is_stale || self.at.is_some_and(|at| now < at + SAID_EVERY) {
            return None;
        }
        if text.is_some() && text != self.complaint {
            complain(format_args!("{}", text.as_deref().unwrap_or_default()));
            self.complaint.clone_from(&text);
        }
        let is_disk_full = failures.iter().any(|(_, _, why)| is_disk_full(why));
        let trouble = Trouble { trouble: text, is_disk_full, lack: None, parts };
        self.trouble = Some(trouble.clone());
        (self.at, self.is_stale) = (Some(now), false);
        Some(trouble)
    }

    /// What a server that comes now has to know.
    pub(super) fn current(&self) -> Option<Trouble> {
        self.trouble.clone().filter(|said| said.trouble.is_some())
    }

    /// When there is something to say although nothing happens.
    pub(super) fn due_at(&self) -> Option<Duration> {
        self.at.filter(|_| self.is_stale).map(|at| at + SAID_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_full_now_and_then_is_said_once_in_a_while() {
        let (mut said, mut count) = (Said::default(), 0);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        for ms in 0..10_000 {
            let now = Duration::from_millis(ms);
            let failure = (ms % 2 == 0).then_some(&full);
            count += usize::from(said.turn(&[(ConditionCode::LogDropped, "the log", failure)], now).is_some());
        }
        assert!((2..=10).contains(&count), "{count} times");
    }

    #[test]
    fn the_first_is_said_at_once_and_the_last_word_is_what_is_true() {
        let mut said = Said::default();
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let at = Duration::from_millis;
        let first = said
            .turn(&[(ConditionCode::JournalUnwritable, "one", Some(&full)), (ConditionCode::LogDropped, "two", None)], at(0))
            .expect("at once");
        assert_eq!(first.parts.iter().map(|part| part.code.as_str()).collect::<Vec<_>>(), ["journal_unwritable"]);
        assert!(first.is_disk_full && first.trouble.as_deref().is_some_and(|text| text.starts_with("one: ")), "{first:?}");
        assert_eq!(said.current(), Some(first));
        assert_eq!(said.due_at(), None);
        assert_eq!(
            said.turn(&[(ConditionCode::JournalUnwritable, "one", None), (ConditionCode::LogDropped, "two", None)], at(10)),
            None,
            "a moment later"
        );
        assert_eq!(said.due_at(), Some(at(1_000)));
        let last = said
            .turn(&[(ConditionCode::JournalUnwritable, "one", None), (ConditionCode::LogDropped, "two", None)], at(1_000))
            .expect("when it is due");
        assert_eq!(last, Trouble { trouble: None, is_disk_full: false, lack: None, parts: vec![] });
        assert_eq!((said.current(), said.due_at()), (None, None));
    }
}
