//! HTTP: the sockets, who may ask, the routes, the endpoints, the page.
//!
//! Level 3. [`App`] is the one seam: rouille's `Request` in, its `Response` out. No endpoint holds a lock across I/O, none picks a
//! status code for an error, and none knows a rule of the life cycle.

mod accept;
mod body;
mod connection;
mod error;
mod etag;
mod events;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod head;
mod held;
mod input;
mod keys;
mod listener;
mod log_text;
mod log_watch;
mod logs;
mod own_socket;
mod page;
mod range;
mod seats;
mod server;
mod session;
mod terms;
mod throttle;
mod workers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rouille::{Request, Response, ResponseBody};
use serde::Serialize;
use serde_json::json;

use crate::health::Inspector;
use crate::log::RunLogs;
use crate::pipeline::{ConditionCode, Progress};
use crate::run_dir::{self, Runs};
use crate::server_info::ServerIdentity;
use crate::store::{Reader, RunRow, schema_version};
use crate::supervisor::{Ask, Handle, Published};

use error::ApiError;
use events::Begin;
pub use events::Streams;
pub use guard::{Door, Guard};
pub use head::{BODY_BYTES_MAX, Broken};
pub use held::Answers;
pub use keys::Keys;
use keys::{May, Visitor};
pub use listener::Listener;
pub use own_socket::OwnSocket;
pub use server::{Client, Entrance, Handler, Probe, Server};

/// The version of the HTTP contract.
const API_VERSION: u32 = 1;

/// The longest wait of a long poll, and the one where none is named, in seconds.
const WAIT_S_MAX: u64 = 60;
const WAIT_S_DEFAULT: u64 = 30;
/// The longest wait if no thread can be created for the client. Not zero: a client that asks again at once would keep the thread from others.
const WAIT_LENT_MAX: Duration = Duration::from_secs(1);

/// The most runs of one answer, and how many where no number is named.
const RUNS_MAX: u64 = 500;
const RUNS_DEFAULT: u64 = 50;

/// More than most pages of a log take, in bytes.
const LONG_BYTES: usize = 2 * 1024 * 1024;

/// Who answers, in health.
const SERVICE: &str = "autoappdev-backend";
/// The request field with the id of the intended server.
const MEANT_FOR: &str = "AutoAppDev-Server";
/// What every answer carries, where its endpoint has not said something else.
const EVERY_ANSWER: [(&str, &str); 5] = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    // No page of another origin gets it as an image, a script or a frame.
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
];

/// All that the endpoints need, and how they are reached by one door. Each door has its own.
#[derive(Clone, Debug)]
pub struct App {
    /// The identity of this server.
    pub identity: Arc<ServerIdentity>,
    /// The life cycle.
    pub supervisor: Handle,
    /// Where the runs are.
    pub runs: Runs,
    /// What they said.
    pub logs: RunLogs,
    /// The database, for history.
    pub database: PathBuf,
    /// Which pages and names may ask.
    pub guard: Guard,
    /// What opens this door; `None` where it asks for nothing.
    pub keys: Option<Arc<Keys>>,
    /// Checks for problems on request.
    pub inspector: Inspector,
    /// Who streams, at whatever listener.
    pub streams: Arc<Streams>,
    /// What was answered at length and is not read yet.
    pub answers: Arc<Answers>,
    /// Whose turn it is to ask whether all is well. Strangers may: they neither wait for those above nor keep them waiting.
    pub checks: Arc<Answers>,
}

impl Handler for App {
    fn handle(&self, request: &Request) -> Response {
        self.handle_for(request, &Client::PATIENT)
    }

    fn handle_for(&self, request: &Request, client: &Client<'_>) -> Response {
        let checked = self.guard.check(request).and_then(|()| self.check_meant(request));
        let routed = checked.and_then(|()| self.route(request, client));
        self.finish(Some(request), routed.unwrap_or_else(ApiError::into_response))
    }

    fn hurry(&self) {
        self.supervisor.watch().hurry();
    }

    fn refuse(&self, broken: &Broken, request: Option<&Request>) -> Response {
        self.finish(request, ApiError::from(broken.clone()).into_response())
    }
}

impl App {
    /// Refuses a request for another server. Before the token check: the other server's token does not count as a wrong try here.
    fn check_meant(&self, request: &Request) -> Result<(), ApiError> {
        match request.header(MEANT_FOR) {
            Some(id) if id != self.identity.id => Err(ApiError::OtherServer),
            Some(_) | None => Ok(()),
        }
    }

