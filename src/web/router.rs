//! The router: checks a request, calls its endpoint, and completes the answer.

use rouille::{Request, Response};

use super::app::App;
use super::auth::{Caller, Role};
use super::error::ApiError;
use super::target::path_of;
use super::{common_fields, guard, input, page};
use crate::transport::{Broken, Client, Handler};

/// The request field with the id of the intended server.
const MEANT_FOR: &str = "AutoAppDev-Server";
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
        self.streams.hurry();
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
                let caller = self.caller(request)?;
                self.route_api(request, method, &segments, caller, client)
            }
            (_, path) => Err(no_such(path)),
        }
    }

    fn route_api(
        &self,
        request: &Request,
        method: &str,
        segments: &[&str],
        caller: Caller,
        client: &Client<'_>,
    ) -> Result<Response, ApiError> {
        if caller.role == Role::Viewer && !guard::changes_nothing(request) {
            return Err(ApiError::ReadOnly);
        }
        match (method, segments) {
            ("GET", ["api", "session"]) => Ok(self.session(caller)),
            ("GET", ["api", "pipeline"]) => self.pipeline(request, client),
            ("GET", ["api", "pipeline", "status"]) => Ok(self.status()),
            ("POST", ["api", "pipeline", "start"]) => self.start(request, client),
            ("POST", ["api", "pipeline", "pause"]) => self.pause(request, client),
            ("POST", ["api", "pipeline", "resume"]) => self.resume(request, client),
            ("POST", ["api", "pipeline", "stop"]) => self.stop(request, client),
            ("GET", ["api", "events"]) if !client.has_thread() => Err(ApiError::TooManyStreams),
            ("GET", ["api", "events"]) => self.events(request),
            ("GET", ["api", "runs"]) => self.budget.make(|| self.runs(request)),
            ("GET", ["api", "runs", id]) => self.budget.make(|| self.run(id)),
            ("GET", ["api", "runs", id, "log"]) => self.log_text(request, id),
            ("GET", ["api", "logs"]) => self.logs(request, client),
            ("GET", ["api", "logs", "tail"]) => self.budget.make(|| self.tail(request)),
            ("GET", ["api", "version"]) => Ok(self.version()),
            (_, path) => Err(no_such(path)),
        }
    }

    /// What every answer carries.
    fn finish(&self, request: Option<&Request>, response: Response) -> Response {
        let mut response = response;
        common_fields::add(&mut response);
        match request {
            Some(request) => self.guard.open_to_origin(request, response),
            None => response,
        }
    }
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
    allowed_methods(segments).map_or(ApiError::NotFound, |allow| ApiError::MethodNotAllowed(allow.to_owned()))
}
