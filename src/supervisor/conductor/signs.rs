//! What the live run's shim says of it beside the facts: a note about the state, what the shim cannot write, and how far the pipeline is.
//! It changes often and may be lost, so nothing waits for it and the database knows nothing of it.
//!
//! If killed here: the shim says it again to the next server, and the last progress of a run that has ended is stored in its directory.

use std::time::Duration;

use crate::pipeline::{ConditionCode, Lack};
use crate::run_dir::{NumberedProgress, ProgressError, Trouble, TroublePart};

/// The shim's own problems.
const SHIM_TROUBLES: [ConditionCode; 4] =
    [ConditionCode::JournalUnwritable, ConditionCode::LogDropped, ConditionCode::PauseFileFailed, ConditionCode::ShimTrouble];

/// The beginning of a shim's note about a pause that does not hold.
const NOT_HOLDING: &str = "pause not holding";

/// The waits between two looks at a stored progress that cannot be read: each is twice as long as the one before.
const UNREAD_RETRY_MIN: Duration = Duration::from_secs(1);
const UNREAD_RETRY_MAX: Duration = Duration::from_mins(1);

/// How far a run is, and who says so.
struct KnownProgress {
    run_id: i64,
    told: NumberedProgress,
    /// Its shim, and not its directory, where anybody could have put anything.
    is_the_shims: bool,
}

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
    note: Option<String>,
    trouble: Option<Trouble>,
    /// What the shim of a run that has not come to life yet could not do.
    last_words: Option<Trouble>,
    /// How far a run is, usually the latest.
    progress: Option<KnownProgress>,
    unread: Option<UnreadProgress>,
}

impl Signs {
    // ---- from the shim

    /// Whether the note is another one than before.
    pub(super) fn hear_note(&mut self, note: Option<String>) -> bool {
        let is_news = self.note != note;
        self.note = note;
        is_news
    }

    pub(super) fn hear_trouble(&mut self, trouble: Trouble) {
        if let Some(text) = &trouble.trouble {
            ::log::warn!("told by the live run: {text}");
        }
        let trouble = Some(trouble).filter(|trouble| trouble.trouble.is_some());
        self.last_words.clone_from(&trouble);
        self.trouble = trouble;
    }

    pub(super) fn hear_progress(&mut self, run_id: i64, told: NumberedProgress) {
        let is_known = |known: &KnownProgress| known.run_id == run_id && known.is_the_shims && known.told.number >= told.number;
        if !self.progress.as_ref().is_some_and(is_known) {
            self.progress = Some(KnownProgress { run_id, told, is_the_shims: true });
        }
    }

    // ---- from the run's directory

    /// What its shim stored counts where that is later than what it has said: it may have been killed, or gone, before it could say it.
    pub(super) fn take_stored(&mut self, run_id: i64, stored: Result<Option<NumberedProgress>, ProgressError>, now: Duration) {
        let before = self.unread.take().filter(|before| before.run_id == run_id);
        match stored {
            Ok(Some(told)) => {
                let is_known = |known: &KnownProgress| known.run_id == run_id && known.told.number >= told.number;
                if !self.progress.as_ref().is_some_and(is_known) {
                    self.progress = Some(KnownProgress { run_id, told, is_the_shims: false });
                }
            }
            Ok(None) => {}
            Err(error) => {
                if before.is_none() {
                    ::log::warn!("run {run_id}: how far it is is not known: failed to {error}");
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
        (self.note, self.progress, self.last_words) = (None, None, None);
    }

    /// The connection is gone: its shim says both again to the next one, if they are so still.
    pub(super) fn lose_shim(&mut self) {
        self.note = None;
        self.forget_troubles();
    }

    pub(super) fn forget_troubles(&mut self) {
        self.trouble = None;
    }

    // ---- why a run has never begun

    /// A shim could not be started, or said why it cannot begin.
    pub(super) fn note_last_words(&mut self, words: Trouble) {
        self.last_words = Some(words);
    }

    pub(super) fn last_words(&self) -> Option<&str> {
        self.last_words.as_ref()?.trouble.as_deref()
    }

    /// Whether it was for want of room on the disk, and what else was lacking.
    pub(super) fn take_last_words(&mut self) -> (bool, Option<Lack>) {
        self.last_words.take().map_or((false, None), |words| (words.is_disk_full, words.lack))
    }

    // ---- what is shown

    pub(super) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// How far this run is.
    pub(super) fn progress_of(&self, run_id: Option<i64>) -> Option<&NumberedProgress> {
        self.progress.as_ref().filter(|known| Some(known.run_id) == run_id).map(|known| &known.told)
    }

    /// What health says of it; of a note only while a run is live.
    pub(super) fn conditions(&self, is_live: bool) -> impl Iterator<Item = (ConditionCode, Option<String>)> {
        let note = self.note().filter(|note| is_live && note.starts_with(NOT_HOLDING));
        let troubles = SHIM_TROUBLES.map(|code| (code, self.trouble.as_ref().and_then(|trouble| sentence_of(trouble, code))));
        troubles.into_iter().chain([(ConditionCode::PauseNotHolding, note.map(str::to_owned))])
    }
}

/// A problem that a shim reported, with the remedy.
fn sentence_of(trouble: &Trouble, code: ConditionCode) -> Option<String> {
    let text = trouble.trouble.as_ref()?;
    let is_of_code = |part: &&TroublePart| match part.code.parse() {
        Ok(known) if SHIM_TROUBLES.contains(&known) => known == code,
        // From a newer shim.
        Ok(_) | Err(_) => code == ConditionCode::ShimTrouble,
    };
    let parts: Vec<&str> = trouble.parts.iter().filter(is_of_code).map(|part| part.detail.as_str()).collect();
    let text = match parts.is_empty() {
        false => parts.join(", "),
        // An older shim sends only the whole sentence.
        true if trouble.parts.is_empty() && code == ConditionCode::ShimTrouble => text.clone(),
        true => return None,
    };
    let remedy = if trouble.is_disk_full { "make room on the disk" } else { "repair the runtime directory or its disk" };
    let advice = match code {
        ConditionCode::JournalUnwritable => {
            format!("{remedy}, and keep the server running until then: only the server knows what happens in the meantime")
        }
        ConditionCode::LogDropped => format!("{remedy}: the log says how many lines are missing and where"),
        _ => remedy.to_owned(),
    };
    Some(format!("the live run's own process (the shim) has trouble: {text}; {advice}"))
}
