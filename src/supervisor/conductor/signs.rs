//! The latest signs of the live run's shim, and the progress of a run. No client waits for them, and the database does not
//! contain them.
//!
//! If killed here: the shim sends the signs again to the next server, and the last progress of a run that has ended is stored in
//! its directory.

use std::time::Duration;

use crate::pipeline::{ConditionCode, Shortage, Usage};
use crate::run_dir::{NumberedProgress, NumberedSigns, ProgressError, Trouble};

/// The codes of the shim's own problems.
const SHIM_TROUBLES: [ConditionCode; 4] =
    [ConditionCode::JournalUnwritable, ConditionCode::LogDropped, ConditionCode::PauseFileFailed, ConditionCode::ShimTrouble];

/// The beginning of a shim's note that a pause is not holding.
const NOT_HOLDING: &str = "pause not holding";

/// The minimum and maximum wait before a stored progress that cannot be read is read again. Each wait is twice as long as the
/// previous one.
const UNREAD_RETRY_MIN: Duration = Duration::from_secs(1);
const UNREAD_RETRY_MAX: Duration = Duration::from_mins(1);

/// A stored progress that could not be read, which is logged once.
struct UnreadProgress {
    run_id: i64,
    /// The time of the next attempt, if that may help, and the wait before it.
    retry_at: Option<Duration>,
    waited: Duration,
}

/// The signs, see the module.
#[derive(Default)]
pub(super) struct Signs {
    /// The last message of the connected shim, without its progress, which is in `progress`.
    said: Option<NumberedSigns>,
    /// The problems that a shim reported, or because of which it could not be started. They explain why a run never began.
    last_words: Vec<Trouble>,
    /// The progress of a run, usually the latest, and the run's id.
    progress: Option<(i64, NumberedProgress)>,
    unread: Option<UnreadProgress>,
}

impl Signs {
    /// Takes signs from the shim of a run. Returns whether its note has changed.
    pub(super) fn hear(&mut self, run_id: i64, mut told: NumberedSigns) -> bool {
        if self.said.as_ref().is_some_and(|said| said.number >= told.number) {
            return false;
        }
        // A live shim is more reliable than any file, because another program may have written the file.
        let progress = told.signs.progress.take();
        // The progress keeps its number if only another sign has changed.
        if progress.as_ref() != self.progress_of(Some(run_id)).map(|known| &known.progress) {
            self.progress = progress.map(|progress| (run_id, NumberedProgress { progress, number: told.number }));
        }
        let trouble = &told.signs.trouble;
        if !trouble.is_empty() && trouble != self.trouble() {
            ::log::warn!("reported by the live run: {}", details(trouble));
        }
        self.last_words.clone_from(trouble);
        let is_noted = told.signs.note.as_deref() != self.note();
        self.said = Some(told);
        is_noted
    }

    // ---- from the run's directory

    /// Takes the progress that the shim stored, if it is later than the one it sent: it may have been killed, or have exited,
    /// before it could send it.
    pub(super) fn take_stored(&mut self, run_id: i64, stored: Result<Option<NumberedProgress>, ProgressError>, now: Duration) {
        let before = self.unread.take().filter(|before| before.run_id == run_id);
        match stored {
            Ok(Some(told)) => {
                if self.progress_of(Some(run_id)).is_none_or(|known| known.number < told.number) {
                    self.progress = Some((run_id, told));
                }
            }
            Ok(None) => {}
            Err(error) => {
                if before.is_none() {
                    ::log::warn!("run {run_id}: its progress is unknown: failed to {error}");
                }
                let waited = before.map_or(UNREAD_RETRY_MIN, |before| (before.waited * 2).min(UNREAD_RETRY_MAX));
                // The file's content does not change by itself, but a failing disk may work the next time.
                let retry_at = matches!(error, ProgressError::Io(_)).then(|| now + waited);
                self.unread = Some(UnreadProgress { run_id, retry_at, waited });
            }
        }
    }

    /// Returns when a stored progress is read again.
    pub(super) fn retry_at(&self) -> Option<Duration> {
        self.unread.as_ref()?.retry_at
    }

