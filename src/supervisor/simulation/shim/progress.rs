//! How far a simulated pipeline says it is, and when its shim says and stores that.

use super::Shim;
use crate::clock::Timestamp;
use crate::pipeline::Progress;
use crate::run_dir::{Message, NumberedProgress};
use crate::supervisor::simulation::env::{Env, MS, SECOND};
use crate::supervisor::simulation::pipeline::Leader;
use crate::supervisor::simulation::run::Run;

const SAID_EVERY: u64 = 200 * MS;
const STORED_EVERY: u64 = 10 * SECOND;
/// The same where the last one could not be stored.
const RETRIED_EVERY: u64 = SECOND;

/// What is not said or not stored yet, and when anything was; in awake time.
#[derive(Default)]
pub(super) struct Telling {
    is_unsaid: bool,
    said_at: Option<u64>,
    is_unstored: bool,
    has_failed: bool,
    stored_at: Option<u64>,
}

pub(in crate::supervisor::simulation) fn numbered(number: u64) -> NumberedProgress {
    NumberedProgress { progress: Progress::new(Timestamp::from_unix_ms(1_700_000_000_000)), number }
}

pub(super) fn message(run: &Run) -> Message {
    Message::Progress(numbered(run.progress))
}

impl Shim {
    /// Now and then something was printed.
    pub(super) fn listen(&mut self, run: &mut Run, env: &mut Env) {
        if run.pipeline.leader == Leader::Awake && env.rng.chance(150) {
            run.progress += 1;
            (self.telling.is_unsaid, self.telling.is_unstored) = (true, true);
        }
    }

    /// Says and stores what is due; when there is more.
    pub(super) fn tell_progress(&mut self, run: &mut Run, env: &mut Env) -> Option<u64> {
        let now = env.awake_us();
        let telling = &mut self.telling;
        let due = |is_due: bool, at: Option<u64>, every: u64| is_due.then(|| at.map_or(now, |at| (at + every).max(now)));
        let store_every = |has_failed: bool| if has_failed { RETRIED_EVERY } else { STORED_EVERY };
        if due(telling.is_unstored, telling.stored_at, store_every(telling.has_failed)) == Some(now) {
            telling.stored_at = Some(now);
            telling.has_failed = !store(run, env);
            telling.is_unstored = telling.has_failed;
        }
        if due(telling.is_unsaid, telling.said_at, SAID_EVERY) == Some(now) {
            (telling.is_unsaid, telling.said_at) = (false, Some(now));
            env.tell_all(run.id, &[message(run)]);
        }
        let storing = due(telling.is_unstored, telling.stored_at, store_every(telling.has_failed));
        [storing, due(telling.is_unsaid, telling.said_at, SAID_EVERY)].into_iter().flatten().min()
    }

    /// The last word, before the end is written down.
    pub(super) fn end_progress(&mut self, run: &mut Run, env: &mut Env) {
        if run.progress == 0 {
            return;
        }
        run.progress += 1;
        self.telling = Telling::default();
        store(run, env);
        env.tell_all(run.id, &[message(run)]);
    }
}

/// Of a run that has ended: whether what it came to is stored, by now.
pub(super) fn is_stored(run: &mut Run, env: &mut Env) -> bool {
    if run.stored_progress < run.progress && store(run, env) {
        env.cover("progress was stored behind the end of its run");
    }
    run.stored_progress == run.progress
}

/// Whether there was room.
fn store(run: &mut Run, env: &mut Env) -> bool {
    if env.disk.journal_is_full {
        env.cover("progress had no room on the disk");
        return false;
    }
    run.stored_progress = run.progress;
    true
}
