//! The signs of the live run, as its shim said them last, and how far a run came. Nothing waits for them, and the database knows nothing
//! of them.
//!
//! If killed here: the shim says them again to the next server, and the last progress of a run that has ended is stored in its directory.

use std::time::Duration;

use crate::pipeline::{ConditionCode, Lack, Usage};
use crate::run_dir::{NumberedProgress, NumberedSigns, ProgressError, Trouble};

/// The shim's own problems.
const SHIM_TROUBLES: [ConditionCode; 4] =
    [ConditionCode::JournalUnwritable, ConditionCode::LogDropped, ConditionCode::PauseFileFailed, ConditionCode::ShimTrouble];

/// The beginning of a shim's note about a pause that does not hold.
const NOT_HOLDING: &str = "pause not holding";

/// The waits between two looks at a stored progress that cannot be read: each is twice as long as the one before.
const UNREAD_RETRY_MIN: Duration = Duration::from_secs(1);
const UNREAD_RETRY_MAX: Duration = Duration::from_mins(1);

/// A stored progress that could not be read, which is said once.
struct UnreadProgress {
    run_id: i64,
    /// When it is tried again, where that may help, and after what wait.
    retry_at: Option<Duration>,
    waited: Duration,
}

/// See the module.
#[derive(Default)]
pub(super) struct Signs {
    /// What the connected shim said last; its progress is below.
    said: Option<NumberedSigns>,
    /// What the shim of a run that has not come to life yet could not do.
    last_words: Vec<Trouble>,
    /// How far a run is, usually the latest, and which one.
    progress: Option<(i64, NumberedProgress)>,
    unread: Option<UnreadProgress>,
}

impl Signs {
    /// Takes what the shim of a run says. Whether its note is another one than before.
    pub(super) fn hear(&mut self, run_id: i64, mut told: NumberedSigns) -> bool {
        if self.said.as_ref().is_some_and(|said| said.number >= told.number) {
            return false;
        }
        // A shim that lives knows better than any file, where anybody could have put anything.
        let progress = told.signs.progress.take();
        // Another sign alone is no news of the progress.
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

    /// What its shim stored counts where that is later than what it has said: it may have been killed, or gone, before it could say it.
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
                // What is in the file does not change by itself; a disk that fails to read may do better the next time.
                let retry_at = matches!(error, ProgressError::Io(_)).then(|| now + waited);
                self.unread = Some(UnreadProgress { run_id, retry_at, waited });
            }
        }
    }

    /// When a stored progress is looked at again.
    pub(super) fn retry_at(&self) -> Option<Duration> {
        self.unread.as_ref()?.retry_at
    }

    /// The run whose stored progress is to be looked at again now.
    pub(super) fn take_due_look(&mut self, now: Duration) -> Option<i64> {
        let unread = self.unread.as_mut()?;
        unread.retry_at.take_if(|at| *at <= now)?;
        Some(unread.run_id)
    }

    // ---- forgetting

    /// A run begins, and says everything anew.
    pub(super) fn begin_run(&mut self) {
        *self = Self::default();
    }

    /// The connection is gone, or the shim: it says everything again to the next one. What is known of the progress stays.
    pub(super) fn lose_shim(&mut self) {
        self.said = None;
    }

    // ---- why a run has never begun

    /// A shim could not be started.
    pub(super) fn note_last_words(&mut self, words: Trouble) {
        self.last_words = vec![words];
    }

    pub(super) fn last_words(&self) -> Option<String> {
        (!self.last_words.is_empty()).then(|| details(&self.last_words))
    }

    /// Whether it was for want of room on the disk, and what else was lacking.
    pub(super) fn take_last_words(&mut self) -> (bool, Option<Lack>) {
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

    /// What the live run uses, and what tells that from what it used before.
    pub(super) fn usage(&self) -> Option<(Usage, u64)> {
        let said = self.said.as_ref()?;
        Some((said.signs.usage?, said.number))
    }

    /// How far this run is.
    pub(super) fn progress_of(&self, run_id: Option<i64>) -> Option<&NumberedProgress> {
        self.progress.as_ref().filter(|(of, _)| Some(*of) == run_id).map(|(_, told)| told)
    }

    /// What health says of it; of a note only while a run is live.
    pub(super) fn conditions(&self, is_live: bool) -> impl Iterator<Item = (ConditionCode, String)> {
        let note = self.note().filter(|note| is_live && note.starts_with(NOT_HOLDING));
        let troubles = SHIM_TROUBLES.into_iter().filter_map(|code| Some((code, sentence_of(self.trouble(), code)?)));
        troubles.chain(note.map(|note| (ConditionCode::PauseNotHolding, note.to_owned())))
    }
}

/// The sentences of all problems.
fn details(troubles: &[Trouble]) -> String {
    troubles.iter().map(|trouble| trouble.detail.as_str()).collect::<Vec<_>>().join(", ")
}

/// A problem that a shim reported, with the remedy.
fn sentence_of(troubles: &[Trouble], code: ConditionCode) -> Option<String> {
    let is_of_code = |trouble: &&Trouble| match trouble.code.parse() {
        Ok(known) if SHIM_TROUBLES.contains(&known) => known == code,
        // From a newer shim.
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
