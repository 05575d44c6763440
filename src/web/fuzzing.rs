//! What reads a client's bytes, opened to the fuzzer and to the tests that share its targets (`tests/fuzz`). No part of any release.

#[cfg(all(feature = "fuzzing", not(debug_assertions)))]
compile_error!("the feature `fuzzing` opens what is private: it is for tests and the fuzzer alone, never for a release");

use std::time::Duration;

use rouille::{Request, Response};

use super::error::ApiError;
use super::input;
use super::target::path_of;
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

/// A number from the query of `target`, or the refusal.
pub fn query_number(target: &str, name: &str, at_least: u64, at_most: u64) -> Result<Option<u64>, Response> {
    let request = Request::fake_http("GET", target, Vec::new(), Vec::new());
    input::query_number(&request, name, at_least, at_most).map_err(ApiError::into_response)
}

/// A text from the query of `target`, or the refusal.
pub fn query_text(target: &str, name: &str, bytes_max: usize) -> Result<Option<String>, Response> {
    let request = Request::fake_http("GET", target, Vec::new(), Vec::new());
    input::query_text(&request, name, bytes_max).map_err(ApiError::into_response)
}

/// The path by which `target` is routed.
pub fn route_path(target: &str) -> String {
    path_of(&Request::fake_http("GET", target, Vec::new(), Vec::new())).to_owned()
}
