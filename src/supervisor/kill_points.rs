//! The kill points that follow the receipt and the commit of facts, and the sending of a command.

use crate::kill_point::KillPoint;
use crate::pipeline::{Entry, Fact, Transition};
use crate::run_dir::Command;

/// Returns the kill points of a fact: after it was received and before it is committed; after the commit and before it is
/// published.
const fn points_of(fact: &Fact) -> Option<[KillPoint; 2]> {
    match fact {
        Fact::Spawned { .. } => Some([KillPoint::ServerSpawnedHeard, KillPoint::ServerSpawnedCommitted]),
        Fact::SpawnFailed { .. } => Some([KillPoint::ServerSpawnFailedHeard, KillPoint::ServerSpawnFailedCommitted]),
        Fact::Paused { .. } => Some([KillPoint::ServerPausedHeard, KillPoint::ServerPausedCommitted]),
        Fact::Resumed { .. } => Some([KillPoint::ServerResumedHeard, KillPoint::ServerResumedCommitted]),
        Fact::Stopping { .. } => Some([KillPoint::ServerStoppingHeard, KillPoint::ServerStoppingCommitted]),
        Fact::Exited { .. } => Some([KillPoint::ServerExitedHeard, KillPoint::ServerExitedCommitted]),
        // It arrives with `exited`, and is committed with it.
        Fact::Usage { .. } | Fact::Unknown => None,
    }
}

/// Reaches the kill points of facts that were received.
pub(super) fn heard(facts: &[(Entry, Option<Transition>)]) {
    facts.iter().filter_map(|(entry, _)| points_of(&entry.fact)).for_each(|[heard, _]| heard.reach());
}

/// Reaches the kill points of facts that were committed.
pub(super) fn committed(facts: &[(Entry, Option<Transition>)]) {
    facts.iter().filter_map(|(entry, _)| points_of(&entry.fact)).for_each(|[_, committed]| committed.reach());
}

/// Reaches the kill point of a command that was sent to the shim.
pub(super) fn sent(command: &Command) {
    match command {
        Command::Pause { .. } => KillPoint::ServerPauseSent.reach(),
        Command::Resume { .. } => KillPoint::ServerResumeSent.reach(),
        Command::Stop { .. } => KillPoint::ServerStopSent.reach(),
        // These commands cause no facts.
        Command::Attach { .. } | Command::Watch { .. } | Command::Unknown => {}
    }
}
