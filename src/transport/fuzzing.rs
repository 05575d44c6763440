//! What reads a client's bytes, opened to the fuzzer and to the tests that share its targets (`tests/fuzz`). No part of any release.

#[cfg(all(feature = "fuzzing", not(debug_assertions)))]
compile_error!("the feature `fuzzing` opens what is private: it is for tests and the fuzzer alone, never for a release");

pub use super::body::Chunks;
pub use super::head::{FIELDS_MAX, Framing, HEAD_BYTES_MAX, Head, TARGET_BYTES_MAX, parse};
