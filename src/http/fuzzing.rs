//! What reads a client's bytes, opened to the fuzzer and to the tests that share its targets (`tests/fuzz`). No part of any release.

#[cfg(all(feature = "fuzzing", not(debug_assertions)))]
compile_error!("the feature `fuzzing` opens what is private: it is for tests and the fuzzer alone, never for a release");

use std::time::Duration;

use rouille::{Request, Response};

use super::head::{self, Broken, Framing};
use super::{body, input};
use crate::supervisor::StartRequest;

/// The longest head, in bytes.
pub const HEAD_BYTES_MAX: usize = head::HEAD_BYTES_MAX;
/// The most header fields.
pub const FIELDS_MAX: usize = head::FIELDS_MAX;
/// The longest request target, in bytes.
pub const TARGET_BYTES_MAX: usize = head::TARGET_BYTES_MAX;

/// How a body's end is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// After so many bytes.
    Length(usize),
    /// By chunked transfer coding.
    Chunked,
}

/// A head as the connection sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadHead {
    /// How many bytes it took.
    pub length: usize,
    /// The method.
    pub method: String,
    /// The target as it is routed.
    pub target: String,
    /// The fields in order.
    pub fields: Vec<(String, String)>,
    /// How its body ends, or why none is read.
    pub body: Result<BodyEnd, Broken>,
    /// Whether the client waits for a 100.
    pub expects_continue: bool,
    /// Whether the connection goes on.
    pub keep_alive: bool,
    /// Whether it is of HTTP/1.0.
    pub is_http_1_0: bool,
}

/// Takes a head off the front of `bytes`; `Ok(None)` while it is not all there.
pub fn read_head(bytes: &[u8]) -> Result<Option<ReadHead>, Broken> {
    let read = head::parse(bytes)?;
    Ok(read.map(|(length, head)| ReadHead {
        length,
        method: head.method,
        target: head.target,
        fields: head.fields,
        body: head.framing.map(|framing| match framing {
            Framing::Length(length) => BodyEnd::Length(length),
            Framing::Chunked => BodyEnd::Chunked,
        }),
        expects_continue: head.expects_continue,
        keep_alive: head.keep_alive,
        is_http_1_0: head.is_http_1_0,
    }))
}

/// The decoder of a chunked body.
#[derive(Debug)]
pub struct Chunks(body::Chunks);

impl Default for Chunks {
    fn default() -> Self {
        Self(body::Chunks::new())
    }
}

impl Chunks {
    /// Takes what it can off the front of `bytes`: how many those are, and whether the body is whole.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(usize, bool), Broken> {
        self.0.take(bytes)
    }

    /// What the chunks carried.
    pub fn into_body(self) -> Vec<u8> {
        self.0.into_body()
    }
}

fn request_with(body: &[u8]) -> Request {
    Request::fake_http("POST", "/", Vec::new(), body.to_vec())
}

/// The body of a start, or the refusal.
pub fn start_request(body: &[u8]) -> Result<StartRequest, Response> {
    input::start_request(&request_with(body)).map_err(super::error::ApiError::into_response)
}

/// The body of a stop, or the refusal.
pub fn stop_request(body: &[u8]) -> Result<Option<Duration>, Response> {
    input::stop_request(&request_with(body)).map_err(super::error::ApiError::into_response)
}

/// The body of an action that says nothing, or the refusal.
pub fn empty_request(body: &[u8]) -> Result<(), Response> {
    input::empty_request(&request_with(body)).map_err(super::error::ApiError::into_response)
}

/// A number from the query of `target`, or the refusal.
pub fn query_number(target: &str, name: &str, at_least: u64, at_most: u64) -> Result<Option<u64>, Response> {
    let request = Request::fake_http("GET", target, Vec::new(), Vec::new());
    input::query_number(&request, name, at_least, at_most).map_err(super::error::ApiError::into_response)
}

/// A text from the query of `target`, or the refusal.
pub fn query_text(target: &str, name: &str, bytes_max: usize) -> Result<Option<String>, Response> {
    let request = Request::fake_http("GET", target, Vec::new(), Vec::new());
    input::query_text(&request, name, bytes_max).map_err(super::error::ApiError::into_response)
}

/// The one range that a request with this `Range` gets of `len` bytes: all where it is none, nothing where there is nothing of it.
pub fn byte_range(range: &str, len: u64) -> Option<std::ops::Range<u64>> {
    let request = Request::fake_http("GET", "/", vec![("Range".to_owned(), range.to_owned())], Vec::new());
    super::range::asked(&request, "").map_or(Some(0..len), |asked| asked.within(len))
}

/// The path by which `target` is routed.
pub fn route_path(target: &str) -> String {
    super::path_of(&Request::fake_http("GET", target, Vec::new(), Vec::new())).to_owned()
}
