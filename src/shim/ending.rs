//! The end of a run: the rest of the output, the fact `exited`, and only then the reaping of the leader.

use std::time::Duration;

use super::phase::Phase;
use super::run::{JOURNAL_RETRY, Run};
use super::tree::Kill;
use crate::clock::{Clock, SystemClock, whole_ms};
use crate::kill_point::KillPoint;
use crate::pipeline::{Exit, Fact, Killed};
use crate::process::{self, Cgroup};

/// How long the rest of the output is read at the end. The limit is for writers outside the tree.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

impl Run {
    /// Returns whether the run is over. With an empty tree the pipes contain all output, unless a process outside it has the
    /// other end.
    pub(super) fn is_over(&self) -> bool {
        self.leader_end.is_some() && self.tree.is_empty()
    }

    pub(super) fn finish(&mut self) {
        KillPoint::ShimTreeEnded.reach();
        let began = SystemClock.awake();
        let ran = self.ran();
        self.output.close(|| SystemClock.awake() > began + DRAIN_LIMIT, began, ran, &mut self.signs);
        KillPoint::ShimDrained.reach();
        self.output.progress().end(ran, &mut self.signs);
        if let Some(signs) = self.signs.take_last(began) {
            self.connections.tell_all(&[signs]);
        }
        KillPoint::ShimProgressStored.reach();
        self.count_pause();
        self.pause_file.set(false);
        KillPoint::ShimEndPauseFileRemoved.reach();
        // Before the group is removed.
        let oom_kills = self.usage.oom_kills();
        let memory_peak_bytes = self.tree.cgroup().and_then(Cgroup::memory_peak_bytes);
        // Before the end is reported, because then nothing of the run may be left.
        self.or_log("remove the control group", self.tree.remove());
        KillPoint::ShimCgroupRemoved.reach();
        let exit = self.leader_end.as_ref().map_or(Exit::Code(0), |end| end.exit);
        let (asked, paused_ms, log_end) = (self.stopped_by.is_some(), whole_ms(self.paused_in_all), self.output.end_position());
        let killed =
            if let Phase::Killing { kill } = &mut self.phase { std::mem::take(&mut kill.killed) } else { Killed::default() };
        let end = Fact::Exited { exit, asked, paused_ms, log_end, killed, oom_kills };
        let mut last = vec![self.write_down(end, self.stopped_by, true)];
        if self.journal.is_behind() {
            // A full disk must not cost the exit status, which only this process has. A connected server gets it at once, and a
            // later one when it connects.
            self.connections.tell_all(&std::mem::take(&mut last));
            self.wait_while(|run| run.catch_up().is_err());
        }
        // Not earlier: until here, a kill of this process would have left the exit status with the kernel.
        process::reap_all_but(None);
        KillPoint::ShimReaped.reach();
        if let Ok(usage) = process::usage_of_children(memory_peak_bytes, self.usage.memory_seen_bytes()) {
            last.push(self.write_down(usage, None, false));
        }
        // Together, because a server that knows the end may start the next run before it receives the rest of this one.
        self.connections.tell_all(&last);
        self.connections.turn();
        KillPoint::ShimEndSent.reach();
        // The end is recorded. The loss mark of the log and the final progress are known only here.
        self.wait_while(|run| run.output.owes_a_mark() || run.pause_file.failure().is_some() || run.output.progress().is_owed());
    }

    /// After the end: only answers, and retries what the disk has refused.
    pub(super) fn wait_while(&mut self, is_so: impl Fn(&mut Self) -> bool) {
        self.phase = Phase::Killing { kill: Kill::default() };
        while is_so(self) {
            self.tell_signs();
            self.wait(Some(SystemClock.awake() + JOURNAL_RETRY));
            self.take_events();
            self.retry_pause_file();
        }
        self.tell_signs();
    }
}
