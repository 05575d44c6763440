//! The contenders. Each is a separate process on a port that the kernel picked, which ends on drop.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use autoappdev::clock::{Clock, SystemClock};
use autoappdev::config::Tokens;
use autoappdev::feed::Streams;
use autoappdev::health::Inspector;
use autoappdev::log::RunLogs;
use autoappdev::run_dir::Runs;
use autoappdev::runtime_dir::{Prover, Secrets, new_identity};
use autoappdev::store::Store;
use autoappdev::supervisor::{Settings, Supervisor};
use autoappdev::transport::{Client, Handler, Reach};
use autoappdev::web::{App, Authenticator, Guard, Trust};

use crate::floor;
use crate::support::{Place, signal, stat_field};

/// The time limit for a contender's start.
const COMING_UP: Duration = Duration::from_secs(10);
/// How often a port is tried for nginx, which cannot pick one itself.
const PORTS: usize = 5;

/// A program that responds to `GET /api/pipeline`.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    process: Process,
}

/// The process that must be ended.
enum Process {
    Ours(Place),
    Role { child: Owned, _stdin: ChildStdin },
    Nginx { child: Owned, _dir: tempfile::TempDir },
}

/// A child that ends with its owner. It is sent TERM because of nginx, whose workers would survive a KILL of their master.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        signal(self.0.id(), "TERM");
        let _ended = self.0.wait();
    }
}

impl Contender {
    /// Returns the processor time so far, in seconds: of the process, its ended threads, and nginx's workers.
    pub(crate) fn cpu_s(&self) -> f64 {
        let pid = match &self.process {
            Process::Ours(place) => place.server_pid(),
            Process::Role { child, .. } | Process::Nginx { child, .. } => child.0.id(),
        };
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        // User and system time in ticks. Linux reports 100 a second on every architecture (`proc_pid_stat(5)`).
        let ticks: i64 = children.chain([pid]).map(|pid| stat_field(pid, 14) + stat_field(pid, 15)).sum();
        #[expect(clippy::cast_precision_loss, reason = "a count of ticks")]
        let seconds = ticks as f64 / 100.0;
        seconds
    }
}

/// The real binary.
pub(crate) fn ours() -> Contender {
    let mut place = Place::new();
    place.start_server();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, place.port()));
    Contender { name: "autoappdev", address, process: Process::Ours(place) }
}

/// Starts the bare responder, which sends `bytes`.
pub(crate) fn floor(bytes: &[u8]) -> io::Result<Contender> {
    role("bare responder (the floor)", &["floor"], bytes)
}

/// Starts rouille's own server with our handler.
pub(crate) fn rouille(dir: &Path) -> io::Result<Contender> {
    role("rouille's own server, pool of 4", &["rouille".as_ref(), dir.as_os_str()], b"")
}

/// Starts this program again. The child reads the length of `bytes` and then `bytes`, prints its address, and ends when its stdin
/// does.
fn role<S: AsRef<std::ffi::OsStr>>(name: &'static str, arguments: &[S], bytes: &[u8]) -> io::Result<Contender> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut child = Owned(command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
    let mut stdin = child.0.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    stdin.write_all(&(bytes.len() as u64).to_le_bytes())?;
    stdin.write_all(bytes)?;
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?).read_line(&mut line)?;
    let address = line.trim().parse().map_err(io::Error::other)?;
    Ok(Contender { name, address, process: Process::Role { child, _stdin: stdin } })
}

