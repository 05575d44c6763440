//! The server as a whole: one runtime directory, one lock, one supervisor, one listening socket, and an orderly end.
//!
//! Level 4. If killed here: the lock falls by itself, `server.json` stays and is overwritten by the next server.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use signal_hook::consts::signal::{SIGINT, SIGTERM};

use crate::config::Config;
use crate::http::{App, Guard, Server};
use crate::log::BackendLog;
use crate::private::private_file;
use crate::process;
use crate::run_dir::{Runs, create_private_dir};
use crate::store::Store;
use crate::supervisor::{Settings, Supervisor};

/// Held by the server that owns the runtime directory.
const LOCK_FILE: &str = "server.lock";
/// Who that is, for clients and for a second server.
const INFO_FILE: &str = "server.json";

/// How long a killed server's lock and port are waited for, and how often they are tried.
const LET_GO_LIMIT: Duration = Duration::from_millis(500);
const LET_GO_LOOK: Duration = Duration::from_millis(2);

/// The content of `server.json`.
#[derive(Debug, Serialize, Deserialize)]
struct ServerInfo {
    pid: u32,
    address: SocketAddr,
}

/// Serves until SIGTERM or SIGINT. The pipeline goes on after that.
pub fn serve(config: Config) -> anyhow::Result<()> {
    // Whoever started this server may wait for the other end of what it left open: no shim, which lives longer, must hold on to that.
    close_fds::set_fds_cloexec(3, &[]);
    process::unblock_signals().context("cannot unblock signals")?;
    let runtime_dir = config.runtime_dir.clone();
    create_private_dir(&runtime_dir)
        .and_then(|()| runtime_dir.canonicalize())
        .with_context(|| format!("cannot use the runtime directory {}", runtime_dir.display()))
        .and_then(|runtime_dir| serve_in(config, &runtime_dir))
}

fn serve_in(config: Config, runtime_dir: &Path) -> anyhow::Result<()> {
    let _lock = own(runtime_dir)?;
    let root = config.pipeline_root.canonicalize().with_context(|| {
        format!("cannot use AUTOAPPDEV_PIPELINE_CWD={}: it must be a folder that is there", config.pipeline_root.display())
    })?;
    if !root.is_dir() {
        bail!("cannot use AUTOAPPDEV_PIPELINE_CWD={}: it is no folder", root.display());
    }
    // A pipe that was opened and closed stays silent, so this only wakes up for a signal or for the supervisor's end.
    let (mut alarm, bell) = UnixStream::pair().context("cannot open a socket pair")?;
    for number in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(number, bell.try_clone()?).context("cannot catch signals")?;
    }
    let address = config.address();
    let listener = patiently(|| TcpListener::bind(address), io::ErrorKind::AddrInUse).with_context(|| {
        format!("cannot listen on {address}; if another program has that port, set AUTOAPPDEV_PORT to another one")
    })?;
    let address = listener.local_addr().context("cannot tell the address")?;

    // A second logger in one process is only possible in tests; the first one serves.
    let _first_one_serves = BackendLog::open(runtime_dir).context("cannot open backend.log")?.install();
    let opened = Store::open(&config.database)?;
    for migration in &opened.applied {
        ::log::info!("applied migration {migration}");
    }
    let settings = Settings {
        runtime_dir: runtime_dir.to_owned(),
        root,
        default_script: config.pipeline_script,
        grace: config.grace,
        log_segment_bytes: config.log_segment_bytes,
        log_run_bytes: config.log_run_bytes,
    };
    let supervisor = Supervisor::start(opened.store, settings, move || {
        // Nobody reads it when the server is stopping anyway.
        let _nobody_reads = (&bell).write_all(b"!");
    })?;
    let app = App {
        supervisor: supervisor.handle(),
        runs: Runs::new(runtime_dir.to_owned()),
        database: config.database,
        guard: Guard { address, allow_hosts: config.allow_hosts, allow_origins: config.allow_origins },
    };
    let server = Server::start(listener, Box::new(app)).context("cannot begin to serve")?;
    tell(runtime_dir, address).with_context(|| format!("cannot write {INFO_FILE}"))?;
    ::log::info!("listening on http://{address}/");
    say(&format!("autoappdev listens on http://{address}/"));

    // Until a signal, or the supervisor's end.
    let mut byte = [0];
    while let Err(error) = alarm.read_exact(&mut byte) {
        if error.kind() != io::ErrorKind::Interrupted {
            break;
        }
    }
    let live = supervisor.stop();
    server.stop();
    // Best effort: a client that finds a stale one finds nobody at its address.
    let _stale_is_harmless = fs::remove_file(runtime_dir.join(INFO_FILE));
    match live? {
        Some(run_id) => say(&format!("pipeline run {run_id} goes on; `autoappdev serve` picks it up again")),
        None => say("autoappdev has stopped; no pipeline was running"),
    }
    Ok(())
}

/// Takes the runtime directory, or says who has it.
fn own(runtime_dir: &Path) -> anyhow::Result<File> {
    let path = runtime_dir.join(LOCK_FILE);
    let lock = private_file().open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let take = || Ok(rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?);
    match patiently(take, io::ErrorKind::WouldBlock) {
        Ok(()) => Ok(lock),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let who =
                fs::read(runtime_dir.join(INFO_FILE)).ok().and_then(|text| serde_json::from_slice::<ServerInfo>(&text).ok());
            let who = who.map_or_else(
                || "another server, which is just beginning,".to_owned(),
                |info| format!("the server with pid {} at http://{}/", info.pid, info.address),
            );
            bail!("{who} has {} already; use that one, or set AUTOAPPDEV_RUNTIME_DIR to another folder", runtime_dir.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Tries again for a moment while `taken` is the answer: a server that was killed lets go of its lock and its port a little after the
/// kill, and whoever restarts it does not wait for that.
fn patiently<T>(attempt: impl Fn() -> io::Result<T>, taken: io::ErrorKind) -> io::Result<T> {
    let deadline = Instant::now() + LET_GO_LIMIT;
    loop {
        match attempt() {
            Err(error) if error.kind() == taken && Instant::now() < deadline => thread::sleep(LET_GO_LOOK),
            other => return other,
        }
    }
}

fn tell(runtime_dir: &Path, address: SocketAddr) -> io::Result<()> {
    let info = ServerInfo { pid: std::process::id(), address };
    let text = serde_json::to_vec(&info).expect("plain data");
    let temporary = runtime_dir.join(format!("{INFO_FILE}.new"));
    let mut file = private_file().truncate(true).open(&temporary)?;
    file.write_all(&text)?;
    fs::rename(&temporary, runtime_dir.join(INFO_FILE))
}

/// To standard output, which may be closed: a server that nobody listens to still serves.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _nobody_listens = writeln!(out, "{text}").and_then(|()| out.flush());
}
