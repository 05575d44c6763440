//! Each kill point: what leads there, and what must be so after the next boot.

use autoappdev::kill_point::KillPoint;

use Outcome::{Ended, Lost, NeverBegan, Nothing, Paused, Running, SpawnFailed, Stopping};

/// What leads to a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scene {
    /// A server on a folder in which there is nothing yet.
    FirstBoot,
    /// The same, and it is to ask for a token: one was set, the other secrets are to be made.
    FirstBootBehindATokenDoor,
    /// A server with a database that belonged to one with another runtime directory.
    MovedDatabase,
    /// A server boots; a run goes on, and was paused while no server was there.
    BootOnRun,
    /// A server boots; a run was committed and never begun.
    BootOnNothing,
    /// A server boots that keeps one run; two others are there, and much output of one that goes on.
    BootOnMuch,
    /// A server boots without its database; a run goes on.
    BootWithoutDatabase,
    /// A server boots on a copy of the runtime directory, which was removed; a run goes on.
    DirectoryReplaced,
    /// A server with a live run is told to end.
    Terminate,
    /// The shim of a paused run is killed from outside.
    ShimKilled,
    /// A start.
    Start,
    /// A start of what cannot be executed.
    StartUnrunnable,
    /// More output than a log keeps.
    Talk,
    /// A pause of what runs.
    Pause,
    /// A resume.
    Resume,
    /// A stop with a grace that never ends.
    Stop,
    /// The same, of what is paused.
    StopPaused,
    /// A stop without a grace.
    StopNow,
    /// The leader ends by itself and leaves others behind.
    End,
    /// The leader of a paused run is killed from outside.
    EndPaused,
    /// A login, where others are logged in.
    LogIn,
    /// The end of one of their sessions, by its own client.
    LogOut,
    /// The end of all sessions.
    EndAll,
    /// A renewal of one of them.
    Renewal,
}

/// What must be so after the next boot, or, where the shim has died, what the server finds out by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There is no run, nor was one under way.
    Nothing,
    /// The run is `failed`: it never came to life.
    NeverBegan,
    /// The run is `failed`, and it is known why.
    SpawnFailed,
    /// It goes on.
    Running,
    /// It is paused.
    Paused,
    /// It is being stopped, which can be hastened, and ends as `stopped`.
    Stopping,
    /// It ended with the status it had, and what it used is known, or is not.
    Ended { is_usage_known: bool },
    /// Nobody can know how it ended.
    Lost,
    /// Whatever had got into the journal: nothing is [`NeverBegan`], a header is [`Lost`].
    ByJournal,
}

/// A point's case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) scene: Scene,
    /// Where the other process goes on.
    pub(crate) alone: Outcome,
    /// Where the other process is killed right after that.
    pub(crate) both: Outcome,
    /// What the client is answered that asked for what led there, where the server lives.
    pub(crate) answer: Option<u16>,
}

/// The server dies there, so nobody is answered.
const fn server(scene: Scene, alone: Outcome, both: Outcome) -> Plan {
    Plan { scene, alone, both, answer: None }
}

/// The shim dies there. A server that dies too changes nothing about what is known.
const fn shim(scene: Scene, outcome: Outcome, answer: u16) -> Plan {
    Plan { scene, alone: outcome, both: outcome, answer: Some(answer) }
}

/// The same, where nobody has asked for anything.
const fn unasked(scene: Scene, outcome: Outcome) -> Plan {
    Plan { scene, alone: outcome, both: outcome, answer: None }
}

/// What the client of a start is told of a run that has failed.
const FAILED: u16 = 422;
/// What the client of a pause or resume is told of a run that has ended.
const REFUSED: u16 = 409;
const DONE: u16 = 200;

const ENDED: Outcome = Ended { is_usage_known: true };
const ENDED_SHORT: Outcome = Ended { is_usage_known: false };

