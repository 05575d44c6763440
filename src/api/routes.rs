//! The one table of routes. The router, `Allow`, the access checks, the client commands and the list in `docs/api-contracts.md`
//! are derived from it.

use super::events::EventsQuery;
use super::health::HealthResponse;
use super::logs::{LogSearchQuery, LogSearchResponse, LogTextQuery, LogsQuery, LogsResponse, TailQuery};
use super::pipeline::{
    ActionRequest, ActionResponse, EmptyRequest, PipelineQuery, PipelineResponse, StartRequest, StatusResponse, StopRequest,
};
use super::query::{self, Key, NoQuery, Query};
use super::runs::{RunResponse, RunStartResponse, RunsQuery, RunsResponse, UsageResponse};
use super::scripts::{ScriptsQuery, ScriptsResponse};
use super::session::{
    EndSessionsRequest, EndSessionsResponse, LoginRequest, LoginResponse, OkResponse, PairRequest, PairResponse, SessionResponse,
    SessionsResponse,
};
use super::version::{VersionQuery, VersionResponse};
use crate::pipeline::words;

words! {
    /// A method of a route. HEAD works as GET without a body, and OPTIONS is answered from this table.
    Method {
        /// Reads, and changes nothing.
        Get = "GET",
        /// Performs an action.
        Post = "POST",
    }
}

/// The access that a route requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// No token.
    Anyone,
    /// A token or a session of either role.
    Viewer,
    /// A token or a session of the operator.
    Operator,
}

/// How long a response can be, in bytes and in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// A few KiB, sent at once.
    Short,
    /// Can wait for a change before it is sent.
    Waits,
    /// Up to some MiB. Two such responses are made at a time.
    Long,
    /// Without a limit: it is sent while it is read.
    Stream,
}

/// The description of a route.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The method.
    pub method: Method,
    /// The path, with at most one parameter: `/api/runs/<id>/log`.
    pub path: &'static str,
    /// The access that the route requires.
    pub access: Access,
    /// How long its response can be.
    pub length: Length,
    /// The keys of its query; `None` if the query is ignored.
    pub keys: Option<&'static [Key]>,
    /// The type of its body; empty if the body is ignored.
    pub request: &'static str,
    /// The type of its response.
    pub response: &'static str,
    /// A sentence about what the route does.
    pub summary: &'static str,
}

impl Spec {
    /// Returns the parts of the path before and after its parameter; `None` if the path has no parameter.
    fn around(&self) -> Option<(&'static str, &'static str)> {
        let (before, rest) = self.path.split_once('<')?;
        Some((before, rest.split_once('>')?.1))
    }
}

// Names for responses that are not JSON.
struct PageFile;
struct Text;
struct EventStream;

/// Declares the routes: an enum, and the [`Spec`] of each route. `any` as the query and `none` as the body mean that it is
/// ignored.
macro_rules! routes {
    (@keys any) => { None };
    (@keys $query:ident) => { Some(<$query as Query>::KEYS) };
    (@type none) => { "" };
    (@type $type:ident) => {{
        const _: usize = size_of::<$type>();
        stringify!($type)
    }};
    ($(
        $route:ident: $method:ident $path:literal $access:ident, $query:tt, $body:tt => $response:ident $length:ident, $summary:literal;
    )+) => {
        /// A route. Code that must handle every route matches on this exhaustively.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Route { $(#[doc = $summary] $route),+ }

        impl Route {
            /// Every route.
            pub const ALL: &[Self] = &[$(Self::$route),+];

            /// Returns the description of the route.
            pub const fn spec(self) -> &'static Spec {
                match self {
                    $(Self::$route => &Spec {
                        method: Method::$method,
                        path: $path,
                        access: Access::$access,
                        length: Length::$length,
                        keys: routes!(@keys $query),
                        request: routes!(@type $body),
                        response: routes!(@type $response),
                        summary: $summary,
                    },)+
                }
            }
        }
    };
}

