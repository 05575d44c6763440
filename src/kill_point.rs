//! The places between two durable steps, each with a name: where a test kills the program, to see what the next boot makes of it.
//!
//! Level 0. [`KillPoint::reach`] stands in the code right after the step that gives the point its name. It is nothing at all without the
//! cargo feature `faults`, which cannot be built into a release. `docs/crash-matrix.md` has a row for each point and `tests/kill_points/`
//! a case; tests hold the three together.

#[cfg(all(feature = "faults", not(debug_assertions)))]
compile_error!("the feature `faults` makes a program that kills itself: it is for tests alone, never for a release");

#[cfg(feature = "faults")]
use rustix::process::{getpid, getppid};

macro_rules! kill_points {
    ($(#[doc = $doc:literal] $point:ident = $name:literal,)+) => {
        /// A place between two durable steps, named after the one before it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum KillPoint {
            $(#[doc = $doc] $point,)+
        }

        impl KillPoint {
            /// Every point, in the order in which they stand here.
            pub const ALL: &[Self] = &[$(Self::$point,)+];

            /// The name by which the tests and the crash matrix call it; its first word says which process dies there.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)+
                }
            }
        }
    };
}

kill_points! {
    /// The runtime directory is locked.
    ServerDirectoryOwned = "server.directory_owned",
    /// The file beside a database that lies elsewhere is empty: its new owner is not written yet.
    ServerDatabaseOwnerCleared = "server.database_owner_cleared",
    /// The Unix socket is there, nobody answers at it.
    ServerSocketBound = "server.socket_bound",
    /// The database's file is made, and empty.
    ServerDatabaseMade = "server.database_made",
    /// The database's schema is up to date.
    ServerDatabaseMigrated = "server.database_migrated",
    /// The database is open, nothing is recovered.
    ServerDatabaseOpened = "server.database_opened",
    /// What a journal holds of a live run is recorded, no shim is connected.
    ServerJournalRecorded = "server.journal_recorded",
    /// A live run's shim is asked for its facts.
    ServerRunAdopted = "server.run_adopted",
    /// What carried a lost run's cookie is dead; the `PAUSE` file may be there.
    ServerLeftoversKilled = "server.leftovers_killed",
    /// A lost run's control group is gone too; the `PAUSE` file may be there.
    ServerLeftoversCgroupRemoved = "server.leftovers_cgroup_removed",
    /// A lost run's `PAUSE` file is gone too, its end is not committed.
    ServerLeftoversRemoved = "server.leftovers_removed",
    /// A run is `lost`, nobody is told.
    ServerLostCommitted = "server.lost_committed",
    /// A run that never began is `failed`, nobody is told.
    ServerNeverBeganCommitted = "server.never_began_committed",
    /// The ids of run directories that the database does not know are taken.
    ServerRunIdsReserved = "server.run_ids_reserved",
    /// A run that the database did not know is in it as `starting`.
    ServerUnknownRunCommitted = "server.unknown_run_committed",
    /// `.gitignore` is written under a temporary name.
    ServerGitIgnoreBeside = "server.git_ignore_beside",
    /// A token or the session key is made and written beside its place.
    ServerSecretBeside = "server.secret_beside",
    /// It is in its place.
    ServerSecretKept = "server.secret_kept",
    /// All is recovered, `server.json` is not written.
    ServerRecovered = "server.recovered",
    /// What becomes `server.json` is written beside it.
    ServerInfoBeside = "server.info_beside",
    /// `server.json` is written, the address not said.
    ServerInfoWritten = "server.info_written",
    /// Told to end: the supervisor has ended, `server.json` is there.
    ServerSupervisorEnded = "server.supervisor_ended",
    /// Told to end: `server.json` is gone.
    ServerInfoRemoved = "server.info_removed",

    /// A run is committed as `starting`.
    ServerStartingCommitted = "server.starting_committed",
    /// Its directory is made, without a lock.
    ServerRunDirUnlocked = "server.run_dir_unlocked",
    /// Its directory is made and locked.
    ServerRunDirMade = "server.run_dir_made",
    /// Its shim is spawned and has been told nothing.
    ServerShimSpawned = "server.shim_spawned",
    /// The shim was told what to run.
    ServerLaunchSent = "server.launch_sent",
    /// The fact `spawned` is here, not committed.
    ServerSpawnedHeard = "server.spawned_heard",
    /// The run is committed as `running`, nobody is told.
    ServerSpawnedCommitted = "server.spawned_committed",
    /// The fact `spawn_failed` is here, not committed.
    ServerSpawnFailedHeard = "server.spawn_failed_heard",
    /// The run is committed as `failed`, nobody is told.
    ServerSpawnFailedCommitted = "server.spawn_failed_committed",
    /// The shim was told to pause.
    ServerPauseSent = "server.pause_sent",
    /// The version counts that something is under way.
    ServerPendingCounted = "server.pending_counted",
    /// The fact `paused` is here, not committed.
    ServerPausedHeard = "server.paused_heard",
    /// The run is committed as `paused`, nobody is told.
    ServerPausedCommitted = "server.paused_committed",
    /// The shim was told to resume.
    ServerResumeSent = "server.resume_sent",
    /// The fact `resumed` is here, not committed.
    ServerResumedHeard = "server.resumed_heard",
    /// The run is committed as `running` again, nobody is told.
    ServerResumedCommitted = "server.resumed_committed",
    /// The shim was told to stop.
    ServerStopSent = "server.stop_sent",
    /// The fact `stopping` is here, not committed.
    ServerStoppingHeard = "server.stopping_heard",
    /// The fact `stopping` is committed, nobody is told.
    ServerStoppingCommitted = "server.stopping_committed",
    /// The fact `exited` is here, not committed.
    ServerExitedHeard = "server.exited_heard",
    /// The run's end is committed, nobody is told.
    ServerExitedCommitted = "server.exited_committed",

    /// A finished log segment is packed, under a name that no reader knows.
    ServerSegmentPacked = "server.segment_packed",
    /// It has its name; the plain one is there still.
    ServerSegmentNamed = "server.segment_named",
    /// A run that is kept no longer has lost its directory, its row is there.
    ServerRunDirRemoved = "server.run_dir_removed",
    /// Its row is gone, too.
    ServerRunForgotten = "server.run_forgotten",

    /// It has begun, and has read nothing.
    ShimBorn = "shim.born",
    /// It knows what to run.
    ShimSpecRead = "shim.spec_read",
    /// The run's control group is made, where one can be had; no journal tells of it.
    ShimCgroupMade = "shim.cgroup_made",
    /// The control socket is there.
    ShimSocketBound = "shim.socket_bound",
    /// The log is begun.
    ShimLogBegun = "shim.log_begun",
    /// The journal has its header.
    ShimHeaderWritten = "shim.header_written",
    /// A `PAUSE` file that was left over is gone.
    ShimOldPauseFileRemoved = "shim.old_pause_file_removed",
    /// The leader is a child that has not executed the script yet.
    ShimLeaderForked = "shim.leader_forked",
    /// The leader lives, the journal does not tell of it.
    ShimLeaderSpawned = "shim.leader_spawned",
    /// `spawned` is in the journal, nobody is told.
    ShimSpawnedWritten = "shim.spawned_written",
    /// The server is told of `spawned`.
    ShimSpawnedSent = "shim.spawned_sent",
    /// `spawn_failed` is in the journal, nobody is told.
    ShimSpawnFailedWritten = "shim.spawn_failed_written",
    /// The server is told of `spawn_failed`.
    ShimSpawnFailedSent = "shim.spawn_failed_sent",
    /// The names of the run's files are on the disk.
    ShimNamesSynced = "shim.names_synced",

    /// A new log segment is begun, and empty.
    ShimSegmentBegun = "shim.segment_begun",
    /// The oldest log segment is gone.
    ShimSegmentRemoved = "shim.segment_removed",

    /// A look has told the tree to stop; not all of it is seen stopped.
    ShimStopsSent = "shim.stops_sent",
    /// All of the tree is stopped, without a `PAUSE` file.
    ShimAllStopped = "shim.all_stopped",
    /// The `PAUSE` file is there, the fact is not.
    ShimPauseFileMade = "shim.pause_file_made",
    /// `paused` is in the journal, nobody is told.
    ShimPausedWritten = "shim.paused_written",
    /// The server is told of `paused`.
    ShimPausedSent = "shim.paused_sent",
    /// The `PAUSE` file is gone, all of the tree is stopped.
    ShimPauseFileRemoved = "shim.pause_file_removed",
    /// A look has told the tree to go on.
    ShimContinuesSent = "shim.continues_sent",
    /// All of the tree goes on, the fact is not there.
    ShimAllContinued = "shim.all_continued",
    /// `resumed` is in the journal, nobody is told.
    ShimResumedWritten = "shim.resumed_written",
    /// The server is told of `resumed`.
    ShimResumedSent = "shim.resumed_sent",

    /// A paused run is to be stopped: its `PAUSE` file is gone, nothing else is done.
    ShimStopPauseFileRemoved = "shim.stop_pause_file_removed",
    /// `stopping` is in the journal, nobody is told.
    ShimStoppingWritten = "shim.stopping_written",
    /// The server is told of `stopping`, the tree is not.
    ShimStoppingSent = "shim.stopping_sent",
    /// The tree was sent TERM.
    ShimTermsSent = "shim.terms_sent",
    /// Something woke it in the middle of the grace.
    ShimInGrace = "shim.in_grace",
    /// A look has sent KILL to what is left.
    ShimKillsSent = "shim.kills_sent",
    /// The leader's end is seen, its exit status known to nobody else.
    ShimLeaderEnded = "shim.leader_ended",
    /// Nothing of the tree is alive, output may be in the pipes.
    ShimTreeEnded = "shim.tree_ended",
    /// All output is in the log, which is closed.
    ShimDrained = "shim.drained",
    /// How far the pipeline came is stored, and said to the servers.
    ShimProgressStored = "shim.progress_stored",
    /// The `PAUSE` file is gone, `exited` is not there.
    ShimEndPauseFileRemoved = "shim.end_pause_file_removed",
    /// The run's control group is gone, the end is not in the journal.
    ShimCgroupRemoved = "shim.cgroup_removed",
    /// `exited` is in the journal, the leader is not reaped.
    ShimExitedWritten = "shim.exited_written",
    /// The leader is reaped, `usage` is not there.
    ShimReaped = "shim.reaped",
    /// `usage` is in the journal, nobody is told of the end.
    ShimUsageWritten = "shim.usage_written",
    /// The server is told of the end; the lock is held.
    ShimEndSent = "shim.end_sent",

    /// The shim has entered a copy of its removed directory; the journal there is complete and the log is not.
    ShimJournalMoved = "shim.journal_moved",
}

