//! HTTP: the sockets, who may ask, the routes, the endpoints, the page.
//!
//! Level 3. [`App`] is the one seam: rouille's `Request` in, its `Response` out. No endpoint holds a lock across I/O, none picks a
//! status code for an error, and none knows a rule of the life cycle.

mod connection;
mod error;
mod guard;
mod head;
mod input;
mod page;
mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rouille::{Request, Response};
use serde::Serialize;
use serde_json::json;

use crate::log::{self, BackendFiles, Page, RunLogs};
use crate::process::{self, Identity};
use crate::run_dir::{self, Runs};
use crate::store::{Reader, schema_version};
use crate::supervisor::{Ask, Handle, Published};

use error::ApiError;
pub use guard::Guard;
pub use head::{BODY_BYTES_MAX, Broken};
pub use server::{Handler, Server};

/// The version of the HTTP contract.
const API_VERSION: u32 = 1;

/// The longest wait of a long poll, and the one where none is named, in seconds.
const WAIT_S_MAX: u64 = 60;
const WAIT_S_DEFAULT: u64 = 30;

/// The most runs and lines of one answer, and how many where none is named.
const RUNS_MAX: u64 = 500;
const RUNS_DEFAULT: u64 = 50;
const LINES_MAX: u64 = 5000;
const LINES_DEFAULT: u64 = 500;
const TAIL_DEFAULT: u64 = 200;

/// Less room than this on a disk shows in health: in bytes, and in files.
const FREE_BYTES_MIN: u64 = 1024 * 1024;
const FREE_FILES_MIN: u64 = 16;

/// What can be asked for in a log.
const SOURCES: [&str; 2] = ["pipeline", BACKEND];
const BACKEND: &str = "backend";

/// All that the endpoints need.
#[derive(Debug)]
pub struct App {
    /// The life cycle.
    pub supervisor: Handle,
    /// Where the runs are.
    pub runs: Runs,
    /// What they said.
    pub logs: RunLogs,
    /// The database, for history.
    pub database: PathBuf,
    /// Who may ask.
    pub guard: Guard,
}

impl Handler for App {
    fn handle(&self, request: &Request) -> Response {
        let response = self.guard.check(request).and_then(|()| self.route(request)).unwrap_or_else(ApiError::into_response);
        self.finish(Some(request), response)
    }

    fn refuse(&self, broken: &Broken, request: Option<&Request>) -> Response {
        self.finish(request, ApiError::from(broken.clone()).into_response())
    }
}

impl App {
    fn route(&self, request: &Request) -> Result<Response, ApiError> {
        let path = request.url();
        let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(&path).split('/').collect();
        // HEAD is GET without a body, which the connection leaves out.
        let method = if request.method() == "HEAD" { "GET" } else { request.method() };
        match (method, segments.as_slice()) {
            ("GET", [""]) => page::index(request).ok_or(ApiError::NotFound),
            ("GET", ["static", name]) => page::file(request, name).ok_or(ApiError::NotFound),
            ("GET", ["api", "pipeline"]) => self.pipeline(request),
            ("GET", ["api", "pipeline", "status"]) => Ok(self.status()),
            ("POST", ["api", "pipeline", "start"]) => {
                let published = self.act(Ask::Start(input::start_request(request)?))?;
                let snapshot = &published.snapshot;
                Ok(json(&json!({
                    "ok": true, "state": snapshot.state, "pid": snapshot.run_pid, "run_id": snapshot.run_id, "version": snapshot.version,
                })))
            }
            ("POST", ["api", "pipeline", "pause"]) => {
                input::empty_request(request)?;
                self.act(Ask::Pause).map(|published| done(&published))
            }
            ("POST", ["api", "pipeline", "resume"]) => {
                input::empty_request(request)?;
                self.act(Ask::Resume).map(|published| done(&published))
            }
            ("POST", ["api", "pipeline", "stop"]) => {
                let grace = input::stop_request(request)?;
                self.act(Ask::Stop { grace }).map(|published| done(&published))
            }
            ("GET", ["api", "runs"]) => self.runs(request),
            ("GET", ["api", "runs", id]) => self.run(id),
            ("GET", ["api", "logs"]) => self.logs(request),
            ("GET", ["api", "logs", "tail"]) => self.tail(request),
            ("GET", ["api", "health"]) => Ok(self.health()),
            ("GET", ["api", "version"]) => Ok(version()),
            ("OPTIONS", ["*"]) => Ok(self.guard.preflight(request, guard::METHODS)),
            ("OPTIONS", path) => {
                allowed_methods(path).map(|allow| self.guard.preflight(request, allow)).ok_or(ApiError::NotFound)
            }
            (_, path) => Err(allowed_methods(path).map_or(ApiError::NotFound, ApiError::MethodNotAllowed)),
        }
    }