// The most frequent requests come first, because a lookup goes from the first row to the last.
routes! {
    Pipeline: Get "/api/pipeline" Viewer, PipelineQuery, none => PipelineResponse Waits, "The state; with `after`, once it has changed";
    Status: Get "/api/pipeline/status" Viewer, NoQuery, none => StatusResponse Short, "A summary of the state";
    Start: Post "/api/pipeline/start" Operator, NoQuery, StartRequest => ActionResponse Waits, "Begins a run";
    Pause: Post "/api/pipeline/pause" Operator, NoQuery, ActionRequest => ActionResponse Waits, "Pauses every process of the run";
    Resume: Post "/api/pipeline/resume" Operator, NoQuery, ActionRequest => ActionResponse Waits, "Continues a paused run";
    Stop: Post "/api/pipeline/stop" Operator, NoQuery, StopRequest => ActionResponse Waits, "Ends the run";
    Logs: Get "/api/logs" Viewer, LogsQuery, none => LogsResponse Waits, "Lines of a log from a position or a time on; with `wait`, once there are new ones";
    LogTail: Get "/api/logs/tail" Viewer, TailQuery, none => LogsResponse Long, "The last lines of a log";
    Events: Get "/api/events" Viewer, EventsQuery, none => EventStream Stream, "A live stream of events";
    Runs: Get "/api/runs" Viewer, RunsQuery, none => RunsResponse Long, "The history, newest run first";
    Run: Get "/api/runs/<id>" Viewer, NoQuery, none => RunResponse Long, "One run, with its events and its progress";
    RunStart: Get "/api/runs/<id>/start" Operator, NoQuery, none => RunStartResponse Long, "The parameters of one run's start, to repeat it";
    RunUsage: Get "/api/runs/<id>/usage" Viewer, NoQuery, none => UsageResponse Long, "The CPU time and memory of one run over time";
    RunLog: Get "/api/runs/<id>/log" Viewer, LogTextQuery, none => Text Stream, "The log of one run as text";
    Scripts: Get "/api/pipeline/scripts" Operator, ScriptsQuery, none => ScriptsResponse Long, "The scripts that can be started";
    RunLogSearch: Get "/api/runs/<id>/log/search" Viewer, LogSearchQuery, none => LogSearchResponse Long, "The lines of one run's log that contain a text or match an expression";
    Health: Get "/api/health" Anyone, NoQuery, none => HealthResponse Short, "The server's health; without a token only its status";
    Version: Get "/api/version" Anyone, VersionQuery, none => VersionResponse Short, "The server's identity, for viewers; with `challenge`, a proof, for all clients";
    Session: Get "/api/session" Viewer, NoQuery, none => SessionResponse Short, "The client's role, and until when it is valid";
    Login: Post "/api/login" Anyone, NoQuery, LoginRequest => LoginResponse Short, "Begins a session with a token or a one-time code";
    Logout: Post "/api/logout" Anyone, NoQuery, EmptyRequest => OkResponse Short, "Ends the session of the client";
    Sessions: Get "/api/sessions" Operator, NoQuery, none => SessionsResponse Short, "The sessions and one-time codes";
    EndSessions: Post "/api/sessions/end" Operator, NoQuery, EndSessionsRequest => EndSessionsResponse Short, "Ends a session, or all of them";
    Pair: Post "/api/pair" Operator, NoQuery, PairRequest => PairResponse Short, "Creates a one-time code for a login";
    Index: Get "/" Anyone, any, none => PageFile Short, "The status page";
    PageFile: Get "/static/<name>" Anyone, any, none => PageFile Short, "A file of the status page";
}

/// The result of looking up a method and a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'p> {
    /// A route, with the value of its parameter. The value is empty if the route has no parameter.
    Route(Route, &'p str),
    /// A path that does not take this method: the first route at this path, with the value of its parameter.
    OtherMethod(Route, &'p str),
    /// No route.
    Nothing,
}

/// Finds the route of a request. The path is compared as it was sent, because no path of the table needs an escape.
pub fn find<'p>(method: &str, path: &'p str) -> Found<'p> {
    let method = if method == "HEAD" { Some(Method::Get) } else { method.parse().ok() };
    let mut at_path = None;
    for route in Route::ALL.iter().copied() {
        if let Some(parameter) = route.parameter_in(path) {
            if Some(route.spec().method) == method {
                return Found::Route(route, parameter);
            }
            at_path = at_path.or(Some(Found::OtherMethod(route, parameter)));
        }
    }
    at_path.unwrap_or(Found::Nothing)
}

/// Returns the methods of the routes that `is_wanted` selects, in the form of `Allow`.
fn methods(is_wanted: impl Fn(Route) -> bool) -> String {
    let mut names = Vec::new();
    for &method in Method::ALL {
        if Route::ALL.iter().any(|&route| is_wanted(route) && route.spec().method == method) {
            names.push(method.as_str());
            names.extend((method == Method::Get).then_some("HEAD"));
        }
    }
    names.push("OPTIONS");
    names.join(", ")
}

