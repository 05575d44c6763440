//! The server as a whole: one runtime directory and one database with a lock each, one supervisor, one listening socket, and an orderly end.
//!
//! Level 4. If killed here: the locks fall by themselves, `server.json` stays and is overwritten by the next server.

mod upkeep;

use std::backtrace::Backtrace;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rustix::fs::FlockOperation;
use signal_hook::consts::signal::{SIGINT, SIGTERM};

use crate::config::{Config, SOCKET_DEFAULT};
use crate::console::{self, say};
use crate::git_ignore;
use crate::health::Upkeep;
use crate::http::{Answers, App, Door, Entrance, Guard, Keys, Listener, Server, Streams};
use crate::kill_point::KillPoint;
use crate::log::{BackendLog, RunLogs};
use crate::private::private_file;
use crate::process::{self, ProcState};
use crate::run_dir::{LockState, Runs, create_private_dir, read_header};
use crate::secrets::{Secret, Secrets};
use crate::server_info::{DirIdentity, LOCK_FILE, ServerIdentity, ServerInfo};
use crate::service_manager::{self, Watchdog};
use crate::store::Store;
use crate::supervisor::{Retention, Settings, Supervisor};

/// Beside the database: held by the server that uses it, and names that server's runtime directory.
const DATABASE_LOCK_SUFFIX: &str = "-server.lock";

/// How long a killed server's lock and port are waited for, and how often they are tried.
const LET_GO_LIMIT: Duration = Duration::from_millis(500);
/// The same once the server before is seen to be dead: what a child that it had just made still holds falls with that one's exec, which a
/// machine that has too much to do puts off.
const LET_GO_LIMIT_OF_DEAD: Duration = Duration::from_secs(10);
const LET_GO_LOOK: Duration = Duration::from_millis(2);

/// The life cycle may wait for the disk for so many times as long as for anything else before the watchdog counts it as hung: with the 30 s
/// of the README's unit, five minutes.
const STORAGE_LIMITS: u32 = 40;

/// How often `server.json` is tried again where the disk did not take it.
const ANNOUNCE_RETRY: Duration = Duration::from_secs(1);

/// Serves until SIGTERM or SIGINT. The pipeline goes on after that.
pub fn serve(config: Config) -> anyhow::Result<()> {
    // Whoever started this server may wait for the other end of what it left open: no shim, which lives longer, must hold on to that.
    close_fds::set_fds_cloexec(3, &[]);
    process::give_back_what_is_long();
    // The one that is there waits until somebody reads it.
    std::panic::set_hook(Box::new(|panic| console::complain(&format!("{panic}\n{}", Backtrace::capture()))));
    process::unblock_signals().context("cannot unblock signals")?;
    let runtime_dir = config.runtime_dir.clone();
    create_private_dir(&runtime_dir)
        .and_then(|()| runtime_dir.canonicalize())
        .with_context(|| {
            let advice = "set AUTOAPPDEV_RUNTIME_DIR (or --runtime-dir) to a folder that this user can write";
            format!("cannot use {} as the runtime directory; {advice}", runtime_dir.display())
        })
        .and_then(|runtime_dir| serve_in(config, &runtime_dir))
}