    fn act(&self, ask: Ask) -> Result<std::sync::Arc<Published>, ApiError> {
        Ok(self.supervisor.act(ask)?)
    }

    fn pipeline(&self, request: &Request) -> Result<Response, ApiError> {
        let after = input::query_number(request, "after", 0, u64::MAX)?;
        let wait = input::query_number(request, "wait", 0, WAIT_S_MAX)?.unwrap_or(WAIT_S_DEFAULT);
        let watch = self.supervisor.watch();
        let now = watch.get();
        let published = match after {
            // A version that is not reached yet is one of another database: that client needs to see this one at once.
            Some(after) if after == now.snapshot.version => watch.wait_newer(after, Duration::from_secs(wait)),
            Some(_) | None => now,
        };
        let response = Response::from_data("application/json", published.body.clone());
        Ok(response.with_etag(request, format!("\"{}\"", published.snapshot.version)))
    }

    fn status(&self) -> Response {
        let published = self.supervisor.watch().get();
        let snapshot = &published.snapshot;
        json(&json!({"status": {
            "running": snapshot.pid.is_some(), "pid": snapshot.pid, "run_id": snapshot.run_id, "state": snapshot.status,
        }}))
    }

    fn runs(&self, request: &Request) -> Result<Response, ApiError> {
        let limit = input::query_number(request, "limit", 1, RUNS_MAX)?.unwrap_or(RUNS_DEFAULT);
        let before = input::query_number(request, "before", 1, i64::MAX as u64)?.and_then(|id| i64::try_from(id).ok());
        let limit = u32::try_from(limit).expect("at most RUNS_MAX");
        let reader = Reader::open(&self.database)?;
        let runs = reader.runs(before, limit)?;
        // A page can be short without being the last one.
        let next_before = match runs.last() {
            Some(last) if !reader.runs(Some(last.id), 1)?.is_empty() => Some(last.id),
            Some(_) | None => None,
        };
        Ok(json(&json!({"runs": runs, "next_before": next_before})))
    }

    fn run(&self, id: &str) -> Result<Response, ApiError> {
        #[derive(Serialize)]
        struct Run<R, E> {
            #[serde(flatten)]
            run: R,
            events: E,
        }
        let number = id.parse::<i64>().ok().filter(|_| id.bytes().all(|byte| byte.is_ascii_digit()));
        let found = match number {
            Some(number) => Reader::open(&self.database)?.run(number)?,
            None => None,
        };
        let (run, events) = found.ok_or_else(|| ApiError::NoSuchRun(id.to_owned()))?;
        Ok(json(&json!({"run": Run { run, events }})))
    }

    fn logs(&self, request: &Request) -> Result<Response, ApiError> {
        let source = input::query_word(request, "source", &SOURCES)?;
        let since = input::query_number(request, "since", 0, u64::MAX)?.unwrap_or(0);
        let limit = input::query_number(request, "limit", 1, LINES_MAX)?.unwrap_or(LINES_DEFAULT);
        let limit = usize::try_from(limit).expect("at most LINES_MAX");
        let Page { next, first, gone, lines } = if source == BACKEND {
            log::read_since(BackendFiles::new(self.runs.runtime_dir()), since, limit)?
        } else {
            log::read_since(&self.logs, since, limit)?
        };
        let page = json!({"source": source, "since": since, "next": next, "first": first, "gone": gone, "lines": lines});
        Ok(json(&page))
    }

    fn tail(&self, request: &Request) -> Result<Response, ApiError> {
        let name = input::query_word(request, "name", &SOURCES)?;
        let lines = input::query_number(request, "lines", 1, LINES_MAX)?.unwrap_or(TAIL_DEFAULT);
        let lines = usize::try_from(lines).expect("at most LINES_MAX");
        let Page { next, first, gone, lines } = if name == BACKEND {
            log::read_tail(BackendFiles::new(self.runs.runtime_dir()), lines)?
        } else {
            log::read_tail(&self.logs, lines)?
        };
        Ok(json(&json!({"name": name, "next": next, "first": first, "gone": gone, "lines": lines})))
    }

