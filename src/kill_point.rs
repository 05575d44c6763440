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
    ($($(#[doc = $doc:literal])? $point:ident = $name:literal,)+) => {
        /// A place between two durable steps, named after the process that is killed there and the step before it. The last word says how
        /// far that step has come:
        ///
        /// - `Beside`: a file is written beside its place.
        /// - `Heard`: a fact of the shim's, or a client's wish about a session, has reached the server and is not committed. `Committed`:
        ///   it is, and nobody is told.
        /// - `Written`, in the shim: a fact is in the journal and nobody is told. `Sent`: the other process is told.
        ///
        /// `docs/crash-matrix.md` says what each of them leaves, and what the next boot makes of it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the names follow the rule above, and each has a row in docs/crash-matrix.md")]
        pub enum KillPoint {
            $($(#[doc = $doc])? $point,)+
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
    ServerDirectoryOwned = "server.directory_owned",
    /// The file beside a database that lies elsewhere is empty: its new owner is not written yet.
    ServerDatabaseOwnerCleared = "server.database_owner_cleared",
    ServerSocketBound = "server.socket_bound",
    ServerDatabaseMade = "server.database_made",
    ServerDatabaseMigrated = "server.database_migrated",
    ServerDatabaseOpened = "server.database_opened",
    /// What a journal holds of a live run is recorded, no shim is connected.
    ServerJournalRecorded = "server.journal_recorded",
    /// A live run's shim is asked for its facts.
    ServerRunAdopted = "server.run_adopted",
    /// What carried a lost run's cookie is dead; the `PAUSE` file may be there.
    ServerLeftoversKilled = "server.leftovers_killed",
    ServerLeftoversCgroupRemoved = "server.leftovers_cgroup_removed",
    ServerLeftoversRemoved = "server.leftovers_removed",
    ServerLostCommitted = "server.lost_committed",
    /// A run that never began is `failed`, nobody is told.
    ServerNeverBeganCommitted = "server.never_began_committed",
    /// The ids of run directories that the database does not know are taken.
    ServerRunIdsReserved = "server.run_ids_reserved",
    /// A run that the database did not know is in it as `starting`.
    ServerUnknownRunCommitted = "server.unknown_run_committed",
    ServerGitIgnoreBeside = "server.git_ignore_beside",
    ServerSecretBeside = "server.secret_beside",
    ServerSecretKept = "server.secret_kept",
    /// All is recovered, `server.json` is not written.
    ServerRecovered = "server.recovered",
    ServerInfoBeside = "server.info_beside",
    /// `server.json` is written, or could not be; the address is not said.
    ServerInfoWritten = "server.info_written",
    ServerSupervisorEnded = "server.supervisor_ended",
    ServerInfoRemoved = "server.info_removed",

    ServerStartingCommitted = "server.starting_committed",
    ServerRunDirUnlocked = "server.run_dir_unlocked",
    ServerRunDirMade = "server.run_dir_made",
    /// The values of the start's variables are kept, if they are to be.
    ServerStartKept = "server.start_kept",
    ServerShimSpawned = "server.shim_spawned",
    ServerLaunchSent = "server.launch_sent",
    ServerSpawnedHeard = "server.spawned_heard",
    ServerSpawnedCommitted = "server.spawned_committed",
    ServerSpawnFailedHeard = "server.spawn_failed_heard",
    ServerSpawnFailedCommitted = "server.spawn_failed_committed",
    /// A pause, a resume or a stop is begun under a key; its command is not sent.
    ServerKeyCommitted = "server.key_committed",
    ServerPauseSent = "server.pause_sent",
    /// The version counts that something is under way.
    ServerPendingCounted = "server.pending_counted",
    ServerPausedHeard = "server.paused_heard",
    ServerPausedCommitted = "server.paused_committed",
    ServerResumeSent = "server.resume_sent",
    ServerResumedHeard = "server.resumed_heard",
    ServerResumedCommitted = "server.resumed_committed",
    ServerStopSent = "server.stop_sent",
    ServerStoppingHeard = "server.stopping_heard",
    ServerStoppingCommitted = "server.stopping_committed",
    ServerExitedHeard = "server.exited_heard",
    ServerExitedCommitted = "server.exited_committed",

    /// The answer to a request with a key is known and not kept.
    ServerAnswerHeard = "server.answer_heard",
    ServerAnswerCommitted = "server.answer_committed",

    ServerLogInHeard = "server.log_in_heard",
    ServerLogInCommitted = "server.log_in_committed",
    ServerLogOutHeard = "server.log_out_heard",
    ServerLogOutCommitted = "server.log_out_committed",
    ServerEndAllHeard = "server.end_all_heard",
    ServerEndAllCommitted = "server.end_all_committed",
    ServerRenewalHeard = "server.renewal_heard",
    ServerRenewalCommitted = "server.renewal_committed",

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
    ShimSpecRead = "shim.spec_read",
    ShimCgroupMade = "shim.cgroup_made",
    ShimSocketBound = "shim.socket_bound",
    ShimLogBegun = "shim.log_begun",
    /// The journal has its header.
    ShimHeaderWritten = "shim.header_written",
    ShimOldPauseFileRemoved = "shim.old_pause_file_removed",
    /// The leader is a child that has not executed the script yet.
    ShimLeaderForked = "shim.leader_forked",
    /// The leader lives, the journal does not tell of it.
    ShimLeaderSpawned = "shim.leader_spawned",
    ShimSpawnedWritten = "shim.spawned_written",
    ShimSpawnedSent = "shim.spawned_sent",
    ShimSpawnFailedWritten = "shim.spawn_failed_written",
    ShimSpawnFailedSent = "shim.spawn_failed_sent",
    /// The names of the run's files are on the disk.
    ShimNamesSynced = "shim.names_synced",

    /// A new log segment is begun, and empty.
    ShimSegmentBegun = "shim.segment_begun",
    ShimSegmentRemoved = "shim.segment_removed",

    /// A look has told the tree to stop; not all of it is seen stopped.
    ShimStopsSent = "shim.stops_sent",
    /// All of the tree is stopped, without a `PAUSE` file.
    ShimAllStopped = "shim.all_stopped",
    ShimPauseFileMade = "shim.pause_file_made",
    ShimPausedWritten = "shim.paused_written",
    ShimPausedSent = "shim.paused_sent",
    ShimPauseFileRemoved = "shim.pause_file_removed",
    /// A look has told the tree to go on.
    ShimContinuesSent = "shim.continues_sent",
    ShimAllContinued = "shim.all_continued",
    ShimResumedWritten = "shim.resumed_written",
    ShimResumedSent = "shim.resumed_sent",

    /// A paused run is to be stopped: its `PAUSE` file is gone, nothing else is done.
    ShimStopPauseFileRemoved = "shim.stop_pause_file_removed",
    ShimStoppingWritten = "shim.stopping_written",
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
    ShimEndPauseFileRemoved = "shim.end_pause_file_removed",
    ShimCgroupRemoved = "shim.cgroup_removed",
    ShimExitedWritten = "shim.exited_written",
    ShimReaped = "shim.reaped",
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