fn serve_in(config: Config, runtime_dir: &Path) -> anyhow::Result<()> {
    let _lock = own(runtime_dir)?;
    KillPoint::ServerDirectoryOwned.reach();
    let _database_lock = own_database(&config.database, runtime_dir)?;
    let root_now = config.pipeline_root.canonicalize().ok().filter(|root| root.is_dir());
    let Some(root_now) = root_now else {
        let advice = "it must be a folder that is there; set AUTOAPPDEV_PIPELINE_CWD (or --root)";
        bail!("cannot use {} as the root: {advice}", config.pipeline_root.display());
    };
    // A pipe that was opened and closed stays silent, so this only wakes up for a signal or for the supervisor's end.
    let (mut alarm, bell) = UnixStream::pair().context("cannot open a socket pair")?;
    for number in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(number, bell.try_clone()?).context("cannot catch signals")?;
    }
    let listeners = listen(&config)?;

    // A second logger in one process is only possible in tests; the first one serves.
    let _first_one_serves = BackendLog::open(runtime_dir).context("cannot open backend.log")?.install();
    for note in &config.notes {
        ::log::info!("{note}");
    }
    let opened = Store::open(&config.database).map_err(|error| anyhow!("failed to {error}"))?;
    KillPoint::ServerDatabaseOpened.reach();
    for migration in &opened.applied {
        ::log::info!("applied migration {migration}");
    }
    if let Err(error) = git_ignore::keep_out_of_git(runtime_dir) {
        ::log::warn!("cannot write .gitignore in the runtime directory: {error}; keep that directory out of git by hand");
    }
    // One door that others reach, or a token that somebody set, and every TCP door asks for it.
    let is_open = listeners.iter().any(|listener| listener.door().is_open());
    let keys = if config.tokens.is_set() || is_open {
        let secrets = Secrets::keep(&config.tokens, runtime_dir).map_err(|error| anyhow!("failed to {error}"))?;
        Some(Arc::new(Keys::new(&secrets)))
    } else {
        None
    };
    let settings = Settings {
        runtime_dir: runtime_dir.to_owned(),
        root: config.pipeline_root.clone(),
        default_script: config.pipeline_script,
        grace: config.grace,
        uses_cgroups: config.uses_cgroups,
        log_segment_bytes: config.log_segment_bytes,
        log_run_bytes: config.log_run_bytes,
        retention: Retention {
            log_bytes: config.log_total_bytes,
            runs: usize::try_from(config.runs_keep).unwrap_or(usize::MAX),
            ended_for: config.runs_keep_for,
        },
        taken_vars: config.taken,
    };
    let supervisor = Supervisor::start(opened.store, settings, move || {
        // Nobody reads it when the server is stopping anyway.
        let _nobody_reads = (&bell).write_all(b"!");
    })
    .map_err(|error| anyhow!("failed to {error}"))?;
    let runs = Runs::new(runtime_dir.to_owned());
    let logs = RunLogs::new(runs.path());
    let upkeep = Upkeep::default();
    let inspector = upkeep::inspector(&supervisor.handle(), &runs, &config.database, upkeep.clone())
        .context("cannot start a thread that looks for what is wrong")?;
    let streams =
        Arc::new(Streams::new(supervisor.handle(), inspector.clone(), runs.clone(), logs.clone(), config.database.clone()));
    let (answers, checks) = (Arc::new(Answers::default()), Arc::new(Answers::default()));
    let identity = Arc::new(ServerIdentity::new(runtime_dir).context("cannot get random bytes from the kernel")?);
    let app = |door| App {
        identity: identity.clone(),
        supervisor: supervisor.handle(),
        runs: runs.clone(),
        logs: logs.clone(),
        database: config.database.clone(),
        guard: Guard::new(door, config.allow_hosts.clone(), config.allow_origins.clone()),
        keys: keys.clone().filter(|_| door != Door::Socket),
        inspector: inspector.clone(),
        streams: streams.clone(),
        answers: answers.clone(),
        checks: checks.clone(),
    };
    let entrances =
        listeners.into_iter().map(|listener| Entrance { handler: Arc::new(app(listener.door())), listener }).collect();
    let server = Server::start(entrances).context("cannot begin to serve")?;
    KillPoint::ServerRecovered.reach();
    let addresses = server.addresses();
    let info = ServerInfo {
        pid: std::process::id(),
        id: Some(identity.id.clone()),
        dir: DirIdentity::of(runtime_dir).ok(),
        address: addresses.first().copied(),
        more_addresses: addresses.iter().skip(1).copied().collect(),
        socket: config.socket.filter(|path| path.exists()),
    };
    let mut is_announced = announce(&info, runtime_dir);
    KillPoint::ServerInfoWritten.reach();
    upkeep.keep(upkeep::lock_file(runtime_dir));
    upkeep.keep(upkeep::database_lock(database_lock_path(&config.database), &config.database, runtime_dir));
    upkeep.keep(upkeep::server_json(info.clone(), runtime_dir));
    let ways: Vec<String> = addresses
        .iter()
        .map(|address| format!("http://{address}/"))
        .chain(info.socket.iter().map(|path| path.display().to_string()))
        .collect();
    ::log::info!("listening on {}", ways.join(" and "));
    for (n, way) in ways.iter().enumerate().filter(|(n, _)| *n < addresses.len().max(1)) {
        say(&format!("autoappdev {}listens on {way}", if n > 0 { "also " } else { "" }));
    }
    if root_now != config.pipeline_root {
        let root = format!("{}, which is {} now", config.pipeline_root.display(), root_now.display());
        ::log::info!("scripts are looked for in {root}");
        say(&format!("scripts are looked for in {root}; each start looks where that leads then"));
    }
    if keys.is_some() {
        let place = match config.tokens.token {
            Some(_) => "what AUTOAPPDEV_TOKEN says".to_owned(),
            None => format!("in {}", Secret::Token.path(runtime_dir).display()),
        };
        let pair = if is_open { "; `autoappdev pair` makes a link for a phone" } else { "" };
        say(&format!("it asks for the token, which is {place}{pair}"));
    }
    let watchdog = Watchdog::start({
        let (probe, life_cycle) = (server.probe(), supervisor.handle());
        // The state is answered from a copy: a thread that hangs behind it would show to nobody.
        move |limit| probe.is_answered(limit / 2) && life_cycle.is_alive(limit / 2, limit * STORAGE_LIMITS)
    })
    .context("cannot start a thread for the watchdog")?;
    service_manager::tell_ready(&format!("listening on {}", ways.join(" and ")));

    // Until a signal, or the supervisor's end.
    let mut byte = [0];
    loop {
        alarm.set_read_timeout((!is_announced).then_some(ANNOUNCE_RETRY)).context("cannot set a time-out")?;
        match alarm.read_exact(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => is_announced = info.write(runtime_dir).is_ok(),
            Ok(()) | Err(_) => break,
        }
    }
    service_manager::tell_stopping();
    drop(watchdog);
    upkeep.end();
    // First, so that those who wait for news and are answered by the supervisor's end are told not to ask on here.
    server.begin_stop();
    let live = supervisor.stop();
    server.stop();
    KillPoint::ServerSupervisorEnded.reach();
    // Best effort: a client that finds a stale one finds nobody at its address.
    let _stale_is_harmless = ServerInfo::remove(runtime_dir);
    KillPoint::ServerInfoRemoved.reach();
    match live? {
        Some(run_id) => say(&format!("pipeline run {run_id} goes on; `autoappdev serve` picks it up again")),
        None => say("autoappdev has stopped; no pipeline was running"),
    }
    Ok(())
}

