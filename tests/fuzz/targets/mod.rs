//! The targets of the fuzzer: each is a function that takes bytes and panics if a property does not hold.
//!
//! `tests/corpora.rs` runs the same functions over the inputs in `../corpus` on stable Rust. A target consists of a file here
//! with a `run`, a row in [`ALL`], a line in `../fuzz_targets`, a `[[bin]]` in `../Cargo.toml`, a folder of seeds, and the
//! archive beside it that `../run.sh keep` creates. That test fails if one of them is missing.

pub mod body;
pub mod connection;
mod cut;
pub mod dotenv;
pub mod head;
pub mod input;
pub mod journal;
pub mod log;
pub mod progress;
pub mod protocol;
pub mod query;
mod scratch;
pub mod strict;

/// A target. It takes bytes and panics if they break a property.
pub type Target = fn(&[u8]);

/// Every target with its name.
pub const ALL: [(&str, Target); 10] = [
    ("body", body::run),
    ("connection", connection::run),
    ("dotenv", dotenv::run),
    ("head", head::run),
    ("input", input::run),
    ("journal", journal::run),
    ("log", log::run),
    ("progress", progress::run),
    ("protocol", protocol::run),
    ("query", query::run),
];
