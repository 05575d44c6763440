//! Each kill point: how to reach it, and what must be true after the next boot.

use autoappdev::kill_point::KillPoint;

use Outcome::{Ended, Lost, NeverBegan, Nothing, Paused, Running, SpawnFailed, Stopping};

/// The way to a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scene {
    /// A server starts in an empty folder.
    FirstBoot,
    /// The same, with a server that must require a token: one token is set, and the other secrets are to be created.
    FirstBootBehindATokenDoor,
    /// A server with a database that belonged to a server with another runtime directory.
    MovedDatabase,
    /// A server boots. A run is live, and was paused while no server was running.
    BootOnRun,
    /// A server boots. A run was committed and never began.
    BootOnNothing,
    /// A server that keeps one run boots. There are two other runs, and a live one with much output.
    BootOnMuch,
    /// A server boots without its database. A run is live.
    BootWithoutDatabase,
    /// A server boots on a copy of the runtime directory, which was removed. A run is live.
    DirectoryReplaced,
    /// A server with a live run is sent SIGTERM.
    Terminate,
    /// The shim of a paused run is killed by another process.
    ShimKilled,
    /// A start.
    Start,
    /// A start of a file that cannot be executed.
    StartUnrunnable,
    /// More output than a log keeps.
    Talk,
    /// A pause of a running run.
    Pause,
    /// A resume.
    Resume,
    /// A stop with an endless grace.
    Stop,
    /// The same for a paused run.
    StopPaused,
    /// A stop without a grace.
    StopNow,
    /// The leader ends by itself and leaves other processes behind.
    End,
    /// The leader of a paused run is killed by another process.
    EndPaused,
    /// A login, while other clients are logged in.
    LogIn,
    /// The end of one of the sessions, by its own client.
    LogOut,
    /// The end of all sessions.
    EndAll,
    /// A renewal of one of the sessions.
    Renewal,
}

/// The state that must be true after the next boot or, if the shim has died, the state that the server finds out by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There is no run, and none was being started.
    Nothing,
    /// The run is `failed`, because it never began.
    NeverBegan,
    /// The run is `failed`, and the reason is known.
    SpawnFailed,
    /// The run continues.
    Running,
    /// The run is paused.
    Paused,
    /// The run is being stopped, which can be speeded up, and ends as `stopped`.
    Stopping,
    /// The run ended with its real status. Whether its usage is known depends on the point.
    Ended { is_usage_known: bool },
    /// It cannot be known how the run ended.
    Lost,
    /// Depends on what is in the journal: [`NeverBegan`] if it is empty, [`Lost`] if it has a header.
    ByJournal,
}

/// The case of a point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) scene: Scene,
    /// If the other process continues.
    pub(crate) alone: Outcome,
    /// If the other process is killed right afterwards.
    pub(crate) both: Outcome,
    /// The status of the response to the request that led to the point, if the server lives.
    pub(crate) answer: Option<u16>,
}

/// The server dies at the point, so no request gets a response.
const fn server(scene: Scene, alone: Outcome, both: Outcome) -> Plan {
    Plan { scene, alone, both, answer: None }
}

/// The shim dies at the point. If the server dies too, that does not change what is known.
const fn shim(scene: Scene, outcome: Outcome, answer: u16) -> Plan {
    Plan { scene, alone: outcome, both: outcome, answer: Some(answer) }
}

/// Like [`shim`], without a request.
const fn unasked(scene: Scene, outcome: Outcome) -> Plan {
    Plan { scene, alone: outcome, both: outcome, answer: None }
}

/// The status of a start whose run has failed.
const FAILED: u16 = 422;
/// The status of a pause or resume of a run that has ended.
const REFUSED: u16 = 409;
const DONE: u16 = 200;

const ENDED: Outcome = Ended { is_usage_known: true };
const ENDED_SHORT: Outcome = Ended { is_usage_known: false };

/// Returns the plan of a point. It lists all points, so that a new one does not compile without a case.
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
        // The content of the journal counts, whether it was sent or not: the run did begin.
        P::ShimSpawnedWritten | P::ShimSpawnedSent | P::ShimNamesSynced => shim(S::Start, Lost, DONE),
        P::ShimSpawnFailedWritten | P::ShimSpawnFailedSent => shim(S::StartUnrunnable, SpawnFailed, FAILED),

        P::ShimJournalMoved => unasked(S::DirectoryReplaced, Lost),
        P::ShimSegmentBegun | P::ShimSegmentRemoved => unasked(S::Talk, Lost),

        P::ShimStopsSent | P::ShimAllStopped | P::ShimPauseFileMade => shim(S::Pause, Lost, REFUSED),
        P::ShimPausedWritten | P::ShimPausedSent => shim(S::Pause, Lost, DONE),
        P::ShimPauseFileRemoved | P::ShimContinuesSent | P::ShimAllContinued => shim(S::Resume, Lost, REFUSED),
        P::ShimResumedWritten | P::ShimResumedSent => shim(S::Resume, Lost, DONE),

        // The client that requested the end gets it, though not in the intended way.
        P::ShimStopPauseFileRemoved | P::ShimTermsSent | P::ShimInGrace => shim(S::StopPaused, Lost, DONE),
        P::ShimStoppingWritten | P::ShimStoppingSent => shim(S::Stop, Lost, DONE),
        P::ShimKillsSent => shim(S::StopNow, Lost, DONE),
        P::ShimLeaderEnded | P::ShimTreeEnded | P::ShimDrained | P::ShimProgressStored => unasked(S::End, Lost),
        P::ShimEndPauseFileRemoved | P::ShimCgroupRemoved => unasked(S::EndPaused, Lost),
        P::ShimExitedWritten | P::ShimReaped => unasked(S::End, ENDED_SHORT),
        P::ShimUsageWritten | P::ShimEndSent => unasked(S::End, ENDED),
    }
}
