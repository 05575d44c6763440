//! Reaches the kill points that follow the hearing and the commit of facts, and the sending of a command.

use crate::kill_point::KillPoint;
use crate::pipeline::{Entry, Fact, Transition};
use crate::run_dir::Command;

/// They are here, and not committed.
pub(super) fn heard(facts: &[(Entry, Option<Transition>)]) {
    for (entry, _) in facts {
        match entry.fact {
            Fact::Spawned { .. } => KillPoint::ServerSpawnedHeard.reach(),
            Fact::SpawnFailed { .. } => KillPoint::ServerSpawnFailedHeard.reach(),
            Fact::Paused { .. } => KillPoint::ServerPausedHeard.reach(),
            Fact::Resumed { .. } => KillPoint::ServerResumedHeard.reach(),
            Fact::Stopping { .. } => KillPoint::ServerStoppingHeard.reach(),
            Fact::Exited { .. } => KillPoint::ServerExitedHeard.reach(),
            // It comes with `exited`, and is committed with it.
            Fact::Usage { .. } | Fact::Unknown => {}
        }
    }
}

/// They are committed, and nobody is told.
pub(super) fn committed(facts: &[(Entry, Option<Transition>)]) {
    for (entry, _) in facts {
        match entry.fact {
            Fact::Spawned { .. } => KillPoint::ServerSpawnedCommitted.reach(),
            Fact::SpawnFailed { .. } => KillPoint::ServerSpawnFailedCommitted.reach(),
            Fact::Paused { .. } => KillPoint::ServerPausedCommitted.reach(),
            Fact::Resumed { .. } => KillPoint::ServerResumedCommitted.reach(),
            Fact::Stopping { .. } => KillPoint::ServerStoppingCommitted.reach(),
            Fact::Exited { .. } => KillPoint::ServerExitedCommitted.reach(),
            Fact::Usage { .. } | Fact::Unknown => {}
        }
    }
}

/// It went down to the shim.
pub(super) fn sent(command: &Command) {
    match command {
        Command::Pause { .. } => KillPoint::ServerPauseSent.reach(),
        Command::Resume { .. } => KillPoint::ServerResumeSent.reach(),
        Command::Stop { .. } => KillPoint::ServerStopSent.reach(),
        // It asks for facts and changes nothing.
        Command::Attach { .. } | Command::Unknown => {}
    }
}
