//! The beginning of a run: its control group, its sockets, its log, its journal, and then its leader.
//!
//! If killed here: without the journal's header nothing was spawned, and the run never began. With it the leader may be alive,
//! and a server ends it by its cookie and its control group.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::connections::Connections;
use super::failure::{InStep, ShimError};
use super::output::Output;
use super::pause_file::PauseFile;
use super::phase::{Phase, Restops};
use super::progress::ProgressKeeper;
use super::run::Run;
use super::signals::Signals;
use super::signs::SignBoard;
use super::tree::Tree;
use super::trouble::Troubles;
use super::usage::UsageKeeper;
use crate::abstract_socket;
use crate::clock::{Clock, SystemClock};
use crate::held_dir::HeldDir;
use crate::kill_point::KillPoint;
use crate::log::Limits;
use crate::pipeline::{Containment, Fact};
use crate::private::sync_dir;
use crate::process::{self, Cgroup, Identity, Launch};
use crate::random;
use crate::run_dir::{FORMAT, Header, Journal, LaunchSpec, RunDir, Runs};
use crate::script::{Attempt, decides_what_env_runs};

/// How long after the start its memory is freed: by then the client has its answer, and the pipeline can use the processors.
const TRIM_AFTER: Duration = Duration::from_secs(1);

impl Run {
    /// Spawns the pipeline. An error of the script is a fact and ends the run. An error of the shim ends this process before
    /// anything is spawned.
    pub(super) fn begin(
        dir: RunDir,
        spec: LaunchSpec,
        signals: Signals,
        server: UnixStream,
        early: &[u8],
    ) -> Result<Self, ShimError> {
        let runs = Runs::new(spec.runtime_dir.clone());
        let place = HeldDir::open(&spec.runtime_dir).in_step("open the runtime directory")?;
        // If no group can be created, only signals are used; a run never depends on a group.
        let cgroup =
            spec.uses_cgroups.then(|| runs.cgroup_name(spec.run_id).ok()).flatten().and_then(|name| Cgroup::create(&name));
        KillPoint::ShimCgroupMade.reach();
        // A run does not depend on the second socket either, which is not needed as long as the directory stays where it is.
        let socket = runs.new_socket_name(spec.run_id).and_then(|name| Ok((abstract_socket::bind(&name)?, name))).ok();
        let (second, socket) = socket.unzip();
        let mark = random::id().in_step("generate the run's mark")?;
        let this_process = process::read_stat(std::process::id()).in_step("read this process's start time")?;
        let header = Header {
            format: FORMAT,
            run_id: spec.run_id,
            boot_id: process::boot_id().in_step("read the boot id")?,
            shim_pid: std::process::id(),
            shim_start_ticks: this_process.identity.start_ticks,
            cgroup: cgroup.as_ref().map(|cgroup| cgroup.path().to_owned()),
            socket: socket.clone(),
            mark: Some(mark.clone()),
            runtime_dir: spec.runtime_dir.clone(),
            created_at: spec.created_at,
            script: spec.script.clone(),
            args: spec.args.clone(),
            cwd: spec.cwd.display().to_string(),
            env_names: spec.env.keys().cloned().collect(),
            grace_ms: spec.grace_ms,
            log_start: spec.log_start,
        };
        let listener = dir.listen().in_step("open the control socket")?;
        KillPoint::ShimSocketBound.reach();
        let connections = Connections::new(listener, second, server, early).in_step("set up the server's connection")?;
        let (stdout, stdout_writer) = io::pipe().in_step("open a pipe")?;
        let (stderr, stderr_writer) = io::pipe().in_step("open a pipe")?;
        let limits = Limits { segment_bytes: spec.log_segment_bytes, run_bytes: spec.log_run_bytes };
        let begin = (spec.log_start, spec.created_at);
        let progress = ProgressKeeper::new(dir.progress_path());
        let usage = UsageKeeper::new(dir.usage_path(), Duration::from_millis(spec.usage_ms));
        let output = Output::create(&dir.log_dir(), progress, begin, limits, stdout, stderr).in_step("begin the log")?;
        KillPoint::ShimLogBegun.reach();
        // The header is written before anything is spawned: without a journal, nothing was.
        let journal = Journal::create(&dir.journal_path(), &header).in_step("begin the journal")?;
        KillPoint::ShimHeaderWritten.reach();

        let mut run = Self {
            dir,
            signals,
            connections,
            journal,
            journal_failure: None,
            output,
            pause_file: PauseFile::new(place.path()),
            place,
            socket,
            signs: SignBoard::default(),
            troubles: Troubles::default(),
            usage,
            began: SystemClock.since_boot(),
            leader: Identity { pid: 0, start_ticks: 0 },
            phase: Phase::Running,
            look_at: None,
            look_at_leader: true,
            tree: Tree::new(None),
            restops: Restops::default(),
            stopped_by: None,
            leader_end: None,
            paused_since: None,
            paused_in_all: Duration::ZERO,
            trim_at: Some(SystemClock.awake() + TRIM_AFTER),
            spec,
        };
        // A file of a paused run whose shim was killed would make programs that check for it wait for ever.
        run.pause_file.set(false);
        KillPoint::ShimOldPauseFileRemoved.reach();
        let stdio = File::open("/dev/null").map(|null| [null.into(), stdout_writer.into(), stderr_writer.into()]);
        // If the kernel does not count for the run's own group, it may count for the server's group.
        run.usage.begin(cgroup.clone().into_iter().chain(Cgroup::own()));
        match stdio.and_then(|stdio| run.spawn(stdio, cgroup.as_ref(), &mark)) {
            Ok((leader, containment)) => {
                run.leader = leader;
                run.began = SystemClock.since_boot();
                KillPoint::ShimLeaderSpawned.reach();
                let Identity { pid, start_ticks } = leader;
                match containment {
                    Containment::Cgroup => run.tree = Tree::new(cgroup),
                    Containment::Tree => run.or_log("remove the control group", cgroup.map_or(Ok(()), |cgroup| cgroup.remove())),
                }
                run.record(Fact::Spawned { pid, start_ticks, containment }, Some(run.spec.origin), true);
            }
            Err(error) => {
                run.or_log("remove the control group", cgroup.map_or(Ok(()), |cgroup| cgroup.remove()));
                let lack = process::shortage_of(&error);
                run.record(Fact::SpawnFailed { error: run.explain(&error), lack }, Some(run.spec.origin), true);
            }
        }
        // The names of the files must be as durable as their contents.
        for folder in [run.dir.path().to_owned(), run.place.path().join("runs")] {
            run.or_log("sync the run directory", sync_dir(&folder));
        }
        KillPoint::ShimNamesSynced.reach();
        Ok(run)
    }

