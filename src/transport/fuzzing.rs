//! The parsers of a client's bytes, public for the fuzzer and for the tests that share its targets (`tests/fuzz`). Not part of
//! any release.

#[cfg(all(feature = "fuzzing", not(debug_assertions)))]
compile_error!("the feature `fuzzing` opens what is private: it is for tests and the fuzzer alone, never for a release");

pub use super::body::Chunks;
pub use super::head::{FIELDS_MAX, Framing, HEAD_BYTES_MAX, Head, TARGET_BYTES_MAX, parse};
