//! Kill points: the named places between two durable steps. A test kills the program at one of them, to see what the next boot
//! makes of it.
//!
//! Level 0. The call of [`KillPoint::reach`] follows the step that gives the point its name. Without the cargo feature `faults`,
//! which cannot be built into a release, it compiles to nothing. Each point has a row in `docs/crash-matrix.md` and a case in
//! `tests/kill_points/`; tests keep the three consistent.

#[cfg(all(feature = "faults", not(debug_assertions)))]
compile_error!("the feature `faults` makes a program that kills itself: it is for tests only, never for a release");

#[cfg(feature = "faults")]
use rustix::process::{getpid, getppid};

macro_rules! kill_points {
    ($($(#[doc = $doc:literal])? $point:ident = $name:literal,)+) => {
        /// A place between two durable steps, named after the process that is killed there and the step before it. The last word
        /// says how far that step has come:
        ///
        /// - `Beside`: a file is written under a temporary name beside its place.
        /// - `Heard`: a fact from the shim, or a client's request about a session, has reached the server and is not committed.
        ///   `Committed`: it is committed, and no client is notified.
        /// - `Written`, in the shim: a fact is in the journal, and no server is notified. `Sent`: the other process is notified.
        ///
        /// `docs/crash-matrix.md` says what each of them leaves behind, and what the next boot makes of it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the names follow the rule above, and each has a row in docs/crash-matrix.md")]
        pub enum KillPoint {
            $($(#[doc = $doc])? $point,)+
        }

        impl KillPoint {
            /// Every point, in order of declaration.
            pub const ALL: &[Self] = &[$(Self::$point,)+];

            /// Returns the name that the tests and the crash matrix use. Its first word says which process is killed there.
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
    /// The owner file of a database outside the runtime directory is empty: its new owner is not written yet.
    ServerDatabaseOwnerCleared = "server.database_owner_cleared",
    ServerSocketBound = "server.socket_bound",
    ServerDatabaseMade = "server.database_made",
    ServerDatabaseMigrated = "server.database_migrated",
    ServerDatabaseOpened = "server.database_opened",
    /// The facts in a live run's journal are recorded, and no shim is connected.
    ServerJournalRecorded = "server.journal_recorded",
    /// A live run's shim has been asked for its facts.
    ServerRunAdopted = "server.run_adopted",
    /// The processes with a lost run's cookie are dead; the `PAUSE` file may exist.
    ServerLeftoversKilled = "server.leftovers_killed",
    ServerLeftoversCgroupRemoved = "server.leftovers_cgroup_removed",
    ServerLeftoversRemoved = "server.leftovers_removed",
    ServerLostCommitted = "server.lost_committed",
    /// A run that never began is `failed`, and no client is notified.
    ServerNeverBeganCommitted = "server.never_began_committed",
    /// The ids of run directories that the database does not know are reserved.
    ServerRunIdsReserved = "server.run_ids_reserved",
    /// A run that the database did not know is in it as `starting`.
    ServerUnknownRunCommitted = "server.unknown_run_committed",
    ServerGitIgnoreBeside = "server.git_ignore_beside",
    ServerSecretBeside = "server.secret_beside",
    ServerSecretKept = "server.secret_kept",
    /// Everything is recovered, and `server.json` is not written.
    ServerRecovered = "server.recovered",
    ServerInfoBeside = "server.info_beside",
    /// `server.json` is written, or could not be; the address is not printed.
    ServerInfoWritten = "server.info_written",
    ServerSupervisorEnded = "server.supervisor_ended",
    ServerInfoRemoved = "server.info_removed",

    ServerStartingCommitted = "server.starting_committed",
    ServerRunDirUnlocked = "server.run_dir_unlocked",
    ServerRunDirMade = "server.run_dir_made",
    /// The values of the start's variables are kept, if the user chose that.
    ServerStartKept = "server.start_kept",
    ServerShimSpawned = "server.shim_spawned",
    ServerLaunchSent = "server.launch_sent",
    ServerSpawnedHeard = "server.spawned_heard",
    ServerSpawnedCommitted = "server.spawned_committed",
    ServerSpawnFailedHeard = "server.spawn_failed_heard",
    ServerSpawnFailedCommitted = "server.spawn_failed_committed",
    /// The key of a pause, a resume or a stop is committed, and its command is not sent.
    ServerKeyCommitted = "server.key_committed",
    ServerPauseSent = "server.pause_sent",
    /// The version counts that an action is under way.
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

    /// A finished log segment is packed, under a name that readers ignore.
    ServerSegmentPacked = "server.segment_packed",
    /// The packed segment has its name; the plain one still exists.
    ServerSegmentNamed = "server.segment_named",
    /// The directory of a run that is no longer kept is removed, and its row still exists.
    ServerRunDirRemoved = "server.run_dir_removed",
    /// The run's row is removed, too.
    ServerRunForgotten = "server.run_forgotten",

    /// The shim has begun, and has read nothing.
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
    /// The leader is alive, and the journal does not mention it.
    ShimLeaderSpawned = "shim.leader_spawned",
    ShimSpawnedWritten = "shim.spawned_written",
    ShimSpawnedSent = "shim.spawned_sent",
    ShimSpawnFailedWritten = "shim.spawn_failed_written",
    ShimSpawnFailedSent = "shim.spawn_failed_sent",
    /// The names of the run's files are on disk.
    ShimNamesSynced = "shim.names_synced",

    /// A new log segment is begun, and is empty.
    ShimSegmentBegun = "shim.segment_begun",
    ShimSegmentRemoved = "shim.segment_removed",

    /// A scan has sent STOP to the tree; not all of its processes are seen stopped.
    ShimStopsSent = "shim.stops_sent",
    /// The whole tree is stopped, and there is no `PAUSE` file.
    ShimAllStopped = "shim.all_stopped",
    ShimPauseFileMade = "shim.pause_file_made",
    ShimPausedWritten = "shim.paused_written",
    ShimPausedSent = "shim.paused_sent",
    ShimPauseFileRemoved = "shim.pause_file_removed",
    /// A scan has sent CONT to the tree.
    ShimContinuesSent = "shim.continues_sent",
    ShimAllContinued = "shim.all_continued",
    ShimResumedWritten = "shim.resumed_written",
    ShimResumedSent = "shim.resumed_sent",

    /// A stop of a paused run has removed its `PAUSE` file and done nothing else.
    ShimStopPauseFileRemoved = "shim.stop_pause_file_removed",
    ShimStoppingWritten = "shim.stopping_written",
    ShimStoppingSent = "shim.stopping_sent",
    /// The tree was sent TERM.
    ShimTermsSent = "shim.terms_sent",
    /// An event has woken the shim during the grace.
    ShimInGrace = "shim.in_grace",
    /// A scan has sent KILL to the remaining processes.
    ShimKillsSent = "shim.kills_sent",
    /// The shim has seen the leader's end; no other process knows its exit status.
    ShimLeaderEnded = "shim.leader_ended",
    /// No process of the tree is alive; output may still be in the pipes.
    ShimTreeEnded = "shim.tree_ended",
    /// All output is in the log, which is closed.
    ShimDrained = "shim.drained",
    /// The latest progress is stored, and sent to the servers.
    ShimProgressStored = "shim.progress_stored",
    ShimEndPauseFileRemoved = "shim.end_pause_file_removed",
    ShimCgroupRemoved = "shim.cgroup_removed",
    ShimExitedWritten = "shim.exited_written",
    ShimReaped = "shim.reaped",
    ShimUsageWritten = "shim.usage_written",
    /// The server is notified of the end; the lock is still held.
    ShimEndSent = "shim.end_sent",

    /// The shim has entered a copy of its removed directory; the journal there is complete and the log is not.
    ShimJournalMoved = "shim.journal_moved",
}

impl KillPoint {
    /// Marks the place. Without the feature `faults` it does nothing.
    #[cfg(not(feature = "faults"))]
    #[inline]
    pub const fn reach(self) {}

    /// Marks the place: kills this process, as by `kill -9`, if `AUTOAPPDEV_KILL_AT` contains this point's name.
    ///
    /// Before that, it creates the file that `AUTOAPPDEV_KILL_MARK` names, with the process id in it. If the file exists, no
    /// process is killed. So the variables of a server, which all of its shims inherit, kill only once.
    #[cfg(feature = "faults")]
    pub fn reach(self) {
        if self.is_wanted() && armed::kill(getpid()) {
            // With more than one thread, the kill can take effect after the call returns. Nothing more may be done here.
            loop {
                std::thread::park();
            }
        }
    }

    /// Marks a place in a child that has not executed a program yet. Without the feature `faults` it does nothing.
    #[cfg(not(feature = "faults"))]
    #[inline]
    pub const fn reach_as_child(self) {}

    /// Marks a place in a child that has not executed a program yet: kills its parent, and the child continues a while later.
    #[cfg(feature = "faults")]
    pub fn reach_as_child(self) {
        if let (true, Some(parent)) = (self.is_wanted(), getppid()) {
            armed::kill(parent);
            // Gives programs that take the parent's death for the end of the run the time to act on it.
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

    /// Kills the process and returns true, unless the mark shows that another process was killed already.
    pub(super) fn kill(pid: Pid) -> bool {
        if let Some(mark) = std::env::var_os("AUTOAPPDEV_KILL_MARK") {
            let Ok(mut mark) = OpenOptions::new().write(true).create_new(true).open(mark) else { return false };
            writeln!(mark, "{pid}").expect("a test's folder takes some bytes");
        }
        kill_process(pid, Signal::KILL).expect("a process may kill itself and its parent");
        true
    }
}