    fn health(&self) -> Response {
        let degraded: Vec<String> =
            [self.stopped_shim(), self.supervisor.watch().degraded(), self.little_space()].into_iter().flatten().collect();
        let degraded = (!degraded.is_empty()).then(|| degraded.join("; "));
        let time = Reader::open(&self.database).and_then(|reader| reader.time());
        if let Err(error) = &time {
            ::log::error!("failed to {error}");
        }
        let time = time.ok();
        let is_ok = time.is_some();
        json(&json!({
            "ok": is_ok, "service": "autoappdev-backend", "db": {"ok": is_ok, "time": time}, "degraded": degraded,
        }))
        .with_status_code(if is_ok { 200 } else { 503 })
    }

    /// A shim that somebody stopped sees nothing and says nothing. It is looked at here, when somebody asks, and not every few
    /// seconds: a server with nothing to do sleeps.
    fn stopped_shim(&self) -> Option<String> {
        let published = self.supervisor.watch().get();
        let run_id = published.snapshot.run_id.filter(|_| published.snapshot.pid.is_some())?;
        let header = run_dir::read_header(&self.runs.run(run_id).journal_path()).ok()?;
        let shim = header.shim_pid;
        let is_it = |found: Identity| header.shim_start_ticks.is_none_or(|ticks| found.start_ticks == ticks);
        let is_stopped = process::read_stat(shim).is_ok_and(|stat| stat.state.is_stopped() && is_it(stat.identity));
        is_stopped.then(|| {
            format!(
                "the live run's own process (the shim) does not answer: a signal has stopped it; `kill -CONT {shim}` lets it go on"
            )
        })
    }

    /// Little room where things are written, before anything fails for it. Looked at here, as above.
    fn little_space(&self) -> Option<String> {
        let database_dir = self.database.parent().unwrap_or(Path::new("."));
        [self.runs.runtime_dir(), database_dir].into_iter().find_map(|dir| {
            let stat = rustix::fs::statvfs(dir).ok()?;
            let free_bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
            let path = dir.display();
            if free_bytes < FREE_BYTES_MIN {
                Some(format!("little space is left on the disk: {} KiB are free at {path}", free_bytes / 1024))
            } else if stat.f_files > 0 && stat.f_favail < FREE_FILES_MIN {
                // Where a file system does not count them it says 0 of 0.
                Some(format!("the disk has room for {} more files only, at {path}", stat.f_favail))
            } else {
                None
            }
        })
    }

    /// What every answer carries.
    fn finish(&self, request: Option<&Request>, response: Response) -> Response {
        let mut response = response
            .with_unique_header("X-Content-Type-Options", "nosniff")
            .with_unique_header("X-Frame-Options", "DENY")
            .with_unique_header("Referrer-Policy", "no-referrer");
        if !response.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Cache-Control")) {
            response = response.with_unique_header("Cache-Control", "no-store");
        }
        match request {
            Some(request) => self.guard.open_to_origin(request, response),
            None => response,
        }
    }
}

/// The `Allow` of a path that is known, for any method that it does not take.
fn allowed_methods(segments: &[&str]) -> Option<&'static str> {
    match segments {
        ["api", "pipeline", "start" | "pause" | "resume" | "stop"] => Some("POST, OPTIONS"),
        [""]
        | ["static", _]
        | ["api", "runs", _]
        | ["api", "pipeline" | "runs" | "logs" | "health" | "version"]
        | ["api", "pipeline", "status"]
        | ["api", "logs", "tail"] => Some("GET, HEAD, OPTIONS"),
        _ => None,
    }
}

fn done(published: &Published) -> Response {
    let snapshot = &published.snapshot;
    json(&json!({"ok": true, "state": snapshot.state, "run_id": snapshot.run_id, "version": snapshot.version}))
}

fn version() -> Response {
    json(&json!({
        "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION"), "api": API_VERSION, "schema": schema_version(),
    }))
}

/// A JSON answer.
fn json(value: &impl Serialize) -> Response {
    Response::from_data("application/json", serde_json::to_vec(value).expect("answers are plain data"))
}
