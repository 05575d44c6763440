//! What the fuzzer runs: one function a target, bytes in, a panic where a property does not hold.
//!
//! `tests/corpora.rs` runs the same functions over the inputs in `../corpus` on stable Rust. A target is a file here with a `run`, a row in
//! [`ALL`], a line in `../fuzz_targets`, a `[[bin]]` in `../Cargo.toml`, a folder of seeds, and the archive beside it that `../run.sh keep` makes;
//! that test fails where one of them is missing.

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

/// A target: takes bytes and panics where they break a property.
pub type Target = fn(&[u8]);

/// Every target by its name.
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
