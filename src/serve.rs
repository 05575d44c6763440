//! The server as a whole. It has one runtime directory and one database with a lock each, one supervisor, its listeners, and an
//! orderly end.
//!
//! Level 5. If killed here: the kernel releases the locks, and `server.json` stays until the next server overwrites it.

mod announcing;
mod ending;
mod listening;
mod lock_holder;
mod ownership;
mod upkeep;

use std::backtrace::Backtrace;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};

use self::ending::{Alarm, ENDED, StopsRun, WakeReason, unless_told_to_end};
use self::listening::{listen, listen_on_socket};
use self::ownership::{OwnDatabase, own, own_database};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::console::{self, say};
use crate::feed::Streams;
use crate::file_id::FileId;
use crate::health::Upkeep;
use crate::held_dir::has_entry;
use crate::kill_point::KillPoint;
use crate::log::{BACKEND_LOG, BackendLog, SAID};
use crate::made::Made;
use crate::private::beside;
use crate::process;
use crate::real_path::real_path;
use crate::retention::{self, Retention};
use crate::run_dir::Runs;
use crate::runtime_dir::{GIT_IGNORE, Prover, Secret, Secrets, ServerInfo, new_identity, write_git_ignore};
use crate::service_manager::{self, Watchdog};
use crate::store::Store;
use crate::supervisor::{Settings, Supervisor};
use crate::transport::{Binding, Listener, Server};
use crate::web::{App, Authenticator, Guard, KeysInUse, ResponseBudget, Trust};

/// How many times longer the supervisor may wait for the disk than for anything else before the watchdog considers it hung.
/// With the 30 s of the unit in the README, this is five minutes.
const STORAGE_LIMITS: u32 = 40;

/// Serves until SIGTERM, SIGINT, SIGHUP or SIGQUIT. The pipeline then keeps running, unless the end of the server would kill
/// it.
pub fn serve(config: Config) -> anyhow::Result<()> {
    // The parent may wait for the other end of a descriptor that it left open. A shim lives longer than the server and must not
    // keep it open.
    close_fds::set_fds_cloexec(3, &[]);
    process::return_large_allocations();
    // The default hook would block until stderr is read.
    std::panic::set_hook(Box::new(|panic| format!("{panic}\n{}", Backtrace::capture()).lines().for_each(console::complain)));
    process::unblock_signals().context("cannot unblock signals")?;
    process::survive_file_size_limit().context("cannot catch SIGXFSZ")?;
    // The server's memory holds the tokens. The shims inherit this limit and give their pipelines the server's original one.
    let core_bytes_max = process::disable_core_dumps().context("cannot turn off core dumps")?;
    // The checks that fail most often come before any file is created. Each start of a run resolves the root again, because it
    // may be a link.
    process::check_proc().context("cannot serve")?;
    let root_now = real_path(&config.pipeline_root).ok().filter(|root| root.is_dir());
    let Some(root_now) = root_now else {
        let advice = "it must be an existing folder; set AUTOAPPDEV_PIPELINE_CWD (or --root)";
        bail!("cannot use {} as the root: {advice}", config.pipeline_root.display());
    };
    let listeners = listen(&config)?;
    serve_at(listeners, config, &root_now, core_bytes_max)
}