    fn route(&self, request: &Request, client: &Client<'_>) -> Result<Response, ApiError> {
        let path = path_of(request);
        let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
        // HEAD is GET without a body, which the connection leaves out.
        let method = if request.method() == "HEAD" { "GET" } else { request.method() };
        match (method, segments.as_slice()) {
            // What a page needs before anybody has logged in, and preflights, which carry no token: nothing here tells a secret.
            ("GET", [""]) => page::index(request).map(|page| self.renew(request, page)).ok_or(ApiError::NotFound),
            ("GET", ["static", name]) => page::file(request, name).ok_or(ApiError::NotFound),
            ("POST", ["api", "login"]) => self.log_in(request),
            ("POST", ["api", "logout"]) => {
                input::empty_request(request)?;
                Ok(self.log_out())
            }
            // A monitor or a load balancer has no token, and whether somebody serves here can be seen anyway.
            ("GET", ["api", "health"]) => self.health(request),
            ("OPTIONS", ["*"]) => Ok(self.guard.preflight(request, guard::METHODS)),
            ("OPTIONS", path) => {
                allowed_methods(path).map(|allow| self.guard.preflight(request, allow)).ok_or(ApiError::NotFound)
            }
            // Everything else of the API, what is not there too, is for who may come in.
            (_, ["api", ..]) => {
                let visitor = self.visitor(request)?;
                self.route_api(request, method, &segments, visitor, client)
            }
            (_, path) => Err(no_such(path)),
        }
    }