    fn spawn(&self, stdio: [OwnedFd; 3], cgroup: Option<&Cgroup>, mark: &str) -> io::Result<(Identity, Containment)> {
        let spec = &self.spec;
        let mut environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        // A shell exports its working directory here. The inherited value is the server's.
        environment.insert("PWD".into(), spec.cwd.clone().into());
        environment.extend(spec.env.iter().map(|(name, value)| (name.into(), value.into())));
        let cookie = Runs::new(spec.runtime_dir.clone()).cookie(spec.run_id, Some(mark));
        environment.extend(cookie.into_iter().map(|(name, value)| (name.into(), value.into())));
        let launch = Launch {
            program: spec.program.clone(),
            args: spec.program_args.iter().map(Into::into).chain(spec.args.iter().map(Into::into)).collect(),
            environment,
            cwd: spec.cwd.clone(),
            core_bytes_max: spec.core_bytes_max,
            stdio,
        };
        process::spawn_in_session(&launch, cgroup)
    }

    fn explain(&self, error: &io::Error) -> String {
        let spec = &self.spec;
        // The server's `PATH`, which the shim has inherited.
        let search_path = std::env::var_os("PATH");
        let has_own_path = spec.env.keys().any(|name| decides_what_env_runs(name));
        // The script is the last argument if the program is its interpreter.
        let file = spec.program_args.last().unwrap_or(&spec.program);
        let attempt = Attempt { file, name: &spec.script, cwd: &spec.cwd, search_path: search_path.as_deref(), has_own_path };
        attempt.explain(error) + &process::shortage_advice(error)
    }
}
