//! Conditions: the problems that can occur while the server runs, each with a stable code, and the list of current ones.
//!
//! Pure, like everything at this level: callers report problems, and pass in the time.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use super::words::words;
use crate::clock::Timestamp;

words! {
    /// A stable code for a problem, in order of importance, which is the order of the list of conditions.
    ConditionCode {
        /// A change is not recorded in the database yet.
        NotRecorded = "not_recorded",
        /// A write failed because the disk is full.
        DiskFull = "disk_full",
        /// Another process holds a lock on the database.
        DatabaseLocked = "database_locked",
        /// The database file was removed or replaced while the server has it open.
        DatabaseReplaced = "database_replaced",
        /// The database does not take a change for any other reason.
        DatabaseFailing = "database_failing",
        /// The runtime directory was removed or replaced.
        RuntimeDirReplaced = "runtime_dir_replaced",
        /// The shim of the live run does not answer.
        ShimSilent = "shim_silent",
        /// A signal has stopped the shim of the live run.
        ShimStopped = "shim_stopped",
        /// The shim cannot write its journal.
        JournalUnwritable = "journal_unwritable",
        /// Lines of the log are lost.
        LogDropped = "log_dropped",
        /// The shim cannot make or remove the PAUSE file.
        PauseFileFailed = "pause_file_failed",
        /// The PAUSE file of a run that has ended cannot be removed.
        PauseFileLeft = "pause_file_left",
        /// The shim has a problem that this version has no code for.
        ShimTrouble = "shim_trouble",
        /// Another process continues the paused pipeline.
        PauseNotHolding = "pause_not_holding",
        /// A call to the disk has lasted for seconds.
        DiskSlow = "disk_slow",
        /// Little space is left on the disk.
        DiskLow = "disk_low",
        /// A lock file that keeps other servers out is missing and could not be recreated.
        LockMissing = "lock_missing",
        /// The Unix socket is missing and could not be recreated.
        SocketMissing = "socket_missing",
        /// `server.json` is missing and could not be written.
        ServerInfoMissing = "server_info_missing",
        /// A file that holds a token or the session key is missing.
        TokenMissing = "token_missing",
        /// A problem that only a newer version knows.
        #[serde(other)]
        Unknown = "unknown",
    }
}

/// A current problem.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Condition {
    /// The code of the problem.
    pub code: ConditionCode,
    /// When it began, as far as the server knows.
    pub since: Timestamp,
    /// The problem and its remedy, in a sentence for users.
    pub detail: String,
}

/// All current problems, at most one condition per code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Conditions(Vec<Condition>);

impl Conditions {
    /// Replaces the list with `current`. If a code occurs more than once, its first entry counts. A condition that was
    /// already set keeps its start time. Returns whether anything changed.
    pub fn replace(&mut self, current: &[(ConditionCode, String)], now: Timestamp) -> bool {
        let condition = |&code: &ConditionCode| {
            let (_, detail) = current.iter().find(|(of, _)| *of == code)?;
            let since = self.0.iter().find(|condition| condition.code == code).map_or(now, |condition| condition.since);
            Some(Condition { code, since, detail: detail.clone() })
        };
        let list = ConditionCode::ALL.iter().filter_map(condition).collect();
        std::mem::replace(&mut self.0, list) != self.0
    }

    /// Merges both lists. If both contain a code, this list's sentence and the earlier time are kept.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let mut all = self.clone();
        for condition in &other.0 {
            match all.0.binary_search_by_key(&(condition.code as usize), |there| there.code as usize) {
                Ok(at) => all.0[at].since = all.0[at].since.min(condition.since),
                Err(at) => all.0.insert(at, condition.clone()),
            }
        }
        all
    }

    /// Returns the current conditions, the most important first.
    pub fn list(&self) -> &[Condition] {
        &self.0
    }

    /// Returns whether there are no conditions.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Joins all details into one sentence; `None` if there are no conditions.
    pub fn sentence(&self) -> Option<String> {
        let details: Vec<&str> = self.0.iter().map(|condition| condition.detail.as_str()).collect();
        (!details.is_empty()).then(|| details.join("; "))
    }

    /// Returns a digest of this list; 0 if it is empty. It depends only on the contents: a later server that finds the same
    /// problems computes the same number, and one that finds other problems does not.
    pub fn digest(&self) -> u64 {
        if self.0.is_empty() {
            return 0;
        }
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        hasher.finish().max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    #[test]
    fn condition_keeps_its_since_time_until_it_ends() {
        let mut wrong = Conditions::default();
        let low = |detail: &str| [(ConditionCode::DiskLow, detail.to_owned())];
        assert!(wrong.replace(&low("512 KiB"), at(1)));
        assert!(!wrong.replace(&low("512 KiB"), at(2)), "nothing new");
        let digest = wrong.digest();
        assert!(wrong.replace(&low("12 KiB"), at(3)));
        assert_eq!((wrong.list()[0].since, wrong.list()[0].detail.as_str()), (at(1), "12 KiB"));
        assert_ne!(wrong.digest(), digest);
        assert!(wrong.replace(&[], at(4)) && !wrong.replace(&[], at(5)));
        assert!(wrong.is_empty() && wrong.sentence().is_none());
        wrong.replace(&low("12 KiB"), at(6));
        assert_eq!(wrong.list()[0].since, at(6), "it began anew");
    }

    #[test]
    fn conditions_are_listed_by_importance_and_merged_by_code() {
        let (mut told, mut found) = (Conditions::default(), Conditions::default());
        told.replace(&[(ConditionCode::ShimSilent, "silent".into()), (ConditionCode::DatabaseReplaced, "told".into())], at(5));
        found.replace(&[(ConditionCode::DatabaseReplaced, "found".into())], at(3));
        let both = [(ConditionCode::DatabaseReplaced, "found".into()), (ConditionCode::DiskLow, "low".into())];
        found.replace(&both, at(4));
        let all = told.with(&found);
        let listed: Vec<_> = all.list().iter().map(|c| (c.code.as_str(), c.since, c.detail.as_str())).collect();
        assert_eq!(listed, [("database_replaced", at(3), "told"), ("shim_silent", at(5), "silent"), ("disk_low", at(4), "low")]);
        assert_eq!(all.sentence().as_deref(), Some("told; silent; low"));
    }
}