/// Every socket to serve on: those that the service manager holds, else the addresses of the configuration; and the Unix socket.
fn listen(config: &Config) -> anyhow::Result<Vec<Listener>> {
    let mut listeners = Listener::inherited().context("cannot use the sockets of the service manager (LISTEN_FDS)")?;
    if listeners.is_empty() {
        let mut port = config.port;
        for host in &config.hosts {
            let address = SocketAddr::new(*host, port);
            let listener =
                patiently(&config.runtime_dir, || Listener::tcp(address), io::ErrorKind::AddrInUse).map_err(|error| {
                    let advice = match error.kind() {
                        io::ErrorKind::AddrInUse => {
                            "if another program has that port, set AUTOAPPDEV_PORT (or --port) to another one"
                        }
                        _ => "is it an address of this machine? set AUTOAPPDEV_HOST (or --host) to one that is",
                    };
                    anyhow!("cannot listen on {address}: {error}; {advice}")
                })?;
            // Where the kernel picks the port, it is the same one at every address.
            port = listener.address().map_or(port, |address| address.port());
            listeners.push(listener);
        }
    }
    if let Some(path) = &config.socket {
        match patiently(&config.runtime_dir, || Listener::unix(path), io::ErrorKind::AddrInUse) {
            Ok(listener) => listeners.push(listener),
            // Nobody asked for this one by name, and a file system without sockets, or a full one, is no reason not to serve.
            Err(error) if *path == config.runtime_dir.join(SOCKET_DEFAULT) => {
                console::complain(&format!("autoappdev: no Unix socket at {}: {error}; clients use the address", path.display()));
            }
            Err(error) => {
                let advice = "set AUTOAPPDEV_SOCKET to a path that is free and that this user can write, or to off";
                bail!("cannot listen on {}: {error}; {advice}", path.display());
            }
        }
        KillPoint::ServerSocketBound.reach();
    }
    Ok(listeners)
}

/// Writes `server.json`. On a full disk the server serves without: what is asked by its address is answered.
fn announce(info: &ServerInfo, runtime_dir: &Path) -> bool {
    match info.write(runtime_dir) {
        Ok(()) => true,
        Err(error) => {
            ::log::warn!("cannot write server.json: {error}; until it can be, client commands have to be told the address");
            false
        }
    }
}