/// Written out, so that a new point does not compile without its case.
pub(crate) const fn plan(point: KillPoint) -> Plan {
    use KillPoint as P;
    use Scene as S;
    match point {
        P::ServerDirectoryOwned | P::ServerSocketBound => server(S::BootOnRun, Paused, Lost),
        P::ServerDatabaseOwnerCleared => server(S::MovedDatabase, Nothing, Nothing),
        P::ServerDatabaseMade | P::ServerDatabaseMigrated | P::ServerGitIgnoreBeside => server(S::FirstBoot, Nothing, Nothing),
        P::ServerDatabaseOpened | P::ServerJournalRecorded | P::ServerRunAdopted => server(S::BootOnRun, Paused, Lost),
        P::ServerLeftoversKilled | P::ServerLeftoversCgroupRemoved | P::ServerLeftoversRemoved | P::ServerLostCommitted => {
            server(S::ShimKilled, Lost, Lost)
        }
        P::ServerNeverBeganCommitted => server(S::BootOnNothing, NeverBegan, NeverBegan),
        P::ServerRunIdsReserved | P::ServerUnknownRunCommitted => server(S::BootWithoutDatabase, Running, Lost),
        P::ServerSecretBeside | P::ServerSecretKept => server(S::FirstBootBehindATokenDoor, Nothing, Nothing),
        P::ServerRecovered | P::ServerInfoBeside | P::ServerInfoWritten => server(S::BootOnRun, Paused, Lost),
        P::ServerSupervisorEnded | P::ServerInfoRemoved => server(S::Terminate, Running, Lost),

        P::ServerSegmentPacked | P::ServerSegmentNamed => server(S::BootOnMuch, Running, Lost),
        P::ServerRunDirRemoved | P::ServerRunForgotten => server(S::BootOnMuch, Running, Lost),

        P::ServerStartingCommitted | P::ServerRunDirUnlocked => server(S::Start, NeverBegan, NeverBegan),
        P::ServerRunDirMade | P::ServerStartKept | P::ServerShimSpawned => server(S::Start, NeverBegan, NeverBegan),
        P::ServerLaunchSent => server(S::Start, Running, Outcome::ByJournal),
        P::ServerSpawnedHeard | P::ServerSpawnedCommitted => server(S::Start, Running, Lost),
        P::ServerSpawnFailedHeard | P::ServerSpawnFailedCommitted => server(S::StartUnrunnable, SpawnFailed, SpawnFailed),
        P::ServerKeyCommitted => server(S::Pause, Running, Lost),
        P::ServerAnswerHeard | P::ServerAnswerCommitted => server(S::Pause, Paused, Lost),
        P::ServerPauseSent | P::ServerPendingCounted => server(S::Pause, Paused, Lost),
        P::ServerPausedHeard | P::ServerPausedCommitted => server(S::Pause, Paused, Lost),
        P::ServerResumeSent | P::ServerResumedHeard | P::ServerResumedCommitted => server(S::Resume, Running, Lost),
        P::ServerStopSent | P::ServerStoppingHeard | P::ServerStoppingCommitted => server(S::Stop, Stopping, Lost),
        P::ServerExitedHeard | P::ServerExitedCommitted => server(S::End, ENDED, ENDED),

        P::ServerLogInHeard | P::ServerLogInCommitted => server(S::LogIn, Nothing, Nothing),
        P::ServerLogOutHeard | P::ServerLogOutCommitted => server(S::LogOut, Nothing, Nothing),
        P::ServerEndAllHeard | P::ServerEndAllCommitted => server(S::EndAll, Nothing, Nothing),
        P::ServerRenewalHeard | P::ServerRenewalCommitted => server(S::Renewal, Nothing, Nothing),

        P::ShimBorn | P::ShimSpecRead | P::ShimCgroupMade | P::ShimSocketBound | P::ShimLogBegun => {
            shim(S::Start, NeverBegan, FAILED)
        }
        P::ShimHeaderWritten | P::ShimOldPauseFileRemoved => shim(S::Start, Lost, FAILED),
        P::ShimLeaderForked | P::ShimLeaderSpawned => shim(S::Start, Lost, FAILED),
        // What the journal holds counts, whether it was said or not: it did begin.
        P::ShimSpawnedWritten | P::ShimSpawnedSent | P::ShimNamesSynced => shim(S::Start, Lost, DONE),
        P::ShimSpawnFailedWritten | P::ShimSpawnFailedSent => shim(S::StartUnrunnable, SpawnFailed, FAILED),

        P::ShimJournalMoved => unasked(S::DirectoryReplaced, Lost),
        P::ShimSegmentBegun | P::ShimSegmentRemoved => unasked(S::Talk, Lost),

        P::ShimStopsSent | P::ShimAllStopped | P::ShimPauseFileMade => shim(S::Pause, Lost, REFUSED),
        P::ShimPausedWritten | P::ShimPausedSent => shim(S::Pause, Lost, DONE),
        P::ShimPauseFileRemoved | P::ShimContinuesSent | P::ShimAllContinued => shim(S::Resume, Lost, REFUSED),
        P::ShimResumedWritten | P::ShimResumedSent => shim(S::Resume, Lost, DONE),

        // Who asked for the end gets it, though not as it was meant.
        P::ShimStopPauseFileRemoved | P::ShimTermsSent | P::ShimInGrace => shim(S::StopPaused, Lost, DONE),
        P::ShimStoppingWritten | P::ShimStoppingSent => shim(S::Stop, Lost, DONE),
        P::ShimKillsSent => shim(S::StopNow, Lost, DONE),
        P::ShimLeaderEnded | P::ShimTreeEnded | P::ShimDrained | P::ShimProgressStored => unasked(S::End, Lost),
        P::ShimEndPauseFileRemoved | P::ShimCgroupRemoved => unasked(S::EndPaused, Lost),
        P::ShimExitedWritten | P::ShimReaped => unasked(S::End, ENDED_SHORT),
        P::ShimUsageWritten | P::ShimEndSent => unasked(S::End, ENDED),
    }
}