fn serve_at(addresses: Vec<Listener>, mut config: Config, root_now: &Path, core_bytes_max: Option<u64>) -> anyhow::Result<()> {
    // Declared before the files that are removed after a failure, so that the locks outlive them.
    let (runtime_dir, owned_dir, _lock, database);
    let mut made = Made::default();
    (runtime_dir, owned_dir, _lock) = own(&mut config, &mut made)?;
    let runtime_dir = &*runtime_dir;
    // A link in the path as it was given could lead elsewhere later.
    let given_runtime_dir = config.move_to(runtime_dir);
    KillPoint::ServerDirectoryOwned.reach();
    own_database(&mut config)?;
    database = OwnDatabase::take(&config.database, runtime_dir, &mut made)?;
    let (alarm, bell) = Alarm::set().map_err(cannot("catch signals"))?;
    ending::reap_orphans().context("cannot reap orphans as process 1")?;
    let stops_run = StopsRun::of(config.on_term);
    // The Unix socket is in the runtime directory, which must exist first and is removed last.
    let listeners: Vec<_> = addresses.into_iter().chain(listen_on_socket(&mut config)?).collect();

    let secrets = Secret::ALL.map(|secret| secret.path(runtime_dir));
    let files = [BACKEND_LOG, GIT_IGNORE].map(|name| runtime_dir.join(name)).into_iter().chain(secrets);
    for file in files.chain(["", "-wal", "-shm"].map(|suffix| beside(&config.database, suffix))) {
        made.file(&file);
    }
    // A second logger in one process is only possible in tests; the first one serves.
    let _first_one_serves = BackendLog::open(owned_dir.path()).context("cannot open backend.log")?.install();
    for note in &config.notes {
        ::log::info!("{note}");
    }
    let path = config.database.clone();
    let opened =
        unless_told_to_end(&alarm, &bell, move || Store::open(&path)).map_err(cannot("start a thread to open the database"))?;
    let Some(opened) = opened else {
        say(&format!("autoappdev has stopped while it was opening {}", config.database.display()));
        return Ok(());
    };
    let opened = opened.map_err(|error| anyhow!("failed to {error}"))?;
    KillPoint::ServerDatabaseOpened.reach();
    let database_file = opened.store.file().clone();
    for migration in &opened.applied {
        ::log::info!("applied migration {migration}");
    }
    if let Err(error) = write_git_ignore(runtime_dir) {
        ::log::warn!("cannot write .gitignore in the runtime directory: {error}; exclude that directory from git yourself");
    }
    // A listener that other machines can reach, or a token in the settings, makes every TCP listener require the token.
    let is_open = listeners.iter().any(|listener| listener.reach().is_open());
    let needs_token = is_open || config.tokens.is_set();
    let mut replaced = None;
    let secrets = Secrets::keep(&config.tokens, runtime_dir, |why| {
        let note = announcing::replaced_secrets(why, runtime_dir);
        // Logged first, because a server that was killed in between could not log it afterwards.
        ::log::warn!(target: SAID, "{note}");
        replaced = Some(note);
    });
    let secrets = secrets.map_err(|error| anyhow!("failed to {error}"))?;
    let prover = Arc::new(Prover::new(&secrets.session_key));
    let segment_bytes = retention::segment_bytes_on(runtime_dir, config.log_segment_bytes, config.disk_free_bytes);
    let limits = retention::Limits {
        log_bytes: config.log_total_bytes,
        runs: usize::try_from(config.runs_keep).unwrap_or(usize::MAX),
        ended_for: config.runs_keep_for,
        disk_free_bytes: config.disk_free_bytes,
        segment_bytes,
    };
    let default_script = config.pipeline_script;
    let settings = Settings {
        taken_vars: config.taken_vars,
        runtime_dir: runtime_dir.to_owned(),
        root: config.pipeline_root.clone(),
        default_script: default_script.clone(),
        grace: config.grace,
        uses_cgroups: config.uses_cgroups,
        keeps_env_values: config.keeps_env_values,
        usage_every: config.usage_every,
        core_bytes_max,
        log_segment_bytes: segment_bytes,
        log_run_bytes: config.log_run_bytes,
    };
    database.belong_to(runtime_dir)?;
    let (waker, queue) = retention::Waker::new();
    let wake_retention = {
        let waker = waker.clone();
        move || waker.wake()
    };
    let supervisor = unless_told_to_end(&alarm, &bell, {
        let bell = bell.try_clone().map_err(cannot("start the supervisor"))?;
        move || {
            Supervisor::start(opened.store, settings, wake_retention, move || {
                // While the server is stopping, no thread waits for it.
                let _nobody_reads = (&bell).write_all(&[ENDED]);
            })
        }
    });
    let Some(supervisor) = supervisor.map_err(cannot("start a thread for the recovery"))? else {
        // The recovery may have recorded something, so the files that this start created stay, as after a kill.
        made.keep();
        say("autoappdev has stopped while it was recovering the latest run; the next start does that again");
        return Ok(());
    };
    let supervisor = supervisor.map_err(|error| anyhow!("failed to {error}"))?;
    let runs = Runs::new(runtime_dir.to_owned());
    let logs = supervisor.logs();
    // Started after the supervisor's boot, which records the ends of runs that it finds.
    let retention = Retention::start(
        (waker, queue),
        runtime_dir,
        logs.clone(),
        database_file.clone(),
        limits,
        supervisor.handle().writer().clone(),
    )
    .map_err(cannot("start the retention thread"))?;
    let upkeep = Upkeep::default();
    let inspector = upkeep::inspector(&supervisor.handle(), &runs, &config.database, upkeep.clone())
        .map_err(cannot("start the health thread"))?;
    let streams =
        Arc::new(Streams::new(supervisor.handle(), inspector.clone(), runs.clone(), logs.clone(), database_file.clone()));
    let authenticator = Authenticator::start(&secrets, Box::new(SystemClock), supervisor.handle().writer().clone(), {
        let (streams, supervisor) = (streams.clone(), supervisor.handle());
        move || {
            streams.check();
            supervisor.watch().hurry();
        }
    });
    let authenticator = Arc::new(authenticator.map_err(|error| anyhow!("failed to {error}"))?);
    let keys_in_use = Arc::new(KeysInUse::default());
    let [budget, health_budget, script_budget] = std::array::from_fn(|_| Arc::new(ResponseBudget::default()));
    let identity = Arc::new(new_identity(runtime_dir).context("cannot get random bytes from the kernel")?);
    let started_at = SystemClock.now();
    let listening: Arc<[_]> = listeners.iter().filter_map(Listener::address).collect();
    let app = |reach| App {
        identity: identity.clone(),
        started_at,
        grace: config.grace,
        supervisor: supervisor.handle(),
        runs: runs.clone(),
        logs: logs.clone(),
        pipeline_root: config.pipeline_root.clone(),
        database: database_file.clone(),
        guard: Guard::new(reach, config.allow_hosts.clone(), config.allow_origins.clone()),
        addresses: listening.clone(),
        authenticator: authenticator.clone(),
        prover: prover.clone(),
        trust: Trust::of(reach, needs_token),
        inspector: inspector.clone(),
        streams: streams.clone(),
        budget: budget.clone(),
        health_budget: health_budget.clone(),
        script_budget: script_budget.clone(),
        keys_in_use: keys_in_use.clone(),
    };
    let own_sockets: Vec<_> = listeners.iter().filter_map(Listener::own_socket).collect();
    let entrances =
        listeners.into_iter().map(|listener| Binding { handler: Arc::new(app(listener.reach())), listener }).collect();
    let server = Server::start(entrances);
    // If it failed after it had accepted a client, the record of a run that the client started stays.
    if server.is_ok() || supervisor.handle().watch().get().snapshot.run_id.is_some() {
        made.keep();
    }
    let server = server.map_err(cannot("begin to serve"))?;
    KillPoint::ServerRecovered.reach();
    let addresses = server.addresses();
    let info = ServerInfo {
        pid: std::process::id(),
        id: identity.id.clone(),
        dir: FileId::of(runtime_dir).map_err(cannot("read the runtime directory"))?,
        path: Some(given_runtime_dir.clone()),
        address: addresses.first().copied(),
        more_addresses: addresses.iter().skip(1).copied().collect(),
        socket: config.socket.filter(|path| has_entry(path)),
    };
    let written = info.write(runtime_dir);
    if let Err(error) = &written {
        ::log::warn!("cannot write server.json: {error}; until it can be written, give client commands the address with --url");
    }
    KillPoint::ServerInfoWritten.reach();
    let ways = announcing::Ways::of(&info);
    ways.say_to_programs();
    upkeep::keep_files(&upkeep, (info, written.is_ok()), own_sockets, runtime_dir, &config.database);
    // Begins a scan now, so that the first client does not have to wait for it.
    inspector.begin_look();
    announcing::say_taken(&config.taken);
    announcing::say_scarce_descriptors();
    announcing::say_runtime_dir(&given_runtime_dir, runtime_dir);
    announcing::say_root(&config.pipeline_root, root_now);
    announcing::warn_of_script(root_now, default_script.as_deref());
    if let Some(note) = &replaced {
        say(note);
    }
    if needs_token {
        announcing::say_token(&config.tokens, runtime_dir, is_open);
    }
    ways.say_to_a_person(stops_run.is_some());
    let watchdog = Watchdog::start({
        let (probe, life_cycle) = (server.probe(), supervisor.handle());
        // The state is answered from a copy, so a request for the state alone would not reveal a supervisor that hangs.
        move |limit| probe.is_answered(limit / 2) && life_cycle.is_alive(limit / 2, limit * STORAGE_LIMITS)
    })
    .map_err(cannot("start a thread for the watchdog"))?;
    service_manager::notify_ready(&format!("listening on {}", ways.sentence()));

    let woken_by = alarm.wait(None);
    service_manager::notify_stopping();
    let stopped = match (woken_by, stops_run) {
        (WakeReason::Signal, Some(stops)) => stops.stop(&alarm, &supervisor.handle(), runtime_dir),
        _ => None,
    };
    drop(watchdog);
    upkeep.end();
    // Comes first, so that the answers to clients that wait for the supervisor tell them not to send another request on
    // this connection.
    server.begin_stop();
    let live = supervisor.stop();
    retention.stop();
    server.stop();
    KillPoint::ServerSupervisorEnded.reach();
    // Best effort: an address in a stale file leads to no server.
    let _stale_is_harmless = ServerInfo::remove(owned_dir.path());
    KillPoint::ServerInfoRemoved.reach();
    match (live?, stopped) {
        (None, Some((run_id, why))) => say(&format!("pipeline run {run_id} was stopped, because {why}")),
        (Some(run_id), _) => say(&format!("pipeline run {run_id} keeps running; `autoappdev serve` takes it over again")),
        (None, None) => say("autoappdev has stopped; no pipeline was running"),
    }
    Ok(())
}

/// Describes an operation that failed for lack of a thread or a descriptor, and the remedy.
fn cannot(what: &str) -> impl FnOnce(io::Error) -> anyhow::Error + '_ {
    move |error| anyhow!("cannot {}", process::explain_shortage(what, &error))
}
