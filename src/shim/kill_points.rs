//! Reaches the kill points that follow the writing and the sending of a fact.

use crate::kill_point::KillPoint;
use crate::pipeline::Fact;
use crate::run_dir::Message;

/// The fact is in the journal, and no server is notified.
pub(super) fn written(fact: &Fact) {
    match fact {
        Fact::Spawned { .. } => KillPoint::ShimSpawnedWritten.reach(),
        Fact::SpawnFailed { .. } => KillPoint::ShimSpawnFailedWritten.reach(),
        Fact::Paused { .. } => KillPoint::ShimPausedWritten.reach(),
        Fact::Resumed { .. } => KillPoint::ShimResumedWritten.reach(),
        Fact::Stopping { .. } => KillPoint::ShimStoppingWritten.reach(),
        Fact::Exited { .. } => KillPoint::ShimExitedWritten.reach(),
        Fact::Usage { .. } => KillPoint::ShimUsageWritten.reach(),
        // Only readers use this variant.
        Fact::Unknown => {}
    }
}

/// The server is notified.
pub(super) fn sent(message: &Message) {
    let Message::Fact(entry) = message else { return };
    match entry.fact {
        Fact::Spawned { .. } => KillPoint::ShimSpawnedSent.reach(),
        Fact::SpawnFailed { .. } => KillPoint::ShimSpawnFailedSent.reach(),
        Fact::Paused { .. } => KillPoint::ShimPausedSent.reach(),
        Fact::Resumed { .. } => KillPoint::ShimResumedSent.reach(),
        Fact::Stopping { .. } => KillPoint::ShimStoppingSent.reach(),
        // These two are sent together at the end of the run.
        Fact::Exited { .. } | Fact::Usage { .. } => {}
        Fact::Unknown => {}
    }
}