    /// Returns the run whose stored progress must be read again now.
    pub(super) fn take_due_look(&mut self, now: Duration) -> Option<i64> {
        let unread = self.unread.as_mut()?;
        unread.retry_at.take_if(|at| *at <= now)?;
        Some(unread.run_id)
    }

    // ---- forgetting

    /// Forgets everything, because a run begins.
    pub(super) fn begin_run(&mut self) {
        *self = Self::default();
    }

    /// Forgets the signs except the progress, because the connection or the shim is lost. The shim sends all signs again on the
    /// next connection.
    pub(super) fn lose_shim(&mut self) {
        self.said = None;
    }

    // ---- why a run has never begun

    /// Records why a shim could not be started.
    pub(super) fn note_last_words(&mut self, words: Trouble) {
        self.last_words = vec![words];
    }

    pub(super) fn last_words(&self) -> Option<String> {
        (!self.last_words.is_empty()).then(|| details(&self.last_words))
    }

    /// Returns whether the disk was full, and which other resource was lacking.
    pub(super) fn take_last_words(&mut self) -> (bool, Option<Shortage>) {
        let words = std::mem::take(&mut self.last_words);
        (words.iter().any(|words| words.is_disk_full), words.iter().find_map(|words| words.lack))
    }

    // ---- what is shown

    pub(super) fn note(&self) -> Option<&str> {
        self.said.as_ref()?.signs.note.as_deref()
    }

    fn trouble(&self) -> &[Trouble] {
        self.said.as_ref().map_or(&[], |said| &said.signs.trouble)
    }

    /// Returns the resource usage of the live run, and its number.
    pub(super) fn usage(&self) -> Option<(Usage, u64)> {
        let said = self.said.as_ref()?;
        Some((said.signs.usage?, said.number))
    }

    /// Returns the progress of this run.
    pub(super) fn progress_of(&self, run_id: Option<i64>) -> Option<&NumberedProgress> {
        self.progress.as_ref().filter(|(of, _)| Some(*of) == run_id).map(|(_, told)| told)
    }

    /// Returns the conditions for health. The note counts only while a run is live.
    pub(super) fn conditions(&self, is_live: bool) -> impl Iterator<Item = (ConditionCode, String)> {
        let note = self.note().filter(|note| is_live && note.starts_with(NOT_HOLDING));
        let troubles = SHIM_TROUBLES.into_iter().filter_map(|code| Some((code, sentence_of(self.trouble(), code)?)));
        troubles.chain(note.map(|note| (ConditionCode::PauseNotHolding, note.to_owned())))
    }
}

/// Returns the sentences of all problems.
fn details(troubles: &[Trouble]) -> String {
    troubles.iter().map(|trouble| trouble.detail.as_str()).collect::<Vec<_>>().join(", ")
}

/// Returns the sentence about the problems with this code, with the remedy.
fn sentence_of(troubles: &[Trouble], code: ConditionCode) -> Option<String> {
    let is_of_code = |trouble: &&Trouble| match trouble.code.parse() {
        Ok(known) if SHIM_TROUBLES.contains(&known) => known == code,
        // A code of a newer shim.
        Ok(_) | Err(_) => code == ConditionCode::ShimTrouble,
    };
    let troubles: Vec<Trouble> = troubles.iter().filter(is_of_code).cloned().collect();
    let is_disk_full = troubles.first().map(|_| troubles.iter().any(|trouble| trouble.is_disk_full))?;
    let remedy = if is_disk_full { "free some disk space" } else { "repair the runtime directory or its disk" };
    let advice = match code {
        ConditionCode::JournalUnwritable => {
            format!("{remedy}, and keep the server running until then: only the server knows what happens in the meantime")
        }
        ConditionCode::LogDropped => format!("{remedy}: the log says how many lines are missing and where"),
        _ => remedy.to_owned(),
    };
    let subject = if is_disk_full { "the disk is full, and" } else { "the live run's own process (the shim) has a problem:" };
    Some(format!("{subject} {}; {advice}", details(&troubles)))
}