/// Returns every method that some path takes, in the form of `Allow`.
pub fn all_methods() -> String {
    methods(|_| true)
}

impl Route {
    /// Returns the methods that the path of this route takes, in the form of `Allow`.
    pub fn allow(self) -> String {
        methods(|other| other.spec().path == self.spec().path)
    }

    /// Returns the value of the parameter if `path` belongs to this route. The value is empty if the route has no parameter.
    fn parameter_in(self, path: &str) -> Option<&str> {
        let spec = self.spec();
        match spec.around() {
            None => (spec.path == path).then_some(""),
            Some((before, behind)) => {
                path.strip_prefix(before)?.strip_suffix(behind).filter(|parameter| !parameter.contains('/'))
            }
        }
    }

    /// Returns the path of a route that has no parameter, without a query.
    pub fn path(self) -> String {
        self.url("", &NoQuery {})
    }

    /// Returns the path with this parameter and this query. The parameter is not escaped: no existing parameter needs it.
    pub fn url(self, parameter: &str, query: &impl Query) -> String {
        let spec = self.spec();
        let mut path = match spec.around() {
            None => spec.path.to_owned(),
            Some((before, behind)) => format!("{before}{parameter}{behind}"),
        };
        query::write(&mut path, query);
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_found_by_its_method_and_path() {
        for route in Route::ALL.iter().copied() {
            let (spec, path) = (route.spec(), route.url("7", &NoQuery {}));
            let parameter = if spec.path.contains('<') { "7" } else { "" };
            assert_eq!(find(spec.method.as_str(), &path), Found::Route(route, parameter), "{path}");
            assert_eq!(find("BREW", &path), Found::OtherMethod(route, parameter), "{path}");
            assert_eq!(find(&spec.method.as_str().to_lowercase(), &path), Found::OtherMethod(route, parameter), "{path}");
            assert!(spec.path.starts_with('/') && spec.path.matches('<').count() <= 1, "{path}");
            assert_eq!(!spec.request.is_empty(), spec.method != Method::Get, "{path} acts only by what it is sent");
            // Viewers must see neither the addresses of other clients nor the values of a start's variables, which can be
            // secrets. They do not need a list of scripts that they cannot start.
            let is_for_operators = match spec.method {
                Method::Get => matches!(route, Route::Sessions | Route::RunStart | Route::Scripts),
                Method::Post => spec.access != Access::Anyone,
            };
            assert_eq!(spec.access == Access::Operator, is_for_operators, "{path}");
        }
        assert_eq!(find("HEAD", "/api/runs/7"), Found::Route(Route::Run, "7"));
    }

    #[test]
    fn unknown_paths_match_no_route() {
        for path in [
            "",
            "*",
            "/api",
            "/api/",
            "/api/pipeline/",
            "//api/pipeline",
            "/API/pipeline",
            "api/pipeline",
            "/api/runs/7/",
            "/api/runs/7/log/",
            "/api/runs/7/8/log",
            "/static",
            "/static/a/b",
            "/index.html",
        ] {
            assert_eq!(find("GET", path), Found::Nothing, "{path}");
        }
        assert_eq!(find("GET", "/api/runs/"), Found::Route(Route::Run, ""));
        assert_eq!(find("GET", "/api/runs/log"), Found::Route(Route::Run, "log"));
        assert_eq!(find("GET", "/api/runs//log"), Found::Route(Route::RunLog, ""));
        assert_eq!(find("GET", "/api/runs/7/log/search"), Found::Route(Route::RunLogSearch, "7"));
    }

    #[test]
    fn allow_names_the_methods_of_a_path() {
        assert_eq!(Route::Pipeline.allow(), "GET, HEAD, OPTIONS");
        assert_eq!(Route::Start.allow(), "POST, OPTIONS");
        assert_eq!(all_methods(), "GET, HEAD, POST, OPTIONS");
    }

    #[test]
    fn url_has_the_parameter_and_the_query() {
        assert_eq!(Route::Pipeline.path(), "/api/pipeline");
        assert_eq!(Route::RunLog.url("7", &NoQuery {}), "/api/runs/7/log");
        assert_eq!(Route::Runs.url("", &RunsQuery { limit: Some(20), ..RunsQuery::default() }), "/api/runs?limit=20");
    }
}