/// Takes the runtime directory, or says who has it. Both the file in it, which is all that earlier versions look at, and the directory,
/// whose lock nobody takes away by removing a file that looks like left over.
fn own(runtime_dir: &Path) -> anyhow::Result<[File; 2]> {
    let path = runtime_dir.join(LOCK_FILE);
    let lock = private_file().open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let dir = File::open(runtime_dir).with_context(|| format!("cannot open {}", runtime_dir.display()))?;
    let take = |what: &File| {
        let taken = || Ok(rustix::fs::flock(what, FlockOperation::NonBlockingLockExclusive)?);
        patiently(runtime_dir, taken, io::ErrorKind::WouldBlock)
    };
    let both = take(&lock).and_then(|()| match take(&dir) {
        // Not every file system has locks for folders: the file's has to do there.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Ok(()),
        other => other,
    });
    match both {
        Ok(()) => Ok([lock, dir]),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let who = ServerInfo::read(runtime_dir).map_or_else(
                || "another server, which is just beginning,".to_owned(),
                |info| match info.address {
                    Some(address) => format!("the server with pid {} at http://{address}/", info.pid),
                    None => format!("the server with pid {}", info.pid),
                },
            );
            bail!("{who} has {} already; use that one, or set AUTOAPPDEV_RUNTIME_DIR to another folder", runtime_dir.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Takes the database. Two servers on one database, or one that was given another runtime directory while a run lives, would call each
/// other's run lost. One that lies in the runtime directory is no exception: a server with another one can be given it too.
fn own_database(database: &Path, runtime_dir: &Path) -> anyhow::Result<File> {
    let path = database_lock_path(database);
    let mut lock = private_file().read(true).open(&path).with_context(|| {
        format!("cannot open {}; let this user write that folder, or name another database with DATABASE_URL", path.display())
    })?;
    let take = || Ok(rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?);
    patiently(runtime_dir, take, io::ErrorKind::WouldBlock).map_err(|error| {
        anyhow!("cannot use {}: another server uses it ({error}); name another database with DATABASE_URL", database.display())
    })?;
    let mut before = Vec::new();
    lock.read_to_end(&mut before).with_context(|| format!("cannot read {}", path.display()))?;
    let before = PathBuf::from(OsString::from_vec(before));
    if before == runtime_dir {
        // Not written again: a kill in the middle would leave a live run's database without its owner.
        return Ok(lock);
    }
    if !before.as_os_str().is_empty() {
        let runs = Runs::new(before.clone());
        let lives = |id: &i64| runs.run(*id).lock_state().is_ok_and(|state| state == LockState::Held);
        // A copy of the whole directory brought a copy of the database: it has the same runs, and is recorded in by nobody else.
        let here = Runs::new(runtime_dir.to_owned());
        let socket = |runs: &Runs, id| read_header(&runs.run(id).journal_path()).ok().and_then(|header| header.socket);
        let is_copied = |id: &i64| socket(&here, *id).is_some_and(|copied| socket(&runs, *id) == Some(copied));
        if let Some(id) = runs.ids().unwrap_or_default().iter().rev().find(|id| lives(id) && !is_copied(id)) {
            let (database, before) = (database.display(), before.display());
            bail!(
                "cannot use {database}: its run {id} lives in {before}; set AUTOAPPDEV_RUNTIME_DIR to that folder until the run has ended"
            );
        }
    }
    lock.set_len(0)
        .inspect(|()| KillPoint::ServerDatabaseOwnerCleared.reach())
        .and_then(|()| lock.rewind())
        .and_then(|()| lock.write_all(runtime_dir.as_os_str().as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(lock)
}

/// Beside the database by its own name, whatever link leads to it.
fn database_lock_path(database: &Path) -> PathBuf {
    let mut path = database.canonicalize().unwrap_or_else(|_| database.to_owned()).into_os_string();
    path.push(DATABASE_LOCK_SUFFIX);
    path.into()
}

/// Tries again for a moment while `taken` is the answer: a server that was killed lets go of its lock and its port a little after the
/// kill, and whoever restarts it does not wait for that.
fn patiently<T>(runtime_dir: &Path, attempt: impl Fn() -> io::Result<T>, taken: io::ErrorKind) -> io::Result<T> {
    let began = Instant::now();
    loop {
        match attempt() {
            Err(error) if error.kind() == taken && began.elapsed() < LET_GO_LIMIT => thread::sleep(LET_GO_LOOK),
            Err(error) if error.kind() == taken && began.elapsed() < LET_GO_LIMIT_OF_DEAD && was_killed(runtime_dir) => {
                thread::sleep(LET_GO_LOOK);
            }
            other => return other,
        }
    }
}

/// Whether the server that was here last did not live to say goodbye.
fn was_killed(runtime_dir: &Path) -> bool {
    let is_dead = |info: ServerInfo| match process::read_stat(info.pid) {
        Ok(stat) => stat.state == ProcState::Dead,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    ServerInfo::read(runtime_dir).is_some_and(is_dead)
}