/// Starts nginx with the same body in a file, configured for speed. Returns `None` if it is not installed.
pub(crate) fn nginx(body: &[u8]) -> io::Result<Option<Contender>> {
    for _ in 0..PORTS {
        let dir = tempfile::tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let path = dir.path().display();
        // As root it would run its workers as another user, who cannot read our folder.
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let conf = format!(
            "daemon off; {user} worker_processes auto; pid {path}/pid; error_log {path}/error.log;
            events {{ worker_connections 1024; }}
            http {{
                access_log off; sendfile off; tcp_nodelay on; server_tokens off; keepalive_requests 1000000000;
                open_file_cache max=16 inactive=1h; open_file_cache_valid 1h;
                client_body_temp_path {path}/b; proxy_temp_path {path}/p; fastcgi_temp_path {path}/f;
                uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;
                server {{
                    listen 127.0.0.1:{port}; default_type application/json;
                    location = /api/pipeline {{ alias {path}/body; }}
                }}
            }}"
        );
        fs::write(dir.path().join("conf"), conf)?;
        fs::write(dir.path().join("body"), body)?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("conf")).arg("-e").arg(dir.path().join("error.log"));
        let mut child = match command.stdin(Stdio::null()).spawn() {
            Ok(child) => Owned(child),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let deadline = Instant::now() + COMING_UP;
        while Instant::now() < deadline && child.0.try_wait()?.is_none() {
            if TcpStream::connect(address).is_ok() {
                return Ok(Some(Contender { name: "nginx, from a file", address, process: Process::Nginx { child, _dir: dir } }));
            }
            thread::sleep(Duration::from_millis(5));
        }
        // Another process took that port meanwhile, or nginx did not start: its messages are on stderr.
    }
    Err(io::Error::other("nginx is installed and does not come up"))
}

/// Runs the process of [`floor`].
pub(crate) fn be_the_floor() {
    let bytes = what_to_say().expect("the bench says what to answer");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    thread::spawn(move || floor::serve(&listener, bytes));
    until_the_bench_ends();
}

/// Runs the process of [`rouille`]: the same state and the same handler, behind rouille's server.
pub(crate) fn be_rouille(dir: &Path) {
    what_to_say().expect("nothing is said to this one");
    let dir = dir.canonicalize().expect("a folder");
    let database = dir.join("autoappdev.db");
    let settings = Settings {
        runtime_dir: dir.clone(),
        root: dir.clone(),
        default_script: None,
        grace: Duration::from_secs(10),
        uses_cgroups: false,
        keeps_env_values: false,
        usage_every: Duration::ZERO,
        core_bytes_max: None,
        log_segment_bytes: 1 << 20,
        log_run_bytes: 1 << 24,
        taken_vars: Vec::new(),
    };
    let store = Store::open(&database).expect("a new database").store;
    let database = store.file().clone();
    let supervisor = Supervisor::start(store, settings, || (), || ()).expect("nothing to recover");
    let runs = Runs::new(dir);
    let logs = RunLogs::new(runs.runtime_dir().to_owned());
    let inspector = Inspector::start(|| None).expect("a thread");
    let streams = Arc::new(Streams::new(supervisor.handle(), inspector.clone(), runs.clone(), logs.clone(), database.clone()));
    let secrets = Secrets::keep(&Tokens::default(), runs.runtime_dir(), |_| ()).expect("a new folder");
    let writer = supervisor.handle().writer().clone();
    let authenticator = Authenticator::start(&secrets, Box::new(SystemClock), writer, || ()).expect("no sessions to read");
    let this_user = Client::patient(Some(rustix::process::geteuid().as_raw()));
    let runs_dir = runs.runtime_dir().to_owned();
    let app = App {
        grace: Duration::from_secs(10),
        identity: Arc::new(new_identity(runs.runtime_dir()).expect("random bytes")),
        started_at: SystemClock.now(),
        supervisor: supervisor.handle(),
        runs,
        logs,
        pipeline_root: runs_dir,
        database,
        guard: Guard::new(Reach::Loopback, Vec::new(), Vec::new()),
        addresses: Arc::default(),
        authenticator: Arc::new(authenticator),
        prover: Arc::new(Prover::new(&secrets.session_key)),
        trust: Trust::OwnUser,
        budget: Arc::default(),
        health_budget: Arc::default(),
        script_budget: Arc::default(),
        keys_in_use: Arc::default(),
        inspector,
        streams,
    };
    let server =
        rouille::Server::new("127.0.0.1:0", move |request| app.handle(request, &this_user)).expect("a port").pool_size(4);
    println!("{}", server.server_addr());
    thread::spawn(move || server.run());
    until_the_bench_ends();
}

fn what_to_say() -> io::Result<Vec<u8>> {
    let mut length = [0; 8];
    io::stdin().read_exact(&mut length)?;
    let mut bytes = Vec::new();
    io::stdin().take(u64::from_le_bytes(length)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Waits until the bench ends. However it ends, that closes its end of the pipe.
fn until_the_bench_ends() {
    let _ended = io::copy(&mut io::stdin(), &mut io::sink());
}
