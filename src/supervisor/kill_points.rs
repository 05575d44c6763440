//! Reaches the kill points that follow the hearing and the commit of facts, and the sending of a command.

use crate::kill_point::KillPoint;
use crate::pipeline::{Entry, Fact, Transition};
use crate::run_dir::Command;

/// The kill points of a fact: it is here, and not committed; it is committed, and nobody is told.
const fn points_of(fact: &Fact) -> Option<[KillPoint; 2]> {
    match fact {
        Fact::Spawned { .. } => Some([KillPoint::ServerSpawnedHeard, KillPoint::ServerSpawnedCommitted]),
        Fact::SpawnFailed { .. } => Some([KillPoint::ServerSpawnFailedHeard, KillPoint::ServerSpawnFailedCommitted]),
        Fact::Paused { .. } => Some([KillPoint::ServerPausedHeard, KillPoint::ServerPausedCommitted]),
        Fact::Resumed { .. } => Some([KillPoint::ServerResumedHeard, KillPoint::ServerResumedCommitted]),
        Fact::Stopping { .. } => Some([KillPoint::ServerStoppingHeard, KillPoint::ServerStoppingCommitted]),
        Fact::Exited { .. } => Some([KillPoint::ServerExitedHeard, KillPoint::ServerExitedCommitted]),
        // It comes with `exited`, and is committed with it.
        Fact::Usage { .. } | Fact::Unknown => None,
    }
}

/// These facts are here.
pub(super) fn heard(facts: &[(Entry, Option<Transition>)]) {
    facts.iter().filter_map(|(entry, _)| points_of(&entry.fact)).for_each(|[heard, _]| heard.reach());
}

/// They are committed.
pub(super) fn committed(facts: &[(Entry, Option<Transition>)]) {
    facts.iter().filter_map(|(entry, _)| points_of(&entry.fact)).for_each(|[_, committed]| committed.reach());
}

/// It went down to the shim.
pub(super) fn sent(command: &Command) {
    match command {
        Command::Pause { .. } => KillPoint::ServerPauseSent.reach(),
        Command::Resume { .. } => KillPoint::ServerResumeSent.reach(),
        Command::Stop { .. } => KillPoint::ServerStopSent.reach(),
        // It asks for facts and changes nothing.
        Command::Attach { .. } | Command::Watch { .. } | Command::Unknown => {}
    }
}
