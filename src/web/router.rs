//! The router: checks a request, calls its endpoint, and completes the response.

use std::sync::Arc;

use rouille::{Request, Response};

use super::app::App;
use super::auth::{Caller, Session};
use super::error::ApiError;
use super::while_logged_in::End;
use super::{common_fields, guard, input, page, while_logged_in};
use crate::api::query::NoQuery;
use crate::api::routes::{self, Access, Found, Length, Route};
use crate::pipeline::Action;
use crate::transport::{Broken, Client, Handler};

/// The header field with the id of the server that the request is meant for.
const SERVER_ID_FIELD: &str = "AutoAppDev-Server";

impl Handler for App {
    fn handle(&self, request: &Request, client: &Client<'_>) -> Response {
        let checked = self.guard.check(request).and_then(|()| self.check_server_id(request));
        let routed = checked.and_then(|()| self.route(request, client));
        self.finish(Some(request), routed.unwrap_or_else(ApiError::into_response))
    }

    fn takes_cookie(&self, cookie: &[u8]) -> bool {
        self.authenticator.takes_cookie(cookie)
    }

    /// Refuses a long body, unless an operator sends it to a route for operators. No other request needs one, and strangers could
    /// use up the memory for bodies.
    fn refuse_long_body(&self, request: &Request, client: &Client<'_>) -> Option<Response> {
        let checked = self.guard.check(request).and_then(|()| self.check_server_id(request));
        let admitted = checked.and_then(|()| match routes::find(request.method(), guard::path_of(request)) {
            Found::Route(route, _) if route.spec().access == Access::Operator => self.operator(request, client).map(drop),
            Found::Route(..) | Found::OtherMethod(..) | Found::Nothing => Err(Broken::LongBody.into()),
        });
        admitted.err().map(|error| self.finish(Some(request), error.into_response()))
    }

    fn hurry(&self) {
        self.supervisor.watch().hurry();
        self.streams.hurry();
        self.budget.hurry();
        self.health_budget.hurry();
        self.script_budget.hurry();
        self.authenticator.hurry();
    }

    fn refuse(&self, broken: &Broken, request: Option<&Request>) -> Response {
        self.finish(request, ApiError::from(broken.clone()).into_response())
    }
}

impl App {
    /// Refuses a request for another server. This comes before the token check, so that the other server's token does not count
    /// as a wrong try here.
    fn check_server_id(&self, request: &Request) -> Result<(), ApiError> {
        match request.header(SERVER_ID_FIELD) {
            Some(id) if id != self.identity.id => Err(ApiError::OtherServer),
            Some(_) | None => Ok(()),
        }
    }

    fn route(&self, request: &Request, client: &Client<'_>) -> Result<Response, ApiError> {
        let (method, path) = (request.method(), guard::path_of(request));
        let allow = match routes::find(method, path) {
            Found::Route(route, parameter) => {
                let caller = match route.spec().access {
                    Access::Anyone => None,
                    Access::Viewer if route == Route::RunLog => Some(self.caller_by(request, client, link_proof(request))?),
                    Access::Viewer => Some(self.caller(request, client)?),
                    Access::Operator => Some(self.operator(request, client)?),
                };
                let session = caller.as_ref().and_then(|caller| caller.session.clone());
                let response = self.answer(route, parameter, request, caller, client)?;
                return match session {
                    Some(session) => self.while_logged_in(route, request, response, session),
                    None => Ok(response),
                };
            }
            // Of the paths with a parameter, only those of the page's files can be checked without a query to the database.
            Found::OtherMethod(route, name) => (route != Route::PageFile || page::has_file(name)).then(|| route.allow()),
            Found::Nothing => None,
        };
        if method == "OPTIONS" {
            // A preflight carries no token, and its response contains no secret.
            let allow = if path == "*" { Some(routes::all_methods()) } else { allow };
            return allow.map(|allow| self.guard.preflight(request, allow)).ok_or(ApiError::NotFound);
        }
        // Only callers with access to the API learn that a path does not exist.
        if guard::is_of_api(path) {
            let _let_in =
                if guard::changes_nothing(request) { self.caller(request, client) } else { self.operator(request, client) }?;
        }
        Err(allow.map_or(ApiError::NotFound, ApiError::MethodNotAllowed))
    }

    /// Returns a response only while the session that requested it lasts. The session is checked when the response is ready,
    /// which ends a long poll too, and during a stream. The response to a completed action is always returned.
    fn while_logged_in(
        &self,
        route: Route,
        request: &Request,
        response: Response,
        session: Arc<Session>,
    ) -> Result<Response, ApiError> {
        if guard::changes_nothing(request) && self.authenticator.is_over(&session) {
            return Err(ApiError::TokenNeeded);
        }
        if route.spec().length != Length::Stream {
            return Ok(response);
        }
        let end = if route == Route::Events { End::Clean } else { End::Broken };
        Ok(while_logged_in::limit(response, self.authenticator.clone(), session, end))
    }

    /// Calls the endpoint of a route. A new route does not compile without one.
    fn answer(
        &self,
        route: Route,
        parameter: &str,
        request: &Request,
        caller: Option<Caller>,
        client: &Client<'_>,
    ) -> Result<Response, ApiError> {
        if route.spec().keys.is_some_and(<[_]>::is_empty) {
            let NoQuery {} = input::query(request)?;
        }
        match route {
            Route::Pipeline => self.pipeline(request, caller.as_ref(), client),
            Route::Status => Ok(self.status()),
            Route::Start => self.act(Action::Start, request, client),
            Route::Pause => self.act(Action::Pause, request, client),
            Route::Resume => self.act(Action::Resume, request, client),
            Route::Stop => self.act(Action::Stop, request, client),
            Route::Logs => self.logs(request, caller.as_ref(), client),
            Route::LogTail => self.budget.make(client, || self.tail(request)),
            Route::Events => self.events(request, client),
            Route::Runs => self.budget.make(client, || self.runs(request)),
            Route::Run => self.budget.make(client, || self.run(request, parameter)),
            Route::RunStart => self.budget.make(client, || self.run_start(parameter)),
            Route::RunUsage => self.budget.make(client, || self.run_usage(request, parameter)),
            Route::RunLog => self.log_text(request, parameter, client),
            Route::Scripts => self.script_budget.make(client, || self.scripts(request)),
            Route::RunLogSearch => self.budget.make(client, || self.search_log(request, parameter)),
            Route::Health => self.health(request, client),
            Route::Session => self.session(request, caller, self.trusts(request, client)),
            Route::Version => self.version(request, client),
            Route::Login => self.log_in(request, client),
            Route::Logout => self.log_out(request),
            Route::Sessions => Ok(self.sessions(caller.as_ref())),
            Route::EndSessions => self.end_sessions(request),
            Route::Pair => self.pair(request, caller),
            Route::Index => page::file(request, "index.html").ok_or(ApiError::NotFound),
            Route::PageFile => page::file(request, parameter).ok_or(ApiError::NotFound),
        }
    }

    /// Adds what every response has.
    fn finish(&self, request: Option<&Request>, mut response: Response) -> Response {
        common_fields::add(&mut response);
        match request {
            Some(request) => self.guard.open_to_origin(request, response),
            None => response,
        }
    }
}

/// Returns the proof of a session in the query of a link. It is hexadecimal, so it needs no unescaping.
fn link_proof(request: &Request) -> Option<&str> {
    request.raw_query_string().split('&').find_map(|pair| pair.strip_prefix("proof="))
}
