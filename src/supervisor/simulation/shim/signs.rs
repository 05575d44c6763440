//! The signs of a simulated shim: the progress of its pipeline, a note, and that its journal cannot be written. Also when it
//! sends them, and when it stores the progress.

use super::{Phase, SAID_EVERY, Shim};
use crate::clock::Timestamp;
use crate::pipeline::{ConditionCode, CpuPercent, Progress, Usage};
use crate::run_dir::{Message, NumberedProgress, NumberedSigns, Signs, Trouble};
use crate::supervisor::simulation::env::{Env, MS, SECOND};
use crate::supervisor::simulation::pipeline::Leader;
use crate::supervisor::simulation::run::Run;

const TOLD_EVERY: u64 = 200 * MS;
const STORED_EVERY: u64 = 10 * SECOND;
/// The interval after the progress could not be stored.
const RETRIED_EVERY: u64 = SECOND;

/// The time stamp of a progress stands for how far it is.
const BEGAN_MS: i64 = 1_700_000_000_000;

/// The latest signs, and when they were sent and stored; in awake time.
#[derive(Default)]
pub(super) struct Board {
    latest: NumberedSigns,
    is_untold: bool,
    is_urgent: bool,
    told_at: Option<u64>,
    /// The time at which the last trouble, or its end, was sent.
    trouble_at: Option<u64>,
    is_unstored: bool,
    has_failed: bool,
    stored_at: Option<u64>,
}

impl Board {
    pub(super) fn note(&self) -> Option<&str> {
        self.latest.signs.note.as_deref()
    }

    pub(super) fn message(&self) -> Message {
        Message::Signs(self.latest.clone())
    }

    fn change(&mut self, is_urgent: bool, change: impl FnOnce(&mut Signs)) {
        change(&mut self.latest.signs);
        self.latest.number += 1;
        self.is_untold = true;
        self.is_urgent |= is_urgent;
    }
}

fn progress(how_far: u64) -> Progress {
    Progress::new(Timestamp::from_unix_ms(BEGAN_MS + i64::try_from(how_far).expect("small")))
}

/// Returns how far a progress is; 0 without a progress.
pub(in crate::supervisor::simulation) fn how_far(progress: Option<&Progress>) -> u64 {
    let ms = progress.map_or(BEGAN_MS, |progress| progress.at.unix_ms());
    u64::try_from(ms - BEGAN_MS).expect("ours")
}

/// Returns the progress that is stored in a run's directory.
pub(in crate::supervisor::simulation) fn stored(run: &Run) -> Option<NumberedProgress> {
    let (how_far, number) = run.stored_progress;
    (how_far > 0).then(|| NumberedProgress { progress: progress(how_far), number })
}

fn due(is_due: bool, at: Option<u64>, every: u64, now: u64) -> Option<u64> {
    is_due.then(|| at.map_or(now, |at| (at + every).max(now)))
}

impl Shim {
    /// Simulates output from time to time.
    pub(super) fn listen(&mut self, run: &mut Run, env: &mut Env) {
        if run.pipeline.leader == Leader::Awake && env.rng.chance(150) {
            self.advance_progress(run);
        }
        if env.rng.chance(50) {
            self.look_at_usage(run, env);
        }
    }

    /// Sets the resource usage if the run continues. The number of processes is the run's id.
    pub(super) fn look_at_usage(&mut self, run: &Run, env: &Env) {
        let goes_on = matches!(self.phase, Phase::Running | Phase::Stopping { .. }) && self.leader_end.is_none();
        let processes = u32::try_from(run.id).unwrap_or(u32::MAX);
        let memory_bytes = env.awake_us();
        let usage = Usage { at: env.wall(), cpu_percent: CpuPercent::default(), memory_bytes, processes };
        self.board.change(false, |signs| signs.usage = goes_on.then_some(usage));
    }

    fn advance_progress(&mut self, run: &mut Run) {
        run.progress += 1;
        self.board.change(false, |signs| signs.progress = Some(progress(run.progress)));
        self.board.is_unstored = true;
    }

    /// Sets or clears the note.
    pub(super) fn say(&mut self, note: Option<String>, run: &Run, env: &mut Env) {
        if self.board.latest.signs.note != note {
            self.board.change(true, |signs| signs.note = note);
            self.send_signs(run, env);
        }
    }

    /// Sends and stores what is due. Returns when more is due.
    pub(super) fn tell_signs(&mut self, run: &mut Run, env: &mut Env) -> Option<u64> {
        let now = env.awake_us();
        let board = &mut self.board;
        let has_trouble = run.journal.is_behind();
        let is_stale = has_trouble == board.latest.signs.trouble.is_empty();
        let mut trouble_due = due(is_stale, board.trouble_at, SAID_EVERY, now);
        if trouble_due == Some(now) {
            (trouble_due, board.trouble_at) = (None, Some(now));
            let code = ConditionCode::JournalUnwritable.to_string();
            let trouble = Trouble { code, detail: "its journal cannot be written".to_owned(), is_disk_full: true, lack: None };
            board.change(true, |signs| signs.trouble = has_trouble.then_some(trouble).into_iter().collect());
        }
        let store_every = |has_failed: bool| if has_failed { RETRIED_EVERY } else { STORED_EVERY };
        if due(board.is_unstored, board.stored_at, store_every(board.has_failed), now) == Some(now) {
            board.stored_at = Some(now);
            board.has_failed = !store(run, board.latest.number, env);
            board.is_unstored = board.has_failed;
        }
        self.send_signs(run, env);
        let board = &self.board;
        let storing = due(board.is_unstored, board.stored_at, store_every(board.has_failed), now);
        let telling = due(board.is_untold, board.told_at, TOLD_EVERY, now);
        [trouble_due, storing, telling].into_iter().flatten().min()
    }

    fn send_signs(&mut self, run: &Run, env: &mut Env) {
        let (now, board) = (env.awake_us(), &mut self.board);
        let is_due = due(board.is_untold, board.told_at, TOLD_EVERY, now) == Some(now);
        if is_due || board.is_urgent {
            (board.is_untold, board.is_urgent, board.told_at) = (false, false, Some(now));
            env.tell_latest(run.id, &board.message());
        }
    }

    /// Sends the last signs, before the end is written.
    pub(super) fn end_signs(&mut self, run: &mut Run, env: &mut Env) {
        let before = self.board.message();
        if run.progress > 0 {
            self.advance_progress(run);
            self.board.is_unstored = false;
            store(run, self.board.latest.number, env);
        }
        if std::mem::take(&mut self.board.is_untold) {
            env.tell_all(run.id, &[self.board.message()]);
            // Signs that waited for a server that does not read are sent after messages that must arrive.
            if env.mishap(100) {
                env.cover("signs arrived behind newer ones");
                env.tell_all(run.id, &[before]);
            }
        }
    }

    /// Checks whether the last progress of a run that has ended is stored by now.
    pub(super) fn has_stored(&self, run: &mut Run, env: &mut Env) -> bool {
        if run.stored_progress.0 < run.progress && store(run, self.board.latest.number, env) {
            env.cover("progress was stored behind the end of its run");
        }
        run.stored_progress.0 == run.progress
    }
}

/// Stores the progress. Returns whether the disk had room.
fn store(run: &mut Run, number: u64, env: &mut Env) -> bool {
    if env.disk.journal_is_full {
        env.cover("progress had no room on the disk");
        return false;
    }
    run.stored_progress = (run.progress, number);
    true
}
