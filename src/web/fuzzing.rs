//! What reads a client's bytes, opened to the fuzzer and to the tests that share its targets (`tests/fuzz`). No part of any release.

#[cfg(all(feature = "fuzzing", not(debug_assertions)))]
compile_error!("the feature `fuzzing` opens what is private: it is for tests and the fuzzer alone, never for a release");

use std::time::Duration;

use rouille::{Request, Response};

use super::error::ApiError;
use super::input;
use super::target::path_of;
use crate::api::logs::LogsQuery;
use crate::supervisor::StartRequest;

fn request_with(body: &[u8]) -> Request {
    Request::fake_http("POST", "/", Vec::new(), body.to_vec())
}

/// The body of a start, or the refusal.
pub fn start_request(body: &[u8]) -> Result<StartRequest, Response> {
    input::start_request(&request_with(body)).map_err(ApiError::into_response)
}

/// The body of a stop, or the refusal.
pub fn stop_request(body: &[u8]) -> Result<Option<Duration>, Response> {
    input::stop_request(&request_with(body)).map_err(ApiError::into_response)
}

/// The body of an action that says nothing, or the refusal.
pub fn empty_request(body: &[u8]) -> Result<(), Response> {
    input::empty_request(&request_with(body)).map_err(ApiError::into_response)
}

/// The query of `target`, read as that of a page of a log.
pub fn logs_query(target: &str) -> Result<LogsQuery, Response> {
    let request = Request::fake_http("GET", target, Vec::new(), Vec::new());
    input::query(&request).map_err(ApiError::into_response)
}

/// The path by which `target` is routed.
pub fn route_path(target: &str) -> String {
    path_of(&Request::fake_http("GET", target, Vec::new(), Vec::new())).to_owned()
}
