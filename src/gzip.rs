//! Packing with gzip in one piece.
//!
//! Level 0. For data that is in memory as a whole; the log's segments are packed in frames (`log/packed.rs`).

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

/// Packs data that is sent once. A higher level takes several times as long and saves only a few bytes.
pub fn pack_fast(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes what is written to it")
}
