//! The parsers of a client's bytes, public for the fuzzer and for the tests that share its targets (`tests/fuzz`). Not part of
//! any release.

#[cfg(all(feature = "fuzzing", not(debug_assertions)))]
compile_error!("the feature `fuzzing` opens what is private: it is for tests and the fuzzer alone, never for a release");

use rouille::{Request, Response};

use super::error::ApiError;
use super::guard::path_of;
use super::input;
use crate::api::logs::LogsQuery;
use crate::pipeline::Action;
use crate::supervisor::Ask;

/// Returns what a client requests with this action and body, or the refusal.
pub fn ask(action: Action, body: &[u8]) -> Result<Ask, Response> {
    let no_run = |run_id: i64| Err(ApiError::NoSuchRun(run_id.to_string()));
    input::ask(action, body, no_run).map(|(ask, _)| ask).map_err(ApiError::into_response)
}

/// Parses the query of `target` as that of a page of a log.
pub fn logs_query(target: &str) -> Result<LogsQuery, Response> {
    let request = Request::fake_http("GET", target, Vec::new(), Vec::new());
    input::query(&request).map_err(ApiError::into_response)
}

/// Returns the path by which `target` is routed.
pub fn route_path(target: &str) -> String {
    path_of(&Request::fake_http("GET", target, Vec::new(), Vec::new())).to_owned()
}