    fn route_api(
        &self,
        request: &Request,
        method: &str,
        segments: &[&str],
        visitor: Visitor,
        client: &Client<'_>,
    ) -> Result<Response, ApiError> {
        if visitor.may == May::Look && !guard::changes_nothing(request) {
            return Err(ApiError::ReadOnly);
        }
        match (method, segments) {
            ("GET", ["api", "session"]) => Ok(self.session(visitor)),
            ("GET", ["api", "pipeline"]) => self.pipeline(request, client),
            ("GET", ["api", "pipeline", "status"]) => Ok(self.status()),
            ("POST", ["api", "pipeline", "start"]) => {
                let published = self.act(Ask::Start(input::start_request(request)?))?;
                let snapshot = &published.snapshot;
                Ok(json(&json!({
                    "ok": true, "state": snapshot.state, "pid": snapshot.run_pid, "run_id": snapshot.run_id, "script": snapshot.script,
                    "version": snapshot.version, "conditions": snapshot.conditions,
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
                self.act(Ask::Stop { grace, origin: None }).map(|published| done(&published))
            }
            ("GET", ["api", "events"]) if !client.has_thread() => Err(ApiError::TooManyStreams),
            ("GET", ["api", "events"]) => self.events(request),
            ("GET", ["api", "runs"]) => self.answers.make(|| self.runs(request)),
            ("GET", ["api", "runs", id]) => self.answers.make(|| self.run(id)),
            ("GET", ["api", "runs", id, "log"]) => self.log_text(request, id, client),
            ("GET", ["api", "logs"]) => self.logs(request, client),
            ("GET", ["api", "logs", "tail"]) => self.answers.make(|| self.tail(request)),
            ("GET", ["api", "version"]) => Ok(self.version()),
            (_, path) => Err(no_such(path)),
        }
    }

    /// Who asks. By a door without keys everybody is the owner.
    fn visitor(&self, request: &Request) -> Result<Visitor, ApiError> {
        self.keys.as_ref().map_or(Ok(Visitor::OWNER), |keys| keys.visitor(request))
    }

    fn log_in(&self, request: &Request) -> Result<Response, ApiError> {
        let token = input::login_request(request)?;
        // A link for a phone works where no token is asked for, too.
        let Some(keys) = &self.keys else { return Ok(json(&json!({"ok": true, "may": May::Act.as_str()}))) };
        let (may, cookie) = keys.log_in(request, &token)?;
        Ok(json(&json!({"ok": true, "may": may.as_str()})).with_additional_header("Set-Cookie", cookie))
    }

    fn log_out(&self) -> Response {
        let response = json(&json!({"ok": true}));
        match &self.keys {
            Some(keys) => response.with_additional_header("Set-Cookie", keys.log_out()),
            None => response,
        }
    }

    /// A page that is opened now and then stays logged in.
    fn renew(&self, request: &Request, page: Response) -> Response {
        let renewed = self.keys.as_ref().and_then(|keys| keys.session(request).and_then(|session| keys.renewed(session)));
        match renewed {
            // A cache in between may keep a page, and must not hand somebody's log-in to the next one who asks.
            Some(cookie) => page.with_additional_header("Set-Cookie", cookie).with_unique_header("Cache-Control", "no-store"),
            None => page,
        }
    }

    fn session(&self, visitor: Visitor) -> Response {
        json(&json!({"session": {
            "may": visitor.may.as_str(),
            "token_needed": self.keys.is_some(),
            "expires_at": visitor.session.map(|session| session.expires_at),
        }}))
    }

    fn act(&self, ask: Ask) -> Result<Arc<Published>, ApiError> {
        Ok(self.supervisor.act(ask)?)
    }

    fn pipeline(&self, request: &Request, client: &Client<'_>) -> Result<Response, ApiError> {
        let after = input::query_number(request, "after", 0, u64::MAX)?;
        let wait = input::query_number(request, "wait", 0, WAIT_S_MAX)?.unwrap_or(WAIT_S_DEFAULT);
        let watch = self.supervisor.watch();
        self.inspector.refresh();
        let now = watch.get();
        let published = match after {
            // A version that is not reached yet is one of another database: that client needs to see this one at once.
            Some(after) if after == now.snapshot.version => {
                client.idle(|| watch.wait_newer(after, wait_for(wait, client), &|| client.gives_way()))
            }
            Some(_) | None => now,
        };
        // The one answer that is asked for all the time: put together at once, in a list that has room for what every answer carries.
        let mut headers = Vec::with_capacity(2 + EVERY_ANSWER.len());
        headers.push(("Content-Type".into(), "application/json".into()));
        let data = ResponseBody::from_data(published.body.as_str());
        let response = Response { status_code: 200, headers, data, upgrade: None };
        Ok(etag::with_tag(response, request, &published.etag))
    }

    fn events(&self, request: &Request) -> Result<Response, ApiError> {
        let since = input::query_number(request, "since", 0, u64::MAX)?;
        // A browser sends it when it comes back; what it says then counts more than what its page once asked for.
        let begin = match request.header("Last-Event-ID") {
            Some(id) => id.parse().map(Begin::Behind).map_err(|()| {
                ApiError::BadQuery("Last-Event-ID is no id of an event from here; leave it out to begin now".to_owned())
            })?,
            None => since.map_or(Begin::Now, Begin::Log),
        };
        let stream = self.streams.open(begin)?.ok_or(ApiError::TooManyStreams)?;
        let response = Response::from_data("text/event-stream", Vec::new()).with_unique_header("X-Accel-Buffering", "no");
        Ok(Response { data: ResponseBody::from_reader(stream), ..response })
    }

    fn version(&self) -> Response {
        json(&json!({
            "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION"), "api": API_VERSION, "schema": schema_version(),
            "server": &*self.identity,
        }))
    }

    fn status(&self) -> Response {
        let published = self.supervisor.watch().get();
        let snapshot = &published.snapshot;
        json(&json!({"status": {
            "running": snapshot.pid.is_some(), "pid": snapshot.pid, "run_id": snapshot.run_id, "state": snapshot.status,
        }}))
    }

    fn runs(&self, request: &Request) -> Result<Response, ApiError> {
        #[derive(Serialize)]
        struct Runs<R> {
            runs: R,
            next_before: Option<i64>,
        }
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
        Ok(self.answers.json(long_bytes(&Runs { runs, next_before })))
    }

    fn run(&self, id: &str) -> Result<Response, ApiError> {
        #[derive(Serialize)]
        struct Whole<R, E> {
            #[serde(flatten)]
            run: R,
            progress: Option<Progress>,
            events: E,
        }
        let number = id.parse::<i64>().ok().filter(|_| id.bytes().all(|byte| byte.is_ascii_digit()));
        let found = match number {
            Some(number) => Reader::open(&self.database)?.run(number)?,
            None => None,
        };
        let (run, events) = found.ok_or_else(|| ApiError::NoSuchRun(id.to_owned()))?;
        let progress = self.progress(&run);
        Ok(json(&json!({"run": Whole { run, progress, events }})))
    }

    /// How far a run is or came: the latest one's is known, of the others there is what their shims stored.
    fn progress(&self, run: &RunRow) -> Option<Progress> {
        let published = self.supervisor.watch().get();
        // Between the commit of its end and the publication only its shim has said how that left it: it stored that before.
        let is_published = run.status.is_live() || published.snapshot.run_ended_at.is_some();
        if published.snapshot.run_id == Some(run.id) && is_published {
            return published.snapshot.progress.clone();
        }
        let stored = run_dir::read_progress(&self.runs.run(run.id).progress_path()).unwrap_or_else(|error| {
            ::log::warn!("run {}: how far it came is not known: failed to {error}", run.id);
            None
        });
        let ended_at = run.stopped_at.filter(|_| !run.status.is_live());
        stored.map(|told| told.progress.shown(ended_at))
    }

    /// Strangers are told whether it serves, not what is wrong: that names paths.
    fn health(&self, request: &Request) -> Result<Response, ApiError> {
        let is_known = match self.visitor(request) {
            Ok(_) => true,
            Err(ApiError::TokenNeeded) => false,
            Err(error) => return Err(error),
        };
        self.inspector.look();
        let published = self.supervisor.watch().get();
        let conditions = &published.snapshot.conditions;
        let time = self.checks.make(|| Ok(Reader::open(&self.database).and_then(|reader| reader.time())))?;
        if let Err(error) = &time {
            ::log::error!("failed to {error}");
        }
        let time = time.ok();
        // The database now at its path is not the one that the server writes to.
        let is_replaced = conditions.list().iter().any(|condition| condition.code == ConditionCode::DatabaseReplaced);
        let is_ok = time.is_some() && !is_replaced;
        let health = if is_known {
            json!({
                "ok": is_ok, "service": SERVICE, "db": {"ok": is_ok, "time": time.filter(|_| is_ok)},
                "degraded": conditions.sentence(), "conditions": conditions,
            })
        } else {
            json!({"ok": is_ok, "service": SERVICE})
        };
        Ok(json(&health).with_status_code(if is_ok { 200 } else { 503 }))
    }

    /// What every answer carries.
    fn finish(&self, request: Option<&Request>, response: Response) -> Response {
        let mut response = response;
        let headers = &mut response.headers;
        headers.reserve(EVERY_ANSWER.len());
        for (name, value) in EVERY_ANSWER {
            if !headers.iter().any(|(there, _)| there.eq_ignore_ascii_case(name)) {
                headers.push((name.into(), value.into()));
            }
        }
        match request {
            Some(request) => self.guard.open_to_origin(request, response),
            None => response,
        }
    }
}

/// How long a request may wait that asks for this many seconds: less if other connections wait for the thread that serves it.
fn wait_for(wait_s: u64, client: &Client<'_>) -> Duration {
    let limit = if client.has_thread() { Duration::MAX } else { WAIT_LENT_MAX };
    Duration::from_secs(wait_s).min(limit)
}

/// The path that is asked for, as it was sent: no path here needs an escape, and one that hides a slash is not what somebody in front of
/// us took it for.
fn path_of(request: &Request) -> &str {
    let target = request.raw_url();
    target.split_once('?').map_or(target, |(path, _)| path)
}

/// The `Allow` of a path that is known, for any method that it does not take.
fn allowed_methods(segments: &[&str]) -> Option<&'static str> {
    match segments {
        ["api", "login" | "logout"] | ["api", "pipeline", "start" | "pause" | "resume" | "stop"] => Some("POST, OPTIONS"),
        ["static", name] => page::has_file(name).then_some("GET, HEAD, OPTIONS"),
        [""]
        | ["api", "runs", _]
        | ["api", "runs", _, "log"]
        | ["api", "pipeline" | "runs" | "logs" | "events" | "health" | "version" | "session"]
        | ["api", "pipeline", "status"]
        | ["api", "logs", "tail"] => Some("GET, HEAD, OPTIONS"),
        _ => None,
    }
}

/// Why there is nothing for this method at this path.
fn no_such(segments: &[&str]) -> ApiError {
    allowed_methods(segments).map_or(ApiError::NotFound, ApiError::MethodNotAllowed)
}

fn done(published: &Published) -> Response {
    let snapshot = &published.snapshot;
    json(&json!({
        "ok": true, "state": snapshot.state, "run_id": snapshot.run_id, "version": snapshot.version, "conditions": snapshot.conditions,
    }))
}

/// A JSON answer.
fn json(value: &impl Serialize) -> Response {
    Response::from_data("application/json", bytes(value))
}

fn bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("answers are plain data")
}

/// The same for what can be long, written in one piece, which the kernel gets back whole. What is not used of it is not there.
fn long_bytes(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LONG_BYTES);
    serde_json::to_writer(&mut bytes, value).expect("answers are plain data");
    bytes
}

#[cfg(test)]
mod tests;