impl KillPoint {
    /// The program is here. Without the feature `faults` this is nothing.
    #[cfg(not(feature = "faults"))]
    #[inline]
    pub const fn reach(self) {}

    /// The program is here: it is killed where `AUTOAPPDEV_KILL_AT` holds this point's name, as by `kill -9`.
    ///
    /// The file that `AUTOAPPDEV_KILL_MARK` names is made before that, with the process id in it; where it is there already, nobody
    /// is killed. So a server's variables, which each of its shims inherits, kill once.
    #[cfg(feature = "faults")]
    pub fn reach(self) {
        if self.is_wanted() && armed::kill(getpid()) {
            // With more than one thread the kill can take effect after the call returns; nothing more may be done here.
            loop {
                std::thread::park();
            }
        }
    }

    /// The program is here, in a child that has not executed anything yet: its parent is killed, and the child goes on a while later.
    #[cfg(not(feature = "faults"))]
    #[inline]
    pub const fn reach_as_child(self) {}

    /// The program is here, in a child that has not executed anything yet: its parent is killed, and the child goes on a while later.
    #[cfg(feature = "faults")]
    pub fn reach_as_child(self) {
        if let (true, Some(parent)) = (self.is_wanted(), getppid()) {
            armed::kill(parent);
            // Whoever takes the parent's death for the end of everything has the time to do so.
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
    }

    #[cfg(feature = "faults")]
    fn is_wanted(self) -> bool {
        std::env::var_os("AUTOAPPDEV_KILL_AT").is_some_and(|point| point == self.name())
    }
}

#[cfg(feature = "faults")]
mod armed {
    use std::fs::OpenOptions;
    use std::io::Write;

    use rustix::process::{Pid, Signal, kill_process};

    /// Whether the process was killed: where the mark is there already, another one was.
    pub(super) fn kill(pid: Pid) -> bool {
        if let Some(mark) = std::env::var_os("AUTOAPPDEV_KILL_MARK") {
            let Ok(mut mark) = OpenOptions::new().write(true).create_new(true).open(mark) else { return false };
            writeln!(mark, "{pid}").expect("a test's folder takes some bytes");
        }
        kill_process(pid, Signal::KILL).expect("a process may kill itself and its parent");
        true
    }
}
