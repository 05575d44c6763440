//! What reads a client's bytes, opened to the fuzzer and to the tests that share its targets (`tests/fuzz`). No part of any release.

#[cfg(all(feature = "fuzzing", not(debug_assertions)))]
compile_error!("the feature `fuzzing` opens what is private: it is for tests and the fuzzer alone, never for a release");

use super::body;
use super::head::{self, Broken, Framing};

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
